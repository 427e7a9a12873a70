"""The running windows behind `Window`.

Generated code counts a success in one attribute, without a lock; everything else happens under the breaker's lock and
first takes over (`absorb`) the successes counted since. Two threads that count at the same moment may lose a
success, which is noise in a rate; failures are never lost, and totals cannot drift.
"""

from __future__ import annotations

from array import array
from collections import deque

from holdfast.infrastructure.resilience.window import WindowCounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast.infrastructure.resilience.window import Window


class ConsecutiveWindow:
    """Failures since the last success. `ok`: a success came since the last failure."""

    __slots__ = ("failures", "ok")

    def __init__(self) -> None:
        self.ok = False
        self.failures = 0

    def rotate(self, now: float) -> None:
        """Take over what was counted without the lock."""
        if self.ok:
            self.ok = False
            self.failures = 0

    def add_successes(self, calls: int) -> None:
        """Count successes."""
        if calls > 0:
            self.ok = True

    def add(self, *, calls: int = 0, failures: int = 0, slow: int = 0) -> None:
        """Count calls that ended, of which `failures` failed and `slow` were slow."""
        self.rotate(0.0)
        self.failures = self.failures + calls if failures or slow else 0

    def mark(self) -> float:
        """Return what `fail` needs to find the calls added last."""
        return 0.0

    def fail(self, mark: float) -> None:
        """Count the failure of a call that counted as slow while it ran: a slow one is as bad here."""

    def counts(self) -> WindowCounts:
        """Return the failures in a row, as if they were all the calls there are."""
        failures = 0 if self.ok else self.failures
        return WindowCounts(failures, failures, 0)


class CallsWindow:
    """The last `size` calls as bits, newest lowest. `room`: successes to count until the window is full of them."""

    __slots__ = ("failed", "filled", "mask", "room", "seen", "size", "slow")

    def __init__(self, size: int) -> None:
        self.size = self.room = size
        self.mask = (1 << size) - 1
        self.failed = self.slow = self.filled = self.seen = 0

    def rotate(self, now: float) -> None:
        """Take over what was counted without the lock."""
        successes, self.room = self.size - self.room, self.size
        if successes > 0:
            self._shift(successes)

    def add_successes(self, calls: int) -> None:
        """Count successes."""
        self.room = max(0, self.room - calls)

    def add(self, *, calls: int = 0, failures: int = 0, slow: int = 0) -> None:
        """Count calls that ended, of which `failures` failed and `slow` were slow."""
        self.rotate(0.0)
        self._shift(calls)
        self.failed |= ((1 << failures) - 1) & self.mask
        self.slow |= ((1 << slow) - 1) & self.mask

    def mark(self) -> float:
        """Return what `fail` needs to find the calls added last."""
        return self.seen

    def fail(self, mark: float) -> None:
        """Count the failure of a call that counted as slow while it ran: in its place, if it still has one."""
        self.rotate(0.0)
        behind = min(self.seen - int(mark), self.size)
        newer = self.failed >> behind
        place = (~newer & (newer + 1)) << behind
        if place.bit_length() <= self.filled:
            self.failed |= place
        else:
            self.add(calls=1, failures=1, slow=1)

    def _shift(self, calls: int) -> None:
        self.seen += calls
        calls = min(calls, self.size)
        self.failed = (self.failed << calls) & self.mask
        self.slow = (self.slow << calls) & self.mask
        self.filled = min(self.size, self.filled + calls)

    def counts(self) -> WindowCounts:
        """Return what the window holds."""
        self.rotate(0.0)
        return WindowCounts(self.filled, self.failed.bit_count(), self.slow.bit_count())


_WITH_SLOW = 3


