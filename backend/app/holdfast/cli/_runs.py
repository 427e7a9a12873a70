"""`holdfast runs`: graphs of orders: submit, serve, look, cancel, retry, read what they said."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import _jobs_show, _runs_open, _runs_show, _show
from holdfast.cli._exit import Code, Stop
from holdfast.cli._jobs_open import DEFAULT_STORE, Json, Reason, Store, Tenant, Yes, duration, opened, stop
from holdfast.cli._runs_open import API, Api, CommentTo, Git, Identity, Recipients, Repository, Sops
from holdfast.infrastructure.resilience.errors import HoldfastError
from holdfast.infrastructure.store.state import STEP_ENDS, NotFoundError
from holdfast.services.jobs.graphs.request import RequestRefusedError
from holdfast.services.jobs.graphs.secrets import SecretsError
from holdfast.services.jobs.graphs.service import RunService

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from holdfast.services.jobs.graphs.runs import RunAnswer

app = typer.Typer(help="Graphs of orders, each of which is started once.", no_args_is_help=True)

_STOPPING = "stopping: orders that run may end; told again, they are killed"

Folder = Annotated[
    Path, typer.Option(envvar="HOLDFAST_RUNS", help="Where archives, results, output and comments are kept.")
]
Source = Annotated[
    Path, typer.Option("--code", envvar="HOLDFAST_CODE", help="The folder below which code of orders lies.")
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Orders at once.")]
_FOLDER = Path("holdfast-runs")
_CODE = Path()


@contextmanager
def _service(
    store: str, tenant: str, folder: Path, code: Any = _CODE, *, create: bool = False, **settings: Any
) -> Generator[RunService, None, None]:
    """Give the runs of a tenant; what they refuse ends the command with its code."""
    with (
        opened(store, tenant, create=create) as jobs,
        RunService(jobs.store, folder, code=code, **settings) as service,
    ):
        try:
            yield service
        except NotFoundError as error:
            raise Stop(Code.WRONG_USE, f"{error}: holdfast runs status") from None
        except (RequestRefusedError, SecretsError) as error:
            raise Stop(Code.WRONG_USE, str(error)) from None
        except HoldfastError as error:
            raise stop(error) from error
        except OSError as error:
            raise Stop(Code.UNREACHABLE, f"{folder}: {error}") from error


def submit(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="JSON, or base64 of it; a webhook's event too; - is stdin.")
    ],
    delivery: Annotated[
        str | None, typer.Option(help="What this delivery is known by: the same one twice is one run.")
    ] = None,
    serve_it: Annotated[bool, typer.Option("--serve", help="And execute it here, to its end.")] = False,
    concurrency: Concurrency = 4,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    folder: Folder = _FOLDER,
    code: Source = _CODE,
    git: Git = False,
    age_recipient: Recipients = None,
    age_identity: Identity = None,
    sops: Sops = False,
    github_repository: Repository = "",
    github_url: Api = API,
    comment_file: CommentTo = None,
    json: Json = False,
) -> int:
    """Store a run, whole or not at all, to be executed by `serve`.

    Exit code 2: it was refused; every fault is listed.
    """
    body = _read(file)
    source = _runs_open.code(code, git=git)
    keys = _runs_open.secrets(age_recipient, age_identity, sops=sops)
    settings: dict[str, Any] = {"concurrency": concurrency, "secrets": keys}
    create = tenant == "default"
    with (
        _runs_open.telling(github_repository, github_url, comment_file) as notifiers,
        _service(store, tenant, folder, source, create=create, notifiers=notifiers, **settings) as service,
    ):
        answer = service.runs.submit(body, delivery_id=delivery)
        return _answered(service, answer, serve_it=serve_it, as_json=json)


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise Stop(Code.WRONG_USE, f"{file} cannot be read: {error.strerror}") from None


def _answered(service: RunService, answer: RunAnswer, *, serve_it: bool, as_json: bool) -> int:
    if as_json:
        _jobs_show.as_line(asdict(answer))
    else:
        known = "" if answer.created else ", as it was before"
        _show.line(f"run {answer.run_id} ({answer.flow_id}) is submitted{known}")
        _show.line(f"  its comment: {service.comments.path(answer.search_tag)}")
    if serve_it:
        return _serve(service, [answer.run_id], as_json=as_json)
    if not as_json:
        _show.line("  execute it: holdfast runs serve")
    return int(Code.FINE)


def serve(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Until these are finished; else all.")
    ] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Wait for more when nothing is left.")] = False,
    concurrency: Concurrency = 4,
    every: Annotated[
        float,
        typer.Option(parser=duration, metavar="TIME", help="Look for runs of other processes so often."),
    ] = 1.0,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    folder: Folder = _FOLDER,
    code: Source = _CODE,
    age_identity: Identity = None,
    sops: Sops = False,
    github_repository: Repository = "",
    github_url: Api = API,
    comment_file: CommentTo = None,
    json: Json = False,
) -> int:
    """Execute orders of all runs, until none is left.

    SIGTERM or Ctrl-C: orders that run may end, and no more begins; twice: they are killed. Exit code 1: a run ended
    otherwise than well.
    """
    keys = _runs_open.secrets((), age_identity, sops=sops)
    settings: dict[str, Any] = {"concurrency": concurrency, "every": max(every, 0.05), "secrets": keys}
    create = tenant == "default"
    with (
        _runs_open.telling(github_repository, github_url, comment_file) as notifiers,
        _service(store, tenant, folder, code, create=create, notifiers=notifiers, **settings) as service,
    ):
        for run in runs or ():
            service.runs.status(run)
        return _serve(service, runs or [], stay=stay, as_json=json)


def _serve(service: RunService, only: list[str], *, stay: bool = False, as_json: bool) -> int:
    telling = _runs_show.Telling(service.runs, as_json=as_json)
    with _runs_show.saying_when_it_stops(service, lambda: _STOPPING):
        service.serve(only, stay=stay, seen=telling.look, signals=True)
    if service.stopped_by is not None:
        _jobs_show.note("stopped; go on: holdfast runs serve")
        return 128 + int(service.stopped_by)
    return int(Code.WANTING if telling.wanting else Code.FINE)


def status(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run's id; else all are listed.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="List so many at most.")] = 50,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    folder: Folder = _FOLDER,
    json: Json = False,
) -> int:
    """List runs, newest first, or show the orders of one.

    Exit code 1: that one ended otherwise than well.
    """
    with _service(store, tenant, folder) as service:
        if run is None:
            _runs_show.runs(service.runs.find(limit=limit), as_json=json)
            return int(Code.FINE)
        view = service.runs.status(run)
    _runs_show.run(view, as_json=json)
    return int(Code.WANTING if _runs_show.wanting(view) else Code.FINE)


def cancel(
    run: RunId,
    reason: Reason = "",
    yes: Yes = False,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    folder: Folder = _FOLDER,
    github_repository: Repository = "",
    github_url: Api = API,
    comment_file: CommentTo = None,
    json: Json = False,
) -> None:
    """End a run for good.

    Orders that have not begun are cancelled; those that run are killed by the process that serves them.
    """
    with (
        _runs_open.telling(github_repository, github_url, comment_file) as notifiers,
        _service(store, tenant, folder, notifiers=notifiers) as service,
    ):
        view = service.runs.status(run)
        left = sum(order.state not in STEP_ENDS for order in view.orders)
        if not yes:
            typer.confirm(
                f"Cancel run {run}, {left} of {len(view.orders)} orders of it?", abort=True, err=True
            )
        view = service.runs.cancel(run, reason)
    if json:
        _show.as_json(_runs_show.facts(view))
    else:
        _show.line(
            f"{run} is cancelled" + ("" if view.finished else "; orders that run end at the next look")
        )


def retry(
    run: RunId,
    order: Annotated[
        str | None,
        typer.Argument(metavar="[ORDER]", help="This one and what fell with it; else all that failed."),
    ] = None,
    serve_it: Annotated[bool, typer.Option("--serve", help="And execute it here, to its end.")] = False,
    concurrency: Concurrency = 4,
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    folder: Folder = _FOLDER,
    age_identity: Identity = None,
    sops: Sops = False,
    github_repository: Repository = "",
    github_url: Api = API,
    comment_file: CommentTo = None,
    json: Json = False,
) -> int:
    """Do what has not succeeded again, as a new run, with the code of the first.

    Exit code 2: there is nothing to do again. 1: the run goes on.
    """
    settings: dict[str, Any] = {
        "concurrency": concurrency,
        "secrets": _runs_open.secrets((), age_identity, sops=sops),
    }
    with (
        _runs_open.telling(github_repository, github_url, comment_file) as notifiers,
        _service(store, tenant, folder, notifiers=notifiers, **settings) as service,
    ):
        answer = service.runs.rerun(run) if order is None else service.runs.retry(run, order)
        return _answered(service, answer, serve_it=serve_it, as_json=json)


def logs(
    run: RunId,
    order: Annotated[str, typer.Argument(metavar="ORDER", help="The name of an order.")],
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    folder: Folder = _FOLDER,
) -> int:
    """Print what an order wrote to its output.

    Exit code 6: it has not ended. 1: it ended without any, as it never began.
    """
    with _service(store, tenant, folder) as service:
        found = [one for one in service.runs.status(run).orders if one.name == order]
        if not found:
            raise Stop(Code.WRONG_USE, f"run {run} has no order {order!r}: holdfast runs status {run}")
        try:
            said = service.runs.log(run, order)
        except NotFoundError:
            state = found[0].state
            if state in STEP_ENDS:
                raise Stop(
                    Code.WANTING, f"order {order} is {state} and wrote nothing: {found[0].error}"
                ) from None
            raise Stop(
                Code.NOT_ENDED, f"order {order} is {state}: there is output when it has ended"
            ) from None
    sys.stdout.flush()
    sys.stdout.buffer.write(said)
    sys.stdout.flush()
    return int(Code.FINE)


_COMMANDS: dict[str, Callable[..., Any]] = {
    "submit": submit,
    "serve": serve,
    "status": status,
    "cancel": cancel,
    "retry": retry,
    "logs": logs,
}

for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)
