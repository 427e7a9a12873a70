"""The errors of holdfast: one tree, every one picklable, each carrying its facts."""

from __future__ import annotations

from holdfast.infrastructure.resilience.states import CircuitState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MINUTE = 60.0
# The kinds of failed commands that the peer has not begun to execute.
_NEVER_BEGUN = frozenset({"key_reused", "malformed_command", "unknown_action"})


class HoldfastError(Exception):
    """The root of every error that holdfast raises of its own."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the cause too, which exceptions leave behind by default."""
        state = dict(self.__dict__)
        if self.__cause__ is not None:
            state["_cause"] = _packed(self.__cause__)
        return type(self), self.args, state

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        """Take the cause back, or a note about it when its class cannot be rebuilt here."""
        fields = dict(state or {})
        cause = fields.pop("_cause", None)
        super().__setstate__(fields)
        if cause is not None:
            _unpack(self, *cause)


class Fault:
    """One thing that is wrong with a configuration: `path`, the `value` given, what is wrong, and the remedy."""

    __slots__ = ("path", "problem", "remedy", "value")

    def __init__(self, path: str, value: object, problem: str, remedy: str) -> None:
        self.path = path
        self.value = value
        self.problem = problem
        self.remedy = remedy

    def _key(self) -> tuple[str, object, str, str]:
        return self.path, self.value, self.problem, self.remedy

    def __eq__(self, other: object) -> bool:
        """Compare by content."""
        return isinstance(other, Fault) and self._key() == other._key()

    def __hash__(self) -> int:
        """Hash what identifies the fault; the value may be unhashable."""
        return hash((self.path, self.problem, self.remedy))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by parts; a value that cannot be pickled leaves its `repr`."""
        return Fault, (self.path, _portable(self.value), self.problem, self.remedy)

    def __repr__(self) -> str:
        """Show the four parts."""
        return "Fault({!r}, {!r}, {!r}, {!r})".format(*self._key())

    def __str__(self) -> str:
        """Say what is wrong and what to do."""
        return f"{self.path} = {self.value!r} {self.problem}; {self.remedy}"


class ConfigurationError(HoldfastError, ValueError):
    """Settings are out of range or contradict each other; `faults` lists every one of them."""

    def __init__(self, subject: str, faults: tuple[Fault, ...]) -> None:
        super().__init__(subject, faults)

    @property
    def subject(self) -> str:
        """What was configured, for example `Retry`."""
        return str(self.args[0])

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Every fault, in the order of the settings."""
        faults: tuple[Fault, ...] = self.args[1]
        return faults

    def __str__(self) -> str:
        """List the faults, one a line when there are several."""
        if len(self.faults) == 1:
            return f"{self.subject}: {self.faults[0]}"
        return "\n  ".join([f"{self.subject}: {len(self.faults)} faults", *map(str, self.faults)])


class CallRejectedError(HoldfastError):
    """A policy refused the call before it was made: nothing was sent."""

    # Rejections are frequent while a dependency is down: the facts stay in `args`, filled by C code, and the
    # message is made only when somebody reads it.
    if TYPE_CHECKING:

        def __init__(self, name: str, retry_after: float | None = None, /) -> None: ...

    @property
    def name(self) -> str:
        """The policy that refused."""
        return str(self.args[0])

    @property
    def retry_after(self) -> float | None:
        """Seconds until a call may be admitted again, or None when that is not known."""
        hint: float | None = self.args[1] if len(self.args) > 1 else None
        return hint

    def __str__(self) -> str:
        """Say who refused, and for how long if that is known."""
        return f"{self._subject()} {self.name!r} {self._refusal()}{self._hint()}"

    def _subject(self) -> str:
        return "policy"

    def _refusal(self) -> str:
        return "refused the call"

    def _hint(self) -> str:
        return "" if self.retry_after is None else f"; try again in {_rounded(self.retry_after)} s"


