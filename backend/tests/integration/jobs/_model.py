"""What whoever watches all workers knows of steps: who has them, how often they were called, how they ended."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from backend.tests.integration.jobs._audit import Dump
from holdfast.infrastructure.store.state import (
    STEP_ENDS,
    Advanced,
    JobState,
    NewStep,
    Outcome,
    Recovered,
    Refusal,
    StepRecord,
    StepRef,
    StepState,
    Swept,
    WorkerRecord,
)

Place = tuple[str, int]


@dataclass
class Known:
    """What is known of one step."""

    key: str
    fence: int = 0
    holder: str | None = None
    begun: bool = False
    attempts: int = 0
    end: tuple[StepState, bytes | None] | None = None


@dataclass
class Model:
    """Kept beside a store, from what its callers were told alone."""

    steps: dict[Place, Known] = field(default_factory=dict[Place, Known])
    jobs: dict[str, None] = field(default_factory=dict[str, None])
    leases: dict[str, float] = field(default_factory=dict[str, float])

    def submitted(self, job: str, steps: Iterable[NewStep]) -> None:
        """A job was stored."""
        self.jobs[job] = None
        self.steps |= {(job, position): Known(step.key) for position, step in enumerate(steps)}

    def deleted(self, job: str) -> None:
        """A job was removed."""
        del self.jobs[job]
        self.steps = {place: known for place, known in self.steps.items() if place[0] != job}

    def leased(self, record: WorkerRecord) -> None:
        """A lease began or was prolonged."""
        self.leases[record.id] = record.expires_at

    def alive(self, worker: str, now: float) -> bool:
        """Return whether a worker has a lease."""
        return self.leases.get(worker, now) > now

    def claimed(self, worker: str, records: Iterable[StepRecord]) -> None:
        """Steps were given to a worker: nobody has them, and their fences are higher than all before."""
        for record in records:
            known = self.steps[record.job, record.position]
            assert (known.holder, known.end) == (None, None)
            assert record.fence > known.fence
            known.holder, known.fence, known.begun = worker, record.fence, False

    def advanced(
        self, worker: str, told: Advanced, outcomes: Iterable[Outcome], begin: Iterable[StepRef]
    ) -> None:
        """Outcomes were recorded and calls announced: of steps that the worker has, and no others."""
        for outcome in outcomes:
            assert (outcome.ref not in told.late) is self.has(worker, outcome.ref), outcome
            if outcome.ref not in told.late:
                self._recorded(outcome)
        for ref in begin:
            assert (told.refused.get(ref) is not Refusal.LOST) is self.has(worker, ref), ref
            assert (ref in told.begun) is not (ref in told.refused), ref
            if ref in told.begun:
                known = self.steps[place_of(ref)]
                known.attempts += not known.begun
                known.begun = True
            elif told.refused[ref] is Refusal.STOPPED:
                self.steps[place_of(ref)].holder = None

    def has(self, worker: str, ref: StepRef) -> bool:
        """Return whether a worker has a step by this very claim."""
        known = self.steps.get(place_of(ref))
        return known is not None and (known.holder, known.fence) == (worker, ref.fence)

    def _recorded(self, outcome: Outcome) -> None:
        known = self.steps[place_of(outcome.ref)]
        known.holder = None
        known.attempts -= outcome.refund and known.begun
        if outcome.state in STEP_ENDS:
            known.end = (outcome.state, outcome.result)

    def released(self, worker: str, refs: Iterable[StepRef]) -> None:
        """A worker handed back what had not begun."""
        for ref in refs:
            if self.has(worker, ref) and not self.steps[place_of(ref)].begun:
                self.steps[place_of(ref)].holder = None

    def dropped(self, worker: str) -> None:
        """A worker came anew: what it had is taken from it."""
        for (job, position), known in self.steps.items():
            if known.holder == worker:
                self._taken(StepRef(job=job, position=position, fence=known.fence))

    def recovered(self, told: Recovered) -> None:
        """Steps were taken from workers: what had begun is ambiguous, unless it may be sent again."""
        for ref in told.returned + told.ambiguous:
            known = self.steps[place_of(ref)]
            assert known.holder is not None
            assert known.begun or ref not in told.ambiguous
            self._taken(ref)
        for worker in told.workers:
            self.leases.pop(worker, None)
            assert all(known.holder != worker for known in self.steps.values())

    def swept(self, told: Swept) -> None:
        """Calls timed out, alone or with their job, whose other claims were taken back."""
        for ref in told.steps:
            assert self.steps[place_of(ref)].begun
            self.steps[place_of(ref)].end = (StepState.TIMED_OUT, None)
            self._taken(ref)
        for (job, position), known in self.steps.items():
            if told.jobs.get(job) is JobState.TIMED_OUT and known.holder is not None:
                self._taken(StepRef(job=job, position=position, fence=known.fence))

    def _taken(self, ref: StepRef) -> None:
        known = self.steps[place_of(ref)]
        assert known.fence == ref.fence
        known.holder, known.fence = None, ref.fence + 1

    def resolved(self, record: StepRecord) -> None:
        """Somebody decided about a step."""
        if record.state in STEP_ENDS:
            self.steps[record.job, record.position].end = (record.state, record.result)

    def skipped(self, job: str, keys: Iterable[str]) -> None:
        """Somebody decided that steps are not to be done: nobody has them, and they had not ended."""
        wanted = set(keys)
        for (of, _), known in self.steps.items():
            if of == job and known.key in wanted:
                assert (known.holder, known.end) == (None, None)
                known.end = (StepState.SKIPPED, None)

    def check(self, dump: Dump) -> None:
        """Check that the store knows the same: no step is lost, none was called more often, none ended otherwise."""
        stored = {(job, step.position): step for job, dumped in dump.jobs.items() for step in dumped.steps}
        assert dump.jobs.keys() == self.jobs.keys()
        assert stored.keys() == self.steps.keys()
        for place, known in self.steps.items():
            step = stored[place]
            expected = (known.key, known.holder, known.fence, known.attempts)
            assert (step.key, step.worker, step.fence, step.attempts) == expected
            assert known.end in {None, (step.state, step.result)}


def place_of(ref: StepRef) -> Place:
    """Return which step a reference names."""
    return ref.job, ref.position
