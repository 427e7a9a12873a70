"""What a circuit breaker looks back on."""

from typing import Literal

class Window:
    """An immutable choice of window; make one with `seconds`, `calls` or `consecutive`."""

    @property
    def kind(self) -> Literal["seconds", "calls", "consecutive"]:
        """Which of the three."""

    @property
    def size(self) -> float:
        """Seconds, number of calls, or number of failures in a row."""

    @property
    def buckets(self) -> int:
        """Into how many buckets a time window is divided; 1 for the others."""

    @classmethod
    def seconds(cls, seconds: float, buckets: int = 10) -> Window:
        """Look at the calls that ended in the last `seconds`, to the width of a bucket."""

    @classmethod
    def calls(cls, calls: int) -> Window:
        """Look at the last `calls` calls."""

    @classmethod
    def consecutive(cls, failures: int) -> Window:
        """Trip at `failures` failures in a row; rates and `min_calls` do not matter."""

    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

class WindowCounts:
    """What a window holds at one moment; an immutable copy."""

    calls: int
    failures: int
    slow: int
    def __init__(self, calls: int, failures: int, slow: int) -> None: ...
    @property
    def failure_rate(self) -> float:
        """Share of failures, 0 to 1; 0 without calls."""

    @property
    def slow_rate(self) -> float:
        """Share of slow calls, 0 to 1; 0 without calls."""

    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...
