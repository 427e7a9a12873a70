"""Submit a job with its steps: few at once, many through a temporary table, so that nobody waits for a slow source."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.store import _submission as submission
from holdfast.infrastructure.store._sql_job import inserted
from holdfast.infrastructure.store._sql_rows import JOB, clean, job_record, spec_of
from holdfast.infrastructure.store.state import JobState, NewStep, SubmissionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from holdfast.infrastructure.store._sql_job import Job
    from holdfast.infrastructure.store._sql_link import Link, Stage, Transaction
    from holdfast.infrastructure.store.state import JobRecord, NewJob

FEW = 1000
"""A submission of more steps goes through a temporary table."""

_COLUMNS = "key, line, payload, must_succeed, timeout, target, depends_on, waits"
_INSERT = f"INSERT INTO @steps (id, job, position, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DEPENDS = "INSERT INTO @dependencies (on_step, step) VALUES (?, ?)"
_KNOWN = f"{JOB} WHERE j.dedup_key = ?"


class _Steps:
    """Steps on their way into the store, and what is wrong with them."""

    def __init__(self, steps: Iterable[NewStep]) -> None:
        self.faults = submission.SubmissionFaults()
        self.waits: dict[str, tuple[str, ...]] = {}
        self.total = 0
        self._steps = self._guarded(steps)

    def _guarded(self, steps: Iterable[NewStep]) -> Iterator[NewStep]:
        try:
            yield from steps
        except SubmissionError as error:
            self.faults.join(error)

    def rows(self, limit: int | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of the next steps."""
        for step in islice(self._steps, limit):
            if not submission.storable(step.key):
                self.faults.add(submission.unfit("step", step.key))
            depends_on = waits = None
            if step.depends_on:
                self.waits[step.key] = step.depends_on
                depends_on, waits = json.dumps(step.depends_on), len(set(step.depends_on))
            self.total += 1
            yield (
                self.total - 1,
                clean(step.key),
                step.line,
                step.payload,
                step.must_succeed,
                step.timeout,
                clean(step.target),
                depends_on,
                waits or 0,
            )


def create_job(link: Link, job: NewJob, steps: Iterable[NewStep]) -> tuple[JobRecord, bool]:
    """Store a job and all its steps, or nothing; whether it is new."""
    known = link.read(_known, job)
    if known is not None:
        return known, False
    spec_of(job)
    arriving = _Steps(steps)
    few = list(arriving.rows(FEW))
    if len(few) < FEW:
        positions = _positions(arriving, few)
        return link.write("create_job", _store_few, job, arriving, few, positions)
    with link.stage() as stage:
        stage.fill(few)
        stage.fill(arriving.rows())
        if arriving.waits:
            submission.check_graph(arriving.waits, stage.keys(), arriving.faults)
        return stage.write("create_job", _store_many, job, arriving, stage)


def _known(tx: Transaction, job: NewJob) -> JobRecord | None:
    known = job.dedup_key is not None and submission.storable(job.dedup_key)
    row = tx.one(_KNOWN, (job.dedup_key,)) if known else None
    return None if row is None else job_record(row)


def _positions(arriving: _Steps, rows: Sequence[tuple[Any, ...]]) -> dict[str, int]:
    """Return which key is where, and note what is wrong."""
    positions: dict[str, int] = {}
    for position, key, line, *_ in rows:
        if positions.setdefault(key, position) != position:
            arriving.faults.add(submission.duplicate(NewStep(key=key, line=line, payload=b"")))
    submission.check_graph(arriving.waits, positions, arriving.faults)
    return positions


def _store_few(
    tx: Transaction,
    job: NewJob,
    arriving: _Steps,
    rows: Sequence[tuple[Any, ...]],
    positions: Mapping[str, int],
) -> tuple[JobRecord, bool]:
    known = _known(tx, job)
    if known is not None:
        return known, False
    _check(tx, job, arriving)
    made = inserted(tx, job, total=len(rows), graph=bool(arriving.waits))
    base = made.step_id(0)
    if rows:
        tx.many(_INSERT, [(base + row[0], made.no, *row) for row in rows])
    pairs = [
        (base + positions[on], base + positions[key])
        for key, ons in arriving.waits.items()
        for on in set(ons)
    ]
    if pairs:
        tx.many(_DEPENDS, pairs)
    return _finish(tx, made), True


def _store_many(tx: Transaction, job: NewJob, arriving: _Steps, stage: Stage) -> tuple[JobRecord, bool]:
    known = _known(tx, job)
    if known is not None:
        return known, False
    _check(tx, job, arriving)
    made = inserted(tx, job, total=arriving.total, graph=bool(arriving.waits))
    for key, line in stage.take(made.no, arriving.waits):
        arriving.faults.add(submission.duplicate(NewStep(key=key, line=line, payload=b"")))
    arriving.faults.finish()
    stage.analyze()
    return _finish(tx, made), True


def _check(tx: Transaction, job: NewJob, arriving: _Steps) -> None:
    faults = arriving.faults
    submission.check_names(job, faults)
    if submission.storable(job.id) and tx.one("SELECT 1 FROM @jobs WHERE id = ?", (job.id,)):
        faults.add(submission.known_id(job.id))
    if job.batch is not None and submission.storable(job.batch):
        batch = tx.one("SELECT cancelled FROM @batches WHERE id = ?", (job.batch,))
        if batch is None:
            faults.add(submission.unknown_batch(job.batch))
        elif batch[0]:
            faults.add(submission.cancelled_batch(job.batch))
    faults.finish()


def _finish(tx: Transaction, made: Job) -> JobRecord:
    made.changes.job(JobState.PENDING)
    made.follow()
    row = tx.one(f"{JOB} WHERE j.no = ?", (made.no,))
    return job_record(row or ())
