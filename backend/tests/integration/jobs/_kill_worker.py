"""Processes to be killed: forked from one that has everything imported, since starting one takes half a second.

`python -m …` reads a plan from each line of its input, forks, and says the process's id, then how it ended.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import holdfast
from backend.tests.integration.jobs._kill_job import Plan, drive
from backend.tests.integration.jobs._sql import environment

ROOT = Path(__file__).parents[4]
KILLED = -signal.SIGKILL
PATIENCE = 60.0
# What a process would import when it needs it, here imported once for all.
IMPORTED = (
    "alembic.command",
    "sqlalchemy",
    "holdfast.infrastructure.store.sql",
    "holdfast.infrastructure.store._sqlite",
    "holdfast.infrastructure.store._postgres",
    "holdfast.services.jobs._write_csv",
)


class Nursery:
    """The process that forks others, as a test sees it; with `library`, they import that copy of holdfast."""

    def __init__(self, library: Path | None = None) -> None:
        roots = [str(library or Path(holdfast.__file__).parents[1]), str(ROOT)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "backend.tests.integration.jobs._kill_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**environment(measured=library is None), "PYTHONPATH": os.pathsep.join(roots)},
        )

    def start(self, plan: Plan, kill_at: str = "") -> int:
        """Fork a process that follows a plan, to be killed at a boundary; return its id."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([plan.words(), kill_at]) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def ended(self) -> int:
        """Wait for the end of that process; return its exit status, the negative of the signal that killed it."""
        return self._hear()

    def run(self, plan: Plan, kill_at: str = "") -> int:
        """Let a process follow a plan; return how it ended."""
        self.start(plan, kill_at)
        return self.ended()

    def _hear(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery has ended"
        return int(line)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=PATIENCE)
        self._process.stdout.close()


def say(number: int) -> None:
    """Answer."""
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def follow(words: dict[str, Any]) -> None:
    """In the forked process: follow the plan and end."""
    status = 1
    try:
        os.close(0)
        signal.alarm(int(PATIENCE))
        drive(Plan(**words))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Fork until the input ends."""
    for module in IMPORTED:
        import_module(module)
    while line := sys.stdin.readline():
        words, kill_at = json.loads(line)
        os.environ["HOLDFAST_KILL_AT"] = kill_at
        child = os.fork()
        if not child:
            follow(words)
        say(child)
        _, status = os.waitpid(child, 0)
        say(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
