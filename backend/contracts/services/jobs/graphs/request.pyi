"""What is asked of a run: orders, what each waits for, and where their code is; all faults are told at once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from holdfast.services.jobs.errors import JobsError

PRESIGN_MARGIN: float = 300.0

MOST_ORDERS: int = 10_000

class RequestRefusedError(JobsError, ValueError):
    """A request to run orders was refused whole: `status` as HTTP has it (400, 405, 409), `faults` a sentence each."""

    status: int
    faults: tuple[str, ...]

    def __init__(self, status: int, faults: Sequence[str]) -> None: ...
    def __str__(self) -> str:
        """List the faults."""

@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order of a run: shell commands, one after the other, until one fails. `timeout` in seconds, for all of them.

    `code` is where its code lies, by default the run's repository. `depends_on` names other orders; `must_succeed`
    false: its failure fails nothing. `secrets` are variables, too, which are kept encrypted.
    """

    name: str
    commands: tuple[str, ...]
    timeout: float
    code: str = ""
    depends_on: tuple[str, ...] = ()
    must_succeed: bool = True
    target: str = "local"
    environment: Mapping[str, str] = ...
    secrets: Mapping[str, str] = ...

@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """A run that is asked for, valid. Durations are seconds.

    `token_location` says where the repository's token is, never the token. `presign_expiry`: how long addresses of
    stored objects are good for. `run_id` and `trace_id` are made up where they are empty.
    """

    orders: tuple[Order, ...]
    user: str
    label: str
    repository: str = ""
    token_location: str = ""
    pull_request: int | None = None
    issue: int | None = None
    search_tag: str = ""
    presign_expiry: float = 0.0
    job_timeout: float = 3600.0
    run_id: str = ""
    trace_id: str = ""

def parse_request(document: object, *, targets: Collection[str] = ("local",)) -> RunRequest:
    """Return the run that a document (of JSON's types) asks for. RequestRefusedError (400) has every fault.

    `targets` are those there are. Without `presign_expiry`, addresses are good for the longest timeout + 300 s.
    """
