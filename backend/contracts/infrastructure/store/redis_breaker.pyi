"""One circuit breaker for all processes: its state in Redis."""

from typing import Any

class RedisBreakerStorage:
    """Share a breaker's state between all processes that name the same Redis and `namespace`.

    Transitions are atomic and on the server's clock; half-open, the fleet makes `half_open_calls` probes together. A
    place whose process died is free again after `lease` seconds (default: `half_open_timeout`). A closed success sends
    nothing; calls have the state asked for in the background every `poll` seconds; the first call and each probe wait
    for Redis, `timeout` seconds at most. Without Redis a breaker goes on by its own state. `mirror_pybreaker` keeps
    pybreaker's four keys too, and follows pybreaker where it changes them. Needs the extra `redis`.
    """

    def __init__(
        self,
        redis: Any,
        namespace: str,
        *,
        lease: float | None = None,
        poll: float = 1.0,
        timeout: float = 0.25,
        mirror_pybreaker: bool = False,
    ) -> None:
        """Take a URL or a `redis.Redis`, or, for async functions alone, a `redis.asyncio.Redis`, used on their loop.

        Raises ConfigurationError with all faults, ImportError without redis-py.
        """

    @property
    def namespace(self) -> str:
        """What the keys begin with; one breaker each. With `mirror_pybreaker` in a cluster, write it in braces."""

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until all that was to be told by now is told, or could not be; return whether it was in time."""

    async def aflush(self, timeout: float = 1.0) -> bool:  # noqa: ASYNC109  # as flush()
        """Do as `flush` does, without blocking the loop. Await it before an async client or its loop is closed."""
