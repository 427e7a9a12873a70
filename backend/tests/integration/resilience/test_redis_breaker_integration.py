"""Seam: one breaker for several processes × Redis, which may be slow, die and come back."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pybreaker
import pytest

from backend.tests.integration.resilience._fleet import Fleet, Member, eventually
from backend.tests.integration.resilience._processes import BUSY, Mode, Process
from backend.tests.integration.resilience._redis import RedisProcess, connect
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.errors import CircuitOpenError
from holdfast.infrastructure.resilience.events import ProbeExpired, StorageFailed
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window
from holdfast.infrastructure.store.redis_breaker import RedisBreakerStorage
from holdfast.testing.recorder import EventRecorder

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
# Seconds: how often the processes of a fleet ask.
POLL = 0.1


def fails(process: Process) -> Callable[[], bool]:
    """Return what tells whether a call is made, which then fails."""
    return lambda: process.fail() == "F"


def answers(member: Member, letter: str) -> Callable[[], bool]:
    """Return what tells whether a call of the member ends so."""
    return lambda: member.ask("work") == letter


# Four processes


def test_an_outage_that_one_process_sees_opens_for_all(fleet: Fleet) -> None:
    """Within a poll after one process opened, calls of all others are refused."""
    first, *others = fleet.start(
        0, 0, 0, 0, storage={"poll": POLL}, failure_rate=1.0, min_calls=3, open_for=60.0
    )
    assert [member.ask("work") for member in others] == ["S", "S", "S"]
    assert [first.ask("fail") for _ in range(4)] == ["F", "F", "F", "R"]
    began = time.monotonic()
    for member in others:
        eventually(answers(member, "R"))
    assert time.monotonic() - began < POLL + BUSY


def test_a_fleet_makes_exactly_the_probes_of_one_breaker(fleet: Fleet, sharing: Mode) -> None:
    """Of 32 calls that race in four processes exactly three are made half-open; their success closes for all."""
    members = fleet.start(
        *(0, 0, 0, 0), mode=sharing, storage={"poll": POLL}, open_for=0.3, open_jitter=0.0, half_open_calls=3
    )
    opener = Process(fleet.url, fleet.namespace, open_for=0.3)
    opener.breaker.open()
    assert opener.storage.flush(BUSY)
    time.sleep(0.35)
    for member in members:
        member.tell(8)
    eventually(lambda: fleet.counted("admitted") + fleet.counted("refused") == 32)
    assert fleet.counted("admitted") == 3
    fleet.let_go(3)
    assert sorted("".join(member.answer() for member in members)) == ["R"] * 29 + ["S"] * 3
    for member in members:
        eventually(answers(member, "S"))


def test_a_process_that_dies_in_its_probe_gives_it_back(fleet: Fleet) -> None:
    """The place of a killed process is free when its lease ends, and not before."""
    lease = 0.6
    storage = {"poll": 0.02, "lease": lease}
    doomed, other = fleet.start(0, 0, storage=storage, open_for=0.05, open_jitter=0.0, half_open_calls=1)
    opener = Process(fleet.url, fleet.namespace, open_for=0.05)
    opener.breaker.open()
    assert opener.storage.flush(BUSY)
    time.sleep(0.06)
    began = time.monotonic()
    doomed.tell("held")
    eventually(lambda: fleet.counted("admitted") == 1)
    doomed.kill()
    taken = time.monotonic()
    assert other.ask("work") == "R"
    eventually(lambda: other.ask("work") == "S")
    ended = time.monotonic()
    assert ended - began >= lease
    assert ended - taken < lease + BUSY


def test_wrong_clocks_change_nothing(fleet: Fleet) -> None:
    """Processes whose clocks are a day apart agree on how long the breaker stays open."""
    early, late = fleet.start(-86_400.0, 86_400.0, storage={"poll": 0.01}, open_for=40.0, open_jitter=0.0)
    opener = Process(fleet.url, fleet.namespace, open_for=40.0)
    opener.breaker.open()
    for member in (early, late):
        eventually(answers(member, "R"))
        assert 40.0 - BUSY < float(member.ask("left")) <= 40.0


# Several breakers, real time


def test_a_closed_success_sends_nothing(sharing: Mode, redis_url: str, redis_namespace: str) -> None:
    """After the first call, which learns the state, a hundred successes within a poll send nothing."""
    with connect(redis_url) as client:
        one = Process(client, redis_namespace, sharing, storage={"poll": 600.0})
        assert one.call() == "S"
        client.commands.clear()
        assert "".join(one.call() for _ in range(100)) == "S" * 100
        assert client.commands == []


def test_failures_are_told_when_they_open(sharing: Mode, redis_url: str, redis_namespace: str) -> None:
    """Failures send nothing until one opens, which sends one command."""
    with connect(redis_url) as client:
        one = Process(client, redis_namespace, sharing, window=Window.consecutive(3), storage={"poll": 600.0})
        one.call()
        client.commands.clear()
        assert one.fail(2) == "FF"
        assert client.commands == []
        assert one.fail(2) == "FR"
        assert client.commands == ["EVALSHA"]


def test_the_first_call_of_a_process_knows_the_state(
    sharing: Mode, redis_url: str, redis_namespace: str
) -> None:
    """A process that starts while the others are open does not make a single call."""
    with connect(redis_url) as client:
        assert Process(client, redis_namespace).fail(2) == "FF"
        late = Process(client, redis_namespace, sharing)
        assert late.call() == "R"
        assert late.breaker.retry_after == pytest.approx(30.0, abs=BUSY)


def test_probes_of_several_processes_close_together(
    sharing: Mode, redis_url: str, redis_namespace: str
) -> None:
    """Two probes in two processes are the two that closing takes; neither could have closed alone."""
    settings: dict[str, Any] = {"half_open_calls": 2, "open_for": 0.01}
    with connect(redis_url) as client:
        one, other = (Process(client, redis_namespace, sharing, **settings) for _ in range(2))
        one.fail(2)
        time.sleep(0.02)
        assert (one.call(), one.breaker.state) == ("S", HALF_OPEN)
        assert other.call() == "S"
        assert one.sees(CLOSED)
        assert other.sees(CLOSED)


def test_a_failed_probe_reopens_for_all_and_longer(
    sharing: Mode, redis_url: str, redis_namespace: str
) -> None:
    """The time open doubles with each failed round, whoever's probe it was that failed."""
    settings: dict[str, Any] = {"half_open_calls": 1, "open_for": 0.15, "open_cap": 100.0}
    with connect(redis_url) as client:
        one, other = (Process(client, redis_namespace, sharing, **settings) for _ in range(2))
        one.fail(2)
        for process, longest in ((other, 0.3), (one, 0.6)):
            eventually(fails(process))
            assert longest / 2 < (process.breaker.retry_after or 0.0) <= longest


