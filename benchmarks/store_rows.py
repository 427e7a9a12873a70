"""Rows a second that a store takes, beside a bare driver loop that makes the same commits on the same disk.

Three ways: two commits for each row; fifty claimed at once and one durable `advance` for each row, which records one
outcome and announces the next call; fifty claimed, announced and recorded together. The bare loop updates rows of one
table that has only its primary key, where a store also checks leases, counts and writes a history.
"""

import argparse
import itertools
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import psycopg

from holdfast.infrastructure.store.sql import SqlStateStore, drop_tenant, open_store
from holdfast.infrastructure.store.state import (
    NewJob,
    NewStep,
    Outcome,
    StepRecord,
    StepRef,
    StepState,
    WorkerRecord,
)

GROUP = 50
PAYLOAD = b'{"order": 12345, "sku": "ABC-123", "quantity": 2}'
RESULT = b'{"tracking": "1Z9999999999999999"}'
TENANT = "benchmark"


class Bare(Protocol):
    """A driver's connection and a table of steps."""

    def begin(self) -> None:
        """Begin a transaction."""
        ...

    def commit(self) -> None:
        """Make it durable."""
        ...

    def claim(self, rows: range) -> None:
        """Mark rows as taken."""
        ...

    def announce(self, rows: range) -> None:
        """Mark rows as begun."""
        ...

    def record(self, rows: range) -> None:
        """Write the results of rows."""
        ...


_CREATE = (
    "CREATE TABLE {table} (id {kind} PRIMARY KEY, state TEXT, worker TEXT, begun {flag}, payload {blob}, "
    "result {blob})"
)
_CLAIM = "UPDATE {table} SET state = 'running', worker = 'w' WHERE id >= {mark} AND id < {mark}"
_ANNOUNCE = "UPDATE {table} SET begun = TRUE WHERE id = {mark}"
_RECORD = "UPDATE {table} SET state = 'succeeded', worker = NULL, result = {mark} WHERE id = {mark}"


