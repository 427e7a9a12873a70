"""Stores × graphs: what a store makes of results is what the pure evaluation says, whatever the graph."""

from itertools import count

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.tests.integration.jobs._homes import Home
from backend.tests.properties._graphs import RESULTS, graphs
from holdfast.infrastructure.store.graph import evaluate, status_of
from holdfast.infrastructure.store.memory import MemoryStateStore
from holdfast.infrastructure.store.state import (
    JOB_ENDS,
    NewJob,
    NewStep,
    Outcome,
    StateStore,
    StepRecord,
    StepRef,
    StepState,
    WorkerRecord,
)

NUMBERS = count()
CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
WORKER = WorkerRecord(id="worker", host="", pid=0, born="", expires_at=0.0)


def ref(step: StepRecord) -> StepRef:
    """Return a claimed step's reference."""
    return StepRef(job=step.job, position=step.position, fence=step.fence)


def check(store: StateStore, steps: list[StepRecord], data: st.DataObject) -> None:
    """Give results in random groups; after each, compare every state and error, what is ready, and the end."""
    store.register(WORKER, 1e6)
    job = f"graph-{next(NUMBERS)}"
    new = [
        NewStep(key=one.key, payload=b"", depends_on=one.depends_on, must_succeed=one.must_succeed)
        for one in steps
    ]
    store.create_job(NewJob(id=job, handler="graph", whole=True), new)
    while True:
        claimed = store.claim("worker", 1000, job=job)
        expected = evaluate(store.steps(job), {}).ready
        assert expected == ()
        store.advance("worker", [], [ref(one) for one in claimed])
        before = {one.key: one for one in store.steps(job)}
        running = sorted(one.key for one in before.values() if one.state is StepState.RUNNING)
        if not running:
            break
        arriving = sorted(data.draw(st.sets(st.sampled_from(running), min_size=1)))
        results = {key: data.draw(st.sampled_from(RESULTS)) for key in arriving}
        found = evaluate(before.values(), results)
        store.advance(
            "worker", [Outcome(ref=ref(before[key]), state=state) for key, state in results.items()], []
        )
        after = {one.key: one for one in store.steps(job)}
        changed = {key: one.state for key, one in after.items() if one.state is not before[key].state}
        assert changed == found.changes
        # Of several that block, either may name any.
        assert {key for key in changed if after[key].error.startswith("dependency")} == set(found.errors)
        ended = store.job(job).state if store.job(job).state in JOB_ENDS else None
        assert ended == found.status
    assert store.job(job).state == status_of(store.steps(job))


@settings(deadline=None)
@given(graphs(), st.data())
def test_a_store_and_the_evaluation_agree(steps: list[StepRecord], data: st.DataObject) -> None:
    """In memory."""
    check(MemoryStateStore(), steps, data)


@settings(max_examples=15, deadline=None, suppress_health_check=CHECKS)
@given(graphs(), st.data())
def test_each_kind_of_store_agrees(home: Home, steps: list[StepRecord], data: st.DataObject) -> None:
    """In databases."""
    check(home.open(), steps, data)
