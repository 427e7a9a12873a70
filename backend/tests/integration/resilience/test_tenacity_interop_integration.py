"""Seam: tenacity's strategies and callbacks × `Retry`, compared with tenacity's own engine on the same script."""

import functools
import logging
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import tenacity
from tenacity import asyncio as tasyncio

from backend.tests.integration.resilience._driver import Driver, Function, Mode, driver_of
from backend.tests.integration.resilience._make import Make
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.resilience.events import CallbackFailed, RetryGaveUp, RetryScheduled
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.retry import Retry, current_attempt
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, Step, fail, succeed
from holdfast.testing.recorder import EventRecorder

State = tenacity.RetryCallState
# Not as types of tenacity's: `on` is declared to take errors, and takes these too.
error_type: Any = tenacity.retry_if_exception_type
if_result: Any = tenacity.retry_if_result
unless = tenacity.retry_unless_exception_type
Strategies = dict[str, Any]
Strategy = Callable[[State], Any]
Call = Callable[[Retry, Function], Function]

CALLBACKS = ("before", "after", "before_sleep")
USUAL: Strategies = {
    "wait": tenacity.wait_fixed(2),
    "stop": tenacity.stop_after_attempt(6),
    "retry": tenacity.retry_if_exception_type(),
}


@dataclass
class Story:
    """What one engine made of a script: calls, attempt numbers, waits, the outcome, and what callbacks saw."""

    calls: list[tuple[float, Any]] = field(default_factory=list[tuple[float, Any]])
    sleeps: list[float] = field(default_factory=list[float])
    outcome: Any = None
    seen: list[Any] = field(default_factory=list[Any])


def facts(state: State) -> dict[str, Any]:
    """Return what a callback can learn of the call, in numbers."""
    outcome, action = state.outcome, state.next_action
    return {
        "attempt": state.attempt_number,
        "outcome": None
        if outcome is None
        else (outcome.attempt_number, ending(outcome.exception, outcome.result)),
        "since": None if outcome is None else state.seconds_since_start,
        "upcoming": state.upcoming_sleep,
        "idle": state.idle_for,
        "action": None if action is None else action.sleep,
        "fn": getattr(state.fn, "__qualname__", None),
        "args": (state.args, state.kwargs),
    }


def ending(error: Callable[[], BaseException | None], result: Callable[[], Any]) -> tuple[str, Any]:
    raised = error()
    return ("result", result()) if raised is None else ("raised", repr(raised))


def decorated(retry: Retry, fn: Function) -> Function:
    """Use a retry as a decorator."""
    return retry(fn)


class Comparison:
    """Plays one script under both engines; time, chance and arguments are the same for both."""

    def __init__(self, mode: Mode, *steps: Step, call: Call | None = None) -> None:
        self.mode: Mode = mode
        self.steps = steps
        self.call: Call = call or decorated

    def tenacity(self, strategies: Strategies, *, watch: bool = False) -> Story:
        """Play under tenacity, whose time stamps its own callbacks put on the virtual clock."""
        story, clock = Story(), VirtualClock()
        given = {**USUAL, **strategies}
        asked = {name: given.pop(name, None) for name in CALLBACKS}

        def start(state: State) -> None:
            if state.attempt_number == 1:
                state.start_time = clock.monotonic()

        def end(state: State) -> None:
            state.outcome_timestamp = clock.monotonic()

        first = {"before": [start], "after": [end], "before_sleep": list[Any]()}
        hooks = {name: self._chain(story, name, first[name], asked[name], watch=watch) for name in CALLBACKS}
        kind = tenacity.Retrying if self.mode == "sync" else tenacity.AsyncRetrying
        sleep: Any = clock.sleep if self.mode == "sync" else clock.asleep
        engine: Any = kind(sleep=sleep, reraise=True, **hooks, **given)
        return self._play(story, clock, lambda fn: functools.partial(engine, fn))

    def holdfast(self, strategies: Strategies, *, watch: bool = False) -> Story:
        """Play under holdfast."""
        story, given = Story(), {**USUAL, **strategies}
        for name in CALLBACKS:
            asked = given.pop(name, None)
            if watch or asked is not None:
                given[name] = self._chain(story, name, [], asked, watch=watch)
        retry = Retry(on=given.pop("retry"), **given)
        return self._play(story, VirtualClock(), lambda fn: self.call(retry, fn))

    def _chain(self, story: Story, name: str, first: list[Any], asked: Any, *, watch: bool) -> Any:
        functions = [*first, *([asked] if asked is not None else [])]
        if watch:

            def look(state: State) -> None:
                story.seen.append((name, facts(state)))

            functions.append(look)

        def chain(state: State) -> None:
            for function in functions:
                function(state)

        async def achain(state: State) -> None:
            for function in functions:
                found = function(state)
                if hasattr(found, "__await__"):
                    await found

        return chain if self.mode == "sync" else achain

    def _play(self, story: Story, clock: VirtualClock, build: Callable[[Function], Function]) -> Story:
        driver, script = driver_of(self.mode, clock), Script(*self.steps)
        random.seed(1)
        with use_clock(clock):
            [outcome] = driver.outcomes(1, build(driver.function(script)), 1, "two")
        if isinstance(outcome, tenacity.RetryError):
            # tenacity hides a refused result in an error of its own; holdfast returns it.
            outcome = outcome.last_attempt.result()
        story.outcome = repr(outcome)
        story.calls = list(zip(script.times, script.arguments, strict=True))
        latencies = {step.latency for step in self.steps}
        # tenacity also sleeps for no time at all.
        story.sleeps = [seconds for seconds in clock.sleeps if seconds and seconds not in latencies]
        return story

    def equal(self, strategies: Strategies) -> Story:
        """Assert that both engines tell the same story, watched by callbacks or not; return it."""
        expected = self.tenacity(strategies)
        assert self.holdfast(strategies) == expected
        watched = self.tenacity(strategies, watch=True)
        found = self.holdfast(strategies, watch=True)
        assert found.seen == watched.seen
        assert found == watched
        return expected


