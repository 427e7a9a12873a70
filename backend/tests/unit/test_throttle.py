"""Throttle: its settings, what it counts, and its chance of refusing."""

import pickle
import random
from collections.abc import Iterator
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Driver, Mode, driver_of
from backend.tests.integration.resilience._make import _over
from holdfast.infrastructure.resilience import throttle as module
from holdfast.infrastructure.resilience.bulkhead import Bulkhead
from holdfast.infrastructure.resilience.classify import THROTTLED, TRANSIENT
from holdfast.infrastructure.resilience.clock import Clock, use_clock
from holdfast.infrastructure.resilience.errors import (
    BulkheadFullError,
    CallRejectedError,
    ConfigurationError,
    ThrottledError,
)
from holdfast.infrastructure.resilience.events import CallbackFailed, CallRejected
from holdfast.infrastructure.resilience.pipeline import Pipeline, explain
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.throttle import Throttle, ThrottleConfig, throttle
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.testing import EventRecorder, Script, VirtualClock, fail, succeed


class Dice(random.Random):
    """Chance that always draws the same."""

    def __init__(self, drawn: float) -> None:
        super().__init__(0)
        self.drawn = drawn
        self.draws = 0

    def random(self) -> float:
        self.draws += 1
        return self.drawn


def lenient(**settings: Any) -> Throttle:
    """Return a throttle that counts from the first call on, and never refuses."""
    return Throttle(**_over(settings, name="dependency", min_calls=1, random=Dice(0.999)))


def strict(**settings: Any) -> Throttle:
    """Return a throttle that refuses as soon as there is any chance of it."""
    return Throttle(**_over(settings, name="dependency", min_calls=1, random=Dice(0.0)))


def is_lookup(error: Exception) -> bool:
    return isinstance(error, LookupError)


def is_busy(result: object) -> bool:
    return result == "busy"


@pytest.fixture(params=["sync", "async"])
def driver(request: pytest.FixtureRequest, virtual_clock: VirtualClock) -> Iterator[Driver]:
    """Run the test in both modes."""
    mode: Mode = request.param
    made = driver_of(mode, virtual_clock)
    yield made
    made.close()


# Settings


def test_the_defaults_are_these() -> None:
    """K is 2, the window 10 s and 10 calls, the cap 0.9; transient errors count; the common clock and chance."""
    expected = ThrottleConfig(
        k=2.0,
        window=10.0,
        min_calls=10,
        max_rejection=0.9,
        on=TRANSIENT,
        result=None,
        name=None,
        clock=None,
        random=None,
    )
    assert Throttle().config == expected == ThrottleConfig()
    assert repr(throttle(name="search")) == "Throttle(k=2, window=10, name='search')"


def test_the_lower_case_form_makes_the_same() -> None:
    """`throttle(...)` is a Throttle of the same settings."""
    settings: dict[str, Any] = {
        "k": 1.5,
        "window": 30,
        "min_calls": 25,
        "max_rejection": 0.5,
        "on": OSError,
        "result": callable,
        "name": "search",
        "clock": Clock(),
        "random": random.Random(1),
    }
    assert throttle(**settings).config == Throttle(**settings).config == ThrottleConfig(**settings)
    assert throttle(**settings).name == "search"


BAD: dict[str, tuple[object, ...]] = {
    "k": (0.9, 1001, float("nan"), "2", None, True),
    "window": (0, 0.09, 3601, float("inf"), None),
    "min_calls": (0, -1, 1_000_001, 2.5, True, None),
    "max_rejection": (0, 1, 0.999, -0.1, None),
    "on": (5, "error", BaseException),
    "result": (5, "x"),
    "name": (1, b"x"),
    "clock": (Clock, 0),
    "random": (7, "seed"),
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path in BAD for value in BAD[path]])
def test_a_setting_out_of_range_is_refused(path: str, value: Any) -> None:
    """The fault names the setting and the value."""
    with pytest.raises(ConfigurationError) as caught:
        throttle(**{path: value})
    (fault,) = caught.value.faults
    assert (fault.path, fault.value) == (path, value) or value != value  # noqa: PLR0124  # not a number


