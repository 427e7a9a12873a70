"""What a breaker tells to and learns from outside: pybreaker's listeners and storages.

The storage is asked at most once in `_POLL` seconds, and written to when something fails or changes: a success
of a closed breaker costs no round trip. Where it cannot be reached the breaker goes on by what it knows itself.
"""

from __future__ import annotations

from holdfast.infrastructure.resilience._breaker import CLOSED, HALF_OPEN, OPEN
from holdfast.infrastructure.resilience._bus import GOES_ON, bus, callback_failed, emit, log_once
from holdfast.infrastructure.resilience.clock import current_clock
from holdfast.infrastructure.resilience.states import CircuitState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from holdfast.infrastructure.resilience._breaker import Change, Machine
    from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
    from holdfast.infrastructure.resilience.permit import Permit

_POLL = 1.0
# How often a call asks for admission while the state changes under it.
_ASKED = 5


class StateName(str):
    """A state as pybreaker's listeners see it: a string that has a `name`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The string itself."""
        return str(self)


class Outside:
    """The listeners and the storage of one breaker."""

    __slots__ = ("_breaker", "_storage", "listeners", "throw_on_trip")

    def __init__(
        self, breaker: CircuitBreaker, listeners: tuple[Any, ...], storage: Any, *, throw: bool
    ) -> None:
        self._breaker = breaker
        self.listeners = listeners
        self.throw_on_trip = throw
        self._storage: Any = None
        kind: Any = storage.__class__
        if hasattr(kind, "_attach"):
            self._storage = storage._attach(breaker._machine)
        elif storage is not None:
            self._storage = Storage(storage, breaker.name)

    @property
    def shares(self) -> bool:
        """Whether there is a storage, whose leases decide which probes count."""
        return self._storage is not None

    @property
    def awaited(self) -> bool:
        """Whether only async functions can wait for the storage."""
        return self._storage is not None and self._storage.awaited

    def refuse_sync(self, name: str) -> None:
        """Raise TypeError if a sync function could not wait for the storage."""
        if self.awaited:
            raise TypeError(
                f"breaker {name!r} shares its state through an async client, which a sync function cannot await: "
                "give its storage a sync client or a URL, which serve async functions too, or write `async def`, "
                "`async with`"
            )

    def before(self, machine: Machine, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Tell the listeners that a call begins."""
        if self.listeners:
            self._notify(machine, "before_call", fn, *args, **kwargs)

    def succeeded(self, machine: Machine) -> None:
        """Tell the listeners that a call succeeded."""
        self._notify(machine, "success")

    def failed(self, machine: Machine, error: BaseException | None) -> None:
        """Tell the listeners that a call failed, before it is counted."""
        self._notify(machine, "failure", error)

    def share(self, machine: Machine, change: Change | None, *, failed: bool) -> Change | None:
        """Share the outcome of a closed breaker's call; return the change that it, or all outcomes together, made."""
        if self._storage is None:
            return change
        if not failed:
            self._storage.succeeded()
            return change
        shared: Change | None = self._storage.failed(machine, change)
        return shared

    def probed(self, permit: Permit, change: Change | None, now: float, *, failed: bool | None) -> None:
        """Share the outcome of a half-open breaker's probe."""
        if self._storage is not None:
            self._storage.probed(permit, change, now, failed=failed)

    def changed(self, machine: Machine, change: Change) -> None:
        """Tell that the state changed."""
        if self._storage is not None:
            self._storage.changed(machine, change)
        self._notify(machine, "state_change", StateName(change.old.value), StateName(change.new.value))

    def forget(self) -> None:
        """Forget the shared failures of a breaker that was closed by hand while it was closed."""
        if self._storage is not None:
            self._storage.forget()

    def poll(self, machine: Machine, now: float) -> None:
        """Learn what other processes decided, if it is time to ask."""
        if self._storage is not None:
            self._followed(machine, self._storage.poll(machine, now))

    def confirm(self, machine: Machine, permit: Permit) -> Permit:
        """Have the storage confirm what this process admitted, where it must; return the permit that then holds.

        CircuitOpenError if it refuses.
        """
        if self.awaited:
            permit.neutral()
            self.refuse_sync(machine.name)
        for _ in range(_ASKED):
            question = self._question(permit)
            if question is None:
                return permit
            try:
                question.wait()
                if self._confirmed(machine, permit, question):
                    return permit
            except BaseException:
                question.abandon()
                permit.neutral()
                raise
            permit.neutral()
            permit = machine.admit()
        permit.neutral()
        raise machine.refuse(machine.now())

    async def confirm_async(self, machine: Machine, permit: Permit) -> Permit:
        """Have the storage confirm, as `confirm` does, without blocking the event loop."""
        for _ in range(_ASKED):
            question = self._question(permit)
            if question is None:
                return permit
            try:
                await question.wait_async()
                if self._confirmed(machine, permit, question):
                    return permit
            except BaseException:
                question.abandon()
                permit.neutral()
                raise
            permit.neutral()
            permit = machine.admit()
        permit.neutral()
        raise machine.refuse(machine.now())

    def _question(self, permit: Permit) -> Any:
        return None if self._storage is None else self._storage.question(permit)

    def _confirmed(self, machine: Machine, permit: Permit, question: Any) -> bool:
        """Return whether the permit holds; if not, the state is another, and the call asks anew for admission."""
        change, admitted = self._storage.answered(permit, question)
        self._followed(machine, change)
        if admitted is None:
            return False
        if not admitted:
            raise machine.refuse(machine.now())
        return True

    def _followed(self, machine: Machine, change: Change | None) -> None:
        """Tell that another process was followed into its state."""
        if change is None:
            return
        if bus.entries:
            emit(change.kind, machine.name, **change.facts)
        self._notify(machine, "state_change", StateName(change.old.value), StateName(change.new.value))

    def _notify(self, machine: Machine, method: str, /, *args: Any, **kwargs: Any) -> None:
        for listener in self.listeners:
            function: Callable[..., Any] | None = getattr(listener, method, None)
            if function is None:
                continue
            try:
                function(self._breaker, *args, **kwargs)
            except Exception as error:  # a listener must not change a call's outcome
                callback_failed(machine.name, f"listener {type(listener).__name__}.{method}", error)


class Storage:
    """One of pybreaker's storages, asked and told with care."""

    __slots__ = ("_asked", "_dirty", "_name", "_storage")

    awaited = False

    def __init__(self, storage: Any, name: str) -> None:
        self._storage = storage
        self._name = name
        self._asked = float("-inf")
        self._dirty = False

    def _tell(self, method: str) -> None:
        def tell() -> None:
            # The look for the method, too, may be what fails: storages are proxies at times.
            getattr(self._storage, method)()

        self._try(tell)

    def _try(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # a storage that is down must not take the service down
            if bus.entries:
                emit("StorageFailed", self._name, error=error)
            log_once(f"storage of {self._name!r}", error, GOES_ON)
            return None

    def succeeded(self) -> None:
        """Forget the shared failures, if there may be any."""
        if self._dirty:
            self._dirty = False
            self._tell("reset_counter")

    def failed(self, machine: Machine, change: Change | None) -> Change | None:
        """Share one failure; return the change, which may come from what all processes have had together."""
        self._dirty = True
        self._tell("increment_counter")
        if change is not None:
            return change
        shared = self._try(lambda: int(self._storage.counter)) or 0
        with machine.lock:
            return machine.learn_failures(shared)

    def question(self, permit: Permit) -> None:
        """Confirm nothing: each process probes for itself."""

    def probed(self, permit: Permit, change: Change | None, now: float, *, failed: bool | None) -> None:
        """Share the outcome, for those who look: the state that follows is each process's own finding."""
        if failed:
            self._dirty = True
            self._tell("increment_counter")
        elif failed is not None:
            self._dirty = False
            self._tell("reset_counter")
            self._tell("increment_success_counter")

    def forget(self) -> None:
        """Forget the shared failures."""
        self._dirty = False
        self._tell("reset_counter")

    def changed(self, machine: Machine, change: Change) -> None:
        """Share a new state."""
        new = change.new
        if new not in {CLOSED, OPEN, HALF_OPEN}:
            return
        self._asked = machine.now()
        self._dirty = self._dirty and new is not CLOSED
        self._try(lambda: self._write(machine, new))

    def _write(self, machine: Machine, new: CircuitState) -> None:
        storage = self._storage
        storage.state = new.value
        if new is OPEN:
            from datetime import UTC, datetime  # pybreaker's storages want a datetime

            wall = (machine.config.clock or current_clock()).time()
            storage.opened_at = datetime.fromtimestamp(wall, UTC)
        elif new is CLOSED:
            storage.reset_counter()
        storage.reset_success_counter()

    def poll(self, machine: Machine, now: float) -> Change | None:
        """Ask for the shared state and take it over where it differs."""
        if now - self._asked < _POLL:
            return None
        self._asked = now
        told = self._try(lambda: self._storage.state)
        try:
            state = CircuitState(told)
        except ValueError:
            return None
        if told is None or state is machine.mode or machine.mode not in {CLOSED, OPEN, HALF_OPEN}:
            return None
        if state is CLOSED and self._try(lambda: self._storage.opened_at) is None:
            # One that cannot be reached says what it was told to say then; a living one knows when it opened.
            return None
        if state is HALF_OPEN:
            return None if machine.mode is OPEN else self._take_over(machine, OPEN, now, 0.0)
        left = self._left(machine) if state is OPEN else 0.0
        return self._take_over(machine, state, now, left)

    def _take_over(self, machine: Machine, state: CircuitState, now: float, left: float) -> Change | None:
        with machine.lock:
            if machine.mode is state or (machine.mode is HALF_OPEN and state is OPEN):
                return None
            return machine.adopt(state, now, left)

    def _left(self, machine: Machine) -> float:
        """Return how much longer the shared breaker stays open, seconds."""
        opened = self._try(lambda: self._storage.opened_at)
        if opened is None:
            return 0.0
        wall = (machine.config.clock or current_clock()).time()
        limit = machine.config.open_for
        return max(0.0, min(limit, float(opened.timestamp()) + limit - wall))


def connect(
    breaker: CircuitBreaker, machine: Machine, listeners: tuple[Any, ...], storage: Any, *, throw: bool
) -> None:
    """Give a breaker listeners and a storage; the state in the storage is taken over at the first call."""
    outside = Outside(breaker, listeners, storage, throw=throw)
    with machine.lock:
        if machine.outside is not None:
            return
        machine.outside = outside
        machine.set_fast()
