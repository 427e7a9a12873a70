"""Seam: an httpx client under a pipeline × a real local server that fails in every way a server can."""

import asyncio
import io
import time
from collections.abc import Callable
from email.utils import formatdate

import httpx
import pytest

from backend.tests.integration._client import Caller, SkippingClock, caller
from backend.tests.integration._server import (
    DISCONNECT,
    GARBAGE,
    HANG,
    HANG_IN_BODY,
    HANG_IN_HEADERS,
    HEALTHY,
    RESET,
    RESET_IN_BODY,
    RESET_UNREAD,
    TRUNCATED,
    TRUNCATED_CHUNKED,
    Behaviour,
    FaultyServer,
    drip,
    drip_headers,
    hang_in_failure,
    respond,
)
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker, CircuitBreakers
from holdfast.infrastructure.resilience.deadline import deadline_after
from holdfast.infrastructure.resilience.errors import CircuitOpenError, TimeoutExceeded
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.timeout import Timeout, abandoned_workers
from holdfast.infrastructure.resilience.window import Window
from holdfast.infrastructure.transport.http import async_httpx_transport
from holdfast.testing.recorder import EventRecorder

Connect = Callable[..., Caller]

# Long enough for an answer, short enough to wait for; where no answer is expected, it can be shorter.
SOON, SOONER, LATER = 0.6, 0.06, 5.0
BUSY = respond(503, b"busy")

# How the server fails, and what comes out: the wire's errors are httpx's, the deadline's are ours.
BEFORE_THE_BODY: list[tuple[Behaviour, type[Exception]]] = [
    (RESET_UNREAD, httpx.ReadError),
    (RESET, httpx.ReadError),
    (DISCONNECT, httpx.RemoteProtocolError),
    (GARBAGE, httpx.RemoteProtocolError),
    (HANG, TimeoutExceeded),
    (HANG_IN_HEADERS, TimeoutExceeded),
    (drip_headers(), TimeoutExceeded),
]
IN_THE_BODY: list[tuple[Behaviour, type[Exception]]] = [
    (RESET_IN_BODY, httpx.ReadError),
    (TRUNCATED, httpx.RemoteProtocolError),
    (TRUNCATED_CHUNKED, httpx.RemoteProtocolError),
    (HANG_IN_BODY, TimeoutExceeded),
    (drip(), TimeoutExceeded),
]
EVERY_FAILURE = [*BEFORE_THE_BODY, *IN_THE_BODY]
STATUSES = [408, 425, 429, 500, 502, 503, 504]


def label(value: object) -> str:
    return value.__name__ if isinstance(value, type) else str(value)


def bound(raised: type[Exception], seconds: float = SOONER) -> Timeout:
    """Return an attempt's timeout: short where the deadline is what ends it, else one that nothing reaches."""
    return Timeout(seconds if raised is TimeoutExceeded else LATER)


@pytest.mark.parametrize(("failure", "raised"), EVERY_FAILURE, ids=label)
def test_every_failure_is_retried_until_the_server_answers(
    http_server: FaultyServer,
    connect: Connect,
    event_recorder: EventRecorder,
    failure: Behaviour,
    raised: type[Exception],
) -> None:
    """Whatever goes wrong, the next attempt's answer is the caller's, and nothing else stays open."""
    http_server.play(failure)
    client = connect(Pipeline(Retry(3, wait=0.01), bound(raised, SOON)), buffer=True)
    assert client.request("GET", http_server.url).text == "ok"
    assert [kind for kind in event_recorder.kinds if kind != "CallTimedOut"] == [
        "RetryScheduled",
        "RetrySucceeded",
    ]
    assert http_server.connections == 2


@pytest.mark.parametrize(("failure", "raised"), EVERY_FAILURE, ids=label)
def test_the_last_failure_comes_out_as_it_is(
    http_server: FaultyServer, connect: Connect, failure: Behaviour, raised: type[Exception]
) -> None:
    """A server that never recovers costs the attempts allowed, and the last error says how many."""
    http_server.play(failure, failure)
    client = connect(Pipeline(Retry(2, wait=0.01), bound(raised)), buffer=True)
    with pytest.raises(raised) as caught:
        client.request("GET", http_server.url)
    assert "gave up after 2 attempts" in caught.value.__notes__[0]
    assert http_server.wait_for_connections(2)
    assert http_server.connections == 2


