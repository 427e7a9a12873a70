"""How far a job is, as people and monitors read it."""

from dataclasses import dataclass
from typing import Any

from holdfast.infrastructure.store.state import Counts, JobState, StepRecord, StepState

@dataclass(frozen=True, slots=True, kw_only=True)
class StepError:
    """A step that did not succeed: its key, line, state and error."""

    key: str
    line: int
    state: StepState
    error: str

@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A job at one moment. `rate`: steps ended a second; `eta`: seconds, None when nothing tells; `errors`: the first.

    `elapsed`: seconds since it began, until it ended. `unwritten` and `dead` count write-backs.
    """

    job: str
    name: str
    state: JobState
    counts: Counts
    halted: bool = False
    reason: str = ""
    rate: float = 0.0
    eta: float | None = None
    elapsed: float = 0.0
    errors: tuple[StepError, ...] = ()
    unwritten: int = 0
    dead: int = 0

    @property
    def percent(self) -> float:
        """Share of steps that have ended, of 100, to one decimal; 0.0 without steps."""
    @property
    def ended(self) -> bool:
        """Whether its state will not change any more."""
    @property
    def succeeded(self) -> bool:
        """Whether all of it succeeded: not while it runs, and not when a part of it failed."""
    def __str__(self) -> str:
        """Say on one line how far the job is: state, share, rate, failures, what needs review and the time left."""
    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""

@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A step with its payload and result decoded; `result` is None unless it succeeded."""

    key: str
    line: int
    state: StepState
    payload: Any
    result: Any = None
    error: str = ""
    attempts: int = 0

    @classmethod
    def of(cls, step: StepRecord) -> Result:
        """Decode a stored step."""
