"""One tenant's jobs in one schema of PostgreSQL: connections, transactions, what to do when they break, and waiting."""

from __future__ import annotations

import os
import re
from collections import deque
from threading import Event, Lock, local
from typing import TYPE_CHECKING, Any, Concatenate
from urllib.parse import quote
from weakref import WeakSet

from holdfast.infrastructure.resilience.clock import SYSTEM, Clock
from holdfast.infrastructure.store import _boundaries
from holdfast.infrastructure.store import _sql_work as work
from holdfast.infrastructure.store._sql_link import QUIET, SHIFT, Again, P, Statements, T
from holdfast.infrastructure.store._sql_migrate import HEAD, check_version, unknown_version, upgrade
from holdfast.infrastructure.store._sql_quick import in_order, job_of, leased
from holdfast.infrastructure.store._sql_rows import CLAIMED, pack_positions
from holdfast.infrastructure.store._tenants import TENANT
from holdfast.infrastructure.store.state import Advanced, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from types import TracebackType

    from holdfast.infrastructure.store._sql_link import Transaction
    from holdfast.infrastructure.store.state import NewJob, Outcome, StepRef

try:
    import psycopg
    from psycopg import sql as quoting
    from psycopg.conninfo import conninfo_to_dict
except ImportError as error:
    raise ImportError(
        "jobs in PostgreSQL need psycopg, which is not installed: pip install 'holdfast[postgres]'"
    ) from error

_PREFIX = "holdfast_"
_IDLE = 16
_POLL = 1.0
_TURN = 0.2
_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.5)
# One for all: whoever migrates any tenant of this database waits for the others.
_MIGRATING = 0x686F6C64
_DEADLOCKS = 5
# Milliseconds, as many as PostgreSQL takes.
_LONGEST = 2**31 - 1
_POOLED = "pooled=true"
_SCHEMAS = (
    "SELECT nspname FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid "
    "WHERE c.relname = 'alembic_version'"
)

_WORDS = {
    "any": "= ANY(%s)",
    "lock": "FOR UPDATE",
    "share": "FOR KEY SHARE",
    "skip": "FOR UPDATE SKIP LOCKED",
    "pending": "",
    "running": "",
    "expiring": "",
    "ending": "",
    "rare": "",
    "owed": "",
    "with": "JOIN",
}
_REMEDIES = {
    "08": "start the server, or correct the URL",
    "28": "correct user and password in the URL, or in PGPASSWORD or the password file",
    "28000": "let the server's pg_hba.conf admit this user from here, or correct the URL",
    "3D": "create the database, or correct its name in the URL",
    "42501": "let this user use the tenant's schema and its tables, as its owner can: GRANT USAGE ON SCHEMA",
    "53": "free space or connections on the server; nothing that was recorded is lost",
    "55P03": "others have been working on these tables, or migrating them, all this time: end them, or try again",
    "57": "start the server again",
    "57P03": "the server is starting or ending: try again in a moment",
    "25006": "give the URL of a server that can be written to",
    # A prepared statement is there already, or is not: the session is another one than it was.
    "42P05": "behind a transaction pooler add pooled=true to the URL, as ?pooled=true",
    "26000": "behind a transaction pooler add pooled=true to the URL, as ?pooled=true",
}
_SEE = "see the error that this one follows from"
_REFUSALS = (
    (r'database ".*" does not exist', "3D000"),
    (r"no pg_hba\.conf entry|pg_hba\.conf rejects", "28000"),
    (r'password|authentication|role ".*" does not exist', "28P01"),
    (r"too many (clients|connections)|connection slots", "53300"),
    (r"the database system is", "57P03"),
)
# Others were first: serialization, deadlock, lock, or a job of the same key that was submitted just now.
_AGAIN = frozenset({"40001", "40P01", "55P03", "23505"})
_DEADLOCK = "40P01"
_NOT_ALLOWED = "42501"
# A schema that a role may not use is none for it.
_NO_SCHEMA = "3F000"
# Classes of what statements end with when tables have been changed under them, and a function that lost its place.
_MISFITS = frozenset({"42", "23", "0A", "22"})

