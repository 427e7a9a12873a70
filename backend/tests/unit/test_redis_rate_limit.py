"""Rate limit in Redis: its settings, what it needs, and what it tells, without a server."""

import asyncio
import pickle
import subprocess
import sys
from typing import Any

import pytest
import redis
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st

from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.errors import ConfigurationError, RateLimitedError
from holdfast.infrastructure.resilience.pipeline import Pipeline, explain
from holdfast.infrastructure.resilience.rate_limit import RateLimitConfig
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.store._rate_script import settings
from holdfast.infrastructure.store.redis_rate_limit import (
    RedisRateLimit,
    RedisRateLimitConfig,
    redis_rate_limit,
)
from holdfast.testing import VirtualClock

# Nobody listens there.
NOWHERE = "redis://127.0.0.1:1/0"


def faults(**given: Any) -> dict[str, str]:
    """Return what is wrong with settings, by setting."""
    chosen: dict[str, Any] = {"client": NOWHERE, "name": "x", "rate": 1, **given}
    with pytest.raises(ConfigurationError) as raised:
        RedisRateLimit(**chosen)
    return {fault.path: fault.problem for fault in raised.value.faults}


def test_every_fault_is_told_at_once() -> None:
    """One error names every setting that is wrong."""
    wrong = {"name": "", "rate": 0, "burst": 0, "timeout": 0, "namespace": 5, "on_failure": "panic"}
    assert set(faults(**wrong)) == set(wrong)
    assert set(faults(client="cache:6379", key=5, async_client=7)) == {"client", "key", "async_client"}


@pytest.mark.parametrize("name", [None, 5, ""])
def test_a_limit_that_is_shared_has_a_name(name: object) -> None:
    """Without a name nobody knows which limit is meant; the fault is told once."""
    assert set(faults(name=name)) == {"name"}


def test_a_client_that_waits_for_ever_is_refused() -> None:
    """A sync client without a timeout could hold a caller as long as Redis hangs."""
    with redis.Redis(socket_timeout=None) as client:
        assert faults(client=client) == {"client": "waits for ever"}


def test_some_client_is_needed() -> None:
    """Neither nothing nor anything will do for Redis."""
    assert faults(client=None) == {"client": "is no Redis"}
    assert faults(client=7) == {"client": "is no Redis"}


def test_the_settings_are_a_value() -> None:
    """The configuration compares, hashes, prints and pickles by all its fields."""
    one = RedisRateLimitConfig(name="x", rate=1, timeout=1)
    assert one == RedisRateLimitConfig(name="x", rate=1.0, timeout=1.0)
    assert one != RedisRateLimitConfig(name="x", rate=1, timeout=2)
    assert one != RedisRateLimitConfig(name="x", rate=2, timeout=1)
    assert hash(one) == hash(pickle.loads(pickle.dumps(one)))
    assert "timeout=1.0" in repr(one)
    assert "rate=1.0" in repr(one)


def test_the_decorator_takes_what_the_class_takes() -> None:
    """`redis_rate_limit` makes the limit that `RedisRateLimit` makes of the same arguments."""
    given: dict[str, Any] = {"per": 2.0, "burst": 3, "max_wait": 4.0, "on_failure": "admit", "timeout": 5.0}
    made = redis_rate_limit(NOWHERE, "x", 1, **given, namespace="n")
    assert made.config == RedisRateLimit(NOWHERE, "x", 1, **given, namespace="n").config
    assert repr(made) == "RedisRateLimit('x', 1, per=2, burst=3, max_wait=4, on_failure='admit')"
    assert (made.name, made.rejected, made.degraded) == ("x", 0, False)


def test_the_bounds_hold_the_wait_and_the_round_trip() -> None:
    """`explain()` adds the longest wait and the timeout to what lies below, and names the error."""
    limit = RedisRateLimit(NOWHERE, "x", 1, max_wait=2.0, timeout=0.5)
    told = explain(Pipeline(limit, Timeout(1.0)))
    assert told.duration == 3.5
    assert "RateLimitedError" in told.errors


