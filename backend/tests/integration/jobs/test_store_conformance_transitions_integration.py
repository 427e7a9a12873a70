"""Every store × the tables of states: what may follow what, by which door, and that a refusal changes nothing."""

from decimal import Decimal

import pytest

from backend.tests.integration.jobs._ledger import Ledger, outcome
from backend.tests.integration.jobs._reach import reach_job, reach_step
from holdfast.infrastructure.store.state import (
    JOB_CHANGES,
    JOB_ENDS,
    STEP_CHANGES,
    STEP_ENDS,
    ConflictError,
    IllegalTransition,
    JobState,
    Refusal,
    StepRef,
    StepState,
)

FIRST = StepRef(job="job", position=0, fence=1)
# Into these a job comes by preview, approval and claims alone.
GUARDED = {JobState.PREVIEWED, JobState.RUNNING}


@pytest.mark.parametrize("from_", JobState)
def test_a_job_is_moved_only_along_the_table(ledger: Ledger, from_: JobState) -> None:
    """`change_job` follows JOB_CHANGES from each state to each; it neither previews nor starts a job."""
    for to in JobState:
        job = f"to-{to}"
        reach_job(ledger, from_, job)
        if to in JOB_CHANGES[from_] - GUARDED:
            assert ledger.store.change_job(job, to).state is to
        else:
            with pytest.raises(IllegalTransition) as caught:
                ledger.store.change_job(job, to)
            assert (caught.value.from_, caught.value.to) == (from_, to)
            assert job in caught.value.what
            assert ledger.state(job) is from_


@pytest.mark.parametrize("from_", JobState)
def test_a_preview_follows_the_table(ledger: Ledger, from_: JobState) -> None:
    """A job is previewed when it waits, or again; in every other state that is refused."""
    reach_job(ledger, from_)
    if JobState.PREVIEWED in JOB_CHANGES[from_]:
        assert ledger.store.preview_job("job", "other", {}).state is JobState.PREVIEWED
    else:
        with pytest.raises(IllegalTransition):
            ledger.store.preview_job("job", "other", {})


@pytest.mark.parametrize("from_", JobState)
def test_only_a_previewed_job_is_approved(ledger: Ledger, from_: JobState) -> None:
    """Approval is for what was previewed, whatever else could run."""
    reach_job(ledger, from_)
    if from_ is JobState.PREVIEWED:
        assert ledger.store.approve_job("job", "digest").state is JobState.RUNNING
    else:
        with pytest.raises(IllegalTransition):
            ledger.store.approve_job("job", "digest")


@pytest.mark.parametrize("from_", JobState)
def test_only_a_job_that_has_ended_is_deleted(ledger: Ledger, from_: JobState) -> None:
    """An active job cannot be removed."""
    reach_job(ledger, from_)
    if from_ in JOB_ENDS:
        ledger.store.delete_job("job")
        assert ledger.store.jobs() == []
    else:
        with pytest.raises(IllegalTransition) as caught:
            ledger.store.delete_job("job")
        assert caught.value.from_ == from_


@pytest.mark.parametrize("from_", JobState)
def test_only_waiting_and_running_jobs_are_claimed_from(ledger: Ledger, from_: JobState) -> None:
    """No other state gives out steps, though it may have pending ones."""
    reach_job(ledger, from_)
    claimed = ledger.claim("w2")
    assert bool(claimed) is (from_ in {JobState.PENDING, JobState.RUNNING})


@pytest.mark.parametrize("to", StepState)
def test_a_call_ends_only_along_the_table(ledger: Ledger, to: StepState) -> None:
    """`advance` lets a running step become what STEP_CHANGES says, and refuses the whole call otherwise."""
    ledger.submit(steps=2)
    first, second = ledger.start()
    both = [outcome(first), outcome(second, to)]
    if to in STEP_CHANGES[StepState.RUNNING]:
        ledger.store.advance("w1", both)
        assert ledger.states() == [StepState.SUCCEEDED, to]
    else:
        with pytest.raises(IllegalTransition) as caught:
            ledger.store.advance("w1", both)
        assert (caught.value.from_, caught.value.to) == (StepState.RUNNING, to)
        assert ledger.states() == [StepState.RUNNING] * 2


