"""Proof that installing is safe enough: few failures are no proof, many devices without one are.

With prior Beta(1, 0) the posterior after k failures of n is Beta(1 + k, n - k), whose mass above r equals the
exact binomial tail P(Bin(n, r) <= k): the one-sided test of Clopper and Pearson (Biometrika 26, 1934).
"""

from __future__ import annotations

import math
from functools import lru_cache

from ota.choices import Verdict
from ota.gates.rows import Row, make_row

ALPHA = 0.05
MOST_DEVICES = 10_000_000


def tail(failed: int, executed: int, ratio: float) -> float:
    """P(r > ratio) after `failed` of `executed` devices, in [0, 1].

    1.0 without a device, and when all of them failed. Raises ValueError when the counts contradict each other
    or ratio is outside (0, 1).
    """
    if not 0 <= failed <= executed:
        raise ValueError(f"{failed} failed of {executed} executed")
    if not 0.0 < ratio < 1.0:
        raise ValueError(f"ratio is {ratio}, it must lie in (0, 1)")
    if failed == executed:
        return 1.0
    log_p, log_q = math.log(ratio), math.log1p(-ratio)
    top = math.lgamma(executed + 1)
    terms = [
        top - math.lgamma(i + 1) - math.lgamma(executed - i + 1) + i * log_p + (executed - i) * log_q
        for i in range(failed + 1)
    ]
    highest = max(terms)
    return min(1.0, math.exp(highest) * math.fsum(math.exp(term - highest) for term in terms))


@lru_cache(maxsize=256)
def least_devices(ratio: float, *, failed: int = 0, alpha: float = ALPHA) -> int | None:
    """Least number of devices that proves r <= ratio with `failed` failures; None when ten million do not."""
    low, high = failed + 1, failed + 1
    while tail(failed, high, ratio) > alpha:
        low, high = high + 1, high * 2
        if high > MOST_DEVICES:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if tail(failed, middle, ratio) > alpha else (low, middle)
    return low


def proof_row(failed: int, executed: int, ratio: float, *, extensions: int = 0) -> Row:
    """PASS when P(r > ratio) is at most alpha, divided by one more than the number of earlier looks."""
    alpha = ALPHA / (1 + extensions)
    left = tail(failed, executed, ratio)
    verdict = Verdict.PASS if left <= alpha else Verdict.INCONCLUSIVE
    needed = least_devices(ratio, failed=failed, alpha=alpha)
    text = f"{failed} of {executed} devices failed; the chance that more than {ratio:.1%} do is {left:.2%}"
    if verdict != Verdict.PASS and needed is not None:
        text += f", {needed} devices with {failed} failures would prove it"
    return make_row("proof:model", "Proof of few failures", verdict, text, now=left, limit=alpha, n=executed)
