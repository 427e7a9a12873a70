"""Tickets by Celery (extra `celery`), over RabbitMQ or Redis."""

from __future__ import annotations

import logging
import threading
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience.clock import SYSTEM
from holdfast.services.jobs.executors._carry import TASK, carried, words_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.services.jobs.executors.tickets import Ticket

_log = logging.getLogger("holdfast.jobs")
# A ticket stays with its worker until that is gone: brokers would give one that takes long to somebody else as well.
_LONG = 30 * 86_400
_PRIORITIES = 4
_AGAIN, _TICK = 0.5, 0.02
# Seconds between two tries to reach a broker that is away. Celery would wait longer each time, up to half a minute.
_RETRY = 0.5
# What a part of Celery's worker calls itself while it runs.
_RUNS = 1


class CeleryExecutor:
    """Carry tickets over a broker, `amqp://…` or `redis://…`. ValueError for another."""

    def __init__(self, broker: str, *, queue: str = "holdfast") -> None:
        scheme = broker.partition("://")[0]
        self._redis = scheme in {"redis", "rediss"}
        if not (self._redis or scheme in {"amqp", "amqps", "pyamqp"}):
            raise ValueError(
                "Celery needs a broker: give the URL of a RabbitMQ, amqp://…, or a Redis, redis://…"
            )
        self._queue = queue
        self._broker = broker
        self._app = self._made()
        # Not the pools of kombu, which all apps of a process share.
        self._sending = self._app.connection_for_write()
        self._lock = threading.Lock()

    def _made(self) -> Any:
        celery: Any = import_module("celery")
        kombu: Any = import_module("kombu")
        app = celery.Celery("holdfast", broker=self._broker, set_as_current=False)
        app.conf.update(
            # Acknowledged when it was taken to its end, and none fetched beforehand: what a busy worker would hold
            # back, an idle one takes.
            task_acks_late=True,
            worker_prefetch_multiplier=1,
            task_ignore_result=True,
            # After a reconnection it is restored by threads, which share the connection then and wait for each other.
            worker_enable_prefetch_count_reduction=False,
            broker_connection_retry_on_startup=True,
            broker_connection_max_retries=None,
            broker_transport_options=self._transport(),
            task_queues=[kombu.Queue(self._queue, queue_arguments=self._arguments())],
            task_default_queue=self._queue,
            worker_enable_remote_control=False,
            worker_send_task_events=False,
        )
        return app

    def _transport(self) -> dict[str, Any]:
        if self._redis:
            return {"visibility_timeout": _LONG, "priority_steps": list(range(_PRIORITIES))}
        return {"max_retries": 1, "interval_start": 0}

    def _arguments(self) -> dict[str, Any]:
        if self._redis:
            return {}
        return {"x-consumer-timeout": _LONG * 1000, "x-max-priority": _PRIORITIES}

    def submit(self, ticket: Ticket) -> bool:
        """Send a ticket."""
        # RabbitMQ has the largest number first, the emulation over Redis the smallest.
        priority = ticket.priority - 1 if self._redis else _PRIORITIES - ticket.priority
        with self._lock:
            self._app.send_task(
                TASK,
                kwargs=words_of(ticket),
                queue=self._queue,
                priority=priority,
                connection=self._sending,
                retry=True,
                retry_policy={"max_retries": 1, "interval_start": 0},
            )
        return True

    def cancel(self, ticket: Ticket) -> int:
        """Take back nothing: brokers cannot be searched, and what waits finds nothing to do."""
        return 0

    def work(self, take: Callable[[Ticket], None], *, at_once: int, stop: threading.Event) -> None:
        """Give each ticket to `take`, in threads, `at_once` at most, until `stop` is set and those have ended.

        Once at a time in a process.
        """

        def carry(**words: Any) -> None:
            carried(take, words)

        app = self._made()
        app.task(name=TASK, shared=False, lazy=False)(carry)
        app.steps["worker"].add(_ticking())
        # Where the threads of the pool look for tasks.
        app.set_default()
        with _Ending(stop):
            while not stop.is_set():
                worker = app.WorkController(
                    pool="threads",
                    concurrency=at_once,
                    consumer_cls=_consumer(),
                    without_gossip=True,
                    without_mingle=True,
                    without_heartbeat=True,
                )
                worker.start()
                SYSTEM.wait(stop, _AGAIN)

    def close(self) -> None:
        """Give back connections; calling it again does nothing."""
        with self._lock:
            self._sending.release()


def _ticking() -> type:
    """Return a part of a worker that has its loop look up often: what threads have done waits for that."""
    steps: Any = import_module("celery.bootsteps")

    class Ticking(steps.StartStopStep):  # type: ignore[misc]
        def register_with_event_loop(self, worker: Any, hub: Any) -> None:
            hub.call_repeatedly(_TICK, _nothing)

    return Ticking


def _consumer() -> type:
    """Return a consumer that tries to reach its broker at a steady pace, and notices that it has lost it."""
    consumers: Any = import_module("celery.worker.consumer")
    base: Any = consumers.Consumer

    class Consumer(base):  # type: ignore[misc]
        def ensure_connected(self, conn: Any) -> Any:
            pace = {"interval_start": _RETRY, "interval_step": 0, "interval_max": _RETRY}
            conn.ensure_connection = partial(conn.ensure_connection, **pace)
            return base.ensure_connected(self, conn)

        def create_task_handler(self, *args: Any, **settings: Any) -> Any:
            receive: Any = base.create_task_handler(self, *args, **settings)
            connected = self.restart_count

            def received(message: Any) -> None:
                message.ack_log_error = partial(self._acknowledge, message, connected)
                receive(message)

            return received

        def _acknowledge(
            self, message: Any, connected: int, log: Any, errors: Any, *, multiple: bool = False
        ) -> None:
            """Acknowledge; where that fails, connect anew.

            Who is busy does not listen to Redis; a ticket that cannot be acknowledged would keep its place for good.
            """
            try:
                message.ack(multiple=multiple)
            except errors as error:
                _log.info("a ticket could not be acknowledged: %r", error)
                if connected == self.restart_count and self.blueprint.state == _RUNS:
                    raise

    return Consumer


def _nothing() -> None:
    """Do nothing."""


class _Ending:
    """Have a worker of Celery end with an event, for a `with` block: it looks at a variable of its own process."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._over = threading.Event()
        self._state: Any = import_module("celery.worker.state")

    def __enter__(self) -> None:
        state = self._state
        state.should_stop = state.should_terminate = None
        self._thread = threading.Thread(target=self._follow, daemon=True, name="holdfast-celery")
        self._thread.start()

    def _follow(self) -> None:
        self._stop.wait()
        if not self._over.is_set():
            self._state.should_stop = 0

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._state.should_stop = None
