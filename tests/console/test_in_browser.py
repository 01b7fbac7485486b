"""The console in a real Chromium: what script adds, and that nothing needs it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from playwright.sync_api import Browser, Page, expect

from fleet.accounts import second_factor, tokens
from fleet.accounts.models import ApiToken, User
from fleet.alerts import evaluation, rules, silences, webhooks
from fleet.alerts.models import Alert, Webhook
from fleet.console import saved_views
from fleet.devices import groups
from fleet.devices.models import Device
from fleet.telemetry import dead
from fleet.telemetry.dead import Quota, Refused
from ota import aliases
from ota import rollouts as ota_rollouts
from ota.models import Job, Rollout
from ota.transitions import move_job
from tests.alerts.planting import plant_events, plant_windows
from tests.console import accessibility, pages, rows
from tests.live.viewers import serving
from tests.stack.services import wait_until

pytestmark = pytest.mark.browser
WIDTHS = (1360, 360, 320)
PLANNED = {
    "waves": [{"count": 20}, {"percent": 50}, {"percent": 100}],
    "control": {"count": 20},
    "metrics": [{"metric": "accuracy", "kind": "proxy", "promote_margin": 0.1, "weight": 1.0}],
    **{"accept_proxy": True, "min_pairs": 12, "settle_s": 3, "window_s": 20, "soak_s": 23, "max_soak_s": 120},
}
WEIGHT_BYTES = 150_000
SHOTS = Path(__file__).resolve().parents[2] / ".run" / "screenshots" / "console"
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests. Playwright's loop runs in this thread, so the ORM has to be told it may."""
    with pytest.MonkeyPatch.context() as patch, pages.chromium() as running:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield running


@pytest.fixture
def site(
    browser: Browser, live_server: Any, present: datetime, make_user: Callable[..., Any], settings: Any
) -> rows.Filled:
    """A filled database behind a web server."""
    admin = make_user("admin")
    second_factor.begin(make_user("viewer", "kim"), now=present)
    second_factor.begin(admin, now=present)
    filled = rows.fill(present)
    Device.objects.filter(pk__in=["dev-001", "dev-061"]).update(
        tags=["line-2"], attributes={"site": "berlin"}
    )
    pilot = groups.create("pilot", kind="static", actor=rows.ADMIN, now=present)
    groups.set_members(pilot, ["dev-001", "dev-002"], actor=rows.ADMIN, now=present)
    rules.ensure_defaults(present)
    plant_events("dev-001", present - timedelta(minutes=1), "boot", 3, "panic")
    evaluation.run(present)
    until = present + timedelta(hours=4)
    silences.create(q="id==dev-001", until=until, reason="on the bench", actor=rows.ADMIN, now=present)
    groups.create("line", kind="dynamic", q="tag==line-2,group==pilot", actor=rows.ADMIN, now=present)
    settings.WEBHOOK_ALLOW_PRIVATE = True
    hook, _ = webhooks.create("pager", url="http://127.0.0.1:9/hook", actor=rows.ADMIN, now=present)
    webhooks.send_test(hook, actor=rows.ADMIN, now=present)
    tokens.issue(admin, "nightly", ["devices:read"], actor=rows.ADMIN, now=present)
    saved_views.save(admin, "devices", name="late shift", query="class=host-b", now=present)
    aliases.point(filled.manifests["3.0.0"].version, "stable", rev=None, actor=rows.ADMIN, now=present)
    ota_rollouts.create("planned", filled.manifests["3.0.0"], plan=PLANNED, actor=rows.ADMIN, now=present)
    letter = Refused("dev-001", "f1/dev/dev-001/telemetry", "range", "n is 70,000", b"\xa1\x00\x01")
    dead.record([letter], slot=0, now=present, quota=Quota())
    plant_windows(["dev-003"], present, 3, n=100, anom_n=10)
    return filled


