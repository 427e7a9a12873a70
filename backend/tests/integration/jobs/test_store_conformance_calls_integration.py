"""Every store × calls: what may begin, what is recorded, and which outcomes come too late."""

from dataclasses import replace
from typing import Any

import pytest

from backend.tests.integration.jobs._ledger import Ledger, outcome
from holdfast.infrastructure.store.state import (
    Advanced,
    Attempt,
    JobState,
    Refusal,
    StepState,
)


def test_beginning_announces_a_call(ledger: Ledger) -> None:
    """It consumes an attempt and is durable, but no change of state: the history tells nothing of it."""
    ledger.submit(steps=2)
    first, second = ledger.claim()
    seen, claimed = ledger.store.job("job").last_event, ledger.at()
    ledger.clock.advance(3)
    assert ledger.begin(first) == Advanced(begun=(first,))
    expected = replace(claimed, begun=True, attempts=1, started_at=ledger.clock.time())
    assert ledger.at() == expected
    assert ledger.store.job("job").counts.in_flight == 1
    assert ledger.store.job("job").last_event == seen
    assert ledger.begin(second).begun == (second,)


def test_beginning_twice_is_once(ledger: Ledger) -> None:
    """Who asks again after a lost connection is told that it has begun, and that is all."""
    ledger.submit(steps=1, concurrency=1, rate=1.0)
    [which] = ledger.start()
    before = ledger.at()
    ledger.clock.advance(0.25)
    assert ledger.begin(which, which).begun == (which,)
    assert ledger.at() == before


def test_outcomes_and_beginnings_are_one_commit(ledger: Ledger) -> None:
    """In steady state one transaction per row records the last call and announces the next."""
    ledger.submit(steps=2)
    first, second = ledger.claim()
    ledger.begin(first)
    ledger.clock.advance(2)
    done = outcome(first, result=b'"ok"', took=1.5)
    assert ledger.store.advance("w1", [done], [second]) == Advanced(begun=(second,))
    ended = ledger.at()
    assert (ended.state, ended.result, ended.error) == (StepState.SUCCEEDED, b'"ok"', "")
    assert (ended.finished_at, ended.attempts, ended.worker) == (ledger.clock.time(), 1, None)
    assert ledger.at(1).begun


def test_outcomes_of_one_state_are_one_event(ledger: Ledger) -> None:
    """Positions ascend, whatever order they were told in, and the details are lists beside them."""
    ledger.submit(steps=4)
    refs = ledger.start()
    told = [
        outcome(refs[3], took=3.0),
        outcome(refs[2], StepState.FAILED, error="no", took=2.0),
        outcome(refs[0], took=0.5),
        outcome(refs[1], StepState.FAILED, took=1.0),
    ]
    ledger.store.advance("w1", told)
    good, bad, end = ledger.store.events("job", after=3)
    assert (good.kind, good.state, good.positions) == ("step", "succeeded", (0, 3))
    assert good.data == {"worker": "w1", "attempt": [1, 1], "took": [0.5, 3.0]}
    assert (bad.kind, bad.state, bad.positions) == ("step", "failed", (1, 2))
    assert bad.data == {"worker": "w1", "attempt": [1, 1], "took": [1.0, 2.0], "error": ["", "no"]}
    assert (end.kind, end.state, end.positions) == ("job", "partially_failed", ())


def test_a_retry_waits_and_keeps_its_call(ledger: Ledger) -> None:
    """A step that is to be tried again is pending until it is due; the call stands in its history."""
    ledger.submit(steps=1)
    [which] = ledger.start()
    start = ledger.clock.time()
    ledger.clock.advance(1)
    ledger.end(which, StepState.PENDING, error="503", retry_in=7.0, took=1.0)
    waiting = ledger.at()
    assert (waiting.state, waiting.attempts, waiting.begun, waiting.error) == ("pending", 1, False, "503")
    assert (waiting.due_at, waiting.started_at, waiting.worker) == (start + 8, None, None)
    call = Attempt(number=1, worker="w1", started_at=start, ended_at=start + 1, outcome="retry", error="503")
    assert waiting.history == (call,)
    event = ledger.store.events("job")[-1]
    assert (event.kind, event.state, event.positions) == ("step", "pending", (0,))
    assert event.data == {"worker": "w1", "attempt": [1], "took": [1.0], "error": ["503"]}