@pytest.mark.parametrize("status", STATUSES)
def test_a_failure_status_is_retried(http_server: FaultyServer, connect: Connect, status: int) -> None:
    """Statuses that pass are tried again; small bodies of failures are read, so the connection is kept."""
    http_server.play(respond(status, b"no"), respond(status, b"no", chunked=True))
    client = connect(Retry(3, wait=0.01))
    assert client.request("GET", http_server.url).status_code == 200
    assert (http_server.requests, http_server.connections) == (3, 1)


@pytest.mark.parametrize("status", [200, 204, 304, 400, 401, 403, 404, 409, 501])
def test_any_other_status_is_an_answer(http_server: FaultyServer, connect: Connect, status: int) -> None:
    """A status that would be the same the next time is returned at once."""
    http_server.play(respond(status, b""))
    assert connect(Retry(3)).request("GET", http_server.url).status_code == status
    assert http_server.requests == 1


def test_the_last_response_is_returned_unread_and_open(http_server: FaultyServer, connect: Connect) -> None:
    """When attempts run out on a status, the caller gets that response, still to be read, and no error."""
    http_server.play(BUSY, BUSY, respond(502, b"read me"))
    client = connect(Pipeline(Retry(3, wait=0.01), CircuitBreakers(), Timeout(5)))
    response = client.stream("GET", http_server.url)
    assert (response.status_code, response.is_closed, response.is_stream_consumed) == (502, False, False)
    assert client.open.now == 1
    assert client.read(response) == b"read me"
    assert client.open.total == 3


def test_a_failed_response_is_read_however_long_the_wait_was(
    http_server: FaultyServer, connect: Connect
) -> None:
    """The connection is kept even if the failed attempt's own time is over by the time of the next one."""
    http_server.play(BUSY)
    client = connect(Pipeline(Retry(2, wait=30.0), Timeout(LATER)))
    assert client.request("GET", http_server.url).text == "ok"
    assert http_server.connections == 1


def test_a_large_body_of_a_failure_is_not_read(http_server: FaultyServer, connect: Connect) -> None:
    """What is long is closed, not drained: the next attempt has a connection of its own."""
    http_server.play(respond(503, b"x" * 100_000))
    assert connect(Retry(3, wait=0.01)).request("GET", http_server.url).text == "ok"
    assert http_server.connections == 2


@pytest.mark.parametrize("how", ["hang", "drip"])
def test_a_failure_whose_body_hangs_delays_the_next_attempt_little(
    http_server: FaultyServer, connect: Connect, how: str
) -> None:
    """A 503 whose body never ends is given up within a fraction of a second."""
    http_server.play(hang_in_failure() if how == "hang" else drip(status=503))
    began = time.monotonic()
    assert connect(Retry(3, wait=0.01)).request("GET", http_server.url).text == "ok"
    assert time.monotonic() - began < 5
    assert http_server.connections == 2


def test_a_closed_port_is_tried_until_somebody_listens(http_server: FaultyServer, connect: Connect) -> None:
    """A refused connection is retried, for any method: nothing was sent."""
    http_server.die()
    client = connect(Retry(3, wait=0.01, before_sleep=lambda state: revive_before(http_server, 3, state)))
    assert client.request("POST", http_server.url, content=b"order").text == "ok"
    assert http_server.bodies == [b"order"]


def revive_before(server: FaultyServer, attempt: int, state: object) -> None:
    if getattr(state, "attempt_number", None) == attempt - 1:
        server.revive()


def test_a_port_that_stays_closed_raises_what_httpx_raises(
    http_server: FaultyServer, connect: Connect
) -> None:
    """A server that is gone is tried as often as allowed, and httpx's ConnectError comes out."""
    http_server.die()
    client = connect(Retry(3, wait=0.01))
    with pytest.raises(httpx.ConnectError) as caught:
        client.request("GET", http_server.url)
    assert "gave up after 3 attempts" in caught.value.__notes__[0]


