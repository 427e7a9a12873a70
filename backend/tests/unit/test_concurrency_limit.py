"""Concurrency limit: its settings, what moves it, and who is refused."""

import gc
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import holdfast
from backend.tests.integration.resilience._driver import Driver, Mode, driver_of
from backend.tests.integration.resilience._make import _over
from holdfast.infrastructure.resilience.classify import THROTTLED, TRANSIENT
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.concurrency_limit import (
    AIMD,
    ConcurrencyLimit,
    ConcurrencyLimitConfig,
    Gradient2,
    StandingQueue,
    concurrency_limit,
)
from holdfast.infrastructure.resilience.errors import (
    CallRejectedError,
    ConcurrencyLimitedError,
    ConfigurationError,
)
from holdfast.infrastructure.resilience.events import CallbackFailed, CallRejected, LimitChanged
from holdfast.infrastructure.resilience.permit import Permit
from holdfast.infrastructure.resilience.pipeline import Pipeline, explain
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.testing import EventRecorder, Script, VirtualClock, fail, succeed


@pytest.fixture(params=["sync", "async"])
def driver(request: pytest.FixtureRequest, virtual_clock: VirtualClock) -> Iterator[Driver]:
    """Run the test in both modes."""
    mode: Mode = request.param
    made = driver_of(mode, virtual_clock)
    yield made
    made.close()


def always(error: Exception) -> bool:
    return True


def aimd(initial: int = 20, **settings: Any) -> ConcurrencyLimit:
    return ConcurrencyLimit(**_over(settings, algorithm=AIMD(), initial=initial, name="dependency"))


@contextmanager
def holding(limit: ConcurrencyLimit, places: int) -> Generator[None]:
    """Have so many calls in flight that say nothing in the end."""
    permits = [limit.admit() for _ in range(places)]
    yield
    for permit in permits:
        permit.neutral()


def calls(limit: ConcurrencyLimit, clock: VirtualClock, number: int, took: float = 1.0) -> None:
    """Make calls one after another that succeed, after `took` seconds each."""
    for _ in range(number):
        permit = limit.admit()
        clock.advance(took)
        permit.success()


# Settings


def test_the_defaults_are_these() -> None:
    """Gradient2 with Netflix' numbers, 20 to begin with, 1 to 200, no bound on latency, no priorities."""
    expected = ConcurrencyLimitConfig(
        algorithm=Gradient2(smoothing=0.2, queue=4, tolerance=1.5, long_window=600),
        initial=20,
        min_limit=1,
        max_limit=200,
        max_healthy_latency=None,
        priority=None,
        on=TRANSIENT,
        name=None,
        clock=None,
    )
    limit = ConcurrencyLimit()
    assert limit.config == expected == ConcurrencyLimitConfig()
    assert AIMD() == AIMD(backoff=0.9)
    assert (limit.limit, limit.running, limit.rejected) == (20, 0, 0)
    assert repr(concurrency_limit(name="search")) == "<ConcurrencyLimit 'search' limit 20>"


def test_the_lower_case_form_makes_the_same() -> None:
    """`concurrency_limit(...)` is a ConcurrencyLimit of the same settings."""
    settings: dict[str, Any] = {
        "algorithm": AIMD(backoff=0.5),
        "initial": 5,
        "min_limit": 2,
        "max_limit": 9,
        "max_healthy_latency": 1.0,
        "priority": str,
        "on": OSError,
        "name": "search",
        "clock": Clock(),
    }
    made = concurrency_limit(**settings)
    assert made.config == ConcurrencyLimit(**settings).config == ConcurrencyLimitConfig(**settings)
    assert (made.name, made.limit) == ("search", 5)


async def coroutine_function() -> str:
    return "low"


