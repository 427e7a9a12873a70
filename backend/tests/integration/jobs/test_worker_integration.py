"""A worker over a store: retries, bounds, limits, draining, leases; nothing is lost and nothing is done twice."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from backend.tests.integration.jobs._desk import STEADY, Desk, Takes
from holdfast import (
    Bulkhead,
    CallRejectedError,
    ConfigurationError,
    RateLimit,
    TimeoutExceeded,
    remaining,
)
from holdfast.infrastructure.store.state import StoreUnavailableError
from holdfast.services.jobs import (
    Done,
    Handler,
    HandlerNotFoundError,
    Handlers,
    NotDone,
    Step,
    Unknown,
    Worker,
)

pytestmark = pytest.mark.parametrize("store_kind", ["memory", "sqlite"], indirect=True)


class ThrottledError(ConnectionError):
    """A server's answer that says when to come back."""

    retry_after = 42.0


def echo(payload: Any) -> Any:
    return payload


# Retries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", ["each", "group"])
def test_a_transient_failure_is_tried_again_later(desk: Desk, record: str) -> None:
    """A failure that may pass waits in the store for its backoff; the other rows do not wait for it."""
    calls: list[tuple[str, int, float]] = []

    def do(row: str, call: Any) -> None:
        calls.append((row, call.attempt, desk.clock.elapsed))
        if row == "b" and call.attempt < 3:
            raise ConnectionError("reset")

    job = desk.submit(["a", "b", "c"], do, max_attempts=3, backoff=STEADY)
    done = desk.run(job, concurrency=1, record=record)

    assert calls == [("a", 1, 0.0), ("b", 1, 0.0), ("c", 1, 0.0), ("b", 2, 10.0), ("b", 3, 20.0)]
    assert done.succeeded
    history = desk.store.step(job.id, "line:2").history
    assert [(one.number, one.outcome, one.error) for one in history] == [
        (1, "retry", "ConnectionError: reset"),
        (2, "retry", "ConnectionError: reset"),
    ]


def test_attempts_run_out(desk: Desk) -> None:
    """After the last attempt the row has failed, with its last error; a permanent error is not tried again."""

    def do(row: str) -> None:
        raise ConnectionError("reset") if row == "passing" else ValueError("wrong")

    job = desk.submit(["passing", "staying"], do, max_attempts=3, backoff=STEADY)
    done = desk.run(job)

    assert desk.attempts(job) == [3, 1]
    assert [error.error for error in done.errors] == ["ConnectionError: reset", "ValueError: wrong"]


def test_one_attempt_is_the_default(desk: Desk) -> None:
    """Nobody asked for retries, so even an error that may pass fails the row: its call may have had effects."""

    def do(row: int) -> None:
        raise ConnectionError

    job = desk.submit([1], do)

    assert desk.run(job).state == "failed"
    assert desk.attempts(job) == [1]


def test_a_server_that_says_when_to_come_back_is_heard(desk: Desk) -> None:
    """A hint lengthens the backoff."""
    at: list[float] = []

    def do(row: int, call: Any) -> None:
        at.append(desk.clock.elapsed)
        if call.attempt == 1:
            raise ThrottledError

    assert desk.run(desk.submit([1], do, max_attempts=2, backoff=STEADY)).succeeded
    assert at == [0.0, 42.0]


def test_a_handler_says_which_errors_may_pass(desk: Desk) -> None:
    """`on` replaces the table: here a KeyError passes and a ConnectionError does not."""

    def do(row: type[Exception], call: Any) -> None:
        if call.attempt == 1:
            raise row_errors[row]

    row_errors: dict[Any, Exception] = {"key": KeyError("k"), "connection": ConnectionError("c")}
    job = desk.submit(["key", "connection"], desk.handler(do, on=KeyError), max_attempts=2, backoff=STEADY)
    desk.run(job)

    assert desk.states(job) == ["succeeded", "failed"]


