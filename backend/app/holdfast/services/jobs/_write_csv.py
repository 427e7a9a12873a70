"""CSV with results: only the cells that change are written anew."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from holdfast.services.jobs import _source_csv
from holdfast.services.jobs._write_values import Unwritable, as_text, check_not_blank
from holdfast.services.jobs.rows import Row
from holdfast.services.jobs.sources import _is_blank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.services.jobs._results import Results
    from holdfast.services.jobs.rows import CsvDialect
    from holdfast.services.jobs.sources import CsvSource

_BREAK = re.compile(r"\r\n|\r|\n")


class CsvRewriter:
    """Give each record of a file as it is to be, from as it is."""

    def __init__(
        self, source: CsvSource, dialect: CsvDialect, results: Results, columns: Sequence[str]
    ) -> None:
        self._source = source
        self._dialect = dialect
        self._results = results
        self._wanted = [column for column in columns if column in results.columns]
        self._table = source._table(source._columns) if source._columns else None
        self._places: dict[str, int] = {}
        self._width = 0
        if source._columns:
            self._place(source._columns)

    def _place(self, names: Sequence[str]) -> list[str]:
        """Give each column its place, and return those that are new."""
        new = [column for column in self._wanted if column not in names]
        if new and self._source._columns:
            raise Unwritable(f"has no header, and no column {new[0]!r}", f"give one of {', '.join(names)}")
        self._width = len(names)
        self._places = {column: at for at, column in enumerate([*names, *new])}
        return new

    def record(self, line: int, cells: list[str] | str, raw: str) -> str:
        """Return a record with what its row's result says."""
        if isinstance(cells, str):
            return raw
        if self._table is None:
            return self._header(cells, raw)
        values = self._table.values(line, cells)
        row = self._source._row(line, values) if isinstance(values, dict) else None
        if not isinstance(row, Row):
            return raw
        result = self._results.take(row.key)
        if result is not None:
            return self._told(row, cells, raw, result)
        appended = len(cells) == self._width < len(self._places)
        return self._edited(cells, raw, {}) if appended else raw

    def _header(self, cells: list[str], raw: str) -> str:
        if _is_blank(cells):
            return raw
        self._table = self._source._table(cells)
        new = self._place(cells)
        return self._edited(cells, raw, {self._places[column]: column for column in new}) if new else raw

    def _told(self, row: Row, cells: list[str], raw: str, result: dict[str, Any]) -> str:
        try:
            return self._row(row, cells, raw, result)
        except Unwritable as error:
            error.row = row.key
            raise

    def _row(self, row: Row, cells: list[str], raw: str, result: dict[str, Any]) -> str:
        texts = {column: self._text(column, value) for column, value in result.items()}
        check_not_blank(row, texts)
        if self._source.key is None:
            before = raw
        elif self._source._identify({**row.values, **texts}, row.line) != row.key:
            raise Unwritable("would get another key", "write to columns that the key does not depend on")
        else:
            before = ""
        after = self._edited(cells, raw, {self._places[column]: text for column, text in texts.items()})
        if before and len(_BREAK.findall(before)) != len(_BREAK.findall(after)):
            raise Unwritable(
                "would move the rows below to other lines", "identify rows by a key, not by lines"
            )
        return after

    def _text(self, column: str, value: Any) -> str:
        text = as_text(value)
        try:
            text.encode(self._dialect.encoding)
        except UnicodeEncodeError as error:
            problem = f"{column} = {text!r} cannot be written in {self._dialect.encoding}"
            raise Unwritable(problem, "save the file as UTF-8 and submit it again") from error
        return text

    def _edited(self, cells: list[str], raw: str, texts: dict[int, str]) -> str:
        body, end = _source_csv.body_of(raw)
        changed = {at: text for at, text in texts.items() if at < len(cells) and cells[at] != text}
        if changed:
            parts = _source_csv.split(body, self._dialect)
            for at, text in changed.items():
                parts[at] = self._written(text)
            body = self._dialect.delimiter.join(parts)
        new = [self._written(texts.get(at, "")) for at in range(len(cells), len(self._places))]
        return self._dialect.delimiter.join([body, *new]) + end

    def _written(self, text: str) -> str:
        return _source_csv.written(text, self._dialect, alone=len(self._places) == 1)
