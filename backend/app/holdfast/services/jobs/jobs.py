"""The one door to durable jobs: submit, preview, approve, run, watch, steer, recover."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience._compile import is_async_function
from holdfast.infrastructure.resilience.clock import current_clock
from holdfast.infrastructure.store.payload import decode, encode
from holdfast.infrastructure.store.state import (
    JOB_CHANGES,
    JOB_ENDS,
    ConflictError,
    IllegalTransition,
    JobState,
    NewJob,
    OutboxState,
    StepState,
)
from holdfast.services.jobs import _again, _files, _follow, _process, _review, _submit, _watch, _write_back
from holdfast.services.jobs._calls import Caller
from holdfast.services.jobs._outcomes import stored_backoff, text
from holdfast.services.jobs._pages import all_jobs
from holdfast.services.jobs._runs import run_of
from holdfast.services.jobs.errors import NotApprovedError, NotConfirmedError, NotEndedError
from holdfast.services.jobs.handlers import Done, Function, Handler, Handlers, NotDone
from holdfast.services.jobs.modes import Mode, Session
from holdfast.services.jobs.preview import Preview, Quote, extrapolate
from holdfast.services.jobs.progress import Progress, Result
from holdfast.services.jobs.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
    from os import PathLike
    from types import TracebackType
    from typing import Literal, TypeVar

    from holdfast.infrastructure.resilience.backoff import Backoff
    from holdfast.infrastructure.store.state import (
        BatchRecord,
        JobEvent,
        JobRecord,
        OutboxEntry,
        StateStore,
        StepRecord,
    )
    from holdfast.services.jobs.executors.tickets import Executor
    from holdfast.services.jobs.notify import Notifier

    _T = TypeVar("_T")

_OPEN = tuple(state for state, to in JOB_CHANGES.items() if to)
_QUOTES_AT_ONCE = 8
_PAGE = 1000
# The lease of who asks or writes back on request: longer than one question or one file takes.
_BUSY = 300.0
# Seconds between two looks at a job that is done elsewhere.
_WATCH = 0.2
_DECISIONS = {
    "succeeded": StepState.SUCCEEDED,
    "failed": StepState.FAILED,
    "again": StepState.PENDING,
}


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
    ) -> None:
        self._store = store
        self._handlers = handlers if isinstance(handlers, Handlers) else Handlers(handlers)
        self._session = Session() if session is None else session
        self._notifier = notifier
        self._executor = executor

    @property
    def store(self) -> StateStore:
        """Where the jobs are kept."""
        return self._store

    @property
    def handlers(self) -> Handlers:
        """The handlers it knows."""
        return self._handlers

    @property
    def session(self) -> Session:
        """Whose mode new jobs have."""
        return self._session

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def __enter__(self) -> Jobs:
        """Give itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()

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
        _submit.check(
            priority=priority,
            on_error=on_error,
            max_attempts=max_attempts,
            backoff=backoff,
            step_timeout=step_timeout,
            job_timeout=job_timeout,
            expires_in=expires_in,
            concurrency=concurrency,
            rate=rate,
        )
        found = self._handlers.add(handler)
        stop_after, stop_share = _submit.stops(on_error)
        steps = _submit.Submission(source, key, found)
        kept = dict(settings or {})
        kept["reference"] = found.reference
        if steps.file is not None:
            kept["file"] = steps.file
        if backoff is not None:
            kept["backoff"] = stored_backoff(backoff)
        if write_back is not None:
            kept["write_back"] = _write_back.described(write_back, steps.source)
        new = NewJob(
            id=_process.new_id(self._store.now()) if job_id is None else job_id,
            handler=found.name,
            name=name,
            batch=batch,
            dedup_key=dedup_key,
            priority=priority,
            ready=(self._session.mode if mode is None else Session(mode).mode) is Mode.AUTO,
            idempotent=found.idempotent,
            stop_after=stop_after,
            stop_share=stop_share,
            max_attempts=max_attempts,
            step_timeout=step_timeout,
            job_timeout=job_timeout,
            expires_in=expires_in,
            concurrency=1 if concurrency is None and on_error == "fail_fast" else concurrency,
            rate=rate,
            write_back=write_back is not None,
            settings=kept,
        )
        record, _ = self._store.create_job(new, steps)
        self._send_ticket(record)
        return record

    def _send_ticket(self, job: JobRecord) -> None:
        """Tell the workers of the executor, if there is one, that a job has work; if that fails, they find it."""
        if self._executor is not None:
            from holdfast.services.jobs.executors._office import send

            send(self._executor, self._store, job)

    def create_batch(self, name: str = "", *, batch_id: str | None = None) -> BatchRecord:
        """Store a batch, or return the one of this id."""
        return self._store.create_batch(batch_id or _process.new_id(self._store.now()), name)

    def batch(self, batch: str) -> BatchRecord:
        """Return a batch and how far it is."""
        return self._store.batch(batch)

    def cancel_batch(self, batch: str) -> BatchRecord:
        """Cancel every job of a batch that has not ended."""
        open_jobs = [job.id for job in all_jobs(self._store, _OPEN, batch=batch)]
        record = self._store.cancel_batch(batch)
        for job in open_jobs:
            self._tell_end(job)
        return record

    def preview(self, job: str | JobRecord, *, rows: int = 20) -> Preview:
        """Quote the first rows under the handler's policy, and keep that: the job becomes previewed."""
        return _run(self.apreview(job, rows=rows), "apreview")

    async def apreview(self, job: str | JobRecord, *, rows: int = 20) -> Preview:
        """Do as `preview` does."""
        record = await asyncio.to_thread(self._store.job, _id(job))
        if JobState.PREVIEWED not in JOB_CHANGES[record.state]:
            raise IllegalTransition(f"job {record.id!r}", record.state, JobState.PREVIEWED)
        handler = self._handler(record)
        quotes = await self._quotes(handler, await asyncio.to_thread(self._first, record.id, rows))
        digest = await asyncio.to_thread(self._digest, record.id)
        counts = record.counts
        preview = extrapolate(record.id, digest, counts.total - counts.skipped, quotes)
        await asyncio.to_thread(self._store.preview_job, record.id, digest, preview.as_dict())
        return preview

    def _first(self, job: str, rows: int) -> list[StepRecord]:
        return self._store.steps(job, states=frozenset(StepState) - {StepState.SKIPPED}, limit=rows)

    async def _quotes(self, handler: Handler, steps: list[StepRecord]) -> list[Quote]:
        if not handler.can_estimate:
            return [Quote(key=step.key, line=step.line) for step in steps]
        with _Calling() as caller:
            free = asyncio.Semaphore(_QUOTES_AT_ONCE)
            return list(await asyncio.gather(*(_quote(caller, free, handler, step) for step in steps)))

    def _digest(self, job: str) -> str:
        """Return what identifies the steps of a job: their keys, payloads and dependencies, in order."""
        state = sha256()
        for step in _again.pages(self._store, job):
            parts = (step.key.encode(), step.payload, *(key.encode() for key in step.depends_on))
            for part in parts:
                state.update(b"%d:" % len(part) + part)
            state.update(b";")
        return state.hexdigest()

    def approve(self, job: str | JobRecord, digest: str) -> JobRecord:
        """Let a previewed job run. ConflictError when its rows, or their file, are not those of `digest`."""
        name = _id(job)
        if self._store.job(name).state is JobState.PREVIEWED:
            current = self._digest(name)
            if current != digest:
                raise ConflictError(f"the rows of job {name!r}", digest, current)
            _submit.check_file(self._store.job(name))
        approved = self._store.approve_job(name, digest)
        self._tell_end(name)
        self._send_ticket(approved)
        return approved

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
        worker = self._worker(_id(job), concurrency, record, drain)
        done = _run(self._see_through(_id(job), worker, signals=signals), "arun")
        if worker._signal is signal.SIGINT:
            raise KeyboardInterrupt
        if worker._signal is not None:
            raise SystemExit(128 + worker._signal)
        return done

    async def arun(
        self,
        job: str | JobRecord,
        *,
        concurrency: int = 8,
        record: Literal["each", "group"] = "each",
        drain: float = 30.0,
    ) -> Progress:
        """Do as `run` does; cancelling drains nothing: what runs is cancelled and handed back."""
        worker = self._worker(_id(job), concurrency, record, drain)
        return await self._see_through(_id(job), worker, signals=False)

    def _worker(self, job: str, concurrency: int, record: Literal["each", "group"], drain: float) -> Worker:
        return Worker(
            self._store,
            self._handlers,
            concurrency=concurrency,
            record=record,
            drain=drain,
            job=job,
            notifier=self._notifier,
        )

    async def _see_through(self, job: str, worker: Worker, *, signals: bool) -> Progress:
        record = await asyncio.to_thread(self._store.job, job)
        if record.state is JobState.PREVIEWED or (record.state is JobState.PENDING and not record.ready):
            raise NotApprovedError(job, record.state)
        goes_on = record.state not in JOB_ENDS and record.state is not JobState.PAUSED
        if goes_on:
            self._handler(record)
        if goes_on or await asyncio.to_thread(self._owes, job):
            with self._session.running():
                if self._executor is None:
                    await worker.arun(signals=signals)
                else:
                    await self._wait_for_others(record)
        return await asyncio.to_thread(_follow.progress, self._store, job)

    async def _wait_for_others(self, job: JobRecord) -> None:
        """Wait until workers elsewhere have done what is left of a job."""
        await asyncio.to_thread(self._send_ticket, job)
        while not await asyncio.to_thread(self._is_left_to_people, job.id):
            await current_clock().asleep(_WATCH)

    def _is_left_to_people(self, name: str) -> bool:
        job = self._store.job(name)
        counts = job.counts
        if job.state in JOB_ENDS:
            return not self._owes(name)
        return job.state is JobState.PAUSED or counts.needs_review > 0 == counts.pending + counts.running

    def _owes(self, job: str) -> bool:
        """Return whether results of a job still have to be written back."""
        return job in self._store.owing()

    def _handler(self, job: JobRecord) -> Handler:
        return self._handlers.find(job.new.handler, str(job.new.settings.get("reference", "")))

    def job(self, job: str | JobRecord) -> JobRecord:
        """Return a job as it is stored now."""
        return self._store.job(_id(job))

    def find(
        self,
        *,
        states: Iterable[JobState | str] = (),
        batch: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[JobRecord]:
        """Return jobs, newest first, from the one after the job `after` on."""
        wanted = [JobState(state) for state in states]
        return self._store.jobs(states=wanted, batch=batch, after=after, limit=limit)

    def status(self, job: str | JobRecord, *, errors: int = 5) -> Progress:
        """Return how far a job is, with its first `errors` failures."""
        return _follow.progress(self._store, _id(job), errors)

    def watch(self, job: str | JobRecord, *, interval: float = 0.5) -> Iterator[Progress]:
        """Yield how far a job is, now and whenever that changed, until it has ended."""
        meter, seen = _follow.Meter(), None
        while True:
            now = _follow.progress(self._store, _id(job), meter=meter)
            if _changed(seen, now):
                yield now
            if now.ended:
                return
            seen = now
            current_clock().sleep(interval)

    async def awatch(self, job: str | JobRecord, *, interval: float = 0.5) -> AsyncIterator[Progress]:
        """Do as `watch` does."""
        meter, seen = _follow.Meter(), None
        while True:
            now = await asyncio.to_thread(_follow.progress, self._store, _id(job), 5, meter)
            if _changed(seen, now):
                yield now
            if now.ended:
                return
            seen = now
            await current_clock().asleep(interval)

    def results(self, job: str | JobRecord, *, states: Iterable[StepState | str] = ()) -> Iterator[Result]:
        """Yield the steps in order, decoded; all states when none is named."""
        wanted = [StepState(state) for state in states]
        return (Result.of(step) for step in _again.pages(self._store, _id(job), wanted))

    def total(self, job: str | JobRecord, amount: str | Callable[[Any], Decimal | int]) -> Decimal:
        """Add up a field of the results that succeeded, or a function of them, exactly. TypeError for floats."""
        read: Callable[[Any], Any] = itemgetter(amount) if isinstance(amount, str) else amount
        done = self.results(job, states=[StepState.SUCCEEDED])
        return sum((_exact(read(one.result), one.key) for one in done), Decimal(0))

    def events(
        self, job: str | JobRecord, *, after: int = 0, follow: bool = False, interval: float = 0.5
    ) -> Iterator[JobEvent]:
        """Yield a job's history from the event after number `after` on; `follow`: and what comes, until it ended."""
        while True:
            ended = not follow or self.job(job).state in JOB_ENDS
            page = self._store.events(_id(job), after=after, limit=_PAGE)
            for event in page:
                yield event
                after = event.seq
            if not page:
                if ended:
                    return
                current_clock().sleep(interval)

    async def aevents(
        self, job: str | JobRecord, *, after: int = 0, follow: bool = True, interval: float = 0.5
    ) -> AsyncIterator[JobEvent]:
        """Do as `events` does."""
        while True:
            ended = not follow or (await asyncio.to_thread(self.job, job)).state in JOB_ENDS
            page = await asyncio.to_thread(self._store.events, _id(job), after=after, limit=_PAGE)
            for event in page:
                yield event
                after = event.seq
            if not page:
                if ended:
                    return
                await current_clock().asleep(interval)

    def export(self, job: str | JobRecord, to: str | PathLike[str]) -> int:
        """Write key, line, state, result, error and attempts of every step to a .jsonl or .csv file; say how many."""
        return _files.export(self._store, _id(job), to)

    def pause(self, job: str | JobRecord, *, reason: str = "") -> JobRecord:
        """Begin no further step; those that run end."""
        return self._store.change_job(_id(job), JobState.PAUSED, reason=reason)

    def cancel(self, job: str | JobRecord, *, reason: str = "") -> JobRecord:
        """Cancel a job: pending steps at once, running ones are told and end."""
        record = self._store.change_job(_id(job), JobState.CANCELLED, reason=reason)
        self._tell_end(record.id)
        return record

    def skip(self, job: str | JobRecord, *keys: str, reason: str = "", by: str = "") -> JobRecord:
        """Decide that pending steps are not to be done, all or none of `keys`; `reason` is their error, `by` is kept.

        What depends on them becomes free. NotFoundError, IllegalTransition: a step, which it names, is not pending.
        """
        record = self._store.skip(_id(job), keys, reason=reason, by=by)
        self._tell_end(record.id)
        return record

    def _tell_end(self, job: str) -> None:
        """Tell the notifier of a job that has ended by what was just done to it, if it has."""
        if self._notifier is not None and self._store.job(job).state in JOB_ENDS:
            _watch.tell(self._store, self._notifier, job)

    def resume(self, job: str | JobRecord, *, execute: bool = True, concurrency: int = 8) -> Progress:
        """Let a paused or interrupted job go on: take back what dead workers held, reconcile, and do what is left.

        With `execute` false, that is left to other workers.
        """
        return _run(self.aresume(job, execute=execute, concurrency=concurrency), "aresume")

    async def aresume(self, job: str | JobRecord, *, execute: bool = True, concurrency: int = 8) -> Progress:
        """Do as `resume` does."""
        name = _id(job)
        await asyncio.to_thread(self._release, name)
        await asyncio.to_thread(_watch.patrol, self._store)
        await self.areconcile(name)
        if execute:
            return await self.arun(name, concurrency=concurrency)
        return await asyncio.to_thread(_follow.progress, self._store, name)

    def _release(self, job: str) -> None:
        record = self._store.job(job)
        if record.state in JOB_ENDS and not self._owes(job):
            raise IllegalTransition(f"job {job!r}", record.state, JobState.RUNNING)
        if record.state is JobState.PAUSED:
            self._store.change_job(job, JobState.PENDING)
            self._tell_end(job)
        self._send_ticket(self._store.job(job))

    def retry_failed(self, job: str | JobRecord, *, pending: bool = False) -> JobRecord:
        """Submit what failed or timed out again, under the same idempotency keys; `pending`: and what never began.

        Asked again, return the job that does so already. NotEndedError.
        """
        old = self._ended(job)
        states = (*_again.FAILED, StepState.PENDING) if pending else _again.FAILED
        origin = old.new.origin or old.id
        new = _again.copied(self._store, old, self._new_id(), f"retry of {old.id}", origin)
        record, _ = self._store.create_job(new, _again.again(self._store, old.id, states))
        self._send_ticket(record)
        return record

    def restart(self, job: str | JobRecord, *, confirm: int | None = None) -> JobRecord:
        """Submit all of a job again as a new one, and cancel it if nobody works on it. Its history stays.

        NotConfirmedError says how many calls may repeat: pass that number. NotEndedError while a worker holds steps.
        """
        old = self._store.job(_id(job))
        if old.state not in JOB_ENDS and self._held(old.id, self._living()):
            raise NotEndedError(old.id, old.state)
        repeats = sum(_again.made_or_doubtful(step) for step in _again.pages(self._store, old.id))
        if confirm != repeats:
            raise NotConfirmedError(old.id, repeats)
        if old.state not in JOB_ENDS:
            self.cancel(old.id, reason="restarted")
        new = _again.copied(self._store, old, job_id := self._new_id(), f"restart of {old.id}", job_id)
        record, _ = self._store.create_job(new, _again.again(self._store, old.id))
        self._send_ticket(record)
        return record

    def _ended(self, job: str | JobRecord) -> JobRecord:
        record = self._store.job(_id(job))
        if record.state not in JOB_ENDS:
            raise NotEndedError(record.id, record.state)
        return record

    def _new_id(self) -> str:
        return _process.new_id(self._store.now())

    def interrupted(self, job: str | JobRecord | None = None) -> list[Interrupted]:
        """Return the jobs that a worker left behind, or this one if it is: none that runs, or waits for a retry."""
        living = self._living()
        open_jobs = all_jobs(self._store, _OPEN) if job is None else self._if_open(job)
        found = (self._left_behind(one, living) for one in open_jobs)
        left = [one for one in found if one is not None]
        return left if _working(living) else left + self._unwritten(job)

    def _if_open(self, job: str | JobRecord) -> list[JobRecord]:
        record = self._store.job(_id(job))
        return [record] if record.state in _OPEN else []

    def _unwritten(self, job: str | JobRecord | None) -> list[Interrupted]:
        """Return the jobs, or whether it is this one, that have ended and whose results wait to be written back."""
        names = [name for name in self._store.owing() if job is None or name == _id(job)]
        return [
            Interrupted(job=one, held=0, ambiguous=0, review=0, left=0, choices=("resume",))
            for one in map(self._store.job, names)
            if one.state in JOB_ENDS
        ]

    def _living(self) -> set[str]:
        workers, now = self._store.workers(), self._store.now()
        dead = set(_process.gone(workers))
        return {one.id for one in workers if one.id not in dead and one.expires_at > now}

    def _held(self, job: str, by: set[str], *, others: bool = False) -> list[StepRecord]:
        """Return the running steps of a job that these workers hold, or that others do."""
        running = _again.pages(self._store, job, [StepState.RUNNING])
        return [step for step in running if (step.worker in by) is not others]

    def _left_behind(self, job: JobRecord, living: set[str]) -> Interrupted | None:
        held = self._held(job.id, living, others=True) if job.counts.running else []
        left = job.counts.pending + job.counts.running
        idle = job.state is JobState.RUNNING and not _working(living, job.id)
        stands = idle and (left or job.counts.needs_review)
        if not held and not stands:
            return None
        ambiguous = 0 if job.new.idempotent else sum(step.begun for step in held)
        doubts = ambiguous or job.counts.needs_review
        return Interrupted(
            job=job,
            held=len(held),
            ambiguous=ambiguous,
            review=job.counts.needs_review,
            left=left,
            choices=("resume", *(("review",) if doubts else ()), "restart", "cancel"),
        )

    def recover(self) -> list[str]:
        """Take back what dead workers held, as `resume` does, of every job; return the jobs."""
        recovered = self._store.recover(_process.gone(self._store.workers()))
        return sorted({ref.job for ref in (*recovered.returned, *recovered.ambiguous)})

    def review(self, job: str | JobRecord | None = None, *, limit: int = 1000) -> list[StepRecord]:
        """Return the steps that need review, of one job or of all."""
        if job is not None:
            return self._store.steps(_id(job), states=[StepState.NEEDS_REVIEW], limit=limit)
        found: list[StepRecord] = []
        for one in all_jobs(self._store):
            if len(found) >= limit:
                break
            if one.counts.needs_review:
                found += self.review(one, limit=limit - len(found))
        return found

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
        to = _DECISIONS.get(decision)
        if to is None:
            raise ValueError(f"decision {decision!r} is unknown; give one of {', '.join(_DECISIONS)}")
        kept = encode(result, name="result") if to is StepState.SUCCEEDED else None
        open_before = self._store.job(_id(job)).state not in JOB_ENDS
        step = self._store.resolve(_id(job), key, to, result=kept, error=error, by=by)
        if open_before:
            self._tell_end(_id(job))
        return step

    def reconcile(self, job: str | JobRecord) -> Reconciled:
        """Ask the handler about each step that needs review, and decide by what it knows.

        What somebody else asks about at this moment counts as unknown.
        """
        return _run(self.areconcile(job), "areconcile")

    async def areconcile(self, job: str | JobRecord) -> Reconciled:
        """Do as `reconcile` does."""
        record = await asyncio.to_thread(self._store.job, _id(job))
        answers: dict[type, list[str]] = {Done: [], NotDone: []}
        unknown: list[str] = []
        steps = await asyncio.to_thread(self.review, record)
        if not steps:
            return Reconciled()
        # A worker, so that its lock ends with it if this process is killed.
        me = (await asyncio.to_thread(self._store.register, _process.this_worker(""), _BUSY)).id
        try:
            with _Calling() as caller:
                for step in steps:
                    if not await asyncio.to_thread(self._may_ask, record.id, me):
                        unknown.append(step.key)
                        continue
                    answer = await _review.ask(self._handler(record), step, caller.call)
                    if await asyncio.to_thread(_review.decide, self._store, record, step, answer):
                        answers[type(answer)].append(step.key)
                    else:
                        unknown.append(step.key)
        finally:
            await asyncio.to_thread(self._store.retire, me)
        if record.state not in JOB_ENDS:
            await asyncio.to_thread(self._tell_end, record.id)
        return Reconciled(done=tuple(answers[Done]), not_done=tuple(answers[NotDone]), unknown=tuple(unknown))

    def _may_ask(self, job: str, me: str) -> bool:
        """Return whether nobody else asks about a job's steps; for a while nobody else will."""
        self._store.renew(me, _BUSY)
        return self._store.acquire(_watch.lock_of(job), me, _watch.LOCKED) is not None

    # Write-back and retention ---------------------------------------------------------------------------------

    def dead_letters(self, job: str | JobRecord) -> list[OutboxEntry]:
        """Return the results whose write-back was given up."""
        return self._store.outbox(_id(job), states=[OutboxState.DEAD])

    def write_back(self, job: str | JobRecord) -> int:
        """Write results back now, dead letters too; return how many were.

        WriteBackBusyError, which says who it is, while somebody else writes them back, or to their file.
        """
        record = self._store.job(_id(job))
        if not record.new.write_back:
            return 0
        self.recover()
        worker = self._store.register(_process.this_worker(""), _BUSY).id
        try:
            done = _write_back.Drain(self._store).drain(record, worker, dead=True)
        finally:
            self._store.retire(worker)
        if done.busy is not None:
            raise done.busy
        return done.written

    def archive(self, to: str | PathLike[str], *, older_than: float) -> list[str]:
        """Move jobs that ended more than `older_than` seconds ago to files `<id>.jsonl` in a folder; return their ids.

        A job whose results still have to be written back stays.
        """
        before = self._store.now() - older_than
        owing = set(self._store.owing())
        old = [
            job
            for job in all_jobs(self._store, JOB_ENDS)
            if _finished_before(job, before) and job.id not in owing
        ]
        for job in old:
            _files.archive(self._store, job, Path(to))
        return [job.id for job in old]


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
    return Jobs(_open(url, tenant), handlers, session=session, notifier=notifier, executor=executor)


def _open(url: str, tenant: str) -> StateStore:
    if url == "memory:":
        from holdfast.infrastructure.store.memory import MemoryStateStore

        return MemoryStateStore(tenant)
    if url.startswith("dynamodb://"):
        from holdfast.infrastructure.store.dynamodb import open_dynamodb

        return open_dynamodb(url, tenant=tenant)
    from holdfast.infrastructure.store.sql import open_store

    return open_store(url if "://" in url else f"sqlite:///{url}", tenant=tenant)


class _Calling:
    """A caller for functions of handlers outside any job, for a `with` block."""

    def __enter__(self) -> Caller:
        self._caller = Caller(_QUOTES_AT_ONCE, 0.0, _nothing)
        return self._caller

    def __exit__(self, *_: object) -> None:
        self._caller.close()


def _nothing(*_: object) -> None:
    """Hear of nothing."""


async def _quote(caller: Caller, free: asyncio.Semaphore, handler: Handler, step: StepRecord) -> Quote:
    estimate = handler._estimate_call
    is_async = is_async_function(handler._estimate)
    try:
        async with free:
            amount = await caller.call(estimate, decode(step.payload), is_async=is_async)  # type: ignore[arg-type]
        return Quote(key=step.key, line=step.line, amount=_exact(amount, step.key))
    except Exception as error:
        return Quote(key=step.key, line=step.line, error=text(error))


def _exact(amount: object, key: str) -> Decimal:
    if isinstance(amount, Decimal) and amount.is_finite():
        return amount
    if isinstance(amount, int) and not isinstance(amount, bool):
        return Decimal(amount)
    raise TypeError(f"the amount of {key!r} is {amount!r}: give a finite Decimal, so that sums are exact")


def _changed(before: Progress | None, now: Progress) -> bool:
    if before is None:
        return True
    return (before.state, before.counts, before.unwritten) != (now.state, now.counts, now.unwritten)


def _working(living: set[str], job: str | None = None) -> bool:
    """Return whether somebody lives who may work on a job: what holds the orders of a run works on no other."""
    return any(run_of(worker) in {None, job} for worker in living)


def _finished_before(job: JobRecord, before: float) -> bool:
    return job.finished_at is not None and job.finished_at < before


def _id(job: str | JobRecord) -> str:
    return job if isinstance(job, str) else job.id


def _run(main: Coroutine[Any, Any, _T], instead: str) -> _T:
    if asyncio._get_running_loop() is not None:
        main.close()
        raise RuntimeError(f"an event loop runs in this thread: await {instead}() instead")
    # A clock that has a loop of its own, as the virtual one has, runs it there.
    run: Callable[[Coroutine[Any, Any, _T]], _T] = getattr(current_clock(), "run", asyncio.run)
    return run(main)
