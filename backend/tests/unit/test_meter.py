"""Meter: what it counts, exactly, from threads and tasks, and what it does not change."""

import asyncio
import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from math import inf
from typing import Any

import pytest
from tenacity import retry_if_exception_type

from backend.tests.integration.resilience._driver import Driver, Mode, driver_of
from holdfast import metered, meters
from holdfast.infrastructure.resilience import _counts
from holdfast.infrastructure.resilience.bulkhead import Bulkhead
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.errors import (
    BulkheadFullError,
    CircuitOpenError,
    ConfigurationError,
    RateLimitedError,
    RetryBudgetExhausted,
    TimeoutExceeded,
)
from holdfast.infrastructure.resilience.fallback import Fallback
from holdfast.infrastructure.resilience.hedge import Hedge
from holdfast.infrastructure.resilience.meter import Meter, MeterSnapshot, measure_durations
from holdfast.infrastructure.resilience.pipeline import Pipeline, explain
from holdfast.infrastructure.resilience.rate_limit import RateLimit
from holdfast.infrastructure.resilience.registry import Registry
from holdfast.infrastructure.resilience.retry import Retry, retry
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.testing import Script, VirtualClock, fail, succeed

AT_ONCE: dict[str, Any] = {"attempts": 3, "wait": 0}


@pytest.fixture(params=["sync", "async"])
def driver(request: pytest.FixtureRequest, virtual_clock: VirtualClock) -> Iterator[Driver]:
    """Run the test in both modes."""
    mode: Mode = request.param
    made = driver_of(mode, virtual_clock)
    yield made
    made.close()


def named(what: str) -> str:
    """Return a name that nobody else uses: functions of other tests may still live, and with them their counts."""
    return f"{what} {next(_serial)}"


_serial = count()


@pytest.fixture
def meter() -> Meter:
    """Give a meter of a name that nobody else uses."""
    return Meter(named("meter"))


def outcomes(snapshot: MeterSnapshot) -> dict[str, int]:
    return {
        "calls": snapshot.calls,
        "successes": snapshot.successes,
        "failures": snapshot.failures,
        "rejected": snapshot.rejected,
        "cancelled": snapshot.cancelled,
    }


def test_each_outcome_is_counted_once(driver: Driver, meter: Meter) -> None:
    """Results, errors, refusals and what is no Exception are four outcomes, and calls are their sum."""
    script = Script(
        succeed(), fail(ValueError), fail(CircuitOpenError("x")), fail(KeyboardInterrupt), succeed()
    )
    call = meter(driver.function(script))
    for kind in (None, ValueError, CircuitOpenError, KeyboardInterrupt, None):
        if kind is None:
            assert driver.call(call) == "ok"
        else:
            with pytest.raises(kind):
                driver.call(call)
    assert outcomes(meter.snapshot()) == {
        "calls": 5,
        "successes": 2,
        "failures": 1,
        "rejected": 1,
        "cancelled": 1,
    }
    assert (meter.snapshot().running, meter.snapshot().errors) == (0, {"ValueError": 1})


@pytest.mark.parametrize(
    "error",
    [BulkheadFullError("x"), RateLimitedError("x", 1.0), RetryBudgetExhausted("x"), CircuitOpenError("x")],
)
def test_what_a_policy_here_refused_is_rejected(driver: Driver, meter: Meter, error: Exception) -> None:
    """A refusal is no failure and no success."""
    call = meter(driver.function(Script(fail(error))))
    with pytest.raises(type(error)):
        driver.call(call)
    assert outcomes(meter.snapshot()) == {
        "calls": 1,
        "successes": 0,
        "failures": 0,
        "rejected": 1,
        "cancelled": 0,
    }


def test_a_refusal_by_a_policy_below_is_rejected(driver: Driver, meter: Meter) -> None:
    """What the policies under a meter refuse counts as rejected, and what they let through does not."""
    call = meter(RateLimit(1, per=60)(driver.function(Script(succeed()))))
    driver.outcomes(3, call)
    assert (meter.snapshot().successes, meter.snapshot().rejected) == (1, 2)


def test_a_timeout_is_a_failure_and_a_timeout(driver: Driver, meter: Meter) -> None:
    """An exceeded timeout counts among the failures, and by itself."""
    call = meter(Timeout(1.0)(driver.function(Script(fail(after=2.0), fail(LookupError)))))
    driver.outcomes(2, call)
    snapshot = meter.snapshot()
    assert (snapshot.failures, snapshot.timeouts) == (2, 1)
    assert snapshot.errors == {"TimeoutExceeded": 1, "LookupError": 1}


