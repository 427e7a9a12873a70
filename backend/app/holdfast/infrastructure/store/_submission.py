"""What can be wrong with a submission: gathered while its steps stream by, raised together."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from holdfast.infrastructure.store.state import SubmissionError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from holdfast.infrastructure.store.state import NewJob, NewStep

_SHOWN = 100


class SubmissionFaults:
    """The first hundred faults, and how many more there are."""

    __slots__ = ("_faults", "_more")

    def __init__(self) -> None:
        self._faults: list[str] = []
        self._more = 0

    @property
    def full(self) -> bool:
        """Whether another fault would only be counted."""
        return len(self._faults) >= _SHOWN

    def add(self, fault: str) -> None:
        """Note one."""
        if self.full:
            self._more += 1
        else:
            self._faults.append(fault)

    def join(self, error: SubmissionError) -> None:
        """Note those of another check."""
        for fault in error.faults:
            self.add(fault)
        self._more += error.more

    def finish(self) -> None:
        """Raise SubmissionError if anything was noted."""
        if self._faults:
            raise SubmissionError(self._faults, self._more)


def storable(text: str | None) -> bool:
    """Return whether every database can store a text that names something as it is."""
    if text is None or text.isascii():
        return text is None or "\0" not in text
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def check_names(job: NewJob, faults: SubmissionFaults) -> None:
    """Note the names of a job that no database can store."""
    names = (("id", job.id), ("batch", job.batch), ("dedup_key", job.dedup_key), ("handler", job.handler))
    for what, text in names:
        if not storable(text):
            faults.add(unfit(what, text))


def unfit(what: str, name: str | None) -> str:
    """Return the fault of a name that no database can store."""
    return f"{what} {name!r} has zero bytes or lone surrogates; drop them"


def known_id(job: str) -> str:
    """Return the fault of a job whose id is taken."""
    return f"job {job!r} exists already; give another id"


def unknown_batch(batch: str) -> str:
    """Return the fault of a job whose batch was not created."""
    return f"batch {batch!r} does not exist; create it first"


def cancelled_batch(batch: str) -> str:
    """Return the fault of a job whose batch was cancelled."""
    return f"batch {batch!r} was cancelled; give another"


def duplicate(step: NewStep) -> str:
    """Return the fault of a step whose key another has."""
    return f"{_named(step)} is there twice; give each step a key of its own"


def unknown_dependency(key: str, dependency: str) -> str:
    """Return the fault of a step that depends on none of its job."""
    return f"step {key!r} depends on {dependency!r}, which is not in this job"


def circle(keys: Iterable[str]) -> str:
    """Return the fault of steps that wait for each other."""
    return f"steps {' → '.join(map(repr, keys))} wait for each other; drop one dependency"


def _named(step: NewStep) -> str:
    return f"step {step.key!r} (line {step.line})" if step.line else f"step {step.key!r}"


def circles(waits: Mapping[str, Iterable[str]]) -> Iterator[list[str]]:
    """Yield circles of dependencies until each circle has lost a step; `waits` maps keys to what they wait for."""
    left: Mapping[str, Iterable[str]] = waits
    while found := _circle(left):
        yield found
        left = {
            key: [one for one in dependencies if one not in found]
            for key, dependencies in left.items()
            if key not in found
        }


def _circle(waits: Mapping[str, Iterable[str]]) -> list[str]:
    try:
        TopologicalSorter(waits).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def check_graph(waits: Mapping[str, Iterable[str]], keys: Container[str], faults: SubmissionFaults) -> None:
    """Note unknown dependencies and circles; `waits` needs only the steps that wait."""
    for key, dependencies in waits.items():
        for dependency in dependencies:
            if dependency not in keys:
                faults.add(unknown_dependency(key, dependency))
    for found in circles(waits):
        faults.add(circle(found))
        if faults.full:
            return
