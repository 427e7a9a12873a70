"""What breakers and budgets know, as facts that survive a restart."""

from __future__ import annotations

from holdfast.infrastructure.resilience import budget as budgets
from holdfast.infrastructure.resilience._breaker_state import _read, restore
from holdfast.infrastructure.resilience._frozen import is_dict
from holdfast.infrastructure.resilience._strategies import policies_of
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.clock import current_clock
from holdfast.infrastructure.resilience.retry import Retry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from holdfast.infrastructure.resilience._breaker import Change
    from holdfast.infrastructure.resilience.budget import RetryBudget
    from holdfast.infrastructure.resilience.pipeline import Pipeline

_VERSION = 1
_MOST_NAMES = 10_000
_MOST = 1e12


class Known:
    """Imported facts by name, until there is somebody to know them."""

    def __init__(self) -> None:
        self.breakers: dict[str, Mapping[str, Any]] = {}
        self.budgets: dict[str, Mapping[str, Any]] = {}

    def take(self, facts: Any) -> None:
        """Take over what `export` returned. ValueError if it is malformed; then nothing is taken."""
        if not is_dict(facts) or facts.get("version") != _VERSION:
            raise _malformed(f"its version is not {_VERSION}")
        breakers, tokens = _named(facts, "breakers"), _named(facts, "budgets")
        for one in breakers.values():
            _read(one)
        for one in tokens.values():
            _check_budget(one)
        self.breakers = dict(breakers)
        self.budgets = dict(tokens)

    def give(self, pipeline: Pipeline) -> list[tuple[CircuitBreaker, Change]]:
        """Let the policies of a pipeline know what is known of them, once; return what is to be told outside locks."""
        told: list[tuple[CircuitBreaker, Change]] = []
        for breaker in breakers_of(pipeline):
            facts = self.breakers.pop(breaker.name, None)
            if facts is not None:
                told.append((breaker, restore(breaker._machine, facts)))
        for budget in budgets_of(pipeline):
            facts = self.budgets.pop(budget.name or "", None)
            if facts is not None:
                _restore_budget(budget, facts)
        return told


def export(pipelines: Iterable[Pipeline], known: Known) -> dict[str, Any]:
    """Return what the policies of pipelines know, and what nobody has asked for since it was imported."""
    found: dict[str, Any] = {
        "version": _VERSION,
        "breakers": dict(known.breakers),
        "budgets": dict(known.budgets),
    }
    for pipeline in pipelines:
        for breaker in breakers_of(pipeline):
            found["breakers"][breaker.name] = breaker.export_state()
        for budget in budgets_of(pipeline):
            if budget.name is not None:
                found["budgets"][budget.name] = _export_budget(budget)
    return found


def breakers_of(pipeline: Pipeline) -> Iterator[CircuitBreaker]:
    """Yield the breakers of a pipeline."""
    return (one for one in policies_of(pipeline) if isinstance(one, CircuitBreaker))


def budgets_of(pipeline: Pipeline) -> Iterator[RetryBudget]:
    """Yield the budgets of a pipeline."""
    for one in policies_of(pipeline):
        if isinstance(one, Retry) and one.config.budget is not None:
            yield one.config.budget


def _named(facts: Mapping[str, Any], kind: str) -> dict[str, Any]:
    found = facts.get(kind)
    if not is_dict(found) or len(found) > _MOST_NAMES or not all(isinstance(one, str) for one in found):
        raise _malformed(f"{kind} are no facts by name")
    return found


def _export_budget(budget: RetryBudget) -> dict[str, Any]:
    with budgets._locks[budget._stripe]:
        budget._kind.absorb(budget)
        tokens, floor = budget._tokens, budget._floor
    return {"tokens": tokens, "floor": floor, "at": current_clock().time()}


def _check_budget(facts: Any) -> None:
    if not is_dict(facts):
        raise _malformed("a budget is no facts")
    for key in ("tokens", "floor", "at"):
        value = facts.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST:
            raise _malformed(f"a budget's {key} is no number from 0")


def _restore_budget(budget: RetryBudget, facts: Mapping[str, Any]) -> None:
    passed = max(0.0, current_clock().time() - facts["at"])
    with budgets._locks[budget._stripe]:
        kind = budget._kind
        kind.start(budget)
        kind.absorb(budget)
        budget._tokens, budget._floor = facts["tokens"], min(facts["floor"], budget._floor)
        # The next look lets the time pass in which there was no process.
        budget._last -= passed


def _malformed(what: str) -> ValueError:
    return ValueError(f"this is no exported state: {what}; give what export_state() returned")
