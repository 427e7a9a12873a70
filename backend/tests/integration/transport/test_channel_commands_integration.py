"""Server × peer over a real WebSocket: commands, replies, errors, timeouts, and who may connect."""

import asyncio
import json
import threading
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidStatus

from backend.tests.integration.transport._channel import (
    NAME,
    TOKEN,
    Work,
    by_hand,
    channel,
    foreign_server,
    hub,
    run,
    until,
    worker,
)
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.deadline import deadline_after
from holdfast.infrastructure.resilience.errors import (
    CommandFailed,
    ConfigurationError,
    PeerBusy,
    PeerNotConnected,
    PeerRefused,
    ReplyTimeout,
)
from holdfast.infrastructure.resilience.events import CallTimedOut
from holdfast.infrastructure.transport.channel import ChannelPeer, ChannelServer, current_request_id
from holdfast.testing import EventRecorder, VirtualClock

# Structure


def test_a_command_has_three_fields() -> None:
    """A command is a JSON text frame with request_id, action and payload, and nothing else."""

    async def main() -> None:
        async with hub() as server, by_hand(server) as hand:
            asked = asyncio.create_task(server.request(NAME, "ship", {"to": "Kiel", "kg": 1.5}))
            frame = await hand.socket.recv()
            assert isinstance(frame, str)
            command = json.loads(frame)
            assert command == {
                "request_id": command["request_id"],
                "action": "ship",
                "payload": {"to": "Kiel", "kg": 1.5},
            }
            await hand.answer(command["request_id"])
            await asked

    run(main())


def test_a_reply_has_four_fields() -> None:
    """A reply of our peer is a JSON text frame with request_id, success, data and error, of which one is null."""
    replies: list[Any] = []

    async def say(socket: ServerConnection) -> None:
        for action in ("ship", "fail"):
            await socket.send(json.dumps({"request_id": action, "action": action, "payload": 1}))
            replies.append(await socket.recv())
        await socket.wait_closed()

    async def main() -> None:
        async with foreign_server(say) as url, worker(url, Work()):
            await until(lambda: len(replies) == 2)

    run(main())
    assert all(isinstance(reply, str) for reply in replies)
    assert [json.loads(reply) for reply in replies] == [
        {"request_id": "ship", "success": True, "data": {"shipped": 1}, "error": None},
        {
            "request_id": "fail",
            "success": False,
            "data": None,
            "error": {"kind": "failed", "message": "ValueError: no paper for 1"},
        },
    ]


def test_ids_cannot_be_guessed() -> None:
    """Each command has an id of 256 bits of its own, of which the key tells nothing without the server's secret."""

    async def ids(server: ChannelServer) -> list[str]:
        found: list[str] = []
        async with server, by_hand(server) as hand:
            for key in (None, None, "order-1", "order-1", "order-2"):
                asked = asyncio.create_task(server.request(NAME, "ship", 1, idempotency_key=key))
                found.append((await hand.command())["request_id"])
                await hand.answer(found[-1])
                await asked
        return found

    first, second = run(ids(hub())), run(ids(hub()))
    assert all(len(one) == 43 for one in (*first, *second))
    assert first[2] == first[3]
    assert len({*first, *second}) == 8


def test_a_secret_keeps_ids_over_a_restart_of_the_server() -> None:
    """Two servers with the same secret give a command with the same key the same id; peer and action count too."""

    async def ids(*commands: tuple[str, str]) -> list[str]:
        found: list[str] = []
        async with hub(secret=b"sixteen bytes of it") as server:
            for peer, action in commands:
                async with by_hand(server, peer) as hand:
                    asked = asyncio.create_task(server.request(peer, action, idempotency_key="order-1"))
                    found.append((await hand.command())["request_id"])
                    await hand.answer(found[-1])
                    await asked
        return found

    before, after = run(ids(("a", "ship"))), run(ids(("a", "ship"), ("a", "quote"), ("b", "ship")))
    assert before == after[:1]
    assert len(set(after)) == 3


