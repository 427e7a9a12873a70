"""Graphs: whatever the results and their order, a graph ends as the plainest evaluator says."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from backend.tests.properties._graphs import RESULTS, graphs, reference, step
from holdfast.infrastructure.store.graph import evaluate, status_of
from holdfast.infrastructure.store.state import StepRecord, StepState

S = StepState


@settings(deadline=None)
@given(graphs(), st.data())
def test_a_graph_ends_as_the_reference_says(steps: list[StepRecord], data: st.DataObject) -> None:
    """Results in any groups, in any order, with duplicates and unknown ones: each step starts once, and all end so."""
    results = {one.key: data.draw(st.sampled_from(RESULTS)) for one in steps}
    now = {one.key: one for one in steps}
    started: list[str] = []
    status = None
    while status is None:
        running = [one.key for one in now.values() if one.state is S.RUNNING]
        arriving = data.draw(st.sets(st.sampled_from(running), min_size=1)) if running else set[str]()
        strays = {"stray": S.FAILED, **{key: S.FAILED for key in started if key not in running}}
        found = evaluate(now.values(), {**strays, **{key: results[key] for key in arriving}})
        assert set(found.ignored) == set(strays)
        now |= {key: replace(now[key], state=state) for key, state in found.changes.items()}
        assert evaluate(now.values(), {}).changes == {}
        now |= {key: replace(now[key], state=S.RUNNING) for key in found.ready}
        started += found.ready
        status = found.status

    ends, end = reference(steps, results)
    assert {one.key: one.state for one in now.values()} == ends
    assert status == status_of(now.values()) == end
    assert len(started) == len(set(started))


@settings(deadline=None)
@given(st.integers(1, 300), st.sampled_from([S.FAILED, S.TIMED_OUT]))
def test_a_chain_falls_in_one_pass(length: int, end: StepState) -> None:
    """However long it is."""
    chain = [step("0", state=S.RUNNING), *(step(f"{one}", f"{one - 1}") for one in range(1, length))]
    found = evaluate(chain, {"0": end})
    assert found.changes == {"0": end, **{f"{one}": S.FAILED for one in range(1, length)}}
    assert found.status is not None
