"""Jobs served: by the command, in another application, off the event loop, and ended without being kept waiting."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from backend.tests.integration.api._jobs import COMMITTED, OPERATE, ROWS, JobsApi, Shop, ask, path_of
from backend.tests.integration.api._service import Stream, declared
from holdfast.api.internal.jobs.app import PREFIX, Tenants, create_router
from holdfast.api.internal.resilience.auth import ApiKeys
from holdfast.infrastructure.store.sql import open_store
from holdfast.services.jobs import HandlerNotFoundError

YARD = """
def ship(row):
    return row["order"]
"""
HEADERS = {"Authorization": f"Bearer {OPERATE}"}
STREAMS = {f"{PREFIX}/progress", f"{PREFIX}/jobs/{{job}}/events/stream"}


@contextmanager
def served(
    folder: Path, environ: dict[str, str], *options: str
) -> Generator[tuple[str, subprocess.Popen[str]]]:
    """Serve from a folder; give the address and the process."""
    (folder / "yard.py").write_text(YARD)
    command = [sys.executable, "-m", "holdfast", "serve", "--port", "0", *options]
    known = {**environ, "HOLDFAST_API_KEYS": f"ann:operate:{OPERATE}", "PYTHONUNBUFFERED": "1"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=folder, env=known, **pipes) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            yield said.removeprefix("holdfast: ").split("/internal")[0].strip(), process
        finally:
            process.kill()


def reach(url: str) -> httpx.Response:
    ends = time.monotonic() + 20.0
    while True:
        try:
            return httpx.get(url, headers=HEADERS)
        except httpx.ConnectError:
            assert time.monotonic() < ends
            time.sleep(0.02)


def test_the_command_serves_the_jobs_of_a_store(tmp_path: Path, plain_environ: dict[str, str]) -> None:
    """With a store both APIs are served; the dashboard is told where jobs are; an open stream keeps nobody waiting."""
    environ = {**plain_environ, "HOLDFAST_STORE": "sqlite:///jobs.db"}
    with served(tmp_path, environ, "--handler", "yard:ship") as (url, process):
        assert reach(f"{url}/internal/resilience/snapshot").json()["jobs"] == "../jobs"
        body = {"handler": "yard:ship", "rows": ROWS, "mode": "auto"}
        job = httpx.post(f"{url}{PREFIX}/jobs", json=body, headers=HEADERS).json()["id"]
        with Stream(f"{url}{PREFIX}/progress", HEADERS) as stream:
            assert stream.wait_for(1)[0].data["id"] == job
            began = time.monotonic()
            process.terminate()
            process.wait(10.0)
            assert time.monotonic() - began < 4.0
    with open_store(f"sqlite:///{tmp_path / 'jobs.db'}") as store:
        assert [one.id for one in store.jobs()] == [job]


def test_a_handler_that_cannot_be_imported_is_said_at_once(
    tmp_path: Path, plain_environ: dict[str, str]
) -> None:
    """The command ends before it serves, and says which handler is missing."""
    options = ("--store", "sqlite:///jobs.db", "--handler", "yard:fly")
    with served(tmp_path, plain_environ, *options) as (said, process):
        assert "--handler: " in said
        assert "yard:fly" in said
        assert process.wait(10.0) == 2


def test_without_a_store_no_jobs_are_served(tmp_path: Path, plain_environ: dict[str, str]) -> None:
    """Without a store there is no API of jobs, and the dashboard is told so."""
    with served(tmp_path, plain_environ) as (url, _):
        assert reach(f"{url}/internal/resilience/snapshot").json()["jobs"] is None
        assert reach(f"{url}{PREFIX}/jobs").status_code == 404


def test_a_router_is_mounted_anywhere(jobs_client: Callable[..., JobsApi], shop: Shop) -> None:
    """In another application the router answers errors as problems by itself, and its schemas are there."""
    app = FastAPI()
    app.include_router(create_router(shop.tenants, keys=ApiKeys()), prefix="/deep/inside")
    api = jobs_client(app, base="http://localhost/deep/inside")
    job = api.post("/jobs", {"handler": "ship", "rows": ROWS}).json()["id"]
    assert api.get(f"/jobs/{job}").status_code == 200
    assert api.get("/jobs/nothing").headers["content-type"] == "application/problem+json"
    document = json.dumps(app.openapi())
    assert "HoldfastProblem" in app.openapi()["components"]["schemas"]
    assert "/deep/inside/jobs/{job}" in document


def on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class OffLoop:
    """A store that no event loop may be kept waiting by."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.calls: list[str] = []
        self.on_loop: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def call(*args: Any, **given: Any) -> Any:
            (self.on_loop if on_a_loop() else self.calls).append(name)
            return found(*args, **given)

        return call


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (method, path)
        for method, path, _ in declared(json.loads(COMMITTED.read_text(encoding="utf-8")))
        if path not in STREAMS and not path.endswith("/handlers")
    ],
)
def test_no_endpoint_keeps_the_loop_waiting_for_the_store(
    jobs_client: Callable[..., JobsApi], shop: Shop, method: str, path: str
) -> None:
    """Every call of the store is made in a thread without an event loop."""
    shop.jobs().create_batch(batch_id="batch-of-default")
    job = shop.submit(job_id="job-of-default", mode="confirm")
    store = OffLoop(shop.stores["default"])
    handlers = [shop.tenants.handlers.find("ship")]
    app = FastAPI()
    stores: Any = {"default": store}
    app.include_router(create_router(Tenants(stores, handlers), keys=ApiKeys()), prefix=PREFIX)
    api = jobs_client(app)
    if path.endswith("/csv"):
        api.csv("order\n1\n", handler="ship")
    elif method == "POST" and path == f"{PREFIX}/jobs":
        api.post("/jobs", {"handler": "ship", "rows": ROWS})
    else:
        ask(api, method, path_of(path))
    assert store.on_loop == []
    assert store.calls or path.endswith("/check"), job


def test_handlers_are_imported_when_the_server_begins() -> None:
    """A handler of the list that is not there is an error of who wrote the list, not of a client."""
    with pytest.raises(HandlerNotFoundError, match="no_such_module"):
        Tenants("memory:", ["no_such_module:ship"])
