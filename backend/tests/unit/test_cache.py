"""Cache: its settings, keys, bounds and counts."""

import asyncio
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

import holdfast
from holdfast.infrastructure.resilience._cache import Entry, State
from holdfast.infrastructure.resilience._twin import twin
from holdfast.infrastructure.resilience.cache import Cache, CacheConfig, CacheInfo, cache
from holdfast.infrastructure.resilience.classify import TRANSIENT
from holdfast.infrastructure.resilience.errors import CircuitOpenError, ConfigurationError, TimeoutExceeded
from holdfast.infrastructure.resilience.events import CallbackFailed
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.randomness import use_random
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.testing import EventRecorder, Script, VirtualClock, fail, succeed


class Echo:
    """A function that remembers its calls and returns how many there were."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any) -> int:
        """Count a call."""
        self.calls.append(args)
        return len(self.calls)


def counted(policy: Cache) -> tuple[Callable[[Any], int], list[Any]]:
    """Return a cached function of one argument, and the arguments with which it was really called."""
    calls: list[Any] = []

    @policy
    def function(argument: Any) -> int:
        calls.append(argument)
        return len(calls)

    return function, calls


def entries_of(policy: Cache) -> list[Entry]:
    return list(state_of(policy).entries.values())


def state_of(policy: Any) -> State:
    state: State = policy._state  # noqa: SLF001  # when entries end, and what is bounded, shows nowhere else
    return state


def by_nothing() -> object:
    return object()


def by_one(a: int) -> object:
    return object()


def by_two(a: int, b: int = 1) -> object:
    return object()


def doubled(key: int) -> int:
    return key * 2


def each(function: Callable[[int], Any], *keys: int) -> list[Any]:
    return [function(key) for key in keys]


# Settings


def made(setting: str, value: Any) -> CacheConfig:
    given: dict[str, Any] = {"ttl": 60.0, setting: value}
    return CacheConfig(**given)


def test_the_defaults_are_these() -> None:
    """A time to live, 10 % jitter, nothing stale, 1000 entries; errors as a classifier and rejections say."""
    config = Cache(60).config

    assert config == CacheConfig(
        ttl=60,
        key=None,
        jitter=0.1,
        stale_if_error=0.0,
        stale_while_revalidate=0.0,
        max_entries=1000,
        on=None,
        name=None,
        clock=None,
        random=None,
    )
    assert repr(Cache(60, name="prices")) == "Cache(60, max_entries=1000, name='prices')"


def test_the_lower_case_form_makes_the_same() -> None:
    """`cache(...)` is a Cache of the same settings."""
    settings: dict[str, Any] = {
        "key": len,
        "jitter": 0.2,
        "stale_if_error": 3.0,
        "stale_while_revalidate": 4.0,
        "max_entries": 5,
        "on": TRANSIENT,
        "name": "prices",
        "clock": VirtualClock(),
        "random": Random(1),
    }
    made = cache(60, **settings)

    assert type(made) is Cache
    assert made.config == Cache(60, **settings).config == CacheConfig(ttl=60, **settings)
    assert made.name == "prices"


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("ttl", (0, -1, float("nan"), float("inf"), "60", True, None)),
        ("key", ("name", 7, asyncio.sleep)),
        ("jitter", (-0.1, 1.1, "some")),
        ("stale_if_error", (-1, float("inf"), None)),
        ("stale_while_revalidate", (-1, float("inf"), None)),
        ("max_entries", (0, -1, 1.5, 1_000_001, None)),
        ("on", ("all", BaseException, (int,))),
        ("name", (7, b"prices")),
        ("clock", ("now", VirtualClock)),
        ("random", ("dice", 7)),
    ],
)
def test_bad_settings_are_refused(setting: str, values: tuple[Any, ...]) -> None:
    """Each value out of range is one fault that names the setting."""
    for value in values:
        with pytest.raises(ConfigurationError) as caught:
            made(setting, value)
        assert [fault.path.partition("[")[0] for fault in caught.value.faults] == [setting]


def test_all_faults_are_told_at_once() -> None:
    """One error lists every setting that is wrong, in their order."""
    with pytest.raises(ConfigurationError) as caught:
        Cache(0, key="k", jitter=2, max_entries=0)  # type: ignore[arg-type]  # that is the test
    assert [fault.path for fault in caught.value.faults] == ["ttl", "key", "jitter", "max_entries"]
    assert caught.value.subject == "Cache"


def test_an_empty_cache_is_true() -> None:
    """`if cache` asks whether there is one, not whether it holds anything."""
    assert Cache(60)
    assert len(Cache(60)) == 0


# Time


def test_a_result_is_fresh_for_its_time_and_no_longer(virtual_clock: VirtualClock) -> None:
    """Until `ttl` seconds have passed since the result came; then the function is called again."""
    function, calls = counted(Cache(10, jitter=0))

    assert function(7) == 1
    virtual_clock.advance(9.999)
    assert function(7) == 1
    virtual_clock.advance(0.001)
    assert function(7) == 2
    assert calls == [7, 7]


def test_a_cache_may_have_a_clock_of_its_own(virtual_clock: VirtualClock) -> None:
    """With `clock`, only that one counts."""
    own = VirtualClock()
    function, calls = counted(Cache(10, jitter=0, clock=own))

    function(7)
    virtual_clock.advance(100)
    assert function(7) == 1
    own.advance(10)
    assert function(7) == 2
    assert len(calls) == 2


def lifetime(policy: Cache, clock: VirtualClock, step: float = 0.25) -> float:
    """Return after how many seconds, in steps, a new entry is no longer fresh."""
    function, calls = counted(policy)
    function(7)
    start = clock.elapsed
    while len(calls) == 1:
        clock.advance(step)
        function(7)
    return clock.elapsed - start


def test_jitter_only_shortens(virtual_clock: VirtualClock) -> None:
    """The time to live is `ttl`, less a share of it drawn evenly between nothing and `jitter`."""

    class Dice(Random):
        """A source that always draws the same."""

        def __init__(self, drawn: float) -> None:
            super().__init__()
            self.drawn = drawn

        def random(self) -> float:
            return self.drawn

    lives = [lifetime(Cache(100, jitter=0.2, random=Dice(drawn)), virtual_clock) for drawn in (0, 0.5, 1)]
    assert lives == [100, 90, 80]


def test_entries_of_one_moment_do_not_expire_together(virtual_clock: VirtualClock) -> None:
    """The common random source spreads them."""
    made = Cache(100, jitter=0.5)
    function, _ = counted(made)
    with use_random(1):
        for key in range(50):
            function(key)
    ends = [entry.until - virtual_clock.monotonic() for entry in entries_of(made)]
    assert len(set(ends)) == 50
    assert 50 <= min(ends) < 60
    assert 90 < max(ends) <= 100


# Keys


def test_calls_are_equal_however_they_are_written() -> None:
    """Defaults, keywords and the order of keywords make no difference."""
    calls: list[tuple[Any, ...]] = []

    @Cache(60)
    def function(a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> int:
        calls.append((a, b, rest, c, more))
        return len(calls)

    assert {function(1), function(1, 2), function(a=1), function(b=2, a=1), function(1, c=3)} == {1}
    assert {function(1, 2, 9, x=1, y=2), function(1, 2, 9, y=2, x=1, c=3)} == {2}
    assert [function(1, 3), function(1, 2, c=4), function(1, 2, z=1), function(1, 2, 3)] == [3, 4, 5, 6]


def test_calls_are_equal_without_a_signature() -> None:
    """Where the exact signature is not known, a call is what was passed."""
    calls: list[Any] = []

    @Cache(60)
    def function(*_args: Any, **_kwargs: Any) -> int:
        calls.append((_args, _kwargs))
        return len(calls)

    assert [function(1, x=1, y=2), function(1, y=2, x=1), function(2), function()] == [1, 1, 2, 3]


def test_a_key_function_decides_what_is_equal() -> None:
    """`key` gets the call's arguments, and calls of equal keys are equal."""
    calls: list[Any] = []

    def lower(url: str, headers: dict[str, str]) -> str:
        return url.lower()

    @Cache(60, key=lower)
    def fetch(url: str, headers: dict[str, str]) -> int:
        calls.append(url)
        return len(calls)

    assert [fetch("A", {}), fetch("a", {"x": "1"}), fetch(headers={}, url="b")] == [1, 1, 2]


