"""Circuit breaker: stop calling what fails, and find out carefully when it works again."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from random import Random
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, overload

from holdfast.infrastructure.resilience.classify import Errors
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.permit import Permit
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window, WindowCounts

_P = ParamSpec("_P")
_T = TypeVar("_T")

class CircuitBreakerConfig:
    """The settings of a `CircuitBreaker`, validated: frozen, keyword-only, comparable."""

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
        window: Window = ...,
        slow_call_duration: float | None = None,
        slow_call_rate: float = 1.0,
        open_for: float = 5.0,
        open_cap: float = 60.0,
        open_jitter: float = 0.2,
        half_open_calls: int = 3,
        half_open_timeout: float = 30.0,
        on: Errors = ...,
        exclude: tuple[type[BaseException] | Callable[[BaseException], bool], ...] = (),
        result: Callable[[Any], bool] | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None: ...

class CircuitBreaker(Policy):
    """Reject calls while the share of failures (or slow calls) in `window` is too high; probe carefully before closing.

    Opens at a failed or slow call for `open_for * 2**k` seconds (k failed probe rounds), at most `open_cap`, ±
    `open_jitter`; then admits `half_open_calls` probes. pybreaker's `fail_max`, `reset_timeout`, `success_threshold`,
    `exclude`, `state_storage` and `throw_new_error_on_trip` are accepted. Raises CircuitOpenError. Safe to share
    between threads and tasks.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        failure_rate: float = 0.5,
        min_calls: int = 20,
        window: Window = ...,
        slow_call_duration: float | None = None,
        slow_call_rate: float = 1.0,
        open_for: float = 5.0,
        open_cap: float = 60.0,
        open_jitter: float = 0.2,
        half_open_calls: int = 3,
        half_open_timeout: float = 30.0,
        on: Errors = ...,
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
    ) -> None: ...
    @property
    def config(self) -> CircuitBreakerConfig:
        """The settings."""

    @property
    def name(self) -> str:
        """The name in events and errors."""

    @property
    def state(self) -> CircuitState:
        """The state now; reading it changes nothing."""

    @property
    def current_state(self) -> str:
        """The state as pybreaker's string."""

    @property
    def fail_counter(self) -> int:
        """Failures in the window (in a row, for a consecutive window)."""

    @property
    def counts(self) -> WindowCounts:
        """What the window holds now."""

    @property
    def rejected(self) -> int:
        """How many calls were refused since the breaker was made or reset."""

    @property
    def retry_after(self) -> float | None:
        """Seconds until probes are admitted while open, 0 when they are, None when not open."""

    @property
    def listeners(self) -> tuple[Any, ...]:
        """The listeners, in order."""

    def add_listener(self, listener: Any) -> None:
        """Add an object with any of pybreaker's `before_call`, `success`, `failure`, `state_change`."""

    def remove_listener(self, listener: Any) -> None:
        """Remove a listener; ValueError if it is not there."""

    def admit(self) -> Permit:
        """Admit one call and return its permit, to be settled exactly once. CircuitOpenError when refused."""

    def __enter__(self) -> Permit: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    async def __aenter__(self) -> Permit: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def open(self) -> None:
        """Open now, for the usual time."""

    def close(self) -> None:
        """Close now, with an empty window."""

    def half_open(self) -> None:
        """Admit probes now."""

    def reset(self) -> None:
        """Close, forget all history and every override."""

    def isolate(self) -> None:
        """Refuse every call until `release` was called as often as this."""

    def release(self) -> None:
        """Undo one `isolate`; the last one closes the breaker. Without one it does nothing."""

    def disable(self) -> None:
        """Admit every call and record nothing, until `reset` or `close`."""

    def shadow(self) -> None:
        """Record and report, but never refuse, until `reset` or `close`."""

    def export_state(self) -> dict[str, Any]:
        """Return the state as JSON-able facts that another process can import."""

    def import_state(self, state: Mapping[str, Any]) -> None:
        """Take over an exported state; wall time since then counts as time spent open. ValueError if malformed."""

class CircuitBreakers(Policy):
    """A family of breakers with the same settings, one per key (host, tenant, operation), made when first needed.

    At most `max_keys`: the least recently used closed one goes first, then an open one; closed ones idle for `idle`
    seconds go too. One that is isolated, disabled or in shadow stays. `storage` is a function of the key.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        key: Callable[..., Hashable] | None = None,
        max_keys: int = 1000,
        idle: float = 3600.0,
        **settings: Any,
    ) -> None: ...
    @property
    def name(self) -> str | None:
        """The family's name; a breaker's is `family[key]`."""

    def get(self, key: Hashable) -> CircuitBreaker:
        """Return the breaker of `key`, made if there is none."""

    def peek(self, key: Hashable) -> CircuitBreaker | None:
        """Return the breaker of `key`, or None; nothing is made and nothing counts as used."""

    def discard(self, key: Hashable) -> None:
        """Forget the breaker of `key`."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Hashable]: ...
    def __contains__(self, key: object) -> bool: ...

@overload
def circuit_breaker(fn: Callable[_P, _T], /) -> Callable[_P, _T]:
    """Decorate with a `CircuitBreaker` of the function's own, named after its module and qualified name.

    With settings: with `CircuitBreaker(name, **settings)`.
    """

@overload
def circuit_breaker(
    fn: None = None,
    /,
    *,
    name: str | None = None,
    failure_rate: float = 0.5,
    min_calls: int = 20,
    window: Window = ...,
    slow_call_duration: float | None = None,
    slow_call_rate: float = 1.0,
    open_for: float = 5.0,
    open_cap: float = 60.0,
    open_jitter: float = 0.2,
    half_open_calls: int = 3,
    half_open_timeout: float = 30.0,
    on: Errors = ...,
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
def breaker_of(fn: Callable[..., Any]) -> CircuitBreaker:
    """Return the outermost circuit breaker that `fn` is decorated with. LookupError without one."""

def live_breakers() -> list[CircuitBreaker]:
    """Return every breaker that a living function is decorated with, oldest first; keeps none alive."""
