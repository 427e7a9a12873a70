"""Seam: a circuit breaker × the outage and the recovery of what it protects, and what health checks read meanwhile."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, nan
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Driver, Function
from backend.tests.integration.resilience._make import Make
from holdfast.infrastructure.resilience.circuit_breaker import (
    CircuitBreaker,
    breaker_of,
    circuit_breaker,
    live_breakers,
)
from holdfast.infrastructure.resilience.classify import THROTTLED, Verdict
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.errors import CircuitOpenError
from holdfast.infrastructure.resilience.events import (
    CircuitClosed,
    CircuitOpened,
    CircuitOverridden,
    ProbeExpired,
)
from holdfast.infrastructure.resilience.permit import Permit
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.randomness import use_random
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window, WindowCounts
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, hang, succeed
from holdfast.testing.recorder import EventRecorder

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
ISOLATED, DISABLED, SHADOW = CircuitState.ISOLATED, CircuitState.DISABLED, CircuitState.SHADOW
LETTERS = {CLOSED: "c", OPEN: "o", HALF_OPEN: "h"}


class BusyError(Exception):
    """A server that says when to come back."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


@dataclass
class Dependency:
    """A dependency that is down from second `fails` to second `heals`, and answers after `latency` seconds."""

    fails: float = 0.0
    heals: float = inf
    latency: float = 0.0
    error: type[Exception] = ConnectionError
    calls: int = 0

    def under(self, driver: Driver, policy: Policy) -> Function:
        """Return the call under a policy."""

        async def call() -> str:
            self.calls += 1
            await driver.sleep(self.latency)
            if self.fails <= driver.clock.elapsed < self.heals:
                raise self.error
            return "ok"

        return driver.decorate(policy, call)


def letter(outcome: object) -> str:
    """Return S for a success, R for a rejection and F for a failure."""
    if outcome == "ok":
        return "S"
    return "R" if isinstance(outcome, CircuitOpenError) else "F"


def letters(outcomes: list[Any]) -> str:
    return "".join(map(letter, outcomes))


def throttled(error: Exception) -> Verdict:
    """Take every error for one of a server that wants to be left alone."""
    return THROTTLED


def is_none(result: object) -> bool:
    return result is None


def trip(breaker: CircuitBreaker) -> None:
    """Open a breaker by failures of calls that are over."""
    while breaker.state is not OPEN:
        breaker.admit().failure()


def probe(breaker: CircuitBreaker, clock: VirtualClock) -> None:
    """Let the time pass for which the breaker is open."""
    clock.advance(breaker.retry_after or 0.0)


def facts(breaker: CircuitBreaker) -> tuple[Any, ...]:
    """Return all that a health check can read."""
    return (
        breaker.state,
        breaker.current_state,
        breaker.counts,
        breaker.fail_counter,
        breaker.rejected,
        breaker.retry_after,
        breaker.export_state(),
    )


# The course of an outage


@pytest.mark.parametrize("window", [Window.seconds(10.0), Window.calls(10)], ids=str)
@pytest.mark.parametrize("slow", [None, 60.0])
@pytest.mark.parametrize("way", ["call", "block"])
def test_a_success_never_opens(driver: Driver, window: Window, slow: float | None, way: str) -> None:
    """Failures first, then a success that completes `min_calls`: it stays closed until the next failure."""
    breaker = CircuitBreaker("prices", window=window, failure_rate=0.5, min_calls=4, slow_call_duration=slow)
    script = Script(fail(), fail(), succeed(), succeed(), fail())
    if way == "call":
        call = driver.decorate(breaker, script)
        assert letters(driver.outcomes(4, call)) == "FFSS"
        assert breaker.state is CLOSED
        assert letters(driver.outcomes(1, call)) == "F"
    else:
        breaker.admit().failure()
        breaker.admit().failure()
        breaker.admit().success()
        breaker.admit().success()
        assert breaker.state is CLOSED
        breaker.admit().failure()
    assert (breaker.state, breaker.counts.failures) == (OPEN, 0)


def test_an_outage_from_beginning_to_end(driver: Driver, make: Make, event_recorder: EventRecorder) -> None:
    """Closed, open, a failed probe, open for longer, a good probe, closed: each call at its exact second."""
    breaker, service = make.breaker(3), Dependency(heals=15.0)
    outcomes = driver.outcomes(25, service.under(driver, breaker), every=1.0)
    assert letters(outcomes) == "FFF" + "RRRR" + "F" + "RRRRRRRRR" + "S" + "SSSSSSS"
    assert (service.calls, breaker.rejected, breaker.state) == (12, 13, CLOSED)
    changes = [(type(event).__name__, event.at - 1000.0) for event in event_recorder.events]
    assert changes == [
        ("CircuitOpened", 2.0),
        *(("CallRejected", at) for at in (3.0, 4.0, 5.0, 6.0)),
        ("CircuitHalfOpened", 7.0),
        ("CircuitOpened", 7.0),
        *(("CallRejected", at) for at in (8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0)),
        ("CircuitHalfOpened", 17.0),
        ("CircuitClosed", 17.0),
    ]


def test_the_state_is_exact_after_every_call(driver: Driver, make: Make) -> None:
    """A health check sees the state change with the call that changes it, neither before nor after."""
    breaker, service = make.breaker(3, half_open_calls=2), Dependency(heals=6.0)
    call = service.under(driver, breaker)

    async def watch() -> str:
        seen = ""
        for _ in range(10):
            seen += letter(await driver.outcome(call)) + LETTERS[breaker.state] + " "
            await driver.sleep(1.0)
        return seen

    assert driver.run(watch) == "Fc Fc Fo Ro Ro Ro Ro Sh Sc Sc "


