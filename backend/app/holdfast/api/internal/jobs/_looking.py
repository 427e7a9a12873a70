"""Jobs over HTTP as they are now: lists by the page, details, steps, results, handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Path, Query, Request

from holdfast.api.internal.jobs import _models
from holdfast.api.internal.jobs._facts import (
    detail_facts,
    job_facts,
    letter_facts,
    result_facts,
    step_facts,
    whole_step,
)
from holdfast.api.internal.resilience import _http as _common
from holdfast.infrastructure.store.state import JobState, OutboxState, StepState

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.api.internal.jobs._context import Context
    from holdfast.infrastructure.store.state import StepRecord

_ERRORS = 20

Job = Annotated[str, Path(min_length=1, max_length=1000, description="The job's id.")]
Page = Annotated[_common.Page, Depends(_common.page)]
Limit = Annotated[int, Query(ge=1, le=_models.MOST, description="How many to return at most.")]
_After = Annotated[int, Query(ge=-1, le=_models.FARTHEST, description="`next` of the page before.")]
_JobStates = Annotated[
    list[JobState],
    Query(default_factory=list, max_length=len(JobState), description="All when none is named."),
]
_StepStates = Annotated[
    list[StepState],
    Query(default_factory=list, max_length=len(StepState), description="All when none is named."),
]
_Id = Annotated[str | None, Query(min_length=1, max_length=1000)]


class Looking:
    """The routes that show jobs."""

    def __init__(self, context: Context) -> None:
        self._context = context
        add = context.reads
        add("/handlers", self.list_handlers, _models.HandlerPage, 422)
        add("/jobs", self.list_jobs, _models.JobPage, 422)
        add("/jobs/{job:path}", self.get_job, _models.JobDetail, 422)
        add("/jobs/{job:path}/steps", self.list_steps, _models.StepPage, 422)
        add("/jobs/{job:path}/step", self.get_step, _models.StepDetail, 422)
        add("/jobs/{job:path}/results", self.list_results, _models.ResultPage, 422)
        add("/jobs/{job:path}/dead-letters", self.list_dead_letters, _models.DeadLetters, 422)

    def list_handlers(self, page: Page) -> dict[str, Any]:
        """Return the handlers that a submission may name."""
        known = self._context.tenants.handlers
        part = page.of(sorted(known))
        return {**part, "items": [_handler(known.find(name)) for name in part["items"]]}

    def list_jobs(
        self,
        request: Request,
        state: _JobStates,
        batch: _Id = None,
        after: _Id = None,
        limit: Limit = 50,
    ) -> dict[str, Any]:
        """Return jobs, newest first."""
        jobs = self._context.jobs(request)
        found = jobs.find(states=state, batch=batch, after=after, limit=limit + 1)
        now, shown = jobs.store.now(), found[:limit]
        more = shown[-1].id if len(found) > limit else None
        return {"items": [job_facts(one, now) for one in shown], "next": more}

    def get_job(self, request: Request, job: Job) -> dict[str, Any]:
        """Return a job with its settings, its first errors and its preview."""
        jobs = self._context.jobs(request)
        return detail_facts(jobs.job(job), jobs.status(job, errors=_ERRORS), jobs.store.now())

    def list_steps(
        self, request: Request, job: Job, state: _StepStates, after: _After = -1, limit: Limit = 50
    ) -> dict[str, Any]:
        """Return the steps of a job in order, without what they carry."""
        return self._page(request, job, state, after, limit, step_facts)

    def list_results(
        self, request: Request, job: Job, state: _StepStates, after: _After = -1, limit: Limit = 50
    ) -> dict[str, Any]:
        """Return payloads and results of a job in the order of its steps; amounts and dates are text."""
        return self._page(request, job, state, after, limit, result_facts)

    def get_step(
        self, request: Request, job: Job, key: Annotated[str, Query(min_length=1, max_length=1000)]
    ) -> dict[str, Any]:
        """Return a step by its key, with what it carries and its earlier calls."""
        return whole_step(self._context.jobs(request).store.step(job, key))

    def list_dead_letters(self, request: Request, job: Job, limit: Limit = 50) -> dict[str, Any]:
        """Return the results of a job whose write-back was given up."""
        jobs = self._context.jobs(request)
        jobs.job(job)
        found = jobs.store.outbox(job, states=[OutboxState.DEAD], limit=limit)
        return {"items": [letter_facts(one) for one in found]}

    def _page(
        self,
        request: Request,
        job: str,
        states: list[StepState],
        after: int,
        limit: int,
        facts: Callable[[StepRecord], dict[str, Any]],
    ) -> dict[str, Any]:
        store = self._context.jobs(request).store
        found = store.steps(job, states=states, after=after, limit=limit + 1)
        shown = found[:limit]
        more = shown[-1].position if len(found) > limit else None
        return {"items": [facts(one) for one in shown], "next": more}


def _handler(handler: Any) -> dict[str, Any]:
    return {
        "name": handler.name,
        "idempotent": handler.idempotent,
        "estimates": handler.can_estimate,
        "reconciles": handler.can_reconcile,
    }
