"""A person with a browser only: upload, read the verdict, sign, plan, watch it live, take it back."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from fleet.demo import story
from tests.console import pages
from tests.e2e.conftest import DEVICES, Fleet

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.browser,
    pytest.mark.xdist_group("stack"),
    pytest.mark.timeout(900),
]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The distribution's Chromium."""
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)


@pytest.fixture
def page(browser: Browser, fleet: Fleet) -> Iterator[Page]:
    """A page that fails the test when it asks another host, logs an error or breaks the content policy."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    wrong: list[str] = []

    def asked(request: Request) -> None:
        if not request.url.startswith((fleet.info.console_url, "data:", "blob:")):
            wrong.append(f"asked {request.url}")

    def logged(message: ConsoleMessage) -> None:
        # the wrong password below is answered 422, which Chromium logs; a page may be left while a part of it
        # is asked for
        known = ("status of 422", "htmx:afterRequest", "htmx:sendAbort")
        if message.type == "error" and not any(words in message.text for words in known):
            wrong.append(f"console: {message.text}")

    opened.on("request", asked)
    opened.on("console", logged)
    opened.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    opened.set_default_timeout(30_000)
    yield opened
    context.close()
    assert wrong == []


def shoot(page: Page, folder: Path, name: str) -> None:
    """Keep the page as it looks in light, dark and on a phone."""
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        page.screenshot(path=folder / f"{name}-{theme}.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 360, "height": 780})
    page.screenshot(path=folder / f"{name}-phone.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, f"{name} scrolls sideways on a phone"
    page.set_viewport_size({"width": 1280, "height": 900})


def test_a_person_uploads_rolls_out_watches_and_takes_back(fleet: Fleet, page: Page, shots: Path) -> None:
    setting = fleet.setting
    before = story.running(setting)
    assert sum(before.values()) == DEVICES
    page.goto(f"{fleet.info.console_url}/")
    page.fill("#id_username", "admin")
    page.fill("#id_password", "not the password")
    page.click('[data-test="login-submit"]')
    expect(page.locator('[data-test="login-error"]')).to_be_visible()
    page.fill("#id_username", "admin")
    page.fill("#id_password", fleet.password)
    page.click('[data-test="login-submit"]')
    expect(page.locator("h1")).to_have_text("Overview")
    shoot(page, shots, "overview")

    page.goto(f"{fleet.info.console_url}/upload")
    page.fill("#id_model", "activity")
    page.fill("#id_version", "5.0.0")
    page.set_input_files("#id_file", setting.root / "deploy" / "models" / "activity-large.tflite")
    page.set_input_files("#id_evaluation", setting.data_dir / "activity-eval.npz")
    page.click('[data-test="upload-submit"]')
    expect(page.locator('[data-test="verdicts"]')).to_contain_text("host-a", timeout=90_000)
    expect(page.locator('[data-test="release"]')).to_be_visible(timeout=90_000)
    shoot(page, shots, "version")
    page.click('[data-test="release"]')
    expect(page.locator('[data-test="manifest"]')).to_be_visible()

    page.click('[data-test="roll-out"]')
    page.click('[data-test="preset-first"]')
    pages.fill_plan(page, {"name": "from the browser", "devices": "dev-000, dev-001, dev-002"})
    expect(page.locator('[data-test="eligible"]')).to_contain_text("3")
    shoot(page, shots, "plan")
    page.click('[data-test="submit"]')
    expect(page.locator("h1")).to_contain_text("from the browser")
    page.click('[data-test="verb-start"]')
    expect(page.locator('[data-test="sentence"]')).to_contain_text(
        re.compile("Completed|3 of 3"), timeout=240_000
    )
    shoot(page, shots, "live-rollout")
    for path, name in (("devices", "devices"), ("devices/dev-000", "device"), ("telemetry", "telemetry")):
        page.goto(f"{fleet.info.console_url}/{path}")
        expect(page.locator("h1")).to_be_visible()
        shoot(page, shots, name)


def test_a_running_rollout_is_rolled_back_from_its_page(fleet: Fleet, page: Page, shots: Path) -> None:
    setting = fleet.setting
    newest = max(story.running(setting).items(), key=lambda item: item[1])[0]
    file = {"activity 1.0.0": ("2.0.0", "activity-v2"), "activity 2.0.0": ("6.0.0", "activity-v3")}[newest]
    story.release(setting, story.Step("x", "release"), *file)
    plan = {**story.plans.gated(DEVICES), "soak_s": 600, "window_s": 597}
    rollout = story.roll_out(setting, "taken back by hand", file[0], plan)
    story.await_start(setting, rollout)

    def exposed() -> tuple[int | None, str]:
        seen = fleet.api.get(f"/rollouts/{rollout}")
        confirmed = seen["waves"][0]["confirmed"]
        return (confirmed if confirmed >= 5 else None), seen["sentence"]

    story.wait_for("some devices confirmed", exposed, deadline_s=240)
    page.goto(f"{fleet.info.console_url}/rollouts/{rollout}")
    page.fill("#id_username", "admin")
    page.fill("#id_password", fleet.password)
    page.click('[data-test="login-submit"]')
    expect(page.locator('[data-test="sentence"]')).to_contain_text("Wave 1 of 3")
    shoot(page, shots, "running")
    page.click('[data-test="verb-rollback"]')
    expect(page.locator('[data-test="dry-run"]')).to_be_visible()
    shoot(page, shots, "confirm-rollback")
    page.fill("#id_reason", "tried from the browser test")
    page.click('[data-test="confirm"]')
    expect(page.locator('[data-test="live-rollout"], main')).to_contain_text("Rolled back", timeout=240_000)
    shoot(page, shots, "rolled-back")
    assert story.running(setting).get(f"activity {file[0]}", 0) == 0
