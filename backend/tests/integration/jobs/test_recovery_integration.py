"""Processes that are killed, stopped and frozen in the middle of a job, and what becomes of each row."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.tests.integration.jobs._homes import Home
from backend.tests.integration.jobs._outside import (
    HANDLERS,
    KILLED,
    ROWS,
    calls,
    ended,
    has_begun,
    started,
    until,
)
from holdfast import ConfigurationError
from holdfast.infrastructure.store.state import JobRecord
from holdfast.services.jobs import HandlerNotFoundError, Jobs, WorkerProcesses

pytestmark = pytest.mark.parametrize("store_kind", ["sqlite"], indirect=True)

# Where the process is killed: the boundary and the how manieth time, how many rows it holds then, and calls in doubt.
BOUNDARIES = [
    ("engine.before_claim:1", 0, 0),
    ("engine.after_claim:1", 6, 0),
    ("engine.before_commit:3", 5, 1),
    ("engine.after_commit:3", 4, 1),
    ("engine.before_call:3", 4, 1),
    ("engine.after_call:3", 4, 1),
]


def workers_of(jobs: Jobs, job: JobRecord) -> set[str]:
    return {event.data["worker"] for event in jobs.events(job) if event.data.get("worker")}


def keys(job: JobRecord) -> set[str]:
    return {f"{job.id}:line:{line}" for line in range(1, ROWS + 1)}


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=[at for at, _, _ in BOUNDARIES])
def test_every_row_is_called_once_if_the_service_can_be_asked(
    jobs: Jobs, outside: Path, killed: Callable[..., JobRecord], boundary: tuple[str, int, int]
) -> None:
    """Killed at any boundary and resumed by another process: no row is lost, none is called twice."""
    at, held, doubt = boundary
    job = killed("asked", at)

    found = [(one.job.id, one.held, one.ambiguous) for one in jobs.interrupted()]
    # Killed before its first claim the job has not begun: it is pending, as it was.
    assert found == ([(job.id, held, doubt)] if held else [])
    done = jobs.resume(job)

    assert done.succeeded
    assert calls(outside) == dict.fromkeys(keys(job), 1)
    assert [result.result for result in jobs.results(job)] == [
        f"{job.id}:line:{line}" for line in range(1, ROWS + 1)
    ]


@pytest.mark.parametrize("at", ["engine.before_call:3", "engine.after_call:3"])
def test_a_row_in_doubt_is_never_called_again_unasked(
    jobs: Jobs, outside: Path, killed: Callable[..., JobRecord], at: str
) -> None:
    """If nobody can tell, exactly the row in doubt needs review, whether or not its call was made."""
    job = killed("unsure", at)

    done = jobs.resume(job)

    (step,) = jobs.review(job)
    assert (step.key, done.counts.succeeded) == ("line:3", ROWS - 1)
    assert set(calls(outside).values()) == {1}
    assert calls(outside)[step.idempotency_key] == (1 if "after" in at else 0)


def test_an_idempotent_row_in_doubt_is_sent_again(
    jobs: Jobs, outside: Path, killed: Callable[..., JobRecord]
) -> None:
    """If the handler is idempotent the row in doubt is sent again, under the same key, and no other is."""
    job = killed("again", "engine.after_call:3")

    assert jobs.resume(job).succeeded
    assert calls(outside) == {**dict.fromkeys(keys(job), 1), f"{job.id}:line:3": 2}


def test_a_group_in_doubt_is_what_was_announced(
    jobs: Jobs, outside: Path, killed: Callable[..., JobRecord]
) -> None:
    """Recorded in groups, all rows that were announced together are in doubt, and asking settles each."""
    job = killed("asked", "engine.after_call:3", "group")

    (found,) = jobs.interrupted()
    assert found.ambiguous == ROWS
    assert jobs.resume(job).succeeded
    assert calls(outside) == dict.fromkeys(keys(job), 1)


def test_another_worker_takes_over_within_a_second_or_so(
    home: Home, jobs: Jobs, outside: Path, killed: Callable[..., JobRecord]
) -> None:
    """On the same host a dead owner is seen at once: nobody waits for its lease of fifteen seconds."""
    job = killed("asked", "engine.after_call:3")
    assert home.url is not None
    program = started(home.url, outside, "work")
    until(lambda: len(jobs.store.workers()) == 2 or jobs.status(job).succeeded)

    took = until(lambda: jobs.status(job).succeeded)
    program.terminate()

    assert took < 12.0
    assert ended(program) == 0
    assert calls(outside) == dict.fromkeys(keys(job), 1)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_drains(home: Home, jobs: Jobs, outside: Path, number: int, status: int) -> None:
    """Told to end, a process lets its call end, records it, hands back the rest, and says which signal it was."""
    job = jobs.submit(range(ROWS), HANDLERS["unsure"], mode="auto")
    assert home.url is not None
    program = started(home.url, outside, "run", job.id, PACE="0.3")
    until(lambda: has_begun(outside))
    os.kill(program.pid, number)

    assert ended(program) in {status, -number}
    counts = jobs.status(job).counts
    assert (counts.succeeded, counts.pending, counts.running) == (
        sum(calls(outside).values()),
        ROWS - counts.succeeded,
        0,
    )
    assert 0 < counts.succeeded < ROWS
    assert [(one.held, one.choices) for one in jobs.interrupted()] == [(0, ("resume", "restart", "cancel"))]
    assert jobs.resume(job).succeeded


def test_a_second_signal_stops_at_once(home: Home, jobs: Jobs, outside: Path) -> None:
    """Told twice, a process cancels its call; of an idempotent handler the row goes back, without an attempt."""
    job = jobs.submit(range(2), HANDLERS["again"], mode="auto")
    assert home.url is not None
    program = started(home.url, outside, "run", job.id, PACE="30")
    until(lambda: has_begun(outside))
    os.kill(program.pid, signal.SIGTERM)
    until(lambda: jobs.status(job).counts.running == 1)
    os.kill(program.pid, signal.SIGTERM)

    assert ended(program) == 143
    assert jobs.status(job).counts.pending == 2
    assert [step.attempts for step in jobs.store.steps(job.id)] == [0, 0]


@pytest.mark.parametrize("name", ["hangs", "deaf"])
def test_a_call_that_never_ends_keeps_no_process(home: Home, jobs: Jobs, outside: Path, name: str) -> None:
    """A worker in a program of its own returns after the grace and says what it abandoned; then the program ends."""
    job = jobs.submit(range(2), HANDLERS[name], mode="auto")
    assert home.url is not None
    program = started(home.url, outside, "stuck")
    until(lambda: len(calls(outside)) == 2)
    program.terminate()

    assert ended(program) == 0
    assert outside.with_suffix(".abandoned").read_text(encoding="utf-8") == "line:1 line:2"
    assert [step.error for step in jobs.review(job)] == [
        "the worker was stopped: its call may have been made"
    ] * 2
    assert jobs.store.workers() == []


def test_a_frozen_worker_records_nothing_when_it_thaws(home: Home, jobs: Jobs, outside: Path) -> None:
    """Frozen past its lease, a worker's row is done by another; its own result comes too late and changes nothing."""
    job = jobs.submit([1], HANDLERS["again"], mode="auto")
    assert home.url is not None
    frozen = started(home.url, outside, "work", PACE="1", LEASE="0.5")
    until(lambda: jobs.status(job).counts.in_flight)
    os.kill(frozen.pid, signal.SIGSTOP)
    until(lambda: jobs.recover() == [job.id])
    os.environ["PACE"] = "0"
    done = jobs.run(job)
    finished = jobs.job(job).finished_at
    os.kill(frozen.pid, signal.SIGCONT)
    until(lambda: len(jobs.store.workers()) == 1)
    frozen.terminate()

    assert ended(frozen) == 0
    assert (done.state, jobs.job(job).finished_at) == ("succeeded", finished)
    assert jobs.store.step(job.id, "line:1").fence > 1


