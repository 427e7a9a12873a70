"""What the table is made of: targets, cases to be measured, rows that were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Function = Callable[..., Any]
OURS = "holdfast"


@dataclass(frozen=True)
class Target:
    """A limit on a row's value: at most it, or at least it."""

    limit: float
    at_least: bool = False

    def met(self, value: float | None) -> bool:
        """Return whether `value` keeps the limit; a value that could not be measured does not."""
        if value is None:
            return False
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        """Show the limit as the table does."""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


@dataclass(frozen=True, kw_only=True)
class Case:
    """Something to measure: whose, what, and the value it should keep. `late`: only when peers are imported."""

    library: str
    what: str
    target: Target | None = None
    late: bool = False

    @property
    def is_late(self) -> bool:
        """Return whether this is measured in the second pass, in which peers are imported."""
        return self.late or self.library != OURS


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measured case: the value, the half of the spread of its middle 50 %, and what the section adds.

    `plain` is the ratio for `f(1)`; `ns` what one call took, nanoseconds.
    """

    section: str
    library: str
    what: str
    unit: str
    value: float | None
    spread: float | None = None
    plain: float | None = None
    ns: float | None = None
    target: Target | None = None
    note: str = ""

    @property
    def missed(self) -> bool:
        """Return whether there is a target, and it is not met."""
        return self.target is not None and not self.target.met(self.value)

    @property
    def label(self) -> str:
        """Name the row in one line."""
        return f"{self.section}: {self.library}, {self.what}"


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured: rounds, seconds per timed block, throughput runs, objects and processes."""

    rounds: int
    block: float
    runs: int
    objects: int
    processes: int


FULL = Effort(rounds=201, block=0.0005, runs=7, objects=1000, processes=21)
QUICK = Effort(rounds=31, block=0.0004, runs=3, objects=200, processes=7)


@dataclass(frozen=True)
class Section:
    """A part of the table: how its cases are found and measured."""

    name: str
    title: str
    cases: Callable[[], list[Any]]
    measure: Callable[[list[Any], Effort], list[Row]]
