"""How a job or a step comes into each state, by the doors that users have."""

from typing import Any

from backend.tests.integration.jobs._ledger import Ledger
from holdfast.infrastructure.store.state import JobState, StepRecord, StepState


def reach_job(ledger: Ledger, state: JobState, job: str = "job", **settings: Any) -> None:
    """Submit a job and bring it into a state."""
    succeeded, failed = StepState.SUCCEEDED, StepState.FAILED
    limits = {JobState.EXPIRED: {"expires_in": 1.0}, JobState.TIMED_OUT: {"job_timeout": 1.0}}
    steps = 1 if state in {JobState.SUCCEEDED, JobState.FAILED} else 2
    ready = state is not JobState.PREVIEWED
    ledger.submit(job, steps, ready=ready, **limits.get(state, {}), **settings)
    match state:
        case JobState.PREVIEWED:
            ledger.store.preview_job(job, "digest", {})
        case JobState.RUNNING:
            ledger.start("w1", 1, job=job)
        case JobState.PAUSED | JobState.CANCELLED:
            ledger.store.change_job(job, state)
        case JobState.SUCCEEDED:
            ledger.run(succeeded, job=job)
        case JobState.FAILED:
            ledger.run(failed, job=job)
        case JobState.PARTIALLY_FAILED:
            ledger.run(succeeded, failed, job=job)
        case JobState.EXPIRED:
            let_pass(ledger)
        case JobState.TIMED_OUT:
            ledger.start("w1", 1, job=job)
            let_pass(ledger)
        case JobState.PENDING:
            pass
    assert ledger.state(job) is state


def let_pass(ledger: Ledger, seconds: float = 1.0) -> None:
    """Let time pass, and end what is past its limit."""
    ledger.clock.advance(seconds)
    ledger.store.sweep()


def reach_step(ledger: Ledger, state: StepState, job: str = "job", *, steps: int = 1) -> StepRecord:
    """Submit a job and bring its first step into a state; the first claim of it, by w1, had the fence 1."""
    ledger.submit(job, steps)
    [which] = ledger.claim("w1", 1, job=job)
    if state in {StepState.PENDING, StepState.CANCELLED, StepState.SKIPPED}:
        ledger.store.release("w1", [which])
    if state is StepState.CANCELLED:
        ledger.store.change_job(job, JobState.CANCELLED)
    elif state is StepState.SKIPPED:
        ledger.store.skip(job, ["s0"])
    elif state is not StepState.PENDING:
        ledger.begin(which)
        if state is not StepState.RUNNING:
            ledger.end(which, state)
    reached = ledger.at(job=job)
    assert reached.state is state
    return reached
