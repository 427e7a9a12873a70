"""What a SQL store does inside: plans of its statements, migrations, the short way of `advance`, refusals of SQLite."""

import os
import random
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from backend.tests._run import postgres_address
from backend.tests.integration.jobs._homes import own_database
from backend.tests.integration.jobs._ledger import outcome, ref, worker
from backend.tests.integration.jobs._sql import claimed, many, ship, submitted
from holdfast.infrastructure.store import _postgres, _sql_job, _sql_migrate, _sqlite_quick
from holdfast.infrastructure.store._migrations.claim import CLAIM
from holdfast.infrastructure.store._sql_rows import clean, pack_positions, pack_runs, read_positions
from holdfast.infrastructure.store._sql_tables import metadata
from holdfast.infrastructure.store._sqlite import SqliteLink
from holdfast.infrastructure.store.memory import MemoryStateStore
from holdfast.infrastructure.store.sql import SqlStateStore, create_tenant, open_store
from holdfast.infrastructure.store.state import (
    JobState,
    OutboxState,
    StateStore,
    StepRef,
    StepState,
    StoreUnavailableError,
)
from holdfast.testing.clock import VirtualClock


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStateStore]:
    """Give an empty store in a file."""
    with open_store(f"sqlite:///{tmp_path / 'jobs.db'}") as opened:
        yield opened


@pytest.fixture(scope="module")
def database(postgres_server: str) -> Iterator[str]:
    """Give the URL of a PostgreSQL database for this file's tests."""
    with own_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="module")
def postgres_server() -> str:
    """Give the URL of a PostgreSQL that answers; skip without one."""
    url = postgres_address()
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.Error as error:
        if os.environ.get("HOLDFAST_REQUIRE_SERVICES") == "1":
            raise
        pytest.skip(f"no PostgreSQL answers at {url} ({error})")
    return url


def writer_of(store: SqlStateStore) -> sqlite3.Connection:
    link = vars(store)["_link"]
    assert isinstance(link, SqliteLink)
    link.write("nothing", lambda tx: tx.now)
    writer: sqlite3.Connection = vars(link)["_writer"]
    return writer


def reader_of(store: SqlStateStore) -> sqlite3.Connection:
    link = vars(store)["_link"]
    assert isinstance(link, SqliteLink)
    link.read(lambda tx: tx.now)
    reader: sqlite3.Connection = vars(link)["_readers"][-1]
    return reader


def everything(store: SqlStateStore) -> None:
    """Call what workers, watchdogs and people call while jobs run."""
    for _ in range(3):
        refs = claimed(store, 50)
        store.advance("w1", (), refs)
        ends = [StepState.SUCCEEDED] * 40 + [StepState.PENDING, StepState.FAILED, StepState.NEEDS_REVIEW] * 3
        told = [outcome(ref, end, result=b"1", retry_in=1.0) for ref, end in zip(refs, ends, strict=False)]
        store.advance("w1", told)
    store.renew("w1", 60.0)
    store.release("w1", claimed(store, 5))
    claimed(store, 5)
    store.recover(["w1"])
    store.sweep()
    store.retire("w1")
    store.next_due()
    store.job("job")
    store.step("job", "s5")
    store.steps("job", after=5, limit=10)
    [*review] = store.steps("job", states=[StepState.NEEDS_REVIEW])
    store.resolve("job", review[0].key, StepState.SUCCEEDED)
    store.events("job", after=3, limit=5)
    store.events("job", kinds=["note"])
    store.settle_outbox(store.outbox("job", states=[OutboxState.PENDING], limit=5))
    store.owing()
    store.change_job("other", JobState.CANCELLED)


# Small by nature: workers, locks, what is claimed at one time, a list of parameters, jobs that owe.
_SCANNED = (
    *("SCAN workers", "SCAN locks", "SCAN json_each", "SCAN s USING INDEX steps_running", "SCAN owing"),
    # The first of them only.
    "SCAN jobs USING INDEX jobs_open",
)


