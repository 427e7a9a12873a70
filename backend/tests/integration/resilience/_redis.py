"""Redis for the storage tests: a client that counts what it sends, and a server that may be killed."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


class CountingRedis(redis.Redis):
    """A real client that remembers the name of every command it sends, and gives up at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # pyright: ignore[reportUnknownMemberType]  # redis has no type for it
        self.commands: list[str] = []

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
    return client


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
