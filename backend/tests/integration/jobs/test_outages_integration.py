"""What is not a clean death: frozen processes, clocks that go back, disks that are full, a database that goes away."""

import os
import resource
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backend.tests.integration.jobs._audit import check, dump
from backend.tests.integration.jobs._homes import Home
from backend.tests.integration.jobs._kill_job import JOB, ROWS, Plan
from backend.tests.integration.jobs._kill_matrix import ORDERS, with_labels
from backend.tests.integration.jobs._kill_outages import Cluster, begun, takeover, terminate
from backend.tests.integration.jobs._kill_service import Labels
from backend.tests.integration.jobs._kill_worker import KILLED, Nursery
from backend.tests.integration.jobs._outside import until
from holdfast.infrastructure.store.sql import open_store
from holdfast.infrastructure.store.state import StateStore, StepState, StoreUnavailableError
from holdfast.services.jobs import Jobs

EVERYWHERE = pytest.mark.parametrize("store_kind", ["sqlite", "postgresql"], indirect=True)
SQLITE = pytest.mark.parametrize("store_kind", ["sqlite"], indirect=True)
POSTGRES = pytest.mark.parametrize("store_kind", ["postgresql"], indirect=True)
MakePlan = Callable[..., Plan]


def check_all_done(store: StateStore, plan: Plan, labels: Labels, *, resent: bool = False) -> None:
    """Check that each order has one label, by the service's count, in the job and in the file."""
    now = dump(store)
    check(now)
    assert now.jobs[JOB].record.state == "succeeded"
    assert dict(labels.effects) == {f"{JOB}:{order}": 1 for order in ORDERS}
    assert resent or set(labels.calls.values()) == {1}
    assert plan.file.read_text(encoding="utf-8") == with_labels(set(ORDERS))


@EVERYWHERE
def test_a_death_on_the_same_host_is_seen_within_a_second(
    store: StateStore, plan: MakePlan, nursery: Nursery, second: Nursery, labels: Labels
) -> None:
    """Nobody waits for the lease, of fifteen seconds, of a process that is seen to be gone."""
    took = takeover(store, nursery, second, plan())

    assert took < 1.0 + patience()
    check_all_done(store, plan(), labels)


@EVERYWHERE
def test_a_death_elsewhere_is_seen_when_the_lease_ends(
    store: StateStore, plan: MakePlan, nursery: Nursery, second: Nursery, labels: Labels
) -> None:
    """Of a process on another host only the lease is seen: its steps are taken back within a second of its end."""
    took = takeover(store, nursery, second, plan(), host="elsewhere", lease=1.5)

    assert 0.9 < took < 2.5 + patience()
    check_all_done(store, plan(), labels)


def patience() -> float:
    """Return how much later than promised a machine that is overloaded may be."""
    return 0.5 * max(0.0, os.getloadavg()[0] / (os.cpu_count() or 1) - 1.0)


@EVERYWHERE
def test_a_frozen_worker_cannot_record(
    store: StateStore, plan: MakePlan, nursery: Nursery, second: Nursery, labels: Labels
) -> None:
    """Frozen past its lease, a worker wakes with results that others have recorded: each of its own is refused."""
    labels.pace = 0.3
    frozen = nursery.start(plan(handler="again", lease=0.5))
    until(lambda: begun(store))
    os.kill(frozen, signal.SIGSTOP)
    held = [step for step in store.steps(JOB, states=[StepState.RUNNING]) if step.begun]
    labels.pace = 0.0
    assert held
    time.sleep(0.6)
    assert second.run(plan(handler="again")) == 0
    done = dump(store).jobs[JOB]
    os.kill(frozen, signal.SIGCONT)

    assert nursery.ended() == 0
    after = dump(store).jobs[JOB]
    assert after.steps == done.steps
    assert after.record.counts == done.record.counts
    assert {event.kind for event in after.events[len(done.events) :]} <= {"late"}
    for step in held:
        now = store.step(JOB, step.key)
        assert now.fence > step.fence
        assert now.history[0].worker == step.worker
        assert now.history[0].outcome == "lease lost"
    check_all_done(store, plan(), labels, resent=True)


@EVERYWHERE
@pytest.mark.parametrize("fail", [0, 6])
def test_a_clock_that_goes_back_changes_nothing(
    store: StateStore, plan: MakePlan, nursery: Nursery, labels: Labels, fail: int
) -> None:
    """An hour back in the middle: no lease ends, no retry waits for an hour, no event is older than the one before."""
    began = time.monotonic()
    assert nursery.run(plan(back=4, fail=fail, lease=0.6, pace=0.08)) == 0

    assert time.monotonic() - began < 20
    check_all_done(store, plan(), labels)
    assert {step.fence for step in store.steps(JOB)} <= ({1, 2} if fail else {1})


