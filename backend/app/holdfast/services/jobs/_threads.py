"""Threads for calls that nobody can end: none of them keeps a process alive that has nothing else to do."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Threads:
    """Make calls of a loop in threads, `most` at once; how many end together, the loop is woken once for all of them.

    An executor of the standard library makes two futures for each call, wakes the loop for each, and has programs wait
    for its threads when they end.
    """

    def __init__(self, most: int, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        # A loop of virtual time, which must not pass while a thread is at work.
        self._watch: Any = getattr(self._loop, "watch_job", None)
        self._most = most
        self._name = name
        self._calls: SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._ended: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._told = False
        self._lock = Lock()
        self._begun = 0
        self._idle = 0
        self._over = False

    async def call(self, function: Callable[_P, _T], *args: _P.args, **named: _P.kwargs) -> _T:
        """Call a function in a thread."""
        future: asyncio.Future[tuple[Any, BaseException | None]] = self._loop.create_future()
        work: Callable[[], Any] = partial(function, *args, **named)
        if self._watch is not None:
            work, forget = self._watch(work, waits=not self._idle and self._begun >= self._most)
            future.add_done_callback(lambda _: forget())
        try:
            self._put(future, work)
        except RuntimeError:
            future.cancel()
            raise
        result, error = await future
        if error is not None:
            try:
                raise error
            finally:
                del error
        return result  # type: ignore[no-any-return]

    def close(self, *, drop: bool = False) -> None:
        """Take no more calls; with `drop`, begin none. Threads end with the call that they are in."""
        with self._lock:
            self._over = drop
            begun, self._begun, self._most = self._begun, 0, 0
        for _ in range(begun):
            self._calls.put(None)

    def _put(self, future: asyncio.Future[Any], call: Callable[[], Any]) -> None:
        with self._lock:
            if not self._most:
                raise RuntimeError("no more calls are taken")
            waits = self._idle > 0
            self._idle -= waits
            number = self._begun
            begins = not waits and number < self._most
            self._begun += begins
        if begins:
            self._begin(number)
        self._calls.put((future, call))

    def _begin(self, number: int) -> None:
        try:
            Thread(target=self._work, name=f"{self._name}_{number}", daemon=True).start()
        except RuntimeError:
            # The next call tries again: nobody is there to take it.
            with self._lock:
                self._begun -= 1
            raise

    def _work(self) -> None:
        while (one := self._calls.get()) is not None:
            future, call = one
            if not (self._over or future.cancelled()):
                self._end(future, *_outcome(call))
            del one, future, call
            with self._lock:
                self._idle += 1

    def _end(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._ended.append((future, result, error))
        if not self._told:
            self._told = True
            # A loop that is closed has nobody who wants to know.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        # Before it looks: who comes after the last one wakes the loop again.
        self._told = False
        while self._ended:
            future, result, error = self._ended.popleft()
            if not future.done():
                future.set_result((result, error))


def _outcome(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return call(), None
    except BaseException as error:
        return None, error