# Retry-After


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_server_says_when_to_come_back(
    http_server: FaultyServer, connect: Connect, skipping_clock: SkippingClock, status: int, form: str
) -> None:
    """Either form of Retry-After sets the wait: never less, and not much more."""
    value = "7" if form == "seconds" else formatdate(time.time() + 7, usegmt=True)
    http_server.play(respond(status, retry_after=value))
    assert connect(Retry(2, wait=0.01, hint_cap=1.0)).request("GET", http_server.url).text == "ok"
    assert len(skipping_clock.waits) == 1
    assert 5.5 <= skipping_clock.waits[0] <= 8.0


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("value", ["soon", "-3", "", "nan", "1e3", formatdate(1_000_000_000, usegmt=True)])
def test_a_useless_hint_is_ignored(
    http_server: FaultyServer, connect: Connect, skipping_clock: SkippingClock, status: int, value: str
) -> None:
    """Garbage, negative numbers and dates gone by leave the wait as it is."""
    http_server.play(respond(status, retry_after=value))
    assert connect(Retry(2, wait=0.01)).request("GET", http_server.url).text == "ok"
    assert skipping_clock.waits == [0.01]


def test_a_hint_beyond_the_deadline_ends_the_call_at_once(
    http_server: FaultyServer, connect: Connect, skipping_clock: SkippingClock
) -> None:
    """When the server asks for more time than is left, its response is returned without waiting."""
    http_server.play(otherwise=respond(503, b"later", retry_after="60"))
    client = connect(Pipeline(Timeout(10), Retry(5, wait=0.01)))
    assert client.request("GET", http_server.url).text == "later"
    assert (http_server.requests, skipping_clock.waits) == (1, [])


# What may be repeated


@pytest.mark.parametrize("failure", [BUSY, RESET, HANG], ids=str)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_may_have_been_done_is_not_done_twice(
    http_server: FaultyServer, connect: Connect, failure: Behaviour, method: str
) -> None:
    """A request that is not idempotent and has left is sent once, and its own failure comes out."""
    http_server.play(failure)
    client = connect(
        Pipeline(Retry(3, wait=0.01), bound(TimeoutExceeded if failure is HANG else httpx.ReadError, 1.0))
    )
    if failure is BUSY:
        assert client.request(method, http_server.url, content=b"order").status_code == 503
    else:
        with pytest.raises((httpx.ReadError, TimeoutExceeded)):
            client.request(method, http_server.url, content=b"order")
    assert http_server.wait_for_requests(1)
    assert http_server.bodies == [b"order"]


def test_an_idempotency_key_allows_repetition(http_server: FaultyServer, connect: Connect) -> None:
    """A POST that the server can recognise is retried, the same each time."""
    http_server.play(BUSY, RESET)
    client = connect(Retry(3, wait=0.01))
    headers = {"Idempotency-Key": "order-7"}
    assert client.request("POST", http_server.url, content=b"order", headers=headers).text == "ok"
    assert http_server.bodies == [b"order"] * 3
    assert {one.headers["idempotency-key"] for one in http_server.received} == {"order-7"}


@pytest.mark.parametrize("failure", [BUSY, RESET, HANG], ids=str)
def test_a_body_that_cannot_be_replayed_is_sent_once(
    http_server: FaultyServer, connect: Connect, failure: Behaviour
) -> None:
    """Once a generator was begun there is no retry, and what failed comes out, not StreamConsumed."""
    http_server.play(failure)
    client = connect(
        # Long enough for the body to be sent on a machine that does much else.
        Pipeline(Retry(3, wait=0.01), bound(TimeoutExceeded if failure is HANG else httpx.ReadError, 1.0))
    )
    body = client.parts(b"one ", b"two")
    if failure is BUSY:
        assert client.request("PUT", http_server.url, content=body).text == "busy"
    else:
        with pytest.raises((httpx.ReadError, TimeoutExceeded)):
            client.request("PUT", http_server.url, content=body)
    assert http_server.bodies == [b"one two"]


def test_a_body_that_was_not_begun_may_still_be_sent(http_server: FaultyServer, connect: Connect) -> None:
    """A generator for which no connection was made is untouched: it is tried again and arrives whole."""
    http_server.die()
    client = connect(Retry(2, wait=0.01, before_sleep=lambda state: revive_before(http_server, 2, state)))
    assert client.request("POST", http_server.url, content=client.parts(b"one ", b"two")).text == "ok"
    assert http_server.bodies == [b"one two"]


