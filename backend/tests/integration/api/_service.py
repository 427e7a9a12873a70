"""A service with named operations and an API to operate them, and clients that talk to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from backend.tests.integration._asgi import Application
from holdfast.api.internal.resilience.app import PREFIX, Operations
from holdfast.api.internal.resilience.auth import ApiKey, ApiKeys
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.live import LiveConfiguration
from holdfast.infrastructure.resilience.registry import Registry
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.telemetry.feed import Feed
from holdfast.infrastructure.telemetry.monitor import Monitor

READ = "the-reading-key-of-the-tests"
OPERATE = "the-operating-key-of-the-tests"
KEYS = ApiKeys([ApiKey("reader", READ), ApiKey("operator", OPERATE, "operate")])
AWKWARD = "search/über 100%"

Call = Callable[[Exception | None], str]


@dataclass
class Service:
    """A registry with two operations, and what the API operates on."""

    registry: Registry
    operations: Operations
    breakers: dict[str, CircuitBreaker]
    calls: dict[str, Call]

    def close(self) -> None:
        """End what runs, and forget the names: FastAPI keeps applications in caches, and with them all they use."""
        self.operations.close()
        self.operations.monitor.close()
        self.operations.feed.close()
        for name in list(self.registry):
            self.registry.discard(name)

    def fail(self, name: str, times: int) -> None:
        """Let an operation fail so many times."""
        for _ in range(times):
            try:
                self.calls[name](ConnectionError("down"))
            except Exception:
                continue


def make_service(*more: str) -> Service:
    """Return a service whose breakers open at three failures in a row; `more` operations."""
    registry = Registry()
    live = LiveConfiguration(registry, environ={})
    breakers: dict[str, CircuitBreaker] = {}
    calls: dict[str, Call] = {}
    for name in ("till", AWKWARD, *more):
        breakers[name] = CircuitBreaker(name, fail_max=3, reset_timeout=30.0)
        registry.define(name, Timeout(5.0), Retry(attempts=1), breakers[name])
        live.register(name)
        calls[name] = registry.resilient(name)(_call)
        calls[name](None)
    operations = Operations(live=live, monitor=Monitor(registry), feed=Feed())
    return Service(registry, operations, breakers, calls)


def _call(error: Exception | None) -> str:
    if error is not None:
        raise error
    return "ok"


class Api:
    """Talks to an application without a socket, as a client of some address with some key."""

    def __init__(
        self,
        app: Application,
        secret: str | None = None,
        *,
        client: tuple[str, int] = ("127.0.0.1", 50_000),
        base: str = f"http://localhost{PREFIX}",
    ) -> None:
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        transport = httpx.ASGITransport(app, client=client, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url=base, headers=headers)
        self._runner = asyncio.Runner()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._runner.run(self._client.request(method, path, **options))

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self.request("GET", path, params=query)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """Post a body as JSON; none is an empty object."""
        return self.request("POST", path, json={} if body is None else body, **options)

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


def declared(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield method, path and facts of every operation of an OpenAPI document."""
    for path, methods in document["paths"].items():
        for method, facts in methods.items():
            yield method.upper(), path, facts


# What stands for the parameters of a path: one that is there, whichever it is.
VALUES = {"name": "till", "number": "1"}


def filled(path: str, **values: str) -> str:
    """Return a path of the document, below the prefix, with values for its parameters."""
    for name, value in {**VALUES, **values}.items():
        path = path.replace(f"{{{name}}}", value)
    return path.removeprefix(PREFIX)


@dataclass
class Event:
    """One server-sent event."""

    id: int
    kind: str
    data: dict[str, Any]


@dataclass
class Stream:
    """A stream of events over a real socket, read in a thread."""

    url: str
    headers: dict[str, str] = field(default_factory=dict[str, str])
    events: list[Event] = field(default_factory=list[Event])
    comments: int = 0
    ended: bool = False
    status: int = 0

    def __enter__(self) -> Self:
        self._changed = threading.Condition()
        self._client = httpx.Client(timeout=10.0)
        self._response = self._client.send(
            self._client.build_request("GET", self.url, headers=self.headers), stream=True
        )
        self.status = self._response.status_code
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Closing a socket wakes nobody who reads from it; shutting it down does.
        link: socket.socket = self._response.extensions["network_stream"].get_extra_info("socket")
        with contextlib.suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)
        self._thread.join(5.0)
        self._response.close()
        self._client.close()

    def wait(self, done: Callable[[Stream], bool], seconds: float = 5.0) -> bool:
        """Wait until something is true of the stream; return whether it became so."""
        with self._changed:
            return self._changed.wait_for(lambda: done(self), seconds)

    def wait_for(self, number: int) -> list[Event]:
        """Return the first events, when there are so many."""
        assert self.wait(lambda stream: len(stream.events) >= number), self.events
        return self.events[:number]

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            for line in self._response.iter_lines():
                self._take(line, fields)
        except (httpx.HTTPError, httpx.StreamError):
            return
        finally:
            with self._changed:
                self.ended = True
                self._changed.notify_all()

    def _take(self, line: str, fields: dict[str, str]) -> None:
        name, _, value = line.partition(":")
        with self._changed:
            if line.startswith(":"):
                self.comments += 1
            elif line:
                fields[name] = value.removeprefix(" ")
            elif fields:
                event = Event(int(fields["id"]), fields["event"], json.loads(fields["data"]))
                self.events.append(event)
                fields.clear()
            self._changed.notify_all()
