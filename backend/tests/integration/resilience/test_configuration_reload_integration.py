"""Seam: a configuration that changes × calls that run, in threads and tasks."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Driver
from backend.tests.integration.resilience._race import race, switching_often
from holdfast.infrastructure.resilience.circuit_breaker import breaker_of
from holdfast.infrastructure.resilience.errors import CircuitOpenError, ConfigurationError
from holdfast.infrastructure.resilience.live import LiveConfiguration
from holdfast.infrastructure.resilience.pipeline import explain
from holdfast.infrastructure.resilience.registry import Registry
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, hang, succeed

PRESETS = ("production", "development", "simple")
ATTEMPTS = {"production": 5, "development": 2, "simple": 3}


def live_of(names: Registry, preset: str = "production") -> LiveConfiguration:
    return LiveConfiguration(names, environ={"RESILIENCE_PRESET": preset})


def test_a_change_holds_for_the_next_call(driver: Driver, names: Registry) -> None:
    """Nothing is decorated again: each call makes the attempts of the preset of its moment."""
    live, script = live_of(names), Script(fail())
    live.register("x", threshold=100)
    call = driver.decorate(names.resilient("x"), script)
    counts: list[int] = []
    for preset in PRESETS:
        live.use_preset(preset, actor="me")
        before = script.calls
        driver.outcomes(2, call)
        counts.append(script.calls - before)
    assert counts == [10, 4, 6]


def test_a_call_that_runs_ends_as_it_began(driver: Driver, names: Registry) -> None:
    """A change in the middle of a backoff gives a call neither more attempts nor fewer, nor another deadline."""
    live = live_of(names)
    live.register("x", threshold=100)
    script = Script(fail())
    call = driver.decorate(names.resilient("x"), script)

    async def change() -> None:
        await driver.sleep(5)
        live.use_preset("development", actor="me")

    driver.together(driver.after(0, call), change)
    assert script.calls == 5
    driver.outcomes(1, call)
    assert script.calls == 5 + 2


def test_a_breaker_has_its_new_settings_at_once(driver: Driver, names: Registry) -> None:
    """All calls share it, so it opens by the new threshold for a call too that began under the old one."""
    live = live_of(names)
    script = Script(fail())
    call = driver.decorate(names.resilient("x"), script)

    async def change() -> None:
        await driver.sleep(5)
        live.use_preset("development", actor="me")

    outcome = driver.together(driver.after(0, call), change)[0]
    assert (script.calls, type(outcome)) == (3, CircuitOpenError)


def test_failures_in_a_row_go_on_through_a_change(driver: Driver, names: Registry) -> None:
    """What a closed breaker has counted counts under the new threshold, whichever way that goes."""
    live = live_of(names)
    live.register("x", attempts=1)
    script = Script(fail())
    call = driver.decorate(names.resilient("x"), script)
    driver.outcomes(4, call)
    breaker = breaker_of(call)
    live.use_preset("simple", actor="me")
    assert (breaker_of(call) is breaker, breaker.counts.failures, breaker.current_state) == (
        True,
        4,
        "closed",
    )
    driver.outcomes(1, call)
    assert breaker.current_state == "open"
    assert breaker.retry_after == 60
    live.use_preset("production", actor="me")
    driver.clock.advance(59)
    assert isinstance(driver.outcomes(1, call)[0], CircuitOpenError)
    driver.clock.advance(1)
    driver.outcomes(1, call)
    assert (script.calls, breaker.current_state, breaker.retry_after) == (6, "open", 120)


@pytest.mark.parametrize("state", ["isolated", "disabled", "shadow", "half-open"])
def test_what_was_set_by_hand_stays(driver: Driver, names: Registry, state: str) -> None:
    """A breaker in any state is in the same one after a change of its settings."""
    live = live_of(names)
    call = driver.decorate(names.resilient("x"), Script(succeed()))
    breaker = breaker_of(call)
    by_hand = {
        "isolated": breaker.isolate,
        "disabled": breaker.disable,
        "shadow": breaker.shadow,
        "half-open": breaker.half_open,
    }
    by_hand[state]()
    live.use_preset("development", actor="me")
    live.apply({"circuit_breaker_threshold": 7}, actor="me")
    assert (breaker_of(call) is breaker, breaker.current_state, breaker.config.window.size) == (
        True,
        state,
        7,
    )


def test_probes_that_are_out_come_back_to_the_same_breaker(driver: Driver, names: Registry) -> None:
    """A change while a probe runs: its success closes the breaker that all calls go through."""
    live = live_of(names)
    script = Script(succeed(after=10.0))
    call = driver.decorate(names.resilient("x"), script)
    breaker = breaker_of(call)
    breaker.half_open()

    async def change() -> str:
        await driver.sleep(5)
        live.use_preset("development", actor="me")
        return breaker_of(call).current_state

    assert driver.together(driver.after(0, call), change) == ["ok", "half-open"]
    assert breaker.current_state == "closed"


def test_a_budget_goes_on_through_a_change(driver: Driver, names: Registry) -> None:
    """A change gives nobody new tokens: what retries have spent is spent."""
    live = live_of(names)
    live.register("x", attempts=2, threshold=100, deadline=3600)
    script = Script(fail())
    call = driver.decorate(names.resilient("x"), script)
    (retry,) = (one for one in names.resilient("x").pipeline.policies if isinstance(one, Retry))
    budget = retry.config.budget
    assert budget is not None
    while budget.try_withdraw():
        pass
    for preset in PRESETS:
        live.use_preset(preset, actor="me")
        assert budget.tokens < 1
    driver.outcomes(1, call)
    assert script.calls == 1


def test_switching_off_and_on_keeps_everything(driver: Driver, names: Registry) -> None:
    """Off, calls go straight through though the breaker is open; on again, it is open for what was left."""
    environ = {"RESILIENCE_PRESET": "production"}
    live = LiveConfiguration(names, environ=environ)
    script = Script(fail())
    call = driver.decorate(names.resilient("x"), script)
    breaker = breaker_of(call)
    breaker.open()
    environ["RESILIENCE_ENABLED"] = "false"
    live.reload(actor="me")
    driver.outcomes(3, call)
    assert script.calls == 3
    driver.clock.advance(20)
    environ["RESILIENCE_ENABLED"] = "true"
    live.reload(actor="me")
    (refusal,) = driver.outcomes(1, call)
    assert (script.calls, refusal.retry_after, breaker_of(call) is breaker) == (3, 100, True)


def test_a_name_defined_in_code_is_left_alone(driver: Driver, names: Registry) -> None:
    """Code wins over every change, from the moment at which it speaks."""
    live = live_of(names)
    script = Script(fail())
    call = driver.decorate(names.resilient("x"), script)
    driver.outcomes(1, call)
    names.define("x", Retry(4, wait=0.0))
    live.use_preset("development", actor="me")
    driver.outcomes(1, call)
    assert script.calls == 5 + 4


def test_a_bad_file_changes_nothing(driver: Driver, names: Registry, tmp_path: Path) -> None:
    """A reload that fails leaves pipelines, breakers and figures as they were, and says why in the trail."""
    path = tmp_path / "resilience.toml"
    path.write_text('preset = "production"\n')
    live = LiveConfiguration(names, file=path, environ={})
    script = Script(fail())
    call = driver.decorate(names.resilient("x"), script)
    before = (names.resilient("x").pipeline, breaker_of(call).config, live.current, live.version)
    path.write_text('preset = "development"\nretry_attempts = 99\nthreshold = 3\n')
    with pytest.raises(ConfigurationError) as caught:
        live.reload(actor="ann")
    assert [fault.path for fault in caught.value.faults] == [
        "resilience.toml.retry_attempts",
        "resilience.toml.threshold",
    ]
    assert (names.get("x"), breaker_of(call).config, live.current, live.version) == before
    driver.outcomes(1, call)
    (change,) = live.audit()
    assert (script.calls, change.actor, change.before) == (5, "ann", change.after)
    assert (
        change.error == "resilience.toml.retry_attempts is out of range; resilience.toml.threshold is unknown"
    )


def test_the_trail_tells_the_whole_story(names: Registry, tmp_path: Path) -> None:
    """Who changed what when, before and after: each line begins where the one before ended, also after a restart."""
    clock = VirtualClock()
    path = tmp_path / "audit.jsonl"
    live = LiveConfiguration(names, environ={}, audit_file=path, clock=clock)
    began = clock.time()
    for at, preset in enumerate(PRESETS):
        clock.advance(10)
        live.use_preset(preset, actor=f"actor {at}", reason="because")
    heir = LiveConfiguration(Registry(), environ={}, audit_file=path)
    lines = heir.audit()[::-1]
    assert [(one.number, one.at - began, one.actor) for one in lines] == [
        (1, 10, "actor 0"),
        (2, 20, "actor 1"),
        (3, 30, "actor 2"),
    ]
    assert [one.after["preset"] for one in lines] == list(PRESETS)
    assert [one.before for one in lines[1:]] == [one.after for one in lines[:-1]]
    assert lines[0].changed["numbers.attempts"] == (3, 5)


# Under load.


def work(value: int) -> int:
    return value + 1


async def work_async(value: int) -> int:
    await asyncio.sleep(0)
    return value + 1


class Load:
    """Functions of many names, and what went wrong in them: nothing may."""

    def __init__(self, names: Registry, count: int = 8) -> None:
        self.names = [f"operation {at}" for at in range(count)]
        self.calls = [names.resilient(name)(work) for name in self.names]
        self.async_calls = [names.resilient(name)(work_async) for name in self.names]

    def threads(self, times: int) -> Callable[[], list[int]]:
        return lambda: [call(at) for at in range(times) for call in self.calls]

    def tasks(self, times: int, width: int) -> Callable[[], list[int]]:
        async def task() -> list[int]:
            return [await call(at) for at in range(times) for call in self.async_calls]

        async def main() -> list[int]:
            return [one for part in await asyncio.gather(*(task() for _ in range(width))) for one in part]

        return lambda: asyncio.run(main())


def test_no_call_fails_while_it_changes(names: Registry) -> None:
    """Four threads and 25 tasks call eight names while the configuration changes 150 times: every call succeeds."""
    live, load = live_of(names), Load(names)
    breakers = [breaker_of(call) for call in load.calls]

    def change() -> list[int]:
        for at in range(150):
            live.use_preset(PRESETS[at % 3], actor="me")
            if at % 10 == 0:
                with pytest.raises(ConfigurationError):
                    live.apply({"retry_attempts": 99}, actor="me")
        return []

    expected = [at + 1 for at in range(200) for _ in load.names]
    results = race(change, *[load.threads(200)] * 4, load.tasks(25, 25))
    assert results.count(expected) == 4
    assert sum(len(one) for one in results) == 4 * 200 * 8 + 25 * 25 * 8
    assert [breaker_of(call) for call in load.calls] == breakers
    assert {explain(call).attempts for call in load.calls} == {ATTEMPTS[PRESETS[149 % 3]]}
    assert [change.error is None for change in live.audit(limit=1000)].count(False) == 15


def test_all_names_change_at_once(names: Registry) -> None:
    """No call that begins later than another one is under an older configuration, whatever their names."""
    live = live_of(names)
    first, second = (names.resilient(name) for name in ("a", "b"))
    stop = threading.Event()
    mixed: list[tuple[int, int]] = []
    order = {5: 0, 2: 1, 3: 2}

    def look() -> list[Any]:
        # Only ever forwards: production, development, simple, and then it ends.
        while not stop.is_set():
            pair = tuple(order[int(one.explain().attempts)] for one in (first, second))
            if pair[0] > pair[1]:
                mixed.append((pair[0], pair[1]))
        return []

    def change() -> list[Any]:
        time.sleep(0.01)
        for preset in ("development", "simple"):
            live.use_preset(preset, actor="me")
            time.sleep(0.01)
        stop.set()
        return []

    with switching_often():
        race(look, look, look, change)
    assert mixed == []


def test_names_that_are_met_during_a_change_have_the_new_meaning(names: Registry) -> None:
    """Threads meet 120 names for the first time while it changes: in the end all mean the same."""
    live = live_of(names)

    def meet(base: int) -> Callable[[], list[int]]:
        return lambda: [names.resilient(f"name {at}")(work)(at) for at in range(base, base + 30)]

    def change() -> list[int]:
        for at in range(30):
            live.use_preset(PRESETS[at % 3], actor="me")
        return []

    race(change, *[meet(base) for base in (0, 30, 60, 90)])
    assert {names.resilient(name).explain().attempts for name in names} == {ATTEMPTS[PRESETS[29 % 3]]}
    assert len(names) == 120


def test_a_change_is_quick(names: Registry) -> None:
    """A hundred names change in far less than a tenth of a second, and nobody waits for longer than that."""
    live, load = live_of(names), Load(names, 100)
    load.threads(1)()
    began = time.perf_counter()
    for at in range(6):
        live.use_preset(PRESETS[at % 3], actor="me")
    assert (time.perf_counter() - began) / 6 < 0.5


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_a_watched_file_changes_running_traffic(names: Registry, tmp_path: Path) -> None:
    """Files are replaced, written in halves and broken under traffic: no call fails, good ones hold, bad are told."""
    path = tmp_path / "resilience.toml"
    path.write_text('preset = "production"\n')
    live, load = LiveConfiguration(names, file=path, environ={}), Load(names)
    end = live.watch(interval=0.02)
    stop = threading.Event()
    failed: list[Exception] = []

    def traffic() -> None:
        while not stop.is_set():
            try:
                load.threads(20)()
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=traffic) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        fresh = tmp_path / "new"
        fresh.write_text('preset = "development"\n')
        fresh.replace(path)
        until(lambda: live.current.preset == "development")
        path.write_text("preset = [")
        until(lambda: live.audit(actor="file")[0].error)
        path.write_text('preset = "simple"\n')
        until(lambda: live.current.preset == "simple")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        end()
    assert failed == []
    assert [explain(call).attempts for call in load.calls] == [3] * 8
    good = [change.after["preset"] for change in live.audit() if change.error is None and change.changed]
    assert good == ["simple", "development"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_can_change_it(names: Registry) -> None:
    """After a fork in the middle of a change the child is not left with a lock that nobody releases."""
    live = live_of(names)
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with vars(live)["_changing"], vars(names)["_lock"]:
            held.set()
            go.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    child = os.fork()
    if not child:
        live.use_preset("development", actor="child")
        os._exit(int(names.resilient("x").explain().attempts))
    _, status = os.waitpid(child, 0)
    go.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 2


def test_a_hanging_call_does_not_hold_up_a_change(virtual_clock: VirtualClock, names: Registry) -> None:
    """A change waits for nobody: it is in place while an old call still hangs."""
    live = live_of(names)
    call = names.resilient("x")(Script(hang()).coroutine_function())

    async def main() -> float:
        task = asyncio.create_task(call())
        await asyncio.sleep(1)
        live.use_preset("development", actor="me")
        attempts = explain(call).attempts
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return attempts

    assert virtual_clock.run(main()) == 2
