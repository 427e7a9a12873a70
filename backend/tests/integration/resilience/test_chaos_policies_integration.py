"""Chaos × the policies around it: injected faults are met as real ones would be, and can be counted."""

from collections import Counter
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Compose, Driver
from backend.tests.integration.resilience._make import Make
from holdfast.infrastructure.resilience.chaos import Chaos
from holdfast.infrastructure.resilience.errors import CircuitOpenError, TimeoutExceeded
from holdfast.infrastructure.resilience.events import ChaosInjected, RetryScheduled
from holdfast.infrastructure.resilience.fallback import Fallback
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window, WindowCounts
from holdfast.testing.faults import Script, succeed
from holdfast.testing.recorder import EventRecorder

pytestmark = pytest.mark.usefixtures("chaos_allowed")


def storm(**settings: Any) -> Chaos:
    """Return a chaos policy called `storm` that is on and, unless told otherwise, strikes every call."""
    usual: dict[str, Any] = {"rate": 1.0, "enabled": True, "name": "storm"}
    return Chaos(**{**usual, **settings})


def kinds(outcomes: list[Any]) -> list[Any]:
    """Return results as they are, and errors as their types."""
    return [type(one) if isinstance(one, Exception) else one for one in outcomes]


def test_off_it_is_not_there(
    driver: Driver, make: Make, compose: Compose, event_recorder: EventRecorder
) -> None:
    """A stack with a policy that was not enabled behaves as one without it."""
    script = Script(succeed("ok"))
    call = compose(make.retry(3), make.breaker(), storm(error=OSError, enabled=False), source=script)

    assert driver.outcomes(5, call) == ["ok"] * 5
    assert (script.calls, event_recorder.kinds) == (5, ())


def test_a_retry_tries_injected_errors_again(driver: Driver, make: Make, compose: Compose) -> None:
    """Each attempt is struck by itself: all three fail, the function is never called, the error has both notes."""
    script = Script(succeed("ok"))
    call = compose(make.retry(3), storm(error=ConnectionError), source=script)
    with pytest.raises(ConnectionError) as caught:
        driver.call(call)

    assert (script.calls, driver.clock.elapsed) == (0, 2.0)
    assert [note.split(" after")[0] for note in caught.value.__notes__] == [
        "holdfast: injected by the chaos policy storm",
        "holdfast: caller gave up",
    ]


def test_a_seeded_run_gives_exact_counts(
    driver: Driver, make: Make, compose: Compose, event_recorder: EventRecorder
) -> None:
    """One seed strikes the same calls in both modes and all forms: as many faults, retries and failures each time."""
    script = Script(succeed("ok"))
    call = compose(make.retry(3), storm(rate=0.4, seed=7, error=ConnectionError), source=script)
    outcomes = kinds(driver.outcomes(100, call))

    injected, retried = len(event_recorder.of(ChaosInjected)), len(event_recorder.of(RetryScheduled))
    failed = outcomes.count(ConnectionError)
    assert (injected, retried, failed) == (66, 61, 5)
    assert outcomes.count("ok") == script.calls == 100 - failed
    assert injected == retried + failed


def test_each_fault_strikes_by_itself(driver: Driver, event_recorder: EventRecorder) -> None:
    """Errors and latencies of one policy strike independently, each at its rate, in exact numbers for a seed."""
    script = Script(succeed("ok"))
    made = storm(rate=0.3, seed=3, error=ConnectionError, latency=0.5, result="odd")
    outcomes = Counter(kinds(driver.outcomes(200, driver.decorate(made, script))))
    faults = Counter(event.fault for event in event_recorder.of(ChaosInjected))

    assert faults == {"latency": 59, "error": 62, "result": 35}
    assert outcomes == {
        "ok": script.calls,
        "odd": faults["result"],
        ConnectionError: faults["error"],
    }
    assert driver.clock.elapsed == pytest.approx(faults["latency"] * 0.5)


