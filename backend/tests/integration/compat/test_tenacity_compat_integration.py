"""Seam: code written for tenacity × `holdfast.compat.tenacity`; each rule is shown of tenacity and of holdfast."""

import asyncio
import functools
import gc
import inspect
import logging
import pickle
import random
import re
import threading
import weakref
from collections import Counter
from pathlib import Path
from typing import Any, assert_type, cast

import pytest
import tenacity

from backend.tests.integration.compat._libraries import Retries, script
from backend.tests.integration.resilience._driver import Driver
from backend.tests.integration.resilience._race import race
from holdfast.compat import tenacity as compat
from holdfast.infrastructure.resilience.deadline import deadline_after
from holdfast.infrastructure.resilience.events import RetryGaveUp, RetryScheduled
from holdfast.infrastructure.resilience.retry import current_attempt
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, succeed
from holdfast.testing.recorder import EventRecorder

three = tenacity.stop_after_attempt(3)
PAGE = Path(__file__).parents[4] / "docs" / "guides" / "migration.md"
FIGURES = {"start_time", "attempt_number", "idle_for", "delay_since_first_attempt"}


class Refused(Exception):
    """An error of a user's own."""


def number(rs: tenacity.RetryCallState) -> int:
    """Return the attempt's number; the parameter is not called as strategies' usually are."""
    return rs.attempt_number


def is_third(rs: tenacity.RetryCallState) -> bool:
    """Stop after three attempts."""
    return rs.attempt_number == 3


def fails_or_gives_one(rs: tenacity.RetryCallState) -> bool:
    """Judge errors and results."""
    outcome: Any = rs.outcome
    return bool(outcome.failed or outcome.result() == 1)


def refuse_all(rs: tenacity.RetryCallState) -> None:
    """Raise, for a callback that must not be called."""
    raise Refused


def quiet(rs: tenacity.RetryCallState) -> None:
    """End a loop without an error."""


# What it does when it is given nothing


@pytest.mark.parametrize("form", ["@retry", "@retry()"])
def test_the_default_is_every_exception_at_once_for_ever(retries: Retries, form: str) -> None:
    """`@retry` and `@retry()` retry whatever is an Exception, without waiting, until it succeeds."""
    failing = Script(*[fail(TypeError)] * 20, succeed("at last"))
    fn = retries.driver.function(failing)
    decorated = retries.module.retry()(fn) if form == "@retry()" else retries.module.retry(fn)
    assert retries.outcome(decorated, 1, b=2) == "at last"
    assert failing.calls == 21
    assert set(map(str, failing.arguments)) == {"((1,), {'b': 2})"}
    assert retries.driver.clock.elapsed == 0


def test_a_success_is_called_once(retries: Retries) -> None:
    """What succeeds at once is called once, and waits for nothing."""
    source = script("S")
    assert retries.outcome(retries.retry(source, wait=tenacity.wait_fixed(3))) == "ok"
    assert (source.calls, retries.slept) == (1, [])


# How it ends


def test_giving_up_raises_retry_error(retries: Retries) -> None:
    """When `stop` says so, RetryError says how the last attempt ended, and is caused by its error."""
    source = script("FXF")
    error = retries.outcome(retries.retry(source, stop=three))
    assert type(error) is tenacity.RetryError
    assert (error.last_attempt.attempt_number, error.last_attempt.failed) == (3, True)
    assert isinstance(error.last_attempt.exception(), ConnectionError)
    assert error.__cause__ is error.last_attempt.exception()
    assert re.fullmatch(r"RetryError\[<Future at \w+ state=finished raised ConnectionError>\]", str(error))
    assert source.calls == 3


def test_reraise_raises_the_last_error(retries: Retries) -> None:
    """With `reraise` the last error itself comes out, caused by nothing."""
    last = Refused("last")
    error = retries.outcome(retries.retry(Script(fail(), fail(), fail(last)), stop=three, reraise=True))
    assert error is last
    assert (error.__cause__, error.__context__) == (None, None)


def test_an_error_that_is_not_retried_passes(retries: Retries) -> None:
    """An error that `retry` does not want comes out as it is, whatever `reraise` says."""
    source = script("FFX")
    fn = retries.retry(source, retry=tenacity.retry_if_exception_type(ConnectionError), stop=three)
    error = retries.outcome(fn)
    assert (type(error), error.__cause__, source.calls) == (ValueError, None, 3)


def test_try_again_asks_for_another_attempt(retries: Retries) -> None:
    """TryAgain is retried though `retry` says never, and ends as RetryError."""
    source = Script(fail(tenacity.TryAgain), succeed(), fail(tenacity.TryAgain))
    fn = retries.retry(source, retry=tenacity.retry_never, stop=three)
    assert retries.outcome(fn) == "ok"
    error = retries.outcome(fn)
    assert isinstance(error, tenacity.RetryError)
    assert isinstance(error.last_attempt.exception(), tenacity.TryAgain)


def test_reraise_raises_what_led_to_try_again(retries: Retries) -> None:
    """With `reraise`, TryAgain from an `except` block gives way to the error it was raised for."""

    async def again() -> None:
        try:
            raise Refused
        except Refused:
            raise tenacity.TryAgain from None

    assert type(retries.outcome(retries.retry(again, stop=three, reraise=True))) is Refused


def test_a_result_that_stays_refused_ends_as_retry_error(retries: Retries) -> None:
    """Where the last result is still refused, RetryError holds it, with `reraise` as well."""
    for reraise in (False, True):
        settings = {"retry": tenacity.retry_if_result(lambda found: found < 9), "reraise": reraise}
        error = retries.outcome(retries.retry(Script(succeed(1), succeed(2)), stop=three, **settings))
        assert isinstance(error, tenacity.RetryError)
        assert (error.last_attempt.failed, error.last_attempt.result(), error.__cause__) == (False, 2, None)


