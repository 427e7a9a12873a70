"""Tell errors that pass from errors that stay: the table that retry and breaker share."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Mapping
from enum import Enum

from holdfast.infrastructure.resilience._frozen import Faults, Frozen
from holdfast.infrastructure.resilience.clock import current_clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeAlias, TypeGuard

    _Rule: TypeAlias = "Verdict | Callable[[BaseException], Verdict]"
    _Entry: TypeAlias = "tuple[str, Callable[[Exception], Verdict | None]]"


class Verdict(Enum):
    """What an error says about trying again."""

    TRANSIENT = "transient"
    THROTTLED = "throttled"
    PERMANENT = "permanent"


TRANSIENT: Verdict = Verdict.TRANSIENT
THROTTLED: Verdict = Verdict.THROTTLED
PERMANENT: Verdict = Verdict.PERMANENT


class Classifier(Frozen):
    """An immutable table from errors to verdicts; safe to share.

    Looked up by predicate first, then by the most specific listed type, then by status, then by the default table
    (connection and timeout errors and the statuses 408, 425, 429, 500, 502, 503, 504 are transient, all else
    permanent). What is listed as transient is throttled when it says when to come back.
    """

    __slots__ = ("_listed", "_next", "_predicates", "_statuses")

    _listed: dict[type[BaseException], Verdict]
    _next: Classifier | None
    _predicates: tuple[Callable[[Exception], Verdict | None], ...]
    _statuses: dict[int, Verdict]

    def __init__(
        self,
        *,
        transient: tuple[type[Exception], ...] = (),
        permanent: tuple[type[Exception], ...] = (),
        statuses: Mapping[int, Verdict] | None = None,
        predicates: tuple[Callable[[Exception], Verdict | None], ...] = (),
    ) -> None:
        _check_rules(transient, permanent, statuses, predicates)
        self._set(
            _listed={**dict.fromkeys(transient, TRANSIENT), **dict.fromkeys(permanent, PERMANENT)},
            _next=None,
            _predicates=predicates,
            _statuses=dict(statuses or {}),
        )

    def classify(self, error: BaseException) -> Verdict:
        """Return the verdict on `error`; what is not an `Exception` is permanent.

        A predicate that raises is not caught: the policy that asked counts the call as failed.
        """
        if not isinstance(error, Exception):
            return PERMANENT
        verdict = self._opinion(error)
        if verdict is not None:
            return verdict
        return classify(error) if self._next is None else self._next.classify(error)

    def _opinion(self, error: Exception) -> Verdict | None:
        for predicate in self._predicates:
            verdict = predicate(error)
            if verdict is not None:
                return _checked(verdict, predicate)
        if self._listed:
            for kind in type(error).__mro__:
                if kind in self._listed:
                    return _hinted(self._listed[kind], error)
        if self._statuses:
            status = _status(error)
            if status in self._statuses:
                return _hinted(self._statuses[status], error)
        return None

    def extend(
        self,
        *,
        transient: tuple[type[Exception], ...] = (),
        permanent: tuple[type[Exception], ...] = (),
        statuses: Mapping[int, Verdict] | None = None,
        predicates: tuple[Callable[[Exception], Verdict | None], ...] = (),
    ) -> Classifier:
        """Return a classifier in which the given rules come before this one's."""
        made = Classifier(transient=transient, permanent=permanent, statuses=statuses, predicates=predicates)
        made._set(_next=self)
        return made

    def __hash__(self) -> int:
        """Hash the rules."""
        return hash(
            (frozenset(self._listed.items()), self._next, self._predicates, frozenset(self._statuses.items()))
        )


Errors: TypeAlias = (
    Verdict
    | type[Exception]
    | tuple[type[Exception], ...]
    | Classifier
    | Callable[[Exception], bool | Verdict]
)


def classify(error: BaseException) -> Verdict:
    """Return the default classifier's verdict on `error`."""
    kind = type(error)
    rule = _table.rules.get(kind)
    if rule is None:
        rule = _table.learn(kind)
    return rule if type(rule) is Verdict else rule(error)  # type: ignore[operator]  # not quicker otherwise


