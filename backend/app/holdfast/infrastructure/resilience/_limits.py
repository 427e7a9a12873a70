"""What an adaptive concurrency limit is found by: the algorithms, and the state that all calls share."""

from __future__ import annotations

import os
from weakref import WeakSet

from holdfast.infrastructure.resilience._ambient import ambient, hot
from holdfast.infrastructure.resilience._breaker import _LOCKS, _locks
from holdfast.infrastructure.resilience._bus import bus, callback_failed, emit
from holdfast.infrastructure.resilience.classify import PERMANENT, _judge
from holdfast.infrastructure.resilience.errors import ConcurrencyLimitedError
from holdfast.infrastructure.resilience.permit import Permit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from holdfast.infrastructure.resilience._compile import Stack
    from holdfast.infrastructure.resilience.concurrency_limit import (
        AIMD,
        ConcurrencyLimitConfig,
        Gradient2,
    )

# A round is so many latencies, or as many as the limit where that is less: one gives too much to chance.
_ROUND = 10
_MOST_IN_FLIGHT = 5
# Tenths of the limit that calls of a priority may use.
_TENTHS = {"critical": 10, "normal": 9, "low": 7}
# A clock need not tell two moments apart.
_SHORTEST = 1e-9
WARM_UP = 10
_RECOVERED = 2.0
_CATCH_UP = 0.95
_STEEPEST = 0.5


class RunningGradient:
    """The state of one `Gradient2`: the long-term average of latencies, and over how many rounds so far."""

    __slots__ = ("long", "rounds", "spec")

    def __init__(self, spec: Gradient2) -> None:
        self.spec = spec
        self.long = 0.0
        self.rounds = 0

    def step(self, limit: float, latency: float) -> float:
        """Return the limit after a round of calls with this mean latency."""
        short = max(latency, _SHORTEST)
        self._learn(short)
        gradient = max(_STEEPEST, min(1.0, self.spec.tolerance * self.long / short))
        if self.long > _RECOVERED * short:
            self.long *= _CATCH_UP
        return limit + self.spec.smoothing * (limit * gradient + self.spec.queue - limit)

    def _learn(self, short: float) -> None:
        self.rounds += 1
        share = 1 / self.rounds if self.rounds <= WARM_UP else 2 / (self.spec.long_window + 1)
        self.long += share * (short - self.long)

    def drop(self, limit: float) -> float:
        """Return the limit after a drop."""
        return limit * (1 - self.spec.smoothing * (1 - _STEEPEST))


class RunningAIMD:
    """An `AIMD` at work; it remembers nothing."""

    __slots__ = ("spec",)

    def __init__(self, spec: AIMD) -> None:
        self.spec = spec

    def step(self, limit: float, latency: float) -> float:
        """Return the limit after a round of calls without a drop."""
        return limit + 1

    def drop(self, limit: float) -> float:
        """Return the limit after a drop."""
        return limit * self.spec.backoff


