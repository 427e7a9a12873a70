"""Bulkhead: its settings, places, queue, live limit, blocks, and what it does in a forked child."""

import ast
import asyncio
import gc
import inspect
import os
import re
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Driver, Mode, driver_of
from holdfast.infrastructure.resilience import _bulkhead
from holdfast.infrastructure.resilience.bulkhead import Bulkhead, BulkheadConfig, bulkhead
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.concurrency_limit import ConcurrencyLimit
from holdfast.infrastructure.resilience.deadline import deadline_after
from holdfast.infrastructure.resilience.errors import BulkheadFullError, ConfigurationError
from holdfast.infrastructure.resilience.events import CallDelayed, CallRejected, LimitChanged, subscribe
from holdfast.infrastructure.resilience.fallback import Fallback
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.rate_limit import RateLimit
from holdfast.infrastructure.resilience.throttle import Throttle
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.testing import EventRecorder, Script, VirtualClock, fail, succeed

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(params=["plain", "locked"], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with the lock-free form and with that of builds without the GIL."""
    chosen: str = request.param
    monkeypatch.setattr(_bulkhead, "PLAIN", chosen == "plain")
    return chosen


@pytest.fixture(params=["sync", "async"])
def driver(request: pytest.FixtureRequest, virtual_clock: VirtualClock) -> Iterator[Driver]:
    """Give what runs a scenario in both modes, on the virtual clock."""
    mode: Mode = request.param
    made = driver_of(mode, virtual_clock)
    yield made
    made.close()


def idle(places: Bulkhead) -> bool:
    """Return whether nobody is inside or waits, and as many as the limit says get in."""
    if (places.running, places.waiting) != (0, 0):
        return False
    for _ in range(places.limit):
        places.__enter__()
    full = places.running == places.limit
    for _ in range(places.limit):
        places.__exit__(None, None, None)
    return full and places.running == 0


class Calls:
    """Calls of one function under a bulkhead: who was inside when, and how many at most."""

    def __init__(self, driver: Driver, places: Bulkhead) -> None:
        self.driver = driver
        self.begun: list[tuple[str, float]] = []
        self.inside = self.most = 0

        async def work(who: str, seconds: float) -> str:
            return await self._work(who, seconds)

        self.call = driver.decorate(places, work)

    async def _work(self, who: str, seconds: float) -> str:
        self.begun.append((who, self.driver.clock.elapsed))
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.driver.sleep(seconds)
        finally:
            self.inside -= 1
        return who

    def at(self, seconds: float, who: str, takes: float) -> Callable[[], Any]:
        """Return a scenario that calls after `seconds`."""
        return self.driver.after(seconds, self.call, who, takes)


def gate_of(places: Any) -> _bulkhead.Gate:
    """Return the state of a bulkhead."""
    gate: _bulkhead.Gate = places._gate  # noqa: SLF001  # where forks and interrupts strike, nothing public is
    return gate


def ignore(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Do not report a task that is destroyed while it waits."""


def kinds(outcomes: list[Any]) -> list[Any]:
    """Return outcomes with errors as their types."""
    return [type(one) if isinstance(one, BaseException) else one for one in outcomes]


# Settings


def test_the_defaults_are_these() -> None:
    """A limit, no queue, no bound of the wait but the deadline, no name, the common clock."""
    made = Bulkhead(3)

    assert made.config == BulkheadConfig(limit=3, queue=0, max_wait=None, name=None, clock=None)
    assert (made.limit, made.running, made.waiting, made.rejected) == (3, 0, 0, 0)
    assert repr(Bulkhead(3, queue=2, max_wait=0.5, name="search")) == (
        "Bulkhead(3, queue=2, max_wait=0.5, name='search')"
    )


def test_the_lower_case_form_makes_the_same() -> None:
    """`bulkhead(...)` is a Bulkhead of the same settings."""
    clock = Clock()
    made = bulkhead(3, queue=2, max_wait=1, name="search", clock=clock)

    assert made.config == Bulkhead(3, queue=2, max_wait=1, name="search", clock=clock).config
    assert made.name == "search"


BAD: dict[str, tuple[object, ...]] = {
    "limit": (0, -1, 1.5, True, None, "3", 1_000_001),
    "queue": (-1, 0.5, None, True, 1_000_001),
    "max_wait": (-1, float("nan"), float("inf"), "1", True, 86_401),
    "name": (1, b"x"),
    "clock": (object(), Clock),
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path in BAD for value in BAD[path]])
def test_a_setting_out_of_range_is_refused(path: str, value: Any) -> None:
    """The fault names the setting and the value."""
    settings: dict[str, Any] = {"limit": 1, "queue": 1, path: value}
    with pytest.raises(ConfigurationError) as caught:
        Bulkhead(**settings)

    (fault,) = caught.value.faults
    assert (fault.path, fault.value) == (path, value) or fault.value is value


