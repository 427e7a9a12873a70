"""Decorators per strategy: an operation's name, and what answers when it fails for good."""

from __future__ import annotations

from holdfast.infrastructure.resilience._answered import Answered
from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.resilience.fallback import Fallback
from holdfast.infrastructure.resilience.registry import Resilient, registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, ParamSpec, TypeVar

    from holdfast.infrastructure.resilience.policy import Policy

    _P = ParamSpec("_P")
    _T = TypeVar("_T")

_VARIADIC = 4  # inspect.CO_VARARGS


def with_operation_resilience(
    operation: str, fallback: Any = None
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Decorate with what the configuration gives an operation; `fallback` (a value or a function) answers its failures.

    A function gets the error, and the call's arguments after it if it takes more than one. The operation's meter counts
    an answer as a success, and as degraded.
    """
    _check(operation)
    # What `register` said of it stays.
    return _decorator(operation, fallback, registry._operations.get(operation, {}))


def with_aggressive_resilience(
    operation: str, fallback: Any = None
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Decorate with `aggressive`, whatever the configuration says; its name is then `<operation>:aggressive`."""
    return _pinned(operation, "aggressive", fallback)


def with_balanced_resilience(
    operation: str, fallback: Any = None
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Decorate with `balanced`, whatever the configuration says; its name is then `<operation>:balanced`."""
    return _pinned(operation, "balanced", fallback)


def with_conservative_resilience(
    operation: str, fallback: Any = None
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Decorate with `conservative`, whatever the configuration says; its name is then `<operation>:conservative`."""
    return _pinned(operation, "conservative", fallback)


def with_critical_resilience(
    operation: str, fallback: Any = None
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Decorate with `critical`, whatever the configuration says; its name is then `<operation>:critical`."""
    return _pinned(operation, "critical", fallback)


def _pinned(operation: str, strategy: str, fallback: Any) -> Policy:
    _check(operation)
    name = f"{operation}:{strategy}"
    return _decorator(name, fallback, {**registry._operations.get(name, {}), "strategy": strategy})


def _check(operation: object) -> None:
    faults = Faults("operation")
    remedy = 'give the name of the operation, for example "summarize"'
    faults.check(isinstance(operation, str) and operation, "operation", operation, "is no name", remedy)
    faults.finish()


def _decorator(name: str, fallback: Any, code: Mapping[str, Any]) -> Policy:
    policy = Resilient(registry, name)
    if fallback is not None:
        policy = Answered(registry, name, _answer(name, fallback))
    if name not in registry._operations or registry._operations[name] != code:
        registry._register(name, code)
    return policy


def _answer(name: str, fallback: Any) -> Fallback:
    if not callable(fallback):
        return Fallback(fallback, name=name)
    return Fallback(call=fallback, pass_args=_takes_more(fallback), name=name)


def _takes_more(call: Any) -> bool:
    """Return whether a function takes more than the error."""
    function = getattr(call, "__func__", call)
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    places = code.co_argcount - (function is not call)
    return places > 1 or bool(code.co_flags & _VARIADIC)
