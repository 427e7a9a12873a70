"""What there is now: the policies of named pipelines and decorated functions, and their state."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, cast

from holdfast.infrastructure.resilience import _compile, registry
from holdfast.infrastructure.resilience._frozen import Frozen
from holdfast.infrastructure.resilience.meter import Meter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from holdfast.infrastructure.resilience.budget import RetryBudget
    from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker, CircuitBreakers
    from holdfast.infrastructure.resilience.policy import Policy
    from holdfast.infrastructure.resilience.registry import Registry
    from holdfast.infrastructure.resilience.states import CircuitState

_MOST_KEYS = 100
_NEAREST = 3


class PolicyState(Frozen):
    """One stateful policy, the operations that use it, and its `facts`: JSON-able, the same keys for all of a kind.

    Kinds: `bulkhead`, `cache`, `circuit_breaker`, `concurrency_limit`, `hedge`, `rate_limit`, `rate_limits` (a family),
    `retry_budget`, `shared_rate_limit`, `throttle`.
    """

    __slots__ = ("facts", "kind", "name", "operations")

    name: str
    kind: str
    operations: tuple[str, ...]
    facts: Mapping[str, Any]

    def __init__(
        self, *, name: str, kind: str, operations: tuple[str, ...], facts: Mapping[str, Any]
    ) -> None:
        self._set(name=name, kind=kind, operations=operations, facts=facts)

    __hash__ = None  # type: ignore[assignment]  # it holds a mapping

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""
        return {**self._fields(), "operations": list(self.operations), "facts": dict(self.facts)}


class _Found:
    """A stateful thing, by what it is called, and who uses it; `called` is a name that no other of its kind has."""

    __slots__ = ("called", "kind", "name", "operations", "thing")

    called: str

    def __init__(self, thing: Any, kind: str, name: str | None) -> None:
        self.thing = thing
        self.kind = kind
        self.name = name
        self.operations: dict[str, None] = {}

    def state(self) -> PolicyState:
        """Return it with its facts."""
        return PolicyState(
            name=self.called,
            kind=self.kind,
            operations=tuple(sorted(self.operations)),
            facts=_FACTS[self.kind](self.thing),
        )


def inventory(registry: Registry = registry.registry) -> list[PolicyState]:
    """Return every stateful policy of the registry and of living decorated functions, by kind and name.

    It reads only: nothing is made, no state moves on. Of a keyed family the most recently used 100 keys are listed. One
    without a name is called after an operation that uses it; of several with one name the later get `#2`, `#3`, ….
    """
    return [one.state() for one in _named(_found(registry))]


def find_breaker(name: str, registry: Registry = registry.registry) -> CircuitBreaker:
    """Return the breaker of that name. LookupError, with the names that come nearest; nothing is made."""
    breakers = {one.called: one.thing for one in _breakers(registry)}
    found: CircuitBreaker | None = breakers.get(name)
    if found is None:
        raise LookupError(f"no circuit breaker is called {name!r}; {_nearest(name, list(breakers))}")
    return found


def _breakers(registry: Registry) -> list[_Found]:
    """Return the circuit breakers by name; their facts are for who asks for them."""
    return _named(_found(registry, "circuit_breaker"))


def _breaker_modes(registry: Registry) -> list[tuple[str, CircuitState]]:
    """Return the circuit breakers' names, and the states that they are in."""
    return [(one.called, one.thing._machine.mode) for one in _breakers(registry)]


def pipelines(registry: Registry = registry.registry) -> dict[str, dict[str, Any]]:
    """Return the explanation of every named pipeline, as JSON-able facts."""
    return {name: pipeline.explain().as_dict() for name, pipeline in _pipelines(registry)}


def _nearest(name: str, names: list[str]) -> str:
    from difflib import get_close_matches  # only where somebody mistyped

    near = get_close_matches(name, names, _NEAREST, 0.0)
    return f"nearest: {', '.join(map(repr, near))}" if near else "there is none yet"


def _pipelines(registry: Registry) -> Iterator[tuple[str, Any]]:
    for name in registry:
        try:
            yield name, registry.get(name)
        except LookupError:
            continue  # discarded meanwhile


def _named(found: list[_Found]) -> list[_Found]:
    taken: dict[tuple[str, str], int] = {}
    for one in found:
        name = one.name or next(iter(one.operations), one.kind)
        count = taken[one.kind, name] = taken.get((one.kind, name), 0) + 1
        one.called = name if count == 1 else f"{name}#{count}"
    return sorted(found, key=lambda one: (one.kind, one.called))


def _found(registry: Registry, kind: str | None = None) -> list[_Found]:
    found: dict[int, _Found] = {}
    named = ((name, pipeline.policies) for name, pipeline in _pipelines(registry))
    for operation, policies in chain(named, map(_used, _compile.living())):
        for policy in policies:
            for one in _things(policy):
                if kind is not None and one.kind != kind:
                    continue
                known = found.setdefault(_identity(one.thing), one)
                if operation is not None:
                    known.operations[operation] = None
    return list(found.values())


