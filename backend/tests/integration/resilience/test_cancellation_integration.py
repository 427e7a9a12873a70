"""Seam: cancellation and exits × every point of every policy at which they can come."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Driver
from backend.tests.integration.resilience._make import Make
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.deadline import current_deadline
from holdfast.infrastructure.resilience.errors import TimeoutExceeded
from holdfast.infrastructure.resilience.events import CallTimedOut, CircuitHalfOpened, subscribe
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.retry import current_attempt
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window, WindowCounts
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, hang, succeed
from holdfast.testing.recorder import EventRecorder

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
EXITS: list[type[BaseException]] = [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]
WIDE = Window.calls(100)


def anything(error: object) -> bool:
    """Take everything for a failure, as a careless predicate does."""
    return True


def two(retry_state: Any) -> float:
    """Wait 2 s; as a callback, do nothing."""
    return 2.0


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
    return clock.monotonic() - asked


# A stack of three attempts of 1 s each, 2 s apart, is cancelled before it begins (-1), in the middle of every attempt
# and every wait, and at the instants at which these end: how many attempts have begun by then, and how many failed.
POINTS: dict[float, tuple[int, int]] = {
    -1.0: (0, 0),
    0.0: (1, 0),
    0.5: (1, 0),
    1.0: (1, 1),
    2.0: (1, 1),
    3.0: (1, 1),
    3.5: (2, 1),
    4.0: (2, 1),
    5.0: (2, 2),
    6.0: (2, 2),
    6.5: (3, 2),
}


STACKS: dict[str, Callable[[Make, CircuitBreaker], list[Policy]]] = {
    "retry": lambda make, breaker: [make.retry(3, wait=2.0)],
    "retry with strategies": lambda make, breaker: [make.retry(3, wait=two, before=two, after=two)],
    "retry, breaker": lambda make, breaker: [make.retry(3, wait=2.0), breaker],
    "breaker, retry": lambda make, breaker: [breaker, make.retry(3, wait=2.0)],
    "timeout, retry, breaker, timeout": lambda make, breaker: [
        make.timeout(60.0),
        make.retry(3, wait=2.0, deadline=50.0),
        breaker,
        make.timeout(30.0),
    ],
    "retry, family, breaker that listens": lambda make, breaker: [
        make.retry(3, wait=2.0),
        make.breakers(100, key=lambda: "key", slow_call_duration=40.0),
        make.breaker(100, listeners=(object(),)),
        breaker,
    ],
}


WITH_BREAKER = [name for name in STACKS if "breaker" in name]
BREAKER_INSIDE = [name for name in WITH_BREAKER if name != "breaker, retry"]


@pytest.mark.parametrize("at", POINTS)
@pytest.mark.parametrize("stack", STACKS)
def test_cancellation_passes_at_once_and_is_neutral(
    virtual_clock: VirtualClock, make: Make, event_recorder: EventRecorder, stack: str, at: float
) -> None:
    """Wherever a task is cancelled, it ends at that instant, makes no other attempt and counts for nothing."""
    breaker = make.breaker(window=WIDE, min_calls=100, on=anything)
    script = Script(fail(after=1.0))
    call = script.coroutine_function()
    for policy in reversed(STACKS[stack](make, breaker)):
        call = policy(call)
    assert virtual_clock.run(cancelled_after(at, call(), virtual_clock)) == 0.0
    begun, failed = POINTS[at]
    inside = stack in BREAKER_INSIDE
    assert (script.calls, breaker.counts) == (begun, WindowCounts(failed * inside, failed * inside, 0))
    assert set(event_recorder.kinds) <= {"RetryScheduled"}
    virtual_clock.advance(100.0)
    assert script.calls == begun
    assert breaker.admit().probe is False


@pytest.mark.parametrize("at", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("stack", WITH_BREAKER)
def test_a_cancelled_probe_gives_its_place_back(
    virtual_clock: VirtualClock, make: Make, stack: str, at: float
) -> None:
    """A half-open breaker whose probe is cancelled stays half-open, and the next caller may probe."""
    breaker = make.breaker(1, on=anything)
    breaker.half_open()
    script = Script(hang())
    call = script.coroutine_function()
    for policy in reversed(STACKS[stack](make, breaker)):
        call = policy(call)
    for _ in range(3):
        assert virtual_clock.run(cancelled_after(at, call(), virtual_clock)) == 0.0
        assert breaker.state is HALF_OPEN
    good = breaker(Script(succeed()).coroutine_function())
    assert virtual_clock.run(good()) == "ok"
    assert breaker.state is CLOSED


def test_a_call_that_never_began_costs_nothing(virtual_clock: VirtualClock, make: Make) -> None:
    """A coroutine that is closed before its first step, or cancelled with its task, takes no probe."""
    breaker, script = make.breaker(1), Script(succeed())
    call = make.retry()(breaker(script.coroutine_function()))
    breaker.half_open()

    async def main() -> None:
        call().close()
        task = asyncio.ensure_future(call())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    virtual_clock.run(main())
    assert script.calls == 0
    assert breaker.admit().probe


def test_a_suspended_call_that_is_closed_gives_its_probe_back(
    virtual_clock: VirtualClock, make: Make
) -> None:
    """A coroutine that is closed while it waits (GeneratorExit) is neutral."""
    breaker = make.breaker(1)
    breaker.half_open()

    async def waits() -> None:
        await asyncio.get_running_loop().create_future()

    call = make.retry()(breaker(waits))

    async def main() -> None:
        suspended = call()
        suspended.send(None)
        suspended.close()

    virtual_clock.run(main())
    assert breaker.state is HALF_OPEN
    assert breaker.admit().probe


@pytest.mark.parametrize("at", [0.5, 1.5, 2.5])
@pytest.mark.parametrize("kind", ["callback of tenacity's", "wait of tenacity's"])
def test_cancellation_reaches_an_awaited_callback(
    virtual_clock: VirtualClock, make: Make, event_recorder: EventRecorder, kind: str, at: float
) -> None:
    """A task that is cancelled while an async callback runs ends there: the callback did not fail."""

    async def slow(retry_state: Any) -> float:
        await virtual_clock.asleep(3.0)
        return 0.0

    settings: dict[str, Any] = {"before_sleep": slow} if kind.startswith("callback") else {"wait": slow}
    script = Script(fail())
    call = make.retry(3, **settings)(script.coroutine_function())
    assert virtual_clock.run(cancelled_after(at, call(), virtual_clock)) == 0.0
    assert script.calls == 1
    assert "CallbackFailed" not in event_recorder.kinds


# Loops over attempts and blocks


@pytest.mark.parametrize("at", POINTS)
def test_cancellation_ends_a_loop_over_attempts(virtual_clock: VirtualClock, make: Make, at: float) -> None:
    """A loop that is cancelled in a block or between two ends at once, and leaves no number and no deadline."""
    seen: list[int] = []
    left: list[tuple[int, float | None]] = []

    async def loop() -> None:
        try:
            async for attempt in make.retry(3, wait=2.0, deadline=50.0):
                with attempt:
                    seen.append(attempt.number)
                    await virtual_clock.asleep(1.0)
                    raise ConnectionError
        finally:
            left.append((current_attempt(), current_deadline()))

    assert virtual_clock.run(cancelled_after(at, loop(), virtual_clock)) == 0.0
    assert len(seen) == POINTS[at][0]
    assert left == ([] if at < 0 else [(1, None)])


def test_a_cancelled_block_of_a_breaker_is_neutral(virtual_clock: VirtualClock, make: Make) -> None:
    """`async with breaker:` that is cancelled gives its probe back."""
    breaker = make.breaker(1)
    breaker.half_open()

    async def block() -> None:
        async with breaker:
            await virtual_clock.asleep(10.0)

    virtual_clock.run(cancelled_after(5.0, block(), virtual_clock))
    assert breaker.state is HALF_OPEN
    assert breaker.admit().probe


def test_a_cancelled_block_of_a_timeout_is_not_a_timeout(
    virtual_clock: VirtualClock, make: Make, event_recorder: EventRecorder
) -> None:
    """`async with timeout:` that somebody else cancels raises the cancellation, and tells of no timeout."""

    async def block() -> None:
        async with make.timeout(10.0):
            await virtual_clock.asleep(20.0)

    virtual_clock.run(cancelled_after(5.0, block(), virtual_clock))
    assert event_recorder.kinds == ()


# Timeouts and cancellation together


@pytest.mark.parametrize("at", [1.9, 2.1])
@pytest.mark.parametrize("stack", ["timeout", "timeout, retry", "retry, timeout", "timeout, breaker"])
def test_cancellation_and_timeout_are_told_apart(
    virtual_clock: VirtualClock, make: Make, event_recorder: EventRecorder, stack: str, at: float
) -> None:
    """Just before the bound a cancellation is one; just after it, the bound has been reported already."""
    policies: dict[str, list[Policy]] = {
        "timeout": [make.timeout(2.0)],
        "timeout, retry": [make.timeout(2.0), make.retry(5)],
        "retry, timeout": [make.retry(1), make.timeout(2.0)],
        "timeout, breaker": [make.timeout(2.0), make.breaker(1)],
    }
    call = Script(hang()).coroutine_function()
    for policy in reversed(policies[stack]):
        call = policy(call)

    async def main() -> BaseException:
        task = asyncio.ensure_future(call())
        await virtual_clock.asleep(at)
        task.cancel()
        try:
            await task
        except (asyncio.CancelledError, TimeoutExceeded) as error:
            return error
        raise AssertionError

    outcome = virtual_clock.run(main())
    assert type(outcome) is (asyncio.CancelledError if at < 2 else TimeoutExceeded)
    assert len(event_recorder.of(CallTimedOut)) == (at > 2)


def test_cancelling_a_group_cancels_every_call(virtual_clock: VirtualClock, make: Make) -> None:
    """A task group that fails cancels its other calls, in an attempt or in a wait: no probe, no attempt is left."""
    breaker = make.breaker(window=WIDE, min_calls=100, on=anything)
    script = Script(fail(after=1.0))
    call = make.retry(9, wait=2.0)(breaker(script.coroutine_function()))

    async def fails() -> None:
        await virtual_clock.asleep(3.5)
        raise KeyError

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for begin in (0.0, 1.0, 2.0):
                group.create_task(later(begin))
            group.create_task(fails())

    async def later(seconds: float) -> None:
        await virtual_clock.asleep(seconds)
        await call()

    with pytest.raises(ExceptionGroup) as caught:
        virtual_clock.run(main())
    assert [type(error) for error in caught.value.exceptions] == [KeyError]
    assert (script.calls, breaker.counts) == (4, WindowCounts(3, 3, 0))
    assert virtual_clock.elapsed == 3.5


def test_a_foreign_timeout_cancels_as_any_task_does(virtual_clock: VirtualClock, make: Make) -> None:
    """`asyncio.timeout` around a stack raises its own TimeoutError, at its own time, and nothing counts."""
    breaker = make.breaker(1)
    call = make.retry(9)(breaker(Script(hang()).coroutine_function()))

    async def main() -> None:
        async with asyncio.timeout(2.5):
            await call()

    with pytest.raises(TimeoutError) as caught:
        virtual_clock.run(main())
    assert type(caught.value) is TimeoutError
    assert (virtual_clock.elapsed, breaker.state, breaker.counts) == (2.5, CLOSED, WindowCounts(0, 0, 0))


# Budgets


@pytest.mark.parametrize("kind", ["tenacity", "plain"])
def test_a_retry_that_was_not_made_is_refunded(virtual_clock: VirtualClock, make: Make, kind: str) -> None:
    """A retry that is cancelled in its wait was decided, but never made: a budget that refunds gets its price back."""
    budget = RetryBudget.aws(tokens=100.0)
    settings: dict[str, Any] = {"wait": two} if kind == "tenacity" else {"wait": 2.0}
    call = make.retry(3, budget=budget, **settings)(Script(fail()).coroutine_function())
    virtual_clock.run(cancelled_after(1.0, call(), virtual_clock))
    assert budget.tokens == 100.0


def test_a_sync_retry_that_was_not_made_is_refunded(make: Make) -> None:
    """A wait that is interrupted gives the price of the retry back in sync code, too."""
    clock, budget = InterruptedClock(), RetryBudget.aws(tokens=100.0)
    with use_clock(clock), pytest.raises(KeyboardInterrupt):
        make.retry(3, wait=2.0, budget=budget)(Script(fail(), clock=clock).function())()
    assert budget.tokens == 100.0


# Exits


class InterruptedClock(VirtualClock):
    """A clock whose waits end in what somebody at the keyboard does."""

    error: type[BaseException] = KeyboardInterrupt

    def sleep(self, seconds: float) -> None:
        """Interrupt."""
        raise self.error

    async def asleep(self, seconds: float) -> None:
        """Interrupt."""
        raise self.error


@pytest.mark.parametrize(("after", "exit_"), [(after, exit_) for after in (0, 1, 2) for exit_ in EXITS])
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("mode", ["sync"], indirect=True)
def test_an_exit_passes_at_once_and_is_neutral(  # noqa: PLR0917  # pytest gives them by name
    driver: Driver,
    make: Make,
    event_recorder: EventRecorder,
    stack: str,
    after: int,
    exit_: type[BaseException],
) -> None:
    """What is no `Exception`, raised by any attempt, comes out untouched: not retried, not counted, without a note."""
    breaker = make.breaker(window=WIDE, min_calls=100, on=anything)
    error = exit_("told")
    script = Script(*[fail(after=1.0)] * after, fail(error, after=1.0), succeed())
    call = driver.compose("decorators", *STACKS[stack](make, breaker), source=script)
    with pytest.raises(exit_) as caught:
        driver.call(call)
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    assert script.calls == after + 1
    inside = stack in BREAKER_INSIDE
    assert breaker.counts == WindowCounts(after * inside, after * inside, 0)
    assert event_recorder.kinds == ("RetryScheduled",) * after


@pytest.mark.parametrize("exit_", [GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("mode", ["async"], indirect=True)
def test_an_exit_that_async_code_raises_passes_too(
    driver: Driver, make: Make, stack: str, after: int, exit_: type[BaseException]
) -> None:
    """A coroutine that raises CancelledError or GeneratorExit itself is not retried either."""
    breaker = make.breaker(window=WIDE, min_calls=100, on=anything)
    script = Script(*[fail(after=1.0)] * after, fail(exit_("told"), after=1.0), succeed())
    call = driver.compose("decorators", *STACKS[stack](make, breaker), source=script)
    seen: list[BaseException] = []

    async def main() -> None:
        try:
            await driver.ask(call)
        except BaseException as error:
            seen.append(error)

    driver.run(main)
    assert [type(error) for error in seen] == [exit_]
    assert script.calls == after + 1
    assert breaker.counts.failures == breaker.counts.calls


@pytest.mark.parametrize(
    ("mode", "exit_"),
    # An event loop stops for the first two.
    [*(("sync", exit_) for exit_ in EXITS), *(("async", exit_) for exit_ in EXITS[2:])],
    indirect=["mode"],
)
@pytest.mark.parametrize("stack", WITH_BREAKER)
def test_an_exit_gives_the_probe_back(
    driver: Driver, make: Make, stack: str, exit_: type[BaseException]
) -> None:
    """A half-open probe that ends in an exit leaves its place to the next."""
    breaker = make.breaker(1, on=anything)
    breaker.half_open()
    call = driver.compose("decorators", *STACKS[stack](make, breaker), source=Script(fail(exit_), succeed()))

    async def main() -> str:
        try:
            await driver.ask(call)
        except exit_:
            pass
        assert breaker.state is HALF_OPEN
        return str(await driver.ask(call))

    assert driver.run(main) == "ok"
    assert breaker.state is CLOSED


@pytest.mark.parametrize("exit_", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("stack", STACKS)
def test_an_exit_ends_a_sync_wait(
    make: Make, event_recorder: EventRecorder, stack: str, exit_: type[BaseException]
) -> None:
    """Somebody who interrupts a backoff gets out at once: no other attempt, and the breaker is as it was."""
    clock = InterruptedClock()
    clock.error = exit_
    breaker = make.breaker(window=WIDE, min_calls=100, on=anything)
    script = Script(fail(ConnectionError("first")), clock=clock)
    call = script.function()
    for policy in reversed(STACKS[stack](make, breaker)):
        call = policy(call)
    with use_clock(clock), pytest.raises(exit_):
        call()
    assert script.calls == 1
    assert event_recorder.kinds == ("RetryScheduled",)
    assert breaker.admit().probe is False


@pytest.mark.parametrize("exit_", EXITS)
@pytest.mark.parametrize("kind", ["predicate", "result predicate", "listener", "callback", "key"])
@pytest.mark.parametrize("mode", ["sync"], indirect=True)
def test_an_exit_in_a_users_function_passes(
    driver: Driver, make: Make, event_recorder: EventRecorder, kind: str, exit_: type[BaseException]
) -> None:
    """Somebody who interrupts while a predicate or listener runs gets out: that is no failed callback."""

    def exits(*_: object, **__: object) -> bool:
        raise exit_

    class Listener:
        failure = before_call = staticmethod(exits)

    stacks: dict[str, list[Policy]] = {
        "predicate": [make.retry(on=exits)],
        "result predicate": [make.retry(result=exits)],
        "listener": [make.breaker(listeners=(Listener(),))],
        "callback": [make.retry(before_sleep=exits)],
        "key": [make.breakers(key=exits)],
    }
    script = Script(succeed() if kind == "result predicate" else fail())
    with pytest.raises(exit_):
        driver.call(driver.compose("decorators", *stacks[kind], source=script))
    assert "CallbackFailed" not in event_recorder.kinds


@pytest.mark.parametrize("exit_", EXITS)
@pytest.mark.parametrize("who", ["listener", "subscriber"])
def test_an_exit_while_a_probe_is_told_gives_its_place_back(
    virtual_clock: VirtualClock, make: Make, who: str, exit_: type[BaseException]
) -> None:
    """A call that is interrupted while others are told of its probe was never made: the next may probe."""

    def exits(*_: object) -> None:
        raise exit_

    class Listener:
        state_change = staticmethod(exits)

    breaker = make.breaker(1)
    breaker.open()
    virtual_clock.advance(5.0)
    if who == "listener":
        breaker.add_listener(Listener())
    calls: list[int] = []
    with subscribe(exits, CircuitHalfOpened) if who == "subscriber" else nullcontext(), pytest.raises(exit_):
        breaker(lambda: calls.append(1))()
    assert (calls, breaker.state) == ([], HALF_OPEN)
    assert breaker.admit().probe


@pytest.mark.parametrize("exit_", [KeyboardInterrupt, SystemExit])
def test_an_exit_ends_a_sync_loop_over_attempts(
    virtual_clock: VirtualClock, make: Make, exit_: type[BaseException]
) -> None:
    """`with attempt:` swallows no exit, and leaves no number and no deadline behind."""
    seen: list[int] = []

    def loop() -> None:
        for attempt in make.retry(5, deadline=50.0):
            with attempt:
                seen.append(attempt.number)
                raise exit_ if len(seen) == 2 else ConnectionError

    with pytest.raises(exit_):
        loop()
    assert (seen, current_attempt(), current_deadline()) == ([1, 2], 1, None)
