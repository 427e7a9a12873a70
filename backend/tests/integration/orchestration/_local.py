"""Runs on this machine in real time: subprocesses, and whoever calls when they have ended."""

import time
from queue import Empty, Queue
from typing import Any

from backend.tests.integration.orchestration._yard import Yard, request
from holdfast.services.jobs.graphs.local import LocalTarget


class Machine:
    """Runs whose orders are subprocesses; events wait in a queue until they are pumped."""

    def __init__(self, yard: Yard) -> None:
        self.yard = yard
        self._keys: Queue[str] = Queue()
        self.target = LocalTarget(yard.blobs, self, concurrency=2, cpu=1, memory=1 << 30, log_limit=1000)
        yard.runs = yard.again(targets={"local": self.target}, listener=self)

    def stored(self, key: str) -> None:
        """Hear that a result was stored."""
        self._keys.put(key)

    def submit(self, *orders: dict[str, Any]) -> str:
        """Submit a run; its trigger waits in the queue."""
        return self.yard.runs.submit(request(*orders)).run_id

    def pump(self, *runs: str) -> None:
        """Handle events until runs have finished."""
        end = time.monotonic() + 30
        while not all(self.yard.blobs.exists(f"{run}/done") for run in runs):
            assert time.monotonic() < end, "the runs do not end"
            try:
                self.yard.runs.receive(self._keys.get(timeout=0.05))
            except Empty:
                self.yard.runs.tick()
