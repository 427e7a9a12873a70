"""What the sync and the async httpx transport share: rules, deadlines, and the responses of one call."""

from __future__ import annotations

import math
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import httpx

from holdfast.infrastructure.resilience import _nested
from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience._foreign import takes_state
from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.resilience.cache import Cache
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreakers
from holdfast.infrastructure.resilience.classify import Verdict, _judge, register_classifier
from holdfast.infrastructure.resilience.deadline import current_deadline
from holdfast.infrastructure.resilience.errors import CallRejectedError, TimeoutExceeded
from holdfast.infrastructure.resilience.hedge import Hedge
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.registry import Resilient
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.transport._network import Bound
from holdfast.infrastructure.transport.propagation import _headers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from holdfast.infrastructure.resilience.classify import Errors

RETRY_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
FAILURE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
UNSENT_ERRORS = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
TIMEOUTS = ("connect", "read", "write", "pool")

# What a failed response may cost for its connection to be used again: reading more is dearer than connecting.
DRAIN_BYTES = 65536
DRAIN_PARTS = 16
DRAIN_SECONDS = 0.05

# Where a Timeout cancels, the wire lets it come first: httpcore loses a connection of its pool if a task is cancelled
# while it tidies up after a timeout of its own. A deadline that nobody cancels for ends this much later.
GRACE = 0.05

# What repeats or keeps calls without a look at the method, and answers that are open connections.
_UNFIT: dict[type[Policy], str] = {
    Hedge: "it would send what must not be repeated twice, and share one connection between two answers",
    Cache: "every request is a call of its own there, and its answer an open connection",
}

_STATUSES = range(100, 600)
_UPGRADED = 101
_PORTS = {"http": 80, "https": 443}
_FORM: Any = type(httpx.Request("POST", "http://form", files={"file": b""}).stream)
_EARLY = 0.001  # a timer may fire this many seconds before the deadline that it stands for


class StatusFailure(httpx.HTTPStatusError):
    """A response whose status is a failure, as an error for the policies; callers never see it."""

    def __init__(self, response: httpx.Response, request: httpx.Request) -> None:
        message = f"{response.status_code} {response.reason_phrase} from {request.url.copy_with(query=None)}"
        super().__init__(message, request=request, response=response)


@cache
def _declare_failures() -> None:
    """Let statuses that a user declared to be failures count as such, though the default table would not."""

    def declared(error: Exception) -> Verdict | None:
        known = not isinstance(error, StatusFailure) or error.response.status_code in FAILURE_STATUSES
        return None if known else Verdict.TRANSIENT

    register_classifier("holdfast", declared)


class Rules:
    """What may be repeated and what is a failure, and the policy for either kind of request."""

    __slots__ = ("_derived", "_methods", "_policy", "_propagate", "_statuses", "buffer")

    def __init__(
        self,
        policy: Policy,
        *,
        methods: frozenset[str],
        statuses: frozenset[int],
        buffer: bool,
        propagate: bool,
    ) -> None:
        _check(policy, methods, statuses)
        if not statuses <= FAILURE_STATUSES:
            _declare_failures()
        self._policy = policy
        self._derived: _Derived | None = None
        self._methods = frozenset(method.upper() for method in methods)
        self._statuses = statuses
        self.buffer = buffer
        self._propagate = propagate
        self._now()

    def _now(self) -> _Derived:
        """Return what follows from the policy, which is a new one when its name has been given a new meaning."""
        policy = self._policy.pipeline if isinstance(self._policy, Resilient) else self._policy
        derived = self._derived
        if derived is None or derived.policy is not policy:
            derived = self._derived = _Derived(policy)
        return derived

    @property
    def breakers(self) -> CircuitBreakers | None:
        """The breakers per host, if there is a family."""
        families = (part for part in _parts(self._now().repeat) if isinstance(part, CircuitBreakers))
        return next(families, None)

    def policy(self, request: httpx.Request) -> Policy:
        """Return the policy for `request`: whole, or one that retries only what was never sent."""
        derived = self._now()
        return derived.repeat if self._repeats(request) else derived.once

    def _repeats(self, request: httpx.Request) -> bool:
        repeatable = request.method in self._methods or bool(request.headers.get("Idempotency-Key"))
        return repeatable and not isinstance(request.stream, OneShot)

    def stamp(self, request: httpx.Request, given: httpx.Request) -> None:
        """Tell the server in headers how much time an attempt has, and whether `given` would be repeated."""
        if self._propagate:
            # A retry of what was never sent is not one that the server need know of.
            own = 0 if self._repeats(given) else len(self._now().retries)
            request.headers.update(_headers(retried=_nested.is_retried(own=own)))

    def fails(self, response: httpx.Response) -> bool:
        """Return whether the status is a failure."""
        return response.status_code in self._statuses

    def loads(self, response: httpx.Response, request: httpx.Request) -> bool:
        """Return whether the body belongs to the attempt; what follows an upgrade is no body."""
        return self.buffer and response.status_code != _UPGRADED and request.method != "CONNECT"


