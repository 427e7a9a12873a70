"""Runs of the benchmark: one at a time, each in a process of its own, the last ones remembered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import holdfast
from holdfast.api.internal.resilience._benchmark_worker import KINDS
from holdfast.api.internal.resilience.problems import _phrase as phrase
from holdfast.api.internal.resilience.problems import _problem as problem
from holdfast.infrastructure.resilience.clock import current_clock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.infrastructure.resilience.policy import Policy

SECONDS = 30.0
# What a run is judged by: generous, for a loaded machine must not look like a defect.
ADDED_PER_POLICY = 2000.0

_KEPT = 20
_WORKER = "holdfast.api.internal.resilience._benchmark_worker"
_HOME = str(Path(holdfast.__file__).parents[1])


@dataclass(slots=True, kw_only=True)
class Run:
    """A run of the benchmark, while it runs and after."""

    id: int
    operation: str | None
    policies: list[str]
    skipped: list[str]
    started: float
    status: str = "running"
    ended: float | None = None
    results: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    exceeded: list[str] = field(default_factory=list[str])
    failure: dict[str, Any] | None = None


class Benchmark:
    """Measures pipelines, one at a time, and remembers the last runs. Thread-safe."""

    def __init__(self, *, seconds: float = SECONDS, keep: int = _KEPT) -> None:
        self._seconds = seconds
        self._runs: deque[Run] = deque(maxlen=keep)
        self._last = 0
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def runs(self) -> list[Run]:
        """The runs, newest first."""
        with self._lock:
            return list(reversed(self._runs))

    def start(self, operation: str | None, policies: Iterable[Policy]) -> Run:
        """Begin to measure policies of these kinds. A problem if one runs already, or none may any more."""
        names = [type(policy).__name__ for policy in policies]
        measured = [name for name in names if name in KINDS]
        skipped = [name for name in names if name not in KINDS]
        with self._lock:
            self._check()
            self._last += 1
            run = Run(
                id=self._last,
                operation=operation,
                policies=measured,
                skipped=skipped,
                started=current_clock().time(),
            )
            self._process = spawn()
            self._runs.append(run)
            self._thread = threading.Thread(target=self._run, args=(run, self._process), daemon=True)
            self._thread.start()
        return run

    def reopen(self) -> None:
        """Allow runs again, after `close`."""
        self._closed = False

    def close(self) -> None:
        """Kill what runs; nothing runs after that."""
        with self._lock:
            self._closed = True
            process, thread = self._process, self._thread
        if process is not None:
            process.kill()
        if thread is not None:
            thread.join()

    def _check(self) -> None:
        if self._closed:
            raise problem(503, "The service is about to stop.")
        if self._process is not None:
            raise problem(409, f"Run {self._last} has not ended; wait for it.")

    def _run(self, run: Run, process: subprocess.Popen[str]) -> None:
        timer = threading.Timer(self._seconds, process.kill)
        timer.daemon = True
        timer.start()
        try:
            results = _ask(process, run.policies)
        finally:
            timer.cancel()
        with self._lock:
            self._process = None
            settle(run, results)


def spawn() -> subprocess.Popen[str]:
    """Start a worker, which waits for kinds of policies on its standard input."""
    # The modules of this process, whatever its paths are; none of the current folder.
    path = os.pathsep.join(filter(None, (_HOME, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(  # noqa: S603  # our own module
        [sys.executable, "-P", "-m", _WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def _ask(process: subprocess.Popen[str], kinds: list[str]) -> list[dict[str, Any]] | None:
    """Return what the worker measures; None if it ended otherwise."""
    assert process.stdin is not None  # noqa: S101  # opened above
    assert process.stdout is not None  # noqa: S101  # opened above
    try:
        # It stays open while the worker works: its end tells the worker that nobody waits.
        process.stdin.write(json.dumps(kinds) + "\n")
        process.stdin.flush()
        said = process.stdout.read()
        results: list[dict[str, Any]] = json.loads(said)
    except (OSError, ValueError):
        return None
    else:
        return results
    finally:
        process.kill()
        process.communicate()


def settle(run: Run, results: list[dict[str, Any]] | None) -> None:
    """Write down how a run ended; None stands for a worker that was stopped."""
    run.ended = current_clock().time()
    if results is None:
        run.status = "failed"
        detail = "The worker was stopped, or did not end in time."
        run.failure = {"type": "about:blank", "title": phrase(504), "status": 504, "detail": detail}
        return
    run.results = results
    most = ADDED_PER_POLICY * len(run.policies)
    run.exceeded = [f"added_ns_per_policy ({one['mode']})" for one in results if one["added_ns"] > most]
    run.status = "done"
