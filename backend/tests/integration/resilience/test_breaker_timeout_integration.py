"""Circuit breaker × timeout: whether a call that takes too long counts, and when."""

import pytest

from backend.tests.integration.resilience._driver import Compose, Driver
from backend.tests.integration.resilience._make import Make
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.errors import CircuitOpenError, TimeoutExceeded
from holdfast.infrastructure.resilience.events import CircuitOpened
from holdfast.infrastructure.resilience.pipeline import explain
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window, WindowCounts
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, hang, succeed
from holdfast.testing.recorder import EventRecorder

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
WIDE = Window.calls(100)


def minding_slow_calls(make: Make) -> CircuitBreaker:
    """Return a breaker that opens when four calls of the last ten seconds took a second or more."""
    return make.breaker(window=Window.seconds(10.0), min_calls=4, slow_call_duration=1.0, failure_rate=1.0)


def test_a_timed_out_call_is_a_failure(driver: Driver, make: Make, compose: Compose) -> None:
    """A breaker outside the timeout counts each call that is cut, and then spares callers the wait."""
    breaker, script = make.breaker(3), Script(hang())
    outcomes = driver.outcomes(4, compose(breaker, make.punctual(2.0), source=script))
    assert [type(outcome) for outcome in outcomes] == [TimeoutExceeded] * 3 + [CircuitOpenError]
    assert (script.calls, breaker.state, driver.clock.elapsed) == (3, OPEN, 6.0)


