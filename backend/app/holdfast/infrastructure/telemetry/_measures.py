"""What thresholds can watch, and how it is measured in the samples of a monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from holdfast.infrastructure.resilience.events import BudgetExhausted, CallbackFailed, Event, StorageFailed
from holdfast.infrastructure.telemetry._alerts import Reading
from holdfast.infrastructure.telemetry._deltas import Figures, Rates, total
from holdfast.infrastructure.telemetry._levels import MEASURES, worse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from holdfast.infrastructure.telemetry.monitor import Threshold

PROCESS = "process"


class Sample(NamedTuple):
    """What was seen at one moment, and what happened since the moment before."""

    at: float
    time: float
    names: frozenset[str]
    operations: Mapping[str, Figures]
    all: Figures
    levels: Mapping[tuple[str, str], float]
    abandoned: int
    began: float = 0.0
    counts: Mapping[tuple[str, str], int] = {}
    open_seconds: Mapping[str, float] = {}


class Window:
    """Some samples taken together."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = list(samples)
        self.seconds = sum(sample.at - sample.began for sample in self._samples)
        self._rates: dict[str, Rates] = {}
        self._levels: dict[tuple[str, str], float] | None = None

    def names(self) -> set[str]:
        """Return every operation that did something, and those known at the end."""
        known = self._samples[-1].names if self._samples else ()
        return {*known, *(name for sample in self._samples for name in sample.operations)}

    def rates(self, operation: str) -> Rates:
        """Return what an operation did in all samples."""
        if operation not in self._rates:
            mine = [sample.operations.get(operation) for sample in self._samples]
            self._rates[operation] = Rates(total(one for one in mine if one is not None))
        return self._rates[operation]

    def everything(self) -> Rates:
        """Return what all operations did together."""
        return Rates(total(sample.all for sample in self._samples))

    def pace(self, rates: Rates) -> float:
        """Return calls per second; 0 of no time."""
        return rates.calls / self.seconds if self.seconds > 0 else 0.0

    @property
    def last(self) -> Sample:
        """The newest sample."""
        return self._samples[-1]

    def levels(self) -> dict[tuple[str, str], float]:
        """Return the worst level of each limit and budget."""
        if self._levels is None:
            self._levels = {}
            for sample in self._samples:
                for key, level in sample.levels.items():
                    self._levels[key] = worse(key[0], level, self._levels.get(key, level))
        return self._levels

    def all_levels(self, key: tuple[str, str]) -> list[float]:
        """Return the levels of one limit or budget."""
        return [sample.levels[key] for sample in self._samples if key in sample.levels]

    def counts(self, measure: str) -> dict[str, int]:
        """Return how often an event happened, by subject."""
        found: dict[str, int] = {}
        for sample in self._samples:
            for (kind, subject), count in sample.counts.items():
                if kind == measure:
                    found[subject] = found.get(subject, 0) + count
        return found


OPERATION: Mapping[str, Callable[[Window, Rates], float | None]] = {
    "success_rate": lambda _, rates: rates.success(),
    "failure_rate": lambda _, rates: rates.failure(),
    "rejection_rate": lambda _, rates: rates.rejection(),
    "retry_rate": lambda _, rates: rates.retry(),
    "degraded_rate": lambda _, rates: rates.degraded(),
    "timeout_rate": lambda _, rates: rates.timeout(),
    "calls_per_second": lambda window, rates: window.pace(rates),
    "p50": lambda _, rates: rates.percentile(0.5),
    "p95": lambda _, rates: rates.percentile(0.95),
    "p99": lambda _, rates: rates.percentile(0.99),
}
COUNTED: Mapping[str, type[Event]] = {
    "budget_refusals": BudgetExhausted,
    "callback_failures": CallbackFailed,
    "storage_failures": StorageFailed,
}


def counted(event: Event) -> tuple[str, str]:
    """Return the measure that counts an event, and its subject."""
    measure = next(measure for measure, kind in COUNTED.items() if isinstance(event, kind))
    return measure, event.budget if isinstance(event, BudgetExhausted) else event.name


def readings(thresholds: Iterable[Threshold], samples: Iterable[Sample], now: Sample) -> Iterator[Reading]:
    """Yield what each threshold watches, for each of its subjects; `now` is the last of `samples`."""
    kept = list(samples)
    windows: dict[float, Window] = {}
    for threshold in thresholds:
        window = windows.get(threshold.over)
        if window is None:
            window = windows[threshold.over] = Window(within(kept, now.at - threshold.over))
        for subject, measured, calls in _measured(threshold.measure, window, now):
            yield Reading(threshold, subject, measured, calls)


def within(samples: Iterable[Sample], since: float) -> Iterator[Sample]:
    """Yield the samples that were taken after `since`."""
    return (sample for sample in samples if sample.at > since)


def _measured(measure: str, window: Window, now: Sample) -> Iterator[tuple[str, float | None, int]]:
    of_operation = OPERATION.get(measure)
    if of_operation is not None:
        for name in window.names():
            rates = window.rates(name)
            yield name, of_operation(window, rates), rates.settled
    elif measure in COUNTED:
        yield from ((subject, count, 0) for subject, count in window.counts(measure).items())
    elif measure == "open_seconds":
        yield from ((name, seconds, 0) for name, seconds in now.open_seconds.items())
    elif measure == "abandoned_workers":
        yield PROCESS, now.abandoned, 0
    else:
        yield from (
            (name, level, 0) for (kind, name), level in now.levels.items() if MEASURES[kind] == measure
        )
