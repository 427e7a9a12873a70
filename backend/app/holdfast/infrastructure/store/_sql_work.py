"""What workers do: leases, claims, outcomes, and what becomes of steps whose worker or time is gone."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.store import _decide as decide
from holdfast.infrastructure.store._sql_job import (
    Job,
    Step,
    held_by_id,
    job_numbered,
    job_unlocked,
    open_jobs,
)
from holdfast.infrastructure.store._sql_link import MASK, SHIFT, Again
from holdfast.infrastructure.store._sql_rows import CLAIMED, claimed_record, spec
from holdfast.infrastructure.store.state import (
    JOB_ENDS,
    Advanced,
    LeaseLostError,
    Recovered,
    Refusal,
    StepRecord,
    StepRef,
    StepState,
    Swept,
    WorkerRecord,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from holdfast.infrastructure.store._sql_link import Transaction
    from holdfast.infrastructure.store.state import JobState, Outcome

_WORKER = "SELECT id, host, pid, born, expires_at FROM @workers"
_LEASE = "SELECT expires_at FROM @workers WHERE id = ?"
# Who claims under it keeps others from recovering the worker until it commits: they would not see the claim.
_LEASE_KEPT = f"{_LEASE} @share"
# Of those who live none is locked: their claims need not wait.
_DEAD = "SELECT id FROM @workers WHERE expires_at <= ? OR id @any ORDER BY id @lock"
_REGISTER = (
    "INSERT INTO @workers (id, host, pid, born, expires_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE "
    "SET host = excluded.host, pid = excluded.pid, born = excluded.born, expires_at = excluded.expires_at"
)
_RENEW = "UPDATE @workers SET expires_at = ? WHERE id = ? AND expires_at > ? RETURNING id, host, pid, born, expires_at"
_DUE = (
    "UPDATE @steps SET waits = 0 "
    "WHERE job = ? AND state = 'pending' AND waits > 0 AND due_at > 0 AND due_at >= ? AND due_at <= ?"
)
# Subqueries with a limit of one, because PostgreSQL may read all steps to answer EXISTS for all jobs.
_CLAIMABLE = (
    "open AND ((SELECT 1 FROM @steps s WHERE s.job = j.no AND s.state = 'pending' AND s.waits = 0 "
    "AND s.position >= j.pending_from ORDER BY s.position LIMIT 1) IS NOT NULL "
    "OR (SELECT min(s.due_at) FROM @steps s WHERE s.job = j.no AND s.state = 'pending' AND s.waits > 0 "
    "AND s.due_at > 0 AND s.due_at >= j.due_from) <= ?)"
)
_OPEN = (
    f"SELECT no, priority, id, handler FROM @jobs j WHERE {_CLAIMABLE} AND (priority, no) > (?, ?) "
    "ORDER BY priority, no LIMIT 50"
)
_NAMED = f"SELECT no, id, handler FROM @jobs j WHERE {_CLAIMABLE} AND id = ?"
_PICK = (
    "SELECT id FROM @steps @pending WHERE job = ? AND waits = 0 AND position >= ? AND state = 'pending' "
    "ORDER BY position LIMIT ?"
)
_CLAIM = (
    "UPDATE @steps SET state = 'running', worker = ?, fence = fence + 1 "
    f"WHERE id @any AND state = 'pending' RETURNING {CLAIMED}"
)
_OVERDUE_JOBS = (
    "SELECT no FROM @jobs @expiring "
    "WHERE (state = 'pending' OR state = 'previewed' OR state = 'paused') AND expires_at <= ? "
    "UNION ALL SELECT no FROM @jobs @ending WHERE state = 'running' AND ends_at <= ? ORDER BY 1 LIMIT ?"
)
_OVERDUE_STEPS = (
    "SELECT s.id FROM @steps s @running @with @jobs j ON j.no = s.job WHERE s.state = 'running' AND s.begun "
    "AND s.started_at + coalesce(s.timeout, j.step_timeout) <= ? ORDER BY s.id LIMIT ?"
)
_NEXT_DUE = (
    "SELECT min(at) FROM ("
    "SELECT min(expires_at) AS at FROM @jobs @expiring "
    "WHERE (state = 'pending' OR state = 'previewed' OR state = 'paused') "
    "UNION ALL SELECT min(ends_at) FROM @jobs @ending WHERE state = 'running' "
    "UNION ALL SELECT min(s.started_at + coalesce(s.timeout, j.step_timeout)) "
    "FROM @steps s @running @with @jobs j ON j.no = s.job WHERE s.state = 'running' AND s.begun "
    "UNION ALL SELECT min((SELECT min(s.due_at) FROM @steps s WHERE s.job = j.no AND s.state = 'pending' "
    "AND s.waits > 0 AND s.due_at > 0 AND s.due_at > ?)) FROM @jobs j WHERE j.open) t"
)
_MOST = "SELECT value FROM @limits WHERE name = 'concurrency'"
_BOUND = (
    "INSERT INTO @limits (name, value) VALUES ('concurrency', ?) ON CONFLICT (name) DO UPDATE "
    "SET value = excluded.value"
)


def register(tx: Transaction, worker: WorkerRecord, lease: float) -> WorkerRecord:
    """Begin a worker's lease; what it held under an older one is taken back first."""
    _take(tx, [worker.id])
    row = (worker.id, worker.host, worker.pid, worker.born, tx.now + lease)
    tx.run(_REGISTER, row)
    return _worker(row)


