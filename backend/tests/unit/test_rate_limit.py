"""Rate limit: its settings, its arithmetic, inspection, families, and what a process may do to it."""

import asyncio
import dis
import gc
import inspect
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.infrastructure.resilience import _gcra
from holdfast.infrastructure.resilience._compile import source
from holdfast.infrastructure.resilience._gcra import _GRACE, _busy, decide
from holdfast.infrastructure.resilience.clock import SYSTEM, Clock, use_clock
from holdfast.infrastructure.resilience.deadline import deadline_after
from holdfast.infrastructure.resilience.errors import ConfigurationError, RateLimitedError
from holdfast.infrastructure.resilience.pipeline import Pipeline, explain
from holdfast.infrastructure.resilience.rate_limit import (
    RateLimit,
    RateLimitConfig,
    RateLimits,
    rate_limit,
)
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.store.redis_rate_limit import RedisRateLimit
from holdfast.testing import VirtualClock


@pytest.fixture(params=["plain", "locked"], autouse=True)
def admission(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with the lock-free form and with that of builds without the GIL."""
    chosen: str = request.param
    monkeypatch.setattr(_gcra, "PLAIN", chosen == "plain")
    return chosen


def admitted(limit: RateLimit | Callable[[], Any], calls: int) -> int:
    """Return how many of so many blocks or calls are admitted."""
    count = 0
    for _ in range(calls):
        try:
            if isinstance(limit, RateLimit):
                with limit:
                    count += 1
            else:
                limit()
                count += 1
        except RateLimitedError:
            pass
    return count


def gate_of(limit: RateLimit) -> Any:
    """Return the state of a limit."""
    return vars(RateLimit)["_gate"].__get__(limit)


def ignore(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handle an error that is expected."""


def script(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own."""
    root = str(Path(holdfast.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(text), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
    )


# Settings


def test_the_defaults_are_these() -> None:
    """A second, one call at a time, no waiting, no name, the common clock."""
    config = RateLimit(10).config

    assert config == RateLimitConfig(rate=10, per=1.0, burst=1, max_wait=0.0, name=None, clock=None)
    assert [type(one) for one in (config.rate, config.per, config.max_wait)] == [float] * 3
    assert repr(RateLimit(10, name="search")) == "RateLimit(10, per=1, burst=1, max_wait=0, name='search')"
    assert repr(RateLimits(1, per=60)) == "RateLimits(1, per=60, burst=1, max_wait=0, name=None)"


def test_the_lower_case_form_makes_the_same() -> None:
    """`rate_limit(...)` is a RateLimit of the same settings."""
    clock = Clock()
    made = rate_limit(10, per=60, burst=5, max_wait=2, name="search", clock=clock)

    assert made.config == RateLimit(10, per=60, burst=5, max_wait=2, name="search", clock=clock).config
    assert made.name == "search"


def test_the_page_tells_the_defaults() -> None:
    """The table of the documentation has every setting with the default that the code has."""
    page = (Path(__file__).parents[3] / "docs" / "policies" / "rate-limit.md").read_text(encoding="utf-8")
    table = page.split("## Defaults")[1].split("\n## ")[0]
    shown = re.findall(r"^\| `(\w+)` \| (\S+) \|", table, re.MULTILINE)
    parameters = inspect.signature(RateLimitConfig).parameters.values()
    assert shown == [(one.name, "–" if one.default is one.empty else str(one.default)) for one in parameters]


BAD: dict[str, tuple[object, ...]] = {
    "rate": (0, -1, float("nan"), float("inf"), 2e9, "2", None, True),
    "per": (0, -1, float("inf"), 4e7, "1", None, True),
    "burst": (0, 1.5, -1, None, True, 2 * 10**9),
    "max_wait": (-1, float("inf"), float("nan"), "1", None),
    "name": (1, b"x"),
    "clock": (os, Clock),
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path in BAD for value in BAD[path]])
@pytest.mark.parametrize("kind", [RateLimit, RateLimits])
def test_a_setting_out_of_range_is_refused(kind: Any, path: str, value: Any) -> None:
    """The fault names the setting and the value."""
    settings: dict[str, Any] = {"rate": 1, path: value}
    with pytest.raises(ConfigurationError) as caught:
        kind(**settings)

    (fault,) = caught.value.faults
    assert fault.path == path
    assert fault.value is value


def test_all_faults_come_at_once() -> None:
    """One ConfigurationError lists everything that is wrong."""
    settings: dict[str, Any] = {path: values[0] for path, values in BAD.items()}
    with pytest.raises(ConfigurationError) as caught:
        RateLimit(**settings)

    assert [fault.path for fault in caught.value.faults] == [*BAD]


def test_what_a_clock_cannot_tell_apart_is_no_rate() -> None:
    """More than a million calls a second would be limited by the rounding of floats: refused."""
    with pytest.raises(ConfigurationError, match="rate = 1000001 is too fast per 1 s; give at most 1e6"):
        RateLimit(1_000_001, per=1)
    assert RateLimit(1_000_000).available == 1
    assert RateLimit(60_000_000, per=60).available == 1


@pytest.mark.parametrize(
    ("rate", "per"), [(9.9e-10, 1.0), (1e-300, 1.0), (5e-324, 1.0), (1e-9, 1.1), (0.03, 3.1e7)]
)
def test_what_hardly_ever_comes_is_no_rate(rate: float, per: float) -> None:
    """Less than 1e-9 calls a second is refused, before it overflows; that much works, also with the largest burst."""
    with pytest.raises(ConfigurationError, match=r"is too slow per .* s; give at least 1e-9 a second"):
        RateLimit(rate, per=per)
    limit = RateLimit(1e-9, burst=10**9)
    assert (limit.available, admitted(limit, 5), limit.available) == (10**9, 5, 10**9 - 5)


def test_settings_are_frozen_and_pickle() -> None:
    """A configuration cannot be changed, and survives a pickle."""
    config = RateLimit(2, name="search").config
    with pytest.raises(AttributeError):
        config.rate = 3

    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    ("settings", "paths"),
    [({"max_keys": 0, "idle": -1.0, "key": "host"}, ["max_keys", "idle", "key"])],
)
def test_a_family_checks_its_own_settings(settings: dict[str, Any], paths: list[str]) -> None:
    """Every fault of a family's bounds is reported at once."""
    with pytest.raises(ConfigurationError) as caught:
        RateLimits(1, **settings)

    assert [fault.path for fault in caught.value.faults] == paths


# The algorithm


@pytest.mark.parametrize(
    ("tat", "now", "tolerance", "expected"),
    [
        (float("-inf"), 10.0, 0.0, (12.0, 0.0)),  # never seen
        (9.0, 10.0, 0.0, (12.0, 0.0)),  # late: nothing is saved up
        (10.0, 10.0, 0.0, (12.0, 0.0)),  # on time
        (11.0, 10.0, 0.0, (13.0, 1.0)),  # early
        (11.0, 10.0, 4.0, (13.0, 0.0)),  # early within the tolerance
        (14.0, 10.0, 4.0, (16.0, 0.0)),  # the last of the burst
        (15.0, 10.0, 4.0, (17.0, 1.0)),  # beyond it
        (14.000001, 10.0, 4.0, (16.000001, 0.0)),  # beyond it by what rounding may do
    ],
)
def test_the_decision_is_the_standards(
    tat: float, now: float, tolerance: float, expected: tuple[float, float]
) -> None:
    """A call conforms from the tolerance before its theoretical arrival time; the next is due one interval later."""
    assert decide(tat, now, 2.0, tolerance) == pytest.approx(expected)
    assert (decide(tat, now, 2.0, tolerance)[1] == 0.0) is (expected[1] == 0.0)


def test_a_burst_and_then_the_rate(virtual_clock: VirtualClock) -> None:
    """Three at once, then one each half second; what is not used in time is lost beyond the burst."""
    limit = RateLimit(2, burst=3)

    assert admitted(limit, 5) == 3
    for _ in range(3):
        virtual_clock.advance(0.5)
        assert admitted(limit, 2) == 1
    virtual_clock.advance(1.0)
    assert admitted(limit, 5) == 2
    virtual_clock.advance(1000.0)
    assert admitted(limit, 5) == 3


@pytest.mark.parametrize(("rate", "per"), [(3, 1), (7, 60), (0.1, 1), (1000, 0.3), (1, 86_400)])
def test_who_comes_back_when_told_is_admitted(virtual_clock: VirtualClock, rate: float, per: float) -> None:
    """`retry_after` is neither too short, by however little, nor longer than an interval."""
    limit, waited = RateLimit(rate, per=per), 0.0
    for _ in range(100):
        assert admitted(limit, 2) == 1
        with pytest.raises(RateLimitedError) as caught, limit:
            pass
        assert caught.value.retry_after == limit.retry_after
        assert caught.value.retry_after == pytest.approx(per / rate)
        waited += limit.retry_after
        virtual_clock.advance(limit.retry_after)
    assert waited == pytest.approx(100 * per / rate)


def test_a_refusal_costs_nothing(virtual_clock: VirtualClock) -> None:
    """However often a call is refused, the next place comes when it would have come."""
    limit = RateLimit(1)
    assert admitted(limit, 1000) == 1
    virtual_clock.advance(0.999)
    assert admitted(limit, 1000) == 0
    virtual_clock.advance(0.001)
    assert admitted(limit, 1000) == 1
    assert limit.rejected == 999 + 1000 + 999


# Inspection


def test_what_can_be_seen(virtual_clock: VirtualClock) -> None:
    """Places that are free, the seconds until there is one, who waits and how many were refused."""
    limit = RateLimit(4, burst=2)

    def seen() -> tuple[int, float, int, int]:
        return limit.available, limit.retry_after, limit.waiting, limit.rejected

    assert seen() == (2, 0.0, 0, 0)
    admitted(limit, 1)
    assert seen() == (1, 0.0, 0, 0)
    admitted(limit, 2)
    assert seen() == (0, 0.25, 0, 1)
    virtual_clock.advance(0.125)
    assert seen() == (0, 0.125, 0, 1)
    virtual_clock.advance(0.125)
    assert seen() == (1, 0.0, 0, 1)
    virtual_clock.advance(99.0)
    assert seen() == (2, 0.0, 0, 1)


def test_looking_changes_nothing(virtual_clock: VirtualClock) -> None:
    """Reading takes no place and makes no key known."""
    limit, family = RateLimit(1), RateLimits(1)
    for _ in range(10):
        assert (limit.available, limit.retry_after) == (1, 0.0)
        assert (family.get("a").available, family.peek("a"), "a" in family, len(family)) == (
            1,
            None,
            False,
            0,
        )
    assert admitted(limit, 2) == 1


def test_names_are_told(virtual_clock: VirtualClock) -> None:
    """The error carries the limit's name, else the pipeline's or function's; of a family, with the key."""

    def fetch() -> None: ...

    full = f"{__name__}.test_names_are_told.<locals>.fetch"

    def name_of(call: Callable[[], Any]) -> str:
        assert admitted(call, 1) == 1
        with pytest.raises(RateLimitedError) as caught:
            call()
        return caught.value.name

    assert name_of(RateLimit(1, name="search")(fetch)) == "search"
    assert name_of(RateLimit(1)(fetch)) == full
    assert name_of(Pipeline(RateLimit(1), name="payments")(fetch)) == "payments"
    assert name_of(RateLimits(1, key=lambda: 7, name="user")(fetch)) == "user[7]"
    assert name_of(RateLimits(1, key=lambda: 7)(fetch)) == f"{full}[7]"
    assert name_of(RateLimits(1, name="user").get("a")(fetch)) == "user[a]"
    assert (RateLimits(1, name="user").get("a").name, RateLimits(1).get("a").name) == ("user[a]", None)
    assert RateLimits(1, name="user").name == "user"
    limit = RateLimit(1)
    with limit, pytest.raises(RateLimitedError, match="rate limit 'rate limit' has no permit left"), limit:
        pass


def test_the_bounds_are_explained() -> None:
    """A stack can take `max_wait` longer, and raise RateLimitedError."""
    stack = Pipeline(RateLimit(1, max_wait=3.0), Timeout(2.0))
    assert stack.explain().duration == 5.0
    assert "RateLimitedError" in stack.explain().errors
    family = RateLimits(1, key=str, max_wait=4.0)
    assert explain(Pipeline(family, Timeout(2.0))).duration == 6.0
    assert "RateLimitedError" in explain(family).errors


# Changing it


@pytest.mark.parametrize("keyed", [False, True])
def test_calls_weigh_the_same_after_a_change(virtual_clock: VirtualClock, *, keyed: bool) -> None:
    """Three calls of four were used: at any new rate one is left, and the rest come back at that rate."""
    limit = RateLimits(1, per=3600, burst=4).get("a") if keyed else RateLimit(1, per=3600, burst=4)
    assert admitted(limit, 3) == 3
    limit.reconfigure(rate=10, per=1)
    assert (limit.config.rate, limit.config.per, limit.config.burst) == (10.0, 1.0, 4)
    assert limit.available == 1
    virtual_clock.advance(0.1)
    assert limit.available == 2
    limit.reconfigure(rate=1, per=3600)
    assert limit.available == 2


def test_a_smaller_burst_waits_for_what_was_used(virtual_clock: VirtualClock) -> None:
    """Ten calls of ten were used: with room for one, the next comes when nine have run off, and not before."""
    limit = RateLimit(1, burst=10)
    assert admitted(limit, 11) == 10
    limit.reconfigure(burst=1)
    assert limit.retry_after == 10.0
    assert admitted(limit, 1) == 0
    virtual_clock.advance(9.999)
    assert admitted(limit, 1) == 0
    virtual_clock.advance(0.001)
    assert admitted(limit, 2) == 1
    limit.reconfigure(burst=3)
    assert limit.available == 2


def test_a_change_out_of_range_changes_nothing(virtual_clock: VirtualClock) -> None:
    """It is refused as in the constructor, and the old settings hold."""
    limit = RateLimit(1, burst=2)
    before = limit.config
    with pytest.raises(ConfigurationError) as caught:
        limit.reconfigure(rate=-1, burst=0)
    assert [fault.path for fault in caught.value.faults] == ["rate", "burst"]
    assert limit.config is before
    assert admitted(limit, 3) == 2


def test_decorated_functions_follow_a_change(virtual_clock: VirtualClock) -> None:
    """A function that is decorated already obeys the new settings at its next call."""
    limit = RateLimit(1)
    call = limit(lambda: None)
    assert admitted(call, 2) == 1
    limit.reconfigure(burst=5)
    assert admitted(call, 9) == 4


def test_a_reset_forgets_every_call(virtual_clock: VirtualClock) -> None:
    """The whole burst is there again; what was refused stays counted."""
    limit, family = RateLimit(1, burst=2), RateLimits(1)
    admitted(limit, 3)
    limit.reset()
    assert (limit.available, limit.rejected) == (2, 1)
    admitted(family.get("a"), 1)
    family.get("a").reset()
    assert (family.get("a").available, len(family)) == (1, 0)


# Clocks


def test_a_limit_reads_its_own_clock(virtual_clock: VirtualClock) -> None:
    """With a clock of its own the common one does not matter, in every form."""
    own = VirtualClock()
    limit = RateLimit(1, clock=own)
    family = RateLimits(1, clock=own, key=lambda: "a")
    for call in (limit, limit(lambda: None), family.get("b"), family(lambda: None)):
        own.advance(10.0)
        assert admitted(call, 2) == 1
        virtual_clock.advance(10.0)
        assert admitted(call, 1) == 0
        own.advance(1.0)
        assert admitted(call, 1) == 1


@pytest.mark.parametrize("keyed", [False, True])
def test_a_clock_that_goes_back_locks_nobody_out(*, keyed: bool) -> None:
    """A limit used under one clock admits its burst under another, however much earlier that is, and then limits."""
    limit = RateLimits(1, burst=2).get("a") if keyed else RateLimit(1, burst=2)
    for start in (1e9, 1000.0, 5.0, 2e6, 0.0):
        with use_clock(VirtualClock(start=start)) as clock:
            assert isinstance(clock, VirtualClock)
            assert admitted(limit, 3) == 2
            assert limit.retry_after == 1.0
            clock.advance(1.0)
            assert admitted(limit, 3) == 1


def test_the_bound_of_a_refusal_is_what_the_limit_itself_allows() -> None:
    """A clock that goes back a little may refuse, but never for longer than one whole burst takes to run off."""
    limit = RateLimit(1, burst=4)
    with use_clock(VirtualClock(start=1000.0)):
        admitted(limit, 4)
    with use_clock(VirtualClock(start=999.5)):
        assert limit.retry_after <= 4.0
        assert limit.available == 4  # 1004 is more than four seconds from 999.5: of another clock


# Blocks and stacks


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_a_block_was_made_however_it_ends(
    virtual_clock: VirtualClock, error: type[BaseException] | None
) -> None:
    """A block takes a place, gives the seconds it waited, and lets its error pass."""
    limit = RateLimit(1, burst=2, max_wait=5.0)

    def block() -> float:
        with limit as waited:
            if error is not None:
                raise error
        return waited

    async def ablock() -> float:
        async with limit as waited:
            if error is not None:
                raise error
        return waited

    forms: list[Callable[[], float]] = [block, lambda: virtual_clock.run(ablock())]
    for waited, form in zip((0.0, 0.0, 1.0, 1.0), forms * 2, strict=True):
        before = virtual_clock.elapsed
        if error is None:
            assert form() == waited
        else:
            with pytest.raises(error):
                form()
        assert virtual_clock.elapsed - before == waited


def test_blocks_of_one_limit_may_nest(virtual_clock: VirtualClock) -> None:
    """Every block takes its own place."""
    limit = RateLimit(1, burst=2)
    with limit, limit, pytest.raises(RateLimitedError), limit:
        pass


def test_functions_share_the_limit_that_decorates_them(virtual_clock: VirtualClock) -> None:
    """Two functions, a block and `call` take from the same burst; the signature and the results stay."""
    limit = RateLimit(1, burst=4)

    @limit
    def one(a: int, /, *rest: int, b: int = 2, **more: int) -> tuple[Any, ...]:
        return a, rest, b, more

    @limit
    async def two(a: int) -> int:
        return a

    assert one(1, 3, b=4, c=5) == (1, (3,), 4, {"c": 5})
    assert virtual_clock.run(two(7)) == 7
    assert limit.call(divmod, 7, 2) == (3, 1)
    with limit:
        pass
    for refused in (lambda: one(1), lambda: limit.call(divmod, 7, 2)):
        assert admitted(refused, 1) == 0
    with pytest.raises(RateLimitedError):
        virtual_clock.run(two(7))


def test_refusals_leave_no_circles(virtual_clock: VirtualClock) -> None:
    """An error and what its traceback holds are freed without the garbage collector."""

    class Argument:
        """Something that can be weakly referred to."""

    limit = RateLimit(1)

    @limit
    def fetch(argument: Argument) -> None: ...

    @limit
    async def afetch(argument: Argument) -> None: ...

    def call() -> weakref.ref[Argument]:
        argument = Argument()
        try:
            fetch(argument)
        except RateLimitedError:
            pass
        return weakref.ref(argument)

    async def acall() -> weakref.ref[Argument]:
        argument = Argument()
        try:
            await afetch(argument)
        except RateLimitedError:
            pass
        return weakref.ref(argument)

    async def freed() -> tuple[bool, bool]:
        call()
        await acall()
        gc.collect()
        gc.disable()
        try:
            return call()() is None, (await acall())() is None
        finally:
            gc.enable()

    assert virtual_clock.run(freed()) == (True, True)


@pytest.mark.parametrize("start", [0.0, 1e6])
def test_a_deadline_is_on_the_common_clock(virtual_clock: VirtualClock, start: float) -> None:
    """A limit with a clock of its own waits as long as the deadline leaves, whatever time its clock shows."""
    own = VirtualClock(start=start)
    virtual_clock.advance(1000.0)
    limit = RateLimit(1, max_wait=100.0, clock=own)
    with deadline_after(1.5):
        assert admitted(limit, 2) == 2
        with pytest.raises(RateLimitedError), deadline_after(0.5), limit:
            raise AssertionError


def test_a_deadline_that_has_passed_still_admits_at_once(virtual_clock: VirtualClock) -> None:
    """A place that is free is given to whoever asks; only waiting needs time."""
    limit = RateLimit(1, max_wait=10.0)
    with deadline_after(-1.0):
        assert admitted(limit, 2) == 1


# Families


def key_of(key: Any, *_: Any) -> Any:
    return key


def echo(key: Any) -> Any:
    return key


def test_keys_do_not_disturb_each_other(virtual_clock: VirtualClock) -> None:
    """Each key has the whole rate; one object and its equals are one key."""
    family = RateLimits(1, burst=2, key=key_of)
    fetch = family(echo)
    for key in ("a", 1, ("host", 443), None):
        assert admitted(partial(fetch, key), 3) == 2
    assert [*family] == ["a", 1, ("host", 443), None]
    assert admitted(lambda: fetch(1.0), 1) == 0
    assert (family.rejected, family.get("a").rejected) == (5, 5)


def test_a_view_shares_the_familys_state(virtual_clock: VirtualClock) -> None:
    """What the family admits counts for the view of its key, and the other way round."""
    family = RateLimits(1, burst=3, key=key_of)
    fetch = family(echo)
    view, twin = family.get("a"), family.get("a")
    fetch("a")
    with view:
        pass
    twin(lambda: None)()
    assert (view.available, twin.available, family.get("b").available) == (0, 0, 3)
    assert admitted(lambda: fetch("a"), 1) == 0
    assert (family.call(echo, "b"), family.get("b").available) == ("b", 2)


def test_a_family_without_a_key_function_is_used_by_get() -> None:
    """Without `key=` it can be neither a decorator nor part of a pipeline: refused at once, with what to do."""
    for use in (lambda: RateLimits(1)(lambda: None), lambda: Pipeline(Timeout(1.0), RateLimits(1))):
        with pytest.raises(TypeError, match=r"give key=.*family\.get\(key\)"):
            use()
    assert len(Pipeline(RateLimits(1).get("a")).policies) == 1


def test_what_cannot_be_hashed_is_no_key() -> None:
    """An unhashable key is the caller's mistake: the call is not made, and nothing is locked."""
    family = RateLimits(1, key=key_of)
    unhashable: Any = []
    for call in (lambda: family.call(echo, unhashable), lambda: family.get(unhashable)):
        with pytest.raises(TypeError, match="unhashable"):
            call()
    assert admitted(lambda: family.call(echo, "a"), 1) == 1


def test_discarding_forgets_a_key(virtual_clock: VirtualClock) -> None:
    """After `discard` the key has its whole burst; discarding again does nothing."""
    family = RateLimits(1)
    admitted(family.get("a"), 1)
    assert (len(family), "a" in family, family.peek("a") is None) == (1, True, False)
    family.discard("a")
    family.discard("a")
    assert (len(family), "a" in family, family.peek("a")) == (0, False, None)
    assert admitted(family.get("a"), 2) == 1


def test_what_no_longer_matters_is_swept(virtual_clock: VirtualClock) -> None:
    """When a new key comes `idle` seconds after the last time, keys with their whole burst are forgotten."""
    family = RateLimits(1, per=10, idle=60.0)
    for key in range(5):
        admitted(family.get(key), 1)
    virtual_clock.advance(59.0)
    admitted(family.get("late"), 1)
    assert len(family) == 6
    virtual_clock.advance(1.0)
    admitted(family.get("new"), 1)
    assert [*family] == ["late", "new"]


def test_a_full_family_forgets_first_what_no_longer_matters(virtual_clock: VirtualClock) -> None:
    """With room for three, the fourth key takes the place of those that have their whole burst again."""
    family = RateLimits(1, max_keys=3, idle=1e6)
    for key in "abc":
        admitted(family.get(key), 1)
        virtual_clock.advance(0.4)
    admitted(family.get("d"), 1)
    assert [*family] == ["b", "c", "d"]


def test_a_full_family_forgets_next_what_gives_away_the_least(virtual_clock: VirtualClock) -> None:
    """While all still matter, the key that is free again soonest goes, and never the one that was used up."""
    family = RateLimits(1, per=100, burst=3, max_keys=3)
    assert admitted(family.get("busy"), 4) == 3
    for key in "abcdef":
        virtual_clock.advance(1.0)
        assert admitted(family.get(key), 1) == 1
    assert [*family] == ["busy", "e", "f"]
    assert admitted(family.get("busy"), 1) == 0


@pytest.mark.parametrize("max_keys", [1, 2, 15, 16, 17, 100, 1000])
def test_a_family_keeps_its_bound(virtual_clock: VirtualClock, max_keys: int) -> None:
    """There are never more than `max_keys`, nor fewer than 15 of 16 of them, whatever comes."""
    family = RateLimits(1, per=1e6, key=key_of, max_keys=max_keys)
    fetch = family(echo)
    for key in range(3 * max_keys):
        fetch(key)
        assert len(family) <= max_keys
        assert len(family) >= min(key + 1, max_keys - max_keys // 16)
        assert key in family
        virtual_clock.advance(0.001)
    assert 0 not in family


@pytest.mark.parametrize("max_keys", [1, 2])
def test_a_key_that_is_waited_for_is_kept(virtual_clock: VirtualClock, max_keys: int) -> None:
    """A full family does not forget those who wait: nobody overtakes them, and they are admitted in their turn."""
    family = RateLimits(1, per=10, key=key_of, max_keys=max_keys, max_wait=60.0)

    @family
    def fetch(key: object) -> float:
        return virtual_clock.elapsed

    def flood() -> float:
        for key in range(20):
            virtual_clock.sleep(0.1)
            fetch(key)
            assert "a" in family
        assert family.get("a").waiting == 1
        return 0.0

    def late() -> float:
        virtual_clock.sleep(5.0)
        with family.get("a"):
            return virtual_clock.elapsed

    assert virtual_clock.run_threads(*[lambda: fetch("a")] * 2, flood, late) == [0.0, 10.0, 0.0, 20.0]


def test_a_key_takes_120_bytes_at_most() -> None:
    """Beyond the key itself there is a place in a table and a float."""
    family = RateLimits(1, per=3600, key=key_of, max_keys=1_000_000)
    fetch = family(echo)
    keys = [f"tenant-{at}" for at in range(20_000)]
    fetch("warm")
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for key in keys:
            fetch(key)
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(family) == 20_001
    assert used / len(keys) <= 120


# Threads, forks, loops


class Ticking(Clock):
    """A clock that moves on by a tick whenever it is read, and knows what each thread read last."""

    def __init__(self, tick: float) -> None:
        self._tick = tick
        self._lock = threading.Lock()
        self._readings = 0
        self.here = threading.local()

    def monotonic(self) -> float:
        with self._lock:
            self._readings += 1
            self.here.last = self._readings * self._tick
        return float(self.here.last)

    def sleep(self, seconds: float) -> None:
        """Read until it is time."""
        until = self.monotonic() + seconds
        while self.monotonic() < until:
            pass

    def wait(self, event: threading.Event, timeout: float | None = None) -> bool:
        """Read until the event is set or it is time."""
        until = self.monotonic() + (1e9 if timeout is None else timeout)
        while not event.is_set() and self.monotonic() < until:
            pass
        return event.is_set()


def hammered(*actions: Callable[[], None]) -> None:
    """Run every action in a thread of its own, with threads that switch whenever they can."""
    start, before = threading.Barrier(len(actions)), sys.getswitchinterval()

    def body(action: Callable[[], None]) -> None:
        start.wait()
        action()

    threads = [threading.Thread(target=body, args=(action,)) for action in actions]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("make", [RateLimit, partial(RedisRateLimit, "redis://127.0.0.1:1/0", "x")])
def test_changes_at_once_are_both_made(make: Callable[[float], RateLimit | RedisRateLimit]) -> None:
    """While one thread changes the burst, the rate that another has set is the rate."""
    limit, wrong = make(1), list[float]()

    def change_rate() -> None:
        for rate in range(1, 300):
            limit.reconfigure(rate=rate)
            if limit.config.rate != rate:
                wrong.append(rate)

    def change_burst() -> None:
        for burst in range(1, 300):
            limit.reconfigure(burst=burst)

    hammered(change_rate, change_burst)

    assert wrong == []
    assert (limit.config.rate, limit.config.burst) == (299.0, 299)


@pytest.mark.parametrize("form", ["decorated", "block"])
def test_an_instant_holds_the_burst_however_often_threads_switch(
    virtual_clock: VirtualClock, form: str
) -> None:
    """Where time stands still, eight threads share exactly the burst."""
    limit, shares = RateLimit(1, burst=5000), list[int]()
    asked = limit if form == "block" else limit(lambda: None)

    hammered(*[lambda: shares.append(admitted(asked, 1000))] * 8)

    assert sum(shares) == 5000
    assert (limit.available, limit.rejected) == (0, 3000)
    virtual_clock.advance(1.0)
    assert (limit.available, limit.retry_after) == (1, 0.0)


@pytest.mark.parametrize("form", ["decorated", "block"])
@pytest.mark.parametrize("max_wait", [0.0, 30.0])
def test_no_window_holds_more_than_the_rate_however_often_threads_switch(max_wait: float, form: str) -> None:
    """Eight threads, some of which wait, are admitted as the rate allows in every window, each as often as it wants."""
    clock, times = Ticking(1.0), list[float]()
    limit = RateLimit(1, per=10.0, burst=3, max_wait=max_wait, clock=clock)
    call = limit(lambda: times.append(clock.here.last))

    def block() -> None:
        with limit:
            times.append(clock.here.last)

    def hammer() -> None:
        made = 0
        while made < 40:
            try:
                call() if form == "decorated" else block()
                made += 1
            except RateLimitedError:
                pass

    hammered(*[hammer] * 8)

    times.sort()
    assert len(times) == 320
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= 3 + (times[last] - begin) / 10.0
    assert limit.waiting == 0


FORK = """
import os, signal, sys, threading
from holdfast.infrastructure.resilience import _gcra
_gcra.PLAIN = sys.argv[1:] == ["plain"]
from holdfast.infrastructure.resilience.rate_limit import RateLimit, RateLimits
from holdfast.testing import VirtualClock

clock = VirtualClock()
limit = RateLimit(1, max_wait=1e6, clock=clock)
family = RateLimits(1, key=lambda: "a", max_wait=1e6, clock=clock)
calls = [limit(lambda: 1), family(lambda: 1)]
for call in calls:
    call()
inside, go = threading.Event(), threading.Event()

def hold():
    for lock in _gcra._locks:
        lock.acquire()
    inside.set()
    go.wait()
    for lock in _gcra._locks:
        lock.release()

for gate, key in ((limit._gate, None), (family._gate, "a")):
    gate.enter(key, _gcra.ThreadWaiter())
assert (limit.waiting, family.get("a").waiting) == (1, 1)
thread = threading.Thread(target=hold)
thread.start()
inside.wait()
if os.fork() == 0:
    signal.alarm(20)
    fine = limit.waiting == family.get("a").waiting == 0 and not _gcra._busy
    clock.advance(1.0)
    fine = fine and all(call() == 1 for call in calls) and limit.retry_after == 1.0
    os._exit(0 if fine else 1)
code = os.waitstatus_to_exitcode(os.wait()[1])
go.set()
thread.join()
assert (limit.waiting, family.get("a").waiting) == (1, 1)
assert code == 0, code
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_child_waits_for_nobody_of_its_parent(admission: str) -> None:
    """A fork while another thread holds every lock and others wait leaves the child's limits usable and exact."""
    done = script(FORK, admission)
    assert (done.returncode, done.stderr) == (0, "")


# Admissions without the lock, while somebody who holds it thinks


class Interrupted(Clock):
    """A clock at which something happens, once: after so many readings (`left`) one is what `happens` returns."""

    def __init__(self, happens: Callable[[], float]) -> None:
        self.now = 0.0
        self.left = 0
        self.happens = happens

    def monotonic(self) -> float:
        self.left -= 1
        return self.happens() if self.left == 0 else self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_who_is_admitted_while_another_is_decided_on_counts() -> None:
    """A place that is taken while the slow path decides to give it to somebody else is given once."""

    def happens() -> float:
        clock.now = 1.0
        call()
        return clock.now

    clock = Interrupted(happens)
    limit = RateLimit(1, clock=clock)
    call = limit(lambda: None)
    call()
    clock.left, clock.now = 2, 0.5
    with pytest.raises(RateLimitedError):
        call()
    assert (clock.left < 0, limit.retry_after) == (True, 1.0)


def test_who_is_admitted_while_another_queues_counts() -> None:
    """A call that takes the turn of one who has not yet its place in the line moves that one's turn back."""

    def happens() -> float:
        clock.now = 1.0
        assert call() == 1.0
        return 0.5

    clock = Interrupted(happens)
    limit = RateLimit(1, max_wait=10.0, clock=clock)
    call = limit(lambda: clock.now)
    assert call() == 0.0
    clock.left, clock.now = 2, 0.5
    assert call() == 2.0
    assert (limit.waiting, limit.retry_after, len(_busy)) == (0, 1.0, 0)


def test_who_need_not_queue_after_all_does_not() -> None:
    """A call that was about to queue when the limit was reset is admitted at once, and stands in no line."""

    def happens() -> float:
        limit.reset()
        return clock.now

    clock = Interrupted(happens)
    limit = RateLimit(1, max_wait=10.0, clock=clock)
    call = limit(lambda: clock.now)
    assert call() == 0.0
    clock.left, clock.now = 2, 0.5
    assert call() == 0.5
    assert (limit.waiting, limit.retry_after, len(_busy)) == (0, 1.0, 0)


def test_who_is_admitted_while_another_queues_anew_counts() -> None:
    """Whoever has lost its place gets a new one behind a call that was admitted in between."""

    def happens() -> float:
        clock.now = 1.0
        assert call() == 1.0
        return 0.5

    clock = Interrupted(happens)
    limit = RateLimit(1, max_wait=10.0, clock=clock)
    gate, lost = gate_of(limit), _gcra.ThreadWaiter()
    call = limit(lambda: clock.now)
    assert (call(), gate.enter(None, lost)) == (0.0, 1.0)
    gate.dissolve()
    assert gate.tat == 1.0
    clock.left, clock.now = 1, 0.5
    assert gate.ask(lost) > 0.5
    clock.now = 1.9
    assert gate.ask(lost) > 0.0
    clock.now = 2.0
    assert gate.ask(lost) == 0.0
    assert (limit.waiting, gate.tat, len(_busy)) == (0, 3.0, 0)


def test_who_is_admitted_while_the_settings_change_counts() -> None:
    """A call that is made while the rate changes weighs as much as any other afterwards."""

    def happens() -> float:
        call()
        return clock.now

    clock = Interrupted(happens)
    limit = RateLimit(1, burst=2, clock=clock)
    call = limit(lambda: None)
    call()
    clock.left = 1
    limit.reconfigure(per=10.0)
    assert (clock.left <= 0, limit.available) == (True, 0)
    assert limit.retry_after == 10.0


@pytest.mark.parametrize("at", range(1, 5))
def test_an_interrupt_leaves_nobody_in_the_line(at: int) -> None:
    """An interrupt at any reading of the clock on the way into the line and through it takes no place."""

    def happens() -> float:
        raise KeyboardInterrupt

    clock = Interrupted(happens)
    limit = RateLimit(1, max_wait=10.0, clock=clock)
    call = limit(lambda: clock.now)
    call()
    clock.left = at
    with pytest.raises(KeyboardInterrupt):
        call()
    assert (limit.waiting, len(_busy)) == (0, 0)
    clock.now = 1.0
    assert call() == 1.0


def test_the_lock_free_form_looks_and_leaps_between_two_calls(admission: str) -> None:
    """What is admitted at once takes one line without a call or a loop, and no lock; the other form takes it."""
    text = source((RateLimit(1),), lambda: 1)
    assert ("with _l0:" in text) is (admission == "locked")
    assert ("with _l0:" in source((RateLimits(1).get("a"),), lambda: 1)) is True
    if admission == "plain":
        line = next(line.strip() for line in text.splitlines() if "_g0.tat =" in line)
        names = {one.opname for one in dis.get_instructions(compile(f"{line}\nelse: pass", "", "exec"))}
        assert "STORE_ATTR" in names
        assert not {name for name in names if "CALL" in name or "BACKWARD" in name or "WITH" in name}


def test_a_sync_limit_needs_no_asyncio() -> None:
    """Import and sync use, waiting included, load none of the costly modules."""
    done = script(
        """
        import sys
        before = set(sys.modules)
        from holdfast.infrastructure.resilience.rate_limit import RateLimits, rate_limit
        limit = rate_limit(1000, max_wait=1)
        call = limit(lambda: 0)
        assert call() == call() == limit.call(int) == 0
        with limit: pass
        costly = {"asyncio", "signal", "queue", "typing", "dataclasses", "inspect", "logging", "random"}
        print(costly & (set(sys.modules) - before))
        """
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_a_loop_that_stops_holds_up_nobody(virtual_clock: VirtualClock) -> None:
    """Tasks whose loop was stopped while they waited lose their place; when it goes on they queue anew."""
    limit = RateLimit(1, max_wait=100.0)

    async def call() -> float:
        async with limit:
            return virtual_clock.elapsed

    with limit:
        pass
    stopped = virtual_clock.loop()
    tasks = [stopped.create_task(call()) for _ in range(2)]
    stopped.run_until_complete(virtual_clock.asleep(0.5))
    assert limit.waiting == 2
    # One that waits behind both is not kept for longer than the line promises, and a moment.
    with limit:
        assert virtual_clock.elapsed == 3.0 + _GRACE
    assert limit.waiting == 0
    assert sorted(stopped.run_until_complete(asyncio.gather(*tasks))) == [6.0, 7.0]
    stopped.close()
    assert (limit.waiting, len(_busy)) == (0, 0)


class Sleepy(Clock):
    """A clock on which whoever sleeps first sleeps for 20 s."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.sleepers = 0

    def monotonic(self) -> float:
        return self.clock.monotonic()

    async def asleep(self, seconds: float) -> None:
        self.sleepers += 1
        await self.clock.asleep(20.0 if self.sleepers == 1 else seconds)


def test_a_task_that_does_not_come_holds_up_nobody_of_its_loop(virtual_clock: VirtualClock) -> None:
    """Where the first alone is late, the next of its loop goes on when the grace is over, the rest at the rate."""
    limit = RateLimit(1, max_wait=100.0, clock=Sleepy(virtual_clock))

    async def call() -> float:
        async with limit:
            return virtual_clock.elapsed

    async def main() -> list[float]:
        return await asyncio.gather(*(call() for _ in range(4)))

    assert virtual_clock.run(main()) == [0.0, 20.0, 2.0 + _GRACE, 3.0 + _GRACE]
    assert (limit.waiting, len(_busy)) == (0, 0)


def test_a_loop_that_was_closed_is_told_nothing(virtual_clock: VirtualClock) -> None:
    """Where the next of the line belongs to a closed loop, the one behind it is woken."""
    limit = RateLimit(1, max_wait=100.0)
    times: list[float] = []

    async def call() -> None:
        async with limit:
            times.append(virtual_clock.elapsed)

    def thread(begin: float) -> Callable[[], None]:
        def block() -> None:
            virtual_clock.sleep(begin)
            with limit:
                times.append(virtual_clock.elapsed)

        return block

    with limit:
        pass
    loop, abandoned = virtual_clock.loop(), list[asyncio.Task[None]]()
    loop.set_exception_handler(ignore)  # which would tell that a task was destroyed while it waited

    def leave_behind() -> None:
        virtual_clock.sleep(0.25)
        task = loop.create_task(call())
        loop.run_until_complete(virtual_clock.asleep(0.25))
        loop.close()
        abandoned.append(task)

    virtual_clock.run_threads(thread(0.125), leave_behind, thread(0.75))
    assert times == [1.0, 2.0]
    assert limit.waiting == 0
    abandoned.clear()


def test_a_waiter_that_is_garbage_leaves_the_line(virtual_clock: VirtualClock) -> None:
    """A coroutine that is closed while it waits (GeneratorExit) gives its place to those behind it."""
    limit = RateLimit(1, max_wait=100.0)

    async def call() -> None:
        async with limit:
            pass

    async def main() -> list[int]:
        seen: list[int] = []
        coroutine = call()
        coroutine.send(None)
        seen.append(limit.waiting)
        coroutine.close()
        return [*seen, limit.waiting]

    with limit:
        pass
    assert virtual_clock.run(main()) == [1, 0]
    assert limit.retry_after == 1.0


def test_the_system_clock_works() -> None:
    """On real time a few thousand calls a second come no faster than the rate, sync and async."""
    limit = RateLimit(2000, max_wait=10.0, burst=2)

    @limit
    def call() -> None: ...

    @limit
    async def acall() -> None: ...

    async def many() -> None:
        await asyncio.gather(*(acall() for _ in range(20)))

    begin = SYSTEM.monotonic()
    for _ in range(20):
        call()
    asyncio.run(many())
    assert SYSTEM.monotonic() - begin >= (40 - 2) / 2000
