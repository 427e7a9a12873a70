"""Meter: whatever calls do, their outcomes add up, and every rate is a share."""

import asyncio
from collections import Counter
from itertools import count
from math import inf
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.errors import CallRejectedError, RateLimitedError, TimeoutExceeded
from holdfast.infrastructure.resilience.fallback import Fallback
from holdfast.infrastructure.resilience.meter import Meter, MeterSnapshot, measure_durations
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.rate_limit import RateLimit
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.window import Window

_serial = count()
ENDS = {
    "succeeds": None,
    "fails": ConnectionError,
    "is wrong": ValueError,
    "is late": lambda: TimeoutExceeded(1.0, "x"),
    "is refused": lambda: RateLimitedError("x", None),
    "is cancelled": asyncio.CancelledError,
}
POLICIES: dict[str, Any] = {
    "fallback": lambda: Fallback("instead"),
    "retry": lambda: Retry(3, wait=0, nested=True),
    "breaker": lambda: CircuitBreaker("x", window=Window.consecutive(3)),
    "limit": lambda: RateLimit(1, per=3600, burst=7),
}

scripts = st.lists(st.sampled_from(sorted(ENDS)), min_size=1, max_size=30)
stacks = st.lists(st.sampled_from(sorted(POLICIES)), max_size=4)


def play(
    script: list[str], policies: list[Policy], *, is_async: bool
) -> tuple[MeterSnapshot, int, Counter[str]]:
    """Call a metered function until its script is over; return what was counted, and what happened."""
    meter, ahead, seen = Meter(f"property {next(_serial)}"), list(script), Counter(dict.fromkeys(KINDS, 0))

    def step() -> str:
        end = ENDS[ahead.pop(0)] if ahead else None
        if end is not None:
            raise end()
        return "ok"

    async def astep() -> str:
        return step()

    call: Any = astep if is_async else step
    for policy in reversed(policies):
        call = policy(call)
    call = meter(call)
    for _ in script:
        try:
            asyncio.run(call()) if is_async else call()
            seen["successes"] += 1
        except asyncio.CancelledError:
            seen["cancelled"] += 1
        except CallRejectedError:
            seen["rejected"] += 1
        except Exception:
            seen["failures"] += 1
    return meter.snapshot(), len(script), seen


KINDS: tuple[str, ...] = ("successes", "failures", "rejected", "cancelled")


@given(scripts, stacks, st.sampled_from(["sync", "async"]))
def test_outcomes_add_up(script: list[str], stack: list[str], mode: str) -> None:
    """Calls are the sum of their outcomes, each of which is what the caller saw; errors add up to the failures."""
    end = measure_durations(0.1)
    snapshot, calls, seen = play(script, [POLICIES[name]() for name in stack], is_async=mode == "async")
    end()
    assert {kind: getattr(snapshot, kind) for kind in KINDS} == seen
    assert snapshot.calls == calls == sum(seen.values())
    assert sum(snapshot.errors.values()) == snapshot.failures
    assert snapshot.durations[inf] == snapshot.successes + snapshot.failures
    assert snapshot.running == 0


@given(scripts, stacks)
def test_every_rate_is_a_share(script: list[str], stack: list[str]) -> None:
    """No part is more than its whole: timeouts, degraded calls, retries among attempts, durations within a bound."""
    snapshot, *_ = play(script, [POLICIES[name]() for name in stack], is_async=False)
    assert 0 <= snapshot.timeouts <= snapshot.failures
    assert 0 <= snapshot.degraded <= snapshot.successes
    assert snapshot.attempts == snapshot.calls + sum(snapshot.retries.values())
    if stack.count("retry") < 2:
        ordinals = [snapshot.calls, *(count for _, count in sorted(snapshot.retries.items()))]
        assert ordinals == sorted(ordinals, reverse=True)


@given(scripts)
def test_attempts_are_what_the_callee_saw(script: list[str]) -> None:
    """Under a retry alone, calls and retries together are exactly the calls of the function."""
    made = [0]

    class Counting(Policy):
        def _shape(self) -> tuple[Any, ...]:
            return ("counting",)

        def _bind(self) -> dict[str, Any]:
            return {"made": made}

        def _emit(self, code: Any, at: int, inner: Any) -> None:
            code.line(f"_made{at}[0] += 1")
            inner()

    snapshot, *_ = play(script, [Retry(3, wait=0), Counting()], is_async=False)
    assert snapshot.attempts == made[0]