def test_a_cancelled_probe_gives_its_place_back(redis_url: str, redis_namespace: str) -> None:
    """A probe that is cancelled counts for nothing: another process may probe at once, not after the lease."""
    with connect(redis_url) as client:
        one, other = (
            Process(client, redis_namespace, "async", half_open_calls=1, open_for=0.01) for _ in range(2)
        )
        one.fail(2)
        time.sleep(0.02)

        async def cancelled() -> None:
            begun = asyncio.Event()

            async def hang() -> None:
                begun.set()
                await asyncio.Event().wait()

            task = asyncio.create_task(one.breaker(hang)())
            await begun.wait()
            assert await asyncio.to_thread(other.call) == "R"
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        other.mode = "sync"
        asyncio.run(cancelled())
        one.storage.flush(BUSY)
        assert eventually(lambda: other.call() == "S") < BUSY
        assert other.breaker.state is CLOSED


def test_a_late_probe_of_a_fleet_counts_for_nothing(redis_url: str, redis_namespace: str) -> None:
    """Whose lease has ended may succeed as it likes: the place is another process's, whose probe closes for all."""
    settings: dict[str, Any] = {"half_open_calls": 1, "open_for": 0.01}
    with connect(redis_url) as client:
        one = Process(client, redis_namespace, half_open_timeout=0.2, **settings)
        other = Process(client, redis_namespace, half_open_timeout=60.0, **settings)
        one.fail(2)
        time.sleep(0.02)
        late = one.breaker.admit()
        time.sleep(0.3)
        held = other.breaker.admit()
        assert one.call() == "R"
        late.success()
        one.storage.flush(BUSY)
        assert (one.breaker.state, one.call()) == (HALF_OPEN, "R")
        assert other.sees(HALF_OPEN)
        held.success()
        other.storage.flush(BUSY)
        assert other.breaker.state is CLOSED
        eventually(lambda: one.sees(CLOSED))


