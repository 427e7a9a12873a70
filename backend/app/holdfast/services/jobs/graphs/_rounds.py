"""One evaluation of a run, under its lock: results in, what may start out, and its end."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience.clock import current_clock
from holdfast.infrastructure.resilience.randomness import current_random
from holdfast.infrastructure.store import payload
from holdfast.infrastructure.store.graph import status_of
from holdfast.infrastructure.store.state import (
    JOB_ENDS,
    JobState,
    LeaseLostError,
    NotFoundError,
    Outcome,
    Refusal,
    StepRef,
    StepState,
    WorkerRecord,
)
from holdfast.services.jobs._runs import worker_of
from holdfast.services.jobs.graphs import _comment, _keys, _results
from holdfast.services.jobs.graphs.ports import Comment, Work, first_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from holdfast.infrastructure.store.blob import BlobStore
    from holdfast.infrastructure.store.state import JobRecord, Lock, StateStore, StepRecord
    from holdfast.services.jobs.graphs.ports import RunNotifier, RunTimer, Target

_log = logging.getLogger("holdfast.jobs")
# Orders run without anybody who could renew a lease: it lasts longer than the watchdog lets a run go on. Should it end
# all the same, orders are dispatched again, and start once.
_LEASE = 3600.0
_LONGEST = 10 * 365 * 86_400.0
_TOLD = frozenset({JobState.CANCELLED, JobState.TIMED_OUT, JobState.EXPIRED})
# Seconds; a thread costs about a fifth of that.
_SLOW = 0.002
GROUP = 10
"""How many orders are reserved, dispatched and confirmed together."""
AHEAD = 100
"""How many orders of a run may be reserved for targets that have no room."""
PAGE = 1000


class _NotTakenError(Exception):
    """An order was refused, and will never start."""


class _Room:
    """What targets take in one evaluation."""

    def __init__(self, limits: Mapping[str, int], busy: Counter[str]) -> None:
        self._limits, self._busy, self._full = limits, busy, set[str]()
        # Whether a target lets one wait so long that several had better be asked at once.
        self.slow = False

    def take(self, target: str) -> bool:
        """Keep room for one order; False if there is none."""
        if target in self._full or self._busy[target] >= self._limits.get(target, sys.maxsize):
            return False
        self._busy[target] += 1
        return True

    def give(self, target: str, *, full: bool = False) -> None:
        """Give room back, perhaps because a target said that it has none."""
        self._busy[target] -= 1
        if full:
            self._full.add(target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """What evaluates runs; it keeps nothing between evaluations."""

    store: StateStore
    blobs: BlobStore
    targets: Mapping[str, Target]
    notifier: RunNotifier | None
    timer: RunTimer | None
    limits: Mapping[str, int]
    lease: float
    at_once: int

    def evaluate(self, run: str) -> bool:
        """Evaluate until there is nothing new; False if somebody else does, and was told. NotFoundError."""
        return self._under_lock(run, partial(self._until_clean, run))

    def enlist(self, job: JobRecord) -> None:
        """Have a run looked after until it is finished, though it may end before anybody evaluates it."""
        self._under_lock(job.id, partial(self._enlist, job))

    def _enlist(self, job: JobRecord, lock: Lock) -> None:
        self._worker(job, _LONGEST)
        if not self.store.unlock(lock):
            self._until_clean(job.id, lock)

    def _under_lock(self, run: str, act: Callable[[Lock], None]) -> bool:
        """Act, again if it took longer than the lock, which it gives back; False if somebody else evaluates the run."""
        while True:
            lock = self._lock(run)
            if lock is None:
                return False
            try:
                act(lock)
                return True
            except LeaseLostError:
                _log.warning("an evaluation of run %s took longer than its lock; it begins again", run)
                self._give_up(lock)
            except Exception:
                self._give_up(lock)
                raise

    def _lock(self, run: str) -> Lock | None:
        """Take the lock of a run, or tell its holder that there is something new."""
        name, owner = f"run/{run}", f"{current_random().getrandbits(64):016x}"
        lock = self.store.acquire(name, owner, self.lease)
        if lock is None:
            self.store.mark_dirty(name)
            # Its holder may have gone before it could see the mark.
            lock = self.store.acquire(name, owner, self.lease)
        return lock

    def _until_clean(self, run: str, lock: Lock) -> None:
        """Evaluate until the lock could be given back: what came meanwhile has marked it. LeaseLostError."""
        while True:
            self.store.clear_dirty(lock)
            self._round(run)
            if self.store.unlock(lock):
                return
            prolonged = self.store.acquire(lock.name, lock.owner, self.lease)
            if prolonged is None:
                raise LeaseLostError(lock.owner)
            lock = prolonged

    def _give_up(self, lock: Lock) -> None:
        try:
            self.store.clear_dirty(lock)
            self.store.unlock(lock)
        except LeaseLostError:
            pass
        except Exception:
            _log.warning("the lock %s could not be given back; it ends by itself", lock.name, exc_info=True)

    def _round(self, run: str) -> None:
        job = self.store.job(run)
        if job.state in JOB_ENDS and self.blobs.exists(_keys.done(run)):
            # Who stored the summary may have died with it.
            self.store.retire(worker_of(run))
            return
        worker = self._worker(job)
        left = self._take_results(worker, job)
        if self.store.job(run).state not in JOB_ENDS:
            self._start(worker, job, left)
        job = self.store.job(run)
        if job.state in JOB_ENDS:
            self._end(worker, job)

    def _worker(self, job: JobRecord, lease: float | None = None) -> str:
        """Return the name under which a run's orders are held, which has a lease as long as the run may go on."""
        worker = worker_of(job.id)
        if lease is None:
            lease = _LEASE + (_LONGEST if job.new.job_timeout is None else job.new.job_timeout)
        try:
            self.store.renew(worker, lease)
        except LeaseLostError:
            self.store.register(WorkerRecord(id=worker, host="", pid=0, born="", expires_at=0.0), lease)
        return worker

    def _take_results(self, worker: str, job: JobRecord) -> list[StepRecord]:
        """Record the results that are there, and what follows from them; return the orders that still run."""
        running, outcomes = list(self.running(job.id)), list[Outcome]()
        left: list[StepRecord] = []
        for step in running:
            said = self._result(job, step)
            if said is None:
                left.append(step)
            else:
                took = 0.0 if step.started_at is None else max(0.0, self.store.now() - step.started_at)
                outcomes.append(
                    Outcome(ref=_ref(step), state=said.state, result=said.data, error=said.error, took=took)
                )
        if outcomes:
            self.store.advance(worker, outcomes)
        return left

    def _result(self, job: JobRecord, step: StepRecord) -> _results.Said | None:
        try:
            return _results.read(self.blobs.get(_keys.result(job.id, step.position + 1)))
        except NotFoundError:
            return None

    def _start(self, worker: str, job: JobRecord, left: Sequence[StepRecord]) -> None:
        """Start what may start: first what a crash or a full target left reserved, then what is ready."""
        room = _Room(self.limits, Counter(step.target for step in left if step.begun))
        reserved = [step for step in left if not step.begun]
        waiting = 0
        for first in range(0, len(reserved), GROUP):
            waiting += self._dispatch(worker, job, reserved[first : first + GROUP], room)
        while waiting < AHEAD and (claimed := self.store.claim(worker, GROUP, job=job.id)):
            waiting += self._dispatch(worker, job, claimed, room)

    def _dispatch(self, worker: str, job: JobRecord, steps: Sequence[StepRecord], room: _Room) -> int:
        """Hand reserved orders to their targets, confirm them in one commit, and return how many had no room."""
        failed: list[Outcome] = []
        begin: dict[StepRef, Work] = {}
        waiting, left = 0, list(steps)
        while left:
            works: list[tuple[StepRecord, Work]] = []
            while left and len(works) < (self.at_once if room.slow else 1):
                step = left.pop(0)
                work = work_of(job.id, step)
                if room.take(work.target):
                    works.append((step, work))
                else:
                    waiting += 1
            for (step, work), taken in zip(
                works, self._hand_over_all([work for _, work in works], room), strict=True
            ):
                if isinstance(taken, _NotTakenError):
                    room.give(work.target)
                    failed.append(Outcome(ref=_ref(step), state=StepState.FAILED, error=str(taken)))
                elif taken:
                    begin[_ref(step)] = work
                else:
                    room.give(work.target, full=True)
                    waiting += 1
        if failed or begin:
            advanced = self.store.advance(worker, failed, list(begin))
            for ref, why in advanced.refused.items():
                if why in {Refusal.STOPPED, Refusal.LOST}:
                    self.cancel(begin[ref])
        return waiting

    def _hand_over_all(self, works: Sequence[Work], room: _Room) -> list[bool | _NotTakenError]:
        """Watch orders and hand them over, at once; return of each whether there was room, or why it never starts."""
        if len(works) > 1:
            with ThreadPoolExecutor(len(works), "holdfast-dispatch") as pool:
                return list(pool.map(self._watch_and_hand_over, works))
        begun = current_clock().monotonic()
        found = [self._watch_and_hand_over(work) for work in works]
        room.slow = current_clock().monotonic() - begun > _SLOW
        return found

    def _watch_and_hand_over(self, work: Work) -> bool | _NotTakenError:
        if self.timer is not None:
            self.timer.watch(work.run, work.number, self.store.now() + work.timeout)
        try:
            return self._hand_over(work)
        except _NotTakenError as error:
            return error

    def _hand_over(self, work: Work) -> bool:
        """Return whether there was room for an order. _NotTakenError if it will never start."""
        try:
            return self.targets[work.target].dispatch(work)
        except Exception as error:
            if first_start(self.blobs, work, "refused"):
                said = "is not there" if isinstance(error, KeyError) else f"did not take it: {error}"
                raise _NotTakenError(f"target {work.target} {said}") from error
            _log.warning("order %s of run %s was refused, and runs", work.order, work.run, exc_info=True)
            return True

    def dispatch_again(self, work: Work) -> bool:
        """Hand over an order again that its target may have forgotten; it starts unless it has. False: no room."""
        try:
            return self.targets[work.target].dispatch(work)
        except Exception:
            _log.warning("order %s of run %s was not taken again", work.order, work.run, exc_info=True)
            return True

    def cancel(self, work: Work) -> None:
        """Tell a target to end an order."""
        try:
            self.targets[work.target].cancel(work)
        except Exception:
            _log.warning("order %s of run %s could not be cancelled", work.order, work.run, exc_info=True)

    def _end(self, worker: str, job: JobRecord) -> None:
        """Finish a run that has ended as soon as nothing of it runs: the summary is stored once, and says it is."""
        steps = list(self.steps(job.id))
        reserved = [step for step in steps if step.state is StepState.RUNNING and not step.begun]
        if reserved:
            self._take_back(worker, reserved)
            steps = list(self.steps(job.id))
        if running := [step for step in steps if step.state is StepState.RUNNING]:
            for step in running:
                self.cancel(work_of(job.id, step))
            return
        self.tell(job, steps)
        self.blobs.put(_keys.done(job.id), summary(job, steps))
        # Not before: whoever looks after the run finds it by its worker.
        self.store.retire(worker)

    def _take_back(self, worker: str, reserved: Sequence[StepRecord]) -> None:
        """Hand back orders that were reserved; a crash may have hidden that one was dispatched."""
        for work in (work_of(step.job, step) for step in reserved):
            if not first_start(self.blobs, work, "cancelled"):
                self.cancel(work)
        self.store.release(worker, [_ref(step) for step in reserved])

    def comment(self, job: JobRecord, steps: Sequence[StepRecord]) -> Comment:
        """Return what is to be told about a run now."""
        settings = job.new.settings
        return Comment(
            run=job.id,
            tag=settings["tag"],
            body=_comment.body(settings, job.id, run_status(job, steps).value, steps),
            repository=settings["repository"],
            token_location=settings["token_location"],
            pull_request=settings["pull_request"],
            issue=settings["issue"],
        )

    def tell(self, job: JobRecord, steps: Sequence[StepRecord]) -> None:
        """Write or replace the comment of a run."""
        if self.notifier is None:
            return
        try:
            self.notifier.tell(self.comment(job, steps))
        except Exception:
            _log.exception("nobody could be told about run %s", job.id)

    def steps(self, run: str) -> Iterator[StepRecord]:
        """Yield the orders of a run."""
        return self._pages(run, None)

    def running(self, run: str) -> Iterator[StepRecord]:
        """Yield the orders of a run that are reserved or run; it may have many more."""
        return self._pages(run, worker_of(run))

    def _pages(self, run: str, worker: str | None) -> Iterator[StepRecord]:
        after = -1
        while found := self.store.steps(run, worker=worker, after=after, limit=PAGE):
            yield from found
            after = found[-1].position
            if len(found) < PAGE:
                return