def test_attempts_are_counted_and_their_history_grows(ledger: Ledger) -> None:
    """Each call that did not settle the step is kept; the one that did is the step itself."""
    ledger.submit(steps=1)
    ledger.run(*[StepState.PENDING] * 3, StepState.SUCCEEDED)
    done = ledger.at()
    assert (done.attempts, done.fence, done.error) == (4, 4, "")
    assert [one.number for one in done.history] == [1, 2, 3]


def test_a_refunded_attempt_does_not_count(ledger: Ledger) -> None:
    """When nothing was sent, the attempt is given back and leaves no call in the history."""
    ledger.submit(steps=1)
    [which] = ledger.start()
    ledger.end(which, StepState.PENDING, refund=True, error="circuit open", retry_in=1.0)
    back = ledger.at()
    assert (back.attempts, back.history, back.error) == (0, (), "circuit open")
    ledger.clock.advance(1)
    ledger.run(StepState.SUCCEEDED)
    assert ledger.at().attempts == 1


def test_an_attempt_that_was_not_made_is_not_refunded(ledger: Ledger) -> None:
    """A claimed step that goes back to wait has consumed none."""
    ledger.submit(steps=1)
    [which] = ledger.claim()
    ledger.end(which, StepState.PENDING, refund=True, retry_in=5.0)
    back = ledger.at()
    assert (back.attempts, back.history, back.due_at) == (0, (), ledger.clock.time() + 5)


@pytest.mark.parametrize("state", [StepState.FAILED, StepState.PENDING, StepState.NEEDS_REVIEW])
def test_a_step_may_be_settled_without_a_call(ledger: Ledger, state: StepState) -> None:
    """A payload that cannot be read needs no call: no attempt counts, no call stands in the history."""
    ledger.submit(steps=1)
    [which] = ledger.claim()
    ledger.end(which, state, error="unreadable")
    done = ledger.at()
    assert (done.state, done.attempts, done.history, done.error) == (state, 0, (), "unreadable")


def test_a_call_that_needs_review_keeps_its_job_open(ledger: Ledger) -> None:
    """The job runs until somebody decides; the ambiguous call stands in the history."""
    ledger.submit(steps=1)
    [which] = ledger.start()
    assert ledger.end(which, StepState.NEEDS_REVIEW, error="connection lost").ended == {}
    review = ledger.at()
    assert (review.begun, review.error, review.finished_at) == (True, "connection lost", None)
    assert [one.outcome for one in review.history] == ["needs_review"]
    assert ledger.state() is JobState.RUNNING
    resolved = ledger.store.resolve("job", "s0", StepState.SUCCEEDED, result=b"1", by="ann")
    assert (resolved.state, resolved.result, resolved.error) == (StepState.SUCCEEDED, b"1", "")
    assert ledger.state() is JobState.SUCCEEDED
    event = ledger.store.events("job")[-2]
    assert (event.state, event.positions) == ("succeeded", (0,))
    assert event.data == {"by": "ann", "attempt": [1], "took": [0.0]}


def test_a_review_may_run_the_step_again(ledger: Ledger) -> None:
    """Resolved to pending it is claimed like any other, and its attempts go on counting."""
    ledger.submit(steps=1)
    ledger.run(StepState.NEEDS_REVIEW)
    ledger.store.resolve("job", "s0", StepState.PENDING, by="ann")
    ledger.run(StepState.SUCCEEDED)
    assert (ledger.at().attempts, ledger.state()) == (2, JobState.SUCCEEDED)


def test_a_review_may_fail_the_step(ledger: Ledger) -> None:
    """With the error that says why; the job ends accordingly."""
    ledger.submit(steps=1)
    ledger.run(StepState.NEEDS_REVIEW)
    failed = ledger.store.resolve("job", "s0", StepState.FAILED, error="never arrived", by="ann")
    assert (failed.error, ledger.state()) == ("never arrived", JobState.FAILED)
    assert ledger.store.events("job")[-2].data["error"] == ["never arrived"]


def test_the_first_outcome_wins(ledger: Ledger) -> None:
    """Said twice in one call or in two, the second changes nothing but leaves a late event."""
    ledger.submit(steps=2)
    which, _ = ledger.start()
    twice = [outcome(which, result=b"1"), outcome(which, StepState.FAILED, error="no")]
    assert ledger.store.advance("w1", twice).late == (which,)
    before = ledger.at()
    assert ledger.end(which, StepState.FAILED).late == (which,)
    assert ledger.at() == before
    assert (before.state, before.result) == (StepState.SUCCEEDED, b"1")
    assert ledger.told()[3:] == [
        ("step", "succeeded", (0,)),
        ("late", "failed", (0,)),
        ("late", "failed", (0,)),
    ]


