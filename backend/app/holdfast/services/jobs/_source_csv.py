"""CSV: how a file is written, its records with their physical lines, and its cells as they stand there."""

from __future__ import annotations

import csv
import re
from collections import Counter
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from holdfast.services.jobs.rows import CsvDialect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from holdfast.services.jobs._source_text import Encoding

_DELIMITERS = ",;\t|"
_QUOTES = "\"'"
SAMPLE = 1 << 16
_RECORDS = 200


class Signs(NamedTuple):
    """What is given of a dialect; None is found."""

    delimiter: str | None
    quote: str | None
    escape: str | None


class _Guess(NamedTuple):
    delimiter: str
    quote: str
    skip_spaces: bool


def find_dialect(sample: str, encoding: Encoding, signs: Signs, *, whole: bool) -> CsvDialect:
    """Return how a file is written that begins with `sample`, or is it, if it is `whole`."""
    lines = sample.splitlines(keepends=True) if whole else sample.splitlines(keepends=True)[:-1]
    lines = _joined(lines)
    guesses = [
        _Guess(delimiter, quote, skip)
        for quote in (_QUOTES if signs.quote is None else (signs.quote,))
        for delimiter in (_DELIMITERS if signs.delimiter is None else (signs.delimiter,))
        for skip in (False, True)
        if delimiter != quote and not (skip and delimiter == " ")
    ]
    best = max(guesses, key=lambda guess: _score(lines, guess, signs.escape))
    dialect = CsvDialect(
        encoding=encoding.codec,
        bom=encoding.bom,
        delimiter=best.delimiter,
        quote=best.quote,
        escape=signs.escape,
        skip_spaces=best.skip_spaces,
        quote_all=False,
        line_end=_line_end(sample),
    )
    return dialect._replace(quote_all=_quotes_all(lines, dialect))


def _joined(lines: list[str]) -> list[str]:
    """Join what `splitlines` splits and CSV does not."""
    joined: list[str] = []
    for line in lines:
        if joined and joined[-1][-1:] not in "\r\n":
            joined[-1] += line
        else:
            joined.append(line)
    return joined


def _score(lines: list[str], guess: _Guess, escape: str | None) -> tuple[float, ...]:
    """Return how well a guess reads the lines: few errors, records as wide as the first, quotes that are signs."""
    dialect = CsvDialect("", False, *guess[:2], escape, guess.skip_spaces, quote_all=False, line_end="\n")
    records = [cells for _, cells in islice(scan(lines, dialect), _RECORDS) if cells != []]
    good = [cells for cells in records if not isinstance(cells, str)]
    if not good:
        return (0,) * 6
    width = len(good[0])
    even = sum(len(cells) == width for cells in good) / len(records)
    standard = guess.quote == _QUOTES[0] or _all_signs(lines, guess.quote)
    return (width > 1, standard, even, -_left(good), width, not guess.skip_spaces)


def _left(records: list[list[str]]) -> int:
    """Count what a wrong guess leaves in cells: quotes, and the space that follows every delimiter."""
    quotes = sum(cell.lstrip().startswith(tuple(_QUOTES)) for cells in records for cell in cells)
    later = [cell for cells in records for cell in cells[1:]]
    return quotes + (bool(later) and all(cell[:1] == " " for cell in later))


def _all_signs(lines: list[str], quote: str) -> bool:
    """Return whether the lines use an apostrophe as a quote, and nothing else for one."""
    text = "".join(lines)
    return _QUOTES[0] not in text and any(line.lstrip().startswith(quote) for line in lines)


def _line_end(sample: str) -> str:
    ends = Counter(re.findall(r"\r\n|\r|\n", sample))
    return ends.most_common(1)[0][0] if ends else "\n"


def _quotes_all(lines: list[str], dialect: CsvDialect) -> bool:
    cells = [
        cell for raw, good in _raw_records(lines[:_RECORDS], dialect) if good for cell in split(raw, dialect)
    ]
    return bool(cells) and all(cell.lstrip(" ")[:1] == dialect.quote for cell in cells)


def _raw_records(lines: list[str], dialect: CsvDialect) -> Iterator[tuple[str, bool]]:
    recorder = Recorder(lines)
    for _, cells in scan(recorder, dialect):
        yield body_of(recorder.take())[0], bool(cells) and not isinstance(cells, str)


def scan(stream: Iterable[str], dialect: CsvDialect) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the first physical line of each record and its cells, or what is wrong with it; a blank line has none."""
    reader = _reader(stream, dialect)
    line = 1
    while True:
        try:
            for cells in reader:
                yield line, cells
                line = reader.line_num + 1
            return
        except csv.Error as error:
            yield line, str(error)
        line = reader.line_num + 1


def _reader(stream: Iterable[str], dialect: CsvDialect) -> Any:
    return csv.reader(
        stream,
        delimiter=dialect.delimiter,
        quotechar=dialect.quote,
        escapechar=dialect.escape,
        skipinitialspace=dialect.skip_spaces,
        strict=True,
    )


class Recorder:
    """Remember the lines that a reader takes: those of its last record, as they stand in the file."""

    def __init__(self, stream: Iterable[str]) -> None:
        self._stream = iter(stream)
        self._lines: list[str] = []

    def __iter__(self) -> Recorder:
        return self

    def __next__(self) -> str:
        line = next(self._stream)
        self._lines.append(line)
        return line

    def take(self) -> str:
        """Return the text of the lines that were taken since the last time."""
        text = "".join(self._lines)
        self._lines.clear()
        return text


def body_of(record: str) -> tuple[str, str]:
    """Return a record without the end of its line, and that end."""
    for end in ("\r\n", "\n", "\r"):
        if record.endswith(end):
            return record[: -len(end)], end
    return record, ""


def split(body: str, dialect: CsvDialect) -> list[str]:
    """Return the cells of a record as they stand there, quotes and all."""
    pattern = _cell(dialect)
    cells: list[str] = []
    at = 0
    while True:
        match = pattern.match(body, at)
        assert match is not None  # noqa: S101  # every alternative may be empty
        cells.append(match[1])
        at = match.end()
        if not match[2]:
            return cells


@lru_cache(16)
def _cell(dialect: CsvDialect) -> re.Pattern[str]:
    delimiter, quote = re.escape(dialect.delimiter), re.escape(dialect.quote)
    escape = re.escape(dialect.escape) if dialect.escape else ""
    escaped = f"|{escape}[\\s\\S]" if escape else ""
    spaces = " *" if dialect.skip_spaces else ""
    quoted = f"{spaces}{quote}(?:[^{quote}{escape}]|{quote}{quote}{escaped})*+{quote}"
    plain = f"(?:[^{delimiter}{escape}]{escaped})*+"
    return re.compile(f"((?:{quoted}(?={delimiter}|\\Z))|{plain})({delimiter}|\\Z)")


def written(text: str, dialect: CsvDialect, *, alone: bool) -> str:
    """Return a cell as the dialect writes it; one that is `alone` in its record is no blank line."""
    quote, escape = dialect.quote, dialect.escape
    signs = {dialect.delimiter, quote, escape or quote, "\r", "\n"}
    needed = not signs.isdisjoint(text) or (dialect.skip_spaces and text[:1] == " ") or (alone and not text)
    if not needed and not dialect.quote_all:
        return text
    if escape:
        text = text.replace(escape, escape * 2)
    return f"{quote}{text.replace(quote, quote * 2)}{quote}"


def padded(cells: Sequence[str], width: int) -> list[str]:
    """Return the cells, and empty ones up to `width`."""
    return [*cells, *[""] * (width - len(cells))]
