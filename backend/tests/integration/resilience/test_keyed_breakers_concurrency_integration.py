"""Seam: a family of keyed breakers × many threads and tasks that make, use, trip and evict them."""

import asyncio
import gc
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from backend.tests.integration.resilience._driver import Driver
from backend.tests.integration.resilience._make import Make
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker, CircuitBreakers
from holdfast.infrastructure.resilience.errors import CircuitOpenError, ConfigurationError
from holdfast.infrastructure.resilience.events import CallRejected, CircuitOpened
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window, WindowCounts
from holdfast.testing.clock import VirtualClock
from holdfast.testing.recorder import EventRecorder

_T = TypeVar("_T")

CLOSED, OPEN, ISOLATED = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.ISOLATED
THREADS = 8


def race(*actions: Callable[[], _T]) -> list[_T]:
    """Run every action in a real thread of its own, all starting together; raise the first error."""
    start = threading.Barrier(len(actions))
    found: list[_T] = []
    errors: list[Exception] = []

    def body(action: Callable[[], _T]) -> None:
        start.wait()
        try:
            found.append(action())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return found


def trip(breaker: CircuitBreaker) -> None:
    """Open a breaker by failures of calls that are over."""
    while breaker.state is not OPEN:
        breaker.admit().failure()


# One breaker per key


def test_real_threads_that_race_for_a_key_share_one_breaker(make: Make) -> None:
    """Whoever comes first, all get the same breaker, and it is made once."""
    for _ in range(50):
        family = make.breakers()
        breakers = race(*[lambda family=family: family.get("host")] * THREADS)
        assert len(set(map(id, breakers))) == 1
        assert len(family) == 1


def test_first_users_share_one_breaker(driver: Driver, make: Make) -> None:
    """Twenty first callers of a key that all fail are counted by one breaker."""
    family = make.breakers(window=Window.calls(100), min_calls=100)

    async def fetch(key: str) -> None:
        await driver.sleep(1.0)
        raise ConnectionError(key)

    call = driver.decorate(family, fetch)

    async def caller() -> None:
        await driver.ask(call, "host")

    outcomes = driver.together(*[caller] * 20)
    assert [type(one) for one in outcomes] == [ConnectionError] * 20
    assert (len(family), family.get("host").counts) == (1, WindowCounts(20, 20, 0))


def test_functions_under_one_family_share_its_breakers(driver: Driver, make: Make) -> None:
    """Two functions that talk to the same host are refused together."""
    family = make.breakers(1)

    async def read(key: str) -> None:
        raise ConnectionError(key)

    async def write(key: str, value: int) -> int:
        return value

    reader, writer = driver.decorate(family, read), driver.decorate(family, write)
    assert [type(one) for one in driver.outcomes(1, reader, "a")] == [ConnectionError]
    assert [type(one) for one in driver.outcomes(1, writer, "a", 1)] == [CircuitOpenError]
    assert driver.outcomes(1, writer, "b", 1) == [1]


def test_one_outage_touches_no_other_key(driver: Driver, make: Make, event_recorder: EventRecorder) -> None:
    """Of twenty hosts called in turn by many, one is down: its calls are refused, no other call is."""
    family = make.breakers(3)

    async def fetch(key: int) -> str:
        await driver.sleep(0.1)
        if key == 7:
            raise ConnectionError
        return "ok"

    call = driver.decorate(family, fetch)

    async def client() -> Counter[tuple[int, str]]:
        seen: Counter[tuple[int, str]] = Counter()
        for key in list(range(20)) * 3:
            try:
                seen[key, await driver.ask(call, key)] += 1
            except Exception as error:
                seen[key, type(error).__name__] += 1
        return seen

    total: Counter[tuple[int, str]] = sum(driver.together(*[client] * 5), Counter[tuple[int, str]]())
    healthy = {(key, "ok"): 15 for key in range(20) if key != 7}
    assert dict(total) == {**healthy, (7, "ConnectionError"): 5, (7, "CircuitOpenError"): 10}
    assert {event.name for event in event_recorder.events} == {"family[7]"}
    assert len(event_recorder.of(CircuitOpened)) == 1
    assert len(event_recorder.of(CallRejected)) == 10
    assert [key for key in family if family.get(key).state is not CLOSED] == [7]