def work_of(run: str, step: StepRecord) -> Work:
    """Return an order as its target is told of it."""
    said = payload.decode(step.payload)
    number = step.position + 1
    return Work(
        run=run,
        order=step.key,
        number=number,
        target=step.target,
        timeout=said["timeout"],
        archive=said["archive"],
        started=_keys.started(run, number),
        result=_keys.result(run, number),
        log=_keys.log(run, number),
    )


def run_status(job: JobRecord, steps: Sequence[StepRecord]) -> JobState:
    """Return how a run is: as its orders ended, unless it was cancelled or ran out of time itself."""
    if job.state in _TOLD or job.state not in JOB_ENDS:
        return job.state
    return status_of(steps) or job.state


def summary(job: JobRecord, steps: Sequence[StepRecord]) -> bytes:
    """Return what lies at the end of a run: the same bytes whoever writes it."""
    counts = Counter(step.state.value for step in steps)
    orders = {step.key: _ended(step) for step in steps}
    said: dict[str, Any] = {
        "run_id": job.id,
        "trace_id": job.new.settings["trace"],
        "flow_id": job.new.settings["flow"],
        "status": run_status(job, steps).value,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "counts": dict(sorted(counts.items())),
        "orders": orders,
    }
    return json.dumps(said).encode()


def _ended(step: StepRecord) -> dict[str, Any]:
    return {
        "state": step.state.value,
        "error": step.error,
        "started_at": step.started_at,
        "finished_at": step.finished_at,
    }


def _ref(step: StepRecord) -> StepRef:
    return StepRef(job=step.job, position=step.position, fence=step.fence)
