"""The monitor: settings, samples, figures, levels, thresholds by hand, export, its thread, forks and bounds."""

import csv
import gc
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any

import pytest

from holdfast.infrastructure.resilience._bus import bus, emit
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.bulkhead import Bulkhead
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.clock import SYSTEM, current_clock, use_clock
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.resilience.fallback import Fallback
from holdfast.infrastructure.resilience.meter import Meter, measure_durations, metered
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.rate_limit import RateLimit
from holdfast.infrastructure.resilience.registry import Registry
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.throttle import Throttle
from holdfast.infrastructure.telemetry import _measures
from holdfast.infrastructure.telemetry import monitor as module
from holdfast.infrastructure.telemetry._deltas import BOUNDS
from holdfast.infrastructure.telemetry._export import COLUMNS
from holdfast.infrastructure.telemetry._levels import Levels
from holdfast.infrastructure.telemetry._timelines import Timelines
from holdfast.infrastructure.telemetry.inventory import PolicyState, inventory
from holdfast.infrastructure.telemetry.monitor import MEASURES, THRESHOLDS, Alert, Monitor, Threshold, Usage
from holdfast.testing import Script, VirtualClock, fail, succeed

Call = Callable[..., Any]


@pytest.fixture
def monitor(virtual_clock: VirtualClock) -> Iterator[Monitor]:
    made = Monitor(Registry(), max_operations=50)
    yield made
    made.close()


@pytest.fixture(scope="module", autouse=True)
def nothing_was_left() -> None:
    """Forget the operations of other tests that are garbage: they count as long as they are there."""
    gc.collect()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = bus.entries
    yield
    assert bus.entries == before
    assert [one.name for one in threading.enumerate() if one.name == "holdfast-monitor"] == []


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    node: pytest.Item = request.node
    return node.name


def operation(name: str, *policies: Any) -> Call:
    """Return a function that takes some time and then fails or not, metered under `name`."""

    def work(took: float = 0.0, *, bad: bool = False) -> str:
        current_clock().sleep(took)
        if bad:
            raise ConnectionError("bad")
        return "ok"

    call: Call = work
    for policy in reversed((metered(name), *policies)):
        call = policy(call)
    return call


def fails(call: Call, *args: Any) -> None:
    with pytest.raises(ConnectionError):
        call(*args, bad=True)


def usage(monitor: Monitor, name: str, **settings: Any) -> Usage:
    return next(one for one in monitor.usage(**settings) if one.operation == name)


def alerts_of(monitor: Monitor, subject: str, **settings: Any) -> list[Alert]:
    return [one for one in monitor.alerts(**settings) if one.subject == subject]


# Settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"interval": 0}, "interval"),
        ({"interval": float("nan")}, "interval"),
        ({"keep": 0}, "keep"),
        ({"keep": 1.5}, "keep"),
        ({"max_operations": 0}, "max_operations"),
        ({"clock": 7}, "clock"),
        ({"registry": {}}, "registry"),
        ({"thresholds": ["slow"]}, r"thresholds\[0\]"),
        ({"thresholds": [THRESHOLDS[0], THRESHOLDS[0]]}, r"thresholds\[1\]"),
    ],
)
def test_settings_have_ranges(settings: dict[str, Any], said: str) -> None:
    """What is out of range is refused by name, before anything is subscribed."""
    with pytest.raises(ConfigurationError, match=said):
        Monitor(**settings)


def threshold(**settings: Any) -> Threshold:
    usual: dict[str, Any] = {"name": "x", "measure": "failure_rate", "value": 0.5}
    return Threshold(**usual | settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": ""}, "name"),
        ({"measure": "luck"}, "measure"),
        ({"value": float("inf")}, "value"),
        ({"value": "much"}, "value"),
        ({"below": 1}, "below"),
        ({"over": 0}, "over"),
        ({"lasting": -1}, "lasting"),
        ({"severity": "bad"}, "severity"),
        ({"min_calls": -1}, "min_calls"),
        ({"measure": "open_seconds", "min_calls": 5}, "min_calls"),
    ],
)
def test_a_threshold_is_validated(settings: dict[str, Any], said: str) -> None:
    """Each fault of a threshold is named."""
    with pytest.raises(ConfigurationError) as caught:
        threshold(**settings)
    assert [fault.path for fault in caught.value.faults] == [said]


def test_all_faults_of_a_threshold_come_at_once() -> None:
    """Three faults are three faults of one error."""
    with pytest.raises(ConfigurationError) as caught:
        Threshold(name="", measure="luck", value=0.5, severity="bad")
    assert [fault.path for fault in caught.value.faults] == ["name", "measure", "severity"]


def test_the_measures_are_those_that_are_measured() -> None:
    """`MEASURES` names every measure there is, and no other."""
    from holdfast.infrastructure.telemetry import _levels

    others = {"open_seconds", "abandoned_workers"}
    assert set(MEASURES) == {*_measures.OPERATION, *_measures.COUNTED, *_levels.MEASURES.values(), *others}


