"""A handler of an HTTP endpoint under policies, sync or async, to be called once a test."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import httpx

from backend.tests.integration._server import FaultyServer
from holdfast.infrastructure.resilience.deadline import deadline_after
from holdfast.infrastructure.transport.http_handler import AsyncHttpHandler, HttpHandler


class Endpoint:
    """One endpoint of the server; `of_client`: settings of a client of the test's."""

    def __init__(self, server: FaultyServer, sync: bool, policies: Sequence[Any], settings: Any) -> None:  # noqa: FBT001
        self.sync = sync
        self._policies = policies
        self._of_client = settings.pop("of_client", None)
        self._url = settings.pop("url", f"{server.url}/labels")
        # Seconds of a deadline around the call.
        self._within = settings.pop("within", None)
        self._settings = settings

    def __call__(self, payload: Any = None, key: str = "order-1") -> Any:
        """Send one payload."""
        if self.sync:
            return self._call(payload, key)
        return asyncio.run(self._acall(payload, key))

    def _call(self, payload: Any, key: str) -> Any:
        if self._of_client is None:
            with HttpHandler(self._url, **self._settings) as handler:
                return self._send(handler, payload, key)
        with httpx.Client(**self._of_client) as client:
            handler = HttpHandler(self._url, client=client, **self._settings)
            return self._send(handler, payload, key)

    def _send(self, handler: Any, payload: Any, key: str) -> Any:
        call = self._under(handler)
        with nullcontext() if self._within is None else deadline_after(self._within):
            return call(payload, idempotency_key=key)

    async def _acall(self, payload: Any, key: str) -> Any:
        if self._of_client is None:
            async with AsyncHttpHandler(self._url, **self._settings) as handler:
                return await self._asend(handler, payload, key)
        async with httpx.AsyncClient(**self._of_client) as client:
            handler = AsyncHttpHandler(self._url, client=client, **self._settings)
            return await self._asend(handler, payload, key)

    async def _asend(self, handler: Any, payload: Any, key: str) -> Any:
        call = self._under(handler)
        with nullcontext() if self._within is None else deadline_after(self._within):
            return await call(payload, idempotency_key=key)

    def _under(self, handler: Any) -> Any:
        for policy in reversed(self._policies):
            handler = policy(handler)
        return handler
