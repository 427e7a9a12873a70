"""Time as a parameter: the clock that every policy reads, and how to replace it."""

from __future__ import annotations

import time

from holdfast.infrastructure.resilience._ambient import ambient, hot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from threading import Event
    from types import TracebackType


class Clock:
    """Read and spend time in seconds; this class is the system's clock, a subclass replaces it.

    Decisions use `monotonic`; `time` only labels what people read. Safe to share between threads and tasks.
    """

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back; only differences mean anything."""
        return time.monotonic()

    def time(self) -> float:
        """Return seconds since the Unix epoch, for labels."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Block the calling thread for `seconds`; return at once when `seconds` <= 0."""
        if seconds > 0:
            time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        """Suspend the running task for `seconds`, cancellably; return at once when `seconds` <= 0."""
        if seconds > 0:
            import asyncio

            await asyncio.sleep(seconds)

    def wait(self, event: Event, timeout: float | None = None) -> bool:
        """Block until `event` is set or `timeout` seconds have passed; return whether it is set."""
        return event.wait(timeout)


SYSTEM: Clock = Clock()


def current_clock() -> Clock:
    """Return the clock that policies without a clock of their own read now."""
    return ambient.clock


class use_clock:
    """Make `clock` the clock of every policy that has none of its own, for a `with` block; process-wide."""

    __slots__ = ("_clock", "_outer")

    def __init__(self, clock: Clock) -> None:
        if not isinstance(clock, Clock):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"{clock!r} is not a Clock: give an instance of Clock or of a subclass")
        self._clock = clock
        self._outer: list[Clock] = []

    def __enter__(self) -> Clock:
        """Replace the common clock."""
        self._outer.append(ambient.clock)
        _install(self._clock)
        return self._clock

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the clock back that was there before."""
        _install(self._outer.pop())


def _install(clock: Clock) -> None:
    ambient.clock = clock
    ambient.monotonic = time.monotonic if type(clock) is Clock else clock.monotonic
    hot["_now"] = ambient.monotonic


_install(SYSTEM)
