"""Where the objects of a run lie."""

from __future__ import annotations

import re

_RESULT = re.compile(r"tmp/callbacks/runs/([A-Za-z0-9_-]{1,64})/([0-9]{4,9})/result[.]json")


def result(run: str, number: int) -> str:
    """Return the key of an order's result; number 0 is the trigger of the run."""
    return f"tmp/callbacks/runs/{run}/{number:04}/result.json"


def read_result(key: str) -> tuple[str, int] | None:
    """Return run and number of a result's key, None if it is none."""
    found = _RESULT.fullmatch(key)
    return (found[1], int(found[2])) if found else None


def archive(run: str, digest: str, number: int) -> str:
    """Return the key of what an order executes: a request that was refused later lies apart."""
    return f"runs/{run}/{digest[:16]}/{number:04}/exec.zip"


def started(run: str, number: int) -> str:
    """Return the key that the first start of an order takes."""
    return f"runs/{run}/{number:04}/started"


def log(run: str, number: int) -> str:
    """Return the key of an order's output."""
    return f"runs/{run}/{number:04}/output.log"


def done(run: str) -> str:
    """Return the key of a run's summary."""
    return f"{run}/done"
