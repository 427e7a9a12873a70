"""Seam: bulkhead × retry and circuit breaker: who holds a place when, and what a rejection counts for."""

from functools import partial
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Compose, Driver
from backend.tests.integration.resilience._make import Make
from holdfast.infrastructure.resilience.bulkhead import Bulkhead
from holdfast.infrastructure.resilience.classify import PERMANENT, classify
from holdfast.infrastructure.resilience.deadline import deadline_after
from holdfast.infrastructure.resilience.errors import BulkheadFullError, CircuitOpenError
from holdfast.infrastructure.resilience.events import CallDelayed, CallRejected
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window, WindowCounts
from holdfast.testing.faults import Script, fail, succeed
from holdfast.testing.recorder import EventRecorder

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


def since(script: Script) -> list[float]:
    """Return when a script was called, in seconds of the test."""
    return [at - 1000.0 for at in script.times]


async def taken(driver: Driver, places: Bulkhead, at: float, until: float) -> None:
    """Hold a place for a while."""
    await driver.sleep(at)
    async with driver.block(places):
        await driver.sleep(until - at)


# Around a retry


def test_outside_a_retry_a_call_keeps_its_place_through_the_backoff(
    driver: Driver, make: Make, compose: Compose
) -> None:
    """A bulkhead around a retry counts calls, not attempts: the place is held while the call waits to try again."""
    places = Bulkhead(1)
    script = Script(fail(), fail(), succeed())
    fn = compose(places, make.retry(3), source=script)
    other = driver.decorate(places, Script(succeed("other")))
    seen: list[tuple[Any, int]] = []

    async def watcher() -> None:
        for _ in range(3):
            await driver.sleep(0.75)
            seen.append((await driver.outcome(other), places.running))

    outcomes = driver.together(lambda: driver.ask(fn), watcher)
    assert outcomes == ["ok", None]
    assert since(script) == [0.0, 1.0, 2.0]
    assert [(isinstance(outcome, BulkheadFullError), running) for outcome, running in seen[:2]] == [
        (True, 1)
    ] * 2
    assert seen[2] == ("other", 0)
    assert (places.rejected, places.running) == (2, 0)


def test_outside_a_retry_a_wait_is_paid_once(driver: Driver, make: Make) -> None:
    """A call waits for its place before its first attempt, and makes all of them in it."""
    places = Bulkhead(1, queue=1)
    script = Script(fail(), succeed())
    fn = driver.compose("decorators", places, make.retry(3), source=script)

    driver.together(lambda: taken(driver, places, 0, 5), driver.after(1.0, fn))
    assert since(script) == [5.0, 6.0]


def test_outside_a_retry_giving_up_frees_the_place(driver: Driver, make: Make, compose: Compose) -> None:
    """When the last attempt has failed, the original error comes out and the place is free."""
    places = Bulkhead(1)
    fn = compose(places, make.retry(2), source=Script(fail(ConnectionError("down"))))

    outcomes = driver.outcomes(3, fn)
    assert [str(one) for one in outcomes] == ["down"] * 3
    assert (places.running, places.rejected) == (0, 0)


# Inside a retry


def test_inside_a_retry_a_call_gives_its_place_back_during_the_backoff(
    driver: Driver, make: Make, compose: Compose
) -> None:
    """A bulkhead inside a retry counts attempts: while a call waits to try again, others have its place."""
    places = Bulkhead(1)
    script = Script(fail(after=0.5), succeed(after=0.5))
    fn = compose(make.retry(3), places, source=script)
    other = Script(succeed("other"))

    outcomes = driver.together(lambda: driver.ask(fn), driver.after(1.0, driver.decorate(places, other)))
    assert outcomes == ["ok", "other"]
    assert (since(script), since(other)) == ([0.0, 1.5], [1.0])
    assert (places.running, places.rejected) == (0, 0)


def test_inside_a_retry_each_attempt_waits_anew(driver: Driver, make: Make) -> None:
    """The second attempt goes to the end of the queue, behind those who came during the backoff."""
    places = Bulkhead(1, queue=2)
    script = Script(fail(), succeed())
    other = Script(succeed(after=2.0))
    fn = driver.compose("decorators", make.retry(3), places, source=script)
    neighbour = driver.decorate(places, other)

    driver.together(lambda: driver.ask(fn), driver.after(0.25, neighbour), driver.after(0.5, neighbour))
    assert (since(script), since(other)) == ([0.0, 4.25], [0.25, 2.25])


