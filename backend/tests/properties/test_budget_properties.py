"""Retry budgets against models that remember everything, and the theorem that a budget is for."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.testing import VirtualClock

# A budget's decision at exactly 1 token forgives the rounding of this many of them.
NEARLY = 1e-9

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

waits = st.tuples(st.just("wait"), st.floats(0, 30) | st.sampled_from((0.0, 0.1, 1.0)))
attempts = st.tuples(st.just("attempts"), st.integers(1, 200))
looks = st.tuples(st.just("look"), st.just(0))
retries = st.tuples(st.just("retry"), st.integers(1, 20))
steps = st.lists(st.one_of(waits, attempts, looks, retries), max_size=40)

ratios = st.sampled_from((0.0, 0.1, 0.25, 1.0)) | st.floats(0, 2)
floors = st.sampled_from((0.0, 0.2, 1.0, 10.0)) | st.floats(0, 20)
lives = st.sampled_from((1.0, 10.0)) | st.floats(0.1, 100)


@dataclass
class History:
    """All that ever happened to a ratio budget; every answer is worked out from the beginning."""

    ratio: float
    floor: float
    ttl: float
    now: float = 0.0
    seen: float = 0.0
    unseen: int = 0
    deposits: list[tuple[float, float, int]] = field(default_factory=list[tuple[float, float, int]])
    taken: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    grants: list[float] = field(default_factory=list[float])

    def look(self) -> None:
        """First attempts since the last look were spread over the time since then."""
        self.deposits.append((self.seen, self.now, self.unseen))
        self.seen, self.unseen = self.now, 0

    def faded(self, since: float) -> float:
        """Return what is left of a token that was there at `since`."""
        return math.exp((since - self.now) / self.ttl)

    def spread(self, start: float, end: float) -> float:
        """Return what is left of a token that was deposited evenly from `start` to `end`: the mean of `faded`."""
        if end - start < 1e-7 * self.ttl:
            return self.faded(end)
        return self.ttl * (self.faded(end) - self.faded(start)) / (end - start)

    def from_deposits(self) -> float:
        paid = sum(many * self.ratio * self.spread(start, end) for start, end, many in self.deposits)
        return paid - sum(tokens * self.faded(when) for when, tokens in self.taken)

    def from_floor(self) -> float:
        """Replay the bucket that holds one second's worth."""
        most = max(1.0, self.floor) if self.floor else 0.0
        level, last = most, 0.0
        for when in self.grants:
            level = max(0.0, min(most, level + (when - last) * self.floor) - 1)
            last = when
        return min(most, level + (self.now - last) * self.floor)

    def retry(self) -> None:
        """Take one token, from the floor as far as it goes."""
        missing = max(0.0, 1 - self.from_floor())
        self.taken.append((self.now, min(missing, self.from_deposits())))
        self.grants.append(self.now)


@relaxed
@given(ratios, floors, lives, steps)
def test_a_budget_is_its_history(
    ratio: float, floor: float, ttl: float, steps: list[tuple[str, float]]
) -> None:
    """Three numbers know what the whole history says: each deposit and each withdrawal, faded since it was made."""
    clock = VirtualClock(start=0)
    budget = RetryBudget(ratio=ratio, min_per_second=floor, ttl=ttl, clock=clock)
    history = History(ratio, floor, ttl)
    for step, size in steps:
        if step == "wait":
            clock.advance(size)
            history.now = clock.monotonic()
        elif step == "attempts":
            history.unseen += int(size)
            for _ in range(int(size)):
                budget.deposit()
        elif step == "look":
            history.look()
            expected = history.from_floor() + history.from_deposits()
            assert budget.tokens == pytest.approx(expected, rel=1e-6, abs=1e-6)
        else:
            for _ in range(int(size)):
                history.look()
                expected = history.from_floor() + history.from_deposits()
                granted = budget.try_withdraw()
                # At exactly one token the two may round differently.
                assert granted == (expected >= 1) or expected == pytest.approx(1, abs=1e-6)
                if granted:
                    history.retry()


