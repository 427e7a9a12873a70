"""The API as a router to mount into any FastAPI application, and as an application of its own."""

from __future__ import annotations

import asyncio
import importlib
import sys
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse

from holdfast.api.internal.resilience._breakers import Breakers
from holdfast.api.internal.resilience._configuration import Configurations
from holdfast.api.internal.resilience._context import Context
from holdfast.api.internal.resilience._monitoring import Monitoring
from holdfast.api.internal.resilience._page import Events, Page
from holdfast.api.internal.resilience._performance import Performance
from holdfast.api.internal.resilience._policies import Policies
from holdfast.api.internal.resilience._server import run
from holdfast.api.internal.resilience.auth import ApiKeys
from holdfast.api.internal.resilience.problems import install_problems
from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.resilience._weak import Weakly, when_gone
from holdfast.infrastructure.resilience.live import LiveConfiguration
from holdfast.infrastructure.resilience.live import live as common_live
from holdfast.infrastructure.telemetry.feed import Feed
from holdfast.infrastructure.telemetry.monitor import Monitor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from holdfast.infrastructure.resilience.live import Change
    from holdfast.infrastructure.resilience.registry import Registry
    from holdfast.infrastructure.telemetry.monitor import Alert
    from holdfast.infrastructure.telemetry.prometheus import PrometheusExporter

PREFIX: str = "/internal/resilience"

# Where `serve` has jobs, seen from the dashboard: behind a proxy too.
_JOBS = "../jobs"
# The version of the interface, not of the library.
_VERSION = "1"


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
    ) -> None:
        self.live = common_live() if live is None else live
        self._made: list[Callable[[], None]] = []
        registry = self.live.registry
        self.feed = self._keep(Feed()) if feed is None else feed
        self.monitor = self._keep(Monitor(registry)) if monitor is None else monitor
        self.exporter = self._export(registry) if exporter is None else exporter
        self._listen(self.live.subscribe, self._tell_change)
        self._listen(self.monitor.subscribe, self._tell_alert)
        if monitor is None:
            self.monitor.start()

    def close(self) -> None:
        """Close what it made."""
        while self._made:
            self._made.pop()()

    def _keep(self, made: Any) -> Any:
        self._made.append(made.close)
        return made

    def _listen(self, subscribe: Callable[[Any], Callable[[], None]], tell: Callable[[Any], None]) -> None:
        end = subscribe(Weakly(tell))
        self._made.append(end)
        when_gone(self, end)

    def _export(self, registry: Registry) -> PrometheusExporter | None:
        try:
            from holdfast.infrastructure.telemetry.prometheus import PrometheusExporter

            exporter: PrometheusExporter = self._keep(PrometheusExporter(registry))
        except ImportError:
            return None
        return exporter

    def _tell_change(self, change: Change) -> None:
        facts = change.as_dict()
        shown = ("number", "actor", "action", "reason", "changed", "error")
        self.feed.publish("ConfigurationChanged", change.action, {name: facts[name] for name in shown})

    def _tell_alert(self, alert: Alert) -> None:
        kind = "AlertBegan" if alert.until is None else "AlertEnded"
        self.feed.publish(kind, alert.subject, alert.as_dict())


def create_router(
    operations: Operations, *, keys: ApiKeys | None = None, dashboard: bool = True, jobs: str | None = None
) -> APIRouter:
    """Return the router; mount it under a prefix of your choice. `keys` by default come from the environment.

    `jobs`: where the API of jobs is, seen from the dashboard, which then shows them: "../jobs".
    """
    return _context(operations, keys, dashboard=dashboard, jobs=jobs).router()


def create_app(
    operations: Operations | None = None,
    *,
    keys: ApiKeys | None = None,
    prefix: str = PREFIX,
    dashboard: bool = True,
    jobs: str | None = None,
) -> FastAPI:
    """Return an application that serves the router, its OpenAPI document and nothing else."""
    made = Operations() if operations is None else operations

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        try:
            async with context.lifespan(app):
                yield
        finally:
            if operations is None:
                await asyncio.to_thread(made.close)

    # No pages of FastAPI's own, which load scripts from elsewhere; the document is guarded as everything is.
    app = FastAPI(title="holdfast", version=_VERSION, openapi_url=None, lifespan=lifespan)
    context = _context(made, keys, dashboard=dashboard, app=app, prefix=prefix, jobs=jobs)

    def get_openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    context.reading.get("/openapi.json", include_in_schema=False)(get_openapi)
    # Not included: FastAPI looks for a route of an included router twice.
    app.router.routes.extend(context.routes())
    install_problems(app)
    return app


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
    found = ApiKeys.from_environ() if keys is None else keys
    if app is not None:
        _import(app)
    operations = Operations()
    with ExitStack() as made:
        made.callback(operations.close)
        served = create_app(operations, keys=found, jobs=None if store is None else _JOBS)
        if store is not None:
            made.callback(_add_jobs(served, store, handlers, found))
        run(served, host, port, PREFIX, open_to_all=not len(found))


def _add_jobs(app: FastAPI, store: str, handlers: Iterable[str], keys: ApiKeys) -> Callable[[], None]:
    """Let an application serve jobs too; return what closes their store."""
    # It builds on this package.
    from holdfast.api.internal.jobs import app as jobs

    _look_here()
    tenants = jobs.Tenants(store, handlers)
    app.include_router(jobs.create_router(tenants, keys=keys), prefix=jobs.PREFIX)
    return tenants.close


def _context(operations: Operations, keys: ApiKeys | None, *, dashboard: bool, **place: Any) -> Context:
    context = Context(operations, ApiKeys.from_environ() if keys is None else keys, **place)
    for routes in (Policies, Breakers, Configurations, Monitoring, Performance, Events):
        routes(context)
    if dashboard:
        Page(context)
    return context


def _import(target: str) -> None:
    """Import a module, and find what is named in it."""
    module, _, name = target.partition(":")
    _look_here()
    found: Any = importlib.import_module(module)
    faults = Faults("serve")
    for part in name.split(".") if name else ():
        faults.check(hasattr(found, part), "app", target, f"has no {part!r}", "give module:name")
        faults.finish()
        found = getattr(found, part)


def _look_here() -> None:
    """Let modules of the current folder be imported."""
    if "" not in sys.path:
        sys.path.insert(0, "")