class CircuitOpenError(CallRejectedError):
    """A circuit breaker refused the call; also a `pybreaker.CircuitBreakerError` wherever pybreaker is imported."""

    if TYPE_CHECKING:

        def __init__(
            self, name: str, retry_after: float | None = None, state: CircuitState = CircuitState.OPEN, /
        ) -> None: ...

    @property
    def state(self) -> CircuitState:
        """The state that refused: open, half-open (all probes are out) or isolated."""
        state: CircuitState = self.args[2] if self.args[2:] else CircuitState.OPEN
        return state

    def _subject(self) -> str:
        return "circuit breaker"

    def _refusal(self) -> str:
        return f"is {self.state.value}"


class RetryBudgetExhausted(CallRejectedError):
    """A retry budget had no token left for one more attempt."""

    def _subject(self) -> str:
        return "retry budget"

    def _refusal(self) -> str:
        return "has no token for another attempt"


class BulkheadFullError(CallRejectedError):
    """A bulkhead has no place free, and none became free in time."""

    def _subject(self) -> str:
        return "bulkhead"

    def _refusal(self) -> str:
        return "is full"


class RateLimitedError(CallRejectedError):
    """A rate limit would be exceeded by the call, or cannot be asked: `store_down`."""

    if TYPE_CHECKING:

        def __init__(
            self,
            name: str,
            retry_after: float | None = None,
            store_down: bool = False,  # noqa: FBT001, FBT002  # facts of errors are positional
            /,
        ) -> None: ...

    @property
    def store_down(self) -> bool:
        """Whether the limit could not be asked, because the store that keeps it does not answer."""
        return bool(self.args[2]) if self.args[2:] else False

    def _subject(self) -> str:
        return "rate limit"

    def _refusal(self) -> str:
        return "cannot be asked: its store does not answer" if self.store_down else "has no permit left"


class ConcurrencyLimitedError(CallRejectedError):
    """An adaptive concurrency limit is reached."""

    def _subject(self) -> str:
        return "concurrency limit"

    def _refusal(self) -> str:
        return "is reached"


class ThrottledError(CallRejectedError):
    """A client-side throttle sheds the call, because the dependency refuses too many."""

    def _subject(self) -> str:
        return "throttle"

    def _refusal(self) -> str:
        return "sheds load"


class TimeoutExceeded(HoldfastError, TimeoutError):
    """A call did not end within `seconds`; a `TimeoutError` too."""

    def __init__(self, seconds: float, name: str | None = None) -> None:
        # Not through OSError's constructor: of two arguments it makes an errno and a strerror.
        super().__init__()
        self.args = (seconds, name)

    @property
    def seconds(self) -> float:
        """The bound that was exceeded, in seconds."""
        return float(self.args[0])

    @property
    def name(self) -> str | None:
        """The timeout's name, if it has one."""
        name: str | None = self.args[1]
        return name

    def __str__(self) -> str:
        """Say what was exceeded."""
        who = f" of {self.name!r}" if self.name else ""
        return f"timeout{who} exceeded: no result within {self.seconds:g} s"


class ChannelError(HoldfastError):
    """A command to a peer brought no result; `may_have_run`: whether the peer may have executed it all the same."""

    may_have_run: bool

    def __init__(self, peer: str, action: str, *, may_have_run: bool = True) -> None:
        # Not through OSError's constructor, which some have: of two arguments it makes an errno and a strerror.
        super().__init__()
        self.args = (peer, action)
        self.may_have_run = may_have_run

    @property
    def peer(self) -> str:
        """The peer that the command was for."""
        return str(self.args[0])

    @property
    def action(self) -> str:
        """What the command asked for."""
        return str(self.args[1])

    def __str__(self) -> str:
        """Say which peer did not do what, and whether it may have."""
        return f"{self._what()}; it {'may have' if self.may_have_run else 'has not'} run"

    def _what(self) -> str:
        return f"peer {self.peer!r} brought no result of {self.action!r}"


class PeerNotConnected(ChannelError, ConnectionError):
    """The peer is not connected: nothing was sent; a `ConnectionError` too, which passes."""

    def __init__(self, peer: str, action: str, *, may_have_run: bool = False) -> None:
        super().__init__(peer, action, may_have_run=may_have_run)

    def _what(self) -> str:
        earlier = " now, but was earlier" if self.may_have_run else ""
        return f"peer {self.peer!r} is not connected: {self.action!r} was not sent{earlier}"


