"""The places of a bulkhead and the queue for them, which threads and tasks share.

Generated code takes and gives back a place without a lock. CPython switches threads and handles signals only at
calls and jumps back, so `if free > 0: free -= 1` cannot be torn apart, nor can anything come between it and the `try`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from math import inf
from weakref import WeakSet

from holdfast.infrastructure.resilience import _compile
from holdfast.infrastructure.resilience._ambient import ambient, hot
from holdfast.infrastructure.resilience._bus import bus, emit
from holdfast.infrastructure.resilience._frozen import refuse_copy
from holdfast.infrastructure.resilience.deadline import _tighter
from holdfast.infrastructure.resilience.errors import BulkheadFullError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from typing import Any, NoReturn

    from holdfast.infrastructure.resilience._compile import Stack
    from holdfast.infrastructure.resilience.bulkhead import BulkheadConfig

# Whether generated code may do without a lock.
PLAIN: bool = _compile.GIL and sys.implementation.name == "cpython"

# While somebody waits, `free` is lower by this: whoever comes sees no place, whoever goes sees that it must be given.
_HIDDEN = 1 << 40
_LONGEST = 1e9  # 31 years; locks cannot count much further


class Gate:
    """What a bulkhead is for as long as the process lives: its settings, its places and a count of refusals."""

    __slots__ = ("__weakref__", "config", "places", "rejected")

    def __init__(self, config: BulkheadConfig) -> None:
        self.config = config
        self.places = Places(config, config.limit)
        self.rejected = 0
        _gates.add(self)

    def __reduce__(self) -> NoReturn:
        """Refuse: there is one for all who share it."""
        refuse_copy("Bulkhead")

    def renew(self) -> None:
        """Begin anew in the child of a fork: who held a place or waited for one is not there."""
        old, self.places = self.places, Places(self.config, self.places.limit)
        old.retire()

    def name(self, stack: Stack | None, args: tuple[Any, ...]) -> str:
        """Return what events and errors call this."""
        return self.config.name or ("bulkhead" if stack is None else stack.label(args))

    def refuse(self, stack: Stack | None, args: tuple[Any, ...]) -> BulkheadFullError:
        """Count a call that is not made, tell it and return its error."""
        with self.places.lock:
            self.rejected += 1
        name = self.name(stack, args)
        if bus.entries:
            emit("CallRejected", name, policy="bulkhead", retry_after=None)
        return BulkheadFullError(name)


_gates: WeakSet[Gate] = WeakSet()


def _renew_gates() -> None:
    for gate in [*_gates]:
        gate.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_gates)


class Places:
    """The places and the queue of one process. Whoever took a place gives it back where it came from.

    Reentrant lock: the garbage collector may close an abandoned coroutine, and so end its call, wherever it is held.
    """

    __slots__ = ("config", "free", "hidden", "limit", "lock", "waiters")

    def __init__(self, config: BulkheadConfig, limit: int) -> None:
        self.config = config
        self.limit = self.free = limit
        self.hidden = False
        self.lock = threading.RLock()
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()

    @property
    def running(self) -> int:
        """Places that are taken."""
        return self.limit - self.free - _HIDDEN * self.hidden

    @property
    def full(self) -> bool:
        """Whether there is neither a place nor one in the queue."""
        return self.free <= 0 and len(self.waiters) >= self.config.queue

    def now(self) -> float:
        """Read the bulkhead's clock."""
        clock = self.config.clock
        return ambient.monotonic() if clock is None else clock.monotonic()

    def take(self) -> bool:
        """Take a place if one is free and nobody waits."""
        if not PLAIN:
            return self._take_locked()
        if self.free > 0:
            self.free -= 1
            return True
        return False

    def _take_locked(self) -> bool:
        taken = False
        try:
            with self.lock:
                if self.free > 0:
                    self.free -= 1
                    taken = True
        except BaseException:  # interrupted behind it
            if taken:
                self.give()
            raise
        return taken

    def give(self) -> None:
        """Give a place back; do nothing where none is taken, as at the end of a block that began before a fork."""
        if not PLAIN:
            with self.lock:
                self._free_one()
        else:
            self._free_one()
        if self.free < 0:
            self.serve()

    def _free_one(self) -> None:
        if self.running > 0:
            self.free += 1

    def serve(self) -> None:
        """Give the free places to those who wait, in their order."""
        now = self.now()
        try:
            with self.lock:
                self.grant(now)
        except BaseException:  # interrupted: that must leave nobody asleep who has a place
            with self.lock:
                self.grant(now)
            raise

    def resize(self, limit: int) -> int:
        """Change the limit; return the old one."""
        now = self.now()
        with self.lock:
            old, self.limit = self.limit, limit
            self.free += limit - old
            self.grant(now)
        return old

    def retire(self) -> None:
        """Be of no consequence to those who still give their places back here."""
        self.lock = threading.RLock()
        self.waiters = OrderedDict()
        self.hidden = False
        self.free = self.limit

    # What follows is called with the lock held.

    def admit(self, waiter: Waiter) -> bool:
        """Give a place or one in the queue, or neither; return whether there is something to wait for."""
        if self.free > 0:
            self.free -= 1
            waiter.granted = True
            return False
        if len(self.waiters) >= self.config.queue or waiter.until <= waiter.began:
            return False
        self.waiters[waiter] = None
        if not self.hidden:
            self.hidden = True
            self.free -= _HIDDEN
        # Whoever gave a place back before it was hidden did not see that somebody waits.
        self.grant(waiter.began)
        return not waiter.granted

    def grant(self, now: float) -> None:
        """Wake whoever has waited longest for each free place; drop those whose time is over."""
        while self.waiters:
            waiter = next(iter(self.waiters))
            if not waiter.granted:
                if self.free <= -_HIDDEN:
                    return
                if now < waiter.until:
                    self.free -= 1
                    waiter.granted = True
            if not waiter.wake() and waiter.granted:
                waiter.granted = False
                self.free += 1
            self.waiters.pop(waiter, None)
        self.show()

    def leave(self, waiter: Waiter) -> None:
        """Take back what a waiter has: its place, or the one in the queue."""
        self.waiters.pop(waiter, None)
        if waiter.granted:
            waiter.granted = False
            self.free += 1
        self.show()

    def show(self) -> None:
        """Let places be taken without a lock again, if nobody waits."""
        if self.hidden and not self.waiters:
            self.hidden = False
            self.free += _HIDDEN


