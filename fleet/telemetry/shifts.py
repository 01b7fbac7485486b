"""Has the input, the mix of classes or the embedding of one device's window moved? Pure functions.

A window is what one sketch tells. It is compared with a reference: what windows of the same model run on the
same device class looked like when they were clean. No one statistic sees every fault (an offset hardly shows
in a gain's statistic and the other way round), so three are judged, each at a third of ALPHA:

    input      per channel: |mean - mean_ref| / spread of clean window means, |ln(variance / variance_ref)|
               against ln 2, and shares of elements at an end of the type or off the contract
    class      PSI of the top classes, as `psi.psi`
    distance   PSI of anomaly scores between the clean deciles of the manifest

Each is told as a ratio to its limit: above 1 it is flagged. Confidence is kept beside them and flags nothing:
an offset took accuracy from .81 to .31 while mean confidence rose from .88 to .92.

Differences from plain textbook forms, each with its reason:

- Centre and spread of the reference are medians (spread = 1.4826 x median distance from the median), so that
  a tenth of faulty devices among the windows it is made of does not move it.
- The spread is that of windows of many devices. Devices differ (each is worn by somebody else), so it is
  known from as many values as there are devices: limits are quantiles of Student's t, not of the normal.
- A mean has to move by LEAST_SHIFT input standard deviations, a share by LEAST_SHARE: boards that are all
  alike have next to no spread, and a shift too small to matter is no drift.
- PSI of a device's window is not judged by chance and a median inflation alone: that let 21 of 100 clean
  devices alarm, because devices that differ in few ways have a heavier tail than chi2(B - 1) (measured by
  `tests/bench/drift.py`). The cube root of a scaled chi2 of any degrees of freedom is nearly normal, so the
  limit is the cube of its median plus a quantile of t times its spread over the clean windows, and never
  below what chance alone makes.

Sources: B. Yurdakul and J. Naranjo, Journal of Risk Model Validation 14 (2020) for PSI; F. R. Hampel, J. Am.
Stat. Assoc. 69 (1974) for the median distance; E. B. Wilson and M. M. Hilferty, PNAS 17 (1931) for the cube
root; M. Abramowitz and I. Stegun, Handbook of Mathematical Functions, 26.7.5, for the quantile of t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fleet.telemetry import psi
from fleet.telemetry.histograms import CLASS, DISTANCE, SIZES, Counts
from fleet.telemetry.psi import ALPHA, LEAST, STATISTICS

Floats = npt.NDArray[np.float64]

LEAST_SHIFT: Final = 0.25
"""Input standard deviations of the reference that a mean moves at least."""
LEAST_SHARE: Final = 0.01
"""Share of elements at an end of the type, or off the contract, that a window may have."""
LOG_RATIO: Final = math.log(2)
"""How much the logarithm of a variance may move."""
LEAST_DEVICES: Final = 8
LEAST_WINDOWS: Final = 40
"""Devices and windows that a reference is made of at least."""
TAIL: Final = 1.2
"""How much wider than its spread the cube root of PSI is taken to be: devices differ with a heavier tail than
a normal one. Without it 1.5 of 100 clean devices alarm (tests/bench/drift.py decides).
"""
MEAN, VARIANCE, SATURATED, OUT = 1, 2, 3, 4
"""Which moment of the input moved most."""
_MAD: Final = 1.4826
_Q8: Final = 256.0


@dataclass(frozen=True)
class Moments:
    """Of a window's input: float64 (channels,) each.

    mean, variance: in steps of the tensor's scale, and their square. saturated, out: shares of elements at an
    end of the type, and beyond it or no number.
    """

    mean: Floats
    variance: Floats
    saturated: Floats
    out: Floats


@dataclass(frozen=True)
class Seen:
    """What a sketch tells of its window. n: inferences. confidence: mean top score in [0, 1], from tenths.

    Parts that the sketch does not have are None.
    """

    n: int
    moments: Moments | None = None
    classes: Counts | None = None
    distances: Counts | None = None
    confidence: float | None = None


def seen_of(n: int, body: Mapping[str, Any]) -> Seen:
    """A stored sketch (`samples.sketch_body`) as floats."""
    inputs, moments = body.get("inputs"), None
    if inputs and inputs["elements"] and inputs["channels"]:
        rows = [(c["mean_q8"], c["variance_q8"], c["saturated"], c["out"]) for c in inputs["channels"]]
        mean, variance, saturated, out = np.array(rows, dtype=np.float64).T
        elements = inputs["elements"]
        moments = Moments(mean / _Q8, variance / _Q8, saturated / elements, out / elements)
    top = body.get("conf_hist")
    return Seen(
        n,
        moments,
        classes=_counts(CLASS, body.get("class_hist")),
        distances=_counts(DISTANCE, body.get("embed_hist")),
        confidence=float(np.dot(top, np.arange(10) + 0.5) / 10 / sum(top)) if top and sum(top) else None,
    )


def _counts(metric: int, given: Sequence[int] | None) -> Counts | None:
    if not given or not any(given):
        return None
    counts = np.zeros(SIZES[metric], dtype=np.int64)
    counts[: len(given)] = given
    return counts


@dataclass(frozen=True)
class Mix:
    """A reference of a histogram. centre, spread: of the cube root of PSI over its own windows, which have
    typical_n inferences (median).
    """

    counts: Counts
    centre: float
    spread: float
    typical_n: int


@dataclass(frozen=True)
class UsualMoments:
    """Moments of clean windows: float64 (channels,) each, units as in `Moments`.

    mean, log_variance (natural logarithm): medians, each with its spread over windows. saturated, out: limits
    of the shares.
    """

    mean: Floats
    mean_spread: Floats
    log_variance: Floats
    log_spread: Floats
    saturated: Floats
    out: Floats


@dataclass(frozen=True)
class Reference:
    """What clean windows look like. n: inferences. A part is None when too few windows have it."""

    windows: int
    devices: int
    n: int
    moments: UsualMoments | None = None
    classes: Mix | None = None
    distances: Mix | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class Judgement:
    """One window against its reference: statistics as ratios to their limits, None where it cannot be told.

    channel, moment: of the input that moved most (`MEAN`..`OUT`). psi and limit of class and distance as they
    are. worst: the largest ratio, 0 when nothing could be judged.
    """

    n: int
    input: float | None = None
    channel: int | None = None
    moment: int | None = None
    class_psi: float | None = None
    class_limit: float | None = None
    distance_psi: float | None = None
    distance_limit: float | None = None
    confidence: float | None = None

    @property
    def ratios(self) -> dict[str, float]:
        """Each statistic that was judged, by name, in the order that they are told."""
        found = {"input": self.input}
        for name, value, limit in (
            ("class", self.class_psi, self.class_limit),
            ("distance", self.distance_psi, self.distance_limit),
        ):
            found[name] = value / limit if value is not None and limit else None
        return {name: ratio for name, ratio in found.items() if ratio is not None}

    @property
    def worst(self) -> float:
        """The largest ratio to a limit."""
        return max(self.ratios.values(), default=0.0)


def t_quantile(probability: float, df: int) -> float:
    """Quantile of Student's t in the upper tail, at a probability above 0.5.

    df: at least 5. Within 8 % down to a tail of 1e-5, from df 9 on within 2 %.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**2 + 1) / 4,
        (5 * z**4 + 16 * z**2 + 3) / 96,
        (3 * z**6 + 19 * z**4 + 17 * z**2 - 15) / 384,
        (79 * z**8 + 776 * z**6 + 1482 * z**4 - 1920 * z**2 - 945) / 92_160,
    )
    return float(z * (1 + sum(term / df ** (power + 1) for power, term in enumerate(terms))))


