"""Search the settings of a policy for what matters to you, and show between which of them you can choose."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from holdfast.infrastructure.resilience.policy import Policy
from holdfast.lab.scenarios import Scenario

Space: TypeAlias = Mapping[str, tuple[float, float] | Sequence[object]]

WEIGHTS: Mapping[str, float]
SPACE: Space
START: Mapping[str, object]

@dataclass(frozen=True, slots=True)
class Trial:
    """Settings that were tried: the mean of each weighted measure's cost (0: as good as can be), and their sum."""

    settings: Mapping[str, object]
    costs: Mapping[str, float]
    score: float

    def dominates(self, other: Trial) -> bool:
        """Return whether it is nowhere worse and somewhere better."""

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

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other one dominates, smallest weighted sum first: between them it is your choice."""

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

def tune(
    make: Callable[..., Policy] = ...,
    space: Space = ...,
    *,
    start: Mapping[str, object] | None = None,
    scenarios: Sequence[str | Scenario] = ("stall", "spike"),
    weights: Mapping[str, float] = ...,
    trials: int = 24,
    seeds: int = 1,
    seed: int = 0,
) -> Tuning:
    """Try `trials` settings of `make(**settings)` in every scenario; the same arguments give the same result.

    `space` gives for each setting two numbers, its lowest and highest (whole if both are), or a list of choices. The
    first trial is `start` (none: the defaults of `make`), the first half of the others is drawn at random by `seed`,
    the rest varies what is best so far. `seeds` runs each, as `run`. ConfigurationError with every fault.
    """