@pytest.mark.parametrize("before", [0, 10], ids=["analyzed", "analyzed when it was small"])
def test_no_statement_reads_whole_tables(store: SqlStateStore, before: int) -> None:
    """Each statement finds its rows by an index, whatever the planner has learnt of the steps."""
    if before:
        submitted(store, before, job="first")
        writer_of(store).execute("ANALYZE steps")
    for job in ("job", "other"):
        submitted(store, many(), job=job, write_back=True, step_timeout=60.0, job_timeout=600.0)
    statements: set[str] = set()
    for connection in (writer_of(store), reader_of(store)):
        connection.set_trace_callback(statements.add)
    everything(store)
    plans = {text: plan(writer_of(store), text) for text in statements if text.split()[0] in _PLANNED}
    scans = {text: line for text, lines in plans.items() for line in lines if line.startswith("SCAN")}
    assert len(plans) > 20
    assert {text: line for text, line in scans.items() if not line.startswith(_SCANNED)} == {}


_PLANNED = {"SELECT", "UPDATE", "DELETE", "WITH"}


def plan(connection: sqlite3.Connection, text: str) -> list[str]:
    connection.set_trace_callback(None)
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")]


def cost(store: SqlStateStore, call: Callable[[], Any]) -> int:
    """Return how much work a call is for SQLite, in tens of its instructions."""
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1

    writer_of(store).set_progress_handler(tick, 10)
    call()
    writer_of(store).set_progress_handler(None, 0)
    return count


def test_the_cost_of_a_row_does_not_grow_with_the_rows_done(store: SqlStateStore) -> None:
    """The first fifty of a job and those after two thousand cost the same number of SQLite's instructions."""
    submitted(store, many(2200))
    store.register(worker("w1"), 3600.0)

    def fifty() -> None:
        refs = [
            StepRef(job="job", position=step.position, fence=step.fence) for step in store.claim("w1", 50)
        ]
        store.advance("w1", (), refs)
        store.advance("w1", [outcome(ref, result=b"1") for ref in refs])

    fifty()
    first = cost(store, fifty)
    for _ in range(40):
        fifty()
    assert cost(store, fifty) == pytest.approx(first, rel=0.1)


