"""Cache × fallback × breaker: what an outage leaves in the cache, what is answered from it, and who is still called."""

from random import Random
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Compose, Driver, Function
from backend.tests.integration.resilience._make import Make
from holdfast.infrastructure.resilience.cache import Cache, CacheInfo
from holdfast.infrastructure.resilience.deadline import deadline_after
from holdfast.infrastructure.resilience.errors import CircuitOpenError, TimeoutExceeded
from holdfast.infrastructure.resilience.events import (
    CacheRefreshFailed,
    CacheServed,
    CallbackFailed,
    CallRejected,
    FallbackUsed,
)
from holdfast.infrastructure.resilience.fallback import Fallback, watch_degraded
from holdfast.infrastructure.resilience.hedge import Hedge
from holdfast.infrastructure.resilience.pipeline import explain
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, hang, succeed
from holdfast.testing.recorder import EventRecorder


def cached(ttl: float = 10.0, **settings: Any) -> Cache:
    """Return a cache called `cached`, without chance."""
    given: dict[str, Any] = {"jitter": 0.0, "name": "cached", **settings}
    return Cache(ttl, **given)


def asked(driver: Driver, call: Function, *gaps: float) -> list[Any]:
    """Call after each gap, in seconds; return results and errors."""

    async def calls() -> list[Any]:
        found: list[Any] = []
        for gap in gaps:
            await driver.sleep(gap)
            found.append(await driver.outcome(call, 7))
        return found

    outcomes: list[Any] = driver.run(calls)
    return outcomes


def test_the_old_answer_serves_through_a_whole_outage(driver: Driver, make: Make, compose: Compose) -> None:
    """Stale while the breaker trips and stays open, fresh again after its probe; only what it admits is called."""
    cache, breaker = cached(stale_if_error=100.0), make.breaker(2)
    script = Script(succeed("old"), fail(), fail(), succeed("new"))
    call = compose(cache, breaker, source=script)

    assert asked(driver, call, 0, 11, 1, 1, 1) == ["old"] * 5
    assert (script.calls, breaker.state, breaker.rejected) == (3, CircuitState.OPEN, 2)
    assert asked(driver, call, 5, 5, 4) == ["new"] * 3
    assert (script.calls, breaker.state) == (4, CircuitState.CLOSED)
    assert cache.info() == CacheInfo(hits=2, stale=4, misses=6, coalesced=0, entries=1, evictions=0)


def test_the_old_answer_has_its_time_too(driver: Driver, make: Make) -> None:
    """`stale_if_error` seconds past the time to live, what the breaker raises comes out."""
    cache, breaker = cached(stale_if_error=5.0), make.breaker(1, open_for=60.0, open_cap=60.0)
    script = Script(succeed("old"), fail())
    call = driver.compose("pipeline", cache, breaker, source=script)

    outcomes = asked(driver, call, 0, 9.5, 1, 4, 0.5)
    assert outcomes[:4] == ["old"] * 4
    assert isinstance(outcomes[4], CircuitOpenError)
    assert script.calls == 2


def test_errors_that_stay_come_out_whatever_is_in_the_cache(driver: Driver) -> None:
    """A permanent error is not answered with an old result: it says that the request is wrong."""
    script, cache = (
        Script(succeed("old"), fail(ValueError("bad")), succeed("new")),
        cached(stale_if_error=100.0),
    )
    call = driver.decorate(cache, script)

    first, second, third = asked(driver, call, 0, 11, 1)
    assert (first, type(second), third) == ("old", ValueError, "new")
    assert cache.info().stale == 0


def test_on_says_which_errors_the_old_answer_covers(driver: Driver) -> None:
    """`on` replaces the default: what it lists is covered, and nothing else."""
    script = Script(succeed("old"), fail(KeyError("k")), fail(ConnectionError))
    call = driver.decorate(cached(stale_if_error=100.0, on=(KeyError,)), script)

    first, second, third = asked(driver, call, 0, 11, 1)
    assert (first, second, type(third)) == ("old", "old", ConnectionError)


def test_a_predicate_that_raises_covers_nothing(driver: Driver, event_recorder: EventRecorder) -> None:
    """The service's error comes out, and the predicate's is reported."""

    def broken(error: Exception) -> bool:
        raise LookupError("broken")

    script = Script(succeed("old"), fail(ConnectionError("down")))
    call = driver.decorate(cached(stale_if_error=100.0, on=broken), script)

    outcomes = asked(driver, call, 0, 11)
    assert (outcomes[0], type(outcomes[1])) == ("old", ConnectionError)
    assert [(one.name, one.callback) for one in event_recorder.of(CallbackFailed)] == [
        ("cached", "predicate")
    ]


