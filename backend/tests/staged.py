"""The suites of the jobs in stages, from the ground up: `python -m backend.tests.staged`, or `make test-staged`.

The first stage that fails is the last one that runs. At the end what was begun is ended, what was made is removed, and
a table says how each stage ended and how long it took. Exit codes: 0 no stage failed, 1 one did, 130 and 143 stopped by
Ctrl-C or SIGTERM.
"""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psycopg
from psycopg import sql

from backend.tests._run import RUN, postgres_address
from backend.tests._tally import Tally

ROOT = Path(__file__).resolve().parents[2]
TESTS = "backend/tests"
JOBS = f"{TESTS}/integration/jobs"
CLI = f"{TESTS}/integration/cli"
# How many seconds a command may take, and how many more it has to tidy up when it is told to end.
LIMIT, GRACE = 900.0, 20.0
NO_TESTS = 5
WELL = {"passed", "skipped"}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """`tests` is what pytest is told; `programs` are run afterwards, as users run them, and have to end with 0."""

    name: str
    tests: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    limit: float = LIMIT


def parts() -> Iterator[str]:
    """Yield the unit and property tests of jobs, stores and transports: they import from there."""
    theirs = re.compile(r"^from holdfast\.(services\.jobs|infrastructure\.(store|transport))\b", re.MULTILINE)
    for folder in ("unit", "properties"):
        for path in sorted((ROOT / TESTS / folder).glob("test_*.py")):
            if theirs.search(path.read_text(encoding="utf-8")):
                yield path.relative_to(ROOT).as_posix()


STAGES = (
    Stage(
        name="foundation",
        tests=(
            *("-m", "foundation"),
            f"{JOBS}/test_foundation_integration.py",
            f"{JOBS}/test_sqlite_store_integration.py",
            f"{JOBS}/test_blob_store_integration.py",
            f"{TESTS}/unit/test_sql_store.py",
        ),
    ),
    Stage(name="component", tests=tuple(parts())),
    Stage(
        name="integration",
        tests=(
            *(JOBS, f"{TESTS}/integration/transport", CLI),
            f"--ignore={JOBS}/test_benchmarks_integration.py",
            f"--ignore={JOBS}/test_kill_matrix_integration.py",
            f"--ignore={JOBS}/test_staged_integration.py",
            f"--ignore={CLI}/test_command_line_integration.py",
        ),
    ),
    Stage(
        name="end to end",
        tests=("-m", "short", f"{JOBS}/test_kill_matrix_integration.py"),
        programs=("examples/orders_demo.py",),
    ),
)


@dataclass
class Result:
    """How a stage ended: passed, failed, skipped, interrupted or not run; how its tests did, and what else there is."""

    name: str
    state: str = "not run"
    seconds: float | None = None
    tally: Tally = field(default_factory=Tally)
    notes: list[str] = field(default_factory=list[str])

    def what(self) -> str:
        """Return what the table says of it at last."""
        tests = self.tally.tests
        counts = [f"{tests[end]} {end}" for end in ("failed", "passed", "skipped") if tests[end]]
        return ", ".join([*counts, *self.notes])


class Asked:
    """Notes SIGINT and SIGTERM, and lets nothing be interrupted by them, tidying up least of all."""

    def __init__(self) -> None:
        self.by: list[int] = []

    def __enter__(self) -> "Asked":
        """Begin to listen."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        self._before = {one: signal.signal(one, lambda number, _: self.by.append(number)) for one in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let others listen again."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Run:
    """One run: its folder, whose name is that of its databases and in the environment of its processes."""

    def __init__(self, asked: Asked, root: Path) -> None:
        self._asked = asked
        self._root = root
        self._folder = Path(tempfile.mkdtemp(prefix="holdfast_staged_"))
        # A PostgreSQL of a test's own is another user's, who has to find the way to its data.
        self._folder.chmod(0o711)

    def play(self, stage: Stage, result: Result) -> None:
        """Run a stage."""
        begun = time.monotonic()
        result.state = "passed"
        if stage.tests:
            path = self._folder / "tally"
            path.touch()
            options = ["-p", "backend.tests._tally", f"--tally={path}"]
            code = self._execute(["-m", "pytest", *options, *stage.tests], stage, result)
            result.tally = Tally(path.read_text(encoding="utf-8"))
            path.unlink()
            judge(code, result)
        for program in stage.programs:
            if result.state in WELL:
                code = self._execute([program], stage, result)
                result.state = "failed" if code else "passed"
                result.notes.append(f"{program} {how(code)}")
        if self._asked.by:
            result.state = "interrupted"
            result.notes.clear()
        result.seconds = time.monotonic() - begun

    def _execute(self, words: Sequence[str], stage: Stage, result: Result) -> int:
        """Run Python to its end, or to that of its time; return how it ended."""
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=self._root,
            env={**os.environ, RUN: self._folder.name, "TMPDIR": str(self._folder)},
            stdin=subprocess.DEVNULL,
            # Ctrl-C reaches all who share a terminal. These it is to reach once, so that they can tidy up.
            start_new_session=True,
        )
        code = self._ended(process, stage.limit, signals=1)
        late = code is None and not self._asked.by
        if code is None:
            process.send_signal(signal.SIGINT)
            code = self._ended(process, GRACE, signals=len(self._asked.by) + 1)
        if code is None:
            process.kill()
            code = process.wait()
        if late:
            result.notes.append(f"told to end after {stage.limit:g} s")
        for command in end_processes(self._folder.name):
            say(f"left running, ended now: {command}")
        return code or int(late)

    def _ended(self, process: "subprocess.Popen[bytes]", seconds: float, *, signals: int) -> int | None:
        """Wait for the end of a process, but no longer than seconds, or until so many signals have come."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and len(self._asked.by) < signals:
            try:
                return process.wait(0.1)
            except subprocess.TimeoutExpired:
                pass
        return process.poll()

    def clear(self) -> None:
        """Remove what was made."""
        for what in drop_databases(self._folder.name):
            say(f"left behind, {what}")
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._folder.exists():
            say(f"left behind, and cannot be removed: {self._folder}")


