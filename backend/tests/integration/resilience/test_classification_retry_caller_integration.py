"""Classification × retry × fallback to the caller: what each error leads to, and what the caller can tell."""

import asyncio
import errno
import gc
import operator
import pickle
import traceback
import weakref
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from backend.tests.integration.resilience._driver import Compose, Driver, Mode
from backend.tests.integration.resilience._make import BUSY, Busy, Make
from holdfast.infrastructure.resilience.classify import (
    PERMANENT,
    TRANSIENT,
    Classifier,
    Verdict,
    register_classifier,
    retry_after,
)
from holdfast.infrastructure.resilience.errors import CallRejectedError, CircuitOpenError, TimeoutExceeded
from holdfast.infrastructure.resilience.events import CallbackFailed
from holdfast.infrastructure.resilience.window import Window, WindowCounts
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, Step, fail, hang, succeed
from holdfast.testing.recorder import EventRecorder

WIDE = Window.calls(100)


class StatusError(Exception):
    """What a client raises for an HTTP status, as many libraries write it."""

    def __init__(self, status: int, retry_after: object = None) -> None:
        super().__init__(status, retry_after)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True)
class Frozen(ConnectionError):
    """An error that refuses every new attribute, a note among them."""

    code: int


class PaymentError(Exception):
    """An error of the library `payments`."""

    __module__ = "payments.errors"


def answered(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://localhost/")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (ConnectionError(), 3),
        (ConnectionResetError(), 3),
        (TimeoutError(), 3),
        (TimeoutExceeded(1.0), 3),
        (OSError(errno.ECONNREFUSED, ""), 3),
        (OSError(errno.ENOENT, ""), 1),
        (StatusError(503), 3),
        (StatusError(429, retry_after=2), 3),
        (StatusError(404), 1),
        (httpx.ConnectError(""), 3),
        (answered(502), 3),
        (answered(400), 1),
        (CircuitOpenError("elsewhere", 1.0), 1),
        (ValueError(), 1),
        (TypeError(), 1),
        (KeyError(), 1),
        (AssertionError(), 1),
        (ExceptionGroup("", [ConnectionError()]), 1),
        (Exception(), 1),
    ],
    ids=repr,
)
def test_the_default_table_decides(driver: Driver, make: Make, error: Exception, calls: int) -> None:
    """What passes is retried and counts against the dependency, what stays does neither; either way it comes out."""
    breaker, script = make.breaker(window=WIDE), Script(fail(error))
    outcomes = driver.outcomes(1, driver.decorate(make.pipeline(make.retry(3), breaker), script))
    assert outcomes == [error]
    assert script.calls == calls
    failures = calls if calls > 1 else 0
    assert breaker.counts == WindowCounts(failures, failures, 0)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), asyncio.CancelledError()], ids=repr
)
def test_exits_pass_at_once(driver: Driver, make: Make, compose: Compose, error: BaseException) -> None:
    """What is no `Exception` is not retried, does not count, gets no note, and is not for a fallback to see."""
    breaker, script = make.breaker(window=WIDE), Script(fail(error))

    async def call() -> str:
        try:
            return str(await driver.ask(function))
        except Exception:
            return "fallback"
        except BaseException as exited:
            return type(exited).__name__

    function = compose(make.retry(3, on=(Exception,)), breaker, source=script)
    assert driver.run(call) == type(error).__name__
    assert (script.calls, breaker.counts) == (1, WindowCounts(0, 0, 0))
    assert not hasattr(error, "__notes__")


def test_a_permanent_first_error_is_untouched(driver: Driver, make: Make, compose: Compose) -> None:
    """An error that was never retried comes out as the very object, without note, cause or context."""
    error = ValueError("no such account")
    (outcome,) = driver.outcomes(1, compose(make.retry(3), make.breaker(), source=Script(fail(error))))
    assert outcome is error
    assert (outcome.__cause__, outcome.__context__, hasattr(outcome, "__notes__")) == (None, None, False)


def test_the_last_error_comes_out(driver: Driver, make: Make, compose: Compose) -> None:
    """Of several errors the last one is raised; none of the others hangs on it."""
    errors = [ConnectionError(number) for number in range(3)]
    (outcome,) = driver.outcomes(1, compose(make.retry(3), source=Script(*map(fail, errors))))
    assert outcome is errors[2]
    assert outcome.__context__ is None
    assert [len(getattr(error, "__notes__", ())) for error in errors] == [0, 0, 1]


def test_a_permanent_error_after_retries_says_so(driver: Driver, make: Make, compose: Compose) -> None:
    """A permanent error at attempt 2 is final, and its note tells the caller that there was an attempt before."""
    (outcome,) = driver.outcomes(1, compose(make.retry(5), source=Script(fail(), fail(ValueError))))
    assert type(outcome) is ValueError
    note = (
        "holdfast: caller gave up after 2 attempts, 1 s after the first failure: the error is not retryable"
    )
    assert outcome.__notes__ == [note]


