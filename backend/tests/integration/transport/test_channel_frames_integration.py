"""Server × peers that say what they should not: late, twice, for others, too much, or what makes no sense."""

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from backend.tests.integration.transport._channel import (
    NAME,
    Work,
    by_hand,
    channel,
    foreign_server,
    hub,
    run,
    until,
    worker,
)
from holdfast.infrastructure.resilience.errors import CommandFailed, ReplyTimeout
from holdfast.infrastructure.resilience.events import FrameIgnored
from holdfast.testing import EventRecorder, VirtualClock

# Replies that nobody waits for


def test_a_reply_comes_from_the_addressed_peer(event_recorder: EventRecorder) -> None:
    """A reply by another peer with a stolen id is refused and seen; who waits gets the right one, later."""

    async def main() -> None:
        async with hub() as server, by_hand(server) as hand, by_hand(server, "thief") as thief:
            task = asyncio.create_task(server.request(NAME, "ship"))
            command = await hand.command()
            await thief.answer(command["request_id"], "stolen")
            await until(lambda: server.ignored.get("foreign") == 1)
            assert not task.done()
            await hand.answer(command["request_id"], "mine")
            assert await task == "mine"
            await thief.answer(command["request_id"], "stolen")
            await until(lambda: server.ignored.get("foreign") == 2)
            assert server.peers == (NAME, "thief")

    run(main())
    events = event_recorder.of(FrameIgnored)
    assert [(event.name, event.peer, event.reason) for event in events] == [
        ("channel", "thief", "foreign")
    ] * 2


def test_another_peer_cannot_fail_a_command() -> None:
    """Nor does a malformed reply with a stolen id end the command of somebody else."""

    async def main() -> None:
        async with hub() as server, by_hand(server) as hand, by_hand(server, "thief") as thief:
            task = asyncio.create_task(server.request(NAME, "ship"))
            command = await hand.command()
            await thief.say({"request_id": command["request_id"], "success": "no"})
            await thief.say({"request_id": command["request_id"], "success": False, "error": "no"})
            await until(lambda: dict(server.ignored) == {"malformed": 1, "foreign": 1})
            await hand.answer(command["request_id"], "mine")
            assert await task == "mine"

    run(main())


def test_a_late_reply_changes_nothing_and_is_seen(virtual_clock: VirtualClock) -> None:
    """A reply after its request's timeout is late, a second one a duplicate; the next request does not get it."""

    async def main() -> None:
        async with hub() as server, by_hand(server) as hand:
            with pytest.raises(ReplyTimeout):
                await server.request(NAME, "ship", timeout=1.0)
            late = await hand.command()
            task = asyncio.create_task(server.request(NAME, "ship"))
            await hand.answer(late["request_id"], "late")
            await hand.answer(late["request_id"], "later")
            await until(lambda: dict(server.ignored) == {"late": 1, "duplicate": 1})
            await hand.answer((await hand.command())["request_id"], "right")
            assert await task == "right"

    virtual_clock.run(main())


def test_a_duplicate_reply_changes_nothing_and_is_seen() -> None:
    """The first reply counts; a second one, even another, is ignored."""

    async def main() -> None:
        async with hub() as server, by_hand(server) as hand:
            task = asyncio.create_task(server.request(NAME, "ship"))
            command = await hand.command()
            await hand.answer(command["request_id"], "first")
            await hand.answer(command["request_id"], "second")
            assert await task == "first"
            await until(lambda: dict(server.ignored) == {"duplicate": 1})

    run(main())


def test_a_reply_to_nothing_is_unknown() -> None:
    """An id that was never given out is refused."""

    async def main() -> None:
        async with hub() as server, by_hand(server) as hand:
            await hand.answer("x" * 43)
            await until(lambda: dict(server.ignored) == {"unknown": 1})

    run(main())


def test_what_is_remembered_of_ended_commands_is_bounded() -> None:
    """Beyond `remember` ended commands the oldest are unknown, which changes nothing for them."""

    async def main() -> None:
        async with hub(remember=2) as server, by_hand(server) as hand:
            ids: list[str] = []
            for _ in range(3):
                task = asyncio.create_task(server.request(NAME, "ship"))
                ids.append((await hand.command())["request_id"])
                await hand.answer(ids[-1])
                await task
            for request_id in ids:
                await hand.answer(request_id)
            await until(lambda: dict(server.ignored) == {"unknown": 1, "duplicate": 2})

    run(main())