def retry_after(error: BaseException) -> float | None:
    """Return the seconds after which the server asks to come back, from `error.retry_after` or a `Retry-After` header.

    Both forms of RFC 9110, 10.2.3 are read; past dates, negative numbers and garbage give None.
    """
    if type(error).__module__ == "builtins" and not error.__dict__:
        return None
    hint = _read(error, "retry_after")
    try:
        if hint is None:
            hint = _header(error)
        return parse_retry_after(hint) if isinstance(hint, str) else _seconds(hint)
    except Exception:  # objects of other people, of which anything may raise
        return None


def parse_retry_after(value: str, *, now: float | None = None) -> float | None:
    """Return the seconds in a `Retry-After` value; `now` is Unix time, for the date form. None for past or garbage."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return _seconds(float(text))
    date = _date(text)
    if date is None:
        return None
    return _seconds(date - (current_clock().time() if now is None else now))


def register_classifier(
    library: str, classifier: Callable[[Exception], Verdict | None]
) -> Callable[[], None]:
    """Let `classifier` judge errors whose type comes from the top-level package `library`; return how to undo it.

    It returns None for errors that it has no opinion on. The latest of several is asked first.
    """
    faults = Faults("register_classifier")
    faults.check(
        _is_package(library), "library", library, "is not a top-level package", "give a name such as 'httpx'"
    )
    faults.check(callable(classifier), "classifier", classifier, "is not callable", "give a function")
    faults.finish()
    entry = (library, classifier)
    _table.register(entry)
    return lambda: _table.remove(entry)


def _judge(on: Errors) -> Callable[[Exception], Verdict]:
    """Compile what a policy's `on` accepts into a function."""
    if on is TRANSIENT:
        return classify
    if isinstance(on, Classifier):
        return on.classify
    if isinstance(on, Verdict):
        return lambda error: on if classify(error) is on else PERMANENT
    if isinstance(on, (type, tuple)):
        return lambda error: _hinted(TRANSIENT, error) if isinstance(error, on) else PERMANENT
    return lambda error: _ask(on, error)


def _ask(predicate: Callable[[Exception], bool | Verdict], error: BaseException) -> Verdict:
    if not isinstance(error, Exception):
        return PERMANENT
    said = predicate(error)
    if isinstance(said, Verdict):
        return said
    return _hinted(TRANSIENT, error) if said else PERMANENT


def _check_errors(faults: Faults, path: str, on: object) -> None:
    """Note a fault for what a policy's `on` does not accept."""
    if _is_tuple(on):
        _check_types(faults, path, on)
    elif isinstance(on, type):
        _check_type(faults, path, on)
    elif on is PERMANENT:
        faults.add(path, on, "would retry what cannot pass", "give TRANSIENT or exception types")
    elif not isinstance(on, (Verdict, Classifier)):
        _check_predicate(faults, path, on)


def _check_predicate(faults: Faults, path: str, on: object) -> None:
    remedy = "give TRANSIENT, exception types, a Classifier or a plain function of the error"
    faults.check(callable(on), path, on, "does not say which errors", remedy)
    flags = getattr(getattr(on, "__code__", None), "co_flags", 0)
    faults.check(not flags & _COROUTINE, path, on, "is a coroutine function", remedy)


def _check_types(faults: Faults, path: str, kinds: object) -> None:
    if not _is_tuple(kinds):
        faults.add(path, kinds, "is not a tuple", "give a tuple of exception types")
        return
    for at, kind in enumerate(kinds):
        _check_type(faults, f"{path}[{at}]", kind)


def _check_type(faults: Faults, path: str, kind: object) -> None:
    if not _is_error_type(kind):
        faults.add(path, kind, "is not an exception type", "give subclasses of Exception")
    elif not issubclass(kind, Exception):
        remedy = "leave it out: cancellation and exits always pass through"
        faults.add(path, kind, "is not an Exception", remedy)


