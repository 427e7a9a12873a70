"""Worst cases of a stack of policies."""

from __future__ import annotations

from math import prod

from holdfast.infrastructure.resilience._bounds import FALLBACK_ERRORS, FOREVER, Bounds
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker, CircuitBreakers
from holdfast.infrastructure.resilience.errors import Fault
from holdfast.infrastructure.resilience.retry import Retry, _Bound
from holdfast.infrastructure.resilience.timeout import Timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from holdfast.infrastructure.resilience.pipeline import Explanation
    from holdfast.infrastructure.resilience.policy import Policy

_BREAKERS = (CircuitBreaker, CircuitBreakers)


def facts(policies: tuple[Policy, ...]) -> dict[str, Any]:
    """Return the fields of an `Explanation`."""
    policies = tuple(one for policy in policies for one in policy._current())
    bounds = Bounds()
    for policy in reversed(policies):
        bounds = policy._bounds(bounds)
    shown = [policy for policy in policies if not isinstance(policy, _Bound)]
    return {
        "policies": tuple(repr(policy) for policy in shown),
        "attempts": bounds.attempts,
        "duration": bounds.duration,
        "hinted_duration": bounds.hinted,
        "amplification": bounds.amplification,
        "errors": bounds.errors,
        "cooperative": any(map(_is_cooperative, policies)),
        "warnings": tuple(dict.fromkeys(_warnings(policies))),
    }


def _attempts(retry: Retry) -> float:
    return FOREVER if retry.config.attempts is None else float(retry.config.attempts)


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
    found += _hedge_around(policies)
    found += _outside_retry(policies)
    found += _around_threads(policies)
    found += _twice(policies)
    found += _fallback_inside(policies)
    found += _chaos_around(policies)
    return found


def _is_cooperative(policy: Policy) -> bool:
    """Return whether a sync function must ask for its deadline for the bound of a policy to hold."""
    if isinstance(policy, Retry):
        return policy.config.deadline is not None
    return isinstance(policy, Timeout) and policy.config.sync == "cooperative"


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


def _kind(policy: Policy) -> str:
    """Return what kind of policy this is, without loading the modules of those that nobody uses."""
    return str(policy._shape()[0])


def _hedge_around(policies: tuple[Policy, ...]) -> Iterator[str]:
    for at, policy in enumerate(policies):
        if _kind(policy) == "hedge" and any(isinstance(one, Retry) for one in policies[at + 1 :]):
            yield "hedge around a retry: every hedge retries, too; put the hedge inside"


def _outside_retry(policies: tuple[Policy, ...]) -> Iterator[str]:
    """Warn of what should meet each attempt, and meets calls."""
    for at, policy in enumerate(policies):
        attempts = [_attempts(one) for one in policies[at + 1 :] if isinstance(one, Retry)]
        if not attempts or prod(attempts) <= 1:
            continue
        if _kind(policy) == "throttle":
            sees = f"it sees one request for {prod(attempts):g} attempts"
            yield f"throttle outside a retry: {sees}; put it inside the retry"
        if _kind(policy) == "concurrency_limit":
            yield (
                "concurrency limit outside a retry: the waits between attempts count as latency and hold a place; "
                "put it inside the retry"
            )


def _around_threads(policies: tuple[Policy, ...]) -> Iterator[str]:
    """Warn of places that are given back while a thread that was given up works on."""
    for at, policy in enumerate(policies):
        inner = [
            one for one in policies[at + 1 :] if isinstance(one, Timeout) and one.config.sync == "thread"
        ]
        if inner and (kind := _kind(policy)) in _PLACES:
            yield (
                f"{_PLACES[kind]} around a thread timeout: a worker that is left behind runs on, while its place "
                f"goes to another call; put the {_PLACES[kind]} inside the timeout"
            )


_PLACES = {"bulkhead": "bulkhead", "concurrency_limit": "concurrency limit"}
_COUNTING = {**_PLACES, "rate_limit": "rate limit", "rate_limits": "rate limit", "throttle": "throttle"}


