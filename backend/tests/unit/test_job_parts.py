"""Parts of jobs that need no store: the door, what a call's end means, ids, which processes are gone."""

import os
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest

import holdfast.services.jobs as door
from holdfast import Backoff, CircuitOpenError, RetryBudgetExhausted
from holdfast.infrastructure.store.memory import MemoryStateStore
from holdfast.infrastructure.store.payload import decode
from holdfast.infrastructure.store.state import Counts, JobState, NewJob, StepRef, StepState, WorkerRecord
from holdfast.services.jobs import Handler, Worker
from holdfast.services.jobs import _outcomes as outcomes
from holdfast.services.jobs import _process as process
from holdfast.services.jobs._line import line
from holdfast.services.jobs.preview import Preview, Quote, extrapolate
from holdfast.services.jobs.progress import Progress

REF = StepRef(job="j", position=0, fence=1)


def shown(payload: object) -> str:
    return str(payload)


def spec(*, attempts: int = 1, idempotent: bool = False, backoff: Backoff | None = None) -> outcomes.Spec:
    """Return what a worker knows of a job."""
    settings = {} if backoff is None else {"backoff": outcomes.stored_backoff(backoff)}
    new = NewJob(id="j", handler="h", max_attempts=attempts, settings=settings)
    return outcomes.Spec(new, Handler(shown, name="h", idempotent=idempotent))


