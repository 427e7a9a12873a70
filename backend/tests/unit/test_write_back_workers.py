"""Several workers, and jobs that follow one another, write back to one file: each knows what the others made of it."""

from pathlib import Path

import pytest

from holdfast.infrastructure.store.memory import MemoryStateStore
from holdfast.infrastructure.store.payload import encode
from holdfast.infrastructure.store.state import (
    JobRecord,
    OutboxState,
    Outcome,
    StepRef,
    StepState,
    WorkerRecord,
)
from holdfast.services.jobs import Jobs
from holdfast.services.jobs._write_back import Drain


def ship(row: dict[str, str]) -> dict[str, str]:
    if row["id"] == "2" and not Path("mended").exists():
        raise ValueError("no such street")
    return {"tracking": f"T-{row['id']}"}


def submitted(jobs: Jobs, folder: Path) -> JobRecord:
    """Submit three orders whose tracking numbers go back to their file."""
    source = folder / "orders.csv"
    source.write_text("id,tracking\n1,\n2,\n3,\n", encoding="utf-8")
    return jobs.submit(source, ship, mode="auto", write_back={"tracking": "tracking"})


def test_workers_know_what_others_wrote(tmp_path: Path) -> None:
    """Two workers that write results of one job in turn do not take each other's writes for somebody else's."""
    store = MemoryStateStore("default")
    jobs = Jobs(store, [ship])
    job = submitted(jobs, tmp_path)
    store.register(WorkerRecord(id="w", host="h", pid=1, born="1", expires_at=0.0), 60)
    steps = store.claim("w", 3)
    refs = [StepRef(job=step.job, position=step.position, fence=step.fence) for step in steps]
    store.advance("w", begin=refs)
    drains = Drain(store), Drain(store)
    for ref, which in zip(refs, (0, 1, 0), strict=True):
        result = encode({"tracking": f"T-{ref.position + 1}"})
        store.advance("w", [Outcome(ref=ref, state=StepState.SUCCEEDED, result=result)])
        assert drains[which].drain(job, f"worker {which}").written == 1
    assert (tmp_path / "orders.csv").read_text(encoding="utf-8") == "id,tracking\n1,T-1\n2,T-2\n3,T-3\n"


def test_a_retry_knows_what_the_first_job_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The results of `retry_failed`, and of a retry of that, go to the file that the first job has written to."""
    monkeypatch.chdir(tmp_path)
    jobs = Jobs(MemoryStateStore("default"), [ship])
    job = submitted(jobs, tmp_path)
    assert jobs.run(job).counts.failed == 1
    again = jobs.retry_failed(job)
    assert jobs.run(again).counts.failed == 1
    Path("mended").touch()
    last = jobs.retry_failed(again)
    assert jobs.run(last).succeeded
    assert jobs.store.outbox(last.id, states=[OutboxState.DEAD]) == []
    assert (tmp_path / "orders.csv").read_text(encoding="utf-8") == "id,tracking\n1,T-1\n2,T-2\n3,T-3\n"
