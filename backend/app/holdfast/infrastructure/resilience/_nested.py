"""Retries inside retries: in named pipelines the outermost one retries, and the others leave it to that one.

An outer retry is looked for only when a call has failed: up the call stack, where generated functions of named
pipelines are known by their file's name, and in the context, which reaches into tasks, threads and requests.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar

from holdfast.infrastructure.resilience._bus import bus, emit
from holdfast.infrastructure.resilience._compile import FILE_PREFIX, NAMED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from holdfast.infrastructure.resilience._compile import Stack

_RETRYING = FILE_PREFIX + "retry"
_MAX_TOLD = 1000


class Mark:
    """Says that somebody tries again what happens here, `by` whom, until that is `over`: tasks may outlive it."""

    __slots__ = ("by", "over")

    def __init__(self, by: object) -> None:
        self.by = by
        self.over = False


retried_by: ContextVar[Mark | None] = ContextVar("holdfast_retried_by", default=None)


def _by() -> object:
    mark = retried_by.get()
    return None if mark is None or mark.over else mark.by


_told: set[str] = set()


def outermost(stack: Stack, *, named: bool) -> bool:
    """Return whether no other stack's retry is around the one that asks; `named`: only named pipelines count."""
    if named and _by() not in {None, stack.root}:
        return False
    own = 1 + stack.levels
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_RETRYING):
            own -= 1
            if own < 0 and (not named or file.endswith(NAMED)):
                return False
        frame = frame.f_back
    return True


def is_retried(*, own: int = 0) -> bool:
    """Return whether a retry of a named pipeline is around the caller, besides `own` ones that do not count."""
    if _by() is not None:
        return True
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_RETRYING) and file.endswith(NAMED):
            own -= 1
            if own < 0:
                return True
        frame = frame.f_back
    return False


def tell(stack: Stack, name: str, attempts: int) -> None:
    """Report, once for each function, that its attempts were multiplied by those of a retry around it."""
    if name in _told or len(_told) >= _MAX_TOLD or outermost(stack, named=False):
        return
    _told.add(name)
    if bus.entries:
        emit("RetriesNested", name, attempts=attempts)
    import logging  # only where retries are nested

    logging.getLogger("holdfast").warning(
        "%s made %d attempts within one attempt of a retry around it: keep the outermost, "
        "or put both into named pipelines",
        name,
        attempts,
    )
