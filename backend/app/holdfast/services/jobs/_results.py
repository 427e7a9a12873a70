"""Results on their way to a file: found by row, few in memory and many in a temporary database."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.store.payload import decode, encode
from holdfast.services.jobs._write_values import Unwritable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import TracebackType

_FEW = 50_000
_STEP = 1000


class Results:
    """The values to write by row; a row is taken once, and what is left was not found. Of several the last counts."""

    def __init__(self, results: Iterable[tuple[str, Mapping[str, Any]]], columns: Mapping[str, str]) -> None:
        self._columns = columns
        self._few: dict[str, dict[str, Any]] = {}
        self._taken: set[str] = set()
        self._marks = bytearray()  # whether a stored result was taken, by its number
        self._many: sqlite3.Connection | None = None
        self.columns: set[str] = set()
        for row, fields in results:
            self._put(row, fields)
        self._finish()

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._many is not None:
            self._many.close()

    def _put(self, row: str, fields: Mapping[str, Any]) -> None:
        values = {column: fields[field] for field, column in self._columns.items() if field in fields}
        if not values:
            return
        self.columns.update(values)
        self._few[row] = values
        self._spill(_STEP if self._many is not None else _FEW)

    def _finish(self) -> None:
        if self._many is not None:
            self._spill(0)

    def _spill(self, most: int) -> None:
        if len(self._few) <= most:
            return
        if self._many is None:
            self._many = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._many.execute("PRAGMA cache_size = -8000")
            self._many.execute(
                "CREATE TABLE results (row TEXT PRIMARY KEY, fields BLOB, number INT) WITHOUT ROWID"
            )
            self._many.execute("BEGIN")
        numbered = enumerate(self._few.items(), len(self._marks))
        rows = ((_stored(row), encode(values), number) for number, (row, values) in numbered)
        self._many.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", rows)
        self._marks.extend(bytes(len(self._few)))
        self._few.clear()

    def take(self, row: str) -> dict[str, Any] | None:
        """Return the values of a row by column, None if it has none. Raises Unwritable the second time."""
        if self._many is not None:
            return self._take_stored(self._many, _stored(row))
        values = self._few.pop(row, None)
        if values is not None:
            self._taken.add(row)
        elif row in self._taken:
            raise _twice(row)
        return values

    def _take_stored(self, stored: sqlite3.Connection, row: str | bytes) -> dict[str, Any] | None:
        found = stored.execute("SELECT fields, number FROM results WHERE row = ?", (row,)).fetchone()
        if found is None:
            return None
        fields, number = found
        if self._marks[number]:
            raise _twice(_shown(row))
        self._marks[number] = 1
        values: dict[str, Any] = decode(fields)
        return values

    def left(self) -> Iterator[str]:
        """Yield the rows that were not taken."""
        if self._many is None:
            yield from self._few
            return
        for row, number in self._many.execute("SELECT row, number FROM results"):
            if not self._marks[number]:
                yield _shown(row)

    @property
    def count(self) -> int:
        """How many rows have results."""
        if self._many is None:
            return len(self._few) + len(self._taken)
        return int(self._many.execute("SELECT count(*) FROM results").fetchone()[0])

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield every row and its values."""
        if self._many is None:
            yield from self._few.items()
            return
        for row, fields in self._many.execute("SELECT row, fields FROM results"):
            yield _shown(row), decode(fields)


def _twice(row: str) -> Unwritable:
    return Unwritable(
        f"row {row!r} is there twice", "give each row a key of its own, and submit the file again"
    )


def _stored(row: str) -> str | bytes:
    """Return a key as SQLite takes it: text, or the bytes of what is none in UTF-8."""
    try:
        row.encode()
    except UnicodeEncodeError:
        return row.encode(errors="surrogatepass")
    return row


def _shown(row: str | bytes) -> str:
    return row if isinstance(row, str) else row.decode(errors="surrogatepass")
