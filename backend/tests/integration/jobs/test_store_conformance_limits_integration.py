"""Every store × its clock: what expires, what times out, what is due, and who waits for it."""

from threading import Event, Thread
from typing import Any

import pytest

from backend.tests.integration.jobs._homes import Home
from backend.tests.integration.jobs._ledger import Ledger, made, outcome, step
from backend.tests.integration.jobs._reach import reach_job
from holdfast.infrastructure.store.state import (
    Advanced,
    JobState,
    NewJob,
    Refusal,
    StepState,
    Swept,
)


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.PREVIEWED, JobState.PAUSED])
def test_what_has_not_run_in_time_expires(ledger: Ledger, state: JobState) -> None:
    """A job that waits, is previewed or paused when its time is over expires; its steps stay pending."""
    ledger.submit(expires_in=10.0)
    if state is JobState.PREVIEWED:
        ledger.store.preview_job("job", "d", {})
    if state is JobState.PAUSED:
        ledger.store.change_job("job", JobState.PAUSED)
    ledger.clock.advance(9.5)
    assert ledger.store.sweep() == Swept()
    ledger.clock.advance(0.5)
    assert ledger.store.sweep() == Swept(jobs={"job": JobState.EXPIRED})
    job = ledger.store.job("job")
    assert (job.state, job.finished_at, job.counts.pending) == (JobState.EXPIRED, ledger.clock.time(), 3)
    assert ledger.claim() == []
    assert ledger.store.sweep() == Swept()


def test_what_runs_does_not_expire(ledger: Ledger) -> None:
    """Expiry is about beginning: a job that was claimed in time goes on."""
    ledger.submit(expires_in=10.0)
    ledger.claim(limit=1)
    ledger.clock.advance(50)
    assert ledger.store.sweep() == Swept()
    assert ledger.state() is JobState.RUNNING


def test_calls_of_a_job_that_expires_may_end(ledger: Ledger) -> None:
    """A paused job's calls under way are no reason to keep it, nor are they lost."""
    ledger.submit(steps=2, expires_in=10.0)
    [which] = ledger.start(limit=1)
    ledger.store.change_job("job", JobState.PAUSED)
    ledger.clock.advance(10)
    ledger.store.sweep()
    assert ledger.end(which).late == ()
    assert (ledger.state(), ledger.states()) == (JobState.EXPIRED, ["succeeded", "pending"])


@pytest.mark.parametrize("alive", [True, False])
def test_a_job_times_out_with_its_calls(ledger: Ledger, *, alive: bool) -> None:
    """Past its limit calls under way time out, claimed steps go back, whether or not their worker lives."""
    ledger.submit(steps=3, job_timeout=100.0)
    begun, claimed = ledger.claim(limit=2)
    ledger.begin(begun)
    for _ in range(2):
        ledger.clock.advance(50)
        if alive:
            ledger.store.renew("w1", 60)
    assert ledger.store.sweep() == Swept(jobs={"job": JobState.TIMED_OUT}, steps=(begun,))
    out, back, _ = ledger.store.steps("job")
    assert (out.state, out.fence, back.state, back.fence) == ("timed_out", 2, "pending", 2)
    assert "100" in out.error
    assert (back.attempts, ledger.states()[2]) == (0, StepState.PENDING)
    job = ledger.store.job("job")
    assert (job.state, job.finished_at) == (JobState.TIMED_OUT, ledger.clock.time())
    if alive:
        assert ledger.end(begun).late == (begun,)
        assert ledger.begin(claimed).refused == {claimed: Refusal.LOST}
        assert ledger.at() == out


def test_the_time_of_a_job_runs_from_its_start(ledger: Ledger) -> None:
    """Not from its submission; and not while it is paused does it end, only when it runs again."""
    ledger.submit(steps=2, job_timeout=10.0)
    ledger.clock.advance(100)
    [which] = ledger.start(limit=1)
    ledger.clock.advance(5)
    ledger.end(which)
    ledger.store.change_job("job", JobState.PAUSED)
    ledger.clock.advance(5)
    assert ledger.store.sweep() == Swept()
    ledger.store.change_job("job", JobState.PENDING)
    ledger.claim("w2", 1)
    assert ledger.store.sweep().jobs == {"job": JobState.TIMED_OUT}


def test_a_call_may_be_given_slack(ledger: Ledger) -> None:
    """With slack a call times out so much later, so that a worker that lives can end it first."""
    ledger.submit(steps=1, step_timeout=10.0)
    [which] = ledger.start(limit=1)
    ledger.clock.advance(12)
    assert ledger.store.sweep(slack=2.5) == Swept()
    ledger.clock.advance(0.5)
    assert ledger.store.sweep(slack=2.5) == Swept(steps=(which,))


