"""What the routes of one router share."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends

from holdfast.api.internal.jobs import _http
from holdfast.api.internal.resilience import _http as _common
from holdfast.api.internal.resilience._guard import Guard, tenant
from holdfast.api.internal.resilience._streams import Streams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from fastapi import Request

    from holdfast.api.internal.jobs.app import Tenants
    from holdfast.api.internal.resilience.auth import ApiKeys
    from holdfast.services.jobs.jobs import Jobs

_BODY_FAULTS = (408, 413, 415)


class Context:
    """What the routes of one router share: whose jobs there are, who may, and the streams that are open."""

    def __init__(self, tenants: Tenants, keys: ApiKeys, body_bytes: int) -> None:
        self.tenants = tenants
        self.body_bytes = body_bytes
        self.guard = Guard(keys)
        self.streams = Streams()
        self.reading = self._router(self.guard.read)
        self.operating = self._router(self.guard.operate)

    @staticmethod
    def _router(allowed: Callable[..., Any]) -> APIRouter:
        return APIRouter(
            route_class=_http.Route,
            dependencies=[Depends(allowed)],
            tags=["jobs"],
            generate_unique_id_function=_operation_id,
        )

    def jobs(self, request: Request) -> Jobs:
        """Return the jobs of the client's tenant. Call it in a thread: a store may have to be opened."""
        return self.tenants.jobs(tenant(request))

    async def ajobs(self, request: Request) -> Jobs:
        """Return the jobs of the client's tenant."""
        return await asyncio.to_thread(self.jobs, request)

    def reads(self, path: str, endpoint: Callable[..., Any], model: Any, *faults: int, **more: Any) -> None:
        """Add a route for those who may read."""
        more["responses"] = {**_http.answers(401, 403, 404, 503, *faults), **more.pop("responses", {})}
        extra = _common.facts_of("read")
        self.reading.get(path, response_model=model, status_code=200, openapi_extra=extra, **more)(endpoint)

    def operates(
        self, path: str, endpoint: Callable[..., Any], model: Any, body: Any, *faults: int, **more: Any
    ) -> None:
        """Add a route for those who may operate; it reads its body by itself: a model as JSON, or what is declared."""
        declared = _http.answers(401, 403, 404, 422, 503, *_BODY_FAULTS, *faults) | more.pop("responses", {})
        extra = {"x-role": "operate", "requestBody": _http.body_of(body), **more.pop("extra", {})}
        self.operating.post(path, response_model=model, responses=declared, openapi_extra=extra, **more)(
            endpoint
        )

    def router(self) -> APIRouter:
        """Return one router with all routes; when its application ends, so do its streams."""
        made = APIRouter(lifespan=self._lifespan)
        # Those with more in their path come first: an id may hold slashes.
        routes: list[Any] = [*self.operating.routes, *self.reading.routes]
        for one in routes:
            one.allowed = {method for other in routes if other.path == one.path for method in other.methods}
        made.routes.extend(sorted(routes, key=_ends_in_name))
        return made

    @asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncGenerator[None]:
        self.streams.reopen()
        try:
            yield
        finally:
            self.streams.close()


def _operation_id(route: Any) -> str:
    return f"jobs_{route.name}"


def _ends_in_name(route: Any) -> bool:
    return bool(route.path.endswith("}"))
