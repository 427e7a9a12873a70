"""Who is told when a job or a batch has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from holdfast.infrastructure.store.state import JobState

if TYPE_CHECKING:
    from holdfast.infrastructure.store.state import BatchRecord, JobRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What has ended: a job, and its batch if it was the last one of it."""

    job: JobRecord
    batch: BatchRecord | None = None


class Notifier(Protocol):
    """Whoever is told; it is called in a thread, and if it raises, that is logged and changes nothing."""

    def notify(self, ended: Ended) -> None:
        """Hear that a job has ended."""
        ...


class LogNotifier:
    """Write a line to the logger `holdfast.jobs`: info for what succeeded, a warning for all else."""

    def notify(self, ended: Ended) -> None:
        """Write the line."""
        import logging

        job, counts = ended.job, ended.job.counts
        level = logging.INFO if job.state is JobState.SUCCEEDED else logging.WARNING
        logging.getLogger("holdfast.jobs").log(
            level,
            "job %s %s: %d of %d succeeded, %d failed%s",
            job.id,
            job.state,
            counts.succeeded,
            counts.total,
            counts.failed + counts.timed_out,
            f"; batch {ended.batch.id} {ended.batch.state}" if ended.batch else "",
        )
