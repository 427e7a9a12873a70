"""The life of a job from a connection to its archive, and what those who watch it are told."""

import asyncio
import csv
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from backend.tests.integration.jobs._desk import Desk, Takes
from backend.tests.integration.jobs._homes import Home
from backend.tests.integration.jobs._ledger import Ledger
from backend.tests.integration.jobs._outside import HANDLERS, ROWS, calls, ended, started
from backend.tests.integration.jobs._reach import reach_job
from holdfast import ConfigurationError
from holdfast.infrastructure.store.state import JOB_ENDS, JobState, NotFoundError
from holdfast.services.jobs import Jobs, LogNotifier, Progress, Worker, open_jobs

QUICK = pytest.mark.parametrize("store_kind", ["memory", "sqlite"], indirect=True)
SHARED = pytest.mark.parametrize("store_kind", ["sqlite", "postgresql"], indirect=True)


def test_a_job_lives_from_connection_to_end(home: Any, store_kind: str, tmp_path: Path) -> None:
    """Connect, create, process, monitor: the whole way by the public door, in real time."""
    place = {"memory": "memory:", "sqlite": str(tmp_path / "orders.db")}.get(store_kind, str(home.url))
    with open_jobs(place) as jobs:
        job = jobs.submit(["a", "b"], _shout, mode="auto", name="greetings")
        done = jobs.run(job)

        assert (done.name, done.state, done.percent) == ("greetings", "succeeded", 100.0)
        assert [one.result for one in jobs.results(job)] == ["A", "B"]
        assert [one.id for one in jobs.find(states=["succeeded"])] == [job.id]
        assert jobs.store.workers() == []


def _shout(word: str) -> str:
    return word.upper()


@QUICK
def test_the_monitor_tells_the_truth_about_a_part(desk: Desk) -> None:
    """A job of which a part failed has ended but not succeeded, whatever the percentage says."""

    def do(row: int) -> None:
        if row == 2:
            raise ValueError("two")

    job = desk.submit([1, 2, 3], do)
    assert not desk.jobs.status(job).ended
    desk.run(job)
    status = desk.jobs.status(job)

    assert (status.state, status.ended, status.succeeded) == ("partially_failed", True, False)
    assert (status.percent, status.counts.succeeded, status.counts.failed) == (100.0, 2, 1)
    assert json.loads(json.dumps(status.as_dict()))["errors"] == [
        {"key": "line:2", "line": 2, "state": "failed", "error": "ValueError: two"}
    ]


@pytest.mark.parametrize("state", JobState)
def test_only_a_job_of_which_all_succeeded_has_succeeded(ledger: Ledger, state: JobState) -> None:
    """Of all states a job can be in, one is a success; what has ended otherwise, or not yet, is none."""
    reach_job(ledger, state)
    status = Jobs(ledger.store).status("job")

    assert (status.state, status.succeeded) == (state, state == "succeeded")
    assert status.ended == (state in JOB_ENDS)


ENDS = {
    JobState.SUCCEEDED: (0, "succeeded: 1 of 1 succeeded"),
    JobState.FAILED: (1, "failed: 0 of 1 succeeded, 1 failed"),
    JobState.PARTIALLY_FAILED: (1, "partially_failed: 1 of 2 succeeded, 1 failed"),
    JobState.CANCELLED: (1, "cancelled: 0 of 2 succeeded, 2 cancelled"),
    JobState.EXPIRED: (1, "expired – expired after 1 s: 0 of 2 succeeded, 2 left"),
    JobState.TIMED_OUT: (1, "timed_out – job timed out after 1 s: 0 of 2 succeeded, 1 timed out, 1 left"),
}


def test_the_monitor_is_asked_about_every_end() -> None:
    """None is missing in the table of the next test."""
    assert ENDS.keys() == JOB_ENDS


@SHARED
@pytest.mark.parametrize("state", ENDS)
def test_the_monitor_ends_with_0_only_for_a_success(
    ledger: Ledger, monitor: Callable[..., tuple[int, str]], state: JobState
) -> None:
    """`holdfast jobs watch` ends with 1 for every other end, and `status`, too; both say how much was done."""
    reach_job(ledger, state)
    code, said = ENDS[state]

    for command in ("watch", "status"):
        ended, out = monitor(command, "job")
        assert (ended, said in out) == (code, True), out


@SHARED
def test_a_job_is_created_here_processed_there_and_monitored(
    home: Home, jobs: Jobs, outside: Path, monitor: Callable[..., tuple[int, str]]
) -> None:
    """One process submits, another one executes, a monitor waits for the end of it; each row is called once."""
    job = jobs.submit(range(ROWS), HANDLERS["asked"], mode="auto", name="orders")
    assert monitor("status", job.id) == (0, f"{job.id} orders: pending: 0 of 6 succeeded, 6 left\n")
    assert home.url is not None
    program = started(home.url, outside, "run", job.id, PACE="0.05")
    code, out = monitor("watch", job.id, "--interval", "0.05")

    assert ended(program) == 0
    assert code == 0
    assert f"{job.id} orders: succeeded: 6 of 6 succeeded" in out.splitlines()[-1]
    assert calls(outside) == {f"{job.id}:line:{line}": 1 for line in range(1, ROWS + 1)}
    assert [one.result for one in jobs.results(job)] == list(calls(outside))


