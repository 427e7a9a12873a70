"""Server × peer whose connection is lost: who fails, who waits, what is sent again, what is not executed twice."""

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from backend.tests.integration.transport._channel import (
    NAME,
    TOKEN,
    Hand,
    Work,
    by_hand,
    channel,
    foreign_server,
    hub,
    run,
    until,
    worker,
)
from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.errors import (
    PeerDisconnected,
    PeerNotConnected,
    PeerRefused,
    ReplyTimeout,
)
from holdfast.infrastructure.resilience.events import PeerJoined, PeerLeft, RetryScheduled, subscribe
from holdfast.infrastructure.transport.channel import ChannelPeer, ChannelServer
from holdfast.testing import EventRecorder, VirtualClock


async def asked(server: ChannelServer, payload: Any = None, **settings: Any) -> asyncio.Task[Any]:
    """Begin a request that waits."""
    task = asyncio.create_task(server.request(NAME, "slow", payload, **settings))
    await asyncio.sleep(0)
    return task


async def lost(task: asyncio.Task[Any]) -> PeerDisconnected:
    """Wait for a request to fail because its peer is gone."""
    with pytest.raises(PeerDisconnected) as caught:
        await task
    return caught.value


# Failing at once


def test_a_disconnect_fails_every_waiter_at_once() -> None:
    """All requests to a lost peer fail when it is lost, not at their timeout, and say that they may have run."""

    async def main() -> list[PeerDisconnected]:
        async with hub() as server, by_hand(server) as hand:
            waiting = [await asked(server, n) for n in range(3)]
            for _ in waiting:
                await hand.command()
            hand.break_off()
            errors = [await lost(task) for task in waiting]
            assert server.peers == ()
            return errors

    errors = run(main())
    assert [(error.peer, error.action, error.may_have_run) for error in errors] == [(NAME, "slow", True)] * 3
    assert len({id(error) for error in errors}) == 3


def test_a_disconnect_fails_nobody_else() -> None:
    """Requests to other peers go on."""

    async def main() -> None:
        async with hub() as server, by_hand(server) as hand, by_hand(server, "other") as other:
            mine = await asked(server)
            theirs = asyncio.create_task(server.request("other", "ship"))
            await hand.command()
            hand.break_off()
            await lost(mine)
            await other.answer((await other.command())["request_id"], "done")
            assert await theirs == "done"

    run(main())


def test_who_is_not_connected_is_not_waited_for() -> None:
    """A request to a peer that is not connected fails at once, and has not run."""

    async def main() -> PeerNotConnected:
        async with hub() as server:
            with pytest.raises(PeerNotConnected) as caught:
                await server.request("nobody", "ship")
            return caught.value

    error = run(main())
    assert (error.peer, error.action, error.may_have_run) == ("nobody", "ship", False)


def test_a_command_that_was_sent_before_may_have_run_though_now_nothing_is_sent() -> None:
    """When the same key was sent to a peer that was lost, the next error says so too; a key of its own does not."""

    async def main() -> list[bool]:
        async with hub() as server:
            async with by_hand(server) as hand:
                first = await asked(server, idempotency_key="order-1")
                await hand.command()
                hand.break_off()
                await lost(first)
            found: list[bool] = []
            for key in ("order-1", "order-2"):
                with pytest.raises(PeerNotConnected) as caught:
                    await server.request(NAME, "slow", idempotency_key=key)
                found.append(caught.value.may_have_run)
            return found

    assert run(main()) == [True, False]


def test_a_process_that_is_killed_fails_its_waiters_at_once() -> None:
    """SIGKILL in the middle of a command ends the request, long before its timeout."""
    program = """
import asyncio, sys
from holdfast import ChannelPeer
peer = ChannelPeer(sys.argv[1], name="printer", token="good-token")
@peer.action
async def hang(_):
    print("begun", flush=True)
    await asyncio.Event().wait()
asyncio.run(peer.run())
"""

    async def main() -> PeerDisconnected:
        async with hub() as server:
            command = [sys.executable, "-c", program, server.url]
            process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            assert process.stdout is not None
            await server.wait_for(NAME)
            task = asyncio.create_task(server.request(NAME, "hang"))
            assert await process.stdout.readline() == b"begun\n"
            process.kill()
            error = await lost(task)
            await process.wait()
            return error

    assert run(main()).may_have_run


def test_a_peer_that_is_closed_leaves_its_commands_open() -> None:
    """What a peer was executing when it was closed has not failed: it ends as PeerDisconnected, and may have run."""

    async def main() -> tuple[PeerDisconnected, list[Any]]:
        work = Work()
        async with hub() as server, worker(server.url, work) as peer:
            await server.wait_for(NAME)
            task = await asked(server, "label")
            await work.started.wait()
            await peer.close()
            return await lost(task), work.begun

    error, begun = run(main())
    assert (error.may_have_run, begun) == (True, ["label"])


