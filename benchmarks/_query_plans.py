"""How the statements of jobs are executed in a table that is nearly all done, taken from what a store really sends.

SQLite: the text of each statement is noted on its connection and explained afterwards. PostgreSQL: the server's
`auto_explain` reports each statement as it was executed, those within functions too, with the pages that it read.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sqlite3
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import psycopg

from benchmarks._jobs import POSTGRES, payload, place
from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.store.state import Outcome, StateStore, StepRef, StepState, WorkerRecord
from holdfast.services.jobs import Call, Jobs, Worker, handler, open_jobs

GROWING = ("steps", "events", "outbox", "dependencies")
"""The tables that have rows for the steps of a job."""

ROWS = 40_000
"""So many that an index of all that ever was pending has a hundred pages."""

_SMALL = ("steps_running", "steps_due", "jobs_open", "jobs_expiring", "jobs_ending")
"""Partial indexes with what runs or waits for a time, to be read whole; there is little of that at a time."""

_FEW, _RECENT = 1000, 100
_FILLER = "filler"
# Rows that are done while statements are noted, besides those of the worker: some one by one, some in groups.
_ALONE, _GROUPS, _GROUP = 3, 3, 50
_ASKED = 2 * (_ALONE + _GROUPS * _GROUP)


@handler("mixed")
async def mixed(row: dict[str, Any], call: Call) -> None:
    """Fail in passing now and then, and now and then for good."""
    number = int(row["order"][1:])
    if number % 29 == 0 or (number % 7 == 0 and call.attempt == 1):
        raise OSError("away")


class Phase(IntEnum):
    """When nothing was done; when nearly all was; and what is sent besides, where rows fail and wait for a retry."""

    EARLY = 0
    LATE = 1
    BESIDES = 2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A statement as it is executed: what it reads, what of that it reads whole, and the pages it touched at most.

    `pages`: of PostgreSQL, when nothing was done and when nearly all was; None where it was not sent, or not counted.
    """

    statement: str
    reads: tuple[str, ...]
    whole: tuple[str, ...]
    pages: tuple[int | None, int | None] = (None, None)

    @property
    def grows(self) -> bool:
        """Whether it reads many more pages when much is done: more than those of rows that have just been done."""
        early, late = self.pages
        return early is not None and late is not None and late > 2 * early + _RECENT


@dataclass(frozen=True)
class Executed:
    """One statement that was executed once, as PostgreSQL reports it."""

    statement: str
    reads: tuple[str, ...]
    whole: tuple[str, ...]
    pages: int


def report(found: Sequence[Plan]) -> list[str]:
    """Return what is wrong with plans, in lines; without any, that nothing is."""
    said = [f"{len(found)} statements, {sum(bool(one.whole) for one in found)} of which read a table whole"]
    said += [f"  whole: {', '.join(one.whole)}: {one.statement}" for one in found if one.whole]
    if any(one.pages != (None, None) for one in found):
        said.append(f"{sum(one.grows for one in found)} read more pages when 19 of 20 rows are done")
        said += [f"  {one.pages[0]} → {one.pages[1]}: {one.statement}" for one in found if one.grows]
    return said


