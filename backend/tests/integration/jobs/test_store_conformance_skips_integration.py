"""Every store × skipping: what somebody decides not to do is not done, and stands in nobody's way."""

import dataclasses
from threading import Thread

import pytest

from backend.tests.integration.jobs._homes import Home
from backend.tests.integration.jobs._ledger import Ledger, made, outcome, step, worker
from backend.tests.integration.jobs._reach import reach_job, reach_step
from holdfast.infrastructure.store.state import (
    JOB_ENDS,
    IllegalTransition,
    JobState,
    NewJob,
    NotFoundError,
    StepState,
)

# A job with a cancelled step has ended.
OPEN = [state for state in StepState if state is not StepState.CANCELLED]


@pytest.mark.parametrize("from_", OPEN)
def test_only_a_pending_step_is_skipped(ledger: Ledger, from_: StepState) -> None:
    """Any other is named, and the whole call is refused: what could be skipped is not."""
    before = reach_step(ledger, from_, steps=2)
    history = ledger.told()
    if from_ is StepState.PENDING:
        ledger.store.skip("job", ["s0"])
        assert ledger.states() == [StepState.SKIPPED, StepState.PENDING]
        return
    with pytest.raises(IllegalTransition) as caught:
        ledger.store.skip("job", ["s1", "s0"])
    assert caught.value.args == ("step 's0' of job 'job'", from_, StepState.SKIPPED)
    assert (ledger.at(), ledger.at(1).state, ledger.told()) == (before, StepState.PENDING, history)


@pytest.mark.parametrize("from_", JobState)
def test_steps_of_a_job_that_goes_on_are_skipped(ledger: Ledger, from_: JobState) -> None:
    """Whether it waits, is previewed, runs or is paused, the job stays as it is; of one that has ended nothing is."""
    reach_job(ledger, from_)
    last = ledger.store.steps("job")[-1].key
    if from_ in JOB_ENDS:
        with pytest.raises(IllegalTransition) as caught:
            ledger.store.skip("job", [last])
        assert caught.value.args == ("job 'job'", from_, StepState.SKIPPED)
    else:
        record = ledger.store.skip("job", [last])
        assert (record.state, record.counts.skipped) == (from_, 1)


def test_what_a_halted_job_never_began_stays_pending(ledger: Ledger) -> None:
    """It has ended: its rows that are left are there for who does it again."""
    ledger.submit(steps=2, stop_after=1)
    ledger.run(StepState.FAILED)
    with pytest.raises(IllegalTransition):
        ledger.store.skip("job", ["s1"])
    assert ledger.states() == [StepState.FAILED, StepState.PENDING]


def test_a_key_that_is_unknown_refuses_all(ledger: Ledger) -> None:
    """It is named, with the job; nothing is skipped."""
    ledger.submit()
    for key in ("nobody", "\x00", "odd\ud800"):
        with pytest.raises(NotFoundError) as caught:
            ledger.store.skip("job", ["s0", key])
        assert caught.value.args == ("step", f"{key} of job job", "default")
    with pytest.raises(NotFoundError) as caught:
        ledger.store.skip("nobody", ["s0"])
    assert caught.value.args == ("job", "nobody", "default")
    assert ledger.states() == [StepState.PENDING] * 3
    assert ledger.told() == [("job", "pending", ())]


def test_skipped_steps_are_counted_as_done(ledger: Ledger) -> None:
    """State, time, reason, counters and percent change with one event, which says who decided; once for each key."""
    ledger.submit(steps=4)
    ledger.clock.advance(5)
    record = ledger.store.skip("job", iter(["s2", "s0", "s2"]), reason="sold out", by="ann")
    counts = record.counts
    assert (counts.pending, counts.skipped, counts.done, counts.percent) == (2, 2, 2, 50.0)
    assert record == ledger.store.job("job")
    skipped = ledger.at(2)
    now = ledger.clock.time()
    assert (skipped.state, skipped.error, skipped.finished_at) == (StepState.SKIPPED, "sold out", now)
    assert (skipped.attempts, skipped.result, skipped.started_at) == (0, None, None)
    event = ledger.store.events("job")[-1]
    assert (event.kind, event.state, event.positions) == ("step", "skipped", (0, 2))
    told = {"attempt": [0, 0], "took": [0.0, 0.0], "error": ["sold out", "sold out"]}
    assert event.data == {"by": "ann", **told}