def test_a_result_that_is_accepted_is_returned(retries: Retries) -> None:
    """Results and errors can be judged together; the first one that is neither is returned."""
    unwanted = tenacity.retry_if_result(lambda found: found is None) | tenacity.retry_if_exception_type()
    source = Script(succeed(None), fail(), succeed(None), succeed(7))
    assert retries.outcome(retries.retry(source, retry=unwanted)) == 7
    assert source.calls == 4


def test_retry_error_callback_has_the_last_word(retries: Retries) -> None:
    """What `retry_error_callback` returns is the result of a call that would have raised RetryError."""
    fn = retries.retry(script("F"), stop=three, retry_error_callback=number)
    assert retries.outcome(fn) == 3


def test_retry_error_callback_may_raise(retries: Retries) -> None:
    """What `retry_error_callback` raises comes out."""

    def refuse(state: tenacity.RetryCallState) -> None:
        raise Refused(state.attempt_number)

    error = retries.outcome(retries.retry(script("F"), stop=three, retry_error_callback=refuse))
    assert (type(error), error.args) == (Refused, (3,))


def test_retry_error_callback_is_not_asked_otherwise(retries: Retries) -> None:
    """A success, and an error that is not retried, do not concern `retry_error_callback`."""
    asked: list[Any] = []
    given = {
        "retry": tenacity.retry_if_exception_type(ConnectionError),
        "retry_error_callback": asked.append,
    }
    assert retries.outcome(retries.retry(script("FS"), stop=three, **given)) == "ok"
    assert isinstance(retries.outcome(retries.retry(script("FX"), stop=three, **given)), ValueError)
    assert asked == []


def test_retry_error_cls_replaces_retry_error(retries: Retries) -> None:
    """A class of the user's own is raised in place of RetryError."""

    class GaveUp(tenacity.RetryError):
        pass

    error = retries.outcome(retries.retry(script("F"), stop=three, retry_error_cls=GaveUp))
    assert (type(error), error.last_attempt.attempt_number) == (GaveUp, 3)


# Strategies and callbacks


def test_waits_are_asked_of_the_strategy(retries: Retries) -> None:
    """Each `wait` decides on each delay; `sleep` is asked for it."""
    wait = tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(2)) + tenacity.wait_random(0, 1)
    random.seed(7)
    retries.outcome(retries.retry(script("F"), wait=wait, stop=tenacity.stop_after_attempt(5)))
    random.seed(7)
    expected = [first + random.uniform(0, 1) for first in (1, 2, 2, 2)]
    assert retries.slept == pytest.approx(expected)


def test_sleep_is_asked_for_no_time_too(retries: Retries) -> None:
    """Without a wait, `sleep` is called with 0 before each retry, so that it can count them."""
    retries.outcome(retries.retry(script("FFS")))
    assert retries.slept == [0.0, 0.0]


@pytest.mark.parametrize(
    ("stop", "attempts"),
    [
        (tenacity.stop_after_attempt(2) | tenacity.stop_never, 2),
        (tenacity.stop_after_attempt(2) & tenacity.stop_after_attempt(4), 4),
        (tenacity.stop_any(tenacity.stop_after_delay(0), tenacity.stop_never), 1),
        (is_third, 3),
    ],
    ids=["either", "both", "after delay", "function"],
)
def test_stop_decides_on_the_attempts(retries: Retries, stop: Any, attempts: int) -> None:
    """Combined strategies and plain functions of the state, whatever its name, decide when it is enough."""
    source = script("F")
    assert isinstance(retries.outcome(retries.retry(source, stop=stop)), tenacity.RetryError)
    assert source.calls == attempts


def test_retry_may_be_any_function_of_the_state(retries: Retries) -> None:
    """A plain function of the state judges errors and results, whatever its parameter is called."""
    source = Script(fail(), succeed(1), succeed(2))
    fn = retries.retry(source, retry=fails_or_gives_one)
    assert (retries.outcome(fn), source.calls) == (2, 3)


def test_callbacks_see_the_call(retries: Retries) -> None:
    """`before`, `after` and `before_sleep` come in tenacity's order and see tenacity's facts."""
    seen: list[Any] = []

    def look(what: str) -> Any:
        def note(state: tenacity.RetryCallState) -> None:
            failed = None if state.outcome is None else state.outcome.failed
            planned = None if state.next_action is None else state.next_action.sleep
            seen.append((what, state.attempt_number, failed, state.upcoming_sleep, state.idle_for, planned))

        return note

    fn = retries.retry(
        script("FS"),
        wait=tenacity.wait_fixed(2),
        before=look("before"),
        after=look("after"),
        before_sleep=look("before_sleep"),
    )
    assert retries.outcome(fn) == "ok"
    assert seen == [
        ("before", 1, None, 0.0, 0.0, None),
        ("after", 1, True, 0.0, 0.0, None),
        ("before_sleep", 1, True, 2, 2, 2),
        ("before", 2, None, 2, 2, None),
    ]


def test_the_state_knows_function_and_arguments(retries: Retries) -> None:
    """The state names the function, its arguments and the object that retries."""
    seen: list[tenacity.RetryCallState] = []
    fn = retries.driver.function(script("FS"))
    decorated = retries.module.retry(sleep=retries.sleep, before_sleep=seen.append, name="given")(fn)
    retries.outcome(decorated, 1, key=2)
    [state] = seen
    assert (state.fn, state.args, state.kwargs) == (fn, (1,), {"key": 2})
    assert state.get_fn_name() == f"{fn.__module__}.{fn.__qualname__}"
    assert isinstance(state.retry_object, tenacity.BaseRetrying)
    assert str(state.retry_object) == "given"


