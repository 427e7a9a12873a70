"""Retry × circuit breaker: who counts what, and who stops whom."""

import asyncio
import gc
import pickle
import weakref
from collections.abc import Callable

import pytest
from tenacity import stop_after_attempt

from backend.tests.integration.resilience._driver import Compose, Driver
from backend.tests.integration.resilience._make import BUSY, Busy, Make
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.errors import CircuitOpenError
from holdfast.infrastructure.resilience.events import CallRejected, CircuitOpened, RetryGaveUp, RetryScheduled
from holdfast.infrastructure.resilience.pipeline import Pipeline, explain
from holdfast.infrastructure.resilience.retry import Retry, current_attempt
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window, WindowCounts
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, Step, fail, succeed
from holdfast.testing.recorder import EventRecorder

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
WIDE = Window.calls(100)


def test_inside_the_retry_a_breaker_counts_attempts(driver: Driver, make: Make, compose: Compose) -> None:
    """Two failed attempts and a good one are three calls and two failures to a breaker inside the retry."""
    breaker, script = make.breaker(window=WIDE), Script(fail(), fail(), succeed())
    assert driver.call(compose(make.retry(3), breaker, source=script)) == "ok"
    assert breaker.counts == WindowCounts(3, 2, 0)
    assert driver.clock.sleeps == (1.0, 1.0)


def test_outside_the_retry_a_breaker_counts_calls(driver: Driver, make: Make, compose: Compose) -> None:
    """To a breaker outside the retry three attempts are one call, so three lost calls cost nine attempts."""
    breaker, script = make.breaker(3), Script(fail(), fail(), succeed(), fail())
    outcomes = driver.outcomes(5, compose(breaker, make.retry(3), source=script))
    assert [type(outcome) for outcome in outcomes] == [str, *[ConnectionError] * 3, CircuitOpenError]
    assert (script.calls, breaker.rejected) == (3 + 9, 1)


def test_a_trip_in_the_middle_of_a_loop_ends_it(driver: Driver, make: Make, compose: Compose) -> None:
    """When the breaker opens at attempt 2 of 5, attempt 3 is refused, not sent and not retried; a note says so."""
    breaker, script = make.breaker(2), Script(fail())
    with pytest.raises(CircuitOpenError) as caught:
        driver.call(compose(make.retry(5), breaker, source=script))
    assert (script.calls, driver.clock.sleeps) == (2, (1.0, 1.0))
    assert (breaker.state, breaker.rejected) == (OPEN, 1)
    assert caught.value.args == ("dependency", 4.0)
    note = (
        "holdfast: caller gave up after 3 attempts, 2 s after the first failure: the error is not retryable"
    )
    assert caught.value.__notes__ == [note]
    cause = caught.value.__cause__
    assert (type(cause), caught.value.__context__) == (ConnectionError, None)
    assert not hasattr(cause, "__notes__")


@pytest.mark.parametrize("trips", [1, 2, 3])
def test_a_refusal_tells_of_the_error_before_it(
    driver: Driver, make: Make, compose: Compose, trips: int
) -> None:
    """The breaker's refusal is caused by the last error of the dependency, which a log and a pickle then show."""
    errors = [ConnectionError(f"attempt {number}") for number in (1, 2, 3)]
    call = compose(make.retry(5), make.breaker(trips), source=Script(*map(fail, errors)))
    (refused,) = driver.outcomes(1, call)
    assert type(refused) is CircuitOpenError
    assert refused.__cause__ is errors[trips - 1]
    assert [error.__cause__ for error in errors] == [None] * 3
    there = pickle.loads(pickle.dumps(refused))
    assert repr(there.__cause__) == f"ConnectionError('attempt {trips}')"


@pytest.mark.parametrize("wait", [0.0, 1.0])
def test_a_plain_retry_tells_of_the_error_too(driver: Driver, make: Make, wait: float) -> None:
    """Where a second attempt is made without asking anybody, its refusal has a cause all the same."""
    error = ConnectionError("first")
    call = driver.decorate(Pipeline(Retry(attempts=3, wait=wait), make.breaker(1)), Script(fail(error)))
    (refused,) = driver.outcomes(1, call)
    assert (type(refused), refused.__cause__) == (CircuitOpenError, error)


def test_a_retry_with_a_function_of_tenacity_tells_of_the_error_too(driver: Driver, make: Make) -> None:
    """Where a function of the state is asked, the refusal has the last error as its cause as well."""
    error = ConnectionError("first")
    retry = make.retry(None, stop=stop_after_attempt(5))
    (refused,) = driver.outcomes(1, driver.decorate(Pipeline(retry, make.breaker(1)), Script(fail(error))))
    assert (type(refused), refused.__cause__) == (CircuitOpenError, error)


