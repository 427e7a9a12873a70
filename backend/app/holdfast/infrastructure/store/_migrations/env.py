"""Run by alembic: it migrates the one connection that `_sql_migrate` gives it, inside that one's transaction."""

from __future__ import annotations

from alembic import context
from sqlalchemy import event

from holdfast.infrastructure.store import _boundaries


def _after_statement(*_: object) -> None:
    _boundaries.reach("migration.after_statement")


def _after_version(*_: object, **__: object) -> None:
    _boundaries.reach("migration.after_version")


connection = context.config.attributes["connection"]
event.listen(connection, "after_cursor_execute", _after_statement)
context.configure(connection=connection, on_version_apply=_after_version)
context.run_migrations()
