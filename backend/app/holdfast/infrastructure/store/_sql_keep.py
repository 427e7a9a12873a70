"""Jobs, batches, results on their way back and locks, as programs and people see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.store import _decide as decide
from holdfast.infrastructure.store import payload
from holdfast.infrastructure.store._changes import Told
from holdfast.infrastructure.store._sql_job import held, held_by_key, job_numbered, open_job, open_jobs
from holdfast.infrastructure.store._sql_link import MASK, SHIFT
from holdfast.infrastructure.store._sql_rows import (
    JOB,
    STEP,
    clean,
    job_event,
    job_record,
    outbox_entry,
    spec,
    step_record,
)
from holdfast.infrastructure.store._submission import storable, unfit
from holdfast.infrastructure.store.state import (
    JOB_ENDS,
    BatchRecord,
    ConflictError,
    IllegalTransition,
    JobEvent,
    JobRecord,
    JobState,
    LeaseLostError,
    Lock,
    NotFoundError,
    OutboxEntry,
    OutboxState,
    StepRecord,
    StepState,
    SubmissionError,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from enum import StrEnum

    from holdfast.infrastructure.store._sql_link import Transaction

_BAD = frozenset({StepState.FAILED, StepState.TIMED_OUT, StepState.NEEDS_REVIEW})
_OWED = frozenset({OutboxState.PENDING})
_LOCK = "SELECT owner, fence, expires_at, dirty FROM @locks WHERE name = ?"
_ENTRY = "o.id, s.key, s.line, s.result, o.state, o.attempts, o.due_at, o.error"
# One look-up for each job that has any, however many entries it has.
_OWING = (
    "WITH RECURSIVE owing (job) AS (SELECT min(id) / 4294967296 FROM @outbox WHERE state = 'pending' UNION ALL "
    "SELECT (SELECT min(id) / 4294967296 FROM @outbox WHERE state = 'pending' AND id >= (owing.job + 1) * 4294967296) "
    "FROM owing WHERE owing.job IS NOT NULL) SELECT j.id FROM owing JOIN @jobs j ON j.no = owing.job"
)


def job(tx: Transaction, which: str) -> JobRecord:
    """Return a job. NotFoundError."""
    row = tx.one(f"{JOB} WHERE j.id = ?", (which,)) if storable(which) else None
    if row is None:
        raise NotFoundError("job", which, tx.tenant)
    return job_record(row)


def number(tx: Transaction, which: str) -> int:
    """Return the number of a job. NotFoundError."""
    row = tx.one("SELECT no FROM @jobs WHERE id = ?", (which,)) if storable(which) else None
    if row is None:
        raise NotFoundError("job", which, tx.tenant)
    return int(row[0])


def jobs(
    tx: Transaction, states: Iterable[JobState], batch: str | None, after: str | None, limit: int
) -> list[JobRecord]:
    """Return jobs, newest first."""
    if not storable(batch):
        return []
    where, values = ["TRUE"], list[Any]()
    if after is not None:
        where.append("j.no < ?")
        values.append(number(tx, after))
    if batch is not None:
        where.append("j.batch = ?")
        values.append(batch)
    where += _of("j.state", states)
    text = f"{JOB} WHERE {' AND '.join(where)} ORDER BY j.no DESC LIMIT ?"
    return [job_record(row) for row in tx.all(text, (*values, limit))]


def _of(column: str, states: Iterable[StrEnum]) -> list[str]:
    """Return a condition as literals, which partial indexes need."""
    named = sorted(set(states))
    if len(named) == 1:
        return [f"{column} = '{named[0].value}'"]
    return [f"{column} IN ({', '.join(repr(state.value) for state in named)})"] if named else []


def step(tx: Transaction, which: str, key: str) -> StepRecord:
    """Return a step by its key. NotFoundError."""
    no = number(tx, which)
    found = f"SELECT {STEP} FROM @steps WHERE job = ? AND key = ?"
    row = tx.one(found, (no, key)) if storable(key) else None
    if row is None:
        raise _no_step(tx, which, key)
    return step_record(spec(tx, no), row)


def _no_step(tx: Transaction, which: str, key: str) -> NotFoundError:
    return NotFoundError("step", f"{key} of job {which}", tx.tenant)


def steps(
    tx: Transaction, which: str, states: Iterable[StepState], worker: str | None, after: int, limit: int
) -> list[StepRecord]:
    """Return steps in order; those of a worker by its index, as the job may be large."""
    no, wanted = number(tx, which), frozenset(states)
    where = ["job = ?", "id > ?", "id <= ?", *_of("state", wanted)]
    if wanted and wanted <= _BAD:
        where.append("(state = 'failed' OR state = 'timed_out' OR state = 'needs_review')")
    base = no << SHIFT
    values: list[Any] = [no, base + after, base + MASK]
    if worker is not None:
        if not storable(worker):
            return []
        # As the index of what workers hold says it.
        where += ["state = 'running'", "worker = ?"]
        values.append(worker)
    text = f"SELECT {STEP} FROM @steps WHERE {' AND '.join(where)} ORDER BY id LIMIT ?"
    new = spec(tx, no)
    return [step_record(new, row) for row in tx.all(text, (*values, limit))]


def events(tx: Transaction, which: str, after: int, limit: int, kinds: Collection[str]) -> list[JobEvent]:
    """Return a job's history."""
    base, index = number(tx, which) << SHIFT, ""
    where = ["id > ?", "id <= ?"]
    values: list[Any] = [base + after, base + MASK]
    if kinds:
        where.append(f"kind IN ({', '.join('?' * len(kinds))})")
        values += sorted(kinds)
        if "step" not in kinds:
            index = "@rare"
            where.append("kind <> 'step'")
    text = (
        f"SELECT id, at, kind, state, positions, data FROM @events {index} "
        f"WHERE {' AND '.join(where)} ORDER BY id LIMIT ?"
    )
    return [job_event(which, row) for row in tx.all(text, (*values, limit))]