@pytest.mark.parametrize("form", ["with", "async with", "admit"])
def test_blocks_and_permits_ask_for_their_probes(form: str, redis_url: str, redis_namespace: str) -> None:
    """A block or a permit by hand takes its place among the fleet's probes too."""
    with connect(redis_url) as client:
        one, other = (
            Process(client, redis_namespace, half_open_calls=1, open_for=0.01, storage={"poll": 60.0})
            for _ in range(2)
        )
        one.fail(2)
        time.sleep(0.02)
        permit = one.breaker.admit()

        async def block() -> None:
            async with other.breaker:
                pass

        def enter() -> None:
            with other.breaker:
                pass

        attempts: dict[str, Callable[[], object]] = {
            "with": enter,
            "async with": lambda: asyncio.run(block()),
            "admit": other.breaker.admit,
        }
        with pytest.raises(CircuitOpenError):
            attempts[form]()
        permit.success()
        assert one.breaker.state is CLOSED


def test_what_is_set_by_hand_holds_for_all(redis_url: str, redis_namespace: str) -> None:
    """`open` and `close` in one process hold everywhere; `isolate` stays its own."""
    with connect(redis_url) as client:
        one, other = (Process(client, redis_namespace) for _ in range(2))
        assert (one.call(), other.call()) == ("S", "S")
        one.breaker.open()
        eventually(lambda: other.call() == "R")
        other.breaker.close()
        eventually(lambda: one.call() == "S")
        one.breaker.isolate()
        assert (one.call(), other.call()) == ("R", "S")
        one.breaker.release()
        assert (one.call(), other.call()) == ("S", "S")


# Redis that is gone


