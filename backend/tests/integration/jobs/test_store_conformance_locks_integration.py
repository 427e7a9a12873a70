"""Every store × locks: one holder at a time, fences, and marks that no holder misses."""

import pytest

from backend.tests.integration.jobs._ledger import Ledger
from holdfast.infrastructure.store.state import LeaseLostError, Lock


def acquired(ledger: Ledger, owner: str = "a", lease: float = 10.0, name: str = "run") -> Lock:
    lock = ledger.store.acquire(name, owner, lease)
    assert lock is not None
    return lock


def test_a_lock_has_one_holder(ledger: Ledger) -> None:
    """Who comes second gets nothing, until it is given back."""
    start = ledger.clock.time()
    first = acquired(ledger)
    assert first == Lock(name="run", owner="a", fence=1, expires_at=start + 10)
    assert ledger.store.acquire("run", "b", 10.0) is None
    assert ledger.store.holds(first)
    assert ledger.store.unlock(first)
    assert not ledger.store.holds(first)
    assert acquired(ledger, "b").fence == 2


def test_who_holds_a_lock_can_be_told(ledger: Ledger) -> None:
    """While it is held, the lock as its holder has it; before, after and past its lease, nobody."""
    ledger.store.mark_dirty("run")
    assert ledger.store.lock("run") is None
    first = acquired(ledger)
    assert ledger.store.lock("run") == first
    assert ledger.store.lock("other") is None
    ledger.clock.advance(9)
    assert acquired(ledger) == ledger.store.lock("run")
    ledger.clock.advance(10)
    assert ledger.store.lock("run") is None
    again = acquired(ledger, "b")
    assert ledger.store.lock("run") == again
    ledger.store.clear_dirty(again)
    ledger.store.unlock(again)
    assert ledger.store.lock("run") is None


def test_locks_of_other_names_are_others(ledger: Ledger) -> None:
    """Each name has its own holder, fence and mark."""
    first, second = acquired(ledger), acquired(ledger, "b", name="other")
    assert first.fence == second.fence == 1
    ledger.store.mark_dirty("other")
    assert ledger.store.unlock(first)
    assert ledger.store.holds(second)


def test_a_holder_prolongs_its_lock(ledger: Ledger) -> None:
    """From now on, with the same fence: what was said under it stays good."""
    first = acquired(ledger)
    ledger.clock.advance(9)
    again = acquired(ledger)
    assert (again.fence, again.expires_at) == (1, ledger.clock.time() + 10)
    ledger.clock.advance(9)
    assert ledger.store.holds(first)
    assert ledger.store.holds(again)


def test_a_lock_ends_with_its_lease(ledger: Ledger) -> None:
    """From its last second on it is nobody's; the next one gets a higher fence."""
    first = acquired(ledger)
    ledger.clock.advance(9.5)
    assert ledger.store.acquire("run", "b", 10.0) is None
    ledger.clock.advance(0.5)
    assert not ledger.store.holds(first)
    assert not ledger.store.unlock(first)
    assert acquired(ledger, "b").fence == 2


def test_a_lock_that_was_taken_over_is_lost(ledger: Ledger) -> None:
    """Its old holder neither holds nor unlocks nor clears it, and the new one notices nothing."""
    old = acquired(ledger)
    ledger.clock.advance(10)
    new = acquired(ledger, "b")
    ledger.store.mark_dirty("run")
    assert not ledger.store.holds(old)
    assert not ledger.store.unlock(old)
    with pytest.raises(LeaseLostError) as caught:
        ledger.store.clear_dirty(old)
    assert caught.value.worker == "a"
    assert ledger.store.holds(new)
    assert ledger.store.clear_dirty(new)


def test_a_fence_rises_for_the_same_owner_too(ledger: Ledger) -> None:
    """Whoever gets a lock anew, after its end or after giving it back, has another fence."""
    first = acquired(ledger)
    ledger.clock.advance(10)
    second = acquired(ledger)
    ledger.store.unlock(second)
    third = acquired(ledger)
    assert [one.fence for one in (first, second, third)] == [1, 2, 3]
    assert [ledger.store.holds(one) for one in (first, second, third)] == [False, False, True]


def test_a_lock_is_unlocked_once(ledger: Ledger) -> None:
    """The second time there is nothing to give back."""
    lock = acquired(ledger)
    assert [ledger.store.unlock(lock), ledger.store.unlock(lock)] == [True, False]


def test_a_lock_that_was_never_taken_is_nobodys(ledger: Ledger) -> None:
    """A made-up lock holds nothing."""
    made_up = Lock(name="none", owner="a", fence=0, expires_at=ledger.clock.time() + 99)
    assert not ledger.store.holds(made_up)
    assert not ledger.store.unlock(made_up)


def test_a_marked_lock_is_not_given_back(ledger: Ledger) -> None:
    """What came while its holder worked is seen before it lets go: no wake-up is lost."""
    lock = acquired(ledger)
    ledger.store.mark_dirty("run")
    ledger.store.mark_dirty("run")
    assert not ledger.store.unlock(lock)
    assert ledger.store.holds(lock)
    assert ledger.store.clear_dirty(lock)
    assert not ledger.store.clear_dirty(lock)
    assert ledger.store.unlock(lock)


def test_a_mark_between_clearing_and_unlocking_counts(ledger: Ledger) -> None:
    """The holder goes round once more."""
    lock = acquired(ledger)
    ledger.store.mark_dirty("run")
    ledger.store.clear_dirty(lock)
    ledger.store.mark_dirty("run")
    assert not ledger.store.unlock(lock)
    assert ledger.store.clear_dirty(lock)


@pytest.mark.parametrize("known", [True, False])
def test_a_mark_waits_for_the_next_holder(ledger: Ledger, *, known: bool) -> None:
    """Set while nobody holds the lock, or before anybody ever did, it is there for who comes."""
    if known:
        ledger.store.unlock(acquired(ledger))
    ledger.store.mark_dirty("run")
    lock = acquired(ledger, "b")
    assert not ledger.store.unlock(lock)
    assert ledger.store.clear_dirty(lock)


def test_a_mark_outlives_its_holder(ledger: Ledger) -> None:
    """When the holder is gone before it looked, its successor looks."""
    acquired(ledger)
    ledger.store.mark_dirty("run")
    ledger.clock.advance(10)
    assert ledger.store.clear_dirty(acquired(ledger, "b"))


def test_a_lock_outlives_a_reopened_store(ledger: Ledger) -> None:
    """It is kept where everything is kept."""
    lock = acquired(ledger)
    ledger.store.mark_dirty("run")
    ledger.reopen()
    assert ledger.store.holds(lock)
    assert ledger.store.acquire("run", "b", 1.0) is None
    assert ledger.store.clear_dirty(lock)


@pytest.mark.parametrize("end", ["retire", "recover"])
def test_the_locks_of_a_worker_end_with_it(ledger: Ledger, end: str) -> None:
    """Whoever is seen dead, or goes, holds no lock any more; the marks on it stay, and so do others' locks."""
    ledger.hire("w1", "w2")
    first, other = acquired(ledger, "w1", 300.0), acquired(ledger, "w2", 300.0, "other")
    ledger.store.mark_dirty("run")
    if end == "retire":
        ledger.store.retire("w1")
    else:
        ledger.store.recover(["w1"])

    assert not ledger.store.holds(first)
    assert ledger.store.holds(other)
    second = acquired(ledger, "w2")
    assert second.fence == 2
    assert ledger.store.clear_dirty(second)