def test_functions_do_not_share_entries() -> None:
    """One cache may decorate several functions: each has its own results, within one bound."""
    made = Cache(60, max_entries=3)
    first, second = made(by_one), made(by_two)
    one, two = first(1), second(1)

    assert one is not two
    assert (first(1), second(1)) == (one, two)
    assert made.info() == CacheInfo(hits=2, stale=0, misses=2, coalesced=0, entries=2, evictions=0)
    each(first, 2)
    each(second, 2)
    assert len(made) == 3


def test_methods_are_cached_for_each_object() -> None:
    """`self` is part of the key."""

    class Shop:
        """Has prices."""

        def __init__(self, factor: int) -> None:
            self.factor = factor
            self.calls = 0

        @Cache(60)
        def price(self, item: int) -> int:
            """Count and answer."""
            self.calls += 1
            return item * self.factor

    one, two = Shop(1), Shop(2)
    assert [one.price(3), two.price(3), one.price(item=3), two.price(3)] == [3, 6, 3, 6]
    assert (one.calls, two.calls) == (1, 1)


def test_an_attempt_finds_what_another_attempt_left() -> None:
    """Under a retry, a result that a later attempt got is found by the next call's first."""
    script = Script(fail(), succeed("ok"))
    made = Cache(60)
    function = Retry(2, wait=0.0)(made(script.function()))

    assert [function(7), function(7)] == ["ok", "ok"]
    assert (script.calls, made.info().hits) == (2, 1)


