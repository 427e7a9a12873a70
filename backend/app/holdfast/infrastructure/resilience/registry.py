"""Pipelines by name: decorate with a name, say elsewhere what it means, and change that without decorating again."""

from __future__ import annotations

import os
import threading
import weakref

from holdfast.infrastructure.resilience import _compile, _environment, _recommended
from holdfast.infrastructure.resilience._ambient import hot
from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.resilience.meter import Meter
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.policy import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping
    from typing import Any, Protocol

    from holdfast.infrastructure.resilience._bounds import Bounds
    from holdfast.infrastructure.resilience.pipeline import Explanation

    class _Provider(Protocol):
        """What knows the meaning of names that code did not define."""

        def _make(self, name: str, like: Pipeline | None) -> Pipeline: ...


class _Slot:
    """Where one compiled function finds what its name means: `call` is None until it is looked up (again)."""

    __slots__ = ("__weakref__", "call", "resilient")

    def __init__(self, resilient: Resilient) -> None:
        self.resilient = resilient
        self.call: Any = None

    def renew(self, stack: _compile.Stack, at: int) -> Any:
        """Compile the pipeline of the name and all that lies below into one function."""
        name, registry = self.resilient._name, self.resilient._registry
        entry = registry._entry(name)
        own = (*self.resilient._around(), *entry.pipeline._parts())
        parts = (registry._meter(name), *own, *stack.parts[at + 1 :])
        call = _compile.stack(parts, stack.fn, stack.signature, name).build(whole=True)[1]
        _compile._remember(call, parts)
        with registry._lock:
            if registry._entries.get(name) is entry and not entry.stale:
                # Otherwise somebody has changed it meanwhile, and this call is the last one that does not know.
                self.call = call
        return call


class Resilient(Policy):
    """The pipeline that a registry has under a name, looked up when it is called. Made by `resilient`."""

    __slots__ = ("_name", "_registry")

    def __init__(self, registry: Registry, name: str) -> None:
        faults = Faults("resilient")
        given: object = name
        faults.check(
            isinstance(given, str) and given, "name", name, "is no name", 'give text, for example "payments"'
        )
        faults.finish()
        self._registry = registry
        self._name = name

    @property
    def name(self) -> str:
        """The name in the registry."""
        return self._name

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of that name now; where nobody defined one, it is made: see `Registry`."""
        return self._registry._entry(self._name).pipeline

    def explain(self, *, strict: bool = False) -> Explanation:
        """Explain the pipeline of that name as it is now; `strict` as for a pipeline."""
        return self.pipeline.explain(strict=strict)

    def __repr__(self) -> str:
        """Show the name."""
        return f"resilient({self._name!r})"

    def _label(self) -> str:
        return self._name

    def _current(self) -> tuple[Policy, ...]:
        return self.pipeline.policies

    def _around(self) -> tuple[Policy, ...]:
        """Return what stands between the name's meter and its pipeline."""
        return ()

    def _shape(self) -> tuple[Any, ...]:
        return ("resilient",)

    def _bind(self) -> dict[str, Any]:
        return {"slot": self._registry._slot(self)}

    def _emit(self, code: _compile.Code, at: int, inner: Callable[[], None]) -> None:
        code.line(f"_call{at} = _slot{at}.call")
        with code.block(f"if _call{at} is None:"):
            code.line(f"_call{at} = _renew(_slot{at}, _stack, {at})")
        arguments = code.signature.call if code.signature is not _compile.CALLER else "_fn, *_args, **_kwargs"
        code.line(f"_result = {code.await_}_call{at}({arguments})")

    def _bounds(self, inner: Bounds) -> Bounds:
        for policy in reversed(self._current()):
            inner = policy._bounds(inner)
        return inner


hot["_renew"] = _Slot.renew


class _Entry:
    """What a name means.

    `made`: by the configuration or as recommended, not by code; `stale`: to be made again at the next look.
    """

    __slots__ = ("made", "pipeline", "stale")

    def __init__(self, pipeline: Pipeline, *, made: bool = False) -> None:
        self.pipeline = pipeline
        self.made = made
        self.stale = False


