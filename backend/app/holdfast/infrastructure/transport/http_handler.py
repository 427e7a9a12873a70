"""HTTP endpoints as handlers: a payload goes out as JSON, with an idempotency key; JSON comes back."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import httpx

from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.resilience.classify import retry_after
from holdfast.infrastructure.resilience.errors import HttpFailed
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.transport._json import dump, load
from holdfast.infrastructure.transport.http import async_httpx_transport, httpx_transport

if TYPE_CHECKING:
    from ssl import SSLContext
    from types import TracebackType
    from typing import Self

_KEY_HEADER = "Idempotency-Key"

_LONGEST_KEY = 255
_SHOWN = 1_000
_LONGEST = 1e9  # seconds, 31 years
_SHORTEST_SECRET = 4
_SCHEMES = frozenset({"basic", "bearer", "digest", "token"})
_FAILURE_BYTES = 65_536
_SECRET_HEADERS = ("Authorization", "Proxy-Authorization", "Cookie", "X-Api-Key", "Api-Key")
_REDACTED = "[redacted]"


class HttpHandler:
    """Send payloads to an HTTP endpoint as JSON, with the header `Idempotency-Key`, and return the JSON it answers.

    Safe to share between threads. `timeout` (seconds, all of a request) is for the client that it makes and closes
    itself; a `client` of yours is used as it is. Put a Retry around it: HttpFailed with 408, 425, 429, 500, 502, 503,
    504 and httpx's errors of the wire pass, `Retry-After` counts, all other statuses are final. Errors carry no
    credentials and at most 1,000 characters of the body. An answer of more than `max_size` bytes is a failure.
    """

    # What policies around it call it.
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
    ) -> None:
        _check(httpx.Client, url=url, client=client, method=method, timeout=timeout, max_size=max_size)
        self._endpoint = _Endpoint(url, method, max_size)
        self.__name__ = self.__qualname__ = self._endpoint.name
        self._own = client is None
        self._client = _client(timeout) if client is None else client

    @property
    def url(self) -> str:
        """The endpoint, without user, password and query."""
        return self._endpoint.shown

    def __call__(self, payload: Any = None, *, idempotency_key: str) -> Any:
        """Send `payload`; return the JSON of the answer, None if it has no body.

        Raises HttpFailed, httpx.TransportError, TimeoutExceeded; TypeError and ValueError for bad payloads and keys.
        """
        request = self._endpoint.request(self._client, payload, idempotency_key)
        try:
            response = self._client.send(request, stream=True)
            try:
                body = self._endpoint.body(response)
                for part in response.iter_bytes():
                    if body.add(part):
                        break
            finally:
                response.close()
        except Exception as error:
            self._endpoint.bare(error)
            raise
        return self._endpoint.result(response, body)

    def close(self) -> None:
        """Close the client, if it is its own."""
        if self._own:
            self._client.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the client, if it is its own."""
        self.close()


