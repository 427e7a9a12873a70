"""Jobs of holdfast, for `jobs_peers`: a worker of one process."""

from __future__ import annotations

from benchmarks import _jobs_peer as peer
from benchmarks._jobs import noop, noop_sync, payload
from holdfast.services.jobs import Handler, Worker, open_jobs


def _handler(told: peer.Told) -> Handler:
    return noop_sync if told.options["sync"] else noop


def submit(told: peer.Told) -> None:
    """One job of so many rows."""
    with open_jobs(told.url) as jobs:
        peer.timed(lambda: jobs.submit(map(payload, range(told.rows)), _handler(told), mode="auto"))


def work(told: peer.Told) -> None:
    """Do it."""
    with open_jobs(told.url, [_handler(told)]) as jobs:
        worker = Worker(
            jobs.store,
            jobs.handlers,
            concurrency=told.lanes,
            record=told.options["record"],
            job=jobs.find()[0].id,
        )
        peer.begin()
        worker.run(signals=False)


if __name__ == "__main__":
    peer.run(submit=submit, work=work)
