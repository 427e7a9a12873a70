"""Seam: policies and their events × meters and inventory × the monitor's thresholds × whoever is told."""

import asyncio
import gc
import itertools
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pybreaker
import pytest

from backend.tests.integration.resilience._driver import Driver, Mode, outcome_of
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.bulkhead import Bulkhead
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.events import CircuitOpened
from holdfast.infrastructure.resilience.meter import metered
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.registry import Registry
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.resilience.window import Window
from holdfast.infrastructure.telemetry.monitor import THRESHOLDS, Alert, Monitor, Threshold
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, Step, fail, succeed
from holdfast.testing.recorder import EventRecorder

ROUND = 10.0
BY_NAME = {threshold.name: threshold for threshold in THRESHOLDS}

# Meters, and what is logged once, live as long as the process: every test needs names that were never used.
_serial = itertools.count()


def fresh(name: str) -> str:
    return f"{name} {next(_serial)}"


@contextmanager
def monitoring(**settings: Any) -> Generator[Monitor]:
    monitor = Monitor(Registry(), **settings)
    try:
        yield monitor
    finally:
        monitor.close()


def alerts_of(monitor: Monitor, subject: str, *, active: bool | None = None) -> list[Alert]:
    """Return the alerts of one subject: what earlier tests left open may live until it is collected."""
    return [one for one in monitor.alerts(active=active, limit=1000) if one.subject == subject]


@dataclass
class Trouble:
    """Something that goes wrong: each round of `hurt` or `heal` takes some time, the rest of 10 s passes after it."""

    subject: str
    hurt: Callable[[], object]
    heal: Callable[[], object]


class Switch:
    """A dependency that plays one step or another for all calls, as it was last told."""

    def __init__(self, driver: Driver, *policies: Policy, good: Step, bad: Step, name: str) -> None:
        self._driver = driver
        self._bad, self._good = bad, good
        self._step = good

        async def scenario() -> Any:
            await driver.sleep(self._step.latency)
            if self._step.error is not None:
                raise type(self._step.error)
            return self._step.result

        self.call = Pipeline(metered(name), *policies)(driver.function(scenario))

    def play(self, *, bad: int, good: int) -> None:
        for step, times in ((self._bad, bad), (self._good, good)):
            self._step = step
            self._driver.outcomes(times, self.call)


def failing(driver: Driver, bad: int, *policies: Policy, name: str = "service") -> Trouble:
    subject = fresh(name)
    switch = Switch(driver, *policies, good=succeed(), bad=fail(), name=subject)
    return Trouble(
        subject, partial(switch.play, bad=bad, good=10 - bad), partial(switch.play, bad=0, good=10)
    )


def failures(driver: Driver) -> Trouble:
    return failing(driver, 2)


def outage(driver: Driver) -> Trouble:
    return failing(driver, 6)


def rejections(driver: Driver) -> Trouble:
    subject, breaker = fresh("service"), CircuitBreaker(fresh("guard"))
    call = Pipeline(metered(subject), breaker)(driver.function(Script(succeed())))

    def hurt() -> None:
        driver.outcomes(9, call)
        breaker.isolate()
        driver.outcomes(1, call)
        breaker.release()

    return Trouble(subject, hurt, partial(driver.outcomes, 10, call))


def retries(driver: Driver) -> Trouble:
    subject = fresh("service")
    twice = Pipeline(metered(subject), Retry(2, wait=0.0))
    bad = [twice(driver.function(Script(fail(), succeed()))) for _ in range(200)]
    good = twice(driver.function(Script(succeed())))

    def hurt() -> None:
        for call in bad[:10]:
            driver.outcomes(1, call)
        del bad[:10]

    return Trouble(subject, hurt, partial(driver.outcomes, 10, good))


def slow(driver: Driver) -> Trouble:
    subject = fresh("service")
    switch = Switch(driver, good=succeed(), bad=succeed(after=5.5), name=subject)
    return Trouble(subject, partial(switch.play, bad=1, good=9), partial(switch.play, bad=0, good=10))


def consecutive(name: str, failures: int, **settings: Any) -> CircuitBreaker:
    return CircuitBreaker(
        name, window=Window.consecutive(failures), open_jitter=0.0, half_open_calls=1, **settings
    )


def breaking(driver: Driver) -> Trouble:
    name = fresh("breaker")
    breaker = consecutive(name, 1, open_for=15.0, open_cap=15.0)
    dependency = failing(driver, 10, breaker)
    return Trouble(name, dependency.hurt, dependency.heal)


