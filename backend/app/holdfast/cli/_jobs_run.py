"""The commands of `holdfast jobs` that begin or go on: run, preview, approve, resume, retry-failed, restart."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import _jobs_live, _jobs_show, _show
from holdfast.cli._exit import Code, Leave, Stop
from holdfast.cli._jobs_open import (
    DEFAULT_STORE,
    Broker,
    ExecutorName,
    JobId,
    Json,
    Queue,
    Store,
    Tenant,
    Yes,
    carrying,
    duration,
    handler,
    opened,
    pace,
)
from holdfast.infrastructure.store.state import JOB_ENDS, JobState
from holdfast.services.jobs._calls import why_left
from holdfast.services.jobs._pages import all_jobs
from holdfast.services.jobs._process import leaving_when_stuck
from holdfast.services.jobs.errors import NotConfirmedError
from holdfast.services.jobs.preview import Preview
from holdfast.services.jobs.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from typing import Literal

    from holdfast.infrastructure.store.state import JobRecord
    from holdfast.services.jobs.handlers import Call, Handler
    from holdfast.services.jobs.jobs import Jobs

_OPEN = [state for state in JobState if state not in JOB_ENDS]
_NOTICES = 3
_SOURCE = "submitted_from"
# Seconds for cancelled calls to end, before somebody who has pressed Ctrl-C twice.
_GRACE = 2.0

Source = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help="Rows: a .csv, .tsv, .xlsx or .jsonl file.", show_default=False),
]
Target = Annotated[
    str, typer.Argument(metavar="HANDLER", help="What does one row, module:function.", show_default=False)
]
Key = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Column that names each row; else its line does.")
]
Name = Annotated[str, typer.Option(help="What people call the job; else the file's name.")]
Rows = Annotated[int, typer.Option(min=1, help="Rows to quote for the estimate.")]
Concurrency = Annotated[int | None, typer.Option(min=1, help="Calls at once, of the whole job. [default: 8]")]
Lanes = Annotated[int, typer.Option(min=1, help="Calls at once.")]
Record = Annotated[
    str,
    typer.Option(help="each: every call is durable by itself; group: faster, more to review after a crash."),
]
NoRun = Annotated[bool, typer.Option("--no-run", help="Leave the work to `holdfast jobs worker`.")]


def interactive() -> bool:
    """Return whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


# Doing the work ---------------------------------------------------------------------------------------------------


def execute(jobs: Jobs, job: str, *, concurrency: int, record: str = "each", as_json: bool) -> int:
    """Do what is left of a job here, show it, and return the exit code."""
    now = jobs.job(job)
    if now.state not in JOB_ENDS:
        jobs.handlers.find(now.new.handler, str(now.new.settings.get("reference", "")))
        worker = Worker(
            jobs.store,
            jobs.handlers,
            concurrency=concurrency,
            record=_recording(record),
            grace=_GRACE,
            job=job,
        )
        screen = _jobs_live.screen(as_json=as_json, quiet=True)
        with (
            leaving_when_stuck(worker, lambda calls: say_left(calls, f"resume {job}")),
            _jobs_live.reporting(jobs.store, job, worker, screen),
        ):
            worker.run()
        if worker.stopping:
            return _stopped(jobs, job, worker, as_json=as_json)
    return finish(jobs, job, as_json=as_json)


def follow(jobs: Jobs, job: str, *, as_json: bool) -> int:
    """Show a job that workers elsewhere do, until there is nothing more for them to do; return the exit code."""
    screen = _jobs_live.screen(as_json=as_json, quiet=True)
    try:
        _jobs_live.watch(jobs.store, job, screen, _jobs_live.INTERVAL, jobs._is_left_to_people)
    except KeyboardInterrupt:
        screen.close()
        _jobs_show.note(f"job {job} goes on at its workers: holdfast jobs watch {job}, pause or cancel")
        return 128 + signal.SIGINT
    finally:
        screen.close()
    return finish(jobs, job, as_json=as_json)


