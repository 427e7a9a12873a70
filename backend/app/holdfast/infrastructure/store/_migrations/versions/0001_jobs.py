"""The first version."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Boolean, Column, Double, Integer, LargeBinary, Text

from holdfast.infrastructure.store._migrations.advance import ADVANCE
from holdfast.infrastructure.store._migrations.claim import CLAIM

revision = "0001"
down_revision = None

VACUUMED = {"autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 2000}
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def count(name: str) -> Column[int]:
    """Return a column that counts from 0."""
    return Column(name, Integer, server_default="0", nullable=False)


def flag(name: str) -> Column[bool]:
    """Return a column that is false at first."""
    return Column(name, Boolean, server_default=sa.text("false"), nullable=False)


def text(name: str) -> Column[str]:
    """Return a column that is empty at first."""
    return Column(name, Text, server_default="", nullable=False)


def where(condition: str) -> dict[str, Any]:
    """Return what makes an index a partial one."""
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "batches",
        Column("id", Text, nullable=False),
        text("name"),
        flag("cancelled"),
        Column("created_at", Double, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "clocks",
        Column("boot", Text, nullable=False),
        Column("anchor", Double, nullable=False),
        sa.PrimaryKeyConstraint("boot"),
    )
    op.create_table(
        "dependencies",
        Column("on_step", NUMBER, nullable=False),
        Column("step", NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("on_step", "step"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "details",
        Column("job", NUMBER, nullable=False),
        Column("spec", Text, nullable=False),
        Column("preview", Text),
        sa.PrimaryKeyConstraint("job"),
    )
    op.create_table(
        "events",
        Column("id", NUMBER, nullable=False),
        Column("at", Double, nullable=False),
        Column("kind", Text, nullable=False),
        Column("state", Text, nullable=False),
        Column("positions", Text, nullable=False),
        Column("data", Text, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("events_rare", "events", ["id"], **where("kind <> 'step'"))
    op.create_table(
        "jobs",
        Column("no", NUMBER, sa.Identity(always=False), nullable=False),
        Column("id", Text, nullable=False),
        Column("batch", Text),
        Column("dedup_key", Text),
        Column("handler", Text, nullable=False),
        Column("priority", Integer, nullable=False),
        Column("state", Text, nullable=False),
        Column("version", Integer, server_default="1", nullable=False),
        flag("ready"),
        flag("halted"),
        flag("open"),
        flag("graph"),
        flag("plain"),
        flag("write_back"),
        Column("concurrency", Integer),
        count("total"),
        count("pending"),
        count("running"),
        count("succeeded"),
        count("failed"),
        count("timed_out"),
        count("needs_review"),
        count("cancelled"),
        count("skipped"),
        count("in_flight"),
        count("tolerated"),
        Column("created_at", Double, nullable=False),
        Column("changed_at", Double, nullable=False),
        Column("started_at", Double),
        Column("finished_at", Double),
        Column("expires_at", Double),
        Column("ends_at", Double),
        Column("step_timeout", Double),
        Column("next_begin", Double, server_default="0", nullable=False),
        Column("digest", Text),
        text("reason"),
        count("last_event"),
        count("pending_from"),
        Column("due_from", Double, server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("no"),
        postgresql_with={"fillfactor": 50, **VACUUMED},
        sqlite_autoincrement=True,
    )
    op.create_index("jobs_batch", "jobs", ["batch"])
    op.create_index("jobs_dedup_key", "jobs", ["dedup_key"], unique=True)
    op.create_index("jobs_ending", "jobs", ["ends_at"], **where("state = 'running'"))
    op.create_index(
        "jobs_expiring",
        "jobs",
        ["expires_at"],
        **where("(state = 'pending' OR state = 'previewed' OR state = 'paused')"),
    )
    op.create_index("jobs_id", "jobs", ["id"], unique=True)
    op.create_index("jobs_open", "jobs", ["priority", "no"], **where("open"))
    op.create_table(
        "limits",
        Column("name", Text, nullable=False),
        Column("value", Integer, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "locks",
        Column("name", Text, nullable=False),
        Column("owner", Text),
        count("fence"),
        Column("expires_at", Double, server_default="0", nullable=False),
        flag("dirty"),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "outbox",
        Column("id", NUMBER, nullable=False),
        Column("state", Text, server_default="pending", nullable=False),
        count("attempts"),
        Column("due_at", Double, server_default="0", nullable=False),
        text("error"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("outbox_pending", "outbox", ["id"], **where("state = 'pending'"))
    op.create_table(
        "steps",
        Column("id", NUMBER, nullable=False),
        Column("job", NUMBER, nullable=False),
        Column("position", Integer, nullable=False),
        Column("key", Text, nullable=False),
        Column("line", Integer, nullable=False),
        Column("state", Text, server_default="pending", nullable=False),
        count("waits"),
        Column("due_at", Double, server_default="0", nullable=False),
        count("fence"),
        count("attempts"),
        flag("begun"),
        Column("worker", Text),
        Column("started_at", Double),
        Column("finished_at", Double),
        Column("must_succeed", Boolean, server_default=sa.text("true"), nullable=False),
        Column("timeout", Double),
        text("target"),
        text("error"),
        Column("depends_on", Text),
        Column("history", Text),
        Column("payload", LargeBinary, nullable=False),
        Column("result", LargeBinary),
        sa.PrimaryKeyConstraint("id"),
        postgresql_with={"fillfactor": 70, **VACUUMED},
    )
    op.create_index(
        "steps_bad",
        "steps",
        ["id"],
        **where("(state = 'failed' OR state = 'timed_out' OR state = 'needs_review')"),
    )
    op.create_index(
        "steps_due", "steps", ["job", "due_at"], **where("state = 'pending' AND waits > 0 AND due_at > 0")
    )
    op.create_index("steps_key", "steps", ["job", "key"], unique=True)
    op.create_index("steps_pending", "steps", ["job", "waits", "position"], **where("state = 'pending'"))
    op.create_index("steps_running", "steps", ["worker", "id"], **where("state = 'running'"))
    op.create_table(
        "workers",
        Column("id", Text, nullable=False),
        Column("host", Text, nullable=False),
        Column("pid", Integer, nullable=False),
        Column("born", Text, nullable=False),
        Column("expires_at", Double, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    if op.get_bind().dialect.name == "postgresql":
        schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
        for function in (ADVANCE, CLAIM):
            op.get_bind().exec_driver_sql(function.format(schema=schema))
