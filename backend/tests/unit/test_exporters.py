"""Exporters: what they make of meters, policies and events, and what they leave alone."""

import builtins
import gc
import logging
import re
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from holdfast.infrastructure.resilience import _counts, events
from holdfast.infrastructure.resilience._bus import bus, emit
from holdfast.infrastructure.resilience.bulkhead import Bulkhead
from holdfast.infrastructure.resilience.cache import Cache
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.concurrency_limit import ConcurrencyLimit
from holdfast.infrastructure.resilience.errors import ConfigurationError, HoldfastError
from holdfast.infrastructure.resilience.fallback import Fallback
from holdfast.infrastructure.resilience.hedge import Hedge
from holdfast.infrastructure.resilience.meter import Meter
from holdfast.infrastructure.resilience.rate_limit import RateLimit, RateLimits
from holdfast.infrastructure.resilience.registry import Registry
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.throttle import Throttle
from holdfast.infrastructure.resilience.window import Window
from holdfast.infrastructure.telemetry._figures import TABLE
from holdfast.infrastructure.telemetry.logs import log_events
from holdfast.infrastructure.telemetry.opentelemetry import OpenTelemetryExporter
from holdfast.infrastructure.telemetry.prometheus import METRICS, PrometheusExporter
from holdfast.testing import Script, VirtualClock, fail, succeed

PAGE = Path(__file__).parents[3] / "docs/telemetry.md"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
_serial = count()


def named(what: str) -> str:
    """Return a name that nobody else uses."""
    return f"{what} {next(_serial)}"


