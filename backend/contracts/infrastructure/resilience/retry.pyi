"""Retry: try again what fails in passing, within attempts, deadline and budget."""

from collections.abc import AsyncIterator, Callable, Iterator
from random import Random
from types import TracebackType
from typing import Any, ParamSpec, TypeAlias, TypeVar, overload

from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.classify import Errors
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy

_P = ParamSpec("_P")
_T = TypeVar("_T")

_StateFunction: TypeAlias = Callable[[Any], Any]

class RetryConfig:
    """The settings of a `Retry`, validated: frozen, keyword-only, comparable."""

    attempts: int | None
    wait: Backoff | _StateFunction | float
    on: Errors | _StateFunction
    result: Callable[[Any], bool] | None
    deadline: float | None
    budget: RetryBudget | None
    hint_cap: float
    nested: bool
    stop: _StateFunction | None
    before: _StateFunction | None
    after: _StateFunction | None
    before_sleep: _StateFunction | None
    name: str | None
    clock: Clock | None
    random: Random | None
    def __init__(
        self,
        *,
        attempts: int | None = 3,
        wait: Backoff | _StateFunction | float = ...,
        on: Errors | _StateFunction = ...,
        result: Callable[[Any], bool] | None = None,
        deadline: float | None = None,
        budget: RetryBudget | None = None,
        hint_cap: float = 5.0,
        nested: bool = False,
        stop: _StateFunction | None = None,
        before: _StateFunction | None = None,
        after: _StateFunction | None = None,
        before_sleep: _StateFunction | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None: ...

class Retry(Policy):
    """Make up to `attempts` attempts (None: no limit), `wait` apart, for errors that `on` calls transient.

    `result` says which results are failures too; `deadline` bounds all attempts and waits, seconds; a server's hint
    t waits t to t + `hint_cap`. `on`, `wait`, `stop`, `before`, `after`, `before_sleep` take tenacity's objects and
    functions of its RetryCallState. In a named pipeline it leaves retrying to the retry of a named pipeline around
    it, unless `nested`. It gives up by raising the original error with a note; where a policy below refused the last
    attempt, by raising that refusal, caused by the error before it.
    """

    def __init__(
        self,
        attempts: int | None = 3,
        *,
        wait: Backoff | _StateFunction | float = ...,
        on: Errors | _StateFunction = ...,
        result: Callable[[Any], bool] | None = None,
        deadline: float | None = None,
        budget: RetryBudget | None = None,
        hint_cap: float = 5.0,
        nested: bool = False,
        stop: _StateFunction | None = None,
        before: _StateFunction | None = None,
        after: _StateFunction | None = None,
        before_sleep: _StateFunction | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None: ...
    @property
    def config(self) -> RetryConfig:
        """The settings."""

    @property
    def name(self) -> str | None:
        """The name in events; a decorated function's own name stands in when there is none."""

    def replace(self, **changes: Any) -> Retry:
        """Return a retry with some settings changed. ConfigurationError as at construction."""

    def __iter__(self) -> Iterator[Attempt]:
        """Yield attempts for a block: `for attempt in retry: with attempt: …`; each loop is a call of its own."""

    def __aiter__(self) -> AsyncIterator[Attempt]:
        """Yield attempts for an async block: `async for attempt in retry: with attempt: …`."""

class Attempt:
    """One attempt of a loop over a `Retry`; as a `with` block it swallows the error that will be retried."""

    def __init__(self, tries: Any, until: float | None) -> None: ...
    @property
    def number(self) -> int:
        """Which attempt this is, from 1."""

    def set_result(self, result: object) -> None:
        """Hand over the block's result, so that the retry's `result` predicate can judge it."""

    def __enter__(self) -> Attempt: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool: ...

@overload
def retry(fn: Callable[_P, _T], /) -> Callable[_P, _T]:
    """Decorate with `Retry()`, or with `Retry(**settings)` when called with settings."""

@overload
def retry(
    fn: None = None,
    /,
    *,
    attempts: int | None = 3,
    wait: Backoff | _StateFunction | float = ...,
    on: Errors | _StateFunction = ...,
    result: Callable[[Any], bool] | None = None,
    deadline: float | None = None,
    budget: RetryBudget | None = None,
    hint_cap: float = 5.0,
    nested: bool = False,
    stop: _StateFunction | None = None,
    before: _StateFunction | None = None,
    after: _StateFunction | None = None,
    before_sleep: _StateFunction | None = None,
    name: str | None = None,
    clock: Clock | None = None,
    random: Random | None = None,
) -> Retry: ...
def current_attempt() -> int:
    """Return the number of the attempt that the caller runs in, from 1; 1 outside any retry."""
