"""Seam: a rate limit × a retry × a circuit breaker, the limit inside and outside of either."""

from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Compose, Driver
from backend.tests.integration.resilience._make import Make
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.classify import THROTTLED, Classifier, Verdict, classify
from holdfast.infrastructure.resilience.errors import CircuitOpenError, RateLimitedError
from holdfast.infrastructure.resilience.events import CallDelayed, CallRejected, RetryScheduled
from holdfast.infrastructure.resilience.rate_limit import RateLimit, RateLimits
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window, WindowCounts
from holdfast.testing.faults import Script, fail, hang, succeed
from holdfast.testing.recorder import EventRecorder

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
WIDE = Window.calls(100)


def throttled(error: Exception) -> Verdict | None:
    """Let refusals of a rate limit be retried when it says so."""
    return THROTTLED if isinstance(error, RateLimitedError) else None


def refused(error: Exception) -> bool:
    """Say so of a refusal."""
    return isinstance(error, RateLimitedError)


def echo(tenant: Any) -> Any:
    """Let the argument be the key."""
    return tenant


# The three ways in which a user asks for refusals to be retried.
OPT_IN: dict[str, Any] = {
    "type": (RateLimitedError,),
    "classifier": Classifier(predicates=(throttled,)),
    "predicate": refused,
}


def limit(rate: float = 1.0, **settings: Any) -> RateLimit:
    """Return a limit called `limit`."""
    given: dict[str, Any] = {"name": "limit", **settings}
    return RateLimit(rate, **given)


def starts(script: Script) -> list[float]:
    """Return when each call came, seconds after the first."""
    return [at - script.times[0] for at in script.times]


# A retry around a limit


def test_a_refusal_is_not_retried(driver: Driver, make: Make, compose: Compose) -> None:
    """By default a refusal is final: it comes out at once, as it is, and no wait is spent on it."""
    script = Script(succeed())
    call = compose(make.retry(5), limit(), source=script)
    _, error = driver.outcomes(2, call)
    assert isinstance(error, RateLimitedError)
    assert (error.name, error.retry_after) == ("limit", 1.0)
    assert not hasattr(error, "__notes__")
    assert (script.calls, driver.clock.elapsed) == (1, 0.0)


@pytest.mark.parametrize("on", OPT_IN)
def test_who_retries_refusals_comes_back_when_told(
    driver: Driver, make: Make, event_recorder: EventRecorder, on: str
) -> None:
    """However it is asked for, the retry waits for exactly `retry_after`, and is then admitted."""
    script = Script(succeed())
    retry = make.retry(2, wait=0.125, on=OPT_IN[on], hint_cap=0.0)
    call = driver.compose("decorators", retry, limit(4, per=10), source=script)
    assert driver.outcomes(4, call) == ["ok"] * 4
    assert starts(script) == [0.0, 2.5, 5.0, 7.5]
    assert driver.clock.sleeps == (2.5,) * 3
    assert [event.retry_after for event in event_recorder.of(CallRejected)] == [2.5] * 3
    assert [event.delay for event in event_recorder.of(RetryScheduled)] == [2.5] * 3


def test_hints_are_spread_and_never_cut_short(driver: Driver, make: Make) -> None:
    """With a spread the retry comes later than told, at most by `hint_cap`, and never earlier."""
    script = Script(succeed())
    retry = make.retry(2, wait=0.125, on=(RateLimitedError,), hint_cap=0.5)
    assert driver.outcomes(9, driver.compose("decorators", retry, limit(), source=script)) == ["ok"] * 9
    assert all(1.0 <= delay <= 1.5 for delay in driver.clock.sleeps)
    assert len(set(driver.clock.sleeps)) > 1


def test_attempts_take_places_of_their_own(driver: Driver, make: Make, compose: Compose) -> None:
    """Inside a retry the limit bounds attempts: a call that fails three times takes three places."""
    script = Script(fail())
    bound = limit(burst=10)
    [error] = driver.outcomes(1, compose(make.retry(3), bound, source=script))
    assert isinstance(error, ConnectionError)
    assert (script.calls, bound.rejected) == (3, 0)
    assert driver.clock.elapsed == 2.0
    assert bound.available == 10 - 3 + 2


