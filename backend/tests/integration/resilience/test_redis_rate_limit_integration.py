"""Seam: a rate limit × Redis that several processes share, that is slow, is killed and comes back."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis
import redis.asyncio

from backend.tests.integration.resilience._driver import Mode
from backend.tests.integration.resilience._hand import Caller, HandClock
from backend.tests.integration.resilience._race import race
from backend.tests.integration.resilience._redis import CountingRedis, RedisProcess, connect
from holdfast.infrastructure.resilience.clock import SYSTEM, Clock
from holdfast.infrastructure.resilience.deadline import deadline_after
from holdfast.infrastructure.resilience.errors import ConfigurationError, RateLimitedError
from holdfast.infrastructure.resilience.events import CallDelayed, CallRejected, StorageFailed
from holdfast.infrastructure.store.redis_rate_limit import RedisRateLimit
from holdfast.testing.recorder import EventRecorder

FLEET = Path(__file__).with_name("_rate_fleet.py")
# Nobody listens there.
NOWHERE = "redis://127.0.0.1:1/0"


def server_time(redis_client: CountingRedis) -> float:
    whole, micro = redis_client.execute_command("TIME")
    return float(whole) + float(micro) / 1e6


def itself(who: object) -> object:
    """Return the argument, as the key."""
    return who


def other_thread(caller: Caller, limit: RedisRateLimit, calls: int = 1) -> Callable[[], None]:
    """Return what makes calls elsewhere, from within a wait: in a thread, and synchronously."""

    def elsewhere() -> None:
        function = limit(lambda: None)
        thread = threading.Thread(target=lambda: [function() for _ in range(calls)])
        thread.start()
        thread.join()

    return elsewhere


# Slots


def test_the_burst_is_admitted_and_the_rest_refused_until_the_rate_allows(
    caller: Caller, redis_url: str, redis_namespace: str, redis_client: CountingRedis
) -> None:
    """Of one burst all are admitted, the next call is told exactly when the server will have a slot for it."""
    limit = caller.limit(redis_url, per=60.0, burst=3, namespace=redis_namespace)
    before = server_time(redis_client)
    assert caller.wait(limit) == 0
    first = server_time(redis_client)
    assert [caller.wait(limit), caller.wait(limit)] == [0, 0]
    asked = server_time(redis_client)
    told = -caller.wait(limit)
    assert before + 60.0 - server_time(redis_client) <= told <= first + 60.0 - asked
    assert limit.rejected == 1


def test_a_refusal_changes_nothing(
    caller: Caller,
    redis_url: str,
    redis_namespace: str,
    redis_client: CountingRedis,
    event_recorder: EventRecorder,
) -> None:
    """However many calls are refused, the key stays as it is, and each refusal is an event."""
    limit = caller.limit(redis_url, per=60.0, namespace=redis_namespace, max_wait=30.0)
    caller.call(limit)
    held = redis_client.get(f"{redis_namespace}:x")
    told = [-caller.wait(limit) for _ in range(5)]
    assert redis_client.get(f"{redis_namespace}:x") == held
    assert sorted(told, reverse=True) == told
    assert [event.retry_after for event in event_recorder.of(CallRejected)] == told
    assert {(event.name, event.policy) for event in event_recorder.of(CallRejected)} == {("x", "rate_limit")}


def test_waits_are_told_by_the_server(
    caller: Caller, redis_url: str, redis_namespace: str, event_recorder: EventRecorder
) -> None:
    """Each caller is sent to a slot of its own, one interval apart; who would wait too long is refused."""
    limit = caller.limit(redis_url, per=100.0, max_wait=310.0, namespace=redis_namespace)
    waits = [caller.wait(limit) for _ in range(5)]
    assert waits == pytest.approx([0, 100, 200, 300, -400], abs=10.0)
    assert [event.seconds for event in event_recorder.of(CallDelayed)] == waits[1:4] == caller.clock.waits


def test_a_wait_that_the_deadline_does_not_allow_is_refused_at_once(
    caller: Caller, redis_url: str, redis_namespace: str
) -> None:
    """Who would be late anyway takes no slot from others."""
    limit = caller.limit(redis_url, per=100.0, max_wait=1000.0, namespace=redis_namespace)
    caller.call(limit)
    with deadline_after(50.0):
        assert caller.wait(limit) == pytest.approx(-100, abs=10.0)
    with deadline_after(150.0):
        assert caller.wait(limit) == pytest.approx(100, abs=10.0)


def test_a_deadline_is_on_the_common_clock(caller: Caller, redis_url: str, redis_namespace: str) -> None:
    """A limit with a clock of its own waits on that, as long as the deadline leaves."""
    own = HandClock()
    own.now = 1e6
    limit = caller.limit(redis_url, per=100.0, max_wait=1000.0, namespace=redis_namespace, clock=own)
    caller.call(limit)
    with deadline_after(150.0):
        caller.call(limit)
        with pytest.raises(RateLimitedError):
            caller.call(limit)
    assert own.waits == pytest.approx([100], abs=10.0)
    assert caller.clock.waits == []


def test_sync_and_async_functions_share_a_limit(
    hand_clock: HandClock, redis_url: str, redis_namespace: str
) -> None:
    """What a thread has used, a task cannot use, and the other way round."""
    sync, other = Caller("sync", hand_clock), Caller("async", hand_clock)
    limit = sync.limit(redis_url, per=100.0, burst=2, namespace=redis_namespace)
    twin = other.limit(redis_url, per=100.0, burst=2, namespace=redis_namespace)
    assert [sync.wait(limit), other.wait(limit)] == [0, 0]
    told = [sync.wait(twin), other.wait(twin), sync.wait(limit)]
    other.runner.run(limit.aclose())
    sync.close()
    other.close()
    assert told == pytest.approx([-100] * 3, abs=10.0)


def test_blocks_are_limited_as_calls_are(redis_url: str, redis_namespace: str) -> None:
    """`with` and `async with` take a slot of the same limit."""
    limit = RedisRateLimit(redis_url, "x", 1, per=100, burst=2, namespace=redis_namespace, timeout=5.0)

    async def block() -> float:
        try:
            async with limit as waited:
                return waited
        finally:
            await limit.aclose()

    with limit as waited:
        assert waited == 0
    assert asyncio.run(block()) == 0
    with pytest.raises(RateLimitedError), limit:
        raise AssertionError
    limit.close()


# Keys


def test_keys_have_limits_of_their_own(
    caller: Caller,
    redis_url: str,
    redis_namespace: str,
    redis_client: CountingRedis,
    event_recorder: EventRecorder,
) -> None:
    """Each value of `key` is one key in Redis; errors and events name it."""
    limit = caller.limit(redis_url, per=100.0, key=itself, namespace=redis_namespace)
    assert [caller.wait(limit, "a"), caller.wait(limit, "b")] == [0, 0]
    with pytest.raises(RateLimitedError) as refused:
        caller.call(limit, "a")
    assert refused.value.name == "x[a]"
    assert [event.name for event in event_recorder.of(CallRejected)] == ["x[a]"]
    names = {f"{redis_namespace}:x['a']".encode(), f"{redis_namespace}:x['b']".encode()}
    assert set(redis_client.execute_command("KEYS", f"{redis_namespace}:*")) == names


class Tier(StrEnum):
    """Text, and not only that."""

    GOLD = "gold"


APART = [
    1,
    "1",
    b"1",
    "None",
    None,
    "('a', 1)",
    ("a", 1),
    ("a", "1"),
    (),
    "",
    "gold",
    -1,
    "é\n\ud800",
    "é\n\ud801",
]


def test_keys_of_different_kinds_are_different_keys(
    caller: Caller, redis_url: str, redis_namespace: str
) -> None:
    """Whatever two keys look like, they share a limit only if they are equal, as in every dict."""
    limit = caller.limit(redis_url, per=100.0, key=itself, namespace=redis_namespace)
    assert [caller.wait(limit, key) for key in APART] == [0] * len(APART)
    alike = [*APART, True, Tier.GOLD, ("a", True)]
    assert [caller.wait(limit, key) < 0 for key in alike] == [True] * len(alike)


def kind(key: object) -> str:
    """Return a name for a test with a key of this kind."""
    return type(key).__name__


@pytest.mark.parametrize("on_failure", ["local", "admit", "refuse"])
@pytest.mark.parametrize("key", [[], 1.0, ("a", []), frozenset({1}), object()], ids=kind)
def test_what_processes_cannot_tell_apart_is_no_key(
    caller: Caller, redis_url: str, redis_namespace: str, on_failure: str, key: Any
) -> None:
    """The call is not made, with the same error whether Redis answers or not; nor is there such a limit to get."""
    for url in (redis_url, NOWHERE):
        limit = caller.limit(url, key=itself, on_failure=on_failure, namespace=redis_namespace)
        for _ in range(2):
            with pytest.raises(TypeError, match=r"cannot be a key .* let key= return text, bytes, a whole"):
                caller.call(limit, key)
        with pytest.raises(TypeError, match="cannot be a key"):
            limit.get(key)
        assert limit.rejected == 0


def test_the_limit_of_one_key_is_a_limit(
    caller: Caller, redis_url: str, redis_namespace: str, event_recorder: EventRecorder
) -> None:
    """What `get` returns guards blocks and functions, with the state that calls of the family use."""
    limit = caller.limit(redis_url, per=100.0, burst=3, key=itself, namespace=redis_namespace)
    one = limit.get("a")

    async def block() -> None:
        async with one:
            pass

    caller.call(limit, "a")
    caller.call(one, "other", "arguments")
    if caller.mode == "sync":
        with one:
            pass
    else:
        caller.runner.run(block())
    assert caller.wait(limit, "a") == pytest.approx(-100, abs=10.0)
    assert caller.wait(one) == pytest.approx(-100, abs=10.0)
    assert caller.wait(limit, "b") == 0
    assert [event.name for event in event_recorder.of(CallRejected)] == ["x[a]"] * 2
    assert (one.name, one.rejected, limit.rejected, one.config) == ("x[a]", 2, 2, limit.config)
    assert repr(one) == "RedisRateLimit('x[a]', 1, per=100, burst=3, max_wait=0, on_failure='local')"


def test_the_limit_of_one_key_stands_in_for_itself(caller: Caller) -> None:
    """Without Redis each key has its own limit, through whichever way it is used."""
    limit = caller.limit(NOWHERE, per=10.0, key=itself)
    assert [caller.wait(limit.get("a")), caller.wait(limit.get("b")), caller.wait(limit, "a")] == [0, 0, -10]


# Looking and changing


def state(caller: Caller, limit: RedisRateLimit) -> tuple[int, float] | None:
    """Return what Redis says of a limit."""
    told = limit.inspect() if caller.mode == "sync" else caller.runner.run(limit.ainspect())
    return None if told is None else (told.available, round(told.retry_after, -1))


def reset(caller: Caller, limit: RedisRateLimit) -> bool:
    """Forget the calls of a limit."""
    return limit.reset() if caller.mode == "sync" else caller.runner.run(limit.areset())


@pytest.mark.parametrize("keyed", [False, True])
def test_what_is_left_can_be_seen(
    caller: Caller, redis_url: str, redis_namespace: str, redis_client: CountingRedis, *, keyed: bool
) -> None:
    """Free places and the seconds until there is one, slots that were given back included; looking takes nothing."""
    settings: dict[str, Any] = {"per": 100.0, "burst": 3, "max_wait": 1000.0, "namespace": redis_namespace}
    limit = caller.limit(redis_url, **settings, key=itself if keyed else None)
    if keyed:
        limit = limit.get("a")
    seen = [state(caller, limit)]
    assert redis_client.execute_command("KEYS", f"{redis_namespace}:*") == []
    for _ in range(4):
        caller.call(limit)
        seen.append(state(caller, limit))
    assert seen == [(3, 0.0), (2, 0.0), (1, 0.0), (0, 100.0), (0, 200.0)]
    assert reset(caller, limit) is True
    assert redis_client.execute_command("KEYS", f"{redis_namespace}:*") == []
    assert state(caller, limit) == (3, 0.0)


def test_a_reset_reaches_who_stands_in(caller: Caller) -> None:
    """Without Redis nobody can look; a reset says that Redis did not hear it, and this process's limit forgets."""
    limit = caller.limit(NOWHERE, per=10.0)
    assert [caller.wait(limit), caller.wait(limit)] == [0, -10]
    assert (state(caller, limit), reset(caller, limit)) == (None, False)
    assert [caller.wait(limit), caller.wait(limit)] == [0, -10]
    assert reset(caller, caller.limit(NOWHERE, on_failure="admit")) is False


