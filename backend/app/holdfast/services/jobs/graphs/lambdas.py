"""Handlers of AWS Lambda (extra `aws`) over the same `Runs`; run as a program, it executes one order elsewhere."""

from __future__ import annotations

import json
import logging
import os
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from holdfast.infrastructure.store.dynamodb import DynamoStateStore
from holdfast.infrastructure.store.s3 import S3BlobStore
from holdfast.infrastructure.store.state import NotFoundError
from holdfast.services.jobs.graphs import _keys
from holdfast.services.jobs.graphs.aws import (
    WORK,
    CodeBuildTarget,
    LambdaTarget,
    SsmTarget,
    StepFunctionsTimer,
    ZipCode,
    unpack_work,
)
from holdfast.services.jobs.graphs.local import LocalTarget
from holdfast.services.jobs.graphs.ports import first_start
from holdfast.services.jobs.graphs.request import RequestRefusedError
from holdfast.services.jobs.graphs.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from holdfast.infrastructure.store.blob import BlobStore
    from holdfast.services.jobs.graphs.ports import Target, Work

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

_log = logging.getLogger("holdfast.jobs")


def process_webhook(event: Mapping[str, Any], context: object = None) -> dict[str, Any]:
    """Submit a run from an HTTP event, a message of SNS, or a request itself; answer as HTTP does.

    202 with ids, comment and where the summary will be; 400, 405 or 409 with every fault.
    """
    try:
        answer = _runs().submit(event)
    except RequestRefusedError as refused:
        return _answer(refused.status, {"faults": list(refused.faults)})
    said = {name: getattr(answer, name) for name in answer.__dataclass_fields__}
    return _answer(202, said)


def orchestrator(event: Mapping[str, Any], context: object = None) -> dict[str, Any]:
    """Evaluate the runs of which results were stored, as an event of S3 or EventBridge says: once each.

    An error fails the event, which then comes again.
    """
    blobs, runs = _blobs(), _runs()
    heard = {key: found for key in _stored(event, f"{blobs.tenant}/") if (found := _keys.read_result(key))}
    evaluated: list[str] = []
    for run in dict.fromkeys(run for run, _ in heard.values()):
        odd = [
            key for key, (one, number) in heard.items() if one == run and not _expected(blobs, run, number)
        ]
        for key in odd:
            runs.receive(key)
        try:
            if not odd:
                runs.evaluate(run)
            evaluated.append(run)
        except NotFoundError:
            _log.warning("there is no run %s", run)
    return {"runs": evaluated}


def watchdog_check(event: Mapping[str, Any], context: object = None) -> dict[str, Any]:
    """Look after an order or, with number 0, a run, as the timer says; after all runs if the event names none."""
    if "run" not in event:
        return {"runs": _runs().tick()}
    try:
        verdict = _runs().watchdog(str(event["run"]), int(event.get("number", 0)))
    except NotFoundError as error:
        return {"verdict": "unknown", "error": str(error)}
    return {"verdict": verdict.value}


def worker(event: Mapping[str, Any], context: object = None) -> dict[str, Any]:
    """Execute an order; one that has started somewhere is left alone, for events come more than once."""
    return {"started": execute(_blobs(), unpack_work(str(event["work"])))}


def execute(blobs: BlobStore, work: Work) -> bool:
    """Execute an order in this process, and store how it ended; False if it has started before."""
    if not first_start(blobs, work, f"aws {os.getpid()}"):
        return False
    target = LocalTarget(_Started(blobs, work), _Nobody(), concurrency=1)
    target.dispatch(work)
    target.close()
    return True


def main() -> int:
    """Execute the order that the variable `WORK` tells; return an exit code."""
    execute(_blobs(), unpack_work(os.environ[WORK]))
    return 0


class _Nobody:
    """Nobody need be told: the bucket tells of its objects."""

    def stored(self, key: str) -> None:
        """Hear it."""


class _Started:
    """The blobs of an order that was started a moment ago, here."""

    def __init__(self, blobs: BlobStore, work: Work) -> None:
        self.tenant = blobs.tenant
        self._blobs, self._work = blobs, work

    def put(self, key: str, data: bytes) -> bool:
        """Store, but for the start."""
        return key == self._work.started or self._blobs.put(key, data)

    def get(self, key: str) -> bytes:
        """Return what is stored. NotFoundError."""
        return self._blobs.get(key)

    def exists(self, key: str) -> bool:
        """Return whether there is anything under a key."""
        return self._blobs.exists(key)

    def delete(self, key: str) -> bool:
        """Remove what is stored; return whether there was anything."""
        return self._blobs.delete(key)

    def presign(self, key: str, expires_in: float = 3600.0) -> str | None:
        """Return a URL that reads it."""
        return self._blobs.presign(key, expires_in)


def _blobs() -> S3BlobStore:
    return _blobs_of(os.environ["HOLDFAST_BUCKET"], os.environ.get("HOLDFAST_TENANT", "default"))


@lru_cache(maxsize=2)
def _blobs_of(bucket: str, tenant: str) -> S3BlobStore:
    return S3BlobStore(bucket, tenant)


def _runs() -> Runs:
    """Return the runs that the environment describes; a function keeps them between events."""
    return _runs_of(tuple((name, os.environ.get(name, "")) for name in ENVIRONMENT))


@lru_cache(maxsize=2)
def _runs_of(environment: tuple[tuple[str, str], ...]) -> Runs:
    blobs, said = _blobs(), dict(environment)
    store = DynamoStateStore(said["HOLDFAST_TABLE"], blobs.tenant, blobs=blobs, frugal=True)
    store.create()
    machine = said["HOLDFAST_TIMER"]
    return Runs(
        store,
        blobs,
        dict(_targets(blobs, said)),
        code=ZipCode(blobs),
        timer=StepFunctionsTimer(machine) if machine else None,
    )


def _targets(blobs: BlobStore, said: Mapping[str, str]) -> Iterator[tuple[str, Target]]:
    if said["HOLDFAST_WORKER"]:
        yield "lambda", LambdaTarget(said["HOLDFAST_WORKER"])
    if said["HOLDFAST_BUILDS"]:
        yield "codebuild", CodeBuildTarget(said["HOLDFAST_BUILDS"], blobs)
    if said["HOLDFAST_INSTANCES"]:
        yield "ssm", SsmTarget(said["HOLDFAST_INSTANCES"].split(","), blobs)


def _stored(event: Mapping[str, Any], folder: str) -> Iterator[str]:
    """Yield the keys of an event's objects, without the tenant's folder; those of others are none of ours."""
    keys = [unquote_plus(record["s3"]["object"]["key"]) for record in event.get("Records", ())]
    if "detail" in event:
        keys.append(event["detail"]["object"]["key"])
    yield from (key.removeprefix(folder) for key in keys if key.startswith(folder))


def _expected(blobs: BlobStore, run: str, number: int) -> bool:
    return number == 0 or blobs.exists(_keys.started(run, number))


def _answer(status: int, said: object) -> dict[str, Any]:
    return {
        "statusCode": status,
        "headers": {"content-type": "application/json"},
        "body": json.dumps(said),
    }


if __name__ == "__main__":
    sys.exit(main())