def test_a_foreign_timeout_is_a_failure_only(driver: Driver, meter: Meter) -> None:
    """A TimeoutError that no policy raised is an error like others."""
    driver.outcomes(1, meter(driver.function(Script(fail(TimeoutError)))))
    assert (meter.snapshot().failures, meter.snapshot().timeouts) == (1, 0)


def test_retries_are_counted_by_ordinal_and_are_no_calls(driver: Driver, meter: Meter) -> None:
    """Three calls of 1, 2 and 3 attempts are 3 calls, 2 first retries, 1 second retry and 6 attempts."""
    script = Script(succeed(), fail(), succeed(), fail(), fail(), succeed())
    call = meter(Retry(**AT_ONCE)(driver.function(script)))
    assert driver.outcomes(3, call) == ["ok", "ok", "ok"]
    snapshot = meter.snapshot()
    assert (snapshot.calls, snapshot.successes, snapshot.failures) == (3, 3, 0)
    assert (dict(snapshot.retries), snapshot.attempts) == ({1: 2, 2: 1}, 6)
    assert script.calls == snapshot.attempts


def ignore(_: object) -> None:
    """Do nothing before an attempt."""


def accept(_: object) -> bool:
    return False


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tenacity's retry": {"on": retry_if_exception_type(ConnectionError)},
    "tenacity's before": {"before": ignore},
    "result": {"result": accept},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_every_driver_of_retries_counts_them(driver: Driver, meter: Meter, settings: dict[str, Any]) -> None:
    """However a retry is set up, its retries are counted."""
    call = meter(Retry(**AT_ONCE, **settings)(driver.function(Script(fail(), fail(), succeed()))))
    assert driver.call(call) == "ok"
    assert dict(meter.snapshot().retries) == {1: 1, 2: 1}


def test_late_retries_share_an_ordinal(meter: Meter) -> None:
    """Ordinals are bounded: the last stands for all later ones, so that none is lost."""
    call = meter(Retry(50, wait=0)(Script(fail()).function()))
    with pytest.raises(ConnectionError):
        call()
    retries = meter.snapshot().retries
    assert sum(retries.values()) == 49
    assert (max(retries), retries[20], retries[19]) == (20, 30, 1)


def test_a_retry_whose_wait_is_interrupted_is_not_counted(meter: Meter) -> None:
    """A retry counts when it begins."""

    class Interrupting(VirtualClock):
        def sleep(self, seconds: float) -> None:
            raise KeyboardInterrupt

    call = meter(Retry(3, wait=1.0, clock=Interrupting())(Script(fail()).function()))
    with pytest.raises(KeyboardInterrupt):
        call()
    assert (dict(meter.snapshot().retries), meter.snapshot().cancelled) == ({}, 1)


def test_a_retry_counts_for_the_nearest_meter_around_it(driver: Driver) -> None:
    """A meter above a retry sees calls, one below it sees attempts; each counts what is its own."""
    outer, inner = Meter(named("nearest: outer")), Meter(named("nearest: inner"))
    fn = driver.function(Script(fail(), fail(), succeed()))
    call = outer(Retry(**AT_ONCE)(inner(fn)))
    assert driver.call(call) == "ok"
    assert (outer.snapshot().calls, dict(outer.snapshot().retries)) == (1, {1: 1, 2: 1})
    assert (inner.snapshot().calls, dict(inner.snapshot().retries)) == (3, {})
    assert (inner.snapshot().failures, inner.snapshot().successes) == (2, 1)


def test_a_meter_between_two_retries_counts_the_lower_one(driver: Driver) -> None:
    """Retries inside retries count for different meters, if there is one between them."""
    outer, inner = Meter(named("between: outer")), Meter(named("between: inner"))
    call = outer(Retry(2, wait=0)(inner(Retry(2, wait=0)(driver.function(Script(fail()))))))
    driver.outcomes(1, call)
    assert (outer.snapshot().calls, dict(outer.snapshot().retries)) == (1, {1: 1})
    assert (inner.snapshot().calls, dict(inner.snapshot().retries)) == (2, {1: 2})