def finish(jobs: Jobs, job: str, *, as_json: bool) -> int:
    """Print how a job is and return the exit code."""
    now = jobs.status(job)
    if as_json:
        _show.as_json(now.as_dict())
    else:
        _jobs_show.progress(now)
    for text in _jobs_show.unstored(jobs, job):
        _jobs_show.note(f"  {text}")
    return int(_jobs_show.code(now))


def _stopped(jobs: Jobs, job: str, worker: Worker, *, as_json: bool) -> int:
    """Say what a signal left, and how to go on."""
    code = finish(jobs, job, as_json=as_json)
    if code == Code.NOT_ENDED:
        _jobs_show.note(f"stopped; go on with: holdfast jobs resume {job}")
        code = 128 + (worker._signal or signal.SIGINT)
    return left_alone(code)


def say_left(calls: Sequence[Call], then: str) -> None:
    """Say why this process leaves a worker that does not stop, and the command with which to go on."""
    _jobs_show.note(f"{why_left(calls)}, go on with: holdfast jobs {then}")


def left_alone(code: int) -> int:
    """Return an exit code, or leave at once with it if threads that wait for a store would keep the process alive."""
    for thread in threading.enumerate():
        if not thread.daemon and thread.name.startswith("holdfast-"):
            thread.join(0.2)
            if thread.is_alive():
                raise Leave(code)
    return code


def _recording(text: str) -> Literal["each", "group"]:
    if text not in {"each", "group"}:
        raise Stop(Code.WRONG_USE, f"--record is {text!r}: give each or group")
    return "group" if text == "group" else "each"


# Beginning --------------------------------------------------------------------------------------------------------


def run(
    source: Source,
    target: Target,
    mode: Annotated[
        str, typer.Option(help="confirm: preview, approval, execution; auto: at once.")
    ] = "confirm",
    key: Key = None,
    name: Name = "",
    concurrency: Concurrency = None,
    rate: Annotated[
        float | None, typer.Option(parser=pace, metavar="RATE", help="At most so many calls: 20/s, 100/min.")
    ] = None,
    write_back: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=COLUMN", help="Write this field of results to a column; repeatable."),
    ] = None,
    on_error: Annotated[
        str, typer.Option(help="continue, fail-fast, or how many may fail: 10, or 5%.")
    ] = "continue",
    attempts: Annotated[int, typer.Option(min=1, help="Calls of a row before it fails.")] = 1,
    step_timeout: Annotated[
        float | None, typer.Option(parser=duration, metavar="TIME", help="A call may take so long: 30s.")
    ] = None,
    job_timeout: Annotated[
        float | None, typer.Option(parser=duration, metavar="TIME", help="All of it may take so long: 2h.")
    ] = None,
    expires_in: Annotated[
        float | None, typer.Option(parser=duration, metavar="TIME", help="It has to begin within: 1d.")
    ] = None,
    priority: Annotated[int, typer.Option(min=1, max=4, help="1 critical to 4 low.")] = 3,
    batch: Annotated[str | None, typer.Option(help="Batch that the job belongs to.")] = None,
    dedup_key: Annotated[str | None, typer.Option(help="A second job of this key is the first one.")] = None,
    record: Record = "each",
    rows: Rows = 20,
    digest: Annotated[
        str | None, typer.Option(help="Approve exactly the rows of this digest, which a preview printed.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Approve without asking.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Though an earlier job of the same file has not ended.")
    ] = False,
    create: Annotated[bool, typer.Option("--create", help="Create the tenant if there is none.")] = False,
    executor: ExecutorName = "local",
    broker: Broker = "",
    queue: Queue = "holdfast",
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> int:
    """Do each row of a file once: preview, approval, execution. Ctrl-C ends well, resume goes on.

    With --executor, workers do it that were started with the same one, here and on other machines.
    """
    if mode not in {"confirm", "auto"}:
        raise Stop(Code.WRONG_USE, f"--mode is {mode!r}: give confirm or auto")
    _recording(record)
    found, path = handler(target), _file(source)
    with (
        carrying(executor, store, tenant, broker, queue) as carrier,
        opened(store, tenant, create=create or tenant == "default", executor=carrier) as jobs,
    ):
        _tell_of_interrupted(jobs, path)
        job = None if digest is None else _previewed(jobs, digest, found)
        if job is None:
            if not again:
                _refuse_twice(jobs, path, found)
            job = jobs.submit(
                source,
                found,
                name=name or Path(source).name,
                key=key,
                mode=mode,
                concurrency=concurrency,
                rate=rate,
                write_back=_columns(write_back),
                on_error=_error_policy(on_error),
                max_attempts=attempts,
                step_timeout=step_timeout,
                job_timeout=job_timeout,
                expires_in=expires_in,
                priority=priority,
                batch=batch,
                dedup_key=dedup_key,
                settings={_SOURCE: str(path)},
            )
        with _kept(job):
            if not _is_approved(job) and not _approval(
                jobs, job, rows=rows, digest=digest, yes=yes, as_json=json
            ):
                return int(Code.WANTING if interactive() and not json else Code.ASKS)
            if carrier is not None:
                return follow(jobs, job.id, as_json=json)
            return execute(jobs, job.id, concurrency=concurrency or 8, record=record, as_json=json)


