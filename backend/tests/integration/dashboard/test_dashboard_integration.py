"""The dashboard in a real browser, over a real server, in front of a dependency that really fails."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import ViewportSize, expect

from backend.tests.integration.dashboard._inspect import (
    skipped_levels,
    small_targets,
    tree,
    unnamed,
    weak_text_in_both_schemes,
    width,
)
from backend.tests.integration.dashboard._service import BAD_NAME, OPERATE, READ, Service
from backend.tests.integration.dashboard._tab import DESKTOP, PHONE
from backend.tests.integration.dashboard.conftest import IMAGES, Open, Picture
from holdfast.api.internal.resilience.auth import ApiKey
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.retry import Retry

NAMES = ("payments", "search", "catalog", "mail", "summaries")


def test_an_outage_is_seen_ended_by_hand_and_found_in_the_audit_trail(
    service: Service, look: Open, picture: Picture, past: int
) -> None:
    """A breaker is seen to open; isolated by click, it refuses calls, and the audit trail says who did it."""
    service.pass_time(past // 2)
    service.open("search")
    service.pass_time(past // 2)
    tab = look(service)
    expect(tab.verdict).to_have_text("All 5 breakers closed")

    service.open("payments")

    expect(tab.state("payments")).to_have_text("open")
    expect(tab.verdict).to_have_text("1 of 5 breakers open: payments")
    expect(tab.announcements).to_contain_text("payments is open.")
    expect(tab.events("Circuit opened payments")).to_have_count(1)

    service.fail("payments", 1000)
    service.pass_time(7)
    picture(tab, "dashboard-light")
    tab.name("payments").click()
    tab.action("Isolate", "payments").click()
    expect(tab.dialog).to_contain_text("every call through this breaker is refused")
    tab.dialog.get_by_label("Reason").fill("provider is down, ticket 812")
    tab.dialog.get_by_role("button", name="Isolate payments").click()

    expect(tab.dialog).to_be_hidden()
    expect(tab.state("payments")).to_have_text("isolated")
    expect(tab.page.locator("#audit-rows tr").first).to_contain_text("ann")
    expect(tab.page.locator("#audit-rows tr").first).to_contain_text("provider is down, ticket 812")
    sent = service.upstream.by_path["/payments"]
    assert service.call("payments") == ["CircuitOpenError"]
    assert service.upstream.by_path["/payments"] == sent
    (change,) = service.get("/config/audit")["items"]
    assert (change["actor"], change["action"]) == ("ann", "isolate")
    assert change["reason"] == "provider is down, ticket 812"


def test_every_state_is_told_in_words(service: Service, look: Open, picture: Picture, past: int) -> None:
    """Open, isolated, shadow, disabled and closed breakers can be told apart without colours, the worst first."""
    service.pass_time(past)
    service.open("search")
    service.breaker("mail").isolate()
    service.breaker("catalog").shadow()
    service.breaker("payments").disable()
    service.pass_time(2)
    tab = look(service, color_scheme="dark")

    expect(tab.page.locator("#breaker-rows .state")).to_have_text(
        ["open", "isolated", "shadow", "disabled", "closed"]
    )
    expect(tab.page.locator("#breaker-rows .name")).to_have_text(
        ["search", "mail", "catalog", "payments", "summaries"]
    )
    expect(tab.verdict).to_have_text("1 of 5 breakers open: search")
    expect(tab.page.locator("#verdict-more")).to_contain_text("1 isolated · 1 shadow · 1 disabled")
    line = tab.row("search").locator("svg[role=img]")
    expect(line).to_have_attribute("aria-label", re.compile("^Last 30 min: open [\\d]+ s$"))
    picture(tab, "dashboard-dark")
    tab.page.set_viewport_size(PHONE)
    tab.page.emulate_media(color_scheme="light")
    picture(tab, "dashboard-phone")


def test_a_breaker_that_recovers_is_followed(service: Service, look: Open) -> None:
    """The page follows a breaker from open over half-open to closed, in its row, its history and what it says aloud."""
    tab = look(service)
    # Nothing but events tells the page what follows.
    tab.page.route("**/snapshot", lambda route: route.abort())
    tab.page.route("**/circuit-breakers/**", lambda route: route.abort())
    service.open("search")
    expect(tab.state("search")).to_have_text("open")
    expect(tab.row("search")).to_contain_text("in ")

    service.clock.skip(31.0)
    assert service.call("search", 1) == ["ok"]
    expect(tab.state("search")).to_have_text("half-open")
    assert service.call("search", 5) == ["ok"] * 5

    expect(tab.state("search")).to_have_text("closed")
    expect(tab.verdict).to_have_text("All 5 breakers closed")
    expect(tab.announcements).to_contain_text("search is closed.")
    tab.name("search").click()
    history = tab.page.locator(".detail .facts-list li")
    expect(history.filter(has_text=re.compile(r"(?<!half-)open"))).to_have_count(1)
    expect(history.filter(has_text="half-open")).to_have_count(1)


def test_rates_retries_and_latency_of_operations_are_shown(service: Service, look: Open) -> None:
    """An operation's row has the figures that the monitor counted: shares of calls, retries by ordinal, latency."""
    service.monitor.sample()
    service.fail("search", 1)
    service.call("search", 4)
    service.clock.skip(10.0)
    service.monitor.sample()
    tab = look(service)

    row = tab.page.locator("#operation-rows tr").filter(has=tab.page.get_by_role("rowheader", name="search"))
    expect(row.locator("td").nth(2)).to_have_text("100 %")
    expect(row.locator("td").nth(5)).to_have_text("0 %")
    expect(row.locator("td").nth(6)).to_have_text("1st ×1")
    expect(row.locator("td").nth(8)).to_have_text(re.compile(r"^[\d.]+ (µs|ms|s)$"))


