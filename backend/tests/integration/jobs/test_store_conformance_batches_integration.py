"""Every store × batches and tenants: what is derived, what sticks, and what nobody else sees."""

from collections.abc import Callable
from typing import Any

import pytest

from backend.tests.integration.jobs._ledger import Ledger, made
from backend.tests.integration.jobs._reach import reach_job
from holdfast.infrastructure.store.state import (
    BatchRecord,
    BatchState,
    IllegalTransition,
    JobState,
    NewJob,
    NewStep,
    NotFoundError,
    StateStore,
    StepState,
    SubmissionError,
)


def filled(ledger: Ledger, jobs: int = 3, steps: int = 1) -> list[str]:
    """Store a batch with jobs in it."""
    ledger.store.create_batch("batch", "May")
    names = [f"j{number}" for number in range(jobs)]
    for name in names:
        ledger.submit(name, steps, batch="batch")
    return names


def state(ledger: Ledger) -> BatchState:
    return ledger.store.batch("batch").state


def test_a_batch_is_created_once(ledger: Ledger) -> None:
    """A second time the first one comes back, with its name."""
    first = ledger.store.create_batch("batch", "May")
    now = ledger.clock.time()
    assert first == BatchRecord(
        id="batch", name="May", state=BatchState.PENDING, total=0, done=0, created_at=now
    )
    ledger.clock.advance(1)
    assert ledger.store.create_batch("batch", "June") == ledger.store.batch("batch") == first
    assert first.percent == 0.0


def test_an_unknown_batch_is_an_error_that_names_it(ledger: Ledger) -> None:
    """Looked at or cancelled."""
    for look in (ledger.store.batch, ledger.store.cancel_batch):
        with pytest.raises(NotFoundError) as caught:
            look("none")
        assert (caught.value.kind, caught.value.which) == ("batch", "none")


def test_the_progress_of_a_batch(ledger: Ledger) -> None:
    """Of three jobs one is 33.3, two 66.7, all 100.0; the state follows."""
    seen: list[tuple[BatchState, int, float]] = []
    for name in [None, *filled(ledger)]:
        if name:
            ledger.run(StepState.SUCCEEDED, job=name)
        batch = ledger.store.batch("batch")
        seen.append((batch.state, batch.done, batch.percent))
    assert seen == [
        (BatchState.PENDING, 0, 0.0),
        (BatchState.RUNNING, 1, 33.3),
        (BatchState.RUNNING, 2, 66.7),
        (BatchState.SUCCEEDED, 3, 100.0),
    ]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (("succeeded", "succeeded"), "succeeded"),
        (("succeeded", "failed"), "partially_failed"),
        (("failed", "failed"), "failed"),
        (("partially_failed", "failed"), "partially_failed"),
        (("failed", "cancelled"), "failed"),
        (("expired", "timed_out"), "failed"),
        (("expired", "succeeded"), "partially_failed"),
        (("succeeded", "running"), "running"),
        (("failed", "pending"), "running"),
        (("pending", "previewed"), "pending"),
        (("paused", "pending"), "running"),
    ],
)
def test_the_state_of_a_batch_is_that_of_its_jobs(
    ledger: Ledger, ends: tuple[str, str], expected: str
) -> None:
    """All, some or none; expired and cancelled count as done."""
    ledger.store.create_batch("batch")
    for name, end in zip(("x", "y"), ends, strict=True):
        reach_job(ledger, JobState(end), name, batch="batch")
    batch = ledger.store.batch("batch")
    done = sum(end not in {"pending", "previewed", "running", "paused"} for end in ends)
    assert (batch.state, batch.done, batch.total) == (expected, done, 2)


def test_cancelling_a_batch_cancels_what_has_not_ended(ledger: Ledger) -> None:
    """Its active jobs, with their pending steps; the others keep their end, calls under way may end."""
    done, running, waiting = filled(ledger, steps=2)
    ledger.run(StepState.SUCCEEDED, StepState.SUCCEEDED, job=done)
    [which] = ledger.start(job=running, limit=1)
    ledger.submit("outside")
    batch = ledger.store.cancel_batch("batch")
    assert (batch.state, batch.done, batch.total) == (BatchState.CANCELLED, 3, 3)
    assert [ledger.state(name) for name in (done, running, waiting, "outside")] == [
        *("succeeded", "cancelled", "cancelled", "pending")
    ]
    assert ledger.states(running) == ["running", "cancelled"]
    ledger.end(which)
    assert ledger.told(waiting)[-2:] == [("step", "cancelled", (0, 1)), ("job", "cancelled", ())]


def test_a_cancelled_batch_stays_so(ledger: Ledger) -> None:
    """Whatever its jobs become; cancelling it again changes nothing, and it takes no more jobs."""
    [name] = filled(ledger, jobs=1)
    [which] = ledger.start(job=name)
    first = ledger.store.cancel_batch("batch")
    ledger.end(which)
    assert ledger.store.cancel_batch("batch") == ledger.store.batch("batch") == first
    assert ledger.store.create_batch("batch").state is BatchState.CANCELLED
    with pytest.raises(SubmissionError, match="batch 'batch' was cancelled"):
        ledger.store.create_job(NewJob(id="new", handler="ship", batch="batch"), made(1))


def test_an_empty_batch_may_be_cancelled(ledger: Ledger) -> None:
    """Then nothing is submitted to it."""
    ledger.store.create_batch("batch")
    assert ledger.store.cancel_batch("batch").state is BatchState.CANCELLED


