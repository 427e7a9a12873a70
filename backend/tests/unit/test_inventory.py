"""The inventory: what there is, how it is called, and that looking changes nothing."""

import gc
import json
from typing import Any

import pytest

from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.bulkhead import Bulkhead
from holdfast.infrastructure.resilience.cache import Cache
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker, CircuitBreakers, live_breakers
from holdfast.infrastructure.resilience.concurrency_limit import ConcurrencyLimit
from holdfast.infrastructure.resilience.errors import CircuitOpenError
from holdfast.infrastructure.resilience.hedge import Hedge
from holdfast.infrastructure.resilience.meter import Meter, meters
from holdfast.infrastructure.resilience.rate_limit import RateLimit, RateLimits
from holdfast.infrastructure.resilience.registry import Registry
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.throttle import Throttle
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.resilience.window import Window
from holdfast.infrastructure.store.redis_rate_limit import RedisRateLimit
from holdfast.infrastructure.telemetry.inventory import PolicyState, find_breaker, inventory, pipelines
from holdfast.testing import Script, VirtualClock, fail, succeed


@pytest.fixture
def names() -> Registry:
    """Give a registry in which nothing is defined, with nothing left of what other tests decorated."""
    gc.collect()
    return Registry()


def mine(names: Registry, prefix: str) -> dict[tuple[str, str], PolicyState]:
    """Return what a test made: other tests' functions may still live."""
    return {(one.kind, one.name): one for one in inventory(names) if one.name.startswith(prefix)}


def one_of_each(prefix: str) -> list[Any]:
    return [
        Bulkhead(3, name=f"{prefix} bulkhead"),
        RateLimit(1, burst=9, name=f"{prefix} limit"),
        RateLimits(5, key=str, name=f"{prefix} limits"),
        RedisRateLimit("redis://127.0.0.1:6379/0", f"{prefix} shared", 1.0),
        ConcurrencyLimit(name=f"{prefix} concurrency"),
        Throttle(name=f"{prefix} throttle"),
        Hedge(name=f"{prefix} hedge"),
        Cache(1.0, name=f"{prefix} cache"),
        Retry(budget=RetryBudget(f"{prefix} budget")),
        CircuitBreaker(f"{prefix} breaker"),
        Timeout(1.0, name=f"{prefix} timeout"),
    ]


KINDS = [
    ("bulkhead", "each bulkhead"),
    ("cache", "each cache"),
    ("circuit_breaker", "each breaker"),
    ("concurrency_limit", "each concurrency"),
    ("hedge", "each hedge"),
    ("rate_limit", "each limit"),
    ("rate_limits", "each limits"),
    ("retry_budget", "each budget"),
    ("shared_rate_limit", "each shared"),
    ("throttle", "each throttle"),
]


def test_every_stateful_policy_of_a_name_is_listed(names: Registry) -> None:
    """Each kind is there once, by kind and name, with the operation that uses it, as JSON-able facts."""
    names.define("operation", *one_of_each("each"))
    found = mine(names, "each")
    assert list(found) == KINDS
    assert {one.operations for one in found.values()} == {("operation",)}
    assert json.loads(json.dumps([one.as_dict() for one in found.values()]))[0]["name"] == "each bulkhead"


def test_policies_of_living_functions_are_listed(names: Registry) -> None:
    """What a function is decorated with is listed while the function lives, under the function's name."""

    def only_here() -> None:
        """Be decorated nowhere else."""

    kept, label = Bulkhead(2)(only_here), f"{__name__}.{only_here.__qualname__}"
    assert mine(names, label)["bulkhead", label].operations == (label,)
    del kept
    gc.collect()
    assert mine(names, label) == {}


def test_an_operation_is_called_as_its_meter_is(names: Registry) -> None:
    """The operation of a metered function is the meter's name."""
    call = Meter("metered operation")(Bulkhead(2, name="of a metered one")(Script(succeed()).function()))
    call()
    assert mine(names, "of a")["bulkhead", "of a metered one"].operations == ("metered operation",)


def test_policies_used_by_call_are_listed_without_an_operation(names: Registry) -> None:
    """`policy.call` serves any function: there is no operation to name, and none is made up."""
    bulkhead = Bulkhead(2, name="by call")
    bulkhead.call(Script(succeed()).function())
    assert mine(names, "by call")["bulkhead", "by call"].operations == ()


def test_a_shared_policy_is_listed_once_with_all_its_operations(names: Registry) -> None:
    """One breaker and one budget of two operations are one of each."""
    breaker, budget = CircuitBreaker("shared breaker"), RetryBudget("shared budget")
    for name in ("second", "first"):
        names.define(name, Retry(budget=budget), breaker)
    found = mine(names, "shared")
    assert [one.operations for one in found.values()] == [("first", "second")] * 2


def test_several_of_one_name_are_told_apart(names: Registry) -> None:
    """Names are unique within a kind, so that they can be labels and part of an address."""
    kept = [CircuitBreaker("twins")(Script(succeed()).function()) for _ in range(3)]
    assert [name for _, name in mine(names, "twins")] == ["twins", "twins#2", "twins#3"]
    assert len({find_breaker(name, names) for _, name in mine(names, "twins")}) == len(kept)