def test_budgets_and_limits_show_how_full_they_are(service: Service, look: Open) -> None:
    """Retry budget, bulkhead, rate limit and concurrency limit each have a row with their level in words."""
    tab = look(service)
    rows = tab.page.locator("#limit-rows tr")
    expect(rows).to_have_count(4)
    expect(rows.filter(has_text="Retry budget")).to_contain_text("tokens left")
    expect(rows.filter(has_text="Retry budget").locator(".bar")).to_be_hidden()
    expect(rows.filter(has_text="Bulkhead")).to_contain_text("0 of 8 busy")
    expect(rows.filter(has_text="Rate limit")).to_contain_text("20 of 20 free")
    expect(rows.filter(has_text="Concurrency limit")).to_contain_text("0 of 20 busy")


def test_a_budget_that_holds_so_much_has_a_bar(service: Service, look: Open) -> None:
    """A quota's row says of how many tokens how many are left, and the bar is as long as those that are spent."""
    budget = RetryBudget.aws("quota", tokens=56)
    service.registry.define("quoted", Retry(attempts=2, budget=budget))
    budget.withdraw()
    row = look(service).page.locator("#limit-rows tr").filter(has_text="quota")
    expect(row).to_contain_text("42 of 56 tokens left")
    expect(row.locator(".bar > span")).to_have_attribute("style", "width: 25%;")


def test_what_happened_while_the_connection_was_lost_is_replayed(service: Service, look: Open) -> None:
    """A lost connection is shown and nothing is called well meanwhile; afterwards each event is there, once."""
    tab = look(service)
    service.cut()
    expect(tab.page.locator("#connection-text")).to_contain_text("Connection lost.")
    expect(tab.verdict).to_have_text(re.compile("^Not connected; at .*: All 5 breakers closed$"))
    expect(tab.page.locator("#verdict")).to_have_attribute("data-level", "wait")

    service.open("payments")
    service.open("search")
    service.serve_again()
    tab.hurry()

    expect(tab.state("payments")).to_have_text("open")
    expect(tab.verdict).to_have_text("2 of 5 breakers open: payments, search")
    expect(tab.events("Circuit opened")).to_have_count(2)
    expect(tab.page.locator("#event-list .mark")).to_have_count(0)


