"""Seam: code written for pybreaker × `holdfast.compat.pybreaker`; each rule is shown of pybreaker and of holdfast."""

import asyncio
import functools
import inspect
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pybreaker
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.tests.integration.compat._libraries import AgingStorage, Breakers, Log, letter, script
from backend.tests.integration.resilience._race import race
from backend.tests.integration.resilience._redis import CountingRedis
from holdfast.compat import pybreaker as compat
from holdfast.infrastructure.resilience.circuit_breaker import breaker_of
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.errors import CircuitOpenError, ConfigurationError
from holdfast.infrastructure.resilience.events import CallbackFailed, CircuitClosed, CircuitOpened
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail
from holdfast.testing.recorder import EventRecorder

PAGE = Path(__file__).parents[4] / "docs" / "guides" / "migration.md"


class Invalid(ValueError):
    """A business error of a user's own."""


# States


def test_the_defaults_are_five_in_a_row_and_a_minute(breakers: Breakers) -> None:
    """Made without settings, five failures in a row open it, for 60 s; the call that does it says so itself."""
    breaker = breakers.breaker()
    assert (breaker.fail_max, breaker.reset_timeout, breaker.success_threshold) == (5, 60, 1)
    assert (breaker.name, breaker.excluded_exceptions, breaker.listeners) == (None, (), ())
    assert breakers.letters(breaker, "FFFFSFFFFFS") == "FFFFSFFFFRR"
    breakers.clock.advance(59.9)
    assert breakers.letters(breaker, "S") == "R"
    breakers.clock.advance(0.2)
    assert breakers.letters(breaker, "SS") == "SS"


def test_settings_may_be_given_by_position(breakers: Breakers) -> None:
    """The constructor takes pybreaker's arguments in pybreaker's order."""
    log = Log()
    breaker = breakers.breaker(2, 7, 3, [Invalid], [log])
    assert (breaker.fail_max, breaker.reset_timeout, breaker.success_threshold) == (2, 7, 3)
    assert (breaker.excluded_exceptions, breaker.listeners) == ((Invalid,), (log,))
    names = [*inspect.signature(breakers.module.CircuitBreaker).parameters]
    assert names == [*inspect.signature(pybreaker.CircuitBreaker).parameters]


def test_the_original_error_may_be_kept(breakers: Breakers) -> None:
    """With `throw_new_error_on_trip=False` the call that opens it raises its own error."""
    breaker = breakers.breaker(fail_max=2, throw_new_error_on_trip=False)
    assert breakers.letters(breaker, "FFS") == "FFR"
    assert breaker.open() is False
    assert breakers.breaker().open() is True


def test_the_error_of_a_trip_leads_to_its_cause(breakers: Breakers) -> None:
    """The error in place of the original one has that as its context."""
    error = breakers.outcome(breakers.breaker(fail_max=1), script("F"))
    assert isinstance(error, pybreaker.CircuitBreakerError)
    assert isinstance(error.__context__, ConnectionError)


def test_an_open_breaker_calls_nothing(breakers: Breakers) -> None:
    """While open the function is not called."""
    breaker, source = breakers.breaker(), script("S")
    breaker.open()
    assert letter(breakers.outcome(breaker, source)) == "R"
    assert source.calls == 0


def test_a_failed_trial_opens_it_again(breakers: Breakers) -> None:
    """After the time one call is let through; its failure opens the breaker for the same time."""
    breaker = breakers.breaker(fail_max=2, reset_timeout=10)
    assert breakers.letters(breaker, "FF") == "FR"
    for _ in range(3):
        breakers.clock.advance(10.1)
        assert breakers.letters(breaker, "FS") == "RR"
        assert breaker.current_state == "open"
    breakers.clock.advance(10.1)
    assert breakers.letters(breaker, "S") == "S"
    assert breaker.current_state == "closed"


def test_it_closes_after_as_many_successes_as_asked_for(breakers: Breakers) -> None:
    """`success_threshold` trials in a row have to succeed; a failure between them opens it."""
    breaker = breakers.breaker(fail_max=1, reset_timeout=10, success_threshold=3)
    breaker.open()
    breakers.clock.advance(10.1)
    seen: list[Any] = []
    for step in "SS":
        breakers.letters(breaker, step)
        seen.append((breaker.current_state, breaker.success_counter))
    assert seen == [("half-open", 1), ("half-open", 2)]
    assert breakers.letters(breaker, "F") == "R"
    assert (breaker.current_state, breaker.success_counter) == ("open", 0)
    breakers.clock.advance(10.1)
    assert breakers.letters(breaker, "SSS") == "SSS"
    assert (breaker.current_state, breaker.success_counter) == ("closed", 0)


def test_the_counter_tells_failures_in_a_row(breakers: Breakers) -> None:
    """`fail_counter` counts to the trip and on over failed trials; a success in closed state and closing reset it."""
    breaker = breakers.breaker(fail_max=3, reset_timeout=10)
    seen: list[int] = []
    for step in "FFSFFF":
        breakers.letters(breaker, step)
        seen.append(breaker.fail_counter)
    assert seen == [1, 2, 0, 1, 2, 3]
    breakers.clock.advance(10.1)
    breakers.letters(breaker, "F")
    assert breaker.fail_counter == 4
    breakers.clock.advance(10.1)
    breakers.letters(breaker, "S")
    assert breaker.fail_counter == 0