@pytest.mark.parametrize("to", sorted(STEP_CHANGES[StepState.RUNNING]))
@pytest.mark.parametrize("from_", [state for state in StepState if state is not StepState.RUNNING])
def test_only_a_running_step_takes_an_outcome(ledger: Ledger, from_: StepState, to: StepState) -> None:
    """What is said of a step that does not run is late: it changes nothing but the history."""
    before = reach_step(ledger, from_)
    told = ledger.end(FIRST, to, error="late", took=2.0)
    assert told.late == (FIRST,)
    assert ledger.at() == before
    event = ledger.store.events("job")[-1]
    assert (event.kind, event.state, event.positions) == ("late", to, (0,))
    assert event.data == {"worker": "w1", "attempt": [before.attempts], "took": [2.0], "error": ["late"]}


@pytest.mark.parametrize("from_", StepState)
def test_a_review_follows_the_table(ledger: Ledger, from_: StepState) -> None:
    """`resolve` decides about steps that need review, to what STEP_CHANGES says, and about no others."""
    for to in StepState:
        job = f"to-{to}"
        reach_step(ledger, from_, job)
        if from_ is StepState.NEEDS_REVIEW and to in STEP_CHANGES[from_]:
            assert ledger.store.resolve(job, "s0", to).state is to
        else:
            with pytest.raises(IllegalTransition) as caught:
                ledger.store.resolve(job, "s0", to)
            assert (caught.value.from_, caught.value.to) == (from_, to)


@pytest.mark.parametrize("from_", StepState)
def test_only_a_pending_step_is_claimed(ledger: Ledger, from_: StepState) -> None:
    """A step that runs, has ended or needs review is given to nobody."""
    reach_step(ledger, from_)
    assert bool(ledger.claim("w2")) is (from_ is StepState.PENDING)


@pytest.mark.parametrize("from_", StepState)
def test_only_a_running_step_begins(ledger: Ledger, from_: StepState) -> None:
    """Whoever wants to begin a step that he does not hold has lost it, and nothing changes."""
    before = reach_step(ledger, from_)
    told = ledger.begin(FIRST)
    if from_ is StepState.RUNNING:
        assert told.begun == (FIRST,)
    else:
        assert told.refused == {FIRST: Refusal.LOST}
    assert ledger.at() == before


@pytest.mark.parametrize("from_", StepState)
def test_only_a_claimed_step_is_released(ledger: Ledger, from_: StepState) -> None:
    """Handing back what one does not hold, or what has begun, does nothing."""
    before = reach_step(ledger, from_)
    ledger.store.release("w1", [FIRST])
    assert ledger.at() == before


@pytest.mark.parametrize("state", sorted(STEP_ENDS))
def test_an_ended_step_outlives_everything(ledger: Ledger, state: StepState) -> None:
    """Neither recovery, sweeps, cancelling nor a retired worker touches a step that has ended."""
    before = reach_step(ledger, state)
    ledger.clock.advance(1_000_000)
    ledger.store.recover()
    ledger.store.sweep()
    ledger.store.retire("w1")
    assert ledger.at() == before


def test_a_version_guards_a_change(ledger: Ledger) -> None:
    """With a version that is no longer current, a change is refused, even one that is illegal besides."""
    first = ledger.submit()
    paused = ledger.store.change_job("job", JobState.PAUSED, version=first.version)
    assert paused.version > first.version
    for to in (JobState.CANCELLED, JobState.PAUSED):
        with pytest.raises(ConflictError) as caught:
            ledger.store.change_job("job", to, version=first.version)
        assert (caught.value.given, caught.value.current) == (first.version, paused.version)
    assert ledger.store.change_job("job", JobState.CANCELLED, version=paused.version).state == "cancelled"


def test_a_version_is_the_jobs_own(ledger: Ledger) -> None:
    """The version rises when the job changes, not when its steps do: progress is no conflict."""
    ledger.submit(steps=3)
    [first] = ledger.start(limit=1)
    running = ledger.store.job("job").version
    ledger.end(first)
    ledger.claim()
    assert ledger.store.job("job").version == running


def test_a_reason_is_kept(ledger: Ledger) -> None:
    """Why a job was moved stands in its record and in its history."""
    ledger.submit()
    assert ledger.store.change_job("job", JobState.PAUSED, reason="lunch").reason == "lunch"
    assert ledger.store.events("job")[-1].data == {"reason": "lunch"}
    ledger.store.change_job("job", JobState.PENDING)
    assert ledger.store.events("job")[-1].data == {}