def preview(
    source: Annotated[str, typer.Argument(metavar="SOURCE|JOB", help="A file of rows, or a job that waits.")],
    target: Annotated[
        str | None, typer.Argument(metavar="[HANDLER]", help="What does one row, module:function.")
    ] = None,
    key: Key = None,
    name: Name = "",
    rows: Rows = 20,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> int:
    """Say what a batch would cost, without executing it.

    Quotes the first rows of a file, or of a job that waits, and keeps that for approval.
    """
    if target is None:
        with opened(store, tenant) as jobs:
            job = jobs.job(source)
            _show_preview(jobs.preview(job, rows=rows), job, as_json=json)
            return int(Code.FINE)
    found, path = handler(target), _file(source)
    with opened(store, tenant, create=tenant == "default") as jobs:
        job = jobs.submit(
            source, found, name=name or path.name, key=key, mode="confirm", settings={_SOURCE: str(path)}
        )
        _show_preview(jobs.preview(job, rows=rows), job, as_json=json)
    return int(Code.FINE)


def approve(
    job: JobId,
    digest: Annotated[str | None, typer.Argument(help="The preview's; without it, you are asked.")] = None,
    execution: Annotated[bool, typer.Option("--run", help="Execute it here, at once.")] = False,
    concurrency: Lanes = 8,
    yes: Yes = False,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> int:
    """Let a previewed job run, if its rows are still the same."""
    with opened(store, tenant) as jobs:
        record = jobs.job(job)
        if digest is None and record.state is JobState.PREVIEWED:
            kept = Preview.from_dict(record.id, record.digest or "", record.preview or {})
            if not yes:
                _ask_for(kept, record, as_json=json)
            digest = kept.digest
        approved = jobs.approve(job, digest or "")
        if execution:
            return execute(jobs, job, concurrency=concurrency, as_json=json)
        if json:
            _show.as_json(_jobs_show.job_facts(approved))
        else:
            _show.line(f"{job} is approved; a worker does it, or: holdfast jobs resume {job}")
    return int(Code.FINE)


def _ask_for(preview: Preview, job: JobRecord, *, as_json: bool) -> None:
    if as_json or not interactive():
        raise Stop(
            Code.ASKS, f"give the digest of its preview: holdfast jobs approve {job.id} {preview.digest}"
        )
    _jobs_show.preview(preview, job.new.name, job.new.handler)
    typer.confirm(f"Approve {preview.total} rows?", abort=True, err=True)


def _file(source: str) -> Path:
    path = Path(source)
    if not path.is_file():
        problem = "is no file" if path.exists() else "is not there"
        raise Stop(Code.WRONG_USE, f"{source} {problem}: name a .csv, .tsv, .xlsx or .jsonl file of rows")
    return path.resolve()


def _columns(given: list[str] | None) -> dict[str, str] | None:
    """Return the column for each field that is written back."""
    columns: dict[str, str] = {}
    for text in given or ():
        field, _, column = text.partition("=")
        if not field:
            raise Stop(Code.WRONG_USE, f"--write-back is {text!r}: write FIELD=COLUMN, or FIELD")
        columns[field] = column or field
    return columns or None


def _error_policy(text: str) -> str | float:
    if text in {"continue", "fail-fast", "fail_fast"}:
        return text.replace("-", "_")
    share = text.endswith("%")
    try:
        bound = float(text[:-1]) / 100 if share else int(text)
    except ValueError:
        bound = -1
    if not 0 < bound < (1 if share else inf):
        raise Stop(
            Code.WRONG_USE,
            f"--on-error is {text!r}: give continue, fail-fast, a number of failures or a share such as 5%",
        )
    return bound


def _is_approved(job: JobRecord) -> bool:
    return job.ready or job.state not in {JobState.PENDING, JobState.PREVIEWED}


def _previewed(jobs: Jobs, digest: str, found: Handler) -> JobRecord | None:
    """Return the job that waits for the approval of a digest."""
    waiting = all_jobs(jobs.store, [JobState.PREVIEWED])
    job = next((job for job in waiting if job.digest == digest and job.new.handler == found.name), None)
    if job is not None:
        jobs.handlers.add(found)
    return job


def _approval(jobs: Jobs, job: JobRecord, *, rows: int, digest: str | None, yes: bool, as_json: bool) -> bool:
    """Preview a job and have it approved; return whether it was."""
    if job.digest is None or job.digest != digest:
        preview = jobs.preview(job, rows=rows)
    else:
        preview = Preview.from_dict(job.id, job.digest, job.preview or {})
    if digest is not None and digest != preview.digest:
        jobs.cancel(job.id, reason="its rows are not those of the digest")
        said = f"the rows are not those of the digest: they are {preview.digest} now; preview them again"
        raise Stop(Code.WANTING, said)
    approved = yes or digest is not None
    if not approved:
        _show_preview(preview, job, as_json=as_json)
        if as_json or not interactive():
            return False
        approved = typer.confirm(f"Execute {preview.total} rows?", err=True)
    elif not as_json:
        _jobs_show.preview(preview, job.new.name, job.new.handler)
    if approved:
        jobs.approve(job.id, preview.digest)
    else:
        _jobs_show.note(
            f"not approved; job {job.id} waits: holdfast jobs approve {job.id}, or cancel {job.id}"
        )
    return approved


def _show_preview(preview: Preview, job: JobRecord, *, as_json: bool) -> None:
    if as_json:
        state = JobState.PREVIEWED.value
        _show.as_json({"job": job.id, "state": state, "digest": preview.digest, **preview.as_dict()})
        return
    _jobs_show.preview(preview, job.new.name, job.new.handler)
    if not interactive():
        _show.line(f"Approve it: holdfast jobs approve {job.id} {preview.digest} --run")


# What was begun before --------------------------------------------------------------------------------------------


def _tell_of_interrupted(jobs: Jobs, path: Path) -> None:
    """Tell people of jobs that stand still because their worker is gone, other than those of this file."""
    found = [one for one in jobs.interrupted() if one.job.new.settings.get(_SOURCE) != str(path)]
    for one in found[:_NOTICES]:
        _jobs_show.note("interrupted: " + "\n".join(_jobs_show.left_behind(one)))
    if len(found) > _NOTICES:
        _jobs_show.note(f"… and {len(found) - _NOTICES} more: holdfast jobs interrupted")


def _refuse_twice(jobs: Jobs, path: Path, found: Handler) -> None:
    """Refuse to begin a file anew that was begun and has not ended: its rows would be done twice."""
    for job in all_jobs(jobs.store, _OPEN):
        same = job.new.settings.get(_SOURCE) == str(path) and job.new.handler == found.name
        if same and _is_approved(job):
            left = next((one for one in jobs.interrupted() if one.job.id == job.id), None)
            said = [
                f"{path.name} was begun as job {job.id}, which is {job.state}: {_jobs_show.counted(job.counts)}"
            ]
            choices = (
                [f"  holdfast jobs watch {job.id}"] if left is None else _jobs_show.left_behind(left)[1:]
            )
            if job.state is JobState.PAUSED:
                choices = [f"  holdfast jobs resume {job.id}"]
            said += [*choices, "  or do all its rows once more, as a second job: give --again"]
            raise Stop(Code.ASKS, "\n".join(said))


@contextmanager
def _kept(job: JobRecord) -> Generator[None, None, None]:
    """Say what is stored if it ends before the work begins."""
    try:
        yield
    except (KeyboardInterrupt, typer.Abort):
        _jobs_show.note(f"\njob {job.id} is kept: holdfast jobs status {job.id}, approve, resume or cancel")
        raise Stop(Code.WANTING, "stopped") from None


# Going on ---------------------------------------------------------------------------------------------------------


def resume(
    job: JobId,
    no_run: NoRun = False,
    concurrency: Lanes = 8,
    record: Record = "each",
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> int:
    """Do what is left of a paused, stopped or interrupted job."""
    _recording(record)
    with opened(store, tenant) as jobs:
        jobs.resume(job, execute=False)
        return _go_on(jobs, job, no_run=no_run, concurrency=concurrency, record=record, as_json=json)


def retry_failed(
    job: JobId,
    pending: Annotated[bool, typer.Option("--pending", help="And what never began.")] = False,
    no_run: NoRun = False,
    concurrency: Lanes = 8,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> int:
    """Do what failed again, under the same idempotency keys."""
    with opened(store, tenant) as jobs:
        new = jobs.retry_failed(job, pending=pending)
        return _go_on(jobs, new.id, no_run=no_run, concurrency=concurrency, as_json=json)


def restart(
    job: JobId,
    confirm: Annotated[
        int | None,
        typer.Option(metavar="CALLS", help="How many calls may repeat; without it, you are asked."),
    ] = None,
    no_run: NoRun = False,
    concurrency: Lanes = 8,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Repeat them without asking.")] = False,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> int:
    """Do all rows of a job again. Says how many calls would repeat.

    It is a new job with new idempotency keys; the old one stays as it is, or is cancelled if it has not ended.
    """
    with opened(store, tenant) as jobs:
        new = _restarted(jobs, job, confirm, yes=yes, as_json=json)
        return _go_on(jobs, new.id, no_run=no_run, concurrency=concurrency, as_json=json)


def _restarted(jobs: Jobs, job: str, confirm: int | None, *, yes: bool, as_json: bool) -> JobRecord:
    try:
        return jobs.restart(job, confirm=confirm)
    except NotConfirmedError as error:
        repeats = error.repeats
    may = f"{repeats} calls of job {job} were made, or may have been, and would be made again"
    if repeats and not yes:
        if as_json or not interactive():
            raise Stop(Code.ASKS, f"{may}: confirm with --confirm {repeats}, or resume what is left")
        typer.confirm(f"{may}. Restart?", abort=True, err=True)
    return jobs.restart(job, confirm=repeats)


def _go_on(
    jobs: Jobs, job: str, *, no_run: bool, concurrency: int, record: str = "each", as_json: bool
) -> int:
    if not no_run:
        return execute(jobs, job, concurrency=concurrency, record=record, as_json=as_json)
    now: Any = jobs.job(job)
    if as_json:
        _show.as_json(_jobs_show.job_facts(now))
    else:
        _show.line(f"{job} is {now.state}; a worker does what is left, or: holdfast jobs resume {job}")
    return int(Code.FINE)
