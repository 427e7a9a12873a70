"""httpx clients over holdfast's transports, sync and async behind one face, counting open responses."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.transport.http import async_httpx_transport, httpx_transport

Mode = Literal["sync", "async"]

# One connection at a time: a response that stays open starves the next attempt, which soon fails.
_ONE = httpx.Limits(max_connections=1)
_TIMEOUT = httpx.Timeout(5.0, pool=0.5)


class SkippingClock(Clock):
    """Real time, except that what policies want to wait is remembered and skipped."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._lock = threading.Lock()
        self._skipped = 0.0

    def skip(self, seconds: float) -> None:
        with self._lock:
            self._skipped += seconds

    def monotonic(self) -> float:
        return super().monotonic() + self._skipped

    def time(self) -> float:
        return super().time() + self._skipped

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.skip(seconds)

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)


@dataclass(slots=True)
class Open:
    """How many responses of a transport are open now, and how many there were."""

    now: int = 0
    total: int = 0


class _CountedBody(httpx.SyncByteStream):
    def __init__(self, stream: Any, count: Open) -> None:
        self._stream = stream
        self._count = count
        self._closed = False
        count.now += 1
        count.total += 1

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        self._count.now -= not self._closed
        self._closed = True
        self._stream.close()


class _AsyncCountedBody(httpx.AsyncByteStream):
    def __init__(self, stream: Any, count: Open) -> None:
        self._stream = stream
        self._count = count
        self._closed = False
        count.now += 1
        count.total += 1

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        self._count.now -= not self._closed
        self._closed = True
        await self._stream.aclose()


class _CountedTransport(httpx.HTTPTransport):
    def __init__(self, count: Open, limits: httpx.Limits) -> None:
        super().__init__(verify=False, limits=limits)
        self._count = count

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        response.stream = _CountedBody(response.stream, self._count)
        return response


class _AsyncCountedTransport(httpx.AsyncHTTPTransport):
    def __init__(self, count: Open, limits: httpx.Limits) -> None:
        super().__init__(verify=False, limits=limits)
        self._count = count

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        response.stream = _AsyncCountedBody(response.stream, self._count)
        return response


class Caller(ABC):
    """A client, sync or async, that a test drives in one way."""

    open: Open

    @abstractmethod
    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        """Send a request and read its response."""

    @abstractmethod
    def stream(self, method: str, url: str, **options: Any) -> httpx.Response:
        """Send a request and leave the response's body alone."""

    @abstractmethod
    def read(self, response: httpx.Response) -> bytes:
        """Read the body of a streamed response, and close it."""

    @abstractmethod
    def close_response(self, response: httpx.Response) -> None:
        """Close a streamed response."""

    @abstractmethod
    def parts(self, *parts: bytes) -> Any:
        """Return a body that can be sent only once."""

    @abstractmethod
    def get_all(self, urls: list[str]) -> list[httpx.Response | BaseException]:
        """Get every URL at the same time; return the responses and errors in the order of the URLs."""

    @abstractmethod
    def close(self) -> None:
        """Close the client."""


@dataclass(slots=True)
class SyncCaller(Caller):
    client: httpx.Client
    open: Open

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        return self.client.request(method, url, **options)

    def stream(self, method: str, url: str, **options: Any) -> httpx.Response:
        return self.client.send(self.client.build_request(method, url, **options), stream=True)

    def read(self, response: httpx.Response) -> bytes:
        try:
            return response.read()
        finally:
            response.close()

    def close_response(self, response: httpx.Response) -> None:
        response.close()

    def parts(self, *parts: bytes) -> Any:
        return (part for part in parts)

    def get_all(self, urls: list[str]) -> list[httpx.Response | BaseException]:
        with ThreadPoolExecutor(len(urls)) as threads:
            futures = [threads.submit(self.client.get, url) for url in urls]
        return [future.exception() or future.result() for future in futures]

    def close(self) -> None:
        self.client.close()


@dataclass(slots=True)
class AsyncCaller(Caller):
    client: httpx.AsyncClient
    open: Open
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        return self.runner.run(self.client.request(method, url, **options))

    def stream(self, method: str, url: str, **options: Any) -> httpx.Response:
        request = self.client.build_request(method, url, **options)
        return self.runner.run(self.client.send(request, stream=True))

    def read(self, response: httpx.Response) -> bytes:
        async def read() -> bytes:
            try:
                return await response.aread()
            finally:
                await response.aclose()

        return self.runner.run(read())

    def close_response(self, response: httpx.Response) -> None:
        self.runner.run(response.aclose())

    def parts(self, *parts: bytes) -> Any:
        async def send() -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        return send()

    def get_all(self, urls: list[str]) -> list[httpx.Response | BaseException]:
        async def get_them() -> list[httpx.Response | BaseException]:
            return await asyncio.gather(*map(self.client.get, urls), return_exceptions=True)

        return self.runner.run(get_them())

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.close()


def caller(
    mode: Mode,
    policy: Policy,
    *,
    limits: httpx.Limits = _ONE,
    timeout: httpx.Timeout = _TIMEOUT,
    **settings: Any,
) -> Caller:
    """Return a client whose requests go through `policy`; by default it has one connection at most."""
    count = Open()
    if mode == "sync":
        inner = _CountedTransport(count, limits)
        transport = httpx_transport(policy, transport=inner, **settings)
        return SyncCaller(httpx.Client(transport=transport, timeout=timeout), count)
    async_inner = _AsyncCountedTransport(count, limits)
    async_transport = async_httpx_transport(policy, transport=async_inner, **settings)
    return AsyncCaller(httpx.AsyncClient(transport=async_transport, timeout=timeout), count)
