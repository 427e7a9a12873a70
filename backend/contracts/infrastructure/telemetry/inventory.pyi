"""What there is now: the policies of named pipelines and decorated functions, and their state."""

from collections.abc import Mapping
from typing import Any

from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.registry import Registry

class PolicyState:
    """One stateful policy, the operations that use it, and its `facts`: JSON-able, the same keys for all of a kind.

    Kinds: `bulkhead`, `cache`, `circuit_breaker`, `concurrency_limit`, `hedge`, `rate_limit`, `rate_limits` (a family),
    `retry_budget`, `shared_rate_limit`, `throttle`.
    """

    name: str
    kind: str
    operations: tuple[str, ...]
    facts: Mapping[str, Any]
    def __init__(
        self, *, name: str, kind: str, operations: tuple[str, ...], facts: Mapping[str, Any]
    ) -> None: ...
    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""

def inventory(registry: Registry = ...) -> list[PolicyState]:
    """Return every stateful policy of the registry and of living decorated functions, by kind and name.

    It reads only: nothing is made, no state moves on. Of a keyed family the most recently used 100 keys are listed. One
    without a name is called after an operation that uses it; of several with one name the later get `#2`, `#3`, ….
    """

def find_breaker(name: str, registry: Registry = ...) -> CircuitBreaker:
    """Return the breaker of that name. LookupError, with the names that come nearest; nothing is made."""

def pipelines(registry: Registry = ...) -> dict[str, dict[str, Any]]:
    """Return the explanation of every named pipeline, as JSON-able facts."""
