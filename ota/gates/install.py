"""Install-failure gates: Wilson's bound per class of failure (`ota.gates.wilson`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ota.choices import Verdict
from ota.gates.rows import Row, make_row
from ota.gates.wilson import LEAST_DEVICES, halts, wilson_interval

LABELS = {
    "model": "Failed on the model",
    "delivery": "Failed in delivery",
    "compat": "Refused as incompatible",
}


def install_row(name: str, hard: Mapping[str, Any], *, collapsed: int = 0) -> Row:
    """One class of failure against its limit. collapsed: confirmed devices that fell far below their own
    history (`ota.gates.collapse`); they count as failures of the model.
    """
    limit = hard["limits"][name]
    failed = hard["failed"].get(name, 0)
    # a device that failed before its trial counts in the n of its own class only
    n = hard["exposed"] + (failed if name != "model" else hard.get("unexposed_model", 0))
    if name == "model":
        failed = min(n, failed + collapsed)
    text = f"{failed} of {n} devices"
    if name == "model" and collapsed:
        text += f", {collapsed} of them collapsed after they confirmed"
    return wilson_row(f"install:{name}", LABELS[name], failed, n, limit, text)


def wilson_row(rule: str, label: str, failed: int, n: int, limit: float, text: str) -> Row:
    """A failure ratio judged by Wilson's lower bound: FAIL above the limit, PASS from 5 devices on."""
    low, high = wilson_interval(failed, n)
    tripped = halts(failed, n, limit)
    verdict = Verdict.FAIL if tripped else Verdict.PASS if n >= LEAST_DEVICES else Verdict.INCONCLUSIVE
    return make_row(
        rule,
        label,
        verdict,
        f"{text}; at least {low:.1%} for certain, limit {limit:.0%}",
        now=failed / n if n else None,
        limit=limit,
        n=n,
        interval=[low, high],
        automatic=tripped,
    )
