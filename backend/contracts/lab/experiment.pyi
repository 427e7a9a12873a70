"""Run policies through scenarios, and compare them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from holdfast.infrastructure.resilience.policy import Policy
from holdfast.lab.measures import Interval, Measures
from holdfast.lab.scenarios import Scenario
from holdfast.lab.subjects import Subject

SEEDS: int = 30

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

    def interval(self, name: str) -> Interval:
        """Return the mean of a measure and its 95 % interval."""

    def recovers_within(self, seconds: float) -> bool:
        """Return whether 95 % of the goodput is back so soon after the fault, in every seed."""

    def amplifies_at_most(self, factor: float) -> bool:
        """Return whether the dependency gets at most so many attempts per call during the fault, in every seed."""

    def goodput_at_least(self, share: float) -> bool:
        """Return whether so many calls succeed while the fault lasts, in every seed."""

    @property
    def verdict(self) -> str:
        """What happened, in words."""

@dataclass(frozen=True, slots=True)
class Comparison:
    """Several policies in one scenario, on the same seeds; the first is what the others are compared with."""

    runs: tuple[Run, ...]

    def difference(self, policy: str, name: str) -> Interval:
        """Return by how much a measure of `policy` is above the first's, paired by seed. KeyError for an unknown one.

        Where both never recover they do not differ.
        """

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

def compare(
    policies: Sequence[str | Subject | Policy | Callable[[], Policy]],
    scenario: str | Scenario = "stall",
    *,
    seeds: int | Iterable[int] = SEEDS,
) -> Comparison:
    """Run several policies through one scenario on the same seeds. Errors as of `run`; ValueError without policies."""

def escape_load(
    policy: str | Subject | Policy | Callable[[], Policy],
    scenario: str | Scenario = "stall",
    *,
    seed: int = 0,
) -> float:
    """Return to what share the load must drop, for 60 s from 20 s after the fault, for calls to succeed again.

    1: no drop is needed; 0: a tenth of the load is still too much. In tenths. Errors as of `run`.
    """
