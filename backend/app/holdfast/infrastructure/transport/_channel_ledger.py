"""What a channel's server knows of its commands: who waits for which reply, and which have ended."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

from holdfast.infrastructure.transport._channel_frames import BAD_REPLY, Reply

if TYPE_CHECKING:
    from asyncio import Future

    from holdfast.infrastructure.transport._channel_frames import BadFrame

LATE = "late"
DUPLICATE = "duplicate"
FOREIGN = "foreign"
UNKNOWN = "unknown"
MALFORMED = "malformed"


class Pending:
    """A command whose reply is awaited; `sent`: whether the peer may have it; `began`: from an earlier time."""

    __slots__ = ("action", "began", "frame", "peer", "reply", "request_id", "sent", "waiters")

    def __init__(
        self, peer: str, action: str, request_id: str, frame: str, reply: Future[Reply | None]
    ) -> None:
        self.peer = peer
        self.action = action
        self.request_id = request_id
        self.frame = frame
        # None when the peer is lost.
        self.reply = reply
        self.began = self.sent = False
        self.waiters = 0

    def is_same(self, frame: str) -> bool:
        """Return whether a frame says the same, perhaps in another order."""
        return frame == self.frame or json.loads(frame) == json.loads(self.frame)

    def end(self, reply: Reply | None) -> None:
        """Let those who wait go on."""
        if not self.reply.done():
            self.reply.set_result(reply)


class Ledger:
    """The commands of one server: those that wait, and the latest `remember` of those that ended."""

    __slots__ = ("_ended", "_remember", "_waiting", "ignored")

    def __init__(self, remember: int) -> None:
        self._remember = remember
        self._waiting: dict[str, Pending] = {}
        # By id: the peer that was addressed, and whether it has answered.
        self._ended: OrderedDict[str, tuple[str, bool]] = OrderedDict()
        self.ignored: Counter[str] = Counter()

    def waiting(self, request_id: str) -> Pending | None:
        """Return the command with this id that waits, if one does."""
        return self._waiting.get(request_id)

    def of(self, peer: str) -> list[Pending]:
        """Return the commands that wait for a peer, in the order in which they were made."""
        return [one for one in self._waiting.values() if one.peer == peer]

    def began(self, request_id: str) -> bool:
        """Return whether a command with this id was sent before."""
        return request_id in self._ended

    def open(self, pending: Pending) -> None:
        """Let a command wait."""
        pending.sent = pending.began = self.began(pending.request_id)
        self._waiting[pending.request_id] = pending

    def close(self, pending: Pending, *, answered: bool) -> None:
        """End a command; what was never sent leaves no trace."""
        if self._waiting.get(pending.request_id) is not pending:
            return
        del self._waiting[pending.request_id]
        if not pending.sent:
            return
        self._ended[pending.request_id] = pending.peer, answered
        self._ended.move_to_end(pending.request_id)
        if len(self._ended) > self._remember:
            self._ended.popitem(last=False)

    def judge(self, peer: str, request_id: str) -> Pending | str:
        """Return the command that a reply of `peer` answers, or why it answers none."""
        pending = self._waiting.get(request_id)
        if pending is not None:
            return pending if pending.peer == peer else FOREIGN
        if request_id not in self._ended:
            return UNKNOWN
        addressed, answered = self._ended[request_id]
        if addressed != peer:
            return FOREIGN
        return DUPLICATE if answered else LATE

    def settle(self, peer: str, reply: Reply) -> str | None:
        """Give a reply to who waits for it; return why it changes nothing, if it does not."""
        pending = self.judge(peer, reply.request_id)
        if isinstance(pending, str):
            if pending is LATE:
                self._ended[reply.request_id] = peer, True
            return self._ignore(pending)
        self.close(pending, answered=True)
        pending.end(reply)
        return None

    def lose(self, peer: str) -> int:
        """End every command that waits for a peer without a reply; return how many."""
        lost = self.of(peer)
        for pending in lost:
            self.close(pending, answered=False)
            pending.end(None)
        return len(lost)

    def reject(self, peer: str, bad: BadFrame) -> str | None:
        """Let a frame that is no reply fail the command that it names, if that waits for this peer."""
        if bad.request_id is None or isinstance(self.judge(peer, bad.request_id), str):
            return self._ignore(MALFORMED)
        self.ignored[MALFORMED] += 1
        self.settle(peer, Reply(bad.request_id, False, None, BAD_REPLY, str(bad)))
        return MALFORMED

    def _ignore(self, reason: str) -> str:
        self.ignored[reason] += 1
        return reason
