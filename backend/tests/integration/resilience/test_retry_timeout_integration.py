"""Retry × timeout: one bound for all attempts, one for each, and deadlines that the next attempt does not fit."""

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from backend.tests.integration.resilience._driver import Compose, Driver
from backend.tests.integration.resilience._make import BUSY, Busy, Make
from holdfast.infrastructure.resilience.deadline import current_deadline
from holdfast.infrastructure.resilience.errors import CircuitOpenError, TimeoutExceeded
from holdfast.infrastructure.resilience.events import CallTimedOut, RetryScheduled
from holdfast.infrastructure.resilience.pipeline import explain
from holdfast.infrastructure.resilience.retry import current_attempt
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, hang, succeed
from holdfast.testing.recorder import EventRecorder


def starts(script: Script) -> list[float]:
    """Return when each call came, seconds after the first."""
    return [at - script.times[0] for at in script.times]


def test_an_attempt_that_hangs_is_cut_and_retried(driver: Driver, make: Make, compose: Compose) -> None:
    """A timeout inside the retry bounds one attempt: the next one comes after it, and the wait."""
    script = Script(hang(), hang(), succeed())
    assert driver.call(compose(make.retry(3), make.punctual(2.0), source=script)) == "ok"
    assert starts(script) == [0.0, 3.0, 6.0]
    assert driver.clock.elapsed == 6.0


def test_the_last_timeout_comes_out(driver: Driver, make: Make, compose: Compose) -> None:
    """When every attempt hangs, the caller gets the last attempt's timeout, with the retry's note."""
    script = Script(hang())
    with pytest.raises(TimeoutExceeded) as caught:
        driver.call(compose(make.retry(3), make.punctual(2.0), source=script))
    assert (script.calls, driver.clock.elapsed) == (3, 8.0)
    assert (caught.value.seconds, caught.value.name) == (2.0, "bound")
    note = "holdfast: caller gave up after 3 attempts, 6 s after the first failure: no attempts left"
    assert caught.value.__notes__ == [note]


def test_every_cut_attempt_is_an_event(driver: Driver, make: Make, event_recorder: EventRecorder) -> None:
    """Subscribers see each timeout before the retry that it leads to."""
    call = driver.decorate(
        make.pipeline(make.retry(3), make.punctual(2.0)), Script(hang(), hang(), succeed())
    )
    driver.call(call)
    seen = [kind for kind in event_recorder.kinds if kind != "WorkerAbandoned"]
    assert seen == [*("CallTimedOut", "RetryScheduled") * 2, "RetrySucceeded"]
    assert [(event.name, event.seconds) for event in event_recorder.of(CallTimedOut)] == [("bound", 2.0)] * 2
    assert [type(event.error) for event in event_recorder.of(RetryScheduled)] == [TimeoutExceeded] * 2


@pytest.mark.parametrize("bound", [Make.timeout, Make.punctual])
def test_the_attempt_number_is_seen_through_a_timeout(
    driver: Driver, make: Make, compose: Compose, bound: Callable[[Make, float], Timeout]
) -> None:
    """`current_attempt()` counts 1, 2, 3 under timeouts in and around the retry, in a worker thread too."""
    seen: list[int] = []

    async def call() -> None:
        seen.append(current_attempt())
        if len(seen) < 3:
            raise ConnectionError

    driver.call(compose(bound(make, 60.0), make.retry(3), bound(make, 9.0), source=call))
    assert seen == [1, 2, 3]
    assert current_attempt() == 1


def test_a_pipelines_name_stands_in(driver: Driver, make: Make, event_recorder: EventRecorder) -> None:
    """Events of a retry and a timeout without names of their own carry the name of their pipeline."""
    stack = make.retry(2, name=None), make.punctual(2.0, name=None)
    driver.outcomes(1, driver.decorate(make.pipeline(*stack, name="payments"), Script(hang())))
    assert {event.name for event in event_recorder.events} == {"payments"}


