"""Callers who race for one store: processes, or threads where it lives in this one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import holdfast
from backend.tests.integration._moto import ACCOUNT
from backend.tests.integration.jobs._races import TASKS
from holdfast.infrastructure.store.state import StateStore

RACERS = 4
Race = Callable[..., list[Any]]


class Racers:
    """Processes that outlive a race: starting one takes longer than a race does."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []

    def race(self, url: str, task: str, facts: tuple[Any, ...], racers: int) -> list[Any]:
        """Let so many do the same at once; return their results."""
        while len(self._processes) < racers:
            self._processes.append(started())
        chosen = self._processes[:racers]
        for me, process in enumerate(chosen):
            tell(process, json.dumps([url, task, me, facts]))
        assert [hear(process) for process in chosen] == ["ready"] * racers
        for process in chosen:
            tell(process, "go")
        return [json.loads(hear(process)) for process in chosen]

    def end(self) -> None:
        """End them all."""
        for process in self._processes:
            process.kill()
            process.communicate()


def started() -> subprocess.Popen[str]:
    """Start a process that waits to be told."""
    root = Path(__file__).parents[4]
    roots = [str(Path(holdfast.__file__).parents[1]), str(root)]
    path = os.pathsep.join([*roots, os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "backend.tests.integration.jobs._racer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        # It may be started before AWS is imitated, and race there later.
        env={**os.environ, **ACCOUNT, "PYTHONPATH": path},
    )


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the process has ended"
    return line.strip()


def race_threads(store: StateStore, task: str, facts: tuple[Any, ...], racers: int) -> list[Any]:
    """Let so many threads do the same at once to one store; return their results."""
    barrier = Barrier(racers)

    def run(me: int) -> Any:
        barrier.wait(10)
        return TASKS[task](store, me, *facts)

    with ThreadPoolExecutor(racers) as pool:
        return list(pool.map(run, range(racers)))
