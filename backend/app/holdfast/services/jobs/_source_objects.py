"""Rows that Python objects are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from holdfast.infrastructure.resilience._frozen import is_list

if TYPE_CHECKING:
    from collections.abc import Sequence


def values_of(item: Any, columns: Sequence[str] | None) -> dict[str, Any] | None:
    """Return the values of a row by column, or None if it is none."""
    if _is_mapping(item):
        return dict(item)
    fields = _fields(item)
    if fields is not None:
        return {name: getattr(item, name) for name in fields}
    if columns is not None and is_list(item) and len(item) == len(columns):
        return dict(zip(columns, item, strict=True))
    return None


def _is_mapping(item: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(item, Mapping)


def _fields(item: object) -> Any:
    kind = type(item)
    for attribute in ("__dataclass_fields__", "model_fields", "_fields"):
        if hasattr(kind, attribute):
            return list(getattr(kind, attribute))
    return None


def columns_needed(item: Any, columns: Sequence[str] | None) -> str:
    """Return what to do about an item that is no row."""
    if not is_list(item):
        return "give mappings, dataclasses, pydantic models, named tuples, or tuples and columns"
    return (
        "name the columns: columns=[…]" if columns is None else f"give {len(columns)} values, not {len(item)}"
    )
