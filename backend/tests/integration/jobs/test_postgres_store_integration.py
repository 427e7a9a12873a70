"""What only PostgreSQL has: schemas for tenants, connections that break, pools, locks of rows, notifications."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from random import Random
from typing import Any

import psycopg
import pytest

from backend.tests.integration.jobs._ledger import made, outcome, ref, worker
from backend.tests.integration.jobs._relay import Relay
from backend.tests.integration.jobs._sql import KILLED, MANY, claimed, many, run, ship, submitted
from holdfast.infrastructure.store.sql import (
    SqlStateStore,
    create_tenant,
    drop_tenant,
    open_store,
    tenants,
)
from holdfast.infrastructure.store.state import (
    IllegalTransition,
    JobState,
    LeaseLostError,
    NewJob,
    NewStep,
    Refusal,
    StepState,
    StoreUnavailableError,
    SubmissionError,
    TenantNotFoundError,
)


def ask(url: str, text: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(text.encode(), values)
        return cursor.fetchall() if cursor.description else []


def end_sessions(url: str) -> int:
    """End all sessions of the database but this one, as a restart does; return how many there were."""
    rows = ask(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    return len(rows)


def test_each_tenant_has_a_schema(server_url: str) -> None:
    """A tenant is a schema of the database; dropping it leaves the others."""
    open_store(server_url).close()
    create_tenant(server_url, "acme-2")
    assert tenants(server_url) == ["acme-2", "default"]
    schemas = ask(server_url, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'holdfast%%' ORDER BY 1")
    assert schemas == [("holdfast_acme-2",), ("holdfast_default",)]
    drop_tenant(server_url, "acme-2")
    assert tenants(server_url) == ["default"]


def test_an_unknown_tenant_is_not_made_by_opening_it(server_url: str) -> None:
    """A misspelt name is an error that says which."""
    with pytest.raises(TenantNotFoundError, match="'acm'"):
        open_store(server_url, tenant="acm")
    assert tenants(server_url) == []


def test_a_tenant_sees_nothing_of_another(server_url: str) -> None:
    """Two tenants on one server have the same ids, and neither finds the other's."""
    with open_store(server_url) as one, open_store(server_url, tenant="two", create=True) as two:
        submitted(one)
        submitted(two, 5)
        submitted(two, job="theirs")
        assert one.job("job").counts.total == 3
        assert [job.id for job in one.jobs()] == ["job"]


def test_a_connection_carries_no_tenant(server_url: str) -> None:
    """Whatever a pool did to a connection, statements name their schema: a search path changes nothing."""
    roles = server_url + ("&" if "?" in server_url else "?") + "options=-csearch_path%3Dholdfast_two"
    create_tenant(server_url, "two")
    with open_store(roles) as store:
        submitted(store)
        ship(store)
    with open_store(server_url, tenant="two") as two:
        assert two.jobs() == []


def test_processes_may_create_a_tenant_at_once(server_url: str) -> None:
    """One sets the schema up, the others wait for it; none fails."""
    with ThreadPoolExecutor(4) as pool:
        stores = [
            future.result(60)
            for future in [pool.submit(open_store, server_url, tenant="new", create=True) for _ in range(4)]
        ]
    for store in stores:
        assert store.jobs() == []
        store.close()


def test_a_newer_schema_is_left_alone(server_url: str) -> None:
    """A schema that a newer version wrote is refused, with both versions."""
    open_store(server_url).close()
    ask(server_url, "UPDATE holdfast_default.alembic_version SET version_num = '9999'")
    with pytest.raises(StoreUnavailableError, match=r"version 9999.*install the version"):
        open_store(server_url)


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    """The error says where, and the remedy; a password is not for logs."""
    with pytest.raises(StoreUnavailableError) as caught:
        open_store("postgresql://postgres:secret@127.0.0.1:1/jobs")
    assert "postgresql://127.0.0.1:1/jobs: " in str(caught.value)
    assert "start the server" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_sessions_that_were_ended_are_replaced(server_url: str, server_store: SqlStateStore) -> None:
    """After a restart of the server the next call makes a new connection; nothing is asked of the caller."""
    submitted(server_store)
    refs = claimed(server_store)
    for call in (
        lambda: server_store.advance("w1", (), refs[:1]),
        lambda: server_store.advance("w1", [outcome(refs[0], StepState.FAILED)], refs[1:2]),
        server_store.jobs,
        lambda: server_store.note("job", "hello", {}),
    ):
        assert end_sessions(server_url) > 0
        call()
    assert [step.attempts for step in server_store.steps("job")] == [1, 1, 0]


