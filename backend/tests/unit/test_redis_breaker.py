"""Rules of the Redis storage that need no Redis: bad settings, a missing package, what it says of itself."""

import subprocess
import sys
from typing import Any

import pytest
import redis
import redis.asyncio

from holdfast.infrastructure.resilience.circuit_breaker import (
    CircuitBreaker,
    CircuitBreakers,
    circuit_breaker,
)
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.store.redis_breaker import RedisBreakerStorage

URL = "redis://user:secret@127.0.0.1:1/0"


def test_all_faults_are_reported_together() -> None:
    """Every bad setting is named in one error."""
    with pytest.raises(ConfigurationError) as caught:
        RedisBreakerStorage(7, "", lease=0.0, poll=float("nan"), timeout=-1.0)
    assert [fault.path for fault in caught.value.faults] == ["redis", "namespace", "lease", "poll", "timeout"]


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"redis": "localhost:6379"}, "redis"),
        ({"namespace": 7}, "namespace"),
        ({"namespace": "\ud800"}, "namespace"),
        ({"lease": 86_401.0}, "lease"),
        ({"poll": 0.0}, "poll"),
        ({"poll": True}, "poll"),
        ({"timeout": 61.0}, "timeout"),
        ({"timeout": None}, "timeout"),
    ],
)
def test_each_fault_is_found_alone(settings: dict[str, Any], path: str) -> None:
    """One bad setting among good ones is the only one reported."""
    with pytest.raises(ConfigurationError) as caught:
        RedisBreakerStorage(settings.pop("redis", URL), settings.pop("namespace", "x"), **settings)
    assert [fault.path for fault in caught.value.faults] == [path]


@pytest.fixture
def awaited() -> CircuitBreaker:
    """Give a breaker whose storage must be awaited."""
    return CircuitBreaker("prices", storage=awaited_storage())


REMEDY = r"breaker 'prices.*' .* async client, .* sync function cannot await: give its storage a sync client or a URL"


def test_what_must_be_awaited_refuses_sync_functions(awaited: CircuitBreaker) -> None:
    """Where only async functions can wait for the state, decorating a sync one is an error that says what to do."""
    with pytest.raises(TypeError, match=REMEDY):
        awaited(lambda: None)
    with pytest.raises(TypeError, match=REMEDY):
        Pipeline(Retry(), awaited)(lambda: None)
    with pytest.raises(TypeError, match=REMEDY):
        circuit_breaker(storage=awaited_storage(), name="prices")(lambda: None)


def test_what_must_be_awaited_refuses_sync_uses(awaited: CircuitBreaker) -> None:
    """`with`, `admit` and `call` of a sync function are refused where they are used; nothing is admitted."""
    made: list[str] = []
    with pytest.raises(TypeError, match=REMEDY), awaited:
        made.append("with")
    with pytest.raises(TypeError, match=REMEDY):
        awaited.admit()
    with pytest.raises(TypeError, match=REMEDY):
        awaited.call(made.append, "call")
    assert (made, awaited.counts.calls) == ([], 0)


def test_a_family_that_must_be_awaited_refuses_sync_functions() -> None:
    """So does a family of breakers, before it has made any."""

    def storage(key: str) -> RedisBreakerStorage:
        return awaited_storage()

    def price(article: str) -> None:
        pass

    family = CircuitBreakers("prices", key=str, storage=storage)
    with pytest.raises(TypeError, match=REMEDY):
        family(price)


def awaited_storage() -> RedisBreakerStorage:
    return RedisBreakerStorage(redis.asyncio.Redis(), "x")


WITHOUT = """
import sys
sys.modules["redis"] = None
from holdfast.infrastructure.store.redis_breaker import RedisBreakerStorage
try:
    RedisBreakerStorage("redis://127.0.0.1:1/0", "x")
except ImportError as error:
    print(error)
"""


def test_without_redis_py_the_error_names_the_extra() -> None:
    """The module can be imported without redis-py; who uses it with a URL is told which extra to install."""
    done = subprocess.run([sys.executable, "-c", WITHOUT], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == (
        "RedisBreakerStorage needs redis-py, which is not installed: pip install 'holdfast[redis]'"
    )


def test_repr_keeps_the_password() -> None:
    """What is shown names the namespace, not the URL."""
    storage = RedisBreakerStorage(URL, "prices")
    assert storage.namespace == "prices"
    assert repr(storage) == "<RedisBreakerStorage 'prices'>"


def test_the_settings_stay_holdfasts_own() -> None:
    """Unlike pybreaker's storages it brings none of pybreaker's defaults with it."""
    breaker = CircuitBreaker("x", storage=RedisBreakerStorage(URL, "x"))
    assert breaker.config == CircuitBreaker("x").config


def test_a_family_takes_one_storage_for_each_key() -> None:
    """A storage for all keys of a family is refused, a function of the key is taken."""
    with pytest.raises(ConfigurationError, match="would be shared by all keys"):
        CircuitBreakers("x", key=str, storage=RedisBreakerStorage(URL, "x"))

    def storage(key: str) -> RedisBreakerStorage:
        return RedisBreakerStorage(URL, f"x:{key}")

    family = CircuitBreakers("x", key=str, storage=storage)
    assert family.get("a") is not family.get("b")
