"""Install-failure gate: is the failure ratio of the devices that ran the candidate too high for certain?"""

from __future__ import annotations

import math
from statistics import NormalDist

CONFIDENCE = 0.999
LEAST_DEVICES = 5


def wilson_lower_bound(failed: int, executed: int, *, confidence: float = CONFIDENCE) -> float:
    """Lowest failure ratio that `failed` out of `executed` devices still supports.

    failed, executed: devices (not inferences), 0 <= failed <= executed. confidence: one-sided, in (0, 1).
    Returns a ratio in [0, 1]; 0.0 when `executed` is 0: no evidence shows no harm, and passes no gate either.
    Raises ValueError when the counts contradict each other or confidence is outside (0, 1).
    Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927).
    """
    return _bounds(failed, executed, confidence)[0]


def wilson_interval(failed: int, executed: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Both bounds, each one-sided at `confidence`; (0.0, 1.0) without a device. ValueError as above."""
    return _bounds(failed, executed, confidence)


def halts(failed: int, executed: int, limit: float) -> bool:
    """True when at least 5 devices count and even the lower bound of their failure ratio is above `limit`."""
    return executed >= LEAST_DEVICES and wilson_lower_bound(failed, executed) > limit


def least_failures(executed: int, limit: float) -> int | None:
    """Least number of failures among `executed` devices that halts; None when not even all of them do."""
    return next((failed for failed in range(executed + 1) if halts(failed, executed, limit)), None)


def _bounds(failed: int, executed: int, confidence: float) -> tuple[float, float]:
    if not 0 <= failed <= executed:
        raise ValueError(f"{failed} failed of {executed} executed")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}, it must lie in (0, 1)")
    if executed == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(confidence)
    p, n = failed / executed, executed
    centre = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # rounding must not carry a bound past the ratio itself
    return max(0.0, min(p, (centre - spread) / scale)), min(1.0, max(p, (centre + spread) / scale))
