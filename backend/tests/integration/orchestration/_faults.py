"""Ports that crash, or take turns: what may happen between any two calls of a run's store, blobs and target."""

import threading
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any


class Crash(BaseException):
    """The process is gone: nothing that would be cleaned up is."""


class Between:
    """A port of which each call goes through a function that is given the call."""

    def __init__(self, port: Any, through: Callable[[Callable[[], Any]], Any]) -> None:
        self._port, self._through = port, through

    def __getattr__(self, name: str) -> Any:
        """Return a method that goes through the function, or a plain attribute."""
        found = getattr(self._port, name)
        if not callable(found):
            return found

        def called(*args: Any, **named: Any) -> Any:
            return self._through(partial(found, *args, **named))

        return called


class Crashes:
    """Crash before or after the n-th call of all ports together; 0 never does."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.calls, self._at, self._after = 0, at, after

    @property
    def happened(self) -> bool:
        """Whether it has crashed."""
        return 0 < self._at <= self.calls

    def __call__(self, call: Callable[[], Any]) -> Any:
        """Call, or crash."""
        self.calls += 1
        if self.calls != self._at:
            return call()
        if self._after:
            call()
        raise Crash


class Turns:
    """Let threads take turns at every call, in an order that a seed says."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._free = threading.Condition()
        self._waiting: list[int] = []
        self._turn: int | None = None
        self.errors: list[BaseException] = []

    def run(self, *actors: Callable[[], object]) -> None:
        """Run actors until all are done."""
        threads = [threading.Thread(target=self._act, args=(one, actor)) for one, actor in enumerate(actors)]
        self._waiting = list(range(len(actors)))
        self._turn = self._random.choice(self._waiting)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert self.errors == []

    def _act(self, one: int, actor: Callable[[], object]) -> None:
        me.one = one
        with self._free:
            self._free.wait_for(lambda: self._turn == one)
        try:
            actor()
        except BaseException as error:
            self.errors.append(error)
        with self._free:
            self._waiting.remove(one)
            self._turn = self._random.choice(self._waiting) if self._waiting else None
            self._free.notify_all()

    def __call__(self, call: Callable[[], Any]) -> Any:
        """Let somebody else go first, perhaps, then call."""
        with self._free:
            self._turn = self._random.choice(self._waiting)
            self._free.notify_all()
            self._free.wait_for(lambda: self._turn == me.one)
        return call()


me = threading.local()
