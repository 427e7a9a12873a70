"""What listens and is never closed: it stops when nobody refers to it any more, and not before."""

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from holdfast.api.internal.resilience.app import Operations
from holdfast.infrastructure.resilience._bus import bus, emit
from holdfast.infrastructure.resilience._counts import asked
from holdfast.infrastructure.resilience.live import LiveConfiguration
from holdfast.infrastructure.resilience.meter import metered
from holdfast.infrastructure.resilience.registry import Registry
from holdfast.infrastructure.telemetry.feed import Feed
from holdfast.infrastructure.telemetry.monitor import Monitor, Threshold
from holdfast.infrastructure.telemetry.opentelemetry import OpenTelemetryExporter
from holdfast.infrastructure.telemetry.prometheus import PrometheusExporter

LIVE = LiveConfiguration(Registry(), environ={})


def started() -> Monitor:
    made = Monitor(Registry())
    made.start()
    return made


MAKERS: dict[str, Callable[[], Any]] = {
    "feed": Feed,
    "monitor": lambda: Monitor(Registry()),
    "started monitor": started,
    "prometheus": lambda: PrometheusExporter(Registry()),
    "opentelemetry": lambda: OpenTelemetryExporter(Registry(), meter_provider=NoOpMeterProvider()),
    "operations": lambda: Operations(live=LIVE),
}
making = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def listening() -> tuple[Any, ...]:
    """Return who hears events, changes and durations, and who samples."""
    threads = [one for one in threading.enumerate() if one.name == "holdfast-monitor"]
    return bus.entries, list(asked.each), asked.recorders, vars(LIVE)["_subscribers"], threads


def settled() -> tuple[Any, ...]:
    """Return the same when threads that are to end have ended."""
    gc.collect()
    for one in threading.enumerate():
        if one.name == "holdfast-monitor":
            one.join(0.5)
    return listening()


@making
def test_what_nobody_refers_to_stops(make: Callable[[], Any]) -> None:
    """Dropped without being closed, it leaves every list, and its thread ends."""
    gc.collect()
    before = listening()
    made = make()
    assert listening() != before
    del made
    assert settled() == before


@making
def test_in_a_circle_too(make: Callable[[], Any]) -> None:
    """The garbage collector ends it as well as the last reference."""
    gc.collect()
    before = listening()
    made = make()
    made.itself = made
    del made
    assert settled() == before


@making
def test_what_somebody_refers_to_goes_on(make: Callable[[], Any]) -> None:
    """However often the garbage collector runs, what is referred to listens, until it is closed."""
    gc.collect()
    before = listening()
    made = make()
    during = listening()
    gc.collect()
    assert listening() == during
    made.close()
    made.close()
    assert settled() == before
    alive = weakref.ref(made)
    del made
    gc.collect()
    assert alive() is None


def test_a_feed_and_an_exporter_hear_while_they_are_there() -> None:
    """A weak place on the list is a place: events arrive."""
    feed, exporter = Feed(), PrometheusExporter(Registry())
    gc.collect()
    emit("WorkerAbandoned", "unclosed", abandoned=1)
    assert [one.name for one in feed.since(0)] == ["unclosed"]
    assert 'holdfast_events_total{event="WorkerAbandoned",name="unclosed"} 1.0' in exporter.text()
    feed.close()
    exporter.close()


def test_a_provider_keeps_its_exporter() -> None:
    """Whoever scrapes refers to what is scraped: nobody else needs to."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    exporter = weakref.ref(OpenTelemetryExporter(Registry(), meter_provider=provider))
    call = metered("unclosed provider")(lambda: None)
    gc.collect()
    call()
    data = reader.get_metrics_data()
    assert data is not None
    assert "holdfast.call.duration" in [one.name for one in data.resource_metrics[0].scope_metrics[0].metrics]
    kept = exporter()
    assert kept is not None
    kept.close()
    provider.shutdown()


def test_operations_tell_while_somebody_refers_to_them() -> None:
    """Changes and alerts reach the feed through operations that are referred to, and no longer through others."""
    passed = Threshold(name="any", measure="callback_failures", value=0.0)
    feed, monitor = Feed(), Monitor(Registry(), thresholds=[passed])
    operations: Operations | None = Operations(live=LIVE, feed=feed, monitor=monitor)
    gc.collect()
    kinds: list[int] = []
    for _ in range(2):
        emit("CallbackFailed", "unclosed", callback="x", error=ValueError("x"))
        monitor.sample()
        LIVE.use_preset("simple", actor="me")
        kinds.append(sum(one.kind in {"AlertBegan", "ConfigurationChanged"} for one in feed.since(0)))
        operations = None
        gc.collect()
        monitor.sample()
    assert operations is None
    assert kinds == [2, 2]
    monitor.close()
    feed.close()
