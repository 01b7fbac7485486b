"""A line from devices' mean confidence to their accuracy, and how well it is known. Bare Python.

Its slope is near 1 unless devices show another one: a normal prior of 1 +- 0.5. Calibrated models gain a
point of accuracy with a point of confidence; where devices hardly differ, an unbounded slope would be that of
chance alone. The interval widens with the distance from where the line was fitted. It takes devices for
independent of each other, and for like those that the line was fitted over: people whom none of those wore
are not in it (`python -m tests.bench.estimate`).

Sources: D. Guillory, V. Shankar, S. Ebrahimi, T. Darrell, L. Schmidt, Predicting with confidence on unseen
distributions, ICCV 2021, for the difference of confidences (slope 1); the line is Bayesian linear regression
with the slope's prior alone, as in C. M. Bishop, Pattern Recognition and Machine Learning (2006), 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fleet.telemetry.intervals import t_quantile

SLOPE: Final = 1.0
SLOPE_SPREAD: Final = 0.5


@dataclass(frozen=True)
class Line:
    """accuracy = intercept + slope * confidence, both in [0, 1], and how well that is known.

    centre: mean confidence of the devices it was fitted over. slope_variance: of the slope. residual:
    standard deviation of devices' accuracy around it. devices: those.
    """

    intercept: float
    slope: float
    centre: float
    slope_variance: float
    residual: float
    devices: int

    def at(self, confidence: float) -> float:
        """The estimate, which may lie outside [0, 1] far from the centre."""
        return self.intercept + self.slope * confidence

    def variance(self, confidence: float) -> float:
        """Variance of the line itself there."""
        return self.residual**2 / self.devices + (confidence - self.centre) ** 2 * self.slope_variance

    @property
    def quantile(self) -> float:
        """Of Student's t, for a 95 % interval."""
        return t_quantile(max(1, self.devices - 2))


def fit(points: Sequence[tuple[float, float]]) -> Line:
    """The line of devices' (confidence, accuracy); each device counts alike. At least 3 points."""
    x, y = np.array(points, dtype=np.float64).T
    centre, middle = float(x.mean()), float(y.mean())
    dx, dy = x - centre, y - middle
    sxx, sxy = float(dx @ dx), float(dx @ dy)
    plain = sxy / sxx if sxx > 0 else SLOPE
    noise = float(((dy - plain * dx) ** 2).sum()) / (len(x) - 2)
    noise = max(noise, 1e-8)  # labels that all agree leave no noise; nothing is known that well
    precision = sxx / noise + 1 / SLOPE_SPREAD**2
    slope = (sxy / noise + SLOPE / SLOPE_SPREAD**2) / precision
    residual = math.sqrt(max(noise, float(((dy - slope * dx) ** 2).sum()) / (len(x) - 2)))
    return Line(middle - slope * centre, slope, centre, 1 / precision, residual, len(x))
