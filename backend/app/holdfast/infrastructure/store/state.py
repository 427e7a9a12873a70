"""What jobs keep: states, their legal changes, records, and the `StateStore` that every backend implements."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.infrastructure.resilience.errors import HoldfastError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence


class StepState(StrEnum):
    """Where one step is; `running` means that a worker holds its lease."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    NEEDS_REVIEW = "needs_review"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class JobState(StrEnum):
    """Where a job is."""

    PENDING = "pending"
    PREVIEWED = "previewed"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PARTIALLY_FAILED = "partially_failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    TIMED_OUT = "timed_out"


class BatchState(StrEnum):
    """Where a batch is: derived from its jobs, except `cancelled`, which sticks."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PARTIALLY_FAILED = "partially_failed"
    CANCELLED = "cancelled"


class OutboxState(StrEnum):
    """Where the write-back of one result is; `dead` is the dead letter."""

    PENDING = "pending"
    WRITTEN = "written"
    DEAD = "dead"


_S, _J = StepState, JobState

STEP_CHANGES: Mapping[StepState, frozenset[StepState]] = {
    _S.PENDING: frozenset({_S.RUNNING, _S.CANCELLED, _S.SKIPPED, _S.FAILED}),
    _S.RUNNING: frozenset({_S.PENDING, _S.SUCCEEDED, _S.FAILED, _S.TIMED_OUT, _S.NEEDS_REVIEW}),
    _S.NEEDS_REVIEW: frozenset({_S.SUCCEEDED, _S.PENDING, _S.FAILED}),
    **{state: frozenset() for state in (_S.SUCCEEDED, _S.FAILED, _S.TIMED_OUT, _S.CANCELLED, _S.SKIPPED)},
}

_ENDS = frozenset({_J.SUCCEEDED, _J.FAILED, _J.PARTIALLY_FAILED, _J.CANCELLED, _J.TIMED_OUT})

JOB_CHANGES: Mapping[JobState, frozenset[JobState]] = {
    _J.PENDING: frozenset({_J.PREVIEWED, _J.RUNNING, _J.PAUSED, _J.CANCELLED, _J.EXPIRED}),
    _J.PREVIEWED: frozenset({_J.PREVIEWED, _J.RUNNING, _J.CANCELLED, _J.EXPIRED}),
    _J.RUNNING: frozenset({_J.PAUSED, *_ENDS}),
    _J.PAUSED: frozenset({_J.PENDING, _J.CANCELLED, _J.EXPIRED}),
    **{state: frozenset() for state in (*_ENDS, _J.EXPIRED)},
}

STEP_ENDS: frozenset[StepState] = frozenset(state for state, to in STEP_CHANGES.items() if not to)
JOB_ENDS: frozenset[JobState] = frozenset(state for state, to in JOB_CHANGES.items() if not to)


class StoreError(HoldfastError):
    """Something about stored jobs is wrong; the store is unchanged."""


# What is named by its key and what it is a part of.
_PARTS = ("step", "order")


class NotFoundError(StoreError):
    """There is no such thing in this tenant: `kind` ("job", "step", "batch") and `which` say what."""

    kind: str
    which: str
    tenant: str

    def __init__(self, kind: str, which: str, tenant: str) -> None:
        super().__init__(kind, which, tenant)
        self.kind, self.which, self.tenant = kind, which, tenant

    def __str__(self) -> str:
        """Say what was looked for, and where."""
        which = repr(self.which)
        if self.kind in _PARTS and " of " in self.which:
            part, _, whole = self.which.rpartition(" of ")
            which = f"{part!r} of {whole}"
        return f"no {self.kind} {which} in tenant {self.tenant!r}; list what there is to see the ids"


class TenantNotFoundError(StoreError):
    """No tenant of this name was created in this store."""

    tenant: str

    def __init__(self, tenant: str) -> None:
        super().__init__(tenant)
        self.tenant = tenant

    def __str__(self) -> str:
        """Say which, and the remedy."""
        return f"no tenant {self.tenant!r} in this store; create it, or correct the name"


class IllegalTransition(StoreError):
    """A state cannot follow another: `from_` and `to`; nothing has changed."""

    what: str
    from_: str
    to: str

    def __init__(self, what: str, from_: str, to: str) -> None:
        super().__init__(what, from_, to)
        self.what, self.from_, self.to = what, from_, to

    def __str__(self) -> str:
        """Say what was to change, and how."""
        return f"{self.what} is {self.from_}: it cannot become {self.to}"


class ConflictError(StoreError):
    """Somebody else changed it first: the version or digest that was given is no longer the current one."""

    what: str
    given: object
    current: object

    def __init__(self, what: str, given: object, current: object) -> None:
        super().__init__(what, given, current)
        self.what, self.given, self.current = what, given, current

    def __str__(self) -> str:
        """Say what was given and what is there."""
        return f"{self.what} has changed: given {self.given!r}, now {self.current!r}; read it again"


class LeaseLostError(StoreError):
    """The worker's lease has ended or was taken over; nothing of what it said was recorded."""

    worker: str

    def __init__(self, worker: str) -> None:
        super().__init__(worker)
        self.worker = worker

    def __str__(self) -> str:
        """Say whose."""
        return f"worker {self.worker!r} has lost its lease; drop what it holds and register again"


