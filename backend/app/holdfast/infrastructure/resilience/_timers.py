"""Timers of async timeouts: one `loop.call_at` serves all calls of equal duration on a loop.

Calls of equal duration expire in the order in which they began: they form a queue, and only its head needs a
timer. That timer is not moved when a call ends: it fires, looks who is due, and waits for the next head.
"""

from __future__ import annotations

from asyncio import BaseEventLoop, CancelledError, current_task
from contextvars import Context

from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.deadline import _BlockDeadline, _deadline, _end, _in_force, _undo
from holdfast.infrastructure.resilience.timeout import _exceeded, _overran, _timed_out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task, TimerHandle
    from collections.abc import Callable
    from contextvars import Token
    from types import CodeType
    from typing import Any

    from holdfast.infrastructure.resilience.errors import TimeoutExceeded
    from holdfast.infrastructure.resilience.timeout import Timeout, _Block
_MANY = 64


class Entry:
    """One call under a timeout: the task to cancel when the loop's time is `when`."""

    __slots__ = ("cancelling", "entries", "task", "token", "when")

    cancelling: int
    entries: dict[Entry, None]
    task: Task[Any]
    token: Token[float | None] | None
    when: float

    def expire(self) -> None:
        """Cancel the call: its time has come."""
        self.task.cancel()


class Queue:
    """The calls of one duration on one loop that have not expired, in the order of their expiry."""

    __slots__ = ("context", "entries", "handle", "loop", "queues", "seconds", "time")

    def __init__(self, loop: AbstractEventLoop, seconds: float, queues: Queues) -> None:
        self.loop = loop
        self.seconds = seconds
        self.queues = queues
        self.entries: dict[Entry, None] = {}
        self.handle: TimerHandle | None = None
        self.time = _time_of(loop)
        self.context = Context()  # empty: the timer outlives the call whose context it would keep

    def set(self, when: float) -> None:
        """Let the timer fire at the loop's time `when`."""
        self.handle = self.loop.call_at(when, self.fire, context=self.context)

    def fire(self) -> None:
        """Tell the calls that are due and wait for the next; without one, leave the loop's queues."""
        now = self.time()
        due: list[Entry] = []
        for entry in self.entries:
            if entry.when > now:
                self.set(entry.when)
                break
            due.append(entry)
        else:
            self.handle = None
            self.queues.pop(self.seconds, None)
        for entry in due:
            del self.entries[entry]
            entry.expire()


class Queues(dict[float, Queue]):
    """The queues of one loop by duration; idle ones go when their timer fires, or when many have gathered."""

    __slots__ = ("many",)

    def __init__(self) -> None:
        super().__init__()
        self.many = _MANY

    def open(self, loop: AbstractEventLoop, seconds: float) -> Queue:
        """Return a new queue."""
        if len(self) >= self.many:
            self._sweep()
        queue = self[seconds] = Queue(loop, seconds, self)
        return queue

    def _sweep(self) -> None:
        for queue in [queue for queue in self.values() if not queue.entries]:
            del self[queue.seconds]
            if queue.handle is not None:
                queue.handle.cancel()
        self.many = max(_MANY, 2 * len(self))


def _time_of(loop: AbstractEventLoop) -> Callable[[], float]:
    # Unless the loop is a virtual or foreign one, its time is the policies': one reading serves both.
    same = type(ambient.clock) is Clock and getattr(loop.time, "__func__", None) is BaseEventLoop.time
    return ambient.monotonic if same else loop.time


def _open(loop: Any, seconds: float) -> Queue:
    try:
        queues: Queues = loop._holdfast_timers
    except AttributeError:
        queues = loop._holdfast_timers = Queues()
    return queues.open(loop, seconds)


def queue(loop: Any, seconds: float) -> Queue:
    """Return the queue of a loop for calls of `seconds`."""
    try:
        found: Queue = loop._holdfast_timers[seconds]
    except (AttributeError, KeyError):
        return _open(loop, seconds)
    return found


_get, _set = _deadline.get, _deadline.set


def arm(seconds: float, monotonic: Callable[[], float], block: AsyncBlock | None = None) -> Entry:
    """Begin a call in the running task: queue it for the timer, and set the deadline on the policy's clock."""
    try:
        task = current_task()
    except RuntimeError:
        task = None
    if task is None:
        raise RuntimeError("an async timeout cancels the task it runs in, and there is none: use asyncio.run")
    loop: Any = task.get_loop()
    try:
        queue: Queue = loop._holdfast_timers[seconds]
    except (AttributeError, KeyError):
        queue = _open(loop, seconds)
    entry = Entry() if block is None else block
    entry.task = task
    entry.cancelling = task.cancelling()
    time = queue.time
    until = entry.when = time() + seconds
    if time is not monotonic:
        until = monotonic() + seconds
    outer = _get()
    if outer is None or until < outer:
        entry.token = _set(until if block is None else block.mark(until))
    else:
        entry.token = None
    entries = entry.entries = queue.entries
    entries[entry] = None
    if queue.handle is None:
        queue.set(entry.when)
    return entry


def swallowed(entry: Entry, timeout: Timeout, label: str) -> TimeoutExceeded:
    """Return what to raise for a call that returned although its timer had cancelled it."""
    entry.task.uncancel()
    del entry.task
    _timed_out(timeout, label)
    return _exceeded(timeout, None)


def settle_error(entry: Entry, timeout: Timeout, error: BaseException) -> TimeoutExceeded | None:
    """End a call that raised; return what to raise instead, or None if `error` stands."""
    if entry.token is not None:
        _undo(entry.token)
    return _judge(entry, timeout, error)


def _judge(entry: Entry, timeout: Timeout, error: BaseException) -> TimeoutExceeded | None:
    task = entry.task
    del entry.task  # it would close a circle: task, its error, the traceback, this entry
    try:
        del entry.entries[entry]
    except KeyError:
        foreign = task.uncancel() > entry.cancelling
        ours = not foreign if isinstance(error, CancelledError) else isinstance(error, Exception)
        return _exceeded(timeout, error) if ours else None
    if isinstance(error, Exception) and task.get_loop().time() >= entry.when:
        return _overran(timeout, error, outer_first=entry.token is None)
    return None


class AsyncBlock(Entry):
    """One `async with` block."""

    __slots__ = ("below", "code", "place", "timeout", "until")

    below: _Block | None
    code: CodeType
    place: int
    timeout: Timeout
    until: _BlockDeadline

    def mark(self, until: float) -> _BlockDeadline:
        """Return the deadline to set, which ends with the block even if that happens in another context."""
        self.until = own = _BlockDeadline(until)
        own.ended, own.outer = False, _in_force()
        return own

    def is_mine(self) -> bool:
        """Return whether the running task began the block."""
        return self.task is current_task()

    def end(self, error: BaseException | None) -> TimeoutExceeded | None:
        """End the block; return what to raise instead of its own error, or in spite of its success."""
        if self.token is not None:
            _end(self.until, self.token)
        if error is not None:
            late = _judge(self, self.timeout, error)
            if late is not None:
                _timed_out(self.timeout)
            return late
        if self in self.entries:
            del self.entries[self]
            return None
        return swallowed(self, self.timeout, "timeout")


def arm_block(timeout: Timeout) -> AsyncBlock:
    """Begin a block in the running task."""
    clock = timeout._config.clock
    block = AsyncBlock()
    arm(timeout._config.seconds, ambient.monotonic if clock is None else clock.monotonic, block)
    return block