def test_every_key_has_its_own_probes(driver: Driver, make: Make) -> None:
    """Ten hosts recover at once: each admits exactly its two probes, whoever races."""
    family = make.breakers(1, half_open_calls=2)
    for key in range(10):
        trip(family.get(key))
    driver.run(driver.sleep, 5.0)

    async def fetch(key: int) -> int:
        await driver.sleep(1.0)
        return key

    call = driver.decorate(family, fetch)

    async def caller(key: int) -> int:
        found: int = await driver.ask(call, key)
        return found

    def of(key: int) -> Callable[..., Any]:
        async def one() -> int:
            return await caller(key)

        return one

    outcomes = driver.together(*[of(key) for key in range(10) for _ in range(6)])
    assert Counter(one for one in outcomes if isinstance(one, int)) == dict.fromkeys(range(10), 2)
    assert all(family.get(key).state is CLOSED for key in range(10))
    assert [family.get(key).rejected for key in range(10)] == [4] * 10


def test_real_threads_lose_no_failure(make: Make) -> None:
    """Eight threads that hammer ten keys at the same moment: every failure is counted, under its own key."""
    family = make.breakers(window=Window.calls(10_000), min_calls=10_000)

    @family
    def fetch(key: int) -> None:
        raise ConnectionError(key)

    def client() -> None:
        for step in range(200):
            with pytest.raises(ConnectionError):
                fetch(step % 10)

    race(*[client] * THREADS)
    assert [family.get(key).counts.failures for key in range(10)] == [THREADS * 20] * 10


def test_threads_and_tasks_share_a_family(make: Make) -> None:
    """Event loops in several threads and plain threads count into the same breakers."""
    family = make.breakers(window=Window.calls(10_000), min_calls=10_000)

    @family
    def fetch(key: int) -> None:
        raise ConnectionError(key)

    @family
    async def afetch(key: int) -> None:
        await asyncio.sleep(0)
        raise ConnectionError(key)

    def plain() -> None:
        for step in range(100):
            with pytest.raises(ConnectionError):
                fetch(step % 5)

    def looped() -> None:
        async def main() -> list[Any]:
            return await asyncio.gather(*(afetch(step % 5) for step in range(100)), return_exceptions=True)

        assert {type(one) for one in asyncio.run(main())} == {ConnectionError}

    race(plain, looped, plain, looped)
    assert [family.get(key).counts.failures for key in range(5)] == [80] * 5


# Keys


def test_names_tell_the_key(make: Make) -> None:
    """A breaker is called `family[key]`, in its errors too."""
    breaker = make.breakers(1).get("eu-west")
    trip(breaker)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.admit()
    assert (breaker.name, caught.value.name) == ("family[eu-west]", "family[eu-west]")


@pytest.mark.parametrize("key", ["host", 1, None, ("host", 443), frozenset({"a"}), b"host", 2.5], ids=str)
def test_any_hashable_is_a_key(driver: Driver, make: Make, key: Any) -> None:
    """What can be hashed can be a key; equal keys are one."""
    family = make.breakers(1)

    async def fetch(key: Any) -> None:
        raise ConnectionError

    driver.outcomes(1, driver.decorate(family, fetch), key)
    assert list(family) == [key]
    assert key in family
    assert family.get(key).state is OPEN


# Arguments of a call, and what its function gets.
CALLS: list[tuple[tuple[int, ...], dict[str, int], tuple[Any, ...]]] = [
    ((1,), {}, (1, 2, (), 3, {})),
    ((1, 5, 6), {}, (1, 5, (6,), 3, {})),
    ((), {"a": 1, "c": 4, "d": 5}, (1, 2, (), 4, {"d": 5})),
]


