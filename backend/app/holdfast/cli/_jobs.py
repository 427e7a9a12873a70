"""`holdfast jobs`: durable batches: run them, look at them, steer them, recover them."""

from __future__ import annotations

import getpass
import json as jsons
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from holdfast.cli import _jobs_live, _jobs_run, _jobs_show, _jobs_worker, _show
from holdfast.cli._exit import Code, Stop
from holdfast.cli._jobs_open import (
    DEFAULT_STORE,
    AnyJobId,
    JobId,
    Json,
    Reason,
    Store,
    Tenant,
    Yes,
    duration,
    opened,
)
from holdfast.infrastructure.store.state import JobState

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from holdfast.services.jobs.jobs import Jobs

app = typer.Typer(
    help="Batches in which each row is done once, even if the process dies.", no_args_is_help=True
)

_DECISIONS = ("succeeded", "failed", "again")


def status(job: JobId, store: Store = DEFAULT_STORE, tenant: Tenant = "default", json: Json = False) -> int:
    """Show how far a job is, and what can be done.

    Exit code 1: it ended otherwise than well, or there is something to decide.
    """
    with opened(store, tenant) as jobs:
        now, left = jobs.status(job), jobs.interrupted(job)
        lost = _jobs_show.unstored(jobs, job)
    if json:
        _show.as_json({**now.as_dict(), "interrupted": bool(left)})
    else:
        _jobs_show.progress(now)
        for text in (*lost, *_jobs_show.standstill(left)):
            _show.line(f"  {text}")
    wanting = (now.ended and not now.succeeded) or now.halted or now.counts.needs_review or now.dead or left
    return int(Code.WANTING if wanting else Code.FINE)


