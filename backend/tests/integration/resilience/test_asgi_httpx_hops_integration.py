"""Seam: httpx transports that tell their deadline × ASGI middleware that keeps it, over real sockets and three hops."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import httpx
import pytest

from backend.tests.integration._asgi import Application, AsgiServer, Receive, Scope, Send, answer
from holdfast.infrastructure.resilience.deadline import deadline_after, remaining
from holdfast.infrastructure.resilience.errors import TimeoutExceeded
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.transport.http import async_httpx_transport, httpx_transport
from holdfast.infrastructure.transport.propagation import (
    ATTEMPT_HEADER,
    TIMEOUT_HEADER,
    PropagationMiddleware,
    caller_attempt,
    outgoing_headers,
)

Serve: TypeAlias = Callable[[Application], AsgiServer]
Handler: TypeAlias = Callable[[], Awaitable[int]]


class Service:
    """An ASGI application that notes, for each request, its headers and the context of its work."""

    def __init__(self, handler: Handler | None = None, status: int = 200) -> None:
        self.handler = handler
        self.status = status
        self.said: list[tuple[str | None, str | None]] = []
        self.left: list[float | None] = []
        self.attempts: list[int | None] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.said.append((headers.get(TIMEOUT_HEADER), headers.get(ATTEMPT_HEADER)))
        self.left.append(remaining())
        self.attempts.append(caller_attempt())
        await answer(send, self.status if self.handler is None else await self.handler())


def retrying(name: str | None) -> Policy:
    return Pipeline(Retry(3, wait=0.0), name=name)


def forward(to: str, policy: Policy) -> Handler:
    """Return a handler that asks the next service under a policy, and passes its status on."""

    async def handler() -> int:
        async with httpx.AsyncClient(transport=async_httpx_transport(policy)) as client:
            return (await client.get(to)).status_code

    return handler


def get(url: str, policy: Policy, **options: Any) -> httpx.Response:
    propagate = options.pop("propagate", True)
    with httpx.Client(transport=httpx_transport(policy, propagate=propagate)) as client:
        return client.request(options.pop("method", "GET"), url, **options)


def chain(serve: Serve, last: Service, name: str | None) -> tuple[str, list[Service]]:
    """Serve two services in front of the last one, each retrying what it asks the next; return the first's URL."""
    services = [last]
    for _ in range(2):
        url = serve(PropagationMiddleware(services[0])).url
        services.insert(0, Service(forward(url, retrying(name))))
    return serve(PropagationMiddleware(services[0])).url, services


# Retries


def test_over_three_hops_only_the_outermost_client_retries(asgi_server: Serve) -> None:
    """Named pipelines of three attempts at the client and two services: the last service is asked 3 times, not 27."""
    url, services = chain(asgi_server, Service(status=503), "shop")
    assert get(url, retrying("client")).status_code == 503
    assert [len(service.said) for service in services] == [3, 3, 3]
    assert [service.attempts for service in services] == [[1, 2, 3], [1, 1, 1], [1, 1, 1]]


def test_without_names_every_hop_retries(asgi_server: Serve) -> None:
    """Bare retries say nothing to the next hop: three layers of three attempts are 27 requests."""
    url, services = chain(asgi_server, Service(status=503), None)
    get(url, retrying(None))
    assert [len(service.said) for service in services] == [3, 9, 27]
    assert set(services[-1].attempts) == {None}


def test_a_service_that_was_asked_by_somebody_else_retries(asgi_server: Serve) -> None:
    """Where the client does not retry, the first service does, for those behind it."""
    url, services = chain(asgi_server, Service(status=503), "shop")
    get(url, Timeout(30.0))
    assert [len(service.said) for service in services] == [1, 3, 3]


def test_what_the_client_would_not_repeat_is_no_retried_request(asgi_server: Serve) -> None:
    """A POST is sent once whatever comes back, and says so; with an Idempotency-Key it is an attempt of several."""
    service = Service(status=503)
    url = asgi_server(PropagationMiddleware(service)).url
    get(url, retrying("client"), method="POST")
    get(url, retrying("client"), method="POST", headers={"Idempotency-Key": "7"})
    assert service.attempts == [None, 1, 2, 3]


