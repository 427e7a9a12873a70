"""Listening without being kept alive by what one listens to."""

from __future__ import annotations

import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Weakly:
    """A bound method that does not keep its object alive; once that is gone, a call does nothing."""

    __slots__ = ("_method",)

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = weakref.WeakMethod(method)

    def __call__(self, *args: Any) -> None:
        """Call the method, if its object is still there."""
        method = self._method()
        if method is not None:
            method(*args)

    def __repr__(self) -> str:
        """Show the method."""
        return repr(self._method())


def when_gone(owner: object, *ends: Callable[[], object]) -> None:
    """Call `ends`, which must not refer to `owner`, when nobody refers to it any more; not at the process's end."""
    for end in ends:
        weakref.finalize(owner, end).atexit = False
