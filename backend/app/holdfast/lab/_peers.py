"""The peers, as their documentation shows them, and with settings equal to ours as far as they have them."""

from __future__ import annotations

import datetime as dt
import inspect
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from holdfast.lab.subjects import Function, Subject

# Equally tuned: three attempts, backoff from 0.05 s with full jitter; open after five failures, for five seconds.
_ATTEMPTS = 3
_FAILURES = 5
_OPEN = 5.0

_HYX = ("hyx.circuitbreaker", "hyx.retry", "hyx.retry.backoffs", "hyx.retry.jitters")


def _tenacity(fn: Function) -> Function:
    import tenacity

    wrapped: Function = tenacity.retry(fn)
    return wrapped


def _tenacity_tuned(fn: Function) -> Function:
    import tenacity

    wrapped: Function = tenacity.retry(
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=20),
        retry=tenacity.retry_if_exception_type(OSError),
        reraise=True,
    )(fn)
    return wrapped


def _stamina(fn: Function) -> Function:
    import stamina

    wrapped: Function = stamina.retry(on=OSError)(fn)
    return wrapped


def _stamina_tuned(fn: Function) -> Function:
    import stamina

    wrapped: Function = stamina.retry(
        on=OSError, attempts=_ATTEMPTS, timeout=30, wait_initial=0.05, wait_jitter=0.05, wait_max=20
    )(fn)
    return wrapped


def _backoff(fn: Function) -> Function:
    library: Any = import_module("backoff")
    wrapped: Function = library.on_exception(library.expo, OSError, logger=None)(fn)
    return wrapped


def _backoff_tuned(fn: Function) -> Function:
    library: Any = import_module("backoff")
    wrapped: Function = library.on_exception(
        library.expo, OSError, max_tries=_ATTEMPTS, factor=0.05, max_value=20, max_time=30, logger=None
    )(fn)
    return wrapped


def _pybreaker(fn: Function) -> Function:
    library: Any = import_module("pybreaker")
    wrapped: Function = library.CircuitBreaker()(fn)
    return wrapped


def _pybreaker_tuned(fn: Function) -> Function:
    library: Any = import_module("pybreaker")
    wrapped: Function = library.CircuitBreaker(fail_max=_FAILURES, reset_timeout=_OPEN)(fn)
    return wrapped


def _circuitbreaker(fn: Function) -> Function:
    library: Any = import_module("circuitbreaker")
    wrapped: Function = library.CircuitBreaker(name=f"lab {id(fn)}")(fn)
    return wrapped


def _circuitbreaker_tuned(fn: Function) -> Function:
    library: Any = import_module("circuitbreaker")
    wrapped: Function = library.CircuitBreaker(
        failure_threshold=_FAILURES, recovery_timeout=_OPEN, name=f"lab {id(fn)}"
    )(fn)
    return wrapped


def _aiobreaker(fn: Function) -> Function:
    library: Any = import_module("aiobreaker")
    wrapped: Function = library.CircuitBreaker()(fn)
    return wrapped


def _aiobreaker_tuned(fn: Function) -> Function:

    library: Any = import_module("aiobreaker")
    breaker = library.CircuitBreaker(fail_max=_FAILURES, timeout_duration=dt.timedelta(seconds=_OPEN))
    wrapped: Function = breaker(fn)
    return wrapped


def _hyx(fn: Function) -> Function:
    breakers, retries, *_ = map(import_module, _HYX)
    once: Any = breakers.consecutive_breaker()
    again: Any = retries.retry(on=OSError)
    wrapped: Function = again(once(fn))
    return wrapped


def _hyx_tuned(fn: Function) -> Function:
    breakers, retries, backoffs, jitters = map(import_module, _HYX)
    once: Any = breakers.consecutive_breaker(failure_threshold=_FAILURES, recovery_time_secs=_OPEN)
    waits: Any = backoffs.expo(min_delay_secs=0.05, max_delay_secs=20, jitter=jitters.full)
    # Its `attempts` are those after the first.
    again: Any = retries.retry(on=OSError, attempts=_ATTEMPTS - 1, backoff=waits)
    wrapped: Function = again(once(fn))
    return wrapped


def _redress(fn: Function) -> Function:
    library: Any = import_module("redress")
    wrapped: Function = library.retry(fn)
    return wrapped


def _redress_tuned(fn: Function) -> Function:
    library: Any = import_module("redress")
    settings: dict[str, Any] = {
        "classifier": library.default_classifier,
        "strategy": library.decorrelated_jitter(base_s=0.05, max_s=20.0),
        "max_attempts": _ATTEMPTS,
        "deadline_s": 30.0,
    }
    # Its default was taken from `time` when it was imported.
    breaker = library.CircuitBreaker(
        failure_threshold=_FAILURES,
        recovery_timeout_s=_OPEN,
        clock=time.monotonic,  # noqa: TID251  # the world's
    )
    if inspect.iscoroutinefunction(fn):
        many = library.AsyncPolicy(retry=library.AsyncRetry(**settings), circuit_breaker=breaker)

        async def asynchronous(call: object) -> Any:
            return await many.call(lambda: fn(call))

        return asynchronous
    one = library.Policy(retry=library.Retry(**settings), circuit_breaker=breaker)

    def plain(call: object) -> Any:
        return one.call(lambda: fn(call))

    return plain


def _stack(
    outer: Callable[[Function], Function], inner: Callable[[Function], Function]
) -> Callable[[Function], Function]:
    def make(fn: Function) -> Function:
        return outer(inner(fn))

    return make


def _peer(
    name: str, make: Callable[[Function], Function], *packages: str, asynchronous: bool = True
) -> Subject:
    return Subject(name=name, make=make, asynchronous=asynchronous, packages=packages)


SUBJECTS = (
    _peer("tenacity", _tenacity, "tenacity"),
    _peer("tenacity-tuned", _tenacity_tuned, "tenacity"),
    _peer("stamina", _stamina, "stamina", "tenacity"),
    _peer("stamina-tuned", _stamina_tuned, "stamina", "tenacity"),
    _peer("backoff", _backoff, "backoff"),
    _peer("backoff-tuned", _backoff_tuned, "backoff"),
    _peer("pybreaker", _pybreaker, "pybreaker", asynchronous=False),
    _peer("circuitbreaker", _circuitbreaker, "circuitbreaker"),
    _peer("aiobreaker", _aiobreaker, "aiobreaker"),
    _peer("hyx", _hyx, *_HYX),
    _peer("hyx-tuned", _hyx_tuned, *_HYX),
    _peer("redress", _redress, "redress"),
    _peer("redress-tuned", _redress_tuned, "redress"),
    _peer(
        "tenacity+pybreaker-tuned",
        _stack(_tenacity_tuned, _pybreaker_tuned),
        "tenacity",
        "pybreaker",
        asynchronous=False,
    ),
    _peer(
        "backoff+circuitbreaker-tuned",
        _stack(_backoff_tuned, _circuitbreaker_tuned),
        "backoff",
        "circuitbreaker",
    ),
    _peer(
        "stamina+aiobreaker-tuned",
        _stack(_stamina_tuned, _aiobreaker_tuned),
        "stamina",
        "tenacity",
        "aiobreaker",
    ),
)
