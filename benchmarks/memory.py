"""What objects weigh: the average of many, by tracemalloc."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import ours, peers, subjects
from benchmarks.rows import OURS, Case, Effort, Function, Row, Section, Target

_CALLS = 20
# Keys after which a dictionary has just grown (CPython 3.11 to 3.13); one of other things than text weighs more, too.
_JUST_GROWN = 1366


@dataclass(frozen=True, kw_only=True)
class Weighed(Case):
    """What makes one object, given a function of its own to decorate and a name; `count`: how many, at any effort."""

    make: Callable[[Function, str], object]
    subject: Callable[[], Function] = subjects.service
    count: int | None = None


def _average(
    make: Callable[[Function, str], object], count: int, subject: Callable[[], Function] = subjects.service
) -> float:
    """Return the bytes that each of `count` objects adds, without its function, its name and what all share."""
    names = [f"service {at}" for at in range(count)]
    functions = [subject() for _ in names]
    kept: list[object] = [None] * count
    shared = [make(subject(), "shared") for _ in range(2)]
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept[:] = map(make, functions, names)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del shared
    return (after - before) / count


def _used(decorate: Function) -> Callable[[Function, str], object]:
    def make(fn: Function, _: str) -> object:
        call = decorate(fn)
        for _call in range(_CALLS):
            call(7, quantity=2)
        return call

    return make


def _measure(cases: Sequence[Weighed], effort: Effort) -> list[Row]:
    rows = []
    for case in cases:
        value, note = None, ""
        try:
            value = _average(case.make, case.count or effort.objects, case.subject)
        except ImportError as error:
            note = str(error)
        rows.append(
            Row(
                section="memory",
                library=case.library,
                what=case.what,
                unit="bytes",
                value=value,
                target=case.target,
                note=note,
            )
        )
    return rows


def _pybreaker(_: Function, name: str) -> object:
    import pybreaker

    return pybreaker.CircuitBreaker(name=name)


def _circuitbreaker(_: Function, name: str) -> object:
    import circuitbreaker

    return circuitbreaker.CircuitBreaker(name=name)


def _redress_breaker(_: Function, __: str) -> object:
    import redress

    return redress.CircuitBreaker()


def _redress_budget(_: Function, __: str) -> object:
    import redress

    return redress.Budget(max_retries=100, window_s=10.0)


def _keys(*, text: bool = True) -> Callable[[Function, str], object]:
    """Pass a family of limits with keys, each once."""
    family = ours.limits_by_key()

    def make(fn: Function, name: str) -> object:
        with family.get(name if text else fn):
            return None

    return make


def _limits_keys() -> Callable[[Function, str], object]:
    made: list[Function] = []

    def make(_: Function, name: str) -> object:
        hit = made[0] if made else peers.limits_hit()
        made[:] = [hit]
        return hit(name)

    return make


def _cases() -> list[Weighed]:
    decorated = "function, retry + breaker"
    return [
        Weighed(library="(none)", what="function, pass-through wrapper", make=_used(subjects.pass_through)),
        Weighed(library=OURS, what=decorated, make=_used(ours.default), target=Target(1500)),
        Weighed(
            library=OURS,
            what="the same, without annotations",
            make=_used(ours.default),
            subject=subjects.plain,
            target=Target(1500),
        ),
        Weighed(library=OURS, what=f"{decorated}, own", make=_used(ours.configured)),
        Weighed(library="tenacity + pybreaker", what=decorated, make=_used(peers.tenacity_pybreaker)),
        Weighed(library="stamina + purgatory", what=decorated, make=_used(peers.stamina_purgatory)),
        Weighed(library="backoff + circuitbreaker", what=decorated, make=_used(peers.backoff_circuitbreaker)),
        Weighed(library="redress", what=decorated, make=_used(peers.redress_both)),
        Weighed(
            library=OURS, what="breaker", make=lambda _, name: ours.lone_breaker(name), target=Target(600)
        ),
        Weighed(library="pybreaker", what="breaker", make=_pybreaker),
        Weighed(library="circuitbreaker", what="breaker", make=_circuitbreaker),
        Weighed(library="redress", what="breaker", make=_redress_breaker),
        Weighed(library=OURS, what="budget", make=lambda _, name: ours.lone_budget(name), target=Target(200)),
        Weighed(library="redress", what="budget", make=_redress_budget),
        Weighed(library=OURS, what="limiter key", make=_keys(), target=Target(120)),
        Weighed(
            library=OURS,
            what="limiter key, at its worst",
            make=_keys(text=False),
            target=Target(120),
            count=_JUST_GROWN,
        ),
        Weighed(library="limits", what="limiter key, fixed window", make=_limits_keys()),
        Weighed(library="aiolimiter", what="limiter", make=lambda _, __: peers.aiolimiter_limiter()),
        Weighed(library="pyrate-limiter", what="bucket", make=lambda _, __: peers.pyrate_limiter_bucket()),
        Weighed(
            library=OURS,
            what="quantile estimate",
            make=lambda _, __: ours.lone_estimate(),
            target=Target(400),
        ),
    ]


SECTION = Section("memory", "Memory, average of many", _cases, _measure)
