"""Classification: the default table, hints, classifiers, and what policies accept as `on`."""

import asyncio
import concurrent.futures
import errno
import gc
import http.client
import importlib
import pickle
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import weakref
from collections.abc import Callable, Iterator
from email.message import Message
from typing import Any

import httpx
import pybreaker
import pytest
import redis.exceptions

from holdfast.infrastructure.resilience.classify import (
    PERMANENT,
    THROTTLED,
    TRANSIENT,
    Classifier,
    Verdict,
    classify,
    parse_retry_after,
    register_classifier,
    retry_after,
)
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.errors import (
    CallRejectedError,
    CircuitOpenError,
    ConfigurationError,
    RetryBudgetExhausted,
    TimeoutExceeded,
)
from holdfast.testing import VirtualClock

# What policies use of the module, which no contract offers to anybody else.
private = vars(importlib.import_module("holdfast.infrastructure.resilience.classify"))
judge_of: Callable[[Any], Callable[[BaseException], Verdict]] = private["_judge"]
check_errors: Callable[[Any, str, object], None] = private["_check_errors"]
Faults: Any = vars(importlib.import_module("holdfast.infrastructure.resilience._frozen"))["Faults"]

YEAR = 31_536_000
REQUEST = httpx.Request("GET", "https://example.org/")


class Answer:
    """What a client library hangs on its error."""

    def __init__(self, status: int | None = None, headers: Any = None) -> None:
        self.status_code = status
        self.headers = headers


class HttpError(Exception):
    """A client library's error that carries an answer."""

    def __init__(self, status: int, headers: Any = None) -> None:
        super().__init__(status)
        self.response = Answer(status, headers)


class Overloaded(Exception):
    """An error that says when to come back."""

    def __init__(self, seconds: Any) -> None:
        super().__init__(seconds)
        self.retry_after = seconds


class Flaky(Exception):
    """An error of a service's own."""


class FlakyRead(Flaky):
    """A kind of it."""


def foreign(path: str, *bases: type[BaseException], **attributes: Any) -> BaseException:
    """Make an error of a library that need not be installed: what counts is where its type says it comes from."""
    package, _, name = path.rpartition(".")
    kind = type(name, bases or (Exception,), {"__module__": package})
    error: BaseException = kind("text")
    for attribute, value in attributes.items():
        setattr(error, attribute, value)
    return error


def httpx_status(status: int, **headers: str) -> httpx.HTTPStatusError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = httpx.Response(status, request=REQUEST, headers=named)
    return httpx.HTTPStatusError("bad", request=REQUEST, response=answer)


def urllib_status(status: int, **headers: str) -> urllib.error.HTTPError:
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return urllib.error.HTTPError("http://example.org/", status, "bad", message, None)


def botocore_status(status: int, **headers: str) -> BaseException:
    response = {
        "Error": {"Code": "SlowDown"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return foreign("botocore.exceptions.ClientError", response=response)


def named(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}{error.args}"


BUILTIN: list[tuple[BaseException, Verdict]] = [
    (ConnectionError(), TRANSIENT),
    (ConnectionResetError(), TRANSIENT),
    (ConnectionRefusedError(), TRANSIENT),
    (ConnectionAbortedError(), TRANSIENT),
    (BrokenPipeError(), TRANSIENT),
    (TimeoutError(), TRANSIENT),
    (concurrent.futures.TimeoutError(), TRANSIENT),
    *(
        (OSError(number, "text"), TRANSIENT)
        for number in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EAGAIN)
    ),
    *((OSError(number, "text"), TRANSIENT) for number in (errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT)),
    *(
        (OSError(number, "text"), PERMANENT)
        for number in (errno.ENOENT, errno.EACCES, errno.ENOSPC, errno.EBADF)
    ),
    (OSError("text"), PERMANENT),
    (OSError([1], "text"), PERMANENT),
    (FileNotFoundError(errno.ENOENT, "text"), PERMANENT),
    (BlockingIOError(errno.EAGAIN, "text"), TRANSIENT),
    (socket.gaierror(socket.EAI_AGAIN, "try again"), TRANSIENT),
    (socket.gaierror(socket.EAI_NONAME, "no such name"), PERMANENT),
    (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), TRANSIENT),
    (ssl.SSLZeroReturnError(6, "closed"), TRANSIENT),
    (ssl.SSLError(errno.EAGAIN, "an SSL number is no errno"), PERMANENT),
    (ssl.SSLCertVerificationError(1, "expired"), PERMANENT),
    (http.client.RemoteDisconnected("text"), TRANSIENT),
    (http.client.IncompleteRead(b""), TRANSIENT),
    (http.client.BadStatusLine("?"), PERMANENT),
    (http.client.InvalidURL(), PERMANENT),
    (urllib.error.URLError(ConnectionRefusedError()), TRANSIENT),
    (urllib.error.URLError(socket.gaierror(socket.EAI_NONAME, "no such name")), PERMANENT),
    (urllib.error.URLError("unknown url type"), PERMANENT),
    (urllib.error.URLError(urllib.error.URLError(TimeoutError())), PERMANENT),
    (asyncio.IncompleteReadError(b"", 5), TRANSIENT),
    (asyncio.QueueEmpty(), PERMANENT),
    (concurrent.futures.BrokenExecutor(), PERMANENT),
    (concurrent.futures.CancelledError(), PERMANENT),
    (EOFError(), PERMANENT),
    (Exception(), PERMANENT),
    (RuntimeError(), PERMANENT),
    (ValueError(), PERMANENT),
    (StopIteration(), PERMANENT),
    (ExceptionGroup("many", [ConnectionError()]), PERMANENT),
    (Flaky(), PERMANENT),
]