def test_the_functions_own_chain_is_kept(driver: Driver, make: Make, compose: Compose) -> None:
    """What the function itself chained to its error is still there, and the traceback ends in the function."""
    cause = KeyError("host")

    async def lookup() -> None:
        raise ConnectionError from cause

    (outcome,) = driver.outcomes(1, compose(make.retry(2), make.breaker(), source=lookup))
    assert outcome.__cause__ is cause
    assert traceback.extract_tb(outcome.__traceback__)[-1].name == "lookup"
    assert "holdfast: caller gave up after 2 attempts" in "".join(traceback.format_exception(outcome))


def test_every_retry_on_the_way_leaves_its_note(driver: Driver, make: Make) -> None:
    """An error that passes two retries has a note of each, the inner one's first."""
    script = Script(fail())
    inner = driver.decorate(make.retry(2, name="inner"), script)

    async def outer() -> None:
        await driver.ask(inner)

    (outcome,) = driver.outcomes(1, driver.decorate(make.retry(2, name="outer"), outer))
    assert [note.split()[1] for note in outcome.__notes__] == ["inner", "outer"]
    assert script.calls == 4


def test_one_error_object_does_not_gather_notes(driver: Driver, make: Make) -> None:
    """A function that raises the same object for ever does not make it grow for ever."""
    error = ConnectionError()
    driver.outcomes(50, driver.decorate(make.retry(2, wait=0.0), Script(fail(error))))
    assert len(error.__notes__) == 8


def test_an_error_that_takes_no_note_comes_out_without(driver: Driver, make: Make, compose: Compose) -> None:
    """An error whose class forbids new attributes is retried and raised like any other."""
    script = Script(fail(Frozen(7)))
    outcomes = driver.outcomes(1, compose(make.retry(3), source=script))
    assert outcomes == [Frozen(7)]
    assert script.calls == 3


@pytest.mark.parametrize("kinds", [(503, 503), (None,), (503, 404)], ids=["failed", "timed out", "permanent"])
def test_what_comes_out_can_be_sent_elsewhere(
    driver: Driver, make: Make, kinds: tuple[int | None, ...]
) -> None:
    """The error survives pickling with its facts and its note, so that a worker can hand it to its parent."""
    script = Script(*(hang() if status is None else fail(StatusError(status, 0)) for status in kinds))
    (outcome,) = driver.outcomes(1, driver.decorate(make.pipeline(make.retry(2), make.punctual(2.0)), script))
    assert type(outcome) is (TimeoutExceeded if kinds == (None,) else StatusError)
    copy = pickle.loads(pickle.dumps(outcome))
    assert (type(copy), copy.args, copy.__dict__) == (type(outcome), outcome.args, outcome.__dict__)
    assert len(copy.__notes__) == 1


def test_a_rejection_can_be_sent_elsewhere(driver: Driver, make: Make) -> None:
    """A rejection survives pickling with the name, the state and the time when to come back."""
    breaker = make.breaker(1)
    outcomes = driver.outcomes(2, driver.decorate(breaker, Script(fail())))
    copy = pickle.loads(pickle.dumps(outcomes[1]))
    assert (copy.name, copy.retry_after, copy.state) == ("dependency", 5.0, breaker.state)


def fall_back(error: Exception) -> tuple[str, float | None]:
    """Decide as a caller does, by type and facts alone."""
    match error:
        case CallRejectedError():
            return "not sent", error.retry_after
        case TimeoutExceeded():
            return "perhaps done", None
        case ConnectionError() | Busy():
            return "failed", retry_after(error)
        case _:
            return "ours to mend", None


@pytest.mark.parametrize(
    ("step", "decision", "calls"),
    [
        (hang(), ("perhaps done", None), 2),
        (fail(), ("failed", None), 2),
        (fail(Busy(30.0)), ("failed", 30.0), 1),
        (fail(TypeError), ("ours to mend", None), 1),
    ],
    ids=["hang", "fail", "busy", "bug"],
)
def test_the_caller_can_tell_what_happened(
    driver: Driver, make: Make, step: Step, decision: tuple[str, float], calls: int
) -> None:
    """By what comes out, a caller knows whether to wait, to go elsewhere, to check or to mend the program."""
    script, stack = Script(step), (make.retry(2, deadline=20.0, on=BUSY), make.breaker(), make.punctual(2.0))
    (outcome,) = driver.outcomes(1, driver.decorate(make.pipeline(*stack), script))
    assert fall_back(outcome) == decision
    assert script.calls == calls


def test_a_rejected_first_attempt_was_not_sent(driver: Driver, make: Make, compose: Compose) -> None:
    """A rejection without a note means that nothing was sent; one with a note, that earlier attempts were."""
    breaker, script = make.breaker(2), Script(fail())
    call = compose(make.retry(5), breaker, source=script)
    tripped, refused = driver.outcomes(2, call)
    assert (fall_back(tripped), fall_back(refused)) == (("not sent", 4.0), ("not sent", 4.0))
    assert "after 3 attempts" in tripped.__notes__[0]
    assert not hasattr(refused, "__notes__")
    assert script.calls == 2


