"""Chaos: its settings, its switches, what it injects and how often."""

import asyncio
import gc
import inspect
import re
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import httpx
import pytest

from holdfast.infrastructure.resilience._given import ABSENT
from holdfast.infrastructure.resilience.chaos import Chaos, ChaosConfig, chaos
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.deadline import deadline_after
from holdfast.infrastructure.resilience.errors import CircuitOpenError, ConfigurationError
from holdfast.infrastructure.resilience.events import CallbackFailed, ChaosInjected
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.randomness import use_random
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.testing import EventRecorder, Script, VirtualClock, succeed


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests holds nothing off."""
    monkeypatch.delenv("HOLDFAST_CHAOS", raising=False)


def ok() -> Callable[..., Any]:
    return Script(succeed()).function()


def outcomes(call: Callable[..., Any], times: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(times):
        try:
            found.append(call())
        except Exception as error:
            found.append(type(error))
    return found


async def coroutine(*_: object) -> Any:
    return None


# Settings


def test_the_defaults_are_these() -> None:
    """Off, without chance of its own, without a reach; only the rate must be said."""
    made = Chaos(rate=0.1, error=OSError)

    assert made.config == ChaosConfig(
        rate=0.1,
        error=OSError,
        latency=None,
        seed=None,
        when=None,
        enabled=False,
        name=None,
        clock=None,
        random=None,
    )
    assert (made.enabled, made.name) == (False, None)
    assert repr(made) == "Chaos(error=<class 'OSError'>, rate=0.1)"


def test_the_page_shows_the_defaults() -> None:
    """The table of docs/policies/chaos.md has every setting, with the default that the code has."""
    page = (Path(__file__).parents[3] / "docs" / "policies" / "chaos.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| `(\w+)` \| `?(.+?)`? \|", page, re.MULTILINE))
    parameters = inspect.signature(ChaosConfig).parameters.values()

    assert shown == {
        one.name: "–" if one.default in {inspect.Parameter.empty, ABSENT} else repr(one.default)
        for one in parameters
    }


def test_the_lower_case_form_makes_the_same() -> None:
    """`chaos(...)` is a Chaos of the same settings."""
    settings: dict[str, Any] = {
        "rate": 0.5,
        "error": OSError,
        "latency": (0.1, 0.2),
        "result": None,
        "seed": 7,
        "when": bool,
        "enabled": True,
        "name": "storm",
        "clock": Clock(),
    }
    assert chaos(**settings).config == Chaos(**settings).config == ChaosConfig(**settings)
    assert (chaos(**settings).enabled, chaos(**settings).name) == (True, "storm")


class Needy(Exception):
    """An error that cannot be copied: its constructor wants what `args` does not hold."""

    def __init__(self, *, why: str) -> None:
        super().__init__()
        self.why = why


BAD: list[tuple[str, dict[str, Any]]] = [
    ("rate", {"rate": -0.1}),
    ("rate", {"rate": 1.1}),
    ("rate", {"rate": True}),
    ("rate", {"rate": float("nan")}),
    ("error", {"error": None}),
    ("error", {"error": 3}),
    ("error", {"error": int}),
    ("error", {"error": KeyboardInterrupt}),
    ("error", {"error": asyncio.CancelledError()}),
    ("error", {"error": Needy}),
    ("error", {"error": Needy(why="x")}),
    ("error", {"error": httpx.HTTPStatusError}),
    ("error", {"error": coroutine}),
    ("latency", {"latency": 0}),
    ("latency", {"latency": -1}),
    ("latency", {"latency": 3601}),
    ("latency", {"latency": (1,)}),
    ("latency", {"latency": (2, 1)}),
    ("latency[1]", {"latency": (1, "2")}),
    ("latency[0]", {"latency": (-1, 2)}),
    ("latency", {"latency": [1, 2]}),
    ("result", {"result": coroutine}),
    ("seed", {"seed": 1.5}),
    ("seed", {"seed": 1, "random": Random(1)}),
    ("when", {"when": 3}),
    ("when", {"when": coroutine}),
    ("enabled", {"enabled": 1}),
    ("name", {"name": 3}),
    ("clock", {"clock": Clock}),
    ("random", {"random": 3}),
]


@pytest.mark.parametrize(("path", "settings"), BAD)
def test_a_bad_setting_is_refused(path: str, settings: dict[str, Any]) -> None:
    """The fault names the setting."""
    usual: dict[str, Any] = {"rate": 0.5, "error": OSError}
    with pytest.raises(ConfigurationError) as caught:
        Chaos(**{**usual, **settings})

    (fault,) = caught.value.faults
    assert fault.path == path


def test_all_faults_come_at_once() -> None:
    """One ConfigurationError lists everything that is wrong."""
    bad: Any = object()
    with pytest.raises(ConfigurationError) as caught:
        Chaos(rate=bad, error=bad, latency=bad, seed=bad, when=bad, enabled=bad, name=bad, clock=bad)

    paths = [fault.path for fault in caught.value.faults]
    assert sorted(paths) == ["clock", "enabled", "error", "latency", "name", "rate", "seed", "when"]


# Switches


def test_it_is_off_until_enabled() -> None:
    """A policy that nobody enabled injects nothing, and draws nothing."""
    source = Random(1)
    state = source.getstate()
    made = Chaos(rate=1, error=OSError, random=source)

    assert outcomes(made(ok()), 3) == ["ok"] * 3
    assert source.getstate() == state


def test_the_switch_works_at_once() -> None:
    """`enable` and `disable` hold from the next call on, for every function decorated with the policy."""
    made = Chaos(rate=1, error=OSError)
    one, other = made(ok()), Pipeline(Timeout(1), made)(ok())
    for _ in range(2):
        made.enable()
        assert outcomes(one, 2) + outcomes(other, 1) == [OSError] * 3
        made.disable()
        assert outcomes(one, 2) + outcomes(other, 1) == ["ok"] * 3


HOLDS = ("0", "off", "false", "no", "OFF", " No ", "False", "offf", "2")
ALLOWS = ("", " ", "1", "on", "true", "yes", "TRUE", "Yes", " On ")


@pytest.mark.parametrize(
    ("setting", "outcome"), [*((word, "ok") for word in HOLDS), *((word, OSError) for word in ALLOWS)]
)
def test_the_environment_holds_every_policy_off(
    monkeypatch: pytest.MonkeyPatch, setting: str, outcome: object
) -> None:
    """HOLDFAST_CHAOS counts at every call; what is neither empty nor a word for yes holds off, and none enables."""
    made = Chaos(rate=1, error=OSError, enabled=True)
    call, silent = made(ok()), Chaos(rate=1, error=OSError)(ok())
    monkeypatch.setenv("HOLDFAST_CHAOS", setting)

    assert outcomes(call, 1) == [outcome]
    assert outcomes(silent, 1) == ["ok"]
    assert made.enabled is (outcome is OSError)
    assert ("enabled=True" in repr(made)) is (outcome is OSError)

    monkeypatch.delenv("HOLDFAST_CHAOS")
    assert outcomes(call, 1) == [OSError]


def test_a_switch_that_nobody_can_read_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is neither a word for yes nor one for no holds off, and the log names it and the remedy, once for each."""
    one, other = uuid4().hex, uuid4().hex
    call = Chaos(rate=1, error=OSError, enabled=True)(ok())
    for setting in (one, "off", "on", one, other):
        monkeypatch.setenv("HOLDFAST_CHAOS", setting)
        outcomes(call, 2)
    assert [record.getMessage().partition(" is neither yes nor no")[0] for record in caplog.records] == [
        f"HOLDFAST_CHAOS={one!r}",
        f"HOLDFAST_CHAOS={other!r}",
    ]
    assert "give 1, true, yes or on; 0, false, no or off; or nothing" in caplog.text


