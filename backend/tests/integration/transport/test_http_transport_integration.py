"""The httpx transports by themselves: their settings, and what they do to requests, responses, the wire."""

import asyncio
import importlib
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpcore
import httpx
import pytest
from tenacity import retry_if_exception_type

from backend.tests.integration._client import Caller, SkippingClock, caller
from backend.tests.integration._server import FaultyServer, respond
from holdfast.infrastructure.resilience.cache import Cache
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker, CircuitBreakers
from holdfast.infrastructure.resilience.deadline import current_deadline, remaining
from holdfast.infrastructure.resilience.errors import CircuitOpenError, ConfigurationError, TimeoutExceeded
from holdfast.infrastructure.resilience.hedge import Hedge
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.rate_limit import RateLimits
from holdfast.infrastructure.resilience.registry import Registry
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.resilience.window import Window
from holdfast.infrastructure.transport.http import (
    AsyncHttpxTransport,
    HttpxTransport,
    async_httpx_transport,
    httpx_transport,
)

# Private: the contracts that the tests are type-checked against do not know it.
network: Any = importlib.import_module("holdfast.infrastructure.transport._network")
rules: Any = importlib.import_module("holdfast.infrastructure.transport._http")

_ONE = httpx.Limits(max_connections=1)

Connect = Callable[..., Caller]
Handler = Callable[[httpx.Request], httpx.Response]
Send = Callable[..., httpx.Response]

BUSY = respond(503, b"busy")
URL = "http://service.test/"


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def send(mode: str) -> Send:
    """Give a function that sends one request through a policy to a handler in place of a server."""

    def sync(
        policy: Any, handler: Handler, method: str = "GET", url: str = URL, **options: Any
    ) -> httpx.Response:
        settings = options.pop("settings", {})
        transport = httpx_transport(policy, transport=httpx.MockTransport(handler), **settings)
        with httpx.Client(transport=transport, timeout=options.pop("timeout", 5.0)) as client:
            return client.request(method, url, **options)

    def through_async(
        policy: Any, handler: Handler, method: str = "GET", url: str = URL, **options: Any
    ) -> httpx.Response:
        async def go() -> httpx.Response:
            settings = options.pop("settings", {})
            transport = async_httpx_transport(policy, transport=httpx.MockTransport(handler), **settings)
            async with httpx.AsyncClient(transport=transport, timeout=options.pop("timeout", 5.0)) as client:
                return await client.request(method, url, **options)

        return asyncio.run(go())

    return sync if mode == "sync" else through_async


class Remote:
    """A handler that raises or answers as scripted, then with 200, and remembers the requests."""

    def __init__(self, *script: Exception | int | httpx.Response) -> None:
        self.script = list(script)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        step = self.script.pop(0) if self.script else 200
        if isinstance(step, Exception):
            raise step
        return httpx.Response(step) if isinstance(step, int) else step


# Settings


@pytest.mark.parametrize("make", [httpx_transport, async_httpx_transport])
def test_every_fault_of_the_settings_is_reported_at_once(make: Callable[..., Any]) -> None:
    """Methods and statuses that are none are listed together, with what to give instead."""
    with pytest.raises(ConfigurationError) as caught:
        make(Retry(), retry_methods="GET", failure_statuses={503, 1000})
    assert [fault.path for fault in caught.value.faults] == ["retry_methods", "failure_statuses"]


@pytest.mark.parametrize("make", [httpx_transport, async_httpx_transport])
def test_what_is_no_policy_is_refused(make: Callable[..., Any]) -> None:
    """A transport needs a policy, whole but for what it knows itself: the host that a breaker is for."""
    with pytest.raises(TypeError, match="is no policy: give a Pipeline"):
        make(3)
    with pytest.raises(TypeError, match=r"RateLimits needs .* give key="):
        make(RateLimits(1))
    assert make(CircuitBreakers()).breakers is not None


@pytest.mark.parametrize("make", [httpx_transport, async_httpx_transport])
@pytest.mark.parametrize("unfit", [Hedge(0.1), Cache(60)])
def test_a_hedge_or_a_cache_is_refused(make: Callable[..., Any], unfit: Policy) -> None:
    """What would send a POST twice, or keep open connections, belongs around a function that returns data."""
    for policy in (unfit, Pipeline(Retry(), unfit)):
        with pytest.raises(TypeError, match=r"cannot be in an httpx transport: .* decorate the function"):
            make(policy)


