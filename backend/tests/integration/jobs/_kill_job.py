"""What a process of the kill matrix does: it drives a job to its end from wherever it finds it."""

import http.client
import json
import os
import pickle
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backend.tests.integration.jobs._audit import dump
from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.store.state import JOB_ENDS, JobRecord, JobState, StepState
from holdfast.services.jobs import Call, Done, Jobs, NotDone, SqlSource, Worker, handler, open_jobs
from holdfast.services.jobs.writeback import SqlWriteBack

ROWS = 12
JOB = "orders"
SPARED = ("A3", f"A{ROWS}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do. `orders` is the URL of the database with the orders, if they are no file; seconds elsewhere.

    `stop`: the call at which the first worker is told to stop; `extra`: what else is done on the way. `host`: where it
    says that it runs; `back`: the call at which the wall clock goes back an hour; `fail`: the one that fails at first.
    `report`: the file in which all that the store says is left at the end.
    """

    url: str
    folder: str
    port: int
    handler: str = "asked"
    orders: str = ""
    concurrency: int = 3
    record: str = "each"
    lease: float = 15.0
    pace: float = 0.0
    poll: float = 0.05
    stop: int = 0
    extra: str = ""
    host: str = ""
    back: int = 0
    fail: int = 0
    report: str = ""

    def words(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @property
    def file(self) -> Path:
        """The file with the orders."""
        return Path(self.folder) / "orders.csv"


class Here:
    """What the handlers of this process know."""

    plan: Plan
    worker: Worker | None = None
    called = 0
    lock = threading.Lock()


def request(method: str, path: str, body: dict[str, Any] | None = None, key: str = "") -> tuple[int, Any]:
    """Ask the service."""
    connection = http.client.HTTPConnection("127.0.0.1", Here.plan.port, timeout=20)
    try:
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def label(row: Any, call: Call, path: str) -> dict[str, str]:
    """Have a label made."""
    time.sleep(Here.plan.pace)
    with Here.lock:
        Here.called += 1
        if Here.called == Here.plan.stop and Here.worker is not None:
            Here.worker.stop()
        if Here.called == Here.plan.back:
            step_back()
        if Here.called == Here.plan.fail:
            raise ConnectionError("the service cannot be reached")
    status, made = request("POST", path, {"order": row["order"]}, call.idempotency_key)
    assert status == 200
    return {"label": made["label"]}


def step_back() -> None:
    """Let the wall clock of this process go back an hour."""
    real = time.time
    time.time = lambda: real() - 3600.0


def look_up(key: str, row: Any) -> Done | NotDone:
    """Ask whether there is a label."""
    status, _ = request("GET", f"/labels/{key}")
    return Done({"label": f"L-{row['order']}"}) if status == 200 else NotDone()


@handler("asked", reconcile=look_up)
def asked(row: Any, call: Call) -> dict[str, str]:
    """Label; the service can be asked afterwards."""
    return label(row, call, "/labels")


@handler("again", idempotent=True)
def again(row: Any, call: Call) -> dict[str, str]:
    """Label; the service makes one for each key, however often it is asked."""
    return label(row, call, "/once")


@handler("unsure")
def unsure(row: Any, call: Call) -> dict[str, str]:
    """Label; nobody can tell afterwards."""
    return label(row, call, "/labels")


HANDLERS = (asked, again, unsure)


def to_table(job: JobRecord) -> SqlWriteBack:
    """Return what writes labels to the table that the orders came from."""
    return SqlWriteBack(job.new.settings["orders"], "orders", {"label": "label"}, key="order")


def drive(plan: Plan) -> None:
    """Bring the job from where it stands to its end; done twice, the second finds what the first left."""
    Here.plan = plan
    if plan.host:
        socket.gethostname = lambda: plan.host
    if plan.back < 0:
        step_back()
    with open_jobs(plan.url, HANDLERS) as jobs:
        if plan.extra == "locks":
            use_lock(jobs)
        if (Path(plan.folder) / "archive" / f"{JOB}.jsonl").exists() and not jobs.find():
            return
        job = submitted(jobs, plan)
        if job.state is JobState.PENDING and not job.ready:
            jobs.preview(job)
        job = jobs.job(job)
        if job.state is JobState.PREVIEWED:
            assert job.digest is not None
            job = jobs.approve(job, job.digest)
        if plan.extra == "paused" and job.state is JobState.RUNNING:
            jobs.pause(job)
        execute(jobs, job.id, plan)
        if plan.extra == "archived":
            jobs.archive(Path(plan.folder) / "archive", older_than=0)
        if plan.report:
            Path(plan.report).write_bytes(pickle.dumps(dump(jobs.store, ["today"])))


def submitted(jobs: Jobs, plan: Plan) -> JobRecord:
    """Return the job, submitted if it is not there."""
    batch = jobs.create_batch(batch_id="today").id
    terms: dict[str, Any] = {"dedup_key": JOB, "job_id": JOB, "batch": batch}
    terms |= {"max_attempts": 2, "backoff": Backoff(base=0.05)}
    if plan.orders:
        rows = SqlSource(plan.orders, 'SELECT "order", street FROM orders ORDER BY "order"', key="order")
        back, settings = to_table, {"orders": plan.orders}
        return jobs.submit(rows, plan.handler, write_back=back, settings=settings, **terms)
    return jobs.submit(plan.file, plan.handler, write_back={"label": "label"}, key="order", **terms)


def execute(jobs: Jobs, job: str, plan: Plan) -> None:
    """Take back what is left of others, then work until nothing is to do."""
    if jobs.job(job).state not in JOB_ENDS:
        jobs.resume(job, execute=False)
    if plan.extra == "bounded":
        jobs.store.set_concurrency(2)
    if plan.extra == "skipped" and jobs.store.step(job, SPARED[0]).state is StepState.PENDING:
        jobs.skip(job, *SPARED, reason="not these")
    work(jobs, job, plan)
    if plan.extra == "cancelled":
        jobs.cancel_batch("today")
    if plan.stop:
        work(jobs, job, plan)


def work(jobs: Jobs, job: str, plan: Plan) -> None:
    """Let a worker do what it can."""
    record: Any = plan.record
    Here.worker = Worker(
        jobs.store,
        jobs.handlers,
        concurrency=plan.concurrency,
        record=record,
        lease=plan.lease,
        poll=plan.poll,
        job=job,
    )
    Here.worker.run()


def use_lock(jobs: Jobs) -> None:
    """Take a lock, mark it, see the mark, and give it back."""
    store = jobs.store
    owner = f"process {os.getpid()}"
    while (lock := store.acquire("lock", owner, 0.3)) is None:
        time.sleep(0.02)
    store.mark_dirty("lock")
    assert not store.unlock(lock)
    assert store.clear_dirty(lock)
    assert store.unlock(lock)