def _check_rules(transient: object, permanent: object, statuses: object, predicates: object) -> None:
    faults = Faults("Classifier")
    _check_types(faults, "transient", transient)
    _check_types(faults, "permanent", permanent)
    if _is_tuple(transient) and _is_tuple(permanent):
        for kind in permanent:
            faults.check(kind not in transient, "permanent", kind, "is listed as transient too", "choose one")
    if statuses is not None:
        _check_statuses(faults, statuses)
    if not _is_tuple(predicates):
        faults.add("predicates", predicates, "is not a tuple", "give a tuple of functions")
    else:
        for at, predicate in enumerate(predicates):
            ok = callable(predicate)
            faults.check(ok, f"predicates[{at}]", predicate, "is not callable", "give a function")
    faults.finish()


def _check_statuses(faults: Faults, statuses: object) -> None:
    if not _is_mapping(statuses):
        faults.add("statuses", statuses, "is not a mapping", "map statuses to verdicts")
        return
    for status, verdict in statuses.items():
        path = f"statuses[{status!r}]"
        faults.number(path, status, _STATUSES.start, _STATUSES[-1], whole=True)
        faults.check(isinstance(verdict, Verdict), path, verdict, "is not a Verdict", "give a Verdict")


def _is_error_type(value: object) -> TypeGuard[type[BaseException]]:
    return isinstance(value, type) and issubclass(value, BaseException)


def _is_package(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier()


def _is_tuple(value: object) -> TypeGuard[tuple[object, ...]]:
    return isinstance(value, tuple)


def _is_dict(value: object) -> TypeGuard[dict[object, object]]:
    return isinstance(value, dict)


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)


def _checked(verdict: object, who: object) -> Verdict:
    if not isinstance(verdict, Verdict):
        raise TypeError(f"{who!r} returned {verdict!r}: return a Verdict, or None for no opinion")
    return verdict


def _hinted(verdict: Verdict, error: BaseException) -> Verdict:
    return THROTTLED if verdict is TRANSIENT and retry_after(error) is not None else verdict


class _Table:
    """What is known about types of errors, learned when first met and forgotten when there are too many."""

    __slots__ = ("lock", "registered", "rules")

    def __init__(self) -> None:
        self.renew_lock()
        self.registered: tuple[_Entry, ...] = ()
        self.rules: dict[type[BaseException], _Rule] = {}

    def renew_lock(self) -> None:
        """Make a new lock: in the child of a fork nobody is left to release the old one."""
        self.lock = threading.RLock()

    def find(self, kind: type[BaseException]) -> _Rule:
        """Return the rule for a type."""
        rule = self.rules.get(kind)
        return self.learn(kind) if rule is None else rule

    def learn(self, kind: type[BaseException]) -> _Rule:
        """Work out the rule for a type and remember it."""
        # Read before `registered`, which is written first: a rule that is out of date lands in a discarded dict.
        rules = self.rules
        rule = self.asking(kind, _rule(kind))
        if len(rules) >= _MOST_TYPES:
            rules.clear()
        rules[kind] = rule
        return rule

    def asking(self, kind: type[BaseException], rule: _Rule) -> _Rule:
        """Put the registered classifiers for a type before its rule."""
        packages = {_package(base) for base in kind.__mro__}
        asked = [classifier for library, classifier in self.registered if library in packages]
        if not asked or not issubclass(kind, Exception):
            return rule

        def ask(error: Any) -> Verdict:
            for classifier in asked:
                verdict = classifier(error)
                if verdict is not None:
                    return _checked(verdict, classifier)
            return _apply(rule, error)

        return ask

    def register(self, entry: _Entry) -> None:
        """Put a classifier before the others."""
        with self.lock:
            self.registered = (entry, *self.registered)
            self.rules = {}

    def remove(self, entry: _Entry) -> None:
        """Remove a classifier, if it is there."""
        with self.lock:
            self.registered = tuple(one for one in self.registered if one is not entry)
            self.rules = {}


def _rule(kind: type[BaseException]) -> _Rule:
    """Return the default table's verdict on a type, or how to find it for an instance."""
    if not issubclass(kind, Exception) or issubclass(kind, _PROGRAMMING):
        return PERMANENT
    package, rule = next(_named(kind), ("builtins", PERMANENT))
    if package == "builtins" and kind.__module__ != "builtins":
        return _status_before(rule)
    return rule


