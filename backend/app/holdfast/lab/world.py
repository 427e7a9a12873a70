"""Virtual time for experiments: coroutines and plain functions on one loop, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.lab._jump import JumpLoop
from holdfast.lab._patch import Patch
from holdfast.lab._threads import Threads
from holdfast.testing.clock import VirtualClock

_T = TypeVar("_T")


class World(VirtualClock):
    """A virtual clock for simulations, where nothing outside can act: time jumps at once, and no real second passes.

    While `run` goes on, the policies, `asyncio` and the `time` module show its time to what runs in it; in `packages`
    so do `datetime`, names imported from `time`, and locks, which wait in virtual time. One run at a time per process.
    """

    def __init__(self, start: float = 1000.0, *, packages: Iterable[str] = ()) -> None:
        super().__init__(start)
        self._packages = tuple(packages)
        self._threads = Threads()

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back; only differences mean anything."""
        return self._coordinator.now

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return a new event loop on this clock; it serves no sockets."""
        return JumpLoop(self._coordinator)

    def sleep(self, seconds: float) -> None:
        """Block the calling cooperative thread for `seconds`; return at once when `seconds` <= 0."""
        if not self._threads.inside():
            super().sleep(seconds)
        elif seconds > 0:
            self._threads.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        """Suspend the running task for `seconds`, cancellably; return at once when `seconds` <= 0."""
        if seconds > 0:
            await asyncio.sleep(seconds)  # noqa: TID251  # on the loop of this world

    def run(self, main: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine to its end; what still waits then is cancelled.

        RuntimeError when everything waits for something that can no longer happen.
        """
        # In this order: what puts the system's clock back must find the real `time` again.
        with use_clock(self), Patch(self, self._threads, self._packages):
            try:
                return super().run(self._live(main))
            finally:
                self._threads.end()

    async def _live(self, main: Coroutine[Any, Any, _T]) -> _T:
        self._threads.begin(asyncio.get_running_loop())
        try:
            return await main
        finally:
            self._threads.unwind()

    def thread(self, function: Callable[[], _T]) -> asyncio.Future[_T]:
        """Call a plain function in a cooperative thread of its own; give a future of its result."""
        return self._threads.start(function)

    def pause(self, arm: Callable[[Callable[[], None]], object]) -> None:
        """Block this cooperative thread until `arm`'s argument is called from the loop; `arm` is called at once."""
        self._threads.pause(arm)
