"""OpenTelemetry: metrics, and events on the current span (extra `otel`). Names and attributes stand in the docs."""

from typing import Any

from holdfast.infrastructure.resilience.registry import Registry

class OpenTelemetryExporter:
    """Observe meters, breakers, budgets and limits through `meter_provider`, and write events on the current span.

    `meter_provider` is by default the common one; until an SDK is behind it nothing is measured. At most `max_names`
    operations, and policies of a kind, get an attribute of their own; the rest share `other`. ImportError where
    opentelemetry-api is missing, ConfigurationError for bad settings. `durations`: record how long each call takes,
    which costs what a histogram of the SDK costs.
    """

    def __init__(
        self,
        registry: Registry = ...,
        *,
        meter_provider: Any = None,
        durations: bool = True,
        span_events: bool = True,
        max_names: int = 200,
    ) -> None: ...
    def close(self) -> None:
        """Stop observing and writing; a second time does nothing."""
