"""pybreaker's interface on holdfast's engine: change `import pybreaker` to `from holdfast.compat import pybreaker`.

Storages and the error are pybreaker's own; the breaker is holdfast's.
"""

from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar, overload

from pybreaker import STATE_CLOSED as STATE_CLOSED
from pybreaker import STATE_HALF_OPEN as STATE_HALF_OPEN
from pybreaker import STATE_OPEN as STATE_OPEN
from pybreaker import CircuitBreakerError as CircuitBreakerError
from pybreaker import CircuitBreakerStorage as CircuitBreakerStorage
from pybreaker import CircuitMemoryStorage as CircuitMemoryStorage
from pybreaker import CircuitRedisStorage as CircuitRedisStorage

from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker as _CircuitBreaker

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

    @property
    def name(self) -> str:
        """The string itself."""

class CircuitBreaker:
    """Refuse calls after `fail_max` failures in a row, for `reset_timeout` seconds; then try again.

    Closes after `success_threshold` successful trials, opens again at the first failed one. Settings may be assigned
    at any time. Raises CircuitBreakerError. Safe to share between threads and tasks, which it never makes wait.
    """

    def __init__(
        self,
        fail_max: int = 5,
        reset_timeout: float = 60,
        success_threshold: int = 1,
        exclude: Iterable[type[BaseException] | Callable[[Any], bool]] | None = None,
        listeners: Iterable[Any] | None = None,
        state_storage: CircuitBreakerStorage | None = None,
        name: str | None = None,
        throw_new_error_on_trip: bool = True,
    ) -> None: ...
    @property
    def policy(self) -> _CircuitBreaker:
        """The breaker as a policy of holdfast's, for pipelines and for what pybreaker has no name for."""

    @property
    def name(self) -> str | None:
        """The name in events and errors."""

    @name.setter
    def name(self, name: str) -> None: ...
    @property
    def fail_max(self) -> int:
        """How many failures in a row open it, from 1."""

    @fail_max.setter
    def fail_max(self, number: int) -> None: ...
    @property
    def reset_timeout(self) -> float:
        """How long it stays open, seconds, from 0 to a day; a new one holds for a breaker that is open already."""

    @reset_timeout.setter
    def reset_timeout(self, timeout: float) -> None: ...
    @property
    def success_threshold(self) -> int:
        """How many successful trials close it, from 1."""

    @success_threshold.setter
    def success_threshold(self, threshold: int) -> None: ...
    @property
    def fail_counter(self) -> int:
        """Failures in a row, those that opened it included; with a storage, what that says."""

    @property
    def success_counter(self) -> int:
        """Successful trials so far, while half-open; with a storage, what that says."""

    @property
    def current_state(self) -> str:
        """The state as a string; a storage is asked for it once a second, so that others' changes show."""

    @property
    def state(self) -> CircuitBreakerState:
        """The state, with a `name`; a string assigned to it opens, half-opens or closes. ValueError for others."""

    @state.setter
    def state(self, state_str: str) -> None: ...
    def open(self) -> bool:
        """Open now, for the usual time; return whether a trip raises an error of its own."""

    def half_open(self) -> None:
        """Admit trials now, and count them anew."""

    def close(self) -> None:
        """Close now, with nothing counted."""

    @property
    def excluded_exceptions(self) -> tuple[type[BaseException] | Callable[[Any], bool], ...]:
        """The types and predicates of errors that say nothing about the dependency."""

    def add_excluded_exception(self, exception: type[BaseException] | Callable[[Any], bool]) -> None:
        """Exclude one more."""

    def add_excluded_exceptions(self, *exceptions: type[BaseException] | Callable[[Any], bool]) -> None:
        """Exclude some more."""

    def remove_excluded_exception(self, exception: type[BaseException] | Callable[[Any], bool]) -> None:
        """Exclude one no longer; ValueError if it was not excluded."""

    def is_system_error(self, exception: BaseException) -> bool:
        """Return whether `exception` counts as a failure: an Exception that is not excluded."""

    @property
    def listeners(self) -> tuple[Any, ...]:
        """The listeners, in order."""

    def add_listener(self, listener: Any) -> None:
        """Add an object with any of the methods of `CircuitBreakerListener`."""

    def add_listeners(self, *listeners: Any) -> None:
        """Add several."""

    def remove_listener(self, listener: Any) -> None:
        """Remove a listener; ValueError if it is not there."""

    def call(self, func: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        """Call `func`, and return what it returns: an awaitable for an async function, which counts when awaited.

        CircuitBreakerError when refused, and when this call opens the breaker. TypeError for generator functions.
        """

    @overload
    async def call_async(self, func: Callable[..., Awaitable[_T]], *args: Any, **kwargs: Any) -> _T:
        """Call `func` and await what has to be awaited; errors as `call`."""

    @overload
    async def call_async(self, func: Callable[..., _T], *args: Any, **kwargs: Any) -> _T: ...
    @contextmanager
    def calling(self) -> Generator[None]:
        """Guard a `with` block, in sync and async functions alike; errors as `call`."""

    @overload
    def __call__(self, func: Callable[_P, _T], /) -> Callable[_P, _T]:
        """Decorate `func`, with or without parentheses; TypeError for generator functions.

        The option `__pybreaker_call_async` is for sync functions that return awaitables: `async def` needs none.
        """

    @overload
    def __call__(
        self, func: None = None, /, **options: bool
    ) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]: ...
