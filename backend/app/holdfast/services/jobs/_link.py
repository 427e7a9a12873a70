"""The way from the loop to the store: one thread, and patience while the store does not answer."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.clock import current_clock
from holdfast.infrastructure.resilience.errors import HoldfastError
from holdfast.infrastructure.store.state import StoreUnavailableError, StoreVersionError
from holdfast.services.jobs._threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

_log = logging.getLogger("holdfast.jobs")
_WAITS = Backoff(base=0.1, cap=5.0, jitter="equal")
# Mistakes stay mistakes; all else may be a database that is away for a while.
_MISTAKES = (
    HoldfastError,
    TypeError,
    AttributeError,
    NameError,
    LookupError,
    AssertionError,
    NotImplementedError,
)


def _may_pass(error: Exception) -> bool:
    if isinstance(error, StoreUnavailableError):
        return not isinstance(error, StoreVersionError)
    return not isinstance(error, _MISTAKES)


class Link:
    """Calls the store in one thread, in order; tries again while it does not answer."""

    def __init__(self, name: str) -> None:
        self._thread = Threads(1, f"holdfast-{name}")
        self.patient = True

    async def once(self, call: Callable[..., _T], *args: Any) -> _T:
        """Call once."""
        return await self._thread.call(call, *args)

    async def ask(self, call: Callable[..., _T], *args: Any) -> _T:
        """Call until the store answers, if only to refuse."""
        tries = 0
        while True:
            try:
                return await self._thread.call(call, *args)
            except Exception as error:
                tries += 1
                if not self.patient or not _may_pass(error):
                    raise
                if tries == 1:
                    _log.warning("the store of jobs does not answer, trying again: %r", error)
            await current_clock().asleep(_WAITS.delay(tries))

    def close(self) -> None:
        """End the thread when it has done what it was asked."""
        self._thread.close()
