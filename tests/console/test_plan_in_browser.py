"""The pages of a plan in a real Chromium: previews, by keyboard only, and without script."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from ota.models import Job, Rollout
from tests.console import pages, rows
from tests.console.test_in_browser import browser as browser
from tests.console.test_in_browser import page as page
from tests.console.test_in_browser import site as site

pytestmark = pytest.mark.browser
_SEEN = """() => {
  const here = document.activeElement;
  const shown = (e) => e && getComputedStyle(e).outlineStyle === "solid";
  const box = here.getBoundingClientRect();
  window.stops = window.stops || [];
  const last = window.stops.at(-1);
  window.stops.push(here);
  return {
    name: here.outerHTML.slice(0, 120),
    isVisible: shown(here) || shown(here.closest(".search")),
    isOnScreen: box.bottom > 0 && box.top < innerHeight,
    isAfter: !last || last === here
      || Boolean(last.compareDocumentPosition(here) & Node.DOCUMENT_POSITION_FOLLOWING),
  };
}"""
"""Where the focus is: drawn, on the screen, and behind the stop before in the page's order. A field for a
time has several stops.
"""


def end_running(site: rows.Filled) -> None:
    """Free every device for another rollout."""
    row = site.rollouts["running"]
    Job.objects.filter(rollout=row).delete()
    Rollout.objects.filter(pk=row.pk).delete()


def tab_to(page: Page, goal: Locator, *, most: int = 90) -> None:
    """Press Tab until the goal has the focus; every stop on the way must be one that can be seen."""
    page.wait_for_load_state()
    for _ in range(most):
        page.keyboard.press("Tab")
        found = page.evaluate(_SEEN)
        assert found["isVisible"], f"no focus is drawn on {found['name']}"
        assert found["isOnScreen"], f"the focus is off the screen, on {found['name']}"
        assert found["isAfter"], f"out of order: {found['name']}"
        if goal.evaluate("e => e === document.activeElement"):
            return
    pytest.fail(f"Tab does not reach {goal} within {most} stops, the last is {found['name']}")


def test_a_page_is_previewed_survives_a_reload_and_is_gone_back_to(
    page: Page, live_server: Any, site: rows.Filled
) -> None:
    end_running(site)
    row = Rollout.objects.get(name="planned")
    page.goto(f"{live_server.url}/rollouts/{row.pk}/plan/waves")
    page.fill("#id_max_in_flight", "33")
    pages.at(page, "preview").click()
    expect(pages.at(page, "eligible")).to_have_text("80", timeout=20_000)
    expect(pages.at(page, "detectable")).to_contain_text("points")
    assert page.input_value("#id_max_in_flight") == "33"
    page.fill("#id_waves", "nonsense")
    pages.at(page, "preview").click()
    expect(pages.at(page, "plan-preview")).to_contain_text("neither a count", timeout=20_000)
    page.reload()
    assert page.input_value("#id_waves") == "nonsense", "what is not saved yet survives"
    page.fill("#id_waves", "20, 100%")
    pages.at(page, "continue").click()
    expect(page.locator("h1")).to_have_text("Review")
    page.go_back()
    assert page.input_value("#id_waves") == "20, 100%", "the way back shows what is stored"
    assert page.input_value("#id_max_in_flight") == "33"
    pages.at(page, "continue").click()
    expect(page.locator("h1")).to_have_text("Review")
    assert Rollout.objects.get(pk=row.pk).rev == row.rev + 1, "nothing was changed the second time"


def test_the_preview_follows_what_is_typed_and_a_wrong_query_counts_nobody(
    page: Page, live_server: Any, site: rows.Filled
) -> None:
    page.goto(f"{live_server.url}/rollouts/{Rollout.objects.get(name='planned').pk}/plan/who")
    page.fill("#id_q", "id==dev-00*")
    expect(page.locator("[data-test=eligible]")).to_be_visible(timeout=20_000)
    page.fill("#id_q", "id==dev-00*;tagg==a")
    expect(page.locator("[data-test=plan-preview]")).to_contain_text("query_unknown_field", timeout=20_000)
    expect(page.locator("[data-test=eligible]")).to_have_count(0)
    expect(page.locator("#id_q")).to_be_focused()


def test_from_sign_in_to_a_running_rollout_by_keyboard_only(
    browser: Browser, live_server: Any, site: rows.Filled
) -> None:
    """Tab and Enter, Space for a box, an arrow in a group of radio buttons."""
    end_running(site)
    context = browser.new_context(viewport=pages.DESKTOP)  # type: ignore[arg-type]
    watch = pages.Watch(context, live_server.url)
    found = context.new_page()
    found.goto(f"{live_server.url}/models/activity/3.0.0")
    if found.evaluate("document.activeElement.id") != "id_username":
        tab_to(found, found.locator("#id_username"))
    found.keyboard.type("admin")
    found.keyboard.press("Tab")
    found.keyboard.type("pass-admin-word")
    found.keyboard.press("Enter")
    expect(found.locator("h1")).to_have_text("activity 3.0.0")
    tab_to(found, pages.at(found, "roll-out"))
    found.keyboard.press("Enter")
    expect(found.locator("h1")).to_have_text("What is rolled out")
    tab_to(found, found.locator('[name="preset"][value="production"]'))
    found.keyboard.press("ArrowDown")
    assert found.locator('[name="preset"][value="demo"]').is_checked()
    found.keyboard.press("Enter")
    expect(found.locator("h1")).to_have_text("Who gets it")
    expect(found.locator("#messages[role=status]")).to_contain_text("The draft is saved")
    tab_to(found, pages.at(found, "message").get_by_role("button", name="Dismiss"))
    found.keyboard.press("Enter")
    expect(pages.at(found, "message")).to_have_count(0)
    assert found.evaluate("document.activeElement.id") == "content"
    found.evaluate("window.stops = []")
    host_a = found.locator('[name="classes"][value="host-a"]')
    tab_to(found, host_a)
    found.keyboard.press("Space")
    expect(pages.at(found, "eligible")).to_have_text("53", timeout=20_000)
    tab_to(found, found.locator('[name="classes"][value="host-b"]'))
    found.keyboard.press("Space")
    expect(pages.at(found, "eligible")).to_have_text("80", timeout=20_000)
    tab_to(found, pages.at(found, "continue"))
    found.keyboard.press("Enter")
    for title in ("In which waves, and when", "What it is judged on"):
        expect(found.locator("h1")).to_have_text(title)
        tab_to(found, pages.at(found, "continue"))
        found.keyboard.press("Enter")
    expect(found.locator("h1")).to_have_text("Review")
    expect(pages.at(found, "eligible")).to_have_text("80")
    tab_to(found, pages.at(found, "submit"))
    found.keyboard.press("Enter")
    expect(pages.at(found, "rollout-live")).to_have_attribute("data-state", "ready")
    tab_to(found, pages.at(found, "verb-start"))
    found.keyboard.press("Enter")
    expect(pages.at(found, "rollout-live")).to_have_attribute("data-state", "running")
    row = Rollout.objects.get(name="activity 3.0.0", state="running")
    assert row.target["classes"] == ["host-a", "host-b"]
    context.close()
    assert watch.found == []


def test_from_sign_in_to_a_running_rollout_without_script(
    browser: Browser, live_server: Any, site: rows.Filled
) -> None:
    end_running(site)
    context = browser.new_context(java_script_enabled=False, viewport=pages.PHONE)  # type: ignore[arg-type]
    found = context.new_page()
    pages.sign_in(found, live_server.url, "admin", "pass-admin-word")
    pages.at(found, "nav-rollouts").click()
    pages.at(found, "new-rollout").click()
    found.select_option("#id_manifest", site.manifests["3.0.0"].pk)
    pages.at(found, "preset-demo").click()
    found.fill("#id_name", "without script")
    pages.at(found, "continue").click()
    expect(pages.at(found, "message")).to_contain_text("The draft is saved")
    found.fill("#id_q", "id==dev-0*")
    pages.at(found, "preview").click()
    assert pages.at(found, "plan-preview").get_attribute("data-ready") == "true"
    assert found.input_value("#id_q") == "id==dev-0*"
    pages.at(found, "page-what").click()
    assert found.input_value("#id_name") == "without script", "the first page can be gone back to"
    pages.fill_plan(found, {"q": "id==dev-0*"})
    expect(pages.at(found, "dry-run")).to_have_attribute("data-ready", "true")
    pages.at(found, "submit").dblclick()
    expect(pages.at(found, "rollout-live")).to_have_attribute("data-state", "ready")
    pages.start(found)
    assert Rollout.objects.filter(name="without script").count() == 1
    context.close()