PROGRAMMING: list[Exception] = [
    TypeError(),
    AttributeError(),
    AssertionError(),
    NameError(),
    SyntaxError(),
    ImportError(),
    ModuleNotFoundError(),
    NotImplementedError(),
    RecursionError(),
    KeyError(),
    IndexError(),
    ZeroDivisionError(),
    UnicodeDecodeError("utf-8", b"", 0, 1, "text"),
    MemoryError(),
    BufferError(),
    ReferenceError(),
]

HOLDFAST: list[tuple[BaseException, Verdict]] = [
    (CallRejectedError("limiter", 1.0), PERMANENT),
    (CircuitOpenError("payments", 1.0), PERMANENT),
    (RetryBudgetExhausted("payments"), PERMANENT),
    (ConfigurationError("Retry", ()), PERMANENT),
    (TimeoutExceeded(1), TRANSIENT),
    (pybreaker.CircuitBreakerError(), PERMANENT),
]

HTTPX: list[tuple[BaseException, Verdict]] = [
    (httpx.ConnectError("text"), TRANSIENT),
    (httpx.ReadError("text"), TRANSIENT),
    (httpx.WriteError("text"), TRANSIENT),
    (httpx.CloseError("text"), TRANSIENT),
    (httpx.ConnectTimeout("text"), TRANSIENT),
    (httpx.ReadTimeout("text"), TRANSIENT),
    (httpx.PoolTimeout("text"), TRANSIENT),
    (httpx.RemoteProtocolError("text"), TRANSIENT),
    (httpx.ProxyError("text"), TRANSIENT),
    (httpx.UnsupportedProtocol("text"), PERMANENT),
    (httpx.LocalProtocolError("text"), PERMANENT),
    (httpx.InvalidURL("text"), PERMANENT),
    (httpx.TooManyRedirects("text"), PERMANENT),
    (httpx.DecodingError("text"), PERMANENT),
    (httpx.StreamConsumed(), PERMANENT),
    (httpx_status(503), TRANSIENT),
    (httpx_status(404), PERMANENT),
]

REDIS: list[tuple[BaseException, Verdict]] = [
    (redis.exceptions.ConnectionError(), TRANSIENT),
    (redis.exceptions.TimeoutError(), TRANSIENT),
    (redis.exceptions.BusyLoadingError(), TRANSIENT),
    (redis.exceptions.TryAgainError(), TRANSIENT),
    (redis.exceptions.MasterDownError("text"), TRANSIENT),
    (redis.exceptions.AuthenticationError(), PERMANENT),
    (redis.exceptions.AuthorizationError(), PERMANENT),
    (redis.exceptions.ResponseError(), PERMANENT),
    (redis.exceptions.LockError(), PERMANENT),
]

requests_connection = type(foreign("requests.exceptions.ConnectionError", OSError))
aiohttp_connector = type(foreign("aiohttp.client_exceptions.ClientConnectionError"))
psycopg_operational = type(foreign("psycopg.OperationalError"))