def test_the_trip_is_told_after_the_timeout(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """Subscribers see the timeout first, then what the breaker makes of it."""
    driver.outcomes(2, driver.decorate(make.pipeline(make.breaker(1), make.punctual(2.0)), Script(hang())))
    seen = [kind for kind in event_recorder.kinds if kind != "WorkerAbandoned"]
    assert seen == ["CallTimedOut", "CircuitOpened", "CallRejected"]
    assert [event.reason for event in event_recorder.of(CircuitOpened)] == ["1 failures in a row"]


def test_inside_the_timeout_a_breaker_learns_nothing(driver: Driver, make: Make) -> None:
    """To a breaker inside the timeout, a call that is cut is neutral, or has not ended: it does not count."""
    breaker, script = make.breaker(1), Script(hang())
    outcomes = driver.outcomes(3, driver.decorate(make.pipeline(make.punctual(2.0), breaker), script))
    assert [type(outcome) for outcome in outcomes] == [TimeoutExceeded] * 3
    assert (script.calls, breaker.state) == (3, CLOSED)
    assert breaker.counts == WindowCounts(0, 0, 0)


def test_explain_warns_of_the_order_that_learns_nothing(driver: Driver, make: Make) -> None:
    """A breaker inside the timeout of an attempt is warned about; outside it is not."""
    breaker, bound, script = make.breaker(), make.timeout(2.0), Script(succeed())
    inside = explain(driver.compose("decorators", bound, breaker, source=script)).warnings
    outside = explain(driver.compose("decorators", breaker, bound, source=script)).warnings
    assert (len(inside), len(outside)) == (1, 0)
    assert "timeout around a circuit breaker" in inside[0]


def test_a_late_result_counts_once(driver: Driver, make: Make) -> None:
    """A call that was counted when it was cut is not counted again when its thread comes to an end."""
    breaker = make.breaker(window=WIDE)
    call = driver.decorate(make.pipeline(breaker, make.punctual(2.0)), Script(succeed("late", after=5.0)))
    driver.outcomes(1, call)
    driver.close()
    driver.clock.advance(10.0)
    assert breaker.counts == WindowCounts(1, 1, 0)


def test_a_permanent_error_that_comes_late_is_neutral(driver: Driver, make: Make) -> None:
    """An answer is an answer, late or not: the breaker counts what fails in passing, and not what is refused."""
    breaker = make.breaker(window=WIDE)

    async def fails_late() -> None:
        driver.spend(2.0)
        raise ConnectionError

    async def refuses_late() -> None:
        driver.spend(2.0)
        raise ValueError

    for call in (fails_late, refuses_late):
        driver.outcomes(1, driver.decorate(make.pipeline(breaker, make.timeout(2.0)), call))
    assert breaker.counts == WindowCounts(1, 1, 0)


def test_timeouts_can_be_excluded(driver: Driver, make: Make) -> None:
    """A breaker that is told to ignore timeouts does, and counts other failures as before."""
    breaker = make.breaker(2, exclude=(TimeoutExceeded,))
    script = Script(hang(), fail(), hang(), fail(), succeed())
    outcomes = driver.outcomes(5, driver.decorate(make.pipeline(breaker, make.punctual(2.0)), script))
    kinds = [TimeoutExceeded, ConnectionError, TimeoutExceeded, ConnectionError, CircuitOpenError]
    assert [type(outcome) for outcome in outcomes] == kinds


def test_a_rejection_takes_no_time(
    driver: Driver, make: Make, compose: Compose, event_recorder: EventRecorder
) -> None:
    """An open breaker answers at once, whichever side of the timeout it stands, and no timeout is reported."""
    breaker, script = make.breaker(), Script(hang())
    calls = (
        compose(breaker, make.punctual(2.0), source=script),
        compose(make.punctual(2.0), breaker, source=script),
    )
    breaker.open()
    event_recorder.clear()
    for call in calls:
        with pytest.raises(CircuitOpenError):
            driver.call(call)
    assert (script.calls, driver.clock.elapsed) == (0, 0.0)
    assert event_recorder.kinds == ("CallRejected", "CallRejected")


def test_a_hanging_probe_is_cut_and_opens_again(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """A probe that hangs fails at its timeout; until then others are refused, then the open time doubles."""
    breaker, script = make.breaker(), Script(hang())
    call = driver.decorate(make.pipeline(breaker, make.punctual(2.0)), script)
    breaker.open()
    driver.clock.advance(5.0)
    probe, other = driver.together(driver.after(0.0, call), driver.after(1.0, call))
    assert isinstance(probe, TimeoutExceeded)
    assert other.args == ("dependency", None, HALF_OPEN)
    assert (script.calls, breaker.state) == (1, OPEN)
    assert [event.open_for for event in event_recorder.of(CircuitOpened)] == [10.0]


def test_a_cancelled_probe_gives_its_place_back(virtual_clock: VirtualClock, make: Make) -> None:
    """A probe that a timeout around the breaker cancels says nothing, and the next call is the probe."""
    breaker, script = make.breaker(), Script(hang(), succeed())
    call = make.pipeline(make.timeout(2.0), breaker)(script.coroutine_function())
    breaker.half_open()
    with pytest.raises(TimeoutExceeded):
        virtual_clock.run(call())
    assert breaker.state is HALF_OPEN
    assert virtual_clock.run(call()) == "ok"
    assert (script.calls, breaker.state) == (2, CLOSED)


def test_an_abandoned_probe_keeps_its_place_until_it_expires(driver: Driver, make: Make) -> None:
    """A probe that still runs, in a thread or a task, holds its place until `half_open_timeout`, and no longer."""
    breaker, script = make.breaker(half_open_timeout=30.0), Script(succeed("late", after=60.0), succeed())
    call = driver.decorate(breaker, script)
    breaker.half_open()
    outcomes = driver.together(*(driver.after(at, call) for at in (0.0, 29.0, 30.0)))
    assert isinstance(outcomes[1], CircuitOpenError)
    assert (outcomes[0], outcomes[2], breaker.state) == ("late", "ok", CLOSED)


def test_an_expired_probe_has_no_vote(driver: Driver, make: Make, event_recorder: EventRecorder) -> None:
    """The failure of a probe whose place was given back changes nothing."""
    breaker = make.breaker(half_open_timeout=30.0, half_open_calls=2)
    script = Script(fail(after=60.0), succeed(), succeed(after=40.0))
    call = driver.decorate(breaker, script)
    breaker.half_open()
    event_recorder.clear()
    start = driver.clock.monotonic()
    driver.together(*(driver.after(at, call) for at in (0.0, 30.0, 31.0)))
    assert (script.calls, breaker.state) == (3, CLOSED)
    assert event_recorder.kinds == ("ProbeExpired", "CircuitClosed")
    assert [event.at - start for event in event_recorder.events] == [30.0, 71.0]


def test_slow_calls_trip_while_they_run(driver: Driver, make: Make) -> None:
    """Calls that run longer than the limit count as slow now: the next is refused though none has ended."""
    breaker = minding_slow_calls(make)
    slow = driver.decorate(breaker, Script(succeed(after=5.0)))
    outcomes = driver.together(*[driver.after(0.0, slow)] * 4, driver.after(2.5, slow))
    assert outcomes[:4] == ["ok"] * 4
    assert isinstance(outcomes[4], CircuitOpenError)
    assert breaker.state is OPEN


def test_quick_failures_and_slow_successes_are_told_apart(driver: Driver, make: Make) -> None:
    """A slow success is a success that was slow; a timed-out call is a failure and slow; a quick failure only fails."""
    breaker = make.breaker(window=Window.seconds(100.0), min_calls=50, slow_call_duration=1.0, open_for=5.0)
    script = Script(succeed(after=1.5), hang(), fail(), succeed())
    driver.outcomes(4, driver.decorate(make.pipeline(breaker, make.punctual(2.0)), script))
    assert breaker.counts == WindowCounts(4, 2, 2)


def test_slow_successes_alone_open_it(driver: Driver, make: Make) -> None:
    """A dependency that answers well but too slowly is taken out of service before anything times out."""
    breaker, script = minding_slow_calls(make), Script(succeed(after=1.0))
    outcomes = driver.outcomes(5, driver.decorate(make.pipeline(breaker, make.punctual(2.0)), script))
    assert outcomes[:4] == ["ok"] * 4
    assert isinstance(outcomes[4], CircuitOpenError)


def test_the_recommended_stack_under_a_hanging_dependency(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """Total timeout, retry, breaker, attempt timeout: two attempts are cut, the third is refused, 6 s are spent."""
    breaker, script = make.breaker(2), Script(hang())
    total, each = make.punctual(60.0, name="total"), make.punctual(2.0, name="each")
    with pytest.raises(CircuitOpenError) as caught:
        driver.call(driver.decorate(make.pipeline(total, make.retry(9), breaker, each), script))
    assert (script.calls, driver.clock.elapsed, caught.value.retry_after) == (2, 6.0, 4.0)
    assert [kind for kind in event_recorder.kinds if kind != "WorkerAbandoned"] == [
        *("CallTimedOut", "RetryScheduled", "CallTimedOut", "CircuitOpened", "RetryScheduled"),
        *("CallRejected", "RetryGaveUp"),
    ]


def test_a_total_timeout_counts_only_attempts_that_ended(virtual_clock: VirtualClock, make: Make) -> None:
    """The attempt that the total time cancels is neutral; the one that its own timeout cut is a failure."""
    breaker, script = make.breaker(window=WIDE), Script(hang())
    total, each = make.timeout(4.0, name="total"), make.timeout(2.0, name="each")
    call = make.pipeline(total, make.retry(9), breaker, each)(script.coroutine_function())
    with pytest.raises(TimeoutExceeded) as caught:
        virtual_clock.run(call())
    assert (caught.value.name, script.calls) == ("total", 2)
    assert breaker.counts == WindowCounts(1, 1, 0)


def test_blocks_in_both_orders(driver: Driver, make: Make) -> None:
    """As blocks too, a late failure counts once for a breaker, be it outside the timeout or inside."""
    outside, inside = make.breaker(window=WIDE), make.breaker(window=WIDE)

    async def late_for_the_outer() -> None:
        async with driver.block(outside), driver.block(make.timeout(1.0)):
            driver.spend(2.0)
            raise ConnectionError

    async def late_for_the_inner() -> None:
        async with driver.block(make.timeout(1.0)), driver.block(inside):
            driver.spend(2.0)
            raise ConnectionError

    for call in (late_for_the_outer, late_for_the_inner):
        with pytest.raises(TimeoutExceeded):
            driver.run(call)
    assert (outside.counts, inside.counts) == (WindowCounts(1, 1, 0), WindowCounts(1, 1, 0))
