"""Windows against naive models, through every way of calling: permits, sync and async decorated functions."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.tests.properties._breaker_model import CLOSED, QUANTUM, Call, Model
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.errors import CircuitOpenError
from holdfast.infrastructure.resilience.permit import Permit
from holdfast.infrastructure.resilience.window import Window
from holdfast.testing import VirtualClock

relaxed = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])

ERRORS: dict[str, BaseException | None] = {
    "success": None,
    "failure": ConnectionError(),
    "permanent error": ValueError(),
    "cancellation": asyncio.CancelledError(),
}
FAILED = {"success": False, "failure": True, "permanent error": None, "cancellation": None}

outcomes = st.sampled_from(("success", "success", "success", *ERRORS))
ways = st.sampled_from(("permit", "async"))


class Pause:
    """What a call in flight waits for; whoever drives it sends how the call ends."""

    def __await__(self) -> Generator[None, BaseException | None, BaseException | None]:
        return (yield)


async def answer() -> None:
    """Wait to be told how to end."""
    error = await Pause()
    if error is not None:
        raise error


class InFlight:
    """A call that has begun, in one of the ways there are, and will be ended."""

    def __init__(
        self, breaker: CircuitBreaker, fetch: Callable[[], Coroutine[Any, Any, None]], way: str
    ) -> None:
        self._running: Permit | Coroutine[Any, Any, None]
        if way == "permit":
            self._running = breaker.admit()
        else:
            self._running = fetch()
            self._running.send(None)

    def end(self, how: str) -> None:
        error, running = ERRORS[how], self._running
        if isinstance(running, Permit):
            running.success() if error is None else running.failure(error)
        else:
            with pytest.raises((StopIteration, type(error) if error else StopIteration)):
                running.send(error)


@dataclass
class Bench:
    """A breaker that is called in every way, and the model beside it."""

    clock: VirtualClock
    breaker: CircuitBreaker
    model: Model = field(init=False)
    running: list[tuple[InFlight, Call]] = field(default_factory=list[tuple[InFlight, Call]])

    def __post_init__(self) -> None:
        self.model = Model(self.breaker.config, self.clock)
        self.fetch = self.breaker(answer)
        self.work = self.breaker(self.function())

    def function(self) -> Callable[[str, float], str]:
        def play(how: str, seconds: float) -> str:
            self.clock.advance(seconds)
            error = ERRORS[how]
            if error is not None:
                raise error.with_traceback(None)
            return how

        return play

    def admitted(self) -> Call | None:
        """Ask the model; what it refuses, the breaker refuses too."""
        call = self.model.admit()
        if call is None:
            with pytest.raises(CircuitOpenError):
                self.work("success", 0.0)
        return call

    def begin(self, way: str) -> None:
        call = self.admitted()
        if call is None:
            return
        self.running.append((InFlight(self.breaker, self.fetch, way), call))

    def end(self, which: int, how: str) -> None:
        if self.running:
            flight, call = self.running.pop(which % len(self.running))
            flight.end(how)
            self.model.settle(call, failed=FAILED[how])

    def at_once(self, how: str, seconds: float) -> None:
        call = self.admitted()
        if call is None:
            return
        error = ERRORS[how]
        with nullcontext() if error is None else pytest.raises(type(error)):
            assert self.work(how, seconds) == "success"
        self.model.settle(call, failed=FAILED[how])

    def step(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("begin", way):
                self.begin(way)
            case ("end", which, how):
                self.end(which, how)
            case ("call", how, quanta):
                self.at_once(how, quanta * QUANTUM)
            case ("wait", quanta):
                self.clock.advance(quanta * QUANTUM)
            case _:
                assert self.breaker.counts == self.model.counts()

    def finish(self) -> None:
        while self.running:
            self.end(0, "success")
        assert self.breaker.counts == self.model.counts()


# Mostly less than a window, sometimes an idle time of many windows.
quanta = st.integers(1, 10) | st.sampled_from((0, 4, 8, 16, 63, 64, 65, 1000, 345_600))
step = st.one_of(
    st.tuples(st.just("begin"), ways),
    st.tuples(st.just("end"), st.integers(0, 5), outcomes),
    st.tuples(st.just("call"), outcomes, st.sampled_from((0, 0, 0, 1, 3, 4, 5))),
    st.tuples(st.just("wait"), quanta),
    st.tuples(st.just("look")),
)
# Left alone, lists are short: too short to fill a window and to empty it again.
steps = st.integers(0, 40).flatmap(lambda least: st.lists(step, min_size=least, max_size=60))
slow_durations = st.sampled_from((None, 4 * QUANTUM))


def play(given: dict[str, Any], steps: list[tuple[Any, ...]], *, may_trip: bool = False) -> None:
    """Take the steps as far as the window lets them be taken; it must be the model's every time one looks."""
    clock = VirtualClock()
    with use_clock(clock):
        bench = Bench(clock, CircuitBreaker("dependency", open_jitter=0.0, **given))
        for step in steps:
            bench.step(step)
            assert bench.breaker.state is bench.model.state
            if bench.model.state is not CLOSED:
                assert may_trip
                break
        else:
            bench.finish()
        for flight, _ in bench.running:
            flight.end("success")