def test_a_function_without_a_meter_counts_nowhere(meter: Meter) -> None:
    """A retry inside a metered function that belongs to another function is that function's own."""
    inner = retry(attempts=3, wait=0)(Script(fail(), succeed()).function())
    assert meter(lambda: inner())() == "ok"  # noqa: PLW0108  # a stack of its own, not the same one
    assert (meter.snapshot().calls, dict(meter.snapshot().retries)) == (1, {})


def test_nested_calls_count_for_each_of_their_meters(driver: Driver) -> None:
    """A metered function that calls another one is one call of each."""
    outer, inner = Meter(named("nested: outer")), Meter(named("nested: inner"))
    below = inner(driver.function(Script(succeed(), fail())))

    async def scenario() -> Any:
        return await driver.ask(below)

    call = outer(driver.function(scenario))
    driver.outcomes(2, call)
    for meter in (outer, inner):
        assert (meter.snapshot().successes, meter.snapshot().failures) == (1, 1)


def test_a_fallback_answers_degraded(driver: Driver, meter: Meter) -> None:
    """A call that a fallback answered is a success, and degraded."""
    call = meter(Fallback("instead")(driver.function(Script(fail(), succeed()))))
    assert driver.outcomes(3, call) == ["instead", "ok", "ok"]
    assert (meter.snapshot().successes, meter.snapshot().degraded) == (3, 1)


def test_there_are_never_more_degraded_calls_than_successes(driver: Driver, meter: Meter) -> None:
    """Fallbacks whose answers are refused further out make no degraded calls of what fails."""
    call = meter(Retry(3, wait=0, result=lambda _: True)(Fallback("bad")(driver.function(Script(fail())))))
    driver.outcomes(1, call)
    assert meter.snapshot().degraded <= meter.snapshot().successes == 1


def test_running_calls_are_seen_while_they_run(driver: Driver, meter: Meter) -> None:
    """A call that has not ended is running, and in no outcome."""
    seen: list[MeterSnapshot] = []

    async def look() -> None:
        seen.append(meter.snapshot())

    driver.call(meter(driver.function(look)))
    assert (seen[0].running, seen[0].calls) == (1, 0)
    assert (meter.snapshot().running, meter.snapshot().calls) == (0, 1)


def test_a_cancelled_task_is_cancelled(meter: Meter) -> None:
    """Cancelling a task while its call waits counts as cancelled, whatever else there is."""

    @meter
    async def endless() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        task = asyncio.create_task(endless())
        await asyncio.sleep(0)
        assert meter.snapshot().running == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert (meter.snapshot().cancelled, meter.snapshot().running) == (1, 0)


def test_an_abandoned_coroutine_is_cancelled(meter: Meter) -> None:
    """A coroutine that is closed before it ends does not run for ever."""

    async def endless() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        coroutine = meter(endless)()
        coroutine.send(None)
        coroutine.close()

    asyncio.run(main())
    assert (meter.snapshot().cancelled, meter.snapshot().running) == (1, 0)


def test_eight_threads_lose_no_count(meter: Meter) -> None:
    """Calls, outcomes, retries and durations from eight threads at once add up exactly."""
    share, calls = 8, 1000
    end = measure_durations(1.0)

    @meter
    @retry(attempts=2, wait=0)
    def fn(number: int) -> int:
        if number % 4 == 1:
            raise ConnectionError
        if number % 4 == 2:
            raise ValueError
        return number

    def work() -> None:
        for number in range(calls):
            try:
                fn(number)
            except (ConnectionError, ValueError):
                pass

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(share)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    snapshot, quarter = meter.snapshot(), share * calls // 4
    end()
    assert outcomes(snapshot) == {
        "calls": 4 * quarter,
        "successes": 2 * quarter,
        "failures": 2 * quarter,
        "rejected": 0,
        "cancelled": 0,
    }
    assert snapshot.errors == {"ConnectionError": quarter, "ValueError": quarter}
    assert (dict(snapshot.retries), snapshot.running) == ({1: quarter}, 0)
    assert snapshot.durations[inf] == 4 * quarter


