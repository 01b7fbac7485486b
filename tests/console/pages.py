"""What a person does in the console, for tests that drive a real Chromium.

Things are found by their `data-test` attributes, which are part of the console's interface and stay when
words change:

- frame: `nav-overview` `nav-devices` `nav-models` `nav-rollouts` `nav-telemetry` `nav-alerts` `nav-settings`,
  `logout`, and `message` after an action, a toast in `#messages`. Sign-in: `login-form` with `#id_username`
  and `#id_password`, `login-submit`, `login-error`.
- overview: `figure-online` `figure-newest` `figure-alerts` `figure-anomaly`, `versions`, `live-rollout`,
  `events`.
- devices: `devices`, `filters`, `total`, `next-page`, `query-error[data-code]`, `groups-link`,
  `save-as-group`. A device: `why[data-code]`, `slot-0`, `timeline`, `last-window`, `simulated`, `tags`,
  `retire` with `confirm-retire` `live-jobs`, `retired`, `unproven`.
- groups: `groups`, `new-group`, `group-form`, `save-group`. A group: `members`, `group-query`, `group-count`,
  `members-form`, `save-members`, `edit-group`, `delete-group`, `confirm-delete-group`.
- models: `models`, `versions`, `upload`. Form: `upload-form`, fields by name, `error-<field>`,
  `upload-submit`, `duplicate`. Keys: `keys` with `key-<kid>`; `confirm-revoke` with `resting` `told`.
- version: `verdict[data-state]` with rows `[data-class][data-kind]`, `code`, `acknowledge-<class>`,
  `release`, `inspect`, `staging[data-state]`, `roll-out`, `manifest`, `operators`, `measured`.
- pages of a plan: `page-<name>[data-saved]`, `rollout-form`, `continue`, `back`, `error-<field>`,
  `elsewhere`, `differing` with `plan-now`. The first: `preset-<name>`. The others: `preview`,
  `plan-preview[data-ready]`, `eligible`, `sample`, `detectable`, `preview-pace`, `preview-proof`. The review:
  `missing`, `review-what` with `alias` `signed-anew`, `review-who`, `dry-run[data-ready]`, `needs`, `submit`,
  `submitted`, `stale`. The plan's facts: `plan-pace`, `plan-proof`, `plan-by-class`. Of a plan that was made
  over REST: `set-over-api`.
- rollout: `rollout-live[data-state]`, `sentence`, `waves` with `li[data-wave][data-state]`,
  `gate[data-wave]` with `tr[data-rule]`, `failures`, `rollback`, `undo`, `review`, `plan`, `log`,
  `verb-<verb>`.
- confirm page: `confirm-<verb>`, `dry-run` with `dry-revert` `dry-download` `dry-unreachable`, `moved`, and
  the button `confirm`.
- alerts: `alerts`, `filters`, `rules-link`, `open-alerts` in the navigation. An alert: `evidence`, `advice`,
  `alert-devices`, `alert-rollouts`, `folded`, `alert-verbs` with `acknowledge` `resolve`, `history`. Rules:
  `rules` with `tr[data-rule]`. A rollout that one paused: `paused-by`.
- telemetry: `telemetry-form`, `chart`, `gaps`, `telemetry-table`, `api-call`, `query-error`; of estimates
  `reason-<code>`, `no-estimate`, `calibration`.
- lists: `list-tools` with `view` `save-view` `forget-view` `csv` `json`; on devices `bulk` with `bulk-ticked`
  `bulk-all`. Bulk: `bulk-count`, `bulk-form`, `moved`, `retried`, `confirm`. Search: `found` with
  `[data-kind]`.
- settings: `settings-<page>`; `tokens` with `tr[data-token]`, `token-form`, `make-token`, `made`,
  `token-value`; a token: `networks-form`, `save-networks`, `rotate-token`, `former-until`; `webhooks`,
  `webhook-form`, `save-webhook`, `webhook-secret`, `rotate-secret`, `test-webhook`, `deliveries`,
  `redeliver`; `rotate-form`, `confirm`; `classes`, `class-form`, `save-class`, `resting`;
  `broker-state[data-code]`, `dropped`, `limits` with `tr[data-limit]`; `retention` with `tr[data-table]`;
  `dead-letters`, `replay`, `replays`; `packages`; `shortcuts`.
- audit: `audit`, `filters`, `export-csv`, `export-ndjson`, `audit-check[data-state]` with `check-now`
  `audit-anchor`.
- refusals: `refusal`, `allowed`, `error`. Empty lists: `empty`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1360, "height": 900}


@contextmanager
def chromium() -> Iterator[Browser]:
    """The distribution's Chromium, headless."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


