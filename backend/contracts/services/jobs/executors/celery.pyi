"""Tickets by Celery (extra `celery`), over RabbitMQ or Redis."""

import threading
from collections.abc import Callable

from holdfast.services.jobs.executors.tickets import Ticket

class CeleryExecutor:
    """Carry tickets over a broker, `amqp://…` or `redis://…`. ValueError for another."""

    def __init__(self, broker: str, *, queue: str = "holdfast") -> None: ...
    def submit(self, ticket: Ticket) -> bool:
        """Send a ticket."""
    def cancel(self, ticket: Ticket) -> int:
        """Take back nothing: brokers cannot be searched, and what waits finds nothing to do."""
    def work(self, take: Callable[[Ticket], None], *, at_once: int, stop: threading.Event) -> None:
        """Give each ticket to `take`, in threads, `at_once` at most, until `stop` is set and those have ended.

        Once at a time in a process.
        """
    def close(self) -> None:
        """Give back connections; calling it again does nothing."""
