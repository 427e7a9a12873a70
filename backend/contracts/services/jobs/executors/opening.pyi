"""Executors by name, as the command line has them."""

from holdfast.services.jobs.executors.tickets import Executor

def open_executor(
    name: str, store: str, *, tenant: str = "default", broker: str = "", queue: str = "holdfast"
) -> Executor:
    """Return the executor "local", "procrastinate" or "celery" for a tenant of a store. ValueError for what is wrong.

    `broker`: of Celery, `amqp://…` or `redis://…`; `queue`: whoever has another one gets none of these tickets.
    """
