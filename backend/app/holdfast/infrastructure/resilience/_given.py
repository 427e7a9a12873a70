"""Values that users give a policy to answer with."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Absent:
    """Stands for a value that was not given, for None is one."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Show what signatures show."""
        return "..."

    def __reduce__(self) -> str:
        """Stay the same object when copied or pickled."""
        return "ABSENT"


ABSENT = Absent()
_CHANGEABLE = frozenset({bytearray, dict, list, set})


def fresh(value: Any) -> Any:
    """Return `value`, or a shallow copy if it is a plain container that callers might change."""
    return value.copy() if type(value) in _CHANGEABLE else value