def test_an_answer_that_is_older_than_an_event_does_not_undo_it(service: Service, look: Open) -> None:
    """What the server said before a breaker opened, and arrives after, does not show the breaker closed again."""
    tab = look(service)
    held = tab.hold("**/circuit-breakers/search")
    tab.name("search").click()
    while not held:
        tab.page.wait_for_timeout(10)
    service.open("search")
    expect(tab.state("search")).to_have_text("open")
    (route, response) = held[0]
    assert response.json()["state"] == "closed"

    route.fulfill(response=response)
    expect(tab.page.locator(".detail")).to_contain_text("min calls")
    assert tab.state("search").inner_text() == "open"
    expect(tab.page.locator(".detail .facts-list li").first).to_contain_text("open")


def test_an_answer_that_is_older_than_a_snapshot_does_not_undo_it(service: Service, look: Open) -> None:
    """What was asked before the connection was lost, and answered then, does not undo what was learned afterwards."""
    tab = look(service)
    held = tab.hold("**/circuit-breakers/search")
    tab.name("search").click()
    while not held:
        tab.page.wait_for_timeout(10)
    service.cut()
    service.open("search")
    service.serve_again()
    tab.hurry()
    expect(tab.state("search")).to_have_text("open")
    (route, response) = held[0]
    assert response.json()["state"] == "closed"

    route.fulfill(response=response)
    expect(tab.page.locator(".detail")).to_contain_text("min calls")
    assert tab.state("search").inner_text() == "open"


def test_a_snapshot_that_events_overtake_is_no_restart(service: Service, look: Open) -> None:
    """A snapshot that comes later than an event it does not know of neither undoes the event nor means a restart."""
    tab = look(service)
    held = tab.hold("**/snapshot")
    service.open("payments")  # has the page ask for a snapshot
    while not held:
        tab.page.wait_for_timeout(10)
    service.open("search")
    expect(tab.state("search")).to_have_text("open")
    (route, response) = held[0]
    assert {one["name"]: one["state"] for one in response.json()["breakers"]}["search"] == "closed"

    route.fulfill(response=response)
    expect(tab.events("Circuit opened")).to_have_count(2)
    tab.page.wait_for_timeout(300)
    assert tab.state("search").inner_text() == "open"
    expect(tab.page.locator("#event-list .mark")).to_have_count(0)


def test_a_server_that_was_restarted_is_followed_from_its_first_event(service: Service, look: Open) -> None:
    """After a restart event numbers begin anew; the page says so, and shows the new ones."""
    service.open("payments")
    tab = look(service)
    expect(tab.events("Circuit opened payments")).to_have_count(1)
    service.cut()
    service.restart()
    service.open("search")

    expect(tab.events("Circuit opened search")).to_have_count(1, timeout=10_000)
    tab.await_live()
    expect(tab.page.locator("#event-list .mark")).to_contain_text(["The server was restarted"])
    expect(tab.state("search")).to_have_text("open")


def test_events_that_are_lost_are_told_and_made_up_for(serve: Callable[..., Service], look: Open) -> None:
    """When more happened than the server keeps, the page says how much is missing, and its states are right."""
    service = serve(kept=10)
    tab = look(service)
    service.cut()
    service.open("payments")
    for number in range(30):
        service.feed.publish("Note", "test", {"number": number})
    service.serve_again()
    tab.hurry()

    expect(tab.page.locator("#event-list .mark")).to_contain_text(["not kept long enough"])
    expect(tab.state("payments")).to_have_text("open")


