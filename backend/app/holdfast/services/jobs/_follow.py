"""How far a job is, now and as it goes on."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from holdfast.infrastructure.store.state import JOB_ENDS, OutboxState, StepState
from holdfast.services.jobs.progress import Progress, StepError

if TYPE_CHECKING:
    from holdfast.infrastructure.store.state import JobRecord, StateStore

_WINDOW = 10.0
_BAD = (StepState.FAILED, StepState.TIMED_OUT, StepState.NEEDS_REVIEW)


class Meter:
    """The rate of a job over the last seconds, as its watcher sees it; before that since it began."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def rate(self, job: JobRecord, now: float) -> float:
        """Note how far a job is now; return steps a second."""
        self._seen.append((now, job.counts.done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _WINDOW:  # noqa: PLR2004
            self._seen.popleft()
        at, done = self._seen[0]
        if now - at <= 0:
            at, done = job.started_at or now, 0
        end = now if job.finished_at is None else job.finished_at
        return max(0.0, (job.counts.done - done) / (end - at)) if end > at else 0.0


def progress(store: StateStore, job: str, errors: int = 5, meter: Meter | None = None) -> Progress:
    """Return how far a job is."""
    record, now = store.job(job), store.now()
    counts = record.counts
    rate = (meter or Meter()).rate(record, now)
    left = counts.pending + counts.running
    ended = record.state in JOB_ENDS
    return Progress(
        job=record.id,
        name=record.new.name,
        state=record.state,
        counts=counts,
        halted=record.halted,
        reason=record.reason,
        rate=rate,
        eta=0.0 if ended else left / rate if rate else None,
        elapsed=_elapsed(record, now),
        errors=_errors(store, record, errors),
        unwritten=_count(store, record, OutboxState.PENDING),
        dead=_count(store, record, OutboxState.DEAD),
    )


def _elapsed(job: JobRecord, now: float) -> float:
    if job.started_at is None:
        return 0.0
    return max(0.0, (now if job.finished_at is None else job.finished_at) - job.started_at)


def _errors(store: StateStore, job: JobRecord, limit: int) -> tuple[StepError, ...]:
    counts = job.counts
    if not limit or not (counts.failed or counts.timed_out or counts.needs_review):
        return ()
    steps = store.steps(job.id, states=_BAD, limit=limit)
    return tuple(StepError(key=one.key, line=one.line, state=one.state, error=one.error) for one in steps)


def _count(store: StateStore, job: JobRecord, state: OutboxState) -> int:
    return len(store.outbox(job.id, states=[state])) if job.new.write_back else 0
