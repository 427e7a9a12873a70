"""One of several processes that call through the same limit in Redis; run as a program, by its path.

Arguments: URL, namespace, seconds, "sync" or "async", settings as JSON. Says "ready", waits for a line, calls as fast
as it may from several threads or tasks, and tells for each admitted call when it was asked for and when it had begun,
by the server's clock.
"""

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import redis

from holdfast.infrastructure.resilience.errors import RateLimitedError
from holdfast.infrastructure.store.redis_rate_limit import RedisRateLimit

CALLERS = 4


def now(client: Any) -> float:
    """Read the server's clock."""
    whole, micro = client.time()
    return float(whole) + float(micro) / 1e6


def call_as_thread(limit: RedisRateLimit, client: Any, until: float) -> list[tuple[float, float]]:
    """Call until it is time; return when admitted calls were asked for and had begun."""
    found: list[tuple[float, float]] = []
    while time.monotonic() < until:
        asked = now(client)
        try:
            with limit:
                found.append((asked, now(client)))
        except RateLimitedError as error:
            time.sleep(error.retry_after or 0.0)
    return found


async def call_as_task(limit: RedisRateLimit, client: Any, until: float) -> list[tuple[float, float]]:
    """Do the same without blocking the loop for longer than it takes to read the server's clock."""
    found: list[tuple[float, float]] = []
    while time.monotonic() < until:
        asked = now(client)
        try:
            async with limit:
                found.append((asked, now(client)))
        except RateLimitedError as error:
            await asyncio.sleep(error.retry_after or 0.0)
    return found


async def as_tasks(limit: RedisRateLimit, client: Any, until: float) -> list[list[tuple[float, float]]]:
    """Call from several tasks."""
    found = await asyncio.gather(*(call_as_task(limit, client, until) for _ in range(CALLERS)))
    await limit.aclose()
    return found


def tell(what: str) -> None:
    """Write a line for whoever started this."""
    sys.stdout.write(what + "\n")
    sys.stdout.flush()


def main(url: str, namespace: str, seconds: str, mode: str, settings: str) -> None:
    """Be one of the fleet."""
    limit = RedisRateLimit(url, "fleet", namespace=namespace, timeout=10.0, **json.loads(settings))
    made: Any = redis.Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]  # redis has no type for it
    with made as client:
        client.ping()
        tell("ready")
        sys.stdin.readline()
        until = time.monotonic() + float(seconds)
        if mode == "async":
            found = asyncio.run(as_tasks(limit, client, until))
        else:
            with ThreadPoolExecutor(CALLERS) as pool:
                found = list(pool.map(call_as_thread, *zip(*[(limit, client, until)] * CALLERS, strict=True)))
    limit.close()
    tell(json.dumps([[*chain.from_iterable(found)], limit.degraded]))


if __name__ == "__main__":
    main(*sys.argv[1:])