class AsyncHttpHandler:
    """As `HttpHandler`, async; safe to share between tasks."""

    # What policies around it call it.
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
    ) -> None:
        _check(httpx.AsyncClient, url=url, client=client, method=method, timeout=timeout, max_size=max_size)
        self._endpoint = _Endpoint(url, method, max_size)
        self.__name__ = self.__qualname__ = self._endpoint.name
        self._own = client is None
        self._client = _async_client(timeout) if client is None else client

    @property
    def url(self) -> str:
        """The endpoint, without user, password and query."""
        return self._endpoint.shown

    async def __call__(self, payload: Any = None, *, idempotency_key: str) -> Any:
        """Send `payload`; return the JSON of the answer, None if it has no body."""
        request = self._endpoint.request(self._client, payload, idempotency_key)
        try:
            response = await self._client.send(request, stream=True)
            try:
                body = self._endpoint.body(response)
                async for part in response.aiter_bytes():
                    if body.add(part):
                        break
            finally:
                await response.aclose()
        except Exception as error:
            self._endpoint.bare(error)
            raise
        return self._endpoint.result(response, body)

    async def aclose(self) -> None:
        """Close the client, if it is its own."""
        if self._own:
            await self._client.aclose()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the client, if it is its own."""
        await self.aclose()


def _client(timeout: float) -> httpx.Client:
    wire = httpx.HTTPTransport(verify=_tls())
    return httpx.Client(transport=httpx_transport(Timeout(timeout), transport=wire), timeout=timeout)


def _async_client(timeout: float) -> httpx.AsyncClient:
    wire = httpx.AsyncHTTPTransport(verify=_tls())
    return httpx.AsyncClient(
        transport=async_httpx_transport(Timeout(timeout), transport=wire), timeout=timeout
    )


@cache
def _tls() -> SSLContext:
    """Return what all handlers verify servers with: it takes 20 ms to make."""
    return httpx.create_ssl_context()


class _Endpoint:
    """What the sync and the async handler share: how a request is made, and what an answer means."""

    __slots__ = ("_method", "_url", "max_size", "shown")

    def __init__(self, url: str, method: str, max_size: int) -> None:
        self._url = httpx.URL(url)
        self._method = method.upper()
        self.max_size = max_size
        self.shown = str(self._url.copy_with(userinfo=b"", query=None, fragment=None))

    @property
    def name(self) -> str:
        """Method and address."""
        return f"{self._method} {self.shown}"

    def request(self, client: httpx.Client | httpx.AsyncClient, payload: object, key: str) -> httpx.Request:
        """Return the request for a payload."""
        _check_key(key)
        headers = {_KEY_HEADER: key, "Accept": "application/json"}
        content = None
        if payload is not None:
            headers["Content-Type"] = "application/json"
            content = dump(f"the payload of {self.shown}", payload).encode()
        return client.build_request(self._method, self._url, headers=headers, content=content)

    def body(self, response: httpx.Response) -> _Body:
        """Return what takes the body: of a failure only the beginning is wanted."""
        return _Body(self.max_size if response.is_success else min(self.max_size, _FAILURE_BYTES))

    def bare(self, error: BaseException) -> None:
        """Take the request, with its headers and its body, out of errors that may be kept."""
        chain: list[BaseException | None] = [error]
        for one in chain:
            if isinstance(one, httpx.RequestError):
                one.request = httpx.Request(self._method, self.shown)
            if one is not None:
                chain += [next_ for next_ in (one.__cause__, one.__context__) if next_ not in chain]

    def result(self, response: httpx.Response, body: _Body) -> Any:
        """Return the JSON of an answer. HttpFailed if it is no success, or no JSON."""
        if not response.is_success:
            raise self._failed(response, body.text(response))
        if body.cut:
            raise self._failed(response, f"more than {self.max_size} bytes")
        if not body.data.strip():
            return None
        try:
            return load(body.data)
        except ValueError:
            raise self._failed(response, f"no JSON: {body.text(response)}") from None

    def _failed(self, response: httpx.Response, text: str) -> HttpFailed:
        for secret in _secrets(response.request):
            text = text.replace(secret, _REDACTED)
        error = HttpFailed(self._method, self.shown, response.status_code, text[:_SHOWN])
        error.retry_after = retry_after(_Answered(response))
        return error


class _Answered(Exception):
    """Carries a response to where hints are read."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response


class _Body:
    """The bytes of an answer, as far as they are wanted."""

    __slots__ = ("_most", "cut", "data")

    def __init__(self, most: int) -> None:
        self._most = most
        self.data = bytearray()
        self.cut = False

    def add(self, part: bytes) -> bool:
        """Take a part; return whether that is enough."""
        self.data += part
        self.cut = len(self.data) > self._most
        return self.cut

    def text(self, response: httpx.Response) -> str:
        """Return what can be shown of it."""
        encoding = response.charset_encoding or "utf-8"
        try:
            return self.data.decode(encoding, "replace")
        except LookupError:
            return self.data.decode("utf-8", "replace")


def _secrets(request: httpx.Request) -> list[str]:
    """Return what must not be shown, though the other side repeats it; the longest first."""
    values = [value for name in _SECRET_HEADERS for value in request.headers.get_list(name)]
    parts = {part for value in values for part in (value, *value.split())}
    parts |= {request.url.password, *request.url.params.values()}
    found = (part for part in parts if len(part) >= _SHORTEST_SECRET and part.lower() not in _SCHEMES)
    return sorted(found, key=len, reverse=True)


def _check(
    kind: type, *, url: object, client: object, method: object, timeout: object, max_size: object
) -> None:
    faults = Faults("HttpHandler")
    faults.check(
        _is_url(url), "url", _hidden(url), "is no address", 'give one such as "https://labels.test/v1"'
    )
    fine = client is None or isinstance(client, kind)
    faults.check(fine, "client", client, f"is no httpx.{kind.__name__}", "give one or None")
    fine = isinstance(method, str) and method.isalpha()
    faults.check(fine, "method", method, "is no HTTP method", 'give one such as "POST"')
    faults.number("timeout", timeout, 0, _LONGEST, above=True)
    faults.number("max_size", max_size, 1, whole=True)
    faults.finish()


def _is_url(url: object) -> bool:
    try:
        parsed = httpx.URL(url) if isinstance(url, str) else None
    except (httpx.InvalidURL, ValueError):
        return False
    return parsed is not None and parsed.scheme in {"http", "https"} and bool(parsed.host)


def _hidden(url: object) -> object:
    """Return a bad address without what may be a password."""
    return f"…@{url.rpartition('@')[2]}" if isinstance(url, str) and "@" in url else url


def _check_key(key: object) -> None:
    text = key if isinstance(key, str) else ""
    if not (0 < len(text) <= _LONGEST_KEY and text.isascii() and text.isprintable()):
        raise ValueError(
            f"idempotency_key {key!r} cannot be sent: give 1 to {_LONGEST_KEY} printable ASCII characters"
        )
