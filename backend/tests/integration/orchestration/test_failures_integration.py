"""Runs × failures: what falls, what goes on, and that no result, however odd, sticks a run or ends it twice."""

import json

import pytest

from backend.tests.integration.jobs._homes import Home
from backend.tests.integration.jobs._ledger import made, outcome, ref, worker
from backend.tests.integration.orchestration._faults import Between, Crash, Crashes
from backend.tests.integration.orchestration._yard import Yard, order, request
from holdfast.infrastructure.store.state import IllegalTransition, JobState, NewJob, StepState
from holdfast.services.jobs import Jobs
from holdfast.services.jobs.errors import NotEndedError
from holdfast.services.jobs.graphs import RequestRefusedError, Verdict

S = StepState


def test_a_failure_falls_through_in_one_evaluation(yard: Yard) -> None:
    """A, B and C end together, and with them the run."""
    run = yard.submit(order("a"), order("b", "a"), order("c", "b"))
    yard.say(run, "a", "failed", error="exit code 2")
    assert yard.states(run) == dict.fromkeys("abc", S.FAILED)
    done = yard.done(run)
    assert done["status"] == "failed"
    assert [one["error"] for one in done["orders"].values()] == [
        "exit code 2",
        "dependency a failed",
        "dependency b failed",
    ]


def test_who_need_not_succeed_holds_nobody_up(yard: Yard) -> None:
    """Dependants run, and the run succeeds."""
    run = yard.submit(order("a", must_succeed=False), order("b", "a"))
    yard.say(run, "a", "failed")
    assert yard.puppets.started == ["a", "b"]
    yard.say(run, "b")
    assert yard.done(run)["status"] == "succeeded"


def test_a_timeout_counts_before_a_failure(yard: Yard) -> None:
    """The run has timed out, whatever else happened."""
    run = yard.submit(order("a"), order("b"))
    yard.say(run, "a", "failed")
    assert yard.clock is not None
    yard.clock.advance(60)
    assert yard.runs.watchdog(run, 2) is Verdict.TIMED_OUT
    assert yard.done(run)["status"] == "timed_out"
    assert yard.done(run)["orders"]["b"]["error"] == "no result 60 s after its start"


def test_the_first_result_wins(yard: Yard) -> None:
    """A late one is noted and changes nothing; a duplicate is not even noted."""
    run = yard.submit(order("a"), order("b"))
    assert yard.say(run, "a", "failed")
    assert not yard.say(run, "a", "failed")
    assert not yard.say(run, "a", "succeeded")
    assert yard.states(run)["a"] is S.FAILED
    notes = [(one.state, one.data) for one in yard.store.events(run, kinds=["note"])]
    assert notes == [("late", {"order": "a"})]


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (b"", "malformed result: it is no JSON"),
        (b"\xff\x00", "malformed result: it is no JSON"),
        (b"[" * 5000, "malformed result: it is no JSON"),
        (b"[]", "malformed result: it is no object"),
        (b"{}", "malformed result: its status is None; one of succeeded, failed, timed_out was expected"),
        (
            b'{"status": "great"}',
            "malformed result: its status is 'great'; one of succeeded, failed, timed_out was expected",
        ),
        (
            b'{"status": ["succeeded"]}',
            "malformed result: its status is ['succeeded']; one of succeeded, failed, timed_out was expected",
        ),
        (b'{"status": "failed", "error": {"a": 1}}', ""),
        (json.dumps({"status": "failed", "error": "x\0\ud800" + "y" * 9000}).encode(), None),
    ],
)
def test_a_result_that_cannot_be_read_is_a_failure(yard: Yard, result: bytes, error: str | None) -> None:
    """It says what is wrong with it, and the run goes on to its end."""
    run = yard.submit(order("a"))
    yard.runs.deliver(run, "a", result)
    step = yard.store.step(run, "a")
    assert step.state is S.FAILED
    assert error is None or step.error == error
    assert len(step.error) < 2010
    assert yard.done(run)["status"] == "failed"


def test_a_result_of_an_unknown_order_is_noted(yard: Yard) -> None:
    """It changes nothing else."""
    run = yard.submit(order("a"))
    key = f"tmp/callbacks/runs/{run}/0007/result.json"
    yard.blobs.put(key, b'{"status": "failed"}')
    assert yard.runs.receive(key)
    notes = [(one.state, one.data["result"]) for one in yard.store.events(run, kinds=["note"])]
    assert notes == [("ignored", key)]
    assert yard.states(run) == {"a": S.RUNNING}


def test_a_result_that_comes_before_its_order_started_waits(yard: Yard) -> None:
    """Nobody can end what has not begun: it counts when the order runs."""
    run = yard.submit(order("a"), order("b", "a"))
    yard.say(run, "b")
    assert yard.states(run) == {"a": S.RUNNING, "b": S.PENDING}
    yard.say(run, "a")
    yard.runs.evaluate(run)
    assert yard.states(run) == {"a": S.SUCCEEDED, "b": S.SUCCEEDED}