BAD: dict[str, tuple[object, ...]] = {
    "algorithm": ("aimd", None, AIMD),
    "initial": (0, 201, 1.5, "20", True),
    "min_limit": (0, -1, 21, "1"),
    "max_limit": (0, 19, None, 1_000_001),
    "max_healthy_latency": (0, -1, float("nan"), "1"),
    "priority": ("low", coroutine_function),
    "on": (5, BaseException),
    "name": (1, b"x"),
    "clock": (Clock, 0),
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path in BAD for value in BAD[path]])
def test_a_setting_out_of_range_is_refused(path: str, value: Any) -> None:
    """The faults name the setting, or the one that it contradicts."""
    with pytest.raises(ConfigurationError) as caught:
        concurrency_limit(**{path: value})
    paths = {fault.path for fault in caught.value.faults}
    assert paths & {path, "initial", "min_limit"}
    assert paths <= {path, "initial", "min_limit"}


def test_all_faults_come_at_once() -> None:
    """One ConfigurationError lists everything that is wrong."""
    settings: dict[str, Any] = {path: values[0] for path, values in BAD.items()}
    with pytest.raises(ConfigurationError) as caught:
        concurrency_limit(**settings)
    assert [fault.path for fault in caught.value.faults] == [*BAD]


@pytest.mark.parametrize(
    "settings",
    [
        {"smoothing": 0},
        {"smoothing": 1.1},
        {"queue": 0},
        {"queue": 1.5},
        {"tolerance": 0.9},
        {"long_window": 9},
        {"backoff": 0},
        {"backoff": 1},
    ],
)
def test_an_algorithm_checks_its_own_settings(settings: dict[str, Any]) -> None:
    """A fault of an algorithm is reported where the algorithm is made."""
    kind: Any = AIMD if "backoff" in settings else Gradient2
    with pytest.raises(ConfigurationError) as caught:
        kind(**settings)
    assert [fault.path for fault in caught.value.faults] == [*settings]
    assert caught.value.subject == kind.__name__


def test_settings_are_frozen_and_pickle() -> None:
    """A configuration cannot be changed, and survives a pickle."""
    config = ConcurrencyLimitConfig(name="search", algorithm=AIMD(backoff=0.8))
    with pytest.raises(AttributeError):
        config.initial = 3
    assert pickle.loads(pickle.dumps(config)) == config


# Admission


def test_the_limit_is_exact(driver: Driver, event_recorder: EventRecorder) -> None:
    """As many calls as the limit says are in flight at once; one more is refused at once, and told."""
    limit = aimd(3)
    call = driver.decorate(limit, Script(succeed(after=5.0)))
    outcomes = driver.together(*(driver.after(0.0, call) for _ in range(5)))
    assert sorted(map(str, outcomes)) == [*["concurrency limit 'dependency' is reached"] * 2, *["ok"] * 3]
    assert driver.clock.elapsed == 5.0
    refused = next(one for one in outcomes if not isinstance(one, str))
    assert refused.args == ("dependency", None)
    assert (limit.rejected, limit.running) == (2, 0)
    told = [(event.name, event.policy, event.retry_after) for event in event_recorder.of(CallRejected)]
    assert told == [("dependency", "concurrency_limit", None)] * 2


def test_a_refused_call_holds_no_place(driver: Driver) -> None:
    """Whoever is told of a refusal sees only the calls that are in flight."""
    limit = aimd(2)
    seen: list[int] = []
    call = driver.decorate(limit, Script(succeed()))
    with holding(limit, 2), holdfast.subscribe(lambda event: seen.append(limit.running), CallRejected):
        outcomes = driver.outcomes(3, call)
    assert [type(one) for one in outcomes] == [ConcurrencyLimitedError] * 3
    assert seen == [2, 2, 2]
    assert driver.outcomes(1, call) == ["ok"]


