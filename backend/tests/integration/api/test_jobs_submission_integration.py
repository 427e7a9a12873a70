"""Submission over HTTP: rows, steps or a CSV file become a job, whole or not at all, and every fault is told."""

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from backend.tests.integration.api._jobs import OPERATE, ROWS, JobsApi, Shop
from holdfast.api.internal.jobs.app import Tenants, create_app
from holdfast.api.internal.resilience.auth import ApiKeys
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.store.memory import MemoryStateStore
from holdfast.infrastructure.store.payload import decode

BAD_ROWS = [{"order": "A-1"}, {"order": ""}, {"order": "A-1"}, 7]
BAD_CSV = "order,weight\nA-1,2\n,3\nA-1,4\nA-2\n"


def paths(response: Any) -> list[str]:
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return [one["path"] for one in response.json()["errors"]]


def test_rows_become_a_job_that_waits_for_approval(ann: JobsApi, shop: Shop) -> None:
    """By default a job waits for preview and approval; its steps have the rows' keys, in their order."""
    response = ann.post("/jobs", {"handler": "ship", "rows": ROWS, "key": "order", "name": "today"})
    job = response.json()
    assert (response.status_code, job["state"], job["ready"], job["name"]) == (201, "pending", False, "today")
    steps = shop.stores["default"].steps(job["id"])
    assert [(one.key, one.line) for one in steps] == [("A-1", 1), ("A-2", 2), ("A-3", 3)]
    assert [decode(one.payload) for one in steps] == ROWS


def test_numbers_are_exact(ann: JobsApi, shop: Shop) -> None:
    """A number with a point is a Decimal with its digits, never a float."""
    body = b'{"handler": "again", "rows": [{"price": 0.10, "big": 12345678901234567890.123}]}'
    job = ann.request("POST", "/jobs", content=body, headers={"Content-Type": "application/json"}).json()[
        "id"
    ]
    [step] = shop.stores["default"].steps(job)
    assert {"price": Decimal("0.10"), "big": Decimal("12345678901234567890.123")} == decode(step.payload)


def test_every_setting_is_stored(ann: JobsApi, shop: Shop) -> None:
    """What a submission says of its execution is what the job has."""
    ann.post("/batches", {"id": "week-7"})
    said = {
        "handler": "ship",
        "mode": "auto",
        "dedup_key": "today",
        "batch": "week-7",
        "priority": 1,
        "on_error": 0.25,
        "max_attempts": 4,
        "step_timeout": 2.5,
        "job_timeout": 60,
        "expires_in": 90.0,
        "concurrency": 3,
        "rate": 1.5,
        "backoff": {"base": 0.5, "jitter": "none"},
    }
    job = ann.post("/jobs", {**said, "rows": ROWS}).json()["id"]
    new = shop.jobs().job(job).new
    assert {name: getattr(new, name) for name in ("dedup_key", "batch", "priority", "max_attempts")} == {
        name: said[name] for name in ("dedup_key", "batch", "priority", "max_attempts")
    }
    assert (
        new.step_timeout,
        new.job_timeout,
        new.expires_in,
        new.concurrency,
        new.rate,
    ) == (2.5, 60.0, 90.0, 3, 1.5)
    assert (new.stop_after, new.stop_share, new.ready) == (None, 0.25, True)
    assert (new.settings["backoff"]["base"], new.settings["backoff"]["jitter"]) == (0.5, "none")


def test_a_known_dedup_key_gives_the_first_job(ann: JobsApi, bob: JobsApi) -> None:
    """The second submission of a key returns the first job with 200; another tenant's key is another."""
    body = {"handler": "ship", "rows": ROWS, "dedup_key": "today"}
    first, second, other = ann.post("/jobs", body), ann.post("/jobs", body), bob.post("/jobs", body)
    assert [one.status_code for one in (first, second, other)] == [201, 200, 201]
    assert first.json()["id"] == second.json()["id"] != other.json()["id"]


