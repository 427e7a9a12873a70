"""A program that runs a job and may be killed at it, and the outside service that counts its calls: a file.

`python -m … URL run JOB [record]`, `URL work`, `URL stuck` or `URL spread`; OUTSIDE names the file, PACE the seconds of
a call.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import holdfast
from holdfast.services.jobs import Call, Done, NotDone, Worker, WorkerProcesses, handler, open_jobs

ROOT = Path(__file__).parents[4]


def called(key: str) -> str:
    """Be called: note the idempotency key so that no crash of a caller undoes it."""
    with Path(os.environ["OUTSIDE"]).open("a", encoding="utf-8") as file:
        file.write(f"{key}\n")
        file.flush()
        os.fsync(file.fileno())
    return key


def calls(path: Path) -> Counter[str]:
    """Return how often each key was called."""
    return Counter(path.read_text(encoding="utf-8").split() if path.exists() else ())


def look_up(key: str) -> Done | NotDone:
    """Tell whether a key was called."""
    return Done(key) if calls(Path(os.environ["OUTSIDE"]))[key] else NotDone()


def pace() -> float:
    """Note that a call has begun; return how long it takes."""
    Path(os.environ["OUTSIDE"]).with_suffix(".begun").touch()
    return float(os.environ.get("PACE", "0"))


def has_begun(path: Path) -> bool:
    """Return whether a call has begun: what was announced just now may still be handed back."""
    return path.with_suffix(".begun").exists()


@handler("unsure")
def unsure(row: Any, call: Call) -> str:
    """Call; nobody can tell afterwards."""
    time.sleep(pace())
    return called(call.idempotency_key)


@handler("asked", reconcile=look_up)
def asked(row: Any, call: Call) -> str:
    """Call; the service can be asked afterwards."""
    time.sleep(pace())
    return called(call.idempotency_key)


@handler("again", idempotent=True)
async def again(row: Any, call: Call) -> str:
    """Call; a second call under the same key does no harm."""
    await asyncio.sleep(pace())
    return called(call.idempotency_key)


@handler("hangs")
def hangs(row: Any, call: Call) -> None:
    """Call, and never return."""
    called(call.idempotency_key)
    threading.Event().wait()


@handler("deaf")
async def deaf(row: Any, call: Call) -> None:
    """Call, and never return, whoever cancels it."""
    called(call.idempotency_key)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


HANDLERS = {one.name: one for one in (unsure, asked, again, hangs, deaf)}


def started(url: str, outside: Path, *words: str, **environ: str) -> "subprocess.Popen[bytes]":
    """Start the program."""
    roots = [str(Path(holdfast.__file__).parents[1]), str(ROOT)]
    settings = {"OUTSIDE": str(outside), "PYTHONPATH": os.pathsep.join(roots), **environ}
    return subprocess.Popen(
        [sys.executable, "-m", "backend.tests.integration.jobs._outside", url, *words],
        cwd=ROOT,
        env={**os.environ, **settings},
    )


def ended(program: "subprocess.Popen[bytes]") -> int:
    """Wait for a program's end; return its exit status."""
    return program.wait(timeout=30)


def until(true: Any, patience: float = 20.0) -> float:
    """Wait until something is true; return the seconds that it took."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < patience, "it never came true"
        time.sleep(0.01)
    return time.monotonic() - begun


KILLED = -signal.SIGKILL
ROWS = 6


def main(url: str, what: str, *words: str) -> None:
    """Run one job, or whatever there is."""
    with open_jobs(url, HANDLERS.values()) as jobs:
        if what == "run":
            jobs.run(words[0], concurrency=1, record=words[1] if words[1:] else "each")  # type: ignore[arg-type]
        elif what == "stuck":
            worker = Worker(jobs.store, jobs.handlers, drain=0.1, grace=0.2, poll=0.1)
            worker.run()
            said = " ".join(sorted(call.key for call in worker.abandoned))
            Path(os.environ["OUTSIDE"]).with_suffix(".abandoned").write_text(said, encoding="utf-8")
        elif what == "spread":
            WorkerProcesses(url, [asked.reference], processes=2, poll=0.1).run()
        else:
            lease = float(os.environ.get("LEASE", "15"))
            Worker(jobs.store, jobs.handlers, concurrency=1, lease=lease, poll=0.1).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