def test_attempts_wait_for_their_places(driver: Driver, make: Make, event_recorder: EventRecorder) -> None:
    """A retry that is quicker than the limit allows is slowed down to it, attempt by attempt."""
    script = Script(fail(), fail(), fail(), succeed())
    stack = make.retry(4, wait=0.5), limit(1, per=2, max_wait=60.0)
    assert driver.outcomes(1, driver.compose("decorators", *stack, source=script)) == ["ok"]
    assert starts(script) == [0.0, 2.0, 4.0, 6.0]
    assert [(event.name, event.seconds) for event in event_recorder.of(CallDelayed)] == [("limit", 1.5)] * 3
    assert {event.policy for event in event_recorder.of(CallDelayed)} == {"rate_limit"}


def test_a_refused_attempt_replaces_the_error_before_it(driver: Driver, make: Make, compose: Compose) -> None:
    """When the limit refuses a later attempt, the caller gets the refusal: that is why there are no more attempts."""
    script = Script(fail())
    [error] = driver.outcomes(1, compose(make.retry(5, wait=0.0), limit(burst=2), source=script))
    assert isinstance(error, RateLimitedError)
    assert script.calls == 2


def test_a_hint_beyond_the_deadline_is_not_waited_for(driver: Driver, make: Make) -> None:
    """A retry gives up at once when the next place comes after its deadline."""
    script = Script(succeed())
    retry = make.retry(3, on=(RateLimitedError,), hint_cap=0.0, deadline=2.0)
    call = driver.compose("decorators", retry, limit(1, per=3), source=script)
    ok, error = driver.outcomes(2, call)
    assert (ok, type(error), script.calls, driver.clock.elapsed) == ("ok", RateLimitedError, 1, 0.0)
    assert "the next delay of 3 s is not within the 2 s left" in error.__notes__[0]


# A retry inside a limit


def test_a_call_takes_one_place_however_often_it_is_tried(
    driver: Driver, make: Make, compose: Compose
) -> None:
    """Outside a retry the limit bounds calls: the attempts inside are not counted."""
    script, bound = Script(fail()), limit(1, per=1000, burst=3)
    outcomes = driver.outcomes(4, compose(bound, make.retry(3), source=script))
    assert [type(one) for one in outcomes] == [ConnectionError] * 3 + [RateLimitedError]
    assert (script.calls, bound.rejected) == (9, 1)


def test_an_outer_limit_waits_before_the_first_attempt(driver: Driver, make: Make) -> None:
    """The wait for a place is not part of what the retry inside has time for."""
    script = Script(fail(), succeed())
    stack = limit(1, per=10, max_wait=60.0), make.retry(3, wait=2.0, deadline=3.0)
    call = driver.compose("decorators", *stack, source=script)
    assert driver.outcomes(2, call) == ["ok", "ok"]
    assert starts(script) == [0.0, 2.0, 10.0]


# Breakers


@pytest.mark.parametrize("on", ["default", "classifier"])
def test_refusals_are_neutral_to_a_breaker_outside(driver: Driver, make: Make, on: str) -> None:
    """A breaker around a limit counts neither failures nor successes when the limit refuses, however often."""
    settings: dict[str, Any] = {} if on == "default" else {"on": Classifier(transient=(KeyError,))}
    breaker, script = make.breaker(window=WIDE, min_calls=1, **settings), Script(succeed())
    call = driver.compose("decorators", breaker, limit(1, per=1000), source=script)
    outcomes = driver.outcomes(50, call)
    assert [type(one) for one in outcomes[1:]] == [RateLimitedError] * 49
    assert (breaker.state, breaker.counts) == (CLOSED, WindowCounts(1, 0, 0))


