"""How results get back to where rows came from: files are replaced in one step, tables updated in one transaction."""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from contextlib import ExitStack, closing, contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.infrastructure.resilience._frozen import Faults, is_dict
from holdfast.infrastructure.store import _boundaries
from holdfast.services.jobs import (
    _source_csv,
    _source_excel,
    _source_sql,
    _source_text,
    _write_excel,
    _write_sql,
)
from holdfast.services.jobs._replace import BusyError, Draft, TextOut, draft
from holdfast.services.jobs._results import Results
from holdfast.services.jobs._row_keys import check_key, columns_of
from holdfast.services.jobs._source_text import Encoding, find_encoding, fingerprint_of, reading
from holdfast.services.jobs._write_csv import CsvRewriter
from holdfast.services.jobs._write_json import JsonRewriter
from holdfast.services.jobs._write_values import Unwritable
from holdfast.services.jobs.rows import Fingerprint, SourceError
from holdfast.services.jobs.sources import (
    CsvSource,
    ExcelSource,
    FileSource,
    JsonLinesSource,
    Source,
    SqlSource,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

__all__ = [
    "CsvWriteBack",
    "ExcelWriteBack",
    "FileWriteBack",
    "JsonLinesWriteBack",
    "SqlWriteBack",
    "WriteBack",
    "WriteBackBusyError",
    "WriteBackError",
    "WrittenBack",
    "write_back",
]

_SHOWN = 5


class WriteBackError(SourceError):
    """Results cannot be written back, and nothing was: the target, what is wrong, and the remedy."""


class WriteBackBusyError(WriteBackError):
    """Another process or thread writes the same results back at the moment, or to the same file: try again later."""


class WrittenBack(NamedTuple):
    """What a write-back did: the rows that have results, whether anything changed, and what the file is now."""

    rows: int
    changed: bool
    fingerprint: Fingerprint | None


class WriteBack(ABC):
    """Writes fields of results to columns of the rows that they belong to."""

    def __init__(self, name: str, columns: Mapping[str, str], key: Any) -> None:
        faults = Faults(type(self).__name__)
        _check_mapping(faults, columns, columns_of(key))
        faults.finish()
        self._name = name
        self._columns = dict(columns)

    @property
    def name(self) -> str:
        """What messages call the target: the path or the database."""
        return self._name

    @property
    def columns(self) -> Mapping[str, str]:
        """The column for each field of a result."""
        return dict(self._columns)

    @abstractmethod
    def apply(
        self,
        results: Iterable[tuple[str, Mapping[str, Any]]],
        *,
        expected: Fingerprint | Iterable[Fingerprint] = (),
        announce: Callable[[Fingerprint], None] | None = None,
    ) -> WrittenBack:
        """Write results, each with the key of its row, all or none; the same results again change nothing.

        Of several for one row the last counts; fields that a result lacks leave their cells as they are. `expected`:
        what the file may be, the source's fingerprint and those that were announced before; anything else raises
        SourceChangedError. `announce` is called with what the file is about to be, before it is: who stores it durably
        knows the file again after a crash in between. Raises WriteBackError, WriteBackBusyError.
        """


class FileWriteBack(WriteBack):
    """Replaces a file in one step, after a crash it is the old one or the new one; links to it are followed.

    Mode, owner and extended attributes stay; other hard links keep the old file. Columns that are missing are appended.
    What a killed process left, `.NAME.holdfast` beside the file, the next write-back uses and removes.
    """

    def __init__(self, source: FileSource, columns: Mapping[str, str]) -> None:
        super().__init__(source.name, columns, source.key)
        self._path = source.path

    @abstractmethod
    def _rewrite(self, results: Results, out: Draft, before: Fingerprint) -> bool:
        """Write the file as it is to be, and return False if nothing changes."""

    def apply(
        self,
        results: Iterable[tuple[str, Mapping[str, Any]]],
        *,
        expected: Fingerprint | Iterable[Fingerprint] = (),
        announce: Callable[[Fingerprint], None] | None = None,
    ) -> WrittenBack:
        """Write results to the file, all or none; see `WriteBack.apply`."""
        with Results(results, self._columns) as those, self._draft() as out:
            before = self._unchanged(out, [expected] if isinstance(expected, Fingerprint) else list(expected))
            try:
                changed = self._rewrite(those, out, before)
                _check_left(those)
            except Unwritable as error:
                raise _refused(self._name, error) from error
            if not changed or out.fingerprint().is_content_of(before):
                return WrittenBack(those.count, changed=False, fingerprint=before)
            return WrittenBack(those.count, changed=True, fingerprint=out.publish(announce))

    @contextmanager
    def _draft(self) -> Generator[Draft]:
        with ExitStack() as stack:
            try:
                out = stack.enter_context(draft(self._path))
            except BusyError:
                raise WriteBackBusyError(
                    self._name, "is being written by another", "try again later"
                ) from None
            except FileNotFoundError as error:
                raise _source_text.changed(self._path, "is gone") from error
            yield out

    def _unchanged(self, out: Draft, allowed: Sequence[Fingerprint]) -> Fingerprint:
        before = fingerprint_of(out.target)
        if allowed and not any(before.is_content_of(one) for one in allowed):
            raise _source_text.changed(self._path, "has changed since its rows were read")
        return before


def _check_left(results: Results) -> None:
    left = list(islice(results.left(), _SHOWN + 1))
    if left:
        more = ", …" if len(left) > _SHOWN else ""
        said = ", ".join(map(repr, left[:_SHOWN])) + more
        raise Unwritable(f"has no row {said}", "give the keys of its rows, as the source does")


def _refused(name: str, error: Unwritable) -> WriteBackError:
    problem, remedy = error.args
    return WriteBackError(name, problem if error.row is None else f"row {error.row!r}: {problem}", remedy)


class CsvWriteBack(FileWriteBack):
    """Writes to the CSV file of a source: cells that do not change stay as they are, byte for byte.

    Dialect, line ends, encoding, mark and the order of columns stay; of rows without results nothing changes but that
    they get empty cells where columns are appended.
    """

    def __init__(self, source: CsvSource, columns: Mapping[str, str]) -> None:
        super().__init__(source, columns)
        self._source = source

    def _rewrite(self, results: Results, out: Draft, before: Fingerprint) -> bool:
        dialect = self._source.dialect
        encoding = Encoding(dialect.encoding, dialect.bom)
        with reading(self._path, encoding) as file:
            rewriter = CsvRewriter(self._source, dialect, results, list(self._columns.values()))
            recorder = _source_csv.Recorder(file.text)
            text = TextOut(out, encoding)
            for line, cells in _source_csv.scan(recorder, dialect):
                raw = recorder.take()
                text.write(raw, rewriter.record(line, cells, raw))
            text.finish(before)
        return True


class JsonLinesWriteBack(FileWriteBack):
    """Writes to the JSON lines of a source: members that do not change stay as they are, byte for byte."""

    def __init__(self, source: JsonLinesSource, columns: Mapping[str, str]) -> None:
        super().__init__(source, columns)
        self._source = source

    def _rewrite(self, results: Results, out: Draft, before: Fingerprint) -> bool:
        encoding = find_encoding(self._path, self._source._encoding)
        rewriter = JsonRewriter(self._source, encoding.codec, results)
        with reading(self._path, encoding, newline="\n") as file:
            text = TextOut(out, encoding)
            for number, raw in enumerate(file.text, 1):
                text.write(raw, rewriter.line(number, raw))
            text.finish(before)
        return True


class ExcelWriteBack(FileWriteBack):
    """Writes to the sheet of a source: the rest of the workbook, its formulas, formats and macros, is copied.

    Numbers that Excel keeps exactly (15 digits) are numbers, others text, so that nothing is rounded; dates are ISO
    text. A cell with a formula is not overwritten. Needs the extra `excel`.
    """

    def __init__(self, source: ExcelSource, columns: Mapping[str, str]) -> None:
        super().__init__(source, columns)
        self._source = source

    def _rewrite(self, results: Results, out: Draft, before: Fingerprint) -> bool:
        with (
            _source_excel.opened(out.target, self._source.sheet) as sheet,
            closing(tempfile.TemporaryFile()) as file,
        ):
            rewriter = _write_excel.ExcelRewriter(self._source, results, list(self._columns.values()), sheet)
            edits = rewriter.edits()
            first = next(edits, None)
            if first is None:
                return False
            _write_excel.copy(out.target, sheet._worksheet_path, chain([first], edits), rewriter.width, file)
            file.seek(0)
            shutil.copyfileobj(file, out)
        return True


class SqlWriteBack(WriteBack):
    """Updates rows of a table by their key, in one transaction; each must be there once. `expected` is not looked at.

    `key` names the columns of the table that the keys of the source are made of. Names are looked up in the database,
    and values are bound. Needs the extra `jobs`.
    """

    def __init__(
        self,
        database: Any,
        table: str,
        columns: Mapping[str, str],
        *,
        key: str | Sequence[str],
        schema: str | None = None,
    ) -> None:
        faults = Faults("SqlWriteBack")
        fine = _source_sql.is_engine(database)
        faults.check(fine, "database", database, "is neither an engine nor a URL", "give one of SQLAlchemy")
        faults.check(table and _is_text(table), "table", table, "names no table", "give its name")
        faults.check(columns_of(key), "key", key, "names no columns", "give a column or a list of columns")
        check_key(faults, key)
        faults.name("schema", schema)
        _check_mapping(faults, columns, columns_of(key))
        faults.finish()
        _source_sql.require()
        super().__init__(_source_sql.shown(database), columns, key)
        self._database = database
        self._table = table
        self._key = columns_of(key)
        self._schema = schema

    def apply(
        self,
        results: Iterable[tuple[str, Mapping[str, Any]]],
        *,
        expected: Fingerprint | Iterable[Fingerprint] = (),
        announce: Callable[[Fingerprint], None] | None = None,
    ) -> WrittenBack:
        """Update the rows of results, all or none; see `WriteBack.apply`."""
        sql = _source_sql.require()
        try:
            with Results(results, self._columns) as those, _source_sql.engine_of(self._database) as engine:
                with engine.begin() as connection:
                    count = self._update(connection, those)
                    _boundaries.reach("writeback.before_sql_commit")
                _boundaries.reach("writeback.after_sql_commit")
        except Unwritable as error:
            raise _refused(self._name, error) from error
        except sql.exc.DBAPIError as error:
            problem = f"refuses ({str(error.orig).strip()})"
            raise WriteBackError(self._name, problem, "see the database and the values") from error
        return WrittenBack(count, changed=count > 0, fingerprint=None)

    def _update(self, connection: Any, results: Results) -> int:
        table = _write_sql.reflected(connection, self._table, self._schema)
        _write_sql.check_columns(table, [*self._key, *self._columns.values()])
        return _write_sql.update(connection, table, self._key, results.items())


_BY_SOURCE: dict[type[Source], Any] = {
    CsvSource: CsvWriteBack,
    ExcelSource: ExcelWriteBack,
    JsonLinesSource: JsonLinesWriteBack,
}


def write_back(source: Source, columns: Mapping[str, str], *, table: str | None = None) -> WriteBack:
    """Return what writes fields of results, by name, to columns of a source; for a query, name its `table`.

    Raises ConfigurationError with all faults, WriteBackError for a source that nothing can be written back to.
    """
    if isinstance(source, SqlSource) and table is not None:
        key = columns_of(source.key)
        return SqlWriteBack(source.database, table, columns, key=key)
    kind = next((kind for known, kind in _BY_SOURCE.items() if isinstance(source, known)), None)
    if kind is None or table is not None:
        problem, remedy = "takes no results back", "write to a file, or name the table of a query: table=…"
        raise WriteBackError(source.name, problem, remedy)
    made: WriteBack = kind(source, columns)
    return made


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _check_mapping(faults: Faults, columns: object, key: Sequence[str]) -> None:
    remedy = "give the column for each field: {'tracking': 'tracking_number'}"
    if not is_dict(columns) or not columns:
        faults.add("columns", columns, "is no mapping from fields to columns", remedy)
        return
    mapping: dict[Any, Any] = columns
    targets = list(mapping.values())
    for field, column in mapping.items():
        fine = isinstance(field, str) and isinstance(column, str) and field and column.strip()
        faults.check(fine, "columns", {field: column}, "are no names", remedy)
        faults.check(column not in key, "columns", {field: column}, "is the key", "write to another column")
        alone = targets.count(column) == 1
        faults.check(alone, "columns", {field: column}, "is written twice", "give each field its own column")
