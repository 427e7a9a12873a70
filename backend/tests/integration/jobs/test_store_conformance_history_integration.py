"""Every store × histories: events without a gap, replay from any number, counters, paging."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from backend.tests.integration.jobs._audit import recount, replayed_job, replayed_steps
from backend.tests.integration.jobs._ledger import Ledger, made, outcome, step
from holdfast.infrastructure.store.state import (
    Counts,
    JobEvent,
    JobState,
    NewJob,
    NotFoundError,
    StateStore,
    StepState,
)

LOOKS: dict[str, Callable[[StateStore], Any]] = {
    "job": lambda store: store.job("none"),
    "step": lambda store: store.step("none", "s0"),
    "steps": lambda store: store.steps("none"),
    "events": lambda store: store.events("none"),
    "outbox": lambda store: store.outbox("none"),
    "note": lambda store: store.note("none", "x", {}),
    "change_job": lambda store: store.change_job("none", JobState.PAUSED),
    "preview_job": lambda store: store.preview_job("none", "d", {}),
    "approve_job": lambda store: store.approve_job("none", "d"),
    "delete_job": lambda store: store.delete_job("none"),
    "resolve": lambda store: store.resolve("none", "s0", StepState.FAILED),
    "jobs": lambda store: store.jobs(after="none"),
}


@pytest.mark.parametrize("look", LOOKS)
def test_an_unknown_job_is_an_error_that_names_it(ledger: Ledger, look: str) -> None:
    """What is wrong, with which id, in which tenant."""
    ledger.submit()
    with pytest.raises(NotFoundError) as caught:
        LOOKS[look](ledger.store)
    error = caught.value
    assert (error.kind, error.which, error.tenant) == ("job", "none", ledger.store.tenant)


def test_an_unknown_step_is_an_error_that_names_it(ledger: Ledger) -> None:
    """By its key, in a job that exists."""
    ledger.submit()
    looks: list[Callable[[], Any]] = [
        lambda: ledger.store.step("job", "none"),
        lambda: ledger.store.resolve("job", "none", StepState.FAILED),
    ]
    for look in looks:
        with pytest.raises(NotFoundError) as caught:
            look()
        assert (caught.value.kind, "none" in caught.value.which) == ("step", True)


def eventful(ledger: Ledger) -> list[JobEvent]:
    """Let a job have every kind of event."""
    ledger.submit(
        steps=["a", "b", step("c", "b"), "d"], ready=False, write_back=True, idempotent=True, stop_after=3
    )
    ledger.store.preview_job("job", "digest", {"total": 1})
    ledger.store.approve_job("job", "digest")
    a, b, d = ledger.start()
    ledger.store.note("job", "breaker", {"state": "open", "until": Decimal("1.5")})
    ledger.end(a, result=b"1")
    ledger.end(a, StepState.FAILED)
    ledger.store.settle_outbox(ledger.store.outbox("job"))
    ledger.store.change_job("job", JobState.PAUSED, reason="lunch")
    ledger.store.change_job("job", JobState.PENDING)
    ledger.store.recover(["w1"])
    b, d = ledger.start("w2")
    told = [outcome(b, StepState.FAILED, error="no"), outcome(d, StepState.NEEDS_REVIEW)]
    ledger.store.advance("w2", told)
    ledger.store.resolve("job", "d", StepState.FAILED, by="ann")
    return ledger.store.events("job")


def test_a_history_tells_everything_in_order(ledger: Ledger) -> None:
    """Numbers count from 1 without a gap; each change is there once, in the order of the commits."""
    events = eventful(ledger)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert {event.job for event in events} == {"job"}
    assert ledger.told() == [
        ("job", "pending", ()),
        ("job", "previewed", ()),
        ("job", "running", ()),
        ("step", "running", (0, 1, 3)),
        ("note", "breaker", ()),
        ("step", "succeeded", (0,)),
        ("late", "failed", (0,)),
        ("write-back", "pending", (0,)),
        ("job", "paused", ()),
        ("job", "pending", ()),
        ("step", "pending", (1, 3)),
        ("job", "running", ()),
        ("step", "running", (1, 3)),
        ("step", "failed", (1, 2)),
        ("step", "needs_review", (3,)),
        ("step", "failed", (3,)),
        ("note", "halted", ()),
        ("job", "partially_failed", ()),
    ]


def test_a_history_is_replayed_from_any_number(ledger: Ledger) -> None:
    """Whoever has seen n events gets the others, and no more than he asks for."""
    events = eventful(ledger)
    for seen in range(len(events) + 2):
        assert ledger.store.events("job", after=seen) == events[seen:]
        assert ledger.store.events("job", after=seen, limit=3) == events[seen : seen + 3]
    assert ledger.store.events("job", limit=0) == []


def test_a_history_is_read_by_kind(ledger: Ledger) -> None:
    """Only events of the kinds named, with their numbers, from any number on; all when none is named."""
    events = eventful(ledger)
    for kinds in (["note"], {"job", "late"}, ("none",), ()):
        chosen = [event for event in events if not kinds or event.kind in kinds]
        assert ledger.store.events("job", kinds=kinds) == chosen
        for seen in (1, 6, 100):
            rest = [event for event in chosen if event.seq > seen]
            assert ledger.store.events("job", after=seen, kinds=kinds, limit=2) == rest[:2]


def test_a_replay_ends_where_the_store_is(ledger: Ledger) -> None:
    """The history alone says in which state the job and each of its steps are."""
    events = eventful(ledger)
    assert replayed_job(events) is ledger.state()
    assert replayed_steps(4, events) == ledger.states()


def test_a_note_is_kept_exactly(ledger: Ledger) -> None:
    """It has the next number, the store's time and the data as given; the job's version stays."""
    before = ledger.submit()
    data = {"price": Decimal("1.50"), "rows": (1, 2), "text": "é\n", "none": None}
    note = ledger.store.note("job", "quote", data)
    expected = JobEvent(job="job", seq=2, at=ledger.clock.time(), kind="note", state="quote", data=data)
    assert note == expected
    assert ledger.store.events("job", after=1) == [expected]
    assert ledger.store.job("job").version == before.version
    assert ledger.store.job("job").last_event == 2


def test_a_refusal_is_no_event(ledger: Ledger) -> None:
    """What was not done is not told."""
    ledger.submit("empty", 0)
    seen = ledger.store.job("empty").last_event
    ledger.claim()
    ledger.store.sweep()
    ledger.store.recover()
    assert ledger.store.job("empty").last_event == seen


def test_counters_follow_every_change(ledger: Ledger) -> None:
    """Running is not pending, a call under way is counted, what has ended is done."""
    ledger.submit(steps=6)
    seen = [ledger.store.job("job").counts]

    def look() -> None:
        seen.append(ledger.store.job("job").counts)

    a, b, c, d, _ = ledger.claim(limit=5)
    look()
    ledger.begin(a, b, c, d)
    look()
    ends = [StepState.SUCCEEDED, StepState.FAILED, StepState.TIMED_OUT, StepState.NEEDS_REVIEW]
    ledger.store.advance("w1", [outcome(one, end) for one, end in zip((a, b, c, d), ends, strict=True)])
    look()
    ledger.store.change_job("job", JobState.CANCELLED)
    look()
    ended = {"succeeded": 1, "failed": 1, "timed_out": 1, "needs_review": 1}
    assert seen == [
        Counts(total=6, pending=6),
        Counts(total=6, pending=1, running=5),
        Counts(total=6, pending=1, running=5, in_flight=4),
        Counts(total=6, pending=1, running=1, **ended),
        Counts(total=6, running=1, cancelled=1, **ended),
    ]
    assert seen[-1] == recount(ledger.store.steps("job"))
    assert [one.done for one in seen] == [0, 0, 0, 3, 4]


def test_percent_is_of_what_has_ended(ledger: Ledger) -> None:
    """Of three steps one is 33.3, two 66.7, all 100.0; of none 0.0."""
    ledger.submit("empty", 0)
    ledger.submit(steps=3)
    percents = [ledger.store.job("empty").counts.percent]
    for which in ledger.start():
        percents.append(ledger.store.job("job").counts.percent)
        ledger.end(which)
    percents.append(ledger.store.job("job").counts.percent)
    assert percents == [0.0, 0.0, 33.3, 66.7, 100.0]


def test_steps_are_paged_in_order(ledger: Ledger) -> None:
    """Each page begins after the position that the last one ended with."""
    ledger.submit(steps=10)
    pages: list[list[int]] = []
    after = -1
    while page := ledger.store.steps("job", after=after, limit=4):
        pages.append([one.position for one in page])
        after = pages[-1][-1]
    assert pages == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert ledger.store.steps("job", limit=0) == []
    assert len(ledger.store.steps("job", limit=10**6)) == 10


def test_pages_see_what_has_changed(ledger: Ledger) -> None:
    """A page shows each step as it is now; what changes between pages neither hides nor repeats a step."""
    ledger.submit(steps=6)
    first = ledger.store.steps("job", limit=3)
    refs = ledger.start()
    for which in refs:
        ledger.end(which)
    rest = ledger.store.steps("job", after=first[-1].position, limit=3)
    assert [one.position for one in first + rest] == list(range(6))
    assert {one.state for one in rest} == {StepState.SUCCEEDED}


def test_steps_are_filtered_by_state(ledger: Ledger) -> None:
    """Pages of a filtered list hold what they may, and positions stay those of the job."""
    ledger.submit(steps=6)
    ledger.run(StepState.SUCCEEDED, StepState.FAILED, StepState.SUCCEEDED, StepState.FAILED)
    failed = ledger.store.steps("job", states=[StepState.FAILED])
    assert [one.position for one in failed] == [1, 3]
    assert [one.position for one in ledger.store.steps("job", states=[StepState.FAILED], limit=1)] == [1]
    after = ledger.store.steps("job", states=iter([StepState.FAILED, StepState.PENDING]), after=1)
    assert [one.position for one in after] == [3, 4, 5]
    assert ledger.store.steps("job", states=[StepState.CANCELLED]) == []


def test_steps_are_filtered_by_who_holds_them(ledger: Ledger) -> None:
    """Those that a worker has claimed and not ended, whether or not they have begun; nobody's are nobody's."""
    ledger.submit(steps=8)
    ledger.submit("other", steps=1)
    mine = ledger.claim("w1", 3, job="job")
    ledger.claim("w2", 2, job="job")
    ledger.claim("w1", 1, job="other")
    ledger.begin(*mine[:2])
    ledger.end(mine[0])

    def held(worker: str, **settings: Any) -> list[int]:
        return [one.position for one in ledger.store.steps("job", worker=worker, **settings)]

    assert held("w1") == [1, 2]
    assert held("w2") == [3, 4]
    assert held("w1", after=1) == [2]
    assert held("w2", limit=1) == [3]
    assert held("w1", states=[StepState.RUNNING]) == [1, 2]
    assert held("w1", states=[StepState.SUCCEEDED]) == []
    assert held("w3") == held("\0\ud800") == []


def test_jobs_are_paged_newest_first(ledger: Ledger) -> None:
    """In the order of their submission, also those of one moment; a page begins after a job's id."""
    ids = ["c", "a", "e", "b", "d"]
    for one in ids:
        ledger.submit(one, 1)
    assert [one.id for one in ledger.store.jobs()] == ids[::-1]
    assert [one.id for one in ledger.store.jobs(limit=2)] == ["d", "b"]
    assert [one.id for one in ledger.store.jobs(after="b", limit=2)] == ["e", "a"]
    assert ledger.store.jobs(after="c") == []


