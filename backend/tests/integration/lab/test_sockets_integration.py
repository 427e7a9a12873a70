"""Simulation × sockets: what a policy does to a real server's process, it does in the lab."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from holdfast import Policy, Retry, recommended
from holdfast.lab import Scenario, Server, Trouble, run

CLIENTS = 4
CALLS = 100  # of each client, while the server is off
PAUSE = 0.01
PATIENCE = 60.0


async def ask(port: int, what: str = "call") -> str:
    """Ask the server on a connection of its own. ConnectionError when it hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(what.encode() + b"\n")
        await writer.drain()
        answer = (await reader.readline()).decode().strip()
    finally:
        writer.close()
    if not answer:
        raise ConnectionResetError("the server hung up")
    return answer


def none() -> Policy | None:
    return None


def retrying() -> Policy | None:
    return Retry(attempts=3)


def ours() -> Policy | None:
    return recommended("lab")


async def outage(port: int, make: Callable[[], Policy | None]) -> tuple[float, bool]:
    """Return the attempts per call while the server is off, and whether calls succeed again afterwards."""
    calls: list[Callable[[int], Awaitable[str]]] = []
    for _ in range(CLIENTS):
        policy = make()
        calls.append(ask if policy is None else policy(ask))

    async def client(
        call: Callable[[int], Awaitable[str]], until: Callable[[list[bool]], bool]
    ) -> list[bool]:
        good: list[bool] = []
        while not until(good):
            try:
                good.append(await call(port) == "ok")
            except Exception:
                good.append(False)
            await asyncio.sleep(PAUSE)
        return good

    async def all_clients(until: Callable[[list[bool]], bool]) -> list[list[bool]]:
        return await asyncio.gather(*(client(call, until) for call in calls))

    assert all(map(all, await all_clients(lambda good: len(good) >= 10)))
    await ask(port, "off")
    await ask(port, "count")
    await all_clients(lambda good: len(good) >= CALLS)
    attempts = int(await ask(port, "count"))
    await ask(port, "on")
    late = time.monotonic() + PATIENCE
    found = await all_clients(lambda good: good[-5:] == [True] * 5 or time.monotonic() > late)
    return attempts / (CLIENTS * CALLS), all(good[-5:] == [True] * 5 for good in found)


def simulated(make: Callable[[], Policy | None]) -> tuple[float, bool]:
    """Return the same of the lab, at the rate of calls that the clients come near."""
    scenario = Scenario(
        name="off",
        duration=60,
        clients=CLIENTS,
        load=CLIENTS * 50,
        server=Server(workers=1000),
        troubles=(Trouble(kind="errors", start=5, end=25),),
    )
    who = "none" if make is none else make
    found = run(who, scenario, seeds=1).measures[0]  # type: ignore[arg-type]  # none is the subject without one
    return found.amplification, not found.metastable


@pytest.mark.parametrize(
    ("make", "least", "most"), [(none, 1.0, 1.0), (retrying, 2.9, 3.0), (ours, 0.0, 0.9)]
)
def test_the_lab_agrees_with_sockets(
    port: int, make: Callable[[], Policy | None], least: float, most: float
) -> None:
    """Over sockets and in the lab, a policy sends a dead server as much, and both are back afterwards."""
    real, again = asyncio.run(outage(port, make))
    virtual, back = simulated(make)
    assert again
    assert back
    assert least <= real <= most
    assert least <= virtual <= most