class Watch:
    """What must not happen in any page: a console error, a script error, a request to another host."""

    def __init__(self, context: BrowserContext, base: str) -> None:
        """base: the only address that may be asked."""
        self.found: list[str] = []
        self._base = base
        context.on("console", self._console)
        context.on("weberror", lambda error: self.found.append(f"script: {error.error}"))
        context.route("**/*", self._route)

    def _console(self, message: Any) -> None:
        provoked = ("status of 4", "Error Code 401")  # refusals that a test asks for
        provoked += ("htmx:afterRequest", "htmx:sendAbort")  # a page left while a part of it was asked for
        if message.type == "error" and not any(words in message.text for words in provoked):
            self.found.append(f"console: {message.text}")

    def _route(self, route: Any) -> None:
        if route.request.url.startswith((self._base, "data:")):
            route.continue_()
        else:
            self.found.append(f"foreign host: {route.request.url}")
            route.abort()


def at(page: Page | Locator, name: str) -> Locator:
    """The element with this `data-test`."""
    return page.locator(f'[data-test="{name}"]')


def shot(page: Page, folder: Path, name: str, *, is_whole: bool = False) -> Path:
    """A picture of what is visible, or of the whole page, kept below `$FLEET_SCREENSHOTS` if that is set."""
    kept = Path(os.environ.get("FLEET_SCREENSHOTS", folder))
    kept.mkdir(parents=True, exist_ok=True)
    path = kept / f"{re.sub('[^a-z0-9.-]+', '-', name.lower())[:80]}.png"
    page.screenshot(path=path, full_page=is_whole)
    return path


def sign_in(page: Page, base: str, name: str, password: str) -> None:
    """Sign in and land on the overview."""
    page.goto(f"{base}/login")
    page.fill("#id_username", name)
    page.fill("#id_password", password)
    at(page, "login-submit").click()
    expect(page.locator("h1")).to_have_text("Overview")


def upload(
    page: Page, base: str, file: Path, *, model: str, version: str, evaluation: Path | None = None
) -> None:
    """Upload a file through the form and wait for its verdict on the version page."""
    page.goto(f"{base}/upload")
    page.fill("#id_model", model)
    page.fill("#id_version", version)
    page.set_input_files("#id_file", file)
    if evaluation is not None:
        page.set_input_files("#id_evaluation", evaluation)
    at(page, "upload-submit").click()
    expect(page.locator("h1")).to_have_text(f"{model} {version}")


def wait_for_verdict(page: Page, *, timeout_s: float = 60) -> str:
    """The state of the version once inspector and preflight have spoken; the page refreshes itself."""
    verdict = at(page, "verdict")
    for state in ("uploaded", "inspecting"):
        expect(verdict).not_to_have_attribute("data-state", state, timeout=timeout_s * 1000)
    return verdict.get_attribute("data-state") or ""


def acknowledge(page: Page, device_class: str, reason: str) -> None:
    """Accept what is unproven for a class."""
    row = page.locator(f'[data-class="{device_class}"]')
    row.locator("summary").click()
    row.locator('[name="reason"]').fill(reason)
    at(page, f"acknowledge-{device_class}").click()
    expect(at(page, "message")).to_contain_text("Acknowledged")


def sign_and_stage(page: Page, *, timeout_s: float = 60) -> None:
    """Release the version and wait until every chunk is on the broker."""
    at(page, "release").click()
    expect(at(page, "staging")).to_have_attribute("data-state", "staged", timeout=timeout_s * 1000)


def plan_rollout(page: Page, *, preset: str, name: str = "", **fields: str) -> str:
    """From a version page: through the pages of a plan, to its submission. Returns its page's address."""
    at(page, "roll-out").click()
    at(page, f"preset-{preset}").click()
    fill_plan(page, {"name": name, **fields})
    expect(at(page, "dry-run")).to_have_attribute("data-ready", "true")
    at(page, "submit").click()
    expect(at(page, "rollout-live")).to_be_visible()
    return page.url


def fill_plan(page: Page, fields: dict[str, str]) -> None:
    """Fill and save page after page of a plan, up to its review. "" leaves a field as it is."""
    for title in ("Who gets it", "In which waves, and when", "What it is judged on", "Review"):
        for field, value in fields.items():
            if value and page.locator(f"#id_{field}").count():
                page.fill(f"#id_{field}", value)
        at(page, "continue").click()
        expect(page.locator("h1")).to_have_text(title)


def start(page: Page) -> None:
    """Start a rollout whose preflight passed."""
    at(page, "verb-start").click()
    expect(at(page, "rollout-live")).to_have_attribute("data-state", "running")


def wait_for_state(page: Page, *states: str, timeout_s: float = 120) -> str:
    """Wait, without reloading, until the live page shows one of the states."""
    selector = ", ".join(f'[data-test="rollout-live"][data-state="{state}"]' for state in states)
    expect(page.locator(selector)).to_be_visible(timeout=timeout_s * 1000)
    return at(page, "rollout-live").get_attribute("data-state") or ""


def do(page: Page, verb: str, reason: str = "") -> None:
    """Pause, resume, abort or roll back through the confirm page."""
    at(page, f"verb-{verb}").click()
    if reason:
        page.fill("#id_reason", reason)
    at(page, "confirm").click()
    expect(at(page, "rollout-live")).to_be_visible()
