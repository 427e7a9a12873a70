"""Tables with results: rows updated by key, in one transaction."""

from __future__ import annotations

from datetime import date, datetime, time
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import UUID

from holdfast.services.jobs import _source_sql
from holdfast.services.jobs._row_keys import parts_of
from holdfast.services.jobs._write_values import Unwritable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_BATCH = 500
_READERS: dict[type, Callable[[str], Any]] = {
    int: int,
    Decimal: Decimal,
    float: float,
    datetime: datetime.fromisoformat,
    date: date.fromisoformat,
    time: time.fromisoformat,
    UUID: UUID,
    bool: {"true": True, "false": False}.__getitem__,
}


def reflected(connection: Any, name: str, schema: str | None) -> Any:
    """Return the table as the database has it. Raises Unwritable if it has none of that name."""
    sql = _source_sql.require()
    try:
        return sql.Table(name, sql.MetaData(), schema=schema, autoload_with=connection)
    except sql.exc.NoSuchTableError as error:
        known = ", ".join(sorted(sql.inspect(connection).get_table_names(schema=schema))) or "none"
        raise Unwritable(f"has no table {name!r}", f"give one of its tables: {known}") from error


def check_columns(table: Any, names: Sequence[str]) -> None:
    """Raise Unwritable unless a table has all columns."""
    missing = [name for name in names if name not in table.columns]
    if missing:
        known = ", ".join(table.columns.keys())
        said = ", ".join(map(repr, missing))
        raise Unwritable(f"{table.name} has no column {said}", f"add it, or give one of its columns: {known}")


def update(
    connection: Any, table: Any, keys: Sequence[str], results: Iterator[tuple[str, dict[str, Any]]]
) -> int:
    """Update the rows of results, and return how many. Raises Unwritable if one is missing, or not alone."""
    done = 0
    while group := list(islice(results, _BATCH)):
        shapes: dict[tuple[str, ...], list[tuple[str, dict[str, Any]]]] = {}
        for row, values in group:
            shapes.setdefault(tuple(sorted(values)), []).append((row, values))
        for columns, rows in shapes.items():
            _update_alike(connection, table, keys, columns, rows)
        done += len(group)
    return done


def _update_alike(
    connection: Any,
    table: Any,
    keys: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[tuple[str, dict[str, Any]]],
) -> None:
    sql = _source_sql.require()
    where = [
        table.c[name] == sql.bindparam(f"key_{at}", type_=table.c[name].type) for at, name in enumerate(keys)
    ]
    values = {table.c[name]: sql.bindparam(f"value_{at}") for at, name in enumerate(columns)}
    statement = table.update().where(*where).values(values)
    bound = [_bound(table, keys, columns, row, said) for row, said in rows]
    counted = connection.dialect.supports_sane_multi_rowcount
    if counted and connection.execute(statement, bound).rowcount == len(bound):
        return
    for (row, _), parameters in zip(rows, bound, strict=True):
        found = connection.execute(statement, [parameters] if counted else parameters).rowcount
        if found != 1:
            times = f"in {table.name} {found} times" if found else f"not in {table.name}"
            raise Unwritable(
                f"row {row!r} is {times}", "name the columns that identify a row of the table: key=…"
            )


def _bound(
    table: Any, keys: Sequence[str], columns: Sequence[str], row: str, said: dict[str, Any]
) -> dict[str, Any]:
    parts = parts_of(row, len(keys))
    if len(parts) != len(keys):
        raise Unwritable(f"row {row!r} has {len(parts)} keys, not {len(keys)}", "give the key of the source")
    named = zip(keys, parts, strict=True)
    bound = {f"key_{at}": typed(table.c[name], part) for at, (name, part) in enumerate(named)}
    return bound | {f"value_{at}": typed(table.c[name], said[name]) for at, name in enumerate(columns)}


def typed(column: Any, value: Any) -> Any:
    """Return text as what a column holds; all else as it is."""
    try:
        kind = column.type.python_type
    except NotImplementedError:
        return value
    reader = _READERS.get(kind) if isinstance(value, str) else None
    if reader is None:
        return str(value) if kind is str and isinstance(value, (int, Decimal, date, UUID)) else value
    try:
        return reader(value)
    except (ValueError, ArithmeticError, KeyError) as error:
        problem = f"{column.name} takes {kind.__name__}, and {value!r} is none"
        raise Unwritable(problem, "return what the column takes") from error
