"""The names under which the orders of runs are held, so that jobs know them from workers."""

from __future__ import annotations

_WORKER = "run/"


def worker_of(run: str) -> str:
    """Return the name under which the orders of a run are held until it is finished."""
    return f"{_WORKER}{run}"


def run_of(worker: str) -> str | None:
    """Return the run of which a worker holds the orders; None if it is another's."""
    return worker.removeprefix(_WORKER) if worker.startswith(_WORKER) else None
