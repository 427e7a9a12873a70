"""What a worker of a fleet does besides or instead of claiming whatever there is."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds after which what was taken and has not begun is somebody else's again, so that long calls hold up nothing.
TURN = 1.0
# A claim takes one of so many shares of what is pending: all lanes get some, and they end together.
_SHARES = 16


def share(pending: int) -> int:
    """Return how many of so many pending steps one claim takes."""
    return max(1, ceil(pending / _SHARES))


class Errand:
    """Take `left` steps at most, within a turn, then end when their calls have; with none, only look after things.

    `more` is told when there may be work for others, and in how many seconds; `spread`, while this one works, the same:
    it returns whether others were told, else they still are to be: `owes`.
    """

    __slots__ = ("_full", "_more", "_spread", "left", "over", "owes")

    def __init__(
        self, left: int, more: Callable[[float], None], spread: Callable[[], bool] | None = None
    ) -> None:
        self.left = left
        self._more = more
        self._spread = spread
        self.over = False
        self.owes = False
        self._full = False

    def claimed(self, count: int, wanted: int) -> None:
        """Note what a claim gave; where that is all that was wanted there may be more, and others are told once."""
        self.left -= count
        full = count >= wanted
        if full and not self._full:
            self.owes = self._spread is None or not self._spread()
        self._full = full

    def more(self, seconds: float) -> None:
        """Tell others that there is work for them, in so many seconds."""
        self.owes = False
        self._more(seconds)
