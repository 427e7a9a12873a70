"""A worker that an engine gives tickets to."""

from collections.abc import Iterable
from typing import Literal

from holdfast.infrastructure.store.state import StateStore
from holdfast.services.jobs.executors.tickets import Executor
from holdfast.services.jobs.handlers import Function, Handler, Handlers
from holdfast.services.jobs.notify import Notifier
from holdfast.services.jobs.worker import WorkerConfig

class TicketWorker:
    """Execute what tickets say there is, until told to stop: `concurrency` of them at once, a call of each.

    Between them they look after all jobs of the store as a `Worker` does, and send a ticket for each that stands still.
    All handlers run on one loop, or in threads. One worker runs once.
    """

    def __init__(
        self,
        store: StateStore,
        handlers: Handlers | Iterable[Handler | Function | str],
        executor: Executor,
        *,
        concurrency: int = 8,
        record: Literal["each", "group"] = "each",
        lease: float = 15.0,
        drain: float = 30.0,
        grace: float = 5.0,
        poll: float = 0.5,
        name: str = "",
        notifier: Notifier | None = None,
    ) -> None: ...
    @property
    def config(self) -> WorkerConfig:
        """The settings, as those of a `Worker`."""
    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
    @property
    def in_flight(self) -> int:
        """How many calls run now."""
    def run(self, *, signals: bool = True) -> None:
        """Run on a loop of its own. With `signals`, on the main thread, SIGTERM and SIGINT stop it, twice at once."""
    async def arun(self, *, signals: bool = False) -> None:
        """Run on the running loop."""
    def stop(self) -> None:
        """Take no more and let calls end; told again, cancel them. From any thread, or a signal."""
