"""Drive a run in a process that is killed at a point: `python -m … URL FOLDER POINT`."""

import os
import signal
import sys
from contextlib import closing
from pathlib import Path

from backend.tests.integration.jobs._homes import blobs_beside, opened
from backend.tests.integration.orchestration._yard import Puppets, Yard, order, request
from holdfast.infrastructure.store.blob import FolderBlobStore
from holdfast.services.jobs.graphs import Work

ORDERS = (order("a"), order("b", "a"))


def die() -> None:
    """End as if the power was cut."""
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly(Puppets):
    """A target at which the process dies, before or after the order has started."""

    after = False

    def dispatch(self, work: Work) -> bool:
        """Start, perhaps, and die."""
        if self.after:
            super().dispatch(work)
        die()
        return True


def main() -> None:
    """Submit and evaluate until the point is reached."""
    url, folder, point = sys.argv[1:]
    with closing(opened(url)) as store:
        blobs = blobs_beside(url) or FolderBlobStore(Path(folder) / "blobs")
        yard = Yard(store, blobs, Path(folder), lease=1.0)
        if point == "submitted":
            yard.ears.stored = lambda key: die()  # type: ignore[method-assign]
        deadly = Deadly(yard.blobs)
        deadly.after = point == "dispatched"
        runs = yard.again(targets={"local": deadly}) if point != "confirmed" else yard.runs
        run = runs.submit(request(*ORDERS, run_id="run-1")).run_id
        runs.evaluate(run)
    die()


if __name__ == "__main__":
    main()
