"""Which calls were answered by a fallback: what a cache must not keep.

A watch is begun around a call and ended after it. Whatever runs in between, in its task, in tasks and threads that
inherit its context, marks the innermost watch; one that ends passes its mark on to the watch around it. A retry
between a watch and what marked it takes the mark back when it tries again.
"""

from __future__ import annotations

from contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextvars import Token

    from holdfast.infrastructure.resilience._compile import Stack


class Watch:
    """One call that somebody watches: whether anything in it was degraded so far.

    A cache watches what lies below `depth` of its `stack`, and nothing else.
    """

    __slots__ = ("degraded", "depth", "outer", "stack", "token")

    token: Token[Watch | None]

    def __init__(self, outer: Watch | None, stack: Stack | None, depth: int) -> None:
        self.outer = outer
        self.stack = stack
        self.depth = depth
        self.degraded = False


_watch: ContextVar[Watch | None] = ContextVar("holdfast_degraded", default=None)


def begin(stack: Stack | None = None, depth: int = 0) -> Watch:
    """Watch the call that follows; `end` must be called, whatever happens."""
    watch = Watch(_watch.get(), stack, depth)
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


def keep() -> None:
    """Let no retry of the stack that is watched take marks back: a call of it that nobody watches follows."""
    watch = _watch.get()
    if watch is not None:
        watch.stack = None


def forget(stack: Stack) -> None:
    """Take back what was marked while a retry of `stack` made the attempt that did not do, if the whole call is its."""
    watch = _watch.get()
    if watch is not None and watch.degraded and watch.stack is not None and watch.stack.root is stack.root:
        whole = stack.root.parts
        at = len(whole) - len(watch.stack.parts) + watch.depth
        above, below = ([part._shape()[0] for part in parts] for parts in (whole[:at], whole[at:]))
        # Within a call of its own a retry above has no say; a hedge below makes attempts at the same time.
        if "retry" not in above and "hedge" not in below:
            watch.degraded = False