def docs() -> str:
    return (Path(__file__).parents[3] / "docs" / "monitoring.md").read_text(encoding="utf-8")


def test_the_table_of_thresholds_is_true() -> None:
    """docs/monitoring.md shows each default threshold as it is, in order; what is not in the table is as usual."""
    shown = re.findall(
        r"^\| `(\w+)` \| `(\w+)` \| ([\d.]+) \| (\d+) \| (\d+) \| (\w+) \|$", docs(), re.MULTILINE
    )

    assert [
        Threshold(
            name=name,
            measure=measure,
            value=float(value),
            lasting=float(lasting),
            min_calls=int(calls),
            severity=severity,
        )
        for name, measure, value, lasting, calls, severity in shown
    ] == list(THRESHOLDS)


def test_the_table_of_measures_is_true() -> None:
    """docs/monitoring.md says of each measure what `MEASURES` says."""
    assert dict(re.findall(r"^\| `(\w+)` \| ([^|`]+) \|$", docs(), re.MULTILINE)) == MEASURES


# Figures


def test_usage_is_what_was_called_since_the_monitor_was_made(virtual_clock: VirtualClock, name: str) -> None:
    """Calls from before do not count; counts, rates and the time covered are exact."""
    call = operation(name, Retry(2, wait=0.0))
    for _ in range(7):
        call()
    monitor = Monitor(Registry())
    for _ in range(6):
        call()
    for _ in range(2):
        fails(call)
    virtual_clock.advance(4.0)
    monitor.sample()
    monitor.close()

    found = usage(monitor, name)
    assert found.as_dict() | {"p50": 0, "p95": 0, "p99": 0} == {
        "operation": name,
        "seconds": 4.0,
        "calls": 8,
        "successes": 6,
        "failures": 2,
        "rejections": 0,
        "cancelled": 0,
        "degraded": 0,
        "calls_per_second": 2.0,
        "success_rate": 0.75,
        "failure_rate": 0.25,
        "rejection_rate": 0.0,
        "degraded_rate": 0.0,
        "retry_rate": 0.2,
        "retries": {"1": 2},
        "p50": 0,
        "p95": 0,
        "p99": 0,
    }


def test_an_operation_that_did_nothing_has_no_rates(monitor: Monitor, name: str) -> None:
    """Of no calls there are no shares and no percentiles, but the operation is there."""
    call = operation(name)
    monitor.sample()
    found = usage(monitor, name)

    assert found.calls == 0
    assert found.calls_per_second == 0.0
    rates = (
        found.success_rate,
        found.failure_rate,
        found.rejection_rate,
        found.degraded_rate,
        found.retry_rate,
        found.p50,
        found.p99,
    )
    assert rates == (None,) * 7
    del call


def test_answers_of_fallbacks_are_a_share_of_calls(monitor: Monitor, name: str) -> None:
    """A call that a fallback answered is a success and degraded, in usage, trends and export."""
    call = Pipeline(Meter(name), Fallback(0))(Script(*[fail()] * 3, succeed()).function())
    for _ in range(4):
        call()
    monitor.sample()
    found = usage(monitor, name)

    assert (found.successes, found.failures, found.degraded, found.degraded_rate) == (4, 0, 3, 0.75)
    assert [point["degraded"] for point in monitor.trends(name)] == [3]
    row, *_ = [one for one in csv.DictReader(io.StringIO(monitor.export("csv"))) if one["name"] == name]
    assert (row["successes"], row["degraded"], row["degraded_rate"]) == ("4", "3", "0.75")


def test_cancelled_calls_are_in_no_share(monitor: Monitor, name: str) -> None:
    """Calls that ended by an interrupt count as calls, and not in success, failure or rejection rate."""

    @metered(name)
    def work(error: BaseException | None = None) -> None:
        if error is not None:
            raise error

    work()
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            work(KeyboardInterrupt())
    monitor.sample()

    found = usage(monitor, name)
    assert (found.calls, found.cancelled, found.success_rate) == (4, 3, 1.0)


def test_percentiles_are_interpolated_in_their_bucket(
    monitor: Monitor, virtual_clock: VirtualClock, name: str
) -> None:
    """Of 100 calls from 0.5 s to 1 s the percentile lies as far in the bucket as its rank."""
    call = operation(name)
    for _ in range(100):
        call(0.75)
    monitor.sample()

    found = usage(monitor, name)
    assert (found.p50, found.p95, found.p99) == pytest.approx((0.75, 0.975, 0.995))


@pytest.mark.parametrize(
    ("took", "expected"),
    [
        (0.0, 0.0005),
        (0.0005, 0.0005),
        (0.001, 0.0005),
        (0.0011, 0.00175),
        (60.0, 45.0),
        (61.0, 60.0),
        (9e9, 60.0),
    ],
)
def test_the_ends_of_the_buckets(monitor: Monitor, name: str, took: float, expected: float) -> None:
    """A bucket has its upper bound; the first begins at 0, and of the last only its beginning is known."""
    call = operation(name)
    call(took)
    monitor.sample()

    assert usage(monitor, name, seconds=1e11).p50 == pytest.approx(expected)


