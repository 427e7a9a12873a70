"""One job in memory: its steps, counters and history, and how each change of them is made."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.store import _decide as decide
from holdfast.infrastructure.store._changes import Changes, Told
from holdfast.infrastructure.store.state import (
    JOB_ENDS,
    STEP_ENDS,
    Attempt,
    Counts,
    JobEvent,
    JobRecord,
    JobState,
    NewJob,
    NewStep,
    OutboxEntry,
    OutboxState,
    Refusal,
    StepRecord,
    StepRef,
    StepState,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from holdfast.infrastructure.store.state import Outcome


@dataclass(slots=True)
class MemoryJob:
    """A job and all that belongs to it; the store's lock is held around every method."""

    new: NewJob
    number: int
    created_at: float
    expires_at: float | None
    ready: bool
    state: JobState = JobState.PENDING
    version: int = 1
    started_at: float | None = None
    finished_at: float | None = None
    halted: bool = False
    digest: str | None = None
    preview: Mapping[str, Any] | None = None
    reason: str = ""
    free_at: float = 0.0
    steps: list[StepRecord] = field(default_factory=list[StepRecord])
    positions: dict[str, int] = field(default_factory=dict[str, int])
    waits: list[int] = field(default_factory=list[int])
    dependants: list[list[int]] = field(default_factory=list[list[int]])
    events: list[JobEvent] = field(default_factory=list[JobEvent])
    outbox: dict[int, OutboxEntry] = field(default_factory=dict[int, OutboxEntry])
    changes: Changes = field(default_factory=Changes)
    _counted: Counter[str] = field(default_factory=Counter[str])
    _tolerated: int = 0

    @property
    def counts(self) -> Counts:
        """How many steps are in which state."""
        return Counts(total=len(self.steps), **self._counted)

    @property
    def record(self) -> JobRecord:
        """The job as callers see it."""
        return JobRecord(
            new=self.new,
            state=self.state,
            version=self.version,
            counts=self.counts,
            created_at=self.created_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            expires_at=self.expires_at,
            ready=self.ready,
            halted=self.halted,
            digest=self.digest,
            preview=self.preview,
            reason=self.reason,
            last_event=len(self.events),
        )

    @property
    def goes(self) -> bool:
        """Whether its steps may be claimed and begin."""
        return decide.runs(self.state, ready=self.ready, halted=self.halted)

    def add(self, steps: Sequence[NewStep]) -> None:
        """Give it its steps."""
        self.positions = {step.key: position for position, step in enumerate(steps)}
        self.waits = [len(set(step.depends_on)) for step in steps]
        self.dependants = [[] for _ in steps]
        for position, step in enumerate(steps):
            for key in set(step.depends_on):
                self.dependants[self.positions[key]].append(position)
        self.steps = [_stored(self.new, position, step) for position, step in enumerate(steps)]
        self._counted["pending"] = len(steps)

    def held_by(self, worker: str) -> Iterator[StepRecord]:
        """Yield the steps that a worker holds."""
        return (step for step in self.steps if step.worker == worker)

    def claimable(self, at: float) -> Iterator[StepRecord]:
        """Yield the steps that may run."""
        if self.goes:
            for step, waits in zip(self.steps, self.waits, strict=True):
                if step.state is StepState.PENDING and not waits and step.due_at <= at:
                    yield step

    def current(self, ref: StepRef, worker: str) -> StepRecord | None:
        """Return the step that a worker holds by this very claim."""
        if not 0 <= ref.position < len(self.steps):
            return None
        step = self.steps[ref.position]
        return step if (step.worker, step.fence) == (worker, ref.fence) else None

    def claim(self, step: StepRecord, worker: str, at: float) -> StepRecord:
        """Lease a step; the first claim makes the job running."""
        self._start(at)
        claimed = replace(step, state=StepState.RUNNING, worker=worker, fence=step.fence + 1)
        self._put(claimed)
        self.changes.step(step.position, StepState.RUNNING, worker=worker)
        return claimed

    def begin(self, step: StepRecord, at: float, *, full: bool) -> tuple[Refusal | None, float]:
        """Announce the call of a claimed step, or say why not and for how long."""
        if step.begun:
            return None, 0.0
        wait, free_at = decide.pace(self.free_at, at, self.new.rate) if self.new.rate else (0.0, 0.0)
        refused = decide.refusal(self.new, self.counts, goes=self.goes, full=full, wait=wait)
        if refused is Refusal.STOPPED:
            self.hand_back(step, at)
        if refused is None:
            self._start(at)
            self.free_at = free_at
            self._put(replace(step, begun=True, attempts=step.attempts + 1, started_at=at))
        return refused, wait

    def record_outcome(self, step: StepRecord, outcome: Outcome, at: float) -> None:
        """Keep how the call of a step ended."""
        to, error = outcome.state, outcome.error
        told = Told(step.attempts, outcome.took, error)
        unsettled = "retry" if to is StepState.PENDING else to.value
        history = step.history if outcome.refund else _told(step, at, unsettled, error)
        counted = replace(step, attempts=step.attempts - (outcome.refund and step.begun))
        if to is StepState.PENDING:
            due_at = at + outcome.retry_in
            self.hand_back(counted, at, told=told, due_at=due_at, error=error, history=history)
        elif to is StepState.NEEDS_REVIEW:
            self._review(counted, told, history=history, result=outcome.result)
        else:
            self.end(counted, to, at, told=told, result=outcome.result)

    def record_late(self, outcome: Outcome, worker: str) -> None:
        """Keep that an outcome came too late."""
        position = outcome.ref.position
        if 0 <= position < len(self.steps):
            told = Told(self.steps[position].attempts, outcome.took, outcome.error)
            self.changes.step(position, outcome.state, told=told, worker=worker, kind="late")

    def end(
        self,
        step: StepRecord,
        state: StepState,
        at: float,
        *,
        told: Told,
        result: bytes | None = None,
        by: str | None = None,
    ) -> None:
        """End a step, and what must fail with it, to a fixed point."""
        worker, ending = step.worker, [(step, state, told)]
        for ended, to, why in ending:
            if self.steps[ended.position].state in STEP_ENDS:
                continue
            self._put(replace(ended, state=to, worker=None, error=why.error, finished_at=at))
            self.changes.step(ended.position, to, told=why, worker=worker, by=by)
            error = decide.dependency_error(ended.key, to)
            ending += [
                (one, StepState.FAILED, Told(one.attempts, 0.0, error)) for one in self._let_go(ended, to)
            ]
        self._put(replace(self.steps[step.position], result=result))
        self._send_back(self.steps[step.position])

    def hand_back(
        self, step: StepRecord, at: float, *, told: Told | None = None, by: str | None = None, **changes: Any
    ) -> None:
        """Let a step run again, unless the job was cancelled."""
        to = decide.handed_back(self.state)
        finished_at = at if to in STEP_ENDS else None
        back = replace(step, state=to, worker=None, begun=False, started_at=None, finished_at=finished_at)
        self._put(replace(back, **changes))
        self.changes.step(step.position, to, told=told, worker=step.worker, by=by)

    def take(self, step: StepRecord, at: float) -> bool:
        """Take a step from a worker whose lease has ended; return whether it needs review."""
        history = _told(step, at, "lease lost", "")
        taken = replace(step, fence=step.fence + 1)
        if not decide.ambiguous(self.new, begun=step.begun):
            self.hand_back(taken, at, history=history)
            return False
        told = Told(step.attempts, _took(step, at), decide.lease_lost(step.worker))
        self._review(taken, told, history=history)
        return True

    def resolve(
        self, step: StepRecord, to: StepState, at: float, *, result: bytes | None, error: str, by: str
    ) -> None:
        """End a step that needs review as a person or program decides, or let it run again."""
        if to is StepState.PENDING:
            self.hand_back(step, at, told=Told(step.attempts, 0.0, error), by=by, error=error)
        else:
            self.end(step, to, at, told=Told(step.attempts, 0.0, error), result=result, by=by)

    def overdue(self, at: float) -> bool:
        """Return whether it has expired or timed out."""
        return any(limit is not None and limit <= at for limit in self._limits())

    def overdue_steps(self, at: float) -> list[StepRecord]:
        """Return the steps whose calls have timed out."""
        return [step for step, limit in self._deadlines() if limit <= at]

    def due(self, at: float) -> Iterator[float]:
        """Yield when something will be due: its end, the end of a call, or another try."""
        yield from (limit for limit in self._limits() if limit is not None)
        yield from (limit for _, limit in self._deadlines())
        if self.goes:
            pending = (step for step in self.steps if step.state is StepState.PENDING)
            yield from (step.due_at for step in pending if step.due_at > at)

    def time_out_step(self, step: StepRecord, at: float, error: str | None = None) -> StepRef:
        """End a call that took too long, whoever makes it."""
        limit = self.new.step_timeout if step.timeout is None else step.timeout
        told = Told(step.attempts, _took(step, at), error or decide.timed_out("step", limit))
        self.end(replace(step, fence=step.fence + 1), StepState.TIMED_OUT, at, told=told)
        return StepRef(job=step.job, position=step.position, fence=step.fence)

    def give_up(self, at: float) -> list[StepRef]:
        """Expire, or time out with all calls under way; return which those are."""
        if self.state is not JobState.RUNNING:
            self.move(JobState.EXPIRED, at, reason=decide.expired(self.new.expires_in))
            return []
        error = decide.timed_out("job", self.new.job_timeout)
        running = [step for step in self.steps if step.state is StepState.RUNNING]
        for step in running:
            if not step.begun:
                self.hand_back(replace(step, fence=step.fence + 1), at)
        stopped = [self.time_out_step(step, at, error) for step in running if step.begun]
        self.move(JobState.TIMED_OUT, at, reason=error)
        return stopped

    def owes(self) -> bool:
        """Return whether results wait to be written back."""
        return any(entry.state is OutboxState.PENDING for entry in self.outbox.values())

    def send_back(self, entry: OutboxEntry) -> None:
        """Keep what became of a write-back; one that was written stays so."""
        known = self.outbox.get(entry.position)
        if known is None or known.state is OutboxState.WRITTEN:
            return
        self.outbox[entry.position] = replace(
            known, state=entry.state, attempts=entry.attempts, due_at=entry.due_at, error=entry.error
        )
        told = Told(entry.attempts, 0.0, entry.error)
        self.changes.step(entry.position, entry.state, told=told, kind="write-back")

    def _limits(self) -> tuple[float | None, float | None]:
        expires = decide.expires(self.state, self.expires_at)
        return expires, decide.job_deadline(self.new, self.state, self.started_at)

    def _deadlines(self) -> Iterator[tuple[StepRecord, float]]:
        for step in self.steps:
            limit = decide.step_deadline(self.new, step.timeout, step.started_at)
            if step.state is StepState.RUNNING and limit is not None:
                yield step, limit

    def move(self, to: JobState, at: float, *, reason: str = "", digest: str = "") -> None:
        """Change its state; a cancelled one cancels what is pending."""
        self._become(to, at)
        self.reason = reason or self.reason
        if to is JobState.CANCELLED:
            for step in [step for step in self.steps if step.state is StepState.PENDING]:
                self.hand_back(step, at)
        self.changes.job(to, reason=reason, digest=digest)

    def halt(self) -> None:
        """Halt it if its failures reach what its error policy bears."""
        if self.halted or self.state in JOB_ENDS or not decide.halts(self.new, self.counts):
            return
        self.halted = True
        self.version += 1
        self.changes.note("halted")

    def follow(self, at: float) -> None:
        """End it if nothing is left to do, and give its history what changed."""
        for to in decide.ends(
            self.state,
            self.counts,
            ready=self.ready,
            halted=self.halted,
            tolerated=self._tolerated,
            whole=self.new.whole,
        ):
            self.move(to, at)
        for change in self.changes.events():
            self.append(at, *change)
        self.changes = Changes()

    def append(
        self, at: float, kind: str, state: str, positions: tuple[int, ...], data: Mapping[str, Any]
    ) -> JobEvent:
        """Add an event to its history."""
        number = len(self.events) + 1
        event = JobEvent(
            job=self.new.id, seq=number, at=at, kind=kind, state=str(state), positions=positions, data=data
        )
        self.events.append(event)
        return event

    def _start(self, at: float) -> None:
        if self.state is JobState.PENDING:
            self._become(JobState.RUNNING, at)
            self.changes.start(JobState.RUNNING)

    def _become(self, to: JobState, at: float) -> None:
        self.state = to
        self.version += 1
        if to is JobState.RUNNING and self.started_at is None:
            self.started_at = at
        if to in JOB_ENDS:
            self.finished_at = at

    def _review(self, step: StepRecord, told: Told, **changes: Any) -> None:
        self._put(replace(step, state=StepState.NEEDS_REVIEW, worker=None, error=told.error, **changes))
        self.changes.step(step.position, StepState.NEEDS_REVIEW, told=told, worker=step.worker)

    def _let_go(self, step: StepRecord, state: StepState) -> list[StepRecord]:
        """Free what depends on a step that has ended, or return it if it must fail."""
        dependants = self.dependants[step.position]
        if decide.blocks(state, must_succeed=step.must_succeed):
            return [self.steps[dependant] for dependant in dependants]
        for dependant in dependants:
            self.waits[dependant] -= 1
        return []

    def _send_back(self, step: StepRecord) -> None:
        if self.new.write_back and step.state is StepState.SUCCEEDED and step.result is not None:
            self.outbox[step.position] = OutboxEntry(
                job=step.job, position=step.position, key=step.key, line=step.line, result=step.result
            )

    def _put(self, step: StepRecord) -> None:
        """Replace a step: the only place where the counters change."""
        self._count(self.steps[step.position], -1)
        self._count(step, 1)
        self.steps[step.position] = step

    def _count(self, step: StepRecord, by: int) -> None:
        self._counted[step.state] += by
        self._counted["in_flight"] += by * (step.state is StepState.RUNNING and step.begun)
        failed = step.state in {StepState.FAILED, StepState.TIMED_OUT}
        self._tolerated += by * (failed and not step.must_succeed)


def _took(step: StepRecord, at: float) -> float:
    return 0.0 if step.started_at is None else at - step.started_at


def _told(step: StepRecord, at: float, outcome: str, error: str) -> tuple[Attempt, ...]:
    """Return the history of a step with the call that has just ended without settling it, if there was one."""
    if not step.begun:
        return step.history
    attempt = Attempt(
        number=step.attempts,
        worker=step.worker or "",
        started_at=at if step.started_at is None else step.started_at,
        ended_at=at,
        outcome=outcome,
        error=error,
    )
    return (*step.history, attempt)


def _stored(job: NewJob, position: int, step: NewStep) -> StepRecord:
    return StepRecord(
        job=job.id,
        origin=job.origin or job.id,
        position=position,
        key=step.key,
        line=step.line,
        payload=step.payload,
        state=StepState.PENDING,
        must_succeed=step.must_succeed,
        timeout=step.timeout,
        target=step.target,
        depends_on=tuple(step.depends_on),
    )