@pytest.mark.parametrize("stale", [0.0, 100.0])
def test_a_degraded_result_is_never_kept(driver: Driver, compose: Compose, stale: float) -> None:
    """What a fallback inside answers goes to the caller and nowhere else: the next call reaches the service again."""
    cache = cached(stale_if_error=stale, stale_while_revalidate=0.0)
    script = Script(fail(), fail(), succeed("good"))
    call = compose(cache, Fallback("guest"), source=script)

    assert asked(driver, call, 0, 0, 0, 0) == ["guest", "guest", "good", "good"]
    assert (script.calls, len(cache)) == (3, 1)


def test_a_degraded_result_does_not_replace_a_good_one(driver: Driver) -> None:
    """An old entry survives the degraded answers of an outage and still answers for errors later."""
    script = Script(succeed("old"), fail(ConnectionError), fail(ValueError), fail(ConnectionError))
    cache = cached(stale_if_error=100.0)
    call = driver.compose("decorators", cache, Fallback("guest", on=(ValueError,)), source=script)

    assert asked(driver, call, 0, 11, 1, 1) == ["old", "old", "guest", "old"]
    assert script.calls == 4


def test_all_who_waited_get_the_degraded_result(driver: Driver) -> None:
    """One computation, one fallback, one degraded answer for all; and each of them is told."""
    script, cache = Script(fail(after=1.0)), cached()
    call = driver.compose("decorators", cache, Fallback("guest"), source=script)

    async def watched() -> Any:
        with watch_degraded() as watch:
            return await driver.ask(call, 7), watch.degraded

    assert driver.together(*[watched] * 5) == [("guest", True)] * 5
    assert (script.calls, len(cache)) == (1, 0)


def test_no_cache_further_out_keeps_it_either(driver: Driver) -> None:
    """A degraded or stale answer of an inner cache is not fresh to an outer one."""
    outer, inner = cached(), cached(1.0, stale_if_error=100.0)
    script = Script(fail(), succeed("old"), fail(), succeed("new"))
    call = driver.compose("pipeline", outer, Fallback("guest", on=(OSError,)), inner, source=script)

    assert asked(driver, call, 0) == ["guest"]
    assert (len(outer), len(inner)) == (0, 0)
    assert asked(driver, call, 0) == ["old"]
    outer.clear()
    assert asked(driver, call, 2) == ["old"]
    assert (len(outer), len(inner)) == (0, 1)
    assert asked(driver, call, 2, 1) == ["new", "new"]
    assert script.calls == 4


def refuses_guests(**settings: Any) -> Retry:
    return Retry(3, wait=1.0, result=lambda result: result == "guest", **settings)


@pytest.mark.parametrize("settings", [{}, {"after": print}, {"before": str}], ids=["own", "after", "before"])
def test_a_degraded_attempt_does_not_taint_a_good_one(
    driver: Driver, compose: Compose, settings: dict[str, Any]
) -> None:
    """What a retry between cache and fallback refused is not the answer: the good one that it got then is kept."""
    script, cache = Script(fail(), succeed("good")), cached()
    call = compose(cache, refuses_guests(**settings), Fallback("guest"), source=script)

    assert asked(driver, call, 0, 0) == ["good", "good"]
    assert (script.calls, len(cache)) == (2, 1)


def test_an_attempt_that_failed_in_spite_of_a_fallback_does_not_either(driver: Driver) -> None:
    """What answered a part of an attempt that came to nothing is forgotten with the attempt."""
    script, cache = Script(fail(), succeed("good"), fail()), cached()
    part = driver.decorate(Fallback("guest"), script)

    async def whole(_: int) -> Any:
        answer = await driver.ask(part)
        if answer == "guest":
            raise ConnectionError
        return answer

    call = driver.compose("pipeline", cache, Retry(2, wait=0.0), source=whole)
    assert asked(driver, call, 0, 0) == ["good", "good"]
    assert (script.calls, len(cache)) == (2, 1)


def test_the_last_attempt_counts(driver: Driver, compose: Compose) -> None:
    """A degraded answer that the retry ends with is not kept, whether or not attempts before it were degraded."""
    script, cache = Script(fail(), fail(), fail(), succeed("good")), cached()
    call = compose(cache, refuses_guests(), Fallback("guest"), source=script)

    assert asked(driver, call, 0, 0) == ["guest", "good"]
    assert (script.calls, len(cache)) == (4, 1)


