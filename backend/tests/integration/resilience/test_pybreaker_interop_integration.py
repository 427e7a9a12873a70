"""Seam: pybreaker's listeners, storages, names and error × `CircuitBreaker`, compared with pybreaker's own engine."""

import functools
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pybreaker
import pytest

from backend.tests.integration.resilience._driver import Driver, Function, blocking
from backend.tests.integration.resilience._make import Make
from backend.tests.integration.resilience._redis import CountingRedis, RedisProcess, connect
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker, breaker_of, circuit_breaker
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.errors import CircuitOpenError, ConfigurationError
from holdfast.infrastructure.resilience.events import CircuitClosed, CircuitOpened, StorageFailed
from holdfast.infrastructure.resilience.permit import Permit
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, succeed
from holdfast.testing.recorder import EventRecorder

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
STEPS = {"S": succeed(), "F": fail(), "X": fail(ValueError)}


class Log(pybreaker.CircuitBreakerListener):
    """A listener as users of pybreaker write it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        """Note a call."""
        self.seen.append(("before", cb.name, func.__name__, args, kwargs))

    def success(self, cb: Any) -> None:
        """Note a success."""
        self.seen.append(("success", cb.name))

    def failure(self, cb: Any, exc: BaseException) -> None:
        """Note a failure."""
        self.seen.append(("failure", cb.name, repr(exc)))

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        """Note a new state."""
        self.seen.append(("state", cb.name, old_state.name, new_state.name))


class AgingStorage(pybreaker.CircuitMemoryStorage):
    """pybreaker's memory storage on a virtual clock, which its engine does not know."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(pybreaker.STATE_CLOSED)
        self._clock = clock
        self._at: float | None = None

    @property
    def opened_at(self) -> datetime | None:
        """Return a real time that is as long ago as the virtual one."""
        if self._at is None:
            return None
        return datetime.now(UTC) - timedelta(seconds=self._clock.monotonic() - self._at)

    @opened_at.setter
    def opened_at(self, datetime: datetime) -> None:
        self._at = self._clock.monotonic()


def letter(outcome: object) -> str:
    """Return S for a success, R for a rejection, F or X for the error of the call."""
    if isinstance(outcome, pybreaker.CircuitBreakerError):
        return "R"
    return "F" if isinstance(outcome, ConnectionError) else "X" if isinstance(outcome, ValueError) else "S"


def letters(outcomes: list[Any]) -> str:
    return "".join(map(letter, outcomes))


def script(steps: str) -> Script:
    return Script(*(STEPS[step] for step in steps))


def trip(breaker: CircuitBreaker, driver: Driver, failures: int = 3) -> None:
    driver.outcomes(failures, driver.decorate(breaker, script("F")))


# Names


def test_pybreakers_names_are_accepted(driver: Driver) -> None:
    """A constructor call written for pybreaker works, and means what it meant."""
    log = Log()
    breaker = CircuitBreaker(
        name="payments",
        fail_max=2,
        reset_timeout=7,
        success_threshold=2,
        exclude=[ValueError],  # type: ignore[arg-type]  # pybreaker takes any iterable
        listeners=[log],  # type: ignore[arg-type]
        state_storage=pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED),
        throw_new_error_on_trip=False,
    )
    assert (breaker.name, breaker.listeners, breaker.current_state) == ("payments", (log,), "closed")
    call = driver.decorate(breaker, script("XXXFFSS"))
    assert letters(driver.outcomes(14, call, every=1.0)) == "XXXFFRRRRRRSSS"
    assert breaker.current_state == pybreaker.STATE_CLOSED


@pytest.mark.parametrize("given", ["fail_max", "reset_timeout", "success_threshold", "state_storage"])
def test_any_name_of_pybreakers_brings_its_defaults(virtual_clock: VirtualClock, given: str) -> None:
    """What is not given beside one of pybreaker's names is as in pybreaker: 5 in a row, 60 s, every error counts."""
    storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
    value = {"fail_max": 5, "reset_timeout": 60, "success_threshold": 1, "state_storage": storage}[given]
    config = CircuitBreaker("x", **{given: value}).config  # type: ignore[arg-type]
    assert (config.window, config.open_for, config.open_cap) == (Window.consecutive(5), 60, 60)
    assert (config.open_jitter, config.half_open_calls, config.on) == (0.0, 1, Exception)


