"""Sections that time single calls: sync, async, a retried attempt, a refused call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import ours, peers, subjects
from benchmarks.rows import OURS, Case, Effort, Function, Row, Section, Target
from benchmarks.timing import Pair, Timer, fresh, inside, interleave, middle
from holdfast import Window


@dataclass(frozen=True)
class Column:
    """What is wrapped, made anew each time, and the arguments that it is called with."""

    make: Callable[[], Function]
    arguments: str


def _of(fn: Function, arguments: str) -> Column:
    return Column(lambda: fresh(fn), arguments)


_SERVICE = (_of(subjects.fetch, subjects.SERVICE), _of(subjects.f, subjects.PLAIN))
_ASYNC = (_of(subjects.afetch, subjects.SERVICE), _of(subjects.af, subjects.PLAIN))
_GENERIC = (_of(subjects.anything, subjects.SERVICE), _of(subjects.anything, subjects.PLAIN))
# Called as the service is: one argument by position, one by keyword.
_BUILTIN = (_of(pow, "7, exp=2"), _of(abs, subjects.PLAIN))
_FLAKY = (Column(subjects.flaky, subjects.SERVICE),)
_ASYNC_FLAKY = (Column(subjects.async_flaky, subjects.SERVICE),)
_DOWN = (_of(subjects.down, subjects.SERVICE),)


@dataclass(frozen=True, kw_only=True)
class Timed(Case):
    """A decorator to be timed beside a unit; `net`: the difference counts, not the ratio; `caught`: the calls raise."""

    decorate: Function
    unit: Function = subjects.pass_through
    columns: tuple[Column, ...] = _SERVICE
    is_async: bool = False
    net: bool = False
    caught: bool = False

    def pairs(self, runner: asyncio.Runner) -> list[Pair]:
        """Return a warm pair for each column."""
        return [self._pair(column, runner) for column in self.columns]

    def _pair(self, column: Column, runner: asyncio.Runner) -> Pair:
        unit = fresh(self.unit(column.make()))
        candidate = inside(runner, lambda: self.decorate(column.make()))
        loop = runner if self.is_async else None
        return Pair(
            Timer(unit, column.arguments, runner=loop, caught=self.caught),
            Timer(candidate, column.arguments, runner=loop, caught=self.caught),
        )

    def row(self, section: str, pairs: Sequence[Pair]) -> Row:
        """Summarise what was measured."""
        first = pairs[0]
        value, spread = middle(first.differences() if self.net else first.ratios())
        return Row(
            section=section,
            library=self.library,
            what=self.what,
            unit="µs" if self.net else "×",
            value=value,
            spread=spread,
            plain=middle(pairs[1].ratios())[0] if len(pairs) > 1 else None,
            ns=first.nanoseconds(),
            target=self.target,
        )


def _measure(section: str, cases: Sequence[Timed], effort: Effort) -> list[Row]:
    with asyncio.Runner() as runner:
        ready: dict[Timed, list[Pair]] = {}
        rows = []
        for case in cases:
            try:
                ready[case] = case.pairs(runner)
            except ImportError as error:
                rows.append(_absent(section, case, error))
        interleave([pair for pairs in ready.values() for pair in pairs], effort)
        return rows + [case.row(section, pairs) for case, pairs in ready.items()]


def _absent(section: str, case: Timed, error: ImportError) -> Row:
    unit = "µs" if case.net else "×"
    return Row(section=section, library=case.library, what=case.what, unit=unit, value=None, note=str(error))


def _section(name: str, title: str, cases: Callable[[], list[Timed]]) -> Section:
    return Section(name, title, cases, lambda chosen, effort: _measure(name, chosen, effort))


def _ours(what: str, decorate: Function, limit: float | None = None, **more: Any) -> Timed:
    target = None if limit is None else Target(limit)
    return Timed(library=OURS, what=what, decorate=decorate, target=target, **more)


def _unwrapped(fn: Function) -> Function:
    return fn


def _peer(library: str, what: str, decorate: Function, **more: Any) -> Timed:
    return Timed(library=library, what=what, decorate=decorate, **more)


def _sync() -> list[Timed]:
    return [
        _peer("(none)", "no wrapper at all", _unwrapped),
        _ours("retry", ours.retry, 0.6),
        _peer("tenacity", "retry", peers.tenacity_retry),
        _peer("stamina", "retry", peers.stamina_retry),
        _peer("backoff", "retry", peers.backoff_retry),
        _peer("redress", "retry", peers.redress_retry),
        _ours("breaker, 5 failures in a row", ours.breaker(window=Window.consecutive(5))),
        _ours("breaker, 100 calls", ours.breaker(window=Window.calls(100))),
        _ours("breaker, 10 s", ours.breaker()),
        _peer("pybreaker", "breaker", peers.pybreaker_breaker),
        _peer("circuitbreaker", "breaker", peers.circuitbreaker_breaker),
        _peer("aiobreaker", "breaker", peers.aiobreaker_breaker),
        _peer("purgatory", "breaker", peers.purgatory_breaker),
        _peer("redress", "breaker", peers.redress_breaker),
        _ours("retry + breaker, 5 in a row", ours.consecutive),
        _ours("retry + breaker, 100 calls", ours.calls, 0.9),
        _ours("retry + breaker, 10 s", ours.default),
        _ours("retry + breaker, 10 s, slow calls", ours.slow, 2.0),
        _ours("timeout + retry + breaker", ours.bounded, 2.0),
        _peer("tenacity + pybreaker", "retry + breaker", peers.tenacity_pybreaker),
        _peer("stamina + purgatory", "retry + breaker", peers.stamina_purgatory),
        _peer("backoff + circuitbreaker", "retry + breaker", peers.backoff_circuitbreaker),
        _peer("redress", "retry + breaker", peers.redress_both),
    ]


def _generic() -> list[Timed]:
    return [
        _ours("retry", ours.retry, 1.3, columns=_GENERIC),
        _ours("retry + breaker, 100 calls", ours.calls, 1.6, columns=_GENERIC),
        _ours("retry, C function", ours.retry, 1.3, columns=_BUILTIN),
        _ours("retry + breaker, C function", ours.calls, 1.6, columns=_BUILTIN),
    ]


def _async() -> list[Timed]:
    made = [
        _peer("(none)", "no wrapper at all", _unwrapped),
        _ours("retry", ours.retry),
        _ours("retry + breaker, 100 calls", ours.calls, 1.0),
        _ours("retry + breaker, 10 s", ours.default),
        _ours("retry + breaker, 10 s, slow calls", ours.slow),
        _ours("timeout + retry + breaker", ours.bounded),
        _peer("tenacity", "retry", peers.tenacity_retry),
        _peer("stamina", "retry", peers.stamina_retry),
        _peer("backoff", "retry", peers.backoff_retry),
        _peer("hyx", "retry", peers.hyx_retry),
        _peer("redress", "retry", peers.redress_retry),
        _peer("circuitbreaker", "breaker", peers.circuitbreaker_breaker),
        _peer("aiobreaker", "breaker", peers.aiobreaker_breaker),
        _peer("hyx", "breaker", peers.hyx_breaker),
        _peer("purgatory", "breaker", peers.purgatory_breaker),
        _peer("redress", "breaker", peers.redress_breaker),
        _peer("tenacity + aiobreaker", "retry + breaker", peers.tenacity_aiobreaker),
        _peer("stamina + purgatory", "retry + breaker", peers.stamina_purgatory),
        _peer("backoff + circuitbreaker", "retry + breaker", peers.backoff_circuitbreaker),
        _peer("hyx", "retry + breaker", peers.hyx_both),
        _peer("redress", "retry + breaker", peers.redress_both),
    ]
    return [_made_async(case, unit=subjects.async_pass_through) for case in made]


def _timeouts() -> list[Timed]:
    made = [
        _ours("timeout", ours.timeout, 0.5),
        _peer("asyncio", "wait_for", subjects.asyncio_wait_for),
        _peer("hyx", "timeout", peers.hyx_timeout),
    ]
    return [_made_async(case, unit=subjects.asyncio_timeout, columns=_ASYNC[:1]) for case in made]


def _retried() -> list[Timed]:
    made = [
        _ours("second attempt succeeds", ours.at_once, 1.0),
        _peer("tenacity", "second attempt succeeds", peers.tenacity_at_once),
        _peer("stamina", "second attempt succeeds", peers.stamina_at_once),
        _peer("backoff", "second attempt succeeds", peers.backoff_at_once),
        _peer("redress", "second attempt succeeds", peers.redress_at_once),
    ]
    sync = [replace(case, unit=subjects.again_by_hand, columns=_FLAKY, net=True) for case in made]
    late = _ours("second attempt succeeds, async", ours.at_once)
    return [
        *sync,
        _made_async(late, unit=subjects.async_again_by_hand, columns=_ASYNC_FLAKY, net=True),
    ]


def _refused() -> list[Timed]:
    made = [
        _ours("refused", ours.opened, 1.6),
        _ours("refused, pybreaker imported", ours.opened_beside_pybreaker, late=True),
        _peer("pybreaker", "refused", peers.pybreaker_breaker),
        _peer("circuitbreaker", "refused", peers.circuitbreaker_breaker),
        _peer("aiobreaker", "refused", peers.aiobreaker_breaker),
        _peer("purgatory", "refused", peers.purgatory_breaker),
        _peer("redress", "refused", peers.redress_breaker),
    ]
    return [replace(case, unit=subjects.refusing, columns=_DOWN, caught=True) for case in made]


def _made_async(case: Timed, **changes: Any) -> Timed:
    return replace(case, **{"columns": _ASYNC, "is_async": True, **changes})


SECTIONS = [
    _section("sync", "Sync call whose first attempt succeeds; 1.0 = a pass-through wrapper", _sync),
    _section("generic", "The same, functions whose signature cannot be generated", _generic),
    _section("async", "Async call whose first attempt succeeds; 1.0 = an async pass-through wrapper", _async),
    _section("timeout", "Bounded async call; 1.0 = `async with asyncio.timeout(30)`", _timeouts),
    _section("retried", "One retried attempt, beyond raising, catching and calling again by hand", _retried),
    _section("refused", "Call refused by an open breaker; 1.0 = reading the clock and raising", _refused),
]
