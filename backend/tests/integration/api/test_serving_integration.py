"""`serve`: it says where it listens, imports what it is told, refuses to be open to all, and logs no query."""

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from backend.tests.integration.api._service import OPERATE, READ
from holdfast.api.internal.resilience.app import PREFIX, Operations, create_app, serve
from holdfast.api.internal.resilience.auth import ApiKey, ApiKeys
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.resilience.live import LiveConfiguration
from holdfast.infrastructure.resilience.registry import Registry
from holdfast.infrastructure.telemetry.feed import Feed
from holdfast.infrastructure.telemetry.monitor import Monitor, Threshold

PROGRAM = """
import sys
from holdfast.api.internal.resilience.app import serve

serve(port=0, app="shop:app.router")
"""
SHOP = """
from types import SimpleNamespace
from holdfast import resilient

@resilient("checkout")
def pay() -> str:
    return "paid"

pay()
app = SimpleNamespace(router=1)
"""


def test_serve_says_where_and_shows_the_application(tmp_path: Path, plain_environ: dict[str, str]) -> None:
    """A served application's operations are there; what is asked is logged without its query."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "main.py").write_text(PROGRAM)
    environ = {**plain_environ, "HOLDFAST_API_KEYS": f"ops:operate:{OPERATE}", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("holdfast: http://127.0.0.1:"), said
        base = said.split()[1].removesuffix("/dashboard")
        assert base.endswith(PREFIX)
        headers = {"X-API-Key": OPERATE}
        response = ask(f"{base}/circuit-breakers?limit=5&hunter2=x", headers)
        assert [one["name"] for one in response.json()["items"]] == ["checkout"]
    finally:
        process.terminate()
        rest = process.communicate(timeout=20.0)[0]
    assert f"{PREFIX}/circuit-breakers" in rest
    assert not [secret for secret in (OPERATE, "hunter2") if secret in rest]


def ask(url: str, headers: dict[str, str]) -> httpx.Response:
    ends = time.monotonic() + 20.0
    while True:
        try:
            return httpx.get(url, headers=headers)
        except httpx.ConnectError:
            assert time.monotonic() < ends
            time.sleep(0.02)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org", ""])
def test_without_keys_only_this_machine_is_served(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys a host that others reach is refused, with what to do."""
    monkeypatch.delenv("HOLDFAST_API_KEYS", raising=False)
    with pytest.raises(ConfigurationError, match="HOLDFAST_API_KEYS") as error:
        serve(host=host)
    assert [fault.path for fault in error.value.faults] == ["host"]


def test_a_port_is_a_port() -> None:
    """What is no port is refused together with the host."""
    with pytest.raises(ConfigurationError) as error:
        serve(host="0.0.0.0", port=70_000, keys=ApiKeys())
    assert [fault.path for fault in error.value.faults] == ["host", "port"]


def test_what_is_not_in_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that is not in its module is a fault of the call; a module that is not there an ImportError."""
    with pytest.raises(ConfigurationError, match="has no 'nothing'"):
        serve(app="json:nothing", keys=ApiKeys([ApiKey("a", READ)]))
    with pytest.raises(ModuleNotFoundError):
        serve(app="there_is_no_such_module", keys=ApiKeys())


def test_operations_close_what_they_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not given is made, over the registry of the configuration, and closed; what was given stays open."""
    live = LiveConfiguration(Registry(), environ={})
    made = Operations(live=live)
    assert made.exporter is not None
    made.close()
    made.close()
    with pytest.raises(RuntimeError):
        made.monitor.start()
    feed, monitor = Feed(), Monitor(live.registry)
    given = Operations(live=live, feed=feed, monitor=monitor)
    given.close()
    live.record(actor="x", action="y", target="z", before=1, after=2)
    assert feed.last == 0
    monitor.start()
    monitor.close()
    feed.close()


def test_changes_and_alerts_are_told_to_the_feed() -> None:
    """The feed has changes of the configuration, and alerts when they begin and when they end."""
    live = LiveConfiguration(Registry(), environ={})
    passed = Threshold(name="any", measure="failure_rate", value=0.5, min_calls=1)
    monitor = Monitor(live.registry, thresholds=[passed])
    operations = Operations(live=live, monitor=monitor, feed=Feed())
    call = live.registry.resilient("shaky")(_fail)
    monitor.sample()
    with pytest.raises(KeyError):
        call()
    monitor.sample()
    live.use_preset("production", actor="me")
    kinds = [(one.kind, one.name) for one in operations.feed.since(0, limit=1000)]
    assert {("AlertBegan", "shaky"), ("ConfigurationChanged", "preset")} <= set(kinds)
    operations.close()
    monitor.close()
    operations.feed.close()


def _fail() -> None:
    raise KeyError("x")


def test_an_application_closes_what_it_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that made its operations closes them at its end; given ones are left to who gave them."""
    closed: list[Operations] = []

    def close(self: Operations) -> None:
        closed.append(self)

    monkeypatch.setattr(Operations, "close", close)
    given = Operations(live=LiveConfiguration(Registry(), environ={}))
    for operations in (None, given):
        app = create_app(operations, keys=ApiKeys())
        asyncio.run(_live(app))
    monkeypatch.undo()
    assert len(closed) == 1
    assert given not in closed
    for one in (*closed, given):
        one.close()


async def _live(app: FastAPI) -> None:
    async with app.router.lifespan_context(app):
        pass


def test_a_refused_serve_leaves_nothing_behind() -> None:
    """A `serve` that may not listen has no thread that samples, and hears no events."""
    threads = set(threading.enumerate())
    with pytest.raises(ConfigurationError, match="can be reached from other machines"):
        serve(host="0.0.0.0", port=0, keys=ApiKeys())
    assert set(threading.enumerate()) <= threads
