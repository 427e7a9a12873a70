"""Fixtures of the dashboard's suite: a browser, a service in front of a real upstream, pictures."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from backend.tests.integration._client import SkippingClock
from backend.tests.integration._server import FaultyServer
from backend.tests.integration.dashboard._service import OPERATE, Service
from backend.tests.integration.dashboard._tab import BROWSERS, Tab, find_browser
from backend.tests.integration.dashboard._yard import Yard
from holdfast.infrastructure.store.sql import open_store

IMAGES = Path(__file__).parents[4] / "docs" / "images"
Open = Callable[..., Tab]
Picture = Callable[..., None]
WANTED = os.environ.get("HOLDFAST_PICTURES") == "1"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Give a headless Chromium; without one, skip, or fail if HOLDFAST_REQUIRE_SERVICES=1."""
    path = find_browser()
    if path is None:
        problem = f"no Chromium on the PATH ({', '.join(BROWSERS)})"
        if os.environ.get("HOLDFAST_REQUIRE_SERVICES") == "1":
            pytest.fail(f"{problem}, and HOLDFAST_REQUIRE_SERVICES=1")
        pytest.skip(f"{problem}; install one, or say where it is in HOLDFAST_CHROMIUM")
    with sync_playwright() as playwright:
        # Containers and root have no sandbox; the pages are our own.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def serve(
    http_server: FaultyServer, skipping_clock: SkippingClock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Service]]:
    """Give a function that starts a service, with its API."""
    made: list[Service] = []

    def start(**settings: Any) -> Service:
        made.append(Service(http_server, skipping_clock, **settings))
        return made[-1]

    # What tests before decorated is listed while it lives, and FastAPI keeps some of it for ever.
    monkeypatch.setattr("holdfast.infrastructure.resilience._compile._living", [])
    gc.collect()
    yield start
    for service in made:
        service.close()


@pytest.fixture
def service(serve: Callable[..., Service]) -> Service:
    """Give a service, with its API."""
    return serve()


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    """Give a yard with an empty SQLite store, whose worker has not begun."""
    made = Yard(open_store(f"sqlite:///{tmp_path / 'jobs.db'}"))
    yield made
    made.close()


@pytest.fixture
def look(browser: Browser) -> Iterator[Open]:
    """Give a function that opens the dashboard of a service; no page may complain, or ask anything of other hosts."""
    tabs: list[Tab] = []

    def open_(service: Service, key: str | None = OPERATE, **context: Any) -> Tab:
        tabs.append(Tab(browser, service.url, **context))
        if key is not None:
            tabs[-1].enter(key)
        return tabs[-1]

    yield open_
    for tab in tabs:
        tab.close()
    assert [tab.complaints for tab in tabs] == [[] for _ in tabs]
    assert [tab.foreign for tab in tabs] == [[] for _ in tabs]


@pytest.fixture
def picture() -> Picture:
    """Give a function that takes a picture for the documentation if HOLDFAST_PICTURES=1, and else does nothing."""

    def take(tab: Tab, name: str, part: str | None = None) -> None:
        if not WANTED:
            return
        tab.page.reload()
        tab.await_live()
        # What is fetched row by row has no sign of its end.
        tab.page.wait_for_timeout(2500)
        IMAGES.mkdir(exist_ok=True)
        shown = tab.page if part is None else tab.page.locator(part)
        shown.screenshot(path=IMAGES / f"{name}.png")

    return take


@pytest.fixture
def past() -> int:
    """Give for how many steps of 10 s a service has been running: for pictures nearly half an hour."""
    return 160 if WANTED else 24
