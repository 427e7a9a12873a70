"""The engine over DynamoDB: rows in doubt, paused, cancelled, written back; workers that die, or lose their lease."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.tests.integration.jobs._desk import STEADY, Desk, Takes
from backend.tests.integration.jobs._homes import Home
from backend.tests.integration.jobs._outside import ROWS, calls
from holdfast.infrastructure.store.state import JobRecord, JobState
from holdfast.services.jobs import Handler, Jobs

pytestmark = pytest.mark.parametrize("store_kind", ["dynamodb"], indirect=True)


def elsewhere(desk: Desk, home: Home) -> Jobs:
    """Return the jobs as another process sees them."""
    return Jobs(home.open(clock=desk.clock))


def test_each_of_thirty_rows_is_done_once(desk: Desk) -> None:
    """One fails and is tried again later, one is in doubt since its worker died and waits for a person."""
    called: Counter[int] = Counter()

    def do(row: int, call: Any) -> str:
        called[row] += 1
        if row == 7 and call.attempt == 1:
            raise ConnectionError("reset")
        return f"shipped {row}"

    job = desk.submit(range(30), do, max_attempts=2, backoff=STEADY)
    desk.left_by_the_dead(job, claimed=3, begun=1)
    done = desk.run(job)

    assert (done.state, done.counts.succeeded, done.counts.needs_review) == (JobState.RUNNING, 29, 1)
    assert called == {**dict.fromkeys(range(1, 30), 1), 7: 2}
    [doubtful] = desk.jobs.review(job)
    desk.jobs.resolve(job, doubtful.key, "succeeded", result="shipped 0", by="ann")
    assert desk.jobs.status(job).succeeded
    assert desk.results(job) == [f"shipped {row}" for row in range(30)]


def test_another_process_pauses_and_resumes(desk: Desk, home: Home) -> None:
    """What runs ends, nothing more begins; after that the rest is done."""
    job = desk.submit(range(6), lambda row: Takes(10.0))
    other = elsewhere(desk, home)
    desk.meanwhile((5.0, lambda: other.pause(job)), worker=desk.worker(concurrency=2, job=job.id))

    assert desk.states(job) == ["succeeded"] * 2 + ["pending"] * 4
    other.resume(job, execute=False)
    assert desk.run(job).succeeded


def test_another_process_cancels(desk: Desk, home: Home) -> None:
    """What has not begun is cancelled at once; what runs is told, and its result counts."""

    def do(row: int, call: Any) -> str:
        while not call.cancelled:
            desk.clock.sleep(0.5)
        return "in time"

    async def ado(row: int, call: Any) -> str:
        try:
            await desk.clock.asleep(1000.0)
        except asyncio.CancelledError:
            return "in time"
        return "too late"

    job = desk.submit([1, 2], Handler(do if desk.mode == "sync" else ado, name="waits"))
    worker = desk.worker(concurrency=1, job=job.id)
    desk.meanwhile((5.0, lambda: elsewhere(desk, home).cancel(job)), worker=worker)

    assert (desk.states(job), desk.results(job)[0]) == (["succeeded", "cancelled"], "in time")
    assert desk.store.job(job.id).state is JobState.CANCELLED


def test_a_worker_that_lost_its_lease_records_nothing(desk: Desk, home: Home) -> None:
    """Its late result is refused; it begins anew, and the row is sent again."""
    seen: list[int] = []

    def do(row: int, call: Any) -> Takes:
        seen.append(call.attempt)
        return Takes(30.0 if len(seen) == 1 else 1.0, f"call {len(seen)}")

    job = desk.submit([1], desk.handler(do, idempotent=True))
    worker = desk.worker(job=job.id)
    desk.meanwhile((5.0, lambda: elsewhere(desk, home).store.recover([worker.id])), worker=worker)

    assert (desk.results(job), desk.store.workers()) == (["call 2"], [])


@pytest.mark.parametrize("at", ["engine.after_claim:1", "engine.after_commit:3", "engine.after_call:3"])
def test_a_killed_process_is_followed_by_another(
    jobs: Jobs, outside: Path, killed: Callable[..., JobRecord], at: str
) -> None:
    """Which asks about the row in doubt: none is lost, none is called twice."""
    job = killed("asked", at)

    assert jobs.resume(job).succeeded
    assert calls(outside) == {f"{job.id}:line:{line}": 1 for line in range(1, ROWS + 1)}


def test_results_are_written_back_to_their_file(desk: Desk, file: Callable[..., Path]) -> None:
    """Through the table's outbox."""
    orders = file("order,label\nA-1,\nA-2,\n")
    job = desk.submit(
        orders, lambda row: {"label": f"label of {row['order']}"}, write_back={"label": "label"}
    )

    assert desk.run(job).succeeded
    assert orders.read_text(encoding="utf-8") == "order,label\nA-1,label of A-1\nA-2,label of A-2\n"
