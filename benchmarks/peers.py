"""The same jobs, done by peers: three attempts on OSError, random exponential waits; open after five failures."""

from __future__ import annotations

import functools
import inspect
import threading
from typing import Any

from benchmarks import ours
from benchmarks.rows import Function
from benchmarks.subjects import Refused


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


def hyx_bulkhead(fn: Function) -> Function:
    """Refuse when 100 calls run, with hyx: two semaphores; async only."""
    from hyx.bulkhead import bulkhead

    wrapped: Function = bulkhead(max_concurrency=ours.PLACES, max_capacity=ours.PLACES)(fn)
    return wrapped


def hyx_rate_limit(fn: Function) -> Function:
    """Limit with hyx's token bucket, which reads the clock only when it is empty; async only."""
    from hyx.ratelimit import tokenbucket

    wrapped: Function = tokenbucket(ours.RATE, ours.PER, bucket_size=ours.BURST)(fn)
    return wrapped


def hyx_fallback(fn: Function) -> Function:
    """Fall back with hyx, whose handler is always a function; async only."""
    from hyx.fallback import fallback

    async def nothing(*_: object, **__: object) -> None:
        return None

    wrapped: Function = fallback(nothing, on=Exception)(fn)
    return wrapped


def hyx_stack(fn: Function) -> Function:
    """Wrap with all that hyx has, in the order of our stack: it has no throttle, and no budget for retries."""
    attempt = hyx_retry(hyx_breaker(hyx_timeout(fn)))
    return hyx_fallback(hyx_timeout(hyx_rate_limit(hyx_bulkhead(attempt))))


def aiolimiter_limiter() -> Any:
    """Make aiolimiter's limiter, a leaky bucket whose burst is its rate."""
    from aiolimiter import AsyncLimiter

    return AsyncLimiter(ours.BURST, ours.BURST * ours.PER / ours.RATE)


def aiolimiter_async_with(fn: Function) -> Function:
    """Pass aiolimiter's limiter by hand, as its documentation does."""
    limiter = aiolimiter_limiter()

    async def limited(order_id: int, *, quantity: int = 1) -> Any:
        async with limiter:
            return await fn(order_id, quantity=quantity)

    return limited


def aiolimiter_rate_limit(fn: Function) -> Function:
    """Limit any function with aiolimiter, which has no decorator; async only."""
    limiter = aiolimiter_limiter()

    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        async with limiter:
            return await fn(*args, **kwargs)

    return wrapper


def limits_fixed(fn: Function) -> Function:
    """Limit with limits' fixed window, which admits up to twice the limit around the window's end."""
    return _limits(fn, "FixedWindowRateLimiter")


def limits_sliding(fn: Function) -> Function:
    """Limit with limits' sliding window counter, which takes the calls of the window before for evenly spread."""
    return _limits(fn, "SlidingWindowCounterRateLimiter")


def _limits(fn: Function, strategy: str) -> Function:
    """Limit as applications do: limits has no decorator of its own, and tells by False that a call is refused."""
    import limits
    import limits.aio

    item = limits.RateLimitItemPerSecond(ours.BURST, int(ours.PER))
    if inspect.iscoroutinefunction(fn):
        many: Any = getattr(limits.aio.strategies, strategy)(limits.aio.storage.MemoryStorage())

        @functools.wraps(fn)
        async def async_wrapper(*args: Any, **kwargs: Any) -> Any:
            if not await many.hit(item, "service"):
                raise Refused
            return await fn(*args, **kwargs)

        return async_wrapper
    one: Any = getattr(limits.strategies, strategy)(_limits_storage())

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not one.hit(item, "service"):
            raise Refused
        return fn(*args, **kwargs)

    return wrapper


def _limits_storage() -> Any:
    """Make a storage that starts no thread to expire what is old: a block is too short to make up for its start."""
    import limits

    storage = limits.storage.MemoryStorage()
    storage.timer.cancel()
    storage.timer = threading.Timer(86_400, print)
    storage.timer.daemon = True
    storage.timer.start()
    return storage


def limits_hit() -> Function:
    """Return what counts a call of a key in limits' fixed windows, in memory."""
    import limits

    item = limits.RateLimitItemPerSecond(ours.BURST, int(ours.PER))
    limiter = limits.strategies.FixedWindowRateLimiter(_limits_storage())

    def hit(key: str) -> bool:
        return limiter.hit(item, key)

    return hit


def pyrate_limiter_bucket() -> Any:
    """Make a bucket of pyrate-limiter's with the algorithm that ours has, GCRA, in memory, and use it."""
    from pyrate_limiter import Rate, RateItem, StateBucket

    bucket = StateBucket([Rate(ours.BURST, round(1000 * ours.BURST * ours.PER / ours.RATE))])
    bucket.put(RateItem("service", 0))
    return bucket


def pyrate_limiter_limiter() -> Any:
    """Make a limiter with such a bucket."""
    from pyrate_limiter import Limiter, SingleBucketFactory

    # Nothing leaks from it: no thread need look.
    return Limiter(SingleBucketFactory(pyrate_limiter_bucket(), schedule_leak=False))


def pyrate_limiter_rate_limit(fn: Function) -> Function:
    """Limit with pyrate-limiter, refusing at once; sync and async."""
    limiter = pyrate_limiter_limiter()
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def async_wrapper(*args: Any, **kwargs: Any) -> Any:
            if not await limiter.try_acquire_async("service", blocking=False):
                raise Refused
            return await fn(*args, **kwargs)

        return async_wrapper

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not limiter.try_acquire("service", blocking=False):
            raise Refused
        return fn(*args, **kwargs)

    return wrapper