# Outcomes


@pytest.mark.parametrize("payload", [None, 7, 1.5, "", "Tang 🌊", True, [], {"a": [{"b": None}]}])
def test_what_json_can_hold_comes_back(payload: Any) -> None:
    """Payloads and results of every kind that JSON knows pass unchanged."""

    async def main() -> Any:
        async with channel() as (server, _):
            return await server.request(NAME, "ship", payload)

    assert run(main()) == {"shipped": payload}


def test_many_commands_run_at_once_and_each_gets_its_own_reply() -> None:
    """100 commands at the same time, all on one connection, are answered each with its own result."""

    async def main() -> list[Any]:
        async with channel() as (server, work):
            replies = await asyncio.gather(*(server.request(NAME, "ship", n) for n in range(100)))
            assert sorted(work.begun) == list(range(100))
            return replies

    assert run(main()) == [{"shipped": n} for n in range(100)]


def test_a_sync_action_runs_in_a_thread() -> None:
    """A plain function does not block the peer's loop, and knows the id of its command."""

    async def main() -> None:
        async with hub() as server:
            peer = worker(server.url, Work())
            seen: list[Any] = []
            here = threading.get_ident()

            @peer.action
            def wait(payload: int) -> bool:
                seen.append(current_request_id())
                done = asyncio.run_coroutine_threadsafe(asyncio.sleep(0, payload), loop)
                return done.result(5) == payload and threading.get_ident() != here

            loop = asyncio.get_running_loop()
            async with peer:
                await server.wait_for(NAME)
                assert await server.request(NAME, "wait", 3)
            assert [len(one) for one in seen] == [43]
            assert current_request_id() is None

    run(main())


def test_an_action_knows_the_id_of_its_command() -> None:
    """The id is the same whenever a command is sent, so that an action can use it as a key of its own."""

    async def main() -> None:
        async with hub() as server:
            peer = worker(server.url, Work())

            @peer.action()
            async def which(_: Any) -> str | None:
                await asyncio.sleep(0)
                return current_request_id()

            async with peer:
                await server.wait_for(NAME)
                asked = [server.request(NAME, "which", n, idempotency_key=f"{n}") for n in range(3)]
                assert len(set(await asyncio.gather(*asked))) == 3

    run(main())


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("no paper"), "ValueError: no paper"),
        (StopIteration(3), "StopIteration: 3"),
        (KeyError(), "KeyError"),
        (asyncio.CancelledError(), "CancelledError"),
        (ValueError("x" * 5000), "ValueError: " + "x" * 988),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_action_that_raises_fails_its_command(error: BaseException, message: str, *, sync: bool) -> None:
    """The server gets CommandFailed with the error's type and at most 1,000 characters; the peer goes on."""
    if sync and isinstance(error, asyncio.CancelledError):
        error, message = OSError("gone"), "OSError: gone"

    async def main() -> None:
        async with hub() as server:
            peer = worker(server.url, Work())

            def fails(_: Any) -> None:
                raise error

            async def fails_async(_: Any) -> None:
                raise error

            peer.action("bad")(fails if sync else fails_async)
            async with peer:
                await server.wait_for(NAME)
                with pytest.raises(CommandFailed) as caught:
                    await server.request(NAME, "bad")
                got = caught.value
                assert (got.peer, got.action, got.kind) == (NAME, "bad", "failed")
                assert got.message == (
                    "RuntimeError: coroutine raised StopIteration"
                    if isinstance(error, StopIteration) and not sync
                    else message
                )
                assert got.may_have_run
                assert await server.request(NAME, "ship", 1) == {"shipped": 1}

    run(main())