def test_the_page_asks_for_a_key_and_forgets_it(service: Service, look: Open) -> None:
    """Nothing is shown without a key; a wrong one is refused; the right one is kept for the tab, until forgotten."""
    tab = look(service, None)
    dialog = tab.page.get_by_role("dialog", name="API key")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_label("Key", exact=True)).to_be_focused()
    expect(tab.page.locator("#breaker-rows tr")).to_have_count(0)

    dialog.get_by_label("Key", exact=True).fill("wrong")
    dialog.get_by_role("button").click()
    expect(dialog.get_by_role("alert")).to_have_text("The server did not accept this key.")
    tab.page.keyboard.press("Escape")
    expect(dialog).to_be_visible()

    tab.enter(READ)
    expect(tab.page.locator("#breaker-rows tr")).to_have_count(5)
    assert tab.kept() == {"session": {"holdfast.key": READ}, "local": {}, "cookie": ""}

    tab.page.get_by_role("button", name="Forget key").click()
    expect(tab.page.get_by_role("dialog", name="API key")).to_be_visible()
    expect(tab.page.locator("#breaker-rows tr")).to_have_count(0)
    assert tab.kept() == {"session": {}, "local": {}, "cookie": ""}


def test_a_key_that_may_only_read_cannot_operate(service: Service, look: Open) -> None:
    """With the role `read` actions are switched off, can be reached to learn why, and do nothing."""
    tab = look(service, READ)
    tab.name("payments").click()
    isolate = tab.action("Isolate", "payments")
    expect(isolate).to_have_attribute("aria-disabled", "true")
    expect(isolate).to_have_accessible_description(re.compile("may read, not operate"))
    expect(tab.page.get_by_text("This key may read, not operate")).to_be_visible()
    isolate.click(force=True)
    tab.page.get_by_role("button", name="Reload…").click(force=True)
    expect(tab.dialog).to_be_hidden()
    assert service.breaker("payments").state == "closed"


def test_a_key_that_lost_its_role_is_told_so(service: Service, look: Open) -> None:
    """An action that the server refuses with 403 changes nothing, says why, and switches actions off."""
    tab = look(service)
    tab.name("payments").click()
    tab.action("Disable", "payments").click()
    service.cut()
    service.serve_again([ApiKey("ann", OPERATE, "read")])
    tab.dialog.get_by_role("button", name="Disable payments").click()

    expect(tab.dialog.get_by_role("alert")).to_have_text(
        "This key may read, not operate. Nothing was changed."
    )
    tab.page.keyboard.press("Escape")
    expect(tab.action("Disable", "payments")).to_have_attribute("aria-disabled", "true")
    assert service.breaker("payments").state == "closed"
    assert service.get("/config/audit", OPERATE)["items"] == []


def test_each_action_does_what_its_dialog_says(service: Service, look: Open) -> None:
    """Each action is confirmed, changes the breaker, and is in the audit trail; without a reason it says none."""
    steps = [("Isolate", "isolated"), ("Release", "closed"), ("Disable", "disabled"), ("Shadow", "shadow")]
    tab = look(service)
    tab.name("search").click()
    for verb, state in [*steps, ("Reset", "closed")]:
        tab.action(verb, "search").click()
        tab.dialog.get_by_role("button", name=f"{verb} search").click()
        expect(tab.state("search")).to_have_text(state)
        assert service.breaker("search").state == state
    done = [(one["action"], one["reason"]) for one in service.get("/config/audit")["items"]]
    assert done == [(verb, None) for verb in ("reset", "shadow", "disable", "release", "isolate")]
    expect(tab.page.locator("#audit-rows tr")).to_have_count(5)


def test_the_configuration_is_reloaded_with_a_reason(service: Service, look: Open) -> None:
    """A reload is confirmed, and the page then shows the change in the audit trail."""
    tab = look(service)
    expect(tab.page.locator("#configuration-facts")).to_contain_text("simple")
    tab.page.get_by_role("button", name="Reload…").click()
    tab.dialog.get_by_label("Reason").fill("new file")
    tab.dialog.get_by_role("button", name="Reload configuration").click()
    expect(tab.page.locator("#audit-rows tr").first).to_contain_text("new file")
    assert [one["action"] for one in service.get("/config/audit")["items"]] == ["reload"]


