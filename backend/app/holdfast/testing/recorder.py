"""A recorder of events."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

from holdfast.infrastructure.resilience.events import Event, Subscription, subscribe

_E = TypeVar("_E", bound=Event)


class EventRecorder:
    """Remember every event that is published while its `with` block runs; thread-safe."""

    def __init__(self, *, names: frozenset[str] | None = None) -> None:
        self._names = names
        self._events: list[Event] = []
        self._subscriptions: list[Subscription] = []

    @property
    def events(self) -> tuple[Event, ...]:
        """Every event so far, in order."""
        return tuple(self._events)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The class names of the events, in order."""
        return tuple(type(event).__name__ for event in self.events)

    def of(self, kind: type[_E]) -> tuple[_E, ...]:
        """Return the events of one kind, in order."""
        return tuple(event for event in self.events if isinstance(event, kind))

    def clear(self) -> None:
        """Forget what was recorded."""
        self._events.clear()

    def __enter__(self) -> EventRecorder:
        self._subscriptions.append(subscribe(self._events.append, names=self._names))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._subscriptions.pop().close()
