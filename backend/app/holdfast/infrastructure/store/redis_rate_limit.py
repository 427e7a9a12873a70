"""Rate limit shared through Redis: all processes together admit so many calls in so much time."""

from __future__ import annotations

import os
import threading

from holdfast.infrastructure.resilience import _compile
from holdfast.infrastructure.resilience._ambient import ambient, hot
from holdfast.infrastructure.resilience._bus import bus, emit
from holdfast.infrastructure.resilience._frozen import Faults, Frozen
from holdfast.infrastructure.resilience._given import ABSENT
from holdfast.infrastructure.resilience.deadline import remaining
from holdfast.infrastructure.resilience.errors import RateLimitedError
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.rate_limit import RateLimit, RateLimitConfig, RateLimits
from holdfast.infrastructure.store._rate_link import Health, Link
from holdfast.infrastructure.store._rate_script import (
    FORGET,
    GIVE_BACK,
    LOOK,
    TAKE,
    microseconds,
    plain,
    seconds,
    settings,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable, Hashable
    from types import TracebackType
    from typing import Any, Literal

    from holdfast.infrastructure.resilience._bounds import Bounds
    from holdfast.infrastructure.resilience.clock import Clock

_FALLBACKS = ("local", "admit", "refuse")
_SCHEMES = ("redis://", "rediss://", "unix://")
_MINUTE = 60.0

# Reentrant: the garbage collector may close an abandoned coroutine that is refused, at any line that holds it.
_setting: Any = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_setting._at_fork_reinit)


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


class RedisRateLimitState(Frozen):
    """What Redis said of a limit: how many calls it would admit at once, and the seconds until it would admit one."""

    __slots__ = ("available", "retry_after")

    available: int
    retry_after: float

    def __init__(self, *, available: int, retry_after: float) -> None:
        self._set(available=available, retry_after=retry_after)


