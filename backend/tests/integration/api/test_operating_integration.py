"""Operating: breakers and configuration change as asked, by whom is written down, and what is wrong changes nothing."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from backend.tests.integration._asgi import Application, AsgiServer
from backend.tests.integration.api._service import KEYS, OPERATE, READ, Api, Service
from holdfast.api.internal.resilience.app import PREFIX
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.testing.clock import VirtualClock


@pytest.mark.parametrize(
    ("actions", "state"),
    [
        (["isolate"], "isolated"),
        (["isolate", "isolate", "release"], "isolated"),
        (["isolate", "release"], "closed"),
        (["disable"], "disabled"),
        (["shadow"], "shadow"),
        (["disable", "reset"], "closed"),
        (["release"], "closed"),
    ],
)
def test_breakers_are_set_by_hand(operator: Api, service: Service, actions: list[str], state: str) -> None:
    """Each action does what the breaker's own method does, and answers with the breaker as it is then."""
    answers = [operator.post(f"/circuit-breakers/till/{action}").json() for action in actions]
    assert state == answers[-1]["state"] == service.breakers["till"].state


def test_a_reset_closes_an_open_breaker(operator: Api, service: Service) -> None:
    """A reset forgets the failures that opened the breaker."""
    service.fail("till", 5)
    response = operator.post("/circuit-breakers/till/reset").json()
    assert (
        response["state"],
        response["rejected"],
        response["counts"]["failures"],
        response["retry_after"],
    ) == ("closed", 0, 0, None)


def test_who_did_it_is_written_down(operator: Api, service: Service) -> None:
    """The audit trail has the key's name, the action, the reason, and the state before and after."""
    operator.post("/circuit-breakers/till/isolate", {"reason": "maintenance of the bank"})
    change = operator.get("/config/audit", action="isolate").json()["items"][0]
    assert tuple(change[name] for name in ("actor", "action", "reason", "error")) == (
        "operator",
        "isolate",
        "maintenance of the bank",
        None,
    )
    assert (
        change["before"]["till"]["state"],
        change["after"]["till"]["state"],
    ) == ("closed", "isolated")
    told = service.operations.feed.since(0)[-1]
    assert (told.kind, told.name, told.fields["actor"]) == ("ConfigurationChanged", "isolate", "operator")


def test_the_audit_trail_comes_by_the_page(operator: Api) -> None:
    """Pages of the audit trail follow each other by `next`, newest first, without a gap or a repetition."""
    for at in range(7):
        operator.post("/circuit-breakers/till/isolate", {"reason": str(at)})
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = operator.get("/config/audit", **query).json()
        seen += [one["reason"] for one in page["items"]]
        if page["next"] is None:
            break
        query["before"] = page["next"]
    assert [str(at) for at in reversed(range(7))] == seen
    assert operator.get("/config/audit", actor="nobody").json()["items"] == []


def test_a_configuration_is_applied(operator: Api, service: Service) -> None:
    """A custom configuration holds from then on, with its version and its line in the audit trail."""
    change = operator.post("/config/apply", {"settings": {"retry_attempts": 4}, "reason": "flaky"}).json()
    now = operator.get("/config").json()
    assert ("operator", "flaky", 4, service.operations.live.version) == (
        change["actor"],
        change["reason"],
        now["settings"]["retry_attempts"],
        now["version"],
    )


def test_a_preset_is_used_alone_or_under_settings(operator: Api) -> None:
    """A preset may come alone or with settings; both are one change."""
    operator.post("/config/apply", {"preset": "production"})
    alone = operator.get("/config").json()
    operator.post("/config/apply", {"preset": "development", "settings": {"retry_attempts": 4}})
    both = operator.get("/config").json()
    assert (
        alone["preset"],
        alone["settings"],
        both["preset"],
        both["settings"],
    ) == ("production", {}, "development", {"retry_attempts": 4})
    assert alone["version"] + 1 == both["version"]
    operator.post("/config/withdraw")
    assert tuple(operator.get("/config").json()[name] for name in ("preset", "settings")) == ("simple", {})


def test_faults_of_a_configuration_come_together(operator: Api, service: Service) -> None:
    """A configuration with faults is refused with all of them; nothing has changed, but the attempt is written down."""
    before = service.operations.live.current
    settings = {"retry_attempts": 99, "jitter_max": "much", "colour": "red"}
    response = operator.post("/config/apply", {"settings": settings})
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    faults = response.json()["errors"]
    assert {"retry_attempts", "jitter_max", "colour"} == {
        fault["path"].rpartition(".")[2] for fault in faults
    }
    assert all({"path", "value", "problem", "remedy", "allowed"} <= set(fault) for fault in faults)
    assert faults[0]["suggestion"] == "10"
    assert before is service.operations.live.current
    refused = service.operations.live.audit()[0]
    assert (refused.action, refused.error is not None) == ("apply", True)


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, ["body"]),
        ({"preset": "nothing"}, None),
        ({"preset": 1, "reason": 2, "colour": "red"}, ["body.preset", "body.reason", "body.colour"]),
        ({"settings": []}, ["body.settings"]),
        ({"preset": "simple", "reason": "x" * 201}, ["body.reason"]),
    ],
)
def test_requests_that_are_wrong_change_nothing(
    operator: Api, service: Service, body: Any, wrong: list[str] | None
) -> None:
    """A request that makes no sense is told why."""
    before = service.operations.live.version
    response = operator.post("/config/apply", body)
    assert response.status_code == 422
    assert wrong is None or wrong == [fault["path"] for fault in response.json()["errors"]]
    assert before == service.operations.live.version


