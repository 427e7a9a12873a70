"""What there is now, over HTTP: policies, pipelines, metrics, health, and all that a page begins with."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request, Response

from holdfast.api.internal.resilience import _breakers, _http, _models
from holdfast.api.internal.resilience._guard import role
from holdfast.api.internal.resilience.problems import _problem as problem
from holdfast.infrastructure.resilience.clock import current_clock
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.telemetry.inventory import _breaker_modes as breaker_modes
from holdfast.infrastructure.telemetry.inventory import inventory, pipelines

if TYPE_CHECKING:
    from holdfast.api.internal.resilience._context import Context

_Page = Annotated[_http.Page, Depends(_http.page)]
_MOST = 200
_OPEN = {CircuitState.OPEN, CircuitState.HALF_OPEN, CircuitState.ISOLATED}
_METRICS = "text/plain; version=0.0.4; charset=utf-8"


class Policies:
    """The routes of what there is now."""

    def __init__(self, context: Context) -> None:
        self._context = context
        context.open.get("/health", response_model=_models.Health, openapi_extra=_http.facts_of("open"))(
            self.get_health
        )
        context.quicken(context.open, {"request": Request})
        context.reads("/policies", self.list_policies, _models.PolicyPage, 422)
        context.reads("/pipelines", self.list_pipelines, _models.PipelinePage, 422)
        context.reads("/snapshot", self.get_snapshot, _models.Snapshot)
        said = {"description": "Prometheus text", "content": {"text/plain": {"schema": {"type": "string"}}}}
        context.reads("/metrics", self.get_metrics, None, 503, response_class=Response, responses={200: said})

    async def get_health(self, request: Request) -> dict[str, Any]:
        """Return whether every circuit is closed; open to probes, which learn no names. The status is always 200."""
        states = await self._context.look(lambda: breaker_modes(self._context.registry))
        names = [name for name, state in states if state in _OPEN]
        reader = self._context.guard.may_read(request)
        return {
            "status": "degraded" if names else "ok",
            "open": names[:_MOST] if reader else [],
            "open_count": len(names),
            "version": _version() if reader else None,
        }

    def list_policies(self, page: _Page) -> dict[str, Any]:
        """Return every stateful policy with its facts."""
        return page.of(inventory(self._context.registry))

    def list_pipelines(self, page: _Page) -> dict[str, Any]:
        """Return what each named pipeline guarantees."""
        found = pipelines(self._context.registry)
        return page.of([{**found[name], "name": name} for name in sorted(found)])

    def get_metrics(self) -> Response:
        """Return metrics in the Prometheus text format."""
        exporter = self._context.operations.exporter
        if exporter is None:
            raise problem(503, "There is no exporter: pip install 'holdfast[prometheus]'.")
        return Response(exporter.text(), media_type=_METRICS)

    def get_snapshot(self, request: Request) -> dict[str, Any]:
        """Return all that a page begins with, at most 200 of each; the events after `last_event` go on from here."""
        operations = self._context.operations
        last = operations.feed.last
        states = inventory(self._context.registry)
        breakers = [state for state in states if state.kind == "circuit_breaker"][:_MOST]
        current = operations.live.current
        return {
            "at": current_clock().time(),
            "breakers": [_breakers.summary(state) for state in breakers],
            "usage": [one.as_dict() for one in operations.monitor.usage()[:_MOST]],
            "policies": states[:_MOST],
            "alerts": [one.as_dict() for one in operations.monitor.alerts(limit=_MOST)],
            "configuration": {
                "version": operations.live.version,
                "preset": current.preset,
                "strategy": current.strategy,
                "enabled": current.enabled,
            },
            "last_event": last,
            "feed": operations.feed.born,
            "role": role(request),
            "jobs": self._context.jobs,
        }


@cache
def _version() -> str:
    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "unknown"