@pytest.mark.parametrize("policy", [Bulkhead(1), RateLimit(1.0, per=5.0)], ids=["bulkhead", "rate limit"])
def test_a_call_that_a_policy_refuses_is_no_attempt(desk: Desk, policy: Any) -> None:
    """Refused before anything was sent, a row waits and comes again; with one attempt it still succeeds."""
    made = type(policy)(1) if isinstance(policy, Bulkhead) else RateLimit(1.0, per=5.0, clock=desk.clock)
    seen: list[int] = []

    def do(row: int) -> Takes:
        seen.append(row)
        return Takes(1.0)

    job = desk.submit(range(4), desk.handler(do, policy=made))
    done = desk.run(job)

    assert done.succeeded
    assert sorted(seen) == [0, 1, 2, 3]
    assert desk.attempts(job) == [1, 1, 1, 1]


def test_a_refusal_within_the_handler_is_no_attempt_either(desk: Desk) -> None:
    """An open breaker inside the handler's code pauses the job as one around it does."""

    def do(row: int) -> None:
        if desk.clock.elapsed < 50:
            raise CallRejectedError("carrier", 7.0)

    job = desk.submit(range(20), do)

    assert desk.run(job, concurrency=2).succeeded
    assert set(desk.attempts(job)) == {1}


def test_a_pause_holds_for_every_job_of_the_handler(desk: Desk) -> None:
    """A job that comes while its handler's breaker is open waits for it too, untouched."""

    def do(row: int) -> None:
        if desk.clock.elapsed < 20:
            raise CallRejectedError("carrier", 30.0)

    handler = desk.handler(do)
    first = desk.submit([1], handler)
    worker = desk.worker()
    second, _ = desk.meanwhile((5.0, lambda: desk.submit([1], handler)), (40.0, worker.stop), worker=worker)

    refused = [
        event for event in desk.jobs.events(second) if event.state == "pending" and "took" in event.data
    ]
    assert refused == []
    assert [desk.jobs.status(job).state for job in (first, second)] == ["succeeded"] * 2


def test_what_is_no_exception_fails_its_row_alone(desk: Desk) -> None:
    """A handler that exits, or cancels itself, fails its own row; the worker goes on."""

    def do(row: type[BaseException] | None) -> None:
        if row is not None:
            raise errors[row]

    errors: dict[Any, BaseException] = {
        "exit": SystemExit(3),
        "cancel": asyncio.CancelledError(),
        "stop": StopIteration(),
    }
    job = desk.submit(["exit", "cancel", "stop", None], do)
    desk.run(job)

    # An async function turns StopIteration into a RuntimeError.
    assert desk.states(job) == ["failed", "failed", "failed", "succeeded"]


def test_a_result_that_cannot_be_stored_is_no_reason_to_call_again(desk: Desk) -> None:
    """The call was made: the row has succeeded, without its result, and says so."""
    job = desk.submit([1], lambda row: object())
    done = desk.run(job)

    step = desk.store.step(job.id, "line:1")
    assert (done.state, step.result) == ("succeeded", None)
    assert "result not stored" in step.error


# Bounds -------------------------------------------------------------------------------------------------------


def test_a_step_that_takes_too_long_is_timed_out(desk: Desk) -> None:
    """A call that exceeds its step's bound is ended, or left behind in its thread, and the row is timed out."""
    job = desk.submit(["fast", "slow"], lambda row: Takes(100.0 if row == "slow" else 1.0), step_timeout=10.0)

    done = desk.run(job)

    assert desk.states(job) == ["succeeded", "timed_out"]
    assert done.errors[0].error == "no result within 10 s"


def test_a_timed_out_step_is_tried_again_while_it_may(desk: Desk) -> None:
    """A timeout is one attempt of several; the deadline is known to the call."""
    left: list[float | None] = []

    def do(row: int, call: Any) -> Takes:
        left.append(remaining())
        assert call.deadline == desk.clock.monotonic() + 10.0
        return Takes(100.0 if call.attempt == 1 else 1.0)

    job = desk.submit([1], do, step_timeout=10.0, max_attempts=2, backoff=STEADY)

    assert desk.run(job).succeeded
    assert left == [10.0, 10.0]