def test_all_faults_come_at_once() -> None:
    """One ConfigurationError lists everything that is wrong."""
    settings: dict[str, Any] = {path: values[0] for path, values in BAD.items()}
    with pytest.raises(ConfigurationError) as caught:
        throttle(**settings)
    assert [fault.path for fault in caught.value.faults] == [*BAD]


def test_settings_are_frozen_and_pickle() -> None:
    """A configuration cannot be changed, and survives a pickle."""
    config = ThrottleConfig(name="search")
    with pytest.raises(AttributeError):
        config.k = 3.0
    assert pickle.loads(pickle.dumps(config)) == config


# The formula


@pytest.mark.parametrize(
    ("k", "failures", "successes", "chance"),
    [
        (2.0, 0, 0, 0.0),
        (2.0, 0, 50, 0.0),
        (2.0, 1, 0, 1 / 2),
        (2.0, 4, 0, 4 / 5),
        (2.0, 9, 0, 9 / 10),
        (2.0, 50, 0, 0.9),
        (2.0, 5, 5, 0.0),
        (2.0, 6, 5, 1 / 12),
        (2.0, 30, 10, 20 / 41),
        (1.0, 1, 9, 1 / 11),
        (1.5, 10, 10, 5 / 21),
        (4.0, 30, 10, 0.0),
        (4.0, 31, 10, 1 / 42),
    ],
)
def test_the_chance_is_that_of_the_book(
    driver: Driver, k: float, failures: int, successes: int, chance: float
) -> None:
    """The chance is `min(0.9, max(0, (requests - k * accepts) / (requests + 1)))`."""
    policy = lenient(k=k)
    script = Script(*[succeed()] * successes, *[fail()] * failures, succeed())
    driver.outcomes(failures + successes, driver.decorate(policy, script))
    assert policy.rejection_probability == pytest.approx(chance, abs=1e-12)
    assert (policy.requests, policy.accepts) == (failures + successes, successes)


@pytest.mark.parametrize("least", [1, 2, 10, 25])
def test_nothing_is_refused_before_enough_is_known(driver: Driver, least: int) -> None:
    """With fewer requests in the window than `min_calls` the chance is 0; with as many it is the book's."""
    policy = strict(min_calls=least)
    call = driver.decorate(policy, Script(fail()))
    outcomes: list[type] = [type(one) for one in driver.outcomes(least + 2, call)]
    assert outcomes == [ConnectionError] * least + [ThrottledError] * 2


def test_by_default_a_lone_failure_refuses_no_retry(driver: Driver) -> None:
    """A small service whose call fails nine times in ten seconds is not refused the tenth."""
    policy = Throttle(random=Dice(0.0))
    call = driver.decorate(policy, Script(fail()))
    assert [type(one) for one in driver.outcomes(10, call)] == [ConnectionError] * 10
    assert policy.rejection_probability == 0.9


def test_a_success_may_be_the_call_that_is_enough(driver: Driver) -> None:
    """A success that reaches `min_calls` lets the next call be refused, though nothing failed since."""
    policy = strict(min_calls=10)
    call = driver.decorate(policy, Script(*[fail()] * 9, succeed()))
    outcomes: list[type] = [type(one) for one in driver.outcomes(11, call)]
    assert outcomes == [ConnectionError] * 9 + [str, ThrottledError]


def test_requests_that_leave_the_window_bring_the_calm_back(driver: Driver) -> None:
    """When the window has fewer requests than `min_calls` again, nothing is refused, whatever they were."""
    policy = lenient(min_calls=4)
    call = driver.decorate(policy, Script(fail()))
    driver.outcomes(3, call)
    driver.clock.advance(5.0)
    driver.outcomes(3, call)
    assert policy.rejection_probability == pytest.approx(6 / 7)
    driver.clock.advance(5.0)
    assert (policy.requests, policy.rejection_probability) == (3, 0.0)


def test_the_cap_can_be_chosen(driver: Driver) -> None:
    """However bad it looks, calls are refused with `max_rejection` at most."""
    policy = lenient(max_rejection=0.25)
    driver.outcomes(50, driver.decorate(policy, Script(fail())))
    assert policy.rejection_probability == 0.25


