"""Async timers: whose cancellation it was, who must win, and what the queue of equal durations keeps."""

import asyncio
import gc
import random
import sys
import threading
import traceback
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from contextvars import Context, ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVarTuple

import pytest

from holdfast.infrastructure.resilience._timers import AsyncBlock, Entry, Queue, Queues
from holdfast.infrastructure.resilience.clock import Clock, current_clock, use_clock
from holdfast.infrastructure.resilience.deadline import current_deadline, deadline_after, remaining
from holdfast.infrastructure.resilience.errors import TimeoutExceeded
from holdfast.infrastructure.resilience.events import CallTimedOut
from holdfast.infrastructure.resilience.timeout import Timeout, timeout
from holdfast.testing import EventRecorder, VirtualClock

_Ts = TypeVarTuple("_Ts")
Body = Callable[[], Coroutine[Any, Any, Any]]


def decorated(bound: Timeout, body: Body) -> Body:
    return bound(body)


def block(bound: Timeout, body: Body) -> Body:
    async def inside() -> Any:
        async with bound:
            return await body()

    return inside


FORMS = pytest.mark.parametrize("form", [decorated, block])
Form = Callable[[Timeout, Body], Body]


async def sleep(seconds: float) -> str:
    await current_clock().asleep(seconds)
    return "slept"


def sleeping(seconds: float) -> Body:
    async def body() -> str:
        return await sleep(seconds)

    return body


def queues() -> Queues:
    """The queues of the running loop."""
    found = getattr(asyncio.get_running_loop(), "_holdfast_timers", None)
    assert isinstance(found, Queues)
    return found


# One bound


@FORMS
def test_a_call_that_is_in_time_is_left_alone(virtual_clock: VirtualClock, form: Form) -> None:
    """Its result comes through, and no time passes beyond its own."""
    assert virtual_clock.run(form(Timeout(2), sleeping(1))()) == "slept"
    assert virtual_clock.elapsed == 1


@FORMS
def test_a_call_that_takes_too_long_is_cancelled_on_time(virtual_clock: VirtualClock, form: Form) -> None:
    """It sees a CancelledError at the bound, from which TimeoutExceeded is raised, with its facts."""
    seen: list[float] = []

    async def body() -> None:
        try:
            await sleep(100)
        except asyncio.CancelledError:
            seen.append(virtual_clock.elapsed)
            raise

    async def main() -> None:
        with pytest.raises(TimeoutExceeded, match=r"'search' exceeded: no result within 2 s") as caught:
            await form(Timeout(2, name="search"), body)()
        assert (caught.value.seconds, caught.value.name) == (2, "search")
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    virtual_clock.run(main())
    assert seen == [2]


def test_the_traceback_shows_what_was_interrupted(virtual_clock: VirtualClock) -> None:
    """The cause's traceback ends where the call hung; ours has the call and the compiled line, nothing else."""

    async def hangs() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutExceeded) as caught:
        virtual_clock.run(timeout(1)(hangs)())

    cause = caught.value.__cause__
    assert cause is not None
    assert "hangs" in [frame.name for frame in traceback.extract_tb(cause.__traceback__)]
    assert traceback.extract_tb(caught.value.__traceback__)[-1].filename.startswith("<holdfast")


@FORMS
def test_an_error_in_time_passes_as_it_is(virtual_clock: VirtualClock, form: Form) -> None:
    """The same object, without a cause of ours."""
    error = ValueError("as it is")

    async def body() -> None:
        await sleep(1)
        raise error

    with pytest.raises(ValueError, match="as it is") as caught:
        virtual_clock.run(form(Timeout(2), body)())
    assert caught.value is error
    assert error.__cause__ is None


@FORMS
@pytest.mark.parametrize("how", ["returns", "raises"])
def test_a_timeout_cannot_be_swallowed(virtual_clock: VirtualClock, form: Form, how: str) -> None:
    """Code that turns our cancellation into a result or an error of its own still exceeded its time."""
    own = ConnectionError("made of a cancellation")

    async def body() -> str:
        try:
            return await sleep(9)
        except asyncio.CancelledError:
            if how == "returns":
                return "something"
            raise own from None

    async def main() -> None:
        with pytest.raises(TimeoutExceeded) as caught:
            await form(Timeout(1), body)()
        assert caught.value.__cause__ is (None if how == "returns" else own)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    virtual_clock.run(main())


