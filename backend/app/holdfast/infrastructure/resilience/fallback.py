"""Fallback: answer with something else when a call fails."""

from __future__ import annotations

from holdfast.infrastructure.resilience import _compile, _degraded, errors
from holdfast.infrastructure.resilience._ambient import hot
from holdfast.infrastructure.resilience._bounds import FALLBACK_ERRORS, FOREVER
from holdfast.infrastructure.resilience._bus import bus, callback_failed, emit
from holdfast.infrastructure.resilience._frozen import Faults, Frozen
from holdfast.infrastructure.resilience._given import ABSENT, fresh
from holdfast.infrastructure.resilience.classify import (
    _PROGRAMMING,
    PERMANENT,
    TRANSIENT,
    Verdict,
    _check_errors,
    _judge,
)
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.resilience.policy import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from holdfast.infrastructure.resilience._bounds import Bounds
    from holdfast.infrastructure.resilience._compile import Code, Stack
    from holdfast.infrastructure.resilience.classify import Errors

_ARGUMENTS = 4  # inspect.CO_VARARGS


class FallbackConfig(Frozen):
    """The settings of a `Fallback`, validated: frozen, keyword-only, comparable."""

    __slots__ = ("call", "name", "on", "pass_args", "result", "value")

    value: Any
    call: Callable[..., Any] | None
    pass_args: bool
    on: Errors | None
    result: Callable[[Any], bool] | None
    name: str | None

    def __init__(
        self,
        *,
        value: Any = ABSENT,
        call: Callable[..., Any] | None = None,
        pass_args: bool = False,
        on: Errors | None = None,
        result: Callable[[Any], bool] | None = None,
        name: str | None = None,
    ) -> None:
        self._set(value=value, call=call, pass_args=pass_args, on=on, result=result, name=name)
        self._validate()

    def _validate(self) -> None:
        faults = Faults("Fallback")
        _check_answer(faults, self.value, self.call)
        _check_arguments(faults, self.call, pass_args=bool(self.pass_args))
        pass_args, name = _plain(self.pass_args), _plain(self.name)
        faults.check(isinstance(pass_args, bool), "pass_args", pass_args, "is not a bool", "give a bool")
        if self.on is PERMANENT:
            faults.add("on", self.on, "is no class of failures that a fallback takes", "give a predicate")
        elif self.on is not None:
            _check_errors(faults, "on", self.on)
        _check_predicate(faults, "result", self.result)
        faults.check(name is None or isinstance(name, str), "name", name, "is not text", "give a str or None")
        faults.finish()


def _check_answer(faults: Faults, value: object, call: object) -> None:
    if value is ABSENT and call is None:
        faults.add("value", value, "is missing", "give the answer, or call=, a function of the error")
    if value is not ABSENT and call is not None:
        faults.add("call", call, "contradicts the value given", "give one of the two")
    if callable(value):
        remedy = (
            "give call=fn to call it with the error, or call=lambda error: fn to answer with it; "
            "as a decorator it needs its answer, @fallback(None)"
        )
        faults.add("value", value, "is a function, which would be returned and not called", remedy)
    faults.callable("call", call)


def _check_arguments(faults: Faults, call: Any, *, pass_args: bool) -> None:
    """Refuse now what would otherwise fail in the next outage: a function that does not take the error."""
    function = getattr(call, "__func__", call)
    code = getattr(function, "__code__", None)
    if code is None or code.co_flags & _ARGUMENTS:
        return
    places = code.co_argcount - (function is not call)
    needed = places - len(function.__defaults__ or ())
    keywords = code.co_kwonlyargcount - len(function.__kwdefaults__ or ())
    if not places or (not pass_args and (needed > 1 or keywords)):
        remedy = "give a function of the error; of (error, *args, **kwargs) with pass_args=True"
        faults.add("call", call, "does not take what it is called with", remedy)


def _check_predicate(faults: Faults, path: str, function: object) -> None:
    faults.callable(path, function)
    if callable(function) and _compile.is_async_function(function):
        faults.add(path, function, "is a coroutine function", "give a plain function of the result")


def _plain(value: object) -> object:
    return value


