"""Orders on other machines over HTTP: a target that posts them to a worker, and addresses for all that it needs."""

import httpx

from holdfast.infrastructure.resilience.errors import HoldfastError
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.services.jobs.graphs.ports import Work

class UrlRefusedError(HoldfastError, ValueError):
    """A signed address is not one of ours, is for another method, or its time is over: the sentence says which."""

class SignedUrls:
    """Addresses below `base` that read or write one blob each, until they expire: who has one needs no key.

    `secret`: 16 bytes at least, the same in all processes that make or serve them. Safe to share between threads.
    ValueError for a shorter one.
    """

    def __init__(self, base: str, secret: bytes) -> None: ...
    def url(self, method: str, key: str, expires_in: float) -> str:
        """Return the address for GET or PUT of a blob, good for `expires_in` seconds."""

    def opened(self, method: str, token: str) -> str:
        """Return the key that the last part of an address names. UrlRefusedError."""

class HttpTarget:
    """Orders posted as JSON to a worker at `url`, which fetches the code and says how it ended at addresses in them.

    The worker answers 2xx when it has an order, also one that it had already, 429 or 503 when it has no room; other
    statuses fail the order. `token` is sent as a Bearer token. `policy` is around every request: by default 30 s in
    all, three attempts of 10 s, a breaker; while that is open there is no room. Close it. Safe to share between
    threads.
    """

    def __init__(
        self,
        url: str,
        urls: SignedUrls,
        *,
        token: str = "",
        policy: Policy | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None: ...
    @property
    def url(self) -> str:
        """Where orders are posted to."""

    def dispatch(self, work: Work) -> bool:
        """Post an order; False: no room. httpx's errors, HttpFailed."""

    def cancel(self, work: Work) -> None:
        """Tell the worker to end an order. httpx's errors, HttpFailed."""

    def close(self) -> None:
        """Close its connections."""

class UrlBlobs:
    """Blobs whose keys are the addresses at which they are read or written, as a worker is given them.

    `policy` is around every request, by default as `HttpTarget`'s without the breaker, and five attempts. Close it.
    """

    tenant: str = "default"

    def __init__(
        self, *, policy: Policy | None = None, transport: httpx.BaseTransport | None = None
    ) -> None: ...
    def put(self, key: str, data: bytes) -> bool:
        """Write; False: other bytes are there already. httpx's errors, HttpFailed."""

    def get(self, key: str) -> bytes:
        """Return what is there. NotFoundError, also where the address is not good for that; httpx's errors."""

    def exists(self, key: str) -> bool:
        """Return whether it can be read."""

    def delete(self, key: str) -> bool:
        """Raise ValueError: an address reads or writes."""

    def presign(self, key: str, expires_in: float = 3600.0) -> str | None:
        """Return the address."""

    def close(self) -> None:
        """Close its connections."""