def test_a_window_has_the_samples_of_its_seconds(
    monitor: Monitor, virtual_clock: VirtualClock, name: str
) -> None:
    """Older samples are left out; `seconds` is what the samples cover."""
    call = operation(name)
    for _ in range(5):
        call()
        virtual_clock.advance(10.0)
        monitor.sample()

    assert (usage(monitor, name, seconds=20).calls, usage(monitor, name, seconds=20).seconds) == (2, 20.0)
    assert usage(monitor, name, seconds=1000).calls == 5
    virtual_clock.advance(500.0)
    assert usage(monitor, name).calls == 0


def test_old_samples_are_forgotten(virtual_clock: VirtualClock, name: str) -> None:
    """The monitor keeps `keep` samples."""
    monitor, call = Monitor(Registry(), keep=3), operation(name)
    for _ in range(8):
        call()
        virtual_clock.advance(1.0)
        monitor.sample()
    monitor.close()

    assert usage(monitor, name).calls == 3


@pytest.mark.parametrize("reset", ["reset", "again"])
def test_a_meter_that_begins_anew_gives_no_negative_rate(
    monitor: Monitor, virtual_clock: VirtualClock, name: str, reset: str
) -> None:
    """After a reset, or when a new meter has the name, what it shows counts from nothing."""
    call = operation(name)
    for _ in range(5):
        fails(call)
    monitor.sample()
    if reset == "reset":
        Meter(name).reset()
        calls = 3
    else:
        del call
        gc.collect()
        call = operation(name)
        calls = 9  # more than before: only who looks at the meter itself sees that it is another
    call = operation(name)
    for _ in range(calls):
        call()
    virtual_clock.advance(10.0)
    monitor.sample()

    found = usage(monitor, name, seconds=10)
    assert (found.calls, found.failures, found.success_rate) == (calls, 0, 1.0)


def test_beyond_the_most_operations_the_rest_is_other(virtual_clock: VirtualClock, name: str) -> None:
    """Three operations of five have figures of their own, the other two are summed; a place is taken by activity."""
    calls = {f"{name} {at}": operation(f"{name} {at}") for at in range(5)}
    monitor = Monitor(Registry(), max_operations=3, keep=2)
    for call in calls.values():
        call()
        call()
    monitor.sample()

    found = {one.operation: one.calls for one in monitor.usage() if one.calls}
    assert found == {f"{name} 0": 2, f"{name} 1": 2, f"{name} 2": 2, "other": 4}
    # Who did nothing in any sample that is kept gives its place away.
    for _ in range(3):
        monitor.sample()
    calls[f"{name} 4"]()
    monitor.sample()
    monitor.close()
    assert {one.operation: one.calls for one in monitor.usage() if one.calls} == {f"{name} 4": 1}


def test_trends_are_slots_of_equal_length(monitor: Monitor, virtual_clock: VirtualClock, name: str) -> None:
    """Each point sums the samples of its slot; a slot without a sample has no point; the oldest comes first."""
    call = operation(name)
    for calls in (1, 2, 0, 4, 5):
        for _ in range(calls):
            call()
        virtual_clock.advance(10.0)
        if calls:
            monitor.sample()
    now = virtual_clock.time()

    points = monitor.trends(name, seconds=100, points=10)
    assert [(now - one["at"], one["calls"], one["seconds"]) for one in points] == [
        (40.0, 1, 10.0),
        (30.0, 2, 10.0),
        (10.0, 4, 20.0),
        (0.0, 5, 10.0),
    ]
    assert [one["calls"] for one in monitor.trends(name, seconds=100, points=1)][-1] == sum((1, 2, 4, 5))
    assert [one["calls"] for one in monitor.trends(seconds=100, points=10)] == [1, 2, 4, 5]
    assert monitor.trends("nobody") == []


@pytest.mark.parametrize("settings", [{"seconds": 0}, {"points": 0}, {"seconds": float("nan")}])
def test_trends_of_no_time_are_refused(monitor: Monitor, settings: dict[str, Any]) -> None:
    """Seconds and points are above 0."""
    with pytest.raises(ValueError, match=next(iter(settings))):
        monitor.trends(**settings)


def test_a_clock_that_was_exchanged_loses_only_history(name: str) -> None:
    """When monotonic time goes back, as between clocks, the monitor begins anew, without negative times."""
    with use_clock(VirtualClock(start=5000.0)):
        monitor, call = Monitor(Registry()), operation(name)
        call()
        monitor.sample()
    clock = VirtualClock(start=10.0)
    with use_clock(clock):
        call()
        clock.advance(1.0)
        monitor.sample()
        found = usage(monitor, name)
        assert (found.calls, found.seconds) == (1, 0.0)
    monitor.close()


# Levels and states


