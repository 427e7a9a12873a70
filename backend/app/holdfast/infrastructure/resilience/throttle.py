"""Throttle: spare a dependency that refuses much of what it is sent, by refusing part of it here."""

from __future__ import annotations

from holdfast.infrastructure.resilience._ambient import ambient, hot
from holdfast.infrastructure.resilience._breaker import _LOCKS, _locks
from holdfast.infrastructure.resilience._bus import bus, callback_failed, emit
from holdfast.infrastructure.resilience._compile import GIL
from holdfast.infrastructure.resilience._frozen import Faults, Frozen
from holdfast.infrastructure.resilience._windows import SecondsWindow
from holdfast.infrastructure.resilience.classify import PERMANENT, TRANSIENT, _check_errors, _judge
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.errors import CallRejectedError, ThrottledError
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.randomness import current_random
from holdfast.infrastructure.resilience.window import Window

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random
    from types import TracebackType
    from typing import Any, ParamSpec, TypeVar, overload

    from holdfast.infrastructure.resilience._bounds import Bounds
    from holdfast.infrastructure.resilience._compile import Code, Stack
    from holdfast.infrastructure.resilience.classify import Errors

    _P = ParamSpec("_P")
    _T = TypeVar("_T")

else:

    def overload(fn: object) -> object:
        """Stand in for typing.overload, which costs an import."""
        return fn


_BUCKETS = 10


class ThrottleConfig(Frozen):
    """The settings of a `Throttle`, validated: frozen, keyword-only, comparable."""

    __slots__ = ("clock", "k", "max_rejection", "min_calls", "name", "on", "random", "result", "window")

    k: float
    window: float
    min_calls: int
    max_rejection: float
    on: Errors
    result: Callable[[Any], bool] | None
    name: str | None
    clock: Clock | None
    random: Random | None

    def __init__(
        self,
        *,
        k: float = 2.0,
        window: float = 10.0,
        min_calls: int = 10,
        max_rejection: float = 0.9,
        on: Errors = TRANSIENT,
        result: Callable[[Any], bool] | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        faults = Faults("Throttle")
        faults.number("k", k, 1, 1000)
        faults.number("window", window, 0.1, 3600)
        faults.number("min_calls", min_calls, 1, 1_000_000, whole=True)
        faults.number("max_rejection", max_rejection, 0, 0.99, above=True)
        _check_errors(faults, "on", on)
        faults.callable("result", result, sync=True)
        faults.check(name is None or _is(name, str), "name", name, "is not text", "give a str or None")
        faults.check(clock is None or _is(clock, Clock), "clock", clock, "is no Clock", "give one or None")
        source = random is None or callable(getattr(random, "random", None))
        faults.check(source, "random", random, "is no source of chance", "give a random.Random or None")
        faults.finish()
        self._set(k=float(k), window=float(window), min_calls=min_calls, max_rejection=float(max_rejection))
        self._set(on=on, result=result, name=name, clock=clock, random=random)


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind)