def test_all_faults_come_at_once() -> None:
    """One ConfigurationError lists everything that is wrong."""
    bad: Any = {"limit": 0, "queue": -1, "max_wait": -1, "name": 1, "clock": 1}
    with pytest.raises(ConfigurationError) as caught:
        BulkheadConfig(**bad)

    assert [fault.path for fault in caught.value.faults] == ["limit", "queue", "max_wait", "name", "clock"]


def test_a_bound_of_a_wait_that_there_is_not_is_refused() -> None:
    """`max_wait` without a queue would be ignored: it is a fault."""
    with pytest.raises(ConfigurationError, match="queue is 0; give queue"):
        Bulkhead(3, max_wait=1.0)

    assert Bulkhead(3, max_wait=0).config.max_wait == 0


def test_the_documented_defaults_are_true() -> None:
    """The table of docs/policies/bulkhead.md shows every setting with its default, in order."""
    page = (ROOT / "docs" / "policies" / "bulkhead.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", page, re.MULTILINE)
    shown = {
        name: inspect.Parameter.empty if value == "–" else ast.literal_eval(value) for name, value in rows
    }
    settings = inspect.signature(Bulkhead).parameters.values()
    assert list(shown.items()) == [(one.name, one.default) for one in settings]


# Places


def test_no_more_than_the_limit_run_at_once(driver: Driver, event_recorder: EventRecorder) -> None:
    """The call beyond the limit is refused at once, with the bulkhead's name, and is not made."""
    places = Bulkhead(2, name="search")
    calls = Calls(driver, places)

    outcomes = driver.together(*(calls.at(0, who, 1.0) for who in "abc"), calls.at(1.5, "d", 1.0))

    assert kinds(outcomes) == ["a", "b", BulkheadFullError, "d"]
    assert outcomes[2].args == ("search",)
    assert str(outcomes[2]) == "bulkhead 'search' is full"
    assert calls.begun == [("a", 0.0), ("b", 0.0), ("d", 1.5)]
    assert (calls.most, places.rejected, idle(places)) == (2, 1, True)
    (event,) = event_recorder.events
    assert event == CallRejected(name="search", at=event.at, policy="bulkhead", retry_after=None)


