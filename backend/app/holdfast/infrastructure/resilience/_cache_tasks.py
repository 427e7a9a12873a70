"""Async calls that a cache found nothing fresh for: computed in a task that ends when nobody waits any more."""

from __future__ import annotations

import asyncio

from holdfast.infrastructure.resilience import _degraded
from holdfast.infrastructure.resilience._cache import Flight, Node, inside
from holdfast.infrastructure.resilience._cache_calls import Call
from holdfast.infrastructure.resilience._nested import frames_of, local_of, retried_by, waited_for
from holdfast.infrastructure.resilience.deadline import _deadline, remaining

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any

    from holdfast.infrastructure.resilience._cache import State
    from holdfast.infrastructure.resilience._compile import Stack


async def fill_async(
    state: State, key: Any, stack: Stack, depth: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Answer a call that found nothing fresh; without a key it is made alone."""
    call = Call(state, key, stack, depth, args, kwargs)
    if key is None:
        return await call.alone()
    loop = asyncio.get_running_loop()
    while True:
        mine = Flight(key, loop)
        flight = state.board(mine)
        try:
            # Not before: a flight that ended meanwhile has left its entry.
            entry, due = call.look()
            if flight is mine and due:
                _start(call, flight, loop, behind=entry is not None)
        except BaseException:
            state.drop(mine)
            raise
        if entry is not None:
            if not due:
                state.drop(mine)
            return call.use(entry)
        me, leads = inside.get(), flight is mine
        if not call.joins(flight, me):
            return await call.alone()
        left = None if leads else remaining()
        try:
            if not await _ended(state, flight, left, me, leads=leads):
                return call.late(left or 0.0)
            if leads or not flight.lone:
                return _answer(call, flight, leads=leads)
        finally:
            del mine, flight  # or the error that it holds, traceback and this frame would keep each other


def _start(call: Call, flight: Flight, loop: asyncio.AbstractEventLoop, *, behind: bool) -> None:
    call.count_miss()
    flight.behind = behind
    if behind:
        flight.until = None
    else:
        flight.caller = asyncio.current_task(loop)
    flight.task = loop.create_task(_compute(call, flight))
    # Not in the coroutine: of a task that is cancelled before its first step nothing runs.
    flight.task.add_done_callback(lambda _: call.state.drop(flight))


async def _compute(call: Call, flight: Flight) -> None:
    """Compute for all who wait, in a copy of the leader's context; a refresh behind outlives his deadline."""
    try:
        result, degraded = await _computed(call, flight)
    except Exception as error:  # noted on the flight, for all who wait
        call.fail(flight, error, refresh=flight.behind)
    else:
        call.succeed(flight, result, degraded=degraded)
    finally:
        del flight


def _waiting(frame: FrameType) -> Iterator[FrameType]:
    return frames_of(local_of(frame, "flight").caller)


waited_for[_compute.__code__.co_filename] = _compute.__code__, _waiting


async def _computed(call: Call, flight: Flight) -> tuple[Any, bool]:
    inside.set(flight.node)
    if flight.behind:  # its caller has an answer: he limits nothing, and will not try again
        _deadline.set(None)
        retried_by.set(None)
    del flight
    watch, degraded = _degraded.begin(call.stack, call.depth), True
    try:
        result = await call.compute()
        call.check(result)
    finally:
        degraded = _degraded.end(watch)
    return result, degraded


async def _ended(state: State, flight: Flight, left: float | None, me: Node | None, *, leads: bool) -> bool:
    """Wait until a flight has ended, or for `left` seconds."""
    try:
        return await _waited(state, flight, left)
    finally:
        if leads:
            flight.caller = None
        flight.leave(me)
        del flight


async def _waited(state: State, flight: Flight, left: float | None) -> bool:
    """Wait; whoever leaves last takes the computation down."""
    if left is not None and left <= 0:
        return False
    task = flight.task
    flight.waiters += 1
    try:
        await asyncio.wait((task,), timeout=left)
    except asyncio.CancelledError:
        if _left(state, flight):
            await _dismiss(task)
        raise
    except BaseException:
        # An abandoned coroutine is closed, perhaps elsewhere.
        loop = task.get_loop()
        if _left(state, flight) and not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)
        raise
    if _left(state, flight) and await _dismiss(task):
        raise asyncio.CancelledError
    return task.done()


def _left(state: State, flight: Flight) -> bool:
    """Note that a waiter leaves; return whether the computation is now nobody's."""
    flight.waiters -= 1
    nobodys = not (flight.waiters or flight.behind or flight.task.done())
    if nobodys:
        state.drop(flight)
    return nobodys


async def _dismiss(task: asyncio.Task[None]) -> bool:
    """Cancel a task and wait until it has cleaned up, as if it were awaited; return whether the waiter was cancelled.

    A cancellation of the waiter is passed on, as it would be.
    """
    cancelled = False
    task.cancel()
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            cancelled = True
            task.cancel()
    return cancelled


def _answer(call: Call, flight: Flight, *, leads: bool) -> Any:
    """Return or raise what came of a flight; what is no `Exception` goes to the leader alone."""
    try:
        if flight.lone and flight.error is None:
            flight.task.result()
        return call.answer(flight, leads=leads)
    finally:
        del flight