def test_a_hedge_that_comes_under_a_name_later_sends_nothing(send: Send) -> None:
    """A name that is given a hedge is refused at the next request, before that is sent."""
    registry, remote = Registry(), Remote()
    registry.define("shop", Retry())
    named = registry.resilient("shop")
    registry.define("shop", Hedge(0.1))
    with pytest.raises(TypeError, match="cannot be in an httpx transport"):
        send(named, remote, "POST")
    assert remote.requests == []


def test_the_functions_make_the_classes() -> None:
    """`httpx_transport` and `async_httpx_transport` are the short way to the two classes."""
    assert type(httpx_transport(Retry())) is HttpxTransport
    assert type(async_httpx_transport(Retry())) is AsyncHttpxTransport


def test_methods_are_compared_as_httpx_writes_them(send: Send) -> None:
    """A method in small letters means the same."""
    remote = Remote(503)
    settings = {"retry_methods": frozenset({"post"})}
    assert send(Retry(wait=0.0), remote, "POST", settings=settings).status_code == 200
    assert send(Retry(wait=0.0), Remote(503), "GET", settings=settings).status_code == 503


def test_the_user_says_which_statuses_are_failures(send: Send) -> None:
    """A status of the user's is retried and counted, one that he left out is an answer."""
    settings = {"failure_statuses": frozenset({404})}
    breaker = CircuitBreaker(window=Window.consecutive(2))
    remote = Remote(404, 404)
    with pytest.raises(CircuitOpenError):
        send(Pipeline(Retry(wait=0.0), breaker), remote, settings=settings)
    assert len(remote.requests) == 2
    assert send(Retry(wait=0.0), Remote(503), settings=settings).status_code == 503


def test_entering_and_leaving_reach_the_transport_inside() -> None:
    """The client opens and closes the transport inside, once each, sync and async."""
    calls: list[str] = []

    class Inside(httpx.MockTransport):
        def __enter__(self) -> "Inside":
            calls.append("enter")
            return self

        def __exit__(self, *_: object) -> None:
            calls.append("exit")

        async def __aenter__(self) -> "Inside":
            calls.append("aenter")
            return self

        async def __aexit__(self, *_: object) -> None:
            calls.append("aexit")

        def close(self) -> None:
            calls.append("close")

        async def aclose(self) -> None:
            calls.append("aclose")

    async def use_async() -> None:
        async with httpx.AsyncClient(transport=async_httpx_transport(Retry(), transport=Inside(Remote()))):
            pass
        await httpx.AsyncClient(transport=async_httpx_transport(Retry(), transport=Inside(Remote()))).aclose()

    with httpx.Client(transport=httpx_transport(Retry(), transport=Inside(Remote()))):
        pass
    httpx.Client(transport=httpx_transport(Retry(), transport=Inside(Remote()))).close()
    asyncio.run(use_async())
    assert calls == ["enter", "exit", "close", "aenter", "aexit", "aclose"]


# Requests


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://service.test/a", "http://service.test:80"),
        ("https://service.test/b?c=d", "https://service.test:443"),
        ("http://service.test:8080/", "http://service.test:8080"),
        ("http://[::1]:9/", "http://[::1]:9"),
    ],
)
def test_a_family_without_a_key_has_a_breaker_for_each_origin(send: Send, url: str, key: str) -> None:
    """Scheme, host and port say which breaker a request belongs to."""
    family = CircuitBreakers("api")
    send(Pipeline(Retry(), family), Remote(), url=url)
    assert list(family) == [key]


def test_a_family_with_a_key_keeps_it(send: Send) -> None:
    """The user's key function is given the request."""

    def tenant(request: httpx.Request) -> str:
        return request.headers["tenant"]

    family = CircuitBreakers(key=tenant)
    send(family, Remote(), headers={"tenant": "a"})
    assert list(family) == ["a"]


def test_the_breakers_of_the_pipeline_can_be_reached() -> None:
    """`breakers` is the family that decides, and None without one."""
    family = CircuitBreakers("api")
    transport = httpx_transport(Pipeline(Retry(), family))
    assert transport.breakers is not None
    assert transport.breakers.get("x") is family.get("x")
    assert httpx_transport(CircuitBreaker()).breakers is None
    assert async_httpx_transport(family).breakers is not None
    assert async_httpx_transport(Retry()).breakers is None


