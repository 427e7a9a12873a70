"""Chance as a parameter: the random source of every jitter, and how to replace it."""

from random import Random
from types import TracebackType

def current_random() -> Random:
    """Return the random source that policies without one of their own draw from; reseeded after a fork."""

class use_random:
    """Make `source` (a `Random` or a seed) the common random source for a `with` block; process-wide."""

    def __init__(self, source: Random | int) -> None: ...
    def __enter__(self) -> Random: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