def judge(code: int, result: Result) -> None:
    """Tell how a stage's tests ended: to have found none, or not to have come to the end, is to have failed."""
    tests, whole = result.tally.tests, result.tally.whole
    if code == 0 and tests["passed"] and whole:
        result.state = "passed"
    elif code in {0, NO_TESTS} and tests["skipped"] and whole:
        result.state = "skipped"
    else:
        result.state = "failed"
        if code == NO_TESTS:
            result.notes.append("no test was found")
        elif not tests["failed"] or not whole:
            result.notes.append(f"pytest {how(code)}{'' if code else ' before its end'}")


def how(code: int) -> str:
    """Return how a process ended."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def end_processes(run: str) -> Iterator[str]:
    """Kill the processes of a run until there are none, and yield their commands."""
    for _ in range(5):
        found = list(processes(run))
        for handle, command in found:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            yield command
        for handle, _ in found:
            select.select([handle], [], [], GRACE)
            os.close(handle)
        if not found:
            return


def processes(run: str) -> Iterator[tuple[int, str]]:
    """Yield the processes whose command or environment names a run: a handle, and the command. Linux only."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            # By a handle, because a number may be another process's a moment later.
            handle = os.pidfd_open(int(path.name))
        except OSError:
            continue
        words, names = read(path / "cmdline"), read(path / "environ")
        if run.encode() in words + names:
            yield handle, f"{path.name} {words.replace(bytes(1), b' ').decode(errors='replace').strip()}"
        else:
            os.close(handle)


def read(path: Path) -> bytes:
    """Return what is in a file, if it is there and may be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def drop_databases(run: str) -> Iterator[str]:
    """Drop the databases of a run, if PostgreSQL answers, and tell of each."""
    try:
        connection = psycopg.connect(postgres_address(), autocommit=True, connect_timeout=2)
    except psycopg.Error:
        return
    with connection:
        found = connection.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [run])
        for (name,) in found.fetchall():
            try:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
                yield f"dropped now: database {name}"
            except psycopg.Error as error:
                yield f"and cannot be dropped: database {name} ({error})"


def lines(results: Sequence[Result]) -> Iterator[str]:
    """Yield why tests were skipped, then the table."""
    for result in results:
        if result.tally.reasons:
            yield f"skipped in {result.name}:"
            yield from (f"{number:5} × {reason}" for reason, number in result.tally.reasons.most_common())
    width = max(len(result.name) for result in results)
    yield ""
    yield f"{'stage':<{width}}  {'result':<11}  seconds  tests"
    for result in results:
        took = "–" if result.seconds is None else f"{result.seconds:.1f}"
        yield f"{result.name:<{width}}  {result.state:<11}  {took:>7}  {result.what()}".rstrip()


def verdict(results: Sequence[Result], by: Sequence[int]) -> str:
    """Return in a sentence how it went."""
    took = f"{sum(result.seconds or 0.0 for result in results):.0f} s"
    bad = next((result for result in results if result.state not in {*WELL, "not run"}), None)
    rest, skipped = ([one.name for one in results if one.state == state] for state in ("not run", "skipped"))
    if bad is None and not by:
        return f"No stage failed{', and skipped were: ' if skipped else ''}{', '.join(skipped)}; {took}."
    why = f"by {signal.Signals(by[0]).name}" if by else "because it failed"
    at = f" at {bad.name}" if bad else ""
    return f"Stopped{at} {why}; not run: {', '.join(rest) or 'none'}; {took}."


def say(line: str) -> None:
    """Print a line at once: processes that print, too, come next."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(stages: Sequence[Stage] = STAGES, root: Path = ROOT) -> int:
    """Run stages until one fails, clear up, and print the table; return the exit code."""
    results = [Result(stage.name) for stage in stages]
    with Asked() as asked:
        run = Run(asked, root)
        try:
            for stage, result in zip(stages, results, strict=True):
                say(f"\n== {stage.name}")
                run.play(stage, result)
                if asked.by or result.state not in WELL:
                    break
        finally:
            run.clear()
    for line in lines(results):
        say(line)
    say(verdict(results, asked.by))
    if asked.by:
        return 128 + asked.by[0]
    return int(any(result.state not in WELL for result in results))


if __name__ == "__main__":
    sys.exit(main())