def test_our_own_settings_stand_beside_pybreakers(virtual_clock: VirtualClock) -> None:
    """A window or a classification that is given is not replaced."""
    config = CircuitBreaker("x", reset_timeout=9, window=Window.calls(7), on=OSError).config
    assert (config.window, config.on, config.open_for) == (Window.calls(7), OSError, 9)


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"fail_max": 0}, "window"),
        ({"fail_max": "five"}, "window"),
        ({"reset_timeout": -1}, "open_for"),
        ({"success_threshold": 0}, "half_open_calls"),
        ({"exclude": "ValueError"}, "exclude"),
        ({"exclude": [5]}, "exclude[0]"),
    ],
)
def test_bad_values_under_pybreakers_names_are_configuration_errors(
    settings: dict[str, Any], path: str
) -> None:
    """A value out of range is refused under the old names, too."""
    with pytest.raises(ConfigurationError):
        CircuitBreaker("x", **settings)


def test_the_decorator_takes_pybreakers_names() -> None:
    """`@circuit_breaker(fail_max=…)` makes such a breaker for the function."""

    @circuit_breaker(fail_max=1, reset_timeout=9)
    def fetch() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        fetch()
    with pytest.raises(pybreaker.CircuitBreakerError):
        fetch()
    assert breaker_of(fetch).fail_counter == 0
    assert breaker_of(fetch).config.open_for == 9


def test_states_are_pybreakers_strings(make: Make) -> None:
    """Code that compares `current_state` with pybreaker's constants goes on working."""
    breaker = make.breaker()
    for step, name in ((breaker.open, "open"), (breaker.half_open, "half-open"), (breaker.close, "closed")):
        step()
        assert breaker.current_state == name == breaker.state == str(breaker.state)
    assert (pybreaker.STATE_OPEN, pybreaker.STATE_CLOSED, pybreaker.STATE_HALF_OPEN) == (
        OPEN,
        CLOSED,
        HALF_OPEN,
    )


def test_the_failure_counter_is_pybreakers(driver: Driver) -> None:
    """`fail_counter` counts failures in a row, and a success sets it to 0."""
    breaker = CircuitBreaker("x", fail_max=5)
    call = driver.decorate(breaker, script("FFFSF"))
    seen: list[Any] = []
    for _ in range(5):
        driver.outcomes(1, call)
        seen.append(breaker.fail_counter)
    assert seen == [1, 2, 3, 0, 1]


# The error


def test_a_rejection_is_pybreakers_error(driver: Driver, make: Make) -> None:
    """`except pybreaker.CircuitBreakerError` catches what an open breaker raises."""
    breaker = make.breaker(1)
    trip(breaker, driver, 1)
    with pytest.raises(pybreaker.CircuitBreakerError) as caught:
        driver.call(driver.decorate(breaker, script("S")))
    assert isinstance(caught.value, CircuitOpenError)


