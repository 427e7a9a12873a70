"""Meters: how many calls of an operation began, ended and failed, and how long they took."""

from __future__ import annotations

from itertools import pairwise

from holdfast.infrastructure.resilience import _counts
from holdfast.infrastructure.resilience._frozen import Faults, Frozen, refuse_bare
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from holdfast.infrastructure.resilience._compile import Code

_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LONGEST = 1e9


class MeterSnapshot(Frozen):
    """A meter's totals since it was made. `calls` that ended = `successes` + `failures` + `rejected` + `cancelled`.

    `retries`: by ordinal (1: the first retry; 20: and later ones); `attempts`: calls and retries, not mixed with calls.
    `errors`: failures by the error's class, the rest `other`; `timeouts` are failures, `degraded` are successes.
    `durations`: for each upper bound in seconds (last: infinity) how many successes and failures ended within,
    cumulative; empty while durations are not measured. `seconds` is their sum.
    """

    __slots__ = (
        "attempts",
        "calls",
        "cancelled",
        "degraded",
        "durations",
        "errors",
        "failures",
        "name",
        "rejected",
        "retries",
        "running",
        "seconds",
        "successes",
        "timeouts",
    )

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
    ) -> None:
        self._set(name=name, calls=calls, running=running, successes=successes, failures=failures)
        self._set(rejected=rejected, cancelled=cancelled, degraded=degraded, timeouts=timeouts)
        self._set(attempts=attempts, retries=retries, errors=errors, durations=durations, seconds=seconds)

    __hash__ = None  # type: ignore[assignment]  # it holds mappings


class Meter(Policy):
    """Count what happens to the calls of an operation; outermost in a pipeline. All meters of a name count together.

    A call is a success, a failure, rejected by a policy here, or cancelled. A retry, and an answer of a fallback, count
    for the nearest meter around them. Functions decorated with `resilient(name)` have one already.
    """

    __slots__ = ("_clock", "_counts")

    def __init__(self, name: str, *, clock: Clock | None = None) -> None:
        given: object = name
        faults = Faults("Meter")
        faults.check(
            isinstance(given, str) and given, "name", name, "is no name", 'give text, for example "payments"'
        )
        source: object = clock
        faults.check(
            source is None or isinstance(source, Clock), "clock", clock, "is no Clock", "give one or None"
        )
        faults.finish()
        self._clock = clock
        self._counts = _counts.counts_of(name)

    @classmethod
    def _of(cls, counts: _counts.Counts) -> Meter:
        made = cls.__new__(cls)
        made._clock, made._counts = None, counts
        return made

    @property
    def name(self) -> str:
        """The operation's name."""
        name: str = self._counts.name
        return name

    def snapshot(self) -> MeterSnapshot:
        """Return the totals now."""
        return MeterSnapshot(**self._counts.totals())

    def reset(self) -> None:
        """Forget everything; calls that run now count when they end."""
        self._counts.reset()

    def __repr__(self) -> str:
        """Show the name."""
        return f"Meter({self.name!r})"

    def _shape(self) -> tuple[Any, ...]:
        return ("meter", _counts.PLAIN, self._clock is not None)

    def _bind(self) -> dict[str, Any]:
        bound: dict[str, Any] = {"m": self._counts}
        return bound if self._clock is None else {**bound, "now": self._clock.monotonic}

    def _emit(self, code: Code, at: int, inner: Callable[[], None]) -> None:
        now = "_now()" if self._clock is None else f"_now{at}()"
        code.line(f"_t{at} = None")
        with code.block("try:"):
            # The first thing in the block: an interrupt comes before this line or after it, and then the handler runs.
            code.line(f"_m{at}.started += 1.0" if _counts.PLAIN else f"_meter_begin(_m{at})")
            with code.block(f"if _m{at}.histogram is not None:"):
                code.line(f"_t{at} = {now}")
            inner()
        with code.block(f"except BaseException as _error{at}:"):
            code.line(f"_meter_failed(_m{at}, _error{at}, None if _t{at} is None else {now} - _t{at})")
            code.line("raise")
        code.line(f"_m{at}.successes += 1.0" if _counts.PLAIN else f"_meter_succeed(_m{at})")
        with code.block(f"if _t{at} is not None:"):
            code.line(f"_meter_timed(_m{at}, {now} - _t{at})")


def metered(name: str, *, clock: Clock | None = None) -> Meter:
    """Return the `Meter` of a name, to decorate with."""
    refuse_bare(name, '@metered("payments")')
    return Meter(name, clock=clock)


def meters() -> dict[str, Meter]:
    """Return the living meters by name: those of functions, pipelines and names in registries that exist."""
    return {name: Meter._of(counts) for name, counts in _counts.living().items()}


def measure_durations(*bounds: float) -> Callable[[], None]:
    """Let every meter measure how long calls take, in a histogram of these upper bounds; what is returned ends that.

    Exporters ask for it; without it a call costs its counters alone. Bounds are seconds, ascending; by default from
    1 ms to 60 s. Who asks for others at the same time gets those, too. ConfigurationError for bad bounds.
    """
    asked = _checked(bounds) if bounds else _BOUNDS
    left = [asked]
    _counts.asked.add(asked)

    def end() -> None:
        if left:
            _counts.asked.remove(left.pop())

    return end


def _checked(bounds: tuple[float, ...]) -> tuple[float, ...]:
    faults = Faults("measure_durations")
    for at, bound in enumerate(bounds):
        faults.number(f"bounds[{at}]", bound, 0, _LONGEST, above=True)
    faults.finish()
    ascending = all(low < high for low, high in pairwise(bounds))
    faults.check(ascending, "bounds", bounds, "is not in ascending order", "give each bound once, sorted")
    faults.finish()
    return tuple(map(float, bounds))