FAILING = [fail(ConnectionError, after=0.125)] * 5
LONG = [*FAILING, succeed()]


# Waits


class Steps:
    """A wait strategy of a user's own, that is no class of tenacity's."""

    def __call__(self, retry_state: State) -> float:
        """Wait as many seconds as there were attempts."""
        return float(retry_state.attempt_number)


def twice(retry_state: State) -> float:
    """Wait twice as many seconds as there were attempts."""
    return 2.0 * retry_state.attempt_number


def times(step: float, state: State) -> float:
    """Wait `step` times as many seconds as there were attempts."""
    return step * state.attempt_number


def is_none(result: object) -> bool:
    return result is None


def is_false(result: object) -> bool:
    return not result


def below_three(result: int) -> bool:
    return result < 3


WAITS: dict[str, tuple[Strategy, list[float] | None]] = {
    "none": (tenacity.wait_none(), []),
    "fixed": (tenacity.wait_fixed(3), [3.0] * 5),
    "fixed timedelta": (tenacity.wait_fixed(timedelta(minutes=1)), [60.0] * 5),
    "random": (tenacity.wait_random(1, 3), None),
    "incrementing": (tenacity.wait_incrementing(1, 2, max=6), [1.0, 3.0, 5.0, 6.0, 6.0]),
    "decrementing": (tenacity.wait_incrementing(3, -2), [3.0, 1.0]),
    "exponential": (tenacity.wait_exponential(multiplier=1, max=10), [1.0, 2.0, 4.0, 8.0, 10.0]),
    "exponential with a floor": (
        tenacity.wait_exponential(2, exp_base=3, min=5),
        [5.0, 6.0, 18.0, 54.0, 162.0],
    ),
    "random exponential": (tenacity.wait_random_exponential(multiplier=0.5, max=60), None),
    "full jitter": (tenacity.wait_full_jitter(multiplier=3), None),
    "exponential jitter": (tenacity.wait_exponential_jitter(max=9, jitter=2), None),
    "chain": (tenacity.wait_chain(*[tenacity.wait_fixed(n) for n in (1, 2, 3)]), [1.0, 2.0, 3.0, 3.0, 3.0]),
    "combine": (
        tenacity.wait_combine(tenacity.wait_fixed(1), tenacity.wait_incrementing(0, 1)),
        [1, 2, 3, 4, 5],
    ),
    "plus": (tenacity.wait_fixed(1) + tenacity.wait_random(0, 2), None),
    "sum": (sum([tenacity.wait_fixed(2)], start=tenacity.wait_fixed(1)), [3.0] * 5),
    "function plus strategy": (twice + tenacity.wait_fixed(1), [3.0, 5.0, 7.0, 9.0, 11.0]),
    "exception": (tenacity.wait_exception(lambda error: 4.0), [4.0] * 5),
    "function": (twice, [2.0, 4.0, 6.0, 8.0, 10.0]),
    "lambda": (lambda state: state.attempt_number / 2, [0.5, 1.0, 1.5, 2.0, 2.5]),
    "callable object": (Steps(), [1.0, 2.0, 3.0, 4.0, 5.0]),
    "bound method": (Steps().__call__, [1.0, 2.0, 3.0, 4.0, 5.0]),
    "partial": (
        functools.partial(times, 3.0),
        [3.0, 6.0, 9.0, 12.0, 15.0],
    ),
}


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_waits_as_under_tenacity(mode: Mode, name: str) -> None:
    """The delays of every `wait_*`, and of functions of the state, are tenacity's, draw for draw."""
    wait, delays = WAITS[name]
    story = Comparison(mode, *LONG).equal({"wait": wait})
    assert story.outcome == "'ok'"
    if delays is not None:
        assert [one for one in story.sleeps if one] == delays


