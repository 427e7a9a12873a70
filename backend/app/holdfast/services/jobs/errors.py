"""What jobs refuse, beside the errors of their store."""

from __future__ import annotations

from holdfast.infrastructure.resilience.errors import HoldfastError


class JobsError(HoldfastError):
    """Something that was asked of jobs cannot be done; nothing has changed."""


class HandlerNotFoundError(JobsError, LookupError):
    """No handler of this name is known, or it cannot be imported: what is wrong, and the remedy."""

    def __init__(self, reference: str, problem: str, remedy: str) -> None:
        super().__init__(reference, problem, remedy)

    @property
    def reference(self) -> str:
        """The handler that was looked for."""
        return str(self.args[0])

    def __str__(self) -> str:
        """Say what was looked for, what is wrong and what to do."""
        return "handler {!r} {}; {}".format(*self.args)


class ModeLockedError(JobsError):
    """The mode of a session cannot change while jobs of it run."""

    def __init__(self, mode: str, running: int) -> None:
        super().__init__(mode, running)

    @property
    def running(self) -> int:
        """How many jobs run."""
        return int(self.args[1])

    def __str__(self) -> str:
        """Say what the mode is, and what to wait for."""
        mode, running = self.args
        return f"the mode stays {mode!r} while {running} job(s) of this session run; change it when they have ended"


class NotApprovedError(JobsError):
    """A job waits for its preview or approval: it cannot run yet."""

    def __init__(self, job: str, state: str) -> None:
        super().__init__(job, state)

    @property
    def job(self) -> str:
        """The job."""
        return str(self.args[0])

    def __str__(self) -> str:
        """Say what is missing."""
        job, state = self.args
        remedy = "approve its digest" if state == "previewed" else "preview it, then approve the digest"
        return f"job {job!r} is {state} and was not approved; {remedy}"


class NotEndedError(JobsError):
    """A job has not ended, so it cannot be done again, archived or deleted."""

    def __init__(self, job: str, state: str) -> None:
        super().__init__(job, state)

    @property
    def job(self) -> str:
        """The job."""
        return str(self.args[0])

    def __str__(self) -> str:
        """Say what it is, and what to do."""
        return "job {!r} is {}: wait until it has ended, or cancel it first".format(*self.args)


class NotConfirmedError(JobsError):
    """Doing a job again may repeat calls; say how many to confirm: `restart(job, confirm=repeats)`."""

    def __init__(self, job: str, repeats: int) -> None:
        super().__init__(job, repeats)

    @property
    def job(self) -> str:
        """The job."""
        return str(self.args[0])

    @property
    def repeats(self) -> int:
        """How many calls were made, or may have been, and would be made again under new idempotency keys."""
        return int(self.args[1])

    def __str__(self) -> str:
        """Say what may be repeated, and how to confirm."""
        return (
            f"restarting job {self.job!r} makes {self.repeats} call(s) again that were made, or may have been, under"
            f" new idempotency keys; confirm with restart({self.job!r}, confirm={self.repeats}), or resume what is left"
        )
