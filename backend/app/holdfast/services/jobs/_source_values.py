"""Values of typed sources as JSON says them: exact numbers, and dates in ISO form."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

_DATE_AND_TIME = frozenset("hs")


def plain(value: Any) -> Any:
    """Return a driver's value: a float as the Decimal that shows it, dates and times in ISO form, UUIDs as text."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if type(value) is bytearray or type(value) is memoryview:
        return bytes(value)
    return str(value) if type(value).__name__ == "UUID" else value


def of_cell(value: Any, number_format: str) -> Any:
    """Return a cell's value: as `plain` does, a date without a time where the cell shows none, durations in seconds."""
    if (
        isinstance(value, datetime)
        and value.time() == time()
        and _DATE_AND_TIME.isdisjoint(_signs(number_format))
    ):
        return value.date().isoformat()
    if isinstance(value, timedelta):
        return Decimal(value // timedelta(microseconds=1)) / 1_000_000
    return plain(value)


def _signs(number_format: str) -> str:
    """Return a number format in lower case without what it only quotes."""
    return "".join(number_format.lower().split('"')[::2])
