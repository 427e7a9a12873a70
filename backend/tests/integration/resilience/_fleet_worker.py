"""One process of a fleet that shares a breaker: does what standard input says, a line each, and answers with a line."""

import asyncio
import functools
import json
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import redis
import redis.asyncio

from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.errors import CircuitOpenError
from holdfast.infrastructure.store.redis_breaker import RedisBreakerStorage


class SkewedClock(Clock):
    """The system's clock, wrong by so many seconds."""

    def __init__(self, skew: float) -> None:
        self.skew = skew

    def monotonic(self) -> float:
        """Return the wrong time."""
        return super().monotonic() + self.skew

    def time(self) -> float:
        """Return the wrong time."""
        return super().time() + self.skew


class Worker:
    """The process: a breaker, and a dependency that works, fails, or holds its callers until it is told to go on."""

    def __init__(self, where: list[str], mode: str, skew: float, storage: Any, settings: Any) -> None:
        url, namespace = where
        self.client: Any = redis.Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
        self.namespace = namespace
        self.mode = mode
        # As in a service it runs all the time: what is to be told to Redis is told on it, after a call, too.
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        place: Any = url
        if mode == "awaited":
            place = redis.asyncio.Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
        shared = RedisBreakerStorage(place, namespace, timeout=10.0, **storage)
        self.breaker = CircuitBreaker(
            "fleet", on=Exception, clock=SkewedClock(skew), storage=shared, **settings
        )

    def work(self) -> None:
        """Work."""

    def fail(self) -> None:
        """Fail."""
        raise ConnectionError

    def held(self) -> None:
        """Be counted, and wait to be let go."""
        self.client.incr(f"{self.namespace}:admitted")
        self.client.blpop(f"{self.namespace}:go", 20)

    def run(self, coroutine: Coroutine[Any, Any, str]) -> str:
        """Await it on the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def call(self, dependency: Callable[[], None]) -> str:
        """Call under the breaker: S, F, or R where it refuses."""
        if self.mode != "sync":
            return self.run(self.awaited(dependency))
        return letter(functools.partial(self.breaker.call, dependency))

    async def awaited(self, dependency: Callable[[], None]) -> str:
        """Call as an async function does."""

        async def target() -> None:
            await asyncio.to_thread(dependency)

        try:
            await self.breaker(target)()
        except CircuitOpenError:
            self.client.incr(f"{self.namespace}:refused")
            return "R"
        except ConnectionError:
            return "F"
        return "S"

    def storm(self, callers: int) -> str:
        """Call from many threads or tasks at once; what is admitted is held."""
        if self.mode != "sync":
            return self.run(self.awaited_storm(callers))
        outcomes: list[str] = []

        def call() -> None:
            outcomes.append(self.call(self.held))
            if outcomes[-1] == "R":
                self.client.incr(f"{self.namespace}:refused")

        threads = [threading.Thread(target=call) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return "".join(sorted(outcomes))

    async def awaited_storm(self, callers: int) -> str:
        """Call from many tasks at once."""
        return "".join(sorted(await asyncio.gather(*(self.awaited(self.held) for _ in range(callers)))))

    def obey(self, command: str) -> str:
        """Do what a line says."""
        if command.isdigit():
            return self.storm(int(command))
        if command == "left":
            return str(self.breaker.retry_after)
        return self.call(getattr(self, command))


def letter(call: Callable[[], None]) -> str:
    """Return S, F or R for how a call ends."""
    try:
        call()
    except CircuitOpenError:
        return "R"
    except ConnectionError:
        return "F"
    return "S"


if __name__ == "__main__":
    worker = Worker(*json.loads(sys.argv[1]))
    print("ready", flush=True)  # noqa: T201  # the answer to being started
    for line in sys.stdin:
        print(worker.obey(line.strip()), flush=True)  # noqa: T201  # the answer to a line
