"""What executes steps: claims, calls, records, renews, recovers, and drains when it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience._frozen import Faults, Frozen
from holdfast.services.jobs import _watch
from holdfast.services.jobs._engine import Engine
from holdfast.services.jobs.handlers import Call, Function, Handler, Handlers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType
    from typing import Literal

    from holdfast.infrastructure.store.state import StateStore
    from holdfast.services.jobs._errand import Errand
    from holdfast.services.jobs.notify import Notifier

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_DAY = 86_400.0


class WorkerConfig(Frozen):
    """The settings of a `Worker`, validated: frozen, keyword-only, comparable. Durations are seconds.

    `ahead`: steps claimed at once; `record`: "each" makes each call durable by itself, "group" announces up to `ahead`
    together, all of them ambiguous after a crash; `drain`: what running calls may take when it stops; `grace`: what a
    cancelled call may take before it is given up; `poll`: how often it looks for what nobody tells it.
    """

    __slots__ = ("ahead", "concurrency", "drain", "grace", "job", "lease", "name", "poll", "record")

    concurrency: int
    ahead: int
    record: Literal["each", "group"]
    lease: float
    drain: float
    grace: float
    poll: float
    job: str | None
    name: str

    def __init__(
        self,
        *,
        concurrency: int = 8,
        ahead: int = 50,
        record: Literal["each", "group"] = "each",
        lease: float = 15.0,
        drain: float = 30.0,
        grace: float = 5.0,
        poll: float = 0.5,
        job: str | None = None,
        name: str = "",
    ) -> None:
        faults = Faults("Worker")
        faults.number("concurrency", concurrency, 1, 10_000, whole=True)
        faults.number("ahead", ahead, 1, 10_000, whole=True)
        known = record in {"each", "group"}
        faults.check(known, "record", record, "is unknown", 'give "each" or "group"')
        faults.number("lease", lease, 0.1, _DAY)
        faults.number("drain", drain, 0, _DAY)
        faults.number("grace", grace, 0, _DAY)
        faults.number("poll", poll, 0.01, 3600)
        faults.name("job", job)
        faults.check(isinstance(name, str), "name", name, "is not text", "give a str")
        faults.finish()
        self._set(
            concurrency=concurrency,
            ahead=ahead,
            record=record,
            lease=lease,
            drain=drain,
            grace=grace,
            poll=poll,
            job=job,
            name=name,
        )


class Worker:
    """Execute steps of a store until told to stop, or, with `job`, until nothing of that job is left to do.

    Sync handlers run in threads, async ones as tasks of one loop; no store call is made on the loop. Calls of a
    stopped worker end, its claims go back. One worker runs once.
    """

    def __init__(
        self,
        store: StateStore,
        handlers: Handlers | Iterable[Handler | Function | str] = (),
        *,
        concurrency: int = 8,
        ahead: int = 50,
        record: Literal["each", "group"] = "each",
        lease: float = 15.0,
        drain: float = 30.0,
        grace: float = 5.0,
        poll: float = 0.5,
        job: str | None = None,
        name: str = "",
        notifier: Notifier | None = None,
    ) -> None:
        self._config = WorkerConfig(
            concurrency=concurrency,
            ahead=ahead,
            record=record,
            lease=lease,
            drain=drain,
            grace=grace,
            poll=poll,
            job=job,
            name=name,
        )
        self._store = store
        self._handlers = handlers if isinstance(handlers, Handlers) else Handlers(handlers)
        self._notifier = notifier
        self._engine: Engine | None = None
        self._errand: Errand | None = None
        self._stops = 0
        self._signal: signal.Signals | None = None
        self._begun = False
        # A signal may strike while it is held.
        self._lock = threading.RLock()

    @property
    def config(self) -> WorkerConfig:
        """The settings."""
        return self._config

    @property
    def id(self) -> str:
        """The name of its lease now."""
        return "" if self._engine is None else self._engine.id

    @property
    def in_flight(self) -> int:
        """How many calls run now."""
        return 0 if self._engine is None else len(self._engine.caller.active)

    @property
    def abandoned(self) -> tuple[Call, ...]:
        """The calls that it gave up, and that go on in this process; a sync one ends by itself or with the process."""
        calls = () if self._engine is None else self._engine.caller.abandoned
        return tuple(running.call for running in calls)

    def _under_way(self) -> list[Call]:
        """Return the calls that have not returned, from any thread."""
        if self._engine is None:
            return []
        caller = self._engine.caller
        return [running.call for running in (*caller.abandoned, *list(caller.active))]

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stops > 0

    def run(self, *, signals: bool = True) -> None:
        """Run on a loop of its own. With `signals`, on the main thread, SIGTERM and SIGINT stop it, twice at once.

        Stopped, it returns when calls have ended, `grace` after `drain` at the latest, and `abandoned` has those that
        have not; only an async handler that blocks its loop, or a notifier or write-back that hangs, can hold it up.
        """
        asyncio.run(self.arun(signals=signals))

    async def arun(self, *, signals: bool = False) -> None:
        """Run on the running loop."""
        if self._begun:
            raise RuntimeError("this worker has run already: make another one")
        self._begun = True
        with self._lock:
            self._engine = Engine(self._store, self._handlers, self._config, self._errand)
        for _ in range(self._stops):
            self._engine.stop()
        work = asyncio.ensure_future(self._work(self._engine))
        with _Signals(self._on_signal if signals else None):
            await self._see_through(work)

    def stop(self) -> None:
        """Drain; told again, cancel what runs. From any thread, or a signal."""
        with self._lock:
            self._stops += 1
            engine = self._engine
        if engine is not None and not engine.loop.is_closed():
            engine.loop.call_soon_threadsafe(engine.stop)

    def _on_signal(self, number: signal.Signals) -> None:
        self._signal = number
        self.stop()

    async def _see_through(self, work: asyncio.Future[None]) -> None:
        """Wait for the end, also when cancelled: what runs is cancelled then, and handed back."""
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self.stop()
            self.stop()
            await asyncio.wait([work])
            raise

    async def _work(self, engine: Engine) -> None:
        watch, pulse = _watch.Watch(engine, self._notifier), _watch.Pulse(engine)
        try:
            await engine.begin()
        except BaseException:
            engine.close()
            raise
        pulse.begin()
        try:
            await watch.begin()
            rounds = asyncio.ensure_future(watch.run())
            try:
                await engine.run()
                await watch.finish()
            finally:
                await watch.close(rounds)
        finally:
            await pulse.close()
            await engine.end()
        if engine.failure is not None:
            raise engine.failure


class _Signals:
    """Have signals stop a worker for a `with` block, where that is possible: in the main thread."""

    def __init__(self, stop: Callable[[signal.Signals], None] | None) -> None:
        main = threading.current_thread() is threading.main_thread()
        self._stop = stop if main else None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if self._stop is None:
            return
        # Not by the loop, which a handler may block.
        for one in _SIGNALS:
            self._before[one] = signal.signal(one, self._heard)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self._stop is not None:
            self._stop(signal.Signals(number))

    def __exit__(self, *_: object) -> None:
        for one, before in self._before.items():
            signal.signal(one, before)
