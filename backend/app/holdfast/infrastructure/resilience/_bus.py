"""Where decisions become events: a list of subscribers that costs nothing while it is empty."""

from __future__ import annotations

import os
import threading

from holdfast.infrastructure.resilience._ambient import ambient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from holdfast.infrastructure.resilience.events import Event

    Entry = tuple[Callable[[Any], object], tuple[type[Event], ...], frozenset[str] | None]


_MAX_LOGGED = 1000
# What happens when a storage fails.
GOES_ON = "the breaker goes on by its own state"


class Bus:
    """The subscribers of this process, as one immutable tuple that readers need no lock for."""

    __slots__ = ("entries", "lock", "logged")

    def __init__(self) -> None:
        self.entries: tuple[Entry, ...] = ()
        self.renew_lock()
        self.logged: set[str] = set()

    def renew_lock(self) -> None:
        """Make a new lock: in the child of a fork nobody is left to release the old one."""
        # Reentrant: the garbage collector may run code that fails, and is logged, while it is held.
        self.lock = threading.RLock()

    def add(self, entry: Entry) -> None:
        """Append a subscriber."""
        with self.lock:
            self.entries = (*self.entries, entry)

    def remove(self, entry: Entry) -> None:
        """Remove a subscriber, if it is there."""
        with self.lock:
            self.entries = tuple(one for one in self.entries if one is not entry)


bus = Bus()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=bus.renew_lock)


def emit(kind: str, name: str, /, **facts: object) -> None:
    """Publish an event of the class called `kind`; call it only when `bus.entries` is not empty."""
    from holdfast.infrastructure.resilience import events  # loaded by the first subscriber

    made: type[Event] = getattr(events, kind)
    event: Event | None = None
    for subscriber, kinds, names in bus.entries:
        if (kinds and not issubclass(made, kinds)) or (names is not None and name not in names):
            continue
        if event is None:
            event = made(name=name, at=ambient.monotonic(), **facts)
        try:
            subscriber(event)
        except Exception as error:  # a subscriber must not change a call's outcome
            log_once(f"subscriber {subscriber!r}", error)


def callback_failed(name: str, callback: str, error: BaseException) -> None:
    """Report that a user's callback raised: as an event every time, in the log once for each callback."""
    if bus.entries:
        emit("CallbackFailed", name, callback=callback, error=error)
    log_once(f"{callback} of {name!r}", error)


def log_once(who: str, error: BaseException, then: str = "the call's outcome is unchanged") -> None:
    """Log `error` with its traceback, and what happens then, the first time that `who` fails."""
    with bus.lock:
        if who in bus.logged or len(bus.logged) > _MAX_LOGGED:
            return
        bus.logged.add(who)
    import logging  # only where something failed

    try:
        logging.getLogger("holdfast").error("%s raised; %s", who, then, exc_info=error)
    except Exception:  # nor must logging that is set up badly
        return
