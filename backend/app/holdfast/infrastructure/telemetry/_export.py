"""What a monitor knows as text: JSON, and CSV that a spreadsheet takes for data only."""

from __future__ import annotations

import csv
import json
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# The columns of the CSV, in this order for ever: new ones are added at the end.
COLUMNS = (
    "record",
    "name",
    "kind",
    "at",
    "until",
    "seconds",
    "calls",
    "successes",
    "failures",
    "rejections",
    "cancelled",
    "retries",
    "success_rate",
    "failure_rate",
    "rejection_rate",
    "retry_rate",
    "calls_per_second",
    "p50",
    "p95",
    "p99",
    "state",
    "level",
    "threshold",
    "severity",
    "measured",
    "limit",
    "message",
    "degraded",
    "degraded_rate",
)
# What a spreadsheet may take for the beginning of a formula, as OWASP lists it, full-width forms included.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001


def as_json(facts: Mapping[str, Any]) -> str:
    """Return facts as JSON without infinities."""
    return json.dumps(facts, allow_nan=False, ensure_ascii=True)


def as_csv(facts: Mapping[str, Any]) -> str:
    """Return facts as CSV (RFC 4180): a header, then one row for each record; what does not apply is empty."""
    out = StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in _rows(facts):
        writer.writerow([_cell(row.get(column)) for column in COLUMNS])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # UTF-8, which the text will be written in, has no lone surrogates.
    said = value.encode("utf-8", "replace").decode()
    return f"'{said}" if said.startswith(_FORMULA) else said


def _rows(facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for usage in facts["operations"]:
        yield {**usage, "record": "operation", "name": usage["operation"], "retries": _sum(usage["retries"])}
    for name, points in facts["trends"].items():
        yield from ({**point, "record": "trend", "name": name} for point in points)
    for name, states in facts["states"].items():
        yield from ({"record": "state", "name": name, "at": at, "state": state} for at, state in states)
    for level in facts["levels"]:
        where = {"record": "level", "name": level["name"], "kind": level["kind"]}
        yield from ({**where, "at": at, "level": found} for at, found in level["points"])
    for alert in facts["alerts"]:
        yield {**alert, "record": "alert", "name": alert["subject"], "at": alert["since"]}


def _sum(retries: Mapping[str, int]) -> int:
    counts: Iterable[int] = retries.values()
    return sum(counts)