def test_a_form_with_files_that_can_be_rewound_is_replayed(
    http_server: FaultyServer, connect: Connect
) -> None:
    """A multipart body is sent again from its beginning."""
    http_server.play(BUSY)
    files = {"file": ("a.txt", io.BytesIO(b"contents"))}
    assert connect(Retry(2, wait=0.01)).request("PUT", http_server.url, files=files).text == "ok"
    first, second = http_server.bodies
    assert b"contents" in first
    assert first == second


def test_a_form_with_a_file_that_cannot_be_rewound_is_sent_once(
    http_server: FaultyServer, connect: Connect
) -> None:
    """A file that was read to its end would be sent empty the second time: the first response comes out."""
    http_server.play(BUSY)
    files = {"file": ("a.txt", Pipe(b"contents"))}
    assert connect(Retry(2, wait=0.01)).request("PUT", http_server.url, files=files).text == "busy"
    assert http_server.requests == 1


class Pipe(io.RawIOBase):
    """A file that can only be read onwards."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1, /) -> bytes:
        return self._data.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise io.UnsupportedOperation("seek")

    def seekable(self) -> bool:
        return False


# Breakers


def test_each_host_has_a_breaker(http_server: FaultyServer, connect: Connect) -> None:
    """A host that fails is cut off; another one that the same client calls is not."""
    with FaultyServer(otherwise=BUSY) as sick:
        family = CircuitBreakers("api", window=Window.consecutive(3))
        client = connect(family)
        for _ in range(3):
            assert client.request("GET", sick.url).status_code == 503
        with pytest.raises(CircuitOpenError) as caught:
            client.request("GET", sick.url + "/other")
        assert client.request("GET", http_server.url).text == "ok"
        assert sick.requests == 3
    assert caught.value.name == f"api[{sick.url}]"
    assert list(family) == [sick.url, http_server.url]
    assert [family.get(key).state for key in family] == [CircuitState.OPEN, CircuitState.CLOSED]


@pytest.mark.parametrize(("failure", "raised"), EVERY_FAILURE, ids=label)
def test_every_failure_counts_against_the_breaker(
    http_server: FaultyServer, connect: Connect, failure: Behaviour, raised: type[Exception]
) -> None:
    """The breaker opens whatever the way of failing, and then nothing reaches the server."""
    http_server.play(failure, failure)
    breaker = CircuitBreaker(window=Window.consecutive(2))
    client = connect(Pipeline(breaker, bound(raised)), buffer=True)
    for _ in range(2):
        with pytest.raises(raised):
            client.request("GET", http_server.url)
    with pytest.raises(CircuitOpenError):
        client.request("GET", http_server.url)
    assert http_server.wait_for_connections(2)
    assert (breaker.state, breaker.rejected, http_server.connections) == (CircuitState.OPEN, 1, 2)


def test_the_breaker_lets_a_recovered_server_back_in(
    http_server: FaultyServer, connect: Connect, skipping_clock: SkippingClock, event_recorder: EventRecorder
) -> None:
    """Dead, open, revived, probed, closed: the states come in that order, with exactly the probes allowed."""
    family = CircuitBreakers("api", window=Window.consecutive(2), open_for=5.0, half_open_calls=2)
    client = connect(family)
    http_server.die()
    for _ in range(2):
        with pytest.raises(httpx.ConnectError):
            client.request("GET", http_server.url)
    with pytest.raises(CircuitOpenError) as caught:
        client.request("GET", http_server.url)
    http_server.revive()
    assert caught.value.retry_after is not None
    skipping_clock.skip(caught.value.retry_after)
    assert [client.request("GET", http_server.url).text for _ in range(3)] == ["ok"] * 3
    assert event_recorder.kinds == ("CircuitOpened", "CallRejected", "CircuitHalfOpened", "CircuitClosed")


def test_a_breaker_that_opens_between_attempts_ends_the_call(
    http_server: FaultyServer, connect: Connect
) -> None:
    """The response that opened the breaker is closed, and the refusal comes out."""
    http_server.play(otherwise=BUSY)
    client = connect(Pipeline(Retry(5, wait=0.01), CircuitBreakers(window=Window.consecutive(2))))
    with pytest.raises(CircuitOpenError):
        client.request("GET", http_server.url)
    assert (http_server.requests, client.open.total) == (2, 2)


def test_the_budget_bounds_what_a_sick_server_gets(http_server: FaultyServer, connect: Connect) -> None:
    """When the budget has no token left, the response comes out as after the last attempt."""
    http_server.play(otherwise=BUSY)
    client = connect(Retry(100, wait=0.0, budget=RetryBudget.grpc(tokens=10)))
    assert client.request("GET", http_server.url).text == "busy"
    assert http_server.requests == 5


# Deadlines


@pytest.mark.parametrize("failure", [HANG, HANG_IN_HEADERS, drip_headers()], ids=str)
def test_the_deadline_ends_an_attempt(
    http_server: FaultyServer, connect: Connect, failure: Behaviour
) -> None:
    """Silence and dripping headers end with the deadline, and the connection is closed."""
    http_server.play(failure)
    client = connect(Timeout(0.1))
    began = time.monotonic()
    with pytest.raises(TimeoutExceeded) as caught:
        client.request("GET", http_server.url)
    assert 0.09 < time.monotonic() - began < 2
    assert caught.value.seconds == pytest.approx(0.1, abs=0.01)
    assert http_server.wait_until_unused()


@pytest.mark.parametrize("failure", [HANG_IN_BODY, drip()], ids=str)
@pytest.mark.parametrize("buffer", [False, True])
def test_the_deadline_ends_the_reading_of_a_body(
    http_server: FaultyServer, connect: Connect, failure: Behaviour, *, buffer: bool
) -> None:
    """A body that hangs or drips ends with the attempt's deadline, whether it is read inside or after it."""
    http_server.play(failure)
    client = connect(Timeout(0.1), buffer=buffer)
    began = time.monotonic()
    with pytest.raises(TimeoutExceeded):
        client.request("GET", http_server.url)
    assert 0.09 < time.monotonic() - began < 2
    assert http_server.wait_until_unused()


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (TRUNCATED, httpx.RemoteProtocolError),
        (TRUNCATED_CHUNKED, httpx.RemoteProtocolError),
        (drip(), TimeoutExceeded),
    ],
    ids=label,
)
def test_without_buffer_a_broken_body_is_the_readers(
    http_server: FaultyServer, connect: Connect, failure: Behaviour, raised: type[Exception]
) -> None:
    """A body that is read after the call cannot be retried any more: its error reaches whoever reads."""
    http_server.play(failure)
    client = connect(Pipeline(Retry(3), bound(raised, SOON)))
    response = client.stream("GET", http_server.url)
    assert response.status_code == 200
    with pytest.raises(raised):
        client.read(response)
    assert http_server.requests == 1


