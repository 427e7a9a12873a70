"""Retry × retry budget: what takes tokens, what gives them, and what the caller sees when there are none."""

from collections.abc import Callable
from typing import Any

import pytest
import tenacity

from backend.tests.integration.resilience._driver import Compose, Driver, Function
from backend.tests.integration.resilience._make import BUSY, Busy, Make
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.errors import CircuitOpenError
from holdfast.infrastructure.resilience.events import BudgetExhausted, RetryGaveUp, RetryScheduled, subscribe
from holdfast.infrastructure.resilience.pipeline import explain
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.testing.faults import Script, fail, succeed
from holdfast.testing.recorder import EventRecorder

EXHAUSTED = "the retry budget is exhausted"
Form = Callable[[Driver, Retry, Script], Function]


def as_function(driver: Driver, retry: Retry, script: Script) -> Function:
    return driver.decorate(retry, script)


def as_loop(driver: Driver, retry: Retry, script: Script) -> Function:
    play = driver.function(script)

    async def loop() -> Any:
        result = None
        async for attempt in driver.attempts(retry):
            with attempt:
                result = await driver.ask(play)
        return result

    return driver.function(loop)


def with_tenacity(driver: Driver, retry: Retry, script: Script) -> Function:
    stop = tenacity.stop_after_attempt(retry.config.attempts or 1)
    return driver.decorate(retry.replace(attempts=None, stop=stop), script)


def is_refused(result: object) -> bool:
    return result == "refused"


def judging_results(driver: Driver, retry: Retry, script: Script) -> Function:
    return driver.decorate(retry.replace(result=is_refused), script)


forms = pytest.mark.parametrize("form", [as_function, as_loop, with_tenacity, judging_results])


@forms
def test_exhausted_in_the_middle_of_a_call(driver: Driver, make: Make, form: Form) -> None:
    """With one token for four retries, the second failure is final at once: no wait, the original error, a note."""
    error, budget = ConnectionError("down"), make.budget(1)
    script = Script(fail(), fail(error))
    with pytest.raises(ConnectionError) as caught:
        driver.call(form(driver, make.retry(5, budget=budget), script))
    assert caught.value is error
    assert (script.calls, driver.clock.sleeps) == (2, (1.0,))
    note = f"holdfast: caller gave up after 2 attempts, 1 s after the first failure: {EXHAUSTED}"
    assert caught.value.__notes__ == [note]


@forms
def test_exhausted_before_the_call(driver: Driver, make: Make, form: Form) -> None:
    """Without a token the first attempt is made all the same, and its note says why it was the only one."""
    script = Script(fail())
    with pytest.raises(ConnectionError) as caught:
        driver.call(form(driver, make.retry(5, budget=make.budget(0)), script))
    assert (script.calls, driver.clock.sleeps) == (1, ())
    assert caught.value.__notes__[0].endswith(
        f"gave up after 1 attempt, 0 s after the first failure: {EXHAUSTED}"
    )


def test_exhaustion_is_an_event(driver: Driver, make: Make, event_recorder: EventRecorder) -> None:
    """Subscribers see which budget was exhausted, and then that the call was given up for it."""
    driver.outcomes(1, driver.decorate(make.retry(5, budget=make.budget(1)), Script(fail())))
    assert event_recorder.kinds == ("RetryScheduled", "BudgetExhausted", "RetryGaveUp")
    assert [(event.name, event.budget) for event in event_recorder.of(BudgetExhausted)] == [
        ("caller", "budget")
    ]
    assert [(event.attempts, event.reason) for event in event_recorder.of(RetryGaveUp)] == [(2, EXHAUSTED)]


def test_a_token_is_taken_before_the_wait(driver: Driver, make: Make) -> None:
    """The token is gone when the retry is decided, while its backoff has not begun."""
    budget, seen = make.budget(3), list[tuple[float, float]]()
    start = driver.clock.monotonic()

    def look(event: RetryScheduled) -> None:
        seen.append((event.at - start, round(budget.tokens, 1)))

    with subscribe(look, RetryScheduled):
        driver.outcomes(1, driver.decorate(make.retry(3, budget=budget), Script(fail())))
    assert seen == [(0.0, 2.5), (1.0, 1.5)]


