"""Jobs on more than one machine, with a handler that waits 20 ms: `python -m benchmarks.jobs_fleet`.

Steps a second of one worker process and of two, in turns, and their ratio, through each engine that carries tickets.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg

from benchmarks._jobs import POSTGRES, end_tidily, lines, machine, payload
from holdfast.infrastructure.store.state import JOB_ENDS
from holdfast.services.jobs import WorkerProcesses, handler, open_jobs
from holdfast.services.jobs.executors import open_executor

RATIO = 1.9
WAIT = 0.02
BROKERS = {"redis": "redis://127.0.0.1:6379/0", "rabbitmq": "amqp://guest:guest@127.0.0.1:5672//"}
WAYS = ("procrastinate", "celery-redis", "celery-rabbitmq")
_LOOK = 0.02
_PATIENCE = 120.0


@handler()
async def wait(row: dict[str, Any]) -> None:
    """Do what a call over a network does: wait."""
    await asyncio.sleep(WAIT)


@contextmanager
def _database(server: str) -> Generator[str]:
    """Give the URL of a new database; it is gone afterwards, with its jobs and tickets."""
    name = f"holdfast_benchmark_{os.getpid()}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            yield urlsplit(server)._replace(path=f"/{name}").geturl()
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit("error: the worker processes did not do their job in time")
        time.sleep(_LOOK)


@contextmanager
def _running(fleet: WorkerProcesses) -> Generator[None]:
    thread = threading.Thread(target=fleet.run, kwargs={"signals": False})
    thread.start()
    try:
        yield
    finally:
        fleet.stop()
        thread.join()


def fleet(url: str, way: str, *, rows: int, lanes: int, processes: int) -> float:
    """Let so many processes do a job, once all of them wait for one; return steps a second on the store's clock."""
    name, _, broker = way.partition("-")
    carried: dict[str, Any] = {
        "broker": BROKERS.get(broker, ""),
        "queue": f"benchmark-{os.getpid()}-{processes}",
    }
    workers = WorkerProcesses(
        url,
        [wait.reference],
        processes=processes,
        executor=name,
        concurrency=lanes,
        **carried,
    )
    executor = open_executor(name, url, **carried)
    with open_jobs(url, [wait], executor=executor) as jobs, _running(workers):
        # Each has a lease from the start, and takes the first small job when its engine is there.
        _until(lambda: len(jobs.store.workers()) >= processes)
        warm = jobs.submit(map(payload, range(20 * lanes * processes)), wait, mode="auto")
        _until(lambda: jobs.job(warm).state in JOB_ENDS)
        job = jobs.submit(map(payload, range(rows * processes)), wait, mode="auto")
        _until(lambda: jobs.job(job).state in JOB_ENDS)
        done = jobs.job(job)
    executor.close()
    if broker:
        _forget(BROKERS[broker], f"{carried['queue']}.default")
    assert done.counts.succeeded == rows * processes
    assert done.finished_at is not None
    return rows * processes / (done.finished_at - done.created_at)


def _forget(url: str, queue: str) -> None:
    """Leave nothing of a queue at its broker."""
    kombu: Any = importlib.import_module("kombu")
    with kombu.Connection(url, transport_options={"priority_steps": [0, 1, 2, 3]}) as connection:
        channel = connection.default_channel
        channel.queue_delete(queue)
        if url.startswith("redis"):
            lists = [queue, *(f"{queue}{channel.sep}{priority}" for priority in (1, 2, 3))]
            bindings = [f"_kombu.{kind}.{queue}" for kind in ("binding", "binding_permanent")]
            channel.client.delete(*lists, *bindings)


def main() -> int:
    """Print a table; with `--check`, exit status 1 where two processes do less than 1.9 times what one does."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=500, help="for each process (default 500)")
    parser.add_argument("--lanes", type=int, default=2, help="calls at once of a process (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="medians are printed (default 3)")
    parser.add_argument("--quick", action="store_true", help="few rows, one round: noisy, for development")
    parser.add_argument("--only", choices=WAYS, help="one engine")
    parser.add_argument("--postgres", default=POSTGRES, help="URL (default %(default)s)")
    parser.add_argument("--check", action="store_true", help="exit with 1 where the goal is missed")
    told = parser.parse_args()
    rows, rounds = (60, 1) if told.quick else (told.rows, told.rounds)
    end_tidily()
    print(machine(), flush=True)
    table, missed = [["steps/s, processes", "1", "2", "ratio"]], 0
    for way in [told.only] if told.only else WAYS:
        pairs: list[tuple[float, ...]] = []
        for _ in range(rounds):
            with _database(told.postgres) as url:
                found = (fleet(url, way, rows=rows, lanes=told.lanes, processes=count) for count in (1, 2))
                pairs.append(tuple(found))
        one, two = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(more / less for less, more in pairs)
        missed += ratio < RATIO
        table.append([way, f"{one:.0f}", f"{two:.0f}", f"{ratio:.2f}{'*' if ratio < RATIO else ' '}"])
        print(*table[-1], file=sys.stderr, flush=True)
    print(lines(table, "lrrr"), flush=True)
    return 1 if missed and told.check else 0


if __name__ == "__main__":
    sys.exit(main())
