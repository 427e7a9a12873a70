"""Pipelines: policies composed into one, and what the composition guarantees."""

from __future__ import annotations

from holdfast.infrastructure.resilience import _compile, _explain
from holdfast.infrastructure.resilience._frozen import Faults, Frozen
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.resilience.policy import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Explanation(Frozen):
    """What a pipeline guarantees; `str()` is the text that people read. Unbounded figures are infinite.

    `duration` is in seconds; `hinted_duration` is what it becomes where a server's hints ask for longer waits. Where
    they are `cooperative`, they hold for a sync function only if it asks `remaining()`.
    """

    __slots__ = (
        "amplification",
        "attempts",
        "cooperative",
        "duration",
        "errors",
        "hinted_duration",
        "policies",
        "warnings",
    )

    policies: tuple[str, ...]
    attempts: float
    duration: float
    hinted_duration: float
    amplification: float
    cooperative: bool
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    def __init__(
        self,
        *,
        policies: tuple[str, ...],
        attempts: float,
        duration: float,
        hinted_duration: float,
        amplification: float,
        cooperative: bool,
        errors: tuple[str, ...],
        warnings: tuple[str, ...],
    ) -> None:
        self._set(
            policies=policies,
            attempts=attempts,
            duration=duration,
            hinted_duration=hinted_duration,
            amplification=amplification,
            cooperative=cooperative,
            errors=errors,
            warnings=warnings,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able facts; infinite figures are None."""
        return {name: None if value == float("inf") else value for name, value in self._fields().items()}

    def mermaid(self) -> str:
        """Return a Mermaid flowchart of the way of a call through the policies."""
        return _explain.mermaid(self)

    def __str__(self) -> str:
        """Return the explanation as people read it."""
        return _explain.text(self)

    __repr__ = __str__


class Pipeline(Policy):
    """Policies applied together, outermost first, compiled into one function for what they decorate."""

    __slots__ = ("_name", "_policies")

    def __init__(self, *policies: Policy, name: str | None = None) -> None:
        for policy in policies:
            if not isinstance(policy, Policy):
                raise TypeError(
                    f"{policy!r} is not a policy: give policies such as Retry() or CircuitBreaker(name)"
                )
        faults = Faults("Pipeline")
        faults.name("name", name)
        faults.finish()
        if not policies:
            raise TypeError("a pipeline needs at least one policy: give them outermost first")
        self._name = name
        self._policies = tuple(part for policy in policies for part in _flat(policy))
        for policy in self._policies:
            policy._require(whole=False)

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The policies, outermost first; pipelines inside are flattened."""
        return self._policies

    @property
    def name(self) -> str | None:
        """The name in events of policies that have none of their own."""
        return self._name

    def explain(self, *, strict: bool = False) -> Explanation:
        """Return worst-case attempts, seconds and load amplification, the possible errors, and order warnings.

        With `strict`, ConfigurationError if there are warnings.
        """
        return _explained(self._policies, strict=strict)

    def __repr__(self) -> str:
        """Show the policies."""
        return f"Pipeline({', '.join(map(repr, self._policies))})"

    def _label(self) -> str | None:
        return self._name

    def _parts(self) -> tuple[Policy, ...]:
        return tuple(part for policy in self._policies for part in policy._parts())


def _flat(policy: Policy) -> tuple[Policy, ...]:
    return policy.policies if isinstance(policy, Pipeline) else (policy,)


def _explained(policies: tuple[Policy, ...], *, strict: bool) -> Explanation:
    explanation = Explanation(**_explain.facts(policies))
    if strict and explanation.warnings:
        raise ConfigurationError("Pipeline", tuple(map(_explain.fault, explanation.warnings)))
    return explanation


def explain(fn: object, *, strict: bool = False) -> Explanation:
    """Explain the policies of a decorated function, a policy or a pipeline. TypeError for anything else.

    With `strict`, ConfigurationError if there are warnings.
    """
    if isinstance(fn, Policy):
        return _explained(_flat(fn), strict=strict)
    stack = _compile.stack_of(getattr(fn, "__func__", fn))
    if stack is None:
        raise TypeError(
            f"{fn!r} has no policies to explain: give a decorated function, a policy or a pipeline"
        )
    return _explained(stack.parts, strict=strict)