def test_an_unknown_action_never_runs() -> None:
    """CommandFailed names the actions that there are, and says that nothing ran."""

    async def main() -> CommandFailed:
        async with channel() as (server, work):
            with pytest.raises(
                CommandFailed, match="there is no such action, but fail, ship, slow"
            ) as caught:
                await server.request(NAME, "shred")
            assert work.begun == []
            return caught.value

    error = run(main())
    assert (error.kind, error.may_have_run) == ("unknown_action", False)


@pytest.mark.parametrize("result", [object(), {1, 2}, float("nan"), b"bytes"])
def test_a_result_that_is_no_json_fails_the_command(result: Any) -> None:
    """It ran, but there is nothing to show for it: `not_json`, and the connection lives."""

    async def main() -> CommandFailed:
        async with hub() as server:
            peer = worker(server.url, Work())

            @peer.action
            async def odd(_: Any) -> Any:
                return result

            async with peer:
                await server.wait_for(NAME)
                with pytest.raises(CommandFailed, match="the result of 'odd' is no JSON") as caught:
                    await server.request(NAME, "odd")
                assert server.peers == (NAME,)
            return caught.value

    error = run(main())
    assert (error.kind, error.may_have_run) == ("not_json", True)


@pytest.mark.parametrize(
    ("payload", "kind"), [(object(), TypeError), (float("inf"), ValueError), ({(1,): 2}, TypeError)]
)
def test_a_payload_that_is_no_json_is_never_sent(payload: Any, kind: type[Exception]) -> None:
    """It is refused here, by name, before anything is sent."""

    async def main() -> None:
        async with channel() as (server, work):
            with pytest.raises(kind, match="the payload of 'ship' is no JSON"):
                await server.request(NAME, "ship", payload)
            assert work.begun == []

    run(main())