def retry_budget_empty(driver: Driver) -> Trouble:
    name = fresh("budget")
    budget = RetryBudget(name, ratio=0.0, min_per_second=0.001)
    dependency = failing(driver, 2, Retry(2, wait=0.0, budget=budget))
    return Trouble(name, dependency.hurt, dependency.heal)


def bulkhead_full(driver: Driver) -> Trouble:
    name = fresh("bulkhead")
    bulkhead = Bulkhead(2, name=name)
    call = bulkhead(driver.function(Script(succeed())))
    held: list[Bulkhead] = []

    def hurt() -> None:
        while len(held) < 2:
            held.append(bulkhead)
            bulkhead.__enter__()

    def heal() -> None:
        while held:
            held.pop().__exit__(None, None, None)
        driver.outcomes(1, call)

    return Trouble(name, hurt, heal)


def workers_abandoned(driver: Driver) -> Trouble:
    late = Timeout(1.0, sync="thread")(Script(succeed(after=15.0)).function())
    return Trouble("process", partial(driver.outcomes, 1, late), lambda: None)


def broken(*_: object) -> bool:
    raise RuntimeError("no verdict")


def callbacks_failing(driver: Driver) -> Trouble:
    name = fresh("retry")
    switch = Switch(
        driver, Retry(2, wait=0.0, result=broken, name=name), good=fail(), bad=succeed(), name=name
    )
    return Trouble(name, partial(switch.play, bad=1, good=0), partial(switch.play, bad=0, good=1))


class Storage(pybreaker.CircuitMemoryStorage):
    """A storage that can be cut off."""

    def __init__(self) -> None:
        super().__init__(pybreaker.STATE_CLOSED)
        self.cut = False

    @property
    def state(self) -> str:
        if self.cut:
            raise ConnectionError("no route to storage")
        return str(super().state)

    @state.setter
    def state(self, state: str) -> None:
        self._state = state


def storage_failing(driver: Driver) -> Trouble:
    name, storage = fresh("stored"), Storage()
    call = driver.decorate(CircuitBreaker(name, state_storage=storage), Script(succeed()))

    def play(*, cut: bool) -> None:
        storage.cut = cut
        driver.outcomes(1, call)

    return Trouble(name, partial(play, cut=True), partial(play, cut=False))


TROUBLES: dict[str, Callable[[Driver], Trouble]] = {
    "failures": failures,
    "outage": outage,
    "rejections": rejections,
    "retries": retries,
    "slow": slow,
    "circuit_open": breaking,
    "circuit_stays_open": breaking,
    "retry_budget_empty": retry_budget_empty,
    "bulkhead_full": bulkhead_full,
    "workers_abandoned": workers_abandoned,
    "callbacks_failing": callbacks_failing,
    "storage_failing": storage_failing,
}
# Async functions are cancelled: they leave no worker behind.
RUNS = [
    (mode, name)
    for name in TROUBLES
    for mode in ("sync", "async")
    if (mode, name) != ("async", "workers_abandoned")
]


class Watch:
    """A monitor that samples every 10 s, what it was told, and a healthy neighbour that works all the time."""

    def __init__(self, monitor: Monitor, driver: Driver) -> None:
        self.monitor = monitor
        self.driver = driver
        self.told: list[tuple[float, Alert]] = []
        self.healthy = fresh("healthy")
        self._call = Pipeline(metered(self.healthy), Retry(2), CircuitBreaker(self.healthy))(
            driver.function(Script(succeed()))
        )
        monitor.subscribe(lambda alert: self.told.append((driver.clock.time(), alert)))

    def round(self, act: Callable[[], object]) -> None:
        began = self.driver.clock.monotonic()
        act()
        self.driver.outcomes(10, self._call)
        rest = began + ROUND - self.driver.clock.monotonic()
        self.driver.clock.advance(max(rest, 0.0))
        self.monitor.sample()

    def rounds(self, act: Callable[[], object], until: Callable[[], bool]) -> None:
        for _ in range(30):
            if until():
                return
            self.round(act)
        raise AssertionError("it did not come to that")


def test_each_threshold_has_its_trouble() -> None:
    """No default threshold goes without a test that it fires."""
    assert set(TROUBLES) == {threshold.name for threshold in THRESHOLDS}