class Waiter:
    """A call that found no place free: `began` and `until`, seconds of the bulkhead's clock, bound its wait."""

    __slots__ = ("began", "gate", "granted", "places", "until", "waits")

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.places = gate.places
        self.granted = self.waits = False
        self.began = now = self.places.now()
        longest = gate.config.max_wait
        self.until = float(_tighter(inf if longest is None else now + longest))

    @property
    def seconds(self) -> float | None:
        """How long to wait at most, None for as long as it takes."""
        return None if self.until == inf else min(self.until - self.began, _LONGEST)

    def ask(self) -> bool:
        """Ask for a place; return whether to wait for it."""
        with self.places.lock:
            self.waits = self.places.admit(self)
        return self.waits

    def settle(self, stack: Stack | None, args: tuple[Any, ...]) -> None:
        """Raise BulkheadFullError unless there is a place, in time."""
        if self.granted and not self.waits:
            return
        now = self.places.now()
        if not self.granted or now >= self.until:
            raise self.gate.refuse(stack, args)
        if bus.entries:
            emit("CallDelayed", self.gate.name(stack, args), policy="bulkhead", seconds=now - self.began)

    def leave(self) -> None:
        """Want nothing any more, and pass on what there is."""
        with self.places.lock:
            self.places.leave(self)
        if self.places.free < 0:
            self.places.serve()

    def wake(self) -> bool:
        """Tell that the wait is over; return whether anybody can hear it."""
        raise NotImplementedError


class Bell(threading.Event):
    """An event that one thread waits for, once; unlike its base, no signal that strikes inside can leave it locked."""

    def __init__(self) -> None:
        self._rung = False
        self._silence = threading.Lock()
        self._silence.acquire()

    def is_set(self) -> bool:
        """Return whether it was rung."""
        return self._rung

    def set(self) -> None:
        """Ring, if that was not done."""
        if not self._rung:
            self._rung = True
            self._silence.release()

    def clear(self) -> None:
        """Refuse: it rings once."""
        raise NotImplementedError("a Bell rings once: make another")

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it rings or `timeout` seconds have passed; return whether it was rung."""
        if not self._rung:
            self._silence.acquire(timeout=-1 if timeout is None else max(timeout, 0))
        return self._rung


class ThreadWaiter(Waiter):
    """One that blocks its thread."""

    __slots__ = ("bell",)

    def __init__(self, gate: Gate) -> None:
        super().__init__(gate)
        self.bell = Bell()

    def wake(self) -> bool:
        """Ring."""
        self.bell.set()
        return True

    def wait(self) -> None:
        """Block until it rings, or the time is over."""
        (self.gate.config.clock or ambient.clock).wait(self.bell, self.seconds)


class TaskWaiter(Waiter):
    """One that suspends its task, on whatever loop that runs."""

    __slots__ = ("future", "loop")

    def __init__(self, gate: Gate) -> None:
        from asyncio import get_running_loop  # not before somebody awaits

        super().__init__(gate)
        self.loop: AbstractEventLoop = get_running_loop()
        self.future: Future[None] = self.loop.create_future()

    def wake(self) -> bool:
        """Let the loop set the future; a closed one cannot."""
        from asyncio import _get_running_loop

        if _get_running_loop() is self.loop:
            self.ring()
            return True
        try:
            self.loop.call_soon_threadsafe(self.ring)
        except RuntimeError:
            return False
        return True

    def ring(self) -> None:
        """Set the future, unless the task was cancelled meanwhile."""
        if not self.future.done():
            self.future.set_result(None)

    async def wait(self) -> None:
        """Suspend the task until it is set, or the time is over."""
        seconds = self.seconds
        timer = None if seconds is None else self.loop.call_later(seconds, self.ring)
        try:
            await self.future
        finally:
            if timer is not None:
                timer.cancel()


# What generated code calls where it finds no place free. It returns with a place taken, or raises without one.


def enter(gate: Gate, stack: Stack | None, args: tuple[Any, ...]) -> Places:
    """Take a place, waiting for it if there is room in the queue; return where to give it back."""
    if gate.places.full:
        raise gate.refuse(stack, args)
    waiter = ThreadWaiter(gate)
    try:
        if waiter.ask():
            waiter.wait()
        waiter.settle(stack, args)
    except BaseException:
        waiter.leave()
        raise
    return waiter.places


async def enter_async(gate: Gate, stack: Stack | None, args: tuple[Any, ...]) -> Places:
    """Take a place, as `enter` does; a cancellation at the moment of the hand-off passes the place on."""
    if gate.places.full:
        raise gate.refuse(stack, args)
    waiter = TaskWaiter(gate)
    try:
        if waiter.ask():
            await waiter.wait()
        waiter.settle(stack, args)
    except BaseException:
        waiter.leave()
        raise
    return waiter.places


hot.update(
    _give_place=Places.give,
    _serve_places=Places.serve,
    _take_place=Places.take,
    _wait_for_place=enter,
    _wait_for_place_async=enter_async,
)
