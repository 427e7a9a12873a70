"""The states of a circuit breaker."""

from enum import StrEnum


class CircuitState(StrEnum):
    """State of a circuit breaker; the first three values are pybreaker's strings."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    ISOLATED = "isolated"
    DISABLED = "disabled"
    SHADOW = "shadow"
