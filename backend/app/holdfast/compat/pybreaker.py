"""pybreaker's interface on holdfast's engine: change `import pybreaker` to `from holdfast.compat import pybreaker`.

Storages and the error are pybreaker's own; the breaker is holdfast's.
"""

from __future__ import annotations

import functools
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from pybreaker import (
    STATE_CLOSED,
    STATE_HALF_OPEN,
    STATE_OPEN,
    CircuitBreakerError,
    CircuitBreakerStorage,
    CircuitMemoryStorage,
    CircuitRedisStorage,
)

from holdfast.compat._awaiting import awaiting, plain
from holdfast.infrastructure.resilience import _pybreaker
from holdfast.infrastructure.resilience._breaker import CLOSED, OPEN, Machine
from holdfast.infrastructure.resilience._compile import GIL
from holdfast.infrastructure.resilience._outside import Outside
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker as _CircuitBreaker
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreakerConfig
from holdfast.infrastructure.resilience.errors import CircuitOpenError
from holdfast.infrastructure.resilience.window import Window

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable

    from holdfast.infrastructure.resilience._breaker import Change

_P = ParamSpec("_P")
_T = TypeVar("_T")

__all__ = [
    "STATE_CLOSED",
    "STATE_HALF_OPEN",
    "STATE_OPEN",
    "CircuitBreaker",
    "CircuitBreakerError",
    "CircuitBreakerListener",
    "CircuitBreakerState",
    "CircuitBreakerStorage",
    "CircuitMemoryStorage",
    "CircuitRedisStorage",
]

# What is raised here is pybreaker's error from the first call on.
_pybreaker.join()

# pybreaker takes a reset_timeout of no time at all.
_LEAST = sys.float_info.min


