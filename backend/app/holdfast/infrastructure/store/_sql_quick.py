"""The short ways of `claim` and `advance`: steps of one job, all well. Whatever else there may be takes the long."""

from __future__ import annotations

import json
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING

from holdfast.infrastructure.store._sql_link import MASK
from holdfast.infrastructure.store.state import StepState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.infrastructure.store.state import Outcome, StepRef


def job_of(outcomes: Sequence[Outcome], begin: Sequence[StepRef]) -> str | None:
    """Return the job whose steps these all are, if the short way may do."""
    job: str | None = None
    for outcome in outcomes:
        ref = outcome.ref
        if outcome.state is not StepState.SUCCEEDED or outcome.error or outcome.refund:
            return None
        if (
            not isfinite(outcome.took)
            or (job is not None and ref.job != job)
            or not 0 <= ref.position <= MASK
        ):
            return None
        job = ref.job
    for ref in begin:
        if (job is not None and ref.job != job) or not 0 <= ref.position <= MASK:
            return None
        job = ref.job
    return job


def in_order(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """Return outcomes by position."""
    return outcomes if len(outcomes) < 2 else sorted(outcomes, key=_position)  # noqa: PLR2004  # nothing to sort


def _position(outcome: Outcome) -> int:
    return outcome.ref.position


@lru_cache(64)
def quoted(worker: str) -> str:
    """Return a worker's name as JSON."""
    return json.dumps(worker)


def leased(worker: str) -> str:
    """Return the data of the event that tells of a claim."""
    return f'{{"worker":{quoted(worker)}}}'


def details(worker: str, attempts: Sequence[int], outcomes: Sequence[Outcome]) -> str:
    """Return the data of the event that tells of successes, as `Changes` would."""
    tried = ",".join(map(str, attempts))
    took = ",".join([repr(outcome.took) for outcome in outcomes])
    return f'{{"worker":{quoted(worker)},"attempt":[{tried}],"took":[{took}]}}'
