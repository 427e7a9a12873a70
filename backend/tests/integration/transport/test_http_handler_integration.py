"""HTTP endpoint × policies against a real server: what is sent, what comes back, what is retried, what errors show."""

import asyncio
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from backend.tests.integration._client import SkippingClock
from backend.tests.integration._server import (
    DISCONNECT,
    HANG,
    HANG_IN_BODY,
    RESET,
    TRUNCATED,
    Behaviour,
    FaultyServer,
    Link,
    drip,
    respond,
)
from backend.tests.integration.transport._endpoint import Endpoint
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.classify import classify, retry_after
from holdfast.infrastructure.resilience.errors import (
    CircuitOpenError,
    ConfigurationError,
    HttpFailed,
    TimeoutExceeded,
)
from holdfast.infrastructure.resilience.events import RetryGaveUp
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.window import Window
from holdfast.infrastructure.transport.http_handler import AsyncHttpHandler, HttpHandler
from holdfast.testing import EventRecorder

Make = Callable[..., Endpoint]

GOOD = respond(200, b'{"tracking": "T-1"}', content_type="application/json")
QUICK = Retry(attempts=3, wait=0.0)


def failed(endpoint: Endpoint, payload: Any = None) -> HttpFailed:
    with pytest.raises(HttpFailed) as caught:
        endpoint(payload)
    return caught.value


# Structure and success


def test_a_payload_goes_out_as_json_with_its_key(endpoint: Make, http_server: FaultyServer) -> None:
    """One POST with the payload as its JSON body, its type, and the key in `Idempotency-Key`."""
    http_server.play(GOOD)

    assert endpoint()({"to": "Kiel 🌊", "kg": 1.5}, "order-7") == {"tracking": "T-1"}

    (request,) = http_server.received
    assert (request.method, request.path) == ("POST", "/labels")
    assert request.body == b'{"to":"Kiel \\ud83c\\udf0a","kg":1.5}'
    headers = request.headers
    assert (headers["content-type"], headers["accept"]) == ("application/json", "application/json")
    assert headers["idempotency-key"] == "order-7"


@pytest.mark.parametrize("method", ["PUT", "patch", "DELETE", "GET"])
def test_the_method_is_the_users(method: str, endpoint: Make, http_server: FaultyServer) -> None:
    """Every method carries the key; without a payload there is no body."""
    http_server.play(GOOD)
    endpoint(method=method)()
    (request,) = http_server.received
    assert (request.method, request.body) == (method.upper(), b"")
    assert request.headers["idempotency-key"] == "order-1"
    assert "content-type" not in request.headers


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (respond(201, b"[1, 2]"), [1, 2]),
        (respond(200, b"null"), None),
        (respond(200, b' "text"\n'), "text"),
        (respond(202, b""), None),
        (respond(200, b"  \n"), None),
        (respond(200, b'{"a": 1}', chunked=True), {"a": 1}),
    ],
)
def test_the_json_of_an_answer_is_the_result(
    answer: Behaviour, result: Any, endpoint: Make, http_server: FaultyServer
) -> None:
    """Any 2xx is a success; its JSON comes back, and None where there is no body."""
    http_server.play(answer)
    assert endpoint()() == result


def test_a_client_of_the_users_keeps_its_settings(endpoint: Make, http_server: FaultyServer) -> None:
    """Headers, authentication and transport of a given client are used, and it stays open."""
    http_server.play(GOOD)
    of_client = {"headers": {"X-Shop": "kelp"}, "auth": ("user", "password")}
    assert endpoint(of_client=of_client)(1) == {"tracking": "T-1"}
    (request,) = http_server.received
    assert request.headers["x-shop"] == "kelp"
    assert request.headers["authorization"].startswith("Basic ")


def test_only_its_own_client_is_closed(http_server: FaultyServer) -> None:
    """`close()` leaves a given client open, and closes the one that the handler made."""
    with httpx.Client() as client:
        HttpHandler(http_server.url, client=client).close()
        assert not client.is_closed
    handler = HttpHandler(http_server.url)
    handler.close()
    with pytest.raises(RuntimeError, match="client has been closed"):
        handler(1, idempotency_key="a")

    async def main() -> None:
        async with httpx.AsyncClient() as client:
            await AsyncHttpHandler(http_server.url, client=client).aclose()
            assert not client.is_closed
        other = AsyncHttpHandler(http_server.url)
        await other.aclose()
        with pytest.raises(RuntimeError, match="client has been closed"):
            await other(1, idempotency_key="a")

    asyncio.run(main())


