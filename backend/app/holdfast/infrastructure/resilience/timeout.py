"""Timeout: bound how long a call may take."""

from __future__ import annotations

import sys
from math import inf

from holdfast.infrastructure.resilience._ambient import ambient, hot
from holdfast.infrastructure.resilience._bus import bus, emit
from holdfast.infrastructure.resilience._frozen import Faults, Frozen, refuse_bare
from holdfast.infrastructure.resilience._whose import whose
from holdfast.infrastructure.resilience.classify import PERMANENT, classify
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.deadline import _deadline, _Scope, _tighter
from holdfast.infrastructure.resilience.errors import TimeoutExceeded
from holdfast.infrastructure.resilience.policy import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType, TracebackType
    from typing import Any, Literal, Protocol

    from holdfast.infrastructure.resilience._bounds import Bounds
    from holdfast.infrastructure.resilience._compile import Code

    class _Block(Protocol):
        """One `with` block: the frame that began it, what began there before, and when its time is over."""

        below: _Block | None
        code: CodeType
        place: int
        timeout: Timeout
        when: float

        def is_mine(self) -> bool:
            """Return whether the running thread or task began the block."""
            ...

        def end(self, error: BaseException | None) -> Exception | None:
            """Return what to raise instead of the block's own error, or in spite of its success."""


_MODES = ("cooperative", "thread", "signal")
_LONGEST = 1e9  # 31 years; locks and interval timers cannot count much further


class TimeoutConfig(Frozen):
    """The settings of a `Timeout`, validated: frozen, keyword-only, comparable."""

    __slots__ = ("clock", "name", "seconds", "sync", "workers")

    seconds: float
    sync: Literal["cooperative", "thread", "signal"]
    workers: int
    name: str | None
    clock: Clock | None

    def __init__(
        self,
        *,
        seconds: float,
        sync: Literal["cooperative", "thread", "signal"] = "cooperative",
        workers: int = 32,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        faults = Faults("Timeout")
        faults.number("seconds", seconds, 0, _LONGEST, above=True)
        faults.check(sync in _MODES, "sync", sync, "is no way to bound a sync call", f"give one of {_MODES}")
        faults.number("workers", workers, 1, 1000, whole=True)
        faults.check(name is None or _is(name, str), "name", name, "is not text", "give a str or None")
        faults.check(clock is None or _is(clock, Clock), "clock", clock, "is no Clock", "give one or None")
        faults.finish()
        self._set(seconds=float(seconds), sync=sync, workers=workers, name=name, clock=clock)


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind)


