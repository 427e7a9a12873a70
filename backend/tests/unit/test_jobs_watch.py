"""What `holdfast jobs watch` waits for, and what exit codes say of results that are not written back."""

from dataclasses import replace

import pytest

from backend.tests.integration.jobs._ledger import made, outcome, ref, worker
from holdfast.cli import _jobs_live, _jobs_show
from holdfast.cli._exit import Code
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.store.memory import MemoryStateStore
from holdfast.infrastructure.store.state import Counts, JobState, NewJob, OutboxState
from holdfast.services.jobs.progress import Progress
from holdfast.testing.clock import VirtualClock


@pytest.mark.parametrize(
    ("unwritten", "dead", "code"),
    [(0, 0, Code.FINE), (2, 0, Code.NOT_ENDED), (0, 2, Code.WANTING), (2, 2, Code.WANTING)],
)
def test_a_job_is_done_when_its_results_are_written_back(unwritten: int, dead: int, code: Code) -> None:
    """All rows succeeded: 0 if results are written back, 6 while some wait for it, 1 if some cannot be."""
    counts = Counts(total=3, succeeded=3)
    now = Progress(
        job="job", name="", state=JobState.SUCCEEDED, counts=counts, unwritten=unwritten, dead=dead
    )
    assert _jobs_show.code(now) is code
    assert _jobs_show.code(replace(now, state=JobState.FAILED)) is Code.WANTING


def test_a_watch_ends_when_results_are_written_back() -> None:
    """A job whose rows have all succeeded is watched on until what it owes is written."""
    clock = VirtualClock()
    store = MemoryStateStore(clock=clock)
    store.create_job(NewJob(id="job", handler="ship", write_back=True), made(2))
    store.register(worker("w1"), 3600.0)
    refs = [ref(step) for step in store.claim("w1", 2)]
    store.advance("w1", (), refs)
    store.advance("w1", [outcome(one, result=b"1") for one in refs])

    def write() -> None:
        clock.sleep(5.0)
        store.settle_outbox([replace(one, state=OutboxState.WRITTEN) for one in store.outbox("job")])

    def watch() -> tuple[int, float]:
        now = _jobs_live.watch(store, "job", _jobs_live.Nothing(), 0.5)
        return now.unwritten, clock.elapsed

    with use_clock(clock):
        (seen, _) = clock.run_threads(watch, write)
    assert seen == (0, 5.0)
