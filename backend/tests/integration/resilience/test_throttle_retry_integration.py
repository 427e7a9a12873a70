"""Throttle × retry × circuit breaker × budget: what is refused here is neither retried nor held against anybody."""

from random import Random

import pytest

from backend.tests.integration.resilience._driver import Compose, Driver
from backend.tests.integration.resilience._make import BUSY, Busy, Make
from backend.tests.integration.resilience._race import race
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.errors import CircuitOpenError, ThrottledError
from holdfast.infrastructure.resilience.events import CallRejected, RetryGaveUp
from holdfast.infrastructure.resilience.randomness import use_random
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.throttle import Throttle
from holdfast.infrastructure.resilience.window import Window, WindowCounts
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, hang, succeed
from holdfast.testing.recorder import EventRecorder

WIDE = Window.calls(1000)


class Dice(Random):
    """Chance that always draws the same."""

    def __init__(self, drawn: float) -> None:
        super().__init__(0)
        self.drawn = drawn

    def random(self) -> float:
        return self.drawn


def strict(**settings: object) -> Throttle:
    """Return a throttle that refuses as soon as there is any chance of it, from the first failure on."""
    settings = {"min_calls": 1, **settings}
    return Throttle(random=Dice(0.0), name="dependency", **settings)  # type: ignore[arg-type]  # any setting


def lenient() -> Throttle:
    """Return a throttle that counts, and never refuses."""
    return Throttle(random=Dice(0.999), name="dependency")


def test_a_refusal_is_not_retried(driver: Driver, make: Make, compose: Compose) -> None:
    """A retry around a throttle makes no other attempt when refused: nothing is sent, nothing waited for."""
    throttle, script = strict(), Script(fail())
    call = compose(make.retry(5), throttle, source=script)
    first, second = driver.outcomes(2, call)
    assert [type(first), type(second)] == [ThrottledError, ThrottledError]
    assert (script.calls, throttle.requests, throttle.rejected) == (1, 3, 2)
    assert driver.clock.sleeps == (1.0,)
    assert getattr(second, "__notes__", []) == []


def test_a_lone_call_keeps_its_retries(driver: Driver, make: Make, compose: Compose) -> None:
    """As long as a throttle has seen fewer than ten calls, it takes no attempt from the retry around it."""
    throttle = Throttle(random=Dice(0.0))
    call = compose(make.retry(5), throttle, source=Script(*[fail()] * 4, succeed()))
    assert driver.outcomes(2, call) == ["ok", "ok"]
    assert (throttle.requests, throttle.accepts, throttle.rejected) == (6, 2, 0)


def test_the_loop_ends_at_the_refusal(driver: Driver, make: Make, event_recorder: EventRecorder) -> None:
    """A retry that was under way says in a note and an event that the refusal was final."""
    call = driver.decorate(make.pipeline(make.retry(5), strict()), Script(fail()))
    (refused,) = driver.outcomes(1, call)
    assert event_recorder.kinds == ("RetryScheduled", "CallRejected", "RetryGaveUp")
    (gave_up,) = event_recorder.of(RetryGaveUp)
    assert (gave_up.attempts, gave_up.error) == (2, refused)
    assert len(refused.__notes__) == 1
    assert [event.policy for event in event_recorder.of(CallRejected)] == ["throttle"]


def test_inside_a_retry_attempts_count(driver: Driver, make: Make, compose: Compose) -> None:
    """Two failed attempts and a good one are three requests and one accept."""
    throttle, script = lenient(), Script(fail(), fail(), succeed())
    assert driver.call(compose(make.retry(3), throttle, source=script)) == "ok"
    assert (throttle.requests, throttle.accepts) == (3, 1)


def test_around_a_retry_calls_count(driver: Driver, make: Make, compose: Compose) -> None:
    """Outside a retry a call that succeeds at its third attempt is one request and one accept."""
    throttle, script = lenient(), Script(fail(), fail(), succeed(), fail())
    outcomes = driver.outcomes(2, compose(throttle, make.retry(3), source=script))
    assert outcomes[0] == "ok"
    assert (script.calls, throttle.requests, throttle.accepts) == (6, 2, 1)


def test_who_wants_may_retry_refusals(driver: Driver, make: Make, compose: Compose) -> None:
    """A retry told to retry ThrottledError draws again after its wait."""
    throttle, script = strict(), Script(fail(), succeed())
    call = compose(make.retry(4, on=(ThrottledError,), wait=6.0), throttle, source=script)
    assert type(driver.outcomes(1, call)[0]) is ConnectionError
    driver.clock.advance(7.0)
    assert type(driver.outcomes(1, call)[0]) is ThrottledError
    driver.clock.advance(11.0)
    assert driver.outcomes(1, call) == ["ok"]
    assert (script.calls, throttle.rejected, driver.clock.sleeps) == (2, 4, (6.0,) * 3)


