"""What holdfast is asked to do, as decorators."""

from __future__ import annotations

import importlib
from typing import Any

import holdfast
from benchmarks.rows import Function
from holdfast import CircuitBreaker, RetryBudget, Window

retry: Function = holdfast.retry
timeout: Function = holdfast.timeout(30)


def retry_breaker(**settings: Any) -> Function:
    """Return a decorator: retry over a breaker with `settings`."""
    decorator = breaker(**settings)

    def decorate(fn: Function) -> Function:
        wrapped: Function = retry(decorator(fn))
        return wrapped

    return decorate


def breaker(**settings: Any) -> Function:
    """Return a decorator: a breaker with `settings`."""
    return holdfast.circuit_breaker(**settings)


calls = retry_breaker(window=Window.calls(100))
consecutive = retry_breaker(window=Window.consecutive(5))
default = retry_breaker()
slow = retry_breaker(window=Window.seconds(10), slow_call_duration=1.0)


def bounded(fn: Function) -> Function:
    """Decorate with a timeout over retry over a breaker."""
    wrapped: Function = timeout(calls(fn))
    return wrapped


def at_once(fn: Function) -> Function:
    """Decorate with a retry that does not wait."""
    wrapped: Function = holdfast.retry(wait=0)(fn)
    return wrapped


def opened(fn: Function) -> Function:
    """Decorate with a breaker that stays open once it is."""
    wrapped: Function = breaker(open_for=3600, open_cap=3600)(fn)
    return wrapped


def opened_beside_pybreaker(fn: Function) -> Function:
    """Do the same where pybreaker is imported: then an error must be one of pybreaker's, too."""
    importlib.import_module("pybreaker")
    return opened(fn)


def configured(fn: Function) -> Function:
    """Decorate with a retry and a breaker that have settings of their own."""
    wrapped: Function = holdfast.retry(attempts=5)(calls(fn))
    return wrapped


def lone_breaker(name: str) -> object:
    """Make a breaker with its default window."""
    return CircuitBreaker(name)


def lone_budget(name: str) -> object:
    """Make a budget."""
    return RetryBudget(name)
