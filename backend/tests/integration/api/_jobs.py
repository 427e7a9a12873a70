"""A shop whose orders are shipped by jobs, for two tenants, and the keys to its API."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from backend.tests.integration.api._service import Api
from holdfast.api.internal.jobs.app import PREFIX, Tenants, create_app
from holdfast.api.internal.resilience.auth import ApiKey, ApiKeys
from holdfast.infrastructure.store.state import JobRecord, StateStore, StepRef, WorkerRecord
from holdfast.services.jobs import Done, Handler, Jobs, NotDone, Unknown

READ = "the-reading-key-of-the-tests"
OPERATE = "the-operating-key-of-the-tests"
OTHER = "the-key-of-the-other-tenant"
NOWHERE = "the-key-of-a-tenant-that-is-not"
KEYS = ApiKeys(
    [
        ApiKey("reader", READ),
        ApiKey("ann", OPERATE, "operate"),
        ApiKey("bob", OTHER, "operate", tenant="other"),
        ApiKey("eve", NOWHERE, "operate", tenant="nowhere"),
    ]
)
BASE = f"http://localhost{PREFIX}"
ROWS = [{"order": f"A-{number}", "weight": number} for number in range(1, 4)]


def validate(row: Any) -> None:
    """Refuse a row without an order."""
    if not (isinstance(row, dict) and "order" in row and row["order"]):
        raise ValueError("a row needs an order")


def estimate(row: dict[str, Any]) -> Decimal:
    """Quote two and a half for each unit of weight."""
    return Decimal("2.50") * int(row["weight"])


class Shop:
    """Jobs of two tenants behind one API."""

    def __init__(self, stores: dict[str, StateStore]) -> None:
        self.stores = stores
        self.shipped: list[str] = []
        self.known: dict[str, Done | NotDone | Unknown] = {}
        ship = Handler(
            self._ship, name="ship", validate=validate, estimate=estimate, reconcile=self._reconcile
        )
        self.tenants = Tenants(stores, [ship, Handler(self._ship, name="again", idempotent=True)])
        self.app: FastAPI = create_app(self.tenants, keys=KEYS)

    def _ship(self, row: dict[str, Any]) -> dict[str, Any]:
        if row.get("bad"):
            raise ValueError("no such address")
        self.shipped.append(row["order"])
        return {"label": f"L-{row['order']}", "price": Decimal("2.50")}

    def _reconcile(self, key: str) -> Done | NotDone | Unknown:
        return self.known.get(key.rpartition(":")[2], Unknown())

    def jobs(self, tenant: str = "default") -> Jobs:
        """Return a tenant's jobs."""
        return self.tenants.jobs(tenant)

    def submit(self, rows: Any = None, tenant: str = "default", **settings: Any) -> JobRecord:
        """Submit a job beside the API; it may run at once."""
        given: dict[str, Any] = {"mode": "auto", "key": "order", **settings}
        jobs = self.jobs(tenant)
        return jobs.submit(ROWS if rows is None else rows, jobs.handlers.find("ship"), **given)

    def run(self, job: str | JobRecord, tenant: str = "default") -> None:
        """Execute what is left of a job."""
        self.jobs(tenant).run(job)

    def leave(self, job: JobRecord, *, claimed: int, begun: int, tenant: str = "default") -> None:
        """Leave steps as a worker does that was killed: so many claimed, so many of these begun."""
        store = self.stores[tenant]
        store.register(WorkerRecord(id="dead", host="elsewhere", pid=1, born="1", expires_at=0.0), 3600.0)
        steps = store.claim("dead", claimed, job=job.id)
        refs = [StepRef(job=one.job, position=one.position, fence=one.fence) for one in steps[:begun]]
        store.advance("dead", begin=refs)
        # Nobody renews it any more.
        ended = store.renew("dead", 0.001).expires_at
        while store.now() < ended:
            pass

    def everything(self) -> list[Any]:
        """Return all that the tenants keep, to be compared."""
        found: list[Any] = []
        for store in self.stores.values():
            for job in store.jobs(limit=1000):
                found += [job, store.steps(job.id), store.events(job.id)]
        return found


class JobsApi(Api):
    """Talks to the API of jobs without a socket."""

    def __init__(self, app: Any, secret: str | None = None, **settings: Any) -> None:
        given: dict[str, Any] = {"base": BASE, **settings}
        super().__init__(app, secret, **given)

    def csv(self, text: str | bytes, **query: Any) -> Any:
        """Post a CSV file."""
        body = text.encode() if isinstance(text, str) else text
        return self.request(
            "POST", "/jobs/csv", params=query, content=body, headers={"Content-Type": "text/csv"}
        )


BODIES: dict[str, Any] = {
    "approve": {"digest": "x"},
    "resolve": {"key": "A-1", "decision": "failed"},
    "skip": {"keys": ["A-1"]},
}


def path_of(path: str, tenant: str = "default") -> str:
    """Return a path of the document, below the prefix, with the ids of a tenant for its parameters."""
    filled = path.replace("{job}", f"job-of-{tenant}").replace("{batch}", f"batch-of-{tenant}")
    return filled.removeprefix(PREFIX)


def ask(api: JobsApi, method: str, path: str) -> httpx.Response:
    """Ask for an endpoint, with what it needs."""
    if method == "GET":
        return api.get(path, **({"key": "A-1"} if path.endswith("/step") else {}))
    return api.post(path, BODIES.get(path.rpartition("/")[2]))


COMMITTED = Path(__file__).resolve().parents[4] / "backend/contracts/api/internal/jobs/openapi.json"