@pytest.mark.parametrize(
    ("setting", "imported"),
    [
        ("", "after"),
        ("", "inside"),
        ("throw_new_error_on_trip=True", "before"),
        ("throw_new_error_on_trip=True", "inside"),
        ("state_storage=storage()", "before"),
    ],
)
def test_the_first_error_of_a_process_is_pybreakers(setting: str, imported: str) -> None:
    """Whenever pybreaker is imported, the first rejection or trip after that is caught as its error."""
    lines = [
        "import pybreaker" if imported == "before" else "",
        "from holdfast import CircuitBreaker",
        "storage = lambda: pybreaker.CircuitMemoryStorage('closed')",
        f"breaker = CircuitBreaker('x', fail_max=1, {setting})",
        "import pybreaker" if imported != "inside" else "",
        "@breaker",
        "def fetch():",
        "    import pybreaker",
        "    raise KeyError",
        "caught = 0",
        "for _ in range(2):",
        "    try: fetch()",
        "    except KeyError: pass",
        "    except Exception as error:",
        "        import pybreaker",
        "        caught += isinstance(error, pybreaker.CircuitBreakerError)",
        "print(caught)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], check=False, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("2\n" if "trip" in setting else "1\n", "")


@pytest.mark.parametrize("kind", ["decorated", "block"])
def test_a_trip_can_be_reported_as_pybreaker_does(driver: Driver, kind: str) -> None:
    """With `throw_new_error_on_trip` the call that trips raises the rejection, from the error of the call."""
    breaker = CircuitBreaker("x", fail_max=2, reset_timeout=30, throw_new_error_on_trip=True)
    fetch = driver.function(script("F"))

    async def in_block() -> None:
        async with driver.block(breaker):
            await driver.ask(fetch)

    call = breaker(fetch) if kind == "decorated" else driver.function(in_block)
    first, second, third = driver.outcomes(3, call)
    assert type(first) is ConnectionError
    assert (type(second), second.state, second.retry_after) == (CircuitOpenError, OPEN, 30.0)
    assert type(second.__cause__) is ConnectionError
    assert third.__cause__ is None


def test_a_failed_probe_can_be_reported_as_pybreaker_does(driver: Driver) -> None:
    """The probe that reopens raises the rejection, too; one that says nothing does not."""
    breaker = CircuitBreaker(
        "x", fail_max=1, reset_timeout=5, throw_new_error_on_trip=True, exclude=(ValueError,)
    )
    outcomes = driver.outcomes(3, driver.decorate(breaker, script("FXF")), every=5.0)
    assert letters(outcomes) == "RXR"
    assert [type(one.__cause__) for one in outcomes] == [ConnectionError, type(None), ConnectionError]


# Listeners, beside pybreaker's engine


def story(steps: str, driver: Driver | None, clock: VirtualClock, **settings: Any) -> list[Any]:
    """Play 12 calls, one a second, under pybreaker (without a driver) or holdfast; tell what the listener saw."""
    log, played = Log(), script(steps)
    given: dict[str, Any] = {
        "name": "x",
        "fail_max": 3,
        "reset_timeout": 3,
        "throw_new_error_on_trip": False,
        **settings,
    }
    log.seen.clear()

    async def scripted(*args: Any, **kwargs: Any) -> Any:
        log.seen.append("called")
        return played(*args, **kwargs)

    if driver is None:
        theirs = pybreaker.CircuitBreaker(state_storage=AgingStorage(clock), **given)
        theirs.add_listener(log)
        wrap: Any = theirs
        function: Function = wrap(blocking(scripted))
        outcomes = [outcome_of(function, clock) for _ in range(12)]
    else:
        ours = CircuitBreaker(listeners=(log,), **given)
        outcomes = driver.outcomes(
            12, functools.partial(driver.decorate(ours, scripted), 1, two=2), every=1.0
        )
    return [letters(outcomes), *log.seen]


def outcome_of(function: Function, clock: VirtualClock) -> Any:
    try:
        return function(1, two=2)
    except Exception as error:
        return error
    finally:
        clock.advance(1.0)


STORIES: dict[str, tuple[str, dict[str, Any]]] = {
    "healthy": ("S", {}),
    "failures apart": ("FFSFFS", {}),
    "an outage that ends": ("FFFS", {}),
    "an outage that goes on": ("F", {}),
    "a failed probe": ("FFFFSFFFS", {}),
    "several good probes": ("FFFSSS", {"success_threshold": 3}),
    "good probes, then a bad one": ("FFFSSFSSS", {"success_threshold": 3}),
    "one failure is enough": ("FS", {"fail_max": 1}),
    "another error on trip": ("FFFFS", {"throw_new_error_on_trip": True}),
    "no time open": ("FFFFFSF", {"reset_timeout": 0.5}),
}


@pytest.mark.parametrize("name", STORIES)
def test_listeners_hear_what_pybreaker_tells(driver: Driver, name: str) -> None:
    """The same calls of the same listener in the same order, with the same arguments, and the same outcomes."""
    steps, settings = STORIES[name]
    expected = story(steps, None, VirtualClock(), **settings)
    clock = driver.clock
    assert story(steps, driver, clock, **settings) == expected
    assert ("before", "x", "scripted", (1,), {"two": 2}) in expected


def test_manual_changes_are_told(make: Make) -> None:
    """Opening, half-opening and closing by hand are state changes to listeners, as in pybreaker."""

    def told(breaker: Any) -> list[Any]:
        log = Log()
        breaker.add_listener(log)
        for step in (breaker.open, breaker.half_open, breaker.close):
            step()
        return log.seen

    theirs = pybreaker.CircuitBreaker(name="dependency")
    assert told(make.breaker()) == told(theirs)


@pytest.mark.parametrize("kind", ["decorated", "called through", "block"])
def test_every_way_of_calling_is_told(driver: Driver, make: Make, kind: str) -> None:
    """Decorated, through `call` or as a block: successes and failures reach the listener; a block has no function."""
    log = Log()
    breaker = make.breaker(2, listeners=(log,))
    fetch = driver.function(script("SFF"))

    async def in_block() -> None:
        async with driver.block(breaker):
            await driver.ask(fetch)

    ways: dict[str, Callable[[], Function]] = {
        "decorated": lambda: breaker(fetch),
        "called through": lambda: functools.partial(breaker.call, fetch),
        "block": lambda: driver.function(in_block),
    }
    call = ways[kind]()
    for _ in range(3):
        driver.outcomes(1, functools.partial(call, 1) if kind != "block" else call)
    before: list[Any] = [("before", "dependency", "scripted", (1,), {})] if kind != "block" else []
    failure = ("failure", "dependency", "ConnectionError()")
    assert log.seen == [
        *before,
        ("success", "dependency"),
        *before,
        failure,
        *before,
        failure,
        ("state", "dependency", "closed", "open"),
    ]


@pytest.mark.parametrize("name", ["self", "method", "machine", "cb", "func", "fn", "args", "kwargs", "error"])
def test_listeners_do_not_mind_the_names_of_arguments(driver: Driver, make: Make, name: str) -> None:
    """A call with a keyword argument of any name passes, with a listener or without."""
    breaker = make.breaker(listeners=(pybreaker.CircuitBreakerListener(), object()))

    async def fetch(**kwargs: int) -> dict[str, int]:
        return kwargs

    assert driver.call(driver.decorate(breaker, fetch), **{name: 1}) == {name: 1}


def test_a_listener_may_have_some_methods_only(driver: Driver, make: Make) -> None:
    """Objects that only have the methods they need work as listeners."""

    class Pager:
        calls = 0

        def state_change(self, breaker: CircuitBreaker, old: Any, new: Any) -> None:
            self.calls += 1

    pager = Pager()
    driver.outcomes(3, driver.decorate(make.breaker(2, listeners=(pager, object())), script("F")))
    assert pager.calls == 1


def test_listeners_come_and_go(driver: Driver, make: Make) -> None:
    """A listener hears from when it is added until it is removed, of functions decorated before, in order."""
    breaker, first, second = make.breaker(100), Log(), Log()
    call = driver.decorate(breaker, script("S"))
    driver.outcomes(1, call)
    breaker.add_listener(first)
    driver.outcomes(1, call)
    breaker.add_listener(second)
    driver.outcomes(1, call)
    assert list(breaker.listeners) == [first, second]
    breaker.remove_listener(first)
    driver.outcomes(1, call)
    assert list(breaker.listeners) == [second]
    with pytest.raises(ValueError, match="not in"):
        breaker.remove_listener(first)
    assert [len(one.seen) for one in (first, second)] == [4, 4]
    breaker.remove_listener(second)
    assert driver.outcomes(1, call) == ["ok"]
    assert list(breaker.listeners) == []


def test_a_listener_may_call_back(driver: Driver, make: Make) -> None:
    """A listener may read and change the breaker that it hears from: no lock is held."""
    seen: list[Any] = []

    class Meddler(pybreaker.CircuitBreakerListener):
        def failure(self, cb: Any, exc: BaseException) -> None:
            seen.append((cb.state, cb.counts.failures))
            if cb.counts.failures == 2:
                cb.reset()

    breaker = make.breaker(4, listeners=(Meddler(),))
    driver.outcomes(5, driver.decorate(breaker, script("F")))
    assert seen == [(CLOSED, 1), (CLOSED, 2), (CLOSED, 1), (CLOSED, 2), (CLOSED, 1)]


def test_excluded_errors_are_neutral(driver: Driver) -> None:
    """Types and predicates of `exclude` work as in pybreaker, except that such an error is no success either."""
    breaker = CircuitBreaker("x", fail_max=3, exclude=(ValueError, lambda error: "expected" in str(error)))
    steps = [fail(), fail(), fail(ValueError), fail(KeyError("expected")), fail()]
    outcomes = driver.outcomes(6, driver.decorate(breaker, Script(*steps)))
    assert [type(one) for one in outcomes] == [
        *(ConnectionError, ConnectionError, ValueError, KeyError, ConnectionError, CircuitOpenError)
    ]


# Storages


def memory() -> pybreaker.CircuitMemoryStorage:
    return pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)


