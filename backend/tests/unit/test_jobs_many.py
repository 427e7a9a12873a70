"""A store with more jobs than are read at once."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from backend.tests.integration.jobs._ledger import made, outcome, ref, worker
from holdfast.cli import _jobs_run
from holdfast.cli._exit import Stop
from holdfast.infrastructure.store.memory import MemoryStateStore
from holdfast.infrastructure.store.state import NewJob, StateStore, StepState
from holdfast.services.jobs import Jobs
from holdfast.testing.clock import VirtualClock


def ship(row: object) -> str:
    return "shipped"


def crowd(store: StateStore) -> None:
    """Store more jobs than are read at once, all of which wait for approval."""
    for number in range(10_001):
        store.create_job(NewJob(id=f"later-{number}", handler="ship", ready=False), made(1))
        store.preview_job(f"later-{number}", f"of-{number}", {})


def test_the_oldest_of_very_many_jobs_is_not_forgotten() -> None:
    """What a dead worker left behind, and what needs review, is found however many jobs came later."""
    clock = VirtualClock()
    store = MemoryStateStore(clock=clock)
    store.create_job(NewJob(id="first", handler="ship"), made(2))
    store.register(worker("w1"), 10.0)
    doubtful, held = [ref(step) for step in store.claim("w1", 2)]
    store.advance("w1", (), [doubtful, held])
    store.advance("w1", [outcome(doubtful, StepState.NEEDS_REVIEW)])
    crowd(store)
    clock.advance(20.0)

    jobs = Jobs(store)
    assert [(one.job.id, one.held, one.review) for one in jobs.interrupted()] == [("first", 1, 1)]
    assert [(step.job, step.position) for step in jobs.review()] == [("first", doubtful.position)]


def test_the_command_finds_the_oldest_of_very_many_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether a file was begun, and what a digest approves, is known however many jobs came later."""
    file = tmp_path / "orders.csv"
    file.write_text("order\nA-1\n", encoding="utf-8")
    jobs = Jobs(MemoryStateStore(), [ship])

    def opened(*_: object, **__: object) -> nullcontext[Jobs]:
        return nullcontext(jobs)

    monkeypatch.setattr(_jobs_run, "opened", opened)
    begun = jobs.submit(file, ship, mode="auto", settings={"submitted_from": str(file)})
    waits = jobs.submit(file, ship, mode="confirm")
    digest = jobs.preview(waits).digest
    crowd(jobs.store)

    with pytest.raises(Stop, match=rf"orders[.]csv was begun as job {begun.id}"):
        _jobs_run.run(str(file), f"{__name__}:ship")
    assert _jobs_run.run(str(file), f"{__name__}:ship", digest=digest, json=True) == 0
    assert json.loads(capsys.readouterr().out)["job"] == waits.id
