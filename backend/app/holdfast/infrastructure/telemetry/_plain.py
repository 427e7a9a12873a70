"""Whatever it is, as JSON-able facts of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from itertools import islice
from math import isfinite
from typing import Any, cast

LONGEST = 200
_LARGEST = 2**63
_DEPTH = 6
_ITEMS = 50
_VALUES = 1000


def text(value: object, *, show: Any = str) -> str:
    """Return `value` as text of at most 200 characters that UTF-8 can carry; never raise an Exception."""
    try:
        found = value if type(value) is str else str.__str__(value if isinstance(value, str) else show(value))
    except Exception:
        found = f"<unprintable {type(value).__name__}>"
    if len(found) > LONGEST:
        found = found[: LONGEST - 1] + "…"
    return found if found.isascii() else found.encode("utf-8", "replace").decode()


def plain(value: Any) -> Any:
    """Return `value` as JSON-able facts: an error as its type and message, what JSON lacks as text, infinity as None.

    Depth, items of a container and values in all are bounded; what is beyond is left out, or is "…".
    """
    kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind is str:
        return value if len(value) <= LONGEST and value.isascii() else text(value)
    if value is None or kind is bool:
        return value
    if kind is float or kind is int:
        return _number(value)
    return _error(value) if isinstance(value, BaseException) else _Walk().visit(value, _DEPTH)


def _number(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if isfinite(value) else None
    return int(value) if -_LARGEST <= value < _LARGEST else "beyond 64 bits"


def _error(error: BaseException) -> dict[str, str]:
    return {"type": text(type(error).__name__), "message": text(error)}


class _Walk:
    """One look through a nested value, which ends after so many values."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = _VALUES

    def visit(self, value: Any, depth: int) -> Any:
        self.left -= 1
        if value is None or isinstance(value, (str, bool)):
            return text(value) if isinstance(value, str) else value
        if isinstance(value, (int, float)):
            return _number(value)
        if isinstance(value, BaseException):
            return _error(value)
        if isinstance(value, (Mapping, list, tuple, AbstractSet)):
            return self._inside(value, depth)
        return text(value, show=repr)

    def _inside(self, value: Any, depth: int) -> Any:
        if not depth or self.left <= 0:
            return "…"
        try:
            if isinstance(value, Mapping):
                items: Iterable[tuple[Any, Any]] = cast("Any", value).items()
                return {text(key): self.visit(one, depth - 1) for key, one in self._some(items)}
            return [self.visit(one, depth - 1) for one in self._some(value)]
        except Exception:
            return "<unreadable>"

    def _some(self, values: Iterable[Any]) -> Iterable[Any]:
        for one in islice(values, _ITEMS):
            if self.left <= 0:
                return
            yield one