def test_a_refusal_in_a_block_tells_of_the_error_before_it(driver: Driver, make: Make) -> None:
    """A loop of blocks around a breaker ends with a refusal that is caused by the last error."""
    error, breaker = ConnectionError("first"), make.breaker(1)
    attempts = make.retry(5)

    async def call() -> None:
        async for attempt in driver.attempts(attempts):
            with attempt, breaker:
                raise error

    (refused,) = driver.outcomes(1, driver.function(call))
    assert (type(refused), refused.__cause__) == (CircuitOpenError, error)


def test_refusals_that_are_retried_hide_no_error(driver: Driver, make: Make, compose: Compose) -> None:
    """With refusals retried, too, the one that comes out is caused by the error that opened the breaker."""
    error = ConnectionError("first")
    retry = make.retry(4, on=(ConnectionError, CircuitOpenError))
    (refused,) = driver.outcomes(1, compose(retry, make.breaker(1), source=Script(fail(error))))
    assert (type(refused), refused.__cause__) == (CircuitOpenError, error)


def test_a_refusal_from_the_start_has_no_cause(driver: Driver, make: Make, compose: Compose) -> None:
    """A call that is refused at once met no error of its own, whatever calls before it met."""
    call = compose(make.retry(3), make.breaker(1), source=Script(fail()))
    driver.outcomes(1, call)
    (refused,) = driver.outcomes(1, call)
    assert (type(refused), refused.__cause__, refused.__context__) == (CircuitOpenError, None, None)


@pytest.mark.parametrize("wait", [0.0, 1.0])
@pytest.mark.parametrize("trips", [1, 2, 3])
def test_a_refusal_with_a_cause_leaves_no_circle(driver: Driver, make: Make, wait: float, trips: int) -> None:
    """When the refusal is forgotten, so is its cause, without the garbage collector."""

    class Lost(ConnectionError):
        pass

    call = driver.decorate(Pipeline(Retry(attempts=5, wait=wait), make.breaker(trips)), Script(fail(Lost)))
    gc.collect()
    gc.disable()
    try:
        outcomes = driver.outcomes(1, call)
        seen = weakref.ref(outcomes[0].__cause__)
        assert type(seen()) is Lost
        outcomes.clear()
        assert seen() is None
    finally:
        gc.enable()


