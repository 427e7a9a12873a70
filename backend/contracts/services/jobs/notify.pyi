"""Who is told when a job or a batch has ended."""

from dataclasses import dataclass
from typing import Protocol

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

class LogNotifier:
    """Write a line to the logger `holdfast.jobs`: info for what succeeded, a warning for all else."""

    def notify(self, ended: Ended) -> None:
        """Write the line."""
