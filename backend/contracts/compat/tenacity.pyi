"""tenacity's interface on holdfast's engine: `from holdfast.compat.tenacity import …` for `from tenacity import …`.

Strategies, callbacks and errors are tenacity's own; the objects that retry are holdfast's.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator, Mapping
from types import TracebackType
from typing import Any, ParamSpec, Protocol, TypeVar, overload

import tenacity
import tenacity.asyncio
from tenacity import NO_RESULT as NO_RESULT
from tenacity import BaseAction as BaseAction
from tenacity import BaseRetrying as BaseRetrying
from tenacity import DoAttempt as DoAttempt
from tenacity import DoSleep as DoSleep
from tenacity import Future as Future
from tenacity import RetryAction as RetryAction
from tenacity import RetryCallState as RetryCallState
from tenacity import RetryError as RetryError
from tenacity import TryAgain as TryAgain
from tenacity import WrappedFn as WrappedFn
from tenacity import after_log as after_log
from tenacity import after_nothing as after_nothing
from tenacity import before_log as before_log
from tenacity import before_nothing as before_nothing
from tenacity import before_sleep_log as before_sleep_log
from tenacity import before_sleep_nothing as before_sleep_nothing
from tenacity import retry_all as retry_all
from tenacity import retry_always as retry_always
from tenacity import retry_any as retry_any
from tenacity import retry_base as retry_base
from tenacity import retry_if_exception as retry_if_exception
from tenacity import retry_if_exception_cause_type as retry_if_exception_cause_type
from tenacity import retry_if_exception_message as retry_if_exception_message
from tenacity import retry_if_exception_type as retry_if_exception_type
from tenacity import retry_if_not_exception_message as retry_if_not_exception_message
from tenacity import retry_if_not_exception_type as retry_if_not_exception_type
from tenacity import retry_if_not_result as retry_if_not_result
from tenacity import retry_if_result as retry_if_result
from tenacity import retry_never as retry_never
from tenacity import retry_unless_exception_type as retry_unless_exception_type
from tenacity import sleep as sleep
from tenacity import sleep_using_event as sleep_using_event
from tenacity import stop_after_attempt as stop_after_attempt
from tenacity import stop_after_delay as stop_after_delay
from tenacity import stop_all as stop_all
from tenacity import stop_any as stop_any
from tenacity import stop_before_delay as stop_before_delay
from tenacity import stop_never as stop_never
from tenacity import stop_when_event_set as stop_when_event_set
from tenacity import wait_chain as wait_chain
from tenacity import wait_combine as wait_combine
from tenacity import wait_exception as wait_exception
from tenacity import wait_exponential as wait_exponential
from tenacity import wait_exponential_jitter as wait_exponential_jitter
from tenacity import wait_fixed as wait_fixed
from tenacity import wait_full_jitter as wait_full_jitter
from tenacity import wait_incrementing as wait_incrementing
from tenacity import wait_none as wait_none
from tenacity import wait_random as wait_random
from tenacity import wait_random_exponential as wait_random_exponential

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

class Statistics(Mapping[str, Any]):
    """What `fn.statistics` is: a live, read-only view of `fn.retry.statistics`."""

    def __init__(self, recent: Any) -> None: ...
    def __getitem__(self, key: str) -> Any:
        """Return one figure. KeyError before the first call."""

    def __iter__(self) -> Iterator[str]:
        """Iterate over the figures' names."""

    def __len__(self) -> int:
        """Return how many figures there are: none before the first call."""

    def __repr__(self) -> str:
        """Show them as a dict."""

class AttemptManager(tenacity.AttemptManager):
    """One attempt of a loop over `Retrying`; as a `with` block it keeps an Exception for the loop to decide on."""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Keep how the block ended; cancellation and exits of the program pass."""

class Retrying(tenacity.Retrying):
    """Retry sync code: `Retrying(...)(fn, *args)`, `.wraps(fn)`, or `for attempt in Retrying(...): with attempt: ...`.

    Settings are tenacity's and may be assigned at any time. Safe to share between threads.
    """

    def __call__(self, fn: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        """Call `fn` until it succeeds; RetryError, or the last error with `reraise`, when `stop` says so.

        TypeError for async functions and generator functions.
        """

    def __iter__(self) -> Generator[tenacity.AttemptManager, None, None]:  # noqa: PYI058, UP043  # as tenacity's
        """Yield attempts for a block; each loop is a call of its own."""

    def wraps(self, f: Callable[_P, _T]) -> RetryDecorated[_P, _T]:  # type: ignore[override]
        """Return `f` under this object, with `retry`, `retry_with` and `statistics`. TypeError as for a call."""

    @property
    def statistics(self) -> dict[str, Any]:
        """The figures of this thread's or task's last call, the running one included; else of the last one anywhere.

        `start_time` (monotonic seconds), `attempt_number`, `idle_for` and `delay_since_first_attempt` (seconds); empty
        before the first call. Each call has a dict of its own.
        """

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings: figures are not pickled."""

class AsyncRetrying(tenacity.AsyncRetrying):
    """Retry async code, as `Retrying` does; loops by `async for attempt in AsyncRetrying(...): with attempt: ...`.

    Callbacks, strategies and `sleep` may be async. Safe to share between tasks, loops included.
    """

    async def __call__(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Await `fn` until it succeeds, or call it if it is sync; errors as `Retrying`."""

    def __aiter__(self) -> AsyncIterator[tenacity.AttemptManager]:  # type: ignore[override]
        """Yield attempts for a block; each loop is a call of its own."""

    def wraps(self, fn: Callable[_P, _T]) -> RetryDecorated[_P, _T]:  # type: ignore[override]
        """Return `fn` as an async function under this object, with `retry`, `retry_with` and `statistics`."""

    @property
    def statistics(self) -> dict[str, Any]:
        """The figures of this task's last call, as `Retrying.statistics`."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings: figures are not pickled."""

class RetryDecorated(Protocol[_P, _R_co]):
    """A decorated function: its own signature, and what tenacity attaches to it."""

    retry: Retrying | AsyncRetrying
    statistics: Statistics

    def retry_with(self, *args: Any, **kwargs: Any) -> RetryDecorated[_P, _R_co]:
        """Return the function under a copy of its object with some settings changed."""

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R_co:
        """Call the function, with retries."""

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
def retry(func: Callable[_P, _T], /) -> RetryDecorated[_P, _T]:
    """Decorate a function with a new `Retrying`, or `AsyncRetrying` for an async function or an async `sleep`.

    Takes tenacity's settings, with tenacity's defaults: it retries every Exception, at once, for ever.
    """

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
    reraise: bool = ...,
    retry_error_cls: type[RetryError] = ...,
    retry_error_callback: Callable[[RetryCallState], Any] | None = ...,
    name: str | None = ...,
    enabled: bool = ...,
) -> Callable[[Callable[_P, _T]], RetryDecorated[_P, _T]]: ...

after = tenacity.after
asyncio = tenacity.asyncio
before = tenacity.before
before_sleep = tenacity.before_sleep
nap = tenacity.nap
stop = tenacity.stop
wait = tenacity.wait
