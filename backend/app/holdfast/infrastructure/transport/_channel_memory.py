"""What a peer remembers of the commands it executed, so that none is executed twice."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.infrastructure.transport._channel_frames import Command


class Done:
    """A command that was begun: its reply when it has one; `forgotten`: there was one, of which nothing is left."""

    __slots__ = ("digest", "forgotten", "reply")

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.reply: str | None = None
        self.forgotten = False

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.reply is None and not self.forgotten


class Memory:
    """The latest `most` commands, with replies of `most_bytes` in all; what still runs is never forgotten."""

    __slots__ = ("_bytes", "_done", "_ended", "_most", "_most_bytes", "_replies")

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._done: dict[str, Done] = {}
        # Ids in the order in which they ended, and of those the ones whose reply is still there.
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._replies: OrderedDict[str, None] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        """Count the commands."""
        return len(self._done)

    def find(self, request_id: str) -> Done | None:
        """Return what is known of a command."""
        return self._done.get(request_id)

    def begin(self, command: Command) -> None:
        """Remember that a command was begun."""
        self._done[command.request_id] = Done(command.digest)

    def end(self, request_id: str, reply: str) -> None:
        """Remember the reply of a command, at the expense of the oldest."""
        self._done[request_id].reply = reply
        self._bytes += len(reply)
        self._ended[request_id] = self._replies[request_id] = None
        while self._bytes > self._most_bytes:
            self._drop_reply(next(iter(self._replies)))
        while len(self._ended) > self._most:
            oldest, _ = self._ended.popitem(last=False)
            self._drop_reply(oldest)
            del self._done[oldest]

    def _drop_reply(self, request_id: str) -> None:
        done = self._done[request_id]
        if done.reply is not None:
            self._bytes -= len(done.reply)
            done.reply, done.forgotten = None, True
            del self._replies[request_id]
