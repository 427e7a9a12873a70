"""The API of runs over a real socket: submission, status, steering; what is refused, to whom, and how it is said."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.tests.integration.orchestration._http import serving
from backend.tests.integration.orchestration._yard import Yard, order, request
from holdfast.api.internal.resilience.auth import ApiKey, ApiKeys
from holdfast.api.internal.runs.app import PREFIX, create_app
from holdfast.infrastructure.store.blob import FolderBlobStore
from holdfast.infrastructure.store.sql import open_store
from holdfast.services.jobs.graphs import Runs
from holdfast.services.jobs.graphs.secrets import AgeSecrets

READ, OPERATE, OTHER = "the-reading-key-1", "the-operating-key", "the-key-of-another"
KEYS = ApiKeys(
    [
        ApiKey("reader", READ),
        ApiKey("ann", OPERATE, "operate"),
        ApiKey("bob", OTHER, "operate", tenant="other"),
    ]
)


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    """Give runs in a SQLite file, whose target does as it is told."""
    with open_store(f"sqlite:///{tmp_path}/runs.db") as store:
        yield Yard(store, FolderBlobStore(tmp_path / "blobs"), tmp_path)


@pytest.fixture
def api(yard: Yard) -> Iterator[httpx.Client]:
    """Give a client that may operate."""
    with (
        serving(create_app(yard.runs, keys=KEYS)) as base,
        httpx.Client(base_url=f"{base}{PREFIX}", headers={"X-API-Key": OPERATE}) as client,
    ):
        yield client


def submit(api: httpx.Client, *orders: dict[str, Any], **headers: str) -> httpx.Response:
    """Submit a run."""
    return api.post("/runs", json=request(*orders), headers=headers)


def test_a_run_is_submitted_and_shown(api: httpx.Client, yard: Yard) -> None:
    """201 with all that a submission is answered; then its orders, the list, and what an order wrote."""
    answer = submit(api, order("a"), order("b", "a"))
    assert answer.status_code == 201
    run = answer.json()["run_id"]
    assert answer.json().keys() == {
        "run_id",
        "trace_id",
        "flow_id",
        "done_endpoint",
        "search_tag",
        "comment",
        "created",
    }
    yard.runs.evaluate(run)
    yard.say(run, "a", "failed", error="no")
    yard.blobs.put(f"runs/{run}/0001/output.log", b"said\n")
    shown = api.get(f"/runs/{run}").json()
    assert (shown["status"], shown["finished"]) == ("failed", True)
    assert [(one["name"], one["state"], one["depends_on"]) for one in shown["orders"]] == [
        ("a", "failed", []),
        ("b", "failed", ["a"]),
    ]
    assert [one["run_id"] for one in api.get("/runs").json()] == [run]
    assert api.get(f"/runs/{run}/orders/a/log").text == "said\n"


def test_the_same_delivery_is_one_run(api: httpx.Client) -> None:
    """The header of a webhook names it; the second answer is 200."""
    first = submit(api, order("a"), **{"X-GitHub-Delivery": "d1"})
    again = submit(api, order("a"), **{"X-GitHub-Delivery": "d1"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["run_id"] == again.json()["run_id"]


@pytest.mark.parametrize(
    ("body", "status", "faults"),
    [
        (b'{"orders": []}', 400, {"there are no orders; give at least one in 'orders'", "'user'", "'label'"}),
        (b"\xff", 400, {"the delivery is neither JSON nor base64 of JSON"}),
        (b"", 400, {"the delivery is neither JSON nor base64 of JSON"}),
        (b'{"httpMethod": "GET"}', 405, {"method GET is not allowed; use POST"}),
    ],
)
def test_what_is_refused_is_a_problem_with_every_fault(
    api: httpx.Client, body: bytes, status: int, faults: set[str]
) -> None:
    """400 for what is bad, 405 for an envelope of another method; nothing is stored."""
    answer = api.post("/runs", content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    told = [one["problem"] for one in answer.json()["errors"]]
    assert len(told) == len(faults)
    assert all(any(one.startswith(fault) for one in told) for fault in faults)
    assert api.get("/runs").json() == []


def test_secrets_that_nobody_can_encrypt_are_503_with_the_remedy(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the server that lacks something, not the request; nothing is stored."""
    monkeypatch.setenv("PATH", str(tmp_path))
    runs = yard.again(secrets=AgeSecrets(["age1x"]))
    with (
        serving(create_app(runs, keys=KEYS)) as base,
        httpx.Client(base_url=f"{base}{PREFIX}", headers={"X-API-Key": OPERATE}) as client,
    ):
        answer = submit(client, order("a", secrets={"A": "b"}))
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert answer.json()["detail"].startswith("The program age is not installed; on Debian: apt-get")
        assert client.get("/runs").json() == []