class _State:
    """What a throttle has counted. `shedding`: too many had failed when a call last failed or was refused."""

    __slots__ = ("config", "judged", "place", "rejected", "shedding", "window")

    def __init__(self, config: ThrottleConfig) -> None:
        self.config = config
        self.judged = _judge(config.on)
        # Which lock guards the window; it is shared with other policies and held for microseconds.
        self.place = id(self) // 64 % _LOCKS
        self.window = SecondsWindow(Window.seconds(config.window, _BUCKETS), self.now(), slow=False)
        self.rejected = 0
        self.shedding = False

    def now(self) -> float:
        """Read the throttle's clock."""
        clock = self.config.clock
        return ambient.monotonic() if clock is None else clock.monotonic()

    def counts(self) -> tuple[int, int]:
        """Return requests and accepts in the window."""
        now = self.now()
        with _locks[self.place]:
            self.window.rotate(now)
            return self.window._calls, self.window._calls - self.window._failures

    def probability(self) -> float:
        """Return the chance of the next call to be refused."""
        now = self.now()
        with _locks[self.place]:
            self.window.rotate(now)
            return self._probability()

    def _probability(self) -> float:
        """Return the chance, with the lock held, and note whether there is any."""
        config, window = self.config, self.window
        calls = window._calls
        excess = calls - config.k * (calls - window._failures)
        # Also below `min_calls`: a success may be the call that reaches it.
        self.shedding = excess > 0
        if calls < config.min_calls:
            return 0.0
        return min(config.max_rejection, max(0.0, excess / (calls + 1)))

    def record(self, *, accepted: bool) -> None:
        """Count one request."""
        now = self.now()
        with _locks[self.place]:
            self._add(now, accepted=accepted)

    def _add(self, now: float, *, accepted: bool) -> None:
        self.window.rotate(now)
        self.window.add(calls=1, failures=not accepted)
        self._probability()

    def sheds(self) -> bool:
        """Return whether to refuse a call now, and count it if so."""
        chance = self.probability()
        if chance <= 0 or (self.config.random or current_random()).random() >= chance:
            return False
        now = self.now()
        with _locks[self.place]:
            self._add(now, accepted=False)
            self.rejected += 1
        return True

    def refusal(self, label: str) -> str:
        """Publish that a call was refused; return the name for its error."""
        if bus.entries:
            emit("CallRejected", label, policy="throttle", retry_after=None)
        return label

    def fail(self, error: BaseException, label: str) -> None:
        """Count a call that raised."""
        accepted = self.judge(error, label)
        if accepted is not None:
            self.record(accepted=accepted)

    def judge(self, error: BaseException, label: str) -> bool | None:
        """Return whether the dependency answered, None where it was not asked or nobody waited for it."""
        if not isinstance(error, Exception):
            return None
        try:
            permanent = self.judged(error) is PERMANENT
        except Exception as raised:  # a predicate of the user's: counts as failure
            callback_failed(label, "predicate", raised)
            return False
        return None if permanent and isinstance(error, CallRejectedError) else permanent

    def refuses(self, result: object, label: str) -> bool:
        """Return whether the user's predicate refuses `result`; one that raises does."""
        try:
            return self.config.result is not None and bool(self.config.result(result))
        except Exception as raised:  # a predicate of the user's: counts as failure
            callback_failed(label, "result predicate", raised)
            return True

    def reset(self) -> None:
        """Forget all that was counted."""
        with _locks[self.place]:
            self.window._turn(_BUCKETS)
            self.window.ok = self.rejected = 0
            self.shedding = False


