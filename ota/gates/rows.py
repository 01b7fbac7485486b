"""The form of a gate row, the same for every rule: what pages, REST and evidence show."""

from __future__ import annotations

import math
from typing import Any

from ota.choices import Verdict

LARGEST = 300.0
"""log10: an e-value is printed up to 1e300."""
Row = dict[str, Any]


def make_row(
    rule: str,
    label: str,
    verdict: Verdict,
    text: str,
    *,
    now: float | None,
    limit: float,
    n: int,
    interval: list[float | None] | list[float] | None = None,
    automatic: bool = False,
) -> Row:
    """{rule, label, now, limit, n, pairs, missing, interval, verdict, text, automatic}, plain JSON."""
    return {
        "rule": rule,
        "label": label,
        "now": now,
        "limit": limit,
        "n": n,
        "pairs": None,
        "missing": 0,
        "interval": interval,
        "verdict": str(verdict),
        "text": text,
        "automatic": automatic,
    }


def number(log: float) -> float:
    """exp(log), bounded so that JSON and pages can hold it."""
    return float(10.0 ** max(-LARGEST, min(LARGEST, log / math.log(10.0))))
