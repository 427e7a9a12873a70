"""The course of a scenario over time: how fast servers work, how often clients call."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from holdfast.lab.scenarios import Scenario, Trouble


def speeds(troubles: tuple[Trouble, ...]) -> list[tuple[float, float]]:
    """Return from when on, seconds, the server works how fast (1: as it should); sorted, the last for ever."""
    edges = {0.0, *(edge for one in troubles for edge in _edges(one))}
    return [(edge, _speed(troubles, edge)) for edge in sorted(edges)]


def _edges(trouble: Trouble) -> Iterator[float]:
    if trouble.kind in {"stall", "slow"}:
        yield from (trouble.start, trouble.end)
    if trouble.kind == "restart":
        seconds = int(trouble.end - trouble.start)
        yield from (trouble.start + second for second in range(seconds))
        yield trouble.end


def _speed(troubles: tuple[Trouble, ...], now: float) -> float:
    speed = 1.0
    for one in troubles:
        if not one.start <= now < one.end:
            continue
        if one.kind == "stall":
            speed = 0.0
        elif one.kind == "slow":
            speed /= one.factor
        elif one.kind == "restart":
            left = (one.end - now) / (one.end - one.start)
            speed /= 1 + (one.factor - 1) * left
    return speed


def arrival_rates(scenario: Scenario, client: int) -> list[tuple[float, float]]:
    """Return from when on, seconds, a client makes how many calls a second; sorted, up to the end, where it is 0."""
    base = scenario.load / scenario.clients
    mine = [one for one in scenario.troubles if one.kind == "load" and one.client in {-1, client}]
    edges = sorted(
        {0.0, *(edge for one in mine for edge in (one.start, one.end) if edge < scenario.duration)}
    )
    rates = [(edge, _rate(base, mine, edge)) for edge in edges]
    return [*rates, (scenario.duration, 0.0), (inf, 0.0)]


def _rate(base: float, loads: list[Trouble], now: float) -> float:
    for one in loads:
        if one.start <= now < one.end:
            base *= one.factor
    return base