def test_levels_say_how_full_limits_are(monitor: Monitor, virtual_clock: VirtualClock, name: str) -> None:
    """Places taken, burst used up, tokens left and chance of refusal, now and over the samples."""
    bulkhead, limit = Bulkhead(4, name=name), RateLimit(1, per=10.0, burst=5, name=name)
    budget, throttle = RetryBudget.grpc(name), Throttle(name=name)
    call = operation(name, throttle, limit, Retry(2, wait=0.0, budget=budget), bulkhead)
    with bulkhead:
        call()
        fails(call)
        monitor.sample()
    virtual_clock.advance(10.0)
    monitor.sample()

    levels = {one["kind"]: one for one in monitor.levels(seconds=100, points=10) if one["name"] == name}
    shown = {kind: (one["level"], one["lowest"], one["highest"]) for kind, one in levels.items()}
    assert shown == {
        "bulkhead": (0.0, 0.0, 0.25),
        "rate_limit": (pytest.approx(0.2), pytest.approx(0.2), pytest.approx(0.4)),
        "retry_budget": (8.0, 8.0, 8.0),
        "throttle": (0.0, 0.0, 0.0),
    }
    assert levels["bulkhead"]["points"] == [
        (virtual_clock.time() - 10.0, 0.25),
        (virtual_clock.time(), 0.0),
    ]


def test_a_limit_that_refused_between_samples_was_full(monitor: Monitor, name: str) -> None:
    """A bulkhead that is empty at both samples, and refused between them, was full."""
    bulkhead = Bulkhead(1, name=name)
    call = operation(name, bulkhead)
    monitor.sample()
    with bulkhead, pytest.raises(Exception, match=name):
        call()
    monitor.sample()

    (level,) = [one for one in monitor.levels() if one["name"] == name]
    assert (level["kind"], level["level"]) == ("bulkhead", 1.0)


def full(name: str, running: int) -> PolicyState:
    return PolicyState(
        name=name, kind="bulkhead", operations=(), facts={"limit": 4, "running": running, "rejected": 0}
    )


def test_levels_beyond_the_most_are_other() -> None:
    """The fullest limits have levels of their own; the rest shows its worst as `other`."""
    found = Levels(2).look([full("a", 0), full("b", 2), full("c", 3), full("d", 1)])

    assert found == {("bulkhead", "b"): 0.5, ("bulkhead", "c"): 0.75, ("bulkhead", "other"): 0.25}


def test_of_budgets_those_with_the_fewest_tokens_are_shown() -> None:
    """A level of tokens is worse the lower it is."""
    budgets = [
        PolicyState(name=name, kind="retry_budget", operations=(), facts={"tokens": tokens})
        for name, tokens in {"a": 5.0, "b": 1.0, "c": 3.0}.items()
    ]
    assert Levels(1).look(budgets) == {("retry_budget", "b"): 1.0, ("retry_budget", "other"): 3.0}


@pytest.mark.parametrize(
    ("kind", "facts", "expected"),
    [
        ("rate_limits", {"burst": 4, "available": {"a": 3, "b": 1}}, 0.75),
        ("rate_limits", {"burst": 4, "available": {}}, 0.0),
        ("rate_limit", {"burst": 4, "available": 9}, 0.0),
        ("shared_rate_limit", {"burst": 4}, 0.0),
        ("concurrency_limit", {"limit": 4, "running": 9}, 1.0),
        ("throttle", {"rejection_probability": 0.3}, 0.3),
    ],
)
def test_levels_of_each_kind(kind: str, facts: dict[str, Any], expected: float) -> None:
    """A family is as full as its fullest key; nothing is below 0 or above 1; what is shared is not asked for."""
    state = PolicyState(name="x", kind=kind, operations=(), facts={"rejected": 0, **facts})
    assert Levels(9).look([state]) == {(kind, "x"): pytest.approx(expected)}


def test_a_throttle_that_refuses_is_not_full() -> None:
    """It refuses by chance, long before there is nothing left."""
    levels = Levels(9)
    for refused in (0, 5):
        facts = {"rejection_probability": 0.3, "rejected": refused}
        state = PolicyState(name="x", kind="throttle", operations=(), facts=facts)
        assert levels.look([state]) == {("throttle", "x"): 0.3}


def test_states_begin_with_the_one_that_was(monitor: Monitor, virtual_clock: VirtualClock, name: str) -> None:
    """Within a window the first state is the one in which the breaker was when it began."""
    breaker = CircuitBreaker(name)
    call = breaker(operation(name))
    monitor.sample()
    start = virtual_clock.time()
    for state in (breaker.isolate, breaker.release, breaker.disable):
        virtual_clock.advance(100.0)
        state()

    assert monitor.states(name) == [
        (start, "closed"),
        (start + 100, "isolated"),
        (start + 200, "closed"),
        (start + 300, "disabled"),
    ]
    assert monitor.states(name, seconds=150) == [
        (start + 100, "isolated"),
        (start + 200, "closed"),
        (start + 300, "disabled"),
    ]
    assert monitor.states("nobody") == []
    del call


