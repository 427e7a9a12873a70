"""Runs on AWS (extra `aws`): Lambda, CodeBuild and Systems Manager as targets, Step Functions as timer, code in S3."""

from __future__ import annotations

import io
import json
import zipfile
from base64 import b64decode, b64encode
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from math import ceil
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.store import _aws
from holdfast.infrastructure.store.state import NotFoundError
from holdfast.services.jobs.graphs.ports import Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.infrastructure.resilience.retry import Retry
    from holdfast.infrastructure.store.blob import BlobStore

WORK: str = "HOLDFAST_WORK"
"""The variable that tells a build or command its order, as `pack_work` writes it."""

_FULL = frozenset(
    {
        "AccountLimitExceededException",
        "EC2ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)


def pack_work(work: Work) -> str:
    """Return an order as one word: base64 of JSON."""
    return b64encode(json.dumps(asdict(work)).encode()).decode()


def unpack_work(word: str) -> Work:
    """Return what `pack_work` was given. ValueError, TypeError."""
    return Work(**json.loads(b64decode(word, validate=True)))


class LambdaTarget:
    """Orders as events of a Lambda function, the handler `worker`; a full function says that there is no room.

    An order that runs there cannot be cancelled: it ends by itself, at its timeout at the latest, and the function's is
    15 minutes at most. `client` is boto3's.
    """

    def __init__(self, function: str, *, client: Any = None, retry: Retry | None = None) -> None:
        made = _aws.client("lambda") if client is None else client
        self._function, self._lambda = function, _aws.Service(made, f"function {function!r}", retry)

    def dispatch(self, work: Work) -> bool:
        """Queue an event; False while the function takes none."""
        said = json.dumps({"work": pack_work(work)}).encode()
        request = {"FunctionName": self._function, "InvocationType": "Event", "Payload": said}
        return _taken(self._lambda, "invoke", request) is not None

    def cancel(self, work: Work) -> None:
        """Do nothing: an event of Lambda cannot be taken back."""


class CodeBuildTarget:
    """Orders as builds of a CodeBuild project, whose buildspec runs `python3 -m holdfast.services.jobs.graphs.lambdas`.

    The variable `WORK` tells it the order; a build ends 5 minutes to 8 hours after its start, as the order's timeout
    says. The same order makes one build within 5 minutes. `blobs` keeps the build's name, to cancel it.
    """

    def __init__(
        self, project: str, blobs: BlobStore, *, client: Any = None, retry: Retry | None = None
    ) -> None:
        made = _aws.client("codebuild") if client is None else client
        self._project, self._blobs = project, blobs
        self._builds = _aws.Service(made, f"project {project!r}", retry)

    def dispatch(self, work: Work) -> bool:
        """Start a build; False if as many run as may."""
        request = {
            "projectName": self._project,
            "environmentVariablesOverride": [{"name": WORK, "value": pack_work(work), "type": "PLAINTEXT"}],
            "timeoutInMinutesOverride": min(max(ceil(work.timeout / 60) + 1, 5), 480),
            "idempotencyToken": sha256(work.started.encode()).hexdigest(),
        }
        started = _taken(self._builds, "start_build", request)
        if started is not None:
            self._blobs.put(_handle(work), started["build"]["id"].encode())
        return started is not None

    def cancel(self, work: Work) -> None:
        """Stop the build."""
        build = _known(self._blobs, work)
        if build is not None:
            self._builds.call("stop_build", id=build)


class SsmTarget:
    """Orders as commands of Systems Manager on instances that have holdfast; one of `instances`, always the same.

    `document` takes shell commands; `command` runs an order that the variable `WORK` tells. `blobs` keeps the command's
    name, to cancel it.
    """

    def __init__(
        self,
        instances: Sequence[str],
        blobs: BlobStore,
        *,
        document: str = "AWS-RunShellScript",
        command: str = "python3 -m holdfast.services.jobs.graphs.lambdas",
        client: Any = None,
        retry: Retry | None = None,
    ) -> None:
        if not instances:
            raise ValueError("instances is empty; give the ids of instances that may run orders")
        made = _aws.client("ssm") if client is None else client
        self._instances, self._blobs = tuple(instances), blobs
        self._document, self._command = document, command
        self._ssm = _aws.Service(made, "Systems Manager", retry)

    def dispatch(self, work: Work) -> bool:
        """Send a command; False while Systems Manager takes none."""
        chosen = int(sha256(work.started.encode()).hexdigest(), 16) % len(self._instances)
        request = {
            "InstanceIds": [self._instances[chosen]],
            "DocumentName": self._document,
            "Parameters": {
                "commands": [f"{WORK}={pack_work(work)} {self._command}"],
                "executionTimeout": [str(ceil(work.timeout) + 60)],
            },
        }
        sent = _taken(self._ssm, "send_command", request)
        if sent is not None:
            self._blobs.put(_handle(work), sent["Command"]["CommandId"].encode())
        return sent is not None

    def cancel(self, work: Work) -> None:
        """Cancel the command."""
        command = _known(self._blobs, work)
        if command is not None:
            self._ssm.call("cancel_command", CommandId=command)


class StepFunctionsTimer:
    """Watchdogs as executions of a state machine that waits until `$.at` and calls `watchdog_check` with its input.

    `$.at` is a time as Step Functions reads it, of whole seconds, rounded up.
    """

    def __init__(self, machine: str, *, client: Any = None, retry: Retry | None = None) -> None:
        made = _aws.client("stepfunctions") if client is None else client
        self._machine, self._states = machine, _aws.Service(made, f"state machine {machine!r}", retry)

    def watch(self, run: str, number: int, at: float) -> None:
        """Start an execution; the same call again starts none."""
        due = datetime.fromtimestamp(ceil(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        said = json.dumps({"run": run, "number": number, "at": due}, sort_keys=True)
        name = f"{run[:40]}-{number}-{sha256(said.encode()).hexdigest()[:16]}"
        try:
            self._states.call("start_execution", stateMachineArn=self._machine, name=name, input=said)
        except Exception as error:
            if _aws.error_code(error) != "ExecutionAlreadyExists":
                raise


class ZipCode:
    """Code as archives in a blob store: the location `shop` is the key `code/shop.zip`. `most`: bytes when unpacked."""

    def __init__(self, blobs: BlobStore, *, folder: str = "code/", most: int = 268_435_456) -> None:
        self._blobs, self._folder, self._most = blobs, folder, most

    def files(self, location: str) -> dict[str, tuple[bytes, int]]:
        """Return content and mode of each file by its path. ValueError."""
        key = f"{self._folder}{location}.zip"
        try:
            data = self._blobs.get(key)
        except NotFoundError:
            raise ValueError(f"there is no object {key!r}; store a zip archive there") from None
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return self._unpacked(archive)
        except zipfile.BadZipFile as error:
            raise ValueError(f"the object {key!r} is no zip archive ({error})") from None

    def _unpacked(self, archive: zipfile.ZipFile) -> dict[str, tuple[bytes, int]]:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        if sum(info.file_size for info in infos) > self._most:
            raise ValueError(f"it has more than {self._most} bytes; give less")
        for info in infos:
            if info.filename.startswith("/") or ".." in info.filename.split("/"):
                raise ValueError(f"the archive has {info.filename!r}; give paths below its root")
        return {
            info.filename: (archive.read(info), info.external_attr >> 16 & 0o777 or 0o644) for info in infos
        }


def _taken(service: _aws.Service, operation: str, request: dict[str, Any]) -> Any:
    """Return what was answered, None if there was no room."""
    try:
        return service.call(operation, **request)
    except Exception as error:
        cause = error if error.__cause__ is None else error.__cause__
        if _aws.error_code(cause) in _FULL:
            return None
        raise


def _handle(work: Work) -> str:
    return f"{work.started}.at"


def _known(blobs: BlobStore, work: Work) -> str | None:
    """Return what AWS calls an order, None if it was never told."""
    try:
        return blobs.get(_handle(work)).decode()
    except NotFoundError:
        return None
