"""A job inside a transaction: read under its lock, changed here, written once with the events that tell of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from holdfast.infrastructure.store import _decide as decide
from holdfast.infrastructure.store._changes import Changes, Told
from holdfast.infrastructure.store._sql_link import MASK, SHIFT, STRIDE
from holdfast.infrastructure.store._sql_quick import leased
from holdfast.infrastructure.store._sql_rows import (
    TALLIED,
    clean,
    more_history,
    pack_positions,
    pack_runs,
    packed,
    spec,
    spec_of,
)
from holdfast.infrastructure.store._submission import storable
from holdfast.infrastructure.store.state import (
    JOB_ENDS,
    JobState,
    NewJob,
    NotFoundError,
    Refusal,
    StepRef,
    StepState,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from holdfast.infrastructure.store._sql_link import Transaction
    from holdfast.infrastructure.store.state import Outcome

_COUNTED = (*TALLIED, "tolerated")
_PLAIN = (
    "version",
    "halted",
    "started_at",
    "finished_at",
    "ends_at",
    "next_begin",
    "digest",
    "reason",
    "last_event",
    "ready",
    "pending_from",
    "due_from",
    "changed_at",
)
_FIXED = ("no", "id", "graph", "expires_at", "total")
_COLUMNS = ", ".join((*_FIXED, *_PLAIN, *_COUNTED, "state"))
_BY_ID = f"SELECT {_COLUMNS} FROM @jobs WHERE id = ? @lock"
_BY_IDS = f"SELECT {_COLUMNS} FROM @jobs WHERE id @any ORDER BY no @lock"
_IF_FREE = f"SELECT {_COLUMNS} FROM @jobs WHERE no = ? @skip"
_BY_NO = f"SELECT {_COLUMNS} FROM @jobs WHERE no = ? @lock"
_SAVE = f"UPDATE @jobs SET {', '.join(f'{name} = ?' for name in (*_PLAIN, *_COUNTED, 'state', 'open'))} WHERE no = ?"
_EVENT = "INSERT INTO @events (id, at, kind, state, positions, data) VALUES (?, ?, ?, ?, ?, ?)"
_HELD = (
    "SELECT id, key, state, fence, attempts, begun, worker, started_at, due_at, must_succeed, timeout, history "
    "FROM @steps WHERE "
)
_END = (
    "UPDATE @steps SET state = ?, fence = ?, attempts = ?, worker = NULL, error = ?, finished_at = ?, history = ?, "
    "result = ? WHERE id = ?"
)
_BACK = (
    "UPDATE @steps SET state = ?, fence = ?, attempts = ?, begun = FALSE, worker = NULL, started_at = NULL, "
    "due_at = ?, waits = ?, error = coalesce(?, error), finished_at = ?, history = ? WHERE id = ?"
)
_BEGIN = "UPDATE @steps SET begun = TRUE, attempts = ?, started_at = ? WHERE id = ?"
_FREE = (
    "UPDATE @steps SET waits = waits - 1 WHERE state = 'pending' AND waits > 0 "
    "AND id IN (SELECT step FROM @dependencies WHERE on_step = ?)"
)
_BLOCK = (
    "UPDATE @steps SET state = 'failed', error = ?, finished_at = ? WHERE state = 'pending' "
    "AND id IN (SELECT step FROM @dependencies WHERE on_step = ?) RETURNING id, key, must_succeed, attempts"
)
_PARKED = (
    "SELECT position FROM @steps @pending WHERE job = ? AND waits = 1 AND position >= ? AND state = 'pending' "
    "ORDER BY position LIMIT 1"
)
_PENDING = "SELECT id FROM @steps @pending WHERE job = ? AND state = 'pending' ORDER BY id"
_CANCEL = (
    "UPDATE @steps @pending SET state = 'cancelled', finished_at = ? WHERE job = ? AND state = 'pending'"
)
_OUTBOX = "INSERT INTO @outbox (id) VALUES (?)"


class Step:
    """A step as far as its changes need it."""

    __slots__ = (
        "attempts",
        "begun",
        "due_at",
        "fence",
        "history",
        "id",
        "key",
        "must_succeed",
        "started_at",
        "state",
        "timeout",
        "worker",
    )

    def __init__(self, row: Sequence[Any]) -> None:
        (
            self.id,
            self.key,
            self.state,
            self.fence,
            self.attempts,
            self.begun,
            self.worker,
            self.started_at,
            self.due_at,
            self.must_succeed,
            self.timeout,
            self.history,
        ) = row

    @property
    def position(self) -> int:
        """Its place in the job."""
        return int(self.id) & MASK


class Tally:
    """How many steps of a job are in which state; read as `Counts` are, and counted up and down."""

    __slots__ = ("total", *_COUNTED)

    def move(self, from_: str, to: str) -> None:
        """Count a step that goes from one state to another."""
        setattr(self, from_, getattr(self, from_) - 1)
        setattr(self, to, getattr(self, to) + 1)


class Job:
    """A job that a transaction holds."""

    __slots__ = ("_tx", "changes", *_FIXED[:4], "new", "now", *_PLAIN[:-1], "state", "tally")

    no: int
    id: str
    graph: bool
    expires_at: float | None
    new: NewJob
    version: int
    ready: bool
    halted: bool
    started_at: float | None
    finished_at: float | None
    ends_at: float | None
    next_begin: float
    digest: str | None
    reason: str
    last_event: int
    pending_from: int
    due_from: float
    state: JobState

    def __init__(self, tx: Transaction, row: Sequence[Any], new: NewJob | None = None) -> None:
        self._tx = tx
        self.changes = Changes()
        self.tally = tally = cast("Any", Tally())
        (
            self.no,
            self.id,
            self.graph,
            self.expires_at,
            tally.total,
            self.version,
            self.halted,
            self.started_at,
            self.finished_at,
            self.ends_at,
            self.next_begin,
            self.digest,
            self.reason,
            self.last_event,
            self.ready,
            self.pending_from,
            self.due_from,
            changed_at,
            tally.pending,
            tally.running,
            tally.succeeded,
            tally.failed,
            tally.timed_out,
            tally.needs_review,
            tally.cancelled,
            tally.skipped,
            tally.in_flight,
            tally.tolerated,
            state,
        ) = row
        # Who began first may get the lock last; and a server's clock may be set back.
        self.now: float = max(tx.now, changed_at)
        self.state = JobState(state)
        self.new = new or spec(tx, self.no)

    @property
    def goes(self) -> bool:
        """Whether its steps may be claimed and begin."""
        return decide.runs(self.state, ready=self.ready, halted=self.halted)

    def step_id(self, position: int) -> int:
        """Return the id of the step at a position."""
        return self.no << SHIFT | position

    @property
    def overdue(self) -> bool:
        """Whether it has expired or timed out."""
        limits = decide.expires(self.state, self.expires_at), self.ends_at
        return any(limit is not None and limit <= self.now for limit in limits)

    def claimed(self, positions: Sequence[int], worker: str) -> None:
        """Count steps that a worker has leased, the first that are due, and write it; so a job becomes running."""
        if self.state is JobState.PENDING:
            self._become(JobState.RUNNING)
            self._append("job", JobState.RUNNING, "[]", "{}")
        self.tally.pending -= len(positions)
        self.tally.running += len(positions)
        self._append("step", StepState.RUNNING, pack_positions(positions), leased(worker))
        self.due_from = self._tx.now
        if not self.graph and positions[-1] >= self.pending_from + STRIDE:
            parked = self._tx.one(_PARKED, (self.no, self.pending_from))
            self.pending_from = min([positions[-1] + 1, *(parked or ())])
        self.save()

    def begin(self, step: Step, *, full: bool) -> tuple[Refusal | None, float]:
        """Announce the call of a claimed step, or say why not and for how long."""
        if step.begun:
            return None, 0.0
        now, rate = self.now, self.new.rate
        wait, next_begin = decide.pace(self.next_begin, now, rate) if rate else (0.0, 0.0)
        refused = decide.refusal(self.new, self.tally, goes=self.goes, full=full, wait=wait)
        if refused is Refusal.STOPPED:
            self.hand_back(step)
        if refused is None:
            self.start()
            self.next_begin = next_begin
            self.tally.in_flight += 1
            step.begun, step.attempts, step.started_at = True, step.attempts + 1, now
            self._tx.run(_BEGIN, (step.attempts, now, step.id))
        return refused, wait

    def record_outcome(self, step: Step, outcome: Outcome) -> None:
        """Keep how the call of a step ended."""
        to, error = outcome.state, clean(outcome.error)
        told = Told(step.attempts, outcome.took, error)
        if not outcome.refund and to in {StepState.PENDING, StepState.NEEDS_REVIEW}:
            self._remember(step, "retry" if to is StepState.PENDING else to.value, error)
        if outcome.refund and step.begun:
            step.attempts -= 1
        if to is StepState.PENDING:
            step.due_at = self.now + outcome.retry_in
            self.hand_back(step, told=told, error=error)
        elif to is StepState.NEEDS_REVIEW:
            self._review(step, told, outcome.result)
        else:
            self.end(step, to, told=told, result=outcome.result)

    def record_late(self, outcome: Outcome, attempts: int, worker: str) -> None:
        """Keep that an outcome came too late."""
        told = Told(attempts, outcome.took, clean(outcome.error))
        self.changes.step(outcome.ref.position, outcome.state, told=told, worker=worker, kind="late")

    def end(
        self, step: Step, to: StepState, *, told: Told, result: bytes | None = None, by: str | None = None
    ) -> None:
        """End a step, and what must fail with it, to a fixed point."""
        worker = self._leave(step, to)
        self._settle(step, told.error, result, finished_at=self.now)
        self.changes.step(step.position, to, told=told, worker=worker, by=by)
        if to is not StepState.SUCCEEDED:
            self._tolerate(to, must_succeed=step.must_succeed)
        elif self.new.write_back and result is not None:
            self._tx.run(_OUTBOX, (step.id,))
        if self.graph:
            self._felt(step, to, worker, by)

    def hand_back(
        self, step: Step, *, told: Told | None = None, by: str | None = None, error: str | None = None
    ) -> None:
        """Let a step run again, unless the job was cancelled."""
        self._tx.news = True
        now, to = self.now, decide.handed_back(self.state)
        worker = self._leave(step, to)
        finished_at = None if to is StepState.PENDING else now
        self.pending_from = min(self.pending_from, step.position)
        parked = int(step.due_at > now)
        self._tx.run(
            _BACK,
            (to, step.fence, step.attempts, step.due_at, parked, error, finished_at, step.history, step.id),
        )
        self.changes.step(step.position, to, told=told, worker=worker, by=by)

    def take(self, step: Step) -> bool:
        """Take a step from a worker whose lease has ended; return whether it needs review."""
        self._remember(step, "lease lost", "")
        step.fence += 1
        if not decide.ambiguous(self.new, begun=step.begun):
            self.hand_back(step)
            return False
        self._review(step, Told(step.attempts, self._took(step), decide.lease_lost(step.worker)), None)
        return True

    def resolve(self, step: Step, to: StepState, *, result: bytes | None, error: str, by: str) -> None:
        """End a step that needs review as a person or program decides, or let it run again."""
        told = Told(step.attempts, 0.0, clean(error))
        if to is StepState.PENDING:
            self.hand_back(step, told=told, by=by, error=told.error)
        else:
            self.end(step, to, told=told, result=result, by=by)

    def skip(self, step: Step, *, reason: str, by: str) -> None:
        """End a pending step that is not to be done."""
        self.end(step, StepState.SKIPPED, told=Told(step.attempts, 0.0, reason), by=by)

    def time_out_step(self, step: Step, error: str | None = None) -> StepRef:
        """End a call that took too long, whoever makes it."""
        ref = self.ref(step)
        limit = self.new.step_timeout if step.timeout is None else step.timeout
        told = Told(step.attempts, self._took(step), error or decide.timed_out("step", limit))
        step.fence += 1
        self.end(step, StepState.TIMED_OUT, told=told)
        return ref

    def give_up(self) -> list[StepRef]:
        """Expire, or time out with all calls under way; return which those are."""
        if self.state is not JobState.RUNNING:
            self.move(JobState.EXPIRED, reason=decide.expired(self.new.expires_in))
            return []
        error = decide.timed_out("job", self.new.job_timeout)
        running = self._running()
        for step in running:
            if not step.begun:
                step.fence += 1
                self.hand_back(step)
        stopped = [self.time_out_step(step, error) for step in running if step.begun]
        self.move(JobState.TIMED_OUT, reason=error)
        return stopped

    def start(self) -> None:
        """Become running, if it is pending."""
        if self.state is JobState.PENDING:
            self._become(JobState.RUNNING)
            self.changes.start(JobState.RUNNING)

    def move(self, to: JobState, *, reason: str = "", digest: str = "") -> None:
        """Change its state; a cancelled one cancels what is pending."""
        self._become(to)
        self.reason = clean(reason) or self.reason
        if to is JobState.CANCELLED:
            self._cancel_pending()
        self.changes.job(to, reason=clean(reason), digest=digest)

    def halt(self) -> None:
        """Halt it if its failures reach what its error policy bears."""
        if self.halted or self.state in JOB_ENDS or not decide.halts(self.new, self.tally):
            return
        self.halted = True
        self.version += 1
        self.changes.note("halted")

    def follow(self) -> None:
        """End it if nothing is left to do, write it, and give its history what changed."""
        tally = self.tally
        for to in decide.ends(
            self.state,
            tally,
            ready=self.ready,
            halted=self.halted,
            tolerated=tally.tolerated,
            whole=self.new.whole,
        ):
            self.move(to)
        for change in self.changes.events():
            self._append(change.kind, change.state, pack_positions(change.positions), packed(change.data))
        self.save()

    def note(self, state: str, data: str) -> int:
        """Add a note to its history and return its number."""
        self._append("note", state, "[]", data)
        self.save()
        return self.last_event

    def save(self) -> None:
        """Write what has changed."""
        tally = self.tally
        self._tx.run(
            _SAVE,
            (
                self.version,
                self.halted,
                self.started_at,
                self.finished_at,
                self.ends_at,
                self.next_begin,
                self.digest,
                self.reason,
                self.last_event,
                self.ready,
                self.pending_from,
                self.due_from,
                self.now,
                tally.pending,
                tally.running,
                tally.succeeded,
                tally.failed,
                tally.timed_out,
                tally.needs_review,
                tally.cancelled,
                tally.skipped,
                tally.in_flight,
                tally.tolerated,
                self.state,
                self.goes and tally.pending > 0,
                self.no,
            ),
        )

    def _append(self, kind: str, state: str, positions: str, data: str) -> None:
        self.last_event += 1
        self._tx.run(_EVENT, (self.no << SHIFT | self.last_event, self.now, kind, state, positions, data))

    def _become(self, to: JobState) -> None:
        self._tx.news = True
        self.state = to
        self.version += 1
        if to is JobState.RUNNING and self.started_at is None:
            self.started_at = self.now
        if to in JOB_ENDS:
            self.finished_at = self.now
        self.ends_at = decide.job_deadline(self.new, to, self.started_at)

    def _leave(self, step: Step, to: StepState) -> str | None:
        """Count that a step leaves its state, and return who held it."""
        worker: str | None = step.worker
        step.worker = None
        self.tally.move(step.state, to)
        if step.begun and step.state == StepState.RUNNING:
            self.tally.in_flight -= 1
        step.state = to
        return worker

    def _settle(self, step: Step, error: str, result: bytes | None, *, finished_at: float | None) -> None:
        values = (step.state, step.fence, step.attempts, error, finished_at, step.history, result, step.id)
        self._tx.run(_END, values)

    def _review(self, step: Step, told: Told, result: bytes | None) -> None:
        worker = self._leave(step, StepState.NEEDS_REVIEW)
        self._settle(step, told.error, result, finished_at=None)
        self.changes.step(step.position, StepState.NEEDS_REVIEW, told=told, worker=worker)

    def _remember(self, step: Step, outcome: str, error: str) -> None:
        """Add a call that has just ended without settling its step, if there was one, to the step's history."""
        if step.begun:
            now = self.now
            start = now if step.started_at is None else step.started_at
            step.history = more_history(
                step.history, step.attempts, step.worker or "", start, now, outcome, error
            )

    def _took(self, step: Step) -> float:
        return 0.0 if step.started_at is None else self.now - step.started_at

    def ref(self, step: Step) -> StepRef:
        """Return a step as its worker names it."""
        return StepRef(job=self.id, position=step.position, fence=step.fence)

    def _tolerate(self, to: StepState, *, must_succeed: bool) -> None:
        if not must_succeed and to in {StepState.FAILED, StepState.TIMED_OUT}:
            self.tally.tolerated += 1

    def _felt(self, step: Step, to: StepState, worker: str | None, by: str | None) -> None:
        """Free what depends on a step that has ended, or fail it and what depends on that."""
        self._tx.news = True
        ended = [(step.id, step.key, to, step.must_succeed)]
        for which, key, state, must_succeed in ended:
            if not decide.blocks(state, must_succeed=must_succeed):
                self._tx.run(_FREE, (which,))
                continue
            error = clean(decide.dependency_error(key, state))
            for blocked, name, must, attempts in self._tx.all(_BLOCK, (error, self.now, which)):
                self.tally.move(StepState.PENDING, StepState.FAILED)
                self._tolerate(StepState.FAILED, must_succeed=must)
                told = Told(attempts, 0.0, error)
                self.changes.step(blocked & MASK, StepState.FAILED, told=told, worker=worker, by=by)
                ended.append((blocked, name, StepState.FAILED, must))

    def _cancel_pending(self) -> None:
        """Cancel what is pending: it may be very much, and is one event."""
        if not self.tally.pending:
            return
        positions = pack_runs(row[0] & MASK for row in self._tx.each(_PENDING, (self.no,)))
        self._tx.run(_CANCEL, (self.now, self.no))
        self.tally.cancelled += self.tally.pending
        self.tally.pending = 0
        self._append("step", StepState.CANCELLED, positions, "{}")

    def _running(self) -> list[Step]:
        return held(
            self._tx, "state = 'running' AND id BETWEEN ? AND ?", (self.step_id(0), self.step_id(MASK))
        )