def samples(text: str) -> Samples:
    """Return what a real parser reads, by name and labels; no series may come twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def of(found: Samples, metric: str, /, **labels: str) -> float:
    return found[f"holdfast_{metric}", tuple(sorted(labels.items()))]


@pytest.fixture
def names() -> Registry:
    """Give a registry in which nothing is defined, with nothing left of what other tests decorated."""
    gc.collect()
    return Registry()


@pytest.fixture
def exporter(names: Registry) -> Iterator[PrometheusExporter]:
    """Give an exporter of that registry."""
    made = PrometheusExporter(names)
    yield made
    made.close()


def test_the_calls_of_an_operation_are_exported(
    names: Registry, exporter: PrometheusExporter, virtual_clock: VirtualClock
) -> None:
    """Outcomes, errors, retries, attempts, fallbacks and durations are those of the meter."""
    name = named("calls")
    names.define(name, Fallback("instead", on=ConnectionError), Retry(2, wait=0))
    call = names.resilient(name)(
        Script(succeed(after=0.2), fail(), fail(), fail(ValueError), fail(), succeed()).function()
    )
    for expected in ("ok", "instead", ValueError, "ok"):
        if expected is ValueError:
            with pytest.raises(ValueError):  # noqa: PT011  # the script's own
                call()
        else:
            assert call() == expected
    found = samples(exporter.text())
    assert [of(found, "calls_total", operation=name, outcome=one) for one in OUTCOMES] == [3, 1, 0, 0]
    assert of(found, "call_errors_total", operation=name, error="ValueError") == 1
    assert of(found, "retries_total", operation=name, ordinal="1") == 2
    assert of(found, "attempts_total", operation=name) == 6
    assert of(found, "fallbacks_total", operation=name) == 1
    assert of(found, "calls_running", operation=name) == 0
    buckets = [
        of(found, "call_duration_seconds_bucket", operation=name, le=le) for le in ("0.1", "0.25", "+Inf")
    ]
    assert buckets == [3, 4, 4]
    assert of(found, "call_duration_seconds_sum", operation=name) == pytest.approx(0.2)
    assert of(found, "call_duration_seconds_count", operation=name) == 4


OUTCOMES = ("success", "failure", "rejected", "cancelled")


def test_a_breaker_is_exported(
    names: Registry, exporter: PrometheusExporter, virtual_clock: VirtualClock
) -> None:
    """State, time in it, transitions, refusals and rates are those of the breaker."""
    name = named("breaker")
    breaker = CircuitBreaker(
        name, window=Window.calls(4), min_calls=4, open_for=5.0, open_jitter=0.0, half_open_calls=1
    )
    names.define(name, breaker)
    call = names.resilient(name)(Script(succeed(), fail(), succeed(), fail(), succeed()).function())

    def calls(times: int) -> None:
        for _ in range(times):
            try:
                call()
            except (ConnectionError, HoldfastError):
                pass

    def states() -> list[str]:
        found = samples(exporter.text())
        return [one for one in STATES if of(found, "circuit_breaker_state", name=name, state=one)]

    calls(3)
    found = samples(exporter.text())
    assert states() == ["closed"]
    assert of(found, "circuit_breaker_failure_rate", name=name) == pytest.approx(1 / 3)
    assert of(found, "circuit_breaker_window_calls", name=name, outcome="success") == 2
    assert of(found, "circuit_breaker_transitions_total", name=name, to="open") == 0
    calls(1 + 2)
    virtual_clock.advance(3.0)
    found = samples(exporter.text())
    assert states() == ["open"]
    assert of(found, "circuit_breaker_state_seconds", name=name) == 3.0
    assert of(found, "circuit_breaker_rejected_total", name=name) == 2
    virtual_clock.advance(2.0)
    calls(1)
    breaker.isolate()
    found = samples(exporter.text())
    assert states() == ["isolated"]
    transitions = {one: of(found, "circuit_breaker_transitions_total", name=name, to=one) for one in TO}
    assert transitions == {"open": 1, "half_open": 1, "closed": 1, "isolated": 1}
    assert of(found, "calls_total", operation=name, outcome="rejected") == 2


STATES = ("closed", "open", "half_open", "isolated", "disabled", "shadow")
TO = ("open", "half_open", "closed", "isolated")


def test_every_other_policy_is_exported(names: Registry, exporter: PrometheusExporter) -> None:
    """Places, permits, limits, hedges, caches and their refusals are those of the policies."""
    name = named("each")
    names.define(
        name,
        Bulkhead(3, name=name),
        RateLimit(1, per=3600, burst=2, name=name),
        RateLimits(1, per=3600, key=lambda: "key", burst=5, name=f"{name} by key"),
        ConcurrencyLimit(initial=7, name=name),
        Throttle(name=name),
        Cache(60.0, name=name),
        Hedge(60.0, name=name),
    )
    call = names.resilient(name)(Script(succeed()).function())
    assert [call(), call()] == ["ok", "ok"]
    with pytest.raises(HoldfastError):
        call()
    found = samples(exporter.text())
    figures = {
        "bulkhead_limit": 3,
        "bulkhead_running": 0,
        "bulkhead_available": 3,
        "bulkhead_waiting": 0,
        "bulkhead_rejected_total": 0,
        "rate_limit_available": 0,
        "rate_limit_waiting": 0,
        "rate_limit_rejected_total": 1,
        "concurrency_limit_limit": 7,
        "concurrency_limit_running": 0,
        "concurrency_limit_rejected_total": 0,
        "throttle_rejection_probability": 0,
        "throttle_rejected_total": 0,
        "hedges_total": 0,
        "hedges_won_total": 0,
        "cache_entries": 1,
        "cache_evictions_total": 0,
    }
    assert {metric: of(found, metric, name=name) for metric in figures} == figures
    assert of(found, "cache_calls_total", name=name, result="hit") == 1
    assert of(found, "cache_calls_total", name=name, result="miss") == 1
    assert of(found, "rate_limit_waiting", name=f"{name} by key") == 0
    assert of(found, "timeout_workers_abandoned") == 0


def test_events_that_nothing_else_counts_are_counted(names: Registry, exporter: PrometheusExporter) -> None:
    """Callbacks and storages that fail are counted by kind and name, while the exporter is open."""
    name = named("events")
    error = RuntimeError("secret")
    for _ in range(3):
        emit("CallbackFailed", name, callback="predicate", error=error)
    emit("StorageFailed", name, error=error)
    emit("CallRejected", name, policy="bulkhead", retry_after=None)
    text = exporter.text()
    found = samples(text)
    assert of(found, "events_total", event="CallbackFailed", name=name) == 3
    assert of(found, "events_total", event="StorageFailed", name=name) == 1
    assert 'event="CallRejected"' not in text
    assert "secret" not in text


def test_labels_are_bounded(names: Registry) -> None:
    """Beyond `max_names` names share `other`: their counts add up, and of their ages and rates the greatest counts."""
    exporter = PrometheusExporter(names, max_names=2)
    prefix = named("bounded")
    kept: list[Any] = []
    for at in range(5):
        name = f"{prefix} {at}"
        names.define(name, CircuitBreaker(name, window=Window.calls(3), failure_rate=1.0))
        call = names.resilient(name)(Script(succeed(), fail(LookupError), fail()).function())
        kept.append(call)
        for _ in range(3):
            try:
                call()
            except (LookupError, ConnectionError):
                pass
    found = samples(exporter.text())
    exporter.close()
    operations = {dict(labels).get("operation") for name, labels in found if name == "holdfast_calls_total"}
    breakers = {
        dict(labels).get("name") for name, labels in found if name == "holdfast_circuit_breaker_state"
    }
    assert (len(operations), len(breakers)) == (3, 3)
    assert {"other"} <= operations & breakers
    mine = [at for at in range(5) if f"{prefix} {at}" in operations]
    assert of(found, "calls_total", operation="other", outcome="success") >= 5 - len(mine)
    assert 0.5 <= of(found, "circuit_breaker_failure_rate", name="other") <= 1
    states = [of(found, "circuit_breaker_state", name="other", state=one) for one in STATES]
    assert sum(states) >= 3


def test_names_of_events_are_bounded(names: Registry) -> None:
    """However many names events come with, at most `max_names` and `other` are kept."""
    exporter = PrometheusExporter(names, max_names=3)
    for at in range(10):
        emit("StorageFailed", f"endless {at}", error=RuntimeError())
    found = samples(exporter.text())
    exporter.close()
    counted = {labels: value for (name, labels), value in found.items() if name == "holdfast_events_total"}
    assert sorted(counted.values()) == [1, 1, 1, 7]


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "new\nline", "sur\udc80rogate", "x" * 500])
def test_any_name_can_be_a_label(names: Registry, exporter: PrometheusExporter, name: str) -> None:
    """Names are text of users: none of them breaks a scrape, and none is longer than 120 characters."""
    call = Meter(name)(lambda: None)
    call()
    found = samples(exporter.text())
    labels = [dict(labels).get("operation", "") for _, labels in found]
    assert name[:3] in {label[:3] for label in labels}
    assert max(map(len, labels)) <= 120


def test_an_exporter_joins_and_leaves_a_prometheus_registry(names: Registry) -> None:
    """It stands beside other collectors, is refused where one stands already, and can come again once it left."""
    into = prometheus_client.CollectorRegistry()
    first = PrometheusExporter(names, into=into)
    assert "holdfast_calls_total" in prometheus_client.generate_latest(into).decode()
    asked, subscribers = len(_counts.asked.each), len(bus.entries)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        PrometheusExporter(names, into=into)
    assert (len(_counts.asked.each), len(bus.entries)) == (asked, subscribers)
    first.close()
    first.close()
    assert "holdfast" not in prometheus_client.generate_latest(into).decode()
    PrometheusExporter(names, into=into).close()


def test_a_closed_exporter_costs_nothing(names: Registry) -> None:
    """Once all exporters are closed nobody asks for durations, and nobody subscribes."""
    before = (len(_counts.asked.each), _counts.asked.recorders, bus.entries)
    exporters: list[Any] = [
        PrometheusExporter(names),
        OpenTelemetryExporter(names, meter_provider=MeterProvider([InMemoryMetricReader()])),
    ]
    assert len(_counts.asked.each) == before[0] + 2
    for exporter in exporters:
        exporter.close()
    assert (len(_counts.asked.each), _counts.asked.recorders, bus.entries) == before


def test_the_table_is_what_is_exported(names: Registry, exporter: PrometheusExporter) -> None:
    """METRICS names the type and the labels of every family, in lower case, and nothing else is exported."""
    families = {family.name: family for family in text_string_to_metric_families(exporter.text())}
    shown = {(family.type, name) for name, family in families.items()}
    assert shown == {(kind, name.removesuffix("_total")) for name, (kind, _, _) in METRICS.items()}
    assert [name for name in METRICS if not name.startswith("holdfast_")] == []


def test_scrapes_while_calls_are_made_are_whole(names: Registry, exporter: PrometheusExporter) -> None:
    """Counters only grow from scrape to scrape, and calls are never fewer than their durations say."""
    name = named("busy")
    names.define(name, Retry(2, wait=0), CircuitBreaker(name, failure_rate=1.0))
    call = names.resilient(name)(Script(*[succeed(), fail()] * 10_000, succeed()).function())
    done = threading.Event()

    def work() -> None:
        for _ in range(1000):
            call()
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    last = 0.0
    while not done.is_set():
        found = samples(exporter.text())
        now = sum(
            value
            for (metric, labels), value in found.items()
            if metric == "holdfast_calls_total" and name in str(labels)
        )
        assert now >= last
        last = now
    thread.join()
    assert of(samples(exporter.text()), "calls_total", operation=name, outcome="success") == 1000


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (PrometheusExporter, {"max_names": 0}),
        (PrometheusExporter, {"buckets": ()}),
        (PrometheusExporter, {"buckets": (2.0, 1.0)}),
        (OpenTelemetryExporter, {"max_names": 0}),
        (OpenTelemetryExporter, {"span_events": "yes"}),
    ],
)
def test_bad_settings_are_refused(kind: Any, settings: dict[str, Any]) -> None:
    """Settings that make no sense are refused, and leave nothing behind."""
    before = (len(_counts.asked.each), bus.entries)
    with pytest.raises(ConfigurationError):
        kind(**settings)
    assert (len(_counts.asked.each), bus.entries) == before


@pytest.mark.parametrize(
    ("kind", "package", "extra"),
    [
        (PrometheusExporter, "prometheus_client", "prometheus"),
        (OpenTelemetryExporter, "opentelemetry", "otel"),
    ],
)
def test_a_missing_package_names_its_extra(
    kind: Any, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who lacks the package is told what to install."""
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=rf"pip install 'holdfast\[{extra}\]'"):
        kind()


