"""Run policies through scenarios, and compare them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from holdfast.infrastructure.resilience.policy import Policy
from holdfast.lab._measure import measure
from holdfast.lab._simulation import Simulation, Trace
from holdfast.lab.measures import Interval, Measures, bootstrap
from holdfast.lab.scenarios import Scenario, Trouble, scenarios
from holdfast.lab.subjects import _NONE, Subject, _missing, subject, subjects

SEEDS: int = 30

# Seconds: how long after the fault the load drops, for how long, and how long calls must succeed then.
_ESCAPE_AFTER = 20.0
_ESCAPE_FOR = 60.0
_ESCAPED = 20.0
_STEPS = 10


@dataclass(frozen=True, slots=True)
class Series:
    """What one run looked like, second by second: calls made, calls that succeeded, refused, and attempts.

    `open` and `half_open`: at each second, the clients whose circuit breaker was so; empty where none has one of ours.
    """

    calls: tuple[int, ...]
    good: tuple[int, ...]
    rejected: tuple[int, ...]
    attempts: tuple[int, ...]
    open: tuple[int, ...] = ()
    half_open: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """A policy in a scenario: its measures and its trace's digest per seed, and the first seed second by second.

    Equal runs have equal digests.
    """

    policy: str
    scenario: Scenario
    seeds: tuple[int, ...]
    measures: tuple[Measures, ...]
    digests: tuple[str, ...]
    overrun: bool
    series: Series

    def values(self, name: str) -> tuple[float, ...]:
        """Return a measure, one value per seed. AttributeError for an unknown one."""
        return tuple(float(getattr(one, name)) for one in self.measures)

    def interval(self, name: str) -> Interval:
        """Return the mean of a measure and its 95 % interval."""
        return bootstrap(self.values(name))

    def recovers_within(self, seconds: float) -> bool:
        """Return whether 95 % of the goodput is back so soon after the fault, in every seed."""
        return max(self.values("recovery")) <= seconds

    def amplifies_at_most(self, factor: float) -> bool:
        """Return whether the dependency gets at most so many attempts per call during the fault, in every seed."""
        return max(self.values("amplification")) <= factor

    def goodput_at_least(self, share: float) -> bool:
        """Return whether so many calls succeed while the fault lasts, in every seed."""
        return min(self.values("goodput")) >= share

    @property
    def verdict(self) -> str:
        """What happened, in words."""
        good, load, back = (self.interval(name) for name in ("goodput", "amplification", "recovery"))
        never = sum(value == inf for value in self.values("recovery"))
        said = [
            f"{self.policy} in {self.scenario.name!r} ({self.scenario.says}):",
            f"{good.mean:.0%} of calls succeed during the fault, with {load.mean:.2f} attempts each.",
        ]
        if never == len(self.seeds):
            left = self.scenario.duration - self.scenario.fault[1]
            said.append(f"It never recovers in the {left:.0f} s after it: the trouble outlives its cause.")
        elif never:
            said.append(f"In {never} of {len(self.seeds)} runs it never recovers.")
        else:
            said.append(
                f"It recovers {back.mean:.1f} s after the fault ({max(self.values('recovery')):.0f} at worst)."
            )
        harm = self.interval("false_rejections").mean
        if harm > 0:
            said.append(f"It refuses {harm:.1%} of calls that would have succeeded without it.")
        if self.overrun:
            said.append("The run was ended early: it made more than 30 attempts per call.")
        return " ".join(said)

    def __repr__(self) -> str:
        return f"<{self.verdict}>"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several policies in one scenario, on the same seeds; the first is what the others are compared with."""

    runs: tuple[Run, ...]

    def difference(self, policy: str, name: str) -> Interval:
        """Return by how much a measure of `policy` is above the first's, paired by seed. KeyError for an unknown one.

        Where both never recover they do not differ.
        """
        runs = {run.policy: run for run in self.runs}
        pairs = zip(runs[policy].values(name), self.runs[0].values(name), strict=True)
        return bootstrap([0.0 if one == other else one - other for one, other in pairs])


_FINE: OrderedDict[tuple[Scenario, int], frozenset[int]] = OrderedDict()
_REMEMBERED = 256


def _fine(scenario: Scenario, seed: int, trace: Trace | None = None) -> frozenset[int]:
    """Return the calls that succeed without a policy; `trace`: such a run, if there is one already."""
    key = (scenario, seed)
    if key not in _FINE:
        calls = (trace or Simulation(scenario, _NONE, seed).run()).calls
        _FINE[key] = frozenset(call.number for call in calls if call.outcome == "ok")
        while len(_FINE) > _REMEMBERED:
            _FINE.popitem(last=False)
    return _FINE[key]