@pytest.mark.parametrize(("drawn", "refused"), [(0.4999, True), (0.5, False), (0.51, False)])
def test_chance_decides(driver: Driver, drawn: float, refused: bool) -> None:  # noqa: FBT001  # the expectation
    """A call is refused when the draw is below the chance, and not when it equals it."""
    policy = lenient(random=Dice(drawn))
    call = driver.decorate(policy, Script(fail(), succeed()))
    first, second = driver.outcomes(2, call)
    assert [type(first), type(second)] == [ConnectionError, ThrottledError if refused else str]


def test_nothing_is_drawn_while_there_is_no_chance(driver: Driver) -> None:
    """Healthy traffic leaves the random source alone, also with a few failures in it."""
    dice = Dice(0.0)
    policy = lenient(random=dice)
    script = Script(*[succeed()] * 10, fail(), *[succeed()] * 10)
    driver.outcomes(21, driver.decorate(policy, script))
    assert (dice.draws, policy.rejected) == (0, 0)


def test_a_refused_call_is_a_request_and_not_made(driver: Driver, event_recorder: EventRecorder) -> None:
    """A refusal raises ThrottledError with the name, is told, and counts as a request without accept."""
    policy, script = strict(), Script(fail())
    outcomes = driver.outcomes(3, driver.decorate(policy, script))
    assert [type(one) for one in outcomes] == [ConnectionError, ThrottledError, ThrottledError]
    assert outcomes[1].args == ("dependency", None)
    assert outcomes[1] is not outcomes[2]
    assert (script.calls, policy.requests, policy.accepts, policy.rejected) == (1, 3, 0, 2)
    told = [(event.name, event.policy, event.retry_after) for event in event_recorder.of(CallRejected)]
    assert told == [("dependency", "throttle", None)] * 2


def test_a_throttle_without_a_name_is_called_like_the_function(driver: Driver) -> None:
    """Errors of a nameless throttle carry the function's name, or that of its pipeline."""

    async def fetch() -> None:
        raise ConnectionError

    bare = driver.outcomes(2, driver.decorate(strict(name=None), fetch))[1]
    inside = driver.outcomes(2, driver.decorate(Pipeline(strict(name=None), name="service"), fetch))[1]
    assert bare.name.endswith("fetch")
    assert inside.name == "service"


# What counts


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (ConnectionError, (1, 0)),
        (TimeoutError, (1, 0)),
        (ValueError, (1, 1)),
        (CallRejectedError("inner"), (0, 0)),
        (BulkheadFullError("inner"), (0, 0)),
        (KeyboardInterrupt, (0, 0)),
        (SystemExit, (0, 0)),
        (GeneratorExit, (0, 0)),
    ],
)
def test_an_error_counts_as_what_it_says(driver: Driver, error: Any, counted: tuple[int, int]) -> None:
    """Passing errors are requests, permanent ones accepts too; refusals by policies below and exits are neither."""
    policy = lenient()
    call = driver.decorate(policy, Script(fail(error)))
    with pytest.raises(error if isinstance(error, type) else type(error)):
        driver.call(call)
    assert (policy.requests, policy.accepts) == counted


@pytest.mark.parametrize(
    ("on", "accepted"),
    [(TRANSIENT, 0), (THROTTLED, 1), (OSError, 0), (ValueError, 1), (is_lookup, 1)],
)
def test_on_says_which_errors_count(driver: Driver, on: Any, accepted: int) -> None:
    """`on` is what it is to the other policies; an error that it does not cover is an answer."""
    policy = lenient(on=on)
    driver.outcomes(1, driver.decorate(policy, Script(fail(ConnectionError()))))
    assert (policy.requests, policy.accepts) == (1, accepted)


def test_a_predicate_that_raises_counts_as_failure(driver: Driver, event_recorder: EventRecorder) -> None:
    """A broken predicate is reported, leaves the error as it is, and the call counts as not accepted."""

    def broken(_: object) -> bool:
        raise KeyError

    policy = lenient(on=broken, result=broken)
    outcomes = driver.outcomes(2, driver.decorate(policy, Script(fail(ValueError), succeed())))
    assert [type(one) for one in outcomes] == [ValueError, str]
    assert (policy.requests, policy.accepts) == (2, 0)
    assert [event.callback for event in event_recorder.of(CallbackFailed)] == [
        "predicate",
        "result predicate",
    ]
    assert {event.name for event in event_recorder.of(CallbackFailed)} == {"dependency"}