class SecondsWindow:
    """Buckets of equal width in a ring, with running totals. `ok`: successes in the current bucket; `edge`: its end.

    A bucket is two numbers of the ring, or three where slow calls are counted too.
    """

    __slots__ = ("_calls", "_failures", "_head", "_ring", "_slow", "_spec", "edge", "ok")

    def __init__(self, spec: Window, now: float, *, slow: bool) -> None:
        self._spec = spec
        self._ring = array("I", (0,)) * ((_WITH_SLOW if slow else 2) * spec.buckets)
        self._calls = self._failures = self._slow = 0
        self._head = 0
        self.ok = 0
        self.edge = now + spec.size / spec.buckets

    def rotate(self, now: float) -> None:
        """Take over what was counted without the lock, and leave the buckets that are too old."""
        if self.ok:
            successes, self.ok = self.ok, 0
            self.add(calls=successes)
        if now >= self.edge:
            width = self._spec.size / self._spec.buckets
            steps = 1 + int((now - self.edge) / width)
            self._turn(steps)
            self.edge += steps * width
        elif now < self.edge - self._spec.size:
            # Another clock took over: what was counted has no age on it.
            self._turn(self._spec.buckets)
            self.edge = now + self._spec.size / self._spec.buckets

    def _turn(self, steps: int) -> None:
        ring, buckets = self._ring, self._spec.buckets
        fields = len(ring) // buckets
        for _ in range(min(steps, buckets)):
            self._head = (self._head + fields) % len(ring)
            self._calls -= ring[self._head]
            self._failures -= ring[self._head + 1]
            if fields == _WITH_SLOW:
                self._slow -= ring[self._head + 2]
            ring[self._head : self._head + fields] = array("I", bytes(4 * fields))

    def add_successes(self, calls: int) -> None:
        """Count successes."""
        self.ok += max(0, calls)

    def add(self, *, calls: int = 0, failures: int = 0, slow: int = 0) -> None:
        """Count calls that ended, of which `failures` failed and `slow` were slow."""
        ring, at = self._ring, self._head
        # The call of a late failure may have left the window already, as slow: then it counts again.
        calls = max(calls, self._failures + failures - self._calls)
        ring[at] += calls
        ring[at + 1] += failures
        self._calls += calls
        self._failures += failures
        if slow:
            ring[at + 2] += slow
            self._slow += slow

    def mark(self) -> float:
        """Return what `fail` needs to find the calls added last."""
        return self.edge

    def fail(self, mark: float) -> None:
        """Count the failure of a call that counted as slow while it ran: from now on, and no longer from then."""
        ring, fields = self._ring, len(self._ring) // self._spec.buckets
        age = round((self.edge - mark) * self._spec.buckets / self._spec.size)
        at = (self._head - age * fields) % len(ring)
        # Not where the call has left the window, or another clock took over meanwhile.
        if 0 <= age < self._spec.buckets and ring[at] and ring[at + 2]:
            ring[at] -= 1
            ring[at + 2] -= 1
            self._calls -= 1
            self._slow -= 1
        self.add(calls=1, failures=1, slow=1)

    def counts(self) -> WindowCounts:
        """Return what the window holds; rotate first."""
        return WindowCounts(self._calls + self.ok, self._failures, self._slow)


RunningWindow = ConsecutiveWindow | CallsWindow | SecondsWindow


def run(window: Window, now: float, *, slow: bool) -> RunningWindow:
    """Return an empty running window, which counts slow calls too if `slow`."""
    if window.kind == "seconds":
        return SecondsWindow(window, now, slow=slow)
    if window.kind == "calls":
        return CallsWindow(int(window.size))
    return ConsecutiveWindow()


class Slot:
    """A short stretch of time in which calls were admitted to a breaker that minds slow calls.

    `n` calls were admitted, the last one at `last`; `ok` of them ended in time without the lock, `late` with it;
    `taken`
    of the former are in the window already. `edge` comes no later than a call of this slot can be slow, so that
    a call that ends before it needs no closer look. `counted`: the window's mark of those that had not ended when
    they became slow, once they count.
    """

    __slots__ = ("counted", "edge", "last", "late", "n", "ok", "taken", "window")

    def __init__(self, window: RunningWindow, now: float, edge: float) -> None:
        self.window = window
        self.edge = edge
        self.last = now
        self.n = self.ok = self.late = self.taken = 0
        self.counted: float | None = None

    @property
    def running(self) -> int:
        """Calls of this slot that have not ended."""
        return self.n - self.ok - self.late


class SlowWatch:
    """The slots of one generation: finds calls that are slow while they still run."""

    __slots__ = ("aging", "current", "duration", "width", "window")

    def __init__(self, window: RunningWindow, duration: float, now: float) -> None:
        self.window = window
        self.duration = duration
        self.width = duration / 4
        self.aging: deque[Slot] = deque()
        self.current = self._new(now)

    def _new(self, now: float) -> Slot:
        edge = now + self.width
        bound = getattr(self.window, "edge", edge)
        return Slot(self.window, now, min(edge, bound))

    def advance(self, now: float) -> None:
        """Take over fast successes, start a new slot if it is time, and count what became slow while running."""
        self.take(self.current)
        self.window.rotate(now)
        if now >= self.current.edge:
            if self.current.running > 0:
                self.aging.append(self.current)
            self.current = self._new(now)
        self._count_running(now)

    def take(self, slot: Slot) -> None:
        """Move successes that were counted without the lock into the window."""
        ended = slot.ok
        if ended > slot.taken:
            self.window.add_successes(ended - slot.taken)
            slot.taken = ended

    def _count_running(self, now: float) -> None:
        while self.aging and self.aging[0].last + self.duration <= now:
            slot = self.aging.popleft()
            self.take(slot)
            if slot.running > 0:
                self.window.add(calls=slot.running, slow=slot.running)
                slot.counted = self.window.mark()
