"""The API of runs as a router to mount into any FastAPI application, and as an application of its own."""

from collections.abc import Mapping

from fastapi import APIRouter, FastAPI

from holdfast.api.internal.resilience.auth import ApiKeys
from holdfast.infrastructure.store.blob import BlobStore
from holdfast.services.jobs.graphs.http import SignedUrls
from holdfast.services.jobs.graphs.ports import ResultListener
from holdfast.services.jobs.graphs.runs import Runs

PREFIX: str = "/internal/runs"

def create_router(
    runs: Runs | Mapping[str, Runs], *, keys: ApiKeys | None = None, body_bytes: int = 16777216
) -> APIRouter:
    """Return the router; mount it under a prefix of your choice. `runs`: those of "default", or by tenant.

    `keys` by default come from the environment: a key opens the runs of its tenant; clients without keys, on this
    machine, those of "default". `body_bytes`: what a submission may have.
    """

def create_blob_router(
    blobs: BlobStore, urls: SignedUrls, listener: ResultListener | None = None, *, body_bytes: int = 16777216
) -> APIRouter:
    """Return the router for addresses that `urls` signs, whose base is where you mount it: no key is asked for.

    A blob is written once: the same bytes again are welcome, others are refused with 412. `listener` hears of results.
    """

def create_app(
    runs: Runs | Mapping[str, Runs],
    *,
    keys: ApiKeys | None = None,
    prefix: str = "/internal/runs",
    body_bytes: int = 16777216,
) -> FastAPI:
    """Return an application that serves the router, its OpenAPI document and nothing else."""
