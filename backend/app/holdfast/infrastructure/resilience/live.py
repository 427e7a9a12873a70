"""A configuration that changes while calls run: reload, apply, audit trail; a bad one changes nothing."""

from __future__ import annotations

import os
import threading
import weakref

from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience._audit import Trail, differences, plain
from holdfast.infrastructure.resilience._bus import callback_failed
from holdfast.infrastructure.resilience._environment import FILE
from holdfast.infrastructure.resilience._frozen import Faults, Frozen, FrozenDict
from holdfast.infrastructure.resilience._sources import Reader
from holdfast.infrastructure.resilience._state import Known, export
from holdfast.infrastructure.resilience._watch import FileWatch
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.config import _shown
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.resilience.presets import STRATEGIES
from holdfast.infrastructure.resilience.registry import Registry, recommended
from holdfast.infrastructure.resilience.registry import registry as _common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from holdfast.infrastructure.resilience._strategies import Plan
    from holdfast.infrastructure.resilience.config import Configuration, OperationSettings
    from holdfast.infrastructure.resilience.pipeline import Pipeline

    _Plans = Mapping[str, tuple[Pipeline, Plan | None]]

_MOST_AUDIT = 100_000
_LENGTH = 200
_NOTHING: Mapping[str, Any] = FrozenDict()