def test_refusals_do_not_end_a_row_of_failures(driver: Driver, make: Make) -> None:
    """Three failures in a row open the breaker though refusals lie between them: these are no successes."""
    breaker, script = make.breaker(3), Script(fail())
    call = driver.compose("decorators", breaker, limit(1, per=1), source=script)
    kinds: list[Any] = [type(one) for one in driver.outcomes(6, call, every=0.5)]
    assert kinds == [ConnectionError, RateLimitedError] * 2 + [ConnectionError, CircuitOpenError]
    assert breaker.state is OPEN


def test_a_refused_probe_gives_its_place_back(driver: Driver, make: Make) -> None:
    """A half-open breaker whose probe the limit refuses stays half-open, and the next call may probe."""
    breaker, script = make.breaker(1), Script(succeed())
    bound = limit(1, per=10)
    with bound:
        breaker.half_open()
    call = driver.compose("decorators", breaker, bound, source=script)
    outcomes = driver.outcomes(3, call)
    assert [type(one) for one in outcomes] == [RateLimitedError] * 3
    assert breaker.state is HALF_OPEN
    driver.run(driver.sleep, 10.0)
    assert driver.outcomes(1, call) == ["ok"]
    assert breaker.state is CLOSED


def test_an_open_breaker_inside_costs_a_place(driver: Driver, make: Make, compose: Compose) -> None:
    """A limit around a breaker has admitted the call before the breaker refuses it: put the limit inside to save it."""
    script = Script(succeed())
    for order, places in (("outside", 2), ("inside", 4)):
        breaker, bound = make.breaker(1), limit(1, per=1000, burst=4)
        breaker.open()
        stack = [bound, breaker] if order == "outside" else [breaker, bound]
        errors = driver.outcomes(2, compose(*stack, source=script))
        assert [type(one) for one in errors] == [CircuitOpenError] * 2
        assert bound.available == places
    assert script.calls == 0


def test_waiting_is_not_slowness(driver: Driver, make: Make) -> None:
    """A breaker inside times the call alone; one outside the wait as well."""
    for outside, slow in ((False, 0), (True, 3)):
        breaker = make.breaker(window=WIDE, min_calls=100, slow_call_duration=1.5, on=KeyError)
        bound, script = limit(1, per=2, max_wait=60.0), Script(succeed(after=0.0))
        stack = [breaker, bound] if outside else [bound, breaker]
        assert driver.outcomes(4, driver.compose("decorators", *stack, source=script)) == ["ok"] * 4
        assert breaker.counts == WindowCounts(4, 0, slow)


def test_retry_limit_and_breaker_together(driver: Driver, make: Make, compose: Compose) -> None:
    """The recommended order in an outage: attempts at the rate, the breaker opens, its refusal ends the retry."""
    breaker, script = make.breaker(3), Script(fail())
    stack = make.retry(9, wait=0.25), limit(1, max_wait=60.0), breaker
    [error] = driver.outcomes(1, compose(*stack, source=script))
    assert isinstance(error, CircuitOpenError)
    assert starts(script) == [0.0, 1.0, 2.0]
    assert driver.clock.elapsed == 3.0


# Budgets


def test_a_refusal_that_is_not_retried_costs_no_token(driver: Driver, make: Make) -> None:
    """Only retries that are decided are paid for."""
    budget = make.budget(2)
    before = budget.tokens
    call = driver.compose("decorators", make.retry(3, budget=budget), limit(), source=Script(succeed()))
    driver.outcomes(20, call)
    assert budget.tokens == pytest.approx(before + 0.02, abs=0.01)


def test_a_refusal_that_is_retried_is_paid_for(driver: Driver, make: Make) -> None:
    """Each retry of a refusal takes a token; without one the refusal comes out at once."""
    budget, script = make.budget(2), Script(succeed())
    retry = make.retry(9, on=(RateLimitedError,), hint_cap=0.0, budget=budget)
    outcomes = driver.outcomes(4, driver.compose("decorators", retry, limit(), source=script))
    assert [one if isinstance(one, str) else type(one) for one in outcomes] == ["ok"] * 3 + [RateLimitedError]
    assert "the retry budget is exhausted" in outcomes[3].__notes__[0]
    assert driver.clock.elapsed == 2.0


