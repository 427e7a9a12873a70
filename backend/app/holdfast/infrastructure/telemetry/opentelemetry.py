"""OpenTelemetry: metrics, and events on the current span (extra `otel`). Names and attributes stand in the docs."""

from __future__ import annotations

import threading
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience import _counts, events, registry
from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.resilience._weak import Weakly, when_gone
from holdfast.infrastructure.resilience.meter import _BOUNDS, measure_durations
from holdfast.infrastructure.telemetry._figures import DURATION, TABLE, Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.infrastructure.resilience.registry import Registry
    from holdfast.infrastructure.telemetry._figures import Labels, Metric

_SCOPE = "holdfast"
# Seconds for which what was collected serves the other instruments of the same collection.
_FRESH = 1.0


class OpenTelemetryExporter:
    """Observe meters, breakers, budgets and limits through `meter_provider`, and write events on the current span.

    `meter_provider` is by default the common one; until an SDK is behind it nothing is measured. At most `max_names`
    operations, and policies of a kind, get an attribute of their own; the rest share `other`. ImportError where
    opentelemetry-api is missing, ConfigurationError for bad settings. `durations`: record how long each call takes,
    which costs what a histogram of the SDK costs.
    """

    def __init__(
        self,
        registry: Registry = registry.registry,
        *,
        meter_provider: Any = None,
        durations: bool = True,
        span_events: bool = True,
        max_names: int = 200,
    ) -> None:
        metrics, trace = _api()
        faults = Faults("OpenTelemetryExporter")
        faults.number("max_names", max_names, 1, 100_000, whole=True)
        for name, value in (("durations", durations), ("span_events", span_events)):
            faults.check(isinstance(value, bool), name, value, "is not a bool", "give a bool")
        faults.finish()
        self._observation = metrics.Observation
        self._current_span = trace.get_current_span
        self._collected = threading.local()
        self._ends: list[Callable[[], object]] = []
        self._closed = False
        self._source = Source(registry, (), max_names)
        self._ends.append(self._source.close)
        if span_events:
            self._until_gone(events.subscribe(Weakly(self._write)).close)
        provider = meter_provider or metrics.get_meter_provider()
        self._measuring = not durations
        self._histogram = self._instrument(provider.get_meter(_SCOPE))
        if _measures(provider):
            self._measure()

    def close(self) -> None:
        """Stop observing and writing; a second time does nothing."""
        self._closed = True
        while self._ends:
            self._ends.pop()()

    def _until_gone(self, *ends: Callable[[], object]) -> None:
        self._ends += ends
        when_gone(self, *ends)

    def _instrument(self, meter: Any) -> Any:
        makers = {"counter": meter.create_observable_counter, "gauge": meter.create_observable_gauge}
        for metric in TABLE:
            if metric is not DURATION:
                callback = partial(self._observe, metric)
                makers[metric.kind](metric.otel, [callback], unit=metric.unit, description=metric.help)
        return meter.create_histogram(
            DURATION.otel,
            unit=DURATION.unit,
            description=DURATION.help,
            explicit_bucket_boundaries_advisory=list(_BOUNDS),
        )

    def _measure(self) -> None:
        with _counts.asked.lock:
            if self._measuring or self._closed:
                return
            self._measuring = True
            record = Weakly(self._record)
            _counts.asked.tell(record)
            self._until_gone(partial(_counts.asked.leave, record), measure_durations())

    def _record(self, name: str, took: float) -> None:
        self._histogram.record(took, {"operation": self._source.operation(name)})

    def _observe(self, metric: Metric, _: object) -> list[Any]:
        if self._closed:
            return []
        self._measure()
        return [
            self._observation(value, dict(zip(metric.labels, labels, strict=True)))
            for labels, value in self._take(metric.name).items()
        ]

    def _take(self, name: str) -> dict[Labels, float]:
        """Return the values of one metric; all instruments of a collection, which is one thread's, share a look."""
        collected, now = self._collected, ambient.monotonic()
        left: dict[str, dict[Labels, float]] = getattr(collected, "left", {})
        if name not in left or not 0 <= now - collected.at <= _FRESH:
            left = collected.left = self._source.collect().values.copy()
            collected.at = now
        return left.pop(name)

    def _write(self, event: events.Event) -> None:
        span = self._current_span()
        if span.is_recording():
            span.add_event(f"{_SCOPE}.{_snake(type(event).__name__)}", dict(_attributes(event)))


def _api() -> tuple[Any, Any]:
    try:
        from opentelemetry import metrics, trace
    except ImportError as error:
        raise ImportError(
            "OpenTelemetryExporter needs opentelemetry-api, which is not installed: pip install 'holdfast[otel]'"
        ) from error
    return metrics, trace


def _measures(provider: object) -> bool:
    """Return whether there is more behind a provider than the API, which does nothing."""
    return not type(provider).__module__.startswith("opentelemetry.metrics")


@cache
def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def _attributes(event: events.Event) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for field in event.__dataclass_fields__:
        value = getattr(event, field)
        if isinstance(value, BaseException):
            attributes["error.type"] = type(value).__name__
        elif value is not None and field != "at":
            attributes[f"{_SCOPE}.{field}"] = value
    return attributes
