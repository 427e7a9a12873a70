"""A library, or holdfast's module in its place, behind one face: what is shown of one is shown of the other."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pybreaker

from backend.tests.integration.resilience._driver import Driver, Function, Source
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, succeed

STEPS = {"S": succeed(), "F": fail(), "X": fail(ValueError)}


def script(steps: str) -> Script:
    """Return a script: S succeeds, F fails as a dependency does, X fails as a caller does."""
    return Script(*(STEPS[step] for step in steps))


class Retries:
    """tenacity or `holdfast.compat.tenacity`, sync or async; waits are remembered, not made."""

    def __init__(self, module: ModuleType, driver: Driver) -> None:
        self.module: Any = module
        self.driver = driver
        self.slept: list[float] = []

    @property
    def ours(self) -> bool:
        """Whether this is holdfast's module."""
        return str(self.module.__name__).startswith("holdfast")

    @property
    def sleep(self) -> Function:
        """What remembers waits, `def` or `async def`."""

        async def asleep(seconds: float) -> None:
            self.slept.append(float(seconds))

        return self.driver.function(asleep)

    def retry(self, source: Source, **settings: Any) -> Any:
        """Return a script or scenario as a function of the mode, decorated."""
        return self.module.retry(sleep=self.sleep, **settings)(self.driver.function(source))

    def retrying(self, **settings: Any) -> Any:
        """Return a retrying object of the mode."""
        name = "Retrying" if self.driver.mode == "sync" else "AsyncRetrying"
        return getattr(self.module, name)(sleep=self.sleep, **settings)

    def outcome(self, fn: Function, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function of the mode; return its result or its error."""
        try:
            return self.driver.call(fn, *args, **kwargs)
        except Exception as error:
            return error

    def loop(self, retrying: Any, body: Callable[[Any], object]) -> Any:
        """Run `body` in the block of each attempt; return the error that ends the loop, if any."""

        async def scenario() -> None:
            async for attempt in self.driver.attempts(retrying):
                with attempt:
                    body(attempt)

        return self.outcome(self.driver.function(scenario))


class AgingStorage(pybreaker.CircuitMemoryStorage):
    """pybreaker's memory storage on a virtual clock, which its engine does not know."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(pybreaker.STATE_CLOSED)
        self._clock = clock
        self._at: float | None = None

    @property
    def opened_at(self) -> datetime | None:
        """Return a real time that is as long ago as the virtual one."""
        if self._at is None:
            return None
        return datetime.now(UTC) - timedelta(seconds=self._clock.monotonic() - self._at)

    @opened_at.setter
    def opened_at(self, datetime: datetime) -> None:
        self._at = self._clock.monotonic()

    def age(self, seconds: float) -> None:
        """Let the opening have been so much longer ago."""
        assert self._at is not None
        self._at -= seconds


class Breakers:
    """pybreaker or `holdfast.compat.pybreaker`; time is the virtual clock's in both."""

    def __init__(self, module: ModuleType, clock: VirtualClock) -> None:
        self.module: Any = module
        self.clock = clock

    @property
    def ours(self) -> bool:
        """Whether this is holdfast's module."""
        return str(self.module.__name__).startswith("holdfast")

    def breaker(self, *args: Any, **settings: Any) -> Any:
        """Return a breaker; pybreaker's is told the virtual time by its storage."""
        if not self.ours:
            settings.setdefault("state_storage", AgingStorage(self.clock))
        return self.module.CircuitBreaker(*args, **settings)

    def outcome(self, breaker: Any, fn: Function, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function through a breaker; return its result or its error."""
        try:
            return breaker.call(fn, *args, **kwargs)
        except Exception as error:
            return error

    def letters(self, breaker: Any, steps: str, *, every: float = 0.0) -> str:
        """Play a script through a breaker, `every` seconds apart: S, F, X as in the script, R for pybreaker's error."""
        fn, found = script(steps).function(), ""
        for at in range(len(steps)):
            if at:
                self.clock.advance(every)
            found += letter(self.outcome(breaker, fn))
        return found


def letter(outcome: object) -> str:
    """Return S for a success, R for pybreaker's error, F or X for the error of the call."""
    if isinstance(outcome, pybreaker.CircuitBreakerError):
        return "R"
    return "F" if isinstance(outcome, ConnectionError) else "X" if isinstance(outcome, ValueError) else "S"


class Log(pybreaker.CircuitBreakerListener):
    """A listener as users of pybreaker write it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        """Note a call."""
        self.seen.append(("before", cb, func, args, kwargs))

    def success(self, cb: Any) -> None:
        """Note a success."""
        self.seen.append(("success", cb))

    def failure(self, cb: Any, exc: BaseException) -> None:
        """Note a failure."""
        self.seen.append(("failure", cb, type(exc), cb.fail_counter))

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        """Note a new state."""
        self.seen.append(("state", cb, old_state.name, new_state.name))
