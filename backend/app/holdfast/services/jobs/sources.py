"""Where the rows of a job come from: CSV, Excel, JSON lines, SQL and Python, always as a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from holdfast.infrastructure.resilience._frozen import Faults, is_list
from holdfast.services.jobs import _source_csv, _source_excel, _source_json, _source_sql, _source_text
from holdfast.services.jobs._row_keys import KeyProblem, check_key, columns_of, identify
from holdfast.services.jobs._source_check import checked, header_faults
from holdfast.services.jobs._source_objects import columns_needed, values_of
from holdfast.services.jobs._source_text import find_encoding, fingerprint_of, reading
from holdfast.services.jobs._source_values import plain
from holdfast.services.jobs.rows import (
    CsvDialect,
    Fingerprint,
    Row,
    RowFault,
    SourceChangedError,
    SourceError,
    SourceFaultsError,
    SourceNotFoundError,
    SourceUnreadableError,
)

if TYPE_CHECKING:
    from os import PathLike

__all__ = [
    "Check",
    "CsvDialect",
    "CsvSource",
    "ExcelSource",
    "Fingerprint",
    "IterableSource",
    "JsonLinesSource",
    "Key",
    "Row",
    "RowFault",
    "Source",
    "SourceChangedError",
    "SourceError",
    "SourceFaultsError",
    "SourceNotFoundError",
    "SourceUnreadableError",
    "SqlSource",
    "source",
    "validate",
    "validated",
]

Key = str | Sequence[str] | Callable[[Mapping[str, Any]], object]
Check = Callable[[Row], object]

_BLANK = ("skip", "report")
_RAGGED = ("report", "skip", "pad")
_Entry = Row | RowFault


class Source(ABC):
    """Rows in a stream, as often as it is iterated; what is wrong with one is raised when it is reached."""

    def __init__(self, name: str, key: Key | None) -> None:
        self._name = name
        self._key = key
        self._identify = identify(key)
        self._read: Fingerprint | None = None

    @property
    def name(self) -> str:
        """What messages call it: the path, the database, or the kind."""
        return self._name

    @property
    def key(self) -> Key | None:
        """What makes the key of a row; None: its line."""
        return self._key

    @abstractmethod
    def entries(self) -> Iterator[Row | RowFault]:
        """Yield the rows in order, and in their places the faults of those that cannot be read."""

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows. Raises SourceFaultsError at the first fault; `validated` collects all."""
        for entry in self.entries():
            if isinstance(entry, RowFault):
                raise SourceFaultsError(self._name, (entry,), 1)
            yield entry

    def fingerprint(self) -> Fingerprint | None:
        """Return what the file was when its rows were last read to the end, or is now if they never were.

        None where there is no file.
        """
        return None

    def __repr__(self) -> str:
        """Show the kind and the name."""
        return f"<{type(self).__name__} {self._name!r}>"

    def _row(self, line: int, values: dict[str, Any]) -> Row | RowFault:
        try:
            return Row(self._identify(values, line), line, values)
        except KeyProblem as problem:
            column, value, said = problem.args
            remedy = "give every row a key, or identify rows by their lines: key=None"
            return RowFault(line=line, column=column, value=value, problem=said, remedy=remedy)


class FileSource(Source):
    """A source that is a file, which may change."""

    def __init__(self, path: str | PathLike[str], key: Key | None) -> None:
        self._path = Path(path)
        super().__init__(str(path), key)

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @abstractmethod
    def entries(self) -> Iterator[Row | RowFault]:
        """Yield rows and faults; at the end, raise SourceChangedError if the file was written to meanwhile."""

    def fingerprint(self) -> Fingerprint:
        """Return what the file was when its rows were last read to the end, or is now if they never were.

        Raises SourceNotFoundError or SourceUnreadableError where there is no file to read; so do all that read it.
        """
        if self._read is None:
            self._read = fingerprint_of(self._path)
        return self._read


