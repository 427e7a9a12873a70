"""Cache × callers at the same time: one computes, the others wait, and none of them can spoil it for the rest."""

import asyncio
import contextvars
import gc
import threading
import traceback
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import permutations
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Driver, Function
from backend.tests.integration.resilience._race import race
from holdfast.infrastructure.resilience.cache import Cache, CacheInfo
from holdfast.infrastructure.resilience.deadline import deadline_after, remaining
from holdfast.infrastructure.resilience.errors import TimeoutExceeded
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, succeed

ORDERS = [order for size in (1, 2, 3) for order in permutations(range(3), size)]


def cached(**settings: Any) -> Cache:
    """Return a cache called `cached` that keeps results for 60 s, without chance."""
    given: dict[str, Any] = {"jitter": 0.0, "name": "cached", **settings}
    return Cache(60.0, **given)


def idle(cache: Any) -> bool:
    """Return whether nothing is under way any more."""
    return not cache._state.flights  # noqa: SLF001  # what must not be left behind shows nowhere else


def counts(cache: Cache) -> tuple[int, int, int]:
    """Return hits, misses and coalesced calls."""
    info = cache.info()
    return info.hits, info.misses, info.coalesced


def asking(driver: Driver, call: Function, *args: Any) -> Callable[[], Coroutine[Any, Any, Any]]:
    """Return a scenario that calls once, and returns the result or the error, whichever it is."""

    async def scenario() -> Any:
        try:
            return await driver.ask(call, *args)
        except BaseException as error:
            return error

    return scenario


def test_equal_calls_at_the_same_time_are_one(driver: Driver) -> None:
    """Of 200 callers one reaches the service, the others get what came of it, at the same moment."""
    script, cache = Script(succeed("answer", after=1.0)), cached()
    call = driver.decorate(cache, script)

    assert driver.together(*[asking(driver, call, 7)] * 200) == ["answer"] * 200
    assert (script.calls, driver.clock.elapsed) == (1, 1.0)
    assert counts(cache) == (0, 1, 199)
    assert idle(cache)


def test_threads_that_race_make_one_call() -> None:
    """Real threads that start together make one call, whoever comes first."""
    for _ in range(20):
        script, cache = Script(succeed("answer")), cached()
        call = cache(script.function())

        assert race(*[partial(call, 7)] * 16) == ["answer"] * 16
        assert script.calls == 1
        assert sum(counts(cache)) == 16
        assert idle(cache)


def test_threads_wait_for_a_leader_that_dawdles() -> None:
    """Real threads block while the leader computes, and all wake with its result."""
    begun, go_on, cache = threading.Event(), threading.Event(), cached()
    calls: list[int] = []

    @cache
    def slow(key: int) -> str:
        calls.append(key)
        begun.set()
        assert go_on.wait(10)
        return "answer"

    def late() -> str:
        assert begun.wait(10)
        threading.Timer(0.01, go_on.set).start()
        return slow(7)

    assert race(lambda: slow(7), late, late, late) == ["answer"] * 4
    assert calls == [7]


def test_different_keys_do_not_wait_for_each_other(driver: Driver) -> None:
    """Calls of different keys run side by side."""
    script, cache = Script(succeed("answer", after=1.0)), cached()
    call = driver.decorate(cache, script)

    driver.together(*(asking(driver, call, key) for key in range(5)))
    assert (script.calls, driver.clock.elapsed) == (5, 1.0)
    assert counts(cache) == (0, 5, 0)


def test_an_error_reaches_all_and_is_not_kept(driver: Driver) -> None:
    """Who waits gets an error like the leader's, of his own; the next call reaches the service again."""
    error = ConnectionError("refused")
    error.add_note("by the peer")
    script, cache = Script(fail(error, after=1.0), succeed("ok")), cached()
    call = driver.decorate(cache, script)

    raised = driver.together(*[asking(driver, call, 7)] * 5)
    assert [(type(one), one.args, one.__notes__) for one in raised] == [
        (ConnectionError, ("refused",), ["by the peer"])
    ] * 5
    assert raised[0] is error
    assert len({id(one) for one in raised}) == 5
    assert len({id(one.__notes__) for one in raised}) == 5
    assert (script.calls, len(cache)) == (1, 0)
    assert driver.call(call, 7) == "ok"
    assert idle(cache)


