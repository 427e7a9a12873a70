"""Seam: one policy object × threads, tasks, event loops and executors that share it."""

import asyncio
import itertools
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Driver, Scenario
from backend.tests.integration.resilience._make import Make
from backend.tests.integration.resilience._race import race
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.deadline import current_deadline, deadline_after, remaining
from holdfast.infrastructure.resilience.errors import CircuitOpenError
from holdfast.infrastructure.resilience.events import CallRejected, RetryScheduled, subscribe
from holdfast.infrastructure.resilience.permit import Permit
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.retry import Retry, current_attempt
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.resilience.window import Window, WindowCounts
from holdfast.testing.clock import VirtualClock
from holdfast.testing.recorder import EventRecorder

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
THREADS = 8


def content(policy: Policy) -> dict[str, object]:
    """Return all that a policy object stores, by name."""
    names = [name for kind in type(policy).__mro__ for name in getattr(kind, "__slots__", ())]
    own: dict[str, object] = {
        name: getattr(policy, name, None) for name in names if name not in {"__weakref__", "__dict__"}
    }
    return {**own, **getattr(policy, "__dict__", {})}


def one_second(retry_state: Any) -> float:
    """Wait 1 s; as a callback, do nothing."""
    return 1.0


# Nothing of a call is on the policy


@pytest.mark.parametrize("kind", ["retry", "tenacity retry", "breaker", "family", "timeout", "pipeline"])
def test_a_call_leaves_nothing_on_the_policy(driver: Driver, make: Make, kind: str) -> None:
    """Before, within and after a call with retries a policy object stores the same objects."""
    kinds: dict[str, Callable[[], Policy]] = {
        "retry": lambda: make.retry(3),
        "tenacity retry": lambda: make.retry(3, wait=one_second, before=one_second),
        "breaker": lambda: make.breaker(100),
        "family": lambda: make.breakers(100, key=lambda: "key"),
        "timeout": lambda: make.timeout(60.0),
        "pipeline": lambda: make.pipeline(make.timeout(60.0), make.retry(3), make.breaker(100)),
    }
    policy = kinds[kind]()
    seen: list[dict[str, object]] = []

    async def fetch() -> str:
        seen.append(content(policy))
        await driver.sleep(1.0)
        if len(seen) % 3:
            raise ConnectionError
        return "ok"

    call = driver.decorate(policy, fetch)
    driver.outcomes(3, call)
    driver.outcomes(1, lambda: policy.call(driver.function(fetch)))
    before = content(policy)
    seen.clear()
    driver.outcomes(3, call)
    assert len(seen) >= 3
    assert all(one[name] is before[name] for one in [*seen, content(policy)] for name in before)


