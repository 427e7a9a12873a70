"""What must hold of every store at any time, looked at after each thing that is done to it."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from holdfast.infrastructure.store.state import (
    JOB_CHANGES,
    JOB_ENDS,
    STEP_CHANGES,
    STEP_ENDS,
    BatchRecord,
    Counts,
    JobEvent,
    JobRecord,
    JobState,
    OutboxEntry,
    OutboxState,
    StateStore,
    StepRecord,
    StepState,
    StoreError,
    WorkerRecord,
    percent,
)

ALL = 100_000
READS = {
    *("batch", "close", "events", "holds", "job", "jobs", "lock", "next_due", "now", "outbox", "owing"),
    *("step", "steps", "wait", "workers"),
}


@dataclass(frozen=True, kw_only=True)
class DumpedJob:
    """All that a store says of one job."""

    record: JobRecord
    steps: list[StepRecord]
    events: list[JobEvent]
    outbox: list[OutboxEntry]


@dataclass(frozen=True, kw_only=True)
class Dump:
    """All that a store says."""

    jobs: dict[str, DumpedJob]
    batches: dict[str, BatchRecord]
    workers: list[WorkerRecord]
    owing: set[str]


def dump(store: StateStore, batches: Sequence[str] = ()) -> Dump:
    """Read a store, whole."""
    return Dump(
        jobs={record.id: dump_job(store, record) for record in store.jobs(limit=ALL)},
        batches={batch: store.batch(batch) for batch in batches},
        workers=store.workers(),
        owing=set(store.owing()),
    )


def dump_job(store: StateStore, record: JobRecord) -> DumpedJob:
    """Read all that belongs to a job."""
    return DumpedJob(
        record=record,
        steps=store.steps(record.id, limit=ALL),
        events=store.events(record.id, limit=ALL),
        outbox=outbox(store, record) if record.new.write_back else [],
    )


def outbox(store: StateStore, record: JobRecord) -> list[OutboxEntry]:
    """Read what goes back to a job's rows."""
    return sorted(store.outbox(record.id, limit=ALL), key=lambda entry: entry.position)


def recount(steps: Sequence[StepRecord]) -> Counts:
    """Count steps anew."""
    states = Counter(step.state.value for step in steps)
    in_flight = sum(step.state is StepState.RUNNING and step.begun for step in steps)
    return Counts(total=len(steps), in_flight=in_flight, **states)


def replayed_job(events: Sequence[JobEvent]) -> JobState:
    """Return the state that a history ends in; each of its changes must be legal."""
    states = [JobState(event.state) for event in events if event.kind == "job"]
    assert states[0] is JobState.PENDING
    for from_, to in itertools.pairwise(states):
        assert to in JOB_CHANGES[from_], f"{from_} → {to}"
    return states[-1]


def replayed_steps(total: int, events: Sequence[JobEvent]) -> list[StepState]:
    """Return the states that a history leaves steps in; each of its changes must be legal."""
    states = [StepState.PENDING] * total
    for event in events:
        for position in event.positions if event.kind == "step" else ():
            from_, to = states[position], StepState(event.state)
            assert to in reachable(from_), f"{event}: {from_} → {to}"
            states[position] = to
    return states


def reachable(from_: StepState) -> frozenset[StepState]:
    """Return what one transaction makes of a step: what would be pending in a cancelled job is cancelled."""
    to = STEP_CHANGES[from_]
    return to | {StepState.CANCELLED} if StepState.PENDING in to else to


def check_job(job: DumpedJob) -> None:
    """Check that counters, history, steps and outbox of a job tell the same."""
    record, steps, events = job.record, job.steps, job.events
    assert record.counts == recount(steps)
    assert record.counts.percent == percent(sum(step.state in STEP_ENDS for step in steps), len(steps))
    assert [event.seq for event in events] == list(range(1, record.last_event + 1))
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert replayed_job(events) is record.state
    assert replayed_steps(len(steps), events) == [step.state for step in steps]
    assert [step.position for step in steps] == list(range(len(steps)))
    assert (record.finished_at is not None) == (record.state in JOB_ENDS)
    for step in steps:
        check_step(step)
    check_outbox(job)


def check_step(step: StepRecord) -> None:
    """Check that the fields of a step agree."""
    assert (step.worker is not None) == (step.state is StepState.RUNNING), step
    assert (step.finished_at is not None) == (step.state in STEP_ENDS), step
    assert not (step.begun and step.state in {StepState.PENDING, StepState.CANCELLED, StepState.SKIPPED}), (
        step
    )
    assert step.fence or step.state is not StepState.RUNNING, step
    assert (step.started_at is not None) >= step.begun, step


def check_outbox(job: DumpedJob) -> None:
    """Check that there is an entry for each result to write back, in the state that the history tells."""
    succeeded = [step for step in job.steps if step.state is StepState.SUCCEEDED and step.result is not None]
    expected = {step.position: OutboxState.PENDING for step in succeeded if job.record.new.write_back}
    for event in job.events:
        if event.kind == "write-back":
            expected |= {position: OutboxState(event.state) for position in event.positions}
    assert {entry.position: entry.state for entry in job.outbox} == expected


def check(now: Dump) -> None:
    """Check all that must hold at any time."""
    for job in now.jobs.values():
        check_job(job)
    owing = {
        name
        for name, job in now.jobs.items()
        if any(entry.state is OutboxState.PENDING for entry in job.outbox)
    }
    assert now.owing == owing
    for name, batch in now.batches.items():
        states = [job.record.state for job in now.jobs.values() if job.record.new.batch == name]
        assert (batch.total, batch.done) == (len(states), sum(state in JOB_ENDS for state in states))


def check_change(before: Dump, after: Dump) -> None:
    """Check all that must hold between two looks: what has ended stays, and numbers rise."""
    for name in before.jobs.keys() & after.jobs.keys():
        old, new = before.jobs[name], after.jobs[name]
        assert new.events[: len(old.events)] == old.events
        assert new.record.version >= old.record.version
        assert old.record.state not in JOB_ENDS or new.record.state is old.record.state
        for was, is_ in zip(old.steps, new.steps, strict=True):
            assert was.state not in STEP_ENDS or is_ == was
            assert is_.fence >= was.fence
            assert is_.history[: len(was.history)] == was.history


class Audited:
    """A store that is looked at after whatever is done to it; what it refuses must leave no trace.

    Nobody else may change it meanwhile. `seen`: the last look.
    """

    def __init__(self, store: StateStore, batches: Sequence[str] = ()) -> None:
        self._store = store
        self._batches = list(batches)
        self.seen = dump(store, batches)

    def __getattr__(self, name: str) -> Any:
        """Give the store's own, with a look around if it changes something."""
        own = getattr(self._store, name)
        if name in READS or not callable(own):
            return own
        return partial(self._done, name, own)

    def _done(self, name: str, own: Callable[..., Any], *args: Any, **settings: Any) -> Any:
        before = self.seen
        try:
            done = own(*args, **settings)
        except StoreError:
            assert dump(self._store, self._batches) == before, f"{name} was refused and changed something"
            raise
        if name == "create_batch":
            self._batches = list(dict.fromkeys([*self._batches, args[0]]))
        self.seen = dump(self._store, self._batches)
        check(self.seen)
        check_change(before, self.seen)
        return done


def audited(store: StateStore) -> StateStore:
    """Return the store as one that is looked at after each change."""
    return cast("StateStore", Audited(store))
