"""Throttle: spare a dependency that refuses much of what it is sent, by refusing part of it here."""

from collections.abc import Callable
from random import Random
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, overload

from holdfast.infrastructure.resilience.classify import Errors
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy

_P = ParamSpec("_P")
_T = TypeVar("_T")

class ThrottleConfig:
    """The settings of a `Throttle`, validated: frozen, keyword-only, comparable."""

    k: float
    window: float
    min_calls: int
    max_rejection: float
    on: Errors
    result: Callable[[Any], bool] | None
    name: str | None
    clock: Clock | None
    random: Random | None
    def __init__(
        self,
        *,
        k: float = 2.0,
        window: float = 10.0,
        min_calls: int = 10,
        max_rejection: float = 0.9,
        on: Errors = ...,
        result: Callable[[Any], bool] | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None: ...

class Throttle(Policy):
    """Refuse with probability `(requests - k * accepts) / (requests + 1)`, at most `max_rejection`. ThrottledError.

    Both count over the last `window` seconds, when a call ends; with fewer requests than `min_calls` there, none is
    refused. A refused call is a request; so is one that fails with an error that `on` covers, or whose result `result`
    refuses; all others are accepted requests. Cancelled calls and those that a policy below refused count as neither.
    Source: Site Reliability Engineering, "Handling Overload".
    """

    def __init__(
        self,
        *,
        k: float = 2.0,
        window: float = 10.0,
        min_calls: int = 10,
        max_rejection: float = 0.9,
        on: Errors = ...,
        result: Callable[[Any], bool] | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None: ...
    @property
    def config(self) -> ThrottleConfig:
        """The settings."""

    @property
    def name(self) -> str | None:
        """The name in events and errors."""

    @property
    def requests(self) -> int:
        """Calls in the window, refused ones included."""

    @property
    def accepts(self) -> int:
        """Calls in the window that the dependency answered."""

    @property
    def rejection_probability(self) -> float:
        """The chance of the next call to be refused, 0 to `max_rejection`."""

    @property
    def rejected(self) -> int:
        """How many calls were refused since the throttle was made or reset."""

    def reset(self) -> None:
        """Forget all that was counted."""

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

@overload
def throttle(fn: Callable[_P, _T], /) -> Callable[_P, _T]:
    """Return a `Throttle`, to decorate with or as a block; given a function, decorate it with one of its own."""

@overload
def throttle(
    fn: None = None,
    /,
    *,
    k: float = 2.0,
    window: float = 10.0,
    min_calls: int = 10,
    max_rejection: float = 0.9,
    on: Errors = ...,
    result: Callable[[Any], bool] | None = None,
    name: str | None = None,
    clock: Clock | None = None,
    random: Random | None = None,
) -> Throttle: ...
