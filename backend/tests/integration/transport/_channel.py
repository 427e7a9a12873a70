"""Both ends of a channel for the tests, and ends that are not ours: they say what the test lets them say."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.transport.channel import ChannelPeer, ChannelServer

_T = TypeVar("_T")

TOKEN = "good-token"
NAME = "printer"
_LONG_SECONDS = 5.0
_HOPELESS_SECONDS = 20.0


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a test on the system's clock, or fail it if it hangs."""
    return asyncio.run(asyncio.wait_for(main, _HOPELESS_SECONDS))


def hub(**settings: Any) -> ChannelServer:
    """Make a server that knows one token; it does not ping, so that a virtual clock has nothing to do."""
    usual: dict[str, Any] = {"ping_interval": None}
    return ChannelServer(lambda _, token: token == TOKEN, **{**usual, **settings})


class Work:
    """Actions that count their calls and wait for the test where it wants them to."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.go = asyncio.Event()
        self.started = asyncio.Event()

    async def ship(self, payload: Any) -> Any:
        """Answer at once."""
        self.begun.append(payload)
        return {"shipped": payload}

    async def slow(self, payload: Any) -> Any:
        """Answer when the test says so."""
        self.begun.append(payload)
        self.started.set()
        await self.go.wait()
        return {"slow": payload}

    async def fail(self, payload: Any) -> Any:
        """Fail."""
        self.begun.append(payload)
        raise ValueError(f"no paper for {payload}")


def worker(url: str, work: Work, **settings: Any) -> ChannelPeer:
    """Make a peer that does the work, and connects again without waiting."""
    usual: dict[str, Any] = {
        "name": NAME,
        "token": TOKEN,
        "ping_interval": None,
        "backoff": Backoff.fixed(0.001),
    }
    peer = ChannelPeer(url, **{**usual, **settings})
    for name in ("ship", "slow", "fail"):
        peer.action(name)(getattr(work, name))
    return peer


@asynccontextmanager
async def channel(**settings: Any) -> AsyncGenerator[tuple[ChannelServer, Work]]:
    """Give a server to which a working peer is connected; `peer` are settings of the peer."""
    of_peer = settings.pop("peer", {})
    work = Work()
    async with hub(**settings) as server, worker(server.url, work, **of_peer):
        await server.wait_for(NAME)
        yield server, work


class Hand:
    """A peer that is not ours: it says what the test lets it say."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def command(self) -> dict[str, Any]:
        """Wait for a command."""
        fields: dict[str, Any] = json.loads(await self.socket.recv())
        return fields

    async def say(self, frame: Any) -> None:
        """Send text or bytes as they are, anything else as JSON."""
        await self.socket.send(frame if isinstance(frame, (str, bytes)) else json.dumps(frame))

    async def answer(self, request_id: str, data: Any = None) -> None:
        """Send a good reply."""
        await self.say({"request_id": request_id, "success": True, "data": data, "error": None})

    @property
    def session(self) -> str:
        """The token with which it can come back."""
        response = self.socket.response
        assert response is not None
        return response.headers["Holdfast-Session"]

    def break_off(self) -> None:
        """Lose the connection without a word."""
        self.socket.transport.abort()


@asynccontextmanager
async def by_hand(
    server: ChannelServer, name: str = NAME, *, token: str = TOKEN, session: str = "", size: str = ""
) -> AsyncGenerator[Hand]:
    """Connect a peer that is not ours."""
    headers = {"Authorization": f"Bearer {token}", "Holdfast-Peer": name}
    headers |= {"Holdfast-Session": session} if session else {}
    headers |= {"Holdfast-Max-Size": size} if size else {}
    async with connect(
        server.url, additional_headers=headers, compression=None, ping_interval=None
    ) as socket:
        await server.wait_for(name)
        yield Hand(socket)


@asynccontextmanager
async def foreign_server(
    serve_one: Callable[[ServerConnection], Awaitable[None]], **settings: Any
) -> AsyncGenerator[str]:
    """Serve a channel that is not ours, and give its address."""
    async with serve(serve_one, "127.0.0.1", 0, compression=None, **settings) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until a condition holds, which takes no time but theirs."""
    ends = time.monotonic() + _LONG_SECONDS
    while not condition():
        assert time.monotonic() < ends, "what is waited for does not happen"
        await asyncio.sleep(0)