def test_a_retry_of_another_function_takes_nothing_back(driver: Driver) -> None:
    """A part of the answer that is degraded makes the whole so, though another part was retried after it."""
    cache, flaky = cached(), Script(fail(), succeed("part"))
    part = driver.decorate(Fallback("guest"), Script(fail()))
    other = driver.decorate(Retry(2, wait=0.0), flaky)

    async def whole(_: int) -> Any:
        return await driver.ask(part), await driver.ask(other)

    call = driver.compose("pipeline", cache, Retry(2, wait=0.0), source=whole)
    assert asked(driver, call, 0) == [("guest", "part")]
    assert len(cache) == 0


def test_attempts_at_the_same_time_take_nothing_back(driver: Driver) -> None:
    """With a hedge below the cache, one attempt's degraded answer is not forgotten because another is retried."""
    script, cache = (
        Script(fail(), fail(after=3.0), succeed("good", after=5.0), succeed("late", after=9.0)),
        cached(),
    )
    parts = (cache, Hedge(0.5), refuses_guests(), Fallback("guest"))
    call = driver.compose("pipeline", *parts, source=script)

    asked(driver, call, 0)
    assert len(cache) == 0


def test_a_fallback_around_the_cache_comes_last(driver: Driver, make: Make, compose: Compose) -> None:
    """Outside, a fallback answers only where the cache has nothing: fresh, then stale, then degraded."""
    cache, script = cached(stale_if_error=5.0), Script(succeed("old"), fail())
    call = compose(Fallback("guest"), cache, make.breaker(1, open_for=60.0, open_cap=60.0), source=script)

    assert asked(driver, call, 0, 5, 6, 5) == ["old", "old", "old", "guest"]
    assert script.calls == 2


def test_callers_at_the_same_time_are_one_to_the_breaker(driver: Driver, make: Make) -> None:
    """A breaker inside counts one failure for all who asked together, and each of them is served stale."""
    cache, breaker = cached(stale_if_error=100.0), make.breaker(2)
    script = Script(succeed("old"), fail(after=1.0))
    call = driver.compose("pipeline", cache, breaker, source=script)

    asked(driver, call, 0)
    assert driver.together(*[driver.after(11.0, call, 7)] * 20) == ["old"] * 20
    assert (script.calls, breaker.fail_counter, breaker.state) == (2, 1, CircuitState.CLOSED)
    assert cache.info() == CacheInfo(hits=0, stale=20, misses=2, coalesced=19, entries=1, evictions=0)


def test_callers_at_the_same_time_are_one_to_the_retry(driver: Driver, make: Make, compose: Compose) -> None:
    """A retry inside makes its attempts once for all who asked together."""
    script = Script(fail(), fail(), succeed("ok"))
    call = compose(cached(), make.retry(3), source=script)

    assert driver.together(*[driver.after(0.0, call, 7)] * 10) == ["ok"] * 10
    assert (script.calls, driver.clock.elapsed) == (3, 2.0)


def test_a_retry_around_the_cache_reaches_the_service(driver: Driver, make: Make, compose: Compose) -> None:
    """Errors are not kept: each attempt of an outer retry is a call, and its success is found by the next caller."""
    script, cache = Script(fail(), fail(), succeed("ok")), cached()
    call = compose(make.retry(3), cache, source=script)

    assert asked(driver, call, 0, 0) == ["ok", "ok"]
    assert (script.calls, cache.info().hits) == (3, 1)


def test_an_attempt_that_times_out_is_answered_from_the_cache(
    driver: Driver, make: Make, compose: Compose
) -> None:
    """A timeout inside the cache is an error that an old result covers."""
    script = Script(succeed("old"), fail(after=3.0))
    call = compose(cached(stale_if_error=100.0), make.timeout(2.0), source=script)

    assert asked(driver, call, 0, 11) == ["old", "old"]
    assert driver.clock.elapsed == (14.0 if driver.mode == "sync" else 13.0)


def test_a_timeout_around_the_cache_is_the_callers_own(virtual_clock: VirtualClock, make: Make) -> None:
    """A timeout outside ends an async call, stale entry or not: the caller has no time left to be answered in."""
    script, cache = Script(succeed("old"), hang()), cached(stale_if_error=100.0)
    call = make.pipeline(make.timeout(2.0), cache)(script.coroutine_function())

    virtual_clock.run(call(7))
    virtual_clock.advance(11.0)
    with pytest.raises(TimeoutExceeded):
        virtual_clock.run(call(7))
    under_way: Any = cache
    assert not under_way._state.flights  # noqa: SLF001  # what must not be left behind shows nowhere else


