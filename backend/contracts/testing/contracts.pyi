"""The contract gate: `python -m holdfast.testing.contracts` fails unless contracts, code and users agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = [
    "CHECKS",
    "Drift",
    "TreeNotFoundError",
    "check_mirror",
    "check_stubtest",
    "check_text",
    "check_use",
    "drifts",
    "find_root",
    "main",
]

CHECKS: Final = ("mirror", "text", "stubtest", "use")

@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One place where a contract and what it describes differ, with the way out.

    `check` found it, in `file` (below the root) on `line` (0: the whole file), about `name`; `contract` and
    `code` say what each side has.
    """

    check: str
    file: str
    line: int = 0
    name: str
    contract: str
    code: str
    remedy: str

class TreeNotFoundError(Exception):
    """There is no package with contracts at the given place."""

def find_root(start: Path) -> Path:
    """Return `start` or the nearest folder above with package and contracts, or raise TreeNotFoundError."""

def check_mirror(root: Path) -> list[Drift]:
    """Return public modules without a contract, and contracts without a module."""

def check_text(root: Path) -> list[Drift]:
    """Return what the texts of contracts and code differ on, and which docstrings contracts lack."""

def check_stubtest(root: Path) -> list[Drift]:
    """Return what mypy's stubtest reports, and every contract that it did not read. Takes seconds."""

def check_use(root: Path) -> list[Drift]:
    """Return the type errors of tests and examples, and contracts that mypy did not read; takes seconds."""

def drifts(root: Path, checks: Sequence[str] = ("mirror", "text", "stubtest", "use")) -> list[Drift]:
    """Return what the named checks find in the project at `root`, in their order. TreeNotFoundError."""

def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gate from the command line: 0 when all agree, 1 after printing the drifts, 2 when it cannot."""
