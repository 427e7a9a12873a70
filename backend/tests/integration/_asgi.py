"""ASGI applications on real sockets, each server in a thread and an event loop of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

import uvicorn

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class AsgiServer:
    """Serves one application on 127.0.0.1 until it is stopped; on any free port, unless one is given."""

    def __init__(self, app: Application, port: int = 0) -> None:
        config = uvicorn.Config(
            app, host="127.0.0.1", port=port, log_level="critical", lifespan="off", ws="none"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        ends = time.monotonic() + 10.0
        while not self._server.started:
            assert time.monotonic() < ends, "the server does not start"
            time.sleep(0.002)

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """The port of the server."""
        port: int = self._server.servers[0].sockets[0].getsockname()[1]
        return port

    def stop(self) -> None:
        """Stop serving; what is still running is cancelled."""
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(10.0)
        assert not self._thread.is_alive(), "the server does not stop"


async def answer(send: Send, status: int = 200, body: bytes = b"ok") -> None:
    """Send a whole response."""
    head = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
