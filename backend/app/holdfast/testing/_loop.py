"""An event loop on a virtual clock."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import selectors
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

from holdfast.testing._coordinator import QUEUED, RUN, Coordinator, Participant

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class _Selector(selectors.DefaultSelector):
    """Where the loop would wait for its next timer, let the clock jump there instead."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # Under the lock: a callback from another thread comes either before, and is seen, or after the block.
        with self.loop.coordinator.changed:
            ready = super().select(0)
            if ready or (timeout is not None and timeout <= 0):
                return ready
            # The loop's own pipe is always registered.
            self.loop.block(sockets=len(self.get_map()) > 1)
        try:
            while not ready and (nap := self.loop.await_turn()):
                ready = super().select(nap)
        finally:
            self.loop.resume()
        self.loop.participant.check()
        return ready


class _Timer(asyncio.TimerHandle):
    """A timer that comes after those of the same instant that were set before it."""

    __slots__ = ("order",)
    order: int
    _scheduled: bool

    def __lt__(self, other: Any) -> bool:
        return (self.when(), self.order) < (other.when(), other.order)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A selector event loop whose time is the clock's; while it runs it is one participant."""

    # Of asyncio's base class, where nothing declares it.
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.participant = Participant("event loop", ring=self._ring)
        self._idle = False
        self._jobs: set[Participant] = set()
        self._orders = itertools.count()
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.coordinator.now

    @property
    def _clock_resolution(self) -> float:
        """What asyncio adds before it compares: a timer is due at its instant, not a nanosecond earlier."""
        return math.ulp(self.coordinator.now)

    @_clock_resolution.setter
    def _clock_resolution(self, seconds: float) -> None:
        """Ignore what asyncio's constructor says of the system's clock."""

    def run_forever(self) -> None:
        with self.coordinator.acting(self.participant):
            super().run_forever()

    def close(self) -> None:
        for job in self._jobs:
            self.coordinator.release(job)
        super().close()

    def block(self, *, sockets: bool) -> None:
        """Wait for the next timer."""
        until = self._scheduled[0].when() if self._scheduled else math.inf
        self.coordinator.block(self.participant, until, sockets=sockets)
        self._idle = True

    def await_turn(self) -> float:
        """Return for how many real seconds to listen to the outside before asking again; 0: it is time."""
        with self.coordinator.changed:
            nap = self.coordinator.elect()
            return 0.0 if self.participant.until is None else nap

    def resume(self) -> None:
        """Run again."""
        with self.coordinator.changed:
            self._idle = False
            self.coordinator.run(self.participant)

    def _ring(self) -> None:
        if self._idle and threading.current_thread() is not self.participant.thread:
            super().call_soon_threadsafe(lambda: None)

    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Do as asyncio does, but with a timer that knows its place among those of the same instant."""
        checks: Any = self
        checks._check_closed()
        if self.get_debug():
            checks._check_thread()
            checks._check_callback(callback, "call_at")
        timer = _Timer(when, callback, args, self, context)
        timer.order, timer._scheduled = next(self._orders), True
        heapq.heappush(self._scheduled, timer)
        return timer

    def call_soon_threadsafe(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        with self.coordinator.changed:
            handle = super().call_soon_threadsafe(callback, *args, context=context)
            if self._idle:
                self.coordinator.run(self.participant)
        return handle

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        threads = executor is None or isinstance(executor, ThreadPoolExecutor)
        work, forget = self.watch_job(func, waits=threads)
        try:
            future = super().run_in_executor(executor, work if threads else func, *args)
        except BaseException:
            forget()
            raise
        future.add_done_callback(lambda _: forget())
        return future

    def watch_job(
        self, func: Callable[[*_Ts], _T], *, waits: bool
    ) -> tuple[Callable[[*_Ts], _T], Callable[[], None]]:
        """Let no time pass while a thread has a job; return the job for the thread, and what ends the watch.

        `waits`: it may have to wait for another job first, which may wait for time to pass.
        """
        job = Participant("job in a thread")

        def work(*given: *_Ts) -> _T:
            return self.coordinator.work(job, func, *given)

        self.coordinator.enter(job, hold=QUEUED if waits else RUN)
        self._jobs.add(job)
        return work, lambda: self._forget(job)

    def _forget(self, job: Participant) -> None:
        self._jobs.discard(job)
        self.coordinator.release(job)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Join the executor's threads; the thread that does it counts as one that runs."""
        joining = Participant("end of the executor")
        self.coordinator.enter(joining)
        try:
            await super().shutdown_default_executor()
        finally:
            self.coordinator.leave(joining)
