"""Every store × leases: when one ends, what is taken back, and that who lost it records nothing."""

from dataclasses import replace
from typing import Any

import pytest

from backend.tests.integration.jobs._ledger import Ledger, outcome, worker
from holdfast.infrastructure.store.state import (
    Attempt,
    JobState,
    LeaseLostError,
    Recovered,
    StepRef,
    StepState,
)


def one_of_each(ledger: Ledger, name: str = "w1", **settings: Any) -> tuple[StepRef, StepRef, StepRef]:
    """Let a worker hold a step that has begun and one that has not; a third stays pending."""
    ledger.submit(steps=3, **settings)
    begun, claimed = ledger.claim(name, 2)
    ledger.begin(begun, by=name)
    return begun, claimed, StepRef(job="job", position=2, fence=0)


def test_a_lease_begins_and_is_prolonged_from_now(ledger: Ledger) -> None:
    """It ends so many seconds after its registration, or after its last renewal."""
    start = ledger.clock.time()
    given = worker("w1", pid=42)
    assert ledger.store.register(given, 30.0) == replace(given, expires_at=start + 30)
    ledger.clock.advance(10)
    assert ledger.store.renew("w1", 30.0) == replace(given, expires_at=start + 40)
    assert ledger.store.workers() == [replace(given, expires_at=start + 40)]


def test_workers_are_listed_until_they_are_recovered(ledger: Ledger) -> None:
    """Those whose lease has ended are there too, by their ids."""
    ledger.hire("w2", "w1")
    ledger.clock.advance(61)
    ledger.hire("w3")
    assert [one.id for one in ledger.store.workers()] == ["w1", "w2", "w3"]
    assert ledger.store.recover().workers == ("w1", "w2")
    assert [one.id for one in ledger.store.workers()] == ["w3"]


@pytest.mark.parametrize("recovered", [False, True])
def test_a_lease_that_has_ended_is_lost(ledger: Ledger, *, recovered: bool) -> None:
    """From its last second on nothing that its worker says counts, whether or not its steps were taken."""
    begun, claimed, _ = one_of_each(ledger)
    ledger.clock.advance(59.5)
    ledger.store.renew("w1", 10.0)
    ledger.clock.advance(10.0)
    if recovered:
        ledger.store.recover()
    for say in (
        lambda: ledger.store.renew("w1", 60.0),
        lambda: ledger.store.claim("w1", 1),
        lambda: ledger.store.advance("w1", [outcome(begun)]),
        lambda: ledger.store.advance("w1", [], [claimed]),
        lambda: ledger.store.advance("w1"),
        lambda: ledger.store.release("w1", [claimed]),
    ):
        with pytest.raises(LeaseLostError) as caught:
            say()
        assert caught.value.worker == "w1"


def test_a_worker_that_runs_is_not_taken_for_interrupted(ledger: Ledger) -> None:
    """While leases are renewed, recovery finds nothing, however long a call takes."""
    one_of_each(ledger)
    for _ in range(10):
        ledger.clock.advance(59)
        ledger.store.renew("w1", 60)
        assert ledger.store.recover() == Recovered()
    assert ledger.states() == [StepState.RUNNING, StepState.RUNNING, StepState.PENDING]


def test_recovery_tells_what_had_begun_from_what_had_not(ledger: Ledger) -> None:
    """A claimed step is pending again, without an attempt; a call that may have happened needs review."""
    begun, claimed, _ = one_of_each(ledger)
    started = ledger.clock.time()
    ledger.clock.advance(60)
    assert ledger.store.recover() == Recovered(workers=("w1",), returned=(claimed,), ambiguous=(begun,))
    review, back = ledger.at(0), ledger.at(1)
    assert (back.state, back.attempts, back.fence, back.history) == (StepState.PENDING, 0, 2, ())
    assert (review.state, review.attempts, review.fence, review.begun) == ("needs_review", 1, 2, True)
    lost = Attempt(
        number=1, worker="w1", started_at=started, ended_at=started + 60, outcome="lease lost", error=""
    )
    assert review.history == (lost,)
    assert "w1" in review.error
    assert ledger.told()[-2:] == [("step", "pending", (1,)), ("step", "needs_review", (0,))]
    assert ledger.state() is JobState.RUNNING


