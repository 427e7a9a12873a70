"""Frozen, keyword-only settings without the import cost of dataclasses."""

from __future__ import annotations

import sys

from holdfast.infrastructure.resilience._compile import is_async_function
from holdfast.infrastructure.resilience.errors import ConfigurationError, Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, Self, TypeGuard

# Whole numbers beyond it cannot become a float.
_LARGEST = sys.float_info.max


class Frozen:
    """Base of immutable value objects: the fields are the slots that `_set` filled once."""

    __slots__: tuple[str, ...] = ()

    def _set(self, **fields: object) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        """Refuse: make a changed copy instead."""
        raise AttributeError(
            f"{type(self).__name__} is immutable: make a new one instead of setting {name!r}"
        )

    def __delattr__(self, name: str) -> NoReturn:
        """Refuse: make a changed copy instead."""
        raise AttributeError(f"{type(self).__name__} is immutable: {name!r} cannot be deleted")

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def __eq__(self, other: object) -> bool:
        """Compare by type and fields."""
        if not isinstance(other, Frozen) or type(other) is not type(self):
            return NotImplemented
        return self._fields() == other._fields()

    def __hash__(self) -> int:
        """Hash the fields."""
        return hash((type(self), *self._fields().values()))

    def __repr__(self) -> str:
        """Show every field as an argument."""
        inside = ", ".join(f"{name.removeprefix('_')}={value!r}" for name, value in self._fields().items())
        return f"{type(self).__name__}({inside})"

    def __copy__(self) -> Self:
        """Return itself: it cannot change."""
        return self

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickle by fields, past the constructor: they were valid once."""
        return _rebuild, (type(self), self._fields())


def _rebuild(cls: type[Frozen], fields: dict[str, object]) -> Frozen:
    made = cls.__new__(cls)
    made._set(**fields)
    return made


class Faults:
    """Collect every fault of a configuration, then raise them together."""

    __slots__ = ("_faults", "_subject")

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._faults: list[Fault] = []

    def add(self, path: str, value: object, problem: str, remedy: str) -> None:
        """Note one fault."""
        self._faults.append(Fault(path, value, problem, remedy))

    def number(
        self,
        path: str,
        value: object,
        low: float,
        high: float = float("inf"),
        *,
        whole: bool = False,
        optional: bool = False,
        above: bool = False,
    ) -> None:
        """Note a fault unless `value` is a finite number from `low` to `high` (`whole`: int; `above`: beyond `low`)."""
        if value is None and optional:
            return
        kind = "a whole number" if whole else "a number"
        span = _span(low, high, above=above)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            self.add(path, value, f"is not {kind}", f"give {kind} {span}")
        elif not (low < value if above else low <= value) or not value <= high or not abs(value) <= _LARGEST:
            self.add(path, value, "is out of range", f"give {kind} {span}")

    def check(self, ok: object, path: str, value: object, problem: str, remedy: str) -> None:
        """Note a fault unless `ok`."""
        if not ok:
            self.add(path, value, problem, remedy)

    def callable(self, path: str, value: object, *, sync: bool = False) -> None:
        """Note a fault unless `value` is None or callable; with `sync`, also if it is a coroutine function."""
        self.check(
            value is None or callable(value), path, value, "is not callable", "give a function or None"
        )
        if sync and callable(value) and is_async_function(value):
            self.add(path, value, "is async: nobody awaits it", "give a plain function")

    def name(self, path: str, value: object) -> None:
        """Note a fault unless `value` is None or text."""
        self.check(value is None or isinstance(value, str), path, value, "is not text", "give a str or None")

    def finish(self) -> None:
        """Raise one ConfigurationError if anything was noted."""
        if self._faults:
            raise ConfigurationError(self._subject, tuple(self._faults))


def _span(low: float, high: float, *, above: bool) -> str:
    start = f"above {low:.12g}" if above else f"from {low:.12g}"
    return start if high == float("inf") else f"{start} to {high:.12g}"


def is_target(value: object) -> bool:
    """Return whether a value is what one decorates, where a setting could stand."""
    return callable(value) or isinstance(value, (staticmethod, classmethod))


def refuse_bare(value: object, usage: str) -> None:
    """Raise TypeError where a decorator that cannot do without a setting was given the function instead."""
    if is_target(value):
        name = usage.partition("(")[0]
        what = getattr(value, "__qualname__", None) or repr(value)
        raise TypeError(f"{name} needs a setting, and was given {what} in its place: write {usage}")


def refuse_copy(kind: str) -> NoReturn:
    """Raise TypeError for what cannot have a copy with a state of its own."""
    raise TypeError(
        f"a {kind} is shared state and cannot be copied or pickled: share this one, and make one in each process"
    )


def is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    """Return whether a value is a dict, of whatever."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Return whether a value is a list or a tuple, of whatever."""
    return isinstance(value, (list, tuple))


class FrozenDict(dict[str, "Any"]):
    """A mapping from text that cannot change: hashable if its values are, picklable, and JSON as any dict is."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("this mapping is part of a frozen object: make a changed copy, dict(…), instead")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __hash__(self) -> int:  # type: ignore[override]
        """Hash the items, in any order."""
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickle as the items."""
        return FrozenDict, (dict(self),)