def test_tracebacks_of_waiters_do_not_grow_together(driver: Driver) -> None:
    """Each error shows where it was raised in the service, once, however many callers raise it further."""
    script, cache = Script(fail(ConnectionError("refused"), after=1.0)), cached()
    call = driver.decorate(cache, script)

    raised = driver.together(*[asking(driver, call, 7)] * 20)
    frames = [[frame.name for frame in traceback.extract_tb(one.__traceback__)] for one in raised]
    assert [names.count("_play") for names in frames] == [1] * 20
    assert max(map(len, frames)) < 20


def test_retries_around_a_cache_note_on_their_own_errors(driver: Driver) -> None:
    """Two callers that retry around one computation each find one note on their error."""
    script, cache = Script(fail(ConnectionError("refused"), after=1.0)), cached()
    call = Retry(2, wait=1.0)(driver.decorate(cache, script))

    raised = driver.together(*[asking(driver, call, 7)] * 3)
    assert [len(one.__notes__) for one in raised] == [1, 1, 1]
    assert script.calls == 2


def test_errors_are_freed_at_once(driver: Driver) -> None:
    """No circle keeps an error, a leader's or a waiter's, when its caller has dropped it."""

    class Refused(ConnectionError):
        """An error that can be referred to weakly."""

    call = driver.decorate(cached(), Script(fail(Refused, after=1.0)))

    raised = driver.together(*[asking(driver, call, 7)] * 3)
    gc.disable()
    try:
        refs = [weakref.ref(error) for error in raised]
        raised.clear()
        assert [ref() for ref in refs] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("order", ORDERS)
def test_cancelled_callers_spoil_nothing(virtual_clock: VirtualClock, order: tuple[int, ...]) -> None:
    """In whatever order callers are cancelled, leader or not: the rest are answered; without one nothing runs on."""
    script, cache = Script(succeed("answer", after=10.0)), cached()
    call = cache(script.coroutine_function())

    async def main() -> list[Any]:
        tasks = [asyncio.create_task(call(7)) for _ in range(3)]
        for at in order:
            await virtual_clock.asleep(1.0)
            tasks[at].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = virtual_clock.run(main())
    left = [at for at in range(3) if at not in order]
    assert [outcomes[at] for at in left] == ["answer"] * len(left)
    assert all(isinstance(outcomes[at], asyncio.CancelledError) for at in order)
    assert (script.calls, virtual_clock.elapsed) == (1, 10.0 if left else 3.0)
    assert (len(cache), idle(cache)) == (len(left) > 0, True)


