"""A store with more jobs than are read at once."""

from backend.tests.integration.jobs._ledger import made, outcome, ref, worker
from holdfast.infrastructure.store.memory import MemoryStateStore
from holdfast.infrastructure.store.state import NewJob, StepState
from holdfast.services.jobs import Jobs
from holdfast.testing.clock import VirtualClock


def test_the_oldest_of_very_many_jobs_is_not_forgotten() -> None:
    """What a dead worker left behind, and what needs review, is found however many jobs came later."""
    clock = VirtualClock()
    store = MemoryStateStore(clock=clock)
    store.create_job(NewJob(id="first", handler="ship"), made(2))
    store.register(worker("w1"), 10.0)
    doubtful, held = [ref(step) for step in store.claim("w1", 2)]
    store.advance("w1", (), [doubtful, held])
    store.advance("w1", [outcome(doubtful, StepState.NEEDS_REVIEW)])
    for number in range(10_001):
        store.create_job(NewJob(id=f"later-{number}", handler="ship"), made(1))
    clock.advance(20.0)

    jobs = Jobs(store)
    assert [(one.job.id, one.held, one.review) for one in jobs.interrupted()] == [("first", 1, 1)]
    assert [(step.job, step.position) for step in jobs.review()] == [("first", doubtful.position)]