def _named(kind: type[BaseException]) -> Iterator[tuple[str, _Rule]]:
    """Yield what the table says about a type and its bases, the most specific first."""
    for base in kind.__mro__:
        package = _package(base)
        rule = _NAMES.get(package, _NOTHING).get(base.__name__)
        if rule is not None:
            yield package, rule


def _package(kind: type) -> str:
    module: object = kind.__module__
    return module.partition(".")[0] if isinstance(module, str) else ""


def _apply(rule: _Rule, error: BaseException) -> Verdict:
    return rule if isinstance(rule, Verdict) else rule(error)


def _status_before(rule: _Rule) -> _Rule:
    def judged(error: BaseException) -> Verdict:
        status = _status(error)
        return _apply(rule, error) if status is None else _of_status(status, error)

    return judged


def _of_status(status: int, error: BaseException) -> Verdict:
    if status not in _TRANSIENT_STATUSES:
        return PERMANENT
    return _hinted(TRANSIENT, error) if status in _THROTTLING_STATUSES else TRANSIENT


def _by_status(error: BaseException) -> Verdict:
    status = _status(error)
    return PERMANENT if status is None else _of_status(status, error)


def _by_errno(error: BaseException) -> Verdict:
    number = _read(error, "errno")
    return TRANSIENT if isinstance(number, int) and number in _TRANSIENT_ERRNOS else PERMANENT


def _by_lookup(error: BaseException) -> Verdict:
    """Judge a failed lookup of a name: the name server may be busy, or there is no such name."""
    from socket import EAI_AGAIN

    return TRANSIENT if _read(error, "errno") == EAI_AGAIN else PERMANENT


def _by_sqlstate(error: BaseException) -> Verdict:
    """Judge a database's error: without an SQLSTATE the server was never reached, or the connection broke."""
    state = _read(error, "sqlstate") or _read(error, "pgcode")
    return TRANSIENT if state is None or str(state).startswith(_TRANSIENT_SQLSTATES) else PERMANENT


def _by_inner(error: BaseException) -> Verdict:
    """Judge a wrapper by what it wraps, one level deep."""
    inner = _read(error, "reason")
    if not isinstance(inner, Exception):
        inner = _read(error, "orig")
    if not isinstance(inner, Exception) or _table.find(type(inner)) is _by_inner:
        return PERMANENT
    return classify(inner)


def _read(holder: object, name: str) -> Any:
    """Return an attribute; None where there is none, or where reading it raises."""
    try:
        return getattr(holder, name, None)
    except Exception:
        return None


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error carries."""
    response = _read(error, "response")
    if _is_dict(response):
        return _valid_status(_metadata(response, "HTTPStatusCode"))
    for holder in (error,) if response is None else (response, error):
        for name in ("status_code", "status"):
            status = _valid_status(_read(holder, name))
            if status is not None:
                return status
    return None


def _valid_status(value: object) -> int | None:
    return int(value) if isinstance(value, int) and value in _STATUSES else None


def _header(error: BaseException) -> object:
    """Return the `Retry-After` header of the answer that an error carries."""
    response = _read(error, "response")
    if _is_dict(response):
        headers = _metadata(response, "HTTPHeaders")
    else:
        headers = _read(response, "headers")
        if headers is None:
            headers = _read(error, "headers")
    if headers is None:
        return None
    value = headers.get("Retry-After")
    return headers.get("retry-after") if value is None else value


def _metadata(response: dict[object, object], name: str) -> Any:
    """Read an answer of botocore's, which is a plain dict."""
    metadata = response.get("ResponseMetadata")
    return metadata.get(name) if _is_dict(metadata) else None


