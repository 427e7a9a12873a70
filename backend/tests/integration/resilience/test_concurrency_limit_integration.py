"""Concurrency limit × timeout × cancellation × retry × threads and tasks: no place is lost, no drop missed."""

import asyncio
import itertools
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Compose, Driver, Scenario
from backend.tests.integration.resilience._make import BUSY, Busy, Make, _over
from backend.tests.integration.resilience._race import race
from holdfast.infrastructure.resilience.concurrency_limit import (
    AIMD,
    ConcurrencyLimit,
    Gradient2,
    StandingQueue,
)
from holdfast.infrastructure.resilience.errors import (
    CircuitOpenError,
    ConcurrencyLimitedError,
    TimeoutExceeded,
)
from holdfast.infrastructure.resilience.events import CallRejected, LimitChanged
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.throttle import Throttle
from holdfast.infrastructure.resilience.window import Window, WindowCounts
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, hang, succeed
from holdfast.testing.recorder import EventRecorder


def limited(initial: int, **settings: Any) -> ConcurrencyLimit:
    """Return a limit called `dependency` that adds 1 a round and takes a tenth at a drop."""
    return ConcurrencyLimit(**_over(settings, algorithm=AIMD(), initial=initial, name="dependency"))


def fixed(size: int, **settings: Any) -> ConcurrencyLimit:
    """Return a limit called `dependency` that stays as it is."""
    return limited(size, **_over(settings, min_limit=size, max_limit=size))


def own(priority: str) -> str:
    """Say of a call what it says of itself."""
    return priority


# Timeouts


def test_a_timeout_inside_is_a_drop(driver: Driver, make: Make, compose: Compose) -> None:
    """Calls that run into their timeout shrink the limit: once for those admitted together, then again."""
    limit = limited(20)
    call = compose(limit, make.punctual(2.0), source=Script(hang()))
    outcomes = driver.together(*(driver.after(0.0, call) for _ in range(20)))
    assert [type(one) for one in outcomes] == [TimeoutExceeded] * 20
    assert (limit.limit, limit.running) == (18, 0)
    driver.together(*(driver.after(0.0, call) for _ in range(18)))
    assert (limit.limit, limit.running) == (16, 0)


@pytest.mark.parametrize("mode", ["async"], indirect=True)
def test_a_timeout_around_says_nothing(driver: Driver, make: Make, compose: Compose) -> None:
    """To the limit a timeout around it is a cancellation: the places come back, and the limit stays."""
    limit = limited(20)
    call = compose(make.timeout(2.0), limit, source=Script(hang()))
    outcomes = driver.together(*(driver.after(0.0, call) for _ in range(25)))
    assert [type(one) for one in outcomes] == [*[TimeoutExceeded] * 20, *[ConcurrencyLimitedError] * 5]
    assert (limit.limit, limit.running, driver.clock.elapsed) == (20, 0, 2.0)


@pytest.mark.parametrize("mode", ["sync"], indirect=True)
def test_an_abandoned_worker_keeps_its_place(driver: Driver, make: Make, compose: Compose) -> None:
    """What a sync timeout left behind in a thread is still in flight, until it ends; only then its place is free."""
    limit = fixed(1)
    call = compose(make.punctual(2.0), limit, source=Script(succeed(after=5.0), succeed()))
    outcomes = driver.outcomes(2, call)
    assert [type(one) for one in outcomes] == [TimeoutExceeded, ConcurrencyLimitedError]
    assert limit.running == 1
    driver.close()
    assert limit.running == 0
    assert driver.outcomes(1, call) == ["ok"]


def test_slow_answers_shrink_where_a_bound_is_given(
    driver: Driver, compose: Compose, event_recorder: EventRecorder
) -> None:
    """Answers above `max_healthy_latency` are returned, and count as drops."""
    limit = limited(20, max_healthy_latency=1.0)
    call = compose(limit, source=Script(succeed(after=1.5)))
    assert driver.together(*(driver.after(0.0, call) for _ in range(20))) == ["ok"] * 20
    assert limit.limit == 18
    assert [(event.old, event.new) for event in event_recorder.of(LimitChanged)] == [(20, 18)]


# Retries


