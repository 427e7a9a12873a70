"""Time calls beside a unit: many rounds, each with candidate and unit side by side, and the median of the ratios."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from statistics import median, quantiles
from time import perf_counter
from types import FunctionType
from typing import Any

from benchmarks.rows import Effort, Function

_CALLS = 10
_WARM_UP = 30

_SYNC = """
def timer(call, blocks):
    begin = perf_counter()
    for _ in repeat(None, blocks):
{body}
    return perf_counter() - begin
"""
_ASYNC = _SYNC.replace("def", "async def")
_CAUGHT = """        try:
            {call}
        except Exception:
            pass
"""


class Timer:
    """Times calls of one function, from call sites of its own: the interpreter specialises each for what it calls."""

    def __init__(
        self, call: Function, arguments: str, *, runner: asyncio.Runner | None = None, caught: bool = False
    ) -> None:
        self._call = call
        self._runner = runner
        self._timer = _compile(arguments, is_async=runner is not None, caught=caught)
        self._blocks = _WARM_UP

    def prepare(self, seconds: float) -> None:
        """Warm up, then choose how many calls to time so that they take about `seconds`."""
        self._run()
        took = min(self._run() for _ in range(3))
        self._blocks = max(1, round(self._blocks * seconds / took))

    def measure(self) -> float:
        """Return the seconds that one call takes now."""
        return self._run() / (self._blocks * _CALLS)

    def _run(self) -> float:
        timed = self._timer(self._call, self._blocks)
        seconds: float = timed if self._runner is None else self._runner.run(timed)
        return seconds


def _compile(arguments: str, *, is_async: bool, caught: bool) -> Function:
    call = f"{'await ' * is_async}call({arguments})"
    line = _CAUGHT.format(call=call) if caught else f"        {call}\n"
    made: dict[str, Any] = {"perf_counter": perf_counter, "repeat": repeat}
    exec((_ASYNC if is_async else _SYNC).format(body=line * _CALLS), made)
    timer: Function = made["timer"]
    return timer


@dataclass
class Pair:
    """A candidate and its unit, and what they took in each round, seconds per call."""

    unit: Timer
    candidate: Timer
    samples: list[tuple[float, float]] = field(default_factory=list)

    def prepare(self, seconds: float) -> None:
        """Warm both up."""
        self.unit.prepare(seconds)
        self.candidate.prepare(seconds)

    def measure(self, *, unit_first: bool) -> None:
        """Time both, one right after the other."""
        if unit_first:
            unit, candidate = self.unit.measure(), self.candidate.measure()
        else:
            candidate, unit = self.candidate.measure(), self.unit.measure()
        self.samples.append((unit, candidate))

    def ratios(self) -> list[float]:
        """Return, for each round, the candidate's time as a multiple of the unit's."""
        return [candidate / unit for unit, candidate in self.samples]

    def differences(self) -> list[float]:
        """Return, for each round, by how many microseconds a call of the candidate takes longer."""
        return [1e6 * (candidate - unit) for unit, candidate in self.samples]

    def nanoseconds(self) -> float:
        """Return the median time of a call of the candidate."""
        return 1e9 * median(candidate for _, candidate in self.samples)


def interleave(pairs: Sequence[Pair], effort: Effort) -> None:
    """Measure every pair once a round, so that a disturbance of the machine meets them all."""
    for pair in pairs:
        pair.prepare(effort.block)
    gc.collect()
    gc.freeze()
    for turn in range(effort.rounds):
        with no_collection():
            for pair in pairs:
                pair.measure(unit_first=turn % 2 == 0)
        gc.collect()
    gc.unfreeze()


@contextmanager
def no_collection() -> Generator[None]:
    """Keep the garbage collector from running in a block."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def middle(values: Sequence[float]) -> tuple[float, float]:
    """Return the median and half the distance between the quartiles."""
    low, _, high = quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return median(values), (high - low) / 2


def fresh(fn: Function) -> Function:
    """Return `fn` with code of its own, which nothing else has specialised; a C function as it is."""
    if not isinstance(fn, FunctionType):
        return fn
    copy = FunctionType(fn.__code__.replace(), fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    copy.__kwdefaults__ = fn.__kwdefaults__
    copy.__module__, copy.__qualname__ = fn.__module__, fn.__qualname__
    return copy


def inside(runner: asyncio.Runner, make: Callable[[], Function]) -> Function:
    """Call `make` where a loop is running, as some peers' decorators need."""

    async def run() -> Function:
        return make()

    return runner.run(run())
