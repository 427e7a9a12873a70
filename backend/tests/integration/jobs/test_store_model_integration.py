"""Every store × random lives of jobs: calls, crashes, lost leases; beside a model, and beside the store in memory."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from backend.tests.integration.jobs._audit import Audited, dump
from backend.tests.integration.jobs._homes import Home
from backend.tests.integration.jobs._ledger import ref, worker
from backend.tests.integration.jobs._model import Model
from holdfast.infrastructure.store.memory import MemoryStateStore
from holdfast.infrastructure.store.state import (
    STEP_CHANGES,
    JobState,
    NewJob,
    NewStep,
    OutboxState,
    Outcome,
    StateStore,
    StepRecord,
    StepRef,
    StepState,
    StoreError,
)
from holdfast.testing.clock import VirtualClock

BATCH = "batch"
WORKERS = ("w1", "w2", "w3")
Shape = list[tuple[set[int], bool]]
Chosen = dict[str, Any]
Operation = Callable[[StateStore], Any]
# Quarters of a second are exact in a float, and so equal in every store.
moments = st.sampled_from([0.25, 1.0, 2.5, 5.0, 20.0])
leases = st.sampled_from([20.0, 60.0, 2.5])
jobs = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.integers(1, 4),
        "ready": st.sampled_from([True, True, False]),
        "idempotent": st.booleans(),
        "stop_after": st.sampled_from([None, 1, 2, 3]),
        "stop_share": st.sampled_from([None, 0.5, 0.0]),
        "concurrency": st.sampled_from([None, 1, 3]),
        "rate": st.sampled_from([None, 0.5, 4.0]),
        "write_back": st.booleans(),
        "expires_in": st.none() | moments,
        "job_timeout": st.sampled_from([None, 60.0, 5.0]),
        "step_timeout": st.sampled_from([None, 20.0, 2.5, 2.5]),
        "batch": st.just(BATCH),
    },
)
orders = st.sampled_from(
    [JobState.PAUSED, JobState.PENDING, "preview", "approve", "delete", JobState.PENDING, *JobState]
)
workers = st.sampled_from(WORKERS)
picks = st.integers(0, 10**6)
few = st.lists(picks, max_size=4, unique=True)
# Of each step: which of those before it it waits for, and whether it must succeed.
shapes = st.lists(st.tuples(st.sets(st.integers(0, 5), max_size=2), st.booleans()), max_size=6)
calls: st.SearchStrategy[Chosen] = st.fixed_dictionaries(
    {
        "state": st.sampled_from(
            [StepState.SUCCEEDED, StepState.PENDING, *sorted(STEP_CHANGES[StepState.RUNNING])]
        ),
        "result": st.sampled_from([None, b"1", b'"two"']),
        "error": st.sampled_from(["", "boom"]),
        "retry_in": st.sampled_from([0.0, 0.0, 5.0]),
        "took": moments,
        "refund": st.sampled_from([False, False, True]),
    }
)


class StoreBesideModel(RuleBasedStateMachine):
    """Do the same to a store and to one in memory, and compare all that they say with each other and the model."""

    def __init__(self, new_home: Callable[[], Home]) -> None:
        super().__init__()
        self.home = new_home()
        self.clock = VirtualClock()
        self.audit = Audited(self.home.open(clock=self.clock))
        self.reference: StateStore = MemoryStateStore(clock=self.clock)
        self.model = Model()
        self.numbers = 0
        self.refs: list[StepRef] = []

    def teardown(self) -> None:
        """Leave nothing open."""
        self.home.close()

    def both(self, operation: Operation) -> Any:
        """Do it to both; return what both say, None if both refuse it alike."""
        said = [tried(operation, store) for store in (cast("StateStore", self.audit), self.reference)]
        assert said[0] == said[1]
        assert self.audit.seen == dump(self.reference, [*self.audit.seen.batches])
        return said[0][1] if said[0][0] is None else None

    @initialize(given=st.lists(st.tuples(shapes.filter(bool), jobs), min_size=1, max_size=2))
    def begin(self, given: list[tuple[Shape, Chosen]]) -> None:
        """Have a batch, jobs and somebody to work."""
        self.both(lambda store: store.create_batch(BATCH))
        for name in WORKERS:
            self.register(name)
        for shape, chosen in given:
            self.store_job(shape, chosen)

    @invariant()
    def look(self) -> None:
        """Compare the store with the model."""
        self.model.check(self.audit.seen)

    @rule(shape=shapes, given=jobs)
    def submit(self, shape: Shape, given: Chosen) -> None:
        """Store a job; a second one under its key is that one."""
        job = self.store_job(shape, given)
        if job is not None:
            again = self.both(lambda store: store.create_job(replace(job, id="other"), []))
            assert (again[0].id, again[1]) == (job.id, False)

    @rule(name=workers, limit=st.integers(1, 5), ends=st.lists(calls, min_size=1, max_size=5))
    def work(self, name: str, limit: int, ends: list[Chosen]) -> None:
        """A worker does what workers do: it claims, begins, ends what it began, and goes on with the rest."""
        if not self.model.alive(name, self.clock.time()):
            self.register(name)
        refs = self.take(name, limit)
        begun = self.tell(name, [], refs)
        outcomes = [Outcome(ref=one, **call) for one, call in zip(begun, ends, strict=False)]
        self.tell(name, outcomes, [one for one in refs if one not in begun])

    @rule(name=workers, limit=st.integers(0, 4))
    def claim(self, name: str, limit: int) -> None:
        """A worker asks for steps, and nothing more."""
        self.take(name, limit)

    @precondition(lambda self: self.refs)
    @rule(name=workers, ends=st.lists(st.tuples(picks, calls), max_size=3), begin=few)
    def advance(self, name: str, ends: list[tuple[int, Chosen]], begin: list[int]) -> None:
        """A worker tells how calls ended, and announces others: its own, or anybody's, now or once."""
        told = {self.pick(number): call for number, call in ends}
        outcomes = [Outcome(ref=one, **call) for one, call in told.items()]
        self.tell(name, outcomes, list(dict.fromkeys(map(self.pick, begin))))

    @rule(name=workers, how=st.sampled_from(["register", "renew", "release", "retire"]), lease=leases)
    def come_or_go(self, name: str, how: str, lease: float) -> None:
        """A worker comes, lives on, hands back what it can, or goes."""
        if how == "register":
            self.register(name, lease)
        elif how == "retire":
            self.model.recovered(self.both(lambda store: store.retire(name)))
        elif how == "release":
            refs = self.refs[-4:]
            if self.leased(name, lambda store: released(store, name, refs)):
                self.model.released(name, refs)
        elif renewed := self.leased(name, lambda store: store.renew(name, lease)):
            self.model.leased(renewed)

    @rule(seconds=moments, watched=st.booleans())
    def let_pass(self, seconds: float, *, watched: bool) -> None:
        """Time passes: leases end, retries and limits come due; perhaps a watchdog sees it at once."""
        self.clock.advance(seconds)
        self.both(lambda store: store.next_due())
        if watched:
            self.model.swept(self.both(lambda store: store.sweep()))

    @rule(gone=st.sets(workers, max_size=1), limit=st.sampled_from([1000, 2, 1]))
    def watch(self, gone: set[str], limit: int) -> None:
        """A watchdog takes from whoever is gone, and ends what is past its limit."""
        for name in gone:
            self.model.leases.pop(name, None)
        self.model.recovered(self.both(lambda store: store.recover(sorted(gone), limit)))
        self.model.swept(self.both(lambda store: store.sweep(limit)))

    @rule(most=st.sampled_from([None, 1, 2, 4]))
    def bound(self, most: int | None) -> None:
        """Somebody bounds the calls of all jobs together, or lifts that."""
        self.both(lambda store: store.set_concurrency(most))

    @rule()
    def crash(self) -> None:
        """The process is gone, without a word; another opens the store."""
        self.audit = Audited(self.home.open(clock=self.clock), [BATCH])
        self.both(lambda store: store.now())

    @precondition(lambda self: self.model.jobs)
    @rule(which=picks, to=orders)
    def order(self, which: int, to: JobState | str) -> None:
        """Somebody wants something of a job: another state, a preview, an approval, its removal."""
        job = self.a_job(which)
        if isinstance(to, JobState):
            self.both(lambda store: store.change_job(job, to, reason="so"))
        elif to == "preview":
            self.both(lambda store: store.preview_job(job, "d", {"total": 1}))
        elif to == "approve":
            self.both(lambda store: store.approve_job(job, "d" if which % 4 else "other"))
        else:
            ended = self.reference.job(job).finished_at is not None
            self.both(lambda store: store.delete_job(job))
            if ended:
                self.model.deleted(job)

    @precondition(lambda self: self.reviews())
    @rule(which=picks, to=st.sampled_from(sorted(STEP_CHANGES[StepState.NEEDS_REVIEW])))
    def resolve(self, which: int, to: StepState) -> None:
        """Somebody decides about a step that needs it."""
        job, key = self.reviews()[which % len(self.reviews())]
        self.model.resolved(self.both(lambda store: store.resolve(job, key, to, result=b"2", by="ann")))

    @precondition(lambda self: self.model.jobs)
    @rule(which=picks, numbers=st.lists(st.integers(0, 6), min_size=1, max_size=3))
    def skip(self, which: int, numbers: list[int]) -> None:
        """Somebody decides that steps are not to be done: what waits, or anything."""
        job = self.a_job(which)
        waiting = [one.key for one in self.reference.steps(job, states=[StepState.PENDING])]
        keys = [waiting[one % len(waiting)] if waiting and which % 4 else f"s{one}" for one in numbers]
        if self.both(lambda store: store.skip(job, keys, reason="so", by="ann")) is not None:
            self.model.skipped(job, keys)

    @rule(certain=st.integers(0, 9))
    def cancel_batch(self, certain: int) -> None:
        """The whole batch is cancelled, now and then."""
        if certain == 7:
            self.both(lambda store: store.cancel_batch(BATCH))

    @precondition(lambda self: self.reference.owing())
    @rule(state=st.sampled_from(OutboxState), wait=st.sampled_from([0.0, 5.0]))
    def write_back(self, state: OutboxState, wait: float) -> None:
        """Somebody writes results back, or fails to."""
        job = self.reference.owing()[0]
        due_at = self.clock.time() + wait
        entries = self.both(lambda store: store.outbox(job, limit=2))
        told = [replace(one, state=state, attempts=one.attempts + 1, due_at=due_at) for one in entries]
        self.both(lambda store: store.settle_outbox(told))

    @rule(name=workers, lease=moments, dirty=st.booleans())
    def lock(self, name: str, lease: float, *, dirty: bool) -> None:
        """A lock is taken, perhaps marked, and given back if it can be."""
        lock = self.both(lambda store: store.acquire("run", name, lease))
        if dirty:
            self.both(lambda store: store.mark_dirty("run"))
        if lock is not None:
            self.both(lambda store: store.unlock(lock))
            self.both(lambda store: store.clear_dirty(lock))

    def store_job(self, shape: Shape, given: Chosen) -> NewJob | None:
        """Store a job whose steps wait for some before them; return it unless it is refused."""
        self.numbers += 1
        job = NewJob(id=f"j{self.numbers}", handler="ship", dedup_key=f"k{self.numbers}", **given)
        steps = [
            NewStep(
                key=f"s{n}",
                payload=b"{}",
                depends_on=tuple(f"s{one}" for one in sorted(before) if one < n),
                must_succeed=must,
            )
            for n, (before, must) in enumerate(shape)
        ]
        if self.both(lambda store: store.create_job(job, steps)) is None:
            return None
        self.model.submitted(job.id, steps)
        return job

    def take(self, name: str, limit: int) -> list[StepRef]:
        """Let a worker claim."""
        records: list[StepRecord] = self.leased(name, lambda store: claimed(store, name, limit)) or []
        self.model.claimed(name, records)
        refs = [ref(record) for record in records]
        self.refs += refs
        return refs

    def tell(self, name: str, outcomes: list[Outcome], begin: list[StepRef]) -> list[StepRef]:
        """Let a worker tell how calls ended, and announce others; return which may begin."""
        told = self.leased(name, lambda store: store.advance(name, outcomes, begin))
        if told is None:
            return []
        self.model.advanced(name, told, outcomes, begin)
        return list(told.begun)

    def leased(self, name: str, operation: Operation) -> Any:
        """Do something that needs a lease: it is refused if there is none, and only then."""
        alive = self.model.alive(name, self.clock.time())
        done = self.both(operation)
        assert (done is not None) is alive
        return done

    def register(self, name: str, lease: float = 60.0) -> None:
        """Let a worker come; what is held in its name is taken back."""
        record = self.both(lambda store: store.register(worker(name), lease))
        self.model.dropped(name)
        self.model.leased(record)

    def reviews(self) -> list[tuple[str, str]]:
        """Return the steps that need review."""
        wanted = [StepState.NEEDS_REVIEW]
        return [(job, one.key) for job in self.model.jobs for one in self.reference.steps(job, states=wanted)]

    def pick(self, number: int) -> StepRef:
        """Return a claim, one of the latest."""
        return self.refs[-1 - number % min(len(self.refs), 8)]

    def a_job(self, number: int) -> str:
        """Return the id of a job."""
        names = list(self.model.jobs)
        return names[number % len(names)]