def test_call_caches_by_function_and_arguments() -> None:
    """Through `call`, equal arguments of the same function are equal calls; bound methods count by their object."""
    made, echo, other = Cache(60), Echo(), Echo()

    assert [made.call(echo.__call__, 1), made.call(echo.__call__, 1), made.call(other.__call__, 1)] == [
        1,
        1,
        1,
    ]
    assert [echo.calls, other.calls] == [[(1,)], [(1,)]]
    assert Pipeline(made).call(echo.__call__, 1) == 1


@pytest.mark.parametrize("keyword", [False, True])
def test_an_argument_that_cannot_be_hashed_is_named(*, keyword: bool) -> None:
    """The error says which argument it is, of what type, and what to do; the function is not called."""
    calls: list[Any] = []

    @Cache(60, name="prices")
    def function(item: int, tags: Any = (), **more: Any) -> None:
        calls.append(item)

    with pytest.raises(TypeError, match=r"prices: argument '(tags|extra)' is of type list.*give key="):
        function(1, extra=[]) if keyword else function(1, [2])
    assert calls == []


def test_an_argument_is_named_by_its_place_where_there_are_no_names() -> None:
    """Without a signature arguments are counted from 1."""
    made, echo = Cache(60), Echo()
    with pytest.raises(TypeError, match="argument 2 is of type dict"):
        made.call(echo, 1, {})
    loose: Any = made.call
    with pytest.raises(TypeError, match="argument 'end' is of type list"):
        loose(print, 1, 2, end=[])


class Odd:
    """Hashes or compares with an error."""

    def __init__(self, *, hashes: bool) -> None:
        self.hashes = hashes

    def __hash__(self) -> int:
        if not self.hashes:
            raise LookupError("no hash")
        return 1

    def __eq__(self, other: object) -> bool:
        raise LookupError("no comparison")


def no_key(argument: Any) -> str:
    raise LookupError("no key")


def unhashable(argument: Any) -> Any:
    return [argument]


@pytest.mark.parametrize(
    ("key", "argument"),
    [(no_key, 1), (unhashable, 1), (None, Odd(hashes=False))],
    ids=["key", "result", "hash"],
)
def test_a_key_that_fails_costs_the_cache_not_the_call(
    event_recorder: EventRecorder, key: Any, argument: Any
) -> None:
    """The call is made uncached, and the error of the key reported."""
    made = Cache(60, key=key, name="prices")
    function, calls = counted(made)

    assert [function(argument), function(argument)] == [1, 2]
    assert (len(calls), len(made)) == (2, 0)
    assert [(one.name, one.callback) for one in event_recorder.of(CallbackFailed)] == [("prices", "key")] * 2


def test_a_comparison_that_fails_costs_the_cache_not_the_call(event_recorder: EventRecorder) -> None:
    """So does an `__eq__` that raises when two keys have the same hash."""
    made = Cache(60, name="prices")
    function, _ = counted(made)
    function(Odd(hashes=True))

    assert function(Odd(hashes=True)) == 2
    assert [one.callback for one in event_recorder.of(CallbackFailed)] == ["key"]


