"""The quick answers: the same as the ordinary ones, for nobody else, and never of what was."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import Depends, FastAPI, HTTPException

from backend.tests.integration.api._service import AWKWARD, KEYS, OPERATE, READ, Api, Service
from holdfast.api.internal.resilience.app import PREFIX, create_app, create_router
from holdfast.api.internal.resilience.auth import ApiKeys
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker

LISTS = ["/health", "/circuit-breakers", "/config", "/config/presets", "/monitoring/usage"]
QUICK = [*LISTS, "/circuit-breakers/till", f"/circuit-breakers/{quote(AWKWARD)}", "/circuit-breakers/nothing"]
KEYRINGS: list[dict[str, str]] = [
    {},
    {"Authorization": f"Bearer {READ}"},
    {"Authorization": f"bearer   {READ} "},
    {"Authorization": f"Bearer {OPERATE}", "X-API-Key": "wrong"},
    {"Authorization": "Bearer", "X-API-Key": READ},
    {"Authorization": "Bearer ", "X-API-Key": READ},
    {"Authorization": f"Basic {READ}", "X-API-Key": READ},
    {"Authorization": f"Bearer wrong {READ}"},
    {"Authorization": READ},
    {"X-API-Key": READ},
    {"X-API-Key": ""},
    {"X-API-Key": "wrong"},
]

Client = Callable[..., Api]


def _quick(app: FastAPI) -> list[Any]:
    return [route for route in app.routes if getattr(route, "quick", None) is not None]


def test_these_answers_are_quick(shared_app: FastAPI) -> None:
    """The paths that the following tests are about, and no others, have a quick answer."""
    paths = [route.path.removeprefix(PREFIX) for route in _quick(shared_app)]
    assert sorted([*LISTS, "/circuit-breakers/{name:path}"]) == sorted(paths)


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("path", QUICK)
def test_a_query_that_means_nothing_changes_nothing(client: Client, shared_app: FastAPI, path: str) -> None:
    """The quick answer is the ordinary one, which a query asks for: status, headers and body, whoever asks."""
    api = client(shared_app)
    for headers in KEYRINGS:
        quick, ordinary = (api.request("GET", path + query, headers=headers) for query in ("", "?nothing=1"))
        assert (ordinary.status_code, dict(ordinary.headers)) == (quick.status_code, dict(quick.headers))
        assert ordinary.content == quick.content


@pytest.mark.parametrize("path", QUICK)
@pytest.mark.parametrize("address", ["127.0.0.1", "203.0.113.9"])
@pytest.mark.parametrize("host", ["localhost", "evil.example"])
def test_without_keys_too(client: Client, keyless_app: FastAPI, path: str, address: str, host: str) -> None:
    """Without keys the quick answer turns away whom the ordinary one does."""
    api = client(keyless_app, client=(address, 1))
    quick, ordinary = (
        api.request("GET", path + query, headers={"Host": host}).status_code for query in ("", "?nothing=1")
    )
    assert ordinary == quick


def test_only_what_reads_is_quick(client: Client, shared_app: FastAPI) -> None:
    """Another method is refused where there is a quick answer, as elsewhere."""
    api = client(shared_app, OPERATE)
    assert {405} == {api.request(method, path).status_code for method in ("PUT", "HEAD") for path in LISTS}


@pytest.mark.parametrize("way", ["quick", "ordinary"])
def test_a_breaker_is_shown_as_it_is_now(reader: Api, service: Service, way: str) -> None:
    """A breaker that opens, is reset, isolated or new is shown so by the next answer."""
    query = "" if way == "quick" else "?nothing=1"

    def shown() -> tuple[str, str, str]:
        listed = {
            one["name"]: one["state"] for one in reader.get("/circuit-breakers" + query).json()["items"]
        }
        health = reader.get("/health" + query).json()
        detail = reader.get("/circuit-breakers/till" + query).json()
        return "open" if "till" in health["open"] else "closed", listed["till"], detail["state"]

    for _ in range(3):
        assert shown() == ("closed", "closed", "closed")
        service.fail("till", 3)
        assert shown() == ("open", "open", "open")
        service.breakers["till"].reset()
    service.breakers["till"].isolate()
    assert shown() == ("open", "isolated", "isolated")
    service.registry.define("new", CircuitBreaker("new", fail_max=1, reset_timeout=30.0))
    assert reader.get("/circuit-breakers/new" + query).json()["state"] == "closed"
    service.registry.discard("new")
    assert reader.get("/circuit-breakers/new" + query).status_code == 404


@pytest.mark.parametrize("path", ["/config", "/config?nothing=1"])
def test_the_configuration_is_shown_as_it_is_now(reader: Api, service: Service, path: str) -> None:
    """A change of the configuration is shown by the next answer."""
    for version, preset in enumerate(("production", "development"), 1):
        service.operations.live.use_preset(preset, actor="me")
        shown = reader.get(path).json()
        assert (shown["version"], shown["preset"]) == (version, preset)


def test_new_figures_are_shown_at_once(reader: Api, service: Service) -> None:
    """What the monitor has sampled is in the next answer."""

    def calls() -> int:
        items: list[dict[str, Any]] = reader.get("/monitoring/usage").json()["items"]
        return sum(one["calls"] for one in items if one["operation"] == "till")

    service.operations.monitor.sample()
    before = calls()
    service.calls["till"](None)
    service.operations.monitor.sample()
    assert calls() == before + 1


def test_a_fault_is_answered_and_logged(
    client: Client, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of the server shows nothing of itself to the client, also where the answer would be quick."""
    monkeypatch.setattr(type(service.operations.live), "current", None)
    response = client(create_app(service.operations, keys=KEYS), READ).get("/config")
    assert (response.status_code, response.headers["cache-control"]) == (500, "no-store")
    assert "its log says more" in response.json()["detail"]
    assert [f"GET {PREFIX}/config failed"] == [
        one.getMessage().replace("http://localhost", "")
        for one in caplog.records
        if one.name == "holdfast.api"
    ]


def _closed() -> None:
    raise HTTPException(418)


@pytest.mark.parametrize("path", LISTS)
def test_what_others_demand_holds(client: Client, service: Service, path: str) -> None:
    """Dependencies of an application that the routes are included into are heard, and overrides of our own."""
    into, around, own = FastAPI(), FastAPI(), create_app(service.operations, keys=ApiKeys())
    into.include_router(
        create_router(service.operations, keys=ApiKeys()), prefix=PREFIX, dependencies=[Depends(_closed)]
    )
    around.include_router(own.router, dependencies=[Depends(_closed)])
    assert [client(one).get(path).status_code for one in (into, around, own)] == [418, 418, 200]


def test_overrides_are_heard(client: Client, service: Service) -> None:
    """What a test of an application puts in the place of a dependency is asked instead of it."""
    app = create_app(service.operations, keys=ApiKeys())
    dependencies = [one.dependency for route in _quick(app) for one in route.dependencies]
    app.dependency_overrides.update({one: _closed for one in dependencies if one is not None})
    statuses = [client(app).get(path).status_code for path in LISTS if path != "/health"]
    assert [418] * (len(LISTS) - 1) == statuses


def test_a_mounted_application_answers(client: Client, service: Service) -> None:
    """Below another application, at any path, it is the same application."""
    outer = FastAPI()
    outer.mount("/deep", create_app(service.operations, keys=KEYS))
    api = client(outer, READ, base=f"http://localhost/deep{PREFIX}")
    assert [200] * len(LISTS) == [api.get(path).status_code for path in LISTS]
    assert api.get("/circuit-breakers/till").json()["name"] == "till"
