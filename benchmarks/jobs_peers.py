"""Jobs of holdfast beside DBOS, Procrastinate and Celery: `python -m benchmarks.jobs_peers`.

The same task that does nothing, the same number of rows, as many at once, each product in processes of its own and set
up as its documentation advises. Rows a second from the start of the workers on a submitted batch until the last row is
recorded; the submission is measured apart. What each promises stands beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

import psycopg

from benchmarks._jobs import POSTGRES, end_tidily, lines, machine

RABBIT = "amqp://guest:guest@127.0.0.1:5672//"
REDIS = "redis://127.0.0.1:6379"
# Redis has no names but numbers: these two databases have to be empty.
_BROKER, _RESULTS = 14, 15
FASTER = 2.0
_OURS = "holdfast"
_PATIENCE = 900.0
_LOOK, _LOOK_CLOSER = 0.1, 0.02


@dataclass(frozen=True, kw_only=True)
class Services:
    """Where things run."""

    postgres: str
    rabbit: str
    redis: str


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A product, set up in one way. `recorded`: a statement that counts, None for the results in Redis.

    `durable`: a crash of the server loses nothing that was recorded; only those are compared.
    """

    product: str
    what: str
    program: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    recorded: str | None
    once: str
    kept: str
    durable: bool = True


_OUR_COUNT = "SELECT coalesce(sum(succeeded), 0) FROM holdfast_default.jobs"
_OUR_ONCE = "intent before, result after the call; never twice: in doubt to review"
_DBOS_COUNT = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'"
_DBOS_STEPS = "SELECT count(*) FROM dbos.operation_outputs"
_DBOS_ONCE = "at least once; result kept once"
_PROCRASTINATE_COUNT = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"
_PROCRASTINATE_ONCE = "at most once; a stalled job is retried only by a task of one's own"
_CELERY_COUNT = "SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'"
_CELERY_ONCE = "at least once (late acknowledgement)"


def _ours(what: str, *, sync: bool, record: str, once: str = _OUR_ONCE) -> Subject:
    return Subject(
        product=_OURS,
        what=what,
        program="_jobs_peer_holdfast",
        options={"sync": sync, "record": record},
        recorded=_OUR_COUNT,
        once=once,
        kept="result and history, PostgreSQL",
    )


def _dbos(what: str, workflow: str, recorded: str, kept: str) -> Subject:
    return Subject(
        product="DBOS",
        what=what,
        program="_jobs_peer_dbos",
        options={"workflow": workflow},
        recorded=recorded,
        once=_DBOS_ONCE,
        kept=kept,
    )


def _procrastinate(what: str, *, sync: bool) -> Subject:
    return Subject(
        product="Procrastinate",
        what=what,
        program="_jobs_peer_procrastinate",
        options={"sync": sync},
        recorded=_PROCRASTINATE_COUNT,
        once=_PROCRASTINATE_ONCE,
        kept="state and its times, no result; PostgreSQL",
    )


def _celery(what: str, *, pool: str, redis: bool = False) -> Subject:
    return Subject(
        product="Celery",
        what=what,
        program="_jobs_peer_celery",
        options={"pool": pool, "redis": redis},
        recorded=None if redis else _CELERY_COUNT,
        once=_CELERY_ONCE,
        kept="result, Redis as set up above" if redis else "result, PostgreSQL; tasks, RabbitMQ's disk",
        durable=not redis,
    )


SUBJECTS = (
    _ours("async, each", sync=False, record="each"),
    _ours("sync, each", sync=True, record="each"),
    _ours("async, group", sync=False, record="group", once="the same, up to 50 in doubt together"),
    _dbos("sync, a workflow a row", "alone", _DBOS_COUNT, "result, PostgreSQL"),
    _dbos("async, a workflow a row", "aalone", _DBOS_COUNT, "result, PostgreSQL"),
    _dbos("sync, a workflow with a step a row", "stepped", _DBOS_COUNT, "result of both, PostgreSQL"),
    _dbos("async, one workflow, a step a row", "whole", _DBOS_STEPS, "result, PostgreSQL"),
    _procrastinate("async", sync=False),
    _procrastinate("sync", sync=True),
    _celery("RabbitMQ + PostgreSQL, processes", pool="prefork"),
    _celery("RabbitMQ + PostgreSQL, threads", pool="threads"),
    _celery("Redis, processes", pool="prefork", redis=True),
    _celery("Redis, threads", pool="threads", redis=True),
)


