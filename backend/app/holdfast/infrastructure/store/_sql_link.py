"""What SQLite and PostgreSQL have in common: one text of each statement, one shape of a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from holdfast.infrastructure.resilience.clock import Clock
    from holdfast.infrastructure.store.state import Advanced, NewJob, Outcome, StepRef

P = ParamSpec("P")
T = TypeVar("T")

QUIET = frozenset({"renew", "claim", "advance", "release", "acquire", "clear_dirty"})
"""What others wait for only when it says so by `news`."""


class Again(Exception):
    """Somebody else held what was needed, and it could not be waited for: run the transaction again."""


SHIFT = 32
"""A step's id is its job's number shifted so far, plus its position; an event's, plus its sequence number."""

MASK = (1 << SHIFT) - 1

STRIDE = 500
"""How far claims go before they look where the pending steps of a job begin."""


class Statements(dict[str, str]):
    """Each statement in the words of one database: `@steps` is a table, `?` a parameter, `@any` a list of them."""

    def __init__(self, translate: Callable[[str], str]) -> None:
        super().__init__()
        self._translate = translate

    def __missing__(self, text: str) -> str:
        made = self[text] = self._translate(text)
        return made


class Transaction(Protocol):
    """One transaction, of one thread.

    `specs` remembers jobs as they were submitted; `news`: somebody may wait for this.
    """

    tenant: str
    specs: dict[int, NewJob]
    news: bool

    @property
    def now(self) -> float:
        """Return the store's clock as it was when this began."""
        ...

    def all(self, text: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        ...

    def each(self, text: str, values: Sequence[Any] = ()) -> Iterable[tuple[Any, ...]]:
        """Run a statement and return its rows one by one, before the next statement."""
        ...

    def one(self, text: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """Run a statement and return its first row."""
        ...

    def run(self, text: str, values: Sequence[Any] = ()) -> None:
        """Run a statement; what is wrong with it may come out later in the transaction."""
        ...

    def many(self, text: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row."""
        ...

    def among(self, text: str, ids: Sequence[int | str], values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement whose last parameter, `@any`, is a list, and return its rows."""
        ...

    def lease(
        self, worker: str, limit: int, job: str | None, handlers: Collection[str]
    ) -> list[tuple[Any, ...]]:
        """Lease steps of one job, the most urgent, the short way; nothing, and no change, where that will not do."""
        ...


class Stage(Protocol):
    """Steps in a temporary table: no lock is held while they come in."""

    def fill(self, rows: Iterable[Sequence[Any]]) -> None:
        """Take rows: position, key, line, payload, must_succeed, timeout, target, depends_on, waits."""
        ...

    def keys(self) -> Container[str]:
        """Return what tells whether there is a step of a key."""
        ...

    def write(
        self, method: str, body: Callable[Concatenate[Transaction, P], T], *args: P.args, **named: P.kwargs
    ) -> T:
        """Run `body` in the transaction that takes them over."""
        ...

    def take(self, no: int, waits: Mapping[str, Iterable[str]]) -> Iterable[tuple[str, int]]:
        """Make them the steps of a job; return key and line of those whose key another has: then none was taken."""
        ...

    def analyze(self) -> None:
        """Let the planner know about them."""
        ...


class Place(Protocol):
    """Where tenants are kept."""

    def tenants(self) -> list[str]:
        """Return the names of all, sorted."""
        ...

    def exists(self, tenant: str) -> bool:
        """Return whether there is one of this name."""
        ...

    def create(self, tenant: str, busy_timeout: float) -> None:
        """Create or migrate one."""
        ...

    def drop(self, tenant: str) -> None:
        """Delete one and all its jobs."""
        ...

    def link(self, tenant: str, *, clock: Clock | None, busy_timeout: float) -> Link:
        """Open one."""
        ...


class Link(Protocol):
    """A tenant's database, from any thread and after a fork."""

    tenant: str

    def now(self) -> float:
        """Return seconds since the epoch on the store's clock."""
        ...

    def close(self) -> None:
        """Give back every connection."""
        ...

    def read(self, body: Callable[Concatenate[Transaction, P], T], *args: P.args, **named: P.kwargs) -> T:
        """Run `body` in a transaction that sees one state of the database and changes nothing."""
        ...

    def write(
        self, method: str, body: Callable[Concatenate[Transaction, P], T], *args: P.args, **named: P.kwargs
    ) -> T:
        """Run `body`, again if it must, in a transaction that is committed when this returns."""
        ...

    def quick(self, worker: str, outcomes: Sequence[Outcome], begin: Sequence[StepRef]) -> Advanced | None:
        """Advance steps of one job, in few statements, if nothing but success is to be recorded; None if not."""
        ...

    def stage(self) -> AbstractContextManager[Stage]:
        """Prepare for many steps, on a connection of their own."""
        ...

    def wait(self, timeout: float) -> bool:
        """Block until something was committed since this thread's last wait."""
        ...