@FORMS
def test_an_error_after_the_bound_is_a_timeout(virtual_clock: VirtualClock, form: Form) -> None:
    """Code that blocked the loop past the bound and then failed is reported as late, from its error."""

    async def body() -> None:
        virtual_clock.advance(5)
        raise ConnectionError

    with pytest.raises(TimeoutExceeded) as caught:
        virtual_clock.run(form(Timeout(1), body)())
    assert isinstance(caught.value.__cause__, ConnectionError)


@FORMS
def test_an_earlier_bound_around_keeps_its_own_error(virtual_clock: VirtualClock, form: Form) -> None:
    """TimeoutExceeded that comes late from further out passes an inner bound that is due later, as it is."""
    from_outside = TimeoutExceeded(1, "outside")

    async def body() -> None:
        virtual_clock.advance(5)
        raise from_outside

    for outside, raised in ((1, True), (3, False)):
        with pytest.raises(TimeoutExceeded) as caught, deadline_after(outside):
            virtual_clock.run(form(Timeout(2), body)())
        assert (caught.value is from_outside) is raised


@FORMS
def test_a_result_that_nobody_interrupted_is_kept(virtual_clock: VirtualClock, form: Form) -> None:
    """Code that blocked the loop past the bound and then returned has done its work."""

    async def body() -> str:
        virtual_clock.advance(5)
        return "late"

    assert virtual_clock.run(form(Timeout(1), body)()) == "late"


@FORMS
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_passes(
    virtual_clock: VirtualClock, form: Form, error: type[BaseException]
) -> None:
    """KeyboardInterrupt and SystemExit are never made a timeout, however late they come."""

    async def body() -> None:
        try:
            await sleep(9)
        except asyncio.CancelledError:
            raise error from None

    with pytest.raises(error):
        virtual_clock.run(form(Timeout(1), body)())


@FORMS
def test_outside_a_task_there_is_nothing_to_cancel(form: Form) -> None:
    """Driven by hand, it says so at once instead of never expiring."""
    coroutine = form(Timeout(1), sleeping(1))()
    with pytest.raises(RuntimeError, match="cancels the task it runs in, and there is none"):
        coroutine.send(None)


@FORMS
def test_a_callback_of_the_loop_is_no_task(virtual_clock: VirtualClock, form: Form) -> None:
    """A running loop alone is not enough either."""
    seen: list[str] = []

    def drive() -> None:
        try:
            form(Timeout(1), sleeping(1))().send(None)
        except RuntimeError as error:
            seen.append(str(error))

    async def main() -> None:
        asyncio.get_running_loop().call_soon(drive)
        await sleep(1)

    virtual_clock.run(main())
    assert len(seen) == 1
    assert "there is none" in seen[0]


# Foreign cancellation


@FORMS
def test_foreign_cancellation_is_never_ours(virtual_clock: VirtualClock, form: Form) -> None:
    """A task that somebody cancels ends cancelled, before the bound or after it."""

    async def main() -> None:
        task = asyncio.create_task(form(Timeout(5), sleeping(9))())
        await sleep(1)
        task.cancel("shutdown")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    virtual_clock.run(main())
    assert virtual_clock.elapsed == 1