def stored(storage: Any, name: str = "x", **settings: Any) -> CircuitBreaker:
    return CircuitBreaker(name, fail_max=3, reset_timeout=10, state_storage=storage, **settings)


def test_the_storage_holds_what_pybreaker_would_write(driver: Driver) -> None:
    """State, counter and time of opening are in the storage, where pybreaker's tools look for them."""
    storage = memory()
    breaker = stored(storage)
    call = driver.decorate(breaker, script("SFFFFS"))
    seen: list[Any] = []
    for _ in range(4):
        driver.outcomes(1, call)
        seen.append((storage.state, storage.counter))
    assert seen == [("closed", 0), ("closed", 1), ("closed", 2), ("open", 3)]
    opened = datetime.fromtimestamp(driver.clock.time(), UTC)
    assert storage.opened_at == opened
    driver.run(driver.sleep, 10.0)
    driver.outcomes(1, call)
    assert (storage.state, storage.opened_at) == ("open", opened + timedelta(seconds=10))
    driver.run(driver.sleep, 10.0)
    driver.outcomes(1, call)
    assert (storage.state, storage.counter, storage.success_counter) == ("closed", 0, 0)


def test_a_success_resets_the_shared_counter_once(driver: Driver) -> None:
    """A success after failures sets the shared counter to 0; later successes have nothing to reset."""
    resets: list[int] = []

    class Counting(pybreaker.CircuitMemoryStorage):
        def reset_counter(self) -> None:
            resets.append(self.counter)
            super().reset_counter()

    storage = Counting(pybreaker.STATE_CLOSED)
    driver.outcomes(6, driver.decorate(stored(storage), script("SFFSSS")))
    assert (resets, storage.counter) == ([2], 0)


