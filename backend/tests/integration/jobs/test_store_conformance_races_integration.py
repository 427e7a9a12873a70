"""Every store × callers who race: processes on one database, threads on one store in memory."""

import itertools
from pathlib import Path

from backend.tests.integration.jobs._audit import ALL, check, dump
from backend.tests.integration.jobs._homes import Home
from backend.tests.integration.jobs._ledger import made, ref, step, worker
from backend.tests.integration.jobs._racing import RACERS, Race, race_threads
from holdfast.infrastructure.store.state import JobState, NewJob, StepState


def test_four_workers_share_a_job(home: Home, race: Race) -> None:
    """Of 1,600 steps each begins exactly once, whoever claims it, and the job ends once."""
    store = home.open()
    store.create_job(NewJob(id="job", handler="ship"), made(1600))
    begun = race("work", 25)
    assert sorted(position for one in begun for position in one) == list(range(1600))
    job = store.job("job")
    assert (job.state, job.counts.succeeded) == (JobState.SUCCEEDED, 1600)
    assert {one.attempts for one in store.steps("job", limit=ALL)} == {1}
    assert [event.state for event in store.events("job", limit=ALL) if event.kind == "job"] == [
        *("pending", "running", "succeeded")
    ]
    check(dump(store))


def test_threads_share_one_store(home: Home) -> None:
    """Opened once and used by four threads at once, it gives each step to one of them."""
    store = home.open()
    store.create_job(NewJob(id="job", handler="ship"), made(200))
    begun = race_threads(store, "work", (5,), RACERS)
    assert sorted(position for one in begun for position in one) == list(range(200))
    check(dump(store))


def test_a_graph_is_worked_off_by_four(home: Home, race: Race) -> None:
    """Nobody begins a step before what it depends on has ended, in whichever process that was."""
    store = home.open()
    levels = [[f"{level}.{n}" for n in range(5)] for level in range(8)]
    steps = [step(key, *before) for before, keys in zip([[], *levels], levels, strict=False) for key in keys]
    store.create_job(NewJob(id="job", handler="ship"), steps)
    begun = race("work", 2)
    assert sum(map(len, begun)) == 40
    done = store.steps("job", limit=ALL)
    ends = {one.key: one.finished_at for one in done}
    for one in done:
        assert all((ends[key] or 0.0) <= (one.started_at or 0.0) for key in one.depends_on)
    check(dump(store))


def test_concurrency_holds_across_callers(home: Home, race: Race) -> None:
    """With a concurrency of 2, four who want to begin at once never see more than two calls under way."""
    store = home.open()
    store.create_job(NewJob(id="job", handler="ship", concurrency=2), made(40))
    most = race("crowd")
    assert max(most) <= 2
    assert store.job("job").counts.succeeded == 40


def test_a_tenants_concurrency_holds_across_callers_and_jobs(home: Home, race: Race) -> None:
    """With a bound of 2 for all jobs, four who work on three of them never see more than two calls under way."""
    store = home.open()
    store.set_concurrency(2)
    for name in ("one", "two", "three"):
        store.create_job(NewJob(id=name, handler="ship"), made(10))
    most = race("crowd")
    assert max(most) <= 2
    assert [job.counts.succeeded for job in store.jobs()] == [10] * 3


def test_a_rate_holds_across_callers(home: Home, race: Race) -> None:
    """At 100 a second, calls of four begin at least 10 ms after one another, on the store's clock."""
    store = home.open()
    store.create_job(NewJob(id="job", handler="ship", rate=100.0), made(20))
    race("crowd")
    begun = sorted(one.started_at or 0.0 for one in store.steps("job"))
    assert len(begun) == 20
    assert min(later - earlier for earlier, later in itertools.pairwise(begun)) > 0.0099


def test_a_deduplication_key_has_one_winner(home: Home, race: Race) -> None:
    """Of four who submit under one key at once, one stores a job; the others get that one."""
    told = race("submit", 10)
    for key in range(10):
        jobs = {job for job, _ in (one[key] for one in told)}
        assert len(jobs) == 1
        assert sum(new for _, new in (one[key] for one in told)) == 1
    store = home.open()
    assert len(store.jobs()) == 10
    check(dump(store))


def test_an_id_has_one_winner(home: Home, race: Race) -> None:
    """Of four who submit one id at once, one stores it, with its own steps; the others are refused."""
    stored = race("same_id", 10)
    assert sorted(number for one in stored for number in one) == list(range(10))
    store = home.open()
    for me, numbers in enumerate(stored):
        assert {store.job(f"same-{number}").counts.total for number in numbers} <= {me + 1}


def test_a_dead_workers_steps_are_taken_once(home: Home, race: Race) -> None:
    """Four recover the same worker by portions: each step is taken by one of them, once."""
    store = home.open()
    store.create_job(NewJob(id="job", handler="ship"), made(60))
    store.register(worker("dead"), 60.0)
    refs = [ref(one) for one in store.claim("dead", 40)]
    store.advance("dead", [], refs[:15])
    taken = race("take_over", "dead")
    assert sorted(position for one in taken for position in one) == list(range(40))
    steps = store.steps("job")
    assert [one.fence for one in steps] == [2] * 40 + [0] * 20
    assert [one.state for one in steps[:15]] == [StepState.NEEDS_REVIEW] * 15
    check(dump(store))


def test_a_lease_is_taken_over(home: Home, race: Race) -> None:
    """One freezes in its call past its lease, the other recovers and does the step: its result stays."""
    store = home.open()
    store.create_job(NewJob(id="job", handler="ship", idempotent=True), made(1))
    assert race("stall", callers=2) == ["lost", "recorded"]
    [done] = store.steps("job")
    assert (done.state, done.result, done.fence) == (StepState.SUCCEEDED, b"1", 3)
    check(dump(store))


def test_a_lock_keeps_others_out(home: Home, race: Race, tmp_path: Path) -> None:
    """Two add to one number under a lock: none of their additions is lost, and no fence comes twice."""
    number = tmp_path / "number"
    number.write_text("0", encoding="ascii")
    fences = race("count_up", 20, str(number), callers=2)
    assert number.read_text(encoding="ascii") == "40"
    assert [one == sorted(one) for one in fences] == [True, True]
    assert sorted(fence for one in fences for fence in one) == list(range(1, 41))


def test_no_wake_up_is_lost(home: Home, race: Race) -> None:
    """Whoever marks a lock that is held may leave: the holder sees what was new before it lets go."""
    store = home.open()
    store.create_job(NewJob(id="job", handler="ship"), made(1))
    seen = race("evaluate", 25)
    assert store.job("job").last_event == 101
    assert max(seen) == 101
    check(dump(store))


def test_a_version_has_one_winner(home: Home, race: Race) -> None:
    """Of four who change a job as they have seen it, one does."""
    store = home.open()
    version = store.create_job(NewJob(id="job", handler="ship"), made(1))[0].version
    assert sorted(race("pause", version)) == [False, False, False, True]
