"""Seam: the line of a rate limit × cancellation, deadlines, threads and tasks that wait together."""

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Driver, Scenario
from backend.tests.integration.resilience._make import Make
from backend.tests.integration.resilience._race import race
from holdfast.infrastructure.resilience.clock import Clock, use_clock
from holdfast.infrastructure.resilience.deadline import deadline_after
from holdfast.infrastructure.resilience.errors import RateLimitedError
from holdfast.infrastructure.resilience.events import CallDelayed
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.rate_limit import RateLimit, RateLimits
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, hang, succeed
from holdfast.testing.recorder import EventRecorder

THREADS = 8
EXITS: list[type[BaseException]] = [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]


def limit(per: float = 1.0, max_wait: float = 600.0, **settings: Any) -> RateLimit:
    """Return a limit of one call in `per` seconds, whose callers wait."""
    return RateLimit(1, per=per, max_wait=max_wait, **settings)


def used(**settings: Any) -> RateLimit:
    """Return a limit whose next place is 1 s away."""
    made = limit(**settings)
    with made:
        pass
    return made


def first(key: Any) -> Any:
    """Return the key of a tenant: its first letter."""
    return key[0]


def echo(key: Any) -> Any:
    """Return what was given; as a key function, let it be the key."""
    return key


# First come, first served


def test_callers_are_admitted_in_the_order_of_their_arrival(driver: Driver) -> None:
    """Whoever asked first is admitted first, each at the instant that the rate says."""
    log: list[tuple[str, float]] = []

    async def fetch(who: str) -> None:
        log.append((who, driver.clock.elapsed))

    bound = limit()
    call = driver.decorate(bound, fetch)
    arrivals = {"e": 0.4, "a": 0.0, "d": 0.3, "b": 0.1, "c": 0.2}
    driver.together(*[driver.after(at, call, who) for who, at in arrivals.items()])
    assert log == [("a", 0.0), ("b", 1.0), ("c", 2.0), ("d", 3.0), ("e", 4.0)]
    assert bound.waiting == 0


def test_a_newcomer_does_not_overtake(driver: Driver) -> None:
    """Who asks at the very instant at which a place becomes free, or is late itself, queues behind those who wait."""
    log: list[tuple[str, float]] = []

    async def fetch(who: str) -> None:
        log.append((who, driver.clock.elapsed))

    call = driver.decorate(limit(), fetch)
    arrivals = [("a", 0.0), ("b", 0.5), ("c", 0.75), ("new", 1.0), ("newer", 2.0)]
    driver.together(*[driver.after(at, call, who) for who, at in arrivals])
    assert log == [("a", 0.0), ("b", 1.0), ("c", 2.0), ("new", 3.0), ("newer", 4.0)]


def test_threads_and_tasks_wait_in_one_line(virtual_clock: VirtualClock) -> None:
    """Plain threads and tasks of two loops in other threads are served in the order in which they came."""
    bound, log = limit(), list[tuple[str, float]]()

    def thread(begin: float) -> Callable[[], None]:
        def client() -> None:
            virtual_clock.sleep(begin)
            with bound:
                log.append((f"thread {begin}", virtual_clock.elapsed))

        return client

    def loop(*begins: float) -> Callable[[], None]:
        async def task(begin: float) -> None:
            await virtual_clock.asleep(begin)
            async with bound:
                log.append((f"task {begin}", virtual_clock.elapsed))

        async def main() -> None:
            await asyncio.gather(*map(task, begins))

        return lambda: virtual_clock.run(main())

    virtual_clock.run_threads(thread(0.0), loop(0.1, 0.4), thread(0.2), loop(0.3, 0.6), thread(0.5))
    assert log == [
        *(("thread 0.0", 0.0), ("task 0.1", 1.0), ("thread 0.2", 2.0), ("task 0.3", 3.0)),
        *(("task 0.4", 4.0), ("thread 0.5", 5.0), ("task 0.6", 6.0)),
    ]
    assert bound.waiting == 0


