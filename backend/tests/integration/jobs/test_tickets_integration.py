"""The ledger × tickets: which jobs get some, how many, what one takes, and whose are refused."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from math import ceil

import pytest

from backend.tests.integration.jobs._fleet import Post, at_work
from backend.tests.integration.jobs._outside import until
from backend.tests.integration.jobs._posting import echo, nap
from holdfast.infrastructure.store.memory import MemoryStateStore
from holdfast.infrastructure.store.state import JobRecord, JobState, NewJob, NewStep, StepRef, WorkerRecord
from holdfast.services.jobs import Done, Jobs, handler
from holdfast.services.jobs.executors import Ticket


def ticket_of(job: JobRecord) -> Ticket:
    """Return a ticket of a job."""
    return Ticket(tenant="default", job=job.id)


def wait(jobs: Jobs, many: int) -> None:
    """Submit jobs that wait for approval."""
    for number in range(many):
        new = NewJob(id=f"waits-{number}", handler="echo", ready=False)
        jobs.store.create_job(new, [NewStep(key="a", payload=b"1")])


def test_a_ticket_of_another_tenant_is_refused(
    silent: Jobs, post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is done for it though a job has that very name here; it is said, and one of this tenant is taken."""
    job = silent.submit(range(3), echo, mode="auto")
    with at_work(silent, post):
        post.hand_in(replace(ticket_of(job), tenant="other"))
        until(lambda: post.taken == 1)
        assert silent.job(job).state is JobState.PENDING
        assert "a ticket of tenant other came to a worker of default" in caplog.text

        post.hand_in(ticket_of(job))
        until(lambda: silent.job(job).state is JobState.SUCCEEDED)


def test_only_jobs_with_work_get_tickets(told: Jobs, post: Post) -> None:
    """One that is empty, waits for approval, or has ended gets none; one for every fifty steps, four at most."""
    told.submit([], echo, mode="auto")
    waiting = told.submit(range(3), echo)
    done = told.submit(range(2), echo, mode="auto")
    assert post.sent == [ticket_of(done)]
    Jobs(told.store, [echo]).run(done)
    told.retry_failed(done)
    assert post.sent == [ticket_of(done)]

    told.approve(waiting, told.preview(waiting).digest)
    assert post.sent[1:] == [ticket_of(waiting)]
    for steps, tickets in ((50, 1), (51, 2), (200, 4), (1000, 4)):
        post.sent.clear()
        job = told.submit(range(steps), echo, mode="auto")
        assert post.sent == [ticket_of(job)] * tickets


def test_the_oldest_of_very_many_jobs_gets_a_ticket(silent: Jobs, post: Post) -> None:
    """However many jobs have begun since and cannot go on: one that has work and stands still is found."""
    job = silent.submit(range(3), echo, mode="auto")
    wait(silent, 10_000)
    with at_work(silent, post):
        until(lambda: bool(post.sent), 30.0)

    assert set(post.sent) == {ticket_of(job)}


def test_tickets_do_not_heap_up(silent: Jobs) -> None:
    """While all lanes are busy no more tickets wait than a few, however long that goes on."""
    post = Post()
    lanes = 8
    job = silent.submit(range(600), nap, mode="auto")
    with at_work(silent, post, lanes):
        until(lambda: silent.job(job).state is JobState.SUCCEEDED, 60.0)

    assert len(post.sent) > 2 * lanes
    assert post.most_waiting <= lanes + 4


class One(Post):
    """An engine that keeps one ticket of a job at most, as Procrastinate does."""

    def submit(self, ticket: Ticket) -> bool:
        """Send a ticket, unless one of its job waits."""
        with self._lock:
            waits = len(self.sent) > self.begun
        return not waits and super().submit(ticket)