def renew(tx: Transaction, worker: str, lease: float) -> WorkerRecord:
    """Prolong a lease. LeaseLostError."""
    rows = tx.all(_RENEW, (tx.now + lease, worker, tx.now))
    if not rows:
        raise LeaseLostError(worker)
    return _worker(rows[0])


def workers(tx: Transaction) -> list[WorkerRecord]:
    """Return those with a lease."""
    return [_worker(row) for row in tx.all(f"{_WORKER} ORDER BY id")]


def _worker(row: Sequence[Any]) -> WorkerRecord:
    name, host, pid, born, expires_at = row
    return WorkerRecord(id=name, host=host, pid=pid, born=born, expires_at=expires_at)


def _check_lease(tx: Transaction, worker: str, text: str = _LEASE) -> None:
    row = tx.one(text, (worker,))
    if row is None or row[0] <= tx.now:
        raise LeaseLostError(worker)


def claim(
    tx: Transaction,
    worker: str,
    limit: int,
    job: str | None,
    handlers: Collection[str],
    skip: Collection[str],
) -> list[StepRecord]:
    """Lease up to `limit` steps that may run."""
    claimed = [] if skip or limit < 1 else _claim_shortly(tx, worker, limit, job, handlers)
    if claimed and (job is not None or len(claimed) == limit):
        return claimed
    _check_lease(tx, worker, _LEASE_KEPT)
    locks, passed = bool(claimed), False
    skip = {*skip, *(step.job for step in claimed)}
    for no, name, handler in _open(tx) if job is None else tx.all(_NAMED, (tx.now, job)):
        if len(claimed) >= limit:
            break
        if name in skip or (handlers and handler not in handlers):
            continue
        # Who holds a lock must not wait for another, or two may wait for each other.
        found = job_unlocked(tx, no) if locks else job_numbered(tx, no)
        if found is None:
            passed = True
        else:
            locks = True
            claimed += _claim_of(tx, found, worker, limit - len(claimed))
    if passed and not claimed and locks:
        raise Again
    return claimed


def _claim_shortly(
    tx: Transaction, worker: str, limit: int, job: str | None, handlers: Collection[str]
) -> list[StepRecord]:
    """Lease steps of one job in few statements, if it is plain and goes; nothing changes if not."""
    rows = sorted(tx.lease(worker, limit, job, handlers))
    new = spec(tx, rows[0][0] >> SHIFT) if rows else None
    return [] if new is None else [claimed_record(new, worker, row) for row in rows]


def _open(tx: Transaction) -> Iterator[tuple[int, str, str]]:
    """Yield the jobs that have something to claim, the most urgent first."""
    priority, no = -(1 << 31), 0
    while rows := tx.all(_OPEN, (tx.now, priority, no)):
        yield from ((number, name, handler) for number, _, name, handler in rows)
        no, priority = rows[-1][:2]


def _claim_of(tx: Transaction, job: Job, worker: str, limit: int) -> list[StepRecord]:
    room = decide.room(job.new, job.tally)
    wanted = limit if room is None else min(room, limit)
    if not job.goes or wanted <= 0:
        return []
    tx.run(_DUE, (job.no, job.due_from, tx.now))
    ids = [row[0] for row in tx.all(_PICK, (job.no, job.pending_from, wanted))]
    rows = sorted(tx.among(_CLAIM, ids, (worker,))) if ids else []
    if rows:
        job.claimed([row[0] & MASK for row in rows], worker)
    return [claimed_record(job.new, worker, row) for row in rows]


