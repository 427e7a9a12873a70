"""What the commands of `holdfast jobs` print about jobs, steps and events."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from holdfast.cli import _show
from holdfast.cli._exit import Code
from holdfast.infrastructure.store.payload import decode
from holdfast.infrastructure.store.state import JOB_ENDS, JobState, StepState
from holdfast.services.jobs._line import span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.infrastructure.store.state import Counts, JobEvent, JobRecord, OutboxEntry, StepRecord
    from holdfast.services.jobs.jobs import Interrupted, Jobs
    from holdfast.services.jobs.preview import Preview
    from holdfast.services.jobs.progress import Progress

_QUOTES = 5
_FIRST = 20


def as_line(facts: object) -> None:
    """Print facts as one line of JSON, now."""
    print(json.dumps(facts, sort_keys=True, default=str), flush=True)


def note(text: str) -> None:
    """Tell people something beside the output."""
    print(text, file=sys.stderr, flush=True)


def at(seconds: float | None) -> str | None:
    """Return a time of the store as people read it."""
    return None if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def job_facts(job: JobRecord) -> dict[str, Any]:
    """Return a job as plain values; times are seconds since the epoch."""
    return {
        "id": job.id,
        "name": job.new.name,
        "handler": job.new.handler,
        "state": job.state.value,
        "ready": job.ready,
        "halted": job.halted,
        "reason": job.reason,
        "counts": asdict(job.counts),
        "percent": job.counts.percent,
        "digest": job.digest,
        "batch": job.new.batch,
        "retry_of": job.new.retry_of,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }


def jobs(found: Sequence[JobRecord], *, as_json: bool) -> None:
    """Print jobs."""
    if as_json:
        _show.as_json([job_facts(job) for job in found])
        return
    columns = ("id", "name", "state", "done", "total", "failed", "review", "created")
    _show.rows("Jobs", columns, [_row(job) for job in found])


def _row(job: JobRecord) -> tuple[object, ...]:
    counts = job.counts
    return (
        job.id,
        job.new.name,
        job.state.value,
        f"{counts.percent} %",
        counts.total,
        counts.failed + counts.timed_out,
        counts.needs_review,
        at(job.created_at),
    )


def preview(found: Preview, name: str, handler: str) -> None:
    """Print what a job would cost, as far as anybody could say."""
    _show.line(f"{name}: {found.total} rows for {handler}, as job {found.job}")
    if found.estimate is None or not any(quote.amount is not None for quote in found.quotes):
        failed = f": none of {len(found.quotes)} rows could be quoted" if found.failed else ""
        _show.line(f"Estimate: none{failed or f': {handler} has no estimate'}")
    elif found.exact:
        _show.line(f"Estimate: {found.estimate}, every row quoted")
    else:
        quoted = len(found.quotes) - len(found.failed)
        _show.line(f"Estimate: {found.estimate}, between {found.low} and {found.high}; {quoted} rows quoted")
    failed_quotes = [quote for quote in found.quotes if quote.error]
    for quote in failed_quotes[:_QUOTES]:
        _show.line(f"  no quote for {quote.key} (line {quote.line}): {quote.error}")
    if len(failed_quotes) > _QUOTES:
        _show.line(f"  … and {len(failed_quotes) - _QUOTES} more without a quote")


def counted(counts: Counts) -> str:
    """Return in words what became of the steps of a job."""
    parts = {
        "failed": counts.failed,
        "timed out": counts.timed_out,
        "need review": counts.needs_review,
        "cancelled": counts.cancelled,
        "skipped": counts.skipped,
        "running": counts.running,
        "left": counts.pending,
    }
    others = "".join(f", {number} {word}" for word, number in parts.items() if number)
    return f"{counts.succeeded} of {counts.total} succeeded{others}"


def progress(now: Progress, *, more: bool = True) -> None:
    """Print how far a job is, its first errors and what can be done about them."""
    took = f" ({span(now.elapsed)})" if now.elapsed else ""
    why = f" – {now.reason}" if now.reason else ""
    halted = ", halted" if now.halted and not now.ended else ""
    _show.line(f"{now.job} {now.name}: {now.state}{halted}{why}: {counted(now.counts)}{took}")
    for error in now.errors:
        _show.line(f"  {error.key} (line {error.line}) {error.state}: {error.error}")
    more_errors = now.counts.failed + now.counts.timed_out + now.counts.needs_review - len(now.errors)
    if now.errors and more_errors > 0:
        _show.line(f"  … and {more_errors} more")
    if more:
        for hint in hints(now):
            _show.line(f"  {hint}")


def unstored(jobs: Jobs, job: str) -> list[str]:
    """Return a line if results could not be stored, as far as the first ones tell: a handler repeats itself."""
    first = jobs.store.steps(job, states=[StepState.SUCCEEDED], limit=_FIRST)
    lost = [step for step in first if step.error]
    if not lost:
        return []
    return [f"{len(lost)} of the first {len(first)} rows that succeeded lost their results: {lost[0].error}"]


def hints(now: Progress) -> list[str]:
    """Return what can be done now."""
    job, counts, found = now.job, now.counts, list[str]()
    if now.state is JobState.PREVIEWED:
        found.append(f"approve it: holdfast jobs approve {job}")
    if now.state is JobState.PAUSED:
        found.append(f"go on: holdfast jobs resume {job}")
    if counts.needs_review:
        found.append(f"decide about calls that may have been made: holdfast jobs review {job}")
    if now.ended and counts.failed + counts.timed_out:
        found.append(f"do what failed again: holdfast jobs retry-failed {job}")
    if now.ended and counts.pending and now.state is not JobState.CANCELLED:
        found.append(f"do what failed and what never began: holdfast jobs retry-failed {job} --pending")
    if now.dead:
        found.append(f"{now.dead} results were not written back: holdfast jobs dead-letters {job}")
    if now.unwritten:
        found.append(f"{now.unwritten} results wait to be written back; a worker or resume does it")
    return found


def code(now: Progress) -> Code:
    """Return the exit code for how a job is: 0 only when all of it succeeded and was written back."""
    if now.state is JobState.PREVIEWED:
        return Code.ASKS
    if not now.ended:
        return Code.NOT_ENDED
    if not now.succeeded or now.dead:
        return Code.WANTING
    return Code.NOT_ENDED if now.unwritten else Code.FINE


def interrupted(found: Sequence[Interrupted], *, as_json: bool) -> None:
    """Print which jobs stand still because their worker is gone, and what can be done with each."""
    if as_json:
        _show.as_json([_left_behind(one) for one in found])
        return
    for one in found:
        for text in left_behind(one):
            _show.line(text)


def _left_behind(one: Interrupted) -> dict[str, Any]:
    figures = {name: getattr(one, name) for name in ("held", "ambiguous", "review", "left")}
    return {"job": job_facts(one.job), **figures, "choices": list(one.choices)}


def left_behind(one: Interrupted) -> list[str]:
    """Return the lines that say what a worker left of a job, and the choices."""
    job = one.job.id
    doubt = one.ambiguous + one.review
    said = f"{job} {one.job.new.name}: {one.job.counts.done} of {one.job.counts.total} done, {one.left} left"
    if doubt:
        said += f", {doubt} may have been called"
    meaning = {
        "resume": f"holdfast jobs resume {job}",
        "review": f"holdfast jobs review {job}",
        "restart": f"holdfast jobs restart {job}",
        "cancel": f"holdfast jobs cancel {job}",
    }
    what = {
        "resume": "do what is left",
        "review": "decide about calls that may have been made",
        "restart": "do all of it again, as a new job",
        "cancel": "leave it",
    }
    width = max(len(meaning[one]) for one in meaning)
    return [said, *(f"  {meaning[choice]:{width}}  {what[choice]}" for choice in one.choices)]


def standstill(found: Sequence[Interrupted]) -> list[str]:
    """Return the lines that say that nobody works on a job, and the choices; none if that is not so."""
    return [line for one in found for line in ("nobody works on it:", *left_behind(one)[1:])]


def step_facts(step: StepRecord) -> dict[str, Any]:
    """Return a step as plain values."""
    return {
        "job": step.job,
        "key": step.key,
        "line": step.line,
        "state": step.state.value,
        "error": step.error,
        "attempts": step.attempts,
        "idempotency_key": step.idempotency_key,
        "payload": decode(step.payload),
        "result": None if step.result is None else decode(step.result),
        "history": [asdict(attempt) for attempt in step.history],
    }


def reviews(found: Sequence[StepRecord], *, as_json: bool) -> None:
    """Print steps that need review."""
    if as_json:
        _show.as_json([step_facts(step) for step in found])
        return
    columns = ("job", "key", "line", "attempts", "why", "idempotency key")
    rows = [(s.job, s.key, s.line, s.attempts, s.error, s.idempotency_key) for s in found]
    _show.rows("Calls that may have been made", columns, rows)
    if found:
        _show.line("decide: holdfast jobs review JOB KEY succeeded|failed|again")


def dead_letters(found: Sequence[OutboxEntry], *, as_json: bool) -> None:
    """Print results that were not written back."""
    if as_json:
        facts = [{**asdict(one), "state": one.state.value, "result": decode(one.result)} for one in found]
        _show.as_json(facts)
        return
    columns = ("key", "line", "attempts", "error", "result")
    rows = [(one.key, one.line, one.attempts, one.error, str(decode(one.result))) for one in found]
    _show.rows("Results that were not written back", columns, rows)


def event(one: JobEvent, *, as_json: bool) -> None:
    """Print an event."""
    if as_json:
        as_line(asdict(one))
        return
    where = f" steps {_ranges(one.positions)}" if one.positions else ""
    data = " ".join(f"{name}={_short(value)}" for name, value in one.data.items())
    _show.line(f"{one.seq:>6}  {at(one.at)}  {one.kind} {one.state}{where}  {data}".rstrip())


def _ranges(positions: Sequence[int]) -> str:
    """Return numbers in order with `4-7` for runs."""
    runs: list[list[int]] = []
    for one in positions:
        if runs and runs[-1][1] == one - 1:
            runs[-1][1] = one
        else:
            runs.append([one, one])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _short(value: object, most: int = 120) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def has_ended(job: JobRecord) -> bool:
    """Return whether a job's state will not change any more."""
    return job.state in JOB_ENDS
