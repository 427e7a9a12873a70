"""What the commands of `holdfast jobs` share: their options, the store they open, and what its errors mean."""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli._exit import Code, Stop
from holdfast.cli._target import add_folder, find
from holdfast.infrastructure.resilience.errors import ConfigurationError, HoldfastError
from holdfast.infrastructure.store.state import (
    IllegalTransition,
    NotFoundError,
    StoreUnavailableError,
    TenantNotFoundError,
)
from holdfast.services.jobs.errors import HandlerNotFoundError, NotApprovedError, NotConfirmedError
from holdfast.services.jobs.handlers import Handler
from holdfast.services.jobs.jobs import Jobs
from holdfast.services.jobs.rows import SourceUnreadableError

if TYPE_CHECKING:
    from collections.abc import Generator

    from holdfast.infrastructure.store.state import StateStore
    from holdfast.services.jobs.executors import Executor
    from holdfast.services.jobs.notify import Notifier

DEFAULT_STORE = "sqlite:///holdfast.db"
_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_NUMBER = r"(\d+(?:\.\d+)?)\s*"
_WRONG_USE = (
    NotFoundError,
    TenantNotFoundError,
    HandlerNotFoundError,
    SourceUnreadableError,
    ConfigurationError,
)
_ASKS = (NotApprovedError, NotConfirmedError)


def _job_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return what completes a job's id, with its state and name."""
    with (
        suppress(Exception),
        opened(ctx.params.get("store") or DEFAULT_STORE, ctx.params.get("tenant")) as jobs,
    ):
        return [
            (job.id, f"{job.state} {job.new.name}")
            for job in jobs.find(limit=1000)
            if job.id.startswith(incomplete)
        ]
    return []


def duration(text: str | float) -> float:
    """Return the seconds of `90`, `90s`, `5m`, `2h` or `30d`."""
    found = re.fullmatch(_NUMBER + "(ms|s|m|min|h|d)?", str(text).strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration: write for example 90s, 5m, 2h or 30d")
    return float(found[1]) * _UNITS[found[2] or ""]


def pace(text: str | float) -> float:
    """Return the steps a second of `20`, `20/s`, `100/min` or `500/h`."""
    found = re.fullmatch(_NUMBER + r"(?:/\s*(s|m|min|h|d))?", str(text).strip())
    if found is None or float(found[1]) == 0:
        raise typer.BadParameter(f"{text!r} is no rate: write for example 20/s, 100/min or 500/h")
    return float(found[1]) / _UNITS[found[2] or ""]


Store = Annotated[
    str,
    typer.Option(envvar="HOLDFAST_STORE", help="Where jobs are kept: sqlite:///FILE or postgresql://…"),
]
ExecutorName = Annotated[
    str,
    typer.Option(
        "--executor",
        envvar="HOLDFAST_EXECUTOR",
        help="What carries work to workers: local, procrastinate or celery.",
    ),
]
Broker = Annotated[
    str, typer.Option(envvar="HOLDFAST_BROKER", help="Of --executor celery: amqp://… or redis://….")
]
Queue = Annotated[
    str, typer.Option(envvar="HOLDFAST_QUEUE", help="Begins the name of the queue of work, of --executor.")
]
Tenant = Annotated[str, typer.Option(envvar="HOLDFAST_TENANT", help="Whose jobs.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.", autocompletion=_job_ids)]
AnyJobId = Annotated[str | None, typer.Argument(metavar="[JOB]", help="A job's id.", autocompletion=_job_ids)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept with the job.")]


@contextmanager
def opened(
    url: str,
    tenant: str | None = None,
    *,
    create: bool = False,
    notifier: Notifier | None = None,
    executor: Executor | None = None,
) -> Generator[Jobs, None, None]:
    """Give the jobs of a tenant; what they refuse ends the command with its code. `create` what is missing."""
    add_folder()
    # What it says of connections that break, the errors of the store say too.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    try:
        with Jobs(
            _store(url, tenant or "default", create=create), notifier=notifier, executor=executor
        ) as jobs:
            yield jobs
    except HoldfastError as error:
        raise stop(error) from error


@contextmanager
def carrying(
    executor: str, store: str, tenant: str, broker: str, queue: str
) -> Generator[Executor | None, None, None]:
    """Give what carries work to workers; None where that is this process."""
    if executor == "local":
        yield None
        return
    from holdfast.services.jobs.executors import open_executor

    try:
        opened = open_executor(executor, store, tenant=tenant, broker=broker, queue=queue)
    except ValueError as error:
        raise Stop(Code.WRONG_USE, f"--executor, --broker or --store: {error}") from None
    try:
        yield opened
    finally:
        opened.close()


def _store(url: str, tenant: str, *, create: bool) -> StateStore:
    if url.startswith("dynamodb:"):
        said = f"--store is {url.partition('?')[0]!r}: this command takes sqlite:/// or postgresql://"
        raise Stop(Code.WRONG_USE, f"{said}; Python takes a table, with open_jobs, and so does the HTTP API")
    from holdfast.infrastructure.store import sql

    try:
        if not create and tenant not in sql.tenants(url):
            remedy = "run this where it is, or name it with --store (HOLDFAST_STORE) and --tenant"
            if tenant != "default":
                remedy += "; `holdfast jobs run --create` creates one"
            raise Stop(
                Code.WRONG_USE, f"there are no jobs of tenant {tenant!r} in {sql._shown(url)}: {remedy}"
            )
        return sql.open_store(url, tenant=tenant, create=create)
    except ValueError as error:
        raise Stop(Code.WRONG_USE, f"--store or --tenant: {error}") from None


def stop(error: HoldfastError) -> Stop:
    """Return the end that an error means, with what to do."""
    if isinstance(error, NotFoundError):
        remedy = "holdfast jobs export JOB FILE" if error.kind == "step" else "holdfast jobs list"
        return Stop(Code.WRONG_USE, f"{error}: {remedy}")
    if isinstance(error, TenantNotFoundError):
        return Stop(Code.WRONG_USE, f"{error}; `holdfast jobs run --create` creates one")
    if isinstance(error, IllegalTransition):
        return Stop(Code.WANTING, f"{error}; nothing was changed")
    if isinstance(error, StoreUnavailableError):
        return Stop(Code.UNREACHABLE, str(error))
    if isinstance(error, _ASKS):
        return Stop(Code.ASKS, str(error))
    return Stop(Code.WRONG_USE if isinstance(error, _WRONG_USE) else Code.WANTING, str(error))


def handler(target: str) -> Handler:
    """Return the handler `module:name`, imported from the working folder."""
    found: Any = find(target)
    if isinstance(found, Handler):
        return found
    if not callable(found) or isinstance(found, type):
        kind = "a class" if isinstance(found, type) else f"of type {type(found).__name__}"
        raise Stop(Code.WRONG_USE, f"{target} is {kind}, no handler: name a function of one row")
    try:
        return Handler(found, name=target)
    except ConfigurationError as error:
        raise Stop(Code.WRONG_USE, f"{target} is no handler: {error}") from None
