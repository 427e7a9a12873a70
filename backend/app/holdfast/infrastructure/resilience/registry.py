"""Pipelines by name: decorate with a name, say elsewhere what it means, and change that without decorating again."""

from __future__ import annotations

import os
import threading
import weakref

from holdfast.infrastructure.resilience import _compile
from holdfast.infrastructure.resilience._ambient import hot
from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.timeout import Timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from holdfast.infrastructure.resilience._bounds import Bounds
    from holdfast.infrastructure.resilience.pipeline import Explanation

_TOTAL = 30.0
_ATTEMPT = 10.0


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
        parts = (*entry.pipeline._parts(), *stack.parts[at + 1 :])
        call = _compile.Stack(parts, stack.fn, stack.signature, name).build(whole=True)[1]
        with registry._lock:
            if registry._entries.get(name) is entry:
                # Otherwise somebody has changed it meanwhile, and this call is the last one that does not know.
                entry.slots.add(self)
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
        """The pipeline of that name now; where nobody defined one, `recommended(name)` is defined."""
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

    def _shape(self) -> tuple[Any, ...]:
        return ("resilient",)

    def _bind(self) -> dict[str, Any]:
        return {"slot": _Slot(self)}

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
    """What a name means, and the functions that have looked it up."""

    __slots__ = ("pipeline", "slots")

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.slots: weakref.WeakSet[_Slot] = weakref.WeakSet()


class Registry:
    """Named pipelines. A change holds for the next call of every function decorated by name; calls that run go on.

    Safe to share between threads and tasks.
    """

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.RLock()
        _registries.add(self)

    def define(self, name: str, *policies: Policy, strict: bool = False) -> Pipeline:
        """Say what `name` means, outermost policy first; replaces what it meant. Give a policy again to keep its state.

        TypeError for what is no policy; with `strict`, ConfigurationError if `explain()` has warnings. Then
        nothing has changed.
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
        """Forget what a name means; the next call of a function decorated by it begins with `recommended(name)`."""
        self._put(name, None)

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
            old = self._entries.pop(name, None)
            if entry is not None:
                self._entries[name] = entry
            for slot in () if old is None else old.slots:
                slot.call = None

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is not None:
            return entry
        made = _Entry(recommended(name))
        with self._lock:
            return self._entries.setdefault(name, made)


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


def recommended(name: str) -> Pipeline:
    """Return a new pipeline called `name`: 30 s in all, 3 attempts on a budget, a circuit breaker, 10 s an attempt."""
    return Pipeline(
        Timeout(_TOTAL),
        Retry(budget=RetryBudget(name)),
        CircuitBreaker(name),
        Timeout(_ATTEMPT),
        name=name,
    )