def test_states_can_be_set_by_hand(breakers: Breakers) -> None:
    """`open`, `half_open` and `close` set the state; `state` and `current_state` show it."""
    breaker = breakers.breaker(fail_max=2, reset_timeout=10)
    breakers.letters(breaker, "F")
    for set_state, name, counter in (
        (breaker.open, "open", 1),
        (breaker.half_open, "half-open", 1),
        (breaker.close, "closed", 0),
    ):
        set_state()
        assert (breaker.current_state, breaker.state.name, breaker.fail_counter) == (name, name, counter)
    breaker.half_open()
    assert breakers.letters(breaker, "F") == "R"
    assert breaker.current_state == "open"
    breaker.half_open()
    assert breakers.letters(breaker, "S") == "S"
    assert breaker.current_state == "closed"


def test_an_unknown_state_is_refused(breakers: Breakers) -> None:
    """Only pybreaker's three states can be assigned."""
    breaker = breakers.breaker()
    with pytest.raises(ValueError, match="Unknown state 'ajar', valid states: closed, open, half-open"):
        breaker.state = "ajar"
    assert breaker.current_state == "closed"


def test_the_name_can_be_changed(breakers: Breakers) -> None:
    """The name is what was given, and may be assigned."""
    breaker = breakers.breaker(name="one")
    assert breaker.name == "one"
    breaker.name = "two"
    assert breaker.name == "two"


def test_settings_can_be_changed_while_it_runs(breakers: Breakers) -> None:
    """`fail_max`, `reset_timeout` and `success_threshold` hold at once, for a breaker that is open too."""
    breaker = breakers.breaker(fail_max=5, reset_timeout=100)
    assert breakers.letters(breaker, "FF") == "FF"
    breaker.fail_max = 3
    assert breakers.letters(breaker, "F") == "R"
    breakers.clock.advance(20)
    assert breakers.letters(breaker, "S") == "R"
    breaker.reset_timeout = 15
    breaker.success_threshold = 2
    assert breakers.letters(breaker, "S") == "S"
    assert breaker.current_state == "half-open"
    assert breakers.letters(breaker, "S") == "S"
    assert (breaker.fail_max, breaker.reset_timeout, breaker.success_threshold) == (3, 15, 2)
    breaker.open()
    breaker.reset_timeout = 30
    breakers.clock.advance(20)
    assert breakers.letters(breaker, "S") == "R"
    breakers.clock.advance(11)
    assert breakers.letters(breaker, "S") == "S"


def test_a_limit_that_was_reached_before_it_was_set(breakers: Breakers) -> None:
    """A `fail_max` below the failures so far opens at the next one, which counts too."""
    breaker = breakers.breaker(fail_max=4)
    assert breakers.letters(breaker, "FF") == "FF"
    breaker.fail_max = 1
    assert (breakers.letters(breaker, "F"), breaker.fail_counter) == ("R", 3)


def test_after_closing_by_hand_nothing_is_counted(breakers: Breakers) -> None:
    """The failures before a `close` say nothing of those after it, whether or not anybody listens."""
    for listeners in ([], [Log()]):
        breaker = breakers.breaker(fail_max=1, listeners=listeners)
        for _ in range(2):
            assert (breakers.letters(breaker, "F"), breaker.fail_counter) == ("R", 1)
            breaker.close()
            assert breaker.fail_counter == 0


def test_a_threshold_that_was_reached_before_it_was_set(breakers: Breakers) -> None:
    """A `success_threshold` below the successes so far takes one more trial, and is no dead end."""
    for last, state in (("S", "closed"), ("F", "open")):
        breaker = breakers.breaker(success_threshold=3)
        breaker.half_open()
        assert breakers.letters(breaker, "SS") == "SS"
        breaker.success_threshold = 1
        breakers.letters(breaker, last)
        assert breaker.current_state == state


def test_a_threshold_may_be_lowered_while_a_trial_runs(virtual_clock: VirtualClock) -> None:
    """The trial that is out then decides, and is not lost."""
    breaker = compat.CircuitBreaker(success_threshold=3)
    breaker.half_open()

    def lower() -> None:
        breaker.success_threshold = 1

    breaker.call(script("S"))
    breaker.call(lower)
    assert breaker.current_state == "closed"


ACTS: dict[str, Callable[[Breakers, Any], Any]] = {
    "success": lambda breakers, breaker: breakers.letters(breaker, "S"),
    "failure": lambda breakers, breaker: breakers.letters(breaker, "F"),
    "wait": lambda breakers, _: breakers.clock.advance(11.0),
    "open": lambda _, breaker: breaker.open(),
    "half-open": lambda _, breaker: breaker.half_open(),
    "close": lambda _, breaker: breaker.close(),
    "fail_max": lambda _, breaker: setattr(breaker, "fail_max", 1),
}


