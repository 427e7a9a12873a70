"""A naive circuit breaker, which keeps every call it ever admitted and works everything out anew."""

from dataclasses import dataclass

from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreakerConfig
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import WindowCounts
from holdfast.testing import VirtualClock

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
ISOLATED, DISABLED, SHADOW = CircuitState.ISOLATED, CircuitState.DISABLED, CircuitState.SHADOW

# Every time is a multiple of this, so that sums of times are exact; it is a quarter of the slow-call duration, too:
# what runs is looked at by the quarter.
QUANTUM = 0.25


@dataclass(eq=False)
class Call:
    """An admitted call: its generation, when it began, since when it counts, and what came of it."""

    generation: int
    started: float
    counted: float | None = None
    slow: bool = False
    failed: bool = False
    settled: bool = False
    ended: bool = False
    expired: bool = False


class Model:
    """The rules of the breaker in the plainest words: no ring, no bits, no running totals, no shortcuts."""

    def __init__(self, config: CircuitBreakerConfig, clock: VirtualClock) -> None:
        self.config = config
        self.clock = clock
        self.calls: list[Call] = []
        self.line: list[Call] = []
        self.generation = 0
        self.rounds = self.isolations = self.rejected = 0
        self.until = 0.0
        self.begin(CLOSED)

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    def begin(self, state: CircuitState) -> None:
        """Begin a generation: what was admitted before has no say any more."""
        self.generation += 1
        self.state = state
        self.since = self.now

    def own(self) -> list[Call]:
        return [call for call in self.calls if call.generation == self.generation]

    # What counts

    def look(self) -> None:
        """A call that still runs after the slow-call duration counts as slow from now on."""
        limit = self.config.slow_call_duration
        if limit is None or self.state not in {CLOSED, SHADOW}:
            return
        for call in self.own():
            if call.counted is None and not call.settled and self.now - call.started >= limit:
                call.slow = True
                self.count(call)

    def count(self, call: Call) -> None:
        """Put a call at the end of the line of those that count."""
        self.line = [other for other in self.line if other is not call] + [call]
        call.counted = self.now

    def trade(self, call: Call) -> None:
        """Give a call the newest place of those that became slow with it and have not failed.

        They began together and became slow together: which of them has which place is nobody's to know.
        """
        twins = [
            other
            for other in self.line
            if (other.started, other.counted) == (call.started, call.counted)
            and other.slow
            and not other.failed
        ]
        last, mine = self.line.index(twins[-1]), self.line.index(call)
        self.line[last], self.line[mine] = self.line[mine], self.line[last]

    def seen(self) -> list[Call]:
        """The calls that the window still sees, in the order in which they came to count."""
        window = self.config.window
        calls = [call for call in self.line if call.generation == self.generation]
        if window.kind == "calls":
            return calls[-int(window.size) :]
        if window.kind == "consecutive":
            good = [at for at, call in enumerate(calls) if not call.failed and not call.slow]
            return calls[good[-1] + 1 :] if good else calls
        bucket = self.bucket(self.now)
        return [call for call in calls if self.bucket(call.counted or 0.0) > bucket - window.buckets]

    def keeps_its_place(self, call: Call) -> bool:
        """A failure counts from when it ends, except where time plays no part."""
        kind = self.config.window.kind
        return kind == "consecutive" or (kind == "calls" and call in self.seen())

    def bucket(self, when: float) -> int:
        window = self.config.window
        return int((when - self.since) / (window.size / window.buckets))

    def counts(self) -> WindowCounts:
        if self.state is HALF_OPEN:
            calls = [call for call in self.own() if call.ended]
        elif self.state in {CLOSED, SHADOW}:
            self.look()
            calls = self.seen()
        else:
            calls = []
        if self.config.window.kind == "consecutive" and self.state is not HALF_OPEN:
            return WindowCounts(len(calls), len(calls), 0)
        failed, slow = (sum(getattr(call, what) for call in calls) for what in ("failed", "slow"))
        return WindowCounts(len(calls), failed, slow)

    # What follows from it

    def evaluate(self, *, failed: bool = False) -> None:
        """Open if there is reason to; that too many calls failed is one only when a call has just failed."""
        if not self.too_many(failed=failed):
            return
        if self.state is SHADOW:
            self.begin(SHADOW)
            return
        if self.now - self.since >= self.config.open_cap:
            self.rounds = 0
        self.trip()

    def too_many(self, *, failed: bool) -> bool:
        config, counts = self.config, self.counts()
        if config.window.kind == "consecutive":
            return counts.failures >= config.window.size
        enough: float = config.min_calls
        if config.window.kind == "calls":
            enough = min(enough, config.window.size)
        if counts.calls < enough:
            return False
        failing = failed and counts.failures >= config.failure_rate * counts.calls
        slow = counts.slow > 0 and counts.slow >= config.slow_call_rate * counts.calls
        return failing or slow

    def duration(self) -> float:
        return float(min(self.config.open_for * 2**self.rounds, self.config.open_cap))

    def trip(self) -> None:
        self.until = self.now + self.duration()
        self.begin(OPEN)

    def verdict(self) -> None:
        """Try every way in which the round can still end: it is decided when all of them say the same."""
        config = self.config
        ended = [call for call in self.own() if call.ended]
        left = config.half_open_calls - len(ended)
        failed, slow = sum(call.failed for call in ended), sum(call.slow for call in ended)
        watched = config.slow_call_duration is not None
        ends = {
            self.healthy(failed + more, slow + (dawdling if watched else 0))
            for more in range(left + 1)
            for dawdling in range(left + 1)
        }
        if ends == {True}:
            self.begin(CLOSED)
        elif ends == {False}:
            self.rounds += 1
            self.trip()

    def healthy(self, failed: int, slow: int) -> bool:
        config = self.config
        size = config.half_open_calls
        if config.window.kind == "consecutive" and failed:
            return False
        failing = failed > 0 and failed >= config.failure_rate * size
        return not failing and not (slow > 0 and slow >= config.slow_call_rate * size)

    # What happens to it

    def admit(self) -> Call | None:
        if self.state is OPEN and self.now >= self.until:
            self.begin(HALF_OPEN)
        if self.state is HALF_OPEN:
            self.expire()
        if self.state in {CLOSED, SHADOW} and self.config.slow_call_duration is not None:
            self.look()
            self.evaluate()
        if not self.admits():
            self.rejected += 1
            return None
        self.calls.append(Call(self.generation, self.now))
        return self.calls[-1]

    def admits(self) -> bool:
        if self.state is HALF_OPEN:
            return len(self.taken()) < self.config.half_open_calls
        return self.state not in {OPEN, ISOLATED}

    def taken(self) -> list[Call]:
        """The places of the round that are taken: by probes that are out, and by those that ended."""
        return [call for call in self.own() if call.ended or not (call.settled or call.expired)]

    def expire(self) -> None:
        for call in self.own():
            if not call.settled and self.now - call.started >= self.config.half_open_timeout:
                call.expired = True

    def settle(self, call: Call, *, failed: bool | None) -> None:
        """Settle a call; only the first settlement, and only of the current generation, says anything."""
        if call.settled:
            return
        if (
            call.generation != self.generation
            or self.state is DISABLED
            or (call.expired and failed is not False)
        ):
            call.settled = True
            return
        self.look()
        call.settled = True
        limit = self.config.slow_call_duration
        late = limit is not None and self.now - call.started >= limit
        if failed is not None:
            if failed and call.counted is not None:
                self.trade(call)
            if call.counted is None or (failed and not self.keeps_its_place(call)):
                self.count(call)
            call.failed, call.ended, call.slow = failed, True, late
        if self.state is HALF_OPEN:
            if failed is not None:
                self.verdict()
        else:
            self.evaluate(failed=bool(failed))

    def override(self, state: CircuitState) -> None:
        self.isolations = 0
        if state is OPEN:
            self.trip()
        else:
            self.begin(state)

    def isolate(self) -> None:
        if self.isolations == 0:
            self.begin(ISOLATED)
        self.isolations += 1

    def release(self) -> None:
        if self.isolations == 1:
            self.begin(CLOSED)
        self.isolations = max(0, self.isolations - 1)

    def reset(self) -> None:
        self.rounds = self.rejected = 0
        self.override(CLOSED)

    def retry_after(self) -> float | None:
        return max(0.0, self.until - self.now) if self.state is OPEN else None
