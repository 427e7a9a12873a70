"""A worker's books: what it has claimed, what it announced, whom it leaves alone and until when."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from holdfast.infrastructure.store.state import Refusal, StepRef

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from holdfast.infrastructure.store.state import StepRecord
    from holdfast.services.jobs._outcomes import Spec


class Books:
    """What a worker holds and knows. While the store's thread has it, others may only pause handlers.

    `ready`: claimed, not announced; `held`: jobs that may not begin more before a time of the loop, `busy` those of
    them that wait for calls to end, their own or their tenant's; `paused`: the same of handlers, whose steps are handed
    back; `skipped`: the same of jobs that nobody here can do.
    """

    def __init__(self) -> None:
        self.ready: dict[StepRef, StepRecord] = {}
        self.returning: list[StepRef] = []
        self.held: dict[str, float] = {}
        self.busy: set[str] = set()
        self.paused: dict[str, float] = {}
        self.skipped: dict[str, float] = {}
        self.specs: dict[str, Spec] = {}

    def take(self, steps: Iterable[StepRecord]) -> None:
        """Note claimed steps; of a handler that is paused, or a job without one, they go back."""
        for step in steps:
            ref = StepRef(job=step.job, position=step.position, fence=step.fence)
            spec = self.specs.get(step.job)
            if spec is None or spec.new.handler in self.paused:
                self.returning.append(ref)
            else:
                self.ready[ref] = step

    def choose(self, free: int) -> list[StepRef]:
        """Return what to begin next, `free` at most."""
        if not self.held:
            return [ref for ref, _ in zip(self.ready, range(free), strict=False)]
        chosen = (ref for ref in self.ready if ref.job not in self.held)
        return [ref for ref, _ in zip(chosen, range(free), strict=False)]

    def waiting(self) -> int:
        """Count the claimed steps that may begin as soon as a lane is free."""
        if not self.held:
            return len(self.ready)
        return sum(ref.job not in self.held for ref in self.ready)

    def refuse(self, refused: Mapping[StepRef, Refusal], busy_until: float, rate_until: float) -> None:
        """Note what the store did not let begin."""
        for ref, why in refused.items():
            if why is Refusal.BUSY:
                self.held[ref.job] = busy_until
                self.busy.add(ref.job)
            elif why is Refusal.RATE:
                self.held[ref.job] = rate_until
            else:
                self.ready.pop(ref, None)

    def ended(self, jobs: Iterable[str]) -> None:
        """Note that calls of these jobs have ended: there may be room now, for others too."""
        for job in self.busy.union(jobs):
            self.held.pop(job, None)
        self.busy.clear()

    def pause(self, handler: str, until: float) -> None:
        """Leave the jobs of a handler alone for a while; what is claimed of them is sorted out."""
        self.paused[handler] = max(until, self.paused.get(handler, 0.0))

    def sort_out(self, *, everything: bool) -> None:
        """Hand back what is claimed: all of it, or what belongs to a paused handler."""
        if not (self.ready and (everything or self.paused)):
            return
        paused = {job for job, spec in self.specs.items() if spec.new.handler in self.paused}
        back = [ref for ref in self.ready if everything or ref.job in paused]
        for ref in back:
            del self.ready[ref]
        self.returning += back

    def to_skip(self) -> set[str]:
        """Return the jobs that are not to be claimed now; of those that are held there is enough here."""
        if not (self.skipped or self.paused or self.held):
            return set()
        paused = {job for job, spec in self.specs.items() if spec.new.handler in self.paused}
        return paused | self.skipped.keys() | self.held.keys()

    def expire(self, now: float) -> None:
        """Forget what has passed."""
        for times in (self.held, self.paused, self.skipped):
            for name in [name for name, until in times.items() if until <= now]:
                del times[name]

    def next_time(self) -> float:
        """Return when the next of these waits ends, on the loop's time."""
        times = (*self.held.values(), *self.paused.values(), *self.skipped.values())
        return min(times, default=inf)
