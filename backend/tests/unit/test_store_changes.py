"""What a transaction changes of a job becomes events: one for each state and actor, in a fixed order."""

from holdfast.infrastructure.store._changes import Changes, Told
from holdfast.infrastructure.store.state import JobState, OutboxState, StepState

S = StepState


def test_nothing_makes_no_event() -> None:
    """A transaction that changes nothing of a job leaves its history alone."""
    assert Changes().events() == []


def test_steps_of_one_state_are_gathered() -> None:
    """Positions ascend, whatever order they came in, and details stay beside them."""
    changes = Changes()
    for position in (3, 1, 2):
        changes.step(position, S.SUCCEEDED, told=Told(position, position / 2, ""), worker="w")
    assert changes.events() == [
        ("step", "succeeded", (1, 2, 3), {"worker": "w", "attempt": [1, 2, 3], "took": [0.5, 1.0, 1.5]})
    ]


def test_errors_are_told_if_there_are_any() -> None:
    """Then there is one for each step, empty or not."""
    changes = Changes()
    changes.step(0, S.FAILED, told=Told(1, 0.0, "boom"))
    changes.step(1, S.FAILED, told=Told(1, 0.0, ""))
    [event] = changes.events()
    assert event.data["error"] == ["boom", ""]


def test_a_change_without_a_call_has_no_details() -> None:
    """Unless it is gathered with one that has: then it has empty ones."""
    changes = Changes()
    changes.step(0, S.PENDING, worker="w")
    assert changes.events() == [("step", "pending", (0,), {"worker": "w"})]
    changes.step(1, S.PENDING, told=Told(2, 1.0, "busy"), worker="w")
    assert changes.events() == [
        (
            "step",
            "pending",
            (0, 1),
            {"worker": "w", "attempt": [0, 2], "took": [0.0, 1.0], "error": ["", "busy"]},
        )
    ]


def test_each_actor_has_an_event() -> None:
    """Workers by their names; a person or program is no worker; nobody comes first."""
    changes = Changes()
    changes.step(0, S.PENDING, worker="w2")
    changes.step(1, S.PENDING, by="ann")
    changes.step(2, S.PENDING, worker="w1")
    changes.step(3, S.PENDING)
    assert [(event.positions, event.data) for event in changes.events()] == [
        ((3,), {}),
        ((1,), {"by": "ann"}),
        ((2,), {"worker": "w1"}),
        ((0,), {"worker": "w2"}),
    ]


def test_events_have_an_order() -> None:
    """A start, steps by state, what came late, write-backs, then notes and the job's way on as they happened."""
    changes = Changes()
    changes.note("halted")
    changes.job(JobState.FAILED, reason="", digest="d")
    changes.step(0, OutboxState.WRITTEN, kind="write-back")
    changes.step(0, OutboxState.PENDING, kind="write-back")
    changes.step(0, S.SUCCEEDED, kind="late")
    for state in (
        S.SKIPPED,
        S.CANCELLED,
        S.NEEDS_REVIEW,
        S.TIMED_OUT,
        S.FAILED,
        S.SUCCEEDED,
        S.RUNNING,
        S.PENDING,
    ):
        changes.step(0, state)
    changes.start(JobState.RUNNING)
    assert [(event.kind, event.state) for event in changes.events()] == [
        ("job", "running"),
        *[("step", state) for state in S],
        ("late", "succeeded"),
        ("write-back", "pending"),
        ("write-back", "written"),
        ("note", "halted"),
        ("job", "failed"),
    ]
    assert changes.events()[-1].data == {"digest": "d"}
