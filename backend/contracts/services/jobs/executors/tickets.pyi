"""Tickets, and what carries them to workers."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A hint: this job has work, take up to `steps` of it. One may be lost, doubled or late; the ledger decides."""

    tenant: str
    job: str
    steps: int = 50
    priority: int = 3

class Executor(Protocol):
    """An engine that carries tickets to workers, on other machines too. Safe to share between threads."""

    def submit(self, ticket: Ticket) -> bool:
        """Send a ticket; False if it keeps one of a job at most, and one waits.

        Raises whatever the engine does when it cannot be reached: a later ticket will do.
        """
    def cancel(self, ticket: Ticket) -> int:
        """Take back what waits of a ticket's job, as far as the engine can; return how many. The rest finds nothing."""
    def work(self, take: Callable[[Ticket], None], *, at_once: int, stop: threading.Event) -> None:
        """Give each ticket to `take`, in threads, `at_once` at most, until `stop` is set and those have ended.

        No ticket is held back behind one that is busy. An engine that cannot be reached is waited for.
        """
    def close(self) -> None:
        """Give back connections; calling it again does nothing."""
