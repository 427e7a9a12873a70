"""A desk from which a test runs jobs on a virtual clock, with handlers that are sync or async."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar, Literal

from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.store.state import JobRecord, StateStore, StepRecord, StepRef, WorkerRecord
from holdfast.services.jobs import Call, Ended, Handler, Jobs, Progress, Worker
from holdfast.services.jobs.handlers import Function
from holdfast.services.jobs.writeback import WriteBack, WriteBackError, WrittenBack
from holdfast.testing.clock import VirtualClock

Mode = Literal["sync", "async"]
STEADY = Backoff.fixed(10.0)


@dataclass(frozen=True)
class Takes:
    """What a handler returns that takes its time."""

    seconds: float
    result: Any = None
    ended: Callable[[], None] = lambda: None


class Desk:
    """Jobs over one store, and what a test wants of them."""

    def __init__(self, store: StateStore, clock: VirtualClock, mode: Mode) -> None:
        self.store = store
        self.clock = clock
        self.mode = mode
        self.told: list[Ended] = []
        self._numbers = count(1)
        self.jobs = Jobs(store, notifier=self)

    def notify(self, ended: Ended) -> None:
        """Hear that a job has ended."""
        self.told.append(ended)

    def handler(self, do: Function, name: str = "", **settings: Any) -> Handler:
        """Return a handler that does what a function says: sync or async, as the test is."""
        wants_call = len(inspect.signature(do).parameters) > 1
        act: Callable[..., Any] = do

        def work(payload: Any, call: Call) -> Any:
            done = act(payload, call) if wants_call else act(payload)
            if isinstance(done, Takes):
                self.clock.sleep(done.seconds)
                done.ended()
                return done.result
            return done

        async def awork(payload: Any, call: Call) -> Any:
            done = act(payload, call) if wants_call else act(payload)
            if isinstance(done, Takes):
                await self.clock.asleep(done.seconds)
                done.ended()
                return done.result
            return done

        name = name or f"work {next(self._numbers)}"
        return Handler(work if self.mode == "sync" else awork, name=name, **settings)

    def submit(self, rows: Any, do: Function | Handler, **settings: Any) -> JobRecord:
        """Submit a job that may run at once."""
        handler = do if isinstance(do, Handler) else self.handler(do)
        all_settings: dict[str, Any] = {"mode": "auto", **settings}
        return self.jobs.submit(rows, handler, **all_settings)

    def run(self, job: JobRecord, **settings: Any) -> Progress:
        """Run a job as far as it goes."""
        return self.jobs.run(job, **settings)

    def worker(self, **settings: Any) -> Worker:
        """Return a worker on this store that knows the desk's handlers and no others."""
        return Worker(self.store, self.jobs.handlers, notifier=self, **settings)

    def meanwhile(self, *actions: tuple[float, Callable[[], Any]], worker: Worker) -> list[Any]:
        """Run a worker; do each action when so many seconds have passed; return what they returned."""
        return self.clock.run(_meanwhile(self.clock, worker, actions))

    def states(self, job: JobRecord) -> list[str]:
        """Return the state of each step, in order."""
        return [str(step.state) for step in self.store.steps(job.id)]

    def results(self, job: JobRecord) -> list[Any]:
        """Return the result of each step, in order."""
        return [one.result for one in self.jobs.results(job)]

    def attempts(self, job: JobRecord) -> list[int]:
        """Return the number of attempts of each step, in order."""
        return [step.attempts for step in self.store.steps(job.id)]

    def left_by_the_dead(self, job: JobRecord, *, claimed: int, begun: int) -> None:
        """Leave steps as a worker does that was killed, and whose lease has ended: so many claimed, so many begun."""
        self.die_with(job, claimed=claimed, begun=begun)
        self.clock.advance(2.0)

    def die_with(self, job: JobRecord, *, claimed: int, begun: int) -> None:
        """Claim steps, begin some, and let nobody renew that lease, which ends in a second."""
        dead = WorkerRecord(id="dead", host="elsewhere", pid=7, born="1", expires_at=0.0)
        self.store.register(dead, 1.0)
        steps = self.store.claim("dead", claimed, job=job.id)
        self.store.advance("dead", begin=[ref_of(step) for step in steps[:begun]])


def ref_of(step: StepRecord) -> StepRef:
    """Return how a worker names a claimed step."""
    return StepRef(job=step.job, position=step.position, fence=step.fence)


async def _meanwhile(
    clock: VirtualClock, worker: Worker, actions: tuple[tuple[float, Callable[[], Any]], ...]
) -> list[Any]:
    work = asyncio.ensure_future(worker.arun())
    done: list[Any] = []
    begun = clock.elapsed
    for at, action in actions:
        await clock.asleep(at - (clock.elapsed - begun))
        result = action()
        done.append(await result if isinstance(result, Coroutine) else result)
    await work
    return done


class Letterbox(WriteBack):
    """Where results go that a test wants to see; it refuses while it is told to, and always what it is told to."""

    taken: ClassVar[dict[str, Any]] = {}
    offered: ClassVar[list[int]] = []
    closed: ClassVar[list[float]] = []
    refused: ClassVar[list[str]] = []

    def __init__(self) -> None:
        super().__init__("letterbox", {"result": "result"}, None)

    @classmethod
    def empty(cls) -> None:
        """Forget everything."""
        for kept in (cls.taken, cls.offered, cls.closed, cls.refused):
            kept.clear()

    def apply(self, results: Iterable[tuple[str, Any]], **_: Any) -> WrittenBack:
        """Take the results, or refuse them all."""
        given = dict(results)
        self.offered.append(len(given))
        if self.closed:
            raise OSError(self.closed.pop())
        if given.keys() & set(self.refused):
            raise WriteBackError("letterbox", "has no such row", "leave it out")
        self.taken.update(given)
        return WrittenBack(len(given), changed=True, fingerprint=None)


def letterbox(job: JobRecord) -> Letterbox:
    """Return where the results of a job go."""
    return Letterbox()