@pytest.mark.parametrize(("mode", "name"), RUNS, indirect=["mode"])
def test_each_threshold_fires_and_ends(driver: Driver, mode: Mode, name: str) -> None:
    """An alert begins when its threshold was passed for long enough, is told once, and ends when it is no longer."""
    threshold, trouble = BY_NAME[name], TROUBLES[name](driver)
    with monitoring() as monitor:
        watch = Watch(monitor, driver)

        def found(*, active: bool | None = None) -> list[Alert]:
            alerts = alerts_of(monitor, trouble.subject, active=active)
            return [one for one in alerts if one.threshold == name]

        for _ in range(3):
            watch.round(trouble.heal)
        assert found() == []
        watch.rounds(trouble.hurt, until=lambda: bool(found(active=True)))
        watch.round(trouble.hurt)
        begun = found(active=True)
        watch.rounds(trouble.heal, until=lambda: not found(active=True))
        for _ in range(3):
            watch.round(trouble.heal)
        driver.close()

        (ended,) = found()
        told = [(at, one) for at, one in watch.told if one.number == ended.number]
        assert [one.number for one in begun] == [ended.number]
        assert [one.until is None for _, one in told] == [True, False]
        assert told[1] == (ended.until, ended)
        assert threshold.lasting <= told[0][0] - ended.since < threshold.lasting + 2 * ROUND
        assert ended.measured > threshold.value == ended.limit
        assert ended.severity == threshold.severity
        assert trouble.subject in ended.message
        assert alerts_of(monitor, watch.healthy) == []


@pytest.mark.parametrize("name", ["failures", "outage", "rejections", "retries", "slow"])
def test_few_calls_alert_nobody(driver: Driver, name: str) -> None:
    """What less than `min_calls` calls did in a minute says nothing, however bad it is."""
    trouble = TROUBLES[name](driver)
    with monitoring() as monitor:
        for _ in range(10):
            trouble.hurt()
            driver.clock.advance(600.0)
            monitor.sample()
        assert [one for one in alerts_of(monitor, trouble.subject) if one.threshold == name] == []


def test_trouble_that_does_not_last_alerts_nobody(driver: Driver) -> None:
    """A threshold with `lasting` that is passed for less is forgotten, and begins anew the next time."""
    trouble = outage(driver)
    threshold = Threshold(name="outage", measure="failure_rate", value=0.5, over=10.0, lasting=30.0)
    with monitoring(thresholds=[threshold]) as monitor:
        watch = Watch(monitor, driver)
        for _ in range(4):
            for _ in range(3):
                watch.round(trouble.hurt)
            watch.round(trouble.heal)
        assert monitor.alerts() == []
        for _ in range(4):
            watch.round(trouble.hurt)
        assert [one.threshold for one in monitor.alerts(active=True)] == ["outage"]


def test_what_opens_and_closes_between_samples_is_seen(driver: Driver) -> None:
    """A breaker that was open for 6 s between two samples has its alert, and its states at the time they came."""
    breaker = consecutive(fresh("brief"), 3, open_for=5.0)
    call = driver.decorate(breaker, Script(fail(), fail(), fail(), succeed()))
    with monitoring() as monitor:
        monitor.sample()
        driver.clock.advance(2.0)
        start = driver.clock.time()
        driver.outcomes(3, call)
        driver.clock.advance(6.0)
        driver.outcomes(3, call)
        assert breaker.state is CircuitState.CLOSED
        driver.clock.advance(2.0)
        monitor.sample()

        (alert,) = alerts_of(monitor, breaker.name, active=True)
        assert (alert.threshold, alert.subject, alert.measured) == ("circuit_open", breaker.name, 6.0)
        assert monitor.states(breaker.name) == [
            (start - 2.0, "closed"),
            (start, "open"),
            (start + 6.0, "half-open"),
            (start + 6.0, "closed"),
        ]
        driver.clock.advance(10.0)
        monitor.sample()
        assert alerts_of(monitor, breaker.name, active=True) == []


def test_a_breaker_that_opens_again_and_again_stays_open(driver: Driver) -> None:
    """Half-open is no recovery: the time since the first opening counts, through every probe that fails."""
    breaker = consecutive(fresh("down"), 1, open_for=20.0, open_cap=20.0)
    call = driver.decorate(breaker, Script(fail()))
    with monitoring() as monitor, EventRecorder(names=frozenset({breaker.name})) as recorder:
        for _ in range(9):
            driver.outcomes(1, call)
            driver.clock.advance(ROUND)
            monitor.sample()

        assert len(recorder.of(CircuitOpened)) > 2
        found = {one.threshold: one.measured for one in alerts_of(monitor, breaker.name, active=True)}
        assert found == {"circuit_open": 90.0, "circuit_stays_open": 90.0}