def life(store: StateStore, clock: VirtualClock, seed: int) -> Iterator[list[int]]:
    """Yield what is claimed, time after time, in a random life of one job with retries, releases and lost workers."""
    choose = random.Random(seed)
    submitted(store, many(40))
    held: list[StepRef] = []
    for _ in range(60):
        store.register(worker("w1"), 60.0)
        got = [ref(step) for step in store.claim("w1", choose.randrange(1, 9))]
        yield [one.position for one in got]
        held += got
        store.advance("w1", (), begin := [one for one in held if choose.random() < 0.6])
        ends = {StepState.SUCCEEDED: 0.0, StepState.PENDING: choose.choice([0.0, 0.5, 3.0])}
        outcomes = [
            outcome(one, to, retry_in=ends[to]) for one in begin for to in choose.choices([*ends], k=1)
        ]
        store.advance("w1", outcomes)
        held = [one for one in held if one not in begin]
        back, held = held[:2], held[2:]
        store.release("w1", back)
        if choose.random() < 0.1:
            store.retire("w1")
            held = []
        clock.advance(choose.choice([0.0, 0.3, 2.0]))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_claims_miss_nothing(
    kind: str, seed: int, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims begin to look where pending steps begin, and find the same as in a store that looks everywhere."""
    for module in (_sql_job, _sqlite_quick):
        monkeypatch.setattr(module, "STRIDE", 1)
    clock = VirtualClock()
    url = f"sqlite:///{tmp_path}/" if kind == "sqlite" else request.getfixturevalue("database")
    with open_store(url, tenant=f"life{seed}", create=True, clock=clock) as store:
        if kind == "postgresql":
            with psycopg.connect(url) as connection:
                often = CLAIM.replace("start + 500", "start + 1").format(schema=f"holdfast_life{seed}")
                connection.execute(often.encode())
        found = list(life(store, clock, seed))
    clock = VirtualClock()
    assert found == list(life(MemoryStateStore("life", clock=clock), clock, seed))
    assert sum(map(len, found)) > 40


def test_postgresql_looks_for_pending_steps_where_they_begin(database: str) -> None:
    """What was claimed and done is not read again, though no vacuum has cleared it from the indexes."""
    with open_store(database, tenant="far", create=True) as store:
        submitted(store, many(3000))
        store.register(worker("w1"), 3600.0)
        for _ in range(58):
            refs = [ref(step) for step in store.claim("w1", 50)]
            store.advance("w1", (), refs)
            store.advance("w1", [outcome(one, result=b"1") for one in refs])
    with psycopg.connect(database) as connection:
        connection.execute("SET search_path TO holdfast_far")
        (begin,) = connection.execute("SELECT pending_from FROM jobs").fetchone() or (0,)
        assert 2900 - 500 <= begin <= 2900


@pytest.mark.foundation
def test_the_head_of_the_migrations_is_the_version_that_the_code_knows() -> None:
    """An open compares one constant; alembic is only asked when that differs."""
    assert ScriptDirectory.from_config(_sql_migrate.scripts()).get_heads() == [_sql_migrate.HEAD]


@pytest.mark.foundation
def test_migrations_lead_to_the_tables_of_sqlite(store: SqlStateStore) -> None:
    """What the migrations make is what the tables say, to the letter."""
    text = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'alembic%'"
    engine = sa.create_engine("sqlite://")
    with engine.connect() as fresh:
        metadata.create_all(fresh)
        expected = {row[0]: row[1] for row in fresh.exec_driver_sql(text)}
    engine.dispose()
    assert dict(reader_of(store).execute(text)) == expected


@pytest.mark.foundation
def test_migrations_lead_to_the_tables_of_postgresql(database: str) -> None:
    """There too."""
    create_tenant(database, "migrated")
    engine = sa.create_engine(database.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        connection.exec_driver_sql("SET search_path TO holdfast_migrated")
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_behind_a_pooler_no_statement_is_prepared(database: str) -> None:
    """A pooler gives each transaction another session, which does not know what was prepared in the last."""
    with open_store(database, tenant="pooled", create=True, pooled=True) as store:
        for number in range(8):
            submitted(store, job=f"job-{number}")
        assert vars(store)["_link"].read(_prepared) == []


def _prepared(tx: Any) -> list[tuple[str]]:
    names: list[tuple[str]] = tx.all("SELECT name FROM pg_prepared_statements")
    return names


@pytest.mark.foundation
def test_an_older_schema_is_migrated(tmp_path: Path) -> None:
    """A file from before the first version, which has only alembic's table, gets all tables when it is opened."""
    path = tmp_path / "jobs.db"
    with closing(sqlite3.connect(path)) as old:
        old.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        old.execute(f"PRAGMA application_id = {0x686F6C64}")
        old.commit()
    with open_store(f"sqlite:///{path}") as store:
        submitted(store)
        assert store.job("job").counts.total == 3


# A job as the first version keeps it.
OLDEST = "0001"
SPEC = """
    {"id": "job", "handler": "ship", "name": "orders", "origin": "", "batch": null, "dedup_key": null, "priority": 3,
    "ready": true, "settings": {"reference": ""}, "concurrency": null, "rate": null, "max_attempts": 1,
    "idempotent": false, "stop_after": null, "stop_share": null, "step_timeout": null, "job_timeout": null,
    "expires_in": null, "retry_of": null, "write_back": false}
"""
KEPT = """
    INSERT INTO jobs
        (id, handler, priority, state, ready, open, plain, total, pending, last_event, created_at, changed_at)
    VALUES ('job', 'ship', 3, 'pending', true, true, true, 2, 2, 1, 1e9, 1e9);
    INSERT INTO details (job, spec) VALUES (1, :spec);
    INSERT INTO events (id, at, kind, state, positions, data) VALUES (4294967297, 1e9, 'job', 'pending', '[]', '{}');
    INSERT INTO steps (id, job, position, key, line, payload) VALUES (4294967296, 1, 0, 's0', 1, :payload);
    INSERT INTO steps (id, job, position, key, line, payload) VALUES (4294967297, 1, 1, 's1', 2, :payload)
"""


@pytest.mark.foundation
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_the_oldest_version_kept_can_be_done(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A job that the first version stored is there after the migration to this one, and is executed."""
    if kind == "sqlite":
        url, begin = f"sqlite:///{tmp_path / 'jobs.oldest.db'}", [f"PRAGMA application_id = {0x686F6C64}"]
    else:
        url = request.getfixturevalue("database").replace("postgresql://", "postgresql+psycopg://")
        begin = ["CREATE SCHEMA holdfast_oldest", "SET LOCAL search_path TO holdfast_oldest"]
    engine, config = sa.create_engine(url), _sql_migrate.scripts()
    with engine.begin() as old:
        config.attributes["connection"] = old
        for statement in begin:
            old.exec_driver_sql(statement)
        command.upgrade(config, OLDEST)
        for statement in KEPT.split(";"):
            old.execute(sa.text(statement), {"spec": SPEC, "payload": b'"s"'})
    engine.dispose()
    with open_store(url.replace("+psycopg", "").replace(".oldest", ""), tenant="oldest") as store:
        [job] = store.jobs()
        assert (job.id, job.new.name, job.state, job.counts.total) == ("job", "orders", JobState.PENDING, 2)
        assert [(step.key, step.payload) for step in store.steps("job")] == [("s0", b'"s"'), ("s1", b'"s"')]
        assert len(ship(store)) == 2
        assert store.job("job").state is JobState.SUCCEEDED


def test_an_open_of_a_current_file_needs_no_sqlalchemy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing it costs more than all the rest of an opening."""
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    open_store(url).close()
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    monkeypatch.setitem(sys.modules, "alembic", None)
    open_store(url).close()


@pytest.mark.foundation
def test_each_commit_is_synced(store: SqlStateStore) -> None:
    """The writer's connection is FULL: what it committed survives a loss of power."""
    assert writer_of(store).execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_full_disk_is_named(store: SqlStateStore) -> None:
    """Nothing of what did not fit is there, the remedy is said, and the store goes on when there is room again."""
    submitted(store)
    writer = writer_of(store)
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreUnavailableError, match="full; free space on the disk") as caught:
        submitted(store, 900, job="big")
    assert caught.value.certain
    assert [job.id for job in store.jobs()] == ["job"]
    writer.execute("PRAGMA max_page_count = 1000000")
    submitted(store, 900, job="big")
    assert store.job("big").counts.total == 900


def test_a_read_only_file_is_named(store: SqlStateStore) -> None:
    """What may not be written says so, with the remedy."""
    writer_of(store).execute("PRAGMA query_only = TRUE")
    with pytest.raises(StoreUnavailableError, match="readonly database; let this user write"):
        submitted(store)


def test_the_short_way_tells_the_same_as_the_long_one(store: SqlStateStore) -> None:
    """Successes recorded by few statements leave the same steps, counters and events as those that take them all."""
    stories: list[Any] = []
    for job, settings in (("short", {}), ("long", {"rate": 1000000.0})):
        submitted(store, 7, job=job, write_back=True, **settings)
        refs = claimed(store, name=f"w-{job}")
        store.register(worker("w1"), 3600.0)
        name = f"w-{job}"
        store.advance(name, (), refs[:1])
        store.advance(name, [outcome(refs[0], result=b"1", took=0.5)], refs[1:2])
        for one in refs[2:]:
            while one not in store.advance(name, (), [one]).begun:
                pass
        store.advance(name, [outcome(refs[5], result=b"5"), outcome(refs[1]), outcome(refs[2], took=2.0)])
        told = [(event.kind, event.state, event.positions, dict(event.data)) for event in store.events(job)]
        for _, _, _, data in told:
            data.pop("worker", None)
        steps = [
            (step.state, step.attempts, step.begun, step.result, step.worker is None)
            for step in store.steps(job)
        ]
        stories.append((told, steps, store.job(job).counts, [entry.position for entry in store.outbox(job)]))
    assert stories[0] == stories[1]


@pytest.mark.parametrize(
    "positions",
    [
        *([], [0], [7], [0, 1], [0, 1, 2, 3], [0, 2], [0, 1, 3, 4, 5, 9], [5, 6, 8]),
        *([0, 0], [0, 0, 2], [0, 1, 1], [0, 1, 1, 2], [3, 3, 3]),
    ],
    ids=str,
)
def test_positions_come_back(positions: list[int]) -> None:
    """An event's positions are stored as runs; one that is told twice is there twice."""
    assert read_positions(pack_positions(positions)) == tuple(positions)
    assert read_positions(pack_runs(positions)) == tuple(positions)


def test_a_million_positions_are_a_few_bytes() -> None:
    """Cancelling a large job is a small event."""
    assert pack_runs(range(1_000_000)) == "[[0,999999]]"


def test_texts_are_stored_as_they_are_where_that_is_possible() -> None:
    """Only what no database takes is spelt out."""
    assert clean("naïve\n") == "naïve\n"
    assert clean("\udcff\0") == "\\udcff\\x00"


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ('FATAL:  database "shop" does not exist', "create the database"),
        ('FATAL:  role "jobs" does not exist', "correct user and password"),
        ('FATAL:  password authentication failed for user "jobs"', "correct user and password"),
        ("fe_sendauth: no password supplied", "correct user and password"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1"', "let the server's pg_hba.conf admit"),
        ("FATAL:  sorry, too many clients already", "free space or connections"),
        ("FATAL:  remaining connection slots are reserved", "free space or connections"),
        ("FATAL:  the database system is starting up", "try again in a moment"),
        ("connection refused", "start the server, or correct the URL"),
    ],
)
def test_a_refused_connection_says_what_to_do(said: str, remedy: str) -> None:
    """Of a refusal libpq hands on the server's text only: the remedy is found in its words."""
    error = _postgres.unavailable("postgresql://jobs:hush@db/shop", psycopg.OperationalError(said))
    assert str(error).startswith(f"postgresql://db/shop: {' '.join(said.split())}; ")
    assert remedy in error.remedy


