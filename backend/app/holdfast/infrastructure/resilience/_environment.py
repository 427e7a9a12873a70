"""What of the process's environment configures it; light, because every first call of a name asks."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PRESET = "RESILIENCE_PRESET"
CUSTOM = "RESILIENCE_CUSTOM_CONFIG"
ENABLED = "RESILIENCE_ENABLED"
FILE = "RESILIENCE_CONFIG_FILE"
# The older names, and the field that each one sets.
LEGACY = {
    "RETRY_MAX_ATTEMPTS": "retry_attempts",
    "CIRCUIT_BREAKER_FAILURE_THRESHOLD": "circuit_breaker_threshold",
    "CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "recovery_timeout",
    "DEFAULT_RESILIENCE_STRATEGY": "default_strategy",
}
NAMES = (PRESET, CUSTOM, ENABLED, FILE, *LEGACY)
SUFFIX = "_RESILIENCE_STRATEGY"


def is_configured(environ: Mapping[str, str]) -> bool:
    """Return whether the environment says anything about resilience; an empty variable says nothing."""
    return any(
        (name in NAMES or is_override(name)) and environ.get(name, "").strip() for name in list(environ)
    )


def is_override(name: str) -> bool:
    """Return whether a variable is the older way of giving one operation a strategy."""
    return name.endswith(SUFFIX) and len(name) > len(SUFFIX) and name not in LEGACY


def operation_of(name: str) -> str:
    """Return the operation that such a variable is about."""
    return name.removesuffix(SUFFIX).lower()


def as_variable(operation: str) -> str:
    """Return an operation's name as such variables write it, in lower case."""
    return "".join(letter if letter.isalnum() else "_" for letter in operation).lower()
