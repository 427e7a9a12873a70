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

class RedisRateLimit(Policy):
    """Admit `rate` calls in `per` seconds, `burst` of them at once, of all processes with this `name` together.

    `client`: a URL, or a client of yours with its own timeouts (`async_client` for async functions). Slots are given
    out by one script on the server's clock, and waited for here. When Redis does not answer within `timeout` seconds
    it is left alone for 1 s, then one call tries; meanwhile `on_failure` decides: a limit of this process's own, all
    calls, or none. Raises RateLimitedError. Source: ITU-T I.371, generic cell rate algorithm.
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
        """The settings."""
    @property
    def name(self) -> str:
        """The name in events, errors and keys."""
    @property
    def rejected(self) -> int:
        """How many calls of this process were refused since this was made, of all keys."""
    @property
    def degraded(self) -> bool:
        """Whether Redis did not answer and `on_failure` decides."""
    def close(self) -> None:
        """Close the sync connections to a URL; a later call opens one again."""
    async def aclose(self) -> None:
        """Close the running loop's connections to a URL; do so before the loop ends."""
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
