"""Metrics × exporters: what a scrape and a collector get is what the upstream server counted."""

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from itertools import count, pairwise
from math import inf
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer

import httpx
import prometheus_client
import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from prometheus_client.parser import text_string_to_metric_families

from backend.tests.integration._client import SkippingClock
from backend.tests.integration._server import HEALTHY, RESET, FaultyServer, respond
from backend.tests.integration.resilience._driver import Mode
from holdfast import CircuitBreaker, Fallback, Registry, Retry, RetryBudget, Timeout, Window
from holdfast.infrastructure.telemetry.opentelemetry import OpenTelemetryExporter
from holdfast.infrastructure.telemetry.prometheus import METRICS, PrometheusExporter

ROOT = Path(__file__).parents[4]
DASHBOARD = ROOT / "docs/telemetry/grafana-dashboard.json"
OUTCOMES = ("success", "failure", "rejected", "cancelled")
BUSY = respond(503)
# Without certificates and proxies, which take longer to set up than a request takes.
PLAIN: dict[str, Any] = {"verify": False, "trust_env": False}

Labels = tuple[tuple[str, str], ...]
_serial = count()


def named(what: str) -> str:
    """Return a name that nobody else uses."""
    return f"{what} {next(_serial)}"


class Scraper:
    """Scrapes a real HTTP endpoint of prometheus-client's, as Prometheus does, and reads what it gets."""

    def __init__(self, names: Registry) -> None:
        self.into = prometheus_client.CollectorRegistry()
        self.exporter = PrometheusExporter(names, into=self.into)
        self.server: WSGIServer
        self.server, self.thread = prometheus_client.start_http_server(0, "127.0.0.1", self.into)

    def scrape(self) -> dict[tuple[str, Labels], float]:
        """Return every sample by name and labels."""
        answer = httpx.get(f"http://127.0.0.1:{self.server.server_port}/metrics", **PLAIN)
        assert answer.status_code == 200
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    def close(self) -> None:
        """Stop the server, and the exporter."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
        self.exporter.close()


def of(found: dict[tuple[str, Labels], float], metric: str, /, **labels: str) -> float:
    return found[f"holdfast_{metric}", tuple(sorted(labels.items()))]


def outcomes(found: dict[tuple[str, Labels], float], operation: str) -> list[float]:
    return [of(found, "calls_total", operation=operation, outcome=outcome) for outcome in OUTCOMES]


def fetcher(names: Registry, name: str, mode: Mode) -> Callable[[str], str]:
    """Return a function that fetches an address under the pipeline of a name, and says how that ended."""

    @names.resilient(name)
    def fetch(url: str) -> str:
        return httpx.get(url, **PLAIN).raise_for_status().text

    @names.resilient(name)
    async def afetch(url: str) -> str:
        async with httpx.AsyncClient(**PLAIN) as client:
            return (await client.get(url)).raise_for_status().text

    def call(url: str) -> str:
        try:
            return fetch(url) if mode == "sync" else asyncio.run(afetch(url))
        except Exception as error:
            return type(error).__name__

    return call


def test_a_scrape_tells_what_the_upstream_counted(
    mode: Mode, names: Registry, http_server: FaultyServer, skipping_clock: SkippingClock
) -> None:
    """Calls are what the caller made, attempts what the server received, retries their difference, by ordinal."""
    name = named("upstream")
    names.define(name, Retry(3), Timeout(5.0))
    call = fetcher(names, name, mode)
    script = [
        [HEALTHY],
        [BUSY, HEALTHY],
        [RESET, BUSY, HEALTHY],
        [BUSY, BUSY, BUSY],
        [respond(404)],
        [HEALTHY],
    ]
    http_server.play(*(behaviour for one in script for behaviour in one))
    with closing(Scraper(names)) as scraper:
        said = [call(http_server.url) for _ in script]
        found = scraper.scrape()
    assert Counter(said) == {"ok": 4, "HTTPStatusError": 2}
    assert outcomes(found, name) == [4, 2, 0, 0]
    assert of(found, "attempts_total", operation=name) == http_server.requests == 11
    assert of(found, "retries_total", operation=name, ordinal="1") == 3
    assert of(found, "retries_total", operation=name, ordinal="2") == 2
    assert of(found, "call_errors_total", operation=name, error="HTTPStatusError") == 2
    assert of(found, "call_duration_seconds_count", operation=name) == len(script)


def test_refused_calls_never_reach_the_upstream(
    mode: Mode, names: Registry, http_server: FaultyServer, skipping_clock: SkippingClock
) -> None:
    """What the breaker refuses is rejected and not received; open, half-open and closed are seen one after another."""
    name = named("refused")
    breaker = CircuitBreaker(
        name, window=Window.consecutive(3), open_for=5.0, open_jitter=0.0, half_open_calls=1
    )
    names.define(name, breaker)
    call = fetcher(names, name, mode)
    http_server.play(*[BUSY] * 3)
    with closing(Scraper(names)) as scraper:
        for _ in range(10):
            call(http_server.url)
        opened = scraper.scrape()
        skipping_clock.skip(5.0)
        assert call(http_server.url) == "ok"
        closed = scraper.scrape()
    assert outcomes(opened, name) == [0, 3, 7, 0]
    assert of(opened, "circuit_breaker_rejected_total", name=name) == 7
    assert of(opened, "circuit_breaker_state", name=name, state="open") == 1
    assert of(opened, "attempts_total", operation=name) - 7 == 3
    assert outcomes(closed, name) == [1, 3, 7, 0]
    assert of(closed, "circuit_breaker_state", name=name, state="closed") == 1
    for state in ("open", "half_open", "closed"):
        assert of(closed, "circuit_breaker_transitions_total", name=name, to=state) == 1
    assert http_server.requests == 4


def test_a_call_that_is_cut_off_is_a_timeout(mode: Mode, names: Registry, http_server: FaultyServer) -> None:
    """A bound that is exceeded on a real socket is a failure and a timeout, and a fallback's answer a fallback."""
    name, saved = named("late"), named("saved")
    names.define(name, Timeout(0.05))
    names.define(saved, Fallback("instead"), Timeout(0.05))
    http_server.play(otherwise=respond(503, after=0.2))
    with closing(Scraper(names)) as scraper:
        assert fetcher(names, name, mode)(http_server.url) == "TimeoutExceeded"
        assert fetcher(names, saved, mode)(http_server.url) == "instead"
        found = scraper.scrape()
    assert (outcomes(found, name), of(found, "call_timeouts_total", operation=name)) == ([0, 1, 0, 0], 1)
    assert (outcomes(found, saved), of(found, "fallbacks_total", operation=saved)) == ([1, 0, 0, 0], 1)


