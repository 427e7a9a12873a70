"""Bulkhead: at most so many calls at once, so that one slow dependency cannot take every thread or task."""

from __future__ import annotations

from math import inf

from holdfast.infrastructure.resilience import _bulkhead
from holdfast.infrastructure.resilience._bus import bus, emit
from holdfast.infrastructure.resilience._frozen import Faults, Frozen, refuse_bare
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from holdfast.infrastructure.resilience._bounds import Bounds
    from holdfast.infrastructure.resilience._compile import Code

_MOST = 1_000_000


class BulkheadConfig(Frozen):
    """The settings of a `Bulkhead`, validated: frozen, keyword-only, comparable."""

    __slots__ = ("clock", "limit", "max_wait", "name", "queue")

    limit: int
    queue: int
    max_wait: float | None
    name: str | None
    clock: Clock | None

    def __init__(
        self,
        *,
        limit: int,
        queue: int = 0,
        max_wait: float | None = None,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        faults = Faults("Bulkhead")
        faults.number("limit", limit, 1, _MOST, whole=True)
        faults.number("queue", queue, 0, _MOST, whole=True)
        faults.number("max_wait", max_wait, 0, 86_400, optional=True)
        faults.check(
            not max_wait or queue != 0,
            "max_wait",
            max_wait,
            "bounds a wait that there is not: queue is 0",
            "give queue, how many calls may wait, or leave max_wait out",
        )
        faults.check(name is None or _is(name, str), "name", name, "is not text", "give a str or None")
        faults.check(clock is None or _is(clock, Clock), "clock", clock, "is no Clock", "give one or None")
        faults.finish()
        self._set(limit=limit, queue=queue, max_wait=max_wait, name=name, clock=clock)


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind)


class Bulkhead(Policy):
    """Let at most `limit` calls run at once and `queue` more wait, in order, for at most `max_wait` seconds.

    The deadline around the call bounds the wait too; a place that becomes free only at the bound comes too late.
    Raises BulkheadFullError. Safe to share between threads and tasks, which wait in one queue. A forked child
    begins with every place free. Source: Nygard, "Release It!", Bulkheads.
    """

    __slots__ = ("_gate",)

    def __init__(
        self,
        limit: int,
        *,
        queue: int = 0,
        max_wait: float | None = None,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        config = BulkheadConfig(limit=limit, queue=queue, max_wait=max_wait, name=name, clock=clock)
        self._gate = _bulkhead.Gate(config)

    @property
    def config(self) -> BulkheadConfig:
        """The settings; the limit is the one it began with."""
        return self._gate.config

    @property
    def name(self) -> str | None:
        """The name in events and errors."""
        return self._gate.config.name

    @property
    def limit(self) -> int:
        """How many calls may run at once now."""
        return self._gate.places.limit

    @property
    def running(self) -> int:
        """How many places are taken; above `limit` for a while after it was lowered."""
        places = self._gate.places
        with places.lock:
            return places.running

    @property
    def waiting(self) -> int:
        """How many calls wait for a place."""
        return len(self._gate.places.waiters)

    @property
    def rejected(self) -> int:
        """How many calls were refused, at once or after a wait in vain."""
        return self._gate.rejected

    def resize(self, limit: int) -> None:
        """Change the limit now: a higher one admits who waits, a lower one interrupts nobody. Never blocks.

        ConfigurationError for a limit that the constructor would refuse.
        """
        faults = Faults("Bulkhead")
        faults.number("limit", limit, 1, _MOST, whole=True)
        faults.finish()
        old = self._gate.places.resize(limit)
        if bus.entries and old != limit:
            emit("LimitChanged", self.name or "bulkhead", policy="bulkhead", old=old, new=limit)

    def __repr__(self) -> str:
        """Show the limit there is now, and the settings."""
        config = self.config
        return (
            f"Bulkhead({self.limit}, queue={config.queue}, max_wait={config.max_wait!r}, name={self.name!r})"
        )

    def __enter__(self) -> None:
        """Take a place for the block."""
        gate = self._gate
        if not gate.places.take():
            _bulkhead.enter(gate, None, ())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give a place back: they are all alike."""
        self._gate.places.give()

    async def __aenter__(self) -> None:
        """Take a place for the block."""
        gate = self._gate
        if not gate.places.take():
            await _bulkhead.enter_async(gate, None, ())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give a place back: they are all alike."""
        self._gate.places.give()

    def _keeps_state(self) -> bool:
        return True

    def _shape(self) -> tuple[Any, ...]:
        return ("bulkhead", _bulkhead.PLAIN)

    def _bind(self) -> dict[str, Any]:
        return {"g": self._gate}

    def _emit(self, code: Code, at: int, inner: Callable[[], None]) -> None:
        wait = f"_wait_for_place{'_async' * code.is_async}"
        free = f"if _p{at}.free > 0: _p{at}.free -= 1" if _bulkhead.PLAIN else f"if _take_place(_p{at}): pass"
        code.line(f"_p{at} = _g{at}.places")
        # Each on one line, so that no debugger stops between look and leap.
        code.line(free)
        code.line(f"else: _p{at} = {code.await_}{wait}(_g{at}, _stack, {code.signature.args})")
        with code.block("try:"):
            inner()
        with code.block("finally:"):
            _emit_return(code, at)

    def _bounds(self, inner: Bounds) -> Bounds:
        config = self.config
        longest = inf if config.max_wait is None else config.max_wait
        return inner.after(longest if config.queue else 0.0).raising("BulkheadFullError")


def _emit_return(code: Code, at: int) -> None:
    if not _bulkhead.PLAIN:
        code.line(f"_give_place(_p{at})")
        return
    code.line(f"_p{at}.free += 1")
    with code.block(f"if _p{at}.free < 0:"):
        code.line(f"_serve_places(_p{at})")


def bulkhead(
    limit: int,
    *,
    queue: int = 0,
    max_wait: float | None = None,
    name: str | None = None,
    clock: Clock | None = None,
) -> Bulkhead:
    """Return a `Bulkhead`, to decorate with or as a `with` / `async with` block."""
    refuse_bare(limit, "@bulkhead(10)")
    return Bulkhead(limit, queue=queue, max_wait=max_wait, name=name, clock=clock)
