"""What follows from a job's state, counters and clock, without a store."""

import pytest

from holdfast.infrastructure.store import _decide as decide
from holdfast.infrastructure.store.state import (
    JOB_CHANGES,
    JOB_ENDS,
    STEP_CHANGES,
    STEP_ENDS,
    BatchState,
    Counts,
    IllegalTransition,
    JobState,
    NewJob,
    Outcome,
    Refusal,
    StepRef,
    StepState,
    percent,
)

REF = StepRef(job="job", position=0, fence=1)
J, S, B = JobState, StepState, BatchState


def job(**settings: object) -> NewJob:
    return NewJob(id="job", handler="ship", **settings)  # type: ignore[arg-type]


def test_the_tables_name_every_state() -> None:
    """Each state of a job and of a step has its row, and nothing follows an end."""
    assert (set(JOB_CHANGES), set(STEP_CHANGES)) == (set(J), set(S))
    assert {J.SUCCEEDED, J.FAILED, J.PARTIALLY_FAILED, J.CANCELLED, J.EXPIRED, J.TIMED_OUT} == JOB_ENDS
    assert {S.SUCCEEDED, S.FAILED, S.TIMED_OUT, S.CANCELLED, S.SKIPPED} == STEP_ENDS


@pytest.mark.parametrize("from_", J)
def test_an_order_is_a_change_that_is_no_start(from_: JobState) -> None:
    """A program may order what the table has, but not that a job is previewed or runs."""
    for to in J:
        allowed = to in JOB_CHANGES[from_] - {J.PREVIEWED, J.RUNNING}
        if allowed:
            decide.check_order("job", from_, to)
        else:
            with pytest.raises(IllegalTransition):
                decide.check_order("job", from_, to)


@pytest.mark.parametrize("state", S)
def test_a_call_ends_in_what_may_follow_running(state: StepState) -> None:
    """An outcome of another state is refused with the step's job and position."""
    outcome = Outcome(ref=REF, state=state)
    if state in STEP_CHANGES[S.RUNNING]:
        decide.check_outcome(outcome)
    else:
        with pytest.raises(IllegalTransition, match="step 0 of job 'job' is running"):
            decide.check_outcome(outcome)


@pytest.mark.parametrize("from_", S)
def test_only_a_review_is_resolved(from_: StepState) -> None:
    """Pending may become failed, but not by a decision about a review."""
    for to in S:
        if from_ is S.NEEDS_REVIEW and to in STEP_CHANGES[from_]:
            decide.check_resolution("job", "a", from_, to)
        else:
            with pytest.raises(IllegalTransition, match=f"is {from_}: it cannot become {to}"):
                decide.check_resolution("job", "a", from_, to)


@pytest.mark.parametrize("state", B)
def test_a_batch_is_cancelled_while_it_is_active(state: BatchState) -> None:
    """Or when it was cancelled before."""
    if state in {B.PENDING, B.RUNNING, B.CANCELLED}:
        decide.check_cancel("batch", state)
    else:
        with pytest.raises(IllegalTransition):
            decide.check_cancel("batch", state)


@pytest.mark.parametrize("state", J)
@pytest.mark.parametrize("ready", [True, False])
@pytest.mark.parametrize("halted", [True, False])
def test_steps_run_in_live_jobs(state: JobState, *, ready: bool, halted: bool) -> None:
    """Ready, not halted, pending or running: all three."""
    expected = ready and not halted and state in {J.PENDING, J.RUNNING}
    assert decide.runs(state, ready=ready, halted=halted) is expected


@pytest.mark.parametrize(
    ("concurrency", "in_flight", "room"), [(None, 9, None), (3, 0, 3), (3, 2, 1), (3, 5, 0)]
)
def test_room_is_what_may_begin(concurrency: int | None, in_flight: int, room: int | None) -> None:
    """Concurrency less calls under way, never below none."""
    assert decide.room(job(concurrency=concurrency), Counts(in_flight=in_flight)) == room


