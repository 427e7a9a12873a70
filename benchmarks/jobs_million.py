"""A file of a million rows, submitted and executed: `python -m benchmarks.jobs_million`.

The file is submitted in a process of its own and executed to its end in another: how long that takes and the most
memory that each has had. The same for smaller files, because a row must not cost more when more are done; and how the
statements of the store are executed in a table that is nearly all done.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _query_plans as query_plans
from benchmarks._jobs import POSTGRES, end_tidily, lines, machine, payload, place

KINDS = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
# Of a million rows: seconds, MB, MB. Of any: what the last rows cost, of the first.
SUBMIT_SECONDS, SUBMIT_PEAK, EXECUTE_PEAK = 60.0, 200.0, 250.0
DEARER = 1.5
_MILLION = 1_000_000
_ENDS = 3


@dataclass(frozen=True, kw_only=True)
class Run:
    """What became of one file. `costs`: seconds a row of each tenth, on the clock and of the processor; peaks in MB."""

    rows: int
    submit_seconds: float
    submit_peak: float
    seconds: float
    processor: float
    peak: float
    costs: Sequence[tuple[float, float]]

    @property
    def dearer(self) -> float:
        """What a row of the last three tenths cost, of what one of the first three did; on the clock."""
        first, last = (
            statistics.median(cost for cost, _ in part) for part in (self.costs[:_ENDS], self.costs[-_ENDS:])
        )
        return last / first

    @property
    def missed(self) -> list[str]:
        """The targets that are missed; those of a million rows hold for fewer too, but for the time."""
        seconds = SUBMIT_SECONDS * max(self.rows / _MILLION, 1.0)
        told = (
            (self.submit_seconds > seconds, f"submitted in {self.submit_seconds:.1f} s, goal {seconds:g}"),
            (self.submit_peak > SUBMIT_PEAK, f"submitted in {self.submit_peak:.0f} MB, goal {SUBMIT_PEAK:g}"),
            (self.peak > EXECUTE_PEAK, f"executed in {self.peak:.0f} MB, goal {EXECUTE_PEAK:g}"),
        )
        return [text for missed, text in told if missed]


def write(path: Path, rows: int) -> None:
    """Write a file of so many rows, always the same ones."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(payload(0))
        writer.writerows(payload(row).values() for row in range(rows))


def measure(kind: str, rows: int, *, record: str, postgres: str = POSTGRES) -> Run:
    """Submit and execute a file."""
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder,
        place(kind, postgres) as (url, tenant),
    ):
        path = Path(folder) / "orders.csv"
        write(path, rows)
        told = {"url": url, "tenant": tenant, "path": str(path), "rows": rows, "record": record}
        submitted, executed = _child("submit", told), _child("execute", told)
    assert submitted["rows"] == executed["rows"] == rows
    return Run(
        rows=rows,
        submit_seconds=submitted["seconds"],
        submit_peak=submitted["peak"],
        seconds=executed["seconds"],
        processor=executed["processor"],
        peak=executed["peak"],
        costs=[(cost, busy) for cost, busy in executed["costs"]],
    )


def _child(action: str, told: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks._jobs_million", action, json.dumps(told)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {action} of {told['rows']} rows: {done.stderr.strip()[-2000:]}")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def sizes(rows: int) -> list[int]:
    """Return the powers of ten from a thousand on that are smaller, and the number itself."""
    return [*(10**power for power in range(3, 19) if 10**power < rows), rows]


def table(runs: Sequence[Run]) -> str:
    """Return a line for each size."""
    rows = [("rows", "submit s", "MB", "execute s", "rows/s", "MB", "µs/row", "of them CPU")]
    rows += [
        (
            f"{run.rows}",
            f"{run.submit_seconds:.2f}",
            f"{run.submit_peak:.0f}",
            f"{run.seconds:.2f}",
            f"{run.rows / run.seconds:.0f}",
            f"{run.peak:.0f}",
            f"{1e6 * run.seconds / run.rows:.0f}",
            f"{1e6 * run.processor / run.rows:.0f}",
        )
        for run in runs
    ]
    return lines(rows, "r" * 8)


def tenths(run: Run) -> Iterator[str]:
    """Yield what a row cost while the largest was executed."""
    for name, at in (("", 0), (" of the processor", 1)):
        yield f"µs{name} a row, by tenths: " + " ".join(f"{1e6 * cost[at]:.0f}" for cost in run.costs)
    yield f"a row of the last three tenths: {run.dearer:.2f} of one of the first three"


def of_kind(kind: str, rows: int, *, record: str, postgres: str) -> list[str]:
    """Measure and print a database; return what it missed."""
    runs = [measure(kind, size, record=record, postgres=postgres) for size in sizes(rows)]
    largest = runs[-1]
    print(f"\n{kind}, record={record}")
    print(table(runs))
    print(*tenths(largest), sep="\n")
    missed = largest.missed
    if rows == _MILLION and largest.dearer > DEARER:
        missed.append(f"the last rows cost {largest.dearer:.2f} of the first, goal {DEARER:g}")
    missed += _plans(kind, max(10_000, min(rows, query_plans.ROWS)), postgres)
    print(*(f"missed: {one}" for one in missed), sep="\n")
    return missed


def _plans(kind: str, rows: int, postgres: str) -> list[str]:
    if kind == "PostgreSQL" and not query_plans.has_auto_explain(postgres):
        print("plans: not looked at, because the server has no auto_explain or keeps it from this user")
        return []
    found = query_plans.plans(kind, rows=rows, postgres=postgres)
    print(f"plans of {rows} rows: ", end="")
    print(*query_plans.report(found), sep="\n")
    return [f"read whole: {one.statement}" for one in found if one.whole]


def main() -> int:
    """Print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, default=_MILLION, help="of the largest file (default %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="a thousand rows, for development")
    parser.add_argument(
        "--store", choices=(*KINDS, "both"), default="sqlite", help="database (default %(default)s)"
    )
    parser.add_argument("--record", choices=("each", "group"), default="group", help="(default %(default)s)")
    parser.add_argument("--postgres", default=POSTGRES, help="URL (default %(default)s)")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a target is missed")
    given = parser.parse_args()
    end_tidily()
    rows = 1000 if given.quick else given.rows
    if rows < 10:
        parser.error("--rows: give 10 or more")
    kinds = list(KINDS) if given.store == "both" else [given.store]
    print(machine())
    missed = [
        one
        for kind in kinds
        for one in of_kind(KINDS[kind], rows, record=given.record, postgres=given.postgres)
    ]
    return int(bool(missed) and given.check)


if __name__ == "__main__":
    sys.exit(main())
