"""How long to wait before a retry."""

from __future__ import annotations

from holdfast.infrastructure.resilience._frozen import Faults, Frozen
from holdfast.infrastructure.resilience.randomness import current_random

TYPE_CHECKING = False
if TYPE_CHECKING:
    from random import Random
    from typing import Literal

_JITTERS = ("full", "equal", "decorrelated", "none")
_YEAR = 365 * 86_400.0


class Backoff(Frozen):
    """An immutable delay function: exponential with jitter, linear or fixed; seconds everywhere.

    Delay k is drawn from d = `base * factor ** (k - 1) + step * (k - 1)`, capped at `cap` *before* the jitter
    ("Exponential Backoff and Jitter", AWS Architecture Blog, 2015): full U(0, d), equal d/2 + U(0, d/2), none d;
    decorrelated U(base, min(cap, 3 * previous)), which knows neither `factor` nor `step`.
    """

    __slots__ = ("_base", "_cap", "_factor", "_jitter", "_step")

    _base: float
    _cap: float
    _factor: float
    _step: float
    _jitter: Literal["full", "equal", "decorrelated", "none"]

    def __init__(
        self,
        *,
        base: float = 0.05,
        cap: float = 20.0,
        factor: float = 2.0,
        step: float = 0.0,
        jitter: Literal["full", "equal", "decorrelated", "none"] = "full",
    ) -> None:
        _check(base, cap, factor, step, jitter)
        self._set(
            _base=float(base), _cap=float(cap), _factor=float(factor), _step=float(step), _jitter=jitter
        )

    @property
    def base(self) -> float:
        """Delay of the first retry before jitter, seconds."""
        return self._base

    @property
    def cap(self) -> float:
        """Longest delay, seconds."""
        return self._cap

    @property
    def factor(self) -> float:
        """What the delay is multiplied by at each further retry."""
        return self._factor

    @property
    def step(self) -> float:
        """Seconds that are added at each further retry."""
        return self._step

    @property
    def jitter(self) -> Literal["full", "equal", "decorrelated", "none"]:
        """The kind of jitter."""
        return self._jitter

    def delay(self, retry: int, previous: float = 0.0, random: Random | None = None) -> float:
        """Return seconds to wait before retry number `retry` (from 1); `previous` is the delay before it."""
        jitter = self._jitter
        if jitter == "none" and self._factor == 1.0 and not self._step:
            return self._base
        if jitter == "decorrelated":
            low, high = self._base, min(self._cap, 3 * max(self._base, previous))
        else:
            high = self.bound(retry)
            if jitter == "none" or not high:
                return high
            low = high / 2 if jitter == "equal" else 0.0
        chance = current_random() if random is None else random
        return min(high, low + (high - low) * chance.random())

    def bound(self, retry: int) -> float:
        """Return the longest delay that retry number `retry` can have, seconds."""
        if retry < 1:
            raise ValueError(f"there is no retry number {retry}: the first one is number 1")
        try:
            if self._jitter == "decorrelated":
                return min(self._cap, self._base * 3.0**retry)
            done = retry - 1
            # A base of 0 stays 0, whatever it is multiplied by.
            grown = self._base and self._base * self._factor**done
            return min(self._cap, grown + self._step * done)
        except OverflowError:
            return self._cap

    @classmethod
    def fixed(cls, seconds: float) -> Backoff:
        """Wait exactly `seconds` every time."""
        faults = Faults("Backoff.fixed")
        faults.number("seconds", seconds, 0, _YEAR)
        faults.finish()
        return cls(base=seconds, cap=seconds, factor=1.0, jitter="none")

    @classmethod
    def linear(cls, base: float, step: float, *, cap: float = 20.0) -> Backoff:
        """Wait `base`, `base + step`, `base + 2 * step`, … up to `cap`, without jitter."""
        return cls(base=base, cap=cap, factor=1.0, step=step, jitter="none")

    @classmethod
    def none(cls) -> Backoff:
        """Retry at once."""
        return cls.fixed(0.0)


def backoff(
    *,
    base: float = 0.05,
    cap: float = 20.0,
    factor: float = 2.0,
    jitter: Literal["full", "equal", "decorrelated", "none"] = "full",
) -> Backoff:
    """Return an exponential `Backoff`."""
    return Backoff(base=base, cap=cap, factor=factor, jitter=jitter)


def _check(base: float, cap: float, factor: float, step: float, jitter: str) -> None:
    faults = Faults("Backoff")
    faults.number("base", base, 0, _YEAR)
    faults.number("cap", cap, _least(base), _YEAR)
    faults.number("factor", factor, 1, 1_000_000)
    faults.number("step", step, 0, _YEAR)
    faults.check(jitter in _JITTERS, "jitter", jitter, "is unknown", f"give one of {', '.join(_JITTERS)}")
    if jitter == "decorrelated":
        faults.check(base != 0, "base", base, "never grows by decorrelated jitter", "give a number above 0")
        faults.check(step == 0, "step", step, "means nothing to decorrelated jitter", "leave it out")
    faults.finish()


def _least(base: object) -> float:
    return min(base, _YEAR) if isinstance(base, (int, float)) and base > 0 else 0.0
