"""What a worker prints about the jobs that it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.cli import _jobs_show, _show

if TYPE_CHECKING:
    from holdfast.services.jobs.notify import Ended


class Telling:
    """Prints a line for each job that has ended."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def say(self, facts: object, text: str) -> None:
        """Print a line."""
        if self._as_json:
            _jobs_show.as_line(facts)
        else:
            _show.line(text)

    def notify(self, ended: Ended) -> None:
        """Print how a job has ended."""
        job = ended.job
        said = f"{job.id} {job.new.name}: {job.state}: {_jobs_show.counted(job.counts)}"
        self.say({"job": _jobs_show.job_facts(job)}, said)


# Worker processes import them by name.
TEXT = Telling(as_json=False)
JSON = Telling(as_json=True)
