"""Meters: how many calls of an operation began, ended and failed, and how long they took."""

from collections.abc import Callable, Mapping

from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy

class MeterSnapshot:
    """A meter's totals since it was made. `calls` that ended = `successes` + `failures` + `rejected` + `cancelled`.

    `retries`: by ordinal (1: the first retry; 20: and later ones); `attempts`: calls and retries, not mixed with calls.
    `errors`: failures by the error's class, the rest `other`; `timeouts` are failures, `degraded` are successes.
    `durations`: for each upper bound in seconds (last: infinity) how many successes and failures ended within,
    cumulative; empty while durations are not measured. `seconds` is their sum.
    """

    name: str
    calls: int
    running: int
    successes: int
    failures: int
    rejected: int
    cancelled: int
    degraded: int
    timeouts: int
    attempts: int
    retries: Mapping[int, int]
    errors: Mapping[str, int]
    durations: Mapping[float, int]
    seconds: float
    def __init__(
        self,
        *,
        name: str,
        calls: int,
        running: int,
        successes: int,
        failures: int,
        rejected: int,
        cancelled: int,
        degraded: int,
        timeouts: int,
        attempts: int,
        retries: Mapping[int, int],
        errors: Mapping[str, int],
        durations: Mapping[float, int],
        seconds: float,
    ) -> None: ...

class Meter(Policy):
    """Count what happens to the calls of an operation; outermost in a pipeline. All meters of a name count together.

    A call is a success, a failure, rejected by a policy here, or cancelled. A retry, and an answer of a fallback, count
    for the nearest meter around them. Functions decorated with `resilient(name)` have one already.
    """

    def __init__(self, name: str, *, clock: Clock | None = None) -> None: ...
    @property
    def name(self) -> str:
        """The operation's name."""

    def snapshot(self) -> MeterSnapshot:
        """Return the totals now."""

    def reset(self) -> None:
        """Forget everything; calls that run now count when they end."""

def metered(name: str, *, clock: Clock | None = None) -> Meter:
    """Return the `Meter` of a name, to decorate with."""

def meters() -> dict[str, Meter]:
    """Return the living meters by name: those of functions, pipelines and names in registries that exist."""

def measure_durations(*bounds: float) -> Callable[[], None]:
    """Let every meter measure how long calls take, in a histogram of these upper bounds; what is returned ends that.

    Exporters ask for it; without it a call costs its counters alone. Bounds are seconds, ascending; by default from
    1 ms to 60 s. Who asks for others at the same time gets those, too. ConfigurationError for bad bounds.
    """