class Throttle(Policy):
    """Refuse with probability `(requests - k * accepts) / (requests + 1)`, at most `max_rejection`. ThrottledError.

    Both count over the last `window` seconds, when a call ends; with fewer requests than `min_calls` there, none is
    refused. A refused call is a request; so is one that fails with an error that `on` covers, or whose result `result`
    refuses; all others are accepted requests. Cancelled calls and those that a policy below refused count as neither.
    Source: Site Reliability Engineering, "Handling Overload".
    """

    __slots__ = ("_config", "_state")

    def __init__(
        self,
        *,
        k: float = 2.0,
        window: float = 10.0,
        min_calls: int = 10,
        max_rejection: float = 0.9,
        on: Errors = TRANSIENT,
        result: Callable[[Any], bool] | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        self._config = ThrottleConfig(
            k=k,
            window=window,
            min_calls=min_calls,
            max_rejection=max_rejection,
            on=on,
            result=result,
            name=name,
            clock=clock,
            random=random,
        )
        self._state = _State(self._config)

    @property
    def config(self) -> ThrottleConfig:
        """The settings."""
        return self._config

    @property
    def name(self) -> str | None:
        """The name in events and errors."""
        return self._config.name

    @property
    def requests(self) -> int:
        """Calls in the window, refused ones included."""
        return self._state.counts()[0]

    @property
    def accepts(self) -> int:
        """Calls in the window that the dependency answered."""
        return self._state.counts()[1]

    @property
    def rejection_probability(self) -> float:
        """The chance of the next call to be refused, 0 to `max_rejection`."""
        return self._state.probability()

    @property
    def rejected(self) -> int:
        """How many calls were refused since the throttle was made or reset."""
        return self._state.rejected

    def reset(self) -> None:
        """Forget all that was counted."""
        self._state.reset()

    def __repr__(self) -> str:
        """Show the settings that matter most."""
        config = self._config
        return f"Throttle(k={config.k:g}, window={config.window:g}, name={config.name!r})"

    def __enter__(self) -> None:
        """Admit the block, or raise ThrottledError."""
        if self._state.sheds():
            raise ThrottledError(self._state.refusal(self._config.name or "throttle"), None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Count the block by how it ended."""
        if error is None:
            self._state.record(accepted=True)
        else:
            self._state.fail(error, self._config.name or "throttle")

    async def __aenter__(self) -> None:
        """Admit the block, or raise ThrottledError."""
        self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Count the block by how it ended."""
        self.__exit__(kind, error, traceback)

    def _keeps_state(self) -> bool:
        return True

    def _shape(self) -> tuple[Any, ...]:
        return ("throttle", self._config.result is not None, self._config.clock is not None)

    def _bind(self) -> dict[str, Any]:
        clock = self._config.clock
        now = None if clock is None else clock.monotonic
        return {"m": self._state, "w": self._state.window, "now": now}

    def _emit(self, code: Code, at: int, inner: Callable[[], None]) -> None:
        now = "_now()" if self._config.clock is None else f"_now{at}()"
        args = code.signature.args
        with code.block(f"if _w{at}._failures and (_m{at}.shedding or {now} >= _w{at}.edge):"):
            code.line(f"_name{at} = _throttled(_m{at}, _stack, {args})")
            with code.block(f"if _name{at} is not None:"):
                code.line(f"raise _ThrottledError(_name{at}, None)")
        with code.block("try:"):
            inner()
        with code.block(f"except BaseException as _error{at}:"):
            code.line(f"_throttle_failed(_m{at}, _error{at}, _stack, {args})")
            code.line("raise")
        if self._config.result is not None:
            code.line(f"_throttle_judged(_m{at}, _result, _stack, {args})")
        elif GIL:
            with code.block(f"if {now} >= _w{at}.edge:"):
                code.line(f"_throttle_accepted(_m{at})")
            with code.block("else:"):
                code.line(f"_w{at}.ok += 1")
        else:
            code.line(f"_throttle_accepted(_m{at})")

    def _bounds(self, inner: Bounds) -> Bounds:
        return inner.raising("ThrottledError")


@overload
def throttle(fn: Callable[_P, _T], /) -> Callable[_P, _T]: ...


@overload
def throttle(
    fn: None = None,
    /,
    *,
    k: float = 2.0,
    window: float = 10.0,
    min_calls: int = 10,
    max_rejection: float = 0.9,
    on: Errors = TRANSIENT,
    result: Callable[[Any], bool] | None = None,
    name: str | None = None,
    clock: Clock | None = None,
    random: Random | None = None,
) -> Throttle: ...


def throttle(fn: Any = None, /, **settings: Any) -> Any:
    """Return a `Throttle`, to decorate with or as a block; given a function, decorate it with one of its own."""
    policy = Throttle(**settings)
    return policy if fn is None else policy(fn)


# What generated code calls.


def _label(state: _State, stack: Stack, args: tuple[Any, ...]) -> str:
    return state.config.name or stack.label(args)


def _throttled(state: _State, stack: Stack, args: tuple[Any, ...]) -> str | None:
    """Return the name for the error if the call is to be refused."""
    return state.refusal(_label(state, stack, args)) if state.sheds() else None


def _accepted(state: _State) -> None:
    state.record(accepted=True)


def _judged(state: _State, result: object, stack: Stack, args: tuple[Any, ...]) -> None:
    state.record(accepted=not state.refuses(result, _label(state, stack, args)))


def _failed(state: _State, error: BaseException, stack: Stack, args: tuple[Any, ...]) -> None:
    state.fail(error, _label(state, stack, args))


hot.update(
    _ThrottledError=ThrottledError,
    _throttle_accepted=_accepted,
    _throttle_failed=_failed,
    _throttle_judged=_judged,
    _throttled=_throttled,
)
