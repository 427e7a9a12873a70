"""The tables of one tenant as they are now; the migrations in `_migrations` lead there from every older version.

A step's id is its job's number × 2³² + its position, an event's that + its sequence number: both lie together by job,
in order, under one integer. A step's position stands apart too, so that only one index has what is pending in order:
with another to choose from, PostgreSQL may read all that was done before. `waits` counts what a pending step waits for:
dependencies, or the time of its retry. A `plain` job has neither dependencies nor a rate: what succeeds in it needs no
second thought. No pending step lies below a job's `pending_from`, and none waits for a time before `due_from`: until
PostgreSQL has vacuumed a table, its indexes lead to all that ever was pending. The predicates of partial indexes stand
in the statements as literals, or they are not used.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

# In SQLite an INTEGER that is the primary key is the row's own number.
Number = BigInteger().with_variant(Integer(), "sqlite")
# Alternatives, because SQLite builds a table for a list of three, for each row that is written.
BAD_STATES = "(state = 'failed' OR state = 'timed_out' OR state = 'needs_review')"

# Of tables whose rows are written again and again: a fifth of a million rows is too much to wait for.
VACUUMED = {"autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 2000}

metadata = MetaData()


def _count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=text("false"))


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _partial(name: str, columns: tuple[str, ...], where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


jobs = Table(
    "jobs",
    metadata,
    Column("no", Number, Identity(), primary_key=True),
    Column("id", Text, nullable=False),
    Column("batch", Text),
    Column("dedup_key", Text),
    Column("handler", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
    _flag("ready"),
    _flag("halted"),
    _flag("open"),
    _flag("graph"),
    _flag("plain"),
    _flag("write_back"),
    Column("concurrency", Integer),
    *map(_count, ("total", "pending", "running", "succeeded", "failed", "timed_out", "needs_review")),
    *map(_count, ("cancelled", "skipped", "in_flight", "tolerated")),
    Column("created_at", Double, nullable=False),
    Column("changed_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("expires_at", Double),
    Column("ends_at", Double),
    Column("step_timeout", Double),
    Column("next_begin", Double, nullable=False, server_default="0"),
    Column("digest", Text),
    _text("reason"),
    _count("last_event"),
    _count("pending_from"),
    Column("due_from", Double, nullable=False, server_default="0"),
    Index("jobs_id", "id", unique=True),
    Index("jobs_dedup_key", "dedup_key", unique=True),
    Index("jobs_batch", "batch"),
    _partial("jobs_open", ("priority", "no"), "open"),
    _partial(
        "jobs_expiring", ("expires_at",), "(state = 'pending' OR state = 'previewed' OR state = 'paused')"
    ),
    _partial("jobs_ending", ("ends_at",), "state = 'running'"),
    sqlite_autoincrement=True,
    postgresql_with={"fillfactor": 50, **VACUUMED},
)

# What never changes, or is long: apart, so that counting does not write it again and again.
details = Table(
    "details",
    metadata,
    Column("job", Number, primary_key=True, autoincrement=False),
    Column("spec", Text, nullable=False),
    Column("preview", Text),
)

steps = Table(
    "steps",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=False),
    Column("job", Number, nullable=False),
    Column("position", Integer, nullable=False),
    Column("key", Text, nullable=False),
    Column("line", Integer, nullable=False),
    Column("state", Text, nullable=False, server_default="pending"),
    _count("waits"),
    Column("due_at", Double, nullable=False, server_default="0"),
    _count("fence"),
    _count("attempts"),
    _flag("begun"),
    Column("worker", Text),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("must_succeed", Boolean, nullable=False, server_default=text("true")),
    Column("timeout", Double),
    _text("target"),
    _text("error"),
    Column("depends_on", Text),
    Column("history", Text),
    Column("payload", LargeBinary, nullable=False),
    Column("result", LargeBinary),
    Index("steps_key", "job", "key", unique=True),
    _partial("steps_pending", ("job", "waits", "position"), "state = 'pending'"),
    _partial("steps_due", ("job", "due_at"), "state = 'pending' AND waits > 0 AND due_at > 0"),
    _partial("steps_running", ("worker", "id"), "state = 'running'"),
    _partial("steps_bad", ("id",), BAD_STATES),
    postgresql_with={"fillfactor": 70, **VACUUMED},
)

dependencies = Table(
    "dependencies",
    metadata,
    Column("on_step", Number, primary_key=True, autoincrement=False),
    Column("step", Number, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

events = Table(
    "events",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("positions", Text, nullable=False),
    Column("data", Text, nullable=False),
    _partial("events_rare", ("id",), "kind <> 'step'"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),
    _text("name"),
    _flag("cancelled"),
    Column("created_at", Double, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("born", Text, nullable=False),
    Column("expires_at", Double, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False, server_default="pending"),
    _count("attempts"),
    Column("due_at", Double, nullable=False, server_default="0"),
    _text("error"),
    _partial("outbox_pending", ("id",), "state = 'pending'"),
)

locks = Table(
    "locks",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text),
    _count("fence"),
    Column("expires_at", Double, nullable=False, server_default="0"),
    _flag("dirty"),
)

# What holds for all jobs of the tenant together.
limits = Table(
    "limits",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Integer, nullable=False),
)

# The epoch time at which a boot's monotonic clock read 0; PostgreSQL has a clock of its own.
clocks = Table(
    "clocks",
    metadata,
    Column("boot", Text, primary_key=True),
    Column("anchor", Double, nullable=False),
)
