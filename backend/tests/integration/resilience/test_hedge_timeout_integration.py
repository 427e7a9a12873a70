"""Hedge × timeout × retry × cancellation: bounds in both orders, and nothing that runs on when nobody waits."""

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Compose, Driver
from backend.tests.integration.resilience._make import Make
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.clock import SYSTEM
from holdfast.infrastructure.resilience.deadline import deadline_after, remaining
from holdfast.infrastructure.resilience.errors import TimeoutExceeded
from holdfast.infrastructure.resilience.events import CallTimedOut, HedgeStarted
from holdfast.infrastructure.resilience.hedge import Hedge, Quantile, hedge_errors
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.timeout import Timeout, abandoned_workers
from holdfast.infrastructure.resilience.window import Window, WindowCounts
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, hang, succeed
from holdfast.testing.recorder import EventRecorder

WIDE = Window.calls(100)
# How long a caller waits for cancelled attempts, at most.
GRACE = 0.05


def starts(script: Script) -> list[float]:
    """Return when each call came, seconds after the first."""
    return [at - script.times[0] for at in script.times]


# Timeouts inside


def test_an_attempt_that_hangs_is_cut(driver: Driver, make: Make, compose: Compose) -> None:
    """A timeout inside the hedge bounds each attempt; when all are cut, the first one's TimeoutExceeded comes out."""
    script = Script(hang())
    with pytest.raises(TimeoutExceeded) as caught:
        driver.call(compose(Hedge(1.0), make.punctual(2.0), source=script))
    assert (starts(script), driver.clock.elapsed) == ([0.0, 1.0], 3.0)
    assert [type(one) for one in hedge_errors(caught.value)] == [TimeoutExceeded]


def test_a_cut_attempt_sends_the_next(driver: Driver, make: Make, compose: Compose) -> None:
    """An attempt that is cut before a hedge is due sends it at that moment."""
    script = Script(hang(), succeed("hedge", after=0.25))
    assert driver.call(compose(Hedge(9.0), make.punctual(0.5), source=script)) == "hedge"
    assert (starts(script), driver.clock.elapsed) == ([0.0, 0.5], 0.75)


def test_hedges_that_are_cut_teach_the_delay(driver: Driver, make: Make) -> None:
    """An attempt timeout hides how long a call would have taken, not that it took that long."""
    policy = Hedge(Quantile(0.5, initial=1.0, samples=3))
    driver.outcomes(3, driver.decorate(make.pipeline(policy, make.punctual(2.0)), Script(hang())))
    assert policy.latency == pytest.approx(2.0, rel=0.2)


# Timeouts outside


def test_a_total_timeout_ends_every_attempt(driver: Driver, make: Make, compose: Compose) -> None:
    """A timeout around the hedge ends the call on time, and no attempt is made after it."""
    script, breaker = Script(hang()), make.breaker(window=WIDE, on=Exception)
    with pytest.raises(TimeoutExceeded):
        driver.call(compose(make.punctual(2.5), Hedge(1.0, max_hedges=9), breaker, source=script))
    assert (starts(script), driver.clock.elapsed) == ([0.0, 1.0, 2.0], 2.5)
    if driver.mode == "sync":
        # The hedge's own thread waits for its attempts, and sends none that nobody would wait for.
        assert abandoned_workers() == 1
    driver.close()
    assert (script.calls, abandoned_workers()) == (3, 0)


def test_no_hedge_after_the_deadline(
    driver: Driver, make: Make, compose: Compose, event_recorder: EventRecorder
) -> None:
    """A cooperative deadline that has passed stops hedges, not the calls that run."""
    script = Script(succeed("late", after=5.0), hang())
    call = compose(Hedge(1.0, max_hedges=9), source=script)

    async def within() -> Any:
        with deadline_after(2.5):
            return await driver.ask(call)

    assert driver.run(within) == "late"
    assert (starts(script), driver.clock.elapsed) == ([0.0, 1.0, 2.0], 5.0)
    assert len(event_recorder.of(HedgeStarted)) == 2


def test_a_failure_after_the_deadline_is_final(driver: Driver) -> None:
    """A call that fails when the deadline has passed is not made again."""
    script = Script(fail(after=3.0), succeed())
    call = driver.decorate(Hedge(9.0), script)

    async def within() -> Any:
        with deadline_after(2.5):
            return await driver.ask(call)

    with pytest.raises(ConnectionError):
        driver.run(within)
    assert script.calls == 1


def test_the_deadline_reaches_every_attempt(driver: Driver, make: Make) -> None:
    """`remaining()` in an attempt is what the timeout around the hedge leaves it."""
    left: list[float | None] = []

    async def call() -> None:
        left.append(remaining())
        await driver.sleep(2.0)

    driver.call(driver.decorate(make.pipeline(make.timeout(10.0), Hedge(0.5)), call))
    assert left == [10.0, 9.5]
    assert remaining() is None


# With retries