def _seconds(value: object) -> float | None:
    """Return a number of seconds, a year at most; None for what is no time to wait."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        return None
    return float(min(value, _YEAR))


def _date(text: str) -> float | None:
    """Return the Unix time of an HTTP date, which is always in UTC."""
    from datetime import UTC, datetime
    from email.utils import parsedate_tz

    try:
        date = parsedate_tz(text)
        return date and datetime(*date[:6], tzinfo=UTC).timestamp() - (date[9] or 0)
    except Exception:  # what it raises for garbage differs between versions
        return None


_MOST_TYPES = 1024
_YEAR = 365 * 86_400.0
_COROUTINE = 0x80  # inspect.CO_COROUTINE

_STATUSES = range(100, 600)
_TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_THROTTLING_STATUSES = frozenset({429, 503})
_TRANSIENT_SQLSTATES = ("08", "53300", "57P01", "57P02", "57P03")
_TRANSIENT_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        "EAGAIN",
        "ECONNABORTED",
        "ECONNREFUSED",
        "ECONNRESET",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENETDOWN",
        "ENETRESET",
        "ENETUNREACH",
        "EPIPE",
        "ESHUTDOWN",
        "ETIMEDOUT",
        "EWOULDBLOCK",
    )
    if hasattr(errno, name)
)

# What no other attempt mends, whatever attributes it has.
_PROGRAMMING = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    NotImplementedError,
    RecursionError,
    ReferenceError,
    SyntaxError,
    TypeError,
    UnicodeError,
)

# By top-level package and name, so that nothing is imported; the first hit along the MRO counts. Other types that carry
# an HTTP status are judged by that.
_NOTHING: dict[str, _Rule] = {}
_NAMES: dict[str, dict[str, _Rule]] = {
    "builtins": {"ConnectionError": TRANSIENT, "OSError": _by_errno, "TimeoutError": TRANSIENT},
    "holdfast": {"CallRejectedError": PERMANENT, "PeerBusy": TRANSIENT, "TimeoutExceeded": TRANSIENT},
    "asyncio": {"IncompleteReadError": TRANSIENT},
    "http": {"IncompleteRead": TRANSIENT, "RemoteDisconnected": TRANSIENT},
    "socket": {"gaierror": _by_lookup},
    "ssl": {"SSLEOFError": TRANSIENT, "SSLError": PERMANENT, "SSLZeroReturnError": TRANSIENT},
    "urllib": {"HTTPError": _by_status, "URLError": _by_inner},
    "aiohttp": {
        "ClientConnectionError": TRANSIENT,
        "ClientPayloadError": TRANSIENT,
        "ClientResponseError": _by_status,
        "ClientSSLError": PERMANENT,
        "ServerFingerprintMismatch": PERMANENT,
    },
    "botocore": {
        "ClientError": _by_status,
        "ConnectionClosedError": TRANSIENT,
        "ConnectionError": TRANSIENT,
        "IncompleteReadError": TRANSIENT,
        "ReadTimeoutError": TRANSIENT,
        "ResponseStreamingError": TRANSIENT,
        "SSLError": PERMANENT,
    },
    "httpcore": {
        "NetworkError": TRANSIENT,
        "ProxyError": TRANSIENT,
        "RemoteProtocolError": TRANSIENT,
        "TimeoutException": TRANSIENT,
    },
    "httpx": {
        "HTTPStatusError": _by_status,
        "LocalProtocolError": PERMANENT,
        "TransportError": TRANSIENT,
        "UnsupportedProtocol": PERMANENT,
    },
    "psycopg": {"OperationalError": _by_sqlstate, "PipelineAborted": PERMANENT},
    "psycopg2": {"OperationalError": _by_sqlstate},
    "redis": {
        "AuthenticationError": PERMANENT,
        "AuthorizationError": PERMANENT,
        "ClusterDownError": TRANSIENT,
        "ConnectionError": TRANSIENT,
        "TimeoutError": TRANSIENT,
        "TryAgainError": TRANSIENT,
    },
    "requests": {
        "ChunkedEncodingError": TRANSIENT,
        "ConnectionError": TRANSIENT,
        "HTTPError": _by_status,
        "SSLError": PERMANENT,
        "Timeout": TRANSIENT,
    },
    "sqlalchemy": {"DBAPIError": _by_inner, "TimeoutError": TRANSIENT},
    "urllib3": {
        "MaxRetryError": _by_inner,
        "ProtocolError": TRANSIENT,
        "ProxyError": TRANSIENT,
        "ResponseNotChunked": PERMANENT,
        "TimeoutError": TRANSIENT,
    },
}

_table = _Table()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_table.renew_lock)