def test_a_peer_takes_only_so_many_commands() -> None:
    """Beyond `concurrency` commands that run and `queue` that wait a peer is busy, and has not begun the command."""

    async def main() -> None:
        async with channel(peer={"concurrency": 2, "queue": 1}) as (server, work):
            taken = [asyncio.create_task(server.request(NAME, "slow", n)) for n in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(PeerBusy) as caught:
                await server.request(NAME, "slow", 3, idempotency_key="again")
            assert not caught.value.may_have_run
            assert work.begun == [0, 1]
            work.go.set()
            assert await asyncio.gather(*taken) == [{"slow": n} for n in range(3)]
            assert await server.request(NAME, "slow", 3, idempotency_key="again") == {"slow": 3}

    run(main())


# Time


@pytest.mark.parametrize(("timeout", "seconds"), [(None, 60.0), (5.0, 5.0), (600, 600.0)])
def test_a_reply_is_awaited_for_so_long(
    timeout: float | None, seconds: float, virtual_clock: VirtualClock
) -> None:
    """Without a reply a request ends with ReplyTimeout after its timeout, 60 s unless told otherwise, on our clock."""

    async def main() -> ReplyTimeout:
        async with hub() as server, by_hand(server):
            began = virtual_clock.monotonic()
            with pytest.raises(ReplyTimeout) as caught:
                await server.request(NAME, "ship", timeout=timeout)
            assert virtual_clock.monotonic() - began == pytest.approx(seconds)
            return caught.value

    with EventRecorder() as recorder:
        error = virtual_clock.run(main())
    assert (error.peer, error.action, error.seconds, error.may_have_run) == (NAME, "ship", seconds, True)
    assert [event.seconds for event in recorder.of(CallTimedOut)] == [seconds]


def test_a_timeout_of_the_server_is_the_default(virtual_clock: VirtualClock) -> None:
    """`ChannelServer(timeout=…)` bounds requests that have no timeout of their own."""

    async def main() -> float:
        async with hub(timeout=7.0) as server, by_hand(server):
            with pytest.raises(ReplyTimeout) as caught:
                await server.request(NAME, "ship")
            return caught.value.seconds

    assert virtual_clock.run(main()) == 7.0


def test_a_deadline_in_force_bounds_a_request(virtual_clock: VirtualClock) -> None:
    """A request waits no longer than the deadline around it, and sends nothing when that has passed."""

    async def main() -> list[float]:
        seconds: list[float] = []
        async with hub() as server, by_hand(server) as hand:
            for left in (2.0, 0.0):
                with deadline_after(left), pytest.raises(ReplyTimeout) as caught:
                    await server.request(NAME, "ship", left)
                seconds.append(caught.value.seconds)
                assert caught.value.may_have_run is (left > 0)
            assert (await hand.command())["payload"] == 2.0
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(hand.command(), 0.01)
        return seconds

    assert virtual_clock.run(main()) == [pytest.approx(2.0), 0.0]


def test_each_request_has_a_time_of_its_own(virtual_clock: VirtualClock) -> None:
    """Of two requests to the same peer the shorter one ends first, and the other one still gets its reply."""

    async def main() -> None:
        async with hub() as server, by_hand(server) as hand:
            long = asyncio.create_task(server.request(NAME, "ship", 1, timeout=100))
            command = await hand.command()
            with pytest.raises(ReplyTimeout):
                await server.request(NAME, "ship", 2, timeout=1)
            await hand.answer(command["request_id"], "done")
            assert await long == "done"

    virtual_clock.run(main())


# Who may connect


@pytest.mark.parametrize("awaited", [True, False])
def test_only_who_is_known_connects(*, awaited: bool) -> None:
    """A wrong token is answered with 401, before there is a WebSocket, and ends the peer with PeerRefused."""
    asked: list[tuple[str, str]] = []

    def check(peer: str, token: str) -> bool:
        asked.append((peer, token))
        return token == TOKEN

    async def check_async(peer: str, token: str) -> bool:
        await asyncio.sleep(0)
        return check(peer, token)

    async def main() -> PeerRefused:
        async with ChannelServer(check_async if awaited else check) as server:
            async with worker(server.url, Work()):
                await server.wait_for(NAME)
            with pytest.raises(PeerRefused) as caught:
                await worker(server.url, Work(), token="bad-token").run()
            assert server.peers == ()
            return caught.value

    error = run(main())
    assert asked == [(NAME, TOKEN), (NAME, "bad-token")]
    assert (error.peer, error.reason) == (NAME, "401 Unauthorized: the token is not accepted")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 400),
        ([("Holdfast-Peer", "")], 400),
        ([("Holdfast-Peer", "two words"), ("Authorization", f"Bearer {TOKEN}")], 400),
        ([("Holdfast-Peer", "x" * 129), ("Authorization", f"Bearer {TOKEN}")], 400),
        ([("Holdfast-Peer", "a"), ("Holdfast-Peer", "b"), ("Authorization", f"Bearer {TOKEN}")], 400),
        ([("Holdfast-Peer", NAME)], 401),
        ([("Holdfast-Peer", NAME), ("Authorization", f"Basic {TOKEN}")], 401),
        ([("Holdfast-Peer", NAME), ("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer x")], 401),
    ],
)
def test_who_does_not_say_who_it_is_does_not_connect(headers: list[tuple[str, str]], status: int) -> None:
    """Without one name, or without one bearer token, the handshake is refused."""

    async def main() -> int:
        async with hub() as server:
            with pytest.raises(InvalidStatus) as caught:
                await connect(server.url, additional_headers=headers)
            assert server.peers == ()
            return caught.value.response.status_code

    assert run(main()) == status


def test_a_check_that_raises_lets_nobody_in_and_ends_nothing() -> None:
    """While the check fails peers get 500 and try again; when it works again they connect."""
    broken = [OSError("no database"), OSError("no database")]

    def check(*_: str) -> bool:
        if broken:
            raise broken.pop()
        return True

    async def main() -> tuple[str, ...]:
        async with ChannelServer(check) as server, worker(server.url, Work()):
            await server.wait_for(NAME)
            return server.peers

    assert run(main()) == (NAME,)
    assert broken == []


