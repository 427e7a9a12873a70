"""The generic cell rate algorithm, and the line of those who wait for it: decides under its lock, acts outside it.

Generated code admits without the lock where nobody waits. CPython switches threads and handles signals only at calls
and jumps back, so `if tat - now <= reach: tat = …` cannot be torn apart. Whoever holds the lock must therefore expect
`tat` to move while it thinks: it sets it only if it is still the one that the decision was made on.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from itertools import islice
from math import inf

from holdfast.infrastructure.resilience._ambient import ambient, hot
from holdfast.infrastructure.resilience._bus import bus, emit
from holdfast.infrastructure.resilience._compile import GIL
from holdfast.infrastructure.resilience._frozen import refuse_copy
from holdfast.infrastructure.resilience.deadline import remaining
from holdfast.infrastructure.resilience.errors import RateLimitedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Hashable
    from typing import Any, NoReturn

    from holdfast.infrastructure.resilience.clock import Clock
    from holdfast.infrastructure.resilience.rate_limit import RateLimitConfig

# Whether a call may be admitted without the lock.
PLAIN: bool = GIL and sys.implementation.name == "cpython"

# A theoretical arrival time that has passed since ever, and one that nobody can meet: while a line forms.
NEVER, SHUT = -inf, inf
# What counts as rounding: of an interval, at most of a second.
_ROUNDING = 1e-6
# Seconds after which the first of a line looks whether the limit was changed.
_NAP = 1.0
# Seconds after which whoever does not come for its turn (its event loop is stopped or busy) loses its place.
_GRACE = 2.0
# When a family is full, this share of its keys makes room at once, so that a new key costs the same however many.
_SHARE = 16
_SAMPLE = 512

# Reentrant: the garbage collector may close an abandoned coroutine that waits, at any line that holds one. Generated
# code holds on to the lock itself, so that the child of a fork gets it made new in its place.
_LOCKS = 31
_locks: tuple[Any, ...] = tuple(threading.RLock() for _ in range(_LOCKS))
_busy: set[Gate] = set()


def _part() -> None:
    """Part from the parent process: its threads hold no lock and stand in no line here."""
    for lock in _locks:
        lock._at_fork_reinit()
    for gate in [*_busy]:
        gate.dissolve()
    _busy.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_part)


def rounding(interval: float) -> float:
    """Return how many seconds too early a call may come: what the arithmetic of floats may be wrong by."""
    return min(interval, 1.0) * _ROUNDING


def decide(tat: float, now: float, interval: float, tolerance: float) -> tuple[float, float]:
    """Return the theoretical arrival time after one more call, and the seconds until that call conforms.

    Source: ITU-T I.371, generic cell rate algorithm, virtual scheduling. `interval`: seconds between calls at the
    rate; `tolerance`: how many seconds a call may come before its theoretical arrival time, (burst - 1) intervals.
    """
    start = max(tat, now)
    early = start - now
    # Generated code compares the same two numbers.
    return start + interval, early - tolerance if early > tolerance + rounding(interval) else 0.0


class Line:
    """Those who wait at a gate for one key, in order, `since` when the first one is, and the key's arrival time."""

    __slots__ = ("key", "queue", "since", "tat")

    def __init__(self, key: Hashable, tat: float, now: float) -> None:
        self.key = key
        self.tat = tat
        self.since = now
        self.queue: OrderedDict[Waiter, None] = OrderedDict()


class Waiter:
    """One call that waits, in `line` while it does, since `begun`; if it does not lead, it looks at `until`."""

    __slots__ = ("begun", "leads", "line", "until", "waited")

    line: Line | None
    begun: float
    until: float
    waited: float

    def __init__(self) -> None:
        self.line = None
        self.leads = False

    @property
    def fate(self) -> object:
        """What this cannot go on without; whoever shares it is as late as this."""
        return self

    def prepare(self) -> None:
        """Get ready to be woken."""

    def wake(self) -> bool:
        """Say that it is first now; return whether it can still be told."""
        raise NotImplementedError


class ThreadWaiter(Waiter):
    """A thread that waits."""

    __slots__ = ("event",)

    event: threading.Event

    def prepare(self) -> None:
        """Get ready to be woken."""
        self.event = threading.Event()

    def wake(self) -> bool:
        """Set the event."""
        self.event.set()
        return True

    def pause(self, clock: Clock, seconds: float) -> None:
        """Wait for the turn that comes in `seconds`, or to be first, or until whoever is first is late."""
        if self.leads:
            clock.sleep(min(seconds, _NAP))
        elif clock.wait(self.event, seconds):
            self.event.clear()


