"""uvicorn, as the API wants it: it says where it listens, stops soon, and logs no query."""

from __future__ import annotations

import copy
import logging
import signal
import socket
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from holdfast.api.internal.resilience._guard import is_loopback
from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.resilience.errors import ConfigurationError, Fault

if TYPE_CHECKING:
    from fastapi import FastAPI

_GRACE = 5


class PathOnly(logging.Filter):
    """Cut the query off the path of an access record: people paste keys into the strangest places."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record."""
        if isinstance(record.args, tuple):
            record.args = tuple(one.partition("?")[0] if isinstance(one, str) else one for one in record.args)
        return True


def run(app: FastAPI, host: str, port: int, prefix: str, *, open_to_all: bool) -> None:
    """Serve until interrupted. ConfigurationError where everybody could come in."""
    listener = listen(host, port, open_to_all=open_to_all)
    config = uvicorn.Config(
        app,
        log_config=_log_config(),
        # Addresses are those of sockets: no header may say that a client is here.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
    )
    server = uvicorn.Server(config)
    # From the line on which says where it listens it ends as uvicorn would: an interrupt that Python raises while the
    # garbage collector runs a callback would be lost.
    before = {kind: signal.signal(kind, server.handle_exit) for kind in (signal.SIGINT, signal.SIGTERM)}
    shown = f"[{host}]" if ":" in host else host
    print(f"holdfast: http://{shown}:{listener.getsockname()[1]}{prefix}/dashboard", flush=True)  # noqa: T201
    try:
        server.run(sockets=[listener])
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        listener.close()


def listen(host: str, port: int, *, open_to_all: bool) -> socket.socket:
    """Return a socket that listens. ConfigurationError where everybody could come in, and where none can be had."""
    faults = Faults("serve")
    faults.check(
        not open_to_all or is_loopback(host),
        "host",
        host,
        "can be reached from other machines, and there are no API keys",
        "set HOLDFAST_API_KEYS=name:role:secret, or listen on 127.0.0.1",
    )
    faults.number("port", port, 0, 65_535, whole=True)
    faults.finish()
    listener = _bound(host, port)
    # Connections inherit it. asyncio sets it only where a socket names its protocol, which this one does not; without
    # it the body of an answer waits until the client has acknowledged the head, which takes it 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _bound(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        why = str(error.strerror).partition(" (while")[0]
        remedy = "give an address of this machine, and a port that is free; 0 is any"
        fault = Fault("address", f"{host}:{port}", f"cannot be had: {why}", remedy)
        raise ConfigurationError("serve", (fault,)) from error


def _log_config() -> dict[str, Any]:
    config: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    config["filters"] = {"path": {"()": PathOnly}}
    config["loggers"]["uvicorn.access"]["filters"] = ["path"]
    return config
