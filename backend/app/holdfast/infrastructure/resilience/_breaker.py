"""The state machine of a circuit breaker: decides under its lock, acts outside it."""

from __future__ import annotations

import os
import threading
from sys import modules

from holdfast.infrastructure.resilience import _pybreaker
from holdfast.infrastructure.resilience._ambient import ambient, hot
from holdfast.infrastructure.resilience._bus import bus, callback_failed, emit
from holdfast.infrastructure.resilience._compile import GIL, label_of
from holdfast.infrastructure.resilience._windows import ConsecutiveWindow, Slot, SlowWatch, run
from holdfast.infrastructure.resilience.classify import Verdict, _judge, retry_after
from holdfast.infrastructure.resilience.errors import CircuitOpenError
from holdfast.infrastructure.resilience.permit import Permit
from holdfast.infrastructure.resilience.randomness import current_random
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import WindowCounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from holdfast.infrastructure.resilience._compile import Stack
    from holdfast.infrastructure.resilience._outside import Outside
    from holdfast.infrastructure.resilience._windows import RunningWindow
    from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreakerConfig

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
ISOLATED, DISABLED, SHADOW = CircuitState.ISOLATED, CircuitState.DISABLED, CircuitState.SHADOW


_NEVER = float("-inf")


# Reentrant: the garbage collector may close an abandoned coroutine, and so settle its call, at any line that holds one.
_LOCKS = 31
_locks: list[Any] = []


def _renew_locks() -> None:
    """Make new locks: in the child of a fork nobody is left to release the old ones."""
    _locks[:] = [threading.RLock() for _ in range(_LOCKS)]


_renew_locks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class Probes:
    """One half-open round: the permits that are out, with the time at which each is given back, and the outcomes."""

    __slots__ = ("failed", "ok", "out", "slow")

    def __init__(self) -> None:
        self.out: dict[Permit, float] = {}
        self.ok = self.failed = self.slow = 0

    @property
    def used(self) -> int:
        """Places that are taken."""
        return len(self.out) + self.ok + self.failed

    def counts(self) -> WindowCounts:
        """Return the outcomes so far."""
        return WindowCounts(self.ok + self.failed, self.failed, self.slow)

    def reason(self, size: int) -> str:
        """Say why the round failed."""
        return (
            f"{self.failed} of {size} probes failed"
            if self.failed
            else f"{self.slow} of {size} probes were slow"
        )


class Change:
    """A decision to be told outside the lock: an event, and the states before and after.

    `shared` is whether a storage knows already what led to it.
    """

    __slots__ = ("facts", "kind", "new", "old", "shared")

    def __init__(self, kind: str, old: CircuitState, new: CircuitState, **facts: object) -> None:
        self.kind = kind
        self.old = old
        self.new = new
        self.shared = False
        self.facts = facts