def test_recovery_sends_idempotent_calls_again(ledger: Ledger) -> None:
    """In a job that is declared idempotent, what had begun is pending too, and keeps its attempt."""
    begun, claimed, _ = one_of_each(ledger, idempotent=True)
    ledger.clock.advance(60)
    assert ledger.store.recover().returned == (begun, claimed)
    assert [one.attempts for one in ledger.store.steps("job")] == [1, 0, 0]
    assert [one.outcome for one in ledger.at().history] == ["lease lost"]
    [again, *_] = ledger.start("w2")
    assert (again.fence, ledger.at().attempts) == (3, 2)


def test_recovery_names_steps_in_order(ledger: Ledger) -> None:
    """Whoever held them: by job, the oldest first, and position."""
    ledger.submit("old", 3)
    ledger.submit("new", 1)
    held = [*ledger.claim("w3", 1), *ledger.claim("w2", 1), *ledger.claim("w1", 2)]
    ledger.clock.advance(60)
    found = ledger.store.recover()
    assert (found.workers, found.returned) == (("w1", "w2", "w3"), tuple(held))
    assert [(ref.job, ref.position) for ref in held] == [("old", 0), ("old", 1), ("old", 2), ("new", 0)]


def test_recovery_happens_once(ledger: Ledger) -> None:
    """The second recovery finds nothing to do and changes nothing."""
    one_of_each(ledger)
    ledger.clock.advance(60)
    ledger.store.recover()
    seen = ledger.told()
    assert ledger.store.recover() == Recovered()
    assert ledger.told() == seen


def test_a_worker_that_was_seen_dead_loses_its_lease(ledger: Ledger) -> None:
    """Whom the caller names as gone is recovered at once; unknown ones are ignored, others untouched."""
    begun, claimed, _ = one_of_each(ledger)
    ledger.start("w2", 1)
    assert ledger.store.recover(["w1", "unknown"]) == Recovered(
        workers=("w1",), returned=(claimed,), ambiguous=(begun,)
    )
    assert ledger.at(2).worker == "w2"
    with pytest.raises(LeaseLostError):
        ledger.store.renew("w1", 60)


def test_recovery_goes_by_portions(ledger: Ledger) -> None:
    """With a limit, the rest stays for the next call; a worker is forgotten when nothing of it is left."""
    ledger.submit(steps=5)
    refs = ledger.claim()
    first = ledger.store.recover(["w1"], limit=2)
    assert (first.workers, first.returned) == ((), tuple(refs[:2]))
    with pytest.raises(LeaseLostError):
        ledger.begin(refs[4])
    second = ledger.store.recover(limit=2)
    assert (second.workers, second.returned) == ((), tuple(refs[2:4]))
    third = ledger.store.recover(limit=2)
    assert (third.workers, third.returned) == (("w1",), tuple(refs[4:]))


def test_recovery_covers_all_jobs(ledger: Ledger) -> None:
    """A worker's steps are taken wherever they are, and each job's history tells of its own."""
    ledger.submit("a", 1)
    ledger.submit("b", 1)
    ledger.claim()
    ledger.clock.advance(60)
    assert {one.job for one in ledger.store.recover().returned} == {"a", "b"}
    assert ledger.told("a")[-1] == ledger.told("b")[-1] == ("step", "pending", (0,))


def test_two_workers_are_two_events(ledger: Ledger) -> None:
    """An event of steps has one worker, so that one can see whose they were."""
    ledger.submit(steps=2)
    ledger.claim("w2", 1)
    ledger.claim("w1", 1)
    ledger.clock.advance(60)
    assert ledger.store.recover().workers == ("w1", "w2")
    told = [(event.positions, event.data) for event in ledger.store.events("job")[-2:]]
    assert told == [((1,), {"worker": "w1"}), ((0,), {"worker": "w2"})]


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_retired_worker_hands_back_what_it_holds(ledger: Ledger, *, idempotent: bool) -> None:
    """Its lease ends at once; what has not begun consumes no attempt, what has is as after a crash."""
    begun, claimed, _ = one_of_each(ledger, idempotent=idempotent)
    told = ledger.store.retire("w1")
    assert told.workers == ("w1",)
    assert (claimed in told.returned, begun in told.ambiguous) == (True, not idempotent)
    assert [one.attempts for one in ledger.store.steps("job")] == [1, 0, 0]
    assert ledger.store.workers() == []
    with pytest.raises(LeaseLostError):
        ledger.store.renew("w1", 60)


