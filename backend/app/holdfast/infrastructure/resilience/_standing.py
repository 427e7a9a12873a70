"""The state of a concurrency limit that waits until answers stand in a queue."""

from __future__ import annotations

from math import inf

from holdfast.infrastructure.resilience._breaker import _locks
from holdfast.infrastructure.resilience._limits import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Answers until it is known what is slow; the most that one answer after a long silence weighs; as in RFC 6298.
_WARM_UP = 30
_HEAVIEST = 0.1
_DEVIATIONS = 4.0
# Seconds; what takes less may be this process's own fault: its collector, its loop, its share of the processor.
_LEAST = 0.1
# A first sign may be chance: it leaves room for half as many calls as there are, and for so many at least.
_SPARE = 3


class Pace:
    """What answers usually take: their mean and mean deviation over `memory` seconds, and from when on one is slow."""

    __slots__ = ("_deviation", "_mean", "_memory", "_number", "_tolerance", "_when", "slow")

    def __init__(self, memory: float, tolerance: float) -> None:
        self._memory = memory
        self._tolerance = tolerance
        self._number = 0
        self._mean = self._deviation = self._when = 0.0
        self.slow = inf

    def learn(self, now: float, took: float) -> None:
        """Take an answer in."""
        self._number += 1
        first = self._number <= _WARM_UP
        # Threads may come a little out of order.
        share = 1 / self._number if first else max(0.0, min(_HEAVIEST, (now - self._when) / self._memory))
        self._when = now
        # What is slow counts as just that, lest a queue be taken for normal while it grows.
        took = min(took, self.slow)
        if self._number > 1:
            self._deviation += share * (abs(took - self._mean) - self._deviation)
        self._mean += share * (took - self._mean)
        if self._number >= _WARM_UP:
            self.slow = max(_LEAST, self._tolerance * self._mean, self._mean + _DEVIATIONS * self._deviation)


class Standing(State):
    """The state for a `StandingQueue`: `first` without a sign, when a call that is alone says nothing.

    `late` counts calls in succession that ended without a quick answer, `begun` those that began since one, the first
    of them at `silent`; no answer was quick since `since`, where there is a doubt.
    """

    __slots__ = ("admitted", "begun", "good", "late", "pace", "signed", "silent", "since", "spec")

    def _start(self) -> None:
        spec: Any = self.config.algorithm
        self.spec = spec
        self.rejected = 0
        self.pace = Pace(spec.memory, spec.tolerance)
        self.admitted = -inf
        self.silent = inf
        self.limit = self.first
        self._lift()

    def _lift(self) -> tuple[int, int]:
        old, self.limit = self.limit, self.first
        self.least = 2
        self.signed: float | None = None
        self._begin()
        return old, self.limit

    def _begin(self) -> None:
        self.generation += 1
        self.good = 0
        self._answered()

    def _answered(self) -> None:
        """Note that an answer was quick: whatever there was, it is no queue."""
        self.late = self.begun = 0
        self.since: float | None = None

    def entered(self, running: int, room: int) -> tuple[float | None, tuple[int, int] | None]:
        """Take in a call that is one of so many in flight: return when (None: refused), and a change of the limit."""
        now, begun = self.now(), self.begun + 1
        # Without the lock: what two calls at the same instant lose of each other is one call in a count.
        if begun == 1:
            self.silent = now
        self.begun = begun
        silent = begun >= self.spec.calls and now - self.silent > self.pace.slow
        if running <= room and not silent:
            self.admitted = now
            return now, None
        with _locks[self.place]:
            change = self._silent(now, running - 1) if silent else None
            if change is not None:
                room = min(room, self.limit)
            if running > room and self.signed is not None and now - self.signed > self.spec.lift:
                change, room = self._lift(), self.first
            if running > room and not self._probes(now):
                # It asks nothing, and is not one that waits.
                self.begun = max(0, self.begun - 1)
                return None, change
            self.admitted = now
        return now, change

    def _probes(self, now: float) -> bool:
        """Return whether it is time for a call beyond the limit: those within it may never end."""
        return self.signed is not None and now - self.admitted >= self.spec.probe

    def passed(self, started: float, generation: int, running: int) -> tuple[int, int] | None:
        """Take the latency of a call that succeeded; return the old and the new limit if it changed."""
        now = self.now()
        took, most = now - started, self.config.max_healthy_latency
        if most is not None and took > most:
            return self._dropped(now, generation)
        pace = self.pace
        if self.signed is None and generation == self.generation and took <= pace.slow:
            pace.learn(now, took)
            self.late = self.begun = 0
            self.since = None
            return None
        with _locks[self.place]:
            slow = took > self.pace.slow
            self.pace.learn(now, took)
            if generation != self.generation:
                return None
            if not slow:
                self._answered()
                return None if self.signed is None else self._grow(now, self.signed, running)
            self._count(now)
            return self._doubt(now, len(self.out) + 1) if self.late >= self.spec.calls else None

    def drop(self, generation: int) -> tuple[int, int] | None:
        """Take notice of a drop; return the old and the new limit if it changed."""
        return self._dropped(self.now(), generation)

    def left(self, generation: int, *, answered: bool) -> None:
        """Take notice that a call ended in a way that says nothing about delay; there is one less that waits."""
        with _locks[self.place]:
            if generation == self.generation and self.begun:
                self.begun = 0 if answered else self.begun - 1

    def _dropped(self, now: float, generation: int) -> tuple[int, int] | None:
        with _locks[self.place]:
            if generation != self.generation:
                return None
            self._count(now)
            return self._sign(now, len(self.out) + 1) if self.late >= self.spec.calls else None

    def _count(self, now: float) -> None:
        """Count a call that ended without a quick answer; what is long ago is forgotten."""
        if self.since is None or now - self.since > self.spec.lift:
            self.since, self.late = now, 0
        self.late += 1

    def _doubt(self, now: float, running: int) -> tuple[int, int] | None:
        """Take a doubt for a sign if it has lasted: a process that stood still itself gets its answers all at once."""
        if self.since is None:
            self.since = now
        return self._sign(now, running) if now - self.since >= self.pace.slow else None

    def _silent(self, now: float, running: int) -> tuple[int, int] | None:
        """Doubt what does not answer; after a first sign it fills the room that was left, which leaves no doubt."""
        return self._doubt(now, running) if self.signed is None else self._sign(now, running)

    def _sign(self, now: float, running: int) -> tuple[int, int] | None:
        old, least = self.limit, self.config.min_limit
        if self.signed is None:
            self.limit = min(old, max(least, running + max(_SPARE, running // 2)))
        else:
            self.limit = max(least, int(min(old, running) * self.spec.backoff))
        self.least = 1
        self.signed = now
        self._begin()
        return None if self.limit == old else (old, self.limit)

    def _grow(self, now: float, signed: float, running: int) -> tuple[int, int] | None:
        """Add 1 after as many quick answers as the limit; what was answered quickly is possible anyway."""
        if now - signed > self.spec.lift:
            return self._lift()
        old = self.limit
        self.limit = max(old, running)
        if 2 * running >= self.limit:
            self.good += 1
        if self.good >= self.limit:
            self.good = 0
            self.limit += 1
        if self.limit >= self.first:
            self._lift()
        return None if self.limit == old else (old, self.limit)