# Failures and retries


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 409, 410, 422, 451, 501, 505])
def test_a_final_status_is_not_retried(
    status: int, endpoint: Make, http_server: FaultyServer, skipping_clock: SkippingClock
) -> None:
    """4xx, 408, 425 and 429 aside, redirects and what a server will never do end after one request."""
    http_server.play(otherwise=respond(status, b'{"why": "no"}'))
    error = failed(endpoint(QUICK))
    assert (error.status, error.body) == (status, '{"why": "no"}')
    assert http_server.requests == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_passing_status_is_retried_with_the_same_key(
    status: int, endpoint: Make, http_server: FaultyServer, skipping_clock: SkippingClock
) -> None:
    """5xx, 408, 425 and 429 are tried again; every attempt carries the same key and the same body."""
    http_server.play(respond(status), respond(status), GOOD)
    assert endpoint(QUICK)({"a": 1}) == {"tracking": "T-1"}
    assert [request.headers["idempotency-key"] for request in http_server.received] == ["order-1"] * 3
    assert http_server.bodies == [b'{"a":1}'] * 3


@pytest.mark.parametrize("behaviour", [RESET, DISCONNECT, TRUNCATED], ids=str)
def test_a_broken_connection_is_retried(
    behaviour: Behaviour, endpoint: Make, http_server: FaultyServer, skipping_clock: SkippingClock
) -> None:
    """What breaks on the wire, the middle of a body included, is tried again."""
    http_server.play(behaviour, GOOD)
    assert endpoint(QUICK)(1) == {"tracking": "T-1"}
    assert http_server.requests == 2


@pytest.mark.parametrize("behaviour", [HANG, HANG_IN_BODY, drip()], ids=str)
def test_a_timeout_is_retried(behaviour: Behaviour, endpoint: Make, http_server: FaultyServer) -> None:
    """A server that does not end its answer within `timeout`, though it sends byte after byte, is asked again."""
    http_server.play(behaviour, otherwise=GOOD)
    assert endpoint(QUICK, timeout=0.5)(1) == {"tracking": "T-1"}
    assert http_server.requests == 2


def test_a_server_that_hangs_ends_as_a_timeout(endpoint: Make, http_server: FaultyServer) -> None:
    """Without a retry the timeout comes out, as a TimeoutError."""
    http_server.play(otherwise=HANG)
    with pytest.raises(TimeoutExceeded) as caught:
        endpoint(timeout=0.05)(1)
    assert isinstance(caught.value, TimeoutError)


def test_the_deadline_in_force_bounds_a_request(endpoint: Make, http_server: FaultyServer) -> None:
    """A deadline around the call is tighter than the handler's own timeout, and the server is told of it."""
    http_server.play(otherwise=HANG)
    with pytest.raises(TimeoutExceeded):
        endpoint(within=0.5)(1)
    assert 0 < int(http_server.received[0].headers["holdfast-timeout-ms"]) <= 500


@pytest.mark.parametrize(("status", "seconds"), [(429, 7), (503, 3)])
def test_retry_after_is_honoured(
    status: int, seconds: int, endpoint: Make, http_server: FaultyServer, skipping_clock: SkippingClock
) -> None:
    """The wait before the next attempt is what the server asked for, as for every policy of the library."""
    http_server.play(respond(status, retry_after=str(seconds)), GOOD)
    assert endpoint(Retry(attempts=2, wait=0.0, hint_cap=0.0))(1) == {"tracking": "T-1"}
    assert skipping_clock.waits == [pytest.approx(seconds)]


def test_a_hint_is_read_from_a_date_too(endpoint: Make, http_server: FaultyServer) -> None:
    """`Retry-After` as an HTTP date becomes seconds; a past date is no hint."""
    http_server.play(
        respond(503, retry_after="Fri, 31 Dec 2999 23:59:59 GMT"),
        respond(503, retry_after="Fri, 31 Dec 1999 23:59:59 GMT"),
    )
    first, second = failed(endpoint()), failed(endpoint())
    assert retry_after(first) == first.retry_after == 365 * 86_400.0
    assert second.retry_after is None


