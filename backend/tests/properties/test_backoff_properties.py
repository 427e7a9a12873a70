"""Backoff over its whole space: bounds, cap, order, exactness."""

import math
from random import Random
from typing import Literal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.infrastructure.resilience.backoff import Backoff

Jitter = Literal["full", "equal", "decorrelated", "none"]

YEAR = 31_536_000.0

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

seconds = st.floats(0, YEAR) | st.integers(0, 31_536_000)
retries = st.integers(1, 20) | st.integers(1, 10**12)
chances = st.integers(0, 2**32).map(Random)


@st.composite
def backoffs(draw: st.DrawFn, *jitters: Jitter) -> Backoff:
    jitter: Jitter = draw(st.sampled_from(jitters or ("full", "equal", "decorrelated", "none")))
    low, cap = sorted((draw(seconds), draw(seconds)))
    base = max(low, 1e-9) if jitter == "decorrelated" else low
    return Backoff(
        base=base,
        cap=max(cap, base),
        factor=draw(st.floats(1, 1_000_000)),
        step=0.0 if jitter == "decorrelated" else draw(seconds),
        jitter=jitter,
    )


def expected(policy: Backoff, retry: int) -> float:
    """Return the delay without jitter by logarithms, which cannot overflow."""
    if policy.base == 0:
        return min(policy.cap, policy.step * (retry - 1))
    logarithm = math.log(policy.base) + (retry - 1) * math.log(policy.factor)
    grown = math.exp(logarithm) if logarithm < 700 else math.inf
    return min(policy.cap, grown + policy.step * (retry - 1))


@relaxed
@given(backoffs(), retries, seconds, chances)
def test_a_delay_is_between_zero_and_the_bound(
    policy: Backoff, retry: int, previous: float, chance: Random
) -> None:
    """Whatever settings, retry and luck: 0 <= delay <= bound <= cap, if the delay before was within its bound."""
    bound = policy.bound(retry)
    before = min(previous, policy.bound(retry - 1)) if retry > 1 else 0.0

    assert 0 <= policy.delay(retry, before, chance) <= bound <= policy.cap


@relaxed
@given(backoffs(), retries, st.integers(1, 10**6))
def test_the_bound_never_falls(policy: Backoff, retry: int, later: int) -> None:
    """A later retry may wait as long as an earlier one, or longer; the last bit of a power is not held against it."""
    assert policy.bound(retry) <= policy.bound(retry + later) * (1 + 1e-12)


@relaxed
@given(backoffs("none"), retries, chances)
def test_without_jitter_the_delay_is_the_formula(policy: Backoff, retry: int, chance: Random) -> None:
    """Without jitter: min(cap, base * factor ** (k - 1) + step * (k - 1)), and that is the bound too."""
    delay = policy.delay(retry, 0.0, chance)

    assert delay == policy.bound(retry)
    assert math.isclose(delay, expected(policy, retry), rel_tol=1e-3, abs_tol=1e-300)


@relaxed
@given(backoffs("equal"), retries, chances)
def test_equal_jitter_waits_half_at_least(policy: Backoff, retry: int, chance: Random) -> None:
    """Equal jitter leaves half of the delay certain."""
    bound = policy.bound(retry)

    assert bound / 2 <= policy.delay(retry, 0.0, chance) <= bound


@relaxed
@given(backoffs("decorrelated"), retries, seconds, chances)
def test_decorrelated_jitter_follows_the_delay_before(
    policy: Backoff, retry: int, previous: float, chance: Random
) -> None:
    """Decorrelated: from base to three times the delay before, or three times base if that is more; below the cap."""
    delay = policy.delay(retry, previous, chance)

    assert policy.base <= delay <= min(policy.cap, 3 * max(previous, policy.base))


@relaxed
@given(backoffs("decorrelated"), st.integers(1, 50), chances)
def test_a_chain_of_decorrelated_delays_stays_in_the_bounds(
    policy: Backoff, retries: int, chance: Random
) -> None:
    """Fed with its own delays from 0 on, retry k waits no longer than bound(k)."""
    delay = 0.0
    for retry in range(1, retries + 1):
        delay = policy.delay(retry, delay, chance)
        assert policy.base <= delay <= policy.bound(retry) * (1 + 1e-12)


@relaxed
@given(backoffs(), retries, seconds, st.integers(0, 2**32))
def test_a_delay_depends_on_nothing_but_its_arguments(
    policy: Backoff, retry: int, previous: float, seed: int
) -> None:
    """Same retry, same delay before, same luck: same delay, whatever was asked in between."""
    first = policy.delay(retry, previous, Random(seed))
    policy.delay(retry + 1, previous, Random(seed))

    assert policy.delay(retry, previous, Random(seed)) == first
