"""What all else stands on: files, PostgreSQL and Redis can be reached from here, and hold what they are given."""

import importlib
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from backend.tests.integration.jobs._sql import submitted
from holdfast.infrastructure.store.sql import create_tenant, open_store, tenants

pytestmark = pytest.mark.foundation

READ = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('SELECT text FROM said').fetchone())"


def test_sqlite_takes_a_log_and_syncs_where_tests_write(tmp_path: Path) -> None:
    """The file system takes WAL with FULL durability, and another process reads what was committed meanwhile."""
    path = tmp_path / "probe.db"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
        connection.execute("PRAGMA synchronous = FULL")
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        connection.execute("CREATE TABLE said (text)")
        connection.execute("INSERT INTO said VALUES ('kelp')")
        connection.commit()
        read = subprocess.run(
            [sys.executable, "-c", READ, path], capture_output=True, text=True, timeout=60, check=False
        )
    assert (read.returncode, read.stdout, read.stderr) == (0, "kelp\n", "")


def test_postgresql_lets_a_database_be_made(schemas_database: str) -> None:
    """The server answers, in a database of the test's own, and one connection sees what another has committed."""
    with psycopg.connect(schemas_database) as connection:
        connection.execute("CREATE TABLE probe AS SELECT 'kelp' AS text")
    with psycopg.connect(schemas_database) as connection:
        assert connection.execute("SELECT text FROM probe").fetchall() == [("kelp",)]
        connection.execute("DROP TABLE probe")


def test_redis_keeps_what_it_is_given(redis_url: str) -> None:
    """Redis answers, and a key that is written by one connection is read by another."""
    redis: Any = importlib.import_module("redis")
    key = f"holdfast-test:{uuid4().hex}"
    with redis.Redis.from_url(redis_url) as one, redis.Redis.from_url(redis_url) as other:
        one.set(key, "kelp", px=10_000)
        assert (other.get(key), other.delete(key), one.get(key)) == (b"kelp", 1, None)


@pytest.mark.parametrize("where", ["sqlite_url", "server_url"], ids=["sqlite", "postgresql"])
def test_a_store_is_made_from_nothing(where: str, request: pytest.FixtureRequest) -> None:
    """Where there is nothing, the first opening makes all tables; the second finds what the first one was given."""
    url = str(request.getfixturevalue(where))
    assert tenants(url) == []
    with open_store(url) as store:
        submitted(store)
    create_tenant(url, "default")
    with open_store(url) as store:
        assert [(job.id, job.counts.total) for job in store.jobs()] == [("job", 3)]
    assert tenants(url) == ["default"]
