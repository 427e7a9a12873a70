"""What policies decide, as frozen events for subscribers; without a subscriber none is even made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.infrastructure.resilience._bus import bus
from holdfast.infrastructure.resilience._frozen import Faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something a policy decided: the policy's or function's `name`, and `at`, monotonic seconds."""

    name: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled(Event):
    """Attempt number `attempt` failed with `error` (None: result refused); the next follows in `delay` s."""

    attempt: int
    delay: float
    error: Exception | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySucceeded(Event):
    """A call succeeded at attempt number `attempts`, which is more than one."""

    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryGaveUp(Event):
    """A call failed for good after `attempts`, `elapsed` seconds after its first failure, for `reason`."""

    attempts: int
    elapsed: float
    reason: str
    error: Exception | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetriesNested(Event):
    """A function made all its `attempts` within one attempt of a retry around it; told once for each function."""

    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetExhausted(Event):
    """A retry was not made because the budget `budget` had no token for it."""

    budget: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRejected(Event):
    """A policy of kind `policy` refused a call; `retry_after`: seconds until a try makes sense, if known."""

    policy: str
    retry_after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitOpened(Event):
    """A breaker opened for `open_for` seconds because of `reason`; in shadow mode it only would have."""

    open_for: float
    reason: str
    calls: int
    failures: int
    slow: int
    shadow: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitHalfOpened(Event):
    """A breaker lets its probes through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitClosed(Event):
    """A breaker closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitOverridden(Event):
    """A person set a breaker's state to `state`: `isolated`, `disabled`, `shadow`, `open`, `half-open` or `closed`."""

    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeExpired(Event):
    """A half-open probe did not return in time; its permit was given back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTimedOut(Event):
    """A call ran into its bound of `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerAbandoned(Event):
    """A timed-out function still runs in its thread; `abandoned` such threads are running now."""

    abandoned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackFailed(Event):
    """A listener, predicate or callback raised `error`; the call's outcome is unchanged."""

    callback: str
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageFailed(Event):
    """What a breaker or a rate limit shares could not be reached; it goes on by itself."""

    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class CallDelayed(Event):
    """A policy of kind `policy` made a call wait for `seconds` before it was admitted."""

    policy: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitChanged(Event):
    """A limit of kind `policy` changed from `old` to `new`, by hand or because it adapts."""

    policy: str
    old: int
    new: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeStarted(Event):
    """Hedge number `number` (from 1) was sent `after` seconds, because the calls before it had not succeeded."""

    number: int
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeWon(Event):
    """Hedge number `number` gave the outcome of the call; the others were cancelled."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackUsed(Event):
    """A call failed with `error` (None: its result was refused) and was answered by its fallback: a degraded result."""

    error: Exception | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheServed(Event):
    """A cache answered with a result `age` seconds old; `stale`: past its time to live."""

    age: float
    stale: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRefreshFailed(Event):
    """A cache could not refresh an entry and keeps the old one."""

    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerJoined(Event):
    """The peer `peer` connected to a channel; `resumed`: it came back in time for the commands that wait for it."""

    peer: str
    resumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLeft(Event):
    """The peer `peer` is no longer connected; `waiting` commands wait for its return, or failed if none is awaited."""

    peer: str
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameIgnored(Event):
    """What `peer` sent over a channel changed nothing: `late`, `duplicate`, `foreign`, `unknown`, `malformed`."""

    peer: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosInjected(Event):
    """A chaos policy did `fault` to a call: `error`, `latency` or `result`."""

    fault: str


_E = TypeVar("_E", bound=Event)


def _is_kind(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Event)


def _check(subscriber: object, kinds: tuple[object, ...], names: object) -> None:
    faults = Faults("subscribe")
    faults.check(
        callable(subscriber), "subscriber", subscriber, "is not callable", "give a function of an event"
    )
    faults.callable("subscriber", subscriber, sync=True)
    for at, kind in enumerate(kinds):
        fine = _is_kind(kind)
        faults.check(fine, f"kinds[{at}]", kind, "is no kind of event", "give a class such as CircuitOpened")
    fine = names is None or type(names) in {frozenset, set}
    faults.check(fine, "names", names, "is no set of names", 'give frozenset({"payments"}) or None')
    faults.finish()


class Subscription:
    """A subscriber's place on the list; close it, or use it as a `with` block, to leave."""

    __slots__ = ("_entry",)
    _entry: tuple[Callable[[Any], object], tuple[type[Event], ...], frozenset[str] | None]

    def close(self) -> None:
        """Leave the list; a second time does nothing."""
        bus.remove(self._entry)

    def __enter__(self) -> Subscription:
        """Return itself: it is on the list already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the list."""
        self.close()


def subscribe(
    subscriber: Callable[[_E], object], *kinds: type[_E], names: frozenset[str] | None = None
) -> Subscription:
    """Call `subscriber` with every event of `kinds` (or all) from the policies called `names` (or all).

    It is called in the thread that decides, outside every lock. If it raises, that is logged once, no more.
    ConfigurationError for what is no subscriber, no kind of event and no set of names.
    """
    _check(subscriber, kinds, names)
    subscription = Subscription()
    subscription._entry = (subscriber, kinds, None if names is None else frozenset(names))
    bus.add(subscription._entry)
    return subscription