@pytest.fixture
def page(browser: Browser, live_server: Any, site: rows.Filled) -> Iterator[Page]:
    """A page of a signed-in administrator; anything a page must not do fails the test."""
    context = browser.new_context(viewport=pages.DESKTOP)
    watch = pages.Watch(context, live_server.url)
    found = context.new_page()
    pages.sign_in(found, live_server.url, "admin", "pass-admin-word")
    yield found
    context.close()
    assert watch.found == []


def paths(site: rows.Filled) -> list[str]:
    running = f"/rollouts/{site.rollouts['running'].pk}"
    planned = f"/rollouts/{Rollout.objects.get(name='planned').pk}"
    return [
        "/",
        "/devices",
        "/devices?q=tagg==line-2",
        "/devices/dev-033",
        "/groups",
        "/groups/pilot",
        "/groups/line",
        "/new-group?q=tag==line-2",
        "/models",
        "/models/activity",
        "/models/activity/2.0.0",
        "/models/activity/0.9.0",
        "/models/activity/compare",
        "/models/activity/compare?versions=1.0.0,2.0.0,3.0.0,3.1.0",
        "/new-devices",
        "/upload",
        "/rollouts",
        "/rollouts/new",
        *(f"{planned}/plan/{name}" for name in ("what", "who", "waves", "gates", "review")),
        running,
        f"{running}/rollback",
        f"{running}/jobs",
        f"/rollouts/{site.rollouts['halted'].pk}",
        f"/rollouts/{site.rollouts['halted'].pk}/evidence/{site.rollouts['halted'].halted_on_id}",
        "/telemetry?range=6h",
        "/telemetry?metric=class-mix&range=24h",
        "/telemetry?metric=accuracy-estimate&range=6h",
        "/telemetry/anomalies",
        "/telemetry/drift",
        "/telemetry/compare",
        "/telemetry/compare?metric=latency&a=version==2.0.0&b=version==1.0.0",
        "/alerts",
        "/alerts?q=tagg==line-2",
        f"/alerts/{Alert.objects.earliest('id').pk}",
        "/alerts/rules",
        "/alerts/silences",
        "/account",
        "/account/second-factor",
        "/reauth?next=/account",
        "/settings/users",
        "/settings/users/admin",
        "/settings/users/kim",
        "/search?find=dev",
        "/bulk/devices?of=all&class=host-b",
        "/settings",
        "/settings/tokens",
        f"/settings/tokens/{ApiToken.objects.get().public_id}",
        f"/settings/tokens/{ApiToken.objects.get().public_id}/rotate",
        "/settings/keyboard",
        "/settings/webhooks",
        f"/settings/webhooks/{Webhook.objects.get().pk}",
        f"/settings/webhooks/{Webhook.objects.get().pk}/rotate",
        "/settings/new-webhook",
        "/settings/classes",
        "/settings/new-class",
        "/settings/classes/esp32s3-8m",
        "/settings/broker",
        "/settings/retention",
        "/settings/dead-letters?code=range",
        "/settings/about",
        "/keys",
        "/audit",
        "/audit?verb=a b",
        "/nothing",
    ]


_NAMELESS = """() => [...document.querySelectorAll(
    'a[href], button, input:not([type=hidden]), select, textarea')]
  .filter(e => !(e.textContent.trim() || e.getAttribute('aria-label') || (e.labels && e.labels.length)
    || e.querySelector('img[alt]:not([alt=""])')))
  .map(e => e.outerHTML.slice(0, 120))"""
_TWICE = """() => { const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
  return ids.filter((id, i) => ids.indexOf(id) !== i); }"""
_SMALL = """() => [...document.querySelectorAll('button, .button, nav a, input:not([type=hidden]), select')]
  .filter(e => e.checkVisibility() && !e.closest('label'))
  .filter(e => { const r = e.getBoundingClientRect(); return r.width > 0 && (r.width < 24 || r.height < 24)
    && !['checkbox', 'radio'].includes(e.type) && !e.closest('.actions.small'); })
  .map(e => e.outerHTML.slice(0, 120))"""


