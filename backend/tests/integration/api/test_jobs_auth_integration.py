"""Who comes in to jobs: every endpoint of the document, with each kind of client, and whose jobs they see."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from backend.tests.integration.api._jobs import (
    COMMITTED,
    KEYS,
    NOWHERE,
    OPERATE,
    OTHER,
    READ,
    JobsApi,
    Shop,
    ask,
    path_of,
)
from backend.tests.integration.api._service import declared
from holdfast.api.internal.jobs.app import PREFIX, Tenants, create_app
from holdfast.api.internal.resilience.auth import ApiKey, ApiKeys
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.store.memory import MemoryStateStore

ENDPOINTS = [
    (method, path, facts["x-role"])
    for method, path, facts in declared(json.loads(COMMITTED.read_text(encoding="utf-8")))
]
EVERY = [(method, path) for method, path, _ in ENDPOINTS]
# A stream of events has no end to wait for; its own tests are in test_jobs_events_integration.py.
STREAMS = {f"{PREFIX}/progress", f"{PREFIX}/jobs/{{job}}/events/stream"}
OPERATING = [(method, path) for method, path, role in ENDPOINTS if role == "operate"]
OF_ONE = [(method, path) for method, path in EVERY if "{" in path]
Client = Callable[..., JobsApi]


def test_the_endpoints_are_found() -> None:
    """The document has the endpoints that the following tests are about: what posts operates, what gets reads."""
    assert len(ENDPOINTS) > 25
    assert {("GET", "read"), ("POST", "operate")} == {(method, role) for method, _, role in ENDPOINTS}


@pytest.mark.parametrize(("method", "path"), EVERY)
def test_without_a_key_nobody_comes_in(
    jobs_client: Client, shared_shop: Shop, method: str, path: str
) -> None:
    """Every endpoint refuses who has no known key, and says how to come in."""
    before = shared_shop.everything()
    api = jobs_client(shared_shop.app)
    for headers in ({}, {"Authorization": "Bearer not-a-key-of-this-shop"}, {"X-API-Key": "nor-this-one"}):
        response = api.request(method, path_of(path), headers=headers)
        assert (response.status_code, response.headers["content-type"]) == (401, "application/problem+json")
        assert response.headers["www-authenticate"].startswith("Bearer")
    assert shared_shop.everything() == before


@pytest.mark.parametrize(("method", "path"), OPERATING)
def test_a_reading_key_changes_nothing(
    jobs_client: Client, shared_shop: Shop, method: str, path: str
) -> None:
    """Whoever may only read is turned away from everything that changes something, before it is looked at."""
    before = shared_shop.everything()
    response = jobs_client(shared_shop.app, READ).request(method, path_of(path), content=b"no JSON at all")
    assert (response.status_code, "operate" in response.json()["detail"]) == (403, True)
    assert shared_shop.everything() == before


@pytest.mark.parametrize("path", [path for method, path in EVERY if method == "GET" and path not in STREAMS])
def test_a_reading_key_reads(jobs_client: Client, shared_shop: Shop, path: str) -> None:
    """Whoever may read may read everything."""
    assert ask(jobs_client(shared_shop.app, READ), "GET", path_of(path)).status_code == 200


@pytest.mark.parametrize(("method", "path"), OPERATING)
def test_pages_of_other_sites_cannot_post(
    jobs_client: Client, shared_shop: Shop, method: str, path: str
) -> None:
    """A body of a type that a browser sends for another site without asking is refused."""
    before = shared_shop.everything()
    headers = {"Content-Type": "text/plain", "Origin": "https://evil.example"}
    response = jobs_client(shared_shop.app, OPERATE).request(
        method, path_of(path), headers=headers, content=b"{}"
    )
    assert response.status_code == 415
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert shared_shop.everything() == before


@pytest.mark.parametrize(("method", "path"), OF_ONE)
def test_what_belongs_to_another_tenant_is_not_there(
    jobs_client: Client, shared_shop: Shop, method: str, path: str
) -> None:
    """An id of another tenant is answered exactly as one that is nowhere, and nothing changes."""
    before = shared_shop.everything()
    api = jobs_client(shared_shop.app, OTHER)
    theirs, nowhere = (ask(api, method, path_of(path, tenant)) for tenant in ("default", "nobody"))
    assert (theirs.status_code, nowhere.status_code) == (404, 404)
    assert theirs.text.replace("of-default", "of-nobody") == nowhere.text
    assert shared_shop.everything() == before


@pytest.mark.parametrize("path", ["/jobs", "/review", "/interrupted"])
def test_lists_are_of_one_tenant(jobs_client: Client, shop: Shop, path: str) -> None:
    """A key sees in lists what its tenant has, and nothing else."""
    for tenant, rows in (("default", 2), ("other", 3)):
        job = shop.submit(tenant=tenant, job_id=f"job-of-{tenant}")
        shop.leave(job, claimed=rows, begun=rows, tenant=tenant)
        if path == "/review":
            shop.jobs(tenant).recover()
    for secret, tenant in ((OPERATE, "default"), (READ, "default"), (OTHER, "other")):
        text = jobs_client(shop.app, secret).get(path).text
        assert f"job-of-{tenant}" in text
        assert text.count("job-of-") == text.count(f"job-of-{tenant}")


@pytest.mark.parametrize(("method", "path"), EVERY)
def test_a_tenant_that_is_not_in_the_store_is_named(
    jobs_client: Client, shared_shop: Shop, method: str, path: str
) -> None:
    """A key of a tenant that was never created opens nothing: the answer says which tenant."""
    if path.endswith("/handlers"):
        return  # they are the server's
    body = {"handler": "ship", "rows": [{"order": "1"}]}
    api = jobs_client(shared_shop.app, NOWHERE)
    if path.endswith("/csv"):
        response = api.csv("order\n1\n", handler="ship")
    elif method == "POST" and path in {f"{PREFIX}/jobs", f"{PREFIX}/jobs/check"}:
        response = api.post(path.removeprefix(PREFIX), body)
    else:
        response = ask(api, method, path_of(path))
    assert (response.status_code, "'nowhere'" in response.json()["detail"]) == (404, True)


def test_without_keys_this_machine_has_the_default_tenant(jobs_client: Client, shop: Shop) -> None:
    """Without keys a client here operates the default tenant's jobs; one from elsewhere is refused."""
    shop.submit(job_id="mine")
    shop.submit(tenant="other", job_id="theirs")
    app = create_app(shop.tenants, keys=ApiKeys())
    here = jobs_client(app)
    assert [one["id"] for one in here.get("/jobs").json()["items"]] == ["mine"]
    assert here.post("/jobs/mine/pause").json()["reason"] == "by local"
    assert jobs_client(app, client=("203.0.113.9", 1)).get("/jobs").status_code == 403
    assert jobs_client(app, base=f"http://rebound.example{PREFIX}").get("/jobs").status_code == 403