class TaskWaiter(Waiter):
    """A task that waits."""

    __slots__ = ("called", "future", "loop")

    def __init__(self, loop: AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self.future: Future[None] | None = None

    @property
    def fate(self) -> object:
        """The event loop."""
        return self.loop

    def prepare(self) -> None:
        """Get ready to be woken."""
        self.called = False

    def wake(self) -> bool:
        """Call the task in its loop, which may be this one, run in another thread, or be closed."""
        import asyncio

        if asyncio._get_running_loop() is self.loop:
            self.call()
            return True
        try:
            self.loop.call_soon_threadsafe(self.call)
        except RuntimeError:
            return False
        return True

    def call(self) -> None:
        """Let the task look, if it does not already."""
        self.called = True
        self.expire()

    def expire(self) -> None:
        """End the pause."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    async def pause(self, clock: Clock, seconds: float) -> None:
        """Do as a thread does."""
        if self.leads:
            await clock.asleep(min(seconds, _NAP))
        elif self.called:
            self.called = False
        else:
            self.future = self.loop.create_future()
            timer = self.loop.call_later(seconds, self.expire)
            try:
                await self.future
            finally:
                timer.cancel()


class Gate:
    """State of one limit. Generated code reads and writes `tat`; while a line waits it is `SHUT`.

    It admits what arrives at most `reach` seconds before its theoretical arrival time.
    """

    kind = "RateLimit"
    __slots__ = ("config", "interval", "lines", "lock", "longest", "reach", "rejected", "tat", "tolerance")

    def __init__(self, config: RateLimitConfig) -> None:
        self.lock: Any = _locks[id(self) // 64 % _LOCKS]
        self.lines: dict[Hashable, Line] = {}
        self.tat = NEVER
        self.rejected = 0
        self.longest = 0.0
        self.set(config, NEVER, NEVER, 0.0)

    def __reduce__(self) -> NoReturn:
        """Refuse: there is one for all who share it."""
        refuse_copy(self.kind)

    def set(self, config: RateLimitConfig, seen: float, tat: float, longest: float) -> bool:
        """Take over the settings, and `tat` in place of `seen`, all at once; do nothing if `seen` is outdated."""
        interval = config.per / config.rate
        tolerance = (config.burst - 1) * interval
        reach = tolerance + rounding(interval)
        longest = max(longest, tolerance + interval)
        if self.tat is not seen:
            return False
        self.tat = tat
        self.interval = interval
        self.tolerance = tolerance
        self.reach = reach
        self.longest = longest
        self.config = config
        return True

    @property
    def clock(self) -> Clock:
        """The limit's clock."""
        return self.config.clock or ambient.clock

    def now(self) -> float:
        """Read the limit's clock."""
        clock = self.config.clock
        return ambient.monotonic() if clock is None else clock.monotonic()

    def label(self, key: Hashable, name: str) -> str:
        """Return what events and errors call this; `name`, if it has no name of its own."""
        return self.config.name or name

    # What follows is called with the lock held. The clock is read there too, behind the arrival time: beside an older
    # reading, what others have written since looks like the time of another clock.

    def read(self, key: Hashable) -> float:
        """Return the theoretical arrival time of a key without a line."""
        return self.tat

    def write(self, key: Hashable, tat: float, now: float) -> None:
        """Set the theoretical arrival time of a key, `SHUT` for one with a line."""
        self.tat = tat

    def forget(self, key: Hashable) -> None:
        """Set the theoretical arrival time of a key without a line to `NEVER`."""
        self.tat = NEVER

    def swap(self, key: Hashable, seen: float, tat: float, now: float) -> bool:
        """Set the theoretical arrival time of a key without a line, unless it is no longer `seen`."""
        if self.tat is not seen:
            return False
        self.tat = tat
        return True

    def begin(self, line: Line, seen: float, now: float) -> bool:
        """Put a line in place, unless the theoretical arrival time of its key is no longer `seen`."""
        if self.tat is not seen:
            return False
        self.tat = SHUT
        self.lines[line.key] = line
        return True

    def _state(self, key: Hashable, seen: float, now: float) -> tuple[float, int]:
        """Return the theoretical arrival time of a key, `seen` if it has no line, and how many wait for it."""
        line = self.lines.get(key)
        if line is None:
            return self._believed(seen, now), 0
        return self._believed(line.tat, now), len(line.queue)

    def _believed(self, tat: float, now: float) -> float:
        """Return `tat`, or `NEVER` if the limit cannot have set it: another clock has taken over."""
        return NEVER if tat - now > self.longest * (1 + _ROUNDING) + _ROUNDING else tat

    def _ask(self, key: Hashable, seen: float, now: float) -> tuple[float, float]:
        """Decide on a call behind all those that wait."""
        tat, ahead = self._state(key, seen, now)
        return decide(max(tat, now) + ahead * self.interval, now, self.interval, self.tolerance)

    def _may_wait(self, wait: float, left: float | None) -> bool:
        if wait > self.config.max_wait + rounding(self.interval):
            return False
        return wait == 0 or left is None or wait < left

    def _join(self, key: Hashable, waiter: Waiter, seen: float, now: float, wait: float) -> bool:
        """Put a waiter at the end; do nothing if `seen`, on which that was decided, is outdated."""
        waiter.prepare()
        waiter.until = now + wait + _GRACE
        line = self.lines.get(key)
        if line is not None:
            waiter.line = line
            line.queue[waiter] = None
            return True
        # The line is complete before it is in place: an interrupt in between leaves nobody in it.
        waiter.line = line = Line(key, self._believed(seen, now), now)
        line.queue[waiter] = None
        _busy.add(self)
        if self.begin(line, seen, now):
            return True
        self._remove(waiter, now)
        return False

    def _rejoin(self, waiter: Waiter, line: Line, seen: float, now: float) -> bool:
        """Put a waiter that has lost its place, or whose line was left behind by a fork, at the end of its key's."""
        if waiter in line.queue and self.lines.get(line.key) is line:
            return True
        return self._join(line.key, waiter, seen, now, self._ask(line.key, seen, now)[1])

    def _pass_over(self, waiter: Waiter, line: Line, now: float) -> list[Waiter]:
        """Take the first out of the line, if it is late, and whoever is with it; return who should look now.

        Where that is `waiter` too, which is evidently not held up, the first is late alone.
        """
        first = next(iter(line.queue))
        if now - max(line.since, line.tat - self.tolerance) < _GRACE:
            return []
        late = [one for one in line.queue if one.fate is first.fate]
        if waiter in late:
            late = [first]
        for one in late:
            line.queue.pop(one, None)
        line.since = now
        return [*late, *islice(line.queue, 1)]

    def _remove(self, waiter: Waiter, now: float) -> list[Waiter]:
        """Take a waiter out of its line; return who is first now, if that is somebody else than before."""
        line, waiter.line = waiter.line, None
        if line is None or waiter not in line.queue:
            return []
        was_first = next(iter(line.queue)) is waiter
        del line.queue[waiter]
        if not line.queue:
            self._close(line, now)
        elif was_first:
            line.since = now
            return [next(iter(line.queue))]
        return []

    def _close(self, line: Line, now: float) -> None:
        if self.lines.get(line.key) is line:
            del self.lines[line.key]
            self.write(line.key, line.tat, now)
        if not self.lines:
            _busy.discard(self)

    # What follows takes the lock itself and wakes outside it.

    def passes(self, key: Hashable) -> bool:
        """Admit a call if that takes no more than a look; generated code does the same in its own lines."""
        if not PLAIN:
            return self.passes_locked(key)
        clock = self.config.clock
        now = ambient.monotonic() if clock is None else clock.monotonic()
        tat = self.tat
        if tat - now > self.reach:
            return False
        self.tat = (tat if tat > now else now) + self.interval  # noqa: FURB136  # a call would let others in
        return True

    def passes_locked(self, key: Hashable) -> bool:
        """Do as `passes` does, under the lock."""
        now = self.now()
        with self.lock:
            tat = self.read(key)
            if tat - now > self.reach:
                return False
            self.write(key, max(tat, now) + self.interval, now)
        return True

    def enter(self, key: Hashable, waiter: Waiter) -> float:
        """Admit a call (0), put it into the line (the seconds it will wait), or refuse it (the seconds it would)."""
        left = remaining()
        with self.lock:
            wait = self._enter(key, waiter, left)
            while wait is None:
                wait = self._enter(key, waiter, left)
            return wait

    def _enter(self, key: Hashable, waiter: Waiter, left: float | None) -> float | None:
        """Do as `enter` does; None if somebody was admitted without the lock meanwhile."""
        seen, now = self.read(key), self.now()
        after, wait = self._ask(key, seen, now)
        if wait == 0 and key not in self.lines:
            return wait if self.swap(key, seen, after, now) else None
        if self._may_wait(wait, left):
            waiter.begun = now
            return wait if self._join(key, waiter, seen, now, wait) else None
        self.rejected += 1
        return wait

    def ask(self, waiter: Waiter) -> float:
        """Admit a call that waits, if it is its turn (0); return after how many seconds to ask again."""
        with self.lock:
            line = waiter.line
            if line is None:
                return 0.0
            seen, now = self.read(line.key), self.now()
            while not self._rejoin(waiter, line, seen, now):
                seen, now = self.read(line.key), self.now()
            wait, others = self._look(waiter, self.lines[line.key], now)
        self._wake(others)
        return wait

    def _look(self, waiter: Waiter, line: Line, now: float) -> tuple[float, list[Waiter]]:
        """Return the seconds until a waiter should look again, 0 if it is admitted, and who else should look now."""
        others: list[Waiter] = []
        if next(iter(line.queue)) is not waiter and now >= waiter.until:
            others = self._pass_over(waiter, line, now)
            waiter.until = now + _GRACE
        waiter.leads = next(iter(line.queue)) is waiter
        if not waiter.leads:
            return waiter.until - now, others
        after, wait = decide(self._believed(line.tat, now), now, self.interval, self.tolerance)
        if wait == 0:
            line.tat, waiter.waited = after, now - waiter.begun
            others += self._remove(waiter, now)
        return wait, others

    def leave(self, waiter: Waiter) -> None:
        """Take a call that will not be made out of the line; those behind it move up."""
        if waiter.line is None:
            return
        with self.lock:
            others = self._remove(waiter, self.now())
        self._wake(others)

    def _wake(self, waiters: list[Waiter]) -> None:
        for waiter in waiters:
            if not waiter.wake():
                self.leave(waiter)

    def wait_for(self, key: Hashable) -> float:
        """Return the seconds until a call made then is admitted at once."""
        with self.lock:
            return self._ask(key, self.read(key), self.now())[1]

    def available(self, key: Hashable) -> int:
        """Return how many calls made now are admitted at once."""
        with self.lock:
            seen, now = self.read(key), self.now()
            tat, ahead = self._state(key, seen, now)
            room = self.reach - max(tat - now, 0.0)
            return 0 if ahead or room < 0 else int(room / self.interval) + 1

    def waiting(self, key: Hashable) -> int:
        """Return how many calls wait."""
        line = self.lines.get(key)
        return 0 if line is None else len(line.queue)

    def change(self, config: RateLimitConfig) -> None:
        """Take over other settings; calls made before weigh as much as calls made from now on."""
        with self.lock:
            seen, now = self.tat, self.now()
            ratio = config.per / config.rate / self.interval
            while not self.set(config, seen, _scaled(seen, now, ratio), self.longest * ratio):
                seen, now = self.tat, self.now()
            self.rescale(now, ratio)
            for line in self.lines.values():
                line.tat = _scaled(line.tat, now, ratio)

    def rescale(self, now: float, ratio: float) -> None:
        """Multiply what is left until the theoretical arrival times of a family."""

    def reset(self, key: Hashable) -> None:
        """Forget the calls of a key; who waits for it has its turn when it looks."""
        with self.lock:
            line = self.lines.get(key)
            if line is None:
                self.forget(key)
            else:
                line.tat = NEVER

    def dissolve(self) -> None:
        """Let every line go, without waking anybody."""
        for line in self.lines.values():
            self.write(line.key, line.tat, NEVER)
        self.lines.clear()


class KeyedGate(Gate):
    """State of a family: `tats` holds one float per key, and generated code reads and writes it under `lock`."""

    kind = "RateLimits"
    __slots__ = ("idle", "max_keys", "swept", "tats")

    def __init__(self, config: RateLimitConfig, max_keys: int, idle: float) -> None:
        super().__init__(config)
        self.tats: dict[Hashable, float] = {}
        self.max_keys = max_keys
        self.idle = idle
        self.swept = self.now()

    def label(self, key: Hashable, name: str) -> str:
        """Return what events and errors call this: the family, and the key."""
        return f"{self.config.name or name}[{key}]"

    def swap(self, key: Hashable, seen: float, tat: float, now: float) -> bool:
        """Set the theoretical arrival time of a key without a line: nobody else does, without the lock."""
        self.write(key, tat, now)
        return True

    def begin(self, line: Line, seen: float, now: float) -> bool:
        """Put a line in place."""
        self.lines[line.key] = line
        self.write(line.key, SHUT, now)
        return True

    passes = Gate.passes_locked

    def read(self, key: Hashable) -> float:
        """Return the theoretical arrival time of a key without a line."""
        return self.tats.get(key, NEVER)

    def write(self, key: Hashable, tat: float, now: float) -> None:
        """Set the theoretical arrival time of a key; make room first, if it is a new one."""
        if key not in self.tats:
            full = len(self.tats) >= self.max_keys
            if full or not 0 <= now - self.swept < self.idle:
                self._sweep(now)
            if full:
                self._evict(len(self.tats) - self.max_keys + max(1, self.max_keys // _SHARE))
        self.tats[key] = tat

    def forget(self, key: Hashable) -> None:
        """Forget a key."""
        self.tats.pop(key, None)

    def rescale(self, now: float, ratio: float) -> None:
        """Multiply what is left until every theoretical arrival time."""
        for key, tat in self.tats.copy().items():
            self.tats[key] = _scaled(tat, now, ratio)

    def _sweep(self, now: float) -> None:
        """Forget what has passed, and what another clock has left behind."""
        self.swept = now
        latest = now + self.longest * (1 + _ROUNDING) + _ROUNDING
        # A copy, because a finalizer that leaves a line may run at any line.
        for key, tat in self.tats.copy().items():
            if tat <= now or latest < tat < SHUT:
                self.tats.pop(key, None)

    def _evict(self, many: int) -> None:
        """Forget about so many keys (one at least) of those that will have passed first: that gives away the least."""
        if many <= 0:
            return
        tats = self.tats.copy()
        sample = sorted(islice(tats.values(), None, None, max(1, len(tats) // _SAMPLE)))
        edge = sample[max(0, many * len(sample) // len(tats) - 1)]
        soonest = (key for key, tat in tats.items() if tat <= edge and tat < SHUT)
        for key in islice(soonest, many):
            self.tats.pop(key, None)


def _scaled(tat: float, now: float, ratio: float) -> float:
    return tat if tat <= now else now + (tat - now) * ratio


def refused(gate: Gate, key: Hashable, name: str, wait: float) -> RateLimitedError:
    """Tell that a call was refused, and return its error."""
    label = gate.label(key, name)
    if bus.entries:
        emit("CallRejected", label, policy="rate_limit", retry_after=wait)
    return RateLimitedError(label, wait)


def admit(gate: Gate, key: Hashable, name: str) -> float:
    """Wait for the turn of a call that is not admitted at once; return for how long. RateLimitedError when refused."""
    clock, waiter = gate.clock, ThreadWaiter()
    try:
        wait = gate.enter(key, waiter)
        if waiter.line is None:
            return _told(gate, key, name, wait)
        while (wait := gate.ask(waiter)) > 0:
            waiter.pause(clock, wait)
    except BaseException:
        gate.leave(waiter)
        raise
    return _delayed(gate, key, name, waiter.waited)


async def admit_async(gate: Gate, key: Hashable, name: str) -> float:
    """Do as `admit` does, without blocking the loop."""
    import asyncio

    clock, waiter = gate.clock, TaskWaiter(asyncio.get_running_loop())
    try:
        wait = gate.enter(key, waiter)
        if waiter.line is None:
            return _told(gate, key, name, wait)
        while (wait := gate.ask(waiter)) > 0:
            await waiter.pause(clock, wait)
    except BaseException:
        gate.leave(waiter)
        raise
    return _delayed(gate, key, name, waiter.waited)


def _told(gate: Gate, key: Hashable, name: str, wait: float) -> float:
    if wait > 0:
        raise refused(gate, key, name, wait)
    return 0.0


def _delayed(gate: Gate, key: Hashable, name: str, seconds: float) -> float:
    if bus.entries:
        emit("CallDelayed", gate.label(key, name), policy="rate_limit", seconds=seconds)
    return seconds


hot.update(_admit_at_gate=admit, _admit_at_gate_async=admit_async, _shut=SHUT)