@EVERYWHERE
def test_a_process_whose_clock_is_behind_takes_over(
    store: StateStore, plan: MakePlan, nursery: Nursery, labels: Labels
) -> None:
    """Killed, and taken over by a process that believes it is an hour earlier: it sees the same, and does the rest."""
    assert nursery.run(plan(), "engine.after_call:4") == KILLED
    labels.settle()
    assert nursery.run(plan(back=-1)) == 0

    check_all_done(store, plan(), labels)


@EVERYWHERE
def test_who_died_writing_back_keeps_nobody_waiting(
    store: StateStore, plan: MakePlan, nursery: Nursery, labels: Labels
) -> None:
    """A worker holds the lock of its write-back while it lives; seen dead, it holds it no more."""
    assert nursery.run(plan(), "engine.before_write_back") == KILLED
    assert store.acquire(f"write-back of {JOB}", "another", 1.0) is None

    Jobs(store).recover()

    assert store.acquire(f"write-back of {JOB}", "another", 1.0) is not None


@SQLITE
def test_a_worker_outlasts_a_full_disk(
    home: Home, store: StateStore, plan: MakePlan, nursery: Nursery, labels: Labels
) -> None:
    """While nothing can be written no further call is made; when there is room, the worker goes on by itself."""
    labels.pace = 0.05
    working = nursery.start(plan(concurrency=1))
    until(lambda: len(labels.calls) >= 3)
    no_room(working)
    until(lambda: not changes(labels))
    stuck = dict(labels.calls)
    recorded = store.job(JOB).counts.succeeded
    assert len(stuck) < ROWS
    assert len(stuck) - recorded <= 1
    resource.prlimit(working, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    assert nursery.ended() == 0
    check_all_done(store, plan(), labels)


def no_room(pid: int) -> None:
    """Let a process write no file beyond its first kilobyte."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1024, hard))


def changes(labels: Labels) -> bool:
    """Return whether calls are made within a while."""
    before = sum(labels.calls.values())
    time.sleep(0.5)
    return sum(labels.calls.values()) != before


def test_a_full_database_says_so_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of pages, a submission is refused whole, with the remedy; what was there stays, and with room it goes on."""
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    with open_store(url) as store:
        kept = Jobs(store).submit(range(10), ship, mode="auto")
        before = dump(store)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", cramped(sqlite3.connect))
        with open_store(url) as store:
            for rows in (900, 1100):
                with pytest.raises(StoreUnavailableError, match="free space on the disk") as caught:
                    Jobs(store).submit(range(rows), ship, mode="auto")
                assert caught.value.certain
            assert dump(store) == before
    with open_store(url) as store:
        assert Jobs(store).submit(range(1100), ship, mode="auto").counts.total == 1100
        assert Jobs(store).run(kept).succeeded


def cramped(connect: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
    """Return a way to connect to databases that may not grow, but for the log."""

    def connect_to_full(*args: Any, **settings: Any) -> sqlite3.Connection:
        connection = connect(*args, **settings)
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    return connect_to_full


def ship(row: int) -> int:
    """Do something."""
    return row


@POSTGRES
def test_a_worker_outlasts_its_connections(
    home: Home, store: StateStore, plan: MakePlan, nursery: Nursery, labels: Labels
) -> None:
    """Its connections are ended again and again: it takes new ones, asks what it has committed, repeats no call."""
    assert home.url is not None
    nursery.start(plan(pace=0.05, concurrency=2))
    until(lambda: begun(store))
    ended = 0
    for _ in range(6):
        time.sleep(0.05)
        ended += terminate(home.url)

    assert nursery.ended() == 0
    assert ended >= 6
    check_all_done(store, plan(), labels)


def test_a_worker_outlasts_a_crash_of_the_database(
    cluster: Cluster, tmp_path: Path, nursery: Nursery, labels: Labels
) -> None:
    """The server dies in the middle and comes back: the worker waits for it, goes on, and repeats no call."""
    rows = "".join(f"{order},{order} Kelp Lane\n" for order in ORDERS)
    (tmp_path / "orders.csv").write_text(f"order,street\n{rows}", encoding="utf-8")
    plan = Plan(url=cluster.url, folder=str(tmp_path), port=labels.port, pace=0.1, concurrency=2)
    with open_store(cluster.url):
        nursery.start(plan)
        until(lambda: len(labels.calls) >= 3)
        cluster.crash()
        assert len(labels.calls) < ROWS
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(cluster.url)
        cluster.start()

        assert nursery.ended() == 0
    with open_store(cluster.url) as store:
        check_all_done(store, plan, labels)
