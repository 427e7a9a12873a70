"""What the programs of `jobs_peers` share: each is started as `PROGRAM ACTION SETTINGS`, and speaks JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a program is told: `url` of its database, `rows`, `lanes`, and what its product needs besides."""

    url: str
    rows: int
    lanes: int
    options: dict[str, Any]


def tell(**values: Any) -> None:
    """Tell the one who measures."""
    # The real one: Celery's worker takes `sys.stdout` for its log.
    print(json.dumps(values), file=sys.__stdout__, flush=True)


def begin() -> None:
    """Say that the work begins now: everything is imported and connected."""
    tell(began=time.time())


def wait() -> None:
    """Wait until the one who measures has seen the end."""
    sys.stdin.readline()


def timed(submit: Callable[[], object]) -> None:
    """Submit the rows, and tell how long that took."""
    start = time.perf_counter()
    submit()
    tell(seconds=time.perf_counter() - start)


def told() -> Told:
    """Return what this program was told."""
    return Told(**json.loads(sys.argv[2]))


def run(**actions: Callable[[Told], object]) -> None:
    """Do what this program was started for; without an action, nothing: then all it needs can be imported."""
    if sys.argv[1:]:
        actions[sys.argv[1]](told())