def test_async_calls_are_keyed_alike(virtual_clock: VirtualClock) -> None:
    """An async function has the same rules: named arguments, uncached calls, TypeErrors."""
    calls: list[Any] = []

    async def function(item: Any, tags: Any = ()) -> int:
        calls.append(item)
        return len(calls)

    def inverse(item: int, tags: Any) -> int:
        return 1 // item

    plain, keyed = Cache(60)(function), Cache(60, key=inverse)(function)
    assert [virtual_clock.run(plain(7)), virtual_clock.run(plain(item=7))] == [1, 1]
    assert [virtual_clock.run(keyed(0)), virtual_clock.run(keyed(0)), virtual_clock.run(keyed(1))] == [
        2,
        3,
        4,
    ]
    assert virtual_clock.run(keyed(1)) == 4
    with pytest.raises(TypeError, match="argument 'tags' is of type dict"):
        virtual_clock.run(plain(7, {}))


def test_no_lock_is_held_while_keys_compute() -> None:
    """Key functions, hashes and comparisons may use the cache themselves, from another thread too."""
    made = Cache(60)
    function, _ = counted(made)
    inner, _ = counted(made)

    def ask_elsewhere() -> None:
        thread = threading.Thread(target=lambda: inner("elsewhere"))
        thread.start()
        thread.join(10)
        assert not thread.is_alive()

    class Nosy:
        """Asks the cache whenever it is looked at."""

        def __hash__(self) -> int:
            ask_elsewhere()
            return 1

        def __eq__(self, other: object) -> bool:
            ask_elsewhere()
            return isinstance(other, Nosy)

    assert [function(Nosy()), function(Nosy())] == [1, 1]
    assert made.invalidate(Nosy())
    assert len(made) == 1


# Results


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


async def coroutine() -> int:
    return 1


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (generator, "generator"),
        (async_generator, "async_generator"),
        (coroutine, "coroutine"),
        (lambda: iter([]), "list_iterator"),
    ],
)
def test_results_for_one_use_are_refused(virtual_clock: VirtualClock, make: Any, name: str) -> None:
    """An iterator or awaitable would be used up by its first reader: TypeError, and nothing is kept."""
    made = Cache(60)

    def plain(key: int) -> Any:
        return make()

    async def asynchronous(key: int) -> Any:
        return make()

    with pytest.raises(TypeError, match=f"returned a {name}, which can be used only once"):
        made(plain)(7)
    with pytest.raises(TypeError, match=f"returned a {name}, which can be used only once"):
        virtual_clock.run(made(asynchronous)(7))
    assert len(made) == 0


def test_results_are_shared_not_copied() -> None:
    """Every caller gets the same object."""
    function = Cache(60)(by_one)

    assert function(7) is function(7)


# Bounds


def test_what_was_used_least_lately_goes_first(virtual_clock: VirtualClock) -> None:
    """Beyond `max_entries` the entry goes whose last use, by a hit or its making, is the oldest."""
    made = Cache(60, max_entries=3)
    function, calls = counted(made)

    for key in (1, 2, 3, 1, 2, 4, 2, 1, 4, 5):
        function(key)
    assert calls == [1, 2, 3, 4, 5]
    calls.clear()
    for key in (1, 4, 5):
        function(key)
    assert calls == []
    assert made.info() == CacheInfo(hits=8, stale=0, misses=5, coalesced=0, entries=3, evictions=2)
    function(2)
    assert calls == [2]


def test_the_bound_holds_after_any_number_of_keys() -> None:
    """The number of entries never passes the bound, and evictions are counted."""
    made = Cache(60, max_entries=100)
    function, _ = counted(made)
    for key in range(1000):
        function(key)
        assert len(made) == min(key + 1, 100)
    assert made.info().evictions == 900


def test_functions_of_one_call_are_forgotten() -> None:
    """What is remembered of functions stays bounded, though each was used once only."""
    made = Cache(60, max_entries=10)
    for _ in range(5000):
        made.call(lambda: 1)
    assert len(state_of(made).functions) <= 1100


