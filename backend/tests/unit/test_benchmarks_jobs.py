"""The benchmarks of jobs: the bare loop makes the same commits, plans are judged, what is missing is named."""

import importlib
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.services.jobs import open_jobs

pytestmark = pytest.mark.one_python

engine: Any = importlib.import_module("benchmarks.jobs_engine")
jobs: Any = importlib.import_module("benchmarks._jobs")
million: Any = importlib.import_module("benchmarks.jobs_million")
peers: Any = importlib.import_module("benchmarks.jobs_peers")
plans: Any = importlib.import_module("benchmarks._query_plans")
store_rows: Any = importlib.import_module("benchmarks.store_rows")

Commit = engine.Commit


@pytest.mark.parametrize("way", engine.WAYS, ids=lambda way: way.name)
def test_what_a_worker_commits_is_written_down(way: Any, tmp_path: Path) -> None:
    """Each row is claimed, announced and recorded once, and the way says how many rows a commit may have."""
    with open_jobs(f"sqlite:///{tmp_path / 'jobs.db'}", [way.handler]) as opened:
        _, commits = engine.worked(opened, way, 120)
    for done in ("claimed", "announced", "recorded"):
        assert sum(getattr(commit, done) for commit in commits) == 120
    most = max(max(commit.announced, commit.recorded) for commit in commits)
    assert most <= (way.ahead if way.record == "group" else way.lanes)
    assert max(commit.claimed for commit in commits) == min(way.ahead, 120)


def test_the_bare_loop_does_all_rows(tmp_path: Path) -> None:
    """What was claimed, announced and recorded in some order is so in the bare table."""
    path = tmp_path / "bare.db"
    bare = store_rows.BareSqlite(path, 3)
    engine.repeated(bare, [Commit(claimed=3), Commit(announced=2), Commit(recorded=2, announced=1)])
    bare.close()
    with closing(sqlite3.connect(path)) as connection:
        kept = connection.execute("SELECT state, begun, result IS NOT NULL FROM bare ORDER BY id").fetchall()
    assert kept == [("succeeded", 1, 1), ("succeeded", 1, 1), ("running", 1, 0)]


def test_a_share_is_the_median_of_the_rounds() -> None:
    """Each round has the engine and the bare loop side by side."""
    found = engine.Measured.of(100, [(2.0, 1.0, 10), (4.0, 1.0, 20), (10.0, 8.0, 30)])
    assert (found.engine, found.bare, found.share, found.commits) == (25.0, 100.0, 0.5, 0.2)


SCHEMA = """
    CREATE TABLE steps (id INTEGER PRIMARY KEY, state TEXT, worker TEXT, line INTEGER);
    CREATE INDEX steps_running ON steps (worker) WHERE state = 'running';
    CREATE INDEX steps_line ON steps (line);
    CREATE TABLE workers (id TEXT);
"""


