"""A tab of a real browser, which remembers everything that it complained about and asked for."""

import os
import shutil
from typing import Any

from playwright.sync_api import (
    APIResponse,
    Browser,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    Request,
    Route,
    ViewportSize,
    expect,
)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# A request that is refused, as some tests want it to be, is reported by the browser, not by the page.
_REFUSED = "Failed to load resource"
DESKTOP: ViewportSize = {"width": 1200, "height": 720}
PHONE: ViewportSize = {"width": 360, "height": 740}


def find_browser() -> str | None:
    """Return the path of a Chromium: HOLDFAST_CHROMIUM says which, or it is on the PATH."""
    given = os.environ.get("HOLDFAST_CHROMIUM")
    return given or next(filter(None, map(shutil.which, BROWSERS)), None)


class Tab:
    """One page in a context of its own, and what went wrong in it."""

    def __init__(self, browser: Browser, url: str, **context: Any) -> None:
        self._url = url
        self._origin = url.partition("/internal")[0]
        settings: dict[str, Any] = {"locale": "en-GB", "viewport": DESKTOP, **context}
        self._context = browser.new_context(**settings)
        self._context.set_default_timeout(5000)
        self.page: Page = self._context.new_page()
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", self._fail)
        self.page.on("request", self._note)
        self.page.goto(url)

    def close(self) -> None:
        """Leave the page."""
        self._context.close()

    def enter(self, key: str) -> None:
        """Give the key that the page asks for, and wait until the page is live."""
        self.page.get_by_label("Key", exact=True).fill(key)
        self.page.keyboard.press("Enter")
        self.await_live()

    def await_live(self) -> None:
        """Wait until events flow."""
        expect(self.page.locator("#connection-text")).to_have_text("Live", timeout=10_000)

    def hurry(self) -> None:
        """Let a page that waits for its next attempt to connect make it now, as when the network is back."""
        self.page.evaluate("window.dispatchEvent(new Event('online'))")
        self.await_live()

    def hold(self, path: str) -> list[tuple[Route, APIResponse]]:
        """Keep the server's answer to the next request of a path from the page, and refuse those that follow."""
        held: list[tuple[Route, APIResponse]] = []

        def keep(route: Route) -> None:
            if held:
                route.abort()
            else:
                held.append((route, route.fetch()))

        self.page.route(path, keep)
        return held

    def row(self, name: str) -> Locator:
        """Return the row of a breaker."""
        button = self.page.get_by_role("button", name=name, exact=True)
        return self.page.locator("#breaker-rows tr").filter(has=button)

    def name(self, name: str) -> Locator:
        """Return the button that shows and hides a breaker's details."""
        return self.page.locator("#breaker-rows").get_by_role("button", name=name, exact=True)

    def state(self, name: str) -> Locator:
        """Return the state that a breaker's row shows."""
        return self.row(name).locator(".state")

    def action(self, verb: str, name: str) -> Locator:
        """Return the button that operates a breaker."""
        return self.page.locator("#breaker-rows").get_by_role("button", name=f"{verb} {name}", exact=True)

    @property
    def dialog(self) -> Locator:
        """The dialog that asks for confirmation."""
        return self.page.locator("#confirm")

    @property
    def verdict(self) -> Locator:
        """The sentence at the top."""
        return self.page.locator("#verdict-text")

    @property
    def announcements(self) -> Locator:
        """What is read aloud."""
        return self.page.get_by_role("status")

    def events(self, text: str) -> Locator:
        """Return the entries of the list of events with that text."""
        return self.page.locator("#event-list li").filter(has_text=text)

    def focused(self) -> str:
        """Return what has the focus: its name, text or id."""
        said: str = self.page.evaluate(
            "() => { const it = document.activeElement;"
            " return it.getAttribute('aria-label') || it.textContent.trim().slice(0, 60) || it.id; }"
        )
        return said

    def ask_browser(self, method: str) -> Any:
        """Ask Chromium itself, by its protocol."""
        session: Any = self._context.new_cdp_session(self.page)
        return session.send(method)

    def kept(self) -> dict[str, Any]:
        """Return everything that the browser keeps for the page."""
        stored: dict[str, Any] = self.page.evaluate(
            "() => ({ session: {...sessionStorage}, local: {...localStorage}, cookie: document.cookie })"
        )
        return stored

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(_REFUSED):
            self.complaints.append(message.text)

    def _fail(self, error: Error) -> None:
        self.complaints.append(str(error))

    def _note(self, request: Request) -> None:
        if not request.url.startswith((self._origin, "data:")):
            self.foreign.append(request.url)
