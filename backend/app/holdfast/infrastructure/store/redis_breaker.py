"""One circuit breaker for all processes: its state in Redis."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.store._redis_link import link_to
from holdfast.infrastructure.store._redis_shared import Shared

if TYPE_CHECKING:
    from holdfast.infrastructure.resilience._breaker import Machine

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
        """Take a `redis.Redis` or a URL; ConfigurationError with all faults, ImportError without redis-py."""
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
        """What the keys begin with; one breaker each. In a cluster, write it in braces."""
        return self._namespace

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until all that was to be told by now is told, or could not be; return whether it was in time."""
        return self._link.flush(timeout)

    def __repr__(self) -> str:
        """Show the namespace; a URL may hold a password."""
        return f"<RedisBreakerStorage {self._namespace!r}>"

    def _attach(self, machine: Machine) -> Shared:
        return Shared(self, machine)

    def _keys(self) -> list[str]:
        own = [f"{self._namespace}:holdfast:{key}" for key in ("breaker", "probes")]
        return own + [f"{self._namespace}:pybreaker:{key}" for key in _MIRRORED]


def _check_redis(faults: Faults, redis: Any) -> None:
    if isinstance(redis, str):
        return
    remedy = "give a redis.Redis or a URL such as redis://localhost:6379/0"
    fine = hasattr(redis, "register_script")
    faults.check(fine, "redis", redis, "is neither a client nor a URL", remedy)
    awaited = fine and inspect.iscoroutinefunction(getattr(redis, "execute_command", None))
    faults.check(not awaited, "redis", redis, "is asynchronous: it is asked in a thread of its own", remedy)


def _check_namespace(faults: Faults, namespace: Any) -> None:
    fine = isinstance(namespace, str) and namespace
    faults.check(fine, "namespace", namespace, "is not a name", "give a str that names this breaker alone")
