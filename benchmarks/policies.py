"""Sections that time the other policies, each alone, where nothing is refused and nothing fails; and all at once."""

from __future__ import annotations

from typing import Any

from benchmarks import ours, peers, subjects
from benchmarks.rows import Target
from benchmarks.timed import ASYNC, SYNC, Timed, made_async, mine, peer, section


def _sync() -> list[Timed]:
    return [
        mine("bulkhead", ours.bulkhead, 2.0),
        peer("threading", "bulkhead: BoundedSemaphore", subjects.semaphore),
        mine("rate limit", ours.rate_limit, 2.0),
        mine("rate limit, by key", ours.rate_limits),
        peer("limits", "rate limit, fixed window", peers.limits_fixed),
        peer("limits", "rate limit, sliding window", peers.limits_sliding),
        peer("pyrate-limiter", "rate limit", peers.pyrate_limiter_rate_limit),
        mine("throttle", ours.throttle),
        mine("concurrency limit", ours.concurrency_limit),
        mine("concurrency limit, sampled", ours.sampled_limit),
        mine("fallback", ours.fallback),
        mine("chaos, off", ours.chaos),
        mine("cache hit", ours.cached),
        peer("functools", "hit: lru_cache, no expiry", subjects.lru_cache),
        mine("full stack, 8 policies", ours.stack, 6.0),
    ]


def _async() -> list[Timed]:
    made = [
        mine("bulkhead", ours.bulkhead),
        peer("asyncio", "bulkhead: BoundedSemaphore", subjects.async_semaphore),
        peer("hyx", "bulkhead", peers.hyx_bulkhead),
        mine("rate limit", ours.rate_limit),
        mine("rate limit, by key", ours.rate_limits),
        peer("hyx", "rate limit", peers.hyx_rate_limit),
        peer("aiolimiter", "rate limit", peers.aiolimiter_rate_limit),
        peer("limits", "rate limit, fixed window", peers.limits_fixed),
        peer("limits", "rate limit, sliding window", peers.limits_sliding),
        peer("pyrate-limiter", "rate limit", peers.pyrate_limiter_rate_limit),
        mine("throttle", ours.throttle),
        mine("concurrency limit", ours.concurrency_limit),
        mine("concurrency limit, sampled", ours.sampled_limit),
        mine("fallback", ours.fallback),
        peer("hyx", "fallback", peers.hyx_fallback),
        mine("chaos, off", ours.chaos),
        mine("cache hit", ours.cached),
        mine("full stack, 8 policies", ours.stack),
        peer("hyx", "full stack, 7 policies", peers.hyx_stack),
    ]
    return [made_async(case, unit=subjects.async_pass_through) for case in made]


def _hedges() -> list[Timed]:
    made = [mine("hedge after 1 s", ours.hedge, 1.5), mine("hedge after p95", ours.hedge_p95, 1.5)]
    return [
        *(made_async(case, unit=subjects.in_a_task, columns=ASYNC[:1]) for case in made),
        mine("hedge after 1 s, sync", ours.hedge, unit=subjects.in_a_thread, columns=SYNC[:1]),
    ]


def _limiters() -> list[Timed]:
    at_least = Target(3.0, at_least=True)
    by_hand = [
        mine("async with", ours.async_with, target=at_least, late=True),
        mine("decorator, beside async with", ours.rate_limit, late=True),
        peer("(none)", "async with, does nothing", subjects.async_with_nothing),
        peer("(none)", "async with, reads a clock", subjects.async_with_clock),
    ]
    decorators = [
        mine("decorator", ours.rate_limit, target=at_least, late=True),
        mine("decorator, by key", ours.rate_limits, late=True),
        peer("hyx", "decorator", peers.hyx_rate_limit),
        peer("limits", "decorator, fixed window", peers.limits_fixed),
        peer("limits", "decorator, sliding window", peers.limits_sliding),
        peer("pyrate-limiter", "decorator", peers.pyrate_limiter_rate_limit),
    ]
    shared: dict[str, Any] = {"columns": ASYNC[:1], "rate": True}
    return [
        *(made_async(case, unit=peers.aiolimiter_async_with, **shared) for case in by_hand),
        *(made_async(case, unit=peers.aiolimiter_rate_limit, **shared) for case in decorators),
    ]


SECTIONS = [
    section("policies", "Sync call through one more policy; 1.0 = a pass-through wrapper", _sync),
    section(
        "async-policies", "Async call through one more policy; 1.0 = an async pass-through wrapper", _async
    ),
    section("hedge", "Hedge that is not sent; 1.0 = the call in a task, or sync in a thread pool", _hedges),
    section(
        "limiter", "Calls a second, rate never reached; 1.0 = aiolimiter, used in the same way", _limiters
    ),
]
