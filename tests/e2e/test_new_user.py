"""The new user's way: an empty installation, a browser, a model file, and nothing else.

No address is typed but the first, and no command is run: each page has to lead to the next step.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from fleet.stack import product
from fleet.stack.paths import PROJECT_ROOT, RunDir
from fleet.stack.run import Stack, StackInfo
from tests.console import pages
from tests.models.watch import watch_dir

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.browser,
    pytest.mark.xdist_group("stack"),
    pytest.mark.timeout(300),
]
MODEL = PROJECT_ROOT / "deploy" / "models" / "activity-v2.tflite"
DEVICES = 4


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackInfo]:
    """What `manage.py dev` starts on a machine that never ran it; only the recordings are there already."""
    run = RunDir(tmp_path_factory.mktemp("new") / "run")
    (run.root / "data").mkdir(parents=True)
    (run.root / "data" / "watch").symlink_to(watch_dir())
    kept_out = ("DATABASE_URL", "REDIS_URL", "FLEET_RUN_DIR")
    environ = {name: value for name, value in os.environ.items() if name not in kept_out}
    with Stack(run, say=lambda _line: None, environ=environ) as stack:
        info = stack.start()
        stack.supervisor.start(product.attendant(info.run, info.env))
        yield info


@pytest.fixture
def page(empty: StackInfo) -> Iterator[Page]:
    """A browser that fails the test for a console error, a script error or a foreign host."""
    with pages.chromium() as browser:
        context = browser.new_context(viewport=pages.DESKTOP)  # type: ignore[arg-type]
        watch = pages.Watch(context, empty.console_url)
        opened = context.new_page()
        opened.set_default_timeout(20_000)
        yield opened
        context.close()
        assert watch.found == []


def test_from_an_empty_installation_to_a_confirmed_rollout_with_the_console_alone(
    empty: StackInfo, page: Page, tmp_path: Path, shots: Path
) -> None:
    mine = tmp_path / "my-model.tflite"
    shutil.copy(MODEL, mine)
    password = (empty.run.root / "admin.txt").read_text().split()[-1]
    pages.sign_in(page, empty.console_url, "admin", password)
    steps = pages.at(page, "first-steps")
    expect(steps).to_be_visible()
    pages.shot(page, shots, "new-1-empty")

    pages.at(page, "step-enrol").click()
    page.fill("#sim-count", str(DEVICES))
    pages.at(page, "simulate").click()
    there = pages.at(page, "simulated")
    expect(there).to_have_attribute("data-online", str(DEVICES), timeout=60_000)
    pages.shot(page, shots, "new-2-devices")

    pages.at(page, "next-step").click()
    page.fill("#id_model", "mine")
    page.fill("#id_version", "1.0.0")
    page.set_input_files("#id_file", mine)
    pages.at(page, "upload-submit").click()
    assert pages.wait_for_verdict(page) == "unproven", "there was no evaluation set"
    expect(pages.at(page, "operators")).to_contain_text("CONV_2D")
    expect(pages.at(page, "memory")).to_contain_text("activations")
    pages.shot(page, shots, "new-3-report")

    pages.acknowledge(page, "host-a", "a first try on simulated devices")
    pages.sign_and_stage(page)
    expect(pages.at(page, "verify")).to_contain_text("tinyfleet models verify")
    pages.shot(page, shots, "new-4-signed")

    pages.plan_rollout(page, preset="first", name="my first rollout")
    pages.start(page)
    expect(pages.at(page, "sentence")).to_contain_text(re.compile("Completed|confirmed"), timeout=60_000)
    assert pages.wait_for_state(page, "completed", "halted", "aborted", timeout_s=90) == "completed"
    pages.shot(page, shots, "new-5-completed")

    pages.at(page, "nav-overview").click()
    expect(steps).to_have_count(0)
    expect(pages.at(page, "versions")).to_contain_text(f"mine 1.0.0 {DEVICES}")
    page.locator('[data-test="versions"] a', has_text="mine 1.0.0").click()
    rows = pages.at(page, "devices").locator("tbody tr")
    expect(rows).to_have_count(DEVICES)
    expect(rows.first).to_contain_text("Confirmed")