@relaxed
@given(ratios, floors, lives, steps)
def test_no_horizon_sees_more_retries_than_the_theorem_says(
    ratio: float, floor: float, ttl: float, steps: list[tuple[str, float]]
) -> None:
    """From any moment to any later one: grants <= tokens at the first + floor * seconds + ratio * attempts between.

    The tokens of a new budget are one second's worth of the floor, or 1.
    """
    clock = VirtualClock(start=0)
    budget = RetryBudget(ratio=ratio, min_per_second=floor, ttl=ttl, clock=clock)
    moments = [(0.0, budget.tokens, 0, 0)]
    assert moments[0][1] == (max(1.0, floor) if floor else 0)
    made = granted = 0
    for step, size in steps:
        if step == "wait":
            clock.advance(size)
        elif step == "attempts":
            made += int(size)
            for _ in range(int(size)):
                budget.deposit()
        elif step == "retry":
            granted += sum(budget.try_withdraw() for _ in range(int(size)))
        moments.append((clock.monotonic(), budget.tokens, made, granted))

    for at, (start, tokens, made, granted) in enumerate(moments):
        for end, _, made_later, granted_later in moments[at:]:
            most = tokens + floor * (end - start) + ratio * (made_later - made)
            assert granted_later - granted <= most + 1e-6 + NEARLY * granted_later


@relaxed
@given(ratios, floors, lives, steps, st.lists(st.integers(1, 50), max_size=10))
def test_looking_never_changes_what_is_there(
    ratio: float, floor: float, ttl: float, steps: list[tuple[str, float]], looks: list[int]
) -> None:
    """Between deposits, a budget that is watched any number of times ends with what an unwatched one has."""
    clock = VirtualClock(start=0)
    watched, alone = (RetryBudget(ratio=ratio, min_per_second=floor, ttl=ttl, clock=clock) for _ in range(2))
    for budget in (watched, alone):
        for _ in range(300):
            budget.deposit()
        for _ in range(5):
            budget.try_withdraw()
    for step, size in steps:
        if step == "wait":
            for look in looks:
                clock.advance(size / look)
                assert watched.tokens >= 0

    assert watched.tokens == pytest.approx(alone.tokens, rel=1e-6, abs=1e-9)


outcomes = st.lists(
    st.sampled_from(("success", "failure", "retry", "throttled retry", "refund", "throttled refund", "look")),
    max_size=200,
)


def aws(tokens: float, size: float, step: str, _: float) -> tuple[float, bool | None]:
    """The rules of the AWS SDKs, one step."""
    price = 5 if "throttled" in step else 14
    if step == "success":
        return min(size, tokens + 1), None
    if "retry" in step:
        return (tokens - price, True) if tokens >= price else (tokens, False)
    return (min(size, tokens + price) if "refund" in step else tokens), None


def grpc(tokens: float, size: float, step: str, ratio: float) -> tuple[float, bool | None]:
    """The rules of gRFC A6, one step."""
    if step == "success":
        return min(size, tokens + ratio), None
    if step == "failure":
        return max(0.0, tokens - 1), None
    return tokens, tokens > size / 2 if "retry" in step else None


def act(budget: RetryBudget, step: str) -> bool | None:
    throttled = "throttled" in step
    if "retry" in step:
        return budget.try_withdraw(throttled=throttled)
    if "refund" in step:
        budget.refund(throttled=throttled)
    elif step == "success":
        budget.deposit()
    elif step == "failure":
        budget.record_failure()
    return None


def check(
    budget: RetryBudget, rules: Callable[..., Any], size: float, ratio: float, steps: list[str]
) -> None:
    tokens: float = size
    for step in steps:
        tokens, granted = rules(tokens, size, step, ratio)
        assert act(budget, step) == granted
        if step == "look":
            assert budget.tokens == pytest.approx(tokens)
    assert budget.tokens == pytest.approx(tokens)
    assert 0 <= budget.tokens <= size


@relaxed
@given(st.integers(14, 600), outcomes)
def test_an_aws_budget_follows_the_rules_of_the_sdks(size: int, steps: list[str]) -> None:
    """Every step as a plain model has it, though successes are only counted until somebody asks."""
    check(RetryBudget.aws(tokens=size), aws, size, 0, steps)


@relaxed
@given(st.integers(1, 40), st.sampled_from((0.125, 0.5, 1.0, 2.0)), outcomes)
def test_a_grpc_budget_follows_grfc_a6(size: int, ratio: float, steps: list[str]) -> None:
    """Every step as a plain model has it; the ratios are sums of powers of two, so that sums are exact."""
    check(RetryBudget.grpc(tokens=size, token_ratio=ratio), grpc, size, ratio, steps)
