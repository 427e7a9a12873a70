"""What does one step: a function, its policies, and how to ask afterwards what became of a call."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from holdfast.infrastructure.resilience.classify import Errors
from holdfast.infrastructure.resilience.policy import Policy

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

    job: str
    key: str
    line: int
    attempt: int
    idempotency_key: str
    deadline: float | None

    def __init__(
        self,
        *,
        job: str,
        key: str,
        line: int = 0,
        attempt: int = 1,
        idempotency_key: str = "",
        deadline: float | None = None,
    ) -> None: ...
    @property
    def cancelled(self) -> bool:
        """Whether the job was cancelled, or the worker stops: end soon. Async handlers are cancelled besides."""

Function: TypeAlias = Callable[[Any], Any] | Callable[[Any, Call], Any]

class Handler:
    """A function `fn(payload)` or `fn(payload, call)`, sync or async, that does one step, and what is known of it.

    `idempotent`: sending it again under the same idempotency key does no harm, so that it is after a crash.
    `policy`: a policy, or the name of one in the registry. `estimate(payload)` quotes a Decimal for the preview, under
    the same policy; `reconcile(key)` or `reconcile(key, payload)` gives Done, NotDone or Unknown; `validate(payload)`
    raises, or gives what to store instead; `on`: which errors may pass. Immutable. ConfigurationError with all faults.
    """

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
        on: Errors = ...,
    ) -> None: ...
    @property
    def name(self) -> str:
        """The name by which jobs know it: `module:function` unless given."""
    @property
    def reference(self) -> str:
        """Where another process can import it, `module:attribute`; empty for a function within a function."""
    @property
    def function(self) -> Function:
        """The function as it was given."""
    @property
    def policy(self) -> Policy | None:
        """What its calls go through."""
    @property
    def idempotent(self) -> bool:
        """Whether it may be sent again."""
    @property
    def is_async(self) -> bool:
        """Whether it is a coroutine function; others run in threads."""
    @property
    def can_estimate(self) -> bool:
        """Whether it can quote."""
    @property
    def can_reconcile(self) -> bool:
        """Whether it can tell what became of a call."""
    def __call__(self, payload: Any, call: Call | None = None) -> Any:
        """Call the function under its policy, outside any job."""

def handler(
    name: str | None = None,
    *,
    policy: Policy | str | None = None,
    idempotent: bool = False,
    estimate: Callable[[Any], Any] | None = None,
    reconcile: Callable[[str], Any] | Callable[[str, Any], Any] | None = None,
    validate: Callable[[Any], Any] | None = None,
    on: Errors = ...,
) -> Callable[[Function], Handler]:
    """Return a decorator that makes a function a `Handler`."""

def resolve(reference: str) -> Handler:
    """Import `module:attribute`, a handler or a function. HandlerNotFoundError says what is missing."""

class Handlers:
    """The handlers that a process knows by name; with `imports`, others are imported when a job asks for them."""

    def __init__(
        self, handlers: Iterable[Handler | Function | str] = (), *, imports: bool = True
    ) -> None: ...
    def add(self, handler: Handler | Function | str) -> Handler:
        """Know one more; a function becomes a handler, text is imported. ConfigurationError for a second of a name."""
    def find(self, name: str, reference: str = "") -> Handler:
        """Return the handler of a name, imported from `reference` or its name if need be. HandlerNotFoundError."""
    @property
    def imports(self) -> bool:
        """Whether unknown ones are imported."""
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...
    def __contains__(self, name: object) -> bool: ...