@relaxed
@given(
    st.sampled_from((1, 2, 4, 8)).map(lambda buckets: Window.seconds(16.0, buckets=buckets)),
    slow_durations,
    steps,
)
def test_a_time_window_is_the_calls_of_its_buckets(
    window: Window, slow: float | None, steps: list[tuple[Any, ...]]
) -> None:
    """Counts are those of the calls in the current bucket and the ones before it, whatever idle time lies between."""
    play({"window": window, "min_calls": 1_000_000, "slow_call_duration": slow}, steps)


@relaxed
@given((st.integers(1, 8) | st.integers(9, 70)).map(Window.calls), slow_durations, steps)
def test_a_window_of_calls_is_the_last_calls(
    window: Window, slow: float | None, steps: list[tuple[Any, ...]]
) -> None:
    """Counts are those of the last so many calls, in the order in which they ended or became slow."""
    given = {"window": window, "failure_rate": 1.0, "slow_call_rate": 1.0, "slow_call_duration": slow}
    play(given, steps, may_trip=True)


@relaxed
@given(slow_durations, steps)
def test_a_consecutive_window_is_the_failures_since_the_last_success(
    slow: float | None, steps: list[tuple[Any, ...]]
) -> None:
    """Counts are the failures, and the slow calls, since the last success that was not slow."""
    play({"window": Window.consecutive(100_000), "slow_call_duration": slow}, steps)


times = st.floats(0, 3) | st.floats(0, 40) | st.sampled_from((0.1, 0.2, 1.0, 10.0, 1e6))


@relaxed
@given(
    st.floats(0.1, 20),
    st.integers(1, 20),
    st.lists(st.tuples(times, st.booleans(), st.booleans()), max_size=60),
)
def test_a_time_window_forgets_to_the_width_of_a_bucket(
    seconds: float, buckets: int, calls: list[tuple[float, bool, bool]]
) -> None:
    """At any times: a call younger than the window less a bucket counts, one as old as the window does not."""
    clock = VirtualClock()
    with use_clock(clock):
        window = Window.seconds(seconds, buckets=buckets)
        breaker = CircuitBreaker("dependency", window=window, min_calls=1_000_000)
        bench, ended = Bench(clock, breaker), list[tuple[float, bool]]()
        rounding = 1e-6
        for wait, failed, by_permit in calls:
            clock.advance(wait)
            how = "failure" if failed else "success"
            if by_permit:
                bench.begin("permit")
                bench.end(0, how)
            else:
                bench.at_once(how, 0.0)
            ended.append((clock.monotonic(), failed))

            ages = [(clock.monotonic() - at, failed) for at, failed in ended]
            young = [failed for age, failed in ages if age < seconds - seconds / buckets - rounding]
            not_old = [failed for age, failed in ages if age < seconds + rounding]
            counts = breaker.counts
            assert len(young) <= counts.calls <= len(not_old)
            assert sum(young) <= counts.failures <= sum(not_old)


@relaxed
@given(
    st.floats(0.01, 5), st.lists(st.tuples(times, st.sampled_from(("permit", "async"))), max_size=40), times
)
def test_a_running_call_is_slow_within_a_quarter_of_the_limit(
    limit: float, calls: list[tuple[float, str]], later: float
) -> None:
    """At any times: a call that runs shorter than the limit is not slow yet, one that runs for 1.25 limits is."""
    clock = VirtualClock()
    with use_clock(clock):
        breaker = CircuitBreaker(
            "dependency",
            window=Window.seconds(86_400),
            min_calls=1_000_000,
            slow_call_duration=limit,
        )
        bench, started = Bench(clock, breaker), list[float]()
        for wait, way in [*calls, (later, "")]:
            clock.advance(wait)
            if way:
                bench.begin(way)
                started.append(clock.monotonic())
        rounding = 1e-6
        ages = [clock.monotonic() - at for at in started]
        if sum(wait for wait, _ in calls) + later < 86_400 - 8640:
            surely = sum(age >= 1.25 * limit + rounding for age in ages)
            at_most = sum(age >= limit - rounding for age in ages)
            assert surely <= breaker.counts.slow <= at_most
            assert breaker.counts.calls == breaker.counts.slow
        for flight, _ in bench.running:
            flight.end("success")


def in_block(breaker: CircuitBreaker, error: BaseException | None) -> None:
    with suppress(ConnectionError), breaker:
        if error is not None:
            raise error


@relaxed
@given(st.integers(1, 5), st.lists(st.sampled_from(("success", "failure")), max_size=30), slow_durations)
def test_every_way_of_calling_counts_alike(size: int, hows: list[str], slow: float | None) -> None:
    """The same outcomes leave the same counts through permits, sync and async functions and blocks."""

    def through(way: str) -> tuple[int, int, int]:
        clock = VirtualClock()
        with use_clock(clock):
            breaker = CircuitBreaker(
                "dependency", window=Window.seconds(size), min_calls=1_000_000, slow_call_duration=slow
            )
            bench = Bench(clock, breaker)
            for how in hows:
                if way == "sync":
                    bench.at_once(how, 0.0)
                elif way == "block":
                    in_block(breaker, ERRORS[how])
                else:
                    bench.begin(way)
                    bench.end(0, how)
                clock.advance(0.375)
            counts = breaker.counts
            return counts.calls, counts.failures, counts.slow

    assert through("sync") == through("async") == through("permit") == through("block")
