"""What the API of jobs takes and answers with."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from holdfast.api.internal.resilience._http import HoldfastProblem
from holdfast.api.internal.resilience._text import Text
from holdfast.infrastructure.store.state import BatchState, JobState, OutboxState, StepState

MOST = 200
FARTHEST = 2**53

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=100)]
Seconds = Annotated[float, Field(ge=0)]
Time = Annotated[float, Field(description="Seconds since the epoch on the store's clock.")]
Short = Annotated[str, Field(max_length=200)]
Long = Annotated[str, Field(max_length=2000)]
Key = Annotated[str, Field(min_length=1, max_length=1000)]
Limit = Annotated[float, Field(gt=0, le=365 * 86_400)]


class Asked(BaseModel):
    """Base of what clients send: strict, and nothing that is not known."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Backoff(Asked):
    """How long to wait before a step is tried again."""

    base: float = Field(0.05, ge=0, le=86_400)
    cap: float = Field(20.0, ge=0, le=86_400)
    factor: float = Field(2.0, ge=1, le=1000)
    step: float = Field(0.0, ge=0, le=86_400)
    jitter: Literal["full", "equal", "decorrelated", "none"] = "full"


class Settings(Asked):
    """How a job is executed. Times in seconds; `priority` 1 critical … 4 low; `rate` in steps a second.

    `on_error`: continue, fail_fast, a number of failures, or a share of all rows between 0 and 1.
    """

    handler: str = Field(
        min_length=1, max_length=1000, description="One of those that the server lists at /handlers."
    )
    name: Short = ""
    key: Key | None = Field(None, description="The column that names a row; without one its line does.")
    mode: Literal["confirm", "auto"] = Field(
        "confirm", description="`auto` runs without preview and approval."
    )
    dedup_key: Key | None = Field(None, description="A second submission of it gives the first job.")
    batch: Key | None = None
    priority: int = Field(3, ge=1, le=4)
    on_error: (
        Literal["continue", "fail_fast"] | Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)]
    ) = "continue"
    max_attempts: int = Field(1, ge=1, le=1000)
    step_timeout: Limit | None = None
    job_timeout: Limit | None = None
    expires_in: Limit | None = None
    concurrency: int | None = Field(None, ge=1, le=10_000)
    rate: float | None = Field(None, gt=0, le=1_000_000)


class NewStep(Asked):
    """A step of a graph: it waits for those that it depends on, by their keys."""

    payload: Any
    key: Key
    depends_on: list[Key] = Field([], max_length=1000)
    must_succeed: bool = True
    timeout: Limit | None = None


class NewJob(Settings):
    """A job: its `rows`, or its `steps` where they depend on each other."""

    backoff: Backoff | None = None
    rows: list[Any] | None = Field(None, description="A payload for each step.")
    steps: list[NewStep] | None = None


class Rows(Asked):
    """How many rows to quote."""

    rows: int = Field(20, ge=1, le=MOST)


class Digest(Asked):
    """What is approved: the digest of the preview that was seen."""

    digest: str = Field(min_length=1, max_length=200)


class Reason(Asked):
    """Why somebody does it; it is kept with the job, with the key's name."""

    reason: str | None = Field(None, max_length=200)


class Skip(Asked):
    """Steps that are not to be done, by their keys, and why: that becomes their error."""

    keys: list[Key] = Field(min_length=1, max_length=MOST)
    reason: Long = ""


class Nothing(Asked):
    """An empty object."""


class Retry(Asked):
    """What to do again: what failed; with `pending`, what never began too."""

    pending: bool = False


class Confirmation(Asked):
    """How many calls may be made again, as the server said when it was asked without."""

    confirm: int | None = Field(None, ge=0, le=FARTHEST)


class Decision(Asked):
    """What became of a step that needs review; `again` calls once more under the same idempotency key."""

    key: Key
    decision: Literal["succeeded", "failed", "again"]
    result: Any = None
    error: Long = ""


class NewBatch(Asked):
    """A batch; a second one of an id gives the first."""

    id: str | None = Field(None, min_length=1, max_length=200)
    name: Short = ""


class Counts(BaseModel):
    """How many steps are in which state; `in_flight` of the running ones may have called."""

    model_config = ConfigDict(from_attributes=True)

    total: Count
    pending: Count
    running: Count
    succeeded: Count
    failed: Count
    timed_out: Count
    needs_review: Count
    cancelled: Count
    skipped: Count
    in_flight: Count


class JobSummary(BaseModel):
    """A job in short. `rate`: steps ended a second; `eta`: seconds, None when nothing tells."""

    id: Text
    name: Text
    handler: Text
    batch: Text | None
    priority: int = Field(ge=1, le=4)
    state: JobState
    ended: bool
    ready: bool
    halted: bool
    reason: Text
    counts: Counts
    percent: Share
    rate: Seconds
    eta: Seconds | None
    elapsed: Seconds
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    expires_at: Time | None
    retry_of: Text | None
    version: Count
    last_event: Count


class JobPage(BaseModel):
    """Jobs, newest first; `next` is what to send as `after` for more."""

    items: list[JobSummary] = Field(max_length=MOST)
    next: Text | None


class Quote(BaseModel):
    """What one row would cost, or why nobody could say; amounts are text, so that they are exact."""

    key: Text
    line: Count
    amount: Text | None
    error: Text


