"""What a worker of a fleet does besides or instead of claiming whatever there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds after which what was taken and has not begun is somebody else's again, so that long calls hold up nothing.
TURN = 1.0


class Errand:
    """Take `left` steps at most, within a turn, then end when their calls have; with none, only look after things.

    `more` is told when there may be work for others, and in how many seconds.
    """

    __slots__ = ("_full", "left", "more", "over")

    def __init__(self, left: int, more: Callable[[float], None]) -> None:
        self.left = left
        self.more = more
        self.over = False
        self._full = False

    def claimed(self, count: int, wanted: int) -> None:
        """Note what a claim gave; where that is all that was wanted there may be more, and others are told once."""
        self.left -= count
        full, self._full = count >= wanted, self._full
        if full and not self._full:
            self.more(0.0)
        self._full = full