def test_tickets_that_were_not_taken_keep_no_lane_idle(silent: Jobs) -> None:
    """Where an engine keeps one ticket of a job, most lanes work at any time, however many were sent in vain."""
    post, lanes = One(), 4
    inside, seen = 0, list[int]()

    async def count(row: int) -> None:
        nonlocal inside
        inside += 1
        seen.append(inside)
        await asyncio.sleep(0.02)
        inside -= 1

    job = silent.submit(range(800), count, mode="auto")
    with at_work(silent, post, lanes):
        until(lambda: silent.job(job).state is JobState.SUCCEEDED, 60.0)

    later = seen[400:-10]
    # Alone, without the other lanes, it is 1.
    assert sum(later) / len(later) > lanes / 2


def test_an_executor_that_says_nothing_has_sent(silent: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not tell whether it took a ticket is taken to have done so, and gets the next ones."""
    post = Post()
    send = post.submit

    def tell_nothing(ticket: Ticket) -> None:
        send(ticket)

    monkeypatch.setattr(post, "submit", tell_nothing)
    job = silent.submit(range(120), echo, mode="auto")
    with at_work(silent, post):
        until(lambda: silent.job(job).state is JobState.SUCCEEDED, 20.0)

    assert len(post.sent) > 1


def shares(jobs: Jobs, job: JobRecord) -> Iterator[tuple[int, int]]:
    """Yield how many steps each claim took, of how many that were pending."""
    pending = job.counts.total
    for event in jobs.store.events(job.id, kinds=["step"]):
        if event.state == "running":
            yield len(event.positions), pending
            pending -= len(event.positions)
        elif event.state == "pending":
            pending += len(event.positions)


def test_what_is_left_is_shared(silent: Jobs) -> None:
    """Each claim takes a sixteenth of what is pending then, so that all lanes end together; a ticket fifty at most."""
    post = Post(carry=False)
    job = silent.submit(range(160), echo, mode="auto")
    with at_work(silent, post):
        for number in range(1, 5):
            post.hand_in(ticket_of(job))
            until(lambda number=number: post.taken == number)

    claims = list(shares(silent, job))
    left = [50, 50, 50, 50]
    for took, pending in claims:
        share = ceil(pending / 16)
        assert took == min(share, left[0])
        left[0] -= took
        if not left[0]:
            del left[0]
    assert sum(took for took, _ in claims) == 160


def test_what_the_oldest_of_many_jobs_left_in_doubt_is_asked_about(post: Post) -> None:
    """However many jobs have been submitted since: a worker that begins asks what became of the call."""
    asked: list[str] = []

    def reconcile(key: str) -> Done:
        asked.append(key)
        return Done("found")

    doubtful = handler("doubtful", reconcile=reconcile)(lambda row: row)
    jobs = Jobs(MemoryStateStore(), [doubtful])
    job = jobs.submit([1], doubtful, mode="auto")
    jobs.store.register(WorkerRecord(id="dead", host="elsewhere", pid=7, born="1", expires_at=0.0), 60.0)
    [step] = jobs.store.claim("dead", 1)
    jobs.store.advance("dead", begin=[StepRef(job=job.id, position=step.position, fence=step.fence)])
    jobs.store.recover(["dead"])
    wait(jobs, 1000)
    with at_work(jobs, post):
        until(lambda: jobs.job(job).state is JobState.SUCCEEDED)

    assert asked == [f"{job.id}:{step.key}"]


class Unrenewed(MemoryStateStore):
    """A store that does not answer while leases are renewed."""

    def renew(self, worker: str, lease: float) -> WorkerRecord:
        """Fail."""
        raise ConnectionError("as planned")


def test_who_lost_its_lease_asks_about_its_own_call(post: Post) -> None:
    """As after the database was away: what it takes back from itself, it asks about; nobody else would."""

    @handler("slow", reconcile=lambda _: Done("found"))
    async def slow(row: int) -> None:
        await asyncio.sleep(0.3)

    jobs = Jobs(Unrenewed(), [slow])
    job = jobs.submit([1], slow, mode="auto")
    post.hand_in(ticket_of(job))
    with at_work(jobs, post, lease=0.2):
        until(lambda: jobs.job(job).state is JobState.SUCCEEDED)

    assert [one.result for one in jobs.results(job)] == ["found"]
