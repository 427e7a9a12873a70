"""Prometheus: a collector for prometheus-client (extra `prometheus`). Names and labels stand in the docs."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience import registry
from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.resilience._weak import when_gone
from holdfast.infrastructure.resilience.meter import measure_durations
from holdfast.infrastructure.telemetry._figures import DURATION, TABLE, Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from holdfast.infrastructure.resilience.registry import Registry
    from holdfast.infrastructure.telemetry._figures import Figures, Metric

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

METRICS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    metric.name: (metric.kind, metric.help, metric.labels) for metric in TABLE
}


class PrometheusExporter:
    """Collect meters, breakers, budgets and limits when scraped, and count events in between; labels are bounded.

    At most `max_names` operations, and policies of a kind, get a label of their own; the rest share `other`. It joins
    `into`, a `CollectorRegistry` such as `prometheus_client.REGISTRY`, if that is given. `buckets`: upper bounds,
    seconds. ImportError where prometheus-client is missing, ConfigurationError for bad settings.
    """

    def __init__(
        self,
        registry: Registry = registry.registry,
        *,
        into: Any = None,
        buckets: tuple[float, ...] = _BUCKETS,
        max_names: int = 200,
    ) -> None:
        _client()
        faults = Faults("PrometheusExporter")
        faults.number("max_names", max_names, 1, 100_000, whole=True)
        fine = type(buckets) is tuple and bool(buckets)
        faults.check(fine, "buckets", buckets, "is no tuple of bounds", "give upper bounds in seconds")
        faults.finish()
        self._into = into
        self._end = measure_durations(*buckets)
        when_gone(self, self._end)
        self._source = Source(registry, (*buckets, inf), max_names)
        if into is not None:
            self._join(into)

    def _join(self, into: Any) -> None:
        try:
            into.register(self)
        except BaseException:
            self._into = None
            self.close()
            raise

    def describe(self) -> list[Any]:
        """Return the families without samples, as prometheus-client asks for them."""
        return [_family(metric) for metric in TABLE]

    def collect(self) -> Iterator[Any]:
        """Yield the families with their samples, as prometheus-client asks for them."""
        figures = self._source.collect()
        for metric in TABLE:
            family = _family(metric)
            _fill(family, metric, figures)
            yield family

    def text(self) -> str:
        """Return what a scrape gets, in the Prometheus text format."""
        text: bytes = _client().generate_latest(self)
        return text.decode()

    def close(self) -> None:
        """Leave the prometheus registry and stop counting; a second time does nothing."""
        into, self._into = self._into, None
        if into is not None:
            into.unregister(self)
        self._end()
        self._source.close()


def _client() -> ModuleType:
    try:
        import prometheus_client
    except ImportError as error:
        raise ImportError(
            "PrometheusExporter needs prometheus-client, which is not installed: pip install 'holdfast[prometheus]'"
        ) from error
    return prometheus_client


def _family(metric: Metric) -> Any:
    from prometheus_client import core  # it is there: the constructor looked

    kinds = {
        "counter": core.CounterMetricFamily,
        "gauge": core.GaugeMetricFamily,
        "histogram": core.HistogramMetricFamily,
    }
    return kinds[metric.kind](metric.name, metric.help, labels=metric.labels)


def _fill(family: Any, metric: Metric, figures: Figures) -> None:
    if metric is not DURATION:
        for labels, value in figures.values[metric.name].items():
            family.add_metric(labels, value)
        return
    bounds = ["+Inf" if bound == inf else str(bound) for bound in figures.bounds]
    for labels, duration in figures.durations.items():
        family.add_metric(
            labels, list(zip(bounds, duration.buckets, strict=True)), sum_value=duration.seconds
        )
