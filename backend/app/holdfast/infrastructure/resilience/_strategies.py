"""The pipeline that an operation's settings stand for, and how one takes over what another one knows."""

from __future__ import annotations

from functools import lru_cache

from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker, CircuitBreakerConfig
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.randomness import current_random
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.resilience.window import Window

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random
    from typing import Any

    from holdfast.infrastructure.resilience._compile import Code
    from holdfast.infrastructure.resilience.config import OperationSettings

_LEAST_PROBE = 30.0


class StrategyBackoff(Backoff):
    """Exponential between two bounds, plus a random part that is added afterwards and may exceed the upper one.

    tenacity's `wait_exponential(multiplier, max, min=min) + wait_random(0, jitter)`, as a `Backoff`: a server's hints
    are followed, and `explain()` knows the longest wait.
    """

    __slots__ = ("_minimum", "_spread")

    _minimum: float
    _spread: float

    def __init__(self, multiplier: float, minimum: float, maximum: float, spread: float) -> None:
        self._set(_base=float(multiplier), _cap=float(maximum), _factor=2.0, _step=0.0, _jitter="none")
        self._set(_minimum=float(minimum), _spread=float(spread))

    def delay(self, retry: int, previous: float = 0.0, random: Random | None = None) -> float:
        """Return seconds to wait before retry number `retry`."""
        chance = current_random() if random is None else random
        return self._least(retry) + self._spread * chance.random()

    def bound(self, retry: int) -> float:
        """Return the longest delay that retry number `retry` can have, seconds."""
        return self._least(retry) + self._spread

    def _least(self, retry: int) -> float:
        return max(self._minimum, super().bound(retry))

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*Backoff.__slots__, *self.__slots__)}

    def __repr__(self) -> str:
        """Show the numbers as configurations name them."""
        return f"exponential({self._base:g}, {self._minimum:g} to {self._cap:g}, jitter {self._spread:g})"


class Through(Policy):
    """Calls go straight through: what a name means while resilience is switched off; `kept` goes on when it is on."""

    __slots__ = ("kept",)

    def __init__(self, kept: Pipeline) -> None:
        self.kept = kept

    def __repr__(self) -> str:
        """Say what it is."""
        return "nothing: resilience is disabled"

    def _shape(self) -> tuple[Any, ...]:
        return ("disabled",)

    def _emit(self, code: Code, at: int, inner: Callable[[], None]) -> None:
        inner()


def policies_of(pipeline: Pipeline | None) -> Iterator[Policy]:
    """Yield the policies of a pipeline, also those that wait until resilience is on again."""
    for policy in () if pipeline is None else pipeline.policies:
        if isinstance(policy, Through):
            yield from policies_of(policy.kept)
        else:
            yield policy


@lru_cache(maxsize=256)
def _breaker_config(threshold: int, recovery: float, probes: int, deadline: float) -> CircuitBreakerConfig:
    """Return the settings of a breaker; one object for all operations that have the same."""
    return CircuitBreakerConfig(
        window=Window.consecutive(threshold),
        open_for=recovery,
        open_cap=recovery,
        open_jitter=0.0,
        half_open_calls=probes,
        half_open_timeout=max(_LEAST_PROBE, deadline),
    )


_backoff = lru_cache(maxsize=256)(StrategyBackoff)


class Plan:
    """A pipeline that is ready, and what has to happen when it takes the place of `like`: nothing that can fail."""

    __slots__ = ("_config", "_old", "breaker", "like", "pipeline")

    def __init__(self, settings: OperationSettings, like: Pipeline | None, *, enabled: bool) -> None:
        known = list(policies_of(like))
        self.like = like
        self._config = _breaker_config(
            settings.threshold, settings.recovery, settings.half_open_calls, settings.deadline
        )
        self._old = next((one for one in known if isinstance(one, CircuitBreaker)), None)
        self.breaker = self._breaker(settings.operation)
        budget = next(
            (one.config.budget for one in known if isinstance(one, Retry) and one.config.budget), None
        )
        pipeline = _pipeline(settings, self.breaker, budget or RetryBudget(settings.operation))
        name = settings.operation
        self.pipeline = pipeline if enabled else Pipeline(Through(pipeline), name=name)

    def _breaker(self, name: str) -> CircuitBreaker:
        old = self._old
        if old is not None and old.config.window.kind == "consecutive" and _is_plain(old.config):
            return old
        config = self._config
        return CircuitBreaker(name, **config._fields())

    def commit(self) -> None:
        """Let the breaker go on, by the new settings, from where it is."""
        old, new = self._old, self.breaker
        if old is new:
            with new._machine.lock:
                new._machine.config = self._config
        elif old is not None:
            _take_over(old, new)


def _is_plain(config: CircuitBreakerConfig) -> bool:
    """Return whether code that was compiled for a breaker with these settings may meet one of ours."""
    return config.slow_call_duration is None and config.result is None and config.clock is None


def _take_over(old: CircuitBreaker, new: CircuitBreaker) -> None:
    """Put a breaker into the state of one that looks back in another way: only the failures in the window are lost."""
    one, other = old._machine, new._machine
    with one.lock:
        mode, until, rounds, holds = one.mode, one.until, one.rounds, one.holds
    with other.lock:
        now = other.now()
        other.rounds = rounds
        if mode.value == "half-open":
            # The probes that are out belong to the old one.
            other.take_over(type(mode).OPEN, now, now)
        elif mode.value != "closed":
            other.take_over(mode, now, until)
        if holds:
            other.extra = holds


def _pipeline(settings: OperationSettings, breaker: CircuitBreaker, budget: RetryBudget) -> Pipeline:
    wait = _backoff(settings.multiplier, settings.minimum, settings.maximum, settings.jitter)
    inner = (
        Retry(settings.attempts, wait=wait, budget=budget),
        breaker,
        # Without it a call that hangs would be cut from outside the breaker, which would never learn of it.
        Timeout(settings.attempt_timeout),
    )
    # A single attempt has the whole deadline; a second bound of the same length would end it in the breaker's place.
    outer = () if settings.attempts == 1 else (Timeout(settings.deadline),)
    return Pipeline(*outer, *inner, name=settings.operation)
