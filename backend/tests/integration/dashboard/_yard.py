"""A yard that ships orders, one for each word that it is given, while somebody looks on."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from holdfast.api.internal.jobs.app import Tenants
from holdfast.infrastructure.store.sql import SqlStateStore
from holdfast.infrastructure.store.state import JobRecord, JobState, StepRef, WorkerRecord
from holdfast.services.jobs import Handler, Jobs, Worker


class Yard:
    """Jobs in a real store, done by a real worker, which waits for `allow` before each step."""

    def __init__(self, store: SqlStateStore) -> None:
        self._store = store
        self._allowed = threading.Semaphore(0)
        self._end = threading.Event()
        self.ship = Handler(self._do, name="ship")
        self.tenants = Tenants(store, [self.ship])
        self.jobs: Jobs = self.tenants.jobs(store.tenant)
        self._worker = Worker(store, [self.ship], concurrency=1, ahead=1, poll=0.05)
        self._thread = threading.Thread(target=self._worker.run, kwargs={"signals": False}, daemon=True)

    def start(self) -> None:
        """Let the worker begin."""
        self._thread.start()

    def submit(self, orders: int, name: str, *, bad: int = 0, **settings: Any) -> JobRecord:
        """Submit a job that may run at once; its first `bad` orders fail."""
        rows = [{"order": f"A-{number}", "bad": number <= bad} for number in range(1, orders + 1)]
        given: dict[str, Any] = {"mode": "auto", **settings}
        return self.jobs.submit(rows, self.ship, name=name, key="order", **given)

    def preview(self, job: JobRecord) -> None:
        """Preview a job: in a thread, because the browser's loop runs in this one."""
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self.jobs.preview, job).result()

    def allow(self, steps: int) -> None:
        """Let so many steps be done."""
        self._allowed.release(steps)

    def drip(self) -> None:
        """Let a step be done each quarter of a second from now on."""
        threading.Thread(target=self._drip, daemon=True).start()

    def _drip(self) -> None:
        while not self._end.wait(0.25):
            self.allow(1)

    def state(self, job: JobRecord) -> JobState:
        """Return the state of a job in the store."""
        return self._store.job(job.id).state

    def leave(self, job: JobRecord, begun: int) -> None:
        """Leave so many steps as a worker does that was killed in the middle of their calls."""
        self._store.register(WorkerRecord(id="dead", host="elsewhere", pid=1, born="1", expires_at=0.0), 60)
        steps = self._store.claim("dead", begun, job=job.id)
        self._store.advance(
            "dead", begin=[StepRef(job=one.job, position=one.position, fence=one.fence) for one in steps]
        )
        # Nobody renews it any more.
        ended = self._store.renew("dead", 0.001).expires_at
        while self._store.now() < ended:
            pass
        self.jobs.recover()

    def close(self) -> None:
        """Stop the worker and close the store."""
        self._end.set()
        self.allow(10_000)
        if self._thread.is_alive():
            self._worker.stop()
            self._thread.join(10.0)
        self._store.close()

    def _do(self, row: dict[str, Any]) -> str:
        self._allowed.acquire()
        if row["bad"] and not self._end.is_set():
            raise ValueError(f"{row['order']} has no address")
        return f"L-{row['order']}"
