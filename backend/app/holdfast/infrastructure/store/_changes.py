"""What one transaction changes of a job, gathered into the events that its history gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.infrastructure.store.state import OutboxState, StepState

if TYPE_CHECKING:
    from holdfast.infrastructure.store.state import JobState

_RANK: dict[str, int] = {state: rank for rank, state in enumerate(dict.fromkeys((*StepState, *OutboxState)))}
_KINDS = ("step", "late", "write-back")


class Told(NamedTuple):
    """How a call ended, as an event tells it."""

    attempt: int
    took: float
    error: str


class Change(NamedTuple):
    """An event without its number and time."""

    kind: str
    state: str
    positions: tuple[int, ...]
    data: dict[str, Any]


_Group = tuple[str, StepState | OutboxState, str, str]


class Changes:
    """One event for each kind, new state and actor; positions ascend, and the details are lists beside them.

    A job's start comes first, then its steps in the order of StepState, what came late, notes, and how the job went on.
    """

    __slots__ = ("_after", "_before", "_groups")

    def __init__(self) -> None:
        self._before: list[Change] = []
        self._groups: dict[_Group, list[tuple[int, Told | None]]] = {}
        self._after: list[Change] = []

    def start(self, state: JobState) -> None:
        """The job became `state`, and so its steps may change."""
        self._before.append(Change("job", state, (), {}))

    def step(
        self,
        position: int,
        state: StepState | OutboxState,
        *,
        told: Told | None = None,
        worker: str | None = None,
        by: str | None = None,
        kind: str = "step",
    ) -> None:
        """A step became `state`; `kind` "late": it would have, "write-back": what became of its result."""
        role = "worker" if worker is not None else "by" if by is not None else ""
        group = (kind, state, role, worker or by or "")
        self._groups.setdefault(group, []).append((position, told))

    def note(self, state: str) -> None:
        """Something is worth saying."""
        self._after.append(Change("note", state, (), {}))

    def job(self, state: JobState, **data: Any) -> None:
        """The job became `state`."""
        self._after.append(Change("job", state, (), {name: value for name, value in data.items() if value}))

    def events(self) -> list[Change]:
        """Return what the history gets, in order."""
        groups = sorted(self._groups.items(), key=_rank)
        return [*self._before, *(_gathered(group, steps) for group, steps in groups), *self._after]


def _rank(item: tuple[_Group, object]) -> tuple[int, int, str, str]:
    kind, state, role, name = item[0]
    return _KINDS.index(kind), _RANK[state], role, name


def _gathered(group: _Group, steps: list[tuple[int, Told | None]]) -> Change:
    kind, state, role, name = group
    steps = sorted(steps, key=lambda step: step[0])
    data: dict[str, Any] = {role: name} if role else {}
    if any(told is not None for _, told in steps):
        data |= _details([told or Told(0, 0.0, "") for _, told in steps])
    return Change(kind, state, tuple(position for position, _ in steps), data)


def _details(told: list[Told]) -> dict[str, Any]:
    data: dict[str, Any] = {"attempt": [one.attempt for one in told], "took": [one.took for one in told]}
    errors = [one.error for one in told]
    return data | {"error": errors} if any(errors) else data
