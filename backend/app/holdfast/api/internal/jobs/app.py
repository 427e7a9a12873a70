"""The API of jobs as a router to mount into any FastAPI application, and as an application of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse

from holdfast.api.internal.jobs._batches import Batches
from holdfast.api.internal.jobs._context import Context
from holdfast.api.internal.jobs._events import Events
from holdfast.api.internal.jobs._looking import Looking
from holdfast.api.internal.jobs._review import Review
from holdfast.api.internal.jobs._steering import Steering
from holdfast.api.internal.jobs._submission import Submission
from holdfast.api.internal.resilience.auth import ApiKeys
from holdfast.api.internal.resilience.problems import install_problems
from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.store.state import StateStore, TenantNotFoundError
from holdfast.services.jobs.handlers import Handler, Handlers
from holdfast.services.jobs.jobs import Jobs, _open

PREFIX: str = "/internal/jobs"

# The version of the interface, not of the library.
_VERSION = "1"


class Tenants:
    """The jobs of each tenant of a store. Thread-safe; close it when the service ends.

    `store`: what `open_jobs` takes (tenants are opened when first asked for), a store, or stores by tenant. Clients
    may name these `handlers`; no others are imported or called. HandlerNotFoundError for one that cannot be imported.
    """

    def __init__(
        self,
        store: str | StateStore | Mapping[str, StateStore],
        handlers: Iterable[Handler | Callable[..., Any] | str] = (),
    ) -> None:
        self._handlers = Handlers(handlers, imports=False)
        self._url = store if isinstance(store, str) else None
        self._lock = threading.Lock()
        self._known: dict[str, Jobs] = {}
        for tenant, one in _by_tenant(store).items():
            self._known[tenant] = Jobs(one, self._handlers)

    @property
    def handlers(self) -> Handlers:
        """What clients may name."""
        return self._handlers

    def jobs(self, tenant: str) -> Jobs:
        """Return a tenant's jobs. TenantNotFoundError, StoreUnavailableError."""
        known = self._known.get(tenant)
        return self._opened(tenant) if known is None else known

    def close(self) -> None:
        """Close the stores that it opened."""
        if self._url is None:
            return
        with self._lock:
            while self._known:
                self._known.popitem()[1].close()

    def _opened(self, tenant: str) -> Jobs:
        if self._url is None:
            raise TenantNotFoundError(tenant)
        with self._lock:
            if tenant not in self._known:
                self._known[tenant] = Jobs(_open(self._url, tenant), self._handlers)
            return self._known[tenant]


def _by_tenant(store: str | StateStore | Mapping[str, StateStore]) -> Mapping[str, StateStore]:
    if isinstance(store, str):
        return {}
    return store if isinstance(store, Mapping) else {store.tenant: store}


def create_router(
    tenants: Tenants, *, keys: ApiKeys | None = None, body_bytes: int = 16_777_216
) -> APIRouter:
    """Return the router; mount it under a prefix of your choice. `keys` by default come from the environment.

    A key opens the jobs of its tenant; clients without keys, on this machine, those of "default". `body_bytes`: what a
    submission may have.
    """
    return _context(tenants, keys, body_bytes).router()


def create_app(
    tenants: Tenants, *, keys: ApiKeys | None = None, prefix: str = PREFIX, body_bytes: int = 16_777_216
) -> FastAPI:
    """Return an application that serves the router, its OpenAPI document and nothing else."""
    # No pages of FastAPI's own, which load scripts from elsewhere; the document is guarded as everything is.
    app = FastAPI(title="holdfast jobs", version=_VERSION, openapi_url=None)
    context = _context(tenants, keys, body_bytes)

    def get_openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    context.reading.get("/openapi.json", include_in_schema=False)(get_openapi)
    app.include_router(context.router(), prefix=prefix)
    install_problems(app)
    return app


def _context(tenants: Tenants, keys: ApiKeys | None, body_bytes: int) -> Context:
    faults = Faults("create_router")
    faults.number("body_bytes", body_bytes, 1, 2**40, whole=True)
    faults.finish()
    context = Context(tenants, ApiKeys.from_environ() if keys is None else keys, body_bytes)
    for routes in (Submission, Steering, Review, Batches, Events, Looking):
        routes(context)
    return context
