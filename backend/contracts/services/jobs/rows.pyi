"""What sources give: rows, what is wrong with rows, and what a file was when it was read."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from holdfast.infrastructure.resilience.errors import HoldfastError

class Row(NamedTuple):
    """One row: what identifies it, the line it begins on, counted from 1, and its values by column."""

    key: str
    line: int
    values: Mapping[str, Any]

class Fingerprint(NamedTuple):
    """What a file was: bytes, time of change and SHA-256 in hex. Compare with `is_content_of`."""

    size: int
    mtime_ns: int
    sha256: str

    def is_content_of(self, other: Fingerprint) -> bool:
        """Return whether both have the same content; a file that was only touched has not changed."""

class CsvDialect(NamedTuple):
    """How a CSV file is written: `encoding` without its mark, which `bom` tells; one character for each sign."""

    encoding: str
    bom: bool
    delimiter: str
    quote: str
    escape: str | None
    skip_spaces: bool
    quote_all: bool
    line_end: str

class RowFault:
    """One thing that is wrong with a row: its line, key and column if known, the value, the problem, the remedy."""

    line: int | None
    key: str | None
    column: str | None
    value: object
    problem: str
    remedy: str
    def __init__(
        self,
        *,
        line: int | None = None,
        key: str | None = None,
        column: str | None = None,
        value: object = None,
        problem: str,
        remedy: str = "",
    ) -> None: ...

class SourceError(HoldfastError, ValueError):
    """A source cannot be read, or not so: the source, what is wrong, and the remedy."""

    def __init__(self, source: str, problem: str, remedy: str) -> None: ...
    @property
    def source(self) -> str:
        """The source: a path, or what else it is."""

class SourceUnreadableError(SourceError, OSError):
    """The file of a source cannot be opened: a folder, or one that this user may not read. Has `errno`, `filename`."""

class SourceNotFoundError(SourceUnreadableError, FileNotFoundError):
    """The file of a source is not there."""

class SourceFaultsError(SourceError):
    """Rows of a source are faulty: the first hundred faults, in the order of lines, and how many there are."""

    def __init__(self, source: str, faults: tuple[RowFault, ...], total: int) -> None: ...
    @property
    def faults(self) -> tuple[RowFault, ...]:
        """The first faults, at most a hundred."""
    @property
    def total(self) -> int:
        """How many faults there are."""

class SourceChangedError(SourceError):
    """A file is not what it was when its rows were read, and not what a write-back made of it."""