def test_a_waiter_whose_deadline_comes_is_served_stale(driver: Driver) -> None:
    """A waiter out of time gets the old result, if the time to serve it is not over."""
    script, cache = Script(succeed("old"), succeed("new", after=5.0)), cached(stale_if_error=100.0)
    call = driver.decorate(cache, script)

    async def hurried() -> Any:
        await driver.sleep(12.0)
        with deadline_after(2.0):
            return await driver.ask(call, 7), driver.clock.elapsed

    asked(driver, call, 0)
    assert driver.together(driver.after(11.0, call, 7), hurried) == ["new", ("old", 14.0)]
    assert script.calls == 2


def test_a_refresh_behind_makes_nobody_wait_async(virtual_clock: VirtualClock) -> None:
    """Async: past its time an old result answers at once, while one task refreshes it for those who come later."""
    script, cache = Script(succeed("old"), succeed("new", after=3.0)), cached(stale_while_revalidate=30.0)
    call = cache(script.coroutine_function())

    async def main() -> list[tuple[Any, float]]:
        seen: list[tuple[Any, float]] = []
        for gap in (0.0, 11.0, 1.0, 1.0, 2.0):
            await virtual_clock.asleep(gap)
            seen.append((await call(7), virtual_clock.elapsed))
        return seen

    assert virtual_clock.run(main()) == [("old", 0), ("old", 11), ("old", 12), ("old", 13), ("new", 15)]
    assert script.calls == 2
    assert cache.info() == CacheInfo(hits=1, stale=3, misses=2, coalesced=0, entries=1, evictions=0)


def test_a_refresh_in_threads_makes_one_wait(virtual_clock: VirtualClock) -> None:
    """Sync: the first caller past the time refreshes in his own thread, the others get the old result at once."""
    script, cache = Script(succeed("old"), succeed("new", after=3.0)), cached(stale_while_revalidate=30.0)
    call = cache(script.function())

    def after(gap: float) -> tuple[Any, float]:
        virtual_clock.sleep(gap)
        return call(7), virtual_clock.elapsed

    call(7)
    seen = virtual_clock.run_threads(*(lambda gap=gap: after(gap) for gap in (11.0, 12.0, 13.0, 15.0)))
    assert seen == [("new", 14), ("old", 12), ("old", 13), ("new", 15)]
    assert script.calls == 2


def test_a_refresh_that_fails_is_reported_and_hidden(driver: Driver, event_recorder: EventRecorder) -> None:
    """While an old result may be served at once, no error of a refresh reaches a caller, not even a permanent one."""
    error = ValueError("bad")
    script, cache = Script(succeed("old"), fail(error), succeed("new")), cached(stale_while_revalidate=30.0)
    call = driver.decorate(cache, script)

    assert asked(driver, call, 0, 11, 1)[:2] == ["old", "old"]
    assert asked(driver, call, 1) == ["new"]
    assert [(one.name, one.error) for one in event_recorder.of(CacheRefreshFailed)] == [("cached", error)]
    assert script.calls == 3


def test_a_degraded_refresh_is_hidden_too(driver: Driver) -> None:
    """While an old result may be served at once, it is preferred to a degraded one."""
    script, cache = Script(succeed("old"), fail()), cached(stale_while_revalidate=30.0)
    call = driver.compose("decorators", cache, Fallback("guest"), source=script)

    assert asked(driver, call, 0, 11, 31) == ["old", "old", "guest"]
    assert len(cache) == 1


def failing_refreshes(driver: Driver, cache: Cache, script: Script, seconds: int) -> list[float]:
    """Call every half second; return when the service was called, from the time at which the first result was old."""
    calls: list[float] = []

    async def service(_: int) -> Any:
        calls.append(driver.clock.elapsed - cache.config.ttl)
        return await driver.ask(driver.function(script))

    assert asked(driver, driver.decorate(cache, service), 0, cache.config.ttl, *[0.5] * 2 * seconds)
    return calls[1:]


def test_after_a_refresh_that_failed_there_is_a_pause(driver: Driver) -> None:
    """However many callers there are, the next refresh is 1 s later, then 2, 4, … and never more than 30 s."""
    cache = cached(60.0, stale_while_revalidate=900.0)
    calls = failing_refreshes(driver, cache, Script(succeed("old"), fail()), 100)
    assert calls == [0, 1, 3, 7, 15, 31, 61, 91]
    assert cache.info().stale == 201


