"""The attempts of a hedged call, and what their outcomes mean: one algorithm, driven sync and async."""

from __future__ import annotations

import os
import threading

from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience._bus import bus, callback_failed, emit
from holdfast.infrastructure.resilience._quantile import Estimate
from holdfast.infrastructure.resilience._tries import _MAX_NOTES, _add_note
from holdfast.infrastructure.resilience.classify import PERMANENT, THROTTLED
from holdfast.infrastructure.resilience.deadline import _deadline
from holdfast.infrastructure.resilience.errors import CallRejectedError, HoldfastError, _packed
from holdfast.infrastructure.resilience.retry import Retry, current_attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sized
    from typing import Any, Protocol

    from holdfast.infrastructure.resilience._compile import Stack
    from holdfast.infrastructure.resilience.budget import RetryBudget
    from holdfast.infrastructure.resilience.hedge import Hedge, HedgeConfig

    # The number of an attempt (0: the first call, 1: hedge 1), its result and its error.
    Outcome = tuple[int, Any, "BaseException | None"]

    class Field(Protocol):
        """What runs the attempts of one call: tasks or threads."""

        @property
        def ended(self) -> Sized:
            """The outcomes that nobody has looked at."""
            ...

        @property
        def running(self) -> Sized:
            """The attempts whose outcome was not taken."""
            ...

        def take(self) -> Outcome:
            """Give the outcome that came first."""
            ...

        def reserve(self) -> bool:
            """Take a place for an attempt; return whether there was one."""
            ...

        def cede(self) -> None:
            """Give the place back."""
            ...

        def start(self, number: int) -> None:
            """Start an attempt in the place."""
            ...


class Tally:
    """What changes on a `Hedge`: the latencies it has seen, and how many hedges were sent and won."""

    __slots__ = ("estimate", "first", "started", "won")

    def __init__(self, config: HedgeConfig) -> None:
        after: Any = config.after
        fixed = isinstance(after, float)
        self.first: float = after if fixed else after.initial
        self.estimate = None if fixed else Estimate(after.q, after.samples)
        self.started = 0
        self.won = 0

    @property
    def latency(self) -> float | None:
        """The estimate, if there is one."""
        return None if self.estimate is None else self.estimate.value

    @property
    def delay(self) -> float:
        """How long a call may take before its hedge is sent, seconds."""
        estimate = self.estimate
        return self.first if estimate is None or estimate.value is None else estimate.value

    def count(self, *, started: int = 0, won: int = 0) -> None:
        """Add to the counts."""
        with _lock:
            self.started += started
            self.won += won


def _renew_lock() -> None:
    # In the child of a fork nobody is left to release the old one.
    global _lock  # noqa: PLW0603  # read where hedges are counted
    _lock = threading.RLock()


