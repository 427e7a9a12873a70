"""A shop that pays through a bank that fails, with the API that operates it, all on real sockets."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from backend.tests.integration._asgi import AsgiServer
from backend.tests.integration._server import FaultyServer
from holdfast.api.internal.resilience.app import PREFIX, Operations, create_router
from holdfast.api.internal.resilience.auth import ApiKey, ApiKeys
from holdfast.api.internal.resilience.problems import install_problems
from holdfast.infrastructure.resilience.backoff import backoff
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.live import LiveConfiguration
from holdfast.infrastructure.resilience.registry import Registry
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.resilience.window import Window
from holdfast.infrastructure.telemetry.feed import Feed
from holdfast.infrastructure.telemetry.monitor import Monitor
from holdfast.infrastructure.telemetry.prometheus import PrometheusExporter

READ = "the-key-of-a-dashboard-that-reads"
OPERATE = "the-key-of-a-person-on-call"
FAILURES = 5
OPEN_FOR = 30.0
_numbers = itertools.count(1)
_KEYS = ApiKeys([ApiKey("dashboard", READ), ApiKey("on-call", OPERATE, "operate")])


class Shop:
    """Three attempts at the bank a payment; five failures in a row open the circuit for half a minute."""

    def __init__(self, bank: FaultyServer) -> None:
        self.bank = bank
        # A name of its own: what other shops did is not to be seen, however long they are kept alive.
        self.name = name = f"bank-{next(_numbers)}"
        self.breaker = CircuitBreaker(
            name,
            window=Window.consecutive(FAILURES),
            on=httpx.HTTPError,
            open_for=OPEN_FOR,
            open_cap=OPEN_FOR,
            open_jitter=0.0,
            half_open_calls=1,
        )
        registry = Registry()
        retry = Retry(attempts=3, wait=backoff(base=0.001, cap=0.001), on=httpx.HTTPError)
        registry.define(name, Timeout(20.0), retry, self.breaker)
        self.operations = Operations(
            live=LiveConfiguration(registry, environ={}),
            monitor=Monitor(registry),
            feed=Feed(),
            exporter=PrometheusExporter(registry),
        )

        @registry.resilient(name)
        async def pay() -> str:
            async with httpx.AsyncClient(verify=False) as client:
                response = await client.get(bank.url)
                response.raise_for_status()
                return response.text

        self._pay = pay
        self._server = AsgiServer(self._application())
        self.url = self._server.url
        self.http = httpx.Client(base_url=self.url, timeout=20.0)

    def pay(self) -> httpx.Response:
        """Pay as a customer does."""
        return self.http.get("/pay")

    def detail(self) -> Any:
        """Return what the API says of the bank's breaker."""
        return self.look(f"/circuit-breakers/{self.name}")

    def look(self, path: str, **query: Any) -> Any:
        """Return what the API says to whoever may read."""
        return self.api("GET", path, READ, params=query).json()

    def operate(self, action: str, **said: Any) -> httpx.Response:
        """Set the bank's breaker by hand, over HTTP."""
        return self.api("POST", f"/circuit-breakers/{self.name}/{action}", OPERATE, json=said)

    def api(self, method: str, path: str, key: str | None, **options: Any) -> httpx.Response:
        """Send a request to the API."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return self.http.request(method, PREFIX + path, headers=headers, **options)

    def metrics(self) -> dict[tuple[str, str], float]:
        """Return the samples about the bank, by name and its distinguishing label, as Prometheus parses them."""
        text = self.api("GET", "/metrics", READ).text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {
            (
                one.name,
                "".join(value for name, value in one.labels.items() if name not in {"operation", "name"}),
            ): one.value
            for one in samples
            if self.name in (one.labels.get("operation"), one.labels.get("name"))
        }

    def close(self) -> None:
        """Stop serving."""
        self.http.close()
        self._server.stop()
        self.operations.close()
        self.operations.monitor.close()
        self.operations.feed.close()
        if self.operations.exporter is not None:
            self.operations.exporter.close()
        self.operations.live.registry.discard(self.name)

    def _application(self) -> FastAPI:
        app = FastAPI()
        install_problems(app)
        app.include_router(create_router(self.operations, keys=_KEYS), prefix=PREFIX)

        async def pay() -> dict[str, str]:
            try:
                return {"bank": await self._pay()}
            except httpx.HTTPError:
                return {"bank": "none"}

        app.get("/pay")(pay)
        return app
