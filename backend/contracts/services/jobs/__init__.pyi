"""Durable jobs: batches, jobs and steps that finish after a crash."""

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