def test_states_are_bounded(monitor: Monitor, virtual_clock: VirtualClock, name: str) -> None:
    """The last 200 states of a breaker are kept."""
    for _ in range(150):
        virtual_clock.advance(1.0)
        emit("CircuitHalfOpened", name)
        emit("CircuitClosed", name)

    assert len(monitor.states(name)) == 200


def test_a_breaker_that_only_would_have_opened_is_in_shadow(monitor: Monitor, name: str) -> None:
    """In shadow mode an opening is told, and is no state."""
    emit("CircuitOverridden", name, state="shadow")
    emit("CircuitOpened", name, open_for=5.0, reason="x", calls=1, failures=1, slow=0, shadow=True)

    assert [state for _, state in monitor.states(name)] == ["shadow"]


def opened(name: str) -> None:
    emit("CircuitOpened", name, open_for=5.0, reason="x", calls=1, failures=1, slow=0, shadow=False)


def test_a_breaker_that_nobody_hears_of_is_gone(
    monitor: Monitor, virtual_clock: VirtualClock, name: str
) -> None:
    """One that is known by its events alone, as in a `with` block, ends its alert after ten silent minutes."""
    opened(name)
    virtual_clock.advance(590.0)
    monitor.sample()
    assert len(alerts_of(monitor, name, active=True)) == 2
    virtual_clock.advance(20.0)
    monitor.sample()
    assert alerts_of(monitor, name, active=True) == []


def test_open_breakers_take_the_places_of_closed_ones() -> None:
    """When there are more breakers than places, those that are open are seen; beyond that they are `other`."""
    lines, listed = Timelines(3), dict.fromkeys("abcdef", "closed")

    def look(now: float, *opened: str) -> dict[str, float]:
        listed.update(dict.fromkeys(opened, "open"))
        lines.reconcile(listed, lines.versions(), now, now)
        return {name: seconds for name, seconds in lines.open_seconds(now).items() if seconds}

    assert look(1.0) == {}
    assert lines.names() == ["a", "b", "c"]
    lines.become("d", "open", 2.0, 2.0)
    assert look(5.0, "d", "e") == {"d": 3.0, "e": pytest.approx(1e-6)}
    assert look(6.0, "b", "f") == {"d": 4.0, "e": 1.0, "b": pytest.approx(1e-6), "other": pytest.approx(1e-6)}
    assert look(9.0) == {"d": 7.0, "e": 4.0, "b": 3.0, "other": 3.0}
    listed["f"] = "closed"
    assert look(10.0) == {"d": 8.0, "e": 5.0, "b": 4.0}


def test_an_event_knows_better_than_a_state_read_before_it() -> None:
    """A breaker that changes while states are read is not set back to what was read."""
    lines = Timelines(3)
    lines.become("a", "closed", 1.0, 1.0)
    versions = lines.versions()
    lines.become("a", "open", 2.0, 2.0)
    lines.reconcile({"a": "closed"}, versions, 3.0, 3.0)

    assert lines.states("a", 0.0) == [(1.0, "closed"), (2.0, "open")]


def test_of_two_breakers_of_one_name_the_open_one_counts(virtual_clock: VirtualClock, name: str) -> None:
    """A closed breaker does not hide an open one of the same name."""
    one, two = CircuitBreaker(name), CircuitBreaker(name)
    calls = one(operation(name)), two(operation(name))
    one.open()
    monitor = Monitor(Registry())
    for _ in range(2):
        virtual_clock.advance(1.0)
        monitor.sample()
    monitor.close()

    assert {alert.subject for alert in monitor.alerts(active=True)} >= {name}
    del calls


# Thresholds by hand


def test_a_threshold_may_be_below(virtual_clock: VirtualClock, name: str) -> None:
    """With `below` the alert begins under the value; `measured` is the lowest."""
    quiet = Threshold(
        name="quiet", measure="calls_per_second", value=1.0, below=True, over=10.0, severity="info"
    )
    monitor, call = Monitor(Registry(), thresholds=[quiet]), operation(name)
    measured: list[list[tuple[float, bool]]] = []
    for calls in (20, 8, 4, 6, 20):
        for _ in range(calls):
            call()
        virtual_clock.advance(10.0)
        monitor.sample()
        measured.append([(one.measured, one.until is None) for one in alerts_of(monitor, name)])
    monitor.close()

    assert measured == [[], [(0.8, True)], [(0.4, True)], [(0.4, True)], [(0.4, False)]]
    assert alerts_of(monitor, name)[0].message == f"{name}: calls per second 0.4 is below 1"


def test_a_value_that_is_just_met_is_not_passed(virtual_clock: VirtualClock, name: str) -> None:
    """Above means above: half of the calls failing does not pass 0.5."""
    half = Threshold(name="half", measure="failure_rate", value=0.5)
    monitor, call = Monitor(Registry(), thresholds=[half]), operation(name)
    call()
    fails(call)
    monitor.sample()
    assert monitor.alerts() == []
    fails(call)
    monitor.sample()
    monitor.close()

    assert [one.measured for one in monitor.alerts()] == [2 / 3]


