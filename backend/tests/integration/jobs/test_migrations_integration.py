"""Stores that are migrated while they are in use: who waits, who goes on, who is refused; later versions are copies."""

import sqlite3
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from backend.tests.integration.jobs._audit import check, dump
from backend.tests.integration.jobs._kill_job import JOB, Plan
from backend.tests.integration.jobs._kill_matrix import HEAD, ORDERS, STARTS, with_labels
from backend.tests.integration.jobs._kill_outages import begun
from backend.tests.integration.jobs._kill_service import Labels
from backend.tests.integration.jobs._kill_worker import Nursery
from backend.tests.integration.jobs._ledger import outcome
from backend.tests.integration.jobs._next_version import migrations
from backend.tests.integration.jobs._outside import until
from backend.tests.integration.jobs._sql import MANY, claimed, many, run, ship, started, submitted
from holdfast.infrastructure.store.sql import create_tenant, open_store, tenants
from holdfast.infrastructure.store.state import (
    JobState,
    StepState,
    StoreUnavailableError,
    StoreVersionError,
)

VERSION = "CREATE TABLE {}alembic_version (version_num TEXT)"
NEWER = "INSERT INTO {}alembic_version VALUES ('9999')"
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
BLOCKED = "SELECT count(*) FROM pg_locks WHERE locktype = 'relation' AND NOT granted"
# "hold": who migrates any tenant of a database has this lock, and the mark of files that are holdfast's.
MARK = 0x686F6C64


class Held:
    """The lock under which a store is migrated, and a transaction that can do so."""

    def __init__(self, url: str, run: Callable[[str], object], schema: str) -> None:
        self.url = url
        self.schema = schema
        self.run = run

    def be_waited_for(self, number: int) -> None:
        """Wait until so many others wait for it, as far as that can be seen."""
        if not self.url.startswith("postgresql"):
            time.sleep(0.5)
            return
        with psycopg.connect(self.url, autocommit=True) as connection:
            until(lambda: connection.execute(WAITING).fetchone() == (number,))


@contextmanager
def held(url: str) -> Generator[Held]:
    """Hold the lock under which a store is migrated, until the end; then what was done is committed."""
    if url.startswith("postgresql"):
        with psycopg.connect(url) as server:
            server.execute(f"SELECT pg_advisory_xact_lock({MARK})".encode())
            yield Held(url, lambda text: server.execute(text.encode()), "holdfast_default.")
        return
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as file:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("BEGIN IMMEDIATE")
        yield Held(url, file.execute, "")
        file.execute("COMMIT")


def test_of_two_processes_one_migrates_and_one_waits(database_url: str, later_version: Path) -> None:
    """Two processes that open an older store at once both work with it afterwards; it was migrated once."""
    with open_store(database_url) as store:
        submitted(store)
    with held(database_url) as lock:
        bodies = [f"submitted(store, job='job-{me}')" for me in range(2)]
        racers = [started(database_url, body, library=later_version) for body in bodies]
        lock.be_waited_for(2)
    assert [racer.wait() for racer in racers] == [0, 0]
    assert migrations(database_url) == ["next_1", "next_2"]
    names = "assert {one.id for one in store.jobs()} == {'job', 'job-0', 'job-1'}"
    assert run(database_url, names, library=later_version) == 0


def test_who_waits_too_long_is_told(database_url: str) -> None:
    """Whoever migrates and does not come to an end keeps others waiting for `busy_timeout`, then it is an error."""
    with (
        held(database_url),
        pytest.raises(StoreUnavailableError, match=r"lock.*(another process has been|others have been)"),
    ):
        open_store(database_url, busy_timeout=0.2)
    with open_store(database_url) as store:
        assert store.jobs() == []


def test_who_waited_for_a_newer_version_is_refused(database_url: str) -> None:
    """Who waits to migrate a store looks again when it is their turn: the one before may have been newer."""
    with ThreadPoolExecutor(1) as pool:
        with held(database_url) as lock:
            opening = pool.submit(open_store, database_url)
            lock.be_waited_for(1)
            if lock.schema:
                lock.run("CREATE SCHEMA holdfast_default")
            else:
                lock.run(f"PRAGMA application_id = {MARK}")
            lock.run(VERSION.format(lock.schema))
            lock.run(NEWER.format(lock.schema))
        with pytest.raises(StoreVersionError, match="version 9999, this holdfast knows up to"):
            opening.result(30)


def test_a_deadlock_with_who_works_is_tried_again(server_url: str, later_version: Path) -> None:
    """A migration that holds one table and waits for another is not ended by who holds them the other way round."""
    open_store(server_url).close()
    with psycopg.connect(server_url) as other:
        # Whoever waits longer than this looks for a deadlock, and gives way: the migration, which waits first.
        other.execute("SET deadlock_timeout = '10s'")
        other.execute("LOCK TABLE holdfast_default.steps IN ROW EXCLUSIVE MODE")
        migrating = started(server_url, "", library=later_version)
        with psycopg.connect(server_url, autocommit=True) as watching:
            until(lambda: watching.execute(BLOCKED).fetchone() == (1,))
        with suppress(psycopg.errors.DeadlockDetected):
            other.execute("LOCK TABLE holdfast_default.jobs IN ROW EXCLUSIVE MODE")
    assert migrating.wait() == 0
    assert migrations(server_url) == ["next_1", "next_2"]