def test_closing_the_server_fails_its_waiters_at_once() -> None:
    """`close()` ends requests with PeerDisconnected, also those that wait for a lost peer to come back."""

    async def main() -> None:
        async with hub(resume_for=100.0) as server, by_hand(server) as hand, by_hand(server, "gone") as gone:
            first = await asked(server)
            second = asyncio.create_task(server.request("gone", "ship"))
            await hand.command()
            await gone.command()
            gone.break_off()
            await until(lambda: server.peers == (NAME,))
            await server.close()
            await lost(first)
            await lost(second)
            with pytest.raises(PeerNotConnected):
                await server.request(NAME, "ship")

    run(main())


# Coming back


def test_a_peer_that_comes_back_gets_what_it_did_not_answer() -> None:
    """With `resume_for` the requests wait; on the next connection the same commands come again, in order."""

    async def main() -> None:
        async with hub(resume_for=60.0) as server:
            async with by_hand(server) as hand:
                waiting = [await asked(server, n) for n in range(3)]
                commands = [await hand.command() for _ in waiting]
                await hand.answer(commands[1]["request_id"], "one")
                assert await waiting[1] == "one"
                session = hand.session
                hand.break_off()
                await until(lambda: server.peers == ())
            late = await asked(server, 3)
            async with by_hand(server, session=session) as again:
                assert again.session == session
                repeated = [await again.command() for _ in range(3)]
                assert repeated[:2] == [commands[0], commands[2]]
                assert repeated[2]["payload"] == 3
                for command in repeated:
                    await again.answer(command["request_id"], command["payload"])
                assert [await task for task in (waiting[0], waiting[2], late)] == [0, 2, 3]

    run(main())


def test_our_peer_executes_what_is_sent_again_once() -> None:
    """A command whose connection was lost while it ran is answered over the next one, and was executed once."""

    async def main() -> None:
        async with channel(resume_for=60.0) as (server, work):
            task = await asked(server, "label")
            await work.started.wait()
            await broken(server)
            await server.wait_for(NAME)
            work.go.set()
            assert await task == {"slow": "label"}
            assert work.begun == ["label"]

    run(main())


def test_an_answer_that_was_lost_is_sent_again() -> None:
    """A command that ended while there was no connection is answered from memory, and was executed once."""

    async def main() -> None:
        gate = asyncio.Event()

        async def check(*_: str) -> bool:
            await gate.wait()
            return True

        gate.set()
        work = Work()
        async with ChannelServer(check, resume_for=60.0) as server, worker(server.url, work) as peer:
            await server.wait_for(NAME)
            task = await asked(server, "label")
            await work.started.wait()
            gate.clear()
            await broken(server)
            await until(lambda: not peer.connected)
            work.go.set()
            await asyncio.sleep(0.01)
            assert not task.done()
            gate.set()
            assert await task == {"slow": "label"}
            assert work.begun == ["label"]

    run(main())


async def broken(server: ChannelServer) -> None:
    """Lose the connection of our peer, on the server's side, without a word."""
    sessions: Any = vars(server)["_sessions"]
    sessions[NAME].socket.transport.abort()
    await asyncio.sleep(0)


def test_who_does_not_come_back_in_time_fails_its_waiters(virtual_clock: VirtualClock) -> None:
    """After `resume_for` seconds requests fail: those that were sent may have run, those that were not have not."""

    async def main() -> list[tuple[bool, float]]:
        found: list[tuple[bool, float]] = []
        async with hub(resume_for=30.0) as server, by_hand(server) as hand:
            sent = await asked(server, timeout=600.0)
            await hand.command()
            hand.break_off()
            await until(lambda: server.peers == ())
            began = virtual_clock.monotonic()
            unsent = await asked(server, timeout=600.0)
            for task in (sent, unsent):
                error = await lost(task)
                found.append((error.may_have_run, virtual_clock.monotonic() - began))
            with pytest.raises(PeerNotConnected):
                await server.request(NAME, "slow")
        return found

    found = virtual_clock.run(main())
    assert [may_have_run for may_have_run, _ in found] == [True, False]
    assert [seconds for _, seconds in found] == pytest.approx([30.0, 30.0])


def test_a_request_that_waits_for_a_peer_keeps_its_own_timeout(virtual_clock: VirtualClock) -> None:
    """A request to a lost peer ends with ReplyTimeout when that comes first, and has not run."""

    async def main() -> ReplyTimeout:
        async with hub(resume_for=30.0) as server, by_hand(server) as hand:
            hand.break_off()
            await until(lambda: server.peers == ())
            with pytest.raises(ReplyTimeout) as caught:
                await server.request(NAME, "ship", timeout=3.0)
            return caught.value

    error = virtual_clock.run(main())
    assert (error.seconds, error.may_have_run) == (3.0, False)


