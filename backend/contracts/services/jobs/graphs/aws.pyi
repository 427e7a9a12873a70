"""Runs on AWS (extra `aws`): Lambda, CodeBuild and Systems Manager as targets, Step Functions as timer, code in S3."""

from collections.abc import Sequence
from typing import Any

from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.store.blob import BlobStore
from holdfast.services.jobs.graphs.ports import Work

WORK: str = "HOLDFAST_WORK"
"""The variable that tells a build or command its order, as `pack_work` writes it."""

def pack_work(work: Work) -> str:
    """Return an order as one word: base64 of JSON."""

def unpack_work(word: str) -> Work:
    """Return what `pack_work` was given. ValueError, TypeError."""

class LambdaTarget:
    """Orders as events of a Lambda function, the handler `worker`; a full function says that there is no room.

    An order that runs there cannot be cancelled: it ends by itself, at its timeout at the latest, and the function's is
    15 minutes at most. `client` is boto3's.
    """

    def __init__(self, function: str, *, client: Any = None, retry: Retry | None = None) -> None: ...
    def dispatch(self, work: Work) -> bool:
        """Queue an event; False while the function takes none."""

    def cancel(self, work: Work) -> None:
        """Do nothing: an event of Lambda cannot be taken back."""

class CodeBuildTarget:
    """Orders as builds of a CodeBuild project, whose buildspec runs `python3 -m holdfast.services.jobs.graphs.lambdas`.

    The variable `WORK` tells it the order; a build ends 5 minutes to 8 hours after its start, as the order's timeout
    says. The same order makes one build within 5 minutes. `blobs` keeps the build's name, to cancel it.
    """

    def __init__(
        self, project: str, blobs: BlobStore, *, client: Any = None, retry: Retry | None = None
    ) -> None: ...
    def dispatch(self, work: Work) -> bool:
        """Start a build; False if as many run as may."""

    def cancel(self, work: Work) -> None:
        """Stop the build."""

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
    ) -> None: ...
    def dispatch(self, work: Work) -> bool:
        """Send a command; False while Systems Manager takes none."""

    def cancel(self, work: Work) -> None:
        """Cancel the command."""

class StepFunctionsTimer:
    """Watchdogs as executions of a state machine that waits until `$.at` and calls `watchdog_check` with its input.

    `$.at` is a time as Step Functions reads it, of whole seconds, rounded up.
    """

    def __init__(self, machine: str, *, client: Any = None, retry: Retry | None = None) -> None: ...
    def watch(self, run: str, number: int, at: float) -> None:
        """Start an execution; the same call again starts none."""

class ZipCode:
    """Code as archives in a blob store: the location `shop` is the key `code/shop.zip`. `most`: bytes when unpacked."""

    def __init__(self, blobs: BlobStore, *, folder: str = "code/", most: int = 268435456) -> None: ...
    def files(self, location: str) -> dict[str, tuple[bytes, int]]:
        """Return content and mode of each file by its path. ValueError."""
