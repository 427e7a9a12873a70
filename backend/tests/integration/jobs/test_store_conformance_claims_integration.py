"""Every store × claims: who gets which steps, in what order, and how many."""

from dataclasses import replace
from random import Random

import pytest

from backend.tests.integration.jobs._ledger import Ledger, made, ref, step
from holdfast.infrastructure.store.state import (
    JobState,
    LeaseLostError,
    NewJob,
    StepRecord,
    StepState,
)


def order(claimed: list[StepRecord]) -> list[str]:
    return [f"{one.job}/{one.position}" for one in claimed]


def test_claims_go_by_priority_then_age_then_position(ledger: Ledger) -> None:
    """1 comes before 4; of one priority the job that was stored first; of one job the first steps."""
    for name, priority in (("late", 4), ("first", 2), ("second", 2), ("now", 1)):
        ledger.submit(name, 2, priority=priority)
    ledger.hire("w1")
    expected = [f"{job}/{n}" for job in ("now", "first", "second", "late") for n in (0, 1)]
    assert order(ledger.store.claim("w1", 100)) == expected


def test_a_claim_takes_no_more_than_it_asks_for(ledger: Ledger) -> None:
    """The limit counts over all jobs; the next claim goes on where this one ended; nothing is given twice."""
    ledger.submit("a", 3)
    ledger.submit("b", 3)
    ledger.hire("w1")
    claims = [order(ledger.store.claim("w1", limit)) for limit in (2, 2, 0, 100, 1)]
    assert claims == [["a/0", "a/1"], ["a/2", "b/0"], [], ["b/1", "b/2"], []]


def test_a_claim_gives_whole_records(ledger: Ledger) -> None:
    """A claimed step is what a worker needs: payload, keys, fence; not begun, no attempt consumed."""
    given = step("k", line=7, timeout=2.5, target="local", must_succeed=False)
    ledger.submit(steps=[given], origin="before")
    ledger.hire("w1")
    [claimed] = ledger.store.claim("w1", 1)
    assert claimed == StepRecord(
        job="job",
        origin="before",
        position=0,
        key="k",
        line=7,
        payload=given.payload,
        state=StepState.RUNNING,
        fence=1,
        worker="w1",
        must_succeed=False,
        timeout=2.5,
        target="local",
    )
    assert ledger.at() == claimed


def test_a_claim_is_one_event(ledger: Ledger) -> None:
    """However many steps of a job it takes, its history grows by one event with their positions."""
    ledger.submit(steps=50)
    ledger.claim(limit=30)
    ledger.claim("w2", limit=30)
    assert ledger.told()[2:] == [
        ("step", "running", tuple(range(30))),
        ("step", "running", tuple(range(30, 50))),
    ]
    assert [event.data for event in ledger.store.events("job", after=2)] == [
        {"worker": "w1"},
        {"worker": "w2"},
    ]


@pytest.mark.parametrize("job", ["job", None])
def test_a_claim_is_the_same_whichever_way_it_is_made(ledger: Ledger, job: str | None) -> None:
    """Records, events and counters do not depend on whether anything is to be skipped, or runs already."""
    given = [step(f"k{n}", line=n, timeout=2.5, target="t", must_succeed=False) for n in range(8)]
    ledger.submit(steps=given, origin="before")
    ledger.hire("w1")
    claims = [
        ledger.store.claim("w1", 2, job=job, skip=skip, handlers=handlers)
        for skip, handlers in (([], []), (["other"], []), ([], []), ([], ["ship"]))
    ]
    alike = {replace(one, position=0, key="", line=0, payload=b"") for claim in claims for one in claim}
    assert len(alike) == 1
    assert [(one.key, one.line, one.payload) for claim in claims for one in claim] == [
        (one.key, one.line, one.payload) for one in given
    ]
    assert ledger.told()[2:] == [("step", "running", (n, n + 1)) for n in (0, 2, 4, 6)]
    assert [event.data for event in ledger.store.events("job", after=2)] == [{"worker": "w1"}] * 4
    assert ledger.store.job("job").counts.running == 8


