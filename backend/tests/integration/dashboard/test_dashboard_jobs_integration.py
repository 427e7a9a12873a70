"""Jobs on the dashboard, in a real browser, over a real server, while a real worker does them."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, ViewportSize, expect

from backend.tests.integration.dashboard._inspect import (
    skipped_levels,
    small_targets,
    tree,
    unnamed,
    weak_text_in_both_schemes,
    width,
)
from backend.tests.integration.dashboard._service import BAD_NAME, OPERATE, READ, Service
from backend.tests.integration.dashboard._tab import DESKTOP, PHONE, Tab
from backend.tests.integration.dashboard._yard import Yard
from backend.tests.integration.dashboard.conftest import Open, Picture
from holdfast.api.internal.resilience.auth import ApiKey
from holdfast.infrastructure.store.state import JobState

Serve = Callable[..., Service]


def row(tab: Tab, name: str) -> Locator:
    """Return the row of a job."""
    button = tab.page.get_by_role("button", name=name, exact=True)
    return tab.page.locator("#job-rows tr").filter(has=button)


def bar(tab: Tab, name: str) -> Locator:
    """Return the progress of a job, as assistive technology is told."""
    return tab.page.get_by_role("progressbar", name=f"Progress of {name}", exact=True)


def steer(tab: Tab, verb: str, name: str) -> Locator:
    """Return the button that steers a job."""
    return tab.page.get_by_role("button", name=f"{verb} {name}", exact=True)


def open_job(tab: Tab, name: str) -> None:
    """Open the details of a job."""
    tab.page.get_by_role("button", name=name, exact=True).click()


def test_a_job_is_seen_to_run_paused_by_click_and_resumed(serve: Serve, look: Open, yard: Yard) -> None:
    """Progress grows as steps end; a pause by click is a pause in the store, with who and why; resumed, it ends."""
    job = yard.submit(40, "labels")
    yard.start()
    tab = look(serve(tenants=yard.tenants))
    expect(row(tab, "labels").locator(".state")).to_have_text("running")
    expect(bar(tab, "labels")).to_have_attribute("aria-valuenow", "0")
    for steps, share in ((4, "10"), (6, "25")):
        yard.allow(steps)
        expect(bar(tab, "labels")).to_have_attribute("aria-valuenow", share)
    expect(row(tab, "labels")).to_contain_text("10 of 40 steps, 25 %")

    open_job(tab, "labels")
    steer(tab, "Pause", "labels").click()
    expect(tab.dialog).to_contain_text("10 of 40 steps are done")
    tab.dialog.get_by_label("Reason").fill("printer is out of paper")
    tab.dialog.get_by_role("button", name="Pause job").click()
    expect(tab.dialog).to_be_hidden()
    expect(row(tab, "labels").locator(".state")).to_have_text("paused")
    expect(row(tab, "labels")).to_contain_text("ann: printer is out of paper")
    expect(tab.announcements).to_contain_text("Job labels is paused.")
    assert yard.state(job) is JobState.PAUSED

    steer(tab, "Resume", "labels").click()
    tab.dialog.get_by_role("button", name="Resume job").click()
    expect(row(tab, "labels").locator(".state")).not_to_have_text("paused")
    yard.allow(30)
    expect(row(tab, "labels").locator(".state")).to_have_text("succeeded")
    expect(bar(tab, "labels")).to_have_attribute("aria-valuenow", "100")
    assert yard.state(job) is JobState.SUCCEEDED


def test_the_state_of_each_job_is_told_in_words(
    serve: Serve, look: Open, yard: Yard, picture: Picture
) -> None:
    """What runs comes first, then what waits for somebody, then what has ended, the newest first."""
    yard.submit(6, "refunds of last week")
    yard.submit(5, "returns", bad=2)
    invoices = yard.submit(4, "invoices")
    yard.leave(invoices, begun=2)
    yard.jobs.pause(invoices, reason="ann: the bank does not answer")
    yard.preview(yard.submit(12, "orders of tomorrow", mode="confirm"))
    yard.submit(40, "orders of today", max_attempts=3)
    yard.start()
    yard.allow(6 + 5 + 17)
    tab = look(serve(tenants=yard.tenants))
    expect(tab.page.locator("#job-rows .state")).to_have_text(
        ["running", "paused", "previewed", "partially failed", "succeeded"], timeout=10_000
    )
    expect(bar(tab, "orders of today")).to_have_attribute("aria-valuenow", "42.5")
    expect(row(tab, "orders of today")).to_contain_text("17 of 40 steps, 42.5 %")
    expect(tab.page.locator("#jobs-count")).to_have_text("5 jobs · 1 running · 2 steps to review")
    yard.drip()
    picture(tab, "dashboard-jobs", "#jobs")


def test_a_job_is_cancelled_after_confirmation(serve: Serve, look: Open, yard: Yard) -> None:
    """Without confirmation nothing happens; with it the job is cancelled, and offers nothing more."""
    job = yard.submit(3, "labels")
    tab = look(serve(tenants=yard.tenants))
    open_job(tab, "labels")
    steer(tab, "Cancel", "labels").click()
    tab.page.keyboard.press("Escape")
    assert yard.state(job) is JobState.PENDING
    steer(tab, "Cancel", "labels").click()
    tab.dialog.get_by_role("button", name="Cancel job").click()
    expect(row(tab, "labels").locator(".state")).to_have_text("cancelled")
    assert yard.state(job) is JobState.CANCELLED
    expect(tab.page.get_by_role("group", name="Steer labels").get_by_role("button")).to_have_count(0)


def test_errors_and_doubts_are_shown(serve: Serve, look: Open, yard: Yard) -> None:
    """Failed steps are counted and named with their errors, and so are steps that need review."""
    yard.leave(yard.submit(4, "invoices"), begun=2)
    yard.submit(5, "labels", bad=2)
    yard.start()
    tab = look(serve(tenants=yard.tenants))
    yard.allow(2 + 3)
    expect(row(tab, "invoices").locator("td").last).to_have_text("2")
    expect(row(tab, "labels").locator("td").nth(4)).to_have_text(re.compile("[12]"))
    expect(tab.page.locator("#jobs-count")).to_contain_text("2 steps to review")
    open_job(tab, "invoices")
    detail = tab.page.locator("#job-rows .detail")
    expect(detail).to_contain_text("Steps that need review")
    expect(detail.locator("li").first).to_contain_text("A-1 (line 1)")
    yard.allow(10)
    expect(row(tab, "labels").locator(".state")).to_have_text("partially failed")
    open_job(tab, "labels")
    expect(tab.page.locator("#job-rows")).to_contain_text("A-1 has no address")


def test_a_key_that_may_only_read_cannot_steer(serve: Serve, look: Open, yard: Yard) -> None:
    """With the role `read` jobs are seen, and actions are switched off."""
    job = yard.submit(3, "labels")
    tab = look(serve(tenants=yard.tenants), READ)
    open_job(tab, "labels")
    pause = steer(tab, "Pause", "labels")
    expect(pause).to_have_attribute("aria-disabled", "true")
    expect(pause).to_have_accessible_description(re.compile("may read, not operate"))
    pause.click(force=True)
    expect(tab.dialog).to_be_hidden()
    assert yard.state(job) is JobState.PENDING


def test_a_refused_action_says_why(serve: Serve, look: Open, yard: Yard) -> None:
    """What the store refuses is said in the dialog, and nothing has changed."""
    job = yard.submit(3, "labels")
    tab = look(serve(tenants=yard.tenants))
    open_job(tab, "labels")
    steer(tab, "Pause", "labels").click()
    yard.jobs.cancel(job)
    tab.dialog.get_by_role("button", name="Pause job").click()
    expect(tab.dialog.get_by_role("alert")).to_contain_text("it cannot become paused")


def test_jobs_go_on_after_a_lost_connection(serve: Serve, look: Open, yard: Yard) -> None:
    """A lost connection is said; afterwards jobs are as they are then, and those that are gone are not shown."""
    service = serve(tenants=yard.tenants)
    gone, kept = yard.submit(1, "gone"), yard.submit(2, "kept")
    yard.jobs.cancel(gone)
    tab = look(service)
    expect(row(tab, "gone")).to_have_count(1)
    service.cut()
    expect(tab.page.locator("#jobs-lost")).to_be_visible()
    yard.jobs.store.delete_job(gone.id)
    yard.jobs.pause(kept)
    service.serve_again()
    tab.hurry()
    expect(row(tab, "kept").locator(".state")).to_have_text("paused", timeout=15_000)
    expect(row(tab, "gone")).to_have_count(0, timeout=15_000)
    expect(tab.page.locator("#jobs-lost")).to_be_hidden()


def test_a_key_shows_the_jobs_of_its_tenant(serve: Serve, look: Open, yard: Yard) -> None:
    """A key of a tenant that has no jobs here sees the policies, and no section of jobs."""
    yard.submit(3, "labels")
    service = serve(tenants=yard.tenants)
    service.cut()
    service.serve_again([ApiKey("eve", OPERATE, "operate", tenant="elsewhere")])
    tab = look(service)
    expect(tab.page.locator("#breaker-rows tr")).to_have_count(5)
    expect(tab.page.locator("#jobs")).to_be_hidden()


def test_markup_in_names_of_jobs_is_shown_as_text(serve: Serve, look: Open, yard: Yard) -> None:
    """Names, reasons and errors with markup in them are shown as they are, and do nothing."""
    job = yard.submit(1, BAD_NAME)
    yard.jobs.pause(job, reason=BAD_NAME)
    tab = look(serve(tenants=yard.tenants))
    open_job(tab, BAD_NAME)
    expect(row(tab, BAD_NAME)).to_contain_text(BAD_NAME)
    expect(tab.page.locator("main img, main b")).to_have_count(0)
    assert tab.page.evaluate("window.pwned") is None


def test_a_job_is_paused_by_keyboard_alone(serve: Serve, look: Open, yard: Yard) -> None:
    """A job is found, opened and paused without a mouse, and the focus is never lost, though rows change."""
    job = yard.submit(40, "labels")
    yard.start()
    tab = look(serve(tenants=yard.tenants))
    name = tab.page.get_by_role("button", name="labels", exact=True)
    name.focus()
    yard.allow(4)
    yard.submit(2, "later")
    expect(row(tab, "later")).to_have_count(1)
    expect(name).to_be_focused()
    tab.page.keyboard.press("Enter")
    expect(steer(tab, "Pause", "labels")).to_be_visible()
    tab.page.keyboard.press("Tab")
    assert tab.focused() == "Pause labels"
    tab.page.keyboard.press("Enter")
    expect(tab.dialog.get_by_label("Reason")).to_be_focused()
    tab.page.keyboard.type("by keyboard")
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Enter")
    expect(row(tab, "labels").locator(".state")).to_have_text("paused")
    expect(name).to_be_focused()
    assert yard.state(job) is JobState.PAUSED


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_jobs_can_be_read_by_everybody(serve: Serve, look: Open, yard: Yard, size: ViewportSize) -> None:
    """Rows, progress and actions have names; text has contrast; nothing is cut off."""
    yard.leave(yard.submit(4, "invoices"), begun=2)
    yard.jobs.pause(yard.submit(3, "labels with a rather long name of many words"), reason="it rains " * 9)
    yard.jobs.cancel(yard.submit(3, "mail"))
    tab = look(serve(tenants=yard.tenants), viewport=size)
    open_job(tab, "invoices")
    expect(tab.page.locator("#job-rows .detail li").first).to_be_visible()
    nodes = tree(tab)
    assert unnamed(nodes) == []
    assert list(skipped_levels(nodes)) == []
    bars = [node.name for node in nodes if node.role == "progressbar"]
    assert len(bars) == 3
    assert all(one.startswith("Progress of ") for one in bars)
    assert width(tab.page) <= size["width"]
    assert small_targets(tab.page, 24) == []
    assert weak_text_in_both_schemes(tab.page) == []
