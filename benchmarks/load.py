"""The internal API under load: `python -m benchmarks.load` asks a served one at a steady rate and watches its memory.

Arrivals are open: a request is due when it is due, however slow the answers before it were, and its latency counts from
then. The server is a process of its own, as `holdfast serve` runs it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import itertools
import os
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

PREFIX = "/internal/resilience"
PATHS = (
    "/health",
    "/circuit-breakers",
    "/config",
    "/monitoring/usage",
    "/circuit-breakers/op-3",
    "/config/presets",
)
# After so many requests that are late answers are looked for.
_ROUND = 8
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Result:
    """What came of a run: answers by status, errors by name, latencies in seconds, resident memory in MB by second.

    `server` and `client` are the seconds of a processor that they took.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    seconds: float = 0.0
    server: float = 0.0
    client: float = 0.0

    def percentile(self, share: float) -> float:
        """Return a latency in milliseconds."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def note(self, at: float, status: int | None, error: str = "") -> None:
        """Note what became of a request that was due at some time."""
        if status is None:
            self.errors[error] += 1
        else:
            self.statuses[status] += 1
        self.latencies.append(time.perf_counter() - at)


class Connection(asyncio.Protocol):
    """A connection that is kept alive, for one request at a time; `load` is told when it is free again."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._at: float | None = None
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, at: float, request: bytes) -> None:
        """Send a request that is due at some time."""
        assert self._transport is not None
        self._at = at
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Wait for the whole answer."""
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if end and len(body) >= _length(head):
            status, at = int(head[9:12]), self._at
            self._answer, self._at = b"", None
            if at is not None:
                self._load.answered(self, at, status)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report it, and a request that gets no answer any more."""
        self._load.lost(self, self._at, "ConnectionLost" if exc is None else type(exc).__name__)

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()


def _length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0])


class Load:
    """Requests that are due, and the connections that are free for them, the one that waits longest first."""

    def __init__(self, port: int) -> None:
        self.result = Result()
        self._port = port
        self._due: deque[tuple[float, bytes]] = deque()
        self._free: deque[Connection] = deque()
        self._busy = 0
        self._ended = asyncio.Event()

    async def connect(self) -> None:
        """Open one more connection."""
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port)
        self._free.append(made)

    def ask(self, at: float, request: bytes) -> None:
        """Send a request, or let it wait for a connection."""
        if self._free:
            self._busy += 1
            self._free.popleft().ask(at, request)
        else:
            self._due.append((at, request))

    def answered(self, connection: Connection, at: float, status: int) -> None:
        """Count an answer, and use the connection again."""
        self.result.note(at, status)
        self._released()
        self._free.append(connection)
        if self._due:
            self.ask(*self._due.popleft())

    def lost(self, connection: Connection, at: float | None, error: str) -> None:
        """Count an error; the connection is not replaced, and without any nothing is asked."""
        if at is None:
            self._free.remove(connection)
        else:
            self.result.note(at, None, error)
            self._released()
        while self._due and not (self._free or self._busy):
            self.result.note(self._due.popleft()[0], None, error)

    def _released(self) -> None:
        self._busy -= 1
        if not (self._busy or self._due):
            self._ended.set()

    async def end(self) -> None:
        """Wait for what is on its way, and close everything."""
        while self._busy:
            self._ended.clear()
            await self._ended.wait()
        for connection in self._free:
            connection.close()


async def run(port: int, pid: int, *, rate: float, seconds: float, connections: int) -> Result:
    """Ask at a steady rate, over so many connections."""
    load = Load(port)
    for _ in range(connections):
        await load.connect()
    requests = itertools.cycle(_request(path) for path in PATHS)
    result, server, client = load.result, _cpu(pid), time.process_time()
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        at = began + number / rate
        ahead = at - time.perf_counter()
        if ahead > 0 or number % _ROUND == 0:
            await asyncio.sleep(max(ahead, 0))
        if number % int(rate) == 0:
            result.memory.append(_resident(pid))
        load.ask(at, next(requests))
    await load.end()
    result.seconds = time.perf_counter() - began
    result.memory.append(_resident(pid))
    result.server, result.client = _cpu(pid) - server, time.process_time() - client
    return result


def _request(path: str) -> bytes:
    return f"GET {PREFIX}{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def _cpu(pid: int) -> float:
    """Return the seconds of a processor that a process has used, in its code and in the system's."""
    facts = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(facts[11]) + int(facts[12])) / _TICKS


def _resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE / 1e6


@contextlib.contextmanager
def served(port: int) -> Generator[int]:
    """Run `holdfast serve` on a port; give its process."""
    command = [sys.executable, "-m", "holdfast", "serve", "benchmarks._load_service", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _await(port)
            yield process.pid
        finally:
            process.terminate()


def _await(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise SystemExit("error: the server did not start")


def main() -> int:
    """Print what came of it; 1 if anything failed or memory grew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=1000, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--connections", type=int, default=50)
    given = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with served(port) as pid:
        load = functools.partial(run, port, pid, rate=given.rate, connections=given.connections)
        asyncio.run(load(seconds=3.0))
        result = asyncio.run(load(seconds=given.seconds))
    answered = sum(result.statuses.values())
    grown = result.memory[-1] - result.memory[0]
    print(f"{answered} answers in {result.seconds:.1f} s: {answered / result.seconds:.0f} a second")
    print(f"statuses {dict(result.statuses)}, errors {dict(result.errors)}")
    print(
        "latency "
        + ", ".join(f"p{share:g} {result.percentile(share / 100):.1f} ms" for share in (50, 95, 99))
    )
    server, client = (1000 * seconds / answered for seconds in (result.server, result.client))
    print(f"processor: server {server:.2f} ms for each, client {client:.2f} ms")
    print(
        f"memory {result.memory[0]:.1f} MB after 3 s of load, {result.memory[-1]:.1f} MB at the end: {grown:+.1f} MB"
    )
    return int(bool(result.errors) or set(result.statuses) != {200} or grown > 5)


if __name__ == "__main__":
    sys.exit(main())