def test_a_call_that_was_cut_off_runs_again(server_url: str, server_store: SqlStateStore) -> None:
    """A session that ends while it waits for a lock has committed nothing: the call is made again, and counted once."""
    submitted(server_store)
    refs = claimed(server_store)
    with closing(psycopg.connect(server_url)) as holder, ThreadPoolExecutor(1) as pool:
        holder.execute("SELECT 1 FROM holdfast_default.jobs FOR UPDATE")
        waiting = pool.submit(server_store.release, "w1", refs[:1])
        until(lambda: bool(ask(server_url, "SELECT 1 FROM pg_locks WHERE NOT granted")))
        blocked = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted"
        ask(server_url, blocked)
        holder.rollback()
        waiting.result(20)
    assert server_store.job("job").counts.running == 2
    handed_back = [
        event for event in server_store.events("job") if (event.kind, event.state) == ("step", "pending")
    ]
    assert len(handed_back) == 1


def test_two_calls_of_a_bounded_tenant_begin_one_after_the_other(
    server_url: str, server_store: SqlStateStore
) -> None:
    """Who lets a call begin waits for another that does, of whatever job: together they keep to the tenant's bound."""
    server_store.set_concurrency(1)
    for job in ("mine", "theirs"):
        submitted(server_store, 1, job=job)
    server_store.register(worker("w1"), 60.0)
    refs = {step.job: ref(step) for step in server_store.claim("w1", 2)}
    with ThreadPoolExecutor(1) as pool, closing(psycopg.connect(server_url)) as other:
        other.execute("SELECT value FROM holdfast_default.limits FOR UPDATE")
        waiting = pool.submit(server_store.advance, "w1", (), [refs["mine"]])
        until(lambda: bool(ask(server_url, "SELECT 1 FROM pg_locks WHERE NOT granted")))
        begin = "UPDATE holdfast_default.steps SET begun = TRUE WHERE job <> (SELECT no FROM holdfast_default.jobs "
        other.execute(f"{begin} WHERE id = 'mine')".encode())
        other.commit()
        assert waiting.result(20).refused == {refs["mine"]: Refusal.BUSY}


def test_a_claim_that_waited_for_its_job_misses_no_retry(
    server_url: str, server_store: SqlStateStore
) -> None:
    """A step that came due while a claim waited for the job's lock is claimed then, or later, but not forgotten."""
    submitted(server_store, 3)
    [first] = claimed(server_store, 1)
    server_store.advance("w1", (), [first])
    with ThreadPoolExecutor(1) as pool, closing(psycopg.connect(server_url)) as other:
        other.execute("SELECT no FROM holdfast_default.jobs FOR UPDATE")
        waiting = pool.submit(server_store.claim, "w1", 1, job="job")
        until(lambda: bool(ask(server_url, "SELECT 1 FROM pg_locks WHERE NOT granted")))
        # As a worker does whose call failed a moment before that claim, to be tried again at once.
        back = (
            "state = 'pending', begun = FALSE, worker = NULL, waits = 1, due_at = extract(epoch FROM now())"
        )
        other.execute(f"UPDATE holdfast_default.steps SET {back} WHERE position = 0".encode())
        count = "UPDATE holdfast_default.jobs SET pending = pending + 1, running = running - 1, in_flight = 0"
        other.execute(count.encode())
        other.commit()
        taken = [step.position for step in waiting.result(20)]
    taken += [step.position for step in server_store.claim("w1", 10, job="job")]
    assert sorted(taken) == [0, 1, 2]


@pytest.mark.parametrize("skip", [(), ("another",)], ids=["shortly", "the long way"])
def test_a_worker_that_is_being_recovered_claims_nothing(
    server_url: str, server_store: SqlStateStore, skip: tuple[str, ...]
) -> None:
    """A claim waits for who ends the worker's lease, which did not see that claim, and is refused then."""
    submitted(server_store, 3)
    claimed(server_store, 1)
    with ThreadPoolExecutor(1) as pool, closing(psycopg.connect(server_url)) as other:
        other.execute("SELECT id FROM holdfast_default.workers FOR UPDATE")
        waiting = pool.submit(server_store.claim, "w1", 1, skip=skip)
        until(lambda: bool(ask(server_url, "SELECT 1 FROM pg_locks WHERE NOT granted")))
        other.execute("DELETE FROM holdfast_default.workers")
        other.commit()
        with pytest.raises(LeaseLostError):
            waiting.result(20)
    assert server_store.job("job").counts.running == 1


