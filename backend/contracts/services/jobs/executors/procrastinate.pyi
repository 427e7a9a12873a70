"""Tickets by Procrastinate (extra `procrastinate`): in the PostgreSQL that has the ledger, with no further server."""

import threading
from collections.abc import Callable

from holdfast.services.jobs.executors.tickets import Ticket

class ProcrastinateExecutor:
    """Carry tickets in tables of Procrastinate, in a schema of their own, which is created when it is missing.

    Of a job one ticket waits at most. `url` is that of a PostgreSQL store. ValueError for another, when it is used
    psycopg.Error.
    """

    def __init__(self, url: str, *, queue: str = "holdfast") -> None: ...
    def submit(self, ticket: Ticket) -> bool:
        """Send a ticket, unless one of its job waits; return whether it was sent."""
    def cancel(self, ticket: Ticket) -> int:
        """Take back what waits of a ticket's job."""
    def work(self, take: Callable[[Ticket], None], *, at_once: int, stop: threading.Event) -> None:
        """Give each ticket to `take`, in threads, `at_once` at most, until `stop` is set and those have ended."""
    def close(self) -> None:
        """Give back connections; calling it again does nothing."""
