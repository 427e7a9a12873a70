"""Handlers of AWS Lambda (extra `aws`) over the same `Runs`; run as a program, it executes one order elsewhere."""

from collections.abc import Mapping
from typing import Any

from holdfast.infrastructure.store.blob import BlobStore
from holdfast.services.jobs.graphs.ports import Work

ENVIRONMENT: Mapping[str, str] = {
    "HOLDFAST_TABLE": "the table of jobs",
    "HOLDFAST_BUCKET": "the bucket of archives, results, logs and code",
    "HOLDFAST_TENANT": "whose runs; default",
    "HOLDFAST_TIMER": "the state machine that calls watchdog_check; none: only the schedule does",
    "HOLDFAST_WORKER": "the function of the target lambda; none: there is no such target",
    "HOLDFAST_BUILDS": "the project of the target codebuild; none: there is no such target",
    "HOLDFAST_INSTANCES": "ids of the instances of the target ssm, with commas; none: there is no such target",
}
"""The variables that the handlers read; table and bucket are needed."""

def process_webhook(event: Mapping[str, Any], context: object = None) -> dict[str, Any]:
    """Submit a run from an HTTP event, a message of SNS, or a request itself; answer as HTTP does.

    202 with ids, comment and where the summary will be; 400, 405 or 409 with every fault.
    """

def orchestrator(event: Mapping[str, Any], context: object = None) -> dict[str, Any]:
    """Evaluate the runs of which results were stored, as an event of S3 or EventBridge says: once each.

    An error fails the event, which then comes again.
    """

def watchdog_check(event: Mapping[str, Any], context: object = None) -> dict[str, Any]:
    """Look after an order or, with number 0, a run, as the timer says; after all runs if the event names none."""

def worker(event: Mapping[str, Any], context: object = None) -> dict[str, Any]:
    """Execute an order; one that has started somewhere is left alone, for events come more than once."""

def execute(blobs: BlobStore, work: Work) -> bool:
    """Execute an order in this process, and store how it ended; False if it has started before."""

def main() -> int:
    """Execute the order that the variable `WORK` tells; return an exit code."""
