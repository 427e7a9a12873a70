"""Every store × submissions: all or nothing, every fault at once, once per key; and steps that wait for others."""

from collections.abc import Iterator
from decimal import Decimal

import pytest

from backend.tests.integration.jobs._ledger import Ledger, made, outcome, step
from holdfast.infrastructure.store.state import (
    JobState,
    NewJob,
    NewStep,
    NotFoundError,
    StepState,
    SubmissionError,
)

DIAMOND = [step("d", "b", "c"), step("c", "a"), step("b", "a"), step("a")]
FULL = NewJob(
    id="full",
    handler="ship",
    name="Orders of May",
    dedup_key="may",
    priority=1,
    ready=False,
    idempotent=True,
    stop_after=3,
    stop_share=0.5,
    max_attempts=4,
    step_timeout=30.0,
    job_timeout=3600.0,
    expires_in=86400.0,
    concurrency=8,
    rate=20.0,
    write_back=True,
    retry_of="before",
    origin="first",
    settings={"columns": ("id", "price"), "limit": Decimal("10.50"), "nested": {"a": [1, None]}},
)


def test_a_job_is_stored_as_it_was_given(ledger: Ledger) -> None:
    """Every setting comes back exactly, Decimal and tuples too."""
    stored, new = ledger.store.create_job(FULL, made(2))
    assert new
    assert stored.new == ledger.store.job("full").new == FULL
    now = ledger.clock.time()
    assert (stored.created_at, stored.expires_at, stored.started_at) == (now, now + 86400, None)
    assert (stored.state, stored.ready, stored.counts.total) == (JobState.PENDING, False, 2)


def test_steps_are_stored_as_they_were_given(ledger: Ledger) -> None:
    """In the order of the submission, with their bytes, lines, limits and dependencies."""
    given = [
        NewStep(
            key="é %s \n'\"",
            payload=bytes(range(256)),
            line=10**9,
            timeout=0.5,
            target="http",
            must_succeed=False,
        ),
        NewStep(key="b", payload=b"", depends_on=("é %s \n'\"",)),
    ]
    ledger.submit(steps=given)
    back = ledger.store.steps("job")
    assert [
        NewStep(
            key=one.key,
            payload=one.payload,
            line=one.line,
            depends_on=one.depends_on,
            must_succeed=one.must_succeed,
            timeout=one.timeout,
            target=one.target,
        )
        for one in back
    ] == given
    assert back == [ledger.store.step("job", one.key) for one in given]


def test_dependencies_come_back_whole(ledger: Ledger) -> None:
    """A record says what its step waits for, in the order given."""
    ledger.submit(steps=DIAMOND)
    assert [one.depends_on for one in ledger.store.steps("job")] == [("b", "c"), ("a",), ("a",), ()]
    assert ledger.store.step("job", "d").depends_on == ("b", "c")


def test_what_the_caller_changes_later_is_not_stored(ledger: Ledger) -> None:
    """The store keeps what it was given, not the objects."""
    settings = {"columns": ["id"]}
    ledger.submit(settings=settings, ready=False)
    preview = {"total": [1]}
    ledger.store.preview_job("job", "d", preview)
    settings["columns"].append("price")
    preview["total"].append(2)
    job = ledger.store.job("job")
    assert (job.new.settings, job.preview) == ({"columns": ["id"]}, {"total": [1]})


def test_a_broken_source_leaves_nothing(ledger: Ledger) -> None:
    """When reading the steps fails in the middle, nothing was submitted: the error comes out, the id stays free."""

    def rows() -> Iterator[NewStep]:
        yield from made(50)
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        ledger.store.create_job(NewJob(id="job", handler="ship", dedup_key="k"), rows())
    assert ledger.store.jobs() == []
    with pytest.raises(NotFoundError):
        ledger.store.steps("job")
    assert ledger.submit(steps=3, dedup_key="k").counts.total == 3
    assert ledger.told() == [("job", "pending", ())]


def test_all_faults_are_told_at_once(ledger: Ledger) -> None:
    """A known id, an unknown batch, keys that are there twice, unknown dependencies and circles, in one error."""
    ledger.submit()
    steps = [
        step("a", "b", line=2),
        step("b", "a"),
        step("c", "gone"),
        step("d", "d"),
        step("a", line=9),
        step("e", "c"),
    ]
    with pytest.raises(SubmissionError) as caught:
        ledger.store.create_job(NewJob(id="job", handler="ship", batch="none"), steps)
    faults = caught.value.faults
    said = {
        "twice": [f for f in faults if "'a' (line 9)" in f and "twice" in f],
        "unknown": [f for f in faults if "'c'" in f and "'gone'" in f],
        "circle": [f for f in faults if "'a'" in f and "'b'" in f and "wait for each other" in f],
        "own": [f for f in faults if "'d' → 'd'" in f],
        "id": [f for f in faults if "'job' exists" in f],
        "batch": [f for f in faults if "batch 'none'" in f],
    }
    assert {name: len(found) for name, found in said.items()} == dict.fromkeys(said, 1)
    assert (len(faults), caught.value.more) == (6, 0)
    assert len(ledger.store.jobs()) == 1


