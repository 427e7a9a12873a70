"""Tickets within one process."""

from __future__ import annotations

import itertools
import queue
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore
from typing import TYPE_CHECKING

from holdfast.services.jobs.executors._carry import taken

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from holdfast.services.jobs.executors.tickets import Ticket

_LOOK = 0.1


class LocalExecutor:
    """Carry tickets to the workers of this process, those of jobs with the higher priority first."""

    def __init__(self) -> None:
        self._queue: queue.PriorityQueue[tuple[int, int, Ticket]] = queue.PriorityQueue()
        self._numbers = itertools.count()

    def submit(self, ticket: Ticket) -> bool:
        """Send a ticket."""
        self._queue.put((ticket.priority, next(self._numbers), ticket))
        return True

    def cancel(self, ticket: Ticket) -> int:
        """Take back what waits of a ticket's job."""
        with self._queue.mutex:
            waiting = self._queue.queue
            kept = [one for one in waiting if (one[2].tenant, one[2].job) != (ticket.tenant, ticket.job)]
            gone = len(waiting) - len(kept)
            waiting[:] = sorted(kept)
        return gone

    def work(self, take: Callable[[Ticket], None], *, at_once: int, stop: threading.Event) -> None:
        """Give each ticket to `take`, in threads, `at_once` at most, until `stop` is set and those have ended."""
        free = Semaphore(at_once)

        def carry(ticket: Ticket) -> None:
            try:
                taken(take, ticket)
            finally:
                free.release()

        with ThreadPoolExecutor(at_once, thread_name_prefix="holdfast-ticket") as pool:
            while not stop.is_set():
                if not free.acquire(timeout=_LOOK):
                    continue
                try:
                    _, _, ticket = self._queue.get(timeout=_LOOK)
                except queue.Empty:
                    free.release()
                else:
                    pool.submit(carry, ticket)

    def close(self) -> None:
        """Give back nothing."""
