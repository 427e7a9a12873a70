"""Rate limit: admit so many calls in so much time, let a few more wait, refuse the rest at once."""

from collections.abc import Callable, Hashable, Iterator
from types import TracebackType

from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy

class RateLimitConfig:
    """The settings of a `RateLimit`, validated: frozen, keyword-only, comparable."""

    rate: float
    per: float
    burst: int
    max_wait: float
    name: str | None
    clock: Clock | None
    def __init__(
        self,
        *,
        rate: float,
        per: float = 1.0,
        burst: int = 1,
        max_wait: float = 0.0,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None: ...

class RateLimit(Policy):
    """Admit `rate` calls in `per` seconds, `burst` of them at once. Safe to share between threads and tasks.

    A call that would have to wait waits its turn, first come, first served, for at most `max_wait` seconds and
    not beyond the deadline that `remaining()` tells; else it is refused at once. Raises RateLimitedError. Source:
    ITU-T I.371, generic cell rate algorithm.
    """

    def __init__(
        self,
        rate: float,
        *,
        per: float = 1.0,
        burst: int = 1,
        max_wait: float = 0.0,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None: ...
    @property
    def config(self) -> RateLimitConfig:
        """The settings, as they are now."""

    @property
    def name(self) -> str | None:
        """The name in events and errors; `family[key]` for a key of a family that has one."""

    @property
    def available(self) -> int:
        """How many calls made now would be admitted at once."""

    @property
    def retry_after(self) -> float:
        """Seconds until a call made then would be admitted at once; 0 if it would be now."""

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""

    @property
    def rejected(self) -> int:
        """How many calls were refused since this was made; for a key of a family, calls of all its keys."""

    def reconfigure(
        self, *, rate: float | None = None, per: float | None = None, burst: int | None = None
    ) -> None:
        """Change what is given, from now on; of a family, for every key. ConfigurationError changes nothing.

        Calls made before weigh as much as calls made from now on, and who waits keeps its place, even beyond
        `max_wait`; the first of the line may notice 1 s late.
        """

    def reset(self) -> None:
        """Forget every call made so far; who waits goes on, within 1 s."""

    def __enter__(self) -> float: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    async def __aenter__(self) -> float: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

class RateLimits(Policy):
    """A family of limits with the same settings, one per key (host, tenant, user): about 100 bytes for each.

    A key whose calls no longer matter is forgotten: when a new key comes `idle` seconds after the last time, or
    when there are `max_keys`. Should all still matter, those that will not soonest go first, up to one in 16 at once.
    """

    def __init__(
        self,
        rate: float,
        *,
        key: Callable[..., Hashable] | None = None,
        max_keys: int = 100_000,
        idle: float = 60.0,
        per: float = 1.0,
        burst: int = 1,
        max_wait: float = 0.0,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None: ...
    @property
    def config(self) -> RateLimitConfig:
        """The settings of every key, as they are now."""

    @property
    def name(self) -> str | None:
        """The family's name; a limit's is `family[key]`."""

    @property
    def rejected(self) -> int:
        """How many calls were refused since this was made, of all keys."""

    def reconfigure(
        self, *, rate: float | None = None, per: float | None = None, burst: int | None = None
    ) -> None:
        """Change what is given for every key, as `RateLimit.reconfigure` does."""

    def get(self, key: Hashable) -> RateLimit:
        """Return the limit of `key`: a view of the family's state, which can be made again at any time."""

    def peek(self, key: Hashable) -> RateLimit | None:
        """Return the limit of `key`, or None if the family knows of no call of it."""

    def discard(self, key: Hashable) -> None:
        """Forget the calls of `key`."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Hashable]: ...
    def __contains__(self, key: object) -> bool: ...

def rate_limit(
    rate: float,
    *,
    per: float = 1.0,
    burst: int = 1,
    max_wait: float = 0.0,
    name: str | None = None,
    clock: Clock | None = None,
) -> RateLimit:
    """Return a `RateLimit`, to decorate with or as a `with` / `async with` block."""
