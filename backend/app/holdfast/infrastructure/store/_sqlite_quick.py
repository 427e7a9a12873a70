"""The short ways of `claim` and `advance` in SQLite: four statements each between BEGIN and COMMIT."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.store._sql_link import MASK, SHIFT, STRIDE
from holdfast.infrastructure.store._sql_quick import details, leased
from holdfast.infrastructure.store._sql_rows import CLAIMED, pack_positions

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Sequence

    from holdfast.infrastructure.store.state import Outcome, StepRef

_PLAIN = (
    "SELECT no, coalesce(concurrency - in_flight, ?1), pending_from, max(changed_at, ?2), last_event "
    "FROM jobs AS j WHERE {which} AND plain AND state = 'running' AND ready AND NOT halted "
    "AND (concurrency IS NULL OR in_flight < concurrency) "
    "AND EXISTS (SELECT 1 FROM workers WHERE id = ?3 AND expires_at > ?2) "
    "AND NOT EXISTS (SELECT 1 FROM steps AS s WHERE s.job = j.no AND s.state = 'pending' AND s.waits > 0 "
    "AND s.due_at > 0 AND s.due_at >= j.due_from AND s.due_at <= ?2)"
)
_NAMED = _PLAIN.format(
    which="id = ?4 AND open AND (?5 IS NULL OR handler IN (SELECT value FROM json_each(?5)))"
)
_FIRST = _PLAIN.format(which="no = (SELECT no FROM jobs WHERE open ORDER BY priority, no LIMIT 1)")
_FIRST_OF = _PLAIN.format(
    which="no = (SELECT no FROM jobs WHERE open AND handler IN (SELECT value FROM json_each(?4)) "
    "ORDER BY priority, no LIMIT 1)"
)
_LEASE = (
    "UPDATE steps SET state = 'running', worker = ?, fence = fence + 1 WHERE id IN (SELECT id FROM steps "
    "INDEXED BY steps_pending WHERE job = ? AND waits = 0 AND position >= ? AND state = 'pending' "
    f"ORDER BY position LIMIT ?) RETURNING {CLAIMED}"
)
_LEASED = (
    "UPDATE jobs SET pending = pending - ?1, running = running + ?1, last_event = last_event + 1, changed_at = ?2, "
    "due_from = ?3, open = pending > ?1, pending_from = ?4 WHERE no = ?5"
)
_PARKED = (
    "SELECT position FROM steps INDEXED BY steps_pending WHERE job = ? AND waits = 1 AND position >= ? "
    "AND state = 'pending' ORDER BY position LIMIT 1"
)
_CLAIMED = "INSERT INTO events (id, at, kind, state, positions, data) VALUES (?, ?, 'step', 'running', ?, ?)"
_JOB = (
    "UPDATE jobs SET running = running - ?1, succeeded = succeeded + ?1, in_flight = in_flight + ?2 - ?1, "
    "last_event = last_event + (?1 > 0), changed_at = max(changed_at, ?3) "
    "WHERE id = ?4 AND state = 'running' AND ready AND plain AND NOT halted AND pending + running > ?1 "
    "AND (?2 = 0 OR ((concurrency IS NULL OR in_flight + ?2 - ?1 <= concurrency) "
    "AND NOT EXISTS (SELECT 1 FROM limits WHERE name = 'concurrency'))) "
    "AND EXISTS (SELECT 1 FROM workers WHERE id = ?5 AND expires_at > ?3) "
    "RETURNING no, last_event, changed_at, write_back"
)
_END = (
    "UPDATE steps SET state = 'succeeded', worker = NULL, error = '', finished_at = ?, result = ? "
    "WHERE id = ? AND fence = ? AND worker = ? AND state = 'running' AND begun"
)
_END_ONE = f"{_END} RETURNING attempts"
_BEGIN = (
    "UPDATE steps SET begun = TRUE, attempts = attempts + 1, started_at = ? "
    "WHERE id = ? AND fence = ? AND worker = ? AND state = 'running' AND NOT begun"
)
_BEGIN_SPAN = _BEGIN.replace("id = ?", "id BETWEEN ? AND ?")
_ATTEMPTS = "SELECT attempts FROM steps WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
_EVENT = "INSERT INTO events (id, at, kind, state, positions, data) VALUES (?, ?, 'step', 'succeeded', ?, ?)"
_OUTBOX = "INSERT INTO outbox (id) VALUES (?)"


def claim(
    connection: sqlite3.Connection,
    now: float,
    worker: str,
    limit: int,
    job: str | None,
    handlers: Collection[str],
) -> list[tuple[Any, ...]]:
    """Lease steps of one job; nothing, and no change, when something is not as it must be."""
    among = json.dumps([*handlers]) if handlers else None
    if job is not None:
        found = connection.execute(_NAMED, (limit, now, worker, job, among)).fetchall()
    elif handlers:
        found = connection.execute(_FIRST_OF, (limit, now, worker, among)).fetchall()
    else:
        found = connection.execute(_FIRST, (limit, now, worker)).fetchall()
    if not found:
        return []
    ((no, room, start, at, last_event),) = found
    rows: list[tuple[Any, ...]] = connection.execute(_LEASE, (worker, no, start, min(room, limit))).fetchall()
    if not rows:
        return []
    positions = sorted([row[0] & MASK for row in rows])
    if positions[-1] >= start + STRIDE:
        parked = connection.execute(_PARKED, (no, start)).fetchall()
        start = min([positions[-1] + 1, *(place for (place,) in parked)])
    connection.execute(_LEASED, (len(rows), at, now, start, no))
    event = (no << SHIFT | last_event + 1, at, pack_positions(positions), leased(worker))
    connection.execute(_CLAIMED, event)
    return rows


def advance(
    connection: sqlite3.Connection,
    now: float,
    worker: str,
    job: str,
    outcomes: Sequence[Outcome],
    begin: Sequence[StepRef],
) -> bool:
    """Make the changes; False when something is not as it must be: then they have to be rolled back."""
    found = connection.execute(_JOB, (len(outcomes), len(begin), now, job, worker)).fetchall()
    if not found:
        return False
    ((no, last_event, at, write_back),) = found
    base = no << SHIFT
    if outcomes:
        attempts = _end(connection, at, worker, base, outcomes)
        if attempts is None:
            return False
        positions = pack_positions([outcome.ref.position for outcome in outcomes])
        connection.execute(_EVENT, (base | last_event, at, positions, details(worker, attempts, outcomes)))
        if write_back:
            owed = [(base | one.ref.position,) for one in outcomes if one.result is not None]
            connection.executemany(_OUTBOX, owed)
    return not begin or _begin(connection, at, worker, base, begin)


def _begin(
    connection: sqlite3.Connection, at: float, worker: str, base: int, refs: Sequence[StepRef]
) -> bool:
    first = refs[0]
    if len(refs) == 1:
        row = (at, base | first.position, first.fence, worker)
        return connection.execute(_BEGIN, row).rowcount == 1
    if all(
        ref.position == place and ref.fence == first.fence for place, ref in enumerate(refs, first.position)
    ):
        span = (at, base | first.position, base | refs[-1].position, first.fence, worker)
        return connection.execute(_BEGIN_SPAN, span).rowcount == len(refs)
    rows = [(at, base | ref.position, ref.fence, worker) for ref in refs]
    return connection.executemany(_BEGIN, rows).rowcount == len(rows)


def _end(
    connection: sqlite3.Connection, at: float, worker: str, base: int, outcomes: Sequence[Outcome]
) -> list[int] | None:
    """Record successes and return the numbers of their attempts, by position."""
    if len(outcomes) == 1:
        (one,) = outcomes
        ref = one.ref
        row: Any = connection.execute(
            _END_ONE, (at, one.result, base | ref.position, ref.fence, worker)
        ).fetchall()
        return [row[0][0]] if row else None
    rows = [(at, one.result, base | one.ref.position, one.ref.fence, worker) for one in outcomes]
    if connection.executemany(_END, rows).rowcount != len(rows):
        return None
    ids = json.dumps([row[2] for row in rows])
    return [attempts for (attempts,) in connection.execute(_ATTEMPTS, (ids,))]
