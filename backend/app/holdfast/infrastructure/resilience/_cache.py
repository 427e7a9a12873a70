"""What a cache holds: results, and computations under way.

User code (key functions, hashes and comparisons of keys, predicates) runs outside the lock: what the lock guards is
found by the number that `hash` gave before, and replaced as a whole if it is still what was looked at.
"""

from __future__ import annotations

import os
import threading
from contextvars import ContextVar
from math import inf
from operator import attrgetter
from types import FunctionType

from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience._cache_keys import exact_key, items
from holdfast.infrastructure.resilience.classify import TRANSIENT, Verdict, _judge, classify
from holdfast.infrastructure.resilience.deadline import current_deadline
from holdfast.infrastructure.resilience.errors import CallRejectedError
from holdfast.infrastructure.resilience.randomness import current_random

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Iterator
    from typing import Any

    from holdfast.infrastructure.resilience.cache import CacheConfig

    Key = tuple[Any, ...]

_MANY = 1000
# Seconds between refreshes that fail: the first pause, doubled each time, and the longest.
_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


class _Shared:
    """The lock of all caches, held for less than a microsecond, and what tells a forked child from its parent."""

    __slots__ = ("epoch", "lock")

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew: in the child of a fork nobody is left to release the lock, or to end what was under way."""
        # Reentrant: the garbage collector may close an abandoned coroutine, and so end its wait, at any line.
        self.lock = threading.RLock()
        self.epoch = object()


shared = _Shared()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=shared.renew)


class Entry:
    """One result: when it came, until when it is fresh, and the cache's count when it was last used.

    After a refresh that failed nobody tries the next before `again`, after a `pause`.
    """

    __slots__ = ("again", "born", "key", "pause", "until", "used", "value")

    def __init__(self, key: Key, value: Any, born: float, until: float) -> None:
        self.key = key
        self.value = value
        self.born = born
        self.until = until
        self.used: float = 0
        self.again = -inf
        self.pause = 0.0


class Node:
    """A computation under way, as others see it that may come to wait for it in a circle."""

    __slots__ = ("needs",)

    def __init__(self) -> None:
        self.needs: list[Node] = []

    def reaches(self, other: Node) -> bool:
        """Return whether this waits for `other`, or for somebody who does."""
        seen: set[int] = set()
        ahead = [self]
        while ahead:
            node = ahead.pop()
            if node is other:
                return True
            if id(node) not in seen:
                seen.add(id(node))
                ahead += node.needs
        return False


# The computation that the running code is part of, the innermost one.
inside: ContextVar[Node | None] = ContextVar("holdfast_cache_inside", default=None)


class Flight:
    """One computation that others may wait for. While `lone`, its outcome is nobody's but its leader's.

    `place` is the leader's event loop, None for threads; `until` is the leader's deadline; `caller` is the leader's
    task while it waits.
    """

    __slots__ = (
        "at",
        "behind",
        "caller",
        "degraded",
        "done",
        "epoch",
        "error",
        "key",
        "lone",
        "node",
        "place",
        "result",
        "stale",
        "task",
        "twin",
        "until",
        "waiters",
    )

    done: threading.Event
    task: Task[None]

    def __init__(self, key: Key, place: object) -> None:
        self.key = key
        self.at = hash(key)
        self.place = place
        self.epoch = shared.epoch
        self.until = current_deadline()
        self.node = Node()
        self.caller: Task[Any] | None = None
        self.lone = True
        self.behind = self.degraded = False
        self.waiters = 0
        self.result: Any = None
        self.error: Exception | None = None
        self.twin: Exception | None = None
        self.stale: Entry | None = None

    def enter(self) -> Node | None:
        """Note that the running computation waits for this one; return it, to be given to `leave`."""
        me = inside.get()
        if me is not None:
            me.needs.append(self.node)
        return me

    def leave(self, me: Node | None) -> None:
        """Note that it waits no longer."""
        if me is not None:
            me.needs.remove(self.node)


class State:
    """Entries, computations under way and counts of one cache.

    `ticks` counts hits and other uses: generated code adds one for a hit, and notes the sum on the entry.
    """

    __slots__ = (
        "coalesced",
        "config",
        "entries",
        "epoch",
        "evictions",
        "flights",
        "functions",
        "judge",
        "many",
        "misses",
        "others",
        "sorted_at",
        "stale",
        "ticks",
        "victims",
    )

    def __init__(self, config: CacheConfig) -> None:
        self.config = config
        self.judge = _unavailable if config.on is None else _judge(config.on)
        self.entries: dict[Key, Entry] = {}
        self.flights: dict[int, tuple[Flight, ...]] = {}
        self.functions: dict[int, Any] = {}
        self.many = _MANY
        self.victims: list[Entry] = []
        self.epoch = shared.epoch
        self.sorted_at: float = 0
        self.ticks = self.others = 0
        self.stale = self.misses = self.coalesced = self.evictions = 0

    @property
    def hits(self) -> int:
        """How many calls were answered with a fresh entry."""
        return self.ticks - self.others

    def now(self) -> float:
        """Read the clock."""
        clock = self.config.clock
        return ambient.monotonic() if clock is None else clock.monotonic()

    def hit(self, entry: Entry) -> Any:
        """Return a fresh entry's value, as generated code does in its own lines."""
        self.ticks = entry.used = self.ticks + 1
        return entry.value

    def use(self, entry: Entry) -> None:
        """Mark an entry as used last, without a hit."""
        self.ticks = entry.used = self.ticks + 1
        self.others += 1

    def put_off(self, entry: Entry) -> None:
        """Let a while pass before anybody refreshes an entry again: less than its time, so that it can be seen."""
        longest = min(_LONGEST_PAUSE, self.config.ttl)
        entry.pause = min(2 * entry.pause or _PAUSE, longest)
        entry.again = self.now() + self.shortened(entry.pause)

    def shortened(self, seconds: float) -> float:
        """Return `seconds` less a random share of up to `jitter`."""
        config = self.config
        if not config.jitter:
            return seconds
        return seconds * (1 - config.jitter * (config.random or current_random()).random())

    # Computations under way

    def board(self, mine: Flight) -> Flight:
        """Return the flight of a key in a place: the one under way, or `mine`, which is now."""
        if self.epoch is not shared.epoch:
            self.flights, self.epoch = {}, shared.epoch
        while True:
            seen = self.flights.get(mine.at)
            for flight in seen or ():
                if flight.place is mine.place and flight.key == mine.key:
                    return flight
            if self._replace(mine.at, seen, (*(seen or ()), mine)):
                return mine

    def drop(self, flight: Flight) -> bool:
        """Let nobody else join a flight; return whether anybody could have."""
        while True:
            seen = self.flights.get(flight.at)
            if seen is None or flight not in seen:
                return False
            if self._replace(flight.at, seen, tuple(one for one in seen if one is not flight)):
                return True

    def _replace(self, at: int, seen: tuple[Flight, ...] | None, new: tuple[Flight, ...]) -> bool:
        with shared.lock:
            if self.flights.get(at) is not seen:
                return False
            if new:
                self.flights[at] = new
            else:
                del self.flights[at]
            return True

    # Entries

    def land(self, flight: Flight, entry: Entry | None = None) -> None:
        """End a flight, and keep its result unless the key was invalidated meanwhile."""
        if entry is not None and flight in self.flights.get(flight.at, ()):
            self.put(entry)
        # Only now: whoever finds no flight any more must find the entry.
        if not self.drop(flight) and entry is not None and self.entries.get(entry.key) is entry:
            self.remove(entry.key)

    def put(self, entry: Entry) -> None:
        """Keep an entry instead of the one before, and evict what is used least lately if there are too many."""
        before = self.entries.get(entry.key)
        self.use(entry)
        self.entries[entry.key] = entry
        if before is not None:
            before.used = inf
        self._remember(entry.key[0])
        while len(self.entries) > self.config.max_entries and self._evict():
            pass

    def remove(self, key: Key) -> bool:
        """Forget an entry; return whether there was one."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            entry.used = inf
        return entry is not None

    def _remember(self, fn: Any) -> None:
        """Note a function that has entries, for `invalidate`."""
        if id(fn) in self.functions:
            return
        if len(self.functions) >= self.many:
            known = [key[0] for key in list(self.entries)]
            self.functions = {id(one): one for one in known}
            self.many = max(_MANY, 2 * len(known))
        self.functions[id(fn)] = fn

    def _evict(self) -> bool:
        victim = self._victim()
        if victim is None:
            return False
        if self.entries.get(victim.key) is victim and self.remove(victim.key):
            with shared.lock:
                self.evictions += 1
        return True

    def _victim(self) -> Entry | None:
        """Return the entry that was used least lately: of those sorted last time, what was used since is younger."""
        while True:
            with shared.lock:
                while self.victims:
                    victim = self.victims.pop()
                    if victim.used <= self.sorted_at:
                        return victim
            at, entries = self.ticks, list(self.entries.values())
            if not entries:
                return None
            # Not all of them: what is replaced meanwhile would be kept alive.
            oldest = sorted(entries, key=attrgetter("used"))[: len(entries) // 16 + 16]
            # Threads without a GIL may lose ticks: the first must do, whatever it says.
            with shared.lock:
                self.sorted_at, self.victims = max(at, oldest[0].used), oldest[::-1]

    def invalidate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Forget what these arguments gave, for every function that can take them."""
        found = False
        for fn in self._functions():
            for key in self._keys(fn, args, kwargs):
                self._drop_all(key)
                found = self.remove(key) or found
        return found

    def _functions(self) -> list[Any]:
        flights = [flight.key[0] for found in list(self.flights.values()) for flight in found]
        return list({**self.functions, **{id(fn): fn for fn in flights}}.values())

    def _keys(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Key]:
        """Yield the keys that a call of `fn` may have: that of the decorated function, and that of `Cache.call`."""
        from inspect import signature

        own = self.config.key
        try:
            bound = signature(fn, follow_wrapped=False).bind(*args, **kwargs)
        except TypeError:
            return
        except ValueError:  # a C function that does not say what it takes
            yield fn, *((args, items(kwargs)) if own is None else (own(*args, **kwargs),))
            return
        bound.apply_defaults()
        if own is None:
            if type(fn) is FunctionType:
                yield exact_key(fn, bound.arguments)
            yield fn, args, items(kwargs)
            return
        yield fn, own(*bound.args, **bound.kwargs)
        try:
            key = own(*args, **kwargs)
        except Exception:  # such a call has no key
            return
        yield fn, key

    def _drop_all(self, key: Key) -> None:
        for flight in self.flights.get(hash(key), ()):
            if flight.key == key:
                self.drop(flight)

    def clear(self) -> None:
        """Forget every entry, and keep no result of what is under way."""
        with shared.lock:
            self.flights = {}
            self.victims = []
        self.functions = {}
        self.entries.clear()


def _unavailable(error: Exception) -> Verdict:
    """Judge as a fallback would: errors that pass, and calls that a policy refused."""
    return TRANSIENT if isinstance(error, CallRejectedError) else classify(error)