@pytest.mark.parametrize(
    ("statement", "whole"),
    [
        ("SELECT state FROM steps WHERE id = 1", False),
        ("SELECT worker FROM steps INDEXED BY steps_running WHERE state = 'running'", False),
        ("SELECT id FROM workers", False),
        ("SELECT state FROM steps WHERE worker = 'w'", True),
        ("SELECT s.state FROM workers w CROSS JOIN steps s ON s.state = w.id", True),
        ("UPDATE steps SET line = 1 WHERE state = 'failed'", True),
        ("SELECT line FROM steps ORDER BY line", True),
    ],
)
def test_a_table_read_whole_is_seen_in_sqlite(statement: str, *, whole: bool) -> None:
    """A search is none, nor is a small index; a table from its start is, and an index that is made of it meanwhile."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        assert bool(plans.sqlite_plan(connection, statement).whole) is whole


@pytest.mark.parametrize(
    ("node", "whole"),
    [
        ({"Node Type": "Index Scan", "Index Name": "steps_pkey", "Index Cond": "(id = 1)"}, False),
        ({"Node Type": "Bitmap Heap Scan", "Recheck Cond": "(id = 1)"}, False),
        ({"Node Type": "Index Scan", "Index Name": "steps_running"}, False),
        ({"Node Type": "Seq Scan"}, True),
        ({"Node Type": "Index Only Scan", "Index Name": "steps_pkey"}, True),
        (
            {
                "Node Type": "Index Scan",
                "Index Name": "steps_pkey",
                "Index Cond": "(id > 1)",
                "Rows Removed by Filter": 5000,
            },
            True,
        ),
    ],
    ids=["by key", "by a bitmap", "a small index", "a table", "an index", "much that is thrown away"],
)
def test_a_table_read_whole_is_seen_in_postgresql(node: dict[str, Any], *, whole: bool) -> None:
    """A search is none, nor is a small index; a table, a large index, and a search that throws much away are."""
    told = {
        "Query Text": "SELECT 1",
        "Plan": {"Node Type": "Limit", "Plans": [{**node, "Relation Name": "steps"}]},
    }
    assert bool(plans.executed(told).whole) is whole


@pytest.mark.parametrize(
    ("pages", "grows"), [((5, 110), False), ((5, 111), True), ((600, 1300), False), ((None, 900), False)]
)
def test_more_pages_when_more_is_done_are_seen(pages: tuple[int | None, int], *, grows: bool) -> None:
    """Twice as many and a hundred are allowed: rows that have just been done."""
    assert plans.Plan(statement="", reads=(), whole=(), pages=pages).grows is grows


def test_a_file_is_the_same_every_time(tmp_path: Path) -> None:
    """Rows have different orders, and nothing in them depends on chance."""
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    million.write(one, 3)
    million.write(two, 3)
    assert one.read_bytes() == two.read_bytes()
    assert one.read_text(encoding="utf-8").split() == [
        "order,sku,quantity",
        "A0000000,ABC-00000,1",
        "A0000001,ABC-00001,2",
        "A0000002,ABC-00002,3",
    ]


RUN = million.Run(
    rows=1_000_000,
    submit_seconds=60.0,
    submit_peak=200.0,
    seconds=50.0,
    processor=40.0,
    peak=250.0,
    costs=[(1.0, 1.0)] * 10,
)


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, []),
        ({"submit_seconds": 60.1}, ["submitted in 60.1 s, goal 60"]),
        ({"submit_peak": 201.0}, ["submitted in 201 MB, goal 200"]),
        ({"peak": 251.0}, ["executed in 251 MB, goal 250"]),
        ({"rows": 2_000_000, "submit_seconds": 119.0}, []),
    ],
    ids=["none", "seconds", "memory of the submission", "memory of the execution", "twice the rows"],
)
def test_a_missed_target_is_named(changed: dict[str, Any], missed: list[str]) -> None:
    """Each target of a million rows is a limit that may be reached."""
    assert replace(RUN, **changed).missed == missed


def test_the_last_rows_are_compared_with_the_first() -> None:
    """The medians of the first and the last three tenths: one slow tenth does not count."""
    costs = [(1.0, 0.0), (1.0, 0.0), (9.0, 0.0), *[(5.0, 0.0)] * 4, (2.0, 0.0), (2.0, 0.0), (0.1, 0.0)]
    assert replace(RUN, costs=costs).dearer == 2.0


def test_sizes_are_powers_of_ten_and_the_last() -> None:
    """From a thousand on, each once."""
    assert million.sizes(1_000_000) == [1000, 10_000, 100_000, 1_000_000]
    assert million.sizes(2500) == [1000, 2500]
    assert million.sizes(500) == [500]


NOTHING = peers.Services(
    postgres="postgresql://nobody@127.0.0.1:1/none", rabbit="amqp://127.0.0.1:1", redis=""
)


def test_a_product_that_is_not_installed_is_named() -> None:
    """It has a line, which says what is missing."""
    absent = replace(peers.SUBJECTS[0], product="Absent", program="_jobs_peer_absent")
    found = list(peers.measure(peers.Runner(sys.executable, NOTHING), [absent], rows=1, lanes=1, rounds=1))
    (line,) = peers.table(found).splitlines()[1:]
    assert line.split()[0] == "Absent"
    assert "No module named benchmarks._jobs_peer_absent" in line


def found(*rates: tuple[str, float | None]) -> list[tuple[Any, Any]]:
    subjects = {subject.what: subject for subject in peers.SUBJECTS}
    return [(subjects[what], peers.Found(rate, 1.0, 1.0)) for what, rate in rates]


def test_only_what_is_as_durable_is_compared() -> None:
    """Our grouped records and results in a Redis that may forget them do not count; missing products do not either."""
    lines = found(
        ("async, each", 300.0),
        ("sync, each", 250.0),
        ("async, group", 9000.0),
        ("async, one workflow, a step a row", 100.0),
        ("RabbitMQ + PostgreSQL, threads", None),
        ("Redis, threads", 8000.0),
    )
    said, missed = peers.verdict(lines)
    assert said == (
        "3.0 times the best of them that is as durable: DBOS, async, one workflow, a step a row; goal 2"
    )
    assert not missed


def test_less_than_twice_the_best_is_missed() -> None:
    """As is a comparison with nothing."""
    assert peers.verdict(found(("sync, each", 199.0), ("async", 100.0)))[1]
    assert peers.verdict(found(("sync, each", 199.0)))[1]


def test_columns_are_aligned() -> None:
    """Text to the left, numbers to the right."""
    assert jobs.lines([("", "rows/s"), ("SQLite", "7")], "lr") == "        rows/s\nSQLite       7"