class Machine:
    """State of one breaker.

    Generated code reads `fast`: what counts successes while plainly closed, else None; and `shut`: the time
    before which every call is refused. `until` is when an open generation ends, and when any other one began.
    """

    __slots__ = (
        "config",
        "extra",
        "fast",
        "label",
        "mode",
        "named_after",
        "outside",
        "rejected",
        "rounds",
        "shut",
        "until",
        "window",
    )

    def __init__(self, name: str, config: CircuitBreakerConfig) -> None:
        self.label: str | None = name
        self.config = config
        self.outside: Outside | None = None
        self.rejected = self.rounds = 0
        self.until = self.shut = _NEVER
        self._start(CLOSED, self.now())

    def name_after(self, fn: Callable[..., Any]) -> None:
        """Take the name of a function, which is made when it is first asked for: few ever are."""
        self.named_after = fn
        self.label = None

    @property
    def name(self) -> str:
        """The name in events and errors."""
        if self.label is None:
            self.label = label_of(self.named_after)
        return self.label

    @property
    def lock(self) -> Any:
        """What guards the state; shared with some other breakers, held for microseconds."""
        return _locks[id(self) // 64 % _LOCKS]

    @property
    def watch(self) -> SlowWatch | None:
        """What finds slow calls while they run, in a generation that records and minds them."""
        return self.extra if type(self.extra) is SlowWatch else None

    @property
    def probes(self) -> Probes | None:
        """The round of probes, while half-open."""
        return self.extra if type(self.extra) is Probes else None

    @property
    def since(self) -> float:
        """When the state began."""
        return self.extra if type(self.extra) is float else self.until

    @property
    def holds(self) -> int:
        """How often `isolate` was called and not undone."""
        return self.extra if type(self.extra) is int else 0

    def now(self) -> float:
        """Read the breaker's clock."""
        clock = self.config.clock
        return ambient.monotonic() if clock is None else clock.monotonic()

    # What follows is called with the lock held.

    def _start(self, mode: CircuitState, now: float) -> None:
        """Begin a generation in which calls are recorded."""
        config = self.config
        self.mode = mode
        self.until = now
        slow = config.slow_call_duration
        window = run(config.window, now, slow=slow is not None)
        self.window: RunningWindow | None = window
        self.extra: SlowWatch | Probes | int | float | None = (
            None if slow is None else SlowWatch(window, slow, now)
        )
        self.set_fast()

    def _stop(self, mode: CircuitState, now: float, until: float = _NEVER) -> None:
        """Begin a generation in which nothing is recorded in a window; an open one lasts `until`."""
        self.mode = mode
        self.until = until if mode is OPEN else now
        self.window = None
        self.extra = float(now) if mode is OPEN else None
        self.set_fast()

    def set_fast(self) -> None:
        """Allow or forbid the paths without a lock."""
        self.fast: Any = None
        self.shut = self.until if self.mode is OPEN and self.outside is None else _NEVER
        if self.mode is CLOSED and self.outside is None and GIL:
            watch = self.watch
            self.fast = self.window if watch is None else watch.current

    def _rotate(self, now: float) -> None:
        watch = self.watch
        if watch is not None:
            watch.advance(now)
            self.set_fast()
        elif self.window is not None:
            self.window.rotate(now)

    def _tripped(self, *, failed: bool) -> str | None:
        """Return why the window says to open, or None; the rate of failures opens at a failure only."""
        config, counts = self.config, self.counts()
        size = config.window.size
        if config.window.kind == "consecutive":
            return f"{counts.failures} failures in a row" if counts.failures >= size else None
        enough = min(config.min_calls, size) if config.window.kind == "calls" else config.min_calls
        if counts.calls < enough:
            return None
        if failed and counts.failure_rate >= config.failure_rate:
            return f"{counts.failures} of {counts.calls} calls failed"
        if counts.slow and counts.slow_rate >= config.slow_call_rate:
            return f"{counts.slow} of {counts.calls} calls were slow"
        return None

    def counts(self) -> WindowCounts:
        """Return what the window or the round of probes holds; empty where there is neither."""
        if self.probes is not None:
            return self.probes.counts()
        return WindowCounts(0, 0, 0) if self.window is None else self.window.counts()

    def _evaluate(self, now: float, hint: float | None = None, *, failed: bool = False) -> Change | None:
        reason = self._tripped(failed=failed)
        if reason is None:
            return None
        if self.mode is SHADOW:
            change = self._opened(self._duration(None), reason, SHADOW)
            self._start(SHADOW, now)
            return change
        if now - self.until >= self.config.open_cap:
            self.rounds = 0
        return self._trip(now, reason, hint)

    def _trip(self, now: float, reason: str, hint: float | None = None) -> Change:
        duration = self._duration(hint)
        change = self._opened(duration, reason, OPEN)
        self._stop(OPEN, now, now + duration)
        return change

    def _opened(self, duration: float, reason: str, new: CircuitState) -> Change:
        counts = self.counts()
        facts = {"calls": counts.calls, "failures": counts.failures, "slow": counts.slow}
        return Change(
            "CircuitOpened", self.mode, new, open_for=duration, reason=reason, shadow=new is SHADOW, **facts
        )

    def _duration(self, hint: float | None) -> float:
        config = self.config
        base: float = min(config.open_for * 2.0 ** min(self.rounds, 60), config.open_cap)
        chance = config.random or current_random()
        spread: float = base * (1 + config.open_jitter * (2 * chance.random() - 1))
        return spread if hint is None else max(spread, min(hint, config.open_cap))

    def _half_open(self, now: float) -> Change:
        change = Change("CircuitHalfOpened", self.mode, HALF_OPEN)
        self._stop(HALF_OPEN, now)
        self.extra = Probes()
        return change

    def _close(self, now: float) -> Change:
        change = Change("CircuitClosed", self.mode, CLOSED)
        self._start(CLOSED, now)
        return change

    def _grant(self, now: float) -> tuple[Permit | None, list[Change]]:
        changes: list[Change] = []
        if self.mode is OPEN and now >= self.until:
            changes.append(self._half_open(now))
        probes = self.probes
        if probes is not None:
            changes += self._expire(probes, now)
            return self._grant_probe(probes, now), changes
        if self.mode is OPEN or self.mode is ISOLATED:
            return None, changes
        return self._grant_plain(now, changes), changes

    def _grant_probe(self, probes: Probes, now: float) -> Permit | None:
        if probes.used >= self.config.half_open_calls:
            return None
        permit = Permit(self, probes, now, probe=True)
        probes.out[permit] = now + self.config.half_open_timeout
        return permit

    def _grant_plain(self, now: float, changes: list[Change]) -> Permit | None:
        if self.watch is None:
            return Permit(self, self.window, now)
        self._rotate(now)
        change = self._evaluate(now)
        if change is not None:
            changes.append(change)
        return self._grant_slot(now)

    def _grant_slot(self, now: float) -> Permit | None:
        watch = self.watch
        if watch is None:
            return None
        slot = watch.current
        slot.n += 1
        slot.last = now
        return Permit(self, slot, now)

    def _expire(self, probes: Probes, now: float) -> list[Change]:
        late = [permit for permit, at in list(probes.out.items()) if at <= now]
        for permit in late:
            probes.out.pop(permit, None)
        return [Change("ProbeExpired", HALF_OPEN, HALF_OPEN) for _ in late]

    def _record(
        self, token: Any, now: float, started: float, failed: bool | None, hint: float | None
    ) -> Change | None:
        """Count one outcome (`failed` None: neutral) for the generation that `token` stands for."""
        slot = token if type(token) is Slot else None
        window = token if slot is None else slot.window
        if self.window is None or window is not self.window:
            return None
        self._rotate(now)
        if slot is not None:
            slot.late += 1
        if failed is not None:
            self._count(slot, now - started, failed)
        return self._evaluate(now, hint, failed=bool(failed))

    def _count(self, slot: Slot | None, took: float, failed: bool) -> None:
        window, duration = self.window, self.config.slow_call_duration
        assert window is not None  # noqa: S101  # the caller looked
        slow = duration is not None and took >= duration
        if slot is not None and slot.counted is not None:
            if failed:
                window.fail(slot.counted)
        else:
            window.add(calls=1, failures=failed, slow=slow)

    def _record_probe(
        self, permit: Permit, now: float, failed: bool | None, hint: float | None
    ) -> Change | None:
        probes: Probes = permit.token
        if probes is not self.probes:
            return None
        out = probes.out.pop(permit, None) is not None
        if failed is None or not (out or self._counts_late(failed=failed)):
            return None
        slow = self.config.slow_call_duration
        probes.slow += slow is not None and now - permit.started >= slow
        probes.failed += failed
        probes.ok += not failed
        return self._verdict(probes, now, hint)

    def _counts_late(self, *, failed: bool) -> bool:
        """Return whether a probe counts whose place was given back: it works, though slowly, or else never would."""
        return not failed and (self.outside is None or not self.outside.shares)

    def _verdict(self, probes: Probes, now: float, hint: float | None) -> Change | None:
        """Return the change as soon as the outcomes still out cannot alter it."""
        config, size = self.config, self.config.half_open_calls
        strict = config.window.kind == "consecutive"
        allowed = 1 / size if strict else config.failure_rate
        watched = config.slow_call_duration is not None
        if probes.failed / size >= allowed or (watched and probes.slow / size >= config.slow_call_rate):
            self.rounds += 1
            return self._trip(now, probes.reason(size), hint)
        ended = probes.ok + probes.failed
        fails_at_most = size - probes.ok
        slow_at_most = size - (ended - probes.slow)
        if fails_at_most / size < allowed and (not watched or slow_at_most / size < config.slow_call_rate):
            return self._close(now)
        return None

    def take_over(self, mode: CircuitState, now: float, until: float = _NEVER) -> None:
        """Begin a generation in any state, as it was elsewhere or before."""
        if mode is CLOSED or mode is SHADOW:
            self._start(mode, now)
        else:
            self._stop(mode, now, until)

    def adopt(self, mode: CircuitState, now: float, left: float) -> Change:
        """Follow another process into `mode`, which lasts `left` more seconds if it is open."""
        kind, old, counts = "CircuitClosed", self.mode, self.counts()
        facts: dict[str, object] = {}
        if mode is OPEN:
            kind = "CircuitOpened"
            facts = {"open_for": left, "reason": "opened by another process", "shadow": False}
            facts |= {"calls": counts.calls, "failures": counts.failures, "slow": counts.slow}
        self.take_over(mode, now, now + left)
        return Change(kind, old, mode, **facts)

    def learn_failures(self, shared: int) -> Change | None:
        """Raise the failures in a row to those that all processes have together."""
        if self.mode is not CLOSED or type(self.window) is not ConsecutiveWindow:
            return None
        self.window.failures = max(self.window.failures, shared)
        return self._evaluate(self.now(), failed=True)

    def refresh(self) -> None:
        """Take over what was counted without the lock, so that the counts are those of now.

        Who looks does not decide: where running calls have become slow enough to open, the next call finds it out.
        """
        self._rotate(self.now())
        if self.watch is not None and self._tripped(failed=False):
            self.fast = None

    # What follows takes the lock itself and tells outside it.

    def set_listeners(self, listeners: tuple[Any, ...]) -> None:
        """Replace the listeners, if there is a place for them."""
        if self.outside is not None:
            self.outside.listeners = listeners

    def tell(self, *changes: Change | None) -> None:
        """Publish what was decided, to subscribers, listeners and the storage."""
        for change in changes:
            if change is None:
                continue
            if bus.entries:
                emit(change.kind, self.name, **change.facts)
            if self.outside is not None and change.old is not change.new:
                self.outside.changed(self, change)

    def admit(self) -> Permit:
        """Admit one call, as far as this process can tell. CircuitOpenError when refused."""
        now = self.now()
        if now < self.shut:
            raise self.refuse(now)
        if self.outside is not None:
            self.outside.poll(self, now)
        with self.lock:
            permit, changes = self._grant(now)
        if changes:
            self._tell_granted(permit, changes)
        if permit is None:
            raise self.refuse(now)
        return permit

    def admit_now(self) -> Permit:
        """Admit one call; a storage that has to be asked is waited for. CircuitOpenError when refused."""
        permit = self.admit()
        return permit if self.outside is None else self.outside.confirm(self, permit)

    async def admit_soon(self) -> Permit:
        """Admit one call, as `admit_now` does, without blocking the event loop."""
        permit = self.admit()
        return permit if self.outside is None else await self.outside.confirm_async(self, permit)

    def _tell_granted(self, permit: Permit | None, changes: list[Change]) -> None:
        try:
            self.tell(*changes)
        except BaseException:
            # Somebody who was told wants out: the call that was admitted will not be made.
            if permit is not None:
                permit.neutral()
            raise

    def refuse(self, now: float) -> CircuitOpenError:
        """Count one refused call and return its error; generated code does the same in its own lines."""
        self.rejected += 1
        self.tell_refusal(now)
        if self.mode is OPEN:
            return CircuitOpenError(self.name, self.until - now)
        return CircuitOpenError(self.name, None, self.mode)

    def tell_refusal(self, now: float) -> None:
        """Publish that a call was refused, by an error that is pybreaker's too if that is imported."""
        _pybreaker.join()
        if bus.entries:
            wait = self.until - now if self.mode is OPEN else None
            emit("CallRejected", self.name, policy="circuit_breaker", retry_after=wait)

    def judge(self, error: BaseException) -> tuple[bool | None, float | None]:
        """Return whether `error` is a failure (None: neutral), and a server's hint when to come back."""
        config = self.config
        if not isinstance(error, Exception):
            return None, None
        try:
            if config.exclude and any(_excludes(rule, error) for rule in config.exclude):
                return None, None
            verdict = _judge(config.on)(error)
        except Exception as raised:  # a predicate of the user's: counts as failure
            callback_failed(self.name, "predicate", raised)
            return True, None
        if verdict is Verdict.PERMANENT:
            return None, None
        return True, retry_after(error) if verdict is Verdict.THROTTLED else None

    def judge_result(self, result: object) -> bool:
        """Return whether the user's predicate calls `result` a failure; one that raises does."""
        try:
            return self.config.result is not None and bool(self.config.result(result))
        except Exception as raised:  # a predicate of the user's: counts as failure
            callback_failed(self.name, "result predicate", raised)
            return True

    def record(
        self, token: Any, started: float, failed: bool | None, hint: float | None = None
    ) -> Change | None:
        """Count one outcome, tell what it changed, and return it."""
        now = self.now()
        with self.lock:
            change = self._record(token, now, started, failed, hint)
        if change is not None:
            self.tell(change)
        return change

    def settle(self, permit: Permit, failed: bool | None, hint: float | None = None) -> None:
        """Count the outcome of a permit that is not settled yet, and tell what it changed."""
        self.tell(self.count(permit, failed, hint))

    def count(self, permit: Permit, failed: bool | None, hint: float | None = None) -> Change | None:
        """Count the outcome of a permit that is not settled yet; return what it changed, to be told."""
        now = self.now()
        with self.lock:
            if permit.settled:
                return None
            permit.settled = True
            probe = type(permit.token) is Probes
            if probe:
                change, shared = self._record_probe(permit, now, failed, hint), False
            else:
                shared = failed is not None and self.mode is CLOSED and self._current(permit.token)
                change = self._record(permit.token, now, permit.started, failed, hint)
        if probe and self.outside is not None:
            self.outside.probed(permit, change, now, failed=failed)
        elif shared and self.outside is not None:
            change = self.outside.share(self, change, failed=bool(failed))
        return change

    def _current(self, token: Any) -> bool:
        return (token.window if type(token) is Slot else token) is self.window

    def advance(self, now: float) -> Any:
        """Begin a new slot; return what counts successes from now on, None when calls must ask for admission."""
        with self.lock:
            change = None
            if self.watch is not None:
                self._rotate(now)
                change = self._evaluate(now)
        if change is not None:
            self.tell(change)
        return self.fast

    def override(self, mode: CircuitState) -> None:
        """Set a state by hand; every isolation is forgotten."""
        with self.lock:
            change = self._override(mode, self.now())
        self.tell(change)
        if self.outside is not None and mode is CLOSED and change.old is CLOSED:
            self.outside.forget()

    def _override(self, mode: CircuitState, now: float) -> Change:
        old = self.mode
        if mode is CLOSED or mode is SHADOW:
            self._start(mode, now)
        elif mode is HALF_OPEN:
            self._half_open(now)
        else:
            self._stop(mode, now, now + self._duration(None))
        return Change("CircuitOverridden", old, mode, state=mode.value)

    def hold(self, step: int) -> None:
        """Add (1) or undo (-1) one isolation; the first isolates, the last undone closes."""
        change = None
        with self.lock:
            before, holds = self.holds, max(0, self.holds + step)
            if bool(before) is not bool(holds):
                change = self._override(ISOLATED if holds else CLOSED, self.now())
            if holds:
                self.extra = holds
        self.tell(change)


def _excludes(rule: Any, error: Exception) -> bool:
    return isinstance(error, rule) if isinstance(rule, type) else bool(rule(error))


# What generated code calls.


def fail(machine: Machine, window: Any, error: BaseException) -> None:
    """Record an error of a call that was admitted without a permit."""
    failed, hint = machine.judge(error)
    if failed:
        machine.record(window, 0.0, failed, hint)


def fail_timed(machine: Machine, slot: Slot, started: float, error: BaseException) -> None:
    """Record an error where the duration counts too."""
    failed, hint = machine.judge(error)
    machine.record(slot, started, failed, hint)


def judged(machine: Machine, token: Any, started: float, result: object) -> None:
    """Record a result that the user's predicate has to judge."""
    machine.record(token, started, machine.judge_result(result))


def guard(permit: Permit, stack: Stack, depth: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make a call under a permit, and settle it."""
    machine = permit.owner
    if machine.outside is not None:
        permit = machine.outside.confirm(machine, permit)
    try:
        _before(machine, stack, args, kwargs)
        result = stack.below(depth)(*args, **kwargs)
    except BaseException as error:
        tripped = _settle_error(permit, machine, error)
        if tripped is not None:
            _raise_instead(tripped, error)
        raise
    _settle_result(permit, machine, result)
    return result


async def guard_async(
    permit: Permit, stack: Stack, depth: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Make an async call under a permit, and settle it."""
    machine = permit.owner
    if machine.outside is not None:
        permit = await machine.outside.confirm_async(machine, permit)
    try:
        _before(machine, stack, args, kwargs)
        result = await stack.below(depth)(*args, **kwargs)
    except BaseException as error:
        tripped = _settle_error(permit, machine, error)
        if tripped is not None:
            _raise_instead(tripped, error)
        raise
    _settle_result(permit, machine, result)
    return result


def _before(machine: Machine, stack: Stack, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if machine.outside is not None:
        machine.outside.before(machine, stack.target(args), stack.own(args), kwargs)


def _settle_error(permit: Permit, machine: Machine, error: BaseException) -> CircuitOpenError | None:
    """Settle a permit by an error; return what to raise instead of it, for pybreaker's way of reporting a trip."""
    failed, hint = machine.judge(error)
    change = machine.count(permit, failed, hint)
    outside = machine.outside
    if failed and outside is not None:
        outside.failed(machine, error)
    machine.tell(change)
    if outside is None or change is None or machine.mode is not OPEN or not outside.throw_on_trip:
        return None
    _pybreaker.join()
    return CircuitOpenError(machine.name, max(0.0, machine.until - machine.now()), OPEN)


def _raise_instead(tripped: CircuitOpenError, error: BaseException) -> NoReturn:
    try:
        raise tripped from error
    finally:
        del tripped, error


def leave(permit: Permit, error: BaseException | None) -> None:
    """Settle the permit of a block by how the block ended."""
    machine: Machine = permit.owner
    if error is None:
        _settle(permit, machine, failed=False)
        return
    tripped = _settle_error(permit, machine, error)
    if tripped is not None:
        _raise_instead(tripped, error)


def _settle_result(permit: Permit, machine: Machine, result: object) -> None:
    _settle(permit, machine, failed=machine.judge_result(result))


def _settle(permit: Permit, machine: Machine, *, failed: bool) -> None:
    change, outside = machine.count(permit, failed), machine.outside
    if failed and outside is not None:
        outside.failed(machine, None)
    machine.tell(change)
    if not failed and outside is not None:
        outside.succeeded(machine)


hot.update(
    _admit=Machine.admit,
    _advance=Machine.advance,
    _fail=fail,
    _fail_timed=fail_timed,
    _guard=guard,
    _guard_async=guard_async,
    _judged=judged,
    _record=Machine.record,
    _CircuitOpenError=CircuitOpenError,
    _bus=bus,
    _modules=modules,
    _pybreaker=_pybreaker,
    _tell_refusal=Machine.tell_refusal,
)