# Connections are Any: psycopg takes only literal text for a statement, and these name a schema.
# In a forked child, closing what the parent opened would end the parent's sessions.
_inherited: list[Any] = []
_links: WeakSet[PostgresLink] = WeakSet()


class PostgresPlace:
    """The database of a URL: each tenant is a schema of it."""

    def __init__(self, url: str, *, pooled: bool = False) -> None:
        address, question, query = url.partition("?")
        words = query.split("&") if question else []
        left = "&".join(word for word in words if word != _POOLED)
        self._url = f"{address}?{left}" if left else address
        self._pooled = pooled or _POOLED in words
        check(self._url)

    def tenants(self) -> list[str]:
        """Return whose schemas there are."""
        names = (name.removeprefix(_PREFIX) for (name,) in self._ask(_SCHEMAS) if name.startswith(_PREFIX))
        return sorted(name for name in names if re.fullmatch(TENANT, name))

    def exists(self, tenant: str) -> bool:
        """Return whether there is a schema of a tenant."""
        return bool(self._ask(f"{_SCHEMAS} AND nspname = %s", _PREFIX + tenant))

    def create(self, tenant: str, busy_timeout: float) -> None:
        """Create or migrate the schema of a tenant."""
        current = version_of(self._url, tenant, pooled=self._pooled)
        if current == HEAD:
            return
        check_version(where(self._url), current)
        tries = 0
        while not self._migrated(tenant, busy_timeout, last=tries == _DEADLOCKS):
            tries += 1

    def _migrated(self, tenant: str, busy_timeout: float, *, last: bool) -> bool:
        """Migrate; False if somebody who works on the same tables was in the way, and it should be tried again."""
        name = _schema_of(tenant)
        create = f"IF to_regnamespace({_literal(name)}) IS NULL THEN CREATE SCHEMA {name}; END IF"
        begin = [
            f"SET LOCAL lock_timeout = {int(min(max(1000 * busy_timeout, 1), _LONGEST))}",
            f"SELECT pg_advisory_xact_lock({_MIGRATING})",
            f"DO $do$ BEGIN {create}; END $do$",
            f"SET LOCAL search_path TO {name}",
        ]
        try:
            upgrade(where(self._url), "postgresql+psycopg", self._connect, begin)
        except Exception as error:
            cause = error.__cause__
            if not isinstance(cause, psycopg.Error):
                raise
            if cause.sqlstate == _DEADLOCK and not last:
                return False
            raise unavailable(self._url, cause, remedy=_migration_remedy(cause, error)) from error
        return True

    def drop(self, tenant: str) -> None:
        """Delete the schema of a tenant."""
        self._ask(f"DROP SCHEMA {_schema_of(tenant)} CASCADE")

    def link(self, tenant: str, *, clock: Clock | None, busy_timeout: float) -> PostgresLink:
        """Open the schema of a tenant."""
        return PostgresLink(self._url, tenant, clock=clock, pooled=self._pooled, patience=busy_timeout)

    def _connect(self) -> Any:
        return connect(self._url, autocommit=False, pooled=self._pooled)

    def _ask(self, text: str, *values: str) -> list[tuple[Any, ...]]:
        connection = connect(self._url, pooled=self._pooled)
        try:
            cursor = connection.execute(text.encode(), values or None)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise unavailable(self._url, error) from error
        finally:
            connection.close()


def _schema_of(tenant: str) -> str:
    return quoting.Identifier(_PREFIX + tenant).as_string(None)


def _literal(text: str) -> str:
    return quoting.Literal(text).as_string(None)


def version_of(url: str, tenant: str, *, pooled: bool = False) -> str | None:
    """Return the version of a tenant's schema; None where there is none."""
    connection = connect(url, pooled=pooled)
    try:
        if connection.execute(f"{_SCHEMAS} AND nspname = %s", (_PREFIX + tenant,)).fetchone() is None:
            return None
        row = connection.execute(f"SELECT version_num FROM {_schema_of(tenant)}.alembic_version").fetchone()
        return None if row is None else str(row[0])
    except psycopg.Error as error:
        raise unavailable(url, error) from error
    finally:
        connection.close()