def test_a_total_timeout_ends_a_hanging_attempt(driver: Driver, make: Make, compose: Compose) -> None:
    """A timeout outside the retry ends the call on time, and what it raises is not retried."""
    script = Script(hang())
    with pytest.raises(TimeoutExceeded) as caught:
        driver.call(compose(make.punctual(4.5, name="total"), make.retry(3), source=script))
    assert (caught.value.seconds, caught.value.name) == (4.5, "total")
    assert (script.calls, driver.clock.elapsed) == (1, 4.5)


@pytest.mark.parametrize(("total", "each", "begun"), [(4.5, 2.0, [0.0, 3.0]), (3.0, 9.0, [0.0])])
def test_both_bounds_together(
    driver: Driver, make: Make, total: float, each: float, begun: list[float]
) -> None:
    """Attempts are cut one by one, by the total time at the latest, and what that cuts is not retried."""
    script = Script(hang())
    stack = make.punctual(total, name="total"), make.retry(5), make.punctual(each, name="each")
    with pytest.raises(TimeoutExceeded) as caught:
        driver.call(driver.decorate(make.pipeline(*stack), script))
    assert starts(script) == begun
    assert (caught.value.name, caught.value.seconds) == ("total", total)
    assert driver.clock.elapsed == total


def test_a_wait_beyond_the_total_time_is_not_begun(driver: Driver, make: Make, compose: Compose) -> None:
    """A wait that the total time does not leave room for is not begun; the error is the attempt's own."""
    script = Script(fail())
    with pytest.raises(ConnectionError) as caught:
        driver.call(compose(make.punctual(2.5), make.retry(9), source=script))
    assert (script.calls, driver.clock.elapsed) == (3, 2.0)
    note = "3 attempts, 2 s after the first failure: the next delay of 1 s is not within the 0.5 s left"
    assert caught.value.__notes__ == [f"holdfast: caller gave up after {note}"]


@pytest.mark.parametrize(("deadline", "sleeps"), [(0.999, ()), (1.001, (1.0,)), (2.5, (1.0, 1.0))])
def test_a_deadline_that_the_next_delay_does_not_fit(
    driver: Driver, make: Make, compose: Compose, deadline: float, sleeps: tuple[float, ...]
) -> None:
    """A wait that ends before the retry's deadline is made, however late; before one that does not, it gives up."""
    script = Script(fail())
    with pytest.raises(ConnectionError) as caught:
        driver.call(compose(make.retry(9, deadline=deadline), source=script))
    assert (script.calls, driver.clock.sleeps) == (len(sleeps) + 1, sleeps)
    left = f"{deadline - len(sleeps):.3g} s left"
    assert caught.value.__notes__[0].endswith(f"the next delay of 1 s is not within the {left}")
    assert current_deadline() is None


@pytest.mark.parametrize(
    ("hint", "deadline", "calls"), [(3.0, 4.0, 2), (5.0, 4.0, 1), (120.0, None, 2), (121.0, None, 1)]
)
def test_a_hint_too_far_away_ends_the_call_now(
    driver: Driver, make: Make, hint: float, deadline: float | None, calls: int
) -> None:
    """When the server asks to come back after the deadline, or after two minutes, its error comes out at once."""
    error = Busy(hint)
    retry = make.retry(2, deadline=deadline, on=BUSY, hint_cap=0.0)
    outcomes = driver.outcomes(1, driver.decorate(retry, Script(fail(error))))
    assert outcomes == [error]
    assert driver.clock.sleeps == (hint,) * (calls - 1)
    assert f"gave up after {calls} attempt" in error.__notes__[0]


class Drawing(Random):
    """A source of chance that always draws the same."""

    def __init__(self, draw: float) -> None:
        super().__init__(0)
        self.draw = draw

    def random(self) -> float:
        return self.draw


