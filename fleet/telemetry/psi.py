"""Population stability index: how far one histogram is from another, and how far chance alone takes it.

    PSI = sum (p - q) ln(p / q), both sides with 0.5 added to every bin.

With no change PSI is about chi2(B - 1) (1 / n_ref + 1 / n_win) for B bins, so the limit follows from how much
was seen, instead of the usual 0.1 and 0.25. Windows that follow each other are alike, which makes clean ones
move more than that: limits are multiplied by the median inflation of the reference's own windows.

Sources: B. Yurdakul and J. Naranjo, Statistical properties of the population stability index, Journal of Risk
Model Validation 14 (2020); E. B. Wilson and M. M. Hilferty, PNAS 17 (1931), for the quantile of chi2.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

import numpy as np

from fleet.telemetry.histograms import Counts

ALPHA: Final = 0.001
"""Share of clean windows that may be flagged, shared out over the statistics that may alarm."""
STATISTICS: Final = 3
LEAST: Final = 200
"""Inferences that a window needs to be judged."""
OF, MANY = 5, 3
"""Drift is MANY flagged windows among the last OF that were judged."""
CLEAN_RATE: Final = 0.02
"""Share of clean devices that may drift (tests/bench/drift.py); more for certain is drift of many."""


def psi(reference: Counts, seen: Counts) -> float:
    """Population stability index of two histograms of the same bins; 0 when they are alike."""
    p, q = (
        (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
        for counts in (np.asarray(reference), np.asarray(seen))
    )
    return float(((p - q) * np.log(p / q)).sum())


def chi2_quantile(probability: float, df: int) -> float:
    """Quantile of chi2 with df >= 1 degrees of freedom; within 4 % in the upper half, from df 5 on 1 %."""
    part = 2 / (9 * df)
    return float(df * max(0.0, 1 - part + NormalDist().inv_cdf(probability) * math.sqrt(part)) ** 3)


def psi_limit(bins: int, n_reference: int, n_seen: int, *, alpha: float = ALPHA / STATISTICS) -> float:
    """PSI that a share alpha of windows exceeds although nothing changed. bins: at least 2."""
    return chi2_quantile(1 - alpha, bins - 1) * (1 / n_reference + 1 / n_seen)


def inflation(reference: Counts, windows: Sequence[Counts]) -> float:
    """How much more the reference's own windows move than chance alone makes them: median, at least 1."""
    ratios = []
    for one in windows:
        n = int(one.sum())
        if n >= LEAST:
            bins = bins_of(reference, one)
            expected = chi2_quantile(0.5, bins - 1) * (1 / int(reference.sum()) + 1 / n)
            ratios.append(psi(reference[:bins], one[:bins]) / expected)
    return max(1.0, float(np.median(ratios))) if ratios else 1.0


def bins_of(*found: Counts) -> int:
    """Bins up to the last one that any of the histograms uses, at least 2."""
    used = [int(np.flatnonzero(counts)[-1]) for counts in found if counts.any()]
    return max(2, *(last + 1 for last in used)) if used else 2
