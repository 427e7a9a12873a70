"""The benchmarks: every row can be measured, and what is measured is what the row says."""

import asyncio
import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast import subscribe
from holdfast.infrastructure.resilience.events import Event

pytestmark = pytest.mark.one_python

ROOT = Path(__file__).resolve().parents[3]

line: Any = importlib.import_module("benchmarks.line")
ours: Any = importlib.import_module("benchmarks.ours")
rows: Any = importlib.import_module("benchmarks.rows")
subjects: Any = importlib.import_module("benchmarks.subjects")
timed: Any = importlib.import_module("benchmarks.timed")
timing: Any = importlib.import_module("benchmarks.timing")

# In an interpreter of its own, because peers change what others see. Left out: imports, which start one each, and
# threads of peers, which really wait for each other.
PROGRAM = """\
import json
from dataclasses import asdict
from benchmarks.__main__ import SECTIONS
from benchmarks.rows import Effort

effort = Effort(rounds=1, block=1e-6, runs=1, objects=3, processes=1)
made = []
for section in SECTIONS:
    cases = [case for case in section.cases() if section.name != "threads" or not case.is_late]
    if section.name != "import":
        made += [dict(asdict(row), missed=row.missed) for row in section.measure(cases, effort)]
print(json.dumps(made))
"""

TARGETS = {
    ("timeout", "full stack, 8 policies"): "≤ 2.43",
    ("policies", "bulkhead"): "≤ 2",
    ("policies", "rate limit"): "≤ 2",
    ("policies", "full stack, 8 policies"): "≤ 6",
    ("hedge", "hedge after 1 s"): "≤ 1.5",
    ("hedge", "hedge after p95"): "≤ 1.5",
    ("limiter", "async with"): "≥ 3",
    ("limiter", "decorator"): "≥ 3",
    ("telemetry-adds", "counters"): "≤ 0.28",
    ("telemetry-adds", "Prometheus"): "≤ 5.6",
    ("memory", "limiter key"): "≤ 120",
    ("memory", "limiter key, at its worst"): "≤ 120",
    ("memory", "quantile estimate"): "≤ 400",
}

