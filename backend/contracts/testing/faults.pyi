"""Scripted faults: functions that fail, hang or dawdle as the script says."""

from collections.abc import Callable
from typing import Any

from holdfast.infrastructure.resilience.clock import Clock

class Step:
    """One step of a script: after `latency` seconds (infinite: hang) raise `error`, or return `result`."""

    error: BaseException | None
    result: Any
    latency: float
    def __init__(
        self, *, error: BaseException | None = None, result: Any = None, latency: float = 0.0
    ) -> None: ...

def fail(error: BaseException | type[BaseException] = ..., *, after: float = 0.0) -> Step:
    """Raise `error`, after `after` seconds: an instance as it is, of a class a new one each time."""

def succeed(result: Any = "ok", *, after: float = 0.0) -> Step:
    """Return `result`, after `after` seconds."""

def hang() -> Step:
    """Never return: sleep for a year of the clock, unless cancelled."""

class Script:
    """A dependency that plays `steps` one call after another and repeats the last one for ever; thread-safe.

    `script()` is the sync function, `await script.async_()` the async one; they remember any arguments.
    """

    def __init__(self, *steps: Step, clock: Clock | None = None) -> None: ...
    @property
    def calls(self) -> int:
        """How often it was called."""

    @property
    def arguments(self) -> tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]:
        """The arguments of every call, in order."""

    @property
    def times(self) -> tuple[float, ...]:
        """When each call came, monotonic seconds of its clock."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    async def async_(self, *args: Any, **kwargs: Any) -> Any:
        """Play the next step asynchronously."""

    def function(self) -> Callable[..., Any]:
        """Return a plain sync function that plays the script, to decorate."""

    def coroutine_function(self) -> Callable[..., Any]:
        """Return an `async def` function that plays the script, to decorate."""