def test_the_time_open_doubles_up_to_the_cap(driver: Driver, make: Make) -> None:
    """Each failed round of probes doubles the time open: 5, 10, 20, 40, then 60 for ever."""
    breaker, service = make.breaker(1, half_open_calls=1), Dependency()
    call = service.under(driver, breaker)

    async def outage() -> list[float]:
        waits: list[float] = []
        await driver.outcome(call)
        for _ in range(7):
            waits.append(breaker.retry_after or 0.0)
            await driver.sleep(waits[-1] - 0.001)
            assert isinstance(await driver.outcome(call), CircuitOpenError)
            await driver.sleep(0.001)
            assert isinstance(await driver.outcome(call), ConnectionError)
        return waits

    assert driver.run(outage) == pytest.approx([5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0])
    assert (service.calls, breaker.rejected) == (8, 7)


def test_a_thousand_failed_rounds_overflow_nothing(virtual_clock: VirtualClock, make: Make) -> None:
    """However long an outage lasts, the time open stays at its cap."""
    breaker = make.breaker(1)
    trip(breaker)
    for _ in range(1_100):
        probe(breaker, virtual_clock)
        breaker.admit().failure()
    assert breaker.retry_after == 60.0


@pytest.mark.parametrize(("rounds", "base"), [(0, 5.0), (1, 10.0), (3, 40.0), (4, 60.0), (9, 60.0)])
def test_the_jitter_stays_within_its_bounds(virtual_clock: VirtualClock, rounds: int, base: float) -> None:
    """Over many seeds the time open fills base ± 20 %, and nothing beyond; the cap comes before the jitter."""
    seen: list[float] = []
    for seed in range(300):
        breaker = CircuitBreaker("jittered", window=Window.consecutive(1), half_open_calls=1)
        with use_random(seed):
            trip(breaker)
            for _ in range(rounds):
                probe(breaker, virtual_clock)
                breaker.admit().failure()
        seen.append(breaker.retry_after or 0.0)
    assert 0.8 * base <= min(seen) < 0.82 * base
    assert 1.18 * base < max(seen) <= 1.2 * base
    assert 0.98 * base < sum(seen) / len(seen) < 1.02 * base


def test_a_seed_decides_the_jitter(virtual_clock: VirtualClock, event_recorder: EventRecorder) -> None:
    """The same seed gives the same times open, another seed others."""

    def times(seed: int) -> list[float]:
        event_recorder.clear()
        with use_random(seed):
            breaker = CircuitBreaker("seeded", window=Window.consecutive(1), half_open_calls=1)
            for _ in range(6):
                breaker.admit().failure()
                probe(breaker, virtual_clock)
        return [event.open_for for event in event_recorder.of(CircuitOpened)]

    assert times(7) == times(7) != times(8)


@pytest.mark.parametrize(
    ("healthy", "next_open"), [(0.0, 10.0), (59.9, 10.0), (60.0, 5.0), (3600.0, 5.0)], ids=str
)
def test_growth_is_forgotten_after_a_healthy_period(
    driver: Driver, make: Make, healthy: float, next_open: float
) -> None:
    """A breaker that stayed closed for `open_cap` seconds begins at `open_for` again, one that relapses does not."""
    breaker, service = make.breaker(1), Dependency(heals=15.0)
    call = service.under(driver, breaker)

    async def relapse() -> float | None:
        for wait in (0.0, 5.0, 10.0):
            await driver.sleep(wait)
            await driver.outcome(call)
        assert breaker.state is CLOSED
        await driver.sleep(healthy)
        service.heals = inf
        await driver.outcome(call)
        return breaker.retry_after

    assert driver.run(relapse) == next_open


def test_reset_forgets_growth_and_rejections(virtual_clock: VirtualClock, make: Make) -> None:
    """`reset` makes the breaker as new: closed, nothing counted, the first time open."""
    breaker = make.breaker(2)
    trip(breaker)
    probe(breaker, virtual_clock)
    breaker.admit().failure()
    with pytest.raises(CircuitOpenError):
        breaker.admit()
    breaker.reset()
    assert (breaker.state, breaker.rejected, breaker.fail_counter) == (CLOSED, 0, 0)
    trip(breaker)
    assert breaker.retry_after == 5.0


# Half-open


@pytest.mark.parametrize("allowed", [1, 3, 7])
def test_exactly_the_allowed_probes_are_admitted(driver: Driver, make: Make, allowed: int) -> None:
    """Of 20 callers that race for a half-open breaker, exactly `half_open_calls` get through."""
    breaker, service = make.breaker(1, half_open_calls=allowed), Dependency(heals=1.0, latency=0.5)
    call = service.under(driver, breaker)
    driver.outcomes(1, call)
    driver.run(driver.sleep, 5.0)

    async def racer() -> object:
        return await driver.ask(call)

    outcomes = driver.together(*[racer] * 20)
    assert sorted(letters(outcomes)) == sorted("S" * allowed + "R" * (20 - allowed))
    rejections = [one for one in outcomes if isinstance(one, CircuitOpenError)]
    assert {(one.state, one.retry_after) for one in rejections} == {(HALF_OPEN, None)}
    assert (breaker.state, breaker.rejected, service.calls) == (CLOSED, 20 - allowed, allowed + 1)


def test_real_threads_get_exactly_the_allowed_probes(virtual_clock: VirtualClock, make: Make) -> None:
    """The quota holds for threads that run at the same moment, round after round."""
    breaker = make.breaker(1, half_open_calls=3, open_for=1.0, open_cap=1.0)
    for _ in range(40):
        trip(breaker)
        probe(breaker, virtual_clock)
        permits = race(8, breaker.admit)
        admitted = [one for one in permits if not isinstance(one, Exception)]
        assert len(admitted) == 3
        for permit in admitted:
            permit.success()
        assert breaker.state is CLOSED


