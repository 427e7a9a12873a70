"""The circuit breaker against a naive model that keeps every call it admitted and works everything out anew."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from backend.tests.properties._breaker_model import (
    CLOSED,
    DISABLED,
    HALF_OPEN,
    OPEN,
    QUANTUM,
    SHADOW,
    Call,
    Model,
)
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.errors import CircuitOpenError
from holdfast.infrastructure.resilience.permit import Permit
from holdfast.infrastructure.resilience.window import Window
from holdfast.testing import VirtualClock

Settle = Callable[[Permit], None]

# Each way in which a call can end, and whether that is a failure (None: it says nothing).
OUTCOMES: dict[str, tuple[Settle, bool | None]] = {
    "success": (Permit.success, False),
    "failure": (Permit.failure, True),
    "transient error": (lambda permit: permit.failure(ConnectionError()), True),
    "permanent error": (lambda permit: permit.failure(ValueError()), None),
    "cancellation": (lambda permit: permit.failure(asyncio.CancelledError()), None),
    "interrupt": (lambda permit: permit.failure(KeyboardInterrupt()), None),
    "never made": (Permit.neutral, None),
}

OVERRIDES = {"close": CLOSED, "open": OPEN, "half_open": HALF_OPEN, "disable": DISABLED, "shadow": SHADOW}

windows = st.one_of(
    st.integers(1, 4).map(Window.consecutive),
    st.integers(1, 8).map(Window.calls),
    st.sampled_from((1, 2, 4)).map(lambda buckets: Window.seconds(4, buckets=buckets)),
)
rates = st.sampled_from((0.25, 0.5, 0.75, 1.0))
configurations = st.fixed_dictionaries(
    {
        "window": windows,
        "failure_rate": rates,
        "min_calls": st.integers(1, 5),
        "slow_call_duration": st.sampled_from((None, 4 * QUANTUM)),
        "slow_call_rate": rates,
        "open_for": st.just(2.0),
        "open_cap": st.sampled_from((2.0, 10.0, 16.0)),
        "open_jitter": st.just(0.0),
        "half_open_calls": st.integers(1, 4),
        "half_open_timeout": st.sampled_from((1.0, 4.0)),
    }
)


class BreakerBesideModel(RuleBasedStateMachine):
    """Do the same to a breaker and to the model, and compare all that can be seen of them."""

    permits: Bundle[tuple[Permit, Call]] = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.probes: list[tuple[Permit, Call]] = []
        self.left = ExitStack()
        self.left.enter_context(use_clock(self.clock))

    def teardown(self) -> None:
        """Put the real clock back."""
        self.left.close()

    @initialize(given=configurations)
    def make(self, given: dict[str, Any]) -> None:
        self.breaker = CircuitBreaker("dependency", **given)
        self.model = Model(self.breaker.config, self.clock)

    @rule(target=permits, calls=st.integers(1, 3))
    def admit(self, calls: int) -> Any:
        return multiple(*(pair for _ in range(calls) for pair in self.admit_one()))

    def admit_one(self) -> Iterator[tuple[Permit, Call]]:
        expected = self.model.admit()
        if expected is not None:
            permit = self.breaker.admit()
            assert permit.probe is (self.model.state is HALF_OPEN)
            if permit.probe:
                self.probes.append((permit, expected))
            yield permit, expected
            return
        with pytest.raises(CircuitOpenError) as caught:
            self.breaker.admit()
        refused = caught.value
        assert (refused.name, refused.state) == ("dependency", self.model.state)
        assert refused.retry_after == self.model.retry_after()

    @rule(pair=permits, how=st.sampled_from(sorted(OUTCOMES)))
    def settle(self, pair: tuple[Permit, Call], how: str) -> None:
        permit, call = pair
        settle, failed = OUTCOMES[how]
        settle(permit)
        self.model.settle(call, failed=failed)

    @rule(how=st.sampled_from(sorted(OUTCOMES)), calls=st.integers(1, 5))
    def call(self, how: str, calls: int) -> None:
        for _ in range(calls):
            for pair in self.admit_one():
                self.settle(pair, how)

    @rule(quanta=st.integers(1, 24) | st.sampled_from((8, 16, 40, 64)))
    def wait(self, quanta: int) -> None:
        self.clock.advance(quanta * QUANTUM)

    @rule()
    def idle(self) -> None:
        self.clock.advance(86_400.0)

    @rule()
    def wait_until_probes_are_due(self) -> None:
        self.clock.advance(self.breaker.retry_after or 0.0)

    @rule()
    def wait_until_a_probe_expires(self) -> None:
        timeout = self.breaker.config.half_open_timeout
        left = [call.started + timeout - self.model.now for _, call in self.probes if not call.settled]
        self.clock.advance(min((seconds for seconds in left if seconds > 0), default=0.0))

    @rule()
    def stay_healthy(self) -> None:
        self.clock.advance(max(0.0, self.model.since + self.breaker.config.open_cap - self.model.now))

    @rule()
    def look(self) -> None:
        assert self.breaker.counts == self.model.counts()

    @rule(
        step=st.sampled_from(
            ("isolate", "release", "reset", "close", "open", "half_open", "half_open", "disable", "shadow")
        )
    )
    def by_hand(self, step: str) -> None:
        getattr(self.breaker, step)()
        if step in OVERRIDES:
            self.model.override(OVERRIDES[step])
        else:
            getattr(self.model, step)()

    @invariant()
    def shows_the_same(self) -> None:
        breaker, model = self.breaker, self.model
        assert (breaker.state, breaker.rejected) == (model.state, model.rejected)
        assert breaker.retry_after == model.retry_after()

    @invariant()
    def has_no_more_probes_out_than_places(self) -> None:
        """However they came and went."""
        out = [
            permit
            for permit, call in self.probes
            if call.generation == self.model.generation and not permit.settled and not call.expired
        ]
        assert len(out) <= self.breaker.config.half_open_calls


class BreakerWatchedBesideModel(BreakerBesideModel):
    """The same, but somebody looks at the counts after every step, as a health page does."""

    @invariant()
    def counts_the_same(self) -> None:
        assert self.breaker.counts == self.model.counts()


STEPS = settings(
    max_examples=250, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_a_breaker_decides_as_the_model_does() -> None:
    """Whatever happens in whatever order: state, admissions, rejections, counts and waiting times are the model's."""
    run_state_machine_as_test(BreakerBesideModel, settings=STEPS)


def test_looking_changes_nothing() -> None:
    """A breaker whose counts are looked at after every step decides as the model does, too."""
    run_state_machine_as_test(BreakerWatchedBesideModel, settings=STEPS)