def test_first_attempts_are_free(driver: Driver, make: Make, event_recorder: EventRecorder) -> None:
    """A budget never refuses a first attempt, and nothing is said of it while all succeeds."""
    budget, script = make.budget(0), Script(succeed())
    assert driver.outcomes(50, driver.decorate(make.retry(budget=budget), script)) == ["ok"] * 50
    assert event_recorder.events == ()


def test_nothing_is_taken_for_what_is_not_retried(driver: Driver, make: Make, compose: Compose) -> None:
    """Permanent errors, rejections, the last attempt and a delay beyond the deadline cost no token."""
    budget, breaker = make.budget(5), make.breaker()
    breaker.open()
    calls = [
        compose(make.retry(budget=budget), source=Script(fail(ValueError))),
        compose(make.retry(budget=budget), breaker, source=Script(succeed())),
        compose(make.retry(1, budget=budget), source=Script(fail())),
        compose(make.retry(budget=budget, deadline=0.5), source=Script(fail())),
    ]
    outcomes = [driver.outcomes(1, call)[0] for call in calls]
    assert [type(one) for one in outcomes] == [ValueError, CircuitOpenError, ConnectionError, ConnectionError]
    assert round(budget.tokens, 1) == 5.5


@forms
def test_first_attempts_earn_and_retries_do_not(driver: Driver, make: Make, form: Form) -> None:
    """Ten first attempts buy one retry, failed or not, and attempts after the first earn nothing."""
    budget = RetryBudget("budget", ratio=0.1, min_per_second=0.0)
    script = Script(*[succeed()] * 9, fail())
    call = form(driver, make.retry(5, wait=0.0, budget=budget), script)
    driver.outcomes(10, call)
    assert script.calls == 11
    assert budget.tokens == pytest.approx(0.0)
    driver.outcomes(9, call)
    assert script.calls == 20
    assert budget.tokens == pytest.approx(0.9)


def test_a_refused_result_earns_once(driver: Driver, make: Make) -> None:
    """A first attempt whose result is refused is one first attempt, no more; exhausted, the result comes back."""
    budget = RetryBudget("budget", ratio=0.1, min_per_second=0.0)
    script = Script(succeed("refused"))
    call = judging_results(driver, make.retry(5, wait=0.0, budget=budget), script)
    assert driver.outcomes(20, call) == ["refused"] * 20
    assert script.calls == 22


def test_two_retries_share_one_budget(driver: Driver, make: Make) -> None:
    """What one retry takes from a shared budget, another does not find."""
    budget, first, second = make.budget(3), Script(fail()), Script(fail())
    greedy = driver.decorate(make.retry(3, budget=budget), first)
    late = driver.decorate(make.retry(3, budget=budget), second)
    driver.outcomes(1, greedy)
    driver.outcomes(2, late)
    assert (first.calls, second.calls) == (3, 3)


def test_nested_retries_share_one_budget(driver: Driver, make: Make) -> None:
    """Two nested retries of three attempts make nine calls; a shared budget of four makes five of them."""
    unlimited, limited = Script(fail()), Script(fail())
    budget = make.budget(4)
    driver.outcomes(1, driver.decorate(make.pipeline(make.retry(3), make.retry(3)), unlimited))
    driver.outcomes(
        1, driver.decorate(make.pipeline(make.retry(3, budget=budget), make.retry(3, budget=budget)), limited)
    )
    assert (unlimited.calls, limited.calls) == (9, 5)


def test_callers_at_once_get_as_many_retries_as_there_are_tokens(driver: Driver, make: Make) -> None:
    """Ten threads or tasks that fail together share three tokens: three retries, whoever makes them."""
    script = Script(fail(after=0.5))
    call = driver.decorate(make.retry(5, budget=make.budget(3)), script)
    outcomes = driver.together(*[driver.after(0.0, call)] * 10)
    assert [type(outcome) for outcome in outcomes] == [ConnectionError] * 10
    assert all(outcome.__notes__[0].endswith(EXHAUSTED) for outcome in outcomes)
    assert script.calls == 13


