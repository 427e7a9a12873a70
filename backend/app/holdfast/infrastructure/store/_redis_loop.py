"""The way to one Redis through a client that is awaited: a task on the loop that uses it, while there is work."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from contextvars import Context
from types import coroutine
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.store._redis_link import COMMAND, LAST_WORDS, Job, Link, refused

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Generator


class LoopLink(Link):
    """A client that is awaited, and the task that sends: it begins with a job and ends with the last one.

    A client belongs to the loop where it is used first, for as long as that loop runs. What other threads have to say
    is sent there too. While no loop runs, it is kept for the next.
    """

    awaited = True

    def renew(self) -> None:
        """Begin anew, without a loop."""
        super().renew()
        self._jobs: deque[Job | Future[Any]] = deque()
        self._loop: AbstractEventLoop | None = None
        # Who sends now: a task, known by an object of its own until it is made; and what it sends.
        self._sender: object = None
        self._task: Task[None] | None = None
        self._sending: Job | None = None

    @property
    def jobs(self) -> deque[Job | Future[Any]]:
        """What is still to be sent."""
        return self._jobs

    def mark(self) -> Future[Any]:
        """Return what is done when all is done that was sent before; at once, loop or not, if nothing was."""
        if self._jobs or self._sender is not None:
            return super().mark()
        done: Future[Any] = Future()
        done.set_result(None)
        return done

    def _put(self, job: Job | Future[Any]) -> None:
        self._jobs.append(job)
        here = _running()
        if self._loop is None or not self._loop.is_running():
            if here is None:
                return
            self._move(here)
        if self._sender is None and self._loop is not None:
            self._sender = me = object()
            # Not at once: this may be the garbage collector, with any lock held.
            start = self._loop.call_soon if self._loop is here else self._loop.call_soon_threadsafe
            try:
                start(self._start, me)
            except RuntimeError:
                self._sender = None  # the loop has just ended

    def _move(self, loop: AbstractEventLoop) -> None:
        """Send on another loop from now on; what the old one was about to say is lost with it."""
        abandoned, self._sending = self._sending, None
        self._loop, self._sender = loop, None
        if abandoned is not None:
            abandoned.lose(RuntimeError("the event loop that was asking Redis does not run any more"))

    def _start(self, me: object) -> None:
        if self._sender is not me or self._loop is None:
            return
        work = self._work(me)
        # Begun before it is a task: one that is cancelled before its first step would not say the rest.
        work.send(None)
        # Nothing of the call that happens to send first, such as its deadline, holds for what is sent.
        self._task = task = self._loop.create_task(work, name="holdfast-redis", context=Context())
        # A loop may end without cancelling this, or while it cancels others: no complaint of a destroyed task then.
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    async def _work(self, me: object) -> None:
        try:
            await _begun()
            await self._send_all(me)
        except asyncio.CancelledError:
            if self._sender is me:
                await self._say_the_rest()
            raise
        finally:
            if self._sender is me:
                self._sender = None

    async def _send_all(self, me: object) -> None:
        while self._sender is me:
            try:
                job = self._jobs.popleft()
            except IndexError:
                self._sender = None
                if not self._take_up(me):
                    return
                continue
            await self._run(job)

    def _take_up(self, me: object) -> bool:
        """Go on if somebody sent in the last moment and took this task for a living one."""
        if self._jobs and self._sender is None:
            self._sender = me
            return True
        return False

    async def _run(self, job: Job | Future[Any]) -> None:
        if not isinstance(job, Job):
            job.set_result(None)
            return
        self._sending = job
        try:
            job.finish(await self._ask(job))
        finally:
            job.finish(None)
        self._sending = None

    async def _say_the_rest(self) -> None:
        """Send what others need to know, for the loop ends; a command that was cut off may be sent twice."""
        rest = [] if self._sending is None else [self._sending]
        marks: list[Future[Any]] = []
        while self._jobs:
            job = self._jobs.popleft()
            rest += [job] if isinstance(job, Job) else []
            marks += [] if isinstance(job, Job) else [job]
        try:
            async with asyncio.timeout(LAST_WORDS):
                for job in rest:
                    if job.report:
                        await self._ask(job)
        except TimeoutError:
            pass
        finally:
            for job in rest:
                job.finish(None)
            for mark in marks:
                mark.set_result(None)

    async def _ask(self, job: Job) -> Any:
        try:
            job.check_age()
            async with self.circuit, asyncio.timeout(COMMAND):
                reply = await self._reply(job)
        except Exception as error:
            return self._lost(job, error)
        return self._heard(job, reply)

    async def _reply(self, job: Job) -> Any:
        try:
            return await self._script(keys=job.keys, args=job.args)
        except Exception as error:
            if refused(error):
                return error
            raise


@coroutine
def _begun() -> Generator[None, None, None]:
    yield


def _running() -> AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