@pytest.mark.parametrize("end", [StepState.SUCCEEDED, StepState.FAILED])
def test_a_batch_that_has_ended_is_not_cancelled(ledger: Ledger, end: StepState) -> None:
    """It would tell an untruth; with a new job in it, it is active again and can be."""
    ledger.store.create_batch("batch")
    ledger.submit("a", 1, batch="batch")
    ledger.run(end, job="a")
    with pytest.raises(IllegalTransition) as caught:
        ledger.store.cancel_batch("batch")
    assert (caught.value.from_, caught.value.to) == (end.value, "cancelled")
    ledger.submit("b", 1, batch="batch")
    assert state(ledger) is BatchState.RUNNING
    assert ledger.store.cancel_batch("batch").state is BatchState.CANCELLED


def test_a_deleted_job_leaves_its_batch(ledger: Ledger) -> None:
    """It counts no more."""
    first, *_ = filled(ledger)
    ledger.run(StepState.FAILED, job=first)
    ledger.store.delete_job(first)
    assert (ledger.store.batch("batch").total, state(ledger)) == (2, BatchState.PENDING)


LOOKS: dict[str, Callable[[StateStore, str], Any]] = {
    "job": lambda store, name: store.job(name),
    "step": lambda store, name: store.step(name, "s0"),
    "steps": lambda store, name: store.steps(name),
    "events": lambda store, name: store.events(name),
    "outbox": lambda store, name: store.outbox(name),
    "jobs": lambda store, name: store.jobs(after=name),
    "batch": lambda store, name: store.batch(name),
    "cancel_batch": lambda store, name: store.cancel_batch(name),
    "change_job": lambda store, name: store.change_job(name, JobState.CANCELLED),
    "preview_job": lambda store, name: store.preview_job(name, "digest", {}),
    "approve_job": lambda store, name: store.approve_job(name, "digest"),
    "delete_job": lambda store, name: store.delete_job(name),
    "note": lambda store, name: store.note(name, "x", {}),
    "resolve": lambda store, name: store.resolve(name, "s0", StepState.FAILED),
}
ODD = ["\0", "mine\0", "mine\ud800"]


@pytest.mark.parametrize("look", LOOKS)
def test_what_another_tenant_has_is_invisible(tenants: tuple[Ledger, Ledger], look: str) -> None:
    """Its ids are unknown here, and the error names this tenant."""
    mine, other = tenants
    mine.store.create_batch("mine")
    mine.submit("mine", batch="mine", write_back=True)
    with pytest.raises(NotFoundError) as caught:
        LOOKS[look](other.store, "mine")
    assert caught.value.tenant == other.store.tenant
    assert mine.state("mine") is JobState.PENDING


@pytest.mark.parametrize("look", [*LOOKS, "key", "decided"])
@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_a_name_that_no_database_can_hold_is_not_found(ledger: Ledger, name: str, look: str) -> None:
    """Zero bytes and lone surrogates are in no name that there is, whoever asks for it."""
    ledger.submit("mine")
    by_key: dict[str, Callable[[StateStore, str], Any]] = {
        "key": lambda store, name: store.step("mine", name),
        "decided": lambda store, name: store.resolve("mine", name, StepState.FAILED),
    }
    with pytest.raises(NotFoundError):
        {**LOOKS, **by_key}[look](ledger.store, name)
    assert ledger.store.jobs(batch=name) == []


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_a_name_that_no_database_can_hold_is_not_given(ledger: Ledger, name: str) -> None:
    """A submission is told all names that it cannot have; a batch is not created."""
    new = NewJob(id=name, handler=name, batch=name, dedup_key=name)
    with pytest.raises(SubmissionError) as caught:
        ledger.store.create_job(new, [NewStep(key=name, payload=b"1")])
    unfit = [fault.partition(" ")[0] for fault in caught.value.faults if "zero bytes" in fault]
    assert sorted(unfit) == ["batch", "dedup_key", "handler", "id", "step"]
    with pytest.raises(SubmissionError, match="zero bytes or lone surrogates"):
        ledger.store.create_batch(name)
    assert ledger.store.jobs() == []


def test_two_tenants_use_the_same_ids(tenants: tuple[Ledger, Ledger]) -> None:
    """Jobs, steps, batches, deduplication keys, workers and locks of the same names are not the same."""
    for one, steps in zip(tenants, (1, 2), strict=True):
        one.store.create_batch("batch", one.tenant)
        one.submit(steps=steps, batch="batch", dedup_key="k")
        assert len(one.start()) == steps
        assert one.store.acquire("run", one.tenant, 10.0) is not None
    mine, other = tenants
    mine.run(job="job")
    mine.store.change_job("job", JobState.CANCELLED)
    mine.store.retire("w1")
    assert other.states() == ["running", "running"]
    assert [one.store.batch("batch").name for one in tenants] == [one.tenant for one in tenants]
    assert len(other.store.workers()) == 1


def test_nothing_reaches_over_to_another_tenant(tenants: tuple[Ledger, Ledger]) -> None:
    """Lists, claims, recoveries, sweeps, dues and debts are of one tenant."""
    mine, other = tenants
    mine.submit("a", 2, write_back=True, expires_in=5.0, step_timeout=5.0)
    mine.run(StepState.SUCCEEDED, job="a")
    mine.start()
    other.hire("w1", lease=1000.0)
    assert (other.store.jobs(), other.claim("w1"), other.store.owing()) == ([], [], [])
    assert other.store.next_due() is None
    mine.clock.advance(100)
    other.store.sweep()
    assert other.store.recover(["w1"]).returned == ()
    assert mine.states("a") == ["succeeded", "running"]


def test_a_claim_of_one_tenant_is_lost_in_another(tenants: tuple[Ledger, Ledger]) -> None:
    """A reference carried over says nothing there."""
    mine, other = tenants
    for one in tenants:
        one.submit(steps=1)
    [which] = mine.start()
    other.hire("w1")
    assert other.end(which).late == (which,)
    assert (mine.states(), other.states()) == (["running"], ["pending"])
