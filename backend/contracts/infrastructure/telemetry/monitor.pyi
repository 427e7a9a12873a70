"""Monitoring: figures over time, from meters and events, and alerts when a threshold is passed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.registry import Registry

MEASURES: Mapping[str, str]

@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """When an alert fires: `measure` of a subject is above (`below`: under) `value` for `lasting` seconds.

    Measures of calls and counts look back `over` seconds, and need `min_calls` that were not cancelled; others are as
    they are now. `MEASURES` says what there is. The alert ends with the first sample that does not pass, or knows
    nothing. ConfigurationError with every fault.
    """

    name: str
    measure: str
    value: float
    below: bool = False
    over: float = 60.0
    lasting: float = 0.0
    severity: str = "warning"
    min_calls: int = 0
    def __post_init__(self) -> None: ...

@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A threshold that is passed, or was: by which operation or policy, since when and until when (Unix times).

    `measured` is the worst value so far. An alert that goes on and one that has ended have the same number.
    """

    number: int
    threshold: str
    severity: str
    subject: str
    measured: float
    limit: float
    since: float
    until: float | None
    message: str
    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""

@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an operation did within `seconds`: calls, rates 0 to 1, latency percentiles in seconds (None: unknown).

    Degraded calls are successes that a fallback answered. The retry rate is a share of all attempts, the others are
    shares of all calls but cancelled ones. Percentiles are interpolated in buckets, at most 60 s.
    """

    operation: str
    seconds: float
    calls: int
    successes: int
    failures: int
    rejections: int
    cancelled: int
    degraded: int
    calls_per_second: float
    success_rate: float | None
    failure_rate: float | None
    rejection_rate: float | None
    degraded_rate: float | None
    retry_rate: float | None
    retries: Mapping[int, int]
    p50: float | None
    p95: float | None
    p99: float | None
    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""

THRESHOLDS: tuple[Threshold, ...]

class Monitor:
    """Sample the meters every `interval` seconds and keep `keep` samples: by default every 10 s for an hour.

    `start` samples in a daemon thread; `sample` does it by hand. Memory is bounded: beyond `max_operations` operations,
    breakers or limits the rest is summed as `other`. Breakers are followed by their events, so that no opening between
    samples is lost. Close it: it listens to events, and lets calls be timed, until nobody refers to it any more. Safe
    to share between threads; a forked child begins anew, without the thread.
    """

    def __init__(
        self,
        registry: Registry = ...,
        *,
        interval: float = 10.0,
        keep: int = 360,
        thresholds: Sequence[Threshold] = ...,
        max_operations: int = 200,
        clock: Clock | None = None,
    ) -> None: ...
    @property
    def thresholds(self) -> tuple[Threshold, ...]:
        """The thresholds that it judges."""

    def start(self) -> None:
        """Begin to sample; a second time does nothing. RuntimeError when it is closed."""

    def close(self) -> None:
        """Stop sampling and listening; what is known can still be read."""

    def sample(self) -> None:
        """Take one sample now, judge the thresholds, and call back for each alert that begins or ends."""

    def usage(self, *, seconds: float = 300.0) -> list[Usage]:
        """Return what each operation did, by name, as far as it was sampled in the last `seconds`."""

    def trends(
        self, operation: str | None = None, *, seconds: float = 3600.0, points: int = 60
    ) -> list[Mapping[str, Any]]:
        """Return figures over time, oldest first: `at`, calls, successes, failures, rejections and so on.

        Each point ends `at` (Unix time) and covers `seconds`; where there are no samples there is no point. Of all
        operations together if none is given; nothing for one that is not known.
        """

    def states(self, breaker: str, *, seconds: float = 3600.0) -> list[tuple[float, str]]:
        """Return a breaker's states: since when (Unix time), and which; oldest first, 200 at most.

        The first may have begun before. Nothing for a breaker that is not known.
        """

    def levels(self, *, seconds: float = 3600.0, points: int = 60) -> list[Mapping[str, Any]]:
        """Return how full limits were, by `kind` and `name`, 0 to 1; of a retry budget, its tokens.

        `level` is that of the last sample, `lowest` and `highest` are of all, `points` pairs of Unix time and the worst
        level since the point before.
        """

    def alerts(self, *, active: bool | None = None, limit: int = 100) -> list[Alert]:
        """Return alerts, newest first; `active` keeps those that are passed now, or no longer (the last 1,000)."""

    def subscribe(self, callback: Callable[[Alert], object]) -> Callable[[], None]:
        """Call `callback` when an alert begins and when it ends; what is returned ends that.

        It is called in the thread that samples. If it raises, that is logged once. ConfigurationError for no function.
        """

    def export(self, format: str = "json", *, seconds: float = 3600.0) -> str:  # noqa: A002
        """Return everything as JSON or CSV text; ValueError for another format.

        A cell that a spreadsheet might take for a formula begins with an apostrophe.
        """
