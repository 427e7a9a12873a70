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
    """A rate limit would be exceeded by the call, or cannot be asked: `store_down`."""

    def __init__(self, name: str, retry_after: float | None = None, store_down: bool = False, /) -> None: ...
    @property
    def store_down(self) -> bool:
        """Whether the limit could not be asked, because the store that keeps it does not answer."""

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

class ChannelError(HoldfastError):
    """A command to a peer brought no result; `may_have_run`: whether the peer may have executed it all the same."""

    may_have_run: bool
    def __init__(self, peer: str, action: str, *, may_have_run: bool = True) -> None: ...
    @property
    def peer(self) -> str:
        """The peer that the command was for."""

    @property
    def action(self) -> str:
        """What the command asked for."""

class PeerNotConnected(ChannelError, ConnectionError):
    """The peer is not connected: nothing was sent; a `ConnectionError` too, which passes."""

    def __init__(self, peer: str, action: str, *, may_have_run: bool = False) -> None: ...

class PeerDisconnected(ChannelError, ConnectionError):
    """The peer's connection ended before its reply came; a `ConnectionError` too, which passes."""

class ReplyTimeout(ChannelError, TimeoutError):
    """No reply came within `seconds`; a `TimeoutError` too, which passes."""

    def __init__(self, peer: str, action: str, seconds: float, *, may_have_run: bool = True) -> None: ...
    @property
    def seconds(self) -> float:
        """How long the reply was waited for, seconds."""

class PeerBusy(ChannelError):
    """The peer has as many commands as it takes and did not begin this one; it passes."""

    def __init__(self, peer: str, action: str, *, may_have_run: bool = False) -> None: ...

class CommandFailed(ChannelError):
    """The peer replied that the command failed, or could not be executed; permanent."""

    def __init__(self, peer: str, action: str, kind: str, message: str) -> None: ...
    @property
    def kind(self) -> str:
        """What failed: `failed` (the action raised), `unknown_action`, `key_reused` and others, see the docs."""

    @property
    def message(self) -> str:
        """What the peer says about it."""

class PeerRefused(HoldfastError):
    """The server does not want this peer: its name or token is wrong, or another one with its name took its place."""

    def __init__(self, peer: str, reason: str) -> None: ...
    @property
    def peer(self) -> str:
        """The peer that was refused."""

    @property
    def reason(self) -> str:
        """Why."""

class HttpFailed(HoldfastError):
    """An HTTP endpoint did not answer with success and JSON; judged by its status, it carries no credentials."""

    retry_after: float | None
    def __init__(
        self, method: str, url: str, status: int, body: str, *, retry_after: float | None = None
    ) -> None: ...
    @property
    def method(self) -> str:
        """The HTTP method."""

    @property
    def url(self) -> str:
        """Where the request went, without user, password and query."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def body(self) -> str:
        """The beginning of the answer's body."""
