"""A feed of events with numbers, kept for a while, so that who was away can catch up."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.resilience._weak import Weakly, when_gone
from holdfast.infrastructure.resilience.events import Event, subscribe
from holdfast.infrastructure.telemetry._plain import plain, text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

GAP: str = "gap"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedEntry:
    """One event: its number (from 1, no gaps), Unix time, kind (the event's class name), name, and its fields.

    Fields are JSON-able and small: text has at most 200 characters, an error is its `type` and `message`.
    """

    number: int
    at: float
    kind: str
    name: str
    fields: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""
        return {
            "number": self.number,
            "at": self.at,
            "kind": self.kind,
            "name": self.name,
            "fields": dict(self.fields),
        }


class _Line:
    """What the ring holds: an entry that gets its number last, when all that could fail is done."""

    __slots__ = ("at", "fields", "kind", "name", "number")

    def __init__(self, kind: str, name: str, fields: dict[str, Any]) -> None:
        self.number = 0
        self.at = ambient.clock.time()
        self.kind = kind
        self.name = name
        self.fields = fields

    def entry(self) -> FeedEntry:
        """Return it as its readers see it, who cannot change it for each other."""
        return FeedEntry(
            number=self.number,
            at=self.at,
            kind=self.kind,
            name=self.name,
            fields=dict(self.fields),
        )


class _Bell:
    """The followers of one event loop that wait for an entry. Only its loop's thread touches them."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Wake them all."""
        for future in self.waiting:
            if not future.done():
                future.set_result(None)


class Feed:
    """The last `size` events, with errors and values made small and JSON-able. Close it when nobody reads it any more.

    One that nobody refers to any more stops by itself. Publishing never blocks on a reader and costs O(1), plus one
    wake-up for each event loop that waits; readers that are slow lose the oldest, and are told. While there is a feed,
    every decision makes its event. Thread-safe; a forked child has its own copy, without followers.
    """

    _lock: threading.RLock
    _bells: dict[asyncio.AbstractEventLoop, _Bell]

    def __init__(self, *, size: int = 1000) -> None:
        faults = Faults("Feed")
        faults.number("size", size, 1, 1_000_000, whole=True)
        faults.finish()
        self._size = size
        self._ring: list[_Line | None] = [None] * size
        self._last = 0
        self._closed = False
        self._born = ambient.clock.time()
        self._renew()
        _feeds.add(self)
        self._subscription = subscribe(Weakly(self._hear))
        when_gone(self, self._subscription.close)

    @property
    def last(self) -> int:
        """The number of the newest entry, 0 before the first."""
        return self._last

    @property
    def born(self) -> float:
        """When this feed was made, Unix time: numbers of a feed born at another time mean nothing here."""
        return self._born

    def publish(self, kind: str, name: str, fields: Mapping[str, Any]) -> FeedEntry:
        """Add an entry of one's own, such as a change of configuration. Safe from any thread; never raises.

        What is too long or too deep is cut: 200 characters, 50 items of a container, 6 levels, 1,000 values.
        """
        small = plain(fields)
        facts = cast("dict[str, Any]", small) if isinstance(small, dict) else {"value": small}
        line = _Line(text(kind), text(name), facts)
        self._put(line)
        return line.entry()

    def since(self, number: int, *, limit: int = 100) -> list[FeedEntry]:
        """Return the entries after `number`, oldest first, `limit` at most; what is no longer kept is missing."""
        return [line.entry() for line in self._lines(number, limit)]

    def follow(self, after: int) -> AsyncIterator[FeedEntry]:
        """Yield the entries after `after` and then each new one; several loops and threads may follow at once.

        Where entries were lost there is one of kind `gap`, with the number of the last that was, and their count as
        `lost`. When `after` has not come yet, it is another feed's: all that is kept follows, after a gap whose `lost`
        is None. A cancelled wait loses nothing: ask again. It ends when the feed is closed.
        """
        return _Follower(self, after)

    def close(self) -> None:
        """Stop listening to events and end every `follow`; what is kept can still be read."""
        self._subscription.close()
        self._closed = True
        with self._lock:
            bells, self._bells = self._bells, {}
        _ring(bells)

    def _hear(self, event: Event) -> None:
        fields = {
            name: plain(getattr(event, name))
            for name in event.__dataclass_fields__
            if name != "name" and name != "at"  # noqa: PLR1714  # half the price of a set
        }
        self._put(_Line(type(event).__name__, text(event.name), fields))

    def _put(self, line: _Line) -> None:
        # Nothing is made while the lock is held: what the garbage collector then ran might publish too.
        with self._lock:
            number = line.number = self._last + 1
            self._ring[number % self._size] = line
            self._last = number
            bells = self._bells
            if bells:
                self._bells = {}
        if bells:
            _ring(bells)

    def _lines(self, after: int, limit: int) -> Iterator[_Line]:
        """Yield what the ring holds after a number, without the lock: publishers never wait for readers."""
        last = self._last
        first = max(after, last - self._size, 0) + 1
        for number in range(first, min(last, first + limit - 1) + 1):
            line = self._ring[number % self._size]
            if line is not None and line.number == number:  # else it was overwritten meanwhile
                yield line

    def _hang(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> _Bell:
        fresh = _Bell()
        with self._lock:
            bell = self._bells.setdefault(loop, fresh)
        bell.waiting.add(future)
        return bell

    def _leave(self, loop: asyncio.AbstractEventLoop, bell: _Bell, future: asyncio.Future[None]) -> None:
        bell.waiting.discard(future)
        with self._lock:
            if not bell.waiting and self._bells.get(loop) is bell:
                del self._bells[loop]

    def _renew(self) -> None:
        """Begin without followers: in the child of a fork nobody is left to release the lock or to be woken."""
        self._lock = threading.RLock()
        self._bells = {}


def _ring(bells: Mapping[asyncio.AbstractEventLoop, _Bell]) -> None:
    for loop, bell in bells.items():
        try:
            loop.call_soon_threadsafe(bell.ring)
        except Exception:  # noqa: S110  # the loop is closed, and its followers with it
            pass


class _Follower:
    """A reader's place. It is on no list while it does not wait, so that one that is dropped leaves nothing behind."""

    __slots__ = ("_feed", "_number")

    def __init__(self, feed: Feed, after: int) -> None:
        self._feed = feed
        self._number = max(after, 0)

    def __aiter__(self) -> _Follower:
        return self

    async def __anext__(self) -> FeedEntry:
        while (found := self._next()) is None:
            if self._feed._closed:
                raise StopAsyncIteration
            await self._wait()
        return found

    def _next(self) -> FeedEntry | None:
        feed, number = self._feed, self._number
        if number > feed._last:
            self._number = 0
            return _gap(0, lost=None)
        line = next(feed._lines(number, feed._size), None)
        if line is None:
            return None
        if line.number > number + 1:
            self._number = line.number - 1
            return _gap(line.number - 1, lost=line.number - 1 - number)
        self._number = line.number
        return line.entry()

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        bell = self._feed._hang(loop, future)
        try:
            # Looked at after the bell hangs: whoever publishes from here on rings it.
            if self._feed._last == self._number and not self._feed._closed:
                await future
        finally:
            self._feed._leave(loop, bell, future)


def _gap(number: int, *, lost: int | None) -> FeedEntry:
    return FeedEntry(number=number, at=ambient.clock.time(), kind=GAP, name="", fields={"lost": lost})


_feeds: weakref.WeakSet[Feed] = weakref.WeakSet()


def _renew() -> None:
    for feed in _feeds:
        feed._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
