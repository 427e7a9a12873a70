"""Bring a tenant's schema to the version of this code, by alembic, in one transaction under a lock."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.store import _boundaries
from holdfast.infrastructure.store.state import StoreVersionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from alembic.config import Config

HEAD = "0001"
"""The version of the schema that this code reads and writes."""


def upgrade(
    where: str, dialect: str, connect: Callable[[], Any], begin: Sequence[str], end: Sequence[str] = ()
) -> None:
    """Migrate through a driver's connection of its own; `begin` locks out whoever does the same."""
    create_engine, command = _tools()
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy.pool import NullPool

    engine = create_engine(f"{dialect}://", creator=connect, poolclass=NullPool)
    config = scripts()
    with engine.connect() as connection, connection.begin():
        for statement in begin:
            connection.exec_driver_sql(statement)
        # Who had the lock before may have been of a newer version.
        check_version(where, MigrationContext.configure(connection).get_current_revision())
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        for statement in end:
            connection.exec_driver_sql(statement)
        _boundaries.reach("migration.before_commit")
    _boundaries.reach("migration.after_commit")


def check_version(where: str, current: str | None) -> None:
    """Raise StoreVersionError unless a migration leads from `current` to this version."""
    if current in {None, HEAD}:
        return
    _tools()
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory.from_config(scripts()).walk_revisions()}
    if current not in known:
        raise unknown_version(where, current)


def unknown_version(where: str, current: str | None) -> StoreVersionError:
    """Return the error that says which version a schema has, and which one this code knows."""
    return StoreVersionError(
        where,
        f"its schema has version {current}, this holdfast knows up to {HEAD}",
        "install the version of holdfast that wrote it, or a newer one",
    )


def scripts() -> Config:
    """Return alembic's view of the migrations that are shipped with the library."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "_migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _tools() -> tuple[Any, Any]:
    try:
        from alembic import command
        from sqlalchemy import create_engine
    except ImportError as error:
        raise ImportError(
            "a database of jobs is set up with sqlalchemy and alembic, which are not installed: "
            "pip install 'holdfast[jobs]'"
        ) from error
    return create_engine, command
