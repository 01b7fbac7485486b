"""What axe finds on a page as it stands in the browser."""

from __future__ import annotations

from typing import Final

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

AXE: Final = Axe()
BAD: Final = ("serious", "critical")
EVERY_RULE: Final = {"resultTypes": ["violations"]}
COLOURS: Final = {**EVERY_RULE, "runOnly": ["color-contrast", "link-in-text-block"]}
"""Only what another theme can change."""


def found(page: Page, options: dict[str, object]) -> list[str]:
    """Serious and critical violations: rule, elements, and for colours what was measured.

    A page that was looked at before has axe in it already: half a megabyte of script is not parsed twice.
    """
    if page.evaluate("typeof axe === 'undefined'"):
        page.evaluate(AXE.axe_script)
    said = []
    for one in page.evaluate("options => axe.run(options)", options)["violations"]:
        if one["impact"] in BAD:
            for node in one["nodes"][:4]:
                why = [item["message"] for item in (*node["any"], *node["all"], *node["none"])]
                said.append(f"{one['id']}: {node['html'][:140]} {' '.join(why)[:200]}")
    return said
