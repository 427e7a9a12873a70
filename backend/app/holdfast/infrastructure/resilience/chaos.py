"""Chaos: inject faults on purpose, to see whether the policies around them hold."""

from __future__ import annotations

import os

from holdfast.infrastructure.resilience._ambient import ambient, hot
from holdfast.infrastructure.resilience._bus import bus, callback_failed, emit
from holdfast.infrastructure.resilience._compile import is_async_function
from holdfast.infrastructure.resilience._frozen import Faults, Frozen, refuse_bare
from holdfast.infrastructure.resilience._given import ABSENT, fresh
from holdfast.infrastructure.resilience._tries import _add_note
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.deadline import current_deadline
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.randomness import current_random

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random
    from typing import Any, TypeAlias

    from holdfast.infrastructure.resilience._bounds import Bounds
    from holdfast.infrastructure.resilience._compile import Code, Stack

    _Error: TypeAlias = type[Exception] | Exception | Callable[[], Exception]

_SWITCH = "HOLDFAST_CHAOS"
_ON, _OFF = frozenset({"", "1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})
_MAX_TOLD = 100
_LONGEST = 3600.0
_SLICE = 1.0  # seconds after which a call that is held up sees that chaos was switched off


class ChaosConfig(Frozen):
    """The settings of a `Chaos`, validated: frozen, keyword-only, comparable."""

    __slots__ = (
        "clock",
        "enabled",
        "error",
        "latency",
        "name",
        "random",
        "rate",
        "result",
        "seed",
        "when",
    )

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
        result: Any = ABSENT,
        seed: int | None = None,
        when: Callable[..., bool] | None = None,
        enabled: bool = False,
        name: str | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        self._set(
            rate=rate,
            error=error,
            latency=latency,
            result=result,
            seed=seed,
            when=when,
            enabled=enabled,
            name=name,
            clock=clock,
            random=random,
        )
        self._validate()

    def _validate(self) -> None:
        faults = Faults("Chaos")
        faults.number("rate", self.rate, 0, 1)
        if self.error is None and self.latency is None and self.result is ABSENT:
            faults.add("error", None, "leaves nothing to inject", "give error=, latency= or result=")
        _check_error(faults, self.error)
        _check_latency(faults, self.latency)
        for path in ("result", "when"):
            _check_plain(faults, path, getattr(self, path))
        faults.callable("when", self.when)
        if self.seed is not None:
            _check_seed(faults, self.seed, self.random)
        name, enabled, clock = _plain(self.name), _plain(self.enabled), _plain(self.clock)
        faults.check(isinstance(enabled, bool), "enabled", enabled, "is not a bool", "give a bool")
        faults.check(name is None or isinstance(name, str), "name", name, "is not text", "give a str or None")
        faults.check(
            clock is None or isinstance(clock, Clock), "clock", clock, "is no Clock", "give one or None"
        )
        faults.check(
            self.random is None or callable(getattr(self.random, "random", None)),
            "random",
            self.random,
            "is no Random",
            "give one or None",
        )
        faults.finish()


def _plain(value: object) -> object:
    return value


def _check_seed(faults: Faults, seed: object, random: object) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool):
        faults.add("seed", seed, "is not a whole number", "give an int or None")
    if random is not None:
        faults.add("seed", seed, "contradicts random", "give one of the two")


def _check_plain(faults: Faults, path: str, function: object) -> None:
    if callable(function) and is_async_function(function):
        faults.add(path, function, "is a coroutine function", "give a plain one")


def _check_latency(faults: Faults, latency: Any) -> None:
    if latency.__class__ is not tuple:
        faults.number("latency", latency, 0, _LONGEST, above=True, optional=True)
    elif len(latency) != 2:  # noqa: PLR2004  # a pair
        faults.add("latency", latency, "is not a pair", "give seconds, or (least, most)")
    else:
        for at, seconds in enumerate(latency):
            faults.number(f"latency[{at}]", seconds, 0, _LONGEST)
        ordered = not all(isinstance(one, (int, float)) for one in latency) or latency[0] <= latency[1]
        faults.check(ordered, "latency", latency, "ends before it begins", "give (least, most)")


def _check_error(faults: Faults, error: object) -> None:
    if error is None:
        return
    remedy = "give an Exception class, an instance to copy, or a function that makes one"
    if isinstance(error, BaseException) or (isinstance(error, type) and issubclass(error, BaseException)):
        kind = error if isinstance(error, type) else type(error)
        if not issubclass(kind, Exception):
            faults.add("error", error, "is not an Exception: cancellation and exits are not injected", remedy)
        elif not _can_make(error):
            faults.add("error", error, "cannot be made anew for every call", "give a function that makes one")
    elif isinstance(error, type) or not callable(error):
        faults.add("error", error, "is no error", remedy)
    _check_plain(faults, "error", error)


def _can_make(error: Any) -> bool:
    try:
        made = _made(error)
    except Exception:
        return False
    kind = error if isinstance(error, type) else type(error)
    return made is not error and type(made) is kind


def _made(error: Any) -> Any:
    """Return a new error: made by a class or a function, copied from an instance."""
    if not isinstance(error, BaseException):
        return error()
    from copy import copy  # only who injects needs it

    made = copy(error)
    notes = getattr(error, "__notes__", None)
    if notes:
        made.__notes__ = [*notes]
    return made


class _Switch:
    """Whether a chaos policy is on: the one thing about it that changes, read by generated code."""

    __slots__ = ("on",)

    def __init__(self, *, on: bool) -> None:
        self.on = on


class Chaos(Policy):
    """Inject faults into calls: wait `latency` seconds or (least, most), raise `error`, answer `result`.

    Put it innermost. Each fault given strikes with probability `rate`, drawn by itself, in the same sequence for the
    same `seed`; an error outdoes a result, and neither calls the function. `error`: a class, a function of nothing
    that makes one, or an instance to copy; a callable `result` makes one. `when(*args, **kwargs)` says which calls
    may be struck. Off unless `enabled`; HOLDFAST_CHAOS=off in the environment holds every one off. Thread-safe.
    """

    __slots__ = ("_config", "_streams", "_switch")

    def __init__(
        self,
        *,
        rate: float,
        error: _Error | None = None,
        latency: float | tuple[float, float] | None = None,
        result: Any = ABSENT,
        seed: int | None = None,
        when: Callable[..., bool] | None = None,
        enabled: bool = False,
        name: str | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        self._config = ChaosConfig(
            rate=rate,
            error=error,
            latency=latency,
            result=result,
            seed=seed,
            when=when,
            enabled=enabled,
            name=name,
            clock=clock,
            random=random,
        )
        self._switch = _Switch(on=enabled)
        self._streams = None if seed is None else _seeded(seed)

    @property
    def config(self) -> ChaosConfig:
        """The settings; its `enabled` is how the policy began."""
        return self._config

    @property
    def name(self) -> str | None:
        """The name in events; a decorated function's own name stands in when there is none."""
        return self._config.name

    @property
    def enabled(self) -> bool:
        """Whether faults are injected now: switched on, and not held off by the environment."""
        return self._switch.on and _is_allowed()

    def enable(self) -> None:
        """Inject from the next call on; a seeded sequence goes on where it was."""
        self._switch.on = True

    def disable(self) -> None:
        """Inject nothing more, in any thread; a call that is held up goes on within a second."""
        self._switch.on = False

    def __repr__(self) -> str:
        """Show what was given, and whether it is on."""
        fields = {**self._config._fields(), "enabled": self.enabled}
        unset = (None, False, ABSENT)
        given = (
            f"{name}={value!r}" for name, value in fields.items() if not any(value is one for one in unset)
        )
        return f"Chaos({', '.join(given)})"

    def _shape(self) -> tuple[Any, ...]:
        return ("chaos",)

    def _bind(self) -> dict[str, Any]:
        return {"s": self._switch}

    def _emit(self, code: Code, at: int, inner: Callable[[], None]) -> None:
        with code.block(f"if _s{at}.on:"):
            code.line(f"_result = {code.slow('_chaos', '_stack', str(at))}")
        with code.block("else:"):
            inner()

    def _bounds(self, inner: Bounds) -> Bounds:
        if not self.enabled or not self._config.rate:
            return inner
        error = self._config.error
        bounds = inner.after(_span(self._config.latency)[1])
        if error is None:
            return bounds
        kind = type(error) if isinstance(error, Exception) else error
        return bounds.raising(kind.__name__ if isinstance(kind, type) else "whatever chaos injects")

    def _draw(self) -> tuple[float, str | None]:
        """Return the seconds to wait, and which fault follows, if any."""
        config = self._config
        least, most = _span(config.latency)
        slow = config.latency is not None and self._strikes("latency")
        fails = config.error is not None and self._strikes("error")
        answers = config.result is not ABSENT and self._strikes("result")
        seconds = least + (most - least) * self._source("seconds").random() if slow else 0.0
        return seconds, "error" if fails else "result" if answers else None

    def _strikes(self, fault: str) -> bool:
        return self._source(fault).random() < self._config.rate

    def _source(self, fault: str) -> Random:
        return self._config.random or current_random() if self._streams is None else self._streams[fault]


def chaos(
    rate: float,
    *,
    error: _Error | None = None,
    latency: float | tuple[float, float] | None = None,
    result: Any = ABSENT,
    seed: int | None = None,
    when: Callable[..., bool] | None = None,
    enabled: bool = False,
    name: str | None = None,
    clock: Clock | None = None,
    random: Random | None = None,
) -> Chaos:
    """Return a `Chaos`, to decorate with; keep it, to switch it on and off."""
    refuse_bare(rate, "@chaos(0.05, error=ConnectionError)")
    return Chaos(
        rate=rate,
        error=error,
        latency=latency,
        result=result,
        seed=seed,
        when=when,
        enabled=enabled,
        name=name,
        clock=clock,
        random=random,
    )


def _seeded(seed: int) -> dict[str, Random]:
    # One stream for each fault, one draw a call: however threads interleave, so many calls see so many faults.
    from random import Random

    return {fault: Random(f"{seed}/{fault}") for fault in ("latency", "seconds", "error", "result")}


def _is_allowed() -> bool:
    said = os.environ.get(_SWITCH, "")
    word = said.strip().lower()
    if word not in _ON and word not in _OFF:
        _tell_unknown(said)
    return word in _ON


_told: set[str] = set()


def _tell_unknown(said: str) -> None:
    """Say in the log, once for each value, that the switch holds off because nobody can tell what it says."""
    if said in _told or len(_told) >= _MAX_TOLD:
        return
    _told.add(said)
    import logging  # only where something is wrong

    logging.getLogger("holdfast").warning(
        "%s=%r is neither yes nor no, so chaos is held off: give 1, true, yes or on; 0, false, no or off; or nothing",
        _SWITCH,
        said,
    )


def _span(latency: float | tuple[float, float] | None) -> tuple[float, float]:
    if latency is None:
        return 0.0, 0.0
    return latency if isinstance(latency, tuple) else (latency, latency)


def _decide(stack: Stack, at: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float, str | None]:
    """Return what happens to this call: the seconds to wait, and which fault follows, if any."""
    chaos: Any = stack.parts[at]
    if not chaos.enabled or not _is_in_reach(stack, at, args, kwargs):
        return 0.0, None
    seconds, fault = chaos._draw()
    if seconds > 0:
        _tell(stack, at, args, "latency")
    return seconds, fault


def _is_in_reach(stack: Stack, at: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    chaos: Any = stack.parts[at]
    when = chaos._config.when
    try:
        return when is None or bool(when(*stack.own(args), **kwargs))
    except Exception as raised:
        callback_failed(_name(stack, at, args), "when", raised)
        return False


def _name(stack: Stack, at: int, args: tuple[Any, ...]) -> str:
    return stack.parts[at].name or stack.label(args)


def _tell(stack: Stack, at: int, args: tuple[Any, ...], fault: str) -> None:
    if bus.entries:
        emit("ChaosInjected", _name(stack, at, args), fault=fault)


def _waits(chaos: Chaos, clock: Clock, seconds: float) -> Iterator[float]:
    """Yield the sleeps of a latency: none past the deadline, where a client that minds it gives up."""
    end, bound = clock.monotonic() + seconds, current_deadline()
    until = end if bound is None else min(end, bound)
    while chaos.enabled:
        left = until - clock.monotonic()
        if left > 0:
            yield min(left, _SLICE)
        elif until < end:
            raise TimeoutError(f"chaos: a latency of {seconds:.3g} s does not fit the deadline")
        else:
            return


def _outcome(stack: Stack, at: int, fault: str | None, args: tuple[Any, ...]) -> Any:
    """Raise the error or return the result that is injected; ABSENT when the call is to be made."""
    chaos: Any = stack.parts[at]
    if fault is None or not chaos.enabled:
        return ABSENT
    config: ChaosConfig = chaos._config
    made = _make(config.error if fault == "error" else config.result, fault, _name(stack, at, args))
    if made is ABSENT:
        return ABSENT
    _tell(stack, at, args, fault)
    if fault == "result":
        return made
    _add_note(made, f"holdfast: injected by the chaos policy {_name(stack, at, args)}")
    try:
        raise made
    finally:
        del made


def _make(source: Any, fault: str, name: str) -> Any:
    """Return a new error or result; ABSENT when the user's function cannot make one."""
    try:
        if fault == "result":
            return source() if callable(source) else fresh(source)
        made = _made(source)
    except Exception as raised:
        callback_failed(name, f"{fault} function", raised)
        return ABSENT
    if isinstance(made, Exception):
        return made
    problem = TypeError(f"{made!r} is not an Exception: return one from the function given as error=")
    callback_failed(name, "error function", problem)
    return ABSENT


# What generated code calls while the policy is on.


def _inject(stack: Stack, at: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make a call that may be struck."""
    chaos: Any = stack.parts[at]
    seconds, fault = _decide(stack, at, args, kwargs)
    if seconds > 0:
        clock: Clock = chaos._config.clock or ambient.clock
        for wait in _waits(chaos, clock, seconds):
            clock.sleep(wait)
    outcome = _outcome(stack, at, fault, args)
    return stack.below(at + 1)(*args, **kwargs) if outcome is ABSENT else outcome


async def _inject_async(stack: Stack, at: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make an async call that may be struck."""
    chaos: Any = stack.parts[at]
    seconds, fault = _decide(stack, at, args, kwargs)
    if seconds > 0:
        clock: Clock = chaos._config.clock or ambient.clock
        for wait in _waits(chaos, clock, seconds):
            await clock.asleep(wait)
    outcome = _outcome(stack, at, fault, args)
    return await stack.below(at + 1)(*args, **kwargs) if outcome is ABSENT else outcome


hot.update(_chaos=_inject, _chaos_async=_inject_async)