class State:
    """The limit and what it is found by.

    `out` holds an entry for each call in flight: appending to a list and taking from it is atomic, so that admission
    takes no lock and no place is lost. A call that makes `least` of them or more is looked at. `generation` counts
    rounds, a drop begins one; `shrunk` is the one in which the limit last fell: what began before was admitted under a
    higher limit, and does not lower it again.
    """

    __slots__ = (
        "__weakref__",
        "algorithm",
        "config",
        "estimate",
        "generation",
        "judged",
        "least",
        "limit",
        "out",
        "peak",
        "place",
        "rejected",
        "seen",
        "shrunk",
        "total",
    )

    def __init__(self, config: ConcurrencyLimitConfig) -> None:
        self.config = config
        self.judged = _judge(config.on)
        self.place = id(self) // 64 % _LOCKS
        self.out: list[None] = []
        self.generation: int = 0
        self._start()
        _states.add(self)

    def _start(self) -> None:
        algorithm: Any = self.config.algorithm
        self.algorithm: RunningGradient | RunningAIMD = algorithm._run()
        self.rejected = 0
        self._begin_round(float(self.first))
        self.shrunk = self.generation

    def _begin_round(self, estimate: float) -> None:
        self.estimate = estimate
        self.limit = int(estimate)
        self.least = (self.limit + 1) // 2
        self.generation += 1
        self.seen = self.peak = 0
        self.total = 0.0

    @property
    def first(self) -> int:
        """The limit to begin with."""
        initial = self.config.initial
        return self.config.max_limit if initial is None else initial

    @property
    def lock(self) -> Any:
        """What guards the limit; shared with other policies, held for microseconds."""
        return _locks[self.place]

    def now(self) -> float:
        """Read the clock."""
        clock = self.config.clock
        return ambient.monotonic() if clock is None else clock.monotonic()

    def entered(self, running: int, room: int) -> tuple[float | None, tuple[int, int] | None]:
        """Take in a call that is one of so many in flight: return when (None: refused), and a change of the limit."""
        return (None if running > room else self.now()), None

    def passed(self, started: float, generation: int, running: int) -> tuple[int, int] | None:
        """Take the latency of a call that succeeded; return the old and the new limit if it changed."""
        took, most = self.now() - started, self.config.max_healthy_latency
        if most is not None and took > most:
            return self.drop(generation)
        if generation != self.generation:
            return None
        with _locks[self.place]:
            if generation != self.generation:
                return None
            self.seen += 1
            self.total += took
            self.peak = max(self.peak, running)
            return self._end_round() if self.seen >= _ROUND or self.seen >= self.limit else None

    def _end_round(self) -> tuple[int, int] | None:
        wanted = self.algorithm.step(self.estimate, self.total / self.seen)
        return self._move(min(wanted, _MOST_IN_FLIGHT * self.peak))

    def drop(self, generation: int) -> tuple[int, int] | None:
        """Take notice of a drop; return the old and the new limit if it changed."""
        with _locks[self.place]:
            return None if generation < self.shrunk else self._move(self.algorithm.drop(self.estimate))

    def left(self, generation: int, *, answered: bool) -> None:
        """Take notice that a call ended in a way that says nothing."""

    def _move(self, wanted: float) -> tuple[int, int] | None:
        config, before, old = self.config, self.estimate, self.limit
        self._begin_round(float(min(config.max_limit, max(config.min_limit, wanted))))
        if self.estimate < before:
            self.shrunk = self.generation
        return None if self.limit == old else (old, self.limit)

    def tell(self, change: tuple[int, int] | None, label: str) -> None:
        """Publish that the limit changed."""
        if change is not None and bus.entries:
            emit("LimitChanged", label, policy="concurrency_limit", old=change[0], new=change[1])

    def refusal(self, label: str) -> str:
        """Count and publish that a call was refused; return the name for its error."""
        with _locks[self.place]:
            self.rejected += 1
        if bus.entries:
            emit("CallRejected", label, policy="concurrency_limit", retry_after=None)
        return label

    def room(self, label: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """Return how many calls may be in flight for one of these arguments to be among them."""
        assert self.config.priority is not None  # noqa: S101  # generated code asks only where there is one
        try:
            tenths = _tenths(self.config.priority(*args, **kwargs))
        except Exception as raised:  # a function of the user's: the call is like most others
            callback_failed(label, "priority", raised)
            tenths = _TENTHS["normal"]
        return _share(self.limit, tenths)

    # What permits ask for.

    def judge(
        self, error: BaseException, label: str = "concurrency limit"
    ) -> tuple[bool | None, float | None]:
        """Return whether an error is a drop (None: neutral), and 0.0 where it is somebody's answer all the same."""
        if not isinstance(error, Exception):
            return None, None
        try:
            return (None, 0.0) if self.judged(error) is PERMANENT else (True, None)
        except Exception as raised:  # a predicate of the user's: counts as failure
            callback_failed(self.config.name or label, "predicate", raised)
            return True, None

    def admit(self) -> Permit:
        """Admit one call of normal priority."""
        out, label = self.out, self.config.name or "concurrency limit"
        try:
            # The first thing in the block: an interrupt comes before this call or after it, and then the handler runs.
            out.append(None)
            running = len(out)
            room = self.limit if self.config.priority is None else _share(self.limit, _TENTHS["normal"])
            if running < self.least:
                return Permit(self, (out, self.generation, 0), self.now())
            admitted, change = self.entered(running, room)
            self.tell(change, label)
            if admitted is not None:
                return Permit(self, (out, self.generation, running), admitted)
        except BaseException:
            out.pop()
            raise
        out.pop()
        raise ConcurrencyLimitedError(self.refusal(label), None)

    def settle(self, permit: Permit, failed: bool | None, hint: float | None = None) -> None:
        """Give a permit's place back, once, and take its latency or drop."""
        out, generation, running = permit.token
        with _locks[self.place]:
            if permit.settled:
                return
            permit.settled = True
            out.pop()
        if not running:
            return
        if failed is None:
            self.left(generation, answered=hint is not None)
            return
        change = self.drop(generation) if failed else self.passed(permit.started, generation, running)
        self.tell(change, self.config.name or "concurrency limit")

    def reset(self) -> None:
        """Go back to the initial limit."""
        with _locks[self.place]:
            self._start()


def _tenths(priority: object) -> int:
    for name, tenths in _TENTHS.items():
        if priority == name:
            return tenths
    raise ValueError(f"{priority!r} is no priority: return one of {', '.join(map(repr, _TENTHS))}")


def _share(limit: int, tenths: int) -> int:
    """Return so many tenths of the limit, rounded up: the smallest limit admits somebody of every priority."""
    return -(-limit * tenths // 10)


_states: WeakSet[State] = WeakSet()


def _renew() -> None:
    """Forget calls in flight: in the child of a fork, other threads' will never end; ours keep their own list."""
    for state in list(_states):
        state.out = []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


# What generated code calls.


def _label(state: State, stack: Stack, args: tuple[Any, ...]) -> str:
    return state.config.name or stack.label(args)


def _room(state: State, stack: Stack, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    return state.room(_label(state, stack, args), stack.own(args), kwargs)


def _entered(state: State, running: int, room: int, stack: Stack, args: tuple[Any, ...]) -> float | None:
    started, change = state.entered(running, room)
    if change is not None:
        state.tell(change, _label(state, stack, args))
    return started


def _refused(state: State, stack: Stack, args: tuple[Any, ...]) -> str:
    return state.refusal(_label(state, stack, args))


def _failed(state: State, generation: int, error: BaseException, stack: Stack, args: tuple[Any, ...]) -> None:
    label = _label(state, stack, args)
    failed, hint = state.judge(error, label)
    if failed:
        state.tell(state.drop(generation), label)
    else:
        state.left(generation, answered=hint is not None)


def _passed(
    state: State, started: float, generation: int, running: int, stack: Stack, args: tuple[Any, ...]
) -> None:
    change = state.passed(started, generation, running)
    if change is not None:
        state.tell(change, _label(state, stack, args))


hot.update(
    _ConcurrencyLimitedError=ConcurrencyLimitedError,
    _limit_entered=_entered,
    _limit_failed=_failed,
    _limit_passed=_passed,
    _limit_refused=_refused,
    _limit_room=_room,
)
