"""Awkward uses that a service meets sooner or later: forks, the garbage collector, tasks, odd settings and names."""

import asyncio
import copy
import functools
import gc
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

import holdfast
from holdfast.infrastructure.resilience import _compile
from holdfast.infrastructure.resilience.bulkhead import Bulkhead, bulkhead
from holdfast.infrastructure.resilience.cache import cache
from holdfast.infrastructure.resilience.chaos import chaos
from holdfast.infrastructure.resilience.circuit_breaker import (
    CircuitBreaker,
    CircuitBreakers,
    circuit_breaker,
)
from holdfast.infrastructure.resilience.concurrency_limit import concurrency_limit
from holdfast.infrastructure.resilience.deadline import remaining
from holdfast.infrastructure.resilience.errors import ConfigurationError, ThrottledError, TimeoutExceeded
from holdfast.infrastructure.resilience.events import CircuitOpened, RetryGaveUp, subscribe
from holdfast.infrastructure.resilience.fallback import fallback
from holdfast.infrastructure.resilience.hedge import Hedge, hedge
from holdfast.infrastructure.resilience.meter import metered
from holdfast.infrastructure.resilience.permit import Permit
from holdfast.infrastructure.resilience.pipeline import Pipeline, explain
from holdfast.infrastructure.resilience.rate_limit import RateLimit, RateLimits, rate_limit
from holdfast.infrastructure.resilience.retry import Retry, current_attempt, retry
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.throttle import Throttle, throttle
from holdfast.infrastructure.resilience.timeout import Timeout, timeout
from holdfast.infrastructure.resilience.window import Window, WindowCounts
from holdfast.infrastructure.transport.http import httpx_transport
from holdfast.testing.clock import VirtualClock
from holdfast.testing.recorder import EventRecorder

CLOSED, OPEN = CircuitState.CLOSED, CircuitState.OPEN
ONE = Window.consecutive(1)


# Families


FORKS = """
    import os, threading, time
    from holdfast import CircuitBreakers

    family = CircuitBreakers("hosts", max_keys=8)
    stop = threading.Event()

    def use():
        at = 0
        while not stop.is_set():
            at += 1
            family.get(at % 50)

    def forked():
        pid = os.fork()
        if pid == 0:
            family.get("child")
            os._exit(0)
        ends = time.monotonic() + 20.0
        while time.monotonic() < ends:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        os.kill(pid, 9)
        return "hangs"

    users = [threading.Thread(target=use, daemon=True) for _ in range(2)]
    for user in users:
        user.start()
    print([forked() for _ in range(20)] == [0] * 20)
    stop.set()
"""


def test_a_family_works_in_the_child_of_a_fork() -> None:
    """Whatever a thread of the parent was doing with the family when it forked, the child can use it."""
    # In an interpreter that nothing measures: what measures has locks of its own, which a fork does not renew.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    environment["PYTHONPATH"] = str(Path(holdfast.__file__).parents[1])
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORKS)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)
    assert (run.stdout, run.stderr) == ("True\n", "")


def test_the_collector_may_use_a_family_at_any_line() -> None:
    """A finaliser that asks for a breaker runs in the middle of making another one, and neither hangs."""
    family = CircuitBreakers("hosts", max_keys=20)
    asked: list[int] = []

    class Leaving:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            asked.append(len(asked))
            family.get(f"from a finaliser {len(asked)}")

    def use() -> None:
        for at in range(300):
            Leaving()
            family.get(at)

    before = gc.get_threshold()
    gc.set_threshold(10)
    try:
        user = threading.Thread(target=use, daemon=True)
        user.start()
        user.join(20.0)
    finally:
        gc.set_threshold(*before)
    assert not user.is_alive()
    assert len(asked) > 10
    assert len(family) <= 20


