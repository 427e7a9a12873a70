"""httpx transports: every request of a client under a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from holdfast.infrastructure.transport._http import (
    DRAIN_PARTS,
    FAILURE_STATUSES,
    GRACE,
    RETRY_METHODS,
    AsyncBody,
    Attempt,
    Body,
    Limit,
    Rules,
    StatusFailure,
    Turns,
    watched,
)
from holdfast.infrastructure.transport._network import areclaim, bind, reclaim

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

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
        retry_methods: frozenset[str] = RETRY_METHODS,
        failure_statuses: frozenset[int] = FAILURE_STATUSES,
        buffer: bool = False,
        propagate: bool = True,
    ) -> None:
        self._rules = Rules(
            policy, methods=retry_methods, statuses=failure_statuses, buffer=buffer, propagate=propagate
        )
        self._transport = httpx.HTTPTransport() if transport is None else transport
        bind(self._transport)

    @property
    def breakers(self) -> CircuitBreakers | None:
        """The breakers per host, if the pipeline has a family."""
        return self._rules.breakers

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`, with retries, and return the last response.

        Raises httpx's own errors for what went wrong on the wire, TimeoutExceeded if a deadline of
        holdfast's ended it, CircuitOpenError and its kin when nothing was sent.
        """
        Limit().check()
        request = watched(request)
        call = _Call(self._transport, self._rules)
        try:
            response = self._rules.policy(request).call(call.attempt, request)
        except StatusFailure as failure:
            response = failure.response
        except BaseException:
            call.end()
            raise
        call.end(response)
        return response

    def close(self) -> None:
        """Close the wrapped transport."""
        self._transport.close()

    def __enter__(self) -> Self:
        """Open the wrapped transport."""
        self._transport.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close the wrapped transport."""
        self._transport.__exit__(exc_type, exc_value, traceback)


class AsyncHttpxTransport(httpx.AsyncBaseTransport):
    """Send requests through policies, for `httpx.AsyncClient`. Made by `async_httpx_transport`.

    Safe to share between tasks, as the client is.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        retry_methods: frozenset[str] = RETRY_METHODS,
        failure_statuses: frozenset[int] = FAILURE_STATUSES,
        buffer: bool = False,
        propagate: bool = True,
    ) -> None:
        self._rules = Rules(
            policy, methods=retry_methods, statuses=failure_statuses, buffer=buffer, propagate=propagate
        )
        self._transport = httpx.AsyncHTTPTransport() if transport is None else transport
        bind(self._transport)

    @property
    def breakers(self) -> CircuitBreakers | None:
        """The breakers per host, if the pipeline has a family."""
        return self._rules.breakers

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`, with retries, and return the last response.

        Raises httpx's own errors for what went wrong on the wire, TimeoutExceeded if a deadline of
        holdfast's ended it, CircuitOpenError and its kin when nothing was sent.
        """
        Limit().check()
        request = watched(request)
        call = _AsyncCall(self._transport, self._rules)
        try:
            response = await self._rules.policy(request).call(call.attempt, request)
        except StatusFailure as failure:
            response = failure.response
        except BaseException:
            await call.end()
            raise
        await call.end(response)
        return response

    async def aclose(self) -> None:
        """Close the wrapped transport."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        """Open the wrapped transport."""
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close the wrapped transport."""
        await self._transport.__aexit__(exc_type, exc_value, traceback)


def httpx_transport(
    policy: Policy,
    *,
    transport: httpx.BaseTransport | None = None,
    retry_methods: frozenset[str] = RETRY_METHODS,
    failure_statuses: frozenset[int] = FAILURE_STATUSES,
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
    return HttpxTransport(
        policy,
        transport=transport,
        retry_methods=retry_methods,
        failure_statuses=failure_statuses,
        buffer=buffer,
        propagate=propagate,
    )


def async_httpx_transport(
    policy: Policy,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    retry_methods: frozenset[str] = RETRY_METHODS,
    failure_statuses: frozenset[int] = FAILURE_STATUSES,
    buffer: bool = False,
    propagate: bool = True,
) -> AsyncHttpxTransport:
    """Return a transport for `httpx.AsyncClient(transport=…)` that sends every request through `policy`."""
    return AsyncHttpxTransport(
        policy,
        transport=transport,
        retry_methods=retry_methods,
        failure_statuses=failure_statuses,
        buffer=buffer,
        propagate=propagate,
    )


class _Call:
    """One request of a client's, through all its attempts."""

    __slots__ = ("_rules", "_transport", "_turns")

    def __init__(self, transport: httpx.BaseTransport, rules: Rules) -> None:
        self._transport = transport
        self._rules = rules
        self._turns = Turns()

    def attempt(self, request: httpx.Request) -> httpx.Response:
        turn, before = self._turns.begin()
        if before is not None:
            _discard(*before)
        attempt = Attempt(request)
        self._rules.stamp(attempt.request, request)
        try:
            response = self._transport.handle_request(attempt.request)
            failed = self._receive(attempt, response)
        except BaseException as error:
            reclaim(self._transport)
            attempt.failed(error)
            raise
        if not self._turns.keep(turn, attempt, response):
            response.close()
        if failed:
            raise StatusFailure(response, attempt.request)
        return response

    def _receive(self, attempt: Attempt, response: httpx.Response) -> bool:
        """Put the body under the deadline, or read it; return whether the response is a failure."""
        body = response.stream = Body(response.stream, attempt.limit)
        failed = self._rules.fails(response)
        if not failed and self._rules.loads(response, attempt.request):
            try:
                response.stream = httpx.ByteStream(b"".join(body))
            finally:
                body.close()
        return failed

    def end(self, wanted: object = None) -> None:
        response = self._turns.end(wanted)
        if response is not None:
            response.close()


def _discard(attempt: Attempt, response: httpx.Response) -> None:
    """Close a response, after reading what little is left: then its connection can be used again."""
    try:
        if attempt.worth_draining(response):
            attempt.hurry()
            for _ in zip(range(DRAIN_PARTS), response.iter_raw(), strict=False):
                pass
    except (httpx.HTTPError, httpx.StreamError):
        pass  # the connection is lost; the next attempt makes another
    finally:
        response.close()


class _AsyncCall:
    """As `_Call`, async."""

    __slots__ = ("_rules", "_transport", "_turns")

    def __init__(self, transport: httpx.AsyncBaseTransport, rules: Rules) -> None:
        self._transport = transport
        self._rules = rules
        self._turns = Turns()

    async def attempt(self, request: httpx.Request) -> httpx.Response:
        turn, before = self._turns.begin()
        if before is not None:
            await _adiscard(*before)
        attempt = Attempt(request, grace=GRACE)
        self._rules.stamp(attempt.request, request)
        try:
            response = await self._transport.handle_async_request(attempt.request)
            failed = await self._receive(attempt, response)
        except BaseException as error:
            await areclaim(self._transport)
            attempt.failed(error)
            raise
        self._turns.keep(turn, attempt, response)
        if failed:
            raise StatusFailure(response, attempt.request)
        return response

    async def _receive(self, attempt: Attempt, response: httpx.Response) -> bool:
        """Put the body under the deadline, or read it; return whether the response is a failure."""
        body = response.stream = AsyncBody(response.stream, attempt.limit)
        failed = self._rules.fails(response)
        if not failed and self._rules.loads(response, attempt.request):
            try:
                response.stream = httpx.ByteStream(b"".join([part async for part in body]))
            finally:
                await body.aclose()
        return failed

    async def end(self, wanted: object = None) -> None:
        response = self._turns.end(wanted)
        if response is not None:
            await response.aclose()


async def _adiscard(attempt: Attempt, response: httpx.Response) -> None:
    """As `_discard`, async."""
    try:
        if attempt.worth_draining(response):
            attempt.hurry()
            parts = 0
            async for _ in response.aiter_raw():
                parts += 1
                if parts == DRAIN_PARTS:
                    break
    except (httpx.HTTPError, httpx.StreamError):
        pass  # the connection is lost; the next attempt makes another
    finally:
        await response.aclose()


# What events and notes call requests through a pipeline without a name.
for _attempt in (_Call.attempt, _AsyncCall.attempt):
    vars(_attempt)["_holdfast_label"] = "httpx request"