def test_a_refusal_is_not_retried(driver: Driver, make: Make, compose: Compose) -> None:
    """A retry around a limit gives up at once when refused: nothing is sent and nothing waited for."""
    limit, script = fixed(1), Script(succeed())
    call = compose(make.retry(5), limit, source=script)
    with limit:
        outcomes = driver.outcomes(2, call)
    assert [type(one) for one in outcomes] == [ConcurrencyLimitedError] * 2
    assert (script.calls, limit.rejected, driver.clock.sleeps) == (0, 2, ())
    assert driver.outcomes(1, call) == ["ok"]


def test_who_wants_may_retry_refusals(driver: Driver, make: Make, compose: Compose) -> None:
    """A retry told to retry refusals gets its turn when a place is free."""
    limit = fixed(1)
    call = compose(make.retry(5, on=(ConcurrencyLimitedError,)), limit, source=Script(succeed(after=1.5)))
    assert driver.together(*(driver.after(at, call) for at in (0.0, 0.1))) == ["ok", "ok"]
    assert (limit.rejected, limit.running) == (2, 0)
    assert driver.clock.elapsed == pytest.approx(3.6)


def test_inside_a_retry_the_place_is_free_while_waiting(driver: Driver, make: Make, compose: Compose) -> None:
    """Between attempts a call inside a retry holds no place; each attempt takes one."""
    limit = fixed(1)
    call = compose(make.retry(3, wait=10.0), limit, source=Script(fail(), succeed(after=1.0)))
    outcomes = driver.together(driver.after(0.0, call), driver.after(5.0, call))
    assert outcomes == ["ok", "ok"]
    assert (limit.rejected, limit.running) == (0, 0)


def test_around_a_retry_the_place_is_held_through_all_attempts(
    driver: Driver, make: Make, compose: Compose
) -> None:
    """Outside a retry a call is in flight from its first attempt to its last, waits included."""
    limit = fixed(1)
    call = compose(limit, make.retry(3, wait=10.0), source=Script(fail(), succeed()))
    outcomes = driver.together(driver.after(0.0, call), driver.after(5.0, call))
    assert [type(one) for one in outcomes] == [str, ConcurrencyLimitedError]
    assert limit.running == 0


@pytest.mark.parametrize(("order", "after"), [(1, 20), (-1, 16)])
def test_a_drop_counts_where_it_is_seen(
    driver: Driver, make: Make, compose: Compose, order: int, after: int
) -> None:
    """A limit around a retry sees the success that came of it, one inside each failed attempt."""
    limit = limited(20)
    policies = (limit, make.retry(3))[::order]
    call = compose(*policies, source=Script(fail(), fail(), succeed()))
    permits = [limit.admit() for _ in range(12)]
    assert driver.call(call) == "ok"
    assert limit.limit == after
    for permit in permits:
        permit.neutral()


def test_an_answer_to_come_back_later_is_a_drop(driver: Driver, make: Make, compose: Compose) -> None:
    """A throttling answer shrinks the limit, though the retry that follows its hint succeeds."""
    limit = limited(10, on=BUSY)
    call = compose(make.retry(2, on=BUSY, hint_cap=0.0), limit, source=Script(fail(Busy(3.0)), succeed()))
    permits = [limit.admit() for _ in range(6)]
    assert driver.call(call) == "ok"
    assert (limit.limit, driver.clock.sleeps) == (9, (3.0,))
    for permit in permits:
        permit.neutral()


# Breaker and throttle


def test_a_refusal_is_neutral_to_breaker_and_throttle(driver: Driver, make: Make, compose: Compose) -> None:
    """To a breaker or throttle around a limit its refusals say nothing about the dependency."""
    breaker, throttle, limit = make.breaker(window=Window.calls(100)), Throttle(), fixed(1)
    call = compose(breaker, throttle, limit, source=Script(succeed()))
    with limit:
        outcomes = driver.outcomes(20, call)
    assert [type(one) for one in outcomes] == [ConcurrencyLimitedError] * 20
    assert breaker.counts == WindowCounts(0, 0, 0)
    assert (breaker.state, throttle.requests) == (CircuitState.CLOSED, 0)


def test_an_open_breaker_inside_is_neither_drop_nor_quick_answer(
    driver: Driver, make: Make, compose: Compose
) -> None:
    """Refusals of a breaker inside take no time; they neither shrink the limit nor pass for healthy calls."""
    limit, breaker = limited(4), make.breaker(2)
    call = compose(limit, breaker, source=Script(succeed()))
    breaker.open()
    with limit, limit:
        outcomes = driver.outcomes(20, call)
    assert [type(one) for one in outcomes] == [CircuitOpenError] * 20
    assert (limit.limit, limit.running) == (4, 0)