class Timeout(Policy):
    """Bound a call to `seconds`: outside a retry all attempts, inside it each one. Raises TimeoutExceeded.

    Async functions are cancelled. Sync functions cannot be: "cooperative" only sets the deadline that
    `remaining()` tells, "thread" runs them in one of `workers` threads and leaves a late one behind, "signal"
    interrupts them (main thread only).
    """

    __slots__ = ("_blocks", "_config", "_lane")

    def __init__(
        self,
        seconds: float,
        *,
        sync: Literal["cooperative", "thread", "signal"] = "cooperative",
        workers: int = 32,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._config = TimeoutConfig(seconds=seconds, sync=sync, workers=workers, name=name, clock=clock)
        self._lane: Any = None
        self._blocks: dict[int, _Block] = {}

    @property
    def config(self) -> TimeoutConfig:
        """The settings."""
        return self._config

    @property
    def name(self) -> str | None:
        """The name in events and errors."""
        return self._config.name

    def __repr__(self) -> str:
        config = self._config
        return f"Timeout({config.seconds:g}, sync={config.sync!r}, name={config.name!r})"

    def __enter__(self) -> float:
        """Set the deadline and give the tightest one, monotonic seconds."""
        mode = self._config.sync
        if mode == "cooperative":
            return _begin(_CooperativeBlock(self), self, sys._getframe(1))
        if mode == "thread":
            raise TypeError(
                'a block cannot be moved to a thread: decorate a function with Timeout(..., sync="thread")'
            )
        from holdfast.infrastructure.resilience._threads import Bound

        bound = Bound(self)
        bound.arm()
        return _begin(bound, self, sys._getframe(1))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the deadline back; raise TimeoutExceeded if it had passed when the block failed."""
        _end(self, error, sys._getframe(1))

    async def __aenter__(self) -> float:
        """Set the deadline and the timer; give the tightest deadline, monotonic seconds."""
        block: _Block = hot["_arm_block"](self)
        return _begin(block, self, sys._getframe(1))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the deadline back; raise TimeoutExceeded if the timer cancelled the block."""
        _end(self, error, sys._getframe(1))

    def _shape(self) -> tuple[Any, ...]:
        return ("timeout", self._config.sync, self._config.clock is None)

    def _bind(self) -> dict[str, Any]:
        clock = self._config.clock
        return {"p": self, "seconds": self._config.seconds, "now": None if clock is None else clock.monotonic}

    def _emit(self, code: Code, at: int, inner: Callable[[], None]) -> None:
        now = "_now" if self._config.clock is None else f"_now{at}"
        if code.is_async:
            _emit_async(code, at, inner, now)
        elif self._config.sync == "cooperative":
            _emit_cooperative(code, at, inner, now)
        else:
            _emit_apart(code, at, self._config.sync)

    def _bounds(self, inner: Bounds) -> Bounds:
        return inner.within(self._config.seconds).raising("TimeoutExceeded")


def timeout(
    seconds: float,
    *,
    sync: Literal["cooperative", "thread", "signal"] = "cooperative",
    workers: int = 32,
    name: str | None = None,
    clock: Clock | None = None,
) -> Timeout:
    """Return a `Timeout`, to decorate with or as a `with` / `async with` block."""
    refuse_bare(seconds, "@timeout(2.0)")
    return Timeout(seconds, sync=sync, workers=workers, name=name, clock=clock)


def abandoned_workers() -> int:
    """Return how many timed-out functions are still running in threads that nobody waits for."""
    from holdfast.infrastructure.resilience._threads import abandoned

    return abandoned()


def _now(timeout: Timeout) -> float:
    clock = timeout._config.clock
    return ambient.monotonic() if clock is None else clock.monotonic()


def _exceeded(timeout: Timeout, cause: BaseException | None, seconds: float | None = None) -> TimeoutExceeded:
    config = timeout._config
    late = TimeoutExceeded(config.seconds if seconds is None else seconds, config.name)
    late.__cause__ = cause
    return late


def _overran(timeout: Timeout, error: Exception, *, outer_first: bool) -> TimeoutExceeded | None:
    """Return what to raise for a late error; None if it stands.

    It does if a bound around this one was due first and reports, and if it is permanent: late or not, it is an answer,
    which a retry must not take for a timeout.
    """
    if outer_first and isinstance(error, TimeoutExceeded):
        return None
    return None if classify(error) is PERMANENT else _exceeded(timeout, error)


def _timed_out(timeout: Timeout, label: str = "timeout", seconds: float | None = None) -> None:
    if bus.entries:
        config = timeout._config
        emit("CallTimedOut", config.name or label, seconds=config.seconds if seconds is None else seconds)


def _throw(error: Exception | None) -> None:
    if error is not None:
        try:
            raise error
        finally:
            del error  # or error, traceback and this frame would keep each other


def _arm_first(seconds: float, monotonic: Callable[[], float]) -> Any:
    _load_timers()
    return hot["_arm"](seconds, monotonic)


def _arm_block_first(timeout: Timeout) -> Any:
    _load_timers()
    return hot["_arm_block"](timeout)


def _load_timers() -> None:
    # Not before somebody awaits: it imports asyncio.
    from holdfast.infrastructure.resilience import _timers

    hot.update(
        _arm=_timers.arm,
        _arm_block=_timers.arm_block,
        _settle_error=_timers.settle_error,
        _swallowed=_timers.swallowed,
    )


hot.update(
    _arm=_arm_first,
    _arm_block=_arm_block_first,
    _deadline=_deadline,
    _deadline_get=_deadline.get,
    _deadline_reset=_deadline.reset,
    _deadline_set=_deadline.set,
    _overran=_overran,
    _timed_out=_timed_out,
)


def _emit_cooperative(code: Code, at: int, inner: Callable[[], None], now: str) -> None:
    first = f"_outer{at} is not None and _outer{at} <= _until{at}"
    code.line(f"_until{at} = {now}() + _seconds{at}")
    code.line(f"_outer{at} = _deadline_get()")
    code.line(f"_token{at} = _deadline_set(_outer{at} if {first} else _until{at})")
    with code.block("try:"):
        inner()
    with code.block(f"except Exception as _error{at}:"):
        with code.block(f"if {now}() < _until{at}:"):
            code.line("raise")
        code.line(f"_error{at} = _overran(_p{at}, _error{at}, outer_first={first})")
        _emit_raise(code, at)
    with code.block("finally:"):
        code.line(f"_deadline_reset(_token{at})")


def _emit_async(code: Code, at: int, inner: Callable[[], None], now: str) -> None:
    code.line(f"_entry{at} = _arm(_seconds{at}, {now})")
    with code.block("try:"):
        inner()
    with code.block(f"except BaseException as _error{at}:"):
        code.line(f"_error{at} = _settle_error(_entry{at}, _p{at}, _error{at})")
        _emit_raise(code, at)
    with code.block(f"if _entry{at}.token is not None:"):
        code.line(f"_deadline_reset(_entry{at}.token)")
    with code.block("try:"):
        code.line(f"del _entry{at}.entries[_entry{at}]")
    with code.block("except KeyError:"):
        code.line(f"raise _swallowed(_entry{at}, _p{at}, _stack.label({code.signature.args})) from None")


def _emit_raise(code: Code, at: int) -> None:
    # Under the handler's own name, which Python deletes: another would keep error and traceback in a circle.
    with code.block(f"if _error{at} is None:"):
        code.line("raise")
    code.line(f"_timed_out(_p{at}, _stack.label({code.signature.args}))")
    code.line(f"raise _error{at}")


def _emit_apart(code: Code, at: int, mode: str) -> None:
    from holdfast.infrastructure.resilience import _threads

    hot.update(_call_with_thread=_threads.call_in_thread, _call_with_signal=_threads.call_with_signal)
    args, kwargs = code.signature.args, code.signature.kwargs
    inside = f"_p{at}, _stack.below({at + 1}), {args}, {kwargs}, _stack.label({args})"
    code.line(f"_result = _call_with_{mode}({inside})")


# One Timeout serves any number of `with` blocks at once: each is known by the frame that began it.


def _begin(block: _Block, timeout: Timeout, frame: FrameType) -> float:
    blocks, place = timeout._blocks, id(frame)
    block.timeout, block.place, block.code = timeout, place, frame.f_code
    block.below = blocks.get(place)
    blocks[place] = block
    return float(_tighter(inf))


def _end(timeout: Timeout, error: BaseException | None, frame: FrameType) -> None:
    block = timeout._blocks.get(id(frame))
    if block is None or block.code is not frame.f_code:
        block = _find(timeout)
    _remove(block, timeout._blocks)
    _throw(block.end(error))


def _find(timeout: Timeout) -> _Block:
    # An ExitStack begins a block in one frame and ends it in another, and perhaps in another task.
    blocks = [block for top in [*timeout._blocks.values()] for block in _down(top)]
    mine = [block for block in blocks if block.is_mine()]
    if mine or len(blocks) == 1:
        return max(mine or blocks, key=lambda block: block.when)
    raise RuntimeError(f"{timeout!r}: no block of it was begun in this task or thread")


def _down(block: _Block | None) -> Iterator[_Block]:
    while block is not None:
        yield block
        block = block.below


def _remove(block: _Block, blocks: dict[int, _Block]) -> None:
    top, below = blocks[block.place], block.below
    if top is not block:
        above = next(one for one in _down(top) if one.below is block)
        above.below = below
    elif below is None:
        del blocks[block.place]
    else:
        blocks[block.place] = below


class _CooperativeBlock:
    __slots__ = ("below", "code", "place", "scope", "timeout", "when", "whose")

    below: _Block | None
    code: CodeType
    place: int
    timeout: Timeout

    def __init__(self, timeout: Timeout) -> None:
        self.whose = whose()
        self.when = _now(timeout) + timeout._config.seconds
        self.scope = _Scope(self.when)

    def is_mine(self) -> bool:
        return self.whose == whose()

    def end(self, error: BaseException | None) -> TimeoutExceeded | None:
        self.scope.end()
        if not isinstance(error, Exception) or _now(self.timeout) < self.when:
            return None
        late = _overran(self.timeout, error, outer_first=self.scope.outer_first)
        if late is not None:
            _timed_out(self.timeout)
        return late
