"""The whole engine of jobs with a handler that does nothing: `python -m benchmarks.jobs_engine`.

Rows a second, and the share of a bare driver loop that makes the same commits: what a worker claims, announces and
records is written down, and made again without it, on the same disk, right after. In PostgreSQL also what four worker
processes do, beside one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks._jobs import POSTGRES, end_tidily, lines, machine, noop, noop_sync, payload, place
from benchmarks.store_rows import Bare, open_bare
from holdfast.infrastructure.store.state import JOB_ENDS, Outcome, StateStore, StepRecord, StepRef
from holdfast.services.jobs import Handler, Jobs, Worker, WorkerProcesses, open_jobs

KINDS = ("SQLite", "PostgreSQL")
SHARE = 0.6
FASTER = 1.5
PROCESSES = 4
_LOOK = 0.05
_PATIENCE = 120.0


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a worker is set up. `factor`: rows, of those asked for; `goals`: rows a second, SQLite and PostgreSQL."""

    name: str
    handler: Handler
    lanes: int = 8
    ahead: int = 50
    record: Literal["each", "group"] = "each"
    factor: int
    goals: tuple[int, int]


WAYS = (
    Way(name="two commits a row", handler=noop, lanes=1, ahead=1, factor=1, goals=(2_900, 1_300)),
    Way(name="one commit a row", handler=noop, lanes=1, factor=1, goals=(6_000, 2_800)),
    Way(name="each, async, 8 lanes", handler=noop, factor=4, goals=(6_000, 2_800)),
    Way(name="each, sync, 8 lanes", handler=noop_sync, factor=4, goals=(6_000, 2_800)),
    Way(name="group, async, 8 lanes", handler=noop, record="group", factor=10, goals=(40_000, 20_000)),
    Way(name="group, sync, 8 lanes", handler=noop_sync, record="group", factor=10, goals=(40_000, 20_000)),
    # What it costs is how many rows are in doubt after a crash.
    Way(
        name="group of 1,000, async",
        handler=noop,
        ahead=1000,
        record="group",
        factor=10,
        goals=(40_000, 20_000),
    ),
)
FLEETS = tuple(way for way in WAYS if way.lanes > 1 and way.handler is noop and way.ahead == Way.ahead)


@dataclass(frozen=True)
class Commit:
    """One commit: how many rows were claimed, recorded and announced."""

    claimed: int = 0
    recorded: int = 0
    announced: int = 0


class Noted:
    """A store that writes down what its worker commits."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self.commits: list[Commit] = []

    def claim(self, worker: str, limit: int, **named: Any) -> list[StepRecord]:
        """Claim."""
        claimed = self._store.claim(worker, limit, **named)
        if claimed:
            self.commits.append(Commit(claimed=len(claimed)))
        return claimed

    def advance(self, worker: str, outcomes: Sequence[Outcome] = (), begin: Sequence[StepRef] = ()) -> Any:
        """Record and announce."""
        advanced = self._store.advance(worker, outcomes, begin)
        self.commits.append(Commit(recorded=len(outcomes), announced=len(begin)))
        return advanced

    def __getattr__(self, name: str) -> Any:
        """Give whatever else the store has."""
        return getattr(self._store, name)


def worked(jobs: Jobs, way: Way, rows: int) -> tuple[float, list[Commit]]:
    """Submit a job and do it; return the seconds that a worker took from its start to its end, and its commits."""
    job = jobs.submit(map(payload, range(rows)), way.handler, mode="auto")
    store: Any = Noted(jobs.store)
    worker = Worker(
        store, jobs.handlers, concurrency=way.lanes, ahead=way.ahead, record=way.record, job=job.id
    )
    start = time.perf_counter()
    worker.run(signals=False)
    took = time.perf_counter() - start
    assert jobs.job(job).counts.succeeded == rows
    return took, store.commits


def repeated(bare: Bare, commits: Sequence[Commit]) -> float:
    """Make the same commits without an engine; return the seconds that took."""
    claimed = recorded = announced = 0
    start = time.perf_counter()
    for commit in commits:
        bare.begin()
        if commit.claimed:
            bare.claim(range(claimed, claimed + commit.claimed))
        if commit.recorded:
            bare.record(range(recorded, recorded + commit.recorded))
        if commit.announced:
            bare.announce(range(announced, announced + commit.announced))
        bare.commit()
        claimed += commit.claimed
        recorded += commit.recorded
        announced += commit.announced
    return time.perf_counter() - start


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Rows a second of the engine and of the bare loop, medians; the share is the median of the rounds' shares."""

    engine: float
    bare: float
    share: float
    commits: float

    @classmethod
    def of(cls, rows: int, rounds: Sequence[tuple[float, float, int]]) -> Measured:
        """Sum up rounds: the seconds of the engine, those of the bare loop, and the number of commits."""
        engine, bare, commits = (statistics.median(column) for column in zip(*rounds, strict=True))
        share = statistics.median(alone / whole for whole, alone, _ in rounds)
        return cls(engine=rows / engine, bare=rows / bare, share=share, commits=commits / rows)


