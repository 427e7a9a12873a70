"""Excel with results: only the cells that change are written anew, everything else in the workbook is copied."""

from __future__ import annotations

import re
import shutil
import zipfile
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.parsers import expat
from xml.sax.saxutils import escape

from holdfast.services.jobs import _source_excel
from holdfast.services.jobs._write_values import Unwritable, as_text, check_not_blank, fits_excel
from holdfast.services.jobs.rows import Row
from holdfast.services.jobs.sources import _is_blank

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import IO

    from holdfast.services.jobs._results import Results
    from holdfast.services.jobs.sources import ExcelSource

_BLOCK = 1 << 16
_LONGEST = 32_767
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REFERENCE = re.compile(r"([A-Z]+)([0-9]*)")

Edits = tuple[int, dict[int, Any]]


class _Cell(NamedTuple):
    column: int
    start: int
    end: int
    style: str | None
    computed: bool


def same(old: object, new: object) -> bool:
    """Return whether a cell, as a source reads it, says already what is to be written."""
    if old is None or new is None:
        return old is None and new in (None, "")
    if isinstance(old, bool) or isinstance(new, bool):
        return old is new
    if fits_excel(new):
        return isinstance(old, (int, Decimal)) and Decimal(as_text(new)) == old
    return isinstance(old, str) and old == as_text(new)


def copy(book: Path, sheet: str, edits: Iterator[Edits], width: int, out: IO[bytes]) -> None:
    """Write a workbook with cells changed in one sheet, an entry of the archive; `edits` come by row, then column."""
    with zipfile.ZipFile(book) as archive, zipfile.ZipFile(out, "w") as made:
        made.comment = archive.comment
        for entry in archive.infolist():
            with archive.open(entry) as old, made.open(_like(entry), "w", force_zip64=True) as new:
                if entry.filename == sheet:
                    _splice(old, edits, width, new)
                else:
                    shutil.copyfileobj(old, new)


def _like(entry: zipfile.ZipInfo) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(entry.filename, entry.date_time)
    for name in ("compress_type", "comment", "create_system", "external_attr", "internal_attr"):
        setattr(made, name, getattr(entry, name))
    return made


def _splice(old: IO[bytes], edits: Iterator[Edits], width: int, new: IO[bytes]) -> None:
    splicer = _Splicer(edits, width, new.write)
    while block := old.read(_BLOCK):
        splicer.feed(block)
    splicer.finish()