def test_a_peer_that_came_back_is_not_given_up_later(virtual_clock: VirtualClock) -> None:
    """The limit of one disconnect does not end a session that was resumed before it."""

    async def main() -> Any:
        async with hub(resume_for=30.0) as server:
            async with by_hand(server) as hand:
                task = await asked(server, timeout=600.0)
                await hand.command()
                session = hand.session
                hand.break_off()
                await until(lambda: server.peers == ())
            async with by_hand(server, session=session) as again:
                command = await again.command()
                await asyncio.sleep(100)
                await again.answer(command["request_id"], "late but there")
                return await task

    assert virtual_clock.run(main()) == "late but there"


@pytest.mark.parametrize("session", ["", "guessed", "x" * 43])
def test_who_has_no_session_is_another_one(session: str) -> None:
    """A process that was restarted does not know what it has executed: what waited for the one before fails."""

    async def main() -> PeerDisconnected:
        async with hub(resume_for=60.0) as server:
            async with by_hand(server) as hand:
                task = await asked(server)
                await hand.command()
                hand.break_off()
                await until(lambda: server.peers == ())
            async with by_hand(server, session=session) as other:
                error = await lost(task)
                assert other.session not in {hand.session, session}
                new = await asked(server, "new")
                assert (await other.command())["payload"] == "new"
                new.cancel()
            return error

    assert run(main()).may_have_run


def test_a_session_is_one_peers_own() -> None:
    """The session of one peer does not give another one its commands."""

    async def main() -> None:
        async with (
            hub(resume_for=60.0) as server,
            by_hand(server) as hand,
            by_hand(server, "thief", session=hand.session) as thief,
        ):
            task = await asked(server, "secret")
            assert (await hand.command())["payload"] == "secret"
            await nothing_more(thief)
            task.cancel()

    run(main())


@pytest.mark.parametrize("code", [1000, 1001])
def test_who_says_goodbye_is_not_waited_for(code: int) -> None:
    """A peer that closes its connection properly does not come back: its waiters fail at once, whatever the limit."""

    async def main() -> None:
        async with hub(resume_for=60.0) as server, by_hand(server) as hand:
            task = await asked(server)
            await hand.command()
            await hand.socket.close(code)
            await lost(task)

    run(main())


def test_the_last_connection_of_a_name_counts() -> None:
    """A second connection with the session takes the first one's place and commands, which may be half dead."""

    async def main() -> None:
        async with hub(resume_for=60.0) as server, by_hand(server) as old:
            task = await asked(server, "label")
            command = await old.command()
            async with by_hand(server, session=old.session) as new:
                assert await new.command() == command
                await old.socket.wait_closed()
                assert old.socket.close_code == 4001
                await new.answer(command["request_id"], "done")
                assert await task == "done"
                assert server.peers == (NAME,)

    run(main())


def test_a_peer_whose_name_is_taken_ends() -> None:
    """Two processes with one name do not push each other out for ever: the first one ends with PeerRefused."""

    async def main() -> PeerRefused:
        async with hub() as server:
            first = asyncio.create_task(worker(server.url, Work()).run())
            await server.wait_for(NAME)
            async with worker(server.url, Work()) as second:
                with pytest.raises(PeerRefused) as caught:
                    await first
                assert second.connected
            return caught.value

    assert run(main()).reason == "another connection with its name took its place"


def test_who_waits_for_a_connection_learns_that_there_will_be_none() -> None:
    """`wait_connected()` and the end of the block raise PeerRefused, not for ever wait or pass it over."""

    async def main() -> None:
        async with hub() as server:
            peer = worker(server.url, Work(), token="bad")
            await peer.__aenter__()
            with pytest.raises(PeerRefused):
                await peer.wait_connected()
            with pytest.raises(PeerRefused):
                await peer.__aexit__(None, None, None)

    run(main())


def test_closing_the_server_ends_who_waits_for_a_peer() -> None:
    """`wait_for` raises when the server is closed, instead of waiting for what cannot happen; before and after."""

    async def main() -> None:
        async with hub() as server:
            waiting = [asyncio.create_task(server.wait_for(name)) for name in ("a", "a", "b")]
            await asyncio.sleep(0)
        for task in (*waiting, asyncio.create_task(server.wait_for("c"))):
            with pytest.raises(RuntimeError, match="is closed"):
                await task

    run(main())


# Connecting again


async def retries(number: int) -> None:
    """Wait until so many more connections were lost, or not made."""
    seen: asyncio.Queue[RetryScheduled] = asyncio.Queue()
    with subscribe(seen.put_nowait, RetryScheduled):
        for _ in range(number):
            await seen.get()


