"""What every exporter exports: one table of metrics, and the figures that stand in it now."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from holdfast.infrastructure.resilience import events
from holdfast.infrastructure.resilience._breaker import _LOCKS, _locks
from holdfast.infrastructure.resilience._counts import REST
from holdfast.infrastructure.resilience._weak import Weakly, when_gone
from holdfast.infrastructure.resilience.meter import meters
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.timeout import abandoned_workers
from holdfast.infrastructure.telemetry.inventory import inventory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from holdfast.infrastructure.resilience.meter import MeterSnapshot
    from holdfast.infrastructure.resilience.registry import Registry
    from holdfast.infrastructure.telemetry.inventory import PolicyState

_LONGEST_LABEL = 120


class Metric(NamedTuple):
    """A metric: its Prometheus name and type, what it says, its labels; its OpenTelemetry name and unit.

    `most`: where several names share `other`, their greatest value counts, not their sum.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    otel: str
    unit: str
    most: bool = False


def _counter(name: str, text: str, *labels: str, unit: str = "{call}", otel: str | None = None) -> Metric:
    return Metric(f"holdfast_{name}_total", "counter", text, labels, f"holdfast.{otel or name}", unit)


def _gauge(
    name: str, text: str, *labels: str, unit: str, otel: str | None = None, most: bool = False
) -> Metric:
    return Metric(f"holdfast_{name}", "gauge", text, labels, f"holdfast.{otel or name}", unit, most)


DURATION = Metric(
    "holdfast_call_duration_seconds",
    "histogram",
    "How long calls took that succeeded or failed, retries and waits included.",
    ("operation",),
    "holdfast.call.duration",
    "s",
)