def test_keys_wait_in_lines_of_their_own(driver: Driver) -> None:
    """Those who wait for one tenant do not hold up another."""
    log: list[tuple[str, float]] = []
    family = RateLimits(1, per=2, key=first, max_wait=60.0)

    async def fetch(who: str) -> None:
        log.append((who, driver.clock.elapsed))

    call = driver.decorate(family, fetch)
    arrivals = {"a1": 0.0, "a2": 0.1, "b1": 0.5, "a3": 0.6, "b2": 0.7}
    driver.together(*[driver.after(at, call, who) for who, at in arrivals.items()])
    assert log == [("a1", 0.0), ("b1", 0.5), ("a2", 2.0), ("b2", 2.5), ("a3", 4.0)]
    assert [family.get(key).waiting for key in "ab"] == [0, 0]


def test_each_wait_is_told(driver: Driver, event_recorder: EventRecorder) -> None:
    """A call that waited is an event with the seconds that it took; one that did not is none."""
    call = driver.decorate(limit(name="limit", burst=2), Script(succeed()))
    driver.together(*[driver.after(at, call) for at in (0.0, 0.25, 0.5, 0.75)])
    told = [(event.name, event.policy, event.seconds) for event in event_recorder.of(CallDelayed)]
    assert told == [("limit", "rate_limit", 0.5), ("limit", "rate_limit", 1.25)]
    assert event_recorder.kinds == ("CallDelayed",) * 2


# Refused at once


@pytest.mark.parametrize(("max_wait", "refused_from"), [(0.0, 1), (0.999, 1), (1.0, 2), (2.0, 3), (2.5, 3)])
def test_a_wait_that_would_be_too_long_is_not_begun(
    driver: Driver, max_wait: float, refused_from: int
) -> None:
    """Callers that would wait for longer than `max_wait` behind the others are refused at that instant."""
    ended: list[float] = []
    call = driver.decorate(limit(max_wait=max_wait), Script(succeed()))

    async def client() -> Any:
        outcome = await driver.outcome(call)
        ended.append(driver.clock.elapsed)
        return outcome

    outcomes = driver.together(*[client] * 5)
    admitted, refused = outcomes[:refused_from], outcomes[refused_from:]
    assert admitted == ["ok"] * refused_from
    assert [error.retry_after for error in refused] == [float(refused_from)] * len(refused)
    assert sorted(ended) == [0.0] * len(refused) + [float(at) for at in range(refused_from)]


@pytest.mark.parametrize(
    ("seconds", "fits"), [(0.5, False), (1.0, False), (1.001, True), (60.0, True)], ids=str
)
@pytest.mark.parametrize("bound", ["deadline", "timeout", "punctual"])
def test_a_deadline_before_the_turn_refuses_at_once(
    driver: Driver, make: Make, bound: str, seconds: float, *, fits: bool
) -> None:
    """Nobody waits for a place that comes when its time is over, whatever set the deadline."""
    limited = driver.decorate(used(), Script(succeed()))

    async def under_deadline() -> Any:
        with deadline_after(seconds):
            return await driver.ask(limited)

    policies: dict[str, Policy] = {"timeout": make.timeout(seconds), "punctual": make.punctual(seconds)}
    call = driver.function(under_deadline) if bound == "deadline" else policies[bound](limited)
    [outcome] = driver.outcomes(1, call)
    if fits:
        assert (outcome, driver.clock.elapsed) == ("ok", 1.0)
    else:
        assert (type(outcome), outcome.retry_after) == (RateLimitedError, 1.0)
        assert driver.clock.elapsed == 0.0


def test_a_deadline_counts_those_before(driver: Driver) -> None:
    """Whether a place comes in time depends on how many wait for theirs."""
    bound = used()
    call = driver.decorate(bound, Script(succeed()))

    async def client() -> Any:
        with deadline_after(3.5):
            return await driver.outcome(call)

    outcomes = driver.together(*[client] * 5)
    assert outcomes[:3] == ["ok"] * 3
    assert [(type(one), one.retry_after) for one in outcomes[3:]] == [(RateLimitedError, 4.0)] * 2
    assert (bound.rejected, driver.clock.elapsed) == (2, 3.0)


# Cancelled waits