def test_every_page_fits_every_width_and_is_accessible_in_both_themes(
    page: Page, live_server: Any, site: rows.Filled
) -> None:
    """Pictures of each page in light, dark and on a phone are kept with the run."""
    for n, path in enumerate(paths(site)):
        page.emulate_media(color_scheme="light", reduced_motion="reduce")
        page.set_viewport_size(pages.DESKTOP)
        page.goto(live_server.url + path)
        name = f"{n:02d}-{re.sub(UUID, 'one', path).strip('/') or 'overview'}"
        assert accessibility.found(page, accessibility.EVERY_RULE) == [], path
        pages.shot(page, SHOTS, f"{name}-light", is_whole=True)
        page.emulate_media(color_scheme="dark")
        assert accessibility.found(page, accessibility.COLOURS) == [], f"{path}, dark"
        pages.shot(page, SHOTS, f"{name}-dark")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{path} is {wide} px wide at {width}"
        page.emulate_media(color_scheme="light", reduced_motion="reduce")
        pages.shot(page, SHOTS, f"{name}-phone", is_whole=True)
        assert page.evaluate(_NAMELESS) == [], path
        assert page.evaluate(_TWICE) == [], path
        assert page.evaluate(_SMALL) == [], path
        assert page.locator("h1").count() == 1, path
        assert page.locator("main").count() == 1, path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_follow_the_system(
    browser: Browser, live_server: Any, site: rows.Filled, scheme: Any
) -> None:
    context = browser.new_context(color_scheme=scheme)
    found = context.new_page()
    pages.sign_in(found, live_server.url, "admin", "pass-admin-word")
    colour = found.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    dark = sum(int(part) for part in colour.strip("rgb()").split(",")[:3]) < 380
    assert dark == (scheme == "dark")
    other = "light" if scheme == "dark" else "dark"
    found.get_by_role("button", name=other.capitalize(), exact=True).click()
    expect(found.locator("html")).to_have_attribute("data-theme", other)
    assert found.evaluate("getComputedStyle(document.documentElement).backgroundColor") != colour
    context.close()


def test_a_first_load_weighs_little(browser: Browser, live_server: Any, site: rows.Filled) -> None:
    context = browser.new_context()
    found, total = context.new_page(), []
    pages.sign_in(found, live_server.url, "admin", "pass-admin-word")
    context.clear_cookies(name="none")
    found.on("response", lambda answer: total.append(len(answer.body())))
    found.goto(f"{live_server.url}/rollouts/{site.rollouts['running'].pk}", wait_until="networkidle")
    assert 0 < sum(total) < WEIGHT_BYTES, f"{sum(total):,} bytes"
    context.close()


def test_the_skip_link_comes_first_and_leads_to_the_content(page: Page, live_server: Any) -> None:
    page.goto(live_server.url + "/devices")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus is visible"


def test_the_live_page_follows_reports_and_offers_what_became_possible(
    page: Page, live_server: Any, site: rows.Filled, present: datetime
) -> None:
    row = site.rollouts["running"]
    page.goto(f"{live_server.url}/rollouts/{row.pk}")
    expect(pages.at(page, "sentence")).to_contain_text("9 of 20 confirmed")
    Job.objects.filter(rollout=row, state="trial").update(state="confirmed")
    expect(pages.at(page, "sentence")).to_contain_text("12 of 20 confirmed", timeout=8000)
    expect(page.locator("#freshness")).to_contain_text("polling")  # Django's own test server cannot stream
    Rollout.objects.filter(pk=row.pk).update(state="paused", reason="by hand")
    expect(pages.at(page, "verb-resume")).to_be_visible(timeout=8000)
    expect(pages.at(page, "verb-pause")).to_have_count(0)
    Rollout.objects.filter(pk=row.pk).update(state="aborted", finished_at=present)
    pages.wait_for_state(page, "aborted", timeout_s=8)
    expect(page.locator("#freshness")).to_contain_text("final")