def test_an_old_fence_is_late(ledger: Ledger) -> None:
    """The same worker's earlier claim of the same step says nothing about its present one."""
    ledger.submit(steps=1)
    [old] = ledger.start()
    ledger.end(old, StepState.PENDING)
    [new] = ledger.start()
    told = ledger.store.advance("w1", [outcome(old)], [old])
    assert (told.late, told.refused) == ((old,), {old: Refusal.LOST})
    assert (ledger.at().state, ledger.at().fence) == (StepState.RUNNING, new.fence)


def test_another_workers_step_is_not_ones_own(ledger: Ledger) -> None:
    """Even with the right fence, only its holder can speak for a step."""
    ledger.submit(steps=1)
    [theirs] = ledger.start("w2")
    ledger.hire("w1")
    told = ledger.store.advance("w1", [outcome(theirs)], [theirs])
    assert (told.late, told.refused) == ((theirs,), {theirs: Refusal.LOST})
    assert ledger.at().worker == "w2"


def test_what_does_not_exist_is_late_or_lost(ledger: Ledger) -> None:
    """A job that was deleted meanwhile is no error; what else was said is recorded."""
    ledger.submit(steps=1)
    [which] = ledger.start()
    gone = [replace(which, job="gone"), replace(which, position=7)]
    told = ledger.store.advance("w1", [outcome(which), *map(outcome, gone)], gone)
    assert (told.late, told.refused) == (tuple(gone), dict.fromkeys(gone, Refusal.LOST))
    assert ledger.state() is JobState.SUCCEEDED


def test_concurrency_is_what_it_says(ledger: Ledger) -> None:
    """Of claimed steps only so many begin; the others stay claimed until a call ends, in its commit at the earliest."""
    ledger.submit(steps=4, concurrency=2)
    first, second = ledger.claim("w1")
    third, fourth = ledger.claim("w2")
    ledger.begin(first, second)
    told = ledger.begin(third, fourth, by="w2")
    assert (told.begun, told.refused) == ((), {third: Refusal.BUSY, fourth: Refusal.BUSY})
    assert (ledger.at(2).worker, ledger.at(2).attempts) == ("w2", 0)
    ledger.end(first)
    told = ledger.begin(third, fourth, by="w2")
    assert (told.begun, told.refused) == ((third,), {fourth: Refusal.BUSY})
    ledger.end(second)
    told = ledger.store.advance("w2", [outcome(third)], [fourth])
    assert told.begun == (fourth,)


def test_concurrency_counts_calls_under_way_wherever_they_are(ledger: Ledger) -> None:
    """A call that needs review or was taken back is under way no more."""
    ledger.submit(steps=3, concurrency=1)
    [first] = ledger.start("w1")
    assert ledger.claim("w2") == []
    ledger.store.recover(["w1"])
    [second] = ledger.start("w2")
    ledger.end(second, StepState.NEEDS_REVIEW, by="w2")
    assert len(ledger.start("w2")) == 1
    assert first != second


def test_a_rate_spaces_calls(ledger: Ledger) -> None:
    """At 4 a second one call begins each quarter second; what is refused is told how long it waits."""
    ledger.submit(steps=6, rate=4.0)
    refs = ledger.claim()
    start, begun, waits = ledger.clock.time(), list[float](), list[float]()
    while len(begun) < len(refs):
        told = ledger.begin(*refs[len(begun) :])
        assert set(told.refused.values()) <= {Refusal.RATE}
        begun += [ledger.clock.time() - start] * len(told.begun)
        waits.append(told.retry_in)
        ledger.clock.advance(told.retry_in)
    assert begun == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]
    assert waits == [0.25] * 5 + [0.0]


def test_a_rate_saves_nothing_up(ledger: Ledger) -> None:
    """After a pause of a minute still one call begins, then one per interval."""
    ledger.submit(steps=3, rate=2.0)
    refs = ledger.claim()
    ledger.begin(refs[0])
    ledger.clock.advance(30)
    told = ledger.begin(refs[1], refs[2])
    assert (told.begun, told.refused, told.retry_in) == ((refs[1],), {refs[2]: Refusal.RATE}, 0.5)


def test_a_rate_is_each_jobs_own(ledger: Ledger) -> None:
    """One job's rate does not hold up another; the shortest wait is told."""
    ledger.submit("slow", 2, rate=0.5)
    ledger.submit("fast", 2, rate=2.0)
    ledger.submit("free", 2)
    told = ledger.begin(*ledger.claim())
    assert [(one.job, one.position) for one in told.begun] == [
        ("slow", 0),
        ("fast", 0),
        ("free", 0),
        ("free", 1),
    ]
    assert told.retry_in == 0.5