def reference_of(windows: Sequence[tuple[str, Seen]]) -> Reference | None:
    """The reference that (device id, window) make; None with fewer than LEAST_WINDOWS or LEAST_DEVICES.

    Windows of fewer than LEAST inferences do not count.
    """
    kept = [(device_id, seen) for device_id, seen in windows if seen.n >= LEAST]
    devices = len({device_id for device_id, _ in kept})
    if len(kept) < LEAST_WINDOWS or devices < LEAST_DEVICES:
        return None
    all_seen = [seen for _, seen in kept]
    sure = [seen.confidence for seen in all_seen if seen.confidence is not None]
    return Reference(
        len(kept),
        devices,
        sum(seen.n for seen in all_seen),
        _usual([seen.moments for seen in all_seen if seen.moments is not None]),
        classes=_mix([seen.classes for seen in all_seen if seen.classes is not None]),
        distances=_mix([seen.distances for seen in all_seen if seen.distances is not None]),
        confidence=float(np.median(sure)) if sure else None,
    )


def _usual(windows: Sequence[Moments]) -> UsualMoments | None:
    """Centres and spreads of the moments of windows that have as many channels as most of them."""
    if len(windows) < LEAST_WINDOWS:
        return None
    sizes = [len(one.mean) for one in windows]
    channels = max(set(sizes), key=sizes.count)
    same = [one for one in windows if len(one.mean) == channels]
    return UsualMoments(
        *_centre(np.array([one.mean for one in same])),
        *_centre(np.array([_log(one.variance) for one in same])),
        _limit(np.array([one.saturated for one in same])),
        _limit(np.array([one.out for one in same])),
    )