def test_a_worker_that_lives_says_first_that_a_call_took_too_long(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its store is away a worker cannot say so; the watchdog waits for it a little, and the row is retried."""
    advance: Callable[..., Any] = desk.store.advance

    def away(store: Any, *given: Any) -> Any:
        if 10.0 <= desk.clock.elapsed < 13.0:
            raise StoreUnavailableError("store", "is away", "wait")
        return advance(*given)

    monkeypatch.setattr(type(desk.store), "advance", away)

    def do(row: int, call: Any) -> Takes:
        return Takes(100.0 if call.attempt == 1 else 1.0)

    job = desk.submit([1], do, step_timeout=10.0, max_attempts=2, backoff=STEADY)

    assert desk.run(job).succeeded


def test_a_timeout_of_the_handlers_own_is_an_error_like_others(desk: Desk) -> None:
    """A TimeoutExceeded from within is a failure that may pass, not the step's own bound."""

    def do(row: int) -> None:
        raise TimeoutExceeded(1.0)

    job = desk.submit([1], do, step_timeout=10.0)
    desk.run(job)

    assert desk.states(job) == ["failed"]


def test_a_job_past_its_limit_is_timed_out(desk: Desk) -> None:
    """What runs when the job's time is over is cancelled; the job is timed out, what never began stays pending."""
    job = desk.submit(range(5), lambda row: Takes(40.0), job_timeout=60.0)

    done = desk.run(job, concurrency=1)

    assert done.state == "timed_out"
    assert desk.states(job)[0] == "succeeded"
    assert desk.states(job)[2:] == ["pending"] * 3


def test_a_job_that_nobody_ran_expires(desk: Desk) -> None:
    """A job that waits longer than it may is expired by whichever worker passes, and is not run."""
    job = desk.submit([1], echo, mode="confirm", expires_in=60.0)
    other = desk.submit([1], lambda row: Takes(120.0))

    desk.run(other)

    assert desk.jobs.job(job).state == "expired"
    assert [told.job.id for told in desk.told] == [job.id, other.id]


# Limits -------------------------------------------------------------------------------------------------------


def test_concurrency_is_really_that(desk: Desk) -> None:
    """So many calls of a worker run at once, never more."""
    running: set[int] = set()
    counts: list[int] = []

    def do(row: int) -> Takes:
        running.add(row)
        counts.append(len(running))
        return Takes(1.0, ended=lambda: running.remove(row))

    job = desk.submit(range(12), do)

    assert desk.run(job, concurrency=3).succeeded
    assert max(counts) == 3
    assert desk.clock.elapsed == 4.0


def test_a_jobs_own_concurrency_holds_across_workers(desk: Desk) -> None:
    """Two workers of eight lanes make three calls of a job at once, not sixteen."""
    job = desk.submit(range(9), lambda row: Takes(1.0), concurrency=3)
    seen: list[int] = []

    async def both() -> None:
        workers = [desk.worker(job=job.id) for _ in range(2)]
        work = [asyncio.ensure_future(worker.arun()) for worker in workers]
        while not all(one.done() for one in work):
            seen.append(sum(worker.in_flight for worker in workers))
            await desk.clock.asleep(0.25)
        await asyncio.gather(*work)

    desk.clock.run(both())

    assert max(seen) == 3
    assert desk.jobs.status(job).succeeded


def test_a_tenants_concurrency_holds_for_all_its_jobs(desk: Desk) -> None:
    """Two calls of whatever jobs at once; where one ends, another begins in that moment."""
    desk.store.set_concurrency(2)
    begun = desk.clock.time()
    jobs = [desk.submit(range(4), lambda row: Takes(1.0)) for _ in range(2)]
    worker, seen = desk.worker(), list[int]()
    looks = [(0.25 + at, lambda: seen.append(worker.in_flight)) for at in range(4)]

    desk.meanwhile(*looks, (10.0, worker.stop), worker=worker)

    assert seen == [2] * 4
    assert [desk.jobs.job(job).state for job in jobs] == ["succeeded"] * 2
    assert max((desk.jobs.job(job).finished_at or 0.0) - begun for job in jobs) == pytest.approx(4.0)


def test_a_rate_is_kept(desk: Desk) -> None:
    """Two a second: each call begins half a second after the one before it."""
    at: list[float] = []
    job = desk.submit(range(5), lambda row: at.append(desk.clock.elapsed), rate=2.0)

    assert desk.run(job).succeeded
    assert at == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])