def test_what_is_busy_takes_nothing_of_the_rate(ledger: Ledger) -> None:
    """A refused beginning leaves the next one its turn."""
    ledger.submit(steps=2, rate=1.0, concurrency=1)
    [first] = ledger.claim("w1")
    [second] = ledger.claim("w2")
    ledger.begin(first)
    ledger.clock.advance(1)
    assert ledger.begin(second, by="w2").refused == {second: Refusal.BUSY}
    ledger.end(first)
    assert ledger.begin(second, by="w2").begun == (second,)


def test_fail_fast_stops_at_the_first_error(ledger: Ledger) -> None:
    """Row 3 of 5 fails: two have succeeded, the last two stay pending, the job has partially failed."""
    ledger.submit(steps=5, stop_after=1)
    refs = ledger.claim()
    for before, which in zip([None, *refs], refs[:3], strict=False):
        ledger.store.advance("w1", [outcome(before)] if before else [], [which])
    told = ledger.store.advance("w1", [outcome(refs[2], StepState.FAILED, error="bad row")], [refs[3]])
    assert told.refused == {refs[3]: Refusal.STOPPED}
    assert told.ended == {}
    ledger.store.release("w1", [refs[4]])
    job = ledger.store.job("job")
    assert (job.state, job.halted) == (JobState.PARTIALLY_FAILED, True)
    assert ledger.states() == ["succeeded", "succeeded", "failed", "pending", "pending"]
    assert ledger.claim() == []


def test_a_halt_is_told(ledger: Ledger) -> None:
    """The history says that a job was halted, once, after the step that did it."""
    ledger.submit(steps=3, stop_after=1)
    first, second, _ = ledger.start()
    before = ledger.store.job("job").version
    ledger.end(first, StepState.FAILED)
    assert ledger.store.job("job").version > before
    ledger.end(second, StepState.FAILED)
    assert ledger.told()[3:] == [("step", "failed", (0,)), ("note", "halted", ()), ("step", "failed", (1,))]


@pytest.mark.parametrize(
    ("policy", "borne"),
    [
        ({}, 4),
        ({"stop_after": 1}, 1),
        ({"stop_after": 3}, 3),
        ({"stop_share": 0.5}, 3),
        ({"stop_share": 0.0}, 1),
    ],
)
def test_an_error_policy_bears_so_many_failures(ledger: Ledger, policy: dict[str, Any], borne: int) -> None:
    """A count is reached, a share exceeded; without either a job goes on to its end."""
    ledger.submit(steps=4, **policy)
    failures = 0
    while ledger.state() in {JobState.PENDING, JobState.RUNNING}:
        ledger.run(StepState.FAILED)
        failures += 1
    assert failures == borne
    assert ledger.state() is JobState.FAILED


@pytest.mark.parametrize(
    ("states", "end"),
    [
        ((StepState.SUCCEEDED, StepState.SUCCEEDED), JobState.SUCCEEDED),
        ((StepState.SUCCEEDED, StepState.FAILED), JobState.PARTIALLY_FAILED),
        ((StepState.TIMED_OUT, StepState.SUCCEEDED), JobState.PARTIALLY_FAILED),
        ((StepState.FAILED, StepState.FAILED), JobState.FAILED),
        ((StepState.FAILED, StepState.TIMED_OUT), JobState.FAILED),
    ],
)
def test_the_end_of_a_job_tells_the_truth(
    ledger: Ledger, states: tuple[StepState, StepState], end: JobState
) -> None:
    """All, some or none: the job ends with its last step, in the same transaction, and `advance` says so."""
    ledger.submit(steps=2)
    first, second = ledger.start()
    assert ledger.end(first, states[0]).ended == {}
    assert ledger.end(second, states[1]).ended == {"job": end}
    job = ledger.store.job("job")
    assert (job.state, job.finished_at) == (end, ledger.clock.time())
    assert ledger.told()[-1] == ("job", end, ())


def test_one_call_of_advance_serves_several_jobs(ledger: Ledger) -> None:
    """Each job gets its own events and end."""
    for job in ("a", "b", "c"):
        ledger.submit(job, 1)
    a, b, c = ledger.claim()
    ledger.begin(a, b)
    told = ledger.store.advance("w1", [outcome(b), outcome(a, StepState.FAILED)], [c])
    assert told == Advanced(begun=(c,), ended={"a": JobState.FAILED, "b": JobState.SUCCEEDED})
