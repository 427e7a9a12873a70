"""Evaluations × each other: one at a time, none that is lost, whoever dies or takes too long."""

import os
import threading
from functools import partial

import pytest

from backend.tests.integration.jobs._homes import Home
from backend.tests.integration.orchestration._faults import Between, Turns
from backend.tests.integration.orchestration._yard import Yard, order, request
from holdfast.infrastructure.store.state import JobState, StepState

S = StepState
TURNS = int(os.environ.get("HOLDFAST_GRAPH_TURNS", "40"))
GOOD = b'{"status": "succeeded"}'


def result(run: str, number: int) -> str:
    return f"tmp/callbacks/runs/{run}/{number:04}/result.json"


def put(yard: Yard, run: str, *numbers: int) -> None:
    for number in numbers:
        yard.blobs.put(result(run, number), GOOD)


def test_who_comes_during_an_evaluation_is_not_lost(yard: Yard) -> None:
    """He is told that somebody else does it, and that one sees his result before the lock is free."""
    run = yard.submit(order("a"), order("b"), order("c", "a"), order("d", "b"))
    answers: list[bool] = []

    def meanwhile(call: object) -> object:
        assert callable(call)
        if not answers:
            put(yard, run, 2)
            answers.append(yard.again().evaluate(run))
        return call()

    put(yard, run, 1)
    yard.again(targets={"local": Between(yard.puppets, meanwhile)}).evaluate(run)
    assert answers == [False]
    assert yard.puppets.started == ["a", "b", "c", "d"]


def test_who_marks_a_lock_that_was_just_given_back_evaluates_himself(yard: Yard) -> None:
    """Its holder was gone before it could see the mark."""
    run = yard.submit(order("a"), order("b", "a"))
    held = yard.store.acquire(f"run/{run}", "holder", 60.0)
    put(yard, run, 1)

    class Late(Between):
        def mark_dirty(self, name: str) -> None:
            assert held is not None
            assert yard.store.unlock(held)
            yard.store.mark_dirty(name)

    assert yard.again(store=Late(yard.store, lambda call: call())).evaluate(run)
    assert yard.puppets.started == ["a", "b"]


def test_an_evaluation_that_died_is_taken_over(yard: Yard) -> None:
    """When its lock has expired, not before; the dead one cannot release what is another's."""
    run = yard.submit(order("a"), order("b", "a"))
    dead = yard.store.acquire(f"run/{run}", "dead", 60.0)
    assert dead is not None
    put(yard, run, 1)
    assert not yard.runs.evaluate(run)
    assert yard.clock is not None
    yard.clock.advance(60)
    other = yard.store.acquire(f"run/{run}", "other", 1.0)
    assert other is not None
    assert not yard.store.unlock(dead)
    assert yard.store.holds(other)
    yard.clock.advance(1)
    assert yard.runs.evaluate(run)
    assert yard.states(run) == {"a": S.SUCCEEDED, "b": S.RUNNING}


@pytest.mark.parametrize("taken", [False, True], ids=["free again", "taken over"])
def test_an_evaluation_that_takes_too_long_harms_nobody(yard: Yard, *, taken: bool) -> None:
    """Its lock expires in the middle; whether or not another took over, each order starts once and the run ends."""
    run = yard.submit(order("a"), order("b", "a"), order("c", "b"))
    stalls = [61.0]

    def stall(call: object) -> object:
        assert callable(call)
        assert yard.clock is not None
        if stalls:
            yard.clock.advance(stalls.pop())
            if taken:
                assert yard.again().evaluate(run)
        return call()

    put(yard, run, 1)
    assert yard.again(targets={"local": Between(yard.puppets, stall)}).evaluate(run)
    assert yard.puppets.started == ["a", "b"]
    put(yard, run, 2, 3)
    yard.runs.evaluate(run)
    yard.runs.evaluate(run)
    assert yard.puppets.started == ["a", "b", "c"]
    assert yard.runs.status(run).status is JobState.SUCCEEDED
    assert yard.ends(run) == ["succeeded"]