class StoreUnavailableError(StoreError):
    """The store cannot be used now: `where`, `problem` and `remedy` say more.

    `certain`: nothing was changed. False: the connection broke during the commit, which may have succeeded.
    """

    where: str
    problem: str
    remedy: str
    certain: bool

    def __init__(self, where: str, problem: str, remedy: str, *, certain: bool = True) -> None:
        super().__init__(where, problem, remedy)
        self.where, self.problem, self.remedy, self.certain = where, problem, remedy, certain

    def __str__(self) -> str:
        """Say where, what is wrong and what to do."""
        doubt = "" if self.certain else " (its last change may have been recorded)"
        return f"{self.where}: {self.problem}{doubt}; {self.remedy}"


class StoreVersionError(StoreUnavailableError):
    """The store has the schema of a version that this holdfast does not know; trying again does not help."""


class SubmissionError(StoreError):
    """A submission was refused whole; `faults` has a sentence for each row or step that is wrong (100 at most)."""

    faults: tuple[str, ...]
    more: int

    def __init__(self, faults: Sequence[str], more: int = 0) -> None:
        super().__init__(tuple(faults), more)
        self.faults, self.more = tuple(faults), more

    def __str__(self) -> str:
        """List them."""
        rest = f"\n  and {self.more} more" if self.more else ""
        return "nothing was submitted:\n  " + "\n  ".join(self.faults) + rest


