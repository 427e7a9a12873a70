"""A quantile of what was seen lately, in memory that does not grow."""

from __future__ import annotations

from bisect import bisect
from math import exp, log

# Buckets of equal ratio (19 %) from 1 ms, which event loops wait at least, to 100 s; what lies outside counts as the
# nearest.
_LOW = 1e-3
_BUCKETS = 65
_SCALE = _BUCKETS / log(1e5)
_LAST = _BUCKETS - 1
# Where each ends and the next begins. A search among them takes half as long as a logarithm.
_ENDS = tuple(_LOW * exp(at / _SCALE) for at in range(1, _BUCKETS))
# Their middles, which are what is told: of few different delays each is a queue of timers that calls share.
_MIDDLES = tuple(_LOW * exp((at + 0.5) / _SCALE) for at in range(_BUCKETS))
_MOST = 512
_EVERY = 32


class Estimate:
    """The `q` quantile of the last few hundred values, seconds; None until `samples` of them are known.

    A histogram with logarithmic buckets (as in DDSketch, Masson et al. 2019), whose counts are halved whenever there
    are 512, or 256 in one bucket: a value weighs half as much as one a few hundred later. P² (Jain & Chlamtac 1985) is
    smaller, but weighs all values since the start alike, so that after a day it no longer follows; and where one asks
    only whether a value lies above, as for a call that was cut short, it would take the value for exact.
    """

    # Without a lock: a count that two threads lose to each other matters to nobody.
    __slots__ = ("at", "counts", "left", "q", "value")

    def __init__(self, q: float, samples: int) -> None:
        self.q = q
        self.counts = bytearray(_BUCKETS)
        self.left = samples
        self.at = 0
        self.value: float | None = None

    def add(self, seconds: float) -> None:
        """Count one value."""
        at = 0 if seconds < _LOW else bisect(_ENDS, seconds)
        try:
            self.counts[at] += 1
        except ValueError:
            self.halve()
            self.counts[at] += 1
        left = self.left = self.left - 1
        if left <= 0:
            self._look()

    def _look(self) -> None:
        self.left = _EVERY
        counts, at = self.counts[:], self.at
        below = sum(counts[:at])
        total = below + sum(counts[at:])
        at = self.at = _moved(counts, at, below, self.q * total)
        self.value = _MIDDLES[at]
        if total >= _MOST:
            self.halve()

    def halve(self) -> None:
        """Let what was counted so far weigh half."""
        # What a count leaves over goes on to the next: no cumulative count is off by more than a half.
        counts, rest = self.counts, 0
        for at, count in enumerate(counts):
            if count:
                counts[at], rest = divmod(count + rest, 2)


def _moved(counts: bytearray, at: int, below: int, rank: float) -> int:
    """Return the bucket of a rank, sought from `at`, with `below` values before it: most often it is still that one."""
    while at and below >= rank:
        at -= 1
        below -= counts[at]
    while below + counts[at] < rank:
        below += counts[at]
        at += 1
    return at
