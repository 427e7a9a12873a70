"""Calls in real time whose waits are noted instead of spent: for limits that another process decides on."""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import pytest

from backend.tests.integration.resilience._driver import Mode
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.errors import RateLimitedError
from holdfast.infrastructure.store.redis_rate_limit import RedisRateLimit


class HandClock(Clock):
    """A clock that stands still until it is moved; waits are noted, not spent, and may be interrupted."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self.meanwhile: list[Callable[[], Any]] = []

    def monotonic(self) -> float:
        """Return where it stands."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Note a wait, and do what is to happen during it."""
        self.waits.append(seconds)
        if self.meanwhile:
            self.meanwhile.pop()()

    async def asleep(self, seconds: float) -> None:
        """Do as `sleep` does."""
        self.sleep(seconds)


class Caller:
    """Calls through limits in one mode, in real time; async, in one loop."""

    def __init__(self, mode: Mode, clock: HandClock) -> None:
        self.mode = mode
        self.clock = clock
        self.runner = asyncio.Runner()
        self.limits: list[RedisRateLimit] = []

    def limit(self, client: Any, name: str = "x", rate: float = 1.0, **settings: Any) -> RedisRateLimit:
        """Return a limit whose connections are closed at the end."""
        settings.setdefault("timeout", 5.0)
        self.limits.append(RedisRateLimit(client, name, rate, **settings))
        return self.limits[-1]

    def call(self, limit: RedisRateLimit, *args: Any) -> Any:
        """Call a function that returns its arguments."""

        def echo(*args: object) -> object:
            return args

        async def echo_async(*args: object) -> object:
            return args

        if self.mode == "sync":
            return limit(echo)(*args)
        return self.runner.run(limit(echo_async)(*args), context=copy_context())

    def wait(self, limit: RedisRateLimit, *args: Any) -> float:
        """Make a call; return for how long it was made to wait: negative if it was refused."""
        before = len(self.clock.waits)
        try:
            self.call(limit, *args)
        except RateLimitedError as error:
            return -(error.retry_after or 0.0)
        return self.clock.waits[before] if len(self.clock.waits) > before else 0.0

    def interrupted(self, limit: RedisRateLimit, meanwhile: Callable[[], Any] = lambda: None) -> None:
        """Make a call that is cancelled while it waits, after something else has happened."""
        error: type[BaseException] = KeyboardInterrupt if self.mode == "sync" else asyncio.CancelledError

        def cancel() -> None:
            meanwhile()
            raise error

        self.clock.meanwhile.append(cancel)
        with pytest.raises(error):
            self.call(limit)
        assert self.clock.meanwhile == []

    def close(self) -> None:
        """Close every connection."""
        for limit in self.limits:
            limit.close()
            self.runner.run(limit.aclose())
        self.runner.close()