def run(
    policy: str | Subject | Policy | Callable[[], Policy],
    scenario: str | Scenario = "stall",
    *,
    seeds: int | Iterable[int] = SEEDS,
) -> Run:
    """Run a policy through a scenario once per seed; `seeds`: how many, or which.

    A policy is a subject or the name of one, a function that makes one for each client, or one that all share: its
    budgets, and what of it has a `reset`, are reset before each run. Caches, families and learnt delays are not.
    LookupError for an unknown name; ImportError, naming the distribution, for a peer that is not installed.
    """
    who, what = _subject(policy), _scenario(scenario)
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not numbers:
        raise ValueError("there are no seeds: give how many, or which")
    series: list[Series] = []
    measures: list[Measures] = []
    digests: list[str] = []
    overrun = False
    for seed in numbers:
        trace = Simulation(what, who, seed, watch=not series).run()
        series = series or [_series(trace, what)]
        measures.append(measure(trace, what, _fine(what, seed, trace if who is _NONE else None)))
        digests.append(trace.digest)
        overrun = overrun or trace.overrun
    return Run(
        policy=who.name,
        scenario=what,
        seeds=numbers,
        measures=tuple(measures),
        digests=tuple(digests),
        overrun=overrun,
        series=series[0],
    )


def compare(
    policies: Sequence[str | Subject | Policy | Callable[[], Policy]],
    scenario: str | Scenario = "stall",
    *,
    seeds: int | Iterable[int] = SEEDS,
) -> Comparison:
    """Run several policies through one scenario on the same seeds. Errors as of `run`; ValueError without policies."""
    if not policies:
        raise ValueError("there is nothing to compare: give policies")
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    return Comparison(tuple(run(policy, scenario, seeds=numbers) for policy in policies))


def escape_load(
    policy: str | Subject | Policy | Callable[[], Policy],
    scenario: str | Scenario = "stall",
    *,
    seed: int = 0,
) -> float:
    """Return to what share the load must drop, for 60 s from 20 s after the fault, for calls to succeed again.

    1: no drop is needed; 0: a tenth of the load is still too much. In tenths. Errors as of `run`.
    """
    who, what = _subject(policy), _scenario(scenario)
    end = what.fault[1]
    back = end + _ESCAPE_AFTER + _ESCAPE_FOR
    for tenths in range(_STEPS, 0, -1):
        drop = Trouble(kind="load", start=end + _ESCAPE_AFTER, end=back, factor=tenths / _STEPS)
        eased = replace(what, duration=back + _ESCAPED, troubles=(*what.troubles, drop))
        calls = [
            call for call in Simulation(eased, who, seed).run().calls if back <= call.at < back + _ESCAPED / 2
        ]
        if sum(call.outcome == "ok" for call in calls) >= 0.95 * len(calls):  # recovered
            return tenths / _STEPS
    return 0.0


def _subject(policy: object) -> Subject:
    if isinstance(policy, Subject):
        return policy
    if not isinstance(policy, str):
        given: Any = policy
        return subject(given)
    known = subjects()
    if policy not in known:
        raise LookupError(f"no subject is called {policy!r}; known: {', '.join(known)}")
    lacking = _missing(policy)
    if lacking is not None:
        raise ImportError(
            f"{policy} needs {lacking}, which is not installed; run: pip install 'holdfast[lab-peers]'",
            name=lacking,
        )
    return known[policy]


def _scenario(scenario: str | Scenario) -> Scenario:
    if isinstance(scenario, Scenario):
        return scenario
    known = scenarios()
    if scenario not in known:
        raise LookupError(f"no scenario is called {scenario!r}; known: {', '.join(known)}")
    return known[scenario]


def _series(trace: Trace, scenario: Scenario) -> Series:
    size = int(scenario.duration) + 1
    rows = [[0] * size for _ in range(4)]
    for call in trace.calls:
        second = int(call.at)
        rows[0][second] += 1
        rows[1][second] += call.outcome == "ok"
        rows[2][second] += call.outcome == "rejected"
    for at, _ in trace.attempts:
        rows[3][int(at)] += 1
    calls, good, rejected, attempts = (tuple(row[:-1]) for row in rows)
    return Series(
        calls,
        good,
        rejected,
        attempts,
        open=tuple(one for one, _ in trace.breakers),
        half_open=tuple(one for _, one in trace.breakers),
    )