def note(tx: Transaction, which: str, state: str, text: str) -> JobEvent:
    """Append a note to a job's history."""
    found = open_job(tx, which)
    seq = found.note(state, text)
    return JobEvent(job=which, seq=seq, at=found.now, kind="note", state=state, data=payload.decode(text))


def change_job(tx: Transaction, which: str, to: JobState, reason: str, version: int | None) -> JobRecord:
    """Move a job."""
    found = open_job(tx, which)
    if version not in {None, found.version}:
        raise ConflictError(f"job {which!r}", version, found.version)
    decide.check_order(which, found.state, to)
    found.move(to, reason=reason)
    found.follow()
    return job(tx, which)


def preview_job(tx: Transaction, which: str, digest: str, preview: str) -> JobRecord:
    """Keep a preview."""
    found = open_job(tx, which)
    decide.check_job(which, found.state, JobState.PREVIEWED)
    found.digest = digest
    tx.run("UPDATE @details SET preview = ? WHERE job = ?", (preview, found.no))
    found.move(JobState.PREVIEWED, digest=digest)
    found.follow()
    return job(tx, which)


def approve_job(tx: Transaction, which: str, digest: str) -> JobRecord:
    """Let a previewed job run."""
    found = open_job(tx, which)
    if found.state is not JobState.PREVIEWED:
        raise IllegalTransition(f"job {which!r}", found.state, JobState.RUNNING)
    if found.digest != digest:
        raise ConflictError(f"what job {which!r} was previewed from", digest, found.digest)
    found.ready = True
    found.move(JobState.RUNNING)
    found.follow()
    return job(tx, which)


def delete_job(tx: Transaction, which: str) -> None:
    """Remove a job that has ended."""
    found = open_job(tx, which)
    if found.state not in JOB_ENDS:
        raise IllegalTransition(f"job {which!r}", found.state, "deleted")
    first, last = found.step_id(0), found.step_id(MASK)
    for table, column in (("outbox", "id"), ("dependencies", "on_step"), ("events", "id"), ("steps", "id")):
        tx.run(f"DELETE FROM @{table} WHERE {column} BETWEEN ? AND ?", (first, last))
    tx.run("DELETE FROM @details WHERE job = ?", (found.no,))
    tx.run("DELETE FROM @jobs WHERE no = ?", (found.no,))