class PreviewOf(BaseModel):
    """What a job would cost; approval needs the `digest`."""

    job: Text
    digest: Text
    total: Count
    quotes: list[Quote] = Field(max_length=MOST)
    estimate: Text | None
    low: Text | None
    high: Text | None
    quoted: Text
    failed: list[Text] = Field(max_length=MOST)
    exact: bool


class StepError(BaseModel):
    """A step that did not succeed."""

    model_config = ConfigDict(from_attributes=True)

    key: Text
    line: Count
    state: StepState
    error: Text


class JobDetail(JobSummary):
    """A job with its settings, its first errors, and its preview. `unwritten` and `dead` count write-backs."""

    dedup_key: Text | None
    idempotent: bool
    stop_after: int | None
    stop_share: float | None
    max_attempts: int
    step_timeout: Seconds | None
    job_timeout: Seconds | None
    concurrency: int | None
    rate_limit: float | None
    writes_back: bool
    errors: list[StepError] = Field(max_length=MOST)
    unwritten: Count
    dead: Count
    preview: PreviewOf | None


class AttemptOf(BaseModel):
    """An earlier call of a step that did not settle it."""

    model_config = ConfigDict(from_attributes=True)

    number: Count
    worker: Text
    started_at: Time
    ended_at: Time
    outcome: Text
    error: Text


class StepSummary(BaseModel):
    """A step without what it carries. `begun`: its call may have happened."""

    model_config = ConfigDict(from_attributes=True)

    job: Text
    position: Count
    key: Text
    line: Count
    state: StepState
    attempts: Count
    begun: bool
    worker: Text | None
    due_at: Time
    started_at: Time | None
    finished_at: Time | None
    error: Text
    must_succeed: bool
    depends_on: list[Text] = Field(max_length=MOST, description="The first 200.")
    idempotency_key: Text


class StepPage(BaseModel):
    """Steps in order; `next` is what to send as `after` for more."""

    items: list[StepSummary] = Field(max_length=MOST)
    next: int | None


class StepDetail(StepSummary):
    """A step with what it carries; amounts and dates are text."""

    payload: Any
    result: Any
    history: list[AttemptOf] = Field(max_length=MOST, description="The last 200.")


class ResultOf(BaseModel):
    """A step's payload and result; amounts and dates are text."""

    position: Count
    key: Text
    line: Count
    state: StepState
    attempts: Count
    payload: Any
    result: Any
    error: Text


class ResultPage(BaseModel):
    """Results in the order of steps; `next` is what to send as `after` for more."""

    items: list[ResultOf] = Field(max_length=MOST)
    next: int | None


class EventOf(BaseModel):
    """One change in a job's history; `positions`: the first 200 of its steps, of `steps` in all."""

    job: Text
    seq: Count
    at: Time
    kind: Text
    state: Text
    steps: Count
    positions: list[int] = Field(max_length=MOST)
    data: dict[str, Any]


class EventPage(BaseModel):
    """A job's history; `next` is what to send as `after` for more."""

    items: list[EventOf] = Field(max_length=MOST)
    next: int | None


class HandlerOf(BaseModel):
    """A handler that clients may name, and what it can."""

    name: Text
    idempotent: bool
    estimates: bool
    reconciles: bool


class HandlerPage(BaseModel):
    """The handlers that clients may name."""

    items: list[HandlerOf] = Field(max_length=MOST)
    total: Count
    offset: Count
    limit: int = Field(ge=1, le=MOST)


class InterruptedJob(BaseModel):
    """A job whose worker is gone: `held` steps it had, of which `ambiguous` may have called; `left` have not ended."""

    job: JobSummary
    held: Count
    ambiguous: Count
    review: Count
    left: Count
    choices: list[Literal["resume", "review", "restart", "cancel"]] = Field(max_length=4)


class InterruptedPage(BaseModel):
    """Jobs that a worker left behind; `total` is how many there are."""

    items: list[InterruptedJob] = Field(max_length=MOST)
    total: Count
    offset: Count
    limit: int = Field(ge=1, le=MOST)


class ReviewPage(BaseModel):
    """Steps that need review, at most so many."""

    items: list[StepDetail] = Field(max_length=MOST)


class ReconciledOf(BaseModel):
    """What the handler knew about steps that need review; of each the first 200 keys."""

    done: list[Text] = Field(max_length=MOST)
    not_done: list[Text] = Field(max_length=MOST)
    unknown: list[Text] = Field(max_length=MOST)


class BatchOf(BaseModel):
    """A batch: `done` of `total` jobs have ended."""

    model_config = ConfigDict(from_attributes=True)

    id: Text
    name: Text
    state: BatchState
    total: Count
    done: Count
    percent: Share
    created_at: Time


class DeadLetter(BaseModel):
    """A result whose write-back was given up; amounts and dates are text."""

    position: Count
    key: Text
    line: Count
    state: OutboxState
    attempts: Count
    error: Text
    result: Any


class DeadLetters(BaseModel):
    """Results whose write-back was given up, at most so many."""

    items: list[DeadLetter] = Field(max_length=MOST)


class Checked(BaseModel):
    """What is wrong with a submission; None if nothing is."""

    problem: HoldfastProblem | None
