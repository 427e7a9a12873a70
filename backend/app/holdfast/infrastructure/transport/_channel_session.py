"""What a channel's server keeps of one peer, over its connections."""

from __future__ import annotations

import asyncio
import secrets  # noqa: TID251  # ids and tokens must not be guessed, whatever the library's chance is
from base64 import urlsafe_b64encode
from collections import deque
from hashlib import sha256
from hmac import compare_digest, digest
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.transport._json import dump

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.infrastructure.transport._channel_ledger import Pending

PEER_HEADER = "Holdfast-Peer"
SESSION_HEADER = "Holdfast-Session"
SIZE_HEADER = "Holdfast-Max-Size"

# Close code of a connection whose place another one took; from the range that is free for applications.
REPLACED = 4001
# What a peer says that does not come back: normal closure, going away.
GOODBYE = frozenset({1000, 1001})

_BYTES = 32


def new_token() -> str:
    """Return 256 bits that nobody can guess, as text."""
    return secrets.token_urlsafe(_BYTES)


def new_secret() -> bytes:
    """Return a secret."""
    return secrets.token_bytes(_BYTES)


def request_id(secret: bytes, peer: str, action: str, key: str | None) -> str:
    """Return the id of a command: always the same for the same key, and not to be guessed without the secret."""
    if key is None:
        return new_token()
    named = dump("the command", [peer, action, key]).encode()
    return urlsafe_b64encode(digest(secret, named, sha256)).rstrip(b"=").decode()


def size_limit(headers: Any, own: int) -> int:
    """Return how many bytes a frame to the other side may have; it may say less than ours."""
    said = headers.get_all(SIZE_HEADER)
    fine = len(said) == 1 and said[0].isascii() and said[0].isdigit()
    return min(own, int(said[0])) if fine else own


def only(headers: Any, name: str) -> str:
    """Return the value of a header that is there once, otherwise nothing."""
    values: list[str] = headers.get_all(name)
    return values[0] if len(values) == 1 else ""


class Outbox:
    """The commands to be sent over one connection, in order."""

    __slots__ = ("_queue", "_wake")

    def __init__(self, waiting: Iterable[Pending]) -> None:
        self._queue = deque(waiting)
        self._wake = asyncio.Event()

    def put(self, pending: Pending) -> None:
        """Queue a command."""
        self._queue.append(pending)
        self._wake.set()

    async def take(self) -> Pending:
        """Wait for a command and take it."""
        while not self._queue:
            self._wake.clear()
            await self._wake.wait()
        return self._queue.popleft()


class Session:
    """One peer: its connection, if it has one now, with what is to be sent over it."""

    __slots__ = ("expiry", "limit", "name", "outbox", "socket", "token")

    def __init__(self, name: str, token: str) -> None:
        self.name = name
        self.token = token
        self.socket: Any = None
        self.outbox = Outbox(())
        # Bytes that a frame to the peer may have.
        self.limit = 0
        self.expiry: asyncio.Task[None] | None = None

    def knows(self, token: str) -> bool:
        """Return whether a token is this session's."""
        return compare_digest(token.encode(errors="replace"), self.token.encode())

    def attach(self, socket: Any, limit: int, waiting: Iterable[Pending]) -> None:
        """Take a connection, over which everything that waits is sent, again or for the first time."""
        self.socket = socket
        self.limit = limit
        self.outbox = Outbox(waiting)
        self.stop_expiry()

    def stop_expiry(self) -> None:
        """Stop waiting for the peer's return."""
        if self.expiry is not None:
            self.expiry.cancel()
            self.expiry = None