def race(threads: int, action: Callable[[], Any]) -> list[Any]:
    """Run an action in real threads that start it together; return results and errors."""
    start, found = threading.Barrier(threads), list[Any]()

    def body() -> None:
        start.wait()
        try:
            found.append(action())
        except Exception as error:
            found.append(error)

    bodies = [threading.Thread(target=body) for _ in range(threads)]
    for one in bodies:
        one.start()
    for one in bodies:
        one.join()
    return found


@pytest.mark.parametrize(
    ("calls", "rate", "outcomes", "verdict"),
    [
        (1, 0.5, "S", "c"),
        (1, 0.5, "F", "o"),
        (3, 0.5, "SS", "hc"),
        (3, 0.5, "FF", "ho"),
        (3, 0.5, "SFS", "hhc"),
        (3, 0.5, "FSF", "hho"),
        (4, 0.5, "FF", "ho"),
        (4, 0.5, "SSS", "hhc"),
        (4, 0.5, "SSFS", "hhhc"),
        (4, 0.5, "SSFF", "hhho"),
        (5, 0.2, "F", "o"),
        (5, 0.2, "SSSSS", "hhhhc"),
        (3, 1.0, "FFS", "hhc"),
        (3, 1.0, "FFF", "hho"),
        (3, 1.0, "S", "c"),
        (10, 0.3, "SFSFSSSSSS", "hhhhhhhhhc"),
        (10, 0.3, "SFSFSF", "hhhhho"),
    ],
)
def test_the_verdict_falls_as_soon_as_it_is_decided(
    virtual_clock: VirtualClock, calls: int, rate: float, outcomes: str, verdict: str
) -> None:
    """The breaker opens or closes with the first outcome after which the others cannot change it."""
    breaker = CircuitBreaker(
        "judged",
        window=Window.calls(10),
        min_calls=1,
        failure_rate=rate,
        half_open_calls=calls,
        open_jitter=0.0,
    )
    trip(breaker)
    probe(breaker, virtual_clock)
    permits = [breaker.admit() for _ in range(calls)]
    seen = ""
    for permit, outcome in zip(permits, outcomes, strict=False):
        (permit.success if outcome == "S" else permit.failure)()
        seen += LETTERS[breaker.state]
    assert seen == verdict
    before = facts(breaker)
    for permit in permits:
        permit.failure()
    assert facts(breaker) == before


@pytest.mark.parametrize(("outcomes", "verdict"), [("SSS", "hhc"), ("F", "o"), ("SF", "ho"), ("SSF", "hho")])
def test_after_failures_in_a_row_every_probe_must_succeed(
    virtual_clock: VirtualClock, make: Make, outcomes: str, verdict: str
) -> None:
    """A breaker with a consecutive window reopens at the first failed probe and closes at the last good one."""
    breaker = make.breaker(2, half_open_calls=3)
    trip(breaker)
    probe(breaker, virtual_clock)
    permits = [breaker.admit() for _ in range(3)]
    seen = ""
    for permit, outcome in zip(permits, outcomes, strict=False):
        (permit.success if outcome == "S" else permit.failure)()
        seen += LETTERS[breaker.state]
    assert seen == verdict


