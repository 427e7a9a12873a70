"""Scripted faults: functions that fail, hang or dawdle as the script says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf
from typing import Any

from holdfast.infrastructure.resilience.clock import Clock, current_clock

_YEAR = 365 * 86_400.0


class Step:
    """One step of a script: after `latency` seconds (infinite: hang) raise `error`, or return `result`."""

    __slots__ = ("_kind", "error", "latency", "result")
    error: BaseException | None
    result: Any
    latency: float

    def __init__(
        self, *, error: BaseException | None = None, result: Any = None, latency: float = 0.0
    ) -> None:
        if not latency >= 0:
            raise ValueError(f"latency is {latency!r}: give a number of seconds from 0; infinite hangs")
        self.error = error
        self.result = result
        self.latency = latency
        self._kind: type[BaseException] | None = None

    def __repr__(self) -> str:
        return f"Step(error={self.error!r}, result={self.result!r}, latency={self.latency!r})"

    def _play(self) -> Any:
        if self._kind is not None:
            raise self._kind
        if self.error is not None:
            # One instance may be raised many times: its traceback must not grow.
            raise self.error.with_traceback(None)
        return self.result


def fail(error: BaseException | type[BaseException] = ConnectionError, *, after: float = 0.0) -> Step:
    """Raise `error`, after `after` seconds: an instance as it is, of a class a new one each time."""
    if not isinstance(error, type):
        return Step(error=error, latency=after)
    step = Step(error=error(), latency=after)
    step._kind = error
    return step


def succeed(result: Any = "ok", *, after: float = 0.0) -> Step:
    """Return `result`, after `after` seconds."""
    return Step(result=result, latency=after)


def hang() -> Step:
    """Never return: sleep for a year of the clock, unless cancelled."""
    return Step(latency=inf)


class Script:
    """A dependency that plays `steps` one call after another and repeats the last one for ever; thread-safe.

    `script()` is the sync function, `await script.async_()` the async one; they remember any arguments.
    """

    def __init__(self, *steps: Step, clock: Clock | None = None) -> None:
        if not steps:
            raise ValueError("a script needs at least one step: succeed(), fail() or hang()")
        self._steps = steps
        self._clock = clock
        self._lock = threading.Lock()
        self._log: list[tuple[float, tuple[Any, ...], dict[str, Any]]] = []

    @property
    def calls(self) -> int:
        """How often it was called."""
        return len(self._log)

    @property
    def arguments(self) -> tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]:
        """The arguments of every call, in order."""
        with self._lock:
            return tuple((args, kwargs) for _, args, kwargs in self._log)

    @property
    def times(self) -> tuple[float, ...]:
        """When each call came, monotonic seconds of its clock."""
        with self._lock:
            return tuple(at for at, _, _ in self._log)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Play the next step."""
        clock, step = self._next(args, kwargs)
        if step.latency > 0:
            clock.sleep(min(step.latency, _YEAR))
        return step._play()

    async def async_(self, *args: Any, **kwargs: Any) -> Any:
        """Play the next step asynchronously."""
        clock, step = self._next(args, kwargs)
        if step.latency > 0:
            await clock.asleep(min(step.latency, _YEAR))
        return step._play()

    def function(self) -> Callable[..., Any]:
        """Return a plain sync function that plays the script, to decorate."""

        def scripted(*args: Any, **kwargs: Any) -> Any:
            return self(*args, **kwargs)

        return scripted

    def coroutine_function(self) -> Callable[..., Any]:
        """Return an `async def` function that plays the script, to decorate."""

        async def scripted(*args: Any, **kwargs: Any) -> Any:
            return await self.async_(*args, **kwargs)

        return scripted

    def _next(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Clock, Step]:
        clock = self._clock or current_clock()
        with self._lock:
            step = self._steps[min(len(self._log), len(self._steps) - 1)]
            self._log.append((clock.monotonic(), args, kwargs))
        return clock, step
