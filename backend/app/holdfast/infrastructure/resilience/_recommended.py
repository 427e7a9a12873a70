"""The pipelines that we recommend; docs/reference/lab.md shows what each is good for, and at what price."""

from __future__ import annotations

from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.resilience.window import Window

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any

    from holdfast.infrastructure.resilience.policy import Policy

# No limit of its own: a dependency that nobody waits in line for may be called by as many as like.
_MOST = 1_000_000

KINDS = ("general", "interactive", "batch", "sharded", "idempotent-read")

# Opens where nearly nothing works, so that one dead shard of four is not taken for the whole; asks again every second,
# with one call that may hang for three.
_BREAKER: dict[str, Any] = {
    "failure_rate": 0.8,
    "min_calls": 10,
    "window": Window.seconds(5.0),
    "open_for": 0.5,
    "open_cap": 1.0,
    "half_open_calls": 1,
    "half_open_timeout": 3.0,
}
# A shard gets a part of the calls only.
_SHARD: dict[str, Any] = {**_BREAKER, "window": Window.seconds(20.0)}
# Enough for 30 % of errors, whatever the number of calls, and for all attempts of the first call.
_BUDGET: dict[str, Any] = {"ratio": 0.4, "min_per_second": 2.0, "ttl": 4.0}
# Eight attempts go to what is ailing, most of all: with two a second for each of many small clients it stayed down.
_PATIENT: dict[str, Any] = {**_BUDGET, "min_per_second": 0.5}
# Where everything is slow everything is hedged: a few in a hundred are enough for a tail.
_HEDGES: dict[str, Any] = {"ratio": 0.05, "min_per_second": 0.0, "ttl": 60.0}


def make(name: str, kind: str, key: Callable[..., Hashable] | None) -> Pipeline:
    """Return a new pipeline. ConfigurationError with every fault."""
    faults = Faults("recommended")
    faults.check(kind in KINDS, "kind", kind, "is not known", f"give one of {', '.join(KINDS)}")
    if kind == "sharded":
        faults.check(key is not None, "key", key, "is missing", "give a function of the call's arguments")
    else:
        faults.check(key is None, "key", key, "has no use here", "give it with kind='sharded'")
    faults.finish()
    return Pipeline(*_policies(name, kind, key), name=name)


def _policies(name: str, kind: str, key: Callable[..., Hashable] | None) -> tuple[Policy, ...]:
    budget = RetryBudget(name, **(_PATIENT if kind == "batch" else _BUDGET))
    if kind == "interactive":
        return _interactive(name, budget)
    if kind == "batch":
        return _batch(name, budget)
    if kind == "sharded":
        return _sharded(name, budget, key)
    breaker = CircuitBreaker(name, **_BREAKER)
    if kind == "idempotent-read":
        return Timeout(30.0), Retry(budget=budget), _hedge(name), breaker, _limit(name), Timeout(10.0)
    return Timeout(30.0), Retry(budget=budget), breaker, _limit(name), Timeout(10.0)


def _limit(name: str, initial: int | None = None) -> Policy:
    from holdfast.infrastructure.resilience.concurrency_limit import ConcurrencyLimit, StandingQueue

    return ConcurrencyLimit(
        algorithm=StandingQueue(), initial=initial, max_limit=_MOST, on=_is_late, name=name
    )


def _hedge(name: str) -> Policy:
    from holdfast.infrastructure.resilience.hedge import Hedge, Quantile

    return Hedge(after=Quantile(q=0.98, samples=100), budget=RetryBudget(f"{name} hedges", **_HEDGES))


def _sharded(name: str, budget: RetryBudget, key: Callable[..., Hashable] | None) -> tuple[Policy, ...]:
    from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreakers

    breakers = CircuitBreakers(name, key=key, **_SHARD)
    return Timeout(30.0), Retry(budget=budget), breakers, _limit(name), Timeout(10.0)


def _interactive(name: str, budget: RetryBudget) -> tuple[Policy, ...]:
    return Timeout(5.0), Retry(budget=budget), CircuitBreaker(name, **_BREAKER), _limit(name), Timeout(2.0)


def _batch(name: str, budget: RetryBudget) -> tuple[Policy, ...]:
    from holdfast.infrastructure.resilience.backoff import Backoff

    retry = Retry(8, wait=Backoff(base=1.0, cap=30.0), on=_is_worth_waiting, budget=budget)
    return Timeout(300.0), retry, CircuitBreaker(name, **_BREAKER), _limit(name), Timeout(30.0)


def _is_late(error: Exception) -> bool:
    """Return whether nobody answered in time, or was too busy to: errors that come at once are no sign of a crowd."""
    from holdfast.infrastructure.resilience.classify import THROTTLED, classify

    late = isinstance(error, TimeoutError) or any("Timeout" in kind.__name__ for kind in type(error).__mro__)
    return late or classify(error) is THROTTLED


def _is_worth_waiting(error: Exception) -> bool:
    """Return whether the same may work later, also where our own breaker or limit says so."""
    from holdfast.infrastructure.resilience.classify import PERMANENT, classify
    from holdfast.infrastructure.resilience.errors import CircuitOpenError, ConcurrencyLimitedError

    return isinstance(error, (CircuitOpenError, ConcurrencyLimitedError)) or classify(error) is not PERMANENT