def test_a_retry_around_the_client_counts(asgi_server: Serve) -> None:
    """The transport does not retry, the function around it does: its attempts are the ones that are told."""
    service = Service(status=503)
    url = asgi_server(PropagationMiddleware(service)).url

    @Pipeline(Retry(3, wait=0.0), name="page")
    def page() -> str:
        return get(url, Timeout(30.0), method="POST").raise_for_status().text

    with pytest.raises(httpx.HTTPStatusError):
        page()
    assert service.attempts == [1, 2, 3]


# Deadlines


def test_the_deadline_travels_and_shrinks(asgi_server: Serve) -> None:
    """Each hop has what the one before had left: less than it had, and none has more than the client gave."""
    url, services = chain(asgi_server, Service(), "shop")
    with deadline_after(20.0):
        assert get(url, retrying("client")).status_code == 200
    left = [service.left[0] or 0.0 for service in services]
    assert 20.0 > left[0] > left[1] > left[2] > 10.0


def test_the_attempt_timeout_is_the_deadline_that_is_told(asgi_server: Serve) -> None:
    """Of several bounds the server learns the tightest, in milliseconds."""
    service = Service()
    url = asgi_server(PropagationMiddleware(service)).url
    get(url, Pipeline(Timeout(30.0), Retry(2), Timeout(5.0), name="client"))
    ((said, attempt),) = service.said
    assert 4000 < int(said or 0) <= 5000
    assert attempt == "1"
    assert service.left[0] is not None
    assert 4.0 < service.left[0] < 5.0


def test_without_a_deadline_none_is_told(asgi_server: Serve) -> None:
    """No deadline, no header; no named retry, no attempt."""
    service = Service()
    url = asgi_server(PropagationMiddleware(service)).url
    get(url, retrying(None))
    assert (service.said, service.left, service.attempts) == ([(None, None)], [None], [None])


def test_propagation_can_be_switched_off(asgi_server: Serve) -> None:
    """A client that talks to strangers keeps its deadline and its attempts to itself."""
    service = Service()
    url = asgi_server(PropagationMiddleware(service)).url
    with deadline_after(20.0):
        get(url, retrying("client"), propagate=False)
    assert service.said == [(None, None)]


def test_without_the_middleware_headers_mean_nothing(asgi_server: Serve) -> None:
    """A server that did not opt in gets the headers, and no context from them."""
    service = Service()
    url = asgi_server(service).url
    with deadline_after(20.0):
        get(url, retrying("client"))
    ((said, attempt),) = service.said
    assert said is not None
    assert (attempt, service.left, service.attempts) == ("1", [None], [None])


def test_work_whose_deadline_has_passed_is_refused(asgi_server: Serve) -> None:
    """With nothing left the application is not asked; the answer is a problem that a person understands."""
    service = Service()
    url = asgi_server(PropagationMiddleware(service)).url
    response = httpx.get(url, headers={TIMEOUT_HEADER: "0"})
    assert (response.status_code, response.headers["content-type"]) == (504, "application/problem+json")
    assert json.loads(response.content)["detail"] == "the deadline of the request has passed"
    assert service.said == []


@pytest.mark.parametrize("said", ["-5", "1.5", "soon", "", "9" * 13, "0x10", "٣"])
def test_headers_that_make_no_sense_are_ignored(asgi_server: Serve, said: str) -> None:
    """What is no plain number of milliseconds is no deadline, and what is no plain number is no attempt."""
    service = Service()
    url = asgi_server(PropagationMiddleware(service)).url
    raw = [(name.encode(), said.encode()) for name in (TIMEOUT_HEADER, ATTEMPT_HEADER)]
    assert httpx.get(url, headers=raw).status_code == 200
    assert (service.left, service.attempts) == ([None], [None])


def test_a_header_twice_is_ignored(asgi_server: Serve) -> None:
    """Two deadlines contradict each other: neither holds."""
    service = Service()
    url = asgi_server(PropagationMiddleware(service)).url
    assert httpx.get(url, headers=[(TIMEOUT_HEADER, "0"), (TIMEOUT_HEADER, "9000")]).status_code == 200
    assert service.left == [None]


def test_one_request_says_nothing_about_the_next(asgi_server: Serve) -> None:
    """On one connection: a request with a deadline and an attempt, then one without either."""
    service = Service()
    url = asgi_server(PropagationMiddleware(service)).url
    with httpx.Client() as client:
        client.get(url, headers={TIMEOUT_HEADER: "9000", ATTEMPT_HEADER: "2"})
        client.get(url)
    assert service.attempts == [2, None]
    assert service.left[1] is None