def test_a_slow_key_delays_nobody_else() -> None:
    """No lock is held while a key turns into text: another key's breaker is to be had meanwhile."""
    family = CircuitBreakers("hosts")
    inside, leave = threading.Event(), threading.Event()

    class Slow:
        def __str__(self) -> str:
            inside.set()
            assert leave.wait(10.0)
            return "slow"

    making = threading.Thread(target=family.get, args=(Slow(),))
    making.start()
    assert inside.wait(10.0)
    assert family.get("fast").name == "hosts[fast]"
    leave.set()
    making.join()
    assert len(family) == 2


def test_two_who_ask_at_once_get_one_breaker() -> None:
    """A breaker that was made twice, because two asked, is kept once."""
    family = CircuitBreakers("hosts")
    both = threading.Barrier(2)

    class Key:
        def __str__(self) -> str:
            both.wait(10.0)
            return "key"

    key, found = Key(), list[CircuitBreaker]()
    threads = [threading.Thread(target=lambda: found.append(family.get(key))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is found[1] is family.peek(key)


@pytest.mark.parametrize("how", ["isolate", "disable", "shadow"])
def test_what_a_person_set_stays(virtual_clock: VirtualClock, how: str) -> None:
    """A breaker that somebody isolated, disabled or shadowed goes neither for idleness nor for room."""
    family = CircuitBreakers("hosts", max_keys=2, idle=60.0)
    getattr(family.get("set"), how)()
    virtual_clock.advance(61.0)
    for at in range(5):
        family.get(at)
    assert list(family) == ["set", 4]
    assert family.get("set").state not in {CLOSED, OPEN}


def test_an_open_breaker_goes_last(virtual_clock: VirtualClock) -> None:
    """While it is open it protects somebody: closed ones go first, however recently used; idleness does not count."""
    family = CircuitBreakers("hosts", max_keys=2, idle=10.0, open_for=3600.0, open_cap=3600.0, window=ONE)
    family.get("down").admit().failure()
    virtual_clock.advance(20.0)
    for at in range(3):
        family.get(at)
    assert list(family) == ["down", 2]
    family.get("also down").admit().failure()
    family.get("third").admit().failure()
    assert list(family) == ["also down", "third"]


def test_an_open_breaker_whose_time_is_up_is_as_good_as_a_new_one(virtual_clock: VirtualClock) -> None:
    """Idle for long enough, and due for its probes: it goes like a closed one."""
    family = CircuitBreakers("hosts", idle=100.0, open_for=5.0, open_jitter=0.0, window=ONE)
    family.get("down").admit().failure()
    virtual_clock.advance(100.0)
    family.get("other")
    assert list(family) == ["other"]


def test_a_storage_for_all_keys_is_refused() -> None:
    """One storage for a family would mix its keys: a function of the key is wanted, and used."""
    from pybreaker import CircuitMemoryStorage

    for wrong in (CircuitMemoryStorage("closed"), CircuitMemoryStorage, "redis://"):
        with pytest.raises(ConfigurationError, match="would be shared by all keys"):
            CircuitBreakers("hosts", storage=wrong)
    made: list[object] = []

    def storage(key: object) -> object:
        made.append(key)
        return CircuitMemoryStorage("closed")

    family = CircuitBreakers("hosts", fail_max=1, storage=storage)
    family.get("a").admit().failure(ConnectionError())
    assert (family.get("a").state, family.get("b").state) == (OPEN, CLOSED)
    assert made[-2:] == ["a", "b"]


# Blocks in tasks


def test_a_stack_ends_the_block_of_its_own_task() -> None:
    """Tasks that were born after a block of this one each settle their own permit, also through an exit stack."""
    breaker = CircuitBreaker("dependency", window=Window.calls(10), min_calls=10)

    async def work(fails: bool, first: asyncio.Event, second: asyncio.Event) -> Permit:  # noqa: FBT001  # two kinds of task
        async with AsyncExitStack() as stack:
            permit: Permit = await stack.enter_async_context(breaker)
            first.set()
            await second.wait()
            if fails:
                raise ConnectionError
        return permit

    async def main() -> Any:
        with breaker:
            pass
        a, b = asyncio.Event(), asyncio.Event()
        failing = asyncio.create_task(work(True, a, b))
        await a.wait()
        fine = asyncio.create_task(work(False, b, a))
        return await asyncio.gather(failing, fine, return_exceptions=True)

    failed, permit = asyncio.run(main())
    assert isinstance(failed, ConnectionError)
    assert permit.settled
    assert breaker.counts == WindowCounts(3, 1, 0)


def test_a_cooperative_stack_ends_the_deadline_of_its_own_task() -> None:
    """Two tasks of one thread share a timeout: whoever ends its block is free of it, and the other is not."""
    bound = Timeout(10.0)

    async def work(mine: asyncio.Event, theirs: asyncio.Event) -> tuple[bool, bool]:
        async with AsyncExitStack() as stack:
            stack.enter_context(bound)
            mine.set()
            await theirs.wait()
            inside = remaining() is not None
        return inside, remaining() is None

    async def main() -> Any:
        a, b = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(work(a, b), work(b, a))

    assert list(asyncio.run(main())) == [(True, True), (True, True)]


# Attempts


def test_a_task_has_the_attempt_of_who_started_it() -> None:
    """The attempt of a coroutine's retry reaches its child tasks, though a sync retry runs the whole loop."""
    seen: list[int] = []

    async def child() -> None:
        seen.append(current_attempt())

    @retry(attempts=3, wait=0.0)
    async def work() -> None:
        await asyncio.create_task(child())
        raise ConnectionError

    @retry(attempts=1)
    def run() -> None:
        asyncio.run(work())

    with pytest.raises(ConnectionError):
        run()
    assert seen[1:] == [2, 3]


def test_without_a_retry_of_its_own_a_task_has_that_of_the_loop() -> None:
    """A sync retry that runs a loop counts for the tasks in it that nobody else retries."""
    seen: list[int] = []

    async def work() -> None:
        seen.append(current_attempt())
        raise ConnectionError

    @retry(attempts=3, wait=0.0)
    def run() -> None:
        asyncio.run(work())

    with pytest.raises(ConnectionError):
        run()
    assert seen == [1, 2, 3]


def test_an_attempt_that_is_not_entered_is_a_mistake() -> None:
    """A loop over attempts without `with attempt:` could retry nothing, and says so after its first turn."""
    with pytest.raises(RuntimeError, match="write `with attempt:` in the loop"):
        for _ in Retry(3):
            pass


def test_without_stop_the_usual_attempts_hold_again() -> None:
    """Taking `stop` away from a retry leaves it bounded; attempts that are given along are taken."""
    from tenacity import stop_after_attempt

    stopped = Retry(stop=stop_after_attempt(2))
    assert stopped.replace(stop=None).config.attempts == 3
    assert stopped.replace(stop=None, attempts=5).config.attempts == 5
    assert stopped.replace(wait=1.0).config.attempts is None
    assert Retry(4).replace(wait=1.0).config.attempts == 4


# What is refused where it is written


async def refuses(result: object) -> bool:
    """Be a predicate that nobody would await."""
    return False


def fail() -> None:
    raise ConnectionError


class Refusing:
    """A predicate whose call is async."""

    async def __call__(self, result: object) -> bool:
        return False


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Retry(result=refuses), "result .* is async"),  # type: ignore[arg-type]
        (lambda: CircuitBreaker("x", result=refuses), "result .* is async"),  # type: ignore[arg-type]
        (lambda: CircuitBreakers("x", key=refuses), "key .* is async"),  # type: ignore[arg-type]
        (lambda: Throttle(result=refuses), "result .* is async"),  # type: ignore[arg-type]
        (lambda: Hedge(1.0, result=refuses), "result .* is async"),  # type: ignore[arg-type]
        (lambda: RateLimits(1, key=refuses), "key .* is async"),  # type: ignore[arg-type]
        (lambda: CircuitBreaker("x", exclude=(refuses,)), "exclude.* is async"),  # type: ignore[arg-type]
        (lambda: Retry(result=functools.partial(refuses)), "result .* is async"),  # type: ignore[arg-type]
        (lambda: Retry(result=Refusing()), "result .* is async"),  # type: ignore[arg-type]
        (lambda: Retry(name=5), "name = 5 is not text"),  # type: ignore[arg-type]
        (lambda: CircuitBreaker(5), "name = 5 is not text"),  # type: ignore[arg-type]
        (lambda: CircuitBreakers(5), "name = 5 is not text"),  # type: ignore[arg-type]
        (lambda: Pipeline(Retry(), name=5), "name = 5 is not text"),  # type: ignore[arg-type]
        (lambda: CircuitBreaker(print), "write @circuit_breaker"),  # type: ignore[arg-type]
        (lambda: CircuitBreaker("x", listeners=5), "listeners = 5 is not a tuple"),  # type: ignore[arg-type]
        (lambda: CircuitBreaker("x", storage="redis://cache"), "storage = 'redis://cache' keeps no state"),
        (lambda: CircuitBreaker("x", state_storage=dict), "storage = <class 'dict'> keeps no state"),
        (lambda: Retry(nested=1), "nested = 1 is not a bool"),  # type: ignore[arg-type]
        (lambda: subscribe(None), "subscriber = None is not callable"),  # type: ignore[arg-type]
        (lambda: subscribe(refuses), "subscriber .* is async"),
        (lambda: subscribe(print, "CircuitOpened"), "is no kind of event"),  # type: ignore[arg-type]
        (lambda: subscribe(print, CircuitOpened, names="payments"), "is no set of names"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_told_where_they_are_made(make: Callable[[], object], said: str) -> None:
    """A setting that could never work is refused, with its name, value and remedy, before any call."""
    with pytest.raises(ConfigurationError, match=said):
        make()


BARE = (retry, circuit_breaker, concurrency_limit, hedge, throttle)


@pytest.mark.parametrize("decorator", BARE, ids=lambda one: one.__name__)
def test_decorators_that_need_no_setting_work_without_parentheses(decorator: Any) -> None:
    """`@throttle` is `@throttle()`, with a policy of the function's own, and does not swallow settings."""

    def work(number: int) -> int:
        return -number

    async def awork(number: int) -> int:
        return -number

    assert decorator(work)(1) == -1
    assert asyncio.run(decorator(awork)(1)) == -1
    assert explain(decorator(work)).policies == explain(decorator()(work)).policies
    named = _compile.stack_of(decorator(work, name="own"))
    assert named is not None
    assert named.parts[0].name == "own"


def test_each_function_under_a_bare_decorator_has_a_state_of_its_own() -> None:
    """What one function under a bare `@throttle` meets says nothing about another's dependency."""

    def other() -> None:
        return

    stacks = [_compile.stack_of(throttle(fn)) for fn in (fail, other)]
    assert len({id(stack.parts[0]) for stack in stacks if stack is not None}) == 2


TARGETS: list[Any] = [fail, refuses, staticmethod(fail), classmethod(repr)]
NEEDY: dict[str, Callable[[Any], object]] = {
    "@timeout(2.0)": timeout,
    "@bulkhead(10)": bulkhead,
    "@rate_limit(100)": rate_limit,
    "@cache(60.0)": cache,
    "@chaos(0.05, error=ConnectionError)": chaos,
    '@metered("payments")': metered,
}


@pytest.mark.parametrize("usage", NEEDY)
@pytest.mark.parametrize("target", TARGETS)
def test_decorators_that_need_a_setting_say_so(usage: str, target: Any) -> None:
    """`@timeout` without parentheses is a TypeError that shows the decorator as it should be written."""
    with pytest.raises(TypeError, match=re.escape("needs a setting, and was given ")) as caught:
        NEEDY[usage](target)
    assert str(caught.value).startswith(usage.partition("(")[0])
    assert str(caught.value).endswith(f"in its place: write {usage}")


def test_a_bare_fallback_says_what_it_needs() -> None:
    """`@fallback` might be meant as `call=`: the error tells of both."""
    with pytest.raises(ConfigurationError, match=r"give call=fn .* @fallback\(None\)"):
        fallback(fail)


ALONE: dict[str, Callable[[], object]] = {
    "Bulkhead": lambda: Bulkhead(1, queue=2),
    "RateLimit": lambda: RateLimit(1),
    "RateLimits": lambda: RateLimits(1, key=len),
    "CircuitBreakers": lambda: CircuitBreakers("hosts"),
}


@pytest.mark.parametrize("kind", ALONE)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.deepcopy])
def test_what_cannot_be_copied_says_what_to_do(
    kind: str, duplicate: Callable[[object], object], *, inside: bool
) -> None:
    """Pickling or deep copying a policy that others share names it and the remedy, also within a pipeline."""
    made: Any = ALONE[kind]()
    with pytest.raises(TypeError, match=f"a {kind} is shared state .*: share this one, and make one in each"):
        duplicate(Pipeline(made) if inside and kind != "CircuitBreakers" else made)


