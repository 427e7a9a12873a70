"""HTTP endpoints as handlers: a payload goes out as JSON, with an idempotency key; JSON comes back."""

from types import TracebackType
from typing import Any, Self

import httpx

class HttpHandler:
    """Send payloads to an HTTP endpoint as JSON, with the header `Idempotency-Key`, and return the JSON it answers.

    Safe to share between threads. `timeout` (seconds, all of a request) is for the client that it makes and closes
    itself; a `client` of yours is used as it is. Put a Retry around it: HttpFailed with 408, 425, 429, 500, 502, 503,
    504 and httpx's errors of the wire pass, `Retry-After` counts, all other statuses are final. Errors carry no
    credentials and at most 1,000 characters of the body. An answer of more than `max_size` bytes is a failure.
    """

    __name__: str
    __qualname__: str
    def __init__(
        self,
        url: str,
        *,
        client: httpx.Client | None = None,
        method: str = "POST",
        timeout: float = 60.0,
        max_size: int = 16_777_216,
    ) -> None: ...
    @property
    def url(self) -> str:
        """The endpoint, without user, password and query."""

    def __call__(self, payload: Any = None, *, idempotency_key: str) -> Any:
        """Send `payload`; return the JSON of the answer, None if it has no body.

        Raises HttpFailed, httpx.TransportError, TimeoutExceeded; TypeError and ValueError for bad payloads and keys.
        """

    def close(self) -> None:
        """Close the client, if it is its own."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

class AsyncHttpHandler:
    """As `HttpHandler`, async; safe to share between tasks."""

    __name__: str
    __qualname__: str
    def __init__(
        self,
        url: str,
        *,
        client: httpx.AsyncClient | None = None,
        method: str = "POST",
        timeout: float = 60.0,
        max_size: int = 16_777_216,
    ) -> None: ...
    @property
    def url(self) -> str:
        """The endpoint, without user, password and query."""

    async def __call__(self, payload: Any = None, *, idempotency_key: str) -> Any:
        """Send `payload`; return the JSON of the answer, None if it has no body."""

    async def aclose(self) -> None:
        """Close the client, if it is its own."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
