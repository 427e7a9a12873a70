"""Seam: a shared breaker × what Redis, the network and its own client do wrong, short of being gone."""

import asyncio
import logging
import os
import subprocess
import sys
import time
from typing import Any

import pytest
from redis.backoff import NoBackoff
from redis.retry import Retry

from backend.tests.integration.resilience._fleet import eventually
from backend.tests.integration.resilience._processes import BUSY, Mode, Process
from backend.tests.integration.resilience._redis import (
    CountingRedis,
    Proxy,
    RedisProcess,
    connect,
    connect_awaited,
)
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.events import StorageFailed
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window
from holdfast.infrastructure.store.redis_breaker import RedisBreakerStorage
from holdfast.testing.recorder import EventRecorder

CLOSED, OPEN = CircuitState.CLOSED, CircuitState.OPEN
PROBING: dict[str, Any] = {"half_open_calls": 1, "open_for": 0.01}


def key(namespace: str) -> str:
    return f"{namespace}:holdfast:breaker"


# The network


def test_a_probe_that_is_sent_twice_takes_one_place(
    redis_proxy: Proxy, redis_url: str, redis_namespace: str
) -> None:
    """Where the answer to a probe is lost and the client asks again, the probe has the place that it took first."""
    with connect(redis_url) as direct:
        one = Process(redis_proxy.url, redis_namespace, storage={"poll": 60.0}, **PROBING)
        other = Process(direct, redis_namespace, **PROBING)
        one.fail(2)
        time.sleep(0.02)
        redis_proxy.lose = 1
        permit = one.breaker.admit()
        assert redis_proxy.lost == 1
        assert other.call() == "R"
        permit.success()
        one.storage.flush(BUSY)
        assert eventually(lambda: other.call() == "S") < BUSY


def test_a_place_whose_grant_is_lost_goes_back(
    sharing: Mode, redis_proxy: Proxy, redis_url: str, redis_namespace: str
) -> None:
    """A probe that Redis granted without our hearing of it is free again when Redis answers, not after its lease."""
    with connect(redis_proxy.url) as first, connect(redis_url) as direct:
        one = Process(first, redis_namespace, sharing, storage={"poll": 0.2}, **PROBING)
        other = Process(direct, redis_namespace, **PROBING)
        one.call()
        one.fail(2)
        time.sleep(0.02)
        redis_proxy.lose = 1
        one.make()
        assert redis_proxy.lost == 1
        eventually(lambda: one.call() != "" and other.call() == "S", limit=BUSY)


def test_an_opening_that_is_sent_twice_opens_once(
    redis_proxy: Proxy, redis_url: str, redis_namespace: str
) -> None:
    """A report whose answer is lost is sent again and changes nothing more."""
    with connect(redis_url) as direct:
        one = Process(redis_proxy.url, redis_namespace, storage={"poll": 60.0})
        one.call()
        redis_proxy.lose = 1
        assert one.fail(2) == "FF"
        assert redis_proxy.lost == 1
        late = Process(direct, redis_namespace)
        assert (late.call(), late.breaker.state) == ("R", OPEN)
        assert one.breaker.state is OPEN


# What Redis holds and does not


def test_a_key_of_another_type_troubles_its_breaker_alone(
    sharing: Mode, redis_url: str, redis_namespace: str, event_recorder: EventRecorder
) -> None:
    """Where something else has the key, its breaker goes on alone; others of the same client share as ever."""
    with connect(redis_url) as client, connect(redis_url) as theirs:
        client.execute_command("SET", key(f"{redis_namespace}:taken"), "a cake")
        taken = Process(client, f"{redis_namespace}:taken", sharing, name="taken")
        one = Process(client, f"{redis_namespace}:free", sharing, name="free")
        assert taken.call() + taken.fail(2) + taken.call() == "SFFR"
        assert one.fail(2) + one.call() == "FFR"
        assert Process(theirs, f"{redis_namespace}:free").call() == "R"
        assert [event.name for event in event_recorder.of(StorageFailed)] == ["taken"]


@pytest.mark.parametrize(
    "garbage",
    [
        {"state": "banana", "gen": "7"},
        {"state": "isolated", "gen": "9999999999999999"},
        {"state": "open", "gen": "then"},
        {"state": "open", "gen": "7", "until": "noon"},
        {"state": "closed"},
    ],
)
def test_what_no_breaker_wrote_never_reaches_a_caller(
    sharing: Mode,
    garbage: dict[str, str],
    redis_url: str,
    redis_namespace: str,
    event_recorder: EventRecorder,
) -> None:
    """A state that cannot be read is a storage that failed: reported once, and left alone."""
    with connect(redis_url) as client:
        for field, value in garbage.items():
            client.execute_command("HSET", key(redis_namespace), field, value)
        one = Process(client, redis_namespace, sharing)
        assert "".join(one.call() for _ in range(5)) == "SSSSS"
        assert one.breaker.state is CLOSED
        assert len(event_recorder.of(StorageFailed)) == 1


