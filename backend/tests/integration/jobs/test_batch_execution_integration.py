"""Batches of rows, from preview to write-back: every row once, money exact, the truth about the end."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from backend.tests.integration.jobs._desk import STEADY, Desk, Letterbox, Takes
from backend.tests.integration.jobs._desk import letterbox as a_letterbox
from holdfast import CircuitBreaker, ConfigurationError, Retry, Window
from holdfast.infrastructure.store.state import (
    ConflictError,
    IllegalTransition,
    SubmissionError,
    WorkerRecord,
)
from holdfast.services.jobs import (
    CsvSource,
    Handler,
    Mode,
    ModeLockedError,
    NotApprovedError,
    NotConfirmedError,
    NotEndedError,
    Session,
    Step,
)
from holdfast.services.jobs.writeback import WriteBackBusyError, write_back

pytestmark = pytest.mark.parametrize("store_kind", ["memory", "sqlite"], indirect=True)

WriteFile = Callable[..., Path]


def echo(payload: Any) -> Any:
    return payload


def order(row: int) -> str:
    return f"order {row}"


def quoting(desk: Desk, quote: Callable[[Any], Any], **settings: Any) -> Handler:
    """Return a handler that quotes; the quote is sync or async, as the handler is."""

    async def aquote(payload: Any) -> Any:
        return quote(payload)

    return desk.handler(echo, estimate=quote if desk.mode == "sync" else aquote, **settings)


# Preview and approval -----------------------------------------------------------------------------------------


def test_a_preview_quotes_every_row_of_a_small_batch(desk: Desk) -> None:
    """Up to twenty rows are all quoted, so that the estimate is the exact sum."""
    job = desk.submit([1, 2, 3], quoting(desk, lambda row: Decimal("0.10") * row), mode="confirm")

    preview = desk.jobs.preview(job)

    assert [quote.amount for quote in preview.quotes] == [Decimal("0.10"), Decimal("0.20"), Decimal("0.30")]
    assert (preview.estimate, preview.low, preview.high) == (Decimal("0.60"),) * 3
    assert preview.exact
    assert desk.jobs.job(job).state == "previewed"


def test_a_preview_extrapolates_a_large_batch(desk: Desk) -> None:
    """Of a large batch the first twenty are quoted: the sum, and their mean for each of the others."""
    job = desk.submit(range(1, 1001), quoting(desk, lambda row: Decimal(row) / 100), mode="confirm")

    preview = desk.jobs.preview(job)

    assert len(preview.quotes) == 20
    assert preview.quoted == Decimal("2.10")
    assert preview.estimate == Decimal("105.00")
    assert (preview.low, preview.high) == (Decimal("11.90"), Decimal("198.10"))
    assert not preview.exact


def test_a_preview_names_the_rows_whose_quote_failed(desk: Desk) -> None:
    """A quote that fails is named with its error, and the others are extrapolated over it too."""

    def quote(row: int) -> Decimal:
        if row == 2:
            raise ValueError("no tariff")
        return Decimal("1.50")

    job = desk.submit([1, 2, 3], quoting(desk, quote), mode="confirm", key=order)

    preview = desk.jobs.preview(job)

    assert preview.failed == ("order 2",)
    assert preview.quotes[1].error == "ValueError: no tariff"
    assert preview.estimate == Decimal("4.50")


def test_a_preview_of_nothing_costs_nothing(desk: Desk) -> None:
    """An empty batch has an estimate of zero, and runs to success once it is approved."""
    job = desk.submit([], quoting(desk, lambda row: Decimal(1)), mode="confirm")

    preview = desk.jobs.preview(job)
    desk.jobs.approve(job, preview.digest)

    assert (preview.estimate, preview.total, preview.failed) == (Decimal(0), 0, ())
    assert desk.run(job).state == "succeeded"


def test_a_preview_without_a_single_quote_estimates_nothing(desk: Desk) -> None:
    """When every quote fails there is no estimate, rather than one of zero."""
    job = desk.submit([1], quoting(desk, lambda row: 1.5), mode="confirm")

    preview = desk.jobs.preview(job)

    assert (preview.estimate, preview.low, preview.high) == (None, None, None)
    assert "give a finite Decimal" in preview.quotes[0].error


def test_a_handler_that_cannot_quote_previews_its_rows(desk: Desk) -> None:
    """Without an estimate the preview shows the rows, no amounts, and can be approved all the same."""
    job = desk.submit([1, 2], echo, mode="confirm")

    preview = desk.jobs.preview(job)

    assert [(quote.key, quote.amount, quote.error) for quote in preview.quotes] == [
        ("line:1", None, ""),
        ("line:2", None, ""),
    ]
    assert desk.jobs.approve(job, preview.digest).state == "running"


def test_quotes_go_through_the_handlers_policy(desk: Desk) -> None:
    """What protects the calls protects their quotes: a retry hides a failure that passes."""
    asked: list[int] = []

    def quote(row: int) -> Decimal:
        asked.append(row)
        if len(asked) == 1:
            raise ConnectionError
        return Decimal(2)

    job = desk.submit([7], quoting(desk, quote, policy=Retry(attempts=2)), mode="confirm")

    assert desk.jobs.preview(job).estimate == Decimal(2)
    assert asked == [7, 7]


def test_a_job_does_not_run_before_it_was_approved(desk: Desk) -> None:
    """In mode confirm a job waits for its preview, then for approval, and says so."""
    job = desk.submit([1], echo, mode="confirm")
    with pytest.raises(NotApprovedError, match="preview it"):
        desk.run(job)

    preview = desk.jobs.preview(job)
    with pytest.raises(NotApprovedError, match="approve its digest"):
        desk.run(job)

    desk.jobs.approve(job, preview.digest)
    assert desk.run(job).state == "succeeded"


def test_approval_is_bound_to_what_was_previewed(desk: Desk) -> None:
    """A digest of other rows approves nothing; equal rows have equal digests, others have not."""
    job, same, other = (desk.submit(rows, echo, mode="confirm") for rows in ([1, 2], [1, 2], [1, 3]))
    digests = [desk.jobs.preview(one).digest for one in (job, same, other)]

    assert digests[0] == digests[1] != digests[2]
    with pytest.raises(ConflictError, match="rows of job"):
        desk.jobs.approve(job, digests[2])
    assert desk.jobs.job(job).state == "previewed"


def test_approval_is_refused_when_the_file_changed(desk: Desk, file: WriteFile) -> None:
    """Who approves has seen the file: when its rows have changed since, execution is refused."""
    path = file("id,price\n1,10\n")
    job = desk.submit(path, echo, mode="confirm")
    preview = desk.jobs.preview(job)
    file("id,price\n1,99\n")

    with pytest.raises(ConflictError, match=r"orders\.csv"):
        desk.jobs.approve(job, preview.digest)


def test_preview_then_execute(desk: Desk) -> None:
    """From preview to the end: what was quoted is what is done."""
    handler = quoting(desk, Decimal)
    job = desk.submit([1, 2, 3], handler, mode="confirm")

    preview = desk.jobs.preview(job)
    desk.jobs.approve(job, preview.digest)
    done = desk.run(job)

    assert done.succeeded
    assert desk.jobs.total(job, lambda result: result) == preview.estimate == Decimal(6)


# Execution ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", ["each", "group"])
def test_every_row_is_executed_once(desk: Desk, record: str) -> None:
    """All rows are executed, each once and in order, and each has its result."""
    seen: list[int] = []

    def do(row: int) -> int:
        seen.append(row)
        return row * 2

    job = desk.submit(range(120), do)

    done = desk.run(job, concurrency=1, record=record)

    assert seen == list(range(120))
    assert desk.results(job) == [row * 2 for row in range(120)]
    assert (done.state, done.percent, done.counts.succeeded) == ("succeeded", 100.0, 120)


def test_auto_skips_the_preview(desk: Desk) -> None:
    """In mode auto a job runs as soon as it was submitted."""
    desk.jobs.session.mode = Mode.AUTO

    job = desk.jobs.submit([1], desk.handler(echo))

    assert desk.run(job).succeeded
    assert "previewed" not in [event.state for event in desk.jobs.events(job)]


@pytest.mark.parametrize("record", ["each", "group"])
def test_fail_fast_halts_at_the_first_error(desk: Desk, record: str) -> None:
    """The third of five rows fails: the first two are done, the rest stays pending and is never called."""
    seen: list[int] = []

    def do(row: int) -> None:
        seen.append(row)
        if row == 3:
            raise ValueError("bad row")

    job = desk.submit([1, 2, 3, 4, 5], do, on_error="fail_fast")

    done = desk.run(job, record=record)

    assert seen == [1, 2, 3]
    assert desk.states(job) == ["succeeded", "succeeded", "failed", "pending", "pending"]
    assert (done.state, done.halted, done.succeeded) == ("partially_failed", True, False)


def test_a_group_that_was_announced_halts_as_well(desk: Desk) -> None:
    """Rows that were announced together with one that fails the job are handed back, uncalled and unattempted."""
    seen: list[int] = []

    def do(row: int) -> Takes:
        seen.append(row)
        if row == 3:
            raise ValueError("bad row")
        return Takes(0.01)

    job = desk.submit(range(1, 31), do, on_error=1)
    desk.run(job, concurrency=1, record="group")

    assert seen == [1, 2, 3]
    assert desk.attempts(job) == [1] * 3 + [0] * 27
    assert desk.jobs.job(job).state == "partially_failed"


@pytest.mark.parametrize(
    ("on_error", "called"),
    [("continue", 10), (3, 6), (0.2, 6)],
)
def test_an_error_policy_bears_so_many_failures(desk: Desk, on_error: Any, called: int) -> None:
    """Every even row fails: go on to the end, or halt at so many failures, or above a share of all rows."""
    seen: list[int] = []

    def do(row: int) -> None:
        seen.append(row)
        if row % 2 == 0:
            raise ValueError

    job = desk.submit(range(1, 11), do, on_error=on_error, concurrency=1)

    assert desk.run(job).state == "partially_failed"
    assert len(seen) == called


def test_a_batch_of_which_nothing_succeeded_has_failed(desk: Desk) -> None:
    """Failed is what failed whole; its first errors are told by row."""

    def do(row: int) -> None:
        raise ValueError(f"no {row}")

    job = desk.submit([1, 2], do)

    done = desk.run(job)

    assert done.state == "failed"
    assert [(error.key, error.error) for error in done.errors] == [
        ("line:1", "ValueError: no 1"),
        ("line:2", "ValueError: no 2"),
    ]


def test_the_total_is_exact(desk: Desk) -> None:
    """A thousand times 0.10 is 100.00, to the cent and as Decimal; floats are refused."""
    job = desk.submit(range(1000), lambda row: {"cost": Decimal("0.10"), "weight": 0.1})
    desk.run(job, record="group")

    assert str(desk.jobs.total(job, "cost")) == "100.00"
    with pytest.raises(TypeError, match="Decimal"):
        desk.jobs.total(job, "weight")


def test_an_empty_batch_succeeds(desk: Desk) -> None:
    """Nothing to do is done at once."""
    job = desk.submit([], echo)

    assert (job.state, desk.run(job).percent) == ("succeeded", 0.0)


def test_a_handler_is_told_which_call_it_makes(desk: Desk) -> None:
    """The call carries job, key, line and attempt, and an idempotency key that is the same for each attempt."""
    calls: list[tuple[Any, ...]] = []

    def do(row: str, call: Any) -> None:
        calls.append((call.job, call.key, call.line, call.attempt, call.idempotency_key))
        if row == "b" and call.attempt == 1:
            raise ConnectionError

    job = desk.submit(["a", "b"], do, key=str, max_attempts=2, backoff=STEADY)
    desk.run(job, concurrency=1)

    assert calls == [
        (job.id, "a", 1, 1, f"{job.id}:a"),
        (job.id, "b", 2, 1, f"{job.id}:b"),
        (job.id, "b", 2, 2, f"{job.id}:b"),
    ]


def test_payloads_and_results_come_back_exactly(desk: Desk) -> None:
    """What a handler gets is what was submitted, what it returns is what is kept: Decimal stays Decimal."""
    payload = {"price": Decimal("1.20"), "tags": ("a", b"\x00"), "none": None}
    job = desk.submit([payload], echo)
    desk.run(job)

    assert desk.results(job) == [payload]
    assert str(desk.results(job)[0]["price"]) == "1.20"


# Faults of a submission ---------------------------------------------------------------------------------------


def test_all_faults_of_a_submission_are_told_together(desk: Desk) -> None:
    """Payloads that cannot be stored, rows that a validator refuses, duplicates and unknown steps: all by name."""

    def positive(row: Any) -> None:
        if row == -1:
            raise ValueError("must be positive")

    steps = [
        Step(key="a", payload=1),
        Step(key="b", payload=object()),
        Step(key="c", payload=-1),
        Step(key="a", payload=2),
        Step(key="d", payload=3, depends_on=("nobody",)),
    ]
    with pytest.raises(SubmissionError) as caught:
        desk.submit(steps, desk.handler(echo, validate=positive))

    said = "\n".join(caught.value.faults)
    assert len(caught.value.faults) == 4
    for part in ("row 'b'", "row 'c': must be positive", "'a'", "'nobody'"):
        assert part in said
    assert desk.jobs.find() == []


def test_faults_of_a_file_are_told_by_line(desk: Desk, file: WriteFile) -> None:
    """Ragged rows of a file are faults of the submission, and nothing is stored."""
    path = file("id,price\n1,10\n2\n3,30,x\n")

    with pytest.raises(SubmissionError, match="line 3") as caught:
        desk.submit(path, echo, key="id")

    assert len(caught.value.faults) == 2
    assert desk.jobs.find() == []


def test_a_validator_may_change_what_is_stored(desk: Desk, file: WriteFile) -> None:
    """What a validator returns is the payload: text of a CSV file becomes Decimal once, before it is stored."""
    path = file("id,price\n7,1.50\n")

    def priced(row: dict[str, str]) -> dict[str, Decimal]:
        return {"price": Decimal(row["price"])}

    job = desk.submit(path, desk.handler(echo, validate=priced), key="id")
    desk.run(job)

    assert desk.results(job) == [{"price": Decimal("1.50")}]


def test_faulty_settings_are_told_together(desk: Desk) -> None:
    """Every setting out of range is named in one error."""
    with pytest.raises(ConfigurationError) as caught:
        desk.submit([], echo, priority=9, on_error=1.5, max_attempts=0, rate=-1, step_timeout=0)

    assert [fault.path for fault in caught.value.faults] == [
        "priority",
        "max_attempts",
        "step_timeout",
        "rate",
        "on_error",
    ]


def test_a_second_submission_of_a_key_returns_the_first_job(desk: Desk) -> None:
    """A deduplication key makes a submission happen once; the rows of the second are not read."""
    first = desk.submit([1], echo, dedup_key="orders of May")
    second = desk.submit([2, 3], echo, dedup_key="orders of May")

    assert second.id == first.id
    assert len(desk.jobs.find()) == 1


# Write-back ---------------------------------------------------------------------------------------------------


def test_results_are_written_back_to_their_rows(desk: Desk, file: WriteFile) -> None:
    """Each result goes to its own row, found by its key, in a column that is appended."""
    path = file("id;name\n7;Ann\n8;Bob\n9;Cid\n")

    def do(row: dict[str, str]) -> dict[str, str]:
        if row["id"] == "8":
            raise ValueError
        return {"tracking": f"T{row['id']}"}

    job = desk.submit(path, do, key="id", write_back={"tracking": "tracking_no"})
    done = desk.run(job)

    assert path.read_text(encoding="utf-8") == "id;name;tracking_no\n7;Ann;T7\n8;Bob;\n9;Cid;T9\n"
    assert (done.unwritten, done.dead) == (0, 0)


def test_a_source_that_changed_meanwhile_is_not_written_to(desk: Desk, file: WriteFile) -> None:
    """Results of a file that somebody changed become dead letters; steps and file stay as they are."""
    path = file("id\n7\n")

    def do(row: dict[str, str]) -> dict[str, str]:
        file("id\n7\n8\n")
        return {"tracking": "T7"}

    job = desk.submit(path, do, key="id", write_back={"tracking": "tracking"})
    done = desk.run(job)

    assert (done.state, done.dead) == ("succeeded", 1)
    assert path.read_text(encoding="utf-8") == "id\n7\n8\n"
    assert "SourceChangedError" in desk.jobs.dead_letters(job)[0].error


def test_a_failed_write_back_is_tried_again(desk: Desk, letterbox: type[Letterbox]) -> None:
    """A write-back that fails passes when the place is there again; the results were never in doubt."""
    letterbox.closed[:] = [1, 2]
    job = desk.submit([1, 2], echo, write_back=a_letterbox)

    done = desk.run(job)

    assert letterbox.taken == {"line:1": {"result": 1}, "line:2": {"result": 2}}
    assert (done.state, done.unwritten, done.dead, len(letterbox.offered)) == ("succeeded", 0, 0, 3)


def test_a_write_back_that_never_passes_is_a_dead_letter(desk: Desk, letterbox: type[Letterbox]) -> None:
    """After five tries those results are dead letters that cannot be written, no others; they can be written later."""
    letterbox.refused[:] = ["line:3"]
    job = desk.submit(range(1, 9), echo, write_back=a_letterbox)

    done = desk.run(job)

    (dead,) = desk.jobs.dead_letters(job)
    assert (done.state, done.dead, dead.key, dead.attempts) == ("succeeded", 1, "line:3", 5)
    assert len(letterbox.taken) == 7
    letterbox.refused.clear()
    assert desk.jobs.write_back(job) == 1
    assert len(letterbox.taken) == 8
    assert desk.jobs.dead_letters(job) == []


def test_a_write_back_that_another_does_is_said_so(desk: Desk, letterbox: type[Letterbox]) -> None:
    """Nothing is written, and who writes now is named; when it is done, all is written that was not."""
    letterbox.refused[:] = ["line:1"]
    job = desk.submit([1], echo, write_back=a_letterbox)
    desk.run(job)
    letterbox.refused.clear()
    other = WorkerRecord(id="other", host="desk/1", pid=77, born="", expires_at=0.0)
    desk.store.register(other, 60.0)
    lock = desk.store.acquire(f"write-back of {job.id}", "other", 60.0)

    with pytest.raises(WriteBackBusyError) as caught:
        desk.jobs.write_back(job)

    assert str(caught.value) == (
        f"results of job {job.id!r}: worker 'other', process 77 on desk, writes them back now; "
        "wait until it is done, or end it"
    )
    assert len(desk.jobs.dead_letters(job)) == 1
    assert lock is not None
    desk.store.unlock(lock)
    assert (desk.jobs.write_back(job), letterbox.taken) == (1, {"line:1": {"result": 1}})


def test_a_file_that_another_writes_to_is_said_to_be_busy(desk: Desk, file: WriteFile) -> None:
    """What waits for a file that is being written at this moment is neither written nor lost."""
    path = file("id\n7\n")
    job = desk.submit(path, lambda row: {"tracking": "T7"}, key="id", write_back={"tracking": "tracking"})
    away = path.rename(path.with_name("away.csv"))
    path.mkdir()
    assert desk.run(job).dead == 1
    path.rmdir()
    away.rename(path)

    def collide(_: object) -> None:
        with pytest.raises(WriteBackBusyError, match="is being written by another; try again later"):
            desk.jobs.write_back(job)

    write_back(CsvSource(path, key="id"), {"note": "note"}).apply([("7", {"note": "x"})], announce=collide)
    assert path.read_text(encoding="utf-8") == "id,note\n7,x\n"
    assert len(desk.jobs.dead_letters(job)) == 1


def test_a_write_back_needs_a_place_to_write_to(desk: Desk, file: WriteFile) -> None:
    """Results of rows from memory, or to columns that are no names, have nowhere to go: told at submission."""
    with pytest.raises(ConfigurationError, match="no file to write to"):
        desk.submit([1], echo, write_back={"a": "b"})
    with pytest.raises(ConfigurationError, match="says not where"):
        desk.submit(file("id\n1\n"), echo, write_back=7)
    with pytest.raises(ConfigurationError, match="function"):
        desk.submit(CsvSource(file("id\n1\n"), key=lambda row: row["id"]), echo, write_back={"a": "b"})


# Interrupted, resumed, restarted ------------------------------------------------------------------------------


def test_a_job_that_runs_is_not_interrupted(desk: Desk) -> None:
    """While a worker holds its steps, or waits to retry one, a job is not among the interrupted."""

    def do(row: int, call: Any) -> Takes:
        if row == 1 and call.attempt == 1:
            raise ConnectionError
        return Takes(30.0)

    job = desk.submit([1, 2], do, max_attempts=2, backoff=STEADY)
    seen = desk.meanwhile(*[(at, desk.jobs.interrupted) for at in (1, 5, 20)], worker=desk.worker(job=job.id))

    assert seen == [[], [], []]
    assert desk.jobs.interrupted() == []


def test_an_interrupted_job_is_found_and_resumed(desk: Desk) -> None:
    """What a killed worker left is listed with choices; resuming executes only what is left."""
    seen: list[int] = []

    def do(row: int) -> int:
        seen.append(row)
        return row

    job = desk.submit(range(6), do)
    desk.left_by_the_dead(job, claimed=4, begun=0)

    (found,) = desk.jobs.interrupted()
    assert (found.job.id, found.held, found.ambiguous, found.left) == (job.id, 4, 0, 6)
    assert found.choices == ("resume", "restart", "cancel")

    done = desk.jobs.resume(job)

    assert done.succeeded
    assert sorted(seen) == list(range(6))
    assert desk.jobs.interrupted() == []


def test_completed_rows_are_never_processed_again(desk: Desk) -> None:
    """A job that was paused half-way and resumed calls no row twice."""
    seen: list[int] = []

    def do(row: int) -> None:
        seen.append(row)
        if row == 3:
            desk.jobs.pause(job)

    job = desk.submit(range(8), do)
    assert desk.run(job, concurrency=1).state == "paused"
    before = list(seen)

    done = desk.jobs.resume(job, concurrency=1)

    assert before == [0, 1, 2, 3]
    assert (done.state, seen) == ("succeeded", list(range(8)))


def test_a_call_that_may_have_been_made_needs_review(desk: Desk) -> None:
    """Without a way to ask, an ambiguous row is not called again: a person decides, and the rest goes on."""
    seen: list[int] = []
    job = desk.submit(range(3), seen.append)
    desk.left_by_the_dead(job, claimed=2, begun=1)

    (found,) = desk.jobs.interrupted()
    assert (found.ambiguous, found.choices) == (1, ("resume", "review", "restart", "cancel"))
    done = desk.jobs.resume(job)

    assert (done.state, done.counts.needs_review, sorted(seen)) == ("running", 1, [1, 2])
    (step,) = desk.jobs.review(job)
    desk.jobs.resolve(job, step.key, "succeeded", result={"seen": "by phone"}, by="Ann")
    assert desk.jobs.status(job).state == "succeeded"
    assert desk.results(job)[0] == {"seen": "by phone"}


def test_an_idempotent_handler_is_called_again(desk: Desk) -> None:
    """A handler that is declared idempotent gets an ambiguous row again, under the same idempotency key."""
    keys: list[str] = []
    handler = desk.handler(lambda row, call: keys.append(call.idempotency_key), idempotent=True)
    job = desk.submit(range(2), handler)
    desk.left_by_the_dead(job, claimed=1, begun=1)

    assert desk.jobs.resume(job).succeeded
    assert sorted(keys) == [f"{job.id}:line:1", f"{job.id}:line:2"]


def test_restart_warns_that_calls_may_repeat(desk: Desk) -> None:
    """Doing all of it again asks for the number of calls that may repeat, gets new keys and keeps the history."""
    keys: list[str] = []
    job = desk.submit(range(3), lambda row, call: keys.append(call.idempotency_key), on_error="fail_fast")
    desk.run(job)

    with pytest.raises(NotConfirmedError, match=r"confirm=3") as caught:
        desk.jobs.restart(job)
    again = desk.jobs.restart(job, confirm=caught.value.repeats)

    assert desk.run(again).succeeded
    assert len(set(keys)) == 6
    assert (again.new.retry_of, desk.jobs.job(job).state) == (job.id, "succeeded")
    assert desk.jobs.restart(job, confirm=3).id == again.id


def test_restart_of_an_interrupted_job_cancels_it(desk: Desk) -> None:
    """The job that is replaced is cancelled first, so that nothing of it runs beside the new one."""
    job = desk.submit(range(2), echo)
    desk.left_by_the_dead(job, claimed=2, begun=1)

    again = desk.jobs.restart(job, confirm=1)

    assert desk.jobs.job(job).state == "cancelled"
    assert desk.run(again).succeeded


def test_retry_failed_runs_only_what_failed(desk: Desk) -> None:
    """Failed rows are submitted again under the idempotency keys they had; asked twice, once."""
    down = True
    calls: list[str] = []

    def do(row: int, call: Any) -> int:
        calls.append(call.idempotency_key)
        if down and row % 2:
            raise ValueError
        return row

    job = desk.submit(range(4), do)
    with pytest.raises(NotEndedError):
        desk.jobs.retry_failed(job)
    desk.run(job, concurrency=1)
    down = False
    again = desk.jobs.retry_failed(job)

    assert desk.run(again, concurrency=1).succeeded
    assert calls[4:] == [f"{job.id}:line:2", f"{job.id}:line:4"]
    assert desk.jobs.retry_failed(job).id == again.id
    assert desk.jobs.job(job).state == "partially_failed"


def test_a_retried_graph_keeps_its_order(desk: Desk) -> None:
    """Of a graph the failed steps are retried in their order; what they waited for and succeeded is not waited for."""
    mended: list[bool] = []
    seen: list[str] = []

    def do(row: str) -> None:
        seen.append(row)
        if row == "b" and not mended:
            raise ValueError

    steps = [
        Step(key="c", payload="c", depends_on=("b", "a")),
        Step(key="b", payload="b", depends_on=("a",)),
        Step(key="a", payload="a"),
    ]
    job = desk.submit(steps, do)
    assert desk.run(job).counts.failed == 2
    mended.append(True)

    assert desk.run(desk.jobs.retry_failed(job)).succeeded
    assert seen == ["a", "b", "b", "c"]


def test_what_is_skipped_is_not_done(desk: Desk, tmp_path: Path) -> None:
    """Nor is it done again; it is told as such, and the job succeeds."""
    seen: list[int] = []
    job = desk.submit(range(3), seen.append)

    desk.jobs.skip(job, "line:2", reason="sold out", by="ann")

    assert desk.run(job).succeeded
    assert seen == [0, 2]
    assert desk.states(job) == ["succeeded", "skipped", "succeeded"]
    assert [(one.key, one.error) for one in desk.jobs.results(job, states=["skipped"])] == [
        ("line:2", "sold out")
    ]
    desk.jobs.export(job, tmp_path / "out.csv")
    assert "line:2,2,skipped,,sold out,0" in (tmp_path / "out.csv").read_text(encoding="utf-8")
    assert desk.run(desk.jobs.retry_failed(job, pending=True)).counts.total == 0


def test_a_job_of_which_all_is_skipped_has_ended(desk: Desk) -> None:
    """Its notifier is told, once."""
    job = desk.submit(range(2), echo)
    assert desk.jobs.skip(job, "line:1").state == "pending"
    assert desk.told == []
    assert desk.jobs.skip(job, "line:2").state == "succeeded"
    assert [(one.job.id, one.job.state) for one in desk.told] == [(job.id, "succeeded")]


def test_a_preview_leaves_out_what_is_skipped(desk: Desk) -> None:
    """Neither quoted nor counted; what is skipped between preview and approval does not stand in its way."""
    job = desk.submit([1, 2, 3], quoting(desk, Decimal), mode="confirm")
    desk.jobs.skip(job, "line:2")

    preview = desk.jobs.preview(job)
    desk.jobs.skip(job, "line:3")
    desk.jobs.approve(job, preview.digest)

    assert (preview.total, preview.estimate, preview.exact) == (2, Decimal(4), True)
    assert desk.run(job).counts.succeeded == 1


def test_retry_failed_may_take_what_never_began(desk: Desk) -> None:
    """After a halt the rows that stayed pending can be taken along."""

    def do(row: int) -> None:
        if row == 1 and not mended:
            raise ValueError

    mended: list[bool] = []
    job = desk.submit(range(3), do, on_error="fail_fast")
    desk.run(job)
    mended.append(True)

    assert desk.run(desk.jobs.retry_failed(job, pending=True)).counts.succeeded == 2


# Cancelling ---------------------------------------------------------------------------------------------------


def test_cancel_ends_a_job_at_once(desk: Desk) -> None:
    """Pending rows are cancelled and never called; a cancelled job cannot be cancelled, resumed or paused."""
    job = desk.submit(range(3), echo)
    desk.jobs.cancel(job, reason="wrong file")

    done = desk.run(job)

    assert (done.state, done.reason, done.counts.cancelled) == ("cancelled", "wrong file", 3)
    for forbidden in (desk.jobs.cancel, desk.jobs.pause, desk.jobs.resume):
        with pytest.raises(IllegalTransition):
            forbidden(job)


# Modes --------------------------------------------------------------------------------------------------------


def test_the_mode_is_confirm_until_somebody_changes_it(desk: Desk) -> None:
    """A session begins in confirm, changes to auto and back, and refuses what is no mode."""
    session = desk.jobs.session
    seen = [session.mode]
    for mode in ("auto", "confirm"):
        session.mode = Mode(mode)
        seen.append(session.mode)

    assert seen == [Mode.CONFIRM, Mode.AUTO, Mode.CONFIRM]
    with pytest.raises(ConfigurationError, match="confirm, auto"):
        Session("yolo")


def test_the_mode_is_locked_while_jobs_run(desk: Desk) -> None:
    """While a job runs the mode cannot change; when the last one has ended it can."""
    session = desk.jobs.session
    refused: list[int] = []

    def do(row: int) -> None:
        with pytest.raises(ModeLockedError) as caught:
            session.mode = Mode.AUTO
        refused.append(caught.value.running)

    desk.run(desk.submit([1], do))
    assert (refused, session.locked, session.mode) == ([1], False, Mode.CONFIRM)
    session.mode = Mode.AUTO


def test_locks_of_a_session_are_counted(desk: Desk) -> None:
    """Two jobs lock twice: only when both have ended is the mode free, and reset restores confirm."""
    session = Session("auto")
    with session.running():
        with session.running():
            pass
        with pytest.raises(ModeLockedError):
            session.reset()
    session.reset()

    assert session.mode is Mode.CONFIRM
    with pytest.raises(RuntimeError, match="once for each"):
        session.unlock()


def test_an_open_breaker_burns_no_rows(desk: Desk) -> None:
    """While a dependency is down its jobs wait for the breaker, untouched; a refused call is no attempt."""
    breaker = CircuitBreaker("carrier", window=Window.consecutive(3), open_for=30.0, open_jitter=0.0)
    called: list[int] = []

    def do(row: int) -> None:
        called.append(row)
        if desk.clock.elapsed < 20:
            raise ConnectionError

    job = desk.submit(range(100), desk.handler(do, policy=breaker), max_attempts=2, backoff=STEADY)

    done = desk.run(job, concurrency=4)

    again = [event for event in desk.jobs.events(job) if event.state == "pending" and "took" in event.data]
    assert done.counts.succeeded == 100
    assert len(called) == 103
    # Three calls that failed, and what the four lanes held when the breaker opened, or had in hand at its probes.
    assert sum(len(event.positions) for event in again) <= 12
    assert max(desk.attempts(job)) == 2