TABLE: tuple[Metric, ...] = (
    _counter("calls", "Calls that ended: success, failure, rejected, cancelled.", "operation", "outcome"),
    _gauge("calls_running", "Calls that run now.", "operation", unit="{call}", otel="calls.running"),
    _counter(
        "call_errors", "Calls that failed, by the error's class.", "operation", "error", otel="call.errors"
    ),
    _counter(
        "call_timeouts",
        "Calls that failed because a timeout was exceeded.",
        "operation",
        otel="call.timeouts",
    ),
    DURATION,
    _counter("attempts", "Calls and retries.", "operation", unit="{attempt}"),
    _counter(
        "retries",
        "Retries; ordinal 1 is the first retry of a call, 20 stands for all later ones.",
        "operation",
        "ordinal",
        unit="{attempt}",
    ),
    _counter("fallbacks", "Calls that succeeded with a fallback's answer.", "operation"),
    _gauge(
        "retry_budget_tokens", "Tokens in a retry budget.", "name", unit="{token}", otel="retry_budget.tokens"
    ),
    _gauge(
        "circuit_breaker_state",
        "1 for the state that a circuit breaker is in, 0 for the others.",
        "name",
        "state",
        unit="1",
        otel="circuit_breaker.state",
    ),
    _gauge(
        "circuit_breaker_state_seconds",
        "How long a circuit breaker has been in its state.",
        "name",
        unit="s",
        otel="circuit_breaker.state.duration",
        most=True,
    ),
    _counter(
        "circuit_breaker_transitions",
        "Changes of a circuit breaker to a state.",
        "name",
        "to",
        unit="{transition}",
        otel="circuit_breaker.transitions",
    ),
    _counter(
        "circuit_breaker_rejected",
        "Calls that a circuit breaker refused.",
        "name",
        otel="circuit_breaker.rejected",
    ),
    _gauge(
        "circuit_breaker_window_calls",
        "Calls in a circuit breaker's window: success, failure.",
        "name",
        "outcome",
        unit="{call}",
        otel="circuit_breaker.window.calls",
    ),
    _gauge(
        "circuit_breaker_failure_rate",
        "Share of failures in a circuit breaker's window, 0 to 1.",
        "name",
        unit="1",
        otel="circuit_breaker.failure_rate",
        most=True,
    ),
    _gauge(
        "circuit_breaker_slow_call_rate",
        "Share of slow calls in a circuit breaker's window, 0 to 1.",
        "name",
        unit="1",
        otel="circuit_breaker.slow_call_rate",
        most=True,
    ),
    _gauge("bulkhead_limit", "Places of a bulkhead.", "name", unit="{call}", otel="bulkhead.limit"),
    _gauge(
        "bulkhead_running",
        "Places of a bulkhead that are taken.",
        "name",
        unit="{call}",
        otel="bulkhead.running",
    ),
    _gauge(
        "bulkhead_available",
        "Places of a bulkhead that are free.",
        "name",
        unit="{call}",
        otel="bulkhead.available",
    ),
    _gauge(
        "bulkhead_waiting", "Calls that wait for a bulkhead.", "name", unit="{call}", otel="bulkhead.waiting"
    ),
    _counter("bulkhead_rejected", "Calls that a bulkhead refused.", "name", otel="bulkhead.rejected"),
    _gauge(
        "rate_limit_available",
        "Calls that a rate limit would admit at once.",
        "name",
        unit="{call}",
        otel="rate_limit.available",
    ),
    _gauge(
        "rate_limit_waiting",
        "Calls that wait for a rate limit.",
        "name",
        unit="{call}",
        otel="rate_limit.waiting",
    ),
    _counter("rate_limit_rejected", "Calls that a rate limit refused.", "name", otel="rate_limit.rejected"),
    _gauge(
        "concurrency_limit_limit",
        "Calls that an adaptive concurrency limit admits at once.",
        "name",
        unit="{call}",
        otel="concurrency_limit.limit",
    ),
    _gauge(
        "concurrency_limit_running",
        "Calls in flight under an adaptive concurrency limit.",
        "name",
        unit="{call}",
        otel="concurrency_limit.running",
    ),
    _counter(
        "concurrency_limit_rejected",
        "Calls that an adaptive concurrency limit refused.",
        "name",
        otel="concurrency_limit.rejected",
    ),
    _gauge(
        "throttle_rejection_probability",
        "The chance of the next call to be refused by a throttle, 0 to 1.",
        "name",
        unit="1",
        otel="throttle.rejection_probability",
        most=True,
    ),
    _counter("throttle_rejected", "Calls that a throttle refused.", "name", otel="throttle.rejected"),
    _counter("hedges", "Hedges that were sent.", "name"),
    _counter("hedges_won", "Calls that a hedge decided.", "name", otel="hedges.won"),
    _counter(
        "cache_calls",
        "Calls that a cache answered: hit, stale, coalesced; miss: calls of the function.",
        "name",
        "result",
        otel="cache.calls",
    ),
    _gauge("cache_entries", "Results that a cache holds.", "name", unit="{entry}", otel="cache.entries"),
    _counter(
        "cache_evictions",
        "Results that a cache gave up for others.",
        "name",
        unit="{entry}",
        otel="cache.evictions",
    ),
    _gauge(
        "timeout_workers_abandoned",
        "Timed-out functions that still run in a thread.",
        unit="{thread}",
        otel="timeout.workers.abandoned",
    ),
    _counter("events", "Events that no other metric counts.", "event", "name", unit="{event}"),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in TABLE}

# Those that are counted as such: for the rest there are figures without a subscriber.
_CIRCUITS = (events.CircuitOpened, events.CircuitHalfOpened, events.CircuitClosed, events.CircuitOverridden)
_COUNTED = (
    events.BudgetExhausted,
    events.CacheRefreshFailed,
    events.CallbackFailed,
    events.ChaosInjected,
    events.FrameIgnored,
    events.PeerJoined,
    events.PeerLeft,
    events.ProbeExpired,
    events.RetriesNested,
    events.StorageFailed,
    events.WorkerAbandoned,
)

Labels: TypeAlias = "tuple[str, ...]"


class Duration:
    """A histogram: for each bound how many were within it, cumulative; their sum, seconds."""

    __slots__ = ("buckets", "seconds")

    def __init__(self, buckets: list[int], seconds: float) -> None:
        self.buckets = buckets
        self.seconds = seconds

    def __add__(self, other: Duration) -> Duration:
        """Return both together."""
        buckets = [one + more for one, more in zip(self.buckets, other.buckets, strict=True)]
        return Duration(buckets, self.seconds + other.seconds)


