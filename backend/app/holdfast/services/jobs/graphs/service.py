"""Runs on one machine: a folder of blobs and comments, subprocesses, and a loop that drives it all."""

from __future__ import annotations

import logging
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience.clock import SYSTEM
from holdfast.infrastructure.store.blob import FolderBlobStore
from holdfast.infrastructure.store.state import NotFoundError, StoreUnavailableError
from holdfast.services.jobs.graphs import _keys
from holdfast.services.jobs.graphs.local import DueTimer, FileNotifier, FolderCode, LocalTarget
from holdfast.services.jobs.graphs.runs import Runs
from holdfast.services.jobs.worker import _Signals

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from signal import Signals
    from types import TracebackType

    from holdfast.infrastructure.store.blob import BlobStore
    from holdfast.infrastructure.store.state import StateStore
    from holdfast.services.jobs.graphs.ports import CodeSource, RunNotifier, Target
    from holdfast.services.jobs.graphs.secrets import Secrets

_log = logging.getLogger("holdfast.jobs")
_LOOK = 0.25


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
    ) -> None:
        self._store, self._every = store, every
        self._heard: SimpleQueue[str | None] = SimpleQueue()
        self._timer = DueTimer()
        self._stops = 0
        self._signal: Signals | None = None
        self.blobs = FolderBlobStore(Path(folder) / "blobs", store.tenant)
        self.comments = FileNotifier(Path(folder) / "comments")
        self._local = LocalTarget(self.blobs, self, concurrency=concurrency, secrets=secrets)
        self.runs = Runs(
            store,
            self.blobs,
            {"local": self._local, **(targets or {})},
            code=FolderCode(code) if isinstance(code, str | Path) else code,
            notifier=_Each([self.comments, *notifiers]),
            timer=self._timer,
            listener=self,
            limits=limits,
            lease=lease,
            secrets=secrets,
        )

    def __enter__(self) -> RunService:
        """Close it at the end of a `with` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    @property
    def stopped_by(self) -> Signals | None:
        """The signal that stopped it, None if none did."""
        return self._signal

    @property
    def running(self) -> int:
        """How many orders run as subprocesses of this process."""
        return self._local.running

    def stored(self, key: str) -> None:
        """Hear that a result was stored, from any thread."""
        self._heard.put(key)

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
        with _Signals(self._on_signal if signals else None):
            _Loop(self, only, stay=stay, seen=seen or _nobody).run()

    def stop(self) -> None:
        """Start no more orders and return when those of this process have ended; told again, kill them."""
        self._stops += 1
        self._heard.put(None)

    def close(self) -> None:
        """Kill what still runs here, and wait for that."""
        self._local.close(cancel=True)

    def _on_signal(self, number: Signals) -> None:
        self._signal = number
        self.stop()


class _Loop:
    """One call of `serve`."""

    def __init__(
        self, service: RunService, only: Collection[str], *, stay: bool, seen: Callable[[str], object]
    ) -> None:
        self._service, self._runs = service, service.runs
        self._only, self._stay, self._seen = list(only), stay, seen
        self._look_at = 0.0
        self._open: set[str] = set()
        self._forgotten = True

    def run(self) -> None:
        """Handle events, times and looks until there is nothing left."""
        service, told = self._service, 0
        while True:
            keys = self._wait()
            if told < service._stops:
                told = service._stops
                service._local.drain()
                if told > 1:
                    service._local.kill()
            try:
                if self._over(keys):
                    return
            except StoreUnavailableError:
                # What was heard is found by the next look.
                _log.warning("the store does not answer; it is asked again", exc_info=True)
                self._look_at = SYSTEM.monotonic() + service._every

    def _over(self, keys: list[str]) -> bool:
        """Do what there is to do; return whether that was all."""
        service = self._service
        if keys:
            self._runs.receive(*keys)
            self._tell(found[0] for found in map(_keys.read_result, keys) if found is not None)
            if not self._open and not service.running and service._heard.empty():
                self._look_at = 0.0
        for run, number in service._timer.due(service._store.now()):
            try:
                self._runs.watchdog(run, number)
            except NotFoundError:  # it was deleted
                continue
            self._tell([run])
        looked = SYSTEM.monotonic() >= self._look_at
        if looked:
            self._look()
        if service._stops:
            return not service.running and service._heard.empty()
        if self._stay or not looked or service.running or not service._heard.empty():
            return False
        return not self._open or (bool(self._only) and all(map(self._finished, self._only)))

    def _wait(self) -> list[str]:
        """Wait until there is something to do; return the results that were stored meanwhile."""
        service = self._service
        wait = self._look_at - SYSTEM.monotonic()
        if (at := service._timer.next_at()) is not None:
            wait = min(wait, at - service._store.now())
        if service._stops:
            wait = min(wait, _LOOK)
        found: list[str | None] = []
        try:
            found.append(service._heard.get(timeout=max(wait, 0.0)))
            while True:
                found.append(service._heard.get_nowait())
        except Empty:
            return [key for key in found if key is not None]

    def _look(self) -> None:
        """Look after all runs, as if nothing had ever been heard."""
        self._open = set(self._runs.tick())
        if self._forgotten and not self._service._stops:
            self._forgotten = not self._runs._dispatch_again(self._open)
        self._tell(set(self._open))
        self._look_at = SYSTEM.monotonic() + self._service._every

    def _finished(self, run: str) -> bool:
        return self._service.blobs.exists(_keys.done(run))

    def _tell(self, runs: Iterable[str]) -> None:
        for run in list(dict.fromkeys(runs)):
            if self._finished(run):
                self._open.discard(run)
            else:
                self._open.add(run)
            self._seen(run)


class _Each:
    """Tells several; what one of them raises keeps it from no other."""

    def __init__(self, notifiers: list[RunNotifier]) -> None:
        self._notifiers = notifiers

    def tell(self, comment: Any) -> None:
        """Tell all."""
        for one in self._notifiers:
            try:
                one.tell(comment)
            except Exception:
                _log.exception("%s could not be told about run %s", type(one).__name__, comment.run)


def _nobody(run: str) -> None:
    """Hear it."""