def test_events_after_the_end_finish_nothing(yard: Yard) -> None:
    """One end in the history, one summary, whatever comes again."""
    run = yard.submit(order("a"))
    yard.say(run, "a")
    before = yard.blobs.get(f"{run}/done")
    events = yard.store.job(run).last_event
    for _ in range(3):
        yard.runs.receive(f"tmp/callbacks/runs/{run}/0001/result.json")
        yard.runs.watchdog(run)
        yard.runs.watchdog(run, 1)
    assert yard.blobs.get(f"{run}/done") == before
    assert yard.store.job(run).last_event == events
    assert yard.ends(run) == ["succeeded"]
    assert yard.store.workers() == []


def test_a_run_past_its_time_ends_whole(yard: Yard) -> None:
    """What runs is cancelled at its target and timed out; what comes later is late."""
    run = yard.submit(order("a", timeout=1000), order("b", "a"), job_timeout=100)
    assert yard.clock is not None
    yard.clock.advance(99)
    assert yard.runs.watchdog(run) is Verdict.WAIT
    yard.clock.advance(1)
    assert yard.runs.watchdog(run) is Verdict.TIMED_OUT
    assert yard.puppets.cancelled == ["a"]
    assert yard.done(run)["status"] == "timed_out"
    yard.say(run, "a")
    assert yard.states(run) == {"a": S.TIMED_OUT, "b": S.FAILED}


def test_a_cancelled_run_starts_nothing_and_waits_for_what_runs(yard: Yard) -> None:
    """What had not started is cancelled at once; the end comes when the last one has said how it ended."""
    run = yard.submit(order("a"), order("b", "a"))
    view = yard.runs.cancel(run, "not needed")
    assert (view.status, view.finished) == (JobState.CANCELLED, False)
    assert yard.puppets.cancelled == ["a"]
    yard.say(run, "a", "failed", error="it was cancelled")
    assert yard.puppets.started == ["a"]
    assert yard.states(run) == {"a": S.FAILED, "b": S.CANCELLED}
    assert yard.done(run)["status"] == "cancelled"
    with pytest.raises(IllegalTransition):
        yard.runs.cancel(run)


def test_what_was_reserved_when_a_run_is_cancelled_never_starts(yard: Yard) -> None:
    """The run ends at once."""
    yard.puppets.room = False
    run = yard.submit(order("a"))
    assert yard.runs.cancel(run).finished
    assert yard.states(run) == {"a": S.CANCELLED}
    yard.puppets.room = True
    assert yard.puppets.started == []


def test_an_order_that_a_crash_hid_is_cancelled_too(yard: Yard) -> None:
    """It had started, and nobody had confirmed that."""
    run = yard.runs.submit(request(order("a"))).run_id
    with pytest.raises(Crash):
        yard.again(targets={"local": Between(yard.puppets, Crashes(1, after=True))}).evaluate(run)
    assert yard.clock is not None
    yard.clock.advance(60)
    assert yard.runs.cancel(run).finished
    assert yard.puppets.cancelled == ["a"]


def test_a_cancelled_order_that_says_nothing_times_out(yard: Yard) -> None:
    """A target that does not answer holds up nobody for ever."""
    run = yard.submit(order("a"))
    yard.runs.cancel(run)
    assert yard.clock is not None
    yard.clock.advance(60)
    assert yard.runs.watchdog(run, 1) is Verdict.TIMED_OUT
    assert yard.done(run)["status"] == "cancelled"


def test_a_run_that_is_cancelled_as_a_job_ends_at_the_next_look(yard: Yard, home: Home) -> None:
    """By a process that knows nothing of runs: what runs is told to end, then come the summary and the comment."""
    answer = yard.runs.submit(request(order("a"), order("b", "a")))
    yard.runs.evaluate(answer.run_id)
    Jobs(home.open(clock=yard.clock)).cancel(answer.run_id, reason="not needed")
    assert yard.again().tick() == [answer.run_id]
    assert yard.puppets.cancelled == ["a"]
    assert not yard.runs.status(answer.run_id).finished
    yard.say(answer.run_id, "a", "failed", error="it was cancelled")
    assert yard.states(answer.run_id) == {"a": S.FAILED, "b": S.CANCELLED}
    assert (yard.ends(answer.run_id), yard.done(answer.run_id)["status"]) == (["cancelled"], "cancelled")
    assert "**: cancelled" in yard.comment(answer)
    assert yard.again().tick() == []


@pytest.mark.parametrize("way", ["cancelled", "skipped"])
def test_a_run_that_ends_as_a_job_before_it_began_is_finished(yard: Yard, home: Home, way: str) -> None:
    """Nobody had evaluated it, and no event comes: the next look writes its summary and its comment."""
    answer = yard.runs.submit(request(order("a"), order("b", "a")))
    jobs = Jobs(home.open(clock=yard.clock))
    ended = jobs.cancel(answer.run_id) if way == "cancelled" else jobs.skip(answer.run_id, "a", "b")
    yard.again().tick()
    assert yard.done(answer.run_id)["counts"] == {way: 2}
    assert f"**: {ended.state}" in yard.comment(answer)
    assert yard.puppets.started == []
    assert yard.again().tick() == []


