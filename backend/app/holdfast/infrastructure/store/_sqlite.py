"""One tenant's jobs in one SQLite file: connections, transactions, errors, the clock, and waiting for changes."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
from collections import deque
from pathlib import Path
from threading import Event, Lock, local
from typing import TYPE_CHECKING, Any, Concatenate
from weakref import WeakSet

from holdfast.infrastructure.resilience.clock import SYSTEM, Clock
from holdfast.infrastructure.store import _boundaries
from holdfast.infrastructure.store._sql_link import SHIFT, P, Statements, T
from holdfast.infrastructure.store._sql_migrate import HEAD, check_version, unknown_version, upgrade
from holdfast.infrastructure.store._sql_quick import in_order, job_of
from holdfast.infrastructure.store._sqlite_quick import advance, claim
from holdfast.infrastructure.store._tenants import TENANT
from holdfast.infrastructure.store.state import Advanced, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from types import TracebackType

    from holdfast.infrastructure.store._sql_link import Transaction
    from holdfast.infrastructure.store.state import NewJob, Outcome, StepRef

# "hold", in the header of each file that is ours.
_OURS = 0x686F6C64
_POLL = 0.02
_READERS = 8
# Pages in the log before they are copied into the file: the larger, the less often a busy page is copied.
_CHECKPOINT = 4000
_PRIMARY = 0xFF
# What statements end with when tables have been changed under them.
_MISFITS = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH})
# Seconds to wait for a look at the version.
_PATIENCE = 1.0

_REMEDIES: dict[int, str] = {
    sqlite3.SQLITE_BUSY: "another process has been writing all this time; end it, or give a longer busy_timeout",
    sqlite3.SQLITE_LOCKED: "another process has been writing all this time; end it, or give a longer busy_timeout",
    sqlite3.SQLITE_FULL: "free space on the disk; nothing that was recorded is lost, and the store goes on by itself",
    sqlite3.SQLITE_READONLY: "let this user write the file and its folder",
    sqlite3.SQLITE_PERM: "let this user write the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "create the folder, and let this user write in it",
    sqlite3.SQLITE_NOTADB: "give the path of a database that holdfast made, or of no file yet",
    sqlite3.SQLITE_CORRUPT: "restore the file from a backup, or save what `sqlite3 FILE .recover` can read",
    sqlite3.SQLITE_IOERR: "look into the system's log: the disk or file system has failed",
}

# In a forked child, closing what the parent opened would take the parent's locks away.
_inherited: list[sqlite3.Connection] = []
_links: WeakSet[SqliteLink] = WeakSet()

_WORDS = {
    "any": "IN (SELECT value FROM json_each(?))",
    "lock": "",
    "share": "",
    "skip": "",
    # The planner judges an index by what it was when the table was analyzed, and may not use it when it matters.
    "pending": "INDEXED BY steps_pending",
    "running": "INDEXED BY steps_running",
    "expiring": "INDEXED BY jobs_expiring",
    "ending": "INDEXED BY jobs_ending",
    "rare": "INDEXED BY events_rare",
    "owed": "INDEXED BY outbox_pending",
    "with": "CROSS JOIN",
}


def _translate(text: str) -> str:
    return re.sub(r"@(\w+)", lambda found: _WORDS.get(found[1], found[1]), text)


_SQL = Statements(_translate)
# A few values are found sooner one by one than as a list.
_SPELT = 4
_PLACES = [f"IN ({', '.join('?' * count)})" for count in range(_SPELT + 1)]


class SqlitePlace:
    """Where a URL says the files of tenants are: one file and its namesakes, or a folder."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._folder = path.endswith("/") or self._path.is_dir()

    def _file(self, tenant: str) -> Path:
        if self._folder:
            return self._path / f"{tenant}.db"
        return self._path if tenant == "default" else self._path.with_suffix(f".{tenant}{self._path.suffix}")

    def tenants(self) -> list[str]:
        """Return whose files there are."""
        folder = self._path if self._folder else self._path.parent
        names = (match[1] for match in map(self._pattern().fullmatch, _names(folder)) if match)
        single = ["default"] if not self._folder and self._path.exists() else []
        return sorted([*single, *names])

    def _pattern(self) -> re.Pattern[str]:
        if self._folder:
            return re.compile(rf"({TENANT})\.db")
        return re.compile(rf"{re.escape(self._path.stem)}\.({TENANT}){re.escape(self._path.suffix)}")

    def exists(self, tenant: str) -> bool:
        """Return whether there is a file of a tenant."""
        return self._file(tenant).exists()

    def create(self, tenant: str, busy_timeout: float) -> None:
        """Create or migrate the file of a tenant."""
        path = self._file(tenant)
        if self._folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        set_up(path, busy_timeout)

    def drop(self, tenant: str) -> None:
        """Delete the file of a tenant, with its log."""
        path = self._file(tenant)
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)

    def link(self, tenant: str, *, clock: Clock | None, busy_timeout: float) -> SqliteLink:
        """Open the file of a tenant."""
        return SqliteLink(self._file(tenant), tenant, clock=clock, busy_timeout=busy_timeout)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def connect(path: Path, busy_timeout: float) -> sqlite3.Connection:
    """Open the file for reading and writing; StoreUnavailableError if that cannot be."""
    try:
        connection = sqlite3.connect(
            path, timeout=busy_timeout, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise unavailable(path, error) from error
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        # Two that do this at once do not wait for each other, but here they do.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")


def unavailable(path: Path, error: sqlite3.Error, *, certain: bool = True) -> StoreUnavailableError:
    """Return the error that says which file, what is wrong and what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
    remedy = _REMEDIES.get(code, "see the error that this one follows from")
    return StoreUnavailableError(str(path), str(error), remedy, certain=certain)


def set_up(path: Path, busy_timeout: float) -> None:
    """Create or migrate the tables; nothing happens where they are as this version of the code wants them."""
    current = _version(path, busy_timeout)
    if current != HEAD:
        check_version(str(path), current)
        _migrate(path, busy_timeout)


def _version(path: Path, busy_timeout: float) -> str | None:
    """Return the version of the schema of a file; None where there is none."""
    connection = connect(path, busy_timeout)
    try:
        return _schema(path, connection)
    except sqlite3.Error as error:
        raise unavailable(path, error) from error
    finally:
        connection.close()


def _schema(path: Path, connection: sqlite3.Connection) -> str | None:
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if tables and owner != _OURS:
        raise StoreUnavailableError(
            str(path),
            f"is another program's database: it has tables, {', '.join(sorted(tables)[:3])} among them",
            "give jobs a file of their own",
        )
    if "alembic_version" not in tables:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return row[0] if row else None


def _migrate(path: Path, busy_timeout: float) -> None:
    try:
        upgrade(
            str(path),
            "sqlite",
            lambda: connect(path, busy_timeout),
            begin=["BEGIN IMMEDIATE"],
            end=[f"PRAGMA application_id = {_OURS}"],
        )
    except Exception as error:
        if isinstance(error.__cause__, sqlite3.Error):
            raise unavailable(path, error.__cause__) from error
        raise


def boot_id() -> str:
    """Return what tells this boot of this machine from others: within it, the monotonic clock is one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{sys.platform}:{round(SYSTEM.time() - SYSTEM.monotonic())}"


class _Transaction:
    """One use of one connection."""

    __slots__ = ("_connection", "news", "now", "specs", "tenant")

    def __init__(self, connection: sqlite3.Connection, link: SqliteLink) -> None:
        self._connection = connection
        self.tenant = link.tenant
        self.specs = link.specs
        self.now = link.now()
        self.news = False

    def all(self, text: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        return self._connection.execute(_SQL[text], values).fetchall()

    def one(self, text: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """Run a statement and return its first row."""
        rows = self._connection.execute(_SQL[text], values).fetchall()
        return rows[0] if rows else None

    def run(self, text: str, values: Sequence[Any] = ()) -> None:
        """Run a statement."""
        self._connection.execute(_SQL[text], values)

    def many(self, text: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row."""
        self._connection.executemany(_SQL[text], rows)

    def each(self, text: str, values: Sequence[Any] = ()) -> Iterable[tuple[Any, ...]]:
        """Run a statement and return its rows one by one, before the next statement."""
        return self._connection.execute(_SQL[text], values)

    def among(self, text: str, ids: Sequence[int | str], values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement whose last parameter, `@any`, is a list, and return its rows."""
        if len(ids) <= _SPELT:
            spelt = text.replace("@any", _PLACES[len(ids)])
            return self._connection.execute(_SQL[spelt], (*values, *ids)).fetchall()
        return self._connection.execute(_SQL[text], (*values, json.dumps(ids))).fetchall()

    def lease(
        self, worker: str, limit: int, job: str | None, handlers: Collection[str]
    ) -> list[tuple[Any, ...]]:
        """Lease steps of one job the short way; nothing, and no change, where that will not do."""
        return claim(self._connection, self.now, worker, limit, job, handlers)


_STAGED = "key, line, payload, must_succeed, timeout, target, depends_on, waits"
_ANALYZED = 1000


class _Stage:
    """Steps in a temporary table, which belongs to a connection and is gone with it."""

    def __init__(self, link: SqliteLink) -> None:
        self._link = link
        self._keyed = False

    def __enter__(self) -> _Stage:
        self._link._check_open()
        self._connection = connect(self._link.path, self._link._busy_timeout)
        self._connection.execute(f"CREATE TEMP TABLE staged (position INTEGER PRIMARY KEY, {_STAGED})")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()
        if isinstance(error, sqlite3.Error):
            raise failed(self._link.path, error) from error

    def fill(self, rows: Iterable[Sequence[Any]]) -> None:
        """Take rows."""
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT INTO staged VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self._connection.execute("COMMIT")

    def keys(self) -> _Keys:
        """Return what tells whether there is a step of a key."""
        self._connection.execute("CREATE INDEX IF NOT EXISTS temp.staged_key ON staged (key)")
        return _Keys(self._connection)

    def write(
        self, method: str, body: Callable[Concatenate[Transaction, P], T], *args: P.args, **named: P.kwargs
    ) -> T:
        """Run `body` in the transaction that takes them over."""
        return self._link._transact(
            self._connection,
            method,
            lambda writer: body(_Transaction(writer, self._link), *args, **named),
        )

    def take(self, no: int, waits: Mapping[str, Iterable[str]]) -> Iterable[tuple[str, int]]:
        """Make them the steps of a job, unless two have one key."""
        base = no << SHIFT
        try:
            self._connection.execute(
                f"INSERT INTO steps (id, job, position, {_STAGED}) SELECT ? + position, ?, position, {_STAGED} "
                "FROM staged ORDER BY position",
                (base, no),
            )
        except sqlite3.IntegrityError:
            return self._connection.execute(
                "SELECT key, line FROM (SELECT key, line, position, row_number() OVER "
                "(PARTITION BY key ORDER BY position) AS place FROM staged) WHERE place > 1 ORDER BY position"
            )
        self._connection.executemany(
            "INSERT INTO dependencies (on_step, step) SELECT ? + one.position, ? + other.position "
            "FROM staged AS one, staged AS other WHERE one.key = ? AND other.key = ?",
            ((base, base, on, key) for key, ons in waits.items() for on in set(ons)),
        )
        return ()

    def analyze(self) -> None:
        """Let the planner know about them, from a sample."""
        self._connection.execute(f"PRAGMA analysis_limit = {_ANALYZED}")
        self._connection.execute("ANALYZE steps")


class _Keys:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __contains__(self, key: object) -> bool:
        return self._connection.execute("SELECT 1 FROM staged WHERE key = ?", (key,)).fetchone() is not None


def roll_back(connection: sqlite3.Connection) -> None:
    """Leave a transaction, unless SQLite already has."""
    if connection.in_transaction:
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error:
            pass


def failed(path: Path, error: sqlite3.Error, *, certain: bool = True) -> StoreUnavailableError:
    """Return what the error of a statement means; where tables are not as they were, who has migrated them."""
    if getattr(error, "sqlite_errorcode", 0) & _PRIMARY in _MISFITS:
        current = _version(path, _PATIENCE)
        if current not in {None, HEAD}:
            return unknown_version(str(path), current)
    return unavailable(path, error, certain=certain)


class _NotPlainError(Exception):
    """The short way will not do."""


class SqliteLink:
    """The file of a tenant, open: one writer that threads take in turn, readers beside it."""

    def __init__(self, path: Path, tenant: str, *, clock: Clock | None, busy_timeout: float) -> None:
        self.path = path
        self.tenant = tenant
        self.specs: dict[int, NewJob] = {}
        self._busy_timeout = busy_timeout
        self._clock = clock or SYSTEM
        self._own_clock = clock is not None
        self._anchor = 0.0
        self._latest = 0.0
        self._closed = False
        self._forget()
        self._first = self._version()
        if not self._own_clock:
            self._anchor = self._anchored()
        _links.add(self)

    def _forget(self) -> None:
        """Begin without connections, as after a fork."""
        self._lock = Lock()
        self._writer: sqlite3.Connection | None = None
        self._readers: deque[sqlite3.Connection] = deque()
        self._monitor: sqlite3.Connection | None = None
        self._watch = Lock()
        self._seen = local()
        self._waiting: set[Event] = set()

    def _after_fork(self) -> None:
        _inherited.extend(filter(None, (self._writer, self._monitor, *self._readers)))
        self._forget()
        self._first = -1

    def now(self) -> float:
        """Return seconds since the epoch: the boot's anchor and its monotonic clock, or the clock that was given."""
        if not self._own_clock:
            return self._anchor + self._clock.monotonic()
        latest = self._latest = max(self._latest, self._clock.time())
        return latest

    def _anchored(self) -> float:
        """Return this boot's anchor; the first to ask begins at the wall clock's time, or the last event's."""
        boot = boot_id()
        return self.read(_anchor_of, boot) or self.write("anchor", self._anchor_now, boot)

    def _anchor_now(self, tx: Transaction, boot: str) -> float:
        known = _anchor_of(tx, boot)
        if known is not None:
            return known
        written = tx.one("SELECT coalesce((SELECT max(at) FROM @events), 0)")
        start = max(self._clock.time(), written[0] if written else 0.0)
        anchor = start - self._clock.monotonic()
        tx.run("INSERT INTO @clocks (boot, anchor) VALUES (?, ?)", (boot, anchor))
        return anchor

    def read(self, body: Callable[Concatenate[Transaction, P], T], *args: P.args, **named: P.kwargs) -> T:
        """Run `body` on one state of the file."""
        connection = self._reader()
        try:
            connection.execute("BEGIN")
            return body(_Transaction(connection, self), *args, **named)
        except sqlite3.Error as error:
            raise failed(self.path, error) from error
        finally:
            roll_back(connection)
            self._readers.append(connection)
            if self._closed:
                self._close_readers()

    def write(
        self, method: str, body: Callable[Concatenate[Transaction, P], T], *args: P.args, **named: P.kwargs
    ) -> T:
        """Run `body` while everybody else who writes waits, and commit."""
        return self._transact(None, method, lambda writer: body(_Transaction(writer, self), *args, **named))

    def _transact(
        self, connection: sqlite3.Connection | None, method: str, body: Callable[[sqlite3.Connection], T]
    ) -> T:
        with self._lock:
            writer = connection or self._writer or self._open_writer()
            committing = False
            try:
                writer.execute("BEGIN IMMEDIATE")
                result = body(writer)
                _boundaries.reach(f"store.{method}.before_commit")
                committing = True
                writer.execute("COMMIT")
            except BaseException as error:
                roll_back(writer)
                if isinstance(error, sqlite3.Error):
                    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
                    doubt = committing and code == sqlite3.SQLITE_IOERR
                    raise failed(self.path, error, certain=not doubt) from error
                raise
        _boundaries.reach(f"store.{method}.after_commit")
        if self._waiting:
            self._wake()
        return result

    def quick(self, worker: str, outcomes: Sequence[Outcome], begin: Sequence[StepRef]) -> Advanced | None:
        """Advance steps of one job, in few statements, if nothing but success is to be recorded; None if not."""
        job = job_of(outcomes, begin)
        if job is None:
            return None

        def body(writer: sqlite3.Connection) -> None:
            if not advance(writer, self.now(), worker, job, in_order(outcomes), begin):
                raise _NotPlainError

        try:
            self._transact(None, "advance", body)
        except _NotPlainError:
            return None
        return Advanced(begun=tuple(begin))

    def stage(self) -> _Stage:
        """Prepare for many steps, on a connection of their own."""
        return _Stage(self)

    def _open_writer(self) -> sqlite3.Connection:
        self._check_open()
        writer = self._writer = connect(self.path, self._busy_timeout)
        return writer

    def _reader(self) -> sqlite3.Connection:
        self._check_open()
        try:
            return self._readers.pop()
        except IndexError:
            return connect(self.path, self._busy_timeout)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailableError(str(self.path), "the store was closed", "open it again")

    def close(self) -> None:
        """Close every connection that nobody uses now; those in use close when they are given back."""
        self._closed = True
        with self._lock, self._watch:
            for connection in filter(None, (self._writer, self._monitor)):
                connection.close()
            self._writer = self._monitor = None
        self._close_readers()
        self._wake()

    def _close_readers(self) -> None:
        while self._readers:
            self._readers.pop().close()

    def wait(self, timeout: float) -> bool:
        """Block until somebody committed, here or in another process, since this thread's last wait."""
        event = Event()
        self._waiting.add(event)
        try:
            return self._waited(event, self._clock.monotonic() + timeout)
        finally:
            self._waiting.discard(event)

    def _waited(self, event: Event, deadline: float) -> bool:
        seen = getattr(self._seen, "version", self._first)
        while (version := self._version()) == seen:
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return False
            # A clock that was given may not pass by itself: there is only this process to wait for.
            self._clock.wait(event, left if self._own_clock else min(left, _POLL))
            event.clear()
        self._seen.version = version
        return True

    def _version(self) -> int:
        """Return a number that others' commits change; commits through this very connection would not."""
        with self._watch:
            self._check_open()
            if self._monitor is None:
                self._monitor = connect(self.path, self._busy_timeout)
            return int(self._monitor.execute("PRAGMA data_version").fetchone()[0])

    def _wake(self) -> None:
        for event in tuple(self._waiting):
            event.set()


def _anchor_of(tx: Transaction, boot: str) -> float | None:
    row = tx.one("SELECT anchor FROM @clocks WHERE boot = ?", (boot,))
    return None if row is None else float(row[0])


_held: list[Lock] = []


def _hold() -> None:
    """Let no link write while the process forks: SQLite would take its lock for held in the child for ever."""
    for link in tuple(_links):
        link._lock.acquire()
        _held.append(link._lock)


def _let_go() -> None:
    while _held:
        _held.pop().release()


def _forked() -> None:
    _held.clear()
    for link in tuple(_links):
        link._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_forked)