@FORMS
@pytest.mark.parametrize("foreign_first", [True, False])
def test_foreign_cancellation_at_the_very_bound_wins(
    virtual_clock: VirtualClock, form: Form, *, foreign_first: bool
) -> None:
    """When both fall into one turn of the loop, the task ends cancelled, in whatever order they came."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        task: asyncio.Task[Any] | None = None
        at = loop.time() + 2
        if foreign_first:
            loop.call_at(at, lambda: task is not None and task.cancel())
        task = asyncio.create_task(form(Timeout(2), sleeping(9))())
        await asyncio.sleep(0)
        if not foreign_first:
            loop.call_at(at, task.cancel)
        await asyncio.wait([task])
        assert task.cancelled()

    virtual_clock.run(main())


@FORMS
def test_a_future_that_was_cancelled_is_no_timeout(virtual_clock: VirtualClock, form: Form) -> None:
    """A CancelledError of something that was awaited passes."""

    async def body() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with pytest.raises(asyncio.CancelledError):
        virtual_clock.run(form(Timeout(5), body)())


@FORMS
def test_an_earlier_request_to_cancel_is_remembered(virtual_clock: VirtualClock, form: Form) -> None:
    """A task that was cancelled once and lives on has timeouts that work, and keeps its count."""

    async def survivor() -> int:
        try:
            await sleep(9)
        except asyncio.CancelledError:
            with pytest.raises(TimeoutExceeded):
                await form(Timeout(1), sleeping(9))()
        task = asyncio.current_task()
        return -1 if task is None else task.cancelling()

    async def main() -> None:
        task = asyncio.create_task(survivor())
        await sleep(1)
        task.cancel()
        assert await task == 1

    virtual_clock.run(main())
    assert virtual_clock.elapsed == 2


# Nested bounds


@FORMS
@pytest.mark.parametrize("bounds", [(3, 1, "inner"), (1, 3, "outer"), (2, 2, "outer")])
def test_the_tighter_of_two_bounds_reports(
    virtual_clock: VirtualClock, event_recorder: EventRecorder, form: Form, bounds: tuple[float, float, str]
) -> None:
    """The earlier deadline fires; of two that are due at once, the outer one is exceeded."""
    outer, inner, winner = bounds
    body = form(Timeout(outer, name="outer"), form(Timeout(inner, name="inner"), sleeping(9)))

    with pytest.raises(TimeoutExceeded) as caught:
        virtual_clock.run(body())

    assert caught.value.name == winner
    assert virtual_clock.elapsed == min(outer, inner)
    assert [(event.name, type(event).__name__) for event in event_recorder.events] == [
        (winner, "CallTimedOut")
    ]


@FORMS
def test_the_outer_bound_interrupts_the_cleanup_of_the_inner(virtual_clock: VirtualClock, form: Form) -> None:
    """Whatever is still going on when the outer deadline comes, the outer one is exceeded."""

    async def body() -> None:
        try:
            await sleep(9)
        finally:
            await sleep(9)

    nested = form(Timeout(3, name="outer"), form(Timeout(1, name="inner"), body))
    with pytest.raises(TimeoutExceeded) as caught:
        virtual_clock.run(nested())
    assert (caught.value.name, virtual_clock.elapsed) == ("outer", 3)


@FORMS
def test_one_object_nests_in_itself(virtual_clock: VirtualClock, form: Form) -> None:
    """Each use has its own time."""
    bound = Timeout(2)

    async def body() -> list[float | None]:
        before = remaining()
        await sleep(1)
        return [before, await form(bound, inside)(), remaining()]

    async def inside() -> float | None:
        return remaining()

    assert virtual_clock.run(form(bound, body)()) == [2, 1, 1]


@FORMS
def test_one_object_serves_many_tasks(virtual_clock: VirtualClock, form: Form) -> None:
    """Tasks that share a Timeout each have the whole of it."""
    call = form(Timeout(2), sleeping(9))

    async def late(start: float) -> float:
        await sleep(start)
        with pytest.raises(TimeoutExceeded):
            await call()
        return virtual_clock.elapsed

    async def main() -> list[float]:
        return await asyncio.gather(*(late(number / 4) for number in range(12)))

    assert virtual_clock.run(main()) == [2 + number / 4 for number in range(12)]


@FORMS
def test_the_deadline_is_seen_inside_and_gone_outside(virtual_clock: VirtualClock, form: Form) -> None:
    """Inside, `remaining` counts down to the tightest bound; afterwards it is what it was, however the call ended."""

    async def body(seconds: float) -> float | None:
        await sleep(1)
        left = remaining()
        await sleep(seconds)
        return left

    async def main() -> None:
        with deadline_after(10):
            assert await form(Timeout(4), partial(body, 0))() == 3
            assert await form(Timeout(40), partial(body, 0))() == 8
            with pytest.raises(TimeoutExceeded):
                await form(Timeout(2), partial(body, 9))()
            assert remaining() == 6
        assert current_deadline() is None

    virtual_clock.run(main())


def test_a_stack_of_blocks_ends_in_any_frame(virtual_clock: VirtualClock) -> None:
    """An AsyncExitStack may hold the same Timeout twice, and another task may have one of its own."""
    bound = Timeout(5)

    async def stacked(start: float) -> list[float | None]:
        await sleep(start)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(bound)
            await sleep(1)
            await stack.enter_async_context(bound)
            await sleep(2)
            inside = remaining()
        await sleep(9)
        return [inside, remaining()]

    async def main() -> None:
        for seen in await asyncio.gather(stacked(0), stacked(0.5), stacked(1.5)):
            assert seen == [2, None]
        assert not [one for one in gc.get_objects() if isinstance(one, AsyncBlock) and one.timeout is bound]

    virtual_clock.run(main())


def test_the_last_block_of_a_stack_ends_first(virtual_clock: VirtualClock) -> None:
    """When stacks hold the same Timeout, closing the inner one leaves the outer one its own time."""
    bound = Timeout(5)

    async def main() -> None:
        async with AsyncExitStack() as outer:
            await outer.enter_async_context(bound)
            await sleep(3)
            async with AsyncExitStack() as inner:
                await inner.enter_async_context(bound)
            await sleep(9)

    with pytest.raises(TimeoutExceeded):
        virtual_clock.run(main())
    assert virtual_clock.elapsed == 5


def test_a_block_may_end_in_another_task_than_it_began(virtual_clock: VirtualClock) -> None:
    """Its timer then cancels nobody; when it cannot be told which block is meant, that is refused."""
    bound = Timeout(5)

    async def main() -> None:
        stacks = AsyncExitStack(), AsyncExitStack()
        await asyncio.create_task(stacks[0].enter_async_context(bound))
        await stacks[0].aclose()
        assert not any(queue.entries for queue in queues().values())

        for stack in stacks:
            await asyncio.create_task(stack.enter_async_context(bound))
        with pytest.raises(RuntimeError, match="no block of it was begun in this task"):
            await stacks[0].aclose()

    virtual_clock.run(main())


def test_an_abandoned_generator_cancels_nobody_later(virtual_clock: VirtualClock) -> None:
    """The loop closes it in a task of its own; who iterated keeps neither its timer nor its deadline."""
    bound = Timeout(5)

    async def steps() -> AsyncIterator[int]:
        async with bound:
            yield 1
            yield 2

    async def main() -> str:
        async with Timeout(50), bound:
            async for _ in steps():
                break
            await sleep(4)
            assert remaining() == 1
        assert current_deadline() is None
        async for _ in steps():
            break
        assert remaining() == 5
        await sleep(0.5)
        assert current_deadline() is None
        return await sleep(9)

    assert virtual_clock.run(main()) == "slept"


def test_blocks_of_generators_may_end_in_any_order(virtual_clock: VirtualClock) -> None:
    """Blocks of one Timeout that overlap instead of nesting still end each its own timer."""
    bound = Timeout(4)

    async def steps() -> AsyncGenerator[float | None]:
        async with bound:
            yield remaining()
            await sleep(9)

    async def main() -> float:
        first, second = steps(), steps()
        await anext(first)
        await sleep(1)
        await anext(second)
        await first.aclose()
        with pytest.raises(TimeoutExceeded):
            await anext(second)
        assert current_deadline() is None
        return virtual_clock.elapsed

    assert virtual_clock.run(main()) == 5


# 2,000 random interleavings


@dataclass(frozen=True)
class Story:
    """What happens to one task, in whole seconds from its start: at equal times, in one turn of the loop."""

    bounds: tuple[int, ...]
    foreign: int | None
    work: int
    reaction: str
    cleanup: int
    start: int


def tell(chance: random.Random) -> Story:
    return Story(
        bounds=tuple(chance.randint(1, 6) for _ in range(chance.randint(1, 3))),
        foreign=chance.choice([None, None, chance.randint(1, 8)]),
        work=chance.randint(0, 7),
        reaction=chance.choice(["none", "none", "return", "raise", "clean", "go on"]),
        cleanup=chance.randint(1, 4),
        start=chance.randint(0, 5),
    )


async def play(story: Story) -> str:
    """Work; when cancelled, react as the story says."""
    try:
        await sleep(story.work)
    except asyncio.CancelledError:
        if story.reaction == "raise":
            raise ConnectionError from None
        if story.reaction == "clean":
            await sleep(story.cleanup)
        if story.reaction in ("none", "clean"):
            raise
        if story.reaction == "go on":
            await sleep(story.cleanup)
    return "result"


def foretell(story: Story) -> tuple[str, int, int]:
    """Return the outcome, its time and how many foreign requests are left, by the rules alone."""
    foreign = [] if story.foreign is None else [story.foreign]
    events: list[int] = sorted([*story.bounds, *foreign])
    ending, end = "result", story.work
    if story.work and events[0] <= story.work:
        end = events[0]
        ending = {"none": "cancelled", "clean": "cancelled", "raise": "error"}.get(story.reaction, "result")
        if story.reaction in ("clean", "go on"):
            again = [event for event in events if end < event <= end + story.cleanup]
            ending = "cancelled" if again else ending
            end = again[0] if again else end + story.cleanup
    requests = sum(event <= end for event in events if end)
    for number, seconds in reversed([*enumerate(story.bounds)]):
        if not end or seconds > end:
            continue
        requests -= 1
        if ending != "cancelled" or not requests:
            ending = f"timeout {number}"
    return ending, end, requests


async def witness(story: Story, form: Form) -> tuple[str, int, int]:
    """Return what really happens."""
    await sleep(story.start)
    call: Body = partial(play, story)
    for number, seconds in reversed([*enumerate(story.bounds)]):
        call = form(Timeout(seconds, name=str(number)), call)
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    began = loop.time()
    kill = None if story.foreign is None else loop.call_at(began + story.foreign, task.cancel)
    try:
        ending = str(await call())
    except asyncio.CancelledError:
        ending = "cancelled"
    except TimeoutExceeded as error:
        ending = f"timeout {error.name}"
    except ConnectionError:
        ending = "error"
    if kill is not None:
        kill.cancel()
    assert current_deadline() is None
    return ending, round(loop.time() - began), task.cancelling()


@FORMS
def test_random_interleavings_end_as_the_rules_say(virtual_clock: VirtualClock, form: Form) -> None:
    """Work wins before the bounds, foreign requests over ours, the outermost bound that is due over those inside.

    A thousand tasks on one loop, with up to three bounds each and every reaction to being cancelled.
    """
    chance = random.Random(4)
    stories = [tell(chance) for _ in range(1000)]

    async def main() -> list[tuple[str, int, int]]:
        tasks = [asyncio.create_task(witness(story, form)) for story in stories]
        seen = await asyncio.gather(*tasks)
        assert all(not queue.entries for queue in queues().values())
        return seen

    seen = virtual_clock.run(main())
    wrong = [
        (story, foretell(story), got)
        for story, got in zip(stories, seen, strict=True)
        if foretell(story) != got
    ]
    assert wrong == []
    kinds = Counter(ending.split()[0] for ending, _, _ in seen)
    assert min(kinds[kind] for kind in ("result", "timeout", "cancelled")) > 50, kinds


# The queue


class CountingLoop(asyncio.SelectorEventLoop):
    """A loop that counts the timers it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.timers = 0

    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(when, callback, *args, context=context)