@pytest.mark.parametrize("measure", ["success_rate", "degraded_rate", "timeout_rate", "p50", "p99"])
def test_any_measure_may_be_watched(virtual_clock: VirtualClock, name: str, measure: str) -> None:
    """Measures that no default threshold uses are measured as well."""
    watched = threshold(measure=measure, value=-1.0)
    monitor, call = Monitor(Registry(), thresholds=[watched]), operation(name)
    call(0.75)
    monitor.sample()
    monitor.close()

    expected = {"success_rate": 1.0, "degraded_rate": 0.0, "timeout_rate": 0.0, "p50": 0.75, "p99": 0.995}
    assert [one.measured for one in alerts_of(monitor, name)] == [pytest.approx(expected[measure])]


def test_alerts_are_numbered_newest_first_and_bounded(virtual_clock: VirtualClock, name: str) -> None:
    """Numbers rise with each alert; the last 1,000 that ended are kept, and `limit` cuts."""
    failing = Threshold(name="failing", measure="callback_failures", value=0.0, over=1.0)
    monitor = Monitor(Registry(), thresholds=[failing])
    for _ in range(21):
        for at in range(49):
            emit("CallbackFailed", f"{name} {at}", callback="x", error=ValueError("x"))
        monitor.sample()
        virtual_clock.advance(2.0)
        monitor.sample()
    monitor.close()
    alerts = monitor.alerts(limit=5000)

    assert [one.number for one in alerts] == list(range(21 * 49, 21 * 49 - 1000, -1))
    assert monitor.alerts(limit=3) == alerts[:3]
    assert monitor.alerts(active=True) == monitor.alerts(limit=0) == monitor.alerts(limit=-1) == []
    assert monitor.alerts(active=False, limit=2) == alerts[:2]


def test_subjects_of_counted_events_are_bounded(monitor: Monitor, name: str) -> None:
    """Beyond `max_operations` names of events in one sample the rest is `other`."""
    for at in range(500):
        emit("BudgetExhausted", name, budget=f"{name} {at}")
    monitor.sample()

    alerts = [one for one in monitor.alerts(limit=1000) if one.threshold == "retry_budget_empty"]
    found = {one.subject: one.measured for one in alerts}
    assert len(found) == 51
    assert found["other"] == 450


@pytest.mark.parametrize("callback", [None, 7])
def test_a_callback_is_a_function(monitor: Monitor, callback: Any) -> None:
    """What cannot be called is refused at once."""
    with pytest.raises(ConfigurationError, match="callback"):
        monitor.subscribe(callback)


def test_a_callback_is_not_async(monitor: Monitor) -> None:
    """Nobody would await it."""

    async def callback(alert: Alert) -> None: ...

    with pytest.raises(ConfigurationError, match="async"):
        monitor.subscribe(callback)


def test_a_callback_may_ask_and_leave(monitor: Monitor, virtual_clock: VirtualClock, name: str) -> None:
    """It is called outside every lock: it may read, sample, and end itself."""
    seen: list[int] = []

    def callback(alert: Alert) -> None:
        worker = threading.Thread(target=lambda: seen.append(len(alerts_of(monitor, name))))
        worker.start()
        worker.join()
        leave()
        monitor.sample()

    leave = monitor.subscribe(callback)
    opened(name)
    virtual_clock.advance(1.0)
    monitor.sample()

    assert seen == [1]


# Export

AWKWARD = ['comma, "quote"', "two\nlines", "two\r\nlines", "größer ✓", "semi;colon", " space ", "tab\tin"]
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", "\uff1d1"]


def exported(virtual_clock: VirtualClock, *names: str) -> Monitor:
    monitor = Monitor(Registry())
    breakers = [CircuitBreaker(one) for one in names]
    calls = [operation(breaker.name, breaker) for breaker in breakers]
    monitor.sample()
    for call in calls:
        call(0.5)
    for breaker in breakers:
        breaker.open()
    virtual_clock.advance(10.0)
    monitor.sample()
    monitor.close()
    for breaker in breakers:
        breaker.close()  # as long as it is not collected, other tests see it
    return monitor


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_csv_has_its_columns_in_order(monitor: Monitor) -> None:
    """The header is `COLUMNS`, lines end with CR LF, and every row is as long."""
    text = monitor.export("csv")
    lines = list(csv.reader(io.StringIO(text, newline="")))

    assert text.startswith(",".join(COLUMNS) + "\r\n")
    assert COLUMNS[:6] == ("record", "name", "kind", "at", "until", "seconds")
    assert {len(line) for line in lines} == {len(COLUMNS)}


