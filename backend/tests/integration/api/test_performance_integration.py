"""The benchmark: in a process of its own, one at a time, remembered for a while, gone when the service ends."""

import asyncio
import time
from typing import Any

from fastapi import FastAPI

from backend.tests.integration.api._service import AWKWARD, Api, Service


def test_a_run_over_http(operator: Api, app: FastAPI, service: Service) -> None:
    """A run begins at once, a second one is refused while it runs; its result and the report follow."""
    before = service.breakers[AWKWARD].export_state()["calls"]
    started = operator.post("/performance/run", {"operation": AWKWARD})
    busy = operator.post("/performance/run")
    assert (started.status_code, started.json()["id"], busy.status_code) == (202, 1, 409)
    assert operator.get("/performance/report").json()["running"] == 1
    ends = time.monotonic() + 30.0
    while (run := operator.get("/performance/runs/1").json())["status"] == "running":
        assert time.monotonic() < ends, "the run does not end"
        time.sleep(0.02)
    assert (
        run["status"],
        run["operation"],
        [one["mode"] for one in run["results"]],
        run["failure"],
    ) == ("done", AWKWARD, ["sync", "async"], None)
    assert {"Timeout", "Retry", "CircuitBreaker"} <= set(run["policies"])
    assert all(one["ratio"] > 1 and one["bare_ns"] > 0 and one["added_ns"] > 0 for one in run["results"])
    report = operator.get("/performance/report").json()
    assert (1, None, [run]) == (report["runs"], report["running"], report["latest"])
    assert report["passed"] is (run["exceeded"] == [])
    assert operator.get("/performance/thresholds").json()["items"] == report["thresholds"]
    assert before == service.breakers[AWKWARD].export_state()["calls"]


def test_a_run_ends_with_the_service(app: FastAPI, operator: Api) -> None:
    """When the application ends, the worker is killed at once, and none begins any more until it starts again."""

    async def main() -> tuple[Any, float]:
        async with app.router.lifespan_context(app):
            began = await asyncio.to_thread(operator.post, "/performance/run")
            left = time.monotonic()
        return began, time.monotonic() - left

    started, took = asyncio.run(main())
    run = operator.get("/performance/runs/1").json()
    assert (started.status_code, run["status"], took < 2.0) == (202, "failed", True)
    assert operator.post("/performance/run").status_code == 503