def test_a_refusal_is_neutral_to_a_breaker_outside(driver: Driver, make: Make, compose: Compose) -> None:
    """To a breaker around a throttle a refusal says nothing about the dependency: it neither fails nor succeeds."""
    breaker, throttle = make.breaker(window=WIDE), strict()
    outcomes = driver.outcomes(20, compose(breaker, throttle, source=Script(fail())))
    assert [type(one) for one in outcomes] == [ConnectionError, *[ThrottledError] * 19]
    assert breaker.counts == WindowCounts(1, 1, 0)
    assert breaker.state is CircuitState.CLOSED


def test_a_refused_probe_gives_its_place_back(driver: Driver, make: Make, compose: Compose) -> None:
    """A probe that a throttle inside refuses decides nothing, and does not keep its place."""
    breaker, throttle = make.breaker(1), strict()
    call = compose(breaker, throttle, source=Script(fail(), succeed()))
    driver.outcomes(1, call)
    driver.clock.advance(5.0)
    assert type(driver.outcomes(1, call)[0]) is ThrottledError
    states = [breaker.state]
    throttle.reset()
    assert driver.outcomes(1, call) == ["ok"]
    assert [*states, breaker.state] == [CircuitState.HALF_OPEN, CircuitState.CLOSED]


def test_an_open_breaker_inside_is_no_reason_to_throttle(
    driver: Driver, make: Make, compose: Compose
) -> None:
    """Refusals of a breaker inside were never sent, so they are neither requests nor accepts."""
    breaker, throttle = make.breaker(2), lenient()
    outcomes = driver.outcomes(10, compose(throttle, breaker, source=Script(fail())))
    assert [type(one) for one in outcomes] == [*[ConnectionError] * 2, *[CircuitOpenError] * 8]
    assert (throttle.requests, throttle.accepts) == (2, 0)


def test_a_refusal_costs_the_budget_nothing(driver: Driver, make: Make, compose: Compose) -> None:
    """The one retry that was decided is paid for; the refusal that it met and all later ones are not retried."""
    budget = make.budget(5)
    before = budget.tokens
    call = compose(make.retry(5, budget=budget), strict(), source=Script(fail()))
    driver.outcomes(10, call)
    # Ten first attempts deposit 0.001 each.
    assert budget.tokens == pytest.approx(before - 1 + 10 * 0.001, abs=0.001)


def test_hints_and_throttling_answers_count_as_not_accepted(
    driver: Driver, make: Make, compose: Compose
) -> None:
    """An answer that asks to come back later is what the throttle is for: a request without accept."""
    throttle = Throttle(random=Dice(0.999), on=BUSY)
    call = compose(make.retry(2, on=BUSY, hint_cap=0.0), throttle, source=Script(fail(Busy(3.0)), succeed()))
    assert driver.call(call) == "ok"
    assert driver.clock.sleeps == (3.0,)
    assert (throttle.requests, throttle.accepts) == (2, 1)


@pytest.mark.parametrize("order", [1, -1])
def test_timeouts_inside_count_and_outside_do_not(
    driver: Driver, make: Make, compose: Compose, order: int
) -> None:
    """A call that runs into a timeout inside is a request; one that a timeout around ends is nothing as yet."""
    throttle = lenient()
    policies = (throttle, make.punctual(2.0))[::order]
    outcomes = driver.outcomes(1, compose(*policies, source=Script(hang())))
    assert [isinstance(one, TimeoutError) for one in outcomes] == [True]
    assert (throttle.requests, throttle.accepts) == ((1, 0) if order > 0 else (0, 0))


# Chance


def expected(seed: int, answers: list[bool], *, k: float = 2.0) -> str:
    """Return what becomes of each call, by the formula: sent and answered `.`, failed `x`, refused `-`."""
    random, requests, accepts, said = Random(seed), 0, 0, ""
    left = iter(answers)
    while len(said) < 100:
        chance = 0.0 if requests < 10 else min(0.9, max(0.0, (requests - k * accepts) / (requests + 1)))
        refused = chance > 0 and random.random() < chance
        answered = not refused and next(left)
        said += "-" if refused else ".x"[not answered]
        requests += 1
        accepts += answered
    return said


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("period", [2, 4, 100])
def test_with_a_seed_every_refusal_is_known(driver: Driver, compose: Compose, seed: int, period: int) -> None:
    """With a seeded source the same calls are refused each time, just those of the formula."""
    answers = [at % period == 0 for at in range(100)]
    script = Script(*(succeed() if answer else fail() for answer in answers))
    call = compose(Throttle(random=Random(seed)), source=script)
    marks = {str: ".", ConnectionError: "x", ThrottledError: "-"}
    assert "".join(marks[type(one)] for one in driver.outcomes(100, call)) == expected(seed, answers)


