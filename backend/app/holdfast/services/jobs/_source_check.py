"""All that is wrong with the rows of a source, at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience._frozen import is_list
from holdfast.services.jobs._row_keys import Duplicates
from holdfast.services.jobs.rows import Row, RowFault, SourceFaultsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_SHOWN = 100


class Found:
    """The first faults, and how many there are."""

    def __init__(self) -> None:
        self.first: list[RowFault] = []
        self.total = 0

    def add(self, fault: RowFault) -> None:
        """Count a fault, and keep it if it is one of the first."""
        self.total += 1
        if self.total <= _SHOWN:
            self.first.append(fault)

    def finish(self, name: str) -> None:
        """Raise them together, if there are any."""
        if self.total:
            faults = sorted(self.first, key=lambda fault: fault.line or 0)
            raise SourceFaultsError(name, tuple(faults), self.total)


def checked(
    name: str, entries: Iterable[Row | RowFault], checks: Sequence[Callable[[Row], object]]
) -> Iterator[Row]:
    """Yield the good rows; at the end, raise what was found."""
    found = Found()
    keys = Duplicates()
    for entry in entries:
        if isinstance(entry, RowFault):
            found.add(entry)
            continue
        keys.add(entry.key, entry.line)
        before = found.total
        for check in checks:
            for fault in _faults(entry, check):
                found.add(fault)
        if found.total == before:
            yield entry
    for line, first in keys.pairs():
        problem = f"has the same key as line {first}"
        found.add(RowFault(line=line, problem=problem, remedy="give each row a key of its own"))
    found.finish(name)


def _faults(row: Row, check: Callable[[Row], object]) -> Iterator[RowFault]:
    try:
        said = check(row)
    except ValueError as error:
        yield from _of_error(row, error)
        return
    if said is False:
        said = f"does not pass {getattr(check, '__name__', repr(check))}"
    for problem in said if is_list(said) else [said] if isinstance(said, str) else ():
        yield RowFault(line=row.line, key=row.key, problem=str(problem))


def _of_error(row: Row, error: ValueError) -> Iterator[RowFault]:
    told = getattr(error, "errors", None)
    if not callable(told):
        yield RowFault(line=row.line, key=row.key, problem=str(error))
        return
    details: Any = told()
    for detail in details:
        column = ".".join(map(str, detail["loc"])) or None
        value = detail.get("input")
        yield RowFault(
            line=row.line, key=row.key, column=column, value=value, problem=f"is wrong: {detail['msg']}"
        )


def header_faults(line: int | None, names: Sequence[str], needed: Sequence[str]) -> Iterator[RowFault]:
    """Yield what is wrong with the names of columns: none, the same twice, the key missing."""
    for number, name in enumerate(names, 1):
        if not name.strip():
            problem = f"column {number} has no name"
            yield RowFault(line=line, problem=problem, remedy="name it, or remove it")
        elif name in names[: number - 1]:
            problem = f"column {number} has the name of column {names.index(name) + 1}, {name!r}"
            yield RowFault(line=line, problem=problem, remedy="give each column a name of its own")
    for name in needed:
        if name not in names:
            problem = f"there is no column {name!r}, which is to be the key"
            yield RowFault(line=line, problem=problem, remedy=f"there are {', '.join(map(repr, names))}")
