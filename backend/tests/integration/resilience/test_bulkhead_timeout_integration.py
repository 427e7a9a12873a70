"""Seam: bulkhead × timeouts, deadlines and cancellation: no place is ever lost, whenever somebody stops waiting."""

import asyncio
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Compose, Driver, driver_of
from backend.tests.integration.resilience._make import Make
from holdfast.infrastructure.resilience.bulkhead import Bulkhead
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.deadline import deadline_after
from holdfast.infrastructure.resilience.errors import BulkheadFullError, TimeoutExceeded
from holdfast.infrastructure.resilience.timeout import abandoned_workers
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, succeed
from holdfast.testing.recorder import EventRecorder

CANCELLATIONS = 10_000


def idle(places: Bulkhead) -> bool:
    """Return whether nobody is inside or waits, and just as many as the limit says get in."""
    if (places.running, places.waiting) != (0, 0):
        return False
    for _ in range(places.limit):
        places.__enter__()
    full = places.running == places.limit
    try:
        with deadline_after(0):
            places.__enter__()
        full = False
    except BulkheadFullError:
        pass
    while places.running:
        places.__exit__(None, None, None)
    return full


class Crowd:
    """Calls under a bulkhead that count who is inside, and in which order they began."""

    def __init__(self, places: Bulkhead) -> None:
        self.places = places
        self.inside = self.most = 0
        self.begun: list[int] = []
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        """Come in."""
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *_: object) -> None:
        """Go out."""
        with self.lock:
            self.inside -= 1


async def ended(task: asyncio.Task[Any]) -> str:
    """Return how a task ended."""
    try:
        await task
    except asyncio.CancelledError:
        return "cancelled"
    except (BulkheadFullError, TimeoutExceeded) as error:
        return type(error).__name__
    return "done"


def race(*bodies: Callable[[], None]) -> None:
    """Run each in a thread of its own, switched between as often as can be, and see that all of them end."""
    threads = [threading.Thread(target=body, daemon=True) for body in bodies]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for one in threads:
            one.start()
        for one in threads:
            one.join(60)
    finally:
        sys.setswitchinterval(before)
    assert not any(one.is_alive() for one in threads)


# No place is lost


def test_no_place_is_lost_in_ten_thousand_cancellations(
    virtual_clock: VirtualClock, make: Make, seeded_random: int
) -> None:
    """Cancel 10,000 calls at random instants, hand-offs among them: the limit holds, everybody ends, all is free."""
    chance = random.Random(seeded_random)
    places = Bulkhead(3, queue=12, max_wait=2.0)
    crowd = Crowd(places)
    how: Counter[str] = Counter()

    async def work(call: object, seconds: float) -> None:
        begun.add(call)
        with crowd:
            await virtual_clock.asleep(seconds)

    begun: set[object] = set()
    bounded = make.timeout(4.0)(places(work))
    plain = places(work)

    async def life(comes: float) -> None:
        # Few different instants: arrivals, ends, bounds and cancellations meet at each of them.
        await virtual_clock.asleep(comes)
        call = object()
        task = asyncio.ensure_future(chance.choice((bounded, plain))(call, chance.choice((0.0, 1.0, 3.0))))
        await virtual_clock.asleep(chance.choice((0.0, 1.0, 2.0, 3.0, 5.0)))
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
        handing_over = places.running > crowd.inside
        task.cancel()
        outcome = await ended(task)
        how[outcome] += 1
        if outcome == "cancelled":
            how["ran" if call in begun else "given a place" if handing_over else "waited"] += 1

    async def main() -> None:
        while how["cancelled"] < CANCELLATIONS:
            await asyncio.gather(*(life(float(chance.randrange(100))) for _ in range(500)))
            assert (places.running, places.waiting, crowd.inside) == (0, 0, 0)

    virtual_clock.run(main())
    assert (crowd.most, idle(places)) == (3, True)
    # Calls were cancelled that ran, that waited, and while places were on their way; others ended in every other way.
    assert min(how[each] for each in ("ran", "waited", "given a place")) > 100
    assert min(how[each] for each in ("done", "BulkheadFullError", "TimeoutExceeded")) > 100


