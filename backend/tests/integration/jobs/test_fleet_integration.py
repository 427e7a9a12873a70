"""Fleets × engines that carry tickets: deaths, frozen workers, cut connections, lost and doubled tickets."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import holdfast
from backend.tests.integration.jobs._audit import check, dump
from backend.tests.integration.jobs._fleet import Fleet, Way, gate
from backend.tests.integration.jobs._outside import KILLED, asked, calls, until
from backend.tests.integration.jobs.test_outages_integration import patience
from holdfast.cli.main import main
from holdfast.infrastructure.store.state import JobRecord, StateStore, StepRecord, StepState
from holdfast.services.jobs import Jobs, open_jobs
from holdfast.services.jobs.executors import Ticket

STEPS = 200
LEASE = 4.0


def done(jobs: Jobs, job: JobRecord) -> int:
    """Return how many steps have succeeded."""
    return jobs.job(job).counts.succeeded


def held_by(store: StateStore, job: JobRecord, pid: int) -> list[StepRecord]:
    """Return the running steps of the workers in a process."""
    mine = {worker.id for worker in store.workers() if worker.pid == pid}
    return [step for step in store.steps(job.id, states=[StepState.RUNNING]) if step.worker in mine]


def check_ended(jobs: Jobs, job: JobRecord) -> None:
    """Check that every step has succeeded, and that counters, history and steps tell the same."""
    now = dump(jobs.store)
    check(now)
    assert now.jobs[job.id].record.state == "succeeded"
    assert now.jobs[job.id].record.counts.succeeded == STEPS


def test_deaths_and_frozen_workers_lose_and_repeat_nothing(
    way: Way, fleet_jobs: Jobs, fleet_of: Callable[[Way], Fleet]
) -> None:
    """One of four is killed, one frozen past its lease: others take over in time, and repeat only what was in doubt."""
    fleet = fleet_of(way)
    jobs = fleet_jobs
    fleet.start(4, LEASE=str(LEASE), PACE="0.1")
    fleet.ready(jobs.store)
    job = jobs.submit(range(STEPS), asked, mode="auto")
    executor = way.open()
    executor.submit(Ticket(tenant="default", job=job.id))
    executor.close()

    until(lambda: done(jobs, job) >= 20, 60.0)
    until(lambda: held_by(jobs.store, job, fleet.processes[0].pid))
    dead = fleet.kill(0, signal.SIGKILL)
    died = jobs.store.now()
    fleet.processes[0].wait()
    lost = held_by(jobs.store, job, dead)
    until(lambda: done(jobs, job) >= 40, 60.0)
    until(lambda: held_by(jobs.store, job, fleet.processes[1].pid))
    frozen = fleet.kill(1, signal.SIGSTOP)
    time.sleep(0.2)
    doubtful = {f"{job.id}:{step.key}" for step in held_by(jobs.store, job, frozen) if step.begun}
    until(lambda: jobs.job(job).state == "succeeded", 60.0)
    ended = dump(jobs.store).jobs[job.id]
    fleet.kill(1, signal.SIGCONT)

    assert fleet.drain() == [KILLED, 0, 0, 0]
    check_ended(jobs, job)
    assert dump(jobs.store).jobs[job.id].steps == ended.steps
    made = calls(fleet.outside)
    assert set(made) == {f"{job.id}:{step.key}" for step in ended.steps}
    assert {key for key, count in made.items() if count > 1} <= doubtful
    for step in lost:
        after = jobs.store.step(job.id, step.key)
        assert (after.finished_at or 0.0) - died < LEASE + 2.0 + patience()


def test_tickets_and_connections_may_go(
    way: Way, fleet_jobs: Jobs, fleet_of: Callable[[Way], Fleet], relayed: Callable[[Way], tuple[Way, Any]]
) -> None:
    """None is sent, those of workers are lost and doubled, connections are cut: each step is called once."""
    over, cut = relayed(way)
    fleet = fleet_of(over)
    jobs = fleet_jobs
    fleet.start(4, PACE="0.05")
    fleet.ready(jobs.store)
    executor = way.open()
    job = jobs.submit(range(STEPS), asked, mode="auto")
    ticket = Ticket(tenant="default", job=job.id)

    cuts = 0
    for number in range(1, 5):
        until(lambda number=number: done(jobs, job) >= 20 * number, 60.0)
        for _ in range(10):
            executor.submit(ticket)
        if number % 2:
            way.lose()
        else:
            cuts += cut()
    until(lambda: jobs.job(job).state == "succeeded", 60.0)
    executor.close()

    assert cuts > 0
    assert fleet.drain() == [0] * 4
    check_ended(jobs, job)
    assert set(calls(fleet.outside).values()) == {1}
    assert len(calls(fleet.outside)) == STEPS


def test_a_step_that_takes_long_holds_up_nothing(
    way: Way, fleet_jobs: Jobs, fleet_of: Callable[[Way], Fleet]
) -> None:
    """While one of two workers is in a call that does not end, the other does all else, and that call is made once."""
    fleet = fleet_of(way)
    jobs = fleet_jobs
    shut = fleet.outside.with_suffix(".shut")
    shut.touch()
    fleet.start(2, LANES="1")
    fleet.ready(jobs.store)
    long = jobs.submit(range(1), gate, mode="auto")
    executor = way.open()
    executor.submit(Ticket(tenant="default", job=long.id))
    until(lambda: jobs.job(long).counts.in_flight == 1, 60.0)
    others = [jobs.submit(range(5), asked, mode="auto") for _ in range(6)]
    for one in (long, *others):
        executor.submit(Ticket(tenant="default", job=one.id))

    until(lambda: all(jobs.job(one).state == "succeeded" for one in others), 60.0)
    assert jobs.job(long).counts.in_flight == 1
    shut.unlink()
    until(lambda: jobs.job(long).state == "succeeded", 60.0)
    executor.close()

    assert fleet.drain() == [0, 0]
    assert jobs.store.steps(long.id)[0].fence == 1
    assert set(calls(fleet.outside).values()) == {1}


def test_the_command_line_carries_work_to_workers(
    fleet_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`jobs run --executor` sends a file's rows to processes of `jobs worker --executor`, and ends as the job does."""
    (tmp_path / "shop.py").write_text("def ship(row):\n    return row['order']\n", encoding="utf-8")
    (tmp_path / "orders.csv").write_text("order\n" + "".join(f"A{n}\n" for n in range(40)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    carried = ["--executor", "procrastinate", "--store", fleet_store]
    roots = os.pathsep.join([str(Path(holdfast.__file__).parents[1]), str(tmp_path)])
    program = [sys.executable, "-m", "holdfast", "jobs", "worker", "--processes", "2", *carried]
    with subprocess.Popen(program, cwd=tmp_path, env={**os.environ, "PYTHONPATH": roots}) as worker:
        try:
            code = main(["jobs", "run", "orders.csv", "shop:ship", "--mode", "auto", *carried])
        finally:
            worker.terminate()
            ended = worker.wait(timeout=60)

    assert code == ended == 0
    assert "40 of 40 succeeded" in capsys.readouterr().out
    with open_jobs(fleet_store) as jobs:
        [job] = jobs.find()
        assert [one.result for one in jobs.results(job)] == [f"A{n}" for n in range(40)]


def test_the_command_line_says_what_an_executor_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An executor that is unknown, or has no broker, is wrong use, with what to give; nothing is submitted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "orders.csv").write_text("order\nA1\n", encoding="utf-8")
    (tmp_path / "shop.py").write_text("def ship(row):\n    return row['order']\n", encoding="utf-8")

    for words, said in (
        (["--executor", "nobody"], "give local, procrastinate or celery"),
        (["--executor", "celery"], "amqp://"),
        (["--executor", "procrastinate"], "postgresql://"),
    ):
        assert main(["jobs", "run", "orders.csv", "shop:ship", *words]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "holdfast.db").exists()