def test_nothing_is_swapped_under_the_focus(page: Page, live_server: Any, site: rows.Filled) -> None:
    row = site.rollouts["running"]
    page.goto(f"{live_server.url}/rollouts/{row.pk}")
    link = page.locator('[data-test="failures"] a').first
    link.focus()
    Job.objects.filter(rollout=row, state="trial").update(state="confirmed")
    expect(page.locator("#freshness")).to_contain_text("newer data waits", timeout=8000)
    assert link.evaluate("e => e === document.activeElement")
    expect(pages.at(page, "sentence")).to_contain_text("9 of 20 confirmed")
    page.locator("h1").click()
    page.evaluate("document.activeElement.blur()")
    expect(pages.at(page, "sentence")).to_contain_text("12 of 20 confirmed", timeout=8000)


def test_keys_lead_about_and_are_silent_in_fields_and_when_they_are_off(page: Page, live_server: Any) -> None:
    page.goto(live_server.url + "/devices")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.textContent") == "dev-001"
    page.keyboard.press("?")
    expect(page.locator("#shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#shortcuts")).to_be_hidden()
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("gm?j/")
    assert page.input_value("#search") == "gm?j/"
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.type("gs")
    expect(page.locator("h1")).to_have_text("Settings")
    page.goto(live_server.url + "/settings/keyboard")
    pages.at(page, "shortcuts").click()
    expect(pages.at(page, "message")).to_contain_text("off")
    page.keyboard.type("gd?/")
    page.wait_for_load_state("networkidle")
    expect(page.locator("h1")).to_have_text("Keyboard")
    assert page.evaluate("document.activeElement.id") != "search"


def test_what_is_typed_survives_a_reload_and_a_lost_login_until_it_is_saved(
    page: Page, live_server: Any
) -> None:
    url = live_server.url + "/settings/classes/esp32s3-8m"
    page.goto(url)
    page.fill("#id_description", "half a sentence")
    page.goto(live_server.url + "/devices")
    page.goto(url)
    assert page.input_value("#id_description") == "half a sentence"
    assert page.input_value("#id_firmware_version") == "1.0.0", "what was not touched is the server's"
    page.context.clear_cookies(name="sessionid")
    pages.at(page, "save-class").click()
    page.fill("#id_username", "admin")
    page.fill("#id_password", "pass-admin-word")
    pages.at(page, "login-submit").click()
    page.goto(url)
    assert page.input_value("#id_description") == "half a sentence"
    pages.at(page, "save-class").click()
    expect(pages.at(page, "message")).to_contain_text("Saved")
    page.goto(url)
    assert page.input_value("#id_description") == "half a sentence"
    ours = "Object.keys(sessionStorage).filter(key => key.startsWith('form'))"
    assert page.evaluate(ours) == [], "what was saved is not kept beside it"
    page.fill("#id_description", "thought better of it")
    page.get_by_role("link", name="Cancel").click()
    page.goto(url)
    assert page.input_value("#id_description") == "half a sentence"


def test_evidence_and_a_report_print_without_what_paper_cannot_do(
    page: Page, live_server: Any, site: rows.Filled
) -> None:
    halted = site.rollouts["halted"]
    evidence = f"/rollouts/{halted.pk}/evidence/{halted.halted_on_id}"
    for name, path in {"evidence": evidence, "report": "/models/activity/2.0.0"}.items():
        page.goto(live_server.url + path)
        page.emulate_media(media="print", color_scheme="dark")
        for gone in (".rail", ".bar-top", "button", "summary"):
            assert not any(one.is_visible() for one in page.locator(gone).all()), f"{gone} on {path}"
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        ink = page.evaluate("getComputedStyle(document.querySelector('h1')).color")
        assert sum(int(part) for part in ink.strip("rgb()").split(",")) < 150, ink
        page.pdf(path=SHOTS / f"print-{name}.pdf")
        pages.shot(page, SHOTS, f"print-{name}", is_whole=True)
        page.emulate_media(media="screen", color_scheme="light")


