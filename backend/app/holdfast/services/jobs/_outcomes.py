"""What a call's end means for its step: pure decisions."""

from __future__ import annotations

from asyncio import CancelledError
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.classify import PERMANENT, retry_after
from holdfast.infrastructure.resilience.errors import CallRejectedError, RetryBudgetExhausted
from holdfast.infrastructure.store.payload import PayloadError, encode
from holdfast.infrastructure.store.state import NewJob, Outcome, StepRef, StepState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast.services.jobs.handlers import Handler

# A refusal that does not say when to come back.
_UNSAID = 0.5
_LONGEST_PAUSE = 60.0
_NULL = encode(None)
_PLAIN = frozenset({dict, str, list, int, float, bool})
_TEXT = 2000


class Spec:
    """What a worker needs to know of a job: its handler, and how its steps are tried again."""

    __slots__ = ("backoff", "handler", "is_async", "new")

    def __init__(self, new: NewJob, handler: Handler) -> None:
        self.new = new
        self.handler = handler
        self.is_async = handler.is_async
        self.backoff = read_backoff(new.settings.get("backoff"))


def read_backoff(stored: Mapping[str, Any] | None) -> Backoff:
    """Return the backoff that a job's settings keep; by default 1 s, doubled up to 5 minutes, with full jitter."""
    return Backoff(base=1.0, cap=300.0) if stored is None else Backoff(**stored)


def stored_backoff(backoff: Backoff) -> dict[str, Any]:
    """Return a backoff as settings keep it."""
    return {name: getattr(backoff, name) for name in ("base", "cap", "factor", "step", "jitter")}


def succeeded(ref: StepRef, result: Any, took: float) -> Outcome:
    """Return the outcome of a call that returned; a result that cannot be stored is no reason to call again."""
    try:
        return Outcome(ref=ref, state=StepState.SUCCEEDED, result=encoded(result), took=took)
    except PayloadError as error:
        close = getattr(result, "close", None)
        if hasattr(result, "__await__") and close is not None:
            close()
            problem = "the handler returned something to await: make it `async def`; it was not awaited"
            return Outcome(ref=ref, state=StepState.FAILED, error=problem, took=took)
        return Outcome(ref=ref, state=StepState.SUCCEEDED, error=f"result not stored: {error}", took=took)


def encoded(result: Any) -> bytes:
    """Encode a result; dataclasses and pydantic models become dicts. PayloadError."""
    return _NULL if result is None else encode(plain(result), name="result")


def plain(value: Any) -> Any:
    """Return a dataclass or a pydantic model as a dict, anything else as it is."""
    if type(value) in _PLAIN:
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    dump: Callable[[], Any] | None = getattr(value, "model_dump", None)
    return value if dump is None else dump()


def refused(error: BaseException) -> float | None:
    """Return the seconds to wait when a policy refused the call, so that nothing was sent; None for other errors."""
    if not isinstance(error, CallRejectedError) or isinstance(error, RetryBudgetExhausted):
        return None
    hint = error.retry_after
    return _UNSAID if hint is None else min(max(hint, 0.0), _LONGEST_PAUSE)


def failed(spec: Spec, ref: StepRef, error: BaseException, attempt: int, took: float) -> Outcome:
    """Return the outcome of a call that raised: to be tried again, or failed."""
    wait = refused(error)
    if wait is not None:
        return Outcome(
            ref=ref, state=StepState.PENDING, error=text(error), retry_in=wait, took=took, refund=True
        )
    if isinstance(error, Exception) and attempt < spec.new.max_attempts:
        wait = _retry_in(spec, error, attempt)
    if wait is None:
        return Outcome(ref=ref, state=StepState.FAILED, error=text(error), took=took)
    return Outcome(ref=ref, state=StepState.PENDING, error=text(error), retry_in=wait, took=took)


def _retry_in(spec: Spec, error: Exception, attempt: int) -> float | None:
    try:
        if spec.handler._judge(error) is PERMANENT:
            return None
    except Exception:  # a predicate of somebody's: the call has failed, and that is all
        return None
    return max(spec.backoff.delay(attempt), retry_after(error) or 0.0)


def timed_out(spec: Spec, ref: StepRef, seconds: float, attempt: int, took: float) -> Outcome:
    """Return the outcome of a call that took longer than its step may."""
    error = f"no result within {seconds:g} s"
    if attempt < spec.new.max_attempts:
        wait = spec.backoff.delay(attempt)
        return Outcome(ref=ref, state=StepState.PENDING, error=error, retry_in=wait, took=took)
    return Outcome(ref=ref, state=StepState.TIMED_OUT, error=error, took=took)


def cut_short(spec: Spec, ref: StepRef, reason: str, took: float) -> Outcome:
    """Return the outcome of a call that was cancelled: it may have been made."""
    if spec.handler.idempotent:
        return Outcome(ref=ref, state=StepState.PENDING, error=reason, took=took, refund=True)
    error = f"{reason}: its call may have been made"
    return Outcome(ref=ref, state=StepState.NEEDS_REVIEW, error=error, took=took)


def handed_back(ref: StepRef) -> Outcome:
    """Return the outcome of a call that was announced and then not made."""
    return Outcome(ref=ref, state=StepState.PENDING, refund=True)


def text(error: BaseException) -> str:
    """Return an error as the ledger keeps it: its type, what it says, and its notes."""
    said = "the handler was cancelled by its own" if isinstance(error, CancelledError) else str(error)
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {said}{notes}"[:_TEXT]