def observed(reader: InMemoryMetricReader) -> dict[str, dict[tuple[tuple[str, Any], ...], Any]]:
    """Return what a collection reads: for each metric its points by attributes."""
    data: Any = reader.get_metrics_data()
    scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
    return {
        metric.name: {tuple(sorted(point.attributes.items())): point for point in metric.data.data_points}
        for scope in scopes
        for metric in scope.metrics
    }


@pytest.fixture
def reader() -> InMemoryMetricReader:
    """Give a reader of the SDK's, which collects when it is asked."""
    return InMemoryMetricReader()


def test_opentelemetry_observes_the_same_facts(names: Registry, reader: InMemoryMetricReader) -> None:
    """Counters and gauges have the figures that Prometheus gets, under names with dots."""
    exporter = OpenTelemetryExporter(names, meter_provider=MeterProvider([reader]))
    prometheus = PrometheusExporter(names)
    name = named("observed")
    names.define(name, Retry(2, wait=0), CircuitBreaker(name))
    call = names.resilient(name)(Script(succeed(), fail(), succeed(), fail(ValueError)).function())
    for _ in range(2):
        call()
    with pytest.raises(ValueError):  # noqa: PT011  # the script's own
        call()
    found, scraped = observed(reader), samples(prometheus.text())
    prometheus.close()
    exporter.close()
    calls = {key: point.value for key, point in found["holdfast.calls"].items() if ("operation", name) in key}
    assert calls == {
        (("operation", name), ("outcome", one)): of(scraped, "calls_total", operation=name, outcome=one)
        for one in OUTCOMES
    }
    assert found["holdfast.retries"][("operation", name), ("ordinal", "1")].value == 1
    assert found["holdfast.circuit_breaker.state"][("name", name), ("state", "closed")].value == 1
    duration = found["holdfast.call.duration"][("operation", name),]
    assert (duration.count, duration.explicit_bounds[0]) == (3, 0.001)