def plans(kind: str, *, rows: int = ROWS, postgres: str = POSTGRES) -> list[Plan]:
    """Fill a table, let a worker do the last twentieth of it, and return the plans of all that was sent."""
    with place(kind, postgres) as (url, tenant):
        with open_jobs(url, [mixed], tenant=tenant) as jobs:
            job = jobs.submit(
                map(payload, range(rows)),
                mixed,
                mode="auto",
                max_attempts=2,
                backoff=Backoff(base=0.001, cap=0.001),
                step_timeout=60.0,
            ).id
        trace = _TracedSqlite(url) if kind == "SQLite" else _TracedPostgres()
        with trace.on(), open_jobs(url, [mixed], tenant=tenant) as jobs:
            _ask(jobs.store, job)
        with open_jobs(url, tenant=tenant) as jobs:
            fill(jobs.store, job, rows * 19 // 20 - _ASKED)
        trace.phase = Phase.LATE
        with trace.on(), open_jobs(url, [mixed], tenant=tenant) as jobs:
            _ask(jobs.store, job)
            trace.phase = Phase.BESIDES
            _use(jobs, job)
            assert jobs.job(job).counts.done == rows
        return trace.plans()


def fill(store: StateStore, job: str, rows: int, at_once: int = 1000, *, named: bool = True) -> None:
    """Let so many rows of a job succeed, asked for by its name or as whatever is there."""
    store.register(WorkerRecord(id=_FILLER, host="here", pid=os.getpid(), born="", expires_at=0.0), 3600.0)
    done = 0
    while done < rows:
        steps = store.claim(_FILLER, min(at_once, rows - done), job=job if named else None)
        refs = [StepRef(job=job, position=step.position, fence=step.fence) for step in steps]
        store.advance(_FILLER, (), refs)
        store.advance(
            _FILLER, [Outcome(ref=ref, state=StepState.SUCCEEDED, result=b"{}", took=0.001) for ref in refs]
        )
        done += len(refs)
        store.renew(_FILLER, 3600.0)
    store.retire(_FILLER)


def _ask(store: StateStore, job: str) -> None:
    """Do what workers do all the time, and what they look for now and then."""
    for named in (True, False):
        fill(store, job, _ALONE, 1, named=named)
        fill(store, job, _GROUPS * _GROUP, _GROUP, named=named)
    store.register(WorkerRecord(id=_FILLER, host="here", pid=os.getpid(), born="", expires_at=0.0), 3600.0)
    store.claim(_FILLER, _GROUP)
    # Where some are to be skipped, claims go the long way.
    store.claim(_FILLER, 1, skip=["another"])
    store.claim(_FILLER, 1, job=job, skip=["another"])
    store.sweep()
    store.next_due()
    store.recover()
    store.recover([_FILLER])
    store.owing()


def _use(jobs: Jobs, job: str) -> None:
    """Do what is left, and ask what people and programs ask while that goes on."""
    store = jobs.store
    Worker(store, jobs.handlers, job=job, record="group").run(signals=False)
    jobs.status(job)
    jobs.review(job)
    jobs.interrupted()
    jobs.find()
    last = store.job(job).counts.total - 1
    store.steps(job, after=last - 50)
    store.steps(job, states=[StepState.FAILED], limit=5)
    store.steps(job, worker=_FILLER, limit=5)
    store.step(job, f"line:{last}")
    store.events(job, after=10)
    jobs.retry_failed(job)


class _TracedSqlite:
    """Notes each statement of connections that are opened meanwhile, with the values it was sent with first."""

    def __init__(self, url: str) -> None:
        self.phase = Phase.EARLY
        self._path = url.removeprefix("sqlite:///")
        self._seen: dict[str, Sequence[Any]] = {}

    @contextmanager
    def on(self) -> Generator[None]:
        """Note what is sent."""
        seen, connect = self._seen, sqlite3.connect

        class Noting(sqlite3.Connection):
            def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
                seen.setdefault(sql, parameters)
                return super().execute(sql, parameters)

            def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
                rows = list(parameters)
                if rows:
                    seen.setdefault(sql, rows[0])
                return super().executemany(sql, rows)

        def noting(*args: Any, **named: Any) -> sqlite3.Connection:
            return connect(*args, factory=Noting, **named)

        with _replaced(sqlite3, "connect", noting):
            yield

    def plans(self) -> list[Plan]:
        """Explain what was seen."""
        connection = sqlite3.connect(self._path)
        try:
            found = [sqlite_plan(connection, *one) for one in self._seen.items() if _is_asked(one[0])]
        finally:
            connection.close()
        return sorted(found, key=_by_statement)


def _is_asked(text: str) -> bool:
    """Return whether a statement reads or changes what is kept; the temporary table of a submission is not."""
    word = text.split(maxsplit=1)[0].upper()
    return word in {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"} and not re.search(
        r"\b(staged|sqlite_schema)\b", text
    )


def sqlite_plan(connection: sqlite3.Connection, text: str, values: Sequence[Any] = ()) -> Plan:
    """Explain a statement."""
    details = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", values)]
    reads = tuple(one for one in details if one.startswith(("SCAN", "SEARCH")))
    tables = dict(re.findall(r"\b(?:FROM|JOIN|UPDATE|INTO)\s+(\w+)(?:\s+(?:AS\s+)?(\w+))?", text))
    names = {alias: table for table, alias in tables.items() if alias} | {table: table for table in tables}
    return Plan(
        statement=_plain(text), reads=reads, whole=tuple(one for one in reads if _is_whole(one, names))
    )


def _is_whole(detail: str, names: dict[str, str]) -> bool:
    """Return whether a table that grows, or an index of all of it, is read from its start, by a line of a plan."""
    # An automatic index is one that SQLite makes of the whole table, for this statement alone.
    made = re.match(r"SEARCH (\w+) USING AUTOMATIC ", detail)
    found = made or re.match(r"SCAN (\w+)", detail)
    if found is None:
        return False
    index = re.search(r" INDEX (\w+)", detail)
    return names.get(found[1], found[1]) in GROWING and (index is None or index[1] not in _SMALL)


class _TracedPostgres:
    """Collects what the server tells of each statement."""

    _OPTIONS = (
        "session_preload_libraries=auto_explain",
        "auto_explain.log_min_duration=0",
        "auto_explain.log_analyze=on",
        "auto_explain.log_buffers=on",
        "auto_explain.log_timing=off",
        "auto_explain.log_nested_statements=on",
        "auto_explain.log_format=json",
        "auto_explain.log_level=notice",
        "client_min_messages=notice",
    )

    def __init__(self) -> None:
        self.phase = Phase.EARLY
        self._seen: dict[Phase, list[Executed]] = {phase: [] for phase in Phase}

    @contextmanager
    def on(self) -> Generator[None]:
        """Collect from connections that are opened meanwhile."""
        connect = psycopg.connect
        options = " ".join(f"-c {one}" for one in self._OPTIONS)

        def telling(*args: Any, **named: Any) -> Any:
            connection = connect(*args, options=options, **named)
            connection.add_notice_handler(self._heard)
            return connection

        with _replaced(psycopg, "connect", telling):
            yield

    def _heard(self, notice: Any) -> None:
        _, separator, told = (notice.message_primary or "").partition("plan:\n")
        if separator:
            self._seen[self.phase].append(executed(json.loads(told)))

    def plans(self) -> list[Plan]:
        """Return one plan of each statement: all ways in which it was executed, and the most pages."""
        early, late = (_most_pages(self._seen[phase]) for phase in (Phase.EARLY, Phase.LATE))
        kinds: dict[str, list[Executed]] = {}
        for one in itertools.chain(*self._seen.values()):
            if _is_asked(one.statement):
                kinds.setdefault(one.statement, []).append(one)
        found = [
            Plan(
                statement=text,
                reads=_united(one.reads for one in ones),
                whole=_united(one.whole for one in ones),
                pages=(early.get(text), late.get(text)),
            )
            for text, ones in kinds.items()
        ]
        return sorted(found, key=_by_statement)


def has_auto_explain(postgres: str = POSTGRES) -> bool:
    """Return whether the server has the module, and lets this user load it."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        try:
            connection.execute("LOAD 'auto_explain'")
        except psycopg.Error:
            return False
    return True


def executed(told: dict[str, Any]) -> Executed:
    """Return what PostgreSQL told of a statement."""
    nodes = list(_nodes(told["Plan"]))
    reads = {_read(node): node for node in nodes if "Relation Name" in node and "Scan" in node["Node Type"]}
    whole = tuple(name for name, node in reads.items() if _is_read_whole(node))
    pages = sum(told["Plan"].get(f"Shared {how} Blocks", 0) for how in ("Hit", "Read"))
    return Executed(_plain(told["Query Text"]), tuple(reads), whole, pages)


def _nodes(plan: dict[str, Any]) -> Iterable[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def _read(node: dict[str, Any]) -> str:
    index = f" using {node['Index Name']}" if "Index Name" in node else ""
    return f"{node['Node Type']} on {node['Relation Name']}{index}"


def _is_read_whole(node: dict[str, Any]) -> bool:
    """Return whether a table that grows is read from its start, or much of it is read to be thrown away."""
    if node["Relation Name"] not in GROWING:
        return False
    loops = node.get("Actual Loops", 1)
    thrown = node.get("Rows Removed by Filter", 0) * loops
    index = node.get("Index Name", "")
    bound = node.get("Index Cond") or node.get("Recheck Cond") or index in _SMALL
    return not bound or thrown > _FEW


def _most_pages(ones: Iterable[Executed]) -> dict[str, int]:
    most: dict[str, int] = {}
    for one in ones:
        most[one.statement] = max(most.get(one.statement, 0), one.pages)
    return most


def _united(names: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted({one for several in names for one in several}))


def _plain(text: str) -> str:
    """Return a statement in one line, without its schema."""
    return re.sub(r'("?holdfast_[\w-]+"?\.)', "", " ".join(text.split()))


def _by_statement(plan: Plan) -> str:
    return plan.statement


@contextmanager
def _replaced(owner: Any, name: str, by: Any) -> Generator[None]:
    before = getattr(owner, name)
    setattr(owner, name, by)
    try:
        yield
    finally:
        setattr(owner, name, before)