def test_one_breaker_is_shared_by_all_hosts(send: Send) -> None:
    """A single CircuitBreaker in the pipeline means one for everything."""
    breaker = CircuitBreaker(window=Window.consecutive(1))
    send(breaker, Remote(503), url="http://one.test/")
    with pytest.raises(CircuitOpenError):
        send(breaker, Remote(), url="http://two.test/")


def test_timeouts_are_the_smaller_of_the_clients_and_what_is_left(send: Send) -> None:
    """Each of the four timeouts is bounded by the deadline, and one that was not set gets it."""
    remote = Remote()
    send(Timeout(2.0), remote, timeout=httpx.Timeout(None, connect=0.5, read=60.0))
    timeouts = remote.requests[0].extensions["timeout"]
    assert timeouts["connect"] == 0.5
    assert [1.5 < timeouts[kind] <= 2.1 for kind in ("read", "write", "pool")] == [True] * 3


def test_without_a_deadline_the_timeouts_are_the_clients(send: Send) -> None:
    """No deadline, no change."""
    remote = Remote()
    send(Retry(), remote, timeout=httpx.Timeout(None, read=60.0))
    assert remote.requests[0].extensions["timeout"] == {
        "connect": None,
        "read": 60.0,
        "write": None,
        "pool": None,
    }


def test_the_callers_request_is_not_changed(send: Send) -> None:
    """A redirect, which takes over its request's extensions, does not inherit shortened timeouts."""
    remote = Remote(httpx.Response(302, headers={"location": "/there"}))
    response = send(Timeout(2.0), remote, timeout=60.0, follow_redirects=True)
    assert response.request.url.path == "/there"
    assert response.request.extensions["timeout"]["read"] == 60.0
    assert response.history[0].request.extensions["timeout"]["read"] == 60.0


def test_every_attempt_has_its_own_timeouts(send: Send, skipping_clock: SkippingClock) -> None:
    """What the waits before an attempt have used up is no longer in its timeouts."""
    remote = Remote(503, 503)
    send(Pipeline(Timeout(10.0), Retry(3, wait=4.0)), remote, timeout=60.0)
    reads = [request.extensions["timeout"]["read"] for request in remote.requests]
    assert reads == [pytest.approx(left, abs=0.5) for left in (10.0, 6.0, 2.0)]


@pytest.mark.parametrize(
    "error",
    [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), httpx.PoolTimeout("full")],
    ids=repr,
)
def test_what_never_left_is_retried_for_any_method(send: Send, error: Exception) -> None:
    """Without a connection nothing can have been done, so a POST is safe to repeat."""
    remote = Remote(error)
    assert send(Retry(wait=0.0), remote, "POST", content=b"order").status_code == 200
    assert len(remote.requests) == 2


def test_what_never_left_is_retried_after_a_timeout_of_ours(
    send: Send, skipping_clock: SkippingClock
) -> None:
    """A connect timeout that the deadline brought about is still one before which nothing was sent."""
    remote = Remote()

    def late(request: httpx.Request) -> httpx.Response:
        if not remote.requests:
            remote.requests.append(request)
            skipping_clock.skip(3.0)
            raise httpx.ConnectTimeout("the deadline has passed")
        return remote(request)

    assert send(Pipeline(Retry(wait=0.0), Timeout(2.0)), late, "POST").status_code == 200
    assert len(remote.requests) == 2


def test_the_users_on_still_decides_for_what_never_left(send: Send) -> None:
    """Being safe to repeat does not make an error one that the user wants repeated."""
    remote = Remote(httpx.ConnectError("refused"))
    with pytest.raises(httpx.ConnectError):
        send(Retry(wait=0.0, on=httpx.ReadTimeout), remote, "POST")
    assert len(remote.requests) == 1