def _twice(policies: tuple[Policy, ...]) -> Iterator[str]:
    """Warn of one policy in two places, which it takes for two calls."""
    for at, policy in enumerate(policies):
        kind = "circuit breaker" if isinstance(policy, _BREAKERS) else _COUNTING.get(_kind(policy))
        if kind is None or not any(one is policy for one in policies[:at]):
            continue
        yield f"the same {kind} twice: {_of_two(policy, kind)}; keep one of them"


def _of_two(policy: Any, kind: str) -> str:
    if kind not in _PLACES.values():
        return "it counts every call as two"
    if policy.limit == 1:
        return "its one place is taken when the call comes to the second"
    return "a call takes two places, and calls that hold one each stand in one another's way"


def _fallback_inside(policies: tuple[Policy, ...]) -> Iterator[str]:
    """Warn of a fallback that hides failures from what must see them."""
    for at, policy in enumerate(policies):
        if _kind(policy) != "fallback":
            continue
        for kinds, who in ((Retry, "retry"), (_BREAKERS, "circuit breaker")):
            if any(isinstance(one, kinds) for one in policies[:at]):
                yield f"fallback inside {who}: to the {who} its answers are successes; put the fallback outermost"


def _chaos_around(policies: tuple[Policy, ...]) -> Iterator[str]:
    for at, policy in enumerate(policies):
        inside = [one for one in policies[at + 1 :] if _kind(one) != "chaos"]
        if _kind(policy) == "chaos" and inside:
            yield f"chaos around {type(inside[0]).__name__}, which sees none of its faults; put the chaos innermost"


def text(explanation: Explanation) -> str:
    """Return the explanation as people read it."""
    lines = ["Pipeline, outermost first:", *(f"  {one}" for one in explanation.policies)]
    longer = explanation.hinted_duration
    hint = (
        f" ({longer:.3g} s if the server asks for longer waits)"
        if explanation.duration < longer < FOREVER
        else ""
    )
    lines.append(f"at most {_figure(explanation.attempts)} attempts, {_lasting(explanation)}{hint}")
    if explanation.cooperative:
        lines.append("in sync code the seconds hold if it asks remaining(), as the httpx transport does")
    lines.append(f"load in a lasting outage: {_figure(explanation.amplification)} attempts per call")
    lines.append("can raise: " + ", ".join(explanation.errors))
    lines += [f"warning: {one}" for one in explanation.warnings]
    return "\n".join(lines)


def mermaid(explanation: Explanation) -> str:
    """Return a flowchart from the caller to the function, and the figures beside it."""
    steps = ["caller", *explanation.policies, "the function"]
    lines = ["flowchart TD"]
    lines += [f"    s{at}[{_quoted(step)}]" for at, step in enumerate(steps)]
    lines += [f"    s{at} --> s{at + 1}" for at in range(len(steps) - 1)]
    figures = str(explanation).splitlines()[1 + len(explanation.policies) :]
    lines.append(f"    s0 -.- figures[{_quoted('<br>'.join(figures))}]")
    return "\n".join(lines)


def _quoted(label: str) -> str:
    return '"' + label.replace('"', "#quot;") + '"'


def fault(warning: str) -> Fault:
    """Return a warning as what is wrong with a configuration."""
    problem, _, remedy = warning.partition("; ")
    return Fault("policies", _Order(), problem, remedy or "see explain()")


class _Order:
    """Stands for the order of the policies in a fault."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "(this order)"


def _figure(number: float) -> str:
    return "any number of" if number == FOREVER else f"{number:g}"


def _lasting(explanation: Explanation) -> str:
    if explanation.duration != FOREVER:
        return f"{explanation.duration:.3g} s"
    also = " or its fallback" if FALLBACK_ERRORS in explanation.errors else ""
    return f"for as long as the function{also} takes"