def create_batch(tx: Transaction, which: str, name: str) -> BatchRecord:
    """Store a batch, or return the one of this id."""
    if not storable(which):
        raise SubmissionError([unfit("batch", which)])
    tx.run(
        "INSERT INTO @batches (id, name, created_at) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING",
        (which, clean(name), tx.now),
    )
    return batch(tx, which)


def batch(tx: Transaction, which: str) -> BatchRecord:
    """Return a batch. NotFoundError."""
    found = "SELECT name, cancelled, created_at FROM @batches WHERE id = ?"
    row = tx.one(found, (which,)) if storable(which) else None
    if row is None:
        raise NotFoundError("batch", which, tx.tenant)
    counted = tx.all("SELECT state, count(*) FROM @jobs WHERE batch = ? GROUP BY state", (which,))
    states = {JobState(state): count for state, count in counted}
    return BatchRecord(
        id=which,
        name=row[0],
        state=decide.batch_state(states, cancelled=bool(row[1])),
        total=sum(states.values()),
        done=sum(states.get(state, 0) for state in JOB_ENDS),
        created_at=row[2],
    )


def cancel_batch(tx: Transaction, which: str) -> BatchRecord:
    """Cancel every job of a batch that has not ended."""
    if storable(which):
        tx.one("SELECT 1 FROM @batches WHERE id = ? @lock", (which,))
    decide.check_cancel(which, batch(tx, which).state)
    tx.run("UPDATE @batches SET cancelled = TRUE WHERE id = ?", (which,))
    for (no,) in tx.all("SELECT no FROM @jobs WHERE batch = ? ORDER BY no", (which,)):
        found = job_numbered(tx, no)
        if found is not None and found.state not in JOB_ENDS:
            found.move(JobState.CANCELLED)
            found.follow()
    return batch(tx, which)


def resolve(
    tx: Transaction, which: str, key: str, to: StepState, result: bytes | None, error: str, by: str
) -> StepRecord:
    """Decide about a step that needs review."""
    found = open_job(tx, which)
    among = held(tx, "job = ? AND key = ?", (found.no, key)) if storable(key) else []
    if not among:
        raise _no_step(tx, which, key)
    decide.check_resolution(which, key, StepState(among[0].state), to)
    found.resolve(among[0], to, result=result, error=error, by=clean(by))
    found.halt()
    found.follow()
    return step(tx, which, key)


def skip(tx: Transaction, which: str, keys: Sequence[str], reason: str, by: str) -> JobRecord:
    """Decide that pending steps are not to be done."""
    found = open_job(tx, which)
    decide.check_skip(which, found.state)
    known = {one.key: one for one in held_by_key(tx, found.no, [key for key in keys if storable(key)])}
    for key in keys:
        if key not in known:
            raise _no_step(tx, which, key)
    for key in keys:
        decide.check_step(which, key, StepState(known[key].state), StepState.SKIPPED)
    for key in keys:
        found.skip(known[key], reason=clean(reason), by=clean(by))
    found.follow()
    return job(tx, which)


def outbox(tx: Transaction, which: str, states: Iterable[OutboxState], limit: int) -> list[OutboxEntry]:
    """Return results on their way back, those that are due first."""
    base, now = number(tx, which) << SHIFT, tx.now
    wanted = frozenset(states)
    index = "@owed" if wanted == _OWED else ""
    where = " AND ".join(["o.id >= ?", "o.id <= ?", *_of("o.state", wanted)])
    text = f"SELECT {_ENTRY} FROM @outbox o {index} @with @steps s ON s.id = o.id WHERE {where} AND o.due_at"
    rows = tx.all(f"{text} <= ? ORDER BY o.id LIMIT ?", (base, base + MASK, now, limit))
    if len(rows) < limit:
        rows += tx.all(f"{text} > ? ORDER BY o.id LIMIT ?", (base, base + MASK, now, limit - len(rows)))
    return [outbox_entry(which, row) for row in rows]


