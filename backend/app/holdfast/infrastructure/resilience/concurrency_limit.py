"""Concurrency limit: find out how many calls at once a dependency can take, and refuse the rest."""

from __future__ import annotations

import sys

from holdfast.infrastructure.resilience import _compile
from holdfast.infrastructure.resilience._frozen import Faults, Frozen
from holdfast.infrastructure.resilience._limits import WARM_UP, RunningAIMD, RunningGradient, State
from holdfast.infrastructure.resilience._standing import Standing
from holdfast.infrastructure.resilience.circuit_breaker import _begin, _end
from holdfast.infrastructure.resilience.classify import TRANSIENT, _check_errors
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import Any, ParamSpec, TypeVar, overload

    from holdfast.infrastructure.resilience._bounds import Bounds
    from holdfast.infrastructure.resilience.classify import Errors
    from holdfast.infrastructure.resilience.permit import Permit

    _P = ParamSpec("_P")
    _T = TypeVar("_T")

else:

    def overload(fn: object) -> object:
        """Stand in for typing.overload, which costs an import."""
        return fn


class Gradient2(Frozen):
    """Follow the latency: `limit * gradient + queue`, smoothed, where gradient is `tolerance * long / short`, 0.5 to 1.

    `short` is the mean latency of a round of calls, `long` its average over `long_window` rounds. A drop takes away
    as much as a gradient of 0.5. Frozen. Source: Netflix concurrency-limits, Gradient2Limit.
    """

    __slots__ = ("long_window", "queue", "smoothing", "tolerance")

    smoothing: float
    queue: int
    tolerance: float
    long_window: int

    def __init__(
        self, *, smoothing: float = 0.2, queue: int = 4, tolerance: float = 1.5, long_window: int = 600
    ) -> None:
        faults = Faults("Gradient2")
        faults.number("smoothing", smoothing, 0, 1, above=True)
        faults.number("queue", queue, 1, 10_000, whole=True)
        faults.number("tolerance", tolerance, 1, 10)
        faults.number("long_window", long_window, WARM_UP, 1_000_000, whole=True)
        faults.finish()
        self._set(
            smoothing=float(smoothing), queue=queue, tolerance=float(tolerance), long_window=long_window
        )

    def _run(self) -> RunningGradient:
        return RunningGradient(self)


class AIMD(Frozen):
    """Add 1 after a round of calls without a drop, multiply by `backoff` at a drop; latency as such is not minded.

    Frozen. Source: Netflix concurrency-limits, AIMDLimit; rounds as in TCP, RFC 5681.
    """

    __slots__ = ("backoff",)

    backoff: float

    def __init__(self, *, backoff: float = 0.9) -> None:
        faults = Faults("AIMD")
        faults.number("backoff", backoff, 0.1, 0.99)
        faults.finish()
        self._set(backoff=float(backoff))

    def _run(self) -> RunningAIMD:
        return RunningAIMD(self)


class StandingQueue(Frozen):
    """No limit until answers stand in a queue: of `calls` calls in succession none was quick, or as many were dropped.

    Not quick is above 0.1 s, `tolerance` times the mean of `memory` seconds, and four deviations over it. First it
    is 1.5 times what is in flight, 3 more at least; each further sign multiplies it by `backoff`, quick answers add 1 a
    round, `lift` seconds lift it; after `probe` seconds without an admission a call is made beyond it. Frozen. Sources:
    CoDel, RFC 8289 (no quick answer for a while, not a high average); RFC 6298 (deviations).
    """

    __slots__ = ("backoff", "calls", "lift", "memory", "probe", "tolerance")

    calls: int
    tolerance: float
    memory: float
    backoff: float
    lift: float
    probe: float

    def __init__(
        self,
        *,
        calls: int = 5,
        tolerance: float = 3.0,
        memory: float = 60.0,
        backoff: float = 0.5,
        lift: float = 10.0,
        probe: float = 2.0,
    ) -> None:
        faults = Faults("StandingQueue")
        faults.number("calls", calls, 2, 1000, whole=True)
        faults.number("tolerance", tolerance, 1, 100)
        faults.number("memory", memory, 1, 86_400)
        faults.number("backoff", backoff, 0.1, 0.99)
        faults.number("lift", lift, 0, 3600, above=True)
        faults.number("probe", probe, 0, 3600, above=True)
        faults.finish()
        self._set(calls=calls, tolerance=float(tolerance), memory=float(memory))
        self._set(backoff=float(backoff), lift=float(lift), probe=float(probe))


_GRADIENT2 = Gradient2()