def test_a_limit_of_many_keys_is_not_one_limit(caller: Caller) -> None:
    """Where a key is needed it is asked for; where there is none it cannot be had."""
    limit = caller.limit(NOWHERE, key=itself)
    for use in (limit.inspect, limit.reset, limit.__enter__):
        with pytest.raises(TypeError, match=r"for each key: say which, by \.get\(key\)"):
            use()
    for coroutine in (limit.ainspect(), limit.areset(), limit.__aenter__()):
        with pytest.raises(TypeError, match=r"for each key: say which, by \.get\(key\)"):
            caller.runner.run(coroutine)
    for single in (limit.get("a"), caller.limit(NOWHERE)):
        with pytest.raises(TypeError, match="give key= to have one for each key"):
            single.get("a")


def test_calls_weigh_the_same_after_a_change(caller: Caller, redis_url: str, redis_namespace: str) -> None:
    """Three calls of four were used: at any new rate one is left, and the rest come back at that rate."""
    limit = caller.limit(redis_url, per=3600.0, burst=4, namespace=redis_namespace)
    call = limit(lambda: None)
    for _ in range(3):
        call()
    for rate, per in ((1.0, 100.0), (10.0, 36000.0)):
        limit.reconfigure(rate=rate, per=per)
        assert (limit.config.rate, limit.config.per, limit.config.burst) == (rate, per, 4)
        assert state(caller, limit) == (1, 0.0)
    limit.reconfigure(burst=1)
    assert state(caller, limit) == (0, 3 * 3600.0)
    limit.reconfigure(per=1000.0)
    assert state(caller, limit) == (0, 300.0)
    assert caller.wait(limit) == pytest.approx(-300, abs=10.0)