def test_opentelemetry_keeps_up(names: Registry, reader: InMemoryMetricReader) -> None:
    """Each collection reads anew, one look for all instruments."""
    exporter = OpenTelemetryExporter(names, meter_provider=MeterProvider([reader]))
    name = named("kept up")
    call = Meter(name)(lambda: None)
    for expected in (1, 2, 3):
        call()
        points = observed(reader)["holdfast.calls"]
        assert points[("operation", name), ("outcome", "success")].value == expected
    exporter.close()
    call()
    assert "holdfast.calls" not in observed(reader)


class Instruments:
    """A provider whose instruments are asked one by one, by hand."""

    def __init__(self) -> None:
        self.callbacks: dict[str, Any] = {}

    def get_meter(self, name: str) -> Any:
        return self

    def create_observable_counter(self, name: str, callbacks: list[Any], **_: Any) -> None:
        self.callbacks[name] = callbacks[0]

    create_observable_gauge = create_observable_counter

    def create_histogram(self, name: str, **_: Any) -> Any:
        return self

    def record(self, value: float, attributes: dict[str, str]) -> None:
        """Keep nothing."""

    def ask(self, name: str, attributes: dict[str, str]) -> float:
        values: dict[str, float] = {str(one.attributes): one.value for one in self.callbacks[name](None)}
        return values[str(attributes)]


