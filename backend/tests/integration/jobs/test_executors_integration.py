"""Every executor × tickets: carried whole, so many at once, dropped when they fail, kept while nobody works."""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest

from backend.tests.integration.jobs._fleet import Way
from backend.tests.integration.jobs._outside import until
from holdfast.services.jobs.executors import Executor, Ticket, open_executor

PATIENCE = 30.0


def ticket(job: str, priority: int = 3) -> Ticket:
    """Return a ticket of a job."""
    return Ticket(tenant="default", job=job, steps=7, priority=priority)


@contextmanager
def working(
    executor: Executor, take: Callable[[Ticket], None], at_once: int = 2
) -> Generator[threading.Event]:
    """Have tickets taken for a `with` block."""
    stop = threading.Event()
    thread = threading.Thread(target=executor.work, args=(take,), kwargs={"at_once": at_once, "stop": stop})
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_tickets_come_whole_and_failures_are_dropped(executor: Executor) -> None:
    """What was sent before anybody worked, or while somebody does, is taken as it was sent; no failure is repeated."""
    taken: list[Ticket] = []

    def take(one: Ticket) -> None:
        taken.append(one)
        if one.job == "b":
            raise RuntimeError("as planned")

    sent = [ticket("a"), ticket("b", 1), ticket("c", 4)]
    for one in sent:
        executor.submit(one)
    with working(executor, take):
        until(lambda: len(taken) == 3, PATIENCE)
        executor.submit(ticket("d", 2))
        until(lambda: len(taken) == 4, PATIENCE)
        time.sleep(0.3)

    assert sorted(taken, key=lambda one: one.job) == [*sent, ticket("d", 2)]


def test_so_many_are_taken_at_once_and_the_urgent_first(executor: Executor) -> None:
    """Exactly as many tickets as asked for are taken at the same time; of those that wait, the most urgent is next."""
    gate = threading.Event()
    began: list[str] = []
    most = now = 0
    lock = threading.Lock()

    def take(one: Ticket) -> None:
        nonlocal most, now
        with lock:
            began.append(one.job)
            now += 1
            most = max(most, now)
        gate.wait(PATIENCE)
        with lock:
            now -= 1

    with working(executor, take):
        for job in ("a", "b"):
            executor.submit(ticket(job))
        until(lambda: len(began) == 2, PATIENCE)
        for job, priority in (("late", 4), ("soon", 1), ("usual", 3)):
            executor.submit(ticket(job, priority))
        time.sleep(0.5)
        assert sorted(began) == ["a", "b"]
        gate.set()
        until(lambda: len(began) == 5, PATIENCE)

    assert most == 2
    assert began.index("soon") < began.index("late")


def test_who_stops_ends_what_it_has_and_leaves_the_rest(executor: Executor) -> None:
    """Told to stop, it waits for what is being taken; what nobody took is there for whoever comes next."""
    gate = threading.Event()
    began: list[str] = []
    ended: list[str] = []

    def take(one: Ticket) -> None:
        began.append(one.job)
        gate.wait(PATIENCE)
        ended.append(one.job)

    with working(executor, take, at_once=1) as stop:
        executor.submit(ticket("a"))
        until(lambda: began == ["a"], PATIENCE)
        executor.submit(ticket("b"))
        stop.set()
        threading.Timer(0.3, gate.set).start()
    assert began == ended == ["a"]

    with working(executor, take, at_once=1):
        until(lambda: ended == ["a", "b"], PATIENCE)


def test_what_waits_of_a_job_can_be_taken_back(executor: Executor) -> None:
    """Cancelled, the tickets of a job are not taken, where the engine can search; those of others are."""
    taken: list[str] = []
    executor.submit(ticket("a"))
    executor.submit(ticket("b"))
    found = executor.cancel(ticket("a"))

    with working(executor, lambda one: taken.append(one.job)):
        until(lambda: len(taken) == 2 - found, PATIENCE)

    assert sorted(taken) == (["b"] if found else ["a", "b"])


def test_executors_are_opened_by_name() -> None:
    """An executor that is unknown, or lacks what it needs, is refused with what to give."""
    with pytest.raises(ValueError, match="unknown; give local, procrastinate or celery"):
        open_executor("nobody", "memory:")
    with pytest.raises(ValueError, match="amqp://"):
        open_executor("celery", "memory:", broker="kafka://127.0.0.1")
    with pytest.raises(ValueError, match="postgresql://"):
        open_executor("procrastinate", "sqlite:///jobs.db")


def test_brokers_keep_a_ticket_of_ten_minutes(redis_url: str, rabbitmq_url: str) -> None:
    """Neither broker gives a ticket to a second worker because the first takes long, nor one ahead to a busy worker."""
    for url in (redis_url, rabbitmq_url):
        way = Way(executor="celery", store="", broker=url)
        executor: Any = way.open()
        app: Any = executor._app  # noqa: SLF001
        queue: Any = app.conf.task_queues[0]
        visible: float = app.conf.broker_transport_options.get("visibility_timeout", 0)
        consumed: float = dict[str, Any](queue.queue_arguments or {}).get("x-consumer-timeout", 0) / 1000
        assert max(visible, consumed) > 86_400
        assert app.conf.task_acks_late is True
        assert app.conf.worker_prefetch_multiplier == 1
        executor.close()