def test_threads_may_share_a_full_cache() -> None:
    """Threads that hit, miss, evict and invalidate at once keep the bound and get right results."""
    made = Cache(60, max_entries=8)
    function = made(doubled)
    wrong: list[int] = []

    def work(seed: int) -> None:
        chance = Random(seed)
        for _ in range(2000):
            key = chance.randrange(16)
            if function(key) != key * 2:
                wrong.append(key)
            if key == 3:
                made.invalidate(chance.randrange(16))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    info = made.info()
    assert wrong == []
    assert len(made) <= 8 + 4
    assert info.hits + info.misses + info.coalesced == 8000
    function(100)
    assert len(made) <= 8


# Management


def test_invalidate_forgets_one_key() -> None:
    """The same arguments, however written, name the entry; the answer says whether there was one."""
    made = Cache(60)
    calls: list[int] = []

    @made
    def function(a: int, b: int = 2, **more: int) -> int:
        calls.append(a)
        return len(calls)

    each(function, 1, 2)
    function(1, x=1)
    assert made.invalidate(b=2, a=1)
    assert not made.invalidate(1, 2)
    assert made.invalidate(1, x=1)
    assert [function(2), function(1)] == [2, 4]


def test_an_invalidation_at_the_last_moment_counts() -> None:
    """What is invalidated while its result is being stored is not kept: here, by the key's own hash."""
    made = Cache(60)
    armed: list[bool] = []

    class Key:
        """Clears the cache when it is looked at, once it is told to."""

        def __hash__(self) -> int:
            if armed:
                armed.clear()
                made.clear()
            return 1

    @made
    def function(key: Key) -> int:
        armed.append(True)
        return 7

    assert function(Key()) == 7
    assert (armed, len(made)) == ([], 0)


def test_invalidate_reaches_every_function() -> None:
    """It forgets the key in every function of the cache that can take these arguments, and in `call`."""
    made, echo = Cache(60), Echo()
    one, two = made(by_one), made(by_two)
    other = made(by_nothing)
    before = one(1), two(1), other()
    made.call(echo.__call__, 1)
    made.call(max, (1, 2))

    assert made.invalidate((1, 2))
    assert made.invalidate(1)
    assert one(1) is not before[0]
    assert two(1) is not before[1]
    assert other() is before[2]
    assert made.call(echo.__call__, 1) == 2


def test_invalidate_asks_the_key_function() -> None:
    """With `key`, arguments of the same key name the entry; defaults are filled in as for a call."""

    def lower(item: str, currency: str) -> tuple[str, str]:
        return item.lower(), currency

    made = Cache(60, key=lower)

    @made
    def price(item: str, currency: str = "EUR") -> object:
        return object()

    before = price("a")
    assert made.invalidate("A")
    assert price("a") is not before


def test_clear_forgets_all() -> None:
    """Afterwards the cache is empty and its counts go on."""
    made = Cache(60)
    function, calls = counted(made)
    each(function, 1, 2, 1)
    made.clear()

    assert (len(made), function(1), len(calls)) == (0, 3, 3)
    assert made.info() == CacheInfo(hits=1, stale=0, misses=3, coalesced=0, entries=1, evictions=0)


def test_counts_are_frozen() -> None:
    """`info()` is how it was when it was asked."""
    made = Cache(60)
    function, _ = counted(made)
    info = made.info()
    function(1)

    assert info == CacheInfo(hits=0, stale=0, misses=0, coalesced=0, entries=0, evictions=0)
    with pytest.raises(AttributeError, match="immutable"):
        info.hits = 1
    assert pickle.loads(pickle.dumps(made.info())) == made.info()


def test_policies_below_are_called_only_on_a_miss() -> None:
    """A hit passes by everything that the cache is around, in each form of a stack."""
    script = Script(succeed("ok"))
    plain, retry = script.function(), Retry(2)
    forms: list[Callable[[int], Any]] = [
        Cache(60)(retry(plain)),
        Pipeline(Cache(60), retry)(plain),
        partial(Pipeline(Cache(60), retry).call, plain),
    ]
    for at, function in enumerate(forms, 1):
        assert each(function, 7, 7) == ["ok", "ok"]
        assert script.calls == at


# Errors of one's own


class Slotted(Exception):
    """Keeps a field in a slot."""

    __slots__ = ("field",)

    field: list[int]