def test_a_change_of_one_process_does_not_lock_out_another(
    caller: Caller, redis_url: str, redis_namespace: str
) -> None:
    """While settings differ each side decides by its own, on the same number of calls."""
    slow = caller.limit(redis_url, per=1000.0, burst=5, namespace=redis_namespace)
    fast = caller.limit(redis_url, per=100.0, burst=5, namespace=redis_namespace)
    for limit in (slow, fast, slow, fast):
        assert caller.wait(limit) == 0
        assert (state(caller, slow), state(caller, fast))[0] == state(caller, fast)
    assert [state(caller, slow), state(caller, fast)] == [(1, 0.0), (1, 0.0)]


def test_who_waits_keeps_its_slot_through_a_change(
    caller: Caller, redis_url: str, redis_namespace: str
) -> None:
    """A slot of other settings is not given back into a line of these."""
    limit = caller.limit(redis_url, per=100.0, max_wait=1000.0, namespace=redis_namespace)
    caller.call(limit)

    def change() -> None:
        limit.reconfigure(per=10.0)
        other_thread(caller, limit)()

    caller.interrupted(limit, change)
    assert caller.wait(limit) == pytest.approx(30, abs=5.0)


def test_a_bad_change_changes_nothing(caller: Caller) -> None:
    """It is refused as in the constructor; a good one reaches the limit that stands in."""
    limit = caller.limit(NOWHERE, per=10.0)
    before = limit.config
    with pytest.raises(ConfigurationError) as caught:
        limit.reconfigure(rate=-1, burst=0)
    assert [fault.path for fault in caught.value.faults] == ["rate", "burst"]
    assert limit.config is before
    limit.reconfigure(burst=2)
    assert [caller.wait(limit) for _ in range(3)] == [0, 0, -10]
    assert (limit.config.namespace, limit.config.timeout) == (before.namespace, before.timeout)


