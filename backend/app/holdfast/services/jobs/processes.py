"""Workers in processes of their own, so that handlers that compute use more than one core."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.clock import SYSTEM
from holdfast.services.jobs._imports import imported
from holdfast.services.jobs.handlers import Handlers
from holdfast.services.jobs.worker import WorkerConfig

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

_log = logging.getLogger("holdfast.jobs")
_LOOK = 0.1
_PAUSES = Backoff(base=0.5, cap=30.0, jitter="equal")
# A process that lived so long did not die of its start.
_LIVED = 60.0


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
    ) -> None:
        faults = Faults("WorkerProcesses")
        faults.number("processes", processes, 1, 1000, whole=True)
        faults.check(url != "memory:", "url", url, "is seen by one process only", "name a database")
        faults.finish()
        self._config = WorkerConfig(**settings)
        names = list(handlers)
        Handlers(names)
        if notifier:
            imported(notifier)
        if executor != "local":
            from holdfast.services.jobs.executors.opening import open_executor

            open_executor(executor, url, tenant=tenant, broker=broker, queue=queue).close()
        told = {
            "url": url,
            "tenant": tenant,
            "handlers": names,
            "imports": imports,
            "notifier": notifier,
            "executor": executor,
            "broker": broker,
            "queue": queue,
            "settings": settings,
            "path": sys.path,
        }
        self._told = json.dumps(told).encode()
        self._lanes = [_Lane(self._told) for _ in range(processes)]
        self._stops = 0
        self._wake = threading.Event()

    @property
    def stopping(self) -> bool:
        """Whether they were told to stop."""
        return self._stops > 0

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that run now."""
        return tuple(lane.process.pid for lane in self._lanes if lane.process is not None)

    def run(self, *, signals: bool = True) -> None:
        """Run them until told to stop or, with `job` among the settings, until that job is done with."""
        with _Signals(self.stop if signals else None):
            while self._look():
                self._wake.wait(_LOOK)

    def stop(self) -> None:
        """Drain all; told again, stop them at once. From any thread, or a signal."""
        self._stops += 1
        for lane in self._lanes:
            lane.tell(signal.SIGTERM)

    def _look(self) -> bool:
        """Begin what should run; return whether anything does, or is to."""
        looked = [lane.look(stopping=self._stops > 0) for lane in self._lanes]
        return any(looked)


class _Lane:
    """One process after the other."""

    def __init__(self, told: bytes) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._told = told
        self._deaths = 0
        self._at = 0.0
        self._over = False

    def look(self, *, stopping: bool) -> bool:
        """Start a process if there should be one; return whether this lane goes on."""
        if self.process is not None and self.process.poll() is not None:
            self._mourn(self.process, stopping=stopping)
        now = SYSTEM.monotonic()
        if self.process is None and not stopping and not self._over and now >= self._at:
            self._start(now)
        return self.process is not None or not (stopping or self._over)

    def _start(self, now: float) -> None:
        self.process = subprocess.Popen(  # this very interpreter
            [sys.executable, "-m", "holdfast.services.jobs._child"],
            stdin=subprocess.PIPE,
            # A terminal's Ctrl-C reaches this process only, which passes it on once.
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._at = now
        assert self.process.stdin is not None  # noqa: S101  # it is a pipe
        try:
            self.process.stdin.write(self._told + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died already, which is seen at the next look

    def _mourn(self, process: subprocess.Popen[bytes], *, stopping: bool) -> None:
        status, self.process = process.returncode, None
        if process.stdin is not None:
            process.stdin.close()
        if status == 0:
            self._over = True
        if status == 0 or stopping:
            return
        now = SYSTEM.monotonic()
        self._deaths = 1 if now - self._at > _LIVED else self._deaths + 1
        pause = _PAUSES.delay(self._deaths)
        _log.warning("worker process %d ended with %d; another begins in %.1f s", process.pid, status, pause)
        self._at = now + pause

    def tell(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


class _Signals:
    """Have signals stop the processes for a `with` block, in the main thread."""

    def __init__(self, stop: Any) -> None:
        main = threading.current_thread() is threading.main_thread()
        self._stop = stop if main else None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if self._stop is not None:
            for one in (signal.SIGTERM, signal.SIGINT):
                self._before[one] = signal.signal(one, self._heard)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self._stop is not None:
            self._stop()

    def __exit__(self, *_: object) -> None:
        for one, before in self._before.items():
            signal.signal(one, before)
