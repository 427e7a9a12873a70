"""Half a minute with a service in trouble: the same user calls with holdfast and without, over real sockets.

Two copies of a small price service run as processes of their own, each with the same script: healthy, slow, failing,
frozen, dead, recovering. One is called through a decorated client, the other by a bare one. At the end: what the users
got.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from holdfast import (
    CircuitBreaker,
    CircuitOpenError,
    Pipeline,
    Retry,
    RetryBudget,
    RetryScheduled,
    Timeout,
    Window,
    subscribe,
)
from holdfast.infrastructure.resilience.events import CircuitClosed, CircuitHalfOpened, CircuitOpened

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast import Event

PATIENCE = 2.5  # a user gives up after so many seconds
RATE = 20  # user calls a second, for each of the two clients


@dataclass(frozen=True)
class Phase:
    """A stretch of the script: what the service does from `start` to `end`, seconds."""

    name: str
    start: float
    end: float
    slow: float = 0.0
    failing: float = 0.0


SCRIPT = (
    Phase("healthy", 0, 5),
    Phase("slow", 5, 10, slow=0.25),
    Phase("failing", 10, 15, failing=0.4),
    Phase("frozen", 15, 19),
    Phase("dead", 19, 22),
    Phase("recovering", 22, 25, failing=0.2),
    Phase("healthy", 25, 30),
)


def phase_at(seconds: float) -> Phase:
    """Return the phase that runs `seconds` after the start."""
    return next((phase for phase in SCRIPT if phase.start <= seconds < phase.end), SCRIPT[-1])


# The service: `python demo.py service PORT SECONDS`, where SECONDS is how much of the script is over.


async def serve(port: int, begun: float) -> None:
    """Answer requests as the script says."""
    zero = time.monotonic() - begun
    chance = random.Random(7)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(await reply(phase_at(time.monotonic() - zero), chance))
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", port) as server:
        await server.serve_forever()


async def reply(phase: Phase, chance: random.Random) -> bytes:
    """Return one response, late or bad if the phase and chance want it."""
    await asyncio.sleep(3.0 if chance.random() < phase.slow else 0.02)
    status, body = (
        ("503 Service Unavailable", b"") if chance.random() < phase.failing else ("200 OK", b"9.99")
    )
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


# The clients.


@dataclass
class Outcome:
    """One user call: when it began, how long it took, seconds, and whether the user got a price in time."""

    began: float
    took: float
    ok: bool


@dataclass
class Client:
    """A way of calling one copy of the service, and what came of it."""

    name: str
    port: int
    outcomes: list[Outcome] = field(default_factory=list["Outcome"])
    sent: list[float] = field(default_factory=list[float])

    async def ask(self, http: httpx.AsyncClient, zero: float) -> float:
        """Send one request."""
        self.sent.append(time.monotonic() - zero)
        response = await http.get(f"http://127.0.0.1:{self.port}/price/kelp")
        return float(response.raise_for_status().text)

    async def user(self, call: Callable[[], Awaitable[float]], zero: float) -> None:
        """Be a user: wait for a price, but not for ever."""
        began = time.monotonic() - zero
        ok = False
        with contextlib.suppress(httpx.HTTPError, TimeoutError, CircuitOpenError):
            async with asyncio.timeout(PATIENCE):
                await call()
                ok = True
        self.outcomes.append(Outcome(began, time.monotonic() - zero - began, ok))


class Services:
    """The two copies of the service, as processes that can be frozen, killed and started again."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, begun: float) -> None:
        """Start both, `begun` seconds into the script."""
        self.running = [
            subprocess.Popen([sys.executable, __file__, "service", str(port), str(begun)])
            for port in self.ports
        ]

    def signal(self, number: signal.Signals) -> None:
        """Send both a signal."""
        for process in self.running:
            process.send_signal(number)

    def kill(self) -> None:
        """End both, as a crash would."""
        for process in self.running:
            process.kill()
            process.wait()

    async def follow_script(self, zero: float) -> None:
        """Freeze, kill and restart when the script says so."""
        await until(zero, "frozen")
        self.signal(signal.SIGSTOP)
        await until(zero, "dead")
        self.kill()
        await until(zero, "recovering")
        self.start(time.monotonic() - zero)


async def until(zero: float, name: str) -> None:
    """Wait for the beginning of a phase."""
    start = next(phase.start for phase in SCRIPT if phase.name == name)
    await asyncio.sleep(max(0.0, zero + start - time.monotonic()))


def free_port() -> int:
    """Return a port that nobody listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def main() -> None:
    """Run both clients through the script and tell what happened."""
    held, bare = Client("with holdfast", free_port()), Client("without", free_port())
    breaker = CircuitBreaker(
        "price service", window=Window.seconds(3), failure_rate=0.7, open_for=0.5, open_cap=1.0
    )
    policy = Pipeline(
        Timeout(2.0),
        Retry(attempts=4, budget=RetryBudget("price service", ratio=0.5)),
        breaker,
        Timeout(0.4),
    )
    services = Services([held.port, bare.port])
    services.start(0.0)
    log: list[tuple[float, Event]] = []
    print(
        "A price service gets into trouble. 20 users a second ask it for a price, once through holdfast, once bare.\n"
    )
    try:
        await wait_for(held.port)
        await wait_for(bare.port)
        zero = time.monotonic()
        with subscribe(lambda event: log.append((time.monotonic() - zero, event))):
            async with httpx.AsyncClient(timeout=30) as http_held, httpx.AsyncClient(timeout=30) as http_bare:
                price = policy_call(policy, held, http_held, zero)
                plain = plain_call(bare, http_bare, zero)
                chaos = asyncio.create_task(services.follow_script(zero))
                await crowd(zero, [(held, price), (bare, plain)], breaker)
                await chaos
    finally:
        services.kill()
    print("\r" + " " * 100 + "\r", end="")
    report(held, bare, log)


def policy_call(
    policy: Pipeline, client: Client, http: httpx.AsyncClient, zero: float
) -> Callable[[], Awaitable[float]]:
    """Return the call under the policies."""

    @policy
    async def price() -> float:
        return await client.ask(http, zero)

    return price


def plain_call(client: Client, http: httpx.AsyncClient, zero: float) -> Callable[[], Awaitable[float]]:
    """Return the bare call."""

    async def price() -> float:
        return await client.ask(http, zero)

    return price


async def wait_for(port: int) -> None:
    """Wait until the service answers."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"the service on port {port} did not start within 10 s")