def test_a_peer_connects_again_after_longer_and_longer_waits(virtual_clock: VirtualClock) -> None:
    """While nobody listens the waits follow the backoff, on our clock; each is an event with its error."""

    async def main(url: str) -> None:
        backoff = Backoff(base=0.5, cap=4.0, jitter="none")
        async with ChannelPeer(url, name=NAME, token=TOKEN, backoff=backoff):
            await retries(6)

    with EventRecorder() as recorder:
        virtual_clock.run(main("ws://127.0.0.1:9"))
    assert virtual_clock.sleeps[:6] == (0.5, 1.0, 2.0, 4.0, 4.0, 4.0)
    events = recorder.of(RetryScheduled)[:6]
    assert [(event.name, event.attempt, event.delay) for event in events] == [
        (NAME, attempt, delay) for attempt, delay in enumerate(virtual_clock.sleeps[:6], 1)
    ]
    assert all(isinstance(event.error, OSError) for event in events)


def test_connections_that_end_at_once_are_failures_too(virtual_clock: VirtualClock) -> None:
    """A server that takes connections and drops them is asked less and less often; one that held begins afresh."""

    async def drop(socket: ServerConnection) -> None:
        if len(virtual_clock.sleeps) == 3:
            await asyncio.sleep(2.0)
        socket.transport.abort()

    async def main() -> None:
        async with foreign_server(drop, ping_interval=None) as url:
            backoff = Backoff(base=0.5, jitter="none")
            peer = ChannelPeer(url, name=NAME, token=TOKEN, backoff=backoff, ping_interval=None)
            async with peer:
                await retries(5)

    virtual_clock.run(main())
    assert virtual_clock.sleeps[:5] == (0.5, 1.0, 2.0, 0.5, 1.0)


@pytest.mark.parametrize("status", [404, 500, 503])
def test_a_server_that_cannot_now_is_asked_again(status: int) -> None:
    """Only 400, 401 and 403 are final; whatever a proxy says meanwhile passes."""

    async def main() -> int:
        answers: list[int] = []

        def refuse(socket: ServerConnection, _: Any) -> Any:
            answers.append(status)
            return socket.respond(status, "no") if len(answers) < 3 else None

        async def hold(socket: ServerConnection) -> None:
            await socket.wait_closed()

        async with foreign_server(hold, process_request=refuse) as url, worker(url, Work()) as peer:
            await peer.wait_connected()
        return len(answers)

    assert run(main()) == 3


def test_a_server_that_is_restarted_is_found_again() -> None:
    """Peers of a server that was closed connect to the next one on its port, and work for it."""

    async def main() -> Any:
        first = hub()
        await first.start()
        port = first.port
        async with worker(first.url, Work()):
            await first.wait_for(NAME)
            await first.close()
            async with hub(port=port) as second:
                await second.wait_for(NAME)
                return await second.request(NAME, "ship", 1)

    assert run(main()) == {"shipped": 1}


def test_coming_and_going_are_events() -> None:
    """PeerJoined says whether a session was resumed, PeerLeft how many commands wait."""

    async def main() -> None:
        async with hub(name="labels", resume_for=60.0) as server:
            async with by_hand(server) as hand:
                task = await asked(server)
                await hand.command()
                session = hand.session
                hand.break_off()
                await until(lambda: server.peers == ())
            async with by_hand(server, session=session):
                pass
            await lost(task)

    with EventRecorder() as recorder:
        run(main())
    assert [(event.name, event.peer, event.resumed) for event in recorder.of(PeerJoined)] == [
        ("labels", NAME, False),
        ("labels", NAME, True),
    ]
    assert [(event.peer, event.waiting) for event in recorder.of(PeerLeft)] == [(NAME, 1), (NAME, 1)]


def test_nothing_of_a_lost_peer_is_kept() -> None:
    """When a peer is gone for good and its requests have ended, the server holds nothing that waits."""

    async def main() -> None:
        async with hub() as server:
            for _ in range(3):
                async with by_hand(server) as hand:
                    task = await asked(server)
                    await hand.command()
                    hand.break_off()
                    await lost(task)
            state: Any = vars(server)
            assert (state["_sessions"], state["_arrivals"], state["_tasks"]) == ({}, {}, set())
            assert state["_ledger"].of(NAME) == []

    run(main())


def test_a_cancelled_request_leaves_the_others_alone() -> None:
    """Of two requests with one key, which are one command, each may be cancelled; the other one gets the reply."""

    async def main() -> None:
        async with hub() as server, by_hand(server) as hand:
            first = await asked(server, idempotency_key="one")
            second = await asked(server, idempotency_key="one")
            command = await hand.command()
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await hand.answer(command["request_id"], "done")
            assert await second == "done"
            await nothing_more(hand)

    run(main())


async def nothing_more(hand: Hand) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hand.command(), 0.02)
