"""Retry budgets: a limit on the load that retries add, shared by everything that talks to one dependency."""

from __future__ import annotations

import os
import threading
from math import expm1

from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience._frozen import Faults, Frozen, refuse_copy
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.errors import RetryBudgetExhausted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# What ten deposits of 0.1 add up to must buy one retry.
_ONE = 1 - 1e-9


class RetryBudget:
    """A token bucket for retries; share one object between the policies of one dependency. Thread-safe, O(1).

    Each first attempt deposits `ratio` tokens, which fade with the time constant `ttl` seconds: at a steady rate
    there are `ttl` seconds' worth of them. `min_per_second` retries a second are always granted, one second's worth
    at once (Finagle's RetryBudget). A retry withdraws one token when it is decided, before its backoff.
    """

    # Where everything succeeds, generated code adds 1 to `_pending` and that is all; whatever else happens takes
    # the lock and first absorbs what is pending.
    __slots__ = ("_floor", "_kind", "_last", "_name", "_pending", "_stripe", "_tokens")

    _floor: float
    _last: float
    _pending: int
    _tokens: float

    def __init__(
        self,
        name: str | None = None,
        *,
        ratio: float = 0.1,
        min_per_second: float = 10.0,
        ttl: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        faults = Faults("RetryBudget")
        faults.number("ratio", ratio, 0, 10)
        faults.number("min_per_second", min_per_second, 0, 1_000_000)
        faults.number("ttl", ttl, 0, 86_400, above=True)
        faults.check(
            clock is None or isinstance(clock, Clock), "clock", clock, "is not a Clock", "give one or None"
        )
        _check_name(faults, name)
        self._start(name, _Ratio(float(ratio), float(min_per_second), float(ttl), clock))

    def _start(self, name: str | None, kind: _Kind) -> None:
        self._name = name
        self._kind = _COMMON.get(kind, kind)
        self._stripe = hash(self) % _LOCKS
        self.reset()

    @classmethod
    def aws(cls, name: str | None = None, *, tokens: float = 500.0) -> RetryBudget:
        """A quota of `tokens`: a retry costs 14, after throttling 5, refunded when it succeeds; a plain success adds 1.

        Source: the AWS SDKs' standard retry mode.
        """
        faults = Faults("RetryBudget.aws")
        faults.number("tokens", tokens, _Quota.PRICE, 1_000_000)
        _check_name(faults, name)
        made = cls.__new__(cls)
        made._start(name, _Quota(float(tokens)))
        return made

    @classmethod
    def grpc(cls, name: str | None = None, *, tokens: float = 10.0, token_ratio: float = 0.1) -> RetryBudget:
        """`tokens` that lose 1 per failure and win `token_ratio` per success; retries only above half (gRFC A6)."""
        faults = Faults("RetryBudget.grpc")
        faults.number("tokens", tokens, 0, 1000, above=True)
        faults.number("token_ratio", token_ratio, 0, 1000, above=True)
        _check_name(faults, name)
        made = cls.__new__(cls)
        made._start(name, _Throttle(float(tokens), float(token_ratio)))
        return made

    @property
    def name(self) -> str | None:
        """The name in events and errors."""
        return self._name

    @property
    def tokens(self) -> float:
        """Tokens that are there now."""
        with _locks[self._stripe]:
            self._kind.absorb(self)
            return self._floor + self._tokens

    def _peek(self) -> float:
        """Return the tokens and leave what is pending alone: what it is worth depends on when it is absorbed."""
        copy = RetryBudget.__new__(RetryBudget)
        with _locks[self._stripe]:
            for slot in ("_floor", "_last", "_pending", "_tokens"):
                setattr(copy, slot, getattr(self, slot))
            self._kind.absorb(copy)
        return copy._floor + copy._tokens

    @property
    def share(self) -> float:
        """Retries per first attempt that a lasting outage is granted, `min_per_second` aside."""
        return self._kind.share

    @property
    def capacity(self) -> float | None:
        """The most tokens that it can hold (`aws`, `grpc`); None where first attempts decide that."""
        return self._kind.capacity

    @property
    def counts_successes(self) -> bool:
        """Whether `deposit` counts successes, as for `aws` and `grpc`, and not first attempts."""
        return self._kind.counts_successes

    def rewards(self, *, first: bool) -> bool:
        """Return whether a success is a deposit: at the first attempt, or at a retry."""
        return self._kind.counts_successes and (first or self._kind.rewards_retries)

    def try_withdraw(self, *, throttled: bool = False) -> bool:
        """Take the price of one retry if it is there; return whether it was."""
        with _locks[self._stripe]:
            self._kind.absorb(self)
            return self._kind.withdraw(self, throttled=throttled)

    def withdraw(self, *, throttled: bool = False) -> None:
        """Take the price of one retry. RetryBudgetExhausted when it is not there."""
        if not self.try_withdraw(throttled=throttled):
            raise RetryBudgetExhausted(self._name or "retry budget")

    def refund(self, *, throttled: bool = False) -> None:
        """Give back the price of a retry that succeeded or was never made, where the kind of budget refunds."""
        with _locks[self._stripe]:
            self._kind.absorb(self)
            self._kind.refund(self, throttled=throttled)

    def deposit(self) -> None:
        """Count one first attempt (`aws`, `grpc`: one success)."""
        self._pending += 1

    def record_failure(self) -> None:
        """Count one failed attempt; only `grpc` budgets mind."""
        if self._kind.minds_failures:
            with _locks[self._stripe]:
                self._kind.absorb(self)
                self._kind.fail(self)

    def reset(self) -> None:
        """Forget everything, as if just made."""
        with _locks[self._stripe]:
            self._pending = 0
            self._kind.start(self)

    def __repr__(self) -> str:
        """Show the name and what is there."""
        return f"<RetryBudget {self._name or 'without a name'}: {self.tokens:.3g} tokens>"

    def __reduce__(self) -> NoReturn:
        """Refuse: a copy would be a second budget."""
        refuse_copy("RetryBudget")


class _Kind(Frozen):
    """What a token is worth: one frozen object for all budgets of the same settings; called under their locks."""

    __slots__ = ()

    share: float = 0.0
    counts_successes: bool = True
    minds_failures: bool = False
    rewards_retries: bool = False

    @property
    def capacity(self) -> float | None:
        """The most tokens that a budget holds, if there is one."""
        return None

    def start(self, budget: RetryBudget) -> None:
        """Fill the budget as a new one is filled."""
        raise NotImplementedError

    def absorb(self, budget: RetryBudget) -> None:
        """Turn what is pending into tokens and let time pass."""
        raise NotImplementedError

    def withdraw(self, budget: RetryBudget, *, throttled: bool) -> bool:
        """Take the price of a retry, if it is there."""
        raise NotImplementedError

    def refund(self, budget: RetryBudget, *, throttled: bool) -> None:
        """Give back the price of a retry."""

    def fail(self, budget: RetryBudget) -> None:
        """Pay for a failed attempt."""


class _Ratio(_Kind):
    """Tokens for first attempts, which fade, on top of a floor that refills with time and comes first: it is lost else.

    Fading is exponential because that alone does not depend on how often one looks: e^-(a+b) = e^-a * e^-b. What is
    pending is taken as spread evenly over the time since the last look, which counts a burst after a pause for less.
    """

    __slots__ = ("clock", "floor", "min_per_second", "share", "ttl")

    clock: Clock | None
    floor: float
    min_per_second: float
    ttl: float
    counts_successes = False

    def __init__(self, share: float, min_per_second: float, ttl: float, clock: Clock | None) -> None:
        floor = max(1.0, min_per_second) if min_per_second else 0.0
        self._set(share=share, min_per_second=min_per_second, ttl=ttl, clock=clock, floor=floor)

    def now(self) -> float:
        return ambient.monotonic() if self.clock is None else self.clock.monotonic()

    def start(self, budget: RetryBudget) -> None:
        budget._tokens = 0.0
        budget._floor = self.floor
        budget._last = self.now()

    def absorb(self, budget: RetryBudget) -> None:
        now = self.now()
        deposits, budget._pending = budget._pending, 0
        passed, budget._last = now - budget._last, now
        tokens, new = budget._tokens, deposits * self.share
        spans = passed / self.ttl
        # Not above 0 at the same instant, or when another clock took over.
        if spans > 0:
            faded = -expm1(-spans)
            tokens -= tokens * faded
            new *= faded / spans
            budget._floor = min(self.floor, budget._floor + passed * self.min_per_second)
        budget._tokens = tokens + new

    def withdraw(self, budget: RetryBudget, *, throttled: bool) -> bool:
        if budget._floor + budget._tokens < _ONE:
            return False
        left = budget._floor - 1
        budget._floor = max(0.0, left)
        budget._tokens = max(0.0, budget._tokens + min(0.0, left))
        return True


class _Quota(_Kind):
    """The AWS SDKs' retry quota; `absorb`, which comes before every look, sees to its limit."""

    __slots__ = ("tokens",)

    tokens: float
    PRICE = 14
    THROTTLED_PRICE = 5

    def __init__(self, tokens: float) -> None:
        self._set(tokens=tokens)

    @property
    def capacity(self) -> float:
        return self.tokens

    def price(self, *, throttled: bool) -> int:
        return self.THROTTLED_PRICE if throttled else self.PRICE

    def start(self, budget: RetryBudget) -> None:
        budget._tokens = self.tokens
        budget._floor = budget._last = 0.0

    def absorb(self, budget: RetryBudget) -> None:
        successes, budget._pending = budget._pending, 0
        budget._tokens = min(self.tokens, budget._tokens + successes)

    def withdraw(self, budget: RetryBudget, *, throttled: bool) -> bool:
        left = budget._tokens - self.price(throttled=throttled)
        if left < 0:
            return False
        budget._tokens = left
        return True

    def refund(self, budget: RetryBudget, *, throttled: bool) -> None:
        budget._tokens += self.price(throttled=throttled)


class _Throttle(_Kind):
    """gRPC's retry throttling."""

    __slots__ = ("token_ratio", "tokens")

    token_ratio: float
    tokens: float
    rewards_retries = True
    minds_failures = True

    def __init__(self, tokens: float, token_ratio: float) -> None:
        self._set(tokens=tokens, token_ratio=token_ratio)

    @property
    def capacity(self) -> float:
        return self.tokens

    def start(self, budget: RetryBudget) -> None:
        budget._tokens = self.tokens
        budget._floor = budget._last = 0.0

    def absorb(self, budget: RetryBudget) -> None:
        successes, budget._pending = budget._pending, 0
        budget._tokens = min(self.tokens, budget._tokens + successes * self.token_ratio)

    def withdraw(self, budget: RetryBudget, *, throttled: bool) -> bool:
        return budget._tokens > self.tokens / 2

    def fail(self, budget: RetryBudget) -> None:
        budget._tokens = max(0.0, budget._tokens - 1)


def _check_name(faults: Faults, name: object) -> None:
    faults.check(
        name is None or isinstance(name, str), "name", name, "is not a string", "give a name or None"
    )
    faults.finish()


# The default settings are one object each, whoever uses them.
_COMMON: dict[_Kind, _Kind] = {
    kind: kind for kind in (_Ratio(0.1, 10.0, 10.0, None), _Quota(500.0), _Throttle(10.0, 0.1))
}

# A lock of its own would be 88 of a budget's 200 bytes. These are held for a microsecond of arithmetic, so budgets
# that share one do not feel it.
_LOCKS = 31
_locks: list[Any] = []


def _renew_locks() -> None:
    """Make new locks: in the child of a fork nobody is left to release the old ones."""
    _locks[:] = [threading.RLock() for _ in range(_LOCKS)]


_renew_locks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
