"""What sources give: rows, what is wrong with rows, and what a file was when it was read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.infrastructure.resilience._frozen import Frozen
from holdfast.infrastructure.resilience.errors import HoldfastError

if TYPE_CHECKING:
    from collections.abc import Mapping


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
        return (self.size, self.sha256) == (other.size, other.sha256)


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


class RowFault(Frozen):
    """One thing that is wrong with a row: its line, key and column if known, the value, the problem, the remedy."""

    __slots__ = ("column", "key", "line", "problem", "remedy", "value")

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
    ) -> None:
        self._set(line=line, key=key, column=column, value=value, problem=problem, remedy=remedy)

    def __str__(self) -> str:
        """Say where, what is wrong and what to do."""
        line = f"line {self.line}" if self.line is not None else ""
        key = f"row {self.key!r}" if self.key is not None and self.key != f"line:{self.line}" else ""
        value = f"{self.column} = {_short(self.value)}" if self.column is not None else ""
        where = ", ".join(filter(None, (line, key, value)))
        said = f"{self.problem}; {self.remedy}" if self.remedy else self.problem
        return f"{where}{' ' if value else ': '}{said}" if where else said


class SourceError(HoldfastError, ValueError):
    """A source cannot be read, or not so: the source, what is wrong, and the remedy."""

    def __init__(self, source: str, problem: str, remedy: str) -> None:
        super().__init__(source, problem, remedy)

    @property
    def source(self) -> str:
        """The source: a path, or what else it is."""
        return str(self.args[0])

    def __str__(self) -> str:
        """Say which, what is wrong and what to do."""
        return "{}: {}; {}".format(*self.args)


class SourceUnreadableError(SourceError, OSError):
    """The file of a source cannot be opened: a folder, or one that this user may not read. Has `errno`, `filename`."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what the system said too."""
        kind, args, state = super().__reduce__()
        return kind, args, {**state, **{name: getattr(self, name) for name in _OF_THE_SYSTEM}}


class SourceNotFoundError(SourceUnreadableError, FileNotFoundError):
    """The file of a source is not there."""


_OF_THE_SYSTEM = ("errno", "strerror", "filename")


class SourceFaultsError(SourceError):
    """Rows of a source are faulty: the first hundred faults, in the order of lines, and how many there are."""

    def __init__(self, source: str, faults: tuple[RowFault, ...], total: int) -> None:
        HoldfastError.__init__(self, source, faults, total)

    @property
    def faults(self) -> tuple[RowFault, ...]:
        """The first faults, at most a hundred."""
        faults: tuple[RowFault, ...] = self.args[1]
        return faults

    @property
    def total(self) -> int:
        """How many faults there are."""
        return int(self.args[2])

    def __str__(self) -> str:
        """List the faults, one a line when there are several."""
        if self.total == 1:
            return f"{self.source}: {self.faults[0]}"
        rest = self.total - len(self.faults)
        more = [f"and {rest} more"] if rest else []
        return "\n  ".join([f"{self.source}: {self.total} faults", *map(str, self.faults), *more])


class SourceChangedError(SourceError):
    """A file is not what it was when its rows were read, and not what a write-back made of it."""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004  # about half a line