def held(tx: Transaction, where: str, values: Sequence[Any]) -> list[Step]:
    """Return steps in order."""
    return [Step(row) for row in tx.all(f"{_HELD}{where} ORDER BY id", values)]


def held_by_id(tx: Transaction, ids: Sequence[int]) -> dict[int, Step]:
    """Return the steps that there are of these ids."""
    return {row[0]: Step(row) for row in tx.among(f"{_HELD}id @any", ids)}


def held_by_key(tx: Transaction, no: int, keys: Sequence[str]) -> list[Step]:
    """Return the steps that there are of these keys in the job of a number."""
    return [Step(row) for row in tx.among(f"{_HELD}job = ? AND key @any", keys, (no,))]


def open_jobs(tx: Transaction, jobs: Iterable[str]) -> dict[str, Job]:
    """Take the locks of those of these jobs that there are, always in one order, and read them."""
    rows = tx.among(_BY_IDS, list(set(jobs)))
    return {row[1]: Job(tx, row) for row in rows}


def open_job(tx: Transaction, job: str) -> Job:
    """Take a job's lock and read it. NotFoundError."""
    row = tx.one(_BY_ID, (job,)) if storable(job) else None
    if row is None:
        raise NotFoundError("job", job, tx.tenant)
    return Job(tx, row)


