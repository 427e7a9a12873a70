"""What operations did between two looks at their meters, in arrays of whole numbers that add up."""

from __future__ import annotations

import weakref
from array import array
from bisect import bisect_left
from itertools import accumulate, zip_longest
from math import inf
from operator import sub
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from holdfast.infrastructure.resilience.meter import Meter, MeterSnapshot

# Upper bounds in seconds of the buckets that durations are counted in.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
OTHER = "other"

# Successes, failures, rejected, cancelled, degraded, timeouts; a count for each bucket; retries by ordinal, as many
# as there were.
Figures: TypeAlias = "array[int]"
_BUCKETS = 6
_RETRIES = _BUCKETS + len(BOUNDS) + 1


def nothing() -> Figures:
    """Return the figures of no calls."""
    return array("Q", bytes(8 * _RETRIES))


def total(several: Iterable[Figures]) -> Figures:
    """Return the sum of figures."""
    return array("Q", map(sum, zip_longest(nothing(), *several, fillvalue=0)))


def _of(snapshot: MeterSnapshot) -> Figures:
    found = nothing()
    found[:_BUCKETS] = array(
        "Q",
        (
            snapshot.successes,
            snapshot.failures,
            snapshot.rejected,
            snapshot.cancelled,
            snapshot.degraded,
            snapshot.timeouts,
        ),
    )
    found[_BUCKETS:_RETRIES] = array("Q", _buckets(snapshot.durations))
    most = max(snapshot.retries, default=0)
    found.extend(snapshot.retries.get(ordinal, 0) for ordinal in range(1, most + 1))
    return found


def _buckets(durations: Mapping[float, int]) -> Iterable[int]:
    """Return how many calls lie between `BOUNDS`; nothing while they are not measured so."""
    try:
        below = [durations[bound] for bound in (*BOUNDS, inf)]
    except KeyError:
        return [0] * (len(BOUNDS) + 1)
    return map(sub, below, [0, *below])


def _since(now: Figures, before: Figures) -> Figures:
    """Return what came between; all of `now` if anything went back, because then the meter has begun anew."""
    if len(before) > len(now) or any(new < old for new, old in zip(now, before, strict=False)):
        return now
    found = array("Q", map(sub, now, before))
    found.extend(now[len(before) :])
    return found


class Deltas:
    """The meters as they were at the last look, and which operations have figures of their own."""

    def __init__(self, most: int, keep: int) -> None:
        self._most = most
        self._keep = keep
        self._before: dict[str, tuple[weakref.ref[object], Figures]] = {}
        self._seen: dict[str, int] = {}
        self._looks = 0

    def look(self, meters: Mapping[str, Meter]) -> dict[str, Figures]:
        """Return what each operation that did anything did since the last look; the first look begins."""
        now = {name: (weakref.ref(meter._counts), _of(meter.snapshot())) for name, meter in meters.items()}
        found = {} if not self._looks else {name: self._changed(name, *facts) for name, facts in now.items()}
        self._before = now
        self._looks += 1
        return self._bounded({name: figures for name, figures in found.items() if any(figures)})

    def _changed(self, name: str, counts: weakref.ref[object], now: Figures) -> Figures:
        known, before = self._before.get(name, (None, now))
        return _since(now, before) if known == counts else now

    def _bounded(self, found: dict[str, Figures]) -> dict[str, Figures]:
        """Give a name of its own to whoever has one, or finds a place; the rest is `other`."""
        self._seen = {name: at for name, at in self._seen.items() if at > self._looks - self._keep}
        named: dict[str, Figures] = {}
        rest: list[Figures] = []
        for name, figures in found.items():
            if name in self._seen or len(self._seen) < self._most:
                self._seen[name] = self._looks
                named[name] = figures
            else:
                rest.append(figures)
        if rest:
            named[OTHER] = total([*rest, named.get(OTHER, nothing())])
        return named

    def names(self) -> set[str]:
        """Return the operations that have figures of their own, and as many idle ones as there is room for."""
        idle = [name for name in self._before if name not in self._seen]
        return {*self._seen, *idle[: self._most - len(self._seen)]}


class Rates:
    """What figures mean: calls that ended, shares of them from 0 to 1, and percentiles in seconds."""

    __slots__ = (
        "_below",
        "_figures",
        "calls",
        "cancelled",
        "degraded_calls",
        "failures",
        "rejected",
        "retries",
        "settled",
        "successes",
    )

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._below: list[int] | None = None
        self.successes, self.failures, self.rejected, self.cancelled, self.degraded_calls = figures[:5]
        self.settled = self.successes + self.failures + self.rejected
        self.calls = self.settled + self.cancelled
        self.retries = {at: count for at, count in enumerate(figures[_RETRIES:], 1) if count}

    def success(self) -> float | None:
        """Return the share of successes in all calls but cancelled ones."""
        return share(self.successes, self.settled)

    def failure(self) -> float | None:
        """Return the share of failures in all calls but cancelled ones."""
        return share(self.failures, self.settled)

    def rejection(self) -> float | None:
        """Return the share of rejected calls in all but cancelled ones."""
        return share(self.rejected, self.settled)

    def degraded(self) -> float | None:
        """Return the share of calls that a fallback answered in all but cancelled ones."""
        return share(self.degraded_calls, self.settled)

    def timeout(self) -> float | None:
        """Return the share of calls that failed by a timeout in all but cancelled ones."""
        return share(self._figures[5], self.settled)

    def retry(self) -> float | None:
        """Return the share of retries in all attempts."""
        made = sum(self.retries.values())
        return share(made, self.calls + made)

    def percentile(self, q: float) -> float | None:
        """Return the quantile `q` of the durations: interpolated in its bucket, at most the last bound."""
        below = self._below
        if below is None:
            below = self._below = list(accumulate(self._figures[_BUCKETS:_RETRIES]))
        if not below[-1]:
            return None
        rank = q * below[-1]
        at = bisect_left(below, max(rank, 1e-9))
        if at == len(BOUNDS):
            return BOUNDS[-1]
        low, under = (BOUNDS[at - 1], below[at - 1]) if at else (0.0, 0)
        return low + (BOUNDS[at] - low) * (rank - under) / (below[at] - under)


def share(part: int, whole: int) -> float | None:
    """Return `part` of `whole` as 0 to 1; None of nothing. Parts are counted a moment later than the whole."""
    return min(1.0, part / whole) if whole else None
