"""Deadlines on the wire: a timeout that knows when it ends, and streams that keep to it.

httpx bounds each read and each write of a socket, not an attempt: a server that sends a byte now and then
outlasts every such timeout. The timeouts that a request carries here are `Bound`s, and before each operation
the connections look how much of them is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import httpcore

from holdfast.infrastructure.resilience._ambient import ambient

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator

_SLICE = 65536


class Bound(float):
    """Seconds that one operation may take, and the moment (monotonic seconds) after which none may go on."""

    __slots__ = ("deadline",)

    deadline: float

    def __new__(cls, seconds: float, deadline: float) -> Self:
        """Make a float that carries its deadline."""
        made = super().__new__(cls, seconds)
        made.deadline = deadline
        return made


def left(timeout: float | None, error: type[httpcore.TimeoutException]) -> float | None:
    """Return what `timeout` comes to now; raise `error` if that is nothing."""
    if not isinstance(timeout, Bound):
        return timeout
    seconds = min(float(timeout), timeout.deadline - ambient.monotonic())
    if seconds <= 0:
        raise error("the deadline has passed")
    return seconds


def bind(transport: object) -> None:
    """Let the connections that an httpx transport will make keep to the deadlines of `Bound`s.

    httpx, unlike httpcore, has no way to give the connection pool a network backend: without this, each read
    and write would have all that was left at the beginning of the attempt.
    """
    pool: Any = getattr(transport, "_pool", None)
    backend = getattr(pool, "_network_backend", None)
    if isinstance(backend, httpcore.NetworkBackend) and not isinstance(backend, Backend):
        pool._network_backend = Backend(backend)
    elif isinstance(backend, httpcore.AsyncNetworkBackend) and not isinstance(backend, AsyncBackend):
        pool._network_backend = AsyncBackend(backend)


def reclaim(transport: object) -> None:
    """Give back the connections that httpx's pool has lost, after an attempt that was ended from outside."""
    pool, lost = _lost(transport)
    if lost:
        pool._close_connections(lost)


async def areclaim(transport: object) -> None:
    """As `reclaim`, async."""
    pool, lost = _lost(transport)
    if lost:
        await pool._close_connections(lost)


def _lost(transport: object) -> tuple[Any, list[Any]]:
    """Take what no request uses out of the pool, and return what is to be closed.

    A request that ends between being given a connection and using it leaves it behind, neither idle nor closed,
    for ever: after a few, every request waits in vain (https://github.com/encode/httpcore/issues/1093). It happens
    when many wait for the pool and their deadlines pass together, which is what an outage looks like.
    """
    pool: Any = getattr(transport, "_pool", None)
    if not _is_pool(pool):
        return None, []
    with pool._optional_thread_lock:
        used = {id(request.connection) for request in pool._requests}
        lost = [one for one in pool._connections if id(one) not in used and not _at_rest(one)]
        if lost:
            pool._connections = [one for one in pool._connections if one not in lost]
            lost += pool._assign_requests_to_connections()
    return pool, lost


def _is_pool(pool: object) -> bool:
    parts = ("_optional_thread_lock", "_requests", "_connections", "_assign_requests_to_connections")
    return isinstance(pool, (httpcore.ConnectionPool, httpcore.AsyncConnectionPool)) and all(
        hasattr(pool, part) for part in parts
    )


def _at_rest(connection: Any) -> bool:
    return bool(connection.is_idle() or connection.is_closed())


def _slices(data: bytes, timeout: float | None) -> Iterator[bytes]:
    step = _SLICE if isinstance(timeout, Bound) else max(len(data), 1)
    return (data[at : at + step] for at in range(0, len(data), step))


class Backend(httpcore.NetworkBackend):
    """A network backend whose connections keep to deadlines."""

    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect, in what is left."""
        seconds = left(timeout, httpcore.ConnectTimeout)
        return Stream(self._inner.connect_tcp(host, port, seconds, local_address, socket_options))

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect, in what is left."""
        seconds = left(timeout, httpcore.ConnectTimeout)
        return Stream(self._inner.connect_unix_socket(path, seconds, socket_options))

    def sleep(self, seconds: float) -> None:
        """Wait, as the inner backend does."""
        self._inner.sleep(seconds)


class Stream(httpcore.NetworkStream):
    """A connection whose every operation keeps to the deadline."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read, in what is left."""
        return self._inner.read(max_bytes, left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write, each slice in what is left then."""
        for part in _slices(buffer, timeout):
            self._inner.write(part, left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Shake hands, in what is left."""
        seconds = left(timeout, httpcore.ConnectTimeout)
        return Stream(self._inner.start_tls(ssl_context, server_hostname, seconds))

    def get_extra_info(self, info: str) -> Any:
        """Tell what the inner stream tells."""
        return self._inner.get_extra_info(info)


class AsyncBackend(httpcore.AsyncNetworkBackend):
    """An async network backend whose connections keep to deadlines."""

    def __init__(self, inner: httpcore.AsyncNetworkBackend) -> None:
        self._inner = inner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect, in what is left."""
        seconds = left(timeout, httpcore.ConnectTimeout)
        return AsyncStream(await self._inner.connect_tcp(host, port, seconds, local_address, socket_options))

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect, in what is left."""
        seconds = left(timeout, httpcore.ConnectTimeout)
        return AsyncStream(await self._inner.connect_unix_socket(path, seconds, socket_options))

    async def sleep(self, seconds: float) -> None:
        """Wait, as the inner backend does."""
        await self._inner.sleep(seconds)


class AsyncStream(httpcore.AsyncNetworkStream):
    """An async connection whose every operation keeps to the deadline."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read, in what is left."""
        return await self._inner.read(max_bytes, left(timeout, httpcore.ReadTimeout))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write, each slice in what is left then."""
        for part in _slices(buffer, timeout):
            await self._inner.write(part, left(timeout, httpcore.WriteTimeout))

    async def aclose(self) -> None:
        """Close the connection."""
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Shake hands, in what is left."""
        seconds = left(timeout, httpcore.ConnectTimeout)
        return AsyncStream(await self._inner.start_tls(ssl_context, server_hostname, seconds))

    def get_extra_info(self, info: str) -> Any:
        """Tell what the inner stream tells."""
        return self._inner.get_extra_info(info)
