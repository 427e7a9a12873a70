"""One circuit breaker for all processes: its state in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.store._redis_link import link_to, on_a_loop, wait, wait_async
from holdfast.infrastructure.store._redis_shared import Shared

if TYPE_CHECKING:
    from holdfast.infrastructure.resilience._breaker import Machine

_SCHEMES = ("redis://", "rediss://", "unix://")
_MIRRORED = ("state", "fail_counter", "success_counter", "opened_at")


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
        faults = Faults("RedisBreakerStorage")
        _check_redis(faults, redis)
        _check_namespace(faults, namespace)
        faults.number("lease", lease, 0, 86_400, above=True, optional=True)
        faults.number("poll", poll, 0, 3600, above=True)
        faults.number("timeout", timeout, 0, 60, above=True)
        faults.finish()
        self._namespace = namespace
        self._lease = lease
        self._poll = poll
        self._timeout = timeout
        self._mirror = bool(mirror_pybreaker)
        self._link = link_to(redis)

    @property
    def namespace(self) -> str:
        """What the keys begin with; one breaker each. With `mirror_pybreaker` in a cluster, write it in braces."""
        return self._namespace

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until all that was to be told by now is told, or could not be; return whether it was in time."""
        if self._link.awaited and on_a_loop():
            raise TypeError(f"{self!r} sends on this event loop, which flush() would block: await aflush()")
        return wait(self._link.mark(), timeout)

    async def aflush(self, timeout: float = 1.0) -> bool:  # noqa: ASYNC109  # as flush()
        """Do as `flush` does, without blocking the loop. Await it before an async client or its loop is closed."""
        return await wait_async(self._link.mark(), timeout)

    def __repr__(self) -> str:
        """Show the namespace; a URL may hold a password."""
        return f"<RedisBreakerStorage {self._namespace!r}>"

    def _attach(self, machine: Machine) -> Shared:
        return Shared(self, machine)

    def _keys(self) -> list[str]:
        mirrored = _MIRRORED if self._mirror else ()
        return [
            f"{self._namespace}:holdfast:breaker",
            *(f"{self._namespace}:pybreaker:{key}" for key in mirrored),
        ]


def _check_redis(faults: Faults, redis: Any) -> None:
    remedy = "give a client of redis-py or a URL such as redis://localhost:6379/0"
    fine = redis.startswith(_SCHEMES) if isinstance(redis, str) else hasattr(redis, "register_script")
    faults.check(fine, "redis", redis, "is neither a client nor a URL", remedy)


def _check_namespace(faults: Faults, namespace: Any) -> None:
    fine = isinstance(namespace, str) and namespace
    remedy = "give a str that names this breaker alone"
    faults.check(fine, "namespace", namespace, "is not a name", remedy)
    if fine:
        try:
            namespace.encode()
        except UnicodeEncodeError:
            faults.add("namespace", namespace, "cannot be written in UTF-8", remedy)