FOREIGN: list[tuple[BaseException, Verdict]] = [
    (foreign("httpcore.ConnectError", type(foreign("httpcore.NetworkError"))), TRANSIENT),
    (foreign("httpcore.RemoteProtocolError"), TRANSIENT),
    (foreign("httpcore.LocalProtocolError"), PERMANENT),
    (foreign("requests.exceptions.ConnectionError", OSError), TRANSIENT),
    (
        foreign("requests.exceptions.ReadTimeout", type(foreign("requests.exceptions.Timeout", OSError))),
        TRANSIENT,
    ),
    (foreign("requests.exceptions.SSLError", requests_connection), PERMANENT),
    (foreign("requests.exceptions.ChunkedEncodingError", OSError), TRANSIENT),
    (foreign("requests.exceptions.InvalidURL", OSError, ValueError, response=None), PERMANENT),
    (foreign("requests.exceptions.HTTPError", OSError, response=Answer(502)), TRANSIENT),
    (foreign("requests.exceptions.HTTPError", OSError, response=Answer(401)), PERMANENT),
    (foreign("requests.exceptions.HTTPError", OSError, response=None), PERMANENT),
    (
        foreign("urllib3.exceptions.ReadTimeoutError", type(foreign("urllib3.exceptions.TimeoutError"))),
        TRANSIENT,
    ),
    (foreign("urllib3.exceptions.ProtocolError"), TRANSIENT),
    (foreign("urllib3.exceptions.MaxRetryError", reason=foreign("urllib3.exceptions.ProxyError")), TRANSIENT),
    (
        foreign("urllib3.exceptions.MaxRetryError", reason=foreign("urllib3.exceptions.ResponseError")),
        PERMANENT,
    ),
    (foreign("urllib3.exceptions.MaxRetryError", reason=None), PERMANENT),
    (foreign("urllib3.exceptions.SSLError"), PERMANENT),
    (foreign("aiohttp.client_exceptions.ClientOSError", aiohttp_connector, OSError), TRANSIENT),
    (foreign("aiohttp.client_exceptions.ClientSSLError", aiohttp_connector, OSError), PERMANENT),
    (foreign("aiohttp.client_exceptions.ClientPayloadError"), TRANSIENT),
    (foreign("aiohttp.client_exceptions.ClientResponseError", status=504, headers=None), TRANSIENT),
    (foreign("aiohttp.client_exceptions.ClientResponseError", status=200, headers=None), PERMANENT),
    (foreign("psycopg.OperationalError", sqlstate=None), TRANSIENT),
    (foreign("psycopg.errors.AdminShutdown", psycopg_operational, sqlstate="57P01"), TRANSIENT),
    (foreign("psycopg.errors.ConnectionFailure", psycopg_operational, sqlstate="08006"), TRANSIENT),
    (foreign("psycopg.errors.TooManyConnections", psycopg_operational, sqlstate="53300"), TRANSIENT),
    (foreign("psycopg.errors.QueryCanceled", psycopg_operational, sqlstate="57014"), PERMANENT),
    (foreign("psycopg.errors.DeadlockDetected", psycopg_operational, sqlstate="40P01"), PERMANENT),
    (foreign("psycopg.errors.PipelineAborted", psycopg_operational, sqlstate=None), PERMANENT),
    (foreign("psycopg.IntegrityError", sqlstate="23505"), PERMANENT),
    (foreign("psycopg2.OperationalError", pgcode=None), TRANSIENT),
    (foreign("psycopg2.OperationalError", pgcode="28P01"), PERMANENT),
    (
        foreign("sqlalchemy.exc.DBAPIError", orig=foreign("psycopg.OperationalError", sqlstate=None)),
        TRANSIENT,
    ),
    (foreign("sqlalchemy.exc.DBAPIError", orig=foreign("psycopg.IntegrityError")), PERMANENT),
    (foreign("sqlalchemy.exc.TimeoutError"), TRANSIENT),
    (
        foreign("botocore.exceptions.EndpointConnectionError", type(foreign("botocore.ConnectionError"))),
        TRANSIENT,
    ),
    (foreign("botocore.exceptions.ReadTimeoutError"), TRANSIENT),
    (foreign("botocore.exceptions.SSLError", type(foreign("botocore.ConnectionError"))), PERMANENT),
    (foreign("botocore.exceptions.NoCredentialsError"), PERMANENT),
    (botocore_status(500), TRANSIENT),
    (botocore_status(400), PERMANENT),
    (foreign("botocore.exceptions.ClientError", response={"Error": {}}), PERMANENT),
    (foreign("httpx_lookalike.TransportError"), PERMANENT),
    (foreign("mine.httpx.TransportError"), PERMANENT),
]

TABLE = BUILTIN + HOLDFAST + HTTPX + REDIS + FOREIGN


@pytest.mark.parametrize(("error", "verdict"), TABLE, ids=[named(error) for error, _ in TABLE])
def test_the_default_table(error: BaseException, verdict: Verdict) -> None:
    """What fails in passing is transient, whichever library says it; all else is permanent, also when asked again."""
    assert classify(error) is verdict
    assert classify(error) is verdict
    assert Classifier().classify(error) is verdict


@pytest.mark.parametrize("error", PROGRAMMING, ids=[type(error).__name__ for error in PROGRAMMING])
def test_programming_errors_are_permanent(error: Exception) -> None:
    """A bug stays, whatever somebody hangs on its error; so does a bug in a class that is also a connection error."""
    error.status_code = 503  # type: ignore[attr-defined]
    error.retry_after = 1  # type: ignore[attr-defined]

    assert classify(error) is PERMANENT
    assert classify(type("Odd", (TypeError, ConnectionError), {})()) is PERMANENT


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(), GeneratorExit(), asyncio.CancelledError()]
)
def test_cancellation_and_exits_are_permanent(error: BaseException) -> None:
    """What is no Exception is permanent, and no predicate, classifier or function of the user's is asked."""
    asked: list[BaseException] = []

    def ask(given: Exception) -> Verdict:
        asked.append(given)
        return TRANSIENT

    undo = register_classifier("builtins", ask)
    try:
        verdicts = [
            classify(error),
            Classifier(predicates=(ask,)).classify(error),
            judge_of(ask)(error),
            judge_of(Exception)(error),
        ]
    finally:
        undo()

    assert verdicts == [PERMANENT] * 4
    assert asked == []