def test_a_key_names_its_tenant_in_the_environment() -> None:
    """`name:role@tenant:secret` is a key of a tenant; without one it is the default tenant's."""
    text = "ann:operate:a-secret-of-many-characters,bob:read@shop-2:another-secret-of-many"
    keys = ApiKeys.from_environ({"HOLDFAST_API_KEYS": text})
    ann, bob = keys.find("a-secret-of-many-characters"), keys.find("another-secret-of-many")
    assert ann is not None
    assert bob is not None
    assert ((ann.role, ann.tenant), (bob.role, bob.tenant)) == (("operate", "default"), ("read", "shop-2"))


@pytest.mark.parametrize("tenant", ["", "Shop", "a/b", "x" * 49, None])
def test_a_tenant_has_a_name_that_every_store_takes(tenant: Any) -> None:
    """A key whose tenant no store could have is refused."""
    with pytest.raises(ConfigurationError, match="tenant"):
        ApiKey("ann", "a-secret-of-many-characters", tenant=tenant)


def test_tenants_are_opened_when_they_are_asked_for(jobs_client: Client, jobs_url: str) -> None:
    """Of a URL each tenant is opened by the first client that has its key, and closed with the tenants."""
    tenants = Tenants(jobs_url, [])
    app = create_app(tenants, keys=KEYS)
    answers = [jobs_client(app, secret).get("/jobs") for secret in (OPERATE, OTHER, NOWHERE)]
    assert [one.status_code for one in answers] == [200, 200, 404]
    opened = tenants.jobs("other")
    tenants.close()
    assert tenants.jobs("other") is not opened
    tenants.close()


def test_a_store_of_somebody_else_stays_open(shop: Shop) -> None:
    """Stores that were given are left open."""
    store = MemoryStateStore("solo")
    tenants = Tenants(store)
    tenants.close()
    assert tenants.jobs("solo").store is store