def test_waits_draw_again_each_time(mode: Mode) -> None:
    """A random wait is asked before each retry, within its bounds."""
    sleeps = Comparison(mode, *LONG).equal({"wait": tenacity.wait_random(1, 3)}).sleeps
    assert len(set(sleeps)) == 5
    assert all(1 <= one <= 3 for one in sleeps)


# Stops

SET, UNSET = threading.Event(), threading.Event()
SET.set()

STOPS: dict[str, tuple[Strategy, int]] = {
    "after attempt": (tenacity.stop_after_attempt(4), 4),
    "after one attempt": (tenacity.stop_after_attempt(1), 1),
    "after delay": (tenacity.stop_after_delay(4), 3),
    "after timedelta": (tenacity.stop_after_delay(timedelta(seconds=4)), 3),
    "after delay, to the instant": (tenacity.stop_after_delay(4.375), 3),
    "after delay, just not": (tenacity.stop_after_delay(4.376), 4),
    "before delay": (tenacity.stop_before_delay(5), 3),
    "event set": (tenacity.stop_when_event_set(SET), 1),
    "any": (tenacity.stop_any(tenacity.stop_after_attempt(5), tenacity.stop_after_delay(3)), 3),
    "all": (tenacity.stop_all(tenacity.stop_after_attempt(2), tenacity.stop_after_delay(7)), 5),
    "or": (tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(100), 3),
    "and": (tenacity.stop_after_attempt(3) & tenacity.stop_after_delay(1), 3),
    "event or attempts": (tenacity.stop_when_event_set(UNSET) | tenacity.stop_after_attempt(2), 2),
    "never or attempts": (tenacity.stop_never | tenacity.stop_after_attempt(2), 2),
    "nested": (
        (tenacity.stop_after_attempt(9) | tenacity.stop_after_delay(5)) & tenacity.stop_after_attempt(4),
        4,
    ),
    "function": (lambda state: state.attempt_number == 3, 3),
    "function of the time": (lambda state: (state.seconds_since_start or 0) > 4.2, 3),
    "function of the idle time": (lambda state: state.idle_for >= 4, 3),
    "function of the next wait": (lambda state: state.upcoming_sleep == 2 and state.attempt_number == 2, 2),
    "function of the outcome": (lambda state: state.outcome is not None and state.attempt_number > 1, 2),
}


@pytest.mark.parametrize("name", STOPS)
def test_a_stop_stops_as_under_tenacity(mode: Mode, name: str) -> None:
    """Every `stop_*` ends after tenacity's number of attempts, with the original error."""
    stop, attempts = STOPS[name]
    story = Comparison(mode, fail(ConnectionError, after=0.125)).equal({"stop": stop})
    assert (len(story.calls), story.outcome) == (attempts, "ConnectionError()")


def test_a_stop_on_time_counts_the_first_attempt(mode: Mode) -> None:
    """`stop_after_delay` counts from the start of the first attempt, not from its end."""
    slow = fail(ConnectionError, after=4.0)
    story = Comparison(mode, slow).equal(
        {"stop": tenacity.stop_after_delay(9), "wait": tenacity.wait_fixed(1)}
    )
    assert [at for at, _ in story.calls] == [1000.0, 1005.0]


def test_never_stopping_goes_on(mode: Mode) -> None:
    """Under `stop_never` a hundred failures are survived."""
    story = Comparison(mode, *[fail()] * 100, succeed()).equal({"stop": tenacity.stop_never})
    assert (len(story.calls), story.outcome) == (101, "'ok'")


