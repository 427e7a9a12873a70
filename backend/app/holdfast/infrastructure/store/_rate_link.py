"""The way to Redis of one rate limit: one round trip for a script, and peace for a Redis that does not answer."""

from __future__ import annotations

import os
from collections import deque
from itertools import count

from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience._bus import bus, emit, log_once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Coroutine, MutableMapping
    from typing import Any

    from holdfast.infrastructure.resilience.clock import Clock
    from holdfast.infrastructure.store._rate_script import Script

# Seconds for which a Redis that failed is left alone; after that one call tries.
PAUSE = 1.0
# Connections of a client made here; who finds all of them in use waits for one, within the timeout.
_CONNECTIONS = 32
_MARKS = 1 << 30


def load_redis() -> Any:
    """Import redis, or say which extra has it."""
    try:
        import redis
    except ImportError as error:
        raise ImportError(
            "a rate limit in Redis needs the package redis: install holdfast[redis]", name="redis"
        ) from error
    return redis


class Health:
    """Whether Redis answers: one failure begins an outage, one answer ends it."""

    __slots__ = ("_clock", "_name", "_sound", "until")

    def __init__(self, name: str, clock: Clock | None) -> None:
        self._name = name
        self._clock = clock
        self.until: float | None = None
        # One token, taken by the failure that begins the outage: needs no lock, which a fork could leave locked.
        self._sound = deque((None,))

    def now(self) -> float:
        """Read the limit's clock."""
        return ambient.monotonic() if self._clock is None else self._clock.monotonic()

    def admits(self) -> bool | None:
        """Return whether this call tries a Redis that is down, None if it leaves it alone."""
        until = self.until
        if until is None:
            return False
        now = self.now()
        if now < until:
            return None
        self.until = now + PAUSE
        return True

    def answered(self, *, tried: bool) -> None:
        """Note an answer."""
        if tried:
            self.until = None
            if not self._sound:
                self._sound.append(None)

    def abandoned(self, *, tried: bool) -> None:
        """Let the next call try, since this one was cancelled."""
        if tried:
            self.until = self.now()

    def failed(self, error: Exception, *, tried: bool) -> None:
        """Note that Redis did not answer; tell it once."""
        if tried:
            self.until = self.now() + PAUSE
            return
        try:
            self._sound.pop()
        except IndexError:
            return
        self.until = self.now() + PAUSE
        if bus.entries:
            emit("StorageFailed", self._name, error=error)
        log_once(f"Redis of rate limit {self._name!r}", error)