def test_what_a_collection_left_over_is_not_served_later(
    names: Registry, virtual_clock: VirtualClock
) -> None:
    """An instrument that an earlier collection did not ask for is read anew, not as it was then."""
    instruments = Instruments()
    exporter = OpenTelemetryExporter(names, meter_provider=instruments)
    name = named("left over")
    call = Meter(name)(lambda: None)
    call()
    assert instruments.ask("holdfast.attempts", {"operation": name}) == 1
    call()
    virtual_clock.advance(10.0)
    assert instruments.ask("holdfast.calls", {"operation": name, "outcome": "success"}) == 2
    exporter.close()


def test_durations_can_be_left_out(names: Registry, reader: InMemoryMetricReader) -> None:
    """Without durations nothing is timed."""
    before = len(_counts.asked.each)
    exporter = OpenTelemetryExporter(names, meter_provider=MeterProvider([reader]), durations=False)
    Meter(named("untimed"))(lambda: None)()
    found = observed(reader)
    assert len(_counts.asked.each) == before
    exporter.close()
    assert "holdfast.call.duration" not in found
    assert "holdfast.calls" in found


@pytest.mark.parametrize("provider", [None, NoOpMeterProvider()])
def test_without_an_sdk_nothing_is_measured(names: Registry, provider: Any) -> None:
    """Where only the API is there, nobody collects, and no call is timed."""
    before = (len(_counts.asked.each), _counts.asked.recorders)
    exporter = OpenTelemetryExporter(names, meter_provider=provider)
    assert (len(_counts.asked.each), _counts.asked.recorders) == before
    exporter.close()