def test_faults_of_the_source_join_those_of_the_store(ledger: Ledger) -> None:
    """A source reports its bad rows at its end; the store adds its own to them."""
    ledger.submit()

    def rows() -> Iterator[NewStep]:
        yield from (step("a"), step("a"))
        raise SubmissionError(["row 3: no price"], more=2)

    with pytest.raises(SubmissionError) as caught:
        ledger.store.create_job(NewJob(id="job", handler="ship"), rows())
    assert "row 3: no price" in caught.value.faults
    assert (len(caught.value.faults), caught.value.more) == (3, 2)


def test_a_hundred_faults_are_enough(ledger: Ledger) -> None:
    """Of more only the number is told."""
    with pytest.raises(SubmissionError) as caught:
        ledger.store.create_job(NewJob(id="job", handler="ship"), [step("same")] * 151)
    assert (len(caught.value.faults), caught.value.more) == (100, 50)


@pytest.mark.parametrize("others", [0, 1])
def test_circles_are_found_wherever_they_are(ledger: Ledger, others: int) -> None:
    """A long circle, one behind another and one beside: each is named with its steps only."""
    long = [step(f"n{number}", f"n{(number + 1) % 50}") for number in range(50)]
    beside = [step("x", "y"), step("y", "x", "n0"), step("tail", "x"), step("free")]
    with pytest.raises(SubmissionError) as caught:
        ledger.store.create_job(NewJob(id="job", handler="ship"), [*long, *beside * others])
    circles = caught.value.faults
    assert len(circles) == 1 + others
    assert not any("tail" in fault or "free" in fault for fault in circles)


def test_a_deduplication_key_gives_the_first_job(ledger: Ledger) -> None:
    """The second submission stores nothing, reads no steps and gets the job as it now is."""

    def never() -> Iterator[NewStep]:
        yield pytest.fail("steps were read")

    first = ledger.submit(steps=1, dedup_key="k")
    again, new = ledger.store.create_job(NewJob(id="other", handler="bill", dedup_key="k"), never())
    assert (again, new) == (first, False)
    ledger.run(StepState.SUCCEEDED)
    again, new = ledger.store.create_job(NewJob(id="job", handler="ship", dedup_key="k"), never())
    assert (again.state, new) == (JobState.SUCCEEDED, False)


def test_a_deduplication_key_lasts_as_long_as_its_job(ledger: Ledger) -> None:
    """Other keys and none are free; that of a deleted job is again."""
    ledger.submit("a", 0, dedup_key="k")
    ledger.submit("b", 0, dedup_key="l")
    ledger.submit("c", 0)
    ledger.submit("d", 0)
    ledger.store.delete_job("a")
    assert ledger.submit("e", 0, dedup_key="k").id == "e"


def test_a_deleted_job_is_gone_whole(ledger: Ledger) -> None:
    """Steps, history and outbox go with it; its id can be used again, from the beginning."""
    ledger.submit(steps=2, write_back=True)
    ledger.run(StepState.SUCCEEDED, StepState.FAILED)
    ledger.store.delete_job("job")
    for look in (ledger.store.job, ledger.store.steps, ledger.store.events, ledger.store.outbox):
        with pytest.raises(NotFoundError):
            look("job")
    assert ledger.store.owing() == []
    again = ledger.submit(steps=1)
    assert (again.counts.total, again.last_event) == (1, 1)
    assert [one.fence for one in ledger.store.steps("job")] == [0]


def test_a_deleted_job_may_still_have_calls_under_way(ledger: Ledger) -> None:
    """What they say is late, and no error."""
    ledger.submit(steps=1)
    [which] = ledger.start()
    ledger.store.change_job("job", JobState.CANCELLED)
    ledger.store.delete_job("job")
    assert ledger.end(which).late == (which,)


def test_a_step_waits_for_its_dependencies(ledger: Ledger) -> None:
    """In a diamond each step is claimed when all before it have succeeded, whatever order they were given in."""
    ledger.submit(steps=DIAMOND)
    waves: list[list[str]] = []
    while ledger.state() in {JobState.PENDING, JobState.RUNNING}:
        refs = ledger.start()
        waves.append([ledger.at(one.position).key for one in refs])
        for one in refs:
            ledger.end(one)
    assert waves == [["a"], ["c", "b"], ["d"]]
    assert ledger.state() is JobState.SUCCEEDED