class Figures:
    """The values of every metric, by labels, and the durations of every operation."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.values: dict[str, dict[Labels, float]] = {name: {} for name in METRICS}
        self.durations: dict[Labels, Duration] = {}

    def add(self, name: str, value: float, *labels: str) -> None:
        """Add a value, to what others with these labels have said."""
        metric, values = METRICS[f"holdfast_{name}"], self.values[f"holdfast_{name}"]
        known = values.get(labels)
        if known is not None:
            value = max(known, value) if metric.most else known + value
        values[labels] = value

    def time(self, snapshot: MeterSnapshot, operation: str) -> None:
        """Add the durations of an operation, if they are measured."""
        durations = snapshot.durations
        if not durations:
            return
        made = Duration([durations.get(bound, 0) for bound in self.bounds], snapshot.seconds)
        known = self.durations.get((operation,))
        self.durations[operation,] = made if known is None else known + made


class Names:
    """Which names get a label of their own: at most so many of those that there are, first come, first served."""

    __slots__ = ("_known", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[str, str] = {}

    def keep(self, names: Iterable[str]) -> None:
        """Forget all but these, and admit as many of these as there is room for."""
        with _lock_of(self):
            there = dict.fromkeys(names)
            known = {name: label for name, label in self._known.items() if name in there}
            for name in there:
                if len(known) < self._most:
                    known.setdefault(name, _label(name))
            self._known = known

    def admit(self, name: str) -> str:
        """Return the label of a name, which is remembered if there is room."""
        with _lock_of(self):
            if name not in self._known and len(self._known) < self._most:
                self._known[name] = _label(name)
            return self.of(name)

    def of(self, name: str) -> str:
        """Return the label of a name."""
        return self._known.get(name, REST)


def _lock_of(thing: object) -> Any:
    # Shared with policies, held for microseconds, and made new in the child of a fork.
    return _locks[id(thing) // 64 % _LOCKS]


def _label(name: str) -> str:
    text = name.encode("utf-8", "replace").decode()
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"


class Source:
    """Collects figures for one exporter: reads meters and policies, and counts events in between."""

    def __init__(self, registry: Registry, bounds: tuple[float, ...], max_names: int) -> None:
        self._registry = registry
        self._bounds = bounds
        self._operations = Names(max_names)
        self._policies: defaultdict[str, Names] = defaultdict(lambda: Names(max_names))
        self._named = Names(max_names)
        self._events: dict[tuple[str, str, str], int] = {}
        self._subscription = events.subscribe(Weakly(self._count), *_CIRCUITS, *_COUNTED)
        when_gone(self, self._subscription.close)

    def close(self) -> None:
        """Stop counting events."""
        self._subscription.close()

    def operation(self, name: str) -> str:
        """Return the label of an operation."""
        return self._operations.admit(name)

    def collect(self) -> Figures:
        """Return the figures now."""
        figures = Figures(self._bounds)
        self._collect_meters(figures)
        self._collect_policies(figures)
        with _lock_of(self):
            counted = dict(self._events)
        for (metric, first, second), count in counted.items():
            figures.add(metric, count, first, second)
        figures.add("timeout_workers_abandoned", abandoned_workers())
        return figures

    def _count(self, event: events.Event) -> None:
        name = self._named.admit(event.name)
        if isinstance(event, _CIRCUITS):
            key = ("circuit_breaker_transitions_total", name, _state_of(event))
        else:
            key = ("events_total", type(event).__name__, name)
        with _lock_of(self):
            self._events[key] = self._events.get(key, 0) + 1

    def _collect_meters(self, figures: Figures) -> None:
        snapshots = [meter.snapshot() for meter in meters().values()]
        self._operations.keep(snapshot.name for snapshot in snapshots)
        for snapshot in snapshots:
            _add_meter(figures, snapshot, self._operations.of(snapshot.name))

    def _collect_policies(self, figures: Figures) -> None:
        kinds: defaultdict[str, list[PolicyState]] = defaultdict(list)
        for state in inventory(self._registry):
            kinds[state.kind].append(state)
        for kind, states in kinds.items():
            names = self._policies[kind]
            names.keep(state.name for state in states)
            for state in states:
                _POLICIES[kind](figures, names.of(state.name), state.facts)


def _state_of(event: Any) -> str:
    if isinstance(event, events.CircuitOverridden):
        return _state(event.state)
    if isinstance(event, events.CircuitOpened):
        return "shadow" if event.shadow else "open"
    return "half_open" if isinstance(event, events.CircuitHalfOpened) else "closed"


def _state(value: str) -> str:
    return value.replace("-", "_")


def _add_meter(figures: Figures, snapshot: MeterSnapshot, operation: str) -> None:
    figures.add("calls_total", snapshot.successes, operation, "success")
    figures.add("calls_total", snapshot.failures, operation, "failure")
    figures.add("calls_total", snapshot.rejected, operation, "rejected")
    figures.add("calls_total", snapshot.cancelled, operation, "cancelled")
    figures.add("calls_running", snapshot.running, operation)
    figures.add("call_timeouts_total", snapshot.timeouts, operation)
    figures.add("attempts_total", snapshot.attempts, operation)
    figures.add("fallbacks_total", snapshot.degraded, operation)
    for error, count in snapshot.errors.items():
        figures.add("call_errors_total", count, operation, _label(error))
    for ordinal, count in snapshot.retries.items():
        figures.add("retries_total", count, operation, str(ordinal))
    figures.time(snapshot, operation)


def _add_breaker(figures: Figures, name: str, facts: Mapping[str, Any]) -> None:
    for state in CircuitState:
        figures.add("circuit_breaker_state", int(facts["state"] == state.value), name, _state(state.value))
    for state in (CircuitState.OPEN, CircuitState.HALF_OPEN, CircuitState.CLOSED):
        # What has not happened yet is 0, or nobody could tell how often it happened since.
        figures.add("circuit_breaker_transitions_total", 0, name, _state(state.value))
    figures.add("circuit_breaker_state_seconds", facts["seconds_in_state"], name)
    figures.add("circuit_breaker_rejected_total", facts["rejected"], name)
    figures.add("circuit_breaker_window_calls", facts["calls"] - facts["failures"], name, "success")
    figures.add("circuit_breaker_window_calls", facts["failures"], name, "failure")
    figures.add("circuit_breaker_failure_rate", facts["failure_rate"], name)
    figures.add("circuit_breaker_slow_call_rate", facts["slow_rate"], name)


def _add_cache(figures: Figures, name: str, facts: Mapping[str, Any]) -> None:
    for fact, result in (("hits", "hit"), ("stale", "stale"), ("coalesced", "coalesced"), ("misses", "miss")):
        figures.add("cache_calls_total", facts[fact], name, result)
    figures.add("cache_entries", facts["entries"], name)
    figures.add("cache_evictions_total", facts["evictions"], name)


def _adder(**metrics: str) -> Callable[[Figures, str, Mapping[str, Any]], None]:
    """Return what adds facts as they are: for each metric the fact's name."""

    def add(figures: Figures, name: str, facts: Mapping[str, Any]) -> None:
        for metric, fact in metrics.items():
            figures.add(metric, facts[fact], name)

    return add


_POLICIES = {
    "bulkhead": _adder(
        bulkhead_limit="limit",
        bulkhead_running="running",
        bulkhead_available="available",
        bulkhead_waiting="waiting",
        bulkhead_rejected_total="rejected",
    ),
    "cache": _add_cache,
    "circuit_breaker": _add_breaker,
    "concurrency_limit": _adder(
        concurrency_limit_limit="limit",
        concurrency_limit_running="running",
        concurrency_limit_rejected_total="rejected",
    ),
    "hedge": _adder(hedges_total="started", hedges_won_total="won"),
    "rate_limit": _adder(
        rate_limit_available="available", rate_limit_waiting="waiting", rate_limit_rejected_total="rejected"
    ),
    "rate_limits": _adder(rate_limit_waiting="waiting", rate_limit_rejected_total="rejected"),
    "retry_budget": _adder(retry_budget_tokens="tokens"),
    "shared_rate_limit": _adder(rate_limit_rejected_total="rejected"),
    "throttle": _adder(
        throttle_rejection_probability="rejection_probability", throttle_rejected_total="rejected"
    ),
}
