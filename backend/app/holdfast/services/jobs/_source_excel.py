"""Excel: rows of a sheet with their numbers, read as a stream."""

from __future__ import annotations

import importlib
import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from holdfast.services.jobs._source_text import opened as open_file
from holdfast.services.jobs._source_values import of_cell
from holdfast.services.jobs.rows import SourceError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path


class CellError:
    """What a cell holds that Excel could not compute, such as #N/A."""

    def __init__(self, text: str) -> None:
        self.text = text


def require() -> Any:
    """Return openpyxl. Raises ImportError, naming the extra, without it."""
    try:
        return importlib.import_module("openpyxl")
    except ImportError as error:
        raise ImportError(
            "Excel files need openpyxl, which is not installed: pip install 'holdfast[excel]'"
        ) from error


@contextmanager
def opened(path: Path, sheet: str | None) -> Generator[Any]:
    """Open a workbook and give its sheet: the one that is named, or the first."""
    openpyxl = require()
    from zipfile import BadZipFile

    with io.BufferedReader(open_file(path)) as file:
        try:
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        except (BadZipFile, KeyError, ValueError) as error:
            remedy = "save it as .xlsx, without a password"
            raise SourceError(str(path), f"is no Excel workbook ({error})", remedy) from error
        try:
            yield _sheet(path, book, sheet)
        finally:
            book.close()


def _sheet(path: Path, book: Any, name: str | None) -> Any:
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    if name is None and sheets:
        return next(iter(sheets.values()))
    if name not in sheets:
        known = ", ".join(map(repr, sheets)) or "none"
        raise SourceError(str(path), f"has no sheet {name!r}", f"give one of its sheets: {known}")
    return sheets[name]


def rows(sheet: Any) -> Iterator[tuple[int, list[Any]]]:
    """Yield the number of each row and its values, without the empty cells at its end."""
    sheet.reset_dimensions()
    for number, cells in enumerate(sheet.iter_rows(), 1):
        yield number, trimmed([_value(cell) for cell in cells])


def names(cells: list[Any]) -> list[str]:
    """Return the names of columns that a row of cells is."""
    return ["" if cell is None else cell.text if isinstance(cell, CellError) else str(cell) for cell in cells]


def trimmed(values: list[Any]) -> list[Any]:
    """Return the values up to the last that is there."""
    while values and (values[-1] is None or values[-1] == ""):
        values.pop()
    return values


def _value(cell: Any) -> Any:
    value = cell.value
    if cell.data_type == "e":
        return CellError(str(value))
    if value is None or type(value) is str or type(value) is int:
        return value
    return of_cell(value, cell.number_format)