def test_an_event_that_is_set_meanwhile_stops(mode: Mode) -> None:
    """An event set in the middle of the attempts ends them."""
    for engine in ("tenacity", "holdfast"):
        event = threading.Event()

        def act(state: State, event: threading.Event = event) -> None:
            if state.attempt_number == 3:
                event.set()

        comparison = Comparison(mode, fail(ConnectionError, after=0.125))
        strategies = {"stop": tenacity.stop_when_event_set(event), "after": act}
        assert len(getattr(comparison, engine)(strategies).calls) == 3


# What is retried


def caused() -> Exception:
    """Return an error with a cause that has a cause."""
    error, middle = ValueError("outer"), RuntimeError("middle")
    middle.__cause__ = KeyError("root")
    error.__cause__ = middle
    return error


MIXED = [
    fail(caused()),
    fail(ConnectionError("reset by peer")),
    succeed(None),
    fail(KeyError("key")),
    succeed(0),
    succeed("ok"),
]


def on_state(retry_state: State) -> bool:
    """Retry errors and None."""
    outcome = retry_state.outcome
    return outcome is not None and (outcome.failed or outcome.result() is None)


class Judge:
    """A user's own predicate as a method."""

    def judge(self, retry_state: State) -> bool:
        """Retry until the third attempt."""
        return retry_state.attempt_number < 3


class Shy(tenacity.retry_base):
    """A strategy derived from tenacity's."""

    def __call__(self, retry_state: State) -> bool:
        """Retry the first attempt only."""
        return retry_state.attempt_number == 1


RETRIES: dict[str, tuple[Strategy, int]] = {
    "always": (tenacity.retry_always, 6),
    "never": (tenacity.retry_never, 1),
    "exception": (tenacity.retry_if_exception(lambda error: True), 3),
    "exception predicate": (tenacity.retry_if_exception(lambda error: isinstance(error, ValueError)), 2),
    "exception type": (error_type(), 3),
    "one type": (error_type(ValueError), 2),
    "several types": (error_type((ValueError, ConnectionError)), 3),
    "not exception type": (tenacity.retry_if_not_exception_type(KeyError), 3),
    "not the first": (tenacity.retry_if_not_exception_type(ValueError), 1),
    "unless exception type": (unless(KeyError), 4),
    "cause type": (tenacity.retry_if_exception_cause_type(KeyError), 2),
    "cause of a cause": (tenacity.retry_if_exception_cause_type((OSError, KeyError)), 2),
    "message": (tenacity.retry_if_exception_message(message="outer"), 2),
    "match": (tenacity.retry_if_exception_message(match="outer|reset.*"), 3),
    "not message": (tenacity.retry_if_not_exception_message(message="'key'"), 4),
    "not match": (tenacity.retry_if_not_exception_message(match="out|res"), 1),
    "result": (if_result(is_none), 1),
    "not result": (tenacity.retry_if_not_result(lambda result: result == "ok"), 1),
    "any": (tenacity.retry_any(error_type(), if_result(is_none)), 5),
    "all": (tenacity.retry_all(error_type(), tenacity.retry_if_exception_cause_type(KeyError)), 2),
    "or": (error_type() | if_result(is_false), 6),
    "and": (error_type() & tenacity.retry_if_exception_message(match="outer"), 2),
    "or function": (error_type() | on_state, 5),
    "and function": (error_type() & on_state, 3),
    "or of ands": ((error_type(ValueError) & tenacity.retry_always) | error_type(OSError), 3),
    "function": (on_state, 5),
    "lambda": (lambda retry_state: retry_state.attempt_number < 4, 4),
    "method": (Judge().judge, 3),
    "own strategy": (Shy(), 2),
}


@pytest.mark.parametrize("name", RETRIES)
def test_what_is_retried_is_retried_as_under_tenacity(mode: Mode, name: str) -> None:
    """Every `retry_*` and every combination asks for as many attempts as under tenacity, errors and results alike."""
    retry, attempts = RETRIES[name]
    assert len(Comparison(mode, *MIXED).equal({"retry": retry}).calls) == attempts


@pytest.mark.parametrize(
    ("retry", "attempts"),
    [
        (if_result(is_none), 3),
        (tenacity.retry_if_not_result(lambda result: result == "ok"), 4),
        (unless(KeyError), 5),
        (tenacity.retry_if_not_exception_message(message="never"), 5),
        (error_type(KeyError), 1),
    ],
    ids=["result", "not result", "unless type", "not message", "type"],
)
def test_results_are_retried_as_under_tenacity(mode: Mode, retry: Any, attempts: int) -> None:
    """A call that only returns is judged by the strategies that judge results, and passes the others."""
    steps = [succeed(None), succeed(None), succeed(1), succeed("ok")]
    strategies = {"retry": retry, "stop": tenacity.stop_after_attempt(5)}
    assert len(Comparison(mode, *steps).equal(strategies).calls) == attempts