class _Derived:
    """A policy, and what becomes of it for requests that may be repeated and for those that may not."""

    __slots__ = ("once", "policy", "repeat", "retries")

    def __init__(self, policy: Policy) -> None:
        _check_parts(policy)
        self.policy = policy
        self.repeat = _derive(policy, _keyed)
        self.once = _derive(self.repeat, _unsent_only)
        self.retries = [part for part in _parts(policy) if isinstance(part, Retry)][:1]


def _check(policy: object, methods: Any, statuses: Any) -> None:
    if not isinstance(policy, Policy):
        raise TypeError(f"{policy!r} is no policy: give a Pipeline, a Retry, a CircuitBreaker or a Timeout")
    policy._require(whole=False)
    faults = Faults("httpx transport")
    faults.check(
        _is_set(methods) and all(isinstance(method, str) and method for method in methods),
        "retry_methods",
        methods,
        "is not a set of HTTP methods",
        'give names, for example frozenset({"GET", "PUT"})',
    )
    faults.check(
        _is_set(statuses) and all(isinstance(status, int) and status in _STATUSES for status in statuses),
        "failure_statuses",
        statuses,
        "is not a set of HTTP statuses",
        "give whole numbers from 100 to 599",
    )
    faults.finish()


def _check_parts(policy: Policy) -> None:
    for part in _parts(policy):
        for kind, why in _UNFIT.items():
            if isinstance(part, kind):
                raise TypeError(
                    f"{part!r} cannot be in an httpx transport: {why}; decorate the function that makes the request "
                    "and returns its data"
                )


def _is_set(value: object) -> bool:
    return isinstance(value, (frozenset, set))


def _parts(policy: Policy) -> tuple[Policy, ...]:
    return policy.policies if isinstance(policy, Pipeline) else (policy,)


def _derive(policy: Policy, change: Callable[[Policy], Policy]) -> Policy:
    parts = _parts(policy)
    changed = tuple(map(change, parts))
    if all(new is old for new, old in zip(changed, parts, strict=True)):
        return policy
    return Pipeline(*changed, name=policy.name) if isinstance(policy, Pipeline) else changed[0]


def _keyed(policy: Policy) -> Policy:
    if isinstance(policy, CircuitBreakers) and policy._key is None:
        return policy._with_key(origin)
    return policy


def _unsent_only(policy: Policy) -> Policy:
    """Narrow a retry to what was never sent; what the user's own `on` does not want is not retried either."""
    if not isinstance(policy, Retry):
        return policy
    narrow = _state_unsent if takes_state(policy.config.on) else _error_unsent
    return policy.replace(on=narrow(policy.config.on), result=None)


def _error_unsent(wanted: Errors) -> Callable[[Exception], Verdict]:
    verdict = _judge(wanted)

    def on(error: Exception) -> Verdict:
        return verdict(error) if never_left(error) else Verdict.PERMANENT

    return on


def _state_unsent(wanted: Any) -> Callable[[Any], Any]:
    def on(retry_state: Any) -> Any:
        outcome = retry_state.outcome
        return outcome.failed and never_left(outcome.exception()) and wanted(retry_state)

    return on


def origin(request: httpx.Request) -> str:
    """Return what a breaker stands for: scheme, host and port."""
    url = request.url
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}:{url.port or _PORTS.get(url.scheme)}"


def never_left(error: BaseException) -> bool:
    """Return whether no byte of the request can have reached the server."""
    cause: BaseException | None = error
    while isinstance(cause, TimeoutExceeded):
        cause = cause.__cause__
    if isinstance(cause, UNSENT_ERRORS):
        return not _begun(cause)
    if not isinstance(cause, CallRejectedError):
        return False
    # Refused was perhaps only the next attempt of a retry inside, or the call that opened the circuit: ask its error.
    return cause.__cause__ is None or never_left(cause.__cause__)


def _begun(error: httpx.RequestError) -> bool:
    try:
        stream = error.request.stream
    except RuntimeError:
        return False  # no request: a policy made this error, not a transport
    return isinstance(stream, OneShot) and stream.begun