# Cancellation


@pytest.mark.parametrize("mode", ["async"], indirect=True)
@pytest.mark.parametrize("when", [0.0, 1.0])
def test_cancelled_calls_give_their_places_back(driver: Driver, make: Make, when: float) -> None:
    """Tasks cancelled before they ran or in the middle leave no place taken, and say nothing."""
    limit = limited(20)
    call = driver.decorate(limit, Script(hang()))

    async def main() -> None:
        tasks = [asyncio.create_task(call()) for _ in range(20)]
        if when:
            await driver.sleep(when)
            assert limit.running == 20
        for task in tasks:
            task.cancel()
        assert [type(one) for one in await asyncio.gather(*tasks, return_exceptions=True)] == [
            asyncio.CancelledError
        ] * 20
        assert (limit.limit, limit.running, limit.rejected) == (20, 0, 0)

    driver.run(main)


@pytest.mark.parametrize("mode", ["async"], indirect=True)
def test_a_cancelled_block_gives_its_place_back(driver: Driver) -> None:
    """An `async with` block that is cancelled inside frees its place."""
    limit = fixed(1)

    async def block() -> None:
        async with limit:
            await driver.sleep(100.0)

    async def main() -> None:
        task = asyncio.create_task(block())
        await driver.sleep(1.0)
        assert limit.running == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert limit.running == 0

    driver.run(main)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_who_wants_out_leaves_no_place_taken(
    driver: Driver, make: Make, compose: Compose, error: type[BaseException]
) -> None:
    """Exits pass through a whole stack at once; the limit stays, and its place is free."""
    limit = limited(2)
    call = compose(make.retry(3), limit, make.breaker(), source=Script(fail(error)))
    with limit, pytest.raises(error):
        driver.call(call)
    assert (limit.limit, limit.running) == (2, 0)


def test_blocks_at_once_have_their_own_latencies(driver: Driver) -> None:
    """Blocks of one limit in many threads or tasks are settled each by its own end and its own time."""
    limit = limited(10, max_healthy_latency=2.5)

    def of(who: int) -> Scenario:
        async def body() -> None:
            async with driver.block(limit):
                await driver.sleep(1.0 + who % 3)
                if who % 5 == 4:
                    raise ValueError

        return body

    outcomes = driver.together(*map(of, range(10)))
    assert [type(one) for one in outcomes] == [*[type(None)] * 4, ValueError] * 2
    # Three blocks took 3 s; the first of them to end shrank the limit for all that began with it.
    assert (limit.limit, limit.running) == (9, 0)
    assert (
        type(driver.together(of(3), *(driver.after(0.0, driver.function(of(0))) for _ in range(9)))) is list
    )
    assert limit.running == 0


# Priorities


def test_a_full_house_sheds_the_low_first(driver: Driver, make: Make, event_recorder: EventRecorder) -> None:
    """In a crowd of all priorities the critical lose none, and the low most."""
    limit = fixed(20, priority=own)
    call = driver.decorate(make.pipeline(make.retry(1), limit), Script(succeed(after=1.0)))
    arrivals = [*["low"] * 16, *["normal"] * 6, *["critical"] * 2]
    outcomes = driver.together(*(driver.after(at / 100, call, name) for at, name in enumerate(arrivals)))
    lost = [name for name, one in zip(arrivals, outcomes, strict=True) if one != "ok"]
    assert lost == ["low"] * 2 + ["normal"] * 2
    assert len(event_recorder.of(CallRejected)) == 4


def test_priorities_follow_the_limit(driver: Driver) -> None:
    """When the limit shrinks, the share of the low shrinks with it."""
    limit = limited(20, priority=own)
    script = Script(fail(), succeed(after=1.0))
    call = driver.decorate(limit, script)
    permits = [limit.admit() for _ in range(13)]
    assert type(driver.outcomes(1, call, "low")[0]) is ConnectionError
    assert limit.limit == 18
    # 70 % of 18 is 12.6: the fourteenth would be above it.
    assert type(driver.outcomes(1, call, "low")[0]) is ConcurrencyLimitedError
    assert driver.outcomes(1, call, "normal") == ["ok"]
    for permit in permits:
        permit.neutral()


