"""What follows from one result in a small graph, by example."""

import pytest

from backend.tests.properties._graphs import step
from holdfast.infrastructure.store.graph import Evaluation, evaluate, status_of
from holdfast.infrastructure.store.state import IllegalTransition, JobState, StepState

S = StepState


def test_a_success_frees_who_waits_for_nothing_else() -> None:
    """Whoever waits for another one too goes on waiting; what is ready comes in order."""
    steps = [step("c", "a", "b"), step("d", "a"), step("b", state=S.RUNNING), step("a", state=S.RUNNING)]
    assert evaluate(steps, {"a": S.SUCCEEDED}) == Evaluation(
        changes={"a": S.SUCCEEDED}, errors={}, ready=("d",), ignored=(), status=None
    )


def test_a_failure_falls_through_in_one_pass() -> None:
    """A fails, so B fails, so C fails; each says by whom."""
    steps = [step("a", state=S.RUNNING), step("b", "a"), step("c", "b"), step("d", "c", must_succeed=False)]
    assert evaluate(steps, {"a": S.FAILED}) == Evaluation(
        changes=dict.fromkeys("abcd", S.FAILED),
        errors={"b": "dependency a failed", "c": "dependency b failed", "d": "dependency c failed"},
        ready=(),
        ignored=(),
        status=JobState.FAILED,
    )


@pytest.mark.parametrize("end", [S.FAILED, S.SUCCEEDED, S.TIMED_OUT])
def test_who_need_not_succeed_frees_who_waits(end: StepState) -> None:
    """However it ended."""
    steps = [step("a", state=S.RUNNING, must_succeed=False), step("b", "a")]
    assert evaluate(steps, {"a": end}).ready == ("b",)


def test_who_falls_but_need_not_succeed_frees_who_waits_for_it() -> None:
    """B falls with A and is done with that: C may run."""
    steps = [step("a", state=S.RUNNING), step("b", "a", must_succeed=False), step("c", "b")]
    found = evaluate(steps, {"a": S.TIMED_OUT})
    assert found.changes == {"a": S.TIMED_OUT, "b": S.FAILED}
    assert found.ready == ("c",)


def test_results_of_what_does_not_run_are_ignored() -> None:
    """The first result wins: neither a late one nor one of an unknown step changes anything."""
    steps = [step("a", state=S.TIMED_OUT), step("b")]
    found = evaluate(steps, {"a": S.SUCCEEDED, "b": S.SUCCEEDED, "z": S.FAILED})
    assert found.ignored == ("a", "b", "z")
    assert found.changes == {}


def test_a_step_cannot_end_as_what_is_no_end() -> None:
    """A result says how a step ended, not that it was skipped."""
    with pytest.raises(IllegalTransition, match="it cannot become skipped"):
        evaluate([step("a", state=S.RUNNING)], {"a": S.SKIPPED})


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        ([(S.SUCCEEDED, True)], JobState.SUCCEEDED),
        ([(S.SUCCEEDED, True), (S.FAILED, False)], JobState.SUCCEEDED),
        ([(S.SUCCEEDED, True), (S.FAILED, True)], JobState.FAILED),
        ([(S.SUCCEEDED, True), (S.CANCELLED, True)], JobState.FAILED),
        ([(S.FAILED, True), (S.TIMED_OUT, False)], JobState.TIMED_OUT),
        ([(S.SUCCEEDED, True), (S.PENDING, True)], None),
        ([(S.FAILED, True), (S.RUNNING, True)], None),
        ([(S.FAILED, True), (S.NEEDS_REVIEW, True)], None),
        ([], JobState.SUCCEEDED),
    ],
)
def test_how_a_graph_ended(ends: list[tuple[StepState, bool]], status: JobState | None) -> None:
    """Any timeout counts first, then failures of what must succeed; a graph goes on while anything does."""
    steps = [step(f"{one}", state=state, must_succeed=must) for one, (state, must) in enumerate(ends)]
    assert status_of(steps) is status
