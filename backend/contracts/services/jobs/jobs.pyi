"""The one door to durable jobs: submit, preview, approve, run, watch, steer, recover."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from os import PathLike
from types import TracebackType
from typing import Any, Literal

from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.store.state import (
    BatchRecord,
    JobEvent,
    JobRecord,
    JobState,
    OutboxEntry,
    StateStore,
    StepRecord,
    StepState,
)
from holdfast.services.jobs.executors.tickets import Executor
from holdfast.services.jobs.handlers import Function, Handler, Handlers
from holdfast.services.jobs.modes import Mode, Session
from holdfast.services.jobs.notify import Notifier
from holdfast.services.jobs.preview import Preview
from holdfast.services.jobs.progress import Progress, Result

@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """A job whose worker is gone. `held` steps had it; of these `ambiguous` may have called; `left` have not ended.

    Where none is left, results have not all been written back.

    `choices`: what can be done: "resume", "review", "restart", "cancel".
    """

    job: JobRecord
    held: int
    ambiguous: int
    review: int
    left: int
    choices: tuple[str, ...]

@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What asking the handler about steps that need review gave, by key."""

    done: tuple[str, ...] = ()
    not_done: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

class Jobs:
    """Jobs of one tenant: what `store` keeps, done by `handlers`. Safe to share between threads.

    A job is named by its id or its record. NotFoundError for one that is not there, IllegalTransition for what cannot
    follow its state. `a…` methods are for event loops; the others block. With an `executor`, its workers do what would
    be done here.
    """

    def __init__(
        self,
        store: StateStore,
        handlers: Handlers | Iterable[Handler | Function | str] = (),
        *,
        session: Session | None = None,
        notifier: Notifier | None = None,
        executor: Executor | None = None,
    ) -> None: ...
    @property
    def store(self) -> StateStore:
        """Where the jobs are kept."""
    @property
    def handlers(self) -> Handlers:
        """The handlers it knows."""
    @property
    def session(self) -> Session:
        """Whose mode new jobs have."""
    def close(self) -> None:
        """Close the store."""
    def __enter__(self) -> Jobs: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def submit(
        self,
        source: Any,
        handler: Handler | Function | str,
        *,
        job_id: str | None = None,
        name: str = "",
        key: str | Callable[[Any], object] | None = None,
        mode: Mode | str | None = None,
        dedup_key: str | None = None,
        batch: str | None = None,
        priority: int = 3,
        on_error: str | float = "continue",
        max_attempts: int = 1,
        backoff: Backoff | None = None,
        step_timeout: float | None = None,
        job_timeout: float | None = None,
        expires_in: float | None = None,
        concurrency: int | None = None,
        rate: float | None = None,
        write_back: Any = None,
        settings: dict[str, Any] | None = None,
    ) -> JobRecord:
        """Store a job and all its steps, or nothing. Of a known `dedup_key` return the first job, not one of `job_id`.

        `source`: a path (CSV, Excel, JSON lines), a source, or an iterable of payloads or `Step`s; `key`: a column, or
        a function of the payload. `priority` 1 critical … 4 low; `on_error`: "continue", "fail_fast" (one step at a
        time unless `concurrency` says more), a number of failures, or a share of all rows. Durations are seconds,
        `rate` in steps a second. ConfigurationError, SubmissionError: each with all faults.
        """
    def preview(self, job: str | JobRecord, *, rows: int = 20) -> Preview:
        """Quote the first rows under the handler's policy, and keep that: the job becomes previewed."""
    async def apreview(self, job: str | JobRecord, *, rows: int = 20) -> Preview:
        """Do as `preview` does."""
    def approve(self, job: str | JobRecord, digest: str) -> JobRecord:
        """Let a previewed job run. ConflictError when its rows, or their file, are not those of `digest`."""
    def run(
        self,
        job: str | JobRecord,
        *,
        concurrency: int = 8,
        record: Literal["each", "group"] = "each",
        drain: float = 30.0,
        signals: bool = True,
    ) -> Progress:
        """Execute what is left of a job, here and now, and return how it ended, or why it cannot go on.

        NotApprovedError. A signal drains, then is raised: KeyboardInterrupt, or SystemExit for SIGTERM.
        """
    async def arun(
        self,
        job: str | JobRecord,
        *,
        concurrency: int = 8,
        record: Literal["each", "group"] = "each",
        drain: float = 30.0,
    ) -> Progress:
        """Do as `run` does; cancelling drains nothing: what runs is cancelled and handed back."""
    def job(self, job: str | JobRecord) -> JobRecord:
        """Return a job as it is stored now."""
    def find(
        self,
        *,
        states: Iterable[JobState | str] = (),
        batch: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[JobRecord]:
        """Return jobs, newest first, from the one after the job `after` on."""
    def status(self, job: str | JobRecord, *, errors: int = 5) -> Progress:
        """Return how far a job is, with its first `errors` failures."""
    def watch(self, job: str | JobRecord, *, interval: float = 0.5) -> Iterator[Progress]:
        """Yield how far a job is, now and whenever that changed, until it has ended."""
    def awatch(self, job: str | JobRecord, *, interval: float = 0.5) -> AsyncIterator[Progress]:
        """Do as `watch` does."""
    def results(self, job: str | JobRecord, *, states: Iterable[StepState | str] = ()) -> Iterator[Result]:
        """Yield the steps in order, decoded; all states when none is named."""
    def total(self, job: str | JobRecord, amount: str | Callable[[Any], Decimal | int]) -> Decimal:
        """Add up a field of the results that succeeded, or a function of them, exactly. TypeError for floats."""
    def pause(self, job: str | JobRecord, *, reason: str = "") -> JobRecord:
        """Begin no further step; those that run end."""
    def resume(self, job: str | JobRecord, *, execute: bool = True, concurrency: int = 8) -> Progress:
        """Let a paused or interrupted job go on: take back what dead workers held, reconcile, and do what is left.

        With `execute` false, that is left to other workers.
        """
    async def aresume(self, job: str | JobRecord, *, execute: bool = True, concurrency: int = 8) -> Progress:
        """Do as `resume` does."""
    def cancel(self, job: str | JobRecord, *, reason: str = "") -> JobRecord:
        """Cancel a job: pending steps at once, running ones are told and end."""
    def skip(self, job: str | JobRecord, *keys: str, reason: str = "", by: str = "") -> JobRecord:
        """Decide that pending steps are not to be done, all or none of `keys`; `reason` is their error, `by` is kept.

        What depends on them becomes free. NotFoundError, IllegalTransition: a step, which it names, is not pending.
        """
    def retry_failed(self, job: str | JobRecord, *, pending: bool = False) -> JobRecord:
        """Submit what failed or timed out again, under the same idempotency keys; `pending`: and what never began.

        Asked again, return the job that does so already. NotEndedError.
        """
    def restart(self, job: str | JobRecord, *, confirm: int | None = None) -> JobRecord:
        """Submit all of a job again as a new one, and cancel it if nobody works on it. Its history stays.

        NotConfirmedError says how many calls may repeat: pass that number. NotEndedError while a worker holds steps.
        """
    def interrupted(self, job: str | JobRecord | None = None) -> list[Interrupted]:
        """Return the jobs that a worker left behind, or this one if it is: none that runs, or waits for a retry."""
    def recover(self) -> list[str]:
        """Take back what dead workers held, as `resume` does, of every job; return the jobs."""
    def review(self, job: str | JobRecord | None = None, *, limit: int = 1000) -> list[StepRecord]:
        """Return the steps that need review, of one job or of all."""
    def resolve(
        self,
        job: str | JobRecord,
        key: str,
        decision: Literal["succeeded", "failed", "again"],
        *,
        result: Any = None,
        error: str = "",
        by: str = "",
    ) -> StepRecord:
        """Decide about a step that needs review; "again" calls once more under the same idempotency key."""
    def reconcile(self, job: str | JobRecord) -> Reconciled:
        """Ask the handler about each step that needs review, and decide by what it knows.

        What somebody else asks about at this moment counts as unknown.
        """
    async def areconcile(self, job: str | JobRecord) -> Reconciled:
        """Do as `reconcile` does."""
    def events(
        self, job: str | JobRecord, *, after: int = 0, follow: bool = False, interval: float = 0.5
    ) -> Iterator[JobEvent]:
        """Yield a job's history from the event after number `after` on; `follow`: and what comes, until it ended."""
    def aevents(
        self, job: str | JobRecord, *, after: int = 0, follow: bool = True, interval: float = 0.5
    ) -> AsyncIterator[JobEvent]:
        """Do as `events` does."""
    def export(self, job: str | JobRecord, to: str | PathLike[str]) -> int:
        """Write key, line, state, result, error and attempts of every step to a .jsonl or .csv file; say how many."""
    def create_batch(self, name: str = "", *, batch_id: str | None = None) -> BatchRecord:
        """Store a batch, or return the one of this id."""
    def batch(self, batch: str) -> BatchRecord:
        """Return a batch and how far it is."""
    def cancel_batch(self, batch: str) -> BatchRecord:
        """Cancel every job of a batch that has not ended."""
    def dead_letters(self, job: str | JobRecord) -> list[OutboxEntry]:
        """Return the results whose write-back was given up."""
    def write_back(self, job: str | JobRecord) -> int:
        """Write results back now, dead letters too; return how many were.

        WriteBackBusyError, which says who it is, while somebody else writes them back, or to their file.
        """
    def archive(self, to: str | PathLike[str], *, older_than: float) -> list[str]:
        """Move jobs that ended more than `older_than` seconds ago to files `<id>.jsonl` in a folder; return their ids.

        A job whose results still have to be written back stays.
        """

def open_jobs(
    url: str,
    handlers: Handlers | Iterable[Handler | Function | str] = (),
    *,
    tenant: str = "default",
    session: Session | None = None,
    notifier: Notifier | None = None,
    executor: Executor | None = None,
) -> Jobs:
    """Open a store, `sqlite:///orders.db`, a path of one, `postgresql://…`, `dynamodb://…` or `memory:`."""