@pytest.mark.parametrize("what", ["before", "after", "before_sleep", "wait", "stop", "retry", "sleep"])
def test_what_a_callback_raises_comes_out(retries: Retries, what: str) -> None:
    """A strategy, a callback or a `sleep` that raises ends the call with its error."""

    async def refuse(_: object) -> None:
        raise Refused(what)

    source = script("F")
    given = {"stop": three, "sleep": retries.sleep, what: retries.driver.function(refuse)}
    error = retries.outcome(retries.module.retry(**given)(retries.driver.function(source)))
    assert (type(error), error.args) == (Refused, (what,))
    assert source.calls == (0 if what == "before" else 1)


def test_the_loggers_write_the_same(retries: Retries, caplog: pytest.LogCaptureFixture) -> None:
    """Tenacity's logging callbacks write the same lines under both."""
    log = logging.getLogger("test.compat")
    with caplog.at_level(logging.DEBUG, "test.compat"):
        fn = retries.retry(
            script("FS"),
            wait=tenacity.wait_fixed(2),
            before=tenacity.before_log(log, logging.DEBUG),
            after=tenacity.after_log(log, logging.DEBUG),
            before_sleep=tenacity.before_sleep_log(log, logging.DEBUG),
        )
        retries.outcome(fn)
    name = re.escape(f"{fn.__module__}.{fn.__qualname__}")
    patterns = [
        f"Starting call to '{name}', this is the 1st time calling it.",
        rf"Finished call to '{name}' after [0-9.e-]+\(s\), this was the 1st time calling it.*",
        f"Retrying {name} in 2(.0)? seconds as it raised ConnectionError.*",
        f"Starting call to '{name}', this is the 2nd time calling it.",
    ]
    lines = [record.getMessage() for record in caplog.records]
    assert [bool(re.fullmatch(*pair)) for pair in zip(patterns, lines, strict=True)] == [True] * 4, lines


def test_an_event_can_cut_a_wait_short(virtual_clock: VirtualClock) -> None:
    """`sleep_using_event` waits for its event instead of the time."""
    for module in (tenacity, compat):
        over = threading.Event()
        over.set()
        ask: Any = module
        fn = ask.retry(sleep=ask.sleep_using_event(over), wait=ask.wait_fixed(3600))(script("FS").function())
        assert fn() == "ok"


# Figures


def test_statistics_tell_of_the_last_call(retries: Retries) -> None:
    """`fn.statistics` has tenacity's four figures, of the last call, and is empty before the first."""
    fn = retries.retry(script("FFSS"), wait=tenacity.wait_fixed(2))
    assert (dict(fn.statistics), len(fn.statistics)) == ({}, 0)
    retries.outcome(fn)
    assert set(fn.statistics) == FIGURES
    assert (fn.statistics["attempt_number"], fn.statistics["idle_for"]) == (3, 4)
    assert fn.statistics["delay_since_first_attempt"] >= 0
    assert fn.retry.statistics == fn.statistics
    retries.outcome(fn)
    found = dict(fn.statistics)
    assert isinstance(found.pop("start_time"), float)
    assert found == {"attempt_number": 1, "idle_for": 0, "delay_since_first_attempt": 0}


def test_statistics_are_there_while_it_runs(retries: Retries) -> None:
    """The function and the callbacks can ask which attempt this is."""
    seen: list[Any] = []

    async def ask() -> None:
        seen.append(fn.statistics["attempt_number"])
        raise ConnectionError

    def look(state: tenacity.RetryCallState) -> None:
        seen.append((state.retry_object.statistics["attempt_number"], fn.statistics["idle_for"]))

    fn = retries.retry(ask, stop=three, before_sleep=look, wait=tenacity.wait_fixed(1))
    retries.outcome(fn)
    assert seen == [1, (2, 1), 2, (3, 2), 3]


def test_the_time_in_the_statistics_is_of_the_last_failure(retries: Retries) -> None:
    """`delay_since_first_attempt` is from the first attempt to the outcome that was retried last."""
    seen: list[Any] = []

    def look(state: tenacity.RetryCallState) -> None:
        seen.append(state.retry_object.statistics["delay_since_first_attempt"])
        assert seen[-1] == state.seconds_since_start

    unwanted = tenacity.retry_if_result(lambda found: found < 3)
    fn = retries.retry(Script(*(succeed(n, after=0.5) for n in (1, 2, 3))), retry=unwanted, before_sleep=look)
    assert retries.outcome(fn) == 3
    assert len(seen) == 2
    assert fn.statistics["delay_since_first_attempt"] == seen[-1]


def test_statistics_are_seen_through_other_decorators(retries: Retries) -> None:
    """A wrapper that was made by functools.wraps shows the figures of later calls."""
    fn = retries.retry(script("FS"))

    @functools.wraps(fn)
    def outer() -> Any:
        return fn()

    retries.outcome(outer)
    shown: Any = outer
    assert shown.statistics["attempt_number"] == 2


# Changing settings


def test_retry_with_changes_a_copy(retries: Retries) -> None:
    """`fn.retry_with` gives the function with other settings; the function itself keeps its own."""
    source = script("F")
    fn = retries.retry(source, stop=three)
    assert retries.outcome(fn.retry_with(stop=tenacity.stop_after_attempt(5), reraise=True)).args == ()
    assert source.calls == 5
    assert isinstance(retries.outcome(fn), tenacity.RetryError)
    assert source.calls == 8


