"""What the meters of one name have counted, and what counts durations.

Generated code adds to `started` and `successes` without a lock where it may: CPython switches threads and handles
signals only at calls and jumps back, so `x += 1.0` on one line cannot be torn apart. They are floats, which are made
faster than whole numbers, and exact up to 2**53. All else is counted under a lock.
"""

from __future__ import annotations

import os
import sys
import threading
from bisect import bisect_left
from itertools import accumulate
from math import inf
from weakref import WeakValueDictionary

from holdfast.infrastructure.resilience._ambient import hot
from holdfast.infrastructure.resilience._breaker import _LOCKS, _locks
from holdfast.infrastructure.resilience._bus import callback_failed
from holdfast.infrastructure.resilience._compile import GIL
from holdfast.infrastructure.resilience.errors import CallRejectedError, TimeoutExceeded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Bounds = tuple[float, ...]
    Recorder = Callable[[str, float], object]

PLAIN: bool = GIL and sys.implementation.name == "cpython"
# Retries after this one count as this one; classes of errors after so many count as the rest.
MOST_ORDINALS = 20
MOST_ERRORS = 50
REST = "other"


class Histogram:
    """How many durations fell between two bounds each, and their sum, seconds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, took: float) -> None:
        """Count one duration; a clock that was exchanged may make it negative."""
        took = max(took, 0.0)
        at = bisect_left(self.bounds, took)
        self.counts[at] += 1
        self.sum += took


class Counts:
    """The totals. `histogram` is None while nobody asks for durations; `past` has those of other bounds."""

    __slots__ = (
        "__weakref__",
        "cancelled",
        "degraded",
        "errors",
        "failures",
        "histogram",
        "name",
        "past",
        "place",
        "rejected",
        "retries",
        "started",
        "successes",
        "timeouts",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        # Which lock guards the counts; it is shared with other policies and held for microseconds.
        self.place = id(self) // 64 % _LOCKS
        self.histogram: Histogram | None = None
        self.started = 0.0
        self._zero()

    def _zero(self) -> None:
        self.successes = 0.0
        self.failures = self.rejected = self.cancelled = self.timeouts = self.degraded = 0
        self.errors: dict[str, int] = {}
        self.retries: dict[int, int] = {}
        self.past: dict[Bounds, Histogram] = {}

    def reset(self, *, running: bool = True) -> None:
        """Forget everything but, unless not `running`, the calls that have not ended."""
        with _locks[self.place]:
            # Two lines without a call: nothing comes between them.
            self.started -= self.successes + self.failures + self.rejected + self.cancelled
            self._zero()
            if not running:
                self.started = 0.0
            self.measure(asked.union)

    def measure(self, bounds: Bounds) -> None:
        """Count durations between these bounds from now on; without any, not at all."""
        self.histogram = self.past.setdefault(bounds, Histogram(bounds)) if bounds else None

    def fail(self, error: BaseException, took: float | None) -> None:
        """Count a call that raised."""
        failed: float | None = None
        with _locks[self.place]:
            if not isinstance(error, Exception):
                self.cancelled += 1
            elif isinstance(error, CallRejectedError):
                self.rejected += 1
            else:
                self._fail(error)
                # Read once: what the garbage collector runs may end the measuring, on this thread.
                histogram = self.histogram
                if took is not None and histogram is not None:
                    histogram.add(took)
                    failed = took
        if failed is not None:
            asked.record(self.name, failed)

    def _fail(self, error: Exception) -> None:
        name, errors = type(error).__name__, self.errors
        if name not in errors and len(errors) >= MOST_ERRORS:
            name = REST
        errors[name] = errors.get(name, 0) + 1
        self.timeouts += isinstance(error, TimeoutExceeded)
        self.failures += 1

    def retry(self, ordinal: int) -> None:
        """Count a retry that begins, 1 for the first one of its call."""
        with _locks[self.place]:
            ordinal = min(ordinal, MOST_ORDINALS)
            self.retries[ordinal] = self.retries.get(ordinal, 0) + 1

    def degrade(self) -> None:
        """Count a call that a fallback answered."""
        with _locks[self.place]:
            self.degraded += 1

    def time(self, took: float) -> None:
        """Count the duration of a call that succeeded."""
        histogram = self.histogram
        if histogram is None:
            return
        if PLAIN:
            histogram.add(took)
        else:
            with _locks[self.place]:
                histogram.add(took)
        if asked.recorders:
            asked.record(self.name, took)

    def totals(self) -> dict[str, Any]:
        """Return the fields of a snapshot."""
        with _locks[self.place]:
            # One line without a call: who runs and who ended are counted at the same moment.
            both = self.started, self.successes
            started, successes = map(int, both)
            degraded = min(self.degraded, successes)
            facts: dict[str, Any] = {
                "name": self.name,
                "successes": successes,
                "failures": self.failures,
                "rejected": self.rejected,
                "cancelled": self.cancelled,
                "timeouts": self.timeouts,
                "retries": dict(sorted(self.retries.items())),
                "errors": dict(self.errors),
                "seconds": 0.0,
                "durations": {},
            }
            histogram = self.histogram
            if histogram is not None:
                facts["durations"], facts["seconds"] = self._durations(histogram.bounds)
        calls = successes + facts["failures"] + facts["rejected"] + facts["cancelled"]
        facts.update(calls=calls, running=max(0, started - calls), degraded=degraded)
        facts["attempts"] = calls + sum(facts["retries"].values())
        return facts

    def _durations(self, bounds: Bounds) -> tuple[dict[float, int], float]:
        counts, seconds = [0] * (len(bounds) + 1), 0.0
        for histogram in self.past.values():
            seconds += histogram.sum
            for upper, count in zip((*histogram.bounds, inf), histogram.counts.copy(), strict=True):
                counts[bisect_left(bounds, upper)] += count
        return dict(zip((*bounds, inf), accumulate(counts), strict=True)), seconds


class _Asked:
    """The bounds that somebody asks durations for, and who wants to be told each of them."""

    __slots__ = ("each", "lock", "recorders", "union")

    def __init__(self) -> None:
        self.each: list[Bounds] = []
        self.recorders: tuple[Recorder, ...] = ()
        self.union: Bounds = ()
        self.renew()

    def renew(self) -> None:
        """Make a new lock: in the child of a fork nobody is left to release the old one."""
        # Reentrant: the garbage collector may run code that asks for a meter while it is held.
        self.lock = threading.RLock()

    def add(self, bounds: Bounds) -> None:
        """Let all count durations between these bounds, too."""
        with self.lock:
            self.each.append(bounds)
            self._tell()

    def remove(self, bounds: Bounds) -> None:
        """No longer count for one who asked for these."""
        with self.lock:
            self.each.remove(bounds)
            self._tell()

    def tell(self, recorder: Recorder) -> None:
        """Let somebody be told each duration, as far as durations are measured."""
        with self.lock:
            self.recorders = (*self.recorders, recorder)

    def leave(self, recorder: Recorder) -> None:
        """Tell somebody no longer."""
        with self.lock:
            self.recorders = tuple(one for one in self.recorders if one is not recorder)

    def record(self, name: str, took: float) -> None:
        """Tell those who want to know."""
        for recorder in self.recorders:
            try:
                recorder(name, took)
            except Exception as error:  # it must not change the call's outcome
                callback_failed(name, "recorder of durations", error)

    def _tell(self) -> None:
        self.union = tuple(sorted({bound for bounds in self.each for bound in bounds}))
        for counts in living().values():
            with _locks[counts.place]:
                counts.measure(self.union)


asked = _Asked()
_living: WeakValueDictionary[str, Counts] = WeakValueDictionary()


def counts_of(name: str) -> Counts:
    """Return the counts of a name, made if there are none."""
    with asked.lock:
        found = _living.get(name)
        if found is None:
            found = _living[name] = Counts(name)
            found.measure(asked.union)
        return found


def living() -> dict[str, Counts]:
    """Return the counts that somebody still adds to, by name."""
    with asked.lock:
        return dict(sorted(_living.items()))


def _part() -> None:
    """Begin anew in the child of a fork: what runs in other threads does not run here."""
    asked.renew()
    for counts in living().values():
        counts.reset(running=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_part)


# What generated code calls.


def _begin(counts: Counts) -> None:
    with _locks[counts.place]:
        counts.started += 1.0


def _succeed(counts: Counts) -> None:
    with _locks[counts.place]:
        counts.successes += 1.0


hot.update(
    _meter_begin=_begin,
    _meter_failed=Counts.fail,
    _meter_succeed=_succeed,
    _meter_timed=Counts.time,
)