def test_processes_fail_together(driver: Driver) -> None:
    """Failures of all that share a storage count: the third in all opens, though each saw fewer."""
    storage = memory()
    one, other = stored(storage, "one"), stored(storage, "other")
    trip(one, driver, 2)
    assert (one.state, other.state) == (CLOSED, CLOSED)
    trip(other, driver, 1)
    assert (other.state, storage.state) == (OPEN, "open")


def test_one_opening_opens_all(driver: Driver, event_recorder: EventRecorder) -> None:
    """Within a second another breaker on the storage refuses too, for the time that is left, and tells so."""
    storage, log = memory(), Log()
    one, other = stored(storage, "one"), stored(storage, "other", listeners=(log,))
    call = driver.decorate(other, script("S"))
    driver.outcomes(1, call)
    trip(one, driver)
    driver.run(driver.sleep, 1.0)
    assert letters(driver.outcomes(1, call)) == "R"
    assert (other.state, other.retry_after) == (OPEN, 9.0)
    assert [(event.name, event.reason) for event in event_recorder.of(CircuitOpened)] == [
        ("one", "3 failures in a row"),
        ("other", "opened by another process"),
    ]
    assert log.seen[-1] == ("state", "other", "closed", "open")


def test_one_recovery_closes_all(driver: Driver, event_recorder: EventRecorder) -> None:
    """When one breaker's probe succeeds, the others on the storage close within a second."""
    storage = memory()
    one, other = stored(storage, "one"), stored(storage, "other")
    trip(one, driver)
    assert letters(driver.outcomes(1, driver.decorate(other, script("S")))) == "R"
    driver.run(driver.sleep, 10.0)
    driver.outcomes(1, driver.decorate(one, script("S")))
    driver.run(driver.sleep, 1.0)
    assert letters(driver.outcomes(1, driver.decorate(other, script("S")))) == "S"
    assert [event.name for event in event_recorder.of(CircuitClosed)] == ["one", "other"]


def test_a_new_process_finds_the_state(driver: Driver) -> None:
    """A breaker made on a storage that says open is open at its first call, for what is left of the time."""
    storage = memory()
    trip(stored(storage), driver)
    driver.run(driver.sleep, 4.0)
    again = stored(storage)
    call = driver.decorate(again, script("S"))
    assert letters(driver.outcomes(1, call)) == "R"
    assert again.retry_after == 6.0
    driver.run(driver.sleep, 6.0)
    assert letters(driver.outcomes(1, call)) == "S"
    assert (again.state, storage.state) == (CLOSED, "closed")