def test_jobs_are_filtered(ledger: Ledger) -> None:
    """By state, by batch, by both, and paged all the same."""
    ledger.store.create_batch("x")
    for name, steps, batch in (("a", 0, "x"), ("b", 1, "x"), ("c", 0, None), ("d", 1, None)):
        ledger.submit(name, steps, batch=batch)

    def ids(**wanted: Any) -> list[str]:
        return [one.id for one in ledger.store.jobs(**wanted)]

    assert ids(states=[JobState.SUCCEEDED]) == ["c", "a"]
    assert ids(states=iter([JobState.SUCCEEDED, JobState.PENDING])) == ["d", "c", "b", "a"]
    assert ids(batch="x") == ["b", "a"]
    assert ids(batch="x", states=[JobState.PENDING]) == ["b"]
    assert ids(states=[JobState.SUCCEEDED], after="c") == ["a"]
    assert ids(batch="none") == []


def test_a_store_that_is_opened_anew_has_everything(ledger: Ledger) -> None:
    """Nothing that a call returned from is lost, though nobody closed the store."""
    events = eventful(ledger)
    steps, job = ledger.store.steps("job"), ledger.store.job("job")
    ledger.reopen()
    assert (ledger.store.steps("job"), ledger.store.job("job")) == (steps, job)
    assert ledger.store.events("job") == events
    assert ledger.store.create_job(NewJob(id="next", handler="ship"), made(1))[1]


def test_a_store_is_closed_twice(ledger: Ledger) -> None:
    """The second time does nothing."""
    ledger.submit()
    ledger.store.close()
    ledger.store.close()
    ledger.reopen()
    assert ledger.state() is JobState.PENDING
