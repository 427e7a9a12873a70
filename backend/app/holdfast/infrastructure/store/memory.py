"""A store in memory: the reference of what every store does, for tests and for work that may be lost."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count, islice
from math import inf
from threading import Event, local
from threading import Lock as Mutex
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience.clock import SYSTEM
from holdfast.infrastructure.store import _decide as decide
from holdfast.infrastructure.store import _submission as submission
from holdfast.infrastructure.store import payload
from holdfast.infrastructure.store._changes import Told
from holdfast.infrastructure.store._memory_job import MemoryJob
from holdfast.infrastructure.store.state import (
    JOB_ENDS,
    Advanced,
    BatchRecord,
    ConflictError,
    IllegalTransition,
    JobState,
    LeaseLostError,
    Lock,
    NotFoundError,
    OutboxState,
    Recovered,
    Refusal,
    StepRef,
    StepState,
    SubmissionError,
    Swept,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Mapping, Sequence

    from holdfast.infrastructure.resilience.clock import Clock
    from holdfast.infrastructure.store.state import (
        JobEvent,
        JobRecord,
        NewJob,
        NewStep,
        OutboxEntry,
        Outcome,
        StepRecord,
        WorkerRecord,
    )


@dataclass(slots=True)
class _Batch:
    name: str
    created_at: float
    cancelled: bool = False


@dataclass(slots=True)
class _Lock:
    owner: str = ""
    fence: int = 0
    expires_at: float = -inf
    dirty: bool = False


class MemoryStateStore:
    """Jobs of one tenant in this process, gone with it. Safe to share between threads."""

    def __init__(self, tenant: str = "default", *, clock: Clock | None = None) -> None:
        self.tenant = tenant
        self._clock = SYSTEM if clock is None else clock
        self._offset = None if clock is not None else SYSTEM.time() - SYSTEM.monotonic()
        self._latest = -inf
        self._mutex = Mutex()
        self._numbers = count()
        self._jobs: dict[str, MemoryJob] = {}
        self._batches: dict[str, _Batch] = {}
        self._workers: dict[str, WorkerRecord] = {}
        self._locks: dict[str, _Lock] = {}
        self._concurrency: int | None = None
        self._changed = 0
        self._seen = local()
        self._waiting: set[Event] = set()

    def now(self) -> float:
        """Return seconds since the epoch on the store's clock."""
        with self._mutex:
            return self._now()

    def close(self) -> None:
        """Wake who waits; calling it again does nothing."""
        with self._mutex:
            self._wake()

    def create_job(self, job: NewJob, steps: Iterable[NewStep]) -> tuple[JobRecord, bool]:
        """Store a job and all its steps, or nothing; whether it is new: a known `dedup_key` returns the first job."""
        with self._mutex:
            known = self._duplicate(job)
            if known is not None:
                return known.record, False
        faults, made = _checked(steps)
        job = replace(job, settings=_copied(job.settings))
        with self._changing() as at:
            known = self._duplicate(job)
            if known is not None:
                return known.record, False
            self._check(job, faults)
            return self._store(job, made, at).record, True

    def job(self, job: str) -> JobRecord:
        """Return a job. NotFoundError."""
        with self._mutex:
            return self._job(job).record

    def jobs(
        self,
        *,
        states: Iterable[JobState] = (),
        batch: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[JobRecord]:
        """Return jobs, newest first, from the one after the job `after` on; all states when none is named."""
        wanted = frozenset(states)
        with self._mutex:
            before = inf if after is None else self._job(after).number
            found = (
                job.record
                for job in sorted(self._jobs.values(), key=lambda job: -job.number)
                if job.number < before
                and (not wanted or job.state in wanted)
                and (batch is None or job.new.batch == batch)
            )
            return list(islice(found, limit))

    def step(self, job: str, key: str) -> StepRecord:
        """Return a step by its key. NotFoundError."""
        with self._mutex:
            return self._step(self._job(job), key)

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
        wanted = frozenset(states)
        with self._mutex:
            rest = islice(self._job(job).steps, after + 1, None)
            return list(islice((step for step in rest if _chosen(step, wanted, worker)), limit))

    def events(
        self, job: str, *, after: int = 0, limit: int = 1000, kinds: Collection[str] = ()
    ) -> list[JobEvent]:
        """Return a job's history after event number `after`, of all kinds when none is named. NotFoundError."""
        with self._mutex:
            rest = islice(self._job(job).events, after, None)
            return list(islice((event for event in rest if not kinds or event.kind in kinds), limit))

    def note(self, job: str, state: str, data: Mapping[str, Any]) -> JobEvent:
        """Append an event of kind "note" to a job's history."""
        copied = _copied(data)
        with self._changing() as at:
            return self._job(job).append(at, "note", state, (), copied)

    def change_job(
        self,
        job: str,
        to: JobState,
        *,
        reason: str = "",
        version: int | None = None,
    ) -> JobRecord:
        """Move a job: to paused, back to pending, cancelled, or to an end that a program decides."""
        with self._changing() as at:
            changed = self._job(job)
            if version not in {None, changed.version}:
                raise ConflictError(f"job {job!r}", version, changed.version)
            decide.check_order(job, changed.state, to)
            changed.move(to, at, reason=reason)
            changed.follow(at)
            return changed.record

    def preview_job(self, job: str, digest: str, preview: Mapping[str, Any]) -> JobRecord:
        """Keep a preview and the digest of what was previewed; the job becomes previewed. IllegalTransition."""
        copied = _copied(preview)
        with self._changing() as at:
            previewed = self._job(job)
            decide.check_job(job, previewed.state, JobState.PREVIEWED)
            previewed.digest, previewed.preview = digest, copied
            previewed.move(JobState.PREVIEWED, at, digest=digest)
            previewed.follow(at)
            return previewed.record

    def approve_job(self, job: str, digest: str) -> JobRecord:
        """Let a previewed job run. ConflictError when `digest` is not the preview's, IllegalTransition."""
        with self._changing() as at:
            approved = self._job(job)
            if approved.state is not JobState.PREVIEWED:
                raise IllegalTransition(f"job {job!r}", approved.state, JobState.RUNNING)
            if approved.digest != digest:
                raise ConflictError(f"what job {job!r} was previewed from", digest, approved.digest)
            approved.ready = True
            approved.move(JobState.RUNNING, at)
            approved.follow(at)
            return approved.record

    def delete_job(self, job: str) -> None:
        """Remove a job that has ended, with steps, events and outbox. IllegalTransition while it is active."""
        with self._changing():
            state = self._job(job).state
            if state not in JOB_ENDS:
                raise IllegalTransition(f"job {job!r}", state, "deleted")
            del self._jobs[job]

    def create_batch(self, batch: str, name: str = "") -> BatchRecord:
        """Store a batch, or return the one of this id. SubmissionError for an id that no database can store."""
        if not submission.storable(batch):
            raise SubmissionError([submission.unfit("batch", batch)])
        with self._changing() as at:
            self._batches.setdefault(batch, _Batch(name, at))
            return self._batch(batch)

    def batch(self, batch: str) -> BatchRecord:
        """Return a batch. NotFoundError."""
        with self._mutex:
            return self._batch(batch)

    def cancel_batch(self, batch: str) -> BatchRecord:
        """Cancel every job of a batch that has not ended; cancelled sticks."""
        with self._changing() as at:
            decide.check_cancel(batch, self._batch(batch).state)
            self._batches[batch].cancelled = True
            for job in self._members(batch):
                if job.state not in JOB_ENDS:
                    job.move(JobState.CANCELLED, at)
                    job.follow(at)
            return self._batch(batch)

    def register(self, worker: WorkerRecord, lease: float) -> WorkerRecord:
        """Begin a worker's lease of `lease` seconds; claims need one."""
        with self._changing() as at:
            self._take([worker.id], at)
            self._workers[worker.id] = replace(worker, expires_at=at + lease)
            return self._workers[worker.id]

    def renew(self, worker: str, lease: float) -> WorkerRecord:
        """Prolong a lease from now on. LeaseLostError when it has ended."""
        with self._mutex:
            at = self._now()
            self._workers[worker] = replace(self._leased(worker, at), expires_at=at + lease)
            return self._workers[worker]

    def retire(self, worker: str) -> Recovered:
        """End a worker's lease and hand back what it holds: what has not begun consumes no attempt."""
        with self._changing() as at:
            return self._take([worker], at)

    def workers(self) -> list[WorkerRecord]:
        """Return those with a lease, whether or not it has ended, until they are recovered."""
        with self._mutex:
            return [self._workers[worker] for worker in sorted(self._workers)]

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
        with self._changing() as at:
            self._leased(worker, at)
            claimed: list[StepRecord] = []
            for one in self._by_urgency(job):
                if one.new.id in skip or (handlers and one.new.handler not in handlers):
                    continue
                room = decide.room(one.new, one.counts)
                free = limit - len(claimed)
                steps = list(islice(one.claimable(at), free if room is None else max(0, min(room, free))))
                claimed += [one.claim(step, worker, at) for step in steps]
                one.follow(at)
            return claimed

    def advance(
        self, worker: str, outcomes: Sequence[Outcome] = (), begin: Sequence[StepRef] = ()
    ) -> Advanced:
        """Record how calls ended, and let others begin, in one commit: when it returns, their intent is durable."""
        with self._changing() as at:
            self._leased(worker, at)
            for outcome in outcomes:
                decide.check_outcome(outcome)
            late = [outcome.ref for outcome in outcomes if not self._record(worker, outcome, at)]
            touched = self._named([outcome.ref for outcome in outcomes] + list(begin))
            active = [job for job in touched if job.state not in JOB_ENDS]
            for job in touched:
                job.halt()
            refusals = {ref: self._begin(worker, ref, at) for ref in begin}
            for job in touched:
                job.follow(at)
            waits = [wait for refused, wait in refusals.values() if refused is Refusal.RATE]
            return Advanced(
                begun=tuple(ref for ref, (refused, _) in refusals.items() if refused is None),
                refused={ref: refused for ref, (refused, _) in refusals.items() if refused is not None},
                late=tuple(late),
                ended={job.new.id: job.state for job in active if job.state in JOB_ENDS},
                retry_in=min(waits, default=0.0),
            )

    def set_concurrency(self, most: int | None) -> None:
        """Let at most so many calls of this tenant be under way at once, whoever makes them; None: any number.

        Holds for what begins from now on. ValueError below 1.
        """
        decide.check_concurrency(most)
        with self._changing():
            self._concurrency = most

    def concurrency(self) -> int | None:
        """Return how many calls of this tenant may be under way at once; None: any number."""
        with self._mutex:
            return self._concurrency

    def release(self, worker: str, refs: Sequence[StepRef]) -> None:
        """Hand back claimed steps that have not begun; no attempt is consumed."""
        with self._changing() as at:
            self._leased(worker, at)
            for ref in refs:
                step = self._current(worker, ref)
                if step is not None and not step.begun:
                    self._jobs[ref.job].hand_back(step, at)
            for job in self._named(refs):
                job.follow(at)

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
        with self._changing() as at:
            resolved = self._job(job)
            step = self._step(resolved, key)
            decide.check_resolution(job, key, step.state, to)
            resolved.resolve(step, to, at, result=result, error=error, by=by)
            resolved.halt()
            resolved.follow(at)
            return resolved.steps[step.position]

    def skip(self, job: str, keys: Iterable[str], *, reason: str = "", by: str = "") -> JobRecord:
        """Skip pending steps, all or none, and return the job. NotFoundError, IllegalTransition."""
        wanted = list(dict.fromkeys(keys))
        with self._changing() as at:
            found = self._job(job)
            decide.check_skip(job, found.state)
            steps = [self._step(found, key) for key in wanted]
            for step in steps:
                decide.check_step(job, step.key, step.state, StepState.SKIPPED)
            for step in steps:
                found.end(step, StepState.SKIPPED, at, told=Told(step.attempts, 0.0, reason), by=by)
            found.follow(at)
            return found.record

    def recover(self, gone: Iterable[str] = (), limit: int = 1000) -> Recovered:
        """Take steps from workers whose lease has ended, and from those `gone`, seen dead by the caller."""
        dead = set(gone)
        with self._changing() as at:
            ended = [one.id for one in self._workers.values() if one.id in dead or one.expires_at <= at]
            return self._take(sorted(ended), at, limit)

    def sweep(self, limit: int = 1000, *, slack: float = 0.0) -> Swept:
        """End what is past its limit, whoever holds it: expired jobs, timed-out jobs and steps. Fences rise.

        Steps get `slack` seconds more, so that a worker that lives ends its own calls first.
        """
        with self._changing() as at:
            jobs = list(islice((job for job in self._jobs.values() if job.overdue(at)), limit))
            steps = [ref for job in jobs for ref in job.give_up(at)]
            late = [(job, step) for job in self._jobs.values() for step in job.overdue_steps(at - slack)]
            steps += [job.time_out_step(step, at) for job, step in late[:limit]]
            for job in dict.fromkeys(job.new.id for job in jobs + [job for job, _ in late]):
                self._jobs[job].halt()
                self._jobs[job].follow(at)
            return Swept(jobs={job.new.id: job.state for job in jobs}, steps=tuple(steps))

    def next_due(self) -> float | None:
        """Return when the next retry, expiry or timeout is due, on the store's clock; None: nothing waits."""
        with self._mutex:
            at = self._now()
            return min((due for job in self._jobs.values() for due in job.due(at)), default=None)

    def wait(self, timeout: float) -> bool:
        """Block until there may be new work or a change, `timeout` seconds at most; spurious ends are allowed.

        What has changed since this thread's last wait ends it at once.
        """
        event = Event()
        with self._mutex:
            if self._news():
                return True
            self._waiting.add(event)
        try:
            self._clock.wait(event, timeout)
        finally:
            with self._mutex:
                self._waiting.discard(event)
                changed = self._news()
        return changed

    def outbox(self, job: str, *, states: Iterable[OutboxState] = (), limit: int = 1000) -> list[OutboxEntry]:
        """Return results on their way back, in order; those that are due first."""
        wanted = frozenset(states)
        with self._mutex:
            at = self._now()
            entries = sorted(
                self._job(job).outbox.values(), key=lambda entry: (entry.due_at > at, entry.position)
            )
            return [entry for entry in entries if not wanted or entry.state in wanted][:limit]

    def owing(self) -> list[str]:
        """Return the jobs, ended or not, that have results waiting to be written back."""
        with self._mutex:
            return [job.new.id for job in self._jobs.values() if job.owes()]

    def settle_outbox(self, entries: Sequence[OutboxEntry]) -> None:
        """Record what became of write-backs: state, attempts, due_at and error of each."""
        with self._changing() as at:
            jobs = {entry.job: self._jobs[entry.job] for entry in entries if entry.job in self._jobs}
            for entry in entries:
                if entry.job in jobs:
                    jobs[entry.job].send_back(entry)
            for job in jobs.values():
                job.follow(at)

    def acquire(self, name: str, owner: str, lease: float) -> Lock | None:
        """Take a lock for `lease` seconds, or prolong one's own; None while another holds it."""
        with self._changing() as at:
            lock = self._locks.setdefault(name, _Lock())
            if lock.expires_at > at and lock.owner != owner:
                return None
            lock.fence += lock.expires_at <= at
            lock.owner, lock.expires_at = owner, at + lease
            return Lock(name=name, owner=owner, fence=lock.fence, expires_at=lock.expires_at)

    def lock(self, name: str) -> Lock | None:
        """Return a lock as somebody holds it now, None if nobody does."""
        with self._mutex:
            found = self._locks.get(name)
            if found is None or found.expires_at <= self._now():
                return None
            return Lock(name=name, owner=found.owner, fence=found.fence, expires_at=found.expires_at)

    def holds(self, lock: Lock) -> bool:
        """Return whether this very lock is still held."""
        with self._mutex:
            return self._held(lock) is not None

    def unlock(self, lock: Lock) -> bool:
        """Give a lock back; False, and nothing, when it is no longer this one's or it was marked dirty meanwhile."""
        with self._changing():
            held = self._held(lock)
            if held is None or held.dirty:
                return False
            held.expires_at = -inf
            return True

    def mark_dirty(self, name: str) -> None:
        """Say that there is something new for the holder of a lock."""
        with self._changing():
            self._locks.setdefault(name, _Lock()).dirty = True

    def clear_dirty(self, lock: Lock) -> bool:
        """Take the mark away; return whether there was one. LeaseLostError when the lock is lost."""
        with self._mutex:
            held = self._held(lock)
            if held is None:
                raise LeaseLostError(lock.owner)
            dirty, held.dirty = held.dirty, False
            return dirty

    @contextmanager
    def _changing(self) -> Generator[float]:
        """Hold the lock, give the time of the change, and tell who waits."""
        with self._mutex:
            yield self._now()
            self._wake()

    def _now(self) -> float:
        time = self._clock.time() if self._offset is None else self._offset + SYSTEM.monotonic()
        self._latest = max(self._latest, time)
        return self._latest

    def _wake(self) -> None:
        self._changed += 1
        for event in self._waiting:
            event.set()

    def _news(self) -> bool:
        """Return whether anything has changed since this thread asked last."""
        seen, self._seen.number = getattr(self._seen, "number", None), self._changed
        return seen != self._changed

    def _job(self, job: str) -> MemoryJob:
        if job not in self._jobs:
            raise NotFoundError("job", job, self.tenant)
        return self._jobs[job]

    def _step(self, job: MemoryJob, key: str) -> StepRecord:
        if key not in job.positions:
            raise NotFoundError("step", f"{key} of job {job.new.id}", self.tenant)
        return job.steps[job.positions[key]]

    def _members(self, batch: str) -> list[MemoryJob]:
        return [job for job in self._jobs.values() if job.new.batch == batch]

    def _batch(self, batch: str) -> BatchRecord:
        if batch not in self._batches:
            raise NotFoundError("batch", batch, self.tenant)
        stored, states = self._batches[batch], Counter(job.state for job in self._members(batch))
        return BatchRecord(
            id=batch,
            name=stored.name,
            state=decide.batch_state(states, cancelled=stored.cancelled),
            total=states.total(),
            done=sum(states[state] for state in JOB_ENDS),
            created_at=stored.created_at,
        )

    def _duplicate(self, job: NewJob) -> MemoryJob | None:
        if job.dedup_key is None:
            return None
        return next((one for one in self._jobs.values() if one.new.dedup_key == job.dedup_key), None)

    def _check(self, job: NewJob, faults: submission.SubmissionFaults) -> None:
        submission.check_names(job, faults)
        if job.id in self._jobs:
            faults.add(submission.known_id(job.id))
        batch = job.batch if submission.storable(job.batch) else None
        if batch is not None and batch not in self._batches:
            faults.add(submission.unknown_batch(batch))
        elif batch is not None and self._batches[batch].cancelled:
            faults.add(submission.cancelled_batch(batch))
        faults.finish()

    def _store(self, new: NewJob, steps: Sequence[NewStep], at: float) -> MemoryJob:
        job = MemoryJob(
            new=new,
            number=next(self._numbers),
            created_at=at,
            expires_at=None if new.expires_in is None else at + new.expires_in,
            ready=new.ready,
        )
        job.add(steps)
        job.changes.job(JobState.PENDING)
        job.follow(at)
        self._jobs[new.id] = job
        return job

    def _by_urgency(self, job: str | None) -> list[MemoryJob]:
        jobs = [one for one in self._jobs.values() if job is None or one.new.id == job]
        return sorted(jobs, key=lambda one: (one.new.priority, one.number))

    def _named(self, refs: Iterable[StepRef]) -> list[MemoryJob]:
        return [self._jobs[job] for job in dict.fromkeys(ref.job for ref in refs) if job in self._jobs]

    def _leased(self, worker: str, at: float) -> WorkerRecord:
        record = self._workers.get(worker)
        if record is None or record.expires_at <= at:
            raise LeaseLostError(worker)
        return record

    def _current(self, worker: str, ref: StepRef) -> StepRecord | None:
        return self._jobs[ref.job].current(ref, worker) if ref.job in self._jobs else None

    def _record(self, worker: str, outcome: Outcome, at: float) -> bool:
        step = self._current(worker, outcome.ref)
        if step is not None:
            self._jobs[step.job].record_outcome(step, outcome, at)
        elif outcome.ref.job in self._jobs:
            self._jobs[outcome.ref.job].record_late(outcome, worker)
        return step is not None

    def _begin(self, worker: str, ref: StepRef, at: float) -> tuple[Refusal | None, float]:
        step = self._current(worker, ref)
        return (Refusal.LOST, 0.0) if step is None else self._jobs[ref.job].begin(step, at, full=self._full())

    def _full(self) -> bool:
        """Return whether no more calls may be under way."""
        most = self._concurrency
        return most is not None and sum(job.counts.in_flight for job in self._jobs.values()) >= most

    def _take(self, workers: Sequence[str], at: float, limit: int | None = None) -> Recovered:
        """End leases and take what they hold, `limit` steps at most."""
        taken = [
            (job, step, worker)
            for worker in workers
            for job in self._jobs.values()
            for step in job.held_by(worker)
        ]
        left = {worker for _, _, worker in taken[limit:]} if limit is not None else set[str]()
        refs: dict[bool, list[StepRef]] = {False: [], True: []}
        places = {name: place for place, name in enumerate(self._jobs)}
        for job, step, _ in sorted(taken[:limit], key=lambda one: (places[one[1].job], one[1].position)):
            ref = StepRef(job=step.job, position=step.position, fence=step.fence)
            refs[job.take(step, at)].append(ref)
        for job in self._named(refs[False] + refs[True]):
            job.follow(at)
        forgotten = [worker for worker in workers if worker in self._workers and worker not in left]
        for worker in forgotten:
            del self._workers[worker]
            self._end_locks(worker)
        for worker in left:
            self._workers[worker] = replace(
                self._workers[worker], expires_at=min(at, self._workers[worker].expires_at)
            )
        return Recovered(workers=tuple(forgotten), returned=tuple(refs[False]), ambiguous=tuple(refs[True]))

    def _end_locks(self, worker: str) -> None:
        for lock in self._locks.values():
            if lock.owner == worker:
                lock.expires_at = 0.0

    def _held(self, lock: Lock) -> _Lock | None:
        held = self._locks.get(lock.name)
        if held is None or (held.owner, held.fence) != (lock.owner, lock.fence):
            return None
        return held if held.expires_at > self._now() else None


def _copied(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what every store would read back."""
    copied: Mapping[str, Any] = payload.decode(payload.encode(dict(data), name="data"))
    return copied


def _checked(steps: Iterable[NewStep]) -> tuple[submission.SubmissionFaults, list[NewStep]]:
    faults = submission.SubmissionFaults()
    made: dict[str, NewStep] = {}
    try:
        for step in steps:
            if not submission.storable(step.key):
                faults.add(submission.unfit("step", step.key))
            if step.key in made:
                faults.add(submission.duplicate(step))
            made.setdefault(step.key, step)
    except SubmissionError as error:
        faults.join(error)
    waits = {step.key: step.depends_on for step in made.values() if step.depends_on}
    submission.check_graph(waits, made, faults)
    return faults, list(made.values())


def _chosen(step: StepRecord, states: Collection[StepState], worker: str | None) -> bool:
    held = worker is None or (step.worker == worker and step.state is StepState.RUNNING)
    return held and (not states or step.state in states)