def test_steps_depend_on_each_other(ann: JobsApi, shop: Shop) -> None:
    """Steps are given with keys and what they depend on; they run in that order."""
    steps = [
        {"key": "last", "payload": {"order": "2"}, "depends_on": ["first"]},
        {"key": "first", "payload": {"order": "1"}, "timeout": 2.5},
    ]
    job = ann.post("/jobs", {"handler": "ship", "steps": steps, "mode": "auto"}).json()["id"]
    shop.run(job)
    assert shop.shipped == ["1", "2"]


def test_all_faults_of_a_submission_are_told_at_once(ann: JobsApi, shop: Shop) -> None:
    """Settings, handler and rows are all checked before anything is refused, and nothing is stored."""
    body = {"handler": "ship", "rows": BAD_ROWS, "key": "order", "priority": 9, "speed": 1}
    response = ann.post("/jobs", body)
    assert ["body.priority", "body.speed", *["rows"] * 3] == paths(response)
    said = " | ".join(one["problem"] for one in response.json()["errors"])
    for part in ("'A-1' (line 3) is there twice", "line 2", "line 4"):
        assert part in said
    assert "5 faults" in response.json()["detail"]
    assert shop.everything() == []


def test_rows_alone_can_be_wrong(ann: JobsApi, shop: Shop) -> None:
    """Rows that are refused are told as sentences, with the lines where they stand."""
    assert paths(ann.post("/jobs", {"handler": "ship", "rows": BAD_ROWS, "key": "order"})) == ["rows"] * 3
    assert shop.everything() == []


def test_a_check_says_what_a_submission_would_and_stores_nothing(ann: JobsApi, shop: Shop) -> None:
    """`/jobs/check` answers with the very problem of the submission, or none."""
    body = {"handler": "ship", "rows": BAD_ROWS, "key": "order", "priority": 9}
    submitted, checked = ann.post("/jobs", body).json(), ann.post("/jobs/check", body).json()["problem"]
    assert submitted["detail"] == checked["detail"]
    assert [(one["path"], one["problem"]) for one in submitted["errors"]] == [
        (one["path"], one["problem"]) for one in checked["errors"]
    ]
    assert ann.post("/jobs/check", {"handler": "ship", "rows": ROWS}).json() == {"problem": None}
    assert shop.everything() == []


