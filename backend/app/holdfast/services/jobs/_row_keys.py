"""What identifies a row: a column, several columns, a function, or its line."""

from __future__ import annotations

from array import array
from datetime import date, time
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import unquote

from holdfast.infrastructure.resilience._frozen import is_list

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from holdfast.infrastructure.resilience._frozen import Faults

    Identify = Callable[[Mapping[str, Any], int], str]

_JOIN = "/"
_LINE = "line:"


class KeyProblem(Exception):
    """A row has no key: column, value, problem."""

    def __init__(self, column: str | None, value: object, problem: str) -> None:
        super().__init__(column, value, problem)


def check_key(faults: Faults, key: object) -> None:
    """Note a fault unless `key` is None, a column, columns or a function."""
    named = [key] if isinstance(key, str) else list(key) if is_list(key) else []
    fine = bool(named) and all(isinstance(name, str) and name for name in named)
    fine = fine and len(set(named)) == len(named)
    remedy = "give a column, a list of distinct columns, or a function of a row's values"
    faults.check(key is None or callable(key) or fine, "key", key, "names no columns", remedy)


def columns_of(key: Any) -> tuple[str, ...]:
    """Return the columns that make the key."""
    if isinstance(key, str):
        return (key,)
    return tuple(key) if is_list(key) else ()


def by_line(line: int) -> str:
    """Return what identifies a row by its line."""
    return f"{_LINE}{line}"


def identify(key: Any) -> Identify:
    """Return the function from a row's values and line to what identifies it."""
    columns = columns_of(key)
    if not columns:
        return _by_function(key) if callable(key) else lambda _values, line: by_line(line)
    if len(columns) == 1:
        return _by_column(columns[0])
    return lambda values, _line: _JOIN.join(_part(values, column, _escaped) for column in columns)


def _by_column(column: str) -> Identify:
    def identify_by_column(values: Mapping[str, Any], _line: int) -> str:
        key = values.get(column)
        return key if type(key) is str and key else _part(values, column, str)

    return identify_by_column


def _by_function(key: Callable[[Mapping[str, Any]], object]) -> Identify:
    def identify_by_function(values: Mapping[str, Any], _line: int) -> str:
        try:
            made = key(values)
        except Exception as error:
            problem = f"its key cannot be made ({type(error).__name__}: {error})"
            raise KeyProblem(None, None, problem) from error
        text = text_of(made)
        if not text:
            raise KeyProblem(None, made, f"its key is {made!r}, no text")
        return text

    return identify_by_function


def _part(values: Mapping[str, Any], column: str, form: Callable[[str], str]) -> str:
    if column not in values:
        raise KeyProblem(column, None, "is missing, and is its key")
    value = values[column]
    text = text_of(value)
    if text is None:
        raise KeyProblem(column, value, "is its key, and neither text nor a number nor a date")
    if not text:
        raise KeyProblem(column, value, "is empty, and is its key")
    return form(text)


def text_of(value: object) -> str | None:
    """Return a key as text, empty for None; None for what makes no key."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, Decimal) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    return str(value) if type(value).__name__ == "UUID" else None


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace(_JOIN, "%2F")


def parts_of(key: str, count: int) -> list[str]:
    """Return the values of `count` columns that a key was made of."""
    return [key] if count == 1 else [unquote(part) for part in key.split(_JOIN)]


class Duplicates:
    """Find keys that occur twice among a million in 12 MB, by hashes of 64 bits; see `pairs`."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._lines = array("Q")

    def add(self, key: str, line: int) -> None:
        """Remember a row's key."""
        self._hashes.append(hash(key))
        self._lines.append(line)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Yield the line of each row whose key was there before, and that of the first such row."""
        ordered = sorted(self._hashes)
        twice = {one for one, other in pairwise(ordered) if one == other}
        first: dict[int, int] = {}
        for number, line in zip(self._hashes, self._lines, strict=True) if twice else ():
            if number in twice and first.setdefault(number, line) != line:
                yield line, first[number]
