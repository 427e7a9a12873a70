"""Where the rows of a job come from: CSV, Excel, JSON lines, SQL and Python, always as a stream."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias

from holdfast.services.jobs.rows import CsvDialect as CsvDialect
from holdfast.services.jobs.rows import Fingerprint as Fingerprint
from holdfast.services.jobs.rows import Row as Row
from holdfast.services.jobs.rows import RowFault as RowFault
from holdfast.services.jobs.rows import SourceChangedError as SourceChangedError
from holdfast.services.jobs.rows import SourceError as SourceError
from holdfast.services.jobs.rows import SourceFaultsError as SourceFaultsError
from holdfast.services.jobs.rows import SourceNotFoundError as SourceNotFoundError
from holdfast.services.jobs.rows import SourceUnreadableError as SourceUnreadableError

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

Key: TypeAlias = str | Sequence[str] | Callable[[Mapping[str, Any]], object]

Check: TypeAlias = Callable[[Row], object]

class Source(ABC):
    """Rows in a stream, as often as it is iterated; what is wrong with one is raised when it is reached."""

    def __init__(self, name: str, key: Key | None) -> None: ...
    @property
    def name(self) -> str:
        """What messages call it: the path, the database, or the kind."""
    @property
    def key(self) -> Key | None:
        """What makes the key of a row; None: its line."""
    @abstractmethod
    def entries(self) -> Iterator[Row | RowFault]:
        """Yield the rows in order, and in their places the faults of those that cannot be read."""
    def __iter__(self) -> Iterator[Row]:
        """Yield the rows. Raises SourceFaultsError at the first fault; `validated` collects all."""
    def fingerprint(self) -> Fingerprint | None:
        """Return what the file was when its rows were last read to the end, or is now if they never were.

        None where there is no file.
        """

class FileSource(Source):
    """A source that is a file, which may change."""

    def __init__(self, path: str | PathLike[str], key: Key | None) -> None: ...
    @property
    def path(self) -> Path:
        """The file."""
    @abstractmethod
    def entries(self) -> Iterator[Row | RowFault]:
        """Yield rows and faults; at the end, raise SourceChangedError if the file was written to meanwhile."""

    def fingerprint(self) -> Fingerprint:
        """Return what the file was when its rows were last read to the end, or is now if they never were.

        Raises SourceNotFoundError or SourceUnreadableError where there is no file to read; so do all that read it.
        """

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
    ) -> None: ...
    @property
    def dialect(self) -> CsvDialect:
        """How the file is written, as far as its beginning shows; the encoding is that of all of it."""
    def entries(self) -> Iterator[Row | RowFault]:
        """Yield rows and faults. Raises SourceError if it is not in the encoding, SourceChangedError if written to."""

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
    ) -> None: ...
    @property
    def sheet(self) -> str | None:
        """The sheet's name; None: the first."""
    def entries(self) -> Iterator[Row | RowFault]:
        """Yield rows and faults. Raises SourceError if this is no workbook, SourceChangedError if written to."""

class JsonLinesSource(FileSource):
    """The objects of a file with one on each line; numbers with a fraction are Decimal, all else is as JSON has it."""

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        key: Key | None = None,
        encoding: str | None = None,
        blank: Literal["skip", "report"] = "skip",
    ) -> None: ...
    def entries(self) -> Iterator[Row | RowFault]:
        """Yield rows and faults. Raises SourceError if it is not in the encoding, SourceChangedError if written to."""

class SqlSource(Source):
    """The rows of a query, read in a stream by SQLAlchemy; `line` counts from 1.

    `database`: an engine, or a URL such as postgresql+psycopg://…; `statement`: text that begins with SELECT or WITH,
    or a select of SQLAlchemy; `parameters`: what its `:names` stand for. `key`: the column or columns that identify a
    row. Floats are the Decimal that shows them, dates and times ISO text, UUIDs text. Needs the extra `jobs`.
    """

    def __init__(
        self, database: Any, statement: Any, *, key: Key, parameters: Mapping[str, Any] | None = None
    ) -> None: ...
    @property
    def database(self) -> Any:
        """The engine or URL."""
    def entries(self) -> Iterator[Row | RowFault]:
        """Yield rows and faults. Raises SourceError if the database refuses."""

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
    ) -> None: ...
    def entries(self) -> Iterator[Row | RowFault]:
        """Yield rows and faults. Raises SourceError the second time that an iterator is asked."""

def source(of: Any, **options: Any) -> Source:
    """Return the source of `of`: a path by its suffix, an iterable, or a source itself.

    `options` are those of its class. Raises SourceError, which says what there is, for anything else.
    """

def validated(rows: Source, *checks: Check) -> Iterator[Row]:
    """Yield the good rows of a source; at its end, raise SourceFaultsError if any row was not.

    Besides what the source itself finds, a key that was there before is a fault, and what a check says: it gets the
    row, and returns text or a list of texts about what is wrong, or False, or raises ValueError (pydantic's errors are
    told by field). All else means that the row is fine.
    """

def validate(rows: Source, *checks: Check) -> int:
    """Read a source to its end and return the number of its rows. Raises SourceFaultsError as `validated` does."""
