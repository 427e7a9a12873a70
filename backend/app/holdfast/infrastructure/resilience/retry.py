"""Retry: try again what fails in passing, within attempts, deadline and budget."""

from __future__ import annotations

import sys

from holdfast.infrastructure.resilience import _compile, _foreign, _tries
from holdfast.infrastructure.resilience._ambient import hot
from holdfast.infrastructure.resilience._bounds import FOREVER
from holdfast.infrastructure.resilience._frozen import Faults, Frozen
from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.classify import TRANSIENT, _check_errors, _judge
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.deadline import _deadline, _tighter, _undo
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.timeout import Timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextvars import Token
    from random import Random
    from types import CodeType, FrameType, TracebackType
    from typing import Any, ParamSpec, TypeAlias, TypeVar, overload

    from holdfast.infrastructure.resilience._bounds import Bounds
    from holdfast.infrastructure.resilience.classify import Errors, Verdict

    _P = ParamSpec("_P")
    _T = TypeVar("_T")

    _StateFunction: TypeAlias = Callable[[Any], Any]

else:

    def overload(fn: object) -> object:
        """Stand in for typing.overload, which costs an import."""
        return fn


_WAIT = Backoff()


class RetryConfig(Frozen):
    """The settings of a `Retry`, validated: frozen, keyword-only, comparable."""

    __slots__ = (
        "after",
        "attempts",
        "before",
        "before_sleep",
        "budget",
        "clock",
        "deadline",
        "hint_cap",
        "name",
        "nested",
        "on",
        "random",
        "result",
        "stop",
        "wait",
    )

    attempts: int | None
    wait: Backoff | _StateFunction | float
    on: Errors | _StateFunction
    result: Callable[[Any], bool] | None
    deadline: float | None
    budget: RetryBudget | None
    hint_cap: float
    nested: bool
    stop: _StateFunction | None
    before: _StateFunction | None
    after: _StateFunction | None
    before_sleep: _StateFunction | None
    name: str | None
    clock: Clock | None
    random: Random | None

    def __init__(
        self,
        *,
        attempts: int | None = 3,
        wait: Backoff | _StateFunction | float = _WAIT,
        on: Errors | _StateFunction = TRANSIENT,
        result: Callable[[Any], bool] | None = None,
        deadline: float | None = None,
        budget: RetryBudget | None = None,
        hint_cap: float = 5.0,
        nested: bool = False,
        stop: _StateFunction | None = None,
        before: _StateFunction | None = None,
        after: _StateFunction | None = None,
        before_sleep: _StateFunction | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        self._set(
            attempts=attempts,
            wait=wait,
            on=on,
            result=result,
            deadline=deadline,
            budget=budget,
            hint_cap=hint_cap,
            nested=nested,
            stop=stop,
            before=before,
            after=after,
            before_sleep=before_sleep,
            name=name,
            clock=clock,
            random=random,
        )
        self._validate()
        if stop is not None:
            self._set(attempts=None)
        if isinstance(wait, (int, float)):
            self._set(wait=Backoff.fixed(wait))

    def _validate(self) -> None:
        faults = Faults("Retry")
        faults.number("attempts", self.attempts, 1, 1_000_000, whole=True, optional=True)
        faults.number("deadline", self.deadline, 0, above=True, optional=True)
        faults.number("hint_cap", self.hint_cap, 0)
        faults.check(
            isinstance(self.nested, bool), "nested", self.nested, "is not a bool", "give True or False"
        )
        if not isinstance(self.wait, Backoff) and not callable(self.wait):
            faults.number("wait", self.wait, 0, 86_400)
        if not _foreign.takes_state(self.on):
            _check_errors(faults, "on", self.on)
        faults.callable("result", self.result, sync=True)
        for name in ("stop", "before", "after", "before_sleep"):
            faults.callable(name, getattr(self, name))
        faults.name("name", self.name)
        if self.stop is not None and self.attempts not in {None, 3}:
            faults.add("attempts", self.attempts, "contradicts stop", "give one of the two")
        for name, kind in (("budget", RetryBudget), ("clock", Clock)):
            value = getattr(self, name)
            faults.check(
                value is None or isinstance(value, kind),
                name,
                value,
                f"is not a {kind.__name__}",
                "give one or None",
            )
        faults.finish()


_DEFAULT = RetryConfig()
_SECOND = _tries.resume_plain.__code__
_RETRYING = _compile.FILE_PREFIX + "retry"
_DRIVERS = tuple(
    one.__code__ for one in (_tries.loop, _tries.resume_async, _foreign.loop, _foreign.loop_async)
)


class Retry(Policy):
    """Make up to `attempts` attempts (None: no limit), `wait` apart, for errors that `on` calls transient.

    `result` says which results are failures too; `deadline` bounds all attempts and waits, seconds; a server's hint
    t waits t to t + `hint_cap`. `on`, `wait`, `stop`, `before`, `after`, `before_sleep` take tenacity's objects and
    functions of its RetryCallState. In a named pipeline it leaves retrying to the retry of a named pipeline around
    it, unless `nested`. It gives up by raising the original error with a note; where a policy below refused the last
    attempt, by raising that refusal, caused by the error before it.
    """

    __slots__ = ("_config", "_judge")

    _config: RetryConfig
    _judge: Callable[[Exception], Verdict]

    def __init__(
        self,
        attempts: int | None = 3,
        *,
        wait: Backoff | _StateFunction | float = _WAIT,
        on: Errors | _StateFunction = TRANSIENT,
        result: Callable[[Any], bool] | None = None,
        deadline: float | None = None,
        budget: RetryBudget | None = None,
        hint_cap: float = 5.0,
        nested: bool = False,
        stop: _StateFunction | None = None,
        before: _StateFunction | None = None,
        after: _StateFunction | None = None,
        before_sleep: _StateFunction | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        config = RetryConfig(
            attempts=attempts,
            wait=wait,
            on=on,
            result=result,
            deadline=deadline,
            budget=budget,
            hint_cap=hint_cap,
            nested=nested,
            stop=stop,
            before=before,
            after=after,
            before_sleep=before_sleep,
            name=name,
            clock=clock,
            random=random,
        )
        self._config = _DEFAULT if config == _DEFAULT else config
        self._judge = _judge(TRANSIENT if _foreign.takes_state(on) else on)

    @property
    def config(self) -> RetryConfig:
        """The settings."""
        return self._config

    @property
    def name(self) -> str | None:
        """The name in events; a decorated function's own name stands in when there is none."""
        return self._config.name

    def replace(self, **changes: Any) -> Retry:
        """Return a retry with some settings changed. ConfigurationError as at construction."""
        if changes.get("stop", self._config.stop) is None and self._config.stop is not None:
            # `stop` took the place of the attempts; without it they are the usual ones again.
            changes = {"attempts": _DEFAULT.attempts, **changes}
        return Retry(**{**self._config._fields(), **changes})

    def __iter__(self) -> Iterator[Attempt]:
        """Yield attempts for a block: `for attempt in retry: with attempt: …`; each loop is a call of its own."""
        return _blocks(self)

    def __aiter__(self) -> AsyncIterator[Attempt]:
        """Yield attempts for an async block: `async for attempt in retry: with attempt: …`."""
        return _async_blocks(self)

    def _parts(self) -> tuple[Policy, ...]:
        config = self._config
        if config.deadline is None:
            return (self,)
        return (_bound(config.deadline, config.name, config.clock), self)

    def _keeps_state(self) -> bool:
        return self._config.budget is not None

    def _shape(self) -> tuple[Any, ...]:
        config = self._config
        watched = _foreign.first(config)
        return (
            # One that never retries is nobody's outer retry.
            "once" if config.attempts == 1 else "retry",
            watched,
            _foreign.needed(config),
            config.result is not None,
            config.budget is not None,
            config.clock is not None,
            _tries.is_plain(config),
        )

    def _bind(self) -> dict[str, Any]:
        config = self._config
        bound: dict[str, Any] = {} if config.budget is None else {"budget": config.budget}
        if config.clock is not None and _foreign.needed(config):
            bound["clock"] = config.clock.monotonic
        return bound

    def _emit(self, code: _compile.Code, at: int, inner: Callable[[], None]) -> None:
        config = self._config
        if _foreign.first(config):
            code.line(f"_result = {code.slow('_drive', '_stack', str(at))}")
            return
        if _foreign.needed(config):
            code.line(f"_begun{at} = {'_now()' if config.clock is None else f'_clock{at}()'}")
        code.line(f"_failed{at} = None")
        with code.block("try:"):
            inner()
        with code.block("except Exception as _error:"):
            code.line(f"_failed{at} = _error")
        # Out of the handler, or every attempt's error would have the one before as its context.
        with code.block(f"if _failed{at} is not None:"):
            with code.block("try:"):
                self._emit_resume(code, at, f"_failed{at}", "None")
            with code.block("finally:"):
                code.line(f"_failed{at} = None")
        if config.result is not None:
            with code.block(f"elif _refused(_stack, {at}, _result, {code.signature.args}):"):
                self._emit_resume(code, at, "None", "_result")
        if config.budget is not None:
            with code.block("else:"):
                code.line(f"_budget{at}._pending += 1")

    def _emit_resume(self, code: _compile.Code, at: int, error: str, result: str) -> None:
        if _foreign.needed(self._config):
            call = code.slow("_resume_foreign", "_stack", str(at), error, result, f"_begun{at}")
        elif _tries.is_plain(self._config) and not code.is_async:
            call = code.slow("_resume_plain", "_stack", str(at), error, result)
        else:
            call = code.slow("_resume", "_stack", str(at), error, result)
        code.line(f"_result = {call}")

    def _bounds(self, inner: Bounds) -> Bounds:
        config = self._config
        attempts = FOREVER if config.attempts is None else float(config.attempts)
        # The mean load in a full outage that lasts; the floor of a budget comes on top.
        load = attempts if config.budget is None else min(attempts, 1 + config.budget.share)
        bounds = inner.but(
            attempts=attempts * inner.attempts,
            amplification=load * inner.amplification,
            duration=_duration(config, attempts, inner.duration, _wait),
            hinted=_duration(config, attempts, inner.hinted, _hinted_wait),
        )
        if config.deadline is None:
            return bounds
        return bounds.within(config.deadline).raising("TimeoutExceeded")

    def __repr__(self) -> str:
        """Show what differs from the defaults."""
        fields, usual = self._config._fields(), _DEFAULT._fields()
        changed = ", ".join(f"{name}={value!r}" for name, value in fields.items() if value != usual[name])
        return f"Retry({changed})"


def _duration(
    config: RetryConfig, attempts: float, attempt: float, wait: Callable[[RetryConfig, int], float]
) -> float:
    if FOREVER in {attempts, attempt}:
        return FOREVER
    return attempts * attempt + sum(wait(config, number) for number in range(1, int(attempts)))


def _wait(config: RetryConfig, retry: int) -> float:
    """Return the longest wait before a retry that the backoff asks for."""
    return config.wait.bound(retry) if isinstance(config.wait, Backoff) else FOREVER


def _hinted_wait(config: RetryConfig, retry: int) -> float:
    """Return the longest wait before a retry that a server's hint can make of it."""
    own = _wait(config, retry)
    return max(own, _tries.LONGEST_HINT + min(config.hint_cap, max(own, _tries.LONGEST_HINT)))


_USUAL = Retry()


class Attempt:
    """One attempt of a loop over a `Retry`; as a `with` block it swallows the error that will be retried."""

    __slots__ = ("_delay", "_entered", "_result", "_tokens", "_tries", "_until")

    def __init__(self, tries: Any, until: float | None) -> None:
        self._tries: _tries.Tries = tries
        self._until = until
        self._delay: float | None = None
        self._entered = False
        self._result: tuple[object] | None = None
        self._tokens: tuple[Token[tuple[int, int]], Token[float | None] | None] | None = None

    @property
    def number(self) -> int:
        """Which attempt this is, from 1."""
        return self._tries.number

    def set_result(self, result: object) -> None:
        """Hand over the block's result, so that the retry's `result` predicate can judge it."""
        self._result = (result,)

    def __enter__(self) -> Attempt:
        """Make this the current attempt, within the retry's deadline."""
        self._entered = True
        bound = None if self._until is None else _deadline.set(_tighter(self._until))
        block = (self.number, id(sys._getframe(1)))
        self._tokens = (_tries.attempt_number.set(block), bound)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Decide whether there is another attempt; swallow the error if there is."""
        tries = self._tries
        if error is None or isinstance(error, Exception):
            result = None if self._result is None else self._result[0]
            if tries.asks(error, result, handed=self._result is not None):
                self._delay = tries.decide(error, result)
            elif error is None:
                tries.done(None)
        self._leave()
        return self._delay is not None

    def _leave(self) -> None:
        if self._tokens is not None:
            number, bound = self._tokens
            _tries.restore(_tries.attempt_number, number)
            if bound is not None:
                _undo(bound)
            self._tokens = None

    def _next(self) -> float | None:
        """Return the wait before the next attempt, or None when this was the last."""
        if not self._entered:
            raise RuntimeError(
                "an attempt was not entered, so its error could not be retried: write `with attempt:` in the loop"
            )
        if self._delay is not None:
            self._tries.number += 1
        return self._delay


def _blocks(retry: Retry) -> Iterator[Attempt]:
    tries, until = _begin(retry)
    delay: float | None = 0.0
    try:
        while delay is not None:
            if delay > 0:
                tries.sleep(delay)
            tries.begin()
            attempt = Attempt(tries, until)
            yield attempt
            delay = attempt._next()
    finally:
        tries.leave()


async def _async_blocks(retry: Retry) -> AsyncIterator[Attempt]:
    tries, until = _begin(retry)
    delay: float | None = 0.0
    try:
        while delay is not None:
            if delay > 0:
                await tries.asleep(delay)
            await tries.abegin()
            attempt = Attempt(tries, until)
            yield attempt
            delay = attempt._next()
    finally:
        tries.leave()


def _begin(retry: Retry) -> tuple[_tries.Tries, float | None]:
    config, tries = retry.config, _foreign.begin(retry, None, (), {})
    _tries.deposit(tries)
    return tries, None if config.deadline is None else tries.now() + config.deadline


class _Bound(Timeout):
    """The deadline of a retry: in sync code the error that came last stands, however late it came."""

    __slots__ = ()

    def _shape(self) -> tuple[Any, ...]:
        return ("deadline", *super()._shape())

    def _emit(self, code: _compile.Code, at: int, inner: Callable[[], None]) -> None:
        if code.is_async:
            super()._emit(code, at, inner)
            return
        now = "_now()" if self.config.clock is None else f"_now{at}()"
        code.line(f"_token{at} = _deadline.set(_tighter({now} + _seconds{at}))")
        with code.block("try:"):
            inner()
        with code.block("finally:"):
            code.line(f"_deadline.reset(_token{at})")


def _bound(seconds: float, name: str | None, clock: Clock | None) -> Timeout:
    return _Bound(seconds, name=name, clock=clock)


@overload
def retry(fn: Callable[_P, _T], /) -> Callable[_P, _T]: ...


@overload
def retry(
    fn: None = None,
    /,
    *,
    attempts: int | None = 3,
    wait: Backoff | _StateFunction | float = _WAIT,
    on: Errors | _StateFunction = TRANSIENT,
    result: Callable[[Any], bool] | None = None,
    deadline: float | None = None,
    budget: RetryBudget | None = None,
    hint_cap: float = 5.0,
    nested: bool = False,
    stop: _StateFunction | None = None,
    before: _StateFunction | None = None,
    after: _StateFunction | None = None,
    before_sleep: _StateFunction | None = None,
    name: str | None = None,
    clock: Clock | None = None,
    random: Random | None = None,
) -> Retry: ...


def retry(fn: Any = None, /, **settings: Any) -> Any:
    """Decorate with `Retry()`, or with `Retry(**settings)` when called with settings."""
    if fn is None:
        return Retry(**settings)
    return (Retry(**settings) if settings else _USUAL)(fn)


def current_attempt() -> int:
    """Return the number of the attempt that the caller runs in, from 1; 1 outside any retry."""
    number, block = _tries.attempt_number.get(_UNKNOWN)
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if id(frame) == block or (number and _begins_a_turn(code)):
            return number
        if code in _DRIVERS:
            return int(frame.f_locals["tries"].number)
        if code is _SECOND:
            return 2
        if code.co_filename.startswith(_RETRYING):
            # A first attempt: it runs straight out of the generated function, which keeps no count.
            return 1
        frame = frame.f_back
    return number or 1


_UNKNOWN = (0, 0)


def _begins_a_turn(code: CodeType) -> bool:
    """Return whether a frame is an event loop's, above which is nothing of the task but who runs the loop."""
    return code.co_name == "_run" and code.co_filename.endswith(("asyncio/events.py", "asyncio\\events.py"))


hot["_tighter"] = _tighter
