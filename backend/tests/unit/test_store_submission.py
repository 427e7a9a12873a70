"""What is wrong with a submission: faults, their limit, and circles."""

import pytest

from holdfast.infrastructure.store import _submission as submission
from holdfast.infrastructure.store.state import NewStep, SubmissionError


def circles(**waits: str) -> list[list[str]]:
    """Return the circles among steps; what each waits for is given by letters."""
    return list(submission.circles(waits))


def test_no_fault_is_no_error() -> None:
    """A submission without faults goes on."""
    submission.SubmissionFaults().finish()


def test_a_hundred_faults_are_kept() -> None:
    """Of others only the number, also of those that come from elsewhere."""
    faults = submission.SubmissionFaults()
    for number in range(99):
        faults.add(str(number))
    full = [faults.full]
    faults.join(SubmissionError(["a", "b", "c"], more=7))
    assert [*full, faults.full] == [False, True]
    with pytest.raises(SubmissionError) as caught:
        faults.finish()
    assert (len(caught.value.faults), caught.value.faults[-1], caught.value.more) == (100, "a", 9)
    assert str(caught.value).endswith("and 9 more")


def test_faults_name_what_is_wrong_and_what_to_do() -> None:
    """Each is a sentence with the value and the remedy."""
    assert submission.known_id("j") == "job 'j' exists already; give another id"
    assert submission.unknown_batch("b") == "batch 'b' does not exist; create it first"
    assert submission.cancelled_batch("b") == "batch 'b' was cancelled; give another"
    assert submission.unknown_dependency("a", "x") == "step 'a' depends on 'x', which is not in this job"
    step = NewStep(key="a", payload=b"", line=3)
    assert submission.duplicate(step) == "step 'a' (line 3) is there twice; give each step a key of its own"
    assert submission.duplicate(NewStep(key="a", payload=b"")).startswith("step 'a' is there twice")
    assert (
        submission.circle(["a", "b", "a"]) == "steps 'a' → 'b' → 'a' wait for each other; drop one dependency"
    )


def test_what_waits_in_order_is_no_circle() -> None:
    """Chains and diamonds, and what waits for something unknown."""
    assert circles(b="a", c="a", d="bc", e="z") == []


def test_a_circle_names_its_steps() -> None:
    """From one to itself again, and nothing that only leads to it or away from it."""
    assert circles(a="a") == [["a", "a"]]
    [found] = circles(a="c", b="a", c="b", before="x", after="a")
    assert (found[0], set(found), len(found)) == (found[-1], {"a", "b", "c"}, 4)


def test_each_circle_is_found() -> None:
    """Also one that leads into another; of two that share a step, the first."""
    assert [set(found) for found in circles(a="b", b="a", c="d", d="ca")] == [{"a", "b"}, {"c", "d"}]
    assert len(circles(a="bc", b="a", c="a")) == 1


def test_a_graph_is_checked_whole() -> None:
    """Unknown dependencies and circles, all of them."""
    faults = submission.SubmissionFaults()
    submission.check_graph({"a": ("b", "x"), "b": ("a",), "c": ("y",)}, {"a", "b", "c"}, faults)
    with pytest.raises(SubmissionError) as caught:
        faults.finish()
    assert ["'x'" in caught.value.faults[0], "'y'" in caught.value.faults[1]] == [True, True]
    assert "wait for each other" in caught.value.faults[2]


def test_circles_end_when_enough_is_known() -> None:
    """A graph of circles is not searched for ever."""
    keys = {f"s{number}" for number in range(150)}
    faults = submission.SubmissionFaults()
    submission.check_graph({key: (key,) for key in sorted(keys)}, keys, faults)
    with pytest.raises(SubmissionError) as caught:
        faults.finish()
    assert len(caught.value.faults) == 100
