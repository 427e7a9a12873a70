"""A simulated dependency: workers, queues, and what is wrong with them."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from holdfast.lab import _chance
from holdfast.lab._chance import Chance
from holdfast.lab._course import speeds
from holdfast.lab.scenarios import Server, Trouble

# Seconds until a refusal is there: the way to the server and back.
ROUND_TRIP = 0.005


class Refused(ConnectionError):
    """The simulated server refused an attempt at once."""


@dataclass(slots=True, eq=False)
class Call:
    """One call of a user of the service; `number` is its own in every run of the scenario; times from the start."""

    number: int
    client: int
    shard: int
    at: float
    end: float = inf
    outcome: str = "unfinished"
    attempts: list[int] = field(default_factory=list[int])


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt of a call at one tier; `answer` is called once, with an error or None, unless it is abandoned."""

    call: Call
    index: int
    answer: Callable[[BaseException | None], object]
    answered: bool = False
    abandoned: bool = False

    def finish(self, error: BaseException | None = None) -> None:
        """Give the server's answer, if somebody still waits for it."""
        if not (self.answered or self.abandoned):
            self.answered = True
            self.answer(error)

    def give_up(self, error: BaseException) -> None:
        """Give the transport's answer that the server's took too long."""
        if not (self.answered or self.abandoned):
            self.abandoned = True
            self.answer(error)

    def leave(self) -> None:
        """Note that nobody waits any more."""
        self.abandoned = self.abandoned or not self.answered


@dataclass(slots=True, eq=False)
class _Shard:
    free: int
    queue: deque[Attempt] = field(default_factory=deque[Attempt])


class Model:
    """One tier; `forward`, if there is a tier below, makes the call to it and then calls what it is given."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        chance: Chance,
        spec: Server,
        troubles: tuple[Trouble, ...] = (),
        *,
        tier: int = 0,
        forward: Callable[[Attempt, Callable[[BaseException | None], None]], object] | None = None,
    ) -> None:
        self._loop = loop
        self._zero = loop.time()
        self._chance = chance
        self._spec = spec
        self._tier = tier
        self._forward = forward
        self._shards = [_Shard(spec.workers // spec.shards) for _ in range(spec.shards)]
        self._speeds = speeds(troubles)
        self._edges = [edge for edge, _ in self._speeds]
        self._faults = {
            kind: tuple(one for one in troubles if one.kind == kind) for kind in ("errors", "hang", "tail")
        }
        self.worked = 0.0
        self.wasted = 0.0
        self.served = 0

    def submit(self, attempt: Attempt) -> None:
        """Take an attempt in, or refuse it; it is answered later, never now."""
        now = self._loop.time() - self._zero
        if self._strikes("errors", _chance.FAULT, attempt, now):
            self._refuse(attempt)
        elif self._strikes("hang", _chance.HANG, attempt, now):
            pass
        else:
            self._take_in(attempt, now)

    def _take_in(self, attempt: Attempt, now: float) -> None:
        shard = self._shards[attempt.call.shard]
        if shard.free:
            shard.free -= 1
            self._begin(shard, attempt, now)
        elif len(shard.queue) < self._spec.queue:
            shard.queue.append(attempt)
        else:
            self._refuse(attempt)

    def _refuse(self, attempt: Attempt) -> None:
        self._loop.call_later(ROUND_TRIP, attempt.finish, Refused("the server refused the attempt"))

    def _strikes(self, kind: str, stream: int, attempt: Attempt, now: float) -> bool:
        for one in self._faults[kind]:
            if one.active(now) and one.shard in {-1, attempt.call.shard}:
                return one.rate >= 1 or self._draw(stream, attempt) < one.rate
        return False

    def _draw(self, stream: int, attempt: Attempt) -> float:
        return self._chance.uniform(stream, attempt.call.number, 16 * attempt.index + self._tier)

    def _work(self, attempt: Attempt, now: float) -> float:
        spec, key = self._spec, 16 * attempt.index + self._tier
        if spec.service == "fixed":
            work = spec.mean
        elif spec.service == "exponential":
            work = spec.mean * self._chance.exponential(_chance.SERVICE, attempt.call.number, key)
        else:
            work = spec.mean * self._chance.lognormal(_chance.SERVICE, attempt.call.number, key)
        for one in self._faults["tail"]:
            if one.active(now) and self._draw(_chance.TAIL, attempt) < one.rate:
                work *= one.factor
        return work

    def _begin(self, shard: _Shard, attempt: Attempt, now: float) -> None:
        work = self._work(attempt, now)
        end = self._finish_time(now, work)
        if end < inf:
            self._loop.call_at(self._zero + end, self._worked_on, shard, attempt, work)

    def _finish_time(self, now: float, work: float) -> float:
        """Return when `work` seconds of work are done that begin now, at the speeds to come."""
        at = bisect_right(self._edges, now) - 1
        while True:
            speed = self._speeds[at][1]
            until = self._edges[at + 1] if at + 1 < len(self._edges) else inf
            if speed and now + work / speed <= until:
                return now + work / speed
            if until == inf:
                return inf
            work -= (until - now) * speed
            now, at = until, at + 1

    def _worked_on(self, shard: _Shard, attempt: Attempt, work: float) -> None:
        self.worked += work
        self.served += 1
        if attempt.abandoned:
            self.wasted += work
        if self._forward is None or attempt.abandoned:
            self._done(shard, attempt, None)
        else:
            self._forward(attempt, lambda error: self._done(shard, attempt, error))

    def _done(self, shard: _Shard, attempt: Attempt, error: BaseException | None) -> None:
        attempt.finish(error)
        following = self._next(shard)
        if following is None:
            shard.free += 1
        else:
            self._begin(shard, following, self._loop.time() - self._zero)

    def _next(self, shard: _Shard) -> Attempt | None:
        take = shard.queue.popleft if self._spec.order == "fifo" else shard.queue.pop
        while shard.queue:
            attempt = take()
            if not (self._spec.shed and attempt.abandoned):
                return attempt
        return None
