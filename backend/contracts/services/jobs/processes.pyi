"""Workers in processes of their own, so that handlers that compute use more than one core."""

from collections.abc import Iterable
from typing import Any

class WorkerProcesses:
    """So many processes, each with a `Worker` on the same store; one that dies is replaced, after a growing pause.

    `handlers` and `notifier` are importable, `module:attribute`; without `imports`, jobs of other handlers are left
    alone; `settings` are those of a `Worker`, or of a `TicketWorker` where `executor` is "procrastinate" or "celery",
    with `broker` and `queue` as `open_executor` has them. SIGTERM and SIGINT drain all, twice stop them; they drain too
    when this process dies. ConfigurationError, HandlerNotFoundError, ValueError before any is started.
    """

    def __init__(
        self,
        url: str,
        handlers: Iterable[str],
        *,
        tenant: str = "default",
        processes: int = 2,
        imports: bool = True,
        notifier: str = "",
        executor: str = "local",
        broker: str = "",
        queue: str = "holdfast",
        **settings: Any,
    ) -> None: ...
    @property
    def stopping(self) -> bool:
        """Whether they were told to stop."""
    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that run now."""
    def run(self, *, signals: bool = True) -> None:
        """Run them until told to stop or, with `job` among the settings, until that job is done with."""
    def stop(self) -> None:
        """Drain all; told again, stop them at once. From any thread, or a signal."""