def test_decisions_are_events_of_the_current_span(names: Registry) -> None:
    """Each decision is one event of the span in which it was made, in order, without the errors' texts."""
    exporter = OpenTelemetryExporter(names, meter_provider=NoOpMeterProvider())
    finished, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(finished))
    name = named("traced")
    breaker = CircuitBreaker(name, window=Window.consecutive(2))
    names.define(name, Fallback("instead"), Retry(2, wait=0), breaker)
    call = names.resilient(name)(Script(fail(ConnectionError("secret"))).function())
    with provider.get_tracer("test").start_as_current_span("request"):
        assert call() == "instead"
    call()
    exporter.close()
    (span,) = finished.get_finished_spans()
    kinds = [event.name for event in span.events]
    assert kinds == [
        "holdfast.retry_scheduled",
        "holdfast.circuit_opened",
        "holdfast.retry_gave_up",
        "holdfast.fallback_used",
    ]
    first = dict(span.events[0].attributes or {})
    assert first == {
        "holdfast.name": name,
        "holdfast.attempt": 1,
        "holdfast.delay": 0.0,
        "error.type": "ConnectionError",
    }
    assert "secret" not in str([dict(event.attributes or {}) for event in span.events])


def test_span_events_can_be_left_out(names: Registry) -> None:
    """Without span events nobody hears of decisions that are not counted."""
    before = len(bus.entries)
    exporter = OpenTelemetryExporter(names, meter_provider=NoOpMeterProvider(), span_events=False)
    assert len(bus.entries) == before + 1
    exporter.close()


def test_no_event_is_made_that_nobody_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that no subscriber asked for is not even made; several get the same one."""
    made: list[str] = []
    seen: list[events.Event] = []

    class Counted(events.HedgeWon):
        def __new__(cls, **fields: Any) -> Any:
            made.append(fields["name"])
            return super().__new__(cls)

    monkeypatch.setattr(events, "HedgeWon", Counted)
    mine = frozenset("y")
    with events.subscribe(seen.append, names=mine), events.subscribe(seen.append, names=mine):
        emit("HedgeWon", "y", number=1)
    assert (made.pop(), seen[0] is seen[1]) == ("y", True)
    with (
        events.subscribe(lambda _: None, events.CircuitOpened),
        events.subscribe(lambda _: None, names=frozenset("x")),
    ):
        emit("HedgeWon", "nobody", number=1)
        emit("HedgeWon", "x", number=1)
    assert made == ["x"]


def records(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "holdfast.events"
    ]


def test_events_are_logged_as_sentences(
    caplog: pytest.LogCaptureFixture, virtual_clock: VirtualClock
) -> None:
    """Each event is one record: its level by what it means, its fields as extras, its message a sentence."""
    caplog.set_level(logging.INFO, "holdfast.events")
    breaker = CircuitBreaker("logged", window=Window.consecutive(2), open_for=5.0, open_jitter=0.0)
    call = Retry(2, wait=0.5, name="logged")(breaker(Script(fail(ConnectionError("no"))).function()))
    with log_events():
        with pytest.raises(ConnectionError):
            call()
        with pytest.raises(HoldfastError):
            call()
    assert records(caplog) == [
        ("WARNING", "logged: attempt 1 failed with ConnectionError: no; the next follows in 0.5 s."),
        ("ERROR", "logged: the circuit opened for 5 s: 2 failures in a row."),
        ("WARNING", "logged: gave up after attempt 2, 0.5 s after the first failure: no attempts left."),
        ("WARNING", "logged: the circuit breaker refused a call; try again in 5 s."),
    ]
    extras = vars(caplog.records[0])
    assert (extras["holdfast_event"], extras["holdfast_name"]) == ("RetryScheduled", "logged")
    assert (extras["holdfast_attempt"], extras["holdfast_delay"]) == (1, 0.5)
    assert isinstance(extras["holdfast_error"], ConnectionError)


def test_only_what_was_asked_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Kinds, names and the logger's level choose, and a closed subscription ends it."""
    caplog.set_level(logging.WARNING, "holdfast.events")
    with log_events("holdfast.events", events.StorageFailed, events.HedgeWon, names=frozenset({"mine"})):
        emit("StorageFailed", "mine", error=OSError())
        emit("StorageFailed", "other", error=OSError())
        emit("CircuitClosed", "mine")
        emit("HedgeWon", "mine", number=1)
    emit("StorageFailed", "mine", error=OSError()) if bus.entries else None
    assert records(caplog) == [("WARNING", "mine: the shared state could not be reached: OSError.")]