@pytest.mark.parametrize("awkward", AWKWARD)
def test_names_survive_csv(virtual_clock: VirtualClock, awkward: str) -> None:
    """Commas, quotes and line ends of a name come out of the csv module as they went in."""
    found = rows(exported(virtual_clock, awkward).export("csv"))

    assert {row["record"] for row in found if row["name"] == awkward} == {
        "operation",
        "trend",
        "state",
        "alert",
    }


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_cell_begins_like_a_formula(virtual_clock: VirtualClock, formula: str) -> None:
    """A name that a spreadsheet would run begins with an apostrophe, in every cell that shows it."""
    found = rows(exported(virtual_clock, formula).export("csv"))

    assert {row["record"] for row in found if row["name"] == f"'{formula}"} == {
        "operation",
        "trend",
        "state",
        "alert",
    }
    cells = [cell for row in found for cell in row.values()]
    assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"))] == []
    assert any(cell.startswith(f"'{formula}: open seconds") for cell in cells)


def test_csv_says_what_the_monitor_says(virtual_clock: VirtualClock, name: str) -> None:
    """Each record has its figures in the columns of its own; the rest is empty."""
    monitor = exported(virtual_clock, name)
    found = {row["record"]: row for row in rows(monitor.export("csv")) if row["name"] == name}

    assert found["operation"]["calls"] == found["trend"]["calls"] == "1"
    assert found["operation"]["success_rate"] == "1.0"
    assert float(found["operation"]["p50"]) == usage(monitor, name).p50
    assert (found["state"]["state"], found["state"]["calls"]) == ("open", "")
    assert (found["alert"]["threshold"], found["alert"]["severity"]) == ("circuit_open", "warning")
    assert float(found["alert"]["measured"]) == 10.0


def test_json_says_what_the_monitor_says(virtual_clock: VirtualClock, name: str) -> None:
    """The JSON has everything by name, and no infinity."""
    monitor = exported(virtual_clock, name)
    found = json.loads(monitor.export("json"))

    assert set(found) == {"at", "seconds", "operations", "trends", "states", "levels", "alerts"}
    assert found["operations"] == json.loads(
        json.dumps([one.as_dict() for one in monitor.usage(seconds=3600)])
    )
    assert found["trends"][name] == monitor.trends(name)
    assert found["states"][name] == [list(one) for one in monitor.states(name)]
    assert found["alerts"] == [one.as_dict() for one in monitor.alerts()]
    assert monitor.export() == monitor.export("json")


def test_lone_surrogates_can_be_exported(virtual_clock: VirtualClock) -> None:
    """A name that is no Unicode text is written as far as it can be."""
    monitor = exported(virtual_clock, "x\ud800")

    assert {
        row["record"] for row in rows(monitor.export("csv").encode().decode()) if row["name"] == "x?"
    } == {
        "operation",
        "trend",
        "state",
        "alert",
    }
    assert "x\ud800" in {alert["subject"] for alert in json.loads(monitor.export().encode())["alerts"]}


@pytest.mark.parametrize("other", ["xml", "", "JSON"])
def test_another_format_is_refused(monitor: Monitor, other: str) -> None:
    """There are two formats."""
    with pytest.raises(ValueError, match="give 'json' or 'csv'"):
        monitor.export(other)


# The thread


def wait_for(condition: Callable[[], object]) -> None:
    limit = SYSTEM.monotonic() + 5.0
    while not condition():
        assert SYSTEM.monotonic() < limit, "it did not come to that"
        SYSTEM.sleep(0.001)


def test_the_thread_samples_and_closes_promptly(name: str) -> None:
    """Started twice, one daemon thread samples every interval; closing an idle one takes no interval."""
    monitor, call = Monitor(Registry(), interval=0.002), operation(name)
    monitor.start()
    monitor.start()
    threads = [one for one in threading.enumerate() if one.name == "holdfast-monitor"]
    call()
    wait_for(lambda: any(one.calls for one in monitor.usage() if one.operation == name))
    monitor.close()
    monitor.close()

    assert [one.daemon for one in threads] == [True]
    assert not threads[0].is_alive()
    with pytest.raises(RuntimeError, match="make a new one"):
        monitor.start()

    slow = Monitor(Registry(), interval=60.0)
    slow.start()
    began = SYSTEM.monotonic()
    slow.close()
    assert SYSTEM.monotonic() - began < 20.0


def test_a_sample_that_fails_is_logged_and_the_next_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Failures in a row are logged once; what was called meanwhile is in the sample that works again."""
    attempts: list[int] = []

    def broken(registry: Registry) -> Any:
        attempts.append(1)
        if 1 < len(attempts) < 5:
            raise OSError("no inventory")
        return inventory(registry)

    monkeypatch.setattr(module, "inventory", broken)
    monitor, call = Monitor(Registry(), interval=0.002), operation(name)
    call()
    monitor.start()
    wait_for(lambda: any(one.calls for one in monitor.usage() if one.operation == name))
    monitor.close()

    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "a sample of the monitor failed; monitoring goes on"
    ]


def test_the_thread_does_not_move_a_clock_that_jumps(virtual_clock: VirtualClock, name: str) -> None:
    """Without a clock of its own it waits in real time, so that no test of minutes passes in its stead."""
    monitor, call = Monitor(Registry(), interval=0.002), operation(name)
    call()
    monitor.start()
    wait_for(lambda: any(one.calls for one in monitor.usage() if one.operation == name))
    monitor.close()

    assert virtual_clock.elapsed == 0


def test_the_thread_waits_on_the_clock_it_is_given(name: str) -> None:
    """With a clock of its own the time between samples is that clock's."""
    clock = VirtualClock()
    monitor = Monitor(Registry(), interval=60.0, clock=clock)
    monitor.start()
    wait_for(lambda: clock.elapsed >= 120.0)
    monitor.close()

    assert {one["seconds"] for one in monitor.trends(seconds=600, points=10)} == {60.0}


