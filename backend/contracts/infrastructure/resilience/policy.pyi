"""What every policy can do."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

class Policy:
    """A way of making a call hold: decorate with it, or call through it. Immutable, shared by threads and tasks."""

    @property
    def name(self) -> str | None:
        """The name in events and errors, if the policy has one of its own."""

    def __call__(self, fn: Callable[_P, _T], /) -> Callable[_P, _T]:
        """Return `fn` under this policy, with its signature: sync stays sync, async stays async.

        Policies that `fn` already has are compiled into the same function. TypeError for generator functions,
        classes, bound methods and sync functions that return awaitables.
        """

    def call(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call `fn` once under this policy and return what it returns: an awaitable for an async function."""

    def source(self, fn: Callable[..., Any] | None = None) -> str:
        """Return the Python source that decorating `fn` (by default a function of one argument) compiles to."""