class _Splicer:
    """Pass a sheet on, byte for byte, and change rows on the way."""

    def __init__(self, edits: Iterator[Edits], width: int, write: Callable[[bytes], object]) -> None:
        self._edits = edits
        self._next = next(edits, None)
        self._width = width
        self._write = write
        self._held = bytearray()
        self._base = 0
        self._event = 0
        self._in_data = False
        self._number = 0
        self._row: int | None = None
        self._cells: list[_Cell] = []
        self._open: tuple[int, int, str | None] | None = None
        self._computed = False
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.XmlDeclHandler = self._declared

    def feed(self, block: bytes) -> None:
        """Take some of the sheet."""
        self._held += block
        self._parser.Parse(block, False)
        self._flush(self._event if self._row is None else self._row)

    def finish(self) -> None:
        """Pass on what is left."""
        self._parser.Parse(b"", True)
        self._flush(self._base + len(self._held))
        if self._next is not None:
            raise Unwritable(f"has no row {self._next[0]} in its sheet", "save the workbook with Excel")

    def _declared(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() != "utf-8":
            raise Unwritable(f"holds a sheet in {encoding}", "save the workbook with Excel")

    def _flush(self, to: int) -> None:
        self._write(bytes(self._held[: to - self._base]))
        self._drop(to)

    def _drop(self, to: int) -> None:
        del self._held[: to - self._base]
        self._base = to

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._event = at = self._parser.CurrentByteIndex
        local = name.rpartition(":")[2]
        if local == "dimension":
            self._dimension(at, attributes.get("ref", ""))
        elif local == "sheetData":
            self._in_data = True
        elif self._in_data and local == "row":
            self._number = int(float(attributes.get("r", self._number + 1)))
            self._row, self._cells = at, []
        elif self._row is not None and local == "c":
            self._open = at, self._column(attributes.get("r")), attributes.get("s")
            self._computed = False
        elif self._open is not None and local == "f":
            self._computed = True

    def _column(self, reference: str | None) -> int:
        match = _REFERENCE.match(reference or "")
        return index_of(match[1]) if match else (self._cells[-1].column if self._cells else 0) + 1

    def _end(self, name: str) -> None:
        self._event = self._parser.CurrentByteIndex
        local = name.rpartition(":")[2]
        if local == "sheetData":
            self._in_data = False
        elif local == "c" and self._open is not None:
            start, column, style = self._open
            self._cells.append(_Cell(column, start, self._end_of(name), style, self._computed))
            self._open = None
        elif local == "row" and self._row is not None:
            end = self._end_of(name)
            self._edit(self._row, end, name.removesuffix("row"))
            self._row, self._event = None, end

    def _end_of(self, name: str) -> int:
        """Return where an element ends; of one without content, the parser tells the end, of others its last tag."""
        at = self._event - self._base
        tag = f"</{name}".encode()
        if self._held.startswith(tag, at):
            return self._base + self._held.index(b">", at) + 1
        return self._event

    def _dimension(self, at: int, reference: str) -> None:
        corner, _, last = reference.partition(":")
        match = _REFERENCE.fullmatch(last or corner)
        if match is None or index_of(match[1]) >= self._width or not self._width:
            return
        self._flush(at)
        end = self._held.index(b">") + 1
        wider = f"{corner}:{letters_of(self._width)}{match[2]}"
        self._write(bytes(self._held[:end]).replace(f'"{reference}"'.encode(), f'"{wider}"'.encode()))
        self._drop(at + end)
        self._event = at + end

    def _edit(self, start: int, end: int, prefix: str) -> None:
        if self._next is None or self._next[0] != self._number:
            return
        changes = self._next[1]
        self._next = next(self._edits, None)
        self._flush(start)
        row = bytes(self._held[: end - start])
        self._write(self._changed(row, start, changes, prefix))
        self._drop(end)

    def _changed(self, row: bytes, start: int, changes: dict[int, Any], prefix: str) -> bytes:
        cells = {cell.column: cell for cell in self._cells}
        edits: list[tuple[int, int, bytes]] = []
        for column, value in sorted(changes.items()):
            cell = cells.get(column)
            if cell is not None and cell.computed:
                where = f"{letters_of(column)}{self._number}"
                raise Unwritable(f"has a formula in {where}", "write to a column without formulas")
            made = _cell(f"{letters_of(column)}{self._number}", value, cell.style if cell else None, prefix)
            at = self._place(column, row, start) if cell is None else cell.start
            edits.append((at - start, (at if cell is None else cell.end) - start, made))
        for first, last, made in reversed(edits):
            row = row[:first] + made + row[last:]
        head = row.index(b">") + 1
        return re.sub(rb'\sspans="[^"]*"', b"", row[:head]) + row[head:]

    def _place(self, column: int, row: bytes, start: int) -> int:
        """Return where a cell of a column begins that is not there yet."""
        before = [cell.end for cell in self._cells if cell.column < column]
        return before[-1] if before else start + row.index(b">") + 1


def _cell(reference: str, value: Any, style: str | None, prefix: str) -> bytes:
    head = f'<{prefix}c r="{reference}"' + (f' s="{style}"' if style is not None else "")
    if value is None or value == "":
        return f"{head}/>".encode()
    if isinstance(value, bool):
        return f'{head} t="b"><{prefix}v>{int(value)}</{prefix}v></{prefix}c>'.encode()
    text = as_text(value)
    if fits_excel(value):
        return f"{head}><{prefix}v>{text}</{prefix}v></{prefix}c>".encode()
    body = f'<{prefix}is><{prefix}t xml:space="preserve">{_escaped(text)}</{prefix}t></{prefix}is>'
    return f'{head} t="inlineStr">{body}</{prefix}c>'.encode()


def _escaped(text: str) -> str:
    return escape(text, {"\r": "&#13;"})


def check_text(column: str, value: Any) -> None:
    """Raise Unwritable if Excel cannot hold a text."""
    text = as_text(value)
    if len(text) > _LONGEST:
        raise Unwritable(
            f"{column} has {len(text)} characters", f"give at most {_LONGEST}, as many as a cell holds"
        )
    if _UNWRITABLE.search(text):
        raise Unwritable(f"{column} = {text!r} has characters that Excel cannot hold", "leave them out")


class ExcelRewriter:
    """Tell which cells of a sheet are to change."""

    def __init__(self, source: ExcelSource, results: Results, columns: Sequence[str], sheet: Any) -> None:
        self._source = source
        self._results = results
        self._wanted = [column for column in columns if column in results.columns]
        self._rows = _source_excel.rows(sheet)
        self._header: list[Edits] = []
        self._table: Any = None
        self._places: dict[str, int] = {}
        self.width = 0
        self._read_header()

    def _read_header(self) -> None:
        for line, cells in self._rows:
            if not _is_blank(cells):
                names = _source_excel.names(cells)
                new = [column for column in self._wanted if column not in names]
                self._places = {column: at for at, column in enumerate([*names, *new], 1)}
                self._table = self._source._table(names)
                self._header = [(line, {self._places[column]: column for column in new})] if new else []
                self.width = len(self._places)
                return

    def edits(self) -> Iterator[Edits]:
        """Yield the rows that change, and their new cells by column."""
        yield from self._header
        for line, cells in self._rows:
            for entry in self._source._entry(self._table, line, list(cells)):
                changes = self._changes(entry, cells) if isinstance(entry, Row) else {}
                if changes:
                    yield line, changes

    def _changes(self, row: Row, cells: list[Any]) -> dict[int, Any]:
        result = self._results.take(row.key)
        if result is None:
            return {}
        try:
            self._check(row, result)
        except Unwritable as error:
            error.row = row.key
            raise
        places = {self._places[column]: value for column, value in result.items()}
        return {at: value for at, value in places.items() if not same(_at(cells, at), value)}

    def _check(self, row: Row, result: dict[str, Any]) -> None:
        for column, value in result.items():
            check_text(column, value)
        texts = {column: as_text(value) for column, value in result.items()}
        check_not_blank(row, texts)
        if self._source.key is not None and self._source._identify({**row.values, **texts}, 0) != row.key:
            raise Unwritable("would get another key", "write to columns that the key does not depend on")


def _at(cells: list[Any], column: int) -> Any:
    return cells[column - 1] if column <= len(cells) else None


def letters_of(column: int) -> str:
    """Return the letters of a column, A for 1."""
    letters = ""
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def index_of(letters: str) -> int:
    """Return the number of a column, 1 for A."""
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - 64
    return number