def test_the_common_source_is_drawn_from(driver: Driver, compose: Compose) -> None:
    """Without `random=` the ambient source decides."""
    answers = [False] * 100
    call = compose(Throttle(), source=Script(fail()))
    with use_random(3):
        refused = [type(one) is ThrottledError for one in driver.outcomes(100, call)]
    assert refused == [mark == "-" for mark in expected(3, answers)]


# Recovery


def load(driver: Driver, throttle: Throttle, every: float, outage: float, after: float) -> list[float]:
    """Call `every` so many seconds through an outage and `after` it; return when calls succeeded, from its end."""
    begin = driver.clock.elapsed

    async def dependency() -> float:
        since = driver.clock.elapsed - begin - outage
        if since < 0:
            raise ConnectionError
        return since

    call = driver.decorate(throttle, dependency)
    outcomes = driver.outcomes(round((outage + after) / every), call, every=every)
    return [one for one in outcomes if isinstance(one, float)]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("every", [0.8, 0.5, 0.05])
def test_clients_recover(driver: Driver, seed: int, every: float) -> None:
    """A minute after an outage every client is at full traffic again, small or large, whatever the draws."""
    throttle = Throttle(random=Random(seed))
    done = load(driver, throttle, every, outage=60.0, after=120.0)
    assert throttle.rejection_probability == 0.0
    late = [at for at in done if at >= 60.0]
    assert len(late) == pytest.approx(60.0 / every, abs=1)


def test_the_cap_lets_a_tenth_through(driver: Driver) -> None:
    """In a full outage a busy client still sends one call in ten, which is how it learns of the end."""
    throttle = Throttle(random=Random(1))
    script = Script(fail())
    driver.outcomes(2000, driver.decorate(throttle, script), every=0.005)
    assert throttle.rejection_probability == 0.9
    assert script.calls == pytest.approx(200, abs=45)
    assert script.calls + throttle.rejected == 2000


def test_a_dependency_gets_twice_what_it_can_answer(driver: Driver) -> None:
    """Where 25 calls a second are answered and 100 wanted, K = 2 sends about 50: enough to see when there is more."""
    sent: dict[int, int] = {}

    async def dependency() -> None:
        second = int(driver.clock.elapsed)
        sent[second] = sent.get(second, 0) + 1
        if sent[second] > 25:
            raise ConnectionError

    call = driver.decorate(Throttle(random=Random(1)), dependency)
    driver.outcomes(4000, call, every=0.01)
    assert 900 <= sum(sent[second] for second in range(19, 39)) <= 1100


def test_a_healthy_dependency_is_never_refused(driver: Driver) -> None:
    """With fewer than half of the calls failing, K = 2 refuses nobody."""
    script = Script(*[succeed(), succeed(), fail()] * 300)
    outcomes = driver.outcomes(900, driver.decorate(strict(), script), every=0.01)
    assert sum(type(one) is ThrottledError for one in outcomes) == 0


# Sharing


def test_functions_share_what_one_throttle_knows(driver: Driver, make: Make) -> None:
    """Two functions of one dependency under one throttle: what one learns, spares the other."""
    throttle, other = strict(), Script(succeed())
    one, two = driver.decorate(throttle, Script(fail())), driver.decorate(make.pipeline(throttle), other)
    driver.outcomes(1, one)
    assert type(driver.outcomes(1, two)[0]) is ThrottledError
    assert other.calls == 0


def test_no_failure_is_lost_between_threads(virtual_clock: VirtualClock) -> None:
    """Eight threads that fail at the same moment are all counted."""
    throttle = lenient()

    @throttle
    def broken() -> None:
        raise ConnectionError

    def many() -> None:
        for _ in range(200):
            with pytest.raises(ConnectionError):
                broken()

    race(*[many] * 8)
    assert (throttle.requests, throttle.accepts) == (1600, 0)


def test_every_refusal_is_counted_between_threads(virtual_clock: VirtualClock, make: Make) -> None:
    """Refusals of eight threads at once add up, in the throttle and in its window."""
    throttle = strict()
    call = throttle(Script(fail()).function())
    with pytest.raises(ConnectionError):
        call()

    def many() -> None:
        for _ in range(200):
            with pytest.raises(ThrottledError):
                call()

    race(*[many] * 8)
    assert (throttle.rejected, throttle.requests) == (1600, 1601)


def test_throttle_and_breaker_go_together(driver: Driver, make: Make, compose: Compose) -> None:
    """Where both stand inside a retry, the breaker opens on what was sent, and then the throttle hears no more."""
    breaker, throttle, script = make.breaker(3), lenient(), Script(fail())
    outcomes = driver.outcomes(4, compose(make.retry(2), throttle, breaker, source=script))
    assert [type(one) for one in outcomes] == [ConnectionError, *[CircuitOpenError] * 3]
    assert isinstance(breaker, CircuitBreaker)
    assert (script.calls, throttle.requests, breaker.rejected) == (3, 3, 3)