def _migration_remedy(cause: psycopg.Error, error: Exception) -> str:
    """Return what to do about a migration that failed, where that is not what helps otherwise; else nothing."""
    if cause.sqlstate == _NOT_ALLOWED and "CREATE SCHEMA" in str(getattr(error, "statement", "")):
        return "let this user create schemas in the database: GRANT CREATE ON DATABASE"
    if cause.sqlstate in {_NOT_ALLOWED, _NO_SCHEMA}:
        return "let the owner of the tenant's schema open it once, which migrates it"
    return ""


def connect(url: str, *, autocommit: bool = True, pooled: bool = False) -> Any:
    """Open a connection; StoreUnavailableError if that cannot be."""
    try:
        connection = psycopg.connect(url, autocommit=autocommit)
    except psycopg.Error as error:
        raise unavailable(url, error) from error
    if pooled:
        connection.prepare_threshold = None
    return connection


def check(url: str) -> None:
    """Raise ValueError, which repeats nothing of it, unless a URL can be read: a password may be what is wrong."""
    address, _, _ = url.partition("?")
    authority, _, path = address.partition("://")[2].partition("/")
    try:
        parts = conninfo_to_dict(url)
    except psycopg.Error:
        parts = {"port": "none"}
    ports = str(parts.get("port") or "0").split(",")
    if authority.count("@") > 1 or "@" in path or not all(port == "" or port.isdecimal() for port in ports):
        raise ValueError(
            "this URL of PostgreSQL cannot be read: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with user and "
            "password percent-encoded, and after ? what libpq knows"
        )


def where(url: str) -> str:
    """Return a URL without its user, password and settings."""
    parts = conninfo_to_dict(url)
    hosts = str(parts.get("host") or parts.get("hostaddr") or "").split(",")
    ports = str(parts.get("port") or "").split(",")
    # One port is that of each host.
    ports = ports * len(hosts) if len(ports) == 1 else ports
    named = (
        quote(host, safe="") if host[:1] == "/" else f"[{host}]" if ":" in host else host for host in hosts
    )
    servers = (f"{host}:{port}" if port else host for host, port in zip(named, ports, strict=False))
    return f"{url.partition('://')[0]}://{','.join(servers)}/{quote(str(parts.get('dbname') or ''))}"


def unavailable(
    url: str, error: psycopg.Error, *, certain: bool = True, remedy: str = ""
) -> StoreUnavailableError:
    """Return the error that says which database, what is wrong and what to do."""
    problem = error.diag.message_primary or " ".join(str(error).split())
    state = error.sqlstate or (_refusal(problem) if isinstance(error, psycopg.OperationalError) else "")
    remedy = remedy or _REMEDIES.get(state) or _REMEDIES.get(state[:2]) or _SEE
    return StoreUnavailableError(where(url), problem, remedy, certain=certain)


def _refusal(problem: str) -> str:
    """Return the state that stands for why there is no connection: libpq hands on the server's text only."""
    return next((state for words, state in _REFUSALS if re.search(words, problem)), "08")


