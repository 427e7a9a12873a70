"""Concurrency limit × slow, silent and healthy dependencies: `StandingQueue` limits where calls queue, nowhere else."""

import pytest

from backend.tests.integration.resilience._driver import Driver
from backend.tests.integration.resilience._standing import FREE, Dependency, changes, standing
from holdfast.infrastructure.resilience.concurrency_limit import ConcurrencyLimit
from holdfast.testing.clock import VirtualClock
from holdfast.testing.recorder import EventRecorder

# No queue, no limit


@pytest.mark.parametrize(("number", "took"), [(20, 0.1), (20, 0.29), (100, 0.1)])
def test_a_healthy_burst_is_admitted(
    known: Dependency, limit: ConcurrencyLimit, number: int, took: float
) -> None:
    """However many calls come at once, none is refused where all are answered, even if it takes a little longer."""
    assert known.calls((1, 5.0, 0.1), (number, 0.0, took), (20, 0.001, 0.1)) == ["ok"] * (number + 21)
    assert (limit.limit, limit.running, limit.rejected) == (FREE, 0, 0)


@pytest.mark.parametrize("mode", ["async"], indirect=True)
def test_what_is_slow_by_nature_is_no_queue(dependency: Dependency, limit: ConcurrencyLimit) -> None:
    """Calls that always take ten seconds, twenty of them at once, are usual."""
    assert dependency.calls((80, 0.5, 10.0)) == ["ok"] * 80
    assert limit.limit == FREE


@pytest.mark.parametrize("mode", ["async"], indirect=True)
def test_the_first_answers_of_a_process_say_only_what_is_usual(
    dependency: Dependency, limit: ConcurrencyLimit
) -> None:
    """A cold process whose first calls take long, one after another or at once, is not limited for it."""
    assert dependency.calls((19, 0.1, 5.0), (1, 6.0, 5.0), (40, 0.1, 0.1)) == ["ok"] * 60
    assert limit.limit == FREE


def test_calls_one_at_a_time_say_nothing(known: Dependency, limit: ConcurrencyLimit) -> None:
    """Who never makes two calls at once makes no queue, however slow the answers get."""
    assert known.calls((30, 3.0, 2.0)) == ["ok"] * 30
    assert limit.limit == FREE


@pytest.mark.parametrize("mode", ["async"], indirect=True)
def test_one_quick_answer_in_between_is_enough(known: Dependency, limit: ConcurrencyLimit) -> None:
    """A part of the calls that is slow, three of four here, makes no queue of what others pass."""
    assert known.calls(*[(3, 0.05, 2.0), (1, 0.05, 0.05)] * 15, (12, 0.2, 0.05)) == ["ok"] * 72
    assert limit.limit == FREE


@pytest.mark.parametrize("mode", ["async"], indirect=True)
def test_a_mixture_of_quick_and_slow_calls_is_usual(dependency: Dependency, limit: ConcurrencyLimit) -> None:
    """Where three of ten calls take a hundred times as long, six of these in succession are nothing new."""
    mixed = [(7, 0.05, 0.01), (3, 0.05, 1.0)] * 6
    assert set(dependency.calls(*mixed, (6, 0.05, 1.0), *mixed)) == {"ok"}
    assert limit.limit == FREE


@pytest.mark.parametrize("took", [0.05, 0.5])
def test_errors_that_are_answers_are_no_queue(
    known: Dependency, limit: ConcurrencyLimit, took: float
) -> None:
    """Errors that `on` does not cover come from somebody: calls do not wait, and the limit does not move."""
    assert known.calls((60, 0.01, took), error=ValueError) == ["ValueError"] * 60
    assert limit.limit == FREE


def test_a_process_that_stood_still_itself_sees_no_queue(
    virtual_clock: VirtualClock, limit: ConcurrencyLimit
) -> None:
    """After a pause of the process all answers are late, at one instant: those after it are what counts."""
    for _ in range(31):
        pairs = [limit.admit(), limit.admit()]
        virtual_clock.advance(0.1)
        for permit in pairs:
            permit.success()
    waiting = [limit.admit() for _ in range(8)]
    virtual_clock.advance(60.0)
    new = [limit.admit() for _ in range(20)]
    for permit in waiting:
        permit.success()
    virtual_clock.advance(0.1)
    for permit in new:
        permit.success()
    assert (limit.limit, limit.running, limit.rejected) == (FREE, 0, 0)


def test_pauses_of_a_process_are_no_slowness(virtual_clock: VirtualClock, limit: ConcurrencyLimit) -> None:
    """Where answers take a millisecond, some of a twentieth of a second tell of the process, not of a queue."""
    for took in [0.001] * 50 + [0.05] * 50:
        pairs = [limit.admit(), limit.admit()]
        virtual_clock.advance(took)
        for permit in pairs:
            permit.success()
    assert (limit.limit, limit.rejected) == (FREE, 0)


def test_cancelled_calls_are_not_waited_for(virtual_clock: VirtualClock, limit: ConcurrencyLimit) -> None:
    """Calls that their callers gave up at once leave no doubt behind."""
    for _ in range(31):
        pairs = [limit.admit(), limit.admit()]
        virtual_clock.advance(0.1)
        for permit in pairs:
            permit.success()
    first = limit.admit()
    for _ in range(50):
        permit = limit.admit()
        virtual_clock.advance(0.1)
        permit.neutral()
    first.neutral()
    assert limit.limit == FREE