def _limit(shares: Floats) -> Floats:
    """What a share may be; not a high quantile of the windows, which a tenth of faulty devices would set."""
    middle, spread = _centre(shares)
    limit: Floats = np.maximum(LEAST_SHARE, middle + 4 * spread)
    return limit


def _centre(values: Floats) -> tuple[Floats, Floats]:
    """Median and robust spread over the first axis."""
    middle: Floats = np.median(values, axis=0)
    spread: Floats = _MAD * np.median(np.abs(values - middle), axis=0)
    return middle, spread


def _log(variance: Floats) -> Floats:
    """Logarithm of a variance; one that is 0 counts as a 256th of a step squared, the least that is told."""
    log: Floats = np.log(np.maximum(variance, 1 / _Q8))
    return log


def _mix(histograms: Sequence[Counts]) -> Mix | None:
    """The reference of windows' histograms: the median share of each bin, as many counts as there were."""
    if len(histograms) < LEAST_WINDOWS:
        return None
    rows = np.array(histograms, dtype=np.float64)
    shares = np.median(rows / rows.sum(axis=1, keepdims=True), axis=0)
    if not shares.sum():
        return None
    counts = np.rint(shares / shares.sum() * rows.sum()).astype(np.int64)
    bins = psi.bins_of(counts, *histograms)
    roots = np.cbrt([psi.psi(counts[:bins], one[:bins]) for one in histograms])
    centre, spread = _centre(roots)
    return Mix(counts, float(centre), float(spread), int(np.median(rows.sum(axis=1))))


def judge(seen: Seen, reference: Reference) -> Judgement:
    """Compare a window with its reference. A window of fewer than LEAST inferences is not judged at all."""
    if seen.n < LEAST:
        return Judgement(seen.n, confidence=seen.confidence)
    ratio, channel, moment = _input(seen.moments, reference)
    class_psi, class_limit = _psi(seen.classes, reference.classes, reference.devices)
    distance_psi, distance_limit = _psi(seen.distances, reference.distances, reference.devices)
    return Judgement(
        seen.n, ratio, channel, moment, class_psi, class_limit, distance_psi, distance_limit, seen.confidence
    )


def _psi(seen: Counts | None, reference: Mix | None, devices: int) -> tuple[float | None, float | None]:
    if seen is None or reference is None:
        return None, None
    n = int(seen.sum())
    if n < LEAST:
        return None, None
    bins, known = psi.bins_of(reference.counts, seen), int(reference.counts.sum())
    factor = t_quantile(1 - ALPHA / STATISTICS, max(5, devices - 1))
    usual = (reference.centre + factor * TAIL * reference.spread) ** 3
    shorter = (1 / known + 1 / n) / (1 / known + 1 / reference.typical_n)  # chance moves a short window more
    limit = max(psi.psi_limit(bins, known, n), usual * max(1.0, shorter))
    return psi.psi(reference.counts[:bins], seen[:bins]), limit


def _input(seen: Moments | None, reference: Reference) -> tuple[float | None, int | None, int | None]:
    """(largest ratio to a limit, its channel, its moment)."""
    usual = reference.moments
    if seen is None or usual is None or len(seen.mean) != len(usual.mean):
        return None, None, None
    tests = 2 * len(usual.mean)  # a mean and a variance of each channel, both ways
    factor = t_quantile(1 - ALPHA / STATISTICS / 2 / tests, max(5, reference.devices - 1))
    least = LEAST_SHIFT * np.exp(usual.log_variance / 2)
    moved = np.abs(_log(seen.variance) - usual.log_variance)
    ratios = np.array(
        [
            np.abs(seen.mean - usual.mean) / np.maximum(factor * usual.mean_spread, least),
            moved / np.maximum(factor * usual.log_spread, LOG_RATIO),
            seen.saturated / usual.saturated,
            seen.out / usual.out,
        ]
    )
    moment, channel = np.unravel_index(int(ratios.argmax()), ratios.shape)
    return float(ratios[moment, channel]), int(channel), int(moment) + MEAN
