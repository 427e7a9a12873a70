"""Orders a second of a whole run with a target that does nothing: `python -m benchmarks.runs [--folder] [ORDERS…]`.

Without sizes 100, 1,000 and 10,000 orders. A SQLite file and blobs in memory, or with `--folder` in files, of which
each is synced to the disk. The target stores each result at once; one process hears of them and evaluates, as many as
have come by then together. The graph is layers of 50, each order waits for two of the layer before. The time of a disk
that others use is in the seconds, not in the CPU of an order: what grows faster than the number of orders shows there.
"""

import argparse
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from holdfast.infrastructure.store.blob import BlobStore, FolderBlobStore, MemoryBlobStore
from holdfast.infrastructure.store.sql import open_store
from holdfast.services.jobs.graphs import Runs, Work, first_start

WIDTH = 50
TARGET = 500.0


class Nothing:
    """A target that has done everything at once, and code that is one empty file."""

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs = blobs
        self.news: set[str] = set()

    def dispatch(self, work: Work) -> bool:
        """Store the result."""
        if first_start(self.blobs, work):
            self.blobs.put(work.result, b'{"status": "succeeded"}')
            self.news.add(work.run)
        return True

    def cancel(self, work: Work) -> None:
        """Do nothing: it has ended."""

    def files(self, location: str) -> dict[str, tuple[bytes, int]]:
        """Return one file."""
        return {"run.sh": (b"", 0o755)}


def document(orders: int) -> dict[str, Any]:
    """Return a request for layers of orders."""
    random = Random(1)
    return {
        "user": "bench",
        "label": "mark",
        "repository": "code",
        "orders": [
            {
                "name": f"o{one}",
                "commands": ["true"],
                "timeout": 600,
                "depends_on": [f"o{(one // WIDTH - 1) * WIDTH + random.randrange(WIDTH)}" for _ in range(2)]
                if one >= WIDTH
                else [],
            }
            for one in range(orders)
        ],
    }


def measure(orders: int, *, folder: bool) -> tuple[float, float, float]:
    """Return the seconds that a submission and a run take, and those of CPU that the run takes."""
    with tempfile.TemporaryDirectory() as place, open_store(f"sqlite:///{place}/jobs.db") as store:
        blobs: BlobStore = FolderBlobStore(Path(place) / "blobs") if folder else MemoryBlobStore()
        nothing = Nothing(blobs)
        runs = Runs(store, blobs, {"local": nothing}, code=nothing)
        start = time.perf_counter()
        run = runs.submit(document(orders)).run_id
        submitted, used = time.perf_counter(), time.process_time()
        nothing.news.add(run)
        while nothing.news:
            runs.evaluate(nothing.news.pop())
        end, used = time.perf_counter(), time.process_time() - used
        assert runs.status(run).status == "succeeded"
        return submitted - start, end - submitted, used


def main() -> int:
    """Print the table; return 1 if a thousand orders miss the target."""
    parser = argparse.ArgumentParser(description="Orders a second of a whole run.")
    parser.add_argument("orders", type=int, nargs="*", default=[100, 1000, 10_000])
    parser.add_argument("--folder", action="store_true", help="keep blobs in files")
    options = parser.parse_args()
    missed = False
    print(f"{'orders':>7} {'submitted in s':>15} {'run in s':>9} {'orders/s':>9} {'CPU µs/order':>13}")
    for orders in options.orders:
        submitting, running, used = measure(orders, folder=options.folder)
        missed |= orders == 1000 and not options.folder and orders / running < TARGET
        said = f"{orders:>7} {submitting:>15.2f} {running:>9.2f} {orders / running:>9.0f}"
        print(f"{said} {used / orders * 1e6:>13.0f}")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
