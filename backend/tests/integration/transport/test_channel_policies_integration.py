"""Channel × policies: a peer behind retries, breakers and pipelines, and what one key runs: once."""

import asyncio
from typing import Any

import pytest

from backend.tests.integration.transport._channel import NAME, Work, by_hand, channel, hub, run, until, worker
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.classify import PERMANENT, TRANSIENT, Verdict, classify
from holdfast.infrastructure.resilience.errors import (
    ChannelError,
    CircuitOpenError,
    CommandFailed,
    PeerBusy,
    PeerDisconnected,
    PeerNotConnected,
    PeerRefused,
    ReplyTimeout,
    TimeoutExceeded,
)
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.registry import Registry
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.resilience.window import Window
from holdfast.testing import VirtualClock


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (PeerNotConnected("a", "ship"), TRANSIENT),
        (PeerDisconnected("a", "ship"), TRANSIENT),
        (ReplyTimeout("a", "ship", 60.0), TRANSIENT),
        (PeerBusy("a", "ship"), TRANSIENT),
        (CommandFailed("a", "ship", "failed", "no paper"), PERMANENT),
        (ChannelError("a", "ship"), PERMANENT),
        (PeerRefused("a", "401"), PERMANENT),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_errors_of_a_channel_are_judged_rightly(error: Exception, verdict: Verdict) -> None:
    """What a connection does passes; what the peer says about the command stays."""
    assert classify(error) is verdict


def test_a_retry_with_the_same_key_does_not_run_a_command_twice(virtual_clock: VirtualClock) -> None:
    """A command whose reply came too late is sent again and answered from the peer's memory."""

    async def main() -> tuple[Any, Work]:
        async with channel() as (server, work):
            ship = Retry(attempts=5, wait=1.0)(server.handler(NAME, "slow", timeout=2.0))
            asyncio.get_running_loop().call_later(4.0, work.go.set)
            return await ship("label", idempotency_key="order-1"), work

    reply, work = virtual_clock.run(main())
    assert reply == {"slow": "label"}
    assert work.begun == ["label"]
    assert virtual_clock.sleeps == (1.0,)


def test_a_retry_over_a_new_connection_does_not_run_a_command_twice() -> None:
    """The connection is lost while the command runs; the next attempt, with the same key, gets its reply."""

    async def main() -> tuple[Any, Work]:
        async with channel() as (server, work):
            ship = Retry(attempts=1000, wait=0.001)(server.handler(NAME, "slow"))
            task = asyncio.create_task(ship("label", idempotency_key="order-1"))
            await work.started.wait()
            sessions: Any = vars(server)["_sessions"]
            sessions[NAME].socket.transport.abort()
            await server.wait_for(NAME)
            work.go.set()
            return await task, work

    reply, work = run(main())
    assert reply == {"slow": "label"}
    assert work.begun == ["label"]


def test_a_retry_after_a_restart_of_the_server_does_not_run_a_command_twice() -> None:
    """With the same secret the next server sends the same id, and the peer, which lived on, knows it."""

    async def main() -> tuple[Any, Any, Work]:
        work, secret = Work(), b"sixteen bytes of it"
        first = hub(secret=secret)
        await first.start()
        port = first.port
        async with worker(first.url, work):
            await first.wait_for(NAME)
            before = await first.request(NAME, "ship", 1, idempotency_key="order-1")
            await first.close()
            async with hub(secret=secret, port=port) as second:
                await second.wait_for(NAME)
                return before, await second.request(NAME, "ship", 1, idempotency_key="order-1"), work

    before, after, work = run(main())
    assert before == after == {"shipped": 1}
    assert work.begun == [1]


def test_without_a_key_each_attempt_is_a_command_of_its_own() -> None:
    """`request` without a key runs twice when it is called twice; a handler cannot be called without one."""

    async def main() -> Work:
        async with channel() as (server, work):
            for _ in range(2):
                await server.request(NAME, "ship", 1)
            handler: Any = server.handler(NAME, "ship")
            with pytest.raises(TypeError, match="idempotency_key"):
                await handler(1)
            return work

    assert run(main()).begun == [1, 1]