def job_numbered(tx: Transaction, no: int) -> Job | None:
    """Take the lock of the job of a number and read it; None if it is gone."""
    row = tx.one(_BY_NO, (no,))
    return None if row is None else Job(tx, row)


def job_unlocked(tx: Transaction, no: int) -> Job | None:
    """Take the lock of the job of a number if nobody has it."""
    row = tx.one(_IF_FREE, (no,))
    return None if row is None else Job(tx, row)


def inserted(tx: Transaction, job: NewJob, *, total: int, graph: bool) -> Job:
    """Store a job; its steps are stored under its number."""
    text = spec_of(job)
    expires_at = None if job.expires_in is None else tx.now + job.expires_in
    values: dict[str, Any] = {
        "id": job.id,
        "batch": job.batch,
        "dedup_key": job.dedup_key,
        "handler": job.handler,
        "priority": job.priority,
        "state": JobState.PENDING,
        "ready": job.ready,
        "graph": graph,
        "plain": not graph and not job.rate,
        "write_back": job.write_back,
        "concurrency": job.concurrency,
        "total": total,
        "pending": total,
        "created_at": tx.now,
        "changed_at": tx.now,
        "expires_at": expires_at,
        "step_timeout": job.step_timeout,
    }
    places = ", ".join("?" * len(values))
    rows = tx.all(
        f"INSERT INTO @jobs ({', '.join(values)}) VALUES ({places}) RETURNING {_COLUMNS}", [*values.values()]
    )
    made = Job(tx, rows[0], job)
    tx.run("INSERT INTO @details (job, spec) VALUES (?, ?)", (made.no, text))
    return made
