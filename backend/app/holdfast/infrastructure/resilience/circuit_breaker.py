"""Circuit breaker: stop calling what fails, and find out carefully when it works again."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import OrderedDict
from itertools import chain, islice

from holdfast.infrastructure.resilience import _breaker_state, _compile
from holdfast.infrastructure.resilience._breaker import (
    CLOSED,
    DISABLED,
    HALF_OPEN,
    OPEN,
    SHADOW,
    Machine,
    leave,
)
from holdfast.infrastructure.resilience._frozen import Faults, Frozen, refuse_copy
from holdfast.infrastructure.resilience._whose import whose
from holdfast.infrastructure.resilience.classify import TRANSIENT, _check_errors
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.window import Window

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping
    from random import Random
    from types import FrameType, TracebackType
    from typing import Any, NoReturn, ParamSpec, TypeVar, overload

    from holdfast.infrastructure.resilience._bounds import Bounds
    from holdfast.infrastructure.resilience.classify import Errors
    from holdfast.infrastructure.resilience.permit import Permit
    from holdfast.infrastructure.resilience.states import CircuitState
    from holdfast.infrastructure.resilience.window import WindowCounts

    _P = ParamSpec("_P")
    _T = TypeVar("_T")

else:

    def overload(fn: object) -> object:
        """Stand in for typing.overload, which costs an import."""
        return fn


_WINDOW = Window.seconds(10.0)


class CircuitBreakerConfig(Frozen):
    """The settings of a `CircuitBreaker`, validated: frozen, keyword-only, comparable."""

    __slots__ = (
        "clock",
        "exclude",
        "failure_rate",
        "half_open_calls",
        "half_open_timeout",
        "min_calls",
        "on",
        "open_cap",
        "open_for",
        "open_jitter",
        "random",
        "result",
        "slow_call_duration",
        "slow_call_rate",
        "window",
    )

    failure_rate: float
    min_calls: int
    window: Window
    slow_call_duration: float | None
    slow_call_rate: float
    open_for: float
    open_cap: float
    open_jitter: float
    half_open_calls: int
    half_open_timeout: float
    on: Errors
    exclude: tuple[type[BaseException] | Callable[[BaseException], bool], ...]
    result: Callable[[Any], bool] | None
    clock: Clock | None
    random: Random | None

    def __init__(
        self,
        *,
        failure_rate: float = 0.5,
        min_calls: int = 20,
        window: Window = _WINDOW,
        slow_call_duration: float | None = None,
        slow_call_rate: float = 1.0,
        open_for: float = 5.0,
        open_cap: float = 60.0,
        open_jitter: float = 0.2,
        half_open_calls: int = 3,
        half_open_timeout: float = 30.0,
        on: Errors = TRANSIENT,
        exclude: tuple[type[BaseException] | Callable[[BaseException], bool], ...] = (),
        result: Callable[[Any], bool] | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        self._set(
            failure_rate=failure_rate,
            min_calls=min_calls,
            window=window,
            slow_call_duration=slow_call_duration,
            slow_call_rate=slow_call_rate,
            open_for=open_for,
            open_cap=open_cap,
            open_jitter=open_jitter,
            half_open_calls=half_open_calls,
            half_open_timeout=half_open_timeout,
            on=on,
            exclude=_as_tuple(exclude),
            result=result,
            clock=clock,
            random=random,
        )
        self._validate()

    def _validate(self) -> None:
        faults = Faults("CircuitBreaker")
        faults.number("failure_rate", self.failure_rate, 0, 1, above=True)
        faults.number("min_calls", self.min_calls, 1, 1_000_000, whole=True)
        faults.number("slow_call_duration", self.slow_call_duration, 0, 3600, above=True, optional=True)
        faults.number("slow_call_rate", self.slow_call_rate, 0, 1, above=True)
        faults.number("open_for", self.open_for, 0, 86_400, above=True)
        faults.number("open_cap", self.open_cap, 0, 86_400, above=True)
        faults.number("open_jitter", self.open_jitter, 0, 1)
        faults.number("half_open_calls", self.half_open_calls, 1, 1000, whole=True)
        faults.number("half_open_timeout", self.half_open_timeout, 0, 86_400, above=True)
        faults.check(
            isinstance(self.window, Window),
            "window",
            self.window,
            "is not a window",
            "give Window.seconds(10), Window.calls(100) or Window.consecutive(5)",
        )
        numbers = (self.open_for, self.open_cap)
        if all(isinstance(number, (int, float)) for number in numbers) and self.open_cap < self.open_for:
            faults.add(
                "open_cap", self.open_cap, f"is below open_for = {self.open_for}", "give at least open_for"
            )
        _check_errors(faults, "on", self.on)
        _check_exclude(faults, self.exclude)
        faults.callable("result", self.result, sync=True)
        faults.check(
            self.clock is None or isinstance(self.clock, Clock),
            "clock",
            self.clock,
            "is not a Clock",
            "give a Clock",
        )
        faults.finish()


def _as_tuple(rules: Any) -> Any:
    return tuple(rules) if type(rules) in {list, set, frozenset} else rules


def _check_exclude(faults: Faults, exclude: Any) -> None:
    remedy = "give a tuple of exception types and predicates"
    if exclude.__class__ is not tuple:
        faults.add("exclude", exclude, "is not a tuple", remedy)
        return
    for at, rule in enumerate(exclude):
        fine = issubclass(rule, BaseException) if isinstance(rule, type) else callable(rule)
        faults.check(fine, f"exclude[{at}]", rule, "is neither an exception type nor a predicate", remedy)
        if not isinstance(rule, type):
            faults.callable(f"exclude[{at}]", rule, sync=True)


_DEFAULT = CircuitBreakerConfig()


class _Block:
    """A `with` block that has not ended: known by the frame that began it, for a generator's may go on elsewhere.

    An ExitStack's ends in another frame than it began; then `whose` tells.
    """

    __slots__ = ("code", "permit", "place", "whose")

    def __init__(self, frame: FrameType, permit: Permit) -> None:
        self.place = id(frame)
        self.code = frame.f_code
        self.whose = whose()
        self.permit = permit


# Those that have not ended, oldest first; each machine's list is replaced under its lock.
_blocks: dict[Machine, list[_Block]] = {}


def _begin(permit: Permit, frame: FrameType) -> None:
    machine: Machine = permit.owner
    block = _Block(frame, permit)
    with machine.lock:
        _blocks[machine] = [*_blocks.get(machine, ()), block]


def _end(machine: Machine, frame: FrameType) -> Permit | None:
    """Take the permit of the block that ends in `frame`."""
    mine = whose()
    with machine.lock:
        blocks = _blocks.get(machine, [])
        here = [one for one in blocks if one.place == id(frame) and one.code is frame.f_code]
        found = here or [one for one in blocks if one.whose == mine] or blocks
        if not found:
            return None
        ended = found[-1]
        left = [one for one in blocks if one is not ended]
        if left:
            _blocks[machine] = left
        else:
            del _blocks[machine]
        return ended.permit


class CircuitBreaker(Policy):
    """Reject calls while the share of failures (or slow calls) in `window` is too high; probe carefully before closing.

    Opens at a failed or slow call for `open_for * 2**k` seconds (k failed probe rounds), at most `open_cap`, ±
    `open_jitter`; then admits `half_open_calls` probes. pybreaker's `fail_max`, `reset_timeout`, `success_threshold`,
    `exclude`, `state_storage` and `throw_new_error_on_trip` are accepted. Raises CircuitOpenError. Safe to share
    between threads and tasks.
    """

    __slots__ = ("__weakref__", "_machine")

    def __init__(
        self,
        name: str | None = None,
        *,
        failure_rate: float = 0.5,
        min_calls: int = 20,
        window: Window = _WINDOW,
        slow_call_duration: float | None = None,
        slow_call_rate: float = 1.0,
        open_for: float = 5.0,
        open_cap: float = 60.0,
        open_jitter: float = 0.2,
        half_open_calls: int = 3,
        half_open_timeout: float = 30.0,
        on: Errors = TRANSIENT,
        exclude: tuple[type[BaseException] | Callable[[BaseException], bool], ...] = (),
        result: Callable[[Any], bool] | None = None,
        listeners: tuple[Any, ...] = (),
        storage: Any = None,
        clock: Clock | None = None,
        random: Random | None = None,
        fail_max: int | None = None,
        reset_timeout: float | None = None,
        success_threshold: int | None = None,
        state_storage: Any = None,
        throw_new_error_on_trip: bool = False,
    ) -> None:
        settings = {key: value for key, value in locals().items() if key in CircuitBreakerConfig.__slots__}
        faults = Faults("CircuitBreaker")
        faults.check(
            name is None or _is(name, str),
            "name",
            name,
            "is not text",
            "give a str; to decorate without settings write @circuit_breaker",
        )
        faults.check(
            _is(listeners, (tuple, list)),
            "listeners",
            listeners,
            "is not a tuple",
            "give a tuple of listeners",
        )
        store = storage if storage is not None else state_storage
        faults.check(
            store is None or _keeps_state(store),
            "storage",
            store,
            "keeps no state of a breaker",
            "give a RedisBreakerStorage, or a storage of pybreaker's",
        )
        faults.finish()
        legacy = (fail_max, reset_timeout, success_threshold)
        kind: Any = store.__class__
        theirs = store is not None and not hasattr(kind, "_attach")
        if theirs or any(value is not None for value in legacy):
            settings = _from_pybreaker(settings, *legacy)
        config = _shared(CircuitBreakerConfig(**settings))
        self._machine = Machine(name or "circuit breaker", config)
        if listeners or store is not None or throw_new_error_on_trip:
            self._connect(tuple(listeners), store, throw=throw_new_error_on_trip)

    def _connect(self, listeners: tuple[Any, ...], storage: Any, *, throw: bool) -> None:
        from holdfast.infrastructure.resilience import _outside  # only who migrates needs it

        _outside.connect(self, self._machine, listeners, storage, throw=throw)

    @property
    def config(self) -> CircuitBreakerConfig:
        """The settings."""
        return self._machine.config

    @property
    def name(self) -> str:
        """The name in events and errors."""
        return self._machine.name

    @property
    def state(self) -> CircuitState:
        """The state now; reading it changes nothing."""
        return self._machine.mode

    @property
    def current_state(self) -> str:
        """The state as pybreaker's string."""
        return self._machine.mode.value

    @property
    def fail_counter(self) -> int:
        """Failures in the window (in a row, for a consecutive window)."""
        return self.counts.failures

    @property
    def counts(self) -> WindowCounts:
        """What the window holds now."""
        machine = self._machine
        with machine.lock:
            machine.refresh()
            return machine.counts()

    @property
    def rejected(self) -> int:
        """How many calls were refused since the breaker was made or reset."""
        return self._machine.rejected

    @property
    def retry_after(self) -> float | None:
        """Seconds until probes are admitted while open, 0 when they are, None when not open."""
        machine = self._machine
        return max(0.0, machine.until - machine.now()) if machine.mode is OPEN else None

    @property
    def listeners(self) -> tuple[Any, ...]:
        """The listeners, in order."""
        outside = self._machine.outside
        return () if outside is None else outside.listeners

    def add_listener(self, listener: Any) -> None:
        """Add an object with any of pybreaker's `before_call`, `success`, `failure`, `state_change`."""
        if self._machine.outside is None:
            self._connect((), None, throw=False)
        with self._machine.lock:
            self._machine.set_listeners((*self.listeners, listener))

    def remove_listener(self, listener: Any) -> None:
        """Remove a listener; ValueError if it is not there."""
        with self._machine.lock:
            left = list(self.listeners)
            left.remove(listener)
            self._machine.set_listeners(tuple(left))

    def admit(self) -> Permit:
        """Admit one call and return its permit, to be settled exactly once. CircuitOpenError when refused."""
        return self._machine.admit_now()

    def __enter__(self) -> Permit:
        """Admit the block."""
        return self._enter(self._machine.admit_now(), sys._getframe(1))

    def _enter(self, permit: Permit, frame: FrameType) -> Permit:
        machine = self._machine
        try:
            if machine.outside is not None:
                machine.outside.before(machine, None, (), {})
        except BaseException:
            permit.neutral()
            raise
        _begin(permit, frame)
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
        permit = _end(self._machine, frame)
        if permit is not None:
            leave(permit, error)

    async def __aenter__(self) -> Permit:
        """Admit the block."""
        return self._enter(await self._machine.admit_soon(), sys._getframe(1))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Settle the block's permit by how it ended."""
        self._exit(error, sys._getframe(1))

    def open(self) -> None:
        """Open now, for the usual time."""
        self._machine.override(OPEN)

    def close(self) -> None:
        """Close now, with an empty window."""
        self._machine.override(CLOSED)

    def half_open(self) -> None:
        """Admit probes now."""
        self._machine.override(HALF_OPEN)

    def reset(self) -> None:
        """Close, forget all history and every override."""
        self._machine.rounds = self._machine.rejected = 0
        self._machine.override(CLOSED)

    def isolate(self) -> None:
        """Refuse every call until `release` was called as often as this."""
        self._machine.hold(1)

    def release(self) -> None:
        """Undo one `isolate`; the last one closes the breaker. Without one it does nothing."""
        self._machine.hold(-1)

    def disable(self) -> None:
        """Admit every call and record nothing, until `reset` or `close`."""
        self._machine.override(DISABLED)

    def shadow(self) -> None:
        """Record and report, but never refuse, until `reset` or `close`."""
        self._machine.override(SHADOW)

    def export_state(self) -> dict[str, Any]:
        """Return the state as JSON-able facts that another process can import."""
        return _breaker_state.export(self._machine)

    def import_state(self, state: Mapping[str, Any]) -> None:
        """Take over an exported state; wall time since then counts as time spent open. ValueError if malformed."""
        self._machine.tell(_breaker_state.restore(self._machine, state))

    def __repr__(self) -> str:
        """Show name and state."""
        return f"<CircuitBreaker {self.name!r} {self.current_state}>"

    def _keeps_state(self) -> bool:
        return True

    def _shape(self) -> tuple[Any, ...]:
        config = self.config
        timed = config.slow_call_duration is not None
        given = (config.result is not None, config.clock is not None)
        return ("breaker", config.window.kind, timed, *given, _awaited(self._machine))

    def _bind(self) -> dict[str, Any]:
        clock = self.config.clock
        return {"m": self._machine} if clock is None else {"m": self._machine, "clock": clock.monotonic}

    def _emit(self, code: _compile.Code, at: int, inner: Callable[[], None]) -> None:
        _refuse_sync(self._machine, code)
        _emit(self.config, code, at, inner)

    def _bounds(self, inner: Bounds) -> Bounds:
        return inner.raising("CircuitOpenError")


