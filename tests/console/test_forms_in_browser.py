"""Forms in a real Chromium while somebody else changes what they are about: what is typed stays, what was not
touched is the server's, and nothing is overwritten unseen.
"""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from fleet.alerts import webhooks
from fleet.alerts.models import Webhook
from fleet.devices import classes
from fleet.devices.models import DeviceClass
from ota import rollouts
from ota.models import ModelVersion, Rollout
from tests.console import pages, rows
from tests.console.test_in_browser import browser as browser
from tests.console.test_in_browser import page as page
from tests.console.test_in_browser import site as site

pytestmark = pytest.mark.browser
OURS = "Object.keys(sessionStorage).filter(key => key.startsWith('form'))"


def plan_of(row: Rollout) -> dict[str, Any]:
    return dict(Rollout.objects.values_list("plan", flat=True).get(pk=row.pk))


def change_plan(row: Rollout, **said: Any) -> None:
    """As somebody else does it meanwhile."""
    plan = plan_of(row) | said
    rollouts.edit(Rollout.objects.get(pk=row.pk), plan=plan, actor=rows.ADMIN, now=rows.present())


def test_what_was_typed_on_an_older_plan_comes_back_as_a_conflict_and_overwrites_nothing(
    page: Page, live_server: Any, site: rows.Filled
) -> None:
    row = Rollout.objects.get(name="planned")
    url = f"{live_server.url}/rollouts/{row.pk}/plan/waves"
    page.goto(url)
    page.fill("#id_max_in_flight", "33")
    change_plan(row, max_in_flight=50, offers_per_minute=700)
    page.reload()
    assert page.input_value("#id_max_in_flight") == "33", "what was typed stays"
    assert page.input_value("#id_offers_per_minute") == "700", "what was not touched is the server's"
    page.fill("#id_control", "21")
    page.reload()
    assert (page.input_value("#id_max_in_flight"), page.input_value("#id_control")) == ("33", "21")
    pages.at(page, "continue").click()
    expect(page.locator("[role=alert]").first).to_contain_text("stale: ")
    expect(pages.at(page, "differing")).to_contain_text("50")
    assert plan_of(row)["max_in_flight"] == 50
    page.goto(url)
    assert (page.input_value("#id_max_in_flight"), page.input_value("#id_control")) == ("33", "21")
    pages.at(page, "continue").click()
    expect(page.locator("h1")).to_have_text("Review")
    plan = plan_of(row)
    assert (plan["max_in_flight"], plan["control"], plan["offers_per_minute"]) == (33, {"count": 21}, 700)
    page.goto(url)
    assert page.evaluate(OURS) == [], "what was saved is not kept beside it"


def test_a_conflict_that_was_told_is_told_again_when_the_plan_moved_on(
    page: Page, live_server: Any, site: rows.Filled
) -> None:
    row = Rollout.objects.get(name="planned")
    url = f"{live_server.url}/rollouts/{row.pk}/plan/waves"
    page.goto(url)
    page.fill("#id_max_in_flight", "33")
    change_plan(row, max_in_flight=50)
    pages.at(page, "continue").click()
    expect(pages.at(page, "differing")).to_contain_text("50")
    change_plan(row, max_in_flight=60)
    page.goto(url)
    assert page.input_value("#id_max_in_flight") == "33"
    pages.at(page, "continue").click()
    expect(pages.at(page, "differing")).to_contain_text("60")
    assert plan_of(row)["max_in_flight"] == 60


def test_what_somebody_else_stored_just_so_is_no_conflict(
    page: Page, live_server: Any, site: rows.Filled
) -> None:
    row = Rollout.objects.get(name="planned")
    url = f"{live_server.url}/rollouts/{row.pk}/plan/waves"
    page.goto(url)
    page.fill("#id_max_in_flight", "33")
    change_plan(row, max_in_flight=33)
    page.reload()
    page.fill("#id_control", "21")
    pages.at(page, "continue").click()
    expect(page.locator("h1")).to_have_text("Review")
    assert plan_of(row)["control"] == {"count": 21}


