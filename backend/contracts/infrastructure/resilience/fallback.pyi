"""Fallback: answer with something else when a call fails."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

from holdfast.infrastructure.resilience.classify import Errors
from holdfast.infrastructure.resilience.policy import Policy

class FallbackConfig:
    """The settings of a `Fallback`, validated: frozen, keyword-only, comparable."""

    value: Any
    call: Callable[..., Any] | None
    pass_args: bool
    on: Errors | None
    result: Callable[[Any], bool] | None
    name: str | None
    def __init__(
        self,
        *,
        value: Any = ...,
        call: Callable[..., Any] | None = None,
        pass_args: bool = False,
        on: Errors | None = None,
        result: Callable[[Any], bool] | None = None,
        name: str | None = None,
    ) -> None: ...

class Fallback(Policy):
    """Answer with `value`, or with what `call` returns, when a call fails with what `on` covers; put it outermost.

    `call` gets the error (None: `result` refused the result), with `pass_args` the call's arguments after it; for async
    functions it may be async. `on`: by default every Exception but programming errors. A list, dict, set or bytearray
    is copied for every answer. A fallback that fails raises its own error, caused by the original one.
    """

    def __init__(
        self,
        value: Any = ...,
        /,
        *,
        call: Callable[..., Any] | None = None,
        pass_args: bool = False,
        on: Errors | None = None,
        result: Callable[[Any], bool] | None = None,
        name: str | None = None,
    ) -> None: ...
    @property
    def config(self) -> FallbackConfig:
        """The settings."""

    @property
    def name(self) -> str | None:
        """The name in events; a decorated function's own name stands in when there is none."""

def fallback(
    value: Any = ...,
    /,
    *,
    call: Callable[..., Any] | None = None,
    pass_args: bool = False,
    on: Errors | None = None,
    result: Callable[[Any], bool] | None = None,
    name: str | None = None,
) -> Fallback:
    """Return a `Fallback`, to decorate with."""

class watch_degraded:
    """Notice, for a `with` block, whether a fallback answered any call made in it: `degraded`, also after the block.

    Tasks and threads that inherit the block's context count. One instance serves one block at a time.
    """

    def __init__(self) -> None: ...
    @property
    def degraded(self) -> bool:
        """Whether a fallback has answered so far."""

    def __enter__(self) -> watch_degraded: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