class _Table:
    """The columns of a table, and its rows by the rules for blank and ragged ones."""

    def __init__(self, names: Sequence[str], blank: str, ragged: str, filler: Any) -> None:
        self.names = tuple(names)
        self._width = len(self.names)
        self._blank = blank
        self._ragged = ragged
        self._filler = filler

    def values(self, line: int, cells: Sequence[Any]) -> dict[str, Any] | RowFault | None:
        """Return a row's values, its fault, or None if it is to be skipped."""
        if len(cells) == self._width and any(cells):
            return dict(zip(self.names, cells, strict=True))
        if _is_blank(cells):
            return (
                RowFault(line=line, problem="is blank", remedy=_BLANK_REMEDY)
                if self._blank == "report"
                else None
            )
        return self._uneven(line, cells)

    def _uneven(self, line: int, cells: Sequence[Any]) -> dict[str, Any] | RowFault | None:
        missing = self._width - len(cells)
        if missing == 0 or (missing > 0 and self._ragged == "pad"):
            return dict(zip(self.names, [*cells, *[self._filler] * missing], strict=True))
        if self._ragged == "skip":
            return None
        problem = f"has {len(cells)} cells, not {self._width} as the header"
        return RowFault(line=line, problem=problem, remedy=_RAGGED_REMEDY)


def _headless(name: str, wanted: str) -> SourceError:
    return SourceError(name, "is empty: not even a header is there", f"write {wanted}")


_BLANK_REMEDY = "remove it, or skip blank rows: blank='skip'"
_RAGGED_REMEDY = "mend it; ragged='skip' leaves such rows out, ragged='pad' fills up short ones"


def _is_blank(cells: Sequence[Any]) -> bool:
    """Return whether a row says nothing: all its cells are empty, or it is one of nothing but spaces."""
    if len(cells) == 1 and isinstance(cells[0], str):
        return not cells[0].strip()
    return all(cell is None or cell == "" for cell in cells)


