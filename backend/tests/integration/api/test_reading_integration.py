"""Reading: it changes nothing, makes nothing, and hands out lists by the page."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI

from backend.tests.integration.api._service import (
    AWKWARD,
    READ,
    Api,
    Service,
    declared,
    filled,
    make_service,
)
from holdfast.api.internal.resilience.app import create_app
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker, live_breakers
from holdfast.infrastructure.resilience.meter import meters
from holdfast.infrastructure.telemetry.inventory import inventory


def paths() -> list[str]:
    service = make_service()
    document = create_app(service.operations).openapi()
    service.close()
    reads = [filled(path) for method, path, _ in declared(document) if method == "GET"]
    # A stream has no end to wait for.
    return [path for path in reads if path != "/events"]


READS = [*paths(), "/openapi.json"]
UNKNOWN = ["nothing", "a/b", "till/reset", "till/", "", "%", "%2F", "ü", "x" * 1000]
NAMING = [
    "/circuit-breakers",
    "/config/operations",
    "/health",
    "/monitoring/alerts",
    "/monitoring/performance",
    "/monitoring/usage",
    "/pipelines",
    "/policies",
    "/snapshot",
]
NAMED = ["/circuit-breakers/{name}", "/config/presets/{name}", "/config/operations/{name}"]


def state(service: Service) -> Any:
    """Return all that could have changed: names, meters, breakers, configuration, audit trail, events."""
    breakers = [breaker.export_state() for breaker in service.breakers.values()]
    operations = service.operations
    return (
        list(service.registry),
        sorted(meters()),
        {name: meter.snapshot() for name, meter in meters().items()},
        breakers,
        [breaker.rejected for breaker in service.breakers.values()],
        len(live_breakers()),
        inventory(service.registry),
        operations.live.current,
        operations.live.version,
        list(operations.live.operations),
        operations.live.audit(),
        operations.feed.last,
        operations.monitor.alerts(),
        operations.monitor.usage(),
    )


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("path", READS)
def test_reading_changes_nothing(looker: Api, shared_service: Service, path: str) -> None:
    """After every reading request all state is what it was."""
    before = state(shared_service)
    for _ in range(2):
        looker.get(path)
    assert before == state(shared_service)


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("path", NAMED)
@pytest.mark.parametrize("name", UNKNOWN, ids=lambda name: name[:20])
def test_unknown_names_are_404_and_make_nothing(
    looker: Api, shared_service: Service, path: str, name: str
) -> None:
    """A name that nobody knows is not found, and is not known afterwards."""
    before = state(shared_service)
    response = looker.get(path.replace("{name}", quote(name, safe="")))
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
    assert before == state(shared_service)


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("action", ["reset", "isolate", "release", "disable", "shadow"])
def test_operating_on_unknown_names_makes_nothing(operator: Api, service: Service, action: str) -> None:
    """Operating on a breaker that nobody knows is not found, makes nothing, and leaves no line in the audit trail."""
    before = state(service)
    assert operator.post(f"/circuit-breakers/nothing/{action}").status_code == 404
    assert before == state(service)


@pytest.mark.usefixtures("still")
def test_running_an_unknown_name_makes_nothing(operator: Api, service: Service) -> None:
    """The benchmark of a pipeline that nobody defined is not found."""
    before = state(service)
    assert operator.post("/performance/run", {"operation": "nothing"}).status_code == 404
    assert before == state(service)


def test_trends_of_an_unknown_operation(looker: Api) -> None:
    """Trends of an operation that nobody knows are not found."""
    assert looker.get("/monitoring/trends", operation="nothing").status_code == 404


@pytest.mark.parametrize("awkward", [quote(AWKWARD, safe=""), quote(AWKWARD, safe="/")])
def test_names_may_hold_anything(reader: Api, operator: Api, awkward: str) -> None:
    """A name with slashes, percent signs, blanks and letters of any alphabet is found, and can be operated on."""
    assert reader.get(f"/circuit-breakers/{awkward}").json()["name"] == AWKWARD
    assert operator.post(f"/circuit-breakers/{awkward}/isolate").json()["state"] == "isolated"
    assert reader.get(f"/config/operations/{awkward}").json()["operation"] == AWKWARD


@pytest.mark.parametrize("query", ["", "?x"])
@pytest.mark.parametrize("path", READS)
def test_a_name_that_is_no_text_fails_no_answer(
    client: Callable[..., Api], odd_app: FastAPI, path: str, query: str
) -> None:
    """A lone surrogate in a name, which UTF-8 has no form for, is shown as a question mark, quickly asked or not."""
    response = client(odd_app, READ).get(f"{path}{query}")
    assert response.status_code in {200, 404, 422}
    if path in NAMING:
        assert "pay?" in response.text


def test_a_breaker_that_is_called_like_an_action(operator: Api, service: Service) -> None:
    """A breaker whose name ends like an action is told apart from the action."""
    breaker = CircuitBreaker("till/reset")
    service.registry.define("tricky", breaker)
    assert operator.get("/circuit-breakers/till/reset").json()["name"] == "till/reset"
    assert operator.post("/circuit-breakers/till/reset/isolate").json()["name"] == "till/reset"
    assert (breaker.state, service.breakers["till"].state) == ("isolated", "closed")


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize(
    "path",
    [
        "/circuit-breakers",
        "/policies",
        "/pipelines",
        "/config/presets",
        "/config/templates",
        "/config/operations",
        "/monitoring/usage",
        "/monitoring/performance",
        "/performance/runs",
    ],
)
def test_lists_come_by_the_page(looker: Api, path: str) -> None:
    """Pages put together are the list; past its end there is nothing; `total` is how long it is."""
    whole = looker.get(path, limit=200).json()
    parts = [
        item
        for offset in range(whole["total"])
        for item in looker.get(path, offset=offset, limit=1).json()["items"]
    ]
    assert whole["items"] == parts
    assert whole["total"] == len(parts)
    beyond = looker.get(path, offset=1_000_000).json()
    assert ([], whole["total"], 1_000_000, 50) == (
        beyond["items"],
        beyond["total"],
        beyond["offset"],
        beyond["limit"],
    )


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ({"limit": 0}, ["query.limit"]),
        ({"limit": 201}, ["query.limit"]),
        ({"offset": -1}, ["query.offset"]),
        ({"offset": 1_000_001}, ["query.offset"]),
        ({"limit": "many", "offset": "1e3"}, ["query.offset", "query.limit"]),
    ],
)
def test_bounds_of_pages(looker: Api, query: dict[str, Any], wrong: list[str]) -> None:
    """A page out of bounds is refused with every fault of the query."""
    response = looker.get("/circuit-breakers", **query)
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    assert wrong == [fault["path"] for fault in response.json()["errors"]]


def test_every_query_that_is_wrong_is_told_so(looker: Api) -> None:
    """All faults of a query come together, of whatever kind."""
    response = looker.get("/monitoring/trends", seconds="nan", points=0)
    assert [fault["path"] for fault in response.json()["errors"]] == ["query.seconds", "query.points"]


@pytest.mark.usefixtures("still")
def test_a_breaker_is_shown_as_it_is(reader: Api, service: Service) -> None:
    """Summary, detail and snapshot show the state, the counts and the time that is left of it."""
    service.fail("till", 3)
    service.fail("till", 2)
    detail = reader.get("/circuit-breakers/till").json()
    assert (detail["state"], detail["retry_after"], detail["rejected"]) == ("open", 30.0, 2)
    assert detail["operations"] == ["till"]
    assert (detail["config"]["window"], detail["config"]["open_for"]) == ("Window.consecutive(3)", 30.0)
    listed = {one["name"]: one["state"] for one in reader.get("/circuit-breakers").json()["items"]}
    assert (listed["till"], listed[AWKWARD]) == ("open", "closed")
    painted = {one["name"]: one["state"] for one in reader.get("/snapshot").json()["breakers"]}
    assert listed == painted


def test_the_snapshot_says_where_the_events_go_on(reader: Api, service: Service) -> None:
    """The snapshot names the last event, the feed it belongs to, and what its client may do."""
    service.operations.feed.publish("Marked", "x", {})
    taken = reader.get("/snapshot").json()
    feed = service.operations.feed
    assert (feed.last, feed.born, "read") == (taken["last_event"], taken["feed"], taken["role"])
    assert taken["configuration"]["preset"] == "simple"


def test_metrics_are_those_of_the_exporter(looker: Api) -> None:
    """A scrape gets the exporter's text, as Prometheus wants it."""
    response = looker.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "till" in response.text


