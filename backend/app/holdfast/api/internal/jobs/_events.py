"""What happens to jobs, over HTTP: a job's history by the page or as it comes, and how far all are."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Header, Query, Request
from fastapi.responses import Response
from pydantic import TypeAdapter

from holdfast.api.internal.jobs import _models
from holdfast.api.internal.jobs._facts import event_facts, job_facts
from holdfast.api.internal.jobs._looking import Job, Limit
from holdfast.api.internal.resilience._streams import EventStream
from holdfast.infrastructure.resilience.clock import current_clock
from holdfast.infrastructure.store.state import JOB_CHANGES, JOB_ENDS, NotFoundError, StoreUnavailableError
from holdfast.services.jobs._follow import Meter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from holdfast.api.internal.jobs._context import Context
    from holdfast.infrastructure.store.state import JobEvent, JobRecord
    from holdfast.services.jobs.jobs import Jobs

# How often a stream looks at the store.
_INTERVAL = 0.3
_OPEN = tuple(state for state, to in JOB_CHANGES.items() if to)
_KINDS = ("job", "step", "late", "write-back", "note")

_After = Annotated[int, Query(ge=0, le=_models.FARTHEST, description="The number of the last event one has.")]
_Last = Annotated[int | None, Header(ge=0, le=_models.FARTHEST, description="As `after`, which it precedes.")]
_Kinds = Annotated[
    list[Literal["job", "step", "late", "write-back", "note"]],
    Query(default_factory=list, max_length=len(_KINDS), description="All when none is named."),
]
_summary = TypeAdapter(_models.JobSummary)


class Events:
    """The routes of what happens."""

    def __init__(self, context: Context) -> None:
        self._context = context
        stream = {"description": "Server-sent events", "content": {"text/event-stream": _STREAM}}
        ended = {"description": "The job has ended, and there are no more events: do not ask again"}
        add = context.reads
        add("/jobs/{job:path}/events", self.list_events, _models.EventPage, 422)
        add(
            "/jobs/{job:path}/events/stream",
            self.follow_events,
            None,
            422,
            response_class=EventStream,
            responses={200: stream, 204: ended},
        )
        add(
            "/progress",
            self.follow_progress,
            None,
            422,
            response_class=EventStream,
            responses={200: stream},
        )

    def list_events(
        self, request: Request, job: Job, kind: _Kinds, after: _After = 0, limit: Limit = 50
    ) -> dict[str, Any]:
        """Return a job's history, oldest first, from the event after a number on."""
        found = self._context.jobs(request).store.events(job, after=after, limit=limit + 1, kinds=kind)
        shown = found[:limit]
        more = shown[-1].seq if len(found) > limit else None
        return {"items": [event_facts(one) for one in shown], "next": more}

    async def follow_events(
        self, request: Request, job: Job, after: _After = 0, last_event_id: _Last = None
    ) -> Response:
        """Follow a job's history until it ends: `id` is the event's number, `event` its kind, `data` the event."""
        jobs = await self._context.ajobs(request)
        number = after if last_event_id is None else last_event_id
        record = await asyncio.to_thread(jobs.job, job)
        if record.state in JOB_ENDS and record.last_event <= number:
            return Response(status_code=204)
        return EventStream(self._context.streams, _History(jobs, job), number)

    async def follow_progress(
        self, request: Request, limit: Annotated[int, Query(ge=1, le=_models.MOST)] = 50
    ) -> Response:
        """Follow how far jobs are: those that have not ended and the newest, then each that changes, as `progress`."""
        jobs = await self._context.ajobs(request)
        return EventStream(self._context.streams, _Overview(jobs, limit), 0)


_STREAM = {"schema": {"type": "string"}}


@dataclass(frozen=True, slots=True)
class _Told:
    """What a stream sends."""

    number: int
    kind: str
    facts: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return self.facts


class _History:
    """The history of one job."""

    def __init__(self, jobs: Jobs, job: str) -> None:
        self._jobs = jobs
        self._job = job

    async def follow(self, after: int) -> AsyncIterator[_Told]:
        """Yield the events after a number, until the job has ended or is gone."""
        while True:
            try:
                async for event in self._jobs.aevents(self._job, after=after, interval=_INTERVAL):
                    yield _told(event)
                    after = event.seq
                return
            except NotFoundError:
                return  # it was archived meanwhile
            except StoreUnavailableError:
                await current_clock().asleep(_INTERVAL)


def _told(event: JobEvent) -> _Told:
    return _Told(event.seq, event.kind, event_facts(event))


class _Overview:
    """How far the jobs of a tenant are, for one stream."""

    def __init__(self, jobs: Jobs, limit: int) -> None:
        self._jobs = jobs
        self._limit = limit
        self._seen: dict[str, Any] = {}
        self._meters: dict[str, Meter] = {}
        self._active: set[str] = set()

    async def follow(self, after: int) -> AsyncIterator[_Told]:
        """Yield each job that is new or has changed since it was told."""
        while True:
            try:
                changed = await asyncio.to_thread(lambda: list(self._changed()))
            except StoreUnavailableError:
                changed = []
            for kind, facts in changed:
                after += 1
                yield _Told(after, kind, facts)
            await current_clock().asleep(_INTERVAL)

    def _changed(self) -> Iterator[tuple[str, dict[str, Any]]]:
        now, shown = self._jobs.store.now(), self._shown()
        for job in shown.values():
            facts = job_facts(job, now, self._meters.setdefault(job.id, Meter()))
            # A rate that falls is news too: nothing else tells that a job stands still.
            told = (job.version, job.counts, round(facts["rate"], 1))
            if self._seen.get(job.id) != told:
                self._seen[job.id] = told
                yield "progress", _summary.dump_python(_summary.validate_python(facts), mode="json")
        for gone in self._seen.keys() - shown.keys():
            del self._seen[gone], self._meters[gone]
            yield "gone", {"id": gone}

    def _shown(self) -> dict[str, JobRecord]:
        """Return the newest jobs, those that have not ended, and those that have since the last look."""
        active = self._jobs.find(states=_OPEN, limit=self._limit)
        shown = {job.id: job for job in (*active, *self._jobs.find(limit=self._limit))}
        ended = self._active - shown.keys()
        self._active = {job.id for job in active}
        for one in ended:
            try:
                shown[one] = self._jobs.job(one)
            except NotFoundError:
                continue
        return shown