@pytest.mark.parametrize(
    "kind", [psycopg.errors.DuplicatePreparedStatement, psycopg.errors.InvalidSqlStatementName]
)
def test_who_is_behind_a_pooler_is_told(kind: type[psycopg.Error]) -> None:
    """A prepared statement that is another session's means a transaction pooler, and how to say so."""
    assert "?pooled=true" in _postgres.unavailable("postgresql://db/shop", kind("statement")).remedy


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://jobs:hush@db:5433/shop?sslmode=require", "postgresql://db:5433/shop"),
        ("postgres://jobs@[::1]/shop", "postgres://[::1]/shop"),
        ("postgresql://jobs:hush@one:1,two:2/shop", "postgresql://one:1,two:2/shop"),
        ("postgresql://one,two:5/shop", "postgresql://one,two:5/shop"),
        ("postgresql:///shop?host=/run/postgresql&password=hush", "postgresql://%2Frun%2Fpostgresql/shop"),
        ("postgresql:///shop", "postgresql:///shop"),
        ("postgresql://jobs:h%40sh%2F@db", "postgresql://db/"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    """Server and database, as libpq reads them; no user, password or setting."""
    _postgres.check(url)
    assert _postgres.where(url) == shown


@pytest.mark.parametrize(
    ("url", "left", "pooled"),
    [
        ("postgresql://db/shop", "postgresql://db/shop", False),
        ("postgresql://db/shop?pooled=true", "postgresql://db/shop", True),
        (
            "postgresql://db/shop?sslmode=require&pooled=true&application_name=shop",
            "postgresql://db/shop?sslmode=require&application_name=shop",
            True,
        ),
    ],
)
def test_a_pooler_is_named_in_the_address(url: str, left: str, *, pooled: bool) -> None:
    """What libpq does not know, `pooled`, is taken out of the address."""
    facts = vars(_postgres.PostgresPlace(url))
    assert (facts["_url"], facts["_pooled"]) == (left, pooled)