def test_failures_of_blocks_are_shared(driver: Driver) -> None:
    """`with breaker:` counts in the storage as a decorated call does."""
    storage = memory()
    breaker = stored(storage)

    async def in_block() -> None:
        async with driver.block(breaker):
            raise ConnectionError

    driver.outcomes(2, driver.function(in_block))
    assert storage.counter == 2


def test_failures_of_permits_are_shared(driver: Driver) -> None:
    """A permit that is settled by hand counts in the storage as a decorated call does."""
    storage = memory()
    breaker = stored(storage)
    permits: list[Permit] = [breaker.admit(), breaker.admit()]
    for permit in permits:
        permit.failure()
    assert storage.counter == 2


def test_a_late_failure_counts_for_nobody(driver: Driver) -> None:
    """A call from before the outage that fails after the recovery is no failure here, and none in the storage."""
    storage, log = memory(), Log()
    breaker = stored(storage, listeners=(log,))
    late = [breaker.admit() for _ in range(3)]
    trip(breaker, driver)
    driver.run(driver.sleep, 10.0)
    driver.outcomes(1, driver.decorate(breaker, script("S")))
    log.seen.clear()
    for permit in late:
        permit.failure(ConnectionError())
    assert (breaker.state, breaker.fail_counter, storage.counter, log.seen) == (CLOSED, 0, 0, [])


def test_a_manual_change_is_shared(driver: Driver) -> None:
    """Opening and closing by hand reaches the others on the storage."""
    storage = memory()
    one, other = stored(storage, "one"), stored(storage, "other")
    call = driver.decorate(other, script("S"))
    one.open()
    assert letters(driver.outcomes(1, call)) == "R"
    one.close()
    driver.run(driver.sleep, 1.0)
    assert letters(driver.outcomes(1, call)) == "S"


def test_overrides_of_one_process_stay_its_own(driver: Driver) -> None:
    """Pybreaker knows no isolated, disabled or shadow: such a state neither spreads nor is lost to the storage."""
    storage = memory()
    one, other = stored(storage, "one"), stored(storage, "other")
    call = driver.decorate(one, script("S"))
    for step, expected in ((one.isolate, "R"), (one.disable, "S"), (one.shadow, "S")):
        step()
        assert letters(driver.outcomes(3, call, every=2.0)) == expected * 3
        assert letters(driver.outcomes(1, driver.decorate(other, script("S")))) == "S"
    assert storage.state == "closed"


class BrokenStorage(pybreaker.CircuitBreakerStorage):
    """A storage that cannot be reached."""

    def __init__(self) -> None:
        super().__init__("broken")

    def _broken(self, *_: object) -> Any:
        raise OSError("no route to storage")

    state: Any = property(_broken, _broken)
    counter: Any = state
    success_counter: Any = state
    opened_at: Any = state
    increment_counter = reset_counter = increment_success_counter = reset_success_counter = _broken


def test_a_storage_that_is_down_changes_no_outcome(driver: Driver, event_recorder: EventRecorder) -> None:
    """Without its storage a breaker goes on by what it knows itself: same outcomes, same states."""
    steps = "SFFSFFFSSF"

    def outcomes(**settings: Any) -> tuple[str, list[str]]:
        breaker = CircuitBreaker("x", fail_max=3, reset_timeout=2, **settings)
        call = driver.decorate(breaker, script(steps))
        found, states = "", list[str]()
        for _ in range(12):
            found += letters(driver.outcomes(1, call))
            states.append(breaker.current_state)
            driver.run(driver.sleep, 1.0)
        return found, states

    assert outcomes(state_storage=BrokenStorage()) == outcomes()
    failures = event_recorder.of(StorageFailed)
    assert {str(event.error) for event in failures} == {"no route to storage"}
    assert {event.name for event in failures} == {"x"}


# Real Redis


def shared(client: CountingRedis, namespace: str, name: str = "x", **settings: Any) -> CircuitBreaker:
    storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client, namespace=namespace)
    client.commands.clear()
    return stored(storage, name, **settings)


