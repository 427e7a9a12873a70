"""Which calls were answered by a fallback: what a cache must not keep.

A watch is begun around a call and ended after it. Whatever runs in between, in its task, in tasks and threads that
inherit its context, marks the innermost watch; one that ends passes its mark on to the watch around it.
"""

from __future__ import annotations

from contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextvars import Token


class Watch:
    """One call that somebody watches: whether anything in it was degraded so far."""

    __slots__ = ("degraded", "outer", "token")

    token: Token[Watch | None]

    def __init__(self, outer: Watch | None) -> None:
        self.outer = outer
        self.degraded = False


_watch: ContextVar[Watch | None] = ContextVar("holdfast_degraded", default=None)


def begin() -> Watch:
    """Watch the call that follows; `end` must be called, whatever happens."""
    watch = Watch(_watch.get())
    watch.token = _watch.set(watch)
    return watch


def end(watch: Watch) -> bool:
    """End a watch and return whether anything since its beginning was degraded."""
    try:
        _watch.reset(watch.token)
    except ValueError:
        pass  # another context, such as the one in which an abandoned coroutine is closed
    if watch.degraded and watch.outer is not None:
        watch.outer.degraded = True
    return watch.degraded


def mark() -> None:
    """Note that the answer of the running call is degraded; without a watch around it, nothing happens."""
    watch = _watch.get()
    if watch is not None:
        watch.degraded = True