def test_a_breaker_counts_what_passes_and_not_what_stays(endpoint: Make, http_server: FaultyServer) -> None:
    """404s leave a breaker closed, 500s open it."""
    breaker = CircuitBreaker("labels", window=Window.consecutive(2), min_calls=1)
    http_server.play(*[respond(404)] * 3, otherwise=respond(500))
    for _ in range(5):
        failed(endpoint(breaker))
    with pytest.raises(CircuitOpenError):
        endpoint(breaker)()
    assert http_server.requests == 5


def test_policies_call_a_handler_by_method_and_address(
    endpoint: Make, http_server: FaultyServer, event_recorder: EventRecorder
) -> None:
    """Events and notes of a policy without a name say which endpoint it was."""
    http_server.play(otherwise=respond(500))
    failed(endpoint(Retry(attempts=2, wait=0.0)))
    (event,) = event_recorder.of(RetryGaveUp)
    assert event.name.endswith(f"POST {http_server.url}/labels")


# Answers that are none


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "no JSON: <html>"),
        (b"{'a': 1}", "no JSON: {'a': 1}"),
        (b"NaN", "no JSON: NaN"),
        (b"\xff\xfe{", "no JSON: \ufffd\ufffd{"),
        (b"[" * 100_000, "no JSON: " + "[" * 991),
    ],
    ids=["html", "python", "nan", "binary", "deep"],
)
def test_a_success_without_json_is_final(
    body: bytes, said: str, endpoint: Make, http_server: FaultyServer
) -> None:
    """The call was made, so that it is not tried again; the error shows what came."""
    http_server.play(otherwise=respond(200, body))
    error = failed(endpoint(QUICK))
    assert (error.status, error.body) == (200, said)
    assert http_server.requests == 1


def test_an_answer_that_is_too_large_is_not_read(endpoint: Make, http_server: FaultyServer) -> None:
    """Beyond `max_size` bytes the connection is closed instead, and the error is final."""
    http_server.play(respond(200, b'"' + b"x" * 200_000 + b'"'), drip(0.0), GOOD)
    make = endpoint(QUICK, max_size=1_000)
    assert failed(make).body == "more than 1000 bytes"
    assert failed(make).body == "more than 1000 bytes"
    assert endpoint(max_size=19)() == {"tracking": "T-1"}


def test_of_a_failures_body_only_the_beginning_is_read(endpoint: Make, http_server: FaultyServer) -> None:
    """A server that sends a failure without an end is left after 64 KiB, and 1,000 characters are shown."""
    http_server.play(respond(500, b"x" * 1_000_000, chunked=True), respond(500, "é".encode() * 2_000))
    assert failed(endpoint()).body == "x" * 1_000
    assert failed(endpoint()).body == "é" * 1_000


