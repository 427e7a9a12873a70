"""Values of results as files take them."""

from __future__ import annotations

import json
from datetime import date, time, timedelta
from decimal import Decimal
from math import isfinite
from types import NoneType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from holdfast.infrastructure.resilience._frozen import is_dict, is_list

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast.services.jobs.rows import Row

_EXACT_DIGITS = 15  # what Excel keeps of a number


class Unwritable(Exception):  # caught at once, and told with the row
    """A value has no form in a file: the problem, and the remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.row: str | None = None


def as_text(value: Any) -> str:
    """Return a value as text: nothing for None, true and false, numbers exact and without exponents, dates ISO."""
    form = next((form for kind, form in _FORMS.items() if isinstance(value, kind)), as_json)
    return form(value)


def _decimal(value: Decimal) -> str:
    return format(value, "f") if value.is_finite() else str(value)


_FORMS: dict[type[Any], Callable[[Any], str]] = {
    str: str,
    NoneType: lambda _value: "",
    bool: lambda value: "true" if value else "false",
    int: str,
    float: repr,
    Decimal: _decimal,
    date: lambda value: value.isoformat(),
    time: lambda value: value.isoformat(),
    timedelta: lambda value: _decimal(Decimal(value // timedelta(microseconds=1)) / 1_000_000),
    UUID: str,
}


def as_json(value: Any) -> str:
    """Return a value as JSON: a Decimal as the number it is, dates ISO."""
    return "".join(_encoded(value))


def _encoded(value: Any) -> list[str]:
    if value is None or isinstance(value, (str, bool, int)):
        return [json.dumps(value, ensure_ascii=False)]
    if isinstance(value, (float, Decimal)):
        return [_number(value)]
    if is_dict(value):
        items = [f"{json.dumps(str(key), ensure_ascii=False)}: {as_json(value[key])}" for key in value]
        return ["{", ", ".join(items), "}"]
    if is_list(value):
        return ["[", ", ".join(map(as_json, value)), "]"]
    if isinstance(value, (date, time, timedelta, UUID)):
        return [json.dumps(as_text(value))]
    raise Unwritable(f"{type(value).__name__} cannot be written to a file", "give text or a number")


def _number(value: float | Decimal) -> str:
    if not isfinite(value):
        raise Unwritable(f"{value} is no number that JSON has", "give text or None")
    return str(value)


def fits_excel(value: object) -> bool:
    """Return whether Excel keeps a number exactly; others are written as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)) or not isfinite(value):
        return False
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    return len(number.normalize().as_tuple().digits) <= _EXACT_DIGITS and abs(number.adjusted()) < 300  # noqa: PLR2004


def check_not_blank(row: Row, texts: Mapping[str, str]) -> None:
    """Raise Unwritable if a row would say nothing any more, for it would be skipped when it is read again."""
    if not any(texts.values()) and all(
        value is None or value == "" for value in {**row.values, **texts}.values()
    ):
        raise Unwritable("would be blank, and not found again", "give it a key, or write something to it")
