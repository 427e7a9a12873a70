"""Cache: answer equal calls with one result, and make each call once however many ask for it."""

from __future__ import annotations

from holdfast.infrastructure.resilience._ambient import hot
from holdfast.infrastructure.resilience._cache import State
from holdfast.infrastructure.resilience._cache_calls import fill
from holdfast.infrastructure.resilience._cache_keys import source_of_key
from holdfast.infrastructure.resilience._compile import is_async_function
from holdfast.infrastructure.resilience._frozen import Faults, Frozen, refuse_bare
from holdfast.infrastructure.resilience.classify import _check_errors
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from random import Random
    from typing import Any

    from holdfast.infrastructure.resilience._compile import Code
    from holdfast.infrastructure.resilience.classify import Errors

_LONGEST = 1e9  # 31 years


class CacheConfig(Frozen):
    """The settings of a `Cache`, validated: frozen, keyword-only, comparable."""

    __slots__ = (
        "clock",
        "jitter",
        "key",
        "max_entries",
        "name",
        "on",
        "random",
        "stale_if_error",
        "stale_while_revalidate",
        "ttl",
    )

    ttl: float
    key: Callable[..., Hashable] | None
    jitter: float
    stale_if_error: float
    stale_while_revalidate: float
    max_entries: int
    on: Errors | None
    name: str | None
    clock: Clock | None
    random: Random | None

    def __init__(
        self,
        *,
        ttl: float,
        key: Callable[..., Hashable] | None = None,
        jitter: float = 0.1,
        stale_if_error: float = 0.0,
        stale_while_revalidate: float = 0.0,
        max_entries: int = 1000,
        on: Errors | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        self._set(
            ttl=ttl,
            key=key,
            jitter=jitter,
            stale_if_error=stale_if_error,
            stale_while_revalidate=stale_while_revalidate,
            max_entries=max_entries,
            on=on,
            name=name,
            clock=clock,
            random=random,
        )
        self._validate()

    def _validate(self) -> None:
        faults = Faults("Cache")
        faults.number("ttl", self.ttl, 0, _LONGEST, above=True)
        _check_key(faults, self.key)
        faults.number("jitter", self.jitter, 0, 1)
        faults.number("stale_if_error", self.stale_if_error, 0, _LONGEST)
        faults.number("stale_while_revalidate", self.stale_while_revalidate, 0, _LONGEST)
        faults.number("max_entries", self.max_entries, 1, 1_000_000, whole=True)
        if self.on is not None:
            _check_errors(faults, "on", self.on)
        name, clock, random = _plain(self.name), _plain(self.clock), _plain(self.random)
        faults.check(name is None or isinstance(name, str), "name", name, "is not text", "give a str or None")
        faults.check(
            clock is None or isinstance(clock, Clock), "clock", clock, "is no Clock", "give one or None"
        )
        faults.check(
            random is None or callable(getattr(random, "random", None)),
            "random",
            random,
            "is no source of random numbers",
            "give a random.Random or None",
        )
        faults.finish()


def _plain(value: object) -> object:
    return value


def _check_key(faults: Faults, key: object) -> None:
    faults.callable("key", key)
    if callable(key) and is_async_function(key):
        faults.add("key", key, "is a coroutine function", "give a plain function of the call's arguments")


class CacheInfo(Frozen):
    """What a cache has done: each figure counts since it was made, `entries` is how many it holds now.

    Calls answered `hits`: with a fresh result; `stale`: with an old one; `coalesced`: with what another call was
    computing. `misses`: how often the function was called.
    """

    __slots__ = ("coalesced", "entries", "evictions", "hits", "misses", "stale")

    hits: int
    stale: int
    misses: int
    coalesced: int
    entries: int
    evictions: int

    def __init__(
        self, *, hits: int, stale: int, misses: int, coalesced: int, entries: int, evictions: int
    ) -> None:
        self._set(
            hits=hits, stale=stale, misses=misses, coalesced=coalesced, entries=entries, evictions=evictions
        )


class Cache(Policy):
    """Answer equal calls with one result for `ttl` seconds, less a random share of up to `jitter`.

    At most `max_entries`, the one used least lately goes first. Calls of one key made at the same time become one
    (async: on each event loop). Within `stale_if_error` seconds past its time an old result answers for errors of `on`
    (None: transient ones and rejections); within `stale_while_revalidate` it answers at once while one call refreshes
    it, again after a pause if that fails: 1 s, doubled each time, at most 30 s and `ttl`. Degraded results are not
    kept. Safe to share between threads and tasks.
    """

    __slots__ = ("_state",)

    def __init__(
        self,
        ttl: float,
        *,
        key: Callable[..., Hashable] | None = None,
        jitter: float = 0.1,
        stale_if_error: float = 0.0,
        stale_while_revalidate: float = 0.0,
        max_entries: int = 1000,
        on: Errors | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        self._state = State(
            CacheConfig(
                ttl=ttl,
                key=key,
                jitter=jitter,
                stale_if_error=stale_if_error,
                stale_while_revalidate=stale_while_revalidate,
                max_entries=max_entries,
                on=on,
                name=name,
                clock=clock,
                random=random,
            )
        )

    @property
    def config(self) -> CacheConfig:
        """The settings."""
        return self._state.config

    @property
    def name(self) -> str | None:
        """The name in events and errors."""
        return self._state.config.name

    def invalidate(self, /, *args: Any, **kwargs: Any) -> bool:
        """Forget the result for these arguments, in every function of this cache; return whether there was one.

        What is being computed for them is not kept either, and no later call waits for it.
        """
        return self._state.invalidate(args, kwargs)

    def clear(self) -> None:
        """Forget every result; what is being computed is not kept either."""
        self._state.clear()

    def info(self) -> CacheInfo:
        """Return the counts as they are now."""
        state = self._state
        return CacheInfo(
            hits=state.hits,
            stale=state.stale,
            misses=state.misses,
            coalesced=state.coalesced,
            entries=len(state.entries),
            evictions=state.evictions,
        )

    def __len__(self) -> int:
        """Return how many results there are, old ones included."""
        return len(self._state.entries)

    def __bool__(self) -> bool:
        """Return True: an empty cache is a cache."""
        return True

    def __repr__(self) -> str:
        config = self.config
        return f"Cache({config.ttl:g}, max_entries={config.max_entries}, name={config.name!r})"

    def _keeps_state(self) -> bool:
        return True

    def _shape(self) -> tuple[Any, ...]:
        return ("cache", self.config.key is None, self.config.clock is None)

    def _bind(self) -> dict[str, Any]:
        state = self._state
        bound: dict[str, Any] = {"s": state, "get": state.entries.get}
        if state.config.key is not None:
            bound["key"] = state.config.key
        if state.config.clock is not None:
            bound["clock"] = state.config.clock.monotonic
        return bound

    def _emit(self, code: Code, at: int, inner: Callable[[], None]) -> None:
        # `inner` is not written: a call that reaches it is slow, and shared.
        if code.is_async:
            from holdfast.infrastructure.resilience import _cache_tasks  # it imports asyncio

            hot["_fill_async"] = _cache_tasks.fill_async
        own, now = self.config.key is None, "_now()" if self.config.clock is None else f"_clock{at}()"
        made = source_of_key(code.signature) if own else f"(_fn, _key{at}({code.signature.call}))"
        with code.block("try:"):
            code.line(f"_k{at} = {made}")
            code.line(f"_e{at} = _get{at}(_k{at})")
        with code.block("except Exception as _error:"):
            key = f"_k{at}" if own else "None"
            code.line(f"_k{at} = _e{at} = _no_key(_s{at}, _stack, {code.signature.args}, {key}, _error)")
        with code.block(f"if _e{at} is not None and {now} < _e{at}.until:"):
            code.line(f"_s{at}.ticks = _e{at}.used = _s{at}.ticks + 1")
            code.line(f"_result = _e{at}.value")
        with code.block("else:"):
            code.line(f"_result = {code.slow('_fill', f'_s{at}', f'_k{at}', '_stack', str(at + 1))}")


hot["_fill"] = fill


def cache(
    ttl: float,
    *,
    key: Callable[..., Hashable] | None = None,
    jitter: float = 0.1,
    stale_if_error: float = 0.0,
    stale_while_revalidate: float = 0.0,
    max_entries: int = 1000,
    on: Errors | None = None,
    name: str | None = None,
    clock: Clock | None = None,
    random: Random | None = None,
) -> Cache:
    """Return a `Cache`, to decorate with."""
    refuse_bare(ttl, "@cache(60.0)")
    return Cache(
        ttl,
        key=key,
        jitter=jitter,
        stale_if_error=stale_if_error,
        stale_while_revalidate=stale_while_revalidate,
        max_entries=max_entries,
        on=on,
        name=name,
        clock=clock,
        random=random,
    )
