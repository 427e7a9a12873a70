"""How a cached call is answered that found nothing fresh: one leader computes, the others wait."""

from __future__ import annotations

import threading

from holdfast.infrastructure.resilience import _degraded
from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience._bus import bus, callback_failed, emit
from holdfast.infrastructure.resilience._cache import Entry, Flight, inside, shared
from holdfast.infrastructure.resilience._twin import twin
from holdfast.infrastructure.resilience.classify import PERMANENT
from holdfast.infrastructure.resilience.deadline import remaining
from holdfast.infrastructure.resilience.errors import TimeoutExceeded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from holdfast.infrastructure.resilience._cache import Node, State
    from holdfast.infrastructure.resilience._compile import Stack


class Call:
    """One call that found nothing fresh."""

    __slots__ = ("args", "depth", "flight", "key", "kwargs", "result", "stack", "state")

    flight: Flight | None
    result: Any

    def __init__(
        self,
        state: State,
        key: Any,
        stack: Stack,
        depth: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.state = state
        self.key = key
        self.stack = stack
        self.depth = depth
        self.args = args
        self.kwargs = kwargs

    @property
    def name(self) -> str:
        """What events call this."""
        return self.state.config.name or self.stack.label(self.args)

    def compute(self) -> Any:
        """Call what lies below."""
        return self.stack.below(self.depth)(*self.args, **self.kwargs)

    def alone(self) -> Any:
        """Call what lies below, for nobody else."""
        _degraded.keep()
        self.count_miss()
        return self.compute()

    def count_miss(self) -> None:
        """Count a call that reaches what lies below."""
        with shared.lock:
            self.state.misses += 1

    def look(self) -> tuple[Entry | None, bool]:
        """Return the entry if it may be used without a call, and whether a call is due."""
        state = self.state
        entry = state.entries.get(self.key)
        if entry is None:
            return None, True
        now = state.now()
        over = now - entry.until
        if over < 0:
            return entry, False
        return (entry, now >= entry.again) if over < state.config.stale_while_revalidate else (None, True)

    def use(self, entry: Entry) -> Any:
        """Answer with an entry, whatever its age."""
        return self.state.hit(entry) if self.state.now() < entry.until else self.serve(entry)

    def joins(self, flight: Flight, me: Node | None) -> bool:
        """Return whether this call, a part of `me`, may wait for a flight: not if that waits for `me`."""
        if me is None:
            return True
        with shared.lock:
            if flight.node.reaches(me):
                return False
            me.needs.append(flight.node)
            return True

    def serve(self, entry: Entry) -> Any:
        """Answer with an entry that is past its time."""
        state = self.state
        state.use(entry)
        with shared.lock:
            state.stale += 1
        _degraded.mark()
        if bus.entries:
            emit("CacheServed", self.name, age=state.now() - entry.born, stale=True)
        return entry.value

    def succeed(self, flight: Flight, result: Any, *, degraded: bool) -> None:
        """End a flight with a result, and keep that unless it is degraded."""
        flight.result, flight.degraded, flight.lone = result, degraded, False
        if degraded:
            self._put_off()
        self.state.land(flight, None if degraded else self._entry(result))

    def _entry(self, result: Any) -> Entry:
        state = self.state
        now = state.now()
        return Entry(self.key, result, now, now + state.shortened(state.config.ttl))

    def fail(self, flight: Flight, error: Exception, *, refresh: bool) -> None:
        """End a flight with an error; others than the leader have to try again if it came past his deadline."""
        # A twin for the others now: whoever the leader's error passes on its way may change it.
        flight.error, flight.twin, flight.stale = error, twin(error), self._instead(error)
        flight.lone = flight.until is not None and ambient.monotonic() >= flight.until
        self._put_off()
        self.state.land(flight)
        if bus.entries and (refresh or flight.stale is not None):
            emit("CacheRefreshFailed", self.name, error=error)

    def _put_off(self) -> None:
        """Let nobody try at once to refresh what could not be refreshed now."""
        state = self.state
        entry = state.entries.get(self.key) if state.config.stale_while_revalidate else None
        if entry is not None:
            state.put_off(entry)

    def _instead(self, error: Exception) -> Entry | None:
        """Return the old entry that answers instead of an error, if there is one and the error is covered."""
        state = self.state
        if not state.config.stale_if_error:
            return None
        entry = state.entries.get(self.key)
        if entry is None or state.now() - entry.until >= state.config.stale_if_error:
            return None
        try:
            return None if state.judge(error) is PERMANENT else entry
        except Exception as raised:  # the user's predicate must not replace the error
            callback_failed(self.name, "predicate", raised)
            return None

    def answer(self, flight: Flight, *, leads: bool) -> Any:
        """Return or raise what came of a flight; whoever did not lead it raises an error of his own."""
        if not leads:
            self._count_coalesced()
        if flight.error is None or flight.twin is None:
            if flight.degraded:
                _degraded.mark()
            return flight.result
        if flight.stale is not None:
            return self.serve(flight.stale)
        error = flight.error if leads else twin(flight.twin)
        try:
            raise error
        finally:
            del error, flight  # or error, traceback and this frame would keep each other

    def late(self, seconds: float) -> Any:
        """Answer when the caller's deadline passed `seconds` after he began to wait."""
        self._count_coalesced()
        error = TimeoutExceeded(max(0.0, seconds), self.state.config.name)
        entry = self._instead(error)
        if entry is not None:
            return self.serve(entry)
        try:
            raise error
        finally:
            del error

    def _count_coalesced(self) -> None:
        with shared.lock:
            self.state.coalesced += 1

    def check(self, result: object) -> None:
        """Refuse a result that only one caller could use."""
        kind = type(result)
        if hasattr(kind, "__await__") or hasattr(kind, "__next__") or hasattr(kind, "__anext__"):
            close: Callable[[], object] | None = getattr(result, "close", None)
            if close is not None and hasattr(kind, "__await__"):
                close()
            raise TypeError(
                f"{self.name} returned a {kind.__name__}, which can be used only once and so cannot be cached: "
                "return what it yields, such as a list, or what awaiting it gives"
            )

    def lead(self, flight: Flight, stale: Entry | None) -> Any:
        """Compute in this thread for all who wait; while `stale` may be served, that is what a failure gives."""
        self.count_miss()
        try:
            result, degraded = self._computed(flight)
        except Exception as error:
            self.fail(flight, error, refresh=stale is not None)
            instead = stale or flight.stale
            if instead is None:
                raise
            return self.serve(instead)
        else:
            self.succeed(flight, result, degraded=degraded)
            return self.serve(stale) if degraded and stale is not None else result
        finally:
            del flight  # or the error that it holds, traceback and this frame would keep each other

    def _computed(self, flight: Flight) -> tuple[Any, bool]:
        me, token, watch = flight.enter(), inside.set(flight.node), _degraded.begin(self.stack, self.depth)
        degraded = True
        try:
            result = self.compute()
            self.check(result)
        finally:
            degraded = _degraded.end(watch)
            inside.reset(token)
            flight.leave(me)
            del flight
        return result, degraded


def fill(
    state: State, key: Any, stack: Stack, depth: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Answer a call that found nothing fresh; without a key it is made alone."""
    call = Call(state, key, stack, depth, args, kwargs)
    if key is None:
        return call.alone()
    while not (_lead(call) or _follow(call)):
        pass
    return call.result


def _lead(call: Call) -> bool:
    """Answer from what is there, or by computing; return False if there is somebody to wait for."""
    state, mine = call.state, Flight(call.key, None)
    mine.done = threading.Event()
    try:
        call.flight = state.board(mine)
        leads = call.flight is mine
        # Not before: a flight that ended meanwhile has left its entry.
        entry, due = call.look()
        if entry is not None and not due:
            call.result = call.use(entry)
        elif leads:
            call.flight = None
            call.result = call.lead(mine, entry)
        elif entry is not None:
            call.result = call.serve(entry)
        else:
            return False
        return True
    finally:
        # Whatever happened: nobody must wait for what nobody computes.
        state.drop(mine)
        if mine.epoch is shared.epoch:
            mine.done.set()
        del mine  # or the error that it holds, traceback and this frame would keep each other


def _follow(call: Call) -> bool:
    """Answer with what comes of another's computation; return False if that was not for all."""
    flight, call.flight, me = call.flight, None, inside.get()
    assert flight is not None  # noqa: S101  # found just before
    if not call.joins(flight, me):
        call.result = call.alone()
        return True
    left = remaining()
    try:
        clock = call.state.config.clock or ambient.clock
        if not clock.wait(flight.done, None if left is None else max(left, 0.0)):
            call.result = call.late(left or 0.0)
        elif flight.lone:
            return False
        else:
            call.result = call.answer(flight, leads=False)
        return True
    finally:
        flight.leave(me)
        del flight