class ConcurrencyLimitConfig(Frozen):
    """The settings of a `ConcurrencyLimit`, validated: frozen, keyword-only, comparable."""

    __slots__ = (
        "algorithm",
        "clock",
        "initial",
        "max_healthy_latency",
        "max_limit",
        "min_limit",
        "name",
        "on",
        "priority",
    )

    algorithm: Gradient2 | AIMD | StandingQueue
    initial: int | None
    min_limit: int
    max_limit: int
    max_healthy_latency: float | None
    priority: Callable[..., str] | None
    on: Errors
    name: str | None
    clock: Clock | None

    def __init__(
        self,
        *,
        algorithm: Gradient2 | AIMD | StandingQueue = _GRADIENT2,
        initial: int | None = 20,
        min_limit: int = 1,
        max_limit: int = 200,
        max_healthy_latency: float | None = None,
        priority: Callable[..., str] | None = None,
        on: Errors = TRANSIENT,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._set(algorithm=algorithm, initial=initial, min_limit=min_limit, max_limit=max_limit)
        self._set(max_healthy_latency=max_healthy_latency, priority=priority, on=on, name=name, clock=clock)
        self._validate()

    def _validate(self) -> None:
        faults = Faults("ConcurrencyLimit")
        _check_algorithm(faults, self.algorithm)
        _check_limits(faults, self)
        faults.number("max_healthy_latency", self.max_healthy_latency, 0, 3600, above=True, optional=True)
        _check_priority(faults, self.priority)
        _check_errors(faults, "on", self.on)
        name, clock = self.name, self.clock
        faults.check(name is None or _is(name, str), "name", name, "is not text", "give a str or None")
        faults.check(clock is None or _is(clock, Clock), "clock", clock, "is no Clock", "give one or None")
        faults.finish()


def _is(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind)


def _check_algorithm(faults: Faults, algorithm: object) -> None:
    known = _is(algorithm, (Gradient2, AIMD, StandingQueue))
    faults.check(
        known, "algorithm", algorithm, "is no algorithm", "give Gradient2(), AIMD() or StandingQueue()"
    )


def _check_limits(faults: Faults, config: ConcurrencyLimitConfig) -> None:
    low, first, high = config.min_limit, config.initial, config.max_limit
    faults.number("initial", first, 1, 1_000_000, whole=True, optional=True)
    for path, value in (("min_limit", low), ("max_limit", high)):
        faults.number(path, value, 1, 1_000_000, whole=True)
    first = high if first is None else first
    if all(_is(value, int) for value in (low, first, high)):
        faults.check(low <= high, "min_limit", low, f"is above max_limit = {high}", "give at most max_limit")
        outside = low <= high and not low <= first <= high
        faults.check(not outside, "initial", first, "is not within the limits", f"give {low} to {high}")


def _check_priority(faults: Faults, priority: Any) -> None:
    faults.callable("priority", priority)
    if callable(priority):
        fine = not _compile.is_async_function(priority)
        faults.check(fine, "priority", priority, "is a coroutine function", "give a plain function")


class ConcurrencyLimit(Policy):
    """Admit as many calls at once as the dependency takes without delay or error. Raises ConcurrencyLimitedError.

    Only calls that begin with half of the limit in use or more move it (by `StandingQueue`: that begin beside
    another). Drops shrink it: errors that `on` covers, latencies above `max_healthy_latency` seconds; other errors and
    cancelled calls say nothing. It never grows beyond 5 times the calls in flight. `initial`: None begins with
    `max_limit`. `priority`, a function of the call's arguments, says "critical" (may use all of the limit), "normal"
    (90 %) or "low" (70 %, rounded up); without it all may use all. Safe for threads and tasks.
    """

    __slots__ = ("_config", "_state")

    def __init__(
        self,
        *,
        algorithm: Gradient2 | AIMD | StandingQueue = _GRADIENT2,
        initial: int | None = 20,
        min_limit: int = 1,
        max_limit: int = 200,
        max_healthy_latency: float | None = None,
        priority: Callable[..., str] | None = None,
        on: Errors = TRANSIENT,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._config = ConcurrencyLimitConfig(
            algorithm=algorithm,
            initial=initial,
            min_limit=min_limit,
            max_limit=max_limit,
            max_healthy_latency=max_healthy_latency,
            priority=priority,
            on=on,
            name=name,
            clock=clock,
        )
        self._state = (Standing if _is(algorithm, StandingQueue) else State)(self._config)

    @property
    def config(self) -> ConcurrencyLimitConfig:
        """The settings."""
        return self._config

    @property
    def name(self) -> str | None:
        """The name in events and errors."""
        return self._config.name

    @property
    def limit(self) -> int:
        """How many calls may be in flight now."""
        return self._state.limit

    @property
    def running(self) -> int:
        """How many calls are in flight now."""
        return len(self._state.out)

    @property
    def rejected(self) -> int:
        """How many calls were refused since the limit was made or reset."""
        return self._state.rejected

    def reset(self) -> None:
        """Go back to the initial limit and forget all latencies; calls in flight stay counted."""
        self._state.reset()

    def admit(self) -> Permit:
        """Admit one call of normal priority and return its permit, to be settled exactly once."""
        return self._state.admit()

    def __repr__(self) -> str:
        """Show name and limit."""
        return f"<ConcurrencyLimit {self.name!r} limit {self.limit}>"

    def __enter__(self) -> Permit:
        """Admit the block."""
        return self._enter(sys._getframe(1))

    def _enter(self, frame: FrameType) -> Permit:
        permit = self._state.admit()
        try:
            _begin(permit, frame)
        except BaseException:
            permit.neutral()
            raise
        return permit

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Settle the block's permit by how it ended."""
        self._exit(error, sys._getframe(1))

    def _exit(self, error: BaseException | None, frame: FrameType) -> None:
        state: Any = self._state
        permit = _end(state, frame)
        if permit is None:
            return
        try:
            permit.success() if error is None else permit.failure(error)
        finally:
            permit.neutral()

    async def __aenter__(self) -> Permit:
        """Admit the block."""
        return self._enter(sys._getframe(1))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Settle the block's permit by how it ended."""
        self._exit(error, sys._getframe(1))

    def _keeps_state(self) -> bool:
        return True

    def _shape(self) -> tuple[Any, ...]:
        config = self._config
        stands = _is(config.algorithm, StandingQueue)
        return ("concurrency_limit", config.priority is not None, config.clock is not None, stands)

    def _bind(self) -> dict[str, Any]:
        clock = self._config.clock
        return {"m": self._state, "now": None if clock is None else clock.monotonic}

    def _emit(self, code: _compile.Code, at: int, inner: Callable[[], None]) -> None:
        _emit_admission(self._config, code, at, inner)
        told = f"_stack, {code.signature.args}"
        with code.block(f"except BaseException as _error{at}:"):
            code.line(f"_out{at}.pop()")
            with code.block(f"if _t{at} is not None:"):
                code.line(f"_limit_failed(_m{at}, _g{at}, _error{at}, {told})")
            code.line("raise")
        code.line(f"_out{at}.pop()")
        with code.block(f"if _t{at} is not None:"):
            code.line(f"_limit_passed(_m{at}, _t{at}, _g{at}, _n{at}, {told})")

    def _bounds(self, inner: Bounds) -> Bounds:
        return inner.raising("ConcurrencyLimitedError")


def _emit_admission(
    config: ConcurrencyLimitConfig, code: _compile.Code, at: int, inner: Callable[[], None]
) -> None:
    args, kwargs = code.signature.args, code.signature.kwargs
    room = f"_m{at}.limit" if config.priority is None else f"_limit_room(_m{at}, _stack, {args}, {kwargs})"
    code.line(f"_out{at} = _m{at}.out")
    code.line(f"_t{at} = None")
    with code.block("try:"):
        # The first thing in the block: an interrupt comes before this call or after it, and then the handler runs.
        code.line(f"_out{at}.append(None)")
        code.line(f"_n{at} = len(_out{at})")
        with code.block(f"if _n{at} >= _m{at}.least:"):
            stands = _is(config.algorithm, StandingQueue)
            if stands:
                code.line(f"_t{at} = _limit_entered(_m{at}, _n{at}, {room}, _stack, {args})")
            with code.block(f"if _t{at} is None:" if stands else f"if _n{at} > {room}:"):
                # The place is given back before anybody is told; the handler takes from another list.
                code.line(f"_mine{at}, _out{at} = _out{at}, [None]")
                code.line(f"_mine{at}.pop()")
                code.line(f"raise _ConcurrencyLimitedError(_limit_refused(_m{at}, _stack, {args}), None)")
            code.line(f"_g{at} = _m{at}.generation")
            if not stands:
                code.line(f"_t{at} = {'_now' if config.clock is None else f'_now{at}'}()")
        inner()


@overload
def concurrency_limit(fn: Callable[_P, _T], /) -> Callable[_P, _T]: ...


@overload
def concurrency_limit(
    fn: None = None,
    /,
    *,
    algorithm: Gradient2 | AIMD | StandingQueue = _GRADIENT2,
    initial: int | None = 20,
    min_limit: int = 1,
    max_limit: int = 200,
    max_healthy_latency: float | None = None,
    priority: Callable[..., str] | None = None,
    on: Errors = TRANSIENT,
    name: str | None = None,
    clock: Clock | None = None,
) -> ConcurrencyLimit: ...


def concurrency_limit(fn: Any = None, /, **settings: Any) -> Any:
    """Return a `ConcurrencyLimit`, to decorate with or as a block; given a function, decorate it with one."""
    policy = ConcurrencyLimit(**settings)
    return policy if fn is None else policy(fn)
