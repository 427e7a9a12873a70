"""Half a minute with a service in trouble: the same user calls with holdfast and without, over real sockets.

Two copies of a small price service run as processes of their own, each with the same script: healthy, slow, failing,
frozen, dead, recovering. One is called through a decorated client, the other by a bare one. At the end: what the users
got, and what each policy did for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from holdfast import (
    BudgetExhausted,
    Bulkhead,
    CallTimedOut,
    CircuitBreaker,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    Fallback,
    FallbackUsed,
    Hedge,
    HoldfastError,
    Pipeline,
    Retry,
    RetryBudget,
    RetryScheduled,
    Timeout,
    Window,
    subscribe,
    watch_degraded,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast import Event

PATIENCE = 2.5  # a user gives up after so many seconds
RATE = 20  # user calls a second, for each of the two clients
YESTERDAY = 9.49  # yesterday's price of kelp
ATTEMPT = 0.4  # seconds for one request


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
    """One user call: when it began, how long it took, seconds, and which price the user got in time, if any."""

    began: float
    took: float
    price: str


@dataclass
class Request:
    """One request that was sent: when, and when it was over."""

    began: float
    ended: float = float("inf")


@dataclass
class Client:
    """A way of calling one copy of the service, and what came of it."""

    name: str
    port: int
    outcomes: list[Outcome] = field(default_factory=list["Outcome"])
    sent: list[Request] = field(default_factory=list["Request"])

    async def ask(self, http: httpx.AsyncClient, zero: float) -> float:
        """Send one request."""
        request = Request(time.monotonic() - zero)
        self.sent.append(request)
        try:
            response = await http.get(f"http://127.0.0.1:{self.port}/price/kelp")
            return float(response.raise_for_status().text)
        finally:
            request.ended = time.monotonic() - zero

    async def user(self, call: Callable[[], Awaitable[float]], zero: float) -> None:
        """Be a user: wait for a price, but not for ever."""
        began = time.monotonic() - zero
        price = "none"
        with contextlib.suppress(httpx.HTTPError, TimeoutError, HoldfastError):
            async with asyncio.timeout(PATIENCE):
                with watch_degraded() as watch:
                    await call()
                price = "yesterday's" if watch.degraded else "today's"
        self.outcomes.append(Outcome(began, time.monotonic() - zero - began, price))

    def share(self, price: str, start: float, end: float) -> float:
        """Return the share of the users who came between two times and got this price."""
        cell = self.within(start, end)
        return sum(outcome.price == price for outcome in cell) / len(cell)

    def within(self, start: float, end: float) -> list[Outcome]:
        """Return the calls that began between two times."""
        return [outcome for outcome in self.outcomes if start <= outcome.began < end]

    def requests(self, start: float, end: float) -> int:
        """Return how many requests were sent between two times."""
        return sum(start <= request.began < end for request in self.sent)

    def at_once(self, start: float, end: float) -> int:
        """Return how many requests were open at once, at the worst moment between two times."""
        begins = [(max(one.began, start), 1) for one in self.sent if one.began < end and one.ended > start]
        ends = [(one.ended, -1) for one in self.sent if one.began < end and start < one.ended < end]
        return max(itertools.accumulate(step for _, step in sorted(begins + ends)), default=0)


@dataclass
class Stack:
    """The policies around the call, outermost first; retries and hedges share a budget."""

    budget: RetryBudget
    hedge: Hedge
    breaker: CircuitBreaker
    bulkhead: Bulkhead
    pipeline: Pipeline

    @classmethod
    def build(cls) -> Stack:
        """Make them as a client of the price service would."""
        budget = RetryBudget("price service", ratio=0.5)
        hedge = Hedge(0.15, budget=budget)
        window = Window.seconds(3)
        breaker = CircuitBreaker("price service", window=window, failure_rate=0.7, open_for=0.5, open_cap=1.0)
        bulkhead = Bulkhead(16, name="price service")
        pipeline = Pipeline(
            Fallback(YESTERDAY),
            Timeout(2.0),
            Retry(attempts=3, budget=budget),
            hedge,
            breaker,
            bulkhead,
            Timeout(ATTEMPT),
        )
        return cls(budget, hedge, breaker, bulkhead, pipeline)


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
    stack = Stack.build()
    services = Services([held.port, bare.port])
    services.start(0.0)
    log: list[tuple[float, Event]] = []
    introduce(stack)
    try:
        await wait_for(held.port)
        await wait_for(bare.port)
        zero = time.monotonic()
        with subscribe(lambda event: log.append((time.monotonic() - zero, event))):
            async with httpx.AsyncClient(timeout=30) as http_held, httpx.AsyncClient(timeout=30) as http_bare:
                plain = plain_call(bare, http_bare, zero)
                price = stack.pipeline(plain_call(held, http_held, zero))
                script = asyncio.create_task(services.follow_script(zero))
                await crowd(zero, [(held, price), (bare, plain)], stack.breaker)
                await script
    finally:
        services.kill()
    if sys.stdout.isatty():
        print("\r" + " " * 110 + "\r", end="")
    report(held, bare, stack, log)


def introduce(stack: Stack) -> None:
    """Say what is going to happen."""
    worst = stack.pipeline.explain(strict=True)
    print(
        f"A price service gets into trouble. {RATE} users a second ask it for a price, once through holdfast, once\n"
        f"bare. A user gives up after {PATIENCE} s. The call through holdfast is, from the outside in:\n\n"
        f"  fallback   when all else fails: yesterday's price, marked as such\n"
        f"  timeout    2 s for everything below\n"
        f"  retry      up to 3 tries, on a budget\n"
        f"  hedge      a second request when the first has not answered in 0.15 s, or failed; on the same budget\n"
        f"  breaker    sends nothing for a while when 70 % of the requests of the last 3 s failed\n"
        f"  bulkhead   at most 16 requests at once\n"
        f"  timeout    {ATTEMPT} s for each request\n\n"
        f"At worst, explain() says beforehand, a user's call is {worst.attempts:.0f} requests and takes "
        f"{worst.duration:.1f} s.\n"
    )


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
        if number % (4 if sys.stdout.isatty() else 4 * RATE) == 0:
            progress(time.monotonic() - zero, [client for client, _ in calls], breaker)
    await asyncio.gather(*users)


def progress(now: float, clients: list[Client], breaker: CircuitBreaker) -> None:
    """Show how far it is: on a terminal one line that is written over and over, elsewhere a line each time."""
    parts = [
        f"{sum(o.price != 'none' for o in one.outcomes)} of {len(one.outcomes)} {one.name}" for one in clients
    ]
    service = f"service {phase_at(now).name:<10}  breaker {breaker.current_state:<9}"
    line = f"{now:4.0f} s  {service}  got a price: {', '.join(parts)}"
    if sys.stdout.isatty():
        print(f"\r{line:<110}", end="", flush=True)
    else:
        print(line, flush=True)


def report(held: Client, bare: Client, stack: Stack, log: list[tuple[float, Event]]) -> None:
    """Print what happened, for a person who saw nothing else."""
    print("\nWhat the users got, by what the service was doing; with holdfast | without:\n")
    heads = ("today's", "yesterday's", "no price", "waited, s", "requests", "at once")
    print(f"{'service was':<21}" + "".join(f"{head:>13}" for head in heads))
    for phase in SCRIPT:
        row(f"{phase.name}, {phase.start:.0f}-{phase.end:.0f} s", held, bare, phase.start, phase.end)
    row("in all", held, bare, 0, SCRIPT[-1].end)
    print("\n  today's, yesterday's: the price they got; waited: 19 in 20 users not longer than this;")
    print("  requests: sent to the service; at once: so many of them were open at the worst moment")
    print("\nWhat each policy did:\n")
    for name, text in deeds(held, stack, [event for _, event in log]):
        print(f"  {name:<10} {text}")
    print("\nThe breaker's story:\n")
    for at, text in story(log):
        print(f"  {at:5.1f} s  {text}")
    print("\nIn short:\n")
    print(f"  {verdict(held, bare)}")


def row(label: str, held: Client, bare: Client, start: float, end: float) -> None:
    """Print one line of the table."""
    prices = [
        [f"{client.share(price, start, end):.0%}" for client in (held, bare)]
        for price in ("today's", "yesterday's", "none")
    ]
    waits = [f"{slowest(client, start, end):.2f}" for client in (held, bare)]
    sent = [str(client.requests(start, end)) for client in (held, bare)]
    open_ = [str(client.at_once(start, end)) for client in (held, bare)]
    cells = [f"{one:>4} |{other:>5}" for one, other in (*prices, waits, sent, open_)]
    print(f"{label:<21}" + "".join(f"{cell:>13}" for cell in cells))


def slowest(client: Client, start: float, end: float) -> float:
    """Return the wait that 19 in 20 of the users did not exceed, seconds."""
    waits = sorted(outcome.took for outcome in client.within(start, end))
    return waits[len(waits) * 19 // 20]


def deeds(held: Client, stack: Stack, events: list[Event]) -> list[tuple[str, str]]:
    """Return what each policy did, outermost first."""

    def count(kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in events)

    cut = sum(isinstance(event, CallTimedOut) and event.seconds == ATTEMPT for event in events)
    hedge, refused = stack.hedge, stack.breaker.rejected
    return [
        ("fallback", f"answered {count(FallbackUsed)} of {len(held.outcomes)} users with yesterday's price"),
        ("retry", f"decided on {count(RetryScheduled)} more tries after a failure"),
        ("hedge", f"decided on {hedge.started} second requests; {hedge.won} of them gave the answer"),
        ("budget", f"refused {count(BudgetExhausted)} retries and hedges, to spare the service"),
        ("breaker", f"opened {count(CircuitOpened)} times and refused {refused} requests at once"),
        ("bulkhead", f"refused {stack.bulkhead.rejected} requests because {stack.bulkhead.limit} were open"),
        ("timeout", f"cut off {cut} requests after {ATTEMPT} s"),
    ]


def story(log: list[tuple[float, Event]]) -> list[tuple[float, str]]:
    """Return what the breaker did and when."""
    told: list[tuple[float, str]] = []
    rounds = 0
    for at, event in log:
        if isinstance(event, CircuitOpened) and not rounds:
            told.append((at, f"opened: {event.reason}; nothing is sent for {event.open_for:.1f} s"))
        elif isinstance(event, CircuitHalfOpened):
            rounds += 1
        elif isinstance(event, CircuitClosed):
            told.append(
                (at, f"closed: it is back; to see that, up to 3 requests were let through, {rounds} times")
            )
            rounds = 0
    return told


def verdict(held: Client, bare: Client) -> str:
    """Say what it comes to."""
    up = [(p.start, p.end) for p in SCRIPT if p.name not in {"frozen", "dead"}]
    shares: list[float] = []
    for client in (held, bare):
        calls = [outcome for start, end in up for outcome in client.within(start, end)]
        shares.append(sum(outcome.price == "today's" for outcome in calls) / len(calls))
    start, end = 15, 22
    some, few = (1 - client.share("none", start, end) for client in (held, bare))
    return (
        f"While the service was there, however bad, {shares[0]:.1%} of the users got today's price with holdfast\n"
        f"  and {shares[1]:.1%} without. While it was gone, {some:.0%} got a price with holdfast, if an old one, and\n"
        f"  {few:.0%} without; the service was sent {held.requests(start, end)} requests in that time, instead of "
        f"{bare.requests(start, end)}."
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["service"]:
        asyncio.run(serve(int(sys.argv[2]), float(sys.argv[3])))
    else:
        asyncio.run(main())
