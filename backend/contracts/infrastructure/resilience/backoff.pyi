"""How long to wait before a retry."""

from random import Random
from typing import Literal

class Backoff:
    """An immutable delay function: exponential with jitter, linear or fixed; seconds everywhere.

    Delay k is drawn from d = `base * factor ** (k - 1) + step * (k - 1)`, capped at `cap` *before* the jitter
    ("Exponential Backoff and Jitter", AWS Architecture Blog, 2015): full U(0, d), equal d/2 + U(0, d/2), none d;
    decorrelated U(base, min(cap, 3 * previous)), which knows neither `factor` nor `step`.
    """

    def __init__(
        self,
        *,
        base: float = 0.05,
        cap: float = 20.0,
        factor: float = 2.0,
        step: float = 0.0,
        jitter: Literal["full", "equal", "decorrelated", "none"] = "full",
    ) -> None: ...
    @property
    def base(self) -> float:
        """Delay of the first retry before jitter, seconds."""

    @property
    def cap(self) -> float:
        """Longest delay, seconds."""

    @property
    def factor(self) -> float:
        """What the delay is multiplied by at each further retry."""

    @property
    def step(self) -> float:
        """Seconds that are added at each further retry."""

    @property
    def jitter(self) -> Literal["full", "equal", "decorrelated", "none"]:
        """The kind of jitter."""

    def delay(self, retry: int, previous: float = 0.0, random: Random | None = None) -> float:
        """Return seconds to wait before retry number `retry` (from 1); `previous` is the delay before it."""

    def bound(self, retry: int) -> float:
        """Return the longest delay that retry number `retry` can have, seconds."""

    @classmethod
    def fixed(cls, seconds: float) -> Backoff:
        """Wait exactly `seconds` every time."""

    @classmethod
    def linear(cls, base: float, step: float, *, cap: float = 20.0) -> Backoff:
        """Wait `base`, `base + step`, `base + 2 * step`, … up to `cap`, without jitter."""

    @classmethod
    def none(cls) -> Backoff:
        """Retry at once."""

    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

def backoff(
    *,
    base: float = 0.05,
    cap: float = 20.0,
    factor: float = 2.0,
    jitter: Literal["full", "equal", "decorrelated", "none"] = "full",
) -> Backoff:
    """Return an exponential `Backoff`."""