def test_a_slow_rate_claims_no_more_than_it_can_use(desk: Desk) -> None:
    """A job that waits for its rate is not claimed row by row into one worker's hands; other jobs go on beside it."""
    slow = desk.submit(range(1000), echo, rate=0.1)
    other = desk.submit(range(100), echo, priority=4)
    worker = desk.worker()
    held: list[int] = []

    def look() -> None:
        held.append(desk.jobs.job(slow).counts.running)

    desk.meanwhile(*[(at, look) for at in (5.0, 15.0, 25.0)], (30.0, worker.stop), worker=worker)

    assert max(held) <= 50
    assert desk.jobs.status(slow).counts.succeeded == 3
    assert desk.jobs.status(other).succeeded


def test_the_urgent_comes_first(desk: Desk) -> None:
    """Jobs are taken by priority, then by age."""
    seen: list[str] = []
    handler = desk.handler(seen.append)
    for name, priority in (("low", 4), ("normal", 3), ("normal, later", 3), ("critical", 1)):
        desk.submit([name], handler, priority=priority)

    worker = desk.worker(concurrency=1)
    desk.meanwhile((1.0, worker.stop), worker=worker)

    assert seen == ["critical", "normal", "normal, later", "low"]


def test_steps_wait_for_those_they_depend_on(desk: Desk) -> None:
    """A row begins when all it depends on have succeeded; what depends on a failure fails without a call."""
    seen: list[str] = []

    def do(row: str) -> None:
        seen.append(row)
        if row == "bad":
            raise ValueError

    steps = [
        Step(key="last", payload="last", depends_on=("first", "second")),
        Step(key="second", payload="second", depends_on=("first",)),
        Step(key="first", payload="first"),
        Step(key="bad", payload="bad"),
        Step(key="after bad", payload="after bad", depends_on=("bad",)),
    ]
    job = desk.submit(steps, do)
    done = desk.run(job)

    assert [row for row in seen if row != "bad"] == ["first", "second", "last"]
    assert done.state == "partially_failed"
    assert "bad" in desk.store.step(job.id, "after bad").error
    assert desk.clock.elapsed == 0.0


# Stopping -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", ["each", "group"])
def test_a_stopped_worker_drains(desk: Desk, record: str) -> None:
    """What runs ends and is recorded, what was claimed goes back, no attempt is consumed; another goes on."""
    job = desk.submit(range(10), lambda row: Takes(10.0))
    worker = desk.worker(concurrency=2, record=record)

    desk.meanwhile((5.0, worker.stop), worker=worker)

    assert desk.states(job) == ["succeeded"] * 2 + ["pending"] * 8
    assert desk.attempts(job) == [1] * 2 + [0] * 8
    assert desk.store.workers() == []
    assert desk.run(job).succeeded
    assert desk.attempts(job) == [1] * 10


def test_a_worker_that_is_stopped_twice_cancels_what_runs(desk: Desk) -> None:
    """The second time calls are cancelled: an idempotent one goes back without an attempt, others need review."""
    safe = desk.submit([1], desk.handler(lambda row: Takes(100.0), idempotent=True))
    unsafe = desk.submit([1], desk.handler(lambda row: Takes(100.0)))
    worker = desk.worker(grace=2.0)

    desk.meanwhile((5.0, worker.stop), (6.0, worker.stop), worker=worker)

    assert (desk.states(safe), desk.attempts(safe)) == (["pending"], [0])
    assert desk.states(unsafe) == ["needs_review"]
    assert "stopped" in desk.store.step(unsafe.id, "line:1").error