def test_the_last_to_leave_waits_until_all_is_cleaned_up(virtual_clock: VirtualClock) -> None:
    """When nobody waits any more the computation is cancelled, and has ended before its last caller goes on."""
    seen: list[str] = []

    @cached()
    async def slow(key: int) -> None:
        try:
            await virtual_clock.asleep(10.0)
        finally:
            await virtual_clock.asleep(1.0)
            seen.append("cleaned up")

    async def main() -> None:
        task = asyncio.create_task(slow(7))
        await virtual_clock.asleep(2.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        seen.append("gone on")

    virtual_clock.run(main())
    assert seen == ["cleaned up", "gone on"]
    assert virtual_clock.elapsed == 3.0


def test_a_second_cancellation_reaches_the_clean_up(virtual_clock: VirtualClock) -> None:
    """Cancelled again while the computation cleans up, the caller passes that on, as if it had awaited it itself."""

    @cached()
    async def stubborn(key: int) -> None:
        try:
            await virtual_clock.asleep(10.0)
        finally:
            await virtual_clock.asleep(100.0)

    async def main() -> None:
        task = asyncio.create_task(stubborn(7))
        for _ in range(2):
            await virtual_clock.asleep(1.0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    virtual_clock.run(main())
    assert virtual_clock.elapsed == 2.0


def test_a_swallowed_cancellation_is_not_lost(virtual_clock: VirtualClock) -> None:
    """A function that swallows the cancellation does not take it from the caller, and its result is not kept."""
    cache = cached()

    @cache
    async def deaf(key: int) -> str:
        try:
            await virtual_clock.asleep(10.0)
        except asyncio.CancelledError:
            return "never mind"
        return "answer"

    async def main() -> None:
        task = asyncio.create_task(deaf(7))
        await virtual_clock.asleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    virtual_clock.run(main())
    assert (len(cache), idle(cache)) == (0, True)


def test_after_the_last_left_a_call_begins_anew(virtual_clock: VirtualClock) -> None:
    """Nobody joins a computation that is being cancelled."""
    script, cache = Script(succeed("first", after=10.0), succeed("second", after=1.0)), cached()
    call = cache(script.coroutine_function())

    async def main() -> Any:
        task = asyncio.create_task(call(7))
        await virtual_clock.asleep(1.0)
        task.cancel()
        await asyncio.sleep(0)
        return await call(7)

    assert virtual_clock.run(main()) == "second"
    assert script.calls == 2


def test_an_abandoned_coroutine_leaves_nothing_behind(virtual_clock: VirtualClock) -> None:
    """A caller whose coroutine is closed, not cancelled, takes its computation down as well."""
    script, cache = Script(succeed("answer", after=10.0)), cached()
    call = cache(script.coroutine_function())

    async def main() -> None:
        coroutine = call(7)
        waiting = coroutine.send(None)
        coroutine.close()
        del waiting
        await virtual_clock.asleep(1.0)
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    virtual_clock.run(main())
    assert (script.calls, virtual_clock.elapsed, idle(cache)) == (1, 1.0, True)


def test_a_waiter_takes_over_from_a_leader_that_left(driver: Driver) -> None:
    """What is no `Exception` ends the leader alone: one of those who waited computes, the rest wait for him."""
    script, cache = Script(fail(asyncio.CancelledError, after=1.0), succeed("answer", after=1.0)), cached()
    call = driver.decorate(cache, script)

    first, *others = driver.together(*[asking(driver, call, 7)] * 5)
    assert isinstance(first, asyncio.CancelledError)
    assert others == ["answer"] * 4
    assert (script.calls, driver.clock.elapsed) == (2, 2.0)
    assert counts(cache) == (0, 2, 3)


def test_a_waiter_goes_when_its_deadline_comes(driver: Driver) -> None:
    """A waiter's deadline ends its wait on time, and neither the leader's nor anybody else's."""
    script, cache = Script(succeed("answer", after=5.0)), cached()
    call = driver.decorate(cache, script)

    async def hurried() -> Any:
        await driver.sleep(1.0)
        try:
            with deadline_after(2.0):
                return await driver.ask(call, 7)
        except TimeoutExceeded as error:
            return error.seconds, error.name, driver.clock.elapsed

    patient = asking(driver, call, 7)
    assert driver.together(patient, hurried, patient) == ["answer", (2.0, "cached", 3.0), "answer"]
    assert (script.calls, driver.clock.elapsed) == (1, 5.0)


def test_a_deadline_that_has_passed_allows_no_wait(driver: Driver) -> None:
    """Who has no time left does not begin to wait."""
    script, cache = Script(succeed("answer", after=5.0)), cached()
    call = driver.decorate(cache, script)

    async def hopeless() -> Any:
        await driver.sleep(1.0)
        with deadline_after(-1.0):
            outcome = await driver.outcome(call, 7)
        return type(outcome), driver.clock.elapsed

    assert driver.together(asking(driver, call, 7), hopeless) == ["answer", (TimeoutExceeded, 1.0)]


def test_a_timeout_around_a_waiter_reports_itself(driver: Driver) -> None:
    """A `Timeout` around the cache bounds a waiter as it bounds a call, and its name is on the error."""
    script, cache = Script(succeed("answer", after=5.0)), cached()
    call = driver.decorate(cache, script)
    bounded = Timeout(2.0, name="bound")(call)

    first, second = driver.together(asking(driver, call, 7), asking(driver, bounded, 7))
    assert first == "answer"
    assert (type(second), second.name) == (TimeoutExceeded, "bound")
    assert (script.calls, driver.clock.elapsed) == (1, 5.0)


def test_a_timeout_around_the_leader_leaves_the_computation_to_the_others(
    virtual_clock: VirtualClock,
) -> None:
    """A leader that times out is gone on time; the computation goes on for those who wait."""
    script, cache = Script(succeed("answer", after=5.0)), cached()
    call = cache(script.coroutine_function())
    bounded = Timeout(2.0, name="bound")(call)

    async def main() -> list[Any]:
        return [*await asyncio.gather(bounded(7), call(7), return_exceptions=True)]

    first, second = virtual_clock.run(main())
    assert (type(first), second) == (TimeoutExceeded, "answer")
    assert (script.calls, virtual_clock.elapsed, len(cache)) == (1, 5.0, 1)


def test_the_leaders_deadline_fails_nobody_else(driver: Driver) -> None:
    """An error that comes past the leader's deadline is his: one of the others computes with the time that it has."""
    cache, calls = cached(), list[float | None]()

    async def obedient(key: int) -> str:
        calls.append(remaining())
        await driver.sleep(2.0)
        left = remaining()
        if left is not None and left <= 0:
            raise ConnectionError("no time left")
        return "answer"

    call = driver.decorate(cache, obedient)

    async def hurried() -> Any:
        with deadline_after(1.0):
            return await driver.outcome(call, 7)

    patient = asking(driver, call, 7)
    first, *others = driver.together(hurried, patient, patient)
    assert (type(first), others) == (ConnectionError, ["answer", "answer"])
    assert (calls, driver.clock.elapsed) == ([1.0, None], 4.0)


def test_a_call_within_its_own_computation_is_made_alone(driver: Driver) -> None:
    """A function that calls itself with the same key does not wait for itself: the inner call is made uncached."""
    cache, depths = cached(), list[int]()

    async def recursive(key: int) -> int:
        depths.append(key)
        return len(depths) if len(depths) == 3 else await driver.ask(call, key)

    call = driver.decorate(cache, recursive)

    assert driver.call(call, 7) == 3
    assert depths == [7, 7, 7]
    assert (counts(cache), len(cache), idle(cache)) == ((0, 3, 0), 1, True)
    assert driver.call(call, 7) == 3


def test_computations_that_need_each_other_do_not_wait_in_a_circle(driver: Driver) -> None:
    """Two computations that come to need each other's key end: the second to ask computes alone."""
    calls = list[tuple[int, int]]()

    async def crossed(key: int, depth: int) -> int:
        calls.append((key, depth))
        await driver.sleep(1.0)
        return 0 if depth else await driver.ask(call, 3 - key, depth + 1)

    def by_key(key: int, depth: int) -> int:
        return key

    cache = cached(key=by_key)
    call = driver.decorate(cache, crossed)

    assert driver.together(asking(driver, call, 1, 0), asking(driver, call, 2, 0)) == [0, 0]
    assert sorted(calls[:2]) == [(1, 0), (2, 0)]
    assert len(calls) == 3
    assert idle(cache)


def test_circles_may_lead_through_other_caches(driver: Driver) -> None:
    """A computation that comes back to its own key through a function of another cache is made alone there."""
    calls = list[str]()

    async def inner(key: int) -> str:
        calls.append("inner")
        return str(await driver.ask(outer_call, key))

    async def outer(key: int) -> str:
        calls.append("outer")
        return "leaf" if len(calls) > 2 else str(await driver.ask(inner_call, key))

    outer_call, inner_call = driver.decorate(cached(), outer), driver.decorate(cached(), inner)

    assert driver.call(outer_call, 7) == "leaf"
    assert calls == ["outer", "inner", "outer"]


def test_tasks_of_a_computation_are_part_of_it(virtual_clock: VirtualClock) -> None:
    """A task that a computation starts and waits for may call with its key."""
    calls: list[int] = []

    @cached()
    async def parent(key: int) -> str:
        calls.append(key)
        return "leaf" if len(calls) == 2 else await asyncio.create_task(parent(key))

    assert virtual_clock.run(parent(7)) == "leaf"
    assert calls == [7, 7]


def test_threads_of_a_computation_are_part_of_it() -> None:
    """A thread that inherits a computation's context, as `asyncio.to_thread` does, may call with its key."""
    calls: list[int] = []

    @cached()
    def parent(key: int) -> str:
        calls.append(key)
        if len(calls) == 2:
            return "leaf"
        context, found = contextvars.copy_context(), list[str]()
        thread = threading.Thread(target=lambda: found.append(context.run(parent, key)))
        thread.start()
        thread.join(10)
        return found[0]

    assert parent(7) == "leaf"
    assert calls == [7, 7]


def test_event_loops_do_not_wait_for_each_other() -> None:
    """Loops that share a cache each make their own call, and none hangs when another is stopped in the middle."""
    cache, begun, go_on = cached(), threading.Event(), threading.Event()
    calls: list[asyncio.AbstractEventLoop] = []

    @cache
    async def slow(key: int) -> str:
        calls.append(asyncio.get_running_loop())
        begun.set()
        await asyncio.to_thread(go_on.wait, 10)
        return "answer"

    def second() -> str:
        assert begun.wait(10)
        threading.Timer(0.01, go_on.set).start()
        return asyncio.run(slow(7))

    assert race(lambda: asyncio.run(slow(7)), second) == ["answer"] * 2
    assert len(set(calls)) == 2
    assert asyncio.run(slow(7)) == "answer"
    assert (len(calls), idle(cache)) == (2, True)


def test_a_loop_that_died_leaves_nobody_waiting(virtual_clock: VirtualClock) -> None:
    """A computation that ended with its loop is no longer there for the next one."""
    script, cache = Script(succeed("old", after=100.0), succeed("new")), cached()
    call = cache(script.coroutine_function())

    async def first() -> None:
        asyncio.create_task(call(7))  # noqa: RUF006  # nobody keeps it
        await virtual_clock.asleep(1.0)

    virtual_clock.run(first())
    assert idle(cache)
    assert virtual_clock.run(call(7)) == "new"


def test_the_computation_runs_in_a_copy_of_the_leaders_context(virtual_clock: VirtualClock) -> None:
    """It sees the leader's variables; what it sets, no caller sees."""
    var = contextvars.ContextVar("var", default="default")

    @cached()
    async def reads(key: int) -> str:
        seen = var.get()
        var.set("changed")
        await virtual_clock.asleep(1.0)
        return seen

    async def caller(name: str) -> tuple[str, str]:
        var.set(name)
        return await reads(7), var.get()

    async def main() -> Any:
        return [*await asyncio.gather(caller("first"), caller("second"))]

    assert virtual_clock.run(main()) == [("first", "first"), ("first", "second")]


@pytest.mark.parametrize("by", ["invalidate", "clear"])
def test_what_was_invalidated_meanwhile_is_not_kept(driver: Driver, by: str) -> None:
    """Who waits for what is invalidated meanwhile gets the result; it is not kept, and later calls do not join."""
    script = Script(succeed("old", after=2.0), succeed("new", after=2.0))
    cache = cached()
    call = driver.decorate(cache, script)

    async def invalidator() -> Any:
        await driver.sleep(1.0)
        cache.invalidate(7) if by == "invalidate" else cache.clear()
        return await driver.ask(call, 7)

    assert driver.together(asking(driver, call, 7), asking(driver, call, 7), invalidator) == [
        "old",
        "old",
        "new",
    ]
    assert (script.calls, driver.clock.elapsed) == (2, 3.0)
    assert driver.call(call, 7) == "new"
    assert idle(cache)


def test_a_late_result_does_not_replace_a_later_one(driver: Driver) -> None:
    """A computation that was invalidated, and ends after the one that came after it, leaves that one's result alone."""
    script, cache = Script(succeed("old", after=5.0), succeed("new", after=1.0)), cached()
    call = driver.decorate(cache, script)

    async def invalidator() -> Any:
        await driver.sleep(1.0)
        cache.invalidate(7)
        return await driver.ask(call, 7)

    assert driver.together(asking(driver, call, 7), invalidator) == ["old", "new"]
    assert (driver.call(call, 7), script.calls) == ("new", 2)


def test_waiters_see_none_as_any_other_result(driver: Driver) -> None:
    """None is a result: it is shared and kept."""
    script, cache = Script(succeed(None, after=1.0), succeed("something")), cached()
    call = driver.decorate(cache, script)

    assert driver.together(*[asking(driver, call, 7)] * 3) == [None] * 3
    assert driver.call(call, 7) is None
    assert cache.info() == CacheInfo(hits=1, stale=0, misses=1, coalesced=2, entries=1, evictions=0)


def test_a_refresh_behind_has_no_callers_deadline(virtual_clock: VirtualClock) -> None:
    """A refresh behind goes on when the caller who started it has gone, whatever deadline that one had."""
    seen: list[float | None] = []
    cache = cached(stale_while_revalidate=60.0)

    @cache
    async def reads(key: int) -> int:
        await virtual_clock.asleep(5.0)
        seen.append(remaining())
        return len(seen)

    async def main() -> None:
        assert await reads(7) == 1
        await virtual_clock.asleep(61.0)
        assert await Timeout(1.0)(reads)(7) == 1
        await virtual_clock.asleep(6.0)
        assert await reads(7) == 2

    virtual_clock.run(main())
    assert seen == [None, None]
    assert idle(cache)


def test_who_joins_a_refresh_behind_cannot_end_it(virtual_clock: VirtualClock) -> None:
    """A call that comes too late for the old result waits for the refresh; when cancelled, the refresh goes on."""
    script = Script(succeed("old"), succeed("new", after=100.0))
    cache = cached(stale_while_revalidate=60.0)
    call = cache(script.coroutine_function())

    async def main() -> None:
        await call(7)
        await virtual_clock.asleep(61.0)
        assert await call(7) == "old"
        await virtual_clock.asleep(60.0)
        late = asyncio.create_task(call(7))
        await virtual_clock.asleep(1.0)
        late.cancel()
        await virtual_clock.asleep(1.0)
        assert await call(7) == "new"

    virtual_clock.run(main())
    assert script.calls == 2
