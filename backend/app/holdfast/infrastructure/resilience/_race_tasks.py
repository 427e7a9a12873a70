"""Hedged calls of async functions: every attempt is a task."""

from __future__ import annotations

from asyncio import Task, get_running_loop, wait
from contextvars import copy_context

from holdfast.infrastructure.resilience._race import Race, clock_of
from holdfast.infrastructure.resilience._timers import Entry, queue
from holdfast.infrastructure.resilience._tries import attempt_number
from holdfast.infrastructure.resilience.retry import current_attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Any

    from holdfast.infrastructure.resilience._compile import Stack
    from holdfast.infrastructure.resilience._race import Outcome
    from holdfast.infrastructure.resilience.hedge import Hedge

# Nobody waits longer for cancelled attempts to end, seconds.
GRACE = 0.05

_OUTSIDE = (1, 0)

# Attempts that took longer; a loop would not keep them.
strays: set[Task[None]] = set()


class Field(Entry):
    """The tasks of one call, the outcomes that nobody has looked at, and the alarm for the next hedge."""

    __slots__ = ("args", "call", "ended", "kwargs", "loop", "over", "running", "waiter")

    def __init__(
        self,
        loop: AbstractEventLoop,
        call: Callable[..., Coroutine[Any, Any, Any]],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self.loop = loop
        self.call = call
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

    def arm(self, seconds: float) -> None:
        """Wake the caller after `seconds` unless an outcome does."""
        timers = queue(self.loop, seconds)
        when = self.when = timers.time() + seconds
        entries = self.entries = timers.entries
        entries[self] = None
        if timers.handle is None:
            timers.set(when)

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
            self.arm(race.after)
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
    result, failed = None, None
    try:
        result = await call(*args, **kwargs)
    except GeneratorExit:
        raise
    except BaseException as error:  # the caller's to judge and to raise
        failed = error
    if not field.over:
        field.ended.append((number, result, failed))
        field.expire()
    del failed  # or error, traceback and this frame would keep each other


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
    after, estimate = policy._tally.first, policy._tally.estimate
    if estimate is not None and estimate.value is not None:
        after = estimate.value
    now = clock_of(policy)
    field = Field(get_running_loop(), stack.below(at + 1), args, kwargs)
    began = now()
    field.arm(after)
    race = None
    try:
        field.start(0)
        await field.waiter
        field.entries.pop(field, None)
        if policy._plain and field.ended and field.ended[0][2] is None:
            # The straight line: the first call succeeded in time, and nobody has anything to say about it.
            if estimate is not None:
                estimate.add(now() - began)
            return field.ended[0][1]
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
