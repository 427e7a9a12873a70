"""Hedge: send a call again while the first is slow, and take whichever answers first."""

from __future__ import annotations

from holdfast.infrastructure.resilience._ambient import hot
from holdfast.infrastructure.resilience._frozen import Faults, Frozen, is_target
from holdfast.infrastructure.resilience._race import Tally
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.classify import TRANSIENT, _check_errors, _judge
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ParamSpec, TypeVar, overload

    from holdfast.infrastructure.resilience._bounds import Bounds
    from holdfast.infrastructure.resilience._compile import Code, Stack
    from holdfast.infrastructure.resilience.classify import Errors

    _P = ParamSpec("_P")
    _T = TypeVar("_T")

else:

    def overload(fn: object) -> object:
        """Stand in for typing.overload, which costs an import."""
        return fn


_LONGEST = 1e9  # 31 years; locks cannot count much further


class Quantile(Frozen):
    """The `q` quantile of past latencies as a delay: `initial` seconds until `samples` of them are known.

    It follows the last few hundred calls of one `Hedge`, between 1 ms and 100 s, to about 10 %.
    """

    __slots__ = ("initial", "q", "samples")

    q: float
    initial: float
    samples: int

    def __init__(self, q: float = 0.95, *, initial: float = 1.0, samples: int = 50) -> None:
        faults = Faults("Quantile")
        faults.number("q", q, 0, 0.999, above=True)
        faults.number("initial", initial, 0, _LONGEST, above=True)
        faults.number("samples", samples, 1, 500, whole=True)
        faults.finish()
        self._set(q=float(q), initial=float(initial), samples=samples)


_AFTER = Quantile()


