"""What holdfast is asked to do, as decorators."""

from __future__ import annotations

import importlib
from typing import Any

import holdfast
from benchmarks import subjects
from benchmarks.rows import Function
from holdfast import CircuitBreaker, Hedge, Permit, Pipeline, Quantile, RetryBudget, Window
from holdfast.infrastructure.resilience._quantile import Estimate
from holdfast.infrastructure.resilience.cache import cache
from holdfast.infrastructure.resilience.rate_limit import RateLimit, RateLimits

# Never reached: a million calls a second, and a burst of more than a benchmark makes. Peers get the same.
RATE, PER, BURST = 1e9, 1000.0, 10**9
PLACES = 100
_in_flight: list[Permit] = []

retry: Function = holdfast.retry
timeout: Function = holdfast.timeout(30)


def retry_breaker(**settings: Any) -> Function:
    """Return a decorator: retry over a breaker with `settings`."""
    decorator = breaker(**settings)

    def decorate(fn: Function) -> Function:
        wrapped: Function = retry(decorator(fn))
        return wrapped

    return decorate


def breaker(**settings: Any) -> Function:
    """Return a decorator: a breaker with `settings`."""
    return holdfast.circuit_breaker(**settings)


calls = retry_breaker(window=Window.calls(100))


def pipeline() -> Pipeline:
    """Return a new pipeline: retry over a breaker of 100 calls."""
    return Pipeline(holdfast.Retry(), CircuitBreaker("benchmark", window=Window.calls(100)))


consecutive = retry_breaker(window=Window.consecutive(5))
default = retry_breaker()
slow = retry_breaker(window=Window.seconds(10), slow_call_duration=1.0)


def bounded(fn: Function) -> Function:
    """Decorate with a timeout over retry over a breaker."""
    wrapped: Function = timeout(calls(fn))
    return wrapped


def at_once(fn: Function) -> Function:
    """Decorate with a retry that does not wait."""
    wrapped: Function = holdfast.retry(wait=0)(fn)
    return wrapped


def opened(fn: Function) -> Function:
    """Decorate with a breaker that stays open once it is."""
    wrapped: Function = breaker(open_for=3600, open_cap=3600)(fn)
    return wrapped


def opened_beside_pybreaker(fn: Function) -> Function:
    """Do the same where pybreaker is imported: then an error must be one of pybreaker's, too."""
    importlib.import_module("pybreaker")
    return opened(fn)


def configured(fn: Function) -> Function:
    """Decorate with a retry and a breaker that have settings of their own."""
    wrapped: Function = holdfast.retry(attempts=5)(calls(fn))
    return wrapped


def lone_breaker(name: str) -> object:
    """Make a breaker with its default window."""
    return CircuitBreaker(name)


def lone_budget(name: str) -> object:
    """Make a budget."""
    return RetryBudget(name)


def bulkhead(fn: Function) -> Function:
    """Decorate with a bulkhead that has places left."""
    wrapped: Function = holdfast.bulkhead(PLACES)(fn)
    return wrapped


def limit() -> RateLimit:
    """Make a rate limit that is never reached."""
    return RateLimit(RATE, per=PER, burst=BURST)


def rate_limit(fn: Function) -> Function:
    """Decorate with a rate limit that is never reached."""
    wrapped: Function = limit()(fn)
    return wrapped


def limits_by_key() -> RateLimits:
    """Make a family of such limits, one for each first argument."""
    return RateLimits(RATE, per=PER, burst=BURST, key=subjects.order)


def rate_limits(fn: Function) -> Function:
    """Decorate with a family of limits."""
    wrapped: Function = limits_by_key()(fn)
    return wrapped


def throttle(fn: Function) -> Function:
    """Decorate with a throttle that has seen no failure."""
    wrapped: Function = holdfast.throttle()(fn)
    return wrapped


def concurrency_limit(fn: Function) -> Function:
    """Decorate with an adaptive limit of which less than half is in use, so that no call is sampled."""
    wrapped: Function = holdfast.concurrency_limit()(fn)
    return wrapped


def sampled_limit(fn: Function) -> Function:
    """Decorate with an adaptive limit that is half in use already, so that every call is sampled."""
    policy = holdfast.concurrency_limit(initial=20, min_limit=20, max_limit=20)
    _in_flight.extend(policy.admit() for _ in range(10))
    wrapped: Function = policy(fn)
    return wrapped


def fallback(fn: Function) -> Function:
    """Decorate with a fallback that is not needed."""
    wrapped: Function = holdfast.fallback(None)(fn)
    return wrapped


def chaos(fn: Function) -> Function:
    """Decorate with chaos that is off."""
    wrapped: Function = holdfast.chaos(rate=0.1, error=ConnectionError)(fn)
    return wrapped


def cached(fn: Function) -> Function:
    """Decorate with a cache, which after the first call answers every call with the same arguments."""
    wrapped: Function = cache(3600)(fn)
    return wrapped


def stack_of(name: str) -> Pipeline:
    """Make the order that is recommended, each policy with its defaults where it has some: eight policies."""
    return Pipeline(
        holdfast.fallback(None),
        holdfast.timeout(30),
        limit(),
        holdfast.bulkhead(PLACES),
        holdfast.Retry(budget=RetryBudget(name)),
        holdfast.throttle(),
        CircuitBreaker(name),
        holdfast.timeout(10),
        name=name,
    )


def stack(fn: Function) -> Function:
    """Decorate with those eight."""
    wrapped: Function = stack_of("service")(fn)
    return wrapped


def hedge(fn: Function) -> Function:
    """Decorate with a hedge that is never sent."""
    wrapped: Function = Hedge(1.0)(fn)
    return wrapped


def hedge_p95(fn: Function) -> Function:
    """Decorate with a hedge after the 95th percentile, which is learnt from every call."""
    wrapped: Function = Hedge()(fn)
    return wrapped


def async_with(fn: Function) -> Function:
    """Pass a rate limit by hand, as one passes aiolimiter's."""
    made = limit()

    async def limited(order_id: int, *, quantity: int = 1) -> Any:
        async with made:
            return await fn(order_id, quantity=quantity)

    return limited


def lone_estimate() -> object:
    """Make what a hedge with a percentile keeps of its calls, and fill it."""
    made, default = Estimate(0.95, 50), Quantile()
    assert (made.q, made.left) == (default.q, default.samples)
    for turn in range(600):
        made.add(0.001 * (1 + turn % 50))
    return made