def test_a_command_that_failed_is_not_tried_again() -> None:
    """CommandFailed is final: the peer said so."""

    async def main() -> Work:
        async with channel() as (server, work):
            with pytest.raises(CommandFailed):
                await Retry(attempts=5, wait=0.0)(server.handler(NAME, "fail"))(1, idempotency_key="k")
            return work

    assert run(main()).begun == [1]


def test_a_retry_waits_for_a_peer_to_connect(virtual_clock: VirtualClock) -> None:
    """PeerNotConnected passes: the attempt after the peer has connected succeeds."""

    async def main() -> Any:
        async with hub() as server:
            ship = Retry(attempts=3, wait=5.0)(server.handler(NAME, "ship"))
            task = asyncio.create_task(ship(1, idempotency_key="k"))
            await asyncio.sleep(7.0)
            async with worker(server.url, Work()):
                return await task

    assert virtual_clock.run(main()) == {"shipped": 1}
    assert virtual_clock.sleeps == (5.0, 5.0)


def test_a_busy_peer_is_asked_again(virtual_clock: VirtualClock) -> None:
    """PeerBusy passes, and a command that was refused as busy runs when there is room."""

    async def main() -> tuple[Any, Work]:
        async with channel(peer={"concurrency": 1, "queue": 0}) as (server, work):
            first = asyncio.create_task(server.request(NAME, "slow", 1))
            await work.started.wait()
            asyncio.get_running_loop().call_later(3.0, work.go.set)
            ship = Retry(attempts=3, wait=2.0)(server.handler(NAME, "ship"))
            reply = await ship(2, idempotency_key="k")
            await first
            return reply, work

    reply, work = virtual_clock.run(main())
    assert reply == {"shipped": 2}
    assert work.begun == [1, 2]
    assert virtual_clock.sleeps == (2.0, 2.0)


def test_a_breaker_opens_for_a_peer_that_is_away_and_not_for_commands_that_fail() -> None:
    """Lost peers are failures to a circuit breaker, failed commands are not."""

    async def main() -> None:
        breaker = CircuitBreaker("printer", window=Window.consecutive(3), min_calls=1)
        async with hub() as server:
            handler = breaker(server.handler(NAME, "fail"))
            async with worker(server.url, Work()):
                await server.wait_for(NAME)
                for key in "abcdef":
                    with pytest.raises(CommandFailed):
                        await handler(1, idempotency_key=key)
            for key in "abc":
                with pytest.raises((PeerNotConnected, PeerDisconnected)):
                    await handler(1, idempotency_key=key)
            with pytest.raises(CircuitOpenError):
                await handler(1, idempotency_key="d")

    run(main())


def test_a_handler_goes_under_a_named_pipeline() -> None:
    """`resilient(name)` holds a handler as it holds any async function, and calls it by its signature."""

    async def main() -> Any:
        registry = Registry()
        async with channel() as (server, _):
            ship = registry.resilient("printer")(server.handler(NAME, "ship"))
            return await ship(payload=1, idempotency_key="k"), ship.__qualname__

    assert run(main()) == ({"shipped": 1}, "printer.ship")


def test_a_timeout_around_a_request_ends_it(virtual_clock: VirtualClock) -> None:
    """A Timeout of the caller's cancels the request, whose late reply then changes nothing."""

    async def main() -> None:
        async with hub() as server, by_hand(server) as hand:
            ship = Pipeline(Timeout(3.0))(server.handler(NAME, "ship"))
            with pytest.raises(TimeoutExceeded) as caught:
                await ship(1, idempotency_key="k")
            assert caught.value.seconds == 3.0
            await hand.answer((await hand.command())["request_id"])
            await until(lambda: dict(server.ignored) == {"late": 1})

    virtual_clock.run(main())