@pytest.mark.parametrize(
    ("name", "value", "calls", "slept"),
    [
        ("stop", tenacity.stop_after_attempt(1), 1, []),
        ("wait", tenacity.wait_fixed(5), 3, [5.0, 5.0]),
        ("retry", tenacity.retry_never, 1, []),
        ("enabled", False, 1, []),
    ],
)
def test_settings_may_be_assigned(retries: Retries, name: str, value: Any, calls: int, slept: Any) -> None:
    """A setting that is assigned to `fn.retry`, as tests do, holds from the next call on."""
    source = script("F")
    fn = retries.retry(source, stop=three)
    retries.outcome(fn)
    retries.slept.clear()
    before = source.calls
    setattr(fn.retry, name, value)
    retries.outcome(fn)
    assert (source.calls - before, retries.slept) == (calls, slept)


def test_a_copy_keeps_what_is_not_changed(retries: Retries) -> None:
    """`copy` takes the settings over, but for those that are given."""
    first = retries.retrying(stop=three, wait=tenacity.wait_fixed(1), reraise=True, name="first")
    second = first.copy(wait=tenacity.wait_fixed(2), name="second")
    assert (type(second), second.stop, second.reraise, str(second)) == (type(first), three, True, "second")
    retries.outcome(second, retries.driver.function(script("F")))
    assert retries.slept == [2.0, 2.0]
    assert (first.statistics, second.statistics["attempt_number"]) == ({}, 3)


def _ask(source: Script, attempt: Any) -> None:
    source()


def test_disabled_calls_once(retries: Retries) -> None:
    """With `enabled=False` function, call and loop make one attempt, whose error passes."""
    for use in ("decorator", "call", "loop"):
        source = script("F")
        fn = retries.driver.function(source)
        retrying = retries.retrying(enabled=False, before=refuse_all)
        if use == "decorator":
            error = retries.outcome(retrying.wraps(fn))
        elif use == "call":
            error = retries.outcome(retrying, fn)
        else:
            error = retries.loop(retrying, functools.partial(_ask, source))
        assert (type(error), source.calls, retries.slept) == (ConnectionError, 1, [])


def test_objects_can_be_pickled(retries: Retries) -> None:
    """A retrying object travels with its settings; figures stay."""
    retrying = getattr(retries.module, type(retries.retrying()).__name__)(stop=three)
    retries.outcome(retrying, retries.driver.function(script("S")))
    again = pickle.loads(pickle.dumps(retrying))
    source = script("F")
    assert again.statistics == {}
    assert isinstance(retries.outcome(again, retries.driver.function(source)), tenacity.RetryError)
    assert source.calls == 3


# Forms


def test_an_object_calls_a_function(retries: Retries) -> None:
    """`Retrying(...)(fn, *args, **kwargs)` calls with these arguments until it succeeds."""
    source = script("FFS")
    assert retries.outcome(retries.retrying(), retries.driver.function(source), 1, two=3) == "ok"
    assert source.arguments == (((1,), {"two": 3}),) * 3


def test_decoration_keeps_the_function_s_face(retries: Retries) -> None:
    """Name, docstring, signature, defaults, the wrapped function and being async or not stay."""

    async def ask(first: int, *, second: str = "x") -> str:
        """Ask."""
        return second * first

    fn = retries.driver.function(ask)
    decorated = retries.module.retry(sleep=retries.sleep, stop=three)(fn)
    assert (decorated.__name__, decorated.__doc__, decorated.__wrapped__) == ("ask", "Ask.", fn)
    assert (str(inspect.signature(decorated)), decorated.__kwdefaults__) == (
        str(inspect.signature(fn)),
        fn.__kwdefaults__,
    )
    assert inspect.iscoroutinefunction(decorated) == inspect.iscoroutinefunction(fn)
    assert retries.outcome(decorated, 2, second="ab") == "abab"


class Client:
    """Something with methods."""

    def __init__(self) -> None:
        self.calls = 0

    def ask(self, extra: int = 0) -> int:
        """Fail once."""
        self.calls += 1
        if self.calls < 2:
            raise ConnectionError
        return self.calls + extra

    async def aask(self, extra: int = 0) -> int:
        """Fail once."""
        return self.ask(extra)

    __call__ = ask


@pytest.mark.parametrize("kind", ["method", "bound method", "partial", "static method"])
def test_whatever_can_be_called_can_be_decorated(retries: Retries, kind: str) -> None:
    """Methods, bound methods, partials and static methods are retried, async ones too."""
    client, retry = Client(), retries.module.retry
    plain = Client.ask if retries.driver.mode == "sync" else Client.aask
    if kind == "method":
        sub: Any = type("Sub", (Client,), {"call": retry(plain)})
        decorated = sub().call
    elif kind == "static method":
        sub = type("Sub", (), {"call": staticmethod(retry(plain))})
        decorated = functools.partial(sub.call, client)
    elif kind == "partial":
        decorated = retry(functools.partial(plain, client))
    else:
        decorated = retry(plain.__get__(client))
    assert retries.outcome(decorated, extra=5) == 7


def test_objects_and_classes_can_be_decorated() -> None:
    """A callable object and a class, which raises while it is made, are retried as in tenacity."""
    for module in (tenacity, compat):
        ask: Any = module
        assert ask.retry(Client())() == 2
        made = Counter[str]()

        class Fragile:
            def __init__(self, made: Counter[str]) -> None:
                made["tries"] += 1
                if made["tries"] < 3:
                    raise ConnectionError

        assert isinstance(ask.Retrying()(Fragile, made), Fragile)
        assert made["tries"] == 3


