"""Steps of an earlier job, to be done by a new one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.infrastructure.store.state import BatchState, NewStep, StepState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from holdfast.infrastructure.store.state import JobRecord, NewJob, StateStore, StepRecord

_PAGE = 1000
FAILED = (StepState.FAILED, StepState.TIMED_OUT)


def pages(store: StateStore, job: str, states: Collection[StepState] = ()) -> Iterator[StepRecord]:
    """Yield the steps of a job in order, a page at a time."""
    after = -1
    while page := store.steps(job, states=states, after=after, limit=_PAGE):
        yield from page
        after = page[-1].position


def again(store: StateStore, job: str, states: Collection[StepState] = ()) -> Iterator[NewStep]:
    """Yield the steps of a job in these states, to be stored again; they depend only on each other."""
    graph = any(step.depends_on for step in pages(store, job, states))
    keys = {step.key for step in pages(store, job, states)} if graph else set[str]()
    for step in pages(store, job, states):
        yield NewStep(
            key=step.key,
            payload=step.payload,
            line=step.line,
            depends_on=tuple(key for key in step.depends_on if key in keys),
            must_succeed=step.must_succeed,
            timeout=step.timeout,
            target=step.target,
        )


def copied(store: StateStore, old: JobRecord, job: str, dedup_key: str, origin: str) -> NewJob:
    """Return the settings of an earlier job for a new one."""
    batch = old.new.batch
    if batch is not None and store.batch(batch).state is BatchState.CANCELLED:
        batch = None
    return replace(
        old.new, id=job, retry_of=old.id, origin=origin, dedup_key=dedup_key, batch=batch, ready=True
    )


def made_or_doubtful(step: StepRecord) -> bool:
    """Return whether a step's call was made, or may have been."""
    return step.begun or step.attempts > 0 or step.state is StepState.SUCCEEDED
