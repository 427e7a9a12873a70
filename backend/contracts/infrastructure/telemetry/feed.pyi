"""A feed of events with numbers, kept for a while, so that who was away can catch up."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

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

class Feed:
    """The last `size` events, with errors and values made small and JSON-able. Close it when nobody reads it any more.

    One that nobody refers to any more stops by itself. Publishing never blocks on a reader and costs O(1), plus one
    wake-up for each event loop that waits; readers that are slow lose the oldest, and are told. While there is a feed,
    every decision makes its event. Thread-safe; a forked child has its own copy, without followers.
    """

    def __init__(self, *, size: int = 1000) -> None: ...
    @property
    def last(self) -> int:
        """The number of the newest entry, 0 before the first."""

    @property
    def born(self) -> float:
        """When this feed was made, Unix time: numbers of a feed born at another time mean nothing here."""

    def publish(self, kind: str, name: str, fields: Mapping[str, Any]) -> FeedEntry:
        """Add an entry of one's own, such as a change of configuration. Safe from any thread; never raises.

        What is too long or too deep is cut: 200 characters, 50 items of a container, 6 levels, 1,000 values.
        """

    def since(self, number: int, *, limit: int = 100) -> list[FeedEntry]:
        """Return the entries after `number`, oldest first, `limit` at most; what is no longer kept is missing."""

    def follow(self, after: int) -> AsyncIterator[FeedEntry]:
        """Yield the entries after `after` and then each new one; several loops and threads may follow at once.

        Where entries were lost there is one of kind `gap`, with the number of the last that was, and their count as
        `lost`. When `after` has not come yet, it is another feed's: all that is kept follows, after a gap whose `lost`
        is None. A cancelled wait loses nothing: ask again. It ends when the feed is closed.
        """

    def close(self) -> None:
        """Stop listening to events and end every `follow`; what is kept can still be read."""