@pytest.mark.parametrize("pickled", [False, True])
def test_a_copy_of_a_policy_that_was_used_is_one_of_its_own(*, pickled: bool) -> None:
    """What was compiled for one works on its state, so it stays behind: a copy counts its own calls."""
    first = Throttle()
    assert first.call(len, "used") == 4
    second: Throttle = pickle.loads(pickle.dumps(first)) if pickled else copy.deepcopy(first)
    for _ in range(12):
        with suppress(ConnectionError, ThrottledError):
            second.call(fail)
    assert first.rejection_probability == 0
    assert second.rejection_probability > 0


def test_a_family_is_shown_without_its_address() -> None:
    """What `explain()` tells of a pipeline is the same in every run."""
    family = CircuitBreakers("hosts", key=str)
    family.get("a")
    assert explain(Pipeline(family)).policies == ("<CircuitBreakers 'hosts' of 1>",)


def test_parameters_may_be_called_as_what_generated_code_uses() -> None:
    """A parameter that has the name of a builtin changes nothing in the function that is generated around it."""

    async def work(KeyError: int, Exception: int) -> int:  # noqa: A002, N803  # the point
        try:
            await asyncio.sleep(30.0)
        except asyncio.CancelledError:
            return KeyError + Exception
        return 0

    with pytest.raises(TimeoutExceeded):
        asyncio.run(Timeout(0.01)(work)(1, 2))