class PeerDisconnected(ChannelError, ConnectionError):
    """The peer's connection ended before its reply came; a `ConnectionError` too, which passes."""

    def _what(self) -> str:
        return f"peer {self.peer!r} disconnected before it answered {self.action!r}"


class ReplyTimeout(ChannelError, TimeoutError):
    """No reply came within `seconds`; a `TimeoutError` too, which passes."""

    def __init__(self, peer: str, action: str, seconds: float, *, may_have_run: bool = True) -> None:
        super().__init__(peer, action, may_have_run=may_have_run)
        self.args = (peer, action, seconds)

    @property
    def seconds(self) -> float:
        """How long the reply was waited for, seconds."""
        return float(self.args[2])

    def _what(self) -> str:
        return f"peer {self.peer!r} did not answer {self.action!r} within {self.seconds:g} s"


class PeerBusy(ChannelError):
    """The peer has as many commands as it takes and did not begin this one; it passes."""

    def __init__(self, peer: str, action: str, *, may_have_run: bool = False) -> None:
        super().__init__(peer, action, may_have_run=may_have_run)

    def _what(self) -> str:
        return f"peer {self.peer!r} is busy and did not begin {self.action!r}"


class CommandFailed(ChannelError):
    """The peer replied that the command failed, or could not be executed; permanent."""

    def __init__(self, peer: str, action: str, kind: str, message: str) -> None:
        super().__init__(peer, action, may_have_run=kind not in _NEVER_BEGUN)
        self.args = (peer, action, kind, message)

    @property
    def kind(self) -> str:
        """What failed: `failed` (the action raised), `unknown_action`, `key_reused` and others, see the docs."""
        return str(self.args[2])

    @property
    def message(self) -> str:
        """What the peer says about it."""
        return str(self.args[3])

    def _what(self) -> str:
        return f"peer {self.peer!r} failed at {self.action!r} ({self.kind}): {self.message}"


class PeerRefused(HoldfastError):
    """The server does not want this peer: its name or token is wrong, or another one with its name took its place."""

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(peer, reason)

    @property
    def peer(self) -> str:
        """The peer that was refused."""
        return str(self.args[0])

    @property
    def reason(self) -> str:
        """Why."""
        return str(self.args[1])

    def __str__(self) -> str:
        """Say who was refused, and why."""
        return f"the server refused peer {self.peer!r}: {self.reason}"


class HttpFailed(HoldfastError):
    """An HTTP endpoint did not answer with success and JSON; judged by its status, it carries no credentials."""

    retry_after: float | None

    def __init__(
        self, method: str, url: str, status: int, body: str, *, retry_after: float | None = None
    ) -> None:
        super().__init__(method, url, status, body)
        self.retry_after = retry_after

    @property
    def method(self) -> str:
        """The HTTP method."""
        return str(self.args[0])

    @property
    def url(self) -> str:
        """Where the request went, without user, password and query."""
        return str(self.args[1])

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(self.args[2])

    @property
    def body(self) -> str:
        """The beginning of the answer's body."""
        return str(self.args[3])

    def __str__(self) -> str:
        """Say what was asked, and what came."""
        return f"{self.method} {self.url} answered {self.status}: {self.body or 'no body'}"


class _Shown:
    """Stands for a value that could not travel: it looks the same."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _portable(value: object) -> object:
    import pickle

    try:
        pickle.dumps(value)
    except Exception:
        return _Shown(repr(value))
    return value


def _packed(cause: BaseException) -> tuple[str, bytes]:
    import pickle
    from traceback import format_exception_only

    note = f"caused by {format_exception_only(cause)[0].strip()}"
    try:
        return note, pickle.dumps(cause)
    except Exception:
        return note, b""


def _unpack(error: HoldfastError, note: str, packed: bytes) -> None:
    import pickle

    try:
        error.__cause__ = pickle.loads(packed)  # noqa: S301  # part of a pickle that is being loaded anyway
    except Exception:
        error.add_note(note)


def _rounded(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= _MINUTE else f"{seconds:.3g}"