def test_a_worker_may_retire_twice(ledger: Ledger) -> None:
    """Nothing is left to hand back, and that is no error; nor is it after a lease has ended."""
    ledger.submit(steps=1)
    [which] = ledger.claim()
    ledger.clock.advance(60)
    assert ledger.store.retire("w1").returned == (which,)
    assert ledger.store.retire("w1") == ledger.store.retire("unknown") == Recovered()


def test_a_stalled_worker_records_nothing(ledger: Ledger) -> None:
    """It wakes up after another has done its step: its outcome is refused, then late, and the first result stays."""
    ledger.submit(steps=1, idempotent=True)
    [stalled] = ledger.start("w1")
    ledger.clock.advance(60)
    ledger.store.recover()
    [again] = ledger.start("w2")
    with pytest.raises(LeaseLostError):
        ledger.end(stalled, result=b'"w1"')
    ledger.hire("w1")
    assert ledger.end(stalled, result=b'"w1"').late == (stalled,)
    ledger.end(again, by="w2", result=b'"w2"')
    assert ledger.end(stalled, StepState.FAILED).late == (stalled,)
    assert (ledger.at().state, ledger.at().result) == (StepState.SUCCEEDED, b'"w2"')
    assert [kind for kind, _, _ in ledger.told()].count("late") == 2


def test_registering_again_takes_back_what_was_held(ledger: Ledger) -> None:
    """Who registers anew holds nothing: a process that was restarted does not know its predecessor's calls."""
    begun, claimed, _ = one_of_each(ledger)
    ledger.hire("w1")
    assert ledger.states() == [StepState.NEEDS_REVIEW, StepState.PENDING, StepState.PENDING]
    told = ledger.store.advance("w1", [outcome(begun)], [claimed])
    assert (told.late, set(told.refused)) == ((begun,), {claimed})


def test_each_claim_has_a_fence_of_its_own(ledger: Ledger) -> None:
    """The fence rises with each claim and whenever a lease ends."""
    ledger.submit(steps=1, idempotent=True)
    fences = [ledger.at().fence]
    for end_lease in (
        lambda: ledger.store.retire("w1"),
        lambda: ledger.store.recover(["w1"]),
        lambda: ledger.hire("w1"),
    ):
        [which] = ledger.claim()
        fences.append(which.fence)
        end_lease()
        fences.append(ledger.at().fence)
    assert fences == [0, 1, 2, 3, 4, 5, 6]


def test_what_is_taken_from_a_cancelled_job_is_cancelled(ledger: Ledger) -> None:
    """Nothing of it would run again; a call that may have happened still needs review."""
    begun, claimed, _ = one_of_each(ledger)
    ledger.store.change_job("job", JobState.CANCELLED)
    ledger.clock.advance(60)
    assert ledger.store.recover().returned == (claimed,)
    assert ledger.states() == [StepState.NEEDS_REVIEW, StepState.CANCELLED, StepState.CANCELLED]
    assert begun.fence < ledger.at().fence


def test_what_is_taken_from_a_paused_job_waits(ledger: Ledger) -> None:
    """A crash does not resume a job."""
    one_of_each(ledger)
    ledger.store.change_job("job", JobState.PAUSED)
    ledger.clock.advance(60)
    ledger.store.recover()
    assert (ledger.claim("w2"), ledger.state()) == ([], JobState.PAUSED)


def test_recovery_ends_a_halted_job(ledger: Ledger) -> None:
    """When the last step that ran is taken back, the halt takes effect."""
    ledger.submit(steps=3, stop_after=1)
    first, _ = ledger.claim(limit=2)
    ledger.begin(first)
    ledger.end(first, StepState.FAILED)
    assert ledger.state() is JobState.RUNNING
    ledger.store.recover(["w1"])
    assert (ledger.state(), ledger.store.job("job").counts.pending) == (JobState.FAILED, 2)


def test_a_clock_that_is_set_back_changes_nothing(ledger: Ledger) -> None:
    """The store's clock never goes back: no lease lives longer for it."""
    ledger.submit(steps=1)
    ledger.claim()
    before = ledger.store.now()
    ledger.clock.step_wall_clock(-3600)
    assert ledger.store.now() >= before
    assert ledger.store.renew("w1", 5).expires_at >= before + 5