def _awaited(machine: Machine) -> bool:
    """Return whether only async functions can wait for the breaker's storage."""
    return machine.outside is not None and machine.outside.awaited


def _refuse_sync(machine: Machine, code: _compile.Code) -> None:
    """Raise TypeError for a sync function that could not wait; what is compiled for any function finds out later."""
    if machine.outside is not None and not code.is_async and code.signature is not _compile.CALLER:
        machine.outside.refuse_sync(machine.name)


def _emit(config: CircuitBreakerConfig, code: _compile.Code, at: int, inner: Callable[[], None]) -> None:
    """Write the lines of a breaker whose machine is called `_m{at}`."""
    now = "_now()" if config.clock is None else f"_clock{at}()"
    timed = config.slow_call_duration is not None
    code.line(f"_w{at} = _m{at}.fast")
    if timed:
        code.line(f"_t{at} = {now}")
        with code.block(f"if _w{at} is None or _t{at} >= _w{at}.edge:"):
            code.line(f"_w{at} = _advance(_m{at}, _t{at})")
    with code.block(f"if _w{at} is None:"):
        if not timed:
            code.line(f"_t{at} = {now}")
        code.line(f"_u{at} = _m{at}.shut")
        with code.block(f"if _t{at} < _u{at}:"):
            code.line(f"_m{at}.rejected += 1")
            with code.block("if _bus.entries or _pybreaker.unjoined in _modules:"):
                code.line(f"_tell_refusal(_m{at}, _t{at})")
            code.line(f"raise _CircuitOpenError(_m{at}.label or _m{at}.name, _u{at} - _t{at})")
        code.line(f"_permit{at} = _admit(_m{at})")
        code.line(f"_result = {code.slow('_guard', f'_permit{at}', '_stack', str(at + 1))}")
    with code.block("else:"):
        if timed:
            code.line(f"_w{at}.n += 1")
            code.line(f"_w{at}.last = _t{at}")
        with code.block("try:"):
            inner()
        with code.block("except BaseException as _error:"):
            code.line(
                f"_fail_timed(_m{at}, _w{at}, _t{at}, _error)" if timed else f"_fail(_m{at}, _w{at}, _error)"
            )
            code.line("raise")
        _emit_success(config, code, at, now)


