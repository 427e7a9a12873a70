"""The API as a router to mount into any FastAPI application, and as an application of its own."""

from collections.abc import Iterable

from fastapi import APIRouter, FastAPI

from holdfast.api.internal.resilience.auth import ApiKeys
from holdfast.infrastructure.resilience.live import LiveConfiguration
from holdfast.infrastructure.telemetry.feed import Feed
from holdfast.infrastructure.telemetry.monitor import Monitor
from holdfast.infrastructure.telemetry.prometheus import PrometheusExporter

PREFIX: str = "/internal/resilience"

class Operations:
    """What the API operates on; what is not given is made, over the common registry. Close it when the service ends.

    `exporter` is None where prometheus-client is not installed. Changes and alerts are told to the feed. One that
    nobody refers to any more stops by itself.
    """

    live: LiveConfiguration
    monitor: Monitor
    feed: Feed
    exporter: PrometheusExporter | None
    def __init__(
        self,
        *,
        live: LiveConfiguration | None = None,
        monitor: Monitor | None = None,
        feed: Feed | None = None,
        exporter: PrometheusExporter | None = None,
    ) -> None: ...
    def close(self) -> None:
        """Close what it made."""

def create_router(
    operations: Operations, *, keys: ApiKeys | None = None, dashboard: bool = True, jobs: str | None = None
) -> APIRouter:
    """Return the router; mount it under a prefix of your choice. `keys` by default come from the environment.

    `jobs`: where the API of jobs is, seen from the dashboard, which then shows them: "../jobs".
    """

def create_app(
    operations: Operations | None = None,
    *,
    keys: ApiKeys | None = None,
    prefix: str = "/internal/resilience",
    dashboard: bool = True,
    jobs: str | None = None,
) -> FastAPI:
    """Return an application that serves the router, its OpenAPI document and nothing else."""

def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8642,
    app: str | None = None,
    keys: ApiKeys | None = None,
    store: str | None = None,
    handlers: Iterable[str] = (),
) -> None:
    """Serve the API until interrupted; `app` (`module:name`) is imported first, so that its operations are there.

    With a `store` (a URL, or a path of SQLite's), the API of jobs too; clients may name these `handlers`
    (`module:function`) and no others. ConfigurationError for a host other than loopback while there are no keys, and
    for an address that cannot be had.
    """
