"""Chance as a parameter: the random source of every jitter, and how to replace it."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from random import Random
    from types import TracebackType


class _Common:
    __slots__ = ("own", "source")

    def __init__(self) -> None:
        self.own: Random | None = None
        self.source: Random | None = None

    def make(self) -> Random:
        """Make this process's own source; a second thread that gets here at the same time is welcome."""
        from random import Random  # 1 ms that only a jitter needs

        own = self.own = self.own or Random()
        return own

    def reseed(self) -> None:
        """Part from the parent process; a source that somebody chose goes on as it was."""
        if self.own is not None:
            self.own.seed()


_common = _Common()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_common.reseed)


def current_random() -> Random:
    """Return the random source that policies without one of their own draw from; reseeded after a fork."""
    return _common.source or _common.own or _common.make()


class use_random:
    """Make `source` (a `Random` or a seed) the common random source for a `with` block; process-wide."""

    __slots__ = ("_outer", "_source")

    def __init__(self, source: Random | int) -> None:
        from random import Random

        self._source = Random(source) if isinstance(source, int) else source
        self._outer: list[Random | None] = []

    def __enter__(self) -> Random:
        """Replace the common source."""
        self._outer.append(_common.source)
        _common.source = self._source
        return self._source

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the source back that was there before."""
        _common.source = self._outer.pop()
