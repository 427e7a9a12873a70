"""Breakers that share their state as those of several processes do, in one process; sync, async and awaited."""

import asyncio
from typing import Any, Literal, TypeAlias

from backend.tests.integration.resilience._redis import (
    AwaitedRedis,
    CountingRedis,
    LoopThread,
    connect_awaited,
)
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.errors import CircuitOpenError
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window
from holdfast.infrastructure.store.redis_breaker import RedisBreakerStorage

# Seconds that a busy machine may take more.
BUSY = 5.0


# Sync functions; async functions whose storage sends in a thread; async functions whose storage sends on their loop.
Mode: TypeAlias = Literal["sync", "async", "awaited"]
MODES = ("sync", "async", "awaited")


# What processes of the running test began, and the test must end.
begun: list[tuple[LoopThread, AwaitedRedis]] = []


def end_processes() -> None:
    """End what the processes of a test began."""
    while begun:
        loop, client = begun.pop()
        loop.run(client.aclose())
        loop.stop()


def awaited_like(redis: CountingRedis | str) -> tuple[LoopThread, AwaitedRedis]:
    """Return a loop and a client of the same Redis that is awaited there, and counted with the other."""
    counted = redis.commands if isinstance(redis, CountingRedis) else []
    url = redis if isinstance(redis, str) else redis.url
    begun.append((LoopThread(), connect_awaited(url, counted)))
    return begun[-1]


class Process:
    """A breaker with a storage of its own, as another process would have it; calls it sync or async."""

    def __init__(
        self, redis: Any, namespace: str, mode: Mode = "sync", *, name: str = "x", **settings: Any
    ) -> None:
        if mode == "awaited":
            self.loop, redis = awaited_like(redis)
        given: dict[str, Any] = {"poll": 0.001, "timeout": 10.0, **settings.pop("storage", {})}
        self.storage = RedisBreakerStorage(redis, namespace, **given)
        chosen: dict[str, Any] = {
            "window": Window.consecutive(2),
            "open_for": 30.0,
            "open_jitter": 0.0,
            **settings,
        }
        self.breaker = CircuitBreaker(name, on=Exception, storage=self.storage, **chosen)
        self.mode = mode

    def call(self, error: Exception | None = None) -> str:
        """Make a call that succeeds or fails: S, F or R; before and after it what is to be told is told."""
        self.storage.flush(BUSY)
        try:
            self.make(error)
        except CircuitOpenError:
            return "R"
        except ConnectionError:
            return "F"
        finally:
            self.storage.flush(BUSY)
        return "S"

    def make(self, error: Exception | None = None) -> None:
        """Make a call, and wait for nothing else."""

        def target() -> None:
            if error is not None:
                raise error

        async def awaited() -> None:
            target()

        if self.mode == "awaited":
            self.loop.run(self.breaker(awaited)())
        elif self.mode == "async":
            asyncio.run(self.breaker(awaited)())
        else:
            self.breaker.call(target)

    def fail(self, times: int = 1) -> str:
        """Make calls that fail."""
        return "".join(self.call(ConnectionError("down")) for _ in range(times))

    def sees(self, state: CircuitState) -> bool:
        """Return whether a look, which a call may cost, finds the state."""
        self.call()
        return self.breaker.state is state
