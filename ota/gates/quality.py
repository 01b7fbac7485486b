"""Quality gate: two e-processes over pairs of devices, one for harm and one for non-inferiority.

D_t = (y0 - x0) - (y1 - x1) is the harm that pair t shows: how much less the wave device gained over its own
history than its control partner. Each pair multiplies a process by 2 / (1 + exp(-2 * scale * clip(D))), an
odd function of the difference, so that under a difference symmetric around the margin the process is a
non-negative martingale and exceeds 1/a with probability at most a, however often it is looked at (Ville's
inequality; de la Peña's symmetric case; Ramdas et al. on sign-symmetric e-processes). The device is the unit:
outcomes of one device are correlated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
MOST_PAIRS = 10_000
_STEP = 1e-4


@dataclass(frozen=True)
class Settings:
    """Clips and scales that a process averages over; evidence stores them, so that it recomputes for ever."""

    clips: tuple[float, ...]
    scales: tuple[float, ...]

    def to_json(self) -> dict[str, list[float]]:
        """As `of_json` reads it."""
        return {"clips": list(self.clips), "scales": list(self.scales)}

    @classmethod
    def of_json(cls, data: Mapping[str, Sequence[float]] | None) -> Settings:
        """The stored settings; evidence of format 1 names none and used GATES_1."""
        return cls(tuple(data["clips"]), tuple(data["scales"])) if data else GATES_1


GATES_1 = Settings((0.05, 0.1, 0.2), (8.0, 16.0, 32.0))
"""What evidence of code version gates-1 was judged with."""
PRODUCTION = Settings((0.05, 0.1, 0.2), (10.0, 24.0))
"""Chosen by tests/bench/gates.py: at least as strong as GATES_1 in every row measured."""


def log_process(excess: Floats | Sequence[float], settings: Settings = PRODUCTION) -> Floats:
    """Logarithm of the process after each pair.

    excess: float64, (..., n_pairs), D - margin for harm or margin - D for non-inferiority, in maturity order.
    Returns float64 of the same shape, (..., t): log of the mean over clips and scales of the product up to t.
    Raises ValueError for a NaN or a difference outside [-3, 3]: D in [-2, 2] and a margin in [0, 1].
    """
    values = np.asarray(excess, dtype=np.float64)
    if not np.all(np.abs(values) <= 3.0):  # also false for NaN
        raise ValueError("a pair difference is not a number or outside [-2, 2]")
    terms = []
    for clip in settings.clips:
        clipped = np.clip(values, -clip, clip)
        for scale in settings.scales:
            terms.append(np.cumsum(math.log(2.0) - np.logaddexp(0.0, -2.0 * scale * clipped), axis=-1))
    stacked: Floats = np.logaddexp.reduce(np.stack(terms), axis=0) - math.log(len(terms))
    return stacked


def harm(differences: Sequence[float], halt_margin: float, settings: Settings = PRODUCTION) -> list[float]:
    """log E_t for t = 1..n: evidence that the candidate is worse by more than `halt_margin`."""
    return _path([d - halt_margin for d in differences], settings)


def non_inferiority(
    differences: Sequence[float], promote_margin: float, settings: Settings = PRODUCTION
) -> list[float]:
    """log N_t for t = 1..n: evidence that the candidate is not worse by `promote_margin`."""
    return _path([promote_margin - d for d in differences], settings)


def interval(
    differences: Sequence[float], alpha: float, alpha_p: float, settings: Settings = PRODUCTION
) -> tuple[float | None, float | None]:
    """Drop that the pairs support: (at least, at most), shares in [-1, 1]; None is "not bounded yet".

    Lower: largest margin that the harm process still rejects at 1/alpha. Upper: least margin that the
    non-inferiority process proves at 1/alpha_p.
    """
    if not differences:
        return None, None
    return (
        _bisect(differences, sign=1, limit=-math.log(alpha), settings=settings),
        _bisect(differences, sign=-1, limit=-math.log(alpha_p), settings=settings),
    )


@lru_cache(maxsize=128)
def least_pairs(promote_margin: float, alpha_p: float) -> int | None:
    """Pairs that prove non-inferiority when no pair shows any difference; None when 10,000 do not."""
    limit = -math.log(alpha_p)
    path = log_process(np.full(MOST_PAIRS, promote_margin))
    reached = np.flatnonzero(path >= limit)
    return int(reached[0]) + 1 if reached.size else None


def _path(excess: list[float], settings: Settings) -> list[float]:
    return [float(value) for value in log_process(excess, settings)] if excess else []


def _bisect(differences: Sequence[float], *, sign: int, limit: float, settings: Settings) -> float | None:
    """The margin where the process of `sign * (D - margin)` crosses `limit`, to 1e-4, on [-1, 1]."""
    values = np.asarray(differences, dtype=np.float64)

    def rejects(margin: float) -> bool:
        return float(log_process(sign * (values - margin), settings)[-1]) >= limit

    inside, outside = (-1.0, 1.0) if sign > 0 else (1.0, -1.0)
    if not rejects(inside):
        return None
    if rejects(outside):
        return outside
    while abs(outside - inside) > _STEP:
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if rejects(middle) else (inside, middle)
    return inside
