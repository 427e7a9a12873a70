"""The API of jobs as a router to mount into any FastAPI application, and as an application of its own."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI

from holdfast.api.internal.resilience.auth import ApiKeys
from holdfast.infrastructure.store.state import StateStore
from holdfast.services.jobs.handlers import Handler, Handlers
from holdfast.services.jobs.jobs import Jobs

PREFIX: str = "/internal/jobs"

class Tenants:
    """The jobs of each tenant of a store. Thread-safe; close it when the service ends.

    `store`: what `open_jobs` takes (tenants are opened when first asked for), a store, or stores by tenant. Clients
    may name these `handlers`; no others are imported or called. HandlerNotFoundError for one that cannot be imported.
    """

    def __init__(
        self,
        store: str | StateStore | Mapping[str, StateStore],
        handlers: Iterable[Handler | Callable[..., Any] | str] = (),
    ) -> None: ...
    @property
    def handlers(self) -> Handlers:
        """What clients may name."""
    def jobs(self, tenant: str) -> Jobs:
        """Return a tenant's jobs. TenantNotFoundError, StoreUnavailableError."""
    def close(self) -> None:
        """Close the stores that it opened."""

def create_router(tenants: Tenants, *, keys: ApiKeys | None = None, body_bytes: int = 16777216) -> APIRouter:
    """Return the router; mount it under a prefix of your choice. `keys` by default come from the environment.

    A key opens the jobs of its tenant; clients without keys, on this machine, those of "default". `body_bytes`: what a
    submission may have.
    """

def create_app(
    tenants: Tenants,
    *,
    keys: ApiKeys | None = None,
    prefix: str = "/internal/jobs",
    body_bytes: int = 16777216,
) -> FastAPI:
    """Return an application that serves the router, its OpenAPI document and nothing else."""
