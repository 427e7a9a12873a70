"""Which variables of whoever runs the tests would configure what is tested."""

_OLDER = {"RETRY_MAX_ATTEMPTS", "CIRCUIT_BREAKER_FAILURE_THRESHOLD", "CIRCUIT_BREAKER_RECOVERY_TIMEOUT"}


def configures(name: str) -> bool:
    """Return whether a variable says anything about resilience."""
    return name.startswith("RESILIENCE_") or name.endswith("_RESILIENCE_STRATEGY") or name in _OLDER
