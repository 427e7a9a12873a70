"""The server of the HTTP tests: each way in which it fails is really that one, as plain httpx sees it."""

import socket
import threading
import time

import httpx
import pytest

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
    respond,
)

BRIEF = httpx.Timeout(0.1)


@pytest.mark.parametrize(
    ("behaviour", "seen"),
    [
        (RESET_UNREAD, httpx.ReadError),
        (RESET, httpx.ReadError),
        (RESET_IN_BODY, httpx.ReadError),
        (DISCONNECT, httpx.RemoteProtocolError),
        (GARBAGE, httpx.RemoteProtocolError),
        (HANG, httpx.ReadTimeout),
        (HANG_IN_HEADERS, httpx.ReadTimeout),
        (HANG_IN_BODY, httpx.ReadTimeout),
        (TRUNCATED, httpx.RemoteProtocolError),
        (TRUNCATED_CHUNKED, httpx.RemoteProtocolError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value),
)
def test_each_failure_is_what_it_says(
    http_server: FaultyServer, behaviour: Behaviour, seen: type[Exception]
) -> None:
    """A scripted failure happens once, and the next request is answered."""
    http_server.play(behaviour)
    with httpx.Client(base_url=http_server.url, timeout=BRIEF) as client:
        with pytest.raises(seen):
            client.get("/")
        assert client.get("/").text == "ok"


@pytest.mark.parametrize("behaviour", [drip(), drip_headers()], ids=str)
def test_a_drip_outlives_the_read_timeout(http_server: FaultyServer, behaviour: Behaviour) -> None:
    """A server that sends a byte now and then keeps a client busy beyond its read timeout, without end."""
    http_server.play(behaviour)
    request = b"GET / HTTP/1.1\r\nHost: local\r\n\r\n"
    with socket.create_connection(("127.0.0.1", http_server.port), timeout=0.05) as client:
        client.sendall(request)
        ends = time.monotonic() + 0.15
        while time.monotonic() < ends:
            assert client.recv(1000) != b""


def test_answers_come_in_every_form(http_server: FaultyServer) -> None:
    """Status, headers, chunked bodies, latency and HEAD are as the script says."""
    http_server.play(respond(503, b"later", retry_after="7"), respond(body=b"pieces", chunked=True))
    http_server.at("/slow", respond(after=0.02))
    with httpx.Client(base_url=http_server.url) as client:
        refused, chunked, slow = client.get("/"), client.get("/"), client.get("/slow")
        assert (refused.status_code, refused.text, refused.headers["retry-after"]) == (503, "later", "7")
        assert chunked.text == "pieces"
        assert slow.elapsed.total_seconds() >= 0.02
        assert client.head("/").content == b""


def test_what_arrives_is_remembered(http_server: FaultyServer) -> None:
    """Requests, bodies in both framings, and connections are counted; a connection is used again."""
    with httpx.Client(base_url=http_server.url) as client:
        client.post("/a", content=b"whole")
        client.put("/b", content=iter([b"in ", b"pieces"]))
        client.get("/b", headers={"X-Mark": "7"})
    assert [(one.method, one.path) for one in http_server.received] == [
        ("POST", "/a"),
        ("PUT", "/b"),
        ("GET", "/b"),
    ]
    assert http_server.bodies == [b"whole", b"in pieces", b""]
    assert http_server.by_path == {"/a": 1, "/b": 2}
    assert http_server.received[2].headers["x-mark"] == "7"
    assert (http_server.requests, http_server.connections) == (3, 1)
    assert http_server.wait_until_unused()


def test_a_path_plays_its_own_script_first(http_server: FaultyServer) -> None:
    """A path's script comes before the common one, which comes before what goes on for ever."""
    http_server.at("/a", respond(500))
    http_server.play(respond(501), otherwise=respond(204, b""))
    with httpx.Client(base_url=http_server.url) as client:
        assert [client.get(path).status_code for path in ("/a", "/a", "/a", "/b")] == [500, 501, 204, 204]


def test_a_dead_server_refuses_and_comes_back_on_its_port(http_server: FaultyServer) -> None:
    """After `die` connections are refused, after `revive` the same address answers."""
    with httpx.Client(base_url=http_server.url) as client:
        assert client.get("/").is_success
        http_server.die()
        with pytest.raises(httpx.ConnectError):
            client.get("/")
        http_server.revive()
        assert client.get("/").is_success
    assert http_server.requests == 2


def test_it_stops_at_once_whatever_it_is_doing() -> None:
    """Closing ends hanging, dripping and idle connections, leaves no thread, and is quick."""
    with FaultyServer(HANG, HANG_IN_BODY, drip(), HEALTHY) as server:
        address = ("127.0.0.1", server.port)
        clients = [socket.create_connection(address) for _ in range(4)]
        for number, client in enumerate(clients, 1):
            client.sendall(b"GET / HTTP/1.1\r\nHost: local\r\n\r\n")
            assert server.wait_for_requests(number)
        began = time.monotonic()
    assert time.monotonic() - began < 5.0
    assert server.url not in [thread.name for thread in threading.enumerate()]
    for client in clients:
        client.close()