def test_half_of_a_diamond_is_not_enough(ledger: Ledger) -> None:
    """A dependency that runs, waits for a retry or needs review holds up what depends on it."""
    ledger.submit(steps=DIAMOND)
    ledger.run(StepState.SUCCEEDED)
    c, b = ledger.start()
    ledger.end(c)
    assert ledger.claim() == []
    ledger.end(b, StepState.NEEDS_REVIEW)
    assert ledger.claim() == []
    ledger.store.resolve("job", "b", StepState.PENDING)
    [b] = ledger.start()
    assert ledger.at(b.position).key == "b"
    ledger.end(b)
    assert [ledger.at(one.position).key for one in ledger.claim()] == ["d"]


@pytest.mark.parametrize("end", [StepState.FAILED, StepState.TIMED_OUT])
def test_a_failure_falls_through_a_chain_at_once(ledger: Ledger, end: StepState) -> None:
    """A fails: B and C fail in the same transaction, each with the name of what it depends on, and the job ends."""
    ledger.submit(steps=[step("c", "b"), step("b", "a"), step("a"), step("z")])
    a, z = ledger.start()
    ledger.end(z)
    seen = ledger.store.job("job").last_event
    assert ledger.end(a, end, error="boom", took=2.0).ended == {"job": JobState.PARTIALLY_FAILED}
    c, b, a_, _ = ledger.store.steps("job")
    assert (a_.state, b.state, c.state) == (end, StepState.FAILED, StepState.FAILED)
    assert (b.error, c.error) == (f"dependency a {end}", "dependency b failed")
    assert (b.attempts, b.fence, b.finished_at) == (0, 0, a_.finished_at)
    events = ledger.store.events("job", after=seen)
    failed = next(event for event in events if event.state == "failed")
    assert failed.positions == ((0, 1, 2) if end is StepState.FAILED else (0, 1))
    assert failed.data["error"][:2] == [c.error, b.error]
    assert len(events) == (2 if end is StepState.FAILED else 3)


def test_both_sides_of_a_diamond_may_fail(ledger: Ledger) -> None:
    """What depends on both fails once, with the first."""
    ledger.submit(steps=DIAMOND)
    ledger.run(StepState.SUCCEEDED)
    c, b = ledger.start()
    failures = [outcome(c, StepState.FAILED), outcome(b, StepState.FAILED)]
    assert ledger.store.advance("w1", failures).ended == {"job": JobState.PARTIALLY_FAILED}
    assert ledger.store.step("job", "d").error == "dependency c failed"


def test_a_step_that_need_not_succeed_frees_what_waits(ledger: Ledger) -> None:
    """However it ended, dependants run, and the job succeeds."""
    ledger.submit(steps=[step("a", must_succeed=False), step("b", "a")])
    ledger.run(StepState.FAILED, StepState.SUCCEEDED)
    assert ledger.states() == [StepState.FAILED, StepState.SUCCEEDED]
    assert ledger.state() is JobState.SUCCEEDED


def test_a_failed_dependency_that_need_not_succeed_stops_the_fall(ledger: Ledger) -> None:
    """It fails with what it depends on, but frees what depends on it."""
    ledger.submit(steps=[step("a"), step("b", "a", must_succeed=False), step("c", "b")])
    ledger.run(StepState.FAILED)
    assert ledger.states() == [StepState.FAILED, StepState.FAILED, StepState.PENDING]
    ledger.run(StepState.SUCCEEDED)
    assert ledger.state() is JobState.PARTIALLY_FAILED


def test_a_decided_review_falls_through_too(ledger: Ledger) -> None:
    """A person's decision has the consequences of a call's."""
    ledger.submit(steps=[step("a"), step("b", "a")])
    ledger.run(StepState.NEEDS_REVIEW)
    ledger.store.resolve("job", "a", StepState.FAILED, by="ann")
    assert ledger.states() == [StepState.FAILED, StepState.FAILED]
    assert ledger.state() is JobState.FAILED
    assert ledger.told()[-2:] == [("step", "failed", (0, 1)), ("job", "failed", ())]


def test_a_dependency_that_was_named_twice_is_one(ledger: Ledger) -> None:
    """Saying it twice does not make a step wait for ever."""
    ledger.submit(steps=[step("a"), step("b", "a", "a")])
    ledger.run(StepState.SUCCEEDED, StepState.SUCCEEDED)
    assert ledger.state() is JobState.SUCCEEDED


def test_failures_that_fall_through_count_as_failures(ledger: Ledger) -> None:
    """A job that bears two failures is halted by a failure with two dependants."""
    ledger.submit(steps=[step("a"), step("b", "a"), step("c", "a"), step("d")], stop_after=3)
    ledger.run(StepState.FAILED)
    assert ledger.store.job("job").halted
    assert (ledger.state(), ledger.states()[3]) == (JobState.FAILED, StepState.PENDING)
