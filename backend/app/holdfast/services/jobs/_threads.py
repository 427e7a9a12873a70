"""Threads for calls that nobody can end: none of them keeps a process alive that has nothing else to do."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Threads(ThreadPoolExecutor):
    """A pool that programs do not wait for when they end, as they do for the threads of its base."""

    def __init__(self, most: int, name: str) -> None:
        super().__init__(most, name)
        self._most = most
        self._name = name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = Lock()
        self._begun = 0
        self._idle = 0
        self._over = False

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have a thread call a function."""
        future: Future[_T] = Future()
        with self._lock:
            if self._over:
                raise RuntimeError("no more calls are taken")
            waits = self._idle > 0
            self._idle -= waits
            number = self._begun
            begins = not waits and number < self._most
            self._begun += begins
        if begins:
            Thread(target=self._work, name=f"{self._name}_{number}", daemon=True).start()
        self._calls.put(lambda: _call(future, fn, *args, **kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT002
        """Take no more calls; threads that are in one end with it, and nobody waits for them."""
        with self._lock:
            self._over = True
            begun = self._begun
        for _ in range(begun):
            self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if not self._over:
                call()
            del call
            with self._lock:
                self._idle += 1


def _call(future: Future[_T], fn: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result: Any = fn(*args, **kwargs)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
