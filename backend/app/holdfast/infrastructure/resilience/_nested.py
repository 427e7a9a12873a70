"""Retries inside retries: in named pipelines the outermost one retries, and the others leave it to that one.

An outer retry is looked for only when a call has failed: up the call stack, where generated functions of named
pipelines are known by their file's name, from there on up the stack of whoever waits for a task or thread of ours,
and in the context, which reaches into tasks, threads and requests.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar

from holdfast.infrastructure.resilience._bus import bus, emit
from holdfast.infrastructure.resilience._compile import FILE_PREFIX, NAMED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable, Iterable, Iterator
    from types import CodeType, FrameType
    from typing import Any

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


# By the file of a function that a task or thread of ours begins with: its code, and who gives the frames of those
# that wait for the end of the call in such a frame. Not by the code, whose hash takes long.
waited_for: dict[str, tuple[CodeType, Callable[[FrameType], Iterable[FrameType | None]]]] = {}


def outermost(stack: Stack) -> bool:
    """Return whether no other named pipeline's retry is around the one that asks, whose pipeline has a name."""
    return _by() in {None, stack.root} and _retries(sys._getframe(1), 2) < 2  # noqa: PLR2004  # its own is one


def is_retried(*, own: int = 0) -> bool:
    """Return whether a retry of a named pipeline is around the caller, besides `own` ones that do not count."""
    return _by() is not None or _retries(sys._getframe(1), own + 1) > own


def _retries(frame: FrameType | None, most: int) -> int:
    """Count the calls of named pipelines that retry, up to `most` of them."""
    found = 0
    while frame is not None and found < most:
        file = frame.f_code.co_filename
        if file.startswith(_RETRYING):
            found += file.endswith(NAMED)
        elif file in waited_for:
            code, waiting = waited_for[file]
            if code is frame.f_code:
                found += sum(_retries(one, most) for one in waiting(frame))
        frame = frame.f_back
    return found


def local_of(frame: FrameType, name: str) -> Any:
    """Return a local variable of a frame."""
    found = frame.f_locals
    value = found[name]
    if type(found) is dict:
        # Before Python 3.13 the frame keeps this copy of all its variables, deleted ones included: they would close
        # circles with the error whose traceback has the frame.
        found.clear()
    return value


def frames_of(task: Task[Any] | None) -> Iterator[FrameType]:
    """Yield the frames of a task that waits, as far as its awaitables show them; those of a running one are seen."""
    awaited: Any = None if task is None else task.get_coro()
    while awaited is not None and not getattr(awaited, "cr_running", False):
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            yield frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)


_told: set[str] = set()


def tell(stack: Stack, name: str, attempts: int) -> None:
    """Report, once for each function, that its attempts were multiplied by those of a retry around it."""
    if name in _told or len(_told) >= _MAX_TOLD or not _is_within(stack):
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


def _is_within(stack: Stack) -> bool:
    """Return whether any retry is up the call stack, besides the asking one."""
    own = 1 + stack.levels
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and own >= 0:
        own -= frame.f_code.co_filename.startswith(_RETRYING)
        frame = frame.f_back
    return own < 0