def test_the_first_claim_starts_a_job(ledger: Ledger) -> None:
    """A job runs from its first claim on; later claims, and a claim of nothing, do not move it."""
    ledger.submit(steps=2)
    created = ledger.clock.time()
    ledger.clock.advance(5)
    assert ledger.claim(limit=0) == []
    assert ledger.state() is JobState.PENDING
    ledger.claim(limit=1)
    ledger.clock.advance(5)
    ledger.claim(limit=1)
    job = ledger.store.job("job")
    assert (job.state, job.created_at, job.started_at) == (JobState.RUNNING, created, created + 5)
    assert ledger.told().count(("job", "running", ())) == 1


def test_a_job_that_is_not_ready_waits(ledger: Ledger) -> None:
    """Without approval nothing of a job runs, and an empty one does not end."""
    ledger.submit("job", ready=False)
    ledger.submit("empty", 0, ready=False)
    assert ledger.claim() == []
    assert (ledger.state("job"), ledger.state("empty")) == (JobState.PENDING, JobState.PENDING)


def test_an_empty_job_succeeds(ledger: Ledger) -> None:
    """Without steps a job is pending, running and succeeded in the transaction that stores it."""
    record = ledger.submit(steps=0)
    assert record.state is JobState.SUCCEEDED
    assert record.started_at == record.finished_at == ledger.clock.time()
    assert ledger.told() == [("job", "pending", ()), ("job", "running", ()), ("job", "succeeded", ())]


def test_an_empty_job_that_waits_is_not_ended_by_a_pause(ledger: Ledger) -> None:
    """Resuming is no approval."""
    ledger.submit(steps=0, ready=False)
    ledger.store.change_job("job", JobState.PAUSED)
    assert ledger.store.change_job("job", JobState.PENDING).state is JobState.PENDING


def test_an_approved_job_runs(ledger: Ledger) -> None:
    """The preview is kept exactly with its digest; approval of that digest makes the job ready and running."""
    preview = {"total": Decimal("12.30"), "range": (Decimal(1), Decimal(20)), "failed": ["s1"]}
    ledger.submit(ready=False)
    previewed = ledger.store.preview_job("job", "abc", preview)
    assert (previewed.digest, previewed.preview, previewed.ready) == ("abc", preview, False)
    assert ledger.store.events("job")[-1].data == {"digest": "abc"}
    approved = ledger.store.approve_job("job", "abc")
    assert (approved.state, approved.ready, approved.preview) == (JobState.RUNNING, True, preview)
    assert approved.started_at == ledger.clock.time()
    assert len(ledger.claim()) == 3
    kinds = [("job", "pending", ()), ("job", "previewed", ()), ("job", "running", ())]
    assert ledger.told() == [*kinds, ("step", "running", (0, 1, 2))]


def test_an_approval_is_bound_to_the_digest(ledger: Ledger) -> None:
    """If the rows changed since the preview, or it was made anew, the approval is refused."""
    ledger.submit(ready=False)
    ledger.store.preview_job("job", "old", {})
    ledger.store.preview_job("job", "new", {})
    with pytest.raises(ConflictError) as caught:
        ledger.store.approve_job("job", "old")
    assert (caught.value.given, caught.value.current) == ("old", "new")
    assert ledger.claim() == []


def test_an_empty_job_is_approved_and_ends(ledger: Ledger) -> None:
    """Approval of nothing succeeds at once."""
    ledger.submit(steps=0, ready=False)
    ledger.store.preview_job("job", "d", {})
    assert ledger.store.approve_job("job", "d").state is JobState.SUCCEEDED
    assert ledger.told()[2:] == [("job", "running", ()), ("job", "succeeded", ())]


def test_a_paused_job_gives_out_nothing(ledger: Ledger) -> None:
    """After a pause, calls under way end as they do, claimed steps go back, nothing is claimed until it resumes."""
    ledger.submit(steps=3)
    begun, claimed = ledger.claim(limit=2)
    ledger.begin(begun)
    ledger.store.change_job("job", JobState.PAUSED)
    told = ledger.store.advance("w1", [outcome(begun)], [claimed])
    assert told.refused == {claimed: Refusal.STOPPED}
    assert ledger.states() == [StepState.SUCCEEDED, StepState.PENDING, StepState.PENDING]
    assert ledger.at(1).attempts == 0
    assert ledger.claim() == []
    ledger.store.change_job("job", JobState.PENDING)
    assert len(ledger.claim()) == 2
    assert ledger.state() is JobState.RUNNING