def test_a_cancellation_at_the_moment_of_the_hand_off_passes_the_place_on(
    virtual_clock: VirtualClock,
) -> None:
    """A task that has the place but has not run yet, and one that is to get it, may be cancelled: the next runs."""
    for rounds in range(5):
        places = Bulkhead(1, queue=2)
        begun: list[str] = []

        async def work(who: str, seconds: float, begun: list[str] = begun) -> None:
            begun.append(who)
            await virtual_clock.asleep(seconds)

        call = places(work)

        async def main(
            call: Callable[[str, float], Coroutine[Any, Any, None]] = call, rounds: int = rounds
        ) -> list[str]:
            tasks = [asyncio.ensure_future(call(who, 1.0)) for who in "abc"]
            await virtual_clock.asleep(1.0)
            for _ in range(rounds):
                await asyncio.sleep(0)
            tasks[1].cancel()
            return [await ended(task) for task in tasks]

        assert virtual_clock.run(main()) == ["done", "cancelled", "done"]
        assert begun in (["a", "c"], ["a", "b", "c"])
        assert idle(places)


async def cancel_some(places: Bulkhead, crowd: Crowd, chance: random.Random, how: Counter[str]) -> None:
    """Send tasks in by sixes and cancel about half of them, some rounds later."""

    async def inside() -> None:
        async with places:
            with crowd:
                await asyncio.sleep(0)

    for _ in range(100):
        tasks = [asyncio.ensure_future(inside()) for _ in range(6)]
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        for task in tasks:
            if chance.random() < 0.5:
                task.cancel()
        for task in tasks:
            how[await ended(task)] += 1


def test_no_place_is_lost_among_real_threads_and_loops(seeded_random: int) -> None:
    """Threads whose waits run out, and tasks of two loops that are cancelled, leave every place free behind them."""
    places = Bulkhead(2, queue=6, max_wait=0.0005)
    crowd = Crowd(places)
    how: list[Counter[str]] = [Counter() for _ in range(6)]

    def work() -> None:
        with crowd:
            sum(range(50))

    call = places(work)

    def thread(at: int) -> None:
        for _ in range(600):
            try:
                call()
                how[at]["done"] += 1
            except BulkheadFullError:
                how[at]["BulkheadFullError"] += 1

    def loop(at: int) -> None:
        asyncio.run(cancel_some(places, crowd, random.Random(seeded_random + at), how[at]))

    race(*(partial(thread, at) for at in range(4)), *(partial(loop, at) for at in (4, 5)))
    counts = sum(how, Counter[str]())
    assert counts.total() == 4 * 600 + 2 * 600
    assert (crowd.most <= 2, places.rejected, idle(places)) == (True, counts["BulkheadFullError"], True)
    assert counts["cancelled"] > 0 < counts["done"]


def test_no_place_is_lost_among_threads_without_a_queue() -> None:
    """Eight threads that race for two places never hold three, and leave two; refusals are counted exactly."""
    places = Bulkhead(2)
    crowd = Crowd(places)
    refused = [0] * 8

    def work() -> None:
        with crowd:
            pass

    call = places(work)

    def body(at: int) -> None:
        for _ in range(1500):
            try:
                call()
            except BulkheadFullError:
                refused[at] += 1

    race(*(partial(body, at) for at in range(8)))
    assert (crowd.most <= 2, places.rejected, idle(places)) == (True, sum(refused), True)


def test_resizing_while_threads_race_loses_nothing() -> None:
    """A limit that changes all the time leaves as many places as it says in the end, and nobody asleep."""
    places = Bulkhead(2, queue=8)

    def body() -> None:
        for _ in range(500):
            places.call(int)

    def resize() -> None:
        for at in range(1000):
            places.resize((1, 4, 2, 3)[at % 4])

    race(resize, *[body] * 6)
    assert (places.limit, places.rejected, idle(places)) == (3, 0, True)


# A timeout around the bulkhead


