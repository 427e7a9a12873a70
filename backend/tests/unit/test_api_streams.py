"""Streams of server-sent events: gaps, heartbeats, places, and what is left when they end."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from backend.tests.integration._asgi import Application, AsgiServer
from backend.tests.integration.api._service import Stream
from holdfast.api.internal.resilience._streams import EventStream, Streams
from holdfast.infrastructure.telemetry.feed import Feed


@pytest.fixture
def asgi_server() -> Iterator[Callable[[Application], AsgiServer]]:
    """Give a function that serves an ASGI application on a local port."""
    servers: list[AsgiServer] = []

    def serve(app: Application) -> AsgiServer:
        servers.append(AsgiServer(app))
        return servers[-1]

    yield serve
    for server in servers:
        server.stop()


@pytest.fixture
def feed() -> Iterator[Feed]:
    """Give a feed of ten entries at most."""
    made = Feed(size=10)
    yield made
    made.close()


def streaming(streams: Streams, feed: Feed, after: int = 0) -> Application:
    """Return an application that answers every request with the stream of a feed."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await EventStream(streams, feed, after)(scope, receive, send)

    return app


def until(done: Callable[[], bool], seconds: float = 5.0) -> bool:
    ends = time.monotonic() + seconds
    while not done() and time.monotonic() < ends:
        time.sleep(0.005)
    return done()


def test_lost_events_are_told(feed: Feed, asgi_server: Callable[[Application], AsgiServer]) -> None:
    """Where the feed has forgotten some, an event of kind gap says how many."""
    for at in range(15):
        feed.publish("Marked", str(at), {})
    with Stream(asgi_server(streaming(Streams(), feed, after=2)).url) as stream:
        gap, first = stream.wait_for(2)
    assert (gap.kind, gap.id, gap.data["fields"]["lost"]) == ("gap", 5, 3)
    assert first.id == 6


def test_numbers_of_another_feed_begin_anew(
    feed: Feed, asgi_server: Callable[[Application], AsgiServer]
) -> None:
    """A number that has not come yet is of a service that ended: all there is follows, after a gap."""
    feed.publish("Marked", "a", {})
    with Stream(asgi_server(streaming(Streams(), feed, after=999)).url) as stream:
        gap, first = stream.wait_for(2)
    assert (gap.kind, gap.data["fields"]["lost"], first.id) == ("gap", None, 1)


def test_a_stream_shows_that_it_lives(feed: Feed, asgi_server: Callable[[Application], AsgiServer]) -> None:
    """Where nothing happens there is a comment now and then."""
    with Stream(asgi_server(streaming(Streams(heartbeat=0.05), feed)).url) as stream:
        assert stream.wait(lambda one: one.comments >= 3)
    assert stream.events == []


def test_an_event_is_one_line_whatever_it_holds(
    feed: Feed, asgi_server: Callable[[Application], AsgiServer]
) -> None:
    """Line breaks in names and kinds cannot forge an event."""
    feed.publish("Mar\nked", "a\n\nevent: forged\ndata: {}\n\n", {"x": "\r\n\r\nid: 99\n\n"})
    with Stream(asgi_server(streaming(Streams(), feed)).url) as stream:
        [event] = stream.wait_for(1)
    assert (event.id, event.kind, event.data["fields"]["x"]) == (1, "Mar ked", "\r\n\r\nid: 99\n\n")


def test_places_are_counted(feed: Feed, asgi_server: Callable[[Application], AsgiServer]) -> None:
    """There are so many streams and no more; a place is free again as soon as its client has left."""
    streams = Streams(most=3)
    url = asgi_server(streaming(streams, feed)).url
    with ExitStack() as stack:
        for _ in range(3):
            assert stack.enter_context(Stream(url)).status == 200
        refused = httpx.get(url)
        assert (
            refused.status_code,
            refused.headers["retry-after"],
            refused.headers["content-type"],
        ) == (503, "5", "application/problem+json")
    assert until(lambda: len(streams) == 0)
    with Stream(url) as stream:
        assert stream.status == 200


@pytest.mark.parametrize("end", ["streams", "feed"])
def test_streams_end_with_what_they_follow(
    feed: Feed, asgi_server: Callable[[Application], AsgiServer], end: str
) -> None:
    """A stream ends properly when the feed is closed, or when streams are."""
    streams = Streams()
    with Stream(asgi_server(streaming(streams, feed)).url) as stream:
        assert stream.wait(lambda one: one.comments == 1)
        (streams if end == "streams" else feed).close()
        assert stream.wait(lambda one: one.ended, 2.0)
    assert until(lambda: len(streams) == 0)


def test_a_cancelled_stream_gives_its_place_back(feed: Feed) -> None:
    """A server that cancels a stream leaves no task and no place behind."""
    streams = Streams()

    async def main() -> int:
        async def receive() -> dict[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError

        async def send(_: Any) -> None:
            return

        task = asyncio.ensure_future(EventStream(streams, feed, 0)({"type": "http"}, receive, send))
        await asyncio.sleep(0.02)
        assert len(streams) == 1
        task.cancel()
        await asyncio.wait({task})
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert (asyncio.run(main()), len(streams)) == (1, 0)
