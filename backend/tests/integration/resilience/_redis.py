"""Redis for the storage tests: a client that counts what it sends, and a server that may be killed."""

import asyncio
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.retry
from redis.backoff import NoBackoff
from redis.retry import Retry


class CountingRedis(redis.Redis):
    """A real client that remembers the name of every command it sends, and gives up at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # pyright: ignore[reportUnknownMemberType]  # redis has no type for it
        self.commands: list[str] = []
        self.url = ""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command."""
        self.commands.append(str(args[0]))
        send: Any = super().execute_command  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return send(*args, **options)


def connect(url: str, *, decode: bool = False) -> CountingRedis:
    """Return a client of the server at `url`."""
    made: Any = CountingRedis.from_url(  # pyright: ignore[reportUnknownMemberType]
        url,
        decode_responses=decode,
        socket_connect_timeout=1.0,
        socket_timeout=1.0,
        retry=Retry(NoBackoff(), 0),
    )
    client: CountingRedis = made
    client.url = url
    return client


class AwaitedRedis(redis.asyncio.Redis):
    """A real client that must be awaited, remembers every command in a list, and gives up at once."""

    commands: list[str]

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command."""
        self.commands.append(str(args[0]))
        send: Any = super().execute_command  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return await send(*args, **options)


def connect_awaited(url: str, commands: list[str] | None = None) -> AwaitedRedis:
    """Return a client of the server at `url` that must be awaited."""
    made: Any = AwaitedRedis.from_url(  # pyright: ignore[reportUnknownMemberType]
        url,
        socket_connect_timeout=1.0,
        socket_timeout=1.0,
        retry=redis.asyncio.retry.Retry(NoBackoff(), 0),
    )
    client: AwaitedRedis = made
    client.commands = [] if commands is None else commands
    return client


class LoopThread:
    """An event loop that goes on turning in a thread, as a service's does."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the loop and return or raise what comes out."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def stop(self) -> None:
        """End the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def delete(client: CountingRedis, namespace: str) -> None:
    """Delete the keys of a namespace."""
    for key in client.execute_command("KEYS", f"{namespace}:*"):
        client.execute_command("DEL", key)


class RedisProcess:
    """A redis-server of the test's own, which keeps nothing on disk."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self._port: int = listener.getsockname()[1]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        program = shutil.which("redis-server")
        if program is None:
            missing = pytest.fail if os.environ.get("HOLDFAST_REQUIRE_SERVICES") == "1" else pytest.skip
            missing("there is no redis-server to start and kill")
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [str(program), *options, "--dir", str(self._folder)], stdout=subprocess.DEVNULL
        )
        self._await_answer()

    def _await_answer(self) -> None:
        limit = time.monotonic() + 10.0
        with connect(self.url) as client:
            while True:
                try:
                    client.execute_command("PING")
                except redis.RedisError:
                    if time.monotonic() > limit:
                        raise
                    time.sleep(0.01)
                else:
                    return

    def kill(self) -> None:
        """Kill it as a power failure would; a second time does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


class Proxy:
    """A way to a Redis that may lose an answer, and lead to another Redis from the next connection on."""

    def __init__(self, url: str) -> None:
        self.target = url
        # How many answers to scripts are lost from now on, each with its connection; and how many were.
        self.lose = self.lost = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            port = int(self.target.rsplit(":", 1)[1].split("/")[0])
            server = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=self._serve, args=(client, server), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            while request := _received(client):
                server.sendall(request)
                answer = _received(server)
                if self.lose and b"EVALSHA" in request and not answer.startswith(b"-"):
                    self.lose -= 1
                    self.lost += 1
                    return
                client.sendall(answer)


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except OSError:
        return b""
