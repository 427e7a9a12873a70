"""Hedged calls of async functions: every attempt is a task."""

from __future__ import annotations

from asyncio import Task, current_task, get_running_loop, wait
from contextvars import copy_context

from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience._compile import seen
from holdfast.infrastructure.resilience._nested import frames_of, local_of, waited_for
from holdfast.infrastructure.resilience._race import Race
from holdfast.infrastructure.resilience._timers import Entry, queue
from holdfast.infrastructure.resilience._tries import attempt_number
from holdfast.infrastructure.resilience.retry import current_attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Callable, Coroutine, Iterator, Mapping
    from types import FrameType
    from typing import Any

    from holdfast.infrastructure.resilience._compile import Stack
    from holdfast.infrastructure.resilience._race import Outcome
    from holdfast.infrastructure.resilience._timers import Queue
    from holdfast.infrastructure.resilience.hedge import Hedge

# Nobody waits longer for cancelled attempts to end, seconds.
GRACE = 0.05

_OUTSIDE = (1, 0)

# Attempts that took longer; a loop would not keep them.
strays: set[Task[None]] = set()


class Field(Entry):
    """The tasks of one call, the outcomes that nobody has looked at, and the alarm for the next hedge."""

    __slots__ = ("args", "call", "caller", "ended", "kwargs", "loop", "over", "running", "waiter")

    def __init__(
        self,
        loop: AbstractEventLoop,
        call: Callable[..., Coroutine[Any, Any, Any]],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self.loop = loop
        self.call = call
        self.caller = current_task(loop) if seen.retry else None
        self.args = args
        self.kwargs = kwargs
        self.ended: list[Outcome] = []
        self.running: dict[int, Task[None]] = {}
        self.over = False
        self.waiter: Future[None] = loop.create_future()

    def start(self, number: int) -> None:
        """Start an attempt, in a copy of the caller's context."""
        attempt = _attempt(self, number, self.call, self.args, self.kwargs)
        if attempt_number.get() == _OUTSIDE:
            self.running[number] = self.loop.create_task(attempt)
            return
        context = copy_context()
        # A task has a stack of its own, on which `current_attempt` would look in vain.
        context.run(attempt_number.set, (current_attempt(), 0))
        self.running[number] = self.loop.create_task(attempt, context=context)

    def disarm(self) -> None:
        """Cancel the alarm, if it has not gone off."""
        self.entries.pop(self, None)

    def expire(self) -> None:
        """Wake the caller."""
        if not self.waiter.done():
            self.waiter.set_result(None)

    async def rest(self, race: Race) -> None:
        """Wait for an outcome, or until the next hedge is due."""
        self.waiter = self.loop.create_future()
        if race.left:
            _arm(self, queue(self.loop, race.after))
        try:
            await self.waiter
        finally:
            self.disarm()

    def take(self) -> Outcome:
        """Give the outcome that came first."""
        outcome = self.ended.pop(0)
        del self.running[outcome[0]]
        return outcome

    def reserve(self) -> bool:
        """Return True: there is always room for a task."""
        return True

    def cede(self) -> None:
        """Do nothing: no place was taken."""

    def cancel(self) -> set[Task[None]]:
        """Cancel what still runs; return what is to be waited for."""
        self.over = True
        self.caller = None
        self.disarm()
        self.ended.clear()
        if self.loop.is_closed():  # the caller is being closed, by the garbage collector
            return set()
        losers = {task for task in self.running.values() if not task.done()}
        for task in losers:
            task.cancel()
        return losers


async def _attempt(
    field: Field, number: int, call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    try:
        outcome: Outcome = number, await call(*args, **kwargs), None
    except GeneratorExit:
        raise
    except BaseException as error:  # the caller's to judge and to raise
        outcome = number, None, error
    if not field.over:
        field.ended.append(outcome)
        waiter = field.waiter
        if not waiter.done():
            waiter.set_result(None)
    del outcome  # or error, traceback and this frame would keep each other


def _arm(field: Field, timers: Queue) -> None:
    """Wake the caller when the timers' time is over, unless an outcome does."""
    field.when, field.entries = timers.time() + timers.seconds, timers.entries
    field.entries[field] = None
    if timers.handle is None:
        timers.set(field.when)


def _waiting(frame: FrameType) -> Iterator[FrameType]:
    return frames_of(local_of(frame, "field").caller)


waited_for[_attempt.__code__.co_filename] = _attempt.__code__, _waiting


async def _settle(losers: set[Task[None]]) -> None:
    """Give cancelled attempts the grace to end."""
    if not losers:
        return
    try:
        await wait(losers, timeout=GRACE)
    finally:
        for task in losers:
            if not task.done():
                strays.add(task)
                task.add_done_callback(strays.discard)


async def run(policy: Hedge, stack: Stack, at: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call what lies below, and again while it is slow or fails; return or raise what comes first."""
    tally = policy._tally
    estimate = tally.estimate
    after = tally.first if estimate is None or estimate.value is None else estimate.value
    now = ambient.monotonic if policy._config.clock is None else policy._config.clock.monotonic
    call = stack.fn if at + 1 == len(stack.parts) else stack.below(at + 1)
    loop = get_running_loop()
    field, timers = Field(loop, call, args, kwargs), queue(loop, after)
    # In place of `_arm`: where the timers' clock is the policy's, one reading serves both.
    time, entries = timers.time, timers.entries
    start = time()
    field.when, field.entries = start + after, entries
    entries[field] = None
    if timers.handle is None:
        timers.set(field.when)
    began = start if time is now else now()
    race = None
    try:
        if attempt_number.get() == _OUTSIDE:
            field.running[0] = loop.create_task(_attempt(field, 0, call, args, kwargs))
        else:
            field.start(0)
        await field.waiter
        entries.pop(field, None)
        ended = field.ended
        if ended and policy._plain and ended[0][2] is None:
            # The straight line: the first call succeeded in time, and nobody has anything to say about it.
            if estimate is not None:
                estimate.add(now() - began)
            return ended[0][1]
        race = Race(policy, stack, at, args, after, began)
        while not race.advance(field):
            await field.rest(race)
    except BaseException as error:
        losers = field.cancel()
        (race or Race(policy, stack, at, args, after, began)).learn(succeeded=False)
        if not isinstance(error, GeneratorExit):
            await _settle(losers)
        raise
    if field.running:
        await _settle(field.cancel())
    return race.outcome()