@pytest.mark.parametrize("answer", [0, "", [], False], ids=repr)
def test_a_refused_result_comes_back_when_attempts_run_out(driver: Driver, answer: Any) -> None:
    """Where tenacity hides the last result in a `RetryError`, holdfast returns it."""
    retry = Retry(on=if_result(is_false), stop=tenacity.stop_after_attempt(2))
    script = Script(succeed(answer))
    assert driver.outcomes(1, driver.decorate(retry, script)) == [answer]
    assert script.calls == 2


def test_try_again_is_always_retried(mode: Mode) -> None:
    """`tenacity.TryAgain` asks for another attempt, whatever the strategy would say of it."""
    story = Comparison(mode, fail(tenacity.TryAgain), succeed()).equal({"retry": error_type(ValueError)})
    assert (len(story.calls), story.outcome) == (2, "'ok'")


def test_a_result_predicate_stands_beside_a_strategy(driver: Driver) -> None:
    """`result=` refuses results whatever `on` judges the errors with."""
    script = Script(fail(ValueError), succeed(None), succeed("ok"))
    retry = Retry(5, on=error_type(ValueError), result=is_none, wait=1.0)
    assert driver.outcomes(1, driver.decorate(retry, script)) == ["ok"]
    assert script.calls == 3


# Async strategies


async def later(value: Any) -> Any:
    """Return a value after giving others a turn."""
    return value


async def async_on(retry_state: State) -> bool:
    """Retry errors."""
    return bool(await later(retry_state.outcome is not None and retry_state.outcome.failed))


async def is_value_error(error: BaseException) -> bool:
    """Say whether it is one."""
    return bool(await later(isinstance(error, ValueError)))


async def is_none_later(result: Any) -> bool:
    """Say whether it is None."""
    return bool(await later(result is None))


ASYNC_RETRIES: dict[str, tuple[Any, int]] = {
    "exception": (tasyncio.retry_if_exception(is_value_error), 2),
    "result": (tasyncio.retry_if_result(is_none_later), 1),
    "any": (tasyncio.retry_any(tasyncio.retry_if_exception(is_value_error), error_type(OSError)), 3),
    "all": (tasyncio.retry_all(tasyncio.retry_if_exception(is_value_error), error_type()), 2),
    "or": (tasyncio.retry_if_exception(is_value_error) | error_type(OSError), 3),
    "sync or async": (error_type() | tasyncio.retry_if_result(is_none_later), 5),
    "and": (tasyncio.retry_if_exception(is_value_error) & error_type(), 2),
    "function": (async_on, 3),
}


@pytest.mark.parametrize("name", ASYNC_RETRIES)
@pytest.mark.parametrize("mode", ["async"], indirect=True)
def test_async_strategies_are_awaited_as_under_tenacity(mode: Mode, name: str) -> None:
    """Tenacity's async strategies, alone and mixed with sync ones, are awaited."""
    retry, attempts = ASYNC_RETRIES[name]
    assert len(Comparison(mode, *MIXED).equal({"retry": retry}).calls) == attempts


@pytest.mark.parametrize("mode", ["async"], indirect=True)
def test_async_functions_may_stand_everywhere(mode: Mode) -> None:
    """Waits, stops and callbacks may be `async def`, as in tenacity's `AsyncRetrying`."""
    seen: list[tuple[str, int]] = []

    def noting(name: str) -> Callable[[State], Any]:
        async def note(state: State) -> None:
            seen.append((name, await later(state.attempt_number)))

        return note

    async def wait(state: State) -> float:
        return float(await later(state.attempt_number * 10))

    async def stop(state: State) -> bool:
        return bool(await later(state.attempt_number == 3))

    names = ("before", "after", "before_sleep")
    strategies: Strategies = {"wait": wait, "stop": stop, **{name: noting(name) for name in names}}
    story = Comparison(mode, fail(ConnectionError, after=0.125)).equal(strategies)
    assert (story.sleeps, len(story.calls)) == ([10.0, 20.0], 3)
    one = [(what, number) for number in (1, 2) for what in names]
    assert seen[: len(one) + 2] == [*one, ("before", 3), ("after", 3)]


