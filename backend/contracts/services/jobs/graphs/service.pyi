"""Runs on one machine: a folder of blobs and comments, subprocesses, and a loop that drives it all."""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from signal import Signals
from types import TracebackType

from holdfast.infrastructure.store.blob import BlobStore
from holdfast.infrastructure.store.state import StateStore
from holdfast.services.jobs.graphs.local import FileNotifier
from holdfast.services.jobs.graphs.ports import CodeSource, RunNotifier, Target
from holdfast.services.jobs.graphs.runs import Runs
from holdfast.services.jobs.graphs.secrets import Secrets

class RunService:
    """Runs of this machine over a store: blobs below `folder/blobs`, comments below `folder/comments`, subprocesses.

    `code`: a folder, or another source; `concurrency`: orders at once; `targets`: more than `local`; `notifiers`: more
    than the files; `secrets` encrypts and reads those of orders; `every`: seconds between two looks at all runs, so
    that nothing depends on an event, nor on this process: another one may submit, cancel and serve. Safe to share
    between threads. Close it.
    """

    runs: Runs
    blobs: BlobStore
    comments: FileNotifier

    def __init__(
        self,
        store: StateStore,
        folder: str | Path,
        *,
        code: CodeSource | str | Path = ".",
        concurrency: int = 4,
        targets: Mapping[str, Target] | None = None,
        notifiers: Iterable[RunNotifier] = (),
        limits: Mapping[str, int] | None = None,
        every: float = 1.0,
        lease: float = 15.0,
        secrets: Secrets | None = None,
    ) -> None: ...
    def __enter__(self) -> RunService:
        """Close it at the end of a `with` block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""

    @property
    def stopped_by(self) -> Signals | None:
        """The signal that stopped it, None if none did."""

    @property
    def running(self) -> int:
        """How many orders run as subprocesses of this process."""

    def stored(self, key: str) -> None:
        """Hear that a result was stored, from any thread."""

    def serve(
        self,
        only: Collection[str] = (),
        *,
        stay: bool = False,
        seen: Callable[[str], object] | None = None,
        signals: bool = False,
    ) -> None:
        """Drive runs until all are finished, or those that `only` names; with `stay`, until it is told to stop.

        `seen` is called with each run that something may have happened to. A store that does not answer is asked again.
        With `signals`, on the main thread, SIGTERM and SIGINT stop it, twice at once.
        """

    def stop(self) -> None:
        """Start no more orders and return when those of this process have ended; told again, kill them."""

    def close(self) -> None:
        """Kill what still runs here, and wait for that."""