class Picky(Exception):
    """Makes its message of what it is given, and demands a keyword."""

    def __init__(self, number: int, *, unit: str) -> None:
        super().__init__(f"{number} {unit}")
        self.unit = unit


class Closed(Exception):
    """Cannot be made a second time."""

    made = 0

    def __new__(cls, *args: Any) -> "Closed":
        """Refuse a second one."""
        cls.made += 1
        if cls.made > 1:
            raise RuntimeError("one is enough")
        return super().__new__(cls, *args)


def slotted() -> Exception:
    error = Slotted("text")
    error.field = [1]
    return error


ERRORS: list[Exception] = [
    ValueError("bad", 1),
    OSError(2, "no such file", "name"),
    ConnectionRefusedError(111, "refused"),
    UnicodeDecodeError("utf-8", b"abc", 1, 2, "reason"),
    ImportError("no module", name="x", path="y"),
    KeyError("key"),
    ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
    TimeoutExceeded(2.0, "bound"),
    CircuitOpenError("payments", 1.5),
    Picky(3, unit="apples"),
    slotted(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_twin_looks_the_same(error: Exception) -> None:
    """Type, arguments, message, fields, notes, cause and traceback are equal; the object is another."""
    try:
        try:
            raise LookupError("below")
        except LookupError as below:
            error.add_note("note")
            raise error from below
    except Exception as raised:
        made = twin(raised)

    assert made is not error
    assert (type(made), made.args, str(made), repr(made)) == (
        type(error),
        error.args,
        str(error),
        repr(error),
    )
    assert {**vars(made)} == {**vars(error)}
    assert made.__notes__ is not error.__notes__
    assert (made.__cause__, made.__suppress_context__) == (error.__cause__, True)
    assert made.__traceback__ is error.__traceback__
    for field in ("errno", "filename", "strerror", "start", "end", "name", "path", "exceptions", "field"):
        assert getattr(made, field, None) == getattr(error, field, None)


def test_what_cannot_be_copied_is_raised_as_it_is() -> None:
    """A class that refuses a second instance is shared."""
    error = Closed("only")

    assert twin(error) is error


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_waits_for_nobody_of_its_parent() -> None:
    """What is under way at a fork, and who holds the lock, is the parent's: the child goes on with what was there."""
    program = """
        import os, signal, sys, threading, warnings
        sys.path.insert(0, sys.argv[1])
        warnings.simplefilter("ignore")
        from holdfast.infrastructure.resilience._cache import shared
        from holdfast.infrastructure.resilience.cache import Cache

        made, begun, locked, go_on = Cache(60), threading.Event(), threading.Event(), threading.Event()
        parent = os.getpid()

        @made
        def slow(key):
            if os.getpid() == parent and key == 1:
                begun.set()
                go_on.wait(10)
            return os.getpid()

        slow(2)
        thread = threading.Thread(target=slow, args=(1,))
        thread.start()
        begun.wait(10)

        def hold():
            with shared.lock:
                locked.set()
                go_on.wait(10)

        holder = threading.Thread(target=hold)
        holder.start()
        locked.wait(10)
        child = os.fork()
        if not child:
            signal.alarm(10)
            fine = slow(1) == os.getpid() and slow(2) == parent and slow(1) == os.getpid() and len(made) == 2
            os._exit(0 if fine else 1)
        status = os.waitpid(child, 0)[1]
        go_on.set()
        thread.join()
        holder.join()
        assert slow(1) == parent
        sys.exit(os.waitstatus_to_exitcode(status))
    """
    path = str(Path(holdfast.__file__).parents[1])
    command = [sys.executable, "-c", textwrap.dedent(program), path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_on_accepts_what_policies_accept(virtual_clock: VirtualClock) -> None:
    """A verdict, a type, a predicate: each says which errors the old result covers."""

    def always(error: Exception) -> bool:
        return True

    covers: list[tuple[Any, type[Exception]]] = [
        (TRANSIENT, ConnectionError),
        (OSError, OSError),
        (always, ValueError),
    ]
    for on, error in covers:
        script = Script(succeed("old"), fail(error))
        function = Cache(10, jitter=0, stale_if_error=100, on=on)(script.function())
        function(7)
        virtual_clock.advance(11)
        assert function(7) == "old"