def played(clock: VirtualClock, bound: RateLimit, begins: list[float], gone: dict[int, float]) -> list[Any]:
    """Let tasks come at `begins` and cancel some of them; return when each was admitted, or "cancelled"."""

    async def client(begin: float) -> float:
        await clock.asleep(begin)
        async with bound:
            return clock.elapsed

    async def main() -> list[Any]:
        tasks = [asyncio.ensure_future(client(begin)) for begin in begins]
        for at, when in sorted(gone.items(), key=lambda one: one[1]):
            await clock.asleep(when - clock.elapsed)
            tasks[at].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        return ["cancelled" if isinstance(one, asyncio.CancelledError) else one for one in done]

    return clock.run(main())


# Four wait for 1, 2, 3 and 4 s; who is cancelled when, and when the others are admitted.
CANCELLED: dict[str, tuple[dict[int, float], list[Any]]] = {
    "nobody": ({}, [1.0, 2.0, 3.0, 4.0]),
    "the first": ({0: 0.5}, ["cancelled", 1.0, 2.0, 3.0]),
    "the first, at the last moment": ({0: 0.999}, ["cancelled", 1.0, 2.0, 3.0]),
    "one in the middle": ({1: 0.5}, [1.0, "cancelled", 2.0, 3.0]),
    "one in the middle, as the first": ({1: 1.5}, [1.0, "cancelled", 2.0, 3.0]),
    "the last": ({3: 2.5}, [1.0, 2.0, 3.0, "cancelled"]),
    "two neighbours": ({1: 0.5, 2: 0.5}, [1.0, "cancelled", "cancelled", 2.0]),
    "all but the last": ({0: 0.5, 1: 0.25, 2: 0.75}, ["cancelled", "cancelled", "cancelled", 1.0]),
    "all": ({0: 0.5, 1: 0.5, 2: 0.5, 3: 0.5}, ["cancelled"] * 4),
}


@pytest.mark.parametrize("case", CANCELLED)
def test_those_behind_a_cancelled_wait_move_up(virtual_clock: VirtualClock, case: str) -> None:
    """A wait that is cancelled takes no place: everybody behind it is admitted one interval earlier."""
    gone, expected = CANCELLED[case]
    bound = used()
    assert played(virtual_clock, bound, [0.0] * 4, gone) == expected
    assert bound.waiting == 0


@pytest.mark.parametrize("case", CANCELLED)
def test_a_newcomer_after_a_cancelled_wait_waits_no_longer(virtual_clock: VirtualClock, case: str) -> None:
    """What a newcomer is told to wait for counts only those who still do, and it is true to the instant."""
    gone, expected = CANCELLED[case]
    bound = used()
    *others, last = played(virtual_clock, bound, [0.0] * 4 + [2.75], gone)
    assert others == expected
    taken = [one for one in expected if one != "cancelled"]
    assert last == max([2.75, *(one + 1.0 for one in taken if one > 1.75)])


@pytest.mark.parametrize("gone", [0.5, 1.0, 1.5])
def test_the_rate_holds_through_cancellations(virtual_clock: VirtualClock, gone: float) -> None:
    """However many give up and come anew, places are neither lost nor given twice."""
    bound = used()
    begins = [at * 0.125 for at in range(40)]
    cancelled = {at: begins[at] + gone for at in range(40) if at % 3}
    times = sorted(one for one in played(virtual_clock, bound, begins, cancelled) if one != "cancelled")
    assert times == [float(at) for at in range(1, len(times) + 1)]
    assert len(times) >= 14
    assert (bound.waiting, bound.retry_after) == (0, 1.0)


def test_a_wait_cancelled_at_its_turn_loses_no_place(virtual_clock: VirtualClock) -> None:
    """At the instant of its turn a call is either admitted or cancelled: then the next one has the place."""
    for order in (0, 1):
        bound = used()
        begun = virtual_clock.elapsed

        async def main(order: int = order, bound: RateLimit = bound) -> list[Any]:
            async def client() -> float:
                async with bound:
                    return virtual_clock.elapsed

            async def cancel() -> None:
                await virtual_clock.asleep(1.0)
                tasks[0].cancel()

            tasks: list[asyncio.Task[float]] = []
            canceller = asyncio.ensure_future(cancel()) if order else None
            tasks += [asyncio.ensure_future(client()) for _ in range(2)]
            canceller = canceller or asyncio.ensure_future(cancel())
            return await asyncio.gather(*tasks, canceller, return_exceptions=True)

        first, second, _ = virtual_clock.run(main())
        cancelled = isinstance(first, asyncio.CancelledError)
        assert cancelled or first == begun + 1.0
        assert second == begun + (1.0 if cancelled else 2.0)
        virtual_clock.advance(10.0)