def test_no_keys_change_nothing(ledger: Ledger) -> None:
    """Not even the history."""
    before = ledger.submit()
    assert ledger.store.skip("job", []) == before == ledger.store.job("job")


def test_a_skipped_step_is_given_to_nobody(ledger: Ledger) -> None:
    """The others are, in order."""
    ledger.submit(steps=4)
    ledger.store.skip("job", ["s0", "s2"])
    assert [one.position for one in ledger.claim()] == [1, 3]


@pytest.mark.parametrize(
    ("calls", "end"),
    [
        ([], JobState.SUCCEEDED),
        ([StepState.SUCCEEDED], JobState.SUCCEEDED),
        ([StepState.FAILED], JobState.FAILED),
        ([StepState.SUCCEEDED, StepState.FAILED], JobState.PARTIALLY_FAILED),
    ],
)
def test_a_job_ends_when_the_rest_is_skipped(ledger: Ledger, calls: list[StepState], end: JobState) -> None:
    """As its calls ended: a skip is no failure, and nothing but skips is a success."""
    ledger.submit(steps=3)
    ledger.run(*calls)
    record = ledger.store.skip("job", [f"s{number}" for number in range(len(calls), 3)])
    assert (record.state, record.finished_at) == (end, ledger.clock.time())
    started = [] if calls else [("job", "running", ())]
    skips = ("step", "skipped", tuple(range(len(calls), 3)))
    assert ledger.told()[-2 - len(started) :] == [skips, *started, ("job", end, ())]


def test_a_call_under_way_ends_the_job(ledger: Ledger) -> None:
    """Not the skip of all that waits."""
    ledger.submit(steps=2)
    [first] = ledger.start(limit=1)
    assert ledger.store.skip("job", ["s1"]).state is JobState.RUNNING
    assert ledger.end(first).ended == {"job": JobState.SUCCEEDED}


def test_a_job_that_waits_ends_when_it_may_go_on(ledger: Ledger) -> None:
    """Paused, previewed or not approved it stays so, though nothing of it is left."""
    for job, ready in (("paused", True), ("previewed", False), ("new", False)):
        ledger.submit(job, 1, ready=ready)
    ledger.store.change_job("paused", JobState.PAUSED)
    ledger.store.preview_job("previewed", "digest", {})
    states = [ledger.store.skip(job, ["s0"]).state for job in ("paused", "previewed", "new")]
    assert states == [JobState.PAUSED, JobState.PREVIEWED, JobState.PENDING]
    assert ledger.store.change_job("paused", JobState.PENDING).state is JobState.SUCCEEDED
    assert ledger.store.approve_job("previewed", "digest").state is JobState.SUCCEEDED


@pytest.mark.parametrize("must_succeed", [True, False])
def test_what_depends_on_a_skipped_step_is_free(ledger: Ledger, *, must_succeed: bool) -> None:
    """Somebody wanted it so, it is no failure: also if the step had to succeed."""
    steps = [step("a", must_succeed=must_succeed), step("b"), step("c", "a"), step("d", "a", "b")]
    ledger.submit(steps=steps)
    ledger.store.skip("job", ["a"])
    assert [one.position for one in ledger.claim()] == [1, 2]


def test_a_step_that_waits_for_others_is_skipped(ledger: Ledger) -> None:
    """It stays so, however they end, and frees what waits for it alone."""
    ledger.submit(steps=[step("a"), step("b", "a"), step("c", "b"), step("d", "a", "b"), step("e", "d")])
    ledger.store.skip("job", ["b"])
    [first, third] = ledger.start()
    assert (first.position, third.position) == (0, 2)
    ledger.store.advance("w1", [outcome(third), outcome(first, StepState.FAILED)])
    succeeded, failed = StepState.SUCCEEDED, StepState.FAILED
    assert ledger.states() == [failed, StepState.SKIPPED, succeeded, failed, failed]
    assert ledger.state() is JobState.PARTIALLY_FAILED