def test_held_off_it_does_nothing_at_all(
    monkeypatch: pytest.MonkeyPatch, event_recorder: EventRecorder
) -> None:
    """While the environment holds it off, it asks no predicate, draws nothing and tells nobody."""
    monkeypatch.setenv("HOLDFAST_CHAOS", "0")
    source, reach = Random(1), Script(succeed(result=True))
    state = source.getstate()
    call = Chaos(rate=1, latency=1.0, random=source, when=reach.function(), enabled=True)(ok())

    assert call() == "ok"
    assert (source.getstate() == state, reach.calls, event_recorder.kinds) == (True, 0, ())


# Faults


def test_a_class_is_made_for_each_call() -> None:
    """Every call that is struck raises an error of its own, which says who injected it."""
    call = Chaos(rate=1, error=ConnectionError, name="storm", enabled=True)(ok())
    errors: list[Exception] = []
    for _ in range(2):
        with pytest.raises(ConnectionError) as caught:
            call()
        errors.append(caught.value)

    assert errors[0] is not errors[1]
    assert [error.__notes__ for error in errors] == [["holdfast: injected by the chaos policy storm"]] * 2


def test_an_instance_is_copied_for_each_call() -> None:
    """Copies have the instance's type, arguments and attributes; it never gets a note or a traceback itself."""
    template = CircuitOpenError("payments", 3.0)
    template.add_note("own")
    call = Chaos(rate=1, error=template, enabled=True)(ok())
    for _ in range(2):
        with pytest.raises(CircuitOpenError) as caught:
            call()
        assert caught.value is not template
        assert (caught.value.args, len(caught.value.__notes__)) == (template.args, 2)
    assert (template.__notes__, template.__traceback__) == (["own"], None)


