"""A job of a DynamoDB table while somebody works with it: the reference's, which knows what of it has changed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from heapq import nsmallest
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.store import _dynamo_rows as rows
from holdfast.infrastructure.store._memory_job import MemoryJob
from holdfast.infrastructure.store.state import (
    JOB_ENDS,
    Counts,
    JobEvent,
    JobRecord,
    JobState,
    OutboxEntry,
    StepState,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from holdfast.infrastructure.store.state import NewJob, StepRecord


MOST_RETRIES = 50
"""Of how many retries the index tells when they are due."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """What never changes of a job's steps: read once."""

    number: int
    steps: list[StepRecord]
    positions: dict[str, int]
    dependants: list[list[int]]
    waits: list[int]


def fixed(number: int, steps: list[StepRecord]) -> Fixed:
    """Return what follows from the definitions of steps."""
    positions = {step.key: step.position for step in steps}
    dependants: list[list[int]] = [[] for _ in steps]
    for step in steps:
        for key in set(step.depends_on):
            dependants[positions[key]].append(step.position)
    return Fixed(number, steps, positions, dependants, [len(set(step.depends_on)) for step in steps])


class DynamoJob(MemoryJob):
    """A job and what of it is to be written. Its events are not here, only those that are new."""

    def __init__(self, head: Mapping[str, Any], known: Fixed) -> None:
        new: NewJob = rows.new_job(head["new"])
        super().__init__(
            new=new,
            number=known.number,
            created_at=head["created_at"],
            expires_at=head["expires_at"],
            ready=head["ready"],
            state=rows.state_of(head["state"]),
            version=head["version"],
            started_at=head["started_at"],
            finished_at=head["finished_at"],
            halted=head["halted"],
            digest=head["digest"],
            preview=head["preview"],
            reason=head["reason"],
            free_at=head["free_at"],
            steps=list(known.steps),
            positions=known.positions,
            waits=list(known.waits),
            dependants=known.dependants,
        )
        self.known = known
        self._counted = Counter(head["counts"])
        self._tolerated = head["tolerated"]
        self.rev: int = 0
        self.revs: list[int] = list(head["revs"])
        self.parts: int = head["parts"]
        self.last: int = head["last"]
        self.latest: float = head["latest"]
        self.touched: set[int] = set()
        self.fresh: list[JobEvent] = []

    @property
    def dirty(self) -> bool:
        """Whether there is anything to be written."""
        return bool(self.touched or self.fresh)

    @property
    def record(self) -> JobRecord:
        """The job as callers see it."""
        return replace(super().record, last_event=self.last)

    def begin_life(self) -> None:
        """Count its steps, and tell that it is there: it was just submitted."""
        self._counted["pending"] = len(self.steps)
        self.changes.job(JobState.PENDING)

    def apply(self, group: int, said: Sequence[Any]) -> None:
        """Take what a group of steps says; counters are the head's."""
        for position, one in enumerate(said, group * rows.GROUP):
            if isinstance(one, int):
                self.waits[position] = one
                continue
            changes, waits, out = rows.changed(one)
            step = replace(self.steps[position], **changes)
            self.steps[position], self.waits[position] = step, waits
            if out is not None:
                self.outbox[position] = OutboxEntry(
                    job=step.job,
                    position=position,
                    key=step.key,
                    line=step.line,
                    result=step.result or b"",
                    **rows.outbox_facts(out),
                )

    def append(
        self, at: float, kind: str, state: str, positions: tuple[int, ...], data: Mapping[str, Any]
    ) -> JobEvent:
        """Add an event to its history."""
        self.last += 1
        event = JobEvent(
            job=self.new.id, seq=self.last, at=at, kind=kind, state=str(state), positions=positions, data=data
        )
        self.fresh.append(event)
        return event

    def send_back(self, entry: OutboxEntry) -> None:
        """Keep what became of a write-back."""
        super().send_back(entry)
        if entry.position in self.outbox:
            self.touched.add(entry.position)

    def groups(self, apart: Callable[[bytes], str]) -> dict[int, bytes]:
        """Return the groups of steps that have changed, as they are to be written."""
        found: dict[int, bytes] = {}
        for group in sorted({position // rows.GROUP for position in self.touched}):
            first = group * rows.GROUP
            last = min(first + rows.GROUP, len(self.steps))
            for position in range(first, last):
                self.steps[position] = rows.moved(self.steps[position], apart)
            found[group] = rows.pack([self._row(position) for position in range(first, last)])
        return found

    def head(self) -> dict[str, Any]:
        """Return all of it that is not a step's."""
        return head(self.record, tolerated=self._tolerated, free_at=self.free_at, latest=self.latest) | {
            "revs": self.revs,
            "parts": self.parts,
        }

    def settled(self) -> None:
        """Note that all of it was written."""
        self.touched, self.fresh = set(), []

    def index(self, at: float) -> dict[str, Any]:
        """Return what finds it among the open jobs: whether it has work, when it is due, who holds steps of it."""
        holders, retries, deadlines = set[str](), list[float](), list[float]()
        free, goes = False, self.goes
        for step, waits in zip(self.steps, self.waits, strict=True):
            if step.state is StepState.PENDING:
                if goes and step.due_at > at:
                    retries.append(step.due_at)
                free = free or not waits
            elif step.worker is not None:
                holders.add(step.worker)
        deadlines += [limit for _, limit in self._deadlines()]
        deadlines += [limit for limit in self._limits() if limit is not None]
        return {
            "job": self.new.id,
            "handler": self.new.handler,
            "free": free and goes,
            "holders": sorted(holders),
            "limit": min(deadlines, default=None),
            "retries": nsmallest(MOST_RETRIES, set(retries)),
            "owes": self.owes(),
        }

    @property
    def open(self) -> bool:
        """Whether anybody must still find it: it goes on, somebody holds a step of it, or a result waits."""
        return self.state not in JOB_ENDS or self.counts.running > 0 or self.owes()

    def _row(self, position: int) -> Any:
        step, out = self.steps[position], self.outbox.get(position)
        told = None if out is None else [out.state.value, out.attempts, out.due_at, out.error]
        return rows.row(step, self.waits[position], told)

    def _put(self, step: StepRecord) -> None:
        self.touched.add(step.position)
        super()._put(step)

    def _let_go(self, step: StepRecord, state: StepState) -> list[StepRecord]:
        self.touched.update(self.dependants[step.position])
        return super()._let_go(step, state)


def head(record: JobRecord, *, tolerated: int, free_at: float, latest: float) -> dict[str, Any]:
    """Return what the head of a job says."""
    counts = record.counts
    names = ("pending", "running", "succeeded", "failed", "timed_out", "needs_review", "cancelled", "skipped")
    return {
        "new": rows.spec(record.new),
        "state": record.state.value,
        "version": record.version,
        "counts": {name: getattr(counts, name) for name in (*names, "in_flight")},
        "total": counts.total,
        "created_at": record.created_at,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "expires_at": record.expires_at,
        "ready": record.ready,
        "halted": record.halted,
        "digest": record.digest,
        "preview": None if record.preview is None else dict(record.preview),
        "reason": record.reason,
        "last": record.last_event,
        "tolerated": tolerated,
        "free_at": free_at,
        "latest": latest,
    }


def record_of(said: Mapping[str, Any]) -> JobRecord:
    """Return a job as its head tells it."""
    return JobRecord(
        new=rows.new_job(said["new"]),
        state=rows.state_of(said["state"]),
        version=said["version"],
        counts=Counts(total=said["total"], **said["counts"]),
        created_at=said["created_at"],
        started_at=said["started_at"],
        finished_at=said["finished_at"],
        expires_at=said["expires_at"],
        ready=said["ready"],
        halted=said["halted"],
        digest=said["digest"],
        preview=said["preview"],
        reason=said["reason"],
        last_event=said["last"],
    )


def empty_head(new: NewJob, at: float) -> dict[str, Any]:
    """Return the head of a job that has no steps yet."""
    record = JobRecord(
        new=new,
        state=rows.state_of("pending"),
        version=1,
        counts=Counts(),
        created_at=at,
        expires_at=None if new.expires_in is None else at + new.expires_in,
        ready=new.ready,
    )
    return head(record, tolerated=0, free_at=0.0, latest=at) | {"revs": [], "parts": 0}
