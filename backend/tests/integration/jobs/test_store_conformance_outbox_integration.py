"""Every store × the outbox: which results go back, what became of them, and that no step depends on it."""

from dataclasses import replace

import pytest

from backend.tests.integration.jobs._ledger import Ledger, step
from holdfast.infrastructure.store.state import (
    JobState,
    OutboxEntry,
    OutboxState,
    StepState,
)


def with_results(ledger: Ledger, job: str = "job", results: int = 3) -> list[OutboxEntry]:
    """Let every step of a job succeed, each with its position as its result."""
    ledger.submit(job, [step(f"s{n}", line=n + 2) for n in range(results)], write_back=True)
    for which in ledger.start(job=job):
        ledger.end(which, result=str(which.position).encode())
    return ledger.store.outbox(job)


def test_a_result_goes_back_to_its_row(ledger: Ledger) -> None:
    """The entry is stored with the success: position, key, line and result of its step."""
    entries = with_results(ledger)
    assert entries == [
        OutboxEntry(job="job", position=n, key=f"s{n}", line=n + 2, result=str(n).encode()) for n in range(3)
    ]


def test_only_successes_with_a_result_go_back(ledger: Ledger) -> None:
    """A failure, a review and a success without result have nothing to write; another job's are its own."""
    ledger.submit(steps=4, write_back=True)
    ledger.run(StepState.SUCCEEDED, StepState.FAILED, StepState.NEEDS_REVIEW)
    [last] = ledger.start()
    ledger.end(last, result=None)
    ledger.submit("other", 1, write_back=True)
    ledger.run(StepState.SUCCEEDED, job="other")
    assert [entry.position for entry in ledger.store.outbox("job")] == [0]
    ledger.store.resolve("job", "s2", StepState.SUCCEEDED, result=b"2")
    assert [(entry.position, entry.result) for entry in ledger.store.outbox("job")] == [(0, b"1"), (2, b"2")]


def test_a_job_without_write_back_has_no_outbox(ledger: Ledger) -> None:
    """Results are kept, nothing waits."""
    ledger.submit(steps=1)
    ledger.run(StepState.SUCCEEDED)
    assert (ledger.store.outbox("job"), ledger.store.owing()) == ([], [])


def test_what_became_of_a_write_back_is_kept(ledger: Ledger) -> None:
    """State, attempts, due time and error of each entry; nothing else of it can be changed."""
    first, second, third = with_results(ledger)
    due = ledger.clock.time() + 5
    changed = [
        replace(first, state=OutboxState.WRITTEN, attempts=1, result=b"other", key="other"),
        replace(second, attempts=1, due_at=due, error="locked"),
        replace(third, state=OutboxState.DEAD, attempts=9, error="read-only"),
    ]
    ledger.store.settle_outbox(changed)
    kept = sorted(ledger.store.outbox("job"), key=lambda entry: entry.position)
    assert kept == [replace(changed[0], result=first.result, key=first.key), *changed[1:]]


def test_write_backs_are_told(ledger: Ledger) -> None:
    """Each state that entries came into is an event with their positions."""
    first, second, third = with_results(ledger)
    seen = ledger.store.job("job").last_event
    ledger.store.settle_outbox(
        [
            replace(third, state=OutboxState.WRITTEN, attempts=2),
            replace(second, attempts=1, error="locked"),
            replace(first, state=OutboxState.WRITTEN, attempts=1),
        ]
    )
    again, written = ledger.store.events("job", after=seen)
    assert (again.kind, again.state, again.positions) == ("write-back", "pending", (1,))
    assert (again.data["attempt"], again.data["error"]) == ([1], ["locked"])
    assert (written.kind, written.state, written.positions) == ("write-back", "written", (0, 2))
    assert (written.data["attempt"], "error" in written.data) == ([1, 2], False)


def test_entries_that_are_due_come_first(ledger: Ledger) -> None:
    """In order of the rows; those that wait for another try come after them until they are due."""
    entries = with_results(ledger, results=4)
    later = ledger.clock.time() + 10
    ledger.store.settle_outbox([replace(entry, due_at=later) for entry in entries[:2]])
    assert [entry.position for entry in ledger.store.outbox("job")] == [2, 3, 0, 1]
    assert [entry.position for entry in ledger.store.outbox("job", limit=3)] == [2, 3, 0]
    ledger.clock.advance(10)
    assert [entry.position for entry in ledger.store.outbox("job", limit=3)] == [0, 1, 2]


