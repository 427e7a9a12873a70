"""The loop of a worker: claim, announce, call, record; one commit carries all that came together."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from holdfast.infrastructure.store import _boundaries
from holdfast.infrastructure.store.state import JOB_ENDS, Advanced, JobState, LeaseLostError, StepState
from holdfast.services.jobs import _outcomes
from holdfast.services.jobs._books import Books
from holdfast.services.jobs._calls import Caller, Running, named
from holdfast.services.jobs._errand import TURN, share
from holdfast.services.jobs._link import Link
from holdfast.services.jobs._outcomes import Spec
from holdfast.services.jobs._process import this_worker
from holdfast.services.jobs.errors import HandlerNotFoundError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from holdfast.infrastructure.store.state import (
        JobRecord,
        NewJob,
        Outcome,
        StateStore,
        StepRecord,
        WorkerRecord,
    )
    from holdfast.services.jobs._errand import Errand
    from holdfast.services.jobs.handlers import Handlers
    from holdfast.services.jobs.worker import WorkerConfig

_log = logging.getLogger("holdfast.jobs")
_NOTHING = Advanced()
# How long jobs whose handler cannot be found are left to others, and a full group may wait for its slowest call.
_SKIP, _FLUSH = 30.0, 1.0
_FAILURES = (StepState.FAILED, StepState.TIMED_OUT)


def _halts(job: NewJob) -> bool:
    return job.stop_after is not None or job.stop_share is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one visit to the store gave; `due_in`: seconds until something waits no more."""

    claimed: int
    advanced: Advanced
    due_in: float = inf
    halted: tuple[JobRecord, ...] = ()