class Broken:
    """Code that cannot be read."""

    def files(self, location: str) -> dict[str, tuple[bytes, int]]:
        """Raise what nobody expects, because of something else."""
        raise RuntimeError("no code") from OSError("disk")


def test_an_error_that_nobody_expects_keeps_its_cause(yard: Yard, caplog: pytest.LogCaptureFixture) -> None:
    """500, and whoever reads the server's log sees why."""
    runs = Runs(yard.store, yard.blobs, {"local": yard.puppets}, code=Broken())
    with (
        serving(create_app(runs, keys=KEYS)) as base,
        httpx.Client(base_url=f"{base}{PREFIX}", headers={"X-API-Key": OPERATE}) as client,
    ):
        assert submit(client, order("a")).status_code == 500
    [logged] = [one.exc_info[1] for one in caplog.records if one.name == "holdfast.api" and one.exc_info]
    assert logged is not None
    assert isinstance(logged.__cause__, OSError)


def test_another_method_is_told_which_there_are(api: httpx.Client) -> None:
    """405 with Allow."""
    answer = api.put("/runs")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_id_is_never_overwritten(api: httpx.Client) -> None:
    """409 for another request with the id of a run."""
    body = request(order("a"), run_id="mine")
    assert api.post("/runs", json=body).status_code == 201
    answer = api.post("/runs", json={**body, "label": "other"})
    assert (answer.status_code, "exists already" in answer.text) == (409, True)


def test_a_run_is_cancelled_and_done_again(api: httpx.Client, yard: Yard) -> None:
    """Twice is 409; what was cancelled is repeated as a new run, the same call as the same."""
    run = submit(api, order("a"), order("b", "a")).json()["run_id"]
    assert api.post(f"/runs/{run}/retry").status_code == 409
    cancelled = api.post(f"/runs/{run}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert api.post(f"/runs/{run}/cancel").status_code == 409
    again = [api.post(f"/runs/{run}/retry", headers={"Idempotency-Key": "1"}) for _ in range(2)]
    assert [one.status_code for one in again] == [201, 200]
    assert again[0].json()["run_id"] == again[1].json()["run_id"]
    one = api.post(f"/runs/{run}/retry", params={"order": "a"}).json()["run_id"]
    assert [each["name"] for each in api.get(f"/runs/{one}").json()["orders"]] == ["a", "b"]


@pytest.mark.parametrize(
    "path", ["/runs/nope", "/runs/nope/cancel", "/runs/nope/retry", "/runs/nope/orders/a/log"]
)
def test_what_is_not_there_is_404(api: httpx.Client, path: str) -> None:
    """Whatever is asked of it."""
    method = "POST" if path.endswith(("cancel", "retry")) else "GET"
    assert api.request(method, path).status_code == 404


def test_only_who_may_operates(api: httpx.Client) -> None:
    """No key 401, a reader 403, another tenant's key finds nothing."""
    assert api.get("/runs", headers={"X-API-Key": "nobody"}).status_code == 401
    assert api.get("/runs", headers={"X-API-Key": READ}).status_code == 200
    assert submit(api, order("a"), **{"X-API-Key": READ}).status_code == 403
    assert api.get("/runs", headers={"X-API-Key": OTHER}).status_code == 404


def test_the_document_is_guarded_and_names_every_route(api: httpx.Client) -> None:
    """OpenAPI, for whoever may read."""
    assert api.get("/openapi.json", headers={"X-API-Key": "nobody"}).status_code == 401
    paths = api.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        f"{PREFIX}/runs",
        *(f"{PREFIX}/runs/{{run}}{end}" for end in ("", "/cancel", "/retry", "/orders/{order}/log")),
    }