def test_worker_processes_share_the_work(home: Home, jobs: Jobs, outside: Path) -> None:
    """Two processes do the rows of one job, each row once; one that is killed is replaced, and asked about."""
    os.environ["PACE"] = "0.02"
    assert home.url is not None
    reference = HANDLERS["asked"].reference
    processes = WorkerProcesses(home.url, [reference], processes=2, concurrency=1, ahead=5, poll=0.1)
    thread = threading.Thread(target=processes.run, kwargs={"signals": False})
    thread.start()
    try:
        until(lambda: len(jobs.store.workers()) == 2)
        job = jobs.submit(range(60), HANDLERS["asked"], mode="auto")
        until(lambda: len(workers_of(jobs, job)) == 2)
        victim = processes.pids[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: jobs.status(job).succeeded and victim not in processes.pids)
    finally:
        processes.stop()
        thread.join()

    assert set(calls(outside).values()) == {1}
    assert len(calls(outside)) == 60
    assert jobs.store.workers() == []


def test_worker_processes_end_with_their_parent(home: Home, jobs: Jobs, outside: Path) -> None:
    """When the parent is killed its workers drain and end: nobody is left who works unseen."""
    assert home.url is not None
    parent = started(home.url, outside, "spread")
    until(lambda: len(jobs.store.workers()) == 2)
    parent.kill()

    until(lambda: jobs.store.workers() == [])
    assert ended(parent) == KILLED


def test_processes_need_a_store_that_others_see(home: Home) -> None:
    """A store in memory, or a handler that cannot be imported, is refused before any process is started."""
    with pytest.raises(ConfigurationError, match="one process only"):
        WorkerProcesses("memory:", [])
    with pytest.raises(HandlerNotFoundError, match="nowhere"):
        WorkerProcesses("sqlite:///jobs.db", ["nowhere:ship"])