def test_a_failure_that_hangs_after_its_beginning_is_not_awaited(
    endpoint: Make, http_server: FaultyServer
) -> None:
    """When 64 KiB of a failure have come, its status is known and enough is there to be shown."""

    def act(link: Link) -> bool:
        link.send(b"HTTP/1.1 500 Bad\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100_000)
        return link.hang()

    http_server.play(Behaviour("hang after 100 kB of a failure", act))
    assert failed(endpoint(timeout=2.0)).status == 500


@pytest.mark.parametrize("charset", ["latin-1", "nonsense"])
def test_a_body_is_shown_in_its_own_characters(
    charset: str, endpoint: Make, http_server: FaultyServer
) -> None:
    """The charset of the answer is used, if there is such a one."""
    http_server.play(respond(400, b"stra\xdfe", content_type=f"text/plain; charset={charset}"))
    assert failed(endpoint()).body == ("straße" if charset == "latin-1" else "stra\ufffde")


# Credentials

SECRETS = ("sesame-token", "open-sesame", "hunter22", "kitchen-key", "user:hunter22", "dXNlcjpodW50ZXIyMg==")


def shown(error: BaseException) -> str:
    """Return all that an error tells: message, attributes, notes, and what it pickles to."""
    text = "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))
    return text + pickle.dumps(error).decode("latin-1")


def test_an_error_shows_no_credentials_though_the_server_repeats_them(
    endpoint: Make, http_server: FaultyServer
) -> None:
    """Tokens, passwords, cookies and queries of the request are in no part of the error."""
    http_server.play(otherwise=respond(400, f"you sent {' '.join(SECRETS)} and left".encode()))
    url = http_server.url.replace("//", "//user:hunter22@") + "/labels?key=kitchen-key"
    of_client = {"headers": {"X-Api-Key": "sesame-token", "Cookie": "open-sesame"}}
    error = failed(endpoint(url=url, of_client=of_client), {"a": 1})
    assert "authorization" in http_server.received[0].headers
    assert [secret for secret in SECRETS if secret in shown(error)] == []
    assert error.url == f"{http_server.url}/labels"
    assert error.body.startswith("you sent [redacted]")
    assert error.body.endswith("and left")


@pytest.mark.parametrize("behaviour", [RESET, HANG], ids=str)
def test_an_error_of_the_wire_shows_no_credentials(
    behaviour: Behaviour, endpoint: Make, http_server: FaultyServer
) -> None:
    """The errors of httpx keep no headers, no body and no query of the request, nor do those that they caused."""
    http_server.play(otherwise=behaviour)
    url = http_server.url.replace("//", "//user:hunter22@") + "/labels?key=kitchen-key"
    with pytest.raises((httpx.TransportError, TimeoutExceeded)) as caught:
        endpoint(url=url, timeout=0.05)({"secret": SECRETS[1]})
    error = caught.value
    assert [secret for secret in SECRETS if secret in shown(error)] == []
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx.RequestError):
            assert (str(cause.request.url), cause.request.content) == (f"{http_server.url}/labels", b"")
            assert set(cause.request.headers) <= {"host", "content-length"}
        cause = cause.__cause__ or cause.__context__


# Uses


@pytest.mark.parametrize("payload", [object(), {1, 2}, float("nan")])
def test_a_payload_that_is_no_json_is_never_sent(
    payload: Any, endpoint: Make, http_server: FaultyServer
) -> None:
    """It is refused before anything is sent."""
    with pytest.raises((TypeError, ValueError), match="the payload of"):
        endpoint(QUICK)(payload)
    assert http_server.requests == 0


@pytest.mark.parametrize("key", ["", "é", "two\r\nlines", "x" * 256, None, 7])
def test_a_key_that_cannot_be_sent_is_refused(key: Any, endpoint: Make, http_server: FaultyServer) -> None:
    """A key is 1 to 255 printable ASCII characters; anything else is refused before anything is sent."""
    with pytest.raises(ValueError, match=r"idempotency_key .* cannot be sent"):
        endpoint(QUICK)(1, key)
    assert http_server.requests == 0


@pytest.mark.parametrize("kind", [HttpHandler, AsyncHttpHandler])
def test_every_fault_of_the_settings_is_reported_at_once(kind: Any) -> None:
    """Address, client, method, timeout and size are checked together, and no password is shown."""
    with pytest.raises(ConfigurationError) as caught:
        kind("ftp://user:hunter22@host/", client=7, method="GET /", timeout=0, max_size=0)
    paths = [fault.path for fault in caught.value.faults]
    assert paths == ["url", "client", "method", "timeout", "max_size"]
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "labels", "http://", "http://a:b/", 7, None, "https:///labels"])
def test_what_is_no_address_is_refused(url: Any) -> None:
    """A handler needs an http or https address with a host."""
    with pytest.raises(ConfigurationError, match="is no address"):
        HttpHandler(url)


def test_a_client_of_the_other_kind_is_refused() -> None:
    """A sync handler takes no async client, nor the other way round."""
    with httpx.Client() as client, pytest.raises(ConfigurationError, match=r"is no httpx\.AsyncClient"):
        AsyncHttpHandler("http://a.test/", client=client)  # type: ignore[arg-type]


def test_the_error_of_an_endpoint_survives_pickling() -> None:
    """Status, address, body and hint are the same on the other side."""
    error = HttpFailed("POST", "http://a.test/", 503, "busy", retry_after=3.0)
    there: HttpFailed = pickle.loads(pickle.dumps(error))
    assert (there.args, there.retry_after, classify(there)) == (error.args, 3.0, classify(error))
    assert str(there) == "POST http://a.test/ answered 503: busy"
    assert str(HttpFailed("POST", "http://a.test/", 500, "")) == "POST http://a.test/ answered 500: no body"