def test_scrapes_during_calls_from_eight_threads(
    names: Registry, http_server: FaultyServer, skipping_clock: SkippingClock
) -> None:
    """Counters only grow, no rate leaves 0 to 1, and at the end every figure is exact."""
    name, share = named("threads"), 15
    names.define(name, Retry(2, budget=RetryBudget(name)), CircuitBreaker(name, failure_rate=1.0))
    call = fetcher(names, name, "sync")
    http_server.play(*[BUSY, HEALTHY, HEALTHY] * 30)
    with closing(Scraper(names)) as scraper:
        threads = [
            threading.Thread(target=lambda: [call(http_server.url) for _ in range(share)]) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        seen = [scraper.scrape()]
        while any(thread.is_alive() for thread in threads):
            seen.append(scraper.scrape())
        for thread in threads:
            thread.join()
        seen.append(scraper.scrape())
    for before, after in pairwise(seen):
        shrunk = [key for key in before if key[0].endswith("_total") and after.get(key, inf) < before[key]]
        assert shrunk == []
    rates = [value for found in seen for (metric, _), value in found.items() if metric.endswith("_rate")]
    assert all(0 <= rate <= 1 for rate in rates)
    last = seen[-1]
    assert sum(outcomes(last, name)) == 8 * share
    assert of(last, "calls_running", operation=name) == 0
    assert of(last, "attempts_total", operation=name) == http_server.requests
    assert of(last, "call_duration_seconds_count", operation=name) == sum(outcomes(last, name)[:2])


def points(server: FaultyServer) -> dict[str, dict[Labels, Any]]:
    """Decode the metrics that a collector was sent last, by name and attributes."""
    body = [one.body for one in server.received if one.path == "/v1/metrics"][-1]
    request = ExportMetricsServiceRequest.FromString(body)
    return {
        metric.name: {
            tuple(sorted((one.key, one.value.string_value) for one in point.attributes)): point
            for point in getattr(metric, str(metric.WhichOneof("data"))).data_points
        }
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_a_collector_receives_what_the_upstream_counted(
    mode: Mode, names: Registry, http_server: FaultyServer, skipping_clock: SkippingClock
) -> None:
    """The SDK's own exporter sends, over a socket, the same facts that a scrape gets; decoded as OTLP says."""
    name = named("collected")
    names.define(name, Retry(3), CircuitBreaker(name))
    call = fetcher(names, name, mode)
    http_server.play(BUSY, HEALTHY, BUSY, BUSY, BUSY, HEALTHY)
    with FaultyServer() as collector:
        reader = PeriodicExportingMetricReader(
            OTLPMetricExporter(endpoint=f"{collector.url}/v1/metrics"), export_interval_millis=inf
        )
        provider = MeterProvider([reader])
        exporter = OpenTelemetryExporter(names, meter_provider=provider)
        said = [call(http_server.url) for _ in range(3)]
        assert provider.force_flush()
        found = points(collector)
        exporter.close()
        provider.shutdown()
    assert said == ["ok", "HTTPStatusError", "ok"]
    calls = {
        outcome: _value(found, "holdfast.calls", operation=name, outcome=outcome) for outcome in OUTCOMES
    }
    assert calls == {"success": 2, "failure": 1, "rejected": 0, "cancelled": 0}
    assert _value(found, "holdfast.attempts", operation=name) == http_server.requests == 6
    assert _value(found, "holdfast.retries", operation=name, ordinal="2") == 1
    assert _value(found, "holdfast.circuit_breaker.state", name=name, state="closed") == 1
    duration = found["holdfast.call.duration"][("operation", name),]
    assert (duration.count, len(duration.bucket_counts)) == (3, len(duration.explicit_bounds) + 1)


def _value(found: dict[str, dict[Labels, Any]], metric: str, /, **attributes: str) -> float:
    point = found[metric][tuple(sorted(attributes.items()))]
    value: float = getattr(point, point.WhichOneof("value"))
    return value


def test_a_collector_receives_decisions_as_span_events(
    mode: Mode, names: Registry, http_server: FaultyServer, skipping_clock: SkippingClock
) -> None:
    """A request's span carries what was decided for it, over a socket, in order; another request's carries its own."""
    name = named("traced")
    names.define(name, Retry(2), CircuitBreaker(name, window=Window.consecutive(2)))
    call = fetcher(names, name, mode)
    http_server.play(otherwise=BUSY)
    with FaultyServer() as collector:
        provider = TracerProvider()
        provider.add_span_processor(
            SimpleSpanProcessor(OTLPSpanExporter(endpoint=f"{collector.url}/v1/traces"))
        )
        exporter = OpenTelemetryExporter(names)
        for request in ("first", "second"):
            with provider.get_tracer("test").start_as_current_span(request):
                call(http_server.url)
        exporter.close()
        provider.shutdown()
        sent = [ExportTraceServiceRequest.FromString(body) for body in collector.bodies]
    spans = [
        span
        for one in sent
        for resource in one.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    told = {span.name: [event.name.removeprefix("holdfast.") for event in span.events] for span in spans}
    assert told == {
        "first": ["retry_scheduled", "circuit_opened", "retry_gave_up"],
        "second": ["call_rejected"],
    }
    opened = spans[0].events[1]
    assert {one.key for one in opened.attributes} >= {"holdfast.name", "holdfast.reason", "holdfast.open_for"}


def test_a_collector_that_is_away_changes_no_call(
    mode: Mode, names: Registry, http_server: FaultyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls go on while nobody receives; what was counted meanwhile is sent when somebody does."""
    name = named("away")
    names.define(name, Timeout(5.0))
    call = fetcher(names, name, mode)
    with FaultyServer() as collector:
        metrics = OTLPMetricExporter(endpoint=f"{collector.url}/v1/metrics", timeout=1)
        provider = MeterProvider([PeriodicExportingMetricReader(metrics, export_interval_millis=inf)])
        exporter = OpenTelemetryExporter(names, meter_provider=provider)
        collector.play(otherwise=respond(400))
        assert call(http_server.url) == "ok"
        provider.force_flush()
        collector.play(otherwise=HEALTHY)
        assert call(http_server.url) == "ok"
        provider.force_flush()
        found = points(collector)
        exporter.close()
        provider.shutdown()
    assert _value(found, "holdfast.calls", operation=name, outcome="success") == 2


def expressions() -> list[str]:
    """Return every query of the dashboard: of panels, and of what one can choose from."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    chosen = [one["definition"] for one in dashboard["templating"]["list"] if "definition" in one]
    return [*targets, *chosen]


def asked(expression: str) -> dict[str, set[str]]:
    """Return the metrics that a query names, and for each the labels that are matched or kept."""
    kept = {one.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for one in group.split(",")}
    chosen = re.findall(r"label_values\((\w+), (\w+)\)", expression)
    found: dict[str, set[str]] = {metric: {label} for metric, label in chosen}
    for metric, matchers in re.findall(r"(holdfast_\w+)(?:\{([^}]*)\})?", expression):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        found[metric] = found.get(metric, set()) | labels | kept
    return found


def family(metric: str) -> str:
    return re.sub(r"_(bucket|count|sum)$", "", metric)


def test_the_dashboard_asks_for_what_there_is(
    names: Registry, http_server: FaultyServer, skipping_clock: SkippingClock
) -> None:
    """Every metric and label of the dashboard is in the table, and the metric in a real scrape."""
    with closing(Scraper(names)) as scraper:
        text = scraper.exporter.text()
    families = {
        f"{one.name}{'_total' * (one.type == 'counter')}" for one in text_string_to_metric_families(text)
    }
    assert expressions()
    for expression in expressions():
        for metric, labels in asked(expression).items():
            assert family(metric) in METRICS, expression
            assert family(metric) in families, expression
            known = {*METRICS[family(metric)][2], *({"le"} if metric.endswith("_bucket") else ())}
            assert labels <= known, expression


def test_a_query_for_what_there_is_not_is_found() -> None:
    """The check above sees metrics and labels wherever they stand in a query."""
    expression = 'sum by (le, name) (rate(holdfast_a_bucket{x="1", y!~"2"}[5m])) / holdfast_b > 0'
    assert asked(expression) == {"holdfast_a_bucket": {"x", "y", "le", "name"}, "holdfast_b": {"le", "name"}}
    assert asked("label_values(holdfast_c, z)") == {"holdfast_c": {"z"}}


def test_every_metric_is_on_the_dashboard_or_of_no_use_there() -> None:
    """What is exported is shown."""
    shown = {family(metric) for expression in expressions() for metric in asked(expression)}
    assert sorted(set(METRICS) - shown) == []