def test_a_refused_result_is_no_accept(driver: Driver) -> None:
    """A result that `result` refuses is returned all the same, and counts as not accepted."""
    policy = lenient(result=is_busy)
    script = Script(succeed("busy"), succeed("ok"), succeed("busy"))
    assert driver.outcomes(3, driver.decorate(policy, script)) == ["busy", "ok", "busy"]
    assert (policy.requests, policy.accepts) == (3, 1)


def test_calls_that_have_not_ended_do_not_count(driver: Driver) -> None:
    """A burst of slow calls is no reason to refuse: a call counts when it ends."""
    policy, script = strict(), Script(succeed(after=5.0))
    call = driver.decorate(policy, script)
    assert driver.together(*(driver.after(at / 100, call) for at in range(50))) == ["ok"] * 50
    assert (policy.requests, policy.accepts) == (50, 50)


# The window


def test_the_window_forgets(driver: Driver) -> None:
    """What ended more than a window ago no longer counts; what ended within it does."""
    policy = lenient()
    call = driver.decorate(policy, Script(fail(), fail(), fail(), succeed()))
    driver.outcomes(2, call)
    driver.clock.advance(5.0)
    driver.outcomes(2, call)
    assert (policy.requests, policy.accepts) == (4, 1)
    driver.clock.advance(5.0)
    assert (policy.requests, policy.accepts) == (2, 1)
    driver.clock.advance(5.0)
    assert (policy.requests, policy.accepts, policy.rejection_probability) == (0, 0, 0.0)


def test_idle_time_clears_all(driver: Driver) -> None:
    """The first call after a long silence is not refused for what was before."""
    policy = strict()
    call = driver.decorate(policy, Script(*[fail()] * 1, succeed()))
    assert type(driver.outcomes(2, call)[1]) is ThrottledError
    driver.clock.advance(86_400.0)
    assert driver.outcomes(2, call) == ["ok", "ok"]
    assert (policy.requests, policy.accepts, policy.rejected) == (2, 2, 1)


def test_accepts_that_leave_the_window_bring_refusals(driver: Driver) -> None:
    """When only failures are left in the window, the very next call may be refused: no failure need come first."""
    policy = strict()
    script = Script(*[succeed()] * 10, *[fail()] * 10, succeed())
    call = driver.decorate(policy, script)
    driver.outcomes(10, call)
    driver.clock.advance(6.0)
    driver.outcomes(10, call)
    assert (policy.rejected, policy.rejection_probability) == (0, 0.0)
    driver.clock.advance(6.0)
    assert type(driver.outcomes(1, call)[0]) is ThrottledError


def test_the_window_can_be_chosen(driver: Driver) -> None:
    """A window of 60 s still knows after 50 s."""
    policy = lenient(window=60.0)
    driver.outcomes(1, driver.decorate(policy, Script(fail())))
    driver.clock.advance(50.0)
    assert policy.requests == 1


def test_a_clock_of_its_own_is_used(driver: Driver) -> None:
    """With `clock=` the common clock's time does not matter."""
    own = VirtualClock()
    policy = lenient(clock=own)
    call = driver.decorate(policy, Script(fail(), succeed()))
    driver.outcomes(2, call)
    driver.clock.advance(1000.0)
    assert (policy.requests, policy.accepts) == (2, 1)
    own.advance(20.0)
    driver.outcomes(1, call)
    assert (policy.requests, policy.accepts) == (1, 1)


def test_another_clock_may_take_over() -> None:
    """A common clock that is behind the one before does not keep old counts for ever."""
    policy = lenient()
    with use_clock(VirtualClock(1e6)):
        for _ in range(5):
            with pytest.raises(ConnectionError):
                policy.call(Script(fail()).function())
    with use_clock(VirtualClock(10.0)):
        assert policy.requests == 0