# Cancelling


def test_work_may_be_cancelled_when_the_time_is_over(asgi_server: Serve) -> None:
    """With `cancel` the handler is cancelled at the deadline and the client gets a 504; without, it goes on."""
    ended: list[str] = []

    async def slow() -> int:
        try:
            await asyncio.sleep(0.6)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        ended.append("done")
        return 200

    statuses: list[int] = []
    for cancel in (True, False):
        url = asgi_server(PropagationMiddleware(Service(slow), cancel=cancel)).url
        statuses.append(httpx.get(url, headers={TIMEOUT_HEADER: "200"}, timeout=10.0).status_code)
    assert (statuses, ended) == ([504, 200], ["cancelled", "done"])


def test_a_response_that_has_begun_is_cut_off(asgi_server: Serve) -> None:
    """When the time is over in the middle of a body there is no other answer to give: the connection ends."""

    async def drip(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await asyncio.sleep(30.0)

    url = asgi_server(PropagationMiddleware(drip, cancel=True)).url
    began = time.monotonic()
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(url, headers={TIMEOUT_HEADER: "200"}, timeout=20.0)
    assert time.monotonic() - began < 10.0


def test_work_that_ends_in_time_is_left_alone(asgi_server: Serve) -> None:
    """`cancel` changes nothing for a request that is answered before its deadline."""
    service = Service()
    url = asgi_server(PropagationMiddleware(service, cancel=True)).url
    response = httpx.get(url, headers={TIMEOUT_HEADER: "9000"})
    assert (response.status_code, response.text, len(service.left)) == (200, "ok", 1)


def test_an_error_of_the_applications_own_comes_out() -> None:
    """A timeout inside the application, long before the request's own deadline, is the application's to answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutExceeded(0.05, "db")

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    scope: Scope = {"type": "http", "headers": [(TIMEOUT_HEADER.encode(), b"60000")]}
    for cancel in (True, False):
        with pytest.raises(TimeoutExceeded, match="'db'"):
            asyncio.run(PropagationMiddleware(app, cancel=cancel)(scope, nothing, nothing))


def test_what_a_request_said_ends_with_it() -> None:
    """In a process that calls its own application, the client's retry goes on: the request's context is put back."""
    statuses = [503, 503, 200]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, statuses.pop(0))

    async def main() -> int:
        transport = httpx.ASGITransport(PropagationMiddleware(app))

        @retrying("client")
        async def call() -> int:
            async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
                response = await client.get("/", headers=outgoing_headers())
                return response.raise_for_status().status_code

        found = await call()
        assert caller_attempt() is None
        return found

    assert asyncio.run(main()) == 200
    assert statuses == []


# By hand


def test_other_clients_can_say_the_same() -> None:
    """The headers are to be had for any client: the time that is left, and the attempt of a named retry."""
    seen: list[dict[str, str]] = []

    @Pipeline(Retry(2, wait=0.0), name="page")
    def page() -> None:
        seen.append(outgoing_headers())
        raise ConnectionError

    assert outgoing_headers() == {}
    with deadline_after(-1.0):
        assert outgoing_headers() == {TIMEOUT_HEADER: "0"}
    with pytest.raises(ConnectionError):
        page()
    assert seen == [{ATTEMPT_HEADER: "1"}, {ATTEMPT_HEADER: "2"}]


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
def test_other_connections_pass(kind: str) -> None:
    """What is no HTTP request goes to the application as it came."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, receive, send))

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    scope: Scope = {"type": kind, "headers": [(TIMEOUT_HEADER.encode(), b"0")]}
    asyncio.run(PropagationMiddleware(app)(scope, nothing, nothing))
    assert seen == [(scope, nothing, nothing)]


def test_what_is_no_application_is_refused() -> None:
    """A middleware around nothing says so where it is made."""
    with pytest.raises(TypeError, match="is no ASGI application"):
        PropagationMiddleware("app")  # type: ignore[arg-type]


def test_a_timed_out_request_is_still_the_clients_error(asgi_server: Serve) -> None:
    """The server's 504 for a deadline comes too late for a client that has given up itself: it sees its own error."""

    async def slow() -> int:
        await asyncio.sleep(0.5)
        return 200

    url = asgi_server(PropagationMiddleware(Service(slow), cancel=True)).url
    with pytest.raises(TimeoutExceeded), deadline_after(0.2):
        get(url, retrying("client"))