def test_a_function_makes_the_error() -> None:
    """What a function of nothing returns is raised."""
    errors = iter([OSError(1), OSError(2)])
    call = Chaos(rate=1, error=lambda: next(errors), enabled=True)(ok())
    for number in (1, 2):
        with pytest.raises(OSError, match=str(number)):
            call()


def broken() -> Any:
    raise LookupError


def an_exit() -> Any:
    return KeyboardInterrupt()


def an_error() -> OSError:
    return OSError()


@pytest.mark.parametrize("source", [broken, lambda: 3, an_exit])
def test_an_error_function_that_makes_none_injects_nothing(
    source: Callable[[], Any], event_recorder: EventRecorder
) -> None:
    """The call goes on, and what was wrong is reported."""
    assert Chaos(rate=1, error=source, enabled=True)(ok())() == "ok"
    assert [event.callback for event in event_recorder.of(CallbackFailed)] == ["error function"]
    assert event_recorder.of(ChaosInjected) == ()


def test_a_result_stands_for_the_call() -> None:
    """The function is not called; containers are copied, callables make one, None is a result too."""
    script = Script(succeed())
    struck: dict[str, Any] = {"rate": 1.0, "enabled": True}
    empty = Chaos(result=[], **struck)(script.function())
    first, second = empty(), empty()

    assert first == second == []
    assert first is not second
    assert Chaos(result=lambda: "made", **struck)(script.function())() == "made"
    assert Chaos(result=None, **struck)(script.function())() is None
    assert script.calls == 0


def test_a_result_function_that_raises_injects_nothing(event_recorder: EventRecorder) -> None:
    """The call goes on, and the function's error is reported."""
    assert Chaos(rate=1, result=broken, enabled=True)(ok())() == "ok"
    assert [event.callback for event in event_recorder.of(CallbackFailed)] == ["result function"]


def test_latency_comes_before_the_other_faults(
    virtual_clock: VirtualClock, event_recorder: EventRecorder
) -> None:
    """A call may be slow and fail; the error outdoes the result, and each fault is told when it strikes."""
    call = Chaos(rate=1, latency=0.5, error=OSError, result="never", enabled=True, name="storm")(ok())

    assert outcomes(call, 1) == [OSError]
    assert virtual_clock.elapsed == 0.5
    start = virtual_clock.monotonic() - 0.5
    events = [(event.name, event.fault, event.at - start) for event in event_recorder.of(ChaosInjected)]
    assert events == [("storm", "latency", 0.0), ("storm", "error", 0.5)]


def test_a_range_of_latency_is_drawn_evenly(virtual_clock: VirtualClock) -> None:
    """Delays lie between the bounds, differ, and are the same for the same seed."""
    runs: list[tuple[float, ...]] = []
    for _ in range(2):
        call, before = (
            Chaos(rate=1, latency=(0.2, 0.6), seed=5, enabled=True)(ok()),
            len(virtual_clock.sleeps),
        )
        outcomes(call, 50)
        runs.append(virtual_clock.sleeps[before:])

    assert runs[0] == pytest.approx(runs[1])
    assert len(set(runs[0])) == 50
    assert min(runs[0]) >= 0.2 - 1e-9
    assert max(runs[0]) <= 0.6 + 1e-9
    assert max(runs[0]) - min(runs[0]) > 0.3


