"""SQL: engines, statements that only read, and rows in a stream."""

from __future__ import annotations

import importlib
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from holdfast.services.jobs.rows import SourceError

if TYPE_CHECKING:
    from collections.abc import Generator

_READS = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(?:select|with|values|table)\b", re.IGNORECASE | re.DOTALL
)
BATCH = 1000


def require() -> Any:
    """Return SQLAlchemy. Raises ImportError, naming the extra, without it."""
    try:
        return importlib.import_module("sqlalchemy")
    except ImportError as error:
        raise ImportError(
            "SQL needs SQLAlchemy, which is not installed: pip install 'holdfast[jobs]'"
        ) from error


def reads(statement: object) -> bool:
    """Return whether a statement is one that reads, by its first word or its kind."""
    if isinstance(statement, str):
        return _READS.match(statement) is not None
    return bool(getattr(statement, "is_select", False))


def is_engine(value: object) -> bool:
    """Return whether a value is an engine of SQLAlchemy, or a URL for one."""
    if isinstance(value, str):
        return "://" in value
    return hasattr(value, "connect") and hasattr(value, "dialect")


@contextmanager
def engine_of(value: Any) -> Generator[Any]:
    """Give the engine, one of our own for a URL."""
    if not isinstance(value, str):
        yield value
        return
    sql = require()
    try:
        engine = sql.create_engine(value, poolclass=sql.pool.NullPool)
    except ImportError as error:
        raise ImportError(
            f"{sql.make_url(value).drivername} needs a driver ({error}); "
            "for PostgreSQL: pip install 'holdfast[postgres]'"
        ) from error
    try:
        yield engine
    finally:
        engine.dispose()


def shown(value: Any) -> str:
    """Return how a database is called, without its password."""
    if isinstance(value, str):
        return str(require().make_url(value).render_as_string(hide_password=True))
    return str(value.url.render_as_string(hide_password=True)) if hasattr(value, "url") else repr(value)


@contextmanager
def result_of(database: Any, statement: Any, parameters: Any) -> Generator[Any]:
    """Run a statement that reads, in a transaction that changes nothing, and give its rows in a stream."""
    sql = require()
    text = sql.text(statement) if isinstance(statement, str) else statement
    with engine_of(database) as engine:
        options: dict[str, Any] = {"stream_results": True, "yield_per": BATCH}
        if engine.dialect.name == "postgresql":
            options["postgresql_readonly"] = True
        try:
            with engine.connect() as connection:
                reader = connection.execution_options(**options)
                # A cursor of the server is closed before its connection, also if nobody read to the end.
                with reader.execute(text, parameters) as result:
                    yield result
        except sql.exc.DBAPIError as error:
            problem = f"cannot be read ({str(error.orig).strip()})"
            raise SourceError(shown(database), problem, "see the statement and the database") from error