def test_a_call_times_out_from_its_beginning(ledger: Ledger) -> None:
    """The limit is the step's own, or else the job's; what was only claimed has not begun to count."""
    ledger.submit(
        steps=[step("a"), step("b", timeout=5.0), step("c"), step("d", timeout=100.0)], step_timeout=10.0
    )
    ledger.hire("w1", lease=1000)
    a, b, c, d = ledger.claim()
    start = ledger.clock.time()
    ledger.begin(a, b, d)
    swept: list[tuple[float, list[int]]] = []
    for _ in range(8):
        ledger.clock.advance(2.5)
        if refs := ledger.store.sweep().steps:
            swept.append((ledger.clock.time() - start, [one.position for one in refs]))
    assert swept == [(5.0, [1]), (10.0, [0])]
    assert ledger.states() == ["timed_out", "timed_out", "running", "running"]
    ledger.begin(c)
    ledger.clock.advance(10)
    assert ledger.store.sweep().steps == (c,)
    assert ledger.end(d).late == ()


def test_a_late_success_changes_nothing(ledger: Ledger) -> None:
    """The watchdog's decision raises the fence: what the call says later is told, and that is all."""
    ledger.submit(steps=2, step_timeout=10.0)
    which, _ = ledger.start(limit=2)
    ledger.clock.advance(10)
    ledger.store.sweep(limit=1)
    out = ledger.at()
    assert (out.state, out.fence, out.attempts) == (StepState.TIMED_OUT, 2, 1)
    assert "10" in out.error
    event = ledger.store.events("job")[-1]
    assert event.data == {"worker": "w1", "attempt": [1], "took": [10.0], "error": [out.error]}
    assert ledger.end(which, result=b"1", took=11.0).late == (which,)
    assert ledger.at() == out
    assert ledger.told()[-1] == ("late", "succeeded", (0,))


def test_each_attempt_has_its_own_time(ledger: Ledger) -> None:
    """A retry begins anew."""
    ledger.submit(steps=1, step_timeout=10.0)
    [which] = ledger.start()
    ledger.clock.advance(9)
    ledger.end(which, StepState.PENDING)
    ledger.start()
    ledger.clock.advance(9)
    assert ledger.store.sweep() == Swept()
    ledger.clock.advance(1)
    assert len(ledger.store.sweep().steps) == 1


def test_a_timeout_has_the_consequences_of_a_failure(ledger: Ledger) -> None:
    """Dependants fail, error policies count it, the job ends."""
    ledger.submit("chain", steps=[step("a"), step("b", "a")], step_timeout=10.0)
    ledger.submit("halted", steps=3, step_timeout=10.0, stop_after=1)
    ledger.start(job="chain")
    ledger.start(job="halted", limit=1)
    ledger.clock.advance(10)
    swept = ledger.store.sweep()
    assert (swept.jobs, len(swept.steps)) == ({}, 2)
    assert (ledger.states("chain"), ledger.state("chain")) == (["timed_out", "failed"], JobState.FAILED)
    assert ledger.states("halted") == ["timed_out", "pending", "pending"]
    assert ledger.state("halted") is JobState.FAILED


@pytest.mark.parametrize("state", [JobState.PAUSED, JobState.CANCELLED])
def test_calls_of_a_stopped_job_time_out_too(ledger: Ledger, state: JobState) -> None:
    """The watchdog looks at every call under way."""
    ledger.submit(steps=2, step_timeout=10.0)
    ledger.start(limit=1)
    ledger.store.change_job("job", state)
    ledger.clock.advance(10)
    ledger.store.sweep()
    assert (ledger.at().state, ledger.state()) == (StepState.TIMED_OUT, state)


def test_sweeping_goes_by_portions(ledger: Ledger) -> None:
    """With a limit, the rest is left for the next sweep."""
    for number in range(3):
        ledger.submit(f"j{number}", 1, expires_in=1.0)
    ledger.submit("steps", 3, step_timeout=1.0)
    ledger.start(job="steps")
    ledger.clock.advance(1)
    sweeps = [ledger.store.sweep(limit=2) for _ in range(3)]
    assert [len(one.jobs) for one in sweeps] == [2, 1, 0]
    assert [len(one.steps) for one in sweeps] == [2, 1, 0]


def test_what_is_due_next_is_known(ledger: Ledger) -> None:
    """The next retry, expiry or timeout, whichever comes first; nothing when nothing waits."""
    start = ledger.clock.time()
    assert ledger.store.next_due() is None
    ledger.submit("free", 2)
    assert ledger.store.next_due() is None
    ledger.submit("old", 1, expires_in=50.0)
    assert ledger.store.next_due() == start + 50
    [which] = ledger.start(job="free", limit=1)
    ledger.end(which, StepState.PENDING, retry_in=40.0)
    assert ledger.store.next_due() == start + 40
    ledger.submit("job", 2, job_timeout=30.0, step_timeout=20.0)
    assert ledger.store.next_due() == start + 40
    [which] = ledger.claim(job="job", limit=1)
    assert ledger.store.next_due() == start + 30
    ledger.begin(which)
    assert ledger.store.next_due() == start + 20