def test_a_users_subclass_is_judged_as_what_it_is_a_kind_of() -> None:
    """Deriving from a connection error, ours or a library's, makes a transient error."""

    class Lost(ConnectionResetError):
        pass

    class Slow(httpx.ReadTimeout):
        pass

    class Both(ValueError, TimeoutError):
        pass

    assert [classify(error) for error in (Lost(), Slow("text"), Both())] == [TRANSIENT] * 3


@pytest.mark.parametrize("status", range(100, 600))
def test_statuses(status: int) -> None:
    """408, 425, 429, 500, 502, 503 and 504 are transient, every other status is permanent, wherever it is found."""
    expected = TRANSIENT if status in {408, 425, 429, 500, 502, 503, 504} else PERMANENT
    places = [
        HttpError(status),
        httpx_status(status),
        urllib_status(status),
        botocore_status(status),
        foreign("service.Failed", status_code=status),
        foreign("service.Failed", status=status),
        foreign("service.Failed", response=foreign("service.Answer", status=status)),
        foreign("service.Failed", ConnectionError, status=status),
    ]

    assert [classify(error) for error in places] == [expected] * 8


@pytest.mark.parametrize("status", [True, 503.0, "503", 99, 600, -503, 10**30, None, [503]])
def test_what_is_no_status_does_not_count(status: Any) -> None:
    """Only whole numbers from 100 to 599 are statuses; another place is looked at then."""
    assert classify(foreign("service.Failed", status_code=status)) is PERMANENT
    assert classify(foreign("service.Failed", status_code=status, status=503)) is TRANSIENT
    assert classify(foreign("service.Failed", ConnectionError, status=status)) is TRANSIENT


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (429, THROTTLED),
        (503, THROTTLED),
        (500, TRANSIENT),
        (502, TRANSIENT),
        (408, TRANSIENT),
        (404, PERMANENT),
    ],
)
def test_429_and_503_with_a_hint_are_throttled(status: int, verdict: Verdict) -> None:
    """`Retry-After` makes 429 and 503 THROTTLED, and no other status, wherever the two are found."""
    errors = [
        HttpError(status, {"Retry-After": "7"}),
        httpx_status(status, retry_after="7"),
        urllib_status(status, retry_after="7"),
        botocore_status(status, **{"retry-after": "7"}),
        foreign("aiohttp.client_exceptions.ClientResponseError", status=status, headers={"Retry-After": "7"}),
        foreign("service.Failed", status_code=status, retry_after=7),
    ]

    assert [classify(error) for error in errors] == [verdict] * 6
    assert [retry_after(error) for error in errors] == [7.0] * 6


@pytest.mark.parametrize("garbage", ["soon", "", "-1", "Fri, 01 Jan 1999 00:00:00 GMT"])
def test_a_hint_that_is_garbage_or_past_is_no_hint(garbage: str) -> None:
    """503 with a `Retry-After` that says nothing is transient."""
    error = httpx_status(503, retry_after=garbage)

    assert (classify(error), retry_after(error)) == (TRANSIENT, None)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (3, 3.0),
        (2.5, 2.5),
        ("120", 120.0),
        (10**400, YEAR),
        (float("inf"), YEAR),
        (-1, None),
        (-0.001, None),
        (float("nan"), None),
        (float("-inf"), None),
        (True, None),
        ("soon", None),
        (None, None),
        ([5], None),
        (b"5", None),
        (3 + 0j, None),
    ],
)
def test_an_error_may_say_itself_when_to_come_back(value: Any, seconds: float | None) -> None:
    """`error.retry_after` is a number of seconds, at most a year, or a header's text; nothing else counts."""
    assert retry_after(Overloaded(value)) == seconds
    assert retry_after(HttpError(503, {"Retry-After": value})) == seconds


def test_the_errors_own_word_comes_before_its_answers() -> None:
    """`error.retry_after` is looked at first, then the headers of `error.response`, then `error.headers`."""
    answer = Answer(503, {"Retry-After": "2"})

    assert retry_after(foreign("a.B", retry_after=1, response=answer, headers={"Retry-After": "3"})) == 1
    assert retry_after(foreign("a.B", retry_after=None, response=answer, headers={"Retry-After": "3"})) == 2
    assert retry_after(foreign("a.B", response=Answer(503), headers={"retry-after": "3"})) == 3
    assert retry_after(foreign("a.B", response=Answer(503, {}), headers=None)) is None
    assert retry_after(foreign("a.B", headers="Retry-After: 3")) is None