@pytest.mark.parametrize("what", ["wait", "stop", "before", "after", "before_sleep"])
@pytest.mark.parametrize("mode", ["sync"], indirect=True)
def test_async_functions_in_sync_code_are_reported(
    driver: Driver, event_recorder: EventRecorder, what: str
) -> None:
    """A sync function cannot await: the callback counts as one that raised, and the error says so."""

    async def callback(retry_state: State) -> float:
        return 1.0

    settings: Strategies = {"stop": tenacity.stop_after_attempt(2), "wait": 1.0, "on": ConnectionError}
    settings[what] = callback
    outcomes = driver.outcomes(1, Retry(**settings)(Script(fail()).function()))
    assert [type(one) for one in outcomes] == [ConnectionError]
    reports = event_recorder.of(CallbackFailed)
    assert reports
    assert all("give a sync one" in str(report.error) for report in reports)


# Callbacks


def test_callbacks_see_what_tenacity_shows(mode: Mode) -> None:
    """Each callback is called in tenacity's order with tenacity's facts, at every attempt."""
    story = Comparison(mode, *LONG[2:]).holdfast({"wait": tenacity.wait_incrementing(1, 1)}, watch=True)
    assert [name for name, _ in story.seen] == ["before", "after", "before_sleep"] * 3 + ["before"]
    shown = [told for _, told in story.seen]
    assert [(told["attempt"], told["upcoming"], told["idle"], told["action"]) for told in shown] == [
        (1, 0.0, 0.0, None),
        (1, 0.0, 0.0, None),
        (1, 1.0, 1.0, 1.0),
        (2, 1.0, 1.0, None),
        (2, 1.0, 1.0, None),
        (2, 2.0, 3.0, 2.0),
        (3, 2.0, 3.0, None),
        (3, 2.0, 3.0, None),
        (3, 3.0, 6.0, 3.0),
        (4, 3.0, 6.0, None),
    ]
    assert all(told["args"] == ((1, "two"), {}) for _, told in story.seen)


@pytest.mark.parametrize("ended", ["success", "permanent", "stopped"])
def test_callbacks_are_called_for_every_ending(mode: Mode, ended: str) -> None:
    """However a call ends, the callbacks were called as tenacity calls them."""
    last = {"success": succeed(), "permanent": fail(KeyError), "stopped": fail()}[ended]
    Comparison(mode, fail(), fail(), last).equal(
        {"retry": error_type(ConnectionError), "stop": tenacity.stop_after_attempt(3)}
    )


def test_the_logs_of_tenacity_say_the_same(mode: Mode, caplog: pytest.LogCaptureFixture) -> None:
    """`before_log`, `after_log` and `before_sleep_log` write the same lines, with the same names and times."""
    logger = logging.getLogger("service")
    strategies: Strategies = {
        "before": tenacity.before_log(logger, logging.INFO),
        "after": tenacity.after_log(logger, logging.INFO),
        "before_sleep": tenacity.before_sleep_log(logger, logging.WARNING),
    }
    comparison = Comparison(mode, fail(ConnectionError("gone"), after=0.125), fail(after=0.125), succeed())
    with caplog.at_level(logging.INFO, "service"):
        comparison.tenacity(strategies)
        expected = [(record.levelno, record.getMessage()) for record in caplog.records]
        caplog.clear()
        comparison.holdfast(strategies)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == expected
    assert len(expected) == 7
    assert expected[2][1].endswith("in 2 seconds as it raised ConnectionError: gone.")


def test_the_log_before_a_sleep_can_show_the_traceback(mode: Mode, caplog: pytest.LogCaptureFixture) -> None:
    """`before_sleep_log(exc_info=True)` finds the error with its traceback."""
    log = tenacity.before_sleep_log(logging.getLogger("service"), logging.WARNING, exc_info=True)
    with caplog.at_level(logging.WARNING, "service"):
        Comparison(mode, fail(ConnectionError("gone")), succeed()).holdfast({"before_sleep": log})
    [record] = [record for record in caplog.records if record.name == "service"]
    assert "ConnectionError: gone" in record.getMessage()
    assert "in scripted" in record.getMessage()


def test_statistics_are_tenacitys(mode: Mode) -> None:
    """The figures on the retrying object are tenacity's, at every callback."""

    def told(engine: str) -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []

        def note(state: State) -> None:
            figures = dict(state.retry_object.statistics)
            assert figures.pop("start_time") is not None
            seen.append(figures)

        callbacks = dict.fromkeys(CALLBACKS, note)
        getattr(Comparison(mode, *[fail()] * 3, succeed()), engine)(callbacks)
        return [{**figures, "delay_since_first_attempt": None} for figures in seen]

    assert told("holdfast") == told("tenacity")


