"""What the routes of one router share."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter, Depends

from holdfast.api.internal.resilience import _http
from holdfast.api.internal.resilience._benchmark import Benchmark
from holdfast.api.internal.resilience._guard import Guard
from holdfast.api.internal.resilience._quick import Quick
from holdfast.api.internal.resilience._streams import Streams
from holdfast.infrastructure.resilience.config import ValidationLimits

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from fastapi import FastAPI

    from holdfast.api.internal.resilience.app import Operations
    from holdfast.api.internal.resilience.auth import ApiKeys
    from holdfast.infrastructure.resilience.registry import Registry

_T = TypeVar("_T")
# So many names take less than a millisecond; a thread for an answer takes about as long.
_FEW = 25


class Context:
    """What the routes of one router share: what they operate on, who may, and what runs meanwhile."""

    def __init__(
        self,
        operations: Operations,
        keys: ApiKeys,
        *,
        app: FastAPI | None = None,
        prefix: str = "",
        jobs: str | None = None,
    ) -> None:
        self.operations = operations
        self.jobs = jobs
        self._app = app
        self._prefix = prefix
        self.guard = Guard(keys)
        self.validations = ValidationLimits()
        self.streams = Streams()
        self.benchmark = Benchmark()
        self.open = self._router()
        self.visiting = self._router(self.guard.visit)
        self.reading = self._router(self.guard.read)
        self.operating = self._router(self.guard.operate)

    def _router(self, *allowed: Callable[..., Any]) -> APIRouter:
        return APIRouter(
            prefix=self._prefix,
            dependency_overrides_provider=self._app,
            route_class=_http.Route,
            dependencies=[Depends(check) for check in allowed],
            tags=["resilience"],
            generate_unique_id_function=_operation_id,
        )

    @property
    def registry(self) -> Registry:
        """The registry whose policies are shown."""
        return self.operations.live.registry

    async def look(self, at: Callable[[], _T]) -> _T:
        """Return what looking at the registry gives: on the loop while that is short, else in a thread."""
        return at() if len(self.registry) <= _FEW else await asyncio.to_thread(at)

    def quicken(self, router: APIRouter, given: Mapping[str, Any]) -> None:
        """Let the newest route answer the quick way, if it is one of an application that is our own.

        What is not given has its default, or is in the path.
        """
        route: Any = router.routes[-1]
        if self._app is not None:
            check = self.guard.check if router is self.reading else None
            route.quick = Quick(self._app, route, check=check, given=given, headers=_http.HEADERS)

    def reads(
        self,
        path: str,
        endpoint: Callable[..., Any],
        model: Any,
        *faults: int,
        quick: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Add a route for those who may read; `quick`: what to give its endpoint where there is no query."""
        more["responses"] = {**_http.answers(401, 403, *faults), **more.pop("responses", {})}
        # The status is said, because FastAPI does not find it out from every class of answers.
        extra = _http.facts_of("read")
        self.reading.get(path, response_model=model, status_code=200, openapi_extra=extra, **more)(endpoint)
        if quick is not None:
            self.quicken(self.reading, quick)

    def operates(
        self, path: str, endpoint: Callable[..., Any], model: Any, body: Any, *faults: int, **more: Any
    ) -> None:
        """Add a route for those who may operate; it reads its body by itself."""
        declared = _http.answers(401, 403, 408, 413, 415, 422, *faults)
        extra = _http.facts_of("operate", body=body.model_json_schema())
        self.operating.post(path, response_model=model, responses=declared, openapi_extra=extra, **more)(
            endpoint
        )

    def router(self) -> APIRouter:
        """Return one router with all routes; when its application ends, so does all that runs."""
        made = APIRouter(lifespan=self.lifespan)
        made.routes.extend(self.routes())
        return made

    def routes(self) -> list[Any]:
        """Return all routes in the order in which they are to be tried."""
        # Of several routes for one path the first says what is allowed: those with more in their path come first.
        # Not included: FastAPI looks through a router within a router twice, at every level. What is asked for most
        # comes first, as far as no other route has the same path.
        routes = [
            one for part in (self.open, self.visiting, self.operating, self.reading) for one in part.routes
        ]
        return sorted(routes, key=lambda one: not _is_plain_read(one))

    @asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncGenerator[None]:
        """Let what runs meanwhile begin, and end it."""
        self.streams.reopen()
        self.benchmark.reopen()
        try:
            yield
        finally:
            self.streams.close()
            await asyncio.to_thread(self.benchmark.close)


def _is_plain_read(route: Any) -> bool:
    return "{" not in route.path and "GET" in route.methods


def _operation_id(route: Any) -> str:
    return f"resilience_{route.name}"
