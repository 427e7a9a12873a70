"""Procrastinate, for `jobs_peers`: a job for each row."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from benchmarks import _jobs_peer as peer
from benchmarks._jobs import payload

# Any: the type checkers do not need the package.
procrastinate: Any = importlib.import_module("procrastinate")

_AT_ONCE = 1000


def _app(told: peer.Told) -> tuple[Any, Any]:
    # A connection for each lane, and some for what the worker does besides.
    size = told.lanes + 4
    app = procrastinate.App(
        connector=procrastinate.PsycopgConnector(conninfo=told.url, min_size=size, max_size=size)
    )

    @app.task(name="noop")  # type: ignore[untyped-decorator]
    async def noop(row: dict[str, Any]) -> None:
        """Do nothing."""

    @app.task(name="noop_sync")  # type: ignore[untyped-decorator]
    def noop_sync(row: dict[str, Any]) -> None:
        """Do nothing, in a thread."""

    return app, noop_sync if told.options["sync"] else noop


async def _submit(told: peer.Told) -> None:
    app, task = _app(told)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        loop = asyncio.get_running_loop()
        start = loop.time()
        for first in range(0, told.rows, _AT_ONCE):
            rows = range(first, min(first + _AT_ONCE, told.rows))
            await task.batch_defer_async(*({"row": payload(row)} for row in rows))
        peer.tell(seconds=loop.time() - start)


def submit(told: peer.Told) -> None:
    """Defer jobs, a thousand at once."""
    asyncio.run(_submit(told))


async def _work(told: peer.Told) -> None:
    app, _ = _app(told)
    async with app.open_async():
        peer.begin()
        await app.run_worker_async(
            concurrency=told.lanes, wait=False, delete_jobs="never", install_signal_handlers=False
        )


def work(told: peer.Told) -> None:
    """Run a worker until nothing is left."""
    asyncio.run(_work(told))


if __name__ == "__main__":
    peer.run(submit=submit, work=work)