def _used(stack: _compile.Stack) -> tuple[str | None, tuple[Policy, ...]]:
    """Return the operation that a function is, and its policies; None for `policy.call`, which serves any function."""
    outermost = stack.parts[0]
    if isinstance(outermost, Meter):
        return outermost.name, stack.parts
    if stack.name is None and stack.signature is _compile.CALLER:
        return None, stack.parts
    return stack.label(), stack.parts


def _identity(thing: Any) -> int:
    """Return what two views of the same state have in common."""
    for attribute in ("_machine", "_gate", "_state", "_shelf"):
        state = getattr(thing, attribute, None)
        if state is not None:
            return id(state)
    return id(thing)


def _things(policy: Policy) -> Iterator[_Found]:
    kind = _kind(cast("Any", type(policy)))
    if kind == "circuit_breakers":
        yield from _kept(cast("CircuitBreakers", policy))
    elif kind is not None:
        yield _Found(policy, kind, policy.name)
    budget: RetryBudget | None = getattr(getattr(policy, "config", None), "budget", None)
    if budget is not None:
        yield _Found(budget, "retry_budget", budget.name)


def _kept(family: CircuitBreakers) -> Iterator[_Found]:
    for key in islice(reversed(family._shelf.keys()), _MOST_KEYS):
        breaker = family.peek(key)
        if breaker is not None:
            yield _Found(breaker, "circuit_breaker", breaker.name)


# By the class's name: who asks for facts need not import what nobody uses, nor packages above this one.
_KINDS = {
    "Bulkhead": "bulkhead",
    "Cache": "cache",
    "CircuitBreaker": "circuit_breaker",
    "CircuitBreakers": "circuit_breakers",
    "ConcurrencyLimit": "concurrency_limit",
    "Hedge": "hedge",
    "RateLimit": "rate_limit",
    "RateLimits": "rate_limits",
    "RedisRateLimit": "shared_rate_limit",
    "Throttle": "throttle",
}


@lru_cache(256)
def _kind(policy: type[Policy]) -> str | None:
    return next((_KINDS[base.__name__] for base in policy.__mro__ if base.__name__ in _KINDS), None)


def _breaker(breaker: Any) -> dict[str, Any]:
    machine = breaker._machine
    with machine.lock:
        state, seconds = machine.mode.value, max(0.0, machine.now() - machine.since)
    counts = breaker.counts
    return {
        "state": state,
        "seconds_in_state": seconds,
        "retry_after": breaker.retry_after,
        "calls": counts.calls,
        "failures": counts.failures,
        "slow": counts.slow,
        "failure_rate": counts.failure_rate,
        "slow_rate": counts.slow_rate,
        "rejected": breaker.rejected,
    }


def _budget(budget: Any) -> dict[str, Any]:
    return {"tokens": budget._peek(), "capacity": budget.capacity, "share": budget.share}


def _bulkhead(policy: Any) -> dict[str, Any]:
    limit, running = policy.limit, policy.running
    return {
        "limit": limit,
        "running": running,
        "available": max(0, limit - running),
        "waiting": policy.waiting,
        "queue": policy.config.queue,
        "rejected": policy.rejected,
    }


def _rate_limit(policy: Any) -> dict[str, Any]:
    return {
        **_rate(policy.config),
        "available": policy.available,
        "waiting": policy.waiting,
        "retry_after": policy.retry_after,
        "rejected": policy.rejected,
    }


def _rate_limits(family: Any) -> dict[str, Any]:
    keys = list(islice(reversed(list(family)), _MOST_KEYS))
    return {
        **_rate(family.config),
        "keys": len(family),
        "available": {str(key): family.get(key).available for key in keys},
        "waiting": sum(len(line.queue) for line in list(family._gate.lines.values())),
        "rejected": family.rejected,
    }


def _shared_rate_limit(policy: Any) -> dict[str, Any]:
    return {**_rate(policy.config), "degraded": policy.degraded, "rejected": policy.rejected}


def _rate(config: Any) -> dict[str, Any]:
    return {"rate": config.rate, "per": config.per, "burst": config.burst, "max_wait": config.max_wait}


def _concurrency_limit(policy: Any) -> dict[str, Any]:
    limit, running = policy.limit, policy.running
    return {
        "limit": limit,
        "running": running,
        "available": max(0, limit - running),
        "min_limit": policy.config.min_limit,
        "max_limit": policy.config.max_limit,
        "rejected": policy.rejected,
    }


def _throttle(policy: Any) -> dict[str, Any]:
    return {
        "requests": policy.requests,
        "accepts": policy.accepts,
        "rejection_probability": policy.rejection_probability,
        "rejected": policy.rejected,
    }


def _hedge(policy: Any) -> dict[str, Any]:
    return {"started": policy.started, "won": policy.won, "latency": policy.latency}


def _cache(policy: Any) -> dict[str, Any]:
    facts: dict[str, Any] = policy.info()._fields()
    return facts


_FACTS = {
    "bulkhead": _bulkhead,
    "cache": _cache,
    "circuit_breaker": _breaker,
    "concurrency_limit": _concurrency_limit,
    "hedge": _hedge,
    "rate_limit": _rate_limit,
    "rate_limits": _rate_limits,
    "retry_budget": _budget,
    "shared_rate_limit": _shared_rate_limit,
    "throttle": _throttle,
}
