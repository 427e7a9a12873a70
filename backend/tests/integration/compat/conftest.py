"""Fixtures of the compatibility suite: each library and holdfast's module in its place, on one virtual clock."""

from collections.abc import Iterator
from uuid import uuid4

import pybreaker
import pytest
import tenacity

from backend.tests.integration.compat._libraries import Breakers, Retries
from backend.tests.integration.resilience._driver import Driver, Mode, driver_of
from backend.tests.integration.resilience._redis import CountingRedis, connect, delete
from holdfast.compat import pybreaker as our_pybreaker
from holdfast.compat import tenacity as our_tenacity
from holdfast.testing.clock import VirtualClock


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """Run the test twice: give "sync", then "async"."""
    chosen: Mode = request.param
    return chosen


@pytest.fixture
def driver(mode: Mode, virtual_clock: VirtualClock) -> Iterator[Driver]:
    """Give what runs a scenario in the mode, on the virtual clock."""
    made = driver_of(mode, virtual_clock)
    yield made
    made.close()


@pytest.fixture(params=["tenacity", "holdfast"])
def retries(request: pytest.FixtureRequest, driver: Driver) -> Retries:
    """Run the test for both: give tenacity, then holdfast in its place."""
    return Retries(tenacity if request.param == "tenacity" else our_tenacity, driver)


@pytest.fixture(params=["pybreaker", "holdfast"])
def breakers(request: pytest.FixtureRequest, virtual_clock: VirtualClock) -> Breakers:
    """Run the test for both: give pybreaker, then holdfast in its place."""
    return Breakers(pybreaker if request.param == "pybreaker" else our_pybreaker, virtual_clock)


@pytest.fixture
def redis_namespace(redis_url: str) -> Iterator[str]:
    """Give a namespace that nobody else uses in the Redis at `redis_url`, and delete its keys afterwards."""
    namespace = f"holdfast-test-{uuid4().hex}"
    yield namespace
    with connect(redis_url) as client:
        delete(client, namespace)


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[CountingRedis]:
    """Give a client of the Redis at `redis_url` that remembers the commands it sends."""
    with connect(redis_url) as client:
        yield client