def test_a_breaker_counts_injected_errors(driver: Driver, make: Make, compose: Compose) -> None:
    """A chaos inside a breaker opens it; while it is open, nothing is injected."""
    breaker, made, script = make.breaker(3), storm(error=ConnectionError), Script(succeed("ok"))
    outcomes = kinds(driver.outcomes(5, compose(breaker, made, source=script)))

    assert outcomes == [ConnectionError] * 3 + [CircuitOpenError] * 2
    assert (breaker.state, script.calls) == (CircuitState.OPEN, 0)


def test_injected_latency_is_cut_by_a_timeout(driver: Driver, make: Make, compose: Compose) -> None:
    """A latency beyond the bound is a TimeoutExceeded at the bound, and the function is not called."""
    script = Script(succeed("ok"))
    call = compose(make.timeout(2.0), storm(latency=30.0), source=script)
    with pytest.raises(TimeoutExceeded):
        driver.call(call)

    assert (script.calls, driver.clock.elapsed) == (0, 2.0)


def test_injected_latency_is_cut_in_a_thread_too(driver: Driver, make: Make) -> None:
    """A timeout that calls in a thread returns on time, and the thread ends with the deadline."""
    script = Script(succeed("ok"))
    call = driver.decorate(Pipeline(make.punctual(2.0), storm(latency=30.0)), script)

    assert kinds(driver.outcomes(1, call)) == [TimeoutExceeded]
    assert (script.calls, driver.clock.elapsed) == (0, 2.0)


def test_latency_that_fits_only_delays(driver: Driver, make: Make, compose: Compose) -> None:
    """A latency within the bound is added to the call's own time."""
    call = compose(make.timeout(2.0), storm(latency=0.5), source=Script(succeed("ok", after=1.0)))

    assert driver.call(call) == "ok"
    assert driver.clock.elapsed == 1.5


def test_latency_makes_slow_calls(driver: Driver, make: Make) -> None:
    """A breaker that minds slow calls counts injected latency."""
    breaker = make.breaker(window=Window.seconds(100.0), min_calls=50, slow_call_duration=1.0)
    driver.outcomes(3, driver.decorate(Pipeline(breaker, storm(latency=1.5)), Script(succeed())))

    assert breaker.counts == WindowCounts(3, 0, 3)


def test_injected_results_are_judged(driver: Driver, make: Make, compose: Compose) -> None:
    """A result that is injected can be refused by a retry, as the function's own could."""
    script = Script(succeed("ok"))
    refusing = make.retry(3, result="odd".__eq__)

    assert driver.call(compose(refusing, storm(result="odd"), source=script)) == "odd"
    assert (script.calls, driver.clock.elapsed) == (0, 2.0)


def test_a_fallback_answers_for_injected_errors(driver: Driver, make: Make, compose: Compose) -> None:
    """In the recommended order the caller sees the fallback's answer, after all attempts."""
    call = compose(
        *(Fallback("guest"), make.retry(3), make.breaker(9), make.timeout(2.0), storm(error=ConnectionError)),
        source=Script(succeed("ok")),
    )
    assert driver.call(call) == "guest"
    assert driver.clock.elapsed == 2.0


def test_the_kill_switch_in_the_middle_of_a_call(driver: Driver, make: Make) -> None:
    """Switched off between two attempts, chaos lets the next attempt through."""
    made, script = storm(error=ConnectionError), Script(succeed("ok"))
    call = driver.decorate(make.pipeline(make.retry(5), made), script)

    async def off() -> None:
        await driver.sleep(1.5)
        made.disable()

    assert driver.together(driver.after(0.0, call), off) == ["ok", None]
    assert (script.calls, driver.clock.elapsed) == (1, 2.0)


def test_the_kill_switch_frees_who_is_held_up(driver: Driver, make: Make) -> None:
    """Switched off, waiting calls go on within a second, in all threads and tasks, and nothing else strikes them."""
    made, script = storm(latency=600.0, error=ConnectionError), Script(succeed("ok"))
    call = driver.decorate(make.pipeline(make.retry(5), made), script)

    async def off() -> None:
        await driver.sleep(10.25)
        made.disable()

    found = driver.together(driver.after(0.0, call), driver.after(0.125, call), off)
    assert found == ["ok", "ok", None]
    assert (script.calls, driver.clock.elapsed) == (2, 11.125)