@given(
    steps=st.lists(st.sampled_from([*ACTS]), max_size=12),
    limits=st.tuples(st.integers(1, 3), st.just(10), st.integers(1, 3)),
    heard=st.booleans(),
    stored=st.booleans(),
    throw=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_step_by_step_they_agree(
    *, steps: list[str], limits: tuple[int, int, int], heard: bool, stored: bool, throw: bool
) -> None:
    """Whatever is called and set by hand, both have the same outcome, state and counters, and tell the same."""
    seen: list[list[Any]] = []
    for module in (pybreaker, compat):
        clock, log = VirtualClock(), Log()
        with use_clock(clock):
            breakers = Breakers(module, clock)
            given: dict[str, Any] = {"state_storage": AgingStorage(clock)} if stored else {}
            breaker = breakers.breaker(
                *limits, listeners=[log] * heard, throw_new_error_on_trip=throw, **given
            )
            seen.append([])
            for step in steps:
                outcome = ACTS[step](breakers, breaker)
                counters = (breaker.fail_counter, breaker.success_counter)
                seen[-1].append((step, outcome, breaker.current_state, counters, heard_of(log)))
    assert seen[0] == seen[1]


def heard_of(log: Log) -> list[Any]:
    """Return what was told, without the breaker; a state that is set again is told by pybreaker alone."""
    states = [entry[2:] if entry[0] == "state" else entry[0] for entry in log.seen]
    return [state for state in states if len(state) != 2 or state[0] != state[1]]


def test_no_time_at_all_is_a_time(breakers: Breakers) -> None:
    """With `reset_timeout=0` the call after the trip is the trial."""
    breaker = breakers.breaker(fail_max=1, reset_timeout=0)
    assert breaker.reset_timeout == 0
    assert breakers.letters(breaker, "FFS") == "RRS"
    assert breaker.current_state == "closed"


# Errors


def test_excluded_errors_do_not_count(breakers: Breakers) -> None:
    """Errors of an excluded type, of one derived from it, or that a predicate names, open nothing."""

    def is_interrupted(error: BaseException) -> bool:
        return isinstance(error, OSError) and error.errno == 4

    breaker = breakers.breaker(fail_max=2, exclude=[ValueError, is_interrupted])
    for error in (ValueError(), Invalid(), OSError(4, "x")):
        assert not breaker.is_system_error(error)
        assert breakers.outcome(breaker, Script(fail(error))) is error
    assert (breaker.fail_counter, breaker.current_state) == (0, "closed")
    assert breaker.is_system_error(OSError(5, "x"))
    assert breaker.is_system_error(KeyError())


def test_exclusions_can_be_changed(breakers: Breakers) -> None:
    """Types and predicates can be added and removed; removing one that is not there is an error."""
    breaker = breakers.breaker(fail_max=1)
    breaker.add_excluded_exception(ValueError)
    breaker.add_excluded_exceptions(KeyError, IndexError)
    assert breaker.excluded_exceptions == (ValueError, KeyError, IndexError)
    assert breakers.letters(breaker, "XX") == "XX"
    breaker.remove_excluded_exception(ValueError)
    assert breaker.excluded_exceptions == (KeyError, IndexError)
    assert breakers.letters(breaker, "X") == "R"
    with pytest.raises(ValueError, match=r"not in list"):
        breaker.remove_excluded_exception(ValueError)


# Forms


def test_arguments_and_results_pass(breakers: Breakers) -> None:
    """`call` hands arguments over and returns the result."""
    breaker, source = breakers.breaker(), script("S")
    assert breakers.outcome(breaker, source.function(), 1, two=2) == "ok"
    assert source.arguments == (((1,), {"two": 2}),)


@pytest.mark.parametrize("form", ["@breaker", "@breaker()"])
def test_it_decorates(breakers: Breakers, form: str) -> None:
    """`@breaker` and `@breaker()` keep name, docstring and signature, and guard each call."""
    breaker = breakers.breaker(fail_max=2)

    def ask(first: int, second: int = 2) -> int:
        """Ask."""
        return first // second

    decorated = (breaker() if form == "@breaker()" else breaker)(ask)
    assert (decorated.__name__, decorated.__doc__, decorated.__wrapped__) == ("ask", "Ask.", ask)
    assert str(inspect.signature(decorated)) == str(inspect.signature(ask))
    assert decorated(4) == 2
    with pytest.raises(ZeroDivisionError):
        decorated(4, second=0)
    with pytest.raises(pybreaker.CircuitBreakerError):
        decorated(4, 0)
    assert breaker.current_state == "open"


def test_methods_classes_and_objects_can_be_guarded(breakers: Breakers) -> None:
    """A method, a bound method, a class, a partial and a callable object can be decorated."""
    breaker = breakers.breaker()

    class Client:
        def __init__(self, base: int = 1) -> None:
            self.base = base

        def plain(self, more: int) -> int:
            return self.base + more

        ask: Any = breaker(plain)
        __call__ = plain

    client = Client(10)
    assert client.ask(1) == 11
    for fn in (client.plain, client, functools.partial(Client.plain, client)):
        assert breaker(fn)(2) == 12
    assert breaker(Client)(7).base == 7


def test_a_block_can_be_guarded(breakers: Breakers) -> None:
    """`with breaker.calling():` counts as a call does, and is refused as one."""
    breaker, ran = breakers.breaker(fail_max=2), list[int]()
    with breaker.calling():
        ran.append(1)
    with pytest.raises(ConnectionError), breaker.calling():
        raise ConnectionError
    with pytest.raises(pybreaker.CircuitBreakerError), breaker.calling():
        raise ConnectionError
    with pytest.raises(pybreaker.CircuitBreakerError), breaker.calling():
        ran.append(2)
    assert (ran, breaker.current_state) == ([1], "open")


def test_a_breaker_guards_many_functions(breakers: Breakers) -> None:
    """Failures of all functions under one breaker count together."""
    breaker = breakers.breaker(fail_max=2)
    first, second = breaker(script("F").function()), breaker(script("F").function())
    with pytest.raises(ConnectionError):
        first()
    with pytest.raises(pybreaker.CircuitBreakerError):
        second()


# Listeners


def test_listeners_hear_of_everything(breakers: Breakers) -> None:
    """Listeners hear of calls, failures, successes and states, in pybreaker's order, with the breaker itself."""
    log = Log()
    breaker = breakers.breaker(fail_max=2, reset_timeout=10, listeners=[log])
    ask = script("FFS").function()
    breakers.outcome(breaker, ask, 1, two=2)
    breakers.outcome(breaker, ask)
    breakers.outcome(breaker, ask)
    breakers.clock.advance(10.1)
    breakers.outcome(breaker, ask)
    assert log.seen == [
        ("before", breaker, ask, (1,), {"two": 2}),
        ("failure", breaker, ConnectionError, 1),
        ("before", breaker, ask, (), {}),
        ("failure", breaker, ConnectionError, 2),
        ("state", breaker, "closed", "open"),
        ("state", breaker, "open", "half-open"),
        ("before", breaker, ask, (), {}),
        ("state", breaker, "half-open", "closed"),
        ("success", breaker),
    ]


def test_listeners_can_be_changed(breakers: Breakers) -> None:
    """Listeners can be added, several at once, and removed; removing one that is not there is an error."""
    one, two, three = Log(), Log(), Log()
    breaker = breakers.breaker(listeners=[one])
    breaker.add_listener(two)
    breaker.add_listeners(three, one)
    breaker.remove_listener(two)
    assert breaker.listeners == (one, three, one)
    breakers.letters(breaker, "S")
    assert [len(log.seen) for log in (one, two, three)] == [4, 0, 2]
    with pytest.raises(ValueError, match=r"not in list"):
        breaker.remove_listener(two)


def test_excluded_errors_are_no_failures_to_listeners(breakers: Breakers) -> None:
    """Listeners are not told of a failure where the error is excluded."""
    log = Log()
    breakers.letters(breakers.breaker(exclude=[ValueError], listeners=[log]), "X")
    assert "failure" not in {entry[0] for entry in log.seen}


def test_changes_by_hand_are_told(breakers: Breakers) -> None:
    """Listeners hear of states that are set by hand."""
    log = Log()
    breaker = breakers.breaker(listeners=[log])
    breaker.open()
    breaker.half_open()
    breaker.close()
    assert [entry[2:] for entry in log.seen] == [
        ("closed", "open"),
        ("open", "half-open"),
        ("half-open", "closed"),
    ]


# Storages


@pytest.mark.parametrize("state", [pybreaker.STATE_CLOSED, pybreaker.STATE_OPEN])
def test_a_breaker_begins_in_its_storage_s_state(breakers: Breakers, state: str) -> None:
    """A breaker on a storage has the storage's state when it is made, without telling anybody."""
    log = Log()
    storage = breakers.module.CircuitMemoryStorage(state)
    breaker = breakers.breaker(state_storage=storage, listeners=[log])
    assert (breaker.current_state, log.seen) == (state, [])
    assert breakers.letters(breaker, "S") == "S"


def test_breakers_on_a_storage_count_together(breakers: Breakers) -> None:
    """Failures of two breakers on one storage open both."""
    storage = breakers.module.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
    one, other = (breakers.breaker(fail_max=3, state_storage=storage) for _ in range(2))
    assert breakers.letters(one, "FF") == "FF"
    assert (other.fail_counter, breakers.letters(other, "F")) == (2, "R")
    breakers.clock.advance(1.0)
    assert breakers.letters(one, "S") == "R"
    assert (one.current_state, other.current_state, storage.state) == ("open", "open", "open")


def shared(breakers: Breakers, client: CountingRedis, namespace: str, **settings: Any) -> Any:
    storage = breakers.module.CircuitRedisStorage(pybreaker.STATE_CLOSED, client, namespace=namespace)
    return breakers.breaker(fail_max=3, state_storage=storage, **settings)


def test_redis_carries_the_state_on(
    breakers: Breakers, redis_client: CountingRedis, redis_namespace: str
) -> None:
    """What one process counted and opened holds for the next one on the same Redis."""
    breaker = shared(breakers, redis_client, redis_namespace)
    assert breakers.letters(breaker, "FF") == "FF"
    again = shared(breakers, redis_client, redis_namespace)
    assert again.fail_counter == 2
    assert breakers.letters(again, "F") == "R"
    last = shared(breakers, redis_client, redis_namespace)
    assert (last.current_state, last.fail_counter) == ("open", 3)
    names = ("state", "fail_counter")
    stored = [redis_client.get(f"{redis_namespace}:pybreaker:{name}") for name in names]
    assert stored == [b"open", b"3"]


def test_closing_by_hand_reaches_redis(
    breakers: Breakers, redis_client: CountingRedis, redis_namespace: str
) -> None:
    """A breaker that is closed by hand is closed for the next process, with nothing counted."""
    breaker = shared(breakers, redis_client, redis_namespace)
    breakers.letters(breaker, "FFF")
    breaker.close()
    again = shared(breakers, redis_client, redis_namespace)
    assert (again.current_state, again.fail_counter) == ("closed", 0)
    assert breakers.letters(again, "S") == "S"


def test_old_and_new_share_a_redis(
    virtual_clock: VirtualClock, redis_client: CountingRedis, redis_namespace: str
) -> None:
    """While a fleet migrates, a process of each kind opens the other's breaker."""
    theirs, ours = Breakers(pybreaker, virtual_clock), Breakers(compat, virtual_clock)
    old = shared(theirs, redis_client, redis_namespace)
    assert theirs.letters(old, "FF") == "FF"
    new = shared(ours, redis_client, redis_namespace)
    assert ours.letters(new, "FS") == "RR"
    assert old.current_state == "open"


# What is offered


def test_every_public_name_is_there() -> None:
    """Whatever pybreaker offers is offered; storages, states and the error are its own."""
    replaced = {"CircuitBreaker", "CircuitBreakerListener"}
    assert set(pybreaker.__all__) - set(compat.__all__) == set()
    for name in set(pybreaker.__all__) - replaced:
        assert getattr(compat, name) is getattr(pybreaker, name)
    methods = {name for name in dir(pybreaker.CircuitBreaker) if not name.startswith("_")}
    assert methods - set(dir(compat.CircuitBreaker)) == set()


def test_listeners_of_either_class_are_heard(virtual_clock: VirtualClock) -> None:
    """A listener may come from pybreaker's class, from the one here, or from none."""
    heard: list[str] = []

    class Ours(compat.CircuitBreakerListener):
        def success(self, cb: compat.CircuitBreaker) -> None:
            heard.append(f"ours {cb.name}")

    class None_:
        def success(self, cb: compat.CircuitBreaker) -> None:
            heard.append(f"none {cb.name}")

    theirs = Log()
    breaker = compat.CircuitBreaker(listeners=[Ours(), None_(), theirs], name="db")
    breaker.call(script("S"))
    assert heard == ["ours db", "none db"]
    assert [entry[0] for entry in theirs.seen] == ["before", "success"]


# Different on purpose: the rows of the table in docs/guides/migration.md, each named by the docstring of its test


def rows(page: str, library: str) -> list[str]:
    """Return the first column of the table of deliberate differences of one library."""
    table = page.split(f"| different on purpose | {library} |")[1].split("\n\n", maxsplit=1)[0]
    return re.findall(r"^\| (.+?) \|", table.split("\n", 2)[2], re.MULTILINE)


def test_every_difference_has_a_test() -> None:
    """The table in the guide and the tests below name the same differences."""
    tests = [value.__doc__ for name, value in globals().items() if name.startswith("test_difference")]
    named = [doc.split(": ")[0] for doc in tests]
    assert sorted(named) == sorted(rows(PAGE.read_text(encoding="utf-8"), "pybreaker"))


def test_difference_lock() -> None:
    """A slow call: others go on meanwhile, for no lock is held during it."""
    theirs, ours, found = pybreaker.CircuitBreaker(), compat.CircuitBreaker(), list[Any]()

    def beside(action: Any) -> None:
        thread = threading.Thread(target=lambda: found.append(action()))
        thread.start()
        thread.join(10)

    lock: Any = vars(theirs)["_lock"]
    theirs.call(beside, lambda: lock.acquire(blocking=False))
    ours.call(beside, lambda: ours.call(lambda: "not held up"))
    assert found == [False, "not held up"]


def test_difference_async_def() -> None:
    """`async def`: the call counts when it is awaited, by how it ends."""

    async def play(breaker: Any) -> str:
        ask = breaker(script("F").coroutine_function())
        found = ""
        for _ in range(3):
            try:
                await ask()
            except Exception as error:
                found += letter(error)
        return found

    assert VirtualClock().run(play(pybreaker.CircuitBreaker(fail_max=2))) == "FFF"
    assert VirtualClock().run(play(compat.CircuitBreaker(fail_max=2))) == "FRR"
    assert inspect.iscoroutinefunction(compat.CircuitBreaker()(script("S").coroutine_function()))


def test_difference_call_async(virtual_clock: VirtualClock) -> None:
    """`call_async`: it takes native coroutine functions, and whatever returns an awaitable; no tornado."""

    async def play(breaker: Any) -> list[str]:
        ask, found = script("FFS"), list[str]()

        def hidden() -> Any:
            return ask.async_()

        for step in (ask.async_, hidden, ask.async_):
            try:
                found.append(await breaker.call_async(step))
            except Exception as error:
                found.append(letter(error))
        virtual_clock.advance(60.1)
        return [*found, await breaker.call_async(ask.async_), await breaker.call_async(lambda: "plain")]

    assert virtual_clock.run(play(compat.CircuitBreaker(fail_max=2))) == ["F", "R", "R", "ok", "plain"]
    theirs: Any = pybreaker.CircuitBreaker()
    with pytest.raises(NameError, match="gen"):
        theirs.call_async(script("S").coroutine_function())


def test_an_option_of_tornado_s_days_is_taken(virtual_clock: VirtualClock) -> None:
    """`@breaker(__pybreaker_call_async=True)` awaits what the function returns; other options are refused."""
    breaker = compat.CircuitBreaker(fail_max=1)
    source = script("F")

    def hidden() -> Any:
        return source.async_()

    guarded: Any = breaker(__pybreaker_call_async=True)(hidden)
    with pytest.raises(pybreaker.CircuitBreakerError):
        virtual_clock.run(guarded())
    with pytest.raises(TypeError, match="unknown options: other"):
        breaker(other=True)


def test_a_bound_coroutine_method_can_be_guarded(virtual_clock: VirtualClock) -> None:
    """A bound `async def` method is awaited under the breaker, and stays a coroutine function."""
    breaker, source = compat.CircuitBreaker(fail_max=1), script("F")
    guarded: Any = breaker(source.async_)
    assert inspect.iscoroutinefunction(guarded)
    with pytest.raises(pybreaker.CircuitBreakerError):
        virtual_clock.run(guarded())
    assert breaker.current_state == "open"


def test_states_can_be_assigned(virtual_clock: VirtualClock) -> None:
    """A state's string that is assigned to `state` sets it, and is told."""
    log = Log()
    breaker = compat.CircuitBreaker(listeners=[log])
    for state in (compat.STATE_OPEN, compat.STATE_HALF_OPEN, compat.STATE_CLOSED):
        cast("Any", breaker).state = state
        assert (breaker.current_state, breaker.state) == (state, state)
    assert len(log.seen) == 3


def test_a_block_in_a_task_is_its_own(virtual_clock: VirtualClock) -> None:
    """Blocks of `calling()` in tasks that take turns are each counted by how they ended."""
    breaker = compat.CircuitBreaker(fail_max=3)

    async def body(number: int) -> None:
        with breaker.calling():
            await asyncio.sleep(1.0 + number)
            if number % 2:
                raise ConnectionError

    async def main() -> list[Any]:
        return await asyncio.gather(*(body(number) for number in range(4)), return_exceptions=True)

    outcomes = virtual_clock.run(main())
    assert [type(one).__name__ for one in outcomes] == ["NoneType", "ConnectionError"] * 2
    assert breaker.fail_counter == 1


def test_difference_generators() -> None:
    """Generator functions: they are refused, for calling one runs nothing yet."""

    def numbers() -> Iterator[int]:
        yield 1

    assert list(pybreaker.CircuitBreaker().call(numbers)) == [1]
    for use in (compat.CircuitBreaker().call, compat.CircuitBreaker()):
        with pytest.raises(TypeError, match="generator function"):
            use(numbers)


def test_difference_excluded(breakers: Breakers) -> None:
    """Excluded errors: they are neutral: they reset no counter, and close nothing."""
    breaker = breakers.breaker(fail_max=3, reset_timeout=10, exclude=[ValueError])
    assert breakers.letters(breaker, "FFXF") == ("FFXR" if breakers.ours else "FFXF")
    breaker.open()
    breakers.clock.advance(10.1)
    assert breakers.letters(breaker, "X") == "X"
    assert breaker.current_state == ("half-open" if breakers.ours else "closed")


@pytest.mark.parametrize("exit_", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_difference_exits(breakers: Breakers, exit_: type[BaseException]) -> None:
    """Ctrl-C, `SystemExit`, cancellation: they pass untouched, and count for nothing."""
    breaker = breakers.breaker(fail_max=1)
    expected = exit_ if breakers.ours else pybreaker.CircuitBreakerError
    with pytest.raises(expected):
        breaker.call(Script(fail(exit_)))
    assert breaker.current_state == ("closed" if breakers.ours else "open")
    assert breaker.is_system_error(exit_()) is not breakers.ours


def test_difference_half_open() -> None:
    """Half-open: at most `success_threshold` trials run at a time; other calls are refused at once, not queued."""
    breaker = compat.CircuitBreaker(success_threshold=2)
    breaker.half_open()
    with breaker.calling(), breaker.calling():
        with pytest.raises(pybreaker.CircuitBreakerError), breaker.calling():
            raise AssertionError
        assert breaker.current_state == "half-open"
    assert breaker.current_state == "closed"
    theirs, ran = pybreaker.CircuitBreaker(success_threshold=1), list[str]()
    theirs.half_open()
    theirs.call(lambda: theirs.call(ran.append, "within the trial"))
    assert ran == ["within the trial"]


def test_difference_listeners(breakers: Breakers, event_recorder: EventRecorder) -> None:
    """A listener, or a predicate in `exclude`, that raises: it is reported, and changes nothing for the caller."""

    class Broken(pybreaker.CircuitBreakerListener):
        def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
            raise KeyError("listener")

    def broken(error: BaseException) -> bool:
        raise KeyError("predicate")

    heard = breakers.outcome(breakers.breaker(listeners=[Broken()]), script("S"))
    judged = breakers.outcome(breakers.breaker(exclude=[broken]), script("F"))
    kinds = (str, ConnectionError) if breakers.ours else (KeyError, KeyError)
    assert (type(heard), type(judged)) == kinds
    assert len(event_recorder.of(CallbackFailed)) == 2 * breakers.ours


def test_difference_same_state(breakers: Breakers) -> None:
    """A state that is set again: listeners are not told, for nothing changed."""
    log = Log()
    breaker = breakers.breaker(listeners=[log])
    breaker.open()
    breaker.open()
    assert len(log.seen) == (1 if breakers.ours else 2)


def test_difference_error(virtual_clock: VirtualClock) -> None:
    """The error: it is holdfast's CircuitOpenError as well, with `name` and `retry_after`, and a text of its own."""
    breaker = compat.CircuitBreaker(fail_max=1, reset_timeout=10, name="db")
    with pytest.raises(pybreaker.CircuitBreakerError) as caught:
        breaker.call(script("F"))
    error: Any = caught.value
    assert isinstance(error, CircuitOpenError)
    assert isinstance(error, compat.CircuitBreakerError)
    assert (error.name, error.retry_after) == ("db", 10.0)
    assert isinstance(error.__cause__, ConnectionError)
    with pytest.raises(pybreaker.CircuitBreakerError, match="Failures threshold reached"):
        pybreaker.CircuitBreaker(fail_max=1).call(script("F"))


def test_difference_clock(breakers: Breakers) -> None:
    """Time: the clock is monotonic, and tests replace it; the computer's clock may be set meanwhile."""
    breaker = breakers.breaker(reset_timeout=10)
    breaker.open()
    breakers.clock.step_wall_clock(-3600)
    if not breakers.ours:
        # What pybreaker makes of a computer's clock that was set back.
        cast("Any", vars(breaker))["_state_storage"].age(-3600)
    breakers.clock.advance(10.1)
    assert breakers.letters(breaker, "S") == ("S" if breakers.ours else "R")


def test_difference_redis_traffic(
    breakers: Breakers, redis_client: CountingRedis, redis_namespace: str
) -> None:
    """Redis: a success costs no command; the state is asked for once a second."""
    breaker = shared(breakers, redis_client, redis_namespace)
    redis_client.commands.clear()
    breakers.letters(breaker, "S" * 100)
    assert len(redis_client.commands) == 0 if breakers.ours else len(redis_client.commands) >= 200
    breakers.clock.advance(1.0)
    redis_client.commands.clear()
    breakers.letters(breaker, "S" * 100)
    assert len(redis_client.commands) == 1 if breakers.ours else len(redis_client.commands) >= 200


def test_difference_others_storage(breakers: Breakers) -> None:
    """A change by another process: it is learnt within a second, at a call or where somebody looks at the state."""
    storage = breakers.module.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
    one, other = (breakers.breaker(state_storage=storage) for _ in range(2))
    one.open()
    assert other.current_state == ("closed" if breakers.ours else "open")
    breakers.clock.advance(1.0)
    assert (other.current_state, other.state.name) == ("open", "open")
    one.close()
    breakers.clock.advance(1.0)
    assert breakers.letters(other, "S") == "S"


def test_difference_trials(breakers: Breakers) -> None:
    """Trials of several processes: each closes by its own successes, though the storage counts them all."""
    storage = breakers.module.CircuitMemoryStorage(pybreaker.STATE_HALF_OPEN)
    one, other = (breakers.breaker(success_threshold=2, state_storage=storage) for _ in range(2))
    one.half_open()
    other.half_open()
    assert breakers.letters(one, "S") + breakers.letters(other, "S") == "SS"
    assert one.current_state == ("half-open" if breakers.ours else "closed")
    assert one.success_counter == (2 if breakers.ours else 0)
    assert breakers.letters(one, "S") == "S"
    assert (one.current_state, one.success_counter) == ("closed", 0)


def test_difference_threshold(breakers: Breakers) -> None:
    """A `success_threshold` that the trials have reached: the counter leaves room for the trial that decides."""
    breaker = breakers.breaker(success_threshold=3)
    breaker.half_open()
    breakers.letters(breaker, "SS")
    breaker.success_threshold = 1
    assert breaker.success_counter == (0 if breakers.ours else 2)


def test_difference_block(breakers: Breakers) -> None:
    """A listener's `before_call` of a block: there is no function that could be named."""
    log = Log()
    with breakers.breaker(listeners=[log]).calling():
        pass
    assert (log.seen[0][2] is None) is breakers.ours


def test_difference_states(breakers: Breakers) -> None:
    """`CircuitOpenState` and the other classes of states: a state is a string with a name, and of one class."""
    breaker = breakers.breaker()
    assert hasattr(breakers.module, "CircuitOpenState") is not breakers.ours
    assert isinstance(breaker.state, str) is breakers.ours
    assert breaker.state.name == "closed"


def test_difference_bounds() -> None:
    """Settings out of bounds: they are refused when they are given or assigned, and change nothing."""
    breaker = compat.CircuitBreaker()
    with pytest.raises(ConfigurationError):
        compat.CircuitBreaker(fail_max=0)
    for name, value in (
        ("fail_max", 0),
        ("reset_timeout", -1),
        ("success_threshold", 0),
        ("reset_timeout", 1e6),
    ):
        with pytest.raises(ConfigurationError):
            setattr(breaker, name, value)
    assert (breaker.fail_max, breaker.reset_timeout, breaker.success_threshold) == (5, 60, 1)
    assert pybreaker.CircuitBreaker(fail_max=0).fail_max == 0


def test_difference_events(breakers: Breakers, event_recorder: EventRecorder) -> None:
    """Events: openings and recoveries are told to subscribers too."""
    breaker = breakers.breaker(fail_max=1, reset_timeout=10, name="db")
    breakers.letters(breaker, "F")
    breakers.clock.advance(10.1)
    breakers.letters(breaker, "S")
    names = [event.name for kind in (CircuitOpened, CircuitClosed) for event in event_recorder.of(kind)]
    assert names == ["db", "db"] * breakers.ours


# holdfast's own promises


def test_the_policy_goes_into_a_pipeline(virtual_clock: VirtualClock) -> None:
    """`policy` is the same breaker for holdfast's pipelines, and shares state with the old calls."""
    breaker = compat.CircuitBreaker(fail_max=2, name="db")
    stack = Pipeline(Retry(2, wait=0.0), breaker.policy)
    with pytest.raises((ConnectionError, pybreaker.CircuitBreakerError)):
        stack.call(script("F"))
    assert breaker.current_state == "open"
    guarded = breaker(script("S").function())
    assert breaker_of(guarded) is breaker.policy


STEPS = "FSFFFFSSFSFFFSSSFFFFFSSFSFFFSFSF"


def story(breaker: Any, clock: VirtualClock, log: Log | None, *, is_async: bool) -> list[tuple[Any, ...]]:
    """Play a long script, 4 s a step; a listener is added after three; return what came of each."""
    source, found = script(STEPS), list[tuple[Any, ...]]()
    ask, aask = breaker(source.function()), breaker(source.coroutine_function())
    for at in range(60):
        if at == 3 and log is not None:
            breaker.add_listener(log)
        try:
            outcome = clock.run(aask()) if is_async and at % 2 else ask()
        except Exception as error:
            outcome = error
        counters = breaker.fail_counter, breaker.success_counter
        found.append((letter(outcome), breaker.current_state, *counters))
        clock.advance(4.0)
    return found


@pytest.mark.parametrize("heard", ["by nobody", "by a listener", "by one that was added"])
def test_who_listens_changes_nothing(virtual_clock: VirtualClock, heard: str) -> None:
    """Outcomes, counters and states are pybreaker's, whether anybody listens or not, in sync and async calls."""
    log = Log()
    listeners = [log] if heard == "by a listener" else []
    added = log if heard == "by one that was added" else None
    theirs = Breakers(pybreaker, virtual_clock).breaker(3, 10, 2)
    expected = story(theirs, virtual_clock, None, is_async=False)
    breaker = compat.CircuitBreaker(3, 10, 2, listeners=listeners)
    assert story(breaker, virtual_clock, added, is_async=True) == expected
    assert {step[1] for step in expected} == {"closed", "open", "half-open"}
    assert bool(log.seen) is (heard != "by nobody")


def test_settings_assigned_by_threads_are_not_lost() -> None:
    """Threads that change settings at the same time overwrite nothing of each other's."""
    breaker = compat.CircuitBreaker()
    kinds = [type(f"Kind{number}", (Exception,), {}) for number in range(40)]
    race(*(functools.partial(breaker.add_excluded_exceptions, *kinds[at::4]) for at in range(4)))
    assert set(breaker.excluded_exceptions) == set(kinds)


def test_calls_during_a_change_of_settings_are_counted(virtual_clock: VirtualClock) -> None:
    """A setting that is changed within a call keeps what was counted before."""
    breaker = compat.CircuitBreaker(fail_max=5)

    def change() -> None:
        breaker.fail_max = 2
        raise ConnectionError

    with pytest.raises(ConnectionError):
        breaker.call(change)
    assert (breaker.fail_counter, breaker.current_state) == (1, "closed")
    with pytest.raises(pybreaker.CircuitBreakerError):
        breaker.call(change)
    assert breaker.current_state == "open"
