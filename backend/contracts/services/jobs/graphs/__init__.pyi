"""Graphs of orders that run event by event, without a process that must stay alive."""

from holdfast.services.jobs.graphs.delivery import Delivery as Delivery
from holdfast.services.jobs.graphs.delivery import read_delivery as read_delivery
from holdfast.services.jobs.graphs.ports import CodeSource as CodeSource
from holdfast.services.jobs.graphs.ports import Comment as Comment
from holdfast.services.jobs.graphs.ports import ResultListener as ResultListener
from holdfast.services.jobs.graphs.ports import RunNotifier as RunNotifier
from holdfast.services.jobs.graphs.ports import RunTimer as RunTimer
from holdfast.services.jobs.graphs.ports import Target as Target
from holdfast.services.jobs.graphs.ports import Work as Work
from holdfast.services.jobs.graphs.ports import first_start as first_start
from holdfast.services.jobs.graphs.request import Order as Order
from holdfast.services.jobs.graphs.request import RequestRefusedError as RequestRefusedError
from holdfast.services.jobs.graphs.request import RunRequest as RunRequest
from holdfast.services.jobs.graphs.request import parse_request as parse_request
from holdfast.services.jobs.graphs.runs import OrderView as OrderView
from holdfast.services.jobs.graphs.runs import RunAnswer as RunAnswer
from holdfast.services.jobs.graphs.runs import Runs as Runs
from holdfast.services.jobs.graphs.runs import RunSummary as RunSummary
from holdfast.services.jobs.graphs.runs import RunView as RunView
from holdfast.services.jobs.graphs.runs import Verdict as Verdict
from holdfast.services.jobs.graphs.service import RunService as RunService

__all__ = [
    "CodeSource",
    "Comment",
    "Delivery",
    "Order",
    "OrderView",
    "RequestRefusedError",
    "ResultListener",
    "RunAnswer",
    "RunNotifier",
    "RunRequest",
    "RunService",
    "RunSummary",
    "RunTimer",
    "RunView",
    "Runs",
    "Target",
    "Verdict",
    "Work",
    "first_start",
    "parse_request",
    "read_delivery",
]