@pytest.mark.parametrize("kind", [httpx.ConnectError, httpx.ReadError])
def test_tenacitys_retry_objects_are_narrowed_too(send: Send, kind: type[httpx.TransportError]) -> None:
    """Strategies of tenacity's decide about what may be repeated, as they do without the transport."""
    on: Any = retry_if_exception_type(kind)
    policy = Retry(2, wait=0.0, on=on)
    safe, unsafe = Remote(kind("a")), Remote(kind("a"))
    assert send(policy, safe, "GET").status_code == 200
    if kind is httpx.ConnectError:
        assert send(policy, unsafe, "POST").status_code == 200
    else:
        with pytest.raises(httpx.ReadError):
            send(policy, unsafe, "POST")
    assert (len(safe.requests), len(unsafe.requests)) == (2, 1 + (kind is httpx.ConnectError))
    assert send(policy, Remote(503), "POST").status_code == 503


def test_a_refused_result_is_not_repeated_either(send: Send) -> None:
    """A `result` predicate retries what may be repeated, and nothing else."""
    pending = Retry(3, wait=0.0, result=lambda response: response.headers.get("state") == "pending")

    def poll() -> Remote:
        return Remote(httpx.Response(200, headers={"state": "pending"}))

    once, again = poll(), poll()
    assert send(pending, again, "GET").headers.get("state") is None
    assert send(pending, once, "POST").headers["state"] == "pending"
    assert (len(again.requests), len(once.requests)) == (2, 1)


def test_a_one_shot_body_that_was_read_is_not_sent_again(send: Send, mode: str) -> None:
    """Whatever a transport claims, a body that was begun is gone: its own error comes out."""
    remote = Remote(httpx.ConnectError("after reading"))

    async def parts() -> AsyncIterator[bytes]:
        yield b"once"

    with pytest.raises(httpx.ConnectError):
        send(Retry(wait=0.0), remote, "PUT", content=iter([b"once"]) if mode == "sync" else parts())
    assert [request.content for request in remote.requests] == [b"once"]


def test_an_error_without_a_request_was_made_before_any_was_sent() -> None:
    """A policy inside the retry may raise a connection error of its own: nothing was sent then either."""
    assert rules.never_left(httpx.ConnectError("made up")) is True
    assert rules.never_left(httpx.ReadError("made up")) is False


@pytest.mark.parametrize(
    ("sent", "left"),
    [(None, False), (httpx.ReadError("lost"), True), (httpx.ConnectError("refused"), False)],
    ids=repr,
)
def test_a_refusal_left_if_what_came_before_it_did(sent: Exception | None, *, left: bool) -> None:
    """A policy may refuse only the second attempt of a retry inside: its first may have done what was asked."""
    refusal = CircuitOpenError("api", 1.0)
    refusal.__cause__ = sent
    assert rules.never_left(refusal) is not left


def test_a_post_whose_second_attempt_is_refused_is_sent_once(send: Send) -> None:
    """A retry outside knows by the refusal's cause that the first attempt was sent."""
    breaker = CircuitBreaker(window=Window.consecutive(1))
    stack = Pipeline(Retry(3, wait=0.0), Retry(2, wait=0.0, on=httpx.ReadError), breaker)
    remote = Remote(httpx.ReadError("lost"))
    with pytest.raises((httpx.ReadError, CircuitOpenError)):
        send(stack, remote, "POST", content=b"order")
    assert len(remote.requests) == 1


def test_errors_know_their_request(send: Send) -> None:
    """What comes out of the client carries the request that the caller made."""
    with pytest.raises(httpx.ReadError) as caught:
        send(Retry(2, wait=0.0), Remote(httpx.ReadError("a"), httpx.ReadError("b")))
    assert str(caught.value.request.url) == URL


def test_policies_see_a_failure_as_httpx_would_raise_it(send: Send) -> None:
    """`on` may name httpx.HTTPStatusError, and sees the response; the caller gets the response itself."""
    seen: list[int] = []

    def on(error: Exception) -> bool:
        assert isinstance(error, httpx.HTTPStatusError)
        seen.append(error.response.status_code)
        return True

    assert send(Retry(2, wait=0.0, on=on), Remote(500, 502)).status_code == 502
    assert seen == [500, 502]
    assert send(Retry(2, wait=0.0, on=httpx.HTTPStatusError), Remote(500)).status_code == 200


def test_called_code_sees_the_deadline(send: Send) -> None:
    """A transport inside can ask how much time is left."""
    seen: list[float | None] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.extend((remaining(), current_deadline()))
        return httpx.Response(200)

    send(Timeout(5.0), handler)
    assert seen[0] == pytest.approx(5.0, abs=0.5)
    assert current_deadline() is None


