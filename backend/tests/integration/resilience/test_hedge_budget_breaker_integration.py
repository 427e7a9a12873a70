"""Hedge × budget × circuit breaker: what a hedge costs, what its losers count for, and who may refuse it."""

from collections.abc import Callable
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Compose, Driver
from backend.tests.integration.resilience._make import Make
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.errors import CircuitOpenError
from holdfast.infrastructure.resilience.events import BudgetExhausted, HedgeStarted, subscribe
from holdfast.infrastructure.resilience.hedge import Hedge, hedge_errors
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window, WindowCounts
from holdfast.testing.faults import Script, fail, hang, succeed
from holdfast.testing.recorder import EventRecorder

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
WIDE = Window.calls(100)
SLOW_THEN_QUICK = hang(), succeed("hedge", after=0.5)

Stack = Callable[[Make, RetryBudget], list[Policy]]
STACKS: dict[str, Stack] = {
    "hedge": lambda make, budget: [Hedge(1.0, budget=budget)],
    "retry, hedge": lambda make, budget: [make.retry(2, budget=budget), Hedge(1.0, budget=budget)],
    "retry, breaker, hedge": lambda make, budget: [
        make.retry(2, budget=budget),
        make.breaker(100),
        Hedge(1.0, budget=budget),
    ],
}


def starts(script: Script) -> list[float]:
    """Return when each call came, seconds after the first."""
    return [at - script.times[0] for at in script.times]


# Budget


def test_a_token_is_taken_when_a_hedge_is_decided(driver: Driver, make: Make, compose: Compose) -> None:
    """The token is gone when the hedge is announced, and a call that needs no hedge takes none."""
    budget, seen = make.budget(2), list[tuple[float, float]]()

    def look(event: HedgeStarted) -> None:
        seen.append((event.after, round(budget.tokens, 1)))

    call = compose(
        Hedge(1.0, max_hedges=2, budget=budget), source=Script(succeed(), hang(), hang(), succeed())
    )
    with subscribe(look, HedgeStarted):
        assert driver.outcomes(2, call) == ["ok", "ok"]
    assert seen == [(1.0, 1.5), (2.0, 0.5)]


def test_without_a_token_the_first_call_goes_on_alone(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """A hedge that the budget refuses is not sent, now or later in this call; that is one event."""
    script = Script(succeed("first", after=9.0), succeed("hedge"))
    policy = Hedge(1.0, max_hedges=3, budget=make.budget(0), name="search")
    assert driver.call(driver.decorate(policy, script)) == "first"
    assert (script.calls, policy.started, driver.clock.elapsed) == (1, 0, 9.0)
    assert event_recorder.kinds == ("BudgetExhausted",)
    assert [(one.name, one.budget) for one in event_recorder.of(BudgetExhausted)] == [("search", "budget")]


def test_a_budget_can_end_in_the_middle_of_a_call(driver: Driver, make: Make) -> None:
    """With one token for three hedges one is sent."""
    script = Script(succeed("first", after=9.0), hang())
    policy = Hedge(1.0, max_hedges=3, budget=make.budget(1))
    assert driver.call(driver.decorate(policy, script)) == "first"
    assert (starts(script), policy.started) == ([0.0, 1.0], 1)


def test_without_a_token_a_failure_is_final(driver: Driver, make: Make) -> None:
    """A failed call that the budget grants no second one for raises its error at once."""
    script = Script(fail(after=0.5), succeed())
    with pytest.raises(ConnectionError):
        driver.call(driver.decorate(Hedge(1.0, budget=make.budget(0)), script))
    assert (script.calls, driver.clock.elapsed) == (1, 0.5)


@pytest.mark.parametrize("stack", STACKS)
def test_a_call_deposits_once(driver: Driver, make: Make, compose: Compose, stack: str) -> None:
    """A call is one deposit, with a retry of the same budget around the hedge or without."""
    budget = RetryBudget("budget", ratio=0.1, min_per_second=0.0, ttl=86_400.0)
    driver.outcomes(50, compose(*STACKS[stack](make, budget), source=Script(succeed())))
    assert budget.tokens == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("stack", "extra"), [("hedge", 1), ("retry, hedge", 3), ("retry, breaker, hedge", 3)]
)
def test_a_failed_call_deposits_once(
    driver: Driver, make: Make, compose: Compose, stack: str, extra: int
) -> None:
    """However many attempts fail, the call is one deposit, and each further attempt one token."""
    budget = RetryBudget("budget", ratio=0.1, min_per_second=0.0, ttl=1e4)
    for _ in range(1000):
        budget.deposit()
    script = Script(fail())
    driver.outcomes(1, compose(*STACKS[stack](make, budget), source=script))
    assert script.calls == 1 + extra
    assert budget.tokens == pytest.approx(100.0 + 0.1 - extra, abs=0.04)


