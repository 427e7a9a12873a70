"""Random graphs of steps, and what they come to by the plainest of evaluators."""

from collections.abc import Mapping

from hypothesis import strategies as st

from holdfast.infrastructure.store.state import JobState, StepRecord, StepState

S = StepState
BAD = {S.FAILED, S.TIMED_OUT, S.CANCELLED}
RESULTS = (S.SUCCEEDED, S.SUCCEEDED, S.SUCCEEDED, S.FAILED, S.TIMED_OUT)


def step(key: str, *waits: str, state: StepState = S.PENDING, must_succeed: bool = True) -> StepRecord:
    """Return a step that waits for others."""
    return StepRecord(
        job="run",
        origin="run",
        position=0,
        key=key,
        line=0,
        payload=b"",
        state=state,
        must_succeed=must_succeed,
        depends_on=waits,
    )


@st.composite
def graphs(draw: st.DrawFn, most: int = 30) -> list[StepRecord]:
    """Draw up to `most` pending steps, each of which waits for some of those before it, in random order."""
    size = draw(st.integers(1, most))
    made = [
        step(
            f"s{number}",
            *(f"s{one}" for one in (draw(st.sets(st.integers(0, number - 1), max_size=4)) if number else ())),
            must_succeed=draw(st.booleans()),
        )
        for number in range(size)
    ]
    return draw(st.permutations(made))


def reference(
    steps: list[StepRecord], results: Mapping[str, StepState]
) -> tuple[dict[str, StepState], JobState]:
    """Return the states in which steps end that get these results when they run, and how the graph ends."""
    left, must = {one.key: one.depends_on for one in steps}, {one.key: one.must_succeed for one in steps}
    ends: dict[str, StepState] = {}
    while left:
        key = next(key for key, waits in left.items() if all(one in ends for one in waits))
        blocked = any(must[one] and ends[one] in BAD for one in left.pop(key))
        ends[key] = S.FAILED if blocked else results[key]
    if S.TIMED_OUT in ends.values():
        return ends, JobState.TIMED_OUT
    return ends, JobState.FAILED if any(
        must[key] and ends[key] in BAD for key in ends
    ) else JobState.SUCCEEDED
