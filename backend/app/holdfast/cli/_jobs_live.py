"""A job's progress as it goes on: a bar on a terminal, lines elsewhere, JSON for programs."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from holdfast.cli import _jobs_show
from holdfast.infrastructure.resilience.clock import current_clock
from holdfast.infrastructure.resilience.errors import HoldfastError
from holdfast.infrastructure.store.state import JOB_ENDS
from holdfast.services.jobs._breakers import Told
from holdfast.services.jobs._follow import Meter
from holdfast.services.jobs._follow import progress as progress_of
from holdfast.services.jobs._line import figures, line

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from holdfast.infrastructure.store.state import StateStore
    from holdfast.services.jobs.executors import TicketWorker
    from holdfast.services.jobs.jobs import Jobs
    from holdfast.services.jobs.processes import WorkerProcesses
    from holdfast.services.jobs.progress import Progress
    from holdfast.services.jobs.worker import Worker

INTERVAL = 0.25
_LINES_EVERY = 2.0
_JOIN = 2.0
_STANDSTILL = 1.0
_SURE = 2


class Screen(Protocol):
    """Where progress is shown."""

    def show(self, now: Progress, breakers: Mapping[str, str]) -> None:
        """Show how far a job is, and the state of its handler's breakers."""
        ...

    def close(self) -> None:
        """Show no more."""
        ...


class Nothing:
    """Shows nothing."""

    def show(self, now: Progress, breakers: Mapping[str, str]) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Do nothing."""


class JsonLines:
    """Writes an object for each change."""

    def __init__(self) -> None:
        self._last: object = None

    def show(self, now: Progress, breakers: Mapping[str, str]) -> None:
        """Write how far a job is if that has changed."""
        seen = (now.state, now.counts, now.halted, now.unwritten, now.dead, dict(breakers))
        if seen != self._last:
            self._last = seen
            _jobs_show.as_line({**now.as_dict(), "breakers": dict(breakers)})

    def close(self) -> None:
        """Do nothing."""


class Lines:
    """Writes a line when something has changed, not too often: for files and pipes."""

    def __init__(self) -> None:
        self._last: tuple[object, object] = (None, None)
        self._next = 0.0

    def show(self, now: Progress, breakers: Mapping[str, str]) -> None:
        """Write how far a job is if that has changed; changes of state at once."""
        urgent = (now.state, now.halted, dict(breakers))
        time = current_clock().monotonic()
        if urgent == self._last[0] and (now.counts == self._last[1] or time < self._next):
            return
        self._last, self._next = (urgent, now.counts), time + _LINES_EVERY
        print(line(now, breakers), flush=True)

    def close(self) -> None:
        """Do nothing."""


class Bar:
    """A bar with rate, errors, breakers and the time that remains, for terminals."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        def text(template: str) -> TextColumn:
            return TextColumn(template, markup=False)

        self._progress = Progress(
            text("{task.description}"),
            BarColumn(20),
            text("{task.completed}/{task.total}"),
            text("{task.fields[figures]}"),
            console=Console(file=sys.stdout, highlight=False),
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("", total=None, figures="")

    def show(self, now: Progress, breakers: Mapping[str, str]) -> None:
        """Draw how far a job is."""
        self._progress.update(
            self._task,
            description=now.state.value,
            completed=now.counts.done,
            total=now.counts.total,
            figures="  ".join([f"{now.percent} %", *figures(now, breakers)]),
        )
        self._progress.start()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._progress.stop()


def screen(*, as_json: bool, quiet: bool = False) -> Screen:
    """Return the screen for where standard output goes."""
    if as_json:
        return Nothing() if quiet else JsonLines()
    return Bar() if sys.stdout.isatty() else Lines()


def watch(
    store: StateStore,
    job: str,
    on: Screen,
    interval: float,
    is_over: Callable[[str], bool] | None = None,
) -> Progress:
    """Show a job until it has ended and its results are written back, or `is_over` says so; return how."""
    meter, told = Meter(), Told(store, job)
    while True:
        now = progress_of(store, job, meter=meter)
        on.show(now, told.states())
        if (now.state in JOB_ENDS and not now.unwritten) or (is_over is not None and is_over(job)):
            return now
        current_clock().sleep(interval)


class Standstill:
    """Tells, beside the output, that nobody works on a job that is watched, each time that this begins."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._next = 0.0
        # How often in a row it was seen: one worker may be followed by another.
        self._seen = 0

    def tell(self, job: str) -> bool:
        """Look now and then, and say so once; the job is not over by that."""
        time = current_clock().monotonic()
        if time >= self._next:
            self._next = time + _STANDSTILL
            left = self._jobs.interrupted(job)
            self._seen = self._seen + 1 if left else 0
            if self._seen == _SURE:
                _jobs_show.note("\n  ".join(_jobs_show.standstill(left)))
        return False


@contextmanager
def reporting(store: StateStore, job: str, worker: Worker, on: Screen) -> Generator[None, None, None]:
    """Show a job while a worker of this process does it, in a thread."""
    done = threading.Event()
    thread = threading.Thread(target=_report, args=(store, job, on, done), daemon=True)
    thread.start()
    try:
        with saying_when_it_stops(
            worker, lambda: f"stopping: {worker.in_flight} calls are under way; Ctrl-C again cancels them"
        ):
            yield
    finally:
        done.set()
        # It may wait for a store that is away.
        thread.join(_JOIN)
        on.close()


@contextmanager
def saying_when_it_stops(
    work: Worker | TicketWorker | WorkerProcesses, text: Callable[[], str]
) -> Generator[None, None, None]:
    """Say so, in a thread of its own, when a worker was told to stop: it may have to wait before it can."""
    done = threading.Event()
    thread = threading.Thread(target=_say_stopping, args=(work, text, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _say_stopping(
    work: Worker | TicketWorker | WorkerProcesses, text: Callable[[], str], done: threading.Event
) -> None:
    while not current_clock().wait(done, INTERVAL):
        if work.stopping:
            _jobs_show.note(text())
            return


def _report(store: StateStore, job: str, on: Screen, done: threading.Event) -> None:
    meter, told, over = Meter(), Told(store, job), False
    while not over:
        over = current_clock().wait(done, INTERVAL)
        with suppress(HoldfastError):  # a store that is away for a moment
            on.show(progress_of(store, job, errors=0, meter=meter), told.states())