def test_a_long_job_is_claimed_in_order_whatever_comes_back(ledger: Ledger) -> None:
    """Each claim takes the first steps that are there: those that were handed back, or are due again, among them."""
    ledger.submit(steps=1100)
    there, draw = set(range(1100)), Random(7)
    while there:
        refs = ledger.claim(limit=90)
        assert [one.position for one in refs] == sorted(there)[:90]
        there -= {one.position for one in refs}
        back = [one for one in refs if draw.random() < 0.2]
        ledger.store.release("w1", back)
        there |= {one.position for one in back}
    assert ledger.store.job("job").counts.running == 1100


def test_a_claim_of_several_jobs_is_an_event_in_each(ledger: Ledger) -> None:
    """Each job's history tells of its own steps."""
    ledger.submit("a", 1)
    ledger.submit("b", 1)
    ledger.claim()
    assert (
        ledger.told("a")
        == ledger.told("b")
        == [("job", "pending", ()), ("job", "running", ()), ("step", "running", (0,))]
    )


def test_a_claim_of_one_job_leaves_the_others(ledger: Ledger) -> None:
    """A ticket names a job; one that is gone gives nothing, and no error."""
    ledger.submit("a", 2)
    ledger.submit("b", 2)
    assert {one.job for one in ledger.claim(job="b")} == {"b"}
    assert ledger.claim(job="gone") == []


def test_a_claim_keeps_to_its_handlers(ledger: Ledger) -> None:
    """A worker gets steps of the handlers that it has, of all when it names none."""
    for handler in ("ship", "bill", "mail"):
        ledger.store.create_job(NewJob(id=handler, handler=handler), made(1))
    assert {one.job for one in ledger.claim(handlers=("bill", "mail"))} == {"bill", "mail"}
    assert ledger.claim(handlers={"other"}) == []
    assert [one.job for one in ledger.claim()] == ["ship"]


def test_a_claim_of_a_job_that_runs_keeps_to_its_handlers_too(ledger: Ledger) -> None:
    """Neither its name nor its being the only one gives steps of a job to who has another handler."""
    ledger.submit(steps=3)
    ledger.start(limit=1)
    for job in ("job", None):
        assert ledger.claim(job=job, handlers=["other"]) == []
        assert ledger.claim(job=job, limit=0) == []
    assert [one.position for one in ledger.claim(job="job", handlers=["ship"])] == [1, 2]


def test_a_claim_skips_jobs(ledger: Ledger) -> None:
    """Jobs that a worker leaves alone for now do not use up its limit."""
    ledger.submit("a", 2, priority=1)
    ledger.submit("b", 2)
    assert [one.job for one in ledger.claim(limit=2, skip=["a", "gone"])] == ["b", "b"]


def test_a_claim_takes_what_may_begin(ledger: Ledger) -> None:
    """Of a job with concurrency 2, two calls under way leave nothing to claim, one leaves one."""
    ledger.submit("narrow", 5, concurrency=2)
    ledger.submit("wide", 5)
    first = ledger.start(limit=4)
    assert [one.job for one in first] == ["narrow", "narrow", "wide", "wide"]
    assert [one.job for one in ledger.claim(limit=2)] == ["wide", "wide"]
    ledger.end(first[0])
    assert [one.job for one in ledger.claim(limit=2)] == ["narrow", "wide"]


def test_a_waiting_retry_is_not_claimed(ledger: Ledger) -> None:
    """A step that failed for now is given out again when it is due, and in its place."""
    ledger.submit(steps=3)
    [which] = ledger.start(limit=1)
    ledger.end(which, StepState.PENDING, retry_in=10.0)
    assert [one.position for one in ledger.claim(limit=1)] == [1]
    ledger.clock.advance(9.5)
    assert [one.position for one in ledger.claim(job="job", limit=1)] == [2]
    assert ledger.claim() == []
    ledger.clock.advance(0.5)
    assert [(one.position, one.fence) for one in ledger.claim()] == [(0, 2)]