def test_updates_can_be_paused(page: Page, live_server: Any, site: rows.Filled) -> None:
    row = site.rollouts["running"]
    page.goto(f"{live_server.url}/rollouts/{row.pk}")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/live" in request.url else None)
    page.get_by_role("button", name="Pause updates").click()
    asked.clear()
    Job.objects.filter(rollout=row, state="trial").update(state="confirmed")
    expect(page.locator("#freshness")).to_contain_text("paused")
    page.wait_for_timeout(3000)  # longer than a poll: nothing may be asked in it
    assert asked == []
    page.get_by_role("button", name="Resume updates").click()
    expect(pages.at(page, "sentence")).to_contain_text("12 of 20 confirmed", timeout=8000)


def test_a_lost_session_leaves_the_page_and_says_so(page: Page, live_server: Any, site: rows.Filled) -> None:
    page.goto(f"{live_server.url}/rollouts/{site.rollouts['running'].pk}")
    page.context.clear_cookies(name="sessionid")
    expect(page.locator("#freshness")).to_contain_text("signed out", timeout=8000)
    expect(pages.at(page, "sentence")).to_be_visible()


def test_everything_works_without_script(browser: Browser, live_server: Any, site: rows.Filled) -> None:
    context = browser.new_context(java_script_enabled=False, viewport=pages.PHONE)
    found, row = context.new_page(), site.rollouts["running"]
    pages.sign_in(found, live_server.url, "admin", "pass-admin-word")
    pages.at(found, "nav-rollouts").click()
    found.get_by_role("link", name=row.name).first.click()
    pages.do(found, "pause", "by hand")
    assert pages.at(found, "rollout-live").get_attribute("data-state") == "paused"
    pages.do(found, "abort", "enough")
    assert pages.at(found, "rollout-live").get_attribute("data-state") in ("aborting", "aborted")
    context.close()


def test_a_hint_shows_before_a_poll_would_and_a_hidden_or_closed_tab_ends_its_stream(
    browser: Browser, live_server: Any, site: rows.Filled, present: datetime, settings: Any, tmp_path: Path
) -> None:
    row = site.rollouts["running"]
    with serving(tmp_path, secret_key=settings.SECRET_KEY) as server:
        context = browser.new_context()
        watch = pages.Watch(context, server.url)
        client = Client()  # the server knows no such passwords as tests have
        client.force_login(User.objects.get(username="admin"))
        cookie = client.cookies["sessionid"].value
        context.add_cookies([{"name": "sessionid", "value": cookie, "url": server.url}])
        found = context.new_page()
        found.goto(f"{server.url}/rollouts/{row.pk}")
        expect(found.locator("#freshness")).to_contain_text("live", timeout=8000)
        found.wait_for_timeout(2500)  # longer than a poll; with a stream the next one is due in 15 s
        asked: list[str] = []
        found.on("request", lambda request: asked.append(request.url) if "/live?" in request.url else None)
        job = Job.objects.filter(rollout=row, state="trial").first()
        assert job is not None
        assert move_job(job, "confirmed", actor=rows.ADMIN, now=present)
        expect(pages.at(found, "sentence")).to_contain_text("10 of 20 confirmed", timeout=9000)
        assert 1 <= len(asked) <= 3, f"one hint, one fetch, and its controls: {asked}"
        assert server.viewers() == 1

        def seen(count: int) -> bool:
            found.wait_for_timeout(50)  # requests of the page pass through this thread
            return server.viewers() == count

        found.evaluate(_HIDE, True)
        wait_until(lambda: seen(0), what="a hidden tab ends its stream")
        found.evaluate(_HIDE, False)
        wait_until(lambda: seen(1), what="a tab that is seen again has one")
        found.goto(f"{server.url}/rollouts")  # a list that is asked for again each 15 s without hints
        expect(found.locator("#freshness")).to_contain_text("live", timeout=8000)
        found.wait_for_timeout(3100)  # the least time between two hints
        ota_rollouts.pause(row, actor=rows.ADMIN, now=present, reason="by hand")
        expect(pages.at(found, "rollouts")).to_contain_text("Paused", timeout=5000)
        found.close()
        wait_until(lambda: server.viewers() == 0, what="a closed tab ends its stream")
        context.close()
        assert watch.found == []


_HIDE = """(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
  document.dispatchEvent(new Event('visibilitychange')); }"""
