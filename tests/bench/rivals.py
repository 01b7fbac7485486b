"""Tests that other systems would use in place of the gate, each answering: in which runs does it halt?

Pooled z with peeking is what a dashboard with a p-value does. hawkBit's rule counts failed installations of a
group (`RolloutGroup`'s error condition). The mixture sequential test is Johari, Pekelis and Walsh's (2015).
Difference-in-differences per device at alpha / looks is the honest test with a fixed horizon (Bonferroni).
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fleet.telemetry.intervals import t_quantile
from ota.gates.wilson import least_failures
from tests.bench.populations import Floats, Looks

Bools = NDArray[np.bool_]


def pooled_z(given: Looks, alpha: float = 0.05) -> Bools:
    """One-sided z test on all labels at every look, as if they were independent and nobody had looked."""
    right0 = given.right0.sum(axis=1).cumsum(axis=-1).astype(float)
    right1 = given.right1.sum(axis=1).cumsum(axis=-1).astype(float)
    n = given.right0.shape[1] * given.labels * np.arange(1, given.right0.shape[2] + 1)
    p0, p1 = right0 / n, right1 / n
    pooled = (p0 + p1) / 2
    z = (p0 - p1) / np.sqrt(np.maximum(pooled * (1 - pooled) * 2 / n, 1e-12))
    return np.asarray((z > NormalDist().inv_cdf(1 - alpha)).any(axis=-1))


def device_differences(given: Looks, alpha: float = 0.05) -> Bools:
    """t test of the devices' changes against their own history, at alpha / looks each."""
    devices, n_looks = given.right0.shape[1], given.right0.shape[2]
    seen = given.labels * np.arange(1, n_looks + 1)
    u0 = given.right0.cumsum(axis=-1) / seen - given.history0[..., None]
    u1 = given.right1.cumsum(axis=-1) / seen - given.history1[..., None]
    spread = np.sqrt((u0.var(axis=1, ddof=1) + u1.var(axis=1, ddof=1)) / devices)
    t = (u0.mean(axis=1) - u1.mean(axis=1)) / np.maximum(spread, 1e-12)
    return np.asarray((t > _t_limit(2 * devices - 2, alpha / n_looks)).any(axis=-1))


def mixture_sequential(d: Floats, alpha: float = 0.025, tau: float = 0.05, settle: int = 5) -> Bools:
    """Mixture sequential probability ratio test on pair differences, variance estimated on the way.

    d: (runs, pairs). The prior of the effect is normal with deviation `tau`, halved to harm only; `settle`
    pairs are awaited for the variance. With an estimated variance its guarantee is approximate.
    """
    n = np.arange(1, d.shape[1] + 1)
    mean = d.cumsum(axis=1) / n
    variance = np.maximum((d**2).cumsum(axis=1) / n - mean**2, 1e-6) * n / np.maximum(n - 1, 1)
    ratio = 0.5 * np.log(variance / (variance + n * tau**2)) + n**2 * mean**2 * tau**2 / (
        2 * variance * (variance + n * tau**2)
    )
    is_over = (ratio >= math.log(1 / (2 * alpha))) & (mean > 0) & (n >= settle)
    return np.asarray(is_over.any(axis=1))


def fixed_horizon(d: Floats, alpha: float = 0.05) -> Bools:
    """One t test over all pairs at the end, and no look before it."""
    n = d.shape[1]
    t = d.mean(axis=1) / np.maximum(d.std(axis=1, ddof=1) / math.sqrt(n), 1e-12)
    return np.asarray(t > _t_limit(n - 1, alpha))


def hawkbit_broken(group: int, threshold: float = 0.10) -> int:
    """Devices broken before the error condition trips, when every installation fails one after another."""
    return math.floor(group * threshold) + 1


def wilson_broken(limit: float = 0.10) -> int:
    """The same for Wilson's lower bound, one device at a time."""
    return next(n for n in range(1, 1_000) if (least := least_failures(n, limit)) is not None and least <= n)


def _t_limit(degrees: int, alpha: float) -> float:
    """Quantile of Student's t, one-sided; `t_quantile` is the exact 95 % two-sided one, others follow Hill's
    expansion (Commun. ACM 13, 1970), good to 1e-3 from 4 degrees of freedom on.
    """
    if abs(alpha - 0.025) < 1e-12:
        return t_quantile(degrees)
    z = NormalDist().inv_cdf(1 - alpha)
    v = float(degrees)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
