"""Records of the store as the API answers with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.api.internal.jobs._models import MOST
from holdfast.api.internal.jobs._plain import plain, stored
from holdfast.infrastructure.store.state import JOB_ENDS
from holdfast.services.jobs._follow import Meter

if TYPE_CHECKING:
    from holdfast.infrastructure.store.state import JobEvent, JobRecord, OutboxEntry, StepRecord
    from holdfast.services.jobs.preview import Preview
    from holdfast.services.jobs.progress import Progress

_OF_NEW = ("name", "handler", "batch", "priority", "retry_of")
_OF_JOB = (
    *("id", "state", "ready", "halted", "reason", "counts", "version", "last_event"),
    *("created_at", "started_at", "finished_at", "expires_at"),
)
_SETTINGS = (
    *("dedup_key", "idempotent", "stop_after", "stop_share", "max_attempts"),
    *("step_timeout", "job_timeout", "concurrency"),
)
_OF_STEP = (
    *("job", "position", "key", "line", "state", "attempts", "begun", "worker", "due_at"),
    *("started_at", "finished_at", "error", "must_succeed", "idempotency_key"),
)
_OF_RESULT = ("position", "key", "line", "state", "attempts", "error")


def job_facts(job: JobRecord, now: float, meter: Meter | None = None) -> dict[str, Any]:
    """Return a job in short, at a moment of the store's clock; a meter knows its rate of late."""
    rate = (meter or Meter()).rate(job, now)
    ended = job.state in JOB_ENDS
    left = job.counts.pending + job.counts.running
    until = now if job.finished_at is None else job.finished_at
    return {
        **{name: getattr(job.new, name) for name in _OF_NEW},
        **{name: getattr(job, name) for name in _OF_JOB},
        "ended": ended,
        "percent": job.counts.percent,
        "rate": rate,
        "eta": 0.0 if ended else left / rate if rate else None,
        "elapsed": 0.0 if job.started_at is None else max(0.0, until - job.started_at),
    }


def detail_facts(job: JobRecord, progress: Progress, now: float) -> dict[str, Any]:
    """Return a job with its settings; not where its rows are, or who else may be asked for them."""
    return {
        **job_facts(job, now),
        **{name: getattr(job.new, name) for name in _SETTINGS},
        "rate_limit": job.new.rate,
        "writes_back": job.new.write_back,
        "errors": progress.errors,
        "unwritten": progress.unwritten,
        "dead": progress.dead,
        "preview": None
        if job.preview is None
        else {**_bounded(job.preview), "job": job.id, "digest": job.digest or ""},
    }


def preview_facts(preview: Preview) -> dict[str, Any]:
    """Return a preview."""
    return {**_bounded(preview.as_dict()), "job": preview.job, "digest": preview.digest}


def _bounded(preview: Any) -> dict[str, Any]:
    return {name: value[:MOST] if isinstance(value, list) else value for name, value in preview.items()}


def step_facts(step: StepRecord) -> dict[str, Any]:
    """Return a step without what it carries."""
    facts = {name: getattr(step, name) for name in _OF_STEP}
    return {**facts, "depends_on": list(step.depends_on[:MOST])}


def whole_step(step: StepRecord) -> dict[str, Any]:
    """Return a step with what it carries."""
    history = list(step.history[-MOST:])
    return {**step_facts(step), **_carried(step), "history": history}


def result_facts(step: StepRecord) -> dict[str, Any]:
    """Return what a step carries."""
    return {**{name: getattr(step, name) for name in _OF_RESULT}, **_carried(step)}


def _carried(step: StepRecord) -> dict[str, Any]:
    return {"payload": stored(step.payload), "result": stored(step.result)}


def event_facts(event: JobEvent) -> dict[str, Any]:
    """Return an event, JSON-able; of a transaction over many steps the first."""
    data: dict[str, Any] = {
        name: value[:MOST] if isinstance(value, list | tuple) else value for name, value in event.data.items()
    }
    return {
        "job": event.job,
        "seq": event.seq,
        "at": event.at,
        "kind": event.kind,
        "state": event.state,
        "steps": len(event.positions),
        "positions": list(event.positions[:MOST]),
        "data": plain(data),
    }


def letter_facts(entry: OutboxEntry) -> dict[str, Any]:
    """Return a write-back with the result that it carries."""
    return {**{name: getattr(entry, name) for name in _OF_RESULT}, "result": stored(entry.result)}