# Responses


@pytest.mark.parametrize("buffer", [False, True])
def test_a_response_is_as_the_server_sent_it(
    http_server: FaultyServer, connect: Connect, *, buffer: bool
) -> None:
    """Status, headers, body and streaming work as without holdfast; the connection is used again."""
    http_server.play(respond(201, b"x" * 70_000, x_mark="7"), respond(200, b"pieces", chunked=True))
    client = connect(Pipeline(Timeout(5), Retry(), CircuitBreakers()), buffer=buffer)
    first = client.request("POST", http_server.url, content=b"in")
    assert (first.status_code, first.headers["x-mark"], len(first.content)) == (201, "7", 70_000)
    second = client.stream("GET", http_server.url)
    assert second.is_closed is False
    assert client.read(second) == b"pieces"
    assert client.request("HEAD", http_server.url).content == b""
    assert http_server.connections == 1


def test_a_response_that_is_closed_unread_gives_its_connection_back(
    http_server: FaultyServer, connect: Connect
) -> None:
    """Closing a streamed response early leaves nothing open, and the next request gets a connection."""
    client = connect(Pipeline(Timeout(5), Retry()))
    client.close_response(client.stream("GET", http_server.url))
    assert client.open.now == 0
    assert client.request("GET", http_server.url).text == "ok"


def test_a_reader_beyond_the_deadline_is_told(
    http_server: FaultyServer, connect: Connect, skipping_clock: SkippingClock
) -> None:
    """A part that is read after the deadline raises TimeoutExceeded with the attempt's seconds."""
    http_server.play(respond(200, b"x" * 1000))
    client = connect(Timeout(5.0))
    response = client.stream("GET", http_server.url)
    skipping_clock.skip(6.0)
    with pytest.raises(TimeoutExceeded) as caught:
        client.read(response)
    assert caught.value.seconds == pytest.approx(5.0, abs=0.1)


def test_a_predicate_may_read_the_response(http_server: FaultyServer) -> None:
    """A response that a `result` predicate has read is not read again, whether it is refused or returned."""
    http_server.play(respond(200, b"pending"))
    policy = Retry(2, wait=0.0, result=lambda response: response.read() == b"pending")
    client = caller("sync", policy)
    assert client.request("GET", http_server.url).text == "ok"
    assert (client.open.now, client.open.total) == (0, 2)
    client.close()


