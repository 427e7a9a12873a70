"""Bulkhead: at most so many calls at once, so that one slow dependency cannot take every thread or task."""

from types import TracebackType

from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy

class BulkheadConfig:
    """The settings of a `Bulkhead`, validated: frozen, keyword-only, comparable."""

    limit: int
    queue: int
    max_wait: float | None
    name: str | None
    clock: Clock | None
    def __init__(
        self,
        *,
        limit: int,
        queue: int = 0,
        max_wait: float | None = None,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None: ...

class Bulkhead(Policy):
    """Let at most `limit` calls run at once and `queue` more wait, in order, for at most `max_wait` seconds.

    The deadline around the call bounds the wait too; a place that becomes free only at the bound comes too late.
    Raises BulkheadFullError. Safe to share between threads and tasks, which wait in one queue. A forked child
    begins with every place free. Source: Nygard, "Release It!", Bulkheads.
    """

    def __init__(
        self,
        limit: int,
        *,
        queue: int = 0,
        max_wait: float | None = None,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None: ...
    @property
    def config(self) -> BulkheadConfig:
        """The settings; the limit is the one it began with."""

    @property
    def name(self) -> str | None:
        """The name in events and errors."""

    @property
    def limit(self) -> int:
        """How many calls may run at once now."""

    @property
    def running(self) -> int:
        """How many places are taken; above `limit` for a while after it was lowered."""

    @property
    def waiting(self) -> int:
        """How many calls wait for a place."""

    @property
    def rejected(self) -> int:
        """How many calls were refused, at once or after a wait in vain."""

    def resize(self, limit: int) -> None:
        """Change the limit now: a higher one admits who waits, a lower one interrupts nobody. Never blocks.

        ConfigurationError for a limit that the constructor would refuse.
        """

    def __enter__(self) -> None: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    async def __aenter__(self) -> None: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

def bulkhead(
    limit: int,
    *,
    queue: int = 0,
    max_wait: float | None = None,
    name: str | None = None,
    clock: Clock | None = None,
) -> Bulkhead:
    """Return a `Bulkhead`, to decorate with or as a `with` / `async with` block."""
