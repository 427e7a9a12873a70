"""The processes of `jobs_million`: `submit` or `execute`, and what they were told as JSON; they tell as much."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from benchmarks._jobs import peak
from holdfast.services.jobs import CsvSource, Jobs, handler, open_jobs

PARTS = 10


class _Marks:
    """When each tenth of the rows was done: on the clock, and in seconds of this process's processor time."""

    def __init__(self, rows: int) -> None:
        self._step = max(rows // PARTS, 1)
        self._done = 0
        self.times = [self._now()]

    def count(self) -> None:
        """Count a row."""
        self._done += 1
        if self._done % self._step == 0:
            self.times.append(self._now())

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def costs(self) -> list[tuple[float, float]]:
        """Return what a row of each tenth took, in seconds."""
        pairs = zip(self.times, self.times[1:], strict=False)
        return [((two[0] - one[0]) / self._step, (two[1] - one[1]) / self._step) for one, two in pairs]


marks = _Marks(1)


@handler("counted")
async def counted(row: dict[str, Any]) -> None:
    """Do nothing but count."""
    marks.count()


def submit(jobs: Jobs, told: dict[str, Any]) -> dict[str, Any]:
    """Submit the file."""
    start = time.perf_counter()
    job = jobs.submit(CsvSource(told["path"], key="order"), counted, mode="auto")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rows": job.counts.total}


def execute(jobs: Jobs, told: dict[str, Any]) -> dict[str, Any]:
    """Do all of it."""
    global marks  # noqa: PLW0603  # the handler is a function of the module
    (job,) = jobs.find()
    marks = _Marks(told["rows"])
    start, busy = marks.times[0]
    done = jobs.run(job, record=told["record"], signals=False)
    seconds, processor = time.perf_counter() - start, time.process_time() - busy
    return {
        "seconds": seconds,
        "processor": processor,
        "rows": done.counts.succeeded,
        "costs": marks.costs(),
    }


def main() -> None:
    """Do one of the two."""
    told = json.loads(sys.argv[2])
    with open_jobs(told["url"], [counted], tenant=told["tenant"]) as jobs:
        said = {"submit": submit, "execute": execute}[sys.argv[1]](jobs, told)
    print(json.dumps({**said, "peak": peak()}))


if __name__ == "__main__":
    main()
