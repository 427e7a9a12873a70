"""Figures over time and alerts, over HTTP."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Depends, Query, Response

from holdfast.api.internal.resilience import _http, _models
from holdfast.api.internal.resilience.problems import _problem as problem

if TYPE_CHECKING:
    from holdfast.api.internal.resilience._context import Context
    from holdfast.infrastructure.telemetry.monitor import Monitor, Usage

_Page = Annotated[_http.Page, Depends(_http.page)]
_Seconds = Annotated[float, Query(ge=1, le=86_400, description="How far to look back.")]
_MOST = 200
_KINDS = {"json": "application/json", "csv": "text/csv"}


class Monitoring:
    """The routes of the monitor."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._monitor: Monitor = context.operations.monitor
        add = context.reads
        add("/monitoring/usage", self.list_usage, _models.UsagePage, 422, quick={"page": _http.FIRST_PAGE})
        add("/monitoring/trends", self.get_trends, _models.Trends, 404, 422)
        add("/monitoring/performance", self.list_latencies, _models.LatencyPage, 422)
        add("/monitoring/alerts", self.list_alerts, _models.Alerts, 422)
        add("/monitoring/thresholds", self.list_alert_thresholds, _models.Thresholds)
        add(
            "/monitoring/export",
            self.export_monitoring,
            None,
            422,
            response_class=Response,
            responses={200: {"description": "Everything, as a document", "content": _EXPORTED}},
        )

    async def list_usage(self, page: _Page, seconds: _Seconds = 300.0) -> dict[str, Any]:
        """Return what each operation did."""
        part = page.of(await self._context.look(lambda: self._usage(seconds)))
        return {**part, "items": [one.as_dict() for one in part["items"]], "seconds": seconds}

    def get_trends(
        self,
        operation: Annotated[str | None, Query(max_length=1000)] = None,
        seconds: _Seconds = 3600.0,
        points: Annotated[int, Query(ge=1, le=500)] = 60,
    ) -> dict[str, Any]:
        """Return figures over time, of one operation or of all together."""
        if operation is not None and operation not in {one.operation for one in self._usage(86_400.0)}:
            raise problem(404, "There is no operation of that name.")
        found = self._monitor.trends(operation, seconds=seconds, points=points)
        return {"operation": operation, "seconds": seconds, "points": found}

    def list_latencies(self, page: _Page, seconds: _Seconds = 300.0) -> dict[str, Any]:
        """Return how fast operations were, slowest first."""
        slowest = sorted(self._usage(seconds), key=_slowness)
        return {**page.of(slowest), "seconds": seconds}

    def list_alerts(
        self, active: bool | None = None, limit: Annotated[int, Query(ge=1, le=_MOST)] = 50
    ) -> dict[str, Any]:
        """Return alerts, newest first; `active` keeps those that are passed now, or no longer."""
        return {"items": [one.as_dict() for one in self._monitor.alerts(active=active, limit=limit)]}

    async def list_alert_thresholds(self) -> dict[str, Any]:
        """Return when alerts fire."""
        return {"items": list(self._monitor.thresholds)[:_MOST]}

    def export_monitoring(
        self,
        format: Literal["json", "csv"] = "json",  # noqa: A002  # the query's own name
        seconds: _Seconds = 3600.0,
    ) -> Response:
        """Return everything that the monitor keeps, as one document."""
        text = self._monitor.export(format, seconds=seconds)
        headers = {"Content-Disposition": f'attachment; filename="resilience.{format}"'}
        return Response(text, media_type=_KINDS[format], headers=headers)

    def _usage(self, seconds: float) -> list[Usage]:
        return self._monitor.usage(seconds=seconds)


_EXPORTED: dict[str, Any] = {
    "application/json": {"schema": {"type": "object"}},
    "text/csv": {"schema": {"type": "string"}},
}


def _slowness(usage: Usage) -> tuple[float, str]:
    return (inf if usage.p95 is None else -usage.p95, usage.operation)