ALONE = [
    "bulkhead",
    "rate_limit",
    "rate_limits",
    "throttle",
    "concurrency_limit",
    "sampled_limit",
    "fallback",
    "chaos",
    "stack",
    "hedge",
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def measured() -> list[dict[str, Any]]:
    done = run("-c", PROGRAM)
    assert done.returncode == 0, done.stderr
    made: list[dict[str, Any]] = json.loads(done.stdout)
    return made


def is_difference(row: dict[str, Any]) -> bool:
    return bool(row["unit"] == "µs" or row["section"] == "telemetry-adds")


def test_every_row_has_a_value_or_says_why(measured: list[dict[str, Any]]) -> None:
    """A row is measured, or names the peer that is not installed."""
    # One round can find that what takes longer took less: a difference may have either sign.
    unexplained = [
        row
        for row in measured
        if not (row["value"] is not None and (row["value"] > 0 or is_difference(row)))
        and "No module named" not in row["note"]
    ]
    assert unexplained == []


def test_only_a_missing_peer_keeps_our_rows_from_being_measured(measured: list[dict[str, Any]]) -> None:
    """Every row of holdfast's has a value, save those whose unit is a peer that is not installed."""
    empty = {row["section"] for row in measured if row["library"] == "holdfast" and row["value"] is None}
    assert empty <= {"limiter"}


@pytest.mark.parametrize(
    "what",
    [
        "bulkhead",
        "rate limit",
        "throttle",
        "concurrency limit",
        "fallback",
        "chaos, off",
        "cache hit",
        "full stack, 8 policies",
    ],
)
def test_every_policy_is_measured_alone_sync_and_async(measured: list[dict[str, Any]], what: str) -> None:
    """Each policy has a row of both kinds, and in both a figure for either column."""
    mine = [row for row in measured if row["library"] == "holdfast" and row["what"] == what]
    both = {row["section"]: row for row in mine if row["section"] in {"policies", "async-policies"}}
    assert len(both) == 2
    assert all(row["plain"] > 0 for row in both.values())


def test_the_targets_are_those_that_were_set() -> None:
    """Each target of the policies is in the table."""
    sections = importlib.import_module("benchmarks.__main__").SECTIONS
    cases = [(section.name, case) for section in sections for case in section.cases()]
    mine = {(name, case.what): case.target for name, case in cases if case.library == "holdfast"}
    assert {key: str(mine[key]) for key in TARGETS} == TARGETS


@pytest.mark.parametrize("what", ["limiter key, at its worst", "quantile estimate"])
def test_what_memory_there_is_does_not_depend_on_the_machine(
    measured: list[dict[str, Any]], what: str
) -> None:
    """The targets for memory are met wherever the tests run."""
    row = next(row for row in measured if row["section"] == "memory" and row["what"] == what)
    assert not row["missed"]


@pytest.mark.parametrize("subject", [subjects.fetch, subjects.afetch], ids=["sync", "async"])
@pytest.mark.parametrize("name", ALONE)
def test_nothing_is_refused_added_or_left_out(name: str, subject: Callable[..., Any]) -> None:
    """Each decorator makes every call exactly once, returns its result and tells nobody anything."""
    calls, events = count(ours.__dict__[name], subject)
    assert (calls, events) == (100, [])


@pytest.mark.parametrize("subject", [subjects.fetch, subjects.afetch], ids=["sync", "async"])
def test_a_cached_call_is_a_hit(subject: Callable[..., Any]) -> None:
    """After the first call the cache answers."""
    assert count(ours.cached, subject)[0] == 1


def count(decorate: Callable[..., Any], subject: Callable[..., Any]) -> tuple[int, list[Event]]:
    """Make a hundred calls; return how many came through, and the events but those of the first, cached one."""
    calls = 0

    def fetch(order_id: int, *, quantity: int = 1) -> int:
        nonlocal calls
        calls += 1
        return order_id + quantity

    async def afetch(order_id: int, *, quantity: int = 1) -> int:
        return fetch(order_id, quantity=quantity)

    events: list[Event] = []
    with subscribe(events.append):
        if inspect.iscoroutinefunction(subject):
            call = decorate(afetch)

            async def run_all() -> list[int]:
                return [await call(7, quantity=2) for _ in range(100)]

            results = asyncio.run(run_all())
        else:
            call = decorate(fetch)
            results = [call(7, quantity=2) for _ in range(100)]
    assert results == [9] * 100
    return calls, events


def test_the_full_stack_is_the_recommended_one() -> None:
    """It has eight policies, in an order that `explain` has nothing to say against."""
    stack = ours.stack_of("service")
    kinds = [type(policy).__name__ for policy in stack.policies]
    assert kinds == [
        "Fallback",
        "Timeout",
        "RateLimit",
        "Bulkhead",
        "Retry",
        "Throttle",
        "CircuitBreaker",
        "Timeout",
    ]
    assert list(stack.explain().warnings) == []


def test_a_rate_is_how_much_more_is_done_in_the_same_time() -> None:
    """What takes half of the unit's time does twice as many calls, at half of its cost."""
    pair = timing.Pair(None, None, [(2.0, 1.0), (2.0, 1.0)])
    cost = timed.mine("anything", ours.bulkhead)
    throughput = timed.mine("anything", ours.bulkhead, rate=True)
    assert (cost.row("any", [pair]).value, throughput.row("any", [pair]).value) == (0.5, 2.0)


def test_a_target_beside_a_missing_peer_is_missed() -> None:
    """A row with a target that cannot be measured counts as missed, and says why."""

    def missing(fn: Callable[..., Any]) -> Callable[..., Any]:
        return importlib.import_module("no_such_peer").decorate(fn)  # type: ignore[no-any-return]

    effort = rows.Effort(rounds=1, block=1e-6, runs=1, objects=1, processes=1)
    case = timed.mine("anything", ours.bulkhead, 1.0, unit=missing)
    (row,) = timed.section("any", "Any", lambda: [case]).measure([case], effort)
    assert (row.value, row.missed) == (None, True)
    assert "no_such_peer" in row.note


@pytest.mark.parametrize(
    ("times", "excess"),
    [
        ([0.0] * 10, 0.0),
        ([0.0] * 12, 2.0),
        ([0.0] * 10 + [0.001, 0.002], 0.0),
        ([5.0] + [6 + at / 2000 for at in range(31)], 6.0),
    ],
    ids=["a burst", "too large a burst", "a burst, then the rate", "later, at twice the rate"],
)
def test_the_fullest_window_is_found(times: list[float], excess: float) -> None:
    """What counts is the window that holds most beyond 10 calls and 1000 a second."""
    assert line.excess(times) == pytest.approx(excess, abs=1e-6)


def test_nobody_in_a_line_comes_too_early() -> None:
    """Fifty tasks come at once to 1000 a second, 10 at once: the last is admitted after 40 ms, in order."""
    times, took = line.admissions(line.rate_limit, 50)
    assert len(times) == 50
    assert times == sorted(times)
    assert times[-1] >= 0.04 - 1e-6
    assert took > 0


def test_a_name_that_nothing_has_is_an_error() -> None:
    """Exit status 2, and the names of the sections."""
    done = run("-m", "benchmarks", "--only", "no such row")
    assert done.returncode == 2
    assert "async-policies" in done.stderr


def test_a_row_can_be_asked_for_by_its_name(tmp_path: Path) -> None:
    """`--only` with a part of a row's name measures that row; `--json` writes it down."""
    path = tmp_path / "costs.json"
    done = run("-m", "benchmarks", "--quick", "--only", "chaos, off", "--json", str(path))
    assert done.returncode == 0, done.stderr
    written = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert [row["section"] for row in written] == ["policies", "async-policies"]