def test_a_clock_that_goes_back_spoils_no_window(virtual_clock: VirtualClock) -> None:
    """A slow call that began by another clock fails: it is counted, and no total goes below zero."""
    from holdfast.infrastructure.resilience.clock import use_clock

    breaker = CircuitBreaker("x", slow_call_duration=1.0, min_calls=100)
    virtual_clock.advance(1_000_000.0)
    permit = breaker.admit()
    virtual_clock.advance(5.0)
    assert breaker.counts == WindowCounts(1, 0, 1)
    with use_clock(VirtualClock()):
        permit.failure()
        counts = breaker.counts
    assert counts.failures == 1
    assert counts.calls >= counts.slow >= 0


def test_requests_through_an_unnamed_pipeline_have_a_name(event_recorder: EventRecorder) -> None:
    """Events and notes of a transport do not show the library's insides."""
    transport = httpx_transport(Retry(1), transport=httpx.MockTransport(lambda request: httpx.Response(503)))
    with httpx.Client(transport=transport) as client:
        client.get("http://service.test/")
    assert {event.name for event in event_recorder.of(RetryGaveUp)} == {"httpx request"}


def test_a_decorated_breaker_is_named_after_its_function() -> None:
    """The name is there from the beginning, though it is made when somebody asks for it."""

    @circuit_breaker
    def ask() -> None:
        """Do nothing."""

    from holdfast.infrastructure.resilience.circuit_breaker import breaker_of

    name = f"{__name__}.test_a_decorated_breaker_is_named_after_its_function.<locals>.ask"
    assert (breaker_of(ask).name, repr(breaker_of(ask))) == (name, f"<CircuitBreaker {name!r} closed>")
    with pytest.raises(AttributeError):
        _ = breaker_of(ask)._machine.nickname  # type: ignore[attr-defined]  # noqa: SLF001  # only one name is lazy
