"""Rate limit: admit so many calls in so much time, let a few more wait, refuse the rest at once."""

from __future__ import annotations

from holdfast.infrastructure.resilience import _compile, _gcra
from holdfast.infrastructure.resilience._frozen import Faults, Frozen, refuse_bare
from holdfast.infrastructure.resilience._gcra import Gate, KeyedGate, admit, admit_async
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator
    from types import TracebackType
    from typing import Any

    from holdfast.infrastructure.resilience._bounds import Bounds

_LARGEST = 1e9
_YEAR = 366 * 86_400.0
# Calls a second; what is closer together than a microsecond, the float of a clock cannot tell apart for long. What is
# far apart must not overflow where it is multiplied by a burst.
_FASTEST, _SLOWEST = 1e6, 1e-9
_BLOCK = "rate limit"


class RateLimitConfig(Frozen):
    """The settings of a `RateLimit`, validated: frozen, keyword-only, comparable."""

    __slots__ = ("burst", "clock", "max_wait", "name", "per", "rate")

    rate: float
    per: float
    burst: int
    max_wait: float
    name: str | None
    clock: Clock | None

    def __init__(
        self,
        *,
        rate: float,
        per: float = 1.0,
        burst: int = 1,
        max_wait: float = 0.0,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._set(rate=rate, per=per, burst=burst, max_wait=max_wait, name=name, clock=clock)
        faults = Faults("RateLimit")
        self._check(faults)
        faults.finish()
        self._set(rate=float(rate), per=float(per), max_wait=float(max_wait))

    def _check(self, faults: Faults) -> None:
        faults.number("rate", self.rate, 0, _LARGEST, above=True)
        faults.number("per", self.per, 0, _YEAR, above=True)
        if _is_within(self.rate, _LARGEST) and _is_within(self.per, _YEAR):
            problem = f"is too fast per {self.per} s"
            faults.check(
                self.rate <= _FASTEST * self.per, "rate", self.rate, problem, "give at most 1e6 a second"
            )
            problem = f"is too slow per {self.per} s"
            faults.check(
                self.rate >= _SLOWEST * self.per, "rate", self.rate, problem, "give at least 1e-9 a second"
            )
        faults.number("burst", self.burst, 1, _LARGEST, whole=True)
        faults.number("max_wait", self.max_wait, 0, _LARGEST)
        faults.check(
            self.name is None or isinstance(self.name, str),
            "name",
            self.name,
            "is not text",
            "give a str or None",
        )
        faults.check(
            self.clock is None or isinstance(self.clock, Clock),
            "clock",
            self.clock,
            "is no Clock",
            "give one or None",
        )


def _is_within(value: object, most: float) -> bool:
    return isinstance(value, (int, float)) and 0 < value <= most


class RateLimit(Policy):
    """Admit `rate` calls in `per` seconds, `burst` of them at once. Safe to share between threads and tasks.

    A call that would have to wait waits its turn, first come, first served, for at most `max_wait` seconds and
    not beyond the deadline that `remaining()` tells; else it is refused at once. Raises RateLimitedError. Source:
    ITU-T I.371, generic cell rate algorithm.
    """

    __slots__ = ("_gate", "_key")

    def __init__(
        self,
        rate: float,
        *,
        per: float = 1.0,
        burst: int = 1,
        max_wait: float = 0.0,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        config = RateLimitConfig(rate=rate, per=per, burst=burst, max_wait=max_wait, name=name, clock=clock)
        self._gate = Gate(config)
        self._key: Hashable = None

    @classmethod
    def _of(cls, gate: KeyedGate, key: Hashable) -> RateLimit:
        """Return the limit of one key of a family."""
        hash(key)
        made = cls.__new__(cls)
        made._gate, made._key = gate, key
        return made

    @property
    def config(self) -> RateLimitConfig:
        """The settings, as they are now."""
        return self._gate.config

    @property
    def name(self) -> str | None:
        """The name in events and errors; `family[key]` for a key of a family that has one."""
        name = self._gate.config.name
        return name if name is None else self._gate.label(self._key, name)

    @property
    def available(self) -> int:
        """How many calls made now would be admitted at once."""
        return self._gate.available(self._key)

    @property
    def retry_after(self) -> float:
        """Seconds until a call made then would be admitted at once; 0 if it would be now."""
        return self._gate.wait_for(self._key)

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return self._gate.waiting(self._key)

    @property
    def rejected(self) -> int:
        """How many calls were refused since this was made; for a key of a family, calls of all its keys."""
        return self._gate.rejected

    def reconfigure(
        self, *, rate: float | None = None, per: float | None = None, burst: int | None = None
    ) -> None:
        """Change what is given, from now on; of a family, for every key. ConfigurationError changes nothing.

        Calls made before weigh as much as calls made from now on, and who waits keeps its place, even beyond
        `max_wait`; the first of the line may notice 1 s late.
        """
        _reconfigure(self._gate, rate, per, burst)

    def reset(self) -> None:
        """Forget every call made so far; who waits goes on, within 1 s."""
        self._gate.reset(self._key)

    def __enter__(self) -> float:
        """Wait for admission and give the seconds that took."""
        gate, key = self._gate, self._key
        return 0.0 if gate.passes(key) else admit(gate, key, _BLOCK)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing: however the block ended, it was made."""

    async def __aenter__(self) -> float:
        """Wait for admission and give the seconds that took."""
        gate, key = self._gate, self._key
        return 0.0 if gate.passes(key) else await admit_async(gate, key, _BLOCK)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing: however the block ended, it was made."""

    def __repr__(self) -> str:
        """Show the settings."""
        return f"RateLimit({_shown(self.config)}, name={self.name!r})"

    def _keeps_state(self) -> bool:
        return True

    def _shape(self) -> tuple[Any, ...]:
        keyed = isinstance(self._gate, KeyedGate)
        return ("rate_limit", keyed, self.config.clock is not None, _gcra.PLAIN)

    def _bind(self) -> dict[str, Any]:
        return {**_bound(self._gate), "k": self._key}

    def _emit(self, code: _compile.Code, at: int, inner: Callable[[], None]) -> None:
        _emit(self._gate, code, at)
        inner()

    def _bounds(self, inner: Bounds) -> Bounds:
        return inner.after(self.config.max_wait).raising("RateLimitedError")


class RateLimits(Policy):
    """A family of limits with the same settings, one per key (host, tenant, user): about 100 bytes for each.

    A key whose calls no longer matter is forgotten: when a new key comes `idle` seconds after the last time, or
    when there are `max_keys`. Should all still matter, those that will not soonest go first, up to one in 16 at once.
    """

    __slots__ = ("_gate", "_key")

    def __init__(
        self,
        rate: float,
        *,
        key: Callable[..., Hashable] | None = None,
        max_keys: int = 100_000,
        idle: float = 60.0,
        per: float = 1.0,
        burst: int = 1,
        max_wait: float = 0.0,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        faults = Faults("RateLimits")
        faults.number("max_keys", max_keys, 1, 10_000_000, whole=True)
        faults.number("idle", idle, 0, above=True)
        faults.callable("key", key, sync=True)
        faults.finish()
        config = RateLimitConfig(rate=rate, per=per, burst=burst, max_wait=max_wait, name=name, clock=clock)
        self._gate = KeyedGate(config, max_keys, float(idle))
        self._key = key

    @property
    def config(self) -> RateLimitConfig:
        """The settings of every key, as they are now."""
        return self._gate.config

    @property
    def name(self) -> str | None:
        """The family's name; a limit's is `family[key]`."""
        return self._gate.config.name

    @property
    def rejected(self) -> int:
        """How many calls were refused since this was made, of all keys."""
        return self._gate.rejected

    def reconfigure(
        self, *, rate: float | None = None, per: float | None = None, burst: int | None = None
    ) -> None:
        """Change what is given for every key, as `RateLimit.reconfigure` does."""
        _reconfigure(self._gate, rate, per, burst)

    def get(self, key: Hashable) -> RateLimit:
        """Return the limit of `key`: a view of the family's state, which can be made again at any time."""
        return RateLimit._of(self._gate, key)

    def peek(self, key: Hashable) -> RateLimit | None:
        """Return the limit of `key`, or None if the family knows of no call of it."""
        return RateLimit._of(self._gate, key) if key in self else None

    def discard(self, key: Hashable) -> None:
        """Forget the calls of `key`."""
        self._gate.reset(key)

    def __len__(self) -> int:
        """Return how many keys are known."""
        return len(self._gate.tats)

    def __iter__(self) -> Iterator[Hashable]:
        """Iterate over the keys that are known now."""
        return iter(self._gate.tats.copy())

    def __contains__(self, key: object) -> bool:
        """Return whether `key` is known."""
        return key in self._gate.tats

    def __repr__(self) -> str:
        """Show the settings."""
        return f"RateLimits({_shown(self.config)}, name={self.name!r})"

    def _keeps_state(self) -> bool:
        return True

    def _require(self, *, whole: bool) -> None:
        if self._key is None:
            raise TypeError(
                "RateLimits needs to know which limit a call belongs to: give key=, a function of the call's "
                "arguments, or use family.get(key) as the policy"
            )

    def _shape(self) -> tuple[Any, ...]:
        return ("rate_limits", self.config.clock is not None)

    def _bind(self) -> dict[str, Any]:
        self._require(whole=True)
        return {**_bound(self._gate), "key": self._key}

    def _emit(self, code: _compile.Code, at: int, inner: Callable[[], None]) -> None:
        args = "*_args, **_kwargs" if code.signature is _compile.CALLER else code.signature.call
        code.line(f"_k{at} = _key{at}({args})")
        _emit(self._gate, code, at)
        inner()

    def _bounds(self, inner: Bounds) -> Bounds:
        return inner.after(self.config.max_wait).raising("RateLimitedError")


def rate_limit(
    rate: float,
    *,
    per: float = 1.0,
    burst: int = 1,
    max_wait: float = 0.0,
    name: str | None = None,
    clock: Clock | None = None,
) -> RateLimit:
    """Return a `RateLimit`, to decorate with or as a `with` / `async with` block."""
    refuse_bare(rate, "@rate_limit(100)")
    return RateLimit(rate, per=per, burst=burst, max_wait=max_wait, name=name, clock=clock)


def _shown(config: RateLimitConfig) -> str:
    return f"{config.rate:g}, per={config.per:g}, burst={config.burst}, max_wait={config.max_wait:g}"


def _reconfigure(gate: Gate, rate: float | None, per: float | None, burst: int | None) -> None:
    given: dict[str, Any] = {"rate": rate, "per": per, "burst": burst}
    changed = {name: value for name, value in given.items() if value is not None}
    with gate.lock:  # two changes at once are two changes
        gate.change(RateLimitConfig(**{**gate.config._fields(), **changed}))


def _bound(gate: Gate) -> dict[str, Any]:
    bound: dict[str, Any] = {"g": gate, "l": gate.lock}
    if isinstance(gate, KeyedGate):
        bound["d"] = gate.tats
    clock = gate.config.clock
    return bound if clock is None else {**bound, "now": clock.monotonic}


def _emit(gate: Gate, code: _compile.Code, at: int) -> None:
    """Write the lines that admit a call of the key `_k{at}`, or leave it to the slow path."""
    keyed = isinstance(gate, KeyedGate)
    tat = f"_d{at}[_k{at}]" if keyed else f"_g{at}.tat"
    after = f"(_a{at} if _a{at} > _t{at} else _t{at}) + _g{at}.interval"
    code.line(f"_t{at} = {'_now' if gate.config.clock is None else f'_now{at}'}()")
    slow = f"{code.await_}_admit_at_gate{'_async' * code.is_async}"
    admit = f"{slow}(_g{at}, _k{at}, _stack.label({code.signature.args}))"
    if _gcra.PLAIN and not keyed:
        # On one line, so that no debugger stops between look and leap.
        code.line(f"if (_a{at} := {tat}) - _t{at} <= _g{at}.reach: {tat} = {after}")
        code.line(f"else: {admit}")
        return
    # `with`, not `acquire`: nothing can interrupt between the lock and the block that gives it back.
    with code.block(f"with _l{at}:"):
        code.line(f"_a{at} = _d{at}.get(_k{at}, _shut)" if keyed else f"_a{at} = {tat}")
        with code.block(f"if _a{at} - _t{at} <= _g{at}.reach:"):
            code.line(f"{tat} = {after}")
            code.line(f"_a{at} = None")
    with code.block(f"if _a{at} is not None:"):
        code.line(admit)
