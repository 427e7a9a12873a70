"""Who comes in: every endpoint of the document, with each kind of client, with keys and without."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from backend.tests.integration.api._service import (
    KEYS,
    OPERATE,
    READ,
    Api,
    Service,
    declared,
    filled,
    make_service,
)
from holdfast.api.internal.resilience.app import PREFIX, create_app, create_router
from holdfast.api.internal.resilience.auth import ApiKeys


def document() -> dict[str, Any]:
    service = make_service()
    try:
        return create_app(service.operations, keys=KEYS).openapi()
    finally:
        service.close()


ENDPOINTS = [(method, filled(path), facts["x-role"]) for method, path, facts in declared(document())]
OPEN = {path for _, path, role in ENDPOINTS if role == "open"}
GUARDED = [(method, path) for method, path, role in ENDPOINTS if role != "open"] + [("GET", "/openapi.json")]
# An event stream has no end to wait for.
READING = [(method, path) for method, path in GUARDED if method == "GET" and path != "/events"]
VALIDATE = ("POST", "/config/validate")
OPERATING = [(method, path) for method, path, role in ENDPOINTS if role == "operate"]

Client = Callable[..., Api]


def test_the_endpoints_are_found() -> None:
    """The document has the endpoints that the following tests are about; what posts operates, or validates."""
    assert len(ENDPOINTS) > 30
    assert {"/health", "/dashboard"} == OPEN
    assert {"POST"} == {method for method, _ in OPERATING}
    assert {VALIDATE, *OPERATING} == {(method, path) for method, path, _ in ENDPOINTS if method == "POST"}


UNKNOWN = "not-a-key-of-this-service"
ASKED, WRONG = 'Bearer realm="holdfast"', 'Bearer realm="holdfast", error="invalid_token"'
STRANGERS: list[tuple[dict[str, Any], str]] = [
    ({}, ASKED),
    ({"Authorization": f"Bearer {UNKNOWN}"}, WRONG),
    ({"X-API-Key": UNKNOWN}, WRONG),
    ({"Authorization": f"Basic {READ}"}, ASKED),
    ({"Authorization": "Bearer"}, ASKED),
    ({"Authorization": f"Bearer {UNKNOWN}", "X-API-Key": READ}, WRONG),
    ({"X-API-Key": "é".encode("latin-1")}, WRONG),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_without_a_key_nobody_comes_in(client: Client, shared_app: FastAPI, method: str, path: str) -> None:
    """Every endpoint refuses who has no known key, and says how to come in; a Bearer counts before the other header."""
    api = client(shared_app)
    responses = [api.request(method, path, headers=headers) for headers, _ in STRANGERS]
    assert [(401, challenge, "application/problem+json") for _, challenge in STRANGERS] == [
        (one.status_code, one.headers["www-authenticate"], one.headers["content-type"]) for one in responses
    ]


@pytest.mark.parametrize(("method", "path"), READING)
def test_a_reading_key_reads(client: Client, shared_app: FastAPI, method: str, path: str) -> None:
    """Whoever may read may read everything, with the key in either of two headers."""
    api = client(shared_app)
    statuses = {
        api.request(method, path, headers=headers).status_code
        for headers in (
            {"Authorization": f"Bearer {READ}"},
            {"X-API-Key": READ},
            {"Authorization": f"bearer {READ}"},
        )
    }
    assert not statuses & {401, 403}
    assert len(statuses) == 1


@pytest.mark.parametrize(("method", "path"), OPERATING)
def test_a_reading_key_changes_nothing(
    client: Client, shared_app: FastAPI, shared_service: Service, method: str, path: str
) -> None:
    """Whoever may only read is turned away from everything that changes something, before it is looked at."""
    response = client(shared_app, READ).request(method, path, content=b"no JSON at all")
    assert response.status_code == 403
    assert "operate" in response.json()["detail"]
    assert shared_service.operations.live.audit() == []


@pytest.mark.parametrize(("method", "path"), [*READING, *OPERATING, VALIDATE])
def test_an_operating_key_may_all(client: Client, shared_app: FastAPI, method: str, path: str) -> None:
    """Whoever may operate may also read; an empty body is refused for what it is, not for who sent it."""
    response = client(shared_app, OPERATE).request(method, path, headers={"Content-Type": "text/plain"})
    assert response.status_code not in {401, 403}
    assert method == "GET" or response.status_code == 415


def test_health_is_open_and_tells_strangers_no_names(client: Client, app: FastAPI, service: Service) -> None:
    """A probe without a key learns whether all is well; names are for those who may read."""
    service.fail("till", 3)
    stranger, reader = (
        client(app, key, client=("203.0.113.9", 1)).get("/health").json() for key in (None, READ)
    )
    assert (stranger["status"], stranger["open"], stranger["version"]) == ("degraded", [], None)
    assert (reader["status"], "till" in reader["open"]) == ("degraded", True)
    assert len(reader["open"]) == reader["open_count"] == stranger["open_count"]
    assert isinstance(reader["version"], str)


def test_the_page_is_open_where_there_are_keys(client: Client, shared_app: FastAPI) -> None:
    """The page asks for a key by itself: with keys everybody gets it."""
    assert client(shared_app, client=("203.0.113.9", 1)).get("/dashboard").status_code == 200


@pytest.mark.parametrize(("method", "path"), [*GUARDED, ("GET", "/dashboard")])
def test_without_keys_strangers_stay_out(
    client: Client, keyless_app: FastAPI, method: str, path: str
) -> None:
    """Without keys nobody from another machine is served, whatever the headers say; the answer says what to do."""
    headers = {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1"}
    api = client(keyless_app, client=("203.0.113.9", 1))
    response = api.request(method, path, headers=headers)
    assert response.status_code == 403
    assert "HOLDFAST_API_KEYS" in response.json()["detail"]


@pytest.mark.parametrize(("method", "path"), [*GUARDED, ("GET", "/dashboard")])
def test_without_keys_foreign_names_stay_out(
    client: Client, keyless_app: FastAPI, method: str, path: str
) -> None:
    """A page of another site whose name leads to this machine is not served: its Host is no loopback name."""
    api = client(keyless_app, base=f"http://rebound.example{PREFIX}")
    assert api.request(method, path).status_code == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8642", 200),
        ("localhost.", 200),
        ("127.0.0.1:1", 200),
        ("127.8.9.1", 200),
        ("[::1]:8642", 200),
        ("localhost.example", 403),
        ("127.0.0.1.example", 403),
        ("0.0.0.0", 403),
        ("[::2]", 403),
        ("10.0.0.1", 403),
    ],
)
def test_hosts_that_are_this_machine(client: Client, keyless_app: FastAPI, host: str, status: int) -> None:
    """Without keys the Host header names localhost or a loopback address."""
    assert status == client(keyless_app).request("GET", "/config", headers={"Host": host}).status_code


@pytest.mark.parametrize(
    ("address", "server", "status"),
    [
        (("127.0.0.1", 1), ("x", 80), 200),
        (("127.9.9.9", 1), ("x", 80), 200),
        (("::1", 1), ("x", 80), 200),
        (("::ffff:127.0.0.1", 1), ("x", 80), 200),
        (None, ("/run/holdfast.sock", None), 200),
        (None, ("x", 80), 403),
        (None, None, 403),
        (("", 0), ("x", 80), 403),
        (("localhost", 1), ("x", 80), 403),
        (("testclient", 1), ("x", 80), 403),
        (("::ffff:203.0.113.9", 1), ("x", 80), 403),
        (("fe80::1%lo", 1), ("x", 80), 403),
        (("0.0.0.0", 1), ("x", 80), 403),
    ],
)
def test_addresses_that_are_this_machine(
    keyless_app: FastAPI, address: Any, server: Any, status: int
) -> None:
    """Without keys the address of the socket decides; a Unix socket is here, a client without an address is not."""
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": f"{PREFIX}/config",
        "raw_path": b"",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": address,
        "server": server,
    }
    asyncio.run(keyless_app(scope, receive, send))
    assert [status] == statuses


def test_without_keys_this_machine_operates(client: Client, service: Service) -> None:
    """Without keys a client here may do all; the audit trail calls it local."""
    api = client(create_app(service.operations, keys=ApiKeys()))
    response = api.post("/circuit-breakers/till/isolate")
    assert (response.status_code, response.json()["state"]) == (200, "isolated")
    assert service.operations.live.audit()[0].actor == "local"
    assert api.get("/snapshot").json()["role"] == "operate"


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_pages_of_other_sites_cannot_post(
    client: Client, keyless_app: FastAPI, shared_service: Service, kind: str | None
) -> None:
    """What a browser sends for another site without asking is refused: only JSON changes anything, no origin may."""
    headers = {"Origin": "https://evil.example"} | ({} if kind is None else {"Content-Type": kind})
    api = client(keyless_app)
    response = api.request("POST", "/circuit-breakers/till/isolate", headers=headers, content=b"{}")
    asked = api.request("OPTIONS", "/circuit-breakers/till/isolate", headers=headers)
    assert (response.status_code, asked.status_code) == (415, 405)
    assert not [
        name for one in (response, asked) for name in one.headers if name.startswith("access-control")
    ]
    assert shared_service.breakers["till"].state == "closed"


def test_keys_come_from_the_environment(
    client: Client, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no keys are given, they are those of the environment."""
    monkeypatch.setenv("HOLDFAST_API_KEYS", f"ops:operate:{OPERATE}")
    app = FastAPI()
    app.include_router(create_router(service.operations), prefix="/deep/inside")
    api = client(app, OPERATE, base="http://service/deep/inside")
    assert api.post("/circuit-breakers/till/isolate").status_code == 200
    assert [change.actor for change in service.operations.live.audit()] == ["ops"]


def test_a_unix_socket_is_this_machine(
    keyless_app: FastAPI, tmp_path: Path, unix_server: Callable[[FastAPI, Path], None]
) -> None:
    """Without keys a client on a real Unix socket is served."""
    path = tmp_path / "holdfast.sock"
    unix_server(keyless_app, path)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as http:
        assert http.get(f"{PREFIX}/config").status_code == 200
        assert http.get(f"{PREFIX}/config", headers={"Host": "elsewhere"}).status_code == 403
