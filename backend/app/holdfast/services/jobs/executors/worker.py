"""A worker that an engine gives tickets to."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from holdfast.infrastructure.store.state import NotFoundError
from holdfast.services.jobs._errand import Errand
from holdfast.services.jobs.errors import HandlerNotFoundError
from holdfast.services.jobs.executors._office import Office, has_work
from holdfast.services.jobs.handlers import Handlers
from holdfast.services.jobs.worker import Worker, WorkerConfig, _Signals

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable
    from typing import Literal

    from holdfast.infrastructure.store.state import JobRecord, StateStore
    from holdfast.services.jobs.executors.tickets import Executor, Ticket
    from holdfast.services.jobs.handlers import Call, Function, Handler
    from holdfast.services.jobs.notify import Notifier

_log = logging.getLogger("holdfast.jobs")


class TicketWorker:
    """Execute what tickets say there is, until told to stop: `concurrency` of them at once, a call of each.

    Between them they look after all jobs of the store as a `Worker` does, and send a ticket for each that stands still.
    All handlers run on one loop, or in threads. One worker runs once.
    """

    def __init__(
        self,
        store: StateStore,
        handlers: Handlers | Iterable[Handler | Function | str],
        executor: Executor,
        *,
        concurrency: int = 8,
        record: Literal["each", "group"] = "each",
        lease: float = 15.0,
        drain: float = 30.0,
        grace: float = 5.0,
        poll: float = 0.5,
        name: str = "",
        notifier: Notifier | None = None,
    ) -> None:
        self._config = WorkerConfig(
            concurrency=concurrency,
            record=record,
            lease=lease,
            drain=drain,
            grace=grace,
            poll=poll,
            name=name,
        )
        self._store = store
        self._handlers = handlers if isinstance(handlers, Handlers) else Handlers(handlers)
        self._executor = executor
        self._notifier = notifier
        self._office = Office(store, self._handlers, executor)
        self._caretaker = self._worker(None, 1)
        self._caretaker._errand = Errand(0, self._office.hurry)
        self._hands: set[Worker] = set()
        self._refused: set[str] = set()
        self._stops = 0
        self._signal: signal.Signals | None = None
        self._stop = threading.Event()
        # A signal may strike while it is held.
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def config(self) -> WorkerConfig:
        """The settings, as those of a `Worker`."""
        return self._config

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stops > 0

    @property
    def in_flight(self) -> int:
        """How many calls run now."""
        return sum(hand.in_flight for hand in self._all_hands())

    def run(self, *, signals: bool = True) -> None:
        """Run on a loop of its own. With `signals`, on the main thread, SIGTERM and SIGINT stop it, twice at once."""
        asyncio.run(self.arun(signals=signals))

    async def arun(self, *, signals: bool = False) -> None:
        """Run on the running loop."""
        if self._loop is not None:
            raise RuntimeError("this worker has run already: make another one")
        self._loop = asyncio.get_running_loop()
        with _Signals(self._on_signal if signals else None):
            caretaker = asyncio.ensure_future(self._caretaker.arun())
            self._office.begin()
            try:
                await self._take_tickets(caretaker)
            finally:
                self._caretaker.stop()
                await asyncio.wait([caretaker])
                await asyncio.to_thread(self._office.close)
            caretaker.result()

    async def _take_tickets(self, caretaker: asyncio.Future[None]) -> None:
        pool = ThreadPoolExecutor(1, thread_name_prefix="holdfast-executor")
        work = partial(self._executor.work, self._take, at_once=self._config.concurrency, stop=self._stop)
        working = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(pool, work))
        pool.shutdown(wait=False)
        try:
            await asyncio.wait([working, caretaker], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not working.done():
                self.stop()
                await asyncio.wait([working])
        working.result()

    def stop(self) -> None:
        """Take no more and let calls end; told again, cancel them. From any thread, or a signal."""
        with self._lock:
            self._stops += 1
            self._stop.set()
            hands = list(self._hands)
        for hand in hands:
            hand.stop()

    def _on_signal(self, number: signal.Signals) -> None:
        self._signal = number
        self.stop()

    def _take(self, ticket: Ticket) -> None:
        """Do what a ticket says, in a thread of the engine; it ends when the calls have."""
        self._office.took(ticket)
        job = self._job_of(ticket)
        if job is None or self._loop is None:
            return
        steps = max(1, ticket.steps)
        hand = self._worker(job.id, steps)
        errand = Errand(steps, partial(self._office.send, ticket), partial(self._office.spread, ticket))
        hand._errand = errand
        with self._lock:
            if self._stops:
                self._office.send(ticket)
                return
            self._hands.add(hand)
        try:
            asyncio.run_coroutine_threadsafe(hand.arun(), self._loop).result()
        finally:
            with self._lock:
                self._hands.discard(hand)
            if errand.owes:
                self._office.send(ticket)

    def _job_of(self, ticket: Ticket) -> JobRecord | None:
        """Return the job of a ticket if there is something to do for it here."""
        if ticket.tenant != self._store.tenant:
            _log.warning(
                "a ticket of tenant %s came to a worker of %s: give each tenant a queue of its own",
                ticket.tenant,
                self._store.tenant,
            )
            return None
        try:
            job = self._store.job(ticket.job)
        except NotFoundError:
            return None
        if not has_work(job) or self._office.pauses(job.id):
            return None
        try:
            self._handlers.find(job.new.handler, str(job.new.settings.get("reference", "")))
        except HandlerNotFoundError as error:
            if job.id not in self._refused:
                self._refused.add(job.id)
                _log.warning("a ticket of job %s is dropped: %s", job.id, error)
            return None
        return job

    def _worker(self, job: str | None, ahead: int) -> Worker:
        config = self._config
        return Worker(
            self._store,
            self._handlers,
            concurrency=1,
            ahead=ahead,
            record=config.record,
            lease=config.lease,
            drain=config.drain,
            grace=config.grace,
            poll=config.poll,
            job=job,
            name=config.name,
            notifier=self._notifier,
        )

    def _all_hands(self) -> list[Worker]:
        with self._lock:
            return list(self._hands)

    def _under_way(self) -> list[Call]:
        """Return the calls that have not returned, from any thread."""
        return [call for hand in self._all_hands() for call in hand._under_way()]
