"""Hedge: its settings, who wins, what losers leave, and what a failed call carries."""

import asyncio
import contextvars
import gc
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Driver, driver_of
from holdfast.infrastructure.resilience import _race_tasks
from holdfast.infrastructure.resilience._race_tasks import GRACE
from holdfast.infrastructure.resilience._threads import Pool
from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.classify import PERMANENT, TRANSIENT, Verdict
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.resilience.events import (
    CallbackFailed,
    HedgeStarted,
    HedgeWon,
    WorkerAbandoned,
)
from holdfast.infrastructure.resilience.hedge import Hedge, HedgeConfig, Quantile, hedge, hedge_errors
from holdfast.infrastructure.resilience.pipeline import Pipeline, explain
from holdfast.infrastructure.resilience.retry import Retry, current_attempt
from holdfast.infrastructure.resilience.timeout import Timeout, abandoned_workers
from holdfast.testing import EventRecorder, Script, VirtualClock, fail, hang, succeed


@pytest.fixture(params=["sync", "async"])
def driver(request: pytest.FixtureRequest, virtual_clock: VirtualClock) -> Iterator[Driver]:
    """Run the test in both modes."""
    made = driver_of(request.param, virtual_clock)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test leaves a task, or makes asyncio complain about one."""
    yield
    gc.collect()
    assert not _race_tasks.strays
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def starts(script: Script) -> list[float]:
    """Return when each call came, seconds after the first."""
    return [at - script.times[0] for at in script.times]


# Settings


def test_the_defaults_are_these() -> None:
    """One hedge after the 95th percentile, one second while that is unknown, for transient errors."""
    config = Hedge().config
    assert config == HedgeConfig(
        after=Quantile(0.95, initial=1.0, samples=50),
        max_hedges=1,
        on=TRANSIENT,
        result=None,
        budget=None,
        workers=32,
        name=None,
        clock=None,
    )
    assert hedge().config == config
    assert hash(Hedge(2).config) == hash(HedgeConfig(after=2.0))


def test_the_decorator_passes_every_setting_on() -> None:
    """`hedge(...)` is `Hedge(...)`."""
    settings: dict[str, Any] = {
        "max_hedges": 3,
        "on": OSError,
        "result": bool,
        "budget": RetryBudget("budget"),
        "workers": 7,
        "name": "search",
        "clock": VirtualClock(),
    }
    assert hedge(0.5, **settings).config == Hedge(0.5, **settings).config
    config = hedge(0.5, **settings).config
    assert {name: getattr(config, name) for name in settings} == settings
    assert repr(Hedge(0.5, name="search")) == "Hedge(0.5, max_hedges=1, name='search')"
    assert Hedge(name="search").name == "search"


@pytest.mark.parametrize(
    ("settings", "paths"),
    [
        ({"after": -0.001}, ["after"]),
        ({"after": float("nan")}, ["after"]),
        ({"after": float("inf")}, ["after"]),
        ({"after": True}, ["after"]),
        ({"after": "p95"}, ["after"]),
        ({"after": None}, ["after"]),
        ({"max_hedges": 0}, ["max_hedges"]),
        ({"max_hedges": 1.5}, ["max_hedges"]),
        ({"max_hedges": 101}, ["max_hedges"]),
        ({"on": PERMANENT}, ["on"]),
        ({"on": KeyboardInterrupt}, ["on"]),
        ({"result": "ok"}, ["result"]),
        ({"budget": 3}, ["budget"]),
        ({"workers": 1}, ["workers"]),
        ({"name": 3}, ["name"]),
        ({"clock": 3}, ["clock"]),
        ({"after": -1, "max_hedges": 0, "budget": 3}, ["after", "max_hedges", "budget"]),
    ],
)
def test_bad_settings_are_reported_together(settings: dict[str, Any], paths: list[str]) -> None:
    """What cannot be, and what contradicts hedging at all, is refused with every fault at once."""
    with pytest.raises(ConfigurationError) as caught:
        Hedge(**settings)
    assert [fault.path for fault in caught.value.faults] == paths


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"q": 0}, "q"),
        ({"q": 1}, "q"),
        ({"q": 95}, "q"),
        ({"initial": 0}, "initial"),
        ({"samples": 0}, "samples"),
        ({"samples": 501}, "samples"),
    ],
)
def test_bad_quantiles_are_refused(settings: dict[str, Any], path: str) -> None:
    """A quantile is a share below 1, with a delay to begin with."""
    with pytest.raises(ConfigurationError) as caught:
        Quantile(**settings)
    assert [fault.path for fault in caught.value.faults] == [path]


def test_a_function_is_no_delay() -> None:
    """`Hedge(fn)` is refused where it stands, with what to give; `@hedge` decorates."""
    with pytest.raises(ConfigurationError, match="is no delay; give seconds, or Quantile"):
        Hedge(len)  # type: ignore[arg-type]  # the mistake


# Who wins


def test_a_quick_call_is_made_once(driver: Driver, event_recorder: EventRecorder) -> None:
    """A call that ends before its hedge is due is the only one, and nothing is said."""
    policy, script = Hedge(1.0), Script(succeed("first", after=0.9))
    assert driver.outcomes(3, driver.decorate(policy, script)) == ["first"] * 3
    assert (script.calls, round(driver.clock.elapsed, 6)) == (3, 2.7)
    assert (policy.started, policy.won, event_recorder.kinds) == (0, 0, ())


def test_the_hedge_of_a_slow_call_can_win(driver: Driver, event_recorder: EventRecorder) -> None:
    """A call still running after `after` is made again, and the hedge's result is returned when it comes."""
    policy, script = Hedge(1.0, name="search"), Script(hang(), succeed("hedge", after=0.5))
    assert driver.call(driver.decorate(policy, script), 7, key="x") == "hedge"
    assert (starts(script), driver.clock.elapsed) == ([0.0, 1.0], 1.5)
    assert script.arguments == (((7,), {"key": "x"}),) * 2
    assert (policy.started, policy.won) == (1, 1)
    assert [(one.name, one.number, one.after) for one in event_recorder.of(HedgeStarted)] == [
        ("search", 1, 1.0)
    ]
    assert [(one.name, one.number) for one in event_recorder.of(HedgeWon)] == [("search", 1)]


