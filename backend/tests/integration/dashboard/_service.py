"""A service whose calls go over real sockets, and the API that watches it, on a port that it keeps."""

from collections.abc import Callable, Iterable
from math import sin
from typing import Any

import httpx

from backend.tests.integration._asgi import AsgiServer
from backend.tests.integration._client import SkippingClock
from backend.tests.integration._server import FaultyServer, respond
from holdfast.api.internal.jobs.app import PREFIX as JOBS_PREFIX
from holdfast.api.internal.jobs.app import Tenants
from holdfast.api.internal.jobs.app import create_router as create_jobs_router
from holdfast.api.internal.resilience.app import Operations, create_app
from holdfast.api.internal.resilience.auth import ApiKey, ApiKeys
from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.bulkhead import Bulkhead
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.concurrency_limit import ConcurrencyLimit
from holdfast.infrastructure.resilience.live import LiveConfiguration
from holdfast.infrastructure.resilience.rate_limit import RateLimit
from holdfast.infrastructure.resilience.registry import Registry
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.window import Window
from holdfast.infrastructure.telemetry.feed import Feed
from holdfast.infrastructure.telemetry.monitor import Monitor

PREFIX = "/internal/resilience"
OPERATE = "a-key-that-may-operate"
READ = "a-key-that-may-read"
KEYS = (ApiKey("ann", OPERATE, "operate"), ApiKey("wallboard", READ, "read"))
BAD_NAME = "<img src=x onerror='window.pwned=1'><b>bold</b>"


class Server(AsgiServer):
    """A server that can be torn away from its clients."""

    def cut(self) -> None:
        """Stop, and reset every connection: streams would keep the server waiting, and clients hanging."""
        self._server.should_exit = True
        while self._thread.is_alive():
            for connection in list(self._server.server_state.connections):
                connection.loop.call_soon_threadsafe(connection.transport.abort)
            self._thread.join(0.01)


class Service:
    """Calls to an upstream through named pipelines, and the API over them."""

    def __init__(
        self,
        upstream: FaultyServer,
        clock: SkippingClock,
        *,
        kept: int = 1000,
        tenants: Tenants | None = None,
    ) -> None:
        self.upstream = upstream
        self.tenants = tenants
        self.clock = clock
        self.registry = Registry()
        self._http = httpx.Client(base_url=upstream.url, timeout=5.0)
        self._calls: dict[str, Callable[[], str]] = {}
        self._kept = kept
        self._define()
        self._begin(KEYS, 0)

    @property
    def url(self) -> str:
        """The address of the dashboard."""
        return f"http://127.0.0.1:{self.port}{PREFIX}/dashboard"

    def call(self, name: str, times: int = 1) -> list[str]:
        """Call an operation; return what came of it: `ok`, or the name of the error."""
        return [self._outcome(name) for _ in range(times)]

    def fail(self, name: str, requests: int) -> None:
        """Let the next `requests` of an operation fail."""
        self.upstream.at(f"/{name}", *[respond(503)] * requests)

    def open(self, name: str) -> None:
        """Let an operation fail until its breaker opens."""
        self.fail(name, 100)
        while self.breaker(name).state == "closed":
            self._outcome(name)
        self.fail(name, 0)

    def breaker(self, name: str) -> CircuitBreaker:
        """Return the breaker of an operation."""
        return self._breakers[name]

    def add_breakers(self, names: Iterable[str]) -> None:
        """Define operations that are a breaker and nothing else."""
        for name in names:
            self._add(name, self._breaker(name))

    def pass_time(self, steps: int) -> None:
        """Let `steps` of 10 s pass, with a little traffic in each, of which a little fails."""
        for step in range(steps):
            self.clock.skip(10.0)
            if step % 9 == 4:
                self.fail("search", 1)
            for place, name in enumerate(self._traffic):
                self.call(name, round(3 + 2 * sin(step / 9 + place) + step * place % 3 / 2))
            self.monitor.sample()

    def get(self, path: str, key: str = READ) -> Any:
        """Ask the API."""
        url = f"http://127.0.0.1:{self.port}{PREFIX}{path}"
        return self._http.get(url, headers={"Authorization": f"Bearer {key}"}).raise_for_status().json()

    def cut(self) -> None:
        """Stop serving the API; the service itself goes on."""
        self._server.cut()

    def serve_again(self, keys: Iterable[ApiKey] = KEYS) -> None:
        """Serve the same facts again, on the same port."""
        self._serve(keys, self.port)

    def restart(self) -> None:
        """Serve as a new process would: with a feed whose numbers begin anew."""
        self._end()
        self._begin(KEYS, self.port)

    def close(self) -> None:
        """Stop everything."""
        self._server.cut()
        self._end()
        self._http.close()
        # A decorated function is listed as long as somebody knows it, such as the traceback of a failed test.
        self._calls.clear()
        for name in list(self.registry):
            self.registry.discard(name)

    def _define(self) -> None:
        self._breakers: dict[str, CircuitBreaker] = {}
        budget = RetryBudget("payments", clock=self.clock)
        retry = Retry(attempts=3, wait=Backoff(base=0.01), budget=budget)
        self._add("payments", retry, self._breaker("payments"))
        self._add("search", Retry(attempts=2), self._breaker("search"))
        self._add("catalog", Bulkhead(8, name="catalog"), self._breaker("catalog"))
        self._add("mail", RateLimit(50.0, burst=20, name="mail"), self._breaker("mail"))
        self._add("summaries", ConcurrencyLimit(name="summaries"), self._breaker("summaries"))
        self._traffic = list(self._calls)

    def _breaker(self, name: str) -> CircuitBreaker:
        made = CircuitBreaker(name, window=Window.calls(10), min_calls=5, open_for=30.0, open_jitter=0.0)
        self._breakers[name] = made
        return made

    def _add(self, name: str, *policies: Any) -> None:
        def fetch() -> str:
            return self._http.get(f"/{name}").raise_for_status().text

        self.registry.define(name, *policies)
        self._calls[name] = self.registry.resilient(name)(fetch)

    def _outcome(self, name: str) -> str:
        try:
            return self._calls[name]()
        except Exception as error:
            return type(error).__name__

    def _begin(self, keys: Iterable[ApiKey], port: int) -> None:
        self.live = LiveConfiguration(self.registry, environ={})
        self.monitor = Monitor(self.registry)
        self.feed = Feed(size=self._kept)
        self.operations = Operations(live=self.live, monitor=self.monitor, feed=self.feed)
        self._serve(keys, port)

    def _serve(self, keys: Iterable[ApiKey], port: int) -> None:
        known = ApiKeys(keys)
        jobs = None if self.tenants is None else "../jobs"
        app: Any = create_app(self.operations, keys=known, prefix=PREFIX, jobs=jobs)
        if self.tenants is not None:
            app.include_router(create_jobs_router(self.tenants, keys=known), prefix=JOBS_PREFIX)
        self._server = Server(app, port)
        self.port = self._server.port

    def _end(self) -> None:
        self.operations.close()
        self.feed.close()
        self.monitor.close()
