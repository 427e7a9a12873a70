"""Monitoring: figures over time, from meters and events, and alerts when a threshold is passed."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.resilience._weak import Weakly, when_gone
from holdfast.infrastructure.resilience.circuit_breaker import live_breakers
from holdfast.infrastructure.resilience.clock import SYSTEM, Clock
from holdfast.infrastructure.resilience.events import Event, WorkerAbandoned, subscribe
from holdfast.infrastructure.resilience.meter import measure_durations, meters
from holdfast.infrastructure.resilience.registry import Registry
from holdfast.infrastructure.resilience.registry import registry as _common
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.timeout import abandoned_workers
from holdfast.infrastructure.telemetry import _export, _levels, _measures, _timelines
from holdfast.infrastructure.telemetry._alerts import Board
from holdfast.infrastructure.telemetry._deltas import BOUNDS, OTHER, Deltas, total
from holdfast.infrastructure.telemetry._measures import Sample, Window
from holdfast.infrastructure.telemetry.inventory import inventory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from holdfast.infrastructure.telemetry._deltas import Rates
    from holdfast.infrastructure.telemetry.inventory import PolicyState

_log = logging.getLogger("holdfast")
_GRACE = 1.0  # seconds that `close` waits for a sample that is being taken
_POINTS = 60
_SEVERITIES = ("info", "warning", "critical")

MEASURES: Mapping[str, str] = MappingProxyType(
    {
        "success_rate": "successes in all calls of an operation but cancelled ones, 0 to 1",
        "failure_rate": "failures in all calls of an operation but cancelled ones, 0 to 1",
        "rejection_rate": "calls that a policy refused in all calls of an operation but cancelled ones, 0 to 1",
        "retry_rate": "retries in all attempts of an operation, 0 to 1",
        "degraded_rate": "calls that a fallback answered in all calls of an operation but cancelled ones, 0 to 1",
        "timeout_rate": "calls that failed by a timeout in all calls of an operation but cancelled ones, 0 to 1",
        "calls_per_second": "calls of an operation that ended, a second",
        "p50": "median duration of an operation's successes and failures, seconds, interpolated",
        "p95": "95th percentile of those durations, seconds, interpolated",
        "p99": "99th percentile of those durations, seconds, interpolated",
        "budget_refusals": "retries and hedges that a budget refused",
        "callback_failures": "callbacks, listeners and predicates of a policy that raised",
        "storage_failures": "times that a policy could not reach what it shares",
        "open_seconds": "seconds since a breaker opened, half-open included; the longest since the last sample",
        "abandoned_workers": "timed-out functions that still run; the most since the last sample",
        "bulkhead_saturation": "places of a bulkhead that are taken, 0 to 1; 1 if it refused since the last sample",
        "concurrency_limit_saturation": "the same of a concurrency limit",
        "rate_limit_saturation": "calls of a rate limit's burst that are used up, 0 to 1; 1 if it refused",
        "retry_budget_tokens": "tokens of a retry budget",
        "throttle_saturation": "the chance that a throttle refuses the next call, 0 to 1",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """When an alert fires: `measure` of a subject is above (`below`: under) `value` for `lasting` seconds.

    Measures of calls and counts look back `over` seconds, and need `min_calls` that were not cancelled; others are as
    they are now. `MEASURES` says what there is. The alert ends with the first sample that does not pass, or knows
    nothing. ConfigurationError with every fault.
    """

    name: str
    measure: str
    value: float
    below: bool = False
    over: float = 60.0
    lasting: float = 0.0
    severity: str = "warning"
    min_calls: int = 0

    def __post_init__(self) -> None:
        faults = Faults("Threshold")
        name: object = self.name
        faults.check(
            isinstance(name, str) and name, "name", name, "is no name", 'give text, for example "slow"'
        )
        known = ", ".join(MEASURES)
        faults.check(
            self.measure in MEASURES, "measure", self.measure, "is not known", f"give one of {known}"
        )
        faults.number("value", self.value, -float("inf"))
        faults.check(type(self.below) is bool, "below", self.below, "is no bool", "give True or False")
        faults.number("over", self.over, 0, above=True)
        faults.number("lasting", self.lasting, 0)
        given = " or ".join(_SEVERITIES)
        faults.check(self.severity in _SEVERITIES, "severity", self.severity, "is not known", f"give {given}")
        faults.number("min_calls", self.min_calls, 0, whole=True)
        if self.min_calls and self.measure in MEASURES and self.measure not in _measures.OPERATION:
            faults.add("min_calls", self.min_calls, f"has no meaning for {self.measure}", "leave it out")
        faults.finish()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A threshold that is passed, or was: by which operation or policy, since when and until when (Unix times).

    `measured` is the worst value so far. An alert that goes on and one that has ended have the same number.
    """

    number: int
    threshold: str
    severity: str
    subject: str
    measured: float
    limit: float
    since: float
    until: float | None
    message: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an operation did within `seconds`: calls, rates 0 to 1, latency percentiles in seconds (None: unknown).

    Degraded calls are successes that a fallback answered. The retry rate is a share of all attempts, the others are
    shares of all calls but cancelled ones. Percentiles are interpolated in buckets, at most 60 s.
    """

    operation: str
    seconds: float
    calls: int
    successes: int
    failures: int
    rejections: int
    cancelled: int
    degraded: int
    calls_per_second: float
    success_rate: float | None
    failure_rate: float | None
    rejection_rate: float | None
    degraded_rate: float | None
    retry_rate: float | None
    retries: Mapping[int, int]
    p50: float | None
    p95: float | None
    p99: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""
        facts = {name: getattr(self, name) for name in self.__slots__}
        return {**facts, "retries": {str(ordinal): count for ordinal, count in self.retries.items()}}


THRESHOLDS: tuple[Threshold, ...] = (
    Threshold(name="failures", measure="failure_rate", value=0.1, lasting=60.0, min_calls=20),
    Threshold(
        name="outage", measure="failure_rate", value=0.5, lasting=30.0, min_calls=20, severity="critical"
    ),
    Threshold(name="rejections", measure="rejection_rate", value=0.05, lasting=60.0, min_calls=20),
    Threshold(name="retries", measure="retry_rate", value=0.2, lasting=60.0, min_calls=20),
    Threshold(name="slow", measure="p95", value=5.0, lasting=60.0, min_calls=20),
    Threshold(name="circuit_open", measure="open_seconds", value=0.0),
    Threshold(name="circuit_stays_open", measure="open_seconds", value=60.0, severity="critical"),
    Threshold(name="retry_budget_empty", measure="budget_refusals", value=0.0),
    Threshold(name="bulkhead_full", measure="bulkhead_saturation", value=0.99, lasting=30.0),
    Threshold(name="workers_abandoned", measure="abandoned_workers", value=0.0),
    Threshold(name="callbacks_failing", measure="callback_failures", value=0.0),
    Threshold(name="storage_failing", measure="storage_failures", value=0.0),
)


class _Callback:
    """Who wants to hear of alerts, and whether that was logged to fail."""

    __slots__ = ("function", "logged")

    def __init__(self, function: Callable[[Alert], object]) -> None:
        self.function = function
        self.logged = False

    def tell(self, alert: Alert) -> None:
        try:
            self.function(alert)
        except Exception:
            if not self.logged:
                self.logged = True
                _log.exception("%r raised when it was told of an alert; monitoring goes on", self.function)


class Monitor:
    """Sample the meters every `interval` seconds and keep `keep` samples: by default every 10 s for an hour.

    `start` samples in a daemon thread; `sample` does it by hand. Memory is bounded: beyond `max_operations` operations,
    breakers or limits the rest is summed as `other`. Breakers are followed by their events, so that no opening between
    samples is lost. Close it: it listens to events, and lets calls be timed, until nobody refers to it any more. Safe
    to share between threads; a forked child begins anew, without the thread.
    """

    _samples: deque[Sample]
    _counts: dict[tuple[str, str], int]
    _names: frozenset[str]
    _sampling: threading.RLock
    _lock: threading.RLock
    _stop: threading.Event
    _thread: threading.Thread | None

    def __init__(
        self,
        registry: Registry = _common,
        *,
        interval: float = 10.0,
        keep: int = 360,
        thresholds: Sequence[Threshold] = THRESHOLDS,
        max_operations: int = 200,
        clock: Clock | None = None,
    ) -> None:
        _check(thresholds, registry=registry, interval=interval, keep=keep, most=max_operations, clock=clock)
        self._registry = registry
        self._interval = float(interval)
        self._keep = keep
        self._thresholds = tuple(thresholds)
        self._most = max_operations
        self._clock = clock
        self._callbacks: tuple[_Callback, ...] = ()
        self._closed = self._failing = False
        self._begin()
        self._end_durations = measure_durations(*BOUNDS)
        self._subscription = subscribe(
            Weakly(self._hear), *_timelines.KINDS, *_measures.COUNTED.values(), WorkerAbandoned
        )
        when_gone(self, self._end_durations, self._subscription.close)
        self._deltas.look(meters())
        self._names = frozenset(self._deltas.names())
        self._levels.look(inventory(registry))
        _monitors.add(self)

    @property
    def thresholds(self) -> tuple[Threshold, ...]:
        """The thresholds that it judges."""
        return self._thresholds

    def start(self) -> None:
        """Begin to sample; a second time does nothing. RuntimeError when it is closed."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the monitor is closed: make a new one")
            if self._thread is None:
                # Without a clock of its own in real time: a thread that nobody expects must not move one that jumps.
                facts = weakref.ref(self), self._stop, self._clock or SYSTEM, self._interval
                self._thread = threading.Thread(target=_run, args=facts, name="holdfast-monitor", daemon=True)
                when_gone(self, self._stop.set)
                self._thread.start()

    def close(self) -> None:
        """Stop sampling and listening; what is known can still be read."""
        with self._lock:
            closed, self._closed = self._closed, True
            thread, self._thread = self._thread, None
        if closed:
            return
        self._stop.set()
        self._subscription.close()
        self._end_durations()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_GRACE)

    def sample(self) -> None:
        """Take one sample now, judge the thresholds, and call back for each alert that begins or ends."""
        with self._sampling:
            changed = self._sample()
        for alert in changed:
            for callback in self._callbacks:
                callback.tell(alert)

    def usage(self, *, seconds: float = 300.0) -> list[Usage]:
        """Return what each operation did, by name, as far as it was sampled in the last `seconds`."""
        window = Window(self._within(seconds))
        return [_usage(name, window, window.rates(name)) for name in sorted(self._known())]

    def trends(
        self, operation: str | None = None, *, seconds: float = 3600.0, points: int = 60
    ) -> list[Mapping[str, Any]]:
        """Return figures over time, oldest first: `at`, calls, successes, failures, rejections and so on.

        Each point ends `at` (Unix time) and covers `seconds`; where there are no samples there is no point. Of all
        operations together if none is given; nothing for one that is not known.
        """
        if operation is not None and operation not in self._known():
            return []
        return [_point(window, time, operation) for time, window in self._slots(seconds, points)]

    def states(self, breaker: str, *, seconds: float = 3600.0) -> list[tuple[float, str]]:
        """Return a breaker's states: since when (Unix time), and which; oldest first, 200 at most.

        The first may have begun before. Nothing for a breaker that is not known.
        """
        with self._lock:
            return self._timelines.states(breaker, self._now() - seconds)

    def levels(self, *, seconds: float = 3600.0, points: int = 60) -> list[Mapping[str, Any]]:
        """Return how full limits were, by `kind` and `name`, 0 to 1; of a retry budget, its tokens.

        `level` is that of the last sample, `lowest` and `highest` are of all, `points` pairs of Unix time and the worst
        level since the point before.
        """
        slots = self._slots(seconds, points)
        keys = sorted({key for _, window in slots for key in window.levels()})
        return [_level(key, slots) for key in keys]

    def alerts(self, *, active: bool | None = None, limit: int = 100) -> list[Alert]:
        """Return alerts, newest first; `active` keeps those that are passed now, or no longer (the last 1,000)."""
        with self._lock:
            return self._board.alerts(active, limit)

    def subscribe(self, callback: Callable[[Alert], object]) -> Callable[[], None]:
        """Call `callback` when an alert begins and when it ends; what is returned ends that.

        It is called in the thread that samples. If it raises, that is logged once. ConfigurationError for no function.
        """
        faults = Faults("subscribe")
        given: object = callback
        faults.check(callable(given), "callback", given, "is not callable", "give a function of an alert")
        faults.callable("callback", given, sync=True)
        faults.finish()
        place = _Callback(callback)
        with self._lock:
            self._callbacks = (*self._callbacks, place)
        return lambda: self._unsubscribe(place)

    def export(self, format: str = "json", *, seconds: float = 3600.0) -> str:  # noqa: A002
        """Return everything as JSON or CSV text; ValueError for another format.

        A cell that a spreadsheet might take for a formula begins with an apostrophe.
        """
        if format not in {"json", "csv"}:
            raise ValueError(f"there is no format {format!r}: give 'json' or 'csv'")
        facts = self._facts(seconds)
        return _export.as_json(facts) if format == "json" else _export.as_csv(facts)

    def _unsubscribe(self, place: _Callback) -> None:
        with self._lock:
            self._callbacks = tuple(one for one in self._callbacks if one is not place)

    def _begin(self) -> None:
        """Begin without samples, and with new locks: in the child of a fork nobody is left to release the old ones."""
        self._lock = threading.RLock()
        self._sampling = threading.RLock()
        self._stop = threading.Event()
        self._thread = None
        self._samples = deque(maxlen=self._keep)
        self._deltas = Deltas(self._most, self._keep)
        self._levels = _levels.Levels(self._most)
        self._timelines = _timelines.Timelines(self._most)
        self._board = Board(Alert)
        self._counts = {}
        self._abandoned = 0
        self._names = frozenset()
        self._began = self._now()

    def _now(self) -> float:
        return (self._clock or ambient.clock).monotonic()

    def _time(self) -> float:
        return (self._clock or ambient.clock).time()

    def _sample_quietly(self) -> None:
        try:
            self.sample()
            self._failing = False
        except Exception:
            if not self._failing:
                _log.exception("a sample of the monitor failed; monitoring goes on")
            self._failing = True

    def _hear(self, event: Event) -> None:
        now, time = self._now(), self._time()
        with self._lock:
            if isinstance(event, _timelines.KINDS):
                state = _timelines.state_of(event)
                if state is not None:
                    self._timelines.become(event.name, state, now, time)
            elif isinstance(event, WorkerAbandoned):
                self._abandoned = max(self._abandoned, event.abandoned)
            else:
                self._count(*_measures.counted(event))

    def _count(self, measure: str, subject: str) -> None:
        counts, key = self._counts, (measure, subject)
        if key not in counts and len(counts) >= self._most:
            key = measure, OTHER
        counts[key] = counts.get(key, 0) + 1

    def _sample(self) -> list[Alert]:
        """Look at everything, and judge. What may fail comes first: then nothing is lost to the next sample."""
        with self._lock:
            versions = self._timelines.versions()
        seen, listed = self._look()
        with self._lock:
            self._timelines.reconcile(listed, versions, seen.at, seen.time)
            sample = self._keep_sample(seen)
            kept = list(self._samples)
        # Without the lock, for which events wait in the path of calls.
        readings = list(_measures.readings(self._thresholds, kept, sample))
        with self._lock:
            return self._board.judge(readings, sample.at, sample.time)

    def _look(self) -> tuple[Sample, dict[str, str]]:
        """Return what can be seen now, without what events have told, and the states of breakers."""
        policies = inventory(self._registry)
        listed, levels = _listed(policies), self._levels.look(policies)
        operations = self._deltas.look(meters())
        seen = Sample(
            at=self._now(),
            time=self._time(),
            names=frozenset(self._deltas.names()),
            operations=operations,
            all=total(operations.values()),
            levels=levels,
            abandoned=abandoned_workers(),
        )
        return seen, listed

    def _keep_sample(self, seen: Sample) -> Sample:
        """Add what events have told since the last sample, and keep it."""
        sample = seen._replace(
            began=min(self._began, seen.at),
            counts=self._counts,
            open_seconds=self._timelines.open_seconds(seen.at),
            abandoned=max(self._abandoned, seen.abandoned),
        )
        self._counts, self._abandoned = {}, 0
        if sample.at < self._began:  # somebody exchanged the clock
            self._samples.clear()
        self._began, self._names = sample.at, sample.names
        self._samples.append(sample)
        return sample

    def _within(self, seconds: float) -> list[Sample]:
        with self._lock:
            return list(_measures.within(self._samples, self._now() - seconds))

    def _known(self) -> set[str]:
        """Return the operations that there are, and that did something in any sample that is kept."""
        with self._lock:
            summed = any(OTHER in sample.operations for sample in self._samples)
            return {*self._names, OTHER} if summed else set(self._names)

    def _slots(self, seconds: float, points: int) -> list[tuple[float, Window]]:
        """Return the samples of the last `seconds` in at most `points` slots of equal length, each with its end."""
        if not seconds > 0 or points < 1:
            raise ValueError(f"seconds={seconds!r}, points={points!r}: give numbers above 0")
        width = seconds / points
        slots: dict[int, list[Sample]] = {}
        for sample in self._within(seconds):
            # Counted from the clock's zero: a slot does not wander with the moment at which somebody asks.
            slots.setdefault(int(sample.at // width), []).append(sample)
        return [(slot[-1].time, Window(slot)) for slot in slots.values()][-points:]

    def _facts(self, seconds: float) -> dict[str, Any]:
        usage = [one.as_dict() for one in self.usage(seconds=seconds)]
        slots = self._slots(seconds, _POINTS)
        names: list[str] = [one["operation"] for one in usage]
        with self._lock:
            breakers = self._timelines.names()
        return {
            "at": self._time(),
            "seconds": seconds,
            "operations": usage,
            "trends": {name: [_point(window, time, name) for time, window in slots] for name in names},
            "states": {name: self.states(name, seconds=seconds) for name in breakers},
            "levels": self.levels(seconds=seconds),
            "alerts": [alert.as_dict() for alert in self.alerts(limit=1000)],
        }


def _check(
    thresholds: Any, *, registry: object, interval: object, keep: object, most: object, clock: object
) -> None:
    faults = Faults("Monitor")
    faults.check(isinstance(registry, Registry), "registry", registry, "is no Registry", "give one")
    faults.number("interval", interval, 0.001, 86_400)
    faults.number("keep", keep, 1, 100_000, whole=True)
    faults.number("max_operations", most, 1, 10_000, whole=True)
    fine = clock is None or isinstance(clock, Clock)
    faults.check(fine, "clock", clock, "is no Clock", "give one or None")
    names: set[str] = set()
    for at, threshold in enumerate(thresholds):
        fine = isinstance(threshold, Threshold)
        faults.check(fine, f"thresholds[{at}]", threshold, "is no Threshold", "give Threshold(...)")
        twice = fine and threshold.name in names
        faults.check(not twice, f"thresholds[{at}]", threshold, "has a name that another has", "give its own")
        names.add(threshold.name if fine else "")
    faults.finish()


def _run(monitor: weakref.ref[Monitor], stop: threading.Event, clock: Clock, interval: float) -> None:
    """Sample until told to stop, or until nobody else knows the monitor."""
    while not clock.wait(stop, interval):
        living = monitor()
        if living is None:
            return
        living._sample_quietly()
        del living


def _listed(policies: Iterable[PolicyState]) -> dict[str, str]:
    """Return the states of living breakers by name; of several the one that matters most."""
    found: dict[str, str] = {}
    states = [(one.name, one.facts["state"]) for one in policies if one.kind == "circuit_breaker"]
    states += [(breaker.name, breaker.state.value) for breaker in live_breakers()]
    for name, state in states:
        before = found.get(name, CircuitState.CLOSED.value)
        found[name] = max(before, state, key=lambda one: _timelines.WEIGHT.index(CircuitState(one)))
    return found


def _usage(operation: str, window: Window, rates: Rates) -> Usage:
    return Usage(
        operation=operation,
        seconds=window.seconds,
        calls=rates.calls,
        successes=rates.successes,
        failures=rates.failures,
        rejections=rates.rejected,
        cancelled=rates.cancelled,
        degraded=rates.degraded_calls,
        calls_per_second=window.pace(rates),
        success_rate=rates.success(),
        failure_rate=rates.failure(),
        rejection_rate=rates.rejection(),
        degraded_rate=rates.degraded(),
        retry_rate=rates.retry(),
        retries=rates.retries,
        p50=rates.percentile(0.5),
        p95=rates.percentile(0.95),
        p99=rates.percentile(0.99),
    )


def _point(window: Window, time: float, operation: str | None) -> dict[str, Any]:
    rates = window.everything() if operation is None else window.rates(operation)
    return {
        "at": time,
        "seconds": window.seconds,
        "calls": rates.calls,
        "successes": rates.successes,
        "failures": rates.failures,
        "rejections": rates.rejected,
        "cancelled": rates.cancelled,
        "degraded": rates.degraded_calls,
        "retries": sum(rates.retries.values()),
        "p50": rates.percentile(0.5),
        "p95": rates.percentile(0.95),
        "p99": rates.percentile(0.99),
    }


def _level(key: tuple[str, str], slots: Sequence[tuple[float, Window]]) -> dict[str, Any]:
    points = [(time, level) for time, window in slots if (level := window.levels().get(key)) is not None]
    levels = [level for _, window in slots for level in window.all_levels(key)]
    return {
        "kind": key[0],
        "name": key[1],
        "level": slots[-1][1].last.levels.get(key),
        "lowest": min(levels),
        "highest": max(levels),
        "points": points,
    }


_monitors: weakref.WeakSet[Monitor] = weakref.WeakSet()


def _renew() -> None:
    for monitor in _monitors:
        monitor._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