def test_the_clients_own_timeout_stays_the_clients(http_server: FaultyServer, connect: Connect) -> None:
    """When the client's timeout is the shorter one, httpx's own error comes out, and is retried."""
    http_server.play(HANG, HANG)
    client = connect(Pipeline(Retry(2, wait=0.01), Timeout(5)), timeout=httpx.Timeout(5, read=0.05))
    with pytest.raises(httpx.ReadTimeout):
        client.request("GET", http_server.url)
    assert http_server.requests == 2


def test_a_deadline_that_has_passed_sends_nothing(http_server: FaultyServer, connect: Connect) -> None:
    """Without time left a call is refused before the policies see it: nothing is sent, nothing counted."""
    breaker = CircuitBreaker(window=Window.consecutive(1))
    client = connect(Pipeline(Retry(3), breaker))
    with deadline_after(-1.0), pytest.raises(TimeoutExceeded):
        client.request("GET", http_server.url)
    assert (http_server.connections, breaker.state) == (0, CircuitState.CLOSED)


def test_the_total_deadline_bounds_all_attempts(http_server: FaultyServer, connect: Connect) -> None:
    """However many attempts are allowed, the outer timeout ends the call."""
    http_server.play(otherwise=HANG)
    client = connect(Pipeline(Timeout(1.25), Retry(100, wait=0.0), Timeout(0.5)))
    began = time.monotonic()
    with pytest.raises(TimeoutExceeded):
        client.request("GET", http_server.url)
    assert time.monotonic() - began < 3
    assert http_server.requests in {2, 3}  # the third one has half as long, and may not get there


def test_a_deadline_around_the_call_reaches_the_wire(http_server: FaultyServer, connect: Connect) -> None:
    """A deadline that the caller is under, not the transport's pipeline, bounds the attempt as well."""
    http_server.play(drip_headers())
    client = connect(Retry(1))
    began = time.monotonic()
    with deadline_after(0.1), pytest.raises(TimeoutExceeded):
        client.request("GET", http_server.url)
    assert time.monotonic() - began < 5