def owing(tx: Transaction) -> list[str]:
    """Return the jobs that have results waiting to be written back."""
    return [row[0] for row in tx.all(_OWING)]


def settle_outbox(tx: Transaction, entries: Sequence[OutboxEntry]) -> None:
    """Record what became of write-backs."""
    by_job: dict[str, list[OutboxEntry]] = {}
    for entry in entries:
        by_job.setdefault(entry.job, []).append(entry)
    for found in open_jobs(tx, by_job).values():
        for entry in by_job[found.id]:
            _settle_one(tx, found.step_id(entry.position), entry, found.changes)
        found.follow()


def _settle_one(tx: Transaction, which: int, entry: OutboxEntry, changes: Any) -> None:
    error = clean(entry.error)
    settled = tx.all(
        "UPDATE @outbox SET state = ?, attempts = ?, due_at = ?, error = ? "
        "WHERE id = ? AND state <> 'written' RETURNING id",
        (entry.state, entry.attempts, entry.due_at, error, which),
    )
    if settled:
        told = Told(entry.attempts, 0.0, error)
        changes.step(entry.position, entry.state, told=told, kind="write-back")


def acquire(tx: Transaction, name: str, owner: str, lease: float) -> Lock | None:
    """Take a lock, or prolong one's own; None while another holds it."""
    until = tx.now + lease
    rows = tx.all(
        "INSERT INTO @locks (name, owner, fence, expires_at) VALUES (?, ?, 1, ?) ON CONFLICT (name) DO UPDATE "
        "SET fence = CASE WHEN locks.expires_at > ? THEN locks.fence ELSE locks.fence + 1 END, "
        "owner = excluded.owner, expires_at = excluded.expires_at "
        "WHERE locks.expires_at <= ? OR locks.owner = excluded.owner RETURNING fence",
        (name, owner, until, tx.now, tx.now),
    )
    return Lock(name=name, owner=owner, fence=rows[0][0], expires_at=until) if rows else None


def lock(tx: Transaction, name: str) -> Lock | None:
    """Return a lock as somebody holds it now."""
    row = tx.one(_LOCK, (name,))
    if row is None or row[2] <= tx.now:
        return None
    return Lock(name=name, owner=row[0], fence=row[1], expires_at=row[2])


def holds(tx: Transaction, lock: Lock) -> bool:
    """Return whether this very lock is still held."""
    row = tx.one(_LOCK, (lock.name,))
    return row is not None and tuple(row[:2]) == (lock.owner, lock.fence) and row[2] > tx.now


def unlock(tx: Transaction, lock: Lock) -> bool:
    """Give a lock back, unless it is lost or dirty."""
    return bool(
        tx.all(
            "UPDATE @locks SET expires_at = 0 "
            "WHERE name = ? AND owner = ? AND fence = ? AND expires_at > ? AND NOT dirty RETURNING name",
            (lock.name, lock.owner, lock.fence, tx.now),
        )
    )


def mark_dirty(tx: Transaction, name: str) -> None:
    """Say that there is something new for the holder of a lock."""
    tx.run(
        "INSERT INTO @locks (name, dirty) VALUES (?, TRUE) ON CONFLICT (name) DO UPDATE SET dirty = TRUE",
        (name,),
    )


def clear_dirty(tx: Transaction, lock: Lock) -> bool:
    """Take the mark away; return whether there was one. LeaseLostError."""
    row = tx.one(f"{_LOCK} @lock", (lock.name,))
    if row is None or tuple(row[:2]) != (lock.owner, lock.fence) or row[2] <= tx.now:
        raise LeaseLostError(lock.owner)
    tx.run("UPDATE @locks SET dirty = FALSE WHERE name = ?", (lock.name,))
    return bool(row[3])
