"""Hedge: send a call again while the first is slow, and take whichever answers first."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.classify import Errors
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy

_P = ParamSpec("_P")
_T = TypeVar("_T")

class Quantile:
    """The `q` quantile of past latencies as a delay: `initial` seconds until `samples` of them are known.

    It follows the last few hundred calls of one `Hedge`, between 1 ms and 100 s, to about 10 %.
    """

    q: float
    initial: float
    samples: int
    def __init__(self, q: float = 0.95, *, initial: float = 1.0, samples: int = 50) -> None: ...

class HedgeConfig:
    """The settings of a `Hedge`, validated: frozen, keyword-only, comparable."""

    after: Quantile | float
    max_hedges: int
    on: Errors
    result: Callable[[Any], bool] | None
    budget: RetryBudget | None
    workers: int
    name: str | None
    clock: Clock | None
    def __init__(
        self,
        *,
        after: Quantile | float = ...,
        max_hedges: int = 1,
        on: Errors = ...,
        result: Callable[[Any], bool] | None = None,
        budget: RetryBudget | None = None,
        workers: int = 32,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None: ...

class Hedge(Policy):
    """Send up to `max_hedges` more calls, each `after` the one before, while none has succeeded. Idempotent calls only!

    The first success that `result` does not refuse wins, and so does an error that `on` calls permanent; another
    error sends the next call at once. When all fail the first call's outcome comes out, see `hedge_errors`. Losers are
    cancelled and count for nothing; sync, they are left behind in their threads (`workers` at most). A hedge takes a
    token of `budget`. Source: Dean & Barroso, "The Tail at Scale", CACM 2013.
    """

    def __init__(
        self,
        after: Quantile | float = ...,
        *,
        max_hedges: int = 1,
        on: Errors = ...,
        result: Callable[[Any], bool] | None = None,
        budget: RetryBudget | None = None,
        workers: int = 32,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None: ...
    @property
    def config(self) -> HedgeConfig:
        """The settings."""

    @property
    def name(self) -> str | None:
        """The name in events; a decorated function's own name stands in when there is none."""

    @property
    def latency(self) -> float | None:
        """The quantile of past latencies as it is now, seconds; None while too few are known, or none is asked for."""

    @property
    def started(self) -> int:
        """How many hedges were sent."""

    @property
    def won(self) -> int:
        """How many calls were decided by a hedge."""

@overload
def hedge(after: Callable[_P, _T], /) -> Callable[_P, _T]:
    """Return a `Hedge`, to decorate an idempotent function with; given the function, decorate it with `Hedge()`."""

@overload
def hedge(
    after: Quantile | float = ...,
    *,
    max_hedges: int = 1,
    on: Errors = ...,
    result: Callable[[Any], bool] | None = None,
    budget: RetryBudget | None = None,
    workers: int = 32,
    name: str | None = None,
    clock: Clock | None = None,
) -> Hedge: ...
def hedge_errors(error: BaseException) -> tuple[Exception, ...]:
    """Return the errors of the hedges that failed too, in the order in which they failed; pickled with `error`."""