def test_our_rejections_say_when_to_come_back() -> None:
    """A rejection's `retry_after` is a hint like any other."""
    assert retry_after(CircuitOpenError("payments", 4.5)) == 4.5
    assert retry_after(CircuitOpenError("payments")) is None


def test_a_builtin_type_is_judged_by_its_type_alone() -> None:
    """What somebody hangs on an instance of a builtin type does not change its verdict; a hint on it is read."""
    failed: Any = Exception("text")
    lost: Any = ConnectionResetError("text")
    failed.status_code, lost.status_code, lost.retry_after = 503, 404, 3

    assert (classify(failed), classify(lost)) == (PERMANENT, TRANSIENT)
    assert (retry_after(failed), retry_after(lost)) == (None, 3)
    assert judge_of(ConnectionError)(lost) is THROTTLED


def test_attributes_that_raise_are_not_there() -> None:
    """An error whose properties fail, as those of clients without an answer do, is judged by what can be read."""

    class Unset(Exception):
        @property
        def response(self) -> Any:
            raise RuntimeError("the request was never made")

        @property
        def retry_after(self) -> Any:
            raise RuntimeError("the request was never made")

        status_code = 503

    assert classify(Unset()) is TRANSIENT
    assert retry_after(Unset()) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 120\t", 120),
        ("007", 7),
        ("9" * 5000, YEAR),
        ("99999999", YEAR),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 37),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 37),
        ("Sun Nov  6 08:49:37 1994", 37),
        ("Sun, 06 Nov 1994 08:49:00 GMT", 0),
        ("Sun, 06 Nov 1994 10:49:37 +0200", 37),
        ("Sun, 06 Nov 1994 08:49:37 -0000", 37),
        ("Tue, 06 Nov 2035 08:49:37 GMT", YEAR),
        ("Sun, 06 Nov 1994 08:48:59 GMT", None),
        ("Mon, 06 Nov 1893 08:49:37 GMT", None),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1e3", None),
        ("1_000", None),
        ("٣", None),
        ("²", None),
        ("120 s", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        ("soon", None),
        ("\x00", None),
        (",,,,:", None),
    ],
)
def test_both_forms_of_retry_after_are_read(value: str, seconds: float | None) -> None:
    """RFC 9110, 10.2.3: whole seconds, or an HTTP date in any of its three forms; a year at most; else None."""
    assert parse_retry_after(value, now=784111740.0) == seconds