@pytest.mark.parametrize("name", ["os:system", "a_trap_for_clients:ship", "a_trap_for_clients", "", "SHIP"])
def test_only_handlers_of_the_list_can_be_named(
    ann: JobsApi, shop: Shop, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A handler that the server was not given is refused, and never imported, though it could be."""
    (tmp_path / "a_trap_for_clients.py").write_text("def ship(row): return row\n")
    monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])
    response = ann.post("/jobs", {"handler": name, "rows": ROWS})
    assert response.status_code == 422
    assert {one["path"] for one in response.json()["errors"]} <= {"handler", "body.handler"}
    assert ann.csv("order\n1\n", handler=name).status_code == 422
    assert "a_trap_for_clients" not in sys.modules
    assert shop.everything() == []


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", "body"),
        (b"[", "body"),
        (b"[]", "body"),
        (b"\xff", "body"),
        (b'{"handler": "ship", "rows": [NaN]}', "body"),
        (b'{"handler": "ship"}', "body"),
        (b'{"handler": "ship", "rows": [], "steps": []}', "body"),
        (b'{"handler": "ship", "rows": {}}', "body.rows"),
        (b'{"handler": "ship", "steps": [{"key": "a"}]}', "body.steps.0.payload"),
        (b'{"handler": "ship", "rows": [], "priority": "3"}', "body.priority"),
        (b'{"handler": "ship", "rows": [], "mode": "never"}', "body.mode"),
        (b'{"handler": "ship", "rows": [], "batch": "no such"}', "rows"),
    ],
)
def test_what_is_no_submission_is_refused(ann: JobsApi, shop: Shop, body: bytes, path: str) -> None:
    """Whatever else is sent is refused with where it is wrong."""
    response = ann.request("POST", "/jobs", content=body, headers={"Content-Type": "application/json"})
    assert path in paths(response)
    assert shop.everything() == []


def test_a_csv_file_becomes_a_job(ann: JobsApi, shop: Shop) -> None:
    """Rows of a CSV body are text by column; lines are those of the file; nothing tells where it was kept."""
    text = "\ufefforder;weight\nA-1;2\n\nA-2;x, y\n".encode()
    response = ann.csv(text, handler="ship", key="order", mode="auto", priority="2", on_error="fail_fast")
    assert response.status_code == 201, response.text
    store = shop.stores["default"]
    job = store.job(response.json()["id"])
    assert (job.new.priority, job.new.stop_after, job.ready) == (2, 1, True)
    assert [(one.key, one.line, decode(one.payload)) for one in store.steps(job.id)] == [
        ("A-1", 2, {"order": "A-1", "weight": "2"}),
        ("A-2", 4, {"order": "A-2", "weight": "x, y"}),
    ]
    assert "holdfast-" not in repr(job)
    shop.run(job)
    assert shop.shipped == ["A-1", "A-2"]


def test_all_faults_of_a_csv_file_are_told_at_once(ann: JobsApi, shop: Shop) -> None:
    """Settings in the query and rows of the file are checked together; nothing is stored."""
    response = ann.csv(BAD_CSV, handler="ship", key="order", priority="9", nothing="1")
    assert ["query.priority", "query.nothing", *["rows"] * 3] == paths(response)
    assert shop.everything() == []


@pytest.mark.parametrize(
    ("body", "query"),
    [
        (b"order\n\xff\xfe\n", {"encoding": "utf-8"}),
        (b"order\n1\n", {"encoding": "no-such"}),
        (b"order\n1\n", {"key": "id"}),
        (b"order\n1\n", {"delimiter": ";;"}),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    ann: JobsApi, shop: Shop, body: bytes, query: dict[str, str]
) -> None:
    """What is no CSV file, or not one so, is refused; the answer does not say where the server keeps files."""
    response = ann.csv(body, handler="ship", **query)
    assert response.status_code == 422, response.text
    assert "/holdfast-" not in response.text
    assert shop.everything() == []


@pytest.mark.parametrize("body", ["", "\n"])
def test_a_file_of_nothing_is_refused(ann: JobsApi, shop: Shop, body: str) -> None:
    """A body without even a header is told to be one; nothing is stored."""
    response = ann.csv(body, handler="ship")
    assert paths(response) == ["body"]
    assert response.json()["errors"][0]["problem"].startswith("body: is empty: not even a header is there")
    assert shop.stores["default"].jobs() == []


def test_a_body_has_a_bound(jobs_client: Any, shop: Shop) -> None:
    """A body of more bytes than the server takes is refused; its default is 16 MiB."""
    app = create_app(shop.tenants, keys=ApiKeys(), body_bytes=200)
    api = jobs_client(app)
    row = {"order": "x" * 250}
    assert api.post("/jobs", {"handler": "ship", "rows": [{"order": "1"}]}).status_code == 201
    assert api.post("/jobs", {"handler": "ship", "rows": [row]}).status_code == 413
    assert api.csv("order\n" + "x" * 200, handler="ship").status_code == 413
    with pytest.raises(ConfigurationError, match="body_bytes"):
        create_app(shop.tenants, keys=ApiKeys(), body_bytes=0)


def test_the_list_of_handlers_says_what_each_can(ann: JobsApi) -> None:
    """The handlers that can be named are listed by name, with what they can."""
    assert ann.get("/handlers").json() == {
        "items": [
            {"name": "again", "idempotent": True, "estimates": False, "reconciles": False},
            {"name": "ship", "idempotent": False, "estimates": True, "reconciles": True},
        ],
        "total": 2,
        "offset": 0,
        "limit": 50,
    }


def test_a_store_that_does_not_answer_is_said_so(jobs_client: Any) -> None:
    """A store that is away is a 503 with Retry-After; where it is stays a secret."""
    tenants = Tenants("postgresql://postgres@127.0.0.1:1/secret-name", [])
    response = jobs_client(create_app(tenants, keys=ApiKeys())).get("/jobs")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert "secret" not in response.text


def test_a_store_of_one_tenant_can_be_given(jobs_client: Any) -> None:
    """A store alone is its tenant's."""
    app = create_app(Tenants(MemoryStateStore()), keys=ApiKeys())
    assert jobs_client(app, OPERATE).get("/jobs").json() == {"items": [], "next": None}
