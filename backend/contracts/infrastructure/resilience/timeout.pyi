"""Timeout: bound how long a call may take."""

from types import TracebackType
from typing import Literal

from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy

class TimeoutConfig:
    """The settings of a `Timeout`, validated: frozen, keyword-only, comparable."""

    seconds: float
    sync: Literal["cooperative", "thread", "signal"]
    workers: int
    name: str | None
    clock: Clock | None
    def __init__(
        self,
        *,
        seconds: float,
        sync: Literal["cooperative", "thread", "signal"] = "cooperative",
        workers: int = 32,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None: ...

class Timeout(Policy):
    """Bound a call to `seconds`: outside a retry all attempts together, inside it each one. Raises TimeoutExceeded.

    Async functions are cancelled. Sync functions cannot be: "cooperative" only sets the deadline that
    `remaining()` tells,
    "thread" runs them in one of `workers` threads and leaves a late one behind, "signal" interrupts them (main
    thread only).
    """

    def __init__(
        self,
        seconds: float,
        *,
        sync: Literal["cooperative", "thread", "signal"] = "cooperative",
        workers: int = 32,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None: ...
    @property
    def config(self) -> TimeoutConfig:
        """The settings."""

    @property
    def name(self) -> str | None:
        """The name in events and errors."""

    def __enter__(self) -> float: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    async def __aenter__(self) -> float: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

def timeout(
    seconds: float,
    *,
    sync: Literal["cooperative", "thread", "signal"] = "cooperative",
    workers: int = 32,
    name: str | None = None,
    clock: Clock | None = None,
) -> Timeout:
    """Return a `Timeout`, to decorate with or as a `with` / `async with` block."""

def abandoned_workers() -> int:
    """Return how many timed-out functions are still running in threads that nobody waits for."""
