"""Rules of the Redis storage that need no Redis: bad settings, a missing package, what it says of itself."""

import subprocess
import sys
from typing import Any

import pytest
import redis
import redis.asyncio

from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker, CircuitBreakers
from holdfast.infrastructure.resilience.errors import ConfigurationError
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
        ({"namespace": 7}, "namespace"),
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
        RedisBreakerStorage(URL, settings.pop("namespace", "x"), **settings)
    assert [fault.path for fault in caught.value.faults] == [path]


def test_an_async_client_is_refused() -> None:
    """A client that must be awaited cannot be asked from a thread; the error says what to give."""
    client: Any = redis.asyncio.Redis()
    with pytest.raises(ConfigurationError, match=r"is asynchronous.*give a redis\.Redis or a URL"):
        RedisBreakerStorage(client, "x")


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