def test_latency_uses_a_clock_of_its_own() -> None:
    """With `clock=`, that clock counts the wait."""
    clock = VirtualClock()
    assert Chaos(rate=1, latency=3.5, clock=clock, enabled=True)(ok())() == "ok"
    assert clock.elapsed == 3.5


def test_latency_ends_at_the_deadline(virtual_clock: VirtualClock) -> None:
    """A latency that does not fit waits until the deadline and is a TimeoutError, as of a client that minds it."""
    script = Script(succeed())
    call = Chaos(rate=1, latency=30.0, enabled=True)(script.function())
    with deadline_after(2.5), pytest.raises(TimeoutError, match="30 s does not fit the deadline"):
        call()
    assert (virtual_clock.elapsed, script.calls) == (2.5, 0)

    with deadline_after(31.0):
        assert call() == "ok"
    assert (virtual_clock.elapsed, script.calls) == (32.5, 1)


def test_a_call_that_is_held_up_goes_on_when_chaos_is_switched_off(virtual_clock: VirtualClock) -> None:
    """Within a second of `disable`, a waiting call goes on, and the fault that was to follow does not."""
    made = Chaos(rate=1, latency=600.0, error=OSError, enabled=True)
    call = made(ok())

    def switch() -> None:
        virtual_clock.sleep(2.5)
        made.disable()

    assert virtual_clock.run_threads(call, switch) == ["ok", None]
    assert virtual_clock.elapsed == 3.0


def test_a_cancelled_latency_leaves_at_once(virtual_clock: VirtualClock) -> None:
    """Cancellation during an injected wait passes, and the function is not called."""
    script = Script(succeed())
    call = Chaos(rate=1, latency=600.0, enabled=True)(script.coroutine_function())

    async def main() -> None:
        task = asyncio.ensure_future(call())
        await virtual_clock.asleep(2.25)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    virtual_clock.run(main())
    assert (virtual_clock.elapsed, script.calls) == (2.25, 0)


def test_an_injected_error_leaves_nothing_for_the_garbage_collector() -> None:
    """It goes when the caller lets it go, sync and async."""

    class Down(Exception):
        pass

    made = Chaos(rate=1, error=Down, enabled=True)
    left: list[weakref.ref[Down]] = []

    async def note(call: Callable[[], Any], *, is_async: bool) -> None:
        try:
            await call() if is_async else call()
        except Down as error:
            left.append(weakref.ref(error))

    gc.collect()
    gc.disable()
    try:
        asyncio.run(note(made(ok()), is_async=False))
        asyncio.run(note(made(Script(succeed()).coroutine_function()), is_async=True))
        assert [ref() for ref in left] == [None, None]
    finally:
        gc.enable()


# Chance


def struck(made: Chaos, times: int = 40) -> str:
    return "".join("x" if one is OSError else "." for one in outcomes(made(ok()), times))


def test_the_same_seed_gives_the_same_sequence() -> None:
    """Two policies with one seed strike the same calls; another seed, or a second run of one, strikes others."""
    first, second, other = (Chaos(rate=0.5, error=OSError, seed=seed, enabled=True) for seed in (7, 7, 8))
    sequence = struck(first)

    assert sequence.startswith("x..x.xx.x..x")
    assert struck(second) == sequence
    assert struck(other) != sequence
    assert struck(first) != sequence


def test_one_fault_does_not_move_another() -> None:
    """Which calls fail depends on the seed alone, not on what else may strike, nor on calls while off."""
    alone = Chaos(rate=0.5, error=OSError, seed=7, enabled=True)
    both = Chaos(rate=0.5, error=OSError, result="other", seed=7, enabled=True)
    pausing = Chaos(rate=0.5, error=OSError, seed=7, enabled=True)
    sequence = struck(alone)

    assert struck(both) == sequence
    begun = struck(pausing, 10)
    pausing.disable()
    struck(pausing, 10)
    pausing.enable()
    assert begun + struck(pausing, 30) == sequence