def _emit_success(config: CircuitBreakerConfig, code: _compile.Code, at: int, now: str) -> None:
    timed = config.slow_call_duration is not None
    started = f"_t{at}" if timed else "0.0"
    if config.result is not None:
        code.line(f"_judged(_m{at}, _w{at}, {started}, _result)")
    elif timed or config.window.kind == "seconds":
        with code.block(f"if {now} >= _w{at}.edge:"):
            code.line(f"_record(_m{at}, _w{at}, {started}, False)")
        with code.block("else:"):
            code.line(f"_w{at}.ok += 1")
    elif config.window.kind == "calls":
        with code.block(f"if _w{at}.room:"):
            code.line(f"_w{at}.room -= 1")
    else:
        code.line(f"_w{at}.ok = True")


def _from_pybreaker(
    settings: dict[str, Any],
    fail_max: int | None,
    reset_timeout: float | None,
    success_threshold: int | None,
) -> dict[str, Any]:
    """Translate pybreaker's settings: every error counts, in a row; a fixed time open; one failed probe reopens."""
    given = dict(settings)
    if fail_max is not None or settings["window"] is _WINDOW:
        given["window"] = Window.consecutive(5 if fail_max is None else fail_max)
    if settings["on"] is TRANSIENT:
        given["on"] = Exception
    given["half_open_calls"] = 1 if success_threshold is None else success_threshold
    if reset_timeout is not None or settings["open_for"] == _DEFAULT.open_for:
        seconds = 60.0 if reset_timeout is None else reset_timeout
        given.update(open_for=seconds, open_cap=seconds, open_jitter=0.0)
    return given