def test_a_key_expires_when_it_says_nothing_more(
    caller: Caller, redis_url: str, redis_namespace: str, redis_client: CountingRedis
) -> None:
    """A key lives until the burst is whole again, no longer."""
    key = f"{redis_namespace}:x"
    caller.call(caller.limit(redis_url, per=100.0, max_wait=1000.0, namespace=redis_namespace))
    assert 90_000 < redis_client.pttl(key) <= 100_000
    redis_client.delete(key)
    caller.call(caller.limit(redis_url, rate=20, burst=10, namespace=redis_namespace))
    assert redis_client.pttl(key) <= 50
    limit = SYSTEM.monotonic() + 5.0
    while redis_client.exists(key):
        assert SYSTEM.monotonic() < limit


def test_a_server_whose_clock_is_set_back_does_not_shut_the_limit(
    caller: Caller, redis_url: str, redis_namespace: str, redis_client: CountingRedis
) -> None:
    """What is left until the next slot stays as it was; nobody waits for the clock to come back."""
    key = f"{redis_namespace}:x"
    limit = caller.limit(redis_url, per=100.0, max_wait=1000.0, namespace=redis_namespace)
    caller.call(limit)
    state = [float(word) for word in str(redis_client.execute_command("GET", key), "ascii").split()]
    ahead = [f"{number + 3600e6:.17g}" for number in state[:3]]
    redis_client.set(key, " ".join([*ahead, *map(str, state[3:])]))
    assert [caller.wait(limit), caller.wait(limit)] == pytest.approx([100, 200], abs=10.0)


def test_a_slot_of_before_the_clock_was_set_back_is_not_given_out(
    caller: Caller, redis_url: str, redis_namespace: str, redis_client: CountingRedis
) -> None:
    """Its number means another time now."""
    key = f"{redis_namespace}:x"
    limit = caller.limit(redis_url, per=100.0, max_wait=1000.0, namespace=redis_namespace)
    caller.call(limit)

    def set_back() -> None:
        other_thread(caller, limit, calls=2)()
        state = str(redis_client.execute_command("GET", key), "ascii").split()
        ahead = [f"{float(number) + 150e6:.17g}" for number in state[:2]]
        redis_client.set(key, " ".join([*ahead, *state[2:]]))

    caller.interrupted(limit, set_back)
    assert caller.wait(limit) == pytest.approx(400, abs=10.0)


# Cancelled waits


def test_the_last_of_the_line_that_is_cancelled_leaves_no_gap(
    caller: Caller, redis_url: str, redis_namespace: str, redis_client: CountingRedis
) -> None:
    """The next caller gets the very slot that was given back."""
    limit = caller.limit(redis_url, per=100.0, max_wait=1000.0, namespace=redis_namespace)
    caller.call(limit)
    for _ in range(3):
        caller.interrupted(limit)
    assert redis_client.pttl(f"{redis_namespace}:x") <= 100_000
    assert caller.wait(limit) == pytest.approx(100, abs=10.0)


def test_a_slot_in_the_middle_goes_to_a_newcomer(
    caller: Caller, redis_url: str, redis_namespace: str
) -> None:
    """Those behind keep their slots, so that no two calls ever have the same; who comes next takes the gap."""
    limit = caller.limit(redis_url, per=100.0, max_wait=1000.0, namespace=redis_namespace)
    caller.call(limit)
    caller.interrupted(limit, other_thread(caller, limit, calls=2))
    assert caller.clock.waits == pytest.approx([100, 200, 300], abs=10.0)
    assert [caller.wait(limit) for _ in range(3)] == pytest.approx([100, 400, 500], abs=10.0)