def test_a_pace_has_no_burst() -> None:
    """One begins, the next an interval later; being late earns nothing."""
    assert decide.pace(0.0, 100.0, 4.0) == (0.0, 100.25)
    assert decide.pace(100.25, 100.0, 4.0) == (0.25, 100.5)
    assert decide.pace(100.25, 100.25, 4.0) == (0.0, 100.5)
    assert decide.pace(100.25, 107.0, 4.0) == (0.0, 107.25)


def test_a_refusal_names_the_strongest_reason() -> None:
    """Stopped before busy, busy before rate."""
    narrow, busy = job(concurrency=1), Counts(in_flight=1)
    assert decide.refusal(narrow, busy, goes=False, full=True, wait=1.0) is Refusal.STOPPED
    assert decide.refusal(narrow, busy, goes=True, full=False, wait=1.0) is Refusal.BUSY
    assert decide.refusal(job(), Counts(), goes=True, full=True, wait=1.0) is Refusal.BUSY
    assert decide.refusal(narrow, Counts(), goes=True, full=False, wait=1.0) is Refusal.RATE
    assert decide.refusal(narrow, Counts(), goes=True, full=False, wait=0.0) is None
    assert decide.refusal(job(), Counts(in_flight=99), goes=True, full=False, wait=0.0) is None


@pytest.mark.parametrize("state", J)
def test_what_is_handed_back_waits_unless_it_was_cancelled(state: JobState) -> None:
    """Only a cancelled job cancels it."""
    assert decide.handed_back(state) is (S.CANCELLED if state is J.CANCELLED else S.PENDING)