def test_a_redis_that_dies_and_returns(
    sharing: Mode,
    redis_process: RedisProcess,
    event_recorder: EventRecorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No call sees that Redis died; breakers go on alone, report it once, and share again what they decided alone."""
    with connect(redis_process.url) as first, connect(redis_process.url) as second:
        # Each is logged once in a process.
        names = [f"{name} of {sharing}" for name in ("one", "other")]
        one, other = (
            Process(client, "dies", sharing, name=name)
            for client, name in zip((first, second), names, strict=True)
        )
        assert (one.call(), other.call()) == ("S", "S")
        redis_process.kill()
        assert one.call() + one.fail(2) + one.call() == "SFFR"
        assert "".join(other.call() for _ in range(20)) == "S" * 20
        failures = event_recorder.of(StorageFailed)
        assert sorted(event.name for event in failures) == names
        assert sorted(record.getMessage() for record in caplog.records) == [
            f"storage of {name!r} raised; the breaker goes on by its own state" for name in names
        ]
        redis_process.start()
        eventually(lambda: one.call() + other.call() == "RR")
        assert other.breaker.state is OPEN
        assert len(event_recorder.of(StorageFailed)) == 2


def test_a_dead_redis_is_not_asked_by_every_call(sharing: Mode, redis_process: RedisProcess) -> None:
    """Two hundred calls that would ask try to reach a dead Redis a few times, not two hundred times."""
    with connect(redis_process.url) as client:
        one = Process(client, "dead", sharing)
        one.call()
        redis_process.kill()
        client.commands.clear()
        began = time.monotonic()
        assert "".join(one.call() for _ in range(200)) == "S" * 200
        # The circuit on Redis tries again after 0.4 s at the earliest.
        assert 1 <= len(client.commands) <= 1 + (time.monotonic() - began) / 0.4


def test_an_open_breaker_outlives_the_memory_of_redis(sharing: Mode, redis_process: RedisProcess) -> None:
    """A Redis that returns empty does not close what is open, but learns of it."""
    with connect(redis_process.url) as first, connect(redis_process.url) as second:
        one = Process(first, "empty", sharing)
        one.fail(2)
        redis_process.kill()
        redis_process.start()
        eventually(lambda: one.call() == "R" and bool(second.exists("empty:holdfast:breaker")))
        late = Process(second, "empty", sharing)
        assert late.call() == "R"


def test_a_redis_that_hangs_costs_a_call_the_timeout_at_most(redis_namespace: str) -> None:
    """The first call waits `timeout` for a silent server, the next not; meanwhile the loop goes on turning."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        one = RedisBreakerStorage(url, redis_namespace, timeout=0.2)
        breaker = CircuitBreaker("hangs", storage=one)

        async def main() -> tuple[float, float, int]:
            turns = 0

            async def turn() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0.01)

            @breaker
            async def work() -> None:
                pass

            other = asyncio.create_task(turn())
            began = time.monotonic()
            await work()
            waited = time.monotonic()
            for _ in range(10):
                await work()
            ended = time.monotonic()
            other.cancel()
            return waited - began, ended - waited, turns

        first, rest, turns = asyncio.run(main())
        assert 0.15 < first < 0.2 + BUSY
        assert rest < 0.15
        assert turns >= 3


def test_without_redis_from_the_start(sharing: Mode, event_recorder: EventRecorder) -> None:
    """Where no Redis ever was, a breaker opens, probes and closes as one without a storage does."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"
        one = Process(url, "nobody", sharing, open_for=0.05, half_open_calls=2)
        assert one.call() + one.fail(3) == "SFFR"
        time.sleep(0.06)
        assert one.call() + one.call() + one.call() == "SSS"
        assert one.breaker.state is CLOSED
        assert [event.name for event in event_recorder.of(StorageFailed)] == ["x"]
        assert event_recorder.of(ProbeExpired) == ()


def pause(redis_process: RedisProcess, seconds: float) -> None:
    """Keep Redis from answering anybody for a time."""
    with connect(redis_process.url) as client:
        client.execute_command("CLIENT", "PAUSE", int(seconds * 1000), "ALL")


def test_a_grant_that_comes_too_late_goes_back(sharing: Mode, redis_process: RedisProcess) -> None:
    """A probe that did not wait for a slow Redis is made all the same; its place is free again at once."""
    settings: dict[str, Any] = {"half_open_calls": 1, "open_for": 0.01}
    with connect(redis_process.url) as first, connect(redis_process.url) as second:
        one = Process(first, "late", sharing, storage={"timeout": 0.05}, **settings)
        other = Process(second, "late", sharing, **settings)
        one.call()
        one.fail(2)
        time.sleep(0.02)
        pause(redis_process, 0.3)
        one.make()
        assert eventually(lambda: other.call() == "S") < BUSY


def test_a_probe_that_is_cancelled_while_it_waits_goes_back(redis_process: RedisProcess) -> None:
    """A task that is cancelled while it waits for Redis makes no call, and keeps no place."""
    settings: dict[str, Any] = {"half_open_calls": 1, "open_for": 0.01}
    made: list[str] = []

    async def cancelled(breaker: CircuitBreaker) -> None:
        @breaker
        async def target() -> None:
            made.append("call")

        task = asyncio.create_task(target())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with connect(redis_process.url) as first, connect(redis_process.url) as second:
        one, other = Process(first, "cancel", **settings), Process(second, "cancel", **settings)
        one.call()
        one.fail(2)
        time.sleep(0.02)
        pause(redis_process, 0.3)
        asyncio.run(cancelled(one.breaker))
        assert made == []
        assert eventually(lambda: other.call() == "S") < BUSY


# pybreaker's keys


def theirs(client: Any, namespace: str) -> pybreaker.CircuitRedisStorage:
    return pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client, namespace=namespace)


def test_pybreaker_reads_the_mirrored_keys(sharing: Mode, redis_url: str, redis_namespace: str) -> None:
    """Pybreaker's own storage and engine see open and closed; all four keys are as it writes them."""
    with connect(redis_url) as client, connect(redis_url) as reader:
        one = Process(
            client,
            redis_namespace,
            sharing,
            storage={"mirror_pybreaker": True},
            open_for=0.2,
            half_open_calls=1,
        )
        one.fail(2)
        storage = theirs(reader, redis_namespace)
        engine = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=60, state_storage=storage)
        assert (storage.state, storage.counter, storage.success_counter) == ("open", 2, 0)
        opened = storage.opened_at
        assert opened is not None
        assert opened.timestamp() == pytest.approx(time.time(), abs=BUSY)
        with pytest.raises(pybreaker.CircuitBreakerError):
            engine.call(lambda: "ok")
        eventually(lambda: one.call() == "S")
        assert (storage.state, storage.counter) == ("closed", 0)
        assert engine.call(lambda: "ok") == "ok"


