"""A service with its API, clients with each role, and real servers."""

import gc
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from backend.tests.integration._asgi import AsgiServer
from backend.tests.integration.api import _jobs as jobs_keys
from backend.tests.integration.api._jobs import JobsApi, Shop
from backend.tests.integration.api._service import KEYS, OPERATE, READ, Api, Service, make_service
from holdfast.api.internal.resilience.app import create_app
from holdfast.api.internal.resilience.auth import ApiKeys
from holdfast.infrastructure.resilience.clock import Clock, use_clock
from holdfast.infrastructure.store.memory import MemoryStateStore
from holdfast.infrastructure.store.sql import open_store
from holdfast.infrastructure.store.state import StateStore


class Still(Clock):
    """A clock that stands where the system's stood when it was made."""

    def __init__(self) -> None:
        self._now = super().monotonic(), super().time()

    def monotonic(self) -> float:
        return self._now[0]

    def time(self) -> float:
        return self._now[1]


@pytest.fixture
def still() -> Iterator[None]:
    """Let no time pass, and let nothing disappear that nobody holds any more."""
    gc.disable()
    with use_clock(Still()):
        yield
    gc.enable()


@pytest.fixture(scope="module")
def shared_service() -> Iterator[Service]:
    """Give a service that no test changes."""
    made = make_service()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_app(shared_service: Service) -> FastAPI:
    """Give the application that operates it, with a key for each role."""
    return create_app(shared_service.operations, keys=KEYS)


@pytest.fixture(scope="module")
def odd_app() -> Iterator[FastAPI]:
    """Give the application of a service with an operation whose name is no text, and which has failed."""
    # Operations of other tests that are garbage would fill its pages.
    gc.collect()
    made = make_service("pay\ud800")
    made.operations.monitor.sample()
    made.fail("pay\ud800", 30)
    made.operations.monitor.sample()
    yield create_app(made.operations, keys=KEYS)
    made.close()


@pytest.fixture(scope="module")
def keyless_app(shared_service: Service) -> FastAPI:
    """Give the application that operates it, without any keys."""
    return create_app(shared_service.operations, keys=ApiKeys())


@pytest.fixture(scope="module")
def hunted_app() -> Iterator[FastAPI]:
    """Give the application of a service that anything may be sent to."""
    made = make_service()
    yield create_app(made.operations, keys=KEYS)
    made.close()


@pytest.fixture
def service() -> Iterator[Service]:
    """Give a service with two operations of its own registry."""
    made = make_service()
    yield made
    made.close()


@pytest.fixture
def app(service: Service) -> FastAPI:
    """Give the application that operates the service, with a key for each role."""
    return create_app(service.operations, keys=KEYS)