def _shared(config: CircuitBreakerConfig) -> CircuitBreakerConfig:
    """Let all breakers with the default settings share one configuration."""
    return _DEFAULT if config == _DEFAULT else config


def _keeps_state(storage: Any) -> bool:
    """Return whether it looks like a storage, without asking it: its state may be a round trip away."""
    kind = storage.__class__
    return kind is not type and any(hasattr(kind, name) for name in ("_attach", "state", "__getattr__"))


class CircuitBreakers(Policy):
    """A family of breakers with the same settings, one per key (host, tenant, operation), made when first needed.

    At most `max_keys`: the least recently used closed one goes first, then an open one; closed ones idle for `idle`
    seconds go too. One that is isolated, disabled or in shadow stays. `storage` is a function of the key.
    """

    __slots__ = ("_key", "_name", "_shelf")

    def __init__(
        self,
        name: str | None = None,
        *,
        key: Callable[..., Hashable] | None = None,
        max_keys: int = 1000,
        idle: float = 3600.0,
        **settings: Any,
    ) -> None:
        faults = Faults("CircuitBreakers")
        faults.number("max_keys", max_keys, 1, 10_000_000, whole=True)
        faults.number("idle", idle, 0, above=True)
        faults.callable("key", key, sync=True)
        faults.name("name", name)
        store = settings.pop("storage", None) or settings.pop("state_storage", None)
        faults.check(
            store is None or (callable(store) and not hasattr(store, "state")),
            "storage",
            store,
            "would be shared by all keys",
            "give a function of the key that returns the storage of its breaker",
        )
        faults.finish()
        self._name = name
        self._key = key
        self._shelf = _Shelf(name, max_keys, idle, settings, store)

    @property
    def name(self) -> str | None:
        """The family's name; a breaker's is `family[key]`."""
        return self._name

    def get(self, key: Hashable) -> CircuitBreaker:
        """Return the breaker of `key`, made if there is none."""
        return self._shelf.get(key)

    def peek(self, key: Hashable) -> CircuitBreaker | None:
        """Return the breaker of `key`, or None; nothing is made and nothing counts as used."""
        return self._shelf.peek(key)

    def discard(self, key: Hashable) -> None:
        """Forget the breaker of `key`."""
        self._shelf.discard(key)

    def __len__(self) -> int:
        """Return how many breakers there are."""
        return len(self._shelf.entries)

    def __iter__(self) -> Iterator[Hashable]:
        """Iterate over the keys there are now, least recently used first."""
        return iter(self._shelf.keys())

    def __contains__(self, key: object) -> bool:
        """Return whether `key` has a breaker."""
        return key in self._shelf.entries

    def __repr__(self) -> str:
        """Show the name and how many breakers there are."""
        return f"<CircuitBreakers {self._name!r} of {len(self)}>"

    def _with_key(self, key: Callable[..., Hashable]) -> CircuitBreakers:
        """Return the same family, sharing its breakers, with a key function."""
        made = CircuitBreakers.__new__(CircuitBreakers)
        made._name, made._key, made._shelf = self._name, key, self._shelf
        return made

    def _keeps_state(self) -> bool:
        return True

    def _require(self, *, whole: bool) -> None:
        if whole and self._key is None:  # an httpx transport keys it by host
            raise TypeError(
                "CircuitBreakers needs to know which breaker a call belongs to: give key=, a function of the call's "
                "arguments, or use family.get(key) as the policy"
            )

    def _shape(self) -> tuple[Any, ...]:
        config = self._shelf.config
        timed = config.slow_call_duration is not None
        given = (config.result is not None, config.clock is not None)
        return ("breakers", config.window.kind, timed, *given, _awaited(self._shelf.sample))

    def _bind(self) -> dict[str, Any]:
        self._require(whole=True)
        bound: dict[str, Any] = {"pick": self._pick}
        clock = self._shelf.config.clock
        return bound if clock is None else {**bound, "clock": clock.monotonic}

    def _pick(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Machine:
        assert self._key is not None  # noqa: S101  # refused when the call was compiled
        return self._shelf.get(self._key(*args, **kwargs))._machine

    def _emit(self, code: _compile.Code, at: int, inner: Callable[[], None]) -> None:
        args = "_args" if code.signature is _compile.CALLER else code.signature.args
        _refuse_sync(self._shelf.sample, code)
        code.line(f"_m{at} = _pick{at}({args}, {code.signature.kwargs})")
        _emit(self._shelf.config, code, at, inner)

    def _bounds(self, inner: Bounds) -> Bounds:
        return inner.raising("CircuitOpenError")


class _Kept:
    """A breaker of a family, and when it was last used, on the family's clock."""

    __slots__ = ("breaker", "used")

    def __init__(self, breaker: CircuitBreaker, used: float) -> None:
        self.breaker = breaker
        self.used = used

    def may_go(self, now: float) -> bool:
        """Return whether nothing is lost with it that somebody set, or that protects somebody now."""
        machine = self.breaker._machine
        return machine.mode is CLOSED or (machine.mode is OPEN and machine.until <= now)


def _is(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind)


class _Shelf:
    """The breakers of a family by key, least recently used first.

    The lock is reentrant: the garbage collector may run code that asks for a breaker while it is held, and so may keys.
    """

    __slots__ = (
        "__weakref__",
        "_idle",
        "_limit",
        "_name",
        "_settings",
        "_storage",
        "config",
        "entries",
        "lock",
        "sample",
    )

    def __init__(
        self, name: str | None, limit: int, idle: float, settings: dict[str, Any], storage: Any
    ) -> None:
        self._name = name or "circuit breakers"
        self._limit = limit
        self._idle = idle
        self._settings = settings
        self._storage = storage
        self.lock = threading.RLock()
        self.sample = self._make("")._machine
        self.config = self.sample.config
        self.entries: OrderedDict[Hashable, _Kept] = OrderedDict()
        _shelves.add(self)

    def __reduce__(self) -> NoReturn:
        """Refuse: there is one for all who share it."""
        refuse_copy("CircuitBreakers")

    def _make(self, key: Hashable) -> CircuitBreaker:
        settings = self._settings
        if self._storage is not None:
            settings = {**settings, "storage": self._storage(key)}
        return CircuitBreaker(f"{self._name}[{key}]", **settings)

    def get(self, key: Hashable) -> CircuitBreaker:
        """Return the breaker of `key`, made if there is none, and mark it used."""
        kept = self.entries.get(key)
        if kept is None:
            made = self._make(key)
            now = made._machine.now()
            with self.lock:
                kept = self.entries.setdefault(key, _Kept(made, now))
                self._evict(now)
            return kept.breaker
        kept.used = kept.breaker._machine.now()
        with self.lock:
            try:
                self.entries.move_to_end(key)
            except KeyError:
                pass  # it has just gone: somebody else needed the room
        return kept.breaker

    def _evict(self, now: float) -> None:
        for _ in range(_MOST_AT_ONCE):
            try:
                victim = self._victim(now)
            except RuntimeError:
                continue  # a breaker was asked for by code that the collector ran while we looked
            if victim is None:
                return
            self.entries.pop(victim[0], None)

    def _victim(self, now: float) -> tuple[Hashable] | None:
        """Return the key of one that has to go, if there is one and it may."""
        entries = self.entries
        key, oldest = next(iter(entries.items()))
        if len(entries) > 1 and now - oldest.used >= self._idle and oldest.may_go(now):
            return (key,)
        if len(entries) <= self._limit:
            return None
        newest = next(reversed(entries))
        others = [one for one in islice(entries.items(), _LOOKED_AT) if one[0] is not newest]
        free = (key for key, kept in others if kept.may_go(now))
        # Rather one that is open than too many; never one that somebody set by hand.
        own = (key for key, kept in others if kept.breaker._machine.mode in {OPEN, HALF_OPEN})
        return next(((key,) for key in chain(free, own)), None)

    def peek(self, key: Hashable) -> CircuitBreaker | None:
        """Return the breaker of `key`, or None."""
        kept = self.entries.get(key)
        return None if kept is None else kept.breaker

    def discard(self, key: Hashable) -> None:
        """Forget the breaker of `key`."""
        with self.lock:
            self.entries.pop(key, None)

    def keys(self) -> list[Hashable]:
        """Return the keys, least recently used first."""
        with self.lock:
            return list(self.entries)


# How many of the least recently used breakers are looked at for one that may go, and how many go at once.
_LOOKED_AT = 64
_MOST_AT_ONCE = 10_000
_shelves: weakref.WeakSet[_Shelf] = weakref.WeakSet()


def _renew_locks() -> None:
    """Make new locks: in the child of a fork nobody is left to release the old ones."""
    for shelf in _shelves:
        shelf.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


@overload
def circuit_breaker(fn: Callable[_P, _T], /) -> Callable[_P, _T]: ...


@overload
def circuit_breaker(
    fn: None = None,
    /,
    *,
    name: str | None = None,
    failure_rate: float = 0.5,
    min_calls: int = 20,
    window: Window = _WINDOW,
    slow_call_duration: float | None = None,
    slow_call_rate: float = 1.0,
    open_for: float = 5.0,
    open_cap: float = 60.0,
    open_jitter: float = 0.2,
    half_open_calls: int = 3,
    half_open_timeout: float = 30.0,
    on: Errors = TRANSIENT,
    exclude: tuple[type[BaseException] | Callable[[BaseException], bool], ...] = (),
    result: Callable[[Any], bool] | None = None,
    listeners: tuple[Any, ...] = (),
    storage: Any = None,
    clock: Clock | None = None,
    random: Random | None = None,
    fail_max: int | None = None,
    reset_timeout: float | None = None,
    success_threshold: int | None = None,
    state_storage: Any = None,
    throw_new_error_on_trip: bool = False,
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]: ...


def circuit_breaker(fn: Any = None, /, **settings: Any) -> Any:
    """Decorate with a `CircuitBreaker` of the function's own, named after its module and qualified name.

    With settings: with `CircuitBreaker(name, **settings)`.
    """
    if fn is not None:
        return _decorate(fn, settings)
    _check_settings(settings)

    def decorator(target: Any) -> Any:
        return _decorate(target, settings)

    return decorator


def _check_settings(settings: dict[str, Any]) -> None:
    """Raise for bad settings where they are written, not where the decorator is applied."""
    CircuitBreaker(
        settings.get("name"), **{key: value for key, value in settings.items() if key not in _NOT_CHECKED}
    )


_NOT_CHECKED = {"name", "storage", "state_storage", "listeners"}


def _decorate(fn: Any, settings: dict[str, Any]) -> Any:
    target = fn.__func__ if type(fn) in {staticmethod, classmethod} else fn
    _compile.refuse_target(target)
    breaker = CircuitBreaker(**settings)
    if not settings.get("name"):
        breaker._machine.name_after(target)
    return breaker(fn)


def breaker_of(fn: Callable[..., Any]) -> CircuitBreaker:
    """Return the outermost circuit breaker that `fn` is decorated with. LookupError without one."""
    stack = _compile.stack_of(getattr(fn, "__func__", fn))
    for part in stack.parts if stack is not None else ():
        for policy in part._current():
            if isinstance(policy, CircuitBreaker):
                return policy
    raise LookupError(f"{fn!r} has no circuit breaker of its own: decorate it with @circuit_breaker")


def live_breakers() -> list[CircuitBreaker]:
    """Return every breaker that a living function is decorated with, oldest first; keeps none alive."""
    parts = (part for stack in _compile.living() for part in stack.parts)
    return list(dict.fromkeys(part for part in parts if isinstance(part, CircuitBreaker)))
