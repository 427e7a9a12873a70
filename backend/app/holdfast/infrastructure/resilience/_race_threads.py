"""Hedged calls of sync functions: every attempt is a job for a worker thread."""

from __future__ import annotations

import sys
import threading
from collections import deque
from contextvars import ContextVar

from holdfast.infrastructure.resilience import _threads
from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience._bus import bus, emit
from holdfast.infrastructure.resilience._compile import CALLER, GENERIC, Below, Stack
from holdfast.infrastructure.resilience._race import Race, clock_of
from holdfast.infrastructure.resilience._tries import attempt_number
from holdfast.infrastructure.resilience.retry import current_attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType
    from typing import Any

    from holdfast.infrastructure.resilience._race import Outcome
    from holdfast.infrastructure.resilience.hedge import Hedge


class Lost(BaseException):
    """Ends an attempt that nobody waits for, past every policy; it is not seen outside its thread."""


class Ticket:
    """What the code of an attempt can know: whether anybody waits for it, or for the attempt that it is part of."""

    __slots__ = ("lost", "outer")

    def __init__(self, outer: Ticket | None) -> None:
        self.lost = False
        self.outer = outer


class Attempt(_threads.Job):
    """One attempt of a call."""

    __slots__ = ("seen", "ticket")

    def __init__(self, field: Field) -> None:
        super().__init__(field.call, field.args, field.kwargs)
        self.caller = field.caller
        self.done = field.event
        self.seen = False
        self.ticket = Ticket(_ticket.get())
        self.context.run(_ticket.set, self.ticket)
        # A worker has a stack of its own, on which `current_attempt` would look in vain.
        self.context.run(attempt_number.set, (field.number, 0))


_ticket: ContextVar[Ticket | None] = ContextVar("holdfast_hedged", default=None)


def _leave_if_lost() -> None:
    ticket = _ticket.get()
    while ticket is not None:
        if ticket.lost:
            raise Lost from None
        ticket = ticket.outer


def _guarded(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn` for a thread that cannot be cancelled: whoever has lost calls it no more, and has no outcome."""

    def call(*args: Any, **kwargs: Any) -> Any:
        _leave_if_lost()
        try:
            result = fn(*args, **kwargs)
        except Exception:
            _leave_if_lost()
            raise
        _leave_if_lost()
        return result

    # What events of the policies below are named after.
    call.__module__ = getattr(fn, "__module__", None) or "?"
    call.__qualname__ = getattr(fn, "__qualname__", None) or repr(fn)
    return call


def _below(stack: Stack, at: int) -> Any:
    """Return what lies below the hedge, around a guarded function if there are policies between."""
    if at + 1 == len(stack.parts) or stack.signature is CALLER:
        return stack.below(at + 1)
    if stack._below is None:
        stack._below = {}
    # Depths are not negative: there is room beside them.
    found = stack._below.get(~at)
    if found is None:
        rest = Below(stack, at + 1)
        rest.fn, rest.signature = _guarded(stack.fn), GENERIC
        found = stack._below[~at] = rest.build()[1]
    return found


class Field:
    """The jobs of one call, and the outcomes that nobody has looked at."""

    __slots__ = ("args", "call", "caller", "clock", "ended", "event", "kwargs", "lane", "number", "running")

    def __init__(
        self, policy: Hedge, call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self.lane = _threads._pool.lane(policy)
        self.clock = policy._config.clock or ambient.clock
        self.call = call
        self.args = args
        self.kwargs = kwargs
        self.caller: FrameType | None = None
        self.event = threading.Event()
        self.ended: deque[int] = deque()
        self.running: dict[int, Attempt] = {}
        self.number = current_attempt()

    def reserve(self) -> bool:
        """Take a worker's place; return whether one was free."""
        return self.lane.reserve()

    def cede(self) -> None:
        """Give the place back."""
        self.lane.cede()

    def start(self, number: int) -> None:
        """Start an attempt in the place."""
        attempt = Attempt(self)
        self.lane.start(attempt)
        self.running[number] = attempt

    def rest(self, race: Race) -> None:
        """Wait for an outcome, or until the next hedge is due."""
        until = self.clock.monotonic() + race.after if race.left else None
        while not self._look():
            left = None if until is None else until - self.clock.monotonic()
            if not self.clock.wait(self.event, left):
                return

    def _look(self) -> bool:
        # Cleared first: whoever ends after the look sets it again.
        self.event.clear()
        for number, attempt in self.running.items():
            if attempt.ended and not attempt.seen:
                attempt.seen = True
                self.ended.append(number)
        return bool(self.ended)

    def take(self) -> Outcome:
        """Give the outcome that came first."""
        number = self.ended.popleft()
        attempt = self.running.pop(number)
        error, attempt.error = attempt.error, None
        try:
            return number, attempt.result, error
        finally:
            del error

    def leave(self, race: Race) -> None:
        """Stop waiting for what still runs."""
        self.caller = None  # it would close a circle
        for attempt in self.running.values():
            attempt.ticket.lost = True
            if self.lane.give_up(attempt):
                if attempt.abandoned and bus.entries:
                    emit("WorkerAbandoned", race.name, abandoned=_threads.abandoned())
            else:
                attempt.error = None  # it would close a circle: error, traceback, this attempt
        self.running.clear()


def run(policy: Hedge, stack: Stack, at: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call what lies below, and again while it is slow or fails; return or raise what comes first."""
    race = Race(policy, stack, at, args, policy._tally.delay, clock_of(policy)())
    call = _below(stack, at)
    packed = args
    if stack.signature is CALLER and at + 1 < len(stack.parts):
        packed = (_guarded(args[0]), *args[1:])
    field = Field(policy, call, packed, kwargs)
    if not field.reserve():
        return _alone(race, stack.below(at + 1), args, kwargs)
    field.caller = sys._getframe()
    try:
        field.start(0)
        field.rest(race)
        while not race.advance(field):
            field.rest(race)
    finally:
        field.leave(race)
        race.learn(succeeded=False)
    return race.outcome()


def _alone(race: Race, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make the call in the caller's own thread: every worker is busy, so that no hedge could be sent."""
    race.left, result, failed = 0, None, None
    try:
        result = call(*args, **kwargs)
    except BaseException as error:
        failed = error
    try:
        race.take((0, result, failed))
        return race.outcome()
    finally:
        del failed