def test_peers_are_told_apart() -> None:
    """A command goes to the peer that it is for, and to no other."""

    async def main() -> None:
        blue, red = Work(), Work()
        async with (
            hub() as server,
            worker(server.url, blue, name="blue"),
            worker(server.url, red, name="red"),
        ):
            await server.wait_for("blue")
            await server.wait_for("red")
            assert server.peers == ("blue", "red")
            await server.request("red", "ship", 1)
            assert (blue.begun, red.begun) == ([], [1])

    run(main())


# Uses


@pytest.mark.parametrize(
    ("arguments", "paths"),
    [
        (("", "ship"), ["peer"]),
        (("two words", ""), ["peer", "action"]),
        (("a", 7), ["action"]),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(arguments: tuple[Any, Any], paths: list[str]) -> None:
    """Every fault of peer, action, timeout and key is reported at once, by `request` and by `handler`."""

    async def main() -> None:
        server = hub()
        with pytest.raises(ConfigurationError) as caught:
            await server.request(*arguments, timeout=0, idempotency_key="")
        assert [fault.path for fault in caught.value.faults] == [*paths, "timeout", "idempotency_key"]
        with pytest.raises(ConfigurationError) as caught:
            server.handler(*arguments, timeout=-1)
        assert [fault.path for fault in caught.value.faults] == [*paths, "timeout"]

    run(main())


def test_a_server_and_a_peer_are_started_once() -> None:
    """Before they start they have no address and no connection; a second start is an error that says what to do."""

    async def main() -> None:
        server = hub()
        with pytest.raises(RuntimeError, match="use `async with` or await start"):
            _ = server.url
        with pytest.raises(PeerNotConnected):
            await server.request(NAME, "ship")
        async with server:
            with pytest.raises(RuntimeError, match="make a new one"):
                await server.start()
            peer = worker(server.url, Work())
            with pytest.raises(RuntimeError, match="the peer does not run"):
                await peer.wait_connected()
            async with peer:
                await peer.wait_connected()
                connected = [peer.connected]
                with pytest.raises(RuntimeError, match="make a new one"):
                    await peer.run()
            assert [*connected, peer.connected] == [True, False]
            await peer.close()
        await server.close()

    run(main())


def test_an_action_has_one_function() -> None:
    """A second function for an action is refused, instead of taking its place unseen."""
    peer = ChannelPeer("ws://127.0.0.1:1", name="a", token="t")
    peer.action("ship")(Work().ship)
    with pytest.raises(ValueError, match="the action 'ship' has a function already"):

        @peer.action
        def ship(payload: Any) -> Any:
            return payload


def test_run_ends_when_the_peer_is_closed() -> None:
    """`run()` returns after `close()`, also one that an action asks for, and passes a cancellation on."""

    async def main() -> None:
        async with hub() as server:
            peer = worker(server.url, Work())

            @peer.action
            async def leave(_: Any) -> None:
                await peer.close()

            running = asyncio.create_task(peer.run())
            await server.wait_for(NAME)
            with pytest.raises(ConnectionError):
                await server.request(NAME, "leave")
            await running
            other = asyncio.create_task(worker(server.url, Work()).run())
            await server.wait_for(NAME)
            other.cancel()
            with pytest.raises(asyncio.CancelledError):
                await other

    run(main())


def test_the_clock_of_a_channel_may_be_its_own() -> None:
    """A server with a clock of its own asks that one how long it waits for a lost peer."""
    clock, common = VirtualClock(), VirtualClock()

    async def main() -> None:
        async with hub(resume_for=5.0, clock=clock) as server, by_hand(server) as hand:
            asked = asyncio.create_task(server.request(NAME, "ship", timeout=100))
            await hand.command()
            hand.break_off()
            with pytest.raises(ConnectionError):
                await asked

    with use_clock(common):
        clock.run(main())
    assert clock.sleeps == (5.0,)
    assert common.sleeps == ()
