"""What a run needs of the world: targets that do the work, where code comes from, who is told, and who wakes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from holdfast.infrastructure.store.blob import BlobStore

@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """An order as its target is told of it; the other fields are keys of the blob store. `timeout` in seconds.

    `archive`: what to execute, `started`: taken by who starts first, `result`: where to say how it ended, `log`: where
    the output goes.
    """

    run: str
    order: str
    number: int
    target: str
    timeout: float
    archive: str
    started: str
    result: str
    log: str

class Target(Protocol):
    """Where orders are executed. What starts one first calls `first_start`, and leaves it alone unless that is true."""

    def dispatch(self, work: Work) -> bool:
        """Hand over an order; False: no room now, ask again. Raises if it cannot be taken.

        After a crash the same order may come again.
        """

    def cancel(self, work: Work) -> None:
        """End an order soon, if it runs; it still says how it ended."""

class CodeSource(Protocol):
    """Where the code of orders is."""

    def files(self, location: str) -> Mapping[str, tuple[bytes, int]]:
        """Return content and mode of each file by its path, with `/`. ValueError says what is wrong with `location`."""

@dataclass(frozen=True, slots=True, kw_only=True)
class Comment:
    """What is told about a run. `tag` is part of `body`: the comment of a run is found again by it."""

    run: str
    tag: str
    body: str
    repository: str = ""
    token_location: str = ""
    pull_request: int | None = None
    issue: int | None = None

class RunNotifier(Protocol):
    """Whoever is told of runs; if it raises, that is logged and changes nothing."""

    def tell(self, comment: Comment) -> None:
        """Write a comment, or replace the one with the same tag."""

class RunTimer(Protocol):
    """Whoever calls `Runs.watchdog(run, number)` at a time on the store's clock; more than once does no harm."""

    def watch(self, run: str, number: int, at: float) -> None:
        """Remember to call; `number` is the order's, 0 for the run."""

class ResultListener(Protocol):
    """Whoever calls `Runs.receive(key)` when a result was stored; on a store that tells of its objects, nobody."""

    def stored(self, key: str) -> None:
        """Hear the key of a result."""

def first_start(blobs: BlobStore, work: Work, who: str = "target") -> bool:
    """Return whether this is the first start of an order: at most one caller ever hears yes."""
