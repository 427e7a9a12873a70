"""What does one step: a function, its policies, and how to ask afterwards what became of a call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias

from holdfast.infrastructure.resilience._compile import is_async_function
from holdfast.infrastructure.resilience._frozen import Faults, Frozen
from holdfast.infrastructure.resilience.classify import TRANSIENT, _check_errors, _judge
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.registry import resilient
from holdfast.services.jobs._imports import imported, reference_of
from holdfast.services.jobs.errors import HandlerNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from holdfast.infrastructure.resilience.classify import Errors, Verdict


@dataclass(frozen=True, slots=True)
class Done:
    """The call of an idempotency key was made: its result."""

    result: Any = None


@dataclass(frozen=True, slots=True)
class NotDone:
    """The call of an idempotency key was not made, and will not be any more."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody can tell whether the call was made: a person has to."""

    reason: str = ""


class Call:
    """What a handler may know of the call it makes. Made by the worker; `attempt` counts from 1.

    `deadline`: monotonic seconds by which it has to end, or None; `remaining()` knows it too.
    """

    __slots__ = ("_cancelled", "attempt", "deadline", "idempotency_key", "job", "key", "line")

    def __init__(
        self,
        *,
        job: str,
        key: str,
        line: int = 0,
        attempt: int = 1,
        idempotency_key: str = "",
        deadline: float | None = None,
    ) -> None:
        self.job = job
        self.key = key
        self.line = line
        self.attempt = attempt
        self.idempotency_key = idempotency_key
        self.deadline = deadline
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether the job was cancelled, or the worker stops: end soon. Async handlers are cancelled besides."""
        return self._cancelled

    def __repr__(self) -> str:
        """Show which call it is."""
        return f"Call(job={self.job!r}, key={self.key!r}, attempt={self.attempt})"


Function: TypeAlias = Callable[[Any], Any] | Callable[[Any, Call], Any]


class Handler(Frozen):
    """A function `fn(payload)` or `fn(payload, call)`, sync or async, that does one step, and what is known of it.

    `idempotent`: sending it again under the same idempotency key does no harm, so that it is after a crash.
    `policy`: a policy, or the name of one in the registry. `estimate(payload)` quotes a Decimal for the preview, under
    the same policy; `reconcile(key)` or `reconcile(key, payload)` gives Done, NotDone or Unknown; `validate(payload)`
    raises, or gives what to store instead; `on`: which errors may pass. Immutable. ConfigurationError with all faults.
    """

    __slots__ = (
        "_call",
        "_estimate",
        "_estimate_call",
        "_function",
        "_idempotent",
        "_judge",
        "_name",
        "_on",
        "_policy",
        "_reconcile",
        "_reconcile_call",
        "_validate",
    )

    _call: Callable[[Any, Call], Any]
    _estimate: Callable[..., Any] | None
    _estimate_call: Callable[[Any], Any] | None
    _function: Function
    _idempotent: bool
    _judge: Callable[[Exception], Verdict]
    _name: str
    _on: Errors
    _policy: Policy | None
    _reconcile: Callable[..., Any] | None
    _reconcile_call: Callable[[Any, Any], Any] | None
    _validate: Callable[[Any], Any] | None

    def __init__(
        self,
        function: Function,
        *,
        name: str | None = None,
        policy: Policy | str | None = None,
        idempotent: bool = False,
        estimate: Callable[[Any], Any] | None = None,
        reconcile: Callable[[str], Any] | Callable[[str, Any], Any] | None = None,
        validate: Callable[[Any], Any] | None = None,
        on: Errors = TRANSIENT,
    ) -> None:
        _check(
            function=function,
            name=name,
            policy=policy,
            idempotent=idempotent,
            estimate=estimate,
            reconcile=reconcile,
            validate=validate,
            on=on,
        )
        held = resilient(policy) if isinstance(policy, str) else policy
        self._set(
            _function=function,
            _name=reference_of(function) if name is None else name,
            _policy=held,
            _idempotent=idempotent,
            _estimate=estimate,
            _reconcile=reconcile,
            _validate=validate,
            _on=on,
            _judge=_judge(on),
            _call=_second(_under(held, function), function, "call"),
            _estimate_call=None if estimate is None else _under(held, estimate),
            _reconcile_call=None if reconcile is None else _second(reconcile, reconcile, "payload"),
        )

    @property
    def name(self) -> str:
        """The name by which jobs know it: `module:function` unless given."""
        return self._name

    @property
    def reference(self) -> str:
        """Where another process can import it, `module:attribute`; empty for a function within a function."""
        found = reference_of(self._function)
        return "" if "<" in found else found

    @property
    def function(self) -> Function:
        """The function as it was given."""
        return self._function

    @property
    def policy(self) -> Policy | None:
        """What its calls go through."""
        return self._policy

    @property
    def idempotent(self) -> bool:
        """Whether it may be sent again."""
        return self._idempotent

    @property
    def is_async(self) -> bool:
        """Whether it is a coroutine function; others run in threads."""
        return is_async_function(self._function)

    @property
    def can_estimate(self) -> bool:
        """Whether it can quote."""
        return self._estimate is not None

    @property
    def can_reconcile(self) -> bool:
        """Whether it can tell what became of a call."""
        return self._reconcile is not None

    def __call__(self, payload: Any, call: Call | None = None) -> Any:
        """Call the function under its policy, outside any job."""
        return self._call(payload, Call(job="", key="") if call is None else call)

    def __repr__(self) -> str:
        """Show the name."""
        return f"Handler({self._name!r})"


def handler(
    name: str | None = None,
    *,
    policy: Policy | str | None = None,
    idempotent: bool = False,
    estimate: Callable[[Any], Any] | None = None,
    reconcile: Callable[[str], Any] | Callable[[str, Any], Any] | None = None,
    validate: Callable[[Any], Any] | None = None,
    on: Errors = TRANSIENT,
) -> Callable[[Function], Handler]:
    """Return a decorator that makes a function a `Handler`."""
    if callable(name):
        raise TypeError(f"write @handler() with parentheses over {getattr(name, '__qualname__', name)!r}")

    def decorate(function: Function) -> Handler:
        return Handler(
            function,
            name=name,
            policy=policy,
            idempotent=idempotent,
            estimate=estimate,
            reconcile=reconcile,
            validate=validate,
            on=on,
        )

    return decorate


def resolve(reference: str) -> Handler:
    """Import `module:attribute`, a handler or a function. HandlerNotFoundError says what is missing."""
    found = imported(reference)
    if isinstance(found, Handler):
        return found
    if not callable(found):
        raise HandlerNotFoundError(reference, f"is {type(found).__name__}, no function", "name a function")
    return Handler(found, name=reference)


class Handlers:
    """The handlers that a process knows by name; with `imports`, others are imported when a job asks for them."""

    def __init__(self, handlers: Iterable[Handler | Function | str] = (), *, imports: bool = True) -> None:
        self._known: dict[str, Handler] = {}
        self._imports = imports
        for one in handlers:
            self.add(one)

    def add(self, handler: Handler | Function | str) -> Handler:
        """Know one more; a function becomes a handler, text is imported. ConfigurationError for a second of a name."""
        if isinstance(handler, str):
            known = self._known.get(handler)
            handler = resolve(handler) if known is None else known
        elif not isinstance(handler, Handler):
            handler = Handler(handler)
        known = self._known.setdefault(handler.name, handler)
        if known is not handler and known.function is not handler.function:
            faults = Faults("Handlers")
            problem = f"is the name of {known.function!r} already"
            faults.add("name", handler.name, problem, "give each handler a name of its own")
            faults.finish()
        return known

    def find(self, name: str, reference: str = "") -> Handler:
        """Return the handler of a name, imported from `reference` or its name if need be. HandlerNotFoundError."""
        known = self._known.get(name)
        if known is not None:
            return known
        if not self._imports or not (reference or ":" in name):
            raise HandlerNotFoundError(name, f"is unknown; known: {self._names()}", "give it to the worker")
        found = resolve(reference or name)
        return self._known.setdefault(name, found)

    @property
    def imports(self) -> bool:
        """Whether unknown ones are imported."""
        return self._imports

    def _names(self) -> str:
        return ", ".join(map(repr, self._known)) or "none"

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in the order in which they became known."""
        return iter(tuple(self._known))

    def __len__(self) -> int:
        """Return how many are known."""
        return len(self._known)

    def __contains__(self, name: object) -> bool:
        """Return whether a name is known."""
        return name in self._known


