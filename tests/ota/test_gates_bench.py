"""The short form of tests/bench/gates.py: limits hold, and no population breaks the guarantee."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ota.planning import production_alpha
from tests.bench import dead_update, rivals
from tests.bench.gates import halted
from tests.bench.populations import POPULATIONS, Population, differences, looks

RUNS = 400
S2 = POPULATIONS[0]


def test_accuracy_halts_at_fifty_in_the_first_gated_wave() -> None:
    assert production_alpha() == pytest.approx(0.02)


@pytest.mark.parametrize("population", POPULATIONS, ids=lambda one: one.name)
def test_without_effect_hardly_a_rollout_halts(population: Population) -> None:
    """Ville: at most 2 %, in every population; the longest run of pairs covers the shorter ones."""
    d, _ = differences(population, 200, 0.0, RUNS, np.random.default_rng(4))
    share = halted(d, production_alpha())
    assert share <= 0.02 + 3.29 * math.sqrt(0.02 * 0.98 / RUNS)
    assert share <= 0.05


def test_five_points_with_fifty_devices_are_caught() -> None:
    d, _ = differences(S2, 50, 0.05, RUNS, np.random.default_rng(5))
    assert halted(d, production_alpha()) >= 0.95


def test_a_pair_that_dropped_out_changes_nothing() -> None:
    d, entered = differences(Population("silent", silent=0.5), 60, 0.05, 50, np.random.default_rng(6))
    assert 0.2 < entered.mean() < 0.3
    one = d[0][entered[0]]
    assert halted(d[:1], 0.02) == halted(one[None], 0.02)


def test_peeking_at_a_pooled_test_halts_falsely_all_the_time() -> None:
    given = looks(S2, 25, 0.0, RUNS, np.random.default_rng(7))
    assert rivals.pooled_z(given).mean() > 0.25
    assert rivals.device_differences(given).mean() < 0.06


def test_a_dead_update_stops_after_five_devices_and_those_under_way() -> None:
    assert rivals.wilson_broken() == 5
    assert [rivals.hawkbit_broken(n) for n in (100, 1_000, 10_000)] == [11, 101, 1_001]
    found = dead_update.simulate(20, runs=100, seed=1)
    assert found["within"] >= 0.95
    assert found["ran_it_median"] <= 25
