"""Cache: answer equal calls with one result, and make each call once however many ask for it."""

from collections.abc import Callable, Hashable
from random import Random
from typing import Any

from holdfast.infrastructure.resilience.classify import Errors
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy

class CacheConfig:
    """The settings of a `Cache`, validated: frozen, keyword-only, comparable."""

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
    ) -> None: ...

class CacheInfo:
    """What a cache has done: each figure counts since it was made, `entries` is how many it holds now.

    Calls answered `hits`: with a fresh result; `stale`: with an old one; `coalesced`: with what another call was
    computing. `misses`: how often the function was called.
    """

    hits: int
    stale: int
    misses: int
    coalesced: int
    entries: int
    evictions: int
    def __init__(
        self, *, hits: int, stale: int, misses: int, coalesced: int, entries: int, evictions: int
    ) -> None: ...

class Cache(Policy):
    """Answer equal calls with one result for `ttl` seconds, less a random share of up to `jitter`.

    At most `max_entries`, the one used least lately goes first. Calls of one key made at the same time become one
    (async: on each event loop). Within `stale_if_error` seconds past its time an old result answers for errors of `on`
    (None: transient ones and rejections); within `stale_while_revalidate` it answers at once while one call refreshes
    it, again after a pause if that fails: 1 s, doubled each time, at most 30 s and `ttl`. Degraded results are not
    kept. Safe to share between threads and tasks.
    """

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
    ) -> None: ...
    @property
    def config(self) -> CacheConfig:
        """The settings."""

    @property
    def name(self) -> str | None:
        """The name in events and errors."""

    def invalidate(self, /, *args: Any, **kwargs: Any) -> bool:
        """Forget the result for these arguments, in every function of this cache; return whether there was one.

        What is being computed for them is not kept either, and no later call waits for it.
        """

    def clear(self) -> None:
        """Forget every result; what is being computed is not kept either."""

    def info(self) -> CacheInfo:
        """Return the counts as they are now."""

    def __len__(self) -> int:
        """Return how many results there are, old ones included."""

    def __bool__(self) -> bool:
        """Return True: an empty cache is a cache."""

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
