"""All jobs of a store, however many there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from holdfast.infrastructure.store.state import JobRecord, JobState, StateStore

_PAGE = 1000


def all_jobs(
    store: StateStore, states: Iterable[JobState] = (), *, batch: str | None = None
) -> Iterator[JobRecord]:
    """Yield jobs, newest first, a page at a time."""
    after, wanted, full = None, tuple(states), True
    while full:
        page = store.jobs(states=wanted, batch=batch, after=after, limit=_PAGE)
        yield from page
        full = len(page) == _PAGE
        after = page[-1].id if full else None
