"""What type checkers accept and refuse in the hands of users, by the contracts alone."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.one_python, pytest.mark.no_cover]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
ACCEPTED, REFUSED = "accepted_uses.py", "refused_uses.py"
MARK = re.compile(r"  # type: ignore\[([a-z-]+)\]$")
PROBE = "reads_the_contracts.py"

Fault = tuple[str, int, str]


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> set[Fault]:
    """Run mypy, strict, once over all uses without their marks, where only the contracts can be found."""
    pytest.importorskip("mypy")
    stage = tmp_path_factory.mktemp("typing")
    package = stage / "contracts" / "holdfast"
    shutil.copytree(ROOT / "backend/contracts", package)
    (package / "py.typed").touch()
    with (package / "__init__.pyi").open("a", encoding="utf-8") as door:
        door.write("only_in_the_contracts: int\n")
    uses = stage / "backend" / "tests" / "typing"
    uses.mkdir(parents=True)
    for name in (ACCEPTED, REFUSED):
        lines = (HERE / name).read_text(encoding="utf-8").splitlines()
        (uses / name).write_text("".join(f"{MARK.sub('', line)}\n" for line in lines), encoding="utf-8")
    (uses / PROBE).write_text(
        "from holdfast import only_in_the_contracts as read\nread + ''\n", encoding="utf-8"
    )
    return set(run_mypy(stage))


def run_mypy(stage: Path) -> Iterator[Fault]:
    """Yield file, line and code of every error."""
    options = ["--strict", "--explicit-package-bases", "--python-version=3.11", "--output=json"]
    (stage / "mypy.ini").write_text("[mypy]\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, f"--cache-dir={stage / 'cache'}", "backend"],
        cwd=stage,
        env={**os.environ, "MYPYPATH": f"{stage / 'contracts'}{os.pathsep}{stage}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    for line in done.stdout.splitlines():
        error: dict[str, Any] = json.loads(line)
        if error["severity"] == "error":
            yield Path(error["file"]).name, error["line"], error["code"]


def marks() -> set[Fault]:
    """Return file, line and code of every mark."""
    lines = (HERE / REFUSED).read_text(encoding="utf-8").splitlines()
    found = ((number, MARK.search(line)) for number, line in enumerate(lines, start=1))
    return {(REFUSED, number, mark[1]) for number, mark in found if mark}


def test_the_contracts_are_what_is_read(faults: set[Fault]) -> None:
    """A name that only the copy of the contracts has is found, and its type is known."""
    assert {fault for fault in faults if fault[0] == PROBE} == {(PROBE, 2, "operator")}


def test_what_users_may_write_is_accepted(faults: set[Fault]) -> None:
    """Decorated functions keep their signatures, and every other use finds the type that it states."""
    assert {fault for fault in faults if fault[0] == ACCEPTED} == set()


def test_exactly_the_marked_lines_are_refused(faults: set[Fault]) -> None:
    """Each wrong use is an error of the kind that is marked, and no other line is one."""
    assert {fault for fault in faults if fault[0] == REFUSED} == marks()
    assert len(marks()) >= 60


def test_accepted_uses_hide_nothing() -> None:
    """No use counts as accepted because a comment silences the type checker."""
    text = (HERE / ACCEPTED).read_text(encoding="utf-8")
    assert not re.search(r"type: *ignore|pyright|\bcast\b", text)