def test_each_tenant_is_migrated_by_itself(database_url: str, later_version: Path) -> None:
    """Who opens one tenant's store migrates that one; processes of the older version go on with the others."""
    open_store(database_url).close()
    create_tenant(database_url, "acme")
    assert run(database_url, "submitted(store)", library=later_version) == 0
    assert tenants(database_url) == ["acme", "default"]
    with pytest.raises(StoreVersionError, match="install the version of holdfast that wrote it"):
        open_store(database_url)
    with open_store(database_url, tenant="acme") as store:
        submitted(store)
        assert len(ship(store)) == 3


def test_an_older_process_goes_on_where_tables_were_added_to(database_url: str, later_version: Path) -> None:
    """With the store open, an older process goes on in every way though a newer one has added to the tables."""
    with open_store(database_url) as store:
        submitted(store)
        refs = claimed(store)
        store.advance("w1", (), refs[:1])
        assert run(database_url, "submitted(store, job='newer')", library=later_version) == 0
        store.advance("w1", [outcome(refs[0], result=b"1")], refs[1:])
        store.advance("w1", [outcome(refs[1], StepState.FAILED, error="no"), outcome(refs[2])])
        store.retire("w1")
        submitted(store, many(), job="many")
        store.change_job("many", JobState.PAUSED)
        assert len(ship(store, "w2")) == 3
        assert [job.id for job in store.jobs()] == ["many", "newer", "job"]
        assert [job.counts.done for job in store.jobs()] == [0, 3, 3]
        check(dump(store))
    body = f"assert [one.counts.total for one in store.jobs()] == [{MANY}, 3, 3]"
    assert run(database_url, body, library=later_version) == 0


def test_an_older_process_is_told_where_tables_are_gone(database_url: str, renaming_version: Path) -> None:
    """Where a newer version has taken away what an older one needs, its calls say both versions, and change nothing."""
    with open_store(database_url) as store:
        submitted(store)
        refs = claimed(store)
        assert run(database_url, "", library=renaming_version) == 0
        before = store.job("job"), store.steps("job"), store.events("job")
        for call in (
            lambda: store.claim("w1", 5),
            lambda: store.renew("w1", 5.0),
            lambda: store.advance("w1", [outcome(refs[0], StepState.FAILED)]),
            store.workers,
            store.recover,
        ):
            with pytest.raises(
                StoreVersionError, match="version next_1, this holdfast knows up to"
            ) as caught:
                call()
            assert caught.value.certain
        assert (store.job("job"), store.steps("job"), store.events("job")) == before


def test_an_older_worker_finishes_its_job(
    database_url: str, tmp_path: Path, nursery: Nursery, labels: Labels, later_version: Path
) -> None:
    """A worker in the middle of its calls is not disturbed by who adds to its tables: each row once."""
    plan = planned(database_url, tmp_path, labels)
    with open_store(database_url) as store:
        labels.answering.clear()
        nursery.start(plan)
        until(lambda: begun(store))
        assert (
            run(database_url, "assert store.job('orders').counts.in_flight == 3", library=later_version) == 0
        )
        labels.answering.set()
        assert nursery.ended() == 0
        assert store.job(JOB).state is JobState.SUCCEEDED
        check(dump(store, ["today"]))
    assert labels.calls == labels.effects == {f"{JOB}:{order}": 1 for order in ORDERS}
    assert plan.file.read_text(encoding="utf-8") == with_labels(set(ORDERS))


def test_an_older_worker_ends_and_a_newer_one_goes_on(
    database_url: str, tmp_path: Path, nursery: Nursery, labels: Labels, renaming_version: Path
) -> None:
    """A worker whose tables are gone ends, it does not try for ever; a newer one settles what it left."""
    plan = planned(database_url, tmp_path, labels)
    newer = Nursery(renaming_version)
    try:
        with open_store(database_url) as store:
            labels.answering.clear()
            nursery.start(plan)
            until(lambda: begun(store))
            in_flight = "assert store.job('orders').counts.in_flight == 3"
            assert run(database_url, in_flight, library=renaming_version) == 0
            labels.answering.set()
            assert nursery.ended() == 1
        assert newer.run(plan) == 0
    finally:
        newer.close()
    assert labels.calls == labels.effects == {f"{JOB}:{order}": 1 for order in ORDERS}
    assert plan.file.read_text(encoding="utf-8") == with_labels(set(ORDERS))


def planned(url: str, folder: Path, labels: Labels) -> Plan:
    """Return the plan for a process that does twelve orders."""
    plan = Plan(url=url, folder=str(folder), port=labels.port)
    plan.file.write_text(f"{HEAD}\n{STARTS}", encoding="utf-8")
    return plan