def test_reset_forgets_all(driver: Driver) -> None:
    """After a reset there is nothing to refuse for."""
    policy = strict()
    call = driver.decorate(policy, Script(fail(), succeed()))
    driver.outcomes(3, call)
    policy.reset()
    assert (policy.requests, policy.accepts, policy.rejected, policy.rejection_probability) == (0, 0, 0, 0.0)
    assert driver.outcomes(2, call) == ["ok", "ok"]
    assert policy.requests == 2


# Forms


def test_a_block_counts_as_a_function_does(driver: Driver) -> None:
    """A `with` block is refused, accepted, failed and cancelled as a call is."""
    policy = lenient()

    async def block(error: BaseException | None) -> None:
        async with driver.block(policy):
            if error is not None:
                raise error

    for error in (None, ConnectionError(), ValueError(), KeyboardInterrupt()):
        if error is None:
            driver.run(block, error)
        else:
            with pytest.raises(type(error)):
                driver.run(block, error)
    assert (policy.requests, policy.accepts) == (3, 2)


def test_a_block_is_refused_before_it_begins(driver: Driver, event_recorder: EventRecorder) -> None:
    """A refused block does not run; without a name the error says `throttle`."""
    policy, ran = strict(name=None), list[int]()

    async def block() -> None:
        async with driver.block(policy):
            ran.append(1)
            raise ConnectionError

    outcomes = driver.outcomes(2, driver.function(block))
    assert [type(one) for one in outcomes] == [ConnectionError, ThrottledError]
    assert (outcomes[1].name, ran, policy.rejected) == ("throttle", [1], 1)
    assert [event.name for event in event_recorder.of(CallRejected)] == ["throttle"]


def test_call_counts_too(driver: Driver) -> None:
    """`policy.call(fn)` shares what the decorated functions count."""
    policy, script = strict(), Script(fail())
    driver.outcomes(1, driver.decorate(policy, script))
    assert type(driver.outcomes(1, policy.call, driver.function(script))[0]) is ThrottledError


def test_without_a_gil_success_is_counted_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The form for free-threaded builds counts successes in a function that takes the lock."""
    monkeypatch.setattr(module, "GIL", False)
    source = lenient().source()
    assert "_throttle_accepted(_m0)" in source
    assert ".ok += 1" not in source


def test_explain_names_the_error() -> None:
    """`explain()` lists ThrottledError among what may come out, and changes no other bound."""
    told = explain(Pipeline(throttle()))
    assert told.errors == ("whatever the function raises", "ThrottledError")
    assert (told.attempts, told.amplification, told.warnings) == (1, 1, ())


@pytest.mark.parametrize(
    ("policies", "seen"),
    [
        ((Throttle(), Retry(attempts=3), Timeout(1.0)), "3"),
        ((Throttle(), Bulkhead(1), Retry(attempts=None, deadline=9.0), Timeout(1.0)), "inf"),
        ((Retry(attempts=3), Throttle(), Timeout(1.0)), None),
        ((Throttle(), Retry(attempts=1), Timeout(1.0)), None),
    ],
)
def test_explain_warns_of_a_throttle_outside_a_retry(policies: tuple[Policy, ...], seen: str | None) -> None:
    """A throttle that meets calls where the dependency meets attempts is told, with where to put it."""
    told = f"throttle outside a retry: it sees one request for {seen} attempts; put it inside the retry"
    assert explain(Pipeline(*policies)).warnings == (() if seen is None else (told,))


def test_the_error_leaves_no_circle(driver: Driver) -> None:
    """A refusal has no cause, no context, and one frame of generated code in its traceback."""
    policy = strict()
    call = driver.decorate(policy, Script(fail()))
    refused = driver.outcomes(2, call)[1]
    assert (refused.__cause__, refused.__context__) == (None, None)
    frames, at = list[str](), refused.__traceback__
    while at is not None:
        frames.append(at.tb_frame.f_code.co_filename)
        at = at.tb_next
    assert sum(name.startswith("<holdfast throttle") for name in frames) == 1
    assert frames[-1].startswith("<holdfast throttle")