class Change(Frozen):
    """One line of the audit trail: who changed what when, what was before and after; `error` if it was refused.

    `at` is a Unix time; `changed` has what differs, by path, before and after.
    """

    __slots__ = ("action", "actor", "after", "at", "before", "changed", "error", "number", "reason")

    number: int
    at: float
    actor: str
    action: str
    reason: str | None
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    changed: Mapping[str, tuple[object, object]]
    error: str | None

    def __init__(
        self,
        *,
        number: int,
        at: float,
        actor: str,
        action: str,
        reason: str | None = None,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        changed: Mapping[str, tuple[object, object]],
        error: str | None = None,
    ) -> None:
        self._set(
            number=number,
            at=at,
            actor=actor,
            action=action,
            reason=reason,
            before=before,
            after=after,
            changed=changed,
            error=error,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts; `at` is a Unix time."""
        return {**self._fields(), "changed": {path: list(pair) for path, pair in self.changed.items()}}


def _read_change(facts: Mapping[str, Any]) -> Change:
    changed = {path: (pair[0], pair[1]) for path, pair in facts["changed"].items()}
    fields: dict[str, Any] = {**facts, "changed": changed, "number": int(facts["number"])}
    return Change(**fields)


class LiveConfiguration:
    """What the names of a registry mean, by configuration; calls that run go on, breakers and budgets keep their state.

    Names defined in code stay as they are. While no source says anything, only registered operations follow it. Of
    several for one registry the newest counts. Safe to share between threads and tasks.
    """

    def __init__(
        self,
        registry: Registry = _common,
        *,
        file: str | Path | None = None,
        environ: Mapping[str, str] | None = None,
        audit: int = 1000,
        audit_file: str | Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        faults = Faults("LiveConfiguration")
        faults.number("audit", audit, 1, _MOST_AUDIT, whole=True)
        faults.check(
            clock is None or isinstance(clock, Clock), "clock", clock, "is no Clock", "give one or None"
        )
        faults.finish()
        self._registry = registry
        self._file = file
        self._environ = environ
        self._clock = clock
        self._changing = threading.RLock()
        # What was chosen and applied while it ran.
        self._preset: str | None = None
        self._custom: Mapping[str, Any] | None = None
        self._version = 0
        self._known = Known()
        self._subscribers: tuple[Callable[[Change], object], ...] = ()
        self._watches: list[FileWatch] = []
        self._current = self._reader().read(preset=None, file=file, environ=environ, custom=None)
        self._trail = Trail(audit, audit_file, _read_change)
        _all.add(self)
        self._attach()

    def _attach(self) -> None:
        registry = self._registry
        with registry._lock:
            registry._provider = self
            registry._outdate(*(name for name in registry._pipelines(made=True) if self._follows(name)))

    @property
    def registry(self) -> Registry:
        """The registry whose names it gives a meaning."""
        return self._registry

    @property
    def current(self) -> Configuration:
        """The configuration now."""
        return self._current

    @property
    def version(self) -> int:
        """How often it changed."""
        return self._version

    @property
    def operations(self) -> Sequence[str]:
        """The registered operations and the names in use that code did not define, sorted."""
        registry = self._registry
        with registry._lock:
            return tuple(sorted({*registry._operations, *registry._pipelines(made=True)}))

    def operation(self, name: str) -> OperationSettings:
        """Return what an operation gets, by configuration and code. LookupError for one that is not registered."""
        if name not in self.operations:
            known = ", ".join(map(repr, self.operations)) or "none yet"
            raise LookupError(f"no operation is called {_shown(name)!r}; known: {known}")
        return self._current._operation(name, self._code(name))

    def register(
        self,
        operation: str,
        *,
        strategy: str | None = None,
        attempts: int | None = None,
        deadline: float | None = None,
        threshold: int | None = None,
        recovery: float | None = None,
        half_open_calls: int | None = None,
    ) -> None:
        """Register an operation, so that overrides may name it; what is given here is what code says, which wins.

        `attempts` 1-20, `deadline` 0.1-3600 s, `threshold` 1-100, `recovery` 1-3600 s, `half_open_calls` 1-10;
        ConfigurationError otherwise.
        """
        code = _code_of(
            operation,
            strategy=strategy,
            attempts=attempts,
            deadline=deadline,
            threshold=threshold,
            recovery=recovery,
            half_open_calls=half_open_calls,
        )
        self._registry._register(operation, code)

    def apply(
        self,
        settings: str | bytes | Mapping[str, Any],
        *,
        actor: str,
        reason: str | None = None,
        preset: str | None = None,
    ) -> Change:
        """Apply a custom configuration on top of preset, file and environment, in the place of the one applied before.

        With `preset`, change to that too. ConfigurationError: nothing changed.
        """
        preset = self._preset if preset is None else preset
        return self._change("apply", actor, reason, preset=preset, custom=settings)

    def use_preset(self, preset: str, *, actor: str, reason: str | None = None) -> Change:
        """Change to a preset; a custom configuration applied before is dropped. ConfigurationError if it is unknown."""
        return self._change("preset", actor, reason, preset=preset, custom=None)

    def withdraw(self, *, actor: str, reason: str | None = None) -> Change:
        """Drop what was applied and the preset that was chosen while running: file and environment hold again."""
        return self._change("withdraw", actor, reason, preset=None, custom=None)

    def reload(self, *, actor: str, reason: str | None = None) -> Change:
        """Read file and environment again; what was applied stays on top. ConfigurationError: nothing changed."""
        return self._change("reload", actor, reason, preset=self._preset, custom=self._custom)

    def record(
        self,
        *,
        actor: str,
        action: str,
        target: str,
        before: object,
        after: object,
        reason: str | None = None,
    ) -> Change:
        """Write a change that something else made, such as a breaker isolated by hand, into the audit trail."""
        old, new = {_shown(target): plain(before)}, {_shown(target): plain(after)}
        change = self._note(action, actor, reason, before=old, after=new)
        self._tell(change)
        return change

    def audit(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> list[Change]:
        """Return changes, newest first; `before` is the number of a change, for the next page."""
        found: list[Change] = []
        for change in self._trail.newest():
            if len(found) >= limit:
                break
            if (
                (actor is None or change.actor == actor)
                and (action is None or change.action == action)
                and (before is None or change.number < before)
            ):
                found.append(change)
        return found

    def subscribe(self, callback: Callable[[Change], object]) -> Callable[[], None]:
        """Call `callback` after every line of the audit trail; what is returned ends that."""
        with self._changing:
            self._subscribers = (*self._subscribers, callback)

        def end() -> None:
            with self._changing:
                self._subscribers = tuple(one for one in self._subscribers if one is not callback)

        return end

    def watch(self, *, interval: float = 1.0) -> Callable[[], None]:
        """Reload in a thread when the file changes, as actor `file`; what is returned ends that.

        The file is read once it was the same for `interval` seconds. ConfigurationError where there is no file.
        """
        faults = Faults("LiveConfiguration.watch")
        faults.number("interval", interval, 0, 86_400, above=True)
        environ = os.environ if self._environ is None else self._environ
        path = self._file or environ.get(FILE)
        faults.check(path, "file", path, "is no file to watch", f"give file=, or set {FILE}")
        faults.finish()
        watch = FileWatch(str(path), lambda: self._reload_quietly("file"))
        watch.start(self._clock or ambient.clock, interval)
        self._watches.append(watch)
        return watch.stop

    def on_signal(self, number: int | None = None) -> None:
        """Reload at a signal (by default SIGHUP), as actor `signal`. ValueError outside the main thread."""
        import signal

        if number is None:
            number = getattr(signal, "SIGHUP", None)
        if number is None:
            raise ValueError("there is no SIGHUP on this system: give the number of another signal")

        # In a thread: the handler interrupts the main thread wherever it is, locks held or not.
        def handler(_number: int, _frame: object) -> None:
            threading.Thread(target=self._reload_quietly, args=("signal",), daemon=True).start()

        signal.signal(number, handler)

    def export_state(self) -> dict[str, Any]:
        """Return what the registry's breakers and budgets know, as JSON-able facts that another process can import."""
        registry = self._registry
        with registry._lock:
            pipelines = [entry.pipeline for entry in registry._entries.values()]
        return export(pipelines, self._known)

    def import_state(self, state: Mapping[str, Any]) -> None:
        """Take over exported state; names that nobody has used yet find theirs when they are first called.

        Wall time since the export counts as time that passed. ValueError if malformed; then nothing is taken.
        """
        registry = self._registry
        with registry._lock:
            self._known.take(state)
            told = [one for entry in registry._entries.values() for one in self._known.give(entry.pipeline)]
        for breaker, change in told:
            breaker._machine.tell(change)

    def close(self) -> None:
        """End every watch and let go of the registry; its names keep what they mean now."""
        for watch in self._watches:
            watch.stop()
        with self._registry._lock:
            if self._registry._provider is self:
                self._registry._provider = None

    # What the registry asks, with its lock held.

    def _follows(self, name: str) -> bool:
        """Return whether a name that code did not define follows the configuration."""
        return self._current.given or self._version > 0 or name in self._registry._operations

    def _make(self, name: str, like: Pipeline | None) -> Pipeline:
        if self._follows(name):
            plan = self._current._plan(name, self._code(name), like)
            plan.commit()
            made = plan.pipeline
        else:
            made = like or recommended(name)
        self._known.give(made)
        return made

    def _code(self, name: str) -> Mapping[str, Any]:
        return self._registry._operations.get(name, _NOTHING)

    # How it changes.

    def _reader(self) -> Reader:
        return Reader(self.operations)

    def _change(
        self, action: str, actor: str, reason: str | None, *, preset: str | None, custom: Any
    ) -> Change:
        refused: Exception | None = None
        with self._changing:
            reader, before = self._reader(), self._current.as_dict()
            try:
                after = reader.read(preset=preset, file=self._file, environ=self._environ, custom=custom)
                self._put_in_place(after)
            except Exception as raised:
                refused = raised
                change = self._note(action, actor, reason, before=before, after=before, error=_told(raised))
            else:
                self._preset, self._custom = preset, reader.applied
                change = self._note(action, actor, reason, before=before, after=after.as_dict())
        self._tell(change)
        if refused is not None:
            raise refused
        return change

    def _put_in_place(self, after: Configuration) -> None:
        """Give every name that follows the configuration its new meaning, all at once, or none."""
        registry = self._registry
        ready = self._plans(after, {})
        with registry._lock:
            if registry._provider is not self:
                raise RuntimeError("another configuration has taken over this registry: change that one")
            # Those that were made meanwhile.
            plans = {name: plan for name, (_, plan) in self._plans(after, ready).items() if plan is not None}
            for plan in plans.values():
                plan.commit()
            registry._replace({name: plan.pipeline for name, plan in plans.items()})
            self._version += after != self._current
            self._current = after

    def _plans(self, after: Configuration, ready: _Plans) -> _Plans:
        """Return, for each name that was made, the pipeline it has and what takes its place; `ready` is used again."""
        return {
            name: ready[name]
            if name in ready and ready[name][0] is like
            else (like, self._plan(after, name, like))
            for name, like in self._registry._pipelines(made=True).items()
        }

    def _plan(self, after: Configuration, name: str, like: Pipeline) -> Plan | None:
        return after._plan(name, self._code(name), like) if self._differs(after, name) else None

    def _differs(self, after: Configuration, name: str) -> bool:
        before, code = self._current, self._code(name)
        if not self._follows(name):
            return after.given
        if before.enabled is not after.enabled:
            return True
        return before._operation(name, code)._numbers() != after._operation(name, code)._numbers()

    def _reload_quietly(self, actor: str) -> None:
        try:
            self.reload(actor=actor)
        except ConfigurationError as error:  # it is in the audit trail too
            import logging

            logging.getLogger("holdfast").error("the configuration was not reloaded: %s", error)  # noqa: TRY400

    def _note(
        self,
        action: str,
        actor: str,
        reason: str | None,
        *,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        error: str | None = None,
    ) -> Change:
        at = (self._clock or ambient.clock).time()
        return self._trail.add(
            lambda number: Change(
                number=number,
                at=at,
                actor=str(actor)[:_LENGTH],
                action=str(action)[:_LENGTH],
                reason=None if reason is None else str(reason)[:_LENGTH],
                before=before,
                after=after,
                changed=differences(before, after, without=("sources",)),
                error=error,
            )
        )

    def _tell(self, change: Change) -> None:
        for callback in self._subscribers:
            try:
                callback(change)
            except Exception as error:  # a subscriber must not undo the change
                callback_failed("configuration", "subscriber", error)


def _told(error: Exception) -> str:
    """Return an error without the values that were given: they may be secret."""
    if not isinstance(error, ConfigurationError):
        return f"{type(error).__name__}: {_shown(str(error))}"
    return "; ".join(f"{fault.path} {fault.problem}" for fault in error.faults[:20])


def _code_of(operation: str, *, strategy: str | None = None, **numbers: float | None) -> Mapping[str, Any]:
    """Return what code says of an operation, checked."""
    faults = Faults("operation")
    given: object = operation
    faults.check(
        isinstance(given, str) and given,
        "operation",
        operation,
        "is no name",
        'give text, for example "payments"',
    )
    if strategy is not None:
        remedy = f"give one of {', '.join(STRATEGIES)}"
        faults.check(strategy in STRATEGIES, "strategy", strategy, "is no strategy", remedy)
    for name, value in numbers.items():
        low, high = _CODE[name]
        faults.number(name, value, low, high, whole=name in _WHOLE, optional=True)
    faults.finish()
    said = {"strategy": strategy, **numbers}
    return FrozenDict({name: value for name, value in said.items() if value is not None})


_CODE = {
    "attempts": (1, 20),
    "deadline": (0.1, 3600),
    "threshold": (1, 100),
    "recovery": (1, 3600),
    "half_open_calls": (1, 10),
}
_WHOLE = {"attempts", "threshold", "half_open_calls"}
_all: weakref.WeakSet[LiveConfiguration] = weakref.WeakSet()
_starting = [threading.RLock()]


def _renew_locks() -> None:
    _starting[0] = threading.RLock()
    for one in _all:
        one._changing = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def live() -> LiveConfiguration:
    """Return the process's own live configuration, over the common registry and the process's environment."""
    with _starting[0]:
        provider = _common._provider
        return provider if isinstance(provider, LiveConfiguration) else LiveConfiguration()
