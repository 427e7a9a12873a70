"""What follows from results in a graph of steps: pure decisions, to a fixed point, in one pass over the changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.infrastructure.store import _decide as decide
from holdfast.infrastructure.store.state import STEP_ENDS, JobState, StepState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from holdfast.infrastructure.store.state import StepRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What follows: `changes` maps keys of steps that end now to their state, what failed by a dependency included.

    `errors` says why, for those that failed by a dependency. `ready`: pending steps that nothing holds up, in order.
    `ignored`: results of steps that do not run (late, duplicate) or are not in the graph. `status`: how the graph
    ended, None while it goes on.
    """

    changes: Mapping[str, StepState]
    errors: Mapping[str, str]
    ready: tuple[str, ...]
    ignored: tuple[str, ...]
    status: JobState | None


def evaluate(steps: Iterable[StepRecord], results: Mapping[str, StepState]) -> Evaluation:
    """Apply results to running steps, and what follows, to a fixed point.

    A step that must succeed and has not fails all that waits for it; one that need not frees it, however it ended.
    Takes time in proportion to steps and dependencies; a graph of 10,000 takes about 20 ms.
    """
    known = {step.key: step for step in steps}
    states = {key: step.state for key, step in known.items()}
    changes, ignored = _applied(known, results)
    states.update(changes)
    errors = _fail_dependants(known, states)
    changes.update(dict.fromkeys(errors, StepState.FAILED))
    return Evaluation(
        changes=changes,
        errors=errors,
        ready=tuple(_ready(known, states)),
        ignored=tuple(ignored),
        status=_status((states[key], step.must_succeed) for key, step in known.items()),
    )


def status_of(steps: Iterable[StepRecord]) -> JobState | None:
    """Return how a graph ended: timed_out if any step did, else failed if one failed that must succeed, else succeeded.

    None while a step is pending, running or needs review. Cancelled steps count as failed.
    """
    return _status((step.state, step.must_succeed) for step in steps)


def _applied(
    known: Mapping[str, StepRecord], results: Mapping[str, StepState]
) -> tuple[dict[str, StepState], list[str]]:
    changes: dict[str, StepState] = {}
    ignored: list[str] = []
    for key, state in results.items():
        step = known.get(key)
        if step is None or step.state is not StepState.RUNNING:
            ignored.append(key)
        else:
            decide.check_step(step.job, key, step.state, state)
            changes[key] = state
    return changes, ignored


def _fail_dependants(known: Mapping[str, StepRecord], states: dict[str, StepState]) -> dict[str, str]:
    """Fail what waits for a step that had to succeed and has not, and what waits for that; return why each failed."""
    waiting: dict[str, list[str]] = {}
    for key, step in known.items():
        if states[key] is StepState.PENDING:
            for dependency in step.depends_on:
                waiting.setdefault(dependency, []).append(key)
    errors: dict[str, str] = {}
    blocking = [key for key in waiting if decide.blocks(states[key], must_succeed=known[key].must_succeed)]
    for key in blocking:
        for dependant in waiting.get(key, ()):
            if dependant not in errors:
                errors[dependant] = decide.dependency_error(key, states[key])
                states[dependant] = StepState.FAILED
                if known[dependant].must_succeed:
                    blocking.append(dependant)
    return errors


def _ready(known: Mapping[str, StepRecord], states: Mapping[str, StepState]) -> Iterable[str]:
    for key, step in known.items():
        if states[key] is StepState.PENDING and all(states[one] in STEP_ENDS for one in step.depends_on):
            yield key


def _status(ends: Iterable[tuple[StepState, bool]]) -> JobState | None:
    found = set(ends)
    if any(state not in STEP_ENDS for state, _ in found):
        return None
    if any(state is StepState.TIMED_OUT for state, _ in found):
        return JobState.TIMED_OUT
    failed = any(decide.blocks(state, must_succeed=must_succeed) for state, must_succeed in found)
    return JobState.FAILED if failed else JobState.SUCCEEDED
