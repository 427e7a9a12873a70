"""Runs × submission: what is stored, answered and triggered, and that a delivery counts once."""

import io
import json
import threading
import zipfile
from base64 import b64encode
from typing import Any

import pytest

from backend.tests.integration.orchestration._yard import Yard, order, request
from holdfast.infrastructure.store.state import JobState, NotFoundError
from holdfast.services.jobs.graphs import RequestRefusedError, RunAnswer

THREE = (order("a"), order("b"), order("c", "a", "b", must_succeed=False, environment={"A": "1"}))


def test_the_answer_names_everything(yard: Yard) -> None:
    """Ids, where the summary will be, and the comment with its tag."""
    answer = yard.runs.submit(
        request(*THREE, run_id="run-1", trace_id="t1", search_tag="find me", pull_request=7)
    )
    assert answer == RunAnswer(
        run_id="run-1",
        trace_id="t1",
        flow_id="ann:t1-ci",
        done_endpoint=answer.done_endpoint,
        search_tag="find me",
        comment=yard.comment(answer),
    )
    address = yard.blobs.presign("run-1/done") or ""
    # What follows is a signature, with its time.
    assert answer.done_endpoint.partition("?")[0] == address.partition("?")[0]
    assert address.partition("?")[0].endswith("/run-1/done")
    assert answer.comment.startswith("<!-- find me -->\n**ann:t1-ci**: pending\n")
    assert "| c | pending |" in answer.comment


def test_what_is_made_up_fits_together(yard: Yard) -> None:
    """Without ids there are new ones, and the tag is the flow's."""
    first, second = (yard.runs.submit(request(*THREE)) for _ in range(2))
    assert first.run_id != second.run_id
    assert first.flow_id == f"ann:{first.trace_id}-ci"
    assert first.search_tag == f"holdfast {first.flow_id}"
    assert first.search_tag in first.comment


def test_rows_archives_and_trigger_are_there(yard: Yard) -> None:
    """Each order waits with an archive that has its commands and all its code, modes included."""
    run = yard.runs.submit(request(*THREE)).run_id
    job = yard.store.job(run)
    steps = yard.store.steps(run)
    assert (job.state, job.counts.total, job.new.job_timeout) == (JobState.PENDING, 3, 3600.0)
    assert [(step.key, step.depends_on, step.must_succeed) for step in steps] == [
        ("a", (), True),
        ("b", (), True),
        ("c", ("a", "b"), False),
    ]
    said = json.loads(steps[2].payload)
    with zipfile.ZipFile(io.BytesIO(yard.blobs.get(said["archive"]))) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["code/deep/data.bin", "code/run.sh", "order.json"]
        assert json.loads(archive.read("order.json")) == {
            "name": "c",
            "commands": ["true"],
            "timeout": 60.0,
            "environment": {"A": "1"},
        }
        assert archive.read("code/deep/data.bin") == bytes(range(256))
        assert archive.getinfo("code/run.sh").external_attr >> 16 & 0o777 == 0o755
    assert yard.ears.keys == [f"tmp/callbacks/runs/{run}/0000/result.json"]
    assert yard.blobs.exists(yard.ears.keys[0])
    assert yard.timer.next_at() == yard.store.now() + 3600.0


def test_the_trigger_starts_the_run(yard: Yard) -> None:
    """What waits for nothing is dispatched, and the history has begun."""
    run = yard.runs.submit(request(*THREE)).run_id
    assert yard.puppets.started == []
    assert yard.runs.receive(yard.ears.keys[0])
    assert yard.puppets.started == ["a", "b"]
    assert [one.state for one in yard.store.events(run, kinds=["job"])] == ["pending", "running"]


SNS = {"Type": "Notification", "MessageId": "m-1", "Message": json.dumps(request(*THREE))}


@pytest.mark.parametrize(
    ("body", "known"),
    [
        (json.dumps(request(*THREE)), "delivery-1"),
        (SNS, None),
        (b64encode(json.dumps(request(*THREE, run_id="run-1")).encode()), None),
    ],
    ids=["id of the caller", "id of SNS", "id of the run"],
)
def test_a_delivery_counts_once(yard: Yard, body: Any, known: str | None) -> None:
    """The second time the first answer comes back, and nothing is triggered again."""
    first = yard.runs.submit(body, delivery_id=known)
    again = yard.runs.submit(body, delivery_id=known)
    assert (first.created, again.created) == (True, False)
    assert first.run_id == again.run_id
    assert first.trace_id == again.trace_id
    assert len(yard.store.jobs()) == len(yard.ears.keys) == 1


def test_a_run_is_never_overwritten(yard: Yard) -> None:
    """Another request for the same id is refused with 409, and the first goes on with its own archives."""
    run = yard.runs.submit(request(order("a"), run_id="run-1")).run_id
    before = yard.blobs.get(json.loads(yard.store.step(run, "a").payload)["archive"])
    with pytest.raises(RequestRefusedError, match="exists already") as refused:
        yard.runs.submit(request(order("a", commands=["rm"]), run_id="run-1"))
    assert refused.value.status == 409
    assert yard.blobs.get(json.loads(yard.store.step(run, "a").payload)["archive"]) == before


def test_deliveries_at_once_are_one_run(yard: Yard) -> None:
    """Whoever receives it, all get the same answer."""
    answers: list[RunAnswer] = []
    together = threading.Barrier(4)

    def deliver() -> None:
        together.wait()
        answers.append(yard.again().submit(request(*THREE), delivery_id="d"))

    threads = [threading.Thread(target=deliver) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert len({answer.run_id for answer in answers}) == len(yard.store.jobs()) == 1
    assert sum(answer.created for answer in answers) == 1


@pytest.mark.parametrize("location", ["missing", "../x", "/etc", "linked"])
def test_code_that_is_not_there_is_refused_before_anything_is_stored(yard: Yard, location: str) -> None:
    """Nor is what lies elsewhere."""
    (yard.code / "linked").mkdir()
    (yard.code / "linked" / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(RequestRefusedError, match="code source") as refused:
        yard.runs.submit(request(order("a", code=location), order("b", code="gone")))
    assert len(refused.value.faults) == 2
    assert yard.store.jobs() == []


def test_a_faulty_request_stores_nothing(yard: Yard) -> None:
    """Every fault is told, with 400."""
    with pytest.raises(RequestRefusedError) as refused:
        yard.runs.submit(request(order("a", "z", timeout=0, target="moon")))
    assert (refused.value.status, len(refused.value.faults)) == (400, 3)
    assert yard.store.jobs() == []


def test_what_a_crash_left_untriggered_is_triggered_by_the_next_delivery(yard: Yard) -> None:
    """Rows without a trigger are a submission that was cut short."""
    run = yard.runs.submit(request(*THREE), delivery_id="d").run_id
    yard.blobs.delete(yard.ears.keys.pop())
    assert yard.runs.submit(request(*THREE), delivery_id="d").created is False
    assert yard.ears.keys == [f"tmp/callbacks/runs/{run}/0000/result.json"]


def test_what_is_not_known_is_said(yard: Yard) -> None:
    """By the errors of the store."""
    for look in (yard.runs.status, yard.runs.evaluate, yard.runs.cancel, yard.runs.rerun, yard.runs.watchdog):
        with pytest.raises(NotFoundError):
            look("none")
    assert not yard.runs.receive("tmp/callbacks/runs/none/0001/result.json")
    assert not yard.runs.receive("another/object")
