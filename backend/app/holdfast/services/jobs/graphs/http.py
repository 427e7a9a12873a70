"""Orders on other machines over HTTP: a target that posts them to a worker, and addresses for all that it needs."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import asdict, replace
from hashlib import sha256
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx

from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreakers
from holdfast.infrastructure.resilience.clock import current_clock
from holdfast.infrastructure.resilience.errors import CircuitOpenError, HoldfastError, HttpFailed
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.store.state import NotFoundError
from holdfast.infrastructure.transport.http import httpx_transport

if TYPE_CHECKING:
    from holdfast.infrastructure.resilience.policy import Policy
    from holdfast.services.jobs.graphs.ports import Work

# How much longer than an order may take its addresses are good for.
_MARGIN = 300.0
_SHORTEST_SECRET = 16
_FULL = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_TAKEN = frozenset({HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED})
_SHOWN = 200


class UrlRefusedError(HoldfastError, ValueError):
    """A signed address is not one of ours, is for another method, or its time is over: the sentence says which."""


class SignedUrls:
    """Addresses below `base` that read or write one blob each, until they expire: who has one needs no key.

    `secret`: 16 bytes at least, the same in all processes that make or serve them. Safe to share between threads.
    ValueError for a shorter one.
    """

    def __init__(self, base: str, secret: bytes) -> None:
        if len(secret) < _SHORTEST_SECRET:
            raise ValueError(f"the secret has {len(secret)} bytes; give {_SHORTEST_SECRET} at least")
        self._base, self._secret = base.rstrip("/"), secret

    def url(self, method: str, key: str, expires_in: float) -> str:
        """Return the address for GET or PUT of a blob, good for `expires_in` seconds."""
        said = json.dumps([method, key, current_clock().time() + expires_in]).encode()
        return f"{self._base}/{_text(said)}.{_text(self._mark(said))}"

    def opened(self, method: str, token: str) -> str:
        """Return the key that the last part of an address names. UrlRefusedError."""
        first, _, last = token.partition(".")
        try:
            said, mark = _bytes(first), _bytes(last)
            good = hmac.compare_digest(mark, self._mark(said))
            allowed, key, expires = json.loads(said) if good else ("", "", 0.0)
        except ValueError:
            good, allowed, key, expires = False, "", "", 0.0
        if not good:
            raise UrlRefusedError("the address is not one of ours")
        if method != allowed:
            raise UrlRefusedError(f"the address is for {allowed}, not for {method}")
        if current_clock().time() >= expires:
            raise UrlRefusedError("the address has expired")
        return str(key)

    def _mark(self, said: bytes) -> bytes:
        return hmac.digest(self._secret, said, sha256)


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
    ) -> None:
        self._url, self._urls = url.rstrip("/"), urls
        self._client = _client_of(policy, transport, token)

    @property
    def url(self) -> str:
        """Where orders are posted to."""
        return self._url

    def dispatch(self, work: Work) -> bool:
        """Post an order; False: no room. httpx's errors, HttpFailed."""
        try:
            # Its name keeps what is repeated from being started twice; so does the first start.
            key = f"{work.run}/{work.number}"
            answer = self._client.post(self._url, json=self._message(work), headers={"Idempotency-Key": key})
        except CircuitOpenError:
            return False
        if answer.status_code in _FULL:
            return False
        _check(answer)
        return True

    def cancel(self, work: Work) -> None:
        """Tell the worker to end an order. httpx's errors, HttpFailed."""
        answer = self._client.delete(f"{self._url}/{work.run}/{work.number}")
        if answer.status_code != HTTPStatus.NOT_FOUND:
            _check(answer)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def _message(self, work: Work) -> dict[str, Any]:
        """Return an order with addresses in place of keys: one reads, three write once."""
        lasts = work.timeout + _MARGIN
        addressed = replace(
            work,
            archive=self._urls.url("GET", work.archive, lasts),
            started=self._urls.url("PUT", work.started, lasts),
            result=self._urls.url("PUT", work.result, lasts),
            log=self._urls.url("PUT", work.log, lasts),
        )
        return asdict(addressed)


class UrlBlobs:
    """Blobs whose keys are the addresses at which they are read or written, as a worker is given them.

    `policy` is around every request, by default as `HttpTarget`'s without the breaker, and five attempts. Close it.
    """

    tenant: str = "default"

    def __init__(self, *, policy: Policy | None = None, transport: httpx.BaseTransport | None = None) -> None:
        usual = Pipeline(Timeout(60), Retry(5, name="blobs"), Timeout(20))
        self._client = _client_of(policy or usual, transport)

    def put(self, key: str, data: bytes) -> bool:
        """Write; False: other bytes are there already. httpx's errors, HttpFailed."""
        answer = self._client.put(key, content=data, headers={"If-None-Match": "*"})
        if answer.status_code in _TAKEN:
            return False
        _check(answer)
        return True

    def get(self, key: str) -> bytes:
        """Return what is there. NotFoundError, also where the address is not good for that; httpx's errors."""
        answer = self._client.get(key)
        if answer.status_code in {HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN}:
            raise NotFoundError("blob", "at this address", self.tenant)
        _check(answer)
        return answer.content

    def exists(self, key: str) -> bool:
        """Return whether it can be read."""
        try:
            self.get(key)
        except NotFoundError:
            return False
        return True

    def delete(self, key: str) -> bool:
        """Raise ValueError: an address reads or writes."""
        raise ValueError("what lies at an address cannot be removed")

    def presign(self, key: str, expires_in: float = 3600.0) -> str | None:
        """Return the address."""
        return key

    def close(self) -> None:
        """Close its connections."""
        self._client.close()


def _client_of(
    policy: Policy | None = None, transport: httpx.BaseTransport | None = None, token: str = ""
) -> httpx.Client:
    """Return a client whose requests go through a policy, by default that of `HttpTarget`."""
    around = policy or Pipeline(Timeout(30), Retry(3), CircuitBreakers("workers"), Timeout(10))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # The policy says how long a request may take.
    wire = httpx_transport(around, transport=transport, buffer=True)
    return httpx.Client(transport=wire, headers=headers, timeout=600.0)


def _check(answer: httpx.Response) -> None:
    """Raise HttpFailed unless a request has succeeded."""
    if answer.is_success:
        return
    request = answer.request
    # What is in a signed address lets its bearer in.
    shown = str(request.url.copy_with(userinfo=b"", path="/…", query=None, fragment=None))
    said = " ".join(answer.text.split())[:_SHOWN]
    raise HttpFailed(request.method, shown, answer.status_code, said)


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
