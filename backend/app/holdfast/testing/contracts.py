"""The contract gate: `python -m holdfast.testing.contracts` fails unless contracts, code and users agree."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from holdfast.testing._contracts_mirror import check_mirror
from holdfast.testing._contracts_stubtest import check_stubtest
from holdfast.testing._contracts_text import check_text
from holdfast.testing._contracts_tree import Drift, TreeNotFoundError, find_root, require_tree, trees
from holdfast.testing._contracts_use import check_use

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
_FUNCTIONS: dict[str, Callable[[Path], list[Drift]]] = {
    "mirror": check_mirror,
    "text": check_text,
    "stubtest": check_stubtest,
    "use": check_use,
}


def drifts(root: Path, checks: Sequence[str] = CHECKS) -> list[Drift]:
    """Return what the named checks find in the project at `root`, in the order of the checks."""
    require_tree(root)
    with ThreadPoolExecutor(len(CHECKS)) as pool:
        running = [pool.submit(_FUNCTIONS[name], root) for name in checks]
        return [drift for future in running for drift in future.result()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gate from the command line: 0 when all agree, 1 after printing the drifts, 2 when it cannot."""
    options = _parser().parse_args(arguments)
    try:
        root = options.root.resolve() if options.root else find_root(Path.cwd())
        require_tree(root)
        _require_mypy(options.only)
    except (TreeNotFoundError, ModuleNotFoundError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    found = drifts(root, options.only)
    sys.stdout.writelines(f"{drift}\n\n" for drift in found)
    counts = ", ".join(f"{name} {sum(drift.check == name for drift in found)}" for name in options.only)
    sys.stdout.write(f"{len(trees(root)[0].paths)} contracts, drifts: {counts}\n")
    return 1 if found else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m holdfast.testing.contracts", description=__doc__)
    parser.add_argument(
        "--root", type=Path, help="the project's folder (default: this one or the nearest above it)"
    )
    parser.add_argument(
        "--only", type=_names, default=CHECKS, metavar=",".join(CHECKS), help="only these checks"
    )
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no check is called {', '.join(unknown)}; there are {', '.join(CHECKS)}"
        )
    return names


def _require_mypy(checks: Sequence[str]) -> None:
    if {"stubtest", "use"} & set(checks) and importlib.util.find_spec("mypy") is None:
        raise ModuleNotFoundError("mypy is missing: install holdfast[dev], or give --only mirror,text")


if __name__ == "__main__":
    sys.exit(main())