def test_a_class_and_a_webhook_that_were_changed_meanwhile_are_a_conflict_that_keeps_what_was_typed(
    page: Page, live_server: Any, site: rows.Filled
) -> None:
    url = f"{live_server.url}/settings/classes/esp32s3-8m"
    page.goto(url)
    page.fill("#id_description", "half a sentence")
    row, now = DeviceClass.objects.get(pk="esp32s3-8m"), rows.present()
    classes.change_class(row, description="dana's", firmware_version="1.4.0", actor=rows.ADMIN, now=now)
    page.reload()
    assert page.input_value("#id_description") == "half a sentence"
    assert page.input_value("#id_firmware_version") == "1.4.0"
    pages.at(page, "save-class").click()
    expect(page.locator("[role=alert]").first).to_contain_text("stale: ")
    assert DeviceClass.objects.get(pk="esp32s3-8m").description == "dana's"
    page.goto(url)
    assert page.input_value("#id_description") == "half a sentence"
    pages.at(page, "save-class").click()
    expect(pages.at(page, "message")).to_contain_text("Saved")
    assert DeviceClass.objects.get(pk="esp32s3-8m").description == "half a sentence"

    hook = Webhook.objects.get()
    url = f"{live_server.url}/settings/webhooks/{hook.pk}"
    page.goto(url)
    page.fill("#id_name", "mine")
    webhooks.change(hook, name="dana's", actor=rows.ADMIN, now=now)
    page.reload()
    assert page.input_value("#id_name") == "mine"
    pages.at(page, "save-webhook").click()
    expect(page.locator("[role=alert]").first).to_contain_text("stale: ")
    assert Webhook.objects.get().name == "dana's"
    page.goto(url)
    pages.at(page, "save-webhook").click()
    expect(pages.at(page, "message")).to_contain_text("Saved")
    assert Webhook.objects.get().name == "mine"


def test_what_is_typed_in_a_part_that_is_live_is_not_swapped_away(
    page: Page, live_server: Any, site: rows.Filled
) -> None:
    version = site.versions["3.1.0"]
    ModelVersion.objects.filter(pk=version.pk).update(state="inspecting")
    page.goto(f"{live_server.url}/models/activity/3.1.0")
    page.locator("summary", has_text="Acknowledge for esp32s3-8m").click()
    reason = page.locator("#ack-esp32s3-8m")
    reason.fill("measured by hand")
    page.evaluate("document.activeElement.blur()")
    ModelVersion.objects.filter(pk=version.pk).update(state="unproven")
    expect(page.locator("#freshness")).to_contain_text("newer data waits", timeout=8000)
    assert reason.input_value() == "measured by hand"
    assert reason.is_visible()
    reason.fill("")
    page.evaluate("document.activeElement.blur()")
    expect(pages.at(page, "verdict")).to_have_attribute("data-state", "unproven", timeout=8000)


def test_an_answer_that_was_on_its_way_when_somebody_began_to_type_is_not_swapped_in(
    page: Page, live_server: Any, site: rows.Filled
) -> None:
    version = site.versions["3.1.0"]
    ModelVersion.objects.filter(pk=version.pk).update(state="inspecting")
    page.goto(f"{live_server.url}/models/activity/3.1.0")
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    page.route("**/activity/3.1.0/live*", hold)
    ModelVersion.objects.filter(pk=version.pk).update(state="unproven")
    for _ in range(160):  # the poll is due within two seconds
        page.wait_for_timeout(50)
        if held:
            break
    page.locator("summary", has_text="Acknowledge for esp32s3-8m").click()
    page.fill("#ack-esp32s3-8m", "measured by hand")
    page.evaluate("document.activeElement.blur()")
    with page.expect_response("**/activity/3.1.0/live*") as answer:
        held[0].continue_()
    assert answer.value.status == 200
    page.unroute("**/activity/3.1.0/live*")
    expect(page.locator("#freshness")).to_contain_text("newer data waits", timeout=8000)
    assert page.input_value("#ack-esp32s3-8m") == "measured by hand"
    page.fill("#ack-esp32s3-8m", "")
    page.evaluate("document.activeElement.blur()")
    expect(pages.at(page, "verdict")).to_have_attribute("data-state", "unproven", timeout=8000)