# A queue


def test_silence_is_a_sign(known: Dependency, limit: ConcurrencyLimit, event_recorder: EventRecorder) -> None:
    """Calls go out and nothing comes back, as long as is slow, twice: 1.5 times what is in flight, then less.

    0.1 s is usual, 0.3 s is slow. The call at 0.5 s is the fifth of which nothing was heard, and begins the doubt; at
    0.9 s it has lasted: nine are in flight. Of the five from 1.0 s on nothing was heard at 1.4 s, which leaves no
    doubt: of ten the half remains. What is refused then is no further sign.
    """
    outcomes = known.calls((20, 0.1, 1.0))
    assert [at for at, one in enumerate(outcomes) if one == "refused"] == [14, 15, 16, 17, 18, 19]
    assert changes(event_recorder) == [(FREE, 13), (13, 5)]
    assert (limit.running, limit.rejected) == (0, 6)


def test_slow_answers_are_a_sign(
    known: Dependency, limit: ConcurrencyLimit, event_recorder: EventRecorder
) -> None:
    """The fifth slow answer in succession, as long after the first as is slow: 3 more than are in flight."""
    # The first is alone as it begins, and says nothing; three more are in flight when the last of the others ends.
    answers = [(1, 0.0, took) for took in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 5.0, 5.0, 5.0)]
    assert known.calls(*answers) == ["ok"] * 9
    assert changes(event_recorder) == [(FREE, 7)]


def test_slow_answers_at_one_instant_are_none(
    known: Dependency, limit: ConcurrencyLimit, event_recorder: EventRecorder
) -> None:
    """Many slow answers that come together are one stop of the dependency, which is over."""
    assert known.calls((20, 0.0, 2.0), (1, 3.0, 0.1)) == ["ok"] * 21
    assert changes(event_recorder) == []


@pytest.mark.parametrize(("calls", "left"), [(5, 12), (3, 15)])
def test_drops_are_a_sign_at_once(
    driver: Driver, event_recorder: EventRecorder, calls: int, left: int
) -> None:
    """`calls` drops in succession need not last; of calls that were admitted before the sign no more lower it."""
    dependency = Dependency(driver, standing(algorithm={"calls": calls}))
    dependency.warm()
    given = [(1, 0.0, 0.21 + number / 1000) for number in range(13)]
    assert set(dependency.calls(*given, error=TimeoutError)) == {"TimeoutError"}
    assert changes(event_recorder) == [(FREE, left)]


@pytest.mark.parametrize("mode", ["async"], indirect=True)
def test_halved_again_by_what_began_after(
    known: Dependency, limit: ConcurrencyLimit, event_recorder: EventRecorder
) -> None:
    """As long as drops go on, the limit is halved once for the calls of each round, to 1 and no further."""
    outcomes = known.calls((120, 0.1, 2.05), error=TimeoutError)
    assert changes(event_recorder) == [(FREE, 13), (13, 6), (6, 2), (2, 1)]
    assert (limit.limit, outcomes.count("refused")) == (1, 96)


# Out of it


@pytest.mark.parametrize("mode", ["async"], indirect=True)
def test_quick_answers_raise_it_and_time_lifts_it(
    known: Dependency, limit: ConcurrencyLimit, event_recorder: EventRecorder
) -> None:
    """Each round of quick answers adds 1; ten seconds after the last sign there is no limit any more."""
    known.calls((20, 0.1, 1.0), (60, 0.1, 0.25), (40, 0.2, 0.05))
    assert changes(event_recorder) == [(FREE, 13), (13, 5), (5, 6), (6, 7), (7, FREE)]


def test_a_refusal_long_after_the_sign_is_none(
    known: Dependency, limit: ConcurrencyLimit, event_recorder: EventRecorder
) -> None:
    """A burst that comes when the last sign is ten seconds old finds no limit."""
    known.calls((20, 0.1, 1.0))
    assert limit.limit == 5
    assert known.calls((1, 11.0, 0.1), (30, 0.0, 0.1)) == ["ok"] * 31
    assert limit.limit == FREE


def test_a_call_is_tried_though_those_within_never_end(known: Dependency, limit: ConcurrencyLimit) -> None:
    """With all places held by calls that hang one more is made every two seconds; its answer is room for the next."""
    outcomes = known.calls((20, 0.5, 100.0))
    assert [at for at, one in enumerate(outcomes) if one == "ok"] == [*range(9), 12, 16]
    assert limit.limit == 4


@pytest.mark.parametrize("mode", ["async"], indirect=True)
def test_what_is_slower_for_good_becomes_usual(known: Dependency, limit: ConcurrencyLimit) -> None:
    """A dependency that is four times as slow from now on is taken for a queue for so long, and then no longer."""
    outcomes = known.calls((300, 0.1, 0.4))
    assert [at for at, one in enumerate(outcomes) if one == "refused"][-1] == 115
    assert limit.limit == FREE


def test_reset_begins_again(known: Dependency, limit: ConcurrencyLimit) -> None:
    """After a reset nothing is limited and nothing known; what was in flight then says nothing."""
    known.calls((20, 0.1, 1.0))
    limit.reset()
    assert (limit.limit, limit.rejected) == (FREE, 0)
    assert known.calls((29, 0.0, 0.1), (10, 0.3, 2.0)) == ["ok"] * 39
