"""What a submission is made of where payloads alone do not say enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of a submission: its payload, and where a graph needs it, its key, dependencies and own limits.

    `depends_on` names keys of the same submission; with `must_succeed` false, its failure does not fail the job.
    """

    payload: Any
    key: str | None = None
    line: int = 0
    depends_on: tuple[str, ...] = ()
    must_succeed: bool = True
    timeout: float | None = None
    target: str = ""