class Registry:
    """Named pipelines. A change holds for the next call of every function decorated by name; calls that run go on.

    A name that nobody defined means what the configuration says, if there is one, else `recommended(name)`. Safe to
    share between threads and tasks.
    """

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._slots: dict[str, weakref.WeakSet[_Slot]] = {}
        # Kept when a name gets another meaning, so that its counts go on.
        self._meters: dict[str, Meter] = {}
        self._lock = threading.RLock()
        # What gives a meaning to names that code did not define, and the operations that code registered.
        self._provider: _Provider | None = None
        self._operations: dict[str, Mapping[str, Any]] = {}
        _registries.add(self)

    def define(self, name: str, *policies: Policy, strict: bool = False) -> Pipeline:
        """Say what `name` means, outermost policy first; replaces what it meant. Give a policy again to keep its state.

        TypeError for what is no policy, or cannot hold the functions decorated by the name; with `strict`,
        ConfigurationError if `explain()` has warnings. Then nothing has changed.
        """
        named = Resilient(self, name)
        pipeline = Pipeline(*policies, name=name)
        if any(isinstance(policy, Resilient) for policy in pipeline.policies):
            raise TypeError(f"{named!r} cannot be made of names: give the policies themselves")
        if strict:
            pipeline.explain(strict=True)
        self._put(name, _Entry(pipeline))
        return pipeline

    def get(self, name: str) -> Pipeline:
        """Return the pipeline of a name. LookupError, with the names there are, for one that nobody defined."""
        entry = self._entries.get(name)
        if entry is None:
            known = ", ".join(map(repr, sorted(self._entries))) or "none yet"
            raise LookupError(f"no pipeline is called {name!r}; known: {known}; define it first")
        return entry.pipeline

    def discard(self, name: str) -> None:
        """Forget what a name means; the next call of a function decorated by it finds what it means undefined."""
        self._put(name, None)
        self._meters.pop(name, None)

    def resilient(self, name: str) -> Resilient:
        """Return a policy that calls through the pipeline of that name."""
        return Resilient(self, name)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names there are now, sorted."""
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        """Return whether somebody defined, or used, a name."""
        return name in self._entries

    def _put(self, name: str, entry: _Entry | None) -> None:
        with self._lock:
            if entry is None:
                self._entries.pop(name, None)
            else:
                if self._slots.get(name):
                    _require_whole(entry.pipeline)
                self._entries[name] = entry
            self._forget(name)

    def _slot(self, resilient: Resilient) -> _Slot:
        """Return the slot of a function that is being decorated, in which every change of its name is noted."""
        name, slot = resilient._name, _Slot(resilient)
        with self._lock:
            entry = self._entries.get(name)
            if entry is not None:
                _require_whole(entry.pipeline)
            self._slots.setdefault(name, weakref.WeakSet()).add(slot)
        return slot

    def _forget(self, name: str) -> None:
        """Have the functions decorated by a name look it up again; take the lock around it."""
        for slot in self._slots.get(name, ()):
            slot.call = None

    def _meter(self, name: str) -> Meter:
        return self._meters.get(name) or self._meters.setdefault(name, Meter(name))

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is not None and not entry.stale:
            return entry
        # Before the lock is taken: it may be what makes the process's configuration, and reads files.
        self._look_for_configuration(name)
        with self._lock:
            return self._made(name)

    def _made(self, name: str) -> _Entry:
        old = self._entries.get(name)
        if old is not None and not old.stale:
            return old
        like = None if old is None else old.pipeline
        pipeline = (like or recommended(name)) if self._provider is None else self._provider._make(name, like)
        entry = self._entries[name] = _Entry(pipeline, made=True)
        self._forget(name)
        return entry

    def _look_for_configuration(self, name: str) -> None:
        if self._provider is not None or self is not registry:
            return
        if name in self._operations or _environment.is_configured(os.environ):
            from holdfast.infrastructure.resilience.live import live

            live()

    def _register(self, operation: str, code: Mapping[str, Any]) -> None:
        """Note an operation that follows the configuration, and what code says of it."""
        with self._lock:
            self._operations[operation] = code
            self._outdate(operation)

    def _outdate(self, *names: str) -> None:
        """Have names made again when they are next looked up; code's own stay."""
        with self._lock:
            for name in names:
                entry = self._entries.get(name)
                if entry is not None and entry.made:
                    entry.stale = True
                    self._forget(name)

    def _pipelines(self, *, made: bool) -> dict[str, Pipeline]:
        """Return the pipelines of names that were (not) made."""
        with self._lock:
            return {name: entry.pipeline for name, entry in self._entries.items() if entry.made is made}

    def _replace(self, pipelines: Mapping[str, Pipeline]) -> None:
        """Give many names another meaning, so that no call sees one before and one after; take the lock around it."""
        for name in pipelines:
            # While the lock is held nobody can put a compiled function back.
            self._forget(name)
        self._entries = {**self._entries, **{name: _Entry(one, made=True) for name, one in pipelines.items()}}


def _require_whole(pipeline: Pipeline) -> None:
    for policy in pipeline.policies:
        policy._require(whole=True)


_registries: weakref.WeakSet[Registry] = weakref.WeakSet()


def _renew_locks() -> None:
    for one in _registries:
        one._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)

registry = Registry()


def resilient(name: str) -> Resilient:
    """Return a policy that calls through the pipeline which the common `registry` has under `name`."""
    return registry.resilient(name)


def recommended(name: str, kind: str = "general", *, key: Callable[..., Hashable] | None = None) -> Pipeline:
    """Return a new pipeline called `name` for a `kind` of use, as the lab found it best.

    general: 30 s in all, 3 attempts on a budget, a circuit breaker, 10 s an attempt; interactive: shorter times and an
    adaptive concurrency limit; batch: 8 attempts that wait for the breaker, too; sharded: a breaker for each `key`, a
    function of the call's arguments; idempotent-read: a hedge. ConfigurationError for another kind, or a key too
    many or too few.
    """
    return _recommended.make(name, kind, key)