def test_every_event_has_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    """No kind of event is forgotten, and none is told as its bare name."""
    caplog.set_level(logging.INFO, "holdfast.events")
    values: dict[str, Any] = {"error": ValueError("v"), "retry_after": None, "shadow": False, "stale": True}
    values |= {
        "policy": "rate_limit",
        "reason": "r",
        "budget": "b",
        "state": "open",
        "callback": "c",
        "fault": "f",
    }
    kinds = [
        kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, events.Event)
    ]
    with log_events():
        for kind in kinds:
            fields = [name for name in kind.__dataclass_fields__ if name not in {"name", "at"}]
            if kind is not events.Event:
                emit(kind.__name__, "x", **{name: values.get(name, 1) for name in fields})
    said = [message for _, message in records(caplog)]
    assert len(said) == len(kinds) - 1
    assert [message for message in said if not message.endswith(".") or "<" in message] == []
    assert [kind.__name__ for kind in kinds if any(kind.__name__ in message for message in said)] == []


def test_a_handler_that_uses_holdfast_does_not_log_for_ever() -> None:
    """What a handler makes happen while it handles an event is not logged."""
    handled: list[str] = []

    class Shipping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            handled.append(record.getMessage())
            emit("StorageFailed", "the log's own storage", error=OSError())

    logger = logging.Logger("shipping")  # noqa: LOG001  # one that nothing else has
    logger.addHandler(Shipping())
    with log_events(logger):
        emit("CircuitClosed", "first")
        emit("CircuitClosed", "second")
    assert handled == ["first: the circuit closed.", "second: the circuit closed."]


def test_logging_that_fails_changes_no_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that raises, on our logger and on every other, leaves the call as it is."""

    class Broken(Exception):
        pass

    def broken(record: logging.LogRecord) -> bool:
        raise Broken

    logged: set[str] = set()
    monkeypatch.setattr(bus, "logged", logged)
    logger = logging.Logger("broken")  # noqa: LOG001  # one that nothing else has
    logger.addFilter(broken)
    root = logging.getLogger("holdfast")
    root.addFilter(broken)
    try:
        with log_events(logger):
            call = Retry(2, wait=0)(Script(fail(), succeed()).function())
            assert call() == "ok"
    finally:
        root.removeFilter(broken)


def test_an_error_that_cannot_be_shown_is_logged_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """An error whose text fails is known by its class; a long one is cut."""

    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    with log_events():
        emit("StorageFailed", "x", error=Silent())
        emit("StorageFailed", "x", error=OSError("y" * 1000))
    first, second = (message for _, message in records(caplog))
    assert first == "x: the shared state could not be reached: Silent."
    assert len(second) < 300


@pytest.mark.parametrize("logger", [None, 3])
def test_what_is_no_logger_is_refused(logger: Any) -> None:
    """A logger, or the name of one."""
    with pytest.raises(ConfigurationError):
        log_events(logger)


def test_the_page_says_what_is_exported() -> None:
    """The table of the page has each metric once, with its type, its labels and its OpenTelemetry name."""
    rows = re.findall(
        r"^\| `(holdfast_\w+)` \| (\w+) \| ([^|]*) \| `([\w.]+)` \|", PAGE.read_text("utf-8"), re.MULTILINE
    )
    said = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), otel) for name, kind, labels, otel in rows}
    assert said == {metric.name: (metric.kind, metric.labels, metric.otel) for metric in TABLE}
    assert len(rows) == len(TABLE)
