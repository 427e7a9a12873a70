"""Cooperative threads: plain functions that take turns with an event loop, one at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, TypeVar

_T = TypeVar("_T")

# Many may wait at once, and the stacks of policies are shallow.
_STACK = 512 * 1024


class _Over(BaseException):
    """The world has ended: unwind."""


class _Worker:
    """A thread that runs one job after another; `baton` is released when it is its turn, `waits` counts its waits."""

    __slots__ = ("baton", "job", "thread", "waits")

    def __init__(self) -> None:
        self.baton = threading.Lock()
        self.baton.acquire()
        self.job: Callable[[], None] | None = None
        self.thread: threading.Thread | None = None
        self.waits = 0


class Threads:
    """The threads of one world; either the loop runs or one of them."""

    def __init__(self) -> None:
        self._home = threading.Lock()
        self._home.acquire()
        self._here = threading.local()
        self._idle: list[_Worker] = []
        self._all: list[_Worker] = []
        self._over = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the world, while it runs."""
        if self._loop is None:
            raise RuntimeError("the world does not run: do this inside World.run()")
        return self._loop

    def inside(self) -> bool:
        """Tell whether this is one of the threads."""
        return getattr(self._here, "worker", None) is not None

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take turns with `loop` from now on."""
        loop.set_debug(False)
        self._loop, self._over = loop, False

    def start(self, function: Callable[[], _T]) -> asyncio.Future[_T]:
        """Call `function` in a thread, soon."""
        future: asyncio.Future[_T] = self.loop.create_future()
        self.loop.call_soon(self._enter, function, future, copy_context())
        return future

    def _enter(self, function: Callable[[], Any], future: asyncio.Future[Any], context: Context) -> None:
        def job() -> None:
            try:
                result = context.run(function)
            except _Over:
                return
            except StopIteration as error:
                self._fail(future, RuntimeError(f"the function raised {error!r}"))
            except BaseException as error:
                self._fail(future, error)
            else:
                if not future.cancelled():
                    future.set_result(result)

        worker = self._idle.pop() if self._idle else self._hire()
        worker.job = job
        self.turn(worker)

    def _fail(self, future: asyncio.Future[Any], error: BaseException) -> None:
        # What unwinds may fail at it, as a lock that it does not hold any more; nobody is left to be told.
        if not (self._over or future.cancelled()):
            future.set_exception(error)

    def _hire(self) -> _Worker:
        worker = _Worker()
        before = threading.stack_size(_STACK)
        try:
            worker.thread = threading.Thread(
                target=self._work, args=(worker,), name=f"lab {len(self._all)}", daemon=True
            )
            worker.thread.start()
        finally:
            threading.stack_size(before)
        self._all.append(worker)
        return worker

    def _work(self, worker: _Worker) -> None:
        self._here.worker = worker
        while True:
            worker.baton.acquire()
            if worker.job is None:
                break
            worker.job()
            worker.job = None
            self._idle.append(worker)
            self._home.release()
        self._home.release()

    def turn(self, worker: _Worker) -> None:
        """Let `worker` run until it waits or ends; from the loop only."""
        worker.baton.release()
        self._home.acquire()

    def _wait(self, worker: _Worker) -> None:
        self._home.release()
        worker.baton.acquire()
        worker.waits += 1
        self._check()

    def _wake(self, worker: _Worker, wait: int) -> None:
        """Let `worker` run if it is still in that wait: it may have been unwound meanwhile."""
        if worker.waits == wait:
            self.turn(worker)

    def _check(self) -> None:
        if self._over:
            raise _Over

    def sleep(self, seconds: float) -> None:
        """Block this thread for `seconds`."""
        self._check()
        worker: _Worker = self._here.worker
        self.loop.call_later(seconds, self._wake, worker, worker.waits)
        self._wait(worker)

    def pause(self, arm: Callable[[Callable[[], None]], object]) -> None:
        """Block this thread until the function that `arm` is given is called, once, from the loop."""
        worker: _Worker | None = getattr(self._here, "worker", None)
        if worker is None:
            raise RuntimeError("only a cooperative thread can pause: start it with World.thread()")
        self._check()
        wait = worker.waits
        arm(lambda: self._wake(worker, wait))
        self._wait(worker)

    def acquire(self, lock: CoopLock) -> None:
        """Block this thread until `lock` is handed to it."""
        self.pause(lambda wake: lock.waiting.append(lambda: self.loop.call_soon(wake)))

    def unwind(self) -> None:
        """End every job that still waits, each in its thread."""
        self._over = True
        for worker in self._all:
            if worker.job is not None:
                self.turn(worker)

    def end(self) -> None:
        """End the threads."""
        for worker in self._all:
            if worker.thread is not None:
                self.turn(worker)
                worker.thread.join()
        self._all, self._idle, self._loop = [], [], None

    def me(self) -> object:
        """Return what tells the runners apart: a thread, or the loop."""
        return getattr(self._here, "worker", None)


class CoopLock:
    """A lock for what runs in the cooperative threads of one world; with `reentrant` its owner may take it again."""

    def __init__(self, threads: Threads, *, reentrant: bool) -> None:
        self._threads = threads
        self._reentrant = reentrant
        self._owner: object = None
        self._depth = 0
        self.waiting: list[Callable[[], object]] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT002  # as threading's
        me = self._threads.me()
        if self._depth and not (self._reentrant and self._owner is me):
            if not blocking or me is None:
                return False
            self._threads.acquire(self)
        else:
            self._depth += 1
        self._owner = me
        return True

    def release(self) -> None:
        if not self._depth:
            raise RuntimeError("release of a lock that nobody holds")
        if self._depth == 1 and self.waiting:
            # Handed on, still taken: nobody gets in between.
            self._owner = None
            self.waiting.pop(0)()
        else:
            self._depth -= 1

    def locked(self) -> bool:
        return self._depth > 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
