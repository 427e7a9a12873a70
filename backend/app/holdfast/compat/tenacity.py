"""tenacity's interface on holdfast's engine: `from holdfast.compat.tenacity import …` for `from tenacity import …`.

Strategies, callbacks and errors are tenacity's own; the objects that retry are holdfast's.
"""

from __future__ import annotations

import copyreg
import functools
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload
from weakref import WeakKeyDictionary

import tenacity
import tenacity.asyncio
from tenacity import (
    NO_RESULT,
    BaseAction,
    BaseRetrying,
    DoAttempt,
    DoSleep,
    Future,
    RetryAction,
    RetryCallState,
    RetryError,
    TryAgain,
    WrappedFn,
    after_log,
    after_nothing,
    before_log,
    before_nothing,
    before_sleep_log,
    before_sleep_nothing,
    retry_all,
    retry_always,
    retry_any,
    retry_base,
    retry_if_exception,
    retry_if_exception_cause_type,
    retry_if_exception_message,
    retry_if_exception_type,
    retry_if_not_exception_message,
    retry_if_not_exception_type,
    retry_if_not_result,
    retry_if_result,
    retry_never,
    retry_unless_exception_type,
    sleep,
    sleep_using_event,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    stop_any,
    stop_before_delay,
    stop_never,
    stop_when_event_set,
    wait_chain,
    wait_combine,
    wait_exception,
    wait_exponential,
    wait_exponential_jitter,
    wait_fixed,
    wait_full_jitter,
    wait_incrementing,
    wait_none,
    wait_random,
    wait_random_exponential,
)

from holdfast.compat._awaiting import awaiting
from holdfast.infrastructure.resilience import _compile, _foreign, _tries
from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience.classify import TRANSIENT
from holdfast.infrastructure.resilience.retry import Retry

if TYPE_CHECKING:
    from types import TracebackType

    from holdfast.infrastructure.resilience.classify import Verdict

_P = ParamSpec("_P")
_T = TypeVar("_T")
_R_co = TypeVar("_R_co", covariant=True)

__all__ = [
    "NO_RESULT",
    "AsyncRetryDecorator",
    "AsyncRetrying",
    "AttemptManager",
    "BaseAction",
    "BaseRetrying",
    "DoAttempt",
    "DoSleep",
    "Future",
    "RetryAction",
    "RetryCallState",
    "RetryDecorated",
    "RetryError",
    "Retrying",
    "Statistics",
    "TryAgain",
    "WrappedFn",
    "after_log",
    "after_nothing",
    "before_log",
    "before_nothing",
    "before_sleep_log",
    "before_sleep_nothing",
    "retry",
    "retry_all",
    "retry_always",
    "retry_any",
    "retry_base",
    "retry_if_exception",
    "retry_if_exception_cause_type",
    "retry_if_exception_message",
    "retry_if_exception_type",
    "retry_if_not_exception_message",
    "retry_if_not_exception_type",
    "retry_if_not_result",
    "retry_if_result",
    "retry_never",
    "retry_unless_exception_type",
    "sleep",
    "sleep_using_event",
    "stop_after_attempt",
    "stop_after_delay",
    "stop_all",
    "stop_any",
    "stop_before_delay",
    "stop_never",
    "stop_when_event_set",
    "wait_chain",
    "wait_combine",
    "wait_exception",
    "wait_exponential",
    "wait_exponential_jitter",
    "wait_fixed",
    "wait_full_jitter",
    "wait_incrementing",
    "wait_none",
    "wait_random",
    "wait_random_exponential",
]

# Whoever gave no `sleep` sleeps on holdfast's clock.
_USUAL_SLEEPS = (tenacity.Retrying().sleep, tenacity.AsyncRetrying().sleep)
_SETTINGS = ("stop", "wait", "retry", "before", "after", "before_sleep", "_name")
_SHOWN = (*functools.WRAPPER_ASSIGNMENTS, "__defaults__", "__kwdefaults__")


def _reduce(future: Future) -> tuple[Any, ...]:
    error = future.exception()
    value = future.result() if error is None else error
    return Future.construct, (future.attempt_number, value, error is not None)


# With it a RetryError can be sent to another process.
copyreg.pickle(Future, _reduce)