def test_a_redis_that_only_reads_is_reported_once(
    sharing: Mode, redis_process: RedisProcess, event_recorder: EventRecorder
) -> None:
    """A breaker opens alone while Redis is a replica; that it answers looks is no end of the trouble."""
    with connect(redis_process.url) as client:
        one = Process(client, "replica", sharing)
        one.call()
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        assert one.fail(2) == "FF"
        assert "".join(one.call() for _ in range(10)) == "R" * 10
        assert len(event_recorder.of(StorageFailed)) == 1
        client.execute_command("REPLICAOF", "NO", "ONE")
        eventually(lambda: one.call() == "R" and client.hget(key("replica"), "state") == b"open")
        assert len(event_recorder.of(StorageFailed)) == 1


def test_a_url_is_connected_anew_when_its_redis_leads_no_longer(
    redis_url: str, redis_namespace: str, redis_process: RedisProcess
) -> None:
    """After a failover behind one address an open connection leads to a replica; the next command finds the leader."""
    proxy = Proxy(redis_process.url)
    with connect(redis_process.url) as old, connect(redis_url) as new:
        one = Process(proxy.url, redis_namespace)
        one.call()
        old.execute_command("REPLICAOF", "127.0.0.1", "1")
        proxy.target = redis_url
        assert one.fail(2) == "FF"
        assert new.hget(key(redis_namespace), "state") == b"open"
    proxy.close()


def test_a_failover_that_goes_back_closes_nothing(
    sharing: Mode, redis_url: str, redis_namespace: str
) -> None:
    """A replica that took over without the last opening learns of it from those who know."""
    with connect(redis_url) as client, connect(redis_url) as second:
        one, other = Process(client, redis_namespace, sharing), Process(second, redis_namespace)
        one.call()
        one.breaker.half_open()
        one.breaker.close()
        one.call()
        before = client.execute_command("DUMP", key(redis_namespace))
        assert (one.fail(2), other.call()) == ("FF", "R")
        client.execute_command("RESTORE", key(redis_namespace), 0, before, "REPLACE")
        assert "".join(one.call() + other.call() for _ in range(5)) == "R" * 10
        eventually(lambda: one.call() == "R" and client.hget(key(redis_namespace), "state") == b"open")


def test_a_closing_that_a_failover_lost_is_told_again(redis_url: str, redis_namespace: str) -> None:
    """A replica that still holds what was open learns that the fleet closed."""
    with connect(redis_url) as client:
        one = Process(client, redis_namespace)
        one.fail(2)
        before = client.execute_command("DUMP", key(redis_namespace))
        one.breaker.close()
        one.call()
        client.execute_command("RESTORE", key(redis_namespace), 0, before, "REPLACE")
        eventually(lambda: one.call() == "S" and client.hget(key(redis_namespace), "state") == b"closed")


def test_a_clock_of_the_server_that_is_set_back_keeps_nothing_open(
    redis_url: str, redis_namespace: str
) -> None:
    """What is open lasts no longer than it was to last, and a place no longer than its lease."""
    with connect(redis_url) as client:
        one = Process(client, redis_namespace)
        one.fail(2)
        until: Any = client.hget(key(redis_namespace), "until")
        year = int(until) + 31_536_000_000
        client.execute_command("HSET", key(redis_namespace), "until", year)
        late = Process(client, redis_namespace, half_open_calls=1)
        assert late.call() == "R"
        assert 30.0 - BUSY < (late.breaker.retry_after or 0.0) <= 30.0
        late.breaker.half_open()
        late.storage.flush(BUSY)
        client.execute_command("HSET", key(redis_namespace), "lease:dead", f"{year} 30000")
        assert late.call() == "S"


def test_scripts_that_redis_forgot_are_sent_again(sharing: Mode, redis_process: RedisProcess) -> None:
    """After SCRIPT FLUSH the next command succeeds."""
    with connect(redis_process.url) as client:
        one = Process(client, "flushed", sharing)
        one.call()
        client.execute_command("SCRIPT", "FLUSH")
        assert one.fail(2) == "FF"
        assert client.hget(key("flushed"), "state") == b"open"


