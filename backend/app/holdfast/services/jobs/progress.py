"""How far a job is, as people and monitors read it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.store.payload import decode
from holdfast.infrastructure.store.state import JOB_ENDS, JobState
from holdfast.services.jobs._line import line

if TYPE_CHECKING:
    from holdfast.infrastructure.store.state import Counts, StepRecord, StepState


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
        return self.counts.percent

    @property
    def ended(self) -> bool:
        """Whether its state will not change any more."""
        return self.state in JOB_ENDS

    @property
    def succeeded(self) -> bool:
        """Whether all of it succeeded: not while it runs, and not when a part of it failed."""
        return self.state is JobState.SUCCEEDED

    def __str__(self) -> str:
        """Say on one line how far the job is: state, share, rate, failures, what needs review and the time left."""
        return line(self)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**asdict(self), "percent": self.percent, "ended": self.ended, "succeeded": self.succeeded}


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
        return cls(
            key=step.key,
            line=step.line,
            state=step.state,
            payload=decode(step.payload),
            result=None if step.result is None else decode(step.result),
            error=step.error,
            attempts=step.attempts,
        )
