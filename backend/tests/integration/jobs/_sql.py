"""What the tests of SQL stores have in common: jobs to submit, programs that are killed, and a relay that cuts."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import holdfast
from backend.tests.integration.jobs._ledger import made, outcome, ref, worker
from holdfast.infrastructure.store.state import NewJob, NewStep, StateStore, StepRef

# More than go into a store without a temporary table.
MANY = 1200

_SCRIPT = """
import sys
from backend.tests.integration.jobs._sql import many, ship, submitted
from holdfast.infrastructure.store.sql import open_store
store = open_store(sys.argv[1])
{body}
"""


def many(count: int = MANY) -> Iterator[NewStep]:
    """Yield steps."""
    return (NewStep(key=f"s{number}", payload=b"1", line=number + 1) for number in range(count))


def submitted(
    store: StateStore, steps: int | Iterable[str | NewStep] = 3, job: str = "job", **settings: object
) -> None:
    """Store a job."""
    store.create_job(NewJob(id=job, handler="ship", **settings), made(steps))  # type: ignore[arg-type]


def claimed(store: StateStore, limit: int = 100, name: str = "w1") -> list[StepRef]:
    """Claim steps for a worker with an hour's lease."""
    store.register(worker(name), 3600.0)
    return [ref(record) for record in store.claim(name, limit)]


def ship(store: StateStore, name: str = "w1") -> list[StepRef]:
    """Claim what there is, and make every call."""
    refs = claimed(store, name=name)
    store.advance(name, (), refs)
    store.advance(name, [outcome(one, result=b"1") for one in refs])
    return refs


def run(url: str, body: str, *, kill_at: str = "", library: Path | None = None) -> int:
    """Run statements in a process of its own, with `store` open at `url`; return how it ended."""
    return started(url, body, kill_at=kill_at, library=library).wait()


def started(
    url: str, body: str, *, kill_at: str = "", library: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that opens a store and runs statements; with `library`, by that copy of holdfast."""
    root = Path(__file__).parents[4]
    roots = [str(library or Path(holdfast.__file__).parents[1]), str(root)]
    more = {"PYTHONPATH": os.pathsep.join(roots), "HOLDFAST_KILL_AT": kill_at}
    return subprocess.Popen(
        [sys.executable, "-c", _SCRIPT.format(body=body), url],
        cwd=root,
        env={**environment(measured=library is None), **more},
    )


def environment(*, measured: bool) -> dict[str, str]:
    """Return the environment; a copy of the library, which is gone afterwards, is of no interest to coverage."""
    return {name: value for name, value in os.environ.items() if measured or not name.startswith("COVERAGE_")}


KILLED = -signal.SIGKILL
