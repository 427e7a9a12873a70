"""Files that tests write and look into."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import openpyxl

WriteWorkbook = Callable[..., Path]


def is_dict(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def write_workbook(path: Path, rows: Any) -> Path:
    """Write rows to the first sheet of a workbook, or to several sheets by name."""
    book = openpyxl.Workbook()
    sheets: dict[str, Any] = rows if is_dict(rows) else {"Orders": rows}
    book.remove(book.worksheets[0])
    for name, content in sheets.items():
        sheet = book.create_sheet(name)
        for row in content:
            sheet.append(list(row))
    book.save(path)
    return path


def cells(path: Path, sheet: str = "Orders") -> list[list[Any]]:
    """Return what openpyxl reads from a sheet."""
    book = openpyxl.load_workbook(path)
    read = [list(row) for row in book[sheet].iter_rows(values_only=True)]
    book.close()
    return read


def members(path: Path) -> dict[str, bytes]:
    """Return the parts of a workbook."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def replace_member(path: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change one part of a workbook."""
    parts = members(path)
    parts[name] = change(parts[name])
    with zipfile.ZipFile(path, "w") as archive:
        for part, content in parts.items():
            archive.writestr(part, content)


def lines(content: Sequence[str], end: str = "\n") -> str:
    """Return lines as the text of a file."""
    return "".join(line + end for line in content)
