"""Print one table of costs: `python -m benchmarks [--quick] [--only NAME] [--markdown] [--json FILE] [--check]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import calls, imports, line, memory, policies, table, telemetry, threads
from benchmarks.rows import FULL, QUICK, Case, Effort, Row, Section

SECTIONS: list[Section] = [
    *calls.SECTIONS,
    *policies.SECTIONS,
    *telemetry.SECTIONS,
    line.SECTION,
    threads.SECTION,
    memory.SECTION,
    imports.SECTION,
]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return the exit status: 1 if `--check` is given and a target is missed."""
    options = _options(arguments)
    effort = QUICK if options.quick else FULL
    chosen = _choose(options.only or [])
    if not any(chosen.values()):
        print(
            f"nothing is called {' or '.join(options.only)}; sections: {', '.join(_names())}", file=sys.stderr
        )
        return 2
    rows = _in_order(chosen, _measure(chosen, effort))
    show: Callable[..., str] = table.markdown if options.markdown else table.text
    print(show(SECTIONS, rows, effort))
    if options.json is not None:
        options.json.write_text(table.as_json(rows, effort), encoding="utf-8")
    missed = [row for row in rows if row.missed]
    for row in missed if options.check else []:
        print(table.missed_line(row), file=sys.stderr)
    return 1 if missed and options.check else 0


def _names() -> list[str]:
    return [section.name for section in SECTIONS]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="What holdfast costs, beside its peers."
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds: noisy, for development")
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help=f"only a section ({', '.join(_names())}), a library, or rows whose name contains NAME; may be repeated",
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of plain text")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE, too")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 and name the targets that were missed"
    )
    return parser.parse_args(arguments)


def _choose(only: list[str]) -> dict[str, list[Any]]:
    """Return the cases of each section that were asked for: all of them by default."""
    wanted = [name.lower() for name in only]
    return {
        section.name: [case for case in section.cases() if _is_wanted(section, case, wanted)]
        for section in SECTIONS
    }


def _is_wanted(section: Section, case: Case, wanted: list[str]) -> bool:
    """Match a section by its name; what is no section's name matches rows that contain it."""
    name = f"{case.library} {case.what}".lower()
    return not wanted or any(one == section.name if one in _names() else one in name for one in wanted)


def _measure(chosen: dict[str, list[Any]], effort: Effort) -> list[Row]:
    """Measure in two passes: the peers, and what is to be seen beside them, after what they must not disturb."""
    rows = []
    for late in (False, True):
        for section in SECTIONS:
            cases = [case for case in chosen[section.name] if case.is_late is late]
            if cases:
                print(
                    f"{section.name}{', peers' * late}: {len(cases)} to measure", file=sys.stderr, flush=True
                )
                rows += section.measure(cases, effort)
    return rows


def _in_order(chosen: dict[str, list[Any]], rows: list[Row]) -> list[Row]:
    places = [(name, case.library, case.what) for name, cases in chosen.items() for case in cases]
    return sorted(rows, key=lambda row: places.index((row.section, row.library, row.what)))


if __name__ == "__main__":
    sys.exit(main())
