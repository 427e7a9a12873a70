"""CircuitOpenError as one of pybreaker's errors, wherever pybreaker is imported."""

from __future__ import annotations

import sys

from holdfast.infrastructure.resilience.errors import CallRejectedError, CircuitOpenError

# The module to look out for; empty once that is done.
unjoined = "pybreaker"


def join() -> bool:
    """Make CircuitOpenError a `pybreaker.CircuitBreakerError` if pybreaker is imported; return whether it is now."""
    global unjoined  # noqa: PLW0603  # read by generated code as an attribute of this module
    base = getattr(sys.modules.get("pybreaker"), "CircuitBreakerError", None)
    if base is None:
        return False
    if base not in CircuitOpenError.__bases__:
        CircuitOpenError.__bases__ = (CallRejectedError, base)
    unjoined = ""
    return True