@pytest.mark.parametrize(("step", "left"), [(hang(), 100.0), (succeed("first", after=1.2), 87.0)])
def test_a_hedge_that_wins_is_refunded(driver: Driver, step: Any, left: float) -> None:
    """A quota of `aws` gets the price of a hedge back that won; one that lost is paid, and the success earns 1."""
    budget = RetryBudget.aws(tokens=100.0)
    driver.call(driver.decorate(Hedge(1.0, budget=budget), Script(step, succeed("hedge", after=0.5))))
    assert budget.tokens == left


@pytest.mark.parametrize(
    ("stack", "left"), [("hedge", 8.0), ("retry, hedge", 6.0), ("retry, breaker, hedge", 6.0)]
)
def test_every_failure_is_counted_once(
    driver: Driver, make: Make, compose: Compose, stack: str, left: float
) -> None:
    """A throttle of `grpc` loses one token for each failed attempt, also where retry and hedge share it."""
    budget = RetryBudget.grpc(tokens=10.0)
    driver.outcomes(1, compose(*STACKS[stack](make, budget), source=Script(fail())))
    assert budget.tokens == left


@pytest.mark.parametrize("stack", STACKS)
def test_a_failure_that_a_hedge_made_good_is_counted(
    driver: Driver, make: Make, compose: Compose, stack: str
) -> None:
    """A failed first call and a hedge that succeeds are one failure and one success to `grpc`."""
    budget = RetryBudget.grpc(tokens=10.0)
    script = Script(fail(), succeed("hedge"))
    assert driver.call(compose(*STACKS[stack](make, budget), source=script)) == "hedge"
    assert budget.tokens == pytest.approx(9.1)


def test_retries_and_hedges_share_a_budget(driver: Driver, make: Make, compose: Compose) -> None:
    """In an outage three tokens are three further attempts, whoever makes them."""
    budget, script = make.budget(3), Script(fail())
    call = compose(make.retry(5, budget=budget), Hedge(1.0, max_hedges=2, budget=budget), source=script)
    driver.outcomes(10, call)
    assert script.calls == 10 + 3


def test_calls_at_the_same_time_share_a_budget(driver: Driver, make: Make) -> None:
    """Of six slow calls at once two are hedged where there are two tokens."""
    policy = Hedge(1.0, budget=make.budget(2))
    script = Script(succeed("slow", after=3.0))
    call = driver.decorate(policy, script)
    outcomes = driver.together(*(driver.after(0.0, call) for _ in range(6)))
    assert outcomes == ["slow"] * 6
    assert (script.calls, policy.started) == (8, 2)


# Breaker inside the hedge


@pytest.mark.parametrize("first", [hang(), fail(after=50.0), succeed("late", after=50.0)])
def test_a_loser_is_neutral(driver: Driver, make: Make, compose: Compose, first: Any) -> None:
    """A won call is one success to the breaker; the loser counts for nothing, whatever would have come of it."""
    breaker = make.breaker(window=WIDE, on=Exception)
    call = compose(Hedge(1.0), breaker, source=Script(first, succeed("hedge", after=0.5)))
    assert driver.call(call) == "hedge"
    driver.close()
    assert breaker.counts == WindowCounts(1, 0, 0)


def test_every_failed_attempt_is_a_failure(driver: Driver, make: Make, compose: Compose) -> None:
    """To a breaker inside the hedge a failed call and its failed hedge are two failures."""
    breaker, script = make.breaker(window=WIDE), Script(fail())
    driver.outcomes(2, compose(Hedge(1.0), breaker, source=script))
    assert (script.calls, breaker.counts) == (4, WindowCounts(4, 4, 0))


def test_an_open_breaker_ends_the_call_at_once(
    driver: Driver, make: Make, compose: Compose, event_recorder: EventRecorder
) -> None:
    """A first call that is refused locally raises the rejection: no hedge, no wait, no token."""
    budget, breaker, script = make.budget(2), make.breaker(), Script(succeed())
    breaker.open()
    event_recorder.clear()
    policy = Hedge(1.0, budget=budget)
    with pytest.raises(CircuitOpenError):
        driver.call(compose(policy, breaker, source=script))
    assert (script.calls, driver.clock.elapsed, policy.started, breaker.rejected) == (0, 0.0, 0, 1)
    assert round(budget.tokens, 1) == 2.5
    assert event_recorder.kinds == ("CallRejected",)


def test_a_breaker_that_opens_refuses_the_hedge(driver: Driver, make: Make, compose: Compose) -> None:
    """When the first failure opens the breaker, the first error comes out, and carries the hedge's rejection."""
    error, breaker = ConnectionError("down"), make.breaker(1)
    script, policy = Script(fail(error), succeed()), Hedge(1.0, max_hedges=3)
    with pytest.raises(ConnectionError) as caught:
        driver.call(compose(policy, breaker, source=script))
    assert caught.value is error
    assert [type(one) for one in hedge_errors(error)] == [CircuitOpenError]
    assert (script.calls, breaker.rejected, policy.started) == (1, 1, 1)


