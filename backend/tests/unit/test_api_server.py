"""How uvicorn is run: where it may listen without keys, and what it logs."""

import logging
import socket
from typing import Any

import pytest
from fastapi import FastAPI

from holdfast.api.internal.resilience import _server


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_addresses_of_this_machine_need_no_keys(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys every form of loopback may be listened on; headers do not change a client's address."""
    seen: list[tuple[Any, Any]] = []

    class Server:
        def __init__(self, config: Any) -> None:
            self.config = config

        def run(self, sockets: list[Any]) -> None:
            seen.append((self.config.proxy_headers, sockets[0].getsockname()[0]))

        def handle_exit(self, sig: int, frame: object) -> None:
            """End."""

    monkeypatch.setattr("uvicorn.Server", Server)
    _server.run(FastAPI(), host, 0, "", open_to_all=True)
    assert [(False, host if host == "::1" else "127.0.0.1")] == seen


def test_an_answer_does_not_wait_for_its_first_part() -> None:
    """What a connection sends in parts leaves at once: head and body of an answer are two."""
    with (
        _server.listen("127.0.0.1", 0, open_to_all=True) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_path_is_logged_without_its_query() -> None:
    """The access log keeps what was asked, not with which parameters."""
    args = ("127.0.0.1:5", "GET", "/x?key=hunter2", "1.1", 200)
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d', args, None)
    assert _server.PathOnly().filter(record)
    assert record.getMessage() == '127.0.0.1:5 - "GET /x HTTP/1.1" 200'
