"""The quality gate's e-processes: what they guarantee, what they catch, measured on simulated fleets.

Numbers are those of rollouts.md section 12 at reduced size (1,500 runs instead of 4,000), each inside the
binomial 99.9 % interval around the quoted share. Population: device accuracy N(.90, .04), effect sd .01, 480
outcomes of history.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.gates import quality

RUNS = 1_500
ALPHA_P = 0.05


def differences(
    pairs: int, drop: float, *, seed: int, window: int = 120, history: int = 480, heavy: bool = False
) -> np.ndarray:
    """D of simulated pairs, (RUNS, pairs)."""
    rng = np.random.default_rng(seed)
    arms = []
    for is_candidate in (False, True):
        accuracy = np.clip(rng.normal(0.90, 0.04, (RUNS, pairs)), 0.0, 1.0)
        effect = rng.normal(-drop if is_candidate else 0.0, 0.01, (RUNS, pairs))
        if heavy:
            effect -= 0.40 * (rng.random((RUNS, pairs)) < 0.05)
        later = np.clip(accuracy + effect, 0.0, 1.0)
        x = rng.binomial(history, accuracy) / history
        y = rng.binomial(window, later) / window
        arms.append(y - x)
    return arms[0] - arms[1]


def halted(values: np.ndarray, limit: float) -> float:
    return float((quality.log_process(values).max(axis=-1) >= math.log(limit)).mean())


def passed(values: np.ndarray, margin: float, min_pairs: int) -> float:
    """Share that passes at some look once `min_pairs` have matured."""
    looks = quality.log_process(margin - values)[:, min_pairs - 1 :]
    return float((looks.max(axis=-1) >= -math.log(ALPHA_P)).mean())


def near(measured: float, quoted: float, *, quoted_runs: int = 4_000) -> bool:
    """True when both shares may come from the same truth (99.9 %), rounding of the quoted one included."""
    spread = quoted * (1 - quoted) + 1.0 / quoted_runs
    return abs(measured - quoted) <= 3.29 * math.sqrt(spread * (1 / RUNS + 1 / quoted_runs)) + 0.005


@pytest.mark.parametrize(
    ("pairs", "drop", "limit", "quoted"),
    [
        (10, 0.0, 40, 0.002),
        (10, 0.05, 40, 0.48),
        (10, 0.10, 40, 0.97),
        (10, 0.30, 40, 1.0),
        (20, 0.0, 40, 0.009),
        (20, 0.03, 40, 0.50),
        (20, 0.05, 40, 0.92),
        (50, 0.0, 40, 0.011),
        (50, 0.05, 40, 1.0),
        (50, 0.05, 120, 1.0),
        (20, 0.05, 120, 0.81),
    ],
)
def test_share_of_rollouts_that_halt(pairs: int, drop: float, limit: float, quoted: float) -> None:
    measured = halted(differences(pairs, drop, seed=pairs + int(drop * 1000)), limit)
    assert near(measured, quoted), f"measured {measured:.3f}, quoted {quoted}"


@pytest.mark.parametrize(("drop", "quoted"), [(0.0, 0.009), (0.05, 0.69), (0.30, 1.0)])
def test_devices_that_break_by_themselves_in_either_arm(drop: float, quoted: float) -> None:
    measured = halted(differences(20, drop, seed=5 + int(drop * 100), heavy=True), 40)
    assert near(measured, quoted), f"measured {measured:.3f}, quoted {quoted}"


@pytest.mark.parametrize(("drop", "median"), [(0.30, 6), (0.10, 7), (0.05, 11)])
def test_median_pairs_to_halt(drop: float, median: int) -> None:
    path = quality.log_process(differences(60, drop, seed=int(drop * 100)))
    first = np.argmax(path >= math.log(40), axis=-1) + 1
    assert abs(float(np.median(first)) - median) <= 1


@pytest.mark.parametrize(
    ("pairs", "drop", "quoted"),
    [(25, 0.0, 0.74), (50, 0.0, 0.98), (100, 0.0, 1.0), (25, 0.03, 0.006), (50, 0.03, 0.017)],
)
def test_share_that_proves_three_points(pairs: int, drop: float, quoted: float) -> None:
    measured = passed(differences(pairs, drop, seed=40 + pairs), 0.03, 20)
    assert near(measured, quoted), f"measured {measured:.3f}, quoted {quoted}"


@pytest.mark.parametrize(
    ("drop", "halts", "passes"), [(0.0, None, 0.86), (0.10, 0.66, 0.011), (0.30, 1.0, None)]
)
def test_a_demo_sized_cohort_with_few_outcomes(
    drop: float, halts: float | None, passes: float | None
) -> None:
    """20 pairs, 20 outcomes in the window, 60 of history, margin 10 points."""
    values = differences(20, drop, seed=9, window=20, history=60)
    if halts is not None:
        assert near(halted(values, 40), halts)
    if passes is not None:
        assert near(passed(values, 0.10, 12), passes)


def test_no_effect_stays_below_alpha_at_every_look() -> None:
    """Ville: the share that ever exceeds 1/alpha is at most alpha, whatever the symmetric noise."""
    rng = np.random.default_rng(8)
    for noise in (
        rng.normal(0, 0.3, (RUNS, 200)),
        rng.choice([-2.0, 2.0], (RUNS, 200)),
        rng.laplace(0, 0.02, (RUNS, 200)),
    ):
        assert halted(np.clip(noise, -2, 2), 40) <= 1 / 40 + 3.29 * math.sqrt(1 / 40 / RUNS)


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=30))
def test_no_single_pair_decides_and_the_processes_mirror(values: list[float]) -> None:
    path = quality.harm(values, 0.0)
    steps = np.diff([0.0, *path])
    assert (steps <= math.log(2) + 1e-9).all()
    mirrored = quality.non_inferiority([-d for d in values], 0.0)
    assert mirrored == pytest.approx(path)


def test_five_pairs_cannot_pass_limit_forty() -> None:
    assert quality.harm([2.0] * 5, 0.0)[-1] < math.log(40)
    assert quality.harm([2.0] * 6, 0.0)[-1] >= math.log(40)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 3.5])
def test_a_difference_that_cannot_be_is_an_error(bad: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        quality.harm([0.1, bad], 0.0)


def test_the_interval_brackets_the_drop() -> None:
    values = [float(d) for d in differences(60, 0.05, seed=1)[0]]
    low, high = quality.interval(values, 0.025, ALPHA_P)
    assert low is not None
    assert high is not None
    assert 0.0 < low < 0.05 < high < 0.12
    log_limit = math.log(40)
    assert quality.harm(values, low)[-1] >= log_limit - 1e-9
    assert quality.harm(values, low + 0.001)[-1] < log_limit
    assert quality.non_inferiority(values, high)[-1] >= math.log(20) - 1e-9
    assert quality.interval([], 0.025, ALPHA_P) == (None, None)
    assert quality.interval([0.0, 0.1], 0.025, ALPHA_P) == (None, None)


def test_least_pairs_without_any_difference() -> None:
    assert quality.least_pairs(0.03, ALPHA_P) == 8
    assert quality.least_pairs(0.10, ALPHA_P) == 5
    assert quality.least_pairs(0.0, ALPHA_P) is None