def test_a_date_is_counted_from_the_current_clock() -> None:
    """Without `now`, the wall time of the current clock says how far away a date is."""
    with use_clock(VirtualClock(epoch=784110740.0, start=1000)) as clock:
        assert clock.time() == 784111740.0
        first = parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT")
        assert isinstance(clock, VirtualClock)
        clock.advance(30)

        assert (first, parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT")) == (37, 7)
        assert retry_after(httpx_status(503, retry_after="Sun, 06 Nov 1994 08:49:37 GMT")) == 7
        clock.advance(8)
        assert classify(httpx_status(503, retry_after="Sun, 06 Nov 1994 08:49:37 GMT")) is TRANSIENT


def test_listed_types_come_before_the_default_table() -> None:
    """Whatever the table says, what the user lists counts, subclasses included."""
    policy = Classifier(transient=(Flaky,), permanent=(ConnectionRefusedError, TypeError))

    assert policy.classify(Flaky()) is TRANSIENT
    assert policy.classify(FlakyRead()) is TRANSIENT
    assert policy.classify(ConnectionRefusedError()) is PERMANENT
    assert policy.classify(ConnectionResetError()) is TRANSIENT
    assert policy.classify(ValueError()) is PERMANENT


def test_the_most_specific_listed_type_counts() -> None:
    """Of two listed types that both match, the nearer one decides, whichever list it is on."""
    assert Classifier(transient=(Flaky,), permanent=(FlakyRead,)).classify(FlakyRead()) is PERMANENT
    assert Classifier(transient=(FlakyRead,), permanent=(Flaky,)).classify(FlakyRead()) is TRANSIENT
    assert Classifier(transient=(Exception,), permanent=(Flaky,)).classify(FlakyRead()) is PERMANENT


def test_local_rejections_can_be_listed() -> None:
    """Rejections and programming errors are permanent by default only."""
    policy = Classifier(transient=(CircuitOpenError, KeyError))

    assert policy.classify(CircuitOpenError("payments")) is TRANSIENT
    assert policy.classify(CircuitOpenError("payments", 2.0)) is THROTTLED
    assert policy.classify(KeyError()) is TRANSIENT


def test_statuses_can_be_mapped() -> None:
    """A mapped status gets its verdict; other statuses stay with the table; a listed type comes before it."""
    policy = Classifier(
        statuses={409: TRANSIENT, 500: PERMANENT, 420: THROTTLED}, permanent=(urllib.error.HTTPError,)
    )

    assert [policy.classify(HttpError(status)) for status in (409, 500, 420, 503, 404)] == [
        TRANSIENT,
        PERMANENT,
        THROTTLED,
        TRANSIENT,
        PERMANENT,
    ]
    assert policy.classify(HttpError(409, {"Retry-After": "1"})) is THROTTLED
    assert policy.classify(HttpError(500, {"Retry-After": "1"})) is PERMANENT
    assert policy.classify(urllib_status(409)) is PERMANENT


def test_predicates_come_first_and_in_order() -> None:
    """The first predicate with an opinion decides; without one the lists and the table do."""
    said: dict[str, Verdict | None] = {"first": None, "second": None}
    asked: list[str] = []

    def predicate(name: str) -> Callable[[Exception], Verdict | None]:
        def ask(error: Exception) -> Verdict | None:
            asked.append(name)
            return said[name]

        return ask

    policy = Classifier(transient=(Flaky,), predicates=(predicate("first"), predicate("second")))
    assert policy.classify(Flaky()) is TRANSIENT
    said["second"] = THROTTLED
    assert policy.classify(Flaky()) is THROTTLED
    said["first"] = PERMANENT
    assert policy.classify(Flaky()) is PERMANENT
    assert asked == ["first", "second", "first", "second", "first"]


def fail(error: Exception) -> Verdict:
    raise ZeroDivisionError


def is_flaky(error: Exception) -> bool:
    return isinstance(error, Flaky)


def says(what: Any) -> Callable[[Exception], Any]:
    def predicate(error: Exception) -> Any:
        return what

    return predicate


def test_a_predicate_that_raises_is_not_caught_here() -> None:
    """The policy that asked must know, to count the call as failed and to report it."""
    for judge in (Classifier(predicates=(fail,)).classify, judge_of(fail)):
        with pytest.raises(ZeroDivisionError):
            judge(ConnectionError())


@pytest.mark.parametrize("said", [True, False, "transient", 0])
def test_a_predicate_of_a_classifier_returns_a_verdict_or_none(said: Any) -> None:
    """True would be ambiguous: TypeError says who returned what."""
    with pytest.raises(TypeError, match=r"predicate.*return a Verdict, or None"):
        Classifier(predicates=(says(said),)).classify(Flaky())


def test_an_extension_comes_before_what_it_extends() -> None:
    """All rules of the extension come first, also before a nearer type and a predicate of what it extends."""
    base = Classifier(transient=(FlakyRead,), predicates=(lambda error: TRANSIENT if error.args else None,))
    extended = base.extend(permanent=(Flaky,), statuses={503: PERMANENT})
    twice = extended.extend(transient=(Flaky,))

    assert [one.classify(FlakyRead()) for one in (base, extended, twice)] == [TRANSIENT, PERMANENT, TRANSIENT]
    assert [one.classify(ValueError(1)) for one in (base, extended, twice)] == [TRANSIENT] * 3
    assert extended.classify(foreign("a.B", status=503)) is PERMANENT
    assert base.classify(Flaky()) is PERMANENT


def always(error: Exception) -> Verdict:
    return TRANSIENT


def test_a_classifier_is_a_value() -> None:
    """Equal rules are equal and hash alike, after pickling too; it cannot be changed."""

    def make() -> Classifier:
        return Classifier(transient=(KeyError,), statuses={409: TRANSIENT}, predicates=(always,)).extend()

    policy: Any = make()

    assert policy == make() == pickle.loads(pickle.dumps(policy))
    assert hash(policy) == hash(make())
    assert policy != Classifier(transient=(KeyError,))
    with pytest.raises(AttributeError, match="immutable"):
        policy.transient = ()


def test_a_classifier_keeps_a_copy_of_its_statuses() -> None:
    """Changing the mapping afterwards changes nothing."""
    statuses = {409: TRANSIENT}
    policy = Classifier(statuses=statuses)
    statuses.clear()

    assert policy.classify(HttpError(409)) is TRANSIENT


@pytest.mark.parametrize(
    ("settings", "paths"),
    [
        ({"transient": Flaky}, ["transient"]),
        ({"transient": (Flaky, KeyboardInterrupt)}, ["transient[1]"]),
        ({"transient": ("Flaky",)}, ["transient[0]"]),
        ({"permanent": (int, Flaky())}, ["permanent[0]", "permanent[1]"]),
        ({"permanent": [Flaky]}, ["permanent"]),
        ({"transient": (Flaky,), "permanent": (Flaky,)}, ["permanent"]),
        ({"statuses": [503]}, ["statuses"]),
        (
            {"statuses": {99: TRANSIENT, "503": TRANSIENT, 500: True}},
            ["statuses[99]", "statuses['503']", "statuses[500]"],
        ),
        ({"predicates": always}, ["predicates"]),
        ({"predicates": (always, None)}, ["predicates[1]"]),
        (
            {"transient": 1, "permanent": 2, "statuses": 3, "predicates": 4},
            ["transient", "permanent", "statuses", "predicates"],
        ),
    ],
)
def test_every_fault_is_reported_at_once(settings: dict[str, Any], paths: list[str]) -> None:
    """Rules that make no sense are one ConfigurationError that lists all of them, from `extend` too."""
    for make in (Classifier, Classifier().extend):
        with pytest.raises(ConfigurationError) as caught:
            make(**settings)
        assert [fault.path for fault in caught.value.faults] == paths


@pytest.fixture
def undo() -> Iterator[list[Callable[[], None]]]:
    """Give a list of what to undo at the end."""
    undone: list[Callable[[], None]] = []
    yield undone
    for one in undone:
        one()


def test_a_registered_classifier_judges_its_librarys_errors(undo: list[Callable[[], None]]) -> None:
    """It comes before the table for every type of its package, also for types already met, until it is undone."""
    error, derived = (
        foreign("stripe.error.CardError"),
        foreign("shop.Declined", type(foreign("stripe.RateLimit"))),
    )
    others = [foreign("stripes.CardError"), foreign("shop.stripe.CardError"), Flaky()]
    before = [classify(one) for one in (error, derived, *others)]

    undo.append(register_classifier("stripe", lambda error: TRANSIENT))
    during = [classify(one) for one in (error, derived, *others)]
    undo[0]()

    assert before == [PERMANENT] * 5
    assert during == [TRANSIENT, TRANSIENT, PERMANENT, PERMANENT, PERMANENT]
    assert [classify(one) for one in (error, derived, *others)] == before


def test_a_registered_classifier_may_have_no_opinion(undo: list[Callable[[], None]]) -> None:
    """After None comes the next of the same library, the latest first, and then the table."""
    opinions: dict[str, Verdict | None] = {"older": None, "newer": None}
    undo.append(register_classifier("httpx", lambda error: opinions["older"]))
    undo.append(register_classifier("httpx", lambda error: opinions["newer"]))
    error = httpx.ReadTimeout("text")
    seen = [classify(error), classify(httpx_status(404))]
    opinions["older"] = PERMANENT
    seen.append(classify(error))
    opinions["newer"] = THROTTLED
    seen += [classify(error), Classifier().classify(error), judge_of(TRANSIENT)(error)]

    assert seen == [TRANSIENT, PERMANENT, PERMANENT, THROTTLED, THROTTLED, THROTTLED]


def test_undoing_twice_undoes_once(undo: list[Callable[[], None]]) -> None:
    """The same function may be registered twice; each registration is undone by its own undo, in any order."""
    error = foreign("stripe.Error")
    undo += [register_classifier("stripe", always) for _ in range(2)]
    undo[0]()
    undo[0]()
    assert classify(error) is TRANSIENT

    undo[1]()
    assert classify(error) is PERMANENT


def test_a_registered_classifier_returns_a_verdict_or_none(undo: list[Callable[[], None]]) -> None:
    """Anything else is a TypeError that says who returned what; what it raises is not caught here."""
    undo.append(register_classifier("stripe", says(True)))
    with pytest.raises(TypeError, match="return a Verdict, or None"):
        classify(foreign("stripe.Error"))

    undo.append(register_classifier("stripe", fail))
    with pytest.raises(ZeroDivisionError):
        classify(foreign("stripe.Error"))


@pytest.mark.parametrize(
    ("library", "classifier", "paths"),
    [
        ("", always, ["library"]),
        ("stripe.error", always, ["library"]),
        (None, always, ["library"]),
        (5, None, ["library", "classifier"]),
        ("stripe", None, ["classifier"]),
    ],
)
def test_registering_refuses_what_can_never_be_asked(library: Any, classifier: Any, paths: list[str]) -> None:
    """A library is the name of a top-level package, a classifier a function."""
    with pytest.raises(ConfigurationError) as caught:
        register_classifier(library, classifier)

    assert [fault.path for fault in caught.value.faults] == paths


def test_registering_while_others_classify_leaves_no_stale_verdict(undo: list[Callable[[], None]]) -> None:
    """Threads that classify new types all the time never make the table remember what an old registration said."""
    done = threading.Event()
    types = [type(foreign(f"stripe.Error{number}")) for number in range(50)]

    def work() -> None:
        while not done.is_set():
            for kind in types:
                classify(kind())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            remove = register_classifier("stripe", always)
            assert {classify(kind()) for kind in types} == {TRANSIENT}
            remove()
            assert {classify(kind()) for kind in types} == {PERMANENT}
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_types_are_not_kept_alive_for_ever() -> None:
    """A program that makes exception types all the time does not grow: the table forgets when it is full."""
    kind = type("Passing", (Exception,), {})
    classify(kind())
    alive = weakref.ref(kind)
    del kind
    for _ in range(1100):
        classify(type("Passing", (Exception,), {})())
    gc.collect()

    assert alive() is None


@pytest.mark.parametrize(
    ("on", "verdicts"),
    [
        (TRANSIENT, [TRANSIENT, THROTTLED, PERMANENT, PERMANENT]),
        (THROTTLED, [PERMANENT, THROTTLED, PERMANENT, PERMANENT]),
        (ConnectionError, [TRANSIENT, PERMANENT, PERMANENT, PERMANENT]),
        (Flaky, [PERMANENT, PERMANENT, TRANSIENT, PERMANENT]),
        ((Flaky, HttpError), [PERMANENT, THROTTLED, TRANSIENT, PERMANENT]),
        (Exception, [TRANSIENT, THROTTLED, TRANSIENT, TRANSIENT]),
        ((), [PERMANENT, PERMANENT, PERMANENT, PERMANENT]),
        (Classifier(transient=(Flaky,)), [TRANSIENT, THROTTLED, TRANSIENT, PERMANENT]),
        (says(True), [TRANSIENT, THROTTLED, TRANSIENT, TRANSIENT]),
        (says(False), [PERMANENT, PERMANENT, PERMANENT, PERMANENT]),
        (says(None), [PERMANENT, PERMANENT, PERMANENT, PERMANENT]),
        (is_flaky, [PERMANENT, PERMANENT, TRANSIENT, PERMANENT]),
        (says(PERMANENT), [PERMANENT, PERMANENT, PERMANENT, PERMANENT]),
        (says(THROTTLED), [THROTTLED, THROTTLED, THROTTLED, THROTTLED]),
    ],
)
def test_what_on_means(on: Any, verdicts: list[Verdict]) -> None:
    """A verdict means the default table, types mean themselves, a predicate what it says; a hint makes it THROTTLED."""
    judge = judge_of(on)
    errors = [ConnectionError(), HttpError(503, {"Retry-After": "1"}), FlakyRead(), ValueError()]

    assert [judge(error) for error in errors] == verdicts


@pytest.mark.parametrize(
    "on",
    [
        TRANSIENT,
        THROTTLED,
        Flaky,
        (Flaky, KeyError),
        (),
        Exception,
        Classifier(),
        always,
        Flaky().with_traceback,
    ],
)
def test_what_on_accepts(on: Any) -> None:
    """Verdicts that can pass, exception types, tuples of them, classifiers and functions have no fault."""
    faults = Faults("Retry")
    check_errors(faults, "on", on)

    faults.finish()


async def coroutine_predicate(error: Exception) -> bool:
    return True


@pytest.mark.parametrize(
    ("on", "faults"),
    [
        (PERMANENT, ["on <Verdict.PERMANENT: 'permanent'> would retry what cannot pass"]),
        (None, ["on None does not say which errors"]),
        ("ConnectionError", ["on 'ConnectionError' does not say which errors"]),
        ([Flaky], ["on [Flaky] does not say which errors"]),
        (int, ["on int is not an exception type"]),
        (BaseException, ["on BaseException is not an Exception"]),
        (
            (Flaky, KeyboardInterrupt, int, Flaky()),
            [
                "on[1] KeyboardInterrupt is not an Exception",
                "on[2] int is not an exception type",
                "on[3] Flaky() is not an exception type",
            ],
        ),
        (((Flaky,),), ["on[0] (Flaky,) is not an exception type"]),
        (coroutine_predicate, ["on coroutine_predicate is a coroutine function"]),
    ],
)
def test_what_on_refuses(on: Any, faults: list[str]) -> None:
    """Each fault names the setting, the value and what is wrong: exits and cancellation can never be retried."""
    found = Faults("Retry")
    check_errors(found, "on", on)
    with pytest.raises(ConfigurationError) as caught:
        found.finish()

    def shown(value: Any) -> str:
        return getattr(value, "__name__", None) or repr(value).replace(repr(Flaky), "Flaky")

    assert [f"{one.path} {shown(one.value)} {one.problem}" for one in caught.value.faults] == faults


FRESH = """
import sys
from holdfast.infrastructure.resilience.classify import classify, retry_after, Verdict
kind = type("ConnectError", (Exception,), {"__module__": "httpx"})
base = type("TransportError", (kind,), {"__module__": "httpx"})
assert classify(base()) is Verdict.TRANSIENT
assert classify(ConnectionError()) is Verdict.TRANSIENT
assert retry_after(base()) is None
heavy = {"asyncio", "dataclasses", "email.utils", "http.client", "httpx", "inspect", "logging", "pybreaker", "random",
         "re", "redis", "socket", "ssl", "tenacity", "typing", "urllib.error"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_judging_imports_no_library() -> None:
    """Errors are judged by where their types come from: neither the libraries nor costly modules are imported."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{FRESH}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