def advance(
    tx: Transaction,
    worker: str,
    outcomes: Sequence[Outcome],
    begin: Sequence[StepRef],
    *,
    repeat: bool = False,
) -> Advanced:
    """Record how calls ended, and let others begin; `repeat`: that may have been recorded already."""
    for outcome in outcomes:
        decide.check_outcome(outcome)
    _check_lease(tx, worker)
    refs = [*(outcome.ref for outcome in outcomes), *begin]
    jobs = open_jobs(tx, (ref.job for ref in refs))
    steps = _steps(tx, jobs, refs)
    active = [job for job in jobs.values() if job.state not in JOB_ENDS]
    late = [one.ref for one in outcomes if not _record(jobs, steps, worker, one, repeat=repeat)]
    for job in jobs.values():
        job.halt()
    refusals = _begun(tx, jobs, steps, worker, begin)
    for job in jobs.values():
        job.follow()
    waits = [wait for refused, wait in refusals.values() if refused is Refusal.RATE]
    return Advanced(
        begun=tuple(ref for ref, (refused, _) in refusals.items() if refused is None),
        refused={ref: refused for ref, (refused, _) in refusals.items() if refused is not None},
        late=tuple(late),
        ended={job.id: job.state for job in active if job.state in JOB_ENDS},
        retry_in=min(waits, default=0.0),
    )


def _steps(tx: Transaction, jobs: dict[str, Job], refs: Iterable[StepRef]) -> dict[int, Step]:
    ids = {
        jobs[ref.job].step_id(ref.position) for ref in refs if ref.job in jobs and 0 <= ref.position <= MASK
    }
    return held_by_id(tx, list(ids)) if ids else {}


def _current(
    jobs: dict[str, Job], steps: dict[int, Step], worker: str, ref: StepRef
) -> tuple[Job, Step] | None:
    """Return the step that a worker holds by this very claim."""
    job = jobs.get(ref.job)
    step = None if job is None else steps.get(job.no << SHIFT | ref.position)
    if job is None or step is None or step.worker != worker or step.fence != ref.fence:
        return None
    return job, step


def _record(
    jobs: dict[str, Job], steps: dict[int, Step], worker: str, outcome: Outcome, *, repeat: bool
) -> bool:
    ref = outcome.ref
    current = _current(jobs, steps, worker, ref)
    if current is not None:
        current[0].record_outcome(current[1], outcome)
        return True
    step = steps.get(jobs[ref.job].step_id(ref.position)) if ref.job in jobs else None
    if step is None:
        return False
    if repeat and step.state == outcome.state and step.fence == ref.fence:
        return True
    jobs[ref.job].record_late(outcome, step.attempts, worker)
    return False


def _begun(
    tx: Transaction, jobs: dict[str, Job], steps: dict[int, Step], worker: str, begin: Sequence[StepRef]
) -> dict[StepRef, tuple[Refusal | None, float]]:
    """Let steps begin; return which may not, why, and for how long."""
    room = _room(tx) if begin else inf
    refusals: dict[StepRef, tuple[Refusal | None, float]] = {}
    for ref in begin:
        current = _current(jobs, steps, worker, ref)
        if current is None:
            refusals[ref] = Refusal.LOST, 0.0
            continue
        job, step = current
        begins = not step.begun
        refusals[ref] = job.begin(step, full=room <= 0)
        room -= begins and step.begun
    return refusals


def _room(tx: Transaction) -> float:
    """Return how many more calls the tenant may have under way; who asks goes on alone until it commits."""
    row = tx.one(f"{_MOST} @lock")
    if row is None:
        return inf
    under_way = tx.one("SELECT count(*) FROM @steps @running WHERE state = 'running' AND begun")
    return float(row[0] - (under_way[0] if under_way else 0))


def set_concurrency(tx: Transaction, most: int | None) -> None:
    """Bound the calls of a tenant, or do not."""
    if most is None:
        tx.run("DELETE FROM @limits WHERE name = 'concurrency'")
    else:
        tx.run(_BOUND, (most,))