def test_retry_hedge_timeout(driver: Driver, make: Make, compose: Compose) -> None:
    """In the recommended order each attempt is hedged, and each call of it bounded."""
    script = Script(hang(), hang(), hang(), succeed("fourth", after=0.5))
    call = compose(make.retry(3), Hedge(1.0), make.punctual(2.0), source=script)
    assert driver.call(call) == "fourth"
    # Cut at 2 and 3, a wait of 1 s, then the same again with a hedge that answers.
    assert (starts(script), driver.clock.elapsed) == ([0.0, 1.0, 4.0, 5.0], 5.5)


def test_a_total_timeout_over_retry_and_hedge(driver: Driver, make: Make, compose: Compose) -> None:
    """The total time ends the hedged attempt in which it passes."""
    script = Script(hang())
    stack = make.punctual(4.5, name="total"), make.retry(9), Hedge(1.0), make.punctual(2.0, name="each")
    with pytest.raises(TimeoutExceeded) as caught:
        driver.call(compose(*stack, source=script))
    assert (caught.value.name, starts(script)) == ("total", [0.0, 1.0, 4.0])
    assert driver.clock.elapsed == 4.5


def test_a_retry_inside_ends_with_its_attempt(driver: Driver, make: Make, compose: Compose) -> None:
    """A loser that is itself a retry makes no further attempt, in its wait or in a call."""
    script = Script(fail(after=0.25), succeed("hedge", after=0.5), succeed("never"))
    assert driver.call(compose(Hedge(1.0), make.retry(3, wait=5.0), source=script)) == "hedge"
    driver.close()
    assert script.calls == 2


# Cancellation


async def cancelled_after(seconds: float, work: Coroutine[Any, Any, Any], clock: VirtualClock) -> float:
    """Cancel `work` after `seconds` and assert that it is cancelled; return how much later it ended."""
    task = asyncio.ensure_future(work)
    if seconds >= 0:
        await asyncio.sleep(0)
        await clock.asleep(seconds)
    task.cancel()
    asked = clock.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return clock.monotonic() - asked


# Before it begins (-1), in every phase of a call with two hedges and at the instants between: attempts begun by then.
POINTS = {-1.0: 0, 0.0: 1, 0.5: 1, 1.0: 2, 1.5: 2, 2.0: 2, 2.5: 3, 9.0: 3}
ORDERS: dict[str, Callable[[Make, CircuitBreaker], list[Policy]]] = {
    "hedge": lambda make, breaker: [Hedge(1.0, max_hedges=2), breaker],
    "retry, hedge, breaker, timeout": lambda make, breaker: [
        make.retry(3),
        Hedge(1.0, max_hedges=2),
        breaker,
        make.timeout(50.0),
    ],
    "timeout, hedge, retry, breaker": lambda make, breaker: [
        make.timeout(50.0),
        Hedge(1.0, max_hedges=2),
        make.retry(3),
        breaker,
    ],
}


@pytest.mark.parametrize("at", POINTS)
@pytest.mark.parametrize("order", ORDERS)
def test_a_cancelled_call_leaves_nothing(
    virtual_clock: VirtualClock, make: Make, event_recorder: EventRecorder, order: str, at: float
) -> None:
    """Wherever the caller is cancelled, every attempt ends at that instant, and none counts for anything."""
    breaker, script = make.breaker(window=WIDE, on=Exception), Script(hang())
    call = script.coroutine_function()
    for policy in reversed(ORDERS[order](make, breaker)):
        call = policy(call)
    assert virtual_clock.run(cancelled_after(at, call(), virtual_clock)) == 0.0
    assert (script.calls, breaker.counts) == (POINTS[at], WindowCounts(0, 0, 0))
    assert set(event_recorder.kinds) <= {"HedgeStarted"}


def stubborn(clock: VirtualClock, ended: list[float]) -> Callable[[], Coroutine[Any, Any, str]]:
    """Return a function that takes 5 s to end when it is cancelled."""

    async def call() -> str:
        try:
            await clock.asleep(100.0)
        finally:
            await clock.asleep(5.0)
            ended.append(clock.elapsed)
        return "never"

    return call


