"""Channels: their settings, their extra, and what their books keep."""

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.transport._channel_frames import Command, Reply, digest
from holdfast.infrastructure.transport._channel_ledger import Ledger, Pending
from holdfast.infrastructure.transport._channel_memory import Memory
from holdfast.infrastructure.transport.channel import (
    ChannelPeer,
    ChannelPeerConfig,
    ChannelServer,
    ChannelServerConfig,
)

URL = "ws://127.0.0.1:1"


def anyone(*_: str) -> bool:
    """Let every peer in."""
    return True


def faults(make: Any, **settings: Any) -> list[str]:
    """Return the paths of what is wrong with settings."""
    with pytest.raises(ConfigurationError) as caught:
        make(**settings)
    return [fault.path for fault in caught.value.faults]


def test_every_fault_of_a_server_is_told_at_once() -> None:
    """One error names every setting that is wrong."""
    wrong: dict[str, Any] = {
        "name": "two words",
        "host": "",
        "port": 70_000,
        "timeout": 0,
        "resume_for": -1,
        "max_size": 100,
        "remember": 0,
        "ping_interval": 0,
        "clock": 7,
    }
    assert faults(ChannelServerConfig, **wrong) == list(wrong)
    assert faults(ChannelServer, authenticate=7, secret=b"short") == ["authenticate", "secret"]


def test_every_fault_of_a_peer_is_told_at_once() -> None:
    """One error names every setting that is wrong."""
    wrong: dict[str, Any] = {
        "url": "http://a.test",
        "name": "",
        "backoff": 1.0,
        "concurrency": 0,
        "queue": -1,
        "remember": 0,
        "remember_bytes": -1,
        "max_size": 0,
        "ping_interval": -1,
        "clock": 7,
    }
    assert faults(ChannelPeerConfig, **wrong) == list(wrong)


@pytest.mark.parametrize("url", [7, "", "hub:8765", "ws://", "ws://user:pw@hub", "ws://[", "ws://hub/#part"])
def test_what_is_no_address_of_a_channel_is_refused(url: Any) -> None:
    """An address is ws or wss with a host; passwords have their own place, the token."""
    assert faults(ChannelPeer, url=url, name="a", token="t") == ["url"]


@pytest.mark.parametrize("token", ["", "two words", "line\n", "é", None, 7])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token: Any) -> None:
    """A token is printable ASCII without blanks; the error does not repeat it."""
    with pytest.raises(ConfigurationError, match="token = … is no token"):
        ChannelPeer(URL, name="a", token=token)


def test_secrets_are_no_settings() -> None:
    """Neither token nor secret is part of the configuration, which is shown and compared."""
    peer = ChannelPeer(URL, name="a", token="sesame", backoff=Backoff.fixed(1.0))
    server = ChannelServer(anyone, secret=b"sesame sesame sesame")
    assert "sesame" not in repr(peer.config) + repr(server.config)
    assert peer.config == ChannelPeerConfig(url=URL, name="a", backoff=Backoff.fixed(1.0))
    assert server.config == ChannelServerConfig()


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package websockets neither end starts; the error says what to install."""

    async def start() -> None:
        with pytest.raises(ImportError, match=r"install holdfast\[channel\]"):
            await ChannelServer(anyone).start()
        with pytest.raises(ImportError, match=r"install holdfast\[channel\]"):
            await ChannelPeer(URL, name="a", token="t").run()

    monkeypatch.setitem(sys.modules, "websockets", None)
    asyncio.run(start())


def test_the_module_does_not_load_websockets() -> None:
    """Only who starts an end of a channel pays for the package."""
    module = "holdfast.infrastructure.transport.channel"
    program = f"import sys; sys.path[:] = {sys.path!r}; import {module}; print('websockets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


# The books of a server


def pending(request_id: str, *, peer: str = "a", sent: bool = True) -> Pending:
    made = Pending(peer, "ship", request_id, "{}", asyncio.new_event_loop().create_future())
    made.reply.get_loop().close()
    made.sent = sent
    return made


def reply(request_id: str) -> Reply:
    return Reply(request_id, success=True, data=None, kind="", message="")


def opened(ledger: Ledger, request_id: str, *, sent: bool = True) -> Pending:
    made = pending(request_id)
    ledger.open(made)
    made.sent = sent
    return made


def test_the_end_of_an_old_request_does_not_end_a_new_one() -> None:
    """A command that is asked again before the first asker has gone on stays open when that one goes."""
    ledger = Ledger(10)
    first = opened(ledger, "x")
    ledger.settle("a", reply("x"))
    second = opened(ledger, "x")
    ledger.close(first, answered=False)
    assert ledger.waiting("x") is second
    assert second.began


def test_a_command_that_was_never_sent_leaves_no_trace() -> None:
    """What timed out before it was sent cannot have run, nor can its reply be late."""
    ledger = Ledger(10)
    ledger.close(opened(ledger, "x", sent=False), answered=False)
    assert not ledger.began("x")
    assert ledger.settle("a", reply("x")) == "unknown"


def test_the_books_keep_the_latest() -> None:
    """Of the commands that ended, `remember` are known; one that ended again counts as new."""
    ledger = Ledger(2)
    for request_id in "abac":
        ledger.close(opened(ledger, request_id), answered=True)
    assert [ledger.began(request_id) for request_id in "abc"] == [True, False, True]


# The memory of a peer


def executed(memory: Memory, request_id: str, text: str = "") -> None:
    memory.begin(Command(request_id, "ship", None, digest("ship", None)))
    memory.end(request_id, text)


def test_what_runs_is_never_forgotten() -> None:
    """However many commands end meanwhile, one that runs is known, so that it is not begun again."""
    memory = Memory(2, 1000)
    memory.begin(Command("long", "ship", None, digest("ship", None)))
    for number in range(10):
        executed(memory, f"{number}")
    done = memory.find("long")
    assert done is not None
    assert done.running
    assert len(memory) == 3
    memory.end("long", "done")
    assert [memory.find(f"{number}") is not None for number in range(10)] == [False] * 9 + [True]


def test_replies_have_so_many_bytes_in_all() -> None:
    """The oldest replies go first; that their commands ran is still known."""
    memory = Memory(10, 10)
    for request_id in "abc":
        executed(memory, request_id, "12345")
    found = [memory.find(request_id) for request_id in "abc"]
    assert [(one.reply, one.forgotten) for one in found if one is not None] == [
        (None, True),
        ("12345", False),
        ("12345", False),
    ]
    executed(memory, "d", "x" * 11)
    last = memory.find("d")
    assert last is not None
    assert (last.forgotten, last.running) == (True, False)
    executed(memory, "e", "x" * 10)
    kept = memory.find("e")
    assert kept is not None
    assert kept.reply == "x" * 10


def test_a_forgotten_command_takes_no_room() -> None:
    """The bytes of commands beyond the most are free for the replies of later ones."""
    memory = Memory(2, 15)
    for number in range(10):
        executed(memory, f"{number}", "12345")
    found = [memory.find(request_id) for request_id in "89"]
    assert [one.reply for one in found if one is not None] == ["12345", "12345"]
    executed(memory, "last", "x" * 15)
    assert [memory.find(request_id) is None for request_id in ("8", "9", "last")] == [True, False, False]
