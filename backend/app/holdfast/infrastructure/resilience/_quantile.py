"""A quantile of what was seen lately, in memory that does not grow."""

from __future__ import annotations

from array import array
from math import exp, log

# Buckets of equal ratio (19 %) from 0.1 ms to 100 s; what lies outside counts as the nearest.
_LOW = 1e-4
_BUCKETS = 78
_SCALE = _BUCKETS / log(1e6)
_LAST = _BUCKETS - 1
_MOST = 512
_EVERY = 31


class Estimate:
    """The `q` quantile of the last few hundred values, seconds; None until `samples` of them are known.

    A histogram with logarithmic buckets (as in DDSketch, Masson et al. 2019), whose counts are halved whenever
    there are 512: an old value weighs half as much as one 256 values later. P² (Jain & Chlamtac 1985) is smaller,
    but weighs all values since the start alike, so that after a day it no longer follows; and where one asks only
    whether a value lies above, as for a call that was cut short, it would take the value for exact.
    """

    # Without a lock: a count that two threads lose to each other matters to nobody.
    __slots__ = ("counts", "q", "samples", "total", "value")

    def __init__(self, q: float, samples: int) -> None:
        self.q = q
        self.samples = samples
        self.counts = array("H", bytes(2 * _BUCKETS))
        self.total = 0
        self.value: float | None = None

    def add(self, seconds: float) -> None:
        """Count one value."""
        at = int(_SCALE * log(seconds / _LOW)) if seconds > _LOW else 0
        try:
            self.counts[at] += 1
        except IndexError:
            self.counts[_LAST] += 1
        total = self.total = self.total + 1
        if not total & _EVERY or self.value is None:
            self._look(total)

    def _look(self, total: int) -> None:
        if total >= _MOST:
            self.halve()
        if self.value is not None or total >= self.samples:
            self.value = self._find()

    def halve(self) -> None:
        """Let what was counted so far weigh half."""
        # What a count leaves over goes on to the next: no cumulative count is off by more than a half.
        counts, rest, total = self.counts, 0, 0
        for at, count in enumerate(counts):
            half, rest = divmod(count + rest, 2)
            counts[at] = half
            total += half
        self.total = total

    def _find(self) -> float | None:
        rank, below = self.q * self.total, 0
        for at, count in enumerate(self.counts):
            if count and below + count >= rank:
                return _LOW * exp((at + (rank - below) / count) / _SCALE)
            below += count
        return self.value