def test_metrics_without_an_exporter(client: Callable[..., Api], service: Service) -> None:
    """Where prometheus-client is missing, the answer says which extra to install."""
    service.operations.exporter = None
    response = client(create_app(service.operations)).get("/metrics")
    assert response.status_code == 503
    assert "holdfast[prometheus]" in response.json()["detail"]


@pytest.mark.parametrize(("form", "kind"), [("json", "application/json"), ("csv", "text/csv; charset=utf-8")])
def test_exports_are_documents(reader: Api, service: Service, form: str, kind: str) -> None:
    """The export is a file of its kind."""
    service.operations.monitor.sample()
    response = reader.get("/monitoring/export", format=form)
    assert (200, kind) == (response.status_code, response.headers["content-type"])
    assert f'attachment; filename="resilience.{form}"' == response.headers["content-disposition"]
    if form == "json":
        json.loads(response.text)


def test_no_answer_is_stored_anywhere(looker: Api) -> None:
    """Every answer forbids caches to keep it and browsers to guess its type."""
    for path in (*READS, "/nothing-here"):
        headers = looker.get(path).headers
        assert headers.get("cache-control") == "no-store" or path == "/nothing-here"
        assert headers.get("x-content-type-options") == "nosniff" or path == "/nothing-here"


def test_the_page_lets_nothing_foreign_run(looker: Api) -> None:
    """The page may run its own script only, by a nonce that is new each time, and stand in no frame."""
    first, second = looker.get("/dashboard"), looker.get("/dashboard")
    policy = first.headers["content-security-policy"]
    assert policy != second.headers["content-security-policy"]
    assert {"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
    assert "unsafe" not in policy
    assert (first.headers["x-frame-options"], first.headers["cache-control"]) == ("DENY", "no-store")
    assert "{{" not in first.text
    nonce = policy.partition("script-src 'nonce-")[2].partition("'")[0]
    assert first.text.count("<script") == first.text.count(f'<script nonce="{nonce}"')


def test_a_router_without_the_page(client: Callable[..., Api], service: Service) -> None:
    """The page can be left out."""
    app = create_app(service.operations, dashboard=False)
    api = client(app)
    assert (api.get("/dashboard").status_code, api.get("/config").status_code) == (404, 200)


def test_the_application_serves_nothing_else(looker: Api) -> None:
    """There are none of the framework's own pages, and what is not there is a problem too."""
    for path in ("/docs", "/redoc", "/openapi.json", "/", "/internal"):
        response = looker.request("GET", f"http://localhost{path}")
        assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
    wrong = looker.request("DELETE", "/config")
    assert (wrong.status_code, wrong.headers["content-type"]) == (405, "application/problem+json")
    assert "GET" in wrong.headers["allow"]


def test_a_fault_of_the_server_tells_nothing(
    reader: Api, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that nobody expected is logged, and answered without what it says."""

    def fail(**_: Any) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(service.operations.monitor, "usage", fail, raising=False)
    response = reader.get("/monitoring/usage")
    assert (response.status_code, response.headers["content-type"]) == (500, "application/problem+json")
    assert "hunter2" not in response.text
    assert "hunter2" in caplog.text