def test_a_breaker_that_was_replaced_is_gone(names: Registry) -> None:
    """A function by name shows what its name means now, not what it meant."""
    names.define("changing", CircuitBreaker("changing before"))
    call = names.resilient("changing")(Script(succeed()).function())
    call()
    names.define("changing", CircuitBreaker("changing after"))
    call()
    gc.collect()
    assert [name for _, name in mine(names, "changing")] == ["changing after"]


def test_at_most_a_hundred_keys_of_a_family_are_listed(names: Registry) -> None:
    """Of many keys those used last are listed, and listing counts as no use."""
    family = CircuitBreakers("hundreds", key=str)
    limits = RateLimits(1, key=str, name="hundreds of limits")
    names.define("keyed", limits, family)
    for key in range(150):
        names.resilient("keyed").call(int, key)
    before = list(family)
    found = mine(names, "hundreds")
    assert len([one for one in found.values() if one.kind == "circuit_breaker"]) == 100
    assert ("circuit_breaker", "hundreds[149]") in found
    assert ("circuit_breaker", "hundreds[49]") not in found
    facts = found["rate_limits", "hundreds of limits"].facts
    assert (facts["keys"], len(facts["available"]), len(limits)) == (150, 100, 150)
    assert list(family) == before


def test_looking_changes_nothing(names: Registry, virtual_clock: VirtualClock) -> None:
    """No name is defined, no state moves on, no meter is made, and a budget is worth what it would have been."""
    window: dict[str, Any] = {"window": Window.consecutive(1), "open_for": 5.0, "open_jitter": 0.0}
    breaker = CircuitBreaker("looked at", **window)
    looked, alone = RetryBudget("looked at", ttl=10.0), RetryBudget(ttl=10.0)
    call = Retry(1, budget=looked)(breaker(Script(fail()).function()))
    with pytest.raises(ConnectionError):
        call()
    for budget in (looked, alone):
        budget.reset()
        for _ in range(5):
            budget.deposit()
    known = set(meters())
    found: dict[tuple[str, str], PolicyState] = {}
    for _ in range(20):
        virtual_clock.advance(1.0)
        found = mine(names, "looked at")
    assert (breaker.state, len(names)) == ("open", 0)
    assert found["circuit_breaker", "looked at"].facts["retry_after"] == 0.0
    assert (set(meters()), looked.tokens) == (known, alone.tokens)


def test_a_breaker_tells_since_when_it_is_in_its_state(names: Registry, virtual_clock: VirtualClock) -> None:
    """Every change of state begins the time anew; calls that are refused or counted do not."""
    breaker = CircuitBreaker(
        "timed", window=Window.consecutive(1), open_for=5.0, open_jitter=0.0, half_open_calls=2
    )
    call = breaker(Script(succeed(), fail(), succeed(), succeed()).function())

    def facts() -> tuple[str, float]:
        shown = mine(names, "timed")["circuit_breaker", "timed"].facts
        return shown["state"], shown["seconds_in_state"]

    virtual_clock.advance(2.0)
    call()
    assert facts() == ("closed", 2.0)
    with pytest.raises(ConnectionError):
        call()
    virtual_clock.advance(3.0)
    with pytest.raises(CircuitOpenError):
        call()
    assert facts() == ("open", 3.0)
    virtual_clock.advance(4.0)
    call()
    virtual_clock.advance(1.0)
    assert facts() == ("half-open", 1.0)
    call()
    assert facts() == ("closed", 0.0)
    for change, state in (
        (breaker.isolate, "isolated"),
        (breaker.disable, "disabled"),
        (breaker.shadow, "shadow"),
    ):
        change()
        virtual_clock.advance(0.5)
        assert facts() == (state, 0.5)
    breaker.isolate()
    breaker.isolate()
    virtual_clock.advance(1.5)
    assert facts() == ("isolated", 1.5)


def test_a_breaker_is_found_by_its_name(names: Registry) -> None:
    """The breaker itself comes out, and an unknown name names its neighbours and makes nothing."""
    breaker = CircuitBreaker("payments")
    names.define("operation", breaker)
    assert find_breaker("payments", names) is breaker
    with pytest.raises(LookupError, match=r"no circuit breaker is called 'paymets'.*'payments'"):
        find_breaker("paymets", names)
    assert list(names) == ["operation"]


def test_explanations_of_all_names(names: Registry) -> None:
    """Every name is explained as its pipeline explains itself, in facts that JSON can hold."""
    names.define("bounded", Timeout(3.0))
    names.define("unbounded", Retry(2))
    found = pipelines(names)
    assert list(found) == ["bounded", "unbounded"]
    assert found["bounded"] == names.get("bounded").explain().as_dict()
    assert json.loads(json.dumps(found))["unbounded"]["duration"] is None


def test_live_breakers_are_those_of_living_functions() -> None:
    """A breaker is listed once, however often its function was compiled, and not after the function."""
    breaker = CircuitBreaker("alive")
    call = breaker(Script(succeed()).function())
    for _ in range(20):
        call()
    assert live_breakers().count(breaker) == 1
    del call
    gc.collect()
    assert breaker not in live_breakers()
