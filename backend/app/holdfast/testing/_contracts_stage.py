"""Contracts laid out where mypy finds them and not the code, each with a probe that proves it was read."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from holdfast.testing._contracts_tree import PACKAGE, Drift, Tree

PROBE = "contract_probe"
_SECONDS = 600
_COLOURS = ("FORCE_COLOR", "MYPY_FORCE_COLOR", "CLICOLOR_FORCE")


@contextmanager
def staged(contracts: Tree, *, export: bool) -> Generator[Path]:
    """Give a folder that holds the contracts as package, each with one more name that no code has.

    `export` adds that name to `__all__` too, where there is one, so that it can be imported. The folder above
    is temporary too.
    """
    with tempfile.TemporaryDirectory(prefix="contracts-") as name:
        stage = Path(name).resolve() / "stage"
        for path in contracts.paths.values():
            target = stage / PACKAGE / path.relative_to(contracts.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_with_probe(path.read_text(encoding="utf-8"), export=export), encoding="utf-8")
        (stage / PACKAGE / "py.typed").touch()
        yield stage


def _with_probe(text: str, *, export: bool) -> str:
    exported = f'__all__ += ["{PROBE}"]\n' if export and "\n__all__" in text else ""
    return f"{text}\n{PROBE}: int\n{exported}"


def run_python(arguments: list[str], folder: Path, **paths: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in `folder`, with search paths of its own: MYPYPATH, PYTHONPATH."""
    kept = {name: value for name, value in os.environ.items() if name not in (*_COLOURS, "PYTHONPATH")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=kept | paths,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=_SECONDS,
        check=False,
    )


def real_file(reported: str, folder: Path, stage: Path, contracts: Tree) -> str:
    """Return the path below the root of a file as mypy, run in `folder`, reports it: a staged contract, a test."""
    path = (folder / reported).resolve()
    for base, real in ((stage / PACKAGE, contracts.folder), (contracts.root, contracts.root)):
        if path.is_relative_to(base):
            return (real / path.relative_to(base)).relative_to(contracts.root).as_posix()
    return reported


def no_contracts(check: str, contracts: Tree) -> Drift:
    """Return the drift of a folder without any contract, with which every comparison would pass."""
    return Drift(
        check=check,
        file=contracts.folder.relative_to(contracts.root).as_posix(),
        name="contracts",
        contract="there is none at all",
        code="has modules",
        remedy="write the contracts, or correct the root",
    )


def unread(check: str, tool: str, contracts: Tree, name: str) -> Drift:
    """Return the drift of a contract whose probe did not show up."""
    return Drift(
        check=check,
        file=contracts.label(name),
        name=name,
        contract=f"was given a probe, `{PROBE}`, that {tool} must report",
        code=f"{tool} did not report it: it read something else as {name}",
        remedy="look for another package of that name, or an earlier fault in this contract",
    )


def no_answer(check: str, tool: str, done: subprocess.CompletedProcess[str]) -> Drift:
    """Return the drift of a tool that failed without saying where."""
    said = " / ".join((done.stdout + done.stderr).strip().splitlines()[-5:])
    return Drift(
        check=check,
        file="backend/contracts",
        name=tool,
        contract="could not be compared",
        code=f"{tool} ended with {done.returncode}: {said or 'it said nothing'}",
        remedy=f"run `{tool}` by hand",
    )