class Statistics(Mapping[str, Any]):
    """What `fn.statistics` is: a live, read-only view of `fn.retry.statistics`."""

    __slots__ = ("_recent",)

    def __init__(self, recent: Any) -> None:
        self._recent: _Recent = recent

    def __getitem__(self, key: str) -> Any:
        """Return one figure. KeyError before the first call."""
        return self._recent.get()[key]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the figures' names."""
        return iter(self._recent.get())

    def __len__(self) -> int:
        """Return how many figures there are: none before the first call."""
        return len(self._recent.get())

    def __repr__(self) -> str:
        """Show them as a dict."""
        return repr(self._recent.get())


class _Caller:
    """Stands for one thread, as long as it lives."""

    __slots__ = ("__weakref__",)


_thread = threading.local()


def _caller() -> object:
    """Return what stands for the running task, or for the thread where there is none."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        task: object = asyncio.current_task()
        if task is not None:
            return task
    try:
        found: _Caller = _thread.caller
    except AttributeError:
        found = _thread.caller = _Caller()
    return found


class _Recent:
    """The figures of the last call of each living thread and task, and of the last one anywhere."""

    __slots__ = ("_calls", "_last")

    def __init__(self) -> None:
        self._calls: WeakKeyDictionary[object, dict[str, Any]] = WeakKeyDictionary()
        self._last: dict[str, Any] = {}

    def put(self, figures: dict[str, Any]) -> None:
        self._calls[_caller()] = self._last = figures

    def get(self) -> dict[str, Any]:
        return self._calls.get(_caller(), self._last)


class _Engine:
    """What a retrying object keeps beside its settings: the policy made of them, and the figures of its calls."""

    __slots__ = ("_made", "recent")

    def __init__(self) -> None:
        self.recent = _Recent()
        self._made: tuple[tuple[Any, ...], Retry, bool] | None = None

    def of(self, retrying: BaseRetrying) -> tuple[Retry, bool]:
        """Return the policy, and whether it has to see successes too; settings may have been assigned since."""
        given = tuple(getattr(retrying, name) for name in _SETTINGS)
        made = self._made
        if made is None or made[0] != given:
            made = self._made = (given, _policy(retrying), _watches(retrying))
        return made[1:]


def _policy(retrying: BaseRetrying) -> Retry:
    return Retry(
        None,
        on=Exception,
        stop=retrying.stop,
        wait=retrying.wait,
        before=None if retrying.before is before_nothing else retrying.before,
        after=None if retrying.after is after_nothing else retrying.after,
        before_sleep=retrying.before_sleep,
        name=retrying._name,
    )


def _watches(retrying: BaseRetrying) -> bool:
    return retrying.before not in {None, before_nothing} or _judges(retrying.retry)


def _judges(predicate: Any) -> bool:
    """Return whether a predicate may look at results, so that it has to be asked about each."""
    return not _foreign.takes_state(predicate) or _foreign._judges_results(predicate)


def _engine(retrying: BaseRetrying) -> _Engine:
    try:
        found: _Engine = vars(retrying)["_engine"]
    except KeyError:
        found = vars(retrying).setdefault("_engine", _Engine())
    return found


class _Call(_foreign.ForeignTries):
    """The attempts of one call by tenacity's rules: what callbacks raise comes out, and so does RetryError."""

    __slots__ = ("judges", "recent", "retrying", "stopped")

    def __init__(
        self,
        retrying: BaseRetrying,
        fn: Any = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        begun: float | None = None,
    ) -> None:
        engine = _engine(retrying)
        super().__init__(engine.of(retrying)[0], None, args, kwargs or {}, begun)
        self.state.fn = fn
        self.state.retry_object = self.retrying = retrying
        self.statistics["delay_since_first_attempt"] = 0
        self.judges = _judges(retrying.retry)
        self.stopped = False
        self.recent = engine.recent
        self._show()

    @property
    def name(self) -> str:
        """What events call this."""
        if self.config.name is not None or self.state is None or self.state.fn is None:
            return self.config.name or "retry"
        return _compile.label_of(self.state.fn)

    def verdict(self, error: Exception | None) -> Verdict:
        """Leave the verdict to tenacity's predicate."""
        return TRANSIENT

    def asks(self, error: Exception | None, result: object, *, handed: bool = True) -> bool:
        """Return whether there is anything to decide after this outcome."""
        self.refused = False
        return error is not None or self.judges

    def give_up(self, reason: str, error: Exception | None) -> None:
        """Note whether it was wanted to go on."""
        self.stopped = self.refused
        super().give_up(reason, error)

    def beginning(self) -> Generator[Any, Any, None]:
        """Make the state that of a new attempt, and tell `before`."""
        if self.state.outcome is not None:
            self.state.prepare_for_next_attempt()
        if self.config.before is not None:
            yield from self._ask("before", self.config.before)

    def begin(self) -> None:
        """Begin an attempt; `sleep` is called for no time too, as tenacity does."""
        if self.number > 1 and not self.state.upcoming_sleep > 0:
            self.sleep(0.0)
        super().begin()

    async def abegin(self) -> None:
        """Begin an attempt; `sleep` is called for no time too, as tenacity does."""
        if self.number > 1 and not self.state.upcoming_sleep > 0:
            await self.asleep(0.0)
        await super().abegin()

    def sleep(self, seconds: float) -> None:
        """Wait by the function that was given for it, or on the clock."""
        own: Any = self.retrying.sleep
        if own not in _USUAL_SLEEPS:
            own(seconds)
        elif seconds > 0:
            super().sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        """Wait by the function that was given for it, or on the clock."""
        own: Any = self.retrying.sleep
        if own not in _USUAL_SLEEPS:
            waiting = own(seconds)
            if _foreign._is_awaitable(waiting):
                await waiting
        elif seconds > 0:
            await super().asleep(seconds)

    def done(self, result: Any) -> Any:
        """Note that a call succeeded."""
        self._show()
        return super().done(result)

    def _show(self) -> None:
        """Let `statistics` tell of this call, and again after the function may have called itself."""
        self.recent.put(self.statistics)

    def _note(self, error: Exception | None, result: object) -> None:
        since = self.statistics["delay_since_first_attempt"]
        super()._note(error, result)
        self.statistics["delay_since_first_attempt"] = since
        self._show()

    def _wanted(self, error: Exception | None, verdict: Verdict) -> Generator[Any, Any, bool]:
        if isinstance(error, TryAgain):
            return True
        answer = yield from self._ask("retry", self.retrying.retry)
        return bool(answer)

    def _wait(self, error: Exception | None, verdict: Verdict) -> Generator[Any, Any, float | None]:
        # tenacity notes the time when it is about to ask `stop`, which is next.
        self.statistics["delay_since_first_attempt"] = self.state.seconds_since_start
        return (yield from super()._wait(error, verdict))

    def _seconds(self, answer: Any) -> float:
        return float(answer)

    def _ask(self, what: str, function: Any, *, default: Any = None) -> Generator[Any, Any, Any]:
        answer = function(self.state)
        if _foreign._is_awaitable(answer):
            answer = yield answer
        return answer

    def judged(self, outcome: Future) -> Generator[Any, Any, float | None]:
        """Judge how a block ended; return the wait before the next one, or None."""
        error: Any = outcome.exception()
        result = None if error is not None else outcome.result()
        try:
            return (yield from self.steps(error, result)) if self.asks(error, result) else None
        finally:
            del error

    def over(self) -> Any:
        """End a call that was stopped: return what `retry_error_callback` returns, or raise."""
        retrying, state = self.retrying, self.state
        # Errors lead to this frame: nothing in it may lead back to them.
        self.state = None
        if retrying.retry_error_callback:
            return retrying.retry_error_callback(state)
        error = state.outcome.exception()
        failure = retrying.retry_error_cls(state.outcome)
        del state
        try:
            if not retrying.reraise:
                raise failure from error
            if _raises_original(error, failure):
                raise error
            failure.reraise()
        finally:
            del error, failure