def test_the_attempt_number_of_tenacity_is_ours(driver: Driver) -> None:
    """`current_attempt()` inside the function is the number that the callbacks see."""
    numbers: list[tuple[int, int]] = []
    now: list[int] = []

    async def fetch() -> None:
        numbers.append((current_attempt(), now[-1]))
        raise ConnectionError

    retry = Retry(
        on=error_type(),
        stop=tenacity.stop_after_attempt(4),
        before=lambda state: now.append(state.attempt_number),
    )
    driver.outcomes(1, driver.decorate(retry, fetch))
    assert numbers == [(1, 1), (2, 2), (3, 3), (4, 4)]


@pytest.mark.parametrize("position", ["pipeline", "call"])
def test_callbacks_see_the_callers_arguments_however_it_is_written(mode: Mode, position: str) -> None:
    """In a pipeline and through `policy.call`, callbacks see the function and its own arguments."""
    ways: dict[str, Callable[[Retry, Function], Function]] = {
        "pipeline": lambda retry, fn: Pipeline(retry)(fn),
        "call": lambda retry, fn: functools.partial(retry.call, fn),
    }
    Comparison(mode, fail(), fail(), succeed(), call=ways[position]).equal({})


@pytest.mark.parametrize("what", ["before", "after", "before_sleep", "wait", "stop", "on"])
def test_a_callback_that_raises_changes_no_outcome(
    driver: Driver, event_recorder: EventRecorder, what: str
) -> None:
    """A strategy or callback that raises is reported, and never replaces the error of the call."""

    def broken(retry_state: State) -> float:
        raise ZeroDivisionError(what)

    settings: Strategies = {"stop": tenacity.stop_after_attempt(3), "wait": 1.0, "on": ConnectionError}
    settings[what] = broken
    script = Script(fail(ConnectionError("gone")))
    [error] = driver.outcomes(1, driver.decorate(Retry(**settings), script))
    assert repr(error) == "ConnectionError('gone')"
    assert {type(report.error) for report in event_recorder.of(CallbackFailed)} == {ZeroDivisionError}
    assert script.calls == (1 if what in {"stop", "on"} else 3)


@pytest.mark.parametrize("answer", [None, "soon", [1.0], float("nan"), -5.0], ids=str)
def test_a_wait_that_answers_nonsense_changes_no_outcome(driver: Driver, answer: Any) -> None:
    """A wait function that returns no number of seconds does not replace the error of the call."""
    retry = Retry(on=error_type(), stop=tenacity.stop_after_attempt(2), wait=lambda state: answer)
    script = Script(fail(ConnectionError("gone")))
    [error] = driver.outcomes(1, driver.decorate(retry, script))
    assert (repr(error), script.calls) == ("ConnectionError('gone')", 2)


# Blocks


def blocks(driver: Driver, engine: Any) -> AsyncIterator[Any]:
    """Loop over tenacity's or our attempts, sync or async."""
    if driver.mode == "async":
        return aiter(engine)
    return driver.attempts(engine) if isinstance(engine, Retry) else stepping(iter(engine))


async def stepping(attempts: Iterator[Any]) -> AsyncIterator[Any]:
    for attempt in attempts:
        yield attempt


def test_loops_over_attempts_are_as_under_tenacity(driver: Driver) -> None:
    """`for attempt in …: with attempt: …` makes tenacity's attempts and calls tenacity's callbacks."""

    def play(engine: Callable[..., Any], **more: Any) -> list[Any]:
        seen: list[Any] = []

        def noting(name: str) -> Callable[[State], None]:
            def note(state: State) -> None:
                outcome = state.outcome
                number = None if outcome is None else outcome.attempt_number
                seen.append((name, state.attempt_number, number, state.upcoming_sleep))

            return note

        callbacks = {name: noting(name) for name in CALLBACKS}
        made = engine(
            wait=tenacity.wait_incrementing(1, 1), stop=tenacity.stop_after_attempt(5), **callbacks, **more
        )

        async def body() -> None:
            calls = 0
            async for attempt in blocks(driver, made):
                with attempt:
                    calls += 1
                    seen.append(("call", driver.clock.monotonic() - begun))
                    if calls < 4:
                        raise ConnectionError

        begun = driver.clock.monotonic()
        driver.run(body)
        return seen

    if driver.mode == "sync":
        expected = play(tenacity.Retrying, sleep=driver.clock.sleep, reraise=True)
    else:
        expected = play(tenacity.AsyncRetrying, sleep=driver.clock.asleep, reraise=True)
    found = play(Retry, on=error_type())
    assert [one for one in found if one[0] == "call"] == [
        ("call", 0.0),
        ("call", 1.0),
        ("call", 3.0),
        ("call", 6.0),
    ]
    assert found == expected


