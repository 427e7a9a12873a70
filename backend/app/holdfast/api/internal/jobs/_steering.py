"""Jobs over HTTP as people steer them: preview, approve, pause, resume, cancel, skip, do again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request

from holdfast.api.internal.jobs import _models
from holdfast.api.internal.jobs._facts import job_facts, preview_facts
from holdfast.api.internal.jobs._http import strictly
from holdfast.api.internal.jobs._looking import Job
from holdfast.api.internal.resilience._guard import client

if TYPE_CHECKING:
    from holdfast.api.internal.jobs._context import Context
    from holdfast.infrastructure.store.state import JobRecord
    from holdfast.services.jobs.jobs import Jobs

_Rows = Annotated[_models.Rows, Depends(strictly(_models.Rows))]
_Digest = Annotated[_models.Digest, Depends(strictly(_models.Digest))]
_Reason = Annotated[_models.Reason, Depends(strictly(_models.Reason))]
# Bytes: as many keys as it may name.
_KEYS = 2**18
_Skip = Annotated[_models.Skip, Depends(strictly(_models.Skip, _KEYS))]
_Nothing = Annotated[_models.Nothing, Depends(strictly(_models.Nothing))]
_Retry = Annotated[_models.Retry, Depends(strictly(_models.Retry))]
_Confirmation = Annotated[_models.Confirmation, Depends(strictly(_models.Confirmation))]


class Steering:
    """The routes that change jobs."""

    def __init__(self, context: Context) -> None:
        self._context = context
        add = context.operates
        summary, at = _models.JobSummary, "/jobs/{job:path}"
        add(f"{at}/preview", self.preview_job, _models.PreviewOf, _models.Rows, 409)
        add(f"{at}/approve", self.approve_job, summary, _models.Digest, 409)
        add(f"{at}/pause", self.pause_job, summary, _models.Reason, 409)
        add(f"{at}/resume", self.resume_job, summary, _models.Nothing, 409)
        add(f"{at}/cancel", self.cancel_job, summary, _models.Reason, 409)
        add(f"{at}/skip", self.skip_steps, summary, _models.Skip, 409)
        add(f"{at}/retry-failed", self.retry_failed_job, summary, _models.Retry, 409)
        add(f"{at}/restart", self.restart_job, summary, _models.Confirmation, 409)

    async def preview_job(self, request: Request, job: Job, body: _Rows) -> dict[str, Any]:
        """Quote the first rows, and keep that: the job waits for approval."""
        jobs = await self._context.ajobs(request)
        return preview_facts(await jobs.apreview(job, rows=body.rows))

    def approve_job(self, request: Request, job: Job, body: _Digest) -> dict[str, Any]:
        """Let a previewed job run, if its rows are still those of the digest."""
        jobs = self._context.jobs(request)
        return shown(jobs, jobs.approve(job, body.digest))

    def pause_job(self, request: Request, job: Job, body: _Reason) -> dict[str, Any]:
        """Begin no further step; those that run end."""
        jobs = self._context.jobs(request)
        return shown(jobs, jobs.pause(job, reason=signed(request, body.reason)))

    async def resume_job(self, request: Request, job: Job, body: _Nothing) -> dict[str, Any]:
        """Let a paused or interrupted job go on: take back what dead workers held, reconcile; workers do the rest."""
        jobs = await self._context.ajobs(request)
        await jobs.aresume(job, execute=False)
        return await asyncio.to_thread(lambda: shown(jobs, jobs.job(job)))

    def cancel_job(self, request: Request, job: Job, body: _Reason) -> dict[str, Any]:
        """Cancel a job: pending steps at once, running ones are told and end."""
        jobs = self._context.jobs(request)
        return shown(jobs, jobs.cancel(job, reason=signed(request, body.reason)))

    def skip_steps(self, request: Request, job: Job, body: _Skip) -> dict[str, Any]:
        """Decide that pending steps are not to be done, all or none of these keys; who decided is kept."""
        jobs = self._context.jobs(request)
        return shown(jobs, jobs.skip(job, *body.keys, reason=body.reason, by=client(request)))

    def retry_failed_job(self, request: Request, job: Job, body: _Retry) -> dict[str, Any]:
        """Submit what failed or timed out again, under the same idempotency keys; asked again, give the same job."""
        jobs = self._context.jobs(request)
        return shown(jobs, jobs.retry_failed(job, pending=body.pending))

    def restart_job(self, request: Request, job: Job, body: _Confirmation) -> dict[str, Any]:
        """Submit all of a job again as a new one. Without the right `confirm`, 409 says in `repeats` what to send."""
        jobs = self._context.jobs(request)
        return shown(jobs, jobs.restart(job, confirm=body.confirm))


def signed(request: Request, reason: str | None) -> str:
    """Return a reason with the name of who gives it."""
    return f"{client(request)}: {reason}" if reason else f"by {client(request)}"


def shown(jobs: Jobs, job: JobRecord) -> dict[str, Any]:
    """Return a job in short."""
    return job_facts(job, jobs.store.now())
