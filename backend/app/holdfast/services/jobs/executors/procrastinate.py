"""Tickets by Procrastinate (extra `procrastinate`): in the PostgreSQL that has the ledger, with no further server."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from holdfast.infrastructure.resilience.clock import SYSTEM
from holdfast.services.jobs.executors._carry import TASK, carried, words_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.services.jobs.executors.tickets import Ticket

_log = logging.getLogger("holdfast.jobs")
# Not one of the schemas of tenants.
_SCHEMA = "tickets_of_holdfast"
_LOOK, _AGAIN = 0.1, 0.5
# Seconds between two looks for tickets nobody was told of, and to wait for a connection.
_POLL, _CONNECT = 1.0, 5.0


class ProcrastinateExecutor:
    """Carry tickets in tables of Procrastinate, in a schema of their own, which is created when it is missing.

    Of a job one ticket waits at most. `url` is that of a PostgreSQL store. ValueError for another, when it is used
    psycopg.Error.
    """

    def __init__(self, url: str, *, queue: str = "holdfast") -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"postgresql", "postgres"}:
            raise ValueError(
                "Procrastinate carries tickets in PostgreSQL: keep the jobs there, postgresql://…"
            )
        words = [(name, value) for name, value in parse_qsl(parts.query) if name != "pooled"]
        self._url = parts._replace(query=urlencode(words)).geturl()
        self._queue = queue
        self._lock = threading.Lock()
        self._app: Any = None

    def submit(self, ticket: Ticket) -> bool:
        """Send a ticket, unless one of its job waits; return whether it was sent."""
        from procrastinate.exceptions import AlreadyEnqueued

        task = self._opened().configure_task(
            TASK, queue=self._queue, queueing_lock=self._lock_of(ticket), priority=-ticket.priority
        )
        try:
            task.defer(**words_of(ticket))
        except AlreadyEnqueued:
            return False
        return True

    def cancel(self, ticket: Ticket) -> int:
        """Take back what waits of a ticket's job."""
        manager = self._opened().job_manager
        waiting = manager.list_jobs(queueing_lock=self._lock_of(ticket), status="todo")
        return sum(manager.cancel_job_by_id(job.id, delete_job=True) for job in waiting)

    def work(self, take: Callable[[Ticket], None], *, at_once: int, stop: threading.Event) -> None:
        """Give each ticket to `take`, in threads, `at_once` at most, until `stop` is set and those have ended."""
        with ThreadPoolExecutor(at_once, thread_name_prefix="holdfast-ticket") as pool:
            while not stop.is_set():
                try:
                    self._opened()
                    asyncio.run(self._work(take, pool, at_once, stop))
                except Exception as error:
                    _log.warning("tickets cannot be fetched, trying again: %r", error)
                SYSTEM.wait(stop, _AGAIN)

    def close(self) -> None:
        """Give back connections; calling it again does nothing."""
        with self._lock:
            if self._app is not None:
                self._app.close()
                self._app = None

    def _lock_of(self, ticket: Ticket) -> str:
        return f"{self._queue}/{ticket.tenant}/{ticket.job}"

    def _settings(self, size: int) -> dict[str, Any]:
        options = {"options": f"-c search_path={_SCHEMA}", "prepare_threshold": None}
        return {
            "conninfo": self._url,
            "kwargs": options,
            "min_size": 1,
            "max_size": size,
            "timeout": _CONNECT,
        }

    def _opened(self) -> Any:
        """Return an app to send with, once the tables are there."""
        import procrastinate

        with self._lock:
            if self._app is None:
                _create(self._url)
                app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(**self._settings(2)))
                app.open()
                self._app = app
            return self._app

    async def _work(
        self, take: Callable[[Ticket], None], pool: ThreadPoolExecutor, at_once: int, stop: threading.Event
    ) -> None:
        import procrastinate

        app = procrastinate.App(connector=procrastinate.PsycopgConnector(**self._settings(4)))
        loop = asyncio.get_running_loop()

        async def carry(**words: Any) -> None:
            await loop.run_in_executor(pool, carried, take, words)

        app.task(name=TASK)(carry)
        async with app.open_async():
            await _clear(app)
            worker = asyncio.ensure_future(
                app.run_worker_async(
                    queues=[self._queue],
                    concurrency=at_once,
                    delete_jobs="always",
                    fetch_job_polling_interval=_POLL,
                    # The threads are waited for, not their tickets.
                    shutdown_graceful_timeout=0,
                    install_signal_handlers=False,
                )
            )
            while not (stop.is_set() or worker.done()):
                await asyncio.wait([worker], timeout=_LOOK)
            worker.cancel()
            with suppress(asyncio.CancelledError):
                await worker


async def _clear(app: Any) -> None:
    """Delete the tickets that dead workers had."""
    for job in await app.job_manager.get_stalled_jobs(task_name=TASK):
        await app.job_manager.finish_job_by_id_async(job.id, status="failed", delete_job=True)


def _create(url: str) -> None:
    """Create the tables of Procrastinate if they are missing."""
    import psycopg
    from procrastinate.schema import SchemaManager

    with psycopg.connect(url, connect_timeout=int(_CONNECT)) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (_SCHEMA,))
        found = connection.execute("SELECT to_regclass(%s)", (f"{_SCHEMA}.procrastinate_jobs",)).fetchone()
        if found is not None and found[0] is not None:
            return
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
        connection.execute(f"SET LOCAL search_path = {_SCHEMA}")
        connection.execute(SchemaManager.get_schema())
