"""What a circuit breaker looks back on."""

from __future__ import annotations

from holdfast.infrastructure.resilience._frozen import Faults, Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, Self

_MAX_CALLS = 100_000


class Window(Frozen):
    """An immutable choice of window; make one with `seconds`, `calls` or `consecutive`."""

    __slots__ = ("_buckets", "_kind", "_size")

    _kind: Literal["seconds", "calls", "consecutive"]
    _size: float
    _buckets: int

    @property
    def kind(self) -> Literal["seconds", "calls", "consecutive"]:
        """Which of the three."""
        return self._kind

    @property
    def size(self) -> float:
        """Seconds, number of calls, or number of failures in a row."""
        return self._size

    @property
    def buckets(self) -> int:
        """Into how many buckets a time window is divided; 1 for the others."""
        return self._buckets

    @classmethod
    def seconds(cls, seconds: float, buckets: int = 10) -> Window:
        """Look at the calls that ended in the last `seconds`, to the width of a bucket."""
        faults = Faults("Window.seconds")
        faults.number("seconds", seconds, 0.01, 86_400)
        faults.number("buckets", buckets, 1, 1000, whole=True)
        faults.finish()
        return cls._make("seconds", float(seconds), buckets)

    @classmethod
    def calls(cls, calls: int) -> Window:
        """Look at the last `calls` calls."""
        faults = Faults("Window.calls")
        faults.number("calls", calls, 1, _MAX_CALLS, whole=True)
        faults.finish()
        return cls._make("calls", calls, 1)

    @classmethod
    def consecutive(cls, failures: int) -> Window:
        """Trip at `failures` failures in a row; rates and `min_calls` do not matter."""
        faults = Faults("Window.consecutive")
        faults.number("failures", failures, 1, _MAX_CALLS, whole=True)
        faults.finish()
        return cls._make("consecutive", failures, 1)

    @classmethod
    def _make(cls, kind: str, size: float, buckets: int) -> Self:
        made = cls.__new__(cls)
        made._set(_kind=kind, _size=size, _buckets=buckets)
        return made

    def __repr__(self) -> str:
        """Show how to make it."""
        more = f", buckets={self._buckets}" if self._buckets not in {1, 10} else ""
        return f"Window.{self._kind}({self._size:g}{more})"


class WindowCounts(Frozen):
    """What a window holds at one moment; an immutable copy."""

    __slots__ = ("calls", "failures", "slow")

    calls: int
    failures: int
    slow: int

    def __init__(self, calls: int, failures: int, slow: int) -> None:
        self._set(calls=calls, failures=failures, slow=slow)

    @property
    def failure_rate(self) -> float:
        """Share of failures, 0 to 1; 0 without calls."""
        return self.failures / self.calls if self.calls else 0.0

    @property
    def slow_rate(self) -> float:
        """Share of slow calls, 0 to 1; 0 without calls."""
        return self.slow / self.calls if self.calls else 0.0
