"""httpx transports: every request of a client under a pipeline."""

from types import TracebackType
from typing import Self

import httpx

from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreakers
from holdfast.infrastructure.resilience.policy import Policy

class HttpxTransport(httpx.BaseTransport):
    """Send requests through policies; retries only what may be repeated. Made by `httpx_transport`.

    Safe to share between threads, as the client is.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        transport: httpx.BaseTransport | None = None,
        retry_methods: frozenset[str] = ...,
        failure_statuses: frozenset[int] = ...,
        buffer: bool = False,
        propagate: bool = True,
    ) -> None: ...
    @property
    def breakers(self) -> CircuitBreakers | None:
        """The breakers per host, if the pipeline has a family."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`, with retries, and return the last response.

        Raises httpx's own errors for what went wrong on the wire, TimeoutExceeded if a deadline of
        holdfast's ended it, CircuitOpenError and its kin when nothing was sent.
        """

    def close(self) -> None:
        """Close the wrapped transport."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None: ...

class AsyncHttpxTransport(httpx.AsyncBaseTransport):
    """Send requests through policies, for `httpx.AsyncClient`. Made by `async_httpx_transport`.

    Safe to share between tasks, as the client is.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        retry_methods: frozenset[str] = ...,
        failure_statuses: frozenset[int] = ...,
        buffer: bool = False,
        propagate: bool = True,
    ) -> None: ...
    @property
    def breakers(self) -> CircuitBreakers | None:
        """The breakers per host, if the pipeline has a family."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`, with retries, and return the last response.

        Raises httpx's own errors for what went wrong on the wire, TimeoutExceeded if a deadline of
        holdfast's ended it, CircuitOpenError and its kin when nothing was sent.
        """

    async def aclose(self) -> None:
        """Close the wrapped transport."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None: ...

def httpx_transport(
    policy: Policy,
    *,
    transport: httpx.BaseTransport | None = None,
    retry_methods: frozenset[str] = ...,
    failure_statuses: frozenset[int] = ...,
    buffer: bool = False,
    propagate: bool = True,
) -> HttpxTransport:
    """Return a transport for `httpx.Client(transport=…)` that sends every request through `policy`.

    `retry_methods` may be repeated (others with an `Idempotency-Key`, or when they never left); the last response of
    `failure_statuses` is returned, unread. A body that cannot be replayed is sent once. `CircuitBreakers` without
    `key` have one for each origin. `buffer`: the body is read inside the attempt, otherwise later, under its deadline.
    `propagate`: deadline and attempt go along in headers. ConfigurationError for bad settings, TypeError for a Hedge
    or a Cache in the pipeline.
    """

def async_httpx_transport(
    policy: Policy,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    retry_methods: frozenset[str] = ...,
    failure_statuses: frozenset[int] = ...,
    buffer: bool = False,
    propagate: bool = True,
) -> AsyncHttpxTransport:
    """Return a transport for `httpx.AsyncClient(transport=…)` that sends every request through `policy`."""
