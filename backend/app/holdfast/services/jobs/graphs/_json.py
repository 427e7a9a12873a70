"""What JSON's types are, to type checkers too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeGuard


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Return whether a value is a list."""
    return isinstance(value, list | tuple)


def is_object(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Return whether a value is an object."""
    return isinstance(value, Mapping)