def run(main: Coroutine[Any, Any, Any]) -> CountingLoop:
    """Run in real time; return the loop, closed."""
    loop = CountingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main)
    return loop


@FORMS
def test_ten_thousand_calls_behind_one_that_hangs_leave_nothing(form: Form) -> None:
    """What has ended leaves the queue, whoever is at its head, and needs no timer of its own."""
    quick, hanging = form(Timeout(30), sleeping(0)), form(Timeout(30), sleeping(99))

    async def main() -> None:
        task = asyncio.create_task(hanging())
        await asyncio.sleep(0)
        for _ in range(10_000):
            await quick()
        (queue,) = queues().values()
        assert len(queue.entries) == 1
        assert sys.getsizeof(queue.entries) < 1000
        found = [one for one in gc.get_objects() if isinstance(one, Entry) and one.entries is queue.entries]
        assert len(found) == 1
        task.cancel()
        await asyncio.wait([task])
        assert not queue.entries

    # One for the queue, one for the hanging sleep.
    assert run(main()).timers == 2


def test_a_timer_that_finds_nobody_due_waits_for_the_next(virtual_clock: VirtualClock) -> None:
    """Heads that end early cost nothing: the timer fires once, late calls still end on time, then it is gone."""
    bound = Timeout(10)

    async def late(start: float) -> float:
        await sleep(start)
        with pytest.raises(TimeoutExceeded):
            await bound(sleep)(99)
        return virtual_clock.elapsed

    async def main() -> None:
        task = asyncio.create_task(late(3))
        await bound(sleep)(1)
        (queue,) = queues().values()
        handle = queue.handle
        await sleep(8)
        assert queue.handle is handle
        assert await task == 13
        assert not queues()

    virtual_clock.run(main())