def test_a_rejection_is_not_retried(driver: Driver, make: Make, compose: Compose) -> None:
    """BulkheadFullError is permanent by default: the caller hears at once, and the dependency is not asked."""
    places = Bulkhead(1)
    script = Script(succeed())
    fn = compose(make.retry(3), places, source=script)

    async def scenario() -> Any:
        async with driver.block(places):
            return await driver.outcome(fn)

    assert isinstance(driver.run(scenario), BulkheadFullError)
    assert (script.calls, places.rejected, driver.clock.sleeps) == (0, 1, ())
    assert classify(BulkheadFullError("any")) is PERMANENT


def test_a_rejection_is_retried_where_that_is_asked_for(driver: Driver, make: Make) -> None:
    """`on=BulkheadFullError` tries again after the backoff; each refusal is counted."""
    places = Bulkhead(1)
    script = Script(succeed())
    fn = driver.compose("decorators", make.retry(4, on=BulkheadFullError), places, source=script)

    outcomes = driver.together(lambda: taken(driver, places, 0, 1.5), driver.after(0.25, fn))
    assert outcomes == [None, "ok"]
    assert (since(script), places.rejected) == ([2.25], 2)


def test_a_rejection_of_a_later_attempt_ends_the_call(driver: Driver, make: Make) -> None:
    """When another call has the place at the second attempt, the retry ends with BulkheadFullError and says so."""
    places = Bulkhead(1)
    script = Script(fail())
    fn = driver.compose("decorators", make.retry(3), places, source=script)

    outcome, _ = driver.together(lambda: driver.outcome(fn), lambda: taken(driver, places, 0.5, 9))
    assert isinstance(outcome, BulkheadFullError)
    assert "gave up after 2 attempts" in outcome.__notes__[0]
    assert (script.calls, places.rejected, places.running) == (1, 1, 0)


def test_a_rejection_costs_no_budget(driver: Driver, make: Make) -> None:
    """No retry follows a refusal, so none is paid for."""
    places = Bulkhead(1)
    budget = make.budget(retries=1)
    before = budget.tokens
    fn = driver.compose("decorators", make.retry(3, budget=budget), places, source=Script(succeed()))

    async def scenario() -> None:
        async with driver.block(places):
            for _ in range(5):
                await driver.outcome(fn)

    driver.run(scenario)
    assert budget.tokens >= before
    assert places.rejected == 5


def test_a_deadline_bounds_attempts_and_waits_together(driver: Driver, make: Make) -> None:
    """The wait of a later attempt is cut by the deadline around all of them."""
    places = Bulkhead(1, queue=1)
    script = Script(fail())
    fn = driver.compose("decorators", make.retry(3), places, source=script)

    async def caller() -> float:
        with deadline_after(3.0):
            assert isinstance(await driver.outcome(fn), BulkheadFullError)
        return driver.clock.elapsed

    assert driver.together(caller, lambda: taken(driver, places, 0.5, 9)) == [3.0, None]
    assert script.calls == 1


@pytest.mark.parametrize("limit", [1, 3])
def test_a_crowd_of_retries_never_exceeds_the_limit(driver: Driver, make: Make, limit: int) -> None:
    """Ten calls whose every other attempt fails: never more than `limit` attempts at once, and all succeed."""
    places = Bulkhead(limit, queue=10)
    inside: list[int] = []
    failed: set[int] = set()

    async def work(who: int) -> int:
        inside.append(places.running)
        await driver.sleep(0.4)
        if who not in failed:
            failed.add(who)
            raise ConnectionError
        return who

    fn = make.retry(2)(driver.decorate(places, work))
    assert driver.together(*(driver.after(0.1 * at, fn, at) for at in range(10))) == [*range(10)]
    assert (max(inside), len(inside), places.rejected, places.running) == (limit, 20, 0, 0)


# With a circuit breaker


def test_a_breaker_around_a_bulkhead_does_not_count_rejections(driver: Driver, make: Make) -> None:
    """A full bulkhead says nothing about the dependency: the breaker's window stays as it is."""
    places, breaker = Bulkhead(1), make.breaker(2)
    fn = driver.compose("decorators", breaker, places, source=Script(succeed()))

    async def scenario() -> list[Any]:
        async with driver.block(places):
            return [await driver.outcome(fn) for _ in range(5)]

    assert [type(one) for one in driver.run(scenario)] == [BulkheadFullError] * 5
    assert (breaker.state, breaker.counts.failures, breaker.rejected, places.rejected) == (CLOSED, 0, 0, 5)


