"""Runs × crashes: whatever is cut short anywhere, the run ends as it should, and each order starts once."""

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.tests.integration.jobs._homes import Home
from backend.tests.integration.orchestration._crash_worker import ORDERS
from backend.tests.integration.orchestration._faults import Between, Crash, Crashes
from backend.tests.integration.orchestration._yard import Yard, order, request, wait_until
from backend.tests.properties._graphs import RESULTS, graphs, reference
from holdfast.infrastructure.store.blob import BlobStore, MemoryBlobStore
from holdfast.infrastructure.store.memory import MemoryStateStore
from holdfast.infrastructure.store.state import StateStore, StepRecord
from holdfast.services.jobs.graphs import Runs
from holdfast.testing.clock import VirtualClock

EXAMPLES = int(os.environ.get("HOLDFAST_GRAPH_EXAMPLES", "60"))
# On databases fewer graphs, and not each call, unless somebody asks for more.
SQL_EXAMPLES = int(os.environ.get("HOLDFAST_GRAPH_EXAMPLES", "8"))
STRIDE = int(os.environ.get("HOLDFAST_GRAPH_STRIDE", "13"))
NUMBERS = count()
CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
GRAPH = (order("a"), order("b", "a"), order("c", "a", must_succeed=False), order("d", "c"), order("e", "b"))
ENDS = {"a": "succeeded", "b": "failed", "c": "failed", "d": "succeeded"}


def crashing(yard: Yard, crashes: Crashes) -> Runs:
    """Return runs whose every call goes through a crash that may come."""
    return yard.again(
        store=Between(yard.store, crashes),
        blobs=Between(yard.blobs, crashes),
        targets={"local": Between(yard.puppets, crashes)},
    )


def drive(yard: Yard, runs: Runs, delivery: str) -> str:
    """Submit, and give each order that has started its result, until nothing moves."""
    run = runs.submit(request(*GRAPH), delivery_id=delivery).run_id
    runs.evaluate(run)
    for name, status in ENDS.items():
        if name in yard.puppets.started:
            runs.deliver(run, name, f'{{"status": "{status}"}}'.encode())
    return run


def check_crash(yard: Yard, at: int, *, after: bool) -> bool:
    """Crash at a call, let another process go on, and return whether there was such a call."""
    yard.puppets.started.clear()
    crashes = Crashes(at, after=after)
    delivery = f"{at}-{after}"
    try:
        drive(yard, crashing(yard, crashes), delivery)
    except Crash:
        pass
    assert yard.clock is not None
    yard.clock.advance(61)
    yard.settings["lease"] = 60.0
    for order_, status in ENDS.items():
        assert yard.puppets.started.count(order_) <= 1, (order_, status)
    run = drive(yard, yard.again(), delivery)
    done = yard.done(run)
    assert {name: one["state"] for name, one in done["orders"].items()} == {**ENDS, "e": "failed"}
    assert done["status"] == "failed"
    assert sorted(yard.puppets.started) == ["a", "b", "c", "d"]
    assert yard.ends(run) == ["failed"]
    return crashes.happened


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_call_loses_and_repeats_nothing(quick_yard: Yard, *, after: bool) -> None:
    """Of the store, of the blobs, and of the target, from the submission to the end."""
    points = next(at for at in count(1) if not check_crash(quick_yard, at, after=after))
    assert points > 100


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_is_survived_in_each_kind_of_store(yard: Yard, *, after: bool) -> None:
    """At every thirteenth call, or as HOLDFAST_GRAPH_STRIDE says; from the submission to the end."""
    points = next(at for at in count(min(5, STRIDE), STRIDE) if not check_crash(yard, at, after=after))
    assert points > 100


# Where the first process dies; what the second hands over, and what of that starts.
KILLS = {
    "submitted": (["a", "b"], ["a", "b"]),
    "reserved": (["a", "b"], ["a", "b"]),
    "dispatched": (["a", "b"], ["b"]),
    "confirmed": (["b"], ["b"]),
}


