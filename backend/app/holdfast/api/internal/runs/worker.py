"""A worker over HTTP: it takes orders that a `HttpTarget` posts, and executes them as subprocesses."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from holdfast.api.internal.jobs import _http
from holdfast.api.internal.resilience import _http as _common
from holdfast.api.internal.resilience._guard import Guard
from holdfast.api.internal.resilience.auth import ApiKeys
from holdfast.api.internal.resilience.problems import _problem as problem
from holdfast.api.internal.resilience.problems import install_problems
from holdfast.services.jobs.graphs.http import UrlBlobs
from holdfast.services.jobs.graphs.local import LocalTarget
from holdfast.services.jobs.graphs.ports import Work
from holdfast.services.jobs.graphs.secrets import Secrets

PREFIX: str = "/internal/orders"

_BODY_BYTES = 65_536
_SECONDS = 10.0


class _Order(BaseModel):
    """An order, with addresses for what it needs."""

    model_config = ConfigDict(extra="forbid")

    run: str = Field(min_length=1, max_length=64)
    order: str = Field(min_length=1, max_length=100)
    number: int = Field(ge=1)
    target: str
    timeout: float = Field(gt=0)
    archive: str = Field(pattern="^https?://")
    started: str = Field(pattern="^https?://")
    result: str = Field(pattern="^https?://")
    log: str = Field(pattern="^https?://")


def create_worker_app(
    *,
    keys: ApiKeys | None = None,
    prefix: str = "/internal/orders",
    blobs: UrlBlobs | None = None,
    concurrency: int = 4,
    cpu: int = 3600,
    memory: int = 4_294_967_296,
    log_limit: int = 1_048_576,
    secrets: Secrets | None = None,
) -> FastAPI:
    """Return an application that executes orders: POST takes one, DELETE `/{run}/{number}` ends it.

    Limits are those of `LocalTarget`; when the application ends, what runs is killed and says so. `keys` by default
    come from the environment; without keys only this machine may send orders.
    """
    blobs = blobs or UrlBlobs()
    target = LocalTarget(
        blobs,
        _Nobody(),
        concurrency=concurrency,
        cpu=cpu,
        memory=memory,
        log_limit=log_limit,
        secrets=secrets,
    )
    routes = _Routes(Guard(ApiKeys.from_environ() if keys is None else keys), blobs, target)
    app = FastAPI(title="holdfast worker", openapi_url=None, lifespan=routes.lifespan)
    app.include_router(routes.router, prefix=prefix)
    install_problems(app)
    return app


class _Routes:
    def __init__(self, guard: Guard, blobs: UrlBlobs, target: LocalTarget) -> None:
        self._blobs, self._target = blobs, target
        self._works: dict[tuple[str, int], Work] = {}
        self.router = APIRouter(route_class=_http.Route, dependencies=[Depends(guard.operate)])
        self.router.post("", status_code=202)(self.take_order)
        self.router.delete("/{run}/{number}", status_code=204)(self.end_order)

    @asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncGenerator[None]:
        """Kill what runs when the application ends."""
        yield
        self._target.close(cancel=True)
        self._blobs.close()

    async def take_order(self, request: Request) -> dict[str, Any]:
        """Execute an order, unless as many as may be run; one that it has already is welcome."""
        body = await _common.bounded(request, _BODY_BYTES, _SECONDS)
        work = Work(**_common.parse(_Order, body).model_dump())
        if not self._target.dispatch(work):
            raise problem(503, "As many orders run as may.", headers={"Retry-After": "1"})
        if len(self._works) > 2 * self._target.running + 100:
            self._works = {name: one for name, one in self._works.items() if self._target.has(one)}
        self._works[work.run, work.number] = work
        return {"run": work.run, "number": work.number}

    def end_order(self, run: Annotated[str, "the run"], number: int) -> Response:
        """End an order that runs here."""
        work = self._works.get((run, number))
        if work is None:
            raise problem(404, "There is no such order here.")
        self._target.cancel(work)
        return Response(status_code=204)


class _Nobody:
    """Whoever hears of results hears from where they are sent."""

    def stored(self, key: str) -> None:
        """Do nothing."""
