"""What callers who race do, each with a store of its own: `task(store, me, …)`, results as JSON has them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.tests.integration.jobs._ledger import made, outcome, ref, worker
from holdfast.infrastructure.store.state import (
    JOB_ENDS,
    ConflictError,
    JobState,
    LeaseLostError,
    NewJob,
    StateStore,
    StepRecord,
    StepState,
    StoreError,
)

LIMIT = 60.0


def work(store: StateStore, me: int, portion: int) -> list[int]:
    """Make calls until the job has ended; return the positions that began here."""
    name, begun = f"w{me}", list[int]()
    store.register(worker(name), LIMIT)
    while store.job("job").state not in JOB_ENDS:
        refs = [ref(record) for record in store.claim(name, portion)]
        told = store.advance(name, [], refs)
        begun += [one.position for one in told.begun]
        store.advance(name, [outcome(one, result=b"1") for one in told.begun])
        if not refs:
            store.wait(0.02)
    return begun


def under_way(store: StateStore) -> int:
    """Return how many calls of all jobs are under way."""
    return sum(job.counts.in_flight for job in store.jobs())


def crowd(store: StateStore, me: int) -> int:
    """Make calls one by one until all jobs have ended; return how many were under way at most."""
    name, most = f"w{me}", 0
    store.register(worker(name), LIMIT)
    held: list[StepRecord] = []
    while any(job.state not in JOB_ENDS for job in store.jobs()):
        most = max(most, under_way(store))
        held = held or store.claim(name, 1)
        begun = store.advance(name, [], [ref(one) for one in held]).begun
        most = max(most, under_way(store))
        if begun:
            store.advance(name, [outcome(one) for one in begun])
            held = []
        else:
            store.wait(0.01)
    return most


def submit(store: StateStore, me: int, keys: int) -> list[tuple[str, bool]]:
    """Submit jobs under keys that the others use too; return whose they are and whether they are new."""
    told: list[tuple[str, bool]] = []
    for key in range(keys):
        job = NewJob(id=f"{key}-of-{me}", handler="ship", dedup_key=str(key))
        record, new = store.create_job(job, made(3))
        told.append((record.id, new))
    return told


def same_id(store: StateStore, me: int, jobs: int) -> list[int]:
    """Submit jobs under ids that the others use too; return those that were taken."""
    stored: list[int] = []
    for number in range(jobs):
        try:
            store.create_job(NewJob(id=f"same-{number}", handler="ship"), made(me + 1))
            stored.append(number)
        except StoreError:
            continue
    return stored


def take_over(store: StateStore, me: int, dead: str) -> list[int]:
    """Recover a worker that is gone until nothing is left; return the positions that were taken here."""
    taken: list[int] = []
    while dead in {one.id for one in store.workers()}:
        told = store.recover([dead], limit=3)
        taken += [one.position for one in told.returned + told.ambiguous]
    return taken


def stall(store: StateStore, me: int) -> str:
    """Be the one who freezes in a call, or the one who takes over; return what became of one's outcome."""
    name = f"w{me}"
    if me == 0:
        store.register(worker(name), 2.0)
        [mine] = store.claim(name, 1)
        store.advance(name, [], [ref(mine)])
        until(lambda: store.job("job").state in JOB_ENDS)
        try:
            store.advance(name, [outcome(ref(mine), StepState.FAILED)])
        except LeaseLostError:
            return "lost"
        return "recorded"
    store.register(worker(name), LIMIT)
    until(lambda: store.job("job").counts.in_flight == 1)
    until(lambda: bool(store.recover().returned))
    [mine] = store.claim(name, 1)
    store.advance(name, [], [ref(mine)])
    store.advance(name, [outcome(ref(mine), result=b"1")])
    return "recorded"


def count_up(store: StateStore, me: int, rounds: int, path: str) -> list[int]:
    """Add to a number in a file under a lock; return the fences."""
    fences: list[int] = []
    for _ in range(rounds):
        while (lock := store.acquire("count", f"w{me}", LIMIT)) is None:
            store.wait(0.01)
        number = int(Path(path).read_text(encoding="ascii"))
        time.sleep(0.001)
        Path(path).write_text(str(number + 1), encoding="ascii")
        fences.append(lock.fence)
        assert store.unlock(lock)
    return fences


def evaluate(store: StateStore, me: int, notes: int) -> int:
    """Say something new and see it evaluated, by whoever holds the lock; return the last event seen holding it."""
    seen = 0
    for number in range(notes):
        store.note("job", "result", {"from": me, "number": number})
        store.mark_dirty("evaluator")
        lock = store.acquire("evaluator", f"w{me}", LIMIT)
        while lock is not None:
            store.clear_dirty(lock)
            seen = max([seen, *(event.seq for event in store.events("job", limit=10_000))])
            if store.unlock(lock):
                break
    return seen


def pause(store: StateStore, me: int, version: int) -> bool:
    """Pause the job as it was at that version; return whether it was this one who did."""
    try:
        store.change_job("job", JobState.PAUSED, version=version)
    except ConflictError:
        return False
    return True


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.005)


TASKS: dict[str, Callable[..., Any]] = {
    task.__name__: task
    for task in (work, crowd, submit, same_id, take_over, stall, count_up, evaluate, pause)
}
