"""Jobs looked at and steered over HTTP: what is answered is what the store has."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from backend.tests.integration.api._jobs import COMMITTED, OPERATE, ROWS, JobsApi, Shop
from backend.tests.integration.api._service import declared
from holdfast.api.internal.jobs.app import PREFIX
from holdfast.infrastructure.store.state import JobState
from holdfast.services.jobs import Done, Handler, NotDone

ODD = "odd\ud800"
LOOKS = [
    path.removeprefix(PREFIX)
    for method, path, _ in declared(json.loads(COMMITTED.read_text(encoding="utf-8")))
    # A stream has no end to wait for.
    if method == "GET" and not path.endswith(("/stream", "/progress"))
]
SHOWING = {
    "/jobs",
    "/jobs/{job}",
    "/jobs/{job}/events",
    "/jobs/{job}/results",
    "/jobs/{job}/step",
    "/jobs/{job}/steps",
    "/batches/{batch}",
    "/interrupted",
}


def state(shop: Shop, job: str) -> str:
    return str(shop.jobs().job(job).state)


def test_a_job_is_previewed_approved_and_executed(ann: JobsApi, shop: Shop) -> None:
    """The preview quotes exactly, approval takes its digest, and then a worker does what is left."""
    job = ann.post("/jobs", {"handler": "ship", "rows": ROWS, "key": "order"}).json()["id"]
    preview = ann.post(f"/jobs/{job}/preview", {"rows": 2}).json()
    assert (preview["quoted"], preview["estimate"], preview["total"]) == ("7.50", "11.25", 3)
    assert [one["amount"] for one in preview["quotes"]] == ["2.50", "5.00"]
    assert ann.get(f"/jobs/{job}").json()["preview"] == preview
    wrong = ann.post(f"/jobs/{job}/approve", {"digest": "something else"})
    assert (wrong.status_code, state(shop, job)) == (409, "previewed")
    assert ann.post(f"/jobs/{job}/approve", {"digest": preview["digest"]}).json()["ready"]
    shop.run(job)
    detail = ann.get(f"/jobs/{job}").json()
    assert (
        detail["state"],
        detail["ended"],
        detail["percent"],
        detail["eta"],
    ) == ("succeeded", True, 100.0, 0.0)
    assert shop.shipped == ["A-1", "A-2", "A-3"]


def test_results_are_readable_and_come_by_the_page(ann: JobsApi, shop: Shop) -> None:
    """Payloads and results are plain JSON, amounts text; `next` leads from page to page, to the end."""
    job = shop.submit().id
    shop.run(job)
    first = ann.get(f"/jobs/{job}/results", limit=2).json()
    rest = ann.get(f"/jobs/{job}/results", limit=2, after=first["next"]).json()
    assert {
        "position": 0,
        "key": "A-1",
        "line": 1,
        "state": "succeeded",
        "attempts": 1,
        "error": "",
        "payload": ROWS[0],
        "result": {"label": "L-A-1", "price": "2.50"},
    } == first["items"][0]
    assert (first["next"], [one["key"] for one in rest["items"]], rest["next"]) == (1, ["A-3"], None)


def test_steps_are_found_by_state_and_by_key(ann: JobsApi, shop: Shop) -> None:
    """Steps can be listed by state; one is found by its key, whatever is in it, with its error."""
    key = "a/steps?b=ü & 100%"
    job = shop.submit([{"order": key, "bad": True}, {"order": "fine"}]).id
    shop.run(job)
    [failed] = ann.get(f"/jobs/{job}/steps", state="failed").json()["items"]
    assert (key, "failed", True) == (failed["key"], failed["state"], "payload" not in failed)
    step = ann.get(f"/jobs/{job}/step", key=key).json()
    assert ({"order": key, "bad": True}, None) == (step["payload"], step["result"])
    assert "no such address" in step["error"]
    assert f"{job}:{key}" == step["idempotency_key"]
    [error] = ann.get(f"/jobs/{job}").json()["errors"]
    assert (key, "failed") == (error["key"], error["state"])
    assert ann.get(f"/jobs/{job}/step", key="nothing").status_code == 404


def test_jobs_come_newest_first_by_the_page(ann: JobsApi, shop: Shop) -> None:
    """The list leads from page to page without a job twice or left out, and can be of one state or batch."""
    ann.post("/batches", {"id": "b"})
    made = [shop.submit(batch="b" if number == 1 else None).id for number in range(5)]
    shop.run(made[2])
    seen: list[str] = []
    after: dict[str, str] = {}
    while len(seen) < 10:
        page = ann.get("/jobs", limit=2, **after).json()
        seen += [one["id"] for one in page["items"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert made[::-1] == seen
    assert [made[2]] == [one["id"] for one in ann.get("/jobs", state="succeeded").json()["items"]]
    assert [made[1]] == [one["id"] for one in ann.get("/jobs", batch="b").json()["items"]]


def test_a_job_is_paused_and_resumed(ann: JobsApi, shop: Shop) -> None:
    """Pausing and resuming change the job; who did it, and why, is kept with it; resuming leaves work to workers."""
    job = shop.submit().id
    paused = ann.post(f"/jobs/{job}/pause", {"reason": "bank holiday"}).json()
    assert (paused["state"], paused["reason"]) == ("paused", "ann: bank holiday")
    assert shop.jobs().job(job).state == JobState.PAUSED
    assert ann.post(f"/jobs/{job}/resume").json()["state"] == "pending"
    assert shop.shipped == []
    shop.run(job)
    assert shop.shipped == ["A-1", "A-2", "A-3"]


def test_a_job_is_cancelled(ann: JobsApi, shop: Shop) -> None:
    """Cancelling ends the job and its pending steps."""
    job = shop.submit().id
    cancelled = ann.post(f"/jobs/{job}/cancel").json()
    assert (
        cancelled["state"],
        cancelled["counts"]["cancelled"],
        cancelled["reason"],
    ) == ("cancelled", 3, "by ann")


def test_steps_are_skipped(ann: JobsApi, shop: Shop) -> None:
    """They are not done, and the history says who decided; all or none of the keys, of which there must be some."""
    job = shop.submit().id
    unknown = ann.post(f"/jobs/{job}/skip", {"keys": ["A-1", "nobody"]})
    assert (unknown.status_code, "nobody" in unknown.json()["detail"]) == (404, True)
    asked: list[dict[str, Any]] = [{}, {"keys": []}, {"keys": "A-1"}, {"keys": [""]}]
    for wrong in asked:
        assert ann.post(f"/jobs/{job}/skip", wrong).status_code == 422
    skipped = ann.post(f"/jobs/{job}/skip", {"keys": ["A-3", "A-1"], "reason": "sold out"}).json()
    assert (skipped["state"], skipped["counts"]["skipped"]) == ("pending", 2)
    assert ann.post(f"/jobs/{job}/skip", {"keys": ["A-2", "A-1"]}).status_code == 409
    step = ann.get(f"/jobs/{job}/step", key="A-1").json()
    assert (step["state"], step["error"]) == ("skipped", "sold out")
    [event] = [one for one in ann.get(f"/jobs/{job}/events").json()["items"] if one["state"] == "skipped"]
    assert (event["positions"], event["data"]["by"]) == ([0, 2], "ann")
    shop.run(job)
    assert (shop.shipped, state(shop, job)) == (["A-2"], "succeeded")


@pytest.mark.parametrize("action", ["preview", "approve", "pause", "resume", "cancel", "skip"])
def test_what_cannot_follow_a_state_is_a_conflict(ann: JobsApi, shop: Shop, action: str) -> None:
    """A job that has ended stays as it is: 409, and nothing changes."""
    job = shop.submit().id
    shop.run(job)
    before = shop.everything()
    body = {"approve": {"digest": "x"}, "skip": {"keys": ["A-1"]}}.get(action)
    response = ann.post(f"/jobs/{job}/{action}", body)
    assert (response.status_code, response.headers["content-type"]) == (409, "application/problem+json")
    assert before == shop.everything()


def test_only_what_failed_is_done_again(ann: JobsApi, shop: Shop) -> None:
    """Retrying gives a new job of the failed rows; asked again, the same one; of a job that runs it is refused."""
    job = shop.submit([{"order": "1"}, {"order": "2", "bad": True}]).id
    assert ann.post(f"/jobs/{job}/retry-failed").status_code == 409
    shop.run(job)
    first, second = (ann.post(f"/jobs/{job}/retry-failed").json() for _ in range(2))
    assert (job, 1, first["id"]) == (first["retry_of"], first["counts"]["total"], second["id"])


def test_a_restart_needs_the_number_of_calls_that_repeat(ann: JobsApi, shop: Shop) -> None:
    """Without the right number a restart says it and changes nothing; with it there is a new job of all rows."""
    job = shop.submit().id
    shop.run(job)
    before = shop.everything()
    refused = [ann.post(f"/jobs/{job}/restart", body) for body in ({}, {"confirm": 2})]
    assert [(one.status_code, one.json()["repeats"]) for one in refused] == [(409, 3), (409, 3)]
    assert before == shop.everything()
    new = ann.post(f"/jobs/{job}/restart", {"confirm": 3}).json()
    assert (job, 3) == (new["retry_of"], new["counts"]["pending"])


def test_a_handler_that_this_server_does_not_know_is_not_looked_for(ann: JobsApi, shop: Shop) -> None:
    """A job that another program submitted for its own handler can be looked at, but not previewed here."""
    jobs = shop.jobs()
    name = "backend.tests.integration.api._jobs:validate"
    other = type(jobs)(jobs.store, [Handler(print, name=name)])
    job = other.submit(ROWS, name).id
    response = ann.post(f"/jobs/{job}/preview")
    assert (response.status_code, name in response.json()["detail"]) == (409, True)
    assert ann.get(f"/jobs/{job}").status_code == 200


def test_what_a_dead_worker_left_is_shown_with_the_choices(ann: JobsApi, shop: Shop) -> None:
    """A job whose worker was killed is interrupted; resuming takes back what was not called, the rest needs review."""
    job = shop.submit()
    assert ann.get("/interrupted").json()["items"] == []
    shop.leave(job, claimed=2, begun=1)
    [left] = ann.get("/interrupted").json()["items"]
    assert (job.id, 2, 1, 3) == (left["job"]["id"], left["held"], left["ambiguous"], left["left"])
    assert left["choices"] == ["resume", "review", "restart", "cancel"]
    counts = ann.post(f"/jobs/{job.id}/resume").json()["counts"]
    assert (counts["pending"], counts["needs_review"]) == (2, 1)
    [step] = ann.get("/review", job=job.id).json()["items"]
    assert ("A-1", ROWS[0]) == (step["key"], step["payload"])


@pytest.mark.parametrize(
    ("decision", "result", "becomes"),
    [("succeeded", {"label": "L-9"}, "succeeded"), ("failed", None, "failed"), ("again", None, "pending")],
)
def test_a_step_is_decided_about_by_hand(
    ann: JobsApi, shop: Shop, decision: str, result: Any, becomes: str
) -> None:
    """A decision settles the step; the history says who decided; a second decision is refused."""
    job = shop.submit()
    shop.leave(job, claimed=1, begun=1)
    shop.jobs().recover()
    body = {"key": "A-1", "decision": decision, **({"result": result} if result else {"error": "asked them"})}
    step = ann.post(f"/jobs/{job.id}/resolve", body).json()
    assert (becomes, result) == (step["state"], step["result"])
    assert "ann" in [one["data"].get("by") for one in ann.get(f"/jobs/{job.id}/events").json()["items"]]
    assert ann.post(f"/jobs/{job.id}/resolve", body).status_code == 409


def test_the_handler_is_asked_what_became_of_calls(ann: JobsApi, shop: Shop) -> None:
    """Reconciling decides by what the handler knows, and says of which steps it knew nothing."""
    job = shop.submit()
    shop.leave(job, claimed=3, begun=3)
    shop.jobs().recover()
    shop.known.update({"A-1": Done({"label": "L-1"}), "A-2": NotDone()})
    assert ann.post(f"/jobs/{job.id}/reconcile").json() == {
        "done": ["A-1"],
        "not_done": ["A-2"],
        "unknown": ["A-3"],
    }


def test_a_batch_shows_how_far_its_jobs_are(ann: JobsApi, shop: Shop) -> None:
    """A batch counts its jobs; a second one of its id is the first; cancelling it cancels them."""
    assert ann.post("/batches", {"id": "week/7", "name": "week"}).status_code == 200
    assert ann.post("/batches", {"id": "week/7"}).json()["name"] == "week"
    jobs = [shop.submit(batch="week/7").id for _ in range(3)]
    shop.run(jobs[0])
    batch = ann.get("/batches/week/7").json()
    assert (batch["state"], batch["total"], batch["done"], batch["percent"]) == ("running", 3, 1, 33.3)
    assert ann.post("/batches/week/7/cancel").json()["state"] == "cancelled"
    assert [state(shop, job) for job in jobs] == ["succeeded", "cancelled", "cancelled"]


def test_a_file_that_cannot_be_read_holds_an_approval_up(ann: JobsApi, shop: Shop, tmp_path: Any) -> None:
    """Whether the rows are still the same cannot be told: 409, without where they are; the job waits on."""
    path = tmp_path / "orders.csv"
    path.write_text("order,weight\nA-1,2\n", encoding="utf-8")
    job = shop.submit(str(path), mode="confirm").id
    digest = ann.post(f"/jobs/{job}/preview").json()["digest"]
    path.unlink()
    path.mkdir()
    response = ann.post(f"/jobs/{job}/approve", {"digest": digest})
    assert (response.status_code, response.json()["detail"]) == (
        409,
        "The file that the rows came from is a folder.",
    )
    assert state(shop, job) == "previewed"


def test_settings_do_not_tell_where_rows_are(ann: JobsApi, shop: Shop, tmp_path: Any) -> None:
    """A job of a file does not tell its path, nor where results go."""
    path = tmp_path / "secret-folder.csv"
    path.write_text("order,label\n1,\n")
    job = shop.submit(str(path), write_back={"label": "label"})
    text = ann.get(f"/jobs/{job.id}").text + ann.get("/jobs").text
    assert "secret-folder" not in text
    assert ann.get(f"/jobs/{job.id}").json()["writes_back"]


def test_results_that_could_not_be_written_back_are_listed(ann: JobsApi, shop: Shop, tmp_path: Any) -> None:
    """Dead letters are listed with the result and what was wrong."""
    path = tmp_path / "orders.csv"
    path.write_text("order,label\n1,\n2,\n")
    job = shop.submit(str(path), write_back={"label": "label"})
    assert ann.get(f"/jobs/{job.id}/dead-letters").json() == {"items": []}
    path.write_text("order,label\n1,changed by hand\n")
    shop.run(job)
    letters = ann.get(f"/jobs/{job.id}/dead-letters").json()["items"]
    assert [(one["key"], one["state"]) for one in letters] == [("1", "dead"), ("2", "dead")]
    assert letters[0]["result"]["label"] == "L-1"
    assert letters[0]["error"]
    assert ann.get(f"/jobs/{job.id}").json()["dead"] == 2


@pytest.mark.parametrize("path", LOOKS)
def test_text_that_is_none_fails_no_answer(
    jobs_client: Callable[..., JobsApi], odd_shop: Shop, path: str
) -> None:
    """A lone surrogate, in whatever came from outside, is shown as a question mark."""
    given = path.replace("{job}", "odd-job").replace("{batch}", "odd-batch")
    query = {"key": "A-1"} if path.endswith("/step") else {}
    response = jobs_client(odd_shop.app, OPERATE).get(given, **query)
    assert response.status_code == 200
    response.json()
    assert ("odd?" in response.text) is (path in SHOWING)


@pytest.mark.parametrize("path", ["/jobs", "/jobs/check"])
def test_a_fault_can_be_told_of_text_that_is_none(ann: JobsApi, path: str) -> None:
    """What was sent is told again as far as that can be."""
    body = json.dumps({"handler": ODD, "rows": ROWS, ODD: 1}).encode()
    response = ann.request("POST", path, content=body, headers={"Content-Type": "application/json"})
    told = response.json()["problem"] if path.endswith("check") else response.json()
    assert told["status"] == 422
    assert {"odd?"} <= {one.get("value") for one in told["errors"]} | {one["path"] for one in told["errors"]}


@pytest.mark.parametrize("name", ["\0", "odd\0", "odd\udcff"])
@pytest.mark.parametrize("path", [path for path in LOOKS if "{" in path])
def test_a_name_that_no_store_can_hold_is_not_found(ann: JobsApi, path: str, name: str) -> None:
    """Zero bytes and bytes that are no UTF-8 are in no name that there is."""
    sent = quote(name.encode(errors="surrogateescape"), safe="")
    query = {"key": "A-1"} if path.endswith("/step") else {}
    response = ann.get(path.replace("{job}", sent).replace("{batch}", sent), **query)
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
