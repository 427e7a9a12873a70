"""A clock that jumps: tests of minutes run in microseconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from math import inf
from threading import Event
from typing import Any, TypeVar

from holdfast.infrastructure.resilience.clock import SYSTEM, Clock
from holdfast.testing._coordinator import Coordinator
from holdfast.testing._loop import VirtualLoop

_T = TypeVar("_T")


class VirtualClock(Clock):
    """A clock whose time passes only when everything that runs on it waits; then it jumps to the next waking.

    Threads of `run_threads`, event loops of `run` and jobs of their executors take part; a sleep in any other
    thread jumps at once. Before a jump, sockets and whoever may set an event have `patience` real seconds to
    act; one that takes part and is busy has ten times that. `time` is `monotonic` plus `epoch`. Thread-safe.
    """

    def __init__(
        self, start: float = 1000.0, *, epoch: float = 1_700_000_000.0, patience: float = 0.05
    ) -> None:
        if not 0 < patience < inf:
            raise ValueError(f"patience is {patience!r}: give a number of real seconds above 0")
        self._start = start
        self._epoch = epoch
        self._sleeps: list[float] = []
        self._coordinator = Coordinator(start, patience)

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back; only differences mean anything."""
        return self._coordinator.now

    def time(self) -> float:
        """Return seconds since the Unix epoch, for labels."""
        return self._epoch + self._coordinator.now

    def sleep(self, seconds: float) -> None:
        """Block the calling thread for `seconds`; return at once when `seconds` <= 0."""
        self._sleeps.append(seconds)
        self._pass(seconds)

    async def asleep(self, seconds: float) -> None:
        """Suspend the running task for `seconds`, cancellably; return at once when `seconds` <= 0.

        On an event loop that is not this clock's, time jumps at once, and the loop goes round once.
        """
        self._sleeps.append(seconds)
        loop = asyncio.get_running_loop()
        if isinstance(loop, VirtualLoop) and loop.coordinator is self._coordinator:
            await SYSTEM.asleep(seconds)
        elif seconds > 0:
            self._pass(seconds)
            await asyncio.sleep(0)  # noqa: TID251  # takes no time

    def wait(self, event: Event, timeout: float | None = None) -> bool:
        """Block until `event` is set or `timeout` seconds have passed; return whether it is set."""
        if not event.is_set() and (timeout is None or timeout > 0):
            self._coordinator.pause(inf if timeout is None else self.monotonic() + timeout, event)
        return event.is_set()

    @property
    def elapsed(self) -> float:
        """Seconds that have passed since the clock was made."""
        return self.monotonic() - self._start

    @property
    def sleeps(self) -> tuple[float, ...]:
        """Every wait asked of `sleep` and `asleep`, in order, seconds."""
        return tuple(self._sleeps)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass and wake, in order, what was due. ValueError if negative."""
        if not 0 <= seconds < inf:
            raise ValueError(f"cannot advance by {seconds!r}: give a number of seconds from 0")
        self._pass(seconds)

    def step_wall_clock(self, seconds: float) -> None:
        """Move `time` alone, forwards or backwards, as a time server or a person would."""
        self._epoch += seconds

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return a new event loop on this clock; it serves sockets, but never really waits for a timer."""
        return VirtualLoop(self._coordinator)

    def run(self, main: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine to its end in a new loop on this clock, as `asyncio.run` does.

        RuntimeError when everything waits for something that can no longer happen.
        """
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("run() cannot be called from a running event loop: await the coroutine")
        with asyncio.Runner(loop_factory=self.loop) as runner:
            return runner.run(main)

    def run_threads(self, *functions: Callable[[], _T]) -> list[_T]:
        """Run each function in a thread of its own on this clock; give the results, or raise the first error.

        One runs at a time, until it waits on the clock or ends. RuntimeError as in `run`.
        """
        return self._coordinator.run_threads(functions)

    def _pass(self, seconds: float) -> None:
        if seconds > 0:
            self._coordinator.pause(self.monotonic() + seconds)