def test_a_probe_that_never_returns_gives_its_place_back(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """After `half_open_timeout` a hanging probe's place is free, to the second; a late success counts."""
    breaker = make.breaker(1, half_open_timeout=30.0)
    script = Script(fail(), succeed(after=40.0), fail(after=20.0), succeed())
    call = driver.decorate(breaker, script)
    driver.outcomes(1, call)

    async def hanging() -> object:
        await driver.sleep(5.0)
        return await driver.ask(call)

    async def others() -> list[Any]:
        found: list[Any] = []
        for wait in (5.0, 29.9, 0.1, 10.0):
            await driver.sleep(wait)
            found.append((await driver.outcome(call), breaker.state))
        return found

    first, found = driver.together(hanging, others)
    assert letter(first) == "S"
    assert [(letter(outcome), LETTERS[state]) for outcome, state in found] == [
        ("R", "h"),
        ("R", "h"),
        ("F", "c"),
        ("S", "c"),
    ]
    assert [event.at - 1000.0 for event in event_recorder.of(ProbeExpired)] == [35.0]
    assert breaker.rejected == 2


def test_a_probe_that_takes_longer_than_its_place_still_closes(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """A dependency slower than `half_open_timeout` is found to work: a late success counts in its own round."""
    breaker = make.breaker(1, half_open_calls=1, half_open_timeout=3.0)
    call = driver.decorate(breaker, Script(fail(), succeed(after=8.0)))
    driver.outcomes(1, call)
    driver.together(*(driver.after(at, call) for at in (5.0, 8.0, 11.0)))
    assert breaker.state is CLOSED
    assert [event.at - 1000.0 for event in event_recorder.of(CircuitClosed)] == [13.0]


def test_a_late_success_of_an_earlier_round_counts_for_nothing(
    make: Make, virtual_clock: VirtualClock
) -> None:
    """A probe belongs to its round: when that has ended, what the probe brings says nothing."""
    breaker = make.breaker(1, half_open_calls=1, half_open_timeout=3.0)
    trip(breaker)
    probe(breaker, virtual_clock)
    lost = breaker.admit()
    virtual_clock.advance(3.0)
    breaker.admit().failure()
    lost.success()
    assert breaker.state is OPEN


def test_probes_that_always_hang_never_lock_the_breaker(make: Make, virtual_clock: VirtualClock) -> None:
    """Round after round of probes without a result, the next ones are admitted; a good one closes."""
    breaker = make.breaker(1, half_open_calls=2, half_open_timeout=10.0)
    trip(breaker)
    probe(breaker, virtual_clock)
    lost: list[Permit] = []
    for _ in range(20):
        lost += [breaker.admit(), breaker.admit()]
        with pytest.raises(CircuitOpenError):
            breaker.admit()
        virtual_clock.advance(10.0)
    for permit in lost[:-2]:
        permit.failure()
    assert (breaker.state, breaker.rejected) == (HALF_OPEN, 20)
    breaker.admit().success()
    breaker.admit().success()
    assert breaker.state is CLOSED


@pytest.mark.parametrize("error", [ValueError("ours"), KeyError("excluded")], ids=["permanent", "excluded"])
def test_a_neutral_probe_gives_its_place_back(driver: Driver, make: Make, error: Exception) -> None:
    """An error that says nothing about the dependency decides nothing: the next caller may probe."""
    breaker = make.breaker(1, exclude=(KeyError,), on=(ConnectionError, KeyError))
    script = Script(fail(), fail(error), fail(error), succeed())
    outcomes = driver.outcomes(4, driver.decorate(breaker, script), every=5.0)
    assert [type(one) for one in outcomes] == [ConnectionError, type(error), type(error), str]
    assert (breaker.state, breaker.rejected) == (CLOSED, 0)


def test_neutral_probes_leave_the_state_half_open(make: Make, virtual_clock: VirtualClock) -> None:
    """However many permits end neutral, the breaker stays half-open with every place free."""
    breaker = make.breaker(1, half_open_calls=3)
    trip(breaker)
    probe(breaker, virtual_clock)
    for _ in range(10):
        for permit in [breaker.admit() for _ in range(3)]:
            assert permit.probe
            permit.neutral()
    assert breaker.state is HALF_OPEN
    assert [breaker.admit().probe for _ in range(3)] == [True] * 3


def test_slow_probes_reopen(driver: Driver) -> None:
    """A dependency that answers, but too slowly, has not recovered."""
    breaker = CircuitBreaker(
        "slow",
        window=Window.calls(4),
        min_calls=2,
        slow_call_duration=1.0,
        open_jitter=0.0,
        half_open_calls=2,
    )
    slow = succeed(after=2.0)
    call = driver.decorate(breaker, Script(slow, slow, slow, slow, succeed(), succeed()))
    outcomes = driver.outcomes(2, call) + driver.outcomes(1, call)
    assert letters(outcomes) == "SSR"
    driver.run(driver.sleep, 5.0)
    assert letters(driver.outcomes(3, call)) == "SSR"
    assert (breaker.state, breaker.retry_after) == (OPEN, 10.0)
    driver.run(driver.sleep, 10.0)
    assert letters(driver.outcomes(2, call)) == "SS"
    assert breaker.state is CLOSED


# Late results


@pytest.mark.parametrize("late", ["success", "failure", "neutral"])
@pytest.mark.parametrize("state", [OPEN, HALF_OPEN, CLOSED])
def test_a_result_from_before_has_no_vote(
    make: Make, virtual_clock: VirtualClock, late: str, state: CircuitState
) -> None:
    """What was admitted before the breaker opened counts neither while open, nor half-open, nor closed again."""
    breaker = make.breaker(1)
    old = [breaker.admit() for _ in range(5)]
    trip(breaker)
    if state is not OPEN:
        probe(breaker, virtual_clock)
        permit = breaker.admit()
        if state is CLOSED:
            permit.success()
    before = facts(breaker)
    for one in old:
        getattr(one, late)()
    assert facts(breaker) == before
    assert breaker.state is state


def test_a_late_success_does_not_close_an_open_breaker(driver: Driver, make: Make) -> None:
    """Calls that began before the outage and succeed during it leave the breaker open."""
    breaker = make.breaker(2)
    script = Script(succeed(after=3.0), fail(after=1.0), fail(after=1.0), succeed())
    call = driver.decorate(breaker, script)

    async def one() -> object:
        return await driver.ask(call)

    assert letters(driver.together(one, one, one)) == "SFF"
    assert (breaker.state, breaker.retry_after) == (OPEN, 3.0)


def test_a_permit_counts_once(make: Make) -> None:
    """Settling a permit again, either way, changes nothing."""
    breaker = make.breaker(3)
    permit = breaker.admit()
    for settle in (permit.failure, permit.failure, permit.success, permit.neutral, permit.failure):
        settle()
    assert (permit.settled, breaker.fail_counter, breaker.state) == (True, 1, CLOSED)


# Hints of the server


@pytest.mark.parametrize(("hint", "opened"), [(2.0, 5.0), (5.0, 5.0), (30.0, 30.0), (500.0, 60.0)])
def test_a_hint_lengthens_the_time_open(driver: Driver, make: Make, hint: float, opened: float) -> None:
    """A server that says when to come back is believed up to the cap; a shorter hint changes nothing."""
    breaker = make.breaker(1, on=throttled)
    driver.outcomes(1, driver.decorate(breaker, Script(fail(BusyError(hint)))))
    assert breaker.retry_after == opened


def test_a_hint_of_a_failed_probe_lengthens_the_time_open(driver: Driver, make: Make) -> None:
    """A probe that is told to come back later is believed as any other call is."""
    breaker = make.breaker(1, on=throttled)
    call = driver.decorate(breaker, Script(fail(BusyError(0.0)), fail(BusyError(45.0))))
    driver.outcomes(2, call, every=5.0)
    assert breaker.retry_after == 45.0


# Overrides


def test_isolation_is_counted(make: Make, event_recorder: EventRecorder) -> None:
    """A breaker isolated by two people is released by two; one `release` too many does nothing."""
    breaker = make.breaker(3)
    seen: list[Any] = []
    for step in (breaker.isolate, breaker.isolate, breaker.release, breaker.release, breaker.release):
        step()
        seen.append(breaker.state)
    assert seen == [ISOLATED, ISOLATED, ISOLATED, CLOSED, CLOSED]
    assert [event.state for event in event_recorder.of(CircuitOverridden)] == ["isolated", "closed"]


def test_an_isolated_breaker_refuses_for_ever(driver: Driver, make: Make) -> None:
    """Isolation has no end of its own, and the rejection says so."""
    breaker, service = make.breaker(3), Dependency(heals=0.0)
    call = service.under(driver, breaker)
    breaker.isolate()
    outcomes = driver.outcomes(5, call, every=3600.0)
    assert {(one.state, one.retry_after) for one in outcomes} == {(ISOLATED, None)}
    assert (service.calls, breaker.rejected, breaker.retry_after) == (0, 5, None)
    breaker.release()
    assert letters(driver.outcomes(1, call)) == "S"


@pytest.mark.parametrize("override", ["close", "reset", "disable", "shadow", "open", "half_open"])
def test_another_override_ends_isolation(make: Make, override: str) -> None:
    """Any other state set by hand takes the place of every isolation; a later `release` does nothing."""
    breaker = make.breaker(3)
    breaker.isolate()
    breaker.isolate()
    getattr(breaker, override)()
    state = breaker.state
    breaker.release()
    breaker.release()
    assert breaker.state is state is not ISOLATED


def test_isolation_ends_an_outage_too(make: Make, virtual_clock: VirtualClock) -> None:
    """`release` closes, whatever the state was before the isolation."""
    breaker = make.breaker(1)
    trip(breaker)
    breaker.isolate()
    virtual_clock.advance(100.0)
    with pytest.raises(CircuitOpenError):
        breaker.admit()
    breaker.release()
    assert breaker.state is CLOSED


@pytest.mark.parametrize("way_out", ["close", "reset"])
def test_a_disabled_breaker_lets_everything_pass(driver: Driver, make: Make, way_out: str) -> None:
    """Disabled, nothing is refused and nothing is counted, until `close` or `reset`."""
    breaker, service = make.breaker(2), Dependency()
    call = service.under(driver, breaker)
    breaker.disable()
    assert letters(driver.outcomes(10, call)) == "F" * 10
    assert (breaker.state, breaker.counts) == (DISABLED, WindowCounts(0, 0, 0))
    getattr(breaker, way_out)()
    assert letters(driver.outcomes(3, call)) == "FFR"


def test_a_shadow_reports_and_never_refuses(
    driver: Driver, make: Make, event_recorder: EventRecorder
) -> None:
    """In shadow every call passes; each time it would have opened is an event, and counting begins anew."""
    breaker, service = make.breaker(3), Dependency(heals=7.0)
    breaker.shadow()
    assert letters(driver.outcomes(9, service.under(driver, breaker), every=1.0)) == "FFFFFFFSS"
    assert (breaker.state, breaker.rejected) == (SHADOW, 0)
    opened = [(event.at - 1000.0, event.shadow, event.open_for) for event in event_recorder.of(CircuitOpened)]
    assert opened == [(2.0, True, 5.0), (5.0, True, 5.0)]


def test_overrides_are_told(make: Make, event_recorder: EventRecorder) -> None:
    """Each state set by hand is one event that names it."""
    breaker = make.breaker(3)
    for step in ("open", "half_open", "close", "disable", "shadow", "isolate", "reset"):
        getattr(breaker, step)()
    assert [event.state for event in event_recorder.of(CircuitOverridden)] == [
        *("open", "half-open", "closed", "disabled", "shadow", "isolated", "closed")
    ]
    assert event_recorder.kinds == ("CircuitOverridden",) * 7


def test_opened_by_hand_it_recovers_by_itself(driver: Driver, make: Make) -> None:
    """`open` lasts the usual time; then probes decide."""
    breaker, service = make.breaker(3), Dependency(heals=0.0)
    call = service.under(driver, breaker)
    breaker.open()
    assert letters(driver.outcomes(7, call, every=1.0)) == "RRRRRSS"
    assert breaker.state is CLOSED


@pytest.mark.parametrize("state", [CLOSED, OPEN, HALF_OPEN, SHADOW])
def test_no_state_is_final(driver: Driver, make: Make, state: CircuitState) -> None:
    """From each state that a breaker can be in, a healthy dependency is called again within the time open."""
    breaker, service = make.breaker(1), Dependency(heals=0.0)
    {CLOSED: breaker.close, OPEN: breaker.open, HALF_OPEN: breaker.half_open, SHADOW: breaker.shadow}[state]()
    call = service.under(driver, breaker)
    driver.outcomes(1, call)
    driver.run(driver.sleep, 5.0)
    assert letters(driver.outcomes(1, call)) == "S"


# Restarts


def restarted(
    state: dict[str, Any], *, after: float = 0.0, **settings: Any
) -> tuple[CircuitBreaker, VirtualClock]:
    """Import a state into a breaker of another process, `after` seconds of wall time later."""
    clock = VirtualClock(start=7.0, epoch=1_700_001_000.0 - 7.0 + after)
    breaker = Make().breaker(3, clock=clock, **settings)
    breaker.import_state(json.loads(json.dumps(state)))
    return breaker, clock


@pytest.mark.parametrize(("down", "left"), [(0.0, 5.0), (3.0, 2.0), (5.0, 0.0), (3600.0, 0.0)])
def test_time_while_down_counts_as_time_open(
    virtual_clock: VirtualClock, make: Make, down: float, left: float
) -> None:
    """An open breaker goes on being open after a restart for what is left of its time, by the wall clock."""
    breaker = make.breaker(3)
    trip(breaker)
    after, clock = restarted(breaker.export_state(), after=down)
    assert (after.state, after.retry_after) == (OPEN, left)
    clock.advance(left)
    after.admit().success()
    assert after.state is CLOSED


@pytest.mark.parametrize(("step", "left"), [(-3600.0, 5.0), (3600.0, 0.0)])
def test_a_wall_clock_that_was_set_harms_little(
    virtual_clock: VirtualClock, make: Make, step: float, left: float
) -> None:
    """A wall clock that went back adds nothing to the time open, one that went ahead ends it."""
    breaker = make.breaker(3)
    trip(breaker)
    exported = breaker.export_state()
    virtual_clock.step_wall_clock(step)
    breaker.import_state(exported)
    assert breaker.retry_after == left


def test_growth_survives_a_restart(virtual_clock: VirtualClock, make: Make) -> None:
    """The number of failed rounds is part of the state."""
    breaker = make.breaker(1)
    trip(breaker)
    for _ in range(2):
        probe(breaker, virtual_clock)
        breaker.admit().failure()
    after, clock = restarted(breaker.export_state(), after=virtual_clock.elapsed)
    probe(after, clock)
    after.admit().failure()
    assert after.retry_after == 40.0


def test_probes_do_not_survive_a_restart(virtual_clock: VirtualClock, make: Make) -> None:
    """A half-open breaker comes back as open and due: the probes that were out are of a process that is gone."""
    breaker = make.breaker(1)
    trip(breaker)
    probe(breaker, virtual_clock)
    lost = breaker.admit()
    after, _ = restarted(breaker.export_state())
    assert (after.state, after.retry_after) == (OPEN, 0.0)
    assert after.admit().probe
    lost.failure()
    assert after.state is HALF_OPEN


@pytest.mark.parametrize(
    "window", [Window.seconds(10), Window.calls(10), Window.consecutive(5)], ids=lambda window: window.kind
)
def test_counts_survive_a_restart(virtual_clock: VirtualClock, make: Make, window: Window) -> None:
    """A closed breaker goes on counting from where it was: the same failures trip it as without the restart."""
    settings: dict[str, Any] = {"window": window, "min_calls": 8, "failure_rate": 0.5}
    breaker = make.breaker(**settings)
    for outcome in "SSSFFFF":
        (breaker.admit().success if outcome == "S" else breaker.admit().failure)()
    after, _ = restarted(breaker.export_state(), **settings)
    assert (after.state, after.counts) == (CLOSED, breaker.counts)
    after.admit().failure()
    assert after.state is OPEN


def test_slow_calls_survive_a_restart(virtual_clock: VirtualClock, make: Make) -> None:
    """Slow calls are part of the counts, whether or not they failed."""
    settings: dict[str, Any] = {"window": Window.seconds(100), "min_calls": 9, "slow_call_duration": 1.0}
    breaker = make.breaker(**settings)
    for took, outcome in ((0.0, "S"), (2.0, "S"), (2.0, "F"), (0.0, "F"), (2.0, "S")):
        permit = breaker.admit()
        virtual_clock.advance(took)
        (permit.success if outcome == "S" else permit.failure)()
    assert breaker.counts == WindowCounts(5, 2, 3)
    after, _ = restarted(breaker.export_state(), **settings)
    assert after.counts == WindowCounts(5, 2, 3)


def test_isolation_survives_a_restart(make: Make, virtual_clock: VirtualClock) -> None:
    """What two people isolated needs two people to release in the next process too."""
    breaker = make.breaker(1)
    breaker.isolate()
    breaker.isolate()
    after, _ = restarted(breaker.export_state())
    after.release()
    assert after.state is ISOLATED
    after.release()
    assert after.state is CLOSED


@pytest.mark.parametrize("override", ["disable", "shadow"])
def test_other_overrides_survive_a_restart(make: Make, virtual_clock: VirtualClock, override: str) -> None:
    """What a person set stays set."""
    breaker = make.breaker(1)
    getattr(breaker, override)()
    after, _ = restarted(breaker.export_state())
    assert after.state is breaker.state


GOOD: dict[str, Any] = {
    "version": 1,
    "state": "closed",
    "rounds": 0,
    "holds": 0,
    "wait": 0.0,
    "calls": 4,
    "failures": 2,
    "slow": 0,
    "at": 1_700_001_000.0,
}
MALFORMED: list[Any] = [
    {},
    *({key: value for key, value in GOOD.items() if key != missing} for missing in GOOD),
    *({**GOOD, "version": version} for version in (0, 2, "1", None)),
    *({**GOOD, "state": state} for state in ("ajar", "", "OPEN", None, 3, ["open"])),
    *(
        {**GOOD, key: bad}
        for key in ("rounds", "wait", "calls", "at")
        for bad in (-1, nan, inf, "1", True, None)
    ),
    {**GOOD, "failures": 5},
    {**GOOD, "slow": 5},
    {**GOOD, "rounds": 0.5},
    {**GOOD, "state": "isolated"},
    {**GOOD, "holds": 1},
    None,
    [],
    "closed",
]


@pytest.mark.parametrize("state", MALFORMED, ids=lambda state: json.dumps(state)[-60:])
def test_a_malformed_state_is_refused_and_changes_nothing(make: Make, state: Any) -> None:
    """What no breaker exported is a ValueError, and the breaker is as it was."""
    clock = VirtualClock()
    breaker = make.breaker(3, clock=clock)
    breaker.admit().failure()
    with use_clock(clock):
        before = facts(breaker)
        with pytest.raises(ValueError, match=r"."):
            breaker.import_state(state)
        assert facts(breaker) == before


def test_counts_that_no_window_holds_are_refused(make: Make, virtual_clock: VirtualClock) -> None:
    """A number of calls that a window cannot hold is malformed too, and changes nothing."""
    breaker = make.breaker(window=Window.seconds(10))
    breaker.admit().failure()
    before = facts(breaker)
    with pytest.raises(ValueError, match="calls"):
        breaker.import_state({**GOOD, "calls": 5_000_000_000})
    assert facts(breaker) == before


def test_an_imported_wait_is_bounded(make: Make, virtual_clock: VirtualClock) -> None:
    """A state that wants to stay open for a year is held to what this breaker's own settings allow."""
    breaker = make.breaker(1)
    breaker.import_state({**GOOD, "state": "open", "wait": 3.15e7})
    assert 60.0 <= (breaker.retry_after or 0.0) <= 120.0


def test_an_import_is_told(make: Make, virtual_clock: VirtualClock, event_recorder: EventRecorder) -> None:
    """Subscribers learn of the state that was taken over."""
    make.breaker(1).import_state({**GOOD, "state": "open", "wait": 5.0})
    assert [event.state for event in event_recorder.of(CircuitOverridden)] == ["open"]


# Windows and health


@pytest.mark.parametrize(
    ("window", "min_calls", "outcomes"),
    [
        (Window.consecutive(3), 20, "FFSFFSFFF"),
        (Window.calls(4), 4, "FSSSFFx"[:-1]),
        (Window.calls(4), 20, "SSFF"),
        (Window.calls(10), 4, "FSSF"),
        (Window.seconds(10), 4, "SSFF"),
        (Window.seconds(10), 6, "FFFSSS"),
    ],
    ids=str,
)
def test_each_window_trips_at_its_call(
    driver: Driver, make: Make, window: Window, min_calls: int, outcomes: str
) -> None:
    """Half of enough calls, or enough failures in a row, open the breaker with the last call, and not before."""
    steps = [succeed() if one == "S" else fail() for one in outcomes]
    breaker = make.breaker(window=window, min_calls=min_calls)
    call = driver.decorate(breaker, Script(*steps))
    assert letters(driver.outcomes(len(outcomes) - 1, call)) == outcomes[:-1]
    assert breaker.state is CLOSED
    assert letters(driver.outcomes(1, call)) == outcomes[-1]
    assert breaker.state is (OPEN if outcomes[-1] == "F" else breaker.state)
    if outcomes[-1] == "F":
        assert letters(driver.outcomes(1, call)) == "R"


def test_a_time_window_forgets_bucket_by_bucket(driver: Driver, make: Make) -> None:
    """Ten failures, one a second: each is forgotten when its bucket is ten seconds old."""
    breaker, service = make.breaker(window=Window.seconds(10), min_calls=100), Dependency()
    driver.outcomes(10, service.under(driver, breaker), every=1.0)
    seen: list[Any] = []
    for _ in range(11):
        seen.append(breaker.fail_counter)
        driver.run(driver.sleep, 1.0)
    assert seen == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_a_time_window_forgets_everything_after_idle_time(driver: Driver, make: Make) -> None:
    """After an idle day nothing of the day before counts: a single failure does not open."""
    breaker = make.breaker(window=Window.seconds(10), min_calls=4)
    call = driver.decorate(breaker, Script(fail(), fail(), fail(), fail()))
    driver.outcomes(3, call)
    driver.run(driver.sleep, 86_400.0)
    assert breaker.counts == WindowCounts(0, 0, 0)
    driver.outcomes(1, call)
    assert (breaker.state, breaker.counts) == (CLOSED, WindowCounts(1, 1, 0))


def test_the_health_figures_are_exact(driver: Driver, make: Make) -> None:
    """Counts, rates and rejections are those of the calls that were made; permanent errors are none of them."""
    breaker = make.breaker(window=Window.calls(10), min_calls=10, failure_rate=0.9)
    steps = [succeed(), succeed(), succeed(), fail(), fail(ValueError), fail(ValueError)]
    driver.outcomes(6, driver.decorate(breaker, Script(*steps)))
    counts = breaker.counts
    assert (counts.calls, counts.failures, counts.slow) == (4, 1, 0)
    assert (counts.failure_rate, counts.slow_rate) == (0.25, 0.0)
    assert (breaker.fail_counter, breaker.rejected, breaker.retry_after) == (1, 0, None)


def test_a_count_window_slides(driver: Driver, make: Make) -> None:
    """The window holds the last four calls, whatever came before."""
    breaker = make.breaker(window=Window.calls(4), failure_rate=1.0)
    steps = [fail() if one == "F" else succeed() for one in "FFFSFSSSSF"]
    call = driver.decorate(breaker, Script(*steps))
    seen: list[Any] = []
    for _ in steps:
        driver.outcomes(1, call)
        seen.append((breaker.counts.calls, breaker.counts.failures))
    assert seen == [(1, 1), (2, 2), (3, 3), (4, 3), (4, 3), (4, 2), (4, 1), (4, 1), (4, 0), (4, 1)]


@pytest.mark.parametrize("state", [CLOSED, OPEN])
def test_reading_changes_nothing(make: Make, virtual_clock: VirtualClock, state: CircuitState) -> None:
    """A health check that reads all there is, at any time, leaves the breaker as it was."""
    breaker = make.breaker(2)
    breaker.admit().failure()
    if state is OPEN:
        trip(breaker)
        virtual_clock.advance(100.0)
    before = facts(breaker)
    assert facts(breaker) == before
    assert breaker.state is state
    assert breaker.retry_after == (0.0 if state is OPEN else None)


def test_a_result_can_be_a_failure(driver: Driver, make: Make) -> None:
    """Results that the predicate refuses open the breaker, are returned, and count for probes too."""
    breaker = make.breaker(2, result=is_none)
    call = driver.decorate(breaker, Script(*[succeed(None)] * 3, succeed()))
    assert driver.outcomes(2, call) == [None, None]
    assert driver.outcomes(2, call, every=5.0)[1] is None
    assert breaker.retry_after == 10.0
    driver.run(driver.sleep, 10.0)
    assert driver.outcomes(1, call) == ["ok"]
    assert breaker.state is CLOSED


def test_a_health_check_finds_the_breakers_of_functions(make: Make) -> None:
    """`breaker_of` and `live_breakers` give the breakers that functions are decorated with."""

    @circuit_breaker(window=Window.consecutive(1))
    def fetch() -> None:
        raise ConnectionError

    breaker = breaker_of(fetch)
    assert breaker in live_breakers()
    assert breaker.name == f"{fetch.__module__}.{fetch.__qualname__}"
    with pytest.raises(ConnectionError):
        fetch()
    assert breaker.state is OPEN


# Slow calls


@pytest.mark.parametrize(
    "window", [Window.seconds(60), Window.calls(10), Window.consecutive(4)], ids=lambda window: window.kind
)
def test_calls_in_flight_count_as_slow_while_they_run(driver: Driver, make: Make, window: Window) -> None:
    """Four calls that hang open the breaker after `slow_call_duration`, long before they end."""
    breaker = make.breaker(window=window, min_calls=4, slow_call_duration=2.0)
    script = Script(*[succeed(after=30.0)] * 4, succeed())
    call = driver.decorate(breaker, script)

    async def one() -> object:
        return await driver.ask(call)

    async def fifth() -> tuple[float, object]:
        await driver.sleep(2.0)
        outcome = await driver.outcome(call)
        return driver.clock.elapsed, outcome

    *hanging, (at, outcome) = driver.together(one, one, one, one, fifth)
    assert hanging == ["ok"] * 4
    assert (at, letter(outcome), script.calls) == (2.0, "R", 4)
    assert (breaker.state, breaker.retry_after) == (OPEN, 0.0)


def test_a_health_check_sees_slow_calls_in_flight(driver: Driver, make: Make) -> None:
    """`counts` tells the slow calls of this moment, and each is counted once, whether it runs or has ended."""
    breaker = make.breaker(window=Window.calls(100), min_calls=100, slow_call_duration=2.0)
    script = Script(succeed(after=5.0), fail(after=5.0), succeed(after=1.0), fail(after=1.0))
    call = driver.decorate(breaker, script)

    async def one() -> object:
        return await driver.ask(call)

    async def check() -> list[tuple[int, int, int]]:
        seen: list[Any] = []
        for wait in (1.9, 0.1, 2.9, 0.2):
            await driver.sleep(wait)
            seen.append((breaker.counts.calls, breaker.counts.failures, breaker.counts.slow))
        return seen

    *outcomes, seen = driver.together(one, one, one, one, check)
    assert letters(outcomes) == "SFSF"
    assert seen == [(2, 1, 0), (4, 1, 2), (4, 1, 2), (4, 2, 2)]


def test_a_slow_call_that_fails_is_one_failure_in_a_row(driver: Driver, make: Make) -> None:
    """Seen as slow while it ran, a call that then fails is still one call."""
    breaker = make.breaker(2, slow_call_duration=2.0)
    call = driver.decorate(breaker, Script(fail(after=3.0), hang()))

    async def one() -> object:
        return await driver.ask(call)

    async def check() -> list[int]:
        await driver.sleep(2.5)
        seen = [breaker.fail_counter]
        await driver.sleep(1.0)
        return [*seen, breaker.fail_counter]

    outcome, seen = driver.together(one, check)
    assert (letter(outcome), seen, breaker.state) == ("F", [1, 1], CLOSED)


def test_a_call_that_ends_in_time_is_not_slow(driver: Driver, make: Make) -> None:
    """The bound is reached at `slow_call_duration`, to the instant."""
    breaker = make.breaker(window=Window.calls(10), slow_call_duration=2.0, min_calls=10)
    driver.outcomes(2, driver.decorate(breaker, Script(succeed(after=1.99), succeed(after=2.0))))
    assert breaker.counts == WindowCounts(2, 0, 1)


def test_slow_calls_trip_at_their_own_rate(driver: Driver, make: Make) -> None:
    """Half of the calls slow is enough if `slow_call_rate` says so, though none failed."""
    breaker = make.breaker(window=Window.calls(4), min_calls=4, slow_call_duration=1.0, slow_call_rate=0.5)
    slow = succeed(after=1.0)
    call = driver.decorate(breaker, Script(succeed(), slow, succeed(), slow))
    assert letters(driver.outcomes(5, call)) == "SSSSR"


# Clocks and chance of the breaker's own


def test_a_breaker_can_have_its_own_clock(make: Make, virtual_clock: VirtualClock) -> None:
    """A breaker with a clock of its own recovers by that clock alone."""
    own = VirtualClock()
    breaker = make.breaker(1, clock=own)
    trip(breaker)
    virtual_clock.advance(1000.0)
    with pytest.raises(CircuitOpenError):
        breaker.admit()
    own.advance(5.0)
    assert breaker.admit().probe


def test_the_wall_clock_decides_nothing(driver: Driver, make: Make) -> None:
    """A wall clock set back by a day keeps no breaker open, and set ahead by one it closes none."""
    breaker, service = make.breaker(1), Dependency(heals=1.0)
    call = service.under(driver, breaker)
    driver.outcomes(1, call)
    driver.clock.step_wall_clock(86_400.0)
    assert letters(driver.outcomes(1, call)) == "R"
    driver.clock.step_wall_clock(-2 * 86_400.0)
    driver.run(driver.sleep, 5.0)
    assert letters(driver.outcomes(1, call)) == "S"