@pytest.mark.parametrize("state", ["isolated", "disabled", "shadow"])
def test_a_breaker_set_by_hand_is_not_open(driver: Driver, state: str) -> None:
    """Who isolates, disables or shadows a breaker wants it so: no alert, but a state in the timeline."""
    breaker = CircuitBreaker(fresh("manual"))
    call = driver.decorate(breaker, Script(fail()))
    with monitoring() as monitor:
        monitor.sample()
        {"isolated": breaker.isolate, "disabled": breaker.disable, "shadow": breaker.shadow}[state]()
        driver.outcomes(30, call)
        driver.clock.advance(ROUND)
        monitor.sample()

        assert [at[1] for at in monitor.states(breaker.name)] == ["closed", state]
        assert alerts_of(monitor, breaker.name) == []


def test_a_breaker_that_is_gone_ends_its_alert(driver: Driver) -> None:
    """A breaker that nobody has any more is not open for ever."""
    trouble = breaking(driver)
    with monitoring() as monitor:
        trouble.hurt()
        driver.clock.advance(ROUND)
        monitor.sample()
        subject = trouble.subject
        assert [one.threshold for one in alerts_of(monitor, subject, active=True)] == ["circuit_open"]
        del trouble
        gc.collect()
        for _ in range(2):
            driver.clock.advance(ROUND)
            monitor.sample()
        assert alerts_of(monitor, subject, active=True) == []


def test_operations_do_not_mix(driver: Driver) -> None:
    """Each operation has the figures of its own calls, and its own alerts."""
    one, two = failing(driver, 6, name="one"), failing(driver, 0, name="two")
    with monitoring() as monitor:
        watch = Watch(monitor, driver)
        for _ in range(12):
            watch.round(lambda: (one.hurt(), two.hurt()))

        usage = {found.operation: found for found in monitor.usage(seconds=300)}
        assert (usage[one.subject].calls, usage[one.subject].failure_rate) == (120, 0.6)
        assert (usage[two.subject].calls, usage[two.subject].failure_rate) == (120, 0.0)
        assert (usage[watch.healthy].calls, usage[watch.healthy].success_rate) == (120, 1.0)
        assert {alert.threshold for alert in alerts_of(monitor, one.subject)} == {"failures", "outage"}
        assert alerts_of(monitor, two.subject) == alerts_of(monitor, watch.healthy) == []


def test_threads_and_tasks_are_counted_exactly(virtual_clock: VirtualClock) -> None:
    """Calls of threads and of tasks on several loops, and samples in between: nothing is lost or counted twice."""
    sync, asynchronous = fresh("threads"), fresh("tasks")

    @metered(sync)
    def work(at: int) -> int:
        return 1 // (at % 4)

    @metered(asynchronous)
    async def task(at: int) -> int:
        await asyncio.sleep(0)
        return 1 // (at % 5)

    def calls() -> None:
        for at in range(400):
            outcome_of(partial(work, at))()

    async def tasks() -> None:
        await asyncio.gather(*(task(at) for at in range(400)), return_exceptions=True)

    def loop() -> None:
        asyncio.run(tasks())

    with monitoring() as monitor:
        threads = [threading.Thread(target=one) for one in (calls, calls, loop, loop)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            monitor.sample()
        for thread in threads:
            thread.join()
        virtual_clock.advance(1.0)
        monitor.sample()

        usage = {found.operation: found for found in monitor.usage()}
        assert (usage[sync].successes, usage[sync].failures) == (600, 200)
        assert (usage[asynchronous].successes, usage[asynchronous].failures) == (640, 160)


def test_a_callback_that_raises_disturbs_nobody(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    """Who is told of alerts may raise: the others are told, monitoring goes on, and the log has it once."""
    trouble = breaking(driver)
    told: list[Alert] = []
    with monitoring() as monitor:
        monitor.sample()
        monitor.subscribe(broken)
        leave = monitor.subscribe(told.append)
        for act in (trouble.hurt, trouble.heal, trouble.heal, trouble.heal):
            act()
            driver.clock.advance(2 * ROUND)
            monitor.sample()
        leave()
        trouble.hurt()
        driver.clock.advance(ROUND)
        monitor.sample()

    mine = [one for one in told if one.subject == trouble.subject]
    assert [(one.threshold, one.until is None) for one in mine] == [
        ("circuit_open", True),
        ("circuit_open", False),
    ]
    assert [record.message for record in caplog.records if "told of an alert" in record.message] == [
        f"{broken!r} raised when it was told of an alert; monitoring goes on"
    ]