# Many callers


def test_callers_who_retry_share_the_rate(driver: Driver, make: Make) -> None:
    """Six callers who come back when told, again and again, are admitted at the rate and all in the end."""
    script = Script(succeed())
    retry = make.retry(None, wait=0.0, on=(RateLimitedError,), hint_cap=0.0, deadline=600.0)
    bound = limit(1, per=2)
    call = driver.compose("decorators", retry, bound, source=script)
    assert driver.together(*[driver.after(0.0, call)] * 6) == ["ok"] * 6
    assert starts(script) == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert bound.rejected == 5 + 4 + 3 + 2 + 1


def test_a_family_limits_each_key_inside_a_retry(driver: Driver, make: Make) -> None:
    """One tenant that is over its limit comes back when told; the others are not slowed down."""
    family = RateLimits(1, per=3, key=echo, name="tenants")
    retry = make.retry(3, on=(RateLimitedError,), hint_cap=0.0)
    script = Script(succeed())
    call = driver.compose("decorators", retry, family, source=script)
    driver.together(*[driver.after(0.0, call, tenant) for tenant in "abac"])
    told = [(args[0], at) for (args, _), at in zip(script.arguments, starts(script), strict=True)]
    assert told == [("a", 0.0), ("b", 0.0), ("c", 0.0), ("a", 3.0)]
    assert family.rejected == 1


# Timeouts


def test_an_attempt_timeout_outside_bounds_the_wait(driver: Driver, make: Make) -> None:
    """A wait that the attempt's own bound does not leave room for is refused at once, instead of timing out."""
    script = Script(succeed())
    stack = make.retry(3), make.timeout(1.5), limit(1, per=2, max_wait=60.0)
    call = driver.compose("decorators", *stack, source=script)
    ok, error = driver.outcomes(2, call)
    assert (ok, type(error), error.retry_after) == ("ok", RateLimitedError, 2.0)
    assert driver.clock.elapsed == 0.0


def test_a_timeout_inside_does_not_count_the_wait(driver: Driver, make: Make) -> None:
    """A bound inside the limit begins when the call is admitted."""
    script = Script(succeed(after=1.0), hang())
    stack = limit(1, per=5, max_wait=60.0), make.punctual(1.5)
    call = driver.compose("decorators", *stack, source=script)
    assert driver.outcomes(1, call) == ["ok"]
    [error] = driver.outcomes(1, call)
    assert isinstance(error, TimeoutError)
    assert (starts(script), driver.clock.elapsed) == ([0.0, 5.0], 6.5)


# Facts


def test_a_refusal_is_permanent_by_default() -> None:
    """The default table tells retries and breakers that a refusal says nothing about the dependency."""
    assert classify(RateLimitedError("limit", 1.0)) is Verdict.PERMANENT
    breaker = CircuitBreaker("dependency", window=Window.consecutive(1))
    breaker.admit().failure(RateLimitedError("limit", 1.0))
    assert (breaker.state, breaker.counts) == (CLOSED, WindowCounts(0, 0, 0))


def test_events_name_what_refused(driver: Driver, make: Make, event_recorder: EventRecorder) -> None:
    """A refusal is an event of the limit's name, of its key's in a family, else of the pipeline's."""
    policies = [limit(), RateLimits(1, key=lambda: 7, name="family"), RateLimit(1)]
    for policy in policies:
        call = driver.decorate(make.pipeline(make.retry(2), policy, name="service"), Script(succeed()))
        driver.outcomes(2, call)
    events = event_recorder.of(CallRejected)
    assert [event.name for event in events] == ["limit", "family[7]", "service"]
    assert {(event.policy, event.retry_after) for event in events} == {("rate_limit", 1.0)}
    assert event_recorder.kinds == ("CallRejected",) * 3
