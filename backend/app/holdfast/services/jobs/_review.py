"""Asking handlers what became of calls that may have been made, and deciding by what they know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience._compile import is_async_function
from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.classify import PERMANENT, classify
from holdfast.infrastructure.resilience.clock import current_clock
from holdfast.infrastructure.store.payload import decode
from holdfast.infrastructure.store.state import JOB_ENDS, IllegalTransition, JobState, StepState
from holdfast.services.jobs._outcomes import encoded, text
from holdfast.services.jobs.handlers import Done, NotDone, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.infrastructure.store.state import JobRecord, StateStore, StepRecord
    from holdfast.services.jobs.handlers import Handler

_TRIES = 3
_WAITS = Backoff(base=0.5, cap=5.0, jitter="none")


async def ask(handler: Handler, step: StepRecord, call: Callable[..., Any]) -> Done | NotDone | Unknown:
    """Ask what became of a step's call; `call` runs a function on the loop or in a thread. Never raises."""
    reconcile = handler._reconcile_call
    if reconcile is None:
        return Unknown(f"handler {handler.name!r} has no reconcile function")
    is_async = is_async_function(handler._reconcile)
    for number in range(1, _TRIES + 1):
        try:
            answer = await call(reconcile, step.idempotency_key, decode(step.payload), is_async=is_async)
        except Exception as error:
            if number == _TRIES or classify(error) is PERMANENT:
                return Unknown(text(error))
        else:
            return _checked(answer, handler)
        await current_clock().asleep(_WAITS.delay(number))
    raise AssertionError("unreachable")


def _checked(answer: object, handler: Handler) -> Done | NotDone | Unknown:
    if isinstance(answer, (Done, NotDone, Unknown)):
        return answer
    return Unknown(f"reconcile of {handler.name!r} returned {answer!r}: return Done, NotDone or Unknown")


def decide(store: StateStore, job: JobRecord, step: StepRecord, answer: Done | NotDone | Unknown) -> bool:
    """Resolve a step by an answer; return whether it was, by this call or by somebody quicker."""
    if isinstance(answer, Unknown):
        return False
    try:
        if isinstance(answer, Done):
            result = encoded(answer.result)
            store.resolve(job.id, step.key, StepState.SUCCEEDED, result=result, by="reconcile")
        elif job.state in JOB_ENDS - {JobState.CANCELLED}:
            error = f"was not done, and the job is {job.state}"
            store.resolve(job.id, step.key, StepState.FAILED, error=error, by="reconcile")
        else:
            store.resolve(job.id, step.key, StepState.PENDING, by="reconcile")
    except IllegalTransition:
        pass  # somebody else was quicker
    return True