def test_the_first_call_can_still_win(driver: Driver, event_recorder: EventRecorder) -> None:
    """A slow first call that ends before its hedge wins, and no hedge is said to have won."""
    policy, script = Hedge(1.0), Script(succeed("first", after=1.2), hang())
    assert driver.call(driver.decorate(policy, script)) == "first"
    assert (script.calls, round(driver.clock.elapsed, 6)) == (2, 1.2)
    assert (policy.started, policy.won, event_recorder.of(HedgeWon)) == (1, 0, ())


def test_hedges_follow_each_other(driver: Driver) -> None:
    """Each hedge comes `after` the one before, `max_hedges` of them and no more."""
    policy, script = Hedge(1.0, max_hedges=3), Script(succeed("first", after=9.0), hang())
    assert driver.call(driver.decorate(policy, script)) == "first"
    assert (starts(script), driver.clock.elapsed) == ([0.0, 1.0, 2.0, 3.0], 9.0)
    assert (policy.started, policy.won) == (3, 0)


def test_hedges_can_be_sent_at_once(driver: Driver) -> None:
    """`after=0` sends the hedge with the call."""
    script = Script(hang(), succeed("hedge", after=0.5))
    assert driver.call(driver.decorate(Hedge(0), script)) == "hedge"
    assert starts(script) == [0.0, 0.0]