def test_a_call_cancelled_after_its_admission_has_used_its_place(virtual_clock: VirtualClock) -> None:
    """What was begun may have reached the dependency: it counts."""
    bound = limit(max_wait=0.0)
    call = bound(Script(hang()).coroutine_function())

    async def main() -> None:
        task = asyncio.ensure_future(call())
        await virtual_clock.asleep(0.25)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    virtual_clock.run(main())
    assert bound.retry_after == 0.75


def test_a_cancelled_wait_is_no_event(virtual_clock: VirtualClock, event_recorder: EventRecorder) -> None:
    """Who gave up was neither admitted late nor refused."""
    bound = used()
    played(virtual_clock, bound, [0.0, 0.0], {0: 0.5, 1: 0.75})
    assert (event_recorder.kinds, bound.rejected) == ((), 0)


def test_a_foreign_timeout_gives_the_place_back(virtual_clock: VirtualClock) -> None:
    """`asyncio.timeout`, of which no deadline tells, ends a wait by cancelling it."""
    bound = used()
    call = bound(Script(succeed()).coroutine_function())

    async def impatient() -> None:
        async with asyncio.timeout(0.5):
            await call()

    async def patient() -> str:
        return str(await call())

    async def main() -> tuple[Any, Any]:
        return await asyncio.gather(impatient(), patient(), return_exceptions=True)

    timed_out, ok = virtual_clock.run(main())
    assert (type(timed_out), ok, virtual_clock.elapsed) == (TimeoutError, "ok", 1.0)


def test_a_group_that_fails_empties_the_line(virtual_clock: VirtualClock) -> None:
    """All waits of a task group that is cancelled leave the line, and nothing runs later."""
    bound, script = used(), Script(succeed())
    call = bound(script.coroutine_function())

    async def fails() -> None:
        await virtual_clock.asleep(2.5)
        raise KeyError

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(9):
                group.create_task(call())
            group.create_task(fails())

    with pytest.raises(ExceptionGroup):
        virtual_clock.run(main())
    virtual_clock.advance(100.0)
    assert (script.calls, bound.waiting) == (2, 0)