def list_jobs(
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; repeatable.")] = None,
    batch: Annotated[str | None, typer.Option(help="Only jobs of this batch.")] = None,
    after: Annotated[str | None, typer.Option(help="Only jobs older than this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> None:
    """List jobs, newest first."""
    known = [one.value for one in JobState]
    for text in state or ():
        if text not in known:
            raise Stop(Code.WRONG_USE, f"--state is {text!r}: give one of {', '.join(known)}")
    with opened(store, tenant) as jobs:
        found = jobs.find(states=state or (), batch=batch, after=after, limit=limit)
    _jobs_show.jobs(found, as_json=json)


def watch(
    job: JobId,
    interval: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks.")] = 0.5,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> int:
    """Show a job as it goes on. Exit code 0: all of it succeeded."""
    with opened(store, tenant) as jobs:
        jobs.job(job)
        screen = _jobs_live.screen(as_json=json)
        try:
            now = _jobs_live.watch(jobs.store, job, screen, interval, _jobs_live.Standstill(jobs).tell)
        except KeyboardInterrupt:
            screen.close()
            _jobs_show.note(f"no longer watching; job {job} goes on where it runs")
            return 130
        finally:
            screen.close()
    if not json:
        _jobs_show.progress(now)
    return int(_jobs_show.code(now))


def pause(
    job: JobId,
    reason: Reason = "",
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> None:
    """Begin no further row of a job; calls under way end."""
    with opened(store, tenant) as jobs:
        record = jobs.pause(job, reason=reason)
    _changed(
        _jobs_show.job_facts(record), f"{job} is paused; go on: holdfast jobs resume {job}", as_json=json
    )


def cancel(
    job: JobId,
    reason: Reason = "",
    yes: Yes = False,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> None:
    """End a job for good.

    Rows that have not begun are cancelled, calls under way are told to end.
    """
    with opened(store, tenant) as jobs:
        left = jobs.job(job).counts
        if not yes:
            number = left.pending + left.running
            typer.confirm(f"Cancel job {job}, {number} of {left.total} rows of it?", abort=True, err=True)
        record = jobs.cancel(job, reason=reason)
    said = f"{job} is cancelled: {_jobs_show.counted(record.counts)}"
    _changed(_jobs_show.job_facts(record), said, as_json=json)


def skip(
    job: JobId,
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="The rows, by their keys.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept with the rows.")] = "",
    yes: Yes = False,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> None:
    """Decide that rows which wait are not to be done.

    All of them, or none if one is unknown or has begun.
    """
    rows = len(set(keys))
    what = keys[0] if rows == 1 else f"{rows} rows"
    with opened(store, tenant) as jobs:
        jobs.job(job)
        if not yes:
            typer.confirm(f"Skip {what} of job {job} for good?", abort=True, err=True)
        record = jobs.skip(job, *keys, reason=reason, by=getpass.getuser())
    said = f"{what} of {job} skipped; it is {record.state}: {_jobs_show.counted(record.counts)}"
    _changed(_jobs_show.job_facts(record), said, as_json=json)


def _changed(facts: dict[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        _show.as_json(facts)
    else:
        _show.line(text)


def interrupted(store: Store = DEFAULT_STORE, tenant: Tenant = "default", json: Json = False) -> int:
    """List jobs whose worker is gone, with choices. Exit code 1: some."""
    with opened(store, tenant) as jobs:
        found = jobs.interrupted()
    _jobs_show.interrupted(found, as_json=json)
    if not found and not json:
        _show.line("no job was interrupted")
    return int(Code.WANTING if found else Code.FINE)


def review(
    job: AnyJobId = None,
    key: Annotated[str | None, typer.Argument(help="The row to decide about.")] = None,
    decision: Annotated[
        str | None, typer.Argument(help="succeeded, failed, or again: call once more, same idempotency key.")
    ] = None,
    result: Annotated[str | None, typer.Option(help="With succeeded: the result, as JSON.")] = None,
    error: Annotated[str, typer.Option(help="With failed: why.")] = "",
    by: Annotated[str, typer.Option(help="Who decides; it is kept. [default: you]")] = "",
    reconcile: Annotated[
        bool, typer.Option("--reconcile", help="Ask the handler what became of the calls.")
    ] = False,
    yes: Yes = False,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> int:
    """List calls that may have been made, or decide about one.

    Exit code 1: there are some to decide about.
    """
    if decision is None and key is not None:
        raise Stop(Code.WRONG_USE, f"say what became of {key!r}: {', '.join(_DECISIONS)}")
    if decision is not None and decision not in _DECISIONS:
        raise Stop(Code.WRONG_USE, f"{decision!r} is no decision: {', '.join(_DECISIONS)}")
    with opened(store, tenant) as jobs:
        if job is not None:
            jobs.job(job)
        # What a dead worker held is in doubt only once it was taken back.
        jobs.recover()
        if job is not None and key is not None:
            return _decide(jobs, job, key, decision or "", result, error, by, yes=yes, as_json=json)
        if reconcile:
            _reconcile(jobs, job)
        found = jobs.review(job)
    _jobs_show.reviews(found, as_json=json)
    return int(Code.WANTING if found else Code.FINE)


def _reconcile(jobs: Jobs, job: str | None) -> None:
    if job is None:
        raise Stop(Code.WRONG_USE, "--reconcile asks the handler of one job: give its id")
    done = jobs.reconcile(job)
    _jobs_show.note(
        f"{len(done.done)} were made, {len(done.not_done)} were not, {len(done.unknown)} nobody can tell"
    )


def _decide(
    jobs: Jobs,
    job: str,
    key: str,
    decision: str,
    result: str | None,
    error: str,
    by: str,
    *,
    yes: bool,
    as_json: bool,
) -> int:
    given = _parsed(result)
    if decision == "again" and not yes:
        typer.confirm(f"Call {key} once more, though it may have been called?", abort=True, err=True)
    named = cast('Literal["succeeded", "failed", "again"]', decision)
    step = jobs.resolve(job, key, named, result=given, error=error, by=by or getpass.getuser())
    left = len(jobs.review(job))
    then = f"; {left} left to decide" if left else f"; go on: holdfast jobs resume {job}"
    _changed(_jobs_show.step_facts(step), f"{key} is {step.state}{then}", as_json=as_json)
    return int(Code.FINE)


def _parsed(result: str | None) -> Any:
    try:
        return None if result is None else jsons.loads(result, parse_float=Decimal)
    except ValueError as error:
        raise Stop(Code.WRONG_USE, f"--result is no JSON: {error}") from None


def events(
    job: JobId,
    after: Annotated[int, typer.Option(min=0, help="From the event after this number on.")] = 0,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="And what comes, until the job has ended.")
    ] = False,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> int:
    """Print a job's history, an event a line."""
    with opened(store, tenant) as jobs:
        try:
            for one in jobs.events(job, after=after, follow=follow):
                _jobs_show.event(one, as_json=json)
        except KeyboardInterrupt:
            return 130
    return int(Code.FINE)


def export(
    job: JobId,
    to: Annotated[Path, typer.Argument(metavar="FILE", help="A .csv or .jsonl file.")],
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> None:
    """Write what became of every row to a file.

    Key, line, state, result, error and attempts, as .csv or .jsonl.
    """
    with opened(store, tenant) as jobs:
        try:
            rows = jobs.export(job, to)
        except OSError as error:
            raise Stop(Code.WRONG_USE, f"{to} cannot be written: {error.strerror}") from None
    _changed({"file": str(to), "rows": rows}, f"{to}: {rows} rows", as_json=json)


def dead_letters(
    job: JobId,
    write: Annotated[bool, typer.Option("--write", help="Try to write them back once more.")] = False,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> int:
    """List results that were not written back, or try again.

    Exit code 1: there are some.
    """
    with opened(store, tenant) as jobs:
        if write:
            _jobs_show.note(f"{jobs.write_back(job)} results were written back")
        jobs.job(job)
        found = jobs.dead_letters(job)
    _jobs_show.dead_letters(found, as_json=json)
    return int(Code.WANTING if found else Code.FINE)


def concurrency(
    most: Annotated[
        str | None,
        typer.Argument(metavar="[N|none]", help="At most so many calls at once; none: any number."),
    ] = None,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> None:
    """Bound the calls of all jobs together, or show the bound."""
    with opened(store, tenant) as jobs:
        if most is not None:
            try:
                jobs.store.set_concurrency(None if most == "none" else int(most))
            except ValueError:
                raise Stop(
                    Code.WRONG_USE, f"{most!r} is no number of calls: give 1 or more, or none"
                ) from None
        bound = jobs.store.concurrency()
    told = "any number of calls" if bound is None else f"at most {bound} calls"
    _changed({"tenant": tenant, "concurrency": bound}, f"{told} at once of tenant {tenant}", as_json=json)


def archive(
    folder: Annotated[Path, typer.Argument(help="Where files JOB.jsonl go.")],
    older_than: Annotated[
        float, typer.Option(parser=duration, metavar="TIME", help="Jobs that ended so long ago.")
    ] = 30 * 86_400.0,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> None:
    """Move jobs that ended long ago to files."""
    with opened(store, tenant) as jobs:
        try:
            moved = jobs.archive(folder, older_than=older_than)
        except OSError as error:
            raise Stop(Code.WRONG_USE, f"{folder} cannot be written to: {error.strerror}") from None
    _changed({"folder": str(folder), "jobs": moved}, f"{len(moved)} jobs moved to {folder}", as_json=json)


_COMMANDS: dict[str, Callable[..., Any]] = {
    "run": _jobs_run.run,
    "preview": _jobs_run.preview,
    "approve": _jobs_run.approve,
    "status": status,
    "list": list_jobs,
    "watch": watch,
    "pause": pause,
    "resume": _jobs_run.resume,
    "cancel": cancel,
    "skip": skip,
    "retry-failed": _jobs_run.retry_failed,
    "restart": _jobs_run.restart,
    "interrupted": interrupted,
    "review": review,
    "events": events,
    "export": export,
    "worker": _jobs_worker.worker,
    "dead-letters": dead_letters,
    "concurrency": concurrency,
    "archive": archive,
}

for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)