def test_a_mode_without_a_client_is_a_clear_error() -> None:
    """Who gives one client and calls in the other mode is told what is missing, whatever `on_failure` says."""
    client: Any = redis.asyncio.Redis(host="127.0.0.1", port=1)
    limit = RedisRateLimit(None, "x", 1, async_client=client, on_failure="admit")
    with pytest.raises(TypeError, match="no client for sync functions: give a URL, or client="), limit:
        raise AssertionError

    async def enter() -> None:
        with redis.Redis(host="127.0.0.1", port=1, socket_timeout=1) as sync:
            await RedisRateLimit(sync, "x", 1, on_failure="admit").__aenter__()

    with pytest.raises(TypeError, match="no client for async functions: give a URL, or async_client="):
        asyncio.run(enter())


def test_an_async_client_may_stand_in_the_first_place() -> None:
    """As for a breaker's storage; a sync function is told what is missing, and nothing is left unawaited."""
    client = redis.asyncio.Redis(host="127.0.0.1", port=1)
    limit = RedisRateLimit(client, "x", 1, on_failure="admit")

    async def enter() -> float:
        async with client, limit as waited:
            return waited

    assert asyncio.run(enter()) == 0.0
    with pytest.raises(TypeError, match="no client for sync functions"):
        limit(ascii)(1)


def test_a_client_of_the_wrong_kind_is_refused() -> None:
    """Two async clients say nothing of sync functions, and a sync one cannot be awaited."""
    awaited = redis.asyncio.Redis(host="127.0.0.1", port=1)
    assert faults(client=awaited, async_client=awaited) == {
        "client": "is for async functions, as async_client is"
    }
    with redis.Redis(socket_timeout=1) as client:
        assert faults(client=client, async_client=client) == {"async_client": "is for sync functions"}


def test_a_key_function_that_raises_is_the_callers_error() -> None:
    """Nobody knows which limit is meant, so the call is not made."""

    def tenant(request: dict[str, str]) -> str:
        return request["tenant"]

    limit = RedisRateLimit(NOWHERE, "x", 1, key=tenant, on_failure="admit")
    with pytest.raises(KeyError):
        limit(tenant)({})


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package redis the limit cannot be made; the error says what to install."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ImportError, match=r"install holdfast\[redis\]"):
        RedisRateLimit(NOWHERE, "x", 1)


def test_the_module_does_not_load_redis() -> None:
    """Only who makes a limit pays for the package redis."""
    module = "holdfast.infrastructure.store.redis_rate_limit"
    program = f"import sys; sys.path[:] = {sys.path!r}; import {module}; print('redis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("keyed", [False, True])
def test_a_refusal_for_want_of_redis_says_so(*, keyed: bool) -> None:
    """With `refuse` the error of an outage speaks of the store, not of permits, also once it was pickled."""
    family = RedisRateLimit(NOWHERE, "x", 1, on_failure="refuse", key=str if keyed else None)
    with pytest.raises(RateLimitedError) as refused, family.get("a") if keyed else family:
        raise AssertionError
    for error in (refused.value, pickle.loads(pickle.dumps(refused.value))):
        assert error.store_down
        assert str(error).startswith(
            f"rate limit {'x[a]' if keyed else 'x'!r} cannot be asked: its store does not answer; try again in "
        )


def test_the_pause_is_on_the_limits_own_clock() -> None:
    """A limit with a clock reads no other."""
    own = VirtualClock()
    limit = RedisRateLimit(NOWHERE, "x", 1, on_failure="refuse", clock=own)
    waits: list[float | None] = []
    for step in (0.0, 0.25):
        own.advance(step)
        with use_clock(VirtualClock()):
            with pytest.raises(Exception, match="rate limit") as refused, limit:
                raise AssertionError
            waits.append(getattr(refused.value, "retry_after", None))
    assert waits == [1.0, 0.75]


@given(
    rate=st.floats(1e-3, 1e6),
    per=st.sampled_from([1.0, 0.25, 60.0, 3600.0]),
    burst=st.integers(1, 1000),
)
def test_rounding_never_exceeds_the_rate(rate: float, per: float, burst: int) -> None:
    """Intervals are whole multiples of 1/64 microsecond, none shorter than the rate says, by at most one of these."""
    if rate > 1e6 * per:
        return
    interval, tolerance = settings(RateLimitConfig(rate=rate, per=per, burst=burst))
    assert (interval * 64).is_integer()
    assert 0 <= interval - per / rate * 1e6 <= 1 / 64
    assert tolerance == (burst - 1) * interval
