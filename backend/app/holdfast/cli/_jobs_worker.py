"""`holdfast jobs worker`: one process or several that execute whatever jobs there are."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any

import typer

from holdfast.cli import _jobs_live, _jobs_tell
from holdfast.cli._exit import Code
from holdfast.cli._jobs_open import (
    DEFAULT_STORE,
    Broker,
    ExecutorName,
    Json,
    Queue,
    Store,
    Tenant,
    carrying,
    duration,
    handler,
    opened,
)
from holdfast.cli._jobs_run import Record, _recording, left_alone, say_left
from holdfast.services.jobs._process import leaving_when_stuck
from holdfast.services.jobs.executors import TicketWorker
from holdfast.services.jobs.handlers import Handlers
from holdfast.services.jobs.processes import WorkerProcesses
from holdfast.services.jobs.worker import Worker

_STOPPING = "stopping: calls under way may end; told again, they are cancelled"


def worker(
    handlers: Annotated[
        list[str] | None,
        typer.Argument(metavar="[HANDLER]...", help="Only jobs of these, module:function; else all."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=256, help="How many processes.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls at once, of each process.")] = 8,
    record: Record = "each",
    lease: Annotated[
        float,
        typer.Option(
            parser=duration, metavar="TIME", help="Others take over so long after it was last heard of."
        ),
    ] = 15.0,
    drain: Annotated[
        float, typer.Option(parser=duration, metavar="TIME", help="What calls may take when it is stopped.")
    ] = 30.0,
    grace: Annotated[
        float, typer.Option(parser=duration, metavar="TIME", help="What cancelled calls may take after that.")
    ] = 5.0,
    name: Annotated[str, typer.Option(help="Begins its name in the history of jobs.")] = "",
    executor: ExecutorName = "local",
    broker: Broker = "",
    queue: Queue = "holdfast",
    store: Store = DEFAULT_STORE,
    tenant: Tenant = "default",
    json: Json = False,
) -> int:
    """Execute whatever jobs there are, until told to stop.

    SIGTERM or Ctrl-C: calls under way end, then it does; twice: at once. What does not end is left behind.
    """
    from holdfast.infrastructure.store.sql import _shown

    found = [handler(target) for target in handlers or ()]
    settings: dict[str, Any] = {
        "concurrency": concurrency,
        "record": _recording(record),
        "lease": lease,
        "drain": drain,
        "grace": grace,
        "name": name,
    }
    telling = _jobs_tell.JSON if json else _jobs_tell.TEXT
    with (
        carrying(executor, store, tenant, broker, queue) as carrier,
        opened(store, tenant, create=tenant == "default") as jobs,
    ):
        work: Worker | TicketWorker | WorkerProcesses
        known = Handlers(found, imports=not found)
        if processes == 1 and carrier is not None:
            work = TicketWorker(jobs.store, known, carrier, notifier=telling, **settings)
        elif processes == 1:
            work = Worker(jobs.store, known, notifier=telling, **settings)
        else:
            work = WorkerProcesses(
                store,
                handlers or (),
                tenant=tenant,
                processes=processes,
                imports=not found,
                notifier="holdfast.cli._jobs_tell:" + ("JSON" if json else "TEXT"),
                executor=executor,
                broker=broker,
                queue=queue,
                **settings,
            )
        telling.say({"worker": "started"}, f"working on {_shown(store)}, tenant {tenant}")
        with ExitStack() as around:
            if not isinstance(work, WorkerProcesses):
                around.enter_context(leaving_when_stuck(work, lambda calls: say_left(calls, "interrupted")))
            around.enter_context(_jobs_live.saying_when_it_stops(work, lambda: _STOPPING))
            work.run()
        telling.say({"worker": "stopped"}, "stopped")
        return left_alone(int(Code.FINE))
