"""The install-failure gate: exact counts, monotone bounds, rare false halts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.choices import JobState
from ota.gates import failures
from ota.gates.wilson import halts, least_failures, wilson_interval, wilson_lower_bound


@pytest.mark.parametrize(("executed", "failed"), [(5, 3), (10, 4), (20, 7), (50, 12), (100, 20)])
def test_least_failures_that_halt_at_ten_percent(executed: int, failed: int) -> None:
    assert least_failures(executed, 0.10) == failed
    assert halts(failed, executed, 0.10)
    assert not halts(failed - 1, executed, 0.10)


def test_no_device_shows_no_harm_and_four_are_too_few() -> None:
    assert wilson_lower_bound(0, 0) == 0.0
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert not halts(4, 4, 0.10)
    assert least_failures(4, 0.10) is None


@pytest.mark.parametrize(("failed", "executed"), [(-1, 5), (6, 5)])
def test_contradicting_counts_are_an_error(failed: int, executed: int) -> None:
    with pytest.raises(ValueError, match="executed"):
        wilson_lower_bound(failed, executed)


def test_confidence_must_be_a_probability() -> None:
    with pytest.raises(ValueError, match="confidence"):
        wilson_lower_bound(1, 5, confidence=1.0)


@given(st.integers(1, 500), st.data())
def test_the_bounds_hold_the_ratio_and_rise_with_failures(executed: int, data: st.DataObject) -> None:
    failed = data.draw(st.integers(0, executed))
    low, high = wilson_interval(failed, executed)
    assert 0.0 <= low <= failed / executed <= high <= 1.0
    if failed < executed:
        assert wilson_lower_bound(failed + 1, executed) > low


def test_a_true_five_percent_rarely_halts_at_ten() -> None:
    """rollouts.md 12, S1: 0.4 % of groups of 100 halt falsely at 99.9 %, 23 % by the plain error rate."""
    runs, devices = 2_000, 100
    limits = np.array([least_failures(n, 0.10) or devices + 1 for n in range(1, devices + 1)])
    failed = np.random.default_rng(3).random((runs, devices)) < 0.05
    halted = (failed.cumsum(axis=1) >= limits).any(axis=1).mean()
    assert halted <= 0.004 + 3.3 * np.sqrt(0.004 / runs)
    counts = failed.cumsum(axis=1)[:, 19:]
    plain = (counts / np.arange(20, devices + 1) > 0.10).any(axis=1).mean()
    assert plain > 0.15


@pytest.mark.parametrize(
    ("state", "code", "expected"),
    [
        ("self_reverted", "arena_too_small", "model"),
        ("rejected", "arena_too_small", "compat"),
        ("rejected", "trust", "policy"),
        ("failed", "signature", "security"),
        ("failed", "digest", "delivery"),
        ("failed", "load_failed", "model"),
        ("failed", "low_power", "delivery"),
        ("timed_out", "downloading", "delivery"),
        ("timed_out", "trial", ""),
        ("confirmed", "", ""),
        ("deferred", "low_power", ""),
    ],
)
def test_failure_classes(state: str, code: str, expected: str) -> None:
    assert state in JobState
    assert failures.failure_class(state, code) == expected