def test_draining_has_an_end(desk: Desk) -> None:
    """Calls that take longer than the drain are cancelled."""
    job = desk.submit([1], lambda row: Takes(1000.0))
    worker = desk.worker(drain=20.0, grace=2.0)

    desk.meanwhile((5.0, worker.stop), worker=worker)

    assert desk.states(job) == ["needs_review"]


def test_a_cancelled_run_hands_back(desk: Desk) -> None:
    """Cancelling the coroutine cancels the calls, gives the lease back, and is not swallowed."""
    job = desk.submit(range(5), desk.handler(lambda row: Takes(100.0), idempotent=True))

    async def main() -> None:
        work = asyncio.ensure_future(desk.jobs.arun(job, concurrency=2))
        await desk.clock.asleep(5.0)
        work.cancel()
        await work

    with pytest.raises(asyncio.CancelledError):
        desk.clock.run(main())
    assert desk.states(job) == ["pending"] * 5
    assert desk.store.workers() == []
    assert desk.clock.elapsed < 15.0


def test_pausing_lets_running_calls_end(desk: Desk) -> None:
    """After a pause nothing begins; what runs ends; the job can be resumed."""
    job = desk.submit(range(6), lambda row: Takes(10.0))
    desk.meanwhile((5.0, lambda: desk.jobs.pause(job)), worker=desk.worker(concurrency=2, job=job.id))

    assert desk.states(job) == ["succeeded"] * 2 + ["pending"] * 4
    assert desk.jobs.resume(job).succeeded


def test_cancelling_reaches_running_handlers(desk: Desk) -> None:
    """A running call is told, ends within its grace, and what it returns then counts."""
    told: list[float] = []

    def do(row: int, call: Any) -> Any:
        while not call.cancelled:
            desk.clock.sleep(0.5)
        told.append(desk.clock.elapsed)
        return "in time"

    async def ado(row: int, call: Any) -> Any:
        try:
            await desk.clock.asleep(1000.0)
        except asyncio.CancelledError:
            told.append(desk.clock.elapsed)
            return "in time"

    job = desk.submit([1, 2], Handler(do if desk.mode == "sync" else ado, name="waits"))
    worker = desk.worker(concurrency=1, job=job.id)
    desk.meanwhile((5.0, lambda: desk.jobs.cancel(job)), worker=worker)

    assert desk.states(job) == ["succeeded", "cancelled"]
    assert desk.results(job)[0] == "in time"
    assert 5.0 <= told[0] <= 6.5


