"""Rate limit shared through Redis: all processes together admit so many calls in so much time."""

from __future__ import annotations

import os
import threading

from holdfast.infrastructure.resilience import _compile
from holdfast.infrastructure.resilience._ambient import ambient, hot
from holdfast.infrastructure.resilience._bus import bus, emit
from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.resilience.deadline import current_deadline
from holdfast.infrastructure.resilience.errors import RateLimitedError
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.rate_limit import RateLimit, RateLimitConfig, RateLimits
from holdfast.infrastructure.store._rate_link import Health, Link
from holdfast.infrastructure.store._rate_script import GIVE_BACK, TAKE, microseconds, seconds, settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from types import TracebackType
    from typing import Any, Literal

    from holdfast.infrastructure.resilience._bounds import Bounds
    from holdfast.infrastructure.resilience.clock import Clock

_FALLBACKS = ("local", "admit", "refuse")
_SCHEMES = ("redis://", "rediss://", "unix://")
_MINUTE = 60.0

# Reentrant: the garbage collector may close an abandoned coroutine that is refused, at any line that holds it.
_counting: Any = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_counting._at_fork_reinit)


class RedisRateLimitConfig(RateLimitConfig):
    """The settings of a `RedisRateLimit`, validated: frozen, keyword-only, comparable."""

    __slots__ = ("namespace", "on_failure", "timeout")

    on_failure: Literal["local", "admit", "refuse"]
    namespace: str
    timeout: float

    def __init__(
        self,
        *,
        name: str,
        rate: float,
        per: float = 1.0,
        burst: int = 1,
        max_wait: float = 0.0,
        on_failure: Literal["local", "admit", "refuse"] = "local",
        namespace: str = "holdfast:rate",
        timeout: float = 0.25,
        clock: Clock | None = None,
    ) -> None:
        self._set(rate=rate, per=per, burst=burst, max_wait=max_wait, name=name, clock=clock)
        self._set(on_failure=on_failure, namespace=namespace, timeout=timeout)
        faults = Faults("RedisRateLimit")
        self._check(faults)
        faults.finish()
        self._set(rate=float(rate), per=float(per), max_wait=float(max_wait), timeout=float(timeout))

    def _check(self, faults: Faults) -> None:
        super()._check(faults)
        for path in ("name", "namespace"):
            text = getattr(self, path)
            fine = text and (path == "name" or isinstance(text, str))
            faults.check(fine, path, text, "is no text to make a key of", "give a str that is not empty")
        fine = self.on_failure in _FALLBACKS
        faults.check(
            fine, "on_failure", self.on_failure, "is unknown", f"give one of {', '.join(_FALLBACKS)}"
        )
        faults.number("timeout", self.timeout, 0, _MINUTE, above=True)

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*RateLimitConfig.__slots__, *self.__slots__)}


