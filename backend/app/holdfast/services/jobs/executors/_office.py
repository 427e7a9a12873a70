"""Where a worker sends tickets from: when it has more than it takes, and when a job with work stands still."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from math import ceil, inf
from typing import TYPE_CHECKING

from holdfast.infrastructure.resilience.clock import SYSTEM
from holdfast.infrastructure.store.state import JobState
from holdfast.services.jobs._pages import all_jobs
from holdfast.services.jobs.errors import HandlerNotFoundError
from holdfast.services.jobs.executors.tickets import Ticket

if TYPE_CHECKING:
    from holdfast.infrastructure.store.state import JobRecord, StateStore
    from holdfast.services.jobs.executors.tickets import Executor
    from holdfast.services.jobs.handlers import Handlers

_log = logging.getLogger("holdfast.jobs")
# Seconds between two looks at jobs, and that one may stand still before it gets another ticket, then twice as long.
_LOOK, _STILL, _STILLEST = 0.5, 0.5, 30.0
# Of the time that passes, the share that goes into looks is one of so many, however many jobs there are.
_RARELY = 5
# Tickets that are as good as lost, as where a frozen worker holds them, are followed by others soon; then rarely.
_SOON = 5
# Tickets of a job that a worker sent and did not take itself, until it sends no more ahead of time, so that they do not
# heap up at the broker; and those that a new job gets at most, a ticket's steps for each.
_AHEAD, _FIRST = 4, 4


def has_work(job: JobRecord) -> bool:
    """Return whether steps of a job may be claimed."""
    goes_on = job.state is JobState.RUNNING or (job.state is JobState.PENDING and job.ready)
    return goes_on and not job.halted and job.counts.pending > 0


def ticket_for(store: StateStore, job: JobRecord) -> Ticket:
    """Return a ticket of a job."""
    return Ticket(tenant=store.tenant, job=job.id, priority=job.new.priority)


def send(executor: Executor, store: StateStore, job: JobRecord) -> None:
    """Send tickets of a job that has work; if that fails it is logged, and workers find the job a moment later."""
    if not has_work(job):
        return
    ticket = ticket_for(store, job)
    try:
        for _ in range(min(_FIRST, ceil(job.counts.pending / ticket.steps))):
            executor.submit(ticket)
    except Exception as error:
        _log.warning("no ticket of job %s could be sent, workers find it: %r", job.id, error)


@dataclass(slots=True)
class _Mark:
    """How a job was when it last moved, when that was, and how many tickets it has got since."""

    event: int
    since: float
    sent: int = 0


class Office:
    """Sends tickets, in a thread of its own: an engine may take its time, or be away. Loss costs a moment, no step."""

    def __init__(self, store: StateStore, handlers: Handlers, executor: Executor) -> None:
        self._store = store
        self._handlers = handlers
        self._executor = executor
        self._wake = threading.Event()
        self._over = False
        self._lock = threading.Lock()
        # Tickets to send, and jobs of which nothing may begin here, until a time.
        self._due: dict[str, tuple[float, Ticket]] = {}
        self._pauses: dict[str, float] = {}
        self._ahead: dict[str, int] = {}
        self._urgent = False
        self._marks: dict[str, _Mark] = {}
        self._next_due: float | None = None
        self._away = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="holdfast-tickets")

    def begin(self) -> None:
        """Begin to look after jobs."""
        self._thread.start()

    def close(self) -> None:
        """Send what is to be sent now, and no more."""
        self._over = True
        self._wake.set()
        self._thread.join(2.0)

    def hurry(self, _: float = 0.0) -> None:
        """Look at once: steps were taken back."""
        self._urgent = True
        self._wake.set()

    def send(self, ticket: Ticket, delay: float = 0.0) -> None:
        """Send a ticket, after so many seconds; none of the job is taken here before."""
        at = SYSTEM.monotonic() + delay
        with self._lock:
            if delay:
                self._pauses[ticket.job] = at
            kept = self._due.get(ticket.job)
            if kept is None or at < kept[0]:
                self._due[ticket.job] = (at, ticket)
        self._wake.set()

    def spread(self, ticket: Ticket) -> bool:
        """Send a ticket for others while its job is worked on here, unless enough of them wait; whether it was sent."""
        with self._lock:
            if self._ahead.get(ticket.job, 0) >= _AHEAD:
                return False
        self.send(ticket)
        return True

    def took(self, ticket: Ticket) -> None:
        """Note that a ticket came here."""
        with self._lock:
            self._ahead[ticket.job] = max(0, self._ahead.get(ticket.job, 0) - 1)

    def pauses(self, job: str) -> bool:
        """Return whether nothing of a job may begin here now."""
        with self._lock:
            return self._pauses.get(job, 0.0) > SYSTEM.monotonic()

    def _run(self) -> None:
        look_at = 0.0
        while not self._over:
            now = SYSTEM.monotonic()
            if self._urgent or now >= look_at:
                self._look_well(now)
                took = SYSTEM.monotonic() - now
                look_at = now + max(_LOOK, _RARELY * took)
            pause = min(look_at, self._send_due()) - SYSTEM.monotonic()
            SYSTEM.wait(self._wake, max(0.0, pause))
            self._wake.clear()
        self._send_due()

    def _send_due(self) -> float:
        """Send what is due; return when something else is."""
        with self._lock:
            now = SYSTEM.monotonic()
            due = [ticket for at, ticket in self._due.values() if at <= now]
            for ticket in due:
                del self._due[ticket.job]
            for job in [job for job, until in self._pauses.items() if until <= now]:
                del self._pauses[job]
            later = min((at for at, _ in self._due.values()), default=inf)
        for ticket in due:
            self._submit(ticket)
        return later

    def _submit(self, ticket: Ticket) -> None:
        try:
            sent = self._executor.submit(ticket)
        except Exception as error:
            if not self._away:
                _log.warning("tickets cannot be sent, others will be: %r", error)
            self._away = True
        else:
            self._away = False
            with self._lock:
                # What the engine did not take does not wait there.
                self._ahead[ticket.job] = self._ahead.get(ticket.job, 0) + (sent is not False)

    def _look_well(self, now: float) -> None:
        try:
            self._look(now)
        except Exception as error:
            _log.warning("a look for jobs that stand still failed, trying again: %r", error)

    def _look(self, now: float) -> None:
        """Send a ticket for each job that has work and stands still."""
        urgent, self._urgent = self._urgent, False
        passed = self._next_due is not None and self._store.now() >= self._next_due
        self._next_due = self._store.next_due()
        marks: dict[str, _Mark] = {}
        for job in filter(has_work, all_jobs(self._store, [JobState.PENDING, JobState.RUNNING])):
            mark = self._marks.get(job.id)
            if mark is None or mark.event != job.last_event:
                mark = _Mark(job.last_event, now)
            marks[job.id] = mark
            wait = min(_STILLEST, _STILL * 2 ** max(0, mark.sent - _SOON))
            still = now - mark.since >= wait
            if still:
                # Those that were sent before did not help.
                self._forget(job.id)
            if urgent or passed or still:
                # What could not be sent says nothing about who takes tickets.
                mark.since, mark.sent = now, 0 if self._away else mark.sent + 1
                if not self.pauses(job.id) and self._is_known(job):
                    self.send(ticket_for(self._store, job))
        self._marks = marks
        self._forget(*(self._ahead.keys() - marks.keys()))

    def _forget(self, *jobs: str) -> None:
        with self._lock:
            for job in jobs:
                self._ahead.pop(job, None)

    def _is_known(self, job: JobRecord) -> bool:
        """Return whether workers such as this one can do a job."""
        try:
            self._handlers.find(job.new.handler, str(job.new.settings.get("reference", "")))
        except HandlerNotFoundError:
            return False
        return True
