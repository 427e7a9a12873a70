"""A recorder of events."""

from types import TracebackType
from typing import TypeVar

from holdfast.infrastructure.resilience.events import Event

_E = TypeVar("_E", bound=Event)

class EventRecorder:
    """Remember every event that is published while its `with` block runs; thread-safe."""

    def __init__(self, *, names: frozenset[str] | None = None) -> None: ...
    @property
    def events(self) -> tuple[Event, ...]:
        """Every event so far, in order."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The class names of the events, in order."""

    def of(self, kind: type[_E]) -> tuple[_E, ...]:
        """Return the events of one kind, in order."""

    def clear(self) -> None:
        """Forget what was recorded."""

    def __enter__(self) -> EventRecorder: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
