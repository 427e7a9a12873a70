"""Durable jobs: batches, jobs and steps that finish after a crash."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.services.jobs.errors import HandlerNotFoundError as HandlerNotFoundError
    from holdfast.services.jobs.errors import JobsError as JobsError
    from holdfast.services.jobs.errors import ModeLockedError as ModeLockedError
    from holdfast.services.jobs.errors import NotApprovedError as NotApprovedError
    from holdfast.services.jobs.errors import NotConfirmedError as NotConfirmedError
    from holdfast.services.jobs.errors import NotEndedError as NotEndedError
    from holdfast.services.jobs.handlers import Call as Call
    from holdfast.services.jobs.handlers import Done as Done
    from holdfast.services.jobs.handlers import Handler as Handler
    from holdfast.services.jobs.handlers import Handlers as Handlers
    from holdfast.services.jobs.handlers import NotDone as NotDone
    from holdfast.services.jobs.handlers import Unknown as Unknown
    from holdfast.services.jobs.handlers import handler as handler
    from holdfast.services.jobs.jobs import Interrupted as Interrupted
    from holdfast.services.jobs.jobs import Jobs as Jobs
    from holdfast.services.jobs.jobs import Reconciled as Reconciled
    from holdfast.services.jobs.jobs import open_jobs as open_jobs
    from holdfast.services.jobs.modes import Mode as Mode
    from holdfast.services.jobs.modes import Session as Session
    from holdfast.services.jobs.notify import Ended as Ended
    from holdfast.services.jobs.notify import LogNotifier as LogNotifier
    from holdfast.services.jobs.notify import Notifier as Notifier
    from holdfast.services.jobs.preview import Preview as Preview
    from holdfast.services.jobs.preview import Quote as Quote
    from holdfast.services.jobs.processes import WorkerProcesses as WorkerProcesses
    from holdfast.services.jobs.progress import Progress as Progress
    from holdfast.services.jobs.progress import Result as Result
    from holdfast.services.jobs.sources import CsvSource as CsvSource
    from holdfast.services.jobs.sources import ExcelSource as ExcelSource
    from holdfast.services.jobs.sources import JsonLinesSource as JsonLinesSource
    from holdfast.services.jobs.sources import SqlSource as SqlSource
    from holdfast.services.jobs.steps import Step as Step
    from holdfast.services.jobs.worker import Worker as Worker
    from holdfast.services.jobs.worker import WorkerConfig as WorkerConfig

__all__ = [
    "Call",
    "CsvSource",
    "Done",
    "Ended",
    "ExcelSource",
    "Handler",
    "HandlerNotFoundError",
    "Handlers",
    "Interrupted",
    "Jobs",
    "JobsError",
    "JsonLinesSource",
    "LogNotifier",
    "Mode",
    "ModeLockedError",
    "NotApprovedError",
    "NotConfirmedError",
    "NotDone",
    "NotEndedError",
    "Notifier",
    "Preview",
    "Progress",
    "Quote",
    "Reconciled",
    "Result",
    "Session",
    "SqlSource",
    "Step",
    "Unknown",
    "Worker",
    "WorkerConfig",
    "WorkerProcesses",
    "handler",
    "open_jobs",
]

_HOMES = {
    "errors": (
        "HandlerNotFoundError",
        "JobsError",
        "ModeLockedError",
        "NotApprovedError",
        "NotConfirmedError",
        "NotEndedError",
    ),
    "handlers": ("Call", "Done", "Handler", "Handlers", "NotDone", "Unknown", "handler"),
    "jobs": ("Interrupted", "Jobs", "Reconciled", "open_jobs"),
    "steps": ("Step",),
    "modes": ("Mode", "Session"),
    "notify": ("Ended", "LogNotifier", "Notifier"),
    "preview": ("Preview", "Quote"),
    "processes": ("WorkerProcesses",),
    "progress": ("Progress", "Result"),
    "sources": ("CsvSource", "ExcelSource", "JsonLinesSource", "SqlSource"),
    "worker": ("Worker", "WorkerConfig"),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = found
        return found