def test_a_recovery_waits_for_no_claim_of_those_who_live(
    server_url: str, server_store: SqlStateStore
) -> None:
    """Who is in the middle of a claim keeps its own worker from being recovered, and no other."""
    submitted(server_store, 3)
    claimed(server_store, 1)
    server_store.register(worker("w2"), 60.0)
    server_store.claim("w2", 1)
    with ThreadPoolExecutor(1) as pool, closing(psycopg.connect(server_url)) as other:
        other.execute("SELECT id FROM holdfast_default.workers WHERE id = 'w1' FOR KEY SHARE")
        assert pool.submit(server_store.recover, ["w2"]).result(20).workers == ("w2",)
    assert server_store.job("job").counts.running == 1


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("delivered", [False, True], ids=["lost", "delivered"])
def test_a_commit_without_an_answer_happens_once(
    cut_store: SqlStateStore, relay: Relay, *, delivered: bool
) -> None:
    """Whether the server got the COMMIT is found out: what was committed is not done again, what was not is."""
    submitted(cut_store)
    relay.cut_at(b"COMMIT", delivered=delivered)
    event = cut_store.note("job", "once", {"number": 1})
    assert relay.cuts == 1
    noted = [one for one in cut_store.events("job") if one.state == "once"]
    assert noted == [event]


@pytest.mark.parametrize("delivered", [False, True], ids=["lost", "delivered"])
def test_an_advance_without_an_answer_happens_once(
    cut_store: SqlStateStore, relay: Relay, *, delivered: bool
) -> None:
    """Successes that may have been recorded are looked up: each is recorded once, and none is called late."""
    submitted(cut_store)
    refs = claimed(cut_store)
    cut_store.advance("w1", (), refs[:1])
    relay.cut_at(b"advance(", delivered=delivered)
    done = cut_store.advance("w1", [outcome(refs[0], result=b"1")], refs[1:2])
    assert relay.cuts == 1
    assert (done.begun, done.late, dict(done.refused)) == ((refs[1],), (), {})
    assert [step.attempts for step in cut_store.steps("job")] == [1, 1, 0]
    told = [(event.kind, event.state) for event in cut_store.events("job")]
    assert told.count(("step", "succeeded")) == 1
    assert ("late", "succeeded") not in told


def test_a_submission_of_many_without_an_answer_happens_once(cut_store: SqlStateStore, relay: Relay) -> None:
    """Its source is used up: whether it was committed is found out, not tried."""
    relay.cut_at(b"COMMIT", delivered=True)
    # The first COMMIT is that of the look for a job of the same key.
    submitted(cut_store, many())
    assert cut_store.job("job").counts.total == MANY


def test_a_server_that_stays_away_is_an_error(
    server_url: str, server_store: SqlStateStore, relay: Relay, relayed_url: str
) -> None:
    """After the patience that was asked for, the caller hears of it, and that nothing has changed."""
    with open_store(relayed_url, busy_timeout=0.3) as cut:
        submitted(cut)
        relay.close()
        end_sessions(server_url)
        start = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="start the server") as caught:
            submitted(cut, job="other")
        assert caught.value.certain
        assert time.monotonic() - start < 10
    assert [job.id for job in server_store.jobs()] == ["job"]


def test_behind_a_pooler_nothing_is_listened_to(server_url: str) -> None:
    """With `pooled` no channel is listened to."""
    with open_store(server_url, pooled=True) as store:
        for number in range(8):
            submitted(store, job=f"job-{number}")
            ship(store)
        store.wait(0)
        assert store.wait(0.1) is False
        left = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%%'"
        assert ask(server_url, left) == []


