"""Sections that time single calls: sync, async, a retried attempt, a refused call."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import ours, peers, subjects
from benchmarks.rows import Function
from benchmarks.timed import ASYNC, Column, Timed, made_async, mine, of, peer, section
from holdfast import Window

_GENERIC = (of(subjects.anything, subjects.SERVICE), of(subjects.anything, subjects.PLAIN))
# Called as the service is: one argument by position, one by keyword.
_BUILTIN = (of(pow, "7, exp=2"), of(abs, subjects.PLAIN))
_FLAKY = (Column(subjects.flaky, subjects.SERVICE),)
_ASYNC_FLAKY = (Column(subjects.async_flaky, subjects.SERVICE),)
_DOWN = (of(subjects.down, subjects.SERVICE),)


def _unwrapped(fn: Function) -> Function:
    return fn


def _sync() -> list[Timed]:
    return [
        peer("(none)", "no wrapper at all", _unwrapped),
        mine("retry", ours.retry, 0.6),
        peer("tenacity", "retry", peers.tenacity_retry),
        peer("stamina", "retry", peers.stamina_retry),
        peer("backoff", "retry", peers.backoff_retry),
        peer("redress", "retry", peers.redress_retry),
        mine("breaker, 5 failures in a row", ours.breaker(window=Window.consecutive(5))),
        mine("breaker, 100 calls", ours.breaker(window=Window.calls(100))),
        mine("breaker, 10 s", ours.breaker()),
        peer("pybreaker", "breaker", peers.pybreaker_breaker),
        peer("circuitbreaker", "breaker", peers.circuitbreaker_breaker),
        peer("aiobreaker", "breaker", peers.aiobreaker_breaker),
        peer("purgatory", "breaker", peers.purgatory_breaker),
        peer("redress", "breaker", peers.redress_breaker),
        mine("retry + breaker, 5 in a row", ours.consecutive),
        mine("retry + breaker, 100 calls", ours.calls, 0.9),
        mine("retry + breaker, 10 s", ours.default),
        mine("retry + breaker, 10 s, slow calls", ours.slow, 2.0),
        mine("timeout + retry + breaker", ours.bounded, 2.0),
        peer("tenacity + pybreaker", "retry + breaker", peers.tenacity_pybreaker),
        peer("stamina + purgatory", "retry + breaker", peers.stamina_purgatory),
        peer("backoff + circuitbreaker", "retry + breaker", peers.backoff_circuitbreaker),
        peer("redress", "retry + breaker", peers.redress_both),
    ]


def _generic() -> list[Timed]:
    return [
        mine("retry", ours.retry, 1.3, columns=_GENERIC),
        mine("retry + breaker, 100 calls", ours.calls, 1.6, columns=_GENERIC),
        mine("retry, C function", ours.retry, 1.3, columns=_BUILTIN),
        mine("retry + breaker, C function", ours.calls, 1.6, columns=_BUILTIN),
    ]


def _async() -> list[Timed]:
    made = [
        peer("(none)", "no wrapper at all", _unwrapped),
        mine("retry", ours.retry),
        mine("retry + breaker, 100 calls", ours.calls, 1.0),
        mine("retry + breaker, 10 s", ours.default),
        mine("retry + breaker, 10 s, slow calls", ours.slow),
        mine("timeout + retry + breaker", ours.bounded),
        peer("tenacity", "retry", peers.tenacity_retry),
        peer("stamina", "retry", peers.stamina_retry),
        peer("backoff", "retry", peers.backoff_retry),
        peer("hyx", "retry", peers.hyx_retry),
        peer("redress", "retry", peers.redress_retry),
        peer("circuitbreaker", "breaker", peers.circuitbreaker_breaker),
        peer("aiobreaker", "breaker", peers.aiobreaker_breaker),
        peer("hyx", "breaker", peers.hyx_breaker),
        peer("purgatory", "breaker", peers.purgatory_breaker),
        peer("redress", "breaker", peers.redress_breaker),
        peer("tenacity + aiobreaker", "retry + breaker", peers.tenacity_aiobreaker),
        peer("stamina + purgatory", "retry + breaker", peers.stamina_purgatory),
        peer("backoff + circuitbreaker", "retry + breaker", peers.backoff_circuitbreaker),
        peer("hyx", "retry + breaker", peers.hyx_both),
        peer("redress", "retry + breaker", peers.redress_both),
    ]
    return [made_async(case, unit=subjects.async_pass_through) for case in made]


def _timeouts() -> list[Timed]:
    made = [
        mine("timeout", ours.timeout, 0.5),
        mine("full stack, 8 policies", ours.stack, 2.43),
        peer("asyncio", "wait_for", subjects.asyncio_wait_for),
        peer("hyx", "timeout", peers.hyx_timeout),
        peer("hyx", "full stack, 7 policies", peers.hyx_stack),
    ]
    return [made_async(case, unit=subjects.asyncio_timeout, columns=ASYNC[:1]) for case in made]


def _retried() -> list[Timed]:
    made = [
        mine("second attempt succeeds", ours.at_once, 1.0),
        peer("tenacity", "second attempt succeeds", peers.tenacity_at_once),
        peer("stamina", "second attempt succeeds", peers.stamina_at_once),
        peer("backoff", "second attempt succeeds", peers.backoff_at_once),
        peer("redress", "second attempt succeeds", peers.redress_at_once),
    ]
    sync = [replace(case, unit=subjects.again_by_hand, columns=_FLAKY, net=True) for case in made]
    late = mine("second attempt succeeds, async", ours.at_once)
    return [
        *sync,
        made_async(late, unit=subjects.async_again_by_hand, columns=_ASYNC_FLAKY, net=True),
    ]


def _refused() -> list[Timed]:
    made = [
        mine("refused", ours.opened, 1.6),
        mine("refused, pybreaker imported", ours.opened_beside_pybreaker, late=True),
        peer("pybreaker", "refused", peers.pybreaker_breaker),
        peer("circuitbreaker", "refused", peers.circuitbreaker_breaker),
        peer("aiobreaker", "refused", peers.aiobreaker_breaker),
        peer("purgatory", "refused", peers.purgatory_breaker),
        peer("redress", "refused", peers.redress_breaker),
    ]
    return [replace(case, unit=subjects.refusing, columns=_DOWN, caught=True) for case in made]


SECTIONS = [
    section("sync", "Sync call whose first attempt succeeds; 1.0 = a pass-through wrapper", _sync),
    section("generic", "The same, functions whose signature cannot be generated", _generic),
    section("async", "Async call whose first attempt succeeds; 1.0 = an async pass-through wrapper", _async),
    section("timeout", "Bounded async call; 1.0 = `async with asyncio.timeout(30)`", _timeouts),
    section("retried", "One retried attempt, beyond raising, catching and calling again by hand", _retried),
    section("refused", "Call refused by an open breaker; 1.0 = reading the clock and raising", _refused),
]
