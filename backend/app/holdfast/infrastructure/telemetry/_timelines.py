"""The states that breakers went through, from events, so that none is lost between two looks."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from holdfast.infrastructure.resilience.events import (
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    CircuitOverridden,
)
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.telemetry._deltas import OTHER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.infrastructure.resilience.events import Event

KINDS = (CircuitOpened, CircuitHalfOpened, CircuitClosed, CircuitOverridden)
TROUBLED = frozenset({CircuitState.OPEN, CircuitState.HALF_OPEN})
# Of several breakers of one name the state that matters most is shown.
WEIGHT = [
    CircuitState.CLOSED,
    CircuitState.DISABLED,
    CircuitState.SHADOW,
    CircuitState.ISOLATED,
    CircuitState.HALF_OPEN,
    CircuitState.OPEN,
]
_CHANGES = 200
# What opened and closed at one reading of the clock was open nevertheless.
_LEAST = 1e-6
# A breaker that nobody lists and nobody hears of for so many seconds is taken for gone.
_SILENT = 600.0


class Since(NamedTuple):
    """A state, and when it began: on the monotonic clock, and as Unix time."""

    at: float
    time: float
    state: str


class Timeline:
    """One breaker's states, and since when it lets nothing or only probes through."""

    __slots__ = ("changes", "heard", "listed", "opened", "peak", "states")

    def __init__(self) -> None:
        self.states: deque[Since] = deque(maxlen=_CHANGES)
        self.opened: float | None = None
        self.peak = 0.0
        self.changes = 0
        self.heard = 0.0
        self.listed = False

    def become(self, state: str, now: float, time: float) -> None:
        """Note a state that begins now."""
        self.changes += 1
        self.heard = now
        if not self.states or self.states[-1].state != state:
            self.states.append(Since(now, time, state))
        if state in TROUBLED:
            self.opened = now if self.opened is None else self.opened
        elif self.opened is not None:
            self.peak = max(self.peak, now - self.opened, _LEAST)
            self.opened = None

    def open_seconds(self, now: float) -> float:
        """Return the longest time that it was open since the last look, half-open included; look."""
        still = 0.0 if self.opened is None else max(now - self.opened, _LEAST)
        peak, self.peak = max(self.peak, still), 0.0
        return peak


def state_of(event: Event) -> str | None:
    """Return the state that an event tells of; None for a breaker in shadow mode, which only would have opened."""
    if isinstance(event, CircuitOpened):
        return None if event.shadow else CircuitState.OPEN.value
    if isinstance(event, CircuitOverridden):
        return event.state
    return (CircuitState.HALF_OPEN if isinstance(event, CircuitHalfOpened) else CircuitState.CLOSED).value


class Timelines:
    """The breakers that matter, `most` at once: when there are more, closed ones are forgotten first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: dict[str, Timeline] = {}

    def become(self, name: str, state: str, now: float, time: float) -> None:
        """Note that a breaker changed its state."""
        line = self._lines.get(name) or self._place(name)
        if line is not None:
            line.become(state, now, time)

    def versions(self) -> dict[str, int]:
        """Return how often each breaker changed, to give to `reconcile`."""
        return {name: line.changes for name, line in self._lines.items()}

    def reconcile(
        self, listed: Mapping[str, str], versions: Mapping[str, int], now: float, time: float
    ) -> None:
        """Correct what events did not tell: `listed` are states that were read after `versions`."""
        for name, state in listed.items():
            self._correct(name, state, versions.get(name, 0), now, time)
        for name in [name for name, line in self._lines.items() if self._is_gone(name, line, listed, now)]:
            del self._lines[name]
        self._sum_up(listed, now, time)

    def _sum_up(self, listed: Mapping[str, str], now: float, time: float) -> None:
        """Let `other` be open while any breaker is that found no place."""
        if any(state in TROUBLED and name not in self._lines for name, state in listed.items()):
            self._lines.setdefault(OTHER, Timeline()).become(CircuitState.OPEN.value, now, time)
        elif OTHER not in listed:
            self._lines.pop(OTHER, None)

    def _correct(self, name: str, state: str, version: int, now: float, time: float) -> None:
        line = self._lines.get(name)
        if line is None and (state != CircuitState.CLOSED or len(self._lines) < self._most):
            line = self._place(name)
        if line is None:
            return
        line.listed, line.heard = True, now
        # If it changed while the states were read, the event knows better.
        if line.changes == version and (not line.states or line.states[-1].state != state):
            line.become(state, now, time)

    def _is_gone(self, name: str, line: Timeline, listed: Mapping[str, str], now: float) -> bool:
        if name in listed or name == OTHER or line.peak:
            return False
        return line.listed or now - line.heard > _SILENT

    def _place(self, name: str) -> Timeline | None:
        if len(self._lines) >= self._most:
            closed = [one for one, line in self._lines.items() if line.opened is None and not line.peak]
            if not closed:
                return None
            del self._lines[min(closed, key=lambda one: self._lines[one].heard)]
        line = self._lines[name] = Timeline()
        return line

    def open_seconds(self, now: float) -> dict[str, float]:
        """Return, for each breaker, how long it was open since the last look."""
        return {name: line.open_seconds(now) for name, line in self._lines.items()}

    def states(self, name: str, since: float) -> list[tuple[float, str]]:
        """Return the states of a breaker after `since`, the one that it was in then included."""
        line = self._lines.get(name)
        found = [] if line is None else list(line.states)
        first = max((at for at, state in enumerate(found) if state.at <= since), default=0)
        return [(state.time, state.state) for state in found[first:]]

    def names(self) -> list[str]:
        """Return the breakers that are known, sorted."""
        return sorted(self._lines)