def test_one_turn_of_the_loop_expires_all_who_are_due(virtual_clock: VirtualClock) -> None:
    """A thousand calls that began together end together, in their order; those that began later go on."""
    bound = Timeout(5)
    ended: list[int] = []

    async def call(number: int, start: float) -> None:
        await sleep(start)
        with pytest.raises(TimeoutExceeded):
            await bound(sleep)(99)
        ended.append(number)

    async def main() -> None:
        tasks = [asyncio.create_task(call(number, number // 1000)) for number in range(1500)]
        await sleep(5.5)
        assert ended == [*range(1000)]
        await asyncio.gather(*tasks)
        assert ended == [*range(1500)]

    virtual_clock.run(main())
    assert virtual_clock.elapsed == 6


def test_many_different_durations_do_not_gather(virtual_clock: VirtualClock) -> None:
    """Durations that are computed for each call leave few idle queues behind; the busy ones are kept."""

    async def main() -> None:
        busy = asyncio.create_task(Timeout(500)(sleep)(450))
        await asyncio.sleep(0)
        for number in range(1000):
            await Timeout(100 + number / 7)(sleep)(0)
        assert len(queues()) <= 64
        assert 500 in queues()
        loop = asyncio.get_running_loop()
        assert sum(isinstance(one, Queue) and one.loop is loop for one in gc.get_objects()) == len(queues())
        assert await busy == "slept"
        await sleep(500)
        assert not queues()

    virtual_clock.run(main())


def test_loops_of_threads_have_queues_of_their_own() -> None:
    """One Timeout serves the loops of several threads at once, and the queues die with their loops."""
    bound, seen = Timeout(0.05), list[str]()
    gone: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def main() -> None:
        with pytest.raises(TimeoutExceeded):
            await bound(sleep)(60)
        await bound(sleep)(0)
        gone.append(weakref.ref(asyncio.get_running_loop()))
        seen.append("timed out")

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    gc.collect()
    assert seen == ["timed out"] * 4
    assert [reference() for reference in gone] == [None] * 4


@FORMS
def test_the_timer_keeps_nothing_of_the_call(form: Form) -> None:
    """A timer that is still to fire holds neither the context nor the task of a call that has ended."""

    class Payload:
        pass

    variable: ContextVar[Payload] = ContextVar("payload")

    async def call() -> weakref.ref[Payload]:
        payload = Payload()
        variable.set(payload)
        await form(Timeout(30), sleeping(0))()
        return weakref.ref(payload)

    async def main() -> None:
        reference = await asyncio.create_task(call())
        await asyncio.sleep(0)
        assert reference() is None

    run(main())


class Broken(ConnectionError):
    """An error that can be weakly referred to."""


@FORMS
@pytest.mark.parametrize("how", ["in time", "late", "swallowed"])
def test_errors_leave_no_circles(virtual_clock: VirtualClock, form: Form, how: str) -> None:
    """An error, its traceback and the task that failed are freed without the garbage collector."""

    async def body() -> None:
        try:
            await sleep(1 if how == "in time" else 9)
        except asyncio.CancelledError:
            if how == "swallowed":
                return
            raise
        raise Broken

    async def main() -> None:
        task = asyncio.create_task(form(Timeout(5), body)())
        await asyncio.wait([task])
        error = task.exception()
        assert isinstance(error, Broken if how == "in time" else TimeoutExceeded)
        references = weakref.ref(task), weakref.ref(error)
        del task, error
        assert [reference() for reference in references] == [None, None]

    gc.collect()
    gc.disable()
    try:
        virtual_clock.run(main())
    finally:
        gc.enable()


@FORMS
def test_an_abandoned_coroutine_leaves_the_queue(form: Form) -> None:
    """A call that is closed instead of finished, in whatever context, disarms its timer in silence."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        coroutines: list[Coroutine[Any, Any, Any]] = []

        async def outer() -> None:
            coroutine = form(Timeout(30), hangs)()
            coroutines.append(coroutine)
            coroutine.send(None)  # began in this task and its context
            (queue,) = queues().values()
            assert len(queue.entries) == 1

        await asyncio.create_task(outer())
        loop.call_soon(coroutines[0].close)  # ends in another
        await asyncio.sleep(0)
        assert not any(queue.entries for queue in queues().values())
        assert current_deadline() is None

    async def hangs() -> None:
        await asyncio.get_running_loop().create_future()

    run(main())


# Clocks


def test_the_loop_tells_the_time() -> None:
    """A virtual policy clock on a real loop: the timer is the loop's, `remaining` is the policy clock's."""
    clock = VirtualClock()

    async def main() -> None:
        with use_clock(clock):
            with pytest.raises(TimeoutExceeded):
                await timeout(0.03)(asyncio.sleep)(60)
            async with Timeout(9):
                clock.advance(4)
                assert remaining() == 5

    run(main())
    assert clock.elapsed == 4


def test_a_timeout_with_a_clock_of_its_own_counts_by_it() -> None:
    """The deadline is on the Timeout's clock; with the system's, one reading serves deadline and timer."""
    own = VirtualClock(start=5000)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Timeout(7, clock=own) as until:
            assert until == 5007
        assert await Timeout(7, clock=own)(asyncio.sleep)(0, current_deadline) is current_deadline
        async with Timeout(8, clock=Clock()) as until:
            assert abs(until - loop.time() - 8) < 1
        async with Timeout(9) as until:
            (entry,) = queues()[9].entries
            assert until == entry.when

    run(main())


@FORMS
def test_events_name_the_policy_or_the_function(
    virtual_clock: VirtualClock, event_recorder: EventRecorder, form: Form
) -> None:
    """CallTimedOut carries the timeout's name, else the function's; in time there is no event."""

    async def swallow() -> None:
        try:
            await sleep(9)
        except asyncio.CancelledError:
            pass

    slow = sleeping(9)

    async def main() -> None:
        for bound in (Timeout(1, name="named"), Timeout(2)):
            for body in (slow, swallow, sleeping(0)):
                await asyncio.wait([asyncio.create_task(form(bound, body)())])

    virtual_clock.run(main())
    own = [f"{body.__module__}.{body.__qualname__}" for body in (slow, swallow)]
    events = event_recorder.of(CallTimedOut)
    assert event_recorder.kinds == ("CallTimedOut",) * 4
    assert [event.name for event in events] == ["named"] * 2 + (["timeout"] * 2 if form is block else own)
    assert [event.seconds for event in events] == [1, 1, 2, 2]