# Frames that are none

DEEP = '{"request_id":' + "[" * 100_000 + "]" * 100_000 + "}"
NO_FRAMES = [
    "",
    "no JSON",
    "null",
    "[]",
    '"text"',
    "{}",
    b"\x00\x01",
    b'{"request_id": "a", "success": true}',
    '{"request_id": 7, "success": true, "action": "ship"}',
    '{"request_id": "", "success": true, "action": "ship"}',
    '{"request_id": null, "success": true, "action": "ship"}',
    '{"request_id": NaN, "success": true, "action": "ship"}',
    json.dumps({"request_id": "x" * 129, "success": True, "action": "ship"}),
    DEEP,
]


@pytest.mark.parametrize("frame", NO_FRAMES, ids=range(len(NO_FRAMES)))
def test_a_frame_that_is_no_reply_changes_nothing(frame: str | bytes) -> None:
    """It is counted as malformed, the connection lives, and the command that waits gets its reply."""

    async def main() -> None:
        async with hub() as server, by_hand(server) as hand:
            task = asyncio.create_task(server.request(NAME, "ship"))
            await hand.say(frame)
            await until(lambda: dict(server.ignored) == {"malformed": 1})
            await hand.answer((await hand.command())["request_id"], "good")
            assert await task == "good"

    run(main())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"success": None},
        {"success": "yes"},
        {"success": 1},
        {"success": True, "error": "but no"},
    ],
)
def test_a_reply_of_wrong_types_fails_its_command_at_once(fields: dict[str, Any]) -> None:
    """The peer answered, but not in a way that can be understood: CommandFailed instead of a long wait."""

    async def main() -> CommandFailed:
        async with hub() as server, by_hand(server) as hand:
            task = asyncio.create_task(server.request(NAME, "ship"))
            await hand.say({"request_id": (await hand.command())["request_id"], **fields})
            with pytest.raises(CommandFailed) as caught:
                await task
            assert dict(server.ignored) == {"malformed": 1}
            assert server.peers == (NAME,)
            return caught.value

    error = run(main())
    assert (error.kind, error.may_have_run) == ("malformed_reply", True)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        ("plain text", "failed", "plain text"),
        ({"message": "no paper"}, "failed", "no paper"),
        ({"kind": "odd", "message": "x" * 5000}, "odd", "x" * 1000),
        ({"kind": 7, "message": 8}, "7", "no reason given"),
        (None, "failed", "no reason given"),
        ([1], "failed", "no reason given"),
    ],
)
def test_the_errors_of_foreign_peers_are_understood(error: Any, kind: str, message: str) -> None:
    """A reply without success fails its command, whatever its error looks like."""

    async def main() -> CommandFailed:
        async with hub() as server, by_hand(server) as hand:
            task = asyncio.create_task(server.request(NAME, "ship"))
            request_id = (await hand.command())["request_id"]
            await hand.say({"request_id": request_id, "success": False, "error": error, "more": 1})
            with pytest.raises(CommandFailed) as caught:
                await task
            return caught.value

    failed = run(main())
    assert (failed.kind, failed.message, failed.may_have_run) == (kind, message, True)


@pytest.mark.parametrize("frame", NO_FRAMES, ids=range(len(NO_FRAMES)))
def test_a_frame_that_is_no_command_changes_nothing(
    frame: str | bytes, event_recorder: EventRecorder
) -> None:
    """The peer counts it as malformed, answers nothing, keeps the connection, and executes the next command."""

    async def say(socket: ServerConnection) -> None:
        await socket.send(frame)
        await socket.send('{"request_id": "a", "action": "ship", "payload": 1}')
        replies.append(json.loads(await socket.recv()))
        await socket.wait_closed()

    async def main() -> None:
        work = Work()
        async with foreign_server(say) as url, worker(url, work) as peer:
            await until(lambda: bool(replies))
            assert dict(peer.ignored) == {"malformed": 1}
            assert work.begun == [1]

    replies: list[Any] = []
    run(main())
    assert replies == [{"request_id": "a", "success": True, "data": {"shipped": 1}, "error": None}]
    assert [(event.name, event.reason) for event in event_recorder.of(FrameIgnored)] == [(NAME, "malformed")]