def test_an_async_sleep_makes_a_sync_function_async(retries: Retries) -> None:
    """A sync function under an async `sleep` is awaited, and so is one that is given to AsyncRetrying."""

    async def asleep(seconds: float) -> None:
        retries.slept.append(float(seconds))

    async def main() -> list[Any]:
        fn = retries.module.retry(sleep=asleep)(script("FS").function())
        assert inspect.iscoroutinefunction(fn)
        return [await fn(), await retries.module.AsyncRetrying(sleep=asleep)(script("FS").function())]

    assert retries.driver.clock.run(main()) == ["ok", "ok"]
    assert retries.slept == [0.0, 0.0]


def test_async_functions_take_async_callbacks() -> None:
    """Under an async function every strategy and callback may be async, `retry_error_callback` too."""

    def play(module: Any) -> list[Any]:
        seen: list[Any] = []

        def look(what: str, answer: Any = None) -> Any:
            async def note(state: tenacity.RetryCallState) -> Any:
                seen.append((what, state.attempt_number))
                return answer

            return note

        fn = module.retry(
            **{name: look(name) for name in ("before", "after", "before_sleep")},
            retry=look("retry", answer=True),
            wait=look("wait", 0),
            stop=tenacity.stop_after_attempt(2),
            retry_error_callback=look("over", "given up"),
        )(script("F").coroutine_function())
        seen.append(VirtualClock().run(fn()))
        return seen

    assert play(compat) == play(tenacity)
    assert play(compat)[-2:] == [("over", 2), "given up"]


# Loops


def test_a_loop_makes_attempts(retries: Retries) -> None:
    """`for attempt in Retrying(...)` offers blocks until one ends well, with the waits between them."""
    numbers: list[int] = []

    def body(attempt: Any) -> None:
        numbers.append(attempt.retry_state.attempt_number)
        if len(numbers) < 3:
            raise ConnectionError

    retrying = retries.retrying(wait=tenacity.wait_fixed(2))
    assert retries.loop(retrying, body) is None
    assert (numbers, retries.slept) == ([1, 2, 3], [2.0, 2.0])
    assert (retrying.statistics["attempt_number"], retrying.statistics["idle_for"]) == (3, 4)


def test_a_loop_ends_as_a_call_does(retries: Retries) -> None:
    """A loop ends by RetryError, the last error, an error that is not retried, or the callback, quietly."""

    def fails(attempt: Any) -> None:
        raise ConnectionError(attempt.retry_state.attempt_number)

    over: list[int] = []

    def note(rs: tenacity.RetryCallState) -> None:
        over.append(rs.attempt_number)

    error = retries.loop(retries.retrying(stop=three), fails)
    assert (type(error), error.last_attempt.attempt_number) == (tenacity.RetryError, 3)
    error = retries.loop(retries.retrying(stop=three, reraise=True), fails)
    assert (type(error), error.args) == (ConnectionError, (3,))
    error = retries.loop(retries.retrying(retry=tenacity.retry_if_exception_type(KeyError)), fails)
    assert (type(error), error.args) == (ConnectionError, (1,))
    callback = retries.retrying(stop=three, retry_error_callback=note)
    assert (retries.loop(callback, fails), over) == (None, [3])


def test_a_loop_judges_the_result_it_is_given(retries: Retries) -> None:
    """`retry_state.set_result` after the block hands a result to `retry_if_result`."""
    results: list[int] = []

    async def scenario() -> None:
        retrying = retries.retrying(retry=tenacity.retry_if_result(lambda found: found < 3))
        async for attempt in retries.driver.attempts(retrying):
            state: Any = attempt
            with attempt:
                results.append(len(results) + 1)
            if not state.retry_state.outcome.failed:
                state.retry_state.set_result(results[-1])

    assert retries.outcome(retries.driver.function(scenario)) is None
    assert results == [1, 2, 3]


def test_a_block_that_fails_is_left_quietly(retries: Retries) -> None:
    """What stands after the block runs after a failed attempt too, and can look at its outcome."""
    seen: list[bool] = []

    async def scenario() -> None:
        async for attempt in retries.driver.attempts(retries.retrying(stop=three)):
            state: Any = attempt
            with attempt:
                raise ConnectionError
            seen.append(state.retry_state.outcome.failed)

    assert isinstance(retries.outcome(retries.driver.function(scenario)), tenacity.RetryError)
    assert seen == [True] * 3


def test_a_block_that_was_not_entered_is_offered_again(retries: Retries) -> None:
    """An attempt whose block is skipped counts for nothing: the same number comes again."""
    numbers: list[int] = []

    async def scenario() -> None:
        async for attempt in retries.driver.attempts(retries.retrying(stop=three)):
            state: Any = attempt
            numbers.append(state.retry_state.attempt_number)
            if len(numbers) != 2:
                with attempt:
                    raise ConnectionError

    retries.outcome(retries.driver.function(scenario))
    assert numbers == [1, 2, 2, 3]


def test_an_error_outside_the_block_is_the_caller_s(retries: Retries) -> None:
    """An error beside the block leaves the loop, and `break` does."""
    numbers: list[int] = []

    async def scenario() -> str:
        async for attempt in retries.driver.attempts(retries.retrying()):
            state: Any = attempt
            numbers.append(state.retry_state.attempt_number)
            with attempt:
                raise ConnectionError
            if len(numbers) == 2:
                break
        raise Refused

    assert isinstance(retries.outcome(retries.driver.function(scenario)), Refused)
    assert numbers == [1, 2]


