"""One driver for sync and async: a scenario is written once, as `async def`, and runs in both modes."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial, reduce, wraps
from types import TracebackType
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from holdfast.infrastructure.resilience.clock import SYSTEM
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.retry import Attempt, Retry
from holdfast.infrastructure.resilience.timeout import abandoned_workers
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script

# Longer than a script hangs.
_YEARS = 2 * 365 * 86_400.0

Mode: TypeAlias = Literal["sync", "async"]
Form: TypeAlias = Literal["decorators", "pipeline", "call"]
Scenario: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]
Source: TypeAlias = Script | Scenario
Function: TypeAlias = Callable[..., Any]


class Block(Protocol):
    """A policy that guards a `with` and an `async with` block."""

    def __enter__(self) -> Any: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None: ...
    async def __aenter__(self) -> Any: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None: ...


class Compose(Protocol):
    """Put a script or scenario under policies, the first outermost, and return it as a function of the mode."""

    def __call__(self, *policies: Policy, source: Source) -> Function: ...


class Driver(ABC):
    """Run scenarios on the virtual clock, sync or async.

    A scenario is an `async def`. Sync, it becomes a plain function that runs it to its end without an event loop: what
    it awaits are this driver's methods only, and these then block.
    """

    mode: ClassVar[Mode]

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock

    @abstractmethod
    def function(self, source: Source) -> Function:
        """Return a script or scenario as a function of this mode: `def` or `async def`."""

    @abstractmethod
    def call(self, fn: Function, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function of this mode from outside, and return or raise what comes out."""

    @abstractmethod
    def together(self, *scenarios: Scenario) -> list[Any]:
        """Run scenarios at the same time, in threads or tasks; return results and exceptions, in order."""

    @abstractmethod
    async def ask(self, fn: Function, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function of this mode within a scenario."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Let `seconds` of the virtual clock pass within a scenario."""

    @abstractmethod
    def block(self, policy: Block) -> AbstractAsyncContextManager[Any]:
        """Enter a policy within a scenario, by `async with`; sync, that is the policy's `with`."""

    @abstractmethod
    def attempts(self, retry: Retry) -> AsyncIterator[Attempt]:
        """Loop over a retry within a scenario, by `async for`; sync, that is the retry's `for`."""

    def spend(self, seconds: float) -> None:
        """Let `seconds` pass as a callee does that is busy: a loop gets no turn meanwhile, and can cancel nothing."""
        self.clock.advance(seconds)

    def close(self) -> None:
        """Let what a sync timeout left behind in its threads come to an end, for it would outlive the clock."""
        limit = SYSTEM.monotonic() + 5.0
        while abandoned_workers():
            assert SYSTEM.monotonic() < limit, "a worker thread hangs in something that is not on the clock"
            self.clock.advance(_YEARS)
            SYSTEM.sleep(0.001)

    def decorate(self, policy: Policy, source: Source) -> Function:
        """Return a script or scenario as a function of this mode, under a policy."""
        return policy(self.function(source))

    def compose(self, form: Form, *policies: Policy, source: Source) -> Function:
        """Return a script or scenario under policies, the first outermost, written in one of the three forms."""
        fn = self.function(source)
        if form == "decorators":
            return reduce(lambda under, policy: policy(under), reversed(policies), fn)
        pipeline = Pipeline(*policies)
        return pipeline(fn) if form == "pipeline" else partial(pipeline.call, fn)

    def run(self, scenario: Scenario, /, *args: Any) -> Any:
        """Run a scenario from outside, and return or raise what comes out."""
        return self.call(self.function(scenario), *args)

    async def outcome(self, fn: Function, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function of this mode within a scenario; return its result or its error."""
        try:
            return await self.ask(fn, *args, **kwargs)
        except Exception as error:
            return error

    def after(self, seconds: float, fn: Function, /, *args: Any, **kwargs: Any) -> Scenario:
        """Return a scenario that calls a function of this mode after `seconds`."""

        async def scenario() -> Any:
            await self.sleep(seconds)
            return await self.ask(fn, *args, **kwargs)

        return scenario

    def outcomes(self, times: int, fn: Function, /, *args: Any, every: float = 0.0) -> list[Any]:
        """Call a function so many times, `every` seconds after the call before ended; return results and errors."""

        async def calls() -> list[Any]:
            found: list[Any] = []
            for at in range(times):
                if at and every:
                    await self.sleep(every)
                found.append(await self.outcome(fn, *args))
            return found

        outcomes: list[Any] = self.run(calls)
        return outcomes


class AsyncDriver(Driver):
    """Scenarios are coroutines on an event loop of the virtual clock; several are tasks."""

    mode: ClassVar[Mode] = "async"

    def function(self, source: Source) -> Function:
        """Return a script or scenario as `async def`."""
        return source.coroutine_function() if isinstance(source, Script) else source

    def call(self, fn: Function, /, *args: Any, **kwargs: Any) -> Any:
        """Await the call in an event loop of its own."""

        async def main() -> Any:
            return await fn(*args, **kwargs)

        return self.clock.run(main())

    def together(self, *scenarios: Scenario) -> list[Any]:
        """Run scenarios as tasks of one loop."""

        async def main() -> list[Any]:
            return await asyncio.gather(*(scenario() for scenario in scenarios), return_exceptions=True)

        return self.clock.run(main())

    async def ask(self, fn: Function, /, *args: Any, **kwargs: Any) -> Any:
        """Await the call."""
        return await fn(*args, **kwargs)

    async def sleep(self, seconds: float) -> None:
        """Suspend the task."""
        await self.clock.asleep(seconds)

    def block(self, policy: Block) -> AbstractAsyncContextManager[Any]:
        """Give the policy's own `async with`."""
        return policy

    def attempts(self, retry: Retry) -> AsyncIterator[Attempt]:
        """Give the retry's own `async for`."""
        return aiter(retry)


class SyncDriver(Driver):
    """Scenarios run as plain functions without an event loop; several are threads."""

    mode: ClassVar[Mode] = "sync"

    def function(self, source: Source) -> Function:
        """Return a script or scenario as `def`."""
        return source.function() if isinstance(source, Script) else blocking(source)

    def call(self, fn: Function, /, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return fn(*args, **kwargs)

    def together(self, *scenarios: Scenario) -> list[Any]:
        """Run scenarios in threads that share the virtual clock."""
        return self.clock.run_threads(*(outcome_of(blocking(scenario)) for scenario in scenarios))

    async def ask(self, fn: Function, /, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return fn(*args, **kwargs)

    async def sleep(self, seconds: float) -> None:
        """Block the thread."""
        self.clock.sleep(seconds)

    def block(self, policy: Block) -> AbstractAsyncContextManager[Any]:
        """Give the policy's `with` in the clothes of `async with`."""
        return _Blocking(policy)

    def attempts(self, retry: Retry) -> AsyncIterator[Attempt]:
        """Give the retry's `for` in the clothes of `async for`."""
        return _Stepping(iter(retry))


def blocking(scenario: Scenario) -> Function:
    """Return a plain function that runs a scenario to its end; RuntimeError if it waits for an event loop."""

    @wraps(scenario)
    def plain(*args: Any, **kwargs: Any) -> Any:
        coroutine = scenario(*args, **kwargs)
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        coroutine.close()
        raise RuntimeError(f"{scenario.__qualname__} awaits what is not of its driver")

    return plain


def outcome_of(fn: Function) -> Callable[[], Any]:
    """Return a function that returns the errors of `fn` instead of raising them."""

    def outcome() -> Any:
        try:
            return fn()
        except Exception as error:
            return error

    return outcome


def driver_of(mode: Mode, clock: VirtualClock) -> Driver:
    """Return the driver of a mode."""
    return SyncDriver(clock) if mode == "sync" else AsyncDriver(clock)


class _Blocking:
    def __init__(self, policy: Block) -> None:
        self._policy = policy

    async def __aenter__(self) -> Any:
        return self._policy.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None:
        return self._policy.__exit__(kind, error, traceback)


class _Stepping:
    def __init__(self, attempts: Iterator[Attempt]) -> None:
        self._attempts = attempts

    def __aiter__(self) -> _Stepping:
        return self

    async def __anext__(self) -> Attempt:
        try:
            return next(self._attempts)
        except StopIteration:
            raise StopAsyncIteration from None
