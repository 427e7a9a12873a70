"""What the commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Columns where nobody looks: what reads a file or a pipe wants one line for one thing.
_WIDE = 1000
_STYLES = {
    "closed": "green",
    "open": "bold red",
    "half-open": "yellow",
    "isolated": "bold magenta",
    "disabled": "dim",
    "shadow": "cyan",
    "ok": "green",
    "degraded": "bold red",
    "critical": "bold red",
    "warning": "yellow",
}


def console() -> Console:
    """Return the console of this moment: standard output may have been exchanged."""
    width = None if sys.stdout.isatty() else _WIDE
    return Console(file=sys.stdout, highlight=False, soft_wrap=True, width=width)


def as_json(facts: object) -> None:
    """Print facts as JSON."""
    print(json.dumps(facts, indent=2, sort_keys=True, default=str))


def line(text: str) -> None:
    """Print a line as it is: brackets in it are no markup."""
    console().print(Text(text))


def rows(title: str, columns: Sequence[str], values: Iterable[Sequence[object]]) -> None:
    """Print a table; numbers stand on the right."""
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    lines = [[cell(value) for value in row] for row in values]
    for at, column in enumerate(columns):
        numeric = bool(lines) and all(_is_number(row[at].plain) for row in lines)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in lines:
        table.add_row(*row)
    console().print(table)


def facts(title: str, values: Mapping[str, Any]) -> None:
    """Print names and values in two columns."""
    rows(title, ("", ""), [(name, value) for name, value in values.items()])


def cell(value: object) -> Text:
    """Return a value as people read it."""
    if value is None:
        return Text("–", style="dim")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, float):
        return Text(f"{value:.4g}")
    if isinstance(value, dict):
        named = cast("dict[object, object]", value)
        return Text(", ".join(f"{key}: {cell(one).plain}" for key, one in named.items()) or "–")
    if isinstance(value, (list, tuple)):
        each = cast("Sequence[object]", value)
        return Text(", ".join(cell(one).plain for one in each) or "–")
    return Text(str(value), style=_STYLES.get(str(value), ""))


def percent(share: float | None) -> str | None:
    """Return a share from 0 to 1 as a percentage."""
    return None if share is None else f"{100 * share:.1f} %"


def milliseconds(seconds: float | None) -> str | None:
    """Return seconds as milliseconds."""
    return None if seconds is None else f"{1000 * seconds:.1f} ms"


def _is_number(text: str) -> bool:
    return text == "–" or text.replace(".", "", 1).replace("%", "").replace("ms", "").strip().isdigit()
