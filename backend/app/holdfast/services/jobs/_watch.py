"""What a worker looks after besides its calls: dead workers, limits, cancelled jobs, reviews, who wants to be told."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from holdfast.infrastructure.resilience.clock import Clock, current_clock
from holdfast.infrastructure.store import _boundaries
from holdfast.infrastructure.store.state import (
    JOB_CHANGES,
    JOB_ENDS,
    BatchState,
    JobState,
    LeaseLostError,
    StepState,
    StoreVersionError,
)
from holdfast.services.jobs import _breakers, _process, _review
from holdfast.services.jobs._pages import all_jobs
from holdfast.services.jobs._write_back import Drain
from holdfast.services.jobs.errors import HandlerNotFoundError
from holdfast.services.jobs.notify import Ended

if TYPE_CHECKING:
    from holdfast.infrastructure.store.state import JobRecord, StateStore
    from holdfast.services.jobs._engine import Engine
    from holdfast.services.jobs.handlers import Handler
    from holdfast.services.jobs.notify import Notifier

_log = logging.getLogger("holdfast.jobs")
# Seconds between two looks for dead workers and passed limits, and between two tries to write back.
_PATROL = 0.5
_WRITE = 1.0
# How long one question to a handler may take before somebody else may ask.
LOCKED = 60.0
# Of the time that passes, the share that goes into writing back is one of so many.
_RARELY = 20
_OPEN = [state for state, to in JOB_CHANGES.items() if to]
_BATCH_ENDS = {BatchState.SUCCEEDED, BatchState.FAILED, BatchState.PARTIALLY_FAILED, BatchState.CANCELLED}


class Watch:
    """The duties of a worker that no call waits for. Whatever goes wrong here is logged and tried again."""

    def __init__(self, engine: Engine, notifier: Notifier | None) -> None:
        self._engine = engine
        self._store = engine.store
        self._notifier = notifier
        self._link = engine.new_link("watch")
        self._told = engine.new_link("told")
        self._noted = _breakers.Noted(engine.store)
        self._patrol_at = 0.0
        self._write_link = engine.new_link("write")
        self._drain = Drain(engine.store)
        self._asked: set[tuple[str, int, int]] = set()
        self._asking = asyncio.Lock()
        self._over = asyncio.Event()
        engine.ask_about = self._settle
        # When the results of a job may be written back next, on the loop's time.
        self._write_at: dict[str, float] = {}
        self._writing: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Look for what a crash left, before anything else."""
        if self._engine.is_hand:
            return
        await self._patrol()
        self._engine.doubtful |= set(await self._link.ask(self._unclear))
        await self._settle_doubts()

    async def run(self) -> None:
        """Look after everything, again and again, until told that it is over."""
        while not await self._rest():
            try:
                await self.round()
            except StoreVersionError as error:
                self._engine.failure = error
                self._engine.wake()
                return
            except Exception:
                _log.exception("a worker's look around failed; it tries again")

    async def _rest(self) -> bool:
        """Wait for the next round; return whether there is none."""
        try:
            async with asyncio.timeout(self._engine.config.poll):
                return await self._over.wait()
        except TimeoutError:
            return False

    async def round(self) -> None:
        """Look once."""
        engine = self._engine
        engine.give_up()
        engine.wake()
        for job in await self._link.ask(self._records, self._busy_jobs()):
            engine.steer(job)
        if engine.loop.time() >= self._patrol_at and not engine.is_hand:
            await self._patrol()
        await self._settle_doubts()
        await self._note_breakers()
        await self.tell()
        if not engine.is_hand and (self._writing is None or self._writing.done()):
            self._writing = asyncio.ensure_future(self._write_due())

    async def _note_breakers(self) -> None:
        """Let those who watch from elsewhere know of breakers that changed."""
        for job, spec in list(self._engine.books.specs.items()):
            now = _breakers.states(spec.handler)
            if self._noted.is_news(job, now):
                await self._link.ask(self._noted.note, job, now)

    async def finish(self) -> None:
        """Write back what the one job still owes, as long as there is hope and nobody wants to stop."""
        job = self._engine.config.job
        if job is None or self._engine.is_hand:
            return
        if self._writing is not None:
            await asyncio.wait([self._writing])
        while not self._engine.stops and job in await self._link.ask(self._store.owing):
            due_in = await self._write(job)
            if due_in > 0:
                await current_clock().asleep(due_in)

    async def _write_due(self) -> None:
        """Write back what jobs owe; rarely for what takes long, since a file is written whole each time."""
        only, now = self._engine.config.job, self._engine.loop.time()
        for job in await self._link.ask(self._store.owing):
            if only in {None, job} and self._write_at.get(job, 0.0) <= now:
                await self._write(job)

    async def _write(self, name: str) -> float:
        """Write back the results of one job; return the seconds until the next try, 0 if nothing waits."""
        began = self._engine.loop.time()
        try:
            job = await self._link.ask(self._store.job, name)
            done = await self._write_link.once(self._drain.drain, job, self._engine.id)
            due_in = max(0.0, done.due_at - self._store.now()) if done.waiting else 0.0
        except Exception:
            _log.exception("writing back results of job %s failed; it is tried again", name)
            due_in = _WRITE
        took = self._engine.loop.time() - began
        self._write_at[name] = began + took + max(due_in, _WRITE, _RARELY * took)
        return due_in

    async def close(self, rounds: asyncio.Task[None]) -> None:
        """End after the round that is under way, which is cut short for who was told twice; tell who waits for it."""
        self._over.set()
        while not rounds.done():
            if self._engine.stops > 1:
                rounds.cancel()
            await asyncio.wait([rounds], timeout=0.1)
        if self._engine.stops:
            self._engine.be_impatient()
        if self._engine.stops <= 1:
            await self._settle_doubts()
        await self.tell()
        if self._writing is not None:
            await asyncio.wait([self._writing])
        self._write_link.close()
        self._link.close()
        self._told.close()

    def _busy_jobs(self) -> set[str]:
        engine = self._engine
        return {one.step.job for one in (*engine.caller.active, *engine.announced)}

    def _records(self, jobs: set[str]) -> list[JobRecord]:
        return [self._store.job(job) for job in jobs]

    async def _patrol(self) -> None:
        self._patrol_at = self._engine.loop.time() + _PATROL
        ended, doubtful, moved = await self._link.ask(patrol, self._store, self._engine.config.grace)
        self._engine.ended.update(ended)
        self._engine.doubtful |= doubtful
        if moved:
            self._engine.wake()
            if self._engine.errand is not None:
                self._engine.errand.more(0.0)

    def _unclear(self) -> list[str]:
        """Return the jobs with steps that need review."""
        only = self._engine.config.job
        found = [self._store.job(only)] if only is not None else all_jobs(self._store, _OPEN)
        return [job.id for job in found if job.counts.needs_review]

    async def _settle_doubts(self) -> None:
        """Ask about steps that need review; what comes into doubt meanwhile has its turn next time."""
        doubtful, self._engine.doubtful = self._engine.doubtful, set()
        for job in doubtful:
            if not await self._settle(job):
                self._engine.doubtful.add(job)

    async def _settle(self, job: str) -> bool:
        """Ask about the steps of one job, unless somebody else does so now; return whether that was done."""
        done = True
        try:
            async with self._asking:
                done = await self._reconcile(job)
        except Exception:
            _log.exception("steps of job %s could not be reconciled; a person has to resolve them", job)
        self._engine.wake()
        return done

    async def _reconcile(self, name: str) -> bool:
        """Ask about the steps of one job; return whether that was done, not while somebody else does so."""
        job = await self._link.ask(self._store.job, name)
        try:
            handler = self._engine.handlers.find(job.new.handler, str(job.new.settings.get("reference", "")))
        except HandlerNotFoundError:
            return True
        if not handler.can_reconcile:
            return True
        lock = await self._link.ask(self._store.acquire, lock_of(name), self._engine.id, LOCKED)
        if lock is None:
            return False
        await self._ask_about(job, handler)
        await self._link.ask(self._store.unlock, lock)
        now = await self._link.ask(self._store.job, name)
        if job.state not in JOB_ENDS and now.state in JOB_ENDS:
            self._engine.ended[name] = now.state
        return True

    async def _ask_about(self, job: JobRecord, handler: Handler) -> None:
        """Ask about each step that needs review and was not asked about here before."""
        for step in await self._link.ask(lambda: self._store.steps(job.id, states=[StepState.NEEDS_REVIEW])):
            mark = (step.job, step.position, step.fence)
            if mark not in self._asked:
                self._asked.add(mark)
                answer = await _review.ask(handler, step, self._engine.caller.call)
                await self._link.ask(_review.decide, self._store, job, step, answer)
                await self._link.ask(self._store.acquire, lock_of(job.id), self._engine.id, LOCKED)

    async def tell(self) -> None:
        """Tell the notifier what has ended."""
        while self._engine.ended:
            job, _ = self._engine.ended.popitem()
            if self._notifier is not None:
                await self._told.once(tell, self._store, self._notifier, job)