@pytest.mark.parametrize("body", [b"{", b"[" * 4000, b'"text"', b"\xff\xfe", b"NaN"])
def test_bodies_that_are_no_objects(operator: Api, body: bytes) -> None:
    """What is no JSON object is refused, however deep it is."""
    headers = {"Content-Type": "application/json"}
    response = operator.request("POST", "/config/reload", content=body, headers=headers)
    assert response.status_code == 422
    assert response.json()["errors"][0]["path"].partition(".")[0] == "body"


def test_an_empty_body_is_an_empty_object(operator: Api) -> None:
    """Where nothing needs to be said, the body may be empty, but is JSON."""
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert operator.request("POST", "/config/reload", headers=headers).status_code == 200
    assert operator.request("POST", "/config/reload").status_code == 415


def test_validation_finds_faults_and_a_template(reader: Api, service: Service) -> None:
    """Validation answers with faults, warnings and the nearest template, changes nothing, and takes a reading key."""
    version = service.operations.live.version
    bad = reader.post("/config/validate", {"retry_attempts": 99}).json()
    good = reader.post("/config/validate", {"retry_attempts": 1, "circuit_breaker_threshold": 2}).json()
    assert (
        bad["valid"],
        [fault["path"] for fault in bad["faults"]],
        good["valid"],
        good["faults"],
    ) == (False, ["retry_attempts"], True, [])
    broken = reader.request(
        "POST", "/config/validate", content=b"{", headers={"Content-Type": "application/json"}
    )
    assert (broken.status_code, broken.json()["valid"]) == (200, False)
    assert version == service.operations.live.version


def test_validation_is_limited_for_each_key(reader: Api, operator: Api) -> None:
    """A key validates 60 times a minute and 1,000 times an hour; another key is not concerned; Retry-After is true."""
    clock = VirtualClock()
    with use_clock(clock):
        statuses = [reader.post("/config/validate", {}).status_code for _ in range(61)]
        assert statuses == [200] * 60 + [429]
        refused = reader.post("/config/validate", {})
        assert (
            refused.headers["retry-after"],
            operator.post("/config/validate", {}).status_code,
        ) == ("60", 200)
        clock.advance(60.0)
        assert reader.post("/config/validate", {}).status_code == 200


def test_a_long_body_is_refused_by_its_length(operator: Api) -> None:
    """A body that says to be too long is refused before any of it is read."""
    read: list[int] = []

    async def parts() -> AsyncIterator[bytes]:
        read.append(1)
        yield b"x"

    headers = {"Content-Type": "application/json", "Content-Length": "4097"}
    response = operator.request("POST", "/config/validate", content=parts(), headers=headers)
    assert response.status_code == 413
    assert read == []


def test_a_long_body_is_refused_while_it_comes(app: FastAPI) -> None:
    """A body that does not say how long it is, is refused as soon as it is too long; the rest is never read."""
    pulled: list[int] = []

    async def receive() -> dict[str, Any]:
        pulled.append(1)
        return {"type": "http.request", "body": b"x" * 1024, "more_body": len(pulled) < 100}

    assert (status_of(app, receive), len(pulled)) == (413, 5)


def test_a_body_that_does_not_come_is_not_waited_for(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not send the body in time is told so."""
    monkeypatch.setattr("holdfast.api.internal.resilience._http._BODY_SECONDS", 0.02)

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    assert status_of(app, receive) == 408


def status_of(app: Application, receive: Callable[[], Any]) -> int:
    """Return the status of a validation whose body comes from `receive`."""
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"content-type", b"application/json"), (b"x-api-key", READ.encode())]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": f"{PREFIX}/config/validate",
        "raw_path": b"",
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("203.0.113.9", 1),
        "server": ("x", 80),
    }

    async def main() -> None:
        await app(scope, receive, send)

    asyncio.run(main())
    return statuses[0]


def test_a_long_body_over_a_socket(app: FastAPI, asgi_server: Callable[[Application], AsgiServer]) -> None:
    """Over a real connection a long body is refused, and the server goes on serving."""
    url = asgi_server(app).url
    headers = {"X-API-Key": OPERATE, "Content-Type": "application/json"}
    with httpx.Client(base_url=url + PREFIX, headers=headers) as http:
        assert http.post("/config/validate", content=json.dumps("x" * 5000)).status_code == 413
        assert http.post("/config/validate", content=b"{}").status_code == 200
    assert len(KEYS) == 2