def test_markup_in_names_is_shown_as_text(service: Service, look: Open) -> None:
    """Names, reasons and fields of events with markup in them are shown as they are, and do nothing."""
    service.add_breakers([BAD_NAME, "a/b?c#d%20e"])
    service.feed.publish("Note", BAD_NAME, {"field": BAD_NAME})
    tab = look(service)
    tab.name(BAD_NAME).click()
    tab.action("Isolate", BAD_NAME).click()
    tab.dialog.get_by_label("Reason").fill(BAD_NAME)
    tab.dialog.get_by_role("button", name=f"Isolate {BAD_NAME}").click()

    expect(tab.state(BAD_NAME)).to_have_text("isolated")
    expect(tab.page.locator("#audit-rows tr").first).to_contain_text(BAD_NAME)
    expect(tab.events("Note").first).to_contain_text(BAD_NAME)
    expect(tab.page.locator("main img, main b")).to_have_count(0)
    assert tab.page.evaluate("window.pwned") is None
    tab.name("a/b?c#d%20e").click()
    tab.action("Disable", "a/b?c#d%20e").click()
    tab.dialog.get_by_role("button", name="Disable").click()
    expect(tab.state("a/b?c#d%20e")).to_have_text("disabled")


def test_everything_works_by_keyboard(service: Service, look: Open) -> None:
    """From the first Tab to an isolated breaker no mouse is needed, and the focus is never lost."""
    tab = look(service)
    page = tab.page
    page.reload()
    tab.await_live()
    page.keyboard.press("Tab")
    assert tab.focused() == "Skip to the overview"
    for _ in range(30):
        if tab.focused() == "catalog":
            break
        page.keyboard.press("Tab")
    assert tab.focused() == "catalog"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"

    page.keyboard.press("Enter")
    expect(tab.name("catalog")).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Tab")
    assert tab.focused() == "Isolate catalog"
    page.keyboard.press("Enter")
    expect(tab.dialog.get_by_label("Reason")).to_be_focused()
    page.keyboard.press("Escape")
    expect(tab.dialog).to_be_hidden()
    assert tab.focused() == "Isolate catalog"
    assert service.breaker("catalog").state == "closed"

    page.keyboard.press("Enter")
    page.keyboard.type("by keyboard")
    page.keyboard.press("Tab")
    assert tab.focused() == "Cancel"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(tab.state("catalog")).to_have_text("isolated")
    expect(tab.name("catalog")).to_be_focused()


def test_the_focus_is_kept_when_rows_change(service: Service, look: Open) -> None:
    """Who is in the table keeps focus and place when another breaker opens; the order is mended once they leave."""
    tab = look(service)
    tab.name("catalog").focus()
    first = tab.page.locator("#breaker-rows .name").first
    service.open("summaries")

    expect(tab.state("summaries")).to_have_text("open")
    expect(tab.name("catalog")).to_be_focused()
    expect(first).to_have_text("catalog")
    tab.page.locator("#filter").focus()
    expect(first).to_have_text("summaries")


def test_changes_of_state_are_read_aloud_and_nothing_else(service: Service, look: Open) -> None:
    """One polite live region tells changes of state; the list of events is none."""
    tab = look(service)
    expect(tab.announcements).to_have_text("Connected.")
    service.fail("search", 1)
    service.call("search")
    expect(tab.events("Retry scheduled")).to_have_count(1)
    expect(tab.announcements).to_have_text("Connected.")
    service.open("search")
    expect(tab.announcements).to_have_text("search is open.")
    live = tab.page.locator("[aria-live]:not([aria-live=off]), [role=log], [role=status]")
    expect(live).to_have_count(1)
    expect(live).to_have_attribute("aria-live", "polite")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_can_be_read_by_everybody(service: Service, look: Open, size: ViewportSize) -> None:
    """Landmarks, headings, tables and names say what there is; text has contrast; nothing is cut off."""
    service.pass_time(3)
    service.open("payments")
    service.breaker("mail").isolate()
    service.breaker("catalog").shadow()
    service.clock.skip(31.0)
    service.breaker("summaries").half_open()
    tab = look(service, viewport=size)
    tab.name("payments").click()
    expect(tab.action("Isolate", "payments")).to_be_visible()
    nodes = tree(tab)
    roles = [node.role for node in nodes]

    assert unnamed(nodes) == []
    assert list(skipped_levels(nodes)) == []
    assert [node.name for node in nodes if node.role == "heading" and node.level == 1] == ["holdfast"]
    assert [roles.count(one) for one in ("banner", "navigation", "main", "contentinfo")] == [1, 1, 1, 1]
    assert roles.count("table") == 4
    assert roles.count("columnheader") == 6 + 11 + 5 + 5
    assert {"row", "cell", "rowheader"} <= set(roles)
    assert width(tab.page) <= size["width"]
    assert small_targets(tab.page, 24) == []

    assert weak_text_in_both_schemes(tab.page) == []
    tab.action("Isolate", "payments").click()
    assert [node.name for node in tree(tab) if node.role == "dialog"] == ["Isolate payments?"]
    assert weak_text_in_both_schemes(tab.page) == []