def test_the_events_of_a_trip_in_the_middle_of_a_loop(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """Subscribers see each retry, the trip between them, the rejection and the end, in this order."""
    call = driver.decorate(make.pipeline(make.retry(5), make.breaker(2)), Script(fail()))
    with pytest.raises(CircuitOpenError) as caught:
        driver.call(call)
    assert event_recorder.kinds == (
        *("RetryScheduled", "CircuitOpened", "RetryScheduled", "CallRejected", "RetryGaveUp"),
    )
    assert [event.name for event in event_recorder.events] == [
        *("caller", "dependency", "caller", "dependency", "caller"),
    ]
    assert [event.attempt for event in event_recorder.of(RetryScheduled)] == [1, 2]
    assert [event.retry_after for event in event_recorder.of(CallRejected)] == [4.0]
    (gave_up,) = event_recorder.of(RetryGaveUp)
    assert (gave_up.attempts, gave_up.elapsed, gave_up.error) == (3, 2.0, caught.value)


def test_an_open_breaker_costs_a_retry_nothing(
    driver: Driver, make: Make, compose: Compose, event_recorder: EventRecorder
) -> None:
    """Over an open breaker a retry makes no call, waits for nothing and adds no note."""
    breaker, script = make.breaker(), Script(succeed())
    call = compose(make.retry(5), breaker, source=script)
    breaker.open()
    event_recorder.clear()
    outcomes = driver.outcomes(3, call)
    assert [type(outcome) for outcome in outcomes] == [CircuitOpenError] * 3
    assert [getattr(outcome, "__notes__", []) for outcome in outcomes] == [[]] * 3
    assert (script.calls, breaker.rejected, driver.clock.elapsed) == (0, 3, 0.0)
    assert event_recorder.kinds == ("CallRejected",) * 3


def test_a_caller_may_choose_to_wait_for_the_breaker(driver: Driver, make: Make, compose: Compose) -> None:
    """A retry told to retry rejections waits as long as the rejection says, and makes the probe."""
    breaker, script = make.breaker(), Script(succeed())
    call = compose(make.retry(2, on=(CircuitOpenError,), hint_cap=0.0), breaker, source=script)
    breaker.open()
    driver.clock.advance(2.0)
    assert driver.call(call) == "ok"
    assert driver.clock.sleeps == (3.0,)
    assert (script.calls, breaker.rejected, breaker.state) == (1, 1, CLOSED)


def test_a_wait_longer_than_the_open_time_makes_the_retry_the_probe(
    driver: Driver, make: Make, compose: Compose, event_recorder: EventRecorder
) -> None:
    """A call whose first attempt trips the breaker closes it with its own second attempt."""
    breaker, script = make.breaker(1), Script(fail(), succeed())
    assert driver.call(compose(make.retry(3, wait=5.0), breaker, source=script)) == "ok"
    assert breaker.state is CLOSED
    assert event_recorder.kinds == (
        *("CircuitOpened", "RetryScheduled", "CircuitHalfOpened", "CircuitClosed", "RetrySucceeded"),
    )


def test_a_failed_probe_ends_the_loop_too(
    driver: Driver, make: Make, compose: Compose, event_recorder: EventRecorder
) -> None:
    """A retry whose first attempt is a failing probe makes no second call: the breaker opens for twice as long."""
    breaker, script = make.breaker(), Script(fail())
    call = compose(make.retry(5), breaker, source=script)
    breaker.open()
    driver.clock.advance(5.0)
    event_recorder.clear()
    with pytest.raises(CircuitOpenError) as caught:
        driver.call(call)
    assert (script.calls, caught.value.retry_after) == (1, 9.0)
    assert event_recorder.kinds == (
        *("CircuitHalfOpened", "CircuitOpened", "RetryScheduled", "CallRejected", "RetryGaveUp"),
    )


def test_a_permanent_error_is_neutral_and_final(driver: Driver, make: Make, compose: Compose) -> None:
    """An error that is permanent is not retried, and says nothing to the breaker, not even success."""
    breaker, script = make.breaker(window=WIDE), Script(fail(), fail(ValueError))
    outcomes = driver.outcomes(1, compose(make.retry(5), breaker, source=script))
    assert [type(outcome) for outcome in outcomes] == [ValueError]
    assert breaker.counts == WindowCounts(1, 1, 0)
    assert script.calls == 2


def is_none(result: object) -> bool:
    return result is None


@pytest.mark.parametrize(("judge", "failures"), [(None, 0), (is_none, 3)])
def test_a_refused_result_counts_where_it_is_judged(
    driver: Driver, make: Make, compose: Compose, judge: Callable[[object], bool] | None, failures: int
) -> None:
    """The retry's predicate on results is not the breaker's: each judges for itself."""
    breaker, script = make.breaker(window=WIDE, result=judge), Script(succeed(None))
    assert driver.call(compose(make.retry(3, result=is_none), breaker, source=script)) is None
    assert script.calls == 3
    assert breaker.counts == WindowCounts(3, failures, 0)


def test_one_hint_moves_both(
    driver: Driver, make: Make, compose: Compose, event_recorder: EventRecorder
) -> None:
    """A server's hint lengthens the open time and the delay alike, so that the retry comes when the probe is due."""
    breaker = make.breaker(1, on=BUSY)
    script = Script(fail(Busy(20.0)), succeed())
    call = compose(make.retry(2, wait=0.0, on=BUSY, hint_cap=0.0), breaker, source=script)
    assert driver.call(call) == "ok"
    assert driver.clock.sleeps == (20.0,)
    assert [event.open_for for event in event_recorder.of(CircuitOpened)] == [20.0]
    assert (breaker.rejected, breaker.state) == (0, CLOSED)


@pytest.mark.parametrize("step", [fail(after=3.0), succeed(after=3.0)])
def test_a_late_result_does_not_move_an_open_breaker(driver: Driver, make: Make, step: Step) -> None:
    """A call admitted before the trip votes neither for nor against anything when it ends after it."""
    breaker = make.breaker(1)
    slow, quick = (driver.decorate(breaker, script) for script in (Script(step), Script(fail())))
    outcomes = driver.together(driver.after(0.0, slow), driver.after(1.0, quick))
    late = str if step.error is None else ConnectionError
    assert [type(outcome) for outcome in outcomes] == [late, ConnectionError]
    assert (breaker.state, breaker.retry_after) == (OPEN, 3.0)


def test_a_late_failure_is_no_vote_among_probes(driver: Driver, make: Make) -> None:
    """A failure of a call admitted before the trip does not end the round of probes that runs when it comes."""
    breaker = make.breaker(1, half_open_calls=2)
    slow = driver.decorate(breaker, Script(fail(after=7.0)))
    quick = driver.decorate(breaker, Script(fail(), succeed()))

    async def state() -> CircuitState:
        return breaker.state

    outcomes = driver.together(
        driver.after(0.0, slow),
        *(driver.after(at, quick) for at in (1.0, 6.5)),
        *(driver.after(at, driver.function(state)) for at in (2.0, 6.8, 7.2)),
        driver.after(8.0, quick),
    )
    assert outcomes[3:6] == [OPEN, HALF_OPEN, HALF_OPEN]
    assert breaker.state is CLOSED


def test_a_late_failure_does_not_count_after_the_recovery(driver: Driver, make: Make) -> None:
    """A breaker that has closed again starts with an empty window: what was admitted before the trip is not in it."""
    breaker = make.breaker(1)
    slow = driver.decorate(breaker, Script(fail(after=9.0)))
    quick = driver.decorate(breaker, Script(fail(), succeed()))
    outcomes = driver.together(
        driver.after(0.0, slow), *(driver.after(at, quick) for at in (1.0, 7.0)), driver.after(10.0, quick)
    )
    assert [type(outcome) for outcome in outcomes] == [ConnectionError, ConnectionError, str, str]
    assert breaker.state is CLOSED


def test_a_late_failure_is_retried_into_the_open_breaker(driver: Driver, make: Make) -> None:
    """A failure that comes after the trip is retried like any other, and the retry is refused like any other."""
    breaker, script = make.breaker(1), Script(fail(after=3.0))
    slow = driver.decorate(make.pipeline(make.retry(5), breaker), script)
    quick = driver.decorate(breaker, Script(fail()))
    outcomes = driver.together(driver.after(0.0, slow), driver.after(1.0, quick))
    assert [type(outcome) for outcome in outcomes] == [CircuitOpenError, ConnectionError]
    assert (script.calls, breaker.rejected) == (1, 1)


@pytest.mark.parametrize(
    "begin", [CircuitBreaker.close, CircuitBreaker.half_open, CircuitBreaker.disable, CircuitBreaker.shadow]
)
@pytest.mark.parametrize("order", [1, -1])
def test_the_attempt_number_is_seen_through_a_breaker(
    driver: Driver, make: Make, compose: Compose, begin: Callable[[CircuitBreaker], None], order: int
) -> None:
    """`current_attempt()` counts 1, 2, 3 below a breaker in any state, inside the retry or around it."""
    seen: list[int] = []

    async def call() -> None:
        seen.append(current_attempt())
        if len(seen) < 3:
            raise ConnectionError

    breaker = make.breaker(half_open_calls=3, window=WIDE, failure_rate=1.0)
    begin(breaker)
    driver.call(compose(*(make.retry(3), breaker)[::order], source=call))
    assert seen == [1, 2, 3]
    assert current_attempt() == 1


def test_a_task_knows_the_attempt_that_it_was_made_in(virtual_clock: VirtualClock, make: Make) -> None:
    """A task that an attempt starts sees the number of that attempt, even when the call is long over."""
    tasks: list[asyncio.Task[int]] = []

    async def number() -> int:
        await virtual_clock.asleep(10.0)
        return current_attempt()

    @make.pipeline(make.retry(3), make.breaker())
    async def call() -> None:
        tasks.append(asyncio.create_task(number()))
        if len(tasks) < 3:
            raise ConnectionError

    async def main() -> list[int]:
        await call()
        return await asyncio.gather(*tasks)

    assert virtual_clock.run(main()) == [1, 2, 3]


def test_blocks_count_as_functions_do(driver: Driver, make: Make) -> None:
    """A breaker's block in a retry's loop counts attempts, and its rejection leaves the loop at once."""
    breaker, seen = make.breaker(2), list[int]()

    async def call() -> None:
        async for attempt in driver.attempts(make.retry(5)):
            with attempt:
                async with driver.block(breaker):
                    seen.append(attempt.number)
                    raise ConnectionError

    with pytest.raises(CircuitOpenError) as caught:
        driver.run(call)
    assert seen == [1, 2]
    assert driver.clock.sleeps == (1.0, 1.0)
    assert len(caught.value.__notes__) == 1


def test_a_loop_inside_a_block_is_one_call(driver: Driver, make: Make) -> None:
    """A retry's loop in a breaker's block is one call to the breaker, however many attempts it takes."""
    breaker = make.breaker(window=WIDE)

    async def call() -> int:
        async with driver.block(breaker):
            async for attempt in driver.attempts(make.retry(3)):
                with attempt:
                    if attempt.number < 3:
                        raise ConnectionError
                    return attempt.number
        raise AssertionError

    assert driver.run(call) == 3
    assert breaker.counts == WindowCounts(1, 0, 0)


def test_explain_tells_the_two_orders_apart(driver: Driver, make: Make) -> None:
    """A breaker around a retry without a budget is warned about; inside, or with a budget, it is not."""
    breaker, bound, script = make.breaker(), make.timeout(1.0), Script(succeed())
    inside = driver.compose("decorators", make.retry(), breaker, bound, source=script)
    outside = driver.compose("decorators", breaker, make.retry(), bound, source=script)
    budgeted = driver.compose("decorators", breaker, make.retry(budget=make.budget()), bound, source=script)
    assert [len(explain(fn).warnings) for fn in (inside, outside, budgeted)] == [0, 1, 0]
    assert "outside a retry without a budget" in explain(outside).warnings[0]