@pytest.mark.parametrize("action", [None, 7, "", ["ship"], "x" * 201])
def test_a_command_of_wrong_types_is_refused(action: Any) -> None:
    """A frame with an id but without an action is answered: `malformed_command`, and nothing runs."""

    async def say(socket: ServerConnection) -> None:
        await socket.send(json.dumps({"request_id": "a", "action": action, "payload": 1}))
        replies.append(json.loads(await socket.recv()))
        await socket.wait_closed()

    async def main() -> None:
        work = Work()
        async with foreign_server(say) as url, worker(url, work):
            await until(lambda: bool(replies))
            assert work.begun == []

    replies: list[Any] = []
    run(main())
    assert replies[0]["success"] is False
    assert replies[0]["error"]["kind"] == "malformed_command"


# Sizes


def test_a_command_that_is_too_large_for_the_peer_is_never_sent() -> None:
    """The peer says what it takes; more is a ValueError that names both sizes, and the connection lives."""

    async def main() -> None:
        async with channel(peer={"max_size": 2048}) as (server, work):
            with pytest.raises(
                ValueError, match=r"the command 'ship' has \d+ bytes and peer 'printer' takes 2048"
            ):
                await server.request(NAME, "ship", "x" * 2048)
            assert await server.request(NAME, "ship", "x" * 1024) == {"shipped": "x" * 1024}
            assert len(work.begun) == 1

    run(main())


def test_a_reply_that_is_too_large_for_the_server_fails_its_command() -> None:
    """It ran, its result does not fit: `too_large`, remembered as such, and the connection lives."""

    async def main() -> None:
        async with channel(max_size=2048) as (server, work):
            for _ in range(2):
                with pytest.raises(CommandFailed, match=r"has \d+ bytes, the server takes 2048") as caught:
                    await server.request(NAME, "ship", "x" * 2040, idempotency_key="one")
                assert (caught.value.kind, caught.value.may_have_run) == ("too_large", True)
            assert len(work.begun) == 1
            assert server.peers == (NAME,)

    run(main())


def test_a_frame_that_is_too_large_ends_its_connection_only() -> None:
    """A foreign peer that sends more than the server takes is disconnected with 1009; the others stay."""

    async def main() -> None:
        async with hub(max_size=2048) as server, by_hand(server) as hand, by_hand(server, "other") as other:
            task = asyncio.create_task(server.request(NAME, "ship"))
            await hand.command()
            await hand.say("x" * 3000)
            with pytest.raises(ConnectionError):
                await task
            await hand.socket.wait_closed()
            assert hand.socket.close_code == 1009
            fine = asyncio.create_task(server.request("other", "ship"))
            await other.answer((await other.command())["request_id"], "fine")
            assert await fine == "fine"

    run(main())


@pytest.mark.parametrize("size", ["", "-5", "many", "1_000", "0x10"])
def test_a_size_that_is_none_is_ignored(size: str) -> None:
    """A foreign peer that says nothing, or nonsense, about what it takes gets its commands."""

    async def main() -> None:
        async with hub() as server, by_hand(server, size=size) as hand:
            task = asyncio.create_task(server.request(NAME, "ship", "x" * 5000))
            await hand.answer((await hand.command())["request_id"], "fine")
            assert await task == "fine"

    run(main())


# Once


def test_a_command_that_comes_again_is_answered_again() -> None:
    """A resent command gets the remembered reply, good or bad, and is executed once; a new id runs anew."""

    async def say(socket: ServerConnection) -> None:
        for request_id, action in (("a", "ship"), ("a", "ship"), ("b", "fail"), ("b", "fail"), ("c", "ship")):
            await socket.send(json.dumps({"request_id": request_id, "action": action, "payload": 1}))
            replies.append(json.loads(await socket.recv()))
        await socket.wait_closed()

    async def main() -> list[Any]:
        work = Work()
        async with foreign_server(say) as url, worker(url, work):
            await until(lambda: len(replies) == 5)
        return work.begun

    replies: list[Any] = []
    assert run(main()) == [1, 1, 1]
    assert replies[0] == replies[1]
    assert replies[2] == replies[3]
    assert [reply["success"] for reply in replies] == [True, True, False, False, True]


