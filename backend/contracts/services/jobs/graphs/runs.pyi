"""Runs: graphs of orders, submitted once, evaluated event by event, finished once."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from holdfast.infrastructure.store.blob import BlobStore
from holdfast.infrastructure.store.state import JobState, StateStore, StepState
from holdfast.services.jobs.graphs.ports import CodeSource, ResultListener, RunNotifier, RunTimer, Target
from holdfast.services.jobs.graphs.secrets import Secrets

HANDLER: str = "holdfast.graph"

@dataclass(frozen=True, slots=True, kw_only=True)
class RunAnswer:
    """What a submission is answered: `done_endpoint` is where the summary will be; `created` false: it was known.

    `flow_id` is `<user>:<trace>-<label>`; `comment` the text that people see, with `search_tag` in it.
    """

    run_id: str
    trace_id: str
    flow_id: str
    done_endpoint: str
    search_tag: str
    comment: str
    created: bool = True

@dataclass(frozen=True, slots=True, kw_only=True)
class OrderView:
    """How an order is. `reserved`: it waits for its target. Times are seconds on the store's clock."""

    name: str
    number: int
    state: StepState
    reserved: bool
    depends_on: tuple[str, ...]
    must_succeed: bool
    target: str
    error: str
    started_at: float | None
    finished_at: float | None

@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """How a run is; `finished`: its summary is stored, and nothing changes any more."""

    run_id: str
    flow_id: str
    status: JobState
    finished: bool
    retry_of: str | None
    orders: tuple[OrderView, ...]

@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run in a list: its state as the store has it, and how many of its orders are done."""

    run_id: str
    flow_id: str
    state: JobState
    done: int
    total: int
    created_at: float | None

class Verdict(StrEnum):
    """What a watchdog found."""

    DONE = "done"
    WAIT = "wait"
    TIMED_OUT = "timed_out"

class Runs:
    """Graphs of orders over a store, a blob store and targets. It keeps nothing: any process may do the next step.

    `limits`: how many orders of one run a target executes at once; `lease`: seconds that one evaluation may take before
    another takes over; `at_once`: orders that are handed to a target in parallel when it is slow,
    10 at most, in order with 1. `secrets` encrypts those of orders. Safe to share between threads.
    """

    def __init__(
        self,
        store: StateStore,
        blobs: BlobStore,
        targets: Mapping[str, Target],
        *,
        code: CodeSource,
        notifier: RunNotifier | None = None,
        timer: RunTimer | None = None,
        listener: ResultListener | None = None,
        limits: Mapping[str, int] | None = None,
        lease: float = 60.0,
        at_once: int = 10,
        secrets: Secrets | None = None,
    ) -> None: ...
    def submit(self, body: object, *, delivery_id: str | None = None) -> RunAnswer:
        """Store a run and trigger it; the same delivery again returns the first answer.

        `delivery_id`: what the caller knows it by. RequestRefusedError: 400 and 405 as `read_delivery` and
        `parse_request`, 409 when another run has the id. SecretsError.
        """

    def evaluate(self, run: str) -> bool:
        """Take the results that are there, and go on; False if somebody else does so, who sees them too. NotFoundError.

        An exception leaves the run as it is: call again.
        """

    def receive(self, key: str, *more: str) -> bool:
        """Hear that results were stored under keys: evaluate their runs, once each; False if none of them is ours.

        A result of an unknown order changes nothing but leaves a note.
        """

    def deliver(self, run: str, order: str, result: bytes) -> bool:
        """Store the result of an order and evaluate; False: it has one already, and a note is left. NotFoundError."""

    def watchdog(self, run: str, number: int = 0) -> Verdict:
        """Look whether an order, or with 0 the run, is past its time, and end it then; evaluate. NotFoundError.

        The first result wins: `timed_out` is written only where there is none.
        """

    def tick(self) -> list[str]:
        """Look after every run that is not finished, as its watchdogs would; return which these were."""

    def resume(self) -> list[str]:
        """Dispatch again what a target may have forgotten with its process, and tick; return the runs that go on."""

    def cancel(self, run: str, reason: str = "") -> RunView:
        """Cancel what has not started and end what runs. IllegalTransition when the run has ended, NotFoundError."""

    def find(self, *, limit: int = 50) -> list[RunSummary]:
        """Return runs, newest first."""

    def retry(self, run: str, order: str, *, delivery_id: str | None = None) -> RunAnswer:
        """Run an order that has not succeeded again, with all that fell with it, as a new run. NotFoundError.

        What has ended stays as it is. NotEndedError; RequestRefusedError (409) if it succeeded or cannot start.
        """

    def rerun(self, run: str, *, delivery_id: str | None = None) -> RunAnswer:
        """Run every order that has not succeeded again, as a new run. NotFoundError, NotEndedError.

        RequestRefusedError (409) if all have succeeded. `delivery_id` makes a repeated call return the first answer.
        """

    def status(self, run: str) -> RunView:
        """Return how a run and its orders are. NotFoundError."""

    def log(self, run: str, order: str) -> bytes:
        """Return the output of an order. NotFoundError, also before there is any."""