def test_nothing_moves_for_who_does_not_want_it(service: Service, look: Open) -> None:
    """With prefers-reduced-motion no element has a transition or an animation."""
    tab = look(service, reduced_motion="reduce")
    moving = tab.page.evaluate(
        "[...document.querySelectorAll('*')].map((one) => getComputedStyle(one))"
        ".filter((style) => style.transitionDuration !== '0s' || style.animationName !== 'none').length"
    )
    assert moving == 0


def test_five_hundred_breakers_are_updated_in_place(service: Service, look: Open) -> None:
    """With 500 breakers the worst come first, all can be shown and filtered, and rows stay the same elements."""
    service.add_breakers(f"tenant-{number}" for number in range(495))
    service.breaker("tenant-444").isolate()
    tab = look(service)
    rows = tab.page.locator("#breaker-rows tr")
    expect(rows).to_have_count(50)
    expect(rows.first).to_contain_text("tenant-444")
    tab.page.get_by_role("button", name="Show all 500").click()
    expect(rows).to_have_count(500)

    tab.page.evaluate("document.querySelectorAll('#breaker-rows tr').forEach((row) => { row.mine = true; })")
    for number in range(300, 340):
        service.breaker(f"tenant-{number}").disable()
    expect(tab.page.locator("#breaker-rows .state", has_text="disabled")).to_have_count(40)
    assert tab.page.evaluate("[...document.querySelectorAll('#breaker-rows tr')].every((row) => row.mine)")
    expect(tab.announcements).to_contain_text(re.compile(r"\d+ changes"))

    tab.page.get_by_label("Filter breakers by name or operation").fill("TENANT-33")
    expect(rows).to_have_count(11)
    tab.page.get_by_label("Filter breakers by state").select_option("disabled")
    expect(rows).to_have_count(10)


def test_a_flood_of_events_leaves_a_short_list(service: Service, look: Open) -> None:
    """However many events come, the list has at most 150 entries, newest first; the same again is one entry."""
    tab = look(service)
    for number in range(1000):
        service.feed.publish("Note", f"from-{number}", {})
    expect(tab.events("from-999")).to_have_count(1)
    entries = tab.page.locator("#event-list li")
    expect(entries).to_have_count(150)
    expect(entries.first).to_contain_text("from-999")
    for _ in range(20):
        service.feed.publish("Note", "again", {})
    expect(tab.events("again")).to_have_count(1)
    expect(tab.events("again")).to_contain_text("×20")


def test_jobs_are_not_shown_where_there_are_none(service: Service, look: Open) -> None:
    """A server without jobs is not asked for them, and the page has no section for them."""
    tab = look(service)
    expect(tab.page.locator("#jobs")).to_be_hidden()
    expect(tab.page.get_by_role("link", name="Jobs")).to_have_count(0)


def test_the_pictures_of_the_documentation_are_small() -> None:
    """Each picture of the dashboard has less than 150 kB."""
    sizes = {path.name: path.stat().st_size for path in sorted(IMAGES.glob("dashboard-*.png"))}
    names = ("dark", "jobs", "light", "phone")
    assert sorted(sizes) == [f"dashboard-{name}.png" for name in names]
    assert max(sizes.values()) < 150_000
