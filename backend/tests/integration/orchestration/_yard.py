"""Runs over a store, a folder and a target that does as it is told."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.infrastructure.store.blob import BlobStore
from holdfast.infrastructure.store.state import JobState, StateStore, StepState
from holdfast.services.jobs.graphs import RunAnswer, Runs, Work, first_start
from holdfast.services.jobs.graphs.local import DueTimer, FileNotifier, FolderCode
from holdfast.testing.clock import VirtualClock


def order(name: str, *waits: str, **settings: Any) -> dict[str, Any]:
    """Return an order that waits for others."""
    return {"name": name, "commands": ["true"], "timeout": 60, "depends_on": list(waits), **settings}


def request(*orders: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Return a request."""
    return {"user": "ann", "label": "ci", "repository": "code", "orders": list(orders), **settings}


class Puppets:
    """A target that starts what it gets at once, counts, and leaves results to the test."""

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs = blobs
        self.dispatched: list[str] = []
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.room = True
        self.lost_answer = False
        self._lock = threading.Lock()

    def dispatch(self, work: Work) -> bool:
        """Start an order, unless it has, or an error is due."""
        with self._lock:
            if not self.room:
                return False
            self.dispatched.append(work.order)
            error = self.errors.get(work.order)
            if (error is None or self.lost_answer) and first_start(self.blobs, work):
                self.started.append(work.order)
            if error is not None:
                raise error
            return True

    def cancel(self, work: Work) -> None:
        """Note it."""
        self.cancelled.append(work.order)


class Ears:
    """Whoever hears that results were stored."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def stored(self, key: str) -> None:
        """Note it."""
        self.keys.append(key)


class Yard:
    """Runs, and what they are made of."""

    def __init__(
        self,
        store: StateStore,
        blobs: BlobStore,
        folder: Path,
        clock: VirtualClock | None = None,
        **settings: Any,
    ) -> None:
        self.store, self.blobs, self.clock = store, blobs, clock
        self.code = folder / "sources"
        if not self.code.exists():
            (self.code / "code" / "deep").mkdir(parents=True)
            (self.code / "code" / "run.sh").write_text("echo ran\n", encoding="utf-8")
            (self.code / "code" / "run.sh").chmod(0o755)
            (self.code / "code" / "deep" / "data.bin").write_bytes(bytes(range(256)))
        self.puppets = Puppets(blobs)
        self.notifier = FileNotifier(folder / "comments")
        self.timer = DueTimer()
        self.ears = Ears()
        self.settings = settings
        self.runs = self.again()

    def again(self, **parts: Any) -> Runs:
        """Return the runs as another process would see them; `parts` replaces some."""
        given: dict[str, Any] = {
            "store": self.store,
            "blobs": self.blobs,
            "targets": {"local": self.puppets},
            "notifier": self.notifier,
            "timer": self.timer,
            "listener": self.ears,
            # So that tests may say in which order.
            "at_once": 1,
            **self.settings,
            **parts,
        }
        return Runs(code=FolderCode(self.code), **given)

    def submit(self, *orders: dict[str, Any], **settings: Any) -> str:
        """Submit, evaluate the trigger, and return the run."""
        run = self.runs.submit(request(*orders, **settings)).run_id
        self.runs.evaluate(run)
        return run

    def say(self, run: str, name: str, status: str = "succeeded", **facts: Any) -> bool:
        """Deliver the result of an order."""
        return self.runs.deliver(run, name, json.dumps({"status": status, **facts}).encode())

    def states(self, run: str) -> dict[str, StepState]:
        """Return the state of each order."""
        return {one.name: one.state for one in self.runs.status(run).orders}

    def done(self, run: str) -> dict[str, Any]:
        """Return the summary."""
        found: dict[str, Any] = json.loads(self.blobs.get(f"{run}/done"))
        return found

    def comment(self, answer: RunAnswer) -> str:
        """Return the comment as it is now."""
        return self.notifier.path(answer.search_tag).read_text(encoding="utf-8")

    def ends(self, run: str) -> list[str]:
        """Return the ends in the history of a run: a run has one."""
        ends = {state.value for state in JobState} - {"pending", "previewed", "running", "paused"}
        return [one.state for one in self.store.events(run, kinds=["job"]) if one.state in ends]


def wait_until(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait in real time until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"still not so after {seconds:g} s"
        time.sleep(0.02)