def test_a_closed_monitor_no_longer_lets_calls_be_timed(name: str) -> None:
    """Durations are measured from when it is made until it is closed."""
    before, monitor = Meter(name).snapshot().durations, Monitor(Registry())
    meter = Meter(name)
    assert set(meter.snapshot().durations) == {*BOUNDS, inf}
    monitor.close()
    assert meter.snapshot().durations == before == {}


def test_a_callback_may_close_the_monitor(name: str) -> None:
    """Closing from the sampling thread itself does not wait for it."""
    monitor, told = Monitor(Registry(), interval=0.002), threading.Event()

    def callback(alert: Alert) -> None:
        monitor.close()
        told.set()

    monitor.subscribe(callback)
    monitor.start()
    opened(name)
    assert told.wait(5.0)
    wait_for(lambda: all(one.name != "holdfast-monitor" for one in threading.enumerate()))


FORK = """
import os, threading, time
from holdfast.infrastructure.resilience.meter import metered
from holdfast.infrastructure.telemetry.monitor import Monitor

call = metered("x")(lambda: None)
monitor = Monitor(interval=0.005)
monitor.start()
call()
while not any(one.calls for one in monitor.usage()):
    time.sleep(0.001)
held, done = threading.Event(), threading.Event()

def hold():
    with monitor._lock, monitor._sampling:
        held.set()
        done.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if not child:
    calls = [one.calls for one in monitor.usage()]
    monitor.sample()
    call()
    call()
    monitor.start()
    limit = time.monotonic() + 5
    while sum(one.calls for one in monitor.usage()) != 2 and time.monotonic() < limit:
        time.sleep(0.001)
    found = sum(one.calls for one in monitor.usage())
    monitor.close()
    os._exit(0 if (sum(calls), found) == (0, 2) else 1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
done.set()
thread.join()
monitor.close()
raise SystemExit(code)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_monitors_itself() -> None:
    """A child forked while every lock is held begins without samples and thread, and can start its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_started_monitor_does_not_keep_the_process() -> None:
    """A process whose monitor nobody closed ends at once."""
    code = "from holdfast.infrastructure.telemetry.monitor import Monitor; Monitor(interval=60).start()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("step", ["inventory", "readings"])
def test_nobody_waits_for_a_sample(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch, name: str, step: str
) -> None:
    """While a sample looks around or judges, whoever reads gets an answer, and events go on."""
    looking, go_on = threading.Event(), threading.Event()
    place: Any = module if step == "inventory" else _measures
    real: Call = getattr(place, step)

    def slow(*args: Any) -> Any:
        looking.set()
        assert go_on.wait(5.0)
        return real(*args)

    monkeypatch.setattr(place, step, slow)
    thread = threading.Thread(target=monitor.sample)
    thread.start()
    assert looking.wait(5.0)
    monitor.usage()
    monitor.trends()
    monitor.alerts()
    monitor.export("csv")
    opened(name)
    assert thread.is_alive()
    go_on.set()
    thread.join()

    assert monitor.states(name)[-1][1] == "open"


def test_memory_does_not_grow(virtual_clock: VirtualClock, name: str) -> None:
    """With ever new operations, breakers and events, memory after 40 samples is what it was after 20."""
    monitor = Monitor(Registry(), keep=10, max_operations=10)

    def rounds(count: int, begin: int) -> None:
        for at in range(begin, begin + count):
            calls = [operation(f"{name} {at} {one}") for one in range(12)]
            for call in calls:
                call(0.5)
                opened(f"{name} {at} {calls.index(call)}")
                emit("CallbackFailed", f"{name} {at}", callback="x", error=ValueError("x"))
            monitor.sample()
        monitor.usage()

    tracemalloc.start()
    try:
        rounds(20, 0)
        before = tracemalloc.get_traced_memory()[0]
        rounds(20, 20)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        monitor.close()
    assert grown < 400_000


def test_the_bounds_are_those_of_the_meters(name: str) -> None:
    """The monitor asks for the buckets that meters count in by default: it adds none."""
    meter, end = Meter(name), measure_durations()
    bounds = tuple(meter.snapshot().durations)
    end()

    assert bounds == (*BOUNDS, inf)