def test_a_run_whose_end_was_cut_short_is_finished(yard: Yard) -> None:
    """Its last result is recorded, its evaluator died before the summary, no event comes: the next look finds it."""
    run = yard.submit(order("a"))
    yard.blobs.put(f"tmp/callbacks/runs/{run}/0001/result.json", b'{"status": "succeeded"}')

    class Dying(Between):
        def put(self, key: str, data: bytes) -> bool:
            raise Crash

    with pytest.raises(Crash):
        yard.again(blobs=Dying(yard.blobs, lambda call: call())).evaluate(run)
    assert yard.clock is not None
    yard.clock.advance(60)
    assert yard.again().tick() == [run]
    assert yard.done(run)["status"] == "succeeded"
    assert yard.again().tick() == []


def test_a_run_hides_no_job_that_was_left_behind(yard: Yard) -> None:
    """Whoever holds its orders works on nothing else, and is no sign that the run was left behind."""
    yard.store.create_job(NewJob(id="left", handler="ship"), made(2))
    yard.store.register(worker("w1"), 60.0)
    [claimed] = yard.store.claim("w1", 1)
    yard.store.advance("w1", begin=[ref(claimed)])
    yard.store.advance("w1", [outcome(ref(claimed))])
    yard.store.retire("w1")
    yard.runs.submit(request(order("a")))
    yard.submit(order("b"))
    assert [one.job.id for one in Jobs(yard.store).interrupted()] == ["left"]


def test_what_waits_for_a_skipped_order_starts_at_the_next_look(yard: Yard, home: Home) -> None:
    """Skipped by a process that knows nothing of runs; the run succeeds."""
    yard.puppets.room = False
    run = yard.submit(order("a"), order("b", "a"), order("c", "b"))
    yard.puppets.room = True
    yard.runs.evaluate(run)
    Jobs(home.open(clock=yard.clock)).skip(run, "b", reason="not today", by="ann")
    assert yard.states(run) == {"a": S.RUNNING, "b": S.SKIPPED, "c": S.PENDING}
    yard.say(run, "a")
    yard.again().tick()
    assert yard.puppets.started == ["a", "c"]
    yard.say(run, "c")
    done = yard.done(run)
    assert (done["status"], done["orders"]["b"]["error"]) == ("succeeded", "not today")


def failed_run(yard: Yard) -> str:
    run = yard.submit(order("a"), order("b", "a"), order("c", "b"), order("d"), order("e", "d"))
    yard.say(run, "a")
    yard.say(run, "b", "failed")
    yard.say(run, "d", "failed")
    return run


def test_one_order_is_retried_with_what_fell_with_it(yard: Yard) -> None:
    """As a new run under the same tag: what has ended stays, what has succeeded is not repeated."""
    run = failed_run(yard)
    answer = yard.runs.retry(run, "b")
    assert answer.run_id != run
    assert yard.runs.status(answer.run_id).retry_of == run
    yard.runs.evaluate(answer.run_id)
    yard.say(answer.run_id, "b")
    yard.say(answer.run_id, "c")
    assert yard.done(answer.run_id)["orders"].keys() == {"b", "c"}
    assert yard.done(answer.run_id)["status"] == "succeeded"
    assert yard.done(run)["status"] == "failed"


def test_a_run_is_rerun_from_what_failed(yard: Yard) -> None:
    """All that has not succeeded, with its dependencies; the same call again is the same run."""
    run = failed_run(yard)
    first, again = (yard.runs.rerun(run, delivery_id="click") for _ in range(2))
    assert (first.run_id, first.created) == (again.run_id, True)
    assert not again.created
    assert yard.states(first.run_id) == dict.fromkeys("bcde", S.PENDING)
    yard.runs.evaluate(first.run_id)
    assert yard.puppets.started[-2:] == ["b", "d"]


def test_what_cannot_be_done_again_is_refused(yard: Yard) -> None:
    """A run that goes on, an order that succeeded or whose dependency has not, a run without failures."""
    run = yard.submit(order("a"), order("b", "a"))
    with pytest.raises(NotEndedError):
        yard.runs.rerun(run)
    yard.say(run, "a", "failed")
    with pytest.raises(RequestRefusedError, match="order 'b' depends on 'a', which has not succeeded"):
        yard.runs.retry(run, "b")
    good = yard.submit(order("a"))
    yard.say(good, "a")
    with pytest.raises(RequestRefusedError, match="nothing to retry"):
        yard.runs.retry(good, "a")
    with pytest.raises(RequestRefusedError, match="nothing to rerun"):
        yard.runs.rerun(good)
