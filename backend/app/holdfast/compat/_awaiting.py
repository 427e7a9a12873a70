"""Functions in the shape that the engine wants."""

from __future__ import annotations

import functools
from types import MethodType
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience import _compile, _foreign

if TYPE_CHECKING:
    from collections.abc import Callable


def awaiting(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn` if it is async, else an async function that calls it and awaits what has to be."""
    if _compile.is_async_function(fn):
        return fn

    @functools.wraps(fn)
    async def call(*args: Any, **kwargs: Any) -> Any:
        result: Any = fn(*args, **kwargs)
        return await result if _foreign._is_awaitable(result) else result

    return call


def plain(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn`, or a function that calls it where policies take none of its kind: a bound method, a class."""
    if not isinstance(fn, (MethodType, type)):
        return fn
    if _compile.is_async_function(fn):

        @functools.wraps(fn)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            return await fn(*args, **kwargs)

        return acall

    @functools.wraps(fn, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return call