@pytest.fixture
def client() -> Iterator[Callable[..., Api]]:
    """Give a function that makes a client of an application, with a key or without."""
    made: list[Api] = []

    def make(of: Any, secret: str | None = None, **settings: Any) -> Api:
        made.append(Api(of, secret, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def looker(client: Callable[..., Api], shared_app: FastAPI) -> Api:
    """Give a client that may read of the service that no test changes."""
    return client(shared_app, READ)


@pytest.fixture
def reader(client: Callable[..., Api], app: FastAPI) -> Api:
    """Give a client that may read."""
    return client(app, READ)


@pytest.fixture
def operator(client: Callable[..., Api], app: FastAPI) -> Api:
    """Give a client that may operate."""
    return client(app, OPERATE)


@pytest.fixture
def unix_server() -> Iterator[Callable[[FastAPI, Path], None]]:
    """Give a function that serves an application on a Unix socket."""
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def serve(app: FastAPI, path: Path) -> None:
        server = uvicorn.Server(uvicorn.Config(app, uds=str(path), log_level="critical", lifespan="off"))
        thread = threading.Thread(target=server.run, daemon=True)
        servers.append((server, thread))
        thread.start()
        ends = time.monotonic() + 10.0
        while not server.started:
            assert time.monotonic() < ends, "the server does not start"
            time.sleep(0.002)

    yield serve
    for server, thread in servers:
        server.should_exit = True
        thread.join(10.0)


@pytest.fixture
def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture
def plain_environ() -> dict[str, str]:
    """Give the environment of a process without keys, which finds the library."""
    found = {
        key: value for key, value in os.environ.items() if not key.startswith(("HOLDFAST_", "RESILIENCE_"))
    }
    return {**found, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@pytest.fixture(scope="session")
def empty_jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of empty SQLite stores of two tenants, to be copied: that is faster than making new ones."""
    folder = tmp_path_factory.mktemp("jobs")
    for tenant in ("default", "other"):
        open_store(f"sqlite:///{folder}/", tenant=tenant, create=True).close()
    return folder


@pytest.fixture
def jobs_url(empty_jobs: Path, tmp_path: Path) -> str:
    """Give the URL of the empty SQLite stores of two tenants."""
    return f"sqlite:///{copytree(empty_jobs, tmp_path / 'jobs')}/"


@pytest.fixture
def shop(jobs_url: str) -> Iterator[Shop]:
    """Give a shop with empty SQLite stores."""
    stores: dict[str, StateStore] = {one: open_store(jobs_url, tenant=one) for one in ("default", "other")}
    yield Shop(stores)
    for store in stores.values():
        store.close()


@pytest.fixture(scope="module")
def shared_shop() -> Shop:
    """Give a shop whose stores are in memory, with a job and a batch for each tenant, that no test changes."""
    made = Shop({tenant: MemoryStateStore(tenant) for tenant in ("default", "other")})
    for tenant in made.stores:
        made.jobs(tenant).create_batch(batch_id=f"batch-of-{tenant}")
        made.submit(tenant=tenant, job_id=f"job-of-{tenant}", batch=f"batch-of-{tenant}")
    return made


@pytest.fixture(scope="module")
def hunted_shop() -> Shop:
    """Give a shop that anything may be sent to."""
    return Shop({"default": MemoryStateStore()})


@pytest.fixture(scope="module")
def odd_shop() -> Shop:
    """Give a shop that text has come to which UTF-8 has no form for: as names, in rows, and in errors."""
    odd, made = "odd\ud800", Shop({"default": MemoryStateStore()})
    made.jobs().create_batch(odd, batch_id="odd-batch")
    rows = [{"order": "A-1", odd: odd}, {"order": "A-2"}]
    made.submit(rows, job_id="odd-job", name=odd, batch="odd-batch")
    made.leave(made.jobs().job("odd-job"), claimed=2, begun=1)
    made.jobs().recover()
    made.jobs().resolve("odd-job", "A-1", "failed", error=odd, by=odd)
    return made


@pytest.fixture
def jobs_client() -> Iterator[Callable[..., JobsApi]]:
    """Give a function that makes a client of a shop's API, with a key or without."""
    made: list[JobsApi] = []

    def make(of: Any, secret: str | None = None, **settings: Any) -> JobsApi:
        made.append(JobsApi(of, secret, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def ann(jobs_client: Callable[..., JobsApi], shop: Shop) -> JobsApi:
    """Give a client that may operate the jobs of the default tenant."""
    return jobs_client(shop.app, jobs_keys.OPERATE)


@pytest.fixture
def bob(jobs_client: Callable[..., JobsApi], shop: Shop) -> JobsApi:
    """Give a client that may operate the jobs of the other tenant."""
    return jobs_client(shop.app, jobs_keys.OTHER)


@pytest.fixture
def asgi() -> Iterator[Callable[[Any], AsgiServer]]:
    """Give a function that serves an application on a real socket."""
    made: list[AsgiServer] = []

    def serve(app: Any) -> AsgiServer:
        made.append(AsgiServer(app))
        return made[-1]

    yield serve
    for one in made:
        one.stop()