def keys(client: CountingRedis, namespace: str) -> dict[str, Any]:
    names = ("state", "fail_counter", "success_counter", "opened_at")
    return {name: client.get(f"{namespace}:pybreaker:{name}") for name in names}


def test_redis_holds_the_state(driver: Driver, redis_url: str, redis_namespace: str) -> None:
    """State, counter and time of opening are in Redis under pybreaker's keys."""
    with connect(redis_url) as client:
        breaker = shared(client, redis_namespace)
        trip(breaker, driver)
        opened = str(int(driver.clock.time())).encode()
        assert keys(client, redis_namespace) == {
            "state": b"open",
            "fail_counter": b"3",
            "success_counter": b"0",
            "opened_at": opened,
        }


@pytest.mark.parametrize("kind", ["bytes", "decode_responses"])
def test_both_kinds_of_clients_write(driver: Driver, redis_url: str, redis_namespace: str, kind: str) -> None:
    """A client with `decode_responses` writes what one with bytes reads; the calls go as they should."""
    with connect(redis_url, decode=kind == "decode_responses") as client, connect(redis_url) as reader:
        writing, reading = shared(client, redis_namespace, "one"), shared(reader, redis_namespace, "other")
        call = driver.decorate(writing, script("SFFFS"))
        assert letters(driver.outcomes(6, call)) == "SFFFRR"
        assert letters(driver.outcomes(1, driver.decorate(reading, script("S")))) == "R"
        driver.run(driver.sleep, 10.0)
        assert letters(driver.outcomes(1, call)) == "S"
        assert keys(reader, redis_namespace)["state"] == b"closed"


def test_what_pybreakers_storage_cannot_read_is_reported(
    driver: Driver, redis_url: str, redis_namespace: str, event_recorder: EventRecorder
) -> None:
    """Pybreaker's storage cannot read a state with `decode_responses`: that is an event, not an error of the call."""
    with connect(redis_url, decode=True) as client, connect(redis_url) as other:
        trip(shared(other, redis_namespace, "one"), driver)
        event_recorder.clear()
        call = driver.decorate(shared(client, redis_namespace, "other"), script("S"))
        assert letters(driver.outcomes(1, call)) == "S"
        assert [type(event.error) for event in event_recorder.of(StorageFailed)] == [AttributeError]


def test_breakers_on_one_redis_open_together(driver: Driver, redis_url: str, redis_namespace: str) -> None:
    """Two services with connections of their own see each other's failures, openings and recoveries."""
    with connect(redis_url) as first, connect(redis_url) as second:
        one, other = shared(first, redis_namespace, "one"), shared(second, redis_namespace, "other")
        trip(one, driver, 2)
        trip(other, driver, 1)
        driver.run(driver.sleep, 1.0)
        assert letters(driver.outcomes(1, driver.decorate(one, script("S")))) == "R"
        assert (one.state, other.state) == (OPEN, OPEN)
        assert one.retry_after == pytest.approx(9.0, abs=1.0)
        driver.run(driver.sleep, 9.0)
        assert letters(driver.outcomes(1, driver.decorate(other, script("S")))) == "S"
        driver.run(driver.sleep, 1.0)
        assert letters(driver.outcomes(1, driver.decorate(one, script("S")))) == "S"
        assert (one.state, other.state) == (CLOSED, CLOSED)


def test_namespaces_keep_breakers_apart(driver: Driver, redis_url: str, redis_namespace: str) -> None:
    """What opens in one namespace does not concern another."""
    with connect(redis_url) as client:
        one = shared(client, f"{redis_namespace}:a", "one")
        other = shared(client, f"{redis_namespace}:b", "other")
        trip(one, driver)
        driver.run(driver.sleep, 1.0)
        assert letters(driver.outcomes(1, driver.decorate(other, script("S")))) == "S"


def test_a_restart_keeps_what_redis_knows(driver: Driver, redis_url: str, redis_namespace: str) -> None:
    """A service that restarts while its dependency is down does not call it again until it is time."""
    with connect(redis_url) as client:
        trip(shared(client, redis_namespace), driver)
    driver.run(driver.sleep, 3.0)
    with connect(redis_url) as client:
        breaker = shared(client, redis_namespace)
        call = driver.decorate(breaker, script("S"))
        assert letters(driver.outcomes(1, call)) == "R"
        assert breaker.retry_after == pytest.approx(7.0, abs=1.0)
        driver.run(driver.sleep, 7.0)
        assert letters(driver.outcomes(1, call)) == "S"


