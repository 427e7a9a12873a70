"""Seam: a rate limit × Redis that several processes share, that is slow, is killed and comes back."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
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
from holdfast.infrastructure.resilience.errors import RateLimitedError
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
    assert [event.seconds for event in event_recorder.of(CallDelayed)] == waits[1:4]


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
    names = {f"{redis_namespace}:x[a]".encode(), f"{redis_namespace}:x[b]".encode()}
    assert set(redis_client.execute_command("KEYS", f"{redis_namespace}:*")) == names
    with pytest.raises(TypeError, match="for each key"), limit:
        raise AssertionError


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


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.usefixtures("hand_clock")
def test_a_cancellation_during_the_round_trip_passes(
    redis_url: str, redis_namespace: str, redis_client: CountingRedis, turns: int
) -> None:
    """At whichever turn of the loop it comes, also when the answer is there already, and with any client."""

    async def main() -> None:
        made: Any = redis.asyncio.Redis.from_url(redis_url)  # pyright: ignore[reportUnknownMemberType]
        limit = RedisRateLimit(
            None, "x", 1, per=100, max_wait=1000, namespace=redis_namespace, async_client=made, timeout=5.0
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
        assert not limit.degraded
        await made.aclose()

    asyncio.run(main())


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
    assert len(calls) >= 0.9 * rate * (begun[-1] - asked[0])