def _check(
    *,
    function: object,
    name: object,
    policy: object,
    idempotent: object,
    estimate: object,
    reconcile: object,
    validate: object,
    on: object,
) -> None:
    faults = Faults("Handler")
    ok = callable(function) and not isinstance(function, (type, Handler))
    faults.check(ok, "function", function, "is no function", "give a function of the payload")
    if ok:
        _check_signature(faults, function)
    faults.check(name is None or (isinstance(name, str) and name), "name", name, "is no name", "give text")
    ok = policy is None or isinstance(policy, (str, Policy))
    faults.check(ok, "policy", policy, "is no policy", "give a policy, or the name of one in the registry")
    faults.check(
        isinstance(idempotent, bool), "idempotent", idempotent, "is not a bool", "give True or False"
    )
    faults.callable("estimate", estimate)
    faults.callable("reconcile", reconcile)
    faults.callable("validate", validate, sync=True)
    _check_errors(faults, "on", on)
    faults.finish()


def _check_signature(faults: Faults, function: Any) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        faults.add("function", function, "is a generator", "return the result of one step instead")
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        takes = _takes_second(function, "call")
        faults.check(
            takes, "function", function, "cannot be called", "take (payload) or (payload, call), no more"
        )
    except ValueError:
        pass  # a function of C, which does not say


def _takes_second(function: Any, name: str) -> bool:
    """Return whether a function wants a second argument: one without a default, or one of that name."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        return False
    positional = [one for one in parameters if one.kind in {one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD}]
    if len(positional) < 2:  # noqa: PLR2004
        return False
    second = positional[1]
    needed = [one for one in positional[2:] if one.default is one.empty]
    return not needed and (second.default is second.empty or second.name == name)


def _second(call: Callable[..., Any], function: Any, name: str) -> Callable[[Any, Any], Any]:
    """Return `call` as a function of two arguments, whether or not it wants the second."""
    if _takes_second(function, name):
        return call
    return lambda first, _: call(first)


def _under(policy: Policy | None, function: Any) -> Callable[..., Any]:
    if policy is None:
        return function  # type: ignore[no-any-return]
    return policy(function if isinstance(function, FunctionType) else _plain_function(function))


def _plain_function(call: Any) -> Any:
    """Return a function that does what a bound method or a callable object does, for policies to hold."""

    async def awaited(*args: Any) -> Any:
        return await call(*args)

    def called(*args: Any) -> Any:
        return call(*args)

    function: Any = awaited if is_async_function(call) else called
    function.__qualname__ = function.__name__ = getattr(call, "__qualname__", type(call).__qualname__)
    return function
