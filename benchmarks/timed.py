"""What the sections that time single calls have in common: a case is a decorator, timed beside a unit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import subjects
from benchmarks.rows import OURS, Case, Effort, Function, Row, Section, Target
from benchmarks.timing import Pair, Timer, fresh, inside, interleave, middle


@dataclass(frozen=True)
class Column:
    """What is wrapped, made anew each time, and the arguments that it is called with."""

    make: Callable[[], Function]
    arguments: str


def of(fn: Function, arguments: str) -> Column:
    """Return the column of a function that stays the same."""
    return Column(lambda: fresh(fn), arguments)


SYNC = (of(subjects.fetch, subjects.SERVICE), of(subjects.f, subjects.PLAIN))
ASYNC = (of(subjects.afetch, subjects.SERVICE), of(subjects.af, subjects.PLAIN))


@dataclass(frozen=True, kw_only=True)
class Timed(Case):
    """A decorator to be timed beside a unit.

    `net`: the difference counts, not the ratio; `rate`: how many calls there are while the unit does one; `caught`:
    the calls raise.
    """

    decorate: Function
    unit: Function = subjects.pass_through
    columns: tuple[Column, ...] = SYNC
    is_async: bool = False
    net: bool = False
    rate: bool = False
    caught: bool = False

    def pairs(self, runner: asyncio.Runner) -> list[Pair]:
        """Return a warm pair for each column."""
        return [self._pair(column, runner) for column in self.columns]

    def _pair(self, column: Column, runner: asyncio.Runner) -> Pair:
        unit = fresh(inside(runner, lambda: self.unit(column.make())))
        candidate = inside(runner, lambda: self.decorate(column.make()))
        loop = runner if self.is_async else None
        return Pair(
            Timer(unit, column.arguments, runner=loop, caught=self.caught),
            Timer(candidate, column.arguments, runner=loop, caught=self.caught),
        )

    def _values(self, pair: Pair) -> list[float]:
        if self.net:
            return pair.differences()
        return [1 / ratio for ratio in pair.ratios()] if self.rate else pair.ratios()

    def row(self, section: str, pairs: Sequence[Pair]) -> Row:
        """Summarise what was measured."""
        first = pairs[0]
        value, spread = middle(self._values(first))
        return Row(
            section=section,
            library=self.library,
            what=self.what,
            unit="µs" if self.net else "×",
            value=value,
            spread=spread,
            plain=middle(self._values(pairs[1]))[0] if len(pairs) > 1 else None,
            ns=first.nanoseconds(),
            target=self.target,
        )


def measure(section: str, cases: Sequence[Timed], effort: Effort) -> list[Row]:
    """Measure cases side by side; one whose library is missing says so."""
    with asyncio.Runner() as runner:
        ready: dict[Timed, list[Pair]] = {}
        rows = []
        for case in cases:
            try:
                ready[case] = case.pairs(runner)
            except ImportError as error:
                rows.append(absent(section, case, error))
        interleave([pair for pairs in ready.values() for pair in pairs], effort)
        return rows + [case.row(section, pairs) for case, pairs in ready.items()]


def absent(section: str, case: Timed, error: ImportError) -> Row:
    """Return the row of a case that cannot be measured here."""
    return Row(
        section=section,
        library=case.library,
        what=case.what,
        unit="µs" if case.net else "×",
        value=None,
        target=case.target,
        note=str(error),
    )


def section(name: str, title: str, cases: Callable[[], list[Timed]]) -> Section:
    """Return a section whose cases are timed calls."""
    return Section(name, title, cases, lambda chosen, effort: measure(name, chosen, effort))


def mine(what: str, decorate: Function, limit: float | None = None, **more: Any) -> Timed:
    """Return a case of holdfast's, with the most that it may cost."""
    target = more.pop("target", None if limit is None else Target(limit))
    return Timed(library=OURS, what=what, decorate=decorate, target=target, **more)


def peer(library: str, what: str, decorate: Function, **more: Any) -> Timed:
    """Return a case of another library's."""
    return Timed(library=library, what=what, decorate=decorate, **more)


def made_async(case: Timed, **changes: Any) -> Timed:
    """Return the same case with coroutine functions."""
    return replace(case, **{"columns": ASYNC, "is_async": True, **changes})
