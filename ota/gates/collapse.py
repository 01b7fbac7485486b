"""Devices that fell far below their own history: the harm that clipping hides from the comparison.

One broken device moves a clipped process by one step only; here it counts as a failure of the model, which
goes through Wilson like any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

FALL = 0.15
SIGNIFICANCE = 0.001
LEAST_HISTORY = 20


def is_collapsed(mean: float, n: int, history: float, n_history: int) -> bool:
    """True when a device fell by more than 15 points and chance alone does that in less than 1 of 1,000.

    mean, history: shares in [0, 1] over n and n_history outcomes. The chance is the exact binomial tail of
    its right outcomes at its own history, that history moved by half an outcome away from 0 and 1.
    """
    if n < 1 or n_history < LEAST_HISTORY or not mean - history < -FALL:
        return False
    p = (history * n_history + 0.5) / (n_history + 1)
    return _binomial_cdf(round(mean * n), n, p) < SIGNIFICANCE


def collapsed(metrics: Iterable[Mapping[str, Any]]) -> set[str]:
    """Wave devices of accuracy pairs that collapsed. Pairs of format 1 carry no counts and have none."""
    return {
        pair["wave"]
        for metric in metrics
        if metric["metric"] == "accuracy" and metric["kind"] in ("proxy", "delayed")
        for pair in metric["pairs"]
        if pair.get("n1") and is_collapsed(pair["y1"], pair["n1"], pair["x1"], pair["h1"])
    }


def _binomial_cdf(k: int, n: int, p: float) -> float:
    """P(Bin(n, p) <= k). A longer count than 5,000 outcomes uses the normal tail, far inside its validity."""
    if n > 5_000:
        z = (k + 0.5 - n * p) / math.sqrt(n * p * (1 - p))
        return 0.5 * math.erfc(-z / math.sqrt(2))
    log_p, log_q, top = math.log(p), math.log1p(-p), math.lgamma(n + 1)
    logs = [
        top - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * log_p + (n - i) * log_q for i in range(k + 1)
    ]
    highest = max(logs)
    return min(1.0, math.exp(highest) * math.fsum(math.exp(value - highest) for value in logs))