def test_a_failure_sends_the_next_call_at_once(driver: Driver, event_recorder: EventRecorder) -> None:
    """A transient error does not win: the next call is made at that moment, and later ones `after` it."""
    script = Script(fail(after=0.25), hang(), succeed("third", after=0.5))
    assert driver.call(driver.decorate(Hedge(1.0, max_hedges=2), script)) == "third"
    assert starts(script) == [0.0, 0.25, 1.25]
    assert [one.after for one in event_recorder.of(HedgeStarted)] == [0.25, 1.25]
    assert [one.number for one in event_recorder.of(HedgeWon)] == [2]


def test_a_failure_without_a_hedge_left_waits_for_the_others(driver: Driver) -> None:
    """When a hedge fails and none is left, the calls still running decide."""
    script = Script(succeed("first", after=5.0), fail(after=1.0))
    assert driver.call(driver.decorate(Hedge(1.0), script)) == "first"
    assert (script.calls, driver.clock.elapsed) == (2, 5.0)


def test_a_permanent_error_of_the_first_call_comes_out_at_once(driver: Driver) -> None:
    """What no second call would change is raised as it is, and nothing is sent for it."""
    error, policy = ValueError("bad"), Hedge(1.0)
    script = Script(fail(error, after=0.5))
    with pytest.raises(ValueError, match="bad") as caught:
        driver.call(driver.decorate(policy, script))
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    assert (script.calls, policy.started, driver.clock.elapsed) == (1, 0, 0.5)


def test_a_permanent_error_of_a_hedge_comes_out_at_once(
    driver: Driver, event_recorder: EventRecorder
) -> None:
    """A hedge that says that the request is wrong decides the call, although the first still runs."""
    policy, script = Hedge(1.0), Script(hang(), fail(ValueError("bad"), after=0.5))
    with pytest.raises(ValueError, match="bad"):
        driver.call(driver.decorate(policy, script))
    assert (driver.clock.elapsed, policy.won) == (1.5, 1)
    assert [one.number for one in event_recorder.of(HedgeWon)] == [1]


def test_what_is_permanent_is_a_setting(driver: Driver) -> None:
    """`on` decides as in a retry: types, verdicts, classifiers or a function of the error."""

    def is_value(error: BaseException) -> bool:
        return isinstance(error, ValueError)

    choices: list[Any] = [ValueError, (KeyError, ValueError), is_value]
    for on in choices:
        script = Script(fail(ValueError), succeed("hedge"))
        assert driver.call(driver.decorate(Hedge(1.0, on=on), script)) == "hedge"
    with pytest.raises(ConnectionError):
        driver.call(driver.decorate(Hedge(1.0, on=ValueError), Script(fail(), succeed())))


class Busy(Exception):
    """The dependency asks to be left alone."""

    retry_after = 3.0


def is_busy(error: BaseException) -> Verdict:
    return TRANSIENT if isinstance(error, Busy) else PERMANENT


def test_a_server_that_asks_for_time_gets_no_hedge(driver: Driver) -> None:
    """A failure that says when to come back is final for the hedge: nothing is sent before that."""
    policy, script = Hedge(1.0, on=Busy), Script(fail(Busy, after=0.5), succeed())
    with pytest.raises(Busy):
        driver.call(driver.decorate(policy, script))
    assert (script.calls, policy.started) == (1, 0)


def test_a_refused_result_does_not_win(driver: Driver) -> None:
    """A result that `result` refuses is a failure: the next call is made at once and may win."""
    script = Script(succeed("stale", after=0.5), succeed("fresh", after=0.5))
    call = driver.decorate(Hedge(1.0, result=lambda result: result == "stale"), script)
    assert (driver.call(call), starts(script)) == ("fresh", [0.0, 0.5])


def test_when_all_results_are_refused_the_first_is_returned(driver: Driver) -> None:
    """Without an acceptable outcome the first call's comes out, a refused result included."""
    script = Script(succeed(1), succeed(2), fail())
    policy = Hedge(1.0, max_hedges=2, result=lambda result: True)
    assert driver.call(driver.decorate(policy, script)) == 1
    assert (script.calls, policy.won) == (3, 0)