def test_a_refused_hedge_costs_no_token(driver: Driver, make: Make) -> None:
    """A hedge that was refused locally was never made: a budget that refunds gets its price back."""
    budget = RetryBudget.aws(tokens=100.0)
    stack = make.pipeline(Hedge(1.0, budget=budget), make.breaker(1))
    driver.outcomes(1, driver.decorate(stack, Script(fail())))
    assert budget.tokens == 100.0


def test_a_refused_hedge_does_not_stop_the_first_call(driver: Driver, make: Make, compose: Compose) -> None:
    """While the first call is the only probe, its hedge is refused; the probe goes on and closes the breaker."""
    breaker, script = make.breaker(1), Script(succeed("probe", after=2.5))
    breaker.half_open()
    assert driver.call(compose(Hedge(1.0, max_hedges=2), breaker, source=script)) == "probe"
    assert (script.calls, breaker.rejected, breaker.state) == (1, 1, CLOSED)


def test_a_losing_probe_gives_its_place_back(driver: Driver, make: Make, compose: Compose) -> None:
    """Of two probes the hedge's succeeds; the loser's place is free again, and the breaker waits for a second."""
    breaker = make.breaker(half_open_calls=2, window=WIDE, failure_rate=0.5)
    breaker.half_open()
    assert driver.call(compose(Hedge(1.0), breaker, source=Script(*SLOW_THEN_QUICK))) == "hedge"
    driver.close()
    assert breaker.state is HALF_OPEN
    assert breaker.admit().probe
    with pytest.raises(CircuitOpenError):
        breaker.admit()


def test_hedges_of_calls_that_all_lose_leave_every_place(driver: Driver, make: Make) -> None:
    """After many hedged calls in a row no place of a half-open breaker is lost."""
    breaker = make.breaker(half_open_calls=50, window=WIDE, failure_rate=0.9)
    breaker.half_open()
    call = driver.decorate(make.pipeline(Hedge(1.0), breaker), Script(*SLOW_THEN_QUICK * 3))
    for _ in range(3):
        assert driver.call(call) == "hedge"
    driver.close()
    assert breaker.counts == WindowCounts(3, 0, 0)
    assert [breaker.admit().probe for _ in range(47)] == [True] * 47


# The recommended order


def test_retry_hedge_breaker_in_an_outage(driver: Driver, make: Make, compose: Compose) -> None:
    """Retry 3 × hedge 2 are six attempts, all failures to the breaker; the error is the last first call's."""
    breaker, script = make.breaker(window=WIDE), Script(fail(after=0.25))
    with pytest.raises(ConnectionError) as caught:
        driver.call(compose(make.retry(3), Hedge(1.0), breaker, source=script))
    assert starts(script) == [0.0, 0.25, 1.5, 1.75, 3.0, 3.25]
    assert breaker.counts == WindowCounts(6, 6, 0)
    assert len(hedge_errors(caught.value)) == 1
    note = "gave up after 3 attempts, 3 s after the first failure: no attempts left"
    assert caught.value.__notes__[-1].endswith(note)


def test_a_trip_ends_retries_and_hedges(driver: Driver, make: Make) -> None:
    """When the third failure opens the breaker, nothing more is sent, by retry or hedge."""
    breaker, script = make.breaker(3), Script(fail())
    outcomes = driver.outcomes(1, driver.decorate(make.pipeline(make.retry(5), Hedge(1.0), breaker), script))
    assert [type(one) for one in outcomes] == [CircuitOpenError]
    assert (script.calls, breaker.state, breaker.rejected) == (3, OPEN, 2)


def test_the_events_of_a_hedged_retry(driver: Driver, make: Make, event_recorder: EventRecorder) -> None:
    """Subscribers see the hedge, the budget's end, the retry's end, in this order."""
    budget, script = make.budget(2), Script(fail())
    stack = make.retry(5, budget=budget), Hedge(1.0, budget=budget), make.breaker(100)
    driver.outcomes(1, driver.decorate(make.pipeline(*stack), script))
    assert event_recorder.kinds == (
        "HedgeStarted",
        "RetryScheduled",
        "BudgetExhausted",
        "BudgetExhausted",
        "RetryGaveUp",
    )
    assert script.calls == 3


@pytest.mark.parametrize("outer", [Retry, CircuitBreaker])
def test_outside_the_hedge_a_policy_sees_one_call(driver: Driver, make: Make, outer: type[Policy]) -> None:
    """A breaker or retry around the hedge sees the call's outcome only: hedged failures are not its business."""
    breaker, script = make.breaker(window=WIDE), Script(fail(), succeed("hedge"))
    policy = breaker if outer is CircuitBreaker else make.retry(3)
    assert driver.call(driver.decorate(make.pipeline(policy, Hedge(1.0)), script)) == "hedge"
    assert breaker.counts == WindowCounts(outer is CircuitBreaker, 0, 0)
    assert driver.clock.sleeps == ()