def test_a_response_that_comes_too_late_is_closed() -> None:
    """An attempt that a thread timeout left behind may still get an answer: nobody takes it, so it is closed."""
    go_on, closed = threading.Event(), threading.Event()

    class Late(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"late"

        def close(self) -> None:
            closed.set()

    def first_is_late(request: httpx.Request) -> httpx.Response:
        if remote.requests:
            return remote(request)
        remote.requests.append(request)
        go_on.wait(5.0)
        return httpx.Response(200, stream=Late())

    remote = Remote()
    policy = Pipeline(Retry(2, wait=0.0), Timeout(0.5, sync="thread"))
    transport = httpx_transport(policy, transport=httpx.MockTransport(first_is_late))
    with httpx.Client(transport=transport) as client:
        assert client.get(URL).content == b""
        assert not closed.is_set()
        go_on.set()
        assert closed.wait(5.0)


@pytest.mark.parametrize(("method", "status"), [("GET", 101), ("CONNECT", 200)])
def test_an_upgraded_connection_is_not_buffered(mode: str, method: str, status: int) -> None:
    """What follows an upgrade is no body: it is left alone even with `buffer`."""
    body = Watched()
    inner = httpx.MockTransport(Remote(httpx.Response(status, stream=body)))
    request = httpx.Request(method, URL)
    if mode == "sync":
        httpx_transport(Retry(), transport=inner, buffer=True).handle_request(request)
    else:
        asyncio.run(
            async_httpx_transport(Retry(), transport=inner, buffer=True).handle_async_request(request)
        )
    assert body.read == 0


class Watched(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body without end that counts what is read of it."""

    def __init__(self) -> None:
        self.read = 0
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.read += 1
            yield b"x"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("headers", "read"),
    [
        ({"content-length": "100"}, 16),
        ({"transfer-encoding": "chunked"}, 16),
        ({"content-length": "65537"}, 0),
        ({"content-length": "100", "connection": "close"}, 0),
        ({}, 0),
    ],
)
def test_a_failed_response_is_read_only_to_keep_its_connection(
    send: Send, headers: dict[str, str], read: int
) -> None:
    """What is long, has no end or ends its connection is closed unread; of anything else little is read."""
    body = Watched()
    assert send(Retry(2, wait=0.0), Remote(httpx.Response(503, headers=headers, stream=body))).is_success
    assert (body.read, body.closed) == (read, True)


def test_a_timeout_does_not_interrupt_the_closing_of_a_body() -> None:
    """A deadline ends a body once: nothing is being tidied up when the Timeout cancels."""
    closed: list[bool] = []

    class Slow(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(0)
                yield b"x"

        async def aclose(self) -> None:
            closed.append(False)
            await asyncio.sleep(0.01)
            closed[-1] = True

    async def call() -> None:
        inner = httpx.MockTransport(Remote(httpx.Response(200, stream=Slow())))
        with pytest.raises(TimeoutExceeded):
            await async_httpx_transport(Timeout(0.05), transport=inner, buffer=True).handle_async_request(
                httpx.Request("GET", URL)
            )

    asyncio.run(call())
    assert closed == [True]


# The wire


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_pool_is_bound_once(kind: str) -> None:
    """The connections of httpx's own transports are bounded, once; any other transport is left alone."""
    wire = Wire() if kind == "sync" else AsyncWire()
    pool = SimpleNamespace(_network_backend=wire)
    transport = SimpleNamespace(_pool=pool)
    network.bind(transport)
    backend = within(pool, "_network_backend")
    assert type(backend) is (network.Backend if kind == "sync" else network.AsyncBackend)
    network.bind(transport)
    assert within(pool, "_network_backend") is backend
    network.bind(httpx.MockTransport(Remote()))


def test_a_bound_shrinks_while_time_passes(skipping_clock: SkippingClock) -> None:
    """A timeout that knows its deadline is worth what is left; a plain one stays as it is."""
    bound = network.Bound(2.0, skipping_clock.monotonic() + 3.0)
    assert network.left(bound, httpcore.ReadTimeout) == 2.0
    skipping_clock.skip(2.5)
    assert network.left(bound, httpcore.ReadTimeout) == pytest.approx(0.5, abs=0.1)
    skipping_clock.skip(2.5)
    with pytest.raises(httpcore.ReadTimeout):
        network.left(bound, httpcore.ReadTimeout)
    assert network.left(2.0, httpcore.ReadTimeout) == 2.0
    assert network.left(None, httpcore.ReadTimeout) is None


def within(holder: object, name: str) -> Any:
    return vars(holder)[name]


def lose_a_connection(inner: object, server: FaultyServer) -> None:
    """Leave a connection in a pool as httpcore does when its request ends before using it."""
    pool = within(inner, "_pool")
    within(pool, "_connections").append(
        pool.create_connection(httpcore.Origin(b"http", b"127.0.0.1", server.port))
    )


def test_whoever_waits_gets_the_place_of_a_lost_connection(http_server: FaultyServer) -> None:
    """A pool full of connections that nobody uses serves the next request as soon as they are found."""
    inner = httpx.HTTPTransport(verify=False, limits=_ONE)
    lose_a_connection(inner, http_server)
    with httpx.Client(transport=inner, timeout=5.0) as client, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.get, http_server.url)
        with pytest.raises(TimeoutError):
            waiting.result(0.05)
        network.reclaim(inner)
        assert waiting.result(2.0).text == "ok"


def test_whoever_waits_gets_the_place_of_a_lost_connection_async(http_server: FaultyServer) -> None:
    """As above, async."""

    async def call() -> httpx.Response:
        inner = httpx.AsyncHTTPTransport(verify=False, limits=_ONE)
        lose_a_connection(inner, http_server)
        async with httpx.AsyncClient(transport=inner, timeout=5.0) as client:
            waiting = asyncio.create_task(client.get(http_server.url))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(waiting), 0.05)
            await network.areclaim(inner)
            return await asyncio.wait_for(waiting, 2.0)

    assert asyncio.run(call()).text == "ok"