class _Transaction:
    """One use of one connection; statements that return nothing are sent along with the next that does."""

    __slots__ = ("_connection", "_link", "_sql", "_time", "news", "pending", "specs", "tenant")

    def __init__(self, connection: Any, link: PostgresLink) -> None:
        self._connection = connection
        self._link = link
        self._sql = link.statements
        self._time: float | None = link.given_time()
        self.tenant = link.tenant
        self.specs = link.specs
        self.news = False
        # Whether something was sent of which nobody has heard yet.
        self.pending = False

    @property
    def now(self) -> float:
        """The store's clock, read once, when it is asked for."""
        if self._time is None:
            self._time = self._read_clock()
        return self._time

    def _read_clock(self) -> float:
        return float(self.all(_NOW)[0][0])

    def all(self, text: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        rows: list[tuple[Any, ...]] = self._execute(text, values).fetchall()
        self.pending = False
        return rows

    def each(self, text: str, values: Sequence[Any] = ()) -> Iterable[tuple[Any, ...]]:
        """Run a statement and return its rows one by one, before the next statement."""
        rows: Iterable[tuple[Any, ...]] = self._execute(text, values)
        return rows

    def one(self, text: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """Run a statement and return its first row."""
        row: tuple[Any, ...] | None = self._execute(text, values).fetchone()
        self.pending = False
        return row

    def run(self, text: str, values: Sequence[Any] = ()) -> None:
        """Run a statement."""
        self._execute(text, values)

    def many(self, text: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row."""
        self.pending = True
        self._connection.cursor().executemany(self._sql[text], rows)

    def among(self, text: str, ids: Sequence[int | str], values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement whose last parameter, `@any`, is a list, and return its rows."""
        return self.all(text, (*values, list(ids)))

    def lease(
        self, worker: str, limit: int, job: str | None, handlers: Collection[str]
    ) -> list[tuple[Any, ...]]:
        """Lease steps of one job the short way; nothing, and no change, where that will not do."""
        return self.all(_CLAIM, (worker, limit, job, list(handlers), self._link.given_time(), leased(worker)))

    def _execute(self, text: str, values: Sequence[Any]) -> Any:
        self.pending = True
        return self._connection.execute(self._sql[text], values)


class _Writing(_Transaction):
    """A transaction that has asked what time it is, and which transaction, and hears it with its first answer."""

    __slots__ = ("_begun", "_heard")

    def __init__(self, connection: Any, link: PostgresLink) -> None:
        super().__init__(connection, link)
        self._begun = connection.execute(_BEGUN)
        self._heard: tuple[float, str] = (0.0, "")

    @property
    def xid(self) -> str:
        """The number by which the server knows it."""
        return self._hear()[1]

    def _read_clock(self) -> float:
        return self._hear()[0]

    def _hear(self) -> tuple[float, str]:
        if not self._heard[1]:
            self._heard = self._begun.fetchone()
        return self._heard


_NOT_PLAIN = "HF001"
_ADVANCE = (
    "SELECT @advance(?::text, ?::text, ?::float8, ?::bigint[], ?::bigint[], ?::bytea[], ?::float8[], ?::text, "
    "?::bigint[], ?::bigint[])"
)
_CLAIM = f"SELECT {CLAIMED} FROM @claim(?::text, ?::integer, ?::text, ?::text[], ?::float8, ?::text)"


class _Attempt:
    """How far a transaction got."""

    __slots__ = ("committing", "xid")

    def __init__(self) -> None:
        self.xid: str | None = None
        self.committing = False


_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_BEGUN = f"{_NOW}, pg_current_xact_id()::text"
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_STATUS = "SELECT pg_xact_status(%s::xid8)"


class PostgresLink:
    """The schema of a tenant, open: connections that threads take in turn, and one that listens."""

    def __init__(self, url: str, tenant: str, *, clock: Clock | None, pooled: bool, patience: float) -> None:
        self.tenant = tenant
        self.specs: dict[int, NewJob] = {}
        self._url = url
        self._pooled = pooled
        self._patience = patience
        self._clock = clock
        self._latest = 0.0
        self._closed = False
        schema = _schema_of(tenant)
        self._channel = schema
        self._notify = f"NOTIFY {schema}"
        self.statements = Statements(
            lambda text: re.sub(
                r"@(\w+)", lambda found: _WORDS.get(found[1], f"{schema}.{found[1]}"), text
            ).replace("?", "%s")
        )
        self._forget()
        self._idle.append(self._connect())
        _links.add(self)

    def _forget(self) -> None:
        """Begin without connections, as after a fork."""
        self._idle: deque[Any] = deque()
        self._ear: Any = None
        self._listening = Lock()
        self._seen = local()
        self._waiting: set[Event] = set()
        self._changes = 0

    def _after_fork(self) -> None:
        _inherited.extend(self._idle)
        _inherited.append(self._ear)
        self._forget()
        self._changes = 1

    def given_time(self) -> float | None:
        """Return the time on the clock that was given, None if it is the server's that counts."""
        if self._clock is None:
            return None
        latest = self._latest = max(self._latest, self._clock.time())
        return latest

    def now(self) -> float:
        """Return seconds since the epoch on the server's clock, or the one that was given."""
        return self.read(_now_of)

    def read(self, body: Callable[Concatenate[Transaction, P], T], *args: P.args, **named: P.kwargs) -> T:
        """Run `body` on one state of the schema, again if the connection breaks."""
        return self._persistent(lambda attempt: self._read(attempt, body, *args, **named))

    def _read(
        self,
        attempt: _Attempt,
        body: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **named: P.kwargs,
    ) -> T:
        connection = self._take()
        try:
            with connection.pipeline():
                connection.execute(_READ)
                result = body(_Transaction(connection, self), *args, **named)
                connection.execute("COMMIT")
                return result
        finally:
            self._give_back(connection)

    def write(
        self, method: str, body: Callable[Concatenate[Transaction, P], T], *args: P.args, **named: P.kwargs
    ) -> T:
        """Run `body` in a transaction and commit it; again if it is cut off before or meets another's locks."""
        results: list[T] = []

        def once(attempt: _Attempt) -> T:
            connection = self._take()
            try:
                return self.transact(connection, attempt, results, method, body, *args, **named)
            finally:
                self._give_back(connection)

        return self._persistent(once, results)

    def transact(
        self,
        connection: Any,
        attempt: _Attempt,
        results: list[T],
        method: str,
        body: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **named: P.kwargs,
    ) -> T:
        """Run `body` and commit; what it returned stands in `results` when nobody knows whether that succeeded."""
        with connection.pipeline() as pipeline:
            if connection.info.transaction_status == _IN_NONE:
                connection.execute(_BEGIN)
            tx = _Writing(connection, self)
            result = body(tx, *args, **named)
            attempt.xid = tx.xid
            if tx.news or method not in QUIET:
                connection.execute(self._notify)
                tx.pending = True
            if tx.pending:
                pipeline.sync()
            _boundaries.reach(f"store.{method}.before_commit")
            results[:] = [result]
            attempt.committing = True
            connection.execute("COMMIT")
            pipeline.sync()
            attempt.committing = False
        _boundaries.reach(f"store.{method}.after_commit")
        self._changed()
        return result

    def _persistent(self, once: Callable[[_Attempt], T], results: Sequence[T] = ()) -> T:
        """Try until it succeeds, or fails for a reason that trying again does not remove."""
        deadline = SYSTEM.monotonic() + self._patience
        tries = 0
        while True:
            attempt = _Attempt()
            try:
                return once(attempt)
            except (psycopg.Error, StoreUnavailableError, Again) as error:
                if attempt.committing and self._committed(attempt, error, deadline):
                    self._changed()
                    return results[0]
                pause = _PAUSES[min(tries, len(_PAUSES) - 1)]
                if not _passes(error) or SYSTEM.monotonic() + pause > deadline:
                    raise _final(self, error) from error
            SYSTEM.sleep(pause)
            tries += 1

    def _committed(self, attempt: _Attempt, error: Exception, deadline: float) -> bool:
        """Return what became of a transaction whose connection broke while it was committed."""
        while True:
            try:
                connection = self._take()
            except StoreUnavailableError:
                status = None
            else:
                try:
                    row = connection.execute(_STATUS, (attempt.xid,)).fetchone()
                    status = row[0] if row else None
                except psycopg.Error:
                    status = None
                finally:
                    self._give_back(connection)
            if status in {"committed", "aborted"}:
                return bool(status == "committed")
            if SYSTEM.monotonic() > deadline:
                raise _final(self, error, certain=False) from error
            SYSTEM.sleep(_PAUSES[2])

    def quick(self, worker: str, outcomes: Sequence[Outcome], begin: Sequence[StepRef]) -> Advanced | None:
        """Advance steps of one job, in one message, if nothing but success is to be recorded; None if not."""
        job = job_of(outcomes, begin)
        if job is None:
            return None
        outcomes = in_order(outcomes)
        positions = [outcome.ref.position for outcome in outcomes]
        values = (
            worker,
            job,
            self.given_time(),
            positions,
            [outcome.ref.fence for outcome in outcomes],
            [outcome.result for outcome in outcomes],
            [outcome.took for outcome in outcomes],
            pack_positions(positions),
            [ref.position for ref in begin],
            [ref.fence for ref in begin],
        )
        try:
            self._send(_ADVANCE, values)
        except psycopg.Error as error:
            if error.sqlstate == _NOT_PLAIN:
                return None
            # Whether it was committed is seen in the steps.
            return self.write("advance", work.advance, worker, outcomes, begin, repeat=True)
        _boundaries.reach("store.advance.after_commit")
        self._changed()
        return Advanced(begun=tuple(begin))

    def _send(self, text: str, values: Sequence[Any]) -> None:
        """Make a change that is one statement, and so a transaction of its own."""
        connection = self._take()
        try:
            _boundaries.reach("store.advance.before_commit")
            connection.execute(self.statements[text], values)
        finally:
            self._give_back(connection)

    def stage(self) -> _Stage:
        """Prepare for many steps, on a connection of their own."""
        return _Stage(self)

    def _connect(self) -> Any:
        return connect(self._url, pooled=self._pooled)

    def _take(self) -> Any:
        if self._closed:
            raise StoreUnavailableError(where(self._url), "the store was closed", "open it again")
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def _give_back(self, connection: Any) -> None:
        if connection.closed:
            # A server that has gone took the others with it.
            self._close_idle()
            return
        try:
            if connection.info.transaction_status != _IN_NONE:
                connection.execute("ROLLBACK")
        except psycopg.Error:
            connection.close()
            return
        if self._closed or len(self._idle) >= _IDLE:
            connection.close()
        else:
            self._idle.append(connection)

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        """Close every connection that nobody uses now; those in use close when they are given back."""
        self._closed = True
        self._close_idle()
        self._changed()
        with self._listening:
            if self._ear is not None:
                self._ear.close()
                self._ear = None

    def wait(self, timeout: float) -> bool:
        """Block until somebody told of a change, here or elsewhere, since this thread's last wait; or for a second."""
        event = Event()
        self._waiting.add(event)
        try:
            clock = self._clock or SYSTEM
            return self._waited(event, clock, clock.monotonic() + timeout)
        finally:
            self._waiting.discard(event)

    def _waited(self, event: Event, clock: Clock, deadline: float) -> bool:
        polled = clock.monotonic() + _POLL
        while not self._news():
            now = clock.monotonic()
            if now >= deadline:
                return False
            if clock is not SYSTEM:
                clock.wait(event, deadline - now)
            elif now >= polled:
                return True
            else:
                self._listen(event, min(deadline, polled) - now)
            event.clear()
        return True

    def _news(self) -> bool:
        seen: int = getattr(self._seen, "number", 0)
        self._seen.number = self._changes
        return seen != self._changes

    def _listen(self, event: Event, left: float) -> None:
        """Hear what others tell, or, while another thread does that, wait for it to pass it on."""
        if self._pooled or not self._listening.acquire(blocking=False):
            SYSTEM.wait(event, min(left, _POLL if self._pooled else _TURN))
            return
        try:
            if self._ear is None:
                self._ear = self._connect()
                self._ear.execute(f"LISTEN {self._channel}".encode())
            heard = list(self._ear.notifies(timeout=min(left, _TURN), stop_after=1))
        except (psycopg.Error, StoreUnavailableError):
            self._ear = None
            SYSTEM.wait(event, min(left, _TURN))
        else:
            if heard:
                self._changed()
        finally:
            self._listening.release()

    def _changed(self) -> None:
        self._changes += 1
        for event in tuple(self._waiting):
            event.set()


_IN_NONE = psycopg.pq.TransactionStatus.IDLE


def _now_of(tx: Transaction) -> float:
    return tx.now


def _passes(error: Exception) -> bool:
    """Return whether trying again may help: the server comes back, others' locks are released."""
    if isinstance(error, Again):
        return True
    if isinstance(error, StoreUnavailableError):
        error = error.__cause__ if isinstance(error.__cause__, psycopg.Error) else error
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate or ""
    if state in _AGAIN or state[:2] in {"08", "57"}:
        return True
    return not state and isinstance(error, psycopg.OperationalError)


def _final(link: PostgresLink, error: Exception, *, certain: bool = True) -> StoreUnavailableError:
    if isinstance(error, psycopg.Error):
        if (error.sqlstate or "")[:2] in _MISFITS:
            current = version_of(link._url, link.tenant, pooled=link._pooled)
            if current not in {None, HEAD}:
                return unknown_version(where(link._url), current)
        return unavailable(link._url, error, certain=certain)
    if isinstance(error, StoreUnavailableError):
        return StoreUnavailableError(error.where, error.problem, error.remedy, certain=certain)
    return StoreUnavailableError(where(link._url), str(error), "try again", certain=certain)


_STAGED = "key, line, payload, must_succeed, timeout, target, depends_on, waits"
_CREATE_STAGED = (
    "CREATE TEMP TABLE staged (position bigint, key text, line int, payload bytea, must_succeed boolean, "
    "timeout float8, target text, depends_on text, waits int) ON COMMIT DROP"
)
_TWICE = (
    "SELECT key, line FROM (SELECT key, line, position, row_number() OVER (PARTITION BY key ORDER BY position) "
    "AS place FROM staged) s WHERE place > 1 ORDER BY position"
)
_EDGES = (
    "INSERT INTO @dependencies (on_step, step) SELECT ? + one.position, ? + other.position "
    "FROM staged AS one, staged AS other WHERE one.key = ? AND other.key = ?"
)


class _Stage:
    """Steps in a temporary table, inside the transaction that will take them over."""

    def __init__(self, link: PostgresLink) -> None:
        self._link = link

    def __enter__(self) -> _Stage:
        self._connection = self._link._take()
        try:
            self._connection.execute(_BEGIN)
            self._connection.execute(_CREATE_STAGED)
        except psycopg.Error as error:
            self._connection.close()
            raise _final(self._link, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._link._give_back(self._connection)
        if isinstance(error, psycopg.Error):
            raise _final(self._link, error) from error

    def fill(self, rows: Iterable[Sequence[Any]]) -> None:
        """Take rows."""
        with self._connection.cursor().copy("COPY staged FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)

    def keys(self) -> _Keys:
        """Return what tells whether there is a step of a key."""
        self._connection.execute("CREATE INDEX IF NOT EXISTS staged_key ON staged (key)")
        return _Keys(self._connection)

    def write(
        self, method: str, body: Callable[Concatenate[Transaction, P], T], *args: P.args, **named: P.kwargs
    ) -> T:
        """Run `body` in the transaction that takes them over; it cannot run again, for the source is used up."""
        attempt, results = _Attempt(), list[T]()
        try:
            return self._link.transact(
                self._connection,
                attempt,
                results,
                method,
                lambda tx: body(tx, *args, **named),
            )
        except psycopg.Error as error:
            deadline = SYSTEM.monotonic() + self._link._patience
            if attempt.committing and self._link._committed(attempt, error, deadline):
                return results[0]
            raise _final(self._link, error) from error

    def take(self, no: int, waits: Mapping[str, Iterable[str]]) -> Iterable[tuple[str, int]]:
        """Make them the steps of a job, unless two have one key."""
        twice: list[tuple[str, int]] = self._connection.execute(_TWICE).fetchall()
        if twice:
            return twice
        base, statements = no << SHIFT, self._link.statements
        self._connection.execute(
            statements[
                f"INSERT INTO @steps (id, job, position, {_STAGED}) SELECT ? + position, ?, position, {_STAGED} "
                "FROM staged ORDER BY position"
            ],
            (base, no),
        )
        pairs = [(base, base, on, key) for key, ons in waits.items() for on in set(ons)]
        if pairs:
            self._connection.cursor().executemany(statements[_EDGES], pairs)
        return ()

    def analyze(self) -> None:
        """Let the planner know about them."""
        self._connection.execute(self._link.statements["ANALYZE @steps"])


class _Keys:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __contains__(self, key: object) -> bool:
        return self._connection.execute("SELECT 1 FROM staged WHERE key = %s", (key,)).fetchone() is not None


def _forked() -> None:
    for link in tuple(_links):
        link._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
