"""What may follow from a job's state, counters and clock: pure decisions that every store shares."""

from __future__ import annotations

from holdfast.infrastructure.store.state import (
    JOB_CHANGES,
    JOB_ENDS,
    STEP_CHANGES,
    BatchState,
    Counts,
    IllegalTransition,
    JobState,
    NewJob,
    Outcome,
    Refusal,
    StepState,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_LIVE = frozenset({JobState.PENDING, JobState.RUNNING})
_EXPIRING = frozenset(state for state, to in JOB_CHANGES.items() if JobState.EXPIRED in to)
# Into these a job comes by its preview, its approval and its claims alone.
_GUARDED = frozenset({JobState.PREVIEWED, JobState.RUNNING})
_OVER = frozenset({BatchState.SUCCEEDED, BatchState.FAILED, BatchState.PARTIALLY_FAILED})
_BLOCKING = frozenset({StepState.FAILED, StepState.TIMED_OUT, StepState.CANCELLED})
# As many as every database can store.
_MOST = 2**31 - 1


def check_job(job: str, from_: JobState, to: JobState) -> None:
    """Raise IllegalTransition unless a job may go from one state to the other."""
    if to not in JOB_CHANGES[from_]:
        raise IllegalTransition(f"job {job!r}", from_, to)


def check_step(job: str, key: str, from_: StepState, to: StepState) -> None:
    """Raise IllegalTransition unless a step may go from one state to the other."""
    if to not in STEP_CHANGES[from_]:
        raise IllegalTransition(f"step {key!r} of job {job!r}", from_, to)


def check_order(job: str, from_: JobState, to: JobState) -> None:
    """Raise IllegalTransition unless a program may order a job from one state into the other."""
    if to in _GUARDED:
        raise IllegalTransition(f"job {job!r}", from_, to)
    check_job(job, from_, to)


def check_outcome(outcome: Outcome) -> None:
    """Raise IllegalTransition unless a call may end so."""
    if outcome.state not in STEP_CHANGES[StepState.RUNNING]:
        what = f"step {outcome.ref.position} of job {outcome.ref.job!r}"
        raise IllegalTransition(what, StepState.RUNNING, outcome.state)


def check_resolution(job: str, key: str, from_: StepState, to: StepState) -> None:
    """Raise IllegalTransition unless a step needs review and may become `to`."""
    if from_ is not StepState.NEEDS_REVIEW:
        raise IllegalTransition(f"step {key!r} of job {job!r}", from_, to)
    check_step(job, key, from_, to)


def check_skip(job: str, from_: JobState) -> None:
    """Raise IllegalTransition for a job that has ended: what never began there stays pending."""
    if from_ in JOB_ENDS:
        raise IllegalTransition(f"job {job!r}", from_, StepState.SKIPPED)


def check_cancel(batch: str, from_: BatchState) -> None:
    """Raise IllegalTransition for a batch that has ended; one that was cancelled may be so again."""
    if from_ in _OVER:
        raise IllegalTransition(f"batch {batch!r}", from_, BatchState.CANCELLED)


def runs(state: JobState, *, ready: bool, halted: bool) -> bool:
    """Return whether steps of a job may be claimed and begin."""
    return ready and not halted and state in _LIVE


def room(job: NewJob, counts: Counts) -> int | None:
    """Return how many steps of a job one claim may take, None without a limit."""
    return None if job.concurrency is None else max(0, job.concurrency - counts.in_flight)


def pace(free_at: float, now: float, rate: float) -> tuple[float, float]:
    """Return the seconds until a step may begin at `rate` a second, and when the next may if this one does now.

    The generic cell rate algorithm (ITU-T I.371) without a burst; `free_at` is what the last one that began left.
    """
    return max(0.0, free_at - now), max(free_at, now) + 1 / rate


def check_concurrency(most: object) -> None:
    """Raise ValueError for what cannot be a number of calls."""
    if most is not None and (type(most) is not int or not 0 < most <= _MOST):
        raise ValueError(
            f"a concurrency of {most!r} cannot be: give a whole number from 1 to {_MOST}, or None"
        )


def refusal(job: NewJob, counts: Counts, *, goes: bool, full: bool, wait: float) -> Refusal | None:
    """Return why a claimed step may not begin, None if it may.

    `goes`: its job runs; `full`: its tenant has as many calls under way as it may; `wait`: what its job's rate says.
    """
    if not goes:
        return Refusal.STOPPED
    if full or (job.concurrency is not None and counts.in_flight >= job.concurrency):
        return Refusal.BUSY
    return Refusal.RATE if wait > 0 else None


def handed_back(job: JobState) -> StepState:
    """Return what a step becomes that is to run again, or has not run."""
    return StepState.CANCELLED if job is JobState.CANCELLED else StepState.PENDING


def ambiguous(job: NewJob, *, begun: bool) -> bool:
    """Return whether a step needs review when its lease ends: its call may have happened, and not harmlessly."""
    return begun and not job.idempotent


def blocks(state: StepState, *, must_succeed: bool) -> bool:
    """Return whether what depends on a step that ended so must fail; somebody wanted what was skipped so."""
    return must_succeed and state in _BLOCKING


def dependency_error(key: str, state: StepState) -> str:
    """Return the error of a step that fails because of another."""
    return f"dependency {key} {state}"


def expires(state: JobState, expires_at: float | None) -> float | None:
    """Return when a job expires, None if it does not."""
    return expires_at if state in _EXPIRING else None


def job_deadline(job: NewJob, state: JobState, started_at: float | None) -> float | None:
    """Return when a job times out, None if it does not."""
    if state is not JobState.RUNNING or job.job_timeout is None or started_at is None:
        return None
    return started_at + job.job_timeout


def step_deadline(job: NewJob, timeout: float | None, started_at: float | None) -> float | None:
    """Return when the call of a step times out, None if it does not or has not begun."""
    limit = job.step_timeout if timeout is None else timeout
    return None if limit is None or started_at is None else started_at + limit


def timed_out(what: str, seconds: float | None) -> str:
    """Return the error of what ran into its timeout."""
    return f"{what} timed out after {seconds or 0.0:g} s"


def expired(seconds: float | None) -> str:
    """Return the reason of a job that expired."""
    return f"expired after {seconds or 0.0:g} s"


def lease_lost(worker: str | None) -> str:
    """Return the error of a step whose worker is gone."""
    return f"worker {worker!r} lost its lease during the call"


def halts(job: NewJob, counts: Counts) -> bool:
    """Return whether a job's failures reach what its error policy bears."""
    failures = counts.failed + counts.timed_out
    if job.stop_after is not None and failures >= job.stop_after:
        return True
    return job.stop_share is not None and failures > job.stop_share * counts.total


def end_of(counts: Counts, *, halted: bool, tolerated: int = 0, whole: bool = False) -> JobState | None:
    """Return the state in which a running job ends now, None while it goes on.

    `tolerated`: failed and timed-out steps that need not succeed. A halted job ends when nothing runs; steps that
    need review keep any job open. `whole`: it is that of a graph.
    """
    if counts.running or counts.needs_review or (counts.pending and not halted):
        return None
    if whole and counts.timed_out:
        return JobState.TIMED_OUT
    bad = counts.failed + counts.timed_out + counts.cancelled - tolerated
    if not bad and not counts.pending:
        return JobState.SUCCEEDED
    return JobState.PARTIALLY_FAILED if counts.succeeded and not whole else JobState.FAILED


def ends(
    state: JobState, counts: Counts, *, ready: bool, halted: bool, tolerated: int = 0, whole: bool = False
) -> tuple[JobState, ...]:
    """Return the states that a job passes to its end now, none while it goes on; a pending one runs first."""
    end = (
        end_of(counts, halted=halted, tolerated=tolerated, whole=whole) if ready and state in _LIVE else None
    )
    if end is None:
        return ()
    return (end,) if state is JobState.RUNNING else (JobState.RUNNING, end)


def batch_state(jobs: Mapping[JobState, int], *, cancelled: bool) -> BatchState:
    """Return the state of a batch from the number of its jobs in each state."""
    if cancelled:
        return BatchState.CANCELLED
    active = sum(jobs.get(state, 0) for state, to in JOB_CHANGES.items() if to)
    waiting = jobs.get(JobState.PENDING, 0) + jobs.get(JobState.PREVIEWED, 0)
    if active:
        return BatchState.PENDING if waiting == sum(jobs.values()) else BatchState.RUNNING
    total, good = sum(jobs.values()), jobs.get(JobState.SUCCEEDED, 0)
    if good == total:
        return BatchState.SUCCEEDED if total else BatchState.PENDING
    partly = good or jobs.get(JobState.PARTIALLY_FAILED, 0)
    return BatchState.PARTIALLY_FAILED if partly else BatchState.FAILED
