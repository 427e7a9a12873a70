"""What a run is judged by, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """The measures of one run, mostly while the fault lasts; the reference page defines each.

    Shares (goodput, wasted, false_rejections, fairness) go from 0 to 1; amplification, peak and load are attempts per
    call; recovery, opened and the times of successful calls (mean, p50, p99, p999) are seconds, infinite for never.
    """

    goodput_before: float
    goodput: float
    goodput_after: float
    amplification: float
    peak: float
    load: float
    recovery: float
    wasted: float
    false_rejections: float
    opened: float
    probes: float
    fairness: float
    mean: float
    p50: float
    p99: float
    p999: float

    @property
    def metastable(self) -> bool:
        """Whether the trouble stayed when its cause was gone."""

@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and the 95 % interval of it that a bootstrap over the seeds gives."""

    mean: float
    low: float
    high: float

NAMES: tuple[str, ...]

def bootstrap(values: Sequence[float]) -> Interval:
    """Return the mean of `values`, one per seed, and its 95 % percentile interval; the same for the same values.

    Differences of two policies on the same seeds give the paired interval. An infinite value makes the mean infinite.
    ValueError without values.
    """