class Wire(httpcore.NetworkBackend, httpcore.NetworkStream):
    """A network that writes down what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> "Wire":
        self.asked.append(("tcp", host, port, timeout))
        return self

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> "Wire":
        self.asked.append(("unix", path, timeout))
        return self

    def sleep(self, seconds: float) -> None:
        self.asked.append(("sleep", seconds))

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.asked.append(("read", max_bytes, timeout))
        return b"data"

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.asked.append(("write", len(buffer), timeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> "Wire":
        self.asked.append(("tls", server_hostname, timeout))
        return self

    def get_extra_info(self, info: str) -> Any:
        return info

    def close(self) -> None:
        self.asked.append(("close",))


class AsyncWire(httpcore.AsyncNetworkBackend, httpcore.AsyncNetworkStream):
    """As `Wire`, async."""

    def __init__(self) -> None:
        self.wire = Wire()

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> "AsyncWire":
        self.wire.connect_tcp(*args, **kwargs)
        return self

    async def connect_unix_socket(self, *args: Any, **kwargs: Any) -> "AsyncWire":
        self.wire.connect_unix_socket(*args, **kwargs)
        return self

    async def sleep(self, seconds: float) -> None:
        self.wire.sleep(seconds)

    async def read(self, *args: Any, **kwargs: Any) -> bytes:
        return self.wire.read(*args, **kwargs)

    async def write(self, *args: Any, **kwargs: Any) -> None:
        self.wire.write(*args, **kwargs)

    async def start_tls(self, *args: Any, **kwargs: Any) -> "AsyncWire":
        self.wire.start_tls(*args, **kwargs)
        return self

    def get_extra_info(self, info: str) -> Any:
        return info

    async def aclose(self) -> None:
        self.wire.close()


def drive(wire: Wire, timeout: float | None) -> None:
    backend = network.Backend(wire)
    stream = backend.connect_tcp("host", 1, timeout)
    stream = stream.start_tls(ssl.create_default_context(), "host", timeout)
    assert stream.read(10, timeout) == b"data"
    stream.write(b"x" * 100_000, timeout)
    stream.write(b"", timeout)
    assert stream.get_extra_info("socket") == "socket"
    backend.connect_unix_socket("path", timeout).close()
    backend.sleep(0.5)


async def drive_async(wire: AsyncWire, seconds: float | None) -> None:
    backend = network.AsyncBackend(wire)
    stream = await backend.connect_tcp("host", 1, seconds)
    stream = await stream.start_tls(ssl.create_default_context(), "host", seconds)
    assert await stream.read(10, seconds) == b"data"
    await stream.write(b"x" * 100_000, seconds)
    await stream.write(b"", seconds)
    assert stream.get_extra_info("socket") == "socket"
    await (await backend.connect_unix_socket("path", seconds)).aclose()
    await backend.sleep(0.5)


def asked_of(mode: str, timeout: float | None) -> list[tuple[Any, ...]]:
    if mode == "sync":
        wire = Wire()
        drive(wire, timeout)
        return wire.asked
    async_wire = AsyncWire()
    asyncio.run(drive_async(async_wire, timeout))
    return async_wire.wire.asked


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_every_operation_on_the_wire_has_what_is_left(mode: str, skipping_clock: SkippingClock) -> None:
    """Connecting, TLS, reading and each slice of a long body are given the time left when they begin."""
    asked = asked_of(mode, network.Bound(9.0, skipping_clock.monotonic() + 5.0))
    assert [step[0] for step in asked] == ["tcp", "tls", "read", "write", "write", "unix", "close", "sleep"]
    assert [4.0 < step[-1] <= 5.0 for step in asked[:6]] == [True] * 6
    assert [step[1] for step in asked if step[0] == "write"] == [65536, 100_000 - 65536]


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("timeout", [3.0, None])
def test_a_plain_timeout_passes_unchanged(mode: str, timeout: float | None) -> None:
    """Requests that come from elsewhere over the same pool are not touched."""
    asked = asked_of(mode, timeout)
    assert [step[-1] for step in asked if step[0] in {"tcp", "tls", "read", "unix"}] == [timeout] * 4
    assert [step[1:] for step in asked if step[0] == "write"] == [(100_000, timeout)]