class InterruptedClock(VirtualClock):
    """A clock on which somebody at the keyboard ends the first wait."""

    error: type[BaseException] | None = KeyboardInterrupt

    def _strike(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error

    def sleep(self, seconds: float) -> None:
        """Interrupt once."""
        self._strike()
        super().sleep(seconds)

    def wait(self, event: threading.Event, timeout: float | None = None) -> bool:
        """Interrupt once."""
        self._strike()
        return super().wait(event, timeout)


@pytest.mark.parametrize("exit_", EXITS)
@pytest.mark.parametrize("behind", [0, 2])
def test_an_interrupted_sync_wait_gives_its_place_back(exit_: type[BaseException], behind: int) -> None:
    """What ends a sleep passes at once; the next caller is admitted when the interrupted one would have been."""
    clock = InterruptedClock()
    with use_clock(clock):
        clock.error = None
        bound = used()
        times: list[float] = []
        call = bound(lambda: times.append(clock.elapsed))

        def interrupted() -> None:
            clock.error = exit_
            with pytest.raises(exit_):
                call()

        if behind:
            clock.run_threads(call, interrupted, *[call] * (behind - 1))
        else:
            interrupted()
            call()
    assert times == [float(at) for at in range(1, max(behind, 1) + 1)]
    assert bound.waiting == 0


# Changes while calls wait


def test_those_who_wait_follow_a_change(driver: Driver) -> None:
    """A faster rate reaches the line within 1 s, a slower one at once, and nobody loses its place."""
    for per, times in ((0.5, [1.0, 1.5, 2.0]), (30.0, [30.0, 60.0, 90.0])):
        bound = limit(per=20.0)
        log: list[tuple[int, float]] = []
        begun = driver.clock.elapsed

        async def fetch(who: int, begun: float = begun, log: list[Any] = log) -> None:
            log.append((who, driver.clock.elapsed - begun))

        async def change(bound: RateLimit = bound, per: float = per) -> None:
            await driver.sleep(0.0625)
            bound.reconfigure(per=per)

        call = driver.decorate(bound, fetch)
        scenarios: list[Scenario] = [driver.after(at / 128, call, at) for at in range(4)]
        driver.together(*scenarios, change)
        assert [who for who, _ in log] == [0, 1, 2, 3]
        assert [at for _, at in log[1:]] == pytest.approx(times, rel=0.07)


def test_a_reset_lets_the_line_go_on(driver: Driver) -> None:
    """Who is first goes when it looks, within 1 s, the others behind it at the rate."""
    bound = limit(per=20.0)
    log: list[float] = []

    async def fetch() -> None:
        log.append(driver.clock.elapsed)

    async def reset() -> None:
        await driver.sleep(1.0)
        bound.reset()

    driver.together(*[driver.after(0.0, driver.decorate(bound, fetch))] * 3, reset)
    assert log == [0.0, 2.0, 22.0]


# Real threads


TICK = 1 / 1024


class Ticking(Clock):
    """A clock that moves on by a tick whenever it is read, and knows what each thread read last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readings = 0
        self._here = threading.local()

    @property
    def last(self) -> float:
        """What this thread read last."""
        last: float = self._here.last
        return last

    def monotonic(self) -> float:
        with self._lock:
            self._readings += 1
            self._here.last = self._readings * TICK
        return self.last

    def sleep(self, seconds: float) -> None:
        """Read until it is time."""
        until = self.monotonic() + seconds
        while self.monotonic() < until:
            pass

    async def asleep(self, seconds: float) -> None:
        """Read until it is time, and let other tasks run."""
        until = self.monotonic() + seconds
        for _ in iter(lambda: self.monotonic() < until, False):
            await asyncio.sleep(0)

    def wait(self, event: threading.Event, timeout: float | None = None) -> bool:
        """Read until the event is set or it is time."""
        until = self.monotonic() + (1e9 if timeout is None else timeout)
        while not event.is_set() and self.monotonic() < until:
            pass
        return event.is_set()


def assert_never_above(times: list[float], interval: float, burst: int) -> None:
    """No window holds more than the burst and the rate times its length."""
    times.sort()
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= burst + (times[last] - begin) / interval


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("form", ["decorated", "block"])
@pytest.mark.parametrize("burst", [1, 5])
def test_threads_that_hammer_never_exceed_the_rate(form: str, burst: int, *, keyed: bool) -> None:
    """Eight threads that ask again and again are admitted as the rate allows in every window, and no place is lost."""
    clock, times = Ticking(), list[float]()
    family = RateLimits(1, per=20 * TICK, burst=burst, clock=clock)
    bound = family.get("key") if keyed else RateLimit(1, per=20 * TICK, burst=burst, clock=clock)
    call = bound(lambda: times.append(clock.last))

    def block() -> None:
        with bound:
            times.append(clock.last)

    def hammer() -> None:
        for _ in range(300):
            try:
                call() if form == "decorated" else block()
            except RateLimitedError:
                pass

    race(*[hammer] * THREADS)
    assert bound.rejected == THREADS * 300 - len(times)
    assert_never_above(times, 20 * TICK, burst)
    assert len(times) >= clock.monotonic() / (20 * TICK) - 5 * THREADS


@pytest.mark.parametrize("form", ["decorated", "block"])
def test_an_instant_holds_the_burst_however_often_threads_switch(form: str) -> None:
    """Where time stands still, eight threads that switch at every turn share exactly the burst."""
    clock = VirtualClock()
    with use_clock(clock):
        bound = RateLimit(1, burst=5000)
        call = bound(lambda: 1)

        def block() -> int:
            with bound:
                return 1

        def hammer() -> int:
            sys.setswitchinterval(1e-6)
            return sum(attempted(call if form == "decorated" else block) for _ in range(1000))

        assert sum(race(*[hammer] * THREADS)) == 5000
        assert (bound.available, bound.rejected) == (0, THREADS * 1000 - 5000)
        clock.advance(1.0)
        assert (bound.available, bound.retry_after) == (1, 0.0)


def test_newcomers_overtake_nobody() -> None:
    """Calls that are admitted at once come between those that wait: the rate holds, and every thread gets on."""
    clock, times = Ticking(), list[float]()
    bound = RateLimit(1, per=10 * TICK, burst=2, max_wait=30 * TICK, clock=clock)
    call = bound(lambda: times.append(clock.last))

    def hammer() -> None:
        sys.setswitchinterval(1e-6)
        left = 40
        while left:
            try:
                call()
                left -= 1
            except RateLimitedError:
                clock.sleep(15 * TICK)

    race(*[hammer] * THREADS)
    assert len(times) == THREADS * 40
    assert bound.waiting == 0
    assert_never_above(times, 10 * TICK, 2)


@pytest.mark.parametrize("burst", [1, 5])
def test_threads_and_tasks_that_wait_never_exceed_the_rate(burst: int) -> None:
    """Threads and tasks in other threads that wait for their turn are all admitted, at the rate in every window."""
    clock, times = Ticking(), list[float]()
    bound = RateLimit(1, per=50 * TICK, burst=burst, max_wait=1e6, clock=clock)
    call = bound(lambda: times.append(clock.last))

    @bound
    async def acall() -> None:
        times.append(clock.last)

    def thread() -> None:
        for _ in range(12):
            call()

    def loop() -> None:
        async def client() -> None:
            for _ in range(4):
                await acall()

        async def main() -> None:
            await asyncio.gather(*(client() for _ in range(3)))

        asyncio.run(main())

    race(*[thread, loop] * (THREADS // 2))
    assert len(times) == THREADS * 12
    assert_never_above(times, 50 * TICK, burst)
    assert (bound.waiting, bound.rejected) == (0, 0)


def test_the_last_place_is_given_once(virtual_clock: VirtualClock) -> None:
    """Threads and loops that ask at the same instant share exactly the burst, round after round."""
    bound = RateLimit(1, burst=7)
    family = RateLimits(1, burst=7, key=lambda: "key")
    calls: list[Callable[[], Any]] = [bound(lambda: 1), family(lambda: 1)]
    acalls: list[Callable[[], Coroutine[Any, Any, int]]] = []
    for policy in (bound, family):

        async def one() -> int:
            return 1

        acalls.append(policy(one))

    def thread() -> list[int]:
        return [attempted(call) for call in calls for _ in range(10)]

    def loop() -> list[int]:
        async def main() -> list[int]:
            return [await aattempted(call) for call in acalls for _ in range(10)]

        return asyncio.run(main())

    for _ in range(10):
        outcomes = race(*[thread, loop] * (THREADS // 2))
        assert [sum(sum(one[:10]) for one in outcomes), sum(sum(one[10:]) for one in outcomes)] == [7, 7]
        virtual_clock.advance(7.0)


def attempted(call: Callable[[], int]) -> int:
    """Return what a call returns, 0 if it is refused."""
    try:
        return call()
    except RateLimitedError:
        return 0


async def aattempted(call: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Do as `attempted` does."""
    try:
        return await call()
    except RateLimitedError:
        return 0


def test_changes_and_lookers_disturb_nobody() -> None:
    """Threads that change, read, reset and discard while others call leave a limit that works, and no error."""
    clock = Ticking()
    family = RateLimits(
        1,
        per=10 * TICK,
        burst=2,
        key=echo,
        max_keys=5,
        idle=50 * TICK,
        max_wait=30 * TICK,
        clock=clock,
    )
    call = family(echo)

    def client() -> None:
        for at in range(200):
            try:
                assert call(at % 9) == at % 9
            except RateLimitedError:
                pass

    def meddler() -> None:
        for at in range(100):
            family.reconfigure(per=(5 + at % 7) * TICK, burst=1 + at % 3)
            view = family.get(at % 9)
            assert 0 <= view.available <= 3
            assert view.retry_after >= 0.0
            assert len(list(family)) <= 5 + THREADS
            if at % 10 == 0:
                family.discard(at % 9)

    race(client, client, meddler, client, meddler, client)
    clock.sleep(1000 * TICK)
    assert call("new") == "new"
    assert sum(family.get(key).waiting for key in range(9)) == 0
