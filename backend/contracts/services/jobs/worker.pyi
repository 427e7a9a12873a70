"""What executes steps: claims, calls, records, renews, recovers, and drains when it is told to stop."""

from collections.abc import Iterable
from typing import Literal

from holdfast.infrastructure.store.state import StateStore
from holdfast.services.jobs.handlers import Call, Function, Handler, Handlers
from holdfast.services.jobs.notify import Notifier

class WorkerConfig:
    """The settings of a `Worker`, validated: frozen, keyword-only, comparable. Durations are seconds.

    `ahead`: steps claimed at once; `record`: "each" makes each call durable by itself, "group" announces up to `ahead`
    together, all of them ambiguous after a crash; `drain`: what running calls may take when it stops; `grace`: what a
    cancelled call may take before it is given up; `poll`: how often it looks for what nobody tells it.
    """

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
    ) -> None: ...

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
    ) -> None: ...
    @property
    def config(self) -> WorkerConfig:
        """The settings."""
    @property
    def id(self) -> str:
        """The name of its lease now."""
    @property
    def in_flight(self) -> int:
        """How many calls run now."""
    @property
    def abandoned(self) -> tuple[Call, ...]:
        """The calls that it gave up, and that go on in this process; a sync one ends by itself or with the process."""
    def run(self, *, signals: bool = True) -> None:
        """Run on a loop of its own. With `signals`, on the main thread, SIGTERM and SIGINT stop it, twice at once.

        Stopped, it returns when calls have ended, `grace` after `drain` at the latest, and `abandoned` has those that
        have not; only an async handler that blocks its loop, or a notifier or write-back that hangs, can hold it up.
        """
    async def arun(self, *, signals: bool = False) -> None:
        """Run on the running loop."""
    def stop(self) -> None:
        """Drain; told again, cancel what runs. From any thread, or a signal."""
    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
