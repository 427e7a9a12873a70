"""Decorators per strategy: an operation's name, and what answers when it fails for good."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

def with_operation_resilience(
    operation: str, fallback: Any = None
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Decorate with what the configuration gives an operation; `fallback` (a value or a function) answers its failures.

    A function gets the error, and the call's arguments after it if it takes more than one. The operation's meter counts
    an answer as a success, and as degraded.
    """

def with_aggressive_resilience(
    operation: str, fallback: Any = None
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Decorate with `aggressive`, whatever the configuration says; its name is then `<operation>:aggressive`."""

def with_balanced_resilience(
    operation: str, fallback: Any = None
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Decorate with `balanced`, whatever the configuration says; its name is then `<operation>:balanced`."""

def with_conservative_resilience(
    operation: str, fallback: Any = None
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Decorate with `conservative`, whatever the configuration says; its name is then `<operation>:conservative`."""

def with_critical_resilience(
    operation: str, fallback: Any = None
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Decorate with `critical`, whatever the configuration says; its name is then `<operation>:critical`."""
