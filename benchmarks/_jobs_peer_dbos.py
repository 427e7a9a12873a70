"""DBOS, for `jobs_peers`: a workflow for each row on a queue, or one workflow with a step for each row."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

from benchmarks import _jobs_peer as peer
from benchmarks._jobs import payload

# Any: the type checkers do not need the package.
dbos: Any = importlib.import_module("dbos")
DBOS: Any = dbos.DBOS

QUEUE = "holdfast-bench"
VERSION = "1"


@DBOS.step()  # type: ignore[untyped-decorator]
def step(row: dict[str, Any]) -> None:
    """Do nothing."""


@DBOS.step()  # type: ignore[untyped-decorator]
async def astep(row: dict[str, Any]) -> None:
    """Do nothing."""


@DBOS.workflow()  # type: ignore[untyped-decorator]
def alone(row: dict[str, Any]) -> None:
    """Do nothing: the row is a workflow without steps, the least that DBOS can keep."""


@DBOS.workflow()  # type: ignore[untyped-decorator]
async def aalone(row: dict[str, Any]) -> None:
    """Do nothing."""


@DBOS.workflow()  # type: ignore[untyped-decorator]
def stepped(row: dict[str, Any]) -> None:
    """Do the row as a step of its own, as DBOS advises for whatever reaches outside."""
    step(row)


@DBOS.workflow()  # type: ignore[untyped-decorator]
async def whole(rows: int, lanes: int) -> None:
    """Do all rows as steps of one workflow, so many at once, always in one order as a recovery needs it."""
    for first in range(0, rows, lanes):
        await asyncio.gather(*(astep(payload(row)) for row in range(first, min(first + lanes, rows))))


WORKFLOWS: dict[str, Callable[..., Any]] = {
    "alone": alone,
    "aalone": aalone,
    "stepped": stepped,
    "whole": whole,
}


def _launch(told: peer.Told) -> None:
    DBOS(
        config={
            "name": "holdfast-bench",
            "system_database_url": told.url,
            "application_version": VERSION,
            "max_executor_threads": told.lanes,
            "log_level": "ERROR",
        }
    )
    DBOS.launch()


def submit(told: peer.Told) -> None:
    """Enqueue all rows in one transaction."""
    _launch(told)
    # Without a limit of its own a queue hands over all at once, and the threads are the limit: with one, each look
    # brings `lanes` rows, however long that takes.
    DBOS.register_queue(QUEUE, polling_interval_sec=0.05)
    DBOS.destroy()
    name = told.options["workflow"]
    options = {
        "queue_name": QUEUE,
        "workflow_name": WORKFLOWS[name].__qualname__,
        "app_version": VERSION,
    }
    client = dbos.DBOSClient(system_database_url=told.url)
    calls = [(told.rows, told.lanes)] if name == "whole" else [(payload(row),) for row in range(told.rows)]
    sqlalchemy: Any = importlib.import_module("sqlalchemy")
    engine = sqlalchemy.create_engine(told.url.replace("postgresql://", "postgresql+psycopg://"))

    def enqueue() -> None:
        with engine.begin() as connection:
            for call in calls:
                client.enqueue_in_transaction(connection, options, *call)

    peer.timed(enqueue)
    engine.dispose()
    client.destroy()


def work(told: peer.Told) -> None:
    """Let the queue run."""
    _launch(told)
    peer.begin()
    peer.wait()
    DBOS.destroy()


if __name__ == "__main__":
    peer.run(submit=submit, work=work)