def _raises_original(error: BaseException | None, failure: RetryError) -> bool:
    own = type(failure).reraise is not RetryError.reraise
    return error is not None and not own and not isinstance(error, TryAgain)


class AttemptManager(tenacity.AttemptManager):
    """One attempt of a loop over `Retrying`; as a `with` block it keeps an Exception for the loop to decide on."""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Keep how the block ended; cancellation and exits of the program pass."""
        if exc_value is not None and not isinstance(exc_value, Exception):
            return None
        return super().__exit__(exc_type, exc_value, traceback)


def _first(begun: float) -> dict[str, Any]:
    return {"start_time": begun, "attempt_number": 1, "idle_for": 0, "delay_since_first_attempt": 0}


def _call(retrying: BaseRetrying, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a sync function, again and again if need be."""
    result = _attempts(retrying, fn, args, kwargs)
    _compile.refuse_awaitable(result)
    return result


def _attempts(retrying: BaseRetrying, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not _enabled(retrying):
        return fn(*args, **kwargs)
    engine = _engine(retrying)
    if engine.of(retrying)[1]:
        return _loop(_Call(retrying, fn, args, kwargs), fn, None, ended=False)
    begun = ambient.monotonic()
    figures = _first(begun)
    engine.recent.put(figures)
    try:
        result = fn(*args, **kwargs)
    except Exception as raised:  # judged below, and raised again if it is final
        error = raised
    else:
        engine.recent.put(figures)
        return result
    try:
        return _loop(_Call(retrying, fn, args, kwargs, begun), fn, error, ended=True)
    finally:
        del error


def _loop(call: _Call, fn: Any, error: Exception | None, *, ended: bool) -> Any:
    try:
        result = _foreign.loop(call, fn, error, None, ended=ended)
    except Exception:
        if not call.stopped:
            raise
    else:
        if not call.stopped:
            return result
    finally:
        del error
        if not call.stopped:
            call.state = None
    return call.over()


async def _acall(retrying: BaseRetrying, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call an async function, or a sync one within an event loop, again and again if need be."""
    awaited = awaiting(fn)
    if not _enabled(retrying):
        return await awaited(*args, **kwargs)
    engine = _engine(retrying)
    if engine.of(retrying)[1]:
        return await _aloop(_Call(retrying, fn, args, kwargs), awaited, None, ended=False)
    begun = ambient.monotonic()
    figures = _first(begun)
    engine.recent.put(figures)
    try:
        result = await awaited(*args, **kwargs)
    except Exception as raised:  # judged below, and raised again if it is final
        error = raised
    else:
        engine.recent.put(figures)
        return result
    try:
        return await _aloop(_Call(retrying, fn, args, kwargs, begun), awaited, error, ended=True)
    finally:
        del error


async def _aloop(call: _Call, fn: Any, error: Exception | None, *, ended: bool) -> Any:
    try:
        result = await _foreign.loop_async(call, fn, error, None, ended=ended)
    except Exception:
        if not call.stopped:
            raise
    else:
        if not call.stopped:
            return result
    finally:
        del error
        if not call.stopped:
            call.state = None
    return await _settled(call)


async def _settled(call: _Call) -> Any:
    last = call.over()
    return await last if _foreign._is_awaitable(last) else last


def _enabled(retrying: BaseRetrying) -> bool:
    # Older versions of tenacity cannot be disabled.
    return getattr(retrying, "enabled", True)


def _blocks(retrying: BaseRetrying) -> Generator[tenacity.AttemptManager, None, None]:
    call = _Call(retrying)
    while True:
        call.begin()
        yield AttemptManager(call.state)
        outcome = call.state.outcome
        if outcome is None:
            continue
        delay = _foreign.finish(call.judged(outcome))
        if delay is None:
            break
        if delay > 0:
            call.sleep(delay)
        call.number += 1
    _last(call, outcome)


async def _ablocks(retrying: BaseRetrying) -> AsyncIterator[tenacity.AttemptManager]:
    call = _Call(retrying)
    while True:
        await call.abegin()
        yield AttemptManager(call.state)
        outcome = call.state.outcome
        if outcome is None:
            continue
        delay = await _foreign.finish_async(call.judged(outcome))
        if delay is None:
            break
        if delay > 0:
            await call.asleep(delay)
        call.number += 1
    last = _last(call, outcome)
    if _foreign._is_awaitable(last):
        await last


def _last(call: _Call, outcome: Future) -> Any:
    """End a loop: quietly after a success, by what `retry_error_callback` returns, or by an error."""
    if call.stopped:
        return call.over()
    error: Any = outcome.exception()
    try:
        return call.done(None) if error is None else _tries.end(error, None)
    finally:
        del error


def _only_block(retrying: BaseRetrying) -> Generator[tenacity.AttemptManager, None, None]:
    """Yield the only attempt of an object that is disabled."""
    state = RetryCallState(retrying, None, (), {})
    yield AttemptManager(state)
    if state.outcome is not None:
        state.outcome.result()


async def _only_ablock(retrying: BaseRetrying) -> AsyncIterator[tenacity.AttemptManager]:
    for attempt in _only_block(retrying):
        yield attempt


class Retrying(tenacity.Retrying):
    """Retry sync code: `Retrying(...)(fn, *args)`, `.wraps(fn)`, or `for attempt in Retrying(...): with attempt: ...`.

    Settings are tenacity's and may be assigned at any time. Safe to share between threads.
    """

    def __call__(self, fn: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        """Call `fn` until it succeeds; RetryError, or the last error with `reraise`, when `stop` says so.

        TypeError for async functions and generator functions.
        """
        _refuse(fn)
        result: _T = _call(self, fn, args, kwargs)
        return result

    def __iter__(self) -> Generator[tenacity.AttemptManager, None, None]:  # noqa: PYI058  # as tenacity's
        """Yield attempts for a block; each loop is a call of its own."""
        return _blocks(self) if _enabled(self) else _only_block(self)

    def wraps(self, f: Callable[_P, _T]) -> RetryDecorated[_P, _T]:  # type: ignore[override]
        """Return `f` under this object, with `retry`, `retry_with` and `statistics`. TypeError as for a call."""
        _refuse(f)

        @functools.wraps(f, _SHOWN)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return _call(self, f, args, kwargs)

        decorated: RetryDecorated[_P, _T] = _equip(wrapped, self, f)
        return decorated

    @property
    def statistics(self) -> dict[str, Any]:
        """The figures of this thread's or task's last call, the running one included; else of the last one anywhere.

        `start_time` (monotonic seconds), `attempt_number`, `idle_for` and `delay_since_first_attempt` (seconds); empty
        before the first call. Each call has a dict of its own.
        """
        return _engine(self).recent.get()

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings: figures are not pickled."""
        return _settings(super().__getstate__())


class AsyncRetrying(tenacity.AsyncRetrying):
    """Retry async code, as `Retrying` does; loops by `async for attempt in AsyncRetrying(...): with attempt: ...`.

    Callbacks, strategies and `sleep` may be async. Safe to share between tasks, loops included.
    """

    async def __call__(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Await `fn` until it succeeds, or call it if it is sync; errors as `Retrying`."""
        _compile.refuse_target(fn, call=True)
        return await _acall(self, fn, args, kwargs)

    def __aiter__(self) -> AsyncIterator[tenacity.AttemptManager]:  # type: ignore[override]
        """Yield attempts for a block; each loop is a call of its own."""
        return _ablocks(self) if _enabled(self) else _only_ablock(self)

    def wraps(self, fn: Callable[_P, _T]) -> RetryDecorated[_P, _T]:  # type: ignore[override]
        """Return `fn` as an async function under this object, with `retry`, `retry_with` and `statistics`."""
        _compile.refuse_target(fn, call=True)

        @functools.wraps(fn, _SHOWN)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            return await _acall(self, fn, args, kwargs)

        decorated: RetryDecorated[_P, _T] = _equip(wrapped, self, fn)
        return decorated

    @property
    def statistics(self) -> dict[str, Any]:
        """The figures of this task's last call, as `Retrying.statistics`."""
        return _engine(self).recent.get()

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings: figures are not pickled."""
        return _settings(super().__getstate__())


def _settings(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != "_engine"}


def _refuse(fn: Any) -> None:
    _compile.refuse_target(fn, call=True)
    if _compile.is_async_function(fn):
        name = getattr(fn, "__qualname__", None) or repr(fn)
        raise TypeError(f"{name} is async, so nothing would be retried: use AsyncRetrying, or @retry")


def _equip(wrapped: Any, retrying: Any, fn: Any) -> Any:
    def retry_with(*args: Any, **kwargs: Any) -> Any:
        return retrying.copy(*args, **kwargs).wraps(fn)

    wrapped.retry = retrying
    wrapped.retry_with = retry_with
    wrapped.statistics = Statistics(_engine(retrying).recent)
    return wrapped


class RetryDecorated(Protocol[_P, _R_co]):
    """A decorated function: its own signature, and what tenacity attaches to it."""

    retry: Retrying | AsyncRetrying
    statistics: Statistics

    def retry_with(self, *args: Any, **kwargs: Any) -> RetryDecorated[_P, _R_co]:
        """Return the function under a copy of its object with some settings changed."""
        ...

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R_co:
        """Call the function, with retries."""
        ...

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> RetryDecorated[_P, _R_co]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> RetryDecorated[..., _R_co]: ...


class AsyncRetryDecorator(Protocol):
    """What `retry(sleep=<async function>)` returns: a sync function becomes async under it."""

    @overload
    def __call__(
        self, fn: Callable[_P, Coroutine[Any, Any, _T]], /
    ) -> RetryDecorated[_P, Coroutine[Any, Any, _T]]: ...
    @overload
    def __call__(self, fn: Callable[_P, _T], /) -> RetryDecorated[_P, Coroutine[Any, Any, _T]]: ...


@overload
def retry(func: Callable[_P, _T], /) -> RetryDecorated[_P, _T]: ...


@overload
def retry(
    *,
    sleep: Callable[[float], Awaitable[None]],
    stop: Callable[[RetryCallState], Any] = ...,
    wait: Callable[[RetryCallState], Any] = ...,
    retry: Callable[[RetryCallState], Any] = ...,
    before: Callable[[RetryCallState], Any] | None = ...,
    after: Callable[[RetryCallState], Any] | None = ...,
    before_sleep: Callable[[RetryCallState], Any] | None = ...,
    reraise: bool = ...,
    retry_error_cls: type[RetryError] = ...,
    retry_error_callback: Callable[[RetryCallState], Any] | None = ...,
    name: str | None = ...,
    enabled: bool = ...,
) -> AsyncRetryDecorator: ...


@overload
def retry(
    sleep: Callable[[float], None] = ...,
    stop: Callable[[RetryCallState], Any] = ...,
    wait: Callable[[RetryCallState], Any] = ...,
    retry: Callable[[RetryCallState], Any] = ...,
    before: Callable[[RetryCallState], Any] | None = ...,
    after: Callable[[RetryCallState], Any] | None = ...,
    before_sleep: Callable[[RetryCallState], Any] | None = ...,
    reraise: bool = ...,  # noqa: FBT001  # as tenacity's
    retry_error_cls: type[RetryError] = ...,
    retry_error_callback: Callable[[RetryCallState], Any] | None = ...,
    name: str | None = ...,
    enabled: bool = ...,  # noqa: FBT001
) -> Callable[[Callable[_P, _T]], RetryDecorated[_P, _T]]: ...


def retry(*settings: Any, **named: Any) -> Any:
    """Decorate a function with a new `Retrying`, or `AsyncRetrying` for an async function or an async `sleep`.

    Takes tenacity's settings, with tenacity's defaults: it retries every Exception, at once, for ever.
    """
    if len(settings) == 1 and callable(settings[0]) and not named:
        return retry()(settings[0])

    def decorate(fn: Any) -> Any:
        if isinstance(fn, retry_base):
            given = type(fn).__name__
            warnings.warn(
                f"{given} is given as what to retry: did you mean retry={given}(...)?", stacklevel=2
            )
        asleep = _compile.is_async_function(named.get("sleep"))
        kind: Any = AsyncRetrying if asleep or _compile.is_async_function(fn) else Retrying
        return kind(*settings, **named).wraps(fn)

    return decorate


# For `tenacity.wait.wait_base` and its like; down here, as settings are called the same.
after = tenacity.after
asyncio = tenacity.asyncio
before = tenacity.before
before_sleep = tenacity.before_sleep
nap = tenacity.nap
stop = tenacity.stop
wait = tenacity.wait
