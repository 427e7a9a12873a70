"""Cases that once broke the core: odd callers, odd clocks, odd moments."""

import contextvars
import os
from collections.abc import Generator

import pybreaker
import pytest

from holdfast import (
    CallRejected,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Clock,
    Permit,
    Retry,
    Window,
    WindowCounts,
    retry,
    subscribe,
    use_clock,
)
from holdfast.testing import VirtualClock


class Anything:
    """A callable that has every attribute one asks for, without end."""

    def __getattr__(self, name: str) -> "Anything":
        """Return another one."""
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __call__(self, number: int) -> int:
        """Return the number."""
        return number


def test_what_has_every_attribute_can_be_decorated() -> None:
    """An object that has every attribute one asks for is decorated like any other callable."""
    assert retry(Anything())(3) == 3


def test_settings_that_differ_share_no_code(virtual_clock: VirtualClock) -> None:
    """A retry of one attempt stays one after a retry of three was compiled for the same signature."""
    calls = {"three": 0, "one": 0}

    def three() -> None:
        calls["three"] += 1
        raise ConnectionError

    def one() -> None:
        calls["one"] += 1
        raise ConnectionError

    for policy, fn in ((Retry(3), three), (Retry(1), one)):
        with pytest.raises(ConnectionError):
            policy(fn)()
    assert calls == {"three": 3, "one": 1}


def test_a_block_that_goes_on_in_another_context_is_settled() -> None:
    """A generator whose steps run in copied contexts, as a framework's dependencies do, still counts its failures."""
    breaker = CircuitBreaker("db", window=Window.consecutive(3), on=Exception)

    def session() -> Generator[None]:
        with breaker:
            yield

    for _ in range(3):
        steps = session()
        contextvars.copy_context().run(next, steps)
        with pytest.raises(RuntimeError, match="lost"):
            contextvars.copy_context().run(steps.throw, RuntimeError("lost"))
    assert breaker.state is CircuitState.OPEN


class Meddling(Clock):
    """A clock that settles a permit while it is read, as the garbage collector may at any moment."""

    permit: Permit | None = None

    def monotonic(self) -> float:
        """Settle, then tell the time."""
        permit, self.permit = self.permit, None
        if permit is not None:
            permit.neutral()
        return super().monotonic()


def test_a_permit_may_be_settled_while_the_breaker_is_busy() -> None:
    """Settling inside the breaker's own work, in the same thread, does not wait for itself."""
    clock = Meddling()
    breaker = CircuitBreaker("db", clock=clock)
    clock.permit = breaker.admit()
    assert breaker.counts == WindowCounts(0, 0, 0)
    assert clock.permit is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_of_a_fork_finds_the_breaker_free() -> None:
    """A fork in the middle of the breaker's work leaves no lock behind in the child."""
    children: list[int] = []

    class Forking(Clock):
        armed = False

        def monotonic(self) -> float:
            if self.armed:
                self.armed = False
                child = os.fork()
                if not child:
                    os._exit(0 if free(breaker) else 1)
                children.append(child)
            return super().monotonic()

    clock = Forking()
    breaker = CircuitBreaker("db", clock=clock, window=Window.consecutive(1))
    clock.armed = True
    assert breaker.counts.calls == 0
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0]


def free(breaker: CircuitBreaker) -> bool:
    """Return whether the breaker can be used."""
    breaker.admit().failure()
    return breaker.state is CircuitState.OPEN


def test_a_reset_forgets_what_is_shared() -> None:
    """A closed breaker that is reset forgets the failures in its storage too."""
    storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
    breaker = CircuitBreaker("db", fail_max=5, state_storage=storage)
    for _ in range(4):
        breaker.admit().failure()
    breaker.reset()
    breaker.admit().failure()
    assert (storage.counter, breaker.state) == (1, CircuitState.CLOSED)


def test_a_refusal_tells_the_time_at_which_it_was_decided(virtual_clock: VirtualClock) -> None:
    """A subscriber that half-opens the breaker on a refusal does not spoil that refusal's facts."""
    breaker = CircuitBreaker("db", open_jitter=0.0)
    breaker.open()
    with (
        subscribe(lambda event: breaker.half_open(), CallRejected),
        pytest.raises(CircuitOpenError) as caught,
    ):
        breaker(lambda: None)()
    assert caught.value.retry_after == 5.0


def test_a_window_survives_a_change_of_clocks() -> None:
    """A breaker made under one clock forgets by age under another that shows an earlier time."""
    with use_clock(VirtualClock(start=1e6)):
        breaker = CircuitBreaker("db", min_calls=5, on=Exception)
        breaker.admit().success()
    clock = VirtualClock(start=1000.0)
    with use_clock(clock):
        for _ in range(8):
            breaker.admit().failure()
            clock.advance(60.0)
        assert breaker.state is CircuitState.CLOSED
        assert breaker.counts.calls <= 1
