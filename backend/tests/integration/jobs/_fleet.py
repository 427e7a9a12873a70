"""Workers with tickets, as processes that seem to be on machines of their own, and the engines that carry those.

`python -m … URL EXECUTOR BROKER QUEUE` is one worker; OUTSIDE, PACE, LEASE and LANES are in its environment.
"""

import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import holdfast
from backend.tests.integration.jobs._outside import HANDLERS, ROOT, until
from holdfast.infrastructure.store.state import StateStore
from holdfast.services.jobs import Jobs, handler, open_jobs
from holdfast.services.jobs.executors import Executor, LocalExecutor, Ticket, TicketWorker, open_executor

WAYS = ["procrastinate", "celery-redis", "celery-rabbitmq"]


@handler("gate")
def gate(row: Any) -> None:
    """Call; it returns when somebody opens the gate."""
    shut = Path(os.environ["OUTSIDE"]).with_suffix(".shut")
    Path(os.environ["OUTSIDE"]).with_suffix(".entered").touch()
    while shut.exists():
        time.sleep(0.02)


@dataclass(kw_only=True)
class Way:
    """One way to carry tickets: an executor, its broker, and a queue of the test's own."""

    executor: str
    store: str
    broker: str = ""
    queue: str = field(default_factory=lambda: f"holdfast-test-{uuid4().hex[:12]}")

    def open(self) -> Executor:
        """Open the executor in this process."""
        return open_executor(self.executor, self.store, broker=self.broker, queue=self.queue)

    @property
    def name(self) -> str:
        """What the queue is called where it is."""
        return f"{self.queue}.default"

    def lose(self) -> None:
        """Drop the tickets that wait."""
        if self.executor == "procrastinate":
            psycopg: Any = importlib.import_module("psycopg")
            options = "-c search_path=tickets_of_holdfast"
            with psycopg.connect(self.store, autocommit=True, options=options) as connection:
                connection.execute("DELETE FROM procrastinate_jobs WHERE status = 'todo'")
        elif self.executor == "celery":
            self._at_broker(lambda channel: channel.queue_purge(self.name))

    def clear(self) -> None:
        """Leave nothing at the broker."""
        if self.executor == "celery":
            self._at_broker(self._forget)

    def _at_broker(self, act: Callable[[Any], object]) -> None:
        kombu: Any = importlib.import_module("kombu")
        with kombu.Connection(self.broker, transport_options={"priority_steps": [0, 1, 2, 3]}) as connection:
            act(connection.default_channel)

    def _forget(self, channel: Any) -> None:
        if not self.broker.startswith("redis"):
            channel.queue_delete(self.name)
            return
        client = channel.client
        for number in range(4):
            client.delete(self.name if not number else f"{self.name}\x06\x16{number}")
        client.delete(f"_kombu.binding.{self.name}", f"_kombu.binding_permanent.{self.name}")
        # What workers had that were killed.
        for tag, message in client.hgetall("unacked").items():
            if self.name.encode() in message:
                client.hdel("unacked", tag)
                client.zrem("unacked_index", tag)


class Post(LocalExecutor):
    """Tickets within this process, counted; with `carry` off what is sent is kept, and what is handed in is taken."""

    def __init__(self, *, carry: bool = True) -> None:
        super().__init__()
        self._carry = carry
        self._lock = threading.Lock()
        self.sent: list[Ticket] = []
        self.begun = self.taken = self.most_waiting = 0

    def submit(self, ticket: Ticket) -> bool:
        """Send a ticket."""
        with self._lock:
            self.sent.append(ticket)
            self.most_waiting = max(self.most_waiting, len(self.sent) - self.begun)
        return super().submit(ticket) if self._carry else True

    def hand_in(self, ticket: Ticket) -> None:
        """Have a ticket taken that nobody sent."""
        super().submit(ticket)

    def work(self, take: Callable[[Ticket], None], *, at_once: int, stop: threading.Event) -> None:
        """Give each ticket to `take`."""

        def count(ticket: Ticket) -> None:
            with self._lock:
                self.begun += 1
            take(ticket)
            with self._lock:
                self.taken += 1

        super().work(count, at_once=at_once, stop=stop)


@contextmanager
def at_work(jobs: Jobs, post: Executor, lanes: int = 1, lease: float = 15.0) -> Generator[None]:
    """Have a worker with tickets work in this process, for a `with` block."""
    worker = TicketWorker(jobs.store, jobs.handlers, post, concurrency=lanes, lease=lease)
    thread = threading.Thread(target=worker.run, kwargs={"signals": False})
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join()


class Fleet:
    """Worker processes."""

    def __init__(self, way: Way, outside: Path) -> None:
        self.way = way
        self.outside = outside
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, count: int, **environ: str) -> None:
        """Start workers, and wait until they have leases."""
        way = self.way
        roots = [str(Path(holdfast.__file__).parents[1]), str(ROOT)]
        for number in range(count):
            settings = {
                **os.environ,
                "OUTSIDE": str(self.outside),
                "PYTHONPATH": os.pathsep.join(roots),
                "HOST": f"machine-{number}",
                **environ,
            }
            words = [way.store, way.executor, way.broker, way.queue]
            program = [sys.executable, "-m", "backend.tests.integration.jobs._fleet", *words]
            self.processes.append(subprocess.Popen(program, cwd=ROOT, env=settings))

    def ready(self, store: StateStore) -> None:
        """Wait until all have begun."""
        until(lambda: len(store.workers()) >= len(self.processes), 60.0)

    def kill(self, number: int, with_: signal.Signals) -> int:
        """Send a signal to a worker; return its process's id."""
        os.kill(self.processes[number].pid, with_)
        return self.processes[number].pid

    def drain(self) -> list[int]:
        """Stop all that are left; return how each ended."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        return [process.wait(timeout=60) for process in self.processes]

    def close(self) -> None:
        """End them."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()


def through(url: str, port: int) -> str:
    """Return a URL by way of a relay on another port."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    return parts._replace(netloc=f"{login}@127.0.0.1:{port}" if login else f"127.0.0.1:{port}").geturl()


def main(url: str, executor: str, broker: str, queue: str) -> None:
    """Work until told to stop."""
    socket.gethostname = lambda: os.environ["HOST"]
    with open_jobs(url, [*HANDLERS.values(), gate]) as jobs:
        TicketWorker(
            jobs.store,
            jobs.handlers,
            open_executor(executor, url, broker=broker, queue=queue),
            concurrency=int(os.environ.get("LANES", "2")),
            lease=float(os.environ.get("LEASE", "15")),
        ).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