def measure(kind: str, way: Way, *, rows: int, rounds: int, postgres: str = POSTGRES) -> Measured:
    """Measure a way, the engine and the bare loop in turns."""
    rows *= way.factor
    took: list[tuple[float, float, int]] = []
    with place(kind, postgres) as (url, tenant), open_jobs(url, [way.handler], tenant=tenant) as jobs:
        for _ in range(rounds):
            engine, commits = worked(jobs, way, rows)
            with open_bare(url, rows) as bare:
                took.append((engine, repeated(bare, commits), len(commits)))
    return Measured.of(rows, took)


@contextmanager
def _running(fleet: WorkerProcesses) -> Generator[None]:
    thread = threading.Thread(target=fleet.run, kwargs={"signals": False})
    thread.start()
    try:
        yield
    finally:
        fleet.stop()
        thread.join()


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit("error: the worker processes did not do their job in time")
        time.sleep(_LOOK)


def fleet(url: str, tenant: str, way: Way, *, rows: int, processes: int) -> float:
    """Let so many processes do a job, once all of them wait for one; return rows a second on the store's clock."""
    settings: dict[str, Any] = {"concurrency": way.lanes, "ahead": way.ahead, "record": way.record}
    workers = WorkerProcesses(url, [way.handler.reference], tenant=tenant, processes=processes, **settings)
    with open_jobs(url, [way.handler], tenant=tenant) as jobs:
        job = jobs.submit(map(payload, range(rows)), way.handler, mode="auto")
        jobs.pause(job)
        with _running(workers):
            _until(lambda: len(jobs.store.workers()) == processes)
            jobs.resume(job, execute=False)
            _until(lambda: jobs.job(job).state in JOB_ENDS)
        done = jobs.job(job)
    assert done.counts.succeeded == rows
    assert done.started_at is not None
    assert done.finished_at is not None
    return rows / (done.finished_at - done.started_at)


def fleets(way: Way, *, rows: int, rounds: int, postgres: str = POSTGRES) -> tuple[float, float, float]:
    """Return rows a second of one process, of four, and their ratio, in turns; medians."""
    with place("PostgreSQL", postgres) as (url, tenant):
        pairs = [
            (
                fleet(url, tenant, way, rows=rows * way.factor, processes=1),
                fleet(url, tenant, way, rows=rows * way.factor, processes=PROCESSES),
            )
            for _ in range(rounds)
        ]
    one, four = (statistics.median(column) for column in zip(*pairs, strict=True))
    return one, four, statistics.median(more / less for less, more in pairs)


def engine_table(
    kinds: Sequence[str], *, rows: int, rounds: int, postgres: str
) -> Iterator[tuple[list[str], bool]]:
    """Yield the lines of the first table, and whether one misses its share."""
    yield ["", "", "rows/s", "goal", "bare/s", "share", "commits/row"], False
    for kind in kinds:
        for way in WAYS:
            found = measure(kind, way, rows=rows, rounds=rounds, postgres=postgres)
            missed = found.share < SHARE
            yield (
                [
                    kind,
                    way.name,
                    f"{found.engine:.0f}",
                    f"{way.goals[KINDS.index(kind)]}",
                    f"{found.bare:.0f}",
                    f"{found.share:.2f}{'*' if missed else ' '}",
                    f"{found.commits:.2f}",
                ],
                missed,
            )


def fleet_table(*, rows: int, rounds: int, postgres: str) -> Iterator[tuple[list[str], bool]]:
    """Yield the lines of the second table, and whether one misses its ratio."""
    yield ["PostgreSQL, processes", "1", f"{PROCESSES}", "ratio"], False
    for way in FLEETS:
        one, four, ratio = fleets(way, rows=rows, rounds=rounds, postgres=postgres)
        missed = ratio < FASTER
        yield [way.name, f"{one:.0f}", f"{four:.0f}", f"{ratio:.2f}{'*' if missed else ' '}"], missed


def _shown(table: Iterator[tuple[list[str], bool]], flush: str) -> int:
    made: list[tuple[list[str], bool]] = []
    for row, missed in table:
        print(*row, file=sys.stderr, flush=True)
        made.append((row, missed))
    print(lines([row for row, _ in made], flush), flush=True)
    return sum(missed for _, missed in made)


def main() -> int:
    """Print two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=2000,
        help="of the smallest jobs (default 2000); others have 4 or 10 times that",
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each line, medians are printed (default 5)")
    parser.add_argument("--quick", action="store_true", help="few rows, one round: noisy, for development")
    parser.add_argument("--only", choices=KINDS, help="one database")
    parser.add_argument("--postgres", default=POSTGRES, help="URL (default %(default)s)")
    parser.add_argument(
        "--check", action="store_true", help="exit status 1 if a share or ratio misses its goal"
    )
    given = parser.parse_args()
    end_tidily()
    size = {"rows": 100, "rounds": 1} if given.quick else {"rows": given.rows, "rounds": given.rounds}
    kinds = [given.only] if given.only else list(KINDS)
    print(machine())
    print(f"\nA handler that does nothing; share: of a bare loop with the same commits, * below {SHARE}")
    missed = _shown(engine_table(kinds, **size, postgres=given.postgres), "llrrrrr")
    if "PostgreSQL" in kinds:
        print(f"\nRows a second of one job, * below {FASTER} times those of one process")
        missed += _shown(fleet_table(**size, postgres=given.postgres), "lrrr")
    return int(bool(missed) and given.check)


if __name__ == "__main__":
    sys.exit(main())
