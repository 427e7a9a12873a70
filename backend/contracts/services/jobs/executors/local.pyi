"""Tickets within one process."""

import threading
from collections.abc import Callable

from holdfast.services.jobs.executors.tickets import Ticket

class LocalExecutor:
    """Carry tickets to the workers of this process, those of jobs with the higher priority first."""

    def __init__(self) -> None: ...
    def submit(self, ticket: Ticket) -> bool:
        """Send a ticket."""
    def cancel(self, ticket: Ticket) -> int:
        """Take back what waits of a ticket's job."""
    def work(self, take: Callable[[Ticket], None], *, at_once: int, stop: threading.Event) -> None:
        """Give each ticket to `take`, in threads, `at_once` at most, until `stop` is set and those have ended."""
    def close(self) -> None:
        """Give back nothing."""