class RedisRateLimit(Policy):
    """Admit `rate` calls in `per` seconds, `burst` of them at once, of all processes with this `name` together.

    `client`: a URL, or a client of yours with its own timeouts (`async_client` for async functions). Slots are given
    out by one script on the server's clock, and waited for here. When Redis does not answer within `timeout` seconds
    it is left alone for 1 s, then one call tries; meanwhile `on_failure` decides: a limit of this process's own, all
    calls, or none. Raises RateLimitedError. Source: ITU-T I.371, generic cell rate algorithm.
    """

    __slots__ = ("_gate",)

    def __init__(
        self,
        client: Any,
        name: str,
        rate: float,
        *,
        per: float = 1.0,
        burst: int = 1,
        max_wait: float = 0.0,
        key: Callable[..., Hashable] | None = None,
        on_failure: Literal["local", "admit", "refuse"] = "local",
        namespace: str = "holdfast:rate",
        timeout: float = 0.25,
        async_client: Any = None,
        clock: Clock | None = None,
    ) -> None:
        config = RedisRateLimitConfig(
            name=name,
            rate=rate,
            per=per,
            burst=burst,
            max_wait=max_wait,
            on_failure=on_failure,
            namespace=namespace,
            timeout=timeout,
            clock=clock,
        )
        faults = Faults("RedisRateLimit")
        faults.callable("key", key, sync=True)
        _check_clients(faults, client, async_client)
        faults.finish()
        self._gate = _Gate(config, name, key, client, async_client)

    @property
    def config(self) -> RedisRateLimitConfig:
        """The settings."""
        return self._gate.config

    @property
    def name(self) -> str:
        """The name in events, errors and keys."""
        return self._gate.name

    @property
    def rejected(self) -> int:
        """How many calls of this process were refused since this was made, of all keys."""
        return self._gate.rejected

    @property
    def degraded(self) -> bool:
        """Whether Redis did not answer and `on_failure` decides."""
        return self._gate.link.health.until is not None

    def close(self) -> None:
        """Close the sync connections to a URL; a later call opens one again."""
        self._gate.link.close()

    async def aclose(self) -> None:
        """Close the running loop's connections to a URL; do so before the loop ends."""
        await self._gate.link.aclose()

    def __enter__(self) -> float:
        """Wait for admission and give the seconds that took."""
        self._gate.block()
        return _admit(self._gate, None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing: however the block ended, it was made."""

    async def __aenter__(self) -> float:
        """Wait for admission and give the seconds that took."""
        self._gate.block()
        return await _admit_async(self._gate, None)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing: however the block ended, it was made."""

    def __repr__(self) -> str:
        """Show the settings that matter most."""
        config = self.config
        shown = f"{config.rate:g}, per={config.per:g}, burst={config.burst}, max_wait={config.max_wait:g}"
        return f"RedisRateLimit({config.name!r}, {shown}, on_failure={config.on_failure!r})"

    def _shape(self) -> tuple[Any, ...]:
        return ("redis_rate_limit", self._gate.key is not None)

    def _bind(self) -> dict[str, Any]:
        gate = self._gate
        return {"g": gate} if gate.key is None else {"g": gate, "key": gate.key}

    def _emit(self, code: _compile.Code, at: int, inner: Callable[[], None]) -> None:
        args = "*_args, **_kwargs" if code.signature is _compile.CALLER else code.signature.call
        key = "None" if self._gate.key is None else f"_key{at}({args})"
        admit = "await _admit_by_redis_async" if code.is_async else "_admit_by_redis"
        code.line(f"{admit}(_g{at}, {key})")
        inner()

    def _bounds(self, inner: Bounds) -> Bounds:
        return inner.after(self.config.max_wait + self.config.timeout).raising("RateLimitedError")


def redis_rate_limit(
    client: Any,
    name: str,
    rate: float,
    *,
    per: float = 1.0,
    burst: int = 1,
    max_wait: float = 0.0,
    key: Callable[..., Hashable] | None = None,
    on_failure: Literal["local", "admit", "refuse"] = "local",
    namespace: str = "holdfast:rate",
    timeout: float = 0.25,
    async_client: Any = None,
    clock: Clock | None = None,
) -> RedisRateLimit:
    """Return a `RedisRateLimit`, to decorate with or as a `with` / `async with` block."""
    return RedisRateLimit(
        client,
        name,
        rate,
        per=per,
        burst=burst,
        max_wait=max_wait,
        key=key,
        on_failure=on_failure,
        namespace=namespace,
        timeout=timeout,
        async_client=async_client,
        clock=clock,
    )


def _check_clients(faults: Faults, client: Any, async_client: Any) -> None:
    usable = client.startswith(_SCHEMES) if isinstance(client, str) else hasattr(client, "execute_command")
    fine = usable or (client is None and async_client is not None)
    faults.check(fine, "client", client, "is no Redis", "give a client, or a URL such as redis://host:6379/0")
    fine = async_client is None or hasattr(async_client, "execute_command")
    faults.check(fine, "async_client", async_client, "is no Redis", "give a client of redis.asyncio or None")
    pool = getattr(client, "connection_pool", None)
    if pool is not None:
        # What a connection says, not the settings: where they say nothing, versions of redis-py differ.
        endless = pool.connection_class(**pool.connection_kwargs).socket_timeout is None
        faults.check(
            not endless, "client", client, "waits for ever", "give it a socket_timeout, or give a URL"
        )


class _Slot:
    """What the script said of a call: taken or refused, the seconds to wait, what to give it back by."""

    __slots__ = ("generation", "slot", "taken", "wait")

    def __init__(self, reply: Any) -> None:
        taken, wait, self.slot, self.generation = reply
        self.taken = bool(taken)
        self.wait = seconds(wait)


class _Gate:
    """One limit: settings, the way to Redis, and what stands in for it."""

    __slots__ = ("config", "key", "link", "local", "name", "numbers", "rejected")

    def __init__(
        self,
        config: RedisRateLimitConfig,
        name: str,
        key: Callable[..., Hashable] | None,
        client: Any,
        async_client: Any,
    ) -> None:
        self.config = config
        self.name = name
        self.key = key
        self.link = Link(client, async_client, config.timeout, Health(name, config.clock))
        self.numbers = settings(config)
        self.local = _local(config, keyed=key is not None)
        self.rejected = 0

    @property
    def clock(self) -> Clock:
        """The clock on which is waited."""
        return self.config.clock or ambient.clock

    def block(self) -> None:
        """Refuse to guard a block, whose key nobody knows."""
        if self.key is not None:
            raise TypeError(f"{self.name!r} has a limit for each key: a block has no arguments to tell which")

    def label(self, key: Hashable) -> str:
        """Return what events and errors call this."""
        return self.name if self.key is None else f"{self.name}[{key}]"

    def at(self, label: str) -> tuple[object, ...]:
        """Return the Redis key and the numbers that both scripts want."""
        return (f"{self.config.namespace}:{label}", *self.numbers)

    def longest(self) -> float:
        """Return for how many microseconds a call may wait."""
        until, most = current_deadline(), self.config.max_wait
        if until is not None:
            most = max(0.0, min(most, until - self.link.health.now()))
        return microseconds(most)

    def stand_in(self, key: Hashable, label: str) -> RateLimit | None:
        """Return who decides instead of Redis, None if that is to admit."""
        if self.config.on_failure == "refuse":
            until, now = self.link.health.until, self.link.health.now()
            raise self.refused(label, 0.0 if until is None else max(0.0, until - now))
        return self.local if isinstance(self.local, RateLimit | None) else self.local.get(key)

    def count(self) -> None:
        """Count a refusal."""
        with _counting:
            self.rejected += 1

    def refused(self, label: str, wait: float) -> RateLimitedError:
        """Tell that a call was refused, and return its error."""
        self.count()
        if bus.entries:
            emit("CallRejected", label, policy="rate_limit", retry_after=wait)
        return RateLimitedError(label, wait)


def _local(config: RedisRateLimitConfig, *, keyed: bool) -> RateLimit | RateLimits | None:
    if config.on_failure != "local":
        return None
    return (RateLimits if keyed else RateLimit)(
        config.rate,
        per=config.per,
        burst=config.burst,
        max_wait=config.max_wait,
        name=config.name,
        clock=config.clock,
    )


def _admit(gate: _Gate, key: Hashable) -> float:
    """Take a slot and wait for it; return for how long. RateLimitedError when refused."""
    label = gate.label(key)
    reply = gate.link.ask(TAKE, *gate.at(label), gate.longest())
    if reply is None:
        limit = gate.stand_in(key, label)
        return 0.0 if limit is None else _counted(gate, limit)
    slot = _Slot(reply)
    if not slot.taken:
        raise gate.refused(label, slot.wait)
    if slot.wait <= 0:
        return 0.0
    try:
        gate.clock.sleep(slot.wait)
    except BaseException:
        gate.link.ask(GIVE_BACK, *gate.at(label), slot.slot, slot.generation)
        raise
    return _delayed(label, slot.wait)


async def _admit_async(gate: _Gate, key: Hashable) -> float:
    """Do as `_admit` does, without blocking the loop."""
    label = gate.label(key)
    reply = await gate.link.ask_async(TAKE, *gate.at(label), gate.longest())
    if reply is None:
        limit = gate.stand_in(key, label)
        return 0.0 if limit is None else await _counted_async(gate, limit)
    slot = _Slot(reply)
    if not slot.taken:
        raise gate.refused(label, slot.wait)
    if slot.wait <= 0:
        return 0.0
    try:
        await gate.clock.asleep(slot.wait)
    except GeneratorExit:  # closed from outside: nothing can be awaited any more
        raise
    except BaseException:
        await gate.link.ask_async(GIVE_BACK, *gate.at(label), slot.slot, slot.generation)
        raise
    return _delayed(label, slot.wait)


def _counted(gate: _Gate, limit: RateLimit) -> float:
    try:
        return limit.__enter__()
    except RateLimitedError:
        gate.count()
        raise


async def _counted_async(gate: _Gate, limit: RateLimit) -> float:
    try:
        return await limit.__aenter__()
    except RateLimitedError:
        gate.count()
        raise


def _delayed(label: str, wait: float) -> float:
    if bus.entries:
        emit("CallDelayed", label, policy="rate_limit", seconds=wait)
    return wait


hot.update(_admit_by_redis=_admit, _admit_by_redis_async=_admit_async)
