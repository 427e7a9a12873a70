"""Jobs as files: results to be read elsewhere, and the archive of what has ended."""

from __future__ import annotations

import csv
import json
import os
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.services.jobs._again import pages
from holdfast.services.jobs.progress import Result

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from os import PathLike

    from holdfast.infrastructure.store.state import JobRecord, StateStore

_COLUMNS = ("key", "line", "state", "result", "error", "attempts")
_PAGE = 1000


def export(store: StateStore, job: str, to: str | PathLike[str]) -> int:
    """Write every step to a .jsonl or .csv file, whole or not at all; return how many."""
    path = Path(to)
    faults = Faults("export")
    known = path.suffix in {".jsonl", ".csv"}
    faults.check(known, "to", str(path), "is of no known kind", "name a .jsonl or .csv file")
    faults.finish()
    rows = (_row(Result.of(step)) for step in pages(store, job))
    with _replacing(path) as file:
        return _as_csv(file, rows) if path.suffix == ".csv" else _as_lines(file, rows)


def _row(result: Result) -> dict[str, Any]:
    return {name: getattr(result, name) for name in _COLUMNS}


def _as_lines(file: TextIO, rows: Iterator[dict[str, Any]]) -> int:
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007  # it is returned
        file.write(_json(row) + "\n")
    return count


def _as_csv(file: TextIO, rows: Iterator[dict[str, Any]]) -> int:
    writer: csv.DictWriter[str] = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007  # it is returned
        result = row["result"]
        shown = "" if result is None else result if isinstance(result, str) else _json(result)
        writer.writerow({**row, "result": shown})
    return count


def archive(store: StateStore, job: JobRecord, folder: Path) -> None:
    """Write all that is known of a job to `<id>.jsonl`, one record a line, each with its kind; then delete it."""
    folder.mkdir(parents=True, exist_ok=True)
    with _replacing(folder / f"{job.id}.jsonl") as file:
        file.write(_json({"kind": "job", **asdict(job)}) + "\n")
        for step in pages(store, job.id):
            stored = {name: _raw(getattr(step, name)) for name in ("payload", "result")}
            file.write(_json({"kind": "step", **asdict(step), **stored}) + "\n")
        after = 0
        while page := store.events(job.id, after=after, limit=_PAGE):
            file.writelines(_json({"kind": "event", "event": asdict(event)}) + "\n" for event in page)
            after = page[-1].seq
    store.delete_job(job.id)


def _raw(stored: bytes | None) -> Any:
    """Return stored JSON as it stands, signs of its types and all."""
    return None if stored is None else json.loads(stored)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


@contextmanager
def _replacing(path: Path) -> Generator[TextIO]:
    """Give a file that takes the place of `path` when all is written and on the disk."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
