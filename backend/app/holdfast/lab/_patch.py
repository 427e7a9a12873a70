"""Show a world's time to code that reads the standard library's, for the length of a run."""

from __future__ import annotations

import datetime as dt
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from holdfast.lab._threads import CoopLock, Threads

if TYPE_CHECKING:
    from holdfast.testing.clock import VirtualClock

_DATETIME = dt.datetime
_running = threading.Lock()


class _Kind(type):
    """The class of a `datetime` that takes the real one's instances for its own."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _DATETIME)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _DATETIME)


def _datetime(clock: VirtualClock) -> type[Any]:
    class Virtual(_DATETIME, metaclass=_Kind):
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return _DATETIME(*args, **kwargs)

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return _DATETIME.fromtimestamp(clock.time(), tz)

        @classmethod
        def today(cls) -> Any:
            return cls.now()

        @classmethod
        def utcnow(cls) -> Any:
            return cls.now(dt.UTC).replace(tzinfo=None)

    return Virtual


class _Shadow(ModuleType):
    """A module that has some names of its own, and the others of the module that it shadows."""

    def __init__(self, module: ModuleType, **own: object) -> None:
        super().__init__(module.__name__, module.__doc__)
        self.__dict__.update(own)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class Patch:
    """Replace `time`'s functions everywhere, for the world's runners alone, and more in the modules of `packages`."""

    def __init__(self, clock: VirtualClock, threads: Threads, packages: tuple[str, ...]) -> None:
        self._clock = clock
        self._threads = threads
        self._packages = packages
        self._undo: list[Callable[[], object]] = []
        self._home = 0

    def __enter__(self) -> None:
        if not _running.acquire(blocking=False):
            raise RuntimeError("a world runs already in this process: end it first")
        self._home = threading.get_ident()
        try:
            for package in self._packages:
                # What is imported later would keep this run's functions for good.
                import_module(package)
            functions = {name: self._guarded(name) for name in ("monotonic", "time", "perf_counter", "sleep")}
            for name, function in functions.items():
                self._swap(time, name, function[1])
            self._replace(dict(functions.values()))
        except BaseException:
            self._restore()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        while self._undo:
            self._undo.pop()()
        _running.release()

    def _guarded(self, name: str) -> tuple[Any, Any]:
        """Return a function of `time`, and one that is the clock's for this world's runners and the real one else."""
        real: Any = getattr(time, name)
        virtual: Any = getattr(self._clock, "monotonic" if name == "perf_counter" else name)
        home, inside, ident = self._home, self._threads.inside, threading.get_ident

        def function(*args: Any) -> Any:
            return (virtual if ident() == home or inside() else real)(*args)

        return real, function

    def _replace(self, functions: dict[Any, Any]) -> None:
        """Replace what the modules of the packages have taken from the standard library."""
        virtual = _datetime(self._clock)
        locks = {
            "Lock": partial(CoopLock, self._threads, reentrant=False),
            "RLock": partial(CoopLock, self._threads, reentrant=True),
        }
        swaps: dict[int, Any] = {id(real): function for real, function in functions.items()}
        swaps[id(_DATETIME)] = virtual
        swaps[id(dt)] = _Shadow(dt, datetime=virtual)
        swaps[id(threading)] = _Shadow(threading, **locks)
        swaps |= {id(getattr(threading, name)): lock for name, lock in locks.items()}
        for module in [*self._modules()]:
            for name, value in [*vars(module).items()]:
                if id(value) in swaps:
                    self._swap(module, name, swaps[id(value)])

    def _modules(self) -> Iterator[ModuleType]:
        roots = {package.partition(".")[0] for package in self._packages}
        for name, module in [*sys.modules.items()]:
            if name.partition(".")[0] in roots:
                yield module

    def _swap(self, module: ModuleType, name: str, value: object) -> None:
        self._undo.append(partial(setattr, module, name, getattr(module, name)))
        setattr(module, name, value)
