"""Search the settings of a policy for what matters to you, and show between which of them you can choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from random import Random
from types import MappingProxyType
from typing import Any, TypeAlias

from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.lab.experiment import Run, _scenario, run
from holdfast.lab.scenarios import Scenario
from holdfast.lab.subjects import subject

Space: TypeAlias = Mapping[str, tuple[float, float] | Sequence[object]]

# What a measure costs, from 0 (as good as can be) to about 1, in a run of a scenario.
_COSTS: Mapping[str, Callable[[Run, float], float]] = MappingProxyType(
    {
        "goodput": lambda _, value: 1 - value,
        "goodput_after": lambda _, value: 1 - value,
        "recovery": lambda run, value: min(value / _rest(run), 1.0),
        "amplification": lambda _, value: max(0.0, value - 1) / 2,
        "peak": lambda _, value: max(0.0, value - 1) / 2,
        "load": lambda _, value: max(0.0, value - 1) / 2,
        "wasted": lambda _, value: value,
        "false_rejections": lambda _, value: value,
        "fairness": lambda _, value: 1 - value,
        "p99": lambda run, value: min(value / _rest(run), 1.0),
        "p999": lambda run, value: min(value / _rest(run), 1.0),
    }
)
WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"goodput": 1.0, "recovery": 2.0, "amplification": 0.5, "false_rejections": 4.0}
)
SPACE: Space = MappingProxyType(
    {
        "attempts": (1, 5),
        "failure_rate": (0.3, 0.95),
        "window": (2.0, 20.0),
        "min_calls": (5, 40),
        "open_for": (0.3, 10.0),
        "open_growth": (1.0, 10.0),
        "half_open_calls": (1, 5),
        "half_open_timeout": (1.0, 30.0),
        "ratio": (0.05, 1.0),
        "limit": [None, 5, 10, 20, 40],
    }
)
# As recommended(): where a search begins, and what it has to beat.
START: Mapping[str, object] = MappingProxyType(
    {
        "attempts": 3,
        "failure_rate": 0.8,
        "window": 5.0,
        "min_calls": 10,
        "open_for": 0.5,
        "open_growth": 2.0,
        "half_open_calls": 1,
        "half_open_timeout": 3.0,
        "ratio": 0.4,
        "limit": None,
    }
)
_MEMBERS_OF_A_RANGE = 2


def _rest(run: Run) -> float:
    """Return the seconds of a scenario after its fault."""
    return run.scenario.duration - run.scenario.fault[1]


@dataclass(frozen=True, slots=True)
class Trial:
    """Settings that were tried: the mean of each weighted measure's cost (0: as good as can be), and their sum."""

    settings: Mapping[str, object]
    costs: Mapping[str, float]
    score: float

    def dominates(self, other: Trial) -> bool:
        """Return whether it is nowhere worse and somewhere better."""
        pairs = [(cost, other.costs[name]) for name, cost in self.costs.items()]
        return all(mine <= theirs for mine, theirs in pairs) and any(mine < theirs for mine, theirs in pairs)


