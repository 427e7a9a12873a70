"""What counting costs: the same function without and with a meter, with durations, and with exporters on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks import ours, subjects, timed
from benchmarks.rows import OURS, Effort, Function, Row, Section, Target
from benchmarks.timed import Timed, made_async
from holdfast.infrastructure.resilience.meter import measure_durations, metered
from holdfast.infrastructure.resilience.registry import Registry

# The most that counters, and that an exporter, may add to a call: 60 ns and 1.2 µs where the pass-through takes 215.
_COUNTERS, _EXPORTED = 0.28, 5.6


@dataclass(frozen=True, kw_only=True)
class Switched(Timed):
    """A case during which something is switched on for every meter: it is measured by itself."""

    during: Callable[[], AbstractContextManager[object]] = nullcontext


def _metered(fn: Function) -> Function:
    wrapped: Function = metered("benchmark")(ours.calls(fn))
    return wrapped


def _by_name(fn: Function) -> Function:
    names = Registry()
    names.define("benchmark", *ours.pipeline().policies)
    wrapped: Function = names.resilient("benchmark")(fn)
    return wrapped


@contextmanager
def _durations() -> Generator[None]:
    end = measure_durations()
    try:
        yield
    finally:
        end()


@contextmanager
def _prometheus() -> Generator[None]:
    from holdfast.infrastructure.telemetry.prometheus import PrometheusExporter

    exporter = PrometheusExporter(Registry())
    try:
        yield
    finally:
        exporter.text()
        exporter.close()


@contextmanager
def _opentelemetry() -> Generator[None]:
    with _sdk(durations=True):
        yield


@contextmanager
def _sdk(*, durations: bool) -> Generator[None]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from holdfast.infrastructure.telemetry.opentelemetry import OpenTelemetryExporter

    reader = InMemoryMetricReader()
    exporter = OpenTelemetryExporter(Registry(), meter_provider=MeterProvider([reader]), durations=durations)
    try:
        yield
    finally:
        reader.get_metrics_data()
        exporter.close()


@contextmanager
def _sdk_without_durations() -> Generator[None]:
    with _sdk(durations=False):
        yield


@contextmanager
def _without_sdk() -> Generator[None]:
    from opentelemetry.metrics import NoOpMeterProvider

    from holdfast.infrastructure.telemetry.opentelemetry import OpenTelemetryExporter

    exporter = OpenTelemetryExporter(Registry(), meter_provider=NoOpMeterProvider())
    try:
        yield
    finally:
        exporter.close()


_SWITCHES: tuple[tuple[str, Callable[[], AbstractContextManager[object]], float | None], ...] = (
    ("counters", nullcontext, _COUNTERS),
    ("counters, durations", _durations, None),
    ("Prometheus", _prometheus, _EXPORTED),
    ("OTel, no SDK", _without_sdk, _COUNTERS),
    ("OTel, SDK, no durations", _sdk_without_durations, _COUNTERS),
    ("OTel, SDK", _opentelemetry, None),
)


def _case(what: str, decorate: Function, **more: Any) -> Switched:
    return Switched(library=OURS, what=what, decorate=decorate, **more)


def _base() -> Switched:
    return _case("retry + breaker, 100 calls", ours.calls)


def _cases() -> list[Timed]:
    made = [_case(what, _metered, during=during) for what, during, _ in _SWITCHES]
    return [_base(), *made, _case("counters, by name", _by_name)]


def _async_cases() -> list[Timed]:
    return [made_async(case, unit=subjects.async_pass_through) for case in _cases()[:-1]]


def _added() -> list[Timed]:
    aimed = [
        _case(what, _metered, during=during, target=None if limit is None else Target(limit))
        for what, during, limit in _SWITCHES
    ]
    late = [replace(case, what=f"{case.what}, async") for case in aimed]
    return [*aimed, *(made_async(case, unit=subjects.async_pass_through) for case in late)]


def _measure(name: str, cases: Sequence[Any], effort: Effort) -> list[Row]:
    rows: list[Row] = []
    for case in cases:
        try:
            with case.during():
                rows += timed.measure(name, [case], effort)
        except ImportError as error:
            rows.append(timed.absent(name, case, error))
    return rows


def _measure_added(cases: Sequence[Any], effort: Effort) -> list[Row]:
    """Measure each case side by side with the same function without a meter; what it adds is the difference."""
    rows: list[Row] = []
    for case in cases:
        base: Timed = _base()
        if case.is_async:
            base = made_async(base, unit=subjects.async_pass_through)
        try:
            with case.during():
                without, counted = timed.measure(_ADDS, [base, case], effort)
            rows.append(_difference(counted, without))
        except ImportError as error:
            rows.append(timed.absent(_ADDS, case, error))
    return rows


def _difference(more: Row, less: Row) -> Row:
    def minus(one: float | None, other: float | None) -> float | None:
        return None if one is None or other is None else one - other

    value, plain, ns = (minus(getattr(more, name), getattr(less, name)) for name in ("value", "plain", "ns"))
    return replace(more, value=value, plain=plain, ns=ns)


_ADDS = "telemetry-adds"
SECTIONS = [
    Section(
        "telemetry",
        "Sync call, what is counted; 1.0 = a pass-through wrapper",
        _cases,
        partial(_measure, "telemetry"),
    ),
    Section(
        "async-telemetry",
        "Async call, what is counted; 1.0 = an async pass-through wrapper",
        _async_cases,
        partial(_measure, "async-telemetry"),
    ),
    Section(
        _ADDS,
        "What counting adds to the call; 1.0 = a whole (async) pass-through wrapper",
        _added,
        _measure_added,
    ),
]
