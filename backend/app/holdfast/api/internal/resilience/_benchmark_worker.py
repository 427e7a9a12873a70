"""What a pipeline costs a call, measured in a process of its own: kinds of policies come on standard input.

It measures policies of the same kinds with settings of its own, which never refuse or fail.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience.bulkhead import Bulkhead
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.clock import SYSTEM
from holdfast.infrastructure.resilience.concurrency_limit import ConcurrencyLimit
from holdfast.infrastructure.resilience.fallback import Fallback
from holdfast.infrastructure.resilience.meter import Meter
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.rate_limit import RateLimit
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.throttle import Throttle
from holdfast.infrastructure.resilience.timeout import Timeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.infrastructure.resilience.policy import Policy

_CALLS = 10_000
_ROUNDS = 7

KINDS: dict[str, Callable[[], Policy]] = {
    "Bulkhead": lambda: Bulkhead(1000),
    "CircuitBreaker": CircuitBreaker,
    "ConcurrencyLimit": ConcurrencyLimit,
    "Fallback": lambda: Fallback(None),
    "Meter": lambda: Meter("benchmark"),
    "RateLimit": lambda: RateLimit(1e6, burst=1_000_000),
    "Retry": Retry,
    "Throttle": Throttle,
    "Timeout": lambda: Timeout(60.0),
}


def measure(kinds: list[str]) -> list[dict[str, Any]]:
    """Measure a call through policies of these kinds, sync and async, in nanoseconds."""
    return [_compare("sync", *_sync(kinds)), _compare("async", *asyncio.run(_async(kinds)))]


def _pipeline(kinds: list[str]) -> Pipeline:
    return Pipeline(*(KINDS[kind]() for kind in kinds), name="benchmark")


def _sync(kinds: list[str]) -> tuple[float, float]:
    def call(x: int) -> int:
        return x

    return _fastest(call), _fastest(_pipeline(kinds)(call))


async def _async(kinds: list[str]) -> tuple[float, float]:
    async def call(x: int) -> int:
        return x

    return await _afastest(call), await _afastest(_pipeline(kinds)(call))


def _fastest(call: Callable[[int], int]) -> float:
    """Return the seconds of one call in the fastest round, which is the one with the least of other processes in it."""
    best = float("inf")
    for _ in range(_ROUNDS):
        began = SYSTEM.monotonic()
        for _ in range(_CALLS):
            call(1)
        best = min(best, SYSTEM.monotonic() - began)
    return best / _CALLS


async def _afastest(call: Callable[[int], Awaitable[int]]) -> float:
    best = float("inf")
    for _ in range(_ROUNDS):
        began = SYSTEM.monotonic()
        for _ in range(_CALLS):
            await call(1)
        best = min(best, SYSTEM.monotonic() - began)
    return best / _CALLS


def _compare(mode: str, bare: float, through: float) -> dict[str, Any]:
    return {
        "mode": mode,
        "bare_ns": round(bare * 1e9, 1),
        "call_ns": round(through * 1e9, 1),
        "added_ns": round((through - bare) * 1e9, 1),
        "ratio": round(through / bare, 2),
    }


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Measure what standard input asks for, and print it; end at once when whoever asked ends."""
    kinds: list[str] = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stdout.write(json.dumps(measure(kinds)))
    sys.stdout.flush()
    # The thread still reads: the interpreter would wait for the lock of standard input.
    os._exit(0)


if __name__ == "__main__":
    main()