def test_a_retry_that_is_due_comes_before_later_steps(ledger: Ledger) -> None:
    """Steps are claimed in order, whatever they have been through."""
    ledger.submit(steps=3)
    [which] = ledger.start(limit=1)
    ledger.end(which, StepState.PENDING)
    assert [one.position for one in ledger.claim()] == [0, 1, 2]


@pytest.mark.parametrize("state", [JobState.PAUSED, JobState.CANCELLED, JobState.FAILED])
def test_a_stopped_job_does_not_hide_others(ledger: Ledger, state: JobState) -> None:
    """An urgent job that may not run is passed over."""
    ledger.submit("urgent", 2, priority=1)
    ledger.submit("other", 1)
    ledger.start(limit=1)
    ledger.store.change_job("urgent", state)
    assert [one.job for one in ledger.claim()] == ["other"]


def test_a_claim_needs_a_lease(ledger: Ledger) -> None:
    """Who never registered gets nothing but an error with his name."""
    ledger.submit()
    with pytest.raises(LeaseLostError) as caught:
        ledger.store.claim("nobody", 1)
    assert caught.value.worker == "nobody"


def test_a_released_step_consumes_no_attempt(ledger: Ledger) -> None:
    """What is handed back is pending as if nobody had had it, but for its fence; others get it at once."""
    ledger.submit(steps=3)
    first, second, _ = ledger.claim()
    before = ledger.at(0)
    ledger.store.release("w1", [second, first])
    assert ledger.at(0) == replace(before, state=StepState.PENDING, worker=None)
    event = ledger.store.events("job")[-1]
    assert (event.state, event.positions, event.data) == ("pending", (0, 1), {"worker": "w1"})
    assert [(one.position, one.fence) for one in ledger.claim("w2")] == [(0, 2), (1, 2)]


def test_a_step_that_has_begun_is_not_released(ledger: Ledger) -> None:
    """Its call may have happened: only an outcome can tell what became of it."""
    ledger.submit(steps=2)
    first, second = ledger.claim()
    ledger.begin(first)
    ledger.store.release("w1", [first, second])
    assert ledger.states() == [StepState.RUNNING, StepState.PENDING]


def test_only_the_holder_releases(ledger: Ledger) -> None:
    """An old fence, another's step, a step or job that does not exist: nothing happens."""
    ledger.submit(steps=2)
    [old] = ledger.claim(limit=1)
    ledger.store.release("w1", [old])
    [mine] = ledger.claim(limit=1)
    [other] = ledger.claim("w2", 1)
    unknown = [replace(mine, position=9), replace(mine, job="gone")]
    ledger.store.release("w1", [old, other, *unknown])
    assert ledger.states() == [StepState.RUNNING] * 2
    assert [one.fence for one in (old, mine)] == [1, 2]


def test_the_last_release_ends_a_job_that_was_halted(ledger: Ledger) -> None:
    """When nothing runs any more, a halted job ends, whoever handed back the last step."""
    ledger.submit(steps=2, stop_after=1)
    first, second = ledger.claim()
    ledger.begin(first)
    assert ledger.end(first, StepState.FAILED).ended == {}
    ledger.store.release("w1", [second])
    assert (ledger.state(), ledger.states()) == (JobState.FAILED, [StepState.FAILED, StepState.PENDING])


def test_a_claimed_record_names_its_step(ledger: Ledger) -> None:
    """The idempotency key of a step is the same for every attempt, and for a job that retries it."""
    ledger.submit(steps=["row-7"])
    first = ledger.at()
    [which] = ledger.start()
    ledger.end(which, StepState.PENDING)
    ledger.submit("again", steps=["row-7"], retry_of="job", origin="job")
    keys = {first.idempotency_key, ledger.at().idempotency_key, ledger.at(job="again").idempotency_key}
    assert keys == {"job:row-7"}
    assert ref(ledger.at()).fence == 1