def test_entries_are_filtered_by_state(ledger: Ledger) -> None:
    """What is to be written, what is dead, what is done."""
    first, second, _ = with_results(ledger)
    ledger.store.settle_outbox(
        [replace(first, state=OutboxState.DEAD), replace(second, state=OutboxState.WRITTEN)]
    )
    found = {
        state: [entry.position for entry in ledger.store.outbox("job", states=[state])]
        for state in OutboxState
    }
    assert found == {OutboxState.DEAD: [0], OutboxState.WRITTEN: [1], OutboxState.PENDING: [2]}
    both = ledger.store.outbox("job", states=iter([OutboxState.DEAD, OutboxState.WRITTEN]))
    assert [entry.position for entry in both] == [0, 1]


def test_what_was_written_stays_written(ledger: Ledger) -> None:
    """A second writer who is slower changes nothing and is not told of; a dead letter may be tried again."""
    first, second, _ = with_results(ledger)
    written = replace(first, state=OutboxState.WRITTEN, attempts=1)
    ledger.store.settle_outbox([written, replace(second, state=OutboxState.DEAD)])
    seen = ledger.store.job("job").last_event
    ledger.store.settle_outbox([replace(first, state=OutboxState.DEAD, error="late")])
    assert ledger.store.job("job").last_event == seen
    assert ledger.store.outbox("job", states=[OutboxState.WRITTEN]) == [written]
    ledger.store.settle_outbox([second])
    assert second in ledger.store.outbox("job", states=[OutboxState.PENDING])


def test_what_is_not_there_is_not_settled(ledger: Ledger) -> None:
    """A job that was deleted meanwhile, a row without result: nothing happens, the others are settled."""
    first, *_ = with_results(ledger)
    gone = [replace(first, job="gone"), replace(first, position=99)]
    ledger.store.settle_outbox([*gone, replace(first, state=OutboxState.WRITTEN)])
    assert len(ledger.store.outbox("job", states=[OutboxState.WRITTEN])) == 1
    ledger.store.settle_outbox([])


def test_a_failed_write_back_changes_no_step(ledger: Ledger) -> None:
    """Step, counters, version and state of the job stay as they were."""
    first, *_ = with_results(ledger)
    job, steps = ledger.store.job("job"), ledger.store.steps("job")
    ledger.store.settle_outbox([replace(first, state=OutboxState.DEAD, error="no")])
    after = ledger.store.job("job")
    assert ledger.store.steps("job") == steps
    assert replace(after, last_event=job.last_event) == job
    assert job.state is JobState.SUCCEEDED


def test_jobs_that_owe_are_known(ledger: Ledger) -> None:
    """Those with results that wait, ended or not; what is written or dead is not owed."""
    first, second = with_results(ledger, "ended", 2)
    ledger.submit("active", 2, write_back=True)
    ledger.run(StepState.SUCCEEDED, job="active")
    ledger.submit("none", 1, write_back=True)
    assert sorted(ledger.store.owing()) == ["active", "ended"]
    ledger.store.settle_outbox([replace(first, state=OutboxState.WRITTEN)])
    ledger.store.settle_outbox([replace(second, attempts=1, due_at=ledger.clock.time() + 99)])
    assert sorted(ledger.store.owing()) == ["active", "ended"]
    ledger.store.settle_outbox([replace(second, state=OutboxState.DEAD)])
    assert ledger.store.owing() == ["active"]


@pytest.mark.parametrize("end", [JobState.CANCELLED, JobState.FAILED])
def test_results_of_a_stopped_job_still_go_back(ledger: Ledger, end: JobState) -> None:
    """What has happened is written, however the job ended."""
    ledger.submit(steps=3, write_back=True)
    [which] = ledger.start(limit=1)
    ledger.store.change_job("job", end)
    ledger.end(which, result=b"1")
    assert ledger.store.owing() == ["job"]
