"""Pipelines: policies composed into one, and what the composition guarantees."""

from typing import Any

from holdfast.infrastructure.resilience.policy import Policy

class Explanation:
    """What a pipeline guarantees; `str()` is the text that people read. Unbounded figures are infinite.

    `duration` is in seconds; `hinted_duration` is what it becomes where a server's hints ask for longer waits. Where
    they are `cooperative`, they hold for a sync function only if it asks `remaining()`.
    """

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
    ) -> None: ...
    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able facts; infinite figures are None."""

    def mermaid(self) -> str:
        """Return a Mermaid flowchart of the way of a call through the policies."""

class Pipeline(Policy):
    """Policies applied together, outermost first, compiled into one function for what they decorate."""

    def __init__(self, *policies: Policy, name: str | None = None) -> None: ...
    @property
    def policies(self) -> tuple[Policy, ...]:
        """The policies, outermost first; pipelines inside are flattened."""

    @property
    def name(self) -> str | None:
        """The name in events of policies that have none of their own."""

    def explain(self, *, strict: bool = False) -> Explanation:
        """Return worst-case attempts, seconds and load amplification, the possible errors, and order warnings.

        With `strict`, ConfigurationError if there are warnings.
        """

def explain(fn: object, *, strict: bool = False) -> Explanation:
    """Explain the policies of a decorated function, a policy or a pipeline. TypeError for anything else.

    With `strict`, ConfigurationError if there are warnings.
    """