@pytest.mark.parametrize(("args", "kwargs", "told"), CALLS, ids=["defaults", "positional", "by name"])
def test_the_key_function_sees_the_arguments_of_the_call(
    driver: Driver, make: Make, args: tuple[int, ...], kwargs: dict[str, int], told: tuple[Any, ...]
) -> None:
    """A key function with the parameters of the function gets what the function gets."""
    seen: list[tuple[Any, ...]] = []

    def key(a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> str:
        seen.append((a, b, rest, c, more))
        return "k"

    async def fetch(a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> tuple[Any, ...]:
        return a, b, rest, c, more

    assert driver.call(driver.decorate(make.breakers(key=key), fetch), *args, **kwargs) == told
    assert seen == [told]


def test_a_method_can_be_keyed_by_its_object(driver: Driver, make: Make) -> None:
    """The key function of a method gets `self`: each client object can have a breaker of its own."""

    def host_of(client: Any) -> str:
        host: str = client.host
        return host

    family = make.breakers(1, key=host_of)

    async def fetch(self: Any) -> None:
        if self.host == "bad":
            raise ConnectionError

    client: Any = type("Client", (), {"fetch": driver.decorate(family, fetch)})
    good, bad = client(), client()
    good.host, bad.host = "good", "bad"
    driver.outcomes(1, bad.fetch)
    assert [type(one) for one in driver.outcomes(1, bad.fetch)] == [CircuitOpenError]
    assert driver.outcomes(2, good.fetch) == [None, None]


@pytest.mark.parametrize("position", ["alone", "inside a retry"])
def test_an_error_of_the_key_function_comes_out(driver: Driver, make: Make, position: str) -> None:
    """Without a key there is no breaker to ask: the call is not made, and the caller gets the error."""
    calls: list[object] = []

    def key(value: object) -> str:
        raise KeyError("no tenant")

    async def fetch(value: object) -> None:
        calls.append(value)

    family = make.breakers(key=key)
    policies = [family] if position == "alone" else [make.retry(), family]
    [error] = driver.outcomes(1, driver.compose("decorators", *policies, source=fetch), 1)
    assert (type(error), error.args, calls, len(family)) == (KeyError, ("no tenant",), [], 0)
    assert driver.clock.sleeps == ()


def test_a_key_that_cannot_be_hashed_is_a_type_error(driver: Driver, make: Make) -> None:
    """An unhashable key is the caller's mistake: the call is not made."""
    calls: list[object] = []

    async def fetch(key: object) -> None:
        calls.append(key)

    family = make.breakers()
    [error] = driver.outcomes(1, driver.decorate(family, fetch), ["a list"])
    assert isinstance(error, TypeError)
    assert "unhashable" in str(error)
    assert (calls, len(family)) == ([], 0)


def test_the_key_is_asked_at_every_attempt(driver: Driver, make: Make) -> None:
    """A retry around a family asks for the key again: an attempt may go to another host."""
    hosts = iter(["a", "b", "c"])
    family = make.breakers(1, key=lambda: next(hosts))

    async def fetch() -> str:
        raise ConnectionError

    call = driver.compose("decorators", make.retry(3), family, source=fetch)
    assert [type(one) for one in driver.outcomes(1, call)] == [ConnectionError]
    assert {key: family.get(key).state for key in "abc"} == dict.fromkeys("abc", OPEN)


def test_a_family_without_a_key_function_is_used_by_get(driver: Driver) -> None:
    """Decorating without `key=` is refused with what to do; `get` gives a breaker to decorate with."""
    family = CircuitBreakers("family", window=Window.consecutive(1))

    async def fetch() -> None:
        raise ConnectionError

    with pytest.raises(TypeError, match=r"give key=.*family\.get\(key\)"):
        driver.decorate(family, fetch)
    driver.outcomes(1, driver.decorate(family.get("a"), fetch))
    assert family.get("a").state is OPEN


@pytest.mark.parametrize(
    ("settings", "paths"),
    [
        ({"max_keys": 0, "idle": -1.0, "key": "host"}, ["max_keys", "idle", "key"]),
        ({"failure_rate": 2.0, "min_calls": 0}, ["failure_rate", "min_calls"]),
    ],
)
def test_bad_settings_are_refused_when_the_family_is_made(settings: dict[str, Any], paths: list[str]) -> None:
    """Every fault of a family is reported at once, long before the first key is seen."""
    with pytest.raises(ConfigurationError) as caught:
        CircuitBreakers("family", **settings)
    assert [fault.path for fault in caught.value.faults] == paths


# Bounds


def test_the_least_recently_used_goes_first(make: Make) -> None:
    """With room for three, the fourth key takes the place of the one that was used longest ago."""
    family = make.breakers(max_keys=3)
    for key in "abc":
        family.get(key)
    family.get("a")
    family.get("d")
    assert list(family) == ["c", "a", "d"]


def test_calls_count_as_use(driver: Driver, make: Make) -> None:
    """A key that is called is used; one that is only peeked at is not."""
    family = make.breakers(max_keys=3)

    async def fetch(key: str) -> str:
        return key

    call = driver.decorate(family, fetch)
    for key in "abc":
        driver.call(call, key)
    driver.call(call, "a")
    assert family.peek("b") is not None
    assert "b" in family
    driver.call(call, "d")
    assert list(family) == ["c", "a", "d"]
    assert family.peek("b") is None


def test_closed_breakers_go_before_open_ones(make: Make) -> None:
    """A breaker that knows of an outage is kept while there is a closed one to forget."""
    family = make.breakers(1, max_keys=3)
    trip(family.get("a"))
    family.get("b").isolate()
    for key in "cde":
        family.get(key)
    assert list(family) == ["a", "b", "e"]
    assert [family.get(key).state for key in "ab"] == [OPEN, ISOLATED]


def test_when_all_are_open_the_oldest_goes(make: Make) -> None:
    """The bound holds in an outage of everything, too, and the newest key is never the one that goes."""
    family = make.breakers(1, max_keys=2)
    for key in "abc":
        trip(family.get(key))
    assert list(family) == ["b", "c"]
    family.get("d")
    assert list(family) == ["c", "d"]


def test_one_key_is_the_smallest_family(make: Make) -> None:
    """With room for one, each new key takes its place."""
    family = make.breakers(max_keys=1)
    for key in range(10):
        assert family.get(key) is family.get(key)
        assert list(family) == [key]


@pytest.mark.parametrize(("wait", "left"), [(99.9, ["a", "b", "c"]), (100.0, ["b", "c"])])
def test_what_is_idle_goes(make: Make, virtual_clock: VirtualClock, wait: float, left: list[str]) -> None:
    """A breaker that was not used for `idle` seconds is forgotten, to the instant."""
    family = make.breakers(idle=100.0)
    family.get("a")
    virtual_clock.advance(50.0)
    family.get("b")
    virtual_clock.advance(wait - 50.0)
    family.get("c")
    assert list(family) == left


def test_many_tenants_cost_bounded_memory(make: Make, virtual_clock: VirtualClock) -> None:
    """Breakers that were evicted are gone: nothing keeps them alive."""
    family = make.breakers(max_keys=10)
    made = weakref.WeakSet[CircuitBreaker]()

    @family
    def fetch(key: int) -> int:
        return key

    for key in range(1000):
        fetch(key)
        made.add(family.get(key))
    gc.collect()
    assert (len(family), len(made)) == (10, 10)


def test_discarding_forgets_a_key(make: Make) -> None:
    """After `discard` the key has a new breaker; what the old one still settles does not touch it."""
    family = make.breakers(1)
    old = family.get("a")
    permit = old.admit()
    trip(old)
    family.discard("a")
    family.discard("a")
    new = family.get("a")
    permit.failure()
    assert new is not old
    assert (new.state, new.counts) == (CLOSED, WindowCounts(0, 0, 0))


def test_calls_outlive_the_eviction_of_their_breaker(driver: Driver, make: Make) -> None:
    """A call whose breaker is evicted while it runs ends as it would have, and counts for nobody else."""
    family = make.breakers(1, max_keys=1)

    async def fetch(key: str) -> str:
        await driver.sleep(5.0 if key == "slow" else 0.0)
        if key == "slow":
            raise ConnectionError
        return key

    call = driver.decorate(family, fetch)

    async def slow() -> object:
        return await driver.ask(call, "slow")

    async def others() -> list[object]:
        await driver.sleep(1.0)
        found = [await driver.ask(call, key) for key in "ab"]
        await driver.sleep(5.0)
        return [*found, await driver.ask(call, "b")]

    error, found = driver.together(slow, others)
    assert (type(error), found) == (ConnectionError, ["a", "b", "b"])
    assert list(family) == ["b"]
    assert family.get("b").state is CLOSED


def test_the_bound_holds_whoever_races(make: Make) -> None:
    """Threads that make, use, look up and discard fifty keys never see more than five, nor an error."""
    family = make.breakers(max_keys=5)
    sizes: list[int] = []

    @family
    def fetch(key: int) -> int:
        return key

    def user(offset: int) -> None:
        for step in range(150):
            key = (step * 7 + offset) % 50
            assert fetch(key) == key
            family.peek(key)
            sizes.append(len(list(family)))
            if step % 10 == 0:
                family.discard(key)

    race(*(lambda offset=offset: user(offset) for offset in range(THREADS)))
    assert max(sizes) <= 5
    assert len(family) <= 5


def test_isolating_a_key_stops_that_key(driver: Driver, make: Make) -> None:
    """One tenant can be taken out of service, and put back, while the others go on."""
    family = make.breakers()

    async def fetch(key: str) -> str:
        return key

    call = driver.decorate(family, fetch)
    family.get("a").isolate()
    assert [type(one) for one in driver.outcomes(1, call, "a")] == [CircuitOpenError]
    assert driver.outcomes(1, call, "b") == ["b"]
    family.get("a").release()
    assert driver.outcomes(1, call, "a") == ["a"]


def test_each_key_recovers_by_itself(driver: Driver, make: Make) -> None:
    """Two hosts that fail one after the other are probed one after the other."""
    family = make.breakers(1)
    down = {"a", "b"}

    async def fetch(key: str) -> str:
        if key in down:
            raise ConnectionError
        return key

    call = driver.decorate(family, fetch)

    async def outage() -> list[tuple[float | None, float | None]]:
        seen: list[Any] = []
        for wait, key in ((0.0, "a"), (2.0, "b"), (3.0, "a")):
            await driver.sleep(wait)
            down.difference_update("a" if wait == 3.0 else "")
            try:
                await driver.ask(call, key)
            except ConnectionError:
                pass
            seen.append((family.get("a").retry_after, family.get("b").retry_after))
        return seen

    assert driver.run(outage) == [(5.0, None), (3.0, 5.0), (None, 2.0)]