@pytest.mark.parametrize(("hint", "draw", "slept"), [(3.0, 0.0, 3.0), (3.0, 0.5, 4.5), (8.0, 0.5, 10.5)])
def test_a_hint_within_the_deadline_is_never_shortened(
    driver: Driver, make: Make, hint: float, draw: float, slept: float
) -> None:
    """A hint is waited out in full, plus at most as much again or `hint_cap`, so that clients do not come in step."""
    retry = make.retry(2, deadline=20.0, on=BUSY, random=Drawing(draw))
    assert driver.call(driver.decorate(retry, Script(fail(Busy(hint)), succeed()))) == "ok"
    assert driver.clock.sleeps == (slept,)


@pytest.mark.parametrize(("takes", "elapsed"), [(0.999, 2 + 3 * 0.999), (1.0, 5.0)])
def test_an_attempt_that_fails_late_is_a_timeout(
    driver: Driver, make: Make, compose: Compose, takes: float, elapsed: float
) -> None:
    """An attempt that fails after its bound is a timeout caused by that failure; one that fails before is not."""
    error = ConnectionError("late")

    async def fail_after() -> None:
        driver.spend(takes)
        raise error

    (outcome,) = driver.outcomes(1, compose(make.retry(3), make.timeout(1.0), source=fail_after))
    assert driver.clock.elapsed == pytest.approx(elapsed)
    if takes < 1.0:
        assert outcome is error
    else:
        assert type(outcome) is TimeoutExceeded
        assert outcome.__cause__ is error


@pytest.mark.parametrize(
    "error", [ValueError("declined"), TypeError("a bug"), CircuitOpenError("inner", 1.0)], ids=repr
)
def test_a_permanent_error_stands_however_late(
    driver: Driver, make: Make, compose: Compose, error: Exception
) -> None:
    """An answer that is not to be retried is none the more so for coming late: one call, and the error itself."""
    calls: list[float] = []

    async def decline() -> None:
        calls.append(driver.clock.elapsed)
        driver.spend(5.0)
        raise error

    (outcome,) = driver.outcomes(1, compose(make.retry(3), make.timeout(1.0), source=decline))
    assert (outcome, calls) == (error, [0.0])


def test_a_late_result_stands_where_nothing_could_cut_it(driver: Driver, make: Make) -> None:
    """A cooperative timeout of a sync call lets a result pass, however late; in a loop it is a timeout."""

    async def late() -> str:
        await driver.sleep(5.0)
        return "late"

    outcomes = driver.outcomes(1, driver.decorate(make.pipeline(make.retry(2), make.timeout(1.0)), late))
    expected = ["late"] if driver.mode == "sync" else [TimeoutExceeded]
    assert [one if isinstance(one, str) else type(one) for one in outcomes] == expected


def test_the_deadline_of_a_retry_over_a_late_attempt(driver: Driver, make: Make, compose: Compose) -> None:
    """An attempt past the retry's deadline is cut in a loop; sync, its own error stands, and is the last."""

    async def slow() -> None:
        await driver.sleep(3.0)
        raise ConnectionError

    outcomes = driver.outcomes(1, compose(make.retry(9, deadline=5.0), source=slow))
    expected, elapsed = (ConnectionError, 7.0) if driver.mode == "sync" else (TimeoutExceeded, 5.0)
    assert [type(outcome) for outcome in outcomes] == [expected]
    assert driver.clock.elapsed == elapsed


def test_a_swallowed_cancellation_is_still_a_timeout(virtual_clock: VirtualClock, make: Make) -> None:
    """A callee that swallows the cancellation and returns does not turn a timed-out attempt into a success."""
    seen: list[int] = []

    @make.pipeline(make.retry(3), make.timeout(1.0))
    async def stubborn() -> str:
        seen.append(current_attempt())
        try:
            await virtual_clock.asleep(10.0)
        except asyncio.CancelledError:
            await virtual_clock.asleep(0.5)
        return "swallowed"

    with pytest.raises(TimeoutExceeded):
        virtual_clock.run(stubborn())
    assert seen == [1, 2, 3]
    assert virtual_clock.elapsed == 3 * 1.5 + 2 * 1.0