@pytest.mark.parametrize(
    ("begun", "idempotent", "expected"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_a_call_that_may_have_happened_is_ambiguous(*, begun: bool, idempotent: bool, expected: bool) -> None:
    """Unless it may happen twice."""
    assert decide.ambiguous(job(idempotent=idempotent), begun=begun) is expected


@pytest.mark.parametrize("state", sorted(STEP_ENDS))
def test_what_did_not_succeed_blocks(state: StepState) -> None:
    """If it must succeed; what was skipped blocks nothing."""
    assert decide.blocks(state, must_succeed=True) is (state in {S.FAILED, S.TIMED_OUT, S.CANCELLED})
    assert not decide.blocks(state, must_succeed=False)


@pytest.mark.parametrize("state", J)
def test_what_waits_expires_and_what_runs_times_out(state: JobState) -> None:
    """Pending, previewed and paused jobs expire; a running one times out."""
    assert decide.expires(state, 5.0) == (5.0 if state in {J.PENDING, J.PREVIEWED, J.PAUSED} else None)
    running = job(job_timeout=10.0)
    assert decide.job_deadline(running, state, 100.0) == (110.0 if state is J.RUNNING else None)


def test_limits_may_be_missing() -> None:
    """Without a limit or a start nothing is due; a step's own limit goes before its job's, also if it is 0."""
    assert decide.expires(J.PENDING, None) is None
    assert decide.job_deadline(job(), J.RUNNING, 100.0) is None
    assert decide.job_deadline(job(job_timeout=1.0), J.RUNNING, None) is None
    assert decide.step_deadline(job(), None, 100.0) is None
    assert decide.step_deadline(job(step_timeout=5.0), None, None) is None
    assert decide.step_deadline(job(step_timeout=5.0), None, 100.0) == 105.0
    assert decide.step_deadline(job(step_timeout=5.0), 2.0, 100.0) == 102.0
    assert decide.step_deadline(job(step_timeout=5.0), 0.0, 100.0) == 100.0


def test_errors_say_what_ran_out() -> None:
    """With its name and its seconds."""
    assert decide.timed_out("step", 2.5) == "step timed out after 2.5 s"
    assert decide.expired(60.0) == "expired after 60 s"
    assert decide.lease_lost("w1") == "worker 'w1' lost its lease during the call"
    assert decide.dependency_error("a", S.TIMED_OUT) == "dependency a timed_out"


@pytest.mark.parametrize(
    ("policy", "failures", "halts"),
    [
        ({}, 10, False),
        ({"stop_after": 3}, 2, False),
        ({"stop_after": 3}, 3, True),
        ({"stop_share": 0.3}, 3, False),
        ({"stop_share": 0.3}, 4, True),
        ({"stop_share": 0.0}, 0, False),
        ({"stop_share": 0.0}, 1, True),
        ({"stop_after": 9, "stop_share": 0.1}, 2, True),
    ],
)
def test_a_job_halts_by_count_or_share(policy: dict[str, float], failures: int, *, halts: bool) -> None:
    """The count is reached, the share exceeded; timeouts are failures."""
    assert decide.halts(job(**policy), Counts(total=10, failed=failures)) is halts
    assert decide.halts(job(**policy), Counts(total=10, timed_out=failures)) is halts


@pytest.mark.parametrize(
    ("counts", "halted", "tolerated", "end"),
    [
        ({}, False, 0, J.SUCCEEDED),
        ({"succeeded": 2}, False, 0, J.SUCCEEDED),
        ({"succeeded": 1, "skipped": 1}, False, 0, J.SUCCEEDED),
        ({"succeeded": 1, "failed": 1}, False, 0, J.PARTIALLY_FAILED),
        ({"succeeded": 1, "failed": 1}, False, 1, J.SUCCEEDED),
        ({"timed_out": 1, "failed": 1}, False, 1, J.FAILED),
        ({"succeeded": 1, "pending": 1}, False, 0, None),
        ({"succeeded": 1, "pending": 1}, True, 0, J.PARTIALLY_FAILED),
        ({"failed": 1, "pending": 1}, True, 0, J.FAILED),
        ({"failed": 1, "pending": 1}, True, 1, J.FAILED),
        ({"failed": 1, "running": 1}, True, 0, None),
        ({"succeeded": 1, "needs_review": 1}, True, 0, None),
    ],
)
def test_a_job_ends_with_its_last_step(
    counts: dict[str, int], tolerated: int, end: JobState | None, *, halted: bool
) -> None:
    """All, some or none; a halted one with what it has; none while anything runs or needs review."""
    counted = Counts(total=sum(counts.values()), **counts)
    assert decide.end_of(counted, halted=halted, tolerated=tolerated) is end
    path = () if end is None else (end,)
    running = decide.ends(J.RUNNING, counted, ready=True, halted=halted, tolerated=tolerated)
    pending = decide.ends(J.PENDING, counted, ready=True, halted=halted, tolerated=tolerated)
    assert (running, pending) == (path, (J.RUNNING, *path) if path else ())


@pytest.mark.parametrize("state", [state for state in J if state not in {J.PENDING, J.RUNNING}])
def test_only_a_live_job_ends_by_itself(state: JobState) -> None:
    """A paused, previewed or ended one does not, nor one that is not ready."""
    assert decide.ends(state, Counts(), ready=True, halted=False) == ()
    assert decide.ends(J.PENDING, Counts(), ready=False, halted=False) == ()


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({}, B.PENDING),
        ({J.PENDING: 2, J.PREVIEWED: 1}, B.PENDING),
        ({J.PENDING: 1, J.SUCCEEDED: 1}, B.RUNNING),
        ({J.PAUSED: 1}, B.RUNNING),
        ({J.SUCCEEDED: 3}, B.SUCCEEDED),
        ({J.SUCCEEDED: 1, J.EXPIRED: 1}, B.PARTIALLY_FAILED),
        ({J.PARTIALLY_FAILED: 1}, B.PARTIALLY_FAILED),
        ({J.FAILED: 1, J.CANCELLED: 1}, B.FAILED),
    ],
)
def test_a_batch_is_what_its_jobs_are(states: dict[JobState, int], expected: BatchState) -> None:
    """Unless it was cancelled, which sticks."""
    assert decide.batch_state(states, cancelled=False) is expected
    assert decide.batch_state(states, cancelled=True) is B.CANCELLED


def test_percent_has_one_decimal() -> None:
    """Of nothing it is 0.0, and it is 100.0 only when all is done."""
    assert [percent(done, 3) for done in range(4)] == [0.0, 33.3, 66.7, 100.0]
    assert percent(0, 0) == 0.0
