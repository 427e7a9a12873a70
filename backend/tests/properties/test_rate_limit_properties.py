"""Rate limits against models that remember every call, and the theorem that a limit is for."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import pairwise
from math import inf, nextafter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.infrastructure.resilience._gcra import ThreadWaiter, decide
from holdfast.infrastructure.resilience.errors import RateLimitedError
from holdfast.infrastructure.resilience.rate_limit import RateLimit, RateLimits
from holdfast.testing import VirtualClock

# Every time is a multiple of it, so that sums of times are exact; calls give up at odd multiples of half of it.
QUANTUM = 0.25

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

intervals = st.integers(1, 12).map(lambda many: many * QUANTUM)
bursts = st.integers(1, 5)
gaps = st.integers(0, 20).map(lambda many: many * QUANTUM)


def ignored(key: object) -> None:
    """Be called with a key."""


def nothing() -> None:
    """Be called."""


def assert_never_above(times: Sequence[float], interval: float, burst: int) -> None:
    """Between any two admissions there are no more than the burst and the rate times the time between them."""
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= burst + (times[last] - begin) / interval


@dataclass
class Bucket:
    """A leaky bucket in exact numbers: each call pours in 1, and it must not overflow."""

    interval: Fraction
    burst: int
    level: Fraction = Fraction(0)
    seen: Fraction = Fraction(0)

    def until_room(self, now: Fraction) -> Fraction:
        """Let run out what has run out by now; return the seconds until one more call finds room."""
        self.level = max(Fraction(0), self.level - (now - self.seen) / self.interval)
        self.seen = now
        return max(Fraction(0), (self.level + 1 - self.burst) * self.interval)

    def pour(self) -> None:
        """Take in a call."""
        self.level += 1


@relaxed
@given(interval=intervals, burst=bursts, pauses=st.lists(gaps, max_size=60))
def test_a_limit_is_a_leaky_bucket(interval: float, burst: int, pauses: list[float]) -> None:
    """Without waiting, every call is admitted or refused as by an exact bucket, with the same seconds to go."""
    clock = VirtualClock(start=0.0)
    limit = RateLimit(1, per=interval, burst=burst, clock=clock)
    family = RateLimits(1, per=interval, burst=burst, clock=clock, key=str)
    keyed = family(ignored)
    calls: list[Any] = [limit(nothing), lambda: keyed(1), family.get(2)(nothing)]
    bucket, times = Bucket(Fraction(interval), burst), list[float]()
    for pause in pauses:
        clock.advance(pause)
        wait = bucket.until_room(Fraction(clock.monotonic()))
        assert limit.retry_after == wait
        assert (limit.available > 0) is (wait == 0)
        for call in calls:
            assert refusal(call) == (None if wait == 0 else wait)
        if wait == 0:
            bucket.pour()
            times.append(clock.monotonic())
    assert_never_above(times, interval, burst)


def refusal(call: Any) -> float | None:
    """Make a call; return the seconds after which it may come back, None if it was admitted."""
    try:
        call()
    except RateLimitedError as error:
        return error.retry_after
    return None


@relaxed
@given(
    rate=st.floats(0.01, 1e4),
    per=st.floats(0.01, 1e4),
    burst=bursts,
    start=st.floats(0, 1e7),
    pauses=st.lists(st.floats(0, 3), max_size=40),
)
def test_no_rate_is_ever_exceeded(
    rate: float, per: float, burst: int, start: float, pauses: list[float]
) -> None:
    """For any settings, clock and arrivals: no window holds more than the burst and the rate times its length."""
    clock = VirtualClock(start=start)
    limit = RateLimit(rate, per=per, burst=burst, clock=clock)
    interval, times = per / rate, list[float]()
    for pause in pauses:
        clock.advance(pause * interval)
        if refusal(limit(nothing)) is None:
            times.append(clock.monotonic())
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            # What floats may be wrong by: a millionth, and what such a clock cannot tell apart.
            most = burst + (times[last] - begin) / interval
            assert last - first + 1 <= most + 1e-5 + 1e-8 / interval


@relaxed
@given(
    rate=st.floats(0.01, 1e4),
    per=st.floats(0.01, 1e4),
    burst=st.integers(1, 50),
    start=st.floats(0, 1e7),
    moves=st.lists(st.floats(0, 3) | st.sampled_from(["before", "edge", "behind"]), max_size=40),
)
def test_the_quick_look_decides_as_the_slow_path(
    rate: float, per: float, burst: int, start: float, moves: list[float | str]
) -> None:
    """Generated code, blocks and the slow path admit the same calls and set the same times, to the last bit."""
    clock = VirtualClock(start=start)
    quick, block, slow = (RateLimit(rate, per=per, burst=burst, clock=clock) for _ in range(3))
    call, (looked, entry, gate) = quick(nothing), map(gate_of, (quick, block, slow))
    for move in moves:
        now = clock.monotonic()
        edge = gate.tat - gate.reach
        to = {"before": nextafter(edge, -inf), "edge": edge, "behind": nextafter(edge, inf)}
        clock.advance(max(0.0, to[move] - now if isinstance(move, str) else move * per / rate))

        wait = gate.enter(None, ThreadWaiter())

        assert (refusal(call), refusal(partial(entered, block))) == ((wait or None),) * 2
        assert looked.tat == entry.tat == gate.tat
        assert quick.rejected == block.rejected == slow.rejected


def gate_of(limit: RateLimit) -> Any:
    """Return the state of a limit."""
    return vars(RateLimit)["_gate"].__get__(limit)


@given(interval=st.floats(1e-6, 1e6), burst=st.integers(1, 10**6))
def test_the_last_instant_too_early_is_the_same_for_both(interval: float, burst: int) -> None:
    """The slow path admits what is early by the number that generated code compares with, and no bit more."""
    gate = gate_of(RateLimit(1, per=interval, burst=burst))

    assert decide(gate.reach, 0.0, gate.interval, gate.tolerance)[1] == 0.0
    assert decide(nextafter(gate.reach, inf), 0.0, gate.interval, gate.tolerance)[1] > 0.0


def entered(limit: RateLimit) -> None:
    """Go through a block."""
    with limit:
        pass


@dataclass
class Call:
    """One call: when it comes, after how long it gives up if it does, and what came of it."""

    begin: float
    patience: float | None
    outcome: tuple[str, float] | None = None


@dataclass
class Model:
    """A queue in the plainest words: whoever is first is admitted as soon as the bucket has room."""

    bucket: Bucket
    max_wait: float
    line: list[Call] = field(default_factory=list[Call])

    def run_until(self, now: Fraction) -> None:
        """Admit those whose turn comes until now."""
        while self.line:
            due = self.bucket.seen + self.bucket.until_room(self.bucket.seen)
            if due > now:
                return
            self.bucket.until_room(due)
            self.bucket.pour()
            self.line.pop(0).outcome = ("admitted", float(due))

    def come(self, call: Call, now: Fraction) -> None:
        """Admit, queue or refuse a call."""
        wait = self.bucket.until_room(now) + len(self.line) * self.bucket.interval
        if wait > self.max_wait:
            call.outcome = ("refused", float(wait))
        else:
            self.line.append(call)
            self.run_until(now)

    def give_up(self, call: Call, now: Fraction) -> None:
        """Let a call go that still waits."""
        if call in self.line:
            self.line.remove(call)
            call.outcome = ("cancelled", float(now))

    def play(self, calls: list[Call]) -> None:
        """Let everything happen in the order of time."""
        events: list[tuple[Fraction, int, int]] = []
        for at, call in enumerate(calls):
            events.append((Fraction(call.begin), 0, at))
            if call.patience is not None:
                events.append((Fraction(call.begin) + Fraction(call.patience), 1, at))
        for now, kind, at in sorted(events):
            self.run_until(now)
            (self.give_up if kind else self.come)(calls[at], now)
        self.run_until(Fraction(10**9))


patience = st.none() | st.integers(0, 30).map(lambda many: many * QUANTUM + QUANTUM / 2)
plans = st.lists(st.tuples(gaps, patience), min_size=1, max_size=25)


def played(limit: RateLimit, clock: VirtualClock, calls: list[Call]) -> list[tuple[str, float]]:
    """Make the calls as tasks on the virtual clock and return what came of each."""

    async def one(call: Call) -> tuple[str, float]:
        await clock.asleep(call.begin)
        try:
            async with asyncio.timeout(call.patience), limit:
                return "admitted", clock.monotonic()
        except TimeoutError:
            return "cancelled", clock.monotonic()
        except RateLimitedError as error:
            return "refused", error.retry_after or 0.0

    async def main() -> list[tuple[str, float]]:
        return await asyncio.gather(*map(one, calls))

    return clock.run(main())


@relaxed
@given(interval=intervals, burst=bursts, max_wait=gaps | st.just(1e6), plan=plans)
def test_a_line_is_first_come_first_served(
    interval: float, burst: int, max_wait: float, plan: list[tuple[float, float | None]]
) -> None:
    """Whoever comes, waits and gives up: each is admitted, refused or let go at the instant that a plain queue says."""
    calls, begin = list[Call](), 0.0
    for pause, patience in plan:
        begin += pause
        calls.append(Call(begin, patience))
    clock = VirtualClock(start=0.0)
    limit = RateLimit(1, per=interval, burst=burst, max_wait=max_wait, clock=clock)

    outcomes = played(limit, clock, calls)

    Model(Bucket(Fraction(interval), burst), max_wait).play(calls)
    assert outcomes == [call.outcome for call in calls]
    times = [at for what, at in outcomes if what == "admitted"]
    assert all(first <= second for first, second in pairwise(times))
    assert_never_above(times, interval, burst)
    assert (limit.waiting, limit.rejected) == (0, sum(what == "refused" for what, _ in outcomes))


@relaxed
@given(
    before=st.tuples(intervals, bursts),
    after=st.tuples(intervals, bursts),
    used=st.integers(0, 5),
    pause=gaps,
)
def test_a_change_keeps_what_was_used(
    before: tuple[float, int], after: tuple[float, int], used: int, pause: float
) -> None:
    """What is in the bucket when the settings change stays in it, and runs out at the new rate."""
    clock = VirtualClock(start=0.0)
    (old, old_burst), (new, new_burst) = before, after
    limit = RateLimit(1, per=old, burst=old_burst, clock=clock)
    bucket = Bucket(Fraction(old), old_burst)
    for _ in range(used):
        if refusal(limit(nothing)) is None:
            bucket.pour()
    clock.advance(pause)
    bucket.until_room(Fraction(pause))

    limit.reconfigure(per=new, burst=new_burst)

    bucket.interval, bucket.burst = Fraction(new), new_burst
    wait = bucket.until_room(Fraction(pause))
    # A ratio of intervals need not be a binary fraction.
    assert abs(limit.retry_after - wait) < 1e-5
    clock.advance(limit.retry_after)
    assert refusal(limit(nothing)) is None
