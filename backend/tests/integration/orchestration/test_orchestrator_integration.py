"""Evaluations × results and targets: what a result sets free; what is reserved, dispatched, confirmed, watched."""

import pytest

from backend.tests.integration.orchestration._yard import Yard, order
from holdfast.infrastructure.store.state import JobState, NewJob, NewStep, StepState
from holdfast.services.jobs.graphs import Verdict

S = StepState


def test_the_third_waits_for_both(yard: Yard) -> None:
    """Partial results free nobody who waits for more; the last one does, and the run ends with a summary."""
    run = yard.submit(order("a"), order("b"), order("c", "a", "b"))
    yard.say(run, "a")
    assert yard.states(run) == {"a": S.SUCCEEDED, "b": S.RUNNING, "c": S.PENDING}
    assert yard.puppets.started == ["a", "b"]
    yard.say(run, "b")
    assert yard.puppets.started == ["a", "b", "c"]
    assert not yard.runs.status(run).finished
    yard.say(run, "c")
    view = yard.runs.status(run)
    assert (view.status, view.finished) == (JobState.SUCCEEDED, True)
    done = yard.done(run)
    assert (done["status"], done["counts"]) == ("succeeded", {"succeeded": 3})
    assert yard.ends(run) == ["succeeded"]


def test_the_lock_is_free_after_an_evaluation(yard: Yard) -> None:
    """Whoever comes next gets it at once."""
    run = yard.submit(order("a"))
    lock = yard.store.acquire(f"run/{run}", "next", 1.0)
    assert lock is not None
    assert yard.store.unlock(lock)


def test_the_comment_is_updated_in_place(yard: Yard) -> None:
    """One file tells how the run is, from its submission to its end."""
    run = yard.submit(order("a"), search_tag="tag")
    path = yard.notifier.path("tag")
    assert "**: pending" in path.read_text(encoding="utf-8")
    yard.say(run, "a", "failed", error="exit code 1 | @all")
    assert "**: failed" in path.read_text(encoding="utf-8")
    assert "exit code 1 \\| @\u200ball" in path.read_text(encoding="utf-8")
    assert list(path.parent.iterdir()) == [path]


def test_each_start_is_watched(yard: Yard) -> None:
    """The watchdog of an order is due at its timeout, and finds that it is time then, not before."""
    run = yard.submit(order("a", timeout=60), order("b", timeout=90))
    assert yard.clock is not None
    yard.clock.advance(59)
    assert yard.timer.due(yard.store.now()) == []
    assert yard.runs.watchdog(run, 1) is Verdict.WAIT
    yard.clock.advance(1)
    assert set(yard.timer.due(yard.store.now())) == {(run, 1)}
    assert yard.runs.watchdog(run, 1) is Verdict.TIMED_OUT
    assert yard.runs.watchdog(run, 1) is Verdict.DONE
    assert yard.states(run) == {"a": S.TIMED_OUT, "b": S.RUNNING}
    assert yard.puppets.cancelled == ["a"]


def test_a_watchdog_finds_a_result_whose_event_was_lost(yard: Yard) -> None:
    """It counts as any other, though time is over."""
    run = yard.submit(order("a"))
    yard.blobs.put(f"tmp/callbacks/runs/{run}/0001/result.json", b'{"status": "succeeded"}')
    assert yard.clock is not None
    yard.clock.advance(100)
    assert yard.runs.watchdog(run, 1) is Verdict.DONE
    assert yard.runs.status(run).status is JobState.SUCCEEDED


def test_a_dispatch_error_is_a_failure(yard: Yard) -> None:
    """With what the target said; it falls through to who waits, and the run ends."""
    yard.puppets.errors["a"] = OSError("no route")
    run = yard.submit(order("a"), order("b", "a"), order("c"))
    assert yard.store.step(run, "a").error == "target local did not take it: no route"
    yard.say(run, "c")
    assert yard.states(run) == {"a": S.FAILED, "b": S.FAILED, "c": S.SUCCEEDED}
    assert yard.runs.status(run).status is JobState.FAILED


