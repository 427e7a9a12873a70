"""Concurrency limit: find out how many calls at once a dependency can take, and refuse the rest."""

from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar, overload

from holdfast.infrastructure.resilience.classify import Errors
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.permit import Permit
from holdfast.infrastructure.resilience.policy import Policy

_P = ParamSpec("_P")
_T = TypeVar("_T")

class Gradient2:
    """Follow the latency: `limit * gradient + queue`, smoothed, where gradient is `tolerance * long / short`, 0.5 to 1.

    `short` is the mean latency of a round of calls, `long` its average over `long_window` rounds. A drop takes away
    as much as a gradient of 0.5. Frozen. Source: Netflix concurrency-limits, Gradient2Limit.
    """

    smoothing: float
    queue: int
    tolerance: float
    long_window: int
    def __init__(
        self, *, smoothing: float = 0.2, queue: int = 4, tolerance: float = 1.5, long_window: int = 600
    ) -> None: ...

class AIMD:
    """Add 1 after a round of calls without a drop, multiply by `backoff` at a drop; latency as such is not minded.

    Frozen. Source: Netflix concurrency-limits, AIMDLimit; rounds as in TCP, RFC 5681.
    """

    backoff: float
    def __init__(self, *, backoff: float = 0.9) -> None: ...

class StandingQueue:
    """No limit until answers stand in a queue: of `calls` calls in succession none was quick, or as many were dropped.

    Not quick is above 0.1 s, `tolerance` times the mean of `memory` seconds, and four deviations over it. First it
    is 1.5 times what is in flight, 3 more at least; each further sign multiplies it by `backoff`, quick answers add 1 a
    round, `lift` seconds lift it; after `probe` seconds without an admission a call is made beyond it. Frozen. Sources:
    CoDel, RFC 8289 (no quick answer for a while, not a high average); RFC 6298 (deviations).
    """

    calls: int
    tolerance: float
    memory: float
    backoff: float
    lift: float
    probe: float
    def __init__(
        self,
        *,
        calls: int = 5,
        tolerance: float = 3.0,
        memory: float = 60.0,
        backoff: float = 0.5,
        lift: float = 10.0,
        probe: float = 2.0,
    ) -> None: ...

class ConcurrencyLimitConfig:
    """The settings of a `ConcurrencyLimit`, validated: frozen, keyword-only, comparable."""

    algorithm: Gradient2 | AIMD | StandingQueue
    initial: int | None
    min_limit: int
    max_limit: int
    max_healthy_latency: float | None
    priority: Callable[..., str] | None
    on: Errors
    name: str | None
    clock: Clock | None
    def __init__(
        self,
        *,
        algorithm: Gradient2 | AIMD | StandingQueue = ...,
        initial: int | None = 20,
        min_limit: int = 1,
        max_limit: int = 200,
        max_healthy_latency: float | None = None,
        priority: Callable[..., str] | None = None,
        on: Errors = ...,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None: ...

class ConcurrencyLimit(Policy):
    """Admit as many calls at once as the dependency takes without delay or error. Raises ConcurrencyLimitedError.

    Only calls that begin with half of the limit in use or more move it (by `StandingQueue`: that begin beside
    another). Drops shrink it: errors that `on` covers, latencies above `max_healthy_latency` seconds; other errors and
    cancelled calls say nothing. It never grows beyond 5 times the calls in flight. `initial`: None begins with
    `max_limit`. `priority`, a function of the call's arguments, says "critical" (may use all of the limit), "normal"
    (90 %) or "low" (70 %, rounded up); without it all may use all. Safe for threads and tasks.
    """

    def __init__(
        self,
        *,
        algorithm: Gradient2 | AIMD | StandingQueue = ...,
        initial: int | None = 20,
        min_limit: int = 1,
        max_limit: int = 200,
        max_healthy_latency: float | None = None,
        priority: Callable[..., str] | None = None,
        on: Errors = ...,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None: ...
    @property
    def config(self) -> ConcurrencyLimitConfig:
        """The settings."""

    @property
    def name(self) -> str | None:
        """The name in events and errors."""

    @property
    def limit(self) -> int:
        """How many calls may be in flight now."""

    @property
    def running(self) -> int:
        """How many calls are in flight now."""

    @property
    def rejected(self) -> int:
        """How many calls were refused since the limit was made or reset."""

    def reset(self) -> None:
        """Go back to the initial limit and forget all latencies; calls in flight stay counted."""

    def admit(self) -> Permit:
        """Admit one call of normal priority and return its permit, to be settled exactly once."""

    def __enter__(self) -> Permit: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    async def __aenter__(self) -> Permit: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

@overload
def concurrency_limit(fn: Callable[_P, _T], /) -> Callable[_P, _T]:
    """Return a `ConcurrencyLimit`, to decorate with or as a block; given a function, decorate it with one."""

@overload
def concurrency_limit(
    fn: None = None,
    /,
    *,
    algorithm: Gradient2 | AIMD | StandingQueue = ...,
    initial: int | None = 20,
    min_limit: int = 1,
    max_limit: int = 200,
    max_healthy_latency: float | None = None,
    priority: Callable[..., str] | None = None,
    on: Errors = ...,
    name: str | None = None,
    clock: Clock | None = None,
) -> ConcurrencyLimit: ...
