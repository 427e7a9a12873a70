"""A worker over HTTP: it takes orders that a `HttpTarget` posts, and executes them as subprocesses."""

from fastapi import FastAPI

from holdfast.api.internal.resilience.auth import ApiKeys
from holdfast.services.jobs.graphs.http import UrlBlobs
from holdfast.services.jobs.graphs.secrets import Secrets

PREFIX: str = "/internal/orders"

def create_worker_app(
    *,
    keys: ApiKeys | None = None,
    prefix: str = "/internal/orders",
    blobs: UrlBlobs | None = None,
    concurrency: int = 4,
    cpu: int = 3600,
    memory: int = 4294967296,
    log_limit: int = 1048576,
    secrets: Secrets | None = None,
) -> FastAPI:
    """Return an application that executes orders: POST takes one, DELETE `/{run}/{number}` ends it.

    Limits are those of `LocalTarget`; when the application ends, what runs is killed and says so. `keys` by default
    come from the environment; without keys only this machine may send orders.
    """