class RedisRateLimit(Policy):
    """Admit `rate` calls in `per` seconds, `burst` of them at once, of all processes with this `name` together.

    `client`: a URL, or a client of yours, sync (with its own timeouts) or async; `async_client`: beside a sync one. One
    script hands out slots on the server's clock; the wait is here. When Redis does not answer within `timeout` seconds
    it is left alone for 1 s, then one call tries; meanwhile `on_failure` decides: a limit of this process's own, all
    calls, or none. `key`: one limit for each value (text, bytes, int, None, tuples of these; TypeError for all else).
    Raises RateLimitedError. Source: ITU-T I.371, generic cell rate algorithm.
    """

    __slots__ = ("_gate", "_key")

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
        if async_client is None and _is_awaited(client):
            client, async_client = None, client
        _check_clients(faults, client, async_client)
        faults.finish()
        self._gate = _Gate(config, name, key, client, async_client)
        self._key: Any = ABSENT

    @property
    def config(self) -> RedisRateLimitConfig:
        """The settings, as they are now in this process."""
        return self._gate.config

    @property
    def name(self) -> str:
        """The name in events, errors and keys; `name[key]` for one key."""
        return self._gate.label(self._key)

    @property
    def rejected(self) -> int:
        """How many calls of this process were refused since this was made, of all keys."""
        return self._gate.rejected

    @property
    def degraded(self) -> bool:
        """Whether Redis did not answer and `on_failure` decides."""
        return self._gate.link.health.until is not None

    def reconfigure(
        self, *, rate: float | None = None, per: float | None = None, burst: int | None = None
    ) -> None:
        """Change what is given, in this process, for every key. ConfigurationError changes nothing.

        Calls made before weigh as much as calls made from now on; who waits keeps its slot. Tell every process:
        each decides by its own settings.
        """
        given = {"rate": rate, "per": per, "burst": burst}
        self._gate.change({name: value for name, value in given.items() if value is not None})

    def get(self, key: Hashable) -> RedisRateLimit:
        """Return the limit of `key`, to decorate with, as a block, to look at. TypeError without `key=`."""
        if self._gate.key is None or self._key is not ABSENT:
            raise TypeError(f"{self.name!r} is one limit for all calls: give key= to have one for each key")
        made = RedisRateLimit.__new__(RedisRateLimit)
        made._gate, made._key = self._gate, plain(key)
        return made

    def inspect(self) -> RedisRateLimitState | None:
        """Ask Redis how much is left, in one round trip; None if it does not answer."""
        gate, key = self._gate, self._one()
        return _state(gate.link.ask(gate.link.sync(), LOOK, *gate.at(key)))

    async def ainspect(self) -> RedisRateLimitState | None:
        """Do as `inspect` does, without blocking the loop."""
        gate, key = self._gate, self._one()
        return _state(await gate.link.ask_async(gate.link.of_loop(), LOOK, *gate.at(key)))

    def reset(self) -> bool:
        """Forget every call made so far, of all processes; return whether Redis did. Who waits keeps its slot."""
        gate, key = self._gate, self._one()
        gate.forget(key)
        return gate.link.ask(gate.link.sync(), FORGET, *gate.at(key)) is not None

    async def areset(self) -> bool:
        """Do as `reset` does, without blocking the loop."""
        gate, key = self._gate, self._one()
        gate.forget(key)
        return await gate.link.ask_async(gate.link.of_loop(), FORGET, *gate.at(key)) is not None

    def _one(self) -> Any:
        """Return the key of this limit, ABSENT if it has none. TypeError for a limit of many keys."""
        if self._key is ABSENT and self._gate.key is not None:
            raise TypeError(f"{self.name!r} has a limit for each key: say which, by .get(key)")
        return self._key

    def close(self) -> None:
        """Close the sync connections to a URL; a later call opens one again."""
        self._gate.link.close()

    async def aclose(self) -> None:
        """Give back what calls that were cancelled have taken, and close the running loop's connections to a URL.

        Do so before the loop ends.
        """
        await self._gate.link.aclose()

    def __enter__(self) -> float:
        """Wait for admission and give the seconds that took."""
        return _admit(self._gate, self._one())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing: however the block ended, it was made."""

    async def __aenter__(self) -> float:
        """Wait for admission and give the seconds that took."""
        return await _admit_async(self._gate, self._one())

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
        return f"RedisRateLimit({self.name!r}, {shown}, on_failure={config.on_failure!r})"

    def _keeps_state(self) -> bool:
        return True

    def _shape(self) -> tuple[Any, ...]:
        return ("redis_rate_limit", self._by_arguments())

    def _by_arguments(self) -> bool:
        return self._gate.key is not None and self._key is ABSENT

    def _bind(self) -> dict[str, Any]:
        return {"g": self._gate, "k": self._gate.key if self._by_arguments() else self._key}

    def _emit(self, code: _compile.Code, at: int, inner: Callable[[], None]) -> None:
        args = "*_args, **_kwargs" if code.signature is _compile.CALLER else code.signature.call
        key = f"_k{at}({args})" if self._by_arguments() else f"_k{at}"
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
    if fine and async_client is not None:
        awaited = _is_awaited(async_client)
        faults.check(
            awaited, "async_client", async_client, "is for sync functions", "give a client of redis.asyncio"
        )
    if _is_awaited(client):
        faults.add("client", client, "is for async functions, as async_client is", "give one of the two")
        return
    pool = getattr(client, "connection_pool", None)
    if pool is not None:
        # What a connection says, not the settings: where they say nothing, versions of redis-py differ.
        endless = pool.connection_class(**pool.connection_kwargs).socket_timeout is None
        faults.check(
            not endless, "client", client, "waits for ever", "give it a socket_timeout, or give a URL"
        )


def _is_awaited(client: Any) -> bool:
    command = getattr(client, "execute_command", None)
    return command is not None and _compile.is_async_function(command)


def _state(reply: Any) -> RedisRateLimitState | None:
    if reply is None:
        return None
    available, wait = reply
    return RedisRateLimitState(available=int(available), retry_after=seconds(wait))


class _Slot:
    """What the script said of a call: taken or refused, the seconds to wait, what to give it back by."""

    __slots__ = ("receipt", "taken", "wait")

    def __init__(self, reply: Any) -> None:
        taken, wait, *self.receipt = reply
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
        """The clock on which calls wait."""
        return self.config.clock or ambient.clock

    def label(self, key: Any) -> str:
        """Return what events and errors call the limit of a key, ABSENT if there are none."""
        return self.name if key is ABSENT else f"{self.name}[{key}]"

    def at(self, key: Any) -> tuple[object, ...]:
        """Return the key in Redis and the numbers that the scripts want."""
        written = "" if key is ABSENT else f"[{key!a}]"
        return (f"{self.config.namespace}:{self.name}{written}", *self.numbers)

    def change(self, given: dict[str, Any]) -> None:
        """Take over settings."""
        with _setting:
            config = RedisRateLimitConfig(**{**self.config._fields(), **given})
            self.numbers = settings(config)
            self.config = config
            if self.local is not None:
                self.local.reconfigure(rate=config.rate, per=config.per, burst=config.burst)

    def forget(self, key: Any) -> None:
        """Let what stands in for Redis forget the calls of a key."""
        limit = self.of(key)
        if limit is not None:
            limit.reset()

    def of(self, key: Any) -> RateLimit | None:
        """Return the limit of a key that stands in for Redis, None if there is none."""
        return self.local.get(key) if isinstance(self.local, RateLimits) else self.local

    def longest(self) -> float:
        """Return for how many microseconds a call may wait."""
        left, most = remaining(), self.config.max_wait
        return microseconds(most if left is None else max(0.0, min(most, left)))

    def stand_in(self, key: Any) -> RateLimit | None:
        """Return who decides instead of Redis, None if that is to admit."""
        if self.config.on_failure == "refuse":
            until, now = self.link.health.until, self.link.health.now()
            raise self.refused(key, 0.0 if until is None else max(0.0, until - now), store_down=True)
        return self.of(key)

    def count(self) -> None:
        """Count a refusal."""
        with _setting:
            self.rejected += 1

    def refused(self, key: Any, wait: float, *, store_down: bool = False) -> RateLimitedError:
        """Tell that a call was refused, and return its error."""
        label = self.label(key)
        self.count()
        if bus.entries:
            emit("CallRejected", label, policy="rate_limit", retry_after=wait)
        return RateLimitedError(label, wait, True) if store_down else RateLimitedError(label, wait)

    def outcome(self, key: Any, slot: _Slot) -> float:
        """Tell what came of a call that Redis decided on, and return for how long it waited."""
        if not slot.taken:
            raise self.refused(key, slot.wait)
        if slot.wait > 0 and bus.entries:
            emit("CallDelayed", self.label(key), policy="rate_limit", seconds=slot.wait)
        return slot.wait


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


def _admit(gate: _Gate, key: Any) -> float:
    """Take a slot and wait for it; return for how long. RateLimitedError when refused."""
    key = key if key is ABSENT else plain(key)
    slot = _slot(gate, gate.at(key))
    if slot is not None:
        return gate.outcome(key, slot)
    limit = gate.stand_in(key)
    return 0.0 if limit is None else _counted(gate, limit)


async def _admit_async(gate: _Gate, key: Any) -> float:
    """Do as `_admit` does, without blocking the loop."""
    key = key if key is ABSENT else plain(key)
    slot = await _slot_async(gate, gate.at(key))
    if slot is not None:
        return gate.outcome(key, slot)
    limit = gate.stand_in(key)
    return 0.0 if limit is None else await _counted_async(gate, limit)


def _slot(gate: _Gate, at: tuple[object, ...]) -> _Slot | None:
    """Take a slot and wait for it, give it back if that is interrupted; None if Redis does not answer."""
    link, client = gate.link, gate.link.sync()
    # Until the answer is heard, only who asked is known to both sides.
    receipt: list[Any] = ["", mark := link.mark()]
    try:
        reply = link.ask(client, TAKE, *at, gate.longest(), mark)
        if reply is None:
            return None
        slot = _Slot(reply)
        receipt = slot.receipt
        if slot.taken and slot.wait > 0:
            gate.clock.sleep(slot.wait)
    except BaseException:
        link.ask(client, GIVE_BACK, *at, *receipt)
        raise
    return slot


async def _slot_async(gate: _Gate, at: tuple[object, ...]) -> _Slot | None:
    """Do as `_slot` does; the answer is heard even if this is cancelled before."""
    import asyncio

    link, client = gate.link, gate.link.of_loop()
    asked = link.start(client, TAKE, *at, gate.longest(), 0)
    if asked is None:
        return None
    try:
        reply = await asyncio.shield(asked)
        if reply is None:
            return None
        slot = _Slot(reply)
        if slot.taken and slot.wait > 0:
            await gate.clock.asleep(slot.wait)
    except GeneratorExit:  # closed from outside: nothing can be awaited, nor begun, any more
        raise
    except BaseException:
        back = link.keep(_give_back(link, client, at, asked))
        if asked.done():
            await asyncio.shield(back)
        raise
    return slot


async def _give_back(link: Link, client: Any, at: tuple[object, ...], asked: Task[Any]) -> None:
    """Give back the slot of a call that was cancelled, once it is known."""
    reply = await asked
    if reply is not None:
        await link.ask_async(client, GIVE_BACK, *at, *_Slot(reply).receipt)


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


hot.update(_admit_by_redis=_admit, _admit_by_redis_async=_admit_async)