class Fallback(Policy):
    """Answer with `value`, or with what `call` returns, when a call fails with what `on` covers; put it outermost.

    `call` gets the error (None: `result` refused the result), with `pass_args` the call's arguments after it; for async
    functions it may be async. `on`: by default every Exception but programming errors. A list, dict, set or bytearray
    is copied for every answer. A fallback that fails raises its own error, caused by the original one.
    """

    __slots__ = ("_config", "_judge")

    _config: FallbackConfig
    _judge: Callable[[Exception], Verdict]

    def __init__(
        self,
        value: Any = ABSENT,
        /,
        *,
        call: Callable[..., Any] | None = None,
        pass_args: bool = False,
        on: Errors | None = None,
        result: Callable[[Any], bool] | None = None,
        name: str | None = None,
    ) -> None:
        self._config = FallbackConfig(
            value=value, call=call, pass_args=pass_args, on=on, result=result, name=name
        )
        self._judge = _unless_programming if on is None else _judge(on)

    @property
    def config(self) -> FallbackConfig:
        """The settings."""
        return self._config

    @property
    def name(self) -> str | None:
        """The name in events; a decorated function's own name stands in when there is none."""
        return self._config.name

    def __repr__(self) -> str:
        """Show what was given."""
        fields = self._config._fields()
        value = fields.pop("value")
        given = [] if value is ABSENT else [repr(value)]
        given += [
            f"{name}={value!r}" for name, value in fields.items() if value is not None and value is not False
        ]
        return f"Fallback({', '.join(given)})"

    def _shape(self) -> tuple[Any, ...]:
        return ("fallback", self._config.result is not None, self._is_async())

    def _is_async(self) -> bool:
        return self._config.call is not None and _compile.is_async_function(self._config.call)

    def _emit(self, code: Code, at: int, inner: Callable[[], None]) -> None:
        if self._is_async() and not code.is_async:
            self._emit_refusal(code, at)
            return
        with code.block("try:"):
            inner()
        with code.block(f"except Exception as _error{at}:"):
            with code.block(f"if not _fallback_covers(_stack, {at}, _error{at}, {code.signature.args}):"):
                code.line("raise")
            code.line(f"_result = {code.slow('_fallback_answer', '_stack', str(at), f'_error{at}')}")
        if self._config.result is not None:
            refused = f"_fallback_refuses(_stack, {at}, _result, {code.signature.args})"
            with code.block("else:"), code.block(f"if {refused}:"):
                code.line(f"_result = {code.slow('_fallback_answer', '_stack', str(at), 'None')}")

    def _require_fit(self, code: Code) -> None:
        """Raise TypeError where code for a sync function would have to await the answer."""
        if self._is_async() and not code.is_async and code.signature is not _compile.CALLER:
            raise _unfit(self._config.call)

    def _emit_refusal(self, code: Code, at: int) -> None:
        # `policy.call` is compiled for sync and async functions at once: which one it meets shows when it is called.
        self._require_fit(code)
        code.line(f"raise _fallback_unfit(_stack.parts[{at}].config.call)")

    def _bounds(self, inner: Bounds) -> Bounds:
        known = [name for name in inner.errors[1:] if not _covers_type(self._config.on, name)]
        rest = "programming errors" if self._config.on is None else "whatever the fallback does not cover"
        bounds = inner.but(errors=(rest, *known))
        if self._config.call is None:
            return bounds
        return bounds.but(duration=FOREVER, hinted=FOREVER).raising(FALLBACK_ERRORS)


def fallback(
    value: Any = ABSENT,
    /,
    *,
    call: Callable[..., Any] | None = None,
    pass_args: bool = False,
    on: Errors | None = None,
    result: Callable[[Any], bool] | None = None,
    name: str | None = None,
) -> Fallback:
    """Return a `Fallback`, to decorate with."""
    return Fallback(value, call=call, pass_args=pass_args, on=on, result=result, name=name)


