"""Records as rows, and back."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.store import payload
from holdfast.infrastructure.store._sql_link import MASK
from holdfast.infrastructure.store.state import (
    Attempt,
    Counts,
    JobEvent,
    JobRecord,
    JobState,
    NewJob,
    OutboxEntry,
    OutboxState,
    StepRecord,
    StepState,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from holdfast.infrastructure.store._sql_link import Transaction

_FIELDS = frozenset(field.name for field in fields(NewJob))
_SPEC = "SELECT spec FROM @details WHERE job = ?"
_REMEMBERED = 1000
_STEP_STATES = {state.value: state for state in StepState}

TALLIED = (
    "pending",
    "running",
    "succeeded",
    "failed",
    "timed_out",
    "needs_review",
    "cancelled",
    "skipped",
    "in_flight",
)
RECORD = ", ".join(
    f"j.{name}"
    for name in (
        "no",
        "state",
        "version",
        "total",
        *TALLIED,
        "created_at",
        "started_at",
        "finished_at",
        "expires_at",
        "ready",
        "halted",
        "digest",
        "reason",
        "last_event",
    )
)
JOB = f"SELECT {RECORD}, d.preview, d.spec FROM @jobs j JOIN @details d ON d.job = j.no"
STEP = (
    "id, key, line, payload, state, fence, attempts, begun, worker, due_at, started_at, finished_at, result, error, "
    "must_succeed, timeout, target, depends_on, history"
)


CLAIMED = (
    "id, key, line, payload, fence, attempts, due_at, result, error, must_succeed, timeout, target, history"
)


def clean(text: str) -> str:
    """Return a text as every database can store it: messages come from anywhere."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")


def packed(data: Mapping[str, Any]) -> str:
    """Return data as text."""
    return payload.encode(dict(data), name="data").decode()


def spec_of(job: NewJob) -> str:
    """Return a job as it was submitted, as text."""
    made = {name: getattr(job, name) for name in _FIELDS} | {"settings": dict(job.settings)}
    if not job.whole:
        # Versions that do not know it may read the others.
        del made["whole"]
    return payload.encode(made, name="job").decode()


def new_job(spec: str) -> NewJob:
    """Return what `spec_of` was given."""
    return NewJob(**payload.decode(spec))


def spec(tx: Transaction, no: int) -> NewJob:
    """Return a job as it was submitted: it never changes, nor is its number used again."""
    known = tx.specs.get(no)
    if known is None:
        row = tx.one(_SPEC, (no,))
        if row is None:
            raise LookupError(no)
        if len(tx.specs) >= _REMEMBERED:
            tx.specs.clear()
        known = tx.specs[no] = new_job(row[0])
    return known


def job_record(row: Sequence[Any]) -> JobRecord:
    """Return the record of a row of JOB."""
    no, state, version, total, *rest = row
    counted, rest = rest[: len(TALLIED)], rest[len(TALLIED) :]
    (
        created_at,
        started_at,
        finished_at,
        expires_at,
        ready,
        halted,
        digest,
        reason,
        last_event,
        preview,
        text,
    ) = rest
    del no
    return JobRecord(
        new=new_job(text),
        state=JobState(state),
        version=version,
        counts=Counts(total=total, **dict(zip(TALLIED, counted, strict=True))),
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
        expires_at=expires_at,
        ready=bool(ready),
        halted=bool(halted),
        digest=digest,
        preview=None if preview is None else payload.decode(preview),
        reason=reason,
        last_event=last_event,
    )


def step_record(job: NewJob, row: Sequence[Any]) -> StepRecord:
    """Return the record of a row of STEP."""
    return StepRecord(
        job=job.id,
        origin=job.origin or job.id,
        position=row[0] & MASK,
        key=row[1],
        line=row[2],
        payload=row[3],
        state=_STEP_STATES[row[4]],
        fence=row[5],
        attempts=row[6],
        begun=bool(row[7]),
        worker=row[8],
        due_at=row[9],
        started_at=row[10],
        finished_at=row[11],
        result=row[12],
        error=row[13],
        must_succeed=bool(row[14]),
        timeout=row[15],
        target=row[16],
        depends_on=() if row[17] is None else tuple(json.loads(row[17])),
        history=() if row[18] is None else read_history(row[18]),
    )


def claimed_record(job: NewJob, worker: str, row: Sequence[Any]) -> StepRecord:
    """Return the record of a row of CLAIMED: a step that was leased just now."""
    (
        number,
        key,
        line,
        data,
        fence,
        attempts,
        due_at,
        result,
        error,
        must_succeed,
        timeout,
        target,
        history,
    ) = row
    return StepRecord(
        job=job.id,
        origin=job.origin or job.id,
        position=number & MASK,
        key=key,
        line=line,
        payload=data,
        state=StepState.RUNNING,
        fence=fence,
        attempts=attempts,
        worker=worker,
        due_at=due_at,
        result=result,
        error=error,
        must_succeed=bool(must_succeed),
        timeout=timeout,
        target=target,
        history=read_history(history) if history else (),
    )


def read_history(text: str) -> tuple[Attempt, ...]:
    """Return earlier calls."""
    return tuple(
        Attempt(number=number, worker=worker, started_at=start, ended_at=end, outcome=outcome, error=error)
        for number, worker, start, end, outcome, error in json.loads(text)
    )


def more_history(text: str | None, *attempt: Any) -> str:
    """Return the text of earlier calls and one more."""
    return json.dumps([*(json.loads(text) if text else ()), attempt])


def pack_positions(positions: Sequence[int]) -> str:
    """Return ascending positions as text: runs as pairs of their first and last. What came late may be there twice."""
    if not positions:
        return "[]"
    first, last = positions[0], positions[-1]
    if last - first + 1 == len(positions) == len(set(positions)):
        return f"[{first}]" if first == last else f"[[{first},{last}]]"
    return pack_runs(positions)


def pack_runs(positions: Iterable[int]) -> str:
    """Return what `pack_positions` does, of positions that come one by one."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and runs[-1][-1] == position - 1:
            runs[-1][1:] = [position]
        else:
            runs.append([position])
    return json.dumps([run[0] if len(run) == 1 else run for run in runs], separators=(",", ":"))


def read_positions(text: str) -> tuple[int, ...]:
    """Return what `pack_positions` was given."""
    found: list[int] = []
    for run in json.loads(text):
        if isinstance(run, int):
            found.append(run)
        else:
            found.extend(range(run[0], run[1] + 1))
    return tuple(found)


def job_event(job: str, row: Sequence[Any]) -> JobEvent:
    """Return an event from id, at, kind, state, positions and data."""
    number, at, kind, state, positions, data = row
    return JobEvent(
        job=job,
        seq=number & MASK,
        at=at,
        kind=kind,
        state=state,
        positions=read_positions(positions),
        data=payload.decode(data),
    )


def outbox_entry(job: str, row: Sequence[Any]) -> OutboxEntry:
    """Return an entry from id, key, line, result, state, attempts, due_at and error."""
    number, key, line, result, state, attempts, due_at, error = row
    return OutboxEntry(
        job=job,
        position=number & MASK,
        key=key,
        line=line,
        result=result,
        state=OutboxState(state),
        attempts=attempts,
        due_at=due_at,
        error=error,
    )