def test_the_locked_form_counts_the_same(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """Where one line can be torn apart, every count takes the lock."""
    monkeypatch.setattr(_counts, "PLAIN", False)
    meter = Meter(named("locked form"))
    assert "_meter_begin(" in meter.source()
    end = measure_durations()
    call = meter(Retry(**AT_ONCE)(driver.function(Script(fail(), succeed(), fail(ValueError)))))
    driver.outcomes(2, call)
    snapshot = meter.snapshot()
    end()
    assert (snapshot.successes, snapshot.failures, snapshot.running) == (1, 1, 0)
    assert (dict(snapshot.retries), snapshot.durations[inf]) == ({1: 1}, 2)


def test_names_of_errors_are_bounded(meter: Meter) -> None:
    """After 50 classes of errors the rest is `other`; no failure is lost, and nothing of the error's text is kept."""
    kinds = [type(f"Error{at}", (Exception,), {}) for at in range(60)]
    for kind in [*kinds, kinds[0]]:
        with pytest.raises(kind):
            meter(Script(fail(kind("secret"))).function())()
    errors = meter.snapshot().errors
    assert (len(errors), errors["other"], errors["Error0"]) == (51, 10, 2)
    assert sum(errors.values()) == meter.snapshot().failures == 61


def test_reset_forgets_all_but_the_calls_that_run(driver: Driver, meter: Meter) -> None:
    """After a reset a running call still runs, and counts when it ends."""

    async def scenario() -> None:
        meter.reset()
        assert outcomes(meter.snapshot()) == dict.fromkeys(outcomes(meter.snapshot()), 0)
        assert meter.snapshot().running == 1

    meter(driver.function(Script(succeed())))
    end = measure_durations()
    failing = meter(Retry(**AT_ONCE)(driver.function(Script(fail()))))
    driver.outcomes(1, failing)
    driver.call(meter(driver.function(scenario)))
    snapshot = meter.snapshot()
    end()
    assert (snapshot.successes, snapshot.failures, snapshot.running) == (1, 0, 0)
    assert (dict(snapshot.retries), dict(snapshot.errors), snapshot.durations[inf]) == ({}, {}, 1)


def test_meters_of_one_name_count_together(driver: Driver, meter: Meter) -> None:
    """Whoever makes a meter of a name counts, and reads, the same."""
    first, second = metered(meter.name)(driver.function(Script(succeed()))), Meter(meter.name)
    driver.call(first)
    driver.call(second(driver.function(Script(succeed()))))
    assert meter.snapshot().calls == 2
    assert meters()[meter.name].snapshot().calls == 2


def test_meters_are_listed_while_they_live() -> None:
    """A meter that nothing uses any longer is forgotten, and keeps nothing alive."""
    call = metered("short-lived")(lambda: None)
    call()
    assert "short-lived" in meters()
    del call
    gc.collect()
    assert "short-lived" not in meters()
    assert Meter("short-lived").snapshot().calls == 0


def test_functions_decorated_by_name_are_metered(driver: Driver) -> None:
    """`resilient` meters by its name, first attempts and retries, whatever the name comes to mean."""
    names, name = Registry(), named("by name")
    names.define(name, Retry(**AT_ONCE))
    call = names.resilient(name)(driver.function(Script(fail(), succeed(), fail(), succeed())))
    assert driver.call(call) == "ok"
    before = meters()[name].snapshot()
    names.define(name, Fallback("instead"))
    assert driver.call(call) == "instead"
    after = meters()[name].snapshot()
    assert (before.calls, dict(before.retries), before.degraded) == (1, {1: 1}, 0)
    assert (after.calls, dict(after.retries), after.degraded) == (2, {1: 1}, 1)


def test_calls_through_a_name_keep_their_counts() -> None:
    """A name's counts outlive each policy object that stands for it, until the name is discarded."""
    names, name = Registry(), named("through a name")
    for _ in range(3):
        names.resilient(name).call(lambda: None)
        gc.collect()
    assert meters()[name].snapshot().calls == 3
    names.discard(name)
    gc.collect()
    assert name not in meters()


def test_a_meter_around_a_name_counts_beside_it(driver: Driver) -> None:
    """A meter of another name around a named pipeline counts the same calls; the retries are the name's."""
    names, name = Registry(), named("inside")
    names.define(name, Retry(**AT_ONCE))
    around = Meter(named("around"))
    driver.call(around(names.resilient(name)(driver.function(Script(fail(), succeed())))))
    assert (around.snapshot().calls, dict(around.snapshot().retries)) == (1, {})
    inside = meters()[name].snapshot()
    assert (inside.calls, dict(inside.retries)) == (1, {1: 1})


def test_all_ways_to_write_a_stack_count_alike(driver: Driver, meter: Meter) -> None:
    """Decorators, a pipeline and `call` are metered."""
    fn = driver.function(Script(succeed()))
    driver.call(meter(fn))
    driver.call(Pipeline(meter, Retry(**AT_ONCE))(fn))
    driver.call(meter.call, fn)
    assert meter.snapshot().calls == 3


def test_a_meter_changes_nothing(driver: Driver, meter: Meter) -> None:
    """Results, errors with their identity, signatures, names of events and explanations are as without it."""
    error = LookupError("x")
    call = meter(driver.function(Script(fail(error))))
    with pytest.raises(LookupError) as caught:
        driver.call(call)
    assert caught.value is error
    policies = (Timeout(1.0), Retry(2), CircuitBreaker("x"), Timeout(0.2))
    without, metered_ = (
        Pipeline(*policies).explain().as_dict(),
        Pipeline(meter, *policies).explain().as_dict(),
    )
    assert metered_.pop("policies") == (repr(meter), *without.pop("policies"))
    assert metered_ == without
    assert explain(call).attempts == 1


def test_durations_are_measured_while_somebody_asks(driver: Driver, meter: Meter) -> None:
    """Nobody asks: no durations. Somebody does: calls that began since then, without decorating again."""
    call = meter(driver.function(Script(succeed(after=0.2))))
    driver.call(call)
    assert (dict(meter.snapshot().durations), meter.snapshot().seconds) == ({}, 0.0)
    end = measure_durations(0.1, 0.5)
    driver.call(call)
    assert dict(meter.snapshot().durations) == {0.1: 0, 0.5: 1, inf: 1}
    assert meter.snapshot().seconds == pytest.approx(0.2)
    end()
    end()
    driver.call(call)
    assert (dict(meter.snapshot().durations), meter.snapshot().calls) == ({}, 3)


def test_a_duration_on_a_bound_is_within_it(driver: Driver, meter: Meter) -> None:
    """Bounds are upper bounds that belong to their bucket, as Prometheus has them."""
    end = measure_durations(0.25, 0.5)
    driver.call(meter(driver.function(Script(succeed(after=0.25)))))
    assert dict(meter.snapshot().durations) == {0.25: 1, 0.5: 1, inf: 1}
    end()


def test_successes_and_failures_are_measured_and_nothing_else(driver: Driver, meter: Meter) -> None:
    """What was refused or cancelled says nothing of how long the dependency takes."""
    end = measure_durations(1.0)
    script = Script(succeed(), fail(), fail(CircuitOpenError("x")), fail(KeyboardInterrupt))
    call = meter(driver.function(script))
    driver.outcomes(3, call)
    with pytest.raises(KeyboardInterrupt):
        driver.call(call)
    assert meter.snapshot().durations[inf] == meter.snapshot().successes + meter.snapshot().failures == 2
    end()


def test_a_call_that_began_before_is_not_measured(driver: Driver, meter: Meter) -> None:
    """A call whose beginning nobody noted has no duration; one whose end nobody asks for neither."""
    ends: list[Callable[[], None]] = []

    async def begin() -> None:
        ends.append(measure_durations(1.0))

    async def stop() -> None:
        ends.pop()()

    driver.call(meter(driver.function(begin)))
    assert meter.snapshot().durations[inf] == 0
    driver.call(meter(driver.function(stop)))
    assert dict(meter.snapshot().durations) == {}
    assert (meter.snapshot().calls, meter.snapshot().running) == (2, 0)


def test_everybody_gets_the_bounds_that_they_asked_for(driver: Driver, meter: Meter) -> None:
    """Several who ask get the bounds of all; what was counted before is kept, in the coarser bounds of its time."""
    call = meter(driver.function(Script(succeed(after=0.3))))
    first = measure_durations(1.0)
    driver.call(call)
    second = measure_durations(0.5, 1.0, 2.0)
    driver.call(call)
    assert dict(meter.snapshot().durations) == {0.5: 1, 1.0: 2, 2.0: 2, inf: 2}
    first()
    second()
    third = measure_durations(0.25)
    driver.call(call)
    assert dict(meter.snapshot().durations) == {0.25: 0, inf: 3}
    third()


def test_a_meter_reads_its_own_clock(driver: Driver) -> None:
    """A clock that is given is the one that durations are measured with."""
    clock = VirtualClock()
    meter = Meter(named("own clock"), clock=clock)
    end = measure_durations(5.0, 20.0)

    async def spend() -> None:
        clock.advance(10.0)

    driver.call(meter(driver.function(spend)))
    assert (dict(meter.snapshot().durations), meter.snapshot().seconds) == ({5.0: 0, 20.0: 1, inf: 1}, 10.0)
    end()


@pytest.mark.parametrize("bounds", [(0.0,), (-1.0,), (2.0, 1.0), (1.0, 1.0), (inf,), ("1",)])
def test_bad_bounds_are_refused(bounds: tuple[Any, ...]) -> None:
    """Bounds are positive, finite, ascending numbers; nothing is asked for otherwise."""
    with pytest.raises(ConfigurationError):
        measure_durations(*bounds)
    assert not _counts.asked.each


@pytest.mark.parametrize(
    "settings", [{"name": ""}, {"name": None}, {"name": 3}, {"name": "x", "clock": "now"}]
)
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    """A meter needs a name, and a clock if anything."""
    with pytest.raises(ConfigurationError):
        Meter(**settings)


def test_a_recorder_that_raises_changes_no_outcome(meter: Meter) -> None:
    """Who is told durations and fails is reported, and the call goes on."""

    def broken(name: str, took: float) -> None:
        raise RuntimeError("broken")

    end = measure_durations()
    _counts.asked.tell(broken)
    try:
        assert meter(lambda: "ok")() == "ok"
        with pytest.raises(LookupError):
            meter(Script(fail(LookupError)).function())()
    finally:
        _counts.asked.leave(broken)
        end()
    assert (meter.snapshot().successes, meter.snapshot().failures) == (1, 1)


def test_a_snapshot_stands_still(meter: Meter) -> None:
    """A snapshot is a copy that can be compared, copied and pickled, and cannot be changed."""
    call = meter(lambda: None)
    before = meter.snapshot()
    call()
    assert before.calls == 0
    assert pickle.loads(pickle.dumps(before)) == before
    with pytest.raises(AttributeError):
        before.calls = 1


def test_hedges_are_no_calls(virtual_clock: VirtualClock, meter: Meter) -> None:
    """However many hedges a call sends, it is one call."""

    async def slow() -> str:
        await virtual_clock.asleep(5.0)
        return "ok"

    call = meter(Hedge(1.0, max_hedges=2)(slow))
    driver_of("async", virtual_clock).call(call)
    assert (meter.snapshot().calls, meter.snapshot().attempts, meter.snapshot().running) == (1, 1, 0)


def test_a_bulkhead_below_is_seen_as_it_is(driver: Driver, meter: Meter) -> None:
    """Running calls of a meter are those that entered, waiting ones of policies below included."""
    call = meter(Bulkhead(1)(driver.function(Script(succeed(after=1.0)))))
    results = driver.together(*(driver.after(0.0, call) for _ in range(3)))
    assert max(map(str, results)) == "ok"
    assert (meter.snapshot().successes, meter.snapshot().rejected) == (1, 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_begins_at_zero() -> None:
    """Counts are a process's own: a child has made no calls, none of another thread runs in it, and it can count on."""
    program = """
import os, threading
from holdfast import Meter
meter = Meter("forked")
begun, gate = threading.Event(), threading.Event()

@meter
def call(wait):
    begun.set()
    wait and gate.wait()

call(False)
begun.clear()
thread = threading.Thread(target=call, args=(True,))
thread.start()
begun.wait()
pid = os.fork()
if not pid:
    before = meter.snapshot()
    call(False)
    os._exit(100 * before.running + 10 * before.calls + meter.snapshot().calls)
_, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status), meter.snapshot().calls, meter.snapshot().running)
gate.set()
thread.join()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.stdout.split(), done.stderr) == (["1", "1", "1"], "")


def test_timeouts_of_a_thread_count_too(meter: Meter) -> None:
    """A timeout that leaves its thread behind is a timeout of the call."""
    gate = threading.Event()

    @meter
    @Timeout(0.01, sync="thread")
    def call() -> None:
        gate.wait(10)

    with pytest.raises(TimeoutExceeded):
        call()
    gate.set()
    assert (meter.snapshot().timeouts, meter.snapshot().running) == (1, 0)
