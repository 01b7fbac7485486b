"""Histograms of sketches: which bins there are, how they are kept, and quantiles from them.

Latency bins are the device's own (SPEC.md section 7): the same integer edges on both sides, so that no count
is ever moved between bins and histograms add up exactly. Bins grow by 1.0202: a quantile read from them is
within 1 % of the measured time it stands for, between 32 µs and 16 s, as long as the sketch did not pair up
bins; with 2^s bins together, within about 2^s + 1 %.
"""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import ceil
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fleet.mqtt.codec.sketch import BINS, CLASS_BINS, TIME_BINS, TIME_EDGES

Counts = npt.NDArray[np.int64]

LATENCY, CLASS, CONFIDENCE, DISTANCE = 1, 2, 3, 4
"""metric of a stored histogram: time of an inference; top class (the last: every class from 63 on); top score
in tenths; anomaly score between the clean deciles of the manifest."""
SIZES: Final[Mapping[int, int]] = {LATENCY: TIME_BINS, CLASS: CLASS_BINS, CONFIDENCE: BINS, DISTANCE: BINS}
HOUR_S: Final = 3600
DAY_S: Final = 86_400
_GROWTH: Final = TIME_EDGES[1] / TIME_EDGES[0]

_EDGES_US: Final = np.array(TIME_EDGES, dtype=np.float64) / 65_536
LATENCY_US: Final = _EDGES_US * 2 * _GROWTH / (1 + _GROWTH)
"""What a bin stands for, float64, (657,), µs: the value with the same relative distance from both ends."""


def empty(metric: int) -> Counts:
    """A histogram of a metric with nothing in it: int64, (bins,)."""
    return np.zeros(SIZES[metric], dtype=np.int64)


def packed(counts: Counts) -> tuple[int, bytes]:
    """(first bin, counts from there to the last that is not 0, 8 bytes little-endian each).

    Eight bytes, because a day of a large fleet passes 2^32 inferences in one bin.
    """
    (used,) = np.nonzero(counts)
    if not len(used):
        return 0, b""
    return int(used[0]), counts[used[0] : used[-1] + 1].astype("<i8").tobytes()


def add_packed(counts: Counts, first_bin: int, data: bytes) -> None:
    """Add a stored histogram to `counts`, in place. Raises ValueError when it is not of that size."""
    stored = np.frombuffer(data, dtype="<i8")
    if first_bin < 0 or first_bin + len(stored) > len(counts):
        raise ValueError(f"bins {first_bin}..{first_bin + len(stored) - 1} of {len(counts)}")
    counts[first_bin : first_bin + len(stored)] += stored


def from_bins(metric: int, bins: Iterable[tuple[int, Any]]) -> Counts:
    """The histogram of these (bin, count)."""
    counts = empty(metric)
    for number, count in bins:
        counts[number] += int(count)
    return counts


def quantile_us(counts: Counts, percent: float) -> float | None:
    """The latency that `percent` of the inferences do not exceed, in µs; None without any.

    percent: in (0, 100). The definition is numpy's `inverted_cdf`: the smallest measured value at or below
    which that share lies, here told as what its bin stands for.
    """
    total = int(counts.sum())
    if not total:
        return None
    rank = max(1, ceil(Fraction(repr(float(percent))) * total / 100))
    return float(LATENCY_US[int(np.searchsorted(np.cumsum(counts), rank))])
