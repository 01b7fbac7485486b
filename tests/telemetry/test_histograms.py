"""A quantile read from latency bins is within 1 % of the one that numpy finds in the times themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.mqtt.codec.sketch import TIME_EDGES
from fleet.telemetry import histograms
from tests.vectors.sketches import time_bin

BOUND = 0.01 * (1 + 1e-4)
"""Bins grow by 66,860 / 65,536, a hair over 1.0202: half of that is 1.00003 %."""
LONGEST_US = (TIME_EDGES[-1] >> 16) - 1


@given(
    times=st.lists(st.integers(32, LONGEST_US) | st.integers(32, 5000), min_size=1, max_size=200),
    percent=st.sampled_from([0.001, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 99.999]) | st.floats(0.01, 99.99),
)
def test_a_quantile_is_within_one_percent_of_the_measured_one(times: list[int], percent: float) -> None:
    counts = histograms.from_bins(histograms.LATENCY, [(time_bin(us), 1) for us in times])
    got = histograms.quantile_us(counts, percent)
    assert got is not None
    # Where a share is met exactly, rounding percent / 100 decides between two neighbours: either is right.
    around = np.quantile(
        times, np.clip([percent / 100 - 1e-12, percent / 100, percent / 100 + 1e-12], 0, 1),
        method="inverted_cdf",
    )  # fmt: skip
    assert min(abs(got - exact) / exact for exact in around) <= BOUND


@given(st.lists(st.integers(0, 60_000_000), max_size=50), st.lists(st.integers(0, 60_000_000), max_size=50))
def test_histograms_of_two_devices_add_up_to_that_of_both(one: list[int], other: list[int]) -> None:
    def of(times: list[int]) -> histograms.Counts:
        return histograms.from_bins(histograms.LATENCY, [(time_bin(us), 1) for us in times])

    both = of(one)
    histograms.add_packed(both, *histograms.packed(of(other)))
    assert np.array_equal(both, of(one + other))
    assert both.sum() == len(one) + len(other)


def test_what_a_bin_stands_for_is_as_far_from_both_of_its_ends() -> None:
    edges = np.array(TIME_EDGES, dtype=float) / 65_536
    below = histograms.LATENCY_US[:-1] / edges[:-1] - 1
    above = 1 - histograms.LATENCY_US[:-1] / edges[1:]
    assert below.max() <= BOUND
    assert above.max() <= BOUND


def test_nothing_has_no_quantile_and_one_value_has_all() -> None:
    assert histograms.quantile_us(histograms.empty(histograms.LATENCY), 50) is None
    counts = histograms.from_bins(histograms.LATENCY, [(time_bin(1000), 1)])
    assert {round(histograms.quantile_us(counts, p) or 0) for p in (0.001, 50, 99.999)} == {
        round(histograms.LATENCY_US[time_bin(1000)])
    }
    assert histograms.LATENCY_US[time_bin(1000)] == pytest.approx(1000, rel=BOUND)