def test_the_environment_ends_it_for_all(
    driver: Driver, make: Make, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HOLDFAST_CHAOS=0, set while the process runs, stops every policy; unset, each goes on as it was."""
    retry, one, other = make.retry(1), storm(error=ConnectionError), storm(error=KeyError("x"))
    calls = [compose(retry, made, source=Script(succeed("ok"))) for made in (one, other)]

    def now() -> list[Any]:
        return [kinds(driver.outcomes(1, call))[0] for call in calls]

    assert now() == [ConnectionError, KeyError]
    monkeypatch.setenv("HOLDFAST_CHAOS", "0")
    assert now() == ["ok", "ok"]
    monkeypatch.delenv("HOLDFAST_CHAOS")
    assert now() == [ConnectionError, KeyError]


def test_the_reach_bounds_the_damage(driver: Driver, make: Make, event_recorder: EventRecorder) -> None:
    """Only calls that `when` names are struck; a family of breakers opens for their key alone."""
    breakers = make.breakers(2)
    made = storm(error=ConnectionError, when="canary".__eq__)
    call = driver.decorate(make.pipeline(breakers, made), Script(succeed("ok")))

    assert kinds(driver.outcomes(3, call, "canary")) == [ConnectionError] * 2 + [CircuitOpenError]
    assert driver.outcomes(3, call, "shop") == ["ok"] * 3
    assert len(event_recorder.of(ChaosInjected)) == 2


def test_events_tell_injected_faults_from_real_ones(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """Each fault is told before what the policies make of it, under the policy's own name."""
    call = driver.decorate(make.pipeline(make.retry(2), storm(error=ConnectionError)), Script(succeed()))
    driver.outcomes(1, call)

    assert event_recorder.kinds == ("ChaosInjected", "RetryScheduled", "ChaosInjected", "RetryGaveUp")
    assert {(event.name, event.fault) for event in event_recorder.of(ChaosInjected)} == {("storm", "error")}


def test_explain_warns_when_it_is_not_innermost(make: Make) -> None:
    """Chaos around another policy is warned about, by name; innermost, or around more chaos, it is not."""
    retry, bound, made = make.retry(3), make.timeout(2.0), storm(error=ConnectionError)

    def warnings(*policies: Policy) -> list[str]:
        return [one for one in Pipeline(*policies).explain().warnings if "chaos" in one]

    assert warnings(retry, bound, made) == []
    assert warnings(retry, bound, made, storm(latency=1.0)) == []
    assert warnings(made, retry, bound)[0].startswith("chaos around Retry")
    assert warnings(retry, made, bound)[0].startswith("chaos around Timeout")
    assert warnings(made, make.retry(3, deadline=9.0))[0].startswith("chaos around Retry")


def test_calls_at_the_same_time_share_the_sequence(driver: Driver) -> None:
    """Threads or tasks that call together are struck as often as the seed says, whoever comes first."""
    script = Script(succeed("ok", after=0.5))
    call = driver.decorate(storm(rate=0.5, seed=7, error=ConnectionError), script)
    found = driver.together(*[driver.after(0.0, call)] * 12)

    assert kinds(found).count(ConnectionError) == 6
    assert script.calls == 12 - 6


def test_what_breakers_count_can_be_told_from_the_seed(driver: Driver, make: Make) -> None:
    """The failures in a breaker's window are the faults that were injected, one for one."""
    breaker = make.breaker(window=Window.calls(1000), min_calls=1000)
    call = driver.decorate(
        Pipeline(breaker, storm(rate=0.25, seed=11, error=ConnectionError)), Script(succeed())
    )
    failed = kinds(driver.outcomes(200, call)).count(ConnectionError)

    assert breaker.counts == WindowCounts(200, failed, 0)
    assert failed == 62
