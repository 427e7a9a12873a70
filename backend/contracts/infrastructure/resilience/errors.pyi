"""The errors of holdfast: one tree, every one picklable, each carrying its facts."""

from holdfast.infrastructure.resilience.states import CircuitState

class HoldfastError(Exception):
    """The root of every error that holdfast raises of its own."""

class Fault:
    """One thing that is wrong with a configuration: `path`, the `value` given, what is wrong, and the remedy."""

    path: str
    value: object
    problem: str
    remedy: str
    def __init__(self, path: str, value: object, problem: str, remedy: str) -> None: ...
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

class ConfigurationError(HoldfastError, ValueError):
    """Settings are out of range or contradict each other; `faults` lists every one of them."""

    def __init__(self, subject: str, faults: tuple[Fault, ...]) -> None: ...
    @property
    def subject(self) -> str:
        """What was configured, for example `Retry`."""

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Every fault, in the order of the settings."""

class CallRejectedError(HoldfastError):
    """A policy refused the call before it was made: nothing was sent."""

    def __init__(self, name: str, retry_after: float | None = None, /) -> None: ...
    @property
    def name(self) -> str:
        """The policy that refused."""

    @property
    def retry_after(self) -> float | None:
        """Seconds until a call may be admitted again, or None when that is not known."""

class CircuitOpenError(CallRejectedError):
    """A circuit breaker refused the call; also a `pybreaker.CircuitBreakerError` wherever pybreaker is imported."""

    def __init__(
        self, name: str, retry_after: float | None = None, state: CircuitState = CircuitState.OPEN, /
    ) -> None: ...
    @property
    def state(self) -> CircuitState:
        """The state that refused: open, half-open (all probes are out) or isolated."""

class RetryBudgetExhausted(CallRejectedError):
    """A retry budget had no token left for one more attempt."""

class BulkheadFullError(CallRejectedError):
    """A bulkhead has no place free, and none became free in time."""

class RateLimitedError(CallRejectedError):
    """A rate limit would be exceeded by the call."""

class ConcurrencyLimitedError(CallRejectedError):
    """An adaptive concurrency limit is reached."""

class ThrottledError(CallRejectedError):
    """A client-side throttle sheds the call, because the dependency refuses too many."""

class TimeoutExceeded(HoldfastError, TimeoutError):
    """A call did not end within `seconds`; a `TimeoutError` too."""

    def __init__(self, seconds: float, name: str | None = None) -> None: ...
    @property
    def seconds(self) -> float:
        """The bound that was exceeded, in seconds."""

    @property
    def name(self) -> str | None:
        """The timeout's name, if it has one."""
