"""Stages of small tests in a folder, run as a program of its own by what runs the stages of the jobs."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import holdfast
from backend.tests.staged import ROOT, Stage

PROGRAM = """
import sys
from pathlib import Path
from backend.tests.staged import Stage, main
sys.exit(main({stages!r}, Path({root!r})))
"""


@dataclass(frozen=True)
class Ran:
    """How it ended, and what it said."""

    code: int
    said: str

    @property
    def table(self) -> list[tuple[str, str, str]]:
        """Name, result and what is said besides of each stage, from the table."""
        _, _, rows = self.said.partition("stage ")
        found = [tuple(re.split(r" {2,}", line)) for line in rows.splitlines()[1:-1]]
        return [(name, result, "".join(what)) for name, result, _, *what in found]

    @property
    def seconds(self) -> list[str]:
        """How long each stage took, as the table says it."""
        _, _, rows = self.said.partition("stage ")
        return [re.split(r" {2,}", line)[2] for line in rows.splitlines()[1:-1]]

    @property
    def verdict(self) -> str:
        """The last line, without how long it took."""
        return re.sub(r"; \d+ s\.$", "", self.said.splitlines()[-1])


def stage(folder: Path, name: str, source: str, *options: str, limit: float = 60.0) -> Stage:
    """Return a stage of one file of tests."""
    (folder / f"test_{name}.py").write_text(source, encoding="utf-8")
    return Stage(name=name, tests=(*options, f"test_{name}.py"), limit=limit)


def command(stages: tuple[Stage, ...], root: Path) -> list[str]:
    """Return the command that runs stages in a folder."""
    return [sys.executable, "-c", PROGRAM.format(stages=stages, root=str(root))]


def environment(**more: str) -> dict[str, str]:
    """Return its environment, in which services need not be there, and the small tests begin quickly."""
    roots = [str(Path(holdfast.__file__).parents[1]), str(ROOT)]
    kept = {name: value for name, value in os.environ.items() if name != "HOLDFAST_REQUIRE_SERVICES"}
    kept |= {"PYTHONPATH": os.pathsep.join(roots), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return {**kept, "PYTHONUNBUFFERED": "1", **more}


def run(*stages: Stage, root: Path, **more: str) -> Ran:
    """Run stages to their end."""
    done = subprocess.run(
        command(stages, root),
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return Ran(done.returncode, done.stdout)
