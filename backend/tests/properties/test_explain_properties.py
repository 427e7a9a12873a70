"""What `explain()` says of a pipeline is true: no call ever exceeds it, whatever the dependency does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.bulkhead import Bulkhead
from holdfast.infrastructure.resilience.chaos import Chaos
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.concurrency_limit import ConcurrencyLimit
from holdfast.infrastructure.resilience.fallback import Fallback
from holdfast.infrastructure.resilience.hedge import Hedge, Quantile
from holdfast.infrastructure.resilience.pipeline import Explanation, Pipeline
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.throttle import Throttle
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.resilience.window import Window
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, Step, fail, hang, succeed

ROUNDING = 1e-6

relaxed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
seconds = st.sampled_from((0.0, 0.1, 0.5, 1.0, 3.0, 10.0))
some_seconds = st.sampled_from((0.1, 0.5, 1.0, 3.0, 10.0))


class BusyError(ConnectionError):
    """A server that says when to come back."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


waits = st.one_of(
    seconds.map(Backoff.fixed),
    st.tuples(some_seconds, some_seconds).map(lambda both: Backoff(base=min(both), cap=max(both))),
)
retries = st.builds(
    Retry,
    st.integers(1, 5),
    wait=waits,
    deadline=st.none() | some_seconds,
    hint_cap=seconds,
    budget=st.none() | st.builds(RetryBudget, st.just("budget")),
)
breakers = st.builds(
    CircuitBreaker,
    st.just("dependency"),
    window=st.sampled_from((Window.consecutive(3), Window.calls(4), Window.seconds(10.0))),
    min_calls=st.integers(1, 4),
)
hedges = st.builds(
    Hedge,
    some_seconds | st.builds(Quantile, st.just(0.9), initial=some_seconds, samples=st.just(10)),
    max_hedges=st.integers(1, 3),
    budget=st.none() | st.builds(RetryBudget, st.just("budget")),
)
makers: tuple[Callable[[], Policy], ...] = (
    lambda: Bulkhead(1),
    lambda: Bulkhead(2, queue=1, max_wait=1.0),
    Throttle,
    lambda: ConcurrencyLimit(initial=2),
)
limits = st.sampled_from(makers).map(lambda make: make())
chaos = st.builds(
    Chaos,
    rate=st.sampled_from((0.0, 0.3, 1.0)),
    latency=st.none() | some_seconds,
    error=st.just(ConnectionError),
    seed=st.integers(0, 9),
    enabled=st.booleans(),
)
fallbacks = st.sampled_from((None, ConnectionError)).map(lambda on: Fallback("stale", on=on))
policies: st.SearchStrategy[Policy] = st.one_of(
    retries, breakers, st.builds(Timeout, some_seconds), hedges, limits, chaos, fallbacks
)
pipelines = st.lists(policies, min_size=1, max_size=5).map(lambda parts: Pipeline(*parts, name="service"))


def refused(after: float) -> Step:
    """Return a step that fails for good."""
    return fail(ValueError, after=after)


def busy(hint: float) -> Step:
    """Return a step that asks to come back later."""
    return fail(BusyError(hint))


steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(succeed, after=seconds),
    st.builds(fail, after=seconds),
    seconds.map(refused),
    st.sampled_from((0.0, 0.5, 4.0, 200.0)).map(busy),
    st.just(hang()),
)


def play(pipeline: Pipeline, script: Script, calls: int) -> list[tuple[int, float, object]]:
    """Call a few times; return for each call how often the dependency was called, for how long, and what came out."""
    clock, found = VirtualClock(), list[tuple[int, float, object]]()
    fn = pipeline(script.coroutine_function())

    async def one() -> object:
        try:
            return await fn()
        except Exception as error:
            return error

    async def main() -> None:
        for _ in range(calls):
            before, began = script.calls, clock.elapsed
            outcome = await one()
            found.append((script.calls - before, clock.elapsed - began, outcome))

    with use_clock(clock):
        clock.run(main())
    return found


def raised(told: Explanation, outcome: object) -> bool:
    """Return whether an outcome is among what may come out."""
    mine = isinstance(outcome, (ConnectionError, ValueError)) or not isinstance(outcome, Exception)
    return mine or type(outcome).__name__ in told.errors


@relaxed
@given(pipelines, st.lists(steps, min_size=1, max_size=12), st.integers(1, 3))
def test_no_call_exceeds_what_is_explained(pipeline: Pipeline, script: list[Step], calls: int) -> None:
    """Attempts, seconds and errors of every call are within what `explain()` says, hints of servers included."""
    told = pipeline.explain()
    if told.duration == float("inf"):
        script = [step for step in script if step != hang()] or [succeed()]
    for attempts, took, outcome in play(pipeline, Script(*script), calls):
        assert attempts <= told.attempts
        assert took <= told.hinted_duration + ROUNDING
        assert raised(told, outcome), (outcome, told.errors)


@relaxed
@given(pipelines, st.lists(st.sampled_from([fail(), fail(after=0.5), hang()]), min_size=1, max_size=12))
def test_without_hints_the_shorter_bound_holds(pipeline: Pipeline, script: list[Step]) -> None:
    """Where no server asks for longer waits, no call takes longer than `duration`."""
    told = pipeline.explain()
    if told.duration == float("inf"):
        script = [fail()]
    for _, took, _ in play(pipeline, Script(*script), 2):
        assert took <= told.duration + ROUNDING


@relaxed
@given(pipelines)
def test_the_facts_are_the_same_in_every_form(pipeline: Pipeline) -> None:
    """Text, dict and chart are of one explanation: infinite figures are words or None, all policies are shown."""
    told = pipeline.explain()
    facts: dict[str, Any] = told.as_dict()
    assert facts["duration"] == (None if told.duration == float("inf") else told.duration)
    assert ("for as long as the function takes" in str(told)) is (facts["duration"] is None)
    assert all(policy in str(told) for policy in told.policies)
    assert told.mermaid().count(" --> ") == len(told.policies) + 1
