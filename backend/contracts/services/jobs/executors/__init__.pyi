"""More than one machine: engines that carry tickets to workers. The ledger keeps claims, leases and fences."""

from holdfast.services.jobs.executors.celery import CeleryExecutor
from holdfast.services.jobs.executors.local import LocalExecutor
from holdfast.services.jobs.executors.opening import open_executor
from holdfast.services.jobs.executors.procrastinate import ProcrastinateExecutor
from holdfast.services.jobs.executors.tickets import Executor, Ticket
from holdfast.services.jobs.executors.worker import TicketWorker

__all__ = [
    "CeleryExecutor",
    "Executor",
    "LocalExecutor",
    "ProcrastinateExecutor",
    "Ticket",
    "TicketWorker",
    "open_executor",
]