def test_a_source_of_chance_can_be_given() -> None:
    """`random=` is drawn from, one draw for a fault and call; else the common source is."""
    draws = Random(3)
    expected = "".join("x" if draws.random() < 0.5 else "." for _ in range(40))

    assert struck(Chaos(rate=0.5, error=OSError, random=Random(3), enabled=True)) == expected
    with use_random(3):
        assert struck(Chaos(rate=0.5, error=OSError, enabled=True)) == expected


@pytest.mark.parametrize(("rate", "struck_calls"), [(0, 0), (0.0, 0), (1, 100), (1.0, 100)])
def test_the_ends_of_the_rate_are_never_and_always(rate: float, struck_calls: int) -> None:
    """A rate of 0 strikes no call, one of 1 strikes every call."""
    assert struck(Chaos(rate=rate, error=OSError, enabled=True), 100).count("x") == struck_calls


def test_threads_share_one_sequence() -> None:
    """However threads interleave, so many calls together see as many faults as one thread would."""
    alone = Chaos(rate=0.3, error=OSError, result="other", seed=7, enabled=True)
    expected = Counter(outcomes(alone(ok()), 4000))
    shared = Chaos(rate=0.3, error=OSError, seed=7, enabled=True)
    call, found = shared(ok()), list[Any]()
    threads = [threading.Thread(target=lambda: found.extend(outcomes(call, 1000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Counter(found)[OSError] == expected[OSError]


# Reach


def test_when_says_which_calls_may_be_struck() -> None:
    """It gets the call's own arguments, in all forms of calling; other calls draw nothing."""
    seen: list[Any] = []

    def reach(*args: Any, **kwargs: Any) -> bool:
        seen.append((args, kwargs))
        return "canary" in args

    made = Chaos(rate=1, error=OSError, when=reach, enabled=True)

    def fetch(tenant: str, *, size: int = 1) -> str:
        return tenant

    call = made(fetch)
    assert call("shop", size=2) == "shop"
    assert made.call(fetch, "shop", size=2) == "shop"
    assert outcomes(lambda: call("canary"), 1) == [OSError]
    assert outcomes(lambda: made.call(fetch, "canary"), 1) == [OSError]
    assert seen == [
        (("shop",), {"size": 2}),
        (("shop",), {"size": 2}),
        (("canary",), {"size": 1}),
        (("canary",), {}),
    ]


def needy(tenant: str) -> bool:
    return bool(tenant)


def test_a_reach_that_raises_strikes_nothing(event_recorder: EventRecorder) -> None:
    """The call goes on, and the predicate's error is reported."""
    call = Chaos(rate=1, error=OSError, when=needy, enabled=True)(ok())

    assert call() == "ok"
    assert [event.callback for event in event_recorder.of(CallbackFailed)] == ["when"]


# Explanations


def test_what_is_explained_holds_while_it_is_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enabled, the longest latency and the error are part of what may happen; disabled, nothing is."""
    made = Chaos(rate=0.5, latency=(1.0, 3.0), error=OSError("x"))
    stack = Pipeline(made, Timeout(2.0))
    usual = ("whatever the function raises", "TimeoutExceeded")

    assert (stack.explain().duration, stack.explain().errors) == (2.0, usual)
    made.enable()
    assert stack.explain().duration == 5.0
    assert stack.explain().errors == ("whatever the function raises", "OSError", "TimeoutExceeded")
    monkeypatch.setenv("HOLDFAST_CHAOS", "0")
    assert (stack.explain().duration, stack.explain().errors) == (2.0, usual)


@pytest.mark.parametrize(
    ("source", "name"), [(OSError, "OSError"), (an_error, "whatever chaos injects"), (None, None)]
)
def test_the_injected_error_is_named(source: Any, name: str | None) -> None:
    """A class is named, what a function makes is not known, and no error adds none."""
    made = Chaos(rate=0.5, latency=1.0, error=source, enabled=True)
    assert Pipeline(made).explain().errors[1:] == (() if name is None else (name,))
