"""What a rate limit costs where calls wait for it: many tasks in line, in time whose waits are left out."""

from __future__ import annotations

import asyncio
import gc
import selectors
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from math import inf
from time import monotonic, process_time
from typing import Any

from benchmarks.rows import OURS, Case, Effort, Row, Section
from benchmarks.timing import middle, no_collection
from holdfast import Clock
from holdfast.infrastructure.resilience.rate_limit import RateLimit

RATE, BURST, TASKS = 1000.0, 10, 500


class Shortened(Clock):
    """Time as it passes, plus the waits that were left out."""

    skipped = 0.0

    def monotonic(self) -> float:
        """Return the seconds that have passed, left out ones included."""
        return monotonic() + self.skipped


class _Impatient(selectors.DefaultSelector):  # type: ignore[misc, valid-type, unused-ignore]  # it differs by system
    """Never waits: what it is asked to wait passes at once."""

    def __init__(self, clock: Shortened) -> None:
        super().__init__()
        self.clock = clock

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout > 0:
            self.clock.skipped += timeout
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop that runs on shortened time."""

    def __init__(self, clock: Shortened) -> None:
        super().__init__(_Impatient(clock))
        self._clock = clock

    def time(self) -> float:
        """Return the clock's time."""
        return self._clock.monotonic()


Limiter = AbstractAsyncContextManager[Any]


@dataclass(frozen=True, kw_only=True)
class Queued(Case):
    """What makes a limiter of 1000 a second, 10 at once, on a clock; it is made where a loop is running."""

    make: Callable[[Shortened], Limiter]


def admissions(make: Callable[[Shortened], Limiter], tasks: int = TASKS) -> tuple[list[float], float]:
    """Let many tasks come at once; return after how long each was admitted, and the CPU seconds that all of it took."""
    clock, times = Shortened(), list[float]()
    came = clock.monotonic()

    async def one(limiter: Limiter) -> None:
        async with limiter:
            times.append(clock.monotonic() - came)

    async def run() -> float:
        limiter, began = make(clock), process_time()
        await asyncio.gather(*(one(limiter) for _ in range(tasks)))
        return process_time() - began

    with asyncio.Runner(loop_factory=lambda: Loop(clock)) as runner:
        took = runner.run(run())
    return times, took


def excess(times: Sequence[float]) -> float:
    """Return by how many calls the fullest window held more than burst + rate × time."""
    most, ahead = 0.0, -inf
    for at, time in enumerate(times):
        # Of the windows that end here, the fullest began where fewest calls had been made for the time.
        ahead = max(ahead, RATE * time - at)
        most = max(most, at + 1 - RATE * time + ahead - BURST)
    return most


def _measure(cases: Sequence[Queued], effort: Effort) -> list[Row]:
    ready: list[Queued] = []
    rows: list[Row] = []
    for case in cases:
        try:
            admissions(case.make, BURST)
            ready.append(case)
        except ImportError as error:
            rows.append(_row(case, None, None, str(error)))
    samples: dict[Queued, list[float]] = {case: [] for case in ready}
    notes: dict[Queued, str] = {}
    for turn in range(3 * effort.runs):
        for case in ready[:: -1 if turn % 2 else 1]:
            gc.collect()
            with no_collection():
                times, took = admissions(case.make)
            samples[case].append(1e6 * took / len(times))
            notes[case] = _accuracy(times)
    return rows + [_row(case, *middle(samples[case]), notes[case]) for case in ready]


def _accuracy(times: Sequence[float]) -> str:
    """Tell how much of the rate was used, and whether it was exceeded."""
    share = 100 * (len(times) - BURST) / (RATE * times[-1])
    return f"{share:.0f} % of the rate, {excess(times):.1f} calls too many"


def _row(case: Queued, value: float | None, spread: float | None, note: str) -> Row:
    return Row(
        section="line",
        library=case.library,
        what=case.what,
        unit="µs",
        value=value,
        spread=spread,
        target=case.target,
        note=note,
    )


def rate_limit(clock: Shortened) -> Limiter:
    """Make holdfast's."""
    return RateLimit(RATE, burst=BURST, max_wait=3600, clock=clock)


def _aiolimiter(_: Shortened) -> Limiter:
    from aiolimiter import AsyncLimiter

    return AsyncLimiter(BURST, BURST / RATE)


def _cases() -> list[Queued]:
    return [
        # Late, so that both are measured side by side.
        Queued(library=OURS, what="rate limit", make=rate_limit, late=True),
        Queued(library="aiolimiter", what="rate limit", make=_aiolimiter),
    ]


SECTION = Section(
    "line",
    f"CPU per call, {TASKS} tasks come at once to a limit of {RATE:g} a second, {BURST} at once",
    _cases,
    _measure,
)