def test_the_floor_is_granted_every_second(driver: Driver, make: Make) -> None:
    """`min_per_second` retries are granted each second, however few first attempts there are."""
    budget = RetryBudget("budget", ratio=0.0, min_per_second=2.0)
    script = Script(fail())
    call = driver.decorate(make.retry(9, wait=0.0, budget=budget), script)
    driver.outcomes(5, call, every=1.0)
    assert script.calls == 5 * (1 + 2)


@pytest.mark.parametrize(("floor", "rate", "seconds"), [(0.0, 20, 60), (1.0, 5, 600), (10.0, 50, 20)])
def test_the_load_in_a_full_outage(driver: Driver, make: Make, floor: float, rate: int, seconds: int) -> None:
    """However long an outage lasts, its load is at most 1.1 times the calls plus the floor, and nearly that."""
    budget, script = RetryBudget("budget", ratio=0.1, min_per_second=floor), Script(fail())
    calls = seconds * rate
    driver.outcomes(calls, driver.decorate(make.retry(4, wait=0.0, budget=budget), script), every=1 / rate)
    granted = calls * 1.1 + floor * seconds + floor
    assert 0.95 * granted <= script.calls <= granted


def test_without_a_budget_the_outage_gets_every_attempt(driver: Driver, make: Make) -> None:
    """The same outage without a budget gets four times the calls: what the budget is for."""
    script = Script(fail())
    driver.outcomes(500, driver.decorate(make.retry(4, wait=0.0), script), every=0.1)
    assert script.calls == 2000


def test_after_the_outage_calls_are_retried_again(driver: Driver, make: Make) -> None:
    """A budget that an outage emptied fills again with the calls that succeed after it."""
    budget = RetryBudget("budget", ratio=0.1, min_per_second=0.0)
    script = Script(*[fail()] * 55, *[succeed()] * 20, fail(), succeed())
    call = driver.decorate(make.retry(4, wait=0.0, budget=budget), script)
    outcomes = driver.outcomes(50 + 20 + 1, call, every=0.01)
    assert [type(outcome) for outcome in outcomes[:50]] == [ConnectionError] * 50
    assert outcomes[50:] == ["ok"] * 21


@pytest.mark.parametrize("form", [as_function, as_loop, with_tenacity])
def test_the_prices_of_aws(driver: Driver, make: Make, form: Form) -> None:
    """A retry costs 14, 5 after throttling; one that succeeds is refunded, and a success at once earns 1."""
    budget = RetryBudget.aws("budget", tokens=100.0)
    left: list[float] = []
    for script in (
        Script(fail()),
        Script(fail(Busy(1.0))),
        Script(fail(), succeed()),
        Script(fail(Busy(1.0)), succeed()),
        Script(succeed()),
    ):
        driver.outcomes(1, form(driver, make.retry(2, on=BUSY, budget=budget), script))
        left.append(budget.tokens)
    assert left == [86.0, 81.0, 81.0, 81.0, 82.0]


@pytest.mark.parametrize("form", [as_function, as_loop, with_tenacity])
def test_the_prices_of_grpc(driver: Driver, make: Make, form: Form) -> None:
    """Each failed attempt costs 1 and each good one earns 0.1; at half the tokens retries end."""
    budget = RetryBudget.grpc("budget", tokens=10.0)
    left: list[float] = []
    scripts = [Script(fail()), Script(fail(), succeed()), Script(succeed()), Script(fail()), Script(fail())]
    for script in scripts:
        driver.outcomes(1, form(driver, make.retry(2, budget=budget), script))
        left.append(round(budget.tokens, 3))
    assert left == [8.0, 7.1, 7.2, 5.2, 4.2]
    assert [script.calls for script in scripts] == [2, 2, 1, 2, 1]


def test_explain_counts_the_budget(driver: Driver, make: Make) -> None:
    """The load of a lasting outage is the attempts without a budget, and 1 plus its ratio with one."""
    with_budget = driver.decorate(make.retry(4, budget=RetryBudget()), Script(succeed()))
    without = driver.decorate(make.retry(4), Script(succeed()))
    assert [explain(fn).amplification for fn in (without, with_budget)] == [4.0, pytest.approx(1.1)]