def test_every_name_of_the_door_is_there() -> None:
    """What the package offers can be imported from it, and nothing else."""
    assert [name for name in door.__all__ if not hasattr(door, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = door.nothing  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_holdfast_imports_no_jobs() -> None:
    """Who only wants policies pays for no jobs, and who imports jobs pays for no database."""
    code = "import sys, holdfast, holdfast.retry; print([m for m in sys.modules if 'services' in m])"
    code = code.replace(", holdfast.retry", "")
    more = "; import holdfast.services.jobs.jobs; print([m for m in sys.modules if 'sqlalchemy' in m])"
    done = subprocess.run([sys.executable, "-c", code + more], capture_output=True, text=True, check=True)

    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


@pytest.mark.parametrize(
    ("error", "attempt", "state", "wait", "refund"),
    [
        (ValueError("v"), 1, "failed", 0.0, False),
        (ConnectionError("c"), 1, "pending", 3.0, False),
        (ConnectionError("c"), 2, "failed", 0.0, False),
        (CircuitOpenError("b", 7.0), 2, "pending", 7.0, True),
        (CircuitOpenError("b", 700.0), 2, "pending", 60.0, True),
        (CircuitOpenError("b"), 2, "pending", 0.5, True),
        (RetryBudgetExhausted("b", 7.0), 1, "failed", 0.0, False),
        (SystemExit(1), 1, "failed", 0.0, False),
    ],
)
def test_what_an_error_means(
    error: BaseException, attempt: int, state: str, wait: float, *, refund: bool
) -> None:
    """Of two attempts: what may pass waits, what a policy refused is no attempt, all else has failed."""
    outcome = outcomes.failed(spec(attempts=2, backoff=Backoff.fixed(3.0)), REF, error, attempt, 0.1)

    assert (outcome.state, outcome.retry_in, outcome.refund) == (state, wait, refund)
    assert outcome.error.startswith(type(error).__name__)


def test_what_a_cancelled_call_means() -> None:
    """It may have been made: an idempotent one is made again, any other needs review."""
    again = outcomes.cut_short(spec(idempotent=True), REF, "stopped", 0.1)
    review = outcomes.cut_short(spec(), REF, "stopped", 0.1)

    assert (again.state, again.refund) == (StepState.PENDING, True)
    assert (review.state, review.error) == (StepState.NEEDS_REVIEW, "stopped: its call may have been made")


def test_errors_keep_their_notes_and_no_more_than_fits() -> None:
    """The ledger keeps type, text and notes of an error, up to two thousand characters."""
    error = ValueError("v")
    error.add_note("gave up after 3 attempts")

    assert outcomes.text(error) == "ValueError: v (gave up after 3 attempts)"
    assert len(outcomes.text(ValueError("x" * 5000))) == 2000


@dataclass
class Label:
    number: str
    cost: Decimal


def test_dataclasses_are_stored_as_dicts() -> None:
    """A result that is a dataclass is kept by its fields."""
    outcome = outcomes.succeeded(REF, Label("T1", Decimal("1.10")), 0.1)

    assert outcome.result is not None
    assert decode(outcome.result) == {"number": "T1", "cost": Decimal("1.10")}


def test_a_backoff_is_kept_in_settings() -> None:
    """What is stored comes back as the same backoff; without one there is a default."""
    backoff = Backoff.linear(1.0, 2.0, cap=9.0)

    assert outcomes.read_backoff(outcomes.stored_backoff(backoff)) == backoff
    assert (outcomes.read_backoff(None).base, outcomes.read_backoff(None).cap) == (1.0, 300.0)


def test_ids_sort_by_time() -> None:
    """Ids of later jobs are greater, all of one length, and differ within a millisecond."""
    ids = [process.new_id(1_700_000_000.0 + second) for second in range(0, 4_000_000_000, 400_000_000)]

    assert ids == sorted(ids)
    assert {len(one) for one in ids} == {20}
    assert len({process.new_id(1.0) for _ in range(1000)}) == 1000


def test_a_process_that_is_gone_is_seen() -> None:
    """A pid that is not there, or is somebody else's by now, is gone; this process and other hosts' are not."""
    here = process.this_worker("w")

    def worker(**changes: object) -> WorkerRecord:
        facts: dict[str, Any] = {"id": "x", "host": here.host, "pid": here.pid, "born": here.born}
        facts |= {"expires_at": 0.0, **changes}
        return WorkerRecord(**facts)

    assert here.id.startswith("w-")
    assert process.gone([worker()]) == []
    assert process.gone([worker(pid=2**22 + 1)]) == ["x"]
    assert process.gone([worker(born="1")]) == ["x"]
    assert process.gone([worker(born="1", host="elsewhere")]) == []
    assert process.gone([worker(born="")]) == []


def test_a_process_that_ended_and_was_not_waited_for_is_gone() -> None:
    """A zombie holds no lease."""
    child = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.DEVNULL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert process.born(child.pid) == ""
    finally:
        child.wait()


def test_an_estimate_keeps_the_finest_decimal() -> None:
    """A mean that does not end is rounded to what the quotes show; range and sum are exact."""
    amounts = [Decimal("10.00"), Decimal("10.01"), Decimal("10.005")]
    quotes = [Quote(key=str(n), line=n, amount=amount) for n, amount in enumerate(amounts)]

    preview = extrapolate("j", "d", 100, quotes)

    assert preview.quoted == Decimal("30.015")
    assert preview.estimate == Decimal("1000.500")
    assert (preview.low, preview.high) == (Decimal("1000.015"), Decimal("1000.985"))


def test_a_preview_is_kept_as_plain_values() -> None:
    """What a job keeps of its preview comes back as the same preview."""
    quotes = [Quote(key="a", line=1, amount=Decimal("1.10")), Quote(key="b", line=2, error="no")]
    preview = extrapolate("j", "d", 5, quotes)

    assert Preview.from_dict("j", "d", preview.as_dict()) == preview


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            {"eta": 3725.4, "rate": 2.0},
            "job running  3/9 (33.3 %)  2.0/s  1 failed  2 to review  ETA 1:02:05",
        ),
        ({"halted": True, "reason": "x"}, "job running, halted  3/9 (33.3 %)  1 failed  2 to review"),
        (
            {"state": JobState.CANCELLED, "halted": True, "rate": 2.0, "eta": 0.0},
            "job cancelled  3/9 (33.3 %)  1 failed  2 to review",
        ),
    ],
)
def test_a_progress_is_one_line(facts: dict[str, Any], said: str) -> None:
    """What needs review is said, and that a job has halted while it has not ended; the line of the command is it."""
    counts = Counts(total=9, pending=4, succeeded=2, failed=1, needs_review=2)
    now = replace(Progress(job="job", name="n", state=JobState.RUNNING, counts=counts), **facts)

    assert said == str(now) == line(now, {})
    assert line(now, {"b": "open"}) == said.replace("to review", "to review  breaker b open")


def test_a_worker_that_cannot_begin_leaves_no_thread() -> None:
    """Its lease is refused by a mistake that does not pass: the error is told, and its threads end."""

    class Broken(MemoryStateStore):
        def register(self, worker: WorkerRecord, lease: float) -> WorkerRecord:
            raise TypeError("broken")

    before = set(threading.enumerate())
    with pytest.raises(TypeError, match="broken"):
        Worker(Broken()).run(signals=False)
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(10)
    assert [thread.name for thread in left if thread.is_alive()] == []
