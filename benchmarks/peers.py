"""The same jobs, done by peers: three attempts on OSError, random exponential waits; open after five failures."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from benchmarks.rows import Function


def tenacity_retry(fn: Function) -> Function:
    """Retry with tenacity; sync and async."""
    import tenacity

    wrapped: Function = tenacity.retry(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_random_exponential(max=2),
        retry=tenacity.retry_if_exception_type(OSError),
        reraise=True,
    )(fn)
    return wrapped


def stamina_retry(fn: Function) -> Function:
    """Retry with stamina; sync and async."""
    import stamina

    wrapped: Function = stamina.retry(on=OSError, attempts=3)(fn)
    return wrapped


def backoff_retry(fn: Function) -> Function:
    """Retry with backoff; sync and async."""
    import backoff

    return backoff.on_exception(backoff.expo, OSError, max_tries=3)(fn)


def hyx_retry(fn: Function) -> Function:
    """Retry with hyx, whose `attempts` are those after the first; async only."""
    from hyx.retry import retry
    from hyx.retry.backoffs import expo
    from hyx.retry.jitters import full

    wrapped: Function = retry(on=OSError, attempts=2, backoff=expo(jitter=full))(fn)
    return wrapped


def redress_retry(fn: Function) -> Function:
    """Retry with redress and its default classifier; sync and async."""
    import redress

    decorator: Any = redress.retry
    wrapped: Function = decorator(max_attempts=3)(fn)
    return wrapped


def pybreaker_breaker(fn: Function) -> Function:
    """Break with pybreaker; sync only."""
    import pybreaker

    return pybreaker.CircuitBreaker(fail_max=5, reset_timeout=30)(fn)


def circuitbreaker_breaker(fn: Function) -> Function:
    """Break with circuitbreaker; sync and async."""
    from circuitbreaker import circuit

    decorator: Any = circuit(failure_threshold=5, recovery_timeout=30)
    wrapped: Function = decorator(fn)
    return wrapped


def aiobreaker_breaker(fn: Function) -> Function:
    """Break with aiobreaker; sync and async."""
    from aiobreaker import CircuitBreaker

    wrapped: Function = CircuitBreaker(fail_max=5)(fn)
    return wrapped


def hyx_breaker(fn: Function) -> Function:
    """Break with hyx; async only."""
    from hyx.circuitbreaker import consecutive_breaker

    wrapped: Function = consecutive_breaker(failure_threshold=5)(fn)
    return wrapped


def purgatory_breaker(fn: Function) -> Function:
    """Break with purgatory; sync and async."""
    from purgatory import AsyncCircuitBreakerFactory, SyncCircuitBreakerFactory

    made: Any = (
        AsyncCircuitBreakerFactory() if inspect.iscoroutinefunction(fn) else SyncCircuitBreakerFactory()
    )
    wrapped: Function = made("service", threshold=5)(fn)
    return wrapped


def redress_breaker(fn: Function) -> Function:
    """Break with a redress policy; sync and async."""
    return _redress(fn, retries=False)


def tenacity_pybreaker(fn: Function) -> Function:
    """Retry with tenacity over pybreaker; sync only."""
    return tenacity_retry(pybreaker_breaker(fn))


def tenacity_aiobreaker(fn: Function) -> Function:
    """Retry with tenacity over aiobreaker."""
    return tenacity_retry(aiobreaker_breaker(fn))


def stamina_purgatory(fn: Function) -> Function:
    """Retry with stamina over purgatory."""
    return stamina_retry(purgatory_breaker(fn))


def backoff_circuitbreaker(fn: Function) -> Function:
    """Retry with backoff over circuitbreaker."""
    return backoff_retry(circuitbreaker_breaker(fn))


def hyx_both(fn: Function) -> Function:
    """Retry over a breaker, both of hyx; async only."""
    return hyx_retry(hyx_breaker(fn))


def redress_both(fn: Function) -> Function:
    """Do both in one redress policy, whose breaker is around the retry."""
    return _redress(fn, retries=True)


def _redress(fn: Function, *, retries: bool) -> Function:
    """Wrap as redress's own decorator does, which has no place for a breaker."""
    import redress

    settings: Any = {
        "classifier": redress.default_classifier,
        "strategy": redress.decorrelated_jitter(max_s=5.0),
        "max_attempts": 3,
    }
    breaker = redress.CircuitBreaker(failure_threshold=5)
    if inspect.iscoroutinefunction(fn):
        many = redress.AsyncPolicy(
            retry=redress.AsyncRetry(**settings) if retries else None, circuit_breaker=breaker
        )

        @functools.wraps(fn)
        async def async_wrapper(*args: Any, **kwargs: Any) -> Any:
            return await many.call(lambda: fn(*args, **kwargs))

        return async_wrapper
    one = redress.Policy(retry=redress.Retry(**settings) if retries else None, circuit_breaker=breaker)

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return one.call(lambda: fn(*args, **kwargs))

    return wrapper


def hyx_timeout(fn: Function) -> Function:
    """Bound with hyx, which runs the function in a task of its own."""
    from hyx.timeout import timeout

    wrapped: Function = timeout(30)(fn)
    return wrapped


def tenacity_at_once(fn: Function) -> Function:
    """Retry with tenacity, waiting 0 s."""
    import tenacity

    wrapped: Function = tenacity.retry(
        stop=tenacity.stop_after_attempt(3), retry=tenacity.retry_if_exception_type(OSError), reraise=True
    )(fn)
    return wrapped


def stamina_at_once(fn: Function) -> Function:
    """Retry with stamina, waiting 0 s and telling nobody."""
    import stamina
    from stamina import instrumentation

    instrumentation.set_on_retry_hooks([])
    wrapped: Function = stamina.retry(on=OSError, attempts=3, wait_initial=0, wait_max=0, wait_jitter=0)(fn)
    return wrapped


def backoff_at_once(fn: Function) -> Function:
    """Retry with backoff, waiting 0 s and telling nobody."""
    import backoff

    return backoff.on_exception(backoff.constant, OSError, max_tries=3, interval=0, jitter=None, logger=None)(
        fn
    )


def redress_at_once(fn: Function) -> Function:
    """Retry with redress, waiting 0 s."""
    import redress

    def at_once(_: object) -> float:
        return 0.0

    decorator: Any = redress.retry
    wrapped: Function = decorator(max_attempts=3, strategy=at_once)(fn)
    return wrapped