@pytest.mark.parametrize("point", KILLS)
def test_a_killed_process_is_carried_on(home: Home, blobs: BlobStore, tmp_path: Path, point: str) -> None:
    """SIGKILL after the submission, or around the hand-over of an order: the next process starts what has not."""
    assert home.url is not None
    home.open().close()
    command = [sys.executable, "-m", "backend.tests.integration.orchestration._crash_worker"]
    ended = subprocess.run([*command, home.url, str(tmp_path), point], check=False, capture_output=True)
    assert ended.returncode == -9, ended.stderr

    yard = Yard(home.open(), blobs, tmp_path)
    answer = yard.runs.submit(request(*ORDERS, run_id="run-1"))
    assert not answer.created
    wait_until(lambda: yard.runs.evaluate("run-1"))
    for name in "ab":
        yard.runs.deliver("run-1", name, b'{"status": "succeeded"}')
    assert (yard.puppets.dispatched, yard.puppets.started) == KILLS[point]
    assert yard.done("run-1")["status"] == "succeeded"


class Patient:
    """A run that is driven by events which may be lost, doubled, or cut short."""

    def __init__(
        self,
        steps: list[StepRecord],
        random: Random,
        folder: Path,
        store: Callable[[VirtualClock], StateStore],
    ) -> None:
        self.clock, self.random = VirtualClock(), random
        self.yard = Yard(store(self.clock), MemoryBlobStore(), folder, self.clock)
        self.run = f"run-{next(NUMBERS)}"
        self.orders = [
            order(one.key, *one.depends_on, must_succeed=one.must_succeed, timeout=1e6) for one in steps
        ]

    def try_(self, what: str, *args: Any) -> None:
        """Do something that may crash at any call."""
        crashes = Crashes(self.random.choice((0, 0, 0, *range(1, 40))), after=self.random.random() < 0.5)
        try:
            getattr(crashing(self.yard, crashes), what)(*args)
        except Crash:
            self.clock.advance(61)

    def live(self, results: dict[str, str]) -> None:
        """Submit, deliver what has started in random order, more than once, until the run has ended."""
        document = request(*self.orders, run_id=self.run, job_timeout=1e6)
        for _ in range(3):
            self.try_("submit", document)
        self.yard.runs.submit(document)
        for _ in range(400):
            if self.yard.blobs.exists(f"{self.run}/done"):
                return
            started = self.yard.puppets.started
            if started and self.random.random() < 0.8:
                name = self.random.choice(started)
                self.try_("deliver", self.run, name, f'{{"status": "{results[name]}"}}'.encode())
            else:
                self.try_("tick")
        # Events that are lost for ever are found by a tick; results are delivered until they are there.
        while not self.yard.blobs.exists(f"{self.run}/done"):
            for name in list(self.yard.puppets.started):
                self.yard.runs.deliver(self.run, name, f'{{"status": "{results[name]}"}}'.encode())
            self.yard.runs.tick()


def check_graph(
    steps: list[StepRecord], seed: int, folder: Path, store: Callable[[VirtualClock], StateStore]
) -> None:
    """Let a run live, and compare how it ended with the reference."""
    random = Random(seed)
    results = {one.key: random.choice(RESULTS) for one in steps}
    patient = Patient(steps, random, folder, store)
    patient.live({key: state.value for key, state in results.items()})

    ends, status = reference(steps, results)
    done = patient.yard.done(patient.run)
    assert {key: one["state"] for key, one in done["orders"].items()} == ends
    assert done["status"] == status
    assert len(patient.yard.puppets.started) == len(set(patient.yard.puppets.started))
    assert patient.yard.ends(patient.run) == [status]
    # A crash after the summary leaves this to the next look.
    patient.yard.runs.tick()
    assert patient.yard.store.workers() == []


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graphs(), st.integers(0, 2**32))
def test_every_run_ends_as_the_reference_says(tmp_path: Path, steps: list[StepRecord], seed: int) -> None:
    """Random graphs, results, crashes and duplicates: the status is the reference's, each order is started once."""
    check_graph(steps, seed, tmp_path, lambda clock: MemoryStateStore(clock=clock))


@settings(max_examples=SQL_EXAMPLES, deadline=None, suppress_health_check=CHECKS)
@given(graphs(), st.integers(0, 2**32))
def test_every_run_ends_so_in_each_kind_of_store(
    home: Home, tmp_path: Path, steps: list[StepRecord], seed: int
) -> None:
    """The same, in databases."""
    check_graph(steps, seed, tmp_path, lambda clock: home.open(clock=clock))