# Threads and tasks


class Gauge:
    """How many are inside now, and how many there ever were at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = 0

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


class Crowd:
    """Calls from threads and tasks, a fifth of which fail and some of which want out; what became of each."""

    def __init__(self, limit: ConcurrencyLimit) -> None:
        self.gauge = Gauge()
        self.turns = itertools.count()
        self.outcomes: list[str] = []

        @limit
        def fetch() -> None:
            self._fetch()

        @limit
        async def afetch() -> None:
            with self.gauge:
                await asyncio.sleep(0)
            self._fetch()

        self.fetch, self.afetch = fetch, afetch

    def _fetch(self) -> None:
        with self.gauge:
            turn = next(self.turns)
            if turn % 5 == 0:
                raise ConnectionError
            if turn % 7 == 0:
                raise KeyboardInterrupt

    def thread(self) -> None:
        """Call 300 times, from a thread."""
        for _ in range(300):
            self.outcomes.append(kind_of(self.fetch))

    def loop(self) -> None:
        """Call 10 times from each of 50 tasks, in a loop of its own."""

        async def task() -> None:
            for _ in range(10):
                try:
                    await self.afetch()
                    self.outcomes.append("ok")
                except ConcurrencyLimitedError:
                    self.outcomes.append("refused")
                    await asyncio.sleep(0)
                except (ConnectionError, KeyboardInterrupt):
                    self.outcomes.append("failed")

        async def tasks() -> None:
            await asyncio.gather(*(task() for _ in range(50)))

        asyncio.run(tasks())


def kind_of(fn: Callable[[], object]) -> str:
    """Call, and return what became of it."""
    try:
        fn()
    except ConcurrencyLimitedError:
        return "refused"
    except (ConnectionError, KeyboardInterrupt):
        return "failed"
    return "ok"


@pytest.mark.parametrize("algorithm", [Gradient2(), AIMD(), StandingQueue(probe=3600)])
def test_threads_and_tasks_share_one_limit(algorithm: Gradient2 | AIMD | StandingQueue) -> None:
    """Eight threads, four of them with fifty tasks each, never exceed the limit, and leave no place taken."""
    limit = ConcurrencyLimit(algorithm=algorithm, initial=12, max_limit=12, name="dependency")
    crowd = Crowd(limit)
    race(*[crowd.thread, crowd.loop] * 4)
    assert (limit.running, crowd.gauge.now) == (0, 0)
    assert crowd.gauge.most <= 12
    assert len(crowd.outcomes) == 4 * 300 + 4 * 50 * 10
    assert crowd.outcomes.count("refused") == limit.rejected
    assert {"ok", "failed", "refused"} == set(crowd.outcomes)


def test_as_many_as_the_limit_get_in(virtual_clock: VirtualClock) -> None:
    """Of two hundred tasks that come at once just as many are admitted as the limit says; later all get in."""
    limit = fixed(50)

    @limit
    async def fetch() -> str:
        await virtual_clock.asleep(1.0)
        return "ok"

    async def main() -> list[Any]:
        return await asyncio.gather(*(fetch() for _ in range(200)), return_exceptions=True)

    for _ in range(2):
        outcomes = virtual_clock.run(main())
        assert outcomes.count("ok") == 50
    assert (limit.rejected, limit.running) == (300, 0)


def test_a_permit_may_be_settled_by_another_thread(make: Make, virtual_clock: VirtualClock) -> None:
    """What one thread was admitted for, another settles; eight times gives one place back."""
    limit = fixed(50)
    permits = [limit.admit() for _ in range(50)]

    def settle() -> None:
        for permit in permits:
            permit.neutral()

    race(*[settle] * 8)
    assert limit.running == 0


def test_drops_of_many_threads_at_once_shrink_once(virtual_clock: VirtualClock) -> None:
    """Eight threads that report drops of calls admitted together lower the limit by one step."""
    limit = limited(64)
    permits = [limit.admit() for _ in range(64)]
    parts = [permits[at::8] for at in range(8)]

    def settle(part: list[Any]) -> None:
        for permit in part:
            permit.failure(ConnectionError())

    race(*(partial(settle, part) for part in parts))
    assert (limit.limit, limit.running) == (57, 0)