def test_wait_ends_when_another_store_has_news(server_url: str, server_store: SqlStateStore) -> None:
    """A submission elsewhere wakes who waits, sooner than its poll would."""
    server_store.wait(0)
    with open_store(server_url) as other, ThreadPoolExecutor(1) as pool:
        listening = threading.Event()

        def wait() -> tuple[bool, float]:
            server_store.wait(0.3)
            listening.set()
            start = time.monotonic()
            return server_store.wait(30.0), time.monotonic() - start

        waiting = pool.submit(wait)
        listening.wait(10)
        submitted(other)
        ended, after = waiting.result(20)
        assert ended
        assert after < 30


def test_a_wait_polls_in_case_a_notification_is_lost(server_url: str, server_store: SqlStateStore) -> None:
    """Even without news a wait ends after a second, so that nothing depends on notifications alone."""
    server_store.wait(0)
    start = time.monotonic()
    assert server_store.wait(30.0)
    assert time.monotonic() - start < 20


def test_the_clock_is_the_servers(server_url: str, server_store: SqlStateStore) -> None:
    """Leases of workers on many hosts are measured by one clock."""
    ((server,),) = ask(server_url, "SELECT extract(epoch FROM clock_timestamp())::float8")
    assert server_store.now() == pytest.approx(server, abs=5)


def test_a_history_is_in_order_though_transactions_wait(server_url: str, server_store: SqlStateStore) -> None:
    """A transaction that began early and got the job late writes no earlier time than the one before it."""
    submitted(server_store, 50)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(server_store.note, "job", f"n{number}", {}) for number in range(40)]
    for future in futures:
        future.result(60)
    events = server_store.events("job")
    assert [event.seq for event in events] == list(range(1, 42))
    assert [event.at for event in events] == sorted(event.at for event in events)


def test_callers_of_all_kinds_do_not_lock_each_other_out(
    server_url: str, server_store: SqlStateStore
) -> None:
    """Workers, a watchdog and people work on the same jobs at once: no deadlock, no error, every count right."""
    jobs = [f"job-{number}" for number in range(4)]
    for job in jobs:
        submitted(server_store, 40, job=job)
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = ask(server_url, deadlocks)
    stop = time.monotonic() + 2
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(_work, server_store, me, stop) for me in range(4)]
        futures += [pool.submit(_order, server_store, me, jobs, stop) for me in range(2)]
        for future in futures:
            future.result(60)
    for job in jobs:
        record, steps = server_store.job(job), server_store.steps(job)
        counted = {state: sum(step.state is state for step in steps) for state in StepState}
        assert {state: getattr(record.counts, state) for state in StepState} == counted
        numbers = [event.seq for event in server_store.events(job, limit=100_000)]
        assert numbers == list(range(1, record.last_event + 1))
    assert ask(server_url, deadlocks) == before


_ENDS = [StepState.SUCCEEDED, StepState.SUCCEEDED, StepState.PENDING, StepState.FAILED]


def _work(store: SqlStateStore, me: int, stop: float) -> None:
    chance, name = Random(me), f"w{me}"
    while time.monotonic() < stop:
        try:
            refs = claimed(store, 6, name)
            begun = store.advance(name, (), refs[:4]).begun
            told = [outcome(ref, chance.choice(_ENDS), error="x", retry_in=0.01) for ref in begun]
            store.advance(name, told)
            store.release(name, refs[4:])
            if chance.random() < 0.1:
                store.recover([f"w{chance.randrange(4)}"])
        except LeaseLostError:
            continue


def _order(store: SqlStateStore, me: int, jobs: Sequence[str], stop: float) -> None:
    chance = Random(me)
    while time.monotonic() < stop:
        store.sweep()
        job = chance.choice(jobs)
        for to in (JobState.PAUSED, JobState.PENDING):
            with suppress(IllegalTransition):
                store.change_job(job, to)


def test_large_tables_are_read_by_their_indexes(server_url: str, server_store: SqlStateStore) -> None:
    """With many rows, done and to be done, a round of work reads no table from end to end."""
    for job in ("job", "other"):
        submitted(server_store, many(), job=job)
    for _ in range(3):
        refs = claimed(server_store, 50)
        server_store.advance("w1", (), refs)
        server_store.advance("w1", [outcome(ref) for ref in refs])
    scans = (
        "SELECT relname, seq_tup_read FROM pg_stat_user_tables WHERE relname IN ('steps', 'events', 'outbox')"
    )
    ask(server_url, "SELECT pg_stat_force_next_flush()") if server_version(
        server_url
    ) >= 150000 else time.sleep(1)
    before = dict(settled(server_url, scans))
    for _ in range(10):
        refs = claimed(server_store, 50)
        server_store.advance("w1", (), refs)
        server_store.advance("w1", [outcome(ref, StepState.FAILED) for ref in refs[:10]])
        server_store.advance("w1", [outcome(ref) for ref in refs[10:]])
        server_store.next_due()
        server_store.sweep()
        server_store.recover()
        server_store.owing()
        server_store.events("job", kinds=["note"])
    assert dict(settled(server_url, scans)) == before


