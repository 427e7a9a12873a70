"""Servers that integration tests share: HTTP that fails as scripted; Redis, PostgreSQL, RabbitMQ where they are."""

import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from backend.tests._run import database_name, postgres_address
from backend.tests.integration._asgi import Application, AsgiServer
from backend.tests.integration._client import Caller, Mode, SkippingClock, caller
from backend.tests.integration._moto import ACCOUNT, Moto
from backend.tests.integration._server import FaultyServer
from backend.tests.integration._services import needed
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.policy import Policy


@pytest.fixture
def http_server() -> Iterator[FaultyServer]:
    """Give a real HTTP server on a local port; it answers well until it is told otherwise."""
    with FaultyServer() as server:
        yield server


@pytest.fixture
def asgi_server() -> Iterator[Callable[[Application], AsgiServer]]:
    """Give a function that serves an ASGI application on a local port, as many as are asked for."""
    servers: list[AsgiServer] = []

    def serve(app: Application) -> AsgiServer:
        servers.append(AsgiServer(app))
        return servers[-1]

    yield serve
    for server in servers:
        server.stop()


@pytest.fixture
def skipping_clock() -> Iterator[SkippingClock]:
    """Give a clock that runs in real time, but remembers and skips what policies want to wait."""
    clock = SkippingClock()
    with use_clock(clock):
        yield clock


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest, skipping_clock: SkippingClock) -> Iterator[Callable[..., Caller]]:
    """Give a function that makes a client over a policy, sync or async; none may leave a response open."""
    mode: Mode = request.param
    made: list[Caller] = []

    def make(policy: Policy, **settings: Any) -> Caller:
        made.append(caller(mode, policy, **settings))
        return made[-1]

    yield make
    left_open = [one.open.now for one in made]
    for one in made:
        one.close()
    assert left_open == [0] * len(made)


@pytest.fixture(scope="session")
def aws_address() -> Iterator[str]:
    """Give the URL of a moto of this run, with an account in the environment; skip where moto or boto3 is missing."""
    for module in ("boto3", "moto.server"):
        pytest.importorskip(module, reason=f"{module} is not installed; install holdfast[test]")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ACCOUNT.items():
            patch.setenv(name, value)
        made = Moto()
        yield made.address
        made.close()


@pytest.fixture(scope="session")
def redis_url() -> str:
    """Give the URL of a Redis that answers; without one, skip, or fail if HOLDFAST_REQUIRE_SERVICES=1."""
    urls = (os.environ.get("HOLDFAST_REDIS_URL"), os.environ.get("REDIS_URL"), "redis://127.0.0.1:6379/0")
    url = next(filter(None, urls))
    require(redis_problem(url), "HOLDFAST_REDIS_URL")
    return url


def require(problem: str | None, variable: str) -> None:
    """Skip if a server cannot be used, or fail if HOLDFAST_REQUIRE_SERVICES=1."""
    needed(problem, f"start one, or say where it is in {variable}")


def redis_problem(url: str) -> str | None:
    """Return why Redis at `url` cannot be used, or None."""
    try:
        redis: Any = importlib.import_module("redis")
    except ImportError:
        return "the package redis is not installed (extra `redis`)"
    client = redis.Redis.from_url(url, socket_connect_timeout=0.5, socket_timeout=0.5)
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        return f"no Redis answers at {url} ({error})"
    finally:
        client.close()
    return None


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """Give the URL of a PostgreSQL that answers; without one, skip, or fail if HOLDFAST_REQUIRE_SERVICES=1."""
    url = postgres_address()
    require(postgres_problem(url), "HOLDFAST_POSTGRES_URL")
    return url


def postgres_problem(url: str) -> str | None:
    """Return why PostgreSQL at `url` cannot be used, or None."""
    try:
        psycopg: Any = importlib.import_module("psycopg")
    except ImportError:
        return "the package psycopg is not installed (extra `postgres`)"
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.Error as error:
        return f"no PostgreSQL answers at {url} ({error})"
    return None


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    """Give the URL of a RabbitMQ that answers; without one, skip, or fail if HOLDFAST_REQUIRE_SERVICES=1."""
    url = os.environ.get("HOLDFAST_RABBITMQ_URL") or "amqp://guest:guest@127.0.0.1:5672//"
    require(rabbitmq_problem(url), "HOLDFAST_RABBITMQ_URL")
    return url


def rabbitmq_problem(url: str) -> str | None:
    """Return why RabbitMQ at `url` cannot be used, or None."""
    try:
        kombu: Any = importlib.import_module("kombu")
    except ImportError:
        return "the package kombu is not installed (extra `celery`)"
    connection = kombu.Connection(url, connect_timeout=2)
    try:
        connection.connect()
    except (connection.connection_errors, OSError) as error:
        return f"no RabbitMQ answers at {url} ({error})"
    finally:
        connection.release()
    return None


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """Give the URL, for SQLAlchemy with psycopg, of a database of the test's own, dropped afterwards."""
    psycopg: Any = importlib.import_module("psycopg")
    name = database_name()
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        parts = urlsplit(postgres_server)
        yield urlunsplit(parts._replace(scheme="postgresql+psycopg", path=f"/{name}"))
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