def test_a_limit_without_a_name_is_called_like_the_function(
    driver: Driver, event_recorder: EventRecorder
) -> None:
    """Errors and events of a nameless limit carry the function's name, or that of its pipeline; blocks a common one."""
    limit = aimd(1, name=None)

    async def fetch() -> None:
        """Never run."""

    async def block() -> None:
        async with driver.block(limit):
            raise AssertionError

    with holding(limit, 1):
        bare, inside = (driver.decorate(policy, fetch) for policy in (limit, Pipeline(limit, name="service")))
        names = [driver.outcomes(1, call)[0].name for call in (bare, inside, driver.function(block))]
    assert names[0].endswith("fetch")
    assert names[1:] == ["service", "concurrency limit"]
    assert [event.name for event in event_recorder.of(CallRejected)] == names


@pytest.mark.parametrize("error", [ConnectionError, ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_every_end_gives_the_place_back(driver: Driver, error: type[BaseException]) -> None:
    """However a call or block ends, its place is free again."""
    limit = aimd(1)

    async def fetch() -> None:
        assert limit.running == 1
        raise error

    async def block() -> None:
        async with driver.block(limit):
            await fetch()

    for call in (driver.decorate(limit, fetch), driver.function(block)):
        with pytest.raises(error):
            driver.call(call)
        assert limit.running == 0


def test_an_abandoned_coroutine_gives_its_place_back() -> None:
    """A coroutine that is dropped in the middle frees its place when it is collected, one never started holds none."""
    limit = aimd(1)

    class Forever:
        def __await__(self) -> Generator[None]:
            yield

    @limit
    async def fetch() -> None:
        await Forever()

    coroutine = fetch()
    assert limit.running == 0
    coroutine.send(None)
    assert limit.running == 1
    del coroutine
    gc.collect()
    assert limit.running == 0


def test_call_shares_the_places(driver: Driver) -> None:
    """`policy.call(fn)`, blocks and functions take from the same places."""
    limit = aimd(2)
    script = Script(succeed())
    with limit, holding(limit, 1):
        assert type(driver.outcomes(1, limit.call, driver.function(script))[0]) is ConcurrencyLimitedError
    assert driver.call(lambda: limit.call(driver.function(script))) == "ok"
    assert (script.calls, limit.running) == (1, 0)


def test_a_permit_is_settled_once() -> None:
    """A second settlement gives no second place back, and moves nothing."""
    limit = aimd(2)
    first, second = limit.admit(), limit.admit()
    assert isinstance(first, Permit)
    second.failure()
    assert (limit.limit, limit.running) == (1, 1)
    second.failure()
    second.neutral()
    second.success()
    assert (limit.limit, limit.running) == (1, 1)
    first.neutral()
    assert limit.running == 0


def test_a_predicate_that_wants_out_keeps_no_place() -> None:
    """A predicate that raises what is no Exception ends the block, and the place is free all the same."""

    def broken(_: object) -> bool:
        raise KeyboardInterrupt

    limit = aimd(1, on=broken)
    with pytest.raises(KeyboardInterrupt), limit:
        raise ValueError
    assert limit.running == 0


def test_blocks_end_in_any_order(virtual_clock: VirtualClock) -> None:
    """Blocks of an ExitStack, which end in another frame, settle their own permits with their own latency."""
    limit = aimd(4, max_healthy_latency=2.5)
    with ExitStack() as outer:
        for _ in range(3):
            outer.enter_context(limit)
            virtual_clock.advance(1.0)
        assert limit.running == 3
    # The second took 2 s, the first 3 s but began when little was in use.
    assert (limit.running, limit.limit) == (0, 4)


CHILD = """
    import os, sys, threading
    from holdfast.infrastructure.resilience.concurrency_limit import concurrency_limit

    limit = concurrency_limit(initial=2)
    permits = [limit.admit()]

    @limit
    def fetch():
        assert limit.running == 2
        child = os.fork()
        if child == 0:
            assert limit.running == 0
            assert limit.call(lambda: limit.running) == 1
        return child

    child = fetch()
    if child == 0:
        permits[0].neutral()
        os._exit(limit.running)
    assert limit.running == 1
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_begins_with_no_call_in_flight() -> None:
    """The calls of the parent's threads never end in the child: it counts its own only, and none twice."""
    path = str(Path(holdfast.__file__).parents[1])
    program = f"import sys; sys.path.insert(0, {path!r})\n{textwrap.dedent(CHILD)}"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# What moves the limit


def test_aimd_adds_one_a_round(virtual_clock: VirtualClock, event_recorder: EventRecorder) -> None:
    """Ten calls without a drop are a round; after each the limit is one higher, which is told."""
    limit = aimd(20)
    with holding(limit, 12):
        calls(limit, virtual_clock, 9)
        assert limit.limit == 20
        calls(limit, virtual_clock, 1)
        assert limit.limit == 21
        calls(limit, virtual_clock, 10, took=50.0)
        assert limit.limit == 22
    told = [(event.name, event.policy, event.old, event.new) for event in event_recorder.of(LimitChanged)]
    assert told == [("dependency", "concurrency_limit", 20, 21), ("dependency", "concurrency_limit", 21, 22)]


@pytest.mark.parametrize(("start", "rounds"), [(1, 1), (2, 2), (7, 7), (10, 10), (30, 10)])
def test_a_round_is_no_longer_than_the_limit(virtual_clock: VirtualClock, start: int, rounds: int) -> None:
    """A round is ten calls, or as many as the limit where it is smaller, so that small limits grow too."""
    limit = aimd(start)
    with holding(limit, start - 1):
        calls(limit, virtual_clock, rounds - 1)
        assert limit.limit == start
        calls(limit, virtual_clock, 1)
        assert limit.limit == start + 1


@pytest.mark.parametrize(("backoff", "after"), [(0.9, 18), (0.5, 10), (0.99, 19)])
def test_aimd_shrinks_at_a_drop(driver: Driver, backoff: float, after: int) -> None:
    """An error that `on` covers multiplies the limit by `backoff`."""
    limit = aimd(20, algorithm=AIMD(backoff=backoff))
    with holding(limit, 12):
        outcomes = driver.outcomes(1, driver.decorate(limit, Script(fail())))
    assert [type(one) for one in outcomes] == [ConnectionError]
    assert limit.limit == after


def gradient(latencies: list[float], spec: Gradient2, limit: float) -> list[int]:
    """Return the limit after each round, by the formula in the source's words."""
    long, limits = 0.0, list[int]()
    for at, short in enumerate(latencies, 1):
        long = (
            (long * (at - 1) + short) / at if at <= 10 else long + (short - long) * 2 / (spec.long_window + 1)
        )
        slope = max(0.5, min(1.0, spec.tolerance * long / short))
        if long / short > 2:
            long *= 0.95
        limit = limit * (1 - spec.smoothing) + spec.smoothing * (limit * slope + spec.queue)
        limits.append(int(limit))
    return limits


@pytest.mark.parametrize(
    "spec", [Gradient2(smoothing=0.2137), Gradient2(smoothing=0.5137, queue=1, tolerance=1.0, long_window=20)]
)
@pytest.mark.parametrize(
    "latencies",
    [
        [1.0] * 30,
        [1.0] * 10 + [2.0] * 20,
        [1.0] * 5 + [4.0] * 10 + [0.5] * 25,
        [0.1 * (at % 7 + 1) for at in range(40)],
    ],
)
def test_gradient2_follows_its_formula(
    virtual_clock: VirtualClock, spec: Gradient2, latencies: list[float]
) -> None:
    """The limit after each round is what the published formula says for the mean latency of the round."""
    limit = ConcurrencyLimit(algorithm=spec, initial=20)
    found: list[int] = []
    for latency in latencies:
        with holding(limit, limit.limit // 2):
            for at in range(min(10, limit.limit)):
                # The mean counts: every other call is quicker, the others slower.
                even = min(10, limit.limit) % 2 == 1
                calls(limit, virtual_clock, 1, latency * (1 if even else 1.5 - at % 2))
        found.append(limit.limit)
    assert found == gradient(latencies, spec, 20.0)


def test_gradient2_shrinks_by_a_tenth_at_a_drop(driver: Driver) -> None:
    """A drop is as bad as a latency that has doubled: with the default smoothing it takes a tenth."""
    limit = ConcurrencyLimit(initial=20)
    with holding(limit, 12):
        driver.outcomes(1, driver.decorate(limit, Script(fail())))
    assert limit.limit == 18


@pytest.mark.parametrize("algorithm", [Gradient2(), AIMD()])
def test_a_clock_that_stands_still_breaks_nothing(
    virtual_clock: VirtualClock, algorithm: Gradient2 | AIMD
) -> None:
    """Latencies of zero, as a coarse clock gives them, are as good as any."""
    limit = ConcurrencyLimit(algorithm=algorithm, initial=2)
    for _ in range(30):
        with holding(limit, limit.limit - 1):
            calls(limit, virtual_clock, limit.limit, took=0.0)
    assert limit.limit > 10


@pytest.mark.parametrize(("held", "moves"), [(8, False), (9, True), (19, True)])
@pytest.mark.parametrize("step", [succeed(), fail()])
def test_calls_that_begin_with_little_in_flight_say_nothing(
    driver: Driver,
    held: int,
    moves: bool,  # noqa: FBT001  # the expectation
    step: Any,
) -> None:
    """With less than half of the limit in use, neither success nor drop moves it: it was not what limited."""
    limit = aimd(20)
    with holding(limit, held):
        driver.outcomes(10, driver.decorate(limit, Script(step)))
    assert (limit.limit != 20) is moves


@pytest.mark.parametrize(("held", "after"), [(8, 20), (9, 18)])
def test_permits_say_as_much_as_calls(held: int, after: int) -> None:
    """A permit granted with less than half of the limit in use says nothing, one at half of it counts."""
    limit = aimd(20)
    with holding(limit, held):
        limit.admit().failure()
    assert limit.limit == after


def test_a_burst_of_drops_shrinks_once() -> None:
    """Calls that were admitted under the same limit lower it once, however many of them are dropped."""
    limit = aimd(20)
    permits = [limit.admit() for _ in range(20)]
    for permit in permits:
        permit.failure()
    assert limit.limit == 18
    with holding(limit, 17):
        limit.admit().failure()
    assert limit.limit == 16


def test_a_late_drop_counts_though_the_limit_grew(virtual_clock: VirtualClock) -> None:
    """Quick successes that raise the limit do not hide a slow call that is dropped in the end."""
    limit = aimd(20)
    with holding(limit, 12):
        slow = limit.admit()
        calls(limit, virtual_clock, 20)
        assert limit.limit == 22
        slow.failure()
        assert limit.limit == 19


def test_successes_of_an_older_limit_raise_no_newer_one(virtual_clock: VirtualClock) -> None:
    """Of calls admitted together those that make the round raise the limit; the others do not count for the next."""
    limit = aimd(20)
    permits = [limit.admit() for _ in range(20)]
    for permit in permits:
        permit.success()
    assert limit.limit == 21
    with holding(limit, 12):
        calls(limit, virtual_clock, 9)
        assert limit.limit == 21
        calls(limit, virtual_clock, 1)
        assert limit.limit == 22


def test_successes_from_before_a_drop_do_not_undo_it() -> None:
    """What was admitted before the limit shrank, and succeeds, does not raise it."""
    limit = aimd(20)
    permits = [limit.admit() for _ in range(20)]
    permits.pop().failure()
    for permit in permits:
        permit.success()
    assert limit.limit == 18


def test_the_limit_grows_to_five_times_what_is_in_flight(virtual_clock: VirtualClock) -> None:
    """However much an algorithm wants to add, the limit stays within 5 times the calls in flight."""
    limit = ConcurrencyLimit(algorithm=Gradient2(queue=5000), initial=20, max_limit=1000)
    with holding(limit, 10):
        calls(limit, virtual_clock, 10)
    assert limit.limit == 55


@pytest.mark.parametrize("algorithm", [Gradient2(), AIMD()])
def test_the_limit_stays_within_its_bounds(virtual_clock: VirtualClock, algorithm: Gradient2 | AIMD) -> None:
    """It grows to `max_limit` and no further, and shrinks to `min_limit` and no further."""
    limit = ConcurrencyLimit(algorithm=algorithm, initial=4, min_limit=3, max_limit=8)
    for _ in range(40):
        with holding(limit, limit.limit - 1):
            calls(limit, virtual_clock, 10)
    assert limit.limit == 8
    for _ in range(40):
        with holding(limit, limit.limit - 1):
            limit.admit().failure()
    assert limit.limit == 3


@pytest.mark.parametrize("algorithm", [Gradient2(), AIMD()])
def test_the_smallest_limit_recovers(virtual_clock: VirtualClock, algorithm: Gradient2 | AIMD) -> None:
    """A limit that an outage has brought down to 1 grows again with one call after another."""
    limit = ConcurrencyLimit(algorithm=algorithm, initial=1)
    limit.admit().failure()
    assert limit.limit == 1
    calls(limit, virtual_clock, 4)
    assert limit.limit > 1


@pytest.mark.parametrize(("took", "after"), [(2.0, 20), (2.001, 18)])
@pytest.mark.parametrize("algorithm", [Gradient2(), AIMD()])
def test_an_unhealthy_latency_is_a_drop(
    driver: Driver, algorithm: Gradient2 | AIMD, took: float, after: int
) -> None:
    """A call that succeeds after more than `max_healthy_latency` seconds shrinks the limit as an error does."""
    limit = ConcurrencyLimit(algorithm=algorithm, max_healthy_latency=2.0)
    with holding(limit, 12):
        assert driver.outcomes(1, driver.decorate(limit, Script(succeed(after=took)))) == ["ok"]
    assert limit.limit == after


@pytest.mark.parametrize(
    ("error", "after"),
    [
        (ConnectionError, 18),
        (TimeoutError, 18),
        (ValueError, 20),
        (CallRejectedError("inner"), 20),
        (KeyboardInterrupt, 20),
        (GeneratorExit, 20),
    ],
)
def test_an_error_counts_as_what_it_says(driver: Driver, error: Any, after: int) -> None:
    """Errors that `on` covers are drops; others, refusals below and exits say nothing, not even by their latency."""
    limit = aimd(20)
    call = driver.decorate(limit, Script(*[fail(error)] * 10))
    with holding(limit, 12):
        for _ in range(10):
            with pytest.raises(error if isinstance(error, type) else type(error)):
                driver.call(call)
            if after < 20:
                break
    assert limit.limit == after


@pytest.mark.parametrize(("on", "after"), [(THROTTLED, 20), (OSError, 18), (ValueError, 20), (always, 18)])
def test_on_says_which_errors_are_drops(driver: Driver, on: Any, after: int) -> None:
    """`on` is what it is to the other policies."""
    limit = aimd(20, on=on)
    with holding(limit, 12):
        driver.outcomes(1, driver.decorate(limit, Script(fail())))
    assert limit.limit == after


def test_a_predicate_that_raises_makes_a_drop(driver: Driver, event_recorder: EventRecorder) -> None:
    """A broken predicate is reported, leaves the error as it is, and the call counts as dropped."""

    def broken(_: object) -> bool:
        raise KeyError

    limit = aimd(20, on=broken)
    with holding(limit, 12):
        outcomes = driver.outcomes(1, driver.decorate(limit, Script(fail(ValueError))))
    assert [type(one) for one in outcomes] == [ValueError]
    assert limit.limit == 18
    assert [(event.name, event.callback) for event in event_recorder.of(CallbackFailed)] == [
        ("dependency", "predicate")
    ]


def test_a_clock_of_its_own_is_used(driver: Driver) -> None:
    """With `clock=` latencies are those of that clock."""
    own = VirtualClock()
    limit = aimd(20, clock=own, max_healthy_latency=2.0)

    async def fetch(took: float) -> None:
        own.advance(took)

    call = driver.decorate(limit, fetch)
    with holding(limit, 12):
        driver.outcomes(1, call, 1.0)
        assert limit.limit == 20
        driver.outcomes(1, call, 3.0)
        assert limit.limit == 18
    assert driver.clock.elapsed == 0.0


def test_reset_goes_back_to_the_start(virtual_clock: VirtualClock) -> None:
    """After a reset the limit is the initial one, and what was in flight neither moves it nor is forgotten."""
    limit = aimd(20)
    with holding(limit, 12):
        calls(limit, virtual_clock, 20)
        early = limit.admit()
        with holding(limit, 22 - 13), pytest.raises(ConcurrencyLimitedError):
            limit.admit()
        limit.reset()
        assert (limit.limit, limit.running, limit.rejected) == (20, 13, 0)
        early.failure()
        assert (limit.limit, limit.running) == (20, 12)


# Priorities


def first(priority: str, *_: object) -> str:
    return priority


ROOM = {
    1: (1, 1, 1),
    2: (2, 2, 2),
    3: (3, 3, 3),
    4: (3, 4, 4),
    9: (7, 9, 9),
    10: (7, 9, 10),
    100: (70, 90, 100),
}


@pytest.mark.parametrize("size", ROOM)
@pytest.mark.parametrize("priority", ["low", "normal", "critical"])
def test_low_priorities_are_shed_first(driver: Driver, size: int, priority: str) -> None:
    """Of a limit low priority may use 70 %, normal 90 %, critical all, rounded up: a limit of 1 serves everybody."""
    limit = ConcurrencyLimit(initial=size, priority=first)
    call = driver.decorate(limit, Script(succeed(after=1.0)))
    outcomes = driver.together(*(driver.after(0.0, call, priority) for _ in range(size + 2)))
    admitted = ROOM[size][["low", "normal", "critical"].index(priority)]
    assert outcomes.count("ok") == admitted
    assert (limit.rejected, limit.running) == (size + 2 - admitted, 0)


def test_the_highest_priority_uses_what_the_others_leave(driver: Driver) -> None:
    """Calls of all priorities count together; with seven in flight low is refused, with nine normal, with ten all."""
    limit = ConcurrencyLimit(initial=10, priority=first)
    call = driver.decorate(limit, Script(succeed(after=100.0)))
    order = [*["low"] * 8, *["normal"] * 3, *["critical"] * 2]
    outcomes = driver.together(*(driver.after(at, call, name) for at, name in enumerate(order)))
    refused = [name for name, one in zip(order, outcomes, strict=True) if one != "ok"]
    assert refused == ["low", "normal", "critical"]


def test_without_priorities_everybody_may_use_all(driver: Driver) -> None:
    """A limit that knows no priorities keeps no places back."""
    limit = aimd(10)
    call = driver.decorate(limit, Script(succeed(after=1.0)))
    assert driver.together(*(driver.after(0.0, call, "low") for _ in range(10))) == ["ok"] * 10


def test_blocks_and_permits_are_of_normal_priority() -> None:
    """Where a limit has priorities, what has no arguments to tell them by may use 90 % of it."""
    limit = ConcurrencyLimit(initial=10, priority=first)
    with holding(limit, 8):
        with limit:
            assert limit.running == 9
            with pytest.raises(ConcurrencyLimitedError):
                limit.admit()
        assert limit.running == 8


@pytest.mark.parametrize("said", ["urgent", None, 1, ["low"], KeyError])
def test_an_unknown_priority_is_normal(driver: Driver, event_recorder: EventRecorder, said: Any) -> None:
    """A priority function that raises or says something else is reported; the call is of normal priority."""

    def broken(*_: object) -> Any:
        if said is KeyError:
            raise KeyError
        return said

    limit = ConcurrencyLimit(initial=10, priority=broken, name="dependency")
    call = driver.decorate(limit, Script(succeed()))
    with holding(limit, 8):
        assert driver.outcomes(1, call) == ["ok"]
        with holding(limit, 1):
            assert type(driver.outcomes(1, call)[0]) is ConcurrencyLimitedError
    failed = event_recorder.of(CallbackFailed)
    assert [(event.name, event.callback) for event in failed] == [("dependency", "priority")] * 2
    assert isinstance(failed[0].error, KeyError if said is KeyError else ValueError)


def test_a_priority_function_that_wants_out_keeps_no_place(driver: Driver) -> None:
    """What is no Exception passes through from a priority function, and the call holds no place."""

    def leaving(*_: object) -> str:
        raise KeyboardInterrupt

    limit = ConcurrencyLimit(initial=1, priority=leaving)
    call = driver.decorate(limit, Script(succeed()))
    with limit, pytest.raises(KeyboardInterrupt):
        driver.call(call)
    assert (limit.running, limit.rejected) == (0, 0)


def test_the_priority_function_gets_the_call_s_own_arguments(driver: Driver) -> None:
    """Positional and keyword arguments arrive as the caller gave them, also through `policy.call`."""
    seen: list[Any] = []

    def priority(*args: object, **kwargs: object) -> str:
        seen.append((args, kwargs))
        return "normal"

    limit = ConcurrencyLimit(initial=2, priority=priority)

    async def fetch(order: int, *, quantity: int = 1) -> int:
        return order * quantity

    assert driver.call(driver.decorate(limit, fetch), 7, quantity=2) == 14
    assert driver.call(lambda: limit.call(driver.function(fetch), 7, quantity=2)) == 14
    assert seen == [((7,), {"quantity": 2})] * 2


def test_explain_names_the_error() -> None:
    """`explain()` lists ConcurrencyLimitedError among what may come out, and changes no other bound."""
    told = explain(Pipeline(concurrency_limit()))
    assert told.errors == ("whatever the function raises", "ConcurrencyLimitedError")
    assert (told.attempts, told.amplification, told.warnings) == (1, 1, ())


def test_explain_warns_of_a_limit_outside_a_retry() -> None:
    """Around a retry the limit measures backoff and holds a place through it; inside, it measures attempts."""
    limit, retry, bound = concurrency_limit(), Retry(attempts=3), Timeout(1.0)
    (told,) = explain(Pipeline(limit, retry, bound)).warnings
    assert told == (
        "concurrency limit outside a retry: the waits between attempts count as latency and hold a place; "
        "put it inside the retry"
    )
    assert explain(Pipeline(retry, limit, bound)).warnings == ()


def test_the_error_leaves_no_circle(driver: Driver) -> None:
    """A refusal has no cause and no context, and no frame of ours but the generated one in its traceback."""
    limit = aimd(1)
    with holding(limit, 1):
        refused = driver.outcomes(1, driver.decorate(limit, Script(succeed())))[0]
    assert (refused.__cause__, refused.__context__) == (None, None)
    frames, at = list[str](), refused.__traceback__
    while at is not None:
        frames.append(at.tb_frame.f_code.co_filename)
        at = at.tb_next
    assert frames[-1].startswith("<holdfast concurrency_limit")


class _Interrupting(Clock):
    """The system's clock, until somebody presses Ctrl-C just as it is read."""

    interrupted = False

    def monotonic(self) -> float:
        if self.interrupted:
            raise KeyboardInterrupt
        return super().monotonic()


@pytest.mark.parametrize("algorithm", [AIMD(), StandingQueue()], ids=["AIMD", "StandingQueue"])
@pytest.mark.parametrize("running", [0, 1])
def test_an_interrupted_admission_takes_no_place(algorithm: AIMD | StandingQueue, running: int) -> None:
    """Ctrl-C while a permit is made leaves no place taken, whether the call would be alone or not."""
    clock = _Interrupting()
    limit = ConcurrencyLimit(algorithm=algorithm, initial=2, clock=clock)
    permits = [limit.admit() for _ in range(running)]
    clock.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        limit.admit()
    assert limit.running == len(permits)
