"""The report of the kill matrix: `python -m backend.tests.integration.jobs._kill_report [sqlite] [postgresql] [WORD]`.

It ends with 1 if a row was lost or repeated. WORD: only cases with it in their name.
"""

import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from backend.tests._run import postgres_address
from backend.tests.integration.jobs._homes import Home, PostgresHome, SqliteHome, own_database
from backend.tests.integration.jobs._kill_matrix import CASES, STORES, Case, Nurseries, Scene, Verdict, table
from backend.tests.integration.jobs._kill_outages import takeover
from backend.tests.integration.jobs._kill_service import Labels
from backend.tests.integration.jobs._kill_worker import Nursery
from backend.tests.integration.jobs._next_version import version_that_adds


@contextmanager
def homes(kind: str) -> Generator[str]:
    """Give the URL of the database for stores, if they need one."""
    if kind == "sqlite":
        yield ""
        return
    with own_database(postgres_address()) as url:
        yield url


def play(kind: str, word: str, nurseries: Nurseries, service: Labels) -> list[Verdict]:
    """Play every case on a kind of store."""
    found: list[Verdict] = []
    with homes(kind) as url:
        for case in CASES:
            if kind in case.stores and word in case.name:
                with tempfile.TemporaryDirectory() as folder:
                    home: Home = PostgresHome(url) if url else SqliteHome(Path(folder) / "stores")
                    home.open().close()
                    found.append(Scene(case, home, Path(folder), nurseries, service).play())
                    home.close()
    return found


LEASE = 1.5
TRIES = 5


def takeovers(kind: str, nursery: Nursery, service: Labels) -> str:
    """Return how long the steps of dead workers waited for another: on the same host, and elsewhere."""
    took: dict[str, list[float]] = {"": [], "elsewhere": []}
    nobody = Case(kills=())
    second = Nursery()
    with homes(kind) as url:
        for host, found in took.items():
            for number in range(TRIES):
                with tempfile.TemporaryDirectory() as folder:
                    home: Home = PostgresHome(url) if url else SqliteHome(Path(folder) / "stores")
                    plan = Scene(nobody, home, Path(folder), Nurseries(now=nursery), service).plan
                    dead = {"host": host, "lease": LEASE} if host else {}
                    wait = 0.1 + number / TRIES / 2
                    found.append(takeover(home.open(), nursery, second, plan, wait, **dead))
                    home.close()
    second.close()
    here, there = took.values()
    return (
        f"{kind}: taken over after {min(here):.2f}-{max(here):.2f} s on the same host, "
        f"after {min(there):.2f}-{max(there):.2f} s elsewhere, where the lease is {LEASE:g} s"
    )


def main(*words: str) -> int:
    """Print the table."""
    kinds = [word for word in words if word in STORES] or STORES
    word = next((word for word in words if word not in STORES), "")
    with tempfile.TemporaryDirectory() as folder:
        nursery, later, service = Nursery(), Nursery(version_that_adds(Path(folder))), Labels()
        nurseries = Nurseries(now=nursery, later=later)
        try:
            verdicts = [one for kind in kinds for one in play(kind, word, nurseries, service)]
            times = [takeovers(kind, nursery, service) for kind in kinds]
        finally:
            nursery.close()
            later.close()
            service.close()
    sys.stdout.write("\n".join([table(verdicts), *times, ""]))
    return 1 if any(one.lost or one.repeated for one in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
