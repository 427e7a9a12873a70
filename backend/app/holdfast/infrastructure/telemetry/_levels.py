"""How full limits are, 0 idle and 1 nothing left, and how many tokens budgets have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.infrastructure.telemetry._deltas import OTHER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from holdfast.infrastructure.telemetry.inventory import PolicyState

Key = tuple[str, str]
TOKENS = "retry_budget"
# Which measure shows the level of policies of a kind.
MEASURES = {
    "bulkhead": "bulkhead_saturation",
    "concurrency_limit": "concurrency_limit_saturation",
    "rate_limit": "rate_limit_saturation",
    "rate_limits": "rate_limit_saturation",
    "shared_rate_limit": "rate_limit_saturation",
    "retry_budget": "retry_budget_tokens",
    "throttle": "throttle_saturation",
}


class Levels:
    """What the limits had refused at the last look: one that refused meanwhile was full, though it is not now."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._refused: dict[Key, int] = {}

    def look(self, policies: Iterable[PolicyState]) -> dict[Key, float]:
        """Return the worst level of each limit since the last look; beyond `most` the worst of the rest, as `other`."""
        found: dict[Key, float] = {}
        refused: dict[Key, int] = {}
        for policy in policies:
            level = _LEVELS.get(policy.kind)
            if level is not None:
                key = policy.kind, policy.name
                found[key] = level(policy.facts)
                refused[key] = policy.facts.get("rejected", 0) if policy.kind != "throttle" else 0
        for key, count in refused.items():
            if count > self._refused.get(key, count):
                found[key] = 1.0
        self._refused = refused
        return self._bounded(found)

    def _bounded(self, found: dict[Key, float]) -> dict[Key, float]:
        ranked = sorted(found, key=lambda key: (found[key] if key[0] == TOKENS else -found[key], key))
        named = {key: found[key] for key in sorted(ranked[: self._most])}
        for kind, name in ranked[self._most :]:
            named.setdefault((kind, OTHER), found[kind, name])
        return named


def worse(kind: str, one: float, two: float) -> float:
    """Return the worse of two levels of a kind: fewer tokens, or less that is left."""
    return min(one, two) if kind == TOKENS else max(one, two)


def _taken(facts: Mapping[str, Any]) -> float:
    return float(min(1.0, facts["running"] / facts["limit"]))


def _used(facts: Mapping[str, Any]) -> float:
    burst: int = facts["burst"]
    # One number, or one for each key of a family; what is shared is not asked for.
    available: int | dict[str, int] = facts.get("available", burst)
    left = min(available.values(), default=burst) if isinstance(available, dict) else available
    return min(1.0, max(0.0, 1.0 - left / burst))


_LEVELS: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "bulkhead": _taken,
    "concurrency_limit": _taken,
    "rate_limit": _used,
    "rate_limits": _used,
    "shared_rate_limit": _used,
    "retry_budget": lambda facts: float(facts["tokens"]),
    "throttle": lambda facts: float(facts["rejection_probability"]),
}
