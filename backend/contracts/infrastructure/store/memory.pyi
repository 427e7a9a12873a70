"""A store in memory: the reference of what every store does, for tests and for work that may be lost."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.store.state import (
    Advanced,
    BatchRecord,
    JobEvent,
    JobRecord,
    JobState,
    Lock,
    NewJob,
    NewStep,
    OutboxEntry,
    OutboxState,
    Outcome,
    Recovered,
    StepRecord,
    StepRef,
    StepState,
    Swept,
    WorkerRecord,
)

class MemoryStateStore:
    """Jobs of one tenant in this process, gone with it. Safe to share between threads."""

    tenant: str

    def __init__(self, tenant: str = "default", *, clock: Clock | None = None) -> None: ...
    def now(self) -> float:
        """Return seconds since the epoch on the store's clock."""

    def close(self) -> None:
        """Wake who waits; calling it again does nothing."""

    def create_job(self, job: NewJob, steps: Iterable[NewStep]) -> tuple[JobRecord, bool]:
        """Store a job and all its steps, or nothing; whether it is new: a known `dedup_key` returns the first job."""

    def job(self, job: str) -> JobRecord:
        """Return a job. NotFoundError."""

    def jobs(
        self,
        *,
        states: Iterable[JobState] = (),
        batch: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[JobRecord]:
        """Return jobs, newest first, from the one after the job `after` on; all states when none is named."""

    def step(self, job: str, key: str) -> StepRecord:
        """Return a step by its key. NotFoundError."""

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

    def events(
        self, job: str, *, after: int = 0, limit: int = 1000, kinds: Collection[str] = ()
    ) -> list[JobEvent]:
        """Return a job's history after event number `after`, of all kinds when none is named. NotFoundError."""

    def note(self, job: str, state: str, data: Mapping[str, Any]) -> JobEvent:
        """Append an event of kind "note" to a job's history."""

    def change_job(
        self, job: str, to: JobState, *, reason: str = "", version: int | None = None
    ) -> JobRecord:
        """Move a job: to paused, back to pending, cancelled, or to an end that a program decides."""

    def preview_job(self, job: str, digest: str, preview: Mapping[str, Any]) -> JobRecord:
        """Keep a preview and the digest of what was previewed; the job becomes previewed. IllegalTransition."""

    def approve_job(self, job: str, digest: str) -> JobRecord:
        """Let a previewed job run. ConflictError when `digest` is not the preview's, IllegalTransition."""

    def delete_job(self, job: str) -> None:
        """Remove a job that has ended, with steps, events and outbox. IllegalTransition while it is active."""

    def create_batch(self, batch: str, name: str = "") -> BatchRecord:
        """Store a batch, or return the one of this id. SubmissionError for an id that no database can store."""

    def batch(self, batch: str) -> BatchRecord:
        """Return a batch. NotFoundError."""

    def cancel_batch(self, batch: str) -> BatchRecord:
        """Cancel every job of a batch that has not ended; cancelled sticks."""

    def register(self, worker: WorkerRecord, lease: float) -> WorkerRecord:
        """Begin a worker's lease of `lease` seconds; claims need one."""

    def renew(self, worker: str, lease: float) -> WorkerRecord:
        """Prolong a lease from now on. LeaseLostError when it has ended."""

    def retire(self, worker: str) -> Recovered:
        """End a worker's lease and hand back what it holds: what has not begun consumes no attempt."""

    def workers(self) -> list[WorkerRecord]:
        """Return those with a lease, whether or not it has ended, until they are recovered."""

    def claim(
        self,
        worker: str,
        limit: int,
        *,
        job: str | None = None,
        handlers: Collection[str] = (),
        skip: Collection[str] = (),
    ) -> list[StepRecord]:
        """Lease up to `limit` steps that may run: jobs by priority, then age; steps in order. LeaseLostError."""

    def advance(
        self, worker: str, outcomes: Sequence[Outcome] = (), begin: Sequence[StepRef] = ()
    ) -> Advanced:
        """Record how calls ended, and let others begin, in one commit: when it returns, their intent is durable."""

    def set_concurrency(self, most: int | None) -> None:
        """Let at most so many calls of this tenant be under way at once, whoever makes them; None: any number.

        Holds for what begins from now on. ValueError below 1.
        """

    def concurrency(self) -> int | None:
        """Return how many calls of this tenant may be under way at once; None: any number."""

    def release(self, worker: str, refs: Sequence[StepRef]) -> None:
        """Hand back claimed steps that have not begun; no attempt is consumed."""

    def resolve(
        self, job: str, key: str, to: StepState, *, result: bytes | None = None, error: str = "", by: str = ""
    ) -> StepRecord:
        """Decide about a step that needs review: succeeded, failed, or pending to run it again. IllegalTransition."""

    def skip(self, job: str, keys: Iterable[str], *, reason: str = "", by: str = "") -> JobRecord:
        """Skip pending steps, all or none, and return the job. NotFoundError, IllegalTransition."""

    def recover(self, gone: Iterable[str] = (), limit: int = 1000) -> Recovered:
        """Take steps from workers whose lease has ended, and from those `gone`, seen dead by the caller."""

    def sweep(self, limit: int = 1000, *, slack: float = 0.0) -> Swept:
        """End what is past its limit, whoever holds it: expired jobs, timed-out jobs and steps. Fences rise.

        Steps get `slack` seconds more, so that a worker that lives ends its own calls first.
        """

    def next_due(self) -> float | None:
        """Return when the next retry, expiry or timeout is due, on the store's clock; None: nothing waits."""

    def wait(self, timeout: float) -> bool:
        """Block until there may be new work or a change, `timeout` seconds at most; spurious ends are allowed.

        What has changed since this thread's last wait ends it at once.
        """

    def outbox(self, job: str, *, states: Iterable[OutboxState] = (), limit: int = 1000) -> list[OutboxEntry]:
        """Return results on their way back, in order; those that are due first."""

    def owing(self) -> list[str]:
        """Return the jobs, ended or not, that have results waiting to be written back."""

    def settle_outbox(self, entries: Sequence[OutboxEntry]) -> None:
        """Record what became of write-backs: state, attempts, due_at and error of each."""

    def acquire(self, name: str, owner: str, lease: float) -> Lock | None:
        """Take a lock for `lease` seconds, or prolong one's own; None while another holds it."""

    def lock(self, name: str) -> Lock | None:
        """Return a lock as somebody holds it now, None if nobody does."""

    def holds(self, lock: Lock) -> bool:
        """Return whether this very lock is still held."""

    def unlock(self, lock: Lock) -> bool:
        """Give a lock back; False, and nothing, when it is no longer this one's or it was marked dirty meanwhile."""

    def mark_dirty(self, name: str) -> None:
        """Say that there is something new for the holder of a lock."""

    def clear_dirty(self, lock: Lock) -> bool:
        """Take the mark away; return whether there was one. LeaseLostError when the lock is lost."""