def test_calls_at_once_have_their_own_attempts(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """Ten callers of one function fail 0 to 4 times each: every one gets its own attempts, waits and numbers."""
    numbers: dict[int, list[int]] = {who: [] for who in range(10)}
    ends: dict[int, float] = {}

    async def fetch(who: int, failures: int) -> int:
        numbers[who].append(current_attempt())
        await driver.sleep(0.1 + who / 100)
        if len(numbers[who]) <= failures:
            raise ConnectionError(who)
        ends[who] = driver.clock.elapsed
        return who

    call = driver.decorate(make.retry(5, wait=1.0), fetch)
    outcomes = driver.together(*(driver.after(0.0, call, who, who % 5) for who in range(10)))
    assert outcomes == list(range(10))
    assert numbers == {who: list(range(1, who % 5 + 2)) for who in range(10)}
    assert ends == {who: pytest.approx((who % 5 + 1) * (0.1 + who / 100) + who % 5) for who in range(10)}
    scheduled = [
        (event.error.args[0], event.attempt) for event in event_recorder.of(RetryScheduled) if event.error
    ]
    assert sorted(scheduled) == [(who, attempt) for who in range(10) for attempt in range(1, who % 5 + 1)]


def test_loops_at_once_have_their_own_attempts(driver: Driver, make: Make) -> None:
    """Two loops over one `Retry` at the same time count for themselves."""
    retry = make.retry(4)

    def looping(failures: int) -> Scenario:
        async def loop() -> list[int]:
            numbers: list[int] = []
            async for attempt in driver.attempts(retry):
                with attempt:
                    numbers.append(attempt.number)
                    await driver.sleep(0.3 * failures)
                    if len(numbers) <= failures:
                        raise ConnectionError
            return numbers

        return loop

    assert driver.together(looping(3), looping(1), looping(2)) == [[1, 2, 3, 4], [1, 2], [1, 2, 3]]


def test_bounds_at_once_have_their_own_deadlines(driver: Driver, make: Make) -> None:
    """One `Timeout` around calls that begin at different times ends each at its own time."""
    bound = make.timeout(2.0)
    left: list[tuple[float, float | None]] = []

    async def fetch() -> None:
        left.append((driver.clock.elapsed, remaining()))
        await driver.sleep(1.0)
        left.append((driver.clock.elapsed, remaining()))

    call = driver.decorate(bound, fetch)
    driver.together(*(driver.after(delay, call) for delay in (0.0, 0.5, 1.25)))
    assert sorted(left) == [(0.0, 2.0), (0.5, 2.0), (1.0, 1.0), (1.25, 2.0), (1.5, 1.0), (2.25, 1.0)]
    assert remaining() is None


def test_blocks_at_once_settle_their_own_permits(driver: Driver, make: Make) -> None:
    """Blocks of one breaker in many threads or tasks are settled each by its own end."""
    breaker = make.breaker(window=Window.calls(100), min_calls=100)

    def of(who: int) -> Scenario:
        async def body() -> None:
            async with driver.block(breaker):
                await driver.sleep(1.0 + who % 3)
                if who % 2:
                    raise ConnectionError

        return body

    outcomes = driver.together(*map(of, range(10)))
    assert [type(one) for one in outcomes] == [type(None), ConnectionError] * 5
    assert breaker.counts == WindowCounts(10, 5, 0)


def test_blocks_of_one_thread_may_overlap(make: Make, virtual_clock: VirtualClock) -> None:
    """Blocks that end in another order than they began, as generators' do, settle their own permits."""
    good, bad = make.breaker(window=Window.calls(9)), make.breaker(window=Window.calls(9))

    def guarded(breaker: CircuitBreaker) -> Generator[None, bool, None]:
        with breaker:
            if (yield):
                raise ConnectionError

    first, second = guarded(good), guarded(bad)
    for one in (first, second):
        next(one)
    with pytest.raises(StopIteration):
        first.send(False)
    with pytest.raises(ConnectionError):
        second.send(True)
    assert (good.counts, bad.counts) == (WindowCounts(1, 0, 0), WindowCounts(1, 1, 0))


# Contexts


def test_the_attempt_number_stays_in_its_task(driver: Driver, make: Make) -> None:
    """While one task is at its third attempt, its neighbours are at none, and afterwards it is at none either."""
    tries = itertools.count(1)

    async def fetch() -> None:
        await driver.sleep(1.0)
        if next(tries) < 3:
            raise ConnectionError

    call = driver.decorate(make.retry(3, wait=1.0), fetch)

    async def retrying() -> int:
        await driver.ask(call)
        return current_attempt()

    async def neighbour() -> list[int]:
        seen: list[Any] = []
        for _ in range(12):
            seen.append(current_attempt())
            await driver.sleep(0.5)
        return seen

    assert driver.together(retrying, neighbour) == [1, [1] * 12]
    assert current_attempt() == 1


@pytest.mark.parametrize("ending", ["returns", "raises"])
def test_the_deadline_stays_in_its_task(driver: Driver, make: Make, ending: str) -> None:
    """A deadline holds in the task that set it while it is set: not in its neighbours, and not afterwards."""

    async def fetch() -> None:
        await driver.sleep(2.0)
        if ending == "raises":
            raise KeyError

    call = driver.decorate(make.timeout(5.0), fetch)

    async def bounded() -> float | None:
        await driver.outcome(call)
        return remaining()

    async def neighbour() -> list[float | None]:
        seen: list[Any] = []
        for _ in range(5):
            seen.append(current_deadline())
            await driver.sleep(1.0)
        return seen

    assert driver.together(bounded, neighbour) == [None, [None] * 5]


@pytest.mark.parametrize("mode", ["async"], indirect=True)
def test_tasks_of_an_attempt_belong_to_it(driver: Driver, make: Make) -> None:
    """Tasks that an attempt starts see its number and deadline, also after the attempt has moved on."""
    seen: list[tuple[int, float | None]] = []
    children: list[asyncio.Task[None]] = []

    async def child() -> None:
        await driver.sleep(0.5)
        seen.append((current_attempt(), remaining()))

    async def fetch() -> None:
        children.append(asyncio.create_task(child()))
        await driver.sleep(0.25)
        if len(children) < 3:
            raise ConnectionError

    call = driver.compose("decorators", make.retry(3, wait=1.0), make.timeout(10.0), source=fetch)

    async def main() -> None:
        await call()
        await asyncio.gather(*children)

    driver.run(main)
    assert seen == [(1, 9.5), (2, 9.5), (3, 9.5)]


@pytest.mark.parametrize("mode", ["async"], indirect=True)
def test_a_thread_of_an_attempt_belongs_to_it(driver: Driver, make: Make) -> None:
    """`asyncio.to_thread` takes the attempt's number and deadline along."""
    seen: list[tuple[int, float | None]] = []

    def work() -> None:
        seen.append((current_attempt(), remaining()))

    async def fetch() -> None:
        await asyncio.to_thread(work)
        if len(seen) < 3:
            raise ConnectionError

    call = driver.compose("decorators", make.retry(3, wait=1.0), make.timeout(10.0), source=fetch)
    driver.run(call)
    assert seen == [(1, 10.0), (2, 10.0), (3, 10.0)]


def test_a_bare_thread_knows_of_no_attempt(make: Make, virtual_clock: VirtualClock) -> None:
    """A thread that is just started begins anew: no attempt, no deadline; one with the context has both."""
    seen: list[tuple[int, float | None]] = []
    tries = itertools.count(1)

    def look() -> None:
        seen.append((current_attempt(), remaining()))

    def fetch() -> None:
        context = copy_context()
        threads = [threading.Thread(target=look), threading.Thread(target=context.run, args=(look,))]
        for thread in threads:
            thread.start()
            thread.join()
        if next(tries) < 2:
            raise ConnectionError

    with deadline_after(100.0):
        make.retry(2, wait=1.0)(fetch)()
    assert [one for one in seen if one[1] is None] == [(1, None), (1, None)]
    assert [left for _, left in seen if left is not None] == [100.0, 99.0]


def test_a_nested_retry_counts_for_itself(driver: Driver, make: Make) -> None:
    """Inside an inner retry its own number holds, after it the outer one's again, whoever else is running."""
    seen: list[str] = []

    async def inner(who: str) -> None:
        seen.append(f"{who} inner {current_attempt()}")
        await driver.sleep(0.1)
        raise ConnectionError

    inside = driver.decorate(make.retry(2, wait=0.1), inner)

    async def outer(who: str) -> None:
        seen.append(f"{who} outer {current_attempt()}")
        try:
            await driver.ask(inside, who)
        finally:
            seen.append(f"{who} outer {current_attempt()}")

    outside = driver.decorate(make.retry(2, wait=0.1), outer)
    driver.together(*(driver.after(0.01 * at, outside, who) for at, who in enumerate("ab")))
    for who in "ab":
        told = [one[2:] for one in seen if one.startswith(who)]
        assert told == [
            *("outer 1", "inner 1", "inner 2", "outer 1"),
            *("outer 2", "inner 1", "inner 2", "outer 2"),
        ]


# Breakers between threads and loops


def test_a_permit_may_be_settled_by_another_thread(make: Make, virtual_clock: VirtualClock) -> None:
    """What one thread was admitted for, another settles; twice counts once."""
    breaker = make.breaker(window=Window.calls(100), min_calls=100)
    permits = [breaker.admit() for _ in range(50)]

    def settle() -> None:
        for permit in permits:
            permit.failure()

    race(*[settle] * THREADS)
    assert breaker.counts == WindowCounts(50, 50, 0)


@pytest.mark.parametrize(
    "window",
    [Window.seconds(3600), Window.calls(10_000), Window.consecutive(10_000)],
    ids=lambda one: one.kind,
)
@pytest.mark.parametrize("slow", [None, 100.0], ids=["plain", "slow calls"])
def test_no_failure_is_lost(
    make: Make, virtual_clock: VirtualClock, window: Window, slow: float | None
) -> None:
    """Eight threads, half of them with event loops, fail at the same moment: every failure is counted."""
    breaker = make.breaker(window=window, min_calls=10_000, slow_call_duration=slow)

    @breaker
    def fail() -> None:
        raise ConnectionError

    @breaker
    async def afail() -> None:
        raise ConnectionError

    def plain() -> None:
        for _ in range(100):
            with pytest.raises(ConnectionError):
                fail()

    async def many() -> None:
        for _ in range(100):
            with pytest.raises(ConnectionError):
                await afail()

    race(*[plain, lambda: asyncio.run(many())] * (THREADS // 2))
    assert breaker.counts == WindowCounts(800, 800, 0)


def test_loops_and_threads_share_a_half_open_breaker(make: Make, virtual_clock: VirtualClock) -> None:
    """Tasks of several event loops and plain threads race for five probes: five get one, round after round."""
    breaker = make.breaker(1, half_open_calls=5, open_for=1.0, open_cap=1.0)

    def admitted() -> list[Permit]:
        try:
            return [breaker.admit()]
        except CircuitOpenError:
            return []

    async def task() -> list[Permit]:
        await asyncio.sleep(0)
        return admitted()

    async def tasks() -> list[Permit]:
        return sum(await asyncio.gather(*(task() for _ in range(10))), list[Permit]())

    for _ in range(15):
        breaker.open()
        virtual_clock.advance(1.0)
        permits = sum(race(*[admitted, lambda: asyncio.run(tasks())] * 3), list[Permit]())
        assert len(permits) == 5
        race(*(permit.success for permit in permits))
        assert breaker.state is CLOSED


def test_a_trip_in_one_thread_stops_the_others(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """The breaker that one caller trips refuses the next call of every other, at that instant."""
    breaker = make.breaker(3)
    log: list[tuple[float, int, str]] = []

    async def fetch(who: int) -> str:
        if who < 3 and driver.clock.elapsed >= 2.0:
            raise ConnectionError
        return "ok"

    call = driver.decorate(breaker, fetch)

    def client(who: int) -> Scenario:
        async def loop() -> None:
            await driver.sleep(who / 8)
            for _ in range(5):
                outcome = await driver.outcome(call, who)
                log.append((driver.clock.elapsed, who, type(outcome).__name__))
                await driver.sleep(1.0)

        return loop

    driver.together(*map(client, range(4)))
    trip = [at for at, _, name in log if name == "ConnectionError"]
    assert trip == [2.0, 2.125, 2.25]
    assert {name for at, _, name in log if at > 2.25} == {"CircuitOpenError"}
    assert len(event_recorder.of(CallRejected)) == breaker.rejected == 4 * 5 - 8 - 3


def test_isolation_is_counted_across_threads(make: Make) -> None:
    """As many releases as isolations, from any threads in any order: closed in the end, isolated until then."""
    breaker = make.breaker(3)

    def isolate() -> CircuitState:
        breaker.isolate()
        return breaker.state

    assert set(race(*[isolate] * THREADS)) == {CircuitState.ISOLATED}
    race(*[breaker.release] * (THREADS - 1))
    assert breaker.state is CircuitState.ISOLATED
    breaker.release()
    assert breaker.state is CLOSED


def test_overrides_from_everywhere_leave_a_working_breaker(make: Make, virtual_clock: VirtualClock) -> None:
    """Threads that override, call, read and restore a breaker at random leave one that works."""
    breaker = make.breaker(2, window=Window.calls(10), slow_call_duration=1.0)
    exported = breaker.export_state()

    @breaker
    def fetch(at: int) -> int:
        if at % 3 == 0:
            raise ConnectionError
        return at

    def call() -> None:
        for at in range(100):
            try:
                assert fetch(at) == at
            except (ConnectionError, CircuitOpenError):
                pass

    def override() -> None:
        steps: list[Callable[[], Any]] = [breaker.open, breaker.half_open, breaker.close, breaker.isolate]
        steps += [breaker.release, breaker.disable, breaker.shadow, breaker.reset, breaker.export_state]
        steps += [lambda: breaker.import_state(exported), lambda: breaker.counts, lambda: breaker.retry_after]
        for at in range(100):
            steps[at % len(steps)]()

    race(call, override, call, override)
    breaker.reset()
    assert (breaker.state, breaker.counts, fetch(1)) == (CLOSED, WindowCounts(0, 0, 0), 1)


# First calls


def test_the_first_callers_may_race(make: Make) -> None:
    """Threads that use a policy's `call` for the first time at once all get their own results."""
    for _ in range(10):
        call: Callable[..., Any] = make.pipeline(make.retry(), make.breaker()).call
        assert sorted(race(*(partial(call, int, str(at)) for at in range(THREADS)))) == list(range(THREADS))


def test_a_function_may_be_called_while_its_code_is_exchanged(make: Make) -> None:
    """A function's first calls check their results, later ones do not: threads in between notice nothing."""

    def pair(value: int, *, other: int) -> tuple[int, int]:
        return value, other

    for _ in range(10):
        decorated = make.pipeline(make.retry(), make.breaker())(pair)

        def calls(who: int, decorated: Callable[..., Any] = decorated) -> bool:
            return all(decorated(at, other=who) == (at, who) for at in range(30))

        assert all(race(*(lambda who=who: calls(who) for who in range(THREADS))))


def test_functions_may_be_decorated_at_the_same_time() -> None:
    """Threads that decorate functions of the same and of new shapes get working functions."""

    def decorate(who: int) -> list[int]:
        pipeline = Pipeline(Retry(3), CircuitBreaker(f"c{who}"), Timeout(5.0))
        made = [pipeline(eval(f"lambda a{who}, b{at}=1: a{who} + b{at}")) for at in range(10)]
        return [fn(who) for fn in made]

    assert sorted(race(*(lambda who=who: decorate(who) for who in range(THREADS)))) == [
        [who + 1] * 10 for who in range(THREADS)
    ]


# Budgets and events


def test_a_budget_grants_no_token_twice(make: Make, virtual_clock: VirtualClock) -> None:
    """Eight threads share twenty tokens: exactly twenty retries are made, whoever makes them."""
    budget, calls = make.budget(20), itertools.count()

    @make.retry(4, wait=0.0, budget=budget)
    def fetch() -> None:
        next(calls)
        raise ConnectionError

    def client() -> None:
        for _ in range(10):
            with pytest.raises(ConnectionError):
                fetch()

    race(*[client] * THREADS)
    assert next(calls) == THREADS * 10 + 20
    assert budget.tokens < 1.0


def test_every_event_of_every_thread_arrives(make: Make, virtual_clock: VirtualClock) -> None:
    """A subscriber hears each event once, in the thread that decided, though others come and go meanwhile."""
    heard: list[tuple[str, int]] = []

    def fetch() -> None:
        raise ConnectionError

    def client(who: int) -> None:
        call = make.retry(3, wait=0.0, name=f"c{who}")(fetch)
        for _ in range(25):
            with subscribe(lambda event: None), pytest.raises(ConnectionError):
                call()

    def hear(event: RetryScheduled) -> None:
        heard.append((event.name, threading.get_ident()))

    with subscribe(hear, RetryScheduled):
        race(*(lambda who=who: client(who) for who in range(THREADS)))
    assert sorted(name for name, _ in heard) == sorted(f"c{who}" for who in range(THREADS) for _ in range(50))
    assert len(set(heard)) == THREADS


def test_executors_run_decorated_functions(make: Make, virtual_clock: VirtualClock) -> None:
    """A pool of threads that runs a decorated function retries in the pool's threads."""
    tries: dict[int, int] = {}

    @make.retry(3, wait=0.0)
    def fetch(who: int) -> tuple[int, int]:
        tries[who] = tries.get(who, 0) + 1
        if tries[who] < 3:
            raise ConnectionError
        return who, current_attempt()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fetch, range(20))) == [(who, 3) for who in range(20)]