def test_a_timeout_around_a_waiting_call_ends_the_wait(driver: Driver, make: Make) -> None:
    """The bound ends the wait on time, sync as a refusal; the call is not made, and its place goes to the next."""
    places = Bulkhead(1, queue=2)
    script = Script(succeed(after=1.0))
    fn = driver.function(script)
    bounded = make.timeout(3.0)(places(fn))
    ends: list[float] = []

    async def holder() -> None:
        async with driver.block(places):
            await driver.sleep(5.0)

    async def waiter() -> Any:
        outcome = await driver.outcome(bounded)
        ends.append(driver.clock.elapsed)
        return outcome

    found = driver.together(holder, waiter, driver.after(1.0, places(fn)))
    assert type(found[1]) is (BulkheadFullError if driver.mode == "sync" else TimeoutExceeded)
    assert (ends, found[2]) == ([3.0], "ok")
    assert [at - 1000.0 for at in script.times] == [5.0]
    assert idle(places)


def test_a_bound_of_the_wait_comes_before_that_of_the_call(
    driver: Driver, make: Make, compose: Compose
) -> None:
    """Where `max_wait` is over first, the caller gets BulkheadFullError, in every form of the stack."""
    places = Bulkhead(1, queue=1, max_wait=2.0)
    fn = compose(make.timeout(3.0), places, source=Script(succeed()))

    async def scenario() -> Any:
        async with driver.block(places):
            return await driver.outcome(fn)

    assert isinstance(driver.run(scenario), BulkheadFullError)
    assert (driver.clock.elapsed, places.rejected, idle(places)) == (2.0, 1, True)


def test_the_wait_uses_up_the_time_of_the_call(driver: Driver, make: Make) -> None:
    """Under a timeout around both, a call that waited 2 of 3 seconds has one left."""
    places = Bulkhead(1, queue=1)
    script = Script(succeed(after=2.0))
    bounded = make.punctual(3.0)(places(driver.function(script)))
    ends: list[float] = []

    async def holder() -> None:
        async with driver.block(places):
            await driver.sleep(2.0)

    async def waiter() -> Any:
        outcome = await driver.outcome(bounded)
        ends.append(driver.clock.elapsed)
        return outcome

    _, outcome = driver.together(holder, waiter)
    assert isinstance(outcome, TimeoutExceeded)
    assert (ends, script.times) == ([3.0], (1002.0,))
    driver.close()
    assert idle(places)


def test_a_deadline_is_no_reason_to_refuse_where_a_place_is_free(driver: Driver, make: Make) -> None:
    """The bulkhead drops those who wait too long; whether a call that need not wait is worth it, others decide."""
    places = Bulkhead(1)
    fn = driver.decorate(places, Script(succeed()))

    async def scenario() -> Any:
        with deadline_after(-1.0):
            return await driver.outcome(fn)

    assert (driver.run(scenario), places.rejected) == ("ok", 0)


def test_the_end_of_a_wait_is_told_once(driver: Driver, make: Make, event_recorder: EventRecorder) -> None:
    """A wait that a timeout cuts off is told as CallTimedOut; sync, where nothing cancels it, as a rejection."""
    places = Bulkhead(1, queue=1)
    bounded = make.timeout(1.0)(places(driver.function(Script(succeed()))))

    async def scenario() -> Any:
        async with driver.block(places):
            return await driver.outcome(bounded)

    refused = driver.mode == "sync"
    assert type(driver.run(scenario)) is (BulkheadFullError if refused else TimeoutExceeded)
    assert event_recorder.kinds == (("CallRejected",) if refused else ("CallTimedOut",))
    assert (places.rejected, idle(places)) == (int(refused), True)


# A timeout inside the bulkhead


def test_a_timeout_inside_does_not_count_the_wait(driver: Driver, make: Make) -> None:
    """An attempt's bound begins with the attempt: a call that waited 3 s has all of its 2 s."""
    places = Bulkhead(1, queue=1)
    fn = driver.compose("decorators", places, make.punctual(2.0), source=Script(succeed(after=1.9)))
    ends: list[float] = []

    async def holder() -> None:
        async with driver.block(places):
            await driver.sleep(3.0)

    async def waiter() -> Any:
        outcome = await driver.outcome(fn)
        ends.append(driver.clock.elapsed)
        return outcome

    assert driver.together(holder, waiter) == [None, "ok"]
    assert ends == [pytest.approx(4.9)]
    assert idle(places)


