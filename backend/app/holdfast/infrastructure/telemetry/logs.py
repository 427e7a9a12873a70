"""Events as records of standard logging, with their fields as extras."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience import events
from holdfast.infrastructure.resilience._frozen import Faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.infrastructure.resilience.events import Event, Subscription

_LONGEST = 200


def log_events(
    logger: logging.Logger | str = "holdfast.events",
    *kinds: type[Event],
    names: frozenset[str] | None = None,
) -> Subscription:
    """Log every event (or those of `kinds`, of policies called `names`); close the subscription to end that.

    Refusals and failures are warnings, an opened circuit is an error, the rest is information. Fields become extras
    `holdfast_<field>`, the class's name `holdfast_event`; the message is a sentence. What logging itself makes happen
    is not logged. ConfigurationError for what is no logger, no kind of event and no set of names.
    """
    given: object = logger
    faults = Faults("log_events")
    fine = isinstance(given, (str, logging.Logger))
    faults.check(fine, "logger", logger, "is no logger", "give a logging.Logger or its name")
    faults.finish()
    found = logging.getLogger(logger) if isinstance(logger, str) else logger
    return events.subscribe(_Log(found), *kinds, names=names)


class _Log:
    """Logs events, but none that a handler of its records causes: that would never end."""

    __slots__ = ("_here", "_logger")

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._here = threading.local()

    def __call__(self, event: Event) -> None:
        level = _level(event)
        if getattr(self._here, "busy", False) or not self._logger.isEnabledFor(level):
            return
        self._here.busy = True
        try:
            self._logger.log(level, "%s", _sentence(event), extra=_extras(event))
        finally:
            self._here.busy = False


def _level(event: Event) -> int:
    if isinstance(event, events.CircuitOpened):
        return logging.WARNING if event.shadow else logging.ERROR
    return logging.WARNING if isinstance(event, _WARNINGS) else logging.INFO


def _extras(event: Event) -> dict[str, Any]:
    fields = {f"holdfast_{name}": getattr(event, name) for name in event.__dataclass_fields__}
    return {"holdfast_event": type(event).__name__, **fields}


def _sentence(event: Event) -> str:
    say = _SENTENCES.get(type(event))
    return f"{event.name}: {type(event).__name__}" if say is None else f"{event.name}: {say(event)}"


def _error(error: BaseException | None) -> str:
    if error is None:
        return "a result that was refused"
    try:
        text = str(error)
    except Exception:  # an error that cannot be shown is still one
        text = ""
    name = type(error).__name__
    return f"{name}: {text}"[:_LONGEST] if text else name


def _after(seconds: float | None) -> str:
    return "" if seconds is None else f"; try again in {seconds:.3g} s"


_WARNINGS = (
    events.BudgetExhausted,
    events.CacheRefreshFailed,
    events.CallRejected,
    events.CallTimedOut,
    events.CallbackFailed,
    events.FallbackUsed,
    events.FrameIgnored,
    events.PeerLeft,
    events.ProbeExpired,
    events.RetriesNested,
    events.RetryGaveUp,
    events.RetryScheduled,
    events.StorageFailed,
    events.WorkerAbandoned,
)

_SENTENCES: dict[type[Event], Callable[[Any], str]] = {
    events.BudgetExhausted: lambda one: f"the retry budget {one.budget!r} has no token left.",
    events.CacheRefreshFailed: lambda one: (
        f"the old result stays, its refresh failed with {_error(one.error)}."
    ),
    events.CacheServed: lambda one: (
        f"answered with {'an old' if one.stale else 'a'} result, {one.age:.3g} s of age."
    ),
    events.CallDelayed: lambda one: f"the {_words(one.policy)} made a call wait for {one.seconds:.3g} s.",
    events.CallRejected: lambda one: f"the {_words(one.policy)} refused a call{_after(one.retry_after)}.",
    events.CallTimedOut: lambda one: f"a call did not end within {one.seconds:g} s.",
    events.CallbackFailed: lambda one: f"its {one.callback} raised {_error(one.error)}; the call went on.",
    events.ChaosInjected: lambda one: f"chaos injected: {one.fault}.",
    events.CircuitClosed: lambda _: "the circuit closed.",
    events.CircuitHalfOpened: lambda _: "the circuit half-opened and lets probes through.",
    events.CircuitOpened: lambda one: (
        f"the circuit {'would have ' * one.shadow}opened for {one.open_for:.3g} s: {one.reason}."
    ),
    events.CircuitOverridden: lambda one: f"somebody set the circuit to {one.state}.",
    events.FallbackUsed: lambda one: f"a fallback answered for {_error(one.error)}.",
    events.FrameIgnored: lambda one: f"what came from {one.peer!r} changed nothing: {one.reason}.",
    events.HedgeStarted: lambda one: f"hedge {one.number} was sent after {one.after:.3g} s.",
    events.HedgeWon: lambda one: f"hedge {one.number} decided the call.",
    events.LimitChanged: lambda one: (
        f"the {_words(one.policy)} changed its limit from {one.old} to {one.new}."
    ),
    events.PeerJoined: lambda one: f"the peer {one.peer!r} {'came back' if one.resumed else 'connected'}.",
    events.PeerLeft: lambda one: f"the peer {one.peer!r} left, {one.waiting} commands waited for it.",
    events.ProbeExpired: lambda _: "a probe did not return in time.",
    events.RetriesNested: lambda one: (
        f"made {one.attempts} attempts within one attempt of a retry around it."
    ),
    events.RetryGaveUp: lambda one: (
        f"gave up after attempt {one.attempts}, {one.elapsed:.3g} s after the first failure: {one.reason}."
    ),
    events.RetryScheduled: lambda one: (
        f"attempt {one.attempt} failed with {_error(one.error)}; the next follows in {one.delay:.3g} s."
    ),
    events.RetrySucceeded: lambda one: f"succeeded at attempt {one.attempts}.",
    events.StorageFailed: lambda one: f"the shared state could not be reached: {_error(one.error)}.",
    events.WorkerAbandoned: lambda one: f"a timed-out call still runs; {one.abandoned} such threads run now.",
}


def _words(policy: str) -> str:
    return policy.replace("_", " ")