@pytest.mark.parametrize("odd", ["two words", "a\r\nb\x00c", "}{", "{}", "a:*?[", "Größe 🚀"])
def test_any_name_is_a_namespace(odd: str, redis_url: str, redis_namespace: str) -> None:
    """What a namespace is made of changes nothing; it needs one key, whose slot in a cluster does not matter."""
    with connect(redis_url) as client:
        place = f"{redis_namespace}:{odd}"
        assert Process(client, place).fail(2) == "FF"
        late = Process(client, place)
        assert late.call() == "R"
        assert client.execute_command("DEL", key(place)) == 1


# Slow clients


def test_a_client_that_hangs_is_not_waited_for_by_every_call(
    redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch, event_recorder: EventRecorder
) -> None:
    """A client without a timeout hangs as long as its server: calls go on, and nothing piles up to be said later."""
    monkeypatch.setattr("holdfast.infrastructure.store._redis_link.COMMAND", 0.1)
    client: Any = CountingRedis.from_url(  # pyright: ignore[reportUnknownMemberType]
        redis_process.url, socket_timeout=None, retry=Retry(NoBackoff(), 0)
    )
    client.url = redis_process.url
    with connect(redis_process.url) as pausing, client:
        one = Process(client, "hangs", storage={"timeout": 0.05}, open_for=0.02, half_open_calls=1)
        one.make()
        one.storage.flush(BUSY)
        pausing.execute_command("CLIENT", "PAUSE", 500, "ALL")
        time.sleep(0.002)
        one.make()
        time.sleep(0.12)
        began = time.monotonic()
        for _ in range(10):
            for error in (ConnectionError("down"), ConnectionError("down"), None):
                outcome(one, error)
        assert time.monotonic() - began < 0.3
        client.commands.clear()
        assert one.storage.flush(BUSY)
        assert len(client.commands) <= 1
        assert len(event_recorder.of(StorageFailed)) == 1


def outcome(process: Process, error: Exception | None) -> None:
    try:
        process.make(error)
    except Exception:  # whatever the breaker makes of it
        pass