def test_pybreakers_own_engine_shares_with_ours(redis_url: str, redis_namespace: str) -> None:
    """While a fleet migrates, old and new processes open each other's breakers."""
    clock = VirtualClock(epoch=time.time() - 1000.0)
    with use_clock(clock), connect(redis_url) as client:
        storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client, namespace=redis_namespace)
        theirs = pybreaker.CircuitBreaker(fail_max=3, reset_timeout=60, state_storage=storage)
        ours = CircuitBreaker("x", fail_max=3, reset_timeout=60, state_storage=storage)
        fetch = ours(lambda: "ok")
        for _ in range(3):
            with pytest.raises((ConnectionError, pybreaker.CircuitBreakerError)):
                theirs.call(script("F"))
        with pytest.raises(pybreaker.CircuitBreakerError):
            fetch()
        assert ours.retry_after == pytest.approx(60.0, abs=2.0)
        ours.close()
        assert theirs.call(lambda: "ok") == "ok"
        for _ in range(3):
            with pytest.raises(ConnectionError):
                ours(script("F").function())()
        with pytest.raises(pybreaker.CircuitBreakerError):
            theirs.call(lambda: "ok")


def test_a_closed_success_costs_no_round_trip(driver: Driver, redis_url: str, redis_namespace: str) -> None:
    """A thousand successes within a second send one command, to learn the state; after that one a second."""
    with connect(redis_url) as client:
        call = driver.decorate(shared(client, redis_namespace), script("S"))
        driver.outcomes(1000, call)
        assert client.commands == ["GET"]
        driver.outcomes(50, call, every=0.1)
        assert len(client.commands) <= 1 + 5


def test_a_rejection_costs_no_round_trip(driver: Driver, redis_url: str, redis_namespace: str) -> None:
    """An open breaker refuses without asking Redis more than once a second."""
    with connect(redis_url) as client:
        breaker = shared(client, redis_namespace)
        trip(breaker, driver)
        client.commands.clear()
        call = driver.decorate(breaker, script("S"))
        driver.outcomes(1000, call)
        assert client.commands == []
        driver.outcomes(41, call, every=0.1)
        assert client.commands == ["GET"] * 4


def test_a_redis_that_dies_raises_nothing(
    driver: Driver, redis_process: RedisProcess, event_recorder: EventRecorder
) -> None:
    """When Redis is killed, calls succeed and fail as the dependency does, and failures still open the breaker."""
    with connect(redis_process.url) as client:
        breaker = shared(client, "killed")
        call = driver.decorate(breaker, script("SSFFFFS"))
        assert letters(driver.outcomes(1, call)) == "S"
        redis_process.kill()
        assert letters(driver.outcomes(5, call, every=0.2)) == "SFFFR"
        assert breaker.state is OPEN


def test_an_open_breaker_stays_open_when_redis_dies(driver: Driver, redis_process: RedisProcess) -> None:
    """A breaker that opened does not close because nobody can tell it to be open."""
    with connect(redis_process.url) as client:
        breaker = shared(client, "killed")
        call = driver.decorate(breaker, script("FFFS"))
        driver.outcomes(3, call)
        redis_process.kill()
        assert letters(driver.outcomes(10, call, every=1.0)) == "R" * 10
        driver.run(driver.sleep, 1.0)
        assert letters(driver.outcomes(1, call)) == "S"
        assert breaker.state is CLOSED


def test_a_redis_that_comes_back_is_used_again(driver: Driver, redis_process: RedisProcess) -> None:
    """After Redis is back, empty, breakers share again what happens from then on."""
    with connect(redis_process.url) as first, connect(redis_process.url) as second:
        one, other = shared(first, "back", "one"), shared(second, "back", "other")
        call = driver.decorate(other, script("S"))
        assert letters(driver.outcomes(1, call)) == "S"
        redis_process.kill()
        assert letters(driver.outcomes(3, call, every=1.0)) == "SSS"
        redis_process.start()
        trip(one, driver)
        driver.run(driver.sleep, 1.0)
        assert letters(driver.outcomes(1, call)) == "R"