def test_a_command_that_comes_again_while_it_runs_is_answered_once() -> None:
    """It is neither executed a second time nor refused; when it ends there is one reply."""

    async def say(socket: ServerConnection) -> None:
        for _ in range(3):
            await socket.send('{"request_id": "a", "action": "slow", "payload": 1}')
        replies.append(json.loads(await socket.recv()))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.02)
        replies.append("no more")
        await socket.wait_closed()

    async def main() -> list[Any]:
        work = Work()
        async with foreign_server(say) as url, worker(url, work):
            await work.started.wait()
            await asyncio.sleep(0.01)
            work.go.set()
            await until(lambda: len(replies) == 2)
        return work.begun

    replies: list[Any] = []
    assert run(main()) == [1]
    assert replies[0]["data"] == {"slow": 1}


def test_one_id_is_one_command() -> None:
    """The same id with another payload or action is refused, `key_reused`: who made it is wrong about its key."""

    async def main() -> None:
        async with channel() as (server, work):
            assert await server.request(NAME, "ship", {"a": 1, "b": 2}, idempotency_key="k") == {
                "shipped": {"a": 1, "b": 2}
            }
            same = await server.request(NAME, "ship", {"b": 2, "a": 1}, idempotency_key="k")
            assert same == {"shipped": {"a": 1, "b": 2}}
            with pytest.raises(CommandFailed) as caught:
                await server.request(NAME, "ship", {"a": 1}, idempotency_key="k")
            assert (caught.value.kind, caught.value.may_have_run) == ("key_reused", False)
            assert len(work.begun) == 1

    run(main())


def test_one_key_is_one_command_while_it_waits() -> None:
    """Who asks the same with the same key while it waits gets the same reply; with another payload, an error."""

    async def main() -> None:
        async with channel() as (server, work):
            same = [
                asyncio.create_task(server.request(NAME, "slow", payload, idempotency_key="k"))
                for payload in ({"a": 1, "b": 2}, {"b": 2, "a": 1})
            ]
            await work.started.wait()
            with pytest.raises(CommandFailed, match="another payload waits under this idempotency key"):
                await server.request(NAME, "slow", 2, idempotency_key="k")
            work.go.set()
            assert await asyncio.gather(*same) == [{"slow": {"a": 1, "b": 2}}] * 2
            assert len(work.begun) == 1

    run(main())


def test_the_memory_of_a_peer_is_bounded() -> None:
    """Beyond `remember` commands the oldest would run again; of replies beyond their bytes only the fact is known."""

    async def main() -> None:
        async with channel(peer={"remember": 2}) as (server, work):
            for key in ("a", "b", "c", "c", "b", "a"):
                await server.request(NAME, "ship", key, idempotency_key=key)
            assert work.begun == ["a", "b", "c", "a"]
        async with channel(peer={"remember_bytes": 2000}) as (server, work):
            for key in ("a", "b"):
                await server.request(NAME, "ship", "x" * 1500, idempotency_key=key)
            with pytest.raises(CommandFailed, match="it ran, its reply is forgotten") as caught:
                await server.request(NAME, "ship", "x" * 1500, idempotency_key="a")
            assert (caught.value.kind, caught.value.may_have_run) == ("forgotten", True)
            await server.request(NAME, "ship", "x" * 1500, idempotency_key="b")
            assert len(work.begun) == 2

    run(main())


def test_what_was_refused_is_looked_at_again() -> None:
    """An action that a peer learns later runs when its command is sent again: refusals are not remembered."""

    async def main() -> Any:
        async with hub() as server:
            peer = worker(server.url, Work())
            async with peer:
                await server.wait_for(NAME)
                with pytest.raises(CommandFailed):
                    await server.request(NAME, "later", 1, idempotency_key="k")
                peer.action("later")(Work().ship)
                return await server.request(NAME, "later", 1, idempotency_key="k")

    assert run(main()) == {"shipped": 1}