OUTCOMES: list[BaseException | None] = [
    None,
    ValueError(),
    KeyboardInterrupt(),
    SystemExit(),
    GeneratorExit(),
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("error", OUTCOMES, ids=lambda error: type(error).__name__)
def test_every_outcome_gives_the_place_back(driver: Driver, error: BaseException | None) -> None:
    """A result, an error, an exit and a cancellation pass unchanged, and leave the place free."""
    places = Bulkhead(1)
    fn = driver.decorate(places, Script(succeed("result") if error is None else fail(error)))

    async def call() -> Any:
        try:
            return await driver.ask(fn)
        except BaseException as raised:  # exits included: they must not end the loop
            return raised

    for _ in range(20):
        assert driver.run(call) == (error or "result")
    assert (places.rejected, idle(places)) == (0, True)


def test_functions_calls_pipelines_and_blocks_share_the_places(driver: Driver) -> None:
    """However a bulkhead is used, it has the same places."""
    places = Bulkhead(1)
    fn = driver.function(Script(succeed()))

    async def scenario() -> list[Any]:
        async with driver.block(places):
            return [
                await driver.outcome(places(fn)),
                await driver.outcome(places.call, fn),
                await driver.outcome(Pipeline(places, name="service")(fn)),
            ]

    found = driver.run(scenario)
    assert kinds(found) == [BulkheadFullError] * 3
    label = f"{fn.__module__}.{fn.__qualname__}"
    assert [one.name for one in found] == [label, label, "service"]
    assert (places.rejected, idle(places)) == (3, True)


def test_a_block_waits_and_is_refused_as_a_call_is(driver: Driver) -> None:
    """A block takes a place, waits for one in the queue, and raises BulkheadFullError; nameless, it is `bulkhead`."""
    places = Bulkhead(1, queue=1, max_wait=2.0)
    begun: list[tuple[str, float]] = []

    def block(at: float, who: str) -> Callable[[], Any]:
        async def scenario() -> str:
            await driver.sleep(at)
            async with driver.block(places) as given:
                begun.append((who, driver.clock.elapsed))
                await driver.sleep(1.5)
                assert given is None
            return who

        return scenario

    outcomes = driver.together(block(0, "a"), block(0.5, "b"), block(1.0, "c"))
    assert kinds(outcomes) == ["a", "b", BulkheadFullError]
    assert str(outcomes[2]) == "bulkhead 'bulkhead' is full"
    assert begun == [("a", 0.0), ("b", 1.5)]
    assert idle(places)


def test_the_end_of_a_block_that_never_began_frees_nothing() -> None:
    """Where no place is taken, `__exit__` does nothing: the limit holds."""
    places = Bulkhead(1)
    places.__exit__(None, None, None)

    with places, pytest.raises(BulkheadFullError):
        places.__enter__()
    assert idle(places)


def test_a_call_of_itself_does_not_wait_for_itself(driver: Driver) -> None:
    """Recursion at the limit ends: refused at once without a queue, after `max_wait` with one."""
    for places, seconds in ((Bulkhead(1), 0.0), (Bulkhead(1, queue=1, max_wait=3.0), 3.0)):
        began = driver.clock.elapsed

        async def again(depth: int, places: Bulkhead = places) -> Any:
            return await driver.ask(driver.decorate(places, again), depth + 1)

        with pytest.raises(BulkheadFullError):
            driver.call(driver.decorate(places, again), 0)
        assert driver.clock.elapsed - began == seconds
        assert idle(places)


# The queue


def test_who_waits_longest_is_next(driver: Driver, event_recorder: EventRecorder) -> None:
    """Places are handed on in the order of arrival, whoever is quicker to ask; waits are told with their length."""
    places = Bulkhead(1, queue=3, name="search")
    calls = Calls(driver, places)

    outcomes = driver.together(
        calls.at(0.0, "a", 10.0), *(calls.at(at, who, 1.0) for at, who in ((3, "d"), (1, "b"), (2, "c")))
    )

    assert kinds(outcomes) == ["a", "d", "b", "c"]
    assert calls.begun == [("a", 0.0), ("b", 10.0), ("c", 11.0), ("d", 12.0)]
    assert [(event.name, event.policy, event.seconds) for event in event_recorder.of(CallDelayed)] == [
        ("search", "bulkhead", 9.0),
        ("search", "bulkhead", 9.0),
        ("search", "bulkhead", 9.0),
    ]
    assert event_recorder.kinds == ("CallDelayed",) * 3
    assert (places.rejected, idle(places)) == (0, True)


def test_nobody_overtakes_who_waits(driver: Driver) -> None:
    """A call that comes at the very moment at which a place is free does not take it before those who wait."""
    places = Bulkhead(1, queue=2)
    calls = Calls(driver, places)

    async def twice() -> Any:
        await driver.ask(calls.call, "a", 2.0)
        return await driver.ask(calls.call, "a again", 1.0)

    driver.together(twice, calls.at(1.0, "b", 1.0))
    assert calls.begun == [("a", 0.0), ("b", 2.0), ("a again", 3.0)]
    assert idle(places)


def test_a_full_queue_refuses_at_once(driver: Driver) -> None:
    """Beyond limit and queue a call is refused at the instant it comes, while the others keep their places."""
    places = Bulkhead(1, queue=1)
    calls = Calls(driver, places)
    refused: list[float] = []

    async def third() -> None:
        await driver.sleep(2.0)
        assert (places.running, places.waiting) == (1, 1)
        assert isinstance(await driver.outcome(calls.call, "c", 1.0), BulkheadFullError)
        refused.append(driver.clock.elapsed)

    outcomes = driver.together(calls.at(0.0, "a", 5.0), calls.at(1.0, "b", 1.0), third)
    assert kinds(outcomes) == ["a", "b", None]
    assert refused == [2.0]
    assert calls.begun == [("a", 0.0), ("b", 5.0)]
    assert (places.rejected, idle(places)) == (1, True)


def test_nobody_waits_longer_than_max_wait(driver: Driver, event_recorder: EventRecorder) -> None:
    """After `max_wait` seconds a waiter is refused; its place in the queue is free for another."""
    places = Bulkhead(1, queue=1, max_wait=2.0, name="search")
    calls = Calls(driver, places)
    ended: dict[str, float] = {}

    def late(at: float, who: str) -> Callable[[], Any]:
        async def scenario() -> Any:
            await driver.sleep(at)
            outcome = await driver.outcome(calls.call, who, 1.0)
            ended[who] = driver.clock.elapsed
            return outcome

        return scenario

    outcomes = driver.together(calls.at(0.0, "a", 5.0), late(1.0, "b"), late(3.5, "c"))
    assert kinds(outcomes) == ["a", BulkheadFullError, "c"]
    assert ended == {"b": 3.0, "c": 6.0}
    assert event_recorder.kinds == ("CallRejected", "CallDelayed")
    assert (places.rejected, idle(places)) == (1, True)


def test_a_place_that_is_free_only_at_the_bound_comes_too_late(driver: Driver) -> None:
    """At the very instant at which `max_wait` or the deadline is over, nobody is admitted any more."""
    for max_wait, seconds in ((2.0, 9.0), (None, 2.0)):
        places = Bulkhead(1, queue=1, max_wait=max_wait)
        calls = Calls(driver, places)

        async def bounded(calls: Calls = calls, seconds: float = seconds) -> Any:
            with deadline_after(seconds):
                return await driver.outcome(calls.call, "b", 1.0)

        outcomes = driver.together(calls.at(0.0, "a", 2.0), bounded)
        assert kinds(outcomes) == ["a", BulkheadFullError]
        assert [who for who, _ in calls.begun] == ["a"]
        assert (places.rejected, idle(places)) == (1, True)


@pytest.mark.parametrize(("max_wait", "bound", "ends"), [(None, 3.0, 3.0), (9.0, 3.0, 3.0), (1.0, 3.0, 1.0)])
def test_the_deadline_bounds_the_wait(
    driver: Driver, max_wait: float | None, bound: float, ends: float
) -> None:
    """Whichever comes first, `max_wait` or the deadline around the call, ends the wait; the call is not made."""
    places = Bulkhead(1, queue=1, max_wait=max_wait)
    calls = Calls(driver, places)

    async def bounded() -> float:
        with deadline_after(bound):
            assert isinstance(await driver.outcome(calls.call, "b", 1.0), BulkheadFullError)
        return driver.clock.elapsed

    assert driver.together(calls.at(0.0, "a", 9.0), bounded) == ["a", ends]
    assert calls.begun == [("a", 0.0)]
    assert idle(places)


def test_a_deadline_that_has_passed_waits_for_nothing(driver: Driver) -> None:
    """With no time left a call that finds no place free is refused at once, room in the queue or not."""
    places = Bulkhead(1, queue=1)
    fn = driver.decorate(places, Script(succeed()))

    async def scenario() -> Any:
        async with driver.block(places):
            with deadline_after(-1.0):
                return await driver.outcome(fn)

    assert isinstance(driver.run(scenario), BulkheadFullError)
    assert driver.clock.elapsed == 0.0
    assert idle(places)


def test_a_bulkhead_of_its_own_clock_waits_by_it() -> None:
    """`max_wait` counts on the bulkhead's clock, and so do the waits that are told."""
    clock = VirtualClock()
    places = Bulkhead(1, queue=1, max_wait=2.0, clock=clock)

    with places, EventRecorder() as recorder, pytest.raises(BulkheadFullError):
        places.__enter__()
    assert (clock.elapsed, recorder.kinds) == (2.0, ("CallRejected",))


def test_who_is_woken_too_late_passes_the_place_on(virtual_clock: VirtualClock) -> None:
    """A place given in time is worth nothing to a task whose loop was busy until its deadline: the next one gets it."""
    places = Bulkhead(1, queue=2, name="search")
    begun: list[str] = []

    @places
    async def work(who: str) -> None:
        begun.append(who)

    async def waiter(who: str, seconds: float) -> Any:
        with deadline_after(seconds):
            try:
                return await work(who)
            except BulkheadFullError as error:
                return error

    async def main() -> Any:
        async with places:
            hasty, patient = (
                asyncio.ensure_future(waiter(*one)) for one in (("hasty", 2.0), ("patient", 9.0))
            )
            await asyncio.sleep(0)
            assert places.waiting == 2
        virtual_clock.advance(2.0)
        return kinds([await hasty, await patient])

    assert virtual_clock.run(main()) == [BulkheadFullError, None]
    assert begun == ["patient"]
    assert (places.rejected, idle(places)) == (1, True)


def test_a_subscriber_that_wants_out_leaves_no_place_behind(driver: Driver) -> None:
    """An exit raised while the wait is told ends the call that was admitted: its place is free again."""
    places = Bulkhead(1, queue=1)
    calls = Calls(driver, places)

    def leave(event: object) -> None:
        raise SystemExit

    async def waiter() -> str:
        try:
            await driver.ask(calls.call, "b", 1.0)
        except SystemExit:
            return "left"
        return "stayed"

    with subscribe(leave, CallDelayed):
        assert driver.together(calls.at(0.0, "a", 1.0), driver.after(0.5, driver.function(waiter))) == [
            "a",
            "left",
        ]
    assert idle(places)


# Threads and tasks together


def test_threads_and_tasks_wait_in_one_queue(virtual_clock: VirtualClock) -> None:
    """Waiters in threads and on two loops of other threads get the place in the order in which they came."""
    places = Bulkhead(1, queue=4)
    begun: list[tuple[str, float]] = []

    def thread(at: float, who: str, takes: float) -> Callable[[], None]:
        def body() -> None:
            virtual_clock.sleep(at)
            with places:
                begun.append((who, virtual_clock.elapsed))
                virtual_clock.sleep(takes)

        return body

    def task(at: float, who: str, takes: float) -> Callable[[], None]:
        async def main() -> None:
            await virtual_clock.asleep(at)
            async with places:
                begun.append((who, virtual_clock.elapsed))
                await virtual_clock.asleep(takes)

        return lambda: virtual_clock.run(main())

    virtual_clock.run_threads(
        thread(0, "thread 1", 10),
        task(4, "task 2", 1),
        thread(3, "thread 3", 1),
        task(1, "task 1", 1),
        thread(2, "thread 2", 1),
    )
    assert begun == [("thread 1", 0), ("task 1", 10), ("thread 2", 11), ("thread 3", 12), ("task 2", 13)]
    assert idle(places)


def test_a_waiter_whose_loop_is_closed_is_passed_over() -> None:
    """A task that waits on a loop that was closed gets no place; the next waiter does."""
    places = Bulkhead(1, queue=2)
    places.__enter__()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(ignore)

    async def wait() -> None:
        async with places:
            pytest.fail("this loop is closed")

    async def begin() -> asyncio.Task[None]:
        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        return task

    lost = loop.run_until_complete(begin())
    loop.close()
    assert places.waiting == 1
    entered = threading.Event()

    def follow() -> None:
        with places:
            entered.set()

    follower = threading.Thread(target=follow)
    follower.start()
    while places.waiting < 2:
        pass
    places.__exit__(None, None, None)
    assert entered.wait(10)
    follower.join()
    assert (places.waiting, places.running) == (0, 0)
    lost.get_coro().close()
    assert idle(places)


def test_a_waiter_whose_time_is_over_gets_no_place_though_it_sleeps(virtual_clock: VirtualClock) -> None:
    """A task whose loop does not run cannot leave the queue at its deadline: it is dropped when a place is free."""
    places = Bulkhead(1, queue=1)
    places.__enter__()
    loop = virtual_clock.loop()

    async def wait() -> str:
        with deadline_after(1.0):
            async with places:
                return "in"

    async def begin() -> asyncio.Task[str]:
        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        return task

    sleeper = loop.run_until_complete(begin())
    virtual_clock.advance(2.0)
    assert places.waiting == 1
    places.__exit__(None, None, None)
    assert (places.running, places.waiting) == (0, 0)
    with pytest.raises(BulkheadFullError):
        loop.run_until_complete(sleeper)
    loop.close()
    assert (places.rejected, idle(places)) == (1, True)


def test_an_abandoned_coroutine_gives_its_place_back() -> None:
    """When the garbage collector closes a coroutine, its call ends, running or waiting."""
    places = Bulkhead(1, queue=1)

    @places
    async def forever() -> None:
        await asyncio.Future()

    async def main() -> None:
        running, waiting = forever(), forever()
        running.send(None)
        waiting.send(None)
        assert (places.running, places.waiting) == (1, 1)
        del waiting
        gc.collect()
        assert (places.running, places.waiting) == (1, 0)
        del running
        gc.collect()

    asyncio.run(main())
    assert idle(places)


class Kept:
    """An argument that tells whether anybody still has it."""


@pytest.mark.parametrize("queue", [0, 1])
def test_a_refusal_keeps_nothing_alive(driver: Driver, queue: int) -> None:
    """Error, traceback, frames and waiter form no circle: the arguments go without a collection."""
    places = Bulkhead(1, queue=queue, max_wait=queue)
    fn = driver.decorate(places, Script(succeed()))
    gone: list[weakref.ref[Kept]] = []

    async def refused() -> None:
        argument = Kept()
        gone.append(weakref.ref(argument))
        try:
            await driver.ask(fn, argument)
        except BulkheadFullError:
            return

    async def scenario() -> None:
        async with driver.block(places):
            await driver.ask(driver.function(refused))

    gc.disable()
    try:
        driver.run(scenario)
        assert gone[0]() is None
    finally:
        gc.enable()


# The live limit


def test_a_higher_limit_admits_at_once(driver: Driver, event_recorder: EventRecorder) -> None:
    """When the limit grows, as many of those who wait begin at that instant, in order."""
    places = Bulkhead(1, queue=3, name="search")
    calls = Calls(driver, places)

    async def grow() -> None:
        await driver.sleep(5.0)
        places.resize(3)

    driver.together(*(calls.at(at, who, 10.0) for at, who in enumerate("abcd")), grow)
    assert calls.begun == [("a", 0.0), ("b", 5.0), ("c", 5.0), ("d", 10.0)]
    assert (calls.most, places.limit, idle(places)) == (3, 3, True)
    (event,) = event_recorder.of(LimitChanged)
    assert event == LimitChanged(name="search", at=event.at, policy="bulkhead", old=1, new=3)


def test_a_lower_limit_interrupts_nobody(driver: Driver) -> None:
    """When the limit shrinks, running calls end as they would; nobody is admitted until fewer run than it says."""
    places = Bulkhead(3, queue=1)
    calls = Calls(driver, places)

    async def shrink() -> None:
        await driver.sleep(0.5)
        places.resize(1)
        assert (places.limit, places.running) == (1, 3)

    outcomes = driver.together(
        *(calls.at(0, who, at) for at, who in enumerate("abc", 1)), shrink, calls.at(0.7, "d", 1)
    )
    assert kinds(outcomes) == ["a", "b", "c", None, "d"]
    assert calls.begun[3:] == [("d", 3.0)]
    assert idle(places)


def test_a_lower_limit_refuses_where_there_is_no_queue(driver: Driver) -> None:
    """Calls beyond a lowered limit are refused, also after some of those that run have ended."""
    places = Bulkhead(3)
    calls = Calls(driver, places)

    async def shrink() -> None:
        await driver.sleep(0.5)
        places.resize(2)

    outcomes = driver.together(
        *(calls.at(0, who, at) for at, who in enumerate("abc", 1)),
        shrink,
        calls.at(1.5, "d", 1),
        calls.at(2.5, "e", 1),
    )
    assert kinds(outcomes) == ["a", "b", "c", None, BulkheadFullError, "e"]
    assert (places.rejected, idle(places)) == (1, True)


def test_a_limit_that_stays_is_no_event(event_recorder: EventRecorder) -> None:
    """LimitChanged is told only when the limit is another one; a nameless bulkhead is `bulkhead`."""
    places = Bulkhead(2)
    places.resize(2)
    places.resize(5)

    (event,) = event_recorder.events
    assert event == LimitChanged(name="bulkhead", at=event.at, policy="bulkhead", old=2, new=5)
    assert (places.config.limit, repr(places)) == (2, "Bulkhead(5, queue=0, max_wait=None, name=None)")


@pytest.mark.parametrize("limit", BAD["limit"])
def test_a_bad_limit_changes_nothing(limit: Any) -> None:
    """`resize` refuses what the constructor refuses."""
    places = Bulkhead(2)
    with pytest.raises(ConfigurationError, match="limit"):
        places.resize(limit)
    assert (places.limit, idle(places)) == (2, True)


# What it guarantees


@pytest.mark.parametrize(
    ("places", "seconds"),
    [
        (Bulkhead(3), 2.0),
        (Bulkhead(3, queue=5, max_wait=4.0), 6.0),
        (Bulkhead(3, queue=5), float("inf")),
    ],
)
def test_the_wait_counts_in_the_worst_case(places: Bulkhead, seconds: float) -> None:
    """`explain()` adds the longest wait to what lies below, and names the error; an outer bound cuts it."""
    told = Pipeline(places, Timeout(2.0)).explain()
    assert (told.duration, told.hinted_duration, told.attempts) == (seconds, seconds, 1.0)
    assert "BulkheadFullError" in told.errors
    assert Pipeline(Timeout(1.0), places, Timeout(2.0)).explain().duration == 1.0


@pytest.mark.parametrize(
    ("policies", "kind"),
    [
        ((Bulkhead(3), Timeout(2.0, sync="thread")), "bulkhead"),
        ((Bulkhead(3), RateLimit(1), Timeout(2.0, sync="thread")), "bulkhead"),
        ((ConcurrencyLimit(), Timeout(2.0, sync="thread")), "concurrency limit"),
        ((Timeout(2.0, sync="thread"), Bulkhead(3)), None),
        ((Timeout(2.0, sync="thread"), ConcurrencyLimit()), None),
        ((Bulkhead(3), Timeout(2.0)), None),
        ((RateLimit(1), Timeout(2.0, sync="thread")), None),
    ],
)
def test_explain_warns_of_places_around_threads(policies: tuple[Policy, ...], kind: str | None) -> None:
    """Outside a thread timeout a place is free again while the worker that was left behind still runs."""
    told = (
        f"{kind} around a thread timeout: a worker that is left behind runs on, while its place goes to another "
        f"call; put the {kind} inside the timeout"
    )
    assert Pipeline(*policies).explain().warnings == (() if kind is None else (told,))


TWICE: dict[str, tuple[Policy, str]] = {
    "bulkhead of 1": (Bulkhead(1), "its one place is taken when the call comes to the second"),
    "bulkhead": (
        Bulkhead(5),
        "a call takes two places, and calls that hold one each stand in one another's way",
    ),
    "concurrency limit": (
        ConcurrencyLimit(),
        "a call takes two places, and calls that hold one each stand in one another's way",
    ),
    "rate limit": (RateLimit(1), "it counts every call as two"),
    "throttle": (Throttle(), "it counts every call as two"),
    "circuit breaker": (CircuitBreaker("x"), "it counts every call as two"),
}


@pytest.mark.parametrize("kind", TWICE)
def test_explain_warns_of_one_policy_in_two_places(kind: str) -> None:
    """The same policy twice, however nested, is told in text, facts and chart; two of a kind are not."""
    policy, why = TWICE[kind]
    told = Pipeline(policy, Pipeline(Fallback(None), Pipeline(policy))).explain()
    expected = f"the same {kind.removesuffix(' of 1')} twice: {why}; keep one of them"
    assert expected in told.warnings
    assert f"warning: {expected}" in str(told).splitlines()
    assert expected in told.as_dict()["warnings"]
    assert expected in told.mermaid()
    assert not any("twice" in one for one in Pipeline(policy, Fallback(None)).explain().warnings)


def test_two_bulkheads_are_not_one() -> None:
    """Two bulkheads of the same settings are two pools, and no reason for a warning."""
    assert Pipeline(Bulkhead(1), Bulkhead(1)).explain().warnings == ()


def test_a_bulkhead_of_one_twice_lets_no_call_through(driver: Driver) -> None:
    """What the warning says is so: the call that holds the place waits for it until its time is over."""
    places = Bulkhead(1, queue=1, max_wait=3.0)
    script = Script(succeed())
    (refused,) = driver.outcomes(1, driver.decorate(Pipeline(places, places), script))
    assert type(refused) is BulkheadFullError
    assert (script.calls, driver.clock.elapsed, places.running) == (0, 3.0, 0)


# Forks


def script(source: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_begins_with_every_place_free(form: str) -> None:
    """Threads that held places, waited, or held the lock are not in the child; its own call's end frees nothing."""
    done = script(
        f"""
        import os, threading, warnings
        from holdfast.infrastructure.resilience import _bulkhead
        _bulkhead.PLAIN = {form == "plain"}
        from holdfast.infrastructure.resilience.bulkhead import Bulkhead
        from holdfast.infrastructure.resilience.deadline import deadline_after
        warnings.simplefilter("ignore")
        places = Bulkhead(2, queue=1)
        end, locked = threading.Event(), threading.Event()

        def hold_lock():
            with places._gate.places.lock:
                locked.set()
                end.wait()

        def forked():
            threads = [threading.Thread(target=places.call, args=(end.wait,)) for _ in range(2)]
            for thread in threads:
                thread.start()
            while not places.waiting:
                pass
            threads.append(threading.Thread(target=hold_lock))
            threads[-1].start()
            locked.wait()
            child = os.fork()
            if not child:
                return []
            os.waitpid(child, 0)
            end.set()
            return threads

        threads = places.call(forked)
        if not threads:
            counts = places.limit, places.running, places.waiting
            with places, places, deadline_after(0):
                try:
                    places.call(int)
                except Exception as error:
                    print("child", counts, type(error).__name__, places.running, flush=True)
            os._exit(0)
        for thread in threads:
            thread.join()
        print("parent", places.limit, places.running, places.waiting, places.rejected)
        """
    )
    assert (done.stdout, done.stderr) == ("child (2, 0, 0) BulkheadFullError 2\nparent 2 0 0 0\n", "")


def test_what_was_taken_before_a_fork_is_given_back_to_nobody() -> None:
    """A call and a block that end in the child leave as many places as the limit says, one that was changed too."""
    places = Bulkhead(1, queue=1)
    places.resize(2)
    gate = gate_of(places)

    with places:
        places.call(gate.renew)
        assert (places.limit, places.running) == (2, 0)
    assert idle(places)


# Interrupts between two lines


class Striking:
    """A lock behind whose release an interrupt strikes, once."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.armed = True

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt


def test_an_interrupt_behind_the_lock_loses_no_place(form: str) -> None:
    """Where a place is taken under the lock, an interrupt right behind it gives it back."""
    places = Bulkhead(1)
    places_now: Any = gate_of(places).places
    lock = places_now.lock = Striking(places_now.lock)

    if form == "locked":
        with pytest.raises(KeyboardInterrupt):
            places.call(int)
    lock.armed = False
    assert places.call(int) == 0
    assert idle(places)


def test_an_interrupted_hand_off_leaves_nobody_asleep(
    virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt that strikes whoever hands a place on passes through, and the waiter is woken all the same."""
    places = Bulkhead(1, queue=1)
    ring, strikes = _bulkhead.Bell.set, [KeyboardInterrupt]

    def interrupted(bell: _bulkhead.Bell) -> None:
        if strikes:
            raise strikes.pop()
        ring(bell)

    monkeypatch.setattr(_bulkhead.Bell, "set", interrupted)

    def holder() -> None:
        places.__enter__()
        virtual_clock.sleep(1.0)
        with pytest.raises(KeyboardInterrupt):
            places.__exit__(None, None, None)

    def waiter() -> float:
        virtual_clock.sleep(0.5)
        with places:
            return virtual_clock.elapsed

    assert virtual_clock.run_threads(holder, waiter) == [None, 1.0]
    assert (strikes, idle(places)) == ([], True)


def test_a_bell_rings_once() -> None:
    """A bell is an event that cannot be taken back: set again it stays set, and a wait for it ends."""
    bell = _bulkhead.Bell()
    assert (bell.is_set(), bell.wait(0)) == (False, False)

    bell.set()
    bell.set()
    assert (bell.is_set(), bell.wait(), bell.wait(0)) == (True, True, True)
    with pytest.raises(NotImplementedError, match="make another"):
        bell.clear()