@dataclass(frozen=True)
class Found:
    """Rows a second, executed and submitted, and seconds of workers' processors for a row; or why there are none."""

    done: float | None = None
    submitted: float | None = None
    busy: float | None = None
    why: str = ""


class UnavailableError(Exception):
    """Something that a product needs is not here."""


class Runner:
    """Starts the programs of subjects with one interpreter, against a database that is made for each."""

    def __init__(self, python: str, services: Services) -> None:
        self._python = python
        self._services = services

    def missing(self, subject: Subject) -> str:
        """Return why a subject cannot run; empty if it can."""
        done = subprocess.run(
            [self._python, "-m", f"benchmarks.{subject.program}"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"
        try:
            if subject.product == "Celery" and not subject.options["redis"]:
                self._reach_rabbit()
            elif subject.product == "Celery":
                self._reach_redis()
        except UnavailableError as error:
            return str(error)
        return ""

    def _reach_rabbit(self) -> None:
        import socket

        parts = urlsplit(self._services.rabbit)
        try:
            socket.create_connection((parts.hostname or "", parts.port or 5672), timeout=2).close()
        except OSError as error:
            raise UnavailableError(f"RabbitMQ: {error}") from error

    def _reach_redis(self) -> None:
        redis: Any = importlib.import_module("redis")
        for number in (_BROKER, _RESULTS):
            with redis.Redis.from_url(f"{self._services.redis}/{number}") as client:
                try:
                    kept = client.dbsize()
                except redis.RedisError as error:
                    raise UnavailableError(f"Redis: {error}") from error
            if kept:
                raise UnavailableError(f"database {number} of Redis is not empty, and would be emptied")

    def measure(self, subject: Subject, rows: int, lanes: int) -> tuple[float, float, float]:
        """Return rows a second, executed and submitted, and the seconds of a processor that workers took for a row."""
        with self._database() as url:
            options = {**subject.options, **self._celery(subject, url)}
            settings = json.dumps({"url": url, "rows": rows, "lanes": lanes, "options": options})
            try:
                seconds = self._submit(subject, settings)
                _vacuum(url)
                took, busy = self._work(subject, settings, self._counter(subject, url), rows)
            finally:
                if subject.product == "Celery":
                    self._run(subject, "clean", settings)
        return rows / took, rows / seconds, busy / rows

    def _celery(self, subject: Subject, url: str) -> dict[str, Any]:
        if subject.product != "Celery":
            return {}
        queue = {"queue": f"holdfast-bench-{os.getpid()}"}
        if subject.options["redis"]:
            base = self._services.redis
            return {**queue, "broker": f"{base}/{_BROKER}", "backend": f"{base}/{_RESULTS}", "transport": {}}
        return {
            **queue,
            "broker": self._services.rabbit,
            "backend": url.replace("postgresql://", "db+postgresql+psycopg://"),
            "transport": {"confirm_publish": True},
        }

    @contextmanager
    def _database(self) -> Generator[str]:
        name = f"holdfast_bench_{os.getpid()}"
        with psycopg.connect(self._services.postgres, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
            try:
                yield urlunsplit(urlsplit(self._services.postgres)._replace(path=f"/{name}"))
            finally:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    def _command(self, subject: Subject, action: str, settings: str) -> list[str]:
        return [self._python, "-m", f"benchmarks.{subject.program}", action, settings]

    def _run(self, subject: Subject, action: str, settings: str) -> str:
        done = subprocess.run(
            self._command(subject, action, settings), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"error: {subject.product}, {action}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def _submit(self, subject: Subject, settings: str) -> float:
        said = json.loads(self._run(subject, "submit", settings).splitlines()[-1])
        return float(said["seconds"])

    @contextmanager
    def _counter(self, subject: Subject, url: str) -> Generator[Callable[[], int]]:
        """Give what counts the rows that are recorded."""
        if subject.recorded is None:
            redis: Any = importlib.import_module("redis")
            with redis.Redis.from_url(f"{self._services.redis}/{_RESULTS}") as client:
                yield lambda: int(client.dbsize())
            return
        with psycopg.connect(url, autocommit=True) as connection:
            statement = subject.recorded.encode()

            def count() -> int:
                try:
                    return int((connection.execute(statement).fetchone() or (0,))[0])
                except psycopg.errors.UndefinedTable:  # some make their tables when they begin
                    return 0

            yield count

    def _work(
        self,
        subject: Subject,
        settings: str,
        counter: contextlib.AbstractContextManager[Callable[[], int]],
        rows: int,
    ) -> tuple[float, float]:
        """Return the seconds from a worker's beginning until the last row is recorded, and those of its processors."""
        with (
            tempfile.TemporaryFile("w+") as errors,
            _started(self._command(subject, "work", settings), errors) as process,
            counter as count,
        ):
            began, deadline, done = _began(process), time.time() + _PATIENCE, 0
            before = _busy(process.pid)
            while began is not None and done < rows and time.time() < deadline and not process.poll():
                time.sleep(_LOOK if done < 0.8 * rows else _LOOK_CLOSER)
                done = count()
            ended, busy = time.time(), _busy(process.pid) - before
            if began is None or done < rows:
                errors.seek(0)
                said = errors.read()[-2000:]
                raise SystemExit(
                    f"error: {subject.product}, {subject.what}: {done} of {rows} rows were done\n{said}"
                )
        return ended - began, busy


def _busy(session: int) -> float:
    """Return the seconds of a processor that the processes of a session have used."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            facts = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(facts[3]) == session:
                ticks += int(facts[11]) + int(facts[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _vacuum(url: str) -> None:
    """Let the planner know the tables, as the server's own daemon does sooner or later, if it is on."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def _began(process: subprocess.Popen[str]) -> float | None:
    """Wait until a worker says that it begins, and return when that was; None if it does not."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith('{"began"'):  # Celery prints a banner first
            return float(json.loads(line)["began"])
    return None


@contextmanager
def _started(command: Sequence[str], errors: IO[str]) -> Generator[subprocess.Popen[str]]:
    """Run a worker in a group of its own, and end it with all that it started."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(timeout=15)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)


def measure(
    runner: Runner, subjects: Sequence[Subject], *, rows: int, lanes: int, rounds: int
) -> Iterator[tuple[Subject, Found]]:
    """Measure subjects in turns; yield them with medians."""
    missing = {subject.program + str(subject.options): runner.missing(subject) for subject in subjects}
    here = [subject for subject in subjects if not missing[subject.program + str(subject.options)]]
    made: dict[str, list[tuple[float, float, float]]] = {
        subject.product + subject.what: [] for subject in here
    }
    for number in range(rounds):
        for subject in here:
            print(f"round {number + 1} of {rounds}: {subject.product}, {subject.what}", file=sys.stderr)
            made[subject.product + subject.what].append(runner.measure(subject, rows, lanes))
    for subject in subjects:
        if subject in here:
            medians = map(statistics.median, zip(*made[subject.product + subject.what], strict=True))
            yield subject, Found(*medians)
        else:
            yield subject, Found(why=missing[subject.program + str(subject.options)])


def table(found: Sequence[tuple[Subject, Found]]) -> str:
    """Return what was found as text."""
    rows = [("", "", "rows/s", "CPU µs/row", "submitted/s", "once", "kept")]
    rows += [
        (
            subject.product,
            subject.what,
            "–" if one.done is None else f"{one.done:.0f}",
            "–" if one.busy is None else f"{1e6 * one.busy:.0f}",
            # One workflow is submitted whatever it does.
            "–" if one.submitted is None or subject.recorded == _DBOS_STEPS else f"{one.submitted:.0f}",
            one.why or subject.once,
            subject.kept,
        )
        for subject, one in found
    ]
    return lines(rows, "llrrrll")


def verdict(found: Sequence[tuple[Subject, Found]]) -> tuple[str, bool]:
    """Return how much faster holdfast is than the best that is as durable, and whether that misses the goal.

    What is compared is a record for each row: grouped records promise less.
    """
    durable = [(subject, one.done) for subject, one in found if subject.durable and one.done is not None]
    ours = [
        (rate, subject)
        for subject, rate in durable
        if subject.product == _OURS and subject.options["record"] == "each"
    ]
    theirs = [(rate, subject) for subject, rate in durable if subject.product != _OURS]
    if not (ours and theirs):
        return "nothing to compare with", True
    (mine, _), (best, peer) = max(ours, key=_rate), max(theirs, key=_rate)
    ratio = mine / best
    said = f"{ratio:.1f} times the best of them that is as durable: {peer.product}, {peer.what}"
    return f"{said}; goal {FASTER:g}", ratio < FASTER


def _rate(pair: tuple[float, Subject]) -> float:
    return pair[0]


def notes(services: Services) -> Iterator[str]:
    """Yield what has to be known besides: versions, and how durable Redis is here."""
    with contextlib.suppress(Exception):
        redis: Any = importlib.import_module("redis")
        with redis.Redis.from_url(services.redis) as client:
            kept = {
                **client.config_get("appendonly"),
                **client.config_get("appendfsync"),
                **client.config_get("save"),
            }
        yield f"Redis: appendonly {kept['appendonly']}, appendfsync {kept['appendfsync']}, save {kept['save']!r}"
    with psycopg.connect(services.postgres) as connection:
        for name in ("server_version", "fsync", "synchronous_commit", "autovacuum"):
            row = connection.execute(f"SHOW {name}".encode()).fetchone() or ("?",)
            yield f"PostgreSQL: {name} {row[0]}"


_VERSIONS = """\
from importlib.metadata import PackageNotFoundError, version
for name in ("holdfast", "dbos", "procrastinate", "celery", "psycopg", "sqlalchemy"):
    try:
        print(name, version(name))
    except PackageNotFoundError:
        print(name, "is not installed")
"""


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000, help="of each run (default %(default)s)")
    parser.add_argument("--lanes", type=int, default=8, help="rows at once (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each line, medians are printed (default 3)")
    parser.add_argument("--quick", action="store_true", help="few rows, one round: noisy, for development")
    parser.add_argument(
        "--only", action="append", help="a product, or a part of a line's name; may be repeated"
    )
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter that has the products (default: this)"
    )
    parser.add_argument("--postgres", default=POSTGRES, help="URL of a server (default %(default)s)")
    parser.add_argument("--rabbit", default=RABBIT, help="URL (default %(default)s)")
    parser.add_argument("--redis", default=REDIS, help="URL without a database (default %(default)s)")
    parser.add_argument("--check", action="store_true", help="exit status 1 if the goal is missed")
    given = parser.parse_args()
    end_tidily()
    services = Services(postgres=given.postgres, rabbit=given.rabbit, redis=given.redis)
    wanted = [
        subject
        for subject in SUBJECTS
        if not given.only
        or any(one.lower() in f"{subject.product}, {subject.what}".lower() for one in given.only)
    ]
    if not wanted:
        parser.error(f"--only matches none of {', '.join(sorted({one.product for one in SUBJECTS}))}")
    rows, rounds = (200, 1) if given.quick else (given.rows, given.rounds)
    print(machine())
    print(*notes(services), sep="\n")
    versions = subprocess.run([given.python, "-c", _VERSIONS], capture_output=True, text=True, check=True)
    print(", ".join(versions.stdout.splitlines()))
    print(f"\n{rows} rows that do nothing, {given.lanes} at once")
    found = list(measure(Runner(given.python, services), wanted, rows=rows, lanes=given.lanes, rounds=rounds))
    print(table(found))
    said, missed = verdict(found)
    print(f"\nholdfast, a record for each row: {said}")
    return int(missed and given.check)


if __name__ == "__main__":
    sys.exit(main())
