"""How results get back to where rows came from: files are replaced in one step, tables updated in one transaction."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from holdfast.services.jobs.rows import Fingerprint, SourceError
from holdfast.services.jobs.sources import CsvSource, ExcelSource, FileSource, JsonLinesSource, Source

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

    def __init__(self, name: str, columns: Mapping[str, str], key: Any) -> None: ...
    @property
    def name(self) -> str:
        """What messages call the target: the path or the database."""
    @property
    def columns(self) -> Mapping[str, str]:
        """The column for each field of a result."""
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

    def __init__(self, source: FileSource, columns: Mapping[str, str]) -> None: ...
    def apply(
        self,
        results: Iterable[tuple[str, Mapping[str, Any]]],
        *,
        expected: Fingerprint | Iterable[Fingerprint] = (),
        announce: Callable[[Fingerprint], None] | None = None,
    ) -> WrittenBack:
        """Write results to the file, all or none; see `WriteBack.apply`."""

class CsvWriteBack(FileWriteBack):
    """Writes to the CSV file of a source: cells that do not change stay as they are, byte for byte.

    Dialect, line ends, encoding, mark and the order of columns stay; of rows without results nothing changes but that
    they get empty cells where columns are appended.
    """

    def __init__(self, source: CsvSource, columns: Mapping[str, str]) -> None: ...

class JsonLinesWriteBack(FileWriteBack):
    """Writes to the JSON lines of a source: members that do not change stay as they are, byte for byte."""

    def __init__(self, source: JsonLinesSource, columns: Mapping[str, str]) -> None: ...

class ExcelWriteBack(FileWriteBack):
    """Writes to the sheet of a source: the rest of the workbook, its formulas, formats and macros, is copied.

    Numbers that Excel keeps exactly (15 digits) are numbers, others text, so that nothing is rounded; dates are ISO
    text. A cell with a formula is not overwritten. Needs the extra `excel`.
    """

    def __init__(self, source: ExcelSource, columns: Mapping[str, str]) -> None: ...

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
    ) -> None: ...
    def apply(
        self,
        results: Iterable[tuple[str, Mapping[str, Any]]],
        *,
        expected: Fingerprint | Iterable[Fingerprint] = (),
        announce: Callable[[Fingerprint], None] | None = None,
    ) -> WrittenBack:
        """Update the rows of results, all or none; see `WriteBack.apply`."""

def write_back(source: Source, columns: Mapping[str, str], *, table: str | None = None) -> WriteBack:
    """Return what writes fields of results, by name, to columns of a source; for a query, name its `table`.

    Raises ConfigurationError with all faults, WriteBackError for a source that nothing can be written back to.
    """