class watch_degraded:
    """Notice, for a `with` block, whether a fallback answered any call made in it: `degraded`, also after the block.

    Tasks and threads that inherit the block's context count. One instance serves one block at a time.
    """

    __slots__ = ("_watch",)

    def __init__(self) -> None:
        self._watch: _degraded.Watch | None = None

    @property
    def degraded(self) -> bool:
        """Whether a fallback has answered so far."""
        return self._watch is not None and self._watch.degraded

    def __enter__(self) -> watch_degraded:
        """Begin to watch."""
        self._watch = _degraded.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Pass what was noticed on to the block around this one."""
        if self._watch is not None:
            _degraded.end(self._watch)


_GROUP: type[Exception] = ExceptionGroup
_NOT_FOR_FALLBACKS = (*_PROGRAMMING, ConfigurationError)


def _unless_programming(error: Exception) -> Verdict:
    # In a group, one that calls for a programmer outweighs the rest.
    inside: tuple[Exception, ...] = getattr(error, "exceptions", ()) if isinstance(error, _GROUP) else ()
    if isinstance(error, _NOT_FOR_FALLBACKS) or PERMANENT in map(_unless_programming, inside):
        return PERMANENT
    return TRANSIENT


def _covers_type(on: Errors | None, name: str) -> bool:
    """Return whether an error that is known by its class's name never gets past the fallback."""
    if on is None:
        return True
    kind = getattr(errors, name, None)
    return isinstance(on, (type, tuple)) and isinstance(kind, type) and issubclass(kind, on)


def _unfit(call: object) -> TypeError:
    name = getattr(call, "__qualname__", None) or repr(call)
    return TypeError(
        f"the fallback {name} is async, but the function that it answers for is sync and cannot await it: "
        "give a sync function, or make the decorated function `async def`"
    )


def _name(stack: Stack, at: int, args: tuple[Any, ...]) -> str:
    return stack.parts[at].name or stack.label(args)


# What generated code calls.


def _covers(stack: Stack, at: int, error: Exception, args: tuple[Any, ...]) -> bool:
    """Return whether the fallback answers for `error`; not if the user's predicate raises."""
    fallback: Any = stack.parts[at]
    try:
        return fallback._judge(error) is not PERMANENT
    except Exception as raised:
        callback_failed(_name(stack, at, args), "predicate", raised)
        return False


def _refuses(stack: Stack, at: int, result: object, args: tuple[Any, ...]) -> bool:
    """Return whether the user's predicate calls `result` a failure; one that raises does not."""
    fallback: Any = stack.parts[at]
    try:
        return bool(fallback._config.result(result))
    except Exception as raised:
        callback_failed(_name(stack, at, args), "result predicate", raised)
        return False


def _answer(
    stack: Stack, at: int, error: Exception | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Answer for a call that failed with `error`, or whose result was refused."""
    try:
        result = _ask(stack, at, error, args, kwargs)
        _compile.refuse_awaitable(result)
        return _degrade(stack, at, error, args, result)
    except Exception as raised:
        if _is_news(raised, error):
            raise raised from error
        raise
    finally:
        # Raised again by the fallback, it would keep itself, by its traceback and this frame.
        del error


async def _answer_async(
    stack: Stack, at: int, error: Exception | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Answer for an async call."""
    try:
        result = _ask(stack, at, error, args, kwargs)
        if hasattr(result, "__await__"):
            result = await result
        return _degrade(stack, at, error, args, result)
    except Exception as raised:
        if _is_news(raised, error):
            raise raised from error
        raise
    finally:
        del error


def _ask(
    stack: Stack, at: int, error: Exception | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    fallback: Any = stack.parts[at]
    config: FallbackConfig = fallback._config
    try:
        if config.call is None:
            return fresh(config.value)
        return config.call(error, *stack.own(args), **kwargs) if config.pass_args else config.call(error)
    finally:
        del error


def _degrade(stack: Stack, at: int, error: Exception | None, args: tuple[Any, ...], result: Any) -> Any:
    _degraded.mark()
    if stack.meters is not None and (counts := stack.meters.get(id(stack.parts[at]))) is not None:
        counts.degrade()
    if bus.entries:
        emit("FallbackUsed", _name(stack, at, args), error=error)
    return result


def _is_news(raised: Exception, original: Exception | None) -> bool:
    """Return whether the fallback's error has no cause yet, and is not the original one or a cause of that."""
    return original is not None and raised.__cause__ is None and not _leads_to(original, raised)


def _leads_to(error: BaseException, wanted: BaseException) -> bool:
    seen: set[int] = set()
    ahead: list[BaseException | None] = [error]
    while ahead:
        one = ahead.pop()
        if one is wanted:
            return True
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            ahead += [one.__cause__, one.__context__]
    return False


hot.update(
    _fallback_answer=_answer,
    _fallback_answer_async=_answer_async,
    _fallback_covers=_covers,
    _fallback_refuses=_refuses,
    _fallback_unfit=_unfit,
)