def test_a_degraded_refresh_pauses_as_one_that_failed(driver: Driver) -> None:
    """A fallback that answers for a refresh has not refreshed anything."""
    script, cache = Script(succeed("old"), fail()), cached(60.0, stale_while_revalidate=900.0)
    call = driver.compose("decorators", cache, Fallback("guest"), source=script)
    assert asked(driver, call, 0, 60, *[0.5] * 8) == ["old"] * 10
    assert script.calls == 1 + 3


def test_the_pause_is_never_longer_than_a_result_lives(driver: Driver) -> None:
    """Who keeps results for a quarter of a second finds out as soon that the service is back."""
    calls = failing_refreshes(
        driver, cached(0.25, stale_while_revalidate=900.0), Script(succeed(), fail()), 2
    )
    assert calls == [0, 0.5, 1.0, 1.5, 2.0]


def test_a_refresh_that_succeeds_ends_the_pauses(driver: Driver) -> None:
    """The next outage begins with the shortest pause."""
    script = Script(succeed("old"), fail(), fail(), succeed("new"), fail())
    calls = failing_refreshes(driver, cached(60.0, stale_while_revalidate=900.0), script, 68)
    assert calls == [0, 1, 3, 63, 64, 66]


def test_where_no_old_result_may_be_served_the_pause_ends(driver: Driver) -> None:
    """Past `stale_while_revalidate` callers reach the service again, whatever failed before."""
    script, cache = (
        Script(succeed("old"), *[fail()] * 4, succeed("new")),
        cached(60.0, stale_while_revalidate=8.0),
    )
    call = driver.decorate(cache, script)
    assert asked(driver, call, 0, 60, 1, 2, 4, 1) == ["old"] * 5 + ["new"]


def test_pauses_have_the_jitter_of_the_cache(driver: Driver) -> None:
    """A fleet whose refreshes failed together does not come back together: pauses are up to `jitter` shorter."""
    cache = Cache(60.0, jitter=0.5, stale_while_revalidate=900.0, random=Random(3))
    draw = Random(3)
    first, second = 60 * (1 - 0.5 * draw.random()), 1 - 0.5 * draw.random()
    call = driver.decorate(cache, script := Script(succeed("old"), fail()))
    asked(driver, call, 0, first, second - 0.01)
    assert script.calls == 2
    asked(driver, call, 0.02)
    assert script.calls == 3


def test_the_events_of_an_outage(driver: Driver, make: Make, event_recorder: EventRecorder) -> None:
    """Fresh results say nothing; a stale one says its age, after the error that it stands for."""
    cache = cached(stale_if_error=100.0)
    script = Script(succeed("old"), fail())
    call = driver.compose("pipeline", cache, make.breaker(1, open_for=60.0, open_cap=60.0), source=script)

    asked(driver, call, 0, 5, 6, 1)
    assert event_recorder.kinds == (
        "CircuitOpened",
        "CacheRefreshFailed",
        "CacheServed",
        "CallRejected",
        "CacheRefreshFailed",
        "CacheServed",
    )
    served, failed = event_recorder.of(CacheServed), event_recorder.of(CacheRefreshFailed)
    assert [(one.name, one.age, one.stale) for one in served] == [
        ("cached", 11.0, True),
        ("cached", 12.0, True),
    ]
    assert [type(one.error) for one in failed] == [ConnectionError, CircuitOpenError]
    assert len(event_recorder.of(CallRejected)) == 1


def test_a_fallback_inside_says_that_it_answered(driver: Driver, event_recorder: EventRecorder) -> None:
    """A degraded answer is the fallback's event, not the cache's."""
    call = driver.compose("decorators", cached(), Fallback("guest", name="guests"), source=Script(fail()))

    assert asked(driver, call, 0) == ["guest"]
    assert event_recorder.kinds == ("FallbackUsed",)
    assert event_recorder.of(FallbackUsed)[0].name == "guests"


def test_a_cache_promises_no_more_than_what_it_wraps(make: Make) -> None:
    """In the worst case there is nothing in the cache: attempts, duration and errors are those of what it wraps."""
    inner = make.pipeline(make.retry(3), make.breaker(), make.timeout(2.0))
    around = make.pipeline(cached(), inner)

    bare, wrapped = inner.explain(), around.explain()
    assert wrapped.policies == (repr(cached()), *bare.policies)
    for figure in ("attempts", "duration", "hinted_duration", "amplification", "errors", "warnings"):
        assert getattr(wrapped, figure) == getattr(bare, figure)
    assert explain(cached()).attempts == 1
