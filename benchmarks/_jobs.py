"""What the benchmarks of jobs share: handlers that do nothing, places for a store, and what the machine gives."""

from __future__ import annotations

import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from holdfast.infrastructure.store.sql import create_tenant, drop_tenant
from holdfast.services.jobs import handler

POSTGRES = "postgresql://postgres@127.0.0.1/postgres"
_PAGE = 4096


@handler()
async def noop(payload: Any) -> None:
    """Do nothing."""


@handler()
def noop_sync(payload: Any) -> None:
    """Do nothing, in a thread."""


def end_tidily() -> None:
    """Let SIGTERM, as Ctrl-C does, leave through every `finally`."""
    signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def payload(number: int) -> dict[str, Any]:
    """Return what a row says."""
    return {"order": f"A{number:07d}", "sku": f"ABC-{number % 99_991:05d}", "quantity": 1 + number % 7}


@contextmanager
def place(kind: str, postgres: str = POSTGRES) -> Generator[tuple[str, str]]:
    """Give the URL and the tenant of a new store, "SQLite" or "PostgreSQL"; it is gone afterwards."""
    if kind == "SQLite":
        with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
            yield f"sqlite:///{folder}/jobs.db", "default"
        return
    tenant = f"benchmark-{os.getpid()}"
    create_tenant(postgres, tenant)
    try:
        yield postgres, tenant
    finally:
        drop_tenant(postgres, tenant)


def sync_time(times: int = 200) -> float:
    """Return how long the disk takes to make one page durable, in seconds: the median."""
    with tempfile.TemporaryFile() as file:
        number, page, took = file.fileno(), b"x" * _PAGE, list[float]()
        os.write(number, page * times)
        os.fsync(number)
        os.lseek(number, 0, os.SEEK_SET)
        for _ in range(times):
            os.write(number, page)
            start = time.perf_counter()
            os.fdatasync(number)
            took.append(time.perf_counter() - start)
    return statistics.median(took)


def peak() -> float:
    """Return the most memory that this process has had, in MB."""
    # Not `getrusage`: what it says of a process counts the one that started it.
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("the system does not say how much memory a process has had")


def machine() -> str:
    """Return in one line where this was measured."""
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, {os.cpu_count()} processors, load {load}; the disk syncs a page in {sync_time() * 1e6:.0f} µs"


def lines(rows: Sequence[Sequence[str]], flush: str) -> str:
    """Return rows as columns, flush left where `flush` has an "l", right where it has an "r"."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if side == "l" else cell.rjust(width)
            for cell, width, side in zip(row, widths, flush, strict=True)
        ).rstrip()
        for row in rows
    )