def test_a_total_timeout_is_not_swallowed_by_the_retry(virtual_clock: VirtualClock, make: Make) -> None:
    """A callee that makes an ordinary error of the cancellation does not get another attempt out of it."""
    seen: list[int] = []
    error = ConnectionError("cancelled, says the driver")

    @make.pipeline(make.timeout(1.0, name="total"), make.retry(3, wait=0.0))
    async def translating() -> None:
        seen.append(current_attempt())
        try:
            await virtual_clock.asleep(10.0)
        except asyncio.CancelledError:
            raise error from None

    with pytest.raises(TimeoutExceeded) as caught:
        virtual_clock.run(translating())
    assert seen == [1]
    assert caught.value.__cause__ is error


def test_a_foreign_cancellation_is_neither_a_timeout_nor_retried(
    virtual_clock: VirtualClock, make: Make
) -> None:
    """Whoever cancels the task gets `CancelledError`, during an attempt and during a wait alike."""

    async def cancelled_after(seconds: float) -> Script:
        script = Script(fail(after=1.0))
        call = make.pipeline(make.timeout(9.0), make.retry(5), make.timeout(3.0))(script.coroutine_function())
        task = asyncio.create_task(call())
        await virtual_clock.asleep(seconds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await virtual_clock.asleep(100.0)
        return script

    assert virtual_clock.run(cancelled_after(0.5)).calls == 1
    assert virtual_clock.run(cancelled_after(1.5)).calls == 1
    assert virtual_clock.run(cancelled_after(2.5)).calls == 2


def test_bounds_as_blocks(driver: Driver, make: Make) -> None:
    """A timeout's block around a retry's loop, and one in it, bound as the decorators do."""
    seen: list[int] = []

    async def call() -> None:
        async with driver.block(make.timeout(4.5, name="total")):
            async for attempt in driver.attempts(make.retry(9)):
                with attempt:
                    async with driver.block(make.timeout(2.0, name="each")):
                        seen.append(attempt.number)
                        driver.spend(2.0)
                        raise ConnectionError

    with pytest.raises(TimeoutExceeded) as caught:
        driver.run(call)
    assert seen == [1, 2]
    assert (caught.value.name, driver.clock.elapsed) == ("total", 5.0)


def test_a_loop_with_a_deadline(driver: Driver, make: Make) -> None:
    """The loop form of a retry keeps its deadline: the block sees it, and the error that came last comes out."""
    seen: list[float | None] = []

    async def call() -> None:
        async for attempt in driver.attempts(make.retry(9, deadline=2.5)):
            with attempt:
                seen.append(current_deadline())
                raise ConnectionError

    start = driver.clock.monotonic()
    with pytest.raises(ConnectionError) as caught:
        driver.run(call)
    assert seen == [start + 2.5] * 3
    assert "not within the 0.5 s left" in caught.value.__notes__[0]
    assert current_deadline() is None


def test_explain_adds_up_the_bounds(driver: Driver, make: Make) -> None:
    """The worst case of a stack is its tightest bound: the total, or all attempts and waits together."""
    inside = driver.decorate(make.pipeline(make.retry(3), make.timeout(2.0)), Script(succeed()))
    both = driver.decorate(
        make.pipeline(make.timeout(5.0), make.retry(3), make.timeout(2.0)), Script(succeed())
    )
    hopeless = driver.decorate(
        make.pipeline(make.retry(3, deadline=1.0), make.timeout(2.0)), Script(succeed())
    )
    assert [explain(fn).duration for fn in (inside, both, hopeless)] == [8.0, 5.0, 1.0]
    assert explain(both).warnings == ()
    assert "shorter than one attempt" in explain(hopeless).warnings[0]