class HedgeConfig(Frozen):
    """The settings of a `Hedge`, validated: frozen, keyword-only, comparable."""

    __slots__ = ("after", "budget", "clock", "max_hedges", "name", "on", "result", "workers")

    after: Quantile | float
    max_hedges: int
    on: Errors
    result: Callable[[Any], bool] | None
    budget: RetryBudget | None
    workers: int
    name: str | None
    clock: Clock | None

    def __init__(
        self,
        *,
        after: Quantile | float = _AFTER,
        max_hedges: int = 1,
        on: Errors = TRANSIENT,
        result: Callable[[Any], bool] | None = None,
        budget: RetryBudget | None = None,
        workers: int = 32,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        faults = Faults("Hedge")
        if isinstance(after, (int, float)) and not isinstance(after, bool):
            faults.number("after", after, 0, _LONGEST)
        else:
            ok = isinstance(after, Quantile)
            faults.check(ok, "after", after, "is no delay", "give seconds, or Quantile(0.95)")
        faults.number("max_hedges", max_hedges, 1, 100, whole=True)
        _check_errors(faults, "on", on)
        faults.callable("result", result, sync=True)
        # One for the first call and one for its hedge, or none would ever be sent.
        faults.number("workers", workers, 2, 1000, whole=True)
        for field, value, kind in (
            ("budget", budget, RetryBudget),
            ("name", name, str),
            ("clock", clock, Clock),
        ):
            ok = value is None or isinstance(value, kind)
            faults.check(ok, field, value, f"is not a {kind.__name__}", "give one or None")
        faults.finish()
        delay = after if isinstance(after, Quantile) else float(after)
        self._set(after=delay, max_hedges=max_hedges, on=on, result=result)
        self._set(budget=budget, workers=workers, name=name, clock=clock)


class Hedge(Policy):
    """Send up to `max_hedges` more calls, each `after` the one before, while none has succeeded. Idempotent calls only!

    The first success that `result` does not refuse wins, and so does an error that `on` calls permanent; another
    error sends the next call at once. When all fail the first call's outcome comes out, see `hedge_errors`. Losers are
    cancelled and count for nothing; sync, they are left behind in their threads (`workers` at most). A hedge takes a
    token of `budget`. Source: Dean & Barroso, "The Tail at Scale", CACM 2013.
    """

    __slots__ = ("_config", "_judge", "_lane", "_plain", "_tally")

    def __init__(
        self,
        after: Quantile | float = _AFTER,
        *,
        max_hedges: int = 1,
        on: Errors = TRANSIENT,
        result: Callable[[Any], bool] | None = None,
        budget: RetryBudget | None = None,
        workers: int = 32,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._config = HedgeConfig(
            after=after,
            max_hedges=max_hedges,
            on=on,
            result=result,
            budget=budget,
            workers=workers,
            name=name,
            clock=clock,
        )
        self._judge = _judge(on)
        self._lane: Any = None
        self._plain = result is None and budget is None
        self._tally = Tally(self._config)

    @property
    def config(self) -> HedgeConfig:
        """The settings."""
        return self._config

    @property
    def name(self) -> str | None:
        """The name in events; a decorated function's own name stands in when there is none."""
        return self._config.name

    @property
    def latency(self) -> float | None:
        """The quantile of past latencies as it is now, seconds; None while too few are known, or none is asked for."""
        return self._tally.latency

    @property
    def started(self) -> int:
        """How many hedges were sent."""
        return self._tally.started

    @property
    def won(self) -> int:
        """How many calls were decided by a hedge."""
        return self._tally.won

    def __repr__(self) -> str:
        config = self._config
        return f"Hedge({config.after!r}, max_hedges={config.max_hedges}, name={config.name!r})"

    def _keeps_state(self) -> bool:
        return True

    def _shape(self) -> tuple[Any, ...]:
        return ("hedge",)

    def _bind(self) -> dict[str, Any]:
        return {"p": self}

    def _emit(self, code: Code, at: int, inner: Callable[[], None]) -> None:
        code.line(f"_result = {code.slow('_hedge', f'_p{at}', '_stack', str(at))}")

    def _bounds(self, inner: Bounds) -> Bounds:
        config = self._config
        calls = 1.0 + config.max_hedges
        # The mean load in a full outage that lasts; the floor of a budget comes on top.
        load = calls if config.budget is None else min(calls, 1 + config.budget.share)
        return inner.but(
            attempts=calls * inner.attempts,
            amplification=load * inner.amplification,
            duration=_duration(config, inner.duration),
            hinted=_duration(config, inner.hinted),
        )


def _duration(config: HedgeConfig, call: float) -> float:
    """Return how long it takes when every call fails at the last moment."""
    # Each begins `after` the one before, or at its failure if that comes first; a quantile may have grown to that.
    delay = call if isinstance(config.after, Quantile) else min(config.after, call)
    return config.max_hedges * delay + call


@overload
def hedge(after: Callable[_P, _T], /) -> Callable[_P, _T]: ...


@overload
def hedge(
    after: Quantile | float = _AFTER,
    *,
    max_hedges: int = 1,
    on: Errors = TRANSIENT,
    result: Callable[[Any], bool] | None = None,
    budget: RetryBudget | None = None,
    workers: int = 32,
    name: str | None = None,
    clock: Clock | None = None,
) -> Hedge: ...


def hedge(after: Any = _AFTER, **settings: Any) -> Any:
    """Return a `Hedge`, to decorate an idempotent function with; given the function, decorate it with `Hedge()`."""
    return Hedge(**settings)(after) if is_target(after) else Hedge(after, **settings)


def hedge_errors(error: BaseException) -> tuple[Exception, ...]:
    """Return the errors of the hedges that failed too, in the order in which they failed; pickled with `error`."""
    others: tuple[Exception, ...] = getattr(error, "_holdfast_hedges", ())
    return tuple(others)


def _first(policy: Hedge, stack: Stack, at: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    from holdfast.infrastructure.resilience._race_threads import run  # threads: not before a sync call

    hot["_hedge"] = run
    return run(policy, stack, at, args, kwargs)


async def _first_async(
    policy: Hedge, stack: Stack, at: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    from holdfast.infrastructure.resilience._race_tasks import run  # asyncio: not before somebody awaits

    hot["_hedge_async"] = run
    return await run(policy, stack, at, args, kwargs)


hot.update(_hedge=_first, _hedge_async=_first_async)