class Engine:
    """What a worker does on one loop. Everything but `commit` runs there."""

    def __init__(
        self, store: StateStore, handlers: Handlers, config: WorkerConfig, errand: Errand | None = None
    ) -> None:
        self.store = store
        self.handlers = handlers
        self.config = config
        self.errand = errand
        # Whether it does nothing but the calls of one ticket: another worker of the process looks after the rest.
        self.is_hand = errand is not None and config.job is not None
        self.books = Books()
        self.id = ""
        self.loop = asyncio.get_running_loop()
        self.links: list[Link] = []
        self.link = self.new_link("store")
        self.caller = Caller(config.concurrency, config.grace, self._settled)
        self.announced: deque[Running] = deque()
        self.outcomes: list[Outcome] = []
        # Jobs that ended by what this worker recorded, and jobs of which steps need review, for others to look at.
        self.ended: dict[str, JobState] = {}
        self.doubtful: set[str] = set()
        # Asks the handler about steps of a job; returns whether that was done. The watch knows how.
        self.ask_about: Callable[[str], Awaitable[bool]]
        self.stops = 0
        self.failure: Exception | None = None
        self.lost = False
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._dry = False
        self._flush_at = inf
        self._names = () if handlers.imports else tuple(handlers)

    def new_link(self, name: str) -> Link:
        """Return one more way to the store, which is as patient as all of them."""
        self.links.append(Link(name))
        return self.links[-1]

    def be_impatient(self) -> None:
        """Wait no longer for a store that does not answer."""
        for link in self.links:
            link.patient = False

    def wake(self) -> None:
        """Look again: there may be something new."""
        self._dry = False
        self._wake.set()

    def stop(self) -> None:
        """Claim no more and let calls end; told again, cancel them."""
        self.stops += 1
        if self.stops == 1:
            self._unannounce()
            self.loop.call_later(self.config.drain, self._cut)
        else:
            self._cut()
        self.wake()

    def _cut(self) -> None:
        self.stops = max(self.stops, 2)
        for running in list(self.caller.active):
            self.caller.cancel(running, "the worker was stopped")
        self.loop.call_later(self.config.grace, self._give_up)
        self.wake()

    def _give_up(self) -> None:
        self.give_up(everything=True)
        self.be_impatient()

    def give_up(self, *, everything: bool = False) -> None:
        """Wait no longer for calls that had their grace, and say which those are."""
        late = self.caller.give_up(everything=everything)
        if late:
            _log.warning(
                "worker %s gave up on calls that did not end in the grace of %g s, though they may have been made: %s",
                self.id,
                self.config.grace,
                named([running.call for running in late]),
            )

    def steer(self, record: JobRecord) -> None:
        """Follow what became of a job: hand back what was announced, cancel what runs."""
        if record.state is JobState.RUNNING and not record.halted:
            return
        self._unannounce(record.id)
        if record.state in {JobState.CANCELLED, JobState.TIMED_OUT}:
            for running in list(self.caller.active):
                if running.step.job == record.id:
                    self.caller.cancel(running, f"the job was {record.state}")

    def _unannounce(self, job: str | None = None) -> None:
        """Hand back what was announced in a group and did not begin."""
        kept: deque[Running] = deque()
        for running in self.announced:
            if job is None or running.step.job == job:
                self.outcomes.append(_outcomes.handed_back(running.ref))
            else:
                kept.append(running)
        self.announced = kept

    async def begin(self) -> None:
        """Begin a lease."""
        self.id = (await self.link.ask(self._register)).id
        if self.is_hand:
            self.loop.call_later(TURN, self._end_turn)

    def _end_turn(self) -> None:
        """Take no more for a ticket, and hand back what has not begun."""
        if self.errand is not None:
            self.errand.over = True
            if self.errand.owes and not self.books.ready:
                self.errand.more(0.0)
        self.wake()

    async def run(self) -> None:
        """Work until told to stop, or until nothing is left of the one job."""
        while not await self._turn():
            await self._wake.wait()

    async def _turn(self) -> bool:
        """Do all that can be done now; return whether that was all there ever is."""
        while True:
            self._wake.clear()
            self.books.expire(self.loop.time())
            try:
                going_on = await self._once()
                if not going_on and await self._is_finished():
                    return True
            except LeaseLostError:
                await self.lose()
                going_on = True
            if not going_on and not self._wake.is_set():
                return False

    async def _once(self) -> bool:
        """Visit the store once if there is a reason; return whether there may be more to do at once."""
        if self.lost:
            raise LeaseLostError(self.id)
        turn_over = self.errand is not None and self.errand.over
        self.books.sort_out(everything=bool(self.stops) or turn_over)
        if self.books.returning:
            back, self.books.returning = self.books.returning, []
            await self.link.ask(self.store.release, self.id, back)
            if self.errand is not None:
                self.errand.more(self._pause())
        outcomes, free, want = self._due(), self._free(), self._want()
        if not (outcomes or want or (free and self.books.waiting())):
            return False
        suspects = self._may_have_halted(outcomes)
        turn = await self.link.ask(self.commit, outcomes, free, want, suspects)
        self._apply(outcomes, turn)
        if want:
            # What was recorded may have made more of it claimable.
            self._dry = not turn.claimed and not outcomes
            self._wake_in(turn.due_in)
        self._wake_in(self.books.next_time() - self.loop.time())
        return bool(turn.claimed or outcomes or self.outcomes or self.books.returning)

    def _pause(self) -> float:
        """Return how long what it claims may not begin."""
        until = self.books.next_time()
        return 0.0 if until == inf else max(0.0, until - self.loop.time())

    def commit(self, outcomes: Sequence[Outcome], free: int, want: int, suspects: Collection[str]) -> Turn:
        """In the store's thread: claim, then record and announce in one commit."""
        claimed: list[StepRecord] = []
        if want:
            _boundaries.reach("engine.before_claim")
            job, skip = self.config.job, self.books.to_skip()
            if job is not None and self.is_hand:
                want = min(want, share(self.store.job(job).counts.pending))
            claimed = self.store.claim(self.id, want, job=job, handlers=self._names, skip=skip)
            _boundaries.reach("engine.after_claim")
            if self.errand is not None:
                # Before the next commit: whoever has nothing to do need not wait for that.
                self.errand.claimed(len(claimed), want)
            self._learn({step.job for step in claimed})
            self.books.take(claimed)
        begin = self.books.choose(free)
        advanced = _NOTHING
        if outcomes or begin:
            _boundaries.reach("engine.before_commit")
            advanced = self.store.advance(self.id, outcomes, begin)
            _boundaries.reach("engine.after_commit")
        due = self.store.next_due() if want and not claimed else None
        halted = tuple(map(self.store.job, suspects))
        due_in = inf if due is None else max(0.0, due - self.store.now())
        return Turn(claimed=len(claimed), advanced=advanced, due_in=due_in, halted=halted)

    def _may_have_halted(self, outcomes: Sequence[Outcome]) -> set[str]:
        """Return the jobs of which steps are announced that must not begin if a failure has halted the job."""
        if not self.announced:
            return set()
        failed = {one.ref.job for one in outcomes if one.state in _FAILURES}
        news = {running.step.job: running.spec.new for running in self.announced}
        return {job for job in failed & news.keys() if _halts(news[job])}

    def _learn(self, jobs: set[str]) -> None:
        """In the store's thread: find the handlers of jobs that are new here."""
        for job in jobs - self.books.specs.keys():
            new = self.store.job(job).new
            try:
                found = self.handlers.find(new.handler, str(new.settings.get("reference", "")))
            except HandlerNotFoundError as error:
                self.books.skipped[job] = self.loop.time() + _SKIP
                if self.config.job is None:
                    _log.warning("job %s is left to other workers: %s", job, error)
                else:
                    self.failure = error
            else:
                self.books.specs[job] = Spec(new, found)

    def _apply(self, outcomes: Sequence[Outcome], turn: Turn) -> None:
        done = turn.advanced
        del self.outcomes[: len(outcomes)]
        for ref in done.late:
            _log.info("a result of job %s, step %d came too late", ref.job, ref.position)
        if outcomes:
            self._dry = False
            self.books.ended({outcome.ref.job for outcome in outcomes})
            self._flush_at = inf
        now = self.loop.time()
        self.books.refuse(done.refused, now + self.config.poll, now + done.retry_in)
        for ref in done.begun:
            step = self.books.ready.pop(ref)
            self.announced.append(Running(step, self.books.specs[step.job], ref))
        for job, state in done.ended.items():
            self.ended[job] = state
            self.books.specs.pop(job, None)
        for record in turn.halted:
            self.steer(record)
        if self.stops:
            self._unannounce()
        self._fill()

    def _fill(self) -> None:
        while self.announced and len(self.caller.active) < self.config.concurrency:
            self.caller.start(self.announced.popleft())

    def _due(self) -> list[Outcome]:
        """Return the outcomes to record now: all of them, or none while a group is under way."""
        grouped = self.config.record == "group" and not self.stops
        if grouped and (self.announced or self.caller.active) and self.loop.time() < self._flush_at:
            return []
        return list(self.outcomes)

    def _free(self) -> int:
        """Return how many steps may be announced."""
        if self.stops:
            return 0
        if self.config.record == "group":
            return 0 if self.announced or self.caller.active else self.config.ahead
        return self.config.concurrency - len(self.caller.active) - len(self.announced)

    def _want(self) -> int:
        """Return how many steps to claim."""
        waiting, free = self.books.waiting(), self._free()
        if self.stops or self._dry or self.failure or waiting >= max(free, 1):
            return 0
        if self.errand is not None:
            return 0 if self.errand.over else min(self.config.ahead - waiting, self.errand.left)
        return self.config.ahead - waiting

    def _settled(self, running: Running, outcome: Outcome) -> None:
        """Hear how a call ended."""
        self.outcomes.append(outcome)
        if outcome.refund and outcome.retry_in:
            self.books.pause(running.spec.new.handler, self.loop.time() + outcome.retry_in)
        if outcome.state is StepState.NEEDS_REVIEW:
            self.doubtful.add(running.step.job)
        if outcome.state is not StepState.SUCCEEDED:
            self._flush_at = -inf
        elif self._flush_at == inf and self.config.record == "group":
            self._flush_at = self.loop.time() + _FLUSH
            self._wake_in(_FLUSH)
        if self.announced and not self.stops and self._flush_at != -inf:
            self._fill()
        else:
            self._wake.set()

    def _wake_in(self, seconds: float) -> None:
        if seconds == inf:
            return
        now = self.loop.time()
        timer, when = self._timer, now + max(seconds, 0.0)
        if timer is None or not now < timer.when() <= when:
            if timer is not None:
                timer.cancel()
            self._timer = self.loop.call_at(when, self.wake)

    async def _is_finished(self) -> bool:
        if self.caller.active or self.announced or self.outcomes or self.books.returning:
            return False
        if self.stops or self.failure is not None:
            return True
        if self.is_hand:
            return not self.books.ready and not self._want()
        if self.config.job is None or self.books.ready or self.books.paused:
            return False
        return await self._is_left_to_people(self.config.job)

    async def _is_left_to_people(self, name: str) -> bool:
        """Return whether nothing of a job is left to do, once its handler was asked about what needs review."""
        if not await self.link.ask(self._is_over, name):
            return False
        if not (await self.link.ask(self.store.job, name)).counts.needs_review:
            return True
        return await self.ask_about(name) and await self.link.ask(self._is_over, name)

    def _is_over(self, name: str) -> bool:
        """In the store's thread: return whether nothing of a job is left to do without somebody's doing."""
        job = self.store.job(name)
        if job.state in JOB_ENDS or job.state in {JobState.PAUSED, JobState.PREVIEWED}:
            return True
        if job.state is JobState.PENDING:
            return not job.ready
        counts = job.counts
        if not counts.needs_review or counts.running:
            return False
        return not counts.pending or (self._dry and not self._waits_for_time(job.id))

    def _waits_for_time(self, job: str) -> bool:
        """In the store's thread: return whether a pending step waits for more than others, or a person."""
        now = self.store.now()
        return any(step.due_at > now for step in self.store.steps(job, states=[StepState.PENDING]))

    def _register(self) -> WorkerRecord:
        return self.store.register(this_worker(self.config.name), self.config.lease)

    async def lose(self) -> None:
        """Begin anew after the lease was lost: what ran belongs to others now, and its outcome comes too late."""
        _log.warning("worker %s lost its lease; its calls are cancelled, it begins anew", self.id)
        self.caller.forget()
        self.announced.clear()
        self.books.ready.clear()
        self.books.returning.clear()
        recovered = await self.link.ask(self.store.recover, [self.id])
        # Nobody else hears of them: what has been taken back is not taken back again.
        self.doubtful |= {ref.job for ref in recovered.ambiguous}
        await self.begin()
        self.lost = False
        self.wake()

    async def end(self) -> None:
        """Hand back what is held, and end the lease."""
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self.link.once(self.store.retire, self.id)
        finally:
            self.close()

    def close(self) -> None:
        """Let every thread go."""
        self.caller.close()
        for link in self.links:
            link.close()