@SHARED
def test_a_monitor_of_an_unknown_job_ends_with_2(jobs: Jobs, monitor: Callable[..., tuple[int, str]]) -> None:
    """It does not wait for one that may come: the id is wrong, and it says how to find those that are right."""
    jobs.submit([1], HANDLERS["asked"])
    for command in ("watch", "status"):
        code, out = monitor(command, "nobody")
        assert (code, out) == (
            2,
            "error: no job 'nobody' in tenant 'default'; list what there is to see the ids: holdfast jobs list\n",
        )


@QUICK
def test_an_unknown_job_is_an_error(desk: Desk) -> None:
    """Whatever is asked of a job that is not there: an error that names it, and the tenant."""
    jobs = desk.jobs
    asks: list[Callable[[str], Any]] = [
        *(jobs.status, jobs.run, jobs.cancel, jobs.preview, jobs.retry_failed, jobs.pause, jobs.resume),
        *(jobs.restart, jobs.job, jobs.reconcile),
        lambda job: jobs.total(job, "price"),
        lambda job: jobs.approve(job, "digest"),
        lambda job: list(jobs.results(job)),
        lambda job: list(jobs.events(job)),
        lambda job: list(jobs.watch(job)),
    ]
    for ask in asks:
        with pytest.raises(NotFoundError, match=r"no job 'nobody' in tenant 'default'"):
            ask("nobody")
    with pytest.raises(NotFoundError, match=r"no batch 'nobody' in tenant 'default'"):
        jobs.batch("nobody")


@QUICK
def test_a_watcher_sees_a_job_go_on(desk: Desk) -> None:
    """A watch tells each change, with rate and time left, and ends with the job."""
    job = desk.submit(range(4), lambda row: Takes(10.0))
    seen: list[Progress] = []

    async def main() -> None:
        work = asyncio.ensure_future(desk.jobs.arun(job, concurrency=1))
        seen.extend([progress async for progress in desk.jobs.awatch(job, interval=1.0)])
        await work

    desk.clock.run(main())

    assert [progress.counts.done for progress in seen if progress.counts.in_flight or progress.ended] == [
        0, 1, 2, 3, 4,
    ]  # fmt: skip
    assert seen[-1].ended
    assert seen[-1].eta == 0.0
    later = next(progress for progress in seen if progress.counts.done == 3)
    assert 0.05 < later.rate <= 0.2
    assert later.eta == pytest.approx(1 / later.rate)


@QUICK
def test_a_progress_is_read_on_one_line(desk: Desk) -> None:
    """Printed, it says state, share, rate, failures, what needs review and the time left, as far as there are any."""

    def do(row: int) -> Takes:
        if row == 1:
            raise ValueError("one")
        return Takes(10.0)

    job = desk.submit(range(4), do)
    waiting = str(desk.jobs.status(job))
    seen: list[str] = []

    async def main() -> None:
        work = asyncio.ensure_future(desk.jobs.arun(job, concurrency=1))
        seen.extend([str(progress) async for progress in desk.jobs.awatch(job, interval=1.0)])
        await work

    desk.clock.run(main())

    assert waiting == f"{job.id} pending  0/4 (0.0 %)"
    assert f"{job.id} running  2/4 (50.0 %)  0.2/s  1 failed  ETA 0:00:10" in seen
    assert seen[-1] == f"{job.id} partially_failed  4/4 (100.0 %)  1 failed"


@QUICK
def test_events_can_be_replayed_and_followed(desk: Desk) -> None:
    """The history has no gaps, can be read from any number, and a follower gets all of it, live."""
    job = desk.submit(range(3), lambda row: Takes(5.0))

    async def main() -> list[int]:
        work = asyncio.ensure_future(desk.jobs.arun(job, concurrency=1))
        followed = [event.seq async for event in desk.jobs.aevents(job)]
        await work
        return followed

    followed = desk.clock.run(main())
    replayed = list(desk.jobs.events(job))

    assert followed == [event.seq for event in replayed] == list(range(1, len(replayed) + 1))
    assert [event.seq for event in desk.jobs.events(job, after=4)] == followed[4:]
    assert [event.state for event in replayed if event.kind == "job"] == ["pending", "running", "succeeded"]


@QUICK
def test_a_worker_serves_whatever_comes(desk: Desk) -> None:
    """A worker without a job of its own takes jobs that are submitted while it runs, until it is stopped."""
    handler = desk.handler(lambda row: row)
    worker = desk.worker()

    def submit() -> Any:
        return desk.submit([1], handler)

    *jobs, _ = desk.meanwhile((5.0, submit), (65.0, submit), (70.0, worker.stop), worker=worker)

    assert [desk.jobs.status(job).state for job in jobs] == ["succeeded"] * 2
    assert [desk.jobs.job(job).finished_at for job in jobs] == [
        pytest.approx(job.created_at + 0.25, abs=0.26) for job in jobs
    ]