def test_an_attempt_left_behind_in_a_thread_ends_itself(http_server: FaultyServer) -> None:
    """What a thread timeout gave up is under the same deadline: it soon leaves its thread and its connection."""
    http_server.play(HANG)
    client = caller("sync", Pipeline(Retry(2, wait=0.0), Timeout(0.5, sync="thread")), limits=httpx.Limits())
    assert client.request("GET", http_server.url).text == "ok"
    ends = time.monotonic() + 10.0
    while abandoned_workers():
        assert time.monotonic() < ends
        time.sleep(0.002)
    client.close()
    assert (http_server.requests, client.open.now) == (2, 0)
    assert http_server.wait_until_unused()


# Many callers


def test_one_transport_serves_many_callers(http_server: FaultyServer, connect: Connect) -> None:
    """Sixteen callers share a transport: each 503 costs one retry, each call gets its own answer."""
    http_server.play(*[BUSY] * 24)
    client = connect(
        Pipeline(Timeout(10), Retry(30, wait=0.0), CircuitBreakers(min_calls=1000)), limits=httpx.Limits()
    )
    urls = [f"{http_server.url}/{at}" for at in range(16)]
    responses = client.get_all(urls)
    assert [isinstance(one, httpx.Response) and (str(one.request.url), one.text) for one in responses] == [
        (url, "ok") for url in urls
    ]
    assert http_server.requests == 16 + 24


def test_the_connection_pool_survives_an_overload(http_server: FaultyServer, connect: Connect) -> None:
    """Many callers wait for few connections and time out together, again and again: afterwards all is well."""
    http_server.play(otherwise=respond(after=0.1))
    client = connect(Timeout(0.25), limits=httpx.Limits(max_connections=2))
    for _ in range(4):
        results = client.get_all([http_server.url] * 30)
        assert any(isinstance(one, TimeoutExceeded) for one in results)
    http_server.play(otherwise=HEALTHY)
    # In turns: a busy machine may be late once, while a pool that lost its connections answers nobody ever.
    turns = [client.get_all([http_server.url] * 2) for _ in range(8)]
    assert [one.text for one in turns[-1] if isinstance(one, httpx.Response)] == ["ok", "ok"]


# Cancellation: only tasks can be cancelled


@pytest.mark.parametrize("failure", [HANG, HANG_IN_HEADERS, HANG_IN_BODY, drip(), BUSY], ids=str)
def test_cancellation_ends_the_call_and_closes_what_is_open(
    http_server: FaultyServer, failure: Behaviour
) -> None:
    """A call cancelled in an attempt, a body or a wait is not retried and leaves no connection behind."""
    http_server.play(failure)

    async def cancelled() -> None:
        transport = async_httpx_transport(Retry(3, wait=30.0), buffer=True)
        async with httpx.AsyncClient(transport=transport) as client:
            task = asyncio.create_task(client.get(http_server.url))
            await asyncio.to_thread(http_server.wait_for_requests, 1)
            await asyncio.sleep(0.03)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(http_server.wait_until_unused, 2.0)

    asyncio.run(cancelled())
    assert http_server.requests == 1


def test_cancellation_while_a_failed_response_is_drained_closes_it(http_server: FaultyServer) -> None:
    """A call cancelled when its next attempt begins makes none, and closes the response of the one before."""
    http_server.play(hang_in_failure())

    async def cancelled() -> None:
        transport = async_httpx_transport(Retry(3, wait=0.0, before_sleep=lambda state: task.cancel()))
        async with httpx.AsyncClient(transport=transport) as client:
            task = asyncio.create_task(client.get(http_server.url))
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(http_server.wait_until_unused, 2.0)

    asyncio.run(cancelled())
    assert http_server.requests == 1


def test_an_async_timeout_during_the_wait_closes_the_failed_response(http_server: FaultyServer) -> None:
    """A call that is timed out while it waits for its next attempt does not keep the last response open."""
    http_server.play(BUSY)

    async def timed_out() -> None:
        transport = async_httpx_transport(Retry(3, wait=30.0))
        async with httpx.AsyncClient(transport=transport) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.get(http_server.url), 0.1)
            assert await asyncio.to_thread(http_server.wait_until_unused, 2.0)

    asyncio.run(timed_out())
