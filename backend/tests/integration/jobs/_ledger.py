"""A store with short words for what tests do to it."""

from collections.abc import Iterable
from typing import Any

from backend.tests.integration.jobs._audit import ALL, audited, check, dump
from backend.tests.integration.jobs._homes import Home
from holdfast.infrastructure.store.state import (
    Advanced,
    JobRecord,
    JobState,
    NewJob,
    NewStep,
    Outcome,
    StateStore,
    StepRecord,
    StepRef,
    StepState,
    WorkerRecord,
)
from holdfast.testing.clock import VirtualClock

Steps = int | Iterable[str | NewStep]


def step(key: str, *depends_on: str, **settings: Any) -> NewStep:
    """Return a step that waits for others."""
    return NewStep(key=key, payload=f'"{key}"'.encode(), depends_on=depends_on, **settings)


def made(steps: Steps) -> list[NewStep]:
    """Return steps: so many, or of these keys."""
    keys = [f"s{number}" for number in range(steps)] if isinstance(steps, int) else steps
    return [step(key) if isinstance(key, str) else key for key in keys]


def worker(name: str = "w1", *, pid: int = 1) -> WorkerRecord:
    """Return a worker that has no lease yet."""
    return WorkerRecord(id=name, host="host", pid=pid, born="then", expires_at=0.0)


def ref(record: StepRecord) -> StepRef:
    """Return how its worker names a claimed step."""
    return StepRef(job=record.job, position=record.position, fence=record.fence)


def outcome(which: StepRef, state: StepState = StepState.SUCCEEDED, **settings: Any) -> Outcome:
    """Return how a call ended: well, unless said."""
    return Outcome(ref=which, state=state, **settings)


class Ledger:
    """A tenant's store on the virtual clock; after each change, or at the end, what must always hold is checked."""

    def __init__(self, home: Home, clock: VirtualClock, tenant: str = "default") -> None:
        self.home, self.clock, self.tenant = home, clock, tenant
        self._slow = getattr(home, "slow", False)
        self.store = self._opened()

    def reopen(self) -> None:
        """Open the store anew, as after a crash: nobody closed it."""
        self.store = self._opened()

    def look(self) -> None:
        """Look at a store once that is too slow to be looked at after each change."""
        if self._slow:
            check(dump(self.store))

    def _opened(self) -> StateStore:
        store = self.home.open(self.tenant, clock=self.clock)
        return store if self._slow else audited(store)

    def hire(self, *names: str, lease: float = 60.0) -> None:
        """Register workers."""
        for name in names:
            self.store.register(worker(name), lease)

    def submit(self, job: str = "job", steps: Steps = 3, **settings: Any) -> JobRecord:
        """Store a job."""
        record, new = self.store.create_job(NewJob(id=job, handler="ship", **settings), made(steps))
        assert new
        return record

    def claim(self, name: str = "w1", limit: int = 100, **settings: Any) -> list[StepRef]:
        """Claim steps for a worker, registered for a minute if it is not."""
        if name not in {one.id for one in self.store.workers()}:
            self.hire(name)
        return [ref(record) for record in self.store.claim(name, limit, **settings)]

    def begin(self, *refs: StepRef, by: str = "w1") -> Advanced:
        """Announce calls."""
        return self.store.advance(by, [], refs)

    def start(self, name: str = "w1", limit: int = 100, **settings: Any) -> list[StepRef]:
        """Claim steps and announce their calls."""
        refs = self.claim(name, limit, **settings)
        assert list(self.begin(*refs, by=name).begun) == refs
        return refs

    def end(
        self, which: StepRef, state: StepState = StepState.SUCCEEDED, by: str = "w1", **settings: Any
    ) -> Advanced:
        """Record how one call ended."""
        return self.store.advance(by, [outcome(which, state, **settings)])

    def run(self, *states: StepState, job: str = "job", by: str = "w1") -> list[StepRef]:
        """Make as many calls of a job as there are states, one after the other, which end so."""
        done: list[StepRef] = []
        for state in states:
            [which] = self.start(by, 1, job=job)
            self.end(which, state, by, result=b"1" if state is StepState.SUCCEEDED else None)
            done.append(which)
        return done

    def state(self, job: str = "job") -> JobState:
        """Return a job's state."""
        return self.store.job(job).state

    def states(self, job: str = "job") -> list[StepState]:
        """Return the states of a job's steps, in order."""
        return [one.state for one in self.store.steps(job, limit=ALL)]

    def told(self, job: str = "job", after: int = 0) -> list[tuple[str, str, tuple[int, ...]]]:
        """Return kind, state and positions of a job's events."""
        return [
            (one.kind, one.state, one.positions) for one in self.store.events(job, after=after, limit=ALL)
        ]

    def at(self, position: int = 0, job: str = "job") -> StepRecord:
        """Return a step by its position."""
        return self.store.steps(job, after=position - 1, limit=1)[0]
