"""How the circuit breakers of a handler are, noted in the history of its jobs for those who watch from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.infrastructure.resilience._compile import stack_of
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.store.state import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.infrastructure.store.state import StateStore
    from holdfast.services.jobs.handlers import Handler

NOTE = "breakers"


def states(handler: Handler) -> dict[str, str]:
    """Return the states of the circuit breakers through which a handler's calls go, by name."""
    parts = [] if handler.policy is None else [handler.policy]
    stack = stack_of(handler.function)
    parts += [] if stack is None else stack.parts
    current = [policy for part in parts for policy in part._current()]
    inner = [policy for part in current for policy in getattr(part, "policies", [part])]
    return {one.name: str(one.state) for one in inner if isinstance(one, CircuitBreaker)}


class Noted:
    """Notes changes of breakers in jobs; that they are closed at first goes without saying."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._last: dict[str, Mapping[str, str]] = {}

    def is_news(self, job: str, now: Mapping[str, str]) -> bool:
        """Return whether this is to be noted."""
        if job in self._last:
            return self._last[job] != now
        return any(state != "closed" for state in now.values())

    def note(self, job: str, now: Mapping[str, str]) -> None:
        """Note how breakers are; if the store refuses, the job is gone, and nobody watches it."""
        self._last[job] = now
        try:
            self._store.note(job, NOTE, {"breakers": dict(now)})
        except StoreError:
            pass


class Told:
    """The states of breakers as workers noted them in a job's history."""

    def __init__(self, store: StateStore, job: str) -> None:
        self._store = store
        self._job = job
        self._seen = 0
        self._states: dict[str, str] = {}

    def states(self) -> dict[str, str]:
        """Read what is new and return the last states."""
        while page := self._store.events(self._job, after=self._seen, kinds=["note"]):
            for event in page:
                if event.state == NOTE:
                    self._states = dict(event.data["breakers"])
            self._seen = page[-1].seq
        return self._states
