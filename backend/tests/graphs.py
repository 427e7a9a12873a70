"""The properties of graphs, at length: `python -m backend.tests.graphs`, or `make test-graphs`.

Random graphs with random results, crashes and duplicates beside the reference evaluator; interleavings of evaluators;
a crash before and after every call. In pieces, each a process of its own with a seed of its own, so that none lasts
for ever; a piece that fails says its seed, and the rest go on. Exit codes: 0 all passed, 1 one did not.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUITE = "backend/tests/integration/orchestration"
CRASHES, WAKEUPS = f"{SUITE}/test_crashes_integration.py", f"{SUITE}/test_wakeups_integration.py"
STORES = ("memory", "sqlite", "postgresql", "dynamodb")
KEPT = 2000


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one process does: `tests` is what pytest is told, `environ` how much of it."""

    name: str
    tests: tuple[str, ...]
    environ: dict[str, str]


def pieces(stores: list[str], graphs: int, turns: int, most: int) -> Iterator[Piece]:
    """Yield the pieces of a run: `most` graphs in each at most."""
    for store in stores:
        where = "as_the_reference_says" if store == "memory" else f"ends_so and {store}"
        for seed, first in enumerate(range(0, graphs, most), 1):
            count = min(most, graphs - first)
            yield Piece(
                name=f"{store}: {count} random graphs, seed {seed}",
                tests=(CRASHES, "-k", where, f"--hypothesis-seed={seed}"),
                environ={"HOLDFAST_GRAPH_EXAMPLES": str(count)},
            )
        if store == "memory":
            yield Piece(name="memory: 500 interleavings", tests=(WAKEUPS, "-k", "loses_a_wakeup"), environ={})
            yield Piece(name="memory: every crash", tests=(CRASHES, "-k", "at_any_call"), environ={})
        else:
            yield Piece(
                name=f"{store}: {turns} interleavings",
                tests=(WAKEUPS, "-k", f"loses_one_in_each and {store}"),
                environ={"HOLDFAST_GRAPH_TURNS": str(turns)},
            )
            yield Piece(
                name=f"{store}: every crash",
                tests=(CRASHES, "-k", f"is_survived_in_each and {store}"),
                environ={"HOLDFAST_GRAPH_STRIDE": "1"},
            )


def run(piece: Piece) -> bool:
    """Run a piece; print how it ended, and what it said if that was not well."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-o", "faulthandler_timeout=3600", *piece.tests],
        cwd=ROOT,
        env={**os.environ, **piece.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    skipped = done.returncode == 0 and " passed" not in done.stdout
    ended = "skipped" if skipped else "passed" if done.returncode == 0 else "FAILED"
    say(f"{piece.name:<44} {ended:<8} {time.monotonic() - begun:>6.0f} s")
    if ended != "passed":
        say(done.stdout[-KEPT:] + done.stderr[-KEPT:])
    return done.returncode == 0


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Run the pieces that were asked for; return 1 if one failed."""
    parser = argparse.ArgumentParser(description="The properties of graphs, at length.")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=list(STORES[:3]))
    parser.add_argument("--graphs", type=int, default=2000, help="random graphs in each store")
    parser.add_argument("--turns", type=int, default=500, help="interleavings in each database")
    parser.add_argument("--piece", type=int, default=500, help="graphs in one process at most")
    parser.add_argument("--only", default="", help="only pieces with this in their names")
    options = parser.parse_args()
    found = pieces(options.stores, options.graphs, options.turns, options.piece)
    ended = [run(piece) for piece in found if options.only in piece.name]
    say(f"{sum(ended)} of {len(ended)} pieces passed")
    return int(not all(ended))


if __name__ == "__main__":
    raise SystemExit(main())