def server_version(url: str) -> int:
    with psycopg.connect(url) as connection:
        return connection.info.server_version


def settled(url: str, text: str) -> list[tuple[Any, ...]]:
    """Return statistics when they change no more: sessions report theirs a little later."""
    last: list[tuple[Any, ...]] = []
    for _ in range(20):
        found = ask(url, text)
        if found == last:
            break
        last = found
        time.sleep(1.1)
    return last


def test_a_submission_of_many_has_its_faults_named(server_store: SqlStateStore) -> None:
    """Through the temporary table too, all that is wrong is said at once, and nothing is stored."""

    def steps() -> Iterator[NewStep]:
        yield from many()
        yield NewStep(key="s7", payload=b"1", line=5000)
        yield NewStep(key="odd\0", payload=b"1")
        yield NewStep(key="lonely", payload=b"1", depends_on=("nobody", "s1"))

    with pytest.raises(SubmissionError) as caught:
        server_store.create_job(NewJob(id="job", handler="ship"), steps())
    assert any("'nobody'" in fault for fault in caught.value.faults)
    assert any("zero bytes" in fault for fault in caught.value.faults)
    assert server_store.jobs() == []


def test_two_of_one_key_among_many_are_a_fault(server_store: SqlStateStore) -> None:
    """A key that is there twice is named with its line."""
    with pytest.raises(SubmissionError, match=r"'s7' \(line 5000\) is there twice"):
        submitted(server_store, [*many(), NewStep(key="s7", payload=b"1", line=5000)])
    assert server_store.jobs() == []


def test_dependencies_among_many_are_kept(server_store: SqlStateStore) -> None:
    """The last of many steps waits for the first, and is free when that has succeeded."""
    submitted(server_store, [*many(), NewStep(key="last", payload=b"1", depends_on=("s0",))])
    refs = claimed(server_store, MANY + 5)
    assert len(refs) == MANY
    server_store.advance("w1", (), refs[:1])
    server_store.advance("w1", [outcome(refs[0])])
    assert [step.key for step in server_store.claim("w1", 5)] == ["last"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_opens_its_own_connections(server_url: str, server_store: SqlStateStore) -> None:
    """The child of a fork uses the store as its parent does, and ends none of its parent's sessions."""
    submitted(server_store)
    child = os.fork()
    if child == 0:
        try:
            submitted(server_store, job="child")
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    submitted(server_store, job="parent")
    assert {job.id for job in server_store.jobs()} == {"job", "child", "parent"}


CHANGES = {
    "create_job": "submitted(store, job='new')",
    "create_job of many": "submitted(store, many(), job='new')",
    "claim": "store.claim('w1', 3)",
    "advance": "store.advance('w1', (), held)",
}


@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_kill_at_a_commit_is_all_or_nothing(
    server_url: str, server_store: SqlStateStore, change: str, moment: str
) -> None:
    """Killed before the commit nothing is there, killed after it everything is."""
    submitted(server_store)
    server_store.register(worker("w1"), 3600.0)
    method = change.split(maxsplit=1)[0]
    body = (
        "from backend.tests.integration.jobs._ledger import ref\n"
        f"held = [ref(one) for one in store.claim('w1', 3)] if {method == 'advance'} else []\n"
        f"{CHANGES[change]}"
    )
    assert run(server_url, body, kill_at=f"store.{method}.{moment}") == KILLED
    counts = server_store.job("job").counts
    done = {
        "create_job": [job.counts.total for job in server_store.jobs() if job.id == "new"] in ([3], [MANY]),
        "claim": counts.running == 3,
        "advance": counts.in_flight == 3,
    }[method]
    assert done is (moment == "after_commit")
    assert counts.total == len(made(3))