class BareSqlite:
    """SQLite as the store sets it up."""

    def __init__(self, path: Path, rows: int) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        execute = self._connection.execute
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA wal_autocheckpoint = 4000")
        execute(_CREATE.format(table="bare", kind="INTEGER", flag="INTEGER", blob="BLOB"))
        execute("BEGIN")
        insert = "INSERT INTO bare VALUES (?, 'pending', NULL, 0, ?, NULL)"
        self._connection.executemany(insert, ((row, PAYLOAD) for row in range(rows)))
        execute("COMMIT")
        self._claim, self._announce, self._record = (
            text.format(table="bare", mark="?") for text in (_CLAIM, _ANNOUNCE, _RECORD)
        )

    def begin(self) -> None:
        """Begin a transaction."""
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make it durable."""
        self._connection.execute("COMMIT")

    def claim(self, rows: range) -> None:
        """Mark rows as taken."""
        self._connection.execute(self._claim, (rows.start, rows.stop))

    def announce(self, rows: range) -> None:
        """Mark rows as begun."""
        self._connection.executemany(self._announce, [(row,) for row in rows])

    def record(self, rows: range) -> None:
        """Write the results of rows."""
        self._connection.executemany(self._record, [(RESULT, row) for row in rows])

    def close(self) -> None:
        """Close it."""
        self._connection.close()


class BarePostgres:
    """psycopg, in the pipeline mode that the store uses too."""

    def __init__(self, url: str, rows: int) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._cursor = self._connection.cursor()
        self._table = f"holdfast_bare_{os.getpid()}"
        made = _CREATE.format(table=self._table, kind="BIGINT", flag="BOOLEAN", blob="BYTEA")
        self._cursor.execute(f"{made} WITH (fillfactor = 70)".encode())
        with self._cursor.copy(f"COPY {self._table} (id, state, begun, payload) FROM STDIN".encode()) as copy:
            for row in range(rows):
                copy.write_row((row, "pending", False, PAYLOAD))
        self._cursor.execute(f"ANALYZE {self._table}".encode())
        self._claim, self._announce, self._record = (
            text.format(table=self._table, mark="%s").encode() for text in (_CLAIM, _ANNOUNCE, _RECORD)
        )
        self._pipeline: Any = None

    def begin(self) -> None:
        """Begin a transaction."""
        self._pipeline = self._connection.pipeline()
        self._pipeline.__enter__()
        self._cursor.execute("BEGIN")

    def commit(self) -> None:
        """Make it durable."""
        self._cursor.execute("COMMIT")
        self._pipeline.__exit__(None, None, None)

    def claim(self, rows: range) -> None:
        """Mark rows as taken."""
        self._cursor.execute(self._claim, (rows.start, rows.stop))

    def announce(self, rows: range) -> None:
        """Mark rows as begun."""
        for row in rows:
            self._cursor.execute(self._announce, (row,))

    def record(self, rows: range) -> None:
        """Write the results of rows."""
        for row in rows:
            self._cursor.execute(self._record, (RESULT, row))

    def close(self) -> None:
        """Drop the table and close."""
        self._cursor.execute(f"DROP TABLE {self._table}".encode())
        self._connection.close()


def bare_twice(bare: Bare, first: int) -> None:
    """Make two commits for each row."""
    for row in range(first, first + GROUP):
        for change in (bare.announce, bare.record):
            bare.begin()
            change(range(row, row + 1))
            bare.commit()


def bare_once(bare: Bare, first: int) -> None:
    """Make one commit for each row: what became of one, and that the next begins."""
    for row in range(first, first + GROUP + 1):
        bare.begin()
        bare.record(range(max(first, row - 1), row))
        bare.announce(range(row, min(row + 1, first + GROUP)))
        bare.commit()


def bare_grouped(bare: Bare, first: int) -> None:
    """Make two commits for all."""
    for change in (bare.announce, bare.record):
        bare.begin()
        change(range(first, first + GROUP))
        bare.commit()


def _ref(step: StepRecord) -> StepRef:
    return StepRef(job=step.job, position=step.position, fence=step.fence)


def _done(ref: StepRef) -> Outcome:
    return Outcome(ref=ref, state=StepState.SUCCEEDED, result=RESULT, took=0.001)


def store_twice(store: SqlStateStore, refs: list[StepRef]) -> None:
    """Announce and record each row on its own."""
    for ref in refs:
        store.advance("w", (), (ref,))
        store.advance("w", (_done(ref),))


def store_once(store: SqlStateStore, refs: list[StepRef]) -> None:
    """Record one row and announce the next."""
    store.advance("w", (), refs[:1])
    for ref, following in itertools.pairwise(refs):
        store.advance("w", (_done(ref),), (following,))
    store.advance("w", (_done(refs[-1]),))


def store_grouped(store: SqlStateStore, refs: list[StepRef]) -> None:
    """Announce a group, then record it."""
    store.advance("w", (), refs)
    store.advance("w", [_done(ref) for ref in refs])


WAYS: dict[str, tuple[Callable[[Bare, int], None], Callable[[SqlStateStore, list[StepRef]], None]]] = {
    "two commits a row": (bare_twice, store_twice),
    "one commit a row": (bare_once, store_once),
    "groups of 50": (bare_grouped, store_grouped),
}


@contextmanager
def open_bare(url: str, rows: int) -> Generator[Bare]:
    """Give a bare table with so many rows, on the disk of the store that a URL names."""
    if url.startswith("sqlite"):
        with (
            tempfile.TemporaryDirectory() as folder,
            closing(BareSqlite(Path(folder) / "bare.db", rows)) as bare,
        ):
            yield bare
    else:
        with closing(BarePostgres(url, rows)) as bare:
            yield bare


@contextmanager
def _store(url: str, rows: int) -> Generator[SqlStateStore]:
    with tempfile.TemporaryDirectory() as folder:
        place = f"sqlite:///{folder}/" if url.startswith("sqlite") else url
        with open_store(place, tenant=TENANT, create=True) as store:
            store.create_job(
                NewJob(id="job", handler="none"),
                (NewStep(key=f"row-{row}", payload=PAYLOAD) for row in range(rows)),
            )
            store.register(
                WorkerRecord(id="w", host="here", pid=os.getpid(), born="", expires_at=0.0), 3600.0
            )
            try:
                yield store
                assert store.job("job").counts.succeeded == rows
            finally:
                drop_tenant(place, TENANT)


def _bare_group(bare: Bare, way: Callable[[Bare, int], None], first: int) -> float:
    start = time.perf_counter()
    bare.begin()
    bare.claim(range(first, first + GROUP))
    bare.commit()
    way(bare, first)
    return time.perf_counter() - start


def _store_group(store: SqlStateStore, way: Callable[[SqlStateStore, list[StepRef]], None]) -> float:
    start = time.perf_counter()
    way(store, [_ref(step) for step in store.claim("w", GROUP)])
    return time.perf_counter() - start


def measure(url: str, rows: int) -> Iterator[tuple[str, float, float, float]]:
    """Yield each way with rows a second, bare and stored, and the store's share.

    Group by group in turns, so that what else the machine does meets both; medians of the groups.
    """
    for name, (bare_way, store_way) in WAYS.items():
        with open_bare(url, rows) as bare, _store(url, rows) as store:
            times = [
                (_bare_group(bare, bare_way, first), _store_group(store, store_way))
                for first in range(0, rows, GROUP)
            ]
        bare_time = statistics.median(time for time, _ in times)
        store_time = statistics.median(time for _, time in times)
        yield name, GROUP / bare_time, GROUP / store_time, statistics.median(one / two for one, two in times)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="of each run, a multiple of 50 (default 2000)")
    parser.add_argument("--postgres", default="postgresql://postgres@127.0.0.1/postgres", help="'' for none")
    parser.add_argument("--sqlite", default="sqlite", help="'' for none")
    options = parser.parse_args()
    rows = max(options.rows // GROUP, 1) * GROUP
    print(f"{'':12} {'':20} {'bare/s':>8} {'store/s':>8} {'share':>6}")
    for kind, url in (("SQLite", options.sqlite), ("PostgreSQL", options.postgres)):
        if url:
            for way, bare, ours, share in measure(url, rows):
                print(f"{kind:12} {way:20} {bare:8.0f} {ours:8.0f} {share:6.2f}", flush=True)


if __name__ == "__main__":
    main()