def concurrency(tx: Transaction) -> int | None:
    """Return the bound of a tenant's calls."""
    row = tx.one(_MOST)
    return None if row is None else row[0]


def release(tx: Transaction, worker: str, refs: Sequence[StepRef]) -> None:
    """Hand back claimed steps that have not begun."""
    _check_lease(tx, worker)
    jobs = open_jobs(tx, (ref.job for ref in refs))
    steps = _steps(tx, jobs, refs)
    for ref in refs:
        current = _current(jobs, steps, worker, ref)
        if current is not None and not current[1].begun:
            current[0].hand_back(current[1])
    for job in jobs.values():
        job.follow()


def retire(tx: Transaction, worker: str) -> Recovered:
    """End a worker's lease and hand back what it holds."""
    return _take(tx, [worker])


def recover(tx: Transaction, gone: Iterable[str], limit: int) -> Recovered:
    """Take steps from workers whose lease has ended, and from those `gone`."""
    dead = tx.among(_DEAD, list(set(gone)), (tx.now,))
    return _take(tx, [name for (name,) in dead], limit)


def _take(tx: Transaction, dead: Sequence[str], limit: int | None = None) -> Recovered:
    """End leases and take what they hold, `limit` steps at most."""
    if dead:
        tx.among("SELECT id FROM @workers WHERE id @any ORDER BY id @lock", dead)
    found: list[int] = []
    left: set[str] = set()
    for worker in dead:
        ids = [
            row[0]
            for row in tx.all(
                "SELECT id FROM @steps WHERE state = 'running' AND worker = ? ORDER BY id", (worker,)
            )
        ]
        room = len(ids) if limit is None else limit - len(found)
        found += ids[:room]
        if len(ids) > room:
            left.add(worker)
    refs: dict[bool, list[StepRef]] = {False: [], True: []}
    for job, steps in _with_jobs(tx, found):
        for step in steps:
            ref = job.ref(step)
            refs[job.take(step)].append(ref)
        job.follow()
    forgotten = _forget(tx, dead, left)
    return Recovered(workers=forgotten, returned=tuple(refs[False]), ambiguous=tuple(refs[True]))


def _forget(tx: Transaction, dead: Sequence[str], left: Collection[str]) -> tuple[str, ...]:
    for worker in left:
        tx.run("UPDATE @workers SET expires_at = ? WHERE id = ? AND expires_at > ?", (tx.now, worker, tx.now))
    gone = [worker for worker in dead if worker not in left]
    forgotten = [one for one in gone if tx.all("DELETE FROM @workers WHERE id = ? RETURNING id", (one,))]
    for worker in forgotten:
        tx.run("UPDATE @locks SET expires_at = 0 WHERE owner = ? AND expires_at > ?", (worker, tx.now))
    return tuple(forgotten)


def _with_jobs(tx: Transaction, ids: Sequence[int]) -> Iterator[tuple[Job, list[Step]]]:
    """Take the locks of steps' jobs, in order, and yield each with those steps that still run."""
    by_job: dict[int, list[int]] = {}
    for step in sorted(ids):
        by_job.setdefault(step >> SHIFT, []).append(step)
    for no, among in by_job.items():
        job = job_numbered(tx, no)
        if job is not None:
            steps = held_by_id(tx, among)
            yield job, [steps[one] for one in among if one in steps and steps[one].state == StepState.RUNNING]


def sweep(tx: Transaction, limit: int, slack: float) -> Swept:
    """End what is past its limit, whoever holds it."""
    ended: dict[str, JobState] = {}
    steps: list[StepRef] = []
    for (no,) in tx.all(_OVERDUE_JOBS, (tx.now, tx.now, limit)):
        job = job_numbered(tx, no)
        if job is not None and job.overdue:
            steps += job.give_up()
            job.follow()
            ended[job.id] = job.state
    overdue = [row[0] for row in tx.all(_OVERDUE_STEPS, (tx.now - slack, limit))]
    for job, late in _with_jobs(tx, overdue):
        steps += [job.time_out_step(step) for step in late]
        job.halt()
        job.follow()
    return Swept(jobs=ended, steps=tuple(steps))


def next_due(tx: Transaction) -> float | None:
    """Return when the next retry, expiry or timeout is due."""
    row = tx.one(_NEXT_DUE, (tx.now,))
    return row[0] if row else None
