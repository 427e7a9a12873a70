"""Executors by name, as the command line has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.services.jobs.executors.celery import CeleryExecutor
from holdfast.services.jobs.executors.local import LocalExecutor
from holdfast.services.jobs.executors.procrastinate import ProcrastinateExecutor

if TYPE_CHECKING:
    from holdfast.services.jobs.executors.tickets import Executor


def open_executor(
    name: str, store: str, *, tenant: str = "default", broker: str = "", queue: str = "holdfast"
) -> Executor:
    """Return the executor "local", "procrastinate" or "celery" for a tenant of a store. ValueError for what is wrong.

    `broker`: of Celery, `amqp://…` or `redis://…`; `queue`: whoever has another one gets none of these tickets.
    """
    own = f"{queue}.{tenant}"
    if name == "local":
        return LocalExecutor()
    if name == "procrastinate":
        return ProcrastinateExecutor(store, queue=own)
    if name == "celery":
        return CeleryExecutor(broker, queue=own)
    raise ValueError(f"executor {name!r} is unknown; give local, procrastinate or celery")