@pytest.mark.parametrize(("again", "later"), [(None, GRACE), (0.02, 0.02)])
def test_stubborn_attempts_are_awaited_for_the_grace(
    virtual_clock: VirtualClock, again: float | None, later: float
) -> None:
    """A cancelled caller waits for its attempts, for the grace at most, and not at all when cancelled again."""
    ended: list[float] = []
    call = Hedge(1.0)(stubborn(virtual_clock, ended))

    async def main() -> float:
        task = asyncio.ensure_future(call())
        await virtual_clock.asleep(1.5)
        task.cancel()
        if again is not None:
            await virtual_clock.asleep(again)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        took = virtual_clock.elapsed - 1.5
        assert len(asyncio.all_tasks()) == 1 + 2
        await virtual_clock.asleep(10.0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return took

    assert virtual_clock.run(main()) == pytest.approx(later)
    assert ended == [6.5, 6.5]


def test_a_timeout_waits_for_the_grace_only(
    virtual_clock: VirtualClock, make: Make, event_recorder: EventRecorder
) -> None:
    """A total timeout over stubborn attempts comes out as such, late by the grace."""
    ended: list[float] = []
    call = make.timeout(2.0)(Hedge(1.0)(stubborn(virtual_clock, ended)))

    async def main() -> float:
        with pytest.raises(TimeoutExceeded):
            await call()
        took = virtual_clock.elapsed
        await virtual_clock.asleep(10.0)
        return took

    assert virtual_clock.run(main()) == pytest.approx(2.0 + GRACE)
    assert ended == [7.0, 7.0]
    assert len(event_recorder.of(CallTimedOut)) == 1


def test_cancelled_while_a_loser_ends(virtual_clock: VirtualClock) -> None:
    """A caller that is cancelled in the grace for a loser is cancelled: its result is lost, and nothing else."""
    ended: list[float] = []
    calls = iter([stubborn(virtual_clock, ended), Script(succeed()).coroutine_function()])

    @Hedge(1.0)
    async def call() -> Any:
        return await next(calls)()

    async def main() -> None:
        task = asyncio.ensure_future(call())
        await virtual_clock.asleep(1.0 + GRACE / 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await virtual_clock.asleep(10.0)

    virtual_clock.run(main())
    assert ended == [6.0]


def test_a_cancelled_attempt_is_no_failure(virtual_clock: VirtualClock) -> None:
    """Code that raises CancelledError of its own ends the call as it would without a hedge."""

    @Hedge(1.0)
    async def call() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await call()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    virtual_clock.run(main())


def test_a_suspended_call_can_be_closed(virtual_clock: VirtualClock, make: Make) -> None:
    """A coroutine that is closed while its attempts run (GeneratorExit) cancels them."""
    breaker = make.breaker(1)
    breaker.half_open()
    call = Hedge(1.0)(breaker(Script(hang()).coroutine_function()))

    async def main() -> None:
        suspended = call()
        suspended.send(None)
        await asyncio.sleep(0)
        suspended.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    virtual_clock.run(main())
    assert breaker.admit().probe


def test_a_call_of_a_closed_loop_can_be_closed(virtual_clock: VirtualClock) -> None:
    """A coroutine that outlives its loop is closed without a word: there is nothing left to cancel."""
    suspended = Hedge(1.0)(Script(hang()).coroutine_function())()

    async def main() -> None:
        suspended.send(None)

    virtual_clock.run(main())
    suspended.close()


def test_the_end_of_a_loop_ends_hedged_calls(
    virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that ends while calls are hedged has no task destroyed, and no error that nobody retrieved."""
    calls = [Hedge(1.0)(script.coroutine_function()) for script in (Script(hang()), Script(fail(after=2.0)))]

    async def main() -> list[Any]:
        tasks = [asyncio.ensure_future(call()) for call in calls]
        await virtual_clock.asleep(1.5)
        return tasks

    tasks = virtual_clock.run(main())
    assert all(task.cancelled() for task in tasks)
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_an_outcome_at_the_instant_of_the_alarm(driver: Driver) -> None:
    """A call that ends at the instant at which its hedge is due has its result, hedged or not."""
    script = Script(succeed("first", after=1.0), hang())
    assert driver.call(driver.decorate(Hedge(1.0), script)) == "first"
    assert driver.clock.elapsed == 1.0


# Threads


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait up to ten real seconds for what another thread does."""
    until = SYSTEM.monotonic() + 10
    while not condition() and SYSTEM.monotonic() < until:
        SYSTEM.sleep(0.001)
    return condition()


@pytest.mark.parametrize("first", ["signal", "thread"])
def test_a_sync_caller_that_is_interrupted_leaves_counted_workers(first: Any) -> None:
    """Interrupted by its timeout, a sync caller returns; its attempts are counted until they end, and free then."""
    gate = threading.Event()

    @Timeout(0.2, sync=first)
    @Hedge(0.01, workers=2)
    def call() -> bool:
        return gate.wait()

    with pytest.raises(TimeoutExceeded):
        call()
    assert abandoned_workers() == (2 if first == "signal" else 1)
    gate.set()
    assert eventually(lambda: abandoned_workers() == 0)


def test_workers_are_free_again(driver: Driver) -> None:
    """After many hedged calls, won and lost, no worker is lost: the next call is hedged as the first was."""
    policy = Hedge(1.0, workers=2)
    for count in range(1, 4):
        script = Script(succeed("first", after=3.0), succeed("hedge", after=1.0))
        assert driver.call(driver.decorate(policy, script)) == "hedge"
        assert policy.won == count
        driver.close()


def test_threads_share_a_hedge(driver: Driver) -> None:
    """Calls at the same time from many threads or tasks each get their own outcome, and every hedge is counted."""
    policy = Hedge(1.0, workers=64)

    async def echo(number: int, calls: list[int]) -> int:
        calls.append(number)
        await driver.sleep(5.0 if len(calls) == 1 else 0.5)
        return number

    call = driver.decorate(policy, echo)
    outcomes = driver.together(*(driver.after(0.0, call, number, []) for number in range(12)))
    assert outcomes == [*range(12)]
    assert (policy.started, policy.won) == (12, 12)