def test_an_order_whose_dispatch_failed_but_that_runs_is_waited_for(yard: Yard) -> None:
    """The answer was lost, not the order."""
    yard.puppets.errors["a"] = TimeoutError("no answer")
    yard.puppets.lost_answer = True
    run = yard.submit(order("a"))
    assert yard.states(run) == {"a": S.RUNNING}
    yard.say(run, "a")
    assert yard.runs.status(run).status is JobState.SUCCEEDED


def test_an_order_whose_target_has_gone_fails(yard: Yard) -> None:
    """It was there when the run was submitted."""
    run = yard.runs.submit({"user": "a", "label": "b", "repository": "code", "orders": [order("a")]}).run_id
    yard.again(targets={}).evaluate(run)
    assert yard.store.step(run, "a").error == "target local is not there"
    assert yard.runs.status(run).finished


def test_a_full_target_is_asked_again(yard: Yard) -> None:
    """What has no room stays reserved, is not watched as if it ran, and starts with a later evaluation."""
    yard.puppets.room = False
    run = yard.submit(*(order(f"o{one}") for one in range(150)))
    view = yard.runs.status(run)
    assert sum(one.reserved for one in view.orders) == 100
    assert sum(one.state is S.PENDING for one in view.orders) == 50
    yard.puppets.room = True
    yard.runs.evaluate(run)
    assert yard.puppets.started == [f"o{one}" for one in range(150)]
    assert not any(one.reserved for one in yard.runs.status(run).orders)


def test_a_limit_bounds_what_runs_at_once(yard: Yard) -> None:
    """Of one run on one target; each end lets one more start, in order."""
    yard.runs = yard.again(limits={"local": 2})
    run = yard.submit(*(order(name) for name in "abcd"))
    assert yard.puppets.started == ["a", "b"]
    yard.say(run, "b")
    assert yard.puppets.started == ["a", "b", "c"]
    yard.say(run, "a")
    yard.say(run, "c")
    assert yard.puppets.started == ["a", "b", "c", "d"]


@pytest.mark.parametrize("wide", [1, 11, 40])
def test_more_than_ten_start_in_groups(yard: Yard, wide: int) -> None:
    """All that is ready starts in one evaluation, each once."""
    run = yard.submit(
        *(order(f"o{one}") for one in range(wide)), order("last", *(f"o{one}" for one in range(wide)))
    )
    assert yard.puppets.dispatched == [f"o{one}" for one in range(wide)]
    for one in range(wide):
        yard.blobs.put(f"tmp/callbacks/runs/{run}/{one + 1:04}/result.json", b'{"status": "succeeded"}')
    yard.runs.evaluate(run)
    assert yard.puppets.started[-1] == "last"


def test_a_tick_looks_after_every_run(yard: Yard) -> None:
    """Without any event: results that nobody told of, orders and runs that are past their time."""
    told, late, overdue = (
        yard.submit(order("a"), job_timeout=1000),
        yard.submit(order("a", timeout=5), job_timeout=1000),
        yard.submit(order("a"), job_timeout=10),
    )
    yard.blobs.put(f"tmp/callbacks/runs/{told}/0001/result.json", b'{"status": "succeeded"}')
    assert yard.clock is not None
    yard.clock.advance(20)
    assert set(yard.runs.tick()) == {told, late, overdue}
    found = [yard.runs.status(run).status.value for run in (told, late, overdue)]
    assert found == ["succeeded", "timed_out", "timed_out"]
    assert yard.runs.tick() == []


def test_a_tick_looks_after_the_oldest_of_very_many(quick_yard: Yard) -> None:
    """However many jobs have been submitted to the same store since: the run is found, and its lost result with it."""
    yard = quick_yard
    run = yard.submit(order("a"))
    for number in range(10_000):
        new = NewJob(id=f"waits-{number}", handler="other", ready=False)
        yard.store.create_job(new, [NewStep(key="a", payload=b"1")])
    yard.blobs.put(f"tmp/callbacks/runs/{run}/0001/result.json", b'{"status": "succeeded"}')

    assert yard.runs.tick() == [run]
    assert yard.runs.status(run).status is JobState.SUCCEEDED
