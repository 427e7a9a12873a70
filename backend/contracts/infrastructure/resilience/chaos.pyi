"""Chaos: inject faults on purpose, to see whether the policies around them hold."""

from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy

_Error: TypeAlias = type[Exception] | Exception | Callable[[], Exception]

class ChaosConfig:
    """The settings of a `Chaos`, validated: frozen, keyword-only, comparable."""

    rate: float
    error: _Error | None
    latency: float | tuple[float, float] | None
    result: Any
    seed: int | None
    when: Callable[..., bool] | None
    enabled: bool
    name: str | None
    clock: Clock | None
    random: Random | None
    def __init__(
        self,
        *,
        rate: float,
        error: _Error | None = None,
        latency: float | tuple[float, float] | None = None,
        result: Any = ...,
        seed: int | None = None,
        when: Callable[..., bool] | None = None,
        enabled: bool = False,
        name: str | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None: ...

class Chaos(Policy):
    """Inject faults into calls: wait `latency` seconds or (least, most), raise `error`, answer `result`.

    Put it innermost. Each fault given strikes with probability `rate`, drawn by itself, in the same sequence for the
    same `seed`; an error outdoes a result, and neither calls the function. `error`: a class, a function of nothing
    that makes one, or an instance to copy; a callable `result` makes one. `when(*args, **kwargs)` says which calls
    may be struck. Off unless `enabled`; HOLDFAST_CHAOS=off in the environment holds every one off. Thread-safe.
    """

    def __init__(
        self,
        *,
        rate: float,
        error: _Error | None = None,
        latency: float | tuple[float, float] | None = None,
        result: Any = ...,
        seed: int | None = None,
        when: Callable[..., bool] | None = None,
        enabled: bool = False,
        name: str | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None: ...
    @property
    def config(self) -> ChaosConfig:
        """The settings; its `enabled` is how the policy began."""

    @property
    def name(self) -> str | None:
        """The name in events; a decorated function's own name stands in when there is none."""

    @property
    def enabled(self) -> bool:
        """Whether faults are injected now: switched on, and not held off by the environment."""

    def enable(self) -> None:
        """Inject from the next call on; a seeded sequence goes on where it was."""

    def disable(self) -> None:
        """Inject nothing more, in any thread; a call that is held up goes on within a second."""

def chaos(
    rate: float,
    *,
    error: _Error | None = None,
    latency: float | tuple[float, float] | None = None,
    result: Any = ...,
    seed: int | None = None,
    when: Callable[..., bool] | None = None,
    enabled: bool = False,
    name: str | None = None,
    clock: Clock | None = None,
    random: Random | None = None,
) -> Chaos:
    """Return a `Chaos`, to decorate with; keep it, to switch it on and off."""