def test_a_broken_result_predicate_refuses_nothing(driver: Driver, event_recorder: EventRecorder) -> None:
    """A `result` that raises is reported, and the result is taken."""

    def broken(result: object) -> bool:
        raise KeyError

    script = Script(succeed("first"))
    assert driver.call(driver.decorate(Hedge(1.0, result=broken), script)) == "first"
    assert [one.callback for one in event_recorder.of(CallbackFailed)] == ["result predicate"]


def test_a_broken_error_predicate_hedges_nothing(driver: Driver, event_recorder: EventRecorder) -> None:
    """An `on` that raises is reported, and the call's own error comes out."""

    def broken(error: BaseException) -> bool:
        raise KeyError

    script = Script(fail())
    with pytest.raises(ConnectionError):
        driver.call(driver.decorate(Hedge(1.0, on=broken), script))
    assert script.calls == 1
    assert [one.callback for one in event_recorder.of(CallbackFailed)] == ["predicate"]


@pytest.mark.parametrize("exit_", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
@pytest.mark.parametrize("hedged", [False, True])
def test_an_exit_passes_at_once(driver: Driver, exit_: type[BaseException], *, hedged: bool) -> None:
    """What is no `Exception` ends the call, whichever attempt raised it, and is not hedged."""
    error = exit_("told")
    steps = [hang()] * hedged + [fail(error, after=0.5)]
    script = Script(*steps)
    with pytest.raises(exit_) as caught:
        driver.call(driver.decorate(Hedge(1.0), script))
    assert caught.value is error or exit_ is asyncio.CancelledError
    assert (script.calls, driver.clock.elapsed) == (1 + hedged, 0.5 + hedged)


# All fail


class Stubborn(ConnectionError):
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("stays here")


def test_the_first_error_carries_the_others(driver: Driver) -> None:
    """When all fail, the first call's error is raised, with a note and the error itself of every other."""
    errors = [ConnectionError("first"), ConnectionResetError("second"), TimeoutError("third")]
    steps = [fail(errors[0], after=3.0), fail(errors[1], after=1.5), fail(errors[2])]
    with pytest.raises(ConnectionError) as caught:
        driver.call(driver.decorate(Hedge(1.0, max_hedges=2, name="search"), Script(*steps)))
    assert caught.value is errors[0]
    # The third was sent when 2 s had passed, and failed before the second.
    assert hedge_errors(caught.value) == (errors[2], errors[1])
    assert caught.value.__notes__ == [
        "holdfast: a hedge of search failed too: TimeoutError: third",
        "holdfast: a hedge of search failed too: ConnectionResetError: second",
    ]
    assert caught.value.__context__ is None
    assert driver.clock.elapsed == 3.0


def test_the_others_travel_with_the_error(driver: Driver) -> None:
    """A pickled error brings its companions along; of one that cannot be pickled, what it said."""
    script = Script(fail(ConnectionError("first")), fail(OSError(11, "second")), fail(Stubborn("third")))
    policy = Hedge(1.0, max_hedges=2, on=OSError)
    with pytest.raises(ConnectionError) as caught:
        driver.call(driver.decorate(policy, script))
    travelled = pickle.loads(pickle.dumps(caught.value))
    second, third = hedge_errors(travelled)
    assert (type(second), second.args) == (BlockingIOError, (11, "second"))
    assert str(third).endswith("Stubborn: third")
    assert travelled.__notes__ == caught.value.__notes__


def test_an_error_does_not_carry_itself(driver: Driver) -> None:
    """One error object that every attempt raises is raised as it was."""
    error = ConnectionError("always")
    with pytest.raises(ConnectionError) as caught:
        driver.call(driver.decorate(Hedge(1.0), Script(fail(error))))
    assert caught.value is error
    assert hedge_errors(error) == ()
    assert not hasattr(error, "__notes__")


class Closed(ConnectionError):
    """Takes no new attributes."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)

    def add_note(self, note: str) -> None:
        raise AttributeError


def test_an_error_that_can_carry_nothing_is_raised_all_the_same(driver: Driver) -> None:
    """An error class that refuses notes and attributes comes out alone."""
    with pytest.raises(Closed) as caught:
        driver.call(driver.decorate(Hedge(1.0), Script(fail(Closed), fail())))
    assert hedge_errors(caught.value) == ()


def test_errors_go_when_nobody_holds_them(driver: Driver) -> None:
    """Neither the error of a failed call nor those of its hedges wait for the garbage collector."""
    seen: list[weakref.ref[Busy]] = []

    async def fails() -> None:
        error = Busy()
        seen.append(weakref.ref(error))
        try:
            await driver.sleep(0.1)
            raise error
        finally:
            del error

    call = driver.decorate(Hedge(1.0, max_hedges=2, on=is_busy), fails)

    async def main() -> list[bool]:
        try:
            await driver.ask(call)
        except Busy:
            pass
        return [ref() is not None for ref in seen]

    gc.collect()
    gc.disable()
    try:
        assert driver.run(main) == [False] * 3
    finally:
        gc.enable()


# Losers


def test_a_losing_task_is_cancelled_and_awaited(virtual_clock: VirtualClock) -> None:
    """A loser gets its CancelledError and has ended when the caller goes on."""
    log: list[str] = []

    @hedge(1.0)
    async def call() -> str:
        log.append("began")
        if len(log) > 1:
            return "hedge"
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            log.append("ended")
        return "never"

    async def main() -> str:
        result = await call()
        log.append("returned")
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    assert virtual_clock.run(main()) == "hedge"
    assert log == ["began", "began", "ended", "returned"]


def test_a_stubborn_loser_is_awaited_for_the_grace_only(virtual_clock: VirtualClock) -> None:
    """A loser that ignores its cancellation holds the winner up for the grace, then ends unseen."""
    log: list[float] = []
    error = ConnectionError("too late")

    @hedge(1.0)
    async def call() -> str:
        log.append(virtual_clock.elapsed)
        if len(log) > 1:
            return "hedge"
        try:
            await virtual_clock.asleep(100.0)
        except asyncio.CancelledError:
            await virtual_clock.asleep(5.0)
            log.append(virtual_clock.elapsed)
            raise error from None
        return "never"

    async def main() -> float:
        assert await call() == "hedge"
        took = virtual_clock.elapsed
        await virtual_clock.asleep(10.0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return took

    assert virtual_clock.run(main()) == pytest.approx(1.0 + GRACE)
    assert log == [0.0, 1.0, 6.0]


def test_a_losing_thread_is_left_behind_and_counted(
    virtual_clock: VirtualClock, event_recorder: EventRecorder
) -> None:
    """Sync, a loser runs on in its thread, in the gauge of abandoned workers until it ends."""
    gate, seen = threading.Event(), list[int]()

    @hedge(1.0, name="search")
    def call() -> str:
        seen.append(abandoned_workers())
        if len(seen) == 1:
            gate.wait()
        return "done"

    assert call() == "done"
    assert (seen, abandoned_workers()) == ([0, 0], 1)
    assert [(one.name, one.abandoned) for one in event_recorder.of(WorkerAbandoned)] == [("search", 1)]
    gate.set()
    driver_of("sync", virtual_clock).close()


@pytest.mark.parametrize("form", ["decorators", "call"])
def test_a_losing_thread_makes_no_further_call(
    virtual_clock: VirtualClock, event_recorder: EventRecorder, form: Any
) -> None:
    """A loser in the wait of its own retry ends there: a thread cannot be cancelled, but it can be told."""
    driver = driver_of("sync", virtual_clock)
    script = Script(fail(after=0.25), succeed("hedge", after=0.5), succeed("too late"))
    call = driver.compose(form, Hedge(1.0), Retry(3, wait=Backoff.fixed(5.0)), source=script)
    assert call() == "hedge"
    driver.close()
    assert script.calls == 2
    assert virtual_clock.elapsed > 5.0
    assert "RetrySucceeded" not in event_recorder.kinds


def test_without_a_free_worker_the_call_is_made_unhedged(driver: Driver) -> None:
    """Sync, a call that finds every worker busy runs in its caller's thread; one that finds one gets no hedge."""
    policy = Hedge(1.0, workers=2)
    threads: list[threading.Thread] = []

    async def slow(seconds: float) -> str:
        threads.append(threading.current_thread())
        await driver.sleep(seconds)
        return "ok"

    call = driver.decorate(policy, slow)

    async def first() -> Any:
        return await driver.ask(call, 10.0)

    outcomes = driver.together(first, driver.after(2.0, call, 3.0))
    assert outcomes == ["ok", "ok"]
    hedged = driver.mode == "async"
    # Sync, the first call and its hedge have both workers while the second call comes.
    assert (len(threads), policy.started) == ((4, 2) if hedged else (3, 1))
    assert sum(thread.name == "virtual thread 1" for thread in threads) == (not hedged)


def test_an_unhedged_call_ends_as_it_would_without_a_hedge(virtual_clock: VirtualClock) -> None:
    """A call in its caller's own thread raises its error as it is, or returns its result."""
    gate, error = threading.Event(), ConnectionError("down")
    policy = Hedge(0.0, workers=2)

    def call(*, fails: bool) -> str:
        if fails:
            raise error
        gate.wait()
        return "done"

    busy = threading.Thread(target=policy.call, args=(call,), kwargs={"fails": False})
    busy.start()
    while policy.started == 0:
        virtual_clock.advance(0.001)
    with pytest.raises(ConnectionError) as caught:
        policy.call(call, fails=True)
    gate.set()
    busy.join()
    driver_of("sync", virtual_clock).close()
    assert caught.value is error
    assert hedge_errors(error) == ()
    assert policy.started == 1


@pytest.mark.parametrize("form", ["decorators", "pipeline", "call"])
def test_policies_below_know_the_function(driver: Driver, event_recorder: EventRecorder, form: Any) -> None:
    """Events of a policy without a name carry the function's, inside a hedge too."""
    script = Script(fail(), succeed())
    driver.call(driver.compose(form, Hedge(1.0), Retry(2, wait=0.5), source=script))
    fn = driver.function(script)
    assert {one.name for one in event_recorder.events} == {f"{fn.__module__}.{fn.__qualname__}"}
    assert event_recorder.kinds == ("RetryScheduled", "RetrySucceeded")


def test_a_thread_that_cannot_start_takes_no_place(
    monkeypatch: pytest.MonkeyPatch, virtual_clock: VirtualClock
) -> None:
    """Without a thread the call fails as starting one does, and leaves no worker to be counted."""
    monkeypatch.setattr("holdfast.infrastructure.resilience._threads._pool", Pool())
    policy = Hedge(1.0, workers=2)

    def fails(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fails)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                policy.call(int)
    assert policy.call(int) == 0
    assert abandoned_workers() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_a_forked_child_can_hedge() -> None:
    """A child whose parent was counting a hedge at the fork counts its own, with workers of its own."""
    program = """
        import os
        from holdfast.infrastructure.resilience import _race
        from holdfast.infrastructure.resilience.hedge import Hedge
        import threading

        policy, gate, held = Hedge(0.0), threading.Event(), threading.Event()
        policy.call(int)

        def hold():
            with _race._lock:
                held.set()
                gate.wait()

        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        child = os.fork()
        if child == 0:
            before = policy.started
            release = threading.Event()
            policy.call(lambda: policy.started > before or release.wait(0.2))
            os._exit(0 if policy.started == before + 1 else 1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        gate.set()
        print(code)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("0", "")


# Context


def test_attempts_run_in_copies_of_the_context(driver: Driver) -> None:
    """An attempt sees what the caller has set; what it sets itself the caller does not see."""
    variable = contextvars.ContextVar("variable", default="default")
    seen: list[str] = []

    async def call() -> None:
        seen.append(variable.get())
        variable.set("attempt")
        if len(seen) == 1:
            await driver.sleep(10.0)

    hedged = driver.decorate(Hedge(1.0), call)

    async def main() -> str:
        variable.set("caller")
        await driver.ask(hedged)
        return variable.get()

    assert driver.run(main) == "caller"
    assert seen == ["caller", "caller"]


def test_the_attempt_number_is_that_of_the_retry(driver: Driver) -> None:
    """`current_attempt()` in a hedge is the number of the retry around it: a hedge is part of one attempt."""
    seen: list[int] = []

    async def call() -> None:
        seen.append(current_attempt())
        await driver.sleep(0.5)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        driver.call(driver.compose("decorators", Retry(3, wait=1.0), Hedge(9.0), source=call))
    assert seen == [1, 1, 2, 2, 3, 3]
    assert current_attempt() == 1


def test_the_attempt_number_is_that_of_the_nearest_retry(driver: Driver) -> None:
    """In the second attempt of an outer retry, a hedge in the first attempt of an inner one is in attempt 1."""
    seen: list[int] = []

    async def call() -> None:
        seen.append(current_attempt())

    inner = driver.compose("decorators", Retry(2), Hedge(9.0), source=call)

    async def outer() -> None:
        if not seen:
            seen.append(current_attempt())
            raise ConnectionError
        await driver.ask(inner)

    driver.call(driver.decorate(Retry(2, wait=1.0), outer))
    assert seen == [1, 1]


def test_signatures_stay(driver: Driver) -> None:
    """Defaults, keywords and stars reach every attempt as the function declares them, policies below included."""
    seen: list[Any] = []

    async def call(a: int, b: int = 2, *c: int, d: int, e: int = 5, **f: int) -> int:
        seen.append((a, b, c, d, e, f))
        if len(seen) % 2:
            raise ConnectionError
        return a

    for policies in ([Hedge(1.0)], [Hedge(1.0), Retry(1), Timeout(5.0)]):
        fn = driver.compose("decorators", *policies, source=call)
        assert driver.call(fn, 1, d=4) == 1
        assert driver.call(fn, 1, 0, 3, d=4, e=6, g=7) == 1
    none: dict[str, int] = {}
    first, second = (1, 2, (), 4, 5, none), (1, 0, (3,), 4, 6, {"g": 7})
    assert seen == [first, first, second, second] * 2


# The delay


def sample(driver: Driver, policy: Hedge, latencies: list[float]) -> None:
    """Let a policy see calls that take so long."""
    call = driver.decorate(policy, Script(*(succeed(after=one) for one in latencies)))
    driver.outcomes(len(latencies), call)


def test_the_delay_is_learnt(driver: Driver) -> None:
    """Until `samples` latencies are known the delay is `initial`, then about their quantile."""
    policy = Hedge(Quantile(0.5, initial=30.0, samples=10))
    sample(driver, policy, [0.2] * 9)
    known = [policy.latency]
    before = Script(hang(), succeed())
    driver.call(driver.decorate(policy, before))
    assert starts(before) == [0.0, 30.0]
    known.append(policy.latency)
    assert known == [None, pytest.approx(0.2, rel=0.2)]

    after = Script(hang(), succeed())
    driver.call(driver.decorate(policy, after))
    assert starts(after)[1] == pytest.approx(0.2, rel=0.2)
    assert (policy.started, policy.won) == (2, 2)


def test_a_fixed_delay_learns_nothing(driver: Driver) -> None:
    """With seconds for `after` no latency is kept."""
    policy = Hedge(1.0)
    sample(driver, policy, [0.2] * 20)
    assert policy.latency is None


def test_failures_say_nothing_about_latency(driver: Driver) -> None:
    """Calls that fail before their hedge is due are no samples, however many."""
    policy = Hedge(Quantile(0.5, initial=1.0, samples=5))
    driver.outcomes(10, driver.decorate(policy, Script(fail(ValueError, after=0.1))))
    assert policy.latency is None


def test_a_call_that_lost_is_a_sample_of_what_it_took(driver: Driver) -> None:
    """A first call that is still running when its hedge wins is a sample all the same, or the delay would sink."""
    policy = Hedge(Quantile(0.5, initial=1.0, samples=5))
    for _ in range(5):
        driver.call(driver.decorate(policy, Script(hang(), succeed(after=0.5))))
    assert policy.latency == pytest.approx(1.5, rel=0.2)


def test_a_slow_failure_is_a_sample_too(driver: Driver) -> None:
    """A first call that fails after its hedge was due took at least that long."""
    policy = Hedge(Quantile(0.5, initial=1.0, samples=5))
    for _ in range(5):
        script = Script(fail(after=2.0), succeed("hedge", after=3.0))
        assert driver.call(driver.decorate(policy, script)) == "hedge"
    assert policy.latency == pytest.approx(2.0, rel=0.2)


def test_it_reads_its_own_clock() -> None:
    """A hedge with a clock of its own waits and measures on that one."""
    own = VirtualClock()
    policy = Hedge(Quantile(0.5, initial=1.0, samples=1), clock=own)
    assert policy(Script(succeed(after=0.3), clock=own).function())() == "ok"
    assert policy.latency == pytest.approx(0.3, rel=0.2)
    with use_clock(VirtualClock()) as other:
        script = Script(hang(), succeed("hedge"), clock=own)
        assert policy(script.function())() == "hedge"
        assert other.monotonic() == 1000.0
    assert starts(script)[1] == pytest.approx(0.3, rel=0.2)
    driver_of("sync", own).close()


# What explain() says


def test_bounds_of_a_fixed_delay() -> None:
    """Every call fails at the last moment, each begun `after` the one before: that is the longest."""
    found = explain(Pipeline(Hedge(1.0, max_hedges=2), Timeout(5.0)))
    assert (found.attempts, found.duration, found.amplification) == (3.0, 7.0, 3.0)
    assert "TimeoutExceeded" in found.errors


def test_bounds_of_a_delay_longer_than_a_call() -> None:
    """A call that fails before the next is due brings that forward: one after the other."""
    assert explain(Pipeline(Hedge(9.0, max_hedges=2), Timeout(5.0))).duration == 15.0
    assert explain(Pipeline(Hedge(max_hedges=2), Timeout(5.0))).duration == 15.0
    assert explain(Hedge(9.0)).duration == float("inf")


def test_bounds_with_a_budget_and_a_retry() -> None:
    """Attempts multiply; in a lasting outage a budget leaves its share of them."""
    budget = RetryBudget(ratio=0.2)
    alone = explain(Hedge(1.0, budget=budget))
    assert (alone.attempts, alone.amplification) == (2.0, 1.2)
    both = explain(Pipeline(Retry(3, wait=2.0), Hedge(1.0), Timeout(5.0)))
    assert (both.attempts, both.amplification, both.duration) == (6.0, 6.0, 22.0)


def test_explain_warns_of_a_hedge_around_a_retry() -> None:
    """Each hedge would make all attempts of the retry; the other way round each attempt is hedged, as it should."""
    around, inside = (
        Pipeline(Hedge(1.0), Retry(3), Timeout(9.0)),
        Pipeline(Retry(3), Hedge(1.0), Timeout(9.0)),
    )
    assert [one for one in around.explain().warnings if "hedge" in one] == [
        "hedge around a retry: every hedge retries, too; put the hedge inside"
    ]
    assert not any("hedge" in one for one in inside.explain().warnings)
