"""Celery, for `jobs_peers`: a task for each row, acknowledged late, its result kept."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks import _jobs_peer as peer
from benchmarks._jobs import payload

# Any: the type checkers do not need the package.
celery: Any = importlib.import_module("celery")
signals: Any = importlib.import_module("celery.signals")


def app_of(told: peer.Told) -> tuple[Any, Any]:
    """Return an app and its task."""
    app = celery.Celery("holdfast-bench", broker=told.options["broker"], backend=told.options["backend"])
    app.conf.update(
        task_default_queue=told.options["queue"],
        # For short tasks the documentation advises 64 or 128 instead of 4.
        worker_prefetch_multiplier=128,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        # What is not needed here and would cost time.
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_disable_rate_limits=True,
        # The broker has it on its disk when the submission returns. Redis knows no such thing.
        broker_transport_options=told.options["transport"],
        result_expires=None,
    )

    @app.task(name="noop")  # type: ignore[untyped-decorator]
    def noop(row: dict[str, Any]) -> None:
        """Do nothing."""

    return app, noop


def submit(told: peer.Told) -> None:
    """Send a task for each row, over one connection."""
    app, task = app_of(told)

    def send() -> None:
        with app.producer_or_acquire() as producer:
            for row in range(told.rows):
                task.apply_async((payload(row),), producer=producer)

    peer.timed(send)


def work(told: peer.Told) -> None:
    """Run a worker until it is stopped."""
    app, _ = app_of(told)

    @signals.worker_ready.connect  # type: ignore[untyped-decorator]
    def ready(**_: Any) -> None:
        peer.begin()

    app.worker_main(
        [
            "worker",
            "--loglevel=ERROR",
            f"--concurrency={told.lanes}",
            f"--pool={told.options['pool']}",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    )


def clean(told: peer.Told) -> None:
    """Leave nothing at the broker and in the results."""
    app, _ = app_of(told)
    name = told.options["queue"]
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.queue_delete(name)
        if connection.transport.driver_type == "amqp":
            channel.exchange_delete(name)
        else:
            channel.client.flushdb()
    if told.options["backend"].startswith("redis"):
        app.backend.client.flushdb()


if __name__ == "__main__":
    peer.run(submit=submit, work=work, clean=clean)
