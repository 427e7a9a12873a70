"""Which process this is, and whether another one on this host is still there."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from contextlib import contextmanager
from functools import cache
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.infrastructure.resilience.clock import SYSTEM
from holdfast.infrastructure.resilience.randomness import current_random
from holdfast.infrastructure.store.state import WorkerRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from holdfast.services.jobs.executors import TicketWorker
    from holdfast.services.jobs.handlers import Call
    from holdfast.services.jobs.worker import Worker

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_LOOK = 0.25
# Seconds beyond drain and grace for a worker to end that was told to stop; a store that is away keeps it longer.
_STUCK = 5.0


def new_id(now: float) -> str:
    """Return an id that sorts by time: 20 digits of base 32, the first ten of them milliseconds since the epoch."""
    number = (int(now * 1000) << 50) | current_random().getrandbits(50)
    return "".join(_DIGITS[(number >> shift) & 31] for shift in range(95, -1, -5))


def this_worker(name: str) -> WorkerRecord:
    """Return the record of a new worker of this process; its lease begins when it is registered."""
    pid, mark = os.getpid(), current_random().getrandbits(40)
    label = f"{name}-" if name else ""
    return WorkerRecord(
        id=f"{label}{socket.gethostname()}-{pid}-{mark:010x}",
        host=host(),
        pid=pid,
        born=born(pid),
        expires_at=0.0,
    )


@cache
def host() -> str:
    """Return what processes share that see each other: the machine since its start, and the table of processes."""
    try:
        boot = _BOOT.read_text(encoding="ascii").strip()
        table = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  # no path, but a name
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}/{boot[:8]}/{table}"


def born(pid: int) -> str:
    """Return when a process began, as its system counts; empty if there is none, or nobody says."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name before may hold anything, parentheses too. A zombie has ended.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def gone(workers: Iterable[WorkerRecord]) -> list[str]:
    """Return the workers whose process was on this host and is not there any more."""
    return [one.id for one in workers if one.host == host() and one.born and one.born != born(one.pid)]


@contextmanager
def leaving_when_stuck(
    worker: Worker | TicketWorker, tell: Callable[[Sequence[Call]], object]
) -> Generator[None, None, None]:
    """Have the process end if a worker that was told to stop does not, as after any death.

    `tell` is given the calls under way: a handler may block its worker, or the store, or a notifier, not answer.
    """
    over = threading.Event()
    threading.Thread(target=_leave_when_stuck, args=(worker, over, tell), daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _leave_when_stuck(
    worker: Worker | TicketWorker, over: threading.Event, tell: Callable[[Sequence[Call]], object]
) -> None:
    patience = worker.config.grace + _STUCK
    heard, limit = 0, inf
    while SYSTEM.monotonic() < limit:
        if SYSTEM.wait(over, _LOOK):
            return
        if worker._stops > heard:
            heard = worker._stops
            drain = worker.config.drain if heard == 1 else 0.0
            limit = min(limit, SYSTEM.monotonic() + drain + patience)
    tell(worker._under_way())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + (worker._signal or signal.SIGTERM))