def test_a_chain_is_skipped_in_any_order(ledger: Ledger) -> None:
    """What depends on what, of the same call, is of no matter."""
    for job, keys in (("down", "abc"), ("up", "cba")):
        ledger.submit(job, [step("a"), step("b", "a"), step("c", "b"), step("d", "c")])
        ledger.store.skip(job, keys)
        assert [one.position for one in ledger.claim(job=job)] == [3]


def test_a_step_that_waits_for_its_retry_is_skipped(ledger: Ledger) -> None:
    """Its attempts stay, nothing is due any more, and the job ends."""
    ledger.submit(steps=1)
    [first] = ledger.start()
    ledger.end(first, StepState.PENDING, error="busy", retry_in=30.0)
    assert ledger.store.next_due() is not None
    assert ledger.store.skip("job", ["s0"], reason="enough").state is JobState.SUCCEEDED
    skipped = ledger.at()
    assert (skipped.attempts, skipped.error, len(skipped.history)) == (1, "enough", 1)
    assert (ledger.store.next_due(), ledger.end(first).late) == (None, (first,))


def test_a_skipped_step_is_not_written_back(ledger: Ledger) -> None:
    """There is nothing to write."""
    ledger.submit(steps=2, write_back=True)
    ledger.run(StepState.SUCCEEDED)
    ledger.store.skip("job", ["s1"])
    assert [entry.key for entry in ledger.store.outbox("job")] == ["s0"]


def test_a_batch_follows(ledger: Ledger) -> None:
    """Its last job ends by a skip, and so does it."""
    ledger.store.create_batch("batch")
    ledger.submit(steps=1, batch="batch")
    ledger.store.skip("job", ["s0"])
    assert ledger.store.batch("batch").state == "succeeded"


def test_text_that_no_database_keeps_is_made_fit(ledger: Ledger) -> None:
    """A reason of any text does not refuse the skip."""
    ledger.submit(steps=2)
    ledger.store.skip("job", ["s0"], reason="odd\ud800", by="odd\ud800")
    assert ledger.at().error.startswith("odd")


def test_a_skip_is_news(home: Home) -> None:
    """Who waits hears of it: what depended on the step is free, or the job has ended."""
    store, other = home.open(), home.open()
    store.create_job(NewJob(id="job", handler="ship"), made(2))
    while store.wait(0.0):
        pass
    thread = Thread(target=other.skip, args=("job", ["s0"]))
    thread.start()
    thread.join()
    assert store.wait(30.0) is True


def test_many_are_skipped_at_once(ledger: Ledger) -> None:
    """More keys than a statement takes one by one."""
    ledger.submit(steps=1200)
    record = ledger.store.skip("job", [f"s{number}" for number in range(1, 1200)])
    assert record.counts == dataclasses.replace(record.counts, total=1200, pending=1, skipped=1199)
    assert [one.position for one in ledger.claim()] == [0]


def test_a_step_is_claimed_or_skipped(home: Home) -> None:
    """Never both, when a worker and somebody who skips want the same at once; who comes late hears of it."""
    store, other = home.open(), home.open()
    store.create_job(NewJob(id="job", handler="ship"), made(20))
    store.register(worker(), 60.0)
    skipped: set[str] = set()
    refused: set[str] = set()

    def skip_all() -> None:
        for number in reversed(range(20)):
            try:
                other.skip("job", [f"s{number}"])
            except IllegalTransition:
                refused.add(f"s{number}")
            else:
                skipped.add(f"s{number}")

    thread = Thread(target=skip_all)
    thread.start()
    claimed = {one.key for _ in range(20) for one in store.claim("w1", 1)}
    thread.join()
    assert claimed | skipped == {f"s{number}" for number in range(20)}
    assert (claimed & skipped, refused - claimed) == (set(), set())
    counts = store.job("job").counts
    assert (counts.running, counts.skipped, counts.pending) == (len(claimed), len(skipped), 0)