class OneShot(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A request body that can be sent only once; it remembers whether it was begun."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.begun = False

    def __iter__(self) -> Iterator[bytes]:
        """Send the body."""
        self.begun = True
        yield from self._stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Send the body."""
        self.begun = True
        async for part in self._stream:
            yield part


def watched(request: httpx.Request) -> httpx.Request:
    """Return `request`, or a copy that remembers whether its body, which can be sent only once, was begun."""
    if _replayable(request.stream):
        return request
    return copied(request, OneShot(request.stream), request.extensions)


def copied(request: httpx.Request, stream: Any, extensions: Any) -> httpx.Request:
    """Return a request with the same method, address and headers."""
    return httpx.Request(
        request.method, request.url, headers=request.headers, stream=stream, extensions=extensions
    )


def _replayable(stream: Any) -> bool:
    """Return whether a body can be sent again: bytes, or a form whose files can be rewound."""
    if isinstance(stream, _FORM):
        return all(_rewinds(getattr(field, "file", b"")) for field in stream.fields)
    return isinstance(stream, httpx.ByteStream)


def _rewinds(file: Any) -> bool:
    seekable = getattr(file, "seekable", None)
    return isinstance(file, (str, bytes)) or (seekable is not None and bool(seekable()))


class Limit:
    """The deadline in force around an attempt (infinite without one), and the seconds that it left.

    The wire ends `grace` seconds later.
    """

    __slots__ = ("deadline", "grace", "seconds")

    def __init__(self, *, grace: float = 0.0) -> None:
        deadline = current_deadline()
        self.deadline = math.inf if deadline is None else deadline
        self.grace = grace
        self.seconds = self.deadline - ambient.monotonic()

    def check(self, cause: Exception | None = None) -> None:
        """Raise TimeoutExceeded from `cause` if the deadline has passed."""
        if self.deadline - ambient.monotonic() <= _EARLY:
            raise TimeoutExceeded(max(0.0, self.seconds)) from cause

    def check_wire(self) -> None:
        """Raise TimeoutExceeded if the wire has no time left."""
        if self.deadline + self.grace - ambient.monotonic() <= _EARLY:
            self.check()

    def timeout(self, seconds: float | None) -> Bound | None:
        """Return a timeout of the client's (None: none) that ends with the wire's time."""
        if seconds is None and self.deadline == math.inf:
            return None
        left = self.seconds + self.grace
        return Bound(left if seconds is None else min(seconds, left), self.deadline + self.grace)


class Attempt:
    """One attempt: the request with timeouts of its own, within the deadline in force.

    TimeoutExceeded if no time is left.
    """

    __slots__ = ("_given", "limit", "request", "timeouts")

    def __init__(self, request: httpx.Request, *, grace: float = 0.0) -> None:
        self._given = request
        self.limit = Limit(grace=grace)
        self.limit.check()
        given = request.extensions.get("timeout", {})
        self.timeouts = {kind: self.limit.timeout(given.get(kind)) for kind in TIMEOUTS}
        self.request = copied(request, request.stream, {**request.extensions, "timeout": self.timeouts})

    def failed(self, error: BaseException) -> None:
        """Note which request failed; raise TimeoutExceeded if it was the deadline that ended it."""
        if isinstance(error, httpx.RequestError):
            error.request = self._given
        if isinstance(error, httpx.TimeoutException):
            self.limit.check(error)

    def worth_draining(self, response: httpx.Response) -> bool:
        """Return whether little enough is left of a response for its connection to be used again."""
        headers = response.headers
        if headers.get("connection", "").lower() == "close":
            return False
        length = headers.get("content-length", "" if "transfer-encoding" in headers else "unknown")
        return not length or (length.isdigit() and int(length) <= DRAIN_BYTES)

    def hurry(self) -> None:
        """Give the rest of the response little time, though the attempt's own may be over."""
        self.limit.deadline = math.inf
        self.timeouts["read"] = Bound(DRAIN_SECONDS, ambient.monotonic() + DRAIN_SECONDS)


class Turns:
    """The responses of one call: at most one is open, and the caller's is the only one that stays so.

    A function that a timeout left behind in its thread may come late with a response: it has lost its turn.
    """

    __slots__ = ("_kept", "_lock", "_turn")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[Attempt, httpx.Response] | None = None
        self._turn = 0

    def begin(self) -> tuple[int, tuple[Attempt, httpx.Response] | None]:
        """Return the number of a new turn and what the one before has left open."""
        with self._lock:
            self._turn += 1
            kept, self._kept = self._kept, None
            return self._turn, kept

    def keep(self, turn: int, attempt: Attempt, response: httpx.Response) -> bool:
        """Keep an open response; return False if the turn is over."""
        with self._lock:
            if turn != self._turn:
                return False
            self._kept = attempt, response
            return True

    def end(self, wanted: object = None) -> httpx.Response | None:
        """Take no more responses; return the one that is open, unless it is the one wanted."""
        _, kept = self.begin()
        return None if kept is None or kept[1] is wanted else kept[1]


class Body(httpx.SyncByteStream):
    """A response body that keeps to the deadline under which its headers came."""

    def __init__(self, stream: Any, limit: Limit) -> None:
        self._stream = stream
        self._limit = limit

    def __iter__(self) -> Iterator[bytes]:
        """Read. TimeoutExceeded if a part comes after the deadline, or none comes until then."""
        try:
            for part in self._stream:
                self._limit.check_wire()
                yield part
        except httpx.TimeoutException as error:
            self._limit.check(error)
            raise

    def close(self) -> None:
        """Close the connection, or give it back."""
        self._stream.close()


class AsyncBody(httpx.AsyncByteStream):
    """As `Body`, async."""

    def __init__(self, stream: Any, limit: Limit) -> None:
        self._stream = stream
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Read. TimeoutExceeded if a part comes after the deadline, or none comes until then."""
        try:
            async for part in self._stream:
                self._limit.check_wire()
                yield part
        except httpx.TimeoutException as error:
            self._limit.check(error)
            raise

    async def aclose(self) -> None:
        """Close the connection, or give it back."""
        await self._stream.aclose()