class CircuitBreakerListener:
    """What a breaker tells: override any of these. pybreaker's listeners are taken as well."""

    def before_call(self, cb: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Hear that the breaker `cb` is about to call `func`, which is None for a block."""

    def failure(self, cb: Any, exc: BaseException) -> None:
        """Hear that a call failed."""

    def success(self, cb: Any) -> None:
        """Hear that a call succeeded."""

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        """Hear that the state changed; states have a `name`."""


class CircuitBreakerState(str):
    """A state as pybreaker shows it: its string, with a `name`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The string itself."""
        return str(self)


class _Outside(Outside):
    """The listeners and the storage, and the failures in a row, which an open breaker no longer has itself."""

    __slots__ = ("failures",)

    failures: int

    def succeeded(self, machine: Machine) -> None:
        """Forget the failures, and tell that a call succeeded."""
        if machine.mode is not OPEN:
            self.failures = 0
        super().succeeded(machine)

    def failed(self, machine: Machine, error: BaseException | None) -> None:
        """Count a failure, and tell of it."""
        self.failures = machine.counts().failures if machine.mode is CLOSED else self.failures + 1
        super().failed(machine, error)

    def changed(self, machine: Machine, change: Change) -> None:
        """Forget the failures of a breaker that is closed, and tell that the state changed."""
        if change.new is CLOSED:
            self.failures = 0
        super().changed(machine, change)


class _Machine(Machine):
    """A machine that takes the paths without a lock while nobody listens, though the call that trips it says so."""

    __slots__ = ()

    def set_fast(self) -> None:
        """Allow or forbid the paths without a lock; only listeners hear of calls, and only a storage of failures."""
        super().set_fast()
        outside = self.outside
        if outside is None or outside.listeners or outside._storage is not None:
            return
        if self.mode is CLOSED and GIL:
            self.fast = self.window
        if self.mode is OPEN:
            self.shut = self.until

    def set_listeners(self, listeners: tuple[Any, ...]) -> None:
        """Replace the listeners."""
        super().set_listeners(listeners)
        self.set_fast()

    def record(
        self,
        token: Any,
        started: float,
        failed: bool | None,  # noqa: FBT001  # as the machine's
        hint: float | None = None,
    ) -> Change | None:
        """Count one outcome of a path without a lock; the error of a trip takes the place of the call's."""
        change = super().record(token, started, failed, hint)
        if change is None or change.new is not OPEN or type(self.outside) is not _Outside:
            return change
        self.outside.failures = cast("int", change.facts["failures"])
        if self.outside.throw_on_trip:
            raise CircuitOpenError(self.name, max(0.0, self.until - self.now()), OPEN) from sys.exception()
        return change


class CircuitBreaker:
    """Refuse calls after `fail_max` failures in a row, for `reset_timeout` seconds; then try again.

    Closes after `success_threshold` successful trials, opens again at the first failed one. Settings may be assigned
    at any time. Raises CircuitBreakerError. Safe to share between threads and tasks, which it never makes wait.
    """

    def __init__(  # noqa: PLR0917  # as pybreaker's
        self,
        fail_max: int = 5,
        reset_timeout: float = 60,
        success_threshold: int = 1,
        exclude: Iterable[type[BaseException] | Callable[[Any], bool]] | None = None,
        listeners: Iterable[Any] | None = None,
        state_storage: CircuitBreakerStorage | None = None,
        name: str | None = None,
        throw_new_error_on_trip: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        self._policy = _CircuitBreaker(
            name,
            fail_max=fail_max,
            reset_timeout=reset_timeout or _LEAST,
            success_threshold=success_threshold,
            exclude=tuple(exclude or ()),
        )
        self._name = name
        self._storage = state_storage
        self._outside = self._connect(tuple(listeners or ()), throw=throw_new_error_on_trip)

    def _connect(self, listeners: tuple[Any, ...], *, throw: bool) -> _Outside:
        policy = self._policy
        policy._machine = machine = _Machine(policy.name, policy.config)
        outside = _Outside(policy, (), self._storage, throw=throw)
        outside._breaker = self  # type: ignore[assignment]  # whom listeners hear of
        outside.failures = 0
        machine.outside = outside
        # A storage says at once in which state this begins, and nobody is told of it.
        outside.poll(machine, machine.now())
        with machine.lock:
            machine.set_listeners(listeners)
        return outside

    @property
    def policy(self) -> _CircuitBreaker:
        """The breaker as a policy of holdfast's, for pipelines and for what pybreaker has no name for."""
        return self._policy

    @property
    def name(self) -> str | None:
        """The name in events and errors."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = self._policy._machine.label = name

    @property
    def fail_max(self) -> int:
        """How many failures in a row open it, from 1."""
        return int(self._policy.config.window.size)

    @fail_max.setter
    def fail_max(self, number: int) -> None:
        self._change(window=Window.consecutive(number))

    @property
    def reset_timeout(self) -> float:
        """How long it stays open, seconds, from 0 to a day; a new one holds for a breaker that is open already."""
        seconds: float = self._policy.config.open_for
        return 0.0 if seconds == _LEAST else seconds

    @reset_timeout.setter
    def reset_timeout(self, timeout: float) -> None:
        machine, seconds = self._policy._machine, timeout or _LEAST
        with machine.lock:
            longer = seconds - machine.config.open_for
            self._change(open_for=seconds, open_cap=seconds)
            if machine.mode is OPEN:
                machine.until += longer
                machine.set_fast()

    @property
    def success_threshold(self) -> int:
        """How many successful trials close it, from 1."""
        return self._policy.config.half_open_calls

    @success_threshold.setter
    def success_threshold(self, threshold: int) -> None:
        machine = self._policy._machine
        with machine.lock:
            self._change(half_open_calls=threshold)
            if machine.probes is not None:
                # As in pybreaker, the next trial decides: without a place for it none ever would.
                machine.probes.ok = min(machine.probes.ok, threshold - 1)

    def _change(self, **settings: Any) -> None:
        machine = self._policy._machine
        with machine.lock:
            machine.config = CircuitBreakerConfig(**{**machine.config._fields(), **settings})

    @property
    def fail_counter(self) -> int:
        """Failures in a row, those that opened it included; with a storage, what that says."""
        if self._storage is not None:
            return self._storage.counter
        return self._policy.fail_counter if self._policy.state is CLOSED else self._outside.failures

    @property
    def success_counter(self) -> int:
        """Successful trials so far, while half-open; with a storage, what that says."""
        if self._storage is not None:
            return self._storage.success_counter
        probes = self._policy._machine.probes
        return 0 if probes is None else probes.ok

    @property
    def current_state(self) -> str:
        """The state as a string; a storage is asked for it once a second, so that others' changes show."""
        machine = self._policy._machine
        self._outside.poll(machine, machine.now())
        return self._policy.current_state

    @property
    def state(self) -> CircuitBreakerState:
        """The state, with a `name`; a string assigned to it opens, half-opens or closes. ValueError for others."""
        return CircuitBreakerState(self.current_state)

    @state.setter
    def state(self, state_str: str) -> None:
        steps = {STATE_CLOSED: self.close, STATE_OPEN: self.open, STATE_HALF_OPEN: self.half_open}
        if state_str not in steps:
            raise ValueError(f"Unknown state {state_str!r}, valid states: {', '.join(steps)}")
        steps[state_str]()

    def open(self) -> bool:
        """Open now, for the usual time; return whether a trip raises an error of its own."""
        self._keep_failures()
        self._policy.open()
        return self._outside.throw_on_trip

    def half_open(self) -> None:
        """Admit trials now, and count them anew."""
        self._keep_failures()
        self._policy.half_open()
        if self._storage is not None:
            self._storage.reset_success_counter()

    def _keep_failures(self) -> None:
        if self._policy.state is CLOSED:
            self._outside.failures = self._policy.fail_counter

    def close(self) -> None:
        """Close now, with nothing counted."""
        self._policy.close()

    @property
    def excluded_exceptions(self) -> tuple[type[BaseException] | Callable[[Any], bool], ...]:
        """The types and predicates of errors that say nothing about the dependency."""
        return self._policy.config.exclude

    def add_excluded_exception(self, exception: type[BaseException] | Callable[[Any], bool]) -> None:
        """Exclude one more."""
        self.add_excluded_exceptions(exception)

    def add_excluded_exceptions(self, *exceptions: type[BaseException] | Callable[[Any], bool]) -> None:
        """Exclude some more."""
        with self._policy._machine.lock:
            self._change(exclude=(*self.excluded_exceptions, *exceptions))

    def remove_excluded_exception(self, exception: type[BaseException] | Callable[[Any], bool]) -> None:
        """Exclude one no longer; ValueError if it was not excluded."""
        with self._policy._machine.lock:
            left = list(self.excluded_exceptions)
            left.remove(exception)
            self._change(exclude=tuple(left))

    def is_system_error(self, exception: BaseException) -> bool:
        """Return whether `exception` counts as a failure: an Exception that is not excluded."""
        return bool(self._policy._machine.judge(exception)[0])

    @property
    def listeners(self) -> tuple[Any, ...]:
        """The listeners, in order."""
        return self._outside.listeners

    def add_listener(self, listener: Any) -> None:
        """Add an object with any of the methods of `CircuitBreakerListener`."""
        self.add_listeners(listener)

    def add_listeners(self, *listeners: Any) -> None:
        """Add several."""
        self._keep_failures()
        for listener in listeners:
            self._policy.add_listener(listener)

    def remove_listener(self, listener: Any) -> None:
        """Remove a listener; ValueError if it is not there."""
        self._policy.remove_listener(listener)

    def call(self, func: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        """Call `func`, and return what it returns: an awaitable for an async function, which counts when awaited.

        CircuitBreakerError when refused, and when this call opens the breaker. TypeError for generator functions.
        """
        return self._policy.call(func, *args, **kwargs)

    @overload
    async def call_async(self, func: Callable[..., Awaitable[_T]], *args: Any, **kwargs: Any) -> _T: ...
    @overload
    async def call_async(self, func: Callable[..., _T], *args: Any, **kwargs: Any) -> _T: ...
    async def call_async(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `func` and await what has to be awaited; errors as `call`."""
        return await self._policy.call(awaiting(func), *args, **kwargs)

    @contextmanager
    def calling(self) -> Generator[None]:
        """Guard a `with` block, in sync and async functions alike; errors as `call`."""
        with self._policy:
            yield

    @overload
    def __call__(self, func: Callable[_P, _T], /) -> Callable[_P, _T]: ...
    @overload
    def __call__(
        self, func: None = None, /, **options: bool
    ) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]: ...
    def __call__(self, func: Any = None, /, **options: bool) -> Any:
        """Decorate `func`, with or without parentheses; TypeError for generator functions.

        The option `__pybreaker_call_async` is for sync functions that return awaitables: `async def` needs none.
        """
        asked = options.pop("__pybreaker_call_async", False)
        if options:
            raise TypeError(f"unknown options: {', '.join(options)}")
        decorate = functools.partial(self._decorate, asked=asked)
        return decorate if func is None else decorate(func)

    def _decorate(self, func: Any, *, asked: bool) -> Any:
        return self._policy(awaiting(func) if asked else plain(func))
