"""What a policy costs eight threads that share it: throughput with it, as a share of the throughput without."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from benchmarks import ours, peers
from benchmarks.rows import OURS, Case, Effort, Function, Row, Section, Target
from benchmarks.timing import middle

_THREADS = 8
_CALLS = 30


@dataclass(frozen=True, kw_only=True)
class Shared(Case):
    """A decorated function that all threads share."""

    decorate: Function


def fetch(order_id: int, *, quantity: int = 1) -> int:  # it takes what services take
    """Wait 5 ms for an answer."""
    time.sleep(0.005)
    return order_id


def _seconds(call: Function) -> float:
    """Return how long all threads need for their calls, from a common start."""
    start = threading.Barrier(_THREADS + 1)

    def work() -> None:
        start.wait()
        for _ in range(_CALLS):
            call(7, quantity=2)

    threads = [threading.Thread(target=work) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    start.wait()
    begin = perf_counter()
    for thread in threads:
        thread.join()
    return perf_counter() - begin


def _measure(cases: Sequence[Shared], effort: Effort) -> list[Row]:
    rows = []
    for case in cases:
        try:
            call = case.decorate(fetch)
        except ImportError as error:
            rows.append(_row(case, None, None, str(error)))
            continue
        rows.append(_row(case, *middle([_share(call, turn) for turn in range(effort.runs)])))
    return rows


def _share(call: Function, turn: int) -> float:
    if turn % 2:
        without, with_ = _seconds(fetch), _seconds(call)
    else:
        with_, without = _seconds(call), _seconds(fetch)
    return 100 * without / with_


def _row(case: Shared, value: float | None, spread: float | None, note: str = "") -> Row:
    return Row(
        section="threads",
        library=case.library,
        what=case.what,
        unit="%",
        value=value,
        spread=spread,
        target=case.target,
        note=note,
    )


def _cases() -> list[Shared]:
    return [
        Shared(library=OURS, what="breaker, 10 s", decorate=ours.breaker(), target=Target(98, at_least=True)),
        Shared(library=OURS, what="retry + breaker, 10 s, slow calls", decorate=ours.slow),
        Shared(library=OURS, what="rate limit", decorate=ours.rate_limit),
        Shared(library=OURS, what="full stack, 8 policies", decorate=ours.stack),
        Shared(library="pybreaker", what="breaker", decorate=peers.pybreaker_breaker),
        Shared(library="circuitbreaker", what="breaker", decorate=peers.circuitbreaker_breaker),
        Shared(library="aiobreaker", what="breaker", decorate=peers.aiobreaker_breaker),
        Shared(library="purgatory", what="breaker", decorate=peers.purgatory_breaker),
        Shared(library="redress", what="breaker", decorate=peers.redress_breaker),
    ]


SECTION = Section(
    "threads",
    "8 threads through one policy around 5 ms of waiting; 100 % = without it",
    _cases,
    _measure,
)
