"""Graphs of orders that run event by event, without a process that must stay alive."""

from __future__ import annotations

from holdfast.services.jobs.graphs.delivery import Delivery, read_delivery
from holdfast.services.jobs.graphs.ports import (
    CodeSource,
    Comment,
    ResultListener,
    RunNotifier,
    RunTimer,
    Target,
    Work,
    first_start,
)
from holdfast.services.jobs.graphs.request import Order, RequestRefusedError, RunRequest, parse_request
from holdfast.services.jobs.graphs.runs import OrderView, RunAnswer, Runs, RunSummary, RunView, Verdict
from holdfast.services.jobs.graphs.service import RunService

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
