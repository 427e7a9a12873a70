"""Rate limit shared through Redis: all processes together admit so many calls in so much time."""

from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Any, Literal

from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.rate_limit import RateLimitConfig

class RedisRateLimitConfig(RateLimitConfig):
    """The settings of a `RedisRateLimit`, validated: frozen, keyword-only, comparable."""

    on_failure: Literal["local", "admit", "refuse"]
    namespace: str
    timeout: float
    def __init__(
        self,
        *,
        name: str,
        rate: float,
        per: float = 1.0,
        burst: int = 1,
        max_wait: float = 0.0,
        on_failure: Literal["local", "admit", "refuse"] = "local",
        namespace: str = "holdfast:rate",
        timeout: float = 0.25,
        clock: Clock | None = None,
    ) -> None: ...

class RedisRateLimitState:
    """What Redis said of a limit: how many calls it would admit at once, and the seconds until it would admit one."""

    available: int
    retry_after: float
    def __init__(self, *, available: int, retry_after: float) -> None: ...

class RedisRateLimit(Policy):
    """Admit `rate` calls in `per` seconds, `burst` of them at once, of all processes with this `name` together.

    `client`: a URL, or a client of yours, sync (with its own timeouts) or async; `async_client`: beside a sync one. One
    script hands out slots on the server's clock; the wait is here. When Redis does not answer within `timeout` seconds
    it is left alone for 1 s, then one call tries; meanwhile `on_failure` decides: a limit of this process's own, all
    calls, or none. `key`: one limit for each value (text, bytes, int, None, tuples of these; TypeError for all else).
    Raises RateLimitedError. Source: ITU-T I.371, generic cell rate algorithm.
    """

    def __init__(
        self,
        client: Any,
        name: str,
        rate: float,
        *,
        per: float = 1.0,
        burst: int = 1,
        max_wait: float = 0.0,
        key: Callable[..., Hashable] | None = None,
        on_failure: Literal["local", "admit", "refuse"] = "local",
        namespace: str = "holdfast:rate",
        timeout: float = 0.25,
        async_client: Any = None,
        clock: Clock | None = None,
    ) -> None: ...
    @property
    def config(self) -> RedisRateLimitConfig:
        """The settings, as they are now in this process."""
    @property
    def name(self) -> str:
        """The name in events, errors and keys; `name[key]` for one key."""
    @property
    def rejected(self) -> int:
        """How many calls of this process were refused since this was made, of all keys."""
    @property
    def degraded(self) -> bool:
        """Whether Redis did not answer and `on_failure` decides."""
    def reconfigure(
        self, *, rate: float | None = None, per: float | None = None, burst: int | None = None
    ) -> None:
        """Change what is given, in this process, for every key. ConfigurationError changes nothing.

        Calls made before weigh as much as calls made from now on; who waits keeps its slot. Tell every process:
        each decides by its own settings.
        """
    def get(self, key: Hashable) -> RedisRateLimit:
        """Return the limit of `key`, to decorate with, as a block, to look at. TypeError without `key=`."""
    def inspect(self) -> RedisRateLimitState | None:
        """Ask Redis how much is left, in one round trip; None if it does not answer."""
    async def ainspect(self) -> RedisRateLimitState | None:
        """Do as `inspect` does, without blocking the loop."""
    def reset(self) -> bool:
        """Forget every call made so far, of all processes; return whether Redis did. Who waits keeps its slot."""
    async def areset(self) -> bool:
        """Do as `reset` does, without blocking the loop."""
    def close(self) -> None:
        """Close the sync connections to a URL; a later call opens one again."""
    async def aclose(self) -> None:
        """Give back what calls that were cancelled have taken, and close the running loop's connections to a URL.

        Do so before the loop ends.
        """
    def __enter__(self) -> float: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    async def __aenter__(self) -> float: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

def redis_rate_limit(
    client: Any,
    name: str,
    rate: float,
    *,
    per: float = 1.0,
    burst: int = 1,
    max_wait: float = 0.0,
    key: Callable[..., Hashable] | None = None,
    on_failure: Literal["local", "admit", "refuse"] = "local",
    namespace: str = "holdfast:rate",
    timeout: float = 0.25,
    async_client: Any = None,
    clock: Clock | None = None,
) -> RedisRateLimit:
    """Return a `RedisRateLimit`, to decorate with or as a `with` / `async with` block."""