def test_what_pybreaker_changes_is_followed(sharing: Mode, redis_url: str, redis_namespace: str) -> None:
    """While a fleet migrates, a process that still runs pybreaker opens and closes those that do not."""
    with connect(redis_url) as client, connect(redis_url) as other:
        one = Process(client, redis_namespace, sharing, storage={"mirror_pybreaker": True})
        assert one.call() == "S"
        engine = pybreaker.CircuitBreaker(
            fail_max=1, reset_timeout=60, state_storage=theirs(other, redis_namespace)
        )
        engine.open()
        eventually(lambda: one.call() == "R")
        assert one.breaker.retry_after == pytest.approx(30.0, abs=BUSY)
        engine.close()
        eventually(lambda: one.call() == "S")


def test_nothing_is_mirrored_unless_it_is_wished(redis_url: str, redis_namespace: str) -> None:
    """Without `mirror_pybreaker` no key of pybreaker's is written."""
    with connect(redis_url) as client:
        Process(client, redis_namespace).fail(2)
        assert sorted(client.execute_command("KEYS", f"{redis_namespace}:*")) == [
            f"{redis_namespace}:holdfast:breaker".encode()
        ]


FORK = """
import os, sys
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.store.redis_breaker import RedisBreakerStorage

url, namespace = sys.argv[1:]
storage = RedisBreakerStorage(url, namespace, timeout=10.0)
breaker = CircuitBreaker("forked", storage=storage)
breaker.call(int)
child = os.fork()
if child == 0:
    breaker.open()
    os._exit(0 if storage.flush(10.0) else 1)
sys.exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_the_child_of_a_fork_shares_too(redis_url: str, redis_namespace: str) -> None:
    """A child that is forked after the first call has no thread to send with, and makes one."""
    subprocess.run([sys.executable, "-c", FORK, redis_url, redis_namespace], check=True, timeout=60)
    with connect(redis_url) as client:
        assert Process(client, redis_namespace).call() == "R"


EXIT = """
import sys
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.store.redis_breaker import RedisBreakerStorage

CircuitBreaker("exits", storage=RedisBreakerStorage(*sys.argv[1:])).open()
"""


def test_a_process_that_ends_says_its_last_words(redis_url: str, redis_namespace: str) -> None:
    """What a process decided just before it ended is shared."""
    subprocess.run([sys.executable, "-c", EXIT, redis_url, redis_namespace], check=True, timeout=60)
    with connect(redis_url) as client:
        assert Process(client, redis_namespace).call() == "R"
