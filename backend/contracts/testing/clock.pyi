"""A clock that jumps: tests of minutes run in microseconds."""

import asyncio
from collections.abc import Callable, Coroutine
from threading import Event
from typing import Any, TypeVar

from holdfast.infrastructure.resilience.clock import Clock

_T = TypeVar("_T")

class VirtualClock(Clock):
    """A clock whose time passes only when everything that runs on it waits; then it jumps to the next waking.

    Threads of `run_threads`, event loops of `run` and jobs of their executors take part; a sleep in any other
    thread jumps at once. Before a jump, sockets and whoever may set an event have `patience` real seconds to
    act; one that takes part and is busy has ten times that. `time` is `monotonic` plus `epoch`. Thread-safe.
    """

    def __init__(
        self, start: float = 1000.0, *, epoch: float = 1_700_000_000.0, patience: float = 0.05
    ) -> None: ...
    def monotonic(self) -> float: ...
    def time(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...
    async def asleep(self, seconds: float) -> None: ...
    def wait(self, event: Event, timeout: float | None = None) -> bool: ...
    @property
    def elapsed(self) -> float:
        """Seconds that have passed since the clock was made."""

    @property
    def sleeps(self) -> tuple[float, ...]:
        """Every wait asked of `sleep` and `asleep`, in order, seconds."""

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass and wake, in order, what was due. ValueError if negative."""

    def step_wall_clock(self, seconds: float) -> None:
        """Move `time` alone, forwards or backwards, as a time server or a person would."""

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return a new event loop on this clock; it serves sockets, but never really waits for a timer."""

    def run(self, main: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine to its end in a new loop on this clock, as `asyncio.run` does.

        RuntimeError when everything waits for something that can no longer happen.
        """

    def run_threads(self, *functions: Callable[[], _T]) -> list[_T]:
        """Run each function in a thread of its own on this clock; give the results, or raise the first error.

        One runs at a time, until it waits on the clock or ends. RuntimeError as in `run`.
        """