@dataclass(frozen=True, slots=True, kw_only=True)
class NewStep:
    """A step to be stored; `payload` is encoded, `depends_on` names keys of the same job, in any order."""

    key: str
    payload: bytes
    line: int = 0
    depends_on: tuple[str, ...] = ()
    must_succeed: bool = True
    timeout: float | None = None
    target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be stored. Durations are seconds; `ready` jobs may run at once, others after `approve`.

    `stop_after` failures, or a share above `stop_share` of all steps, halt it: what is pending stays pending. `origin`
    is the job whose idempotency keys its steps have, its own id by default; `rate` is in steps a second. `whole`: it
    ends timed_out if a step did, else failed if one failed that must succeed: never partially_failed.
    """

    id: str
    handler: str
    name: str = ""
    batch: str | None = None
    dedup_key: str | None = None
    priority: int = 3
    ready: bool = True
    idempotent: bool = False
    stop_after: int | None = None
    stop_share: float | None = None
    max_attempts: int = 1
    step_timeout: float | None = None
    job_timeout: float | None = None
    expires_in: float | None = None
    concurrency: int | None = None
    rate: float | None = None
    write_back: bool = False
    retry_of: str | None = None
    origin: str = ""
    whole: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many steps are in which state; `in_flight` of the running ones may have called outside."""

    total: int = 0
    pending: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    timed_out: int = 0
    needs_review: int = 0
    cancelled: int = 0
    skipped: int = 0
    in_flight: int = 0

    @property
    def done(self) -> int:
        """Steps that have ended."""
        return self.succeeded + self.failed + self.timed_out + self.cancelled + self.skipped

    @property
    def percent(self) -> float:
        """Share of steps that have ended, of 100, to one decimal; 0.0 without steps."""
        return percent(self.done, self.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A stored job. Times are seconds on the store's clock; `version` rises with every change of the job itself."""

    new: NewJob
    state: JobState
    version: int
    counts: Counts
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    ready: bool = False
    halted: bool = False
    digest: str | None = None
    preview: Mapping[str, Any] | None = None
    reason: str = ""
    last_event: int = 0

    @property
    def id(self) -> str:
        """The job's id."""
        return self.new.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One earlier call of a step that did not settle it: its number, times, worker, and how it ended."""

    number: int
    worker: str
    started_at: float
    ended_at: float
    outcome: str
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """A stored step. `begun`: its call may have happened; `fence` rises with each claim and whenever a lease ends.

    `depends_on` is filled by `step` and `steps`; a claim may leave it empty.
    """

    job: str
    origin: str
    position: int
    key: str
    line: int
    payload: bytes
    state: StepState
    fence: int = 0
    attempts: int = 0
    begun: bool = False
    worker: str | None = None
    due_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    result: bytes | None = None
    error: str = ""
    must_succeed: bool = True
    timeout: float | None = None
    target: str = ""
    depends_on: tuple[str, ...] = ()
    history: tuple[Attempt, ...] = ()

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this step, in this job and in those that retry it."""
        return f"{self.origin}:{self.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRef:
    """A claimed step, as its worker names it."""

    job: str
    position: int
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a call ended, as its worker says. `state`: succeeded, failed, timed_out, needs_review, or pending to retry.

    A retry waits `retry_in` seconds. `took` is the call's duration in seconds. `refund`: the attempt does not count,
    because nothing was sent: a policy refused the call, or it was handed back before it was made.
    """

    ref: StepRef
    state: StepState
    result: bytes | None = None
    error: str = ""
    retry_in: float = 0.0
    took: float = 0.0
    refund: bool = False


class Refusal(StrEnum):
    """Why a step that was to begin may not: `busy` and `rate` may later, the others have been handed back."""

    BUSY = "busy"
    RATE = "rate"
    STOPPED = "stopped"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """What `advance` did: who may call now, who may not and why, whose outcome came too late, which jobs ended.

    `retry_in`: seconds until the rate of a job lets another step begin.
    """

    begun: tuple[StepRef, ...] = ()
    refused: Mapping[StepRef, Refusal] = field(default_factory=dict[StepRef, Refusal])
    late: tuple[StepRef, ...] = ()
    ended: Mapping[str, JobState] = field(default_factory=dict[str, JobState])
    retry_in: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """A stored batch: `done` of `total` jobs have ended."""

    id: str
    name: str
    state: BatchState
    total: int
    done: int
    created_at: float

    @property
    def percent(self) -> float:
        """Share of jobs that have ended, of 100, to one decimal; 0.0 without jobs."""
        return percent(self.done, self.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One change in a job's history: `seq` counts from 1 without a gap, in the order of the commits.

    `kind` is "job", "step", "late", "write-back" or "note"; `state` what it became, `positions` whose steps.
    """

    job: str
    seq: int
    at: float
    kind: str
    state: str
    positions: tuple[int, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """A result that goes back to where its row came from."""

    job: str
    position: int
    key: str
    line: int
    result: bytes
    state: OutboxState = OutboxState.PENDING
    attempts: int = 0
    due_at: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """Who holds leases: a process on a host, alive until `expires_at`; `born` tells processes of one pid apart."""

    id: str
    host: str
    pid: int
    born: str
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """A held lock: `fence` rises each time that somebody gets it."""

    name: str
    owner: str
    fence: int
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What ran past its limit: jobs that expired or timed out, steps that timed out."""

    jobs: Mapping[str, JobState] = field(default_factory=dict[str, JobState])
    steps: tuple[StepRef, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What ended leases left: `returned` steps are pending again, `ambiguous` ones need review.

    Both by job, the oldest first, and position.
    """

    workers: tuple[str, ...] = ()
    returned: tuple[StepRef, ...] = ()
    ambiguous: tuple[StepRef, ...] = ()


class StateStore(Protocol):
    """Where one tenant's jobs are kept. Every method is one transaction; safe to share between threads.

    Each change and its event are one; times are seconds on the store's own clock, which never goes back.
    """

    tenant: str

    def now(self) -> float:
        """Return seconds since the epoch on the store's clock."""
        ...

    def close(self) -> None:
        """Give back connections; calling it again does nothing."""
        ...

    def create_job(self, job: NewJob, steps: Iterable[NewStep]) -> tuple[JobRecord, bool]:
        """Store a job and all its steps, or nothing; whether it is new: a known `dedup_key` returns the first job.

        Steps stream. SubmissionError names unknown dependencies, duplicate keys, cycles and a known id; one that
        `steps` raises is joined with it.
        """
        ...

    def job(self, job: str) -> JobRecord:
        """Return a job. NotFoundError."""
        ...

    def jobs(
        self,
        *,
        states: Iterable[JobState] = (),
        batch: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[JobRecord]:
        """Return jobs, newest first, from the one after the job `after` on; all states when none is named."""
        ...

    def step(self, job: str, key: str) -> StepRecord:
        """Return a step by its key. NotFoundError."""
        ...

    def steps(
        self,
        job: str,
        *,
        states: Iterable[StepState] = (),
        worker: str | None = None,
        after: int = -1,
        limit: int = 1000,
    ) -> list[StepRecord]:
        """Return steps in order, from the position after `after` on; strongly consistent. NotFoundError.

        With `worker`, those that it holds, which SQL stores find by an index.
        """
        ...

    def events(
        self, job: str, *, after: int = 0, limit: int = 1000, kinds: Collection[str] = ()
    ) -> list[JobEvent]:
        """Return a job's history after event number `after`, of all kinds when none is named. NotFoundError."""
        ...

    def note(self, job: str, state: str, data: Mapping[str, Any]) -> JobEvent:
        """Append an event of kind "note" to a job's history."""
        ...

    def change_job(
        self,
        job: str,
        to: JobState,
        *,
        reason: str = "",
        version: int | None = None,
    ) -> JobRecord:
        """Move a job: to paused, back to pending, cancelled, or to an end that a program decides.

        Cancelling cancels pending steps and lets running ones end. IllegalTransition, ConflictError (`version`).
        """
        ...

    def preview_job(self, job: str, digest: str, preview: Mapping[str, Any]) -> JobRecord:
        """Keep a preview and the digest of what was previewed; the job becomes previewed. IllegalTransition."""
        ...

    def approve_job(self, job: str, digest: str) -> JobRecord:
        """Let a previewed job run. ConflictError when `digest` is not the preview's, IllegalTransition."""
        ...

    def delete_job(self, job: str) -> None:
        """Remove a job that has ended, with steps, events and outbox. IllegalTransition while it is active."""
        ...

    def create_batch(self, batch: str, name: str = "") -> BatchRecord:
        """Store a batch, or return the one of this id. SubmissionError for an id that no database can store."""
        ...

    def batch(self, batch: str) -> BatchRecord:
        """Return a batch. NotFoundError."""
        ...

    def cancel_batch(self, batch: str) -> BatchRecord:
        """Cancel every job of a batch that has not ended; cancelled sticks."""
        ...

    def register(self, worker: WorkerRecord, lease: float) -> WorkerRecord:
        """Begin a worker's lease of `lease` seconds; claims need one."""
        ...

    def renew(self, worker: str, lease: float) -> WorkerRecord:
        """Prolong a lease from now on. LeaseLostError when it has ended."""
        ...

    def retire(self, worker: str) -> Recovered:
        """End a worker's lease and hand back what it holds: what has not begun consumes no attempt."""
        ...

    def workers(self) -> list[WorkerRecord]:
        """Return those with a lease, whether or not it has ended, until they are recovered."""
        ...

    def claim(
        self,
        worker: str,
        limit: int,
        *,
        job: str | None = None,
        handlers: Collection[str] = (),
        skip: Collection[str] = (),
    ) -> list[StepRecord]:
        """Lease up to `limit` steps that may run: jobs by priority, then age; steps in order. LeaseLostError.

        Of each job no more than its concurrency lets begin. The first claim makes a job running. Only of jobs of these
        `handlers`, all when none is named, and of none in `skip`.
        """
        ...

    def advance(
        self, worker: str, outcomes: Sequence[Outcome] = (), begin: Sequence[StepRef] = ()
    ) -> Advanced:
        """Record how calls ended, and let others begin, in one commit: when it returns, their intent is durable.

        Beginning consumes an attempt; what has begun already under this fence is said to have, and that is all.
        Dependants of what ended become free or are failed; counters, outbox, halts and the ends of jobs follow. A fence
        that is no longer current changes nothing but leaves a "late" event.
        LeaseLostError when the worker's lease has ended: nothing is recorded.
        """
        ...

    def set_concurrency(self, most: int | None) -> None:
        """Let at most so many calls of this tenant be under way at once, whoever makes them; None: any number.

        Holds for what begins from now on. ValueError below 1.
        """
        ...

    def concurrency(self) -> int | None:
        """Return how many calls of this tenant may be under way at once; None: any number."""
        ...

    def release(self, worker: str, refs: Sequence[StepRef]) -> None:
        """Hand back claimed steps that have not begun; no attempt is consumed."""
        ...

    def resolve(
        self,
        job: str,
        key: str,
        to: StepState,
        *,
        result: bytes | None = None,
        error: str = "",
        by: str = "",
    ) -> StepRecord:
        """Decide about a step that needs review: succeeded, failed, or pending to run it again. IllegalTransition."""
        ...

    def skip(self, job: str, keys: Iterable[str], *, reason: str = "", by: str = "") -> JobRecord:
        """Decide that pending steps are not to be done, and return the job: they are skipped, `reason` is their error.

        All or none: NotFoundError for a key that is unknown, IllegalTransition for a step that is not pending, and for
        a job that has ended. A skip is no failure: what depends on the step becomes free, even if it must succeed.
        """
        ...

    def recover(self, gone: Iterable[str] = (), limit: int = 1000) -> Recovered:
        """Take steps from workers whose lease has ended, and from those `gone`, seen dead by the caller.

        What had not begun is pending again, without an attempt; so is what had, in a job that is idempotent; the rest
        needs review. Each taken step's fence rises. The worker is forgotten when nothing is left, and its
        locks end.
        """
        ...

    def sweep(self, limit: int = 1000, *, slack: float = 0.0) -> Swept:
        """End what is past its limit, whoever holds it: expired jobs, timed-out jobs and steps. Fences rise.

        Steps get `slack` seconds more, so that a worker that lives ends its own calls first.
        """
        ...

    def next_due(self) -> float | None:
        """Return when the next retry, expiry or timeout is due, on the store's clock; None: nothing waits."""
        ...

    def wait(self, timeout: float) -> bool:
        """Block until there may be new work or a change, `timeout` seconds at most; spurious ends are allowed."""
        ...

    def outbox(self, job: str, *, states: Iterable[OutboxState] = (), limit: int = 1000) -> list[OutboxEntry]:
        """Return results on their way back, in order; those that are due first."""
        ...

    def owing(self) -> list[str]:
        """Return the jobs, ended or not, that have results waiting to be written back."""
        ...

    def settle_outbox(self, entries: Sequence[OutboxEntry]) -> None:
        """Record what became of write-backs: state, attempts, due_at and error of each."""
        ...

    def acquire(self, name: str, owner: str, lease: float) -> Lock | None:
        """Take a lock for `lease` seconds, or prolong one's own; None while another holds it.

        An owner that is a worker has it as long as its own lease at most: both end when it is recovered or retires.
        """
        ...

    def lock(self, name: str) -> Lock | None:
        """Return a lock as somebody holds it now, None if nobody does."""
        ...

    def holds(self, lock: Lock) -> bool:
        """Return whether this very lock is still held."""
        ...

    def unlock(self, lock: Lock) -> bool:
        """Give a lock back; False, and nothing, when it is no longer this one's or it was marked dirty meanwhile."""
        ...

    def mark_dirty(self, name: str) -> None:
        """Say that there is something new for the holder of a lock."""
        ...

    def clear_dirty(self, lock: Lock) -> bool:
        """Take the mark away; return whether there was one. LeaseLostError when the lock is lost."""
        ...


def percent(done: int, total: int) -> float:
    """Return a share of 100 to one decimal; 0.0 of nothing."""
    return round(done / total * 100, 1) if total else 0.0