def test_a_handler_that_ignores_its_cancellation_is_given_up(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """After the grace a call that goes on needs review, and the worker ends without it."""

    async def ado(row: int) -> None:
        for _ in range(10):
            try:
                await desk.clock.asleep(1000.0)
            except asyncio.CancelledError:
                pass

    handler = desk.handler(lambda row: Takes(1000.0)) if desk.mode == "sync" else Handler(ado, name="deaf")
    job = desk.submit([1], handler)
    worker = desk.worker(grace=2.0, job=job.id)
    with caplog.at_level("WARNING", logger="holdfast.jobs"):
        desk.meanwhile((5.0, lambda: desk.jobs.cancel(job)), worker=worker)

    assert desk.states(job) == ["needs_review"]
    assert desk.jobs.job(job).state == "cancelled"
    assert [(call.job, call.key) for call in worker.abandoned] == [(job.id, "line:1")]
    assert (
        f"did not end in the grace of 2 s, though they may have been made: 'line:1' of job {job.id}"
        in caplog.text
    )


def test_a_call_that_was_given_up_and_ends_is_forgotten(desk: Desk) -> None:
    """Only what goes on counts as abandoned: a call that ended after all, or in its grace, does not."""

    async def ado(row: int) -> None:
        for _ in range(3):
            try:
                await desk.clock.asleep(20.0)
            except asyncio.CancelledError:
                pass

    handler = desk.handler(lambda row: Takes(25.0)) if desk.mode == "sync" else Handler(ado, name="slow")
    first = desk.submit([1], handler)
    desk.submit([2], desk.handler(lambda row: Takes(6.0)))
    worker = desk.worker(grace=2.0)
    seen = desk.meanwhile(
        (5.0, lambda: desk.jobs.cancel(first)),
        (10.0, lambda: [call.key for call in worker.abandoned]),
        (40.0, lambda: worker.abandoned),
        (41.0, worker.stop),
        worker=worker,
    )
    assert seen[1:3] == [["line:1"], ()]


# Leases -------------------------------------------------------------------------------------------------------


def test_a_lease_is_renewed_while_calls_run(desk: Desk) -> None:
    """A call that takes ten leases is not taken away from a worker that lives."""
    job = desk.submit([1], lambda row: Takes(150.0))

    async def main() -> None:
        work = asyncio.ensure_future(desk.worker(job=job.id, lease=15.0).arun())
        for _ in range(14):
            await desk.clock.asleep(10.0)
            assert desk.jobs.recover() == []
        await work

    desk.clock.run(main())
    assert desk.jobs.status(job).succeeded


def test_a_worker_that_lost_its_lease_records_nothing(desk: Desk) -> None:
    """Frozen past its lease, a worker finds its steps taken: its late result is refused, and it begins anew."""
    seen: list[int] = []

    def do(row: int, call: Any) -> Takes:
        seen.append(call.attempt)
        return Takes(30.0 if len(seen) == 1 else 1.0, f"call {len(seen)}")

    job = desk.submit([1], desk.handler(do, idempotent=True))
    worker = desk.worker(job=job.id)

    def rob() -> None:
        desk.store.recover([worker.id])

    desk.meanwhile((5.0, rob), worker=worker)

    assert desk.results(job) == ["call 2"]
    assert desk.jobs.status(job).succeeded


def test_a_lease_is_lost_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A renewal that learns of the loss when the worker has begun anew already says nothing of the new lease."""
    renew: Callable[..., Any] = desk.store.renew
    register: Callable[..., Any] = desk.store.register
    begun: list[str] = []
    began_anew = threading.Event()

    def late(store: Any, name: str, *given: Any) -> None:
        if name == begun[0]:
            assert began_anew.wait(10)
        renew(name, *given)

    def registered(store: Any, record: Any, lease: float) -> Any:
        begun.append(record.id)
        if len(begun) == 2:
            began_anew.set()
        return register(record, lease)

    monkeypatch.setattr(type(desk.store), "renew", late)
    monkeypatch.setattr(type(desk.store), "register", registered)

    def do(row: float, call: Any) -> Takes:
        return Takes(row if call.attempt == 1 else 1.0, call.attempt)

    # With the first renewal, just after the loss, the first row ends, and the worker learns of it.
    job = desk.submit([5.0, 30.0], desk.handler(do, idempotent=True))
    worker = desk.worker(job=job.id)
    desk.meanwhile((5.0, lambda: desk.store.recover([worker.id])), worker=worker)

    assert desk.results(job) == [2, 2]
    assert (len(begun), caplog.text.count("lost its lease")) == (2, 1)


# What workers know --------------------------------------------------------------------------------------------


def test_a_worker_leaves_jobs_alone_that_it_cannot_do(desk: Desk) -> None:
    """A worker with handlers of its own claims only theirs; the other job stays untouched for who knows it."""
    mine, other = desk.handler(echo, name="mine"), desk.handler(echo, name="other")
    jobs = [desk.submit([1], mine), desk.submit([1], other)]
    worker = Worker(desk.store, Handlers([mine], imports=False))

    desk.meanwhile((2.0, worker.stop), worker=worker)

    assert [desk.jobs.job(job).state for job in jobs] == ["succeeded", "pending"]


def test_a_handler_that_cannot_be_imported_blocks_no_other_job(desk: Desk) -> None:
    """A worker that imports handlers hands back what it cannot find, says so, and does the rest."""
    lost = desk.submit([1], desk.handler(echo, name="gone:away"), priority=1)
    fine = desk.submit([1], desk.handler(echo, name="fine"))
    worker = Worker(desk.store, [desk.jobs.handlers.find("fine")])

    desk.meanwhile((2.0, worker.stop), worker=worker)

    assert (desk.states(lost), desk.attempts(lost)) == (["pending"], [0])
    assert desk.jobs.status(fine).succeeded


def test_running_a_job_without_its_handler_is_an_error(desk: Desk) -> None:
    """Who runs one job whose handler is nowhere to be found is told, and the job is as it was."""
    job = desk.submit([1], desk.handler(echo, name="gone:away"))
    worker = Worker(desk.store, job=job.id)

    with pytest.raises(HandlerNotFoundError, match="gone"):
        desk.meanwhile(worker=worker)
    assert desk.states(job) == ["pending"]


def test_a_worker_runs_once(desk: Desk) -> None:
    """A worker that has run is of no further use; faulty settings are told together."""
    worker = desk.worker(job=desk.submit([1], echo).id)
    desk.meanwhile(worker=worker)

    with pytest.raises(RuntimeError, match="make another one"):
        desk.meanwhile(worker=worker)
    with pytest.raises(ConfigurationError) as caught:
        desk.worker(concurrency=0, lease=0.0, record="none")
    assert [fault.path for fault in caught.value.faults] == ["concurrency", "record", "lease"]


# Reconciliation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "state", "called"),
    [(Done({"found": True}), "succeeded", 1), (NotDone(), "succeeded", 2), (Unknown("?"), "needs_review", 1)],
    ids=["done", "not done", "unknown"],
)
def test_a_handler_is_asked_what_became_of_its_call(desk: Desk, answer: Any, state: str, called: int) -> None:
    """After a crash: what was done is taken over, what was not is called, what nobody knows needs a person."""
    seen: list[str] = []
    asked: list[str] = []

    def reconcile(key: str) -> Any:
        asked.append(key)
        return answer

    async def areconcile(key: str) -> Any:
        return reconcile(key)

    handler = desk.handler(seen.append, reconcile=reconcile if desk.mode == "sync" else areconcile)
    job = desk.submit(["a", "b"], handler)
    desk.left_by_the_dead(job, claimed=2, begun=1)
    desk.run(job)

    assert asked == [f"{job.id}:line:1"]
    assert desk.states(job) == [state, "succeeded"]
    assert len(seen) == called


def test_a_worker_asks_about_what_others_leave_while_it_runs(desk: Desk) -> None:
    """A row that another worker leaves in doubt is taken over and asked about, without anybody's doing."""

    def reconcile(key: str) -> Done:
        return Done("found")

    handler = desk.handler(echo, reconcile=reconcile)
    worker = desk.worker()

    def leave() -> Any:
        job = desk.submit([1], handler)
        desk.die_with(job, claimed=1, begun=1)
        return job

    job, _ = desk.meanwhile((5.0, leave), (10.0, worker.stop), worker=worker)

    assert desk.results(job) == ["found"]


def test_a_run_waits_for_the_answer_about_its_last_row(desk: Desk) -> None:
    """A job is not left while its handler is being asked: what was not done is done in the same run."""
    seen: list[int] = []

    async def reconcile(key: str) -> NotDone:
        await desk.clock.asleep(3.0)
        return NotDone()

    job = desk.submit([1, 2], desk.handler(seen.append, reconcile=reconcile))
    desk.die_with(job, claimed=1, begun=1)

    assert desk.run(job).succeeded
    assert seen == [2, 1]


def test_a_reconciliation_that_fails_decides_nothing(desk: Desk) -> None:
    """If asking fails for good, a person has to decide; an error that passes is asked again."""
    asked: list[int] = []

    def reconcile(key: str) -> Done:
        asked.append(1)
        raise ConnectionError if "line:1" in key else KeyError(key)

    job = desk.submit([1, 2], desk.handler(echo, reconcile=reconcile))
    desk.left_by_the_dead(job, claimed=2, begun=2)
    desk.run(job)

    assert desk.states(job) == ["needs_review"] * 2
    assert len(asked) == 4


def test_a_person_may_ask_later(desk: Desk) -> None:
    """What was unknown can be asked again by hand, and says what it found by key."""
    answers: list[Any] = [Unknown(), Done("now I know")]

    def reconcile(key: str) -> Any:
        return answers.pop(0)

    job = desk.submit([1], desk.handler(echo, reconcile=reconcile))
    desk.left_by_the_dead(job, claimed=1, begun=1)
    desk.run(job)

    found = desk.jobs.reconcile(job)

    assert (found.done, found.not_done, found.unknown) == (("line:1",), (), ())
    assert desk.results(job) == ["now I know"]


# Observers and outages ----------------------------------------------------------------------------------------


def test_ends_are_told_once(desk: Desk) -> None:
    """The notifier hears each end of a job once, and of a batch with its last job."""
    batch = desk.jobs.create_batch("May")
    first = desk.submit([1], echo, batch=batch.id)
    second = desk.submit([1], echo, batch=batch.id)
    desk.run(first)
    desk.run(second)

    assert [told.job.id for told in desk.told] == [first.id, second.id]
    assert desk.told[0].batch is None
    assert desk.told[1].batch is not None
    assert desk.told[1].batch.state == "succeeded"


def test_ends_by_hand_are_told_too(desk: Desk) -> None:
    """Who cancels, approves nothing, or resolves the last row ends a job: that is told once as well."""
    cancelled = desk.submit([1], echo)
    desk.jobs.cancel(cancelled)
    empty = desk.submit([], echo, mode="confirm")
    desk.jobs.approve(empty, desk.jobs.preview(empty).digest)
    doubtful = desk.submit([1], echo)
    desk.left_by_the_dead(doubtful, claimed=1, begun=1)
    desk.jobs.recover()
    desk.jobs.resolve(doubtful, "line:1", "failed")
    desk.jobs.create_batch(batch_id="May")
    together = [desk.submit([1], echo, batch="May") for _ in range(2)]
    desk.jobs.cancel_batch("May")

    told = [one.job.id for one in desk.told]
    assert told[:3] == [cancelled.id, empty.id, doubtful.id]
    assert sorted(told[3:]) == sorted(job.id for job in together)


def test_an_end_by_reconciliation_is_told(desk: Desk) -> None:
    """A job whose last row in doubt turns out to be done has ended, and that is told once."""

    def reconcile(key: str) -> Done:
        return Done()

    job = desk.submit([1], desk.handler(echo, reconcile=reconcile))
    desk.left_by_the_dead(job, claimed=1, begun=1)

    assert desk.run(job).succeeded
    assert [told.job.id for told in desk.told] == [job.id]


def test_a_failing_notifier_changes_nothing(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever is told and raises is logged; the job has ended all the same."""

    class Grumpy:
        def notify(self, ended: Any) -> None:
            raise ValueError("leave me alone")

    job = desk.submit([1], echo)
    desk.meanwhile(worker=Worker(desk.store, desk.jobs.handlers, job=job.id, notifier=Grumpy()))

    assert desk.jobs.status(job).succeeded
    assert "telling that job" in caplog.text


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_store_that_is_away_for_a_while_costs_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    """Commits that fail, before or after they happened, are made again: no row is lost or called twice."""
    advance: Callable[..., Any] = desk.store.advance
    fails = [1, 3, 4]
    calls = 0

    def flaky(store: Any, *given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls not in fails:
            return advance(*given)
        if after:
            advance(*given)
        raise StoreUnavailableError("store", "is away", "wait", certain=not after)

    monkeypatch.setattr(type(desk.store), "advance", flaky)
    seen: list[int] = []
    job = desk.submit(range(5), seen.append)

    assert desk.run(job, concurrency=1).succeeded
    assert seen == [0, 1, 2, 3, 4]
    assert desk.attempts(job) == [1] * 5