class CsvSource(FileSource):
    """The rows of a CSV file, as text; `line` is the physical line on which a record begins.

    Delimiter, quote, encoding and mark are found unless given. The first record names the columns, unless `columns`
    does; without either, SourceError. `blank` rows are skipped or reported; `ragged` ones, with more or fewer cells
    than columns, are reported, skipped, or padded (long ones stay faults). ConfigurationError lists what is wrong with
    the arguments.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        key: Key | None = None,
        columns: Sequence[str] | None = None,
        delimiter: str | None = None,
        quote: str | None = None,
        escape: str | None = None,
        encoding: str | None = None,
        blank: Literal["skip", "report"] = "skip",
        ragged: Literal["report", "skip", "pad"] = "report",
    ) -> None:
        faults = Faults("CsvSource")
        _check_table(faults, key, blank, ragged)
        for name, sign in (("delimiter", delimiter), ("quote", quote), ("escape", escape)):
            _check_sign(faults, name, sign)
        _check_encoding(faults, encoding)
        _check_columns(faults, columns)
        faults.finish()
        super().__init__(path, key)
        self._signs = _source_csv.Signs(delimiter, quote, escape)
        self._columns = columns
        self._encoding = encoding
        self._rules = (blank, ragged)

    @property
    def dialect(self) -> CsvDialect:
        """How the file is written, as far as its beginning shows; the encoding is that of all of it."""
        encoding = find_encoding(self._path, self._encoding)
        with reading(self._path, encoding) as file:
            sample = file.text.read(_source_csv.SAMPLE)
            whole = len(sample) < _source_csv.SAMPLE
        return _source_csv.find_dialect(sample, encoding, self._signs, whole=whole)

    def entries(self) -> Iterator[Row | RowFault]:
        """Yield rows and faults. Raises SourceError if it is not in the encoding, SourceChangedError if written to."""
        dialect = self.dialect
        with reading(self._path, _source_text.Encoding(dialect.encoding, dialect.bom)) as file:
            yield from self._parse(_source_csv.scan(file.text, dialect))
            self._read = file.finish()

    def _parse(self, records: Iterator[tuple[int, list[str] | str]]) -> Iterator[_Entry]:
        table = self._table(self._columns) if self._columns else None
        empty = table is None
        for line, cells in records:
            if isinstance(cells, str):
                empty = False
                yield RowFault(
                    line=line, problem=f"cannot be split into cells ({cells})", remedy=_QUOTES_REMEDY
                )
            elif table is not None:
                values = table.values(line, cells)
                if values is not None:
                    yield values if isinstance(values, RowFault) else self._row(line, values)
            elif not _is_blank(cells):
                empty = False
                wrong = list(header_faults(line, cells, columns_of(self._key)))
                yield from wrong
                if wrong:
                    return
                table = self._table(cells)
        if empty:
            raise _headless(
                self._name, "a first line with the names of the columns, or give them: columns=[…]"
            )

    def _table(self, names: Sequence[str]) -> _Table:
        return _Table(names, *self._rules, filler="")


_QUOTES_REMEDY = "close every quote, and double those that belong to the text"


class ExcelSource(FileSource):
    """The rows of a sheet, the first unless one is named; `line` is the number of the row in the sheet.

    Text stays text, whole numbers are int, other numbers the Decimal that shows them, dates and times ISO text,
    durations seconds, formulas what Excel last computed. The first row that is not blank names the columns. Needs the
    extra `excel`.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        key: Key | None = None,
        sheet: str | None = None,
        blank: Literal["skip", "report"] = "skip",
        ragged: Literal["report", "skip", "pad"] = "report",
    ) -> None:
        faults = Faults("ExcelSource")
        _check_table(faults, key, blank, ragged)
        faults.name("sheet", sheet)
        faults.finish()
        super().__init__(path, key)
        self._sheet = sheet
        self._rules = (blank, ragged)

    @property
    def sheet(self) -> str | None:
        """The sheet's name; None: the first."""
        return self._sheet

    def entries(self) -> Iterator[Row | RowFault]:
        """Yield rows and faults. Raises SourceError if this is no workbook, SourceChangedError if written to."""
        read = fingerprint_of(self._path)
        with _source_excel.opened(self._path, self._sheet) as sheet:
            yield from self._parse(_source_excel.rows(sheet))
        now = self._path.stat()
        if (now.st_size, now.st_mtime_ns) != read[:2]:
            raise _source_text.changed(self._path, "was written to while it was read")
        self._read = read

    def _parse(self, rows: Iterator[tuple[int, list[Any]]]) -> Iterator[_Entry]:
        table: _Table | None = None
        for line, cells in rows:
            if table is not None:
                yield from self._entry(table, line, cells)
            elif not _is_blank(cells):
                names = _source_excel.names(cells)
                wrong = list(header_faults(line, names, columns_of(self._key)))
                yield from wrong
                if wrong:
                    return
                table = self._table(names)
        if table is None:
            raise _headless(self._name, "a first row with the names of the columns")

    def _table(self, names: Sequence[str]) -> _Table:
        return _Table(names, *self._rules, filler=None)

    def _entry(self, table: _Table, line: int, cells: list[Any]) -> Iterator[_Entry]:
        errors = [(at, cell) for at, cell in enumerate(cells) if isinstance(cell, _source_excel.CellError)]
        for at, cell in errors:
            column = table.names[at] if at < len(table.names) else None
            remedy = "mend the formula"
            yield RowFault(
                line=line, column=column, value=cell.text, problem="is an error of Excel", remedy=remedy
            )
        width = len(table.names)
        values = None if errors else table.values(line, [*cells, *[None] * (width - len(cells))])
        if values is not None:
            yield values if isinstance(values, RowFault) else self._row(line, values)