@QUICK
def test_a_batch_shows_joint_progress(desk: Desk) -> None:
    """A batch counts its jobs that have ended, and is partially failed when some did not succeed."""
    batch = desk.jobs.create_batch("May", batch_id="may")

    def do(row: int) -> None:
        if row == 2:
            raise ValueError

    handler = desk.handler(do)
    jobs = [desk.submit([row], handler, batch=batch.id) for row in (1, 2, 3)]
    seen: list[float] = []
    for job in jobs:
        desk.run(job)
        seen.append(desk.jobs.batch("may").percent)

    assert seen == [33.3, 66.7, 100.0]
    assert desk.jobs.batch("may").state == "partially_failed"
    assert [job.id for job in desk.jobs.find(batch="may")] == [job.id for job in reversed(jobs)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@QUICK
def test_results_are_exported(desk: Desk, tmp_path: Path, suffix: str) -> None:
    """Every row with its state, result, error and attempts, as CSV or JSON lines; other kinds are refused."""

    def do(row: int) -> Any:
        if row == 2:
            raise ValueError("two")
        return {"cost": Decimal("1.10")}

    job = desk.submit([1, 2], do)
    desk.run(job)
    path = tmp_path / f"results.{suffix}"

    assert desk.jobs.export(job, path) == 2
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file)) if suffix == "csv" else [json.loads(line) for line in file]
    assert [(row["key"], row["state"], row["error"], int(row["attempts"])) for row in rows] == [
        ("line:1", "succeeded", "", 1),
        ("line:2", "failed", "ValueError: two", 1),
    ]
    result = json.loads(rows[0]["result"]) if suffix == "csv" else rows[0]["result"]
    assert result == {"cost": "1.10"}
    with pytest.raises(ConfigurationError, match=r"\.jsonl or \.csv"):
        desk.jobs.export(job, tmp_path / "results.pdf")
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith("results")] == [path.name]


@QUICK
def test_what_has_ended_long_ago_is_archived(desk: Desk, tmp_path: Path) -> None:
    """Old jobs become files with all that was known, and leave the store; younger and open ones stay."""
    old = desk.submit([{"price": Decimal("1.10")}], lambda row: row)
    desk.run(old)
    desk.clock.advance(100.0)
    young, open_ = desk.submit([1], lambda row: row), desk.submit([1], lambda row: row)
    desk.run(young)

    assert desk.jobs.archive(tmp_path / "archive", older_than=50.0) == [old.id]

    records = [
        json.loads(line) for line in (tmp_path / "archive" / f"{old.id}.jsonl").read_text().splitlines()
    ]
    assert [record["kind"] for record in records[:2]] == ["job", "step"]
    assert records[1]["payload"]["price"] == records[1]["result"]["price"]
    assert {record["event"]["state"] for record in records[2:]} >= {"pending", "running", "succeeded"}
    assert {job.id for job in desk.jobs.find()} == {young.id, open_.id}


@QUICK
def test_a_line_in_the_log_tells_each_end(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """The log notifier writes info for a success and a warning for all else."""
    caplog.set_level("INFO", logger="holdfast.jobs")

    def do(row: int) -> None:
        if row:
            raise ValueError

    handler = desk.handler(do)
    for row in (0, 1):
        job = desk.submit([row], handler)
        desk.meanwhile(worker=Worker(desk.store, desk.jobs.handlers, job=job.id, notifier=LogNotifier()))

    ends = [record for record in caplog.records if "of 1 succeeded" in record.message]
    assert [record.levelname for record in ends] == ["INFO", "WARNING"]


@QUICK
def test_tenants_do_not_see_each_other(home: Any, virtual_clock: Any) -> None:
    """A job of one tenant is not there for another: not by its id, not in any list."""
    first = Desk(home.open(clock=virtual_clock), virtual_clock, "sync")
    other = Desk(home.open("other", clock=virtual_clock), virtual_clock, "sync")
    job = first.submit([1], lambda row: row)

    with pytest.raises(NotFoundError, match="tenant 'other'"):
        other.jobs.status(job)
    assert other.jobs.find() == []
    assert first.run(job).succeeded


@QUICK
def test_a_sync_door_inside_a_loop_says_what_to_await(desk: Desk) -> None:
    """Who calls a blocking method where a loop runs is told the name of the one to await."""
    job = desk.submit([1], lambda row: row)

    async def main() -> None:
        calls: list[tuple[Callable[..., Any], str]] = [
            (desk.jobs.run, "arun"),
            (desk.jobs.resume, "aresume"),
            (desk.jobs.preview, "apreview"),
            (desk.jobs.reconcile, "areconcile"),
        ]
        for call, instead in calls:
            with pytest.raises(RuntimeError, match=rf"await {instead}\(\)"):
                call(job)

    asyncio.run(main())