def test_a_paused_job_whose_last_step_ends_stays_paused(ledger: Ledger) -> None:
    """Resuming it ends it in the same transaction."""
    ledger.submit(steps=1)
    [which] = ledger.start()
    ledger.store.change_job("job", JobState.PAUSED)
    assert ledger.end(which).ended == {}
    assert ledger.state() is JobState.PAUSED
    seen = ledger.store.job("job").last_event
    assert ledger.store.change_job("job", JobState.PENDING).state is JobState.SUCCEEDED
    assert ledger.told(after=seen) == [
        ("job", "pending", ()),
        ("job", "running", ()),
        ("job", "succeeded", ()),
    ]


def test_a_resumed_job_ends_with_the_calls_of_before(ledger: Ledger) -> None:
    """A call that outlasts pause and resumption ends its job, by way of running."""
    ledger.submit(steps=1)
    [which] = ledger.start()
    ledger.store.change_job("job", JobState.PAUSED)
    ledger.store.change_job("job", JobState.PENDING)
    assert ledger.state() is JobState.PENDING
    seen = ledger.store.job("job").last_event
    assert ledger.end(which).ended == {"job": JobState.SUCCEEDED}
    assert ledger.told(after=seen) == [
        ("step", "succeeded", (0,)),
        ("job", "running", ()),
        ("job", "succeeded", ()),
    ]


def test_a_step_claimed_before_a_pause_may_begin_after_it(ledger: Ledger) -> None:
    """Beginning a call makes a resumed job running, as a claim does."""
    ledger.submit(steps=1)
    [which] = ledger.claim()
    ledger.store.change_job("job", JobState.PAUSED)
    ledger.store.change_job("job", JobState.PENDING)
    assert ledger.begin(which).begun == (which,)
    assert ledger.state() is JobState.RUNNING


def test_cancelling_cancels_what_waits_and_lets_run_what_runs(ledger: Ledger) -> None:
    """Pending steps are cancelled in the same transaction; calls under way end, and change the job no more."""
    ledger.submit(steps=4)
    begun, claimed = ledger.claim(limit=2)
    ledger.begin(begun)
    seen = ledger.store.job("job").last_event
    cancelled = ledger.store.change_job("job", JobState.CANCELLED, reason="wrong file")
    assert cancelled.counts.cancelled == cancelled.counts.running == 2
    assert ledger.told(after=seen) == [("step", "cancelled", (2, 3)), ("job", "cancelled", ())]
    told = ledger.store.advance("w1", [outcome(begun)], [claimed])
    assert (told.refused, told.ended) == ({claimed: Refusal.STOPPED}, {})
    assert ledger.states() == [StepState.SUCCEEDED, *[StepState.CANCELLED] * 3]
    assert ledger.state() is JobState.CANCELLED


def test_a_retry_of_a_cancelled_job_is_cancelled(ledger: Ledger) -> None:
    """What would run again after a cancellation does not; its call stays in the history."""
    ledger.submit(steps=2)
    first, second = ledger.start()
    ledger.store.change_job("job", JobState.CANCELLED)
    ledger.end(first, StepState.PENDING, error="busy")
    ledger.end(second, StepState.NEEDS_REVIEW)
    assert ledger.at().history[0].error == "busy"
    assert ledger.store.resolve("job", "s1", StepState.PENDING).state is StepState.CANCELLED
    assert ledger.states() == [StepState.CANCELLED] * 2


def test_a_review_on_a_cancelled_job_can_still_be_decided(ledger: Ledger) -> None:
    """The truth about a call may come after the end of its job, whose state stays."""
    ledger.submit(steps=1)
    [which] = ledger.start()
    ledger.store.change_job("job", JobState.CANCELLED)
    ledger.end(which, StepState.NEEDS_REVIEW)
    ledger.store.resolve("job", "s0", StepState.SUCCEEDED, result=b"1")
    assert (ledger.state(), ledger.states()) == (JobState.CANCELLED, [StepState.SUCCEEDED])


@pytest.mark.parametrize("to", [JobState.FAILED, JobState.SUCCEEDED, JobState.TIMED_OUT])
def test_an_end_that_a_program_decides_leaves_pending_what_is(ledger: Ledger, to: JobState) -> None:
    """Only cancelling cancels steps; what has not run stays pending, and nobody gets it."""
    ledger.submit(steps=3)
    begun, claimed = ledger.claim(limit=2)
    ledger.begin(begun)
    ended = ledger.store.change_job("job", to)
    assert (ended.finished_at, ended.counts.pending) == (ledger.clock.time(), 1)
    assert ledger.begin(claimed).refused == {claimed: Refusal.STOPPED}
    ledger.end(begun)
    assert ledger.states() == [StepState.SUCCEEDED, StepState.PENDING, StepState.PENDING]
    assert (ledger.claim(), ledger.state()) == ([], to)