def test_a_timeout_inside_frees_the_place_on_time(driver: Driver, make: Make) -> None:
    """When the bound inside strikes, the place is handed on at that instant."""
    places = Bulkhead(1, queue=1)
    script = Script(succeed(after=9.0), succeed())
    fn = driver.compose("decorators", places, make.punctual(2.0), source=script)

    first, second = driver.together(lambda: driver.outcome(fn), driver.after(1.0, fn))
    assert isinstance(first, TimeoutExceeded)
    assert (second, script.times) == ("ok", (1000.0, 1002.0))
    driver.close()
    assert idle(places)


# Workers that are left behind


def test_a_worker_that_is_left_behind_keeps_its_place(virtual_clock: VirtualClock, make: Make) -> None:
    """Around a bulkhead, a thread timeout returns on time while the worker runs on: its place is free when it ends."""
    places = Bulkhead(1)
    fn = make.punctual(2.0)(places(Script(succeed(after=5.0)).function()))

    def calls() -> list[tuple[float, type[Exception], int]]:
        found: list[tuple[float, type[Exception], int]] = []
        for _ in range(2):
            try:
                fn()
            except (TimeoutExceeded, BulkheadFullError) as error:
                found.append((virtual_clock.elapsed, type(error), places.running))
        virtual_clock.sleep(4.0)
        return found

    assert virtual_clock.run_threads(calls) == [[(2.0, TimeoutExceeded, 1), (2.0, BulkheadFullError, 1)]]
    assert (abandoned_workers(), idle(places)) == (0, True)


def test_a_worker_that_is_left_behind_in_the_queue_never_runs(
    virtual_clock: VirtualClock, make: Make
) -> None:
    """A worker whose caller has given up while it waited drops out by the deadline, and takes no place later."""
    places = Bulkhead(1, queue=1)
    script = Script(succeed())
    fn = make.punctual(2.0)(places(script.function()))

    def holder() -> None:
        with places:
            virtual_clock.sleep(5.0)

    def caller() -> float:
        virtual_clock.sleep(1.0)
        with pytest.raises((TimeoutExceeded, BulkheadFullError)):  # both are due: whoever notices first
            fn()
        return virtual_clock.elapsed

    assert virtual_clock.run_threads(holder, caller) == [None, 3.0]
    driver_of("sync", virtual_clock).close()
    assert (script.calls, abandoned_workers(), places.rejected, idle(places)) == (0, 0, 1, True)


# Interrupts


@pytest.mark.parametrize("exit_", [KeyboardInterrupt, SystemExit])
def test_an_exit_while_waiting_passes_at_once(exit_: type[BaseException]) -> None:
    """What interrupts a waiting thread passes through, and its place in the queue is free again."""

    class Interrupted(VirtualClock):
        def wait(self, event: threading.Event, timeout: float | None = None) -> bool:
            assert (places.waiting, timeout) == (1, None)
            raise exit_

    places = Bulkhead(1, queue=1)
    with use_clock(Interrupted()), places, pytest.raises(exit_):
        places.call(int)
    assert (places.rejected, idle(places)) == (0, True)


@pytest.mark.parametrize("exit_", [KeyboardInterrupt, SystemExit])
def test_an_exit_after_the_hand_off_passes_the_place_on(exit_: type[BaseException]) -> None:
    """A thread that is interrupted when it already has the place gives it to the next."""

    class Interrupted(VirtualClock):
        def wait(self, event: threading.Event, timeout: float | None = None) -> bool:
            places.__exit__(None, None, None)
            assert (places.running, event.is_set()) == (1, True)
            raise exit_

    places = Bulkhead(1, queue=1)
    places.__enter__()
    with use_clock(Interrupted()), pytest.raises(exit_):
        places.call(int)
    assert (places.rejected, idle(places)) == (0, True)