def lock_of(job: str) -> str:
    """Return the name of the lock of whoever asks about a job's steps: an answer is acted upon before the next."""
    return f"reconciliation of {job}"


def patrol(store: StateStore, grace: float = 5.0) -> tuple[dict[str, JobState], set[str], bool]:
    """Take from dead workers and end what is past its limit: jobs that ended, those with doubtful steps, any change."""
    gone = _process.gone(store.workers())
    recovered = store.recover(gone)
    # Later than a worker that lives would give its own call up.
    swept = store.sweep(slack=grace + 2 * _PATROL)
    doubtful = {ref.job for ref in recovered.ambiguous}
    return dict(swept.jobs), doubtful, bool(recovered.returned or swept.steps or swept.jobs)


def tell(store: StateStore, notifier: Notifier, job: str) -> None:
    """Tell a notifier that a job has ended; what it does wrong is logged."""
    try:
        record = store.job(job)
        batch = None if record.new.batch is None else store.batch(record.new.batch)
        last = (
            batch if batch is not None and batch.state in _BATCH_ENDS and batch.done == batch.total else None
        )
        notifier.notify(Ended(job=record, batch=last))
    except Exception:
        _log.exception("telling that job %s has ended failed", job)


class Pulse:
    """What keeps a worker's lease alive, and hears when there is news, until it is closed.

    In threads of its own, so that a handler that blocks the loop costs no lease; on a clock that is not the system's,
    where threads that wait for nothing in particular would hold up time, on the loop.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._done = threading.Event()
        self._link = engine.new_link("lease")
        self._threads: list[asyncio.Future[None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Begin to beat."""
        if type(current_clock()) is not Clock:
            self._tasks.append(asyncio.ensure_future(self._beat_on_loop()))
            return
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="holdfast-lease")
        duties = [self._beat] if self._engine.config.job is not None else [self._beat, self._listen]
        self._threads = [self._engine.loop.run_in_executor(self._pool, duty) for duty in duties]
        self._pool.shutdown(wait=False)

    async def close(self) -> None:
        """Stop."""
        self._done.set()
        await stopped(*self._tasks)
        await asyncio.gather(*self._threads)
        self._link.close()

    def _beat(self) -> None:
        wait = self._engine.config.lease / 3
        while not self._done.wait(wait):
            wait = self._renew()

    async def _beat_on_loop(self) -> None:
        wait = self._engine.config.lease / 3
        while True:
            await current_clock().asleep(wait)
            wait = await self._link.once(self._renew)

    def _renew(self) -> float:
        """Prolong the lease; return the seconds until the next time."""
        engine = self._engine
        name = engine.id
        try:
            _boundaries.reach("engine.before_renewal")
            engine.store.renew(name, engine.config.lease)
            _boundaries.reach("engine.after_renewal")
        except LeaseLostError:
            engine.loop.call_soon_threadsafe(_lost, engine, name)
        except Exception as error:
            _log.warning("a worker's lease could not be renewed, trying again: %r", error)
            return engine.config.lease / 10
        return engine.config.lease / 3

    def _listen(self) -> None:
        """Wake the worker when the store says that something is new."""
        engine = self._engine
        while not self._done.is_set():
            try:
                if engine.store.wait(engine.config.poll) and not self._done.is_set():
                    engine.loop.call_soon_threadsafe(engine.wake)
            except Exception as error:
                _log.warning("a worker could not wait for news: %r", error)
                self._done.wait(engine.config.poll)


def _lost(engine: Engine, name: str) -> None:
    # Of a lease that was lost before, and that was noticed, it says nothing.
    if name == engine.id:
        engine.lost = True
        engine.wake()


async def stopped(*tasks: asyncio.Future[None]) -> None:
    """Cancel tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
