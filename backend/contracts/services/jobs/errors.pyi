"""What jobs refuse, beside the errors of their store."""

from holdfast.infrastructure.resilience.errors import HoldfastError

class JobsError(HoldfastError):
    """Something that was asked of jobs cannot be done; nothing has changed."""

class HandlerNotFoundError(JobsError, LookupError):
    """No handler of this name is known, or it cannot be imported: what is wrong, and the remedy."""

    def __init__(self, reference: str, problem: str, remedy: str) -> None: ...
    @property
    def reference(self) -> str:
        """The handler that was looked for."""

class ModeLockedError(JobsError):
    """The mode of a session cannot change while jobs of it run."""

    def __init__(self, mode: str, running: int) -> None: ...
    @property
    def running(self) -> int:
        """How many jobs run."""

class NotApprovedError(JobsError):
    """A job waits for its preview or approval: it cannot run yet."""

    def __init__(self, job: str, state: str) -> None: ...
    @property
    def job(self) -> str:
        """The job."""

class NotEndedError(JobsError):
    """A job has not ended, so it cannot be done again, archived or deleted."""

    def __init__(self, job: str, state: str) -> None: ...
    @property
    def job(self) -> str:
        """The job."""

class NotConfirmedError(JobsError):
    """Doing a job again may repeat calls; say how many to confirm: `restart(job, confirm=repeats)`."""

    def __init__(self, job: str, repeats: int) -> None: ...
    @property
    def job(self) -> str:
        """The job."""
    @property
    def repeats(self) -> int:
        """How many calls were made, or may have been, and would be made again under new idempotency keys."""