def test_a_command_that_waited_too_long_is_not_sent(
    redis_url: str, redis_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was decided long ago is not told as if it were now; the state of now is told instead."""
    with connect(redis_url) as client:
        one = Process(client, redis_namespace)
        one.call()
        with monkeypatch.context() as old:
            old.setattr("holdfast.infrastructure.store._redis_link._STALE", -1.0)
            assert one.fail(2) == "FF"
            assert client.hget(key(redis_namespace), "state") is None
        eventually(lambda: one.call() == "R" and client.hget(key(redis_namespace), "state") == b"open")


def test_an_answer_after_the_loop_ended_is_heard_in_silence(
    redis_process: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that did not wait for a slow Redis may end with its loop; the answer then finds nobody to wake."""
    with connect(redis_process.url) as client:
        one = Process(client, "ended", "async", storage={"timeout": 0.02})
        with connect(redis_process.url) as pausing:
            pausing.execute_command("CLIENT", "PAUSE", 100, "ALL")
        one.make()
        assert one.storage.flush(BUSY)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


# Clients that are awaited


def awaited(url: str, namespace: str, **settings: Any) -> tuple[Any, RedisBreakerStorage, CircuitBreaker]:
    client = connect_awaited(url)
    given: dict[str, Any] = {"poll": 0.001, "timeout": 10.0, **settings}
    storage = RedisBreakerStorage(client, namespace, **given)
    window = Window.consecutive(1)
    return (
        client,
        storage,
        CircuitBreaker("awaited", on=Exception, storage=storage, window=window, open_for=30.0),
    )


def test_no_thread_is_made_for_a_client_that_is_awaited(redis_url: str, redis_namespace: str) -> None:
    """All it has to say is sent on the caller's loop, which never waits for it outside an await."""
    code = """
import asyncio, sys, threading
from backend.tests.integration.resilience.test_redis_breaker_faults_integration import awaited, ok

async def main():
    asyncio.get_running_loop().slow_callback_duration = 60.0  # debugging tells of slow machines, too
    client, storage, breaker = awaited(*sys.argv[1:])
    await ok(breaker)
    breaker.open()
    assert await storage.aflush(10.0)
    print(threading.active_count(), client.commands[-1])
    await client.aclose()

asyncio.run(main())
"""
    assert run(code, redis_url, redis_namespace) == ("1 EVALSHA\n", "")


LAST_WORDS = """
import asyncio, sys
from backend.tests.integration.resilience.test_redis_breaker_faults_integration import awaited, failed, ok

async def main():
    await ok(breaker)
    await failed(breaker)

client, storage, breaker = awaited(*sys.argv[1:])
asyncio.run(main())
"""


def test_the_last_words_of_a_loop_are_said(redis_url: str, redis_namespace: str) -> None:
    """What was decided in the last step before `asyncio.run` cancels its tasks is shared."""
    run(LAST_WORDS, redis_url, redis_namespace)
    with connect(redis_url) as other:
        assert Process(other, redis_namespace).call() == "R"


ENDS = """
import asyncio, gc, sys
from backend.tests.integration.resilience._redis import connect
from backend.tests.integration.resilience.test_redis_breaker_faults_integration import awaited, failed, ok

async def main():
    client, storage, breaker = awaited(*sys.argv[1:3], timeout=0.02)
    if sys.argv[3] == "close":
        await ok(breaker)
        await storage.aflush(10.0)
        return await failed(breaker)
    await ok(breaker)
    with connect(sys.argv[1]) as pausing:
        pausing.execute_command("CLIENT", "PAUSE", 200, "ALL")
    await asyncio.sleep(0.002)
    await ok(breaker)
    await asyncio.sleep(0)
    assert client.commands[-1] == "EVALSHA"

if sys.argv[3] == "run":
    asyncio.run(main())
else:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    del loop
gc.collect()
"""


@pytest.mark.parametrize("way", ["run", "close"])
def test_a_loop_that_ends_while_redis_is_asked_ends_in_silence(way: str, redis_process: RedisProcess) -> None:
    """A loop that ends over what is still to be sent, cancelled or not, leaves no complaint of a destroyed task."""
    _, complaints = run(ENDS, redis_process.url, "ends", way)
    assert "destroyed" not in complaints
    assert "never" not in complaints
    assert "Traceback" not in complaints


MOVES = """
import asyncio, sys
from backend.tests.integration.resilience._redis import connect
from backend.tests.integration.resilience.test_redis_breaker_faults_integration import awaited, key, ok
from holdfast.infrastructure.resilience.errors import CircuitOpenError

async def main():
    for _ in range(3):
        await ok(breaker)

async def recovers():
    breaker.open()
    while other.hget(key(sys.argv[2]), "state") != b"open":
        try:
            await ok(breaker)
        except CircuitOpenError:
            await asyncio.sleep(0.01)

client, storage, breaker = awaited(*sys.argv[1:])
with connect(sys.argv[1]) as other:
    for _ in range(3):
        asyncio.run(main())
    asyncio.run(asyncio.wait_for(recovers(), 10.0))
print("told")
"""


def test_a_client_of_a_loop_that_ended_costs_no_call(redis_url: str, redis_namespace: str) -> None:
    """A client whose connections belong to another loop fails as Redis does: the calls are made, and it recovers."""
    assert run(MOVES, redis_url, redis_namespace)[0] == "told\n"


def test_flush_does_not_block_the_loop_that_sends(redis_url: str, redis_namespace: str) -> None:
    """On the loop `flush` is refused, and says what to await; another thread may use it."""
    client, storage, breaker = awaited(redis_url, redis_namespace)

    async def main() -> None:
        await failed(breaker)
        with pytest.raises(TypeError, match=r"await aflush\(\)"):
            storage.flush()
        assert await asyncio.to_thread(storage.flush, BUSY)
        assert client.commands[-1] == "EVALSHA"
        await client.aclose()

    asyncio.run(main())


def test_what_another_thread_sets_by_hand_is_told_on_the_loop(redis_url: str, redis_namespace: str) -> None:
    """`open` in a thread, as in a handler of an admin page, reaches the fleet through the loop that runs."""
    client, storage, breaker = awaited(redis_url, redis_namespace)

    async def main() -> None:
        await ok(breaker)
        await asyncio.to_thread(breaker.open)
        assert await storage.aflush(BUSY)
        await client.aclose()

    asyncio.run(main())
    with connect(redis_url) as other:
        assert Process(other, redis_namespace).call() == "R"


def test_a_burst_is_sent_by_one_task(redis_url: str, redis_namespace: str) -> None:
    """However many calls have something to say, one task says it, and it ends when it has."""
    client, storage, breaker = awaited(redis_url, redis_namespace, poll=0.0001)

    async def main() -> list[int]:
        counts: list[int] = []
        for _ in range(20):
            await asyncio.gather(*(ok(breaker) for _ in range(10)))
            counts.append(sum(task.get_name() == "holdfast-redis" for task in asyncio.all_tasks()))
        assert await storage.aflush(BUSY)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1
        await client.aclose()
        return counts

    assert max(asyncio.run(main())) == 1


async def ok(breaker: CircuitBreaker) -> None:
    """Make a call that succeeds."""

    async def target() -> None:
        pass

    await breaker.call(target)


async def failed(breaker: CircuitBreaker) -> None:
    """Make a call that fails."""

    async def target() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await breaker.call(target)


def run(code: str, *args: str) -> tuple[str, str]:
    """Run a program in development mode; return what it wrote, and what Python complained of."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code, *args],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return done.stdout, done.stderr
