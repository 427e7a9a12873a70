"""What the ways to carry tickets share."""

from __future__ import annotations

import logging
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from holdfast.services.jobs.executors.tickets import Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TASK = "holdfast.ticket"
_log = logging.getLogger("holdfast.jobs")
_FIELDS = {field.name for field in fields(Ticket)}


def words_of(ticket: Ticket) -> dict[str, Any]:
    """Return a ticket as an engine carries it."""
    return asdict(ticket)


def ticket_of(words: Mapping[str, Any]) -> Ticket:
    """Return the ticket that was carried; what a later version added is left out."""
    return Ticket(**{name: value for name, value in words.items() if name in _FIELDS})


def taken(take: Callable[[Ticket], None], ticket: Ticket) -> None:
    """Take a ticket; what goes wrong is logged: a ticket is never carried again for that."""
    try:
        take(ticket)
    except Exception:
        _log.exception("a ticket of job %s was dropped", ticket.job)


def carried(take: Callable[[Ticket], None], words: Mapping[str, Any]) -> None:
    """Take a ticket as an engine carried it."""
    try:
        ticket = ticket_of(words)
    except TypeError as error:
        _log.warning("what came is no ticket: %s", error)
        return
    taken(take, ticket)