class Link:
    """The clients of one limit, sync and async, and what is known of their Redis."""

    __slots__ = (
        "_async_client",
        "_by_loop",
        "_client",
        "_marks",
        "_redis",
        "_tasks",
        "_url",
        "health",
        "timeout",
    )

    def __init__(self, client: Any, async_client: Any, timeout: float, health: Health) -> None:
        self._redis = load_redis()
        self._url = client if isinstance(client, str) else None
        self.timeout = timeout
        self.health = health
        self._client: Any = client
        if self._url is not None:
            self._client = self._connect(self._redis, self._redis.retry, socket_timeout=timeout)
        self._async_client = async_client
        # A client of redis.asyncio belongs to the loop that it was first used in.
        self._by_loop: MutableMapping[AbstractEventLoop, Any] | None = None
        # Who awaits one of them may be cancelled: somebody must hold on to it.
        self._tasks: set[Task[Any]] = set()
        # Begins where other processes hardly do.
        self._marks = count(id(self) >> 4)

    def _connect(self, redis: Any, retry: Any, *, socket_timeout: float | None) -> Any:
        from redis.backoff import NoBackoff

        pool = redis.BlockingConnectionPool.from_url(
            self._url,
            max_connections=_CONNECTIONS,
            timeout=self.timeout,
            socket_timeout=socket_timeout,
            socket_connect_timeout=self.timeout,
            retry=retry.Retry(NoBackoff(), 0),
        )
        return redis.Redis(connection_pool=pool)

    def sync(self) -> Any:
        """Return the client for threads."""
        return _given(self._client, "sync", "client")

    def of_loop(self) -> Any:
        """Return the client of the running loop."""
        if self._async_client is not None or self._url is None:
            return _given(self._async_client, "async", "async_client")
        import asyncio
        from weakref import WeakKeyDictionary

        if self._by_loop is None:
            self._by_loop = WeakKeyDictionary()
        loop = asyncio.get_running_loop()
        client = self._by_loop.get(loop)
        if client is None:
            import redis.asyncio.retry

            # `_asked` bounds it; a socket_timeout would cost a timer more.
            client = self._connect(redis.asyncio, redis.asyncio.retry, socket_timeout=None)
            self._by_loop[loop] = client
        return client

    def mark(self) -> int:
        """Return a number by which a call is known, other than 0."""
        return os.getpid() * _MARKS + next(self._marks) % _MARKS

    def ask(self, client: Any, script: Script, *args: object) -> Any:
        """Run a script on a key; None if Redis does not answer, or is left alone."""
        tried = self.health.admits()
        if tried is None:
            return None
        try:
            reply = self._run(client, script, args)
        except Exception as error:  # whatever is wrong with Redis must not become the caller's problem
            return self.health.failed(error, tried=tried)
        except BaseException:
            self.health.abandoned(tried=tried)
            raise
        self.health.answered(tried=tried)
        return reply

    def _run(self, client: Any, script: Script, args: tuple[object, ...]) -> Any:
        try:
            return client.execute_command("EVALSHA", script.sha, 1, *args)
        except self._redis.exceptions.NoScriptError:
            return client.execute_command("EVAL", script.text, 1, *args)

    async def ask_async(self, client: Any, script: Script, *args: object) -> Any:
        """Do as `ask` does, without blocking the loop."""
        tried = self.health.admits()
        return None if tried is None else await self._asked(client, script, args, tried=tried)

    def start(self, client: Any, script: Script, *args: object) -> Task[Any] | None:
        """Run a script in a task of its own; None if Redis is left alone."""
        tried = self.health.admits()
        return None if tried is None else self.keep(self._asked(client, script, args, tried=tried))

    def keep(self, work: Coroutine[Any, Any, Any]) -> Task[Any]:
        """Begin what goes on though nobody may wait for it any more; `aclose` does."""
        import asyncio

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _asked(self, client: Any, script: Script, args: tuple[object, ...], *, tried: bool) -> Any:
        import asyncio

        try:
            async with asyncio.timeout(self.timeout):
                reply = await self._run_async(client, script, args)
        except Exception as error:  # as in `ask`
            return self.health.failed(error, tried=tried)
        except BaseException:
            self.health.abandoned(tried=tried)
            raise
        self.health.answered(tried=tried)
        return reply

    async def _run_async(self, client: Any, script: Script, args: tuple[object, ...]) -> Any:
        try:
            return await client.execute_command("EVALSHA", script.sha, 1, *args)
        except self._redis.exceptions.NoScriptError:
            return await client.execute_command("EVAL", script.text, 1, *args)

    def close(self) -> None:
        """Close the connections of the sync client made here; the next call opens one again."""
        if self._url is not None:
            self._client.connection_pool.disconnect()

    async def aclose(self) -> None:
        """Await what was begun, and close the connections of the running loop's client, if it was made here."""
        import asyncio

        loop = asyncio.get_running_loop()
        while begun := [task for task in list(self._tasks) if task.get_loop() is loop]:
            await asyncio.wait(begun)
        client = None if self._by_loop is None else self._by_loop.pop(loop, None)
        if client is not None:
            await client.connection_pool.disconnect()


def _given(client: Any, mode: str, setting: str) -> Any:
    if client is None:
        raise TypeError(
            f"a rate limit in Redis has no client for {mode} functions: give a URL, or {setting}= as well"
        )
    return client