def test_a_loop_judges_a_result_that_is_handed_over(driver: Driver) -> None:
    """`set_result` inside a block is judged by tenacity's strategies for results."""
    calls: list[int] = []
    retry = Retry(on=if_result(below_three), stop=tenacity.stop_after_attempt(9))

    async def body() -> None:
        async for attempt in driver.attempts(retry):
            with attempt:
                calls.append(attempt.number)
                attempt.set_result(attempt.number)

    driver.run(body)
    assert calls == [1, 2, 3]


@pytest.mark.parametrize("mode", ["async"], indirect=True)
def test_async_callbacks_of_a_loop_are_reported(driver: Driver, event_recorder: EventRecorder) -> None:
    """The end of a `with` block cannot await: an async callback there counts as one that raised, and nothing else."""

    async def note(state: State) -> None:
        raise AssertionError

    retry = Retry(on=error_type(), stop=tenacity.stop_after_attempt(3), before_sleep=note)

    async def body() -> None:
        async for attempt in driver.attempts(retry):
            with attempt:
                if attempt.number < 3:
                    raise ConnectionError

    driver.run(body)
    assert [report.callback for report in event_recorder.of(CallbackFailed)] == ["before_sleep"] * 2


# Beside our own settings


def test_strategies_and_our_own_settings_mix(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """Tenacity's stop with our wait and classes, ours with tenacity's wait: each part does its own."""
    script = Script(fail(), fail(TimeoutError), fail(), fail(KeyError))
    retry = Retry(
        on=(ConnectionError, TimeoutError), wait=2.0, stop=tenacity.stop_after_attempt(9), name="mixed"
    )
    assert isinstance(driver.outcomes(1, driver.decorate(retry, script))[0], KeyError)
    assert [event.delay for event in event_recorder.of(RetryScheduled)] == [2.0, 2.0, 2.0]
    script = Script(fail())
    retry = Retry(4, wait=tenacity.wait_incrementing(1, 1), budget=make.budget(2), name="mixed")
    driver.outcomes(1, driver.decorate(retry, script))
    assert script.calls == 3
    assert [event.reason for event in event_recorder.of(RetryGaveUp)] == [
        "the error is not retryable",
        "the retry budget is exhausted",
    ]


def test_a_deadline_bounds_tenacitys_waits(driver: Driver) -> None:
    """A delay of a tenacity strategy that does not fit the deadline is not slept."""
    script = Script(fail(after=1.0))
    retry = Retry(9, wait=tenacity.wait_fixed(3), deadline=10.0)
    assert isinstance(driver.outcomes(1, driver.decorate(retry, script))[0], ConnectionError)
    assert (script.calls, driver.clock.elapsed) == (3, 9.0)


def test_attempts_and_stop_contradict_each_other() -> None:
    """Both limits at once are one fault that names the setting."""
    with pytest.raises(ConfigurationError, match="contradicts stop"):
        Retry(5, stop=tenacity.stop_after_attempt(5))


def test_the_error_is_the_original_with_a_note(driver: Driver) -> None:
    """No `RetryError`: the original error comes out, with a note that says why there is no other attempt."""
    error = ConnectionError("gone")
    retry = Retry(
        on=error_type(), stop=tenacity.stop_after_attempt(2), wait=tenacity.wait_fixed(1), name="told"
    )
    [raised] = driver.outcomes(1, driver.decorate(retry, Script(fail(error))))
    assert raised is error
    assert raised.__notes__ == [
        "holdfast: told gave up after 2 attempts, 1 s after the first failure: stop said so"
    ]


def test_one_retry_serves_many_calls_at_once(driver: Driver) -> None:
    """Strategies get a state of the call's own: calls at the same time do not see each other's attempts."""
    seen: dict[str, list[int]] = {}

    def note(state: State) -> None:
        seen.setdefault(state.args[0], []).append(state.attempt_number)

    retry = Retry(
        on=error_type(), stop=tenacity.stop_after_attempt(4), wait=tenacity.wait_fixed(1), after=note
    )

    async def fetch(who: str) -> None:
        await driver.sleep({"a": 0.1, "b": 0.25, "c": 0.7}[who])
        raise ConnectionError

    call = driver.decorate(retry, fetch)
    driver.together(*(driver.after(0.0, call, who) for who in "abc"))
    assert seen == {who: [1, 2, 3, 4] for who in "abc"}