def test_all_slots_that_are_given_back_are_given_out_again(
    caller: Caller, redis_url: str, redis_namespace: str
) -> None:
    """When every waiting call is cancelled, first the middle ones, the line is as if they had never come."""
    limit = caller.limit(redis_url, per=100.0, max_wait=1000.0, namespace=redis_namespace)
    caller.call(limit)
    # The second wait begins within the first one, and ends last.
    nested = Caller("sync", caller.clock)
    caller.interrupted(limit, lambda: in_thread(lambda: nested.interrupted(limit, late)))
    assert [caller.wait(limit) for _ in range(3)] == pytest.approx([100, 200, 300], abs=10.0)


def late() -> None:
    """Do nothing."""


def in_thread(action: Callable[[], Any]) -> None:
    """Run something in a thread, from within a running loop."""
    assert race(action) == [None]


def test_a_slot_of_a_line_that_is_gone_is_not_given_out(
    caller: Caller, redis_url: str, redis_namespace: str, redis_client: CountingRedis
) -> None:
    """Who was told its slot before Redis lost its memory gives nothing back to the line that formed since."""
    limit = caller.limit(redis_url, per=100.0, max_wait=1000.0, namespace=redis_namespace)
    caller.call(limit)

    def forget() -> None:
        redis_client.delete(f"{redis_namespace}:x")
        other_thread(caller, limit, calls=3)()

    caller.interrupted(limit, forget)
    assert caller.wait(limit) == pytest.approx(300, abs=10.0)


def test_a_slot_whose_time_has_come_is_not_given_out(
    caller: Caller, redis_url: str, redis_namespace: str, redis_client: CountingRedis
) -> None:
    """A gap that nobody took in time is lost: a call in it would be too close to the one behind it."""
    limit = caller.limit(redis_url, per=0.3, max_wait=1000.0, namespace=redis_namespace)
    caller.call(limit)
    begun = server_time(redis_client)
    caller.interrupted(limit, other_thread(caller, limit, calls=20))
    while server_time(redis_client) < begun + 0.3:
        pass
    asked = server_time(redis_client)
    assert asked + caller.wait(limit) >= begun + 21 * 0.3 - 0.3


