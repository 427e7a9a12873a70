"""Server-sent events over real sockets: replay, gaps, heartbeats, places, and an end that keeps nobody waiting."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from backend.tests.integration._asgi import Application, AsgiServer
from backend.tests.integration.api._service import READ, Service, Stream
from holdfast.api.internal.resilience.app import PREFIX

KEY = {"X-API-Key": READ}


@pytest.fixture
def url(app: FastAPI, asgi_server: Callable[[Application], AsgiServer]) -> str:
    """Give the address of the events of a real server."""
    return f"{asgi_server(app).url}{PREFIX}/events"


def until(done: Callable[[], bool], seconds: float = 5.0) -> bool:
    ends = time.monotonic() + seconds
    while not done() and time.monotonic() < ends:
        time.sleep(0.005)
    return done()


def test_events_come_as_they_happen(url: str, service: Service) -> None:
    """A stream has what happens after it was opened: number, kind and facts of each event."""
    with Stream(url, KEY) as stream:
        assert stream.wait(lambda one: one.comments == 1)
        feed = service.operations.feed
        began = feed.last
        service.fail("till", 3)
        seen = stream.wait_for(feed.last - began)
    assert [one.as_dict() for one in feed.since(began)] == [event.data for event in seen]
    assert [(one.number, one.kind) for one in feed.since(began)] == [(event.id, event.kind) for event in seen]
    [opened] = [event.data for event in seen if event.kind == "CircuitOpened"]
    assert (opened["name"], opened["fields"]["open_for"]) == ("till", 30.0)


@pytest.mark.parametrize("how", ["header", "query", "both"])
def test_who_was_away_gets_what_he_missed(url: str, service: Service, how: str) -> None:
    """After a break the stream goes on behind the last event that was received: none twice, none missing."""
    feed = service.operations.feed
    first = feed.publish("Marked", "a", {}).number
    for name in "bcd":
        feed.publish("Marked", name, {})
    headers = {"header": {"Last-Event-ID": str(first)}, "query": {}, "both": {"Last-Event-ID": str(first)}}[
        how
    ]
    query = {"header": "", "query": f"?after={first}", "both": "?after=0"}[how]
    with Stream(url + query, {**KEY, **headers}) as stream:
        missed = stream.wait_for(3)
        feed.publish("Marked", "e", {})
        seen = stream.wait_for(4)
    assert list("bcd") == [event.data["name"] for event in missed]
    assert [first + at for at in range(1, 5)] == [event.id for event in seen]


@pytest.mark.parametrize(
    ("query", "headers", "wrong"),
    [
        ("?after=-1", {}, ["query.after"]),
        ("?after=x", {"Last-Event-ID": "y"}, ["query.after", "header.last-event-id"]),
        ("", {"Last-Event-ID": "99999999999999999999"}, ["header.last-event-id"]),
    ],
)
def test_numbers_that_are_none(url: str, query: str, headers: dict[str, str], wrong: list[str]) -> None:
    """What is no number of an event is refused, before a stream is opened."""
    response = httpx.get(url + query, headers={**KEY, **headers})
    assert response.status_code == 422
    assert wrong == [fault["path"] for fault in response.json()["errors"]]


MOUNTED = """
import uvicorn
from fastapi import FastAPI
from holdfast.api.internal.resilience.app import Operations, create_router

app = FastAPI()
app.include_router(create_router(Operations()), prefix="/internal/resilience")
uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning")
"""
SERVED = """
from holdfast.api.internal.resilience.app import serve

serve(port=PORT)
"""


@pytest.mark.parametrize(
    ("program", "number"), [(MOUNTED, signal.SIGTERM), (SERVED, signal.SIGINT)], ids=["mounted", "served"]
)
def test_a_server_stops_with_open_streams(
    program: str, number: int, free_port: int, tmp_path: Path, plain_environ: dict[str, str]
) -> None:
    """Uvicorn stops within a second while streams are open, and ends them properly."""
    path = tmp_path / "service.py"
    path.write_text(program.replace("PORT", str(free_port)))
    process = subprocess.Popen(
        [sys.executable, str(path)], env=plain_environ, stderr=subprocess.PIPE, text=True
    )
    try:
        url = f"http://127.0.0.1:{free_port}{PREFIX}"
        assert until(lambda: answers(f"{url}/health"), 20.0), "the server does not start"
        with ExitStack() as stack:
            streams = [stack.enter_context(Stream(f"{url}/events")) for _ in range(3)]
            assert all(stream.wait(lambda one: one.comments == 1) for stream in streams)
            began = time.monotonic()
            process.send_signal(number)
            process.wait(10.0)
            took = time.monotonic() - began
            assert all(stream.wait(lambda one: one.ended) for stream in streams)
        assert took < STOPS_WITHIN
        assert "Cancel" not in (process.stderr.read() if process.stderr else "")
    finally:
        process.kill()
        process.communicate()


# A second, and as much again for a machine that is busy.
STOPS_WITHIN = 2.0


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False