def test_a_probe_that_a_bulkhead_refuses_is_given_back(driver: Driver, make: Make) -> None:
    """Half-open, a rejection by the bulkhead is neutral: the next call is the probe, and closes the breaker."""
    places, breaker = Bulkhead(1), make.breaker(1)
    fn = driver.compose("decorators", breaker, places, source=Script(fail(), succeed()))

    async def scenario() -> Any:
        await driver.outcome(fn)
        await driver.sleep(5.0)
        async with driver.block(places):
            refused = await driver.outcome(fn)
        assert (type(refused), breaker.state) == (BulkheadFullError, HALF_OPEN)
        return await driver.outcome(fn)

    assert (driver.run(scenario), breaker.state) == ("ok", CLOSED)


def test_an_open_breaker_inside_takes_a_place_for_no_time(driver: Driver, make: Make) -> None:
    """What an open breaker refuses inside a bulkhead is no rejection of the bulkhead's, and leaves its place free."""
    places, breaker = Bulkhead(1), make.breaker(1)
    script = Script(fail())
    fn = driver.compose("decorators", places, breaker, source=script)

    outcomes = driver.outcomes(4, fn)
    assert [type(one) for one in outcomes] == [ConnectionError] + [CircuitOpenError] * 3
    assert (script.calls, breaker.rejected, places.rejected, places.running) == (1, 3, 0, 0)


def test_an_open_breaker_outside_asks_for_no_place(driver: Driver, make: Make) -> None:
    """Around a full bulkhead an open breaker refuses first: the bulkhead does not hear of it."""
    places, breaker = Bulkhead(1), make.breaker(1)
    fn = driver.compose("decorators", breaker, places, source=Script(fail()))

    async def scenario() -> list[Any]:
        failed = await driver.outcome(fn)
        async with driver.block(places):
            return [failed, await driver.outcome(fn)]

    assert [type(one) for one in driver.run(scenario)] == [ConnectionError, CircuitOpenError]
    assert (breaker.rejected, places.rejected) == (1, 0)


def test_who_waits_is_not_slow_to_a_breaker_inside(driver: Driver, make: Make) -> None:
    """Inside the bulkhead a breaker times the call alone; outside it would take the wait for slowness."""
    slow: dict[str, WindowCounts] = {}
    for order in ("inside", "outside"):
        places = Bulkhead(1, queue=1)
        breaker = make.breaker(window=Window.calls(10), slow_call_duration=3.0)
        policies = (places, breaker) if order == "inside" else (breaker, places)
        fn = driver.compose("decorators", *policies, source=Script(succeed(after=1.0)))
        driver.together(partial(taken, driver, places, 0, 5), driver.after(1.0, fn))
        slow[order] = breaker.counts

    assert (slow["inside"].slow, slow["outside"].slow) == (0, 1)


# All together


def test_a_whole_stack_counts_each_rejection_once(
    driver: Driver, make: Make, compose: Compose, event_recorder: EventRecorder
) -> None:
    """In the recommended order (bulkhead, retry, breaker) events and counts tell exactly what happened."""
    places = Bulkhead(1, queue=1, max_wait=0.5, name="search")
    breaker = make.breaker(2)
    script = Script(fail())
    fn = compose(places, make.retry(3), breaker, source=script)

    outcomes = driver.together(
        lambda: driver.ask(fn), driver.after(0.6, fn), driver.after(1.6, fn), driver.after(1.8, fn)
    )
    assert [type(one) for one in outcomes] == [CircuitOpenError, BulkheadFullError] * 2
    assert (since(script), breaker.state, breaker.rejected, places.rejected) == ([0.0, 1.0], OPEN, 2, 2)
    assert event_recorder.kinds == (
        "RetryScheduled",
        "CircuitOpened",
        "RetryScheduled",
        "CallRejected",
        "CallRejected",
        "CallRejected",
        "RetryGaveUp",
        "CallDelayed",
        "CallRejected",
    )
    rejections = [(event.policy, round(event.at - 1000.0, 6)) for event in event_recorder.of(CallRejected)]
    assert rejections == [
        ("bulkhead", 1.1),
        ("bulkhead", 1.8),
        ("circuit_breaker", 2.0),
        ("circuit_breaker", 2.0),
    ]
    (delayed,) = event_recorder.of(CallDelayed)
    assert (delayed.name, round(delayed.seconds, 6), round(delayed.at - 1000.0, 6)) == ("search", 0.4, 2.0)


def test_a_pipeline_says_what_it_guarantees(make: Make) -> None:
    """`explain()` of a stack with a bulkhead adds its wait once outside a retry, and for each attempt inside."""
    places = Bulkhead(2, queue=4, max_wait=0.5)
    outside = make.pipeline(places, make.retry(3), make.timeout(2.0)).explain()
    inside = make.pipeline(make.retry(3), places, make.timeout(2.0)).explain()

    assert (outside.duration, inside.duration) == (8.5, 9.5)
    assert "BulkheadFullError" in outside.errors
    assert repr(places) in outside.policies