def tried(operation: Operation, store: StateStore) -> tuple[type | None, Any]:
    """Return what an operation gives, or how it is refused."""
    try:
        return None, operation(store)
    except StoreError as error:
        return type(error), error.args


def claimed(store: StateStore, name: str, limit: int) -> list[StepRecord]:
    """Return claimed steps; whether they name their dependencies is left to the store."""
    return [replace(record, depends_on=()) for record in store.claim(name, limit)]


def released(store: StateStore, name: str, refs: list[StepRef]) -> bool:
    """Hand back steps; say that it was done."""
    store.release(name, refs)
    return True


# Examples and steps of each: a few seconds, unless more are wanted.
EXAMPLES = {"memory": 80, "sqlite": 12, "postgresql": 6, "yours": 12}
MORE = int(os.environ.get("HOLDFAST_MODEL_EXAMPLES", "0"))
# The shortest life that fails is worth minutes to who looks for it, and to nobody else.
SHRINK = os.environ.get("HOLDFAST_MODEL_SHRINK") == "1"


def test_a_store_keeps_to_the_model(new_home: Callable[[], Home], store_kind: str) -> None:
    """Whatever happens, it is what the store in memory says, and what its callers were told."""
    profile = settings(
        max_examples=MORE or EXAMPLES[store_kind],
        stateful_step_count=40,
        deadline=None,
        phases=[phase for phase in Phase if SHRINK or phase is not Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    run_state_machine_as_test(partial(StoreBesideModel, new_home), settings=profile)  # type: ignore[arg-type]
