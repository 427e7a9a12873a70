"""Time as a parameter: the clock that every policy reads, and how to replace it."""

from threading import Event
from types import TracebackType

class Clock:
    """Read and spend time in seconds; this class is the system's clock, a subclass replaces it.

    Decisions use `monotonic`; `time` only labels what people read. Safe to share between threads and tasks.
    """

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back; only differences mean anything."""

    def time(self) -> float:
        """Return seconds since the Unix epoch, for labels."""

    def sleep(self, seconds: float) -> None:
        """Block the calling thread for `seconds`; return at once when `seconds` <= 0."""

    async def asleep(self, seconds: float) -> None:
        """Suspend the running task for `seconds`, cancellably; return at once when `seconds` <= 0."""

    def wait(self, event: Event, timeout: float | None = None) -> bool:
        """Block until `event` is set or `timeout` seconds have passed; return whether it is set."""

SYSTEM: Clock

def current_clock() -> Clock:
    """Return the clock that policies without a clock of their own read now."""

class use_clock:
    """Make `clock` the clock of every policy that has none of its own, for a `with` block; process-wide."""

    def __init__(self, clock: Clock) -> None: ...
    def __enter__(self) -> Clock: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