def test_a_task_that_is_cancelled_while_it_waits_gives_its_slot_back(
    redis_url: str, redis_namespace: str, redis_client: CountingRedis
) -> None:
    """After a real cancellation of a real task the key is as before its call."""

    class Telling(Clock):
        async def asleep(self, seconds: float) -> None:
            waits.set()
            await super().asleep(seconds)

    limit = RedisRateLimit(
        redis_url, "x", 1, per=100, max_wait=1000, namespace=redis_namespace, timeout=5.0, clock=Telling()
    )
    key = f"{redis_namespace}:x"
    waits = asyncio.Event()

    async def main() -> None:
        async with limit:
            pass
        task = asyncio.create_task(limit.__aenter__())
        await waits.wait()
        assert redis_client.pttl(key) > 100_000
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await limit.aclose()

    asyncio.run(main())
    assert 0 < redis_client.pttl(key) <= 100_000
    limit.close()


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("burst", [1, 2])
@pytest.mark.usefixtures("hand_clock")
def test_a_cancellation_during_the_round_trip_loses_no_slot(
    redis_url: str, redis_namespace: str, redis_client: CountingRedis, turns: int, burst: int
) -> None:
    """At whichever turn of the loop it comes, also when the answer is there already, and with any client."""

    async def main() -> None:
        made: Any = redis.asyncio.Redis.from_url(redis_url)  # pyright: ignore[reportUnknownMemberType]
        limit = RedisRateLimit(
            None,
            "x",
            1,
            per=100,
            burst=burst,
            max_wait=1000,
            namespace=redis_namespace,
            async_client=made,
            timeout=5.0,
        )
        async with limit:
            pass
        task = asyncio.create_task(limit.__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns:
            redis_client.execute_command("PING")
        if not task.done():
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await limit.aclose()
            assert 90_000 < redis_client.pttl(f"{redis_namespace}:x") <= 100_000
        assert not limit.degraded
        await made.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("asleep", [False, True])
def test_many_that_are_cancelled_lose_nothing(redis_url: str, redis_namespace: str, *, asleep: bool) -> None:
    """In their round trips or while they wait, and again while they give back: after `aclose` all is back."""

    class Telling(Clock):
        async def asleep(self, seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 40:
                all_wait.set()
            await super().asleep(seconds)

    limit = RedisRateLimit(
        redis_url,
        "x",
        1,
        per=100,
        burst=5,
        max_wait=1e6,
        namespace=redis_namespace,
        timeout=5.0,
        clock=Telling(),
    )
    waits, all_wait = list[float](), asyncio.Event()

    async def main() -> None:
        for _ in range(5):
            await limit.__aenter__()
        tasks = [asyncio.create_task(limit.__aenter__()) for _ in range(40)]
        if asleep:
            await all_wait.wait()
        for _ in range(2):
            await asyncio.sleep(0)
        for _ in range(2):
            for task in tasks:
                task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        await limit.aclose()

    asyncio.run(main())
    told = limit.inspect()
    limit.close()
    assert told is not None
    assert told.available == 0
    assert told.retry_after == pytest.approx(100, abs=10.0)


def test_a_slot_within_the_burst_is_free_again(redis_url: str, redis_namespace: str) -> None:
    """Of eight calls in their round trips four are cancelled: the others are admitted, and nothing is lost."""
    limit = RedisRateLimit(redis_url, "x", 1, per=100, burst=10, namespace=redis_namespace, timeout=5.0)

    async def main() -> None:
        await limit.__aenter__()
        tasks = [asyncio.create_task(limit.__aenter__()) for _ in range(8)]
        for _ in range(3):
            await asyncio.sleep(0)
        for task in tasks[:4]:
            task.cancel()
        assert await asyncio.gather(*tasks[4:]) == [0.0] * 4
        await limit.aclose()

    asyncio.run(main())
    told = limit.inspect()
    limit.close()
    assert told is not None
    assert told.available == 5


class Interrupting(CountingRedis):
    """A client whose next script is interrupted, before or after Redis has run it."""

    when = ""
    meanwhile: Callable[[], Any] = staticmethod(late)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        when, self.when = self.when, ""
        if when == "before":
            raise KeyboardInterrupt
        answer = super().execute_command(*args, **options)
        if when:
            self.meanwhile()
            raise KeyboardInterrupt
        return answer


def interrupting(url: str) -> Interrupting:
    """Return such a client."""
    made: Any = Interrupting.from_url(url, socket_timeout=5.0)  # pyright: ignore[reportUnknownMemberType]
    client: Interrupting = made
    return client


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("used", [0, 1, 2, 3])
@pytest.mark.usefixtures("hand_clock")
def test_an_interrupt_during_the_round_trip_loses_no_slot(
    redis_url: str, redis_namespace: str, when: str, used: int
) -> None:
    """A thread that is interrupted before it has heard the answer takes nothing, whether it would wait or not."""
    with interrupting(redis_url) as client:
        limit = RedisRateLimit(client, "x", 1, per=100, burst=2, max_wait=1e6, namespace=redis_namespace)
        for _ in range(used):
            limit.__enter__()
        before = limit.inspect()
        for _ in range(2):
            client.when = when
            with pytest.raises(KeyboardInterrupt):
                limit.__enter__()
        after = limit.inspect()
    assert before is not None
    assert after is not None
    assert after.available == before.available == max(0, 2 - used)
    assert after.retry_after == pytest.approx(before.retry_after, abs=10.0)


@pytest.mark.usefixtures("hand_clock")
def test_an_interrupt_during_the_round_trip_takes_nobodys_slot(redis_url: str, redis_namespace: str) -> None:
    """Where somebody else was served in between, the slot is lost, and theirs stays taken."""
    with (
        interrupting(redis_url) as client,
        connect(redis_url) as other_client,
    ):
        limit, other = (
            RedisRateLimit(one, "x", 1, per=100, max_wait=1e6, namespace=redis_namespace)
            for one in (client, other_client)
        )
        client.when, client.meanwhile = "after", other.__enter__
        with pytest.raises(KeyboardInterrupt):
            limit.__enter__()
        told = other.inspect()
    assert told is not None
    assert told.retry_after == pytest.approx(200, abs=10.0)


def test_a_slot_within_the_burst_that_is_given_back_is_free_at_once(
    caller: Caller, redis_url: str, redis_namespace: str, redis_client: CountingRedis
) -> None:
    """A gap that is not the last of the line can be had until its own time, not only until it could first be had."""
    key = f"{redis_namespace}:x"
    limit = caller.limit(redis_url, per=100.0, burst=4, max_wait=1e6, namespace=redis_namespace)
    for _ in range(4):
        caller.call(limit)
    caller.interrupted(limit, other_thread(caller, limit, calls=20))
    # As if 150 s had passed: all times of the key are earlier.
    state = [float(word) for word in str(redis_client.execute_command("GET", key), "ascii").split()]
    later = [number if at in {3, 4} else number - 150e6 for at, number in enumerate(state)]
    redis_client.set(key, " ".join(f"{number:.17g}" for number in later))
    told = limit.inspect()
    assert told is not None
    assert (told.available, told.retry_after) == (1, 0.0)
    assert caller.wait(limit) == 0
    assert caller.wait(limit) == pytest.approx(2500 - 150 - 300, abs=10.0)


@pytest.mark.parametrize("burst", [1, 4])
def test_a_newcomer_always_gets_the_first_slot_that_is_free(
    redis_url: str, redis_namespace: str, burst: int
) -> None:
    """However calls come and give up, no two hold the same slot, and none stays empty while later ones are taken."""

    class Endless(Clock):
        async def asleep(self, seconds: float) -> None:
            slots.put_nowait(burst - 1 + round(seconds / 100))
            await asyncio.Event().wait()

    slots, draw, held = asyncio.Queue[int](), Random(7), dict[int, asyncio.Task[float]]()
    limit = RedisRateLimit(
        redis_url,
        "x",
        1,
        per=100,
        burst=burst,
        max_wait=1e6,
        namespace=redis_namespace,
        timeout=5.0,
        clock=Endless(),
    )

    async def give_up(slot: int) -> None:
        task = held.pop(slot)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def main() -> None:
        for _ in range(burst):
            async with limit:
                pass
        for _ in range(300):
            if held and draw.random() < 0.48:
                await give_up(draw.choice([*held]))
                continue
            task = asyncio.create_task(limit.__aenter__())
            slot = await slots.get()
            assert slot == next(free for free in range(burst, 400) if free not in held)
            held[slot] = task
        assert len(held) > 1
        for slot in [*held]:
            await give_up(slot)
        await limit.aclose()

    asyncio.run(main())


# Redis that fails

# Who is refused, of four calls in each of two outages; the limit of its own remembers the first one.
REFUSED = {
    "local": ([False, True, True, True], [True] * 4),
    "admit": ([False] * 4, [False] * 4),
    "refuse": ([True] * 4, [True] * 4),
}


@pytest.mark.parametrize("on_failure", REFUSED)
def test_a_redis_that_is_killed_and_comes_back(
    caller: Caller, redis_process: RedisProcess, event_recorder: EventRecorder, on_failure: str
) -> None:
    """No caller sees an error of Redis: `on_failure` decides until it answers again, and each outage is told once."""
    limit = caller.limit(redis_process.url, per=100.0, burst=1, on_failure=on_failure, timeout=5.0)
    degraded: list[bool] = []
    caller.call(limit)
    for outage, refused in enumerate(REFUSED[on_failure], start=1):
        redis_process.kill()
        assert [caller.wait(limit) < 0 for _ in range(4)] == refused
        degraded.append(limit.degraded)
        assert len(event_recorder.of(StorageFailed)) == outage
        redis_process.start()
        caller.clock.now += 1.0
        assert caller.wait(limit) == 0
        degraded.append(limit.degraded)
        assert caller.wait(limit) == pytest.approx(-100, abs=10.0)
    assert degraded == [True, False] * 2
    assert {event.name for event in event_recorder.of(StorageFailed)} == {"x"}


def test_a_redis_that_failed_is_left_alone_for_a_second(caller: Caller, redis_process: RedisProcess) -> None:
    """Until then nobody asks it, even if it is back; then one call tries, and if that fails it is left alone again."""
    limit = caller.limit(redis_process.url, per=100.0, on_failure="admit")
    redis_process.kill()
    caller.call(limit)
    caller.clock.now += 1.0
    caller.call(limit)
    redis_process.start()
    caller.clock.now += 0.99
    caller.call(limit)
    with connect(redis_process.url) as redis_client:
        assert redis_client.exists("holdfast:rate:x") == 0
        caller.clock.now += 0.01
        caller.call(limit)
        assert redis_client.exists("holdfast:rate:x") == 1


def test_a_refusal_in_an_outage_says_when_redis_is_tried_again(caller: Caller) -> None:
    """With `refuse`, `retry_after` is what is left of the second."""
    limit = caller.limit(NOWHERE, on_failure="refuse")
    assert caller.wait(limit) == -1.0
    caller.clock.now += 0.75
    assert caller.wait(limit) == -0.25
    assert limit.rejected == 2


def test_the_local_limit_has_the_same_settings(caller: Caller) -> None:
    """In an outage a process limits its own calls, each key apart."""
    limit = caller.limit(NOWHERE, per=10.0, burst=2, key=itself)
    assert [caller.wait(limit, "a") for _ in range(3)] == pytest.approx([0, 0, -10])
    assert caller.wait(limit, "b") == 0
    assert limit.rejected == 1


def test_a_redis_that_hangs_holds_nobody_up(
    redis_process: RedisProcess, event_recorder: EventRecorder, mode: Mode
) -> None:
    """A call waits for `timeout` once; the loop serves others meanwhile; then nobody waits until it is tried again."""
    limit = RedisRateLimit(redis_process.url, "x", 1, per=100, on_failure="admit", timeout=0.2)
    with connect(redis_process.url) as redis_client:
        redis_client.execute_command("CLIENT", "PAUSE", 60_000, "ALL")
    turns, took = 0, list[float]()

    async def fetch() -> None:
        begun = time.monotonic()
        async with limit:
            took.append(time.monotonic() - begun)

    async def main() -> None:
        nonlocal turns
        task = asyncio.create_task(fetch())
        while not task.done():
            await asyncio.sleep(0.001)
            turns += 1
        await asyncio.gather(*(fetch() for _ in range(100)))
        await limit.aclose()

    if mode == "async":
        asyncio.run(main())
        assert turns > 10
    else:
        for _ in range(101):
            begun = time.monotonic()
            with limit:
                took.append(time.monotonic() - begun)
        limit.close()
    assert 0.1 <= took[0] < 5.0
    assert sum(took[1:]) < 5.0
    assert len(event_recorder.of(StorageFailed)) == 1


def test_one_call_tries_a_redis_that_failed(redis_process: RedisProcess, hand_clock: HandClock) -> None:
    """Of many calls after the pause one waits for the answer; the others do not wait with it."""
    limit = RedisRateLimit(redis_process.url, "x", 1, on_failure="admit", timeout=0.3)
    with connect(redis_process.url) as redis_client:
        redis_client.execute_command("CLIENT", "PAUSE", 60_000, "ALL")
    done: list[int] = []

    async def fetch(who: int) -> None:
        async with limit:
            done.append(who)

    async def main() -> None:
        await fetch(0)
        hand_clock.now += 1.0
        await asyncio.gather(*map(fetch, range(1, 6)))
        await limit.aclose()

    asyncio.run(main())
    assert done == [0, 2, 3, 4, 5, 1]


def test_an_outage_that_many_threads_meet_at_once_is_told_once(event_recorder: EventRecorder) -> None:
    """Whoever fails first tells it."""
    limit = RedisRateLimit(NOWHERE, "x", 1, on_failure="admit")
    race(*[lambda: [limit.__enter__() for _ in range(20)]] * 8)
    assert len(event_recorder.of(StorageFailed)) == 1


def test_a_cancelled_wait_in_an_outage_raises_nothing_else(
    caller: Caller, redis_process: RedisProcess, event_recorder: EventRecorder
) -> None:
    """A slot that cannot be given back is lost; the caller gets its cancellation all the same."""
    limit = caller.limit(redis_process.url, per=100.0, max_wait=1000.0)
    caller.call(limit)
    caller.interrupted(limit, redis_process.kill)
    assert len(event_recorder.of(StorageFailed)) == 1


def test_scripts_that_redis_forgot_are_sent_again(mode: Mode, redis_process: RedisProcess) -> None:
    """A call is one round trip, and one more only where Redis does not know the script."""
    sent: list[str] = []

    class Counting(redis.asyncio.Redis):
        async def execute_command(self, *args: Any, **options: Any) -> Any:
            sent.append(str(args[0]))
            send: Any = super().execute_command  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            return await send(*args, **options)

    async def main() -> None:
        made: Any = Counting.from_url(redis_process.url)  # pyright: ignore[reportUnknownMemberType]
        limit = RedisRateLimit(None, "x", 1, burst=10, async_client=made, timeout=5.0)
        for turn in range(4):
            if turn == 2:
                redis_client.execute_command("SCRIPT", "FLUSH")
            async with limit:
                pass
        await made.aclose()

    with connect(redis_process.url) as redis_client, connect(redis_process.url) as client:
        if mode == "async":
            asyncio.run(main())
        else:
            limit = RedisRateLimit(client, "x", 1, burst=10)
            for turn in range(4):
                if turn == 2:
                    redis_client.execute_command("SCRIPT", "FLUSH")
                with limit:
                    pass
            sent = client.commands
    assert sent == ["EVALSHA", "EVAL", "EVALSHA"] * 2


# A fleet


def fleet(url: str, namespace: str, seconds: float, **settings: Any) -> list[list[float]]:
    """Let four processes, two of them async, call at the same time; return every admitted call's two instants."""
    command = [sys.executable, str(FLEET), url, namespace, str(seconds)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [*command, mode, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for mode in ("sync", "async") * 2
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    found: list[Any] = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        calls, degraded = json.loads(process.communicate(timeout=60)[0])
        assert (process.returncode, degraded) == (0, False)
        found += calls
    return found


@pytest.mark.parametrize("max_wait", [0.0, 1.0])
def test_four_processes_together_keep_the_rate(redis_url: str, redis_namespace: str, max_wait: float) -> None:
    """In every stretch of the server's time they make at most burst + rate × time calls, and most of these in all."""
    rate, burst = 100.0, 10
    calls = fleet(redis_url, redis_namespace, 1.0, rate=rate, burst=burst, max_wait=max_wait)
    asked = sorted(call[0] for call in calls)
    begun = sorted(call[1] for call in calls)
    for since in asked[:: max(1, len(asked) // 50)]:
        inside = sorted(call[1] for call in calls if call[0] >= since)
        for count, until in enumerate(inside, start=1):
            assert count <= burst + rate * (until - since) + 1e-3
    # On a busy machine nobody may ask for a while, and what was not asked for is lost.
    assert len(calls) >= 0.5 * rate * (begun[-1] - asked[0])
