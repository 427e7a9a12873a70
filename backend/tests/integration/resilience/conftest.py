"""Fixtures of the seam suite: one driver for sync and async on virtual time, and policies without chance in them."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from backend.tests.integration._server import FaultyServer
from backend.tests.integration.resilience._driver import Compose, Driver, Form, Mode, driver_of
from backend.tests.integration.resilience._fleet import Fleet
from backend.tests.integration.resilience._hand import Caller, HandClock
from backend.tests.integration.resilience._make import Make
from backend.tests.integration.resilience._processes import MODES, end_processes
from backend.tests.integration.resilience._processes import Mode as SharingMode
from backend.tests.integration.resilience._redis import CountingRedis, Proxy, RedisProcess, connect, delete
from backend.tests.integration.resilience._shop import Shop
from backend.tests.integration.resilience._standing import Dependency, standing
from backend.tests.integration.resilience._text_service import FAILING, TextService, started_text_service
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.concurrency_limit import ConcurrencyLimit
from holdfast.infrastructure.resilience.registry import Registry
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


@pytest.fixture(params=["decorators", "pipeline", "call"])
def compose(request: pytest.FixtureRequest, driver: Driver) -> Compose:
    """Run the test once for each form of a stack: decorators, a `Pipeline`, `Pipeline.call`; give what writes it."""
    form: Form = request.param
    return partial(driver.compose, form)


@pytest.fixture
def make(seeded_random: int) -> Make:
    """Give a maker of policies that leave nothing to chance; where one must draw, the draws are seeded."""
    return Make()


@pytest.fixture
def names() -> Registry:
    """Give a registry of pipelines in which nothing is defined."""
    return Registry()


@pytest.fixture
def chaos_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let chaos policies work whatever the environment of whoever runs the tests says."""
    monkeypatch.delenv("HOLDFAST_CHAOS", raising=False)


@pytest.fixture
def redis_namespace(redis_url: str) -> Iterator[str]:
    """Give a namespace that nobody else uses in the Redis at `redis_url`, and delete its keys afterwards."""
    namespace = f"holdfast-test-{uuid4().hex}"
    yield namespace
    with connect(redis_url) as client:
        delete(client, namespace)


@pytest.fixture
def redis_process(tmp_path: Path) -> Iterator[RedisProcess]:
    """Give a running redis-server of the test's own, which the test may kill and start again."""
    process = RedisProcess(tmp_path)
    process.start()
    yield process
    process.kill()


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[CountingRedis]:
    """Give a client of the test's own, to look at what others left in the Redis at `redis_url`."""
    with connect(redis_url) as client:
        yield client


@pytest.fixture(params=MODES)
def sharing(request: pytest.FixtureRequest) -> Iterator[SharingMode]:
    """Run the test for sync functions, async functions, and clients that are awaited; end the loops of the last."""
    chosen: SharingMode = request.param
    yield chosen
    end_processes()


@pytest.fixture
def redis_proxy(redis_url: str) -> Iterator[Proxy]:
    """Give a way to the Redis at `redis_url` that may lose answers."""
    made = Proxy(redis_url)
    yield made
    made.close()


@pytest.fixture
def hand_clock() -> Iterator[HandClock]:
    """Give a clock that stands still until it is moved, as everybody's."""
    clock = HandClock()
    with use_clock(clock):
        yield clock


@pytest.fixture
def caller(mode: Mode, hand_clock: HandClock) -> Iterator[Caller]:
    """Give what calls through limits in Redis in the mode, and closes their connections."""
    made = Caller(mode, hand_clock)
    yield made
    made.close()


@pytest.fixture
def fleet(redis_url: str, redis_namespace: str) -> Iterator[Fleet]:
    """Give a fleet without processes yet, which share the Redis at hand and die with the test."""
    made = Fleet(redis_url, redis_namespace)
    yield made
    made.stop()


@pytest.fixture
def shop(http_server: FaultyServer) -> Iterator[Shop]:
    """Give a shop that pays through a bank, with the API that operates it, on real sockets."""
    made = Shop(http_server)
    yield made
    made.close()


@pytest.fixture(scope="module")
def running_text_service() -> Iterator[TextService]:
    """Give the reference service and its model, two processes."""
    with started_text_service() as made:
        yield made


@pytest.fixture
def text_service(running_text_service: TextService) -> Iterator[TextService]:
    """Give the service while its model is well and every breaker closed."""
    yield running_text_service
    running_text_service.mend()


@pytest.fixture
def failing_text_service(text_service: TextService) -> TextService:
    """Give the service with the circuit of one operation open."""
    text_service.fail(status=503, operations=[FAILING])
    for _ in range(2):
        text_service.ask(FAILING, "Nobody knows.", "who")
    assert text_service.state(FAILING) == "open"
    return text_service


@pytest.fixture
def new_text(request: pytest.FixtureRequest) -> str:
    """Give a text that no other test asks about: answers are kept."""
    name: str = request.node.name
    return f"The sea is calm. It was a good day. We saw seaweed on every rock. {name}."


@pytest.fixture
def limit() -> ConcurrencyLimit:
    """Give a limit with the defaults of StandingQueue."""
    return standing()


@pytest.fixture
def dependency(driver: Driver, limit: ConcurrencyLimit) -> Dependency:
    """Give a dependency under it that nobody called yet."""
    return Dependency(driver, limit)


@pytest.fixture
def known(dependency: Dependency) -> Dependency:
    """Give a dependency under it that is known to answer within a tenth of a second."""
    dependency.warm()
    return dependency