def test_the_last_refused_result_is_the_callers(driver: Driver, make: Make, compose: Compose) -> None:
    """When every result is refused the caller gets the last one as it is, to make of it what it can."""
    pages: list[list[int]] = [[], [], []]
    script = Script(*map(succeed, pages))
    assert driver.call(compose(make.retry(3, result=operator.not_), source=script)) is pages[2]
    assert script.calls == 3


def test_one_table_for_retry_and_breaker(driver: Driver, make: Make, compose: Compose) -> None:
    """A table of the user's decides alike for both, the most specific type first, the default table last."""
    mine = Classifier(transient=(ValueError,), permanent=(ConnectionResetError,))
    breaker = make.breaker(window=WIDE, on=mine)
    script = Script(fail(ValueError), fail(ConnectionError), fail(ConnectionResetError))
    (outcome,) = driver.outcomes(1, compose(make.retry(9, on=mine), breaker, source=script))
    assert type(outcome) is ConnectionResetError
    assert (script.calls, breaker.counts) == (3, WindowCounts(2, 2, 0))


def test_retry_and_breaker_may_disagree(driver: Driver, make: Make, compose: Compose) -> None:
    """Each policy has its own table: what is not retried may still count as a failure, and the reverse."""
    breaker = make.breaker(window=WIDE, on=(ValueError,))
    script = Script(fail(ConnectionError), fail(ValueError))
    (outcome,) = driver.outcomes(1, compose(make.retry(9), breaker, source=script))
    assert type(outcome) is ValueError
    assert breaker.counts == WindowCounts(1, 1, 0)


@contextmanager
def judging(library: str, classifier: Callable[[Exception], Verdict | None]) -> Generator[None]:
    undo = register_classifier(library, classifier)
    try:
        yield
    finally:
        undo()


def test_a_librarys_classifier_counts_everywhere_until_undone(driver: Driver, make: Make) -> None:
    """Once registered, a classifier decides for policies made before it and after it, retry and breaker alike."""
    breaker, script = make.breaker(window=WIDE), Script(fail(PaymentError))
    call = driver.decorate(make.pipeline(make.retry(3), breaker), script)
    driver.outcomes(1, call)
    with judging("payments", lambda error: TRANSIENT if error.args == () else PERMANENT):
        driver.outcomes(1, call)
    driver.outcomes(1, call)
    assert (script.calls, breaker.counts) == (1 + 3 + 1, WindowCounts(3, 3, 0))


def broken(error: Exception) -> bool:
    raise RuntimeError("a bug in the predicate")


def test_a_predicate_that_raises_replaces_nothing(
    driver: Driver, make: Make, compose: Compose, event_recorder: EventRecorder
) -> None:
    """The caller gets the function's error, unretried; the breaker counts a failure; both bugs are reported."""
    breaker, error = make.breaker(window=WIDE, on=broken), ConnectionError()
    (outcome,) = driver.outcomes(1, compose(make.retry(3, on=broken), breaker, source=Script(fail(error))))
    assert outcome is error
    assert breaker.counts == WindowCounts(1, 1, 0)
    reported = [(event.name, type(event.error)) for event in event_recorder.of(CallbackFailed)]
    assert reported == [("dependency", RuntimeError), ("caller", RuntimeError)]


def test_a_fallback_in_the_function_is_a_success(driver: Driver, make: Make, compose: Compose) -> None:
    """A fallback inside the retry hides the failure from retry and breaker; outside, both have done their work."""
    inner, outer = Script(fail()), Script(fail())
    breaker = make.breaker(window=WIDE)
    play_inner = driver.function(inner)

    async def hiding() -> Any:
        return await driver.outcome(play_inner)

    hidden = driver.outcomes(1, compose(make.retry(3), breaker, source=hiding))
    seen = driver.outcomes(1, compose(make.retry(3), breaker, source=outer))
    assert [type(outcome) for outcome in (*hidden, *seen)] == [ConnectionError] * 2
    assert (inner.calls, outer.calls) == (1, 3)
    assert breaker.counts == WindowCounts(4, 3, 0)


class Held:
    """Something that a function holds while it fails."""


async def caught(call: Awaitable[None]) -> None:
    with suppress(ConnectionError, ValueError):
        await call


@pytest.mark.parametrize("kept", ["nothing", "a budget", "a callback", "a name"])
def test_an_error_that_is_final_at_once_leaves_nothing_to_collect(
    mode: Mode, virtual_clock: VirtualClock, make: Make, kept: str
) -> None:
    """What is not retried is gone when its error is handled: no frame keeps itself by the error's traceback."""
    settings: dict[str, Any] = {"a budget": {"budget": make.budget()}, "a callback": {"after": str}}
    policy = make.pipeline(make.retry(**settings.get(kept, {})), name="db" if kept == "a name" else None)
    held: list[weakref.ref[Held]] = []

    def fails() -> None:
        one = Held()
        held.append(weakref.ref(one))
        raise ValueError

    async def fails_later() -> None:
        fails()

    call, call_later = policy(fails), policy(fails_later)
    gc.collect()
    gc.disable()
    try:
        try:
            call() if mode == "sync" else virtual_clock.run(caught(call_later()))
        except ValueError:
            pass
        alive = [one() for one in held]
    finally:
        gc.enable()
    assert alive == [None]