def test_what_will_not_run_is_not_due(ledger: Ledger) -> None:
    """Retries of a paused job, and limits of what has ended, wake nobody."""
    ledger.submit(steps=1, job_timeout=1000.0)
    [which] = ledger.start()
    ledger.end(which, StepState.PENDING, retry_in=10.0)
    ledger.store.change_job("job", JobState.PAUSED)
    assert ledger.store.next_due() is None
    ledger.store.change_job("job", JobState.PENDING)
    assert ledger.store.next_due() == ledger.clock.time() + 10
    ledger.store.change_job("job", JobState.CANCELLED)
    assert ledger.store.next_due() is None


def test_what_is_overdue_is_due(ledger: Ledger) -> None:
    """Until somebody sweeps, a limit in the past is still told; a retry that is due is work, and is not."""
    ledger.submit("old", 1, expires_in=1.0)
    ledger.submit("job", 1)
    [which] = ledger.start(job="job")
    ledger.end(which, StepState.PENDING, retry_in=2.0)
    due = ledger.clock.time() + 1
    ledger.clock.advance(5)
    assert ledger.store.next_due() == due
    ledger.store.sweep()
    assert ledger.store.next_due() is None


def test_limits_are_no_business_of_others(ledger: Ledger) -> None:
    """A job without limits lives as long as it likes."""
    reach_job(ledger, JobState.RUNNING)
    ledger.clock.advance(10**8)
    assert ledger.store.sweep() == Swept()


def test_waiting_ends(home: Home) -> None:
    """Without news it ends after its time, and says so."""
    store = home.open()
    while store.wait(0.0):
        pass
    assert store.wait(0.01) is False


@pytest.mark.parametrize("before", [True, False])
def test_news_end_the_waiting(home: Home, *, before: bool) -> None:
    """What another thread stores wakes who waits, also if it did so just before: no news are lost."""
    store, other = home.open(), home.open()
    while store.wait(0.0):
        pass
    ready = Event()

    def submit() -> None:
        ready.wait(10)
        other.create_job(NewJob(id="job", handler="ship"), made(1))

    thread = Thread(target=submit)
    thread.start()
    ready.set()
    if before:
        thread.join()
    assert store.wait(30.0) is True
    thread.join()


def test_a_store_has_a_clock_of_its_own(home: Home) -> None:
    """Without one given, it tells seconds since the epoch, and every store of the place tells the same."""
    first, second = home.open(), home.open()
    times = [store.now() for store in (first, second, first, second)]
    assert times == sorted(times)
    assert times[-1] - times[0] < 5
    assert times[0] > 1_700_000_000


def test_a_tenants_concurrency_holds_for_all_its_jobs(ledger: Ledger) -> None:
    """Of whatever jobs, and whoever makes them, no more calls begin than may; what ends makes room."""
    ledger.submit("one", 3)
    ledger.submit("other", 3)
    ledger.store.set_concurrency(3)
    first, second = ledger.start("w1", 2)
    third, fourth = ledger.claim("w2", 2)
    said = ledger.begin(third, fourth, by="w2")
    assert (said.begun, said.refused) == ((third,), {fourth: Refusal.BUSY})
    assert ledger.begin(first) == Advanced(begun=(first,))
    assert ledger.begin(fourth, by="w2").refused == {fourth: Refusal.BUSY}
    said = ledger.store.advance("w2", [outcome(third)], [fourth])
    assert said.begun == (fourth,)
    ledger.end(second, StepState.FAILED)
    [fifth, sixth] = ledger.claim("w1", 2)
    assert ledger.begin(fifth, sixth).refused == {sixth: Refusal.BUSY}


def test_a_tenants_concurrency_is_kept_until_it_is_changed(ledger: Ledger) -> None:
    """Without one there is no bound; a lower one ends no call, and None lifts it."""
    assert ledger.store.concurrency() is None
    ledger.submit(steps=4)
    ledger.start("w1", 2)
    ledger.store.set_concurrency(5)
    ledger.store.set_concurrency(1)
    ledger.reopen()
    assert ledger.store.concurrency() == 1
    third, fourth = ledger.claim("w1", 2)
    assert ledger.begin(third).refused == {third: Refusal.BUSY}
    ledger.store.set_concurrency(None)
    assert ledger.store.concurrency() is None
    assert ledger.begin(third, fourth).begun == (third, fourth)


@pytest.mark.parametrize("most", [0, -1, 2**31, True, 1.5])
def test_a_tenants_concurrency_is_a_number_of_calls(ledger: Ledger, most: Any) -> None:
    """What cannot be one is refused by name, and changes nothing."""
    ledger.store.set_concurrency(2)
    with pytest.raises(ValueError, match=f"{most!r}"):
        ledger.store.set_concurrency(most)
    assert ledger.store.concurrency() == 2


def test_a_dead_workers_calls_count_until_they_are_taken(ledger: Ledger) -> None:
    """They may still be under way: there is room again when they are recovered."""
    ledger.submit(steps=2)
    ledger.store.set_concurrency(1)
    ledger.start("w1", 1)
    [second] = ledger.claim("w2", 1)
    assert ledger.begin(second, by="w2").refused == {second: Refusal.BUSY}
    ledger.store.recover(["w1"])
    assert ledger.begin(second, by="w2").begun == (second,)