@dataclass(frozen=True, slots=True)
class Tuning:
    """All trials in their order, the first with the settings that the search began with."""

    trials: tuple[Trial, ...]
    scenarios: tuple[str, ...]
    weights: Mapping[str, float]
    seed: int

    @property
    def best(self) -> Trial:
        """The trial with the smallest weighted sum of costs."""
        return min(self.trials, key=lambda one: one.score)

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other one dominates, smallest weighted sum first: between them it is your choice."""
        found = [one for one in self.trials if not any(other.dominates(one) for other in self.trials)]
        unique = {tuple(one.costs.values()): one for one in reversed(found)}
        return tuple(sorted(unique.values(), key=lambda one: one.score))


def pipeline(
    *,
    attempts: int = 3,
    failure_rate: float = 0.8,
    window: float = 5.0,
    min_calls: int = 10,
    open_for: float = 0.5,
    open_growth: float = 2.0,
    half_open_calls: int = 1,
    half_open_timeout: float = 3.0,
    ratio: float = 0.4,
    limit: int | None = None,
) -> Policy:
    """Return a pipeline as `recommended` makes it, with these settings.

    Seconds: `window`, `open_for`, `half_open_timeout`; `open_growth`: the longest time open over the first; `ratio`: of
    the budget; `limit`: calls at once that the concurrency limit begins with, None: as many as like.
    """
    from holdfast.infrastructure.resilience._recommended import _limit
    from holdfast.infrastructure.resilience.budget import RetryBudget
    from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
    from holdfast.infrastructure.resilience.pipeline import Pipeline
    from holdfast.infrastructure.resilience.retry import Retry
    from holdfast.infrastructure.resilience.timeout import Timeout
    from holdfast.infrastructure.resilience.window import Window

    breaker = CircuitBreaker(
        "lab",
        failure_rate=failure_rate,
        min_calls=min_calls,
        window=Window.seconds(window),
        open_for=open_for,
        open_cap=open_for * open_growth,
        half_open_calls=half_open_calls,
        half_open_timeout=half_open_timeout,
    )
    retry = Retry(attempts, budget=RetryBudget("lab", ratio=ratio, min_per_second=2.0, ttl=4.0))
    return Pipeline(Timeout(30.0), retry, breaker, _limit("lab", limit), Timeout(10.0), name="lab")


def tune(
    make: Callable[..., Policy] = pipeline,
    space: Space = SPACE,
    *,
    start: Mapping[str, object] | None = None,
    scenarios: Sequence[str | Scenario] = ("stall", "spike"),
    weights: Mapping[str, float] = WEIGHTS,
    trials: int = 24,
    seeds: int = 1,
    seed: int = 0,
) -> Tuning:
    """Try `trials` settings of `make(**settings)` in every scenario; the same arguments give the same result.

    `space` gives for each setting two numbers, its lowest and highest (whole if both are), or a list of choices. The
    first trial is `start` (none: the defaults of `make`), the first half of the others is drawn at random by `seed`,
    the rest varies what is best so far. `seeds` runs each, as `run`. ConfigurationError with every fault.
    """
    _check(space, weights, trials)
    where = [_scenario(one) for one in scenarios]
    first = dict(start) if start is not None else dict(START) if make is pipeline else {}
    chance, tried = Random(seed), list[Trial]()
    for settings in _candidates(first, space, trials, chance, tried):
        tried.append(_try(make, settings, where, weights, seeds))
    return Tuning(tuple(tried), tuple(one.name for one in where), dict(weights), seed)


def _check(space: Space, weights: Mapping[str, float], trials: int) -> None:
    faults = Faults("tune")
    faults.number("trials", trials, 1, 100_000, whole=True)
    faults.check(space, "space", space, "is empty", "name settings and their lowest and highest values")
    for name, values in space.items():
        fine = len(values) > 0 and (not isinstance(values, tuple) or _is_range(values))
        faults.check(fine, f"space.{name}", values, "is no range", "give (low, high), or a list of choices")
    for name, weight in weights.items():
        known = ", ".join(_COSTS)
        faults.check(
            name in _COSTS, f"weights.{name}", weight, "is no measure to tune for", f"one of {known}"
        )
        faults.number(f"weights.{name}", weight, 0, 1e6)
    faults.finish()


def _is_range(values: Sequence[Any]) -> bool:
    numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in values)
    return len(values) == _MEMBERS_OF_A_RANGE and numbers and 0 < values[0] <= values[1]


def _candidates(
    first: dict[str, object], space: Space, trials: int, chance: Random, tried: list[Trial]
) -> Iterator[dict[str, object]]:
    yield first
    for number in range(1, trials):
        if number <= trials // 2:
            yield {**first, **{name: _draw(values, chance) for name, values in space.items()}}
        else:
            # Half of the time near the best, else near anything that is on the front.
            tuning = Tuning(tuple(tried), (), {}, 0)
            near = tuning.best if chance.random() < 0.5 else chance.choice(tuning.front)  # noqa: PLR2004
            yield _vary(near.settings, space, chance)


def _draw(values: Sequence[Any], chance: Random) -> object:
    if not isinstance(values, tuple):
        return chance.choice(values)
    low, high = values
    # Evenly over orders of magnitude: 1 differs from 2 as 10 does from 20.
    return _whole_or_short(exp(chance.uniform(log(low), log(high))), values)


def _whole_or_short(value: float, values: tuple[Any, ...]) -> object:
    low, high = values
    number = round(value) if all(isinstance(one, int) for one in values) else float(f"{value:.2g}")
    return min(max(number, low), high)


def _vary(settings: Mapping[str, object], space: Space, chance: Random) -> dict[str, object]:
    """Change one to three settings, numbers by up to a factor of two."""
    changed = dict(settings)
    for name in chance.sample(sorted(space), min(len(space), chance.randint(1, 3))):
        values: Any = space[name]
        old, ranged = settings.get(name), type(space[name]) is tuple
        if ranged and isinstance(old, (int, float)):
            changed[name] = _whole_or_short(old * 2 ** chance.uniform(-1, 1), values)
        else:
            changed[name] = _draw(values, chance)
    return changed


def _try(
    make: Callable[..., Policy],
    settings: dict[str, object],
    scenarios: Sequence[Scenario],
    weights: Mapping[str, float],
    seeds: int,
) -> Trial:
    runs = [run(subject(lambda: make(**settings), name="trial"), one, seeds=seeds) for one in scenarios]
    costs = {
        name: sum(sum(_COSTS[name](one, value) for value in one.values(name)) for one in runs)
        / (len(runs) * seeds)
        for name in weights
    }
    score = sum(weight * costs[name] for name, weight in weights.items())
    return Trial(settings, costs, score)
