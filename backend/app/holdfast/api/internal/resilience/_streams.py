"""Streams of server-sent events: one for each page that looks on, a hundred at most."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from fastapi.responses import Response

from holdfast.api.internal.resilience.problems import _problem as problem
from holdfast.api.internal.resilience.problems import _response_of as response_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

    from starlette.types import Receive, Scope, Send

HEARTBEAT = 15.0

_MOST = 100
# How often a stream looks whether the server wants to stop, which nothing tells it.
_LOOK = 0.25
_COMMENT = b": still here\n\n"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Entry(Protocol):
    """What a stream sends: a number, what kind it is of, and JSON-able facts."""

    @property
    def number(self) -> int: ...
    @property
    def kind(self) -> str: ...
    def as_dict(self) -> dict[str, Any]: ...


class Followed(Protocol):
    """What a stream follows."""

    def follow(self, after: int) -> AsyncIterator[Entry]:
        """Yield what comes after a number."""
        ...


class Streams:
    """The streams that are open now, in any number of event loops. Thread-safe."""

    def __init__(self, most: int = _MOST, heartbeat: float = HEARTBEAT) -> None:
        self.most = most
        self.heartbeat = heartbeat
        self.closed = False
        self._open = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many streams are open."""
        return self._open

    def reopen(self) -> None:
        """Allow streams again, after `close`."""
        self.closed = False

    def close(self) -> None:
        """End every stream, within a quarter of a second."""
        self.closed = True

    @property
    def ending(self) -> bool:
        """Whether streams should end: closed, or the server is about to stop."""
        return self.closed or _server_stops()

    @contextmanager
    def place(self) -> Generator[bool]:
        """Take a place; false if there is none."""
        with self._lock:
            free = self._open < self.most
            self._open += free
        try:
            yield free
        finally:
            with self._lock:
                self._open -= free


def _server_stops() -> bool:
    """Return whether uvicorn got its signal: it waits for open streams before it tells anybody that it stops."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(server, "should_exit", False) is True


class EventStream(Response):
    """The answer that follows something until its client leaves, that ends, or the server stops."""

    media_type = "text/event-stream"

    def __init__(self, streams: Streams, feed: Followed, after: int) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._streams = streams
        self._entries = feed.follow(after)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream, if there is a place for one more."""
        with self._streams.place() as free:
            if not free:
                await _full(scope, receive, send)
                return
            await self._stream(receive, send)

    async def _stream(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        gone = asyncio.ensure_future(_gone(receive))
        try:
            # At once, so that the client knows the stream to be open.
            await _send(send, _COMMENT)
            await self._follow(gone, send)
            await send({"type": "http.response.body", "body": b""})
        except OSError:
            pass  # the client has left
        finally:
            gone.cancel()

    async def _follow(self, gone: asyncio.Future[None], send: Send) -> None:
        loop = asyncio.get_running_loop()
        beat = loop.time() + self._streams.heartbeat
        following = asyncio.ensure_future(_next(self._entries))
        try:
            while not self._streams.ending:
                ready: set[asyncio.Future[Any]] = {following, gone}
                await asyncio.wait(ready, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    return
                if following.done():
                    entry = following.result()
                    if entry is None:
                        return
                    await _send(send, _event(entry))
                    following = asyncio.ensure_future(_next(self._entries))
                elif loop.time() < beat:
                    continue
                else:
                    await _send(send, _COMMENT)
                beat = loop.time() + self._streams.heartbeat
        finally:
            following.cancel()


async def _next(entries: AsyncIterator[Entry]) -> Entry | None:
    return await anext(entries, None)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


def _event(entry: Entry) -> bytes:
    """Return an entry as it is sent; JSON has no line breaks, and the kind is a class's name or one of ours."""
    facts: dict[str, Any] = entry.as_dict()
    kind = " ".join(entry.kind.split())
    return f"id: {entry.number}\nevent: {kind}\ndata: {json.dumps(facts)}\n\n".encode()


async def _full(scope: Scope, receive: Receive, send: Send) -> None:
    refused = response_of(
        problem(503, "There are as many streams of events as there may be.", headers={"Retry-After": "5"})
    )
    assert refused is not None  # noqa: S101  # a problem always has an answer
    await refused(scope, receive, send)
