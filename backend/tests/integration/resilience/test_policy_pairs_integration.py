"""Seam: every policy around and inside every other one × success, permanent errors, exhaustion, cancellation, exits."""

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Driver
from holdfast.infrastructure.resilience.bulkhead import Bulkhead
from holdfast.infrastructure.resilience.cache import Cache
from holdfast.infrastructure.resilience.chaos import Chaos
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.concurrency_limit import ConcurrencyLimit
from holdfast.infrastructure.resilience.errors import CallRejectedError
from holdfast.infrastructure.resilience.fallback import Fallback
from holdfast.infrastructure.resilience.hedge import Hedge
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.rate_limit import RateLimit
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.throttle import Throttle
from holdfast.infrastructure.resilience.timeout import Timeout, abandoned_workers
from holdfast.infrastructure.resilience.window import Window
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, hang, succeed


class Lucky(random.Random):
    """Draws what no throttle refuses."""

    def random(self) -> float:
        return 0.99


# Each lets 20 calls pass, whatever comes of them, and takes a place for each that has one.
MAKE: dict[str, Callable[[], Policy]] = {
    "retry": lambda: Retry(3, wait=1.0),
    "breaker": lambda: CircuitBreaker("dependency", window=Window.consecutive(90), open_jitter=0.0),
    "timeout": lambda: Timeout(600.0),
    "bulkhead": lambda: Bulkhead(20),
    "rate limit": lambda: RateLimit(1.0, burst=100),
    "concurrency limit": lambda: ConcurrencyLimit(initial=100, min_limit=50),
    "throttle": lambda: Throttle(random=Lucky()),
    "hedge": lambda: Hedge(50.0),
    "fallback": lambda: Fallback("degraded", on=ConnectionError),
    "cache": lambda: Cache(0.5),
    "chaos": lambda: Chaos(rate=1.0, error=OSError),
}
PAIRS = [pytest.param(names, id=" around ".join(names)) for names in itertools.permutations(MAKE, 2)]
pairs = pytest.mark.parametrize("names", PAIRS)


class Stack:
    """A pair of policies around a script, and what they hold."""

    def __init__(self, driver: Driver, names: tuple[str, str], script: Script) -> None:
        self.names = names
        self.policies = [MAKE[name]() for name in names]
        self.script = script
        self.call = driver.decorate(Pipeline(*self.policies), script)

    def held(self) -> list[int]:
        """Return how many places each policy has given away that has places, and the threads that are left."""
        places = [one for one in self.policies if isinstance(one, (Bulkhead, ConcurrencyLimit))]
        return [*(one.running for one in places), abandoned_workers()]

    def expected(self) -> tuple[int, object]:
        """Return how often a call that fails in passing reaches the script, and what comes out."""
        calls = 1
        outcome: object = None
        for name in reversed(self.names):
            if outcome == "degraded":
                break
            calls *= {"retry": 3, "hedge": 2}.get(name, 1)
            outcome = "degraded" if name == "fallback" else ConnectionError
        return calls, outcome


@pairs
def test_success_passes_both(driver: Driver, names: tuple[str, str]) -> None:
    """A call that succeeds reaches the function once, gives its result and leaves nothing behind."""
    stack = Stack(driver, names, Script(succeed("fine")))
    assert driver.outcomes(1, stack.call) == ["fine"]
    assert (stack.script.calls, set(stack.held())) == (1, {0})


@pairs
def test_a_permanent_error_passes_both(driver: Driver, names: tuple[str, str]) -> None:
    """An error that is nobody's business comes out as it was raised, after one call."""
    error = ValueError("declined")
    stack = Stack(driver, names, Script(fail(error)))
    (outcome,) = driver.outcomes(1, stack.call)
    assert outcome is error
    assert (stack.script.calls, set(stack.held())) == (1, {0})


@pairs
def test_exhaustion_is_exact(driver: Driver, names: tuple[str, str]) -> None:
    """What fails in passing is tried as often as the two say together; then the error, or the fallback, comes out."""
    stack = Stack(driver, names, Script(fail()))
    calls, outcome = stack.expected()
    (found,) = driver.outcomes(1, stack.call)
    assert (stack.script.calls, found if found == "degraded" else type(found)) == (calls, outcome)
    assert set(stack.held()) == {0}


@pairs
def test_after_an_outage_calls_work_again(driver: Driver, names: tuple[str, str]) -> None:
    """Thirty calls into an outage, a wait, and the next call succeeds: nothing remembers for ever."""
    stack = Stack(driver, names, Script(*[fail()] * 400))
    outcomes = driver.outcomes(30, stack.call)
    assert all(isinstance(one, (ConnectionError, CallRejectedError)) or one == "degraded" for one in outcomes)
    stack.script = Script(succeed("back"))
    driver.clock.advance(3600.0)
    call = driver.decorate(Pipeline(*stack.policies), stack.script)
    assert driver.outcomes(1, call) == ["back"]
    assert set(stack.held()) == {0}


@pairs
def test_cancellation_passes_both(virtual_clock: VirtualClock, names: tuple[str, str]) -> None:
    """A task that is cancelled in the middle of the call ends cancelled, at once, and everything is given back."""
    script = Script(hang(), succeed("next"))
    policies = [MAKE[name]() for name in names]
    call: Any = Pipeline(*policies)(script.coroutine_function())

    async def main() -> tuple[bool, float, object]:
        task = asyncio.ensure_future(call())
        await virtual_clock.asleep(5.0)
        task.cancel()
        await asyncio.wait((task,))
        ended = virtual_clock.elapsed
        left = [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]
        assert left == []
        return task.cancelled(), ended, await call()

    cancelled, ended, following = virtual_clock.run(main())
    assert (cancelled, ended, following, script.calls) == (True, 5.0, "next", 2)
    assert [one.running for one in policies if isinstance(one, (Bulkhead, ConcurrencyLimit))] in (
        [],
        [0],
        [0, 0],
    )


@pairs
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_exits_pass_both(
    virtual_clock: VirtualClock, names: tuple[str, str], kind: type[BaseException]
) -> None:
    """An interrupt inside a sync call comes out as it is, after one call, and everything is given back."""
    script = Script(fail(kind), succeed("next"))
    policies = [MAKE[name]() for name in names]
    call = Pipeline(*policies)(script.function())
    with pytest.raises(kind):
        call()
    assert script.calls == 1
    assert (call(), script.calls) == ("next", 2)
    assert [one.running for one in policies if isinstance(one, (Bulkhead, ConcurrencyLimit))] in (
        [],
        [0],
        [0, 0],
    )


@pytest.mark.parametrize("seed", range(12))
def test_deep_stacks_hold_together(driver: Driver, seed: int) -> None:
    """All policies at once in a shuffled order: success, then exhaustion, then recovery, as for pairs."""
    names = list(MAKE)
    random.Random(seed).shuffle(names)
    script = Script(succeed("fine"), *[fail()] * 500)
    policies = [MAKE[name]() for name in names]
    call = driver.decorate(Pipeline(*policies), script)
    assert driver.outcomes(1, call) == ["fine"]
    driver.clock.advance(10.0)
    (outcome,) = driver.outcomes(1, call)
    assert outcome == "degraded" or isinstance(outcome, (ConnectionError, CallRejectedError))
    inside = names[names.index("fallback") + 1 :]
    assert script.calls - 1 == (3 if "retry" in inside else 1) * (2 if "hedge" in inside else 1)
    driver.clock.advance(3600.0)
    again = driver.decorate(Pipeline(*policies), Script(succeed("back")))
    assert driver.outcomes(1, again) == ["back"]
