"""What a policy costs where nothing is wrong: the processor's time of a call, and a client's memory."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from holdfast.infrastructure.resilience.policy import Policy
from holdfast.lab._server import Call
from holdfast.lab.experiment import _subject
from holdfast.lab.subjects import Function, Subject
from holdfast.lab.world import World

_CALLS = 2000
_ROUNDS = 5
_CLIENTS = 50
# What a client has kept of its first calls belongs to its size.
_FIRST = 20


@dataclass(frozen=True, slots=True)
class Cost:
    """`cpu`: seconds of the processor that a policy adds to a call that succeeds; `size`: bytes that a client keeps."""

    cpu: float
    size: float


def cost(policy: str | Subject | Policy | Callable[[], Policy]) -> Cost:
    """Measure a policy on this machine, in a fraction of a second; unlike all else in the lab it differs each time.

    The processor's time is the least of five rounds, less that of a call without a policy. Errors as of `run`.
    """
    who = _subject(policy)
    world = World(packages=who.packages)
    return world.run(_cost(world, who))


def _spent() -> float:
    return time.process_time()  # noqa: TID251  # of this process, in whatever world


def _target(*, asynchronous: bool) -> Function:
    async def answer(call: Call) -> Call:
        return call

    def plain(call: Call) -> Call:
        return call

    return answer if asynchronous else plain


async def _cost(world: World, who: Subject) -> Cost:
    bare = _target(asynchronous=who.asynchronous)
    # Not less than nothing: the two differ by less than the machine does.
    cpu = max(0.0, await _time(world, who, who.make(bare)) - await _time(world, who, bare))
    return Cost(cpu, await _size(world, who))


async def _time(world: World, who: Subject, send: Function) -> float:
    """Return the processor's seconds of a call."""
    return min([await _drive(world, who, send, _CALLS) for _ in range(_ROUNDS)]) / _CALLS


async def _drive(world: World, who: Subject, send: Function, calls: int) -> float:
    """Make calls one after another; return the seconds that they took of the processor."""
    call = Call(0, 0, 0, 0.0)
    if not who.asynchronous:

        def loop() -> float:
            start = _spent()
            for _ in range(calls):
                send(call)
            return _spent() - start

        return await world.thread(loop)
    start = _spent()
    for _ in range(calls):
        await send(call)
    return _spent() - start


async def _size(world: World, who: Subject) -> float:
    """Return the bytes that one more client keeps, beyond what all clients share."""
    targets = [_target(asynchronous=who.asynchronous) for _ in range(_CLIENTS + 1)]
    # The first one brings what is imported and compiled for all.
    kept: list[Any] = [who.make(targets.pop())]
    await _drive(world, who, kept[0], _FIRST)
    gc.collect()
    mine = not tracemalloc.is_tracing()
    if mine:
        tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for target in targets:
            send = who.make(target)
            await _drive(world, who, send, _FIRST)
            kept.append(send)
        gc.collect()
        return max(0, tracemalloc.get_traced_memory()[0] - before) / _CLIENTS
    finally:
        if mine:
            tracemalloc.stop()