# What is offered


def test_every_public_name_is_there() -> None:
    """Whatever tenacity offers is offered; strategies, callbacks, state and errors are its own."""
    replaced = {"retry", "Retrying", "AsyncRetrying", "AttemptManager"}
    assert set(tenacity.__all__) - set(compat.__all__) == set()
    for name in set(tenacity.__all__) - replaced:
        assert getattr(compat, name) is getattr(tenacity, name)


@pytest.mark.parametrize("name", ["after", "asyncio", "before", "before_sleep", "nap", "stop", "wait"])
def test_tenacity_s_modules_are_there(name: str) -> None:
    """Code that says `tenacity.wait.wait_base` changes one import too."""
    assert getattr(compat, name) is getattr(tenacity, name)


def test_code_that_asks_for_tenacity_s_types_takes_ours() -> None:
    """Objects are instances of tenacity's classes, for libraries that check."""
    assert issubclass(compat.Retrying, tenacity.Retrying)
    assert issubclass(compat.AsyncRetrying, tenacity.AsyncRetrying)
    assert [inspect.signature(getattr(compat, name)) for name in ("Retrying", "AsyncRetrying")] == [
        inspect.signature(getattr(tenacity, name)) for name in ("Retrying", "AsyncRetrying")
    ]


def test_decorated_functions_keep_their_types() -> None:
    """To a type checker too a decorated function takes and returns what it did, and has tenacity's attributes."""

    @compat.retry
    def ask(first: int, *, second: str = "") -> bytes:
        return second.encode() * first

    @compat.retry(stop=three, before=quiet)
    async def aask(first: int) -> bytes:
        return bytes(first)

    async def main() -> bytes:
        return await aask(2)

    class Client:
        @compat.retry(reraise=True)
        def ask(self, first: int) -> bytes:
            return bytes(first)

    assert_type(ask(1, second="x"), bytes)
    assert_type(ask.retry_with(stop=three)(2), bytes)
    assert_type(ask.retry, compat.Retrying | compat.AsyncRetrying)
    assert_type(ask.statistics["attempt_number"], Any)
    assert_type(compat.Retrying()(bytes, 2), bytes)
    assert_type(Client().ask(2), bytes)
    assert VirtualClock().run(main()) == b"\0\0"
    with pytest.raises(tenacity.RetryError):
        ask.retry_with(stop=three)(1, second=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_strategy_in_the_function_s_place_is_noticed(retries: Retries) -> None:
    """`retry()(retry_if_exception_type())`, a slip for `retry=`, warns."""
    with pytest.warns(UserWarning, match="did you mean retry=retry_if_exception_type"):
        retries.module.retry()(tenacity.retry_if_exception_type())


# Different on purpose: the rows of the table in docs/guides/migration.md, each named by the docstring of its test


def rows(page: str, library: str) -> list[str]:
    """Return the first column of the table of deliberate differences of one library."""
    table = page.split(f"| different on purpose | {library} |")[1].split("\n\n", 1)[0]
    return re.findall(r"^\| (.+?) \|", table.split("\n", 2)[2], re.MULTILINE)


def test_every_difference_has_a_test() -> None:
    """The table in the guide and the tests below name the same differences."""
    tests = [value.__doc__ for name, value in globals().items() if name.startswith("test_difference")]
    named = [doc.split(": ")[0] for doc in tests]
    assert sorted(named) == sorted(rows(PAGE.read_text(encoding="utf-8"), "tenacity"))


def test_difference_cancellation() -> None:
    """Cancellation: a predicate that wants everything but one error does not keep a task alive."""

    async def play(module: Any) -> tuple[int, bool]:
        calls = 0

        async def hang() -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                await asyncio.Event().wait()

        unless = module.retry_if_not_exception_type(KeyError)
        task = asyncio.ensure_future(module.retry(retry=unless, stop=module.stop_after_attempt(3))(hang)())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return calls, task.cancelled()

    assert VirtualClock().run(play(tenacity)) == (2, False)
    assert VirtualClock().run(play(compat)) == (1, True)


@pytest.mark.parametrize("form", ["call", "loop"])
def test_difference_exits(form: str) -> None:
    """Ctrl-C, `SystemExit`: they pass at once, whatever the predicate says."""

    def play(module: Any) -> int:
        retrying = module.Retrying(
            retry=module.retry_if_not_exception_type(KeyError), stop=module.stop_after_attempt(3)
        )
        source = Script(fail(KeyboardInterrupt))
        try:
            if form == "call":
                retrying(source)
            else:
                for attempt in retrying:
                    with attempt:
                        source()
        except (KeyboardInterrupt, tenacity.RetryError):
            pass
        return source.calls

    assert (play(tenacity), play(compat)) == (3, 1)


def test_difference_generators() -> None:
    """Generator functions: they are refused where they are decorated, for their body would run unprotected."""

    def numbers() -> Any:
        yield 1
        raise ConnectionError

    async def anumbers() -> Any:
        yield 1

    with pytest.raises(ConnectionError):
        list(tenacity.retry(stop=three)(numbers)())
    for use in (compat.retry(stop=three), compat.retry, compat.Retrying()):
        for fn in (numbers, anumbers):
            with pytest.raises(TypeError, match="generator function"):
                cast("Any", use)(fn)


def test_difference_async_in_sync() -> None:
    """An async function in `Retrying`: it is refused, and so is an awaitable that a sync function returns."""

    async def ask() -> None:
        raise ConnectionError

    def hidden() -> Any:
        return ask()

    silently: Any = tenacity.Retrying()(ask)
    silently.close()
    with pytest.raises(TypeError, match="use AsyncRetrying"):
        cast("Any", compat.Retrying())(ask)
    with pytest.raises(TypeError, match="use AsyncRetrying"):
        compat.Retrying().wraps(ask)
    with pytest.raises(TypeError, match="must be awaited"):
        compat.retry(hidden)()


def test_difference_sync_in_async() -> None:
    """A lambda around an async call, in `AsyncRetrying`: what it returns is awaited, so that it is retried."""

    async def play(module: Any) -> Any:
        source = script("FS")

        def hidden() -> Any:
            return source.async_()

        return await module.AsyncRetrying()(hidden)

    unawaited = VirtualClock().run(play(tenacity))
    assert inspect.iscoroutine(unawaited)
    unawaited.close()
    assert VirtualClock().run(play(compat)) == "ok"


def test_difference_async_callbacks() -> None:
    """Async callbacks of a sync function: they are refused when they are called, instead of never being awaited."""

    async def note(state: tenacity.RetryCallState) -> None:
        raise AssertionError

    forgotten: list[Any] = []

    def forgetful(state: tenacity.RetryCallState) -> Any:
        forgotten.append(note(state))
        return forgotten[-1]

    given: dict[str, Any] = {"before_sleep": forgetful}
    assert tenacity.retry(**given)(script("FS").function())() == "ok"
    forgotten.pop().close()
    with pytest.raises(TypeError, match="async callback"):
        compat.retry(**given)(script("FS").function())()


def test_difference_statistics() -> None:
    """`statistics` under concurrency: each task and thread sees its own last call, others the last one of all."""

    async def play(module: Any) -> tuple[list[int], int]:
        left = Counter({"slow": 2})

        async def ask(who: str) -> None:
            if left[who]:
                left[who] -= 1
                raise ConnectionError

        fn = module.retry(wait=module.wait_fixed(1))(ask)

        async def body(who: str, start: float) -> int:
            await asyncio.sleep(start)
            await fn(who)
            return int(fn.statistics["attempt_number"])

        found = await asyncio.gather(body("slow", 0.0), body("quick", 1.5))
        return [*found], fn.statistics["attempt_number"]

    assert VirtualClock().run(play(tenacity)) == ([1, 1], 1)
    assert VirtualClock().run(play(compat)) == ([3, 1], 3)


def test_statistics_of_threads_are_apart() -> None:
    """Threads that share a function each see the attempts of their own call, during it and after it."""

    def ask(fails: int) -> None:
        if fn.statistics["attempt_number"] <= fails:
            raise ConnectionError

    def body(fails: int) -> tuple[int, set[int]]:
        seen: set[int] = set()
        for _ in range(50):
            fn(fails)
            seen.add(fn.statistics["attempt_number"])
        return fails, seen

    fn = compat.retry(stop=compat.stop_after_attempt(9))(ask)
    found = race(*(functools.partial(body, fails) for fails in range(4)))
    assert sorted(found) == [(fails, {fails + 1}) for fails in range(4)]
    assert fn.statistics["attempt_number"] in range(1, 5)


def test_figures_of_a_call_are_its_own() -> None:
    """A later call changes nothing about the dict of an earlier one."""
    fn = compat.retry(script("FSS").function())
    fn()
    first = fn.retry.statistics
    fn()
    assert (first["attempt_number"], fn.retry.statistics["attempt_number"]) == (2, 1)


def test_statistics_of_tasks_are_apart(virtual_clock: VirtualClock) -> None:
    """Tasks that share a function each see the attempts of their own call, during it and after it."""

    @compat.retry(wait=compat.wait_fixed(1), stop=compat.stop_after_attempt(9))
    async def ask(fails: int) -> None:
        await asyncio.sleep(0.1 * fails)
        if ask.statistics["attempt_number"] <= fails:
            raise ConnectionError

    async def body(fails: int) -> tuple[int, float]:
        await ask(fails)
        await asyncio.sleep(10)
        return ask.statistics["attempt_number"], ask.statistics["idle_for"]

    async def main() -> list[Any]:
        return await asyncio.gather(*(body(fails) for fails in range(5)))

    assert virtual_clock.run(main()) == [(fails + 1, fails) for fails in range(5)]
    assert ask.statistics["attempt_number"] in range(1, 6)


def test_statistics_keep_no_task_alive(virtual_clock: VirtualClock) -> None:
    """Figures of tasks and threads that are gone are forgotten, but for the last."""
    fn = compat.retry(script("S").coroutine_function())

    async def main() -> None:
        for _ in range(50):
            await asyncio.ensure_future(fn())

    virtual_clock.run(main())
    gc.collect()
    recent: Any = getattr(fn.statistics, "_recent")  # noqa: B009  # private, and seen nowhere else
    assert len(getattr(recent, "_calls")) <= 1  # noqa: B009


def test_a_recursive_call_has_figures_of_its_own(driver: Driver) -> None:
    """A function that calls itself finds its own figures again when it has ended, well or not."""
    left, seen = Counter({0: 2, 1: 1}), list[Any]()

    async def ask(depth: int) -> None:
        if depth:
            await driver.ask(fn, depth - 1)
        if left[depth]:
            left[depth] -= 1
            raise ConnectionError

    def look(state: tenacity.RetryCallState) -> None:
        seen.append((state.args[0], state.retry_object.statistics["attempt_number"]))

    retries = Retries(compat, driver)
    fn = retries.retry(ask, before_sleep=look)
    retries.outcome(fn, 1)
    assert (seen, fn.statistics["attempt_number"]) == ([(0, 2), (0, 3), (1, 2)], 2)
    left.update({0: 2})
    retries.outcome(fn, 1)
    assert (seen[3:], fn.statistics["attempt_number"]) == ([(0, 2), (0, 3)], 1)


def test_difference_shared_async_object() -> None:
    """One `AsyncRetrying` for many tasks: each loop and call makes its own attempts."""

    async def play(module: Any) -> list[int]:
        retrying = module.AsyncRetrying(stop=module.stop_after_attempt(3), retry_error_callback=quiet)
        attempts = Counter[int]()

        async def body(number: int) -> None:
            async for attempt in retrying:
                with attempt:
                    attempts[number] += 1
                    await asyncio.sleep(0.1 * (number + 1))
                    raise ConnectionError

        await asyncio.gather(*(body(number) for number in range(3)))
        return sorted(attempts.values())

    assert VirtualClock().run(play(tenacity)) != [3, 3, 3]
    assert VirtualClock().run(play(compat)) == [3, 3, 3]


def test_difference_names(retries: Retries) -> None:
    """Arguments called `fn` or `self`: they reach the function."""
    seen: list[Any] = []

    async def ask(**named: Any) -> None:
        seen.append(named)

    outcome = retries.outcome(retries.retry(ask, stop=three), fn=1, self=2, retry=3)
    if retries.ours:
        assert (outcome, seen) == (None, [{"fn": 1, "self": 2, "retry": 3}])
    else:
        assert (type(outcome), seen) == (TypeError, [])


def test_difference_notes(retries: Retries) -> None:
    """The last error: it carries a note that says how many attempts there were, and why no more."""
    error = retries.outcome(retries.retry(script("F"), stop=three, reraise=True))
    notes = getattr(error, "__notes__", [])
    assert len(notes) == int(retries.ours)
    assert not retries.ours or "gave up after 3 attempts" in notes[0]


def test_difference_pickle() -> None:
    """`RetryError` in another process: it can be pickled."""
    with pytest.raises(tenacity.RetryError) as caught:
        compat.retry(stop=three)(script("F").function())()
    with pytest.raises(TypeError, match="pickle"):
        # What a future holds, and what pickle would ask for otherwise.
        pickle.dumps(vars(caught.value.last_attempt))
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is tenacity.RetryError
    assert (again.last_attempt.attempt_number, type(again.last_attempt.exception())) == (3, ConnectionError)
    with pytest.raises(ConnectionError):
        again.reraise()


def test_difference_clock(virtual_clock: VirtualClock) -> None:
    """Waits without `sleep=`: they are made on holdfast's clock, which tests replace."""
    fn = compat.retry(wait=compat.wait_fixed(3600), stop=compat.stop_after_delay(7000))(
        script("F").function()
    )
    with pytest.raises(tenacity.RetryError) as _:
        fn()
    assert [*virtual_clock.sleeps] == [3600, 3600]
    figures = dict(fn.statistics)
    assert figures == {
        "start_time": 1000.0,
        "attempt_number": 3,
        "idle_for": 7200,
        "delay_since_first_attempt": 7200.0,
    }


def test_difference_deadline(retries: Retries) -> None:
    """A deadline of holdfast's around the call: a wait that it does not allow is not begun; the call gives up."""
    source = script("F")

    async def scenario() -> Any:
        with deadline_after(3.0):
            return await retries.driver.outcome(fn)

    fn = retries.retry(source, wait=tenacity.wait_fixed(5), stop=three)
    error = retries.driver.run(scenario)
    assert isinstance(error, tenacity.RetryError)
    assert (source.calls, retries.slept) == ((1, []) if retries.ours else (3, [5.0, 5.0]))


def test_difference_events(retries: Retries, event_recorder: EventRecorder) -> None:
    """Events: retries and giving up are told to subscribers, under the function's name or the one given."""
    fn = retries.retry(script("F"), stop=three)
    retries.outcome(fn)
    name = f"{fn.__module__}.{fn.__qualname__}"
    told = [(event.name, event.attempt) for event in event_recorder.of(RetryScheduled)]
    assert told == ([(name, 1), (name, 2)] if retries.ours else [])
    assert [event.attempts for event in event_recorder.of(RetryGaveUp)] == [3] * retries.ours


# holdfast's own promises


def test_current_attempt_is_known(driver: Driver) -> None:
    """The called code can ask holdfast which attempt it runs in."""
    numbers: list[int] = []

    async def ask() -> None:
        numbers.append(current_attempt())
        raise ConnectionError

    retries = Retries(compat, driver)
    retries.outcome(retries.retry(ask, stop=three))
    assert numbers == [1, 2, 3]


@pytest.mark.parametrize("settings", [{}, {"reraise": True}, {"retry": tenacity.retry_never}], ids=str)
@pytest.mark.parametrize("before", [None, print], ids=["unwatched", "watched"])
def test_errors_are_freed_at_once(driver: Driver, settings: dict[str, Any], before: Any) -> None:
    """An error that was handled is gone, with whatever its frames held, without the garbage collector."""
    retries = Retries(compat, driver)
    given = {**settings, "before": before}
    errors: list[weakref.ref[BaseException]] = []

    async def ask() -> None:
        error = Refused()
        errors.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    async def scenario() -> bool:
        return isinstance(await driver.outcome(fn), (Refused, tenacity.RetryError))

    fn = retries.retry(ask, stop=tenacity.stop_after_attempt(2), **given)
    gc.collect()
    gc.disable()
    try:
        # Caught within the event loop, which has circles of its own.
        assert driver.run(scenario)
        assert [ref() for ref in errors] == [None] * len(errors)
    finally:
        gc.enable()
    assert errors
