"""The table as text, Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.rows import Effort, Row, Section

PEERS = (
    "tenacity",
    "stamina",
    "backoff",
    "pybreaker",
    "circuitbreaker",
    "aiobreaker",
    "hyx",
    "purgatory",
    "redress",
    "aiolimiter",
    "limits",
    "pyrate-limiter",
)
_HEADS = ("", "", "fetch()", "±", "f(1)", "ns/call", "target", "")


def text(sections: Sequence[Section], rows: Sequence[Row], effort: Effort) -> str:
    """Return the table as plain text of less than 100 columns."""
    lines = [_facts(effort)]
    for section in sections:
        mine = [row for row in rows if row.section == section.name]
        if mine:
            lines += ["", section.title, *(_line(cells) for cells in [_heads(mine), *map(_cells, mine)])]
    return "\n".join([*lines, "", *_verdict(rows)])


def markdown(sections: Sequence[Section], rows: Sequence[Row], effort: Effort) -> str:
    """Return the table as Markdown, one table a section."""
    lines = [_facts(effort)]
    for section in sections:
        mine = [row for row in rows if row.section == section.name]
        if mine:
            body = [_heads(mine), ("---", "---", *["---:"] * 4, "---", "---"), *map(_cells, mine)]
            used = [at for at in range(len(_HEADS)) if any(_cells(row)[at] for row in mine)]
            lines += ["", f"### {section.title}", ""]
            lines += [f"| {' | '.join(cells[at] for at in used)} |" for cells in body]
    return "\n".join([*lines, "", *(f"- {line}" for line in _verdict(rows))])


def as_json(rows: Sequence[Row], effort: Effort) -> str:
    """Return all figures, and where they were measured, as JSON."""
    facts = {**_machine(), "effort": asdict(effort)}
    return json.dumps({**facts, "rows": [_as_dict(row) for row in rows]}, indent=2, ensure_ascii=False) + "\n"


def _as_dict(row: Row) -> dict[str, Any]:
    return {**asdict(row), "missed": row.missed}


def _machine() -> dict[str, Any]:
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "versions": {name: _version(name) for name in ("holdfast", *PEERS)},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _facts(effort: Effort) -> str:
    facts = _machine()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    where = f"{facts['python']}, {facts['system']}, {facts['cpus']} CPUs{load}"
    return f"holdfast {facts['versions']['holdfast'] or '(not installed)'} on {where}; {effort.rounds} rounds"


def _heads(rows: Sequence[Row]) -> tuple[str, ...]:
    spread = any(row.spread is not None for row in rows)
    aimed = any(row.target is not None for row in rows)
    timed = any(row.ns is not None for row in rows)
    unit = rows[0].unit if rows[0].unit != "×" else _HEADS[2]
    plain = any(row.plain is not None for row in rows)
    return ("", "", unit, _HEADS[3] * spread, _HEADS[4] * plain, _HEADS[5] * timed, _HEADS[6] * aimed, "")


def _cells(row: Row) -> tuple[str, ...]:
    value = "–" if row.value is None else _figure(row.value, row.unit)
    spread = "" if row.spread is None else _figure(row.spread, row.unit)
    plain = "" if row.plain is None else _figure(row.plain, row.unit) + _above(row)
    ns = "" if row.ns is None else f"{row.ns:.0f}"
    target = "" if row.target is None else str(row.target)
    verdict = "" if row.target is None else "MISSED" if row.missed else "met"
    return (
        row.library,
        row.what,
        value,
        spread,
        plain,
        ns,
        target,
        " ".join(filter(None, (verdict, row.note))),
    )


def _above(row: Row) -> str:
    """Mark a ratio for `f(1)` that would miss the target set for the headline."""
    return "*" if row.target is not None and not row.target.met(row.plain) else ""


def _figure(value: float, unit: str) -> str:
    if unit in {"×", "µs", "ms"}:
        return f"{value:.2f}" if value < 100 else f"{value:.0f}"
    return f"{value:.1f}" if unit == "%" else f"{value:.0f}"


def _line(cells: Sequence[str]) -> str:
    library, what, value, spread, plain, ns, target, rest = cells
    return f"{library:<24} {what:<33} {value:>6} {spread:>5} {plain:>5} {ns:>7}  {target:<6} {rest}".rstrip()


def _verdict(rows: Sequence[Row]) -> Iterator[str]:
    aimed = [row for row in rows if row.target is not None]
    missed = [row for row in aimed if row.missed]
    if any(_above(row) for row in rows if row.plain is not None):
        yield "* above the target, which is set for fetch()"
    yield f"{len(aimed) - len(missed)} of {len(aimed)} targets met"
    yield from (missed_line(row) for row in missed)


def missed_line(row: Row) -> str:
    """Say which target is missed, and by what."""
    value = "not measured" if row.value is None else f"{_figure(row.value, row.unit)} {row.unit}"
    return f"missed: {row.label}: {value}, target {row.target}{' (' + row.note + ')' if row.note else ''}"