class JsonLinesSource(FileSource):
    """The objects of a file with one on each line; numbers with a fraction are Decimal, all else is as JSON has it."""

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        key: Key | None = None,
        encoding: str | None = None,
        blank: Literal["skip", "report"] = "skip",
    ) -> None:
        faults = Faults("JsonLinesSource")
        _check_table(faults, key, blank, "report")
        _check_encoding(faults, encoding)
        faults.finish()
        super().__init__(path, key)
        self._encoding = encoding
        self._blank = blank

    def entries(self) -> Iterator[Row | RowFault]:
        """Yield rows and faults. Raises SourceError if it is not in the encoding, SourceChangedError if written to."""
        with reading(self._path, find_encoding(self._path, self._encoding), newline="\n") as file:
            for line, text in enumerate(file.text, 1):
                if text.strip():
                    yield self._entry(line, text)
                elif self._blank == "report":
                    yield RowFault(line=line, problem="is blank", remedy=_BLANK_REMEDY)
            self._read = file.finish()

    def _entry(self, line: int, text: str) -> Row | RowFault:
        try:
            values = _source_json.parse(text)
        except ValueError as error:
            return RowFault(line=line, problem=str(error), remedy="write one JSON object on each line")
        return self._row(line, values)


class SqlSource(Source):
    """The rows of a query, read in a stream by SQLAlchemy; `line` counts from 1.

    `database`: an engine, or a URL such as postgresql+psycopg://…; `statement`: text that begins with SELECT or WITH,
    or a select of SQLAlchemy; `parameters`: what its `:names` stand for. `key`: the column or columns that identify a
    row. Floats are the Decimal that shows them, dates and times ISO text, UUIDs text. Needs the extra `jobs`.
    """

    def __init__(
        self,
        database: Any,
        statement: Any,
        *,
        key: Key,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        faults = Faults("SqlSource")
        fine = _source_sql.is_engine(database)
        faults.check(fine, "database", database, "is neither an engine nor a URL", "give one of SQLAlchemy")
        fine = _source_sql.reads(statement)
        faults.check(fine, "statement", statement, "does not read rows", "give a SELECT")
        faults.check(key is not None, "key", key, "names no columns", "a query has no lines: name its key")
        check_key(faults, key)
        faults.finish()
        _source_sql.require()
        super().__init__(_source_sql.shown(database), key)
        self._database = database
        self._statement = statement
        self._parameters = dict(parameters or {})

    @property
    def database(self) -> Any:
        """The engine or URL."""
        return self._database

    def entries(self) -> Iterator[Row | RowFault]:
        """Yield rows and faults. Raises SourceError if the database refuses."""
        with _source_sql.result_of(self._database, self._statement, self._parameters) as result:
            names = [str(name) for name in result.keys()]  # noqa: SIM118  # no mapping
            wrong = list(header_faults(None, names, columns_of(self._key)))
            yield from wrong
            rows: Iterable[Sequence[Any]] = () if wrong else result
            for line, cells in enumerate(rows, 1):
                yield self._row(line, {name: plain(cell) for name, cell in zip(names, cells, strict=True)})


class IterableSource(Source):
    """Rows from Python: mappings, dataclasses, named tuples, pydantic models, or tuples with `columns`.

    Values stay as they are; `line` counts from 1. An iterator can be read once, a function that returns one again.
    """

    def __init__(
        self,
        rows: Iterable[Any] | Callable[[], Iterable[Any]],
        *,
        key: Key | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        faults = Faults("IterableSource")
        remedy = "give an iterable of rows, or a function that returns one"
        faults.check(_are_rows(rows), "rows", rows, "are no rows", remedy)
        check_key(faults, key)
        _check_columns(faults, columns)
        faults.finish()
        super().__init__(type(rows).__name__, key)
        self._rows: Any = rows
        self._columns = None if columns is None else tuple(columns)
        self._spent = False

    def entries(self) -> Iterator[Row | RowFault]:
        """Yield rows and faults. Raises SourceError the second time that an iterator is asked."""
        for line, item in enumerate(self._again(), 1):
            values = values_of(item, self._columns)
            if values is None:
                remedy = columns_needed(item, self._columns)
                yield RowFault(line=line, problem=f"is no row ({type(item).__name__})", remedy=remedy)
            else:
                yield self._row(line, values)

    def _again(self) -> Iterable[Any]:
        rows: Any = self._rows() if callable(self._rows) else self._rows
        if isinstance(rows, Iterator) and rows is self._rows:
            if self._spent:
                remedy = "give a list, or a function that returns an iterator"
                raise SourceError(self._name, "is an iterator, which was read before", remedy)
            self._spent = True
        return rows  # type: ignore[no-any-return]


def _are_rows(rows: object) -> bool:
    return callable(rows) or (isinstance(rows, Iterable) and not isinstance(rows, (str, bytes, Mapping)))


_BY_SUFFIX: dict[str, type[FileSource]] = {
    ".csv": CsvSource,
    ".tsv": CsvSource,
    ".txt": CsvSource,
    ".xlsx": ExcelSource,
    ".xlsm": ExcelSource,
    ".jsonl": JsonLinesSource,
    ".ndjson": JsonLinesSource,
}
_REMEDIES = {
    ".xls": "save it as .xlsx",
    ".xlsb": "save it as .xlsx",
    ".ods": "save it as .xlsx or .csv",
    ".json": "write one object on each line, as .jsonl",
    ".parquet": "read it yourself, and give its rows",
}


def source(of: Any, **options: Any) -> Source:
    """Return the source of `of`: a path by its suffix, an iterable, or a source itself.

    `options` are those of its class. Raises SourceError, which says what there is, for anything else.
    """
    if isinstance(of, Source):
        if options:
            raise SourceError(
                of.name, f"is a source already, and takes no {', '.join(options)}", "leave it out"
            )
        return of
    if isinstance(of, (str, Path)):
        return _by_suffix(Path(of), str(of), options)
    if _are_rows(of):
        return IterableSource(of, **options)
    raise SourceError(
        repr(of), "holds no rows", "give a path, an iterable of rows, or SqlSource(engine, select, key=…)"
    )


def _by_suffix(path: Path, shown: str, options: dict[str, Any]) -> Source:
    suffix = path.suffix.lower()
    kind: Any = _BY_SUFFIX.get(suffix)
    if kind is not None:
        return kind(path, **options)  # type: ignore[no-any-return]
    if "://" in shown or _source_sql.reads(shown):
        raise SourceError(shown, "is no file", "for a database: SqlSource(engine, select, key=…)")
    known = f"one of {', '.join(_BY_SUFFIX)}, or name the class: CsvSource(path)"
    remedy = _REMEDIES.get(suffix, known)
    raise SourceError(shown, f"is of a kind that cannot be read ({suffix or 'no suffix'})", remedy)


def validated(rows: Source, *checks: Check) -> Iterator[Row]:
    """Yield the good rows of a source; at its end, raise SourceFaultsError if any row was not.

    Besides what the source itself finds, a key that was there before is a fault, and what a check says: it gets the
    row, and returns text or a list of texts about what is wrong, or False, or raises ValueError (pydantic's errors are
    told by field). All else means that the row is fine.
    """
    return checked(rows.name, rows.entries(), checks)


def validate(rows: Source, *checks: Check) -> int:
    """Read a source to its end and return the number of its rows. Raises SourceFaultsError as `validated` does."""
    return sum(1 for _ in validated(rows, *checks))


def _check_table(faults: Faults, key: object, blank: object, ragged: object) -> None:
    check_key(faults, key)
    faults.check(blank in _BLANK, "blank", blank, "is no rule", f"give one of {', '.join(_BLANK)}")
    faults.check(ragged in _RAGGED, "ragged", ragged, "is no rule", f"give one of {', '.join(_RAGGED)}")


def _check_sign(faults: Faults, name: str, sign: object) -> None:
    fine = sign is None or (isinstance(sign, str) and len(sign) == 1 and sign not in "\r\n")
    faults.check(fine, name, sign, "is not one character", "give a str of length 1, or None")


def _check_encoding(faults: Faults, encoding: object) -> None:
    fine = encoding is None or (isinstance(encoding, str) and _source_text.check_encoding(encoding))
    faults.check(fine, "encoding", encoding, "is no encoding", "give the name of a codec of text, or None")


def _check_columns(faults: Faults, columns: Any) -> None:
    if columns is None:
        return
    names = list(columns) if is_list(columns) else []
    fine = (
        bool(names)
        and all(isinstance(name, str) and name for name in names)
        and len(set(names)) == len(names)
    )
    faults.check(fine, "columns", columns, "are no columns", "give a list of distinct names")