def test_what_another_process_did_is_seen(yard: Yard, home: Home) -> None:
    """Whoever evaluates by turns sees what the other one started, whatever it knew when it gave the lock back."""
    mine, theirs = yard.runs, yard.again(store=home.open(clock=yard.clock))
    run = yard.submit(*(order(name, *wait) for name, wait in zip("abcde", ("", *"abcd"), strict=True)))
    turns = (mine, theirs, theirs, mine, mine)
    for number, runs in enumerate(turns, 1):
        assert yard.puppets.started == list("abcde"[:number])
        put(yard, run, number)
        assert runs.evaluate(run)
    assert yard.puppets.started == list("abcde")
    assert (yard.ends(run), yard.done(run)["status"]) == (["succeeded"], "succeeded")


def test_who_was_cancelled_by_a_process_that_died_starts_nothing_more(yard: Yard, home: Home) -> None:
    """It changed the run and could not evaluate it: the next result does, though its evaluator knew of nothing."""
    run = yard.submit(order("a"), order("b", "a"), order("c", "b"))
    put(yard, run, 1)
    yard.runs.evaluate(run)
    home.open(clock=yard.clock).change_job(run, JobState.CANCELLED)
    put(yard, run, 2)
    yard.runs.evaluate(run)
    assert yard.puppets.started == ["a", "b"]
    assert (yard.ends(run), yard.done(run)["status"]) == (["cancelled"], "cancelled")


def test_a_run_with_the_id_of_one_that_was_deleted_is_another(yard: Yard, home: Home) -> None:
    """Who evaluated the first one to its end knows nothing of the second."""
    run = yard.submit(order("a"), run_id="same")
    yard.say(run, "a")
    other = home.open(clock=yard.clock)
    other.delete_job(run)
    for key in ("same/done", "runs/same/0001/started", *(result(run, number) for number in (0, 1))):
        assert yard.blobs.delete(key)
    assert yard.again(store=other).submit(request(order("b"), run_id="same")).created
    assert yard.runs.evaluate(run)
    assert yard.puppets.started == ["a", "b"]


def test_an_error_leaves_the_lock_free(yard: Yard) -> None:
    """The event comes again, and need not wait for the lock to expire."""
    run = yard.submit(order("a"), order("b", "a"))
    put(yard, run, 1)

    def fail(call: object) -> object:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        yard.again(blobs=Between(yard.blobs, fail)).evaluate(run)
    assert yard.runs.evaluate(run)
    assert yard.puppets.started == ["a", "b"]


def test_callers_at_once_lose_nothing(yard: Yard) -> None:
    """Six threads deliver 24 results, each through runs of its own: all end, each started once, one end."""
    names = [f"o{one}" for one in range(24)]
    run = yard.submit(*(order(name) for name in names), order("last", *names))
    together = threading.Barrier(6)

    def deliver(mine: list[str]) -> None:
        runs = yard.again()
        together.wait()
        for name in mine:
            runs.deliver(run, name, GOOD)

    threads = [threading.Thread(target=deliver, args=(names[one::6],)) for one in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert yard.puppets.started == [*names, "last"]
    assert yard.puppets.dispatched == yard.puppets.started
    yard.say(run, "last")
    assert yard.ends(run) == ["succeeded"]


def check_turns(yard: Yard, seed: int) -> None:
    """Let two or three deliver results at once, by turns as a seed says; the last order starts, once."""
    turns, names = Turns(seed), "abc"[: 2 + seed % 2]
    run = yard.submit(*map(order, names), order("d", *names))
    yard.puppets.started.clear()
    others = [yard.again(store=Between(yard.store, turns), blobs=Between(yard.blobs, turns)) for _ in names]
    actors = [partial(runs.deliver, run, name, GOOD) for runs, name in zip(others, names, strict=True)]
    turns.run(*actors)
    assert yard.puppets.started == ["d"], seed


@pytest.mark.parametrize("block", range(5))
def test_no_interleaving_loses_a_wakeup(quick_yard: Yard, block: int) -> None:
    """Two or three deliver results at once, by turns at every call, in 500 random orders: the last always starts."""
    for seed in range(100 * block, 100 * block + 100):
        check_turns(quick_yard, seed)


def test_no_interleaving_loses_one_in_each_kind_of_store(yard: Yard) -> None:
    """The same, in databases: forty orders, or as many as HOLDFAST_GRAPH_TURNS says."""
    for seed in range(TURNS):
        check_turns(yard, seed)
