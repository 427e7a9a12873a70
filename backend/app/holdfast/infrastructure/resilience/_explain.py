"""Worst cases of a stack of policies."""

from __future__ import annotations

from math import prod

from holdfast.infrastructure.resilience._tries import LONGEST_HINT
from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker, CircuitBreakers
from holdfast.infrastructure.resilience.retry import Retry, _Bound
from holdfast.infrastructure.resilience.timeout import Timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from holdfast.infrastructure.resilience.pipeline import Explanation
    from holdfast.infrastructure.resilience.policy import Policy
    from holdfast.infrastructure.resilience.retry import RetryConfig

_FOREVER = float("inf")
_BREAKERS = (CircuitBreaker, CircuitBreakers)


def facts(policies: tuple[Policy, ...]) -> dict[str, Any]:
    """Return the fields of an `Explanation`."""
    attempts, duration, hinted, amplification = 1.0, _FOREVER, _FOREVER, 1.0
    for policy in reversed(policies):
        if isinstance(policy, Timeout):
            duration = min(duration, policy.config.seconds)
            hinted = min(hinted, policy.config.seconds)
        elif isinstance(policy, Retry):
            duration = _retry_duration(policy, duration, _wait)
            hinted = _retry_duration(policy, hinted, _hinted_wait)
            attempts *= _attempts(policy)
            amplification *= _amplification(policy)
    shown = [policy for policy in policies if not isinstance(policy, _Bound)]
    return {
        "policies": tuple(repr(policy) for policy in shown),
        "attempts": attempts,
        "duration": duration,
        "hinted_duration": hinted,
        "amplification": amplification,
        "errors": _errors(policies),
        "warnings": tuple(_warnings(policies)),
    }


def _attempts(retry: Retry) -> float:
    return _FOREVER if retry.config.attempts is None else float(retry.config.attempts)


def _amplification(retry: Retry) -> float:
    """Return the mean load per call in a full outage that lasts, in calls; the floor of a budget comes on top."""
    budget = retry.config.budget
    return _attempts(retry) if budget is None else min(_attempts(retry), 1 + budget.share)


def _retry_duration(retry: Retry, attempt: float, wait: Callable[[RetryConfig, int], float]) -> float:
    config, attempts = retry.config, _attempts(retry)
    deadline = _FOREVER if config.deadline is None else config.deadline
    if _FOREVER in {attempts, attempt}:
        return deadline
    return min(deadline, attempts * attempt + sum(wait(config, number) for number in range(1, int(attempts))))


def _wait(config: RetryConfig, retry: int) -> float:
    """Return the longest wait before a retry that the backoff asks for."""
    return config.wait.bound(retry) if isinstance(config.wait, Backoff) else _FOREVER


def _hinted_wait(config: RetryConfig, retry: int) -> float:
    """Return the longest wait before a retry that a server's hint can make of it."""
    own = _wait(config, retry)
    return max(own, LONGEST_HINT + min(config.hint_cap, max(own, LONGEST_HINT)))


def _errors(policies: tuple[Policy, ...]) -> tuple[str, ...]:
    found = ["whatever the function raises"]
    if any(isinstance(policy, _BREAKERS) for policy in policies):
        found.append("CircuitOpenError")
    if any(isinstance(policy, Timeout) for policy in policies) or any(
        isinstance(policy, Retry) and policy.config.deadline is not None for policy in policies
    ):
        found.append("TimeoutExceeded")
    return tuple(found)


def _warnings(policies: tuple[Policy, ...]) -> list[str]:
    found: list[str] = []
    retries = [(at, policy) for at, policy in enumerate(policies) if isinstance(policy, Retry)]
    if len(retries) > 1:
        product = prod(_attempts(retry) for _, retry in retries)
        found.append(f"retry inside retry: up to {product:g} attempts; keep the outermost")
    for at, retry in retries:
        found += _around(policies[:at], retry)
        found += _inside(policies[:at], retry, policies[at + 1 :])
    for at, policy in enumerate(policies):
        if isinstance(policy, Timeout) and any(isinstance(one, _BREAKERS) for one in policies[at + 1 :]):
            found += _timeout_around(policies, at)
    return found


def _around(outer: tuple[Policy, ...], retry: Retry) -> list[str]:
    if retry.config.budget is None and any(isinstance(one, _BREAKERS) for one in outer):
        attempts = f"{_attempts(retry):g}"
        text = (
            f"circuit breaker outside a retry without a budget: it sees one failure for {attempts} attempts; "
            "put it inside the retry, or give the retry a budget"
        )
        return [text]
    return []


def _inside(outer: tuple[Policy, ...], retry: Retry, inner: tuple[Policy, ...]) -> list[str]:
    found: list[str] = []
    bounds = [one.config.seconds for one in outer if isinstance(one, Timeout)]
    bounds += [] if retry.config.deadline is None else [retry.config.deadline]
    per_attempt = [one.config.seconds for one in inner if isinstance(one, Timeout)]
    if not per_attempt and _attempts(retry) > 1:
        found.append(
            "no timeout bounds an attempt: one that hangs is never retried; put a Timeout inside the retry"
        )
    if bounds and per_attempt and min(bounds) < min(per_attempt):
        found.append(
            f"the deadline of {min(bounds):g} s is shorter than one attempt of {min(per_attempt):g} s"
        )
    if retry.config.attempts is None and retry.config.stop is None and not bounds:
        found.append("a retry without limit: give attempts, a deadline or stop")
    return found


def _timeout_around(policies: tuple[Policy, ...], at: int) -> list[str]:
    """Warn of a breaker that never hears of timeouts: between it and this bound there is no retry to bound."""
    for policy in policies[at + 1 :]:
        if isinstance(policy, (Retry, Timeout)):
            return []
        if isinstance(policy, _BREAKERS):
            break
    return [
        "timeout around a circuit breaker: to the breaker a timeout is a cancellation; put the breaker outside it"
    ]


def text(explanation: Explanation) -> str:
    """Return the explanation as people read it."""
    lines = ["Pipeline, outermost first:", *(f"  {one}" for one in explanation.policies)]
    longer = explanation.hinted_duration
    hint = (
        f" ({longer:.3g} s if the server asks for longer waits)"
        if explanation.duration < longer < _FOREVER
        else ""
    )
    lines.append(f"at most {_figure(explanation.attempts)} attempts, {_seconds(explanation.duration)}{hint}")
    lines.append(f"load in a lasting outage: {_figure(explanation.amplification)} attempts per call")
    lines.append("can raise: " + ", ".join(explanation.errors))
    lines += [f"warning: {one}" for one in explanation.warnings]
    return "\n".join(lines)


def _figure(number: float) -> str:
    return "any number of" if number == _FOREVER else f"{number:g}"


def _seconds(number: float) -> str:
    return "for as long as the function takes" if number == _FOREVER else f"{number:.3g} s"
