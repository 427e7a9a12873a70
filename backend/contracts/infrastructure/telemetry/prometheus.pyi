"""Prometheus: a collector for prometheus-client (extra `prometheus`). Names and labels stand in the docs."""

from collections.abc import Iterator
from typing import Any

from holdfast.infrastructure.resilience.registry import Registry

class PrometheusExporter:
    """Collect meters, breakers, budgets and limits when scraped, and count events in between; labels are bounded.

    At most `max_names` operations, and policies of a kind, get a label of their own; the rest share `other`. It joins
    `into`, a `CollectorRegistry` such as `prometheus_client.REGISTRY`, if that is given. `buckets`: upper bounds,
    seconds. ImportError where prometheus-client is missing, ConfigurationError for bad settings.
    """

    def __init__(
        self,
        registry: Registry = ...,
        *,
        into: Any = None,
        buckets: tuple[float, ...] = ...,
        max_names: int = 200,
    ) -> None: ...
    def describe(self) -> list[Any]:
        """Return the families without samples, as prometheus-client asks for them."""

    def collect(self) -> Iterator[Any]:
        """Yield the families with their samples, as prometheus-client asks for them."""

    def text(self) -> str:
        """Return what a scrape gets, in the Prometheus text format."""

    def close(self) -> None:
        """Leave the prometheus registry and stop counting; a second time does nothing."""

METRICS: dict[str, tuple[str, str, tuple[str, ...]]]
