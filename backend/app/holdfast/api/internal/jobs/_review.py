"""What a crash left, over HTTP: interrupted jobs, and steps of which nobody knows what became of their calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Query, Request

from holdfast.api.internal.jobs import _models
from holdfast.api.internal.jobs._facts import job_facts, whole_step
from holdfast.api.internal.jobs._http import strictly
from holdfast.api.internal.jobs._looking import Job, Limit, Page
from holdfast.api.internal.resilience._guard import client

if TYPE_CHECKING:
    from holdfast.api.internal.jobs._context import Context

_Decision = Annotated[_models.Decision, Depends(strictly(_models.Decision))]
_Nothing = Annotated[_models.Nothing, Depends(strictly(_models.Nothing))]
_Which = Annotated[str | None, Query(min_length=1, max_length=1000, description="Of this job alone.")]


class Review:
    """The routes of what a crash left."""

    def __init__(self, context: Context) -> None:
        self._context = context
        context.reads("/interrupted", self.list_interrupted, _models.InterruptedPage, 422)
        context.reads("/review", self.list_review, _models.ReviewPage, 422)
        add = context.operates
        add("/jobs/{job:path}/resolve", self.resolve_step, _models.StepDetail, _models.Decision, 409)
        add("/jobs/{job:path}/reconcile", self.reconcile_job, _models.ReconciledOf, _models.Nothing, 409)

    def list_interrupted(self, request: Request, page: Page) -> dict[str, Any]:
        """Return the jobs that a worker left behind, and what can be done about each."""
        jobs = self._context.jobs(request)
        part, now = page.of(jobs.interrupted()), jobs.store.now()
        items = [
            {
                "job": job_facts(one.job, now),
                "held": one.held,
                "ambiguous": one.ambiguous,
                "review": one.review,
                "left": one.left,
                "choices": list(one.choices),
            }
            for one in part["items"]
        ]
        return {**part, "items": items}

    def list_review(self, request: Request, job: _Which = None, limit: Limit = 50) -> dict[str, Any]:
        """Return the steps that need review, of one job or of all: their calls may have been made."""
        found = self._context.jobs(request).review(job, limit=limit)
        return {"items": [whole_step(one) for one in found]}

    def resolve_step(self, request: Request, job: Job, body: _Decision) -> dict[str, Any]:
        """Decide about a step that needs review; who decided is kept."""
        jobs = self._context.jobs(request)
        jobs.resolve(
            job,
            body.key,
            body.decision,
            result=body.result,
            error=body.error,
            by=client(request),
        )
        return whole_step(jobs.store.step(job, body.key))

    async def reconcile_job(self, request: Request, job: Job, body: _Nothing) -> dict[str, Any]:
        """Ask the handler about each step that needs review, and decide by what it knows."""
        jobs = await self._context.ajobs(request)
        found = await jobs.areconcile(job)
        return {name: list(getattr(found, name)[: _models.MOST]) for name in ("done", "not_done", "unknown")}