_lock: Any = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Race:
    """One call: born and gone with it. A driver starts the attempts and hands their outcomes to `take`."""

    __slots__ = (
        "after",
        "args",
        "at",
        "began",
        "budget",
        "error",
        "held",
        "learned",
        "left",
        "others",
        "over",
        "owner",
        "policy",
        "result",
        "sent",
        "stack",
    )

    owner: bool

    def __init__(
        self, policy: Hedge, stack: Stack, at: int, args: tuple[Any, ...], after: float, began: float
    ) -> None:
        self.policy = policy
        self.stack = stack
        self.at = at
        self.args = args
        self.after = after
        self.began = began
        self.left = policy._config.max_hedges
        self.sent = 0
        self.over = self.held = self.learned = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.others: list[Exception] | None = None
        self.budget = budget = policy._config.budget
        if budget is not None:
            self.owner = self._owns(budget)
            if self.owner and not budget.counts_successes:
                budget.deposit()

    def _owns(self, budget: RetryBudget) -> bool:
        """Return whether this call is nobody's attempt: else the retry around it counts it."""
        retries = (one for one in self.stack.parts[: self.at] if isinstance(one, Retry))
        return current_attempt() == 1 and all(one.config.budget is not budget for one in retries)

    def now(self) -> float:
        """Read the clock."""
        return clock_of(self.policy)()

    @property
    def name(self) -> str:
        """What events call this."""
        name = self.policy._config.name
        return self.stack.label(self.args) if name is None else name

    def advance(self, field: Field) -> bool:
        """Act on the outcomes that have come, or without one on the alarm; return whether the call is over."""
        while True:
            due = not field.ended or self.take(field.take())
            if self.over:
                return True
            if due and self._may_send() and field.reserve():
                if self._send():
                    field.start(self.sent)
                else:
                    field.cede()
            if not field.ended:
                return not field.running

    def take(self, outcome: Outcome) -> bool:
        """Judge an outcome; return whether the next hedge is due at once.

        `over` is set when it ends the call.
        """
        number, result, error = outcome
        if error is None:
            if self._refuses(result):
                return self._failed(number, result, None)
            return self._won(number, result, None)
        if not isinstance(error, Exception):
            return self._won(number, None, error)
        if number and isinstance(error, CallRejectedError):
            return self._refused(error)
        verdict = self._judge(error)
        if verdict is PERMANENT:
            return self._won(number, None, error)
        if verdict is THROTTLED:
            self.left = 0
        return self._failed(number, None, error)

    def _judge(self, error: Exception) -> Any:
        try:
            return self.policy._judge(error)
        except Exception as raised:  # the user's predicate must not replace the error
            callback_failed(self.name, "predicate", raised)
            return PERMANENT

    def _refuses(self, result: object) -> bool:
        refused = self.policy._config.result
        try:
            return refused is not None and bool(refused(result))
        except Exception as raised:  # the call succeeded: a broken predicate must not undo that
            callback_failed(self.name, "result predicate", raised)
            return False

    def _won(self, number: int, result: Any, error: BaseException | None) -> bool:
        self.over = True
        self.result, self.error, self.others = result, error, None
        self.learn(succeeded=error is None and number == 0)
        if self.budget is not None:
            self._reward(self.budget, number, succeeded=error is None)
        if number:
            self.policy._tally.count(won=1)
            if bus.entries:
                emit("HedgeWon", self.name, number=number)
        return False

    def _reward(self, budget: RetryBudget, number: int, *, succeeded: bool) -> None:
        if self.held and not self.owner:
            budget.record_failure()
        if succeeded and self.owner and budget.rewards(first=number == 0):
            budget.deposit()
        if succeeded and number:
            budget.refund()

    def _refused(self, error: Exception) -> bool:
        """Note that a hedge was not sent after all: that says nothing of the calls that were."""
        self.left = 0
        if self.budget is not None:
            self.budget.refund()
        self._keep(error)
        return False

    def _failed(self, number: int, result: Any, error: Exception | None) -> bool:
        if self.budget is not None:
            self._count_failure(self.budget)
        if number == 0:
            self.result, self.error = result, error
            self.learn(succeeded=False)
        elif error is not None:
            self._keep(error)
        return True

    def _count_failure(self, budget: RetryBudget) -> None:
        # A retry around this counts one failure if the call fails: one is held back for it.
        if self.owner or self.held:
            budget.record_failure()
        self.held = True

    def _keep(self, error: Exception) -> None:
        if self.others is None:
            self.others = []
        self.others.append(error)

    def _may_send(self) -> bool:
        """Return whether the deadline leaves time for a hedge."""
        deadline = _deadline.get()
        if self.left and deadline is not None and deadline - self.now() <= 0:
            self.left = 0
        return self.left > 0

    def _send(self) -> bool:
        """Pay for a hedge and announce it; return whether there was a token for it."""
        if self.budget is not None and not self.budget.try_withdraw():
            self.left = 0
            if bus.entries:
                emit("BudgetExhausted", self.name, budget=self.budget.name or "retry budget")
            return False
        self.left -= 1
        self.sent += 1
        self.policy._tally.count(started=1)
        if bus.entries:
            emit("HedgeStarted", self.name, number=self.sent, after=self.now() - self.began)
        return True

    def learn(self, *, succeeded: bool) -> None:
        """Count how long the first call took; one that has not succeeded tells something once its hedge was due."""
        estimate = self.policy._tally.estimate
        if estimate is not None and not self.learned:
            took = self.now() - self.began
            if succeeded or took >= self.after:
                estimate.add(took)
        self.learned = True

    def outcome(self) -> Any:
        """Return or raise what the call ends with, the errors of other attempts attached to it."""
        error, others = self.error, self.others
        self.error = self.others = None
        if error is None:
            return self.result
        try:
            if others and isinstance(error, Exception):
                _attach(error, [one for one in others if one is not error], self.name)
            raise error
        finally:
            del error, others


def clock_of(policy: Hedge) -> Callable[[], float]:
    """Return what reads the clock of a policy."""
    clock = policy._config.clock
    return ambient.monotonic if clock is None else clock.monotonic


class _Errors(tuple[Exception, ...]):
    """Errors that travel with another one; of a class that cannot be rebuilt elsewhere only a note arrives."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, (tuple(_packed(error) for error in self),)


def _unpacked(errors: tuple[tuple[str, bytes], ...]) -> _Errors:
    return _Errors(_loaded(*one) for one in errors)


def _loaded(note: str, packed: bytes) -> Exception:
    import pickle

    try:
        error: Exception = pickle.loads(packed)  # noqa: S301  # part of a pickle that is being loaded anyway
    except Exception:
        return HoldfastError(note)
    return error


def _attach(error: Exception, others: list[Exception], name: str) -> None:
    for other in others:
        if len(getattr(error, "__notes__", ())) < _MAX_NOTES:
            _add_note(error, f"holdfast: a hedge of {name} failed too: {type(other).__name__}: {other}")
    try:
        error._holdfast_hedges = _Errors(others)  # type: ignore[attr-defined]  # ours, on an error of any class
    except Exception:  # a class that forbids new attributes: its error matters more
        return
