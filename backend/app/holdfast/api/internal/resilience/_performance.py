"""What pipelines cost, over HTTP: measure one, and read what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Path

from holdfast.api.internal.resilience import _benchmark, _http, _models
from holdfast.api.internal.resilience.problems import _problem as problem
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.timeout import Timeout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.api.internal.resilience._benchmark import Run
    from holdfast.api.internal.resilience._context import Context
    from holdfast.infrastructure.resilience.policy import Policy

_Body = Annotated[_models.RunRequest, Depends(_http.parsed(_models.RunRequest))]

_THRESHOLDS = [
    {
        "name": "added_ns_per_policy",
        "value": _benchmark.ADDED_PER_POLICY,
        "description": "Nanoseconds that a pipeline may add to a call, for each of its policies.",
    }
]


class Performance:
    """The routes of the benchmark."""

    def __init__(self, context: Context) -> None:
        self._context = context
        context.operates(
            "/performance/run",
            self.run_benchmark,
            _models.RunStarted,
            _models.RunRequest,
            404,
            409,
            503,
            status_code=202,
        )
        context.reads("/performance/runs", self.list_runs, _models.RunPage, 422)
        context.reads("/performance/runs/{number}", self.get_run, _models.Run, 404, 422)
        context.reads("/performance/report", self.get_report, _models.Report)
        context.reads("/performance/thresholds", self.list_benchmark_thresholds, _models.BenchmarkThresholds)

    def run_benchmark(self, body: _Body) -> dict[str, Any]:
        """Begin to measure what the pipeline of an operation costs a call, in another process."""
        return {"id": self._context.benchmark.start(body.operation, self._policies(body.operation)).id}

    async def list_runs(self, page: Annotated[_http.Page, Depends(_http.page)]) -> dict[str, Any]:
        """Return the last runs, newest first."""
        return page.of(self._context.benchmark.runs)

    async def get_run(self, number: Annotated[int, Path(ge=1, le=2**53)]) -> Run:
        """Return a run."""
        for run in self._context.benchmark.runs:
            if run.id == number:
                return run
        raise problem(404, "There is no such run, or it is forgotten.")

    async def get_report(self) -> dict[str, Any]:
        """Return the newest finished run of each operation, and whether all keep within the thresholds."""
        runs = self._context.benchmark.runs
        latest: dict[str | None, Run] = {}
        for run in runs:
            if run.status == "done":
                latest.setdefault(run.operation, run)
        return {
            "runs": len(runs),
            "running": next((run.id for run in runs if run.status == "running"), None),
            "passed": not any(run.exceeded for run in latest.values()) if latest else None,
            "latest": list(latest.values()),
            "thresholds": _THRESHOLDS,
        }

    async def list_benchmark_thresholds(self) -> dict[str, Any]:
        """Return what a run is judged by."""
        return {"items": _THRESHOLDS}

    def _policies(self, operation: str | None) -> Sequence[Policy]:
        if operation is None:
            return (Timeout(60.0), Retry(), CircuitBreaker())
        try:
            return self._context.registry.get(operation).policies
        except LookupError:
            raise problem(404, "There is no pipeline of that name.") from None