async def crowd(
    zero: float, calls: list[tuple[Client, Callable[[], Awaitable[float]]]], breaker: CircuitBreaker
) -> None:
    """Let users come at a steady rate, whatever became of those before them."""
    users: set[asyncio.Task[None]] = set()
    end = SCRIPT[-1].end
    for number in range(int(end * RATE)):
        await asyncio.sleep(max(0.0, zero + number / RATE - time.monotonic()))
        users.update(asyncio.create_task(client.user(call, zero)) for client, call in calls)
        if number % 4 == 0:
            progress(time.monotonic() - zero, [client for client, _ in calls], breaker)
    await asyncio.gather(*users)


def progress(now: float, clients: list[Client], breaker: CircuitBreaker) -> None:
    """Show one line that is written over and over."""
    parts = [f"{one.name}: {sum(o.ok for o in one.outcomes)}/{len(one.outcomes)} ok" for one in clients]
    line = f"{now:4.0f} s  service {phase_at(now).name:<10}  breaker {breaker.current_state:<9}  {'   '.join(parts)}"
    print(f"\r{line:<100}", end="", flush=True)


def report(held: Client, bare: Client, log: list[tuple[float, Event]]) -> None:
    """Print what happened, for a person who saw nothing else."""
    print("What the users got, by what the service was doing:\n")
    print(f"{'':24}{'served in time':^28}{'typical wait, s':^24}{'requests sent':^20}")
    print(
        f"{'service was':<24}{'with':>12}{'without':>12}    {'with':>10}{'without':>10}    {'with':>8}{'without':>9}"
    )
    for phase in SCRIPT:
        label = f"{phase.name} ({phase.start:.0f}-{phase.end:.0f} s)"
        row(label, held, bare, phase.start, phase.end)
    row("in all", held, bare, 0, SCRIPT[-1].end)
    print("\nWhat holdfast did:\n")
    retries = [at for at, event in log if isinstance(event, RetryScheduled)]
    first = len(held.sent) - len(retries)
    calls, requests = len(held.outcomes), len(held.sent)
    print(
        f"  {calls} user calls became {requests} requests: {first} first attempts and {len(retries)} retries."
    )
    for at, text in story(log):
        print(f"  {at:5.1f} s  {text}")
    print("\nIn one sentence:\n")
    print(f"  {verdict(held, bare)}")


def row(label: str, held: Client, bare: Client, start: float, end: float) -> None:
    """Print one line of the table."""
    cells = [within(client, start, end) for client in (held, bare)]
    served = [f"{sum(o.ok for o in cell) / len(cell):.0%}" for cell in cells]
    waits = [f"{statistics.median(o.took for o in cell):.2f}" for cell in cells]
    sent = [sum(start <= at < end for at in client.sent) for client in (held, bare)]
    print(
        f"{label:<24}{served[0]:>12}{served[1]:>12}    {waits[0]:>10}{waits[1]:>10}    {sent[0]:>8}{sent[1]:>9}"
    )


def within(client: Client, start: float, end: float) -> list[Outcome]:
    """Return the calls that began between two times."""
    return [outcome for outcome in client.outcomes if start <= outcome.began < end]


def story(log: list[tuple[float, Event]]) -> list[tuple[float, str]]:
    """Return what the breaker did and when."""
    told: list[tuple[float, str]] = []
    for at, event in log:
        if isinstance(event, CircuitOpened):
            told.append((at, f"breaker opened: {event.reason}; nothing is sent for {event.open_for:.1f} s"))
        elif isinstance(event, CircuitHalfOpened):
            told.append((at, "breaker half-open: three requests may try"))
        elif isinstance(event, CircuitClosed):
            told.append((at, "breaker closed: the service is back"))
    return told


def verdict(held: Client, bare: Client) -> str:
    """Say what it comes to."""
    up = [(p.start, p.end) for p in SCRIPT if p.name not in {"frozen", "dead"}]
    shares: list[float] = []
    for client in (held, bare):
        calls = [outcome for start, end in up for outcome in within(client, start, end)]
        shares.append(sum(outcome.ok for outcome in calls) / len(calls))
    down = [statistics.median(o.took for o in within(client, 15, 22)) for client in (held, bare)]
    return (
        f"While the service was there, however bad, {shares[0]:.1%} of the users were served with holdfast\n"
        f"  and {shares[1]:.1%} without. While it was gone, users were told so after {down[0]:.2f} s instead of\n"
        f"  {down[1]:.2f} s, and it was left in peace."
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["service"]:
        asyncio.run(serve(int(sys.argv[2]), float(sys.argv[3])))
    else:
        asyncio.run(main())
